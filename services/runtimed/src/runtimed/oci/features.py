"""What the OCI runtimes of the handlers can do, asked of themselves (`features` of the OCI runtime specification)."""

import functools
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import anyio
import anyio.to_thread
import msgspec

from common.observe.log import get_logger
from common.sys import linux, userns
from common.sys.userns import IdMapping, IdMappings
from runtimed.settings import Handler

ASK_S = 5.0
RECURSIVE_READ_ONLY = "rro"
CHECKPOINT = ".checkpoint.enabled"
"""End of the annotation's name; runtimes put their own before it."""
_CRUN = re.compile(r"crun version (\d+)\.(\d+)")
_CRUN_WITH_RRO = (1, 4)  # `crun features` came later, with 1.8.6
_CRUN_WITH_IDMAP = (1, 8)

_log = get_logger("runtimed")


class Idmap(msgspec.Struct, frozen=True):
    """Whether a runtime maps the ids of mounts."""

    enabled: bool | None = None


class MountExtensions(msgspec.Struct, frozen=True):
    """What mounts can do beyond their options."""

    idmap: Idmap = Idmap()


class LinuxFeatures(msgspec.Struct, frozen=True, rename="camel"):
    """What is of Linux only."""

    namespaces: list[str] | None = None
    mount_extensions: MountExtensions | None = None


class Features(msgspec.Struct, frozen=True, rename="camel"):
    """The answer of an OCI runtime, as far as it is used; empty for one that gives none."""

    mount_options: list[str] = []
    annotations: dict[str, str] = {}
    linux: LinuxFeatures = LinuxFeatures()

    @property
    def user_namespaces(self) -> bool:
        """Whether pods can have user namespaces, with volumes whose ids are mapped; by the kernel too."""
        extensions = self.linux.mount_extensions or MountExtensions()
        return (
            "user" in (self.linux.namespaces or ()) and bool(extensions.idmap.enabled) and _kernel_maps_ids()
        )

    @property
    def recursive_read_only(self) -> bool:
        """Whether mounts can be read-only with all that is mounted below; by the kernel too (Linux 5.12)."""
        return RECURSIVE_READ_ONLY in self.mount_options and linux.has_mount_setattr()

    @property
    def checkpoint(self) -> bool:
        """Whether it was built to dump and restore by CRIU."""
        return any(key.endswith(CHECKPOINT) and value == "true" for key, value in self.annotations.items())


@functools.cache
def _kernel_maps_ids() -> bool:
    """User namespaces, and overlayfs over mapped layers. Blocking, once."""
    if not linux.has_mapped_layers():
        return False
    try:
        with userns.held(IdMappings(IdMapping(0, 1, 1), IdMapping(0, 1, 1))):
            return True
    except OSError as error:
        _log.warning("userns.refused", reason=str(error))
        return False


_CRUN_LINUX = LinuxFeatures(namespaces=["user"], mount_extensions=MountExtensions(idmap=Idmap(enabled=True)))


class HandlerFeatures:
    """Asks each runtime once for as long as its program stays the same."""

    def __init__(self, handlers: Mapping[str, Handler]) -> None:
        self._handlers = handlers
        self._known: dict[str, tuple[object, Features]] = {}

    async def of(self, name: str) -> Features:
        """The features of a handler's runtime; none when it does not say."""
        handler = self._handlers[name]
        program = shutil.which(handler.binary) or handler.binary
        stamp = await anyio.to_thread.run_sync(_stamp, program)
        known = self._known.get(name)
        if known is None or known[0] != stamp:
            found = await _ask([program, *handler.args])
            await anyio.to_thread.run_sync(_kernel_maps_ids)  # from here on known
            known = self._known[name] = (stamp, found)
        return known[1]


def _stamp(program: str) -> object:
    try:
        status = Path(program).stat()
    except OSError:
        return None
    return (status.st_mtime_ns, status.st_size, status.st_ino)


async def _ask(command: list[str]) -> Features:
    said = await _output([*command, "features"])
    try:
        return msgspec.json.decode(said, type=Features)
    except msgspec.DecodeError:
        said = await _output([*command, "--version"])
    text = said.decode(errors="replace")
    version = _CRUN.match(text)
    if version is None:
        return Features()
    known = (int(version[1]), int(version[2]))
    return Features(
        mount_options=[RECURSIVE_READ_ONLY] if known >= _CRUN_WITH_RRO else [],
        linux=_CRUN_LINUX if known >= _CRUN_WITH_IDMAP else LinuxFeatures(),
        annotations={f"crun{CHECKPOINT}": "true"} if "+CRIU" in text else {},
    )


async def _output(command: list[str]) -> bytes:
    """What a command writes; nothing when it fails or hangs."""
    try:
        with anyio.fail_after(ASK_S):
            done = await anyio.run_process(command, check=False, stderr=subprocess.DEVNULL)
    except (OSError, TimeoutError) as error:
        _log.warning("handler.silent", command=" ".join(command), reason=str(error))
        return b""
    return done.stdout
