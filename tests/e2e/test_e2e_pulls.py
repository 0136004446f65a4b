"""`slipway pull`, as its user sees it: who is first, how far it is."""

import json
from collections.abc import Iterator
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from devtools.registry import file, layer
from tests.support.eventually import eventually
from tests.support.gate import Gate, gate
from tests.support.node import TestNode, running_node

pytestmark = [pytest.mark.e2e, pytest.mark.root, pytest.mark.anyio, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def node(shop, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestNode]:
    """A node that fetches one blob at a time."""
    root = Path(tmp_path_factory.mktemp("pulls"))
    with running_node(root, settings={"SLIPWAY_IMAGED_MAX_DOWNLOADS": "1"}) as running:
        yield running


@pytest.fixture
def door(shop) -> Iterator[Gate]:
    with gate(shop.address) as made:
        yield made


def _push(shop, name: str) -> str:
    shop.push(f"pulls/{name}", [layer([file(name, name.encode())])], {})
    return f"pulls/{name}:latest"


async def test_a_pull_of_higher_priority_is_first(node: TestNode, shop, door: Gate) -> None:
    names = [_push(shop, name) for name in ("first", "second", "urgent")]
    door.open.clear()

    def waiting(count: int) -> bool:
        done = node.slipway("ops", "-o", "json")
        pulls = [each for each in json.loads(done.stdout) if each["kind"] == "pull"]
        return len([each for each in pulls if each["step"] == "imaged.blob.fetch"]) == count

    async with anyio.create_task_group() as group:

        async def pull(name: str, *arguments: str) -> None:
            done = await anyio.to_thread.run_sync(
                lambda: node.slipway("pull", *arguments, f"{door.host}/{name}")
            )
            assert (done.returncode, done.stdout[:7]) == (0, "sha256:"), done.stderr

        for count, name in enumerate(names, 1):
            group.start_soon(pull, name, *(("--priority", "5") if "urgent" in name else ()))
            await anyio.to_thread.run_sync(
                lambda wanted=count: eventually(
                    lambda: waiting(wanted), what=f"{wanted} pulls wait for blobs"
                )
            )
        door.open.set()
    order = [path.split("/")[3] for path in door.asked if "/blobs/" in path]
    assert order[1:3] == ["urgent", "urgent"]
    assert sorted(order) == sorted(["first", "second", "urgent"] * 2)


def test_a_priority_that_is_none_is_refused(node: TestNode) -> None:
    for text in ("high", "1001"):
        done = node.slipway("pull", "--priority", text, "registry.example/app:1")
        assert done.returncode == 125
        assert f"--priority: '{text}' is no number" in done.stderr
