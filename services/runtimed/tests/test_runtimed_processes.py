"""Processes by pid and start time."""

import errno
import os
import subprocess

import anyio
import pytest

from runtimed import processes
from tests.support.pace import patience

pytestmark = pytest.mark.anyio


async def test_no_descriptor_left_is_no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    child = subprocess.Popen(["sleep", "1000"])
    ticks = processes.started_ticks(child.pid)

    def full(_pid: int) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(os, "pidfd_open", full)
    monkeypatch.setattr(processes, "POLL_S", 0.01)
    try:
        with anyio.move_on_after(0.3) as waiting:
            await processes.ended(child.pid, ticks)
        assert waiting.cancelled_caught, "it still runs"
        child.kill()
        with anyio.fail_after(patience(10)):
            await processes.ended(child.pid, ticks)
    finally:
        child.kill()
        child.wait()
