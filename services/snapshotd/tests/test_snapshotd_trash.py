"""What is thrown away goes from the disk, however much of it comes at once."""

import errno
import os
import subprocess
from pathlib import Path
from typing import Any

import anyio
import pytest

from snapshotd.adapters import trash as trashes
from snapshotd.adapters.trash import Trash

pytestmark = pytest.mark.anyio


async def test_nothing_stays_of_many_directories_that_are_thrown_at_once(tmp_path: Path) -> None:
    directories = [tmp_path / f"thrown-{number}" for number in range(1500)]
    for directory in directories:
        directory.mkdir()
    async with anyio.create_task_group() as group:
        trash = Trash(tmp_path / "trash", group)
        async with anyio.create_task_group() as throwing:
            for directory in directories:
                throwing.start_soon(trash.throw, directory)
        assert not any(directory.exists() for directory in directories)
    # the group has waited for the removals
    assert list((tmp_path / "trash").iterdir()) == []


async def test_what_is_thrown_while_no_process_can_be_had_goes_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_process, failures = anyio.run_process, [errno.EAGAIN, errno.ENOMEM]

    async def unwilling(*args: Any, **options: Any) -> subprocess.CompletedProcess[bytes]:
        if failures:
            raise OSError(number := failures.pop(), os.strerror(number))
        return await run_process(*args, **options)

    (tmp_path / "thrown").mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(anyio, "run_process", unwilling)
        patch.setattr(trashes, "AGAIN_S", 0.01)
        async with anyio.create_task_group() as group:
            await Trash(tmp_path / "trash", group).throw(tmp_path / "thrown")
    assert list((tmp_path / "trash").iterdir()) == []
