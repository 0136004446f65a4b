"""Settings of runtimed."""

from typing import Literal

import msgspec

from common.errors import InvalidArgumentError
from common.settings import CommonSettings, Count, Percent, Seconds
from runtimed.oci import rlimits, sysctls


class Handler(msgspec.Struct, frozen=True, kw_only=True):
    """One way to run containers: an OCI runtime by its command line."""

    binary: str
    args: list[str] = []
    """Arguments before the verb; --systemd-cgroup is added by the cgroup driver."""
    root: str = ""
    """--root of the OCI runtime; empty for RUN_DIR/runtimed/oci/<handler>."""
    snapshotter: str = ""
    """Empty for snapshotd's default."""
    sandboxed: bool = False
    """Its processes live in a kernel of their own and are reached by its command alone, which is runsc's."""
    annotations: dict[str, str] = {}
    """Annotations of every configuration that this runtime gets; they win over those of a request."""
    allowed_annotations: list[str] = []
    """Globs of annotations that pods and their containers may steer this runtime by, as io.katacontainers.*; it gets a pod's only so."""


def _handlers() -> dict[str, Handler]:
    """runsc: each container is a sandbox of its own, and uses the pod's network as the others do."""
    return {
        "crun": Handler(binary="crun"),
        "runc": Handler(binary="runc"),
        "runsc": Handler(
            binary="runsc",
            args=["--network=host"],
            sandboxed=True,
            annotations={"io.kubernetes.cri.container-type": "sandbox"},
        ),
    }


def _sysctls() -> dict[str, str]:
    return {"net.ipv4.ip_unprivileged_port_start": "0", "net.ipv4.ping_group_range": "0 2147483647"}


class Settings(CommonSettings, frozen=True, kw_only=True):
    """What an operator may choose; every duration is in seconds."""

    handlers: dict[str, Handler] = msgspec.field(default_factory=_handlers)
    """OCI runtimes by the names that a RuntimeClass gives them; this table replaces the default one."""
    default_handler: str = "crun"
    """What an empty runtime_handler means."""
    cni_conf_dir: str = "/etc/cni/net.d"
    """Where *.conflist files are; the first by name is the pods' network."""
    cni_conf_template: str = ""
    """A file in which the ranges of a kubelet's pod CIDR are put; it becomes 10-slipway.conflist when there is no network."""
    cni_bin_dirs: tuple[str, ...] = ("/opt/cni/bin", "/usr/lib/cni")
    """Where CNI plugins are looked for, in this order."""
    cgroup_driver: Literal["cgroupfs", "systemd"] = "cgroupfs"
    """Who makes the cgroups; the kubelet asks for it and does the same."""
    host_root: str = ""
    """Where the host's root directory is mounted, for runtimed and shimd in containers: what a request calls a host path is looked for below it. Empty where ours is the host's."""
    max_line_bytes: Count = 16_384
    """A line of output longer than this is split in the log."""
    seccomp_profile_root: str = "/var/lib/kubelet/seccomp"
    """Where localhost seccomp profiles with a relative name are."""
    absent_mount_sources_to_reject: tuple[str, ...] = ("/etc/hostname", "/etc/hosts", "/etc/resolv.conf")
    """A mount's missing source is made as a directory, but for these: they are files, and missing they break a node."""
    cdi_spec_dirs: tuple[str, ...] = ("/etc/cdi", "/var/run/cdi")
    """Specifications of CDI devices, *.json and *.yaml; a later directory goes before an earlier."""
    default_ulimits: dict[str, tuple[int, int]] = msgspec.field(default_factory=dict)
    """Soft and hard limit of every container by name, as nofile = [1024, 524288]; -1 is unlimited. Else shimd's."""
    default_sysctls: dict[str, str] = msgspec.field(default_factory=_sysctls)
    """Of every pod that asks for no other value, in namespaces of its own: users other than root may listen on ports below 1024, and ping."""
    show_command_pods: bool = False
    """Whether CRI's lists and events show what `slipway run` made too: a kubelet takes that for orphans, and ends it."""
    shm_size_bytes: Count = 64 << 20
    """Size of the shared memory (shm) of a sandbox."""
    boot_id_path: str = "/proc/sys/kernel/random/boot_id"
    """What this file holds is another with each boot of the machine; then no sandbox of before is ready."""
    reconcile_every_s: Seconds = 60.0
    """How often records, shims, cgroups, mounts and networks are compared, and mended."""
    cleanup_s: Seconds = 60.0
    """The most that undoing a failed set-up may take."""
    start_timeout_s: Seconds = 120.0
    """The most that an OCI runtime may take to start a container."""
    kill_wait_s: Seconds = 30.0
    """How long a stop waits for the end after SIGKILL."""
    criu_binary: str = "criu"
    """Asked whether this machine can checkpoint."""
    checkpoint_timeout_s: Seconds = 120.0
    """The most that CheckpointContainer may take when it names no time."""
    pressure_every_s: Seconds = 5.0
    """How often the node and its containers are looked at for pressure."""
    pressure_calm_s: Seconds = 30.0
    """How long a value must stay below 9/10 of its threshold until its pressure is called cleared."""
    pressure_cpu_percent: Percent = 90.0
    """Of the last 10 s in which a process waited for a processor: from here on it is pressure. 0 is never, here and below."""
    pressure_memory_percent: Percent = 20.0
    """The same for memory."""
    pressure_io_percent: Percent = 60.0
    """The same for block devices."""
    pressure_disk_percent: Percent = 85.0
    """Of the data directory's filesystem in use, in bytes or in inodes."""
    pressure_limit_percent: Percent = 90.0
    """Of a container's memory limit in use."""
    event_buffer: Count = 1000
    """Events that one reader of GetContainerEvents may be behind before it is cut off."""

    def __post_init__(self) -> None:
        """Refuse what no pod could start with."""
        rlimits.check("default_ulimits", self.default_ulimits)
        try:
            sysctls.check(self.default_sysctls, sysctls.KINDS)
        except InvalidArgumentError as exc:
            raise ValueError(f"default_{exc.message}") from exc
        if self.default_handler not in self.handlers:
            raise ValueError(
                f"default_handler {self.default_handler!r} is none of {', '.join(self.handlers)}"
            )
