"""Who has asked for what this task does: named by the first service that was called, and carried on to the others."""

from collections.abc import Mapping
from contextvars import ContextVar

HEADER = "slipway-caller"
MAX_CHARS = 120
_CRI = "/runtime.v1."
current: ContextVar[str] = ContextVar("caller", default="")
"""Such as `StopContainer over CRI from grpc-go/1.72.0`; empty in what a service does of its own."""


def of_call(method: str, metadata: Mapping[str, str]) -> str:
    """The caller by a call's metadata: as another service says, else by the program that calls."""
    told = metadata.get(HEADER, "")
    if not told:
        agent = metadata.get("user-agent", "").partition(" ")[0] or "an unknown program"
        over = " over CRI" if method.startswith(_CRI) else ""
        told = f"{method.rpartition('/')[2]}{over} from {agent}"
    return plain(told)


def plain(text: str) -> str:
    """A caller's name as calls carry it: not too long, and printable ASCII, with `?` for the rest."""
    return "".join(c if c.isascii() and c.isprintable() else "?" for c in text[:MAX_CHARS])
