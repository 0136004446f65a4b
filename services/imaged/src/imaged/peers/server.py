"""Gives blobs to other nodes: GET /v1/<digest> with a seal on node, repository and digest, whole or a range of it.

Nothing is read of a client but one request of 8 KiB within 5 s; who is one too many is left to ask its registry.
"""

import os
import re
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread
import h11
from anyio import CapacityLimiter
from anyio.abc import TaskGroup

from common.accepting import accept
from common.errors import PermissionDeniedError
from common.observe.log import get_logger
from imaged import meters
from imaged.fetching.bandwidth import Bandwidth
from imaged.fetching.interruptible import Stop
from imaged.peers.seal import Seals

MAX_HEAD_BYTES = 8 << 10
HEAD_S = 5.0
WRITE_S = 10.0
"""A client that takes nothing for so long is left."""
BACKLOG = 16
PEER_HEADER, REPOSITORY_HEADER = "slipway-peer", "slipway-repository"
PATH = "/v1/"
_TIME = re.compile(r"\d{1,19}")
_RANGE = re.compile(r"bytes=(\d{1,18})-(\d{0,18})")
_log = get_logger("peers")


def listen(address: str) -> socket.socket:
    """A listening socket for HOST:PORT.

    Raises:
        OSError: the address cannot be had.
    """
    host, _, port = address.rpartition(":")
    family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
    return socket.create_server((host.strip("[]"), int(port)), family=family, backlog=BACKLOG)


class _Refusal(Exception):  # noqa: N818 - an answer
    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


class BlobServer:
    """Listens for the other nodes.

    Args:
        node: this one, whose name is under the seals.
        seals: of the cluster.
        path_of: the file of a blob, when an image of the repository has it.
        bandwidth: of all that is given.
        max_connections: at once.
    """

    def __init__(
        self,
        node: str,
        seals: Seals,
        path_of: Callable[[str, str], Path | None],
        bandwidth: Bandwidth,
        max_connections: int,
    ) -> None:
        self._node, self._seals, self._path_of, self._bandwidth = node, seals, path_of, bandwidth
        self._limiter = CapacityLimiter(max_connections)

    def gives(self, repository: str, digest: str) -> bool:
        """Whether a blob can be had here now."""
        return self._limiter.available_tokens > 0 and self._path_of(repository, digest) is not None

    async def serve(self, listening: socket.socket) -> None:
        """Serve for ever what connects to a listening socket."""
        listening.setblocking(False)
        async with anyio.create_task_group() as group:
            await accept(partial(self._accept, listening, group), "peers")

    async def _accept(self, listening: socket.socket, group: TaskGroup) -> None:
        while True:
            await anyio.wait_readable(listening)
            connection, _ = listening.accept()
            if self._limiter.available_tokens < 1:
                connection.close()
            else:
                group.start_soon(self._client, connection)

    async def _client(self, connection: socket.socket) -> None:
        stop = Stop()
        try:
            await anyio.to_thread.run_sync(
                self._talk, connection, stop, limiter=self._limiter, abandon_on_cancel=True
            )
        finally:
            stop.set()
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)  # its thread ends, and closes it

    def _talk(self, connection: socket.socket, stop: Stop) -> None:
        http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)
        with connection:
            try:
                try:
                    self._give(connection, http, self._request(connection, http), stop)
                except _Refusal as exc:
                    _log.info("peers.denied", status=exc.status, error=str(exc))
                    connection.sendall(_head(http, exc.status, [("Content-Length", "0")]))
            except (OSError, h11.ProtocolError) as exc:
                _log.debug("peers.client", error=str(exc))

    def _request(self, connection: socket.socket, http: h11.Connection) -> h11.Request:
        until_s = time.monotonic() + HEAD_S
        while (event := http.next_event()) is h11.NEED_DATA:
            connection.settimeout(max(0.01, until_s - time.monotonic()))
            http.receive_data(connection.recv(MAX_HEAD_BYTES))
            if time.monotonic() > until_s:
                raise TimeoutError("no request in time")
        if not isinstance(event, h11.Request):
            raise TimeoutError("no request came")
        return event

    def _give(
        self, connection: socket.socket, http: h11.Connection, request: h11.Request, stop: Stop
    ) -> None:
        headers = {name.decode(): found.decode("latin-1") for name, found in request.headers}
        digest = request.target.decode("latin-1").removeprefix(PATH)
        path = self._allowed(request, headers, digest)
        connection.settimeout(WRITE_S)
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            start, end = _span(headers.get("range", ""), size)
            answer = [("Content-Length", str(end - start)), ("Content-Type", "application/octet-stream")]
            if "range" in headers:
                answer.append(("Content-Range", f"bytes {start}-{end - 1}/{size}"))
            connection.sendall(_head(http, 206 if "range" in headers else 200, answer))
            while start < end and not stop.is_set():
                sent = connection.sendfile(file, start, min(self._bandwidth.chunk_bytes, end - start))
                if not sent:
                    return
                start += sent
                meters.PEER_SERVED.inc(sent)
                self._bandwidth.spend(sent, stop)

    def _allowed(self, request: h11.Request, headers: dict[str, str], digest: str) -> Path:
        """The file of a blob that a node of the cluster may have."""
        repository = headers.get(REPOSITORY_HEADER, "")
        node, _, rest = headers.get(PEER_HEADER, "").partition(" ")
        at_ns, _, seal = rest.partition(" ")
        if not _TIME.fullmatch(at_ns):
            raise _Refusal(401, "a request without a seal")
        try:
            self._seals.check(seal, int(at_ns), *request_words(node, self._node, repository, digest))
        except PermissionDeniedError as exc:
            raise _Refusal(401, exc.message) from exc
        path = self._path_of(repository, digest)
        if request.method != b"GET" or path is None:
            raise _Refusal(404, f"node {node} asked for {digest} of {repository}, which is not here")
        return path


def request_words(asking: str, asked: str, repository: str, digest: str) -> tuple[str, ...]:
    """What the seal of a request is on, but for its time."""
    return "get", asking, asked, repository, digest


def _span(text: str, size: int) -> tuple[int, int]:
    found = _RANGE.fullmatch(text)
    if not text:
        return 0, size
    if not found or int(found[1]) >= size:
        raise _Refusal(416, f"range {text!r} of {size} bytes")
    end = min(int(found[2] or size - 1) + 1, size)
    if end <= int(found[1]):
        raise _Refusal(416, f"range {text!r} of {size} bytes")
    return int(found[1]), end


def _head(http: h11.Connection, status: int, headers: list[tuple[str, str]]) -> bytes:
    head: bytes = (
        http.send(h11.Response(status_code=status, headers=[*headers, ("Connection", "close")])) or b""
    )
    return head
