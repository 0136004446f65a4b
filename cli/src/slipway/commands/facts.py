"""inspect: all that is known of containers and pods, as JSON."""

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

from common.api.cri.v1 import api_pb2 as cri
from common.api.runtime.v1 import runtime_pb2 as pb
from common.errors import InvalidArgumentError, NotFoundError
from slipway.commands.imagefacts import facts_of
from slipway.connect import Node, imaged, node
from slipway.containers.sizes import written
from slipway.output import render


async def containers(arguments: Namespace) -> int:
    """Print all that is known of containers, and of images by names that no container has."""
    documents = []
    async with node(arguments.run_dir) as on:
        for name in arguments.container:
            try:
                found = None if arguments.type == "image" else await on.container(name)
            except NotFoundError:
                if arguments.type:
                    raise
                found = None
            if found is None:
                documents.append(await _image(on, name, arguments.type))
                continue
            documents.append(await _container(on, found))
            if arguments.size:
                documents[-1]["written_bytes"] = (await written(arguments.run_dir, [found.id]))[found.id]
    render.document(documents)
    return 0


async def _image(on: Node, name: str, kind: str | None) -> dict[str, Any]:
    try:
        async with imaged(on.run_dir) as client:
            return facts_of(await client.get(name))
    except (NotFoundError, InvalidArgumentError) as exc:
        if kind:
            raise
        message = f"no container or image {name!r}: `slipway ps -a` and `slipway images` list them"
        raise NotFoundError(message) from exc


async def _container(on: Node, found: Any) -> dict[str, Any]:
    """What CRI tells, and what it has for the pod alone or nowhere."""
    request = cri.ContainerStatusRequest(container_id=found.id, verbose=True)
    answer = await on.runtime.ContainerStatus(request)
    pod = cri.PodSandboxStatusRequest(pod_sandbox_id=found.pod_sandbox_id)
    network = (await on.runtime.PodSandboxStatus(pod)).status.network
    entries = (await on.backend.Overview(pb.OverviewRequest())).containers
    ports = next((entry.ports for entry in entries if entry.container.id == found.id), ())
    own = json.loads(answer.info["info"])
    own.pop("runtimeSpec", None)  # a file of the bundle, which is told
    answer.info["info"] = json.dumps(own)
    return render.fields(answer) | {
        "network": {
            "ips": [ip for ip in (network.ip, *(other.ip for other in network.additional_ips)) if ip],
            "ports": [render.fields(mapping) for mapping in ports],
        },
        "process": _process(own["bundle"]),
    }


def _process(bundle: str) -> dict[str, Any]:
    """What its init was told to run, by the bundle: no service hands out variables, which may be secrets."""
    try:
        found = json.loads(Path(bundle, "config.json").read_bytes())["process"]
    except (OSError, ValueError, KeyError):  # there is none, as after a reboot
        return {}
    return {key: found.get(key) for key in ("args", "cwd", "env")}


async def pods(arguments: Namespace) -> int:
    """Print all that is known of pods."""
    documents = []
    async with node(arguments.run_dir) as on:
        for name in arguments.pod:
            found = await on.pod(name)
            request = cri.PodSandboxStatusRequest(pod_sandbox_id=found.id, verbose=True)
            answer = await on.runtime.PodSandboxStatus(request)
            documents.append(render.fields(answer))
    render.document(documents)
    return 0
