"""--filter, and the times of --since and --until."""

import time

import pytest

from common.errors import InvalidArgumentError
from slipway.options import filters
from slipway.options.moments import moment

TESTS: dict[str, filters.Test] = {
    "size": lambda item, value: len(item) == int(value),
    "first": lambda item, value: item[0] == value,
}


@pytest.mark.parametrize(
    ("wishes", "left"),
    [
        ([], ["a", "bb", "ab", "b"]),
        (["size=1"], ["a", "b"]),
        (["first=a", "first=b"], ["a", "bb", "ab", "b"]),
        (["first=a", "size=2"], ["ab"]),
    ],
)
def test_keys_must_all_fit_and_values_of_one_key_are_alternatives(wishes: list[str], left: list[str]) -> None:
    assert filters.chosen(["a", "bb", "ab", "b"], wishes, TESTS) == left


@pytest.mark.parametrize("text", ["colour=red", "size", "=1"])
def test_a_filter_that_is_none_is_refused_with_those_that_are(text: str) -> None:
    with pytest.raises(InvalidArgumentError, match="size, first"):
        filters.chosen([], [text], TESTS)


def test_a_value_that_no_item_can_have_is_refused_with_those_that_it_can() -> None:
    known = {"first": ("a", "b")}
    assert filters.chosen(["a"], ["first=a"], TESTS, known) == ["a"]
    with pytest.raises(InvalidArgumentError, match="'first=c': want one of a, b"):
        filters.chosen([], ["first=c"], TESTS, known)


@pytest.mark.parametrize(
    ("value", "fits"), [("a", True), ("a=1", True), ("a=2", False), ("b", False), ("e", True), ("e=", True)]
)
def test_labels_fit_by_key_or_by_both(value: str, fits: bool) -> None:
    assert filters.has_label({"a": "1", "e": ""}, value) == fits


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("2026-01-31T12:00:00Z", "2026-01-31T12:00:00.000000000"),
        ("2026-01-31T14:00:00.5+02:00", "2026-01-31T12:00:00.500000000"),
        ("1769860800", "2026-01-31T12:00:00.000000000"),
    ],
)
def test_a_time_is_written_as_logs_write_it(text: str, written: str) -> None:
    assert moment("--since", text) == written


@pytest.mark.parametrize("text", ["1h30m", "1.5h", "90m"])
def test_an_age_counts_from_now(text: str) -> None:
    ago = time.gmtime(time.time() - 5400)
    assert moment("--since", text)[:16] in {
        time.strftime("%Y-%m-%dT%H:%M", ago),
        time.strftime("%Y-%m-%dT%H:%M", time.gmtime(time.time() - 5400)),
    }


@pytest.mark.parametrize(
    "text", ["soon", "10", "10x", "-5m", "2026-13-01", "2026-01.5-31", "2026-01-31.5", "99999999999999d"]
)
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgumentError, match="--since"):
        moment("--since", text)


@pytest.mark.parametrize("written", ["2026-01-31T12:00:00.000000001Z", "2026-11-29T22:03:47.095995050Z"])
def test_a_time_of_a_log_is_kept_to_the_nanosecond(written: str) -> None:
    assert moment("--until", written) == written.removesuffix("Z")
