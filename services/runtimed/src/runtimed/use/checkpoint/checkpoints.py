"""Checkpoints of containers and pods. Arguments are judged first, then the machine; then containers are touched."""

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread
from google.protobuf.json_format import MessageToJson

from common.api.cri.v1 import api_pb2 as cri
from common.errors import (
    DeadlineExceededError,
    FailedPreconditionError,
    InvalidArgumentError,
    UnknownError,
)
from common.sys.hostroot import HostRoot
from runtimed import convert, selection
from runtimed.checkpoint import ability, archive, freezer, rules, workplace
from runtimed.ops import Op
from runtimed.record import ContainerRecord, ContainerState, SandboxRecord, SandboxState
from runtimed.use.bundles.bundle import CONFIG
from runtimed.use.parts import Parts
from runtimed.use.together import together

MARK = "frozen"
MARGIN_S = 0.5
"""What is kept of a pod's deadline for letting all run on and for the answer."""
_UPPER = re.compile(r"(?:^|[, ])upperdir=([^,\s]+)")


async def require(parts: Parts, name: str) -> None:
    """Refuse what a handler or this machine cannot do.

    Raises:
        FailedPreconditionError: all that is missing, in one sentence.
    """
    handler = parts.handler(name)[1]
    features = await parts.features.of(name)
    await ability.require(name, handler, features, parts.settings.criu_binary)


class Checkpoints:
    """Dumps of what runs, by the OCI runtimes."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._places: set[Path] = set()
        """Where dumps go on."""

    async def container(self, request: cri.CheckpointContainerRequest) -> None:
        """Dump one container into a new tar file; it runs on.

        Raises:
            InvalidArgumentError, NotFoundError, AlreadyExistsError: an argument.
            FailedPreconditionError: it does not run, or the machine lacks something.
            DeadlineExceededError: it took too long; nothing is left.
        """
        location = await self._parts.here(rules.absolute("location", request.location))
        if request.timeout < 0:
            raise InvalidArgumentError(f"timeout: {request.timeout} is negative")
        record = selection.find(self._parts.containers.store, "container", request.container_id)
        sandbox = self._parts.sandboxes.store.get(record.sandbox_id)
        if record.state is not ContainerState.RUNNING:
            raise FailedPreconditionError(f"container {record.id}: is {record.state}, not running")
        await anyio.to_thread.run_sync(rules.new_file, "location", location, abandon_on_cancel=True)
        await require(self._parts, sandbox.handler)
        timeout_s = float(request.timeout) or self._parts.settings.checkpoint_timeout_s

        made: list[Path] = []

        async def dump() -> None:
            async with (
                _within(timeout_s),
                _gone_on_failure(partial(_remove_files, made)),
                self._still([record]),  # what it writes meanwhile would not fit what it remembers
            ):
                await self._dump(record, location)
                made.append(location)

        await self._alone(record.sandbox_id, dump)

    async def pod(self, request: cri.CheckpointPodRequest, deadline_s: float | None) -> None:
        """Dump all running containers of a sandbox at one moment into an empty directory; they run on.

        Raises:
            InvalidArgumentError, NotFoundError: an argument, or there is no deadline.
            FailedPreconditionError: the directory is not empty, the sandbox not ready, or the machine lacks something.
            DeadlineExceededError: it took too long; all run on, and nothing is left.
        """
        if deadline_s is None:
            raise InvalidArgumentError("CheckpointPod: the call needs a deadline")
        rules.no_options(request.options)
        output = await self._parts.here(rules.absolute("output_path", request.output_path))
        sandbox = selection.find(self._parts.sandboxes.store, "sandbox", request.pod_sandbox_id)
        if sandbox.state is not SandboxState.READY:
            raise FailedPreconditionError(f"sandbox {sandbox.id}: is not ready")
        running = [
            record
            for record in self._parts.containers_of(sandbox.id)
            if record.state is ContainerState.RUNNING
        ]
        rules.exactly_running(request.container_ids, [record.id for record in running])
        await anyio.to_thread.run_sync(rules.empty_directory, "output_path", output, abandon_on_cancel=True)
        await require(self._parts, sandbox.handler)
        limit_s = max(0.0, deadline_s - MARGIN_S)

        async def dump() -> None:
            async with _within(limit_s), _gone_on_failure(partial(archive.remove_all, output)):
                async with self._still(running):
                    for number, record in enumerate(running):
                        await self._dump(record, output / f"{number}.tar")
                await anyio.to_thread.run_sync(archive.write_manifest, output, _manifest(sandbox, running))

        await self._alone(sandbox.id, dump)

    async def thaw_left(self, record: ContainerRecord) -> bool:
        """Let run what an earlier life of the service held still; whether there was something."""
        mark = self._parts.record_dir(record.id) / MARK
        if record.cgroup is None or not await anyio.to_thread.run_sync(mark.exists):
            return False
        await freezer.thaw(record.cgroup)
        await anyio.to_thread.run_sync(partial(mark.unlink, missing_ok=True))
        return True

    async def remove_left(self) -> list[str]:
        """Remove what checkpoints that were cut off had written; returns the ids of their containers."""
        containers = self._parts.data_dir / "containers"
        return await anyio.to_thread.run_sync(workplace.remove_left, containers, self._places)

    async def _alone(self, sandbox_id: str, work: Callable[[], Awaitable[None]]) -> None:
        key = Op.CHECKPOINT.of(sandbox_id)
        if self._parts.operations.running(key):
            raise FailedPreconditionError(f"sandbox {sandbox_id}: another checkpoint of it goes on")
        await self._parts.operations.join(key, work)

    @asynccontextmanager
    async def _still(self, records: Sequence[ContainerRecord]) -> AsyncIterator[None]:
        """All are frozen before the block begins, and run on after it, whatever happens."""
        try:
            for record in records:
                if record.cgroup is not None:
                    mark = self._parts.record_dir(record.id) / MARK
                    await anyio.to_thread.run_sync(mark.touch)
                    await freezer.freeze(record.cgroup)
            yield
        finally:
            with anyio.CancelScope(shield=True):
                await together(*[partial(self.thaw_left, record) for record in records])

    async def _dump(self, record: ContainerRecord, target: Path) -> None:
        work = workplace.name(self._parts.record_dir(record.id))
        images = work / archive.IMAGES
        self._places.add(work)
        try:
            for directory in (work, images):
                await anyio.to_thread.run_sync(partial(directory.mkdir, mode=0o700))
            left_s = anyio.current_effective_deadline() - anyio.current_time()
            await self._parts.shims.checkpoint(record.socket_path, record.id, str(images), left_s)
            await anyio.to_thread.run_sync(_write, record, work, target, self._parts.host)
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(workplace.remove, work)
            self._places.discard(work)


def _write(record: ContainerRecord, work: Path, target: Path, host: HostRoot) -> None:
    """One container's archive of what the OCI runtime dumped and what we know. Blocking."""
    diff = work / archive.DIFF
    archive.write_diff(diff, _upper(record))
    texts = {
        "config.dump": MessageToJson(convert.container_config(record)).encode(),
        "spec.dump": (Path(record.bundle_path) / CONFIG).read_bytes(),
        "status.dump": MessageToJson(convert.container_status(record)).encode(),
    }
    files = {archive.IMAGES: work / archive.IMAGES, archive.DIFF: diff}
    if record.log_path:
        files["container.log"] = Path(host.here(record.log_path))
    try:
        archive.write(target, texts, files, workplace.temporary(work, target))
    except OSError as exc:
        raise UnknownError(f"{exc.filename or target}: {exc.strerror}") from exc


def _remove_files(paths: Sequence[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


def _upper(record: ContainerRecord) -> Path:
    """Where overlayfs keeps what a container wrote. Blocking."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, rest = line.partition(" - ")
        found = _UPPER.search(rest)
        if fields.split()[4] == record.rootfs and found:
            return Path(found[1])
    raise FailedPreconditionError(
        f"container {record.id}: its root is no overlay: what it wrote is not known"
    )


def _manifest(sandbox: SandboxRecord, records: Sequence[ContainerRecord]) -> archive.Manifest:
    held = [
        archive.Held(record.name, f"{number}.tar", record.image_id) for number, record in enumerate(records)
    ]
    return archive.Manifest(pod=sandbox.name, namespace=sandbox.namespace, uid=sandbox.uid, containers=held)


@asynccontextmanager
async def _within(limit_s: float) -> AsyncIterator[None]:
    try:
        with anyio.fail_after(limit_s):
            yield
    except TimeoutError as exc:
        raise DeadlineExceededError(f"the checkpoint took over {limit_s:g} s") from exc


@asynccontextmanager
async def _gone_on_failure(remove: "partial[None]") -> AsyncIterator[None]:
    try:
        yield
    except BaseException:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(remove)
        raise
