"""User namespaces: one contiguous range of ids each, made without forking, and mounts seen through them."""

import os
import select
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from common.sys import linux

OVERFLOW_ID = 65534
"""What the kernel shows for an id without a mapping (/proc/sys/kernel/overflowuid)."""
MADE_S = 10.0
_COMMAND = ("unshare", "--user")


class IdMapping(NamedTuple):
    """`size` ids from `container_id` on are those from `host_id` on."""

    container_id: int
    host_id: int
    size: int

    def to_host(self, number: int) -> int:
        """The host's id for a container's."""
        offset = number - self.container_id
        return self.host_id + offset if 0 <= offset < self.size else OVERFLOW_ID

    def to_container(self, number: int) -> int:
        """The container's id for a host's."""
        offset = number - self.host_id
        return self.container_id + offset if 0 <= offset < self.size else OVERFLOW_ID


class IdMappings(NamedTuple):
    """The users and the groups of a user namespace."""

    uids: IdMapping
    gids: IdMapping


@contextmanager
def held(ids: IdMappings, *others: str) -> Iterator[int]:
    """A process that holds a new user namespace, and other new ones that this owns, until it ends. Blocking.

    Args:
        ids: what the namespace maps.
        others: options of unshare(1) without their dashes: "net", "ipc", "uts".

    Raises:
        OSError: the kernel refuses the namespaces or the mappings.
    """
    command = [*_COMMAND, *(f"--{kind}" for kind in others), "cat"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, bufsize=0, stdin=pipe, stdout=pipe, stderr=pipe) as process:
        assert process.stdin  # noqa: S101 - as asked for above
        assert process.stdout  # noqa: S101
        assert process.stderr  # noqa: S101
        try:
            process.stdin.write(b"\n")
            answer = select.poll()  # select(2) knows no descriptor beyond 1023
            answer.register(process.stdout, select.POLLIN)
            # what comes back went through the namespaces
            ready = answer.poll(MADE_S * 1000)
            if not ready or not process.stdout.read(1):
                said = process.stderr.read(500).decode(errors="replace").strip() if ready else "no answer"
                raise OSError(0, f"cannot make a user namespace: {said}")
            for name, mapping in zip(("uid_map", "gid_map"), ids, strict=True):
                _write_map(f"/proc/{process.pid}/{name}", mapping)
            yield process.pid
        finally:
            process.kill()


def _write_map(path: str, mapping: IdMapping) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, f"{mapping.container_id} {mapping.host_id} {mapping.size}\n".encode())
    finally:
        os.close(fd)


def open_namespace(ids: IdMappings) -> int:
    """A descriptor that keeps a new user namespace with these mappings. Blocking."""
    with held(ids) as pid:
        return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)


def open_mapped(path: str, userns_fd: int, attributes: int = 0) -> int:
    """A detached view of what is mounted at a path, with its ids mapped.

    Raises:
        OSError: EINVAL when the filesystem does not support it.
    """
    fd = linux.open_tree(path)
    try:
        attr = linux.MountAttr(attr_set=linux.MOUNT_ATTR_IDMAP | attributes, userns_fd=userns_fd)
        linux.mount_setattr("", attr, linux.AT_EMPTY_PATH, fd)
    except OSError as error:
        os.close(fd)
        raise OSError(error.errno, f"ids cannot be mapped: {error.strerror}", path) from error
    return fd
