"""What each lifecycle event changes in the view of its node."""

from typing import Protocol

from common.events import schema
from common.events.schema import Event
from opsd.news import Container, Pod

NS_PER_MS = 1_000_000


class View(Protocol):
    """The part of a node's view that events change."""

    name: str
    pods: dict[str, Pod]
    containers: dict[str, Container]
    changed_ms: dict[str, float]
    stale: bool


def change(view: View, event: Event, at_ms: float) -> set[str]:
    """Change the view; returns the ids of what is different now."""
    match event:
        case (
            schema.SandboxCreated() | schema.SandboxReady() | schema.SandboxStopped() | schema.SandboxFailed()
        ):
            _pod(view, event, at_ms)
        case schema.SandboxRemoved():
            view.pods.pop(event.id, None)
        case schema.ContainerCreated():
            view.containers[event.id] = Container(
                id=event.id,
                node=view.name,
                pod=event.sandbox_id,
                name=event.name,
                attempt=event.attempt,
                image=event.image,
                state="created",
                created=at_ms,
            )
        case schema.ContainerRemoved():
            view.containers.pop(event.id, None)
        case (
            schema.ContainerStarted()
            | schema.ContainerExited()
            | schema.ContainerUnknown()
            | schema.ContainerPaused()
            | schema.ContainerResumed()
            | schema.ContainerOomKilled()
            | schema.ContainerStartFailed()
        ):
            if not _container(view, event, at_ms):
                return set()
        case _:
            return set()
    view.changed_ms[event.id] = at_ms
    return {event.id}


def _pod(view: View, event: Event, at_ms: float) -> None:
    if isinstance(event, schema.SandboxCreated):
        view.pods[event.id] = Pod(
            id=event.id,
            node=view.name,
            name=event.name,
            namespace=event.namespace,
            uid=event.uid,
            attempt=event.attempt,
            state="creating",
            created=at_ms,
            handler=event.handler,
        )
        return
    pod = view.pods.get(event.id)
    if pod is None:
        view.stale = True
    elif isinstance(event, schema.SandboxReady):
        pod.state, pod.ips = "ready", event.ips
    else:
        pod.state = "notready" if isinstance(event, schema.SandboxStopped) else "failed"


def _container(view: View, event: Event, at_ms: float) -> bool:
    container = view.containers.get(event.id)
    if container is None:
        view.stale = True  # it was made before we listened
        return False
    match event:
        case schema.ContainerStarted():
            container.state = "running"
            container.started = (event.started_at_ns / NS_PER_MS) or at_ms
        case schema.ContainerExited():
            container.state = "exited"
            container.code, container.reason = event.exit_code, event.reason
            container.finished = (event.finished_at_ns / NS_PER_MS) or at_ms
        case schema.ContainerStartFailed():
            container.state, container.code, container.reason = "exited", 128, "StartError"
            container.finished = at_ms
        case schema.ContainerPaused():
            container.state = "paused"
        case schema.ContainerResumed():
            container.state = "running"
        case schema.ContainerOomKilled():
            container.reason = "OOMKilled"
        case _:
            container.state = "unknown"
    return True
