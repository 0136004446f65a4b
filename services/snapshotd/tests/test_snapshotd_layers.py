"""What snapshots show of a corpus of layers, friendly and hostile; the same for every snapshotter."""

import gzip
import hashlib
import io
import os
import secrets
import shutil
import stat
import tarfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import zstandard

from common.errors import DataLossError, InvalidArgumentError, SlipwayError
from services.snapshotd.tests.conftest import SnapshotdNode

pytestmark = [pytest.mark.root, pytest.mark.integration, pytest.mark.anyio]
HAS_EROFS = bool(shutil.which("mkfs.erofs"))
SNAPSHOTTERS = ("overlayfs", "native", *(("erofs",) if HAS_EROFS else ()))
AT = 1_600_000_000


@dataclass
class E:
    """An entry: kind is f d l h c b p."""

    kind: str
    name: str
    body: bytes = b""
    target: str = ""
    mode: int = 0
    uid: int = 0
    gid: int = 0
    mtime: float = AT
    device: tuple[int, int] = (0, 0)
    pax: dict[str, str] = field(default_factory=dict)


KINDS = {
    "f": tarfile.REGTYPE,
    "d": tarfile.DIRTYPE,
    "l": tarfile.SYMTYPE,
    "h": tarfile.LNKTYPE,
    "c": tarfile.CHRTYPE,
    "b": tarfile.BLKTYPE,
    "p": tarfile.FIFOTYPE,
}


def tar(entries: Iterable[E], form: int = tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form, errors="surrogateescape") as archive:
        for entry in entries:
            info = tarfile.TarInfo(entry.name)
            info.type = KINDS[entry.kind]
            info.mode = entry.mode or (0o755 if entry.kind == "d" else 0o644)
            info.uid, info.gid, info.mtime, info.linkname = entry.uid, entry.gid, entry.mtime, entry.target
            info.size = len(entry.body)
            info.devmajor, info.devminor = entry.device
            info.pax_headers = entry.pax
            archive.addfile(info, io.BytesIO(entry.body) if entry.body else None)
    return out.getvalue()


def digest_of(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


async def apply(
    node: SnapshotdNode, content: bytes, blob: bytes | None = None, media_type: str = "", diff_id: str = ""
) -> str:
    path = node.directory / f"blob-{secrets.token_hex(4)}"
    path.write_bytes(content if blob is None else blob)
    client = node.client()
    wanted = diff_id or digest_of(content)
    try:
        layer = await client.apply_layer(
            diff_id=wanted, blob_path=str(path), digest="sha256:b10b", media_type=media_type
        )
    finally:
        await client.close()
        path.unlink()
    assert layer.diff_id == wanted
    return wanted


async def snapshot(node: SnapshotdNode, snapshotter: str, *layers: bytes, readonly: bool = False) -> Path:
    diff_ids = [await apply(node, layer) for layer in layers]
    client = node.client()
    try:
        made = await client.prepare(f"s{secrets.token_hex(6)}", diff_ids, snapshotter, readonly=readonly)
    finally:
        await client.close()
    return Path(node.seen(made.path))


def tree(root: Path) -> dict[str, str]:
    """Paths with type and, for files and links, content."""
    found: dict[str, str] = {}
    for here, dirs, files in os.walk(root):
        for name in dirs + files:
            path = Path(here) / name
            kind = stat.S_IFMT(path.lstat().st_mode)
            text = {
                stat.S_IFDIR: "dir",
                stat.S_IFIFO: "fifo",
                stat.S_IFCHR: "char",
                stat.S_IFBLK: "block",
            }.get(kind, "")
            if kind == stat.S_IFLNK:
                text = f"-> {path.readlink()}"
            elif kind == stat.S_IFREG:
                text = path.read_bytes().decode()
            found[str(path.relative_to(root))] = text
    return found


BASE = [
    E("d", "./"),
    E("d", "etc/"),
    E("f", "etc/a", b"a0"),
    E("f", "etc/b", b"b0"),
    E("d", "etc/d/"),
    E("f", "etc/d/x", b"x0"),
    E("f", "etc/d/y", b"y0"),
    E("d", "var/"),
    E("f", "var/v", b"v0"),
]
REST = {"etc": "dir", "etc/a": "a0", "etc/b": "b0", "etc/d": "dir", "etc/d/x": "x0", "etc/d/y": "y0"}
REST |= {"var": "dir", "var/v": "v0"}


def without(*names: str) -> dict[str, str]:
    return {k: v for k, v in REST.items() if not any(k == n or k.startswith(n + "/") for n in names)}


STACKS: dict[str, tuple[list[list[E]], dict[str, str]]] = {
    "plain": ([], REST),
    "whiteout of a file": ([[E("d", "etc/"), E("f", "etc/.wh.a")]], without("etc/a")),
    "whiteout of a directory": ([[E("d", "etc/"), E("f", "etc/.wh.d")]], without("etc/d")),
    "whiteout of nothing": ([[E("f", "etc/.wh.none")]], REST),
    "whiteout, then the name again in the same layer": (
        [[E("d", "etc/"), E("f", "etc/.wh.a"), E("f", "etc/a", b"a1")]],
        REST | {"etc/a": "a1"},
    ),
    "the name, then its whiteout in the same layer": (
        [[E("d", "etc/"), E("f", "etc/a", b"a1"), E("f", "etc/.wh.a")]],
        REST | {"etc/a": "a1"},
    ),
    "whiteout of a directory, then the directory anew": (
        [[E("f", "etc/.wh.d"), E("d", "etc/d/"), E("f", "etc/d/z", b"z1")]],
        without("etc/d") | {"etc/d": "dir", "etc/d/z": "z1"},
    ),
    "the directory anew, then its whiteout": (
        [[E("d", "etc/d/"), E("f", "etc/d/z", b"z1"), E("f", "etc/.wh.d")]],
        without("etc/d") | {"etc/d": "dir", "etc/d/z": "z1"},
    ),
    "whiteout of a directory, then an entry in it": (
        [[E("f", "etc/.wh.d"), E("f", "etc/d/z", b"z1")]],
        without("etc/d") | {"etc/d": "dir", "etc/d/z": "z1"},
    ),
    "opaque directory": (
        [[E("d", "etc/d/"), E("f", "etc/d/.wh..wh..opq"), E("f", "etc/d/z", b"z1")]],
        without("etc/d") | {"etc/d": "dir", "etc/d/z": "z1"},
    ),
    "opaque mark after the entries": (
        [[E("d", "etc/d/"), E("f", "etc/d/z", b"z1"), E("f", "etc/d/.wh..wh..opq")]],
        without("etc/d") | {"etc/d": "dir", "etc/d/z": "z1"},
    ),
    "opaque root": ([[E("f", ".wh..wh..opq"), E("f", "n", b"1")]], {"n": "1"}),
    "aufs' own files mean nothing": ([[E("d", ".wh..wh.plnk/"), E("f", ".wh..wh.aufs", b"x")]], REST),
    "hidden, and back two layers above": (
        [[E("f", "etc/.wh.d")], [E("d", "etc/d/"), E("f", "etc/d/z", b"z2")]],
        without("etc/d") | {"etc/d": "dir", "etc/d/z": "z2"},
    ),
    "file becomes directory": (
        [[E("d", "etc/a/"), E("f", "etc/a/in", b"1")]],
        REST | {"etc/a": "dir", "etc/a/in": "1"},
    ),
    "directory becomes file": ([[E("f", "etc/d", b"1")]], without("etc/d") | {"etc/d": "1"}),
    "directory becomes link": (
        [[E("l", "etc/d", target="../var")]],
        without("etc/d") | {"etc/d": "-> ../var"},
    ),
    "duplicates: the last one counts": (
        [[E("f", "n", b"1"), E("f", "n", b"22"), E("d", "m/"), E("f", "m/x", b"1"), E("f", "m", b"3")]],
        REST | {"n": "22", "m": "3"},
    ),
    "hard link over a whiteout": (
        [[E("f", "etc/.wh.a"), E("f", "h", b"1"), E("h", "etc/a", target="h")]],
        REST | {"etc/a": "1", "h": "1"},
    ),
    "absolute names count from the root": ([[E("f", "/abs/n", b"1")]], REST | {"abs": "dir", "abs/n": "1"}),
    "an entry through a link of its layer stays inside": (
        [
            [
                E("l", "up", target="/../../etc"),
                E("f", "up/n", b"1"),
                E("l", "rel", target="var"),
                E("f", "rel/m", b"2"),
            ]
        ],
        REST | {"up": "-> /../../etc", "etc/n": "1", "rel": "-> var", "var/m": "2"},
    ),
    "a directory replaces a link": (
        [[E("d", "t/"), E("l", "s", target="t"), E("d", "s/"), E("f", "s/n", b"1")]],
        REST | {"t": "dir", "s": "dir", "s/n": "1"},
    ),
    "fifo and link to nothing": (
        [[E("p", "p"), E("l", "dangling", target="/no/such")]],
        REST | {"p": "fifo", "dangling": "-> /no/such"},
    ),
    "the same layer twice": (
        [[E("f", "n", b"1")], [E("f", "m", b"2")], [E("f", "n", b"1")]],
        REST | {"n": "1", "m": "2"},
    ),
}


@pytest.mark.parametrize("snapshotter", SNAPSHOTTERS)
@pytest.mark.parametrize("name", STACKS)
async def test_snapshot_shows_the_composed_tree(
    shared_snapshotd: SnapshotdNode, snapshotter: str, name: str
) -> None:
    layers, expected = STACKS[name]
    root = await snapshot(shared_snapshotd, snapshotter, *[tar(entries) for entries in [BASE, *layers]])
    assert tree(root) == expected
    (root / "written").write_text("by the container")


@pytest.mark.parametrize("snapshotter", SNAPSHOTTERS)
async def test_attributes_survive(shared_snapshotd: SnapshotdNode, snapshotter: str) -> None:
    capability = "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
    entries = [
        E("d", "./", mode=0o711, uid=3, gid=4),
        E("d", "tmp/", mode=0o1777, mtime=AT + 1),
        E("f", "tmp/suid", b"1", mode=0o4755, uid=1000, gid=1001, mtime=AT + 0.5),
        E("f", "tmp/cap", b"1", mode=0o755, pax={"SCHILY.xattr.security.capability": capability}),
        E("f", "tmp/attr", b"1", pax={"SCHILY.xattr.user.note": "hello"}),
        E("l", "tmp/link", target="suid", uid=7, gid=8, mtime=AT + 2),
        E("c", "tmp/null", mode=0o666, device=(1, 3), uid=5),
        E("b", "tmp/disk", mode=0o660, device=(250, 7)),
        E("h", "tmp/hard", target="tmp/suid"),
        E("f", "tmp/huge-id", b"1", uid=4_000_000_000, gid=4_000_000_001),
        E("d", "tmp/ro/", mode=0o555),
        E("f", "tmp/ro/in", b"1"),
    ]
    root = await snapshot(shared_snapshotd, snapshotter, tar(entries))
    tmp = root / "tmp"
    top = root.stat()
    assert (stat.S_IMODE(top.st_mode), top.st_uid, top.st_gid) == (0o711, 3, 4)
    assert stat.S_IMODE(tmp.stat().st_mode) == 0o1777
    assert tmp.stat().st_mtime == AT + 1
    suid = (tmp / "suid").stat()
    assert (stat.S_IMODE(suid.st_mode), suid.st_uid, suid.st_gid) == (0o4755, 1000, 1001)
    assert suid.st_mtime == AT + 0.5
    assert (suid.st_nlink, suid.st_ino) == (2, (tmp / "hard").stat().st_ino)
    assert os.getxattr(tmp / "cap", "security.capability") == capability.encode()
    assert os.getxattr(tmp / "attr", "user.note") == b"hello"
    link = (tmp / "link").lstat()
    assert (link.st_uid, link.st_gid, link.st_mtime) == (7, 8, AT + 2)
    null = (tmp / "null").stat()
    assert stat.S_ISCHR(null.st_mode)
    assert (null.st_rdev, stat.S_IMODE(null.st_mode), null.st_uid) == (os.makedev(1, 3), 0o666, 5)
    assert stat.S_ISBLK((tmp / "disk").stat().st_mode)
    assert (tmp / "huge-id").stat().st_uid == 4_000_000_000
    assert stat.S_IMODE((tmp / "ro").stat().st_mode) == 0o555


@pytest.mark.parametrize("snapshotter", SNAPSHOTTERS)
@pytest.mark.parametrize("readonly", [False, True])
async def test_implied_directory_keeps_the_lower_layers_look(
    shared_snapshotd: SnapshotdNode, snapshotter: str, readonly: bool
) -> None:
    lower = tar([E("d", "./", mode=0o750), E("d", "tmp/", mode=0o1777, uid=9), E("d", "tmp/in/", mode=0o700)])
    upper = tar([E("f", "tmp/in/n", b"1")])
    root = await snapshot(shared_snapshotd, snapshotter, lower, upper, readonly=readonly)
    assert stat.S_IMODE(root.stat().st_mode) == 0o750
    assert stat.S_IMODE((root / "tmp").stat().st_mode) == 0o1777
    assert (root / "tmp").stat().st_uid == 9
    assert stat.S_IMODE((root / "tmp/in").stat().st_mode) == 0o700
    assert (root / "tmp/in/n").read_bytes() == b"1"


@pytest.mark.parametrize("snapshotter", SNAPSHOTTERS)
async def test_readonly_snapshot_takes_no_write(shared_snapshotd: SnapshotdNode, snapshotter: str) -> None:
    stacks: tuple[tuple[bytes, ...], ...] = ((), (tar(BASE),), (tar(BASE), tar([E("f", "etc/.wh.a")])))
    roots = [await snapshot(shared_snapshotd, snapshotter, *layers, readonly=True) for layers in stacks]
    for root in roots:
        with pytest.raises(OSError, match="Read-only"):
            (root / "n").write_text("1")
    assert tree(roots[-1]) == without("etc/a")


@pytest.mark.parametrize("snapshotter", SNAPSHOTTERS)
async def test_snapshot_over_no_layers_is_empty_and_writable(
    shared_snapshotd: SnapshotdNode, snapshotter: str
) -> None:
    root = await snapshot(shared_snapshotd, snapshotter)
    assert tree(root) == {}
    (root / "n").write_text("1")


@pytest.mark.parametrize("snapshotter", SNAPSHOTTERS)
async def test_names_that_are_not_utf8_survive(shared_snapshotd: SnapshotdNode, snapshotter: str) -> None:
    odd = b"odd-\xff\xe9".decode("utf-8", "surrogateescape")
    gnu = tar([E("f", odd, b"1"), E("l", "to", target=odd), E("h", "hard", target=odd)], tarfile.GNU_FORMAT)
    pax = tar([E("f", "übergröße-名", b"2")])
    root = await snapshot(shared_snapshotd, snapshotter, gnu, pax)
    assert sorted(os.listdir(os.fsencode(root))) == sorted(
        [b"odd-\xff\xe9", b"to", b"hard", "übergröße-名".encode()]
    )
    assert os.readlink(os.fsencode(root / "to")) == b"odd-\xff\xe9"


@pytest.mark.parametrize("snapshotter", SNAPSHOTTERS)
async def test_holes_stay_holes(shared_snapshotd: SnapshotdNode, snapshotter: str, tmp_path: Path) -> None:
    import subprocess

    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(32 << 20)
        file.seek(1 << 20)
        file.write(b"middle")
    content = subprocess.run(
        ["tar", "-C", tmp_path, "--sparse", "--format=pax", "-cf", "-", "sparse"],
        check=True,
        capture_output=True,
    ).stdout
    root = await snapshot(shared_snapshotd, snapshotter, content)
    found = (root / "sparse").stat()
    assert found.st_size == 32 << 20
    assert found.st_blocks * 512 < 1 << 20
    assert (root / "sparse").read_bytes()[1 << 20 :][:7] == b"middle\0"


async def test_overlay_control_attributes_of_an_image_are_dropped(shared_snapshotd: SnapshotdNode) -> None:
    pax = {"SCHILY.xattr.trusted.overlay.redirect": "/etc", "SCHILY.xattr.trusted.overlay.opaque": "y"}
    layer = tar([E("d", "etc/", pax=pax), E("f", "etc/n", b"1")])
    root = await snapshot(shared_snapshotd, "overlayfs", tar(BASE), layer)
    assert tree(root) == REST | {"etc/n": "1"}


COMPRESSIONS: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "gzip": (gzip.compress, "application/vnd.oci.image.layer.v1.tar+gzip"),
    "gzip in members": (
        lambda c: gzip.compress(c[:700]) + gzip.compress(c[700:]),
        "application/vnd.docker.image.rootfs.diff.tar.gzip",
    ),
    "zstd": (zstandard.ZstdCompressor().compress, "application/vnd.oci.image.layer.v1.tar+zstd"),
    "zstd in frames": (
        lambda c: (
            zstandard.compress(c[:700]) + b"\x50\x2a\x4d\x18\x02\x00\x00\x00xx" + zstandard.compress(c[700:])
        ),
        "",
    ),
    "gzip called plain": (gzip.compress, "application/vnd.oci.image.layer.v1.tar"),
    "plain": (bytes, "application/vnd.oci.image.layer.v1.tar"),
}


@pytest.mark.parametrize("name", COMPRESSIONS)
async def test_compression_is_found_by_the_bytes(shared_snapshotd: SnapshotdNode, name: str) -> None:
    compress, media_type = COMPRESSIONS[name]
    content = tar([E("f", f"n-{name}", os.urandom(3000).hex().encode())])
    diff_id = await apply(shared_snapshotd, content, compress(content), media_type)
    client = shared_snapshotd.client()
    (layer,) = await client.list_layers([diff_id])
    await client.close()
    assert layer.inodes == 2
    assert layer.size_bytes >= 6000


CONTENT = tar([E("f", "n", bytes(range(256)) * 400)])
PLAIN, GZIP, ZSTD = bytes, gzip.compress, zstandard.compress
DAMAGED: dict[str, tuple[bytes, str, str]] = {
    "gzip cut short": (GZIP(CONTENT)[:-20], "", ""),
    "zstd cut short": (ZSTD(CONTENT)[:-20], "", ""),
    "tar cut short": (CONTENT[:5000], "", ""),
    "another diff ID": (CONTENT, "", "sha256:" + "0" * 64),
    "one byte differs": (CONTENT[:2000] + b"!" + CONTENT[2001:], "", ""),
    "no tar at all": (b"hello" * 1000, "", ""),
    "nothing": (b"", "", ""),
    "gzip by name only": (CONTENT, "application/vnd.oci.image.layer.v1.tar+gzip", ""),
}


async def test_a_last_file_without_padding_is_taken_as_others_take_it(
    shared_snapshotd: SnapshotdNode,
) -> None:
    content = tar([E("d", "etc/"), E("f", "etc/last", b"eleven byte")])
    cut = content[: content.index(b"eleven byte") + 11]
    root = await snapshot(shared_snapshotd, "overlayfs", cut)
    assert (root / "etc/last").read_bytes() == b"eleven byte"


@pytest.mark.parametrize("name", DAMAGED)
async def test_damaged_blob_is_data_loss_and_leaves_nothing(
    shared_snapshotd: SnapshotdNode, name: str
) -> None:
    blob, media_type, diff_id = DAMAGED[name]
    wanted = diff_id or digest_of(CONTENT)
    with pytest.raises(DataLossError) as caught:
        await apply(shared_snapshotd, CONTENT, blob, media_type, wanted)
    assert caught.value.message.startswith("layer sha256:b10b: ")
    await assert_nothing_stays(shared_snapshotd, wanted)


async def assert_nothing_stays(node: SnapshotdNode, diff_id: str) -> None:
    client = node.client()
    assert await client.list_layers([diff_id]) == []
    await client.close()
    assert node.leftovers() == []
    assert not (node.data / "snapshotd/layers" / diff_id.removeprefix("sha256:")).exists()


REFUSED: dict[str, list[E]] = {
    "name climbs": [E("f", "../../out", b"1")],
    "name climbs in the middle": [E("d", "a/"), E("f", "a/../../out", b"1")],
    "hard link climbs": [E("h", "n", target="../../../../etc/passwd")],
    "hard link to what is no entry": [E("h", "n", target="/etc/passwd")],
    "hard link through a link": [E("l", "up", target="/proc/1/root"), E("h", "n", target="up/etc/passwd")],
    "hard link to a directory": [E("d", "d/"), E("h", "n", target="d")],
    "links in a circle": [E("l", "a", target="b"), E("l", "b", target="a"), E("f", "a/n", b"1")],
    "entry below a file": [E("f", "a", b"1"), E("f", "a/n", b"1")],
    "whiteout of no name": [E("f", "a/.wh.")],
    "whiteout of the parent": [E("f", "a/.wh...")],
    "name too long": [E("f", "n" * 300, b"1")],
    "path too long": [E("f", "d/" * 1200 + "n", b"1")],
    "too many entries": [E("f", f"n{i}") for i in range(2001)],
    "owner that cannot be": [E("f", "n", uid=1 << 40)],
    "root is a file": [E("f", ".", b"1")],
}


@pytest.mark.parametrize("name", REFUSED)
async def test_hostile_layer_is_refused_in_one_sentence(shared_snapshotd: SnapshotdNode, name: str) -> None:
    content = tar(REFUSED[name])
    with pytest.raises(InvalidArgumentError) as caught:
        await apply(shared_snapshotd, content)
    assert "\n" not in caught.value.message
    await assert_nothing_stays(shared_snapshotd, digest_of(content))


async def test_bombs_end_at_the_bound(shared_snapshotd: SnapshotdNode) -> None:
    content = tar([E("f", "n", bytes(65 << 20))])
    for blob in (gzip.compress(content), zstandard.compress(content)):
        with pytest.raises(InvalidArgumentError, match="larger"):
            await apply(shared_snapshotd, content, blob)
    await assert_nothing_stays(shared_snapshotd, digest_of(content))


async def test_path_that_is_no_blob_is_an_error(shared_snapshotd: SnapshotdNode) -> None:
    client = shared_snapshotd.client()
    for path in ("/no/such/blob", "/dev/zero", "/"):
        with pytest.raises(SlipwayError):
            await client.apply_layer(diff_id="sha256:" + "1" * 64, blob_path=path)
    await client.close()
