"""Tables, messages and codes."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.api.cri.v1 import api_pb2 as cri
from common.errors import UnknownError
from slipway import exitcode
from slipway.output import render


@given(st.text())
def test_nothing_that_moves_the_cursor_is_printed(text: str) -> None:
    assert not [c for c in render.clean(text) if unicodedata.category(c).startswith("C")]


def test_a_hostile_name_stays_in_its_cell(capsys: pytest.CaptureFixture[str]) -> None:
    render.table(("NAME", "STATE"), [("a\x1b[2J\nb\u202e", "Running")])
    out = capsys.readouterr().out
    assert out.count("\n") == 2
    assert "\x1b" not in out
    assert "\u202e" not in out


def test_columns_line_up(capsys: pytest.CaptureFixture[str]) -> None:
    render.table(("ID", "NAME"), [("1", "web"), ("12345", "x")])
    assert capsys.readouterr().out == "ID     NAME\n1      web\n12345  x\n"


@pytest.mark.parametrize(("count", "text"), [(0, "0 B"), (999, "999 B"), (1_040_000, "1.04 MB")])
def test_sizes_are_in_powers_of_1000(count: int, text: str) -> None:
    assert render.size(count) == text


def test_a_message_is_shown_with_its_zeros() -> None:
    shown = render.fields(cri.ContainerStatus(id="c"))
    assert (shown["state"], shown["exit_code"]) == ("CONTAINER_CREATED", 0)


def test_an_error_is_one_line() -> None:
    assert render.sentence("a\n  b\x1b[0m") == "a b?[0m"


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("exec: executable file `nosuch` not found in $PATH: No such file or directory", 127),
        ('runc: exec: "/no": stat /no: no such file or directory', 127),
        ("open executable: Permission denied", 126),
        ("exec user process caused: exec format error", 126),
        ("open executable: Operation not permitted", 126),
        ("start: mkdir `/proc/foo`: No such file or directory", 125),
        ("start: mkdir `/sys/foo`: Operation not permitted", 125),
        ("the cgroup is full", 125),
    ],
)
def test_docker_codes_of_what_cannot_run(message: str, code: int) -> None:
    assert exitcode.of_start(UnknownError(message)) == code


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        *((0, "less than a second"), (1, "1 second"), (59, "59 seconds"), (60, "a minute")),
        *((3599, "59 minutes"), (3600, "an hour"), (7200, "2 hours"), (86400 * 6, "6 days")),
        *((86400 * 8, "a week"), (86400 * 70, "2 months"), (86400 * 800, "2 years")),
    ],
)
def test_a_span_is_told_in_words(seconds: int, words: str) -> None:
    assert render.span(5, 5 + seconds * 10**9) == words
