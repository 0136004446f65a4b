"""What a service said to a call that it refused."""

import grpc
import pytest


def told(caught: pytest.ExceptionInfo[grpc.RpcError]) -> str:
    """The text of the refusal; empty when there is none, which the service never does."""
    return caught.value.details() or ""
