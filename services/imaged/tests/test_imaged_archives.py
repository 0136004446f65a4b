"""Archives in and out, on a real Redis and a real registry: what is refused leaves nothing, what is kept is the same."""

import gzip
import io
import json
import tarfile
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Literal

import anyio
import pytest
import zstandard

from common.buildcache import REPOSITORY
from common.errors import (
    AlreadyExistsError,
    DataLossError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
)
from common.events.schema import MAX_NAMES, ImageLoaded, ImageRemoved, ImageTagged
from imaged.adapters.registry import HttpRegistry
from imaged.adapters.spool import Spools
from imaged.archive import contents
from imaged.loading import Loads
from imaged.manifest import local_platform
from imaged.ports import Credentials
from imaged.record import ImageRecord
from imaged.saving import Saves
from imaged.whole import Whole
from services.imaged.tests.archiving import linked, tar, typed
from services.imaged.tests.conftest import ImageParts, Node, RealRegistry, Tools

pytestmark = [pytest.mark.anyio, pytest.mark.integration]
NAME = "io.containerd.image.name"
REF = "org.opencontainers.image.ref.name"


class Shelf:
    """Loads and saves of one node."""

    def __init__(self, node: Node, registry: HttpRegistry, root: Path, max_bytes: int = 1 << 30) -> None:
        self.node = node
        self.spool_root = root
        catalog, leases = node.images.catalog, node.images.leases
        spools = Spools(root, max_bytes)
        self._loads = Loads(spools, catalog, leases, node.content, node.images.bringing, local_platform())
        self._saves = Saves(catalog, leases, node.content, Whole(node.content, registry))

    async def load(
        self, body: bytes, *, name: str = "", replace: bool = False, step: int = 1 << 16
    ) -> list[tuple[ImageRecord, tuple[str, ...]]]:
        async def pieces() -> AsyncIterator[bytes]:
            for start in range(0, len(body), step):
                yield body[start : start + step]

        return await self._loads.load(pieces(), name=name, replace=replace)

    async def save(self, *texts: str) -> bytes:
        return b"".join([piece async for piece in self._saves.save(list(texts), Credentials())])

    def is_empty(self) -> bool:
        node = self.node
        spooled = list(self.spool_root.iterdir())
        return (node.images.catalog.all(), node.content.all(), node.layers.held, spooled) == (
            [],
            [],
            set(),
            [],
        )


@pytest.fixture
def shelf(node: Node, registry: HttpRegistry) -> Shelf:
    return Shelf(node, registry, node.content.ingests)


def opened(body: bytes) -> tarfile.TarFile:
    return tarfile.TarFile(fileobj=io.BytesIO(body))


def body_of(archive: tarfile.TarFile, name: str) -> bytes:
    found = archive.extractfile(name)
    assert found is not None
    return found.read()


def blob_name(digest: str) -> str:
    return "blobs/" + digest.replace(":", "/")


def layout(
    *images: ImageParts, names: Sequence[dict[str, str]] = (), tools: Tools, index: bytes | None = None
) -> list[tuple[str, bytes]]:
    """Members of an OCI layout; `names` are the annotations of each image."""
    blobs = {digest: body for image in images for digest, body in image.blobs.items()}
    blobs |= {image.digest: image.manifest for image in images}
    entries = [
        {"mediaType": i.media_type, "digest": i.digest, "size": len(i.manifest), "annotations": n}
        for i, n in zip(images, names or [{}] * len(images), strict=True)
    ]
    top = index or json.dumps({"schemaVersion": 2, "manifests": entries}).encode()
    members = [("oci-layout", b'{"imageLayoutVersion":"1.0.0"}'), ("index.json", top)]
    return members + [(blob_name(digest), body) for digest, body in blobs.items()]


def docker_archive(
    image: ImageParts, layers: list[bytes], tags: list[str]
) -> list[tuple[str, bytes] | tarfile.TarInfo]:
    """As docker before 25 wrote it: layers by id, a repeated one as a link."""
    names = [f"{n:064x}/layer.tar" for n in range(len(layers))]
    members: list[tuple[str, bytes] | tarfile.TarInfo] = []
    for number, (name, body) in enumerate(zip(names, layers, strict=True)):
        if body in layers[:number]:
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, f"../{names[layers.index(body)]}"
            members.append(entry)
        else:
            members.append((name, body))
    config = image.config_digest.partition(":")[2] + ".json"
    saved = [{"Config": config, "RepoTags": tags, "Layers": names}]
    return [
        *members,
        (config, image.blobs[image.config_digest]),
        ("manifest.json", json.dumps(saved).encode()),
    ]


@pytest.fixture
def layers(tools: Tools) -> list[bytes]:
    return [tools.tar_of({"base": b"base" * 1000}), tools.tar_of({"a": b"a" * 5000})]


@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstandard.compress], ids=["plain", "gzip", "zstd"])
@pytest.mark.parametrize("step", [1, 700, 1 << 20])
async def test_an_oci_layout_is_loaded_whatever_its_packing_and_pieces(
    shelf: Shelf, tools: Tools, layers: list[bytes], pack: Callable[[bytes], bytes], step: int
) -> None:
    image = tools.image_of(layers)
    body = pack(tar(*layout(image, names=[{NAME: "docker.io/library/app:1", REF: "1"}], tools=tools)))
    [(record, names)] = await shelf.load(body, step=step)
    assert (record.id, record.manifest_digest) == (image.config_digest, image.digest)
    assert (names, record.repo_tags, record.repo_digests) == (("docker.io/library/app:1",),) * 2 + ((),)
    assert set(shelf.node.content.all()) == {*image.blobs, image.digest}
    assert shelf.node.layers.held == set(image.diff_ids)
    assert list(shelf.spool_root.iterdir()) == []
    assert [e.verb for e in await shelf.node.events()] == ["loaded"]


@pytest.mark.parametrize("repeat", [False, True])
async def test_dockers_archive_is_loaded_with_its_links(
    shelf: Shelf, tools: Tools, layers: list[bytes], repeat: bool
) -> None:
    layers = [*layers, layers[0]] if repeat else layers
    image = tools.image_of(layers)
    [(record, _)] = await shelf.load(tar(*docker_archive(image, layers, ["app:1", "me/app"])))
    assert record.id == image.config_digest
    assert record.repo_tags == ("docker.io/library/app:1", "docker.io/me/app:latest")
    assert list(record.diff_ids) == image.diff_ids
    again = await shelf.load(tar(*docker_archive(image, layers, ["app:1"])))
    assert (again[0][0].id, again[0][0].documents) == (record.id, record.documents)


async def test_what_was_saved_is_loaded_with_the_same_digests(
    shelf: Shelf, real_registry: RealRegistry, tools: Tools, layers: list[bytes]
) -> None:
    first, second = tools.image_of(layers), tools.image_of(layers[:1], compression="zstd")
    pulled = [
        await shelf.node.pull(real_registry.push("archives/one", "v1", first)),
        await shelf.node.pull(real_registry.push("archives/two", "v1", second)),
    ]
    saved = await shelf.save(pulled[0].repo_tags[0], pulled[1].id)
    assert saved == await shelf.save(pulled[0].repo_tags[0], pulled[1].id)
    for record in pulled:
        await shelf.node.images.remove(record.id)
    assert shelf.is_empty()
    loaded = await shelf.load(saved)
    for (record, _), old in zip(loaded, pulled, strict=True):
        assert (record.id, record.manifest_digest, record.repo_tags) == (
            old.id,
            old.manifest_digest,
            old.repo_tags,
        )
        assert record.layers == old.layers
    members = opened(saved).getnames()
    assert members[:3] == ["oci-layout", "index.json", "manifest.json"]
    assert len(members) == len(set(members))


async def test_an_archive_tells_no_name_in_the_build_cache(
    shelf: Shelf, real_registry: RealRegistry, tools: Tools, layers: list[bytes]
) -> None:
    record = await shelf.node.pull(real_registry.push("archives/built", "v1", tools.image_of(layers)))
    cached = f"{REPOSITORY}:key"
    event = ImageTagged(id=record.id, reference=cached)
    await shelf.node.images.catalog.keep(record, event, tags=(cached,))
    for text, names in ((record.id, list(record.repo_tags)), (cached, None)):
        members = opened(await shelf.save(text))
        assert json.loads(body_of(members, "manifest.json"))[0]["RepoTags"] == names
        [entry] = json.loads(body_of(members, "index.json"))["manifests"]
        assert entry.get("annotations", {}).get(NAME) == (names[0] if names else None)


async def test_a_layer_that_was_never_fetched_is_fetched_to_be_saved(
    shelf: Shelf, real_registry: RealRegistry, tools: Tools, layers: list[bytes]
) -> None:
    one = await shelf.node.pull(real_registry.push("archives/gz", "v1", tools.image_of(layers)))
    other = tools.image_of(layers, compression="zstd", author="another")
    two = await shelf.node.pull(real_registry.push("archives/zst", "v1", other))
    assert two.layers[0].digest != one.layers[0].digest
    await shelf.node.content.delete([two.layers[0].digest])
    saved = await shelf.save(two.id)
    assert blob_name(two.layers[0].digest) in opened(saved).getnames()
    assert shelf.node.content.has(two.layers[0].digest)
    await shelf.node.content.delete([two.layers[0].digest])
    nowhere = await shelf.node.images.catalog.tag(two.id, "kept")
    await shelf.node.images.untag(two.repo_tags[0], force=False, keep_last=True)
    assert nowhere.repo_digests
    with pytest.raises(FailedPreconditionError, match="only unpacked"):
        await shelf.save("kept")


async def test_an_index_is_saved_whole_when_all_of_it_is_here(
    shelf: Shelf, tools: Tools, layers: list[bytes]
) -> None:
    image = tools.image_of(layers)
    here = {"os": "linux", "architecture": local_platform().architecture}
    index, kind = tools.index_of((image, here))
    top = {"mediaType": kind, "digest": tools.sha256(index), "size": len(index), "annotations": {NAME: "a:1"}}
    body = json.dumps({"schemaVersion": 2, "manifests": [top]}).encode()
    members = [*layout(image, tools=tools, index=body), (blob_name(tools.sha256(index)), index)]
    [(record, _)] = await shelf.load(tar(*members))
    assert record.documents == (tools.sha256(index), image.digest)
    saved = opened(await shelf.save("a:1"))
    entry = json.loads(body_of(saved, "index.json"))["manifests"][0]
    assert (entry["digest"], entry["mediaType"]) == (tools.sha256(index), kind)


async def test_a_name_that_another_image_has_moves_only_when_told(
    shelf: Shelf, tools: Tools, layers: list[bytes]
) -> None:
    old, new = tools.image_of(layers), tools.image_of(layers[1:])
    await shelf.load(tar(*layout(old, names=[{NAME: "app:1"}], tools=tools)))
    before = (set(shelf.node.content.all()), set(shelf.node.layers.held))
    body = tar(*layout(new, names=[{NAME: "app:1"}], tools=tools))
    with pytest.raises(AlreadyExistsError, match=old.config_digest):
        await shelf.load(body)
    assert (set(shelf.node.content.all()), shelf.node.layers.held) == before
    assert shelf.node.images.catalog.find("app:1").id == old.config_digest
    await shelf.load(body, replace=True)
    assert shelf.node.images.catalog.find("app:1").id == new.config_digest
    assert shelf.node.images.catalog.find(old.config_digest).names == []


async def test_of_very_many_names_events_tell_the_first(
    shelf: Shelf, tools: Tools, layers: list[bytes]
) -> None:
    names = [f"docker.io/library/app:{number:05}" for number in range(2000)]
    [(record, given)] = await shelf.load(tar(*docker_archive(tools.image_of(layers), layers, names)))
    assert list(given) == names == record.names
    await shelf.node.images.catalog.remove(record.id)
    loaded, removed = await shelf.node.events()
    assert isinstance(loaded, ImageLoaded)
    assert isinstance(removed, ImageRemoved)
    assert loaded.references == removed.references == names[:MAX_NAMES]


@pytest.mark.parametrize(
    ("names", "wish", "given_names"),
    [
        ([{REF: "latest"}], "", [()]),
        ([{REF: "latest"}], "me/app:7", [("docker.io/me/app:7",)]),
        ([{REF: "1"}, {REF: "2"}], "me/app", [("docker.io/me/app:1",), ("docker.io/me/app:2",)]),
        (
            [{REF: "example.com/a:1"}, {NAME: "b", REF: "x"}],
            "",
            [("example.com/a:1",), ("docker.io/library/b:latest",)],
        ),
    ],
)
async def test_a_bare_tag_is_a_name_only_together_with_one(
    shelf: Shelf,
    tools: Tools,
    layers: list[bytes],
    names: list[dict[str, str]],
    wish: str,
    given_names: list[tuple[str, ...]],
) -> None:
    images = [tools.image_of(layers), tools.image_of(layers[1:])][: len(names)]
    loaded = await shelf.load(tar(*layout(*images, names=names, tools=tools)), name=wish)
    assert [found for _, found in loaded] == given_names


@pytest.mark.parametrize(
    ("notes", "wish"),
    [
        ({NAME: f"{REPOSITORY}:key"}, ""),
        ({REF: f"{REPOSITORY}:key"}, ""),
        ({REF: "key"}, REPOSITORY),
        ({}, f"{REPOSITORY}:key"),
    ],
)
async def test_a_name_that_only_builds_give_comes_from_no_archive(
    shelf: Shelf, tools: Tools, layers: list[bytes], notes: dict[str, str], wish: str
) -> None:
    images = [tools.image_of(layers), tools.image_of(layers[1:])][: 2 if wish == REPOSITORY else 1]
    body = tar(*layout(*images, names=[notes, {REF: "other"}][: len(images)], tools=tools))
    with pytest.raises(InvalidArgumentError, match="only builds give such names"):
        await shelf.load(body, name=wish)
    with pytest.raises(InvalidArgumentError, match="only builds give such names"):
        await shelf.load(tar(*docker_archive(images[0], layers, [f"{REPOSITORY}:key"])))
    assert shelf.is_empty()
    if not wish:
        [(_, names)] = await shelf.load(body, name="app:1")
        assert names == ("docker.io/library/app:1",)


async def test_two_images_of_one_name_are_refused_and_neither_is_loaded(
    shelf: Shelf, tools: Tools, layers: list[bytes]
) -> None:
    images = [tools.image_of(layers), tools.image_of(layers[1:])]
    with pytest.raises(InvalidArgumentError, match="two images"):
        await shelf.load(tar(*layout(*images, names=[{NAME: "a:1"}, {NAME: "a:1", REF: "2"}], tools=tools)))
    assert shelf.is_empty()


BAD_MEMBERS: dict[str, tuple[str, bytes] | tarfile.TarInfo] = {
    "climbs": ("../../etc/cron.d/x", b"x"),
    "absolute": ("/etc/cron.d/x", b"x"),
    "climbs inside": ("blobs/../../x", b"x"),
    "a link out": linked("x", "../../etc/passwd"),
    "a link to the root": linked("x", "/etc/passwd"),
    "a hard link out": linked("x", "../y", tarfile.LNKTYPE),
    "a device": typed("x", tarfile.CHRTYPE),
    "a pipe": typed("x", tarfile.FIFOTYPE),
    "a sparse file": typed("x", tarfile.GNUTYPE_SPARSE),
    "a second index": ("index.json", b"{}"),
    "a blob of another digest": ("blobs/sha256/" + "a" * 64, b"not that"),
}


@pytest.mark.parametrize("what", BAD_MEMBERS)
async def test_a_hostile_member_is_refused_and_leaves_nothing(
    shelf: Shelf, tools: Tools, layers: list[bytes], what: str
) -> None:
    members = layout(tools.image_of(layers), names=[{NAME: "app:1"}], tools=tools)
    with pytest.raises((InvalidArgumentError, DataLossError)):
        await shelf.load(tar(*members, BAD_MEMBERS[what]))
    assert shelf.is_empty()
    assert not Path("/etc/cron.d/x").exists()


async def test_a_blob_that_is_a_link_to_another_is_refused(
    shelf: Shelf, tools: Tools, layers: list[bytes]
) -> None:
    image = tools.image_of(layers)
    lost = image.layers[0]["digest"]
    members = [m for m in layout(image, tools=tools) if m[0] != blob_name(lost)]
    members.append(("other", b"evil"))
    with pytest.raises(DataLossError, match="link"):
        await shelf.load(tar(*members, linked(blob_name(lost), "../../other")))
    assert shelf.is_empty()


@pytest.mark.parametrize(
    "what", ["no layer", "no config", "no manifest", "size", "no index", "garbage", "empty", "both"]
)
async def test_a_document_that_lies_is_refused_and_leaves_nothing(
    shelf: Shelf, tools: Tools, layers: list[bytes], what: str
) -> None:
    image = tools.image_of(layers)
    members = dict(layout(image, tools=tools))
    lost = {
        "no layer": image.layers[0]["digest"],
        "no config": image.config_digest,
        "no manifest": image.digest,
    }
    if what in lost:
        del members[blob_name(lost[what])]
    elif what == "size":
        entry = {"mediaType": image.media_type, "digest": image.digest, "size": 1}
        members["index.json"] = json.dumps({"manifests": [entry]}).encode()
    elif what == "no index":
        del members["index.json"]
    elif what == "both":
        both = json.loads(image.manifest) | {"manifests": []}
        evil = json.dumps(both).encode()
        entry = {"mediaType": image.media_type, "digest": tools.sha256(evil), "size": len(evil)}
        members[blob_name(tools.sha256(evil))] = evil
        members["index.json"] = json.dumps({"manifests": [entry]}).encode()
    else:
        members["index.json"] = b"[1" if what == "garbage" else b'{"manifests": []}'
    with pytest.raises((InvalidArgumentError, DataLossError)):
        await shelf.load(tar(*members.items()))
    assert shelf.is_empty()


async def test_an_image_for_another_machine_is_refused(
    shelf: Shelf, tools: Tools, layers: list[bytes]
) -> None:
    image = tools.image_of(layers, architecture="vax")
    with pytest.raises(NotFoundError, match="vax"):
        await shelf.load(tar(*layout(image, tools=tools)))
    assert shelf.is_empty()


async def test_a_layer_whose_content_is_not_the_configs_leaves_nothing(
    shelf: Shelf, tools: Tools, layers: list[bytes]
) -> None:
    image = tools.image_of(layers, rootfs={"type": "layers", "diff_ids": ["sha256:" + "b" * 64] * 2})
    with pytest.raises(DataLossError, match="diff ID"):
        await shelf.load(tar(*layout(image, tools=tools)))
    assert shelf.is_empty()


@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstandard.compress], ids=["plain", "gzip", "zstd"])
async def test_an_archive_cut_anywhere_is_refused_and_leaves_nothing(
    shelf: Shelf, tools: Tools, layers: list[bytes], pack: Callable[[bytes], bytes]
) -> None:
    body = pack(
        tar(*layout(tools.image_of(layers), names=[{NAME: "app:1"}], tools=tools)).rstrip(b"\0") + bytes(1024)
    )
    for length in range(0, len(body) - 520, max(1, len(body) // 40)):
        with pytest.raises((InvalidArgumentError, DataLossError)):
            await shelf.load(body[:length])
        assert shelf.is_empty()


async def test_more_than_the_bound_is_refused_however_it_is_packed(
    node: Node, registry: HttpRegistry, tools: Tools
) -> None:
    shelf = Shelf(node, registry, node.content.ingests, max_bytes=1 << 20)
    bomb = gzip.compress(tar(("zeros", bytes(8 << 20))))
    assert len(bomb) < 20_000
    with pytest.raises(InvalidArgumentError, match="1048576"):
        await shelf.load(bomb)
    assert shelf.is_empty()


@pytest.mark.parametrize(("mode", "name"), [("w:bz2", "bzip2"), ("w:xz", "xz")])
async def test_another_compression_is_refused_by_name(
    shelf: Shelf, tools: Tools, layers: list[bytes], mode: Literal["w:bz2", "w:xz"], name: str
) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as made:
        made.addfile(tarfile.TarInfo("x"))
    with pytest.raises(InvalidArgumentError, match=name):
        await shelf.load(out.getvalue())
    assert shelf.is_empty()


async def test_a_sender_that_leaves_has_loaded_nothing(
    shelf: Shelf, tools: Tools, layers: list[bytes]
) -> None:
    body = tar(*layout(tools.image_of(layers), names=[{NAME: "app:1"}], tools=tools))
    sent = anyio.Event()

    async def pieces() -> AsyncIterator[bytes]:
        yield body[: len(body) // 2]
        sent.set()
        await anyio.sleep_forever()

    async with anyio.create_task_group() as group:

        async def load() -> None:
            await shelf._loads.load(pieces(), name="", replace=False)

        group.start_soon(load)
        await sent.wait()
        assert [path.name for path in shelf.spool_root.iterdir()] != []
        group.cancel_scope.cancel()
    assert shelf.is_empty()


async def test_nothing_to_save_and_what_is_not_here(shelf: Shelf) -> None:
    with pytest.raises(InvalidArgumentError):
        await shelf.save()
    with pytest.raises(NotFoundError):
        await shelf.save("absent")


async def test_documents_are_held_in_bounded_memory(
    monkeypatch: pytest.MonkeyPatch, shelf: Shelf, tools: Tools, layers: list[bytes]
) -> None:
    monkeypatch.setattr(contents, "MAX_DOCUMENTS_BYTES", 100)
    with pytest.raises(InvalidArgumentError, match="more than 100 bytes of manifests"):
        await shelf.load(tar(*layout(tools.image_of(layers), names=[{NAME: "app:1"}], tools=tools)))
    assert shelf.is_empty()
