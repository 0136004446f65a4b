"""Metrics of the processes in a cgroup. Blocking; one directory of /proc for each process."""

import os

from runtimed.oci.cgroups import V2, CgroupPlan
from runtimed.readings.families import Sample
from runtimed.readings.files import read, tasks

MAX_PROCESSES = 1000
"""Descriptors are counted for so many processes of one container, so that a fork bomb costs no more."""


def samples(plan: CgroupPlan, init_pid: int) -> list[Sample]:
    """Processes, threads, descriptors and limits of a container; nothing when its cgroup is gone."""
    directory = plan.task_dir
    try:
        pids = tasks(directory, "cgroup.procs")
        threads = len(tasks(directory, "cgroup.threads" if plan.version == V2 else "tasks"))
        most = read(f"{plan.leaf or directory}/pids.max").strip()
    except OSError:
        return []
    files, sockets = _descriptors(pids[:MAX_PROCESSES])
    found = [
        Sample("container_processes", len(pids)),
        Sample("container_threads", threads),
        Sample("container_threads_max", 0 if most == "max" else int(most)),
        Sample("container_file_descriptors", files),
        Sample("container_sockets", sockets),
    ]
    limit = _open_files(init_pid)
    return found if limit is None else [*found, Sample("container_ulimits_soft", limit, ("max_open_files",))]


def _descriptors(pids: list[str]) -> tuple[int, int]:
    files = sockets = 0
    for pid in pids:
        try:
            with os.scandir(f"/proc/{pid}/fd") as entries:
                opened = [entry.path for entry in entries]
        except OSError:
            continue  # it has ended
        files += len(opened)
        sockets += sum(map(_is_socket, opened))
    return files, sockets


def _is_socket(path: str) -> bool:
    try:
        return os.readlink(path).startswith("socket:")  # noqa: PTH115 - a Path costs more than the call
    except OSError:
        return False  # closed meanwhile


def _open_files(pid: int) -> int | None:
    try:
        lines = read(f"/proc/{pid}/limits").splitlines()
    except OSError:
        return None
    soft = next((line.split()[3] for line in lines if line.startswith("Max open files")), "")
    return int(soft) if soft.isdigit() else None
