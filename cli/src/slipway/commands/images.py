"""pull, images, rmi, tag, untag, lease."""

import sys
from argparse import Namespace
from datetime import UTC, datetime
from fnmatch import fnmatchcase

from common.api.cri.v1 import api_pb2 as cri
from common.api.images.v1 import images_pb2 as pb
from common.buildcache import given, is_cache
from common.errors import FailedPreconditionError, NotFoundError
from slipway.commands.imagefacts import age_of
from slipway.connect import imaged, images_of, node
from slipway.options import filters
from slipway.options.credentials import auth_of
from slipway.options.durations import seconds
from slipway.output import render
from slipway.output.bars import Bars, Row

STATES = {
    pb.LAYER_STATE_WAITING: "waiting",
    pb.LAYER_STATE_FETCHING: "fetching",
    pb.LAYER_STATE_UNPACKING: "unpacking",
    pb.LAYER_STATE_DONE: "done",
}


async def pull(arguments: Namespace) -> int:
    """Pull an image, with a bar for each layer on a terminal."""
    auth = auth_of(arguments.reference, arguments.creds)
    image = await fetch(
        arguments.run_dir,
        arguments.reference,
        auth,
        priority=arguments.priority,
        lazy=arguments.lazy,
        platform=arguments.platform,
        all_platforms=arguments.all_platforms,
        quiet=arguments.quiet,
    )
    if arguments.output == "json":
        render.messages([image])
    else:
        sys.stdout.write(f"{image.id}\n")
    return 0


async def fetch(
    run_dir: str,
    reference: str,
    auth: pb.Auth | None,
    *,
    priority: int = 0,
    lazy: bool = False,
    platform: str = "",
    all_platforms: bool = False,
    quiet: bool = False,
) -> pb.Image:
    """Pull through imaged and show the progress on stderr, unless it is to be quiet."""
    bars = Bars(shown=not quiet)
    try:
        async with imaged(run_dir) as client:
            async for progress in client.pull(
                reference,
                auth,
                priority=priority,
                lazy=lazy,
                platform=platform,
                all_platforms=all_platforms,
            ):
                bars.show(map(_row, progress.layers))
                bars.show_left(progress.left_s if progress.HasField("left_s") else None)
                if progress.HasField("image"):
                    return progress.image
    finally:
        bars.close()
    message = f"the pull of {reference} ended without an image"
    raise FailedPreconditionError(message)


def _row(layer: pb.LayerProgress) -> Row:
    return Row(layer.digest, layer.size_bytes, layer.fetched_bytes, STATES.get(layer.state, ""))


async def images(arguments: Namespace) -> int:
    """List images."""
    async with node(arguments.run_dir) as on:
        found = (await on.images.ListImages(cri.ListImagesRequest())).images
    wishes = [*arguments.filter, *([f"reference={arguments.wanted}"] if arguments.wanted else [])]
    shown = filters.chosen(found, wishes, _TESTS, _VALUES)
    if not arguments.all and not any(wish.startswith(("reference=", "id=")) for wish in wishes):
        shown = [image for image in shown if not is_cache(image.repo_tags)]
    if arguments.quiet:
        for image in shown:
            sys.stdout.write(f"{_short(image, whole=arguments.no_trunc)}\n")
    elif arguments.report == "json":
        render.messages(shown)
    else:
        patterns = [text.removeprefix("reference=") for text in wishes if text.startswith("reference=")]
        whole = bool(arguments.no_trunc)
        ages = await _ages(arguments.run_dir)
        rows = sorted(
            (*row[:3], ages.get(image.id, "N/A"), row[3])
            for image in shown
            for row in _image_rows(image, patterns, whole=whole, every=arguments.all)
        )
        headings = ("IMAGE", "DIGEST", "ID", "CREATED", "SIZE")
        keep = [0, 1, 2, 3, 4] if arguments.digests else [0, 2, 3, 4]
        render.table([headings[i] for i in keep], [[row[i] for i in keep] for row in rows])
    return 0


async def _ages(run_dir: str) -> dict[str, str]:
    """How long ago each image was made, by its id; CRI's list does not tell."""
    async with images_of(run_dir) as client:
        found = (await client.List(pb.ListRequest())).images
    return {image.id: age_of(image.created) for image in found}


_TESTS: dict[str, filters.Test] = {
    "reference": lambda image, value: any(_named(name, value) for name in image.repo_tags),
    "id": lambda image, value: image.id.removeprefix("sha256:").startswith(value.removeprefix("sha256:")),
    "dangling": lambda image, value: (not image.repo_tags) == (value.lower() in ("true", "1")),
}
_VALUES = {"dangling": ("true", "false", "1", "0")}


def _named(name: str, pattern: str) -> bool:
    """Whether a name, its end after a slash, or either without its tag is as the pattern says."""
    forms = {name, name.rpartition(":")[0]}
    for form in tuple(forms):
        parts = form.split("/")
        forms |= {"/".join(parts[i:]) for i in range(len(parts))}
    return any(fnmatchcase(form, pattern) for form in forms)


def _short(image: cri.Image, *, whole: bool) -> str:
    return str(image.id) if whole else str(image.id).partition(":")[2][:12]


def _image_rows(
    image: cri.Image, patterns: list[str], *, whole: bool, every: bool
) -> list[tuple[str, str, str, str]]:
    """A row for each name that is asked for, with the digest that its repository has."""
    digests = {text.partition("@")[0]: text.partition("@")[2] for text in image.repo_digests}
    names = list(image.repo_tags or image.repo_digests or ["<none>"])
    if patterns:
        names = [name for name in names if any(_named(name, pattern) for pattern in patterns)]
    elif not every:
        names = given(names) or names
    return [
        (name, _digest(digests, name), _short(image, whole=whole), render.size(image.size)) for name in names
    ]


def _digest(digests: dict[str, str], name: str) -> str:
    repository = name.partition("@")[0] if "@" in name else name.rpartition(":")[0]
    return digests.get(repository, "<none>")


async def rmi(arguments: Namespace) -> int:
    """Take names away, and images with their last one; goes on after one that cannot go."""
    failed = False
    async with imaged(arguments.run_dir) as client:
        for reference in arguments.reference:
            try:
                done = await client.untag(reference, force=arguments.force)
            except NotFoundError:
                failed = True
                told = f"no image {render.clean(reference)!r}: `slipway images` lists them"
                sys.stderr.write(f"slipway: {told}\n")
                continue
            except FailedPreconditionError as exc:
                failed = True
                sys.stderr.write(f"slipway: {render.sentence(exc.message)} (-f)\n")
                continue
            sys.stdout.writelines(f"Untagged: {render.clean(name)}\n" for name in done.untagged)
            if done.removed_id:
                sys.stdout.write(f"Deleted: {done.removed_id}\n")
    return 1 if failed else 0


async def tag(arguments: Namespace) -> int:
    """Give an image one more name."""
    async with imaged(arguments.run_dir) as client:
        await client.tag(arguments.source, arguments.target)
    return 0


async def lease(arguments: Namespace) -> int:
    """Hold an image against collection for a time, or no longer."""
    span_s = 0.0 if arguments.end else seconds(f"--for {arguments.span!r}", arguments.span)
    async with imaged(arguments.run_dir) as client:
        image = await client.lease(arguments.reference, arguments.name, span_s)
    left = next((lease.until_ns for lease in image.leases if lease.name == arguments.name), 0)
    until = datetime.fromtimestamp(left / 1e9, UTC).isoformat(timespec="seconds") if left else ""
    sys.stdout.write(f"Held until {until}\n" if left else "Not held by this lease any more\n")
    return 0


async def untag(arguments: Namespace) -> int:
    """Take names away from images that stay."""
    async with imaged(arguments.run_dir) as client:
        for reference in arguments.reference:
            done = await client.untag(reference, keep_image=True)
            sys.stdout.writelines(f"Untagged: {render.clean(name)}\n" for name in done.untagged)
    return 0
