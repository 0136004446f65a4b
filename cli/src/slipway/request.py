"""The options of `run` as CRI's configurations."""

import os
import re
import uuid
from argparse import Namespace

from common.api.cri.v1 import api_pb2 as cri
from common.errors import InvalidArgumentError
from slipway.connect import OWNER

NAMESPACE = "slipway"
"""Namespace of the pods that `run` makes."""
MASKED_PATHS = (
    *("/proc/asound", "/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list"),
    *("/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware"),
    "/sys/devices/virtual/powercap",
)
READONLY_PATHS = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
LOG_NAME = "0.log"
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,62}")
_UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
_CPU_PERIOD_US = 100_000
_MAX_CPUS = 8192
_MAX_BYTES = 2**63 - 1
_PROTOCOLS = {"tcp": cri.TCP, "udp": cri.UDP, "sctp": cri.SCTP}
_PROPAGATION = {
    "rprivate": cri.PROPAGATION_PRIVATE,
    "rslave": cri.PROPAGATION_HOST_TO_CONTAINER,
    "rshared": cri.PROPAGATION_BIDIRECTIONAL,
}
MAX_UID = 2**31 - 1


def name_of(options: Namespace) -> str:
    """The wanted name, or one from the image's.

    Raises:
        InvalidArgumentError: it has characters that a name cannot have.
    """
    if options.name:
        if not _NAME.fullmatch(options.name):
            message = f"--name {options.name!r}: want letters, digits, '.', '_' and '-', 63 at most"
            raise InvalidArgumentError(message)
        return str(options.name)
    image = options.image.partition("@")[0].rsplit("/", 1)[-1].partition(":")[0]
    stem = re.sub(r"[^a-zA-Z0-9_.-]", "", image)[:40].lstrip("_.-") or "container"
    return f"{stem}-{uuid.uuid4().hex[:6]}"


def sandbox(options: Namespace, name: str, log_root: str) -> cri.PodSandboxConfig:
    """The pod of one container."""
    uid = str(uuid.uuid4())
    config = cri.PodSandboxConfig(
        metadata=cri.PodSandboxMetadata(name=name, uid=uid, namespace=NAMESPACE),
        log_directory=f"{log_root}/{uid}",
        labels={OWNER: "run"},
        port_mappings=[_port(text) for text in options.publish],
    )
    if options.network == "pod":
        config.hostname = options.hostname or re.sub(r"[^a-zA-Z0-9-]", "-", name).strip("-")
    elif options.publish or options.hostname:
        message = "--publish and --hostname need a network of the pod's own: leave out --network host"
        raise InvalidArgumentError(message)
    security = config.linux.security_context
    security.privileged = options.privileged
    security.namespace_options.CopyFrom(_namespaces(options))
    return config


def container(options: Namespace, name: str, image_id: str) -> cri.ContainerConfig:
    """The container itself."""
    config = cri.ContainerConfig(
        metadata=cri.ContainerMetadata(name=name),
        image=cri.ImageSpec(image=image_id, user_specified_image=options.image),
        command=[options.entrypoint] if options.entrypoint else [],
        args=options.command,
        working_dir=options.workdir,
        envs=[variable for text in options.env if (variable := _environment(text))],
        mounts=[_mount(text) for text in options.volume],
        labels={OWNER: "run"},
        log_path=LOG_NAME,
        stdin=options.interactive,
        # A terminal outlives whoever detaches from it; the end of a pipe is told.
        stdin_once=options.interactive and not options.detach and not options.tty,
        tty=options.tty,
    )
    limits(config.linux.resources, options)
    _secure(config.linux.security_context, options)
    return config


def limits(resources: cri.LinuxContainerResources, options: Namespace) -> None:
    """What it may use at most; what is not given stays as it is.

    Raises:
        InvalidArgumentError: a value that can never work.
    """
    if options.memory:
        resources.memory_limit_in_bytes = size_bytes("--memory", options.memory)
    if options.memory_swap:
        unlimited = options.memory_swap == "-1"
        swap = -1 if unlimited else size_bytes("--memory-swap", options.memory_swap)
        resources.memory_swap_limit_in_bytes = swap
    if not 0 <= options.cpus <= _MAX_CPUS:
        message = f"--cpus {options.cpus:g}: want a number of processors, such as 1.5; 0 is no limit"
        raise InvalidArgumentError(message)
    if options.cpus:
        resources.cpu_period = _CPU_PERIOD_US
        resources.cpu_quota = int(options.cpus * _CPU_PERIOD_US)
    if options.cpu_shares < 0:
        message = f"--cpu-shares {options.cpu_shares}: want a weight from 2 to 262144"
        raise InvalidArgumentError(message)
    resources.cpu_shares = options.cpu_shares
    resources.cpuset_cpus = options.cpuset_cpus
    resources.cpuset_mems = options.cpuset_mems
    if options.pids_limit is not None:
        if options.pids_limit < -1 or options.pids_limit == 0:
            message = f"--pids-limit {options.pids_limit}: want a number above 0; -1 is no limit"
            raise InvalidArgumentError(message)
        resources.unified["pids.max"] = "max" if options.pids_limit < 0 else str(options.pids_limit)


def _secure(security: cri.LinuxContainerSecurityContext, options: Namespace) -> None:
    security.privileged = options.privileged
    security.readonly_rootfs = options.read_only
    security.namespace_options.CopyFrom(_namespaces(options))
    if not options.privileged:
        # CRI takes empty lists for "none", so the defaults have to be spelled out.
        security.masked_paths.extend(MASKED_PATHS)
        security.readonly_paths.extend(READONLY_PATHS)
        security.seccomp.profile_type = cri.SecurityProfile.RuntimeDefault
    user, _, group = options.user.partition(":")
    if _is_id(user):
        security.run_as_user.value = int(user)
    else:
        security.run_as_username = user
    if group:
        if not _is_id(group):
            message = f"--user {options.user!r}: the group has to be a number, {MAX_UID} at most"
            raise InvalidArgumentError(message)
        security.run_as_group.value = int(group)


def _is_id(text: str) -> bool:
    return text.isascii() and text.isdecimal() and int(text) <= MAX_UID


def _namespaces(options: Namespace) -> cri.NamespaceOption:
    network = cri.NODE if options.network == "host" else cri.POD
    return cri.NamespaceOption(network=network, pid=cri.CONTAINER, ipc=cri.POD)


def _environment(text: str) -> cri.KeyValue | None:
    """A variable; None for one that is to be passed on and that we do not have."""
    key, joint, value = text.partition("=")
    if not key:
        message = f"--env {text!r}: want KEY=VALUE, or KEY to pass on our own"
        raise InvalidArgumentError(message)
    if not joint:
        ours = os.environ.get(key)  # noqa: TID251 - `-e KEY` passes on the caller's, as docker's
        if ours is None:
            return None
        value = ours
    return cri.KeyValue(key=key, value=os.fsencode(value))


def _mount(text: str) -> cri.Mount:
    host, _, rest = text.partition(":")
    where, _, flags = rest.partition(":")
    if not host.startswith("/") or not where.startswith("/"):
        message = f"--volume {text!r}: want HOST:CONTAINER[:ro], both absolute paths"
        raise InvalidArgumentError(message)
    mount = cri.Mount(host_path=host, container_path=where)
    for flag in filter(None, flags.split(",")):
        if flag in ("ro", "rw"):
            mount.readonly = flag == "ro"
        elif flag in _PROPAGATION:
            mount.propagation = _PROPAGATION[flag]
        else:
            message = f"--volume {text!r}: {flag!r} is none of ro, rw, {', '.join(_PROPAGATION)}"
            raise InvalidArgumentError(message)
    return mount


def _port(text: str) -> cri.PortMapping:
    match = re.fullmatch(r"(?:(\[[0-9a-fA-F:]+\]|[0-9.]+):)?(\d{1,5}):(\d{1,5})(?:/(tcp|udp|sctp))?", text)
    if not match or not all(0 < int(match[i]) < 65536 for i in (2, 3)):
        message = f"--publish {text!r}: want [IP:]HOST:CONTAINER[/tcp|udp|sctp], ports from 1 to 65535"
        raise InvalidArgumentError(message)
    return cri.PortMapping(
        host_ip=(match[1] or "").strip("[]"),
        host_port=int(match[2]),
        container_port=int(match[3]),
        protocol=_PROTOCOLS[match[4] or "tcp"],
    )


def size_bytes(option: str, text: str) -> int:
    """A size such as 256m.

    Raises:
        InvalidArgumentError: it is none.
    """
    match = re.fullmatch(r"([0-9]{1,19})([bkmg]?)", text.lower())
    count = int(match[1]) * _UNITS[match[2]] if match else 0
    if not 0 < count <= _MAX_BYTES:
        message = f"{option} {text!r}: want a number above 0 and b, k, m or g, such as 256m"
        raise InvalidArgumentError(message)
    return count
