"""The node itself, when one is meant to run: its sockets, services, Redis, NATS and clock."""

import stat
from typing import Any

import anyio

from common.errors import SlipwayError
from common.sys import linux
from slipway.doctor.finding import Finding, Level, Machine
from slipway.upkeep import upkeep

SERVICES = ("snapshotd", "shimd", "imaged", "runtimed", "crid", "opsd")
OWNERS = ("imaged", "snapshotd", "runtimed")
"""Services that tell events."""
HEALTH_S = 3.0
TARGET = "/usr/local/lib/systemd/system/slipway.target"
UNITS_RUN_DIR = "/run/slipway"
"""What `./dev install` has put there, and the run directory that is written in it."""


def sockets(machine: Machine) -> list[Finding]:
    """Whether others than root reach what is not for them."""
    found = []
    for service in SERVICES:
        path = machine.at(f"{machine.run_dir}/{service}.sock")
        if path.exists() and (mode := stat.S_IMODE(path.stat().st_mode)) & 0o007:
            text = f"{path} has mode {mode:o}: every user of the machine can run containers as root"
            found.append(Finding("sockets", Level.FAIL, text, f"chmod {mode & ~0o007:o} {path}"))
    return found or [Finding("sockets", Level.OK, "closed to others")]


def clock(_machine: Machine) -> Finding:
    if linux.clock_is_synchronised():
        return Finding("clock", Level.OK, "synchronised")
    fix = "Run chrony or systemd-timesyncd: times of events and logs of several nodes do not fit otherwise."
    return Finding("clock", Level.NOTE, "the kernel knows of no synchronisation", fix)


async def services(machine: Machine, facts: dict[str, Any]) -> list[Finding]:
    """Each service, asked for its health."""
    if not facts:
        return [unknown(machine)]
    healthy: dict[str, bool] = {}

    async def ask(service: str) -> None:
        healthy[service] = await _healthy(f"{machine.run_dir}/{service}.sock")

    async with anyio.create_task_group() as group:  # each that is down takes HEALTH_S
        for service in SERVICES:
            group.start_soon(ask, service)
    down = [service for service in SERVICES if not healthy[service]]
    if down:
        keeper = upkeep(machine.run_dir, *down)
        fix = f"Look at {keeper.logs}; {keeper.start} starts what is down."
        return [Finding("services", Level.FAIL, f"{', '.join(down)} not serving", fix)]
    return [Finding("services", Level.OK, "all serve")]


def unknown(machine: Machine) -> Finding:
    """Why no node is known: there is none, or this user may not see it."""
    path = machine.at(f"{machine.run_dir}/node.json")
    try:
        path.open("rb").close()
    except PermissionError:
        text = f"{path} needs root: the node is not looked at"
        return Finding("node", Level.WARN, text, "Run it with sudo.")
    except OSError:
        pass  # there is none
    installed = machine.run_dir == UNITS_RUN_DIR and machine.at(TARGET).exists()
    start = "sudo systemctl start slipway.target" if installed else "sudo ./dev up"
    return Finding("node", Level.NOTE, f"none is known in {machine.run_dir}", f"Start one: `{start}`.")


async def _healthy(path: str) -> bool:
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    from common.rpc.plain import plain_channel

    channel = plain_channel(path, patience_s=HEALTH_S)
    try:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=HEALTH_S)
    except SlipwayError:
        return False
    finally:
        await channel.close()
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def _start(machine: Machine, facts: dict[str, Any], server: str) -> str:
    """What has Redis or NATS serve again."""
    if server not in facts.get("servers", (server,)):
        return "It is one of others: have it started there"
    return f"{upkeep(machine.run_dir, server).start} starts it"


async def redis(machine: Machine, facts: dict[str, Any]) -> list[Finding]:
    from common.records.redis import appends, connect

    if not facts:
        return []
    client = await connect(str(facts["redis_url"]))
    try:
        durable = await appends(client)
    except SlipwayError as exc:
        fix = f"{_start(machine, facts, 'redis')}; nothing can be changed until it answers."
        return [Finding("Redis", Level.FAIL, exc.message, fix)]
    finally:
        await client.aclose()
    if durable:
        return [Finding("Redis", Level.OK, "answers, and keeps an append-only file")]
    text = "keeps no append-only file: a restart of it loses state, which is rebuilt from copies beside the containers"
    fix = "Free its disk, where less than 16 MiB are free; else start it with --appendonly yes."
    return [Finding("Redis", Level.WARN, text, fix)]


async def outboxes(_machine: Machine, facts: dict[str, Any]) -> list[Finding]:
    """What waits for NATS, and what was given up meanwhile."""
    from common.records import outbox
    from common.records.redis import connect

    if not facts:
        return []
    client = await connect(str(facts["redis_url"]))
    try:
        held = {owner: await outbox.held(client, str(facts["node"]), owner) for owner in OWNERS}
    except SlipwayError:
        return []  # the check of Redis says so
    finally:
        await client.aclose()
    lost = {owner: found.lost_ever for owner, found in held.items() if found.lost_ever}
    if lost:
        told = ", ".join(f"{count} of {owner}" for owner, count in lost.items())
        fix = "Their numbers are missing in the history. See why NATS was away; outbox_max_bytes sets how much may wait."
        return [Finding("events", Level.WARN, f"given up, as there was no room for more: {told}", fix)]
    waiting = sum(found.size_bytes for found in held.values())
    return [Finding("events", Level.OK, f"none lost, {waiting // 1024} KiB wait for NATS")]


async def nats(machine: Machine, facts: dict[str, Any]) -> list[Finding]:
    from common.events.bus import Bus

    if not facts:
        return []
    try:
        bus = await Bus.connect(str(facts["nats_url"]), attempts=1)
    except SlipwayError as exc:
        fix = f"{_start(machine, facts, 'nats')}; events wait in Redis until it answers."
        return [Finding("NATS", Level.WARN, exc.message, fix)]
    try:
        await bus.ensure_stream()
    except SlipwayError as exc:
        hint = "Start it with --jetstream, and room on its disk: events wait in Redis until then."
        return [Finding("NATS", Level.WARN, exc.message, hint)]
    finally:
        await bus.close()
    return [Finding("NATS", Level.OK, "answers, with JetStream")]


CHECKS = (sockets, clock)
ASKING = (services, redis, nats, outboxes)
"""Checks that ask the node, by what its supervisor has written down."""
