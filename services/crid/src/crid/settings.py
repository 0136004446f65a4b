"""Settings of crid."""

from common.settings import CommonSettings, Port, Seconds


class Settings(CommonSettings, frozen=True, kw_only=True):
    """What an operator may choose; every duration is in seconds."""

    socket_mode: int = 0o660
    """Mode of the CRI socket, 0o660 for the kubelet's group."""
    stream_address: str = "127.0.0.1"
    """Where exec, attach and port-forward are served; the kubelet on this node connects there."""
    stream_port: Port = 0
    """0 is any free port."""
    stream_tls_cert: str = ""
    """PEM file of the certificate chain; empty for plain http."""
    stream_tls_key: str = ""
    """PEM file of its key."""
    stream_idle_timeout_s: Seconds = 4 * 3600
    """A connection on which nothing moves for so long is closed."""
    stream_creation_timeout_s: Seconds = 30
    """How long a client may take to open its streams."""
