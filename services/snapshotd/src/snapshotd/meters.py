"""What snapshotd counts for Prometheus; unpacked bytes by the seconds of unpacking are its throughput."""

from common.observe import metrics

UNPACKS = metrics.counter(
    "snapshotd_unpacks_total",
    "Layers whose unpacking ended, as unpacked or failed.",
    ["result"],
    ["unpacked", "failed"],
)
UNPACK_SECONDS = metrics.histogram(
    "snapshotd_unpack_duration_seconds", "How long layers took to unpack and sync.", buckets=metrics.LONG_S
)
UNPACKED_BYTES = metrics.counter("snapshotd_unpacked_bytes_total", "Bytes of files that were unpacked.")
LAYERS = metrics.gauge("snapshotd_layers", "Layers that are here.")
SNAPSHOTS = metrics.gauge("snapshotd_snapshots", "Snapshots that are here.")
