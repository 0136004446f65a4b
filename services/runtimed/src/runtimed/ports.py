"""What runtimed needs of others; the adapters speak to snapshotd, shimd and the shims."""

from collections.abc import AsyncIterator
from enum import StrEnum
from typing import Protocol

import msgspec

from common.sys.userns import IdMappings


class Runtime(msgspec.Struct, frozen=True, kw_only=True):
    """How to call an OCI runtime."""

    binary: str
    args: list[str]
    root: str
    sandboxed: bool


class ShimPlan(msgspec.Struct, frozen=True, kw_only=True):
    """All that a shim is told at its birth."""

    container_id: str
    bundle_path: str
    runtime: Runtime
    log_path: str
    tty: bool
    stdin: bool
    stdin_once: bool
    memory_cgroup_path: str
    pids_cgroup_path: str
    max_line_bytes: int
    record_dir: str


class ShimState(msgspec.Struct, frozen=True, kw_only=True):
    """A shim that shimd knows."""

    container_id: str
    pid: int
    socket_path: str
    alive: bool


class PauseState(msgspec.Struct, frozen=True, kw_only=True):
    """The pause process of a sandbox."""

    sandbox_id: str
    pid: int
    alive: bool


class InitStarted(msgspec.Struct, frozen=True, kw_only=True):
    """A container's init runs. The runtime's own times are for traces; 0 when not known."""

    pid: int
    at_ns: int
    runtime_begin_ns: int = 0
    runtime_end_ns: int = 0


class InitPhase(StrEnum):
    """How far a shim has come with its container's init."""

    NONE = "none"
    """It was never asked to start it, or the OCI runtime refused."""
    BEGINS = "begins"
    RUNS = "runs"
    ENDED = "ended"


class InitState(msgspec.Struct, frozen=True, kw_only=True):
    """A container's init, as its shim knows it; pid and start time are 0 before it runs."""

    phase: InitPhase
    pid: int = 0
    at_ns: int = 0


class InitExit(msgspec.Struct, frozen=True, kw_only=True):
    """How a container's init ended."""

    exit_code: int
    pid: int = 0
    signal: int = 0
    oom_killed: bool = False
    started_at_ns: int = 0
    finished_at_ns: int = 0
    log_bytes: int = 0
    dropped_bytes: int = 0
    """Of its output; the log could not be written."""
    memory: dict[str, int] = {}
    """What its cgroup knew: limit_bytes, peak_bytes, oom_kill, max, high."""
    pids: dict[str, int] = {}
    """What its cgroup knew of processes: limit (none when there is none), hits."""


class ExecNews(msgspec.Struct, frozen=True, kw_only=True):
    """An exec of a container began or ended."""

    exec_id: str
    at_ns: int
    ended: bool = False
    exit_code: int = 0
    timed_out: bool = False


class ExecOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """What a command wrote and how it ended."""

    exit_code: int
    stdout: bytes
    stderr: bytes


class SnapshotUse(msgspec.Struct, frozen=True, kw_only=True):
    """What a container wrote to its root filesystem."""

    used_bytes: int
    used_inodes: int
    at_ns: int


class Diff(msgspec.Struct, frozen=True):
    """A tar of what a container wrote to its root filesystem elsewhere."""

    path: str
    digest: str


class Snapshots(Protocol):
    """Root filesystems."""

    async def prepare(
        self,
        key: str,
        diff_ids: list[str],
        snapshotter: str,
        *,
        readonly: bool = False,
        ids: IdMappings | None = None,
        diff: Diff | None = None,
    ) -> str:
        """Make and mount one; returns its path. The same key again returns the same one.

        Raises:
            NotFoundError: a layer is not there.
            InvalidArgumentError: something in the diff is never to be unpacked.
        """

    async def remove(self, key: str) -> None:
        """Idempotent."""

    async def keys(self) -> list[str]: ...

    async def usage(self, keys: list[str]) -> tuple[str, dict[str, SnapshotUse]]:
        """The directory that holds them all, and each one's use; unknown keys are left out."""


class Shims(Protocol):
    """The shims of a node, by container."""

    async def spawn(self, plan: ShimPlan) -> ShimState:
        """Fork a shim; a second call for the same container returns the first shim."""

    async def list(self) -> tuple[list[ShimState], list[PauseState]]: ...

    async def remove(self, container_id: str, *, force: bool = False) -> None:
        """End a shim whose container does not run, or by force it and its container. Idempotent.

        Raises:
            FailedPreconditionError: its container runs.
        """

    async def spawn_pause(self, sandbox_id: str, user_namespace: str) -> int:
        """Start the pid 1 of a sandbox's PID namespace; returns its pid. Idempotent.

        `user_namespace` is the path of the one that is to own it; "" for the node's.
        """

    async def remove_pause(self, sandbox_id: str) -> None:
        """Idempotent."""

    async def start(self, socket_path: str, timeout_s: float) -> InitStarted:
        """Have a shim start its container.

        Raises:
            SlipwayError: the OCI runtime's message; nothing runs.
        """

    async def restore(self, socket_path: str, directory: str, timeout_s: float) -> InitStarted:
        """As `start`, with the processes of a dump's directory."""

    async def init_of(self, socket_path: str) -> InitState:
        """How far the init is.

        Raises:
            UnavailableError, DeadlineExceededError: the shim cannot be reached, or does not answer.
        """

    def follow(self, socket_path: str) -> "AsyncIterator[ExecNews | InitExit]":
        """Hear what a shim tells; the exit is told to late listeners too, and is the last.

        Raises:
            UnavailableError: the shim cannot be reached, or went away before it told of the exit.
        """

    async def kill(self, socket_path: str, signal: int, *, everyone: bool) -> None:
        """Signal the init, or every process of the container.

        Raises:
            FailedPreconditionError: the init has ended.
            UnavailableError: the shim is gone.
        """

    async def exec_sync(
        self, socket_path: str, exec_id: str, process: bytes, timeout_s: float
    ) -> ExecOutcome:
        """Run a command; `timeout_s` 0 waits for ever.

        Raises:
            DeadlineExceededError: it was killed for its time.
        """

    async def update(self, socket_path: str, container_id: str, resources: bytes) -> None:
        """Apply OCI linux.resources (JSON), all or nothing.

        Raises:
            UnknownError: the OCI runtime's message.
        """

    async def pause(self, socket_path: str, container_id: str) -> None:
        """Hold every process of a container still; raises as `update` does."""

    async def resume(self, socket_path: str, container_id: str) -> None:
        """Let them run on; raises as `update` does."""

    async def checkpoint(self, socket_path: str, container_id: str, directory: str, timeout_s: float) -> None:
        """Dump a container's processes into a directory; they run on.

        Raises:
            UnknownError: the OCI runtime's message.
            DeadlineExceededError: it was killed for its time.
        """

    async def reopen_log(self, socket_path: str) -> None:
        """Returns when the new file is in use."""

    def forget_exit(self, record_dir: str) -> None:
        """Remove the exit record of the last run; blocking."""

    def read_exit(self, record_dir: str) -> InitExit | None:
        """The exit record on disk, for a shim that is gone; blocking."""
