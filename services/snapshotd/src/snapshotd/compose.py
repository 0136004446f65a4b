"""What a stack of layers makes of a directory that some of them hold without saying how it looks.

A layer may go through `tmp/` with no entry of its own for it. Unpacked apart from its parents, it has a plain
directory there, which would cover the mode and the owner that a lower layer gave it. So the attributes of
such directories are taken from the nearest layer that states them.
"""

import os
import stat
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from common.errors import InvalidArgumentError
from snapshotd.diff.whiteout import OPAQUE_XATTR
from snapshotd.records import LayerRecord


class Stratum(NamedTuple):
    """One unpacked layer: its tree, and the directories in it that no entry describes ('' is the root)."""

    root: Path
    implied: frozenset[str]


class Attributes(NamedTuple):
    """What a directory looks like."""

    mode: int
    uid: int
    gid: int
    mtime_ns: int
    xattrs: tuple[tuple[str, bytes], ...]


def attributes_of(path: Path) -> Attributes:
    """A directory's attributes, without overlayfs' own."""
    status = path.lstat()
    names = [n for n in os.listxattr(path, follow_symlinks=False) if not n.startswith("trusted.overlay.")]
    xattrs = tuple((name, os.getxattr(path, name, follow_symlinks=False)) for name in names)
    return Attributes(stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, status.st_mtime_ns, xattrs)


def dress(path: Path, look: Attributes) -> None:
    os.chown(path, look.uid, look.gid, follow_symlinks=False)
    path.chmod(look.mode)
    for name, value in look.xattrs:
        os.setxattr(path, name, value, follow_symlinks=False)
    os.utime(path, ns=(look.mtime_ns, look.mtime_ns), follow_symlinks=False)


def is_opaque(path: Path) -> bool:
    try:
        return os.getxattr(path, OPAQUE_XATTR, follow_symlinks=False) == b"y"
    except OSError:
        return False


def strata(root_of: Callable[[LayerRecord], Path], layers: Sequence[LayerRecord]) -> list[Stratum]:
    """Layers, bottom first, as strata, top first, down to one that hides the rest.

    A layer that comes twice counts where it is uppermost: overlayfs refuses it twice.
    """
    found: list[Stratum] = []
    for layer in {layer.id: layer for layer in reversed(layers)}.values():
        found.append(Stratum(root_of(layer), frozenset(layer.implied)))
        if is_opaque(found[-1].root):
            break  # overlayfs does not look at this mark on a layer's root
    return found


def with_root(wanted: dict[str, Attributes], stack: Sequence[Stratum]) -> dict[str, Attributes]:
    """These repairs, and how the root looks."""
    if not stack:
        return wanted
    look, _ = _look("", [(stratum, stratum.root) for stratum in stack])
    return {"": look, **wanted}


def repairs(strata: Sequence[Stratum], at_most: int | None = None) -> dict[str, Attributes]:
    """Directories, parents first, that must be made above the stack (top layer first) to look right.

    Raises:
        InvalidArgumentError: more than `at_most` directories lack what a lower layer says of them.
    """
    inner: defaultdict[str, set[str]] = defaultdict(set)
    for implied in {path for stratum in strata for path in stratum.implied}:
        path = implied
        while path and path not in inner[parent := path.rpartition("/")[0]]:
            inner[parent].add(path)
            path = parent
    merged: dict[str, _Merged] = {"": [(stratum, stratum.root) for stratum in strata]}
    found: dict[str, Attributes] = {}
    waiting = [""]
    while waiting:
        here = waiting.pop()
        for path in inner[here]:
            directories = _below(merged[here], path.rpartition("/")[2])
            if not directories:
                continue
            merged[path] = directories
            waiting.append(path)
            look, lacking = _look(path, directories)
            if lacking:
                found[path] = look
                if at_most is not None and len(found) > at_most:
                    fullest = max(strata, key=lambda stratum: len(stratum.implied))
                    raise InvalidArgumentError(
                        f"the layers go through more than {at_most} directories of lower ones without an entry for them, "
                        f"{len(fullest.implied)} of them in {fullest.root}: the image's layers must describe them"
                    )
    for repaired in list(found):
        path = repaired
        while (path := path.rpartition("/")[0]) and path not in found:
            found[path], _ = _look(path, merged[path])
    return dict(sorted(found.items()))


_Merged = list[tuple[Stratum, Path]]
"""The layers, top first, that show something at one path, with their directories there."""


def _below(merged: _Merged, name: str) -> _Merged:
    """What is merged one step further down: in the place of any directory, a layer may have a link to wherever."""
    found: _Merged = []
    for stratum, directory in merged:
        inner = directory / name
        try:
            status = inner.lstat()
        except FileNotFoundError:
            continue
        if not stat.S_ISDIR(status.st_mode):
            break
        found.append((stratum, inner))
        if is_opaque(inner):
            break
    return found


def _look(path: str, merged: _Merged) -> tuple[Attributes, bool]:
    """A directory's attributes, and whether the uppermost layer that has it lacks them."""
    for number, (stratum, directory) in enumerate(merged):
        if path not in stratum.implied:
            return attributes_of(directory), number > 0
    return attributes_of(merged[0][1]), False


def make(root: Path, wanted: dict[str, Attributes]) -> None:
    """Make these directories below an empty one of ours; parents come first in the table."""
    for path in wanted:
        (root / path).mkdir(mode=0o700, exist_ok=True)
    for path, look in reversed(wanted.items()):
        dress(root / path, look)
