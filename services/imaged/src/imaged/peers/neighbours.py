"""Who has a blob: asked of all nodes over NATS when it is wanted, answered by those that can give it now.

    node b ─ question: repository, digest ─→ all        node a ─ answer: address ─→ node b

Both are sealed. A node answers only for a repository that it has an image of with this blob in it.
"""

import secrets
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, TypeVar

import anyio
import msgspec

from common.clock import now_ns
from common.errors import PermissionDeniedError
from common.events import subjects
from common.events.bus import Bus
from common.observe.log import get_logger
from imaged.peers.seal import Seals

if TYPE_CHECKING:
    from nats.aio.msg import Msg

MAX_ANSWERS = 2
"""As many nodes are asked for a blob before its registry; the first to answer have time."""
MAX_ASKED = 1000
"""Questions of this node that wait for answers at once."""
AGAIN_S = 2.0
SILENT_S = 60.0
"""Between two complaints of messages that are none of the cluster's."""
_Text = Annotated[str, msgspec.Meta(max_length=512)]
_Message = TypeVar("_Message", "Question", "Answer")
_log = get_logger("peers")


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """Who has a blob of a repository?"""

    node: _Text
    number: _Text
    repository: _Text
    digest: _Text
    at_ns: int
    seal: _Text = ""

    @property
    def words(self) -> tuple[str, ...]:
        return "question", self.node, self.number, self.repository, self.digest


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """This node has."""

    node: _Text
    number: _Text
    address: _Text
    at_ns: int
    seal: _Text = ""

    @property
    def words(self) -> tuple[str, ...]:
        return "answer", self.node, self.number, self.address


class Peer(msgspec.Struct, frozen=True):
    """A node that has a blob."""

    node: str
    address: str


class Neighbours:
    """The other nodes of the cluster.

    Args:
        node: this node.
        nats_url: where they are met.
        seals: of the cluster.
        answer_s: how long to wait for the first answer.
    """

    def __init__(self, node: str, nats_url: str, seals: Seals, answer_s: float) -> None:
        self.node, self._url, self._answer_s = node, nats_url, answer_s
        self.seals = seals
        self._bus: Bus | None = None
        self._silent_until = 0.0
        self._asked: dict[str, tuple[list[Peer], anyio.Event]] = {}

    async def run(self, address: str, gives: Callable[[str, str], bool]) -> None:
        """Answer questions, and hear answers, for ever.

        Args:
            address: where this node gives blobs.
            gives: whether it can give now, of a repository and a digest.
        """
        while True:
            try:
                bus = await Bus.connect(self._url)
                try:
                    self._bus = bus
                    async with anyio.create_task_group() as group:
                        group.start_soon(self._answer_questions, bus, address, gives)
                        group.start_soon(self._take_answers, bus)
                        _log.info("peers.ready", address=address)
                        await bus.lost.wait()
                        group.cancel_scope.cancel()
                finally:
                    self._bus = None
                    with anyio.CancelScope(shield=True), anyio.move_on_after(AGAIN_S):
                        await bus.close()
            except* Exception as errors:  # noqa: BLE001 - the border: pulls go on without neighbours
                _log.warning("peers.waiting", error=str(errors.exceptions[0]))
            await anyio.sleep(AGAIN_S)

    async def holders(self, repository: str, digest: str) -> list[Peer]:
        """The nodes that can give a blob, the quickest first; none when nobody answers in time."""
        if self._bus is None or len(self._asked) >= MAX_ASKED:
            return []
        question = Question(
            node=self.node,
            number=secrets.token_hex(8),
            repository=repository,
            digest=digest,
            at_ns=now_ns(),
        )
        found: list[Peer] = []
        some = anyio.Event()
        self._asked[question.number] = found, some
        try:
            await self._bus.tell(subjects.peers_ask(), self._sealed(question))
            with anyio.move_on_after(self._answer_s):
                await some.wait()
            return found[:]
        finally:
            del self._asked[question.number]

    async def _answer_questions(self, bus: Bus, address: str, gives: Callable[[str, str], bool]) -> None:
        async for message in bus.hear(subjects.peers_ask()):
            question = self._opened(message, Question)
            if question and question.node != self.node and gives(question.repository, question.digest):
                answer = Answer(node=self.node, number=question.number, address=address, at_ns=now_ns())
                await bus.tell(subjects.peers_answer(question.node), self._sealed(answer))

    async def _take_answers(self, bus: Bus) -> None:
        async for message in bus.hear(subjects.peers_answer(self.node)):
            answer = self._opened(message, Answer)
            if answer and answer.number in self._asked:
                found, some = self._asked[answer.number]
                if len(found) < MAX_ANSWERS and all(peer.node != answer.node for peer in found):
                    found.append(Peer(answer.node, answer.address))
                some.set()

    def _sealed(self, message: Question | Answer) -> bytes:
        seal = self.seals.seal(*message.words, message.at_ns)
        return msgspec.msgpack.encode(msgspec.structs.replace(message, seal=seal))

    def _opened(self, message: "Msg", cls: type[_Message]) -> _Message | None:
        """What a message says; None when it is malformed or nobody of the cluster said it."""
        try:
            found = msgspec.msgpack.decode(message.data, type=cls)
            self.seals.check(found.seal, found.at_ns, *found.words)
        except (msgspec.DecodeError, PermissionDeniedError) as exc:
            if time.monotonic() >= self._silent_until:  # a stranger could fill the log
                self._silent_until = time.monotonic() + SILENT_S
                _log.warning("peers.refused", subject=message.subject, error=str(exc))
            return None
        return found
