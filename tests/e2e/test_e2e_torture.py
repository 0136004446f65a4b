"""The short form of ./dev torture: everything is killed while pods come and go, and nothing is lost."""

import os
from dataclasses import replace

import pytest

from node.layout import SERVICES
from tests.support.node import PROGRAMS
from tests.support.pace import patience
from torture import density
from torture.kills import VICTIMS
from torture.main import torture
from torture.report import SOAK_S, Report
from torture.samples import Sample, slope_per_hour
from torture.upgrade import upgrade

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.root, pytest.mark.timeout(180)]
SECONDS = 20


@pytest.mark.skipif(os.geteuid() != 0, reason="a node needs root")
async def test_nothing_is_lost_while_everything_is_killed() -> None:
    found = await torture(patience(SECONDS), seed=7, workers=4, away_s=patience(2))
    assert not found.problems
    assert len({fault.victim for fault in found.faults}) > len(VICTIMS) // 3
    assert found.counts["pods"] > 4
    assert found.counts["exit codes"] > 4
    shown = found.section().markdown()
    assert "Lost or untrue: **0**" in shown
    assert all(fault.victim in shown for fault in found.faults)


@pytest.mark.skipif(os.geteuid() != 0, reason="a node needs root")
async def test_pods_outlive_the_restart_of_all_services_and_no_call_leaks() -> None:
    found = await density.measure(pods=5, execs=10, attaches=20)
    assert set(found.restart_s) == set(SERVICES)
    assert 0 < found.all_s < patience(60)
    assert "| 10 execs" in found.section().markdown()


@pytest.mark.skipif(os.geteuid() != 0, reason="a node needs root")
async def test_a_node_is_taken_over_and_its_services_restarted_while_pods_come_and_go() -> None:
    found = await upgrade(PROGRAMS, patience(3), seed=5)
    assert not found.problems
    assert found.counts["pods"] > 4
    assert found.counts["log lines of those that stood"] > 100
    assert [fault.victim for fault in found.faults] == ["the whole node", *SERVICES]


def test_a_leak_is_a_slope() -> None:
    flat = [sample(at, 5) for at in range(10)]
    assert slope_per_hour(flat, "fds") == 0
    assert slope_per_hour([sample(at, 5 + at) for at in range(10)], "fds") == pytest.approx(3600)


def sample(at_s: int, fds: int) -> Sample:
    return Sample(at_s=at_s, memory_mib=1, fds=fds, mounts=1, redis_keys=1, stream_lag=0)


def test_a_loss_is_in_the_report() -> None:
    lost = Report(
        seed=1, seconds=1, workers=1, counts={}, refused={}, faults=[], samples=[], problems=["an exit code"]
    )
    assert "Lost or untrue: **1**" in lost.section().markdown()


def test_a_soak_tells_by_how_much_it_grew_once_the_node_had_seen_everything() -> None:
    later = [sample(at, 100 if at < 100 else 100 + at) for at in range(200)]
    run = Report(seed=1, seconds=SOAK_S, workers=1, counts={}, refused={}, faults=[], samples=later)
    assert (run.part, replace(run, seconds=SOAK_S - 1).part) == ("soak", "churn")
    held = run.section().tables[-1]
    assert next(row for row in held.rows if "descriptors" in row[0])[-1] == "+3600.0"
    assert all(row[-1] == "+0.0" for row in held.rows if "descriptors" not in row[0])
