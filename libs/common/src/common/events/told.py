"""Events as people read them, a line each; programs have the fields."""

import re
from collections.abc import Mapping

_ID = re.compile(r"[0-9a-f]{32,64}")


def line(fields: Mapping[str, object]) -> str:
    """What happened, to what, and what else is known."""
    return f"{kind(fields):<26} {short(fields['id']):<12} {facts(fields)}".rstrip()


def kind(fields: Mapping[str, object]) -> str:
    """What happened, such as `container.exited`."""
    return str(fields["type"]).rpartition(".")[0]


def facts(fields: Mapping[str, object]) -> str:
    """What is known besides: nothing that is empty, and no times in nanoseconds."""
    told = {
        name: fact
        for name, fact in fields.items()
        if name not in ("type", "id") and fact not in ("", 0, [], False) and not name.endswith("_ns")
    }
    return " ".join(f"{name}={short(fact)}" for name, fact in told.items())


def short(value: object) -> str:
    """The beginning of an id, the words of a list; all else, such as the name of an image, whole."""
    if isinstance(value, list):
        return " ".join(map(short, value))
    text = str(value).removeprefix("sha256:")
    return text[:12] if _ID.fullmatch(text) else str(value)
