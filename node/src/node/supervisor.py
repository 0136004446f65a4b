"""The supervisor: starts every process of a node, starts again what dies, stops all in reverse order.

Containers are not its children: they live on under their shims when the node stops, and are found again.
"""

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import anyio
import anyio.to_thread
from anyio.abc import Process

from common.errors import AlreadyExistsError, FailedPreconditionError, SlipwayError
from common.observe.log import get_logger
from common.sys.files import replace_file
from node import logfiles, prepare, redislog, running, users
from node.layout import OOM_SCORES, SERVICES, Layout

LOCK_S = 0.5
BACKOFF_S = (0.05, 0.2, 0.5, 1.0, 2.0, 5.0)
LOGS_S = 5.0
"""How often the sizes of logs are looked at."""
STEADY_S = 10.0
"""A process that lived this long starts anew without waiting."""
REDIS_REFUSES = 1
"""Its exit status when it cannot begin, as with a log that it does not understand."""
_log = get_logger("supervisor")


class Supervisor:
    """Runs the processes of one node until it is told to stop."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._names = (*layout.servers, *SERVICES)
        self._processes: dict[str, Process] = {}
        self._failures: dict[str, int] = {}
        self._stopping = anyio.Event()
        self._untold = False

    async def run(self) -> None:
        """Run the node in the foreground.

        Raises:
            AlreadyExistsError: another supervisor runs this node.
            FailedPreconditionError: systemd or a container engine does.
        """
        prepare.directories(self._layout)
        lock = await _lock(self._layout.run_dir)
        try:
            running.refuse_foreign(self._layout.run_dir)
        except FailedPreconditionError:
            os.close(lock)
            raise
        try:
            self._layout.state_file.unlink(missing_ok=True)
            running.end(running.left(self._layout.run_dir))
            users.take_back(self._layout)
            prepare.keep_name(self._layout)
            _spare_from_oom(os.getpid(), min(OOM_SCORES.values()))
            with prepare.held_nats(self._layout) as self._layout:
                async with anyio.create_task_group() as group:
                    for name in self._names:
                        group.start_soon(self._keep, name)
                    group.start_soon(self._look_after)
                    await self._wait_for_signal()
                    self._stopping.set()
                    group.cancel_scope.cancel()
        finally:
            with anyio.CancelScope(shield=True):
                await self._stop()
            self._layout.state_file.unlink(missing_ok=True)
            os.close(lock)

    async def _wait_for_signal(self) -> None:
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async for _ in signals:
                return

    async def _look_after(self) -> None:
        while True:
            await anyio.sleep(LOGS_S)
            if self._untold:
                self._tell()
            try:
                await anyio.to_thread.run_sync(logfiles.bound, Path(self._layout.run_dir, "log"))
            except (OSError, RuntimeError) as exc:  # no thread could be had
                _log.warning("logs.not_bound", error=str(exc))

    async def _keep(self, name: str) -> None:
        while not self._stopping.is_set():
            started = anyio.current_time()
            code = await self._live(name)
            if self._stopping.is_set():
                return
            steady = anyio.current_time() - started > STEADY_S
            failures = self._failures[name] = 0 if steady else self._failures.get(name, 0) + 1
            _log.warning("process.died", process=name, code=code, failures=failures)
            self._tell()
            if name == "redis" and code == REDIS_REFUSES:
                await self._mend_redis()
            await anyio.sleep(BACKOFF_S[min(failures, len(BACKOFF_S) - 1)])

    async def _live(self, name: str) -> int | None:
        """One life of a process: its exit status; None when it could not begin."""
        try:
            with anyio.CancelScope(shield=True):  # none is left between its start and our knowing of it
                process = await self._start(name)
        except (OSError, RuntimeError, SlipwayError) as exc:  # a full disk, no more processes or threads
            _log.error("process.not_started", process=name, error=str(exc))
            self._explain(name, str(exc))
            return None
        _spare_from_oom(process.pid, OOM_SCORES[name])
        self._tell()
        with anyio.move_on_after(STEADY_S):
            return await process.wait()
        if self._failures.pop(name, 0):
            self._tell()
        return await process.wait()

    async def _mend_redis(self) -> None:
        try:
            what = await anyio.to_thread.run_sync(redislog.mend, Path(self._layout.data_dir, "redis"))
        except (*redislog.FAILURES, RuntimeError) as exc:  # no thread could be had
            _log.error("redis.not_mended", error=str(exc))
        else:
            if what:
                _log.warning("node.repaired", what=what)

    async def _start(self, name: str) -> Process:
        if name in SERVICES:
            prepare.write_settings(self._layout, name)
        with self._layout.log_file(name).open("ab") as log:
            try:
                process = await anyio.open_process(
                    self._layout.command(name),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=inherited() | {running.MARK: self._layout.run_dir},
                    start_new_session=True,
                    cwd="/",
                )
            except RuntimeError:  # it runs, but there was no thread that would wait for it
                if pid := running.left(self._layout.run_dir).get(name):
                    running.end({name: pid})
                raise
        self._processes[name] = process
        return process

    def _explain(self, name: str, error: str) -> None:
        """Write into the log of a process why it is not there: who looks for it looks there."""
        line = json.dumps({"level": "error", "event": "process.not_started", "error": error})
        with suppress(OSError), self._layout.log_file(name).open("a") as log:
            log.write(f"{line}\n")

    def _tell(self) -> None:
        """Write node.json; what cannot be written now is written later."""
        pids = {known: p.pid for known, p in self._processes.items()}
        try:
            stopping = self._stopping.is_set()
            state = self._layout.state(os.getpid(), pids, self._failures, stopping=stopping)
            replace_file(
                self._layout.state_file, state.encode(), sync=False
            )  # true only while this process lives
        except OSError as exc:
            if not self._untold:
                _log.error("node.not_told", error=str(exc))
            self._untold = True
        else:
            self._untold = False

    async def _stop(self) -> None:
        self._stopping.set()
        self._tell()
        for name in reversed(self._names):
            process = self._processes.get(name)
            if process is None or process.returncode is not None:
                continue
            with suppress(ProcessLookupError):
                process.terminate()
            with anyio.move_on_after(running.STOP_S) as scope:
                await process.wait()
            if scope.cancelled_caught:
                _log.warning("process.killed", process=name)
                with suppress(ProcessLookupError):
                    process.kill()
                await process.wait()


async def _lock(run_dir: str) -> int:
    """Take the node's lock, which others that look for a node may have for a moment.

    Raises:
        AlreadyExistsError: a supervisor has it.
    """
    give_up_at = anyio.current_time() + LOCK_S
    while True:
        try:
            return running.lock(run_dir)
        except AlreadyExistsError:
            if anyio.current_time() > give_up_at:
                raise
        await anyio.sleep(0.02)


def _spare_from_oom(pid: int, score: int) -> None:
    """Tell the kernel when to kill it for memory; as far as this node may lower a score."""
    with suppress(OSError):
        Path(f"/proc/{pid}/oom_score_adj").write_text(str(score), encoding="ascii")


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
