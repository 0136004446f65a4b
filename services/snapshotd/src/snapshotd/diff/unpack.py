"""The unpack helper: a process that waits for one job on stdin, does it in a chroot, and answers on stdout.

It is exec'ed with explicit search paths and without site-packages' start-up code, ahead of the first job, so
that a layer does not wait for an interpreter. Job and answer are one line of JSON each.
"""

import _locale
import errno
import hashlib  # noqa: F401 - OpenSSL must be in memory before the root changes
import json
import os
import sys
from typing import Any

import zstandard  # noqa: F401 - see above
from isal import igzip  # noqa: F401 - see above

from snapshotd.diff.apply import TooManyError, TreeWriter
from snapshotd.diff.confine import confine, die_with_parent
from snapshotd.diff.stream import LayerStream, StreamError, TooBigError
from snapshotd.diff.tar import TarError, TarReader
from snapshotd.diff.whiteout import BadEntryError, show

_FULL = (errno.ENOSPC, errno.EDQUOT)
_REFUSED = (errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL, errno.ELOOP, errno.ERANGE, errno.E2BIG)


class _DigestError(Exception):
    """The content is not the diff ID's."""


def main() -> None:
    """Wait for the job, do it, answer, end."""
    die_with_parent()
    # libarchive turns PAX names, which are UTF-8, into the locale's bytes
    _locale.setlocale(_locale.LC_CTYPE, "C.UTF-8")
    line = sys.stdin.buffer.readline()
    if not line:
        return
    answer = _answer(json.loads(line))
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()
    # threads may still wait at a queue
    os._exit(0)


def _answer(job: dict[str, Any]) -> dict[str, Any]:
    last = [b""]
    try:
        return _unpack(job, last)
    except (StreamError, TarError, _DigestError) as exc:
        return _error("DataLossError", str(exc))
    except (BadEntryError, TooBigError, TooManyError) as exc:
        return _error("InvalidArgumentError", str(exc))
    except OSError as exc:
        where = f"entry {show(last[0])}: {os.strerror(exc.errno or 0)}"
        if exc.errno in _FULL:
            return _error("ResourceExhaustedError", where)
        return _error("InvalidArgumentError" if exc.errno in _REFUSED else "InternalError", where)
    except Exception as exc:  # noqa: BLE001 - the border: whatever happens, the service hears of it
        return _error("InternalError", f"{type(exc).__name__}: {exc}")


def _error(reason: str, text: str) -> dict[str, Any]:
    return {"error": reason, "text": text}


def _unpack(job: dict[str, Any], last: list[bytes]) -> dict[str, Any]:
    fd = os.open(job["blob"], os.O_RDONLY | os.O_CLOEXEC)
    stream = LayerStream(fd, job["media_type"], job["algorithm"], job["max_bytes"])
    confine(job["target"])
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
        "opaque": [os.fsdecode(path) for path in writer.opaque],
        "devices": [_device(path, entry) for path, entry in writer.devices.items()],
        "implied": sorted(os.fsdecode(path) for path in writer.implied),
        "size_bytes": size_bytes,
        "inodes": inodes,
        "compression": stream.compression,
    }


def _device(path: bytes, entry: Any) -> dict[str, Any]:
    return {
        "path": os.fsdecode(path),
        "mode": entry.mode,
        "uid": entry.uid,
        "gid": entry.gid,
        "device": os.makedev(*entry.device),
        "mtime_ns": max(entry.mtime_ns, 0),
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
