"""A layer served by FUSE while its bytes come: a real kernel, a real keeper and server, and a stand-in for imaged."""

import json
import os
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest

from common.errors import FailedPreconditionError, InternalError, InvalidArgumentError
from common.sys import linux
from devtools.registry import directory, file
from services.snapshotd.tests.test_snapshotd_lazy_toc import BIG, good, special
from snapshotd.adapters.lazymounts import LazyMounts
from snapshotd.adapters.mounts import MountPoints
from snapshotd.records import LazyForm
from tests.support import estargz, zstdchunked
from tests.support.eventually import eventually
from tests.support.pace import patience

pytestmark = [pytest.mark.root, pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="no /dev/fuse")]
LAYER = "ab" * 32


class Imaged:
    """Answers as imaged does: puts ranges of a blob into its sparse file."""

    def __init__(self, path: Path, blob: bytes, sparse: Path) -> None:
        self.blob, self.sparse, self.path = blob, sparse, path
        self.asked: list[dict[str, object]] = []
        self.open = threading.Event()
        self.open.set()
        self.refusal = ""
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(path))
        self._socket.listen(64)
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._socket.close()

    def _accept(self) -> None:
        while True:
            try:
                line, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(line,), daemon=True).start()

    def _serve(self, line: socket.socket) -> None:
        with suppress(ConnectionError), line, line.makefile("rw") as talk:
            for asked in map(json.loads, talk):
                self.asked.append(asked)
                self.open.wait(patience(20))
                if self.refusal:
                    talk.write(json.dumps({"error": self.refusal}) + "\n")
                else:
                    self.put(asked["start"], asked["end"])
                    talk.write('{"ok": true}\n')
                talk.flush()

    def put(self, start: int, end: int) -> None:
        with self.sparse.open("r+b") as out:
            out.seek(start)
            out.write(self.blob[start:end])


class Mounted:
    """A mounted layer."""

    def __init__(
        self, base: Path, blob: bytes, written: estargz.Written, timeout_s: float, media_type: str
    ) -> None:
        self.base, self.blob = base, blob
        self.sparse = base / "blob"
        with self.sparse.open("wb") as out:
            out.truncate(len(blob))
        (base / "ranges").mkdir()
        self.imaged = Imaged(base / "ranges/ranges.sock", blob, self.sparse)
        self.imaged.put(written.toc_offset, len(blob))
        self.form = LazyForm(
            digest=written.digest,
            blob_path=str(self.sparse),
            size_bytes=len(blob),
            toc_offset=written.toc_offset,
            toc_digest=written.toc_digest,
            toc_bytes=written.toc_bytes,
            media_type=media_type,
        )
        self.points = MountPoints(base / "lazy", base)
        self.points.share()
        self.mounts = LazyMounts(
            self.points,
            self.imaged.path,
            read_timeout_s=timeout_s,
            max_entries=10_000,
            max_bytes=1 << 30,
            cgroup="",
        )
        self.root = self.mounts.path(LAYER)

    def mount(self, *, given_up: bool = False) -> None:
        told = threading.Event()
        if given_up:
            told.set()
        self.mounts.mount(LAYER, self.form, told)

    def processes(self) -> list[tuple[int, str]]:
        """Pids of keeper and server."""
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = path.read_bytes().decode().split("\0")
            except OSError:
                continue
            if any(self.form.digest in word for word in words):
                kind = "keeper" if "lazy.keeper" in words[4] else "server"
                found.append((int(path.parent.name), kind))
        return found

    def pid(self, kind: str) -> int:
        return next((pid for pid, each in self.processes() if each == kind), 0)


@contextmanager
def mounted(
    items: list[estargz.Item], *, timeout_s: float = 20, chunk_bytes: int = 300_000, media_type: str = ""
) -> Iterator[Mounted]:
    base = Path(f"/run/slipway-test-{secrets.token_hex(4)}")
    base.mkdir()
    if media_type:
        blob, written = zstdchunked.made(items, chunk_bytes=chunk_bytes)
    else:
        blob, written = estargz.made(items, chunk_bytes=chunk_bytes, level=0)
    made = Mounted(base, blob, written, patience(timeout_s), media_type)
    try:
        yield made
    finally:
        made.imaged.close()
        made.mounts.unmount(LAYER)
        linux.umount(str(base), linux.MNT_DETACH)
        eventually(lambda: not made.processes(), what="the end of keeper and server")
        subprocess.run(["rm", "-rf", base], check=True)


@pytest.fixture(params=["", zstdchunked.MEDIA_TYPE], ids=["estargz", "zstd-chunked"])
def layer(request: pytest.FixtureRequest) -> Iterator[Mounted]:
    with mounted(good(), media_type=request.param) as made:
        made.mount()
        yield made


def test_files_look_as_unpacked_ones_before_a_byte_of_them_is_here(layer: Mounted) -> None:
    root = layer.root
    assert sorted(os.listdir(root)) == ["big", "dev", "empty", "etc", "lib", "pipe", "var"]
    passwd = (root / "etc/passwd").stat()
    assert (stat.S_IMODE(passwd.st_mode), passwd.st_uid, passwd.st_gid) == (0o4751, 12, 34)
    assert (passwd.st_nlink, passwd.st_size, passwd.st_mtime) == (2, 5, 1_600_000_000)
    assert (root / "etc/again").stat().st_ino == passwd.st_ino
    assert os.readlink(root / "etc/link") == "../etc/passwd"
    assert os.listxattr(root / "etc/passwd") == ["user.a"]
    assert os.getxattr(root / "etc/passwd", "user.a") == b"1"
    assert os.getxattr(root / "var", "trusted.overlay.opaque") == b"y"
    assert (root / "dev/null").stat().st_rdev == os.makedev(1, 3)
    assert (root / "lib/gone").lstat().st_rdev == 0
    assert stat.S_ISFIFO((root / "pipe").stat().st_mode)
    assert (root / "empty").read_bytes() == b""
    with pytest.raises(FileNotFoundError):
        (root / "nowhere").stat()
    with pytest.raises(OSError, match="Read-only"):
        (root / "new").write_text("x")
    assert layer.imaged.asked == []


def test_bytes_are_brought_when_they_are_read_and_only_once(layer: Mounted) -> None:
    with (layer.root / "big").open("rb") as opened:
        opened.seek(700_000)
        assert opened.read(100) == BIG[700_000:700_100]
    assert 0 < len(layer.imaged.asked) < 4
    assert (layer.root / "big").read_bytes() == BIG
    asked = len(layer.imaged.asked)
    assert asked <= 4
    os.kill(layer.pid("server"), signal.SIGKILL)
    assert (layer.root / "big").read_bytes() == BIG
    assert len(layer.imaged.asked) == asked


def test_a_directory_of_any_length_is_listed() -> None:
    names = [f"d/{n:05}-{'x' * (n % 200)}" for n in range(3000)]
    with mounted([directory("d"), *(file(name, b"") for name in names)]) as made:
        made.mount()
        assert sorted(os.listdir(made.root / "d")) == [name[2:] for name in names]


def test_overlayfs_takes_it_for_a_layer(layer: Mounted) -> None:
    below = layer.base / "below"
    for name in ("lib", "var"):
        (below / name).mkdir(parents=True)
    for name in ("lib/gone", "lib/stays", "var/hidden"):
        (below / name).write_text("x")
    target, upper = layer.base / "merged", layer.base / "tmp"
    for path in (target, upper):
        path.mkdir()
    linux.mount("tmpfs", str(upper), "tmpfs")
    (upper / "u").mkdir()
    (upper / "w").mkdir()
    data = f"lowerdir={layer.root}:{below},upperdir={upper}/u,workdir={upper}/w"
    linux.mount("overlay", str(target), "overlay", 0, data)
    try:
        assert os.listdir(target / "lib") == ["stays"]
        assert os.listdir(target / "var") == []
        (target / "etc/passwd").write_text("changed")  # copied up, from bytes that were not here
        assert (target / "etc/passwd").read_text() == "changed"
        assert (target / "big").read_bytes() == BIG
    finally:
        linux.umount(str(target))
        linux.umount(str(upper))


def test_a_server_that_is_killed_while_it_waits_is_followed_by_one_that_answers(layer: Mounted) -> None:
    layer.imaged.open.clear()
    with ThreadPoolExecutor(4) as pool:
        reads = [pool.submit((layer.root / name).read_bytes) for name in ("big", "etc/passwd")]
        eventually(lambda: layer.imaged.asked, what="a request for bytes")
        before = layer.pid("server")
        os.kill(before, signal.SIGKILL)
        eventually(lambda: layer.pid("server") not in (0, before), what="the next server")
        layer.imaged.open.set()
        assert [read.result(patience(20)) for read in reads] == [BIG, b"root\n"]


def test_servers_may_be_killed_again_and_again_under_load() -> None:
    contents = [os.urandom(200_000) for _ in range(40)]
    items: list[estargz.Item] = [file(f"f{n}", content) for n, content in enumerate(contents)]
    with mounted(items) as made, ThreadPoolExecutor(8) as pool:
        made.mount()
        reads = [pool.submit((made.root / f"f{n}").read_bytes) for n in range(40)]
        last = 0
        for _ in range(4):
            eventually(partial(_is_another_server, made, last), what="a server")
            last = made.pid("server")
            os.kill(last, signal.SIGKILL)
        assert [read.result(patience(30)) for read in reads] == contents


def _is_another_server(made: Mounted, last: int) -> bool:
    return made.pid("server") not in (0, last)


def test_without_its_keeper_a_server_goes_on(layer: Mounted) -> None:
    os.kill(layer.pid("keeper"), signal.SIGKILL)
    assert (layer.root / "big").read_bytes() == BIG


def test_signals_that_end_services_do_not_end_a_keeper(layer: Mounted) -> None:
    keeper = layer.pid("keeper")
    assert os.getsid(keeper) == keeper
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        os.kill(keeper, number)
    assert (layer.root / "big").read_bytes() == BIG
    assert layer.pid("keeper") == keeper


def test_reads_end_in_an_error_when_bytes_do_not_come() -> None:
    with mounted(good(), timeout_s=1) as made:
        made.mount()
        made.imaged.refusal = "the registry is away"
        with pytest.raises(OSError, match="Input/output"):
            (made.root / "big").read_bytes()
        made.imaged.close()
        made.imaged.path.unlink()
        began = time.monotonic()
        with pytest.raises(OSError, match="Input/output"):
            (made.root / "etc/passwd").read_bytes()
        assert time.monotonic() - began < patience(15)
        made.imaged = Imaged(made.imaged.path, made.blob, made.sparse)
        assert (made.root / "etc/passwd").read_bytes() == b"root\n"


def test_wrong_bytes_are_never_read(layer: Mounted) -> None:
    at = layer.blob.index(b"root")
    layer.imaged.blob = layer.blob[:at] + b"toor" + layer.blob[at + 4 :]
    with pytest.raises(OSError, match="Input/output"):
        (layer.root / "etc/passwd").read_bytes()
    assert [bool(asked.get("again")) for asked in layer.imaged.asked[:2]] == [False, True]
    assert layer.imaged.asked[-1]["damaged"]
    layer.imaged.blob = layer.blob
    assert (layer.root / "etc/passwd").read_bytes() == b"root\n"


def test_a_server_that_cannot_begin_leaves_nobody() -> None:
    with mounted(good()) as made:
        made.imaged.close()
        shutil.rmtree(made.imaged.path.parent)
        with pytest.raises(InternalError, match="server ended"):
            made.mount()
        assert not made.mounts.is_mounted(LAYER)
        eventually(lambda: not made.processes(), what="the end of keeper and server")


def test_a_start_that_is_given_up_leaves_nobody() -> None:
    with mounted(good()) as made:
        with pytest.raises(FailedPreconditionError, match="came before its server started"):
            made.mount(given_up=True)
        assert not made.mounts.is_mounted(LAYER)
        eventually(lambda: not made.processes(), what="the end of keeper and server")


def test_a_table_that_lies_mounts_nothing_and_leaves_nobody() -> None:
    lies: tuple[list[estargz.Item], ...] = (
        [special("x", b"0"), special("x", b"0")],
        [file("a", b""), file("a/b", b"")],
    )
    for items in lies:
        with mounted(items) as made:
            with pytest.raises(InvalidArgumentError, match=r"twice|no directory"):
                made.mount()
            assert not made.mounts.is_mounted(LAYER)
            eventually(partial(_nobody_left, made), what="the end of keeper and server")


def _nobody_left(made: Mounted) -> bool:
    return not made.processes()
