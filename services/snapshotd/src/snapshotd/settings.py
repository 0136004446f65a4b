"""Settings of snapshotd."""

from common.settings import CommonSettings
from snapshotd.records import NATIVE, OVERLAYFS


class Settings(CommonSettings, frozen=True, kw_only=True):
    """What snapshotd can be told."""

    snapshotter: str = OVERLAYFS
    """The one for requests that name none: overlayfs or native."""
    max_unpacks: int = 3
    """Layers unpacked at the same time."""
    unpack_timeout_s: float = 1800.0
    layer_max_entries: int = 2_000_000
    layer_max_bytes: int = 128 << 30
    """Bound on a layer's uncompressed tar, and on the sum of its files' sizes with holes counted."""
    sync: bool = True
    """Write a layer out to disk before its record says that it is there."""
    usage_interval_s: float = 10.0
    """Age of the usage cache; it grows by itself when counting takes long."""

    def __post_init__(self) -> None:
        if self.snapshotter not in (OVERLAYFS, NATIVE):
            message = f"snapshotter {self.snapshotter!r}: want {OVERLAYFS} or {NATIVE}"
            raise ValueError(message)
        if self.max_unpacks < 1:
            message = f"max_unpacks {self.max_unpacks}: want 1 or more"
            raise ValueError(message)
