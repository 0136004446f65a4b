"""What a snapshot changed: the list, and the layer that makes the same tree again over the same layers."""

import io
import os
import secrets
import shutil
import socket
import stat
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from common.api.snapshots.v1 import snapshots_pb2 as pb
from common.errors import FailedPreconditionError, InvalidArgumentError, NotFoundError, ResourceExhaustedError
from common.sys.userns import IdMapping, IdMappings
from services.snapshotd.tests.conftest import SnapshotdNode
from services.snapshotd.tests.test_snapshotd_layers import (
    BASE,
    SNAPSHOTTERS,
    E,
    apply,
    digest_of,
    snapshot,
    tar,
)

pytestmark = [pytest.mark.root, pytest.mark.integration, pytest.mark.anyio]
LETTERS = {pb.CHANGE_KIND_ADDED: "A", pb.CHANGE_KIND_CHANGED: "C", pb.CHANGE_KIND_DELETED: "D"}
LAYERS = [
    tar([*BASE, E("d", "tmp/", mode=0o1777, uid=7), E("f", "tmp/t", b"t0"), E("l", "link", target="etc/a")]),
    # through tmp/ without an entry of its own, and a name that comes back
    tar([E("f", "tmp/u", b"u0"), E("f", "etc/.wh.b"), E("d", "opt/"), E("f", "opt/o", b"o0")]),
]


def replace_directory(root: Path) -> None:
    shutil.rmtree(root / "etc/d")
    (root / "etc/d").mkdir()
    (root / "etc/d/x").write_text("x1")


def rich(root: Path) -> None:
    (root / "new").mkdir(mode=0o750)
    (root / "new/file").write_bytes(b"body" * 1000)
    (root / "new/set").write_bytes(b"")
    os.chown(root / "new/set", 12, 34)
    (root / "new/set").chmod(0o4755)
    os.setxattr(root / "new/file", "user.note", b"\x00\xff\n")
    os.link(root / "new/file", root / "new/hard")
    os.link(root / "new/file", root / "another")
    (root / "new/up").symlink_to("../../../../etc/passwd")
    os.mkfifo(root / "new/pipe")
    os.mknod(root / "new/null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"/proc/self/fd/{os.open(root / 'new', os.O_PATH)}/s")
    (root / "new" / os.fsdecode(b"not-\xff-utf8")).write_text("n")
    (root / ("long" * 50)).mkdir()
    (root / ("long" * 50) / ("name" * 40)).write_text("l")


def make_and_remove(root: Path) -> None:
    (root / "etc/n").write_text("")
    (root / "etc/n").unlink()


def replace_file(root: Path) -> None:
    (root / "etc/a").unlink()
    (root / "etc/a").mkdir()
    (root / "etc/a/in").write_text("1")


def replace_link(root: Path) -> None:
    (root / "link").unlink()
    (root / "link").mkdir()


def change_inside(root: Path) -> None:
    (root / "tmp/t").unlink()
    (root / "tmp/w").write_text("w")


CASES: dict[str, tuple[Callable[[Path], object], set[str]]] = {
    "nothing": (lambda _: None, set()),
    "a new file": (lambda r: (r / "etc/n").write_text("n"), {"C /etc", "A /etc/n"}),
    "other content": (lambda r: (r / "etc/a").write_text("a1!"), {"C /etc", "C /etc/a"}),
    "another mode": (lambda r: (r / "var/v").chmod(0o600), {"C /var", "C /var/v"}),
    "a deleted file": (lambda r: (r / "etc/a").unlink(), {"C /etc", "D /etc/a"}),
    "a deleted directory": (lambda r: shutil.rmtree(r / "etc/d"), {"C /etc", "D /etc/d"}),
    "made and gone again": (make_and_remove, set()),
    "a name that a layer hid": (lambda r: (r / "etc/b").write_text("b1"), {"C /etc", "A /etc/b"}),
    "a directory's mode": (lambda r: (r / "opt").chmod(0o700), {"C /opt"}),
    "the root's owner": (lambda r: os.chown(r, 5, 6), {"C /"}),
    "a directory anew": (
        replace_directory,
        {"C /etc", "C /etc/d", "C /etc/d/x", "D /etc/d/y"},
    ),
    "a file becomes a directory": (
        replace_file,
        {"C /etc", "C /etc/a", "A /etc/a/in"},
    ),
    "a link becomes a directory": (
        replace_link,
        {"C /link"},
    ),
    "inside of a directory that two layers have": (
        change_inside,
        {"C /tmp", "D /tmp/t", "A /tmp/w"},
    ),
}


async def changed(node: SnapshotdNode, root: Path, ignore: tuple[str, ...] = ()) -> list[str]:
    client = node.client()
    try:
        found = [change async for change in client.changes(root.name, ignore)]
    finally:
        await client.close()
    return [f"{LETTERS[change.kind]} {os.fsdecode(change.path)}" for change in found]


async def written(node: SnapshotdNode, root: Path, ignore: tuple[str, ...] = ()) -> bytes:
    path = node.directory / f"diff-{secrets.token_hex(4)}"
    client = node.client()
    try:
        answer = await client.write_diff(root.name, str(path), ignore)
    finally:
        await client.close()
    body = path.read_bytes()
    path.unlink()
    assert (answer.diff_id, answer.size_bytes) == (digest_of(body), len(body))
    return body


def looks(root: Path) -> dict[str, tuple[Any, ...]]:
    """Everything of a tree that a layer can tell."""
    found: dict[str, tuple[Any, ...]] = {}
    links: dict[tuple[int, int], str] = {}
    for here, dirs, files in os.walk(root):
        for name in (
            ("", *sorted(dirs), *sorted(files)) if here == str(root) else (*sorted(dirs), *sorted(files))
        ):
            path = Path(here) / name
            status = path.lstat()
            kind = stat.S_IFMT(status.st_mode)
            if kind == stat.S_IFSOCK:
                continue
            body = path.read_bytes() if kind == stat.S_IFREG else b""
            target = str(path.readlink()) if kind == stat.S_IFLNK else ""
            first = (
                links.setdefault((status.st_dev, status.st_ino), str(path.relative_to(root)))
                if kind == stat.S_IFREG
                else ""
            )
            xattrs = {
                n: os.getxattr(path, n, follow_symlinks=False)
                for n in os.listxattr(path, follow_symlinks=False)
            }
            found[str(path.relative_to(root))] = (
                oct(status.st_mode), status.st_uid, status.st_gid, status.st_rdev, body, target, first, xattrs,
            )  # fmt: skip
    return found


@pytest.mark.parametrize("snapshotter", SNAPSHOTTERS)
@pytest.mark.parametrize("name", CASES)
async def test_changes_are_listed_and_make_the_same_tree_again(
    shared_snapshotd: SnapshotdNode, snapshotter: str, name: str
) -> None:
    change, expected = CASES[name]
    root = await snapshot(shared_snapshotd, snapshotter, *LAYERS)
    change(root)
    listed = await changed(shared_snapshotd, root)
    assert (set(listed), len(listed)) == (expected, len(expected))
    body = await written(shared_snapshotd, root)
    again = await snapshot(shared_snapshotd, snapshotter, *LAYERS, body)
    assert looks(again) == looks(root)
    assert await written(shared_snapshotd, root) == body
    assert (len(body) == 1024) == (not expected)


@pytest.mark.parametrize("snapshotter", SNAPSHOTTERS)
async def test_all_kinds_of_files_come_back(shared_snapshotd: SnapshotdNode, snapshotter: str) -> None:
    root = await snapshot(shared_snapshotd, snapshotter, *LAYERS)
    rich(root)
    body = await written(shared_snapshotd, root)
    again = await snapshot(shared_snapshotd, snapshotter, *LAYERS, body)
    assert looks(again) == looks(root)
    assert (again / "new/hard").stat().st_ino == (again / "another").stat().st_ino
    names = tarfile.TarFile(fileobj=io.BytesIO(body)).getnames()
    assert not any(".wh." in member or member.endswith("/s") for member in names)


@pytest.mark.parametrize("other", SNAPSHOTTERS)
async def test_the_layer_is_the_same_from_every_snapshotter(
    shared_snapshotd: SnapshotdNode, other: str
) -> None:
    bodies = set()
    for snapshotter in SNAPSHOTTERS:
        root = await snapshot(shared_snapshotd, snapshotter, *LAYERS)
        (root / "etc/n").write_text("n")
        (root / "etc/a").unlink()
        os.utime(root / "etc/n", (1, 1))
        os.utime(root / "etc", (2, 2))
        bodies.add(await written(shared_snapshotd, root))
    assert len(bodies) == 1
    again = await snapshot(shared_snapshotd, other, *LAYERS, bodies.pop())
    assert not (again / "etc/a").exists()


@pytest.mark.parametrize("snapshotter", SNAPSHOTTERS)
async def test_what_was_made_to_mount_on_does_not_count_while_it_is_empty(
    shared_snapshotd: SnapshotdNode, snapshotter: str
) -> None:
    root = await snapshot(shared_snapshotd, snapshotter, *LAYERS)
    ignore = ("/etc/hosts", "/proc", "/etc/a", "/full")
    (root / "etc/hosts").touch()
    (root / "proc").mkdir()
    assert await changed(shared_snapshotd, root, ignore) == []
    (root / "full").mkdir()
    (root / "full/x").touch()
    (root / "etc/a").write_text("")
    assert set(await changed(shared_snapshotd, root, ignore)) == {
        "C /etc",
        "C /etc/a",
        "A /full",
        "A /full/x",
    }


async def test_mapped_ids_are_those_of_the_container_again(snapshotd: SnapshotdNode) -> None:
    layer = await apply(snapshotd, LAYERS[0])
    ids = IdMappings(IdMapping(0, 70_000, 65_536), IdMapping(0, 80_000, 65_536))
    client = snapshotd.client()
    try:
        made = await client.prepare("c1", [layer], ids=ids)
    finally:
        await client.close()
    root = Path(snapshotd.seen(made.path))
    assert await changed(snapshotd, root) == []
    (root / "etc/n").write_text("n")
    os.chown(root / "etc/n", 70_005, 80_006)
    assert await changed(snapshotd, root) == ["C /etc", "A /etc/n"]
    archive = tarfile.TarFile(fileobj=io.BytesIO(await written(snapshotd, root)))
    assert [(m.name, m.uid, m.gid) for m in archive] == [("etc", 0, 0), ("etc/n", 5, 6)]


async def test_nothing_leads_out_of_a_snapshot(shared_snapshotd: SnapshotdNode) -> None:
    root = await snapshot(shared_snapshotd, "overlayfs", *LAYERS)
    (root / "way").symlink_to("/")
    (root / "etc/a").unlink()
    (root / "etc/a").symlink_to("/etc/shadow")
    assert await changed(shared_snapshotd, root) == ["C /etc", "C /etc/a", "A /way"]
    archive = tarfile.TarFile(fileobj=io.BytesIO(await written(shared_snapshotd, root)))
    assert {m.name: m.linkname for m in archive if m.issym()} == {"way": "/", "etc/a": "/etc/shadow"}


async def test_what_cannot_be_told_is_refused(shared_snapshotd: SnapshotdNode) -> None:
    client = shared_snapshotd.client()
    root = await snapshot(shared_snapshotd, "overlayfs", *LAYERS)
    fixed = await snapshot(shared_snapshotd, "overlayfs", *LAYERS, readonly=True)
    taken = shared_snapshotd.directory / "taken"
    taken.write_text("mine")
    try:
        for key, kind in ((fixed.name, FailedPreconditionError), ("absent", NotFoundError)):
            with pytest.raises(kind):
                await client.write_diff(key, str(taken))
        with pytest.raises(InvalidArgumentError, match="absolute"):
            await client.write_diff(root.name, "relative")
        with pytest.raises(Exception, match="taken"):
            await client.write_diff(root.name, str(taken))
        for number in range(2001):
            (root / f"f{number}").touch()
        with pytest.raises(ResourceExhaustedError, match="2000"):
            await changed(shared_snapshotd, root)
    finally:
        await client.close()
    assert taken.read_text() == "mine"
