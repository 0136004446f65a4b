"""Waiting for a server of this process to listen."""

import socket
from pathlib import Path

from tests.support.eventually import until


async def listened(path: Path) -> None:
    """Return when a Unix socket can be connected to."""

    def answers() -> bool:
        with socket.socket(socket.AF_UNIX) as client:
            return not client.connect_ex(str(path))

    await until(answers, f"a server at {path}")
