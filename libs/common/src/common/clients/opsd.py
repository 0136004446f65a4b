"""Questions to a node's opsd by its Unix socket, which answers root without a token."""

import http.client
import json
import socket
from typing import Any

from common.errors import BY_REASON, InternalError, UnavailableError

ANSWER_S = 15.0


class _Connection(http.client.HTTPConnection):
    def __init__(self, run_dir: str) -> None:
        super().__init__("localhost", timeout=ANSWER_S)
        self._path = f"{run_dir}/opsd/http.sock"

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def ask(run_dir: str, path: str) -> dict[str, Any]:
    """The JSON of one request; blocking.

    Raises:
        UnavailableError: it does not answer.
        SlipwayError: what it answered.
    """
    connection = _Connection(run_dir)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        body: dict[str, Any] = json.loads(answer.read())
    except (OSError, ValueError, http.client.HTTPException) as exc:
        raise UnavailableError(f"opsd of {run_dir} does not answer: {exc}") from exc
    finally:
        connection.close()
    if answer.status != http.client.OK:
        raise BY_REASON.get(str(body.get("error")), InternalError)(str(body.get("message")))
    return body


def link(run_dir: str) -> str:
    """The link to the dashboard that carries its token: for the eyes of who is root. Raises as `ask`."""
    return str(ask(run_dir, "/api/v1/link")["url"])
