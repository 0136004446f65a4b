"""The supervisor: starts every process of a node, starts again what dies, stops all in reverse order.

Containers are not its children: they live on under their shims when the node stops, and are found again.
"""

import fcntl
import json
import os
import select
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import anyio
import anyio.to_thread
from anyio.abc import Process, TaskGroup

from common.errors import AlreadyExistsError
from common.observe.log import get_logger
from common.sys.files import replace_file
from node import logfiles, prepare, redislog
from node.layout import OOM_SCORES, SERVICES, Layout

STOP_S = 12.0
BACKOFF_S = (0.05, 0.2, 0.5, 1.0, 2.0, 5.0)
LOGS_S = 5.0
"""How often the sizes of logs are looked at."""
STEADY_S = 10.0
"""A process that lived this long starts anew without waiting."""
REDIS_REFUSES = 1
"""Its exit status when it cannot begin, as with a log that it does not understand."""
MARK = "SLIPWAY_NODE_RUN_DIR"
"""In the environment of a node's processes, by which the next supervisor knows what was left."""
_log = get_logger("supervisor")


class Supervisor:
    """Runs the processes of one node until it is told to stop."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._names = (*layout.servers, *SERVICES)
        self._processes: dict[str, Process] = {}
        self._failures: dict[str, int] = {}
        self._stopping = anyio.Event()

    async def run(self) -> None:
        """Run the node in the foreground.

        Raises:
            AlreadyExistsError: another supervisor runs this node.
        """
        lock = self._prepare()
        _spare_from_oom(os.getpid(), min(OOM_SCORES.values()))
        try:
            with prepare.held_nats(self._layout) as self._layout:
                async with anyio.create_task_group() as group:
                    for name in self._names:
                        group.start_soon(self._keep, name)
                    group.start_soon(self._bound_logs)
                    await self._wait_for_signal()
                    await self._stop(group)
        finally:
            self._layout.state_file.unlink(missing_ok=True)
            os.close(lock)

    def _prepare(self) -> int:
        layout = self._layout
        prepare.directories(layout)
        lock = os.open(f"{layout.run_dir}/node.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            os.close(lock)
            message = f"a node runs already in {layout.run_dir}"
            raise AlreadyExistsError(message) from exc
        _end_leftovers(layout)
        return lock

    async def _wait_for_signal(self) -> None:
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async for _ in signals:
                return

    async def _bound_logs(self) -> None:
        while True:
            await anyio.sleep(LOGS_S)
            await anyio.to_thread.run_sync(logfiles.bound, Path(self._layout.run_dir, "log"))

    async def _keep(self, name: str) -> None:
        while not self._stopping.is_set():
            started = anyio.current_time()
            process = await self._start(name)
            code = await process.wait()
            if self._stopping.is_set():
                return
            steady = anyio.current_time() - started > STEADY_S
            failures = self._failures[name] = 0 if steady else self._failures.get(name, 0) + 1
            _log.warning("process.died", process=name, code=code, failures=failures)
            if name == "redis" and code == REDIS_REFUSES:
                await self._mend_redis()
            await anyio.sleep(BACKOFF_S[min(failures, len(BACKOFF_S) - 1)])

    async def _mend_redis(self) -> None:
        try:
            what = await anyio.to_thread.run_sync(redislog.mend, Path(self._layout.data_dir, "redis"))
        except redislog.FAILURES as exc:
            _log.error("redis.not_mended", error=str(exc))
        else:
            if what:
                _log.warning("node.repaired", what=what)

    async def _start(self, name: str) -> Process:
        if name in SERVICES:
            prepare.write_settings(self._layout, name)
        with self._layout.log_file(name).open("ab") as log:
            process = await anyio.open_process(
                self._layout.command(name),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=inherited() | {MARK: self._layout.run_dir},
                start_new_session=True,
                cwd="/",
            )
        _spare_from_oom(process.pid, OOM_SCORES[name])
        self._processes[name] = process
        pids = {known: p.pid for known, p in self._processes.items()}
        state = self._layout.state(os.getpid(), pids, self._failures).encode()
        replace_file(self._layout.state_file, state, sync=False)  # true only while this process lives
        return process

    async def _stop(self, group: TaskGroup) -> None:
        self._stopping.set()
        for name in reversed(self._names):
            process = self._processes.get(name)
            if process is None or process.returncode is not None:
                continue
            with suppress(ProcessLookupError):
                process.terminate()
            with anyio.move_on_after(STOP_S) as scope:
                await process.wait()
            if scope.cancelled_caught:
                _log.warning("process.killed", process=name)
                with suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        group.cancel_scope.cancel()


def _spare_from_oom(pid: int, score: int) -> None:
    """Tell the kernel when to kill it for memory; as far as this node may lower a score."""
    with suppress(PermissionError, ProcessLookupError, FileNotFoundError):
        Path(f"/proc/{pid}/oom_score_adj").write_text(str(score), encoding="ascii")


def _end_leftovers(layout: Layout) -> None:
    """End what a supervisor that was killed has left; containers and shims are not among them."""
    try:
        pids: dict[str, int] = json.loads(layout.state_file.read_text())["pids"]
    except (OSError, ValueError, KeyError):
        return
    for name, pid in reversed(pids.items()):
        with suppress(OSError):
            if not _is_of(layout, pid):
                continue
            handle = os.pidfd_open(pid)
            try:
                signal.pidfd_send_signal(handle, signal.SIGTERM)
                if not select.select([handle], [], [], STOP_S)[0]:
                    signal.pidfd_send_signal(handle, signal.SIGKILL)
                    select.select([handle], [], [], STOP_S)
            finally:
                os.close(handle)
            _log.warning("leftover.ended", process=name, pid=pid)


def _is_of(layout: Layout, pid: int) -> bool:
    """Whether a process that now has this number is one of the node; Redis writes its title over its environment."""
    told = b"".join(Path(f"/proc/{pid}/{file}").read_bytes() for file in ("environ", "cmdline"))
    return layout.run_dir.encode() in told


def inherited() -> dict[str, str]:
    """This process's environment, for its children."""
    return {os.fsdecode(k): os.fsdecode(v) for k, v in os.environb.items()}


def start_detached(layout: Layout) -> subprocess.Popen[bytes]:
    """Start a supervisor that outlives this process."""
    log = layout.log_file("supervisor")
    log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    prepare.write_options(layout)
    # its run directory is how others know it
    command = [sys.executable, "-m", "node", "run", "--run-dir", layout.run_dir]
    command += ["--config", str(layout.options_file)]
    with log.open("ab") as out:
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True, cwd="/"
        )
