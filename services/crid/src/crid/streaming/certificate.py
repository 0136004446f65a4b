"""The certificate of the streaming server, loaded again when its files change; connections that stand keep theirs."""

import ssl
from pathlib import Path

import anyio
import anyio.to_thread
from anyio.streams.tls import TLSListener

from common.errors import InvalidArgumentError
from common.observe.log import get_logger

CHECK_S = 5.0
_log = get_logger("streaming")


class Certificate:
    """A chain and its key, as the files were when they were looked at last."""

    def __init__(self, cert: str, key: str) -> None:
        """Load both.

        Raises:
            InvalidArgumentError: one is missing, or they do not work together.
        """
        if not cert or not key:
            raise InvalidArgumentError(
                "stream_tls_cert and stream_tls_key: one is set and the other is empty"
            )
        self._cert = cert
        self._key = key
        self._seen = self._look()
        self.context = self._load()

    async def keep_fresh(self, listener: TLSListener) -> None:
        """Give the listener each new pair of files for the clients that come from then on; until cancelled.

        A pair that does not work, because only one of them is written yet, leaves the old in use.
        """
        while True:
            await anyio.sleep(CHECK_S)
            try:
                if await anyio.to_thread.run_sync(self._changed):
                    listener.ssl_context = self.context
                    _log.info("stream.certificate_loaded", cert=self._cert)
            except InvalidArgumentError as exc:
                _log.warning("stream.certificate_refused", error=exc.message)

    def _changed(self) -> bool:
        now = self._look()
        if now == self._seen:
            return False
        self._seen = now
        self.context = self._load()
        return True

    def _look(self) -> list[tuple[int, int, int]]:
        """What tells that a file was written or replaced, also through a link; empty when one is not there."""
        try:
            stats = [Path(path).stat() for path in (self._cert, self._key)]
        except OSError:
            return []
        return [(stat.st_ino, stat.st_size, stat.st_mtime_ns) for stat in stats]

    def _load(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            context.load_cert_chain(self._cert, self._key)
        except OSError as exc:
            raise InvalidArgumentError(
                f"stream_tls_cert {self._cert}, stream_tls_key {self._key}: {exc}"
            ) from exc
        return context
