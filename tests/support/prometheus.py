"""Metrics as a scraper sees them."""

import re
import socket
from pathlib import Path

from tests.support.pace import patience

_SAMPLE = re.compile(r"^([a-zA-Z_:][\w:]*)(\{.*\})? (\S+)$")
Samples = dict[tuple[str, str], float]
"""Values by name and labels, as `{a="b"}`."""


def get(path: Path, target: str = "/metrics") -> tuple[int, str]:
    """Status and body of one request to a Unix socket."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(patience(10))
        client.connect(str(path))
        client.sendall(f"GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        answer = b"".join(iter(lambda: client.recv(65536), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), body.decode()


def parse(text: str) -> Samples:
    """The samples of a text exposition."""
    found: Samples = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            match = _SAMPLE.match(line)
            assert match, line
            found[match[1], match[2] or ""] = float(match[3])
    return found


def scrape(run_dir: Path, service: str) -> Samples:
    """What a service of a node shows."""
    status, body = get(run_dir / "metrics" / f"{service}.sock")
    assert status == 200, body
    return parse(body)
