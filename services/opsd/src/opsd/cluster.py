"""The other nodes, by NATS: heartbeats and events come in, questions go both ways.

A connection that breaks, or on which our own heartbeat does not come back, is given up and made anew.
"""

import anyio
import msgspec
from anyio.abc import TaskGroup
from nats.aio.msg import Msg
from nats.errors import MaxPayloadError

from common.errors import NotFoundError, ResourceExhaustedError, SlipwayError, UnavailableError
from common.events import subjects
from common.events.bus import Bus, Kept
from common.observe.log import get_logger
from common.turns import Turns
from opsd.agent.answers import Answers
from opsd.agent.pulse import Pulse
from opsd.eventrow import is_progress
from opsd.fleet import Fleet
from opsd.news import Answer, Lists, Question, Vitals, failed, pack, told, unpack
from opsd.settings import Settings

AGAIN_S = 0.5
ASK_S = 10.0
ACT_S = 60.0
"""An action takes its time: a stop has a grace of ten seconds, and a pod has several containers."""
MAX_ASKED = 32
"""Questions of others that are being answered at once."""
ECHO_AFTER = 3
"""Heartbeats of ours that may not come back before NATS is called silent."""
LEAST_ECHO_S = 3.0
SECOND_S = 1.0
_log = get_logger("cluster")


class Cluster:
    """This node among the others."""

    def __init__(self, settings: Settings, fleet: Fleet, pulse: Pulse, answers: Answers) -> None:
        self._settings = settings
        self._fleet = fleet
        self._pulse = pulse
        self._answers = answers
        self._sequence = 0
        """Of the last event that was taken."""
        self._echo_s = 0.0
        self._asking: set[str] = set()
        self._asked_s: dict[str, float] = {}
        self.bus: Bus | None = None

    async def ask(self, node: str, question: Question) -> object:
        """Ask a node, this one without NATS; raises common.errors."""
        if node == self._settings.node:
            return told(await self._answers.answer(question))
        if node not in self._fleet.nodes:
            raise NotFoundError(f"node {node!r} is not known")
        if self.bus is None:
            raise UnavailableError(f"node {node} cannot be asked: NATS is away")
        answer = await self.bus.ask(subjects.ask(node), pack(question), ACT_S if question.seal else ASK_S)
        return told(unpack(answer, Answer))

    async def run(self) -> None:
        """Beat and listen for ever, through any outage of NATS."""
        async with anyio.create_task_group() as group:
            group.start_soon(self._beat)
            group.start_soon(self._refresh, group)
            while True:
                try:
                    bus = await Bus.connect(self._settings.nats_url, attempts=1)
                    await self._listen(bus)
                except Exception as exc:  # noqa: BLE001 - the border: whatever NATS said, the page goes on
                    error = _first(exc)
                    if not isinstance(error, SlipwayError | OSError):
                        _log.exception("cluster.failed")
                    self._fleet.connected(yes=False, error=str(error) or type(error).__name__)
                await anyio.sleep(AGAIN_S)

    async def _listen(self, bus: Bus) -> None:
        self._echo_s = anyio.current_time()
        try:
            await bus.ensure_stream(Kept.of(self._settings))
            async with anyio.create_task_group() as group:
                group.start_soon(self._hear_vitals, bus)
                group.start_soon(self._hear_questions, bus, group)
                group.start_soon(self._follow, bus)
                self.bus = bus
                self._fleet.connected(yes=True)
                why = await self._lost(bus)
                self._fleet.connected(yes=False, error=why)
                group.cancel_scope.cancel()
        finally:
            self.bus = None
            with anyio.CancelScope(shield=True), anyio.move_on_after(1):
                await bus.close()

    async def _lost(self, bus: Bus) -> str:
        limit_s = max(ECHO_AFTER * self._settings.interval_s, LEAST_ECHO_S)
        while True:
            with anyio.move_on_after(SECOND_S):
                await bus.lost.wait()
                return "the connection broke"
            if anyio.current_time() - self._echo_s > limit_s:
                return f"it has not answered for {limit_s:.0f} s"

    async def _beat(self) -> None:
        """Tell how this node is: at its pace, and as soon as a pull moves."""
        while True:
            vitals = await self._pulse.vitals()
            self._fleet.take_vitals(vitals)
            if self.bus:
                await self.bus.tell(subjects.vitals(self._settings.node), pack(vitals))
            with anyio.move_on_after(self._settings.interval_s):
                await self._pulse.pulled.wait()

    async def _hear_vitals(self, bus: Bus) -> None:
        turns = Turns()
        async for message in bus.hear(subjects.vitals()):
            await turns.give()
            try:
                vitals: Vitals = unpack(message.data, Vitals)
            except SlipwayError as exc:
                _log.warning("vitals.unreadable", subject=message.subject, error=exc.message)
                continue
            if vitals.node == self._settings.node:
                self._echo_s = anyio.current_time()
            else:
                self._fleet.take_vitals(vitals)

    async def _follow(self, bus: Bus) -> None:
        last = await bus.last_sequence()
        if not 0 < self._sequence <= last:  # the last ones, for pages that open; also when NATS began anew
            self._sequence = max(0, last - self._settings.max_events)
        wanted = self._sequence + 1
        turns = Turns()
        async for sequence, envelope in bus.follow_from(subjects.ALL, sequence=wanted):
            if sequence > self._sequence:
                self._sequence = sequence
                if is_progress(envelope):  # comes with the vitals, and would push all else off the page
                    continue
                if envelope.node == self._settings.node:
                    self._answers.lister.forget(str(envelope.fields().get("id", "")))
                self._fleet.take_event(sequence, envelope)
                await turns.give()

    async def _hear_questions(self, bus: Bus, group: TaskGroup) -> None:
        slots = anyio.Semaphore(MAX_ASKED)  # of this connection: what ends with it gives none back
        async for message in bus.hear(subjects.ask(self._settings.node)):
            await slots.acquire()
            group.start_soon(self._respond, message, slots)

    async def _respond(self, message: Msg, slots: anyio.Semaphore) -> None:
        try:
            try:
                question: Question = unpack(message.data, Question)
                answer = await self._answers.answer(question)
            except SlipwayError as exc:
                answer = failed(exc)
            try:
                await message.respond(pack(answer))
            except MaxPayloadError:
                too_much = ResourceExhaustedError("the answer is larger than NATS takes")
                await message.respond(pack(failed(too_much)))
        except Exception:  # noqa: BLE001 - the border: one question's trouble is not another's
            _log.exception("question.failed")
        finally:
            slots.release()

    async def _refresh(self, group: TaskGroup) -> None:
        """Ask for the lists of nodes that have none, or old ones; without NATS, for our own all the time."""
        while True:
            self._fleet.look_for_silence()
            for name in self._fleet.forget(self._settings.forget_s, self._settings.node):
                self._asked_s.pop(name, None)
            now_s = anyio.current_time()
            for view in list(self._fleet.nodes.values()):
                mine = view.name == self._settings.node
                asked_s = self._asked_s.get(view.name)
                due = view.stale or asked_s is None or now_s - asked_s > self._settings.refresh_s
                wanted = (due and view.up) or (mine and self.bus is None)
                if wanted and view.name not in self._asking:
                    self._asking.add(view.name)
                    group.start_soon(self._ask_lists, view.name)
            await anyio.sleep(SECOND_S / 2)

    async def _ask_lists(self, node: str) -> None:
        try:
            self._asked_s[node] = anyio.current_time()
            found = await self.ask(node, Question(what="lists"))
            if node in self._fleet.nodes:  # and was not forgotten meanwhile
                self._fleet.take_lists(msgspec.convert(found, Lists))
        except SlipwayError as exc:
            _log.debug("lists.unknown", of=node, error=exc.message)
        except Exception:  # noqa: BLE001 - the border: a node with another version is not all nodes
            _log.exception("lists.failed", of=node)
        finally:
            self._asking.discard(node)


def _first(error: BaseException) -> BaseException:
    """The error inside a group, however deep."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
