"""Health checks of processes that run by themselves, by the real servers."""

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from tests.support.brokers import nats_server, redis_server
from tests.support.pace import patience

LIMIT_S = patience(20)


def check(kind: str, address: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "node.health", kind, address]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    return done.returncode, done.stderr.strip()


@contextmanager
def served(path: str, servicer: health.HealthServicer | None) -> Iterator[None]:
    server = grpc.server(ThreadPoolExecutor(1))
    if servicer:
        health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    server.add_insecure_port(f"unix:{path}")
    server.start()
    yield
    server.stop(0).wait(LIMIT_S)


def test_a_service_is_healthy_when_it_says_so(tmp_path: Path) -> None:
    path = f"{tmp_path}/one.sock"
    servicer = health.HealthServicer()
    with served(path, servicer):
        servicer.set("", health_pb2.HealthCheckResponse.SERVING)
        assert check("grpc", path) == (0, "")
        servicer.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
        assert check("grpc", path) == (1, f"{path}: does not serve")


def test_a_service_without_health_is_not_healthy(tmp_path: Path) -> None:
    path = f"{tmp_path}/one.sock"
    with served(path, None):
        assert check("grpc", path) == (1, f"{path}: refuses")


def test_nobody_there_is_unhealthy_and_named(tmp_path: Path) -> None:
    for kind in ("grpc", "redis"):
        code, said = check(kind, f"{tmp_path}/none.sock")
        assert code == 1
        assert said.startswith(f"{tmp_path}/none.sock: ")


def test_redis_and_nats_are_asked_in_their_own_tongues(tmp_path: Path) -> None:
    with redis_server(tmp_path / "redis") as redis, nats_server(tmp_path / "nats") as nats:
        assert check("redis", f"{redis.directory}/redis.sock") == (0, "")
        assert check("nats", f"127.0.0.1:{nats.port}") == (0, "")
        assert check("grpc", f"{redis.directory}/redis.sock")[0] == 1
