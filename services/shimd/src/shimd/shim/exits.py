"""The exit record: on disk before anyone is told."""

import os
from typing import Any

import msgpack

NAME = "exit.msgpack"


def write(directory: str, record: dict[str, Any]) -> None:
    """Write the record so that it is whole and durable, or not there.

    Raises:
        OSError: when the directory cannot be written.
    """
    if not directory:
        return
    os.makedirs(directory, 0o700, exist_ok=True)
    replace(f"{directory}/{NAME}", msgpack.packb(record))
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def replace(path: str, content: bytes, *, durable: bool = True) -> None:
    """Replace a small file by a rename."""
    fd = os.open(f"{path}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, content)
        if durable:
            os.fsync(fd)
    finally:
        os.close(fd)
    os.rename(f"{path}.new", path)
