"""A door in front of a registry: counts what is asked for, and lets blobs through when told to."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import urllib3

from tests.support.pace import patience

HELD_S = patience(60)


class Gate:
    """Forwards GET and HEAD; `open` is set at first.

    Args:
        target: HOST:PORT of the registry.
    """

    def __init__(self, target: str) -> None:
        self.open = threading.Event()
        self.open.set()
        self.asked: list[str] = []
        """Method and path of each request, in order."""
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _forward(self) -> None:
                outer.asked.append(f"{self.command} {self.path}")
                if "/blobs/" in self.path:
                    outer.open.wait(HELD_S)
                wanted = {k: v for k, v in self.headers.items() if k in ("Accept", "Range", "Authorization")}
                answer = urllib3.request(self.command, f"http://{target}{self.path}", headers=wanted)
                self.send_response(answer.status)
                for name, value in answer.headers.items():
                    if name.lower() not in ("connection", "transfer-encoding", "content-length"):
                        self.send_header(name, value)
                size = answer.headers["Content-Length"] if self.command == "HEAD" else len(answer.data)
                self.send_header("Content-Length", str(size))
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(answer.data)

            do_GET = do_HEAD = _forward  # noqa: N815 - the library's names

            def log_message(self, *args: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.host = f"127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self.open.set()
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def gate(target: str) -> Iterator[Gate]:
    """A door that is taken away after the block."""
    made = Gate(target)
    try:
        yield made
    finally:
        made.close()
