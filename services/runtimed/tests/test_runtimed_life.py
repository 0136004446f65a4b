"""Containers from end to end over gRPC: real Redis, NATS, snapshotd, shimd, shims and crun; and deaths of each."""

import json
import os
import resource
import shutil
import signal
import subprocess
import time
from pathlib import Path

import anyio
import msgspec
import pytest

from common.api.cri.v1 import api_pb2 as cri
from common.api.runtime.v1 import runtime_pb2 as pb
from common.clients.shimd import ShimdClient
from common.errors import (
    AlreadyExistsError,
    DeadlineExceededError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    ResourceExhaustedError,
    UnavailableError,
    UnknownError,
)
from common.events.bus import follow
from common.events.schema import ContainerCreateFailed
from common.sys import linux
from runtimed.record import ContainerRecord, SandboxRecord
from services.runtimed.tests.daemons import Pods, needs
from tests.support import cgroups
from tests.support.descriptors import at_most
from tests.support.eventually import until
from tests.support.pace import patience

pytestmark = needs("crun")
UNTIL_S = patience(20)


async def test_a_container_runs_logs_answers_and_ends_with_its_code(pods: Pods) -> None:
    _, container_id, config = await pods.running(
        "sh", "-c", "echo hello; trap 'exit 7' TERM; while :; do sleep 0.05; done"
    )
    status = await pods.status(container_id)
    assert status.state == cri.CONTAINER_RUNNING
    assert status.created_at <= status.started_at
    assert status.image_ref == status.image_id == pods.diff_id
    answer = await pods.client.exec_sync(container_id, ["sh", "-c", "echo out; echo err >&2; exit 3"])
    assert (answer.stdout, answer.stderr, answer.exit_code) == (b"out\n", b"err\n", 3)
    await pods.client.stop_container(container_id, 10)
    status = await pods.status(container_id)
    assert (status.state, status.exit_code, status.reason) == (cri.CONTAINER_EXITED, 7, "Error")
    assert "stdout F hello" in Path(status.log_path).read_text()
    assert status.log_path == f"{config.log_directory}/c.log"
    await pods.client.remove_container(container_id)
    assert Path(status.log_path).exists()
    with pytest.raises(NotFoundError):
        await pods.status(container_id)


async def test_a_retry_gets_the_same_ids(pods: Pods) -> None:
    config = pods.sandbox_config()
    found: list[str] = []

    async def run() -> None:
        found.append(await pods.client.run_sandbox(config))

    async with anyio.create_task_group() as group:
        for _ in range(4):
            group.start_soon(run)
    assert len(set(found)) == 1
    container = pods.container_config("sleep", "100")
    ids = {await pods.client.create_container(found[0], container, config, pods.image()) for _ in range(3)}
    assert len(ids) == 1
    await pods.client.start_container(ids.pop())
    with pytest.raises(AlreadyExistsError):
        await pods.client.create_container(found[0], container, config, pods.image())


async def test_start_twice_is_refused_and_stop_and_remove_are_idempotent(pods: Pods) -> None:
    sandbox_id, container_id, _ = await pods.running("sleep", "100")
    with pytest.raises(FailedPreconditionError):
        await pods.client.start_container(container_id)
    for _ in range(2):
        await pods.client.stop_container(container_id)
    status = await pods.status(container_id)
    assert (status.exit_code, status.state) == (137, cri.CONTAINER_EXITED)
    for _ in range(2):
        await pods.client.remove_container(container_id)
        await pods.client.stop_container(container_id)
    for _ in range(2):
        await pods.client.stop_sandbox(sandbox_id)
    for _ in range(2):
        await pods.client.remove_sandbox(sandbox_id)
    with pytest.raises(NotFoundError):
        await pods.client.sandbox_status(sandbox_id)


async def test_a_pause_that_the_record_does_not_know_ends_with_its_sandbox(pods: Pods) -> None:
    """As when runtimed is killed between the fork of a pause and the record of it."""
    sandbox_id = await pods.client.run_sandbox(pods.sandbox_config())
    shimd = ShimdClient(str(pods.daemons.base / "run" / "shimd.sock"))
    try:
        assert (await shimd.spawn_pause(sandbox_id)).alive
        await pods.client.stop_sandbox(sandbox_id)
        _, pauses = await shimd.list()
        assert sandbox_id not in {pause.sandbox_id for pause in pauses}
    finally:
        await shimd.close()


async def test_a_command_that_is_not_there_is_a_start_error(pods: Pods) -> None:
    config = pods.sandbox_config()
    sandbox_id = await pods.client.run_sandbox(config)
    wanted = pods.container_config("/no/such/thing")
    container_id = await pods.client.create_container(sandbox_id, wanted, config, pods.image())
    with pytest.raises(UnknownError, match="no/such/thing"):
        await pods.client.start_container(container_id)
    status = await pods.status(container_id)
    assert (status.exit_code, status.reason) == (128, "StartError")
    assert "no/such/thing" in status.message


async def test_refusals_name_the_field(pods: Pods) -> None:
    config = pods.sandbox_config()
    with pytest.raises(NotFoundError, match="runtime_handler 'nope'"):
        await pods.client.run_sandbox(config, "nope")
    sandbox_id = await pods.client.run_sandbox(config)
    bad = pods.container_config("true")
    bad.log_path = "../../etc/passwd"
    with pytest.raises(InvalidArgumentError, match="log_path"):
        await pods.client.create_container(sandbox_id, bad, config, pods.image())
    image = pods.image()
    image.config = b"[" * 9999
    with pytest.raises(InvalidArgumentError, match=r"image\.config: is no JSON"):
        await pods.client.create_container(sandbox_id, pods.container_config("true"), config, image)
    await pods.client.stop_sandbox(sandbox_id)
    with pytest.raises(FailedPreconditionError, match="not ready"):
        await pods.client.create_container(sandbox_id, pods.container_config("true"), config, pods.image())


async def test_what_an_image_has_in_it_is_told_shortened_and_events_go_on(pods: Pods) -> None:
    config = pods.sandbox_config()
    sandbox_id = await pods.client.run_sandbox(config)
    nats_url = str(pods.daemons.settings["nats_url"])
    for name, image in (
        ("variable", pods.image(Env=["x" * (4 << 20)])),
        ("user", pods.image(User=f"root{'.' * (4 << 20)}")),
    ):
        wanted = pods.container_config("true", name=name)
        with pytest.raises(InvalidArgumentError, match=r" \.\.\. "):
            await pods.client.create_container(sandbox_id, wanted, config, image)
        with anyio.fail_after(patience(20)):
            events = follow(nats_url, object_id=name, verb="create_failed", since_ns=1)
            told = (await anext(aiter(events))).decoded()
        assert isinstance(told, ContainerCreateFailed)
        assert told.error.startswith(("image config: Env 'xxx", "image USER: 'root..."))
        assert len(told.error) < 3000
    wanted = pods.container_config("true", name="n" * 100_000)
    with pytest.raises(InvalidArgumentError):
        await pods.client.create_container(sandbox_id, wanted, config, pods.image(User=":"))
    explained = await pods.client.stub.Explain(pb.ExplainRequest(name=sandbox_id), timeout=10)
    assert len(explained.SerializeToString()) < 20_000


async def test_a_missing_layer_leaves_nothing(pods: Pods) -> None:
    config = pods.sandbox_config()
    sandbox_id = await pods.client.run_sandbox(config)
    image = pods.image()
    image.diff_ids[:] = ["sha256:" + "0" * 64]
    with pytest.raises(NotFoundError):
        await pods.client.create_container(sandbox_id, pods.container_config("true"), config, image)
    assert not await pods.client.list_containers()


async def test_exec_that_takes_too_long_is_killed(pods: Pods) -> None:
    _, container_id, _ = await pods.running("sleep", "100")
    with pytest.raises(DeadlineExceededError):
        await pods.client.exec_sync(container_id, ["sleep", "77"], 1)
    listed = await pods.client.exec_sync(container_id, ["ps"])
    assert b"77" not in listed.stdout


async def test_a_later_stop_brings_the_end_forward(pods: Pods) -> None:
    script = "trap 'echo asked' TERM; echo begun; while :; do sleep 0.05; done"
    _, container_id, _ = await pods.running("sh", "-c", script)
    log = Path((await pods.status(container_id)).log_path)
    await until(lambda: "begun" in log.read_text(), "the trap")
    with anyio.fail_after(UNTIL_S):
        async with anyio.create_task_group() as group:
            group.start_soon(pods.client.stop_container, container_id, 600)
            await until(lambda: "asked" in log.read_text(), "the first stop's signal")
            await pods.client.stop_container(container_id, 0)
    assert (await pods.status(container_id)).exit_code == 137


async def test_limits_are_applied_and_shown(pods: Pods) -> None:
    _, container_id, _ = await pods.running("sleep", "100")
    request = cri.UpdateContainerResourcesRequest(container_id=container_id)
    request.linux.memory_limit_in_bytes = 64 << 20
    await pods.client.stub.UpdateContainerResources(request)
    status = await pods.status(container_id)
    assert status.resources.linux.memory_limit_in_bytes == 64 << 20
    [stats] = await pods.client.list_container_stats()
    assert 0 < stats.memory.available_bytes.value <= 64 << 20
    assert stats.cpu.usage_core_nano_seconds.value > 0


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL])
async def test_stats_come_soon_and_whole_while_snapshotd_does_not_answer(
    pods: Pods, number: signal.Signals
) -> None:
    """A kubelet whose list is late, or that finds no filesystem by its mountpoint, has no stats of the whole node."""
    await pods.running("sleep", "100")
    [before] = await pods.client.list_container_stats()
    snapshotd = pods.daemons.processes["snapshotd"]
    snapshotd.send_signal(number)
    try:
        with anyio.fail_after(UNTIL_S):
            [stats] = await pods.client.list_container_stats()
    finally:
        snapshotd.send_signal(signal.SIGCONT)
        if number is signal.SIGKILL:
            snapshotd.wait(10)
            pods.daemons.start("snapshotd")
    assert stats.cpu.timestamp > before.cpu.timestamp
    assert before.writable_layer.fs_id.mountpoint
    assert stats.writable_layer == before.writable_layer


@pytest.mark.parametrize("handler", ["crun", "runc"])
async def test_a_quota_is_lifted_and_updates_at_once_all_hold(pods: Pods, handler: str) -> None:
    container_id = await pods.limited(handler, cri.LinuxContainerResources(cpu_quota=20_000))

    async def update(linux: cri.LinuxContainerResources) -> None:
        request = cri.UpdateContainerResourcesRequest(container_id=container_id, linux=linux)
        await pods.client.stub.UpdateContainerResources(request)

    async with anyio.create_task_group() as group:
        for linux in (
            cri.LinuxContainerResources(cpu_quota=-1),
            cri.LinuxContainerResources(memory_limit_in_bytes=64 << 20),
            cri.LinuxContainerResources(cpu_shares=512),
        ):
            group.start_soon(update, linux)
    found = (await pods.status(container_id)).resources.linux
    assert (found.cpu_quota, found.memory_limit_in_bytes, found.cpu_shares) == (-1, 64 << 20, 512)
    await update(cri.LinuxContainerResources(cpu_quota=30_000))
    assert (await pods.status(container_id)).resources.linux.cpu_quota == 30_000


async def test_image_volumes_hold_what_the_image_has_there(pods: Pods) -> None:
    config = pods.sandbox_config()
    sandbox_id = await pods.client.run_sandbox(config)
    wanted = pods.container_config("sleep", "100")
    image = pods.image(Volumes={"/vol": {}})
    container_id = await pods.client.create_container(sandbox_id, wanted, config, image)
    await pods.client.start_container(container_id)
    answer = await pods.client.exec_sync(container_id, ["cat", "/vol/seed"])
    assert answer.stdout == b"grown\n"
    [mount] = (await pods.status(container_id)).mounts
    assert Path(mount.host_path, "seed").exists()


@pytest.mark.parametrize("named", ["32", "33", "9" * 5000], ids=["glibc", "glibc-too", "huge"])
async def test_an_image_that_names_no_signal_runs_and_can_be_stopped(pods: Pods, named: str) -> None:
    config = pods.sandbox_config()
    sandbox_id = await pods.client.run_sandbox(config)
    wanted = pods.container_config("sleep", "100")
    image = pods.image(StopSignal=named)
    container_id = await pods.client.create_container(sandbox_id, wanted, config, image)
    await pods.client.start_container(container_id)
    assert (await pods.status(container_id)).stop_signal == cri.SIGNAL_SIGTERM
    await pods.client.stop_container(container_id, 0)
    assert (await pods.status(container_id)).exit_code == 137


async def test_an_image_whose_words_are_no_text_is_refused(pods: Pods) -> None:
    config = pods.sandbox_config()
    sandbox_id = await pods.client.run_sandbox(config)
    image = pods.image(Entrypoint=["sleep", "\ud800"])
    with pytest.raises(InvalidArgumentError, match=r"image\.config: has half of a surrogate pair"):
        await pods.client.create_container(sandbox_id, pods.container_config(), config, image)


async def test_containers_of_a_pod_share_its_pid_namespace_when_it_says_so(pods: Pods) -> None:
    config = pods.sandbox_config(pid=cri.POD)
    sandbox_id = await pods.client.run_sandbox(config)
    seen = []
    for name in ("a", "b"):
        wanted = pods.container_config("sleep", "100", name=name)
        container_id = await pods.client.create_container(sandbox_id, wanted, config, pods.image())
        await pods.client.start_container(container_id)
        seen.append((await pods.client.exec_sync(container_id, ["readlink", "/proc/self/ns/pid"])).stdout)
    assert seen[0] == seen[1]


async def test_a_reader_that_does_not_read_is_cut_off_and_holds_nobody_up(pods: Pods) -> None:
    config = pods.sandbox_config()
    config.annotations["large"] = "x" * 200_000  # so that the transport's own buffers are full soon
    stream = pods.client.stub.GetContainerEvents(cri.GetEventsRequest())
    await stream.initial_metadata()
    sandbox_id = await pods.client.run_sandbox(config)
    for number in range(40):
        wanted = pods.container_config("true", name=f"c{number}")
        container_id = await pods.client.create_container(sandbox_id, wanted, config, pods.image())
        await pods.client.remove_container(container_id)
    with pytest.raises(ResourceExhaustedError, match="events behind"), anyio.fail_after(UNTIL_S):
        async for event in stream:
            assert event.pod_sandbox_status.id == sandbox_id


@pytest.mark.parametrize("victim", ["runtimed", "shimd"])
async def test_an_exit_while_a_service_is_dead_arrives_with_its_code(pods: Pods, victim: str) -> None:
    _, container_id, _ = await pods.running(
        "sh", "-c", "while [ ! -e /tmp/go ]; do sleep 0.05; done; exit 42"
    )
    rootfs = json.loads((await pods.client.container_status(container_id, verbose=True)).info["info"])[
        "rootfs"
    ]
    pods.daemons.kill(victim)
    Path(rootfs, "tmp/go").touch()
    pods.daemons.start(victim)
    status = await pods.exited(container_id)
    assert (status.exit_code, status.reason) == (42, "Error")


async def test_a_start_that_was_cut_off_before_there_was_a_shim_may_be_asked_for_again(pods: Pods) -> None:
    config = pods.sandbox_config()
    sandbox_id = await pods.client.run_sandbox(config)
    wanted = pods.container_config("sleep", "100")
    container_id = await pods.client.create_container(sandbox_id, wanted, config, pods.image())
    shimd = pods.daemons.processes["shimd"]
    shimd.send_signal(signal.SIGSTOP)

    async def cut_off() -> None:
        with pytest.raises(UnavailableError):
            await pods.client.start_container(container_id)

    async with anyio.create_task_group() as group:
        group.start_soon(cut_off)
        await pods.fact_is(container_id, "starting")
        pods.daemons.kill("runtimed")
    pods.daemons.kill("shimd")
    for name in ("shimd", "runtimed"):
        pods.daemons.start(name)
    await pods.fact_is(container_id, "created")
    await pods.client.start_container(container_id)
    assert (await pods.status(container_id)).state == cri.CONTAINER_RUNNING


async def test_a_container_runs_on_while_runtimed_is_away(pods: Pods) -> None:
    sandbox_id, container_id, _ = await pods.running("sleep", "100")
    pods.daemons.kill("runtimed")
    pods.daemons.start("runtimed")
    assert (await pods.status(container_id)).state == cri.CONTAINER_RUNNING
    answer = await pods.client.exec_sync(container_id, ["echo", "still"])
    assert answer.stdout == b"still\n"
    status = (await pods.client.sandbox_status(sandbox_id)).status
    assert status.state == cri.SANDBOX_READY


async def test_a_log_that_was_reopened_while_redis_is_away_is_in_use(pods: Pods) -> None:
    """A kubelet that gets an error renames the old file back over the one in which the shim writes."""
    _, container_id, _ = await pods.running("sh", "-c", "while :; do echo line; sleep 0.05; done")
    log = Path((await pods.status(container_id)).log_path)
    await until(lambda: log.exists() and "line" in log.read_text(), "a first line")
    log.rename(f"{log}.1")
    pods.daemons.redis.kill()
    try:
        request = cri.ReopenContainerLogRequest(container_id=container_id)
        await pods.client.stub.ReopenContainerLog(request, timeout=UNTIL_S)
    finally:
        pods.daemons.redis.start()
    await until(lambda: "line" in log.read_text(), "a line in the new file")


async def test_a_service_has_more_descriptors_than_it_gives_a_container(pods: Pods) -> None:
    for name in ("shimd", "runtimed"):
        pods.daemons.kill(name)
        with at_most(512):
            pods.daemons.start(name)
    _, container_id, _ = await pods.running("sleep", "100")
    soft, hard = resource.prlimit(pods.daemons.processes["runtimed"].pid, resource.RLIMIT_NOFILE)
    limit = await pods.client.exec_sync(container_id, ["sh", "-c", "ulimit -n"])
    of_init = await pods.client.exec_sync(container_id, ["cat", "/proc/1/limits"])
    assert soft > 512
    assert limit.stdout == b"512\n"
    assert f"Max open files            512                  {hard}" in of_init.stdout.decode()


async def test_a_verbose_status_has_the_configuration_without_its_variables(pods: Pods) -> None:
    config = pods.sandbox_config()
    sandbox_id = await pods.client.run_sandbox(config)
    wanted = pods.container_config("sleep", "100")
    wanted.envs.add(key="PASSWORD", value=b"hunter2")
    container_id = await pods.client.create_container(sandbox_id, wanted, config, pods.image())
    told = (await pods.client.container_status(container_id, verbose=True)).info["info"]
    made = json.loads(told)["runtimeSpec"]
    assert made["process"]["args"] == ["sleep", "100"]
    assert made["linux"]["cgroupsPath"].endswith(container_id)
    assert "hunter2" not in told


async def test_a_handler_gets_the_annotations_of_pods_that_its_node_allows(pods: Pods) -> None:
    allowing = {"crun": {"binary": "crun", "allowed_annotations": ["steer.*"]}}
    pods.daemons.runtimed["handlers"] = json.dumps(allowing)
    pods.daemons.kill("runtimed")
    pods.daemons.start("runtimed")
    try:
        config = pods.sandbox_config()
        config.annotations.update({"steer.it": "yes", "other": "no"})
        sandbox_id = await pods.client.run_sandbox(config)
        wanted = pods.container_config("sleep", "100")
        container_id = await pods.client.create_container(sandbox_id, wanted, config, pods.image())
        told = (await pods.client.container_status(container_id, verbose=True)).info["info"]
    finally:
        del pods.daemons.runtimed["handlers"]
        pods.daemons.kill("runtimed")
        pods.daemons.start("runtimed")
    made = json.loads(told)["runtimeSpec"]["annotations"]
    assert made["steer.it"] == "yes"
    assert "other" not in made


async def test_a_shim_that_is_killed_makes_its_container_unknown_once_that_is_gone(pods: Pods) -> None:
    _, container_id, _ = await pods.running("sleep", "100")
    verbose = json.loads((await pods.client.container_status(container_id, verbose=True)).info["info"])
    shim = int((Path(verbose["shim"]).parent / "pid").read_text().split()[0])
    os.kill(shim, signal.SIGKILL)
    await pods.client.stop_container(container_id, 0)
    status = await pods.exited(container_id)
    assert (status.exit_code, status.reason) == (255, "Unknown")


async def test_a_sandbox_whose_namespaces_vanished_is_not_ready(pods: Pods) -> None:
    sandbox_id = await pods.client.run_sandbox(pods.sandbox_config())
    pin = pods.daemons.base / "run" / "runtimed" / "sandboxes" / sandbox_id / "ns" / "ipc"
    pods.daemons.kill("runtimed")
    linux.umount(str(pin))
    pods.daemons.start("runtimed")
    await pods.sandbox_not_ready(sandbox_id)


async def test_a_sandbox_of_an_earlier_boot_is_not_ready_although_all_of_it_is_there(pods: Pods) -> None:
    config = pods.sandbox_config(network=cri.NODE, ipc=cri.NODE)
    sandbox_id = await pods.client.run_sandbox(config)
    pods.daemons.kill("runtimed")
    (pods.daemons.base / "boot_id").write_text("second\n")
    pods.daemons.start("runtimed")
    await pods.sandbox_not_ready(sandbox_id)
    config.metadata.attempt += 1
    again = await pods.client.run_sandbox(config)
    assert (await pods.client.sandbox_status(again)).status.state == cri.SANDBOX_READY


async def test_after_a_reboot_the_first_answer_says_what_it_ended(pods: Pods) -> None:
    """A kubelet that begins as early would call the pod ready once more, at its old address."""
    sandbox_id, container_id, _ = await pods.running("sleep", "100")
    pid = (await pods.facts(container_id))["pid"]
    pods.daemons.kill("runtimed")
    os.kill(pid, signal.SIGKILL)
    record_dir = pods.daemons.base / "data" / "runtimed" / "containers" / container_id
    await until(lambda: list(record_dir.glob("exit*")), "what the shim wrote of the end")
    (pods.daemons.base / "boot_id").write_text("third\n")
    shimd = pods.daemons.processes["shimd"]
    shimd.send_signal(signal.SIGSTOP)  # as one that has not begun yet
    try:
        pods.daemons.start("runtimed")
        [pod] = await pods.client.list_sandboxes()
        [container] = await pods.client.list_containers()
    finally:
        shimd.send_signal(signal.SIGCONT)
    assert (pod.id, pod.state) == (sandbox_id, cri.SANDBOX_NOTREADY)
    assert (container.id, container.state) == (container_id, cri.CONTAINER_EXITED)
    assert (await pods.status(container_id)).exit_code == 137


async def test_what_cannot_be_read_after_a_reboot_keeps_no_node_from_answering(pods: Pods) -> None:
    """As of a disk with errors; what is known of the others is worth having."""
    sandbox_id, container_id, _ = await pods.running("sleep", "100")
    pid = (await pods.facts(container_id))["pid"]
    pods.daemons.kill("runtimed")
    os.kill(pid, signal.SIGKILL)
    record_dir = pods.daemons.base / "data" / "runtimed" / "containers" / container_id
    told = record_dir / "exit.msgpack"
    await until(told.exists, "what the shim wrote of the end")
    told.rename(record_dir / "kept")
    told.mkdir()
    (pods.daemons.base / "boot_id").write_text("fourth\n")
    pods.daemons.start("runtimed")
    assert (await pods.client.sandbox_status(sandbox_id)).status.state == cri.SANDBOX_NOTREADY
    told.rmdir()
    (record_dir / "kept").rename(told)

    async def ended() -> bool:
        return (await pods.status(container_id)).exit_code == 137

    await until(ended, "its end to be read")


async def test_a_new_attempt_is_newer_although_the_clock_was_set_back(pods: Pods) -> None:
    """The newest is the one that counts for a kubelet: it would start another one each time it looks."""
    config = pods.sandbox_config()
    sandbox_id = await pods.client.run_sandbox(config)
    wanted = pods.container_config("true")
    old = [sandbox_id, await pods.client.create_container(sandbox_id, wanted, config, pods.image())]
    pods.daemons.kill("runtimed")
    for found_id, kind in zip(old, (SandboxRecord, ContainerRecord), strict=True):
        [path] = pods.daemons.base.glob(f"data/runtimed/*/{found_id}/record.msgpack")
        record = msgspec.msgpack.decode(path.read_bytes(), type=kind)
        made_ns = time.time_ns() + 3600 * 1_000_000_000
        changed = msgspec.structs.replace(record, created_at_ns=made_ns, revision=record.revision + 1)
        path.write_bytes(msgspec.msgpack.encode(changed))
    pods.daemons.start("runtimed")
    wanted.metadata.attempt += 1
    in_the_same = await pods.client.create_container(sandbox_id, wanted, config, pods.image())
    config.metadata.attempt += 1
    again = await pods.client.run_sandbox(config)
    wanted.metadata.attempt += 1
    in_the_new = await pods.client.create_container(again, wanted, config, pods.image())
    sandboxes = [(await pods.client.sandbox_status(each)).status.created_at for each in (sandbox_id, again)]
    containers = [(await pods.status(each)).created_at for each in (old[1], in_the_same, in_the_new)]
    assert sandboxes == sorted(set(sandboxes))
    assert containers == sorted(set(containers))


async def test_files_of_a_container_that_was_never_recorded_go_and_a_record_set_aside_stays(
    pods: Pods,
) -> None:
    containers = pods.daemons.base / "data/runtimed/containers"
    pods.daemons.kill("runtimed")
    day_s = 24 * 3600
    for name, file, age_s in (
        ("cut", "volumes", 0),
        ("ahead", "volumes", -day_s),  # the clock was set back since
        ("aside", "record.corrupt", day_s),
    ):
        (containers / name).mkdir(parents=True)
        (containers / name / file).touch()
        made_s = time.time() - age_s
        os.utime(containers / name, (made_s, made_s))
    pods.daemons.start("runtimed")
    # it may be of a record that is being written, whatever the clock says
    (containers / "young").mkdir()
    os.utime(containers / "young", (0, 0))
    unrecorded = [containers / name for name in ("cut", "ahead")]
    await until(lambda: not any(map(Path.exists, unrecorded)), "what was never recorded to go")
    assert (containers / "aside" / "record.corrupt").exists()
    assert (containers / "young").exists()
    for name in ("aside", "young"):
        shutil.rmtree(containers / name)


async def test_what_a_runtime_that_died_left_in_a_cgroup_goes_with_the_container(pods: Pods) -> None:
    config = pods.sandbox_config()
    sandbox_id = await pods.client.run_sandbox(config)
    wanted = pods.container_config("sleep", "100")
    container_id = await pods.client.create_container(sandbox_id, wanted, config, pods.image())
    shown = await pods.client.container_status(container_id, verbose=True)
    cgroup = cgroups.path(json.loads(shown.info["info"])["cgroup"])
    root = Path("/sys/fs/cgroup")
    roots = [root] if (root / "cgroup.controllers").exists() else [root / "pids", root / "systemd"]
    places = [Path(f"{root}{cgroup}") for root in roots if root.is_dir()]
    for place in places:
        (place / "below").mkdir(parents=True)
    with subprocess.Popen(["sleep", "100"]) as left:
        (places[0] / "below" / "cgroup.procs").write_text(str(left.pid))
        await pods.client.remove_container(container_id)
        assert left.wait(5) == -signal.SIGKILL
    assert not [place for place in places if place.exists()]


async def test_a_pod_cidr_becomes_a_network_by_the_template_when_there_is_none(pods: Pods) -> None:
    def update(cidr: str) -> cri.UpdateRuntimeConfigRequest:
        network = cri.NetworkConfig(pod_cidr=cidr)
        return cri.UpdateRuntimeConfigRequest(runtime_config=cri.RuntimeConfig(network_config=network))

    template = pods.daemons.base / "cni.template"
    made = pods.daemons.base / "cni" / "10-slipway.conflist"
    template.write_text(
        '{"cniVersion":"1.0.0","name":"pods","plugins":[{"type":"ptp","ipam":{"type":"host-local","ranges":['
        '{{range $i, $r := .PodCIDRRanges}}{{if $i}},{{end}}[{"subnet":"{{$r}}"}]{{end}}]}}]}'
    )
    with pytest.raises(InvalidArgumentError, match=r"10\.1\.0\.0/99"):
        await pods.client.stub.UpdateRuntimeConfig(update("10.1.0.0/99"))
    assert not made.exists()
    try:
        await pods.client.stub.UpdateRuntimeConfig(update("10.1.0.0/24,fd00::/64"))
        (plugin,) = json.loads(made.read_text())["plugins"]
        assert plugin["ipam"]["ranges"] == [[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd00::/64"}]]
        info = (await pods.client.status(verbose=True)).info
        assert json.loads(info["config"])["nats_url"].startswith("nats://***@127.0.0.1:")
        assert json.loads(info["cniconfig"])["name"] == "pods"
        assert "ptp" in json.loads(info["lastCNILoadStatus"])  # its program is not there
        template.write_text("{{.Nothing}}")
        with pytest.raises(FailedPreconditionError, match="Nothing"):
            await pods.client.stub.UpdateRuntimeConfig(update("10.1.0.0/24"))
    finally:
        made.unlink(missing_ok=True)
