"""Whose Redis goes on without its file, and when."""

from pathlib import Path

import pytest

from common.records import redis
from runtimed import redisfile
from runtimed.redisfile import RedisFile
from tests.support.brokers import redis_server
from tests.support.eventually import until

pytestmark = [pytest.mark.anyio, pytest.mark.integration, pytest.mark.timeout(60)]
FULL = 1 << 62
"""More than any disk has free."""


async def test_the_nodes_own_goes_on_without_and_writes_all_of_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with redis_server(tmp_path / "redis") as server:
        client = await redis.connect(server.url)
        file = RedisFile(client, str(tmp_path))
        monkeypatch.setattr(redisfile, "LOW_BYTES", 0)
        await file.look()
        assert await redis.appends(client)
        monkeypatch.setattr(redisfile, "LOW_BYTES", FULL)
        monkeypatch.setattr(redisfile, "ROOM_BYTES", FULL)
        await file.look()
        assert not await redis.appends(client)
        await client.set("made", "meanwhile")
        await file.look()
        assert not await redis.appends(client)
        monkeypatch.setattr(redisfile, "ROOM_BYTES", 0)
        await file.look()
        assert await redis.appends(client)

        async def written() -> bool:
            bases = (tmp_path / "redis" / "appendonlydir").glob("*.base.*")
            return any(b"meanwhile" in base.read_bytes() for base in bases)

        await until(written, "the new file")
        await client.aclose()


async def test_one_of_others_is_let_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "node" / "redis").mkdir(parents=True)
    with redis_server(tmp_path / "others") as server:
        client = await redis.connect(server.url)
        monkeypatch.setattr(redisfile, "LOW_BYTES", FULL)
        await RedisFile(client, str(tmp_path / "node")).look()
        assert await redis.appends(client)
        await client.aclose()
