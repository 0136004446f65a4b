"""Reading a CRI log, whole records only, across rotations."""

import os
from functools import partial
from pathlib import Path

import pytest

from common import crilog
from slipway.output import logfile

AT = b"2026-01-02T03:04:05.000000006Z"


def record(text: bytes, *, stream: bytes = b"stdout", tag: bytes = b"F") -> bytes:
    return b" ".join((AT, stream, tag, text)) + b"\n"


def read(log: logfile.LogFile) -> list[bytes]:
    return [found.text for found in log.records()]


def parse(line: bytes) -> crilog.Record:
    (found,) = crilog.records(line)
    return found


def test_records_come_once_and_only_whole(tmp_path: Path) -> None:
    path = tmp_path / "0.log"
    log = logfile.LogFile(str(path))
    assert read(log) == []
    path.write_bytes(record(b"one") + record(b"two")[:-3])
    assert read(log) == [b"one"]
    with path.open("ab") as file:
        file.write(record(b"two")[-3:])
    assert read(log) == [b"two"]
    assert read(log) == []


def test_a_rotation_loses_nothing_on_either_side(tmp_path: Path) -> None:
    path = tmp_path / "0.log"
    path.write_bytes(record(b"1"))
    log = logfile.LogFile(str(path))
    assert read(log) == [b"1"]
    with path.open("ab") as file:
        file.write(record(b"2"))
        path.rename(tmp_path / "0.log.1")
        file.write(record(b"3"))
    assert read(log) == [b"2", b"3"]
    path.write_bytes(record(b"4"))
    assert read(log) == [b"4"]


def test_output_is_the_containers_bytes(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    for piece in (record(b"par", tag=b"P"), record(b"tial"), record(b"oops", stream=b"stderr")):
        logfile.show(parse(piece))
    logfile.show(parse(record(b"end", tag=b"P")), timestamps=True)
    logfile.flush()
    out, err = capfdbinary.readouterr()
    assert out == b"partial\n" + AT + b" end"
    assert err == b"oops\n"


def test_a_link_or_a_pipe_in_its_place_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "0.log"
    for place in (partial(path.symlink_to, "/etc/hostname"), partial(os.mkfifo, path)):
        place()
        with pytest.raises(OSError, match=r"0\.log"):
            read(logfile.LogFile(str(path)))
        path.unlink()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (b"plain \xc3\xa9\ttext\n", "plain é\ttext\n".encode()),
        (b"\x1b[1;31mred\x1b[0m\r\n", b"\x1b[1;31mred\x1b[0m\r\n"),
        (b"\x1b]0;t\x07\x1b[2J\x7f", b"^[]0;t^G^[[2J^?"),
        (b"50%\r100%\n", b"50%^M100%\n"),
        ("\x9b31m\u202e".encode(), b"\\u009b31m\\u202e"),
        (b"\x9b\xff\n", b"\\x9b\\xff\n"),
    ],
)
def test_a_terminal_gets_colours_and_no_commands(text: bytes, shown: bytes) -> None:
    assert logfile.harmless(text) == shown
