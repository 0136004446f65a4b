"""Directories whose trees ext4 lays far from each other."""

import subprocess
from pathlib import Path

from common.sys.files import spread_below

INODES_OF_A_GROUP = 8192
"""What mke2fs takes with the settings of Debian."""


def groups(directory: Path) -> set[int]:
    """The block groups of forty new directories."""
    made = [directory / str(number) for number in range(40)]
    for path in made:
        path.mkdir()
    return {path.stat().st_ino // INODES_OF_A_GROUP for path in made}


def test_ext4_lays_the_trees_below_apart_and_others_do_as_they_like(tmp_path: Path) -> None:
    near, apart = tmp_path / "near", tmp_path / "apart"
    near.mkdir()
    apart.mkdir()
    spread_below(apart)
    spread_below(apart)
    filesystem = subprocess.run(
        ["stat", "-f", "-c", "%T", tmp_path], check=True, capture_output=True, text=True
    )
    ext4 = filesystem.stdout.strip() == "ext2/ext3"
    if ext4:
        assert len(groups(near)) < len(groups(apart))


def test_a_filesystem_without_flags_is_left_as_it_is() -> None:
    spread_below(Path("/proc/self"))
