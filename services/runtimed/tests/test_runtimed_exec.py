"""Commands in running containers, over gRPC to a real runtimed."""

import grpc
import pytest

from common.api.cri.v1 import api_pb2 as cri
from common.api.runtime.v1 import runtime_pb2_grpc as rpc
from services.runtimed.tests.daemons import Daemons, Pods, needs

pytestmark = needs("crun")
KUBELET_BYTES = 16 << 20
"""The largest message that a kubelet takes."""


@pytest.mark.parametrize(
    ("stdout_mib", "stderr_mib", "kept_mib"),
    [(20, 0, (15, 0)), (0, 20, (0, 15)), (20, 20, (12, 3)), (9, 9, (7, 7))],
)
async def test_much_output_is_cut_to_what_a_kubelet_takes_with_the_exit_code(
    pods: Pods, daemons: Daemons, stdout_mib: int, stderr_mib: int, kept_mib: tuple[int, int]
) -> None:
    _, container_id, _ = await pods.running("sleep", "1000")
    zeros = [f"busybox head -c {size << 20} /dev/zero" for size in (stdout_mib, stderr_mib)]
    request = cri.ExecSyncRequest(container_id=container_id, timeout=30)
    request.cmd.extend(["sh", "-c", f"{zeros[0]}; {zeros[1]} >&2; exit 3"])
    options = [("grpc.default_authority", "localhost"), ("grpc.max_receive_message_length", KUBELET_BYTES)]
    async with grpc.aio.insecure_channel(f"unix:{daemons.socket}", options=options) as channel:
        answer = await rpc.RuntimeStub(channel).ExecSync(request, timeout=60)
    assert answer.exit_code == 3
    assert (len(answer.stdout) >> 20, len(answer.stderr) >> 20) == kept_mib
