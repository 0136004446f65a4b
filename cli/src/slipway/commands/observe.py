"""events, status."""

import re
import sys
import time
from argparse import Namespace

import anyio

from common.api.cri.v1 import api_pb2 as cri
from common.errors import InvalidArgumentError
from common.events.bus import follow
from common.events.schema import Envelope
from slipway import render
from slipway.connect import TIMEOUT_S, nats_url, node

UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}
FILTERS = {"kind": "kind", "verb": "verb", "id": "object_id", "node": "node"}
QUIET_S = 1.0


async def events(arguments: Namespace) -> int:
    """Follow events, from a time on."""
    since_ns = None
    if arguments.since:
        since_ns = time.time_ns() - int(_seconds(arguments.since) * 1e9)
    elif arguments.until_now:
        since_ns = 0
    chosen = dict(_filter(text) for text in arguments.filter)
    stream = follow(arguments.nats or nats_url(arguments.run_dir), since_ns=since_ns, **chosen)
    while True:
        with anyio.move_on_after(QUIET_S if arguments.until_now else None):
            async for envelope in stream:
                _show(envelope, arguments.output)
        if arguments.until_now:
            return 0


def _seconds(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text)
    if not match:
        message = f"--since {text!r}: want a number and s, m, h or d, such as 10m"
        raise InvalidArgumentError(message)
    return float(match[1]) * UNITS_S[match[2]]


def _filter(text: str) -> tuple[str, str]:
    key, _, value = text.partition("=")
    if key not in FILTERS or not value:
        message = f"--filter {text!r}: want KEY=VALUE with KEY one of {', '.join(FILTERS)}"
        raise InvalidArgumentError(message)
    return FILTERS[key], value


def _show(envelope: Envelope, output: str) -> None:
    fields = envelope.fields()
    if output == "json":
        import json

        line = {
            "seq": envelope.seq,
            "at_ns": envelope.at_ns,
            "node": envelope.node,
            "source": envelope.source,
        }
        sys.stdout.write(json.dumps(line | {"revision": envelope.revision, "event": fields}) + "\n")
    else:
        kind, object_id = str(fields.pop("type")), str(fields.pop("id")).removeprefix("sha256:")
        at = time.strftime("%H:%M:%S", time.localtime(envelope.at_ns / 1e9))
        facts = " ".join(f"{key}={value}" for key, value in fields.items() if value not in ("", 0, [], False))
        sys.stdout.write(
            render.clean(f"{at} {kind.rpartition('.')[0]:<26} {object_id[:12]:<12} {facts}") + "\n"
        )
    sys.stdout.flush()


async def status(arguments: Namespace) -> int:
    """Show the node's conditions and handlers."""
    async with node(arguments.run_dir) as on:
        version = await on.runtime.Version(cri.VersionRequest(), timeout=TIMEOUT_S)
        found = await on.runtime.Status(cri.StatusRequest(), timeout=TIMEOUT_S)
    if arguments.output == "json":
        render.messages([version, found])
        return 0
    sys.stdout.write(f"{version.runtime_name} {version.runtime_version}, CRI {version.runtime_api_version}\n")
    rows = [(c.type, "yes" if c.status else "no", c.reason, c.message) for c in found.status.conditions]
    render.table(("CONDITION", "TRUE", "REASON", "MESSAGE"), rows)
    sys.stdout.write("handlers: " + ", ".join(h.name or "(default)" for h in found.runtime_handlers) + "\n")
    return 0 if all(c.status for c in found.status.conditions) else 1
