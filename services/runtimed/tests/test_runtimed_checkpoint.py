"""Holding containers still, and what is left when a dump fails, with real cgroups and real runc.

What is under test is all around a dump, and that one that fails leaves nothing: the service is told that CRIU is
there, and runc does not find it. Dumps that succeed are in tests/e2e.
"""

import os
import shutil
import stat
import subprocess
import sys
import tarfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from common.api.cri.v1 import api_pb2 as cri
from common.errors import DeadlineExceededError, FailedPreconditionError, InvalidArgumentError, UnknownError
from runtimed.checkpoint import archive, freezer, workplace
from runtimed.oci import cgroups
from services.runtimed.tests.daemons import Daemons, Pods, executable, handler, needs, running_daemons
from tests.support.cgroups import folder, parent
from tests.support.eventually import until

pytestmark = needs("runc")
TICKS = ("sh", "-c", "i=0; while :; do i=$((i+1)); echo $i; sleep 0.02; done")
TICKER = "import time\nwhile True: print(flush=True); time.sleep(0.02)"
UNIFIED = (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified"))
PARENT = parent(f"slipway_test_{uuid.uuid4().hex[:8]}")
STATES = (
    f"/sys/fs/cgroup/freezer{folder(PARENT)}/*/freezer.state /sys/fs/cgroup{folder(PARENT)}/*/cgroup.events"
)
# Before runc dumps: what state the cgroups have, and a wait for as long as the file `hold` is there. Then a PATH without
# CRIU; or, when the file `size` says so, a dump of so many zeros.
WATCHER = """#!/bin/sh
case "$*" in *checkpoint*)
  cat {states} >> {base}/states 2>/dev/null
  while [ -e {base}/hold ]; do sleep 0.02; done
  if [ -e {base}/size ]; then
    while [ "$1" != --image-path ]; do shift; done
    exec truncate -s $(cat {base}/size) "$2/pages-1.img"
  fi
  PATH=/nonexistent exec {runc} "$@" ;;
esac
exec {runc} "$@"
"""


@pytest.fixture(scope="module")
def daemons(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemons]:
    base = tmp_path_factory.mktemp("watcher")
    runc = WATCHER.format(states=STATES, base=base, runc=shutil.which("runc"))
    program = executable(base / "watched-runc", runc)
    try:
        with running_daemons(
            **handler("runc", program), criu_binary="/bin/true", reconcile_every_s="2"
        ) as found:
            yield found
    finally:
        own = folder(PARENT)
        for directory in (*Path("/sys/fs/cgroup").glob(f"*{own}"), Path(f"/sys/fs/cgroup{own}")):
            if directory.is_dir():
                directory.rmdir()


@pytest.fixture
def watched(daemons: Daemons) -> Iterator[Path]:
    """Where the runc of these daemons says what it saw, and waits for `hold` to go."""
    base = daemons.program.parent
    (base / "states").unlink(missing_ok=True)
    yield base
    for name in ("hold", "size"):
        (base / name).unlink(missing_ok=True)


async def two(pods: Pods) -> tuple[str, list[str], list[Path]]:
    config = pods.sandbox_config()
    config.linux.cgroup_parent = PARENT
    sandbox_id = await pods.client.run_sandbox(config)
    ids = []
    for name in ("c", "d"):
        wanted = pods.container_config(*TICKS, name=name)
        ids.append(await pods.client.create_container(sandbox_id, wanted, config, pods.image()))
        await pods.client.start_container(ids[-1])
    return sandbox_id, ids, [Path(config.log_directory) / name for name in ("c.log", "d.log")]


async def grows(log: Path) -> None:
    size = log.stat().st_size
    await until(lambda: log.stat().st_size != size, f"{log} to grow")


def pod_request(sandbox_id: str, ids: list[str], output: Path) -> cri.CheckpointPodRequest:
    return cri.CheckpointPodRequest(pod_sandbox_id=sandbox_id, output_path=str(output), container_ids=ids)


async def test_all_are_still_before_one_is_dumped_and_run_on_after_a_failure(
    pods: Pods, watched: Path, tmp_path: Path
) -> None:
    sandbox_id, ids, logs = await two(pods)
    with pytest.raises(UnknownError, match="checkpoint"):
        await pods.client.stub.CheckpointPod(pod_request(sandbox_id, ids, tmp_path), timeout=30)
    states = (watched / "states").read_text()
    assert states.count("FROZEN") + states.count("frozen 1") == 2
    for log in logs:
        await grows(log)
    assert not list(tmp_path.iterdir())
    assert not list(pods.daemons.base.glob("data/runtimed/containers/*/dump-*"))
    assert not list(pods.daemons.base.glob("data/runtimed/containers/*/frozen"))


async def test_a_deadline_ends_a_pods_checkpoint_and_all_run_on(
    pods: Pods, watched: Path, tmp_path: Path
) -> None:
    sandbox_id, ids, logs = await two(pods)
    (watched / "hold").touch()
    with pytest.raises(DeadlineExceededError):
        await pods.client.stub.CheckpointPod(pod_request(sandbox_id, ids, tmp_path), timeout=3)
    for log in logs:
        await grows(log)
    assert not list(tmp_path.iterdir())


async def test_a_second_checkpoint_of_a_pod_is_refused_and_a_dead_service_thaws_at_its_start(
    pods: Pods, watched: Path, tmp_path: Path
) -> None:
    sandbox_id, ids, logs = await two(pods)
    (watched / "hold").touch()
    async with anyio.create_task_group() as group:

        async def first() -> None:
            with pytest.raises(Exception, match=r"runtimed\.sock|Socket closed|reset by peer"):
                await pods.client.stub.CheckpointPod(pod_request(sandbox_id, ids, tmp_path), timeout=60)

        group.start_soon(first)
        await until((watched / "states").exists, "the first to hold the pod")
        with pytest.raises(FailedPreconditionError, match="goes on"):
            await pods.client.stub.CheckpointPod(pod_request(sandbox_id, ids, tmp_path), timeout=60)
        sizes = [log.stat().st_size for log in logs]
        await anyio.sleep(0.2)
        assert [log.stat().st_size for log in logs] == sizes
        pods.daemons.kill("runtimed")
        pods.daemons.start("runtimed")
    (watched / "hold").unlink()
    for log in logs:
        await grows(log)
    await until(lambda: not dumps(pods), "the dump to go")


def dumps(pods: Pods) -> list[Path]:
    return list(pods.daemons.base.glob("data/runtimed/containers/*/dump-*"))


async def test_a_checkpoint_is_there_once_it_is_whole(pods: Pods, watched: Path, tmp_path: Path) -> None:
    _, ids, logs = await two(pods)
    (watched / "size").write_text("5000")
    request = cri.CheckpointContainerRequest(container_id=ids[0], location=str(tmp_path / "c.tar"))
    await pods.client.stub.CheckpointContainer(request, timeout=30)
    assert [path.name for path in tmp_path.iterdir()] == ["c.tar"]
    with tarfile.open(tmp_path / "c.tar") as tar:
        assert tar.getmember("checkpoint/pages-1.img").size == 5000
    assert not dumps(pods)
    request.location = str(tmp_path / "cut.tar")
    (watched / "size").write_text("8G")

    def written() -> list[Path]:
        return [path for path in tmp_path.iterdir() if path.name != "c.tar" and path.stat().st_size]

    async with anyio.create_task_group() as group:

        async def cut_off() -> None:
            with pytest.raises(Exception, match=r"runtimed\.sock|Socket closed|reset by peer"):
                await pods.client.stub.CheckpointContainer(request, timeout=60)

        group.start_soon(cut_off)
        await until(written, "some of it")
        pods.daemons.kill("runtimed")
        assert not (tmp_path / "cut.tar").exists()
        pods.daemons.start("runtimed")
    await until(lambda: not written() and not dumps(pods), "the rest of it to go")
    await grows(logs[0])


async def test_a_container_is_still_while_it_is_dumped_and_a_failed_dump_leaves_no_file(
    pods: Pods, watched: Path, tmp_path: Path
) -> None:
    _, ids, logs = await two(pods)
    request = cri.CheckpointContainerRequest(container_id=ids[0], location=str(tmp_path / "c.tar"))
    with pytest.raises(UnknownError, match="checkpoint"):
        await pods.client.stub.CheckpointContainer(request, timeout=30)
    states = (watched / "states").read_text()
    assert states.count("FROZEN") + states.count("frozen 1") == 1
    assert not list(tmp_path.iterdir())
    await grows(logs[0])


async def test_a_frozen_cgroup_makes_no_progress_until_it_is_thawed(tmp_path: Path) -> None:
    plan = cgroups.plan("cgroupfs", f"{PARENT}-own", "c", cgroups.detect())
    directory = Path(plan.dirs.get("") or plan.dirs["freezer"])
    directory.mkdir(parents=True)
    log = tmp_path / "log"
    with log.open("w") as out:
        ticker = subprocess.Popen([sys.executable, "-c", TICKER], stdout=out)
    try:
        (directory / "cgroup.procs").write_text(str(ticker.pid))
        await grows(log)
        await freezer.freeze(plan)
        assert freezer.frozen(plan)
        size = log.stat().st_size
        await anyio.sleep(0.2)
        assert log.stat().st_size == size
        await freezer.thaw(plan)
        await grows(log)
    finally:
        ticker.kill()
        ticker.wait(10)
        directory.rmdir()
        directory.parent.rmdir()
    await freezer.thaw(plan)
    with pytest.raises(FailedPreconditionError, match="cannot be frozen"):
        await freezer.freeze(plan)


@pytest.mark.parametrize("held", ["", "container"])
async def test_a_scope_stands_still_by_whichever_of_its_cgroups_a_runtime_freezes(
    tmp_path: Path, held: str
) -> None:
    root = next((path for path in UNIFIED if (path / "cgroup.procs").exists()), None)
    if root is None:
        pytest.skip("needs a unified hierarchy")
    directory = root / f"slipway-{tmp_path.name}.scope"
    plan = cgroups.CgroupPlan(driver="systemd", version=2, oci_path="", dirs={"": str(directory)})
    (directory / "container").mkdir(parents=True)
    log = tmp_path / "log"
    with log.open("w") as out:
        ticker = subprocess.Popen([sys.executable, "-c", TICKER], stdout=out)
    try:
        (directory / "container/cgroup.procs").write_text(str(ticker.pid))
        await grows(log)
        assert not freezer.frozen(plan)
        (directory / held / "cgroup.freeze").write_text("1")
        await freezer.until_frozen(plan)
        assert freezer.frozen(plan)
        await freezer.thaw(plan)
        assert not freezer.frozen(plan)
        await grows(log)
    finally:
        ticker.kill()
        ticker.wait(10)
        (directory / "container").rmdir()
        directory.rmdir()


def test_a_node_that_never_had_a_container_has_no_left_dumps(tmp_path: Path) -> None:
    assert not workplace.remove_left(tmp_path / "containers", set())


def test_an_archive_is_private_and_of_regular_files_only(tmp_path: Path) -> None:
    source, output = tmp_path / "source", tmp_path / "out"
    source.mkdir()
    output.mkdir()
    (source / "pages-1.img").write_bytes(b"x" * 5000)
    (source / "socket.img").symlink_to("/etc/shadow")
    os.mkfifo(source / "fifo.img")
    umask = os.umask(0)
    try:
        with pytest.raises(OSError, match="Too many levels"):
            archive.write(output / "0.tar", {}, {"checkpoint": source}, output / "new")
        (source / "socket.img").unlink()
        (output / "new").unlink()
        archive.write(output / "0.tar", {"config.dump": b"{}"}, {"checkpoint": source}, output / "new")
        manifest = archive.Manifest("p", "ns", "u", [archive.Held("c", "0.tar", "sha256:0")])
        archive.write_manifest(output, manifest)
    finally:
        os.umask(umask)
    assert {stat.S_IMODE(path.stat().st_mode) for path in output.iterdir()} == {0o600}
    with tarfile.open(output / "0.tar") as tar:
        assert [(m.name, m.size, m.mode, m.isreg()) for m in tar] == [
            ("config.dump", 2, 0o600, True),
            ("checkpoint/pages-1.img", 5000, 0o600, True),
        ]
    assert archive.read_pod(output) == manifest
    with (output / "0.tar").open("r+b") as file:
        file.truncate(3000)
    with pytest.raises(InvalidArgumentError, match=r"0\.tar"):
        archive.read_pod(output)
