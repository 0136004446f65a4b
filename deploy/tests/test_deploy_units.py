"""Install, start, restart each unit under a pod, upgrade, watchdog; leaves the pod for the reboot that comes next.

Runs in `./dev guest --wheels deploy/tests/run`.
"""

import os
import signal
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread
import grpc
import pytest

from common.api.cri.v1 import api_pb2 as cri_pb
from devtools import bridge
from devtools.cri import Cri, connect
from devtools.registry import push_busybox, registry
from runtimed.oci.capabilities import NAMES
from tests.support import logs
from tests.support.eventually import eventually, until
from tests.support.installed import (
    LOGS,
    RUN_DIR,
    SERVICES,
    SOCKET,
    TICKS,
    UNITS,
    pid_of,
    run,
    shown,
    start_pod,
)
from tests.support.node import differences
from tests.support.streaming import Spdy

pytestmark = [pytest.mark.anyio, pytest.mark.root, pytest.mark.timeout(300)]
LISTEN = (
    "(echo hello | nc -l -p 7000) >/dev/null 2>&1 & until netstat -ltn | grep -q :7000; do usleep 1000; done"
)
CURRENT = Path("/opt/slipway/current")
RANGE = cri_pb.IDMapping(container_id=0, host_id=100_000, length=65_536)
CAPABILITIES = {
    "crid": {"CAP_SYS_ADMIN"},
    "snapshotd": {
        f"CAP_{name}"
        for name in [
            "CHOWN",
            "DAC_OVERRIDE",
            "DAC_READ_SEARCH",
            "FOWNER",
            "FSETID",
            "KILL",
            "MKNOD",
            "SETFCAP",
            "SETGID",
            "SETPCAP",
            "SETUID",
            "SYS_ADMIN",
            "SYS_CHROOT",
        ]
    },
}
"""Of the services that have some, but for those that have all which a privileged container may have."""
MAPPED = cri_pb.UserNamespace(mode=cri_pb.POD, uids=[RANGE], gids=[RANGE])


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with registry(tmp_path_factory.mktemp("registry")) as shop:
        yield push_busybox(shop)


@pytest.fixture(scope="module", autouse=True)
def node() -> None:
    """Installed and started."""
    bridge.write_conflist(Path("/etc/cni/net.d"), "slw0", "10.250.0.0/24", Path("/var/lib/cni/slipway"))
    run("./dev", "install")
    run("systemctl", "start", "slipway.target")


@pytest.fixture
async def cri() -> AsyncIterator[Cri]:
    async with connect(SOCKET, LOGS) as client:
        yield client


@pytest.fixture(scope="module")
async def pod(node: None, image: str) -> tuple[str, str]:
    """The pod that outlives everything; its sandbox and its container."""
    async with connect(SOCKET, LOGS) as client:
        await client.pull(image)
        return await start_pod(client, "ticker", image, ["sh", "-c", TICKS])


def ticks() -> list[int]:
    """What the pod has counted, as far as its log says."""
    return [int(line.removeprefix("tick ")) for line in logs.lines(LOGS / "ticker/main.log")]


def go_on() -> None:
    """The pod counts on, and no number is missing."""
    before = len(ticks())
    eventually(lambda: len(ticks()) > before, what="another line in the log")
    found = ticks()
    assert found == list(range(1, len(found) + 1))


def test_the_units_are_sound_enabled_and_up() -> None:
    assert (
        run("systemd-analyze", "verify", *(f"/usr/local/lib/systemd/system/{unit}" for unit in UNITS)) == ""
    )
    for unit in [*UNITS, "slipway.target"]:
        assert run("systemctl", "is-enabled", unit).strip() == "enabled"
        assert run("systemctl", "is-active", unit).strip() == "active"
    assert {shown(f"slipway-{name}", "NRestarts") for name in SERVICES} == {"0"}


@pytest.mark.parametrize("name", ["redis", "nats", *SERVICES])
def test_a_service_runs_within_the_bounds_of_its_unit(name: str) -> None:
    unit = f"slipway-{name}"
    process = Path("/proc", shown(unit, "MainPID"))
    found = dict(line.split(":\t", 1) for line in (process / "status").read_text().splitlines())
    bound = {one.upper() for one in shown(unit, "CapabilityBoundingSet").split()}
    assert capabilities(found["CapBnd"]) == bound
    assert capabilities(found["CapEff"]) == bound
    assert bound == CAPABILITIES.get(name, set()) or name in ("shimd", "runtimed")
    assert found["NoNewPrivs"] == ("0" if name == "shimd" else "1")
    assert found["Seccomp"] == ("0" if name == "shimd" else "2")
    assert (process / "oom_score_adj").read_text().strip() == shown(unit, "OOMScoreAdjust")


def capabilities(mask: str) -> set[str]:
    return {name for bit, name in enumerate(NAMES) if int(mask, 16) >> bit & 1}


def test_a_second_install_changes_nothing() -> None:
    before = CURRENT.resolve()
    assert "is there already" in run("./dev", "install")
    assert CURRENT.resolve() == before


def test_the_command_and_its_completion_are_there() -> None:
    assert "slipway-run" not in run("slipway", "ps")
    assert run("bash", "-c", ". /usr/local/share/bash-completion/completions/slipway; complete -p slipway")


def test_the_supervisor_leaves_a_node_of_systemd_alone() -> None:
    assert "systemd runs the node" in run("./dev", "up", status=1)


async def test_pods_work_inside_the_bounds_of_the_units(cri: Cri, image: str, pod: tuple[str, str]) -> None:
    sandbox_id, container_id = pod
    assert (await cri.exec(container_id, ["cat", "/proc/self/cgroup"])).exit_code == 0
    mapped, inside = await start_pod(cri, "mapped", image, ["sleep", "1000"], userns_options=MAPPED)
    assert (await cri.exec(inside, ["cat", "/proc/self/uid_map"])).stdout.split()[1] == b"100000"
    assert (await cri.exec(inside, ["touch", "/made"])).exit_code == 0
    await cri.remove_sandbox(mapped)
    listen = ["sh", "-c", LISTEN]
    assert (await cri.exec(container_id, listen)).exit_code == 0
    request = cri_pb.PortForwardRequest(pod_sandbox_id=sandbox_id, port=[7000])
    url = (await cri.call(cri.runtime.PortForward, request)).url
    assert await anyio.to_thread.run_sync(forwarded, url) == b"hello\n"


def forwarded(url: str) -> bytes:
    with Spdy(url, "portforward.k8s.io") as client:
        fields = {"port": "7000", "requestid": "1"}
        data, error = client.open("data", **fields), client.open("error", **fields)
        return client.collect(data, error)[data]


@pytest.mark.parametrize("unit", [unit for unit in UNITS if unit != "slipway-prepare.service"])
async def test_a_pod_survives_the_restart_of(cri: Cri, pod: tuple[str, str], unit: str) -> None:
    before = await pid_of(cri, pod[1])
    await anyio.to_thread.run_sync(run, "systemctl", "restart", unit)
    assert await pid_soon(cri, pod[1]) == before
    assert (await cri.exec(pod[1], ["true"])).exit_code == 0
    await anyio.to_thread.run_sync(go_on)


async def pid_soon(cri: Cri, container_id: str) -> int:
    """The same as `pid_of`, of a node that comes back: gRPC gives a connection 20 s, in which an emulated crid may not begin."""
    found: int = await until(partial(pid_of, cri, container_id), "an answer", but=grpc.aio.AioRpcError)
    return found


async def test_a_pod_survives_the_whole_node(cri: Cri, pod: tuple[str, str]) -> None:
    before = await pid_of(cri, pod[1])
    await anyio.to_thread.run_sync(run, "systemctl", "stop", "slipway.target")
    gone = partial(
        eventually, lambda: not Path("/run/slipway/node.json").exists(), what="the last unit's end"
    )
    await anyio.to_thread.run_sync(gone)
    await anyio.to_thread.run_sync(go_on)
    await anyio.to_thread.run_sync(run, "systemctl", "start", "slipway.target")
    assert await pid_of(cri, pod[1]) == before


async def test_nobody_who_calls_is_refused_while_crid_starts_anew(pod: tuple[str, str]) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(anyio.to_thread.run_sync, run, "systemctl", "restart", "slipway-crid.service")
        for _ in range(20):
            async with connect(SOCKET, LOGS) as client:  # a connection each
                await client.call(client.runtime.Version, cri_pb.VersionRequest())


def test_a_reload_needs_no_restart() -> None:
    for name in SERVICES:
        before = shown(f"slipway-{name}", "MainPID")
        run("systemctl", "reload", f"slipway-{name}")
        assert shown(f"slipway-{name}", "MainPID") == before


def test_a_service_that_hangs_is_ended_and_started_anew() -> None:
    drop_in = Path("/run/systemd/system/slipway-imaged.service.d/watchdog.conf")
    drop_in.parent.mkdir(parents=True, exist_ok=True)
    drop_in.write_text("[Service]\nWatchdogSec=15s\n")
    run("systemctl", "daemon-reload")
    run("systemctl", "restart", "slipway-imaged")
    hung = int(shown("slipway-imaged", "MainPID"))
    os.kill(hung, signal.SIGSTOP)
    eventually(lambda: shown("slipway-imaged", "NRestarts") == "1", within_s=30, what="a restart")
    eventually(lambda: shown("slipway-imaged", "ActiveState") == "active", what="imaged")
    assert int(shown("slipway-imaged", "MainPID")) != hung
    assert "Watchdog timeout" in run("journalctl", "-u", "slipway-imaged", "--no-pager")


async def test_a_log_of_redis_that_a_power_cut_left_with_zeros_is_cut(cri: Cri, pod: tuple[str, str]) -> None:
    run("systemctl", "stop", "slipway-redis")
    log = max(Path("/var/lib/slipway/redis/appendonlydir").glob("*.incr.aof"))
    with log.open("ab") as file:
        file.write(bytes(4096))
    run("systemctl", "start", "--no-block", "slipway-redis")
    eventually(lambda: shown("slipway-redis", "ActiveState") == "active", within_s=60, what="Redis")
    assert log.with_suffix(".damaged").read_bytes().endswith(bytes(4096))
    assert f"repaired: cut 4096 bytes off {log}" in run("journalctl", "-u", "slipway-redis", "--no-pager")
    await pid_of(cri, pod[1])
    await anyio.to_thread.run_sync(go_on)


@pytest.mark.parametrize("days", [1, -1])
async def test_a_step_of_the_clock_loses_nothing(
    cri: Cri, image: str, pod: tuple[str, str], days: int
) -> None:
    before = await pid_of(cri, pod[1])
    run("date", "-s", f"{days:+} day")
    try:
        await anyio.to_thread.run_sync(go_on)
        sandbox_id, container_id = await start_pod(cri, "stepped", image, ["sh", "-c", "sleep 2; exit 7"])
        status = await until(partial(exited, cri, container_id), "the end")
        assert (status.exit_code, status.created_at <= status.started_at <= status.finished_at) == (7, True)
        # they read what was written in the other time
        restart = partial(run, "systemctl", "restart", *(f"slipway-{name}" for name in SERVICES))
        await anyio.to_thread.run_sync(restart)
        assert await pid_soon(cri, pod[1]) == before
        assert (await cri.status(container_id)).exit_code == 7
        await cri.remove_sandbox(sandbox_id)
        assert await differences(RUN_DIR) == []
    finally:
        run("date", "-s", f"{-days:+} day")
    await anyio.to_thread.run_sync(go_on)
    assert await differences(RUN_DIR) == []


async def exited(cri: Cri, container_id: str) -> cri_pb.ContainerStatus | None:
    status = await cri.status(container_id)
    return status if status.state == cri_pb.CONTAINER_EXITED else None


async def test_an_upgrade_in_place_leaves_the_pod(cri: Cri, pod: tuple[str, str]) -> None:
    before, process = CURRENT.resolve(), await pid_of(cri, pod[1])
    with Path("services/crid/src/crid/version.py").open("a") as source:
        source.write("# newer\n")
    said = await anyio.to_thread.run_sync(run, "./dev", "install")
    assert "restarting the services" in said
    after = CURRENT.resolve()
    assert after != before
    assert before.is_dir(), "the shim still runs from it"
    for name in SERVICES:
        program = Path(f"/proc/{shown(f'slipway-{name}', 'MainPID')}/cmdline").read_bytes().decode()
        assert str(after) in program
    assert await pid_of(cri, pod[1]) == process
    assert (await cri.exec(pod[1], ["true"])).exit_code == 0
    await anyio.to_thread.run_sync(go_on)
    assert await differences(RUN_DIR) == []
