"""This node's heartbeat: the machine, the use by containers and the pulls, each read at its own pace."""

import anyio
import anyio.to_thread

from common.api.images.v1 import images_pb2 as images
from common.clients.imaged import ImagedClient
from common.clients.runtimed import RuntimedClient
from common.clock import now_ns
from common.errors import SlipwayError
from common.observe.log import get_logger
from opsd.agent.hardware import MachineReader
from opsd.news import Condition, Layer, Pull, Vitals
from opsd.settings import Settings

PULLING_S = 0.3
"""Between two looks at pulls while there are some."""
REST = 4
"""After reading the use of all containers, rest for so many times as long as that took: they may be many."""
MAX_REST_S = 10.0
_STATES = {
    images.LAYER_STATE_WAITING: "waiting",
    images.LAYER_STATE_FETCHING: "fetching",
    images.LAYER_STATE_UNPACKING: "unpacking",
    images.LAYER_STATE_DONE: "done",
}
_log = get_logger("pulse")


class Pulse:
    """Reads this node for ever; `vitals` is what it is now."""

    def __init__(self, settings: Settings, runtimed: RuntimedClient, imaged: ImagedClient) -> None:
        self._settings = settings
        self._runtimed = runtimed
        self._imaged = imaged
        self._machine = MachineReader(settings.data_dir)
        self._use: list[tuple[str, int, int]] = []
        self._conditions: list[Condition] = []
        self._problem = ""
        self._pulls: list[Pull] = []
        self.pulled = anyio.Event()
        """Set when a pull moved; replaced each time."""
        self.address = ""

    async def vitals(self) -> Vitals:
        """A heartbeat."""
        return Vitals(
            node=self._settings.node,
            at_ns=now_ns(),
            interval_s=self._settings.interval_s,
            address=self.address,
            machine=await anyio.to_thread.run_sync(self._machine.read),
            conditions=self._conditions,
            pulls=self._pulls,
            use=self._use,
            problem=self._problem,
        )

    async def watch_runtime(self) -> None:
        """Read conditions and use for ever."""
        while True:
            start = anyio.current_time()
            try:
                await self._read_runtime()
                self._problem = ""
            except SlipwayError as exc:
                self._problem = exc.message
                self._use = []
            took_s = anyio.current_time() - start
            await anyio.sleep(max(self._settings.interval_s - took_s, min(took_s * REST, MAX_REST_S)))

    async def watch_pulls(self) -> None:
        """Look at running pulls for ever."""
        while True:
            try:
                found = [_pull(progress) for progress in await self._imaged.pulls()]
            except SlipwayError as exc:
                _log.debug("pulls.unknown", error=exc.message)
                found = []
            if found != self._pulls:
                self._pulls = found
                pulled, self.pulled = self.pulled, anyio.Event()
                pulled.set()
            await anyio.sleep(PULLING_S if found else self._settings.interval_s / 2)

    async def _read_runtime(self) -> None:
        status = (await self._runtimed.status()).status
        self._conditions = [Condition(name=c.type, ok=c.status, message=c.message) for c in status.conditions]
        stats = await self._runtimed.overview_stats()
        self._use = [
            (
                each.attributes.id,
                each.cpu.usage_nano_cores.value // 1_000_000,
                each.memory.working_set_bytes.value,
            )
            for each in stats
            if each.cpu.timestamp
        ]


def _pull(progress: images.PullProgress) -> Pull:
    return Pull(
        reference=progress.reference,
        left_s=progress.left_s if progress.HasField("left_s") else None,
        layers=[
            Layer(
                digest=layer.digest,
                size=layer.size_bytes,
                fetched=layer.fetched_bytes,
                state=_STATES.get(layer.state, ""),
            )
            for layer in progress.layers
        ],
    )
