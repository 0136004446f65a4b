"""pods: list, inspect, stop and remove sandboxes."""

import sys
from argparse import Namespace

from google.protobuf.json_format import MessageToDict

from common.api.cri.v1 import api_pb2 as cri
from common.errors import FailedPreconditionError
from slipway import render
from slipway.commands.containers import remove_pod
from slipway.connect import OWNER, TIMEOUT_S, node


async def ps(arguments: Namespace) -> int:
    """List sandboxes."""
    async with node(arguments.run_dir) as on:
        found = (await on.runtime.ListPodSandbox(cri.ListPodSandboxRequest(), timeout=TIMEOUT_S)).items
    if arguments.output == "json":
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


async def inspect(arguments: Namespace) -> int:
    """Print all that is known of pods."""
    documents = []
    async with node(arguments.run_dir) as on:
        for name in arguments.pod:
            request = cri.PodSandboxStatusRequest(pod_sandbox_id=(await on.pod(name)).id, verbose=True)
            answer = await on.runtime.PodSandboxStatus(request, timeout=TIMEOUT_S)
            # A ready sandbox's state is the enum's zero, which would be left out.
            documents.append(
                MessageToDict(
                    answer, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
                )
            )
    render.document(documents)
    return 0


async def stop(arguments: Namespace) -> int:
    """Stop pods, with all their containers."""
    async with node(arguments.run_dir) as on:
        for name in arguments.pod:
            request = cri.StopPodSandboxRequest(pod_sandbox_id=(await on.pod(name)).id)
            await on.runtime.StopPodSandbox(request, timeout=TIMEOUT_S)
            sys.stdout.write(f"{render.clean(name)}\n")
    return 0


async def rm(arguments: Namespace) -> int:
    """Remove pods, with all their containers."""
    async with node(arguments.run_dir) as on:
        for name in arguments.pod:
            found = await on.pod(name)
            if found.state == cri.SANDBOX_READY and not arguments.force:
                message = f"pod {name!r} is ready: stop it first, or give --force"
                raise FailedPreconditionError(message)
            if OWNER in found.labels:
                await remove_pod(on, found.id, found.metadata.uid)
            else:  # its logs are its maker's
                request = cri.RemovePodSandboxRequest(pod_sandbox_id=found.id)
                await on.runtime.RemovePodSandbox(request, timeout=TIMEOUT_S)
            sys.stdout.write(f"{render.clean(name)}\n")
    return 0
