"""The CRI log format, against a plain description of it."""

import os
import re
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shimd.shim.crilog import CriLog
from tests.support.pace import SLOWNESS

RECORD = re.compile(rb"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z) (stdout|stderr) ([PF]) (.*)\n", re.DOTALL)


def records(path: Path) -> list[tuple[bytes, bytes, bytes]]:
    found = []
    for line in path.read_bytes().splitlines(keepends=True):
        match = RECORD.fullmatch(line)
        assert match, line
        _at, stream, tag, text = match.groups()
        found.append((stream, tag, text))
    return found


def expected(text: bytes, bound: int) -> list[tuple[bytes, bytes, bytes]]:
    found = []
    *lines, tail = text.split(b"\n")
    for line in lines:
        rest = line
        while len(rest) > bound:
            found.append((b"stdout", b"P", rest[:bound]))
            rest = rest[bound:]
        found.append((b"stdout", b"F", rest))
    while tail:
        found.append((b"stdout", b"P", tail[:bound]))
        tail = tail[bound:]
    return found


@given(
    chunks=st.lists(st.text(alphabet="ab\n", max_size=40).map(str.encode), max_size=8),
    bound=st.integers(min_value=1, max_value=12),
)
def test_any_chunks_give_the_records_of_the_whole(
    tmp_path_factory: pytest.TempPathFactory, chunks: list[bytes], bound: int
) -> None:
    path = tmp_path_factory.mktemp("log") / "log"
    log = CriLog(str(path), bound)
    log.reopen()
    for chunk in chunks:
        log.write(1, chunk)
    log.flush()
    log.close()
    assert records(path) == expected(b"".join(chunks), bound)
    assert log.written_bytes == path.stat().st_size


def test_streams_do_not_mix_within_a_line(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = CriLog(str(path))
    log.reopen()
    log.write(1, b"out")
    log.write(2, b"err\n")
    log.write(1, b"put\n")
    log.close()
    assert records(path) == [(b"stderr", b"F", b"err"), (b"stdout", b"F", b"output")]


def test_file_is_there_without_output_and_not_for_the_world(tmp_path: Path) -> None:
    path = tmp_path / "log"
    old = os.umask(0o022)
    try:
        CriLog(str(path)).reopen()
    finally:
        os.umask(old)
    assert path.stat().st_mode & 0o777 == 0o640


def test_full_disk_drops_and_counts_and_tears_no_record(tmp_path: Path) -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full")
    log = CriLog(str(tmp_path / "log"))
    log.reopen()
    with open("/dev/full", "wb") as full:
        os.dup2(full.fileno(), log._fd)
    log.write(1, b"lost\n" * 10)
    assert log.dropped_bytes > 0
    assert log.written_bytes == 0
    log.close()


def test_lines_of_100_bytes_go_at_100_megabytes_a_second(tmp_path: Path) -> None:
    log = CriLog(str(tmp_path / "log"))
    log.reopen()
    chunk = (b"x" * 99 + b"\n") * 2621
    best = 0.0
    for _ in range(5):
        begin = time.perf_counter()
        for _ in range(40):
            log.write(1, chunk)
        best = max(best, 40 * len(chunk) / (time.perf_counter() - begin) / 1e6)
        os.truncate(log.path, 0)
    log.close()
    assert best > 100 / SLOWNESS, f"{best:.0f} MB/s"


@pytest.mark.parametrize("read", [False, True])
def test_a_pipe_in_the_place_of_the_log_is_refused_and_the_old_file_written_on(
    tmp_path: Path, read: bool
) -> None:
    path = tmp_path / "log"
    log = CriLog(str(path))
    log.reopen()
    path.rename(tmp_path / "log.1")
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK) if read else -1
    with pytest.raises(OSError, match="is no regular file"):
        log.reopen()
    log.write(1, b"on\n")
    log.close()
    assert [text for _, _, text in records(tmp_path / "log.1")] == [b"on"]
    if read:
        os.close(reader)
