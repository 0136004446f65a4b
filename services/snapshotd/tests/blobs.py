"""Layers of one file that a snapshotd unpacks, and the events that it leaves in its outbox."""

import hashlib
import io
import tarfile
from typing import Any

import redis

from common.clients.snapshotd import SnapshotdClient
from common.events.schema import envelope_decoder
from services.snapshotd.tests.conftest import SnapshotdNode


def make_blob(node: SnapshotdNode, name: str, body: bytes = b"body") -> tuple[str, str]:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        info = tarfile.TarInfo(name)
        info.size = len(body)
        archive.addfile(info, io.BytesIO(body))
    content = out.getvalue()
    path = node.directory / f"blob-{name}"
    path.write_bytes(content)
    return f"sha256:{hashlib.sha256(content).hexdigest()}", str(path)


async def apply(node: SnapshotdNode, client: SnapshotdClient, name: str, body: bytes = b"body") -> str:
    diff_id, path = make_blob(node, name, body)
    await client.apply_layer(diff_id=diff_id, blob_path=path)
    return diff_id


def events(node: SnapshotdNode) -> list[tuple[str, str]]:
    with redis.Redis(unix_socket_path=node.redis.url.removeprefix("unix://")) as connection:
        entries: Any = connection.xrange("slipway:n1:snapshotd:outbox")
    found = [envelope_decoder.decode(fields[b"envelope"]).fields() for _, fields in entries]
    return [(event["type"].split(".", 1)[1].removesuffix(".v1"), event["id"]) for event in found]
