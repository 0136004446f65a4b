"""What the opsds of a cluster tell and ask each other, as msgpack; who may read NATS may read it."""

import zlib
from typing import Any

import msgspec

from common.errors import BY_REASON, DataLossError, InternalError, SlipwayError

MAX_BYTES = 16 << 20
"""Of an answer, unpacked; of other messages less."""


class Row(msgspec.Struct, kw_only=True):
    """Common to what is listed; times are Unix milliseconds, as browsers count, and 0 when there is none."""

    id: str
    node: str = ""
    """Set by who shows it: a node's own lists need not repeat it."""
    name: str = ""
    attempt: int = 0
    created: float = 0


class Pod(Row, kw_only=True):
    """A sandbox."""

    namespace: str = ""
    uid: str = ""
    state: str = ""
    """creating, ready, notready or failed."""
    ips: list[str] = []
    handler: str = ""
    host_network: bool = False


class Container(Row, kw_only=True):
    """A container."""

    pod: str = ""
    """The id of its sandbox."""
    image: str = ""
    state: str = ""
    """created, running, paused, exited or unknown."""
    started: float = 0
    finished: float = 0
    code: int = 0
    reason: str = ""


class Lists(msgspec.Struct, kw_only=True):
    """All that a node has, at one moment."""

    node: str
    at_ns: int
    """Before the lists were read: they hold every change up to it."""
    pods: list[Pod]
    containers: list[Container]


class Layer(msgspec.Struct, kw_only=True):
    """A layer of a pull."""

    digest: str
    size: int
    fetched: int
    state: str


class Pull(msgspec.Struct, kw_only=True):
    """A pull in progress."""

    reference: str
    layers: list[Layer] = []
    left_s: float | None = None
    """Until all is fetched; None while that is not known."""


class Machine(msgspec.Struct, kw_only=True):
    """The machine under a node; what is not known is None."""

    cores: int = 0
    cpu: float = 0
    """Share of all cores in use, 0 to 1."""
    load: float = 0
    memory_total: int = 0
    memory_used: int = 0
    disk_total: int = 0
    disk_used: int = 0
    pressure: dict[str, float | None] = {}
    """Of cpu, memory and io: share of the last 10 s in which something waited, in percent."""
    uptime_s: float = 0
    kernel: str = ""


class Condition(msgspec.Struct, kw_only=True):
    """What a node says of itself, as CRI has it."""

    name: str
    ok: bool
    message: str = ""


class Vitals(msgspec.Struct, kw_only=True):
    """A node's heartbeat."""

    node: str
    at_ns: int
    interval_s: float
    address: str = ""
    """Of the page of its own opsd."""
    machine: Machine = msgspec.field(default_factory=Machine)
    conditions: list[Condition] = []
    pulls: list[Pull] = []
    use: list[tuple[str, int, int]] = []
    """Of each running container: its id, CPU in thousandths of a core, working set in bytes."""
    problem: str = ""
    """Why the lists and the use are not known, when they are not."""


class Question(msgspec.Struct, kw_only=True):
    """What one opsd asks another."""

    what: str
    id: str = ""
    options: dict[str, str] = {}
    seal: str = ""
    """Of an action: see opsd.agent.seal."""
    at_ns: int = 0
    nonce: str = ""


class Answer(msgspec.Struct, kw_only=True):
    """What is answered: a value, or an error."""

    value: Any = None
    reason: str = ""
    message: str = ""


_LIMITS: dict[type[Any], int] = {Question: 64 << 10, Vitals: 4 << 20}
_encoder = msgspec.msgpack.Encoder()


def pack(value: Any) -> bytes:
    """Lists repeat themselves: packed, a thousand containers fit into one message of NATS."""
    return zlib.compress(_encoder.encode(value), 1)


def unpack(data: bytes, kind: type[Any]) -> Any:
    """The other way.

    Raises:
        DataLossError: it is none of these.
    """
    try:
        inflater = zlib.decompressobj()
        limit = _LIMITS.get(kind, MAX_BYTES)
        plain = inflater.decompress(data, limit)
        if inflater.unconsumed_tail:
            raise DataLossError(f"a message of another opsd is larger than {limit} bytes")
        return msgspec.msgpack.decode(plain, type=kind)
    except (zlib.error, msgspec.DecodeError) as exc:
        raise DataLossError(f"a message of another opsd cannot be read: {exc}") from exc


def told(answer: Answer) -> Any:
    """The value of an answer; raises its error."""
    if answer.reason:
        raise BY_REASON.get(answer.reason, InternalError)(answer.message)
    return answer.value


def failed(error: SlipwayError) -> Answer:
    """An error as an answer."""
    return Answer(reason=error.reason, message=error.message)
