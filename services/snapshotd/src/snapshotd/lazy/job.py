"""What a server is told, and what it says first."""

import msgspec


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One layer to serve."""

    digest: str
    """The blob's."""
    size: int
    toc_offset: int
    toc_digest: str
    socket: str
    """Of imaged; its directory becomes all that the server can name."""
    timeout_s: float
    """The longest that a read waits for its bytes."""
    max_entries: int
    max_bytes: int
    # later than the first keepers, which give their job to newer servers, too
    toc_bytes: int = 0
    """Compressed; 0 for all from its offset on."""
    media_type: str = ""


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What the first server says of the table of contents; nothing else when there is an error."""

    error: str = ""
    implied: list[str] = []
    """As LayerRecord has them."""
    size_bytes: int = 0
    """Sum of the files' sizes."""
    inodes: int = 0
    prefetch_bytes: int = 0
