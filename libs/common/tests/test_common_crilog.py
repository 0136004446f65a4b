"""Records of a CRI log, and the lines that they make."""

import os
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common import crilog

AT = b"2026-01-02T03:04:05.000000006Z"


def record(text: bytes, *, stream: bytes = b"stdout", tag: bytes = b"F") -> bytes:
    return b" ".join((AT, stream, tag, text)) + b"\n"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (AT + b" stdout F two words", (AT, b"stdout", b"F", b"two words")),
        (AT + b" stderr P piece", (AT, b"stderr", b"P", b"piece")),
        (AT + b" stdout F:tag more", (AT, b"stdout", b"F", b"more")),
        (AT + b" stdout F ", (AT, b"stdout", b"F", b"")),
        (
            b"2026-01-02T03:04:05+01:00 stdout F \r",
            (b"2026-01-02T03:04:05+01:00", b"stdout", b"F", b"\r"),
        ),
    ],
)
def test_a_record_is_a_time_a_stream_a_tag_and_text(line: bytes, expected: tuple[object, ...]) -> None:
    assert list(crilog.records(line + b"\n")) == [expected]


@pytest.mark.parametrize(
    "line",
    [b"", b"root:x:0:0:root:/root:/bin/sh", b"four words of junk", AT + b" stdin F x", AT + b" stdout F"],
)
def test_what_has_another_form_is_left_out(line: bytes) -> None:
    part = record(b"before") + line + b"\n" + record(b"behind")
    assert [r.text for r in crilog.records(part)] == [b"before", b"behind"]


@given(st.lists(st.binary(max_size=40).filter(lambda b: b"\n" not in b), max_size=8))
def test_any_bytes_but_a_newline_survive_a_record(texts: list[bytes]) -> None:
    part = b"".join(record(text, tag=b"P") for text in texts)
    assert b"".join(r.output for r in crilog.records(part)) == b"".join(texts)


def test_records_that_are_torn_at_either_end_are_left_out() -> None:
    part = record(b"one") + record(b"two") + record(b"three")
    assert [r.text for r in crilog.records(part[:-1])] == [b"one", b"two"]
    assert [r.text for r in crilog.records(part[1:], torn=True)] == [b"two", b"three"]
    assert list(crilog.records(part[1:40], torn=True)) == []


def test_pieces_are_lines_of_their_own_stream() -> None:
    part = b"".join(
        (
            record(b"be", tag=b"P"),
            record(b"other", stream=b"stderr"),
            record(b"gun"),
            record(b"open", stream=b"stderr", tag=b"P"),
        )
    )
    found = [(line.stream, line.output) for line in crilog.lines(crilog.records(part))]
    assert found == [(b"stderr", b"other\n"), (b"stdout", b"begun\n"), (b"stderr", b"open")]


def test_a_link_or_a_pipe_is_no_log(tmp_path: Path) -> None:
    path = tmp_path / "0.log"
    secret = tmp_path / "secret"
    secret.write_bytes(record(b"shown"))
    for place in (partial(path.symlink_to, secret), partial(os.mkfifo, path)):
        place()
        with pytest.raises(OSError, match=str(path)):
            crilog.opened(str(path))
        path.unlink()
