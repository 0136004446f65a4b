"""All that may be shown of one container: no value of its environment, and no secret."""

import json
from typing import Any

from common.api.cri.v1 import api_pb2 as cri
from common.api.runtime.v1 import runtime_pb2 as pb
from opsd import redact
from opsd.agent.lists import NS_PER_MS, state_of


def of_container(found: cri.ContainerStatusResponse) -> dict[str, Any]:
    """A container's status, as the page shows it."""
    status, facts = found.status, json.loads(found.info.get("info", "{}"))
    return {
        "id": status.id,
        "name": status.metadata.name,
        "attempt": status.metadata.attempt,
        "state": state_of(found),
        "pod": facts.get("sandboxID", ""),
        "image": status.image.user_specified_image or status.image.image,
        "image_id": status.image_id,
        "created": status.created_at / NS_PER_MS,
        "started": status.started_at / NS_PER_MS,
        "finished": status.finished_at / NS_PER_MS,
        "code": status.exit_code,
        "signal": facts.get("signal", 0),
        "reason": status.reason,
        "message": redact.text(status.message),
        "pid": facts.get("pid", 0),
        "user": f"{status.user.linux.uid}:{status.user.linux.gid}",
        "log_path": status.log_path,
        "rootfs": facts.get("rootfs", ""),
        "cgroup": facts.get("cgroup", ""),
        "trace": facts.get("traceparent", "")[3:35],
        "limits": _limits(status.resources.linux),
        "mounts": [
            {
                "path": m.container_path,
                "source": redact.text(m.host_path or m.image.image),
                "readonly": m.readonly,
            }
            for m in status.mounts
        ],
        "labels": redact.table(status.labels),
        "annotations": redact.table(status.annotations),
    }


def of_explanation(found: pb.Explanation) -> dict[str, Any]:
    """Why a container or pod is as it is; the evidence by its time in Unix milliseconds, 0 for what holds always."""
    return {
        "cause": found.cause,
        "verdict": redact.text(found.verdict),
        "next_steps": [redact.text(step) for step in found.next_steps],
        "evidence": [
            {
                "at": fact.at / NS_PER_MS,
                "kind": fact.what,
                "text": redact.text(fact.text),
                "actor": redact.text(fact.actor),
            }
            for fact in found.evidence
        ],
        "containers": [of_explanation(each) | {"name": each.name} for each in found.containers],
    }


def _limits(found: cri.LinuxContainerResources) -> dict[str, float]:
    limits = {
        "cpu": found.cpu_quota / found.cpu_period if found.cpu_quota > 0 and found.cpu_period else 0,
        "cpu_shares": found.cpu_shares,
        "memory": found.memory_limit_in_bytes,
        "swap": found.memory_swap_limit_in_bytes,
    }
    return {name: limit for name, limit in limits.items() if limit > 0}
