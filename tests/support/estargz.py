"""Writes eStargz layers (stargz-snapshotter, docs/estargz.md), and such that lie."""

import base64
import hashlib
import io
import json
import tarfile
import time
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import IO, Any

from devtools.registry import Layer

CHUNK_BYTES = 4 << 20
ANNOTATION = "containerd.io/snapshot/stargz/toc.digest"
TYPES = {
    tarfile.REGTYPE: "reg", tarfile.DIRTYPE: "dir", tarfile.SYMTYPE: "symlink", tarfile.LNKTYPE: "hardlink",
    tarfile.CHRTYPE: "char", tarfile.BLKTYPE: "block", tarfile.FIFOTYPE: "fifo",
}  # fmt: skip
Item = tarfile.TarInfo | tuple[tarfile.TarInfo, bytes]
Toc = dict[str, Any]


@dataclass(frozen=True)
class Written:
    """What a manifest and a config say of the layer."""

    diff_id: str
    digest: str
    size: int
    toc_digest: str
    toc_offset: int
    toc_bytes: int
    """Compressed."""


@dataclass
class _Members:
    """A tar, compressed into gzip members that begin where they are told to."""

    out: IO[bytes]
    level: int
    at: int = 0
    diff: Any = field(default_factory=hashlib.sha256)
    blob: Any = field(default_factory=hashlib.sha256)
    member: Any = None

    def write(self, raw: bytes) -> None:
        self.diff.update(raw)
        self.member = self.member or zlib.compressobj(self.level, zlib.DEFLATED, 31)
        self._put(self.member.compress(raw))

    def cut(self) -> int:
        """End the member; where the next one begins."""
        if self.member:
            self._put(self.member.flush())
            self.member = None
        return self.at

    def _put(self, packed: bytes) -> None:
        self.blob.update(packed)
        self.out.write(packed)
        self.at += len(packed)

    def foot(self, raw: bytes) -> None:
        self.cut()
        self._put(raw)


def write(
    items: Iterable[Item],
    out: IO[bytes],
    *,
    chunk_bytes: int = CHUNK_BYTES,
    level: int = 6,
    legacy: bool = False,
    lie: Callable[[Toc], None] = lambda _toc: None,
) -> Written:
    """Write a layer; `lie` may change the table before it is written."""
    members = _Members(out, level)
    toc: Toc = {"version": 1, "entries": []}
    for item in items:
        info, content = item if isinstance(item, tuple) else (item, b"")
        info.size = len(content)
        members.write(info.tobuf(tarfile.PAX_FORMAT))
        entry = described(info)
        toc["entries"].append(entry)
        if content:
            entry["digest"] = _sha256(content)
        for start in range(0, len(content), chunk_bytes):
            piece = content[start : start + chunk_bytes]
            where = {"offset": members.cut(), "chunkDigest": _sha256(piece)}
            if len(content) > chunk_bytes:
                where |= {"chunkOffset": start, "chunkSize": len(piece)}
            if start:
                entry = {"name": info.name, "type": "chunk"}
                toc["entries"].append(entry)
            entry.update(where)
            members.write(piece)
        members.write(bytes(-len(content) % 512))
    toc_offset = members.cut()
    lie(toc)
    body = json.dumps(toc, indent="\t").encode()
    table = tarfile.TarInfo("stargz.index.json")
    table.size = len(body)
    members.write(table.tobuf(tarfile.USTAR_FORMAT) + body + bytes(-len(body) % 512 + 1024))
    members.foot(footer(toc_offset, legacy=legacy))
    return Written(
        f"sha256:{members.diff.hexdigest()}",
        f"sha256:{members.blob.hexdigest()}",
        members.at,
        _sha256(body),
        toc_offset,
        members.at - toc_offset,
    )


def made(items: Iterable[Item], **options: Any) -> tuple[bytes, Written]:
    """A layer in memory; see `write`."""
    out = io.BytesIO()
    written = write(items, out, **options)
    return out.getvalue(), written


def footer(toc_offset: int, *, legacy: bool = False) -> bytes:
    extra = b"%016xSTARGZ" % toc_offset
    if not legacy:
        extra = b"SG" + len(extra).to_bytes(2, "little") + extra
    head = b"\x1f\x8b\x08\x04\0\0\0\0\0\xff" + len(extra).to_bytes(2, "little") + extra
    return head + b"\x01\0\0\xff\xff" + bytes(8)


def landmark(*, prefetch: bool) -> Item:
    """The file that says how far to read ahead."""
    return tarfile.TarInfo(".prefetch.landmark" if prefetch else ".no.prefetch.landmark"), b"\x0f"


def described(info: tarfile.TarInfo) -> dict[str, Any]:
    """What a table says of a file, but for its bytes."""
    entry: dict[str, Any] = {"name": info.name, "type": TYPES[info.type], "mode": info.mode}
    entry |= {"uid": info.uid, "gid": info.gid}
    if info.size:
        entry["size"] = info.size
    if info.mtime:
        entry["modtime"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(info.mtime))
    if info.linkname:
        entry["linkName"] = info.linkname
    if info.type in (tarfile.CHRTYPE, tarfile.BLKTYPE):
        entry |= {"devMajor": info.devmajor, "devMinor": info.devminor}
    prefix = "SCHILY.xattr."
    xattrs = {k.removeprefix(prefix): v for k, v in info.pax_headers.items() if k.startswith(prefix)}
    if xattrs:
        entry["xattrs"] = {
            key: base64.b64encode(value.encode("utf-8", "surrogateescape")).decode()
            for key, value in xattrs.items()
        }
    return entry


def _sha256(body: bytes) -> str:
    return f"sha256:{hashlib.sha256(body).hexdigest()}"


def layer(items: Iterable[Item], **options: Any) -> Layer:
    """A layer to push, whose table of contents the manifest vouches for."""
    blob, written = made(items, **options)
    return Layer(blob, written.diff_id, {ANNOTATION: written.toc_digest})
