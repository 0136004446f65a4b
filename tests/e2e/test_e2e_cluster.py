"""A node as its operator wants it: its NATS and Redis are those of others, and a service has settings of its own."""

import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import anyio
import msgspec
import nats
import pytest
from nats.js.errors import NotFoundError

from common.events import subjects
from common.events.bus import Bus
from common.events.schema import ContainerExited, Envelope, encoder
from devtools.ports import free_port
from devtools.registry import Registry
from tests.e2e.test_e2e_events import documents_worker, lines_until
from tests.support.brokers import nats_server, redis_server
from tests.support.eventually import eventually
from tests.support.node import TestNode, running_node
from tests.support.opsd import Opsd, opsd
from tests.support.pace import patience

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.root, pytest.mark.timeout(120)]
TOKEN = "token-of-the-cluster"
STREAM_BYTES = 128 << 10
EVENT = ContainerExited(id="c", sandbox_id="s", exit_code=3, reason="Error")


@dataclass
class Cluster:
    node: TestNode
    other: Opsd
    nats_url: str
    address: str
    """That the operator gave the page of the node."""


@pytest.fixture(scope="module")
def cluster(shop: Registry, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    place = tmp_path_factory.mktemp("cluster")
    (place / "nats").mkdir()
    (place / "nats/server.conf").write_text(f'authorization {{ token: "{TOKEN}" }}\n')
    config = place / "node.toml"
    own = place / "node/settings/opsd.toml"
    own.parent.mkdir(parents=True)
    address = f"127.0.0.1:{free_port()}"
    own.write_text(f'http_address = "{address}"\nanonymous = false\n')
    with nats_server(place / "nats") as server, redis_server(place / "redis") as redis:
        url = server.url.replace("://", f"://{TOKEN}@")
        config.write_text(
            f'nats_url = "{url}"\nredis_url = "{redis.url}"\nevents_max_bytes = {STREAM_BYTES}\n'
        )
        with (
            running_node(place, options=("--config", str(config))) as node,
            opsd("second", place, url, events_max_bytes=str(STREAM_BYTES)) as other,
        ):
            yield Cluster(node, other, url, address)


def test_it_runs_no_servers_and_shows_no_token(cluster: Cluster) -> None:
    state = cluster.node.state
    assert state["nats_url"] == cluster.nats_url
    assert not {"nats", "redis"} & set(state["pids"])
    assert not (cluster.node.data_dir / "nats.conf").exists()
    for pid in (state["supervisor"], *state["pids"].values()):
        assert TOKEN.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes()
    told = [
        path for path in cluster.node.run_dir.rglob("*.*") if path.is_file() and TOKEN in path.read_text()
    ]
    assert cluster.node.run_dir / "node.json" in told
    assert {path.stat().st_mode & 0o077 for path in told} == {0}


async def test_the_commands_ask_the_servers_that_it_shares(cluster: Cluster, busybox: str) -> None:
    done = cluster.node.slipway("run", "--rm", "--network", "host", busybox, "true")
    assert done.returncode == 0, done.stderr
    events = cluster.node.slipway("events", "--since", "1h", "--until-now", "--filter", "verb=exited")
    assert "reason=Completed" in events.stdout, events.stderr
    found = cluster.node.slipway("doctor", "--deep").stdout
    told = {" ".join(line.split()) for line in found.splitlines()}
    assert "ok NATS answers, with JetStream" in told
    assert "ok Redis answers, and keeps an append-only file" in told
    assert "ok deep all that is recorded is there, and nothing else" in told


def test_a_dashboard_shows_all_nodes_of_it(cluster: Cluster) -> None:
    eventually(lambda: cluster.other.up() == {"testnode", "second"}, what="both nodes on the other's page")


def test_the_operators_own_files_of_settings_win(cluster: Cluster, tmp_path: Path) -> None:
    node = cluster.node
    assert node.slipway("dashboard").stdout.startswith(f"http://{cluster.address}/#token=")
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(f"http://{cluster.address}/api/v1/state", timeout=patience(10))
    # and what a file would do is not hidden by what the node itself gives
    wrong = tmp_path / "wrong.toml"
    wrong.write_text('http_address = "nonsense"\n')
    done = node.slipway("config", "validate", "opsd", str(wrong))
    assert done.returncode == 1
    assert f"{wrong}: http_address = 'nonsense'" in done.stderr
    assert (
        node.slipway("config", "validate", "opsd", str(node.data_dir / "settings/opsd.toml")).returncode == 0
    )


async def test_a_reader_that_was_away_for_too_long_is_told_so(cluster: Cluster, tmp_path: Path) -> None:
    worker, bus = documents_worker(tmp_path), await Bus.connect(cluster.nats_url, attempts=1)

    async def tell(*ended: str) -> None:
        """Of an end of each of these containers: of a single one no more than the last few are kept."""
        for key in ended:
            event = msgspec.Raw(encoder.encode(msgspec.structs.replace(EVENT, id=key)))
            envelope = Envelope(
                id=key, at_ns=time.time_ns(), node="other", source="runtimed", revision=1, event=event
            )
            subject = subjects.subject("other", "container", key, "exited")
            await bus.publish(subject, encoder.encode(envelope), key, "")

    try:
        with anyio.fail_after(patience(20)):
            async with anyio.create_task_group() as group:
                group.start_soon(lines_until, worker, cluster.nats_url, "last")
                await tell("seen")
                while not await acknowledged(cluster.nats_url):
                    await anyio.sleep(0.05)
                await tell("last")
        await tell(*(f"many{number}" for number in range(STREAM_BYTES // 200)))
        found = await bus.first()
    finally:
        await bus.close()
    assert found is not None
    [told, after, *_] = await lines_until(worker, cluster.nats_url, "many")
    assert told.startswith("missed: events ")
    assert told.endswith(f" to {found[0] - 1} are gone")
    first = found[1].fields()["id"]
    assert first.startswith("many")
    assert after == f"{first} 3 Error"
    listed = cluster.node.slipway("events", "--since", "1h", "--until-now", "--filter", "kind=image")
    assert "are not kept any more" in listed.stderr


async def acknowledged(url: str) -> int:
    """The last event that the documents' consumer has acknowledged; 0 for none."""
    client = await nats.connect(url)
    try:
        return int((await client.jetstream().consumer_info(subjects.STREAM, "exits")).ack_floor.stream_seq)
    except NotFoundError:
        return 0
    finally:
        await client.close()
