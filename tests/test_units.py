"""systemd's units, read: one for each service, alike where they must be."""

import configparser
from pathlib import Path

import pytest

from node.layout import SERVERS, SERVICES, Layout

ROOT = Path(__file__).parent.parent
UNITS = ROOT / "deploy" / "systemd"
MOUNTING = ("snapshotd", "runtimed", "shimd")
OWN_MOUNTS = (
    "Protect",
    "Private",
    "ReadOnlyPaths",
    "ReadWritePaths",
    "InaccessiblePaths",
    "BindPaths",
    "MountFlags",
)


class Unit(configparser.RawConfigParser):
    """Keys as they are written; of those that come twice the last."""

    def __init__(self, path: Path) -> None:
        super().__init__(strict=False)
        self.optionxform = str  # type: ignore[assignment,method-assign]
        self.read_string(path.read_text())


@pytest.mark.parametrize("name", SERVICES)
def test_each_service_has_a_unit_that_tells_of_its_life(name: str) -> None:
    unit = Unit(UNITS / f"slipway-{name}.service")
    assert unit["Unit"]["PartOf"] == unit["Install"]["WantedBy"] == "slipway.target"
    service = unit["Service"]
    assert service["Type"] == "notify"
    assert service["WatchdogSec"]
    assert service["Restart"] == "always"
    assert service["ExecStart"] == (
        f"/opt/slipway/current/bin/{name} --config /run/slipway/settings/{name}.toml"
        f" --config /etc/slipway/{name}.toml"
    )


@pytest.mark.parametrize("name", MOUNTING)
def test_a_unit_whose_mounts_others_see_has_no_mounts_of_its_own(name: str) -> None:
    assert not [
        key for key in Unit(UNITS / f"slipway-{name}.service")["Service"] if key.startswith(OWN_MOUNTS)
    ]


@pytest.mark.parametrize("name", sorted(set(SERVICES) - set(MOUNTING)))
def test_every_other_unit_sees_as_little_as_can_be(name: str) -> None:
    service = Unit(UNITS / f"slipway-{name}.service")["Service"]
    assert service["ProtectSystem"] == "strict"
    assert service["NoNewPrivileges"] == "yes"
    assert "CapabilityBoundingSet" in service


def test_what_shims_are_in_the_midst_of_is_not_ended_with_their_service() -> None:
    assert Unit(UNITS / "slipway-shimd.service")["Service"]["KillMode"] == "process"


def test_what_prepares_the_others_is_tried_again_unless_a_setting_is_wrong() -> None:
    service = Unit(UNITS / "slipway-prepare.service")["Service"]
    assert service["Restart"] == "on-failure"
    assert service["RestartPreventExitStatus"] == "1"
    assert "start --no-block slipway.target" in service["ExecStartPost"]


@pytest.mark.parametrize("name", SERVERS)
def test_a_server_of_others_has_its_unit_skipped(name: str) -> None:
    unit = Unit(UNITS / f"slipway-{name}.service")
    assert unit["Unit"]["ConditionPathExists"] == str(Layout().own_file(name))
