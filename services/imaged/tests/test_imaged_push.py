"""Pushes and copies: to a real registry, and to a stand-in that cuts, forgets, redirects and asks for tokens."""

import base64
import json
import os
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import anyio
import anyio.to_thread
import pytest
import urllib3

from common.errors import (
    AbortedError,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
    ResourceExhaustedError,
    SlipwayError,
    UnknownError,
)
from common.events.schema import ImagePushed
from imaged.adapters import upload
from imaged.adapters.registry import HttpRegistry
from imaged.adapters.registry_auth import TokenCache
from imaged.adapters.transport import Limits, Transport
from imaged.fetching.interruptible import Stop
from imaged.hosts import Host
from imaged.manifest import Descriptor, local_platform
from imaged.ports import Credentials
from imaged.record import ImageRecord
from imaged.transfer import BlobState, Transfer, Transfers
from services.imaged.tests.conftest import BadRegistry, ImageParts, Node, RealRegistry, Tools
from tests.support.pace import patience

pytestmark = [pytest.mark.anyio, pytest.mark.integration]
NOBODY = Credentials()


@pytest.fixture
def registry(tmp_path: Path) -> HttpRegistry:
    """Patient, so that a busy machine makes no cuts but those of the tests."""
    limits = Limits(connect_timeout_s=10, stall_timeout_s=20, retry_wait_s=0.01, max_retry_after_s=0.05)
    return HttpRegistry(str(tmp_path / "certs.d"), 6, limits)


async def last(moments: AsyncIterator[Transfer]) -> Transfer:
    return [moment async for moment in moments][-1]


def states(transfer: Transfer) -> set[BlobState]:
    return {status.state for status in transfer.blobs}


def stored(host: str, path: str, name: str) -> tuple[str, str]:
    """Digest and type of a manifest at a registry."""
    kinds = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json"
    answer = urllib3.request("GET", f"http://{host}/v2/{path}/manifests/{name}", headers={"Accept": kinds})
    assert answer.status == 200, answer.data
    return answer.headers["Docker-Content-Digest"], answer.headers["Content-Type"]


Pulled = tuple[ImageParts, ImageRecord]
"""What a registry has, and the record of it here."""


@pytest.fixture
async def pulled(node: Node, real_registry: RealRegistry, tools: Tools) -> Pulled:
    made = tools.image_of([tools.tar_of({"base": b"b" * 9000}), tools.tar_of({"f": os.urandom(3_000_000)})])
    record = await node.pull(real_registry.push("push/from", "v1", made))
    return made, record


Fault = Callable[[BaseHTTPRequestHandler, int], None]


@dataclass
class Uploads:
    """The pushing half of a registry, in memory."""

    blobs: dict[str, bytes] = field(default_factory=dict)
    manifests: dict[str, bytes] = field(default_factory=dict)
    sessions: dict[str, bytes] = field(default_factory=dict)
    faults: dict[str, list[Fault | None]] = field(default_factory=dict)
    """By method: what to do in place of the next answers."""

    def answer(self, tools: Tools, h: BaseHTTPRequestHandler) -> None:
        length = int(h.headers.get("Content-Length") or 0)
        parts = urlsplit(h.path)
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        fault = self.faults.get(h.command, [])
        if fault:
            act = fault.pop(0)
            if act is not None:
                act(h, length)
                return
        body = h.rfile.read(length)
        name = parts.path.rpartition("/")[2]
        if "/manifests/" in parts.path:
            self.manifests[name] = body
            tools.reply(h, 201)
        elif h.command == "HEAD":
            tools.reply(h, 200 if name in self.blobs else 404)
        elif h.command == "POST":
            session = os.urandom(8).hex()
            self.sessions[session] = b""
            tools.reply(h, 202, headers={"Location": f"/v2/some/app/blobs/uploads/{session}"})
        elif name not in self.sessions:
            tools.reply(h, 404, b'{"errors":[{"code":"BLOB_UPLOAD_UNKNOWN","message":"gone"}]}')
        elif h.command == "PATCH":
            start = int(h.headers["Content-Range"].partition("-")[0])
            assert start == len(self.sessions[name])
            self.sessions[name] += body
            tools.reply(h, 202, headers={"Location": h.path, "Range": f"0-{len(self.sessions[name]) - 1}"})
        elif h.command == "GET":
            tools.reply(h, 204, headers={"Range": f"0-{max(len(self.sessions[name]) - 1, 0)}"})
        elif h.command == "PUT":
            whole = self.sessions.pop(name) + body
            assert tools.sha256(whole) == query["digest"]
            self.blobs[query["digest"]] = whole
            tools.reply(h, 201)


@pytest.fixture
def uploads(bad_registry: BadRegistry, tools: Tools) -> Uploads:
    made = Uploads()
    bad_registry.answer = lambda h: made.answer(tools, h)
    return made


async def test_an_image_is_pushed_with_its_digest_and_comes_back(
    node: Node, transfers: Transfers, real_registry: RealRegistry, pulled: Pulled
) -> None:
    made, record = pulled
    target = f"{real_registry.host}/push/other:v2"
    moments = [m async for m in transfers.push(record.repo_tags[0], target, NOBODY)]
    assert moments[-1].digest == made.digest
    assert states(moments[-1]) == {BlobState.MOUNTED}
    assert stored(real_registry.host, "push/other", "v2") == (made.digest, made.media_type)
    assert (
        f"{real_registry.host}/push/other@{made.digest}" in node.images.catalog.find(record.id).repo_digests
    )
    again = await last(transfers.push(record.id[:19], target, NOBODY))
    assert states(again) == {BlobState.THERE}
    await node.images.remove(record.id)
    assert (await node.pull(target)).id == record.id
    pushed = [e for e in await node.events() if isinstance(e, ImagePushed)]
    assert [(e.id, e.reference, e.sent_bytes) for e in pushed] == [(made.digest, target, 0)] * 2


async def test_a_mirror_is_never_pushed_to(
    transfers: Transfers,
    bad_registry: BadRegistry,
    uploads: Uploads,
    pulled: Pulled,
    tools: Tools,
    tmp_path: Path,
) -> None:
    """Not even one that says it could: an image would be where nobody looks for it."""
    made, record = pulled
    mirror = tools.bad_registry()
    directory = tmp_path / "certs.d" / bad_registry.host
    directory.mkdir(parents=True)
    (directory / "hosts.toml").write_text(
        f'server = "http://{bad_registry.host}"\n[host."http://{mirror.host}"]\n'
        'capabilities = ["pull", "resolve", "push"]\n'
    )
    try:
        await last(transfers.push(record.repo_tags[0], f"{bad_registry.host}/some/app:v1", NOBODY))
        assert uploads.manifests == {"v1": made.manifest}
        assert mirror.requests == []
    finally:
        mirror.close()


async def test_blobs_are_sent_where_nobody_has_them(
    transfers: Transfers, bad_registry: BadRegistry, uploads: Uploads, pulled: Pulled
) -> None:
    made, record = pulled
    done = await last(transfers.push(record.id, f"{bad_registry.host}/some/app:v1", NOBODY))
    assert (done.digest, states(done)) == (made.digest, {BlobState.SENT})
    assert uploads.blobs == made.blobs
    assert uploads.manifests == {"v1": made.manifest}
    assert [s.sent_bytes for s in done.blobs] == [s.blob.size for s in done.blobs]
    methods = [method for method, _, _ in bad_registry.requests]
    assert methods.index("PUT") > methods.index("POST")
    assert "/manifests/" in bad_registry.requests[-1][1]


async def test_an_index_is_pushed_from_below(
    node: Node,
    transfers: Transfers,
    real_registry: RealRegistry,
    bad_registry: BadRegistry,
    uploads: Uploads,
    tools: Tools,
) -> None:
    made = tools.image_of([tools.tar_of({"a": b"a"})])
    body, kind = tools.index_of((made, {"os": "linux", "architecture": local_platform().architecture}))
    real_registry.push("push/index", "mine", made)
    record = await node.pull(real_registry.put_manifest("push/index", "all", body, kind))
    done = await last(transfers.push(record.id, f"{bad_registry.host}/some/app:v1", NOBODY))
    assert done.digest == tools.sha256(body)
    assert list(uploads.manifests) == [made.digest, "v1"]
    assert uploads.manifests["v1"] == body


def cut(h: BaseHTTPRequestHandler, length: int) -> None:
    h.rfile.read(min(length, 100_000))
    h.close_connection = True
    h.connection.shutdown(2)


@pytest.mark.parametrize("number", [0, 1, 2])
async def test_a_cut_costs_one_chunk(
    monkeypatch: pytest.MonkeyPatch,
    transfers: Transfers,
    bad_registry: BadRegistry,
    uploads: Uploads,
    pulled: Pulled,
    number: int,
) -> None:
    monkeypatch.setattr(upload, "CHUNK_BYTES", 1 << 20)
    made, record = pulled
    uploads.faults["PATCH"] = [*[None] * number, cut]
    await last(transfers.push(record.id, f"{bad_registry.host}/some/app:v1", NOBODY))
    assert uploads.blobs == made.blobs
    ranges = [h["Content-Range"] for m, _, h in bad_registry.requests if m == "PATCH"]
    assert len(ranges) == len(set(ranges)) + 1
    assert re.fullmatch(rf"{number << 20}-\d+", ranges[number + 1])


async def test_a_session_that_is_forgotten_is_begun_anew(
    monkeypatch: pytest.MonkeyPatch,
    transfers: Transfers,
    bad_registry: BadRegistry,
    uploads: Uploads,
    pulled: Pulled,
) -> None:
    monkeypatch.setattr(upload, "CHUNK_BYTES", 1 << 20)
    made, record = pulled

    def forget(h: BaseHTTPRequestHandler, length: int) -> None:
        uploads.sessions.clear()
        cut(h, length)

    uploads.faults["PATCH"] = [None, forget]
    await last(transfers.push(record.id, f"{bad_registry.host}/some/app:v1", NOBODY))
    assert uploads.blobs == made.blobs


@pytest.mark.parametrize("method", ["HEAD", "POST", "PUT", "PATCH"])
async def test_passing_trouble_is_retried(
    monkeypatch: pytest.MonkeyPatch,
    transfers: Transfers,
    bad_registry: BadRegistry,
    uploads: Uploads,
    tools: Tools,
    pulled: Pulled,
    method: str,
) -> None:
    monkeypatch.setattr(upload, "CHUNK_BYTES", 1 << 20)
    made, record = pulled

    def busy(h: BaseHTTPRequestHandler, length: int) -> None:
        h.rfile.read(length)
        tools.reply(h, 429, headers={"Retry-After": "0"})

    uploads.faults[method] = [busy, cut]
    await last(transfers.push(record.id, f"{bad_registry.host}/some/app:v1", NOBODY))
    assert (uploads.blobs, uploads.manifests) == (made.blobs, {"v1": made.manifest})


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, UnknownError), (403, PermissionDeniedError), (429, ResourceExhaustedError), (500, UnknownError)],
)
async def test_a_refusal_is_told_with_the_registrys_words(
    node: Node,
    transfers: Transfers,
    bad_registry: BadRegistry,
    uploads: Uploads,
    tools: Tools,
    pulled: Pulled,
    status: int,
    kind: type[SlipwayError],
) -> None:
    def refuse(h: BaseHTTPRequestHandler, length: int) -> None:
        h.rfile.read(length)
        tools.reply(h, status, json.dumps({"errors": [{"message": "quota\r\nexceeded"}]}).encode())

    uploads.faults["PUT"] = [refuse] * 100
    with pytest.raises(kind) as caught:
        await last(transfers.push(pulled[1].id, f"{bad_registry.host}/some/app:v1", NOBODY))
    if status in (400, 403):
        assert caught.value.message.endswith(": quotaexceeded")
    assert uploads.manifests == {}
    assert node.images.leases.needed().digests == pulled[1].blobs


async def test_a_registry_that_forgets_chunks_again_and_again_is_left(
    monkeypatch: pytest.MonkeyPatch,
    transfers: Transfers,
    bad_registry: BadRegistry,
    uploads: Uploads,
    tools: Tools,
    pulled: Pulled,
) -> None:
    monkeypatch.setattr(upload, "CHUNK_BYTES", 1 << 20)

    def break_off(h: BaseHTTPRequestHandler, length: int) -> None:
        h.rfile.read(length)
        tools.reply(h, 500)

    def forget(h: BaseHTTPRequestHandler, length: int) -> None:
        uploads.sessions |= dict.fromkeys(uploads.sessions, b"")
        tools.reply(h, 204, headers={"Range": "0-0"})

    uploads.faults |= {"PATCH": [None, break_off] * 500, "GET": [forget] * 500}
    with anyio.fail_after(patience(20)):
        with pytest.raises(UnknownError, match="answered 500"):
            await last(transfers.push(pulled[1].id, f"{bad_registry.host}/some/app:v1", NOBODY))


async def test_nothing_is_deleted_on_another_host(bad_registry: BadRegistry, tools: Tools) -> None:
    elsewhere = tools.bad_registry()
    place = {"Location": f"http://{elsewhere.host}/v2/x/blobs/uploads/far"}
    bad_registry.answer = lambda h: tools.reply(h, 202, headers=place)
    host = Host(f"http://{bad_registry.host}/v2")
    transport = Transport(host, "some/app", "app", NOBODY, tokens=TokenCache(), limits=Limits())
    blob = Descriptor("sha256:" + "a" * 64, 1)
    try:
        found = await anyio.to_thread.run_sync(upload.mount, transport, blob, ["other/app"], Stop())
    finally:
        transport.close()
        elsewhere.close()
    assert (found, [m for m, _, _ in bad_registry.requests], elsewhere.requests) == (False, ["POST"], [])


async def test_credentials_go_to_the_registry_and_not_where_it_points(
    transfers: Transfers, bad_registry: BadRegistry, uploads: Uploads, tools: Tools, pulled: Pulled
) -> None:
    made, record = pulled
    elsewhere = tools.bad_registry()
    other = Uploads()
    elsewhere.answer = lambda h: other.answer(tools, h)
    try:

        def away(h: BaseHTTPRequestHandler, length: int) -> None:
            other.sessions["far"] = b""
            tools.reply(h, 202, headers={"Location": f"http://{elsewhere.host}/v2/x/blobs/uploads/far"})

        def login(h: BaseHTTPRequestHandler) -> None:
            if h.headers.get("Authorization") != "Basic " + base64.b64encode(b"me:pw").decode():
                h.rfile.read(int(h.headers.get("Content-Length") or 0))
                tools.reply(h, 401, headers={"WWW-Authenticate": 'Basic realm="x"'})
            else:
                uploads.answer(tools, h)

        bad_registry.answer = login
        uploads.faults["POST"] = [away]
        await last(transfers.push(record.id, f"{bad_registry.host}/some/app:v1", Credentials("me", "pw")))
    finally:
        elsewhere.close()
    assert uploads.blobs | other.blobs == made.blobs
    assert len(other.blobs) == 1
    assert all("Authorization" not in headers for _, _, headers in elsewhere.requests)


async def test_a_token_is_asked_for_with_the_right_to_push(
    transfers: Transfers, bad_registry: BadRegistry, uploads: Uploads, tools: Tools, pulled: Pulled
) -> None:
    asked: list[str] = []

    def answer(h: BaseHTTPRequestHandler) -> None:
        if h.path.startswith("/token"):
            asked.extend(parse_qs(urlsplit(h.path).query)["scope"])
            tools.reply(h, 200, json.dumps({"token": "abc", "expires_in": 300}).encode())
        elif h.headers.get("Authorization") != "Bearer abc":
            h.rfile.read(int(h.headers.get("Content-Length") or 0))
            challenge = f'Bearer realm="http://{bad_registry.host}/token",service="reg"'
            tools.reply(h, 401, headers={"WWW-Authenticate": challenge})
        else:
            uploads.answer(tools, h)

    bad_registry.answer = answer
    await last(transfers.push(pulled[1].id, f"{bad_registry.host}/some/app:v1", Credentials("me", "pw")))
    assert set(asked) == {"repository:some/app:pull,push"}


async def test_a_caller_that_leaves_stops_the_push(
    node: Node, transfers: Transfers, bad_registry: BadRegistry, uploads: Uploads, pulled: Pulled
) -> None:
    def hang(h: BaseHTTPRequestHandler, length: int) -> None:
        bad_registry.release.wait(30)

    uploads.faults["PUT"] = [hang] * 10
    moments = transfers.push(pulled[1].id, f"{bad_registry.host}/some/app:v1", NOBODY)
    async for moment in moments:
        if BlobState.SENDING in states(moment):
            break
    assert isinstance(moments, AsyncGenerator)
    await moments.aclose()
    with anyio.fail_after(patience(5)):
        await moment.done.wait()
    assert moment.digest == ""
    assert uploads.manifests == {}
    assert node.images.leases.needed().digests == pulled[1].blobs


async def test_a_push_is_listed_and_can_be_cancelled(
    node: Node, transfers: Transfers, bad_registry: BadRegistry, uploads: Uploads, pulled: Pulled
) -> None:
    def hang(h: BaseHTTPRequestHandler, length: int) -> None:
        bad_registry.release.wait(30)

    uploads.faults["PUT"] = [hang] * 10
    with pytest.raises(AbortedError, match="cancelled"):
        async for moment in transfers.push(pulled[1].id, f"{bad_registry.host}/some/app:v1", NOBODY):
            if BlobState.SENDING in states(moment) and node.images.operations.all():
                [operation] = node.images.operations.all()
                assert (operation.kind, operation.object) == ("push", f"{bad_registry.host}/some/app:v1")
                assert operation.progress()[1] == sum(s.blob.size for s in moment.blobs)
                node.images.operations.cancel(operation.id)
    assert node.images.operations.all() == []
    assert uploads.manifests == {}


async def test_what_cannot_be_pushed(
    transfers: Transfers, real_registry: RealRegistry, pulled: Pulled
) -> None:
    with pytest.raises(NotFoundError):
        await last(transfers.push("absent", "", NOBODY))
    with pytest.raises(InvalidArgumentError, match="digest"):
        await last(transfers.push(pulled[1].id, pulled[1].repo_digests[0], NOBODY))


async def test_a_copy_takes_all_platforms_and_leaves_nothing_here(
    node: Node,
    transfers: Transfers,
    real_registry: RealRegistry,
    bad_registry: BadRegistry,
    uploads: Uploads,
    tools: Tools,
) -> None:
    mine, other = (tools.image_of([tools.tar_of({name: os.urandom(200_000)})]) for name in "ab")
    note = json.dumps({"in-toto": True}).encode()
    artifact = {
        "schemaVersion": 2,
        "mediaType": mine.media_type,
        "artifactType": "application/vnd.example",
        "config": {
            "mediaType": "application/vnd.oci.empty.v1+json",
            "digest": tools.sha256(b"{}"),
            "size": 2,
        },
        "layers": [{"mediaType": "application/json", "digest": tools.sha256(note), "size": len(note)}],
    }
    extra = tools.image_of([])
    extra.manifest = json.dumps(artifact).encode()
    extra.blobs = {tools.sha256(b"{}"): b"{}", tools.sha256(note): note}
    for name, image in {"m": mine, "o": other, "e": extra}.items():
        real_registry.push("copy/from", name, image)
    platforms = ({"os": "linux", "architecture": a} for a in ("amd64", "vax", "unknown"))
    index, kind = tools.index_of(*zip((mine, other, extra), platforms, strict=True))
    source = real_registry.put_manifest("copy/from", "all", index, kind)
    done = await last(transfers.copy(source, f"{bad_registry.host}/some/app:v9", NOBODY, NOBODY))
    assert done.digest == tools.sha256(index)
    assert uploads.blobs == mine.blobs | other.blobs | extra.blobs
    assert uploads.manifests == {i.digest: i.manifest for i in (mine, other, extra)} | {"v9": index}
    assert (node.content.all(), node.images.catalog.all()) == ([], [])
    within = await last(transfers.copy(source, f"{real_registry.host}/copy/to:all", NOBODY, NOBODY))
    assert states(within) == {BlobState.MOUNTED}
    assert stored(real_registry.host, "copy/to", "all") == (tools.sha256(index), kind)
