"""Durations as people write them: 90s, 24h, 7d, 1h30m, 1.5h."""

import re

from common.errors import InvalidArgumentError

_NUMBER = r"(\d{1,9}(?:\.\d{1,9})?)"
_DURATION = re.compile(rf"(?=\d)(?:{_NUMBER}d)?(?:{_NUMBER}h)?(?:{_NUMBER}m)?(?:{_NUMBER}s)?")
_UNITS_S = (86_400, 3600, 60, 1)


def parsed(text: str) -> float | None:
    """A duration in seconds, None when it is none."""
    found = _DURATION.fullmatch(text)
    if not found:
        return None
    return sum(float(part or 0) * unit for part, unit in zip(found.groups(), _UNITS_S, strict=True))


def seconds(what: str, text: str) -> float:
    """A duration in seconds.

    Raises:
        InvalidArgumentError: it is none; the message begins with `what`.
    """
    found = parsed(text)
    if found is None:
        message = f"{what}: want a time such as 24h or 7d"
        raise InvalidArgumentError(message)
    return found
