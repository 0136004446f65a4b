"""Waiting for a server of this process to listen."""

import socket
from pathlib import Path

import anyio

from tests.support.pace import patience


async def listened(path: Path) -> None:
    """Return when a Unix socket can be connected to."""
    with anyio.fail_after(patience(10)):
        while True:
            with socket.socket(socket.AF_UNIX) as client:
                if not client.connect_ex(str(path)):
                    return
            await anyio.sleep(0.01)
