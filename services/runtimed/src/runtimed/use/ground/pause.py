"""The end of a pause process: with it goes the PID namespace of its pod, which is then not ready."""

import os

import anyio

from common.errors import SlipwayError
from common.observe.log import get_logger
from runtimed.machine import sandbox as machine
from runtimed.machine.causes import PAUSE
from runtimed.record import SandboxRecord, SandboxState
from runtimed.use.parts import Parts

ENDED = "its pause process has ended"
_log = get_logger("runtimed")


def watch(parts: Parts, record: SandboxRecord) -> None:
    """Follow the pause process of a sandbox, if it has one; what is missed is found by the reconciler."""
    if record.pause_pid:
        name = f"pause of {record.id}"
        parts.group.start_soon(_watch, parts, record.id, record.pause_pid, name=name)


async def _watch(parts: Parts, sandbox_id: str, pid: int) -> None:
    try:
        pidfd = os.pidfd_open(pid)
    except OSError as exc:
        if not isinstance(exc, ProcessLookupError):  # such as having no descriptors left
            _log.warning("pause.unwatched", id=sandbox_id, error=str(exc))
        return
    try:
        await anyio.wait_readable(pidfd)
    finally:
        os.close(pidfd)
    record = parts.sandboxes.store.find(sandbox_id)
    if record is None or record.state is not SandboxState.READY or record.pause_pid != pid:
        return  # it was stopped
    try:
        await parts.sandboxes.apply(sandbox_id, machine.Broken(cause=PAUSE, reason=ENDED))
    except SlipwayError as exc:
        _log.warning("pause.untold", id=sandbox_id, error=exc.message)
