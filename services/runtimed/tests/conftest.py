"""The daemons of a test module, and pods on them; a module whose daemons need more has a `daemons` of its own."""

from collections.abc import AsyncIterator, Iterator

import pytest

from services.runtimed.tests.daemons import Daemons, Pods, kubelet, running_daemons


@pytest.fixture(scope="module")
def daemons() -> Iterator[Daemons]:
    with running_daemons() as found:
        yield found


@pytest.fixture
async def pods(daemons: Daemons) -> AsyncIterator[Pods]:
    async with kubelet(daemons) as found:
        yield found
