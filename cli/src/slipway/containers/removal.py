"""What goes with a container or a pod when it is removed: the pod that `run` made for it, and its logs."""

import re
import shutil

from common.api.cri.v1 import api_pb2 as cri
from slipway.connect import OWNER, Node, log_root


async def remove(on: Node, container_id: str, sandbox_id: str) -> None:
    """Remove a container, and its sandbox when the command line made it."""
    await on.runtime.RemoveContainer(cri.RemoveContainerRequest(container_id=container_id))
    for sandbox in await on.pods():
        if sandbox.id == sandbox_id and sandbox.labels.get(OWNER) == "run":
            await remove_pod(on, sandbox_id, sandbox.metadata.uid)


async def remove_pod(on: Node, sandbox_id: str, uid: str) -> None:
    """Stop and remove a sandbox that the command line made, with its logs; no id when it was not made."""
    if sandbox_id:
        await on.runtime.StopPodSandbox(cri.StopPodSandboxRequest(pod_sandbox_id=sandbox_id))
        await on.runtime.RemovePodSandbox(cri.RemovePodSandboxRequest(pod_sandbox_id=sandbox_id))
    _drop_logs(on.run_dir, uid)


def _drop_logs(run_dir: str, uid: str) -> None:
    if re.fullmatch(r"[0-9a-f-]{36}", uid):  # ours; another client's uid must not name a path
        shutil.rmtree(f"{log_root(run_dir)}/{uid}", ignore_errors=True)
