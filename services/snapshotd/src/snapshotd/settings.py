"""Settings of snapshotd."""

from typing import Literal

from common.settings import CommonSettings, Count, Number, Seconds


class Settings(CommonSettings, frozen=True, kw_only=True):
    """What an operator may choose; every duration is in seconds."""

    snapshotter: Literal["overlayfs", "native", "erofs"] = "overlayfs"
    """The one for requests that name none. native copies, and works where overlayfs does not; with erofs, new layers are kept as EROFS images only."""
    max_unpacks: Count = 3
    """Layers unpacked at the same time."""
    unpack_timeout_s: Seconds = 1800.0
    """The most that one layer may take."""
    layer_max_entries: Count = 2_000_000
    """Bound on the files, directories and links of a layer."""
    layer_max_bytes: Count = 128 << 30
    """Bound on a layer's uncompressed tar, and on the sum of its files' sizes with holes counted."""
    sync: bool = True
    """Write a layer out to disk before its record says that it is there."""
    writable_max_bytes: Number = 0
    """The most that the writable directory of a snapshot may take, held by the project quotas of data_dir's filesystem; 0 for no bound. Where there are none, snapshotd does not start."""
    usage_interval_s: Seconds = 5.0
    """How often it is counted what snapshots and unfinished layers take; rarer where that would take more than a fifth of a core."""
    lazy_read_timeout_s: Seconds = 60.0
    """The longest that a read of a layer whose bytes still come waits for them; then it fails with EIO."""
    lazy_cgroup: str = "slipway-lazy"
    """The cgroup of the processes that serve such layers, under each hierarchy's root; empty leaves them in the service's own."""
