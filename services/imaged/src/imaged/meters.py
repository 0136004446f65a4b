"""What imaged counts for Prometheus."""

from common.observe import metrics

PULLS = metrics.counter(
    "imaged_pulls_total", "Pulls that ended, as pulled or failed.", ["result"], ["pulled", "failed"]
)
PULL_SECONDS = metrics.histogram(
    "imaged_pull_duration_seconds", "How long pulls took, unpacking included.", buckets=metrics.LONG_S
)
RUNNING = metrics.gauge("imaged_pulls_running", "Pulls that go on now.")
FETCHED = metrics.counter(
    "imaged_fetched_bytes_total", "Bytes of blobs that came from registries and other nodes."
)
IMAGES = metrics.gauge("imaged_images", "Images that are here.")
BLOB_BYTES = metrics.gauge("imaged_blobs_bytes", "Space that blobs take.")
PEER_FETCHED = metrics.counter(
    "imaged_peer_fetched_bytes_total", "Bytes of blobs that came from other nodes."
)
PEER_SERVED = metrics.counter(
    "imaged_peer_served_bytes_total", "Bytes of blobs that other nodes had from here."
)
