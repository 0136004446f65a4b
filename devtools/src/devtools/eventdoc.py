"""Writes docs/events.md from common.events.schema; `--check` fails when the file has drifted."""

import msgspec

from common.events import subjects
from common.events.schema import Envelope, Event, all_events
from common.settings import EVENTS_MAX_AGE_S, EVENTS_MAX_BYTES, EVENTS_MAX_REPEATS
from devtools import generated
from devtools.fieldwords import field_words

EVENT_BYTES = 500
"""What one takes in the stream, when it is a long one."""
RATES = (100, 1_000, 10_000)
"""Events a minute of all nodes."""
SIZES = (EVENTS_MAX_BYTES, 10 << 30, 100 << 30)
MONTH_S = 30 * 86400
HEAD = f"""# Lifecycle events

Generated from `libs/common/src/common/events/schema.py` by `./dev protos`; do not edit.

Every transition of an image, snapshot, sandbox, container and exec is one event, on JetStream stream
`{subjects.STREAM}`, subject `{subjects.subject("NODE", "KIND", "ID", "VERB")}`. A state change and its
event are written to Redis in one step and relayed from there, so an event exists if and only if its change does;
a repeated delivery has the same `Nats-Msg-Id` (the envelope's `id`). Dots, stars and blanks in an id become `_` in
the subject; the event itself has the id as it is. The ID of a command, an exec, is there that of its container: versions before
had its own, so that a reader which asks for one exec finds none now, while one of `{subjects.PREFIX}.*.exec.>` or of all kinds goes on as it was.

The payload is msgpack: an envelope with the event in it.

"""


def _kept() -> str:
    """How long the stream of each size holds the events of each rate."""
    head = "".join(f" {size >> 30} GiB |" for size in SIZES)
    rows = [f"| events a minute |{head}\n|---|{'---|' * len(SIZES)}\n"]
    for rate in RATES:
        lasts = (_span(size / EVENT_BYTES / rate * 60) for size in SIZES)
        rows.append(f"| {rate:,} |{''.join(f' {text} |' for text in lasts)}\n")
    return "".join(rows)


def _span(seconds: float) -> str:
    if seconds > MONTH_S:
        return "over a month"
    return f"{seconds / 3600:.0f} hours" if seconds < 2 * 86400 else f"{seconds / 86400:.0f} days"


TAIL = f"""
## Following

On the command line, `slipway events --since 1h`, with `--filter kind=container` and the like. A program of yours gets a
durable consumer: the server remembers what it has acknowledged, so that it goes on where it was, a day later too.
`worker.py`, for a Python that has `nats-py` and `msgpack` from PyPI:

```python
import asyncio, sys, msgpack, nats

async def main(url: str) -> None:
    client = await nats.connect(url)
    stream = client.jetstream()
    exits = await stream.subscribe("{subjects.PREFIX}.*.container.*.exited", durable="exits", manual_ack=True)
    seen = (await exits.consumer_info()).ack_floor.stream_seq
    first = (await stream.stream_info("{subjects.STREAM}")).state.first_seq
    if seen and first > seen + 1:
        print(f"missed: events {{seen + 1}} to {{first - 1}} are gone", flush=True)
    async for message in exits.messages:
        event = msgpack.unpackb(message.data)["event"]
        print(event["id"], event["exit_code"], event["reason"], flush=True)
        await message.ack()

asyncio.run(main(sys.argv[1]))
```

The node's NATS listens on loopback and asks for a token, both in `slipway-node`'s files, for root alone:

```sh tested-by=tests/e2e/test_e2e_events.py
url=nats://$(cat /var/lib/slipway/nats-token)@127.0.0.1:$(cat /var/lib/slipway/nats-port)
python3 worker.py "$url"
```

The [nats command](https://github.com/nats-io/natscli) shows msgpack as JSON with our help (it is not to be had from Debian 12, so
that the tests give an event of a subscriber to `slipway events --decode` themselves):

```sh tested-by=tests/e2e/test_e2e_events.py without=nats
nats --server "$url" sub '{subjects.PREFIX}.*.container.*.exited' --translate 'slipway events --decode'
```

## What is kept

One stream has the events of all nodes on a NATS. It keeps {EVENTS_MAX_AGE_S // 86400} days or {EVENTS_MAX_BYTES >> 30} GiB, whichever is less, or a half, a quarter, … of that where the disk
has not the room, which the services log as `stream.small`. An event takes 300 to {EVENT_BYTES} bytes, and a pod
with one container makes about a dozen. Of one subject, which is one verb of one object or of a container's commands, the last
{EVENTS_MAX_REPEATS} are kept: a probe that runs a command each 10 s has 20 minutes there, and pushes out nothing else. How long a reader may be away, by the bytes alone:

{_kept()}
`events_max_bytes`, `events_max_age_s` and `events_max_repeats` are keys of [the node](settings.md#the-node), the same on each, as the last one to start decides. NATS reserves the
bytes on its disk. A reader that was away for longer is told by the stream itself, as in `worker.py`: what it has acknowledged lies before the
first event that is there (of those between, none may have been its own). `slipway events --since` says so too; `slipway ps -a` or CRI's lists then tell how things stand. Whoever reads all events of a node sees each that
is missing by `seq`, which grows by one for each `node` and `source`; in the past of commands some are, as said.
Of what later events of its own subject pushed out nothing else tells a reader: neither `worker.py` nor `slipway events --since` nor the dashboard does. While NATS is away events queue in Redis, and are relayed in order:
up to `outbox_max_bytes` of each service, 256 MiB, a [setting](settings.md) of its own file. When half of that waits, events of commands
and of pressure are not taken any more; when all is full these go, and then the oldest. `node.events_lost` says how many once NATS is back, `slipway doctor`
and `slipway_outbox_lost` at any time, and their `seq` is missing.

## Versions

Fields are only ever added, with defaults: an old reader ignores those that it does not know, and a new reader of an old
event has the default. Any other change makes a new type (`container.exited.v2`) on the same subject, published beside the
old one for one release: a reader takes the type that it knows and skips others. `schema` is the envelope's own version,
and grows only if an old reader could not read the envelope at all.
"""


def render() -> str:
    """The whole document."""
    parts = [HEAD, _table(Envelope, Envelope)]
    parts += [_section(cls) for cls in all_events()]
    return "".join(parts) + TAIL


def _section(cls: type[Event]) -> str:
    tag = str(cls.__struct_config__.tag)
    doc = " ".join((cls.__doc__ or "").split())
    named = {"type": tag, "id": "ID", "container_id": "CONTAINER"}
    where = f"`{subjects.of_event('NODE', named)}`"
    return f"\n## `{tag}`\n\n{doc} On {where}.\n\n{_table(cls, Event)}"


def _table(cls: type[msgspec.Struct], top: type[msgspec.Struct]) -> str:
    words = field_words(cls, top)
    rows = [f"| `{f.name}` | {_type(f.type)} | {words[f.name]} |\n" for f in msgspec.structs.fields(cls)]
    return "| field | type | what it is |\n|---|---|---|\n" + "".join(rows)


def _type(kind: object) -> str:
    return kind.__name__ if isinstance(kind, type) and not hasattr(kind, "__args__") else str(kind)


def main() -> None:
    """Write the document, or check it."""
    generated.keep("events.md", render(), "schema")


if __name__ == "__main__":
    main()
