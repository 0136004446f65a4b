"""Who owns what on a node whose processes are containers: those that need no privileges are users of their own.

They meet the others at sockets of one group, in directories where that group may make some: sticky, so that nobody
removes another's, and setgid, so that each has the group.
"""

import os
from pathlib import Path

from node.layout import SERVICES, Layout

GROUP = 65532
USERS = {"imaged": 65532, "nats": 65531, "redis": 65530}
"""The rest is root's, with few capabilities."""


def part(layout: Layout) -> None:
    """Give each process what is its own; what it finds there is its own already.

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
    settings = [layout.settings_file(name) for name in SERVICES]
    _set(settings[0].parent, 0, 0, 0o711)
    for path in (layout.nats_config_file, *settings):
        _set(path, 0, USERS.get(path.stem, 0) and GROUP, 0o640)


def _give(directory: Path, user: int, mode: int) -> None:
    directory.mkdir(exist_ok=True)
    _set(directory, user, user and GROUP, mode)


def _set(path: Path, user: int, group: int, mode: int) -> None:
    os.chown(path, user, group)
    path.chmod(mode)
