"""Namespaces of a sandbox, pinned by bind mounts so that they live without a process.

A namespace is left by one thread only, so each piece of work gets a thread of its own, which ends afterwards:
a thread of a pool would carry the sandbox's namespace into the next work.
"""

import contextlib
import errno
import fcntl
import os
import socket
import struct
import threading
from pathlib import Path

import anyio
import anyio.to_thread
import msgspec

from common.errors import InvalidArgumentError, NotFoundError
from common.sys import linux, userns
from common.sys.threads import in_own_thread
from common.sys.userns import IdMappings
from runtimed.oci import sysctls as rules

KINDS = {
    "net": (linux.CLONE_NEWNET, "network"),
    "ipc": (linux.CLONE_NEWIPC, "ipc"),
    "uts": (linux.CLONE_NEWUTS, "uts"),
}
USER = "user"
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1  # linux/sockios.h, linux/if.h
NS_GET_NSTYPE = 0xB703  # linux/nsfs.h
READ_DEADLINE_S = 5.0


class InterfaceStats(msgspec.Struct, frozen=True):
    """Counters of one network interface since it was made."""

    name: str
    rx_bytes: int
    rx_packets: int
    rx_errors: int
    rx_dropped: int
    tx_bytes: int
    tx_packets: int
    tx_errors: int
    tx_dropped: int


async def pin(
    directory: str,
    kinds: tuple[str, ...],
    *,
    sysctls: dict[str, str],
    hostname: str,
    ids: IdMappings | None = None,
) -> dict[str, str]:
    """Make namespaces and pin each on <directory>/<kind>.

    The loopback interface of a network namespace is up, a UTS namespace has the hostname, and the sysctls are
    set. What was made before a failure is taken away again.

    Args:
        directory: made if missing; the mount it is on decides who else sees the pins.
        kinds: of "net", "ipc" and "uts".
        sysctls: as CRI has them, all of the kinds' namespaces.
        hostname: "" leaves the host's.
        ids: of a user namespace, "user", that is made as well and owns the others; None for none.

    Returns:
        The pinned path by kind.

    Raises:
        InvalidArgumentError: a sysctl is not one of these namespaces, or the kernel refuses its value.
        OSError: the kernel refuses a namespace or a mount.
    """
    settings = rules.check(sysctls, [KINDS[kind][1] for kind in kinds])
    # A cancelled caller must not leave a thread that goes on mounting behind its clean-up.
    found: dict[str, str] = {}
    with anyio.CancelScope(shield=True):
        found = await in_own_thread(
            lambda: _pin(Path(directory), kinds, settings, hostname, ids), "netns-pin"
        )
    return found  # noqa: RET504 - a cancel scope may swallow, says mypy


async def unpin(directory: str) -> None:
    """Unmount and remove what pin made; idempotent."""
    await anyio.to_thread.run_sync(_unpin, Path(directory))


def is_namespace(path: str) -> bool:
    """Whether a namespace is (still) pinned there; after a reboot the file is there without one."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.ioctl(fd, NS_GET_NSTYPE)
    except OSError:
        return False
    finally:
        os.close(fd)
    return True


def read_interfaces(netns_path: str) -> list[InterfaceStats]:
    """Counters of all interfaces of a network namespace but loopback. Blocking.

    Raises:
        NotFoundError: nothing is pinned there.
    """
    try:
        fd = os.open(netns_path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise NotFoundError(f"network namespace {netns_path}: not found") from error
    lines: list[str] = []
    failures: list[OSError] = []

    def read() -> None:
        try:
            linux.setns(fd, linux.CLONE_NEWNET)
            # /proc/net would be the main thread's.
            lines.extend(Path("/proc/thread-self/net/dev").read_text(encoding="ascii").splitlines())
        except OSError as error:
            failures.append(error)

    try:
        thread = threading.Thread(target=read, name="netns-read", daemon=True)
        thread.start()
        thread.join(READ_DEADLINE_S)
    finally:
        os.close(fd)
    for failure in failures:
        if failure.errno == errno.EINVAL:
            raise NotFoundError(f"network namespace {netns_path}: nothing is pinned there") from failure
        raise failure
    return [_interface(line) for line in lines[2:] if line.split(":", 1)[0].strip() != "lo"]


def _interface(line: str) -> InterfaceStats:
    name, numbers = line.split(":", 1)
    fields = [int(number) for number in numbers.split()]
    return InterfaceStats(name.strip(), *fields[0:4], *fields[8:12])


def _pin(
    directory: Path, kinds: tuple[str, ...], settings: dict[str, str], hostname: str, ids: IdMappings | None
) -> dict[str, str]:
    directory.mkdir(mode=0o711, parents=True, exist_ok=True)
    flags = 0
    for kind in kinds:
        flags |= KINDS[kind][0]
    if not ids:
        linux.unshare(flags)
        return _pin_own(directory, kinds, settings, hostname)
    # a thread cannot change its user namespace: a process makes it with the others, and they are entered
    with userns.held(ids, *kinds) as pid:
        holder = os.pidfd_open(pid)
        try:
            linux.setns(holder, flags)
        finally:
            os.close(holder)
        found = _pin_own(directory, kinds, settings, hostname)
        found[USER] = _pin_one(directory / USER, f"/proc/{pid}/ns/user")
    return found


def _pin_own(
    directory: Path, kinds: tuple[str, ...], settings: dict[str, str], hostname: str
) -> dict[str, str]:
    """Set up and pin the namespaces that this thread is in."""
    if "net" in kinds:
        _raise_loopback()
    if "uts" in kinds and hostname:
        linux.sethostname(hostname)
    for path, value in settings.items():
        _write_sysctl(path, value)
    found: dict[str, str] = {}
    try:
        for kind in kinds:
            found[kind] = _pin_one(directory / kind, f"/proc/thread-self/ns/{kind}")
    except OSError:
        _unpin(directory)
        raise
    return found


def _pin_one(target: Path, namespace: str) -> str:
    _unmount(target)
    os.close(os.open(target, os.O_RDONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
    linux.mount(namespace, str(target), flags=linux.MS_BIND)
    return str(target)


def _raise_loopback() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as handle:
        request = struct.pack("16sH22x", b"lo", 0)
        flags = struct.unpack("16sH22x", fcntl.ioctl(handle, SIOCGIFFLAGS, request))[1]
        fcntl.ioctl(handle, SIOCSIFFLAGS, struct.pack("16sH22x", b"lo", flags | IFF_UP))


def _write_sysctl(path: str, value: str) -> None:
    try:
        fd = os.open(f"/proc/sys/{path}", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, value.encode())
        finally:
            os.close(fd)
    except OSError as error:
        raise InvalidArgumentError(f"sysctls: {path} = {value!r}: {error.strerror}") from error


def _unpin(directory: Path) -> None:
    for kind in (*KINDS, USER):
        _unmount(directory / kind)
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            (directory / kind).unlink()
    with contextlib.suppress(OSError):  # not empty: others keep files there
        directory.rmdir()


def _unmount(target: Path) -> None:
    """Take away all mounts on a file, as a crash between two pins may leave more than one."""
    while True:
        try:
            linux.umount(str(target), linux.MNT_DETACH | linux.UMOUNT_NOFOLLOW)
        except OSError as error:
            if error.errno in {errno.EINVAL, errno.ENOENT, errno.ENOTDIR}:
                return
            raise
