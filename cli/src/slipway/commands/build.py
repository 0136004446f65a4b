"""build."""

import os
import sys
from argparse import Namespace
from pathlib import Path

from common.errors import InvalidArgumentError
from slipway.building import dockerfile, mounts, platform
from slipway.building.builder import Builder
from slipway.building.ignore import Ignore, parse
from slipway.building.progress import Progress
from slipway.building.state import Wish
from slipway.building.worker import Worker
from slipway.commands.changes import epoch
from slipway.connect import imaged, node
from slipway.places import Place


async def build(arguments: Namespace) -> int:
    """Build an image from a Dockerfile, name it, and print its id."""
    if arguments.platform:
        platform.check(arguments.platform)
    with Progress(quiet=arguments.quiet, plain=arguments.progress == "plain") as progress:
        image = await _built(arguments, progress)
    if arguments.iidfile:
        Path(arguments.iidfile).write_text(image)
    sys.stdout.write(f"{image}\n")
    return 0


async def _built(arguments: Namespace, progress: Progress) -> str:
    context = Path(arguments.context)
    file = Path(arguments.file) if arguments.file else context / "Dockerfile"
    with progress.step(f"[internal] load build definition from {file.name}"):
        before, stages = dockerfile.read(file)
    fd = os.open(context, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        wish = Wish(
            context=Place(fd),
            ignore=_ignore(context, file),
            arguments=dict(_argument(text) for text in arguments.build_arg),
            secrets=mounts.secrets(arguments.secret),
            epoch_s=epoch() or None,
            use_cache=not arguments.no_cache,
        )
        async with node(arguments.run_dir) as on, imaged(arguments.run_dir) as images:
            worker = Worker(on, arguments.network)
            try:
                builder = Builder(on, images, worker, progress, wish)
                image = await builder.build(before, stages, arguments.target)
            finally:
                await worker.close()
            with progress.step("exporting to image") as step:
                step.say(f"writing image {image}")
                for name in arguments.tag:
                    await images.tag(image, name)
                    step.say(f"naming to {name}")
    finally:
        os.close(fd)
    return image


def _ignore(context: Path, file: Path) -> Ignore:
    """Of the Dockerfile's own .dockerignore, or of the context's."""
    for path in (file.with_name(f"{file.name}.dockerignore"), context / ".dockerignore"):
        if path.is_file():
            return parse(path.read_text())
    return Ignore()


def _argument(text: str) -> tuple[str, str]:
    name, joint, value = text.partition("=")
    if not name:
        message = f"--build-arg {text!r}: want NAME=VALUE, or NAME to pass on our own"
        raise InvalidArgumentError(message)
    if not joint:
        value = os.environ.get(name, "")  # noqa: TID251 - passes on the caller's, as docker's
    return name, value
