"""What a start finds and mends, and what an end leaves."""

import os
import signal
import subprocess
from pathlib import Path

import pytest
import redis

from services.snapshotd.tests.blobs import apply, events
from services.snapshotd.tests.conftest import SnapshotdNode
from tests.support.eventually import eventually

pytestmark = [pytest.mark.root, pytest.mark.integration, pytest.mark.anyio]


async def test_mounts_and_writes_survive_kill_and_restart(snapshotd: SnapshotdNode) -> None:
    client = snapshotd.client()
    layer = await apply(snapshotd, client, "a")
    made = {name: await client.prepare(name, [layer], name) for name in ("overlayfs", "native")}
    for one in made.values():
        (snapshotd.seen(one.path) / "written").write_text("kept")
    snapshotd.kill()
    assert snapshotd.mounts() == ["native", "overlayfs"]
    snapshotd.start()
    assert {s.key: s for s in await client.list()} == made
    assert snapshotd.mounts() == ["native", "overlayfs"]
    for one in made.values():
        assert (snapshotd.seen(one.path) / "written").read_text() == "kept"
    assert "repaired" not in dict(events(snapshotd))
    await client.close()


async def test_start_mends_what_differs(snapshotd: SnapshotdNode) -> None:
    client = snapshotd.client()
    layer = await apply(snapshotd, client, "a")
    one = await client.prepare("lost-mount", [layer])
    (snapshotd.seen(one.path) / "written").write_text("kept")
    await client.prepare("lost-dir", [layer])
    await client.prepare("kept", [layer], "native", readonly=True)
    snapshotd.kill()
    data, mounts = snapshotd.data / "snapshotd", snapshotd.run / "snapshotd/mounts"
    inside = ["nsenter", f"--mount=/proc/{snapshotd.holder}/ns/mnt", "--"]
    for name in ("lost-mount", "lost-dir"):
        subprocess.run([*inside, "umount", mounts / name], check=True)
    subprocess.run(["rm", "-rf", data / "snapshots/lost-dir"], check=True)
    (data / "layers/.new-half/fs").mkdir(parents=True)
    (data / "snapshots/stray/upper").mkdir(parents=True)
    snapshotd.seen(mounts / "stray-mount").mkdir()
    subprocess.run([*inside, "mount", "-t", "tmpfs", "none", mounts / "stray-mount"], check=True)
    snapshotd.start()
    assert sorted(s.key for s in await client.list()) == ["kept", "lost-mount"]
    assert snapshotd.mounts() == ["kept", "lost-mount"]
    assert (snapshotd.seen(one.path) / "written").read_text() == "kept"
    assert snapshotd.leftovers() == []
    assert not (data / "snapshots/stray").exists()
    mended = {key for verb, key in events(snapshotd) if verb == "repaired"}
    assert mended == {"lost-mount", "lost-dir", ".new-half", "stray", "stray-mount"}
    # lost-dir held the layer: with the record gone, nothing holds it but the others
    await client.remove("lost-mount")
    await client.remove("kept")
    assert await client.remove_layers([layer]) == []
    await client.close()


async def test_wiped_redis_is_rebuilt_from_disk(snapshotd: SnapshotdNode) -> None:
    client = snapshotd.client()
    layer = await apply(snapshotd, client, "a")
    made = await client.prepare("c1", [layer])
    snapshotd.kill()
    with redis.Redis(unix_socket_path=snapshotd.redis.url.removeprefix("unix://")) as connection:
        connection.flushall()
    snapshotd.start()
    assert await client.get("c1") == made
    assert [found.diff_id for found in await client.list_layers()] == [layer]
    assert snapshotd.mounts() == ["c1"]
    await client.close()


def nurseries(node: SnapshotdNode) -> list[int]:
    children = Path(f"/proc/{node.pid}/task/{node.pid}/children").read_text().split()
    return [int(pid) for pid in children if b"diff.nursery" in _command(pid)]


def _command(pid: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except FileNotFoundError:
        return b""  # it went meanwhile


async def test_layers_are_unpacked_after_the_nursery_has_died(snapshotd: SnapshotdNode) -> None:
    client = snapshotd.client()
    await apply(snapshotd, client, "a")
    (first,) = nurseries(snapshotd)
    os.kill(first, signal.SIGKILL)
    eventually(lambda: nurseries(snapshotd) not in ([], [first]), what="another nursery")
    await apply(snapshotd, client, "b")
    (second,) = nurseries(snapshotd)
    snapshotd.kill()
    eventually(lambda: not Path(f"/proc/{second}").exists(), what="the end of the nursery")
    await client.close()


async def test_term_ends_the_service_and_leaves_mounts(snapshotd: SnapshotdNode) -> None:
    client = snapshotd.client()
    await client.prepare("c1", [])
    assert snapshotd.stop() == 0
    assert snapshotd.mounts() == ["c1"]
    await client.close()
