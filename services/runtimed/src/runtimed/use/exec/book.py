"""Which commands were asked for: the shim tells of execs by id, the events say what they were."""

from collections import OrderedDict
from dataclasses import dataclass

from common.errors import SlipwayError
from common.events.schema import ExecExited, ExecStarted
from common.observe.log import get_logger
from common.records import RecordStore
from common.rpc import caller
from runtimed import meters
from runtimed.evidence import Evidence, Mark
from runtimed.ports import ExecNews
from runtimed.record import ContainerRecord

_log = get_logger("runtimed")
BOUND = 4096
MAX_COMMAND = 200
MAX_TOLD = 4096
NS_PER_MS = 1_000_000


@dataclass
class _Entry:
    container_id: str
    command: list[str]
    tty: bool
    actor: str = ""
    began_ns: int = 0


class ExecBook:
    """Commands by exec id, from their preparation to their end; bounded, the oldest goes."""

    def __init__(self, store: RecordStore[ContainerRecord], evidence: Evidence) -> None:
        self._store = store
        self._evidence = evidence
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self.processes: dict[str, dict[str, object]] = {}
        """`process` of each container's configuration, which every exec of it needs."""

    def add(self, exec_id: str, container_id: str, command: list[str], *, tty: bool) -> None:
        self._entries[exec_id] = _Entry(container_id, _told(command), tty, caller.current.get())
        while len(self._entries) > BOUND:
            self._entries.popitem(last=False)

    async def tell(self, container_id: str, news: ExecNews) -> None:
        """Publish what a shim said of an exec."""
        entry = self._entries.get(news.exec_id) or _Entry(container_id, [], tty=False)
        if news.ended:
            self._entries.pop(news.exec_id, None)
            took_ms = max(0, news.at_ns - entry.began_ns) // NS_PER_MS if entry.began_ns else 0
            fact: ExecStarted | ExecExited = ExecExited(
                id=news.exec_id,
                container_id=container_id,
                exit_code=news.exit_code,
                timed_out=news.timed_out,
                duration_ms=took_ms,
            )
            self._evidence.add_exec(container_id, _mark(news, entry))
            meters.EXECS.labels("timed_out" if news.timed_out else "failed" if news.exit_code else "ok").inc()
        else:
            entry.began_ns = news.at_ns
            fact = ExecStarted(
                id=news.exec_id, container_id=container_id, command=entry.command, tty=entry.tty
            )
        try:
            await self._store.emit(fact)
        except SlipwayError as exc:
            _log.warning("exec.untold", exec_id=news.exec_id, error=exc.message)

    def forget(self, container_id: str) -> None:
        self.processes.pop(container_id, None)


def _told(command: list[str]) -> list[str]:
    """A command as events tell it: a program may get some MiB of words."""
    left, told = MAX_TOLD, []
    for word in command:
        if left <= 0:
            break
        told.append(word[:left])
        left -= len(word) + 1
    return told


def _mark(news: ExecNews, entry: _Entry) -> Mark:
    facts = {
        "command": " ".join(entry.command)[:MAX_COMMAND],
        "exit_code": news.exit_code,
        "timed_out": news.timed_out,
    }
    return Mark(at_ns=news.at_ns, what="exec", actor=entry.actor, facts=facts)
