"""Names of what builds keep: in a repository of its own, by which images that a person named are told from them."""

from collections.abc import Iterable

REPOSITORY = "localhost/slipway-build"
"""Of the images that steps of builds made; the tag is the step's key. Keys are no secrets: only a commit gives such names."""
SCRATCH = f"{REPOSITORY}:scratch"
"""The image without layers, which each build that needs it loads anew."""


def given(names: Iterable[str]) -> list[str]:
    """The names that are not a build's."""
    return [name for name in names if not name.startswith(f"{REPOSITORY}:")]


def is_cache(names: Iterable[str]) -> bool:
    """Whether an image has names, and all are a build's; its digests at registries are none."""
    tags = [name for name in names if "@" not in name]
    return bool(tags) and not given(tags)
