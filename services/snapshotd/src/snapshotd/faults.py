"""What the operating system refuses, in the words of common.errors."""

from collections.abc import Iterator
from contextlib import contextmanager

from common import errors


@contextmanager
def disk_faults(doing: str) -> Iterator[None]:
    """Turn an OSError of this step into one sentence that names the step and the path."""
    try:
        yield
    except OSError as exc:
        raise errors.of_system(exc, doing) from exc
