"""What a sandbox has on the machine: pinned namespaces, its files, /dev/shm, its wish for an interface."""

import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio.to_thread

from common.api.cri.v1 import api_pb2 as cri
from common.sys import linux
from common.sys.hostroot import HostRoot
from runtimed.network import bandwidth, hostfiles, netns
from runtimed.network.cni import Attachment
from runtimed.oci import idmaps, sysctls
from runtimed.oci.validate import own_namespaces
from runtimed.record import SandboxRecord

_OCI_TYPE = {"net": "network", "ipc": "ipc", "uts": "uts", "user": "user"}
_PIN_KIND = {oci: kind for kind, oci in _OCI_TYPE.items()}


def prepare_directory(
    directory: Path, config: cri.PodSandboxConfig, hostname: str, shm_bytes: int, host: HostRoot
) -> None:
    """Write resolv.conf and hostname, and mount /dev/shm unless it is the node's. Blocking."""
    (directory / "ns").mkdir(mode=0o700, parents=True, exist_ok=True)
    host_network = config.linux.security_context.namespace_options.network == cri.NODE
    hostfiles.write_resolv_conf(
        str(directory / "resolv.conf"), config.dns_config, host, host_network=host_network
    )
    hostfiles.write_hostname(str(directory / "hostname"), hostname)
    ids = idmaps.of_sandbox(config)
    root = (ids.uids.to_host(0), ids.gids.to_host(0)) if ids else (0, 0)
    if ids:
        for name in ("resolv.conf", "hostname"):
            os.chown(directory / name, *root)
    if shm_bytes:
        shm = directory / "shm"
        shm.mkdir(exist_ok=True)
        flags = linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC
        linux.mount(
            "shm", str(shm), "tmpfs", flags, f"mode=1777,size={shm_bytes},uid={root[0]},gid={root[1]}"
        )


async def remove_directory(directory: Path) -> None:
    """Unmount /dev/shm and remove the directory; idempotent."""
    await anyio.to_thread.run_sync(_remove_directory, directory)


def _remove_directory(directory: Path) -> None:
    shm = directory / "shm"
    while shm.is_mount():
        linux.umount(str(shm), linux.MNT_DETACH | linux.UMOUNT_NOFOLLOW)
    with suppress(FileNotFoundError):
        shutil.rmtree(directory)


async def pin(
    directory: Path, record: SandboxRecord, config: cri.PodSandboxConfig, defaults: Mapping[str, str]
) -> dict[str, str]:
    """Make the sandbox's own namespaces; returns pinned paths by OCI type. It may ask for other sysctls than the defaults."""
    own, ids = own_namespaces(config), idmaps.of_sandbox(config)
    if not own:
        return {}
    asked = sysctls.check(dict(config.linux.sysctls), own)
    pinned = await netns.pin(
        str(directory / "ns"),
        tuple(_PIN_KIND[name] for name in own),
        sysctls=sysctls.defaults(defaults, own, mapped=ids is not None) | asked,
        hostname=record.hostname,
        ids=ids,
    )
    return {_OCI_TYPE[kind]: path for kind, path in pinned.items()}


async def unpin(directory: Path) -> None:
    await netns.unpin(str(directory / "ns"))


async def pin_pid(directory: Path, pid: int) -> str:
    """Pin the PID namespace of a process, so that its number cannot come to mean another one's."""
    target = directory / "pid"
    await anyio.to_thread.run_sync(_bind, f"/proc/{pid}/ns/pid", target)
    return str(target)


def _bind(source: str, target: Path) -> None:
    target.touch(mode=0o600)
    if not is_pinned(str(target)):
        linux.mount(source, str(target), None, linux.MS_BIND)


async def unpin_pid(directory: Path) -> None:
    """Idempotent."""
    await anyio.to_thread.run_sync(_unbind, directory / "pid")


def _unbind(target: Path) -> None:
    while is_pinned(str(target)):
        linux.umount(str(target), linux.MNT_DETACH | linux.UMOUNT_NOFOLLOW)
    target.unlink(missing_ok=True)


def is_pinned(path: str) -> bool:
    """Whether a namespace is mounted there: an unmounted pin is an empty file of another filesystem."""
    try:
        return Path(path).stat().st_dev == Path("/proc/self/ns/net").stat().st_dev
    except OSError:
        return False


def attachment(record: SandboxRecord, config: cri.PodSandboxConfig, netns_path: str) -> Attachment:
    """What CNI plugins are told about a sandbox."""
    return Attachment(
        sandbox_id=record.id,
        netns_path=netns_path,
        pod_name=record.name,
        pod_namespace=record.namespace,
        pod_uid=record.uid,
        port_mappings=[_port(mapping) for mapping in config.port_mappings if mapping.host_port],
        dns={
            "servers": list(config.dns_config.servers),
            "searches": list(config.dns_config.searches),
            "options": list(config.dns_config.options),
        }
        if config.HasField("dns_config")
        else {},
        bandwidth=bandwidth.limits(record.annotations),
        labels=record.labels,
        annotations=record.annotations,
        cgroup_path=record.cgroup_parent,
    )


def _port(mapping: cri.PortMapping) -> dict[str, Any]:
    return {
        "hostPort": mapping.host_port,
        "containerPort": mapping.container_port,
        "protocol": cri.Protocol.Name(mapping.protocol).lower(),
        "hostIP": mapping.host_ip,
    }
