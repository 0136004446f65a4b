"""Variables and labels, from options and files."""

import os
from argparse import Namespace
from pathlib import Path

from common.api.cri.v1 import api_pb2 as cri
from common.errors import InvalidArgumentError


def environment(options: Namespace) -> list[cri.KeyValue]:
    """The variables of --env-file and --env; a later one replaces an earlier one, as in the container.

    Raises:
        InvalidArgumentError: naming the option, and the line of a file.
    """
    found = [
        _variable(line, f"--env-file {path}: line {number}")
        for path in options.env_file
        for number, line in _lines("--env-file", path)
    ]
    found += [_variable(text, "--env") for text in options.env]
    return [variable for variable in found if variable is not None]


def labels(options: Namespace) -> dict[str, str]:
    """The labels of --label-file and --label; raises as `environment` does."""
    found: dict[str, str] = {}
    for path in options.label_file:
        for number, line in _lines("--label-file", path):
            found |= _label(line, f"--label-file {path}: line {number}")
    for text in options.label:
        found |= _label(text, "--label")
    return found


def annotations(options: Namespace) -> dict[str, str]:
    """The annotations of --annotation; raises as `environment` does."""
    found: dict[str, str] = {}
    for text in options.annotation:
        found |= _label(text, "--annotation")
    return found


def _lines(option: str, path: str) -> list[tuple[int, str]]:
    """The lines of a file that are no comments, with their numbers."""
    try:
        text = Path(path).read_text()
    except UnicodeDecodeError as exc:
        message = f"{option} {path}: is no text: {exc.reason}"
        raise InvalidArgumentError(message) from exc
    lines = ((number, line.lstrip()) for number, line in enumerate(text.splitlines(), 1))
    return [(number, line) for number, line in lines if line and not line.startswith("#")]


def _variable(text: str, where: str) -> cri.KeyValue | None:
    """A variable; None for one that is to be passed on and that we do not have."""
    key, joint, value = text.partition("=")
    if not key or any(c.isspace() for c in key):
        message = f"{where} {text!r}: want KEY=VALUE, or KEY to pass on our own"
        raise InvalidArgumentError(message)
    if not joint:
        ours = os.environ.get(key)  # noqa: TID251 - `-e KEY` passes on the caller's, as docker's
        if ours is None:
            return None
        value = ours
    return cri.KeyValue(key=key, value=os.fsencode(value))


def _label(text: str, where: str) -> dict[str, str]:
    key, _, value = text.partition("=")
    if not key:
        message = f"{where} {text!r}: want KEY=VALUE"
        raise InvalidArgumentError(message)
    return {key: value}
