"""slipway.operations.v1 of any service that has operations."""

from typing import Any

import grpc

from common.api.operations.v1 import operations_pb2 as pb
from common.api.operations.v1 import operations_pb2_grpc as rpc
from common.operations import Operation, Operations


def register(server: grpc.aio.Server, operations: Operations) -> None:
    """Answer for them on a server."""
    rpc.add_OperationsServicer_to_server(OperationsServicer(operations), server)


class OperationsServicer(rpc.OperationsServicer):
    """Converts."""

    def __init__(self, operations: Operations) -> None:
        self._operations = operations

    async def List(self, request: pb.ListRequest, context: Any) -> pb.ListResponse:  # noqa: N802 - gRPC's name
        return pb.ListResponse(operations=[_shown(each) for each in self._operations.all()])

    async def Cancel(self, request: pb.CancelRequest, context: Any) -> pb.CancelResponse:  # noqa: N802 - gRPC's name
        return pb.CancelResponse(operation=_shown(self._operations.cancel(request.id)))


def _shown(operation: Operation) -> pb.Operation:
    done, total = operation.progress()
    return pb.Operation(
        id=operation.id,
        kind=operation.kind,
        object=operation.object,
        began_at=operation.began_at_ns,
        step=operation.steps[-1] if operation.steps else "",
        done_bytes=done,
        total_bytes=total,
        caller=operation.caller,
        cancellable=bool(operation.scopes),
    )
