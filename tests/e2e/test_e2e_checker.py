"""`slipway doctor --deep`: nothing to tell of a node that is well, and each thing that is broken on purpose."""

import json
import shutil
import subprocess
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from redis import Redis

from common.events.schema import (
    ContainerCreated,
    ContainerExited,
    ContainerRemoved,
    ContainerStarted,
    Envelope,
    Event,
    ExecExited,
    encoder,
)
from common.records import keys
from common.sys import linux
from devtools.cri import Cri
from slipway.commands.doctor import doctor
from slipway.doctor.deep import examine, history, inventory, processes
from tests.e2e.test_e2e_pods import pod
from tests.support import cgroups
from tests.support.eventually import eventually
from tests.support.node import TestNode

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.root, pytest.mark.timeout(120)]
STRAY = "f" * 64
Life = tuple[str, str, str]


async def found(node: TestNode) -> str:
    return "\n".join(await node.differences(settle_s=0))


@pytest.fixture
async def life(cri: Cri, node: TestNode, busybox: str) -> Life:
    """A pod with a network and a container that runs; ids of both, and of a pod that was removed."""
    gone, gone_container = await pod(cri, "checker-gone", busybox, ["true"])
    await cri.remove_sandbox(gone)
    config = cri.sandbox_config("checker", host_network=False)
    config.port_mappings.add(container_port=80, host_port=18080)
    sandbox_id = await cri.run_sandbox(config)
    container = cri.container_config("c", busybox, ["sleep", "1000"])
    container_id = await cri.create(sandbox_id, container, config)
    await cri.start(container_id)
    assert await node.differences() == []
    has = node.leftovers()
    assert (has["cni"], has["addresses"], has["rules"]) == ([sandbox_id], [sandbox_id], [sandbox_id])
    return sandbox_id, container_id, gone_container


@contextmanager
def moved(path: Path, to: Path | None = None) -> Iterator[None]:
    away = to or path.with_name("away")
    path.rename(away)
    try:
        yield
    finally:
        away.rename(path)


@contextmanager
def stray(path: Path, *, directory: bool = True) -> Iterator[Path]:
    path.mkdir() if directory else path.write_text("left\n")
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True) if directory else path.unlink(missing_ok=True)


@contextmanager
def stray_cgroup(name: str) -> Iterator[None]:
    own = (
        Path("/sys/fs/cgroup/slipway-test-checker")
        if Path("/sys/fs/cgroup/cgroup.controllers").exists()
        else None
    )
    own = own or Path("/sys/fs/cgroup/pids/slipway-test-checker")
    (own / name).mkdir(parents=True)
    try:
        yield
    finally:
        (own / name).rmdir()
        own.rmdir()


@contextmanager
def without_key(node: TestNode, kind: str, name: str) -> Iterator[None]:
    with Redis(unix_socket_path=f"{node.run_dir}/redis.sock") as redis:
        key = keys.record_key("testnode", "runtimed", kind, name)
        body = redis.hgetall(key)
        redis.delete(key)
        try:
            yield
        finally:
            redis.hset(key, mapping=body)


@contextmanager
def loose_key(node: TestNode) -> Iterator[None]:
    with Redis(unix_socket_path=f"{node.run_dir}/redis.sock") as redis:
        key = keys.record_key("testnode", "runtimed", "container", STRAY)
        redis.hset(key, "revision", 1)
        try:
            yield
        finally:
            redis.delete(key)


@contextmanager
def stray_mount(path: Path) -> Iterator[None]:
    path.mkdir()
    linux.mount("none", str(path), "tmpfs", 0, "size=4k")
    try:
        yield
    finally:
        linux.umount(str(path), linux.MNT_DETACH)
        path.rmdir()


@contextmanager
def unowned(command: list[str], **environment: str) -> Iterator[None]:
    """A process that no service is the parent of; yields nothing, since no sweep finds it."""
    with subprocess.Popen(
        command, env=environment, start_new_session=True, stderr=subprocess.DEVNULL
    ) as process:
        try:
            yield
        finally:
            process.kill()


@contextmanager
def changed(path: Path) -> Iterator[None]:
    body = path.read_bytes()
    path.write_bytes(body[:-1] + bytes([body[-1] ^ 1]))
    try:
        yield
    finally:
        path.write_bytes(body)


async def test_each_thing_that_is_broken_is_told(node: TestNode, life: Life) -> None:
    sandbox_id, container_id, gone = life
    run, data = node.run_dir, node.data_dir
    leases = data.parent / "leases" / node.bridge
    image = next((data / "imaged" / "images").iterdir()).name
    blob = data / "imaged" / "blobs" / image.replace(":", "/")
    snapshots = data / "snapshotd" / "snapshots"
    shim = run / "shimd" / "shims" / container_id
    pid = (shim / "pid").read_text().split()[0]
    for harm, told in (
        (
            moved(run / "runtimed" / "bundles" / container_id),
            f"bundle {container_id}: the container has none",
        ),
        (stray(run / "runtimed" / "bundles" / STRAY), f"bundle {STRAY}:"),
        (moved(run / "shimd" / "shims" / container_id / "pid"), f"shim {container_id}: the container runs"),
        (stray(run / "shimd" / "shims" / STRAY), f"shim {STRAY}:"),
        (stray(run / "shimd" / "pauses" / STRAY), f"pause {STRAY}:"),
        (stray(run / "runtimed" / "sandboxes" / STRAY), f"sandbox {STRAY}:"),
        (stray(data / "runtimed" / "sandboxes" / STRAY), f"record {STRAY}: a directory without"),
        (stray(data / "runtimed" / "cni" / f"{STRAY}-eth0.json", directory=False), f"cni {STRAY}:"),
        (moved(data / "runtimed" / "cni" / f"{sandbox_id}-eth0.json"), f"cni {sandbox_id}:"),
        (stray(leases / "10.252.0.77", directory=False), "address left:"),
        (stray(snapshots / STRAY), f"snapshot {STRAY}:"),
        (moved(snapshots / container_id), f"snapshot {container_id}: its directory is gone"),
        (stray(data / "snapshotd" / "layers" / STRAY), f"layer {STRAY}:"),
        (stray(data / "snapshotd" / "layers" / f".new-{STRAY}"), "temporary "),
        (
            stray(data / "runtimed" / "containers" / container_id / ".record.msgpack.new", directory=False),
            "temporary ",
        ),
        (stray_mount(run / "snapshotd" / "mounts" / STRAY), f"mount {run}/snapshotd/mounts/{STRAY}:"),
        (
            without_key(node, "container", container_id),
            f"record {container_id}: the container's record cannot be read",
        ),
        (loose_key(node), "no index of Redis names this key"),
        (
            moved(data / "runtimed" / "containers" / container_id / "record.msgpack"),
            f"record {container_id}:",
        ),
        (changed(blob), f"blob {blob.parent.name}:{blob.name}: its content is another"),
        (moved(blob), f"blob {blob.parent.name}:{blob.name}:"),
        (moved(shim, run / "shimd" / "away"), f"process {pid}: slipway-shim: no service, shim or pause"),
        (unowned(["tail", "-f", "/dev/null", f"{run}/runtimed/oci/crun"]), ": tail: no service"),
        (unowned(["sleep", "60"], CNI_COMMAND="DEL", CNI_NETNS=f"{run}/runtimed/x"), ": sleep: no service"),
        (stray_cgroup(gone), f"cgroup {gone}: of a container that was removed, with no process"),
    ):
        with harm as left:
            # what the node's own sweep took away meanwhile is not told
            assert told in await found(node) or (left and not left.exists()), told
    assert await node.differences() == []


async def test_a_process_that_waits_for_work_is_of_the_node_and_nobody_s_left(
    node: TestNode, life: Life
) -> None:
    started = processes.started(node.run_dir, node.data_dir).values()
    assert {node.pid("snapshotd"), node.pid("shimd")} <= {process.parent for process in started}
    assert inventory.take(node.run_dir, node.data_dir, node.data_dir / "cni").lost == {}


async def test_the_command_tells_it_and_fails(
    node: TestNode, life: Life, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, container_id, _ = life
    well = node.slipway("doctor", "--deep")
    assert "all that is recorded is there, and nothing else" in well.stdout
    assert well.returncode == 0
    monkeypatch.setattr(examine, "differences", partial(examine.differences, settle_s=0))
    with moved(node.run_dir / "runtimed" / "bundles" / container_id):
        assert await doctor(Namespace(run_dir=str(node.run_dir), deep=True, report="json")) == 1
    told = {(finding["name"], finding["text"]) for finding in json.loads(capsys.readouterr().out)}
    assert ("deep: bundle", f"{container_id}: the container has none") in told


async def test_processes_of_a_container_that_has_ended_are_told(cri: Cri, node: TestNode, life: Life) -> None:
    _, container_id, _ = life
    await cri.stop(container_id)
    assert await node.differences() == []
    # the shim removes its cgroup when the end has been told
    eventually(lambda: not cgroups.files(container_id, "cgroup.procs"), what="its cgroup is gone")
    own = Path("/sys/fs/cgroup") / ("" if Path("/sys/fs/cgroup/cgroup.controllers").exists() else "pids")
    cgroup = own / f"slipway-test-{container_id}"
    cgroup.mkdir()
    with subprocess.Popen(["sleep", "60"]) as left:
        (cgroup / "cgroup.procs").write_text(str(left.pid))
        told = await found(node)
        left.kill()
    cgroup.rmdir()
    assert f"process {container_id}: the container is exited, and processes [{left.pid}] are in it" in told


def envelope(seq: int, event: Event, revision: int = 1) -> Envelope:
    import msgspec

    return Envelope(
        id=f"{event.id}:{seq}",
        seq=seq,
        at_ns=seq,
        node="n",
        source="runtimed",
        revision=revision,
        event=msgspec.Raw(encoder.encode(event)),
    )


LIFE = [
    ContainerCreated(id="c", sandbox_id="s", name="n", image="i"),
    ContainerStarted(id="c", sandbox_id="s", pid=1),
    ContainerExited(id="c", sandbox_id="s", exit_code=0, reason="Completed"),
    ContainerRemoved(id="c", sandbox_id="s"),
]


@pytest.mark.parametrize(
    ("order", "wrong"),
    [
        ([0, 1, 2, 3], ""),
        ([0, 2, 3], ""),
        ([0, 1, 2, 1, 2, 3], ""),
        ([0, 1, 2, 2, 3], "the container was told created started exited exited removed"),
        ([0, 2, 1, 3], "created exited started removed"),
        ([0, 1, 3], "created started removed"),
        ([0, 3, 1], "created removed started"),
        ([1, 2], ""),
    ],
)
def test_a_history_has_every_event_once_and_in_order(order: list[int], wrong: str) -> None:
    told = history.gather(envelope(seq, LIFE[index]) for seq, index in enumerate(order, 1))
    said = "".join(str(one) for one in told.differences)
    assert (wrong in said) if wrong else not said


def test_a_repeated_event_and_a_number_that_goes_back_are_told() -> None:
    first, second = envelope(2, LIFE[0]), envelope(1, LIFE[1])
    told = history.gather([first, first, second])
    assert [one.what for one in told.differences] == ["came twice", "has number 1, after 2"]


def test_a_number_that_is_missing_is_told_and_the_first_that_is_held_may_be_any() -> None:
    told = history.gather([envelope(5, LIFE[0]), envelope(6, LIFE[1]), envelope(9, LIFE[2])])
    assert [one.what for one in told.differences] == ["2 of runtimed before it are missing"]


def test_numbers_may_be_missing_where_only_the_last_of_a_subject_are_kept() -> None:
    """As of a container whose probes run commands."""
    probes = [ExecExited(id=f"{number}", container_id="c", exit_code=0) for number in range(3)]
    held = [
        envelope(1, LIFE[0]),
        *[envelope(seq, probe) for seq, probe in zip((7, 8, 9), probes, strict=True)],
    ]
    assert history.gather(held, 3).differences == []
    assert [one.what for one in history.gather(held, 4).differences] == [
        "5 of runtimed before it are missing"
    ]
    told = history.gather([*held, envelope(12, LIFE[1])], 3)
    assert [one.what for one in told.differences] == ["2 of runtimed before it are missing"]


def test_a_record_and_its_last_event_fit() -> None:
    told = history.gather(envelope(seq, event) for seq, event in enumerate(LIFE[:2], 1))
    records = {"container": {"c": {"state": "running"}}, "sandbox": {}}
    assert history.against_records(told, records) == []
    records["container"]["c"]["state"] = "exited"
    assert "told last to be started" in str(history.against_records(told, records)[0])
    assert "nobody was told of its end" in str(
        history.against_records(told, {"container": {}, "sandbox": {}})[0]
    )
