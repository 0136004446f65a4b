"""The targets of `./dev fuzz`, without it: they stand what they begin with, and some of what it can become."""

import random

import pytest

from tests.fuzz.targets import TARGETS

ROUNDS = 60


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_stands_what_its_seeds_become(name: str) -> None:
    target, seeds = TARGETS[name]
    dice = random.Random(name)  # noqa: S311 - the same bytes each time
    target(b"")
    for seed in seeds:
        target(seed)
        for _ in range(ROUNDS):
            changed = bytearray(seed)
            for _ in range(dice.randrange(1, 6)):
                at = dice.randrange(len(changed) + 1)
                changed[at : at + dice.randrange(3)] = dice.randbytes(dice.randrange(4))
            target(bytes(changed))
