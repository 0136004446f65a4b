"""Durations as people write them."""

import pytest

from common.errors import InvalidArgumentError
from slipway.options import durations


@pytest.mark.parametrize(
    ("text", "expected"), [("90s", 90.0), ("1h30m", 5400.0), ("1.5h", 5400.0), ("7d", 604_800.0), ("0s", 0.0)]
)
def test_whole_numbers_and_fractions_of_units_add_up(text: str, expected: float) -> None:
    assert durations.seconds("--for", text) == expected


@pytest.mark.parametrize("text", ["", "10", "1.h", "h", "-5m", "5m1h", "1e3s", "9999999999s"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgumentError, match="--for: want a time such as 24h"):
        durations.seconds("--for", text)
