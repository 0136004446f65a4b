"""An opsd without a node under it, and questions to any by its Unix socket."""

import http.client
import json
import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.eventually import eventually
from tests.support.pace import patience
from tests.support.service import started


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


@dataclass
class Opsd:
    """One opsd without a node under it, asked by its Unix socket."""

    node: str
    run_dir: Path
    process: subprocess.Popen[bytes]

    def ask(self, path: str, method: str = "GET", token: str = "") -> tuple[int, Any]:
        return ask(self.run_dir, path, method, token)

    def state(self) -> dict[str, Any]:
        told: dict[str, Any] = self.ask("/api/v1/state")[1]
        return told

    def up(self) -> set[str]:
        return {node["name"] for node in self.state()["nodes"] if node["up"]}


@contextmanager
def opsd(node: str, directory: Path, nats_url: str, **settings: str) -> Iterator[Opsd]:
    run_dir = Path(f"/run/slipway-opsd-{os.getpid()}-{node}")
    run_dir.mkdir(parents=True, exist_ok=True)
    told = {
        "node": node,
        "run_dir": str(run_dir),
        "data_dir": str(directory / node),
        "nats_url": nats_url,
        "http_address": "127.0.0.1:0",
        "interval_s": "0.2",
    } | settings
    process = started("opsd", directory / f"{node}.log", told)
    made = Opsd(node, run_dir, process)
    try:
        eventually(lambda: (run_dir / "opsd.sock").exists() and made.up(), what=f"opsd of {node} answers")
        yield made
    finally:
        process.terminate()
        assert process.wait(patience(20)) == 0
        subprocess.run(["rm", "-rf", str(run_dir)], check=True, timeout=20)
