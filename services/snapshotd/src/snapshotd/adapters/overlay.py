"""Snapshots by overlayfs: the layers below, a writable directory above.

Options go by fsconfig, one layer a call, so that their length knows no bound. Kernels without that option take
all options in one page: there layers have views with short names.
"""

import errno
import os
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

from common import errors
from common.sys import linux
from common.sys.userns import IdMappings
from snapshotd import compose
from snapshotd.adapters.mounts import attach
from snapshotd.adapters.views import opened, over_views
from snapshotd.compose import Stratum
from snapshotd.records import LayerRecord

MAX_LAYERS = 490
"""OVL_MAX_STACK is 500 (fs/overlayfs/params.h); some are kept for directories of ours."""
MAX_REPAIRS = 10_000
"""Directories that each snapshot must make anew, since an upper layer does not describe them: seconds of work at this bound,
and more than the layers of any image that was not made for it."""
_PARAMETERS = Path("/sys/module/overlay/parameters")


class OverlaySnapshotter:
    """See ports.Snapshotter.

    Args:
        root_of: where a layer's tree is.
        empty: an empty directory, for stacks that are too low for overlayfs.
    """

    whole = False

    def __init__(self, root_of: Callable[[LayerRecord], Path], empty: Path) -> None:
        self._root_of = root_of
        self._empty = empty

    def prepare(
        self,
        directory: Path,
        layers: list[LayerRecord],
        *,
        readonly: bool,
        ids: IdMappings | None,
        diff: Stratum | None = None,
    ) -> tuple[int, int]:
        """Make the upper directory, of the diff if there is one, and in it what implied directories look like."""
        if len(layers) > MAX_LAYERS:
            message = f"{len(layers)} layers: overlayfs takes {MAX_LAYERS} at most"
            raise errors.InvalidArgumentError(message)
        strata = compose.strata(self._root_of, layers)
        top = directory / ("top" if readonly else "upper")
        if diff:
            diff.root.rename(top)
            strata = [diff._replace(root=top), *strata]
        else:
            top.mkdir(mode=0o755)
        if not readonly:
            (directory / "work").mkdir(mode=0o700)
        # the merged root looks as the uppermost directory does
        wanted = compose.with_root(compose.repairs(strata, MAX_REPAIRS), strata)
        if ids:
            # nothing maps what is written above the layers, so it has the host's ids
            os.chown(top, ids.uids.to_host(0), ids.gids.to_host(0))
            wanted = {
                path: look._replace(uid=ids.uids.to_host(look.uid), gid=ids.gids.to_host(look.gid))
                for path, look in wanted.items()
            }
        compose.make(top, wanted)
        return 0, 0

    def mount(
        self,
        directory: Path,
        target: Path,
        layers: list[LayerRecord],
        *,
        readonly: bool,
        ids: IdMappings | None,
    ) -> None:
        """Mount; in the old way when the kernel has no lowerdir+."""
        lowers = [str(stratum.root) for stratum in compose.strata(self._root_of, layers)]
        # overlayfs wants a lower directory, and without an upper one two of them
        lowers = lowers or [str(self._empty)]
        tops = [str(directory / "top")] if readonly else []

        def make(lowers: list[str]) -> int:
            how = _make if self.one_by_one else _make_by_data
            return how([*tops, *lowers], directory, readonly=readonly)

        views = ids is not None or not self.one_by_one
        # a container writes with what overlayfs remembers of its maker: quotas of ext4 do not hold who has this
        with linux.without_capability(linux.CAP_SYS_RESOURCE):
            fd = over_views(lowers, ids, self._empty, make) if views else make(lowers)
        with opened(fd) as mount_fd:
            attach(mount_fd, target)

    @cached_property
    def one_by_one(self) -> bool:
        """Whether this kernel takes one layer a call.

        Where overlayfs does not parse options itself, fsconfig takes any key, and only the mount fails.
        """
        with opened(linux.fsopen("overlay")) as fd:
            try:
                _set_lower(fd, str(self._empty))
            except OSError as exc:
                if exc.errno != errno.EINVAL:
                    raise
                return False
            try:
                linux.fsconfig(fd, linux.FSCONFIG_SET_STRING, "no-such-option", "1")
            except OSError:
                return True
            return False

    def writable(self, directory: Path) -> Path:
        """The upper directory; a read-only snapshot has none."""
        return directory / "upper"


def _make(lowers: list[str], directory: Path, *, readonly: bool) -> int:
    """A detached mount of the stack."""
    with opened(linux.fsopen("overlay")) as fd:
        try:
            linux.fsconfig(fd, linux.FSCONFIG_SET_STRING, "source", "overlay")
            for lower in lowers:
                _set_lower(fd, lower)
            if not readonly:
                linux.fsconfig(fd, linux.FSCONFIG_SET_STRING, "upperdir", f"{directory}/upper")
                linux.fsconfig(fd, linux.FSCONFIG_SET_STRING, "workdir", f"{directory}/work")
                for option in _whole():
                    linux.fsconfig(fd, linux.FSCONFIG_SET_STRING, option, "off")
            linux.fsconfig(fd, linux.FSCONFIG_CMD_CREATE)
            return linux.fsmount(fd, linux.MOUNT_ATTR_RDONLY if readonly else 0)
        except OSError as exc:
            said = _context_log(fd)
            if said and not exc.filename:
                exc.filename = said
            raise


def _make_by_data(lowers: list[str], directory: Path, *, readonly: bool) -> int:
    """As `_make`; works in a directory and a mount namespace that go afterwards."""
    data = f"lowerdir={':'.join(lowers)}"
    if not readonly:
        data += f",upperdir={directory}/upper,workdir={directory}/work"
        data += "".join(f",{option}=off" for option in _whole())
    Path("merged").mkdir()
    linux.mount("overlay", "merged", "overlay", linux.MS_RDONLY if readonly else 0, data)
    return linux.open_tree("merged")


def _whole() -> list[str]:
    """Options whose "off" keeps what a container changes whole in the upper directory, as far as this kernel has them.

    Some kernels have them on; then a file whose mode changes stays without its bytes, which no layer can tell.
    """
    return [option for option in ("metacopy", "redirect_dir") if (_PARAMETERS / option).exists()]


def _set_lower(fd: int, lower: str) -> None:
    try:
        linux.fsconfig(fd, linux.FSCONFIG_SET_STRING, "lowerdir+", lower)
    except OSError as exc:
        if exc.errno == errno.EINVAL:
            exc.filename = f"lowerdir+ {lower}"
        raise


def _context_log(fd: int) -> str:
    """What the kernel says about a mount that it refused (Documentation/filesystems/mount_api.rst)."""
    said: list[str] = []
    try:
        while line := os.read(fd, 1024):
            said.append(line.decode(errors="replace").strip())
    except OSError:
        pass  # ENODATA ends the log
    return "; ".join(said)
