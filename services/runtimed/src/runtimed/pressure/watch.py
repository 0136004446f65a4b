"""Looks at the node and at each running container, and tells what is raised and what is cleared."""

import time
from collections.abc import Awaitable, Callable, Collection

import anyio
import anyio.to_thread

from common.errors import NotFoundError, SlipwayError
from common.events.schema import (
    ContainerPressureCleared,
    ContainerPressureRaised,
    Event,
    NodePressureCleared,
    NodePressureRaised,
)
from common.observe.log import get_logger
from runtimed import meters
from runtimed.pressure.level import Level, News
from runtimed.pressure.trigger import MemoryTrigger
from runtimed.readings import pressure
from runtimed.readings.pressure import CgroupWatch, Reading
from runtimed.record import ContainerRecord, ContainerState
from runtimed.use.parts import Parts

NODE = ""
_log = get_logger("pressure")
Key = tuple[str, str]
"""The container (NODE for the node) and the resource."""


class PressureWatch:
    """The pressure of this node; an event that cannot be told is told after the next look."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._levels: dict[Key, Level] = {}
        self._cgroups: dict[str, CgroupWatch] = {}
        self._first = True

    async def run(self) -> None:
        """Look for ever; sooner when the kernel says that processes wait for memory."""
        settings = self._parts.settings
        trigger = MemoryTrigger(settings.pressure_memory_percent)
        try:
            while True:
                urgent = await trigger.wait(settings.pressure_every_s)
                try:
                    await self.look(urgent=urgent)
                except Exception:  # noqa: BLE001 - the border: a failed look must not end the service
                    _log.exception("pressure.failed")
        finally:
            trigger.close()

    async def look(self, *, urgent: bool = False) -> None:
        """Read all once.

        Args:
            urgent: the kernel has just said that memory is past its threshold, which an average shows later.
        """
        records = {r.id: r for r in self._parts.containers.store.all() if r.state is ContainerState.RUNNING}
        self._forget(records.keys())
        node, containers = await anyio.to_thread.run_sync(self._read, list(records.values()))
        for reading in node:
            value = (
                max(reading.value, reading.threshold)
                if urgent and reading.resource == "memory"
                else reading.value
            )
            meters.PRESSURE_PERCENT.labels(reading.resource).set(value)
            await self._step(NODE, reading._replace(value=value), self._tell_node)
        for container_id, found in containers.items():
            for reading in found:
                await self._step(container_id, reading, self._tell_container)

    def _read(self, records: list[ContainerRecord]) -> tuple[list[Reading], dict[str, list[Reading]]]:
        settings, found = self._parts.settings, {}
        fresh, self._first = not self._first, False
        for record in records:
            if record.cgroup is not None:
                watch = self._cgroups.setdefault(record.id, CgroupWatch(fresh=fresh))
                found[record.id] = watch.look(record.cgroup, settings)
        return pressure.of_node(settings), found

    async def _step(
        self, scope: str, reading: Reading, tell: Callable[[str, Reading, News, float], Awaitable[None]]
    ) -> None:
        key, now = (scope, reading.resource), time.monotonic()
        before = self._levels.get(key, Level())
        after, news = before.step(reading.value, reading.threshold, now, self._parts.settings.pressure_calm_s)
        if news is not None:
            try:
                await tell(scope, reading, news, now - (before.raised_at or now))
            except SlipwayError as exc:
                _log.warning("pressure.untold", id=scope, resource=reading.resource, error=exc.message)
                return
            _log.warning(
                f"pressure.{news}", id=scope, resource=reading.resource, value=round(reading.value, 1)
            )
        self._levels[key] = after

    async def _tell_node(self, _scope: str, reading: Reading, news: News, lasted_s: float) -> None:
        facts = {"value": round(reading.value, 2), "threshold": reading.threshold}
        raised = news is News.RAISED
        fact: Event = (
            NodePressureRaised(id=reading.resource, where=reading.where, **facts)
            if raised
            else NodePressureCleared(
                id=reading.resource, where=reading.where, duration_ms=round(lasted_s * 1000), **facts
            )
        )
        await self._parts.containers.store.emit(fact)
        self._parts.evidence.add_node(resource=reading.resource, raised=raised, **facts)
        meters.PRESSURE.labels(reading.resource).set(raised)

    async def _tell_container(self, container_id: str, reading: Reading, news: News, lasted_s: float) -> None:
        record = self._parts.containers.store.find(container_id)
        if record is None:
            return
        name, value = reading.resource, round(reading.value, 2)
        facts = {"value": value, "threshold": reading.threshold}
        fact: Event = (
            ContainerPressureRaised(id=container_id, sandbox_id=record.sandbox_id, resource=name, **facts)
            if news is News.RAISED
            else ContainerPressureCleared(
                id=container_id,
                sandbox_id=record.sandbox_id,
                resource=name,
                duration_ms=round(lasted_s * 1000),
                **facts,
            )
        )
        self._parts.evidence.add(container_id, "pressure", resource=name, raised=news is News.RAISED, **facts)
        try:
            await self._parts.containers.amend(container_id, fact)
        except NotFoundError:
            return  # it was removed meanwhile
        if news is News.RAISED:
            meters.CONTAINER_PRESSURE.labels(name).inc()

    def _forget(self, running: Collection[str]) -> None:
        """Drop the containers that have ended: their pressure went with them."""
        for key in [key for key in self._levels if key[0] != NODE and key[0] not in running]:
            del self._levels[key]
        for container_id in self._cgroups.keys() - set(running):
            del self._cgroups[container_id]
