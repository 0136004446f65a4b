"""The slipway command on containers that are there: create, start, restart, attach, update, ports."""

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.eventually import eventually
from tests.support.node import TestNode

pytestmark = [pytest.mark.e2e, pytest.mark.root, pytest.mark.timeout(120)]
SERVER = "mkdir /www; echo served >/www/index.html; exec httpd -f -p 80 -h /www"


@contextmanager
def going(node: TestNode, *words: str) -> "Iterator[subprocess.Popen[bytes]]":
    """A command that runs beside us, ended by us if it does not end itself."""
    command = [str(Path(sys.executable).parent / "slipway"), "--run-dir", str(node.run_dir), *words]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        yield process
    finally:
        process.kill()
        process.communicate(timeout=30)


def test_a_container_is_made_then_started_then_started_again(node: TestNode, busybox: str) -> None:
    script = "echo line >>/kept; cat /kept; exit $(grep -c line /kept)"
    made = node.slipway("create", "--name", "job", busybox, "sh", "-c", script)
    said = node.slipway("logs", "-f", "job")
    assert (said.returncode, said.stdout, said.stderr) == (0, "", "")
    assert made.returncode == 0, made.stderr
    assert "Created" in node.slipway("ps", "-a").stdout
    first = node.slipway("start", "-a", "job")
    assert (first.returncode, first.stdout) == (1, "line\n")
    again = node.slipway("start", "-a", "job")
    assert (again.returncode, again.stdout) == (2, "line\nline\n")
    assert node.slipway("logs", "job").stdout == "line\n" * 3
    assert node.slipway("rm", "job").returncode == 0


def test_a_restart_keeps_id_files_and_new_limits(node: TestNode, busybox: str) -> None:
    script = "date >>/starts; exec sleep 1000"
    container_id = node.slipway("run", "-d", "--name", "again", busybox, "sh", "-c", script).stdout.strip()
    refused = node.slipway("update", "again")
    assert (refused.returncode, "--help" in refused.stderr) == (1, True)
    changed = node.slipway("update", "-m", "64m", "--cpus", "0.5", "--pids-limit", "30", "again")
    assert (changed.returncode, changed.stdout) == (0, "again\n"), changed.stderr
    assert node.slipway("restart", "-t", "0", "again").returncode == 0
    status = json.loads(node.slipway("inspect", "again").stdout)[0]["status"]
    assert (status["id"], status["state"]) == (container_id, "CONTAINER_RUNNING")
    limits = status["resources"]["linux"]
    assert (limits["memory_limit_in_bytes"], limits["cpu_quota"], limits["unified"]) == (
        *("67108864", "50000"),
        {"pids.max": "30"},
    )
    starts = node.slipway("exec", "again", "cat", "/starts").stdout
    assert len(starts.splitlines()) == 2
    crowded = node.slipway("exec", "again", "sh", "-c", "for i in $(seq 40); do sleep 5 & done")
    assert "fork" in crowded.stderr
    assert node.slipway("rm", "-f", "again").returncode == 0


def test_attach_carries_streams_and_signals_and_ends_with_the_code(node: TestNode, busybox: str) -> None:
    script = "trap 'echo told; exit 9' INT; while :; do echo tick; sleep 0.1; done"
    assert node.slipway("run", "-d", "--name", "talk", busybox, "sh", "-c", script).returncode == 0
    with going(node, "attach", "--no-stdin", "talk") as attached:
        assert attached.stdout is not None
        assert attached.stdout.readline() == b"tick\n"
        attached.send_signal(signal.SIGINT)
        out, err = attached.communicate(timeout=30)
    assert (attached.returncode, out.splitlines()[-1], err) == (9, b"told", b"")
    ended = node.slipway("attach", "talk")
    assert (ended.returncode, "does not run" in ended.stderr) == (1, True)
    assert node.slipway("rm", "talk").returncode == 0


def test_ports_are_listed_and_forwarded(node: TestNode, busybox: str) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    made = node.slipway("run", "-d", "--name", "site", "-p", f"{port}:80", busybox, "sh", "-c", SERVER)
    assert made.returncode == 0, made.stderr
    assert f"0.0.0.0:{port}->80/tcp" in node.slipway("ps").stdout
    assert node.slipway("port", "site").stdout == f"80/tcp -> 0.0.0.0:{port}\n"
    assert node.slipway("port", "site", "80").stdout == f"0.0.0.0:{port}\n"
    missing = node.slipway("port", "site", "81/udp")
    assert (missing.returncode, "81/udp" in missing.stderr) == (1, True)
    with going(node, "port-forward", "site", ":80", ":81") as forward:
        assert forward.stdout is not None
        lines = [forward.stdout.readline().decode() for _ in range(2)]
        ours = [int(line.split(" -> ")[0].rpartition(":")[2]) for line in lines]
        assert lines[0].endswith(" -> 80\n")
        assert b"served" in eventually(lambda: _fetch(ours[0]))
        assert _fetch(ours[1]) == b""  # nobody listens there
        taken = node.slipway("port-forward", "site", f"{ours[0]}:80")
        assert (taken.returncode, "--address" in taken.stderr) == (1, True)
        forward.send_signal(signal.SIGINT)
        _, err = forward.communicate(timeout=30)
    assert (forward.returncode, b"port 81 of the sandbox" in err) == (130, True)
    for wrong in ("80:", "x", "70000", "1:2:3"):
        refused = node.slipway("port-forward", "site", wrong)
        assert (refused.returncode, "[LOCAL:]PORT" in refused.stderr) == (1, True), wrong
    assert node.slipway("rm", "-f", "site").returncode == 0


def _fetch(port: int) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.sendall(b"GET / HTTP/1.0\r\n\r\n")
        try:
            return b"".join(iter(lambda: client.recv(65536), b""))
        except ConnectionResetError:
            return b""


def test_stop_and_restart_take_a_signal_and_how_long_it_may_take(node: TestNode, busybox: str) -> None:
    script = "trap 'echo told; exit 7' USR1; trap '' TERM INT; echo ready; while :; do sleep 0.05; done"
    assert node.slipway("run", "-d", "--name", "asked", busybox, "sh", "-c", script).returncode == 0
    for verb in ("restart", "stop"):
        eventually(lambda: node.slipway("logs", "asked").stdout.endswith("ready\n"), what="it has its traps")
        done = node.slipway(verb, "--timeout", "-1", "--signal", "USR1", "asked")
        assert (done.returncode, done.stdout) == (0, "asked\n"), done.stderr
    assert node.slipway("stop", "-s", "USR1", "asked").returncode == 0  # it has ended
    status = json.loads(node.slipway("inspect", "asked").stdout)[0]["status"]
    assert (status["exit_code"], node.slipway("logs", "asked").stdout) == (7, "ready\ntold\n" * 2)
    assert node.slipway("start", "asked").returncode == 0
    assert node.slipway("stop", "-s", "INT", "-t", "0", "asked").returncode == 0
    status = json.loads(node.slipway("inspect", "asked").stdout)[0]["status"]
    wrong = node.slipway("stop", "-s", "NOSUCH", "asked")
    assert node.slipway("rm", "asked").returncode == 0
    assert status["exit_code"] == 137
    assert (wrong.returncode, "--signal 'NOSUCH'" in wrong.stderr) == (1, True)


def test_attach_without_its_proxy_of_signals_ends_alone(node: TestNode, busybox: str) -> None:
    loop = "trap 'echo hit' INT; while :; do echo tick; sleep 0.05; done"
    assert node.slipway("run", "-d", "--name", "looked", busybox, "sh", "-c", loop).returncode == 0
    with going(node, "attach", "--no-stdin", "--sig-proxy=false", "looked") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"tick\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 130
    state = json.loads(node.slipway("inspect", "looked").stdout)[0]["status"]["state"]
    said = node.slipway("logs", "looked").stdout
    assert node.slipway("rm", "-f", "looked").returncode == 0
    assert (state, "hit" in said) == ("CONTAINER_RUNNING", False)


def test_a_made_container_goes_when_it_ends_if_that_was_asked(node: TestNode, busybox: str) -> None:
    assert node.slipway("create", "--rm", "--name", "brief", busybox, "true").returncode == 0
    assert node.slipway("start", "brief").returncode == 0
    eventually(lambda: "brief" not in node.slipway("ps", "-a").stdout, what="it goes")
