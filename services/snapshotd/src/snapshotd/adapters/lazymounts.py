"""Mounts of layers whose bytes come while they are read: a mount, and a keeper that outlives the service."""

import os
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import isal
import msgspec
import zstandard

import common
import snapshotd
from common.errors import FailedPreconditionError, InternalError, InvalidArgumentError
from common.sys import linux
from common.sys.cgroups import cgroup_directories
from snapshotd.adapters.mounts import MountPoints
from snapshotd.adapters.views import opened
from snapshotd.lazy import slots
from snapshotd.lazy.job import Job, Verdict
from snapshotd.records import LazyForm

DEVICE = "/dev/fuse"
_OPTIONS = "fd={},rootmode=40755,user_id=0,group_id=0,default_permissions,allow_other"
_VERDICT_BYTES = 64 << 20
_START_S = 60.0
"""The longest that reading a table of contents may take."""
_LOOK_S = 0.1
"""How often a start that may be given up looks whether it is."""


class LazyMounts:
    """See ports.LazyLayers. Blocking; from any thread, but one at a time for each layer.

    Args:
        mounts: the mount points, by layer.
        socket: where imaged brings bytes.
        read_timeout_s: the longest that a container's read waits for its bytes.
        max_entries: bound on a layer's files.
        max_bytes: bound on the sum of their sizes.
        cgroup: the keepers' own; empty leaves them in the service's.
    """

    def __init__(
        self,
        mounts: MountPoints,
        socket: Path,
        *,
        read_timeout_s: float,
        max_entries: int,
        max_bytes: int,
        cgroup: str,
    ) -> None:
        self._mounts, self._socket = mounts, socket
        self._read_timeout_s, self._max_entries, self._max_bytes = read_timeout_s, max_entries, max_bytes
        self._cgroups = cgroup_directories(cgroup)
        self._keepers: list[subprocess.Popen[bytes]] = []
        self._reaping = threading.Lock()
        self._made: set[str] = set()

    def share(self) -> None:
        """See ports.Mounts."""
        self._mounts.share()

    def path(self, layer_id: str) -> Path:
        return self._mounts.path(layer_id)

    def has(self, layer_id: str) -> bool:
        """See ports.LazyLayers."""
        return layer_id in self._made

    def find(self) -> set[str]:
        """The layers that an earlier service has left served; they count as made here."""
        self._made |= self._mounts.points()
        return set(self._made)

    def is_mounted(self, layer_id: str) -> bool:
        """Whether it is mounted, and its keeper lives."""
        return os.path.ismount(self._mounts.path(layer_id))

    def mount(self, layer_id: str, form: LazyForm, given_up: threading.Event) -> Verdict:
        """See ports.LazyLayers."""
        self._mounts.unmount(layer_id)  # what dead processes left
        try:
            fuse = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
        except OSError as exc:
            raise FailedPreconditionError(
                f"{DEVICE}: {exc.strerror}: layers cannot be served while they come"
            ) from exc
        with opened(fuse), opened(os.open(form.blob_path, os.O_RDONLY | os.O_CLOEXEC)) as blob:
            target = self._mounts.path(layer_id)
            target.mkdir(mode=0o700, exist_ok=True)
            self._made.add(layer_id)
            linux.mount("slipway-lazy", str(target), "fuse.slipway", linux.MS_RDONLY, _OPTIONS.format(fuse))
            try:
                return self._start(fuse, blob, form, given_up)
            except BaseException:
                self.unmount(layer_id)
                raise

    def unmount(self, layer_id: str) -> None:
        """Unmount; containers that use it keep it until they end. Idempotent."""
        if layer_id in self._made:
            self._mounts.unmount(layer_id)
            self._made.discard(layer_id)
        self._reap()

    def _start(self, fuse: int, blob: int, form: LazyForm, given_up: threading.Event) -> Verdict:
        job = Job(
            digest=form.digest,
            size=form.size_bytes,
            toc_offset=form.toc_offset,
            toc_bytes=form.toc_bytes,
            toc_digest=form.toc_digest,
            media_type=form.media_type,
            socket=str(self._socket),
            timeout_s=self._read_timeout_s,
            max_entries=self._max_entries,
            max_bytes=self._max_bytes,
        )
        reader, writer = os.pipe2(os.O_CLOEXEC)
        with opened(reader), opened(slots.make()) as memory:
            with opened(writer):
                keeper = self._spawn([fuse, blob, memory, writer], job)
            try:
                return self._verdict(reader, form, given_up)
            except BaseException:
                if keeper.poll() is None:
                    os.killpg(keeper.pid, signal.SIGKILL)  # with its server
                raise

    def _spawn(self, fds: list[int], job: Job) -> subprocess.Popen[bytes]:
        """Start a keeper with these descriptors.

        It is nobody's asyncio process: such a one is killed when its event loop closes.
        """
        self._reap()
        command = [sys.executable, "-I", "-S", "-c", _code("keeper"), _code("worker")]
        command += [msgspec.json.encode(job).decode(), ",".join(map(str, fds)), *self._cgroups]
        keeper = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=fds,
            cwd="/",
            env={},
            start_new_session=True,
        )
        with self._reaping:
            self._keepers.append(keeper)
        return keeper

    def _verdict(self, reader: int, form: LazyForm, given_up: threading.Event) -> Verdict:
        deadline, said = time.monotonic() + _START_S, b""
        answer = select.poll()
        answer.register(reader, select.POLLIN)
        while not said.endswith(b"\n"):
            if time.monotonic() > deadline:
                raise InternalError(f"layer {form.digest}: its server did not start in {_START_S:g} s")
            if given_up.is_set():
                raise FailedPreconditionError(
                    f"layer {form.digest}: all of it came before its server started"
                )
            if not answer.poll(_LOOK_S * 1000):
                continue
            part = os.read(reader, 1 << 16)
            if not part or len(said) > _VERDICT_BYTES:
                raise InternalError(f"layer {form.digest}: its server ended")
            said += part
        found = msgspec.json.decode(said, type=Verdict)
        if found.error:
            raise InvalidArgumentError(f"layer {form.digest}: {found.error}")
        return found

    def _reap(self) -> None:
        with self._reaping:
            self._keepers = [each for each in self._keepers if each.poll() is None]


def _code(module: str) -> str:
    """A program that needs no site-packages' start-up code."""
    modules = (common, snapshotd, isal, msgspec, zstandard)
    places = list(dict.fromkeys(str(Path(str(each.__file__)).parents[1]) for each in modules))
    return f"import sys; sys.path[:0] = {places!r}; from snapshotd.lazy.{module} import main; main()"
