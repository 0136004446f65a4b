"""What a worker leaves to the next: its descriptors by way of the keeper, and the facts in a file of memory."""

import _socket
import os
import struct
from collections.abc import Callable
from typing import Any

import msgpack

from shimd.shim.keeper import MAX_FDS

Facts = dict[str, Any]
Put = Callable[[int, int], int]
"""Hand over a descriptor (-1: none) and the events that the keeper is to wait for; returns its place."""
Get = Callable[[int], int]
"""The descriptor at a place."""


def leave(keeper: _socket.socket, describe: Callable[[Put], Facts]) -> bool:
    """Give all to the keeper; False, and nothing happens, when that is too much."""
    store = os.memfd_create("shim", os.MFD_CLOEXEC)
    fds = [store]
    events = bytearray((0,))

    def put(fd: int, wanted: int) -> int:
        if fd < 0:
            return -1
        fds.append(fd)
        events.append(wanted)
        return len(fds) - 1

    try:
        os.write(store, msgpack.packb(describe(put)))
        if len(fds) > MAX_FDS:
            return False
        rights = struct.pack(f"{len(fds)}i", *fds)
        keeper.sendmsg([events], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, rights)])
    finally:
        os.close(store)
    return True


def take(fds: list[int]) -> tuple[Facts, Get]:
    """Take up what the last worker left."""
    store = fds[0]
    facts: Facts = msgpack.unpackb(os.pread(store, os.fstat(store).st_size, 0))
    os.close(store)
    return facts, lambda place: fds[place] if place >= 0 else -1
