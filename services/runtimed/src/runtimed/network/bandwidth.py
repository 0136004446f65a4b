"""The rates that a pod's annotations set for its traffic."""

import math
import re
from decimal import Decimal

from common.errors import InvalidArgumentError

ANNOTATIONS = {
    "ingress": "kubernetes.io/ingress-bandwidth",
    "egress": "kubernetes.io/egress-bandwidth",
}
# What Kubernetes takes, in bits a second.
MIN_RATE, MAX_RATE = 1000, 10**15
MAX_BURST = 2**31 - 1

_QUANTITY = re.compile(r"\+?(\d+\.?\d*|\.\d+)([numkMGTPE]|[KMGTPE]i|[eE][+-]?\d{1,3})?", re.ASCII)
_DECIMAL = {"n": -9, "u": -6, "m": -3, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_BINARY = {"Ki": 1, "Mi": 2, "Gi": 3, "Ti": 4, "Pi": 5, "Ei": 6}


def limits(annotations: dict[str, str]) -> dict[str, int]:
    """The CNI capability `bandwidth`, in bits; empty without limits.

    Raises:
        InvalidArgumentError: an annotation is no rate from 1k to 1P.
    """
    found: dict[str, int] = {}
    for direction, key in ANNOTATIONS.items():
        if key in annotations:
            rate = _rate(key, annotations[key])
            found |= {f"{direction}Rate": rate, f"{direction}Burst": min(rate, MAX_BURST)}
    return found


def _rate(key: str, text: str) -> int:
    """A quantity as Kubernetes writes them, rounded up."""
    match = _QUANTITY.fullmatch(text)
    if match:
        number, unit = Decimal(match[1]), match[2] or ""
        if unit in _BINARY:
            number *= 1024 ** _BINARY[unit]
        elif unit:
            number = number.scaleb(_DECIMAL[unit] if unit in _DECIMAL else int(unit[1:]))
        rate = math.ceil(number)
        if MIN_RATE <= rate <= MAX_RATE:
            return rate
    raise InvalidArgumentError(f"annotations: {key} = {text!r} is no rate from 1k to 1P")
