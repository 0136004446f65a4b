"""Entry point: find the command, run it, turn an error into one sentence and docker's exit code."""

import importlib
import sys

import anyio

from common.errors import SlipwayError
from slipway import exitcode, render
from slipway.parser import build

EXIT_FAILED = 1
SERVER_SIDE = ("InternalError", "UnavailableError", "DeadlineExceededError", "DataLossError")
"""Errors whose cause is in the services' logs."""


def main() -> None:
    """Run one command."""
    arguments = build().parse_args()
    module, _, function = arguments.run.partition(":")
    try:
        command = getattr(importlib.import_module(f"slipway.commands.{module}"), function)
        code = anyio.run(command, arguments)
        sys.stdout.flush()
        sys.exit(code)
    except KeyboardInterrupt:
        sys.exit(exitcode.INTERRUPTED)
    except BaseException as exc:
        error = _first(exc)
        if isinstance(error, BrokenPipeError):
            # Whoever read us has left; Python's own flush at exit must not fail on it again.
            sys.stdout = None
            sys.exit(0)
        failed = exitcode.DAEMON if module in ("run", "execute") else EXIT_FAILED
        if isinstance(error, OSError):
            sys.stdout = None  # as above, when it is full
            where = f"{error.filename}: " if error.filename else ""
            sys.stderr.write(f"slipway: {render.sentence(where + str(error.strerror or error))}\n")
            sys.exit(failed)
        if not isinstance(error, SlipwayError):
            raise
        where = f" (logs: {arguments.run_dir}/log)" if error.reason in SERVER_SIDE else ""
        sys.stderr.write(f"slipway: {render.sentence(error.message)}{where}\n")
        sys.exit(failed)


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
