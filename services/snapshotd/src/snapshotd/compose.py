"""What a stack of layers makes of a directory that some of them hold without saying how it looks.

A layer may go through `tmp/` with no entry of its own for it. Unpacked apart from its parents, it has a plain
directory there, which would cover the mode and the owner that a lower layer gave it. So the attributes of
such directories are taken from the nearest layer that states them.
"""

import os
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

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
    root, _ = stated(stack, "")
    return {"": root, **wanted} if root else wanted


def stated(strata: Sequence[Stratum], path: str) -> tuple[Attributes | None, bool]:
    """A directory's attributes in a stack (top layer first), and whether the top one that has it lacks them."""
    first: Attributes | None = None
    for stratum in strata:
        place = stratum.root / path
        try:
            status = place.lstat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        if not stat.S_ISDIR(status.st_mode):
            break
        if path not in stratum.implied:
            return attributes_of(place), first is not None
        first = first or attributes_of(place)
        if is_opaque(place):
            break
    return first, False


def repairs(strata: Sequence[Stratum]) -> dict[str, Attributes]:
    """Directories, parents first, that must be made above the stack (top layer first) to look right."""
    found: dict[str, Attributes] = {}
    for path in sorted({path for stratum in strata for path in stratum.implied}):
        look, differs = stated(strata, path)
        if look is None or not differs:
            continue
        parents = path.split("/")[:-1]
        for depth in range(1, len(parents) + 1):
            parent = "/".join(parents[:depth])
            above, _ = stated(strata, parent)
            if above:
                found.setdefault(parent, above)
        found[path] = look
    return dict(sorted(found.items()))


def make(root: Path, wanted: dict[str, Attributes]) -> None:
    """Make these directories below an empty one of ours; parents come first in the table."""
    for path in wanted:
        (root / path).mkdir(mode=0o700, exist_ok=True)
    for path, look in reversed(wanted.items()):
        dress(root / path, look)
