"""Zygotes of one node that are there at once: one whose shimd was killed is still at its rehearsal when the next begins."""

import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from shimd.adapters.zygote_process import ZygoteProcess
from tests.support.pace import patience

pytestmark = [pytest.mark.root, pytest.mark.anyio]
READY_S = patience(15)


@asynccontextmanager
async def zygotes(run_dir: Path, count: int) -> AsyncIterator[list[ZygoteProcess]]:
    made = [ZygoteProcess(run_dir=run_dir, cgroups=[]) for _ in range(count)]
    async with anyio.create_task_group() as group:
        for zygote in made:
            group.start_soon(zygote.run)
        yield made
        for zygote in made:
            await zygote.close()
        group.cancel_scope.cancel()


def scratches(run_dir: Path) -> list[Path]:
    return list(run_dir.glob("rehearsal*"))


async def until_ready(zygote: ZygoteProcess) -> None:
    with anyio.fail_after(READY_S):
        while not zygote.pid:
            await anyio.sleep(0.01)


async def test_they_do_not_meet(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    async with zygotes(tmp_path, 3) as made:
        for zygote in made:
            await until_ready(zygote)
    said = capfd.readouterr().err
    assert "Traceback" not in said
    assert "rehearsal" not in said
    assert scratches(tmp_path) == []


async def test_what_a_killed_one_left_goes_with_the_next(tmp_path: Path) -> None:
    async with zygotes(tmp_path, 1) as [zygote]:
        with anyio.fail_after(READY_S):
            while not scratches(tmp_path):
                await anyio.sleep(0.001)
        [left] = scratches(tmp_path)
        os.kill(int(left.name.rpartition("-")[2]), signal.SIGKILL)
        await until_ready(zygote)
    assert scratches(tmp_path) == []
