"""Signals as people write them: names and numbers, real-time ones too."""

import re
import signal

from common.api.cri.v1 import api_pb2 as cri
from common.errors import InvalidArgumentError

_REAL_TIME = re.compile(r"RT(?:MIN(?:\+|PLUS)|MAX(?:-|MINUS))(\d{1,2})", re.ASCII)
"""As docker and as Kubernetes have them."""
_LAST_FROM_MIN = 15
"""CRI counts these from SIGRTMIN, and those above from SIGRTMAX."""


def signal_number(text: str, option: str = "--signal") -> int:
    """The signal of this name, with or without SIG, or number.

    Raises:
        InvalidArgumentError: there is none; with the option's name.
    """
    word = text.upper().removeprefix("SIG")
    if word.isascii() and word.isdecimal() and 0 < int(word[:9]) <= signal.SIGRTMAX:
        return int(word)
    found: int | None = signal.Signals.__members__.get(f"SIG{word}")
    if match := _REAL_TIME.fullmatch(word):
        away = int(match[1])
        found = signal.SIGRTMIN + away if word.startswith("RTMIN") else signal.SIGRTMAX - away
    if found is None or found > signal.SIGRTMAX or (match and found < signal.SIGRTMIN):
        message = f"{option} {text!r}: want a name such as TERM, or a number up to {int(signal.SIGRTMAX)}"
        raise InvalidArgumentError(message)
    return int(found)


def stop_signal(text: str) -> cri.Signal.ValueType:
    """CRI's word for what --stop-signal names.

    Raises:
        InvalidArgumentError: there is no such signal.
    """
    if not text:
        return cri.SIGNAL_RUNTIME_DEFAULT
    name = f"SIGNAL_{_cri_name(signal_number(text, '--stop-signal'))}"
    if name not in cri.Signal.keys():  # noqa: SIM118 - an enum of protobuf, no table
        message = f"--stop-signal {text!r}: a container cannot be stopped by it"
        raise InvalidArgumentError(message)
    return cri.Signal.Value(name)


def _cri_name(number: int) -> str:
    """SIGTERM for 15, SIGRTMINPLUS3 for 37; empty for what has no name."""
    if signal.SIGRTMIN < number <= signal.SIGRTMIN + _LAST_FROM_MIN:
        return f"SIGRTMINPLUS{number - signal.SIGRTMIN}"
    if signal.SIGRTMIN < number < signal.SIGRTMAX:
        return f"SIGRTMAXMINUS{signal.SIGRTMAX - number}"
    names = {int(one): one.name for one in signal.Signals}
    return names.get(number, "")
