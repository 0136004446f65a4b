"""A connection to a port of a sandbox, on its loopback addresses."""

import asyncio
import errno
import os
import socket

import anyio
from anyio.abc import SocketStream

from common.errors import NotFoundError, UnavailableError
from common.sys import linux
from common.sys.threads import in_own_thread

DIAL_S = 10.0
_ADDRESSES = ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"))


async def dial(netns_path: str, port: int) -> SocketStream:
    """Connect to 127.0.0.1, then to ::1; "" is the host's network.

    Raises:
        NotFoundError: the namespace is gone.
        UnavailableError: nobody accepts there.
    """
    reasons: list[str] = []
    for family, host in _ADDRESSES:
        try:
            handle = await _new_socket(netns_path, family)
        except OSError as exc:
            if exc.errno != errno.EAFNOSUPPORT:
                raise NotFoundError(f"network namespace {netns_path}: {exc.strerror}") from exc
            reasons.append(f"{host}: {exc.strerror}")
            continue
        try:
            with anyio.fail_after(DIAL_S):
                await asyncio.get_running_loop().sock_connect(handle, (host, port))
            return await SocketStream.from_socket(handle)
        except OSError as exc:
            handle.close()
            reasons.append(f"{host}: {os.strerror(exc.errno) if exc.errno else f'no answer in {DIAL_S:g} s'}")
        except BaseException:
            handle.close()
            raise
    raise UnavailableError(f"port {port} of the sandbox: {'; '.join(reasons)}")


async def _new_socket(netns_path: str, family: socket.AddressFamily) -> socket.socket:
    # A socket stays in the namespace in which it was made: only that needs the thread.
    made: list[socket.socket] = []

    def make() -> None:
        if netns_path:
            fd = os.open(netns_path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                linux.setns(fd, linux.CLONE_NEWNET)
            finally:
                os.close(fd)
        made.append(socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK))

    with anyio.CancelScope(shield=True):
        await in_own_thread(make, "netns-socket")
    return made[0]
