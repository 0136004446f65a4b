"""`slipway doctor` on the machine of a running node."""

import json
import signal

import pytest
from redis import Redis

from common.records.keys import held_key
from tests.support.node import TestNode

pytestmark = [pytest.mark.e2e, pytest.mark.root, pytest.mark.timeout(120)]


def test_a_node_that_runs_is_well(node: TestNode) -> None:
    done = node.slipway("doctor", "-o", "json")
    found = {finding["name"]: finding for finding in json.loads(done.stdout)}
    for name in ("services", "Redis", "NATS", "events", "sockets", "overlayfs", "CNI"):
        assert found[name]["level"] == "ok", found[name]
    failed = [finding for finding in found.values() if finding["level"] == "fail"]
    assert (done.returncode, failed) == (0, [])
    told = node.slipway("doctor").stdout
    assert "ok    services" in told
    assert told.rstrip().endswith(" 0 fail")


def test_events_that_were_given_up_are_told(node: TestNode) -> None:
    redis = Redis.from_url(node.state["redis_url"])
    key = held_key(node.state["node"], "runtimed")
    try:
        redis.hset(key, "lost_ever", "7")
        done = node.slipway("doctor", "-o", "json")
    finally:
        redis.hdel(key, "lost_ever")
        redis.close()
    [found] = [finding for finding in json.loads(done.stdout) if finding["name"] == "events"]
    assert (done.returncode, found["level"]) == (0, "warn")
    assert found["text"] == "given up, as there was no room for more: 7 of runtimed"


def test_a_dashboard_that_hangs_is_told_with_where_to_look(node: TestNode) -> None:
    node.kill("opsd", signal.SIGSTOP)
    try:
        done = node.slipway("doctor", "-o", "json")
    finally:
        node.kill("opsd", signal.SIGCONT)
    [found] = [finding for finding in json.loads(done.stdout) if finding["name"] == "services"]
    assert (done.returncode, found["level"], found["text"]) == (1, "fail", "opsd not serving")
    assert found["fix"].startswith(f"Look at {node.run_dir}/log; ")


def test_a_socket_open_to_all_fails_the_command(node: TestNode) -> None:
    socket = node.run_dir / "imaged.sock"
    mode = socket.stat().st_mode & 0o777
    socket.chmod(0o666)
    try:
        done = node.slipway("doctor")
    finally:
        socket.chmod(mode)
    assert done.returncode == 1
    assert f"chmod 660 {socket}" in done.stdout
