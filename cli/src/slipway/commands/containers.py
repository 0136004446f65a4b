"""ps, stop, rm, inspect, stats."""

import re
import shutil
import sys
from argparse import Namespace
from typing import Any

import anyio
import anyio.to_thread

from common.api.cri.v1 import api_pb2 as cri
from common.errors import FailedPreconditionError
from slipway import render
from slipway.connect import OWNER, TIMEOUT_S, Node, log_root, node

STATES = {
    cri.CONTAINER_CREATED: "Created",
    cri.CONTAINER_RUNNING: "Running",
    cri.CONTAINER_EXITED: "Exited",
    cri.CONTAINER_UNKNOWN: "Unknown",
}
STATS_S = 1.0


async def ps(arguments: Namespace) -> int:
    """List containers."""
    async with node(arguments.run_dir) as on:
        found = (await on.runtime.ListContainers(cri.ListContainersRequest(), timeout=TIMEOUT_S)).containers
        shown = [c for c in found if arguments.all or c.state == cri.CONTAINER_RUNNING]
        if arguments.output == "json":
            render.messages(shown)
            return 0
        rows = []
        for container in sorted(shown, key=lambda c: -c.created_at):
            image = container.image.user_specified_image or container.image.image
            state = STATES[container.state]
            if container.state == cri.CONTAINER_EXITED:
                request = cri.ContainerStatusRequest(container_id=container.id)
                status = (await on.runtime.ContainerStatus(request, timeout=TIMEOUT_S)).status
                state = f"Exited ({status.exit_code})"
            name, pod = container.metadata.name, container.pod_sandbox_id[:12]
            rows.append((container.id[:12], name, state, render.age(container.created_at), image, pod))
    render.table(("ID", "NAME", "STATE", "CREATED", "IMAGE", "POD"), rows)
    return 0


async def stop(arguments: Namespace) -> int:
    """Stop containers, with a grace period."""
    async with node(arguments.run_dir) as on:
        for name in arguments.container:
            found = await on.container(name)
            request = cri.StopContainerRequest(container_id=found.id, timeout=arguments.time)
            await on.runtime.StopContainer(request, timeout=arguments.time + TIMEOUT_S)
            sys.stdout.write(f"{render.clean(name)}\n")
    return 0


async def rm(arguments: Namespace) -> int:
    """Remove containers."""
    async with node(arguments.run_dir) as on:
        for name in arguments.container:
            found = await on.container(name)
            if found.state == cri.CONTAINER_RUNNING and not arguments.force:
                message = f"container {name!r} runs: stop it first, or give --force"
                raise FailedPreconditionError(message)
            await remove(on, found.id, found.pod_sandbox_id)
            sys.stdout.write(f"{render.clean(name)}\n")
    return 0


async def remove(on: Node, container_id: str, sandbox_id: str) -> None:
    """Remove a container, and its sandbox when the command line made it."""
    await on.runtime.RemoveContainer(cri.RemoveContainerRequest(container_id=container_id), timeout=TIMEOUT_S)
    sandboxes = cri.ListPodSandboxRequest(filter=cri.PodSandboxFilter(id=sandbox_id))
    for sandbox in (await on.runtime.ListPodSandbox(sandboxes, timeout=TIMEOUT_S)).items:
        if OWNER in sandbox.labels:
            await remove_pod(on, sandbox_id, sandbox.metadata.uid)


async def remove_pod(on: Node, sandbox_id: str, uid: str) -> None:
    """Stop and remove a sandbox that the command line made, with its logs; no id when it was not made."""
    if sandbox_id:
        stop_request = cri.StopPodSandboxRequest(pod_sandbox_id=sandbox_id)
        await on.runtime.StopPodSandbox(stop_request, timeout=TIMEOUT_S)
        remove_request = cri.RemovePodSandboxRequest(pod_sandbox_id=sandbox_id)
        await on.runtime.RemovePodSandbox(remove_request, timeout=TIMEOUT_S)
    await _drop_logs(on.run_dir, uid)


async def _drop_logs(run_dir: str, uid: str) -> None:
    if re.fullmatch(r"[0-9a-f-]{36}", uid):  # ours; another client's uid must not name a path
        logs = f"{log_root(run_dir)}/{uid}"
        await anyio.to_thread.run_sync(shutil.rmtree, logs, True)


async def inspect(arguments: Namespace) -> int:
    """Print all that is known of containers."""
    from google.protobuf.json_format import MessageToDict

    documents = []
    async with node(arguments.run_dir) as on:
        for name in arguments.container:
            found = await on.container(name)
            request = cri.ContainerStatusRequest(container_id=found.id, verbose=True)
            answer = await on.runtime.ContainerStatus(request, timeout=TIMEOUT_S)
            documents.append(MessageToDict(answer, preserving_proto_field_name=True))
    render.document(documents)
    return 0


async def stats(arguments: Namespace) -> int:
    """Show usage, once or each second."""
    before: dict[str, Any] = {}
    async with node(arguments.run_dir) as on:
        while True:
            request = cri.ListContainerStatsRequest()
            found = (await on.runtime.ListContainerStats(request, timeout=TIMEOUT_S)).stats
            if arguments.output == "json":
                render.messages(found)
            else:
                if not arguments.no_stream and sys.stdout.isatty():
                    sys.stdout.write("\033[H\033[2J")
                rows = [_stats_row(item, before.get(item.attributes.id)) for item in found]
                render.table(("ID", "NAME", "CPU", "MEMORY", "DISK"), rows)
            if arguments.no_stream:
                return 0
            before = {item.attributes.id: item for item in found}
            await anyio.sleep(STATS_S)


def _stats_row(item: Any, before: Any) -> tuple[str, ...]:
    cpu = f"{item.cpu.usage_nano_cores.value / 1e7:.1f}%" if item.cpu.HasField("usage_nano_cores") else "-"
    if before is not None and item.cpu.timestamp > before.cpu.timestamp:
        used = item.cpu.usage_core_nano_seconds.value - before.cpu.usage_core_nano_seconds.value
        cpu = f"{100 * used / (item.cpu.timestamp - before.cpu.timestamp):.1f}%"
    memory = render.size(item.memory.working_set_bytes.value)
    disk = render.size(item.writable_layer.used_bytes.value)
    return (item.attributes.id[:12], item.attributes.metadata.name, cpu, memory, disk)
