"""A breakable link to a registry: a proxy that counts, holds back, cuts, and lies when told to."""

import http.client
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PIECE_BYTES = 16 << 10


@dataclass
class Link:
    """What the proxy does; `address` is HOST:PORT."""

    behind: str
    address: str = ""
    held: tuple[int, int] | None = None
    """Bytes of blobs that are held back for now: first, and the one after the last."""
    ranges: bool = True
    """Whether it passes Range on."""
    lie: tuple[bytes, bytes] | None = None
    """What to send instead of what, in blobs; of one length."""
    blob_bytes: int = 0
    """Sent so far of blobs."""
    ranged: list[tuple[str, str]] = field(default_factory=list)
    """Paths and ranges asked for."""
    cut: bool = False
    """Whether connections end without an answer."""

    def may(self, start: int, end: int) -> bool:
        """Wait until these bytes of a blob may go; False when the link is cut first."""
        tick = threading.Event()
        while not self.cut and self.held and start < self.held[1] and self.held[0] < end:
            tick.wait(0.02)
        self.blob_bytes += end - start
        return not self.cut

    def handle(self, request: BaseHTTPRequestHandler) -> None:
        """Pass one request on."""
        if self.cut:
            request.close_connection = True
            return
        headers = {k: v for k, v in request.headers.items() if self.ranges or k.lower() != "range"}
        is_blob = "/blobs/" in request.path
        if is_blob and "Range" in headers:
            self.ranged.append((request.path, headers["Range"]))
        upstream = http.client.HTTPConnection(self.behind, timeout=60)
        try:
            upstream.request(request.command, request.path, headers=headers)
            answer = upstream.getresponse()
            request.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in ("date", "server", "connection"):
                    request.send_header(name, value)
            request.end_headers()
            with suppress(ConnectionError):
                at = int(answer.headers.get("Content-Range", "bytes 0-").split()[1].split("-")[0])
                while piece := answer.read(PIECE_BYTES):
                    if is_blob and not self.may(at, at + len(piece)):
                        request.close_connection = True
                        return
                    at += len(piece)
                    request.wfile.write(piece.replace(*self.lie) if self.lie else piece)
        finally:
            upstream.close()


@contextmanager
def link(registry: str) -> Iterator[Link]:
    """Run one in front of a registry."""
    made = Link(registry)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            made.handle(self)

        do_HEAD = do_GET  # noqa: N815 - as BaseHTTPRequestHandler calls it

        def log_message(self, *args: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    made.address = f"127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield made
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
