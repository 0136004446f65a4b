"""Sandboxes: set up, stop, remove, show."""

import json
import os
import secrets
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import msgspec
from google.protobuf.json_format import MessageToDict

from common.api.cri.v1 import api_pb2 as cri
from common.clock import now_ns
from common.errors import (
    AlreadyExistsError,
    FailedPreconditionError,
    InvalidArgumentError,
    SlipwayError,
    UnavailableError,
    UnimplementedError,
    shortened,
)
from common.events.schema import SandboxCreated, SandboxFailed, SandboxRemoved
from common.failpoint import failpoint
from common.observe.log import get_logger
from common.observe.trace import span, traceparent
from common.operations import cancellable
from runtimed import convert, selection
from runtimed.evidence import POD
from runtimed.machine import sandbox as machine
from runtimed.machine.causes import RPC
from runtimed.network import hostports
from runtimed.oci import cgroups, idmaps
from runtimed.oci.validate import validate_sandbox
from runtimed.ops import Op
from runtimed.record import Origin, SandboxRecord, SandboxState
from runtimed.use import succession
from runtimed.use.container.containers import Containers
from runtimed.use.ground import network, pause
from runtimed.use.lifespan import life_span
from runtimed.use.parts import Parts
from runtimed.use.sandbox.names import SoleNames
from runtimed.use.together import together
from runtimed.use.undo import Undo

_log = get_logger("runtimed")
MAX_NAME_BYTES = 64


@dataclass(frozen=True, kw_only=True)
class Manner:
    """How a sandbox is made, beside what CRI says of it: fields of its record."""

    origin: Origin = Origin.CRI
    isolated: bool = False
    sole_name: bool = False
    remove_ended: bool = False
    remove_unstarted: bool = False
    restoring: bool = False
    """The caller makes its containers too, and then says so in the record."""


class Sandboxes:
    """The sandboxes of this node."""

    def __init__(self, parts: Parts, containers: Containers) -> None:
        self._parts = parts
        self._containers = containers
        self._ports = hostports.HostPorts()
        self._names = SoleNames(parts)

    async def run(self, config: cri.PodSandboxConfig, handler: str, manner: Manner | None = None) -> str:
        """Set up a sandbox and return its id; a retry joins the first call and gets the same id.

        Args:
            config: what it is to be.
            handler: runtime handler; "" for the default.
            manner: what CRI has no word for.

        Raises:
            InvalidArgumentError, UnimplementedError: a field's value.
            NotFoundError: the handler.
            AlreadyExistsError: a stopped sandbox has these names.
        """
        name = config.metadata.name
        try:
            validate_sandbox(config)
            self._check_parent(config.linux.cgroup_parent)
            manner = manner or Manner()
            if manner.isolated:
                _check_isolated(config)
            await self._check_handler(self._parts.handler(handler)[0], config)
            key = key_of(config)
            work = partial(self._run, key, config, handler, manner)
            made = await self._parts.operations.join(Op.SET_UP_SANDBOX.of(key), work)
        except SlipwayError as exc:
            self._parts.evidence.fail(POD, name, exc.message, reason=exc.reason)
            raise
        self._parts.evidence.succeed(POD, name)
        return made

    def _check_parent(self, parent: str) -> None:
        """Refuse one of the other driver, now that there is no network to take down again."""
        cgroups.plan(self._parts.settings.cgroup_driver, parent, "any", self._parts.cgroup_version)

    async def _check_handler(self, handler: str, config: cri.PodSandboxConfig) -> None:
        """Refuse what the OCI runtime cannot do."""
        if idmaps.of_sandbox(config) and not (await self._parts.features.of(handler)).user_namespaces:
            raise UnimplementedError(
                f"namespace_options.userns_options: handler {handler!r} or this kernel cannot map ids"
            )

    async def _run(self, key: str, config: cri.PodSandboxConfig, handler: str, manner: Manner) -> str:
        old = next((r for r in self._parts.sandboxes.store.all() if r.key == key), None)
        if old is not None and old.restoring:
            if self._parts.operations.running(Op.RESTORE.of(key)):
                raise AlreadyExistsError(f"sandbox {old.id} of this pod and attempt is being restored")
            await self.discard(old)
            old = None
        if old is not None:
            if old.state is SandboxState.CREATING:  # left by an earlier life of the service
                await self.tear_down(old)
                await self.set_up(old, convert.sandbox_config(old))
            if old.state in (SandboxState.READY, SandboxState.CREATING):
                return old.id
            if not old.error and old.state is SandboxState.NOTREADY:
                raise AlreadyExistsError(
                    f"sandbox {old.id} of this pod and attempt is stopped: remove it first"
                )
            await self._remove(old.id)
        made = new_record(key, config, self._parts.handler(handler)[0], handler)
        at_ns = succession.sandbox_time_ns(self._parts, made.namespace, made.name, made.uid)
        record = msgspec.structs.replace(made, created_at_ns=at_ns, **asdict(manner))
        fact = SandboxCreated(
            id=record.id,
            name=record.name,
            namespace=record.namespace,
            uid=record.uid,
            attempt=record.attempt,
            handler=record.handler,
        )
        with self._names.claim(record), self._ports.claim(record.id, config, self._with_ports()):
            if manner.origin is Origin.COMMAND:  # a kubelet gets them, as from other runtimes
                hostports.check_free(config)
            await self.set_up(record, config, fact)
        return record.id

    async def discard(self, record: SandboxRecord) -> None:
        """Remove what is left of a restore that an end of the service cut off."""
        if record.state is SandboxState.CREATING:
            failed = machine.SetupFailed(cause=RPC, error="its restore was cut off")
            await self._parts.sandboxes.apply(record.id, failed)
        await self.remove(record.id)

    def _with_ports(self) -> Iterator[tuple[str, bytes]]:
        """Sandboxes that have their host ports; a stopped one has given them back, or is about to."""
        for record in self._parts.sandboxes.store.all():
            if record.state in (SandboxState.CREATING, SandboxState.READY):
                yield f"{record.namespace}/{record.name} ({record.id})", record.config

    async def set_up(
        self, record: SandboxRecord, config: cri.PodSandboxConfig, fact: SandboxCreated | None = None
    ) -> None:
        """Take a CREATING sandbox to READY; when a step fails, all before it is undone and the record goes.

        What cannot be undone stays listed NOTREADY. When the service is stopped meanwhile the record stays
        CREATING, and the next start finishes it.

        Args:
            record: its record, CREATING.
            config: what it is to be.
            fact: to be stored with the record; None when that is stored already.
        """
        undo = Undo(self._parts.settings.cleanup_s)
        try:
            done = await self._steps(record, config, undo, fact)
            ready, _ = await self._parts.sandboxes.apply(record.id, done)
            await failpoint("runtimed.sandbox.ready")
        except Exception as exc:
            left = await undo.run()
            error = (
                exc.message if isinstance(exc, SlipwayError) else shortened(str(exc)) or type(exc).__name__
            )
            if left and self._parts.sandboxes.store.find(record.id):
                text = f"{error}; not undone: {', '.join(left)}"
                await self._parts.sandboxes.apply(record.id, machine.SetupFailed(cause=RPC, error=text))
            else:
                await self._forget(record.id, SandboxFailed(id=record.id, error=error))
            raise
        pause.watch(self._parts, ready)

    async def _steps(
        self, record: SandboxRecord, config: cri.PodSandboxConfig, undo: Undo, fact: SandboxCreated | None
    ) -> machine.SetupDone:
        parts = self._parts
        directory = parts.sandbox_dir(record.id)
        undo.push("directory", partial(network.remove_directory, directory))
        undo.push("namespaces", partial(network.unpin, directory))
        steps: list[Callable[[], Awaitable[Any]]] = [partial(self._ground, directory, record, config)]
        if fact is not None:
            # what is made without a record is found by its name; what other programs are told to make is not
            steps.append(partial(parts.sandboxes.store.create, record, fact))
        namespaces, *_ = await together(*steps)
        await failpoint("runtimed.sandbox.grounded")
        ips: list[str] = []
        raw = b""
        if not record.host_network and not record.isolated:
            known = parts.sandboxes.store.find(record.id)
            if known is not None and known.network_released:  # by the end of an earlier set-up
                await parts.sandboxes.amend(record.id, network_released=False)
            wish = network.attachment(record, config, namespaces["network"])
            undo.push("network", partial(parts.cni.delete, wish), on_all_before=True)
            with span("runtimed.cni.add", {"slipway.sandbox.id": record.id}), cancellable():
                result = await parts.cni.add(wish)
            ips, raw = result.ips, json.dumps(result.raw).encode()
            hostports.check_families(config, ips)
            await failpoint("runtimed.sandbox.attached")
        pause_pid = 0
        if wants_pause(config):
            undo.push("pause", partial(parts.shims.remove_pause, record.id))
            pause_pid = await parts.shims.spawn_pause(record.id, namespaces.get("user", ""))
            await failpoint("runtimed.sandbox.paused")
            undo.push("pid namespace", partial(network.unpin_pid, directory))
            namespaces["pid"] = await network.pin_pid(directory, pause_pid)
        return machine.SetupDone(
            cause=RPC,
            at_ns=now_ns(),
            boot_id=parts.boot_id,
            ips=ips,
            cni_result=raw,
            namespaces=namespaces,
            pause_pid=pause_pid,
        )

    async def _ground(
        self, directory: Path, record: SandboxRecord, config: cri.PodSandboxConfig
    ) -> dict[str, str]:
        shm_bytes = 0 if record.host_ipc else self._parts.settings.shm_size_bytes
        await anyio.to_thread.run_sync(
            network.prepare_directory, directory, config, record.hostname, shm_bytes, self._parts.host
        )
        with span("runtimed.namespaces.pin"):
            return await network.pin(directory, record, config, self._parts.settings.default_sysctls)

    async def stop(self, name: str) -> None:
        """End all containers and release the network; idempotent, also for a sandbox that is gone."""
        record = selection.find_or_none(self._parts.sandboxes.store, "sandbox", name)
        if record is not None:
            # whose own stop may be behind it: another would find the record gone halfway
            await self._parts.operations.wait(Op.REMOVE_SANDBOX.of(record.id))
            await self._join_stop(record.id)

    async def _join_stop(self, sandbox_id: str) -> None:
        await self._parts.operations.join(Op.STOP_SANDBOX.of(sandbox_id), partial(self._stop, sandbox_id))

    async def _stop(self, sandbox_id: str) -> None:
        record = self._parts.sandboxes.store.find(sandbox_id)
        if record is None:
            return
        with life_span("runtimed.sandbox.stop", record):
            if record.state is SandboxState.CREATING:
                await self._parts.operations.wait(Op.SET_UP_SANDBOX.of(record.key))
                record = self._parts.sandboxes.store.find(sandbox_id)
            if record is None:
                return
            record, _ = await self._parts.sandboxes.apply(sandbox_id, machine.StopAsked(cause=RPC))
            await failpoint("runtimed.unsandbox.stopped")
            await self.tear_down(record)

    async def tear_down(self, record: SandboxRecord) -> None:
        """Stop the containers and release all that the set-up made.

        Each part is tried whatever fails, but the namespaces stay as long as the network is not released; and while a
        container cannot be ended, all but the network stays: its host ports another pod may have by now.
        """
        running = [partial(self._containers.end_now, c.id) for c in self._parts.containers_of(record.id)]
        undo = Undo(self._parts.settings.cleanup_s)
        attached = not (record.host_network or record.isolated or record.network_released)
        try:
            await together(*running)
        except SlipwayError:
            if attached:
                undo.push("network", partial(self._release, record))
                await undo.run()
            raise
        directory = self._parts.sandbox_dir(record.id)
        undo.push("directory", partial(network.remove_directory, directory))
        undo.push("namespaces", partial(network.unpin, directory))
        if attached:
            # without the namespace a plugin cannot tell which rules of the node were for its addresses
            undo.push("network", partial(self._release, record), on_all_before=True)
        undo.push("pause", partial(self._parts.shims.remove_pause, record.id))
        undo.push("pid namespace", partial(network.unpin_pid, directory))
        left = await undo.run()
        if left:
            kind = UnavailableError if undo.may_pass else FailedPreconditionError
            raise kind(f"sandbox {record.id}: not released: {', '.join(left)}")

    async def _release(self, record: SandboxRecord) -> None:
        netns = record.namespaces.get("network", "")
        there = netns if netns and await anyio.Path(netns).exists() else ""
        wish = network.attachment(record, convert.sandbox_config(record), there)
        # each plugin has its own deadline: one that came to its end after that of the way back is released all the same
        with anyio.CancelScope(shield=True):
            with span("runtimed.cni.delete", {"slipway.sandbox.id": record.id}):
                await self._parts.cni.delete(wish)
            await failpoint("runtimed.unsandbox.released")
            await self._parts.sandboxes.amend(record.id, network_released=True)

    async def remove(self, name: str) -> None:
        """Stop and remove a sandbox with its containers; idempotent."""
        record = selection.find_or_none(self._parts.sandboxes.store, "sandbox", name)
        if record is not None:
            await self._parts.operations.join(
                Op.REMOVE_SANDBOX.of(record.id), partial(self._remove, record.id)
            )

    async def _remove(self, sandbox_id: str) -> None:
        await self._join_stop(sandbox_id)
        record = self._parts.sandboxes.store.find(sandbox_id)
        if record is None:
            return
        with life_span("runtimed.sandbox.remove", record):
            containers = self._parts.containers_of(sandbox_id)
            await together(*[partial(self._containers.remove, c.id) for c in containers])
            await self._parts.sandboxes.apply(sandbox_id, machine.RemoveAsked(cause=RPC))
            await failpoint("runtimed.unsandbox.recorded")
            await self._forget(sandbox_id, SandboxRemoved(id=sandbox_id))

    async def _forget(self, sandbox_id: str, fact: SandboxRemoved | SandboxFailed) -> None:
        await self._parts.sandboxes.forget(sandbox_id, fact)
        await failpoint("runtimed.unsandbox.forgotten")
        await anyio.to_thread.run_sync(remove_empty, self._parts.data_dir / "sandboxes" / sandbox_id)

    def netns_path(self, name: str) -> str:
        """Where a sandbox's network namespace is pinned; "" for the host's.

        Raises:
            NotFoundError: there is no such sandbox.
            FailedPreconditionError: it is not ready.
        """
        record = selection.find(self._parts.sandboxes.store, "sandbox", name)
        if record.state is not SandboxState.READY:
            raise FailedPreconditionError(f"sandbox {record.id}: is {record.state}, not ready")
        return record.namespaces.get("network", "")

    def status(self, name: str, *, verbose: bool) -> cri.PodSandboxStatusResponse:
        """One sandbox."""
        record = selection.find(self._parts.sandboxes.store, "sandbox", name)
        response = cri.PodSandboxStatusResponse(status=convert.sandbox_status(record), timestamp=now_ns())
        fitting = [r for r in selection.listed(self._parts.containers.store) if r.sandbox_id == record.id]
        response.containers_statuses.extend(convert.container_status(r) for r in fitting)
        if verbose:
            response.info["info"] = json.dumps(_facts(record))
        return response

    def list(self, wanted: cri.PodSandboxFilter) -> list[cri.PodSandbox]:
        """The sandboxes that fit a filter, as CRI sees them."""
        found = selection.by_id(self._parts.for_cri(self._parts.sandboxes.store), wanted.id)
        found = selection.with_labels(found, wanted.label_selector)
        if wanted.HasField("state"):
            found = [r for r in found if convert.sandbox_state(r) == wanted.state.state]
        return [convert.sandbox_item(record) for record in found]


def key_of(config: cri.PodSandboxConfig) -> str:
    """What a retry has in common with the first request."""
    meta = config.metadata
    return f"{meta.namespace}_{meta.name}_{meta.uid}_{meta.attempt}"


def new_record(key: str, config: cri.PodSandboxConfig, handler: str, requested: str) -> SandboxRecord:
    """The record of a sandbox that is about to be set up."""
    meta = config.metadata
    options = config.linux.security_context.namespace_options
    host_network = options.network == cri.NODE
    node_name = os.uname().nodename
    return SandboxRecord(
        id=secrets.token_hex(32),
        key=key,
        config=config.SerializeToString(),
        name=meta.name,
        namespace=meta.namespace,
        uid=meta.uid,
        attempt=meta.attempt,
        labels=dict(config.labels),
        annotations=dict(config.annotations),
        handler=handler,
        requested_handler=requested,
        host_network=host_network,
        host_ipc=options.ipc == cri.NODE,
        hostname=node_name if host_network else (config.hostname or meta.name)[:MAX_NAME_BYTES].rstrip("-."),
        cgroup_parent=config.linux.cgroup_parent,
        overhead=config.linux.overhead.SerializeToString(),
        resources=config.linux.resources.SerializeToString(),
        traceparent=traceparent(),
    )


def _check_isolated(config: cri.PodSandboxConfig) -> None:
    if config.linux.security_context.namespace_options.network == cri.NODE:
        raise InvalidArgumentError("isolated: the network is the node's")
    if config.port_mappings:
        raise InvalidArgumentError("port_mappings: an isolated sandbox has no network")


def wants_pause(config: cri.PodSandboxConfig) -> bool:
    """Whether the pod shares a PID namespace, as one does that says nothing of it: POD is CRI's zero."""
    return config.linux.security_context.namespace_options.pid == cri.POD


def remove_empty(directory: Path) -> None:
    """Remove the directory of a record that is gone; idempotent. Blocking."""
    try:
        directory.rmdir()
    except FileNotFoundError:
        return


def _resources(body: bytes) -> dict[str, object]:
    found: dict[str, object] = MessageToDict(
        cri.LinuxContainerResources.FromString(body), preserving_proto_field_name=True
    )
    return found


def _facts(record: SandboxRecord) -> dict[str, object]:
    return {
        "pid": record.pause_pid,
        "state": record.state,
        "runtimeHandler": record.handler,
        "namespaces": record.namespaces,
        "hostname": record.hostname,
        "cgroupParent": record.cgroup_parent,
        "overhead": _resources(record.overhead),
        "resources": _resources(record.resources),
        "cniResult": json.loads(record.cni_result or b"null"),
        "error": record.error,
        "revision": record.revision,
        "traceparent": record.traceparent,
    }
