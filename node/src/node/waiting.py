"""Waiting for a node: until its services answer, or its supervisor has ended."""

import json
import os
import select
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from common.errors import DeadlineExceededError, FailedPreconditionError
from node import health, running
from node.layout import SERVICES

DOWN_S = 90.0
LOOK_S = 0.02
HOPELESS = 3
"""A process that died this often since `up` will not answer."""
LAST_BYTES = 4096


class _EndedError(FailedPreconditionError):
    """The node that was waited for has ended."""


def join(run_dir: str, ready_s: float) -> dict[str, Any] | None:
    """The state of a node that runs, or that another `up` starts, once it is ready; None when there is none.

    Raises:
        DeadlineExceededError: it is not ready in time, or stops and does not end.
        FailedPreconditionError: one of its processes dies again and again.
    """
    state = running.state(run_dir)
    if state and state.get("stopping"):
        until_ended(int(state["supervisor"]))
    if not running.supervised(run_dir):
        return None
    try:
        return until_ready(run_dir, None, ready_s)
    except _EndedError:
        return None


def until_ready(run_dir: str, child: "subprocess.Popen[bytes] | None", ready_s: float) -> dict[str, Any]:
    """Wait for the services of a node whose supervisor is this child, or not ours.

    Raises:
        DeadlineExceededError: they do not serve in time.
        FailedPreconditionError: the supervisor has ended, or one of its processes dies again and again.
    """
    deadline = time.monotonic() + ready_s
    waiting: list[str] = list(SERVICES)
    while time.monotonic() < deadline:
        if child and child.poll() is not None:
            if not running.supervised(run_dir):
                log_file = Path(run_dir, "log/supervisor.log")
                message = f"the supervisor ended at once: {_last_words(log_file)}: see {log_file}"
                raise FailedPreconditionError(message)
            child = None  # that of another `up` was faster
        if not child and not running.supervised(run_dir):
            message = f"the node in {run_dir} has ended"
            raise _EndedError(message)
        state = running.state(run_dir)
        _check_failures(run_dir, state)
        if waiting and serves(run_dir, waiting[0]):
            waiting.pop(0)
        elif not waiting and state:
            return state
        else:
            time.sleep(LOOK_S)  # noqa: TID251 - a socket that is not there yet has no event
    if not waiting:
        message = (
            f"the services answer, but {run_dir}/node.json is not written: see {run_dir}/log/supervisor.log"
        )
        raise DeadlineExceededError(message)
    message = f"{', '.join(waiting)} not ready after {ready_s:.0f} s: see {run_dir}/log/{waiting[0]}.log"
    raise DeadlineExceededError(message)


def _check_failures(run_dir: str, state: dict[str, Any] | None) -> None:
    """Give up on a node one of whose processes dies again and again.

    Raises:
        FailedPreconditionError: with the last line that the process wrote, and where the rest is.
    """
    for name, count in (state or {}).get("failures", {}).items():
        if count >= HOPELESS:
            path = Path(run_dir, "log", f"{name}.log")
            message = f"{name} died {count} times: {_last_words(path)}: see {path}"
            raise FailedPreconditionError(message)


def _last_words(path: Path) -> str:
    """The last line of a log, or what it says when it is one of ours."""
    try:
        text = path.read_bytes()[-LAST_BYTES:].decode(errors="replace")
    except OSError as exc:
        return exc.strerror or ""
    lines = text.strip().splitlines() or ["it wrote nothing"]
    try:
        record = json.loads(lines[-1])
    except ValueError:
        return lines[-1]
    return (
        str(record.get("error") or record.get("event", lines[-1])) if isinstance(record, dict) else lines[-1]
    )


def serves(run_dir: str, name: str) -> bool:
    """Whether a service answers now, and says that it serves."""
    return not health.trouble("grpc", f"{run_dir}/{name}.sock")


def until_ended(pid: int, number: int = 0) -> None:
    """Wait for the end of a supervisor, and have a signal end it if there is one.

    Raises:
        DeadlineExceededError: it does not end.
    """
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        if number:
            signal.pidfd_send_signal(handle, number)
        if not select.select([handle], [], [], DOWN_S)[0]:
            message = f"the supervisor (pid {pid}) did not stop within {DOWN_S:.0f} s"
            raise DeadlineExceededError(message)
    finally:
        os.close(handle)
