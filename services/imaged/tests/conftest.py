"""A real registry, images to push, a stand-in registry that misbehaves, and the image service over memory layers."""

import gzip
import hashlib
import io
import json
import signal
import subprocess
import tarfile
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TypedDict

import anyio
import pytest
import urllib3
import zstandard
from redis.asyncio import Redis

from common.errors import DataLossError, UnavailableError, UnimplementedError
from common.events.schema import Event, envelope_decoder
from common.records import RecordStore
from common.records.keys import outbox_key
from common.records.redis import connect
from common.sys import linux
from devtools.ports import free_port, wait_for_port
from imaged.adapters.content_local import LocalContent
from imaged.adapters.registry import HttpRegistry
from imaged.adapters.spool import Spools
from imaged.adapters.transport import Limits
from imaged.manifest import local_platform
from imaged.ports import Credentials, Served, WrittenDiff
from imaged.record import ImageRecord
from imaged.service import Images
from imaged.transfer import Transfers
from node.health import trouble
from services.imaged.tests.onelayer import OneLayer
from tests.support.eventually import eventually
from tests.support.service import started

OCI = "application/vnd.oci.image."
DOCKER = "application/vnd.docker."


def sha256(body: bytes) -> str:
    return "sha256:" + hashlib.sha256(body).hexdigest()


def tar_of(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return out.getvalue()


class Blob(TypedDict):
    """A descriptor of a layer, as it is in a manifest."""

    mediaType: str
    digest: str
    size: int


@dataclass
class ImageParts:
    """An image as its blobs and its manifest."""

    blobs: dict[str, bytes]
    manifest: bytes
    media_type: str
    config_digest: str
    diff_ids: list[str]
    layers: list[Blob] = field(default_factory=list)

    @property
    def digest(self) -> str:
        return sha256(self.manifest)


def image_of(
    layers: list[bytes], *, compression: str = "gzip", docker: bool = False, **extra: object
) -> ImageParts:
    """An image of tars; compression is gzip, zstd or none."""
    packs: dict[str, Callable[[bytes], bytes]]
    packs = {"gzip": gzip.compress, "zstd": zstandard.compress, "none": bytes}
    pack = packs[compression]
    blobs: dict[str, bytes] = {}
    descriptors: list[Blob] = []
    stem = DOCKER + "image.rootfs.diff.tar" if docker else OCI + "layer.v1.tar"
    suffix = "" if compression == "none" else ("." if docker else "+") + compression
    for layer in layers:
        blob = pack(layer)
        blobs[sha256(blob)] = blob
        descriptors.append({"mediaType": stem + suffix, "digest": sha256(blob), "size": len(blob)})
    diff_ids = [sha256(layer) for layer in layers]
    platform = local_platform()
    config = json.dumps(
        {
            "os": "linux",
            "architecture": platform.architecture,
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        }
        | extra
    ).encode()
    blobs[sha256(config)] = config
    kind = DOCKER + "distribution.manifest.v2+json" if docker else OCI + "manifest.v1+json"
    config_kind = DOCKER + "container.image.v1+json" if docker else OCI + "config.v1+json"
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": kind,
            "config": {"mediaType": config_kind, "digest": sha256(config), "size": len(config)},
            "layers": descriptors,
        }
    ).encode()
    return ImageParts(blobs, manifest, kind, sha256(config), diff_ids, descriptors)


def index_of(*images: tuple[ImageParts, dict[str, str]], docker: bool = False) -> tuple[bytes, str]:
    kind = DOCKER + "distribution.manifest.list.v2+json" if docker else OCI + "index.v1+json"
    manifests = [
        {"mediaType": i.media_type, "digest": i.digest, "size": len(i.manifest), "platform": p}
        for i, p in images
    ]
    return json.dumps({"schemaVersion": 2, "mediaType": kind, "manifests": manifests}).encode(), kind


class RealRegistry:
    """docker-registry, filled by plain HTTP."""

    def __init__(self, port: int, address: str = "127.0.0.1") -> None:
        self.host = f"{address}:{port}"
        self._http = urllib3.PoolManager()

    def push(self, path: str, tag: str, image: ImageParts) -> str:
        for digest, body in image.blobs.items():
            start = self._http.request("POST", f"http://{self.host}/v2/{path}/blobs/uploads/")
            location = start.headers["Location"]
            join = "&" if "?" in location else "?"
            put = self._http.request("PUT", f"{location}{join}digest={digest}", body=body)
            assert put.status == 201, put.data
        return self.put_manifest(path, tag, image.manifest, image.media_type)

    def put_manifest(self, path: str, tag: str, body: bytes, kind: str) -> str:
        put = self._http.request(
            "PUT", f"http://{self.host}/v2/{path}/manifests/{tag}", body=body, headers={"Content-Type": kind}
        )
        assert put.status == 201, put.data
        return f"{self.host}/{path}:{tag}"


@pytest.fixture(scope="session")
def real_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealRegistry]:
    root = tmp_path_factory.mktemp("registry")
    port = free_port()
    (root / "config.yml").write_text(
        "version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\n"
        f"storage: {{filesystem: {{rootdirectory: {root}/data}}}}\nhttp: {{addr: 127.0.0.1:{port}}}\n"
    )
    with (root / "log").open("wb") as log:
        server = subprocess.Popen(
            ["docker-registry", "serve", str(root / "config.yml")], stdout=log, stderr=log
        )
    try:
        wait_for_port(port)
        yield RealRegistry(port)
    finally:
        server.kill()
        server.wait()


Answer = Callable[[BaseHTTPRequestHandler], None]


class _Quiet(ThreadingHTTPServer):
    """Clients that hang up are what these tests are about."""

    def handle_error(self, request: object, client_address: object) -> None: ...


class BadRegistry:
    """A registry stand-in: `answer` decides what each request gets; requests are recorded."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.answer: Answer = lambda h: reply(h, 404)
        self.release = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _any(self) -> None:
                outer.requests.append((self.command, self.path, dict(self.headers)))
                outer.answer(self)

            do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = _any  # noqa: N815 - the library's names

            def log_message(self, *args: object) -> None: ...

        self._server = _Quiet(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.host = f"127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def serve_but(self, image: ImageParts, digest: str) -> None:
        """Answer for an image, with one blob after `release` alone."""

        def blob(h: BaseHTTPRequestHandler) -> None:
            if h.path.endswith(digest):
                self.release.wait(60)
            reply(h, 200, image.blobs[h.path.rpartition("/")[2]])

        self.serve(image, blob)

    def serve(self, image: ImageParts, blob: Answer | None = None) -> None:
        """Answer properly for an image, but for what `blob` does with the layers."""

        def answer(h: BaseHTTPRequestHandler) -> None:
            name = h.path.rpartition("/")[2].partition("?")[0]
            if "/manifests/" in h.path:
                reply(
                    h, 200, image.manifest,
                    {"Content-Type": image.media_type, "Docker-Content-Digest": image.digest},
                )  # fmt: skip
            elif blob is not None and name != image.config_digest:
                blob(h)
            else:
                reply(h, 200, image.blobs[name])

        self.answer = answer

    def close(self) -> None:
        self.release.set()
        self._server.shutdown()
        self._server.server_close()


def reply(
    h: BaseHTTPRequestHandler, status: int, body: bytes = b"", headers: dict[str, str] | None = None
) -> None:
    h.send_response(status)
    for name, value in (headers or {}).items():
        h.send_header(name, value)
    if "Content-Length" not in (headers or {}):
        h.send_header("Content-Length", str(len(body)))
    h.end_headers()
    if h.command != "HEAD":
        h.wfile.write(body)


@pytest.fixture
def bad_registry() -> Iterator[BadRegistry]:
    server = BadRegistry()
    yield server
    server.close()


class Daemons:
    """imaged and snapshotd in directories of their own."""

    def __init__(
        self,
        root: Path,
        redis_url: str,
        *,
        node: str = "n",
        netns: str = "",
        nats: str = "nats://127.0.0.1:1",
        **imaged: str,
    ) -> None:
        self.root = root
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._inside = ["nsenter", f"--net=/run/netns/{netns}"] if netns else []
        self._imaged = {"CERTS_DIR": str(root / "certs.d"), "STALL_TIMEOUT_S": "5"} | imaged
        self._settings = {
            "NODE": node,
            "RUN_DIR": str(root / "run"),
            "DATA_DIR": str(root / "data"),
            "REDIS_URL": redis_url,
            "NATS_URL": nats,
        }

    def start(self, name: str, **more: str) -> None:
        """Start it; one that was there before serves again when this returns."""
        again = Path(self.socket(name)).exists()
        settings = self._settings | (self._imaged if name == "imaged" else {})
        self._running[name] = started(
            name, self.root / f"{name}.log", settings, inside=self._inside, environment=more
        )
        if again:
            eventually(
                lambda: not trouble("grpc", self.socket(name)), within_s=30, what=f"{name} to serve again"
            )

    def end(self, name: str, number: int = signal.SIGTERM) -> int:
        daemon = self._running.pop(name)
        daemon.send_signal(number)
        return daemon.wait(20)

    def pid(self, name: str) -> int:
        return self._running[name].pid

    def wait(self, name: str) -> int:
        return self._running.pop(name).wait(20)

    def close(self) -> None:
        for name in list(self._running):
            self.end(name)
        # snapshotd keeps its mounts for the containers that outlive it
        mounted = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
        for path in reversed([p for p in mounted if p.startswith(f"{self.root}/")]):
            linux.umount(path, linux.MNT_DETACH)

    def socket(self, name: str) -> str:
        return str(self.root / "run" / f"{name}.sock")


@dataclass
class Tools:
    """What test modules share."""

    sha256 = staticmethod(sha256)
    tar_of = staticmethod(tar_of)
    image_of = staticmethod(image_of)
    index_of = staticmethod(index_of)
    reply = staticmethod(reply)
    bad_registry = BadRegistry
    daemons = Daemons
    real_registry = RealRegistry

    @staticmethod
    def stack(diff_ids: list[str]) -> "Stack":
        return Stack(diff_ids)


@pytest.fixture(scope="session")
def tools() -> Tools:
    return Tools()


@pytest.fixture
async def content(tmp_path: Path) -> LocalContent:
    store = LocalContent(tmp_path / "imaged")
    await store.load()
    return store


@pytest.fixture
def registry(tmp_path: Path) -> HttpRegistry:
    limits = Limits(connect_timeout_s=2, stall_timeout_s=1, retry_wait_s=0.01, max_retry_after_s=0.05)
    return HttpRegistry(str(tmp_path / "certs.d"), 6, limits)


@pytest.fixture
def layer(tools: Tools, registry: HttpRegistry, content: LocalContent, bad_registry: BadRegistry) -> OneLayer:
    made = OneLayer(tools, registry, content, bad_registry.host)
    bad_registry.serve(made.image)
    return made


@pytest.fixture(scope="module")
def redis_url() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="slipway-") as directory:
        path = Path(directory) / "redis.sock"
        server = subprocess.Popen(
            ["redis-server", "--port", "0", "--unixsocket", str(path), "--save", "", "--dir", directory],
            stdout=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 10
        while not path.exists():
            assert server.poll() is None
            assert time.monotonic() < deadline
        yield f"unix://{path}"
        server.kill()
        server.wait()


NOBODY = Credentials()


@dataclass
class Layer:
    diff_id: str
    size_bytes: int = 1000


@dataclass
class Stack:
    """A snapshot."""

    diff_ids: list[str]
    key: str = "c1"


class MemoryLayers:
    """The Layers port in memory: decompresses and checks the diff ID, as snapshotd does."""

    def __init__(self, digest_of: Callable[[bytes], str]) -> None:
        self._digest_of = digest_of
        self.held: set[str] = set()
        self.applied: list[str] = []
        self.snapshots: list[Stack] = []
        self.away = False
        self.gate = anyio.Event()
        self.gate.set()

    async def apply_layer(
        self, *, diff_id: str, digest: str, blob_path: str, media_type: str, size_bytes: int
    ) -> Layer:
        await self.gate.wait()
        if self.away:
            raise UnavailableError("snapshotd is away")
        body = Path(blob_path).read_bytes()
        assert len(body) == size_bytes
        if media_type.endswith("gzip"):
            body = gzip.decompress(body)
        elif media_type.endswith("zstd"):
            body = zstandard.decompress(body)
        if self._digest_of(body) != diff_id:
            raise DataLossError(f"layer {digest} does not have the diff ID {diff_id}")
        self.held.add(diff_id)
        self.applied.append(diff_id)
        return Layer(diff_id)

    async def serve_layer(self, **_: object) -> Served:
        raise UnimplementedError("these layers are not served while they come")

    async def write_diff(
        self, key: str, path: str, ignore: Sequence[str] = (), *, max_mtime_s: int = 0
    ) -> WrittenDiff:
        raise UnimplementedError(f"{key} has no difference here")

    async def list_layers(self, diff_ids: Sequence[str] = ()) -> list[Layer]:
        return [Layer(d) for d in sorted(self.held) if not diff_ids or d in diff_ids]

    async def remove_layers(self, diff_ids: Sequence[str]) -> None:
        self.held -= set(diff_ids)

    async def list(self) -> "list[Stack]":
        return self.snapshots


@dataclass
class Node:
    images: Images
    layers: MemoryLayers
    content: LocalContent
    records: RecordStore[ImageRecord]
    redis: Redis

    async def pull(self, text: str, credentials: Credentials = NOBODY) -> ImageRecord:
        last = [progress async for progress in self.images.pull(text, credentials)][-1]
        assert last.image is not None
        return last.image

    async def events(self) -> list[Event]:
        told: list[Event] = []
        for _, fields in await self.redis.xrange(outbox_key("n", "imaged")) or ():
            assert fields
            packed = fields[b"envelope"]
            assert isinstance(packed, bytes)
            event = envelope_decoder.decode(packed).decoded()
            assert event is not None
            told.append(event)
        return told


@pytest.fixture
async def node(
    redis_url: str, content: LocalContent, registry: HttpRegistry, tools: Tools, tmp_path: Path
) -> AsyncIterator[Node]:
    redis = await connect(redis_url)
    await redis.flushall()
    records = RecordStore(
        redis, ImageRecord, node="n", owner="imaged", kind="image", directory=tmp_path / "imaged" / "images"
    )
    await records.load()
    layers = MemoryLayers(tools.sha256)
    async with anyio.create_task_group() as group:
        images = Images(
            records, content, registry, layers, task_group=group,
            workplace=Spools(content.ingests, 1 << 20), pinned=("*/pause:*",),
        )  # fmt: skip
        yield Node(images, layers, content, records, redis)
        group.cancel_scope.cancel()
    await redis.aclose()


@pytest.fixture
async def transfers(node: Node, registry: HttpRegistry) -> AsyncIterator[Transfers]:
    async with anyio.create_task_group() as group:
        yield Transfers(
            node.images.catalog,
            node.images.leases,
            node.content,
            node.images.whole,
            registry,
            emit=node.records.emit,
            operations=node.images.operations,
            task_group=group,
        )
        group.cancel_scope.cancel()
