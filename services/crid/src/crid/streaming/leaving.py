"""Attachments whose client has left while its input was still on the way to the container."""

from collections import Counter

from common.clients.shimstream import ShimStream
from common.observe.log import get_logger

MAX_OF_CONTAINER = 4
MAX_ALL = 64
_log = get_logger("streaming")


class Leaving:
    """Streams that close once their container has read all, which may be never.

    Each holds a descriptor, a connection of the shim and up to 1 MiB. So only the latest are kept.
    """

    def __init__(self) -> None:
        self._held: list[tuple[str, ShimStream]] = []

    async def take(self, container_id: str, stream: ShimStream) -> None:
        """Close a stream after its input; of too many the oldest loses what is not sent."""
        await stream.close()
        self._held = [each for each in self._held if not each[1].closed]
        self._held.append((container_id, stream))
        busiest, count = Counter(owner for owner, _ in self._held).most_common(1)[0]
        if count > MAX_OF_CONTAINER or len(self._held) > MAX_ALL:
            oldest = next(each for each in self._held if each[0] == busiest)
            self._held.remove(oldest)
            oldest[1].abort()
            _log.info("stream.input_dropped", container_id=busiest, attachments=count)
