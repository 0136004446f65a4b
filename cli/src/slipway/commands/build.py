"""build."""

import os
import signal
import sys
import tempfile
from argparse import Namespace
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import anyio

from common.errors import InvalidArgumentError
from slipway.building import dockerfile, mounts, platform, workspace
from slipway.building.builder import Builder
from slipway.building.fetching import is_remote
from slipway.building.ignore import Ignore, parse
from slipway.building.leases import leases
from slipway.building.progress import Progress
from slipway.building.state import Wish
from slipway.building.worker import Worker
from slipway.commands.changes import epoch
from slipway.connect import imaged, node
from slipway.files import Place
from slipway.streams import questions

_PACKED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")
"""How gzip, bzip2, xz and zstd begin."""
_ARCHIVE = "-: an archive as context is not offered: unpack it, and give its directory"


async def build(arguments: Namespace) -> int:
    """Build an image from a Dockerfile, name it, and print its id."""
    if arguments.platform:
        platform.check(arguments.platform)
    with Progress(quiet=arguments.quiet, plain=arguments.progress == "plain") as progress:
        image, told = await _built(arguments, progress)
    if told:
        return 128 + told
    if arguments.iidfile:
        Path(arguments.iidfile).write_text(image)
    sys.stdout.write(f"{image}\n")
    return 0


async def _built(arguments: Namespace, progress: Progress) -> tuple[str, int]:
    """The image, or the number of the signal that ended the build."""
    labels = dict(_label(text) for text in arguments.label)
    with _context(arguments) as (context, fd):
        piped = "-" in (arguments.file, arguments.context)
        file = Path(arguments.file) if arguments.file and not piped else context / "Dockerfile"
        with progress.step(f"[internal] load build definition from {'-' if piped else file.name}"):
            body = _standard_input() if piped else file.read_bytes()
            parsed = dockerfile.parse(file.name, body)
        wish = Wish(
            context=Place(fd),
            ignore=_ignore(context, [] if piped else [file.with_name(f"{file.name}.dockerignore")]),
            arguments=dict(_argument(text) for text in arguments.build_arg),
            secrets=mounts.secrets(arguments.secret),
            epoch_s=epoch() or None,
            labels=labels,
            use_cache=not arguments.no_cache,
            pull=arguments.pull,
        )
        return await _unless_told_to_end(partial(_made, arguments, progress, wish, *parsed))


async def _unless_told_to_end(work: Callable[[], Awaitable[str]]) -> tuple[str, int]:
    """Cancel the work, which cleans up, at SIGTERM or SIGHUP, as asyncio does at SIGINT."""
    heeded = [
        each for each in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(each) is not signal.SIG_IGN
    ]
    result, told = "", 0
    async with anyio.create_task_group() as group:

        async def watch() -> None:
            nonlocal told
            with anyio.open_signal_receiver(*heeded) as signals:
                async for number in signals:
                    told = number
                    group.cancel_scope.cancel()

        group.start_soon(watch)
        result = await work()
        group.cancel_scope.cancel()
    return result, told


async def _made(
    arguments: Namespace,
    progress: Progress,
    wish: Wish,
    before: list[dockerfile.Instruction],
    stages: list[dockerfile.Stage],
) -> str:
    async with node(arguments.run_dir) as on, imaged(arguments.run_dir) as images:
        async for _ in workspace.sweep(on):
            pass
        with workspace.workspace(on.run_dir) as space:
            async with leases(images, space.uid) as held:
                worker = Worker(on, arguments.network, space)
                try:
                    builder = Builder(on, images, held, worker, progress, wish)
                    image = await builder.build(before, stages, arguments.target)
                finally:
                    await worker.close()
                with progress.step("exporting to image") as step:
                    step.say(f"writing image {image}")
                    for name in arguments.tag:
                        await images.tag(image, name)
                        step.say(f"naming to {name}")
    return image


@contextmanager
def _context(arguments: Namespace) -> Iterator[tuple[Path, int]]:
    """The directory that COPY takes from, and it opened; an empty one when all is on standard input.

    Raises:
        InvalidArgumentError: it is somewhere else, or there are two for one standard input.
        OSError: it is no directory that can be read.
    """
    wanted = arguments.context
    if wanted == "-" and arguments.file:
        raise InvalidArgumentError(_ARCHIVE)
    elsewhere = is_remote(wanted) or wanted.startswith("github.com/")
    if elsewhere and not Path(wanted).exists():
        raise InvalidArgumentError(f"{wanted!r}: a context is a directory here: clone or fetch it first")
    with ExitStack() as stack:
        if wanted == "-":
            wanted = stack.enter_context(tempfile.TemporaryDirectory(prefix="slipway-build-"))
        fd = os.open(wanted, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        stack.callback(os.close, fd)
        yield Path(wanted), fd


def _standard_input() -> bytes:
    """The Dockerfile that somebody pipes or types.

    Raises:
        InvalidArgumentError: it is an archive.
    """
    with questions.answering():
        body = sys.stdin.buffer.read(dockerfile.MAX_BYTES + 1)
    if body[257:262] == b"ustar" or body.startswith(_PACKED):
        raise InvalidArgumentError(_ARCHIVE)
    return body


def _ignore(context: Path, own: list[Path]) -> Ignore:
    """Of the Dockerfile's own .dockerignore, or of the context's."""
    for path in (*own, context / ".dockerignore"):
        if path.is_file():
            return parse(path.name, path.read_bytes())
    return Ignore()


def _label(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    if not name:
        raise InvalidArgumentError(f"--label {text!r}: want NAME or NAME=VALUE")
    return name, value


def _argument(text: str) -> tuple[str, str]:
    name, joint, value = text.partition("=")
    if not name:
        message = f"--build-arg {text!r}: want NAME=VALUE, or NAME to pass on our own"
        raise InvalidArgumentError(message)
    if not joint:
        value = os.environ.get(name, "")  # noqa: TID251 - passes on the caller's, as docker's
    return name, value
