"""Blobs from other nodes: over a real NATS, sockets, and peers that are not what they should be."""

import os
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import TypedDict, Unpack

import anyio
import msgspec
import pytest
import urllib3

from common.clock import now_ns
from common.errors import FailedPreconditionError, NotFoundError, PermissionDeniedError
from common.events import subjects
from common.events.bus import Bus
from imaged.adapters.content_local import LocalContent
from imaged.adapters.registry import HttpRegistry
from imaged.adapters.transport import Limits
from imaged.fetching.bandwidth import Bandwidth
from imaged.manifest import Descriptor
from imaged.peers import server as serving
from imaged.peers import source
from imaged.peers.neighbours import Neighbours, Peer, Question
from imaged.peers.seal import Seals
from imaged.peers.server import PATH, PEER_HEADER, REPOSITORY_HEADER, BlobServer, listen, request_words
from imaged.ports import Credentials
from imaged.reference import Reference
from services.imaged.tests.conftest import BadRegistry, Node, RealRegistry, Tools
from tests.support.brokers import NatsServer, nats_server
from tests.support.eventually import until
from tests.support.pace import patience

pytestmark = [pytest.mark.anyio, pytest.mark.integration]
SECRET = "s" * 32
BODY = os.urandom(3 << 20)
REPOSITORY = "reg.example/team/app"
NOBODY = Credentials()


def test_a_secret_is_long_and_nobody_elses(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    with pytest.raises(FailedPreconditionError, match="cannot be read"):
        Seals.read(path)
    path.write_text(f"{SECRET}\n")
    path.chmod(0o640)
    with pytest.raises(FailedPreconditionError, match="mode 640"):
        Seals.read(path)
    path.chmod(0o600)
    assert Seals.read(path).seal("a") == Seals(SECRET).seal("a")
    path.write_text("short")
    with pytest.raises(FailedPreconditionError, match="5 characters"):
        Seals.read(path)


def test_a_seal_holds_words_apart_and_grows_old() -> None:
    seals, now = Seals(SECRET), now_ns()
    seals.check(seals.seal("a", "b", now), now, "a", "b")
    for words in (("ab", ""), ("b", "a"), ("a",)):
        with pytest.raises(PermissionDeniedError, match="wrong"):
            seals.check(seals.seal("a", "b", now), now, *words)
    for at_ns in (now - 60_000_000_000, now + 60_000_000_000):
        with pytest.raises(PermissionDeniedError, match="old"):
            seals.check(seals.seal("a", at_ns), at_ns, "a")
    with pytest.raises(PermissionDeniedError, match="wrong"):
        seals.check("☃", now, "a")


class Asking(TypedDict, total=False):
    """What a question for a blob has, where it is not the usual one."""

    secret: str
    node: str
    repository: str
    digest: str
    at_ns: int
    headers: dict[str, str]


class Giver:
    """A node that gives one blob of one repository."""

    def __init__(self, path: Path, digest: str, *, cap: int = 0, connections: int = 8) -> None:
        self.path, self.digest = path, digest
        self.server = BlobServer("a", Seals(SECRET), self._path_of, Bandwidth(cap), connections)
        self.listening = listen("127.0.0.1:0")
        self.port: int = self.listening.getsockname()[1]
        self.address = f"127.0.0.1:{self.port}"

    def _path_of(self, repository: str, digest: str) -> Path | None:
        return self.path if (repository, digest) == (REPOSITORY, self.digest) else None

    def ask(self, *, secret: str = SECRET, node: str = "a", repository: str = REPOSITORY, digest: str = "",
            at_ns: int = 0, headers: dict[str, str] | None = None) -> urllib3.BaseHTTPResponse:  # fmt: skip
        digest, at_ns = digest or self.digest, at_ns or now_ns()
        seal = Seals(secret).seal(*request_words("b", node, REPOSITORY, digest), at_ns)
        sent = {PEER_HEADER: f"b {at_ns} {seal}", REPOSITORY_HEADER: repository} | (headers or {})
        url = f"http://{self.address}{PATH}{digest}"
        return urllib3.request("GET", url, headers=sent, retries=False, timeout=patience(10))


@pytest.fixture
async def giver(tmp_path: Path, tools: Tools) -> AsyncIterator[Giver]:
    path = tmp_path / "blob"
    path.write_bytes(BODY)
    made = Giver(path, tools.sha256(BODY))
    async with anyio.create_task_group() as group:
        group.start_soon(made.server.serve, made.listening)
        yield made
        group.cancel_scope.cancel()
    made.listening.close()


async def asked(giver: Giver, **how: Unpack[Asking]) -> urllib3.BaseHTTPResponse:
    return await anyio.to_thread.run_sync(lambda: giver.ask(**how))


async def test_a_blob_is_given_whole_and_in_ranges(giver: Giver) -> None:
    answer = await asked(giver)
    assert (answer.status, answer.data) == (200, BODY)
    answer = await asked(giver, headers={"Range": "bytes=100-299"})
    assert (answer.status, answer.data) == (206, BODY[100:300])
    assert answer.headers["Content-Range"] == f"bytes 100-299/{len(BODY)}"
    answer = await asked(giver, headers={"Range": f"bytes={len(BODY) - 5}-"})
    assert answer.data == BODY[-5:]
    for bad in (f"bytes={len(BODY)}-", "bytes=5-4", "bytes=-5", "bytes=0-1,3-4", "lines=1-2"):
        assert (await asked(giver, headers={"Range": bad})).status == 416


@pytest.mark.parametrize(
    ("how", "status"),
    [
        ({"secret": "t" * 32}, 401),
        ({"node": "c"}, 401),
        ({"at_ns": 1}, 401),
        ({"repository": "reg.example/team/other"}, 401),
        ({"headers": {PEER_HEADER: "b"}}, 401),
        ({"headers": {PEER_HEADER: "b 9 "}}, 401),
        ({"headers": {PEER_HEADER: ""}}, 401),
        ({"digest": "sha256:" + "0" * 64}, 404),
        ({"digest": "blob"}, 404),
    ],
)
async def test_who_may_not_have_it_gets_nothing(giver: Giver, how: Asking, status: int) -> None:
    answer = await asked(giver, **how)
    assert (answer.status, answer.data) == (status, b"")


async def test_a_blob_is_not_given_under_the_name_of_another_repository(
    node: Node, real_registry: RealRegistry, tools: Tools
) -> None:
    private = tools.image_of([tools.tar_of({"secret": BODY})], compression="none")
    name = real_registry.push("private/app", "v1", private)
    public = real_registry.push("public/app", "v1", tools.image_of([tools.tar_of({"f": b"f"})]))
    for each in (name, public):
        await node.pull(each)
    digest = private.layers[0]["digest"]
    host = real_registry.host
    assert node.images.shared(f"{host}/private/app", digest) == Path(node.content.path(digest))
    for repository in (
        f"{host}/public/app",
        f"{host}/private",
        f"{host}/private/ap",
        "",
        f"{host}/private/app:v1",
    ):
        assert node.images.shared(repository, digest) is None
    await node.images.remove(name)
    assert node.images.shared(f"{host}/private/app", digest) is None


@pytest.mark.parametrize(
    "sent", [b"", b"GET /v1/x HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 20_000, b"\0" * 100, b"GET\r\n\r\n"]
)
async def test_who_speaks_no_http_or_too_slowly_is_left(
    giver: Giver, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(serving, "HEAD_S", 0.3)

    def talk() -> bytes:
        with socket.create_connection(("127.0.0.1", giver.port), patience(10)) as client:
            got = b""
            with suppress(ConnectionError):
                client.sendall(sent)
                while piece := client.recv(1000):
                    got += piece
            return got

    assert await anyio.to_thread.run_sync(talk) == b""
    assert (await asked(giver)).status == 200


async def test_one_connection_too_many_is_closed_and_none_is_offered(tmp_path: Path, tools: Tools) -> None:
    path = tmp_path / "blob"
    path.write_bytes(BODY)
    giver = Giver(path, tools.sha256(BODY), connections=1)
    async with anyio.create_task_group() as group:
        group.start_soon(giver.server.serve, giver.listening)
        with socket.create_connection(("127.0.0.1", giver.port)) as first:
            await until(lambda: not giver.server.gives(REPOSITORY, giver.digest), "the image to go")
            with pytest.raises(urllib3.exceptions.HTTPError):
                await asked(giver)
            first.shutdown(socket.SHUT_RDWR)
        await until(lambda: giver.server.gives(REPOSITORY, giver.digest), "the image to come")
        assert (await asked(giver)).status == 200
        group.cancel_scope.cancel()
    giver.listening.close()


async def test_what_is_given_stays_under_its_cap(tmp_path: Path, tools: Tools) -> None:
    path = tmp_path / "blob"
    path.write_bytes(BODY)
    giver = Giver(path, tools.sha256(BODY), cap=3_000_000)
    async with anyio.create_task_group() as group:
        group.start_soon(giver.server.serve, giver.listening)
        start = time.monotonic()
        assert (await asked(giver)).data == BODY
        assert time.monotonic() - start > 0.5
        group.cancel_scope.cancel()
    giver.listening.close()


@pytest.fixture
def nats(tmp_path: Path) -> Iterator[NatsServer]:
    (tmp_path / "nats").mkdir()
    with nats_server(tmp_path / "nats") as server:
        yield server


def neighbours(nats: NatsServer, node: str, secret: str = SECRET, answer_s: float = 5.0) -> Neighbours:
    return Neighbours(node, nats.url, Seals(secret), answer_s)


async def met(made: Neighbours) -> None:
    bus = await until(lambda: made._bus, "a connection to NATS")
    with anyio.fail_after(patience(15)):
        # the server has heard of the subscriptions once it has answered what came after them
        await bus._client.flush()


async def test_nodes_find_who_has_a_blob_and_strangers_find_nobody(nats: NatsServer) -> None:
    holder, asker = neighbours(nats, "a"), neighbours(nats, "b")
    stranger = neighbours(nats, "x", "t" * 32, 0.2)
    questions: list[tuple[str, str]] = []

    def gives(repository: str, digest: str) -> bool:
        questions.append((repository, digest))
        return digest == "sha256:here"

    async with anyio.create_task_group() as group:
        group.start_soon(holder.run, "10.0.0.1:5", gives)
        group.start_soon(asker.run, "10.0.0.2:5", lambda *_: False)
        group.start_soon(stranger.run, "10.0.0.3:5", lambda *_: True)
        for each in (holder, asker, stranger):
            await met(each)
        (found,) = await asker.holders(REPOSITORY, "sha256:here")
        assert (found.node, found.address) == ("a", "10.0.0.1:5")
        assert questions == [(REPOSITORY, "sha256:here")]
        assert await stranger.holders(REPOSITORY, "sha256:here") == []
        asker._answer_s = 0.2
        assert await asker.holders(REPOSITORY, "sha256:absent") == []
        # what is no question, and an answer that was not asked for, change nothing
        bus = await Bus.connect(nats.url)
        old = Question(node="b", number="1", repository="r", digest="sha256:here", at_ns=1)
        for data in (b"", b"\xc1", msgspec.msgpack.encode(old), msgspec.msgpack.encode({"node": "n" * 5000})):
            await bus.tell(subjects.peers_ask(), data)
            await bus.tell(subjects.peers_answer("b"), data)
        await bus._client.flush()
        await bus.close()
        asker._answer_s = 5.0
        assert await asker.holders(REPOSITORY, "sha256:here") == [found]
        assert asker._asked == {}
        group.cancel_scope.cancel()


async def test_neighbours_are_met_again_after_nats_was_away(nats: NatsServer) -> None:
    holder, asker = neighbours(nats, "a"), neighbours(nats, "b")
    async with anyio.create_task_group() as group:
        group.start_soon(holder.run, "10.0.0.1:5", lambda *_: True)
        group.start_soon(asker.run, "10.0.0.2:5", lambda *_: False)
        await met(holder)
        await met(asker)
        nats.kill()
        await until(lambda: not (asker._bus or holder._bus), "the end of both connections")
        assert await asker.holders(REPOSITORY, "sha256:any") == []
        await anyio.to_thread.run_sync(nats.start)
        await met(holder)
        await met(asker)
        assert await asker.holders(REPOSITORY, "sha256:any")
        group.cancel_scope.cancel()


class Known(Neighbours):
    """Neighbours that were found already."""

    def __init__(self, *peers: Peer) -> None:
        super().__init__("b", "nats://127.0.0.1:1", Seals(SECRET), 1.0)
        self.peers = list(peers)
        self.asked_for: list[tuple[str, str]] = []

    async def holders(self, repository: str, digest: str) -> list[Peer]:
        self.asked_for.append((repository, digest))
        return self.peers


class Pull:
    """Of an image whose layer is `BODY`, from a stand-in registry at reg.example."""

    def __init__(
        self, tools: Tools, tmp_path: Path, bad_registry: BadRegistry, content: LocalContent
    ) -> None:
        self.image = tools.image_of([BODY], compression="none")
        self.content = content
        bad_registry.serve(self.image)
        directory = tmp_path / "certs.d" / "reg.example"
        directory.mkdir(parents=True)
        (directory / "hosts.toml").write_text(f'server = "http://{bad_registry.host}"\n')
        self.certs, self._registry = str(tmp_path / "certs.d"), bad_registry

    async def run(self, known: Neighbours, *, resolve: bool = True) -> int:
        """How often the registry was asked for the blob."""
        registry = HttpRegistry(self.certs, 6, Limits(retry_wait_s=0.01), neighbours=known)
        found = self.image.layers[0]
        wanted = Descriptor(found["digest"], found["size"])
        async with registry.repository(Reference.parse(f"{REPOSITORY}:v1"), NOBODY) as repository:
            if resolve:
                await repository.resolve()
            async with self.content.ingest(wanted) as ingest:
                await repository.fetch(wanted, ingest.partial)
                await ingest.commit()
        assert await self.content.read(wanted.digest) == BODY
        return len([path for _, path, _ in self._registry.requests if "/blobs/" in path])


@pytest.fixture
def pull(tools: Tools, tmp_path: Path, bad_registry: BadRegistry, content: LocalContent) -> Pull:
    return Pull(tools, tmp_path, bad_registry, content)


async def test_a_peer_is_asked_before_the_registry(pull: Pull, giver: Giver) -> None:
    known = Known(Peer("a", giver.address))
    assert await pull.run(known) == 0
    assert known.asked_for == [(REPOSITORY, giver.digest)]


async def test_who_has_not_shown_the_registry_that_it_may_pull_asks_no_peer(pull: Pull, giver: Giver) -> None:
    known = Known(Peer("a", giver.address))
    assert await pull.run(known, resolve=False) == 1
    assert known.asked_for == []


async def test_who_may_not_pull_gets_nothing_of_a_peer(
    pull: Pull, giver: Giver, bad_registry: BadRegistry, tools: Tools
) -> None:
    known = Known(Peer("a", giver.address))
    bad_registry.answer = lambda h: tools.reply(h, 404)
    with pytest.raises(NotFoundError):
        await pull.run(known)
    assert known.asked_for == []
    assert pull.content.all() == []


@pytest.mark.parametrize(
    "how", ["lies", "is away", "refuses", "redirects", "cuts", "is slow", "stalls", "is no server"]
)
async def test_a_peer_that_fails_costs_no_pull(
    pull: Pull, tools: Tools, bad_registry: BadRegistry, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(source, "STALL_S", 0.5)
    monkeypatch.setattr("imaged.adapters.blobs.SLOW_S", 0.3)
    peer = tools.bad_registry()

    def answer(h: BaseHTTPRequestHandler) -> None:
        if how == "lies":
            tools.reply(h, 200, bytes(len(BODY)))
        elif how == "redirects":
            tools.reply(h, 307, headers={"Location": f"http://{bad_registry.host}/v2/secret/blobs/x"})
        elif how == "is no server":
            h.wfile.write(b"SSH-2.0\r\n")
            h.close_connection = True
        elif how == "refuses":
            tools.reply(h, 401)
        else:
            h.send_response(200)
            h.send_header("Content-Length", str(len(BODY)))
            h.end_headers()
            h.wfile.write(BODY[:100_000])
            place = 100_000
            with suppress(OSError):
                while how == "is slow" and place < len(BODY):
                    h.wfile.write(BODY[place : place + 1000])
                    place += 1000
                    peer.release.wait(0.05)
            if how == "stalls":
                peer.release.wait(patience(10))
            h.close_connection = True

    peer.answer = answer
    if how == "is away":
        peer.close()
    try:
        assert await pull.run(Known(Peer("a", peer.host))) >= 1
    finally:
        if how != "is away":
            peer.close()
    assert all("/secret/" not in path for _, path, _ in bad_registry.requests)
