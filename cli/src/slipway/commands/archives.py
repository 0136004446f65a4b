"""save, load."""

import io
import os
import shutil
import sys
import tarfile
from argparse import Namespace
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self

import anyio
import anyio.to_thread

from common.errors import AlreadyExistsError, InvalidArgumentError
from slipway.connect import imaged
from slipway.output import render
from slipway.streams import questions

if TYPE_CHECKING:
    from common.clients.imaged import ImagedClient

PIECE_BYTES = 1 << 20


async def save(arguments: Namespace) -> int:
    """Write images to a file, a directory or standard output; a file is there whole or not at all."""
    if arguments.layout:
        return await _save_layout(arguments)
    if not arguments.file and sys.stdout.isatty():
        message = "an archive is nothing for a terminal: give -o FILE, or redirect the output"
        raise InvalidArgumentError(message)
    with _whole_file(arguments.file) as out, _Meter("saving", shown=not arguments.quiet) as meter:
        async with imaged(arguments.run_dir) as client:
            async for piece in _saved(client, arguments):
                await anyio.to_thread.run_sync(out.write, piece)
                meter.add(len(piece))
    return 0


def _saved(client: "ImagedClient", arguments: Namespace) -> AsyncIterator[bytes]:
    return client.save(
        arguments.reference, platform=arguments.platform, all_platforms=arguments.all_platforms
    )


@contextmanager
def _whole_file(path: str) -> Iterator[IO[bytes]]:
    """Where to write: a file that is there at the end only, a device or pipe as it comes, standard output without a path."""
    if not path:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    target = Path(path)
    if target.exists() and not target.is_file():
        with questions.answering():  # a pipe opens once somebody reads it
            into = target.open("wb")
        with into:
            yield into
        return
    target = target.resolve()
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with temporary.open("xb") as out:
            yield out
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


async def _save_layout(arguments: Namespace) -> int:
    directory = Path(arguments.layout)
    directory.mkdir()
    read, write = os.pipe()
    try:
        async with imaged(arguments.run_dir) as client, anyio.create_task_group() as group:
            group.start_soon(anyio.to_thread.run_sync, _unpack, read, directory)
            with os.fdopen(write, "wb") as out, _Meter("saving", shown=not arguments.quiet) as meter:
                async for piece in _saved(client, arguments):
                    await anyio.to_thread.run_sync(out.write, piece)
                    meter.add(len(piece))
    except BaseException:
        shutil.rmtree(directory)
        raise
    return 0


def _unpack(read: int, directory: Path) -> None:
    """Write the members of our own archive, which are all regular files."""
    with os.fdopen(read, "rb") as source, tarfile.open(fileobj=source, mode="r|") as tar:
        for member in tar:
            body = tar.extractfile(member)
            if body is None or member.name == "manifest.json":
                continue
            path = directory / member.name
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("xb") as out:
                while piece := body.read(PIECE_BYTES):
                    out.write(piece)


async def load(arguments: Namespace) -> int:
    """Take images from a file, a directory or standard input, and print what they are called."""
    if not arguments.input and sys.stdin.isatty():
        message = "an archive is read from standard input: give -i FILE, or redirect it"
        raise InvalidArgumentError(message)
    pieces = _pieces_of(arguments.input)
    try:
        async with imaged(arguments.run_dir) as client:
            with _Meter("loading", shown=not arguments.quiet) as meter:
                loaded = await client.load(
                    _read(pieces, meter),
                    name=arguments.name,
                    replace=arguments.replace,
                    platform=arguments.platform,
                )
    except AlreadyExistsError as exc:
        message = f"{exc.message}: nothing was loaded; --replace moves the name"
        raise AlreadyExistsError(message) from exc
    for image in loaded:
        sys.stdout.writelines(f"Loaded image: {render.clean(name)}\n" for name in image.names)
        if not image.names:
            sys.stdout.write(f"Loaded image ID: {image.image.id}\n")
    return 0


def _pieces_of(path: str) -> Iterator[bytes]:
    """The bytes of an archive; a directory comes as the tar that it would be."""
    if path and Path(path).is_dir():
        for file in sorted(p for p in Path(path).rglob("*") if p.is_file() and not p.is_symlink()):
            yield from _member(file, str(file.relative_to(path)))
        yield bytes(2 * tarfile.BLOCKSIZE)
        return
    try:
        # unbuffered: what has come so far is sent on
        with io.FileIO(path or sys.stdin.fileno(), closefd=bool(path)) as source:
            while piece := source.read(PIECE_BYTES):
                yield piece
    except OSError as exc:
        raise OSError(exc.errno, exc.strerror, path or "standard input") from exc


def _member(file: Path, name: str) -> Iterator[bytes]:
    with file.open("rb") as body:
        header = tarfile.TarInfo(name)
        header.size = os.fstat(body.fileno()).st_size
        yield header.tobuf(tarfile.GNU_FORMAT)
        while piece := body.read(PIECE_BYTES):
            yield piece
        yield bytes(-header.size % tarfile.BLOCKSIZE)


async def _read(pieces: Iterator[bytes], meter: "_Meter") -> AsyncIterator[bytes]:
    while piece := await anyio.to_thread.run_sync(next, pieces, b"", abandon_on_cancel=True):
        meter.add(len(piece))
        yield piece


class _Meter:
    """Bytes and speed on a terminal; nothing when stderr is none, or it is not to be `shown`."""

    def __init__(self, text: str, *, shown: bool) -> None:
        self._text, self._shown = text, shown and sys.stderr.isatty()
        self._progress: Any = None

    def __enter__(self) -> Self:
        if self._shown:
            from rich.console import Console
            from rich.progress import DownloadColumn, Progress, SpinnerColumn, TextColumn, TransferSpeedColumn

            columns = (
                SpinnerColumn(),
                TextColumn("{task.description}"),
                DownloadColumn(),
                TransferSpeedColumn(),
            )
            self._progress = Progress(*columns, console=Console(stderr=True), transient=True)
            self._task = self._progress.add_task(self._text, total=None)
            self._progress.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._progress is not None:
            self._progress.stop()

    def add(self, count: int) -> None:
        if self._progress is not None:
            self._progress.advance(self._task, count)
