"""What a node holds, looked at again and again: a leak is a slope."""

import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import anyio
import anyio.to_thread

from bench.pods import pss_kib
from common.errors import UnavailableError
from common.records.keys import outbox_key
from common.records.redis import backlog, connect
from common.sys.mountinfo import mount_points
from node.layout import SERVICES
from tests.support.node import TestNode

EVERY_S = 2.0
OWNERS = ("imaged", "snapshotd", "runtimed")


@dataclass(frozen=True)
class Sample:
    """The node at one moment."""

    at_s: float
    memory_mib: float
    """PSS of the services."""
    fds: int
    """Of the services."""
    mounts: int
    redis_keys: int
    stream_lag: int
    """Events in the outboxes that JetStream has not acknowledged."""


class Sampler:
    """Looks every EVERY_S seconds.

    Args:
        node: at what.
    """

    def __init__(self, node: TestNode) -> None:
        self._node = node
        self.samples: list[Sample] = []

    async def run(self, until: anyio.Event) -> None:
        """Look until told to stop; what is away for the moment is looked at the next time."""
        redis = await connect(str(self._node.state["redis_url"]))
        name = str(self._node.state["node"])
        try:
            while not until.is_set():
                with suppress(UnavailableError, OSError, ValueError, KeyError, ConnectionError):
                    waiting = [(await backlog(redis, outbox_key(name, owner)))[0] for owner in OWNERS]
                    size = int(await redis.dbsize())
                    self.samples.append(await anyio.to_thread.run_sync(self._look, size, sum(waiting)))
                with anyio.move_on_after(EVERY_S):
                    await until.wait()
        finally:
            await redis.aclose()

    def _look(self, redis_keys: int, stream_lag: int) -> Sample:
        pids = [int(pid) for name, pid in self._node.state["pids"].items() if name in SERVICES]
        run = str(self._node.run_dir)
        return Sample(
            at_s=time.monotonic(),
            memory_mib=sum(map(pss_kib, pids)) / 1024,
            fds=sum(_fds(pid) for pid in pids),
            mounts=sum(point.startswith(run) for point, _ in mount_points()),
            redis_keys=redis_keys,
            stream_lag=stream_lag,
        )


def _fds(pid: int) -> int:
    directory = Path(f"/proc/{pid}/fd")
    return sum(1 for _ in directory.iterdir()) if directory.is_dir() else 0


def slope_per_hour(samples: list[Sample], figure: str) -> float:
    """By how much a figure grows in an hour: least squares over the samples; 0 for fewer than three."""
    if len(samples) < 3:
        return 0.0
    times = [sample.at_s - samples[0].at_s for sample in samples]
    values = [float(getattr(sample, figure)) for sample in samples]
    middle, level = sum(times) / len(times), sum(values) / len(values)
    spread = sum((at - middle) ** 2 for at in times)
    return (
        3600 * sum((at - middle) * (value - level) for at, value in zip(times, values, strict=True)) / spread
    )
