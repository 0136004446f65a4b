"""What shimd counts for Prometheus."""

from common.observe import metrics

SHIMS = metrics.gauge("shimd_shims", "Shims by whether their process lives.", ["alive"])
SPAWN_SECONDS = metrics.histogram("shimd_spawn_duration_seconds", "How long shims took to fork and listen.")
BURIED = metrics.counter("shimd_buried_total", "Shims that died before their container was removed.")
