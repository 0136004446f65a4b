"""What runtimed lists as going on."""

import signal

import anyio
import grpc

from common.api.cri.v1 import api_pb2 as cri
from common.api.operations.v1 import operations_pb2 as pb
from common.api.operations.v1 import operations_pb2_grpc as rpc
from services.runtimed.tests.daemons import Pods, needs
from tests.support.eventually import until

pytestmark = needs("crun")


async def test_the_making_of_a_shared_pid_namespace_is_no_pause(pods: Pods) -> None:
    config = pods.sandbox_config()
    sandbox_id = await pods.client.run_sandbox(config)
    options = cri.NamespaceOption(network=cri.NODE, pid=cri.POD)
    wanted = pods.container_config("sleep", "100")
    wanted.linux.security_context.namespace_options.CopyFrom(options)
    shimd = pods.daemons.processes["shimd"]
    async with grpc.aio.insecure_channel(f"unix:{pods.daemons.socket}") as channel:

        async def of_sandbox() -> set[str]:
            going = (await rpc.OperationsStub(channel).List(pb.ListRequest())).operations
            return {each.kind for each in going if each.object == sandbox_id}

        async with anyio.create_task_group() as group:
            shimd.send_signal(signal.SIGSTOP)
            try:
                group.start_soon(pods.client.create_container, sandbox_id, wanted, config, pods.image())
                kinds = await until(of_sandbox, "an operation of the sandbox")
            finally:
                shimd.send_signal(signal.SIGCONT)
    assert kinds == {"share pids"}
