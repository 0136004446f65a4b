"""Whose Redis goes on without its file, and when."""

import os
import subprocess
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
MIB = 1 << 20


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


async def test_the_nodes_own_is_known_where_its_directory_is_a_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "data").symlink_to("disk")
    with redis_server(tmp_path / "data" / "redis") as server:
        client = await redis.connect(server.url)
        monkeypatch.setattr(redisfile, "LOW_BYTES", FULL)
        await RedisFile(client, str(tmp_path / "data")).look()
        assert not await redis.appends(client)
        await client.aclose()


@pytest.mark.root
async def test_what_is_kept_for_root_is_no_room_for_another_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of the disk; a node in containers has such a Redis."""
    disk, data = tmp_path / "disk", tmp_path / "data"
    with disk.open("wb") as file:
        file.truncate(64 * MIB)
    data.mkdir()
    subprocess.run(["mkfs.ext4", "-q", "-m", "50", disk], check=True, timeout=60)
    subprocess.run(["mount", "-o", "loop", disk, data], check=True, timeout=60)
    monkeypatch.setattr(redisfile, "LOW_BYTES", 40 * MIB)
    try:
        with redis_server(data / "redis") as server:
            client = await redis.connect(server.url)
            looking = RedisFile(client, str(data))
            await looking.look()
            assert await redis.appends(client)
            os.chown(data / "redis", 65530, 65532)
            await looking.look()
            assert not await redis.appends(client)
            await client.aclose()
    finally:
        subprocess.run(["umount", data], check=True, timeout=60)
