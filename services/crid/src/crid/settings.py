"""Settings of crid."""

from common.settings import CommonSettings


class Settings(CommonSettings, frozen=True, kw_only=True):
    """What crid can be told."""

    socket_mode: int = 0o660
    """Mode of the CRI socket."""
