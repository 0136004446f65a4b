"""The program of an OCI runtime is run from a sealed copy, so that it need not make one itself."""

import os
import shutil
import sys
from pathlib import Path

import pytest

from shimd.shim import mountns

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def _run(argv: list[str], **env: str) -> tuple[int, str]:
    """Exit code and output of a command that is run as a shim runs its runtime."""
    said, say = os.pipe2(os.O_CLOEXEC)
    try:
        pid = mountns.spawn(argv, {"PATH": _PATH, **env}, [0, say, say])
    finally:
        os.close(say)
    with os.fdopen(said) as output:
        text = output.read()
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), text


def test_a_small_program_is_run_from_memory() -> None:
    code, text = _run(["readlink", "/proc/self/exe"])
    assert (code, text) == (0, "/memfd:readlink (deleted)\n")


def test_a_large_program_is_run_from_its_file() -> None:
    program = os.path.realpath(sys.executable)
    code, text = _run([program, "-c", "import os; print(os.readlink('/proc/self/exe'))"])
    assert (code, text) == (0, f"{program}\n")


def test_a_script_is_run_from_its_file(tmp_path: Path) -> None:
    script = tmp_path / "runtime"
    script.write_text('#!/bin/sh\necho "$0 $1"\n')
    script.chmod(0o755)
    assert _run([str(script), "create"]) == (0, f"{script} create\n")


@pytest.mark.parametrize("name", ["no-such-runtime", "/no/such/runtime", "/etc/passwd", "/etc"])
def test_what_cannot_be_run_is_an_error(name: str) -> None:
    with pytest.raises(OSError, match=r"No such file|Permission denied"):
        _run([name])


def test_what_nobody_may_run_is_not_run_from_a_copy_either(tmp_path: Path) -> None:
    program = tmp_path / "runtime"
    shutil.copyfile("/bin/true", program)
    with pytest.raises(OSError, match="Permission denied"):
        _run([str(program)])


def test_a_pipe_of_that_name_holds_up_nobody(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "runtime", 0o755)
    with pytest.raises(OSError, match="Permission denied"):
        _run([str(tmp_path / "runtime")])


@pytest.mark.skipif(shutil.which("crun") is None, reason="crun is not installed")
def test_crun_makes_no_copy_of_its_own(tmp_path: Path) -> None:
    copies = tmp_path / "copies"
    copies.mkdir()
    before = copies.stat().st_mtime_ns
    code, text = _run(
        ["crun", "--root", str(tmp_path / "root"), "state", "nobody"], _LIBCONTAINER_STATEDIR=str(copies)
    )
    assert code == 1
    assert "nobody" in text
    assert copies.stat().st_mtime_ns == before, "crun has mounted itself on a file here"
