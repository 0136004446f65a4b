"""Actions across nodes: sealed with the token, which itself never travels on NATS.

A seal is HMAC-SHA256 of what is asked, of whom, when, and once. A node refuses one that is old or was seen.
"""

import hashlib
import hmac
import secrets
import time

import msgspec

from common.clock import now_ns
from common.errors import PermissionDeniedError
from opsd.news import Question

FRESH_NS = 30_000_000_000


def sealed(question: Question, node: str, token: str) -> Question:
    """The question with a seal for one node."""
    question.at_ns, question.nonce = now_ns(), secrets.token_hex(16)
    question.seal = _seal(question, node, token)
    return question


class Seals:
    """Checks what comes in, for this node."""

    def __init__(self, node: str, token: str) -> None:
        self._node = node
        self._token = token
        self._seen: dict[str, int] = {}
        self._began_ns = time.monotonic_ns()

    def check(self, question: Question) -> None:
        """Let it pass once.

        Raises:
            PermissionDeniedError: it is not sealed with this node's token, is old, or came before.
        """
        wanted = _seal(question, self._node, self._token)
        if not hmac.compare_digest(question.seal.encode(), wanted.encode()):
            raise PermissionDeniedError(
                f"node {self._node} has another token: give all nodes of the cluster the same one"
            )
        now, age_ns = time.monotonic_ns(), now_ns() - question.at_ns
        if abs(age_ns) > FRESH_NS:
            raise PermissionDeniedError(
                f"node {self._node}: the clocks of the nodes differ by more than 30 s"
            )
        self._seen = {nonce: at for nonce, at in self._seen.items() if now - at < 2 * FRESH_NS}
        # what was asked before we began may have been done by who was here before
        if question.nonce in self._seen or age_ns > now - self._began_ns:
            raise PermissionDeniedError("this was asked before")
        self._seen[question.nonce] = now


def _seal(question: Question, node: str, token: str) -> str:
    options = sorted(question.options.items())
    told = msgspec.json.encode([node, question.what, question.id, options, question.at_ns, question.nonce])
    return hmac.new(token.encode(), told, hashlib.sha256).hexdigest()
