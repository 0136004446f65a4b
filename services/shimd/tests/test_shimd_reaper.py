"""The reaper's rare ways: a process that is nobody's child here, or that ended before it was asked for."""

import signal
import subprocess
import sys

import pytest

CODE = """
import os, signal, sys
signal.signal(signal.SIGCHLD, lambda *_: None)
from shimd.shim.loop import Loop, Reaper, exit_code
loop = Loop()
reaper = Reaper(loop, None)
seen = []
def ended(status, at_ns):
    seen.append(exit_code(status))
    loop.stopped = True
{act}
loop.after(15, lambda: setattr(loop, "stopped", True))
loop.run()
print(seen)
"""
LATE = """import ctypes
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # orphans become ours
told, tell = os.pipe()
script = "import os, time; os.write(3, b'%d' % os.posix_spawn('/bin/sh', ['sh', '-c', 'exit 6'], dict())); time.sleep(2.5)"
command = [sys.executable, "-c", script]
os.posix_spawn(sys.executable, command, {}, file_actions=[(os.POSIX_SPAWN_DUP2, tell, 3)])
pid = int(os.read(told, 99))
reaper.watch(pid, ended)
"""
"""A process whose parent outlives it for longer than a moment, and does not wait for it."""
SPAWN = "pid = os.posix_spawn('/bin/sh', ['sh', '-c', {script!r}], {{}})\n"


@pytest.mark.parametrize(
    ("act", "expected"),
    [
        (SPAWN.format(script="exit 3") + "reaper.watch(pid, ended)", [(3, 0)]),
        (SPAWN.format(script="kill -9 $$") + "reaper.watch(pid, ended)", [(128 + signal.SIGKILL, 9)]),
        (
            SPAWN.format(script="exit 4")
            + "reaper.expecting = 1\nos.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)\nreaper._collect()\n"
            + "reaper.watch(pid, ended)",
            [(4, 0)],
        ),
        (SPAWN.format(script="exit 5") + "os.waitpid(pid, 0)\nreaper.watch(pid, ended)", [(255, 0)]),
        (LATE, [(6, 0)]),
    ],
)
def test_each_end_is_told_once(act: str, expected: list[tuple[int, int]]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CODE.format(act=act)], capture_output=True, text=True, timeout=20, check=True
    )
    assert done.stdout.strip() == repr(expected)
