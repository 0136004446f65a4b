"""When a new attempt was made: after the ones before it, also when the clock was set back since.

A kubelet takes the newest sandbox of a pod, and the newest container of a name, for the one that counts.
"""

from collections.abc import Iterable

from common.clock import now_ns
from runtimed.record import ContainerRecord, SandboxRecord
from runtimed.use.parts import Parts


def sandbox_time_ns(parts: Parts, namespace: str, name: str, uid: str) -> int:
    """The time of creation of a new sandbox of a pod."""
    return _after(_of_pod(parts, namespace, name, uid))


def container_time_ns(parts: Parts, sandbox: SandboxRecord, name: str) -> int:
    """The time of creation of a new container, after those of this name in all sandboxes of the pod."""
    pod = {record.id for record in _of_pod(parts, sandbox.namespace, sandbox.name, sandbox.uid)}
    return _after(r for r in parts.containers.store.all() if r.sandbox_id in pod and r.name == name)


def _of_pod(parts: Parts, namespace: str, name: str, uid: str) -> list[SandboxRecord]:
    wanted = (namespace, name, uid)
    return [r for r in parts.sandboxes.store.all() if (r.namespace, r.name, r.uid) == wanted]


def _after(earlier: Iterable[SandboxRecord | ContainerRecord]) -> int:
    return max(now_ns(), max((record.created_at_ns for record in earlier), default=0) + 1)
