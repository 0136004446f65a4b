"""One run of a CNI plugin: environment and configuration in, result or error out."""

import contextlib
import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any, BinaryIO, Self

import anyio

from common.errors import FailedPreconditionError, UnavailableError
from runtimed.network.cniresult import refusal

MAX_OUTPUT_BYTES = 1 << 20
# What plugins call in turn (iptables, nft, sysctl) is here on every distribution.
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def find(kind: str, bin_dirs: list[str]) -> str | None:
    """Path of a plugin's program."""
    for directory in bin_dirs:
        path = Path(directory) / kind
        if os.access(path, os.X_OK):
            return str(path)
    return None


async def run(kind: str, bin_dirs: list[str], config: dict[str, Any], env: dict[str, str]) -> bytes:
    """Run a plugin to its end; what it answered. A cancelled run is killed with its children.

    Raises:
        FailedPreconditionError: there is no such plugin, or it refuses its configuration.
        UnavailableError: it failed, or wrote more than MAX_OUTPUT_BYTES and was killed; the message has its name and
            what it said.
    """
    program = find(kind, bin_dirs)
    if program is None:
        raise FailedPreconditionError(f"cni plugin {kind!r} is in none of {':'.join(bin_dirs)}")
    verb = env["CNI_COMMAND"]
    with _file(json.dumps(config).encode()) as given, _Output() as out, _Output() as err:
        try:
            process = subprocess.Popen(  # noqa: ASYNC220 - a plugin of the node's; as quick as a fork and an exec
                [program],
                stdin=given,
                stdout=out.theirs,
                stderr=err.theirs,
                env={"PATH": PATH, **{k: value for k, value in env.items() if value or k.startswith("CNI_")}},
                start_new_session=True,
            )
        except OSError as error:
            raise UnavailableError(f"cni plugin {kind!r}: {program}: {error.strerror}") from error
        await _end(process, out, err)
        if out.flooded or err.flooded:
            raise UnavailableError(f"cni plugin {kind!r}: {verb} wrote more than {MAX_OUTPUT_BYTES} bytes")
        if process.returncode:
            raise refusal(kind, verb, process.returncode, bytes(out.content), bytes(err.content))
        return bytes(out.content)


class _Output:
    """What a plugin writes to one of its descriptors: a pipe, of which little more than the bound is read."""

    def __init__(self) -> None:
        self.content = bytearray()
        self.ours, self.theirs = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self.ours, False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.ours)
        os.close(self.theirs)

    @property
    def flooded(self) -> bool:
        return len(self.content) > MAX_OUTPUT_BYTES

    def take(self) -> None:
        """Read what is there."""
        with contextlib.suppress(BlockingIOError):
            while not self.flooded:
                self.content += os.read(self.ours, 1 << 16)

    async def follow(self, plugin: anyio.CancelScope) -> None:
        """Read what comes, until it is too much."""
        while not self.flooded:
            await anyio.wait_readable(self.ours)
            self.take()
        plugin.cancel()


async def _end(process: "subprocess.Popen[bytes]", *outputs: _Output) -> None:
    """Wait for a plugin, and not for what it leaves running."""
    handle = os.pidfd_open(process.pid)
    try:
        async with anyio.create_task_group() as group:
            for output in outputs:
                group.start_soon(output.follow, group.cancel_scope)
            await anyio.wait_readable(handle)
            group.cancel_scope.cancel()
    finally:
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            with anyio.CancelScope(shield=True):
                await anyio.wait_readable(handle)
        os.close(handle)
        process.wait()
    for output in outputs:
        output.take()


def _file(content: bytes = b"") -> BinaryIO:
    """A file in memory: unlike a pipe it needs nobody at its other end while the plugin runs."""
    file = os.fdopen(os.memfd_create("cni", os.MFD_CLOEXEC), "w+b", buffering=0)
    file.write(content)
    file.seek(0)
    return file
