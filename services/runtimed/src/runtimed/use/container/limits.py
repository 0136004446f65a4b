"""Limits of containers that are there, and those of their pods."""

import json
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import anyio
import anyio.to_thread

from common.api.cri.v1 import api_pb2 as cri
from common.errors import (
    FailedPreconditionError,
    InvalidArgumentError,
    SlipwayError,
    UnimplementedError,
    UnknownError,
)
from common.events.schema import ContainerUpdated, SandboxUpdated
from common.observe.log import get_logger
from runtimed import selection
from runtimed.oci import cgroups, limitfiles, process, scope
from runtimed.oci.cgroups import V2
from runtimed.readings import readback, usage
from runtimed.readings.files import tasks
from runtimed.record import ContainerRecord, ContainerState
from runtimed.use.bundles import bundle
from runtimed.use.parts import Parts

_log = get_logger("runtimed")
SWAP = "memory.swap.max"


class Limits:
    """The resources that this node's containers may use."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._locks: WeakValueDictionary[str, anyio.Lock] = WeakValueDictionary()

    async def update(self, request: cri.UpdateContainerResourcesRequest) -> None:
        """Apply new limits, all or none and to the end, and remember what the kernel made of them.

        Raises:
            InvalidArgumentError, UnimplementedError: a value, or a field that means nothing here.
            FailedPreconditionError: the container has ended, or uses more memory than the new limit.
            UnknownError: the kernel refused; the old limits hold.
        """
        if request.HasField("windows"):
            raise UnimplementedError("windows: only Linux containers are offered")
        for option in request.annotations:
            raise InvalidArgumentError(f"annotations: {option!r}: no option of an update is known")
        score = process.oom_score_adj(request.linux.oom_score_adj, self._parts.host_caps)
        found = selection.find(self._parts.containers.store, "container", request.container_id)
        lock = self._locks.setdefault(found.id, anyio.Lock())
        async with lock:  # each merges with what the one before it left
            with anyio.CancelScope(shield=True):
                await self._update(self._parts.containers.store.get(found.id), request, score)

    async def _update(
        self, record: ContainerRecord, request: cri.UpdateContainerResourcesRequest, score: int
    ) -> None:
        merged = cri.LinuxContainerResources.FromString(record.resources)
        _merge(merged, request.linux)
        limits = cgroups.resources(merged, self._parts.cgroup_version)
        if record.state.has_init:
            await self._apply(record, request.linux, score)
            if record.cgroup:
                merged = await anyio.to_thread.run_sync(readback.applied, merged, record.cgroup)
        elif record.state is ContainerState.CREATED:
            await anyio.to_thread.run_sync(
                bundle.replace_limits,
                record.bundle_path,
                record.cgroup,
                limits,
                score if request.linux.oom_score_adj else None,
            )
        else:
            raise FailedPreconditionError(f"container {record.id}: is {record.state}")
        fact = ContainerUpdated(id=record.id, sandbox_id=record.sandbox_id)
        await self._parts.containers.amend(record.id, fact, resources=merged.SerializeToString())

    async def update_pod(self, request: cri.UpdatePodSandboxResourcesRequest) -> None:
        """Remember what a kubelet has given the pod's cgroup. Nothing is applied, so no value is refused.

        Raises:
            NotFoundError: there is no such sandbox.
        """
        record = selection.find(self._parts.sandboxes.store, "sandbox", request.pod_sandbox_id)
        known: dict[str, bytes] = {}
        for field in ("overhead", "resources"):
            if request.HasField(field):
                known[field] = getattr(request, field).SerializeToString()
        await self._parts.sandboxes.amend(record.id, SandboxUpdated(id=record.id), **known)

    async def _apply(self, record: ContainerRecord, change: cri.LinuxContainerResources, score: int) -> None:
        used = await anyio.to_thread.run_sync(_memory_in_use, record)
        if 0 < change.memory_limit_in_bytes < used:
            raise FailedPreconditionError(
                f"memory_limit_in_bytes: {change.memory_limit_in_bytes} is below the {used} bytes in use"
            )
        held: limitfiles.Held = {}
        if record.cgroup:
            held = await anyio.to_thread.run_sync(limitfiles.read, record.cgroup, change.unified)
        try:
            await self._set(record, change)
            if record.cgroup and change.unified.get("pids.max") == cgroups.NO_LIMIT:
                await anyio.to_thread.run_sync(cgroups.unlimit_pids, record.cgroup)
            if record.cgroup and change.oom_score_adj:
                await anyio.to_thread.run_sync(_adjust, record.cgroup.task_dir, score)
        except SlipwayError:  # a runtime sets one after the other, and stops at the first that is refused
            await self._put_back(record, held)
            raise

    async def _put_back(self, record: ContainerRecord, held: limitfiles.Held) -> None:
        """What was there before: the runtime and systemd are told first, since they write it again at times."""
        with suppress(SlipwayError):
            await self._set(record, cri.LinuxContainerResources.FromString(record.resources))
        if not record.cgroup:
            return
        with suppress(SlipwayError):
            await scope.update(record.cgroup, limitfiles.of_scope(record.cgroup, held))
        try:
            await anyio.to_thread.run_sync(limitfiles.put_back, held)
        except OSError as exc:
            _log.warning("limits.not_put_back", container_id=record.id, error=str(exc))

    async def _set(self, record: ContainerRecord, values: cri.LinuxContainerResources) -> None:
        whole = self._whole(record, values)
        limits = _with_siblings(values, whole, self._parts.cgroup_version)
        if record.cgroup:  # first: systemd would write the old ones over what the runtime writes
            await scope.update(record.cgroup, whole)
        update = partial(self._parts.shims.update, record.socket_path, record.id)
        if values.cpu_quota >= 0 or record.cgroup is None:
            await update(json.dumps(limits).encode())
            return
        unlimited = {**limits, "cpu": {**limits.get("cpu", {}), "quota": -1}}
        try:
            await update(json.dumps(unlimited).encode())
        except UnknownError:  # crun 1.8 writes it as a number without sign on cgroup v1
            await update(json.dumps(limits).encode())
        await anyio.to_thread.run_sync(cgroups.unlimit_cpu, record.cgroup)  # crun 1.8 leaves it on v2

    def _whole(self, record: ContainerRecord, values: cri.LinuxContainerResources) -> dict[str, Any]:
        """All limits that shall hold: systemd takes a CPU quota per second, which depends on the period."""
        merged = cri.LinuxContainerResources.FromString(record.resources)
        _merge(merged, values)
        limits = cgroups.resources(merged, self._parts.cgroup_version)
        if merged.cpu_quota < 0:
            limits["cpu"] = {**limits.get("cpu", {}), "quota": -1}
        return limits


def _with_siblings(
    change: cri.LinuxContainerResources, whole: dict[str, Any], version: int
) -> dict[str, Any]:
    """`linux.resources` of a change and of what is set along with it, which a runtime makes up when it is not told.

    Both numbers of cpu.max are written at once: without one of them there is no quota, or a period of 100 ms; and a
    limit of memory alone allows no swap.
    """
    found = cgroups.resources(change, version)
    if version == V2 and (change.cpu_quota or change.cpu_period):
        times = {name: whole["cpu"][name] for name in ("quota", "period") if whole["cpu"].get(name, 0) > 0}
        found["cpu"] = times | found.get("cpu", {})
    if "memory" in whole and ("memory" in found or SWAP in change.unified):
        found["memory"] = whole["memory"]
    if "memory" in found and SWAP in whole.get("unified", {}):
        found["unified"] = found.get("unified", {}) | {SWAP: whole["unified"][SWAP]}
    return found


def _adjust(directory: str, score: int) -> None:
    """Give every process of a cgroup this oom_score_adj, which no OCI runtime's update does. Blocking."""
    try:
        for pid in tasks(directory):
            try:
                Path(f"/proc/{pid}/oom_score_adj").write_text(f"{score}\n")
            except (FileNotFoundError, ProcessLookupError):
                continue  # it has ended
    except OSError as exc:
        raise UnknownError(f"oom_score_adj: {score}: {exc.strerror}") from exc


def _memory_in_use(record: ContainerRecord) -> int:
    """What cannot be reclaimed to get below a limit: cgroup v2 would kill for it, where v1 refuses."""
    found = usage.read_stats(record.cgroup) if record.cgroup else None
    return found.working_set_bytes if found else 0


def _merge(held: cri.LinuxContainerResources, change: cri.LinuxContainerResources) -> None:
    """Zero means unchanged, in CRI; lists and tables are replaced whole, tables key by key.

    A kubelet resizes by memory_limit_in_bytes alone, also where it forbade swap by a swap limit of the same size.
    """
    if change.memory_limit_in_bytes and not change.memory_swap_limit_in_bytes:
        _let_swap_follow(held, change.memory_limit_in_bytes)
    for field, value in change.ListFields():
        if field.name == "unified":
            held.unified.update(value)
        elif field.name == "hugepage_limits":
            del held.hugepage_limits[:]
            held.hugepage_limits.extend(value)
        else:
            setattr(held, field.name, value)


def _let_swap_follow(held: cri.LinuxContainerResources, limit: int) -> None:
    """What may not swap still may not with a new memory limit; else the sum stays, unless memory alone is more."""
    both = held.memory_swap_limit_in_bytes
    if both > 0 and (limit < 0 or both <= max(limit, held.memory_limit_in_bytes)):
        held.memory_swap_limit_in_bytes = limit
