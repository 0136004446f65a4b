"""Sockets and directories of the services of a node."""

from pathlib import Path

from common.settings import CommonSettings

RANGES_SOCKET = "imaged/ranges/ranges.sock"
"""Below the run directory: where imaged brings bytes of blobs that still come, to the servers of layers."""

SYSTEMD, CONTAINERS = 0, -1
"""In node.json in the place of a supervisor's pid: no process of ours supervises a node of units or containers."""


def socket_path(settings: CommonSettings, daemon: str) -> str:
    """The socket on which a daemon of this node answers."""
    return f"{settings.run_dir}/{daemon}.sock"


def metrics_path(settings: CommonSettings, daemon: str) -> str:
    """The socket on which a daemon shows its metrics."""
    return f"{settings.run_dir}/metrics/{daemon}.sock"


def own_dirs(settings: CommonSettings, daemon: str) -> tuple[Path, Path]:
    """Make and return a daemon's own run and data directories, mode 0700."""
    dirs = Path(settings.run_dir) / daemon, Path(settings.data_dir) / daemon
    for path in dirs:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return dirs
