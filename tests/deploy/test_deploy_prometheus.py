"""The files for Prometheus and Grafana, by Prometheus' own tool: they parse, and each alert fires when it must, and only then."""

import json
import shutil
import subprocess
from pathlib import Path

import msgspec
import pytest

ROOT = Path(__file__).parents[2]
ALERTS = ROOT / "deploy/prometheus/alerts.yml"
SCENES = Path(__file__).parent / "alerts.test.yml"
NEEDS_PROMTOOL = pytest.mark.skipif(
    not shutil.which("promtool"), reason="promtool is not installed: apt-get install prometheus"
)


def promtool(*words: str | Path) -> None:
    done = subprocess.run(["promtool", *words], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@NEEDS_PROMTOOL
def test_the_rules_and_the_scrape_configuration_are_valid() -> None:
    promtool("check", "rules", "--lint=all", "--lint-fatal", ALERTS)
    promtool("check", "config", ROOT / "deploy/prometheus/prometheus.yml")


@NEEDS_PROMTOOL
def test_alerts_fire_in_trouble_and_are_silent_without(tmp_path: Path) -> None:
    rules = msgspec.yaml.decode(ALERTS.read_bytes())
    for group in rules["groups"]:
        for rule in group["rules"]:
            rule["annotations"].pop(
                "description", None
            )  # promtool compares all of them: these have no values
    (tmp_path / "alerts.yml").write_bytes(msgspec.yaml.encode(rules))
    shutil.copy(SCENES, tmp_path)
    promtool("test", "rules", tmp_path / SCENES.name)


def test_each_alert_has_a_scene_in_which_it_fires_and_one_in_which_it_does_not() -> None:
    rules = msgspec.yaml.decode(ALERTS.read_bytes())["groups"]
    alerts = {rule["alert"] for group in rules for rule in group["rules"]}
    looks = [
        look
        for scene in msgspec.yaml.decode(SCENES.read_bytes())["tests"]
        for look in scene["alert_rule_test"]
    ]
    assert {look["alertname"] for look in looks if look.get("exp_alerts")} == alerts
    assert {look["alertname"] for look in looks if not look.get("exp_alerts")} == alerts


@NEEDS_PROMTOOL
def test_each_query_of_the_dashboard_parses(tmp_path: Path) -> None:
    dashboard = json.loads((ROOT / "deploy/grafana/slipway.json").read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]
    assert len(queries) > 30
    filled = [each.replace("$__rate_interval", "1m").replace("$instance", ".*") for each in queries]
    assert not [each for each in filled if "$" in each]
    rules = [{"record": f"query:{number}", "expr": each} for number, each in enumerate(filled)]
    (tmp_path / "rules.yml").write_bytes(
        msgspec.yaml.encode({"groups": [{"name": "queries", "rules": rules}]})
    )
    promtool("check", "rules", tmp_path / "rules.yml")
