"""Which stages a stage needs, as far as the Dockerfile says it plainly: these are built at the same time. Pure."""

from collections.abc import Mapping, Sequence

from common.errors import InvalidArgumentError
from slipway.building.dockerfile import Instruction, Stage
from slipway.building.variables import expand


def stage_of(stages: Sequence[Stage], name: str, before: int) -> int | None:
    """The number of a stage by its name or number, among those before another; None for none."""
    for number in reversed(range(before)):
        if name.lower() == stages[number].name or name == str(number):
            return number
    return None


def needed(stages: Sequence[Stage], wanted: int, values: Mapping[str, str]) -> set[int]:
    """A stage, and all that it needs; what a variable of the stage names is missing, and built when it is met."""
    found: set[int] = set()
    left = [wanted]
    while left:
        number = left.pop()
        if number in found:
            continue
        found.add(number)
        for name in (stages[number].base, *(n for step in stages[number].steps for n in _origins(step))):
            try:
                other = stage_of(stages, expand(name, values), number)
            except InvalidArgumentError:
                continue
            left += [] if other is None else [other]
    return found


def _origins(step: Instruction) -> list[str]:
    """What `--from` and the mounts of a step name."""
    found = []
    for flag in step.flags:
        name, _, value = flag[2:].partition("=")
        if name == "from":
            found.append(value)
        elif name == "mount":
            found += [part.removeprefix("from=") for part in value.split(",") if part.startswith("from=")]
    return found
