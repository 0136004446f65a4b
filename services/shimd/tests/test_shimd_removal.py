"""The end of a shim, however its container went: it comes, and takes nothing along that is still wanted."""

import anyio
import pytest

from common.errors import UnknownError
from tests.support.pace import patience

from .conftest import Node

pytestmark = [pytest.mark.root, pytest.mark.anyio]


async def test_a_shim_whose_runtime_cannot_be_executed_is_removed(node: Node) -> None:
    shim = await node.spawn("a", "true", binary="/no/such/runtime")
    with pytest.raises(UnknownError, match="cannot run /no/such/runtime"):
        await shim.start()
    with anyio.fail_after(patience(5)):
        await node.service.remove("a")
    assert await node.service.list_shims() == []
