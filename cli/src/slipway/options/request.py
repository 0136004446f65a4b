"""The options of `run` as CRI's configurations, and what CRI has no word for."""

import ipaddress
import re
import uuid
from argparse import Namespace

from common.api.cri.v1 import api_pb2 as cri
from common.api.runtime.v1 import runtime_pb2 as pb
from common.errors import InvalidArgumentError
from slipway.connect import OWNER
from slipway.options import limits, mounts, security, signals, variables

NAMESPACE = "slipway"
"""Namespace of the pods that `run` makes."""
LOG_NAME = "0.log"
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,62}")
_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,252})?")
_PROTOCOLS = {"tcp": cri.TCP, "udp": cri.UDP, "sctp": cri.SCTP}
MIN_SCORE, MAX_SCORE = -1000, 1000


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
        dns_config=cri.DNSConfig(
            servers=[_server(text) for text in options.dns],
            searches=options.dns_search,
            options=options.dns_option,
        ),
    )
    if options.network == "host" and (options.publish or options.hostname):
        message = "--publish and --hostname need a network of the pod's own: leave out --network host"
        raise InvalidArgumentError(message)
    if options.network == "none" and options.publish:
        message = "--publish needs a network: leave out --network none"
        raise InvalidArgumentError(message)
    if options.network != "host":
        config.hostname = options.hostname or re.sub(r"[^a-zA-Z0-9-]", "-", name).strip("-")
    context = config.linux.security_context
    context.privileged = options.privileged
    context.namespace_options.CopyFrom(security.namespaces(options))
    for text in options.sysctl:
        key, joint, value = text.partition("=")
        if not key or not joint:
            message = f"--sysctl {text!r}: want NAME=VALUE, such as net.core.somaxconn=1024"
            raise InvalidArgumentError(message)
        config.linux.sysctls[key] = value
    return config


def container(options: Namespace, name: str, image_id: str) -> cri.ContainerConfig:
    """The container itself."""
    config = cri.ContainerConfig(
        metadata=cri.ContainerMetadata(name=name),
        image=cri.ImageSpec(image=image_id, user_specified_image=options.image),
        command=[options.entrypoint] if options.entrypoint else [],
        args=options.command,
        working_dir=options.workdir,
        envs=variables.environment(options),
        mounts=mounts.mounts(options),
        devices=mounts.devices(options),
        labels=variables.labels(options) | {OWNER: "run"},
        annotations=variables.annotations(options),
        log_path=LOG_NAME,
        stdin=options.interactive,
        # A terminal outlives whoever detaches from it; the end of a pipe is told.
        stdin_once=options.interactive and not options.detach and not options.tty,
        tty=options.tty,
        stop_signal=signals.stop_signal(options.stop_signal),
    )
    resources = config.linux.resources
    limits.limits(resources, options)
    if not MIN_SCORE <= options.oom_score_adj <= MAX_SCORE:
        message = f"--oom-score-adj {options.oom_score_adj}: want a number from {MIN_SCORE} to {MAX_SCORE}"
        raise InvalidArgumentError(message)
    resources.oom_score_adj = options.oom_score_adj
    security.secure(config.linux.security_context, options)
    return config


def extras(options: Namespace) -> pb.ContainerExtras:
    """What the container has that CRI has no word for.

    Raises:
        InvalidArgumentError: naming the option and its value.
    """
    found = pb.ContainerExtras(tmpfs=mounts.in_memory(options))
    for text in options.ulimit:
        name, soft, hard = limits.ulimit(text)
        found.ulimits.add(name=name, soft=soft, hard=hard)
    for text in options.add_host:
        host, _, address = text.replace("=", ":", 1).partition(":")
        if not _HOST.fullmatch(host) or not _is_address(address.strip("[]")):
            message = f"--add-host {text!r}: want HOST:ADDRESS, such as db:10.1.2.3"
            raise InvalidArgumentError(message)
        found.hosts.add(name=host, address=address.strip("[]"))
    return found


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _server(text: str) -> str:
    if not _is_address(text):
        message = f"--dns {text!r}: want an IP address"
        raise InvalidArgumentError(message)
    return text


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
