"""Loopback ports that are kept for a server which is about to listen."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def held_port(wanted: int = 0, *, only: bool = False) -> Iterator[int]:
    """Have a TCP port of 127.0.0.1 for as long as the block runs: the wanted one, or a free one if it is taken or 0.

    With `only` no other than the wanted one.

    It is bound and does not listen. A server that binds it with SO_REUSEADDR, as NATS' and Go's do, can listen there, again
    and again; without this the kernel would give it away meanwhile, also as the near end of any connection.

    Raises:
        OSError: the only one that will do is taken.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            held.bind(("127.0.0.1", wanted))
        except OSError:
            if only:
                raise
            held.bind(("127.0.0.1", 0))
        yield int(held.getsockname()[1])
