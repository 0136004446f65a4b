"""The OCI bundle of a container: its configuration and its image volumes."""

import json
import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import anyio.to_thread

from common.api.cri.v1 import api_pb2 as cri
from common.api.runtime.v1 import runtime_pb2 as pb
from common.errors import FailedPreconditionError, InvalidArgumentError, NotFoundError
from common.sys.userns import IdMappings
from runtimed import convert, processes, signals
from runtimed.network import hostfiles
from runtimed.oci import capabilities, cgroups, extras, idmaps, scope, spec
from runtimed.oci.cgroups import CgroupPlan
from runtimed.ops import Op
from runtimed.record import ContainerRecord, SandboxRecord, User
from runtimed.use.bundles import imagemounts, volumes
from runtimed.use.ground import network, pause
from runtimed.use.parts import Parts

CONFIG = "config.json"
HOSTS = "hosts"
MAX_IMAGE_CONFIG_BYTES = 8 << 20
MAX_COMMAND = 512
"""Characters of what a container runs that its record has for lists."""


@dataclass(frozen=True)
class Roots:
    """Mounted snapshots of a container: its root, and by their references the images that it mounts."""

    own: str
    images: dict[str, str]


async def make(
    parts: Parts,
    record: ContainerRecord,
    sandbox: SandboxRecord,
    wanted: pb.CreateContainerRequest,
    roots: Roots,
) -> dict[str, Any]:
    """Write the bundle; returns the fields of the record that are known by now."""
    image = _image_config(wanted.image.config)
    request = wanted.request
    given = sandbox_config(sandbox, request)
    namespaces = await _namespaces(parts, record, sandbox, request.config)
    stop_signal = _stop_signal(request.config, image)
    mounted = [mount.host_path for mount in request.config.mounts if not imagemounts.is_image(mount)]
    await parts.hostpaths.check("mounts.host_path", mounted)
    found = _Findings(record, sandbox, request.config, given, image, namespaces, roots, wanted.extras)
    facts = await anyio.to_thread.run_sync(partial(_write, parts, found), abandon_on_cancel=True)
    return facts | {"stop_signal": stop_signal, "log_path": _log_path(given, request.config)}


def sandbox_config(sandbox: SandboxRecord, request: cri.CreateContainerRequest) -> cri.PodSandboxConfig:
    """What the request says of its sandbox, or else what the sandbox was made with."""
    if request.HasField("sandbox_config"):
        return request.sandbox_config
    return convert.sandbox_config(sandbox)


@dataclass(frozen=True)
class _Findings:
    """What a bundle is made from."""

    record: ContainerRecord
    sandbox: SandboxRecord
    config: cri.ContainerConfig
    given: cri.PodSandboxConfig
    image: dict[str, Any]
    namespaces: dict[str, str]
    roots: Roots
    extras: pb.ContainerExtras


def _write(parts: Parts, found: _Findings) -> dict[str, Any]:
    """Volumes, hosts file and configuration. Blocking."""
    record, sandbox, rootfs = found.record, found.sandbox, found.roots.own
    bundle = parts.bundle_dir(record.id)
    bundle.mkdir(mode=0o700, parents=True, exist_ok=True)
    ids = idmaps.of_sandbox(convert.sandbox_config(sandbox))
    held = volumes.make(parts.record_dir(record.id) / "volumes", found.image, found.config, rootfs, ids)
    parent = found.given.linux.cgroup_parent or sandbox.cgroup_parent
    cgroup = cgroups.plan(parts.settings.cgroup_driver, parent, record.id, parts.cgroup_version)
    made = spec.build(
        _spec_input(
            parts,
            found,
            container=_with_mounts(found, held),
            ids=ids,
            cgroup=cgroup,
            hosts_file=_write_hosts(parts, found, ids),
        )
    )
    (bundle / CONFIG).write_text(json.dumps(made))
    user = made["process"]["user"]
    return {
        "bundle_path": str(bundle),
        "rootfs": rootfs,
        "cgroup": cgroup,
        "volumes": held,
        "user": User(
            uid=user.get("uid", 0), gid=user.get("gid", 0), groups=list(user.get("additionalGids", ()))
        ),
        "command": _in_words(made["process"]["args"]),
    }


def _with_mounts(found: _Findings, held: dict[str, str]) -> cri.ContainerConfig:
    """The container's configuration with the paths of mounted images, and with its image volumes."""
    config = cri.ContainerConfig()
    config.CopyFrom(found.config)
    for mount in config.mounts:
        if imagemounts.is_image(mount):
            mount.host_path = imagemounts.locate(mount, found.roots.images[mount.image.image])
            del mount.uidMappings[:], mount.gidMappings[:]  # the snapshot is mapped as a whole
    config.mounts.extend(cri.Mount(container_path=path, host_path=source) for path, source in held.items())
    return config


def _write_hosts(parts: Parts, found: _Findings, ids: IdMappings | None) -> str:
    """Where the container's /etc/hosts is; empty when it mounts one of its own, as a kubelet has it. Blocking.

    Few images have one, and without it nobody finds localhost, nor the container itself by its name.
    """
    if any(mount.container_path == hostfiles.HOSTS for mount in found.config.mounts):
        return ""
    node = "" if "network" in found.namespaces else hostfiles.host_hosts(parts.host)
    text = extras.hosts(found.extras, found.sandbox.hostname, found.sandbox.ips, node)
    path = parts.record_dir(found.record.id) / HOSTS
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o644)
    if ids:
        os.chown(path, ids.uids.to_host(0), ids.gids.to_host(0))
    return str(path)


def _spec_input(
    parts: Parts,
    found: _Findings,
    *,
    container: cri.ContainerConfig,
    ids: IdMappings | None,
    cgroup: CgroupPlan,
    hosts_file: str,
) -> spec.SpecInput:
    sandbox, settings = found.sandbox, parts.settings
    handler = parts.handler(sandbox.handler)[1]
    sandbox_dir = parts.sandbox_dir(sandbox.id)
    return spec.SpecInput(
        container_id=found.record.id,
        sandbox_id=sandbox.id,
        container=container,
        sandbox=found.given,
        image_config=found.image,
        rootfs=found.roots.own,
        namespaces=found.namespaces,
        ids=ids,
        cgroup=cgroup,
        resolv_conf=str(sandbox_dir / "resolv.conf"),
        hostname=sandbox.hostname,
        hostname_file=str(sandbox_dir / "hostname"),
        shm_path="" if sandbox.host_ipc else str(sandbox_dir / "shm"),
        seccomp_profile_root=settings.seccomp_profile_root,
        host_caps=capabilities.of_handler(parts.host_caps, sandboxed=handler.sandboxed),
        never_made=settings.absent_mount_sources_to_reject,
        cdi_dirs=settings.cdi_spec_dirs,
        ulimits=settings.default_ulimits | extras.ulimits(found.extras),
        tmpfs=extras.tmpfs(found.extras),
        hosts_file=hosts_file,
        handler_annotations=handler.annotations,
        allowed_annotations=tuple(handler.allowed_annotations),
        host=parts.host,
    )


def _in_words(args: list[str]) -> str:
    text = " ".join(args)
    return text if len(text) <= MAX_COMMAND else text[: MAX_COMMAND - 1] + "…"


async def _namespaces(
    parts: Parts, record: ContainerRecord, sandbox: SandboxRecord, config: cri.ContainerConfig
) -> dict[str, str]:
    """Path by OCI type, as SpecInput has it. Network, IPC and UTS are the sandbox's whatever a container says."""
    found = {kind: path for kind, path in sandbox.namespaces.items() if kind != "pid"}
    for kind, path in found.items():
        if not network.is_pinned(path):
            raise FailedPreconditionError(f"sandbox {sandbox.id}: its {kind} namespace is gone")
    mode, target = _pid_mode(sandbox, config)
    if mode == cri.POD:
        found["pid"] = await _pod_pid(parts, sandbox)
    elif mode == cri.CONTAINER:
        found["pid"] = ""
    elif mode == cri.TARGET:
        found["pid"] = await _target_pid(parts, record, target)
    return found


async def _target_pid(parts: Parts, record: ContainerRecord, target: str) -> str:
    """Another container's PID namespace, pinned: until the start its number may come to mean another process."""
    name = f"namespace_options.target_id {target!r}"
    other = parts.containers.store.find(target)
    if other is None or other.sandbox_id != record.sandbox_id:
        raise NotFoundError(f"{name}: no container of this sandbox")
    if not other.state.has_init:
        raise FailedPreconditionError(f"{name}: is {other.state}")
    directory = parts.bundle_dir(record.id)
    await anyio.to_thread.run_sync(partial(directory.mkdir, mode=0o700, parents=True, exist_ok=True))
    try:
        pinned = await network.pin_pid(directory, other.pid)
    except FileNotFoundError:
        pinned = ""
    if not pinned or not processes.alive(other.pid, other.pid_started_ticks):
        raise FailedPreconditionError(f"{name}: has ended")
    return pinned


def _pid_mode(sandbox: SandboxRecord, config: cri.ContainerConfig) -> tuple[int, str]:
    """The container's wish, else the sandbox's; that of one that says nothing is POD, CRI's zero."""
    own = config.linux.security_context
    given = cri.PodSandboxConfig.FromString(sandbox.config).linux.security_context
    options = (own if own.HasField("namespace_options") else given).namespace_options
    return options.pid, options.target_id


async def _pod_pid(parts: Parts, sandbox: SandboxRecord) -> str:
    """The sandbox's shared PID namespace, made when a container first asks for it."""
    pinned = sandbox.namespaces.get("pid", "")
    if pinned:
        return pinned

    async def share() -> str:
        pid = await parts.shims.spawn_pause(sandbox.id, sandbox.namespaces.get("user", ""))
        path = await network.pin_pid(parts.sandbox_dir(sandbox.id), pid)
        namespaces = parts.sandboxes.store.get(sandbox.id).namespaces | {"pid": path}
        pause.watch(parts, await parts.sandboxes.amend(sandbox.id, pause_pid=pid, namespaces=namespaces))
        return path

    return await parts.operations.join(Op.SHARE_PIDS.of(sandbox.id), share)


def _image_config(body: bytes) -> dict[str, Any]:
    if len(body) > MAX_IMAGE_CONFIG_BYTES:
        raise InvalidArgumentError(f"image.config: {len(body)} bytes are more than {MAX_IMAGE_CONFIG_BYTES}")
    try:
        found = json.loads(body or b"{}")
    except (ValueError, RecursionError) as exc:
        raise InvalidArgumentError(f"image.config: is no JSON: {exc}") from exc
    if not isinstance(found, dict) or not isinstance(found.get("config") or {}, dict):
        raise InvalidArgumentError("image.config: it or its config is no JSON object")
    try:
        json.dumps(found.get("config"), ensure_ascii=False).encode()
    except UnicodeEncodeError as exc:
        raise InvalidArgumentError("image.config: has half of a surrogate pair, which is no text") from exc
    return found


def _stop_signal(config: cri.ContainerConfig, image: dict[str, Any]) -> int:
    asked = signals.from_cri(config.stop_signal)
    if asked:
        return asked
    named = (image.get("config") or {}).get("StopSignal")
    # an image that names nonsense must not become unstoppable, nor refuse to run
    return (signals.number(named) if isinstance(named, str) and named else None) or signals.DEFAULT


def _log_path(given: cri.PodSandboxConfig, config: cri.ContainerConfig) -> str:
    if not given.log_directory or not config.log_path:
        return ""
    return str(Path(given.log_directory) / config.log_path)


def read_spec(bundle_path: str) -> dict[str, Any]:
    """A container's config.json. Blocking.

    Raises:
        NotFoundError: there is none, as after a reboot.
    """
    try:
        found: dict[str, Any] = json.loads((Path(bundle_path) / CONFIG).read_bytes())
    except OSError as exc:
        raise NotFoundError(f"bundle {bundle_path}: {exc.strerror}") from exc
    return found


def shown_spec(bundle_path: str) -> dict[str, Any] | None:
    """A container's config.json but for its variables, which may be secrets; None when there is none. Blocking."""
    try:
        found = read_spec(bundle_path)
    except NotFoundError:
        return None
    found["process"].pop("env", None)
    return found


def replace_limits(
    bundle_path: str, cgroup: CgroupPlan | None, resources: dict[str, Any], oom_score_adj: int | None
) -> None:
    """Give a container that was not started yet other limits. Blocking."""
    found = read_spec(bundle_path)
    old = found["linux"].get("resources", {})
    devices = old.get("devices", [])
    found["linux"]["resources"] = {"devices": devices, **resources}
    stale = scope.annotations(cgroup, old)
    kept = {key: text for key, text in found["annotations"].items() if key not in stale}
    found["annotations"] = kept | scope.annotations(cgroup, resources)
    if oom_score_adj is not None:
        found["process"]["oomScoreAdj"] = oom_score_adj
    path = Path(bundle_path) / CONFIG
    new = path.with_suffix(".new")
    new.write_text(json.dumps(found))
    new.replace(path)


async def remove(parts: Parts, container_id: str) -> None:
    """Remove a bundle; idempotent."""
    await network.unpin_pid(parts.bundle_dir(container_id))
    await anyio.to_thread.run_sync(_remove_tree, parts.bundle_dir(container_id))


def _remove_tree(directory: Path) -> None:
    with suppress(FileNotFoundError):
        shutil.rmtree(directory)


def remove_record_dir(directory: Path) -> None:
    """Remove a container's own directory with its volumes and exit record; idempotent. Blocking."""
    _remove_tree(directory)
