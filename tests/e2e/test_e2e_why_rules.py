"""`slipway why`: each rule by a container or a pod that went through it."""

import http.server
import json
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from common.sys import linux
from devtools.cri import Cri, connect
from devtools.registry import Registry, busybox_layer, file, layer
from tests.support.cniplugin import Plugin
from tests.support.eventually import eventually
from tests.support.node import TestNode, running_node

pytestmark = [pytest.mark.e2e, pytest.mark.root, pytest.mark.anyio, pytest.mark.timeout(180)]


def _why(node: TestNode, name: str) -> dict[str, Any]:
    done = node.slipway("why", "-o", "json", name)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _ended(node: TestNode, name: str) -> dict[str, Any]:
    return eventually(lambda: (found := _why(node, name))["state"] == "exited" and found, what=f"{name} ends")


def _facts(found: dict[str, Any], what: str) -> list[str]:
    return [fact["text"] for fact in found["evidence"] if fact["what"] == what]


def _init(node: TestNode, name: str) -> tuple[str, int]:
    status = json.loads(node.slipway("inspect", name).stdout)[0]
    return status["status"]["id"], json.loads(status["info"]["info"])["pid"]


STARTS: list[tuple[str, list[str], list[str], str, str]] = [
    ("script", [], ["/f/script"], "exec-format", "`/f/script` is for another processor, or a script without"),
    ("foreign", [], ["/foreign"], "exec-format", "`/foreign` is for machine 0x1234, and this node is"),
    ("hashless", [], ["/hashless"], "exec-format", "`/hashless` has no #! line"),
    ("bashless", [], ["/bashless"], "command-missing", "needs the interpreter `/bin/nosuch -e`"),
    ("missing", [], ["/no/such"], "command-missing", "`/no/such` is not in the image"),
    ("typo", [], ["sleeep", "3"], "command-missing", "`sleeep` is not in the image"),
    ("plain", [], ["/plain"], "not-executable", "may not be executed"),
    ("lost", ["-w", "/plain"], ["true"], "workdir-missing", "`/plain` cannot be entered: not a"),
    (
        "forks",
        ["--pids-limit", "2"],
        ["sh", "-c", "sleep 1 & sleep 1 & sleep 1 & wait"],
        "pids-limit",
        "its limit of 2",
    ),
    (
        "child",
        ["-m", "32m"],
        ["sh", "-c", "tail /dev/zero; exit 3"],
        "oom-child",
        "spared, and ended with code 3",
    ),
]
"""Name, options of `run`, command, cause, and a part of the verdict."""
WORDED = ("script", "bashless", "missing", "typo", "plain", "lost")
"""Those that are known by an OCI runtime's words, of which each has its own."""


@pytest.fixture(scope="module")
def programs(shop: Registry) -> str:
    """An image with programs that cannot run."""
    foreign = bytearray(Path("/bin/busybox").read_bytes()[:4096])
    foreign[18:20] = b"\x34\x12"
    broken = layer(
        [
            file("foreign", bytes(foreign), 0o755),
            file("hashless", b"echo hi\n", 0o755),
            file("bashless", b"#!/bin/nosuch -e\necho hi\n", 0o755),
            file("plain", b"#!/bin/sh\n", 0o644),
        ]
    )
    return str(shop.push("why/programs", [busybox_layer(), broken], {"Env": ["PATH=/bin"]}))


@pytest.mark.parametrize(
    ("handler", "name", "options", "command", "cause", "said"),
    [
        pytest.param(handler, *start, id=f"{handler}-{start[0]}")
        for start in STARTS
        for handler in ("crun", "runc")
        if handler == "crun" or start[0] in WORDED
    ],
)
def test_what_does_not_start_or_hits_a_limit_is_explained(
    node: TestNode,
    programs: str,
    tmp_path: Path,
    handler: str,
    name: str,
    options: list[str],
    command: list[str],
    cause: str,
    said: str,
) -> None:
    (tmp_path / "script").write_text("echo hi\n")
    (tmp_path / "script").chmod(0o755)
    where = ["--handler", handler, "--name", name, "-v", f"{tmp_path}:/f"]
    made = node.slipway("create", *where, *options, programs, *command)
    assert made.returncode == 0, made.stderr
    try:
        node.slipway("start", name)
        found = _ended(node, name)
        assert (found["cause"], said in found["verdict"]) == (cause, True), found
        assert found["next_steps"]
        assert _facts(found, "exit")
    finally:
        node.slipway("rm", "-f", name)


def test_an_unknown_user_is_named_though_nothing_was_made(node: TestNode, busybox: str) -> None:
    assert node.slipway("run", "--name", "stranger", "-u", "nosuch", busybox, "id").returncode == 125
    found = _why(node, "stranger")
    assert (found["kind"], found["cause"]) == ("attempt", "unknown-user")
    assert "the user `nosuch` is not in the image's /etc/passwd" in found["verdict"]
    assert "runAsUser" in found["next_steps"][0]


def test_a_stop_by_the_command_names_the_person(node: TestNode, busybox: str) -> None:
    assert node.slipway("run", "-d", "--name", "mine", busybox, "sleep", "1000").returncode == 0
    assert node.slipway("stop", "-t", "0", "mine").returncode == 0
    found = _why(node, "mine")
    assert found["cause"] == "stopped"
    assert found["verdict"] == "It was killed without grace by slipway stop (root)."
    node.slipway("rm", "mine")


async def test_failed_probes_are_told_with_their_codes(node: TestNode, cri: Cri, busybox: str) -> None:
    started = node.slipway(
        "run", "-d", "--name", "sick", busybox, "sh", "-c", "trap 'exit 0' TERM; while :; do sleep 0.05; done"
    )
    container_id = started.stdout.strip()
    for code in (1, 7, 7):
        assert (await cri.exec(container_id, ["sh", "-c", f"exit {code}"])).exit_code == code
    eventually(lambda: len(_facts(_why(node, "sick"), "exec")) == 3, what="the execs are known")
    await cri.stop(container_id, 5)
    found = _why(node, "sick")
    assert found["cause"] == "probe-failed"
    assert (
        "failed 3 times in a row: it ended with code 1, then ended with code 7, then ended with code 7"
        in found["verdict"]
    )
    assert "StopContainer over CRI from grpc-python" in found["verdict"]
    node.slipway("rm", "sick")


def test_a_shim_that_died_is_the_cause(node: TestNode, busybox: str) -> None:
    assert node.slipway("run", "-d", "--name", "orphan", busybox, "sleep", "1000").returncode == 0
    container_id, pid = _init(node, "orphan")
    shim = int((node.run_dir / "shimd" / "shims" / container_id / "pid").read_text().split()[0])
    os.kill(shim, signal.SIGKILL)
    os.kill(pid, signal.SIGKILL)
    found = _ended(node, "orphan")
    assert (found["cause"], found["exit_code"]) == ("no-shim", 255)
    assert _facts(found, "no-shim")
    node.slipway("rm", "orphan")


def test_an_end_at_the_nodes_shutdown_is_told(shop: Registry, busybox: str, tmp_path: Path) -> None:
    boot = tmp_path / "boot"
    boot.write_text("first")
    with running_node(tmp_path, settings={"SLIPWAY_RUNTIMED_BOOT_ID_PATH": str(boot)}) as node:
        script = "trap 'exit 143' TERM; while :; do sleep 0.05; done"
        assert node.slipway("run", "-d", "--name", "server", busybox, "sh", "-c", script).returncode == 0
        container_id, pid = _init(node, "server")
        node.down()
        os.kill(pid, signal.SIGTERM)  # as the service manager does to all that is left
        exit_record = node.data_dir / "runtimed" / "containers" / container_id / "exit.msgpack"
        eventually(exit_record.exists, what="the shim writes the end down")
        boot.write_text("second")
        node.reboot()
        found = _ended(node, "server")
        assert (found["cause"], found["exit_code"]) == ("node-shutdown", 143)
        assert "The node was shut down: it ended on SIGTERM after " in found["verdict"]
        node.slipway("rm", "server")


async def test_a_plugin_that_fails_and_images_that_cannot_be_had(
    shop: Registry, busybox: str, tmp_path: Path
) -> None:
    plugin = Plugin(tmp_path / "plugin")
    policy = tmp_path / "policy.json"
    accept = {
        "docker": {address: [{"type": "insecureAcceptAnything"}] for address in ("127.0.0.1", shop.address)}
    }
    big = shop.push("why/big", [layer([file("big", os.urandom(4 << 20))])], {})
    with _refusing() as locked, _closed() as closed:
        accept["docker"] |= {address: [{"type": "insecureAcceptAnything"}] for address in (locked, closed)}
        accept["docker"][f"{shop.address}/unsigned"] = [{"type": "reject"}]
        policy.write_text(json.dumps({"default": [{"type": "reject"}], "transports": accept}))
        settings = plugin.settings | {"SLIPWAY_IMAGED_SIGNATURE_POLICY": str(policy)}
        small = tmp_path / "node" / "imaged"
        small.mkdir(parents=True)
        linux.mount("none", str(small), "tmpfs", data="size=2m")
        try:
            with running_node(tmp_path, settings=settings) as node:
                plugin.join(node)
                unsigned = shop.push("unsigned/app", [], {})
                references = {
                    "image-not-found": f"{shop.address}/why/nosuch:1",
                    "image-unauthorized": f"{locked}/why/app:1",
                    "registry-unreachable": f"{closed}/why/app:1",
                    "image-untrusted": unsigned,
                    "no-space": big,
                }
                async with connect(node.socket, node.logs) as cri:
                    (plugin.directory / "fail-ADD").touch()
                    with pytest.raises(grpc.aio.AioRpcError):
                        await cri.run_sandbox(cri.sandbox_config("unplugged"))
                    found = _why(node, "unplugged")
                    assert found["cause"] == "cni-failed"
                    assert "the network plugin `told` failed: told to fail" in found["verdict"]
                    sandbox = cri.sandbox_config("pulls", host_network=True)
                    await cri.run_sandbox(sandbox)
                    for reference in references.values():
                        with pytest.raises(grpc.aio.AioRpcError):
                            await cri.pull(reference, sandbox)
                    inside = {one["image"]: one for one in _why(node, "pulls")["containers"]}
                    await cri.remove_all()
                assert {cause: inside[image]["cause"] for cause, image in references.items()} == {
                    cause: cause for cause in references
                }
                assert all(one["next_steps"] and _facts(one, "failure") for one in inside.values())
        finally:
            linux.umount(str(small), linux.MNT_DETACH)


@contextmanager
def _refusing() -> Iterator[str]:
    """A registry that lets nobody in; gives its address."""

    class Refuse(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="closed"')
            self.send_header("Content-Length", "0")
            self.end_headers()

        def do_HEAD(self) -> None:
            self.do_GET()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refuse) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


@contextmanager
def _closed() -> Iterator[str]:
    """An address at which nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{taken.getsockname()[1]}"
