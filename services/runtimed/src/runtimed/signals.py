"""Signals by the names that images and CRI use."""

import signal

from common.api.cri.v1 import api_pb2 as cri
from common.errors import InvalidArgumentError

DEFAULT = int(signal.SIGTERM)
SIGKILL = int(signal.SIGKILL)
# glibc keeps the first two real-time signals for itself; container tools count from 34 as the kubelet does.
RTMIN, RTMAX = 34, 64
ALL = frozenset(map(int, signal.valid_signals()))
MAX_DIGITS = 3
_ALIASES = {"CLD": "CHLD", "POLL": "IO", "IOT": "ABRT"}


def number(name: str) -> int | None:
    """The number of `SIGTERM`, `term`, `15`, `RTMIN+3`; None when there is no such signal."""
    text = name.strip().upper().removeprefix("SIG")
    if text.isdecimal():
        return int(text) if len(text) <= MAX_DIGITS and int(text) in ALL else None
    for base, sign in (("RTMIN", 1), ("RTMAX", -1)):
        if text.startswith(base):
            rest = text[len(base) :].lstrip("+-") or "0"
            countable = rest.isdecimal() and len(rest) <= MAX_DIGITS
            found = (RTMIN if sign > 0 else RTMAX) + sign * int(rest) if countable else 0
            return found if RTMIN <= found <= RTMAX else None
    known = signal.Signals.__members__.get(f"SIG{_ALIASES.get(text, text)}")
    return int(known) if known else None


def from_cri(value: int) -> int | None:
    """The number of a CRI Signal; None for the default.

    Raises:
        InvalidArgumentError: CRI has no such signal.
    """
    if not value:
        return None
    if value not in cri.Signal.values():
        raise InvalidArgumentError(f"stop_signal: {value} is no signal of CRI")
    name = cri.Signal.Name(cri.Signal.ValueType(value)).removeprefix("SIGNAL_")
    return number(name.replace("PLUS", "+").replace("MINUS", "-"))


def name(signal_number: int) -> str:
    """SIGTERM for 15, SIGRTMIN+3 for 37; "signal 32" for what is none."""
    if signal_number not in ALL:
        return f"signal {signal_number}"
    if signal_number > RTMIN:
        return f"SIGRTMIN+{signal_number - RTMIN}"
    return signal.Signals(signal_number).name


def to_cri(signal_number: int) -> int:
    """The CRI Signal of a number."""
    return _BY_NUMBER.get(signal_number, cri.SIGNAL_SIGTERM)


_BY_NUMBER: dict[int, int] = {}
for _value in cri.Signal.values():
    _number = from_cri(_value)
    if _number:
        _BY_NUMBER.setdefault(_number, _value)
