"""mkfs.erofs as a helper: it sees the system's programs, the tree, and the file to write, and all but the file read-only.

snapshotd exec's this with paths and the command as arguments; it leaves by the command's status. What is hostile is the tree. Reading overlayfs'
marks (trusted.* attributes) takes CAP_SYS_ADMIN, whose other uses need system calls that are not left to it.
"""

# ruff: noqa: PTH102, PTH112, PTH114, PTH115, PTH211 - as few imports as can be: it is started for each image

import os
import resource
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

from common.sys import linux
from snapshotd.diff.confine import bound, die_with, restrict
from snapshotd.diff.syscalls import MAKE_IMAGE, compiled

TREE, IMAGE = "/tree", "/image"
"""Where the command finds them."""
_SYSTEM = ("/usr", "/bin", "/lib", "/lib64", "/sbin")
_CAPABILITIES = (1, 2, 21)
"""DAC_OVERRIDE, DAC_READ_SEARCH, SYS_ADMIN of linux/capability.h."""
MAX_MEMORY_BYTES = 2 << 30
"""erofs-utils 1.5 takes some 4.5 KiB for each entry of a layer."""
_LIMITS = {
    resource.RLIMIT_STACK: 256
    << 20,  # it recurses, with a path for each directory, into trees nested 1024 deep
    resource.RLIMIT_AS: MAX_MEMORY_BYTES,
    resource.RLIMIT_NOFILE: 2048,  # one for each of them
    resource.RLIMIT_CORE: 0,
}
_ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
_FAILED = 125


def main() -> NoReturn:
    """Run `tree image command…`."""
    tree, image, *command = sys.argv[1:]
    program = compiled(MAKE_IMAGE)
    this = os.pidfd_open(os.getpid())
    linux.unshare(linux.CLONE_NEWPID | linux.CLONE_NEWNS | linux.CLONE_NEWNET | linux.CLONE_NEWIPC)
    pid = os.fork()
    if pid == 0:
        try:
            die_with(this)
            os.close(this)
            _move(tree, image)
            bound(_CAPABILITIES)
            restrict(_LIMITS, _CAPABILITIES, program)
            os.execvpe(command[0], command, _ENVIRONMENT)  # noqa: S606 - no shell is wanted
        except OSError as exc:
            sys.stderr.write(f"{exc}\n")
        finally:
            os._exit(_FAILED)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status < 0:
        sys.stderr.write(f"killed by {signal.Signals(-status).name}\n")
    sys.exit(status if status >= 0 else _FAILED)


def _move(tree: str, image: str) -> None:
    """Make a root of its own of what is needed, in the mount namespace of its own."""
    linux.mount("none", "/", None, linux.MS_REC | linux.MS_PRIVATE)
    links = {path: os.readlink(path) for path in _SYSTEM if os.path.islink(path)}
    shown = {path: _view(path) for path in _SYSTEM if os.path.isdir(path) and path not in links}
    shown |= {TREE: _view(tree)}
    file = linux.open_tree(image)
    root = _empty()
    linux.move_mount(root, "/")
    os.fchdir(root)
    os.chroot(".")
    for path, target in links.items():
        os.symlink(target, path)
    for path, fd in shown.items():
        os.mkdir(path)
        linux.move_mount(fd, path)
    os.close(os.open(IMAGE, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    linux.move_mount(file, IMAGE)
    _close([root, file, *shown.values()])


def _view(path: str) -> int:
    fd = linux.open_tree(path)
    attributes = linux.MountAttr(
        attr_set=linux.MOUNT_ATTR_RDONLY | linux.MOUNT_ATTR_NOSUID | linux.MOUNT_ATTR_NODEV
    )
    linux.mount_setattr("", attributes, linux.AT_EMPTY_PATH, fd)
    return fd


def _empty() -> int:
    context = linux.fsopen("tmpfs")
    try:
        linux.fsconfig(context, linux.FSCONFIG_SET_STRING, "size", "64k")
        linux.fsconfig(context, linux.FSCONFIG_CMD_CREATE)
        return linux.fsmount(context, linux.MOUNT_ATTR_NODEV | linux.MOUNT_ATTR_NOSUID)
    finally:
        os.close(context)


def _close(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)


if __name__ == "__main__":
    main()
