"""Terminal sessions and signals of the command, against a node of its own."""

import os
import pty
import select
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from devtools.registry import push_busybox, registry
from tests.support.eventually import eventually
from tests.support.node import TestNode, running_node

pytestmark = [pytest.mark.e2e, pytest.mark.root, pytest.mark.timeout(120)]
SLIPWAY = str(Path(sys.executable).parent / "slipway")
WITHIN_S = 30


@dataclass
class Place:
    node: TestNode
    image: str

    def words(self, *words: str) -> list[str]:
        return [SLIPWAY, "--run-dir", str(self.node.run_dir), *words]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    if os.geteuid() != 0:
        pytest.skip("a node needs root")
    data = tmp_path_factory.mktemp("terminal")
    with registry(data / "registry") as shop, running_node(data) as node:
        yield Place(node, push_busybox(shop))


class Screen:
    """A command on a pseudo-terminal of 30 x 100."""

    def __init__(self, command: list[str]) -> None:
        self.pid, self._fd = pty.fork()
        if self.pid == 0:
            os.execv(command[0], command)  # noqa: S606 - the child of pty.fork
        self.shown = b""
        self.resize(30, 100)

    def resize(self, rows: int, columns: int) -> None:
        import termios

        termios.tcsetwinsize(self._fd, (rows, columns))

    def type(self, keys: bytes) -> None:
        os.write(self._fd, keys)

    def wait_for(self, text: bytes) -> None:
        deadline = time.monotonic() + WITHIN_S
        while text not in self.shown:
            assert time.monotonic() < deadline, (text, self.shown)
            if not self._more():
                break
        assert text in self.shown

    def end(self) -> int:
        """Read to the end and return the exit code."""
        deadline = time.monotonic() + WITHIN_S
        while self._more():
            assert time.monotonic() < deadline, self.shown
        _, status = os.waitpid(self.pid, 0)
        os.close(self._fd)
        return os.waitstatus_to_exitcode(status)

    def _more(self) -> bool:
        if not select.select([self._fd], [], [], 0.2)[0]:
            return True
        try:
            chunk = os.read(self._fd, 65536)
        except OSError:  # EIO: the other side is closed
            return False
        self.shown += chunk
        return bool(chunk)


def test_a_shell_on_a_terminal(place: Place) -> None:
    screen = Screen(place.words("run", "--rm", "-it", place.image, "sh"))
    screen.wait_for(b"# ")
    screen.type(b"stty size; tty\r")
    screen.wait_for(b"30 100\r\n")
    screen.resize(40, 120)
    screen.type(b"while [ \"$(stty size)\" != '40 120' ]; do sleep 0.05; done; echo resi''zed\r")
    screen.wait_for(b"resized")
    screen.type(b"exit 3\r")
    assert screen.end() == 3


def test_what_was_written_before_the_attach_is_shown_once(place: Place) -> None:
    screen = Screen(place.words("run", "--rm", "-t", place.image, "sh", "-c", "echo hi; sleep 0.5; echo bye"))
    assert screen.end() == 0
    assert screen.shown == b"hi\r\nbye\r\n"


def test_keys_of_a_program_on_a_terminal_without_input_go_as_signals(place: Place) -> None:
    script = "trap 'echo int; exit 4' INT; echo up; while :; do sleep 0.1; done"
    screen = Screen(place.words("run", "--rm", "-t", place.image, "sh", "-c", script))
    screen.wait_for(b"up")
    screen.type(b"\x03")
    assert screen.end() == 4


def test_detaching_leaves_the_shell_alive(place: Place) -> None:
    name = f"left-{uuid.uuid4().hex[:6]}"
    screen = Screen(place.words("run", "--name", name, "-it", place.image, "sh"))
    screen.wait_for(b"# ")
    screen.type(b"\x10\x11")
    assert screen.end() == 0
    assert name in place.node.slipway("ps").stdout
    inside = Screen(place.words("exec", "-it", name, "sh"))
    inside.wait_for(b"# ")
    inside.type(b"exit 5\r")
    assert inside.end() == 5
    assert place.node.slipway("rm", "-f", name).returncode == 0


def run_until_up(place: Place, script: str) -> "subprocess.Popen[str]":
    words = place.words("run", "--rm", place.image, "sh", "-c", script)
    running = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert running.stdout is not None
    assert running.stdout.readline() == "up\n"
    return running


def test_a_signal_reaches_the_container(place: Place) -> None:
    script = "trap 'echo got; exit 7' TERM; echo up; while :; do sleep 0.1; done"
    running = run_until_up(place, script)
    running.send_signal(signal.SIGTERM)
    assert running.communicate(timeout=WITHIN_S)[0] == "got\n"
    assert running.returncode == 7


def test_a_third_signal_kills_what_ignores_them(place: Place) -> None:
    # Each signal is told by the container, so that none is merged with the one before.
    script = "trap 'echo no' INT; echo up; while :; do sleep 0.1; done"
    running = run_until_up(place, script)
    assert running.stdout is not None
    for _ in range(2):
        running.send_signal(signal.SIGINT)
        assert running.stdout.readline() == "no\n"
    running.send_signal(signal.SIGINT)
    running.communicate(timeout=WITHIN_S)
    assert running.returncode == 137
    assert place.node.slipway("pods", "-o", "json").stdout.strip() == "[]"


def test_logs_follow_to_the_end(place: Place) -> None:
    script = "trap 'echo bye; exit 9' TERM; echo one; echo two; echo up; while :; do sleep 0.1; done"
    assert place.node.slipway("run", "-d", "--name", "told", place.image, "sh", "-c", script).returncode == 0
    words = place.words("logs", "-f", "--tail", "3", "told")
    following = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert following.stdout is not None
    assert [following.stdout.readline() for _ in range(3)] == ["one\n", "two\n", "up\n"]
    assert place.node.slipway("stop", "told").returncode == 0
    assert following.communicate(timeout=WITHIN_S)[0] == "bye\n"
    assert "Exited (9)" in place.node.slipway("ps", "-a").stdout
    assert place.node.slipway("rm", "told").returncode == 0


def test_a_failed_run_leaves_nothing(place: Place) -> None:
    failed = place.node.slipway("run", "--handler", "nope", place.image)
    assert (failed.returncode, "nope" in failed.stderr) == (125, True)
    assert place.node.slipway("pods", "-o", "json").stdout.strip() == "[]"
    assert list((place.node.data_dir / "logs").iterdir()) == []


def test_the_first_interrupt_ends_a_copy_from_standard_input(place: Place) -> None:
    assert place.node.slipway("run", "-d", "--name", "taker", place.image, "sleep", "1000").returncode == 0
    screen = Screen(place.words("cp", "-", "taker:/tmp"))
    call = Path(f"/proc/{screen.pid}/syscall")
    eventually(lambda: call.read_text().split()[1:2] == ["0x0"], what="a read of standard input")
    screen.type(b"\x03")
    assert screen.end() == 130
    assert place.node.slipway("rm", "-f", "taker").returncode == 0
