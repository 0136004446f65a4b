"""Why one host did not give what was asked."""

import ssl

import urllib3

from common.errors import SlipwayError


class Refused(Exception):  # noqa: N818 - not an error by itself: the next host may do better
    """One host did not give what was asked."""

    def __init__(self, error: SlipwayError, *, transient: bool = False) -> None:
        super().__init__(error.message)
        self.error = error
        self.transient = transient
        """Whether the connection was cut or the registry was busy."""


class Told:
    """What the hosts said that gave nothing: the registry itself has the last word, wherever in their order it is."""

    def __init__(self) -> None:
        self.error: SlipwayError | None = None
        self._own = False

    def by(self, error: SlipwayError, *, stands_in: bool) -> None:
        """One host, which is a mirror or a neighbour or else the registry itself."""
        if not (stands_in and self._own):
            self.error = error
        self._own = self._own or not stands_in


def reason(exc: Exception) -> str:  # noqa: PLR0911 - a table
    """A failed request in a few words, without object addresses."""
    inner = exc.reason if isinstance(exc, urllib3.exceptions.MaxRetryError) else exc
    match inner:
        case urllib3.exceptions.SSLError() | ssl.SSLError():
            return f"cannot be trusted or speaks no TLS: {inner}"
        case urllib3.exceptions.NameResolutionError():
            return "is not known by DNS"
        case urllib3.exceptions.NewConnectionError():
            return f"cannot be reached: {str(inner).rpartition(': ')[2]}"
        case urllib3.exceptions.ConnectTimeoutError():
            return "does not answer (connect timeout)"
        case urllib3.exceptions.ReadTimeoutError() | TimeoutError():
            return "sends nothing (stalled)"
        case urllib3.exceptions.IncompleteRead() | urllib3.exceptions.ProtocolError():
            return "cut the connection"
        case _:
            return f"failed: {inner}"
