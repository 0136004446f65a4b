"""Free loopback ports, and waiting for who listens on one."""

import socket
import time

READY_S = 15.0


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def wait_for_port(port: int) -> None:
    """Return when something listens.

    Raises:
        TimeoutError: nothing does within 15 s.
    """
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1):
                return
        except OSError:
            time.sleep(0.02)
    message = f"nothing listens on port {port}"
    raise TimeoutError(message)
