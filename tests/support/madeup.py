"""Nodes that are made up: they beat, list their containers and tell events as real ones do, on a real NATS."""

import hashlib
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import anyio
import msgspec
from anyio.abc import TaskStatus
from anyio.from_thread import BlockingPortal, start_blocking_portal

from common.events import schema, subjects
from common.events.bus import Bus
from opsd.news import Answer, Condition, Container, Lists, Machine, Pod, Vitals, pack

BEAT_S = 1.0
GIB = 1 << 30


class MadeUpNode:
    """One such node; made by `madeup_node`."""

    def __init__(self, name: str, count: int) -> None:
        self.name = name
        self._dice = random.Random(name)  # noqa: S311 - the same load each time
        now = time.time() * 1000
        self.pods = [
            Pod(
                id=_id(name, "pod", n),
                name=f"pod-{n}",
                namespace="load",
                state="ready",
                ips=[f"10.1.{n >> 8}.{n & 255}"],
                created=now - n,
            )
            for n in range(count // 2)
        ]
        self.containers = [
            Container(
                id=_id(name, "container", n),
                pod=self.pods[n // 2].id,
                name=f"worker-{n}",
                image=f"registry.example/team/worker:{n % 7}",
                state="running",
                created=now - 3_600_000 - n,
                started=now - 3_600_000 - n,
            )
            for n in range(count)
        ]
        self._bus: Bus | None = None
        self._count = 0

    async def beat(self, bus: Bus) -> None:
        """Tell how it is, for ever."""
        self._bus = bus
        while True:
            await bus.tell(subjects.vitals(self.name), pack(self._vitals()))
            await anyio.sleep(BEAT_S)

    async def answer(self, bus: Bus) -> None:
        """Answer every question with the lists."""
        async for message in bus.hear(subjects.ask(self.name)):
            lists = Lists(node=self.name, at_ns=time.time_ns(), pods=self.pods, containers=self.containers)
            await message.respond(pack(Answer(value=msgspec.to_builtins(lists))))

    async def publish(self, events: Sequence[schema.Event]) -> None:
        """Have events happen now."""
        assert self._bus is not None
        for event in events:
            self._count += 1
            envelope = schema.Envelope(
                id=f"{self.name}:{event.id}:{self._count}",
                at_ns=time.time_ns(),
                node=self.name,
                source="runtimed",
                revision=self._count,
                event=msgspec.Raw(schema.encoder.encode(event)),
            )
            subject = subjects.of_event(self.name, envelope.fields())
            await self._bus.publish(subject, schema.encoder.encode(envelope), envelope.id, "")

    def _vitals(self) -> Vitals:
        dice = self._dice.random
        return Vitals(
            node=self.name,
            at_ns=time.time_ns(),
            interval_s=BEAT_S,
            machine=Machine(
                cores=16,
                cpu=0.3 + dice() / 4,
                load=4,
                memory_total=64 * GIB,
                memory_used=int((30 + dice()) * GIB),
                disk_total=500 * GIB,
                disk_used=200 * GIB,
                pressure={"cpu": dice() * 4, "memory": 0.0, "io": dice()},
                uptime_s=1e6,
                kernel="6.1.0",
            ),
            conditions=[Condition(name="RuntimeReady", ok=True)],
            use=[(each.id, int(dice() * 200), int((1 + dice()) * (64 << 20))) for each in self.containers],
        )


def _id(*words: object) -> str:
    return hashlib.sha256(repr(words).encode()).hexdigest()


class Conductor:
    """Has a made-up node do things, from a thread that waits for other things."""

    def __init__(self, node: MadeUpNode, portal: BlockingPortal) -> None:
        self.node = node
        self._portal = portal

    def publish(self, *events: schema.Event) -> None:
        """Have events happen now; returns when they are stored."""
        self._portal.call(self.node.publish, events)


@contextmanager
def madeup_node(url: str, name: str, count: int) -> Iterator[Conductor]:
    """A node with so many running containers."""
    made = MadeUpNode(name, count)

    async def live(*, task_status: TaskStatus[None]) -> None:
        bus = await Bus.connect(url, attempts=8)
        await bus.ensure_stream()
        async with anyio.create_task_group() as group:
            group.start_soon(made.answer, bus)
            group.start_soon(made.beat, bus)
            await anyio.sleep(0)
            task_status.started()

    with start_blocking_portal() as portal:
        future, _ = portal.start_task(live)
        try:
            yield Conductor(made, portal)
        finally:
            future.cancel()
