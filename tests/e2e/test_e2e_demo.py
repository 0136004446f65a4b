"""`./dev demo`, as the README promises it."""

import subprocess
from pathlib import Path

import pytest

from tests.support.pace import patience

ROOT = Path(__file__).parents[2]
DEMO_S = patience(120)


@pytest.mark.timeout(150)
def test_the_demo_shows_a_pod_and_leaves_nothing() -> None:
    before = set(Path("/run").glob("slipway-demo-*"))
    done = subprocess.run([ROOT / "dev", "demo"], capture_output=True, text=True, timeout=DEMO_S, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for shown in ("tick 1", "container.started", "RunPodSandbox", "all of it is gone again"):
        assert shown in done.stdout
    assert "\033" not in done.stdout + done.stderr  # colours are for a terminal
    assert set(Path("/run").glob("slipway-demo-*")) <= before
