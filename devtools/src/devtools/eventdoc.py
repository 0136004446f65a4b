"""Writes docs/events.md from common.events.schema; `--check` fails when the file has drifted."""

import msgspec

from common.events import subjects
from common.events.bus import MAX_AGE_S, MAX_BYTES
from common.events.schema import Envelope, Event, all_events
from devtools import generated
from devtools.fieldwords import field_words

HEAD = f"""# Lifecycle events

Generated from `libs/common/src/common/events/schema.py` by `./dev protos`; do not edit.

Every transition of an image, snapshot, sandbox, container and exec is one event, on JetStream stream
`{subjects.STREAM}`, subject `{subjects.subject("NODE", "KIND", "ID", "VERB")}`. A state change and its
event are written to Redis in one step and relayed from there, so an event exists if and only if its change does;
a repeated delivery has the same `Nats-Msg-Id` (the envelope's `id`). Dots, stars and blanks in an id become `_` in
the subject; the event itself has the id as it is.

The payload is msgpack: an envelope with the event in it.

"""
TAIL = f"""
## Following

On the command line, `slipway events --since 1h`, with `--filter kind=container` and the like. A program of yours gets a
durable consumer: the server remembers what it has acknowledged, so that it goes on where it was, a day later too.
`worker.py`, for a Python that has `nats-py` and `msgpack` from PyPI:

```python
import asyncio, sys, msgpack, nats

async def main(url: str) -> None:
    client = await nats.connect(url)
    exits = await client.jetstream().subscribe("{subjects.PREFIX}.*.container.*.exited", durable="exits", manual_ack=True)
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

The [nats command](https://github.com/nats-io/natscli) shows msgpack as JSON with our help:

```sh tested-by=tests/e2e/test_e2e_events.py
nats --server "$url" sub '{subjects.PREFIX}.*.container.*.exited' --translate 'slipway events --decode'
```

## What is kept

The stream keeps {MAX_AGE_S / 86400:g} days or {MAX_BYTES >> 20} MiB, whichever is less, or a half, a quarter, … of that where the disk has not the room; an event takes 300 to 500 bytes, so that a day
of a thousand events a minute fits twice. A reader that was away for longer sees a gap in `seq`, which grows by one for
each `node` and `source`; `slipway ps -a` or CRI's lists then tell how things stand. While NATS is away events queue
in Redis, and are relayed in order.

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
    where = f"`{subjects.PREFIX}.NODE.{tag.split('.', maxsplit=1)[0]}.ID.{tag.split('.')[1]}`"
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
