"""Signals as people write them."""

import pytest

from common.errors import InvalidArgumentError
from slipway.commands.signals import signal_number


@pytest.mark.parametrize(("text", "number"), [("KILL", 9), ("SIGTERM", 15), ("usr1", 10), ("34", 34)])
def test_a_signal_has_a_name_or_a_number(text: str, number: int) -> None:
    assert signal_number(text) == number


@pytest.mark.parametrize("text", ["", "NOSUCH", "0", "-1", "65", "9" * 30, "٩"])
def test_a_wrong_signal_is_named(text: str) -> None:
    with pytest.raises(InvalidArgumentError, match="--signal"):
        signal_number(text)
