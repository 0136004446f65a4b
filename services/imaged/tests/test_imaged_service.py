"""The image service on a real Redis and a real registry; layers are unpacked in memory."""

import gzip
import json
from pathlib import Path

import anyio
import pytest

from common.errors import (
    DataLossError,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
    SlipwayError,
    UnavailableError,
)
from imaged import reconcile
from imaged.ports import Credentials
from services.imaged.tests.conftest import BadRegistry, Node, RealRegistry, Tools
from tests.support.eventually import until

pytestmark = [pytest.mark.anyio, pytest.mark.integration]
NOBODY = Credentials()


def two_layers(tools: Tools, name: str = "a") -> list[bytes]:
    return [tools.tar_of({"base": b"base" * 1000}), tools.tar_of({name: name.encode() * 5000})]


@pytest.mark.parametrize(
    ("compression", "docker"), [("gzip", False), ("zstd", False), ("none", False), ("gzip", True)]
)
async def test_image_is_pulled_and_found_by_all_its_names(
    node: Node, real_registry: RealRegistry, tools: Tools, compression: str, docker: bool
) -> None:
    made = tools.image_of(two_layers(tools), compression=compression, docker=docker)
    name = real_registry.push(f"types/{compression}{docker}".lower(), "v1", made)
    record = await node.pull(name)
    assert record.id == made.config_digest
    assert record.repo_tags == (name,)
    assert record.repo_digests == (f"{name.rpartition(':')[0]}@{made.digest}",)
    assert list(record.diff_ids) == made.diff_ids
    assert record.size_bytes == sum(len(b) for b in made.blobs.values())
    assert node.layers.held == set(made.diff_ids)
    for text in (name, record.repo_digests[0], record.id, record.id[7:], record.id[7:19], record.id[:15]):
        assert node.images.catalog.find(text) == record
    assert (await node.images.usage())[0] == record.size_bytes + len(made.manifest)
    assert [type(e).__name__ for e in await node.events()] == ["PullStarted", "ImagePulled"]


@pytest.mark.parametrize("docker", [False, True])
async def test_index_leads_to_the_image_of_this_platform(
    node: Node, real_registry: RealRegistry, tools: Tools, docker: bool
) -> None:
    mine = tools.image_of(two_layers(tools), docker=docker)
    other = tools.image_of(two_layers(tools, "b"), docker=docker)
    here = {"os": "linux", "architecture": node.images._platform.architecture}
    path = f"index/{docker}".lower()
    for tag, image in (("mine", mine), ("other", other)):
        real_registry.push(path, tag, image)
    body, kind = tools.index_of(
        (other, {"os": "linux", "architecture": "s390x"}), (mine, here), docker=docker
    )
    name = real_registry.put_manifest(path, "all", body, kind)
    record = await node.pull(name)
    assert record.id == mine.config_digest
    assert record.manifest_digest == mine.digest
    assert record.repo_digests[0].endswith(tools.sha256(body))
    by_digest = await node.pull(record.repo_digests[0])
    assert by_digest.names == record.names


async def test_present_tag_is_resolved_and_nothing_is_fetched(
    node: Node, bad_registry: BadRegistry, tools: Tools
) -> None:
    made = tools.image_of(two_layers(tools))
    bad_registry.serve(made)
    first = await node.pull(f"{bad_registry.host}/app:v1")
    bad_registry.requests.clear()
    again = await node.pull(f"{bad_registry.host}/app:v1")
    assert (again.id, again.pulled_at_ns) == (first.id, first.pulled_at_ns)
    assert [r[0] for r in bad_registry.requests if "/manifests/v1" in r[1]] == ["HEAD"]
    assert len(bad_registry.requests) == 1


async def test_tag_moves_to_the_new_image(node: Node, real_registry: RealRegistry, tools: Tools) -> None:
    old = await node.pull(real_registry.push("moving", "v1", tools.image_of(two_layers(tools, "old"))))
    new = await node.pull(real_registry.push("moving", "v1", tools.image_of(two_layers(tools, "new"))))
    assert old.id != new.id
    assert node.images.catalog.find(old.repo_tags[0]).id == new.id
    left = node.images.catalog.find(old.id)
    assert (left.repo_tags, left.repo_digests) == ((), old.repo_digests)
    # the base layer was unpacked once
    assert node.layers.applied.count(new.diff_ids[0]) == 1


async def test_removal_leaves_what_others_need(node: Node, real_registry: RealRegistry, tools: Tools) -> None:
    one = await node.pull(real_registry.push("rm", "one", tools.image_of(two_layers(tools, "one"))))
    two = await node.pull(real_registry.push("rm", "two", tools.image_of(two_layers(tools, "two"))))
    await node.images.remove(one.repo_tags[0])
    await node.images.remove(one.repo_tags[0])
    assert node.layers.held == set(two.diff_ids)
    assert set(node.content.all()) == two.blobs
    with pytest.raises(NotFoundError):
        node.images.catalog.find(one.id)
    await node.images.remove(two.id[:20])
    assert (node.content.all(), await node.images.usage(), node.layers.held) == ([], (0, 0), set())
    assert type((await node.events())[-1]).__name__ == "ImageRemoved"


async def test_callers_share_a_pull_and_may_leave_it(
    node: Node, bad_registry: BadRegistry, tools: Tools
) -> None:
    made = tools.image_of(two_layers(tools))
    bad_registry.serve(made)
    name = f"{bad_registry.host}/app:v1"
    node.layers.gate = anyio.Event()
    results = []

    async def caller() -> None:
        results.append((await node.pull(name)).id)

    with anyio.move_on_after(0.3):
        await caller()
    assert results == []
    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(caller)
        await anyio.wait_all_tasks_blocked()
        node.layers.gate.set()
    assert results == [made.config_digest] * 3
    assert len([r for r in bad_registry.requests if "/blobs/" in r[1]]) == 3


async def test_a_layer_is_unpacked_while_another_still_comes(
    node: Node, bad_registry: BadRegistry, tools: Tools
) -> None:
    made = tools.image_of(two_layers(tools))
    bad_registry.serve_but(made, made.layers[1]["digest"])
    async with anyio.create_task_group() as group:
        group.start_soon(node.pull, f"{bad_registry.host}/app:v1")
        await until(lambda: node.layers.applied == made.diff_ids[:1], "the first layer alone")
        bad_registry.release.set()
    assert node.layers.applied == made.diff_ids


async def test_same_blob_of_two_pulls_is_fetched_once(
    node: Node, bad_registry: BadRegistry, tools: Tools
) -> None:
    made = tools.image_of(two_layers(tools))
    bad_registry.serve(made)
    async with anyio.create_task_group() as group:
        for repository in ("one", "two"):
            group.start_soon(node.pull, f"{bad_registry.host}/{repository}:v1")
    blobs = [r[1].rpartition("/")[2] for r in bad_registry.requests if "/blobs/" in r[1]]
    assert sorted(blobs) == sorted(set(blobs))
    assert len(node.images.catalog.find(made.config_digest).repo_tags) == 2


async def test_progress_is_told(node: Node, bad_registry: BadRegistry, tools: Tools) -> None:
    made = tools.image_of(two_layers(tools))
    bad_registry.serve(made)
    node.layers.gate = anyio.Event()
    states = []
    async for progress in node.images.pull(f"{bad_registry.host}/app:v1", NOBODY):
        states.append([str(s.state) for s in progress.layers])
        if states[-1] == ["unpacking", "unpacking"]:
            (running,) = node.images.pulls()
            assert (running.reference, running.image) == (f"{bad_registry.host}/app:v1", None)
            assert all(status.fetched_bytes == status.size_bytes > 0 for status in running.layers)
            node.layers.gate.set()
    assert states[-1] == ["done", "done"]
    assert ["unpacking", "unpacking"] in states
    assert node.images.pulls() == []


async def test_wrong_diff_id_leaves_no_image_and_no_blob(
    node: Node, real_registry: RealRegistry, tools: Tools
) -> None:
    bad = tools.image_of(two_layers(tools), rootfs={"type": "layers", "diff_ids": ["sha256:" + "0" * 64] * 2})
    with pytest.raises(DataLossError, match="does not have the diff ID"):
        await node.pull(real_registry.push("bad/diff", "v1", bad))
    assert node.records.all() == []

    async def told() -> bool:  # callers hear of it first
        return type((await node.events())[-1]).__name__ == "PullFailed"

    await until(told, "the event")


async def test_an_image_that_lies_takes_no_blob_from_another(
    node: Node, real_registry: RealRegistry, tools: Tools
) -> None:
    layers = two_layers(tools)
    honest = await node.pull(real_registry.push("lies/honest", "v1", tools.image_of(layers)))
    lying = tools.image_of(layers, rootfs={"type": "layers", "diff_ids": ["sha256:" + "0" * 64] * 2})
    with pytest.raises(DataLossError, match="does not have the diff ID"):
        await node.pull(real_registry.push("lies/lying", "v1", lying))
    assert honest.blobs <= set(node.content.all())


async def test_a_blob_that_the_disk_lost_is_fetched_again(
    node: Node, real_registry: RealRegistry, tools: Tools
) -> None:
    made = tools.image_of(two_layers(tools))
    name = real_registry.push("lies/disk", "v1", made)
    await node.pull(name)
    blob = Path(node.content.path(made.layers[1]["digest"]))
    blob.write_bytes(gzip.compress(b"other").ljust(blob.stat().st_size, b"\0"))
    node.layers.held.clear()
    with pytest.raises(DataLossError, match="does not have the diff ID"):
        await node.pull(name)
    await node.pull(name)
    assert node.layers.held == set(made.diff_ids)
    assert tools.sha256(blob.read_bytes()) == made.layers[1]["digest"]


async def test_failed_unpack_is_taken_up_without_a_download(
    node: Node, bad_registry: BadRegistry, tools: Tools
) -> None:
    made = tools.image_of(two_layers(tools))
    bad_registry.serve(made)
    node.layers.away = True
    with pytest.raises(UnavailableError, match="snapshotd is away"):
        await node.pull(f"{bad_registry.host}/app:v1")
    node.layers.away = False
    before = len(bad_registry.requests)
    await node.pull(f"{bad_registry.host}/app:v1")
    # the failure may have cut off the others, but not what was there to unpack
    again = {path for _, path, _ in bad_registry.requests[before:] if "/blobs/" in path}
    assert len(again) < len(two_layers(tools)) + 1
    assert node.layers.held == set(made.diff_ids)


async def test_failures_name_the_image(
    node: Node, bad_registry: BadRegistry, tools: Tools, real_registry: RealRegistry
) -> None:
    with pytest.raises(NotFoundError, match="no/such:v1"):
        await node.pull(f"{real_registry.host}/no/such:v1")
    bad_registry.answer = lambda h: tools.reply(h, 403)
    with pytest.raises(PermissionDeniedError, match="authentication required or denied"):
        await node.pull(f"{bad_registry.host}/app:v1", Credentials("u", "hunter2"))
    with pytest.raises(InvalidArgumentError, match="'UP'"):
        await node.pull("UP")
    with pytest.raises(InvalidArgumentError, match="only builds give such names"):
        await node.pull("localhost/slipway-build:key")
    config = json.dumps({"schemaVersion": 1, "fsLayers": []}).encode()
    bad_registry.answer = lambda h: tools.reply(h, 200, config)
    with pytest.raises(SlipwayError, match="schema 1"):
        await node.pull(f"{bad_registry.host}/app:v1")
    assert all("hunter2" not in str(e) for e in await node.events())


async def test_image_with_a_lost_config_is_dropped_at_start(
    node: Node, real_registry: RealRegistry, tools: Tools
) -> None:
    kept = await node.pull(real_registry.push("repair", "kept", tools.image_of(two_layers(tools, "kept"))))
    lost = await node.pull(real_registry.push("repair", "lost", tools.image_of(two_layers(tools, "lost"))))
    Path(node.content.path(lost.id)).unlink()
    await node.content.load()
    assert await reconcile.repair(node.records, node.content) == [lost.id]
    assert [r.id for r in node.records.all()] == [kept.id]
    assert type((await node.events())[-1]).__name__ == "NodeRepaired"
    assert await node.images.leases.collect_layers() == {lost.diff_ids[1]: 1000}


async def test_pinned_images_follow_the_globs(node: Node, real_registry: RealRegistry, tools: Tools) -> None:
    pause = await node.pull(real_registry.push("k8s/pause", "3", tools.image_of(two_layers(tools, "p"))))
    other = await node.pull(real_registry.push("k8s/other", "3", tools.image_of(two_layers(tools, "o"))))
    assert node.images.pin_of(pause) == "*/pause:*"
    assert node.images.pin_of(other) == ""
    assert len(node.images.catalog.select()) == 2
    assert node.images.catalog.select("nothing") == []
