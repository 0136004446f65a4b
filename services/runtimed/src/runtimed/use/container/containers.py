"""Containers: create, remove, show."""

import json
import secrets
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import anyio.to_thread

from common.api.cri.v1 import api_pb2 as cri
from common.api.runtime.v1 import runtime_pb2 as pb
from common.clock import now_ns
from common.errors import (
    AlreadyExistsError,
    FailedPreconditionError,
    InvalidArgumentError,
    SlipwayError,
    UnimplementedError,
    UnknownError,
    shortened,
)
from common.events.schema import ContainerCreateFailed, ContainerRemoved
from common.failpoint import failpoint
from common.observe.log import get_logger
from common.observe.trace import traceparent
from common.operations import cancellable
from common.sys.userns import IdMappings
from runtimed import convert, selection
from runtimed.checkpoint import dump
from runtimed.evidence import CONTAINER
from runtimed.machine import container as machine
from runtimed.machine.causes import RPC
from runtimed.oci import cgroupleft, extras, idmaps
from runtimed.oci.validate import validate_container
from runtimed.ops import Op
from runtimed.record import ContainerRecord, ContainerState, SandboxRecord, SandboxState
from runtimed.use import succession
from runtimed.use.bundles import bundle, imagemounts
from runtimed.use.lifespan import life_span
from runtimed.use.parts import Parts
from runtimed.use.task.tasks import Tasks
from runtimed.use.together import together
from runtimed.use.undo import Undo

_log = get_logger("runtimed")


class Containers:
    """The containers of this node; what runs in them is in runtimed.use.task."""

    def __init__(self, parts: Parts, tasks: Tasks) -> None:
        self._parts = parts
        self._tasks = tasks

    async def create(self, wanted: pb.CreateContainerRequest) -> str:
        """Make a container and return its id; a retry joins the first call and gets the same id.

        Raises:
            InvalidArgumentError, UnimplementedError: a field's value.
            UnknownError: the handler cannot mount recursively read-only.
            NotFoundError: the sandbox, or a layer.
            FailedPreconditionError: the sandbox is not ready.
            AlreadyExistsError: a container of this name and attempt has run already.
        """
        request = wanted.request
        sandbox = selection.find(self._parts.sandboxes.store, "sandbox", request.pod_sandbox_id)
        name = request.config.metadata.name
        try:
            made = await self._join(sandbox, wanted)
        except SlipwayError as exc:
            await self.failed(sandbox.id, name, request.config.image.image, exc.message, exc.reason)
            raise
        self._parts.evidence.succeed(CONTAINER, name, sandbox_id=sandbox.id, image=request.config.image.image)
        return made

    async def failed(self, sandbox_id: str, name: str, image: str, error: str, reason: str) -> None:
        """Note that a container could not be made; a repeated attempt that fails alike is counted, not told."""
        name, image, error = shortened(name), shortened(image), shortened(error)
        new = self._parts.evidence.fail(
            CONTAINER, name, error, reason=reason, sandbox_id=sandbox_id, image=image
        )
        fact = ContainerCreateFailed(id=name, sandbox_id=sandbox_id, image=image, error=error)
        try:
            if new and name:
                await self._parts.containers.store.emit(fact)
        except SlipwayError as exc:
            _log.warning("failure.untold", sandbox_id=sandbox_id, name=name, error=exc.message)

    async def _join(self, sandbox: SandboxRecord, wanted: pb.CreateContainerRequest) -> str:
        request = wanted.request
        validate_container(request.config, bundle.sandbox_config(sandbox, request))
        extras.check(wanted.extras)
        await self._check_handler(sandbox.handler, request.config)
        meta = request.config.metadata
        key = f"{sandbox.id}_{meta.name}_{meta.attempt}"
        work = partial(self._create, key, sandbox.id, wanted)
        return await self._parts.operations.join(Op.CREATE.of(key), work)

    async def _check_handler(self, handler: str, config: cri.ContainerConfig) -> None:
        """Refuse what the sandbox's OCI runtime cannot do."""
        wanted = [mount.container_path for mount in config.mounts if mount.recursive_read_only]
        if wanted and not (await self._parts.features.of(handler)).recursive_read_only:
            raise UnknownError(
                f"RROUnsupported: mounts.recursive_read_only: {wanted[0]!r}: "
                f"handler {handler!r} or this kernel cannot do it"
            )
        shared = [m.container_path for m in config.mounts if m.propagation == cri.PROPAGATION_BIDIRECTIONAL]
        if shared and self._parts.handler(handler)[1].sandboxed:
            raise UnimplementedError(
                f"mounts.propagation: {shared[0]!r}: nothing propagates out of the kernel of handler {handler!r}"
            )

    async def _create(self, key: str, sandbox_id: str, wanted: pb.CreateContainerRequest) -> str:
        sandbox = self._parts.sandboxes.store.get(sandbox_id)
        if sandbox.state is not SandboxState.READY:
            raise FailedPreconditionError(f"sandbox {sandbox_id}: is not ready")
        old = next((c for c in self._parts.containers.store.all() if c.key == key), None)
        if old is not None:
            if old.state is ContainerState.CREATING:  # left by an earlier life of the service
                await self.set_up(old, wanted, known=True)
            if old.state in (ContainerState.CREATED, ContainerState.CREATING):
                return old.id
            raise AlreadyExistsError(
                f"container {old.id} of this name and attempt is {old.state}: remove it first"
            )
        at_ns = succession.container_time_ns(self._parts, sandbox, wanted.request.config.metadata.name)
        record = new_record(key, sandbox, wanted, at_ns)
        await self.set_up(record, wanted, known=False)
        return record.id

    async def set_up(
        self, record: ContainerRecord, wanted: pb.CreateContainerRequest, *, known: bool
    ) -> None:
        """Take a container to CREATED; when a step fails, all is undone and there is no record.

        Args:
            record: its record, CREATING.
            wanted: the whole request.
            known: whether the record is stored already.
        """
        parts = self._parts
        sandbox = parts.sandboxes.store.get(record.sandbox_id)
        snapshotter = parts.handler(sandbox.handler)[1].snapshotter
        ids = idmaps.of_sandbox(convert.sandbox_config(sandbox))
        undo = Undo(parts.settings.cleanup_s)
        undo.push("snapshot", partial(parts.snapshots.remove, record.id))
        undo.push("bundle", partial(bundle.remove, parts, record.id))
        steps: list[Callable[[], Awaitable[Any]]] = [
            partial(self._root, record, wanted, snapshotter, ids),
            partial(imagemounts.prepare, parts.snapshots, record.id, wanted, snapshotter, ids, undo),
        ]
        if not known:
            steps.append(partial(parts.containers.store.create, record))
        parts.rouse_cgroups()  # its start follows
        with life_span("runtimed.container.create", record):
            try:
                rootfs, images, *_ = await together(*steps)
                await failpoint("runtimed.create.rooted")
                facts = await bundle.make(parts, record, sandbox, wanted, bundle.Roots(rootfs, images))
                await failpoint("runtimed.create.bundled")
                done = machine.CreateDone(cause=RPC, at_ns=now_ns(), facts=facts)
                await parts.containers.apply(record.id, done)
                await failpoint("runtimed.create.recorded")
            except Exception:
                left = await undo.run()
                if left:
                    _log.warning("container.leftovers", container_id=record.id, left=left)
                await parts.containers.forget(record.id)
                await anyio.to_thread.run_sync(bundle.remove_record_dir, parts.record_dir(record.id))
                raise

    async def _root(
        self,
        record: ContainerRecord,
        wanted: pb.CreateContainerRequest,
        snapshotter: str,
        ids: IdMappings | None,
    ) -> str:
        diff = None
        if record.from_checkpoint:
            diff = await dump.unpack(self._parts.record_dir(record.id), Path(wanted.checkpoint))
        layers = list(wanted.image.diff_ids)
        with cancellable():
            return await self._parts.snapshots.prepare(record.id, layers, snapshotter, ids=ids, diff=diff)

    async def end_now(self, container_id: str) -> None:
        """Let a set-up or start that goes on finish, then kill what runs; for the end of a sandbox."""
        record = self._parts.containers.store.find(container_id)
        if record is not None:
            await self._parts.operations.wait(Op.CREATE.of(record.key))
            await self._parts.operations.wait(Op.START.of(container_id))
            await self._tasks.stop(container_id, 0)

    async def remove(self, name: str) -> None:
        """Remove a container, killing it first if need be; idempotent. Its log file stays."""
        record = selection.find_or_none(self._parts.containers.store, "container", name)
        if record is not None:
            await self._parts.operations.join(Op.REMOVE.of(record.id), partial(self._remove, record.id))

    async def _remove(self, container_id: str) -> None:
        parts = self._parts
        await self.end_now(container_id)
        record = parts.containers.store.find(container_id)
        if record is None:
            return
        with life_span("runtimed.container.remove", record):
            record, instructions = await parts.containers.apply(container_id, machine.RemoveAsked(cause=RPC))
            if machine.Clean() not in instructions:
                raise FailedPreconditionError(f"container {container_id}: is {record.state}")
            await failpoint("runtimed.remove.recorded")
            mounted = imagemounts.keys(container_id, convert.container_config(record))
            await together(
                partial(parts.shims.remove, container_id),
                partial(parts.snapshots.remove, container_id),
                *[partial(parts.snapshots.remove, key) for key in mounted.values()],
                partial(bundle.remove, parts, container_id),
            )
            await anyio.to_thread.run_sync(cgroupleft.remove, record.cgroup)
            await failpoint("runtimed.remove.cleaned")
            await parts.containers.forget(
                container_id, ContainerRemoved(id=container_id, sandbox_id=record.sandbox_id)
            )
            await failpoint("runtimed.remove.forgotten")
            await anyio.to_thread.run_sync(bundle.remove_record_dir, parts.record_dir(container_id))
        self._tasks.forget(container_id)

    async def status(self, name: str, *, verbose: bool) -> cri.ContainerStatusResponse:
        """One container; `crictl inspect` is verbose, and people look for `.info.runtimeSpec` there."""
        record = selection.find(self._parts.containers.store, "container", name)
        response = cri.ContainerStatusResponse(status=convert.container_status(record))
        if verbose:
            made = await anyio.to_thread.run_sync(bundle.shown_spec, record.bundle_path)
            response.info["info"] = json.dumps(_facts(record) | {"runtimeSpec": made})
        return response

    def list(self, wanted: cri.ContainerFilter) -> list[cri.Container]:
        """The containers that fit a filter, as CRI sees them."""
        found = selection.fitting(self._parts.for_cri(self._parts.containers.store), wanted)
        if wanted.HasField("state"):
            found = [r for r in found if convert.container_state(r) == wanted.state.state]
        return [convert.container_item(record) for record in found]


def new_record(
    key: str, sandbox: SandboxRecord, wanted: pb.CreateContainerRequest, at_ns: int
) -> ContainerRecord:
    """The record of a container that is about to be made."""
    config = wanted.request.config
    if not wanted.image.id:
        raise InvalidArgumentError("image.id: is empty")
    return ContainerRecord(
        id=secrets.token_hex(32),
        key=key,
        sandbox_id=sandbox.id,
        origin=sandbox.origin,
        config=config.SerializeToString(),
        name=config.metadata.name,
        attempt=config.metadata.attempt,
        labels=dict(config.labels),
        annotations=dict(config.annotations),
        image=config.image.user_specified_image or config.image.image,
        image_id=wanted.image.id,
        image_ref=wanted.image.ref or wanted.image.id,
        from_checkpoint=bool(wanted.checkpoint),
        request=wanted.SerializeToString(),
        resources=config.linux.resources.SerializeToString(),
        created_at_ns=at_ns,
        traceparent=traceparent() or sandbox.traceparent,
    )


def _facts(record: ContainerRecord) -> dict[str, object]:
    return {
        "sandboxID": record.sandbox_id,
        "pid": record.pid,
        "state": record.state,
        "rootfs": record.rootfs,
        "bundle": record.bundle_path,
        "shim": record.socket_path,
        "cgroup": record.cgroup.oci_path if record.cgroup else "",
        "signal": record.signal,
        "revision": record.revision,
        "traceparent": record.traceparent,
    }
