"""What doctor says of this machine, and of machines that are not at hand, by their files."""

import gzip
import json
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from common.places import CONTAINERS, SYSTEMD
from slipway.commands.doctor import examine, machine_of
from slipway.doctor import cgroups, kernel, limits, network, runtimes, services, storage
from slipway.doctor.deep import inventory
from slipway.doctor.finding import Finding, Level, Machine
from slipway.upkeep import upkeep

pytestmark = pytest.mark.anyio
FULL = 0x1FFFFFFFFFF
SYS_RESOURCE, SYS_ADMIN = 1 << 24, 1 << 21


def _machine(root: Path, **files: str) -> Machine:
    """A machine whose files are these; `__` stands for a slash."""
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return Machine(run_dir="/run/x", data_dir="/var/lib/x", cni_dir="/etc/cni", root=root)


def _program(root: Path, name: str, says: str) -> None:
    path = root / "usr/bin" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho '{says}'\n")
    path.chmod(0o755)


def _level(found: Finding | Iterable[Finding], name: str = "") -> Level:
    if isinstance(found, Finding):
        return found.level
    return next(finding.level for finding in found if finding.name == name)


def test_this_machine_is_looked_at_as_a_whole(tmp_path: Path) -> None:
    found = examine(Machine(run_dir=str(tmp_path), data_dir=str(tmp_path), cni_dir=str(tmp_path)))
    names = {finding.name for finding in found}
    assert {"kernel", "overlayfs", "cgroups", "capabilities", "disk", "clock", "seccomp"} <= names
    assert all(finding.text for finding in found)
    assert all(finding.fix for finding in found if finding.level in (Level.WARN, Level.FAIL))


@pytest.mark.parametrize(
    ("release", "level"),
    [("4.19.0-27", Level.WARN), ("5.15.0", Level.NOTE), ("6.1.0-28-amd64", Level.OK)],
)
def test_an_old_kernel_is_told(tmp_path: Path, release: str, level: Level) -> None:
    assert _level(kernel.version(_machine(tmp_path, proc__sys__kernel__osrelease=release))) is level


def test_a_kernel_without_its_parts_fails(tmp_path: Path) -> None:
    bare = _machine(
        tmp_path,
        proc__filesystems="nodev\tproc\n\text4\n",
        proc__sys__kernel__osrelease="6.1",
        **{"lib__modules__6.1__modules.dep": "kernel/fs/ext4/ext4.ko: \n"},
    )
    assert _level(kernel.overlayfs(bare)) is Level.FAIL
    assert _level(kernel.seccomp(bare)) is Level.FAIL
    assert _level(kernel.pressure(bare)) is Level.NOTE
    assert _level(cgroups.layout(bare)) is Level.FAIL
    off = _machine(tmp_path, proc__sys__user__max_user_namespaces="0\n")
    assert _level(kernel.user_namespaces(off)) is Level.WARN


def test_a_mended_log_of_redis_is_told_until_its_copy_goes(tmp_path: Path) -> None:
    machine = _machine(tmp_path)
    assert storage.redis_log(machine) == []
    kept = "var/lib/x/redis/appendonlydir/appendonly.aof.3.incr.damaged"
    (found,) = storage.redis_log(_machine(tmp_path, **{kept: "*2"}))
    assert (found.level, found.fix.endswith(f"{tmp_path / kept}, the log as it was.")) == (Level.NOTE, True)
    (tmp_path / kept).unlink()
    assert storage.redis_log(machine) == []


def test_cgroup_v2_without_a_controller_fails(tmp_path: Path) -> None:
    machine = _machine(tmp_path, **{"sys__fs__cgroup__cgroup.controllers": "cpu cpuset io pids\n"})
    assert _level(cgroups.layout(machine)) is Level.OK
    found = cgroups.controllers(machine)
    assert (found.level, "without memory" in found.text) == (Level.FAIL, True)


async def test_who_makes_the_cgroups_is_told_where_it_could_be_systemd(tmp_path: Path) -> None:
    v2 = {"sys__fs__cgroup__cgroup.controllers": "cpu cpuset io memory pids\n"}
    assert cgroups.tell_driver(_machine(tmp_path / "plain", **v2), is_systemd=False) == []
    assert cgroups.tell_driver(_machine(tmp_path / "v1", run__systemd__system__x=""), is_systemd=False) == []
    machine = _machine(tmp_path / "systemd", **v2, run__systemd__system__x="")
    (found,) = cgroups.tell_driver(machine, is_systemd=False)
    assert (found.level, 'cgroup_driver = "systemd"' in found.fix) == (Level.NOTE, True)
    assert [one.level for one in cgroups.tell_driver(machine, is_systemd=True)] == [Level.OK]
    assert await cgroups.driver(machine, {}) == []
    assert await cgroups.driver(machine, {"run_dir": "/run/x"}) == []


def test_processes_below_a_scope_are_its_containers(tmp_path: Path) -> None:
    (tmp_path / "container/exec-1").mkdir(parents=True)
    for place, pids in ((".", ""), ("container", "3\n1\n"), ("container/exec-1", "2\n")):
        (tmp_path / place / "cgroup.procs").write_text(pids)
    assert inventory.pids_of([str(tmp_path), str(tmp_path / "container"), str(tmp_path / "gone")]) == [
        1,
        2,
        3,
    ]


@pytest.mark.parametrize(
    ("held", "level"),
    [(FULL, Level.OK), (FULL & ~SYS_RESOURCE, Level.WARN), (FULL & ~SYS_ADMIN, Level.FAIL)],
    ids=["all", "no CAP_SYS_RESOURCE", "no CAP_SYS_ADMIN"],
)
def test_a_missing_capability_is_told(tmp_path: Path, held: int, level: Level) -> None:
    machine = _machine(tmp_path, proc__self__status=f"Name:\tx\nCapBnd:\t{held:016x}\n")
    assert _level(limits.capabilities(machine)) is level


@pytest.mark.parametrize(
    ("pattern", "level"),
    [("|/usr/lib/apport %p", Level.NOTE), ("core", Level.NOTE), ("/var/core.%p", Level.OK)],
)
def test_where_core_dumps_go(tmp_path: Path, pattern: str, level: Level) -> None:
    machine = _machine(tmp_path, proc__sys__kernel__core_pattern=pattern)
    assert _level(limits.core_pattern(machine)) is level


@pytest.mark.parametrize(
    ("name", "says", "flaws"),
    [
        ("runc", "runc version 1.1.11", ["CVE-2024-21626", "CVE-2024-45310", "CVE-2025-31133"]),
        ("runc", "runc version 1.1.15", ["CVE-2025-31133"]),
        ("runc", "runc version 1.2.8", []),
        ("runc", "runc version 1.3.2", ["CVE-2025-31133"]),
        ("runc", "runc version 1.3.3", []),
        ("runc", "runc version 1.4.0-rc.2", ["CVE-2025-31133"]),
        ("runc", "runc version 1.4.0-rc.3", []),
        ("runc", "runc version 1.4.0", []),
        ("crun", "crun version 1.8.1", []),
        ("crun", "crun version 1.21", ["CVE-2026-30892"]),
        ("crun", "crun version 1.4.3", ["CVE-2022-27650"]),
        ("runsc", "runsc version release-20240807.0", []),
    ],
)
def test_known_flaws_of_a_version_are_told(tmp_path: Path, name: str, says: str, flaws: list[str]) -> None:
    _program(tmp_path, name, says)
    found = [finding for finding in runtimes.runtimes(_machine(tmp_path)) if finding.name == name]
    assert [finding.text.split()[2].rstrip(":") for finding in found if finding.level is Level.WARN] == flaws
    assert found[0].text.startswith(says.split()[2])


def test_what_a_distribution_has_patched_is_no_flaw(tmp_path: Path) -> None:
    _program(tmp_path, "runc", "runc version 1.1.5+ds1")
    changelog = tmp_path / "usr/share/doc/runc/changelog.Debian.gz"
    changelog.parent.mkdir(parents=True)
    changelog.write_bytes(gzip.compress(b"runc (1.1.5-2)\n  * Fix CVE-2024-21626, CVE-2024-45310\n"))
    texts = " ".join(finding.text for finding in runtimes.runtimes(_machine(tmp_path)))
    assert "CVE-2024-21626" not in texts
    assert "CVE-2025-31133" in texts


def test_a_machine_without_a_runtime_fails(tmp_path: Path) -> None:
    assert [finding.level for finding in runtimes.runtimes(_machine(tmp_path))] == [Level.FAIL]


def test_a_network_whose_plugin_is_missing_fails(tmp_path: Path) -> None:
    conflist = '{"name": "n", "plugins": [{"type": "bridge"}, {"type": "portmap"}]}'
    machine = _machine(tmp_path, **{"etc__cni__10-n.conflist": conflist, "opt__cni__bin__bridge": ""})
    found = network.cni(machine)
    assert _level(found, "CNI") is Level.OK
    assert [f.text.split()[0] for f in found if f.level is Level.FAIL] == ["portmap"]
    found = network.cni(_machine(tmp_path, **{"etc__cni__05-b.conflist": "{"}))
    assert [f.level for f in found if f.name == "CNI"] == [Level.WARN, Level.OK], "runtimed takes the next"
    (tmp_path / "etc/cni/10-n.conflist").unlink()
    assert _level(network.cni(machine), "CNI") is Level.FAIL
    off = _machine(tmp_path, proc__sys__net__ipv4__ip_forward="0\n")
    assert _level(network.forwarding(off), "IPv4 forwarding") is Level.WARN


def test_a_bridge_whose_packets_are_dropped_by_default_is_told(tmp_path: Path) -> None:
    bridge = {"type": "bridge", "bridge": "slw0"}
    machine = _machine(
        tmp_path, **{"etc__cni__10-n.conflist": json.dumps({"name": "n", "plugins": [bridge]})}
    )
    assert network.dropped(machine) == []
    _program(tmp_path, "iptables", "-P FORWARD ACCEPT")
    assert network.dropped(machine) == []
    half = "-P FORWARD DROP\n-A FORWARD -j DOCKER-USER\n-A FORWARD -i slw0 -j ACCEPT"
    _program(tmp_path, "iptables", half)
    (found,) = network.dropped(machine)
    assert (found.level, found.fix) == (Level.WARN, "iptables -I FORWARD -o slw0 -j ACCEPT")
    _program(tmp_path, "iptables", f"{half}\n-A FORWARD -o slw0 -j ACCEPT")
    assert network.dropped(machine) == []
    _program(tmp_path, "iptables", half)
    _machine(
        tmp_path,
        **{"etc__cni__05-m.conflist": json.dumps({"name": "m", "plugins": [bridge, {"type": "firewall"}]})},
    )
    assert network.dropped(machine) == []


@pytest.mark.parametrize(
    ("kind", "level"), [("ext4", Level.OK), ("nfs4", Level.FAIL), ("overlay", Level.FAIL)]
)
def test_a_filesystem_that_overlayfs_cannot_write_on_fails(tmp_path: Path, kind: str, level: Level) -> None:
    mounts = f"20 1 8:1 / / rw - btrfs /dev/sda rw\n21 20 8:2 / /var/lib rw - {kind} /dev/sdb rw\n"
    assert _level(storage.filesystem(_machine(tmp_path, proc__self__mountinfo=mounts))) is level


def test_a_filesystem_is_found_below_a_link(tmp_path: Path) -> None:
    mounts = "20 1 8:1 / / rw - ext4 /dev/sda rw\n21 20 8:2 / /big rw - nfs4 /dev/sdb rw\n"
    machine = _machine(tmp_path, proc__self__mountinfo=mounts, big__slipway__x="", var__lib__y="")
    (tmp_path / "var/lib/x").symlink_to("../../big/slipway")
    found = storage.filesystem(machine)
    assert (found.level, "on nfs4" in found.text) == (Level.FAIL, True)


def test_a_snapshotter_that_copies_needs_no_overlayfs(tmp_path: Path) -> None:
    mounts = "20 1 8:1 / / rw - nfs4 /dev/sda rw\n"
    machine = replace(
        _machine(tmp_path, proc__self__mountinfo=mounts, proc__filesystems="nodev\tproc\n"),
        snapshotter="native",
    )
    assert (_level(storage.filesystem(machine)), _level(kernel.overlayfs(machine))) == (Level.OK, Level.OK)


def test_an_overlayfs_that_a_mount_loads_is_no_failure(tmp_path: Path) -> None:
    files = {"proc__filesystems": "nodev\tproc\n", "proc__sys__kernel__osrelease": "6.1"}
    modules = {"lib__modules__6.1__modules.dep": "kernel/fs/overlayfs/overlay.ko.xz:\n"}
    assert _level(kernel.overlayfs(_machine(tmp_path / "unknown", **files))) is Level.WARN
    assert _level(kernel.overlayfs(_machine(tmp_path, **files, **modules))) is Level.OK
    locked = _machine(tmp_path, proc__sys__kernel__modules_disabled="1\n")
    assert _level(kernel.overlayfs(locked)) is Level.FAIL


def test_networks_are_looked_for_as_runtimed_does(tmp_path: Path) -> None:
    plugin = '{"name": "one", "cniVersion": "0.4.0", "type": "ptp", "ipam": {"type": "host-local", "dataDir": "/x"}}'
    nameless = '{"plugins": [{"type": "bridge"}]}'
    machine = _machine(
        tmp_path,
        **{"etc__cni__05-a.json": nameless, "etc__cni__10-p.conf": plugin, "plugins__ptp": ""},
    )
    found = network.cni(replace(machine, plugin_dirs=("/plugins",)))
    assert [(f.name, f.level) for f in found] == [("CNI", Level.WARN), ("CNI", Level.OK)]
    assert found[1].text == "10-p.conf: ptp"
    assert dict(inventory._networks(tmp_path / "etc/cni")) == {"one": "/x"}


def test_a_node_in_containers_has_its_programs_in_images(tmp_path: Path) -> None:
    conflist = '{"name": "n", "plugins": [{"type": "bridge"}]}'
    machine = replace(_machine(tmp_path, **{"etc__cni__10-n.conflist": conflist}), in_containers=True)
    found = [*network.cni(machine), *runtimes.runtimes(machine)]
    assert {f.level for f in found} == {Level.OK, Level.NOTE}


def test_the_settings_of_the_services_are_heeded(tmp_path: Path) -> None:
    for name, text in (
        ("run/settings/runtimed.toml", 'cni_conf_dir = "/a"\n'),
        ("run/settings/snapshotd.toml", 'node = "n"\n'),
        ("own/runtimed.toml", 'cni_conf_dir = "/b"\ncni_bin_dirs = ["/c"]\n'),
        ("own/snapshotd.toml", 'snapshotter = "native"\n'),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    known = {"run_dir": f"{tmp_path}/run", "settings_dir": f"{tmp_path}/own", "supervisor": SYSTEMD}
    machine = machine_of(f"{tmp_path}/run", known)
    assert (machine.cni_dir, machine.plugin_dirs, machine.snapshotter) == ("/b", ("/c",), "native")
    machine = machine_of(f"{tmp_path}/run", known | {"supervisor": CONTAINERS})
    assert (machine.cni_dir, machine.snapshotter, machine.in_containers) == ("/a", "overlayfs", True)
    assert machine_of("/run/x", {}).cni_dir == "/etc/cni/net.d"


@pytest.mark.root
async def test_who_may_not_see_the_node_is_told_so(tmp_path: Path) -> None:
    machine = _machine(tmp_path, run__x__node="")
    assert "none is known" in services.unknown(machine).text
    node = tmp_path / "run/x/node.json"
    node.touch(mode=0)
    tmp_path.chmod(0o711)
    code = (
        "import os, sys\nfrom slipway.doctor import services\nfrom slipway.doctor.finding import Machine\n"
        "os.chroot(sys.argv[1])\nos.setuid(65534)\n"
        "print(services.unknown(Machine(run_dir='/run/x', data_dir='', cni_dir='')).text)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.startswith("/run/x/node.json needs root")


def test_a_socket_that_is_open_to_all_fails(tmp_path: Path) -> None:
    machine = _machine(tmp_path, **{"run__x__crid.sock": ""})
    (tmp_path / "run/x/crid.sock").chmod(0o660)
    assert _level(services.sockets(machine), "sockets") is Level.OK
    (tmp_path / "run/x/crid.sock").chmod(0o666)
    found = services.sockets(machine)
    assert (found[0].level, found[0].fix.startswith("chmod 660 ")) == (Level.FAIL, True)


async def test_a_node_that_is_installed_is_started_by_systemd(tmp_path: Path) -> None:
    machine = replace(_machine(tmp_path), run_dir=services.UNITS_RUN_DIR)
    [found] = await services.services(machine, {})
    assert found.fix == "Start one: `sudo ./dev up`."
    machine.at(services.TARGET).parent.mkdir(parents=True)
    machine.at(services.TARGET).touch()
    [found] = await services.services(machine, {})
    assert found.fix == "Start one: `sudo systemctl start slipway.target`."


async def test_what_a_node_needs_and_does_not_answer_is_told(tmp_path: Path) -> None:
    machine = _machine(tmp_path)
    known = {"redis_url": f"unix://{tmp_path}/redis.sock", "nats_url": "nats://127.0.0.1:1"}
    assert _level(await services.redis(machine, known), "Redis") is Level.FAIL
    [found] = await services.nats(machine, known)
    assert (found.level, found.fix.startswith("`slipway-node up ")) == (Level.WARN, True)
    [found] = await services.nats(machine, known | {"servers": ["redis"]})
    assert found.fix.startswith("It is one of others")
    assert await services.redis(machine, {}) == []


@pytest.mark.parametrize(
    ("supervisor", "logs", "start"),
    [
        (SYSTEMD, "`journalctl -u slipway-opsd -o cat`", "`systemctl start slipway-opsd`"),
        (CONTAINERS, "`docker compose -p slipway logs opsd`", "`docker compose -p slipway start opsd`"),
        (4321, "{run_dir}/log", "`slipway-node up --run-dir {run_dir}`"),
    ],
)
def test_hints_name_what_keeps_the_node_up(tmp_path: Path, supervisor: int, logs: str, start: str) -> None:
    (tmp_path / "node.json").write_text(json.dumps({"supervisor": supervisor}))
    found = upkeep(str(tmp_path), "opsd")
    assert (found.logs, found.start) == (logs.format(run_dir=tmp_path), start.format(run_dir=tmp_path))
