"""`slipway doctor` on the machine of a running node."""

import json

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.root, pytest.mark.timeout(120)]


def test_a_node_that_runs_is_well(node) -> None:
    done = node.slipway("doctor", "-o", "json")
    found = {finding["name"]: finding for finding in json.loads(done.stdout)}
    for name in ("services", "Redis", "NATS", "sockets", "overlayfs", "CNI"):
        assert found[name]["level"] == "ok", found[name]
    failed = [finding for finding in found.values() if finding["level"] == "fail"]
    assert (done.returncode, failed) == (0, [])
    told = node.slipway("doctor").stdout
    assert "ok    services" in told
    assert told.rstrip().endswith(" 0 fail")


def test_a_socket_open_to_all_fails_the_command(node) -> None:
    socket = node.run_dir / "imaged.sock"
    mode = socket.stat().st_mode & 0o777
    socket.chmod(0o666)
    try:
        done = node.slipway("doctor")
    finally:
        socket.chmod(mode)
    assert done.returncode == 1
    assert f"chmod 660 {socket}" in done.stdout
