"""`slipway pull`, as its user sees it: who is first, how far it is."""

import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
import urllib3

from devtools.registry import Registry, file, layer
from tests.e2e import test_e2e_lazy
from tests.support.eventually import eventually
from tests.support.gate import Gate, gate
from tests.support.node import TestNode, running_node
from tests.support.pace import patience

pytestmark = [pytest.mark.e2e, pytest.mark.root, pytest.mark.anyio, pytest.mark.timeout(120)]
CAP = 2_000_000
"""Bytes per second."""


@pytest.fixture(scope="module")
def node(shop: Registry, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestNode]:
    """A node that fetches one blob at a time, and slowly."""
    root = Path(tmp_path_factory.mktemp("pulls"))
    settings = {"SLIPWAY_IMAGED_MAX_DOWNLOADS": "1", "SLIPWAY_IMAGED_MAX_BYTES_PER_S": str(CAP)}
    with running_node(root, settings=settings) as running:
        yield running


@pytest.fixture
def door(shop: Registry) -> Iterator[Gate]:
    with gate(shop.address) as made:
        yield made


def _push(shop: Registry, name: str) -> str:
    shop.push(f"pulls/{name}", [layer([file(name, name.encode())])], {})
    return f"pulls/{name}:latest"


async def test_a_pull_of_higher_priority_is_first(node: TestNode, shop: Registry, door: Gate) -> None:
    names = [_push(shop, name) for name in ("first", "second", "urgent")]
    door.open.clear()

    def waits_for(count: int) -> None:
        eventually(partial(waiting, count), what=f"{count} pulls wait for blobs")

    def waiting(count: int) -> bool:
        done = node.slipway("ops", "-o", "json")
        pulls = [each for each in json.loads(done.stdout) if each["kind"] == "pull"]
        return len([each for each in pulls if each["step"] == "imaged.blob.fetch"]) == count

    async with anyio.create_task_group() as group:

        async def pull(name: str, *arguments: str) -> None:
            done = await anyio.to_thread.run_sync(
                lambda: node.slipway("pull", *arguments, f"{door.host}/{name}")
            )
            assert (done.returncode, done.stdout[:7]) == (0, "sha256:"), done.stderr

        for count, name in enumerate(names, 1):
            group.start_soon(pull, name, *(("--priority", "5") if "urgent" in name else ()))
            await anyio.to_thread.run_sync(waits_for, count)
        door.open.set()
    order = [path.split("/")[3] for path in door.asked if "/blobs/" in path]
    assert order[1:3] == ["urgent", "urgent"]
    assert sorted(order) == sorted(["first", "second", "urgent"] * 2)


def test_a_priority_that_is_none_is_refused(node: TestNode) -> None:
    for text in ("high", "1001"):
        done = node.slipway("pull", "--priority", text, "registry.example/app:1")
        assert done.returncode == 125
        assert f"--priority: '{text}' is no number" in done.stderr


def test_progress_is_shown_on_a_terminal_and_told_as_events(node: TestNode, shop: Registry) -> None:
    blob = os.urandom(3 * CAP)
    reference = shop.push("pulls/slow", [layer([file("big", blob)])], {})
    shown = _on_terminal(node, "pull", reference)
    assert re.search(r"\d s left", shown), shown
    assert re.search(r"all .*MB", shown), shown
    done = node.slipway("events", "--until-now", "--filter", "verb=pull_progressed", "-o", "json")
    told = [json.loads(line)["event"] for line in done.stdout.splitlines()]
    told = [each for each in told if each["id"] == reference]
    assert told, done
    sizes = [each["fetched_bytes"] for each in told]
    assert sizes == sorted(set(sizes))
    assert all(each["size_bytes"] >= len(blob) for each in told)
    for verb in ("pull", "push"):
        quiet = _on_terminal(node, verb, "-q", reference)
        assert (quiet.count("\n"), "MB" in quiet) == (1, False), quiet


def test_a_second_pull_of_the_same_tag_is_one_request(node: TestNode, shop: Registry, door: Gate) -> None:
    name = _push(shop, "again")
    assert node.slipway("pull", f"{door.host}/{name}").returncode == 0
    for _ in range(3):
        door.asked.clear()
        done = node.slipway("pull", f"{door.host}/{name}")
        assert done.returncode == 0, done.stderr
        assert door.asked == ["HEAD /v2/pulls/again/manifests/latest"]


def test_a_second_pull_of_the_same_tag_takes_no_time(node: TestNode, shop: Registry) -> None:
    name = _push(shop, "quick")
    reference = f"{shop.address}/{name}"
    for _ in range(10):
        assert node.slipway("pull", reference).returncode == 0
    done = node.slipway("events", "--until-now", "--filter", "verb=pulled", "-o", "json")
    told = [json.loads(line)["event"] for line in done.stdout.splitlines()]
    took_ms = [each.get("duration_ms", 0) for each in told if each["reference"] == reference]
    assert len(took_ms) == 10
    # with the way to a registry on this machine; the best, and more while others keep the machine busy
    assert min(took_ms[1:]) < max(patience(30), 15 * _asked_ms(shop.address, name)), took_ms


def _asked_ms(address: str, name: str) -> float:
    """What the request by itself takes, at best."""
    path, _, tag = name.rpartition(":")
    found = []
    for _ in range(10):
        start = time.monotonic()
        urllib3.request("HEAD", f"http://{address}/v2/{path}/manifests/{tag}")
        found.append((time.monotonic() - start) * 1000)
    return min(found)


def _on_terminal(node: TestNode, *arguments: str) -> str:
    """What the command shows on a terminal, without its colours."""
    command = [str(Path(sys.executable).parent / "slipway"), "--run-dir", str(node.run_dir), *arguments]
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 120, 0, 0))
    environment = os.environ | {"TERM": "xterm"}
    child = subprocess.Popen(command, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    shown = b""
    with suppress(OSError):  # EIO, once nobody has the other side
        while piece := os.read(ours, 65536):
            shown += piece
    os.close(ours)
    assert child.wait(patience(30)) == 0, shown
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.decode())


@pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="no /dev/fuse")
def test_one_pull_may_be_lazy_where_others_are_not(node: TestNode, shop: Registry) -> None:
    pushed = test_e2e_lazy.push(shop, "pulls/lazy", 11)
    image = f"{shop.address}/{pushed.name}"
    assert node.slipway("pull", "--lazy", image).returncode == 0
    coming = json.loads(node.slipway("image", "inspect", image).stdout)[0]["Coming"]
    assert node.slipway("rmi", image).returncode == 0
    assert coming == [pushed.layer]
