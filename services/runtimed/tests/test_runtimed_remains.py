"""The last lines of a log."""

from pathlib import Path

import pytest

from common.sys.hostroot import HostRoot
from runtimed.use.reports.remains import MAX_LOG_BYTES, last_lines

pytestmark = pytest.mark.anyio

AT = "2026-01-02T03:04:05.000000006Z"


async def last(path: Path, count: int) -> list[str]:
    return await last_lines(str(path), count, HostRoot())


async def test_pieces_of_a_line_are_one_and_what_is_no_record_is_none(tmp_path: Path) -> None:
    log = tmp_path / "0.log"
    log.write_text(
        f"{AT} stdout F first\nroot:hash:1\n{AT} stdout P be\n{AT} stderr F 50%\r100%\n{AT} stdout F gun\n"
    )
    assert await last(log, 9) == ["first", "50%\r100%", "begun"]
    assert await last(log, 1) == ["begun"]
    log.write_text("\n".join(f"no line of a log {n}" for n in range(9)))
    assert await last(log, 9) == []


async def test_only_the_end_of_a_log_is_read(tmp_path: Path) -> None:
    log = tmp_path / "0.log"
    with log.open("w") as file:
        file.truncate(1 << 30)
        file.seek(1 << 30)
        file.writelines(f"{AT} stdout F {'x' * 500} {number}\n" for number in range(300))
    found = await last(log, 200)
    assert len(found) == MAX_LOG_BYTES // len(f"{AT} stdout F {'x' * 500} 299\n")
    assert found[-1].endswith(" 299")


async def test_what_is_no_file_has_no_lines(tmp_path: Path) -> None:
    assert await last(tmp_path, 9) == []
    assert await last(tmp_path / "none", 9) == []
