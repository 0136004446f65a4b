"""What is thrown away goes from the disk, however much of it comes at once."""

from pathlib import Path

import anyio
import pytest

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
