"""Settings of shimd."""

from common.settings import CommonSettings, Seconds


class Settings(CommonSettings, frozen=True, kw_only=True):
    """What an operator may choose; every duration is in seconds."""

    shim_cgroup: str = "slipway-shims"
    """The cgroup of all shims, under each hierarchy's root; empty leaves them in the service's own."""
    spawn_timeout_s: Seconds = 10.0
    """How long a fork may take until its shim answers."""
