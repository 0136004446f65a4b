"""A snapshotd of the test's own: real Redis, real socket, in a mount namespace that outlives the service."""

import secrets
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest

from common.clients.snapshotd import SnapshotdClient
from tests.support.brokers import RedisServer, redis_server
from tests.support.eventually import eventually
from tests.support.service import started


class SnapshotdNode:
    def __init__(self, directory: Path, redis: RedisServer, holder: int) -> None:
        self.directory, self.redis, self.holder = directory, redis, holder
        self.data, self.run = directory / "data", directory / "run"
        self.settings: dict[str, str] = {}
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self.process
        return self.process.pid

    def start(self, **settings: str) -> None:
        self.settings.update(settings)
        settings = {
            "node": "n1",
            "run_dir": str(self.run),
            "data_dir": str(self.data),
            "redis_url": self.redis.url,
            "nats_url": "nats://127.0.0.1:9",
            **self.settings,
        }
        inside = ["nsenter", f"--mount=/proc/{self.holder}/ns/mnt", "--"]
        with suppress(FileNotFoundError):
            (self.run / "snapshotd.sock").unlink()
        self.process = started("snapshotd", self.directory / "log", settings, inside=inside)
        eventually((self.run / "snapshotd.sock").exists, what=f"snapshotd: {self.log()[-2000:]}")

    def kill(self) -> None:
        assert self.process
        self.process.kill()
        self.process.wait(10)

    def stop(self) -> int:
        assert self.process
        self.process.terminate()
        return self.process.wait(15)

    def log(self) -> str:
        path = self.directory / "log"
        return path.read_text() if path.exists() else ""

    def client(self, timeout_s: float = 30) -> SnapshotdClient:
        return SnapshotdClient(str(self.run / "snapshotd.sock"), timeout_s=timeout_s)

    def seen(self, path: str | Path) -> Path:
        """A path as the service's mount namespace has it."""
        return Path(f"/proc/{self.holder}/root{path}")

    def within(self, *command: str) -> "subprocess.CompletedProcess[str]":
        """Run a command in the service's mount namespace."""
        enter = ("nsenter", f"--mount=/proc/{self.holder}/ns/mnt", "--")
        return subprocess.run([*enter, *command], capture_output=True, text=True, timeout=60, check=False)

    def unmount_all(self) -> None:
        """What the stopped service has mounted, and the filesystem of its data."""
        points = Path(f"/proc/{self.holder}/mountinfo").read_text().splitlines()
        for point in reversed([line.split()[4] for line in points]):
            if point.startswith((f"{self.run}/", f"{self.data}")):
                done = self.within("umount", "-l", point)
                assert done.returncode == 0, done.stderr

    def mounts(self) -> list[str]:
        prefix = f"{self.run}/snapshotd/mounts/"
        lines = Path(f"/proc/{self.holder}/mountinfo").read_text().splitlines()
        return sorted(
            line.split()[4].removeprefix(prefix) for line in lines if line.split()[4].startswith(prefix)
        )

    def leftovers(self) -> list[str]:
        layers = self.data / "snapshotd/layers"
        return [p.name for p in layers.iterdir() if p.name.startswith(".")]


@contextmanager
def snapshotd_node() -> Iterator[SnapshotdNode]:
    directory = Path(f"/var/tmp/slipway-test-{secrets.token_hex(4)}")
    directory.mkdir(mode=0o700)
    # keeps the mount namespace while the service dies and comes back
    holder = subprocess.Popen(
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", "echo; exec cat"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert holder.stdout
    holder.stdout.readline()
    try:
        with redis_server(directory / "redis") as redis:
            node = SnapshotdNode(directory, redis, holder.pid)
            node.data.mkdir()
            try:
                yield node
            finally:
                if node.process and node.process.poll() is None:
                    node.kill()
    finally:
        holder.kill()
        holder.wait(10)
        for pipe in (holder.stdin, holder.stdout):
            if pipe:
                pipe.close()
        # a killed service's rm may be at work here as well
        eventually(partial(_removed, directory), what="clean-up")


def _removed(directory: Path) -> bool:
    shutil.rmtree(directory, ignore_errors=True)
    return not directory.exists()


@pytest.fixture
def snapshotd() -> Iterator[SnapshotdNode]:
    """A node whose service is started by the test, or by `start`."""
    with snapshotd_node() as node:
        node.start()
        yield node


@pytest.fixture(scope="module")
def shared_snapshotd() -> Iterator[SnapshotdNode]:
    with snapshotd_node() as node:
        node.start(max_unpacks="2", layer_max_entries="2000", layer_max_bytes=str(64 << 20))
        yield node
