"""Every lifecycle event, declared once; docs/events.md is generated from here.

An event's tag is `<kind>.<verb>.v<version>`. Fields may be added with defaults; any other change is a new
version, published beside the old one for one release. On the wire: msgpack of Envelope.
"""

from typing import Any

import msgspec

MAX_NAMES = 256
"""Of an image, that an event tells."""
SCHEMA = 1
"""Version of the envelope."""


class Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    """A fact about one object; `id` names the object."""

    id: str

    @property
    def kind(self) -> str:
        return self._tag().split(".")[0]

    @property
    def verb(self) -> str:
        return self._tag().split(".")[1]

    @classmethod
    def _tag(cls) -> str:
        return str(cls.__struct_config__.tag)


class PullStarted(Event, frozen=True, kw_only=True, tag="image.pull_started.v1"):
    """A pull has begun; `id` is the reference."""


class PullProgressed(Event, frozen=True, kw_only=True, tag="image.pull_progressed.v1"):
    """A pull has come further; `id` is the reference. Twice a second at most, then rarer; not kept while NATS is away."""

    fetched_bytes: int
    """Of layers that are here, also from earlier."""
    size_bytes: int
    """Of all layers, compressed."""
    layers: int
    layers_done: int
    """Fetched and unpacked."""
    left_s: int = -1
    """Seconds until all layers are fetched, by what came lately; -1 while that is not known."""


class PullFailed(Event, frozen=True, kw_only=True, tag="image.pull_failed.v1"):
    """A pull ended without an image; `id` is the reference."""

    error: str
    """One sentence, as the caller of the pull was told."""


class ImagePulled(Event, frozen=True, kw_only=True, tag="image.pulled.v1"):
    """An image is here, unpacked; `id` is the config digest."""

    reference: str
    """The name that was pulled."""
    size_bytes: int = 0
    """Of all blobs, compressed."""
    duration_ms: int = 0


class ImageLoaded(Event, frozen=True, kw_only=True, tag="image.loaded.v1"):
    """An image came from an archive, unpacked; `id` is the config digest."""

    references: list[str] = []
    """Names that the archive gave it, or the first 256."""
    size_bytes: int = 0
    """Of all blobs."""


class ImageCommitted(Event, frozen=True, kw_only=True, tag="image.committed.v1"):
    """An image was made of what a container changed; `id` is the config digest."""

    reference: str = ""
    container_id: str


class ImagePushed(Event, frozen=True, kw_only=True, tag="image.pushed.v1"):
    """A registry has an image now, by a push or a copy; `id` is the digest that its name there means."""

    reference: str
    sent_bytes: int = 0
    duration_ms: int = 0


class ImageTagged(Event, frozen=True, kw_only=True, tag="image.tagged.v1"):
    """An image has one more name; another image that had it has it no more."""

    reference: str
    """The new name."""


class ImageUntagged(Event, frozen=True, kw_only=True, tag="image.untagged.v1"):
    """An image has lost names, and stays."""

    references: list[str]
    """The names that it lost, or the first 256."""


class ImageRemoved(Event, frozen=True, kw_only=True, tag="image.removed.v1"):
    """An image and its names are gone."""

    references: list[str] = []
    """The names that it had, or the first 256."""


class LayerFilled(Event, frozen=True, kw_only=True, tag="image.layer_filled.v1"):
    """A layer that was used while it came is whole, verified and unpacked; `id` is its blob's digest."""

    reference: str
    """The image that it was pulled with."""
    size_bytes: int


class LayerDamaged(Event, frozen=True, kw_only=True, tag="image.layer_damaged.v1"):
    """A layer that is used while it comes will never be whole; `id` is its blob's digest.

    What is read of it is verified piece by piece, and goes on.
    """

    reference: str
    error: str


class LayerUnread(Event, frozen=True, kw_only=True, tag="image.layer_unread.v1"):
    """Reads of containers failed, since bytes of their image did not come; told once a minute for a layer at most.

    `id` is its blob's digest.
    """

    reference: str
    error: str


class LayerUnpacked(Event, frozen=True, kw_only=True, tag="snapshot.layer_unpacked.v1"):
    """A layer is on disk; `id` is its diff ID."""

    size_bytes: int
    """On disk, unpacked."""
    inodes: int
    """Files, directories and links."""
    duration_ms: int = 0


class LayerRemoved(Event, frozen=True, kw_only=True, tag="snapshot.layer_removed.v1"):
    """A layer is gone; `id` is its diff ID."""


class SnapshotPrepared(Event, frozen=True, kw_only=True, tag="snapshot.prepared.v1"):
    """A snapshot is mounted; `id` is its key."""

    snapshotter: str
    path: str = ""
    """Where it is mounted."""


class SnapshotFull(Event, frozen=True, kw_only=True, tag="snapshot.full.v1"):
    """A snapshot's writable directory is at its bound: what is written next fails."""

    used_bytes: int
    max_bytes: int


class SnapshotRemoved(Event, frozen=True, kw_only=True, tag="snapshot.removed.v1"):
    """A snapshot is unmounted and gone."""


class SandboxCreated(Event, frozen=True, kw_only=True, tag="sandbox.created.v1"):
    """A sandbox is being set up."""

    name: str
    """Of the pod, with namespace and uid as the kubelet gave them."""
    namespace: str
    uid: str
    attempt: int = 0
    """Grows when a kubelet makes the pod's sandbox anew."""
    handler: str = ""
    """The OCI runtime, as the node's settings name it."""


class SandboxReady(Event, frozen=True, kw_only=True, tag="sandbox.ready.v1"):
    """A sandbox can take containers."""

    ips: list[str] = []
    """The first is the pod's own; none on the host's network."""
    duration_ms: int = 0
    """Since the request."""


class SandboxFailed(Event, frozen=True, kw_only=True, tag="sandbox.failed.v1"):
    """The set-up of a sandbox failed."""

    error: str
    """One sentence, as the caller was told."""


class SandboxStopped(Event, frozen=True, kw_only=True, tag="sandbox.stopped.v1"):
    """A sandbox is not ready any more."""

    reason: str = ""
    """stop, or what ended it."""


class SandboxUpdated(Event, frozen=True, kw_only=True, tag="sandbox.updated.v1"):
    """A kubelet has given the pod's cgroup other limits."""


class SandboxRemoved(Event, frozen=True, kw_only=True, tag="sandbox.removed.v1"):
    """A sandbox is gone."""


class ContainerCreated(Event, frozen=True, kw_only=True, tag="container.created.v1"):
    """A container has a snapshot and a bundle, and no process."""

    sandbox_id: str
    name: str
    """As the kubelet gave it."""
    image: str
    """As the request named it."""
    attempt: int = 0
    """Grows with each restart by a kubelet."""


class ContainerCreateFailed(Event, frozen=True, kw_only=True, tag="container.create_failed.v1"):
    """A container could not be made, and left nothing; `id` is the name that it was to have. Told once for each error."""

    sandbox_id: str
    image: str
    error: str


class ContainerStarted(Event, frozen=True, kw_only=True, tag="container.started.v1"):
    """A container's init runs."""

    sandbox_id: str
    pid: int
    """Of its init, on the node."""
    started_at_ns: int = 0


class ContainerStartFailed(Event, frozen=True, kw_only=True, tag="container.start_failed.v1"):
    """A container's init could not be started."""

    sandbox_id: str
    error: str
    """What the OCI runtime said."""


class ContainerExited(Event, frozen=True, kw_only=True, tag="container.exited.v1"):
    """A container's init has ended; there is exactly one of these for each start."""

    sandbox_id: str
    exit_code: int
    """128 + the signal for one that was killed; 255 when nobody saw the end."""
    reason: str
    """Completed, Error, OOMKilled, StartError or Unknown."""
    signal: int = 0
    """That ended it; 0 for none."""
    finished_at_ns: int = 0


class ContainerUnknown(Event, frozen=True, kw_only=True, tag="container.unknown.v1"):
    """Whether a container's init runs is not known: its shim lives and does not tell."""

    sandbox_id: str


class ContainerOomKilled(Event, frozen=True, kw_only=True, tag="container.oom_killed.v1"):
    """The kernel killed a process of the container for want of memory."""

    sandbox_id: str


class ContainerStopRequested(Event, frozen=True, kw_only=True, tag="container.stop_requested.v1"):
    """Somebody asked for a stop."""

    sandbox_id: str
    signal: str
    """That is sent first."""
    timeout_s: int = 0
    """Until SIGKILL."""


class ContainerPaused(Event, frozen=True, kw_only=True, tag="container.paused.v1"):
    """Every process of a container stands still."""

    sandbox_id: str


class ContainerResumed(Event, frozen=True, kw_only=True, tag="container.resumed.v1"):
    """A paused container runs on."""

    sandbox_id: str


class ContainerSignalled(Event, frozen=True, kw_only=True, tag="container.signalled.v1"):
    """Somebody sends a signal to a container's init."""

    sandbox_id: str
    signal: str


class ContainerUpdated(Event, frozen=True, kw_only=True, tag="container.updated.v1"):
    """A container has new limits."""

    sandbox_id: str


class ContainerLogReopened(Event, frozen=True, kw_only=True, tag="container.log_reopened.v1"):
    """A container writes to a new log file."""

    sandbox_id: str


class ContainerRemoved(Event, frozen=True, kw_only=True, tag="container.removed.v1"):
    """A container is gone."""

    sandbox_id: str


class ContainerPressureRaised(Event, frozen=True, kw_only=True, tag="container.pressure_raised.v1"):
    """A container comes near its bounds; its end may follow.

    `resource` and `value` are: cpu, memory and io, percent of the last 10 s in which a process waited for it (cgroup v2);
    memory-usage, percent of the limit; memory-high and memory-limit, how often that was hit, and oom-kill, how many
    processes were killed, since the last look.
    """

    sandbox_id: str
    resource: str
    value: float
    threshold: float


class ContainerPressureCleared(Event, frozen=True, kw_only=True, tag="container.pressure_cleared.v1"):
    """What was raised has been well below its threshold for a while."""

    sandbox_id: str
    resource: str
    value: float
    threshold: float
    duration_ms: int = 0


class ExecStarted(Event, frozen=True, kw_only=True, tag="exec.started.v1"):
    """A command was started in a container; `id` is the exec's own, and the container's is in the subject."""

    container_id: str
    command: list[str] = []
    """Without what is beyond its first 4 KiB."""
    tty: bool = False


class ExecExited(Event, frozen=True, kw_only=True, tag="exec.exited.v1"):
    """A command in a container has ended; the container's id is in the subject."""

    container_id: str
    exit_code: int
    timed_out: bool = False
    """It was killed at its deadline."""
    duration_ms: int = 0


class NodePressureRaised(Event, frozen=True, kw_only=True, tag="node.pressure_raised.v1"):
    """The node comes near its bounds; `id` is the resource.

    cpu, memory and io: percent of the last 10 s in which a process waited for it. disk and inodes: percent in use of
    the filesystem at `where`.
    """

    value: float
    threshold: float
    where: str = ""


class NodePressureCleared(Event, frozen=True, kw_only=True, tag="node.pressure_cleared.v1"):
    """What was raised has been well below its threshold for a while; `id` is the resource."""

    value: float
    threshold: float
    where: str = ""
    duration_ms: int = 0


class NodeRepaired(Event, frozen=True, kw_only=True, tag="node.repaired.v1"):
    """A service found and mended a difference between its records and the machine; `id` names the thing."""

    service: str
    """That mended it."""
    what: str
    """What was found, and done."""


class NodeRecordCorrupt(Event, frozen=True, kw_only=True, tag="node.record_corrupt.v1"):
    """A record could not be read and was set aside; `id` is its key."""

    service: str
    """That owns the record."""
    error: str
    """Why it cannot be read."""


class NodeEventTooLarge(Event, frozen=True, kw_only=True, tag="node.event_too_large.v1"):
    """Stands in the place of an event, with its `seq`, that NATS takes no message for; `id` is shortened."""

    service: str
    """That told it."""
    event: str
    """The type of that event."""
    size_bytes: int


class NodeEventsLost(Event, frozen=True, kw_only=True, tag="node.events_lost.v1"):
    """Events were given up, as a service had no room for more of them while NATS was away; `id` is the service.

    Their `seq` is missing before this.
    """

    count: int
    minor: int = 0
    """Of these, events of commands and of pressure, which go first."""


_MINOR = (
    ExecStarted,
    ExecExited,
    ContainerPressureRaised,
    ContainerPressureCleared,
    NodePressureRaised,
    NodePressureCleared,
    PullProgressed,
)


def minor(event: Event) -> str:
    """A word for an event that is given up before those of lives, or none."""
    return "minor" if isinstance(event, _MINOR) else ""


def all_events() -> list[type[Event]]:
    """Every event class, in the order of this module."""
    return list(Event.__subclasses__())


class Envelope(msgspec.Struct, frozen=True, kw_only=True):
    """What travels: the event and where, when and why it happened."""

    schema: int = SCHEMA
    """Version of the envelope."""
    id: str
    """`<node>:<kind>:<object id>:<revision>:<at_ns>`, also the Nats-Msg-Id; a repeated one is the same event."""
    seq: int = 0
    """Grows by one with each event of one service on one node."""
    at_ns: int
    """When it happened, in nanoseconds since 1970."""
    node: str
    source: str
    """The service that owns the object."""
    revision: int
    """Revision of the object's record after the change."""
    traceparent: str = ""
    """The trace that it belongs to, in the W3C form; empty when nobody traces."""
    event: msgspec.Raw
    """The event itself: a table whose `type` is its heading below."""

    def decoded(self) -> Event | None:
        """The event, or None for a type that this reader does not know."""
        try:
            decoded: Event = _decoder.decode(self.event)
        except msgspec.ValidationError:
            return None
        return decoded

    def fields(self) -> dict[str, Any]:
        """The event as a plain table, whatever its type."""
        table: dict[str, Any] = msgspec.msgpack.decode(self.event)
        return table


_union: Any = None
for _cls in all_events():
    _union = _cls if _union is None else _union | _cls
_decoder = msgspec.msgpack.Decoder(_union)
encoder = msgspec.msgpack.Encoder()
envelope_decoder = msgspec.msgpack.Decoder(Envelope)
