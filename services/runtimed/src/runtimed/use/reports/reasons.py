"""Why something ended or does not start: evidence of records, marks, logs and failed attempts, with a verdict."""

from common.api.runtime.v1 import runtime_pb2 as pb
from common.clock import now_ns
from common.errors import InvalidArgumentError, NotFoundError
from runtimed import selection
from runtimed.evidence import CONTAINER, POD, Failure
from runtimed.record import ContainerRecord, ContainerState, SandboxRecord
from runtimed.use.container.containers import Containers
from runtimed.use.parts import Parts
from runtimed.use.reports import remains
from runtimed.why import errors, verdict
from runtimed.why.finding import End, Trouble
from runtimed.why.wording import UNLIMITED, size, span, told

MAX_LINES = 200
MIN_LINES = 2
"""Of a log, to see whether one line is all of it."""


class Reasons:
    """What Explain answers."""

    def __init__(self, parts: Parts, containers: Containers) -> None:
        self._parts = parts
        self._containers = containers

    async def explain(self, name: str, log_lines: int) -> pb.Explanation:
        """The container or pod of this id, unique id prefix or name, or what was tried under it.

        Raises:
            NotFoundError: nothing of this name is known.
            InvalidArgumentError: it means several.
        """
        lines = min(log_lines, MAX_LINES)
        container = _only(self._parts.containers.store.all(), name, CONTAINER)
        if container is not None:
            return await self._container(container, lines)
        sandbox = _only(self._parts.sandboxes.store.all(), name, POD)
        if sandbox is not None:
            return await self._sandbox(sandbox, lines)
        failures = self._parts.evidence.failures(name)
        if failures:
            return self._attempt(failures[-1])
        raise NotFoundError(f"{name!r}: no container or pod of this name or id, and no attempt to make one")

    async def report(self, request: pb.ReportFailureRequest) -> None:
        """Note an attempt that failed before it came here."""
        sandbox_id = request.pod_sandbox_id
        if not sandbox_id:
            pods = [r for r in self._parts.sandboxes.store.all() if r.uid == request.pod_uid]
            sandbox_id = pods[-1].id if pods else ""
        await self._containers.failed(sandbox_id, request.name, request.image, request.error, request.reason)

    async def _container(self, record: ContainerRecord, lines: int) -> pb.Explanation:
        parts = self._parts
        sandbox = parts.sandboxes.store.find(record.sandbox_id)
        marks = parts.evidence.of(record.id, record.marks, record.finished_at_ns)
        rebooted = parts.is_of_earlier_boot(record.sandbox_id)
        log = await remains.last_lines(record.log_path, max(lines, MIN_LINES), self._parts.host)
        trouble = await self._not_run(record, log)
        end = End(record=record, marks=marks, rebooted=rebooted, trouble=trouble)
        found = verdict.of_container(end, now_ns())
        facts = [pb.Fact(at=m.at_ns, what=m.what, text=told(m), actor=m.actor) for m in marks]
        facts += self._facts(record)
        return pb.Explanation(
            kind=CONTAINER,
            id=record.id,
            name=record.name,
            pod_id=record.sandbox_id,
            pod_name=sandbox.name if sandbox else "",
            image=record.image,
            state=record.state,
            cause=found.cause,
            verdict=found.words,
            next_steps=found.next_steps,
            evidence=sorted(facts, key=lambda fact: fact.at),
            log=log[len(log) - lines :] if lines < len(log) else log,
            exit_code=record.exit_code,
            started_at=record.started_at_ns,
            finished_at=record.finished_at_ns,
        )

    async def _not_run(self, record: ContainerRecord, log: list[str]) -> Trouble | None:
        """The OCI runtime's words on a program that the kernel did not run, when they are all that is in the log."""
        if len(log) != 1 or not record.exit_code or record.signal:
            return None
        path = errors.program_of(log[0])
        return Trouble(text=log[0], program=await remains.program_at(record.rootfs, path)) if path else None

    def _facts(self, record: ContainerRecord) -> list[pb.Fact]:
        """What the record itself tells."""
        facts = [pb.Fact(at=record.created_at_ns, what="created", text=f"made from {record.image}")]
        failed = record.reason == "StartError"
        if record.started_at_ns and not failed:
            facts.append(
                pb.Fact(at=record.started_at_ns, what="started", text=f"started as process {record.pid}")
            )
        if record.state in (ContainerState.EXITED, ContainerState.REMOVING):
            by = f" by signal {record.signal}" if record.signal else ""
            text = record.message if failed else f"ended with code {record.exit_code}{by} ({record.reason})"
            facts.append(pb.Fact(at=record.finished_at_ns, what="exit", text=text))
        if memory := _memory(record.memory):
            facts.append(pb.Fact(what="memory", text=memory))
        if pids := _pids(record.pids):
            facts.append(pb.Fact(what="pids", text=pids))
        if record.dropped_bytes:
            text = f"{size(record.dropped_bytes)} of its output found no room in its log"
            facts.append(pb.Fact(what="log", text=text))
        earlier = [r for r in self._parts.containers_of(record.sandbox_id) if _is_earlier(r, record)]
        if record.attempt:
            codes = ", ".join(str(r.exit_code) for r in earlier) or "not kept"
            text = f"it is attempt {record.attempt + 1}; codes of those before: {codes}"
            facts.append(pb.Fact(what="restarts", text=text))
        return facts

    async def _sandbox(self, record: SandboxRecord, lines: int) -> pb.Explanation:
        parts = self._parts
        members = sorted(parts.containers_of(record.id), key=lambda r: r.created_at_ns)
        inside = [await self._container(member, lines) for member in members]
        failures = parts.evidence.failures(sandbox_id=record.id)
        inside += [self._attempt(failure) for failure in failures]
        rebooted = parts.is_of_earlier_boot(record.id)
        told = [(one.name or one.image, one.cause, one.verdict) for one in inside]
        found = verdict.of_pod(record, told, rebooted=rebooted)
        facts = [pb.Fact(at=record.created_at_ns, what="created", text=f"set-up by handler {record.handler}")]
        if record.ready_at_ns:
            took = span(record.ready_at_ns - record.created_at_ns)
            ips = f", addresses {', '.join(record.ips)}" if record.ips else ""
            facts.append(pb.Fact(at=record.ready_at_ns, what="started", text=f"ready after {took}{ips}"))
        return pb.Explanation(
            kind=POD,
            id=record.id,
            name=record.name,
            pod_id=record.id,
            pod_name=record.name,
            state=record.state,
            cause=found.cause,
            verdict=found.words,
            next_steps=found.next_steps,
            evidence=facts,
            containers=inside,
            started_at=record.ready_at_ns,
        )

    def _attempt(self, failure: Failure) -> pb.Explanation:
        sandbox = self._parts.sandboxes.store.find(failure.sandbox_id)
        found = verdict.of_attempt(failure)
        fact = pb.Fact(at=failure.at_ns, what="failure", text=failure.error, actor=failure.actor)
        return pb.Explanation(
            kind="attempt",
            name=failure.name,
            pod_id=failure.sandbox_id,
            pod_name=sandbox.name if sandbox else "",
            image=failure.image,
            state="absent",
            cause=found.cause,
            verdict=found.words,
            next_steps=found.next_steps,
            evidence=[fact],
        )


def _only(records: "list[selection.T]", name: str, kind: str) -> "selection.T | None":
    """The record that is meant; of several attempts at one thing it is the last."""
    if not name:
        raise InvalidArgumentError("name: is empty")
    hits = [r for r in records if name in (r.id, r.name)] or [r for r in records if r.id.startswith(name)]
    things = {_thing(record) for record in hits}
    if len(things) > 1:
        raise InvalidArgumentError(f"{name!r} means {len(things)} {kind}s: give more of the id")
    return max(hits, key=lambda r: r.created_at_ns) if hits else None


def _thing(record: ContainerRecord | SandboxRecord) -> tuple[str, str]:
    """What its attempts have in common."""
    if isinstance(record, ContainerRecord):
        return record.sandbox_id, record.name
    return record.namespace, record.name


def _is_earlier(other: ContainerRecord, record: ContainerRecord) -> bool:
    return other.name == record.name and other.attempt < record.attempt


def _memory(found: dict[str, int]) -> str:
    limit, peak, kills = found.get("limit_bytes", 0), found.get("peak_bytes", 0), found.get("oom_kill", 0)
    parts = [f"used {size(peak)} at most"] if peak else []
    if 0 < limit < UNLIMITED:
        parts.append(f"limit {size(limit)}")
    if hits := found.get("max", 0):
        parts.append(f"hit its limit {hits} times")
    if kills:
        parts.append(f"the kernel killed {kills} of its processes for want of memory")
    return ", ".join(parts)


def _pids(found: dict[str, int]) -> str:
    hits, limit = found.get("hits", 0), found.get("limit", 0)
    if not hits:
        return ""
    return f"was refused a new process or thread {hits} times" + (f", limit {limit}" if limit else "")
