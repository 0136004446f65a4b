"""Fixtures that every suite has."""

from collections.abc import AsyncIterator

import pytest


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session", autouse=True)
async def one_loop(anyio_backend: str) -> AsyncIterator[None]:  # noqa: ARG001 - what makes it async
    """One event loop for the whole run: gRPC's poller wakes the loop that it first saw."""
    yield  # noqa: PT022 - to return would give the loop back
