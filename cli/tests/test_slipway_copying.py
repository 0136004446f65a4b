"""Whose the files are that COPY --chown writes, by the files of an image that may be hostile."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from common.errors import InvalidArgumentError
from slipway.building.copying import MAX_TABLE_BYTES, owner
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
