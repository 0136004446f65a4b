"""What an unpack helper does: one blob becomes a tree below its root, which is all that it can see."""

import errno
import json
import os
import resource
from typing import Any

from common.sys import disk
from snapshotd.diff.apply import TooManyError, TreeWriter, clamped
from snapshotd.diff.confine import restrict
from snapshotd.diff.stream import LayerStream, StreamError, TooBigError
from snapshotd.diff.tar import Entry, TarError, TarReader
from snapshotd.diff.whiteout import BadEntryError, show

MAX_ANSWER_BYTES = 8 << 20
"""Some 100,000 paths: only directories without an entry, opaque ones and devices are named."""
_REFUSED = (
    errno.ENAMETOOLONG,
    errno.EILSEQ,
    errno.EINVAL,
    errno.ELOOP,
    errno.ERANGE,
    errno.E2BIG,
    errno.EFBIG,
    errno.EMLINK,
)
_SAYS = {
    **dict.fromkeys(_REFUSED, "InvalidArgumentError"),
    **dict.fromkeys(disk.FULL, "ResourceExhaustedError"),
    **dict.fromkeys(disk.FAILING, "UnavailableError"),
}
"""What an error of the system means, by its number."""
CAPABILITIES = (0, 1, 3, 4, 31)
"""CHOWN, DAC_OVERRIDE, FOWNER, FSETID, SETFCAP of linux/capability.h."""
_MAX_ADDRESSES_BYTES = 1 << 30
"""Libraries, and the heaps that threads reserve."""
_MAX_DATA_BYTES = 160 << 20
"""The interpreter, a window of zstd, the stacks of two threads, and what is kept of each directory."""
_MAX_FDS = 64


class _DigestError(Exception):
    """The content is not the diff ID's."""


def enter(root: int, program: bytes, max_file_bytes: int) -> None:
    """Make the directory `root` all that can be named, and keep only what writing a tree takes.

    `root` is closed. It is a mount that hangs nowhere, so that no way leads up from it.

    Raises:
        OSError: the kernel refuses.
    """
    os.fchdir(root)
    os.chroot(".")
    os.close(root)
    os.umask(0)
    limits = {
        resource.RLIMIT_AS: _MAX_ADDRESSES_BYTES,
        resource.RLIMIT_DATA: _MAX_DATA_BYTES,
        resource.RLIMIT_FSIZE: max_file_bytes,
        resource.RLIMIT_NOFILE: _MAX_FDS,
        resource.RLIMIT_CORE: 0,
    }
    restrict(limits, CAPABILITIES, program)


def answer(blob: int, job: dict[str, Any]) -> bytes:
    """Do the job (adapters/helper.py), and say how it went (diff/answer.py)."""
    last = [b""]
    try:
        said = json.dumps(_unpack(blob, job, last)).encode()
        if len(said) > MAX_ANSWER_BYTES:
            message = "it has too many devices, opaque directories, or directories without an entry"
            raise TooManyError(message)
        return said
    except Exception as exc:  # noqa: BLE001 - the border: whatever happens, the service hears of it
        return failed(*_reason(exc, f"entry {show(last[0])}"))


def _reason(exc: Exception, entry: str) -> tuple[str, str]:
    match exc:
        case StreamError() | TarError() | _DigestError():
            return "DataLossError", str(exc)
        case BadEntryError() | TooBigError() | TooManyError():
            return "InvalidArgumentError", str(exc)
        case MemoryError():
            return "InvalidArgumentError", f"{entry}: it takes more memory than a layer may"
        case OSError(errno=number):
            return _SAYS.get(number or 0, "InternalError"), f"{entry}: {os.strerror(number or 0)}"
        case _:
            return "InternalError", f"{type(exc).__name__}: {exc}"


def failed(error: str, text: str) -> bytes:
    return json.dumps({"type": "failed", "error": error, "text": text[:1000]}).encode()


def _unpack(blob: int, job: dict[str, Any], last: list[bytes]) -> dict[str, Any]:
    stream = LayerStream(blob, job["media_type"], job["algorithm"], job["max_bytes"])
    stream.start()
    reader = TarReader(stream.read)
    writer = TreeWriter(max_entries=job["max_entries"], max_bytes=job["max_bytes"])
    for entry in reader:
        last[0] = entry.name
        writer.add(entry, reader.write_data)
    found = stream.finish()
    if found != job["hex"]:
        message = f"its content has the digest {job['algorithm']}:{found}"
        raise _DigestError(message)
    writer.close()
    size_bytes, inodes = _measure()
    return {
        "type": "unpacked",
        "opaque": [_text(path) for path in writer.opaque],
        "devices": [_device(path, entry) for path, entry in writer.devices.items()],
        "implied": [_text(path) for path in writer.implied],
        "size_bytes": size_bytes,
        "inodes": inodes,
        "compression": stream.compression,
    }


def _text(path: bytes) -> str:
    return path.decode("latin-1")


def _device(path: bytes, entry: Entry) -> dict[str, Any]:
    return {
        "path": _text(path),
        "mode": entry.mode,
        "uid": entry.uid,
        "gid": entry.gid,
        "device": os.makedev(*entry.device),
        "mtime_ns": clamped(entry.mtime_ns),
    }


def _measure() -> tuple[int, int]:
    """Bytes on disk and inodes of the tree, each inode once."""
    root = os.lstat("/")
    seen: set[int] = set()
    size_bytes, inodes = root.st_blocks * 512, 1
    waiting = [b"/"]
    while waiting:
        with os.scandir(waiting.pop()) as found:
            for each in found:
                status = each.stat(follow_symlinks=False)
                if each.is_dir(follow_symlinks=False):
                    waiting.append(each.path)
                elif status.st_nlink > 1:
                    if status.st_ino in seen:
                        continue
                    seen.add(status.st_ino)
                size_bytes += status.st_blocks * 512
                inodes += 1
    return size_bytes, inodes
