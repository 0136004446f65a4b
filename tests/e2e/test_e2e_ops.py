"""`slipway ops`: what goes on is listed with its step, and can be cancelled where that leaves nothing behind."""

import json
import socket
from pathlib import Path
from typing import Any

import anyio
import grpc
import pytest

from devtools.cri import Cri, connect
from devtools.registry import Registry
from tests.support.cniplugin import Plugin
from tests.support.eventually import eventually
from tests.support.node import TestNode, running_node

pytestmark = [pytest.mark.e2e, pytest.mark.root, pytest.mark.anyio, pytest.mark.timeout(120)]


def _ops(node: TestNode) -> list[dict[str, Any]]:
    done = node.slipway("ops", "-o", "json")
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


async def _seen(node: TestNode, kind: str) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        return next((each for each in _ops(node) if each["kind"] == kind and each["cancellable"]), None)

    return await anyio.to_thread.run_sync(lambda: eventually(look, what=f"a {kind} goes on"))


async def test_a_pull_from_a_registry_that_hangs_is_listed_and_cancelled(node: TestNode, cri: Cri) -> None:
    failures: list[str] = []

    async def pull(reference: str) -> None:
        try:
            await cri.pull(reference)
        except grpc.aio.AioRpcError as exc:
            failures.append(str(exc))

    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        reference = f"127.0.0.1:{silent.getsockname()[1]}/slow/image:1"
        async with anyio.create_task_group() as group:
            group.start_soon(pull, reference)
            found = await _seen(node, "pull")
            assert (found["service"], found["object"]) == ("imaged", reference)
            assert found["step"].startswith("imaged.")
            assert found["caller"].startswith("PullImage over CRI from ")
            assert reference in node.slipway("ops").stdout
            done = node.slipway("ops", "cancel", found["id"][:6])
            assert (done.returncode, reference in done.stdout) == (0, True), done.stderr
    assert "ABORTED" in failures[0]
    assert "cancelled by slipway ops (" in failures[0]
    assert _ops(node) == []
    again = node.slipway("ops", "cancel", found["id"])
    assert (again.returncode, found["id"] in again.stderr) == (1, True)


async def test_a_pod_whose_network_hangs_is_cancelled_and_leaves_nothing(
    shop: Registry, tmp_path: Path
) -> None:
    plugin = Plugin(tmp_path / "plugin")
    failures: list[str] = []
    with running_node(tmp_path, settings=plugin.settings) as node:
        plugin.join(node)
        (plugin.directory / "hold-ADD").touch()

        async def run(cri: Cri) -> None:
            try:
                await cri.run_sandbox(cri.sandbox_config("stuck"))
            except grpc.aio.AioRpcError as exc:
                failures.append(str(exc))

        async with connect(node.socket, node.logs) as cri:
            async with anyio.create_task_group() as group:
                group.start_soon(run, cri)
                found = await _seen(node, "sandbox")
                assert (found["service"], found["step"]) == ("runtimed", "runtimed.cni.add")
                assert node.slipway("ops", "cancel", found["id"]).returncode == 0
            assert "cancelled by slipway ops (" in failures[0]
            (plugin.directory / "hold-ADD").unlink()
            assert json.loads(node.slipway("pods", "-o", "json").stdout) == []
            assert node.leftovers()["sandboxes"] == []
            # the name is free, and the network works
            await cri.run_sandbox(cri.sandbox_config("stuck"))
            await cri.remove_all()


def test_nothing_goes_on_and_nothing_is_named(node: TestNode) -> None:
    assert _ops(node) == []
    missing = node.slipway("ops", "cancel")
    assert (missing.returncode, "slipway ops" in missing.stderr) == (1, True)
