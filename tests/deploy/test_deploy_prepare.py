"""What `slipway-node prepare` makes for processes that run by themselves."""

import json
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from common.errors import FailedPreconditionError
from common.settings import load
from common.sys.mounts import propagation_of, unmount_below
from devtools import install
from imaged.settings import Settings
from node import running
from node.layout import Layout
from node.main import PASSING
from node.prepare import for_containers, for_units, held_nats
from node.supervisor import Supervisor
from node.users import GROUP, USERS

pytestmark = pytest.mark.root
LIMIT_S = 60


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    unmount_below(tmp_path)


def test_a_port_file_that_a_power_cut_left_empty_stops_no_node(place: Path) -> None:
    layout = Layout(run_dir=f"{place}/run", data_dir=f"{place}/data", node="n")
    layout.nats_port_file.parent.mkdir()
    layout.nats_port_file.touch()
    with held_nats(layout) as found:
        assert found.nats_port > 0
    assert layout.nats_port_file.read_text() == str(found.nats_port)


def test_a_node_of_units_that_had_the_events_of_others_gets_a_port_for_its_own(place: Path) -> None:
    layout = Layout(run_dir=f"{place}/run", data_dir=f"{place}/data", node="n")
    for_units(replace(layout, nats_url="nats://shared@nats.internal:4222"))
    for_units(layout)
    port = layout.nats_port_file.read_text()
    assert int(port) > 0
    for_units(layout)
    for path in (layout.nats_config_file, layout.state_file, layout.settings_file("runtimed")):
        assert f"127.0.0.1:{port}" in path.read_text(), path


def test_a_node_of_units_that_has_its_own_events_keeps_their_port(place: Path) -> None:
    layout = Layout(run_dir=f"{place}/run", data_dir=f"{place}/data", node="n")
    for_units(layout)
    port = int(layout.nats_port_file.read_text())
    with socket.create_server(("127.0.0.1", port)):  # as NATS
        for_units(layout)
    assert int(layout.nats_port_file.read_text()) == port
    assert f"127.0.0.1:{port}" in layout.state_file.read_text()


def test_a_port_that_is_given_and_taken_is_refused(place: Path) -> None:
    """Those that follow events would tell the token to who listens there."""
    layout = Layout(run_dir=f"{place}/run", data_dir=f"{place}/data", node="n")
    for_units(layout)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        given = replace(layout, nats_port=taken.getsockname()[1])
        with pytest.raises(FailedPreconditionError, match=f"nats_port = {given.nats_port}: .* in use"):
            for_units(given)
    for_units(given)
    assert layout.nats_port_file.read_text() == str(given.nats_port)


def test_a_node_that_was_prepared_before_writes_no_more_to_a_full_disk(place: Path) -> None:
    layout = Layout(run_dir=f"{place}/run", data_dir=f"{place}/data", node="n")
    for_units(layout)
    layout.state_file.unlink()  # a reboot
    for path in (layout.nats_port_file, layout.nats_config_file, layout.nats_token_file):
        path.with_name(f".{path.name}.new").mkdir()  # a file cannot be written
    for_units(layout)
    assert layout.state_file.exists()


def test_what_a_machine_refuses_may_be_tried_again_and_a_wrong_setting_not(place: Path) -> None:
    Path(place, "settings").touch()
    for options, status in (([f"--data-dir={place}/settings/x"], PASSING), (["--metrics-port=99999"], 1)):
        command = [sys.executable, "-m", "node", "prepare", "--run-dir", f"{place}/run", *options]
        done = subprocess.run(command, check=False, timeout=LIMIT_S, capture_output=True, text=True)
        assert done.returncode == status
        assert done.stderr.startswith("slipway-node: ")
        assert done.stderr.count("\n") == 1


def test_a_node_keeps_its_name_on_a_host_that_gets_another(place: Path) -> None:
    def named(*options: str) -> tuple[str, str]:
        command = [
            sys.executable,
            "-m",
            "node",
            "prepare",
            "--run-dir",
            f"{place}/run",
            f"--data-dir={place}/data",
        ]
        done = subprocess.run(
            [*command, *options], check=True, timeout=LIMIT_S, capture_output=True, text=True
        )
        return json.loads((place / "run/node.json").read_text())["node"], done.stderr

    assert named() == (socket.gethostname(), "")
    (place / "data/node-name").write_text("before")
    name, said = named()
    assert name == "before"
    assert said.startswith(
        f"slipway-node: the node is before as before, though the host is {socket.gethostname()} now"
    )
    assert named("--node", "given") == ("given", "")
    assert named()[0] == "given"


def test_settings_are_checked_without_a_change(place: Path) -> None:
    config = place / "node.toml"
    command = [sys.executable, "-m", "node", "check", "--config", str(config)]
    for text, status in (("nats_prot = 1", 1), ('data_dir = "/srv"', 1), ('node = "n-1"', 0)):
        config.write_text(text)
        assert subprocess.run(command, check=False, timeout=LIMIT_S).returncode == status


def test_units_are_not_prepared_beside_a_node_that_up_started(place: Path) -> None:
    layout = Layout(run_dir=f"{place}/run", data_dir=f"{place}/data", node="n", nats_port=4222)
    Path(layout.run_dir).mkdir()
    lock = running.lock(layout.run_dir)
    for prepare_for in (for_units, for_containers):
        with pytest.raises(FailedPreconditionError, match="slipway-node down --run-dir"):
            prepare_for(layout)
    assert not layout.state_file.exists()
    os.close(lock)
    for_units(layout)
    with pytest.raises(FailedPreconditionError, match="systemd runs the node"):
        anyio.run(Supervisor(layout).run)
    assert layout.state_file.exists(), "that of systemd"


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        (for_units, for_containers, "systemctl stop slipway.target"),
        (for_containers, for_units, "docker compose -p slipway down"),
    ],
)
def test_a_node_of_another_kind_is_in_the_way_while_it_answers(
    place: Path, first: Callable[[Layout], None], second: Callable[[Layout], None], said: str
) -> None:
    layout = Layout(run_dir=f"{place}/r", data_dir=f"{place}/data", node="n", nats_port=4222)
    first(layout)
    first(layout)
    with socket.socket(socket.AF_UNIX) as redis:
        redis.bind(f"{layout.run_dir}/redis.sock")
        redis.listen()
        with pytest.raises(FailedPreconditionError, match=said):
            second(layout)
    second(layout)


def test_nothing_is_installed_beside_a_node_that_up_started(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(install, "RUN", place)
    lock = running.lock(str(place))
    with pytest.raises(FailedPreconditionError, match="slipway-node down --run-dir"):
        install.install(place / "nothing", [])
    os.close(lock)


def prepare(place: Path, *options: str) -> None:
    command = [sys.executable, "-m", "node", "prepare", "--containers", "--run-dir", f"{place}/run"]
    command += ["--data-dir", f"{place}/data", "--nats-port", "4222", "--node", "n", *options]
    subprocess.run(command, check=True, timeout=LIMIT_S)


def test_each_process_finds_what_is_its_own_and_no_more(place: Path) -> None:
    prepare(place)
    run, data = place / "run", place / "data"
    assert "shared:" in propagation_of(str(run))
    assert (stat.S_IMODE(run.stat().st_mode), run.stat().st_gid) == (0o3771, GROUP)
    assert stat.S_IMODE((run / "metrics").stat().st_mode) == 0o3771
    for name in ("imaged", "nats", "redis", "runtimed"):
        found = (data / name).stat()
        assert (stat.S_IMODE(found.st_mode), found.st_uid) == (0o700, USERS.get(name, 0))
    token = (data / "nats-token").read_text()
    assert stat.S_IMODE((data / "nats-token").stat().st_mode) == 0o600
    conf = (data / "nats.conf").read_text()
    assert token in conf
    assert 'sync_interval: "1s"' in conf, "a power cut takes two minutes of events"
    assert (data / "nats-port").read_text() == "4222"
    settings = load(Settings, "imaged", ["--config", str(run / "settings/imaged.toml")])
    assert settings.nats_url == f"nats://{token}@127.0.0.1:4222"
    assert (settings.node, settings.run_dir) == ("n", str(run))
    for path, group in (
        ("data/nats.conf", GROUP),
        ("run/settings/imaged.toml", GROUP),
        ("run/settings/crid.toml", 0),
    ):
        found = (place / path).stat()
        assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == (0o640, 0, group)


def owners(directory: Path) -> set[tuple[int, int]]:
    found = [directory, *directory.rglob("*")]
    return {(path.lstat().st_uid, path.lstat().st_gid) for path in found}


def test_what_another_kind_of_node_has_left_is_given_over_and_links_are_not_followed(place: Path) -> None:
    layout = Layout(run_dir=f"{place}/run", data_dir=f"{place}/data", node="n", nats_port=4222)
    for_units(layout)
    outside = place / "outside"
    outside.touch()
    log = place / "data/redis/appendonlydir"
    log.mkdir(mode=0o700)
    (log / "a.aof").touch(mode=0o600)
    (log / "link").symlink_to(outside)
    layer = place / "data/snapshotd/layer"
    layer.mkdir(parents=True)
    os.chown(layer, 33, 33)
    os.chown(layer.parent, 0, GROUP)
    layout.state_file.unlink()
    command = [sys.executable, "-m", "node", "prepare", "--containers", "--run-dir", layout.run_dir]
    command += ["--data-dir", layout.data_dir, "--nats-port", "4222", "--node", "n"]
    held = "chown,fowner,fsetid"  # as its container has
    few = ["setpriv", "--bounding-set", f"-all,{','.join(f'+{name}' for name in held.split(','))}"]
    bound = "import os, sys; os.execvp(sys.argv[1], sys.argv[1:])"
    subprocess.run([*few, sys.executable, "-c", bound, *command], check=True, timeout=LIMIT_S)
    assert owners(place / "data/redis") == {(USERS["redis"], GROUP)}
    assert outside.stat().st_uid == 0
    assert layer.stat().st_uid == 33, "it is of an image"
    (log / "b.aof").touch(mode=0o600)
    layout.state_file.unlink()
    for_units(layout)
    assert owners(place / "data/redis") == {(0, 0)}
    os.chown(log / "a.aof", USERS["redis"], GROUP)
    os.chown(place / "data/redis", 0, GROUP)  # as what was cut off leaves it
    for_units(layout)
    assert owners(place / "data/redis") == {(0, 0)}


def test_the_events_of_others_are_no_argument_of_a_container(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLIPWAY_NATS_URL", "nats://shared@nats.internal:4222")
    prepare(place)
    assert '"nats://shared@nats.internal:4222"' in (place / "run/settings/imaged.toml").read_text()
    compose = (Path(__file__).parents[2] / "deploy/compose.yml").read_text()
    assert "--nats-url" not in compose
    assert 'environment: {SLIPWAY_NATS_URL: "${SLIPWAY_NATS_URL:-}"}' in compose


def test_the_token_stays(place: Path) -> None:
    prepare(place)
    first = (place / "data/nats-token").read_text()
    os.unlink(place / "run/node.json")
    prepare(place)
    assert (place / "data/nats-token").read_text() == first
    assert first in (place / "run/node.json").read_text()
    prepare(place, "--nats-url", "nats://shared@nats.internal:4222")
    assert '"nats://shared@nats.internal:4222"' in (place / "run/settings/imaged.toml").read_text()
    assert "shared@nats.internal" in (place / "run/node.json").read_text()
    assert first in (place / "data/nats.conf").read_text(), "its container is there"
