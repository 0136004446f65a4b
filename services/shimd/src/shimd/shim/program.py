"""The program of an OCI runtime, run from a sealed copy of itself in memory.

A runtime must not be run from a file that a container could reach through /proc/PID/exe and write (CVE-2019-5736), so
crun looks at what it was run from, and unless that is sealed or read-only it mounts itself read-only in /tmp, executes
itself again, and unmounts: 4 of the 6 ms that a call of it takes, a mount that everybody on the node is told of, and a
file that stays in /tmp if it is killed meanwhile. A copy that is sealed beforehand costs half a millisecond. runc looks
for the same, in its init.
"""

import fcntl
import os

# A larger one is copied for longer than its own way takes (runc: 9 MB, 10 ms).
_MAX_BYTES = 2 << 20
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
_SELINUX = b"/sys/fs/selinux/enforce"


def execute(argv: list[str], env: dict[str, str]) -> None:
    """Become argv[0], which is a path or is looked for in env's PATH.

    From a copy if it is a small ELF file; not with SELinux, where the file's label decides what it may do.

    Raises:
        OSError: it cannot be executed.
    """
    path = _find(argv[0], env["PATH"])
    try:
        os.execve(_sealed(path), argv, env)  # noqa: S606 - no shell is wanted
    except OSError:
        pass  # not such a file, or a machine without executable memory (vm.memfd_noexec)
    os.execve(path, argv, env)  # noqa: S606


def _find(name: str, search: str) -> str:
    if "/" not in name:
        for directory in search.split(":"):
            if os.access(f"{directory}/{name}", os.X_OK):
                return f"{directory}/{name}"
    return name


def _sealed(path: str) -> int:
    source = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    left = os.fstat(source).st_size
    is_fit = left <= _MAX_BYTES and os.read(source, 4) == b"\x7fELF" and os.access(path, os.X_OK)
    if not is_fit or os.path.exists(_SELINUX):
        raise OSError(0, "is not to be copied", path)
    os.lseek(source, 0, os.SEEK_SET)
    copy = os.memfd_create(os.path.basename(path), os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    while left and (sent := os.sendfile(copy, source, None, left)):
        left -= sent
    if left:
        raise OSError(0, "became shorter meanwhile", path)
    fcntl.fcntl(copy, fcntl.F_ADD_SEALS, _SEALS)
    return copy
