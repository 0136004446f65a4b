"""Times that people give: an age, a date, or seconds since 1970."""

import re
import time
from datetime import datetime

from common.errors import InvalidArgumentError
from slipway.options import durations

_FRACTION = re.compile(r"(?<=[T ]\d\d:\d\d:\d\d)[.,](\d+)")


def moment(option: str, text: str) -> str:
    """The time as CRI logs write it, in UTC with nanoseconds, so that texts compare as times do.

    Raises:
        InvalidArgumentError: it is no time.
    """
    return _written(*divmod(moment_ns(option, text), 10**9))


def moment_ns(option: str, text: str) -> int:
    """The time in nanoseconds since 1970; raises as `moment` does."""
    try:
        seconds, nanoseconds = _point(text)
        time.gmtime(seconds)
    except (ValueError, OverflowError, OSError) as exc:  # no date, or one that no calendar has
        message = (
            f"{option} {text!r}: want a time such as 2026-01-31T12:00:00Z, or an age such as 10m or 1h30m"
        )
        raise InvalidArgumentError(message) from exc
    return seconds * 10**9 + nanoseconds


def _point(text: str) -> tuple[int, int]:
    """Seconds since 1970 and nanoseconds.

    Raises:
        ValueError: it is no time.
    """
    if since_1970 := re.fullmatch(r"(\d{9,12})(?:\.(\d+))?", text):
        return int(since_1970[1]), _nanoseconds(since_1970[2])
    if (age_s := durations.parsed(text)) is not None:
        return divmod(time.time_ns() - int(age_s * 10**9), 10**9)
    fraction = _FRACTION.search(text)  # datetime knows no nanoseconds
    if not fraction:
        when = datetime.fromisoformat(text)
        return int(when.timestamp()), when.microsecond * 1000
    when = datetime.fromisoformat(text[: fraction.start()] + text[fraction.end() :])
    return int(when.timestamp()), _nanoseconds(fraction[1])


def _nanoseconds(digits: str | None) -> int:
    """Of the digits behind a decimal point."""
    return int((digits or "").ljust(9, "0")[:9])


def _written(seconds: int, nanoseconds: int) -> str:
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{nanoseconds:09d}"
