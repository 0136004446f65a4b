"""What the operating system refuses, in the words of common.errors."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from common import errors

_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def disk_faults(doing: str) -> Iterator[None]:
    """Turn an OSError of this step into one sentence that names the step and the path."""
    try:
        yield
    except OSError as exc:
        where = f" ({exc.filename})" if exc.filename else ""
        message = f"{doing}: {exc.strerror}{where}"
        if exc.errno in _FULL:
            raise errors.ResourceExhaustedError(message) from exc
        raise errors.InternalError(message) from exc
