"""Copying below a hostile root: what it may point to outside stays as it is."""

import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.errors import InvalidArgumentError
from slipway.files import Place, Target, entries, from_archive


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Place]:
    """A container's root beside a secret of ours."""
    (tmp_path / "secret").write_text("ours")
    inner = tmp_path / "root"
    (inner / "real").mkdir(parents=True)
    (inner / "real" / "file").write_text("theirs")
    fd = os.open(inner, os.O_PATH | os.O_DIRECTORY)
    yield Place(fd)
    os.close(fd)


def regular(name: str, body: bytes = b"new") -> tuple[tarfile.TarInfo, io.BytesIO]:
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(body), 0o644
    return info, io.BytesIO(body)


def link(name: str, to: str, kind: bytes = tarfile.SYMTYPE) -> tuple[tarfile.TarInfo, None]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, to
    return info, None


def archive(*found: tuple[tarfile.TarInfo, io.BytesIO | None]) -> io.BytesIO:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for info, data in found:
            tar.addfile(info, data)
    return io.BytesIO(out.getvalue())


@pytest.mark.parametrize("to", ["../../secret", "/secret", "../secret", "/proc/self/root/secret"])
def test_a_link_in_a_container_is_followed_below_its_root_only(root: Place, tmp_path: Path, to: str) -> None:
    (tmp_path / "root" / "out").symlink_to(to)
    with pytest.raises(OSError, match=r"No such file|cross-device|Too many"):
        list(entries(root, "/out", "x", follow=True))
    info, _ = next(entries(root, "/out", "x", follow=False))
    assert (info.issym(), info.linkname) == (True, to)


def test_a_directory_that_became_a_link_is_written_below_the_root(root: Place, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "root" / "dir").symlink_to(tmp_path / "outside")
    target = Target(root, "/", owners=False)
    with pytest.raises(OSError, match="No such file"):
        target.write(*regular("dir/file"))
    (tmp_path / "root" / "abs").symlink_to("/real")
    target.write(*regular("abs/file"))
    assert (tmp_path / "root" / "real" / "file").read_text() == "new"
    assert list((tmp_path / "outside").iterdir()) == []


def test_what_is_no_regular_file_is_replaced_never_opened(root: Place, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "root" / "pipe")
    (tmp_path / "root" / "sym").symlink_to("../../secret")
    target = Target(root, "/", owners=False)
    for name in ("pipe", "sym"):
        target.write(*regular(name))
        found = tmp_path / "root" / name
        assert (found.is_file(), found.is_symlink(), found.read_text()) == (True, False, "new")
    assert (tmp_path / "secret").read_text() == "ours"


def test_a_file_keeps_its_inode_when_it_is_replaced(root: Place, tmp_path: Path) -> None:
    before = (tmp_path / "root" / "real" / "file").stat().st_ino
    Target(root, "/real", owners=False).write(*regular("file"))
    assert (tmp_path / "root" / "real" / "file").stat().st_ino == before


@pytest.mark.parametrize(
    "name", ["../secret", "a/../../secret", "..", "/../secret"], ids=["up", "deep", "dots", "absolute"]
)
def test_names_that_lead_out_of_an_archive_are_refused(root: Place, tmp_path: Path, name: str) -> None:
    target = Target(Place(), str(tmp_path / "root"), owners=False)
    with pytest.raises(InvalidArgumentError, match="leads out"):
        target.write(*regular(name))
    with pytest.raises(InvalidArgumentError, match="leads out"):
        target.write(*link("hard", name, tarfile.LNKTYPE))
    assert (tmp_path / "secret").read_text() == "ours"


def test_nothing_is_written_through_a_link_on_our_side(tmp_path: Path) -> None:
    (tmp_path / "into").mkdir()
    (tmp_path / "secret").write_text("ours")
    target = Target(Place(), str(tmp_path / "into"), owners=False)
    target.write(*link("trap", str(tmp_path)))
    with pytest.raises(OSError, match=r"Too many|Not a directory"):
        target.write(*regular("trap/secret"))
    target.write(*link("secret", "../secret"))
    target.write(*regular("secret"))
    assert (tmp_path / "secret").read_text() == "ours"
    assert (tmp_path / "into" / "secret").read_text() == "new"


def test_setuid_and_devices_do_not_come_to_our_side(tmp_path: Path) -> None:
    target = Target(Place(), str(tmp_path), owners=False)
    info, data = regular("su")
    info.mode = 0o4755
    target.write(info, data)
    assert (tmp_path / "su").stat().st_mode & 0o7777 == 0o755
    device = tarfile.TarInfo("disk")
    device.type = tarfile.BLKTYPE
    target.write(device, None)
    assert (target.skipped, (tmp_path / "disk").exists()) == (["disk"], False)


def test_a_tree_deeper_than_descriptors_last_is_refused(root: Place, tmp_path: Path) -> None:
    here = os.open(tmp_path / "root", os.O_PATH)
    for _ in range(120):
        os.mkdir("d", dir_fd=here)
        here, old = os.open("d", os.O_PATH, dir_fd=here), here
        os.close(old)
    os.close(here)
    with pytest.raises(InvalidArgumentError, match="100 directories"):
        list(entries(root, "/d", "d", follow=False))


def test_an_archive_is_read_with_its_links_and_rubbish_is_told(root: Place, tmp_path: Path) -> None:
    target = Target(root, "/real", owners=True)
    for info, data in from_archive(
        archive(regular("one"), link("two", "one", tarfile.LNKTYPE), link("sym", "one"))
    ):
        info.uid, info.gid = os.getuid(), os.getgid()
        target.write(info, data)
    assert (tmp_path / "root" / "real" / "two").stat().st_nlink == 2
    assert (tmp_path / "root" / "real" / "sym").read_text() == "new"
    with pytest.raises(InvalidArgumentError, match="no tar archive"):
        list(from_archive(io.BytesIO(b"rubbish" * 200)))


def test_a_name_of_megabytes_is_refused_before_it_is_read() -> None:
    long = tarfile.TarInfo("x")
    long.type, long.size = tarfile.GNUTYPE_LONGNAME, 64 << 20
    whole = long.tobuf(tarfile.GNU_FORMAT) + bytes(64 << 20) + archive(regular("one")).getvalue()
    with pytest.raises(InvalidArgumentError, match="no tar archive: an extended header of more than"):
        list(from_archive(io.BytesIO(whole)))
