"""The cgroup that holds a container, of either version: where it is, who is in it, and what is done to all of them."""

import os

from shimd.shim.files import read

_ROOT = "/sys/fs/cgroup"
_V1_CONTROLLERS = ("pids", "freezer", "devices")


def is_unified() -> bool:
    return os.path.exists(f"{_ROOT}/cgroup.controllers")


def container_cgroup(init_pid: int, v1_controllers: tuple[str, ...] = _V1_CONTROLLERS) -> str:
    """The directory of one cgroup that holds a container and nothing else; empty if there is none."""
    unified = is_unified()
    paths, own = (_paths(read(f"/proc/{of}/cgroup").decode()) for of in (init_pid, "self"))
    for controller in ("",) if unified else v1_controllers:
        path = paths.get(controller, "/")
        directory = f"{_ROOT}/{controller}{path}" if controller else f"{_ROOT}{path}"
        if path not in ("/", own.get(controller)) and os.path.isdir(directory):
            return directory
    return ""


def _paths(text: str) -> dict[str, str]:
    found = {}
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            found[controller] = path
    return found


def tree_procs(directory: str) -> set[int]:
    """The processes of a cgroup and of those below it; none without one."""
    return {pid for folder, _, _ in os.walk(directory) for pid in procs(folder)}


def procs(directory: str) -> list[int]:
    """The processes of a cgroup; none without one."""
    try:
        with open(f"{directory}/cgroup.procs") as file:
            return [int(line) for line in file]
    except OSError:
        return []


def write(path: str, text: str) -> None:
    """Write to a file of a cgroup, if it can be done."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)
    except OSError:
        pass  # the process is gone, or this kernel has no such file


def thaw(init_pid: int) -> None:
    """Let a paused container run, which no signal reaches otherwise; with systemd's scope above what crun makes in it."""
    directory = container_cgroup(init_pid, ("freezer",))
    above = directory.removesuffix("/container")
    for path in (directory, *([above] if above.endswith(".scope") else [])):
        for name, running in (("cgroup.freeze", "0"), ("freezer.state", "THAWED")):
            if os.path.exists(f"{path}/{name}"):
                write(f"{path}/{name}", running)


def kill_all(directory: str, number: int, done: set[int]) -> None:
    """Send a signal to every process of a cgroup and of those below it, once each."""
    for pid in tree_procs(directory) - done:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue
