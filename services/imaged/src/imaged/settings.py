"""Settings of imaged."""

from typing import Annotated, Literal

import msgspec

from common.settings import Address, CommonSettings, Count, Number, Seconds

Age = Annotated[float, msgspec.Meta(ge=0)]
ProxyUrl = Annotated[
    str,
    msgspec.Meta(
        pattern="^(|https?://[^/]+/?)$", description="http://HOST:PORT or https://HOST:PORT; empty for none"
    ),
]
Host = Annotated[
    str,
    msgspec.Meta(
        pattern="^(|localhost|[a-zA-Z0-9-]*[.:][a-zA-Z0-9.:-]*)$",
        description="HOST or HOST:PORT, with a dot or a port, or localhost; empty for none",
    ),
]


class Settings(CommonSettings, frozen=True, kw_only=True):
    """What an operator may choose; every duration is in seconds."""

    certs_dir: str = "/etc/slipway/certs.d"
    """Where hosts.toml files are, as containerd lays them out."""
    max_downloads: Count = 6
    """Blobs and pieces of large blobs that are fetched at once, over all pulls."""
    parallel_ranges: Count = 4
    """Pieces of 16 MiB that are fetched at once of a blob of 32 MiB or more, where its registry answers ranges; 1 for a stream."""
    max_bytes_per_s: Number = 0
    """The most that all downloads of blobs take together; 0 for no cap."""
    connect_timeout_s: Seconds = 30.0
    """How long a registry may take to accept a connection."""
    stall_timeout_s: Seconds = 60.0
    """A connection that brings no byte for this long is cut and resumed elsewhere or again."""
    retry_wait_s: Seconds = 0.2
    """First wait after a failed try; each further one is three times as long."""
    max_retry_after_s: Seconds = 20.0
    """The longest that a registry's Retry-After is followed."""
    partial_max_age_s: Seconds = 86_400.0
    """Unfinished and unreferenced blobs older than this are removed; of any age when less than a tenth of their disk is free."""
    pinned_images: tuple[str, ...] = ()
    """Globs over repo tags and digests of images that a kubelet must not collect."""
    max_load_bytes: Count = 64 << 30
    """The most that the files of an archive given to `load` may have together."""
    gc_max_bytes: Number = 0
    """Each hour, images that nothing uses go until blobs and layers of images and running work take no more, first those that were not used for the longest time; 0 for never."""
    gc_max_age_s: Age = 0.0
    """Each hour, images that nothing uses and that were last used longer ago go; 0 for never. With gc_max_bytes: only those."""
    gc_keep_last: Number = 0
    """So many of the newest images of each repository stay."""
    docker_config: str = ""
    """A config.json of docker with logins for requests that bring none; empty for none. Not below /root or /home, which the service does not see."""
    http_proxy: ProxyUrl = ""
    """URL of the proxy for registries that speak plain HTTP; empty for none."""
    https_proxy: ProxyUrl = ""
    """URL of the proxy for all others."""
    no_proxy: tuple[str, ...] = ()
    """Hosts, domains with all below them, addresses and networks that are reached directly, with a port those alone; loopback always is."""
    short_names: Host = "docker.io"
    """The registry that names without one belong to; empty refuses to pull them."""
    signature_policy: str = ""
    """A policy.json (containers-policy.json(5), docs/trust.md) that says whose images may be here; empty lets all pass."""
    peer_address: Address = ""
    """Where this node gives blobs to the other nodes of its NATS cluster, as HOST:PORT that they reach; empty for neither giving nor asking."""
    peer_secret_file: str = ""
    """A file with 32 characters or more that all nodes of the cluster have, and nobody else; wanted with peer_address."""
    peer_max_bytes_per_s: Number = 0
    """The most that other nodes take together; 0 for no cap."""
    peer_max_connections: Count = 8
    """Other nodes' requests that are served at once; further ones find their blobs elsewhere."""
    peer_answer_s: Seconds = 0.1
    """How long a pull waits for another node to say that it has a blob, before it asks the registry."""
    lazy: Literal["off", "on"] = "off"
    """on: containers may start before the layers of an image are here, where these are eStargz or zstd:chunked (docs/lazy.md)."""
    lazy_handlers: tuple[str, ...] = ()
    """With lazy off: runtime handlers that pulls of a kubelet are lazy for, by the name that it sends along."""
    lazy_min_bytes: Count = 4 << 20
    """Smaller layers are here before a container starts."""
    lazy_fill_delay_s: Seconds = 10.0
    """How long after a pull the bytes that nobody reads are left, so that a container has the link for its start."""
