"""Limits of the settings as `process.rlimits`."""

import resource

import pytest

from runtimed.oci import rlimits


def test_limits_become_those_of_the_process() -> None:
    wanted = {"nofile": (1024, 2048), "core": (0, -1)}
    rlimits.check("default_ulimits", wanted)
    assert rlimits.build(wanted, frozenset({"CAP_SYS_RESOURCE"})) == [
        {"type": "RLIMIT_CORE", "soft": 0, "hard": 2**64 - 1},
        {"type": "RLIMIT_NOFILE", "soft": 1024, "hard": 2048},
    ]


def test_without_the_capability_none_is_above_our_own() -> None:
    own = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    assert rlimits.build({"nofile": (own + 1, -1)}, frozenset()) == [
        {"type": "RLIMIT_NOFILE", "soft": own, "hard": own}
    ]


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ({"files": (1, 1)}, "default_ulimits: 'files' is none of"),
        ({"nofile": (2, 1)}, "nofile = 2, 1 is no soft and hard limit"),
        ({"nofile": (-1, 1)}, "nofile = -1, 1"),
        ({"nofile": (-2, 1)}, "nofile = -2, 1"),
    ],
)
def test_what_no_kernel_would_take_is_refused(wanted: dict[str, tuple[int, int]], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        rlimits.check("default_ulimits", wanted)
