"""events, status."""

import sys
import time
from argparse import Namespace
from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import datetime
from typing import TYPE_CHECKING

import anyio

from common.api.cri.v1 import api_pb2 as cri
from common.errors import InvalidArgumentError, SlipwayError
from common.events import told
from slipway.connect import nats_url, node
from slipway.options.moments import moment_ns
from slipway.output import render
from slipway.streams import questions

if TYPE_CHECKING:
    from common.events.bus import Bus
    from common.events.schema import Envelope

FILTERS = {"kind": "kind", "verb": "verb", "id": "object_id", "node": "node"}
QUIET_S = 1.0


async def events(arguments: Namespace) -> int:
    """Follow events, from a time on, or up to one."""
    if arguments.decode:
        return _decode(arguments)
    from common.events.bus import Bus, follow

    started_ns = time.time_ns()
    until_ns = started_ns if arguments.until_now else None
    if arguments.until:
        until_ns = moment_ns("--until", arguments.until)
    since_ns = None if until_ns is None else 0
    if arguments.since:
        since_ns = moment_ns("--since", arguments.since)
    chosen = dict(_filter(text) for text in arguments.filter)
    wanted = await _object_id(arguments.run_dir, chosen.pop("object_id", ""))
    url = arguments.nats or nats_url(arguments.run_dir)
    bus = await Bus.connect(
        url, attempts=8
    )  # the end is a moment's silence, which one that does not answer keeps too
    try:
        await bus.ensure_stream()
        await _tell_gone(bus, since_ns if arguments.since else None)
    finally:
        await bus.close()
    async with aclosing(follow(url, since_ns=since_ns, **chosen)) as stream:
        while (envelope := await _next(stream, until_ns)) is not None:
            if until_ns is not None and envelope.at_ns > until_ns:
                break
            if str(envelope.fields().get("id", "")).removeprefix("sha256:").startswith(wanted):
                _show(envelope, arguments.report)
    return 0


async def _tell_gone(bus: "Bus", since_ns: int | None) -> None:
    """Say it when the stream has dropped events of the time that is asked for."""
    first = await bus.first() if since_ns is not None else None
    if first is None or since_ns is None:
        return
    sequence, envelope = first
    if sequence > 1 and envelope.at_ns > since_ns:
        sys.stderr.write(f"slipway: events before {_moment(envelope.at_ns)} are not kept any more\n")


def _decode(arguments: Namespace) -> int:
    """One event from standard input, as it is on NATS.

    Raises:
        InvalidArgumentError: it is none.
    """
    import msgspec

    from common.events.schema import envelope_decoder

    try:
        with questions.answering():
            envelope = envelope_decoder.decode(sys.stdin.buffer.read())
    except msgspec.DecodeError as exc:
        message = f"--decode: standard input is no event: {exc}"
        raise InvalidArgumentError(message) from exc
    _show(envelope, arguments.report)
    return 0


async def _next(stream: "AsyncGenerator[Envelope, None]", until_ns: int | None) -> "Envelope | None":
    left_s = None if until_ns is None else max(0, until_ns - time.time_ns()) / 1e9 + QUIET_S
    with anyio.move_on_after(left_s):
        return await anext(stream, None)
    return None


async def _object_id(run_dir: str, text: str) -> str:
    """The id of a container when this is its name; an id or its beginning as it is."""
    if not text:
        return ""
    try:
        async with node(run_dir) as on:
            return str((await on.container(text)).id)
    except SlipwayError:
        return text.removeprefix("sha256:")


def _filter(text: str) -> tuple[str, str]:
    key, _, value = text.partition("=")
    if key not in FILTERS or not value:
        message = f"--filter {text!r}: want KEY=VALUE with KEY one of {', '.join(FILTERS)}"
        raise InvalidArgumentError(message)
    return FILTERS[key], value


def _show(envelope: "Envelope", output: str) -> None:
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
        sys.stdout.write(render.clean(f"{_moment(envelope.at_ns)} {told.line(fields)}") + "\n")
    sys.stdout.flush()


def _moment(at_ns: int) -> str:
    return datetime.fromtimestamp(at_ns / 1e9).astimezone().isoformat(timespec="milliseconds")


async def status(arguments: Namespace) -> int:
    """Show the node's conditions and handlers."""
    async with node(arguments.run_dir) as on:
        version = await on.runtime.Version(cri.VersionRequest())
        found = await on.runtime.Status(cri.StatusRequest())
    if arguments.report == "json":
        render.messages([version, found])
        return 0
    sys.stdout.write(f"{version.runtime_name} {version.runtime_version}, CRI {version.runtime_api_version}\n")
    rows = [(c.type, "yes" if c.status else "no", c.reason, c.message) for c in found.status.conditions]
    render.table(("CONDITION", "TRUE", "REASON", "MESSAGE"), rows)
    handlers = ", ".join(h.name or "(default)" for h in found.runtime_handlers)
    sys.stdout.write(render.clean(f"handlers: {handlers}") + "\n")
    return 0 if all(c.status for c in found.status.conditions) else 1
