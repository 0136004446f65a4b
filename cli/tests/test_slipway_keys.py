"""Detach keys as docker writes them, and as people type them."""

import pytest

from common.errors import InvalidArgumentError
from slipway.streams import terminal


@pytest.mark.parametrize(
    ("text", "keys"),
    [("ctrl-p,ctrl-q", b"\x10\x11"), ("ctrl-],x", b"\x1dx"), ("ctrl-@", b"\x00"), ("", b""), ("a", b"a")],
)
def test_keys_have_dockers_notation(text: str, keys: bytes) -> None:
    assert terminal.detach_keys(text) == keys


@pytest.mark.parametrize("text", ["ctrl-", "ctrl-é", "ctrl-pp", "pq", "ctrl-1", "\x10"])
def test_what_is_no_key_is_named(text: str) -> None:
    with pytest.raises(InvalidArgumentError, match="--detach-keys"):
        terminal.detach_keys(text)


@pytest.mark.parametrize(
    ("typed", "passed", "found"),
    [
        ([b"\x10", b"\x11"], b"", True),  # two keys, as a person types them
        ([b"ab\x10\x11cd"], b"ab", True),
        ([b"\x10", b"x"], b"\x10x", False),
        ([b"\x10\x10", b"\x11"], b"\x10", True),
        ([b"\x11\x10"], b"\x11", False),
    ],
)
def test_keys_are_found_however_they_come(typed: list[bytes], passed: bytes, found: bool) -> None:
    watch = terminal.DetachKeys(b"\x10\x11")
    got, left = b"", False
    for data in typed:
        part, left = watch.split(data)
        got += part
    assert (got, left) == (passed, found)
