"""Which images go and why: the plan as a table, and its execution on a real Redis and a real registry."""

import hashlib
from pathlib import Path

import anyio
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.digest import Digest
from common.errors import InvalidArgumentError
from imaged.collection import Collector, Rules, Sizes, plan
from imaged.record import ImageRecord, LayerRecord

DAY = 86_400
NOW_NS = 100 * DAY * 10**9


def image(name: str, days: float, *layers: str, tags: tuple[str, ...] = ()) -> ImageRecord:
    """An image that came so many days ago; its config and each layer have 10 bytes as blob, a layer 100 unpacked."""
    return ImageRecord(
        id=name,
        manifest_digest=f"m-{name}",
        config_size_bytes=10,
        repo_tags=tags,
        diff_ids=tuple(f"d-{layer}" for layer in layers),
        layers=tuple(LayerRecord(digest=f"b-{layer}", size_bytes=10, media_type="") for layer in layers),
        pulled_at_ns=NOW_NS - int(days * DAY * 10**9),
    )


def sizes(images: list[ImageRecord]) -> Sizes:
    blobs = {digest: 10 for record in images for digest in record.blobs}
    return Sizes(blobs, {diff_id: 100 for record in images for diff_id in record.diff_ids})


def decided(
    images: list[ImageRecord], rules: Rules, protected: dict[str, str] | None = None
) -> dict[str, str]:
    """The verdicts: + goes, with the bytes freed, or why it stays."""
    found = plan(images, rules, sizes(images), protected or {}, at_ns=NOW_NS)
    freed = {v.image.id: f"+{v.frees_blob_bytes}/{v.frees_layer_bytes}" for v in found if v.goes}
    return {v.image.id: freed.get(v.image.id) or v.why for v in found}


IMAGES = [
    image("old", 30, "base", "o", tags=("reg/app:1",)),
    image("mid", 10, "base", "m", tags=("reg/app:2",)),
    image("new", 1, "base", "n", tags=("reg/app:3", "reg/other:1")),
    image("none", 20, "x"),
]
ALL = Rules(tagged=True)


@pytest.mark.parametrize(
    ("rules", "going"),
    [
        (Rules(), {"none": "+20/100"}),
        (ALL, {"old": "+20/100", "none": "+20/100", "mid": "+20/100", "new": "+30/200"}),
        (Rules(tagged=True, older_than_s=15 * DAY), {"old": "+20/100", "none": "+20/100"}),
        (Rules(older_than_s=25 * DAY), {}),
        (Rules(tagged=True, keep_last=1), {"old": "+20/100", "none": "+20/100", "mid": "+20/100"}),
        (Rules(tagged=True, keep_last=2), {"old": "+20/100", "none": "+20/100"}),
        (Rules(tagged=True, max_bytes=500), {"old": "+20/100"}),
        (Rules(tagged=True, max_bytes=10_000), {}),
        (
            Rules(tagged=True, max_bytes=1),
            {"old": "+20/100", "none": "+20/100", "mid": "+20/100", "new": "+30/200"},
        ),
    ],
)
def test_rules_choose(rules: Rules, going: dict[str, str]) -> None:
    found = decided(IMAGES, rules)
    assert {key: why for key, why in found.items() if why.startswith("+")} == going
    assert list(found) == ["old", "none", "mid", "new"]


@pytest.mark.parametrize(
    ("rules", "key", "why"),
    [
        (Rules(), "old", "has the name reg/app:1"),
        (Rules(tagged=True, older_than_s=2 * DAY), "new", "came 1 d ago, which is less than 2 d"),
        (Rules(tagged=True, keep_last=2), "mid", "is among the 2 newest of docker.io/reg/app"),
        (Rules(tagged=True, max_bytes=10_000), "old", "620 bytes are within the 10000 allowed"),
    ],
)
def test_what_stays_says_why(rules: Rules, key: str, why: str) -> None:
    total = sum(sizes(IMAGES).blobs.values()) + sum(sizes(IMAGES).layers.values())
    assert decided(IMAGES, rules)[key] == why.replace("620", str(total))


def test_what_goes_says_why() -> None:
    verdicts = plan(IMAGES, ALL, sizes(IMAGES), {}, at_ns=NOW_NS)
    assert [v.why for v in verdicts][:2] == ["not used, came 30 d ago", "has no name, came 20 d ago"]


@given(
    protected=st.sets(st.sampled_from([r.id for r in IMAGES])),
    tagged=st.booleans(),
    days=st.integers(0, 40),
    keep=st.integers(0, 4),
    most=st.integers(0, 900),
)
def test_no_rule_takes_what_is_protected_and_what_is_freed_adds_up(
    protected, tagged, days, keep, most
) -> None:
    rules = Rules(tagged, days * DAY, keep, most)
    verdicts = plan(IMAGES, rules, sizes(IMAGES), dict.fromkeys(protected, "pinned"), at_ns=NOW_NS)
    assert not protected & {v.image.id for v in verdicts if v.goes}
    left = [v.image for v in verdicts if not v.goes]
    freed = sum(v.frees_blob_bytes + v.frees_layer_bytes for v in verdicts)
    held = sizes(left)
    whole = sizes(IMAGES)
    before = sum(whole.blobs.values()) + sum(whole.layers.values())
    assert before - freed == sum(held.blobs.values()) + sum(held.layers.values())


def collector(node) -> Collector:
    return Collector(node.images.catalog, node.images.leases, node.content, node.layers, node.images.pin_of)


@pytest.fixture
async def three(node, real_registry, tools):
    """Three images with a layer in common: pinned, and two that are not."""
    base = tools.tar_of({"base": b"b" * 1000})
    return [
        await node.pull(
            real_registry.push(f"gc/{name}", "v1", tools.image_of([base, tools.tar_of({name: b"x" * 500})]))
        )
        for name in ("pause", "one", "two")
    ]


@pytest.mark.anyio
@pytest.mark.integration
async def test_collection_frees_at_once_what_only_those_images_had(node, tools, three) -> None:
    pinned, _, two = three
    node.layers.snapshots.append(tools.stack(list(two.diff_ids)))
    dry = await collector(node).collect(ALL, dry_run=True)
    assert [v.goes for v in dry] == [False, True, False]
    assert ["pinned" in dry[0].why, "container" in dry[2].why] == [True, True]
    assert len(node.images.catalog.all()) == 3
    used = node.images.usage()[0]
    done = await collector(node).collect(ALL, dry_run=False)
    assert [v.goes for v in done] == [False, True, False]
    assert {r.id for r in node.images.catalog.all()} == {pinned.id, two.id}
    assert used - node.images.usage()[0] == done[1].frees_blob_bytes
    assert done[1].frees_layer_bytes == 1000
    assert node.layers.held == {*pinned.diff_ids, *two.diff_ids}


@pytest.mark.anyio
@pytest.mark.integration
async def test_what_is_under_way_and_what_changed_meanwhile_stays(node, three) -> None:
    _, one, _ = three
    with node.images.leases.hold() as needs:
        needs.add(one)
        found = {v.image.id: v for v in await collector(node).collect(ALL, dry_run=False)}
        assert (found[one.id].goes, found[one.id].why) == (False, "work is under way with it")
    assert node.images.catalog.find(one.id) == one
    seen = msgspec.structs.replace(one, revision=one.revision)
    await node.images.catalog.tag(one.id, "wanted")
    assert not await node.images.catalog.remove_unchanged(seen)
    assert node.images.catalog.find("wanted").id == one.id


@pytest.mark.anyio
@pytest.mark.integration
async def test_pulls_and_collections_at_once_leave_whole_images(node, real_registry, tools, three) -> None:
    names = [record.repo_tags[0] for record in three]

    async def pull_again(name: str) -> None:
        for _ in range(5):
            await node.pull(name)

    async def collect_again() -> None:
        for _ in range(10):
            await collector(node).collect(ALL, dry_run=False)

    async with anyio.create_task_group() as group:
        for name in names:
            group.start_soon(pull_again, name)
        group.start_soon(collect_again)
    for record in node.images.catalog.all():
        assert node.layers.held >= set(record.diff_ids)
        assert all(node.content.has(digest) for digest in (record.id, *record.documents))


@pytest.mark.anyio
@pytest.mark.integration
@pytest.mark.parametrize("rules", [Rules(older_than_s=-1), Rules(keep_last=-1), Rules(max_bytes=-1)])
async def test_a_negative_rule_is_refused(node, rules: Rules) -> None:
    with pytest.raises(InvalidArgumentError, match="negative"):
        await collector(node).collect(rules, dry_run=True)


async def test_a_blob_that_cannot_be_deleted_ends_no_collection(node) -> None:
    digest = Digest.parse(f"sha256:{hashlib.sha256(b'x').hexdigest()}")
    await node.content.put(digest, b"x")
    path = Path(node.content.path(str(digest)))
    path.unlink()
    path.mkdir()
    await node.images.leases.collect({str(digest)}, set())
    assert not node.content.has(str(digest))
