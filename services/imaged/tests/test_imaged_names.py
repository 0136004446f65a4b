"""Names of images: tags that move, names that go, and what stays, on a real Redis and a real registry."""

import anyio
import anyio.lowlevel
import pytest

from common.buildcache import REPOSITORY
from common.errors import FailedPreconditionError, InvalidArgumentError, NotFoundError
from common.events.schema import ImageTagged
from imaged.record import ImageRecord
from services.imaged.tests.conftest import Node, RealRegistry, Tools

pytestmark = [pytest.mark.anyio, pytest.mark.integration]


@pytest.fixture
async def one(node: Node, real_registry: RealRegistry, tools: Tools) -> ImageRecord:
    made = tools.image_of([tools.tar_of({"a": b"a"})])
    return await node.pull(real_registry.push("names/one", "v1", made))


@pytest.fixture
async def two(node: Node, real_registry: RealRegistry, tools: Tools) -> ImageRecord:
    made = tools.image_of([tools.tar_of({"b": b"b"})])
    return await node.pull(real_registry.push("names/two", "v1", made))


@pytest.mark.parametrize(
    ("target", "name"),
    [
        ("app", "docker.io/library/app:latest"),
        ("me/app:2", "docker.io/me/app:2"),
        ("example.com:5000/a/b", "example.com:5000/a/b:latest"),
        ("index.docker.io/app", "docker.io/library/app:latest"),
    ],
)
async def test_a_tag_is_one_more_name_normalised_as_docker_does(
    node: Node, one: ImageRecord, target: str, name: str
) -> None:
    tagged = await node.images.catalog.tag(one.id[7:19], target)
    assert tagged.repo_tags == (*one.repo_tags, name)
    assert node.images.catalog.find(target).id == one.id
    assert await node.images.catalog.tag(one.id, target) == tagged
    assert [(e.id, e.reference) for e in await node.events() if isinstance(e, ImageTagged)] == [
        (one.id, name)
    ]


async def test_a_tag_that_is_given_leaves_the_image_that_had_it(
    node: Node, one: ImageRecord, two: ImageRecord
) -> None:
    moved = await node.images.catalog.tag(two.id, one.repo_tags[0])
    assert moved.repo_tags == (*two.repo_tags, *one.repo_tags)
    left = node.images.catalog.find(one.id)
    assert (left.repo_tags, left.repo_digests) == ((), one.repo_digests)


async def test_a_name_has_one_image_whenever_the_caller_leaves_that_moves_it(
    node: Node, one: ImageRecord, two: ImageRecord
) -> None:
    name = one.repo_tags[0]
    for steps in range(60):
        to = (one, two)[steps % 2]
        async with anyio.create_task_group() as group:
            group.start_soon(node.images.catalog.tag, to.id, name)
            for _ in range(steps):
                await anyio.lowlevel.checkpoint()
            group.cancel_scope.cancel()
        owners = [record.id for record in node.images.catalog.all() if name in record.repo_tags]
        assert len(owners) == 1, steps
    await node.images.catalog.tag(two.id, name)
    assert node.images.catalog.find(name).id == two.id


@pytest.mark.parametrize(
    "target",
    [
        "UPPER",
        "app@sha256:" + "a" * 64,
        "a b",
        "",
        "app:",
        "sha256:" + "b" * 64,
        "localhost/slipway-build:key",
    ],
)
async def test_what_is_no_tag_is_refused_and_changes_nothing(
    node: Node, one: ImageRecord, target: str
) -> None:
    with pytest.raises(InvalidArgumentError):
        await node.images.catalog.tag(one.id, target)
    assert node.images.catalog.all() == [one]


async def test_a_name_goes_alone_and_the_image_with_its_last_one(node: Node, one: ImageRecord) -> None:
    await node.images.catalog.tag(one.id, "app:1")
    await node.images.catalog.tag(one.id, "app:2")
    first = await node.images.untag("app:1", force=False, keep_last=False)
    assert (first.names, first.image) == (["docker.io/library/app:1"], None)
    # the last tag of a repository takes that repository's digests along
    second = await node.images.untag(one.repo_tags[0], force=False, keep_last=False)
    assert (second.names, second.image) == (one.names, None)
    assert node.layers.held == set(one.diff_ids)
    last = await node.images.untag("app:2", force=False, keep_last=False)
    assert last.image is not None
    assert (node.images.catalog.all(), node.content.all(), node.layers.held) == ([], [], set())
    verbs = [e.verb for e in await node.events()]
    assert verbs[-5:] == ["tagged", "tagged", "untagged", "untagged", "removed"]


async def test_an_id_takes_all_names_of_one_repository_and_asks_about_several(
    node: Node, one: ImageRecord
) -> None:
    await node.images.catalog.tag(one.id, one.repo_tags[0].replace(":v1", ":v2"))
    await node.images.catalog.tag(one.id, "app")
    with pytest.raises(FailedPreconditionError, match=r"docker\.io/library/app:latest"):
        await node.images.untag(one.id, force=False, keep_last=False)
    await node.images.untag("app", force=False, keep_last=False)
    gone = await node.images.untag(one.id[:19], force=False, keep_last=False)
    assert len(gone.names) == 3
    assert node.images.catalog.all() == []


async def test_a_name_in_the_build_cache_is_no_other_repository(node: Node, one: ImageRecord) -> None:
    cached = f"{REPOSITORY}:key"
    await node.images.catalog.keep(one, ImageTagged(id=one.id, reference=cached), tags=(cached,))
    gone = await node.images.untag(one.id, force=False, keep_last=False)
    assert set(gone.names) == {*one.names, cached}
    assert node.images.catalog.all() == []


async def test_an_image_that_a_container_uses_stays_unless_forced(
    node: Node, tools: Tools, one: ImageRecord
) -> None:
    node.layers.snapshots.append(tools.stack(list(one.diff_ids)))
    await node.images.catalog.tag(one.id, "app")
    await node.images.untag("app", force=False, keep_last=False)
    with pytest.raises(FailedPreconditionError, match="container"):
        await node.images.untag(one.repo_tags[0], force=False, keep_last=False)
    assert node.images.catalog.find(one.id).repo_tags == one.repo_tags
    forced = await node.images.untag(one.repo_tags[0], force=True, keep_last=False)
    assert forced.image is not None


async def test_an_image_may_stay_without_a_name(node: Node, one: ImageRecord) -> None:
    await node.images.untag(one.id, force=False, keep_last=True)
    left = node.images.catalog.find(one.id)
    assert (left.names, node.layers.held) == ([], set(one.diff_ids))
    with pytest.raises(NotFoundError):
        await node.images.untag(one.repo_tags[0], force=False, keep_last=False)


async def test_many_who_tag_at_once_leave_one_owner(node: Node, one: ImageRecord, two: ImageRecord) -> None:
    async with anyio.create_task_group() as group:
        for record in [one, two] * 8:
            group.start_soon(node.images.catalog.tag, record.id, "contested")
    owners = [r for r in node.images.catalog.all() if "docker.io/library/contested:latest" in r.repo_tags]
    assert len(owners) == 1
