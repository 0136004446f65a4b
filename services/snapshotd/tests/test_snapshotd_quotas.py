"""Bounds by project quotas: held against a writer, told once, kept over a restart; refused where there are none."""

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from common.events.schema import SnapshotFull, envelope_decoder
from common.records.keys import outbox_key
from services.snapshotd.tests.conftest import SnapshotdNode
from services.snapshotd.tests.test_snapshotd_layers import BASE, apply, tar
from snapshotd.quotas import Quotas, is_full
from tests.support.eventually import eventually

pytestmark = [pytest.mark.root, pytest.mark.integration, pytest.mark.anyio]
BOUND = 4 << 20
NONE = "no project quotas in this kernel: CONFIG_QFMT_V2 for ext4"
FILL = """
import ctypes, os, sys
fd, wrote = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT), 0
try:
    while wrote < 64 << 20:
        wrote += os.write(fd, os.urandom(65536))
    os.fsync(fd)
except OSError as exc:
    print(exc.errno, wrote)
else:
    print(0, wrote)
"""


def fill(node: SnapshotdNode, path: str) -> tuple[int, int]:
    """What ends a writer as containers are, without CAP_SYS_RESOURCE, and after how many bytes."""
    drop = ("setpriv", "--bounding-set=-sys_resource", "--inh-caps=-sys_resource")
    done = node.within(*drop, sys.executable, "-ISc", FILL, path)
    assert done.returncode == 0, done.stderr
    number, wrote = done.stdout.split()
    return int(number), int(wrote)


def full(node: SnapshotdNode) -> set[str]:
    """The snapshots of which it was told that they are full."""
    with Redis.from_url(node.redis.url) as redis:
        entries: Any = redis.xrange(outbox_key("n1", "snapshotd"))
    told = [envelope_decoder.decode(fields[b"envelope"]).decoded() for _, fields in entries]
    return {event.id for event in told if isinstance(event, SnapshotFull)}


@pytest.fixture
def bounded(snapshotd: SnapshotdNode) -> Iterator[SnapshotdNode]:
    """A node whose data is on an ext4 with project quotas, and whose snapshots are bounded."""
    snapshotd.stop()
    image = snapshotd.directory / "disk"
    with image.open("wb") as file:
        file.truncate(300 << 20)
    make = ["mkfs.ext4", "-q", "-O", "quota,project", "-E", "quotatype=prjquota", str(image)]
    subprocess.run(make, check=True, timeout=60)
    mounted = snapshotd.within("mount", "-o", "loop,prjquota", str(image), str(snapshotd.data))
    if mounted.returncode:
        pytest.skip(NONE)
    snapshotd.start(writable_max_bytes=str(BOUND), usage_interval_s="0.2")
    yield snapshotd
    snapshotd.stop()
    snapshotd.unmount_all()


@pytest.mark.beyond_debian  # the kernels of some machines have no quotas; Debian's has
@pytest.mark.timeout(900)
@pytest.mark.parametrize("snapshotter", ["overlayfs", "native"])
async def test_a_writer_is_held_to_the_bound(bounded: SnapshotdNode, snapshotter: str) -> None:
    client = bounded.client()
    layers = [await apply(bounded, tar(BASE))]
    first, second = [await client.prepare(key, layers, snapshotter) for key in ("c1", "c2")]
    number, wrote = fill(bounded, f"{first.path}/big")
    assert number in (errno.EDQUOT, errno.ENOSPC)
    assert BOUND - (1 << 20) < wrote <= BOUND
    # each has a bound of its own, which a restart keeps, and which goes with it
    bounded.kill()
    bounded.start()
    assert fill(bounded, f"{first.path}/more")[0] in (errno.EDQUOT, errno.ENOSPC)
    assert bounded.seen(f"{second.path}/little").write_bytes(b"x" * 1000) == 1000
    eventually(lambda: full(bounded) == {"c1"}, what="the event")
    await client.remove("c1")
    again = await client.prepare("c1", layers, snapshotter)
    assert fill(bounded, f"{again.path}/big")[1] > BOUND - (1 << 20)
    await client.close()


async def test_a_bound_that_cannot_be_held_keeps_snapshotd_from_starting(
    snapshotd: SnapshotdNode, tmp_path: Path
) -> None:
    snapshotd.stop()
    mounted = snapshotd.within("mount", "-t", "tmpfs", "none", str(snapshotd.data))
    assert mounted.returncode == 0, mounted.stderr
    environment = os.environ | {
        "SLIPWAY_SNAPSHOTD_NODE": "n1",
        "SLIPWAY_SNAPSHOTD_RUN_DIR": str(snapshotd.run),
        "SLIPWAY_SNAPSHOTD_DATA_DIR": str(snapshotd.data),
        "SLIPWAY_SNAPSHOTD_REDIS_URL": snapshotd.redis.url,
        "SLIPWAY_SNAPSHOTD_NATS_URL": "nats://127.0.0.1:9",
        "SLIPWAY_SNAPSHOTD_WRITABLE_MAX_BYTES": "1000000",
    }
    enter = ("nsenter", f"--mount=/proc/{snapshotd.holder}/ns/mnt", "--", sys.executable, "-m", "snapshotd")
    done = subprocess.run(enter, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "writable_max_bytes = 1000000: the filesystem of" in done.stdout + done.stderr
    assert "prjquota" in done.stdout + done.stderr


def test_projects_are_apart_and_none_without_a_bound() -> None:
    bounded = Quotas(Path("/nowhere"), BOUND)
    made = [bounded.project(()) for _ in range(100)]
    assert len(set(made)) == 100
    assert min(made) >= 1 << 30
    assert max(made) < 1 << 31
    unbounded = Quotas(Path("/nowhere"), 0)
    unbounded.check()
    assert unbounded.project(()) == 0


@pytest.mark.parametrize(
    ("used", "full"), [(0, False), (BOUND - (1 << 20), False), (BOUND - 4096, True), (BOUND, True)]
)
def test_a_snapshot_is_full_a_little_before_its_bound(used: int, full: bool) -> None:
    assert is_full(used, BOUND) is full
