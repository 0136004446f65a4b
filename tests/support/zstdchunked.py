"""Writes zstd:chunked layers (containers/storage, pkg/chunked), and such that lie; and has skopeo write them."""

import hashlib
import json
import subprocess
import tarfile
from collections.abc import Callable, Iterable

import zstandard

from tests.support.estargz import Item, Toc, Written, described
from tests.support.pace import patience

PREFIX = "io.github.containers.zstd-chunked"
MEDIA_TYPE = "application/vnd.oci.image.layer.v1.tar+zstd"
CHUNK_BYTES = 1 << 20
_SKIPPABLE = (0x184D2A50).to_bytes(4, "little")


def made(
    items: Iterable[Item],
    *,
    chunk_bytes: int = CHUNK_BYTES,
    level: int = 3,
    lie: Callable[[Toc], None] = lambda _toc: None,
) -> tuple[bytes, Written]:
    """A layer in memory; `lie` may change the table before it is written."""
    blob, diff = bytearray(), hashlib.sha256()
    toc: Toc = {"version": 1, "entries": []}

    def frame(raw: bytes) -> int:
        """Where the frame of these bytes begins."""
        diff.update(raw)
        at = len(blob)
        blob.extend(zstandard.ZstdCompressor(level=level).compress(raw))
        return at

    for item in items:
        info, content = item if isinstance(item, tuple) else (item, b"")
        info.size = len(content)
        frame(info.tobuf(tarfile.PAX_FORMAT))
        entry = described(info) | {"accesstime": "0001-01-01T00:00:00Z", "changetime": "0001-01-01T00:00:00Z"}
        toc["entries"].append(entry)
        if content:
            entry["digest"] = _sha256(content)
        for start in range(0, len(content), chunk_bytes):
            piece = content[start : start + chunk_bytes]
            where: Toc = {"offset": frame(piece)}
            if len(content) > chunk_bytes:
                where |= {"chunkSize": len(piece), "chunkDigest": _sha256(piece)}
            if not piece.strip(b"\0"):
                where["chunkType"] = "zeros"
            if start:
                entry = {"name": info.name, "type": "chunk", "chunkOffset": start}
                toc["entries"].append(entry)
            entry.update(where)
        frame(bytes(-len(content) % 512))
    frame(bytes(1024))
    lie(toc)
    body = json.dumps(toc).encode()
    table = zstandard.ZstdCompressor().compress(body)
    blob += _SKIPPABLE + len(table).to_bytes(4, "little")
    offset = len(blob)
    blob += table
    where_it_is = b"".join(n.to_bytes(8, "little") for n in (offset, len(table), len(body), 1))
    blob += _SKIPPABLE + (40).to_bytes(4, "little") + where_it_is + b"GNUlInUx"
    written = Written(
        f"sha256:{diff.hexdigest()}", _sha256(blob), len(blob), _sha256(table), offset, len(table)
    )
    return bytes(blob), written


def annotations(written: Written) -> dict[str, str]:
    """What the manifest says of the layer."""
    where = f"{written.toc_offset}:{written.toc_bytes}:{written.toc_bytes}:1"
    return {f"{PREFIX}.manifest-checksum": written.toc_digest, f"{PREFIX}.manifest-position": where}


def copy(source: str, target: str) -> None:
    """Have skopeo copy an image of one registry, its layers in this form."""
    command = [
        "skopeo",
        "copy",
        "--quiet",
        "--src-tls-verify=false",
        "--dest-tls-verify=false",
        "--format",
        "oci",
    ]
    command += ["--dest-compress-format", "zstd:chunked", f"docker://{source}", f"docker://{target}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=patience(60), check=False)
    assert done.returncode == 0, done.stderr


def _sha256(body: bytes | bytearray) -> str:
    return f"sha256:{hashlib.sha256(body).hexdigest()}"
