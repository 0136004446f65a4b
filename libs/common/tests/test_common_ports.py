"""Ports that are kept."""

import socket

import pytest

from common.sys.ports import held_port


def test_a_held_port_is_for_a_server_and_for_nobody_else() -> None:
    with held_port() as port:
        with socket.create_server(("127.0.0.1", port)):  # with SO_REUSEADDR
            socket.create_connection(("127.0.0.1", port)).close()
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", port))
    with held_port(port) as again:
        assert again == port


def test_a_port_that_is_taken_gives_way_to_a_free_one() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        with held_port(number) as port:
            assert port not in (0, number)
