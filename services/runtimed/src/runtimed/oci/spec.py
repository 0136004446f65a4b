"""The OCI configuration of one container."""

from fnmatch import fnmatchcase
from typing import Any

import msgspec

from common.errors import InvalidArgumentError
from common.sys.hostroot import HostRoot
from common.sys.userns import IdMappings
from runtimed.oci import (
    cdi,
    cgroups,
    devices,
    idmaps,
    mounts,
    process,
    rlimits,
    scope,
    security,
    sources,
    sysctls,
)
from runtimed.oci.cgroups import V2, CgroupPlan
from runtimed.oci.mounts import image_volumes
from runtimed.oci.validate import validate_container, validate_sandbox

__all__ = [
    "SpecInput",
    "build",
    "image_volumes",
    "process_for_exec",
    "validate_container",
    "validate_sandbox",
]

OCI_VERSION = "1.0.2"  # the lowest that has all of it: crun 1.8 refuses 1.3

# Annotations that crun, runc, systemd and VM runtimes obey.
STEERING_PREFIXES = (
    "run.oci.",
    "org.systemd.property.",
    "module.wasm.image",
    "krun.",
    "io.katacontainers.",
    "io.kubernetes.cri.",
)


class SpecInput(msgspec.Struct, frozen=True, kw_only=True):
    """All that a configuration depends on.

    Attributes:
        container: CRI ContainerConfig.
        sandbox: CRI PodSandboxConfig.
        image_config: the OCI image configuration, whole.
        rootfs: absolute path of the root directory; /etc/passwd and /etc/group are read from it.
        ids: what the sandbox's user namespace maps; None for the host's.
        namespaces: pinned path by OCI type; "" is a new private one; an absent type is the host's.
        resolv_conf, hostname_file: files to mount; "" for none.
        shm_path: the sandbox's /dev/shm; "" for the host's.
        host_caps: what this process may give, as CAP_ names.
        never_made: mount sources that are refused when missing, rather than made.
        ulimits: soft and hard limits by name.
        allowed_annotations: globs of those that the runtime gets of the pod too, and although they steer it.
        tmpfs: options of file systems in memory by their paths.
        hosts_file: a file to mount on /etc/hosts; "" for none.
        host: where the host's paths are.
        cdi_dirs: where CDI specifications are; a later directory goes before an earlier.
    """

    container_id: str
    sandbox_id: str
    container: Any
    sandbox: Any
    image_config: dict[str, Any]
    rootfs: str
    namespaces: dict[str, str]
    ids: IdMappings | None = None
    cgroup: CgroupPlan
    resolv_conf: str
    hostname: str
    hostname_file: str
    shm_path: str
    seccomp_profile_root: str
    host_caps: frozenset[str]
    never_made: tuple[str, ...]
    cdi_dirs: tuple[str, ...]
    ulimits: dict[str, tuple[int, int]]
    handler_annotations: dict[str, str]
    host: HostRoot
    allowed_annotations: tuple[str, ...] = ()
    tmpfs: dict[str, list[str]] = {}
    hosts_file: str = ""


def build(inp: SpecInput) -> dict[str, Any]:
    """config.json. Blocking: reads the rootfs and the host's devices, makes missing mount sources.

    Raises:
        InvalidArgumentError: a field's value cannot work, with its name.
        NotFoundError: a seccomp profile or a CDI device is not there.
        UnimplementedError: something that this node does not offer.
    """
    context = inp.container.linux.security_context
    mounts.check_root(inp.rootfs)
    mounted = sources.prepare(inp.container, inp.never_made, inp.host, inp.namespaces.get("user", ""))
    found = process.build(
        inp.container,
        inp.image_config,
        rootfs=inp.rootfs,
        hostname=inp.hostname,
        host_caps=inp.host_caps,
    )
    profile = security.apparmor_profile(context)
    label, mount_label = security.selinux_labels(context)
    if inp.ulimits:
        found["rlimits"] = rlimits.build(inp.ulimits, inp.host_caps)
    if profile:
        found["apparmorProfile"] = profile
    if label:
        found["selinuxLabel"] = label
    linux = _linux(inp, frozenset(found["capabilities"]["bounding"]))
    spec: dict[str, Any] = {
        "ociVersion": OCI_VERSION,
        "process": found,
        "root": {"path": inp.rootfs, "readonly": context.readonly_rootfs},
        "mounts": mounts.build(
            inp.container,
            mounted,
            shm_path=inp.shm_path,
            resolv_conf=inp.resolv_conf,
            hostname_file=inp.hostname_file,
            hosts_file=inp.hosts_file,
            tmpfs=inp.tmpfs,
        ),
        "annotations": _annotations(inp) | scope.annotations(inp.cgroup, linux["resources"]),
        "linux": linux,
    }
    if mount_label:
        spec["linux"]["mountLabel"] = mount_label
    cdi.apply(spec, cdi.requested(inp.container), inp.cdi_dirs, inp.host)
    if inp.namespaces.get("uts") == "":
        spec["hostname"] = inp.hostname  # a pinned namespace has its name already
    return spec


def _linux(inp: SpecInput, caps: frozenset[str]) -> dict[str, Any]:
    context = inp.container.linux.security_context
    nodes, rules = devices.build(inp.container, inp.host)
    limits = cgroups.resources(inp.container.linux.resources, inp.cgroup.version)
    masked, readonly = security.hidden_paths(inp.container)
    linux: dict[str, Any] = {
        "namespaces": _namespaces(inp),
        "cgroupsPath": inp.cgroup.oci_path,
        "resources": {"devices": rules, **limits},
        "devices": nodes,
        "maskedPaths": masked,
        "readonlyPaths": readonly,
    }
    if inp.ids:
        linux["uidMappings"] = idmaps.to_oci(inp.ids.uids)
        linux["gidMappings"] = idmaps.to_oci(inp.ids.gids)
    private = {kind for kind, path in inp.namespaces.items() if not path}
    settings = sysctls.check(dict(inp.sandbox.linux.sysctls), inp.namespaces)
    own = {
        path.replace("/", "."): value
        for path, value in settings.items()
        if sysctls.namespace_of(path) in private
    }
    if own:
        linux["sysctl"] = own
    propagation = mounts.rootfs_propagation(inp.container)
    if propagation:
        linux["rootfsPropagation"] = propagation
    seccomp = security.seccomp(context, caps, inp.seccomp_profile_root, inp.host)
    if seccomp is not None:
        linux["seccomp"] = seccomp
    return linux


def _namespaces(inp: SpecInput) -> list[dict[str, str]]:
    wanted = {"mount": "", **inp.namespaces}
    if inp.cgroup.version == V2 and not inp.container.linux.security_context.privileged:
        wanted.setdefault("cgroup", "")  # hides where on the node the container is
    return [{"type": kind, "path": path} if path else {"type": kind} for kind, path in wanted.items()]


def _annotations(inp: SpecInput) -> dict[str, str]:
    """The request's annotations for hooks, without those that steer the OCI runtime itself (CVE-2024-3154) unless the node allows them."""

    def allowed(key: str) -> bool:
        return any(fnmatchcase(key, glob) for glob in inp.allowed_annotations)

    found = {key: value for key, value in inp.sandbox.annotations.items() if allowed(key)}
    found |= {
        key: value
        for key, value in inp.container.annotations.items()
        if allowed(key) or not key.startswith(STEERING_PREFIXES)
    }
    metadata = inp.sandbox.metadata
    prefix = "io.kubernetes.cri"
    return found | {
        f"{prefix}.container-type": "container",
        f"{prefix}.container-name": inp.container.metadata.name,
        f"{prefix}.sandbox-id": inp.sandbox_id,
        f"{prefix}.sandbox-name": metadata.name,
        f"{prefix}.sandbox-namespace": metadata.namespace,
        f"{prefix}.sandbox-uid": metadata.uid,
        f"{prefix}.image-name": inp.container.image.user_specified_image or inp.container.image.image,
        **inp.handler_annotations,
    }


def process_for_exec(spec: dict[str, Any], cmd: list[str], *, tty: bool) -> dict[str, Any]:
    """process.json of an exec: the container's process with other words.

    Raises:
        InvalidArgumentError: there is no command.
    """
    if not cmd or not cmd[0]:
        raise InvalidArgumentError("cmd: is empty")
    if any("\x00" in word for word in cmd):
        raise InvalidArgumentError("cmd: a word has a zero byte")
    found = {**spec["process"], "args": list(cmd), "terminal": tty}
    if tty and not any(item.startswith("TERM=") for item in found["env"]):
        found["env"] = [*found["env"], "TERM=xterm"]
    return found
