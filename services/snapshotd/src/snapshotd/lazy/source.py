"""Bytes of a blob, by way of imaged: it has the registries, the credentials and the blob's file."""

import errno
import json
import socket
import threading
import time
from pathlib import Path
from typing import Any

_AGAIN_S = 0.2
_LINE_BYTES = 65_536


class ImagedSource:
    """See chunks.Source.

    Args:
        path: imaged's socket for this.
        digest: the blob's.
        timeout_s: the longest that a read waits, for a registry or an imaged that is away.
    """

    def __init__(self, path: Path, digest: str, timeout_s: float) -> None:
        self._path, self._digest, self._timeout_s = path, digest, timeout_s
        self._mine = threading.local()
        self._wait = threading.Event()

    def bring(self, start: int, end: int, *, again: bool) -> None:
        """See chunks.Source."""
        deadline = time.monotonic() + self._timeout_s
        asked = {"digest": self._digest, "start": start, "end": end, "again": again}
        why = "imaged does not answer"
        while (left_s := deadline - time.monotonic()) > 0:
            try:
                answer = self._ask(asked | {"timeout_s": left_s}, left_s)
            except OSError as exc:
                # imaged is away, and comes back
                self._hang_up()
                why = f"imaged: {exc}"
                self._wait.wait(min(_AGAIN_S, left_s))
                continue
            if answer.get("ok"):
                return
            why = str(answer.get("error", ""))
            if not answer.get("again"):
                break
            self._wait.wait(min(_AGAIN_S, left_s))
        raise OSError(errno.EIO, why)

    def damaged(self, start: int, end: int) -> None:
        """See chunks.Source. Nobody waits for an imaged that is away."""
        try:
            self._ask({"digest": self._digest, "start": start, "end": end, "damaged": True}, self._timeout_s)
        except OSError:
            self._hang_up()

    def _ask(self, asked: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        line = self._connection(timeout_s)
        line.sendall(json.dumps(asked).encode() + b"\n")
        said = b""
        while not said.endswith(b"\n"):
            part = line.recv(_LINE_BYTES)
            if not part or len(said) > _LINE_BYTES:
                raise ConnectionResetError(errno.ECONNRESET, "the connection ended")
            said += part
        answer: dict[str, Any] = json.loads(said)
        return answer

    def _connection(self, timeout_s: float) -> socket.socket:
        line: socket.socket | None = getattr(self._mine, "line", None)
        if line is None:
            line = self._mine.line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            line.settimeout(timeout_s)
            line.connect(str(self._path))
        # its answer says when time is up; this is for one that hangs
        line.settimeout(timeout_s + 1)
        return line

    def _hang_up(self) -> None:
        line: socket.socket | None = getattr(self._mine, "line", None)
        if line is not None:
            line.close()
        self._mine.line = None
