"""Which node runs in a run directory, and what one left there whose supervisor was killed."""

import fcntl
import itertools
import json
import os
import re
import select
import signal
from contextlib import suppress
from pathlib import Path

from common.errors import AlreadyExistsError
from common.observe.log import get_logger
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


def supervisor(run_dir: str) -> int:
    """The pid of the supervisor that has the lock; 0 when there is none."""
    try:
        handle = os.open(f"{run_dir}/node.lock", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return 0
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        told = os.pread(handle, 32, 0).strip()
        pid = int(told) if told.isdigit() else _told(run_dir)
        return pid if _lives(pid) else 0  # not yet written, the one before is there
    finally:
        os.close(handle)
    return 0


def _told(run_dir: str) -> int:
    try:
        return max(0, int(json.loads(Path(run_dir, "node.json").read_text())["supervisor"]))
    except (OSError, ValueError, KeyError):
        return 0


def _lives(pid: int) -> bool:
    """Whether it is there, and no zombie."""
    try:
        return bool(Path(f"/proc/{pid}/cmdline").read_bytes())
    except OSError:
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
                signal.pidfd_send_signal(handle, signal.SIGTERM)
                if not select.select([handle], [], [], STOP_S)[0]:
                    signal.pidfd_send_signal(handle, signal.SIGKILL)
                    select.select([handle], [], [], STOP_S)
            finally:
                os.close(handle)
            _log.warning("leftover.ended", process=name, pid=pid)
