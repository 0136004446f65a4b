"""Real Redis and NATS servers as processes of the test's own, on a socket and a free port."""

import json
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.eventually import eventually

STOP_S = 10


@dataclass
class RedisServer:
    """A redis-server with its append-only file in `directory`."""

    directory: Path
    process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        return f"unix://{self.directory}/redis.sock"

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(STOP_S)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """SIGSTOP: it takes connections and commands, and answers none until the end."""
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    def start(self) -> None:
        """Start (again), with the data that is there."""
        self.process = _start_redis(self.directory)


def _start_redis(directory: Path) -> subprocess.Popen[bytes]:
    path = directory / "redis.sock"
    path.unlink(missing_ok=True)
    process = subprocess.Popen(
        [
            "redis-server",
            "--port",
            "0",
            "--unixsocket",
            str(path),
            "--dir",
            str(directory),
            "--appendonly",
            "yes",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    eventually(lambda: _answers(path), what="redis-server")
    return process


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(str(path))
            client.sendall(b"PING\r\n")
            return client.recv(16).startswith(b"+PONG")
        except OSError:
            return False


@contextmanager
def redis_server(directory: Path) -> Iterator[RedisServer]:
    directory.mkdir(parents=True, exist_ok=True)
    server = RedisServer(directory, _start_redis(directory))
    try:
        yield server
    finally:
        server.kill()


@dataclass
class NatsServer:
    """A nats-server with JetStream in `directory`; it keeps its port when started again."""

    directory: Path
    process: subprocess.Popen[bytes]
    port: int

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(STOP_S)

    def start(self) -> None:
        self.process, self.port = _start_nats(self.directory, self.port)


def _start_nats(directory: Path, port: int) -> tuple[subprocess.Popen[bytes], int]:
    program = shutil.which("nats-server", path=str(Path(sys.executable).parent)) or "nats-server"
    for old in directory.glob("*.ports"):
        old.unlink()
    process = subprocess.Popen(
        [
            program,
            "-a",
            "127.0.0.1",
            "-p",
            str(port),
            "--ports_file_dir",
            str(directory),
            "-js",
            "-sd",
            str(directory),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    found = eventually(lambda: _ports(directory, process.pid), what="nats-server")
    return process, found


def _ports(directory: Path, pid: int) -> int | None:
    for path in directory.glob(f"*_{pid}.ports"):
        try:
            url: str = json.loads(path.read_text())["nats"][0]
        except (ValueError, KeyError):
            return None
        return int(url.rpartition(":")[2])
    return None


@contextmanager
def nats_server(directory: Path) -> Iterator[NatsServer]:
    directory.mkdir(parents=True, exist_ok=True)
    process, port = _start_nats(directory, -1)
    server = NatsServer(directory, process, port)
    try:
        yield server
    finally:
        server.kill()
