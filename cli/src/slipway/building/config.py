"""Instructions that change only the config, in the words that imaged takes: expanded, each in its whole. Pure."""

import json
import shlex
from collections.abc import Mapping

from slipway.building.dockerfile import Instruction, triggers
from slipway.building.variables import expand


def pairs(step: Instruction, values: Mapping[str, str]) -> dict[str, str]:
    """The names and values of ENV or LABEL."""
    words = [expand(word, values) for word in step.words]
    return dict(zip(words[::2], words[1::2], strict=True))


def quoted(found: Mapping[str, str]) -> str:
    """Names and values as ENV and LABEL have them."""
    return " ".join(shlex.quote(f"{name}={value}") for name, value in found.items())


def change(step: Instruction, values: Mapping[str, str]) -> str:  # noqa: PLR0911 - a table
    """What imaged is told.

    Raises:
        InvalidArgumentError: a variable in it is malformed.
    """
    match step.word:
        case "ENV" | "LABEL":
            return f"{step.word} {quoted(pairs(step, values))}"
        case "MAINTAINER":
            return "LABEL " + shlex.quote(f"maintainer={expand(' '.join(step.words), values)}")
        case "CMD" | "ENTRYPOINT" | "SHELL":
            return f"{step.word} {json.dumps(step.words) if step.exact else ' '.join(step.words)}"
        case "HEALTHCHECK":
            test = json.dumps(step.words[1:]) if step.exact else " ".join(step.words[1:])
            return " ".join(part for part in ("HEALTHCHECK", *step.flags, step.words[0], test) if part)
        case "ONBUILD":
            text = step.text.partition(" ")[2].strip()
            triggers([text], step.where)
            return f"ONBUILD {text}"
        case "VOLUME":
            return f"VOLUME {json.dumps([expand(word, values) for word in step.words])}"
        case _:
            return f"{step.word} " + " ".join(expand(word, values) for word in step.words)
