"""Errors of a Dockerfile, with where they are."""

from typing import NoReturn

from common.errors import FailedPreconditionError, SlipwayError
from slipway.building.dockerfile import Instruction


def refuse(step: Instruction, cause: SlipwayError | OSError) -> NoReturn:
    """The same error, with where it is."""
    if isinstance(cause, OSError):
        message = f"{step.where}: {step.word}: {cause.filename or ''}: {cause.strerror}"
        raise FailedPreconditionError(message) from cause
    if cause.message.startswith(f"{step.where}: ") or cause.message.startswith(
        step.where.rpartition(":")[0] + ":"
    ):
        raise cause
    raise type(cause)(f"{step.where}: {step.word}: {cause.message}") from cause
