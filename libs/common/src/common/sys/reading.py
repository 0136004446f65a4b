"""Connections that were accepted: read no faster than they are taken."""

from typing import Any


def hold(stream: Any) -> None:
    """Read nothing of an accepted connection until somebody asks for it; to be called before the first `receive`.

    anyio pauses reading after each wait for data. A connection that it has accepted, but not one that it has made, starts
    reading by itself; whose client sends without a break is never waited for, and all that comes is kept in memory.
    """
    transport = getattr(stream, "_transport", None)  # of TLS, the handshake has waited already
    if transport is not None and transport.is_reading():
        transport.pause_reading()
