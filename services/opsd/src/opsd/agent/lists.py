"""The pods and containers of this node, from runtimed."""

import json

from common.api.cri.v1 import api_pb2 as cri
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
    """Lists; what a list of CRI lacks is asked for once in each state of an object."""

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
        sandboxes = await self._runtimed.list_sandboxes()
        containers = await self._runtimed.list_containers()
        turns = Turns()
        pods: dict[str, Pod] = {}
        for item in sandboxes:
            pods[item.id] = await self._pod(item)
            await turns.give()
        found: dict[str, Container] = {}
        for each in containers:
            found[each.id] = await self._container(each)
            await turns.give()
        self._pods, self._containers = pods, {i: row for i, row in found.items() if i not in self._changed}
        return Lists(
            node=self._node,
            at_ns=at_ns,
            pods=list(pods.values()),
            containers=list(found.values()),
        )

    async def _pod(self, item: cri.PodSandbox) -> Pod:
        state = "ready" if item.state == cri.SANDBOX_READY else "notready"
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

    async def _container(self, item: cri.Container) -> Container:
        state = STATES[item.state]
        known = self._containers.get(item.id)
        if known and known.state in (state, _WITHIN.get(state)):
            return known
        container = Container(
            id=item.id,
            pod=item.pod_sandbox_id,
            name=item.metadata.name,
            attempt=item.metadata.attempt,
            image=item.image.user_specified_image or item.image.image or item.image_ref,
            state=state,
            created=item.created_at / NS_PER_MS,
        )
        if state == "created":
            return container
        try:
            found = await self._runtimed.container_status(item.id, verbose=True)
        except NotFoundError:
            return container
        status = found.status
        container.state = state_of(found)
        container.started = status.started_at / NS_PER_MS
        container.finished = status.finished_at / NS_PER_MS
        container.code = status.exit_code
        container.reason = status.reason
        return container
