"""The units of systemd are as bounded as docs/systemd.md says, and the file of each says why it is not more."""

import re
import shutil
import subprocess
from pathlib import Path

import msgspec
import pytest

from node.layout import OOM_SCORES

ROOT = Path(__file__).parents[2]
UNITS = sorted((ROOT / "deploy/systemd").glob("*.service"))
UNBOUNDED = "slipway-shimd.service"
OF_CONTAINERS = ("slipway-runtimed.service", "slipway-snapshotd.service")
ROUNDING = 0.05

pytestmark = pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not installed")


def test_units_and_containers_have_the_scores_of_the_supervisor() -> None:
    containers = msgspec.yaml.decode((ROOT / "deploy/scores.yml").read_bytes())["services"]
    for name, score in OOM_SCORES.items():
        unit = (ROOT / f"deploy/systemd/slipway-{name}.service").read_text()
        assert f"\nOOMScoreAdjust={score}\n" in unit, name
        assert containers[name] == {"oom_score_adj": score}


def told() -> dict[str, float]:
    rows = re.findall(
        r"^\| (slipway-\S+\.service) \| ([\d.]+) \|", (ROOT / "docs/systemd.md").read_text(), re.MULTILINE
    )
    return {unit: float(figure) for unit, figure in rows}


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_the_exposure_of_a_unit_is_what_the_page_says(unit: Path) -> None:
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", str(unit)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    match = re.search(r"Overall exposure level for \S+: ([\d.]+)", done.stdout)
    assert match, done.stderr
    assert float(match[1]) <= told()[unit.name] + ROUNDING


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_a_unit_is_bounded_or_says_why_not(unit: Path) -> None:
    text = unit.read_text()
    wanted = ["NoNewPrivileges", "SystemCallArchitectures", "LimitNOFILE"]
    if unit.name not in OF_CONTAINERS:
        wanted = ["NoNewPrivileges", "SystemCallFilter", "SystemCallArchitectures", "RestrictAddressFamilies"]
    for name in wanted if unit.name != UNBOUNDED else ["LimitNOFILE"]:
        assert re.search(rf"^{name}=\S", text, re.MULTILINE), name
    for name in ("CapabilityBoundingSet", "ProtectSystem", "PrivateTmp", "RestrictNamespaces"):
        set_ = re.search(rf"^{name}=", text, re.MULTILINE)
        explained = re.search(
            rf"^#.*\b({name}|other mount namespace|no mount namespace)\b", text, re.MULTILINE
        )
        assert set_ or explained, f"{name}: neither set nor explained"
