"""What a word for a container means, of those that are there."""

import pytest

from common.api.runtime.v1 import runtime_pb2 as pb
from common.errors import InvalidArgumentError, NotFoundError
from slipway.connect import Node

pytestmark = pytest.mark.anyio


class _Backend:
    """runtimed, which tells of containers with these ids and names."""

    def __init__(self, **names: str) -> None:
        self._overview = pb.OverviewResponse()
        for container_id, name in names.items():
            container = self._overview.containers.add().container
            container.id, container.metadata.name = container_id, name

    async def Overview(self, _request: pb.OverviewRequest) -> pb.OverviewResponse:
        return self._overview


async def _meant(word: str, **names: str) -> str:
    return str((await Node("", None, None, _Backend(**names)).container(word)).id)


async def test_a_name_comes_before_the_beginning_of_an_id() -> None:
    there = {"abc1": "web", "dd22": "abc"}
    assert [await _meant(word, **there) for word in ("web", "abc", "abc1", "d")] == [
        "abc1",
        "dd22",
        "abc1",
        "dd22",
    ]


async def test_what_fits_several_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="means 2 containers"):
        await _meant("ab", abc1="web", abd2="db")


async def test_an_empty_word_means_none_though_there_is_only_one() -> None:
    with pytest.raises(NotFoundError, match="no container ''"):
        await _meant("", abc1="web")
