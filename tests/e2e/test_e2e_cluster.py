"""A node whose NATS and Redis others run: nothing of it asks servers of its own."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.brokers import nats_server, redis_server
from tests.support.eventually import eventually
from tests.support.node import TestNode, running_node
from tests.support.opsd import Opsd, opsd

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.root, pytest.mark.timeout(120)]
TOKEN = "token-of-the-cluster"


@dataclass
class Cluster:
    node: TestNode
    other: Opsd
    nats_url: str


@pytest.fixture(scope="module")
def cluster(shop, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    place = tmp_path_factory.mktemp("cluster")
    (place / "nats").mkdir()
    (place / "nats/server.conf").write_text(f'authorization {{ token: "{TOKEN}" }}\n')
    config = place / "node.toml"
    with nats_server(place / "nats") as nats, redis_server(place / "redis") as redis:
        url = nats.url.replace("://", f"://{TOKEN}@")
        config.write_text(f'nats_url = "{url}"\nredis_url = "{redis.url}"\n')
        with (
            running_node(place, options=("--config", str(config))) as node,
            opsd("second", place, url) as other,
        ):
            yield Cluster(node, other, url)


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
