"""slipway config on a node that runs, and on files."""

import json
from pathlib import Path

import pytest

from tests.support.node import TestNode

pytestmark = [pytest.mark.e2e, pytest.mark.root, pytest.mark.timeout(120)]


def test_settings_are_shown_with_their_sources_and_without_secrets(node: TestNode) -> None:
    done = node.slipway("config", "show", "runtimed", "crid", "-o", "json")
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    assert set(shown) == {"runtimed", "crid"}
    found = {known["setting"]: known for known in shown["runtimed"]}
    assert found["run_dir"] == {
        "setting": "run_dir",
        "value": str(node.run_dir),
        "source": f"{node.run_dir}/settings/runtimed.toml",
    }
    assert found["cgroup_driver"]["source"] == "default"
    token = node.state["nats_url"].partition("//")[2].partition("@")[0]
    assert token not in done.stdout
    assert found["nats_url"]["value"].startswith("nats://***@")
    changed = node.slipway("config", "show", "runtimed", "--changed").stdout
    assert ("run_dir" in changed, "cgroup_driver" in changed) == (True, False)
    lines = node.slipway("config", "show", "crid", "runtimed").stdout.splitlines()
    (mode,) = (line for line in lines if line.startswith("crid") and "socket_mode" in line)
    assert mode.endswith("  0o660")
    assert len(mode) < 120 < max(map(len, lines))  # one long value makes no other line long


def test_settings_are_judged_by_the_service_that_reads_them(node: TestNode, tmp_path: Path) -> None:
    assert node.slipway("config", "validate").stdout.count("all valid") == 6
    good = tmp_path / "good.toml"
    good.write_text('default_handler = "runc"\n')
    assert node.slipway("config", "validate", "runtimed", str(good)).returncode == 0
    for text, told in (
        ('cgroup_driver = "openrc"\n', "cgroup_driver = 'openrc': want one of 'cgroupfs', 'systemd'"),
        ("no_such = 1\n", "unknown setting 'no_such'; known are node,"),
        ("= 1\n", "Invalid statement"),
    ):
        wrong = tmp_path / "wrong.toml"
        wrong.write_text(text)
        refused = node.slipway("config", "validate", "runtimed", str(wrong))
        assert (refused.returncode, told in refused.stderr) == (1, True), refused.stderr
        assert str(wrong) in refused.stderr
    unknown = node.slipway("config", "show", "nosuch")
    assert (unknown.returncode, "want one of imaged" in unknown.stderr) == (1, True)
    missing = node.slipway("config", "validate", "runtimed", "/no/such.toml")
    assert (missing.returncode, "/no/such.toml" in missing.stderr) == (1, True)
