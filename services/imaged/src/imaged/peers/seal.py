"""Proof that a message is from a node of the cluster: HMAC-SHA256 with the secret that all of them have."""

import hashlib
import hmac
from pathlib import Path

import msgspec

from common.clock import now_ns
from common.errors import FailedPreconditionError, PermissionDeniedError

FRESH_NS = 30_000_000_000
LEAST_CHARACTERS = 32


class Seals:
    """Makes and checks seals.

    Args:
        secret: of the cluster.
    """

    def __init__(self, secret: str) -> None:
        self._secret = secret.encode()

    @classmethod
    def read(cls, path: Path) -> "Seals":
        """With the secret of a file. Blocks.

        Raises:
            FailedPreconditionError: it cannot be read, others may read it, or it is short.
        """
        try:
            mode, secret = path.stat().st_mode, path.read_text().strip()
        except (OSError, ValueError) as exc:
            raise FailedPreconditionError(f"peer_secret_file {path}: cannot be read: {exc}") from exc
        if mode & 0o077:
            raise FailedPreconditionError(
                f"peer_secret_file {path}: others may read it (mode {mode & 0o777:o})"
            )
        if len(secret) < LEAST_CHARACTERS:
            raise FailedPreconditionError(
                f"peer_secret_file {path}: {len(secret)} characters, want {LEAST_CHARACTERS} or more"
            )
        return cls(secret)

    def seal(self, *words: str | int) -> str:
        """A seal on words, whose order and borders count."""
        return hmac.new(self._secret, msgspec.msgpack.encode(words), hashlib.sha256).hexdigest()

    def check(self, seal: str, at_ns: int, *words: str | int) -> None:
        """Compare a seal on words and a time.

        Raises:
            PermissionDeniedError: it is another, or was made too long ago.
        """
        if not hmac.compare_digest(seal.encode(), self.seal(*words, at_ns).encode()):
            raise PermissionDeniedError(
                "the seal is wrong: give all nodes of the cluster the same peer_secret_file"
            )
        if abs(now_ns() - at_ns) > FRESH_NS:
            raise PermissionDeniedError(
                "the seal is old, or the clocks of the nodes differ by more than 30 s"
            )
