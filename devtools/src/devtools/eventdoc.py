"""Writes docs/events.md from common.events.schema; `--check` fails when the file has drifted."""

import sys
from pathlib import Path

import msgspec

from common.events import subjects
from common.events.schema import Envelope, Event, all_events

DOC = Path(__file__).parents[3] / "docs" / "events.md"
HEAD = f"""# Lifecycle events

Generated from `libs/common/src/common/events/schema.py` by `./dev protos`; do not edit.

Every transition of an image, snapshot, sandbox, container and exec is one event, on JetStream stream
`{subjects.STREAM}`, subject `{subjects.subject("NODE", "KIND", "ID", "VERB")}`. A state change and its
event are written to Redis in one step and relayed from there, so an event exists if and only if its change does;
a repeated delivery has the same `Nats-Msg-Id` (the envelope's `id`). Dots, stars and blanks in an id become `_` in
the subject; the event itself has the id as it is.

The payload is msgpack: an envelope with the event in it.

"""
TAIL = """
## Following

On the command line: `slipway events --since 1h`. In Python:

```python
import asyncio, nats, msgpack

async def main() -> None:
    token = open("/var/lib/slipway/nats-token").read()  # the address: `slipway-node up` prints it
    client = await nats.connect("nats://127.0.0.1:4222", token=token)
    events = await client.jetstream().subscribe("slipway.v1.*.container.*.exited", durable="my-dashboard")
    async for message in events.messages:
        event = msgpack.unpackb(message.data)["event"]
        print(event["id"], event["exit_code"], event["reason"])
        await message.ack()

asyncio.run(main())
```

## Versions

Fields are only ever added, with defaults: an old reader ignores them. Any other change makes a new type
(`container.exited.v2`), published beside the old one for one release. A reader skips types that it does not know.
"""


def render() -> str:
    """The whole document."""
    parts = [HEAD, "| envelope field | type |\n|---|---|\n"]
    parts += [f"| `{f.name}` | {_type(f.type)} |\n" for f in msgspec.structs.fields(Envelope)]
    for cls in all_events():
        parts.append(_section(cls))
    return "".join(parts) + TAIL


def _section(cls: type[Event]) -> str:
    tag = str(cls.__struct_config__.tag)
    doc = " ".join((cls.__doc__ or "").split())
    rows = "".join(f"| `{f.name}` | {_type(f.type)} |\n" for f in msgspec.structs.fields(cls))
    return f"\n## `{tag}`\n\n{doc}\n\n| field | type |\n|---|---|\n{rows}"


def _type(kind: object) -> str:
    return kind.__name__ if isinstance(kind, type) and not hasattr(kind, "__args__") else str(kind)


def main() -> None:
    """Write the document, or check it."""
    text = render()
    if "--check" not in sys.argv:
        DOC.write_text(text)
    elif not DOC.exists() or DOC.read_text() != text:
        sys.exit("docs/events.md has drifted from the schema: run ./dev protos")


if __name__ == "__main__":
    main()
