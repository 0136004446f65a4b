"""Which node runs in a run directory, and what one left there whose supervisor was killed."""

import fcntl
import itertools
import json
import os
import re
import select
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from common.errors import AlreadyExistsError, FailedPreconditionError
from common.observe.log import get_logger
from common.places import CONTAINERS, SYSTEMD
from node.layout import SERVERS, SERVICES

MARK = "SLIPWAY_NODE_RUN_DIR"
"""In the environment of a supervisor's children, with its run directory."""
STOP_S = 12.0
_log = get_logger("supervisor")


def lock(run_dir: str) -> int:
    """Take the lock that a supervisor has for as long as it lives; its file has the pid.

    Raises:
        AlreadyExistsError: another has it.
    """
    handle = os.open(f"{run_dir}/node.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as exc:
        os.close(handle)
        message = f"a node runs already in {run_dir}"
        raise AlreadyExistsError(message) from exc
    os.ftruncate(handle, 0)
    with suppress(OSError):  # a full /run: node.json tells it, or nobody
        os.pwrite(handle, f"{os.getpid():<10}".encode(), 0)
    return handle


def supervised(run_dir: str) -> bool:
    """Whether a supervisor has the lock."""
    try:
        handle = os.open(f"{run_dir}/node.lock", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def supervisor(run_dir: str) -> int:
    """The pid of the supervisor that has the lock; 0 when there is none, or its pid is not written yet."""
    if not supervised(run_dir):
        return 0
    told = Path(run_dir, "node.lock").read_text().strip()
    pid = int(told) if told.isdecimal() else _told(run_dir) or 0  # an older one writes none
    return pid if pid > 0 and _lives(pid) else 0


def _lives(pid: int) -> bool:
    """Whether it is there, and no zombie."""
    try:
        return bool(Path(f"/proc/{pid}/cmdline").read_bytes())
    except OSError:
        return False


def _told(run_dir: str) -> int | None:
    """Who runs the node by node.json: a pid, SYSTEMD or CONTAINERS; None when nothing is told."""
    try:
        return int(json.loads(Path(run_dir, "node.json").read_text())["supervisor"])
    except (OSError, ValueError, KeyError):
        return None


def refuse_foreign(run_dir: str) -> None:
    """Have no supervisor where systemd or a container engine runs a node.

    Raises:
        FailedPreconditionError: it does.
    """
    told = _told(run_dir)
    if told == CONTAINERS:
        message = f"the node in {run_dir} runs in containers: see `docker compose -p slipway ps`"
        raise FailedPreconditionError(message)
    if told == SYSTEMD:
        message = f"systemd runs the node in {run_dir}: see `systemctl status 'slipway*'`"
        raise FailedPreconditionError(message)


def state(run_dir: str) -> dict[str, Any] | None:
    """node.json of a node whose supervisor lives.

    Raises:
        FailedPreconditionError: it is systemd or a container engine.
    """
    refuse_foreign(run_dir)
    try:
        found: dict[str, Any] = json.loads(Path(run_dir, "node.json").read_text())
        told = int(found["supervisor"])
    except (OSError, ValueError, KeyError):
        return None
    return found if supervisor(run_dir) == told else None


@contextmanager
def claimed(run_dir: str, kind: int) -> Iterator[None]:
    """Keep a node of this kind, SYSTEMD or CONTAINERS, from one of another kind that runs, and new supervisors from it meanwhile.

    Raises:
        FailedPreconditionError: one of another kind runs.
    """
    handle = os.open(f"{run_dir}/node.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        with suppress(BlockingIOError):  # it is told below
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        refuse_others(run_dir, kind)
        yield
    finally:
        os.close(handle)


def refuse_others(run_dir: str, kind: int) -> None:
    """Have no second node where one of another kind runs.

    Raises:
        FailedPreconditionError: one does.
    """
    told = _told(run_dir)
    native = (
        f"`slipway-node up` started the node in {run_dir}: `slipway-node down --run-dir {run_dir}` ends it"
    )
    if supervised(run_dir):
        raise FailedPreconditionError(native)
    if told in (None, kind) or not _answers(run_dir):
        return
    ends = {
        SYSTEMD: f"systemd runs the node in {run_dir}: `systemctl stop slipway.target` ends it",
        CONTAINERS: f"the node in {run_dir} runs in containers: `docker compose -p slipway down` ends it",
    }
    raise FailedPreconditionError(ends.get(told, native))


def _answers(run_dir: str) -> bool:
    """Whether any process of a node listens there, in whatever container."""
    for name in ("redis", *SERVICES):
        with socket.socket(socket.AF_UNIX) as peer, suppress(OSError):
            peer.settimeout(1.0)
            peer.connect(f"{run_dir}/{name}.sock")
            return True
    return False


def left(run_dir: str) -> dict[str, int]:
    """The processes of a native node that run, by name; containers and shims are not among them."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it ended
            if name := _name(folder, run_dir):
                found[name] = int(folder.name)
    return {name: found[name] for name in (*SERVERS, *SERVICES) if name in found}


def _name(process: Path, run_dir: str) -> str:
    """Which process of the node it is; empty for others.

    Redis writes its title over its environment: it is ours by its socket, if it sees the mounts that we see, which those of a
    unit or a container do not.
    """
    line = (process / "cmdline").read_bytes().decode(errors="replace")
    words = line.split("\0")
    program = Path(words[0].split(" ")[0]).name  # a title has spaces
    if program.startswith("redis-server"):
        sockets = {f"{run_dir}/redis.sock", f"unixsocket:{run_dir}/redis.sock"}
        same = (process / "ns/mnt").readlink() == Path("/proc/self/ns/mnt").readlink()
        return "redis" if same and sockets & set(re.split("[\0 ]", line)) else ""
    name = "nats" if program == "nats-server" else ""
    for option, value in itertools.pairwise(words):
        if option == "--config" and Path(value).parent == Path(run_dir, "settings"):
            name = Path(value).stem
    if name not in (*SERVERS, *SERVICES):
        return ""
    return name if f"{MARK}={run_dir}".encode() in (process / "environ").read_bytes().split(b"\0") else ""


def end(pids: dict[str, int]) -> None:
    """End these processes, the last one first. Blocking."""
    for name, pid in reversed(pids.items()):
        with suppress(ProcessLookupError):
            handle = os.pidfd_open(pid)
            try:
                end_held(handle)
            finally:
                os.close(handle)
            _log.warning("leftover.ended", process=name, pid=pid)


def end_held(handle: int) -> None:
    """End the process of a pidfd: asked, and after STOP_S killed. Blocking.

    Raises:
        ProcessLookupError: it has ended already.
    """
    signal.pidfd_send_signal(handle, signal.SIGTERM)
    if not select.select([handle], [], [], STOP_S)[0]:
        signal.pidfd_send_signal(handle, signal.SIGKILL)
        select.select([handle], [], [], STOP_S)
