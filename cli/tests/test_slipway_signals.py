"""Signals as people write them."""

import pytest

from common.api.cri.v1 import api_pb2 as cri
from common.errors import InvalidArgumentError
from slipway.options.signals import signal_number, stop_signal


@pytest.mark.parametrize(
    ("text", "number"),
    [("KILL", 9), ("SIGTERM", 15), ("usr1", 10), ("34", 34), ("SIGRTMIN+3", 37), ("rtmax-1", 63)],
)
def test_a_signal_has_a_name_or_a_number(text: str, number: int) -> None:
    assert signal_number(text) == number


@pytest.mark.parametrize(
    "text", ["", "NOSUCH", "0", "-1", "65", "9" * 30, "٩", "RTMIN+31", "RTMAX-31", "RTMIN-1"]
)
def test_a_wrong_signal_is_named(text: str) -> None:
    with pytest.raises(InvalidArgumentError, match="--signal"):
        signal_number(text)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("", "SIGNAL_RUNTIME_DEFAULT"),
        ("quit", "SIGNAL_SIGQUIT"),
        ("3", "SIGNAL_SIGQUIT"),
        ("16", "SIGNAL_SIGSTKFLT"),
        ("SIGRTMIN", "SIGNAL_SIGRTMIN"),
        ("SIGRTMIN+3", "SIGNAL_SIGRTMINPLUS3"),
        ("RTMIN+15", "SIGNAL_SIGRTMINPLUS15"),
        ("50", "SIGNAL_SIGRTMAXMINUS14"),
        ("SIGRTMINPLUS3", "SIGNAL_SIGRTMINPLUS3"),
        ("rtmaxminus1", "SIGNAL_SIGRTMAXMINUS1"),
        ("RTMAX", "SIGNAL_SIGRTMAX"),
    ],
)
def test_a_container_is_stopped_by_any_signal_as_docker_names_it(text: str, name: str) -> None:
    assert cri.Signal.Name(stop_signal(text)) == name


@pytest.mark.parametrize("text", ["NOSUCH", "33", "SIGRTMIN+99"])
def test_a_wrong_stop_signal_is_named(text: str) -> None:
    with pytest.raises(InvalidArgumentError, match="--stop-signal"):
        stop_signal(text)
