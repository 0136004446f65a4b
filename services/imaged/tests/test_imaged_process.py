"""imaged as a process, with snapshotd as another."""

import importlib.util
import json
import os
import re
import signal
import tarfile
import tempfile
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from common.clients.imaged import ImagedClient
from common.clients.snapshotd import SnapshotdClient
from common.errors import NotFoundError, SlipwayError, UnavailableError
from imaged.manifest import INDEX_TYPES, MANIFEST_TYPES, MAX_MANIFEST_BYTES
from imaged.tree import MAX_BLOBS
from services.imaged.tests.conftest import BadRegistry, Daemons, RealRegistry, Tools
from tests.support.eventually import eventually, until
from tests.support.memory import pss_bytes, watched

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.integration,
    pytest.mark.root,
    pytest.mark.skipif(
        importlib.util.find_spec("snapshotd.main") is None, reason="snapshotd is not installed"
    ),
]

MIB = 1 << 20


@pytest.fixture
def daemons(redis_url: str, tools: Tools) -> Iterator[Daemons]:
    with tempfile.TemporaryDirectory(prefix="slipway-") as directory:
        made = tools.daemons(Path(directory), redis_url)
        try:
            for name in ("snapshotd", "imaged"):
                made.start(name)
            for name in ("snapshotd", "imaged"):  # a call's patience is for one that comes back
                eventually(Path(made.socket(name)).exists, within_s=60, what=f"{name} to answer")
            yield made
        finally:
            made.close()


async def test_pull_unpacks_and_outlives_a_restart(
    daemons: Daemons, real_registry: RealRegistry, tools: Tools
) -> None:
    made = tools.image_of([tools.tar_of({"etc/passwd": b"root"}), tools.tar_of({"b": b"b" * 100000})])
    name = real_registry.push("process/app", "v1", made)
    client, snapshots = ImagedClient(daemons.socket("imaged")), SnapshotdClient(daemons.socket("snapshotd"))
    try:
        image = await client.pulled(name)
        assert image.id == made.config_digest
        assert image.config == made.blobs[made.config_digest]
        assert {layer.diff_id for layer in await snapshots.list_layers(made.diff_ids)} == set(made.diff_ids)
        with pytest.raises(NotFoundError, match="no/such"):
            await client.pulled(f"{real_registry.host}/no/such:v1")
        assert daemons.end("imaged", signal.SIGKILL) == -signal.SIGKILL
        daemons.start("imaged")
        assert await client.get(name) == image
        assert (await client.usage()).used_bytes >= image.size_bytes
        await client.remove(name)
        assert await client.list() == []
        assert await snapshots.list_layers(made.diff_ids) == []
    finally:
        await client.close()
        await snapshots.close()
    assert daemons.end("imaged") == 0


async def test_images_with_large_configs_are_listed(
    daemons: Daemons, real_registry: RealRegistry, tools: Tools
) -> None:
    client = ImagedClient(daemons.socket("imaged"))
    wanted = {}
    try:
        for number in range(9):  # together more than a message takes
            made = tools.image_of(
                [],
                author="a" * 8_000_000,
                created=f"2024-01-0{number + 1}T00:00:00Z",
                config={"User": str(number)},
            )
            image = await client.pulled(real_registry.push("process/large", str(number), made))
            assert image.config == made.blobs[image.id]
            wanted[image.id] = (str(number), f"2024-01-0{number + 1}T00:00:00Z")
        assert {image.id: (image.user, image.created) for image in await client.list()} == wanted
    finally:
        await client.close()


async def test_a_policy_that_is_not_understood_keeps_imaged_from_starting(daemons: Daemons) -> None:
    daemons.end("imaged")
    policy = daemons.root / "policy.json"
    policy.write_text('{"default": [{"type": "sigstoreSigned", "fulcio": {"caPath": "/ca"}}]}')
    daemons.start("imaged", SLIPWAY_IMAGED_SIGNATURE_POLICY=str(policy))
    assert daemons.wait("imaged") == 1
    told = f'signature policy {policy}: default[0].\\"fulcio\\": {{\\"caPath\\": \\"/ca\\"}}: not supported'
    assert told in (daemons.root / "imaged.log").read_text()


async def test_logins_that_cannot_be_read_keep_imaged_from_starting(daemons: Daemons) -> None:
    daemons.end("imaged")
    (daemons.root / "file").touch()
    config = daemons.root / "file/config.json"
    daemons.start("imaged", SLIPWAY_IMAGED_DOCKER_CONFIG=str(config))
    assert daemons.wait("imaged") == 1
    assert f"logins in {config} cannot be read: Not a directory" in (daemons.root / "imaged.log").read_text()


async def test_killed_pull_is_resumed_where_it_was(
    daemons: Daemons, bad_registry: BadRegistry, tools: Tools
) -> None:
    made = tools.image_of([tools.tar_of({"f": os.urandom(3_000_000)})], compression="none")
    layer = made.blobs[made.layers[0]["digest"]]
    ranges: list[str | None] = []

    def blob(h: BaseHTTPRequestHandler) -> None:
        given = h.headers.get("Range")
        ranges.append(given)
        start = int(given[6:-1]) if given else 0
        h.send_response(206 if given else 200)
        h.send_header("Content-Length", str(len(layer) - start))
        h.send_header("Content-Range", f"bytes {start}-{len(layer) - 1}/{len(layer)}")
        h.end_headers()
        if given is None:
            h.wfile.write(layer[: 2 << 20])
            bad_registry.release.wait(30)
        else:
            h.wfile.write(layer[start:])

    bad_registry.serve(made, blob)
    name = f"{bad_registry.host}/app:v1"
    client = ImagedClient(daemons.socket("imaged"))
    try:
        async for progress in client.pull(name):
            if progress.layers and progress.layers[0].fetched_bytes >= 1 << 20:
                break
        daemons.end("imaged", signal.SIGKILL)
        daemons.start("imaged")
        assert (await client.pulled(name)).id == made.config_digest
    finally:
        await client.close()
    assert ranges[0] is None
    assert ranges[-1] is not None
    assert int(ranges[-1][6:-1]) >= 1 << 20


async def test_killed_pieces_are_resumed_where_they_were(
    daemons: Daemons, bad_registry: BadRegistry, tools: Tools
) -> None:
    made = tools.image_of([tools.tar_of({"f": os.urandom(1 << 20) * 70})], compression="none")
    body = made.blobs[made.layers[0]["digest"]]
    sent = 0

    def blob(h: BaseHTTPRequestHandler) -> None:
        nonlocal sent
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", h.headers["Range"])
        assert found
        start, end = int(found[1]), int(found[2] or len(body) - 1) + 1
        h.send_response(206)
        h.send_header("Content-Length", str(end - start))
        h.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(body)}")
        h.end_headers()
        if not killed:
            # odd lengths: a page at the end of what was written is not whole
            h.wfile.write(body[start : start + (7 << 20) + 1001])
            bad_registry.release.wait(30)
        else:
            h.wfile.write(body[start:end])
            sent += end - start

    killed = False
    bad_registry.serve(made, blob)
    name = f"{bad_registry.host}/app:v1"
    client = ImagedClient(daemons.socket("imaged"))
    try:
        fetched = 0
        async for progress in client.pull(name):
            fetched = sum(layer.fetched_bytes for layer in progress.layers)
            if fetched >= 4 * (7 << 20):
                break
        daemons.end("imaged", signal.SIGKILL)
        killed = True
        daemons.start("imaged")
        assert (await client.pulled(name)).id == made.config_digest
    finally:
        await client.close()
    assert len(body) - fetched <= sent <= len(body) - fetched + 4 * (64 << 10)


async def test_a_load_that_was_killed_leaves_nothing(daemons: Daemons) -> None:
    ingests = daemons.root / "data" / "imaged" / "ingest"
    header = tarfile.TarInfo("blobs/sha256/" + "a" * 64)
    header.size = 64 << 20
    piece = header.tobuf() + bytes(8 << 20)

    async def pieces() -> AsyncIterator[bytes]:
        yield piece
        await until(lambda: any(f.stat().st_size for f in ingests.glob("load-*/0")), "the first bytes")
        daemons.end("imaged", signal.SIGKILL)
        yield piece

    client = ImagedClient(daemons.socket("imaged"))
    try:
        with pytest.raises(UnavailableError):
            await client.load(pieces())
        assert list(ingests.glob("load-*"))
        daemons.start("imaged")
        assert await client.list() == []
        assert list(ingests.iterdir()) == []
    finally:
        await client.close()


ZEROS = "sha256:" + "0" * 64
BLOB = json.dumps({"digest": ZEROS, "size": 1}).encode()
MANIFEST = b'{"schemaVersion":2,"config":' + BLOB + b',"layers":['


def filled(head: bytes, item: bytes, tail: bytes) -> bytes:
    """A document as large as is read, of as many items as fit."""
    count = (MAX_MANIFEST_BYTES - len(head) - len(tail)) // (len(item) + 1)
    return head + (item + b",") * (count - 1) + item + tail


def hostile(tools: Tools) -> dict[str, bytes]:
    """Documents by tag, and by digest those that one of them leads to."""
    found = {
        "schema-1": filled(b'{"fsLayers":[', b"[]", b"]}"),
        "annotations": filled(MANIFEST + BLOB[:-1] + b',"annotations":{"a":[', b"[]", b"]}}]}"),
        "unknown": filled(MANIFEST + b'],"x":[', b"{}", b"]}"),
        "layers": filled(MANIFEST, b'{"digest":"","size":0}', b"]}"),
        "platforms": filled(b'{"manifests":[', b'{"digest":"","size":0,"platform":{}}', b"]}"),
        "blobs": MANIFEST
        + b",".join(BLOB.replace(b"0" * 64, b"%064x" % number) for number in range(MAX_BLOBS - 1))
        + b"]}",
    }
    many = [filled(MANIFEST + b'],"n":%d,"x":[' % number, b"{}", b"]}") for number in range(7)]
    below = {tools.sha256(body): body for body in many}
    entries = [{"digest": digest, "size": len(body)} for digest, body in below.items()]
    found["tree"] = json.dumps({"schemaVersion": 2, "manifests": entries}).encode()
    return found | below


async def test_hostile_documents_take_little_and_stay_no_longer_than_their_pull(
    daemons: Daemons, bad_registry: BadRegistry, tools: Tools
) -> None:
    documents = hostile(tools)

    def answer(h: BaseHTTPRequestHandler) -> None:
        body = documents.get(h.path.rpartition("/")[2])
        if "/target/" in h.path or "/manifests/" not in h.path or body is None:
            tools.reply(h, 403)
            return
        kind = INDEX_TYPES[0] if b'"manifests"' in body[:50] else MANIFEST_TYPES[0]
        tools.reply(h, 200, body, {"Content-Type": kind, "Docker-Content-Digest": tools.sha256(body)})

    bad_registry.answer = answer
    client, pid = ImagedClient(daemons.socket("imaged")), daemons.pid("imaged")
    before = pss_bytes(pid)
    try:
        with watched([pid]) as watch:
            for tag in [*documents][:7]:
                source = f"{bad_registry.host}/source/app:{tag}"
                with pytest.raises(SlipwayError):
                    await client.pulled(source)
                with pytest.raises(SlipwayError):
                    async for _ in client.copy(source, f"{bad_registry.host}/target/app:{tag}"):
                        pass
    finally:
        await client.close()
    assert watch.most_bytes < 200 * MIB
    assert pss_bytes(pid) < before + 64 * MIB
