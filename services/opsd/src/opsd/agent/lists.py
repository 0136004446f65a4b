"""The pods and containers of this node, from runtimed."""

import json
from contextlib import suppress

from common.api.cri.v1 import api_pb2 as cri
from common.api.runtime.v1 import runtime_pb2 as pb
from common.clients.runtimed import RuntimedClient
from common.clock import now_ns
from common.errors import NotFoundError
from common.turns import Turns
from opsd.news import Container, Lists, Pod

NS_PER_MS = 1_000_000
STATES = {
    cri.CONTAINER_CREATED: "created",
    cri.CONTAINER_RUNNING: "running",
    cri.CONTAINER_EXITED: "exited",
    cri.CONTAINER_UNKNOWN: "unknown",
}

_WITHIN = {"running": "paused"}
"""What CRI has no word for, by what it says instead."""


def state_of(found: cri.ContainerStatusResponse) -> str:
    """created, running, paused, exited or unknown; a verbose status tells all."""
    told = json.loads(found.info.get("info", "{}")).get("state", "")
    state = STATES[found.status.state]
    return told if told == _WITHIN.get(state) else state


class Lister:
    """Lists of what CRI and the command made; what they lack is asked for once in each state of an object."""

    def __init__(self, node: str, runtimed: RuntimedClient) -> None:
        self._node = node
        self._runtimed = runtimed
        self._pods: dict[str, Pod] = {}
        self._containers: dict[str, Container] = {}
        self._changed: set[str] = set()
        """What was forgotten while the lists were read."""

    def forget(self, object_id: str) -> None:
        """Something happened to it: ask again what its state in the list does not tell."""
        self._containers.pop(object_id, None)
        self._changed.add(object_id)

    async def read(self) -> Lists:
        """All of it; raises common.errors."""
        at_ns = now_ns()
        self._changed.clear()
        overview = await self._runtimed.overview()
        turns = Turns()
        pods: dict[str, Pod] = {}
        for pod in overview.pods:
            pods[pod.pod.id] = await self._pod(pod)
            await turns.give()
        found: dict[str, Container] = {}
        for each in overview.containers:
            found[each.container.id] = await self._container(each)
            await turns.give()
        self._pods, self._containers = pods, {i: row for i, row in found.items() if i not in self._changed}
        return Lists(
            node=self._node,
            at_ns=at_ns,
            pods=list(pods.values()),
            containers=list(found.values()),
        )

    async def _pod(self, told: pb.PodOverview) -> Pod:
        item = told.pod
        unready = "failed" if told.error else "notready"
        state = "ready" if item.state == cri.SANDBOX_READY else unready
        known = self._pods.get(item.id)
        if known and known.state == state:
            return known
        pod = Pod(
            id=item.id,
            name=item.metadata.name,
            namespace=item.metadata.namespace,
            uid=item.metadata.uid,
            attempt=item.metadata.attempt,
            state=state,
            created=item.created_at / NS_PER_MS,
            handler=item.runtime_handler,
        )
        try:
            status = (await self._runtimed.sandbox_status(item.id)).status
        except NotFoundError:
            return pod
        network = status.network
        pod.ips = [ip for ip in (network.ip, *(each.ip for each in network.additional_ips)) if ip]
        pod.host_network = status.linux.namespaces.options.network == cri.NODE
        return pod

    async def _container(self, told: pb.ContainerOverview) -> Container:
        item = told.container
        state = "paused" if told.paused else STATES[item.state]
        known = self._containers.get(item.id)
        if known and known.state == state:
            return known
        container = Container(
            id=item.id,
            pod=item.pod_sandbox_id,
            name=item.metadata.name,
            attempt=item.metadata.attempt,
            image=item.image.user_specified_image or item.image.image or item.image_ref,
            state=state,
            created=item.created_at / NS_PER_MS,
            started=told.started_at / NS_PER_MS,
            finished=told.finished_at / NS_PER_MS,
            code=told.exit_code,
        )
        if state == "created":
            return container
        with suppress(NotFoundError):  # it went meanwhile, and the next lists are without it
            container.reason = (await self._runtimed.container_status(item.id)).status.reason
        return container
