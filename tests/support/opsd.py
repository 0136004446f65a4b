"""Questions to an opsd by its Unix socket."""

import http.client
import json
import socket
from pathlib import Path
from typing import Any

from tests.support.pace import patience


class _Unix(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=patience(15))
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def ask(run_dir: Path, path: str, method: str = "GET", token: str = "") -> tuple[int, Any]:
    """Status and JSON of one request."""
    connection = _Unix(run_dir / "opsd" / "http.sock")
    try:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def address(run_dir: Path) -> str:
    """Where the page of this node's opsd is; empty while it is not known."""
    nodes = ask(run_dir, "/api/v1/state")[1]["nodes"]
    return next((node["address"] for node in nodes if node["address"]), "")
