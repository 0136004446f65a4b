"""Pods from checkpoints: sandbox and containers are made as ever, and their starts continue the dumps."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import anyio.to_thread

from common.api.cri.v1 import api_pb2 as cri
from common.api.runtime.v1 import runtime_pb2 as pb
from common.errors import AlreadyExistsError, InvalidArgumentError, UnimplementedError
from common.observe.log import get_logger
from runtimed.checkpoint import archive, rules
from runtimed.oci import idmaps
from runtimed.oci.validate import validate_container, validate_sandbox
from runtimed.ops import Op
from runtimed.use.checkpoint.checkpoints import require
from runtimed.use.container.containers import Containers
from runtimed.use.parts import Parts
from runtimed.use.sandbox.sandboxes import Manner, Sandboxes, key_of
from runtimed.use.together import together
from runtimed.use.undo import Undo

_log = get_logger("runtimed")
Held = Mapping[str, archive.Held]


class Restores:
    """Restores of whole pods."""

    def __init__(self, parts: Parts, sandboxes: Sandboxes, containers: Containers) -> None:
        self._parts = parts
        self._sandboxes = sandboxes
        self._containers = containers

    async def pod(self, wanted: pb.RestorePodRequest) -> cri.RestorePodResponse:
        """Make a sandbox and its containers, CREATED, from a checkpoint, which is not changed; all or nothing.

        What the end of the service cuts off is removed by its next start, or by a retry before that.

        Raises:
            InvalidArgumentError, UnimplementedError, NotFoundError: an argument, or a file of the checkpoint.
            FailedPreconditionError: the machine lacks something.
            AlreadyExistsError: there is a sandbox of these names.
        """
        request = wanted.request
        rules.no_options(request.options)
        directory = await self._parts.here(rules.absolute("checkpoint_path", request.checkpoint_path))
        validate_sandbox(request.config)
        if idmaps.of_sandbox(request.config):
            raise UnimplementedError(
                "namespace_options.userns_options: nothing is restored into a user namespace"
            )
        name, _ = self._parts.handler(request.runtime_handler)
        for config in request.container_configs:
            validate_container(config, request.config)
        await anyio.to_thread.run_sync(rules.directory, "checkpoint_path", directory, abandon_on_cancel=True)
        found = await anyio.to_thread.run_sync(archive.read_pod, directory, abandon_on_cancel=True)
        held = {container.name: container for container in found.containers}
        rules.same_names([config.metadata.name for config in request.container_configs], held)
        _same_images(wanted, held)
        await require(self._parts, name)
        key = key_of(request.config)
        return await self._parts.operations.join(
            Op.RESTORE.of(key), partial(self._restore, key, wanted, directory, held)
        )

    async def _restore(
        self, key: str, wanted: pb.RestorePodRequest, directory: Path, held: Held
    ) -> cri.RestorePodResponse:
        parts, request = self._parts, wanted.request
        known = [record for record in parts.sandboxes.store.all() if record.key == key]
        if not all(record.restoring for record in known) or parts.operations.running(
            Op.SET_UP_SANDBOX.of(key)
        ):
            raise AlreadyExistsError(f"sandbox {key}: is there already: remove it first")
        for record in known:
            await self._sandboxes.discard(record)
        sandbox_id = await self._sandboxes.run(
            request.config, request.runtime_handler, Manner(restoring=True)
        )
        undo = Undo(parts.settings.cleanup_s)
        undo.push("sandbox", partial(self._sandboxes.remove, sandbox_id))
        for container in wanted.containers:
            container.request.pod_sandbox_id = sandbox_id
            container.checkpoint = str(directory / held[_name(container)].archive)
        try:
            ids = await together(*[partial(self._containers.create, one) for one in wanted.containers])
            await parts.sandboxes.amend(sandbox_id, restoring=False)
        except Exception:
            left = await undo.run()
            if left:
                _log.warning("restore.leftovers", sandbox_id=sandbox_id, left=left)
            raise
        response = cri.RestorePodResponse(pod_sandbox_id=sandbox_id)
        for container, container_id in zip(wanted.containers, ids, strict=True):
            response.restored_containers.add(name=_name(container), container_id=container_id)
        return response


def _name(wanted: pb.CreateContainerRequest) -> str:
    return wanted.request.config.metadata.name


def _same_images(wanted: pb.RestorePodRequest, held: Held) -> None:
    """A dump fits the files of the image that it was made with, and no others."""
    for container in wanted.containers:
        name, image = _name(container), container.image.id
        if image != held[name].image_id:
            raise InvalidArgumentError(
                f"container_configs: the image of {name!r} is {image}, in the checkpoint {held[name].image_id}"
            )
