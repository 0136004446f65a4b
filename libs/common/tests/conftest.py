"""Redis and NATS of a test's own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.brokers import Launch, NatsServer, RedisServer, nats_server, redis_server


@pytest.fixture
def redis(tmp_path: Path, launch: Launch) -> Iterator[RedisServer]:
    with redis_server(tmp_path / "redis", launch) as server:
        yield server


@pytest.fixture
def nats(tmp_path: Path, launch: Launch) -> Iterator[NatsServer]:
    with nats_server(tmp_path / "nats", launch) as server:
        yield server
