"""Entry point: find the command, run it, turn an error into one sentence and docker's exit code."""

import gc
import os
import sys
from argparse import Namespace
from contextlib import suppress
from typing import NoReturn

from slipway.parser import build

EXIT_FAILED = 1
SERVER_SIDE = ("InternalError", "UnavailableError", "DeadlineExceededError", "DataLossError")
"""Errors whose cause is in the services' logs."""


def main() -> None:
    """Run one command."""
    _open_streams()
    gc.disable()  # what the imports make stays to the end: looking through it again and again finds nothing
    arguments = build(sys.argv[1:]).parse_args()
    # lists and reports are for programs in a pipe; what acts prints the ids that scripts take
    arguments.report = arguments.output or ("table" if sys.stdout.isatty() else "json")
    try:
        code = _run(arguments)
        sys.stdout.flush()
    except KeyboardInterrupt:
        from slipway.exitcode import INTERRUPTED

        code = INTERRUPTED
    except BaseException as exc:
        told = _told(exc, arguments)
        if told is None:
            raise
        code = told
    _leave(code)


def _open_streams() -> None:
    """/dev/null in place of standard streams that we were started without: the next file would get their numbers."""
    for fd, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != fd:
                os.dup2(opened, fd)
                os.close(opened)
            setattr(sys, name, os.fdopen(fd, "w" if fd else "r", encoding="utf-8", closefd=False))


def _run(arguments: Namespace) -> int:
    import asyncio
    import importlib

    module, _, function = arguments.run.partition(":")
    command = getattr(importlib.import_module(f"slipway.commands.{module}"), function)
    _introduce(arguments.verb)
    gc.freeze()
    gc.enable()
    code: int = asyncio.run(command(arguments))
    return code


def _introduce(verb: str) -> None:
    """Tell the services who asks; `why` says it of what is stopped or removed."""
    import pwd

    from common.rpc import caller

    user = os.environ.get("SUDO_USER", "")  # noqa: TID251 - the person behind sudo
    if not user:
        try:
            user = pwd.getpwuid(os.getuid()).pw_name
        except KeyError:
            user = f"uid {os.getuid()}"
    caller.current.set(caller.plain(f"{verb} ({user})"))


def _told(exc: BaseException, arguments: Namespace) -> int | None:
    """Say in one sentence what went wrong; None for what is no error of ours."""
    from common.errors import SlipwayError
    from slipway import exitcode
    from slipway.output import render

    error = _first(exc)
    if isinstance(error, BrokenPipeError):
        # Whoever read us has left; nothing more can be flushed to it.
        sys.stdout = None
        return 0
    failed = exitcode.DAEMON if arguments.run in ("run:run", "execute:execute") else EXIT_FAILED
    if isinstance(error, OSError):
        sys.stdout = None  # as above, when it is full
        where = f"{error.filename}: " if error.filename else ""
        _complain(render.sentence(where + str(error.strerror or error)))
        return failed
    if not isinstance(error, SlipwayError):
        return None
    _complain(f"{render.complaint(error)}{_logs(arguments.run_dir, error.reason)}")
    return failed


def _complain(text: str) -> None:
    with suppress(OSError):  # whoever read our errors has left: the exit code still tells
        sys.stderr.write(f"slipway: {text}\n")


def _logs(run_dir: str, reason: str) -> str:
    """Where to look for the cause of an error of this reason."""
    from slipway.upkeep import upkeep

    return f" (logs: {upkeep(run_dir).logs})" if reason in SERVER_SIDE else ""


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _leave(code: int) -> NoReturn:
    """End at once: to take gRPC and a thousand modules apart again would take longer than a call."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            with suppress(OSError):
                stream.flush()
    os._exit(code)
