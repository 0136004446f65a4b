"""NATS as events have it: the servers of a cluster, the stream and its bounds."""

from pathlib import Path

import anyio
import nats as nats_client
import pytest

from common.errors import ResourceExhaustedError, UnavailableError
from common.events import subjects
from common.events.bus import Bus, Kept
from common.sys.ports import held_port
from tests.support.brokers import Launch, NatsServer, nats_server
from tests.support.pace import patience

pytestmark = [pytest.mark.anyio, pytest.mark.integration]


async def test_headers_count_for_what_nats_takes(nats: NatsServer) -> None:
    bus = await Bus.connect(nats.url)
    try:
        await bus.ensure_stream(Kept())
        subject = subjects.subject("n1", "node", "x", "repaired")
        with pytest.raises(ResourceExhaustedError, match="more than NATS takes"):
            await bus.publish(subject, b"x" * ((1 << 20) - 20), "x:1", "")
        await bus.publish(subject, b"x" * ((1 << 20) - 37), "x:2", "")
        assert not bus.lost.is_set()
    finally:
        await bus.close()


async def test_any_of_the_servers_of_a_cluster_will_do(nats: NatsServer) -> None:
    with held_port() as nobody:
        bus = await Bus.connect(f"nats://127.0.0.1:{nobody},{nats.url}", attempts=2)
    assert bus.connected
    await bus.close()


async def test_the_stream_of_an_older_version_gets_todays_limits_and_keeps_the_rest(nats: NatsServer) -> None:
    client = await nats_client.connect(nats.url)
    stream = client.jetstream()
    await stream.add_stream(
        name=subjects.STREAM, subjects=[subjects.ALL], max_bytes=1 << 20, description="ours"
    )
    bus = await Bus.connect(nats.url)
    try:
        await bus.publish(subjects.subject("n1", "node", "x", "repaired"), b"kept", "x:1", "")
        await bus.ensure_stream(Kept())
        state = await stream.stream_info(subjects.STREAM)
        assert (state.config.max_bytes, state.state.messages) == (Kept().max_bytes, 1)
        assert state.config.max_msgs_per_subject == Kept().max_repeats
        assert state.config.description == "ours"
    finally:
        await bus.close()
        await client.close()


async def test_a_disk_with_little_room_has_a_smaller_stream(tmp_path: Path, launch: Launch) -> None:
    (tmp_path / "nats").mkdir()
    settings = tmp_path / "nats" / "server.conf"
    settings.write_text("jetstream { max_file_store: 100MB }")
    with nats_server(tmp_path / "nats", launch) as server:
        await _made(server, 64 << 20)
        await _made(server, 64 << 20)
        server.kill()
        settings.write_text("jetstream { max_file_store: 2GB }")
        server.start()
        await _made(server, Kept().max_bytes)
    (tmp_path / "less").mkdir()
    (tmp_path / "less" / "server.conf").write_text("jetstream { max_file_store: 1MB }")
    with nats_server(tmp_path / "less", launch) as server, pytest.raises(UnavailableError, match="storage"):
        await _made(server, 0)


@pytest.mark.parametrize("made", [False, True])
async def test_a_nats_without_jetstream_is_told_so(made: bool, tmp_path: Path, launch: Launch) -> None:
    with nats_server(tmp_path / "nats", launch, jetstream=False) as server:
        bus = await Bus.connect(server.url)
        try:
            with anyio.fail_after(patience(20)), pytest.raises(UnavailableError, match="no JetStream"):
                if made:
                    await anext(aiter(bus.follow(subjects.ALL, None)))
                else:
                    await bus.ensure_stream()
        finally:
            await bus.close()


async def _made(server: NatsServer, size: int) -> None:
    """Connect, and have a stream of this size."""
    bus = await Bus.connect(server.url)
    try:
        assert await bus.ensure_stream(Kept()) == size
        client = await nats_client.connect(server.url)
        info = await client.jetstream().stream_info(subjects.STREAM)
        await client.close()
        assert info.config.max_bytes == size
    finally:
        await bus.close()


async def test_a_closed_bus_has_no_attempt_to_reconnect_that_goes_on(
    nats: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    bus = await Bus.connect(nats.url)
    client, missed = bus._client, anyio.Event()

    async def miss_one_cancellation() -> None:
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():
            if missed.is_set():
                raise
            missed.set()
        raise OSError("as when the server refuses in the moment of the cancellation")

    monkeypatch.setattr(client, "_select_next_server", miss_one_cancellation)
    nats.kill()
    with anyio.fail_after(patience(10)):
        await bus.lost.wait()
        await bus.close()
    nats.start()
    assert client._reconnection_task
    assert client._reconnection_task.done()
    assert missed.is_set()
