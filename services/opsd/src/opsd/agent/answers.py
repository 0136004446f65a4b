"""Answers this node's own questions and those of other nodes' opsds."""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import anyio.to_thread
import msgspec

from common.api.runtime.v1 import runtime_pb2 as pb
from common.clients.runtimed import RuntimedClient
from common.errors import InvalidArgumentError, NotFoundError, SlipwayError
from opsd.agent import detail, logs, processes
from opsd.agent.lists import Lister
from opsd.agent.seal import Seals
from opsd.news import Answer, Question, failed
from opsd.spans import Span, SpanStore

EXPLAIN_S = 5.0
MAX_SPANS = 2_000
MAX_STOP_S = 300
ACTIONS = ("stop", "kill", "remove", "stop_pod", "remove_pod")
Answering = Callable[[Question], Awaitable[Any]]


class Answers:
    """What this node answers."""

    def __init__(self, runtimed: RuntimedClient, lister: Lister, spans: SpanStore, seals: Seals) -> None:
        self._runtimed = runtimed
        self.lister = lister
        self._spans = spans
        self._seals = seals
        self._of: dict[str, Answering] = {
            "lists": lambda _: lister.read(),
            "container": self._container,
            "logs": self._logs,
            "processes": self._processes,
            "trace": self._trace,
            "why": self._why,
            **dict.fromkeys(ACTIONS, self._act),
        }

    async def answer(self, question: Question) -> Answer:
        """The answer; errors are answers too."""
        try:
            answering = self._of.get(question.what)
            if answering is None:
                raise InvalidArgumentError(f"question {question.what!r}: want one of {', '.join(self._of)}")
            return Answer(value=msgspec.to_builtins(await answering(question)))
        except SlipwayError as exc:
            return failed(exc)

    async def _container(self, question: Question) -> dict[str, Any]:
        found = await self._runtimed.container_status(question.id, verbose=True)
        return detail.of_container(found)

    async def _logs(self, question: Question) -> dict[str, Any]:
        status = (await self._runtimed.container_status(question.id)).status
        if not status.log_path:
            raise NotFoundError(f"container {question.id[:12]} has no log file")
        lines = int(question.options.get("lines", "500"))
        read = partial(logs.read, status.log_path, question.options.get("cursor", ""), lines)
        return await anyio.to_thread.run_sync(read)

    async def _processes(self, question: Question) -> list[dict[str, Any]]:
        found = detail.of_container(await self._runtimed.container_status(question.id, verbose=True))
        if found["state"] not in ("running", "paused"):
            return []
        return await anyio.to_thread.run_sync(processes.read, found["id"], found["pid"])

    async def _why(self, question: Question) -> dict[str, Any]:
        request = pb.ExplainRequest(name=question.id)
        return detail.of_explanation(await self._runtimed.stub.Explain(request, timeout=EXPLAIN_S))

    async def _trace(self, question: Question) -> dict[str, Any]:
        """The spans of a trace, or of all traces of a container or sandbox, its life's first."""
        wanted = [question.id] if self._spans.trace(question.id) else self._spans.of_object(question.id)
        spans = [span for trace_id in wanted for span in self._spans.trace(trace_id)]
        return {"traces": wanted, "spans": [_shown(span) for span in spans[:MAX_SPANS]]}

    async def _act(self, question: Question) -> dict[str, Any]:
        self._seals.check(question)
        wait_s = min(int(question.options.get("timeout", "10")), MAX_STOP_S)
        match question.what:
            case "stop":
                await self._runtimed.stop_container(question.id, wait_s)
            case "kill":
                await self._runtimed.stop_container(question.id, 0)
            case "remove":
                await self._runtimed.remove_container(question.id)
            case "stop_pod":
                await self._runtimed.stop_sandbox(question.id)
            case _:
                await self._runtimed.stop_sandbox(question.id)
                await self._runtimed.remove_sandbox(question.id)
        return {}


def _shown(span: Span) -> dict[str, Any]:
    """A span for the page: its start in Unix milliseconds, its length in milliseconds."""
    return {
        "trace": span.trace,
        "id": span.id,
        "parent": span.parent,
        "name": span.name,
        "service": span.service,
        "start": span.start_ns / 1e6,
        "ms": (span.end_ns - span.start_ns) / 1e6,
        "error": span.error,
        "attributes": span.attributes,
    }
