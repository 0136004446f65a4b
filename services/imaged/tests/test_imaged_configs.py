"""Configs: what a list tells of them, and how many stay in memory."""

import json

import pytest

from imaged.configs import MAX_KEPT_BYTES, MAX_TEXT, Facts, facts_of
from services.imaged.tests.conftest import Node, RealRegistry, Tools

pytestmark = [pytest.mark.anyio, pytest.mark.integration]


def config_with(user: object, created: object = "2024-01-01T00:00:00Z") -> bytes:
    return json.dumps({"created": created, "config": {"User": user, "Env": ["A=B"]}}).encode()


def test_user_and_time_are_as_the_config_says() -> None:
    assert facts_of(config_with("1000:é")) == Facts("1000:é", "2024-01-01T00:00:00Z")


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"null", b"{", b"\xff", b'{"config": []}', b'{"config": {"User": 0}}', b'{"config": "root"}',
     b'{"config": null}', b'{"config": {"User": "\xff"}}', b"[" * 100_000, b'{"config":' * 100_000],
)  # fmt: skip
def test_a_config_of_a_wrong_shape_has_no_user(body: bytes) -> None:
    assert facts_of(body) == Facts()


def test_a_wrong_fact_hides_no_other() -> None:
    assert facts_of(config_with("app", created=5)) == Facts("app", "")
    assert facts_of(config_with(["root"])) == Facts("", "2024-01-01T00:00:00Z")
    assert facts_of(config_with("x" * 1_000_000)).user == "x" * MAX_TEXT


async def test_large_configs_do_not_pile_up_in_memory(
    node: Node, real_registry: RealRegistry, tools: Tools
) -> None:
    configs = node.images.configs
    for number in range(5):
        image = tools.image_of([], author="a" * (MAX_KEPT_BYTES // 3), created=str(number))
        record = await node.pull(real_registry.push("configs/large", str(number), image))
        assert await configs.read(record) == image.blobs[record.id]
        assert (await configs.facts(record)).created == str(number)
        assert sum(map(len, configs._kept.values())) <= MAX_KEPT_BYTES
