"""Which images go and why: the plan as a table, and its execution on a real Redis and a real registry."""

import errno
import hashlib
import os
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import anyio
import anyio.lowlevel
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.clock import now_ns
from common.digest import Digest
from common.errors import (
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    ResourceExhaustedError,
    SlipwayError,
)
from common.sys import linux
from imaged import reconcile
from imaged.adapters import content_local
from imaged.catalog import MAX_LEASES
from imaged.collection import Collector, Leftovers, Rules, Sizes, plan
from imaged.manifest import Descriptor
from imaged.record import ImageRecord, LayerRecord
from imaged.settings import Settings
from services.imaged.tests.conftest import BadRegistry, Node, RealRegistry, Tools
from tests.support.eventually import until

DAY = 86_400
NOW_NS = 100 * DAY * 10**9


def image(name: str, days: float, *layers: str, tags: tuple[str, ...] = (), used: float = 0.0) -> ImageRecord:
    """An image that came so many days ago, and was last used so many, if ever; its config and each layer have 10 bytes as blob, a layer 100 unpacked."""
    return ImageRecord(
        id=name,
        manifest_digest=f"m-{name}",
        config_size_bytes=10,
        repo_tags=tags,
        diff_ids=tuple(f"d-{layer}" for layer in layers),
        layers=tuple(LayerRecord(digest=f"b-{layer}", size_bytes=10, media_type="") for layer in layers),
        pulled_at_ns=NOW_NS - int(days * DAY * 10**9),
        used_at_ns=NOW_NS - int(used * DAY * 10**9) if used else 0,
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
        (
            Rules(tagged=True, older_than_s=2 * DAY),
            "new",
            "came 1 d ago, not used since, which is less than 2 d",
        ),
        (Rules(tagged=True, keep_last=2), "mid", "is among the 2 newest of docker.io/reg/app"),
        (Rules(tagged=True, max_bytes=10_000), "old", "620 bytes are within the 10000 allowed"),
    ],
)
def test_what_stays_says_why(rules: Rules, key: str, why: str) -> None:
    total = sum(sizes(IMAGES).blobs.values()) + sum(sizes(IMAGES).layers.values())
    assert decided(IMAGES, rules)[key] == why.replace("620", str(total))


def test_what_only_builds_named_goes_when_asked_for() -> None:
    cached, named = ("localhost/slipway-build:1",), ("localhost/slipway-build:2", "reg/app:1")
    built = [image("step", 3, "s", tags=cached), image("app", 2, "a", tags=named), image("none", 1, "n")]
    assert decided(built, Rules(build_caches=True)) == {
        "step": "+20/100",
        "app": "has the name reg/app:1",
        "none": "+20/100",
    }
    assert decided(built, Rules())["step"] == "has the name localhost/slipway-build:1"
    assert "less than 5 d" in decided(built, Rules(build_caches=True, older_than_s=5 * DAY))["step"]


def test_what_goes_says_why() -> None:
    verdicts = plan(IMAGES, ALL, sizes(IMAGES), {}, at_ns=NOW_NS)
    assert [v.why for v in verdicts][:2] == [
        "came 30 d ago, not used since",
        "has no name, came 20 d ago, not used since",
    ]


def test_age_counts_from_the_last_use() -> None:
    images = [
        image("old and used", 30, "o", tags=("reg/app:1",), used=2),
        image("young", 10, "y", tags=("reg/app:2",)),
        image("nameless", 40, "n", used=9),
    ]
    found = decided(images, Rules(tagged=True, older_than_s=5 * DAY))
    assert found == {
        "young": "+20/100",
        "nameless": "+20/100",
        "old and used": "last used 2 d ago, which is less than 5 d",
    }
    # the longest unused goes first, and says so
    verdicts = plan(images, Rules(tagged=True, max_bytes=300), sizes(images), {}, at_ns=NOW_NS)
    assert [(v.image.id, v.goes) for v in verdicts] == [
        ("young", True),
        ("nameless", False),
        ("old and used", False),
    ]
    assert plan(images, ALL, sizes(images), {}, at_ns=NOW_NS)[1].why == "has no name, last used 9 d ago"


@given(
    protected=st.sets(st.sampled_from([r.id for r in IMAGES])),
    tagged=st.booleans(),
    days=st.integers(0, 40),
    keep=st.integers(0, 4),
    most=st.integers(0, 900),
)
def test_no_rule_takes_what_is_protected_and_what_is_freed_adds_up(
    protected: set[str], tagged: bool, days: int, keep: int, most: int
) -> None:
    rules = Rules(tagged=tagged, older_than_s=days * DAY, keep_last=keep, max_bytes=most)
    verdicts = plan(IMAGES, rules, sizes(IMAGES), dict.fromkeys(protected, "pinned"), at_ns=NOW_NS)
    assert not protected & {v.image.id for v in verdicts if v.goes}
    left = [v.image for v in verdicts if not v.goes]
    freed = sum(v.frees_blob_bytes + v.frees_layer_bytes for v in verdicts)
    held = sizes(left)
    whole = sizes(IMAGES)
    before = sum(whole.blobs.values()) + sum(whole.layers.values())
    assert before - freed == sum(held.blobs.values()) + sum(held.layers.values())


async def refused_pull(node: Node, bad_registry: BadRegistry, tools: Tools) -> dict[str, int]:
    """Pull an image that is refused once one layer of two is here and unpacked; the whole blobs that it leaves, with their bytes."""
    bad = tools.image_of([tools.tar_of({"good": os.urandom(50_000)}), tools.tar_of({"bad": b"x"})])
    before = set(node.content.all())
    good = bad.layers[0]["digest"]

    def blob(h: BaseHTTPRequestHandler) -> None:
        if h.path.endswith(good):
            tools.reply(h, 200, bad.blobs[good])
            return
        bad_registry.release.wait(10)
        tools.reply(h, 200, bytes(bad.layers[1]["size"]))

    bad_registry.serve(bad, blob)
    async with anyio.create_task_group() as group:

        async def release() -> None:
            await until(lambda: node.content.has(good), "a whole layer")
            bad_registry.release.set()

        group.start_soon(release)
        with pytest.raises(SlipwayError):
            await node.pull(f"{bad_registry.host}/gc/bad:v1")
    left = set(node.content.all()) - before
    assert left >= {good, bad.config_digest, bad.digest}
    return {digest: size_of(node, digest) for digest in left}


def size_of(node: Node, digest: str) -> int:
    size = node.content.size(digest)
    assert size is not None
    return size


def collector(node: Node) -> Collector:
    return Collector(node.images.catalog, node.images.leases, node.content, node.layers, node.images.pin_of)


@pytest.fixture
async def three(node: Node, real_registry: RealRegistry, tools: Tools) -> list[ImageRecord]:
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
async def test_collection_frees_at_once_what_only_those_images_had(
    node: Node, tools: Tools, three: list[ImageRecord]
) -> None:
    pinned, _, two = three
    node.layers.snapshots.append(tools.stack(list(two.diff_ids)))
    dry = await collector(node).collect(ALL, dry_run=True)
    assert [v.goes for v in dry] == [False, True, False]
    assert ["pinned" in dry[0].why, "container" in dry[2].why] == [True, True]
    assert len(node.images.catalog.all()) == 3
    used = (await node.images.usage())[0]
    done = await collector(node).collect(ALL, dry_run=False)
    assert [v.goes for v in done] == [False, True, False]
    assert {r.id for r in node.images.catalog.all()} == {pinned.id, two.id}
    assert used - (await node.images.usage())[0] == done[1].frees_blob_bytes
    assert done[1].frees_layer_bytes == 1000
    assert node.layers.held == {*pinned.diff_ids, *two.diff_ids}


@pytest.mark.anyio
@pytest.mark.integration
async def test_what_a_refused_pull_left_costs_no_image_and_goes_when_asked(
    node: Node, bad_registry: BadRegistry, tools: Tools, three: list[ImageRecord]
) -> None:
    needed = sum(size_of(node, d) for d in set().union(*(r.blobs for r in three)))
    fits = Rules(tagged=True, max_bytes=needed + 1000 * len(node.layers.held))
    left = await refused_pull(node, bad_registry, tools)
    assert not [v for v in await collector(node).collect(fits, dry_run=False) if v.goes]
    assert (await collector(node).sweep(3600, dry_run=False)) == Leftovers(0, 0, 0, 0)
    # and the empty file of what was refused
    found = Leftovers(len(left) + 1, sum(left.values()), 1, 1000)
    assert await collector(node).sweep(0, dry_run=True) == found
    used = (await node.images.usage())[0]
    assert await collector(node).sweep(0, dry_run=False) == found
    assert used - (await node.images.usage())[0] == found.blob_bytes
    assert node.layers.held == {diff_id for record in three for diff_id in record.diff_ids}
    assert await collector(node).sweep(0, dry_run=True) == Leftovers(0, 0, 0, 0)


@pytest.mark.anyio
@pytest.mark.integration
async def test_a_sweep_leaves_a_running_pull_alone(
    node: Node, bad_registry: BadRegistry, tools: Tools
) -> None:
    image = tools.image_of([tools.tar_of({"a": os.urandom(50_000)}), tools.tar_of({"b": b"x"})])
    bad_registry.serve_but(image, image.layers[1]["digest"])
    async with anyio.create_task_group() as group:
        group.start_soon(node.pull, f"{bad_registry.host}/gc/slow:v1")
        await until(lambda: node.content.has(image.layers[0]["digest"]), "a whole layer")
        assert await collector(node).sweep(-1, dry_run=False) == Leftovers(0, 0, 0, 0)
        bad_registry.release.set()
    assert all(node.content.has(digest) for digest in (image.digest, *image.blobs))


@pytest.mark.anyio
@pytest.mark.integration
@pytest.mark.parametrize(
    ("chosen", "gone"),
    [
        (Settings(), []),
        (Settings(gc_max_age_s=3 * DAY), ["one", "two"]),
        (Settings(gc_max_age_s=30 * DAY), []),
        (Settings(gc_max_age_s=3 * DAY, gc_keep_last=1), ["one"]),
        (Settings(gc_max_bytes=1), ["one", "two"]),
        (Settings(gc_max_bytes=1 << 30), []),
    ],
)
async def test_images_go_by_the_settings(
    node: Node, real_registry: RealRegistry, tools: Tools, chosen: Settings, gone: list[str]
) -> None:
    """Three of one repository, the last of which is pinned, were not used for a week; and what a pull left two days ago."""
    named = {}
    for name, path in (("one", "app"), ("two", "app"), ("pinned", "pause")):
        made = tools.image_of([tools.tar_of({name: b"x" * 500})])
        named[name] = await node.pull(real_registry.push(f"gc/{path}", name, made))
    for record in named.values():
        await aged(node, record)
    for age_s, body in ((2 * DAY, b"old"), (0, b"young")):
        digest = Digest.parse(tools.sha256(body))
        await node.content.put(digest, body)
        os.utime(node.content.path(str(digest)), (time.time() - age_s,) * 2)
    node.layers.held.add("sha256:orphan")
    async with anyio.create_task_group() as group:
        group.start_soon(reconcile.sweep_for_ever, node.images.leases, collector(node), chosen)
        await until(lambda: not node.content.has(tools.sha256(b"old")), "a sweep")
        group.cancel_scope.cancel()
    left = {r.id for r in node.images.catalog.all()}
    assert sorted(name for name, record in named.items() if record.id not in left) == gone
    assert node.content.has(tools.sha256(b"young"))
    assert "sha256:orphan" not in node.layers.held


async def aged(node: Node, *records: ImageRecord) -> None:
    """Make images look as if they came, and were last used, a week ago."""
    past = now_ns() - 7 * DAY * 10**9
    for record in records:
        await node.records.update(
            record.id, lambda r: msgspec.structs.replace(r, pulled_at_ns=past, used_at_ns=past)
        )


@pytest.mark.anyio
@pytest.mark.integration
async def test_a_use_a_pull_and_a_container_make_an_image_young_again(
    node: Node, tools: Tools, three: list[ImageRecord]
) -> None:
    pinned, one, two = three
    week = Rules(tagged=True, older_than_s=3 * DAY)
    await aged(node, *three)
    dry = await collector(node).collect(week, dry_run=True)
    assert [v.goes for v in dry if v.image.id != pinned.id] == [True, True]
    await node.images.get(one.id, used=False)
    await node.pull(two.repo_tags[0])
    assert {v.image.id for v in await collector(node).collect(week, dry_run=True) if v.goes} == {one.id}
    await node.images.get(one.id, used=True)
    with anyio.fail_after(5):
        while node.records.get(one.id).used_at_ns < now_ns() - DAY * 10**9:
            await anyio.lowlevel.checkpoint()
    assert not [v for v in await collector(node).collect(week, dry_run=True) if v.goes]
    # as long as a container stands on it an image is used: its age begins when that is gone
    await aged(node, one, two)
    node.layers.snapshots.append(tools.stack(list(one.diff_ids)))
    await collector(node).note_use()
    node.layers.snapshots.clear()
    found = {v.image.id: v for v in await collector(node).collect(week, dry_run=False)}
    assert (found[one.id].goes, found[two.id].goes) == (False, True)
    assert found[one.id].why == "last used 0 s ago, which is less than 3 d"


@pytest.mark.anyio
@pytest.mark.integration
async def test_a_lease_holds_an_image_for_its_time(node: Node, three: list[ImageRecord]) -> None:
    pinned, one, two = three
    images = node.images
    await images.lease(one.repo_tags[0], "backup", 3600)
    await images.lease(one.repo_digests[0], "scan", 60)
    await images.lease(two.id, "backup", 3600)
    await images.lease(two.id, "backup", 0)
    found = {v.image.id: v for v in await collector(node).collect(ALL, dry_run=False)}
    assert (found[one.id].goes, found[one.id].why) == (False, "the lease 'backup' holds it for 59 min more")
    assert found[two.id].goes
    with pytest.raises(FailedPreconditionError, match="the lease 'backup' holds it"):
        await images.untag(one.id, force=False, keep_last=False)
    await images.lease(one.id, "backup", 0)
    held = await images.lease(one.id, "scan", 1e-9)
    assert held.lease_at(now_ns()) == ""
    assert {v.image.id for v in await collector(node).collect(ALL, dry_run=False) if v.goes} == {one.id}
    for name, seconds, error in (
        ("a b", 1, InvalidArgumentError), ("", 1, InvalidArgumentError), ("x", -1, InvalidArgumentError),
        ("x", float("nan"), InvalidArgumentError), ("x", 1e300, InvalidArgumentError),
    ):  # fmt: skip
        with pytest.raises(error):
            await images.lease(pinned.id, name, seconds)
    for number in range(MAX_LEASES):
        await images.lease(pinned.id, f"l{number}", 3600)
    with pytest.raises(ResourceExhaustedError, match="64 leases"):
        await images.lease(pinned.id, "more", 3600)
    with pytest.raises(NotFoundError):
        await images.lease("absent", "x", 1)


@pytest.mark.anyio
@pytest.mark.integration
async def test_what_is_under_way_and_what_changed_meanwhile_stays(
    node: Node, three: list[ImageRecord]
) -> None:
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
async def test_pulls_and_collections_at_once_leave_whole_images(
    node: Node, real_registry: RealRegistry, tools: Tools, three: list[ImageRecord]
) -> None:
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
async def test_a_negative_rule_is_refused(node: Node, rules: Rules) -> None:
    with pytest.raises(InvalidArgumentError, match="negative"):
        await collector(node).collect(rules, dry_run=True)


async def test_a_blob_that_cannot_be_deleted_ends_no_collection_and_goes_with_a_later_sweep(
    node: Node,
) -> None:
    digest = Digest.parse(f"sha256:{hashlib.sha256(b'x').hexdigest()}")
    await node.content.put(digest, b"x")
    path = Path(node.content.path(str(digest)))
    path.unlink()
    path.mkdir()
    await node.images.leases.collect({str(digest)}, set())
    assert node.content.has(str(digest))
    path.rmdir()
    path.write_bytes(b"x")
    assert list(await node.content.sweep(set, 0)) == [str(digest)]
    assert not path.exists()


async def test_a_disk_that_fails_ends_no_sweep(
    node: Node, tools: Tools, monkeypatch: pytest.MonkeyPatch
) -> None:
    unlink, stat = Path.unlink, Path.stat
    failed: list[Path] = []
    for body in (b"1", b"22"):
        async with node.content.ingest(Descriptor(tools.sha256(body), 8)):
            pass
    unseen = node.content.ingests / tools.sha256(b"1").replace(":", "-")

    def no_look(path: Path, *, follow_symlinks: bool = True) -> os.stat_result:
        if path.name == f"{unseen.name}.part":
            raise OSError(errno.EUCLEAN, "structure needs cleaning", str(path))
        return stat(path, follow_symlinks=follow_symlinks)

    def unwilling(path: Path, *, missing_ok: bool = False) -> None:
        if path.suffix == ".part" and len(failed) < 2:
            failed.append(path)
            raise OSError(errno.EROFS, "read-only file system", str(path))
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", unwilling)
    monkeypatch.setattr(Path, "stat", no_look)
    monkeypatch.setattr(reconcile, "EVERY_S", 0.01)
    chosen = Settings(partial_max_age_s=0.001)
    async with anyio.create_task_group() as group:
        group.start_soon(reconcile.sweep_for_ever, node.images.leases, collector(node), chosen)
        await until(lambda: len(list(node.content.ingests.iterdir())) == 1, "a sweep that goes well")
        group.cancel_scope.cancel()
    assert len(failed) == 2


async def test_a_disk_that_cannot_be_listed_ends_no_making_of_room(
    node: Node, tools: Tools, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = tools.sha256(b"1")
    await node.content.put(Digest.parse(digest), b"1")
    monkeypatch.setattr(content_local, "SCARCE", 2.0)

    def unlisted(path: Path, pattern: str) -> Iterator[Path]:
        raise OSError(errno.EUCLEAN, "structure needs cleaning", str(path / pattern))

    with monkeypatch.context() as failing:
        failing.setattr(Path, "glob", unlisted)
        await node.images.leases.make_room()
        assert node.content.has(digest)
    await node.images.leases.make_room()
    assert not node.content.has(digest)


@pytest.fixture
def small_disk(node: Node) -> Iterator[None]:
    """The content store on a file system of 3 MB."""
    root = node.content.ingests.parent
    linux.mount("tmpfs", str(root), "tmpfs", 0, "size=3m")
    for name in ("blobs/sha256", "ingest", "images"):
        (root / name).mkdir(parents=True)
    yield
    linux.umount(str(root), linux.MNT_DETACH)


@pytest.mark.root
@pytest.mark.usefixtures("small_disk")
async def test_a_pull_that_filled_the_disk_leaves_room(
    node: Node, bad_registry: BadRegistry, tools: Tools
) -> None:
    fits, fills = (tools.tar_of({"f": os.urandom(size)}) for size in (500_000, 4_000_000))
    made = tools.image_of([fits, fills], compression="none")
    bad_registry.serve(made)
    with pytest.raises(ResourceExhaustedError, match="No space left"):
        await node.pull(f"{bad_registry.host}/some/app:v1")
    await until(lambda: not any(node.content.ingests.iterdir()), "room")
    assert (node.content.all(), await node.content.usage()) == ([], (0, 0))


@pytest.mark.root
@pytest.mark.usefixtures("small_disk")
async def test_what_nobody_needs_may_be_young_to_go_when_there_is_little_room(
    node: Node, tools: Tools
) -> None:
    bodies = [os.urandom(1_400_000), os.urandom(1_500_000)]
    await node.content.put(Digest.parse(tools.sha256(bodies[0])), bodies[0])
    await node.images.leases.make_room()
    assert node.content.has(tools.sha256(bodies[0]))
    await node.content.put(Digest.parse(tools.sha256(bodies[1])), bodies[1])
    await node.images.leases.make_room()
    assert node.content.all() == []
