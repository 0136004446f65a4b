"""What people want of a container that CRI has no word for: file systems in memory, limits, names of hosts."""

import ipaddress
import re
from collections.abc import Iterable

from common.api.runtime.v1 import runtime_pb2 as pb
from common.errors import InvalidArgumentError
from runtimed.oci import mounts, rlimits

MAX_TMPFS, MAX_HOSTS = 256, 4096
_FLAGS = frozenset({"ro", "rw", "exec", "noexec", "suid", "nosuid", "dev", "nodev", "noatime", "strictatime"})
_VALUED = re.compile(
    r"(size=\d{1,19}[kmg%]?|nr_inodes=\d{1,19}[kmg]?|mode=[0-7]{1,4}|[ug]id=\d{1,10})", re.IGNORECASE
)
_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,252})?")
_LOCAL = ("127.0.0.1\tlocalhost", "::1\tlocalhost ip6-localhost ip6-loopback")


def check(wanted: pb.ContainerExtras) -> None:
    """Refuse what can never work.

    Raises:
        InvalidArgumentError: with the field's name and value.
    """
    if len(wanted.tmpfs) > MAX_TMPFS or len(wanted.hosts) > MAX_HOSTS:
        raise InvalidArgumentError(f"extras: more than {MAX_TMPFS} tmpfs or {MAX_HOSTS} hosts")
    tmpfs(wanted)
    try:
        rlimits.check("extras.ulimits", ulimits(wanted))
    except ValueError as exc:
        raise InvalidArgumentError(str(exc)) from exc
    for host in wanted.hosts:
        if not _HOST.fullmatch(host.name):
            raise InvalidArgumentError(f"extras.hosts.name: {host.name!r} is no name of a host")
        try:
            ipaddress.ip_address(host.address)
        except ValueError as exc:
            raise InvalidArgumentError(f"extras.hosts.address: {exc}") from exc


def tmpfs(wanted: pb.ContainerExtras) -> dict[str, list[str]]:
    """Mount options by path; raises as `check` does."""
    found = {}
    for one in wanted.tmpfs:
        for option in one.options:
            if option not in _FLAGS and not _VALUED.fullmatch(option):
                raise InvalidArgumentError(f"extras.tmpfs.options: {option!r} is no option of a tmpfs")
        found[mounts.contained("extras.tmpfs.path", one.path)] = list(one.options)
    return found


def ulimits(wanted: pb.ContainerExtras) -> dict[str, tuple[int, int]]:
    """Soft and hard limits by name."""
    return {one.name: (one.soft, one.hard) for one in wanted.ulimits}


def hosts(wanted: pb.ContainerExtras, hostname: str, ips: Iterable[str], node: str = "") -> str:
    """The content of /etc/hosts.

    Args:
        wanted: more lines.
        hostname: what the addresses are called.
        ips: of the sandbox.
        node: the node's own file, where its network is the sandbox's; it begins with that.
    """
    begin = node.splitlines() or [*_LOCAL, *(f"{ip}\t{hostname}" for ip in ips)]
    return "\n".join([*begin, *(f"{one.address}\t{one.name}" for one in wanted.hosts)]) + "\n"
