"""Spans of time as people write them: 90s, 24h, 7d, 1h30m."""

import re

from common.errors import InvalidArgumentError

_SPAN = re.compile(r"(?:(\d{1,9})d)?(?:(\d{1,9})h)?(?:(\d{1,9})m)?(?:(\d{1,9})s)?")


def seconds(what: str, text: str) -> float:
    """A span in seconds.

    Raises:
        InvalidArgumentError: it is none; the message begins with `what`.
    """
    found = _SPAN.fullmatch(text) if text else None
    if not found:
        message = f"{what}: want a time such as 24h or 7d"
        raise InvalidArgumentError(message)
    parts = (int(part or 0) for part in found.groups())
    return float(sum(n * unit for n, unit in zip(parts, (86_400, 3600, 60, 1), strict=True)))
