"""--filter KEY=VALUE of lists: alternatives for one key, and all keys together, as docker's."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from common.errors import InvalidArgumentError

Test = Callable[[Any, str], bool]
"""Whether an item fits a value."""


def chosen(
    items: Sequence[Any],
    filters: Sequence[str],
    tests: Mapping[str, Test],
    values: Mapping[str, Sequence[str]] | None = None,
) -> list[Any]:
    """The items that fit.

    Args:
        items: of which.
        filters: as they were given.
        tests: by key.
        values: the only ones that a key may have, of those that have only some.

    Raises:
        InvalidArgumentError: a filter that is none.
    """
    wanted: dict[str, list[str]] = {}
    for text in filters:
        key, joint, value = text.partition("=")
        if key not in tests or not joint:
            message = f"--filter {text!r}: want KEY=VALUE with KEY one of {', '.join(tests)}"
            raise InvalidArgumentError(message)
        known = (values or {}).get(key)
        if known and value.lower() not in known:
            message = f"--filter {text!r}: want one of {', '.join(known)}"
            raise InvalidArgumentError(message)
        wanted.setdefault(key, []).append(value)
    return [
        item
        for item in items
        if all(any(tests[key](item, value) for value in values) for key, values in wanted.items())
    ]


def has_label(labels: Mapping[str, str], value: str) -> bool:
    """Whether there is a label KEY, or KEY=VALUE."""
    key, joint, wanted = value.partition("=")
    return key in labels and (not joint or labels[key] == wanted)
