"""Times that people give: an age, a date, or seconds since 1970."""

import re
import time
from datetime import datetime

from common.errors import InvalidArgumentError

_AGE = re.compile(r"(?=\d)(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s)?")
_UNITS_S = (86_400, 3600, 60, 1)


def moment(option: str, text: str) -> str:
    """The time as CRI logs write it, in UTC with nanoseconds, so that texts compare as times do.

    Raises:
        InvalidArgumentError: it is no time.
    """
    if re.fullmatch(r"\d{9,12}(\.\d+)?", text):
        return _written(float(text))
    if age := _AGE.fullmatch(text):
        seconds = sum(float(part or 0) * unit for part, unit in zip(age.groups(), _UNITS_S, strict=True))
        return _written(time.time() - seconds)
    try:
        when = datetime.fromisoformat(text)
    except ValueError as exc:
        message = (
            f"{option} {text!r}: want a time such as 2026-01-31T12:00:00Z, or an age such as 10m or 1h30m"
        )
        raise InvalidArgumentError(message) from exc
    return _written(when.timestamp())


def _written(seconds: float) -> str:
    whole, fraction = divmod(seconds, 1)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(whole))}.{int(fraction * 1e9):09d}"
