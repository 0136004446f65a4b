"""Blobs that come while they are used: what is asked of the registry, and what becomes of them."""

import base64
import hashlib
import json
import os
import socket
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import TypeVar

import anyio
import pytest
from anyio.abc import TaskGroup

from common.digest import Digest
from common.errors import (
    DataLossError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
    UnimplementedError,
)
from common.events.schema import Event, LayerDamaged, LayerFilled, LayerUnread
from devtools.registry import file
from imaged.adapters.content_local import LocalContent
from imaged.adapters.registry import HttpRegistry
from imaged.adapters.spool import Spools
from imaged.artifact import Artifact
from imaged.catalog import Catalog
from imaged.lazy import coming, extents, footer
from imaged.lazy.socket import RangeSocket
from imaged.lazy.store import LazyBlobs, LazyPlaces
from imaged.leases import Leases, Needs
from imaged.manifest import Descriptor, Manifest, Toc, local_platform, parse
from imaged.ports import Credentials, Stack, WrittenDiff
from imaged.pull import Unpacking
from imaged.record import ImageRecord, LayerRecord
from imaged.reference import Reference
from imaged.resolving import Resolved
from imaged.transfer import Transfers
from imaged.tree import Tree
from imaged.whole import Whole
from services.imaged.tests.conftest import BadRegistry, Layer, Node, RealRegistry, Tools
from tests.support import estargz, zstdchunked
from tests.support.descriptors import none_left
from tests.support.eventually import until
from tests.support.listening import listened
from tests.support.pace import patience

pytestmark = pytest.mark.anyio
E = TypeVar("E", bound=Event)
CREDENTIALS = Credentials("me", "secret")
BODY = bytes(range(256)) * 8192


@pytest.mark.parametrize("legacy", [False, True])
def test_a_footer_says_where_the_table_is(legacy: bool) -> None:
    foot = estargz.footer(0x1234, legacy=legacy)
    assert len(foot) == (47 if legacy else footer.BYTES)
    assert footer.toc_offset(bytes(51) + foot, 0x2000) == 0x1234


@pytest.mark.parametrize(
    "tail",
    [
        bytes(51),
        b"",
        estargz.footer(0x1234)[:-1],
        estargz.footer(0x2000),
        estargz.footer(0),
        estargz.footer(0x1234).replace(b"STARGZ", b"STARGY"),
        estargz.footer(0x1234).replace(b"1234", b"12x4"),
    ],
)
def test_what_is_no_footer_is_none(tail: bytes) -> None:
    assert footer.toc_offset(tail, 0x2000) is None


def test_what_vouches_for_the_table_is_read_from_the_manifest_and_nothing_else() -> None:
    layer = {
        "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
        "digest": "sha256:" + "1" * 64,
        "size": 1,
    }
    config = {
        "mediaType": "application/vnd.oci.image.config.v1+json",
        "digest": "sha256:" + "2" * 64,
        "size": 1,
    }
    notes: list[object] = [{estargz.ANNOTATION: "x"}, {estargz.ANNOTATION: 5}, "odd", None]
    layers = [layer | {"annotations": note, "tocDigest": "y"} for note in notes]
    body = json.dumps({"schemaVersion": 2, "config": config, "layers": layers}).encode()
    found = parse("image", body, "application/vnd.oci.image.manifest.v1+json")
    assert isinstance(found, Manifest)
    assert [each.toc for each in found.layers] == [Toc("x"), None, None, None]


@pytest.mark.parametrize(
    ("prefix", "position", "found"),
    [
        (zstdchunked.PREFIX, "500:20:99:1", Toc("d", 500, 20)),
        ("io.containers.zstd-chunked", "500:500:99:1", Toc("d", 500, 500)),
        (zstdchunked.PREFIX, "500:501:99:1", None),
        (zstdchunked.PREFIX, "0:20:99:1", None),
        (zstdchunked.PREFIX, "500:0:99:1", None),
        (zstdchunked.PREFIX, "500:20:99:2", None),
        (zstdchunked.PREFIX, "-5:20:99:1", None),
        (zstdchunked.PREFIX, "500:20:99:1:1", None),
        (zstdchunked.PREFIX, "", None),
        ("other", "500:20:99:1", None),
    ],
)
def test_a_manifest_says_where_the_table_of_a_zstd_chunked_layer_is(
    prefix: str, position: str, found: Toc | None
) -> None:
    notes = {f"{prefix}.manifest-checksum": "d", f"{prefix}.manifest-position": position}
    digest = "sha256:" + "1" * 64
    layer = {"mediaType": zstdchunked.MEDIA_TYPE, "digest": digest, "size": 1000, "annotations": notes}
    config = {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest, "size": 1}
    other = layer | {"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip"}
    body = json.dumps({"schemaVersion": 2, "config": config, "layers": [layer, other]}).encode()
    read = parse("image", body, "application/vnd.oci.image.manifest.v1+json")
    assert isinstance(read, Manifest)
    assert [each.toc for each in read.layers] == [found, None]


def test_extents() -> None:
    step = extents.STEP_BYTES
    assert extents.widened(step + 5, step + 6, 10 * step) == (step, 2 * step)
    assert extents.widened(9 * step, 9 * step + 1, 9 * step + 7) == (9 * step, 9 * step + 7)
    assert extents.within([(0, 10), (20, 30)], 5, 25) == [(5, 10), (20, 25)]
    assert extents.without([(0, 100)], [(10, 20), (15, 30), (90, 200)]) == [(0, 10), (30, 90)]
    assert extents.without([(0, 10)], [(0, 10)]) == []
    most = extents.MOST_BYTES
    assert extents.pieces([(1, most + 2)]) == [(1, most + 1), (most + 1, most + 2)]


@dataclass
class Served:
    prefetch_bytes: int = 0


@dataclass
class Layers:
    """The Layers port as far as lazy blobs use it."""

    held: set[str] = field(default_factory=set)
    served: list[dict[str, object]] = field(default_factory=list)
    applied: list[dict[str, object]] = field(default_factory=list)
    refusal: Exception | None = None
    damage: Exception | None = None
    table: anyio.Event | None = None
    """What reading a table of contents waits for."""

    async def serve_layer(self, **asked: object) -> Served:
        if self.table:
            await self.table.wait()
        if self.refusal:
            raise self.refusal
        self.served.append(asked)
        self.held.add(str(asked["diff_id"]))
        return Served()

    async def apply_layer(self, **asked: object) -> None:
        if self.damage:
            raise self.damage
        self.applied.append(asked | {"body": Path(str(asked["blob_path"])).read_bytes()})

    async def write_diff(
        self, key: str, path: str, ignore: Sequence[str] = (), *, max_mtime_s: int = 0
    ) -> WrittenDiff:
        raise UnimplementedError(f"{key} has no difference here")

    async def remove_layers(self, diff_ids: Sequence[str]) -> None:
        self.held -= set(diff_ids)

    async def list_layers(self, diff_ids: Sequence[str] = ()) -> list[Layer]:
        return [Layer(each) for each in self.held]

    async def list(self) -> Sequence[Stack]:
        return []


class Rig:
    """Lazy blobs over a real content store and a registry whose blob requests wait for `gate`."""

    def __init__(
        self,
        tmp_path: Path,
        content: LocalContent,
        registry: HttpRegistry,
        bad_registry: BadRegistry,
        group: TaskGroup,
        needs: Needs,
    ) -> None:
        self.body, self.written = estargz.made([file("big", BODY)], level=0, chunk_bytes=256 << 10)
        self.layer = Descriptor(self.written.digest, len(self.body), "", toc=Toc(self.written.toc_digest))
        self.reference = Reference.parse(f"{bad_registry.host}/some/app:v1")
        self.layers = Layers()
        self.events: list[Event] = []
        self.bad, self.content, self.registry, self.group = bad_registry, content, registry, group
        self.places = LazyPlaces(tmp_path / "lazy", tmp_path / "secrets", 1 << 20, 0.1)
        self.needs = needs
        self.ranges: list[str] = []
        self.away = False
        self.lie = False
        bad_registry.answer = self.answer
        self.blobs = self.make()

    def make(self) -> LazyBlobs:
        class Empty(Catalog):
            def __init__(self) -> None:
                pass

            def all(self) -> list[ImageRecord]:
                return []

        self.leases = Leases(Empty(), self.content, self.layers)
        self.leases._held.append(self.needs)
        return LazyBlobs(
            self.places,
            self.content,
            self.registry,
            self.layers,
            self.leases,
            emit=self.emit,
            task_group=self.group,
        )

    async def emit(self, event: Event) -> None:
        self.events.append(event)

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        asked = request.headers.get("Range", "")
        self.ranges.append(asked)
        if self.away or not asked:
            request.send_response(503 if self.away else 200)
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        start, end = (int(n) for n in asked.removeprefix("bytes=").split("-"))
        piece = self.body[start : end + 1]
        request.send_response(206)
        request.send_header("Content-Length", str(len(piece)))
        request.send_header("Content-Range", f"bytes {start}-{end}/{len(self.body)}")
        request.end_headers()
        request.wfile.write(bytes(len(piece)) if self.lie else piece)

    async def begin(self) -> bool:
        return await self.blobs.begin(self.reference, CREDENTIALS, self.layer, self.written.diff_id)

    async def complete(self) -> None:
        layer = LayerRecord(digest=self.layer.digest, size_bytes=self.layer.size, media_type="")
        record = ImageRecord(
            id="sha256:" + "1" * 64,
            repo_digests=(f"{self.reference.repository}@sha256:{'2' * 64}",),
            manifest_digest="",
            config_size_bytes=1,
            layers=(layer,),
        )
        await Whole(self.content, self.registry, self.blobs).complete(record, Needs(), CREDENTIALS)

    async def until(self, kind: type[E]) -> E:
        def found() -> E | None:
            return next((each for each in self.events if isinstance(each, kind)), None)

        event: E = await until(found, kind.__name__)
        return event


@pytest.fixture
async def rig(
    tmp_path: Path, content: LocalContent, registry: HttpRegistry, bad_registry: BadRegistry
) -> AsyncIterator[Rig]:
    async with anyio.create_task_group() as group:
        needs = Needs()
        made = Rig(tmp_path, content, registry, bad_registry, group, needs)
        needs.digests.add(made.layer.digest)
        yield made
        group.cancel_scope.cancel()


async def test_a_layer_is_served_by_its_end_alone_then_filled_and_unpacked(rig: Rig) -> None:
    assert await rig.begin()
    [served] = rig.layers.served
    assert served["toc_offset"] == rig.written.toc_offset
    assert len(rig.ranges) == 1
    assert rig.blobs.has(rig.layer.digest)
    filled = await rig.until(LayerFilled)
    assert filled.id == rig.layer.digest
    assert rig.layers.applied[0]["body"] == rig.body
    assert rig.content.has(rig.layer.digest)
    assert not rig.blobs.has(rig.layer.digest)
    assert list(rig.places.directory.iterdir()) == list(rig.places.secrets.iterdir()) == []


async def test_of_a_zstd_chunked_layer_the_table_is_all_that_is_asked_for_at_first(rig: Rig) -> None:
    rig.body, rig.written = zstdchunked.made([file("big", os.urandom(4 << 20))])
    toc = Toc(rig.written.toc_digest, rig.written.toc_offset, rig.written.toc_bytes)
    rig.layer = Descriptor(rig.written.digest, len(rig.body), zstdchunked.MEDIA_TYPE, toc=toc)
    rig.needs.digests.add(rig.layer.digest)
    assert await rig.begin()
    [served] = rig.layers.served
    assert (served["toc_offset"], served["toc_bytes"]) == (toc.offset, toc.size)
    assert served["media_type"] == zstdchunked.MEDIA_TYPE
    assert len(rig.ranges) == 1
    await rig.until(LayerFilled)
    assert rig.layers.applied[0]["body"] == rig.body


async def test_a_range_is_brought_once_for_all_who_wait(rig: Rig) -> None:
    assert await rig.begin()
    rig.ranges.clear()
    async with anyio.create_task_group() as group:
        for _ in range(5):
            group.start_soon(lambda: rig.blobs.bring(rig.layer.digest, 300_000, 300_100, again=False))
    step = extents.STEP_BYTES
    assert rig.ranges.count(f"bytes={2 * step}-{3 * step - 1}") == 1
    with Path(str(rig.layers.served[0]["blob_path"])).open("rb") as blob:
        blob.seek(300_000)
        assert blob.read(100) == rig.body[300_000:300_100]
    for start, end in ((-1, 5), (5, 5), (0, len(rig.body) + 1)):
        with pytest.raises(InvalidArgumentError):
            await rig.blobs.bring(rig.layer.digest, start, end, again=False)
    with pytest.raises(NotFoundError):
        await rig.blobs.bring("sha256:" + "0" * 64, 0, 1, again=False)


@pytest.mark.parametrize("why", ["no annotation", "small", "refused", "away", "no footer"])
async def test_what_cannot_be_served_is_left_to_the_pull_and_leaves_nothing(rig: Rig, why: str) -> None:
    match why:
        case "no annotation":
            rig.layer = Descriptor(rig.layer.digest, rig.layer.size)
        case "small":
            rig.layer = Descriptor(rig.layer.digest, 1000, toc=rig.layer.toc)
        case "refused":
            rig.layers.refusal = FailedPreconditionError("no FUSE")
        case "away":
            rig.away = True
        case _:
            rig.lie = True
    assert not await rig.begin()
    assert not rig.blobs.has(rig.layer.digest)
    assert list(rig.places.directory.iterdir()) == list(rig.places.secrets.iterdir()) == []
    async with rig.content.ingest(rig.layer) as ingest:  # nobody holds it
        assert not ingest.committed


async def test_a_layer_is_fetched_while_its_table_is_looked_at_and_pulled_without_more(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coming, "FETCH_AFTER_S", 0.0)
    rig.places = replace(rig.places, fill_delay_s=3600.0)
    rig.blobs = rig.make()
    rig.layers.table, rig.layers.refusal = anyio.Event(), InvalidArgumentError("it lies")
    began: list[bool] = []

    async def begin() -> None:
        began.append(await rig.begin())

    rig.group.start_soon(begin)
    with anyio.fail_after(patience(20)):
        await until(lambda: rig.content.has(rig.layer.digest), "all of the layer")
    assert (began, rig.layers.applied[0]["body"]) == ([], rig.body)
    rig.layers.table.set()
    await until(lambda: began == [False], "the refusal")
    assert not rig.blobs.has(rig.layer.digest)


async def test_a_layer_that_is_served_at_once_leaves_the_link_to_who_starts(rig: Rig) -> None:
    rig.places = replace(rig.places, fill_delay_s=3600.0)
    rig.blobs = rig.make()
    assert await rig.begin()
    await anyio.wait_all_tasks_blocked()
    assert len(rig.ranges) == 1
    with anyio.fail_after(patience(20)):  # until somebody waits for all of it
        await rig.complete()
    assert rig.content.has(rig.layer.digest)


async def test_it_goes_on_after_a_restart_with_its_credentials(rig: Rig) -> None:
    rig.needs.digests.add(rig.layer.digest)
    assert await rig.begin()
    rig.away = True
    for each in list(rig.blobs._coming.values()):
        await each.end(discard=False)
    [(ticket, credentials)] = rig.blobs._kept()
    assert credentials == CREDENTIALS
    assert ticket.diff_id == rig.written.diff_id
    assert b"secret" not in b"".join(path.read_bytes() for path in rig.places.directory.iterdir())
    rig.away = False
    rig.blobs = rig.make()
    rig.group.start_soon(rig.blobs.run)
    await rig.until(LayerFilled)
    assert rig.content.has(rig.layer.digest)


async def test_a_login_that_has_ended_is_replaced_by_that_of_a_later_pull(rig: Rig) -> None:
    new = Credentials("me", "new")
    right = f"Basic {base64.b64encode(b'me:new').decode()}"
    served = rig.bad.answer

    def guarded(request: BaseHTTPRequestHandler) -> None:
        if request.headers.get("Authorization") == right:
            served(request)
            return
        request.send_response(401)
        request.send_header("WWW-Authenticate", 'Basic realm="r"')
        request.send_header("Content-Length", "0")
        request.end_headers()

    assert await rig.begin()
    rig.bad.answer = guarded
    [waiting] = rig.blobs._coming.values()
    await until(lambda: waiting._trouble, "a denial")
    start, end = rig.written.toc_offset - 10, rig.written.toc_offset
    with pytest.raises(PermissionDeniedError):
        await rig.blobs.bring(rig.layer.digest, 0, 10, again=True)
    other = Reference.parse(f"{rig.reference.domain}/another/app:v1")
    await rig.blobs.renew(other, new)
    with pytest.raises(PermissionDeniedError):
        await rig.blobs.bring(rig.layer.digest, start, end, again=True)
    await rig.blobs.renew(rig.reference, new)
    assert [credentials for _, credentials in rig.blobs._kept()] == [new]
    await rig.until(LayerFilled)
    assert rig.content.has(rig.layer.digest)


@pytest.mark.integration
async def test_a_pull_hands_its_login_to_what_comes(rig: Rig, node: Node, tools: Tools) -> None:
    new = Credentials("me", "new")
    assert await rig.begin()
    [waiting] = rig.blobs._coming.values()
    node.images.lazies = rig.blobs
    rig.bad.serve(tools.image_of([tools.tar_of({"f": b"1"})]))
    await node.pull(str(rig.reference), new)
    assert waiting._spare == new
    node.images.lazies = None


async def test_a_blob_with_another_digest_is_told_and_marked(rig: Rig) -> None:
    rig.layers.damage = DataLossError("it has another diff ID")
    assert await rig.begin()
    damaged = await rig.until(LayerDamaged)
    assert "another diff ID" in damaged.error
    assert rig.blobs.failure(rig.layer.digest)
    assert not rig.content.has(rig.layer.digest)
    await rig.blobs.bring(rig.layer.digest, 0, 10, again=False)  # what is used of it still comes


async def test_who_needs_all_of_it_hears_that_it_will_never_be_whole(rig: Rig) -> None:
    rig.layers.damage = DataLossError("it has another diff ID")
    assert await rig.begin()
    with anyio.fail_after(patience(20)), pytest.raises(FailedPreconditionError, match="another diff ID"):
        await rig.complete()
    await rig.until(LayerDamaged)
    with anyio.fail_after(patience(20)), pytest.raises(FailedPreconditionError, match="another diff ID"):
        await rig.complete()


async def test_a_pull_that_is_not_lazy_hears_that_a_layer_that_comes_is_damaged(rig: Rig) -> None:
    rig.layers.damage = DataLossError("it has another diff ID")
    assert await rig.begin()
    config = json.dumps({"rootfs": {"diff_ids": [rig.written.diff_id]}}).encode()
    digest = Digest("sha256", hashlib.sha256(config).hexdigest())
    await rig.content.put(digest, config)
    manifest = Manifest(Descriptor(str(digest), len(config)), (rig.layer,))
    pull = Unpacking(
        "app",
        Resolved(digest, digest, manifest, ()),
        content=rig.content,
        layers=rig.layers,
        leases=rig.leases,
        needs=Needs(),
        want=local_platform(),
        until_whole=rig.blobs.until_whole,
    )
    with anyio.fail_after(patience(20)), pytest.raises(FailedPreconditionError, match="another diff ID"):
        await pull.run(None, ())


async def test_who_wants_it_as_a_blob_of_another_platform_hears_that_it_is_damaged(
    rig: Rig, tmp_path: Path
) -> None:
    rig.layers.damage = DataLossError("it has another diff ID")
    assert await rig.begin()
    config = b'{"rootfs": {"diff_ids": []}}'
    digest = Digest("sha256", hashlib.sha256(config).hexdigest())
    await rig.content.put(digest, config)
    manifest = Manifest(Descriptor(str(digest), len(config)), ())
    found = Resolved(digest, digest, manifest, (), Tree({}, {rig.layer.digest: rig.layer}))
    wait = rig.blobs.until_whole
    pull = Unpacking(
        "app", found, content=rig.content, layers=rig.layers, leases=rig.leases, needs=Needs(),
        want=local_platform(), until_whole=wait,
    )  # fmt: skip
    spools = Spools(tmp_path / "spools", 1 << 20)
    artifact = Artifact(
        "app", found, content=rig.content, layers=rig.layers, leases=rig.leases, needs=Needs(),
        workplace=spools, until_whole=wait,
    )  # fmt: skip
    for work in (pull, artifact):
        with anyio.fail_after(patience(20)), pytest.raises(FailedPreconditionError, match="another diff ID"):
            await work.run(None, ())


@pytest.mark.integration
async def test_who_copies_it_or_has_it_in_an_index_hears_that_it_is_damaged(
    rig: Rig, node: Node, real_registry: RealRegistry, tools: Tools
) -> None:
    image = tools.image_of([])
    document = json.loads(image.manifest)
    kind = "application/vnd.oci.image.layer.v1.tar+gzip"
    document["layers"] = [{"mediaType": kind, "digest": rig.layer.digest, "size": rig.layer.size}]
    image.manifest = json.dumps(document).encode()
    rig.bad.serve(image, blob=rig.answer)
    rig.layers.damage = DataLossError("it has another diff ID")
    assert await rig.begin()
    transfers = Transfers(
        node.images.catalog,
        node.images.leases,
        rig.content,
        Whole(rig.content, rig.registry, rig.blobs),
        rig.registry,
        emit=rig.emit,
        operations=node.images.operations,
        task_group=rig.group,
    )
    source, target = str(rig.reference), f"{real_registry.host}/lazy/app:v1"
    for moments in (
        transfers.copy(source, target, Credentials(), Credentials()),
        transfers.index(target, [(source, Credentials())], Credentials()),
    ):
        with anyio.fail_after(patience(20)), pytest.raises(FailedPreconditionError, match="another diff ID"):
            [_ async for _ in moments]


async def test_who_needs_all_of_it_hears_that_the_registry_is_away_and_gets_it_later(rig: Rig) -> None:
    assert await rig.begin()
    rig.away = True
    with anyio.fail_after(patience(20)), pytest.raises(FailedPreconditionError, match="RegistryUnavailable"):
        await rig.complete()
    rig.away = False
    with anyio.fail_after(patience(20)):
        await rig.complete()
    assert rig.content.has(rig.layer.digest)


async def test_what_nobody_needs_ends(rig: Rig) -> None:
    assert await rig.begin()
    rig.needs.digests.clear()
    await rig.blobs.sweep()
    assert rig.blobs.has(rig.layer.digest)  # snapshotd holds it: a container may stand on it
    rig.layers.held.clear()
    await rig.blobs.sweep()
    assert not rig.blobs.has(rig.layer.digest)
    assert list(rig.places.directory.iterdir()) == []


async def test_the_socket_outlives_a_lack_of_descriptors(
    rig: Rig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "ranges/ranges.sock"
    rig.group.start_soon(RangeSocket(path, 0o600, rig.blobs).run)
    await listened(path)
    with anyio.fail_after(patience(10)), socket.socket(socket.AF_UNIX) as late:
        with none_left():
            late.connect(str(path))
            await until(lambda: "accept.failed" in caplog.text, "the lack to be told")
        late.send(b"{}\n")
        await anyio.wait_readable(late)
        assert b"cannot be read" in late.recv(1000)


async def test_the_socket_answers_in_time(rig: Rig, tmp_path: Path) -> None:
    path = tmp_path / "ranges/ranges.sock"
    rig.group.start_soon(RangeSocket(path, 0o600, rig.blobs).run)
    await until(lambda: path.exists() and path.stat().st_mode & 0o777 == 0o600, "the socket")
    assert await rig.begin()
    rig.away = True

    async def ask(**asked: object) -> dict[str, object]:
        async with await anyio.connect_unix(path) as line:
            await line.send(
                json.dumps({"digest": rig.layer.digest, "start": 0, "end": 10} | asked).encode() + b"\n"
            )
            told: dict[str, object] = json.loads(await line.receive())
            return told

    with anyio.fail_after(patience(20)):
        answer = await ask(timeout_s=1)
    assert "RegistryUnavailable" in str(answer["error"])
    told = await rig.until(LayerUnread)
    assert told.id == rig.layer.digest
    rig.away = False
    assert await ask() == {"ok": True}
    assert "at once" in str((await ask(end=1 << 40))["error"])
    assert "cannot be read" in str((await ask(start="x"))["error"])
    assert await ask(damaged=True) == {"ok": True}
