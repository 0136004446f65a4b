"""A peer as a place to fetch blobs from; it may fail at any time, and its registry is asked after it."""

from collections.abc import Mapping

import urllib3
from urllib3.exceptions import HTTPError

from common.clock import now_ns
from common.errors import UnknownError
from imaged.fetching.interruptible import Stop
from imaged.fetching.refusal import Refused, reason
from imaged.peers.neighbours import Peer
from imaged.peers.seal import Seals
from imaged.peers.server import PATH, PEER_HEADER, REPOSITORY_HEADER, request_words

CONNECT_S = 2.0
STALL_S = 5.0
LEAST_BYTES_PER_S = 256 << 10
"""A peer that gives less is left."""


class PeerSource:
    """See `imaged.adapters.blobs.Source`. Neither redirects nor proxies are followed, and no credentials are sent.

    Args:
        peer: the other node.
        node: this one.
        repository: registry and path.
        image: for messages.
        seals: of the cluster.
    """

    least_bytes_per_s = LEAST_BYTES_PER_S
    stands_in = True

    def __init__(self, peer: Peer, node: str, repository: str, image: str, seals: Seals) -> None:
        self.name = f"peer {peer.node}"
        self._peer, self._node, self._repository, self._image = peer, node, repository, image
        self._seals = seals
        self._pool = urllib3.PoolManager(timeout=urllib3.Timeout(connect=CONNECT_S, read=STALL_S))

    def open(
        self, method: str, path: str, headers: Mapping[str, str], stop: Stop
    ) -> urllib3.BaseHTTPResponse:
        """Ask once."""
        digest, at_ns = path.removeprefix("blobs/"), now_ns()
        words = request_words(self._node, self._peer.node, self._repository, digest)
        sealed = {
            REPOSITORY_HEADER: self._repository,
            PEER_HEADER: f"{self._node} {at_ns} {self._seals.seal(*words, at_ns)}",
        }
        if stop.is_set():
            raise Refused(self.unavailable("was not asked"))
        try:
            response = self._pool.request(
                method,
                f"http://{self._peer.address}{PATH}{digest}",
                headers={**headers, **sealed},
                preload_content=False,
                decode_content=False,
                redirect=False,
                retries=False,
            )
        except (HTTPError, OSError) as exc:
            raise Refused(self.unavailable(reason(exc))) from exc
        if response.status not in (200, 206):
            response.close()
            raise Refused(self.unavailable(f"answered {response.status}"))
        return response

    def unavailable(self, why: str) -> UnknownError:
        return UnknownError(f"image {self._image}: {self.name} {why}")

    def close(self) -> None:
        self._pool.clear()
