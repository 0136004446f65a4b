"""Real Redis and NATS servers of the test's own, on a socket and a free port: as processes, or in containers."""

import json
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from testcontainers.core.container import DockerContainer

from tests.support.eventually import eventually

STOP_S = 10


class Server(Protocol):
    """What subprocess.Popen and Container are here."""

    def send_signal(self, sig: int) -> None: ...
    def kill(self) -> None: ...
    def wait(self, timeout: float) -> object: ...


Launch = Callable[[list[str], Path], Server]
"""Run a server's command line, with a directory that it has at the same path."""


def as_process(command: list[str], _directory: Path) -> Server:
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


class Container:
    """A server in a container of testcontainers, on the host's network."""

    def __init__(self, image: str, command: list[str], directory: Path) -> None:
        self._container = DockerContainer(image).with_command(command).with_kwargs(network_mode="host")
        self._container.with_volume_mapping(str(directory), str(directory), "rw").start()

    def send_signal(self, sig: int) -> None:
        self._container.get_wrapped_container().kill(sig)

    def kill(self) -> None:
        self._container.stop(force=True)

    def wait(self, timeout: float) -> None:
        """It is gone when it is killed."""


def in_containers_of(image: str) -> Launch:
    return lambda command, directory: Container(image, command, directory)


@dataclass
class RedisServer:
    """A redis-server with its append-only file in `directory`."""

    directory: Path
    process: Server
    launch: Launch

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
        self.process = _start_redis(self.directory, self.launch)


def _start_redis(directory: Path, launch: Launch) -> Server:
    path = directory / "redis.sock"
    path.unlink(missing_ok=True)
    command = ["redis-server", "--port", "0", "--unixsocket", str(path), "--dir", str(directory)]
    process = launch([*command, "--appendonly", "yes"], directory)
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
def redis_server(directory: Path, launch: Launch = as_process) -> Iterator[RedisServer]:
    directory.mkdir(parents=True, exist_ok=True)
    server = RedisServer(directory, _start_redis(directory, launch), launch)
    try:
        yield server
    finally:
        server.kill()


@dataclass
class NatsServer:
    """A nats-server in `directory`, with the settings of `server.conf` there; it keeps its port when started again."""

    directory: Path
    process: Server
    port: int
    launch: Launch
    jetstream: bool

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(STOP_S)

    def start(self) -> None:
        self.process, self.port = _start_nats(
            self.directory, self.port, self.launch, jetstream=self.jetstream
        )


def _start_nats(directory: Path, port: int, launch: Launch, *, jetstream: bool) -> tuple[Server, int]:
    local = shutil.which("nats-server", path=str(Path(sys.executable).parent))
    program = local if local and launch is as_process else "nats-server"
    for old in directory.glob("*.ports"):
        old.unlink()
    command = [program, "-a", "127.0.0.1", "-p", str(port), "--ports_file_dir", str(directory)]
    if jetstream:
        command += ["-js", "-sd", str(directory)]
    if (settings := directory / "server.conf").exists():
        command += ["-c", str(settings)]
    process = launch(command, directory)
    return process, eventually(lambda: _ports(directory), what="nats-server")


def _ports(directory: Path) -> int | None:
    for path in directory.glob("*.ports"):
        try:
            url: str = json.loads(path.read_text())["nats"][0]
        except (ValueError, KeyError):
            return None
        return int(url.rpartition(":")[2])
    return None


@contextmanager
def nats_server(
    directory: Path, launch: Launch = as_process, *, jetstream: bool = True
) -> Iterator[NatsServer]:
    directory.mkdir(parents=True, exist_ok=True)
    process, port = _start_nats(directory, -1, launch, jetstream=jetstream)
    server = NatsServer(directory, process, port, launch, jetstream)
    try:
        yield server
    finally:
        server.kill()
