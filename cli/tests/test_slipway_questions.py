"""Questions of the command on a terminal: Ctrl-C ends them at once, and so does the end of the input."""

import os
import pty
import select
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.eventually import eventually

SLIPWAY = str(Path(sys.executable).parent / "slipway")
WITHIN_S = 30
USER, PASSWORD, AGREED = b"Username: ", b"Password: ", b"Go on? [y/N] "
LOGIN = ("login", "reg.example")


def answered(words: tuple[str, ...], run_dir: Path, *answers: tuple[bytes, bytes]) -> tuple[int, str]:
    """The exit code of a command, and what it said after the last of its questions, each with its answer."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(SLIPWAY, [SLIPWAY, "--run-dir", str(run_dir), *words])  # noqa: S606 - a terminal of its own
    shown, left = b"", list(answers)
    while select.select([terminal], [], [], WITHIN_S)[0]:
        try:
            shown += os.read(terminal, 1000)
        except OSError:  # EIO: it has ended
            break
        if left and shown.endswith(left[0][0]):
            os.write(terminal, left.pop(0)[1])
            shown = b""
    else:
        os.kill(pid, 9)
    _, status = os.waitpid(pid, 0)
    os.close(terminal)
    return os.waitstatus_to_exitcode(status), shown.decode()


@pytest.mark.parametrize(
    ("words", "answers"),
    [
        (LOGIN, [(USER, b"\x03")]),
        (LOGIN, [(USER, b"me\n"), (PASSWORD, b"\x03")]),
        (("system", "prune"), [(AGREED, b"\x03")]),
    ],
)
def test_the_first_interrupt_ends_a_question(
    words: tuple[str, ...], answers: list[tuple[bytes, bytes]], tmp_path: Path
) -> None:
    code, said = answered(words, tmp_path, *answers)
    assert (code, said.strip("^C\r\n")) == (130, "")


@pytest.mark.parametrize(
    ("words", "answers", "told"),
    [
        (LOGIN, [(USER, b"\x04")], "Username"),
        (LOGIN, [(USER, b"me\n"), (PASSWORD, b"\x04")], "Password"),
        (("system", "prune"), [(AGREED, b"\x04")], "Go on? [y/N]"),
    ],
)
def test_the_end_of_the_input_is_no_answer(
    words: tuple[str, ...], answers: list[tuple[bytes, bytes]], told: str, tmp_path: Path
) -> None:
    code, said = answered(words, tmp_path, *answers)
    assert (code, said.count("\n"), f"{told}: no answer, the input has ended\r\n" in said) == (1, 2, True)


@pytest.mark.parametrize(
    "words",
    [
        (*LOGIN, "-u", "me", "--password-stdin"),
        ("build", "-"),
        ("pods", "run", "-f", "-"),
        ("events", "--decode"),
    ],
)
def test_the_first_interrupt_ends_what_reads_standard_input(words: tuple[str, ...], tmp_path: Path) -> None:
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(SLIPWAY, [SLIPWAY, "--run-dir", str(tmp_path), *words])  # noqa: S606 - a terminal of its own
    try:
        call = Path(f"/proc/{pid}/syscall")
        eventually(lambda: call.read_text().split()[1:2] == ["0x0"], what="a read of standard input")
        os.write(terminal, b"\x03")
        eventually(lambda: os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT), what="the end")
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, 9)
        _, status = os.waitpid(pid, 0)
        os.close(terminal)
    assert os.waitstatus_to_exitcode(status) == 130
