"""Settings of opsd."""

from common.settings import Address, CommonSettings, Count, Seconds


class Settings(CommonSettings, frozen=True, kw_only=True):
    """What an operator may choose; every duration is in seconds."""

    http_address: Address = "127.0.0.1:9440"
    """Where the page is, as HOST:PORT; RUN_DIR/opsd/http.sock answers too. Empty for that alone."""
    hosts: tuple[str, ...] = ()
    """Names by which browsers may call the page, besides localhost and IP addresses."""
    token: str = ""
    """Who has it may read logs and processes, stop and remove; the same on all nodes, so that one page acts on each. Empty: DATA_DIR/opsd/token, made at the first start, for this node alone."""
    anonymous: bool = True
    """Whether the page, but no logs and processes, may be read without the token."""
    interval_s: Seconds = 2.0
    """Between two readings of this node."""
    refresh_s: Seconds = 60.0
    """Between two lists of a node's pods and containers, which events change meanwhile."""
    forget_s: Seconds = 86_400.0
    """A node that was not heard of for so long is shown no more, until it is heard again."""
    max_spans: Count = 20_000
    """Spans that are kept in memory; the traces that were told of longest ago go first."""
    max_span_bytes: Count = 33_554_432
    """What these spans may take, in bytes."""
    max_events: Count = 2_000
    """Events that are kept in memory for pages that open; older ones are read from JetStream."""
