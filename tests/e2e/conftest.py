"""One registry and one node for all; each test makes pods of its own and removes them."""

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from devtools.chromium import Page, chromium
from devtools.cri import Cri, connect
from devtools.registry import Registry, push_busybox, registry
from tests.support.node import TestNode, running_node
from torture.again import Again


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    if os.geteuid() != 0:
        pytest.skip("a node needs root")
    with registry(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture(scope="session")
def busybox(shop: Registry) -> str:
    return push_busybox(shop)


@pytest.fixture(scope="session")
def node(shop: Registry, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestNode]:
    with running_node(Path(tmp_path_factory.mktemp("node"))) as running:
        yield running


@pytest.fixture
async def cri(node: TestNode) -> AsyncIterator[Cri]:
    async with connect(node.socket, node.logs) as client:
        yield client
        await Again()("remove all", client.remove_all)  # a service that a test has killed may not be back


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with chromium(tmp_path_factory.mktemp("chromium")) as page:
        yield page
