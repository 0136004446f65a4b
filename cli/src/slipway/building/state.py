"""What a build is asked for, and how far a stage of it is."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from slipway.building.dockerfile import Instruction
from slipway.building.ignore import Ignore
from slipway.files import Place


@dataclass(frozen=True, slots=True)
class Wish:
    """What is wanted of a build."""

    context: Place
    ignore: Ignore
    arguments: Mapping[str, str]
    secrets: Mapping[str, bytes]
    labels: Mapping[str, str]
    """Of the image, whatever the Dockerfile says."""
    epoch_s: int | None = None
    """When all of it is said to be made; None for now."""
    use_cache: bool = True
    pull: bool = False
    """Whether images that are here are asked for at their registries all the same."""


@dataclass(slots=True)
class State:
    """How far a stage is."""

    image: str
    key: str
    environment: dict[str, str]
    directory: str
    user: str
    shell: list[str]
    arguments: dict[str, str] = field(default_factory=dict)
    pending: dict[str, Instruction] = field(default_factory=dict)
    """Changes of the config that `image` has not yet."""
    has_command: bool = False
    triggers: list[Instruction] = field(default_factory=list)
    """What the image below asks to do first."""

    @property
    def values(self) -> dict[str, str]:
        """What variables mean; ENV wins over ARG."""
        return self.arguments | self.environment

    def change(self, text: str, step: Instruction) -> None:
        """Note a change of the config, and what asks for it."""
        self.pending.pop(text, None)
        self.pending[text] = step
        self.key = key(self.key, text)


def key(*parts: str) -> str:
    """The cache key of something that is made of these."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
