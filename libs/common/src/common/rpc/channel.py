"""A gRPC channel over a Unix socket that carries the trace and raises our errors."""

from contextlib import AbstractContextManager

import grpc
from opentelemetry import propagate
from opentelemetry.trace import SpanKind

from common.observe.trace import span
from common.rpc.plain import PATIENCE_S, Around, plain_channel


def channel(socket: str, *, patience_s: float = PATIENCE_S) -> grpc.aio.Channel:
    """A channel to one service, as common.rpc.plain makes it, with the current trace."""
    return plain_channel(socket, patience_s=patience_s, around=_Traced())


class _Traced(Around):
    def headers(self) -> dict[str, str]:
        carrier = super().headers()
        propagate.inject(carrier)
        return carrier

    def unary(self, name: str) -> AbstractContextManager[object]:
        return span(name, kind=SpanKind.CLIENT)
