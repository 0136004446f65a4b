"""Artifacts: pulled from a real registry as files of one layer, named as their titles say, refused where they cannot be."""

import io
import json
import os
import tarfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from common.errors import FailedPreconditionError, InvalidArgumentError, ResourceExhaustedError
from common.sys import linux
from imaged.adapters.registry import HttpRegistry
from imaged.adapters.spool import Spools
from imaged.artifact import files_of
from imaged.committing import _compress
from imaged.loading import Loads
from imaged.manifest import EMPTY_TYPE, Descriptor, local_platform
from imaged.ports import Credentials
from imaged.saving import Saves
from imaged.transfer import Transfers
from imaged.whole import Whole
from services.imaged.tests.conftest import BadRegistry, ImageParts, Layer, Node, RealRegistry, Tools

NOBODY = Credentials()
OCI = "application/vnd.oci.image.manifest.v1+json"
TITLE = "org.opencontainers.image.title"


def artifact_of(
    tools: Tools, files: dict[str, bytes], *, kind: str = "application/vnd.example.model", **more: object
) -> ImageParts:
    """Parts of an artifact as ORAS makes it; a name that begins with `-` is no title."""
    made = tools.image_of([])
    made.blobs = {tools.sha256(body): body for body in (b"{}", *files.values())}
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI,
        "artifactType": kind,
        "config": {"mediaType": EMPTY_TYPE, "digest": tools.sha256(b"{}"), "size": 2},
        "layers": [
            {
                "mediaType": "application/octet-stream",
                "digest": tools.sha256(body),
                "size": len(body),
                "annotations": {} if name.startswith("-") else {TITLE: name},
            }
            for name, body in files.items()
        ],
    } | more
    made.manifest = json.dumps(manifest).encode()
    return made


FILES = {"model.bin": b"m" * 100_000, "docs/deep/read.me": b"text", "-": b"nameless"}


@pytest.mark.anyio
@pytest.mark.integration
async def test_an_artifact_is_pulled_as_one_layer_of_files(
    monkeypatch: pytest.MonkeyPatch, node: Node, real_registry: RealRegistry, tools: Tools
) -> None:
    seen: dict[str, bytes] = {}
    apply = node.layers.apply_layer

    async def look(*, diff_id: str, digest: str, blob_path: str, media_type: str, size_bytes: int) -> Layer:
        with tarfile.open(blob_path) as tar:
            for entry in tar:
                assert (entry.mtime, entry.uid, entry.mode) == (0, 0, 0o755 if entry.isdir() else 0o444)
                if entry.isreg():
                    content = tar.extractfile(entry)
                    assert content is not None
                    seen[entry.name] = content.read()
        return await apply(
            diff_id=diff_id, digest=digest, blob_path=blob_path, media_type=media_type, size_bytes=size_bytes
        )

    monkeypatch.setattr(node.layers, "apply_layer", look)
    made = artifact_of(tools, FILES)
    name = real_registry.push("artifacts/model", "v1", made)
    record = await node.pull(name)
    nameless = tools.sha256(b"nameless").replace(":", "-")
    assert seen == {"model.bin": FILES["model.bin"], "docs/deep/read.me": b"text", nameless: b"nameless"}
    assert (record.id, record.artifact_type) == (made.digest, "application/vnd.example.model")
    assert record.repo_tags == (name,)
    assert set(node.content.all()) == {made.digest, *made.blobs}
    assert record.size_bytes >= 100_000
    assert await node.images.configs.read(record) == b""
    # the same again fetches and unpacks nothing; another artifact with the same config is another
    applied = list(node.layers.applied)
    assert (await node.pull(name)).id == record.id
    assert node.layers.applied == applied
    other = await node.pull(real_registry.push("artifacts/other", "v1", artifact_of(tools, {"a": b"a"})))
    assert other.id != record.id
    for each in (record, other):
        await node.images.remove(each.id)
    assert (node.content.all(), node.layers.held) == ([], set())
    assert list(node.content.ingests.iterdir()) == []


@pytest.mark.anyio
@pytest.mark.integration
async def test_artifacts_are_tagged_pushed_saved_and_loaded_as_they_are(
    node: Node, transfers: Transfers, real_registry: RealRegistry, tools: Tools
) -> None:
    parts = [artifact_of(tools, files) for files in (FILES, {"other.bin": b"of the same config"})]
    records = [
        await node.pull(real_registry.push(f"artifacts/{n}", "v1", made)) for n, made in enumerate(parts)
    ]
    images = node.images
    target = f"{real_registry.host}/artifacts/pushed:v2"
    await images.catalog.tag(records[0].id, target)
    [*_, pushed] = [moment async for moment in transfers.push(target, "", NOBODY)]
    assert pushed.digest == parts[0].digest
    saves = Saves(images.catalog, images.leases, node.content, images.whole)
    names = [target, records[1].repo_tags[0]]
    saved = b"".join([piece async for piece in saves.save(names, NOBODY)])
    for record in records:
        await images.remove(record.id)
    assert (node.content.all(), node.layers.held) == ([], set())
    assert (await node.pull(target)).diff_ids == records[0].diff_ids
    await images.remove(target)

    async def pieces() -> AsyncIterator[bytes]:
        yield saved

    spools = images.bringing._workplace
    assert isinstance(spools, Spools)
    loads = Loads(spools, images.catalog, images.leases, node.content, images.bringing, local_platform())
    loaded = await loads.load(pieces(), name="", replace=False)
    for (record, given), old, name in zip(loaded, records, names, strict=True):
        assert (record.id, record.artifact_type, given) == (old.id, "application/vnd.example.model", (name,))
        assert (record.diff_ids, record.layers) == (old.diff_ids, old.layers)
    assert node.layers.held == {diff_id for record in records for diff_id in record.diff_ids}


@pytest.mark.anyio
@pytest.mark.integration
async def test_a_registry_need_not_have_the_empty_config(
    node: Node, bad_registry: BadRegistry, tools: Tools
) -> None:
    made = artifact_of(tools, {"a": b"body"})
    bad_registry.serve(made)
    answer, empty = bad_registry.answer, tools.sha256(b"{}")
    bad_registry.answer = lambda h: tools.reply(h, 404) if empty in h.path else answer(h)
    record = await node.pull(f"{bad_registry.host}/a:v1")
    assert (await node.content.read(empty), record.artifact_type) == (b"{}", "application/vnd.example.model")


@pytest.mark.anyio
@pytest.mark.integration
async def test_an_archive_need_not_have_the_empty_config(
    node: Node, real_registry: RealRegistry, tools: Tools
) -> None:
    images, spools = node.images, node.images.bringing._workplace
    assert isinstance(spools, Spools)
    made = artifact_of(tools, {"a": b"body"})
    name = real_registry.push("artifacts/bare", "v1", made)
    old = await node.pull(name)
    saves = Saves(images.catalog, images.leases, node.content, images.whole)
    saved = b"".join([piece async for piece in saves.save([name], NOBODY)])
    await images.remove(old.id)
    empty = f"blobs/{tools.sha256(b'{}').replace(':', '/')}"
    bare = io.BytesIO()
    with tarfile.open(fileobj=io.BytesIO(saved)) as whole, tarfile.open(fileobj=bare, mode="w") as out:
        for member in whole:
            if member.name != empty:
                out.addfile(member, whole.extractfile(member))

    async def pieces() -> AsyncIterator[bytes]:
        yield bare.getvalue()

    loads = Loads(spools, images.catalog, images.leases, node.content, images.bringing, local_platform())
    [(record, _)] = await loads.load(pieces(), name="", replace=False)
    assert (record.id, record.blobs) == (old.id, old.blobs)
    assert await node.content.read(tools.sha256(b"{}")) == b"{}"


@pytest.mark.anyio
@pytest.mark.integration
async def test_an_unknown_config_is_named_as_the_type(
    node: Node, real_registry: RealRegistry, tools: Tools
) -> None:
    config = {
        "mediaType": "application/vnd.cncf.helm.config.v1+json",
        "digest": tools.sha256(b"{}"),
        "size": 2,
    }
    made = artifact_of(tools, {"chart.tgz": b"chart"}, config=config)
    document = json.loads(made.manifest)
    del document["artifactType"]
    made.manifest = json.dumps(document).encode()
    record = await node.pull(real_registry.push("artifacts/chart", "v1", made))
    assert record.artifact_type == "application/vnd.cncf.helm.config.v1+json"


@pytest.mark.anyio
@pytest.mark.integration
@pytest.mark.parametrize("title", ["../out", "/etc/passwd", "a//b", ".", "x" * 256, "nul\0", "a/../../b"])
async def test_a_title_that_is_no_name_is_refused_before_anything_is_fetched(
    node: Node, real_registry: RealRegistry, tools: Tools, title: str
) -> None:
    made = artifact_of(tools, {title: b"body"})
    with pytest.raises(InvalidArgumentError, match="has no name for a file"):
        await node.pull(real_registry.push("artifacts/bad", "v1", made))
    assert node.layers.applied == []


def test_two_files_of_one_name_are_refused_and_one_twice_is_one() -> None:
    one, two = (Descriptor("sha256:" + c * 64, 1) for c in "ab")
    assert files_of("i", [one, one, two], ["a", "a", ""]) == {
        "a": one.digest,
        two.digest.replace(":", "-"): two.digest,
    }
    with pytest.raises(InvalidArgumentError, match="two of its files are called 'a'"):
        files_of("i", [one, two], ["a", "a"])
    with pytest.raises(InvalidArgumentError, match="'a/b' is below another file"):
        files_of("i", [one, two], ["a", "a/b"])
    assert files_of("i", [Descriptor("sha256:" + "c" * 64, 2, EMPTY_TYPE)], [""]) == {}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "small"
    place.mkdir()
    linux.mount("tmpfs", str(place), "tmpfs", 0, "size=64k")
    yield place
    linux.umount(str(place), linux.MNT_DETACH)


@pytest.mark.anyio
@pytest.mark.integration
@pytest.mark.root
async def test_a_full_disk_is_told_as_such_and_nothing_is_left(
    node: Node, real_registry: RealRegistry, tools: Tools, small_disk: Path
) -> None:
    node.images.bringing._workplace = Spools(small_disk, 1 << 20)
    name = real_registry.push("artifacts/large", "v1", artifact_of(tools, {"f": b"f" * 100_000}))
    with pytest.raises(ResourceExhaustedError, match="No space left"):
        await node.pull(name)
    assert list(small_disk.iterdir()) == []


@pytest.mark.anyio
@pytest.mark.root
async def test_a_full_disk_is_told_as_such_where_a_container_becomes_a_layer(
    small_disk: Path, tmp_path: Path
) -> None:
    diff = tmp_path / "diff"
    diff.write_bytes(os.urandom(200_000))
    with pytest.raises(ResourceExhaustedError, match="No space left"):
        async with Spools(small_disk, 1 << 20).directory() as directory:
            await anyio.to_thread.run_sync(_compress, str(diff), f"{directory}/layer")
    assert list(small_disk.iterdir()) == []


@pytest.mark.anyio
@pytest.mark.integration
async def test_no_image_stands_on_an_artifact(
    node: Node, registry: HttpRegistry, real_registry: RealRegistry, tools: Tools
) -> None:
    from imaged.committing import Commits, Wish

    name = real_registry.push("artifacts/base", "v1", artifact_of(tools, {"a": b"base"}))
    await node.pull(name)
    images, content = node.images, node.content
    commits = Commits(
        images.catalog, images.leases, content, node.layers, Whole(content, registry), images.bringing,
        images.bringing._workplace,
        local_platform(),
    )  # fmt: skip
    with pytest.raises(
        FailedPreconditionError, match=r"is an artifact of type 'application/vnd.example.model'"
    ):
        await anext(commits.commit(Wish(snapshot="", image=name)))
