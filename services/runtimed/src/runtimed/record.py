"""What runtimed remembers of a sandbox and of a container.

CRI configurations are kept as the bytes that came; what lists and filters need stands beside them.
"""

from enum import StrEnum

import msgspec

from common.records import Record
from runtimed.evidence import Mark
from runtimed.oci.cgroups import CgroupPlan


class Origin(StrEnum):
    """Who makes sandboxes and containers."""

    CRI = "cri"
    COMMAND = "command"


class SandboxState(StrEnum):
    """States of runtimed.machine.sandbox."""

    CREATING = "creating"
    READY = "ready"
    NOTREADY = "notready"
    REMOVING = "removing"


class ContainerState(StrEnum):
    """States of runtimed.machine.container."""

    CREATING = "creating"
    CREATED = "created"
    STARTING = "starting"
    RUNNING = "running"
    PAUSED = "paused"
    EXITED = "exited"
    REMOVING = "removing"
    UNKNOWN = "unknown"

    @property
    def has_init(self) -> bool:
        """Its processes are there, running or held still."""
        return self in (ContainerState.RUNNING, ContainerState.PAUSED)


class SandboxRecord(Record, frozen=True, kw_only=True):
    """One sandbox; `key` is what a retry of its creation has in common with it."""

    key: str
    state: SandboxState = SandboxState.CREATING
    config: bytes = b""
    name: str = ""
    namespace: str = ""
    uid: str = ""
    attempt: int = 0
    labels: dict[str, str] = msgspec.field(default_factory=dict)
    annotations: dict[str, str] = msgspec.field(default_factory=dict)
    handler: str = ""
    requested_handler: str = ""
    host_network: bool = False
    isolated: bool = False
    """Its network is a loopback and nothing else."""
    origin: Origin = Origin.CRI
    sole_name: bool = False
    """No other such sandbox may have its name (runtimed.use.sandbox.names)."""
    remove_ended: bool = False
    """It goes when its containers have ended (runtimed.use.sandbox.departures)."""
    remove_unstarted: bool = False
    """And when who was to start them at once has left without it."""
    host_ipc: bool = False
    hostname: str = ""
    cgroup_parent: str = ""
    created_at_ns: int = 0
    ready_at_ns: int = 0
    boot_id: str = ""
    """The boot of the machine in which it became READY: nothing of it is left in a later one."""
    ips: list[str] = msgspec.field(default_factory=list)
    cni_result: bytes = b""
    namespaces: dict[str, str] = msgspec.field(default_factory=dict)
    """Pinned path by OCI namespace type."""
    pause_pid: int = 0
    error: str = ""
    """Why the set-up failed, when it did."""
    overhead: bytes = b""
    """CRI's LinuxContainerResources: what the pod costs beside its containers, as told last."""
    resources: bytes = b""
    """The same of the sum of its containers."""
    restoring: bool = False
    """Its containers are still being made from a checkpoint: without its restore it is nothing."""
    network_released: bool = False
    """CNI DEL went through."""
    traceparent: str = ""


class User(msgspec.Struct, frozen=True):
    """Who the init of a container runs as."""

    uid: int = 0
    gid: int = 0
    groups: list[int] = []


class ContainerRecord(Record, frozen=True, kw_only=True):
    """One container."""

    key: str
    sandbox_id: str
    origin: Origin = Origin.CRI
    """Its sandbox's."""
    state: ContainerState = ContainerState.CREATING
    config: bytes = b""
    name: str = ""
    attempt: int = 0
    labels: dict[str, str] = msgspec.field(default_factory=dict)
    annotations: dict[str, str] = msgspec.field(default_factory=dict)
    image: str = ""
    image_id: str = ""
    image_ref: str = ""
    from_checkpoint: bool = False
    """Its start continues the dump that is beside its record."""
    request: bytes = b""
    """The whole request while CREATING, so that a restarted runtimed can finish it."""
    created_at_ns: int = 0
    started_at_ns: int = 0
    finished_at_ns: int = 0
    exit_code: int = 0
    signal: int = 0
    reason: str = ""
    message: str = ""
    log_path: str = ""
    pid: int = 0
    pid_started_ticks: int = 0
    """Start time of the pid, so that a pid used again is not taken for it."""
    socket_path: str = ""
    bundle_path: str = ""
    rootfs: str = ""
    cgroup: CgroupPlan | None = None
    resources: bytes = b""
    """CRI's LinuxContainerResources as they are now."""
    volumes: dict[str, str] = msgspec.field(default_factory=dict)
    """Host directory of each image volume, by its path in the container."""
    user: User = User()
    command: str = ""
    """What its init runs, in words for lists; its beginning when it is long."""
    stop_signal: int = 15
    marks: list[Mark] = msgspec.field(default_factory=list)
    """What tells why it ended."""
    memory: dict[str, int] = msgspec.field(default_factory=dict)
    """What its cgroup knew of memory when it ended: limit_bytes, peak_bytes, oom_kill, max, high."""
    pids: dict[str, int] = msgspec.field(default_factory=dict)
    """What its cgroup knew of processes when it ended: limit (none without one), hits."""
    dropped_bytes: int = 0
    """Of its output that no log took."""
    traceparent: str = ""
