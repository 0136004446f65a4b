"""What COPY and ADD read, and whose the files are that they write, by the files of an image that may be hostile."""

import os
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from common.errors import InvalidArgumentError
from slipway.building.copying import MAX_TABLE_BYTES, Copy, digest, owner, sources
from slipway.building.ignore import Ignore
from slipway.files import Place


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Place]:
    (tmp_path / "etc").mkdir()
    fd = os.open(tmp_path, os.O_PATH | os.O_DIRECTORY)
    yield Place(fd)
    os.close(fd)


def test_names_are_those_of_the_image(root: Place, tmp_path: Path) -> None:
    (tmp_path / "etc/passwd").write_text("root:x:0:0::/:\nann:x:7:8::/:\n")
    (tmp_path / "etc/group").write_text("team:x:9:\n")
    assert [owner(root, text) for text in ("ann", "ann:team", "5", "5:team")] == [
        (7, 8),
        (7, 9),
        (5, 5),
        (5, 9),
    ]


@pytest.mark.parametrize("uid", ["4294967295", "4294967296", "-1", "9" * 5000, "0x0", ""])
def test_an_id_that_would_leave_the_file_to_root_is_none(root: Place, tmp_path: Path, uid: str) -> None:
    (tmp_path / "etc/passwd").write_text(f"ann:x:{uid}:0::/:\n")
    with pytest.raises(InvalidArgumentError, match="'ann': the image's /etc/passwd has no such name"):
        owner(root, "ann")


def _sparse(path: Path) -> None:
    path.touch()
    os.truncate(path, MAX_TABLE_BYTES + 1)


HOSTILE: dict[str, Callable[[Path], None]] = {
    "pipe": os.mkfifo,
    "device": lambda path: path.symlink_to("../zero"),
    "sparse": _sparse,
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_table_that_never_ends_is_not_read(root: Place, tmp_path: Path, kind: str) -> None:
    os.mknod(tmp_path / "zero", 0o20666, os.makedev(1, 5))
    HOSTILE[kind](tmp_path / "etc/passwd")
    with pytest.raises(InvalidArgumentError, match=r"/etc/passwd is no regular file of at most \d+ bytes"):
        owner(root, "ann")


@pytest.mark.parametrize("unpack", [False, True])
def test_what_changed_since_it_was_looked_at_is_told(root: Place, tmp_path: Path, *, unpack: bool) -> None:
    """The result is kept for what was copied: for what is there no more, it would be found for ever."""
    context = tmp_path / "context"
    (context / "dir").mkdir(parents=True)
    changed = context / "dir" / "changed"
    changed.write_text("one")
    with tarfile.open(context / "packed.tar", "w") as tar:
        tar.add(changed, "from-archive")
    found = sources(root, ["context/dir", "context/packed.tar"], Ignore())
    before = digest(found)
    assert Copy(found, "/same/", unpack=unpack).write(root) == before
    changed.write_text("two")
    assert Copy(found, "/other/", unpack=unpack).write(root) == digest(found) != before
    assert (tmp_path / "other/changed").read_text() == "two"
    assert (tmp_path / "other/from-archive").exists() == unpack
