"""The CRI log file: `<RFC3339Nano> stdout|stderr P|F <line>`, one write per chunk of output.

Every write is whole records, so that a reopen between two writes tears none. A line longer than the bound
is split into records with the tag P; output that ends without a newline gets the tag P too, as kubelets
expect. A full disk costs log lines, never the container: they are counted as dropped.
"""

import errno
import os
import stat
import time

from shimd.shim.handover import Facts, Get, Put

FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
MODE = 0o640
DEFAULT_LINE_BYTES = 16384
_NAMES = {1: b"stdout", 2: b"stderr"}


class CriLog:
    """Writes one container's output to its log file; an empty path discards it."""

    def __init__(self, path: str, max_line_bytes: int = 0) -> None:
        self.path = path
        self._max = max_line_bytes or DEFAULT_LINE_BYTES
        self._fd = -1
        self._carry = {1: b"", 2: b""}
        self.written_bytes = 0
        self.dropped_bytes = 0

    def reopen(self) -> None:
        """Write to a new file at the path from now on; made also when nothing will ever be written.

        Raises:
            OSError: when the file cannot be made, or something else is there; what was written to before still is.
        """
        if self.path:
            fd = _open(self.path)
            self.close()
            self._fd = fd

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def hand_over(self, put: Put) -> Facts:
        return {
            "fd": put(self._fd, 0),
            "carry": [self._carry[1], self._carry[2]],
            "written": self.written_bytes,
            "dropped": self.dropped_bytes,
        }

    def take_over(self, facts: Facts, get: Get) -> None:
        self._fd = get(facts["fd"])
        self._carry[1], self._carry[2] = facts["carry"]
        self.written_bytes = facts["written"]
        self.dropped_bytes = facts["dropped"]

    def write(self, stream: int, chunk: bytes) -> None:
        """Log a chunk of stream 1 or 2; what follows its last newline waits for the rest of the line."""
        if self._fd < 0:
            return
        text = self._carry[stream] + chunk
        end = text.rfind(b"\n") + 1
        prefix = _prefix(stream)
        parts: list[bytes] = []
        if end:
            self._lines(text[: end - 1], prefix, parts)
        tail = text[end:]
        while len(tail) > self._max:
            parts += (prefix, b"P ", tail[: self._max], b"\n")
            tail = tail[self._max :]
        self._carry[stream] = tail
        if parts:
            self._append(b"".join(parts))

    def flush(self) -> None:
        """Log what waits for a newline that will not come."""
        for stream, tail in self._carry.items():
            if tail and self._fd >= 0:
                self._append(b"".join((_prefix(stream), b"P ", tail, b"\n")))
            self._carry[stream] = b""

    def _lines(self, body: bytes, prefix: bytes, parts: list[bytes]) -> None:
        """Add the records of newline-separated lines; the last has no newline."""
        full = prefix + b"F "
        joint = b"\n" + full
        start = at = 0
        while len(body) - at > self._max:
            # The last newline within the bound: every line before it is short enough, whatever their number.
            newline = body.rfind(b"\n", at, at + self._max + 1)
            if newline >= 0:
                at = newline + 1
                continue
            if at > start:
                parts += (full, body[start : at - 1].replace(b"\n", joint), b"\n")
            stop = body.find(b"\n", at)
            stop = len(body) if stop < 0 else stop
            while stop - at > self._max:
                parts += (prefix, b"P ", body[at : at + self._max], b"\n")
                at += self._max
            parts += (full, body[at:stop], b"\n")
            start = at = stop + 1
        if start <= len(body):
            parts += (full, body[start:].replace(b"\n", joint), b"\n")

    def _append(self, records: bytes) -> None:
        written = 0
        try:
            while written < len(records):
                written += os.write(self._fd, records[written:] if written else records)
        except OSError:
            whole = records.rfind(b"\n", 0, written) + 1
            self._untear(written - whole)
            self.dropped_bytes += len(records) - whole
            written = whole
        self.written_bytes += written

    def _untear(self, torn: int) -> None:
        """Take back the beginning of a record whose end found no room."""
        if torn:
            try:
                os.ftruncate(self._fd, os.fstat(self._fd).st_size - torn)
            except OSError:
                self.dropped_bytes += torn


def _open(path: str) -> int:
    """A file, and never a pipe, at which a shim could be kept waiting: others may have put it there."""
    try:
        fd = os.open(path, FLAGS, MODE)
    except OSError as exc:
        if exc.errno != errno.ENXIO:
            raise
        raise OSError(errno.EINVAL, "is no regular file", path) from exc  # a pipe that nobody reads
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "is no regular file", path)
    return fd


def _prefix(stream: int) -> bytes:
    now = time.time_ns()
    seconds, nanos = divmod(now, 1_000_000_000)
    y, mo, d, h, mi, s = time.gmtime(seconds)[:6]
    return b"%04d-%02d-%02dT%02d:%02d:%02d.%09dZ %s " % (y, mo, d, h, mi, s, nanos, _NAMES[stream])
