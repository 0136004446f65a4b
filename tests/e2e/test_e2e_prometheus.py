"""Each service shows metrics, and every one that the dashboard and the alert rules name is among them."""

import json
import re
from pathlib import Path

import msgspec
import pytest

from devtools.cri import Cri
from tests.support.eventually import eventually
from tests.support.node import TestNode
from tests.support.prometheus import Samples, get, scrape

pytestmark = [pytest.mark.e2e, pytest.mark.root, pytest.mark.anyio, pytest.mark.timeout(120)]
DEPLOY = Path(__file__).parents[2] / "deploy"
SERVICES = ("crid", "imaged", "snapshotd", "runtimed", "shimd", "opsd")
SELECTED = re.compile(r'(slipway_\w+)\{(\w+)=~?"([\w|-]+)"\}')
"""A series by a label with one value or several."""
NAME = re.compile(r"\b(?:slipway|process)_[a-z_]+\b")


def _expressions() -> list[str]:
    dashboard = json.loads((DEPLOY / "grafana/slipway.json").read_text())
    shown = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]
    rules = msgspec.yaml.decode((DEPLOY / "prometheus/alerts.yml").read_bytes())
    return shown + [rule["expr"] for group in rules["groups"] for rule in group["rules"]]


def _all(run_dir: Path) -> Samples:
    found: Samples = {}
    for service in SERVICES:
        found |= scrape(run_dir, service)
    return found


async def test_a_pull_and_a_pod_are_counted_and_all_that_is_drawn_exists(
    node: TestNode, cri: Cri, busybox: str
) -> None:
    before = _all(node.run_dir)
    assert _selected() - set(before) == set()  # an alert sees growth, not the first sample
    await cri.pull(busybox)
    sandbox = cri.sandbox_config("metered", host_network=True)
    sandbox_id = await cri.run_sandbox(sandbox)
    config = cri.container_config("main", busybox, ["sleep", "1000"])
    container_id = await cri.create(sandbox_id, config, sandbox)
    await cri.start(container_id)
    await cri.exec(container_id, ["true"])
    now = _all(node.run_dir)

    def grown(name: str, labels: str = "") -> float:
        return now.get((name, labels), 0) - before.get((name, labels), 0)

    assert grown("slipway_imaged_pulls_total", '{result="pulled"}') == 1
    assert ("slipway_imaged_fetched_bytes_total", "") in now  # none may have come: the image may be here
    assert ("slipway_snapshotd_unpacked_bytes_total", "") in now
    assert (
        grown(
            "slipway_operation_duration_seconds_count", '{operation="start",result="ok",service="runtimed"}'
        )
        == 1
    )
    assert grown("slipway_step_duration_seconds_count", '{step="runtimed.oci.run"}') == 1
    started = '{method="RuntimeService/StartContainer",service="crid"}'
    assert grown("slipway_rpc_duration_seconds_count", started) == 1
    assert grown("slipway_runtimed_containers", '{state="running"}') == 1
    assert grown("slipway_shimd_shims", '{alive="true"}') == 1
    assert now["slipway_redis_up", '{service="runtimed"}'] == 1
    execs = "slipway_runtimed_execs_total", '{result="ok"}'
    eventually(
        lambda: scrape(node.run_dir, "runtimed")[execs] > before[execs],
        what="the exec is counted",
    )
    eventually(
        lambda: scrape(node.run_dir, "runtimed")["slipway_outbox_entries", '{service="runtimed"}'] == 0,
        what="all events are relayed",
    )

    await cri.stop(container_id)
    with pytest.raises(Exception, match="not found"):
        await cri.status("nosuch")
    assert scrape(node.run_dir, "runtimed")["slipway_runtimed_container_exits_total", '{reason="Error"}'] > 0
    missing = '{code="NOT_FOUND",method="RuntimeService/ContainerStatus",service="crid"}'
    assert scrape(node.run_dir, "crid")["slipway_rpc_errors_total", missing] > 0

    declared = {line.split()[2] for line in _help(node.run_dir)}
    known = {name for name, _ in _all(node.run_dir)} | declared
    named = {name for expression in _expressions() for name in NAME.findall(expression)}
    assert len(named) > 30
    assert sorted(named - known) == []


def _selected() -> set[tuple[str, str]]:
    """The samples that expressions select, but those of calls, of which there are too many kinds."""
    text = "\n".join(_expressions()).replace('{instance=~"$instance",', "{")
    found = {
        (name, f'{{{label}="{value}"}}')
        for name, label, values in SELECTED.findall(text)
        for value in values.split("|")
        if "_rpc_" not in name
    }
    assert len(found) > 7
    return found


def _help(run_dir: Path) -> list[str]:
    """A metric with labels has no sample until it is counted, but it is declared."""
    bodies = [get(run_dir / "metrics" / f"{service}.sock")[1] for service in SERVICES]
    return [line for body in bodies for line in body.splitlines() if line.startswith("# TYPE")]
