"""Counting what a container wrote, however deep."""

import errno
import gc
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from snapshotd.settings import Settings
from snapshotd.usage import UsageCache, measure, pause_s

pytestmark = pytest.mark.anyio
SIZE_BYTES = 4096


@pytest.mark.parametrize("took_s", [0.001, 0.1, 1, 1.6])
def test_what_is_told_is_no_older_than_ten_seconds(took_s: float) -> None:
    """What was written just after it was counted is told when the next count has ended."""
    assert took_s + pause_s(Settings().usage_interval_s, took_s) + took_s <= 10
    assert pause_s(Settings().usage_interval_s, took_s) >= 4 * took_s


def comb(root: Path, depth: int, name: str) -> None:
    """Directories in one another, each with a file, and a directory with a file on either side of the next."""
    here = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(depth):
        for other in ("a", "z"):
            os.mkdir(other, dir_fd=here)
        os.mkdir(name, dir_fd=here)
        for file in ("file", "a/file", "z/file"):
            fd = os.open(file, os.O_WRONLY | os.O_CREAT, dir_fd=here)
            os.write(fd, bytes(SIZE_BYTES))
            os.close(fd)
        inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=here)
        os.close(here)
        here = inner
    os.close(here)


def counted(root: Path, *how: str) -> int:
    """What du says."""
    return int(subprocess.check_output(["du", "-s", *how, root], timeout=60).split()[0])


@pytest.mark.parametrize(("depth", "name"), [(3, "n"), (40, "n" * 250), (1000, "n")])
def test_no_path_is_too_long_to_be_counted(tmp_path: Path, depth: int, name: str) -> None:
    try:
        comb(tmp_path, depth, name)
        gc.collect()
        open_before = len(os.listdir("/proc/self/fd"))
        assert measure(tmp_path) == (counted(tmp_path, "-B1"), counted(tmp_path, "--inodes"))
        assert len(os.listdir("/proc/self/fd")) <= open_before
    finally:
        # pytest itself does not come down there
        subprocess.run(["rm", "-rf", tmp_path], check=True, timeout=60)


def test_a_file_with_several_names_counts_once(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "a").write_bytes(bytes(1 << 20))
    os.link(tmp_path / "a", tmp_path / "inner/b")
    assert measure(tmp_path) == (counted(tmp_path, "-B1"), 3)


async def test_of_a_damaged_file_system_is_counted_what_can_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scandir = os.scandir
    for name in ("bad", "good"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_bytes(bytes(SIZE_BYTES))
    whole, bad = counted(tmp_path, "-B1"), (tmp_path / "bad").stat().st_ino

    def unwilling(fd: int) -> Any:
        if os.fstat(fd).st_ino == bad:
            raise OSError(errno.EUCLEAN, "structure needs cleaning")
        return scandir(fd)

    cache = UsageCache(1, lambda: {"key": (tmp_path, (0, 0))})
    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", unwilling)
        await cache.refresh()
    assert (await cache.get(["key"]))["key"][:2] == (whole - SIZE_BYTES, 4)


async def test_what_cannot_be_counted_now_has_the_use_that_was_found_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = os.open

    def stale(path: Any, *rest: Any, **named: Any) -> int:
        if path == tmp_path:
            raise OSError(errno.ESTALE, "stale file handle")
        return opened(path, *rest, **named)

    cache = UsageCache(1, lambda: {"key": (tmp_path, (0, 0))})
    await cache.refresh()
    before = cache.total()
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", stale)
        await cache.refresh()
    assert cache.total() == before
