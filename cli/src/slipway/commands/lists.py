"""ps, pods: what is on this node. Its imports are counted: people wait for it."""

import sys
import time
from argparse import Namespace

from common.api.cri.v1 import api_pb2 as cri
from common.api.runtime.v1 import runtime_pb2 as pb
from slipway.connect import runtimed
from slipway.options import filters
from slipway.output import render

WIDTH = 24
"""Of the command, unless the whole is asked for."""
_STATES = {
    cri.CONTAINER_CREATED: "Created",
    cri.CONTAINER_RUNNING: "Running",
    cri.CONTAINER_EXITED: "Exited",
    cri.CONTAINER_UNKNOWN: "Unknown",
}


_TESTS: dict[str, filters.Test] = {
    "name": lambda c, value: value in c.container.metadata.name,
    "id": lambda c, value: c.container.id.startswith(value),
    "status": lambda c, value: state(c).partition(" ")[0].lower() == value.lower(),
    "label": lambda c, value: filters.has_label(c.container.labels, value),
    "ancestor": lambda c, value: (
        value in (_image(c.container), c.container.image_id.partition(":")[2][: len(value)])
    ),
    "pod": lambda c, value: value == c.pod_name or c.container.pod_sandbox_id.startswith(value),
    "origin": lambda c, value: c.origin == value,
    "exited": lambda c, value: c.container.state == cri.CONTAINER_EXITED and str(c.exit_code) == value,
}
_VALUES = {
    # docker's last three are no mistake: a script asks for all that do not run
    "status": ("created", "running", "paused", "exited", "unknown", "dead", "removing", "restarting"),
    "origin": ("cri", "command"),
}


async def containers(arguments: Namespace) -> int:
    """List containers, newest first."""
    async with runtimed(arguments.run_dir) as backend:
        found = (await backend.Overview(pb.OverviewRequest())).containers
    shown = filters.chosen(found, arguments.filter, _TESTS, _VALUES)
    if not (
        arguments.all
        or arguments.last >= 0
        or any(f.startswith(("status=", "exited=")) for f in arguments.filter)
    ):
        shown = [c for c in shown if c.container.state == cri.CONTAINER_RUNNING]
    shown.reverse()
    if arguments.last >= 0:
        shown = shown[: arguments.last]
    if arguments.quiet:
        for entry in shown:
            sys.stdout.write(f"{entry.container.id if arguments.no_trunc else entry.container.id[:12]}\n")
        return 0
    sizes = await _sizes(arguments.run_dir, shown) if arguments.size else {}
    if arguments.report == "json":
        more = [{"written_bytes": sizes[c.container.id]} if arguments.size else {} for c in shown]
        render.document([render.fields(c) | own for c, own in zip(shown, more, strict=True)])
        return 0
    headings = ["ID", "NAME", "COMMAND", "STATUS", "CREATED", "IMAGE", "PORTS", "POD"]
    rows: list[tuple[str, ...]] = [_row(entry, whole=arguments.no_trunc) for entry in shown]
    if arguments.size:
        headings.append("SIZE")
        rows = [
            (*row, render.size(sizes[entry.container.id])) for row, entry in zip(rows, shown, strict=True)
        ]
    render.table(headings, rows)
    return 0


async def _sizes(run_dir: str, shown: list[pb.ContainerOverview]) -> dict[str, int]:
    from slipway.containers.sizes import written

    return await written(run_dir, [entry.container.id for entry in shown])


def _row(entry: pb.ContainerOverview, *, whole: bool) -> tuple[str, ...]:
    container = entry.container
    image = _image(container)
    ports = ", ".join(port(mapping) for mapping in entry.ports if mapping.host_port)
    return (
        container.id if whole else container.id[:12],
        container.metadata.name,
        entry.command if whole or len(entry.command) <= WIDTH else entry.command[: WIDTH - 1] + "…",
        _status(entry),
        render.age(container.created_at),
        image,
        ports,
        container.pod_sandbox_id if whole else container.pod_sandbox_id[:12],
    )


def _image(container: cri.Container) -> str:
    return container.image.user_specified_image or container.image.image


def state(entry: pb.ContainerOverview) -> str:
    """One word for people; the exit code with an end."""
    if entry.paused:
        return "Paused"
    word = _STATES[entry.container.state]
    return f"{word} ({entry.exit_code})" if entry.container.state == cri.CONTAINER_EXITED else word


def _status(entry: pb.ContainerOverview) -> str:
    """The state, and since when."""
    if entry.container.state == cri.CONTAINER_RUNNING and entry.started_at:
        return f"{state(entry)} {render.span(entry.started_at, time.time_ns())}"
    if entry.container.state == cri.CONTAINER_EXITED and entry.finished_at:
        return f"{state(entry)} {render.span(entry.finished_at, time.time_ns())} ago"
    return state(entry)


def port(mapping: cri.PortMapping) -> str:
    """Where a port of a pod is on the node, as docker shows it."""
    address = mapping.host_ip or "0.0.0.0"
    host = f"[{address}]" if ":" in address else address
    protocol = cri.Protocol.Name(mapping.protocol).lower()
    return f"{host}:{mapping.host_port}->{mapping.container_port}/{protocol}"


async def pods(arguments: Namespace) -> int:
    """List sandboxes."""
    async with runtimed(arguments.run_dir) as backend:
        found = [entry.pod for entry in (await backend.Overview(pb.OverviewRequest())).pods]
    if arguments.report == "json":
        render.messages(found)
        return 0
    rows = [
        (
            pod.id[:12],
            pod.metadata.namespace,
            pod.metadata.name,
            "Ready" if pod.state == cri.SANDBOX_READY else "NotReady",
            render.age(pod.created_at),
        )
        for pod in sorted(found, key=lambda p: -p.created_at)
    ]
    render.table(("ID", "NAMESPACE", "NAME", "STATE", "CREATED"), rows)
    return 0
