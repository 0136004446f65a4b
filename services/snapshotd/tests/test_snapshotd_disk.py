"""What a disk that fails while it is written out says to those who wait for it."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from common.sys import linux
from snapshotd.disk import DiskSync

pytestmark = [pytest.mark.root, pytest.mark.integration, pytest.mark.anyio]


@pytest.fixture
def smaller_than_it_says(tmp_path: Path) -> Iterator[Path]:
    """A filesystem of 64 MiB on a disk that takes no more than 8: the kernel finds out when it writes pages out."""
    below, disk = tmp_path / "below", tmp_path / "disk"
    below.mkdir()
    disk.mkdir()
    linux.mount("tmpfs", str(below), "tmpfs", data="size=8m")
    try:
        image = below / "image"
        with image.open("wb") as file:
            file.truncate(64 << 20)
        subprocess.run(["mkfs.ext4", "-q", "-O", "^has_journal", str(image)], check=True, timeout=60)
        if subprocess.run(["mount", "-o", "loop", str(image), str(disk)], check=False, timeout=60).returncode:
            pytest.skip("no loop device")
        try:
            yield disk
        finally:
            linux.umount(str(disk))
    finally:
        linux.umount(str(below), linux.MNT_DETACH)  # the loop device lets go of its file a little later


async def test_a_failure_is_told_to_all_who_waited_and_to_nobody_later(smaller_than_it_says: Path) -> None:
    disk = DiskSync(smaller_than_it_says, enabled=True)
    (smaller_than_it_says / "file").write_bytes(os.urandom(16 << 20))
    told: list[int | None] = []

    async def sync() -> None:
        try:
            await disk.sync()
        except OSError as exc:
            told.append(exc.errno)

    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(sync)
    assert len(told) == 3
    grown = f"remount,size={64 << 20}"
    subprocess.run(
        ["mount", "-o", grown, str(smaller_than_it_says.with_name("below"))], check=True, timeout=60
    )
    (smaller_than_it_says / "file").write_bytes(os.urandom(16 << 20))
    await disk.sync()
