"""`slipway why`: the cause of each kind of end, by a node that went through it."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import grpc
import pytest

from common.api.cri.v1 import api_pb2 as pb
from devtools.cri import Cri, connect
from devtools.registry import Registry
from tests.support.eventually import eventually
from tests.support.node import TestNode, running_node

pytestmark = [pytest.mark.e2e, pytest.mark.root, pytest.mark.anyio, pytest.mark.timeout(120)]


def _why(node: TestNode, name: str) -> dict[str, Any]:
    done = node.slipway("why", "-o", "json", name)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _facts(found: dict[str, Any], what: str) -> list[str]:
    return [f"{fact['text']} ({fact['actor']})" for fact in found["evidence"] if fact["what"] == what]


async def _start(
    cri: Cri,
    image: str,
    name: str,
    script: str,
    *,
    limit_bytes: int = 0,
    pid: pb.NamespaceMode.ValueType = pb.CONTAINER,
) -> str:
    await cri.pull(image)
    sandbox = cri.sandbox_config(f"{name}-pod", host_network=True)
    sandbox.linux.security_context.namespace_options.pid = pid
    sandbox_id = await cri.run_sandbox(sandbox)
    config = cri.container_config(name, image, ["sh", "-c", script])
    config.linux.resources.memory_limit_in_bytes = limit_bytes
    config.linux.security_context.namespace_options.pid = pid
    container_id = await cri.create(sandbox_id, config, sandbox)
    await cri.start(container_id)
    return container_id


def _ended(node: TestNode, name: str) -> dict[str, Any]:
    return eventually(lambda: (found := _why(node, name))["state"] == "exited" and found, what=f"{name} ends")


async def test_exit_by_itself_shows_the_code_and_the_last_lines(
    node: TestNode, cri: Cri, busybox: str
) -> None:
    await _start(cri, busybox, "failing", "echo one; echo cannot open the file >&2; exit 1")
    found = _ended(node, "failing")
    assert (found["cause"], found["exit_code"]) == ("exited", 1)
    assert found["verdict"].startswith("It ended by itself with code 1 after ")
    assert found["log"] == ["one", "cannot open the file"]
    told = node.slipway("why", "failing").stdout
    assert told.splitlines()[1] == found["verdict"]
    assert "cannot open the file" in told


async def test_a_crash_is_named_by_its_signal(node: TestNode, cri: Cri, busybox: str) -> None:
    # the first process of a PID namespace is immune to such signals, so here it has the node's
    await _start(cri, busybox, "crashing", "ulimit -c 0; kill -SEGV $$", pid=pb.NODE)
    await _start(cri, busybox, "shelled", "ulimit -c 0; sh -c 'kill -SEGV $$'; exit $?")
    found = _ended(node, "shelled")
    assert (found["cause"], found["exit_code"]) == ("exited", 139)
    assert "ended by SIGSEGV" in found["verdict"]
    found = _ended(node, "crashing")
    assert found["cause"] == "crashed", found
    assert "SIGSEGV" in found["verdict"]


async def test_out_of_memory_shows_limit_and_use(node: TestNode, cri: Cri, busybox: str) -> None:
    await _start(cri, busybox, "greedy", "exec tail /dev/zero", limit_bytes=32 << 20)
    found = _ended(node, "greedy")
    assert found["cause"] == "oom-killed"
    assert "it used all of its limit of 32 MiB" in found["verdict"]
    assert "limit 32 MiB" in _facts(found, "memory")[0]


async def test_a_stop_names_who_asked_and_how_it_went(node: TestNode, cri: Cri, busybox: str) -> None:
    polite = await _start(cri, busybox, "polite", "trap 'exit 3' TERM; while :; do sleep 0.05; done")
    assert (await cri.exec(polite, ["true"])).exit_code == 0
    await cri.stop(polite, 10)
    found = _why(node, "polite")
    assert (found["cause"], found["exit_code"]) == ("stopped", 3)
    assert "stopped by StopContainer over CRI from grpc-python" in found["verdict"]
    assert "ended on SIGTERM" in found["verdict"]
    assert node.slipway("start", "polite").returncode == 0
    found = _why(node, "polite")
    assert found["cause"] == "running"
    assert _facts(found, "ended") == ["an earlier run of it ended with code 3 (Error) ()"]
    assert _facts(found, "stop") == []
    stubborn = await _start(cri, busybox, "stubborn", "trap '' TERM; while :; do sleep 0.05; done")
    await cri.stop(stubborn, 1)
    found = _why(node, "stubborn")
    assert "it ignored SIGTERM for 1 s, and was killed" in found["verdict"]
    assert len(_facts(found, "kill")) == 1


async def test_a_signal_by_a_person_names_the_command(node: TestNode, cri: Cri, busybox: str) -> None:
    await _start(cri, busybox, "struck", "while :; do sleep 0.05; done")
    assert node.slipway("kill", "-s", "KILL", "struck").returncode == 0
    found = _ended(node, "struck")
    assert found["cause"] == "killed"
    assert "SIGKILL was sent to it by slipway kill (" in found["verdict"]


async def test_a_kill_from_outside_is_told_as_nobodys(node: TestNode, cri: Cri, busybox: str) -> None:
    container_id = await _start(cri, busybox, "victim", "while :; do sleep 0.05; done")
    facts = json.loads(node.slipway("inspect", container_id).stdout)[0]["info"]["info"]
    os.kill(json.loads(facts)["pid"], signal.SIGKILL)
    found = _ended(node, "victim")
    assert (found["cause"], found["exit_code"]) == ("killed", 137)
    assert "nobody asked Slipway for" in found["verdict"]


async def test_a_program_that_is_not_there_has_a_next_step(node: TestNode, cri: Cri, busybox: str) -> None:
    await cri.pull(busybox)
    sandbox = cri.sandbox_config("typo-pod", host_network=True)
    sandbox_id = await cri.run_sandbox(sandbox)
    config = cri.container_config("typo", busybox, ["/no/such/program"])
    container_id = await cri.create(sandbox_id, config, sandbox)
    with pytest.raises(Exception, match="/no/such/program"):
        await cri.start(container_id)
    found = _why(node, "typo")
    assert found["cause"] == "command-missing"
    assert "its program `/no/such/program` is not in the image" in found["verdict"]
    assert "in the image" in found["next_steps"][0]
    pod = _why(node, "typo-pod")
    assert (pod["kind"], pod["cause"]) == ("pod", "command-missing")
    assert "typo" in pod["verdict"]


async def test_a_missing_image_is_remembered_though_nothing_was_made(
    node: TestNode, cri: Cri, busybox: str
) -> None:
    sandbox = cri.sandbox_config("imageless-pod", host_network=True)
    sandbox_id = await cri.run_sandbox(sandbox)
    missing = cri.container_config("imageless", "registry.invalid/no/such:1", ["true"])
    for _ in range(2):
        with pytest.raises(Exception, match="pull it first"):
            await cri.create(sandbox_id, missing, sandbox)
    found = _why(node, "imageless")
    assert (found["kind"], found["cause"], found["pod_name"]) == ("attempt", "image-absent", "imageless-pod")
    assert "tried 2 times" in found["verdict"]
    assert "slipway pull" in found["next_steps"][0]
    address = busybox.partition("/")[0]
    with pytest.raises(Exception, match="does not have it"):
        await cri.pull(f"{address}/no/such:image", sandbox)
    inside = [(one["image"], one["cause"]) for one in _why(node, "imageless-pod")["containers"]]
    assert (f"{address}/no/such:image", "image-not-found") in inside
    await cri.pull(busybox)
    mended = cri.container_config("imageless", busybox, ["true"])
    await cri.create(sandbox_id, mended, sandbox)
    assert _why(node, "imageless")["cause"] == "created"


async def test_a_pod_that_was_never_made_is_remembered(node: TestNode, cri: Cri) -> None:
    with pytest.raises(Exception, match="nosuch"):
        await cri.run_sandbox(cri.sandbox_config("unmade", host_network=True), "nosuch")
    found = _why(node, "unmade")
    assert (found["kind"], found["cause"]) == ("attempt", "create-failed")
    assert found["verdict"].startswith("The pod could not be made: runtime_handler 'nosuch'")
    assert _facts(found, "failure")[0].endswith(
        "(RunPodSandbox over CRI from grpc-python-asyncio/" + grpc.__version__ + ")"
    )
    await cri.run_sandbox(cri.sandbox_config("unmade", host_network=True))
    assert _why(node, "unmade")["kind"] == "pod"


async def test_a_failed_probe_before_the_stop_is_the_cause(node: TestNode, cri: Cri, busybox: str) -> None:
    container_id = await _start(cri, busybox, "probed", "trap 'exit 0' TERM; while :; do sleep 0.05; done")
    for _ in range(3):
        assert (await cri.exec(container_id, ["cat", "/healthy"])).exit_code == 1
    eventually(lambda: len(_facts(_why(node, "probed"), "exec")) == 3, what="the execs are known")
    await cri.stop(container_id, 5)
    found = _why(node, "probed")
    assert found["cause"] == "probe-failed"
    assert "after the command `cat /healthy` in it ended with code 1, 3 times in a row" in found["verdict"]
    assert "ExecSync over CRI" in _facts(found, "exec")[0]


async def test_what_runs_says_since_when_and_what_is_unknown_says_so(
    node: TestNode, cri: Cri, busybox: str
) -> None:
    container_id = await _start(cri, busybox, "steady", "while :; do sleep 0.05; done")
    found = _why(node, container_id[:12])
    assert (found["cause"], found["name"]) == ("running", "steady")
    assert found["verdict"].startswith("It has been running for ")
    assert "1 of its 1 containers run" in _why(node, "steady-pod")["verdict"]
    other = cri.sandbox_config("other-pod", host_network=True)
    await cri.create(await cri.run_sandbox(other), cri.container_config("steady", busybox, ["true"]), other)
    several = node.slipway("why", "steady")
    assert (several.returncode, "means 2 containers" in several.stderr) == (1, True)
    gone = node.slipway("why", "nobody")
    assert (gone.returncode, "nobody" in gone.stderr) == (1, True)


async def test_a_reboot_is_the_cause_of_what_ran_before(shop: Registry, busybox: str, tmp_path: Path) -> None:
    boot = tmp_path / "boot"
    boot.write_text("first")
    with running_node(tmp_path, settings={"SLIPWAY_RUNTIMED_BOOT_ID_PATH": str(boot)}) as node:
        async with connect(node.socket, node.logs) as cri:
            await _start(cri, busybox, "before", "while :; do sleep 0.05; done")
        boot.write_text("second")
        node.reboot()
        found = _ended(node, "before")
        assert (found["cause"], found["exit_code"]) == ("rebooted", 255)
        assert "rebooted" in _why(node, "before-pod")["verdict"]
        async with connect(node.socket, node.logs) as cri:
            await cri.remove_all()
