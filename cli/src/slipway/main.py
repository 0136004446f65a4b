"""Entry point: find the command, run it, turn an error into one sentence and docker's exit code."""

import importlib
import sys

import anyio

from common.errors import FailedPreconditionError, InvalidArgumentError, NotFoundError, SlipwayError
from slipway.parser import build

EXIT_FAILED = 1
EXIT_DAEMON = 125
"""`run` and `exec` could not get as far as the command, as docker's."""


def main() -> None:
    """Run one command."""
    arguments = build().parse_args()
    module, _, function = arguments.run.partition(":")
    command = getattr(importlib.import_module(f"slipway.commands.{module}"), function)
    own_code = EXIT_DAEMON if module == "run" else EXIT_FAILED
    try:
        sys.exit(anyio.run(command, arguments))
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(0)
    except SlipwayError as exc:
        sys.stderr.write(f"slipway: {exc.message}{_next_step(exc)}\n")
        sys.exit(own_code)
    except BaseExceptionGroup as group:
        error = _first(group)
        if not isinstance(error, SlipwayError):
            raise
        sys.stderr.write(f"slipway: {error.message}{_next_step(error)}\n")
        sys.exit(own_code)


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _next_step(error: SlipwayError) -> str:
    if isinstance(error, NotFoundError | FailedPreconditionError | InvalidArgumentError):
        return ""
    return " (the services' logs are in RUN_DIR/log)"
