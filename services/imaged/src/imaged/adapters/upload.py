"""Blobs on their way to a registry (distribution spec, "Pushing Blobs"). Blocking.

HEAD ─→ there │ POST ?mount ─→ mounted │ POST ─→ PATCH chunk, chunk, … ─→ PUT ?digest
"""

import io
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from urllib.parse import urlencode

import urllib3

from common.errors import NotFoundError, ResourceExhaustedError
from imaged.adapters.transport import MAX_TRIES, Body, Transport
from imaged.fetching.interruptible import Stop
from imaged.fetching.refusal import Refused
from imaged.manifest import Descriptor

RETRY_WAIT_S = 0.2
CHUNK_BYTES = 64 << 20
"""Smaller blobs go in one request; of a larger one, a cut connection costs one chunk at most."""
_OCTETS = "application/octet-stream"
_RANGE = re.compile(r"(?:bytes[ =])?0-(\d{1,18})")


class Upload:
    """One blob to one repository.

    Args:
        transport: the registry.
        blob: what.
        path: the file that has it.
        told: called with the bytes that have gone, from the beginning of the blob.
        stop: ends it.
    """

    def __init__(
        self, transport: Transport, blob: Descriptor, path: str, told: Callable[[int], None], stop: Stop
    ) -> None:
        self._transport, self._blob, self._path = transport, blob, path
        self._told, self._stop = told, stop

    def run(self) -> None:
        """Send it; a session that the registry forgot or broke is begun anew.

        Raises:
            Refused: with the error for the caller.
        """
        for attempt in range(1, MAX_TRIES + 1):
            response = self._ask("POST", "blobs/uploads/", {"Content-Length": "0"}, (202,))
            try:
                self._send(place(self._transport, response))
            except Refused as exc:
                busy = isinstance(exc.error, ResourceExhaustedError)
                again = isinstance(exc.error, NotFoundError) or (exc.transient and not busy)
                if not again or attempt == MAX_TRIES or self._stop.is_set():
                    raise
            else:
                return

    def _send(self, location: str) -> None:
        offset, furthest, tries = 0, 0, 0
        self._told(0)
        while self._blob.size > CHUNK_BYTES and offset < self._blob.size:
            end = min(offset + CHUNK_BYTES, self._blob.size)
            headers = {"Content-Type": _OCTETS, "Content-Range": f"{offset}-{end - 1}"}
            try:
                response = self._ask("PATCH", location, headers, (202,), (offset, end), tries=1)
                location, offset = place(self._transport, response, location), end
                if end > furthest:  # a registry that forgets chunks gets no new tries for them
                    furthest, tries = end, 0
            except Refused as exc:
                tries += 1
                if tries >= MAX_TRIES or not exc.transient or self._stop.is_set():
                    raise
                self._stop.wait(RETRY_WAIT_S * tries)
                location, offset = self._resume(location)
        rest = (offset, self._blob.size)
        join = "&" if "?" in location else "?"
        last = f"{location}{join}{urlencode({'digest': self._blob.digest})}"
        self._ask("PUT", last, {"Content-Type": _OCTETS}, (201, 204), rest)
        self._told(self._blob.size)

    def _resume(self, location: str) -> tuple[str, int]:
        """Where a session stands after a cut: its next address, and how many bytes the registry has."""
        response = self._ask("GET", location, {}, (204,))
        found = _RANGE.fullmatch(response.headers.get("Range", ""))
        # 0-0 is what registries say of a session that has nothing
        last = int(found[1]) if found else 0
        if last >= self._blob.size:
            raise Refused(self._transport.unavailable("claims to have more of a blob than there is"))
        return place(self._transport, response, location), last + 1 if last else 0

    def _ask(
        self,
        method: str,
        where: str,
        headers: dict[str, str],
        expect: tuple[int, ...],
        span: tuple[int, int] | None = None,
        tries: int = MAX_TRIES,
    ) -> urllib3.BaseHTTPResponse:
        body: Callable[[], Body] | None = None
        if span:
            headers = headers | {"Content-Length": str(span[1] - span[0])}

            def body() -> Body:
                return _Window(self._path, *span, self._told, self._stop)

        response = self._transport.send(
            method, where, headers, self._stop, expect=expect, body=body, tries=tries
        )
        response.drain_conn()
        response.release_conn()
        return response


def place(transport: Transport, response: urllib3.BaseHTTPResponse, last: str = "") -> str:
    """Where an upload goes on.

    Raises:
        Refused: the registry does not say.
    """
    found = response.headers.get("Location", "")
    if not found and not last:
        raise Refused(transport.unavailable("gave no place to upload to"))
    return transport.led(transport.host.url + "/", found) if found else last


def mount(transport: Transport, blob: Descriptor, sources: Sequence[str], stop: Stop) -> bool:
    """Whether the registry took a blob over from another of its repositories.

    A source that is denied is no reason to fail: the blob can be sent.
    """
    for source in sources:
        query = urlencode({"mount": blob.digest, "from": source})
        where, headers = f"blobs/uploads/?{query}", {"Content-Length": "0"}
        with suppress(Refused):
            response = transport.send("POST", where, headers, stop, expect=(201, 202))
            response.drain_conn()
            response.release_conn()
            if response.status == 201:
                return True
            # it began an upload instead, which nobody wants
            begun = place(transport, response)
            if transport.owns(begun):  # on another host, nobody knows what that would delete
                transport.send("DELETE", begun, {}, stop, expect=(204,), tries=1).release_conn()
    return False


def there(transport: Transport, blob: Descriptor, stop: Stop) -> bool:
    """Whether the repository has a blob.

    Raises:
        Refused: nobody can tell.
    """
    try:
        response = transport.send("HEAD", f"blobs/{blob.digest}", {}, stop, expect=(200,))
    except Refused as exc:
        if isinstance(exc.error, NotFoundError):
            return False
        raise
    response.release_conn()
    return True


class _Window(io.RawIOBase):
    """A part of a file, which tells how far it was read."""

    def __init__(self, path: str, start: int, end: int, told: Callable[[int], None], stop: Stop) -> None:
        super().__init__()
        self._file = io.FileIO(path)
        self._file.seek(start)
        self._at, self._end, self._told, self._stop = start, end, told, stop

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        if self._stop.is_set():
            raise TimeoutError("stopped")
        left = self._end - self._at
        piece = self._file.read(min(size, left) if size >= 0 else left) if left else b""
        self._at += len(piece)
        self._told(self._at)
        if not piece:
            self._file.close()
        return piece

    def close(self) -> None:
        self._file.close()
        super().close()
