"""The dump that a container of a restored pod starts from: beside its record, from its creation to its start."""

import shutil
from pathlib import Path

import anyio.to_thread

from common.errors import UnknownError, of_system
from runtimed.checkpoint import archive
from runtimed.ports import Diff

_NAME = "dump"


def images(record_dir: Path) -> Path:
    """The directory for the OCI runtime."""
    return record_dir / _NAME / archive.IMAGES


async def unpack(record_dir: Path, source: Path) -> Diff:
    """Take out of an archive, which may come from anybody, what the start needs; what an earlier try left goes.

    Raises:
        InvalidArgumentError: it is no container's archive.
        ResourceExhaustedError: the disk is full.
        UnavailableError: it fails.
        UnknownError: what the system says.
    """
    return await anyio.to_thread.run_sync(_unpack, record_dir / _NAME, source)


def _unpack(target: Path, source: Path) -> Diff:
    shutil.rmtree(target, ignore_errors=True)
    try:
        target.mkdir(mode=0o700, parents=True)
        digest = archive.unpack(source, target)
    except OSError as exc:
        raise of_system(exc, f"checkpoint_path: {source.name} into {target}", otherwise=UnknownError) from exc
    return Diff(path=str(target / archive.DIFF), digest=digest)


async def remove(record_dir: Path) -> None:
    """It is memory of processes, and large; idempotent."""
    await anyio.to_thread.run_sync(lambda: shutil.rmtree(record_dir / _NAME, ignore_errors=True))
