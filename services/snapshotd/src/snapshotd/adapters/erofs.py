"""Layers as EROFS images: written by mkfs.erofs, mounted from their file.

Files are compressed, which also keeps their holes small: an image has no holes (erofs-utils 1.5).
"""

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import anyio

import common
import snapshotd
from common.errors import (
    DeadlineExceededError,
    FailedPreconditionError,
    InternalError,
    ResourceExhaustedError,
)
from common.sys import linux
from snapshotd.adapters.mounts import attach
from snapshotd.adapters.views import opened
from snapshotd.diff import mkfs

COMMAND = "mkfs.erofs"
_OPTIONS = ("--quiet", "--preserve-mtime", "-zlz4")
_SAID_BYTES = 500


class ErofsImages:
    """See ports.Images.

    Args:
        timeout_s: the most that writing one may take.
    """

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s

    def check(self) -> None:
        """See ports.Images."""
        if not shutil.which(COMMAND):
            raise FailedPreconditionError(f"snapshotter 'erofs': {COMMAND} is not installed (erofs-utils)")
        try:
            os.close(linux.fsopen("erofs"))
        except OSError as exc:
            if exc.errno != errno.ENODEV:
                raise
            raise FailedPreconditionError("snapshotter 'erofs': this kernel has no EROFS") from exc

    async def write(self, tree: Path, image: Path) -> None:
        """See ports.Images."""
        unfinished = image.with_name(f"{image.name}.new")
        await anyio.Path(unfinished).touch(mode=0o600)
        try:
            with anyio.fail_after(self._timeout_s):
                status, said = await _run(
                    [str(tree), str(unfinished), COMMAND, *_OPTIONS, mkfs.IMAGE, mkfs.TREE]
                )
        except TimeoutError as exc:
            raise DeadlineExceededError(f"{image}: {COMMAND} took longer than {self._timeout_s:g} s") from exc
        if status:
            if os.strerror(errno.ENOSPC) in said:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(image))
            if os.strerror(errno.ENOMEM) in said:
                message = f"{image}: {COMMAND} takes more than {mkfs.MAX_MEMORY_BYTES >> 30} GiB of memory: the layer has too many entries"
                raise ResourceExhaustedError(message)
            raise InternalError(f"{image}: {COMMAND} ended with status {status}: {said}")
        unfinished.rename(image)

    def mount(self, image: Path, target: Path) -> None:
        """See ports.Images."""
        try:
            fd = _from_file(image)
        except OSError as exc:
            if exc.errno != errno.ENOTBLK:  # before Linux 6.12, or without CONFIG_EROFS_FS_BACKED_BY_FILE
                raise
            mount_by_loop(image, target)
            return
        with opened(fd):
            attach(fd, target)


async def _run(arguments: Sequence[str]) -> tuple[int, str]:
    """Run mkfs.erofs as a helper; the status that it ends with, and the end of what it says."""
    places = dict.fromkeys(str(Path(str(module.__file__)).parents[1]) for module in (snapshotd, common))
    code = f"import sys; sys.path[:0] = {list(places)!r}; from snapshotd.diff.mkfs import main; main()"
    command = [sys.executable, "-ISc", code, *arguments]
    null, pipe = subprocess.DEVNULL, subprocess.PIPE
    said = b""
    async with await anyio.open_process(command, stdin=null, stdout=null, stderr=pipe, env={}) as process:
        assert process.stderr  # noqa: S101 - as asked for
        async for piece in process.stderr:
            said = (said + piece)[-_SAID_BYTES:]
        status = await process.wait()
    text = said.decode(errors="replace").strip()
    return status, "".join(c if c.isprintable() else " " for c in text)


def _from_file(image: Path) -> int:
    """A detached mount of an image."""
    with opened(linux.fsopen("erofs")) as fd:
        linux.fsconfig(fd, linux.FSCONFIG_SET_STRING, "source", str(image))
        linux.fsconfig(fd, linux.FSCONFIG_SET_FLAG, "ro")
        linux.fsconfig(fd, linux.FSCONFIG_CMD_CREATE)
        return linux.fsmount(fd, linux.MOUNT_ATTR_RDONLY)


def mount_by_loop(image: Path, target: Path) -> None:
    """Mount by a loop device, which goes with the mount.

    Raises:
        OSError: with what mount(8) says.
    """
    target.mkdir(mode=0o700, exist_ok=True)
    command = ["mount", "-i", "-n", "-t", "erofs", "-o", "ro,loop", "--", str(image), str(target)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    if done.returncode:
        raise OSError(errno.EIO, done.stderr.strip()[-300:], str(image))
