"""Who owns what on a node whose processes are containers: those that need no privileges are users of their own.

They meet the others at sockets of one group, in directories where that group may make some: sticky, so that nobody
removes another's, and setgid, so that each has the group.
"""

import os
import stat
from pathlib import Path

from node.layout import SERVICES, Layout

GROUP = 65532
USERS = {"imaged": 65532, "nats": 65531, "redis": 65530}
"""The rest is root's, with few capabilities."""


def part(layout: Layout) -> None:
    """Give each process its directories, with all that is in them where they were another's.

    Raises:
        OSError: this process may not.
    """
    run_dir, data_dir = Path(layout.run_dir), Path(layout.data_dir)
    for name in ("redis", "nats", *SERVICES):
        for parent in (run_dir, data_dir):
            _give(parent / name, USERS.get(name, 0), 0o700)
    for meeting in (run_dir, run_dir / "metrics"):
        meeting.mkdir(exist_ok=True)
        _set(meeting, 0, GROUP, 0o3771)
    data_dir.chmod(0o711)


def take_back(layout: Layout) -> None:
    """Give to root what the processes of a node in containers had, for those that are root without its rights.

    Raises:
        OSError: this process may not.
    """
    for name in USERS:
        for parent in (Path(layout.run_dir), Path(layout.data_dir)):
            if (parent / name).is_dir():
                _own(parent / name, 0, 0)


def give_settings(layout: Layout) -> None:
    """Let each process read its own.

    Raises:
        OSError: this process may not.
    """
    settings = [layout.settings_file(name) for name in SERVICES]
    _set(settings[0].parent, 0, 0, 0o711)
    for path in (layout.nats_config_file, *settings):
        _set(path, 0, USERS.get(path.stem, 0) and GROUP, 0o640)


def _give(directory: Path, user: int, mode: int) -> None:
    directory.mkdir(exist_ok=True)
    if user:  # root's are so in each kind of node, and have files of other owners: layers
        _own(directory, user, user and GROUP)
    _set(directory, user, user and GROUP, mode)


def _own(directory: Path, user: int, group: int) -> None:
    """Give a directory and all that is in it, unless it is given already: another kind of node has had it.

    CAP_CHOWN is enough: each directory is root's while it is walked. The top gets its group last, so that what
    was cut off is begun anew.
    """
    top = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        found = os.fstat(top)
        if (found.st_uid, found.st_gid) == (user, group):
            return
        _walk(".", top, user, group, found.st_dev)
    finally:
        os.close(top)


def _walk(name: str, parent: int, user: int, group: int, device: int) -> None:
    os.chown(name, 0, -1, dir_fd=parent, follow_symlinks=False)
    inside = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
    try:
        with os.scandir(inside) as entries:
            for entry in list(entries):
                status = entry.stat(follow_symlinks=False)
                if status.st_dev != device:
                    continue  # mounted there, and not of the directory
                if stat.S_ISDIR(status.st_mode):
                    _walk(entry.name, inside, user, group, device)
                else:
                    os.chown(entry.name, user, group, dir_fd=inside, follow_symlinks=False)
        os.chown(inside, user, group)
    finally:
        os.close(inside)


def _set(path: Path, user: int, group: int, mode: int) -> None:
    os.chown(path, user, group)
    path.chmod(mode)
