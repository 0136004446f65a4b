"""What a container, its image and its maker say cannot command the terminal of whoever looks."""

import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from devtools.cri import Cri
from tests.support.eventually import eventually
from tests.support.node import TestNode

pytestmark = [pytest.mark.e2e, pytest.mark.root, pytest.mark.anyio, pytest.mark.timeout(120)]
EVIL = "\x1b]0;owned\x07\x1b[2J\u202e\x9b31mevil"
COLOUR = re.compile(rb"\x1b\[[0-9;]*m")
COMMANDS = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\xc2[\x80-\x9f]|\xe2\x80[\xaa-\xae]|\r(?!\n)")


def on_terminal(node: TestNode, *words: str) -> bytes:
    """What a command writes to a terminal, both streams."""
    ours, theirs = pty.openpty()
    command = [str(Path(sys.executable).parent / "slipway"), "--run-dir", str(node.run_dir), *words]
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    shown = b""
    try:
        while chunk := os.read(ours, 65536):
            shown += chunk
    except OSError:  # EIO: it has ended
        pass
    finally:
        os.close(ours)
        process.wait(30)
    return shown


@contextmanager
def stopping(node: TestNode, container_id: str) -> Iterator[None]:
    """Somebody with a hostile name waits for a container's end."""
    command = [
        str(Path(sys.executable).parent / "slipway"),
        "--run-dir",
        str(node.run_dir),
        "stop",
        "-t",
        "100",
    ]
    with subprocess.Popen([*command, container_id], env=os.environ | {"SUDO_USER": EVIL}) as process:
        try:
            yield
        finally:
            process.kill()


async def test_nothing_hostile_reaches_the_terminal(node: TestNode, cri: Cri, busybox: str) -> None:
    await cri.pull(busybox)
    pod = cri.sandbox_config("evil", host_network=True, labels={EVIL: EVIL})
    pod.metadata.namespace = EVIL
    sandbox_id = await cri.run_sandbox(pod)
    script = (
        "touch \"$(printf '/named\\033[2J')\"; "
        "printf '\\033]0;owned\\007\\033[31mred\\033[2J\\302\\23331m\\rover\\n';"
        " exec sh -c 'trap : TERM; while :; do sleep 0.1; done' \"$(printf '\\033[2J')\""
    )
    config = cri.container_config("c", busybox, ["sh", "-c", script], annotations={EVIL: EVIL})
    config.metadata.name = EVIL
    container_id = await cri.create(sandbox_id, config, pod)
    await cri.start(container_id)
    log = Path((await cri.status(container_id)).log_path)
    eventually(lambda: b"over" in log.read_bytes())
    made = node.slipway("commit", "-m", EVIL, "-c", "LABEL a=" + EVIL, container_id, "evil:1")
    assert made.returncode == 0, made.stderr
    with ThreadPoolExecutor(4) as pool:
        looks = (
            *(("ps",), ("pods",), ("stats", "--no-stream"), ("top", container_id), ("images",)),
            *(("inspect", container_id), ("pods", "inspect", sandbox_id), ("ps", "-o", "json")),
            *(("events", "--until-now"), ("events", "--until-now", "-o", "json")),
            *(("rm", container_id), ("exec", container_id, EVIL), ("logs", container_id)),
            *(("logs", EVIL), ("inspect", EVIL), ("pods", "stop", EVIL + "x"), ("cp", EVIL + ":/x", "/tmp")),
            *(("trace", container_id), ("diff", container_id), ("history", "--no-trunc", "evil:1")),
        )
        found = list(pool.map(lambda words: on_terminal(node, *words), looks))
    with stopping(node, container_id):
        ops = eventually(
            lambda: b"owned" in (shown := on_terminal(node, "ops")) and shown, what="the stop goes on"
        )
    assert node.slipway("stop", "-t", "0", container_id).returncode == 0
    why = [on_terminal(node, "why", object_id) for object_id in (container_id, sandbox_id)]
    node.slipway("rmi", "evil:1")
    for shown, there in ((found[-2], b"named"), (found[-1], b"evil"), (why[0], b"over"), (why[1], b"over")):
        assert there in shown, shown
    found += [ops, *why]
    for shown in found:
        assert shown
        assert not COMMANDS.search(COLOUR.sub(b"", shown)), shown
    assert [b"evil" in found[0], b"?[2J" in found[3]] == [True, True]  # it was there to be shown
    logs = on_terminal(node, "logs", container_id)
    assert b"^[]0;owned^G\x1b[31mred^[[2J" in logs
    raw = on_terminal(node, "logs", "--raw", container_id)
    assert b"\x1b]0;owned\x07" in raw
    assert "\x1b]0;owned\x07" in node.slipway("logs", container_id).stdout  # a pipe gets what was written
