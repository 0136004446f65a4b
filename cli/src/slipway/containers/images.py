"""The images of a container that is to be made, pulled when they are not here."""

from collections.abc import Iterable

from common.api.cri.v1 import api_pb2 as cri
from common.api.images.v1 import images_pb2
from common.api.runtime.v1 import runtime_pb2 as pb
from common.errors import InvalidArgumentError, NotFoundError
from slipway.connect import Node, images_of
from slipway.options.credentials import auth_of

ALWAYS, MISSING, NEVER = "always", "missing", "never"


async def resolve(
    on: Node, reference: str, pull: str = MISSING, *, mounted: bool = False
) -> pb.ResolvedImage:
    """The image of this name or id.

    Args:
        on: its node.
        reference: what names it.
        pull: when it is pulled.
        mounted: it need not run, as an artifact cannot.

    Raises:
        InvalidArgumentError: it cannot run.
        NotFoundError: it is not here, and not to be pulled.
    """
    image = await _fetched(on, reference) if pull == ALWAYS else await _found(on, reference, pull)
    if image.artifact_type and not mounted:
        kind = image.artifact_type
        message = f"image {reference!r} is an artifact of type {kind!r}: it can be mounted, not run"
        raise InvalidArgumentError(message)
    ref = image.repo_digests[0] if image.repo_digests else image.id
    return pb.ResolvedImage(id=image.id, config=image.config, diff_ids=image.diff_ids, ref=ref)


async def image_id(on: Node, reference: str) -> str:
    """The id of an image, pulled when it is not here."""
    return str((await resolve(on, reference)).id)


async def resolve_mounted(
    on: Node, mounts: Iterable[cri.Mount], pull: str = MISSING
) -> dict[str, pb.ResolvedImage]:
    """The images of mounts by their names, each noted in its mount."""
    found: dict[str, pb.ResolvedImage] = {}
    for mount in mounts:
        if name := mount.image.image:
            found[name] = found.get(name) or await resolve(on, name, pull, mounted=True)
            mount.image.image_ref = found[name].id
    return found


async def _found(on: Node, reference: str, pull: str) -> images_pb2.Image:
    try:
        async with images_of(on.run_dir) as images:
            image: images_pb2.Image = await images.Get(images_pb2.GetRequest(reference=reference, used=True))
    except NotFoundError as exc:
        if pull == NEVER:
            message = f"image {reference!r} is not on this node: leave out --pull never, or `slipway pull` it"
            raise NotFoundError(message) from exc
        return await _fetched(on, reference)
    return image


async def _fetched(on: Node, reference: str) -> images_pb2.Image:
    from slipway.commands.images import fetch

    return await fetch(on.run_dir, reference, auth_of(reference, ""))
