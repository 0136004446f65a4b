"""Namespaces are pinned and CNI plugins run for real, with a bridge of their own in a network of their own."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import anyio
import pytest

from common import cniconf
from common.errors import FailedPreconditionError, InvalidArgumentError, NotFoundError, UnavailableError
from common.sys import linux
from runtimed.network import cniexec, cniresult, netns
from runtimed.network.cni import Attachment, Cni
from runtimed.processes import started_ticks
from tests.support.eventually import until
from tests.support.pace import patience

BIN_DIRS = ["/usr/lib/cni"]
BRIDGE = "slwtest0"
ADDED = '{"ips": [{"address": "10.9.0.2/24"}]}'

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def plugin(directory: Path, name: str, script: str) -> None:
    path = directory / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def conflist(
    directory: Path, plugins: list[dict[str, Any]], *, version: str = "1.0.0", name: str = "testnet"
) -> None:
    directory.mkdir(exist_ok=True)
    content = {"cniVersion": version, "name": name, "plugins": plugins}
    (directory / "10-test.conflist").write_text(json.dumps(content))


def attachment(netns_path: str = "/nowhere", **fields: Any) -> Attachment:
    return Attachment(
        sandbox_id="sb1",
        netns_path=netns_path,
        pod_name="web",
        pod_namespace="shop",
        pod_uid="u1",
        **fields,
    )


def fake(tmp_path: Path, script: str, *, version: str = "1.0.0", **fields: Any) -> Cni:
    conflist(tmp_path / "conf", [{"type": "fake", **fields}], version=version)
    plugin(tmp_path, "fake", script)
    return Cni(str(tmp_path / "conf"), [str(tmp_path)], str(tmp_path / "cache"))


def test_first_valid_configuration_is_taken(tmp_path: Path) -> None:
    (tmp_path / "00-broken.conflist").write_text("{")
    (tmp_path / "05-ignored.txt").write_text("{}")
    (tmp_path / "10-a.conf").write_text('{"cniVersion": "0.4.0", "name": "single", "type": "bridge"}')
    conflist(tmp_path, [{"type": "ptp"}], name="second")
    cni = Cni(str(tmp_path), BIN_DIRS, str(tmp_path / "cache"))
    cni.load()
    assert cni.ready() == (True, "")
    assert cni.conf is not None
    assert cni.conf.name == "single"
    (tmp_path / "10-a.conf").unlink()
    cni.load()
    assert cni.conf.name == "second"


def test_the_old_configuration_is_in_use_until_the_new_one_is_read(tmp_path: Path) -> None:
    conflist(tmp_path, [{"type": "ptp"}], name="old")
    cni = Cni(str(tmp_path), BIN_DIRS, str(tmp_path / "cache"))
    cni.load()
    os.mkfifo(tmp_path / "05-new.conflist")
    loads = threading.Thread(target=cni.load)
    loads.start()
    with (tmp_path / "05-new.conflist").open("w") as file:  # opens when the other end does
        meanwhile = cni.ready(), cni.conf and cni.conf.name
        json.dump({"cniVersion": "1.0.0", "name": "new", "type": "bridge"}, file)
    loads.join()
    assert meanwhile == ((True, ""), "old")
    assert cni.conf
    assert cni.conf.name == "new"


def test_missing_configuration_and_plugin_are_named(tmp_path: Path) -> None:
    cni = Cni(str(tmp_path / "none"), BIN_DIRS, str(tmp_path))
    cni.load()
    assert cni.ready()[1].startswith(
        f"cni plugin not initialized: no network configuration in {tmp_path}/none: put a *.conflist there"
    )
    conflist(tmp_path, [{"type": "absent"}])
    cni = Cni(str(tmp_path), BIN_DIRS, str(tmp_path))
    cni.load()
    assert "'absent' is in none of /usr/lib/cni" in cni.ready()[1]


@pytest.mark.parametrize(
    "content",
    [[], {"name": "x"}, {"name": "x", "plugins": []}, {"name": "x", "type": "../sh"}, {"name": "..", "type": "a"},
     {"name": "x", "type": "a", "cniVersion": "9.9.9"}, {"name": "x", "type": "a", "cniVersion": ["1.0.0"]},
     {"name": "x", "type": [], "disableCheck": []}],
)  # fmt: skip
def test_malformed_configuration_is_refused(content: object) -> None:
    with pytest.raises(InvalidArgumentError):
        cniconf.parse(content, "file")


def test_result_gives_own_addresses_ipv4_first() -> None:
    raw = {
        "interfaces": [{"name": "br0"}, {"name": "eth0", "sandbox": "/ns"}],
        "ips": [
            {"address": "fd00::2/64", "interface": 1},
            {"address": "10.0.0.2/24", "interface": 1},
            {"address": "10.0.0.1/24", "interface": 0},
        ],
    }
    assert cniresult.parse("a", json.dumps(raw).encode(), "eth0").ips == ["10.0.0.2", "fd00::2"]
    assert cniresult.parse("a", b'{"ip4": {"ip": "10.1.0.2/16"}}', "eth0").ips == ["10.1.0.2"]


def test_an_address_is_the_sandboxs_by_the_name_of_its_interface() -> None:
    """Not every plugin says in which namespace an interface is."""
    raw: dict[str, Any] = {
        "interfaces": [{"name": "eth0"}, {"name": "veth1"}],
        "ips": [{"address": "10.0.0.2/24", "interface": 0}, {"address": "10.0.0.1/24", "interface": 1}],
    }
    assert cniresult.parse("a", json.dumps(raw).encode(), "eth0").ips == ["10.0.0.2"]
    raw["interfaces"][1] = {"name": "eth0", "sandbox": "/ns"}  # so the other one is the node's
    assert cniresult.parse("a", json.dumps(raw).encode(), "eth0").ips == ["10.0.0.1"]


@pytest.mark.anyio
async def test_plugin_gets_environment_capabilities_and_previous_result(tmp_path: Path) -> None:
    script = f"""cat >> {tmp_path}/stdin.$CNI_COMMAND
env | sort > {tmp_path}/env.$CNI_COMMAND
echo '{{"cniVersion": "1.0.0", "ips": [{{"address": "10.9.0.2/24"}}]}}'"""
    cni = fake(tmp_path, script, capabilities={"portMappings": True, "dns": False})
    mapping = {"hostPort": 80, "containerPort": 8080, "protocol": "tcp", "hostIP": ""}
    wish = attachment(port_mappings=[mapping, {**mapping, "hostPort": 0}], dns={"servers": ["1.1.1.1"]})
    assert (await cni.add(wish)).ips == ["10.9.0.2"]
    sent = json.loads((tmp_path / "stdin.ADD").read_text())
    assert sent["runtimeConfig"] == {"portMappings": [mapping]}
    assert "capabilities" not in sent
    environment = (tmp_path / "env.ADD").read_text()
    assert "CNI_CONTAINERID=sb1\n" in environment
    assert (
        "K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web;K8S_POD_INFRA_CONTAINER_ID=sb1;K8S_POD_UID=u1" in environment
    )
    # The configuration has gone since: DEL works from the cache.
    (tmp_path / "conf/10-test.conflist").unlink()
    await cni.delete(wish)
    assert json.loads((tmp_path / "stdin.DEL").read_text())["prevResult"]["ips"]
    assert "CNI_NETNS=\n" in (tmp_path / "env.DEL").read_text()
    assert cni.cached() == []
    await cni.delete(wish)


@pytest.mark.anyio
async def test_failed_add_is_named_and_kept_to_be_taken_back(tmp_path: Path) -> None:
    script = f"""cat > /dev/null; echo $CNI_COMMAND >> {tmp_path}/verbs
[ $CNI_COMMAND = DEL ] && exit 0
echo '{{"cniVersion": "1.0.0", "code": 11, "msg": "no address left", "details": "pool 10.0.0.0/30"}}'; exit 1"""
    cni = fake(tmp_path, script)
    with pytest.raises(UnavailableError, match="cni plugin 'fake': ADD failed: no address left: pool"):
        await cni.add(attachment())
    assert [item.sandbox_id for item in cni.cached()] == ["sb1"]
    await cni.delete(attachment())
    assert (tmp_path / "verbs").read_text() == "ADD\nDEL\n"
    assert cni.cached() == []


NO_RESULT = "cni plugin 'fake': ADD answered no result: "
HOSTILE = {
    "nothing": ("true", NO_RESULT + "Input data was truncated"),
    "no object": ("echo 5", NO_RESULT + "Expected `object`"),
    "no JSON": (r"printf '\377\0'", NO_RESULT + "JSON is malformed"),
    "addresses that are none": ("""echo '{"ips": 5}'""", NO_RESULT + "Expected `array | null`, got `int`"),
    "an address that is no object": ("""echo '{"ips": [5]}'""", NO_RESULT + "Expected `object`, got `int`"),
    "an address that is a number": (
        """echo '{"ips": [{"address": 5}]}'""",
        NO_RESULT + r"Expected `str`, got `int` - at `\$.ips\[0\].address`",
    ),
    "an address that is none": (
        """echo '{"ips": [{"address": "a/b"}]}'""",
        NO_RESULT + "'a/b' does not appear",
    ),
    "an old address": ("""echo '{"ip4": {"ip": null}}'""", NO_RESULT + "Expected `str`, got `null`"),
    "interfaces that are none": (
        """echo '{"interfaces": [[]]}'""",
        NO_RESULT + "Expected `object`, got `array`",
    ),
    "half a letter": (r"""echo '{"x": "\ud800"}'""", NO_RESULT),
    "no finite number": ("""echo '{"x": 1e999}'""", NO_RESULT + "Number out of range"),
    "nests": (f"""echo '{'{"x":' * 66}1{"}" * 66}'""", NO_RESULT + "nests deeper than 64 levels"),
    "a pit": ("""head -c 100000 /dev/zero | tr '\\0' '['""", NO_RESULT),
    "a pit of objects": ("""yes '{"x":' | head -100000""", NO_RESULT),
    "a flood": ("yes", "cni plugin 'fake': ADD wrote more than 1048576 bytes"),
    "a flood of complaints": ("yes >&2", "cni plugin 'fake': ADD wrote more than 1048576 bytes"),
    "a code that is none": (
        """echo '{"code": [], "msg": "x"}'; exit 1""",
        "cni plugin 'fake': ADD failed: {",
    ),
    "a failure in a pit": (
        """head -c 100000 /dev/zero | tr '\\0' '['; exit 1""",
        r"cni plugin 'fake': ADD failed: \[\[",
    ),
    "a long story": (
        """echo '{"code": 7, "msg": "'$(head -c 100000 /dev/zero | tr '\\0' x)'"}'; exit 1""",
        "cni plugin 'fake': ADD failed: x{2000}$",
    ),
}


@pytest.mark.anyio
@pytest.mark.parametrize("answer", HOSTILE)
async def test_a_hostile_answer_is_refused_with_the_plugin_and_what_is_wrong(
    tmp_path: Path, answer: str
) -> None:
    script, message = HOSTILE[answer]
    cni = fake(tmp_path, f"cat > /dev/null\n[ $CNI_COMMAND = DEL ] || {{ {script}\n}}")
    with pytest.raises((UnavailableError, FailedPreconditionError), match=message) as refused:
        await cni.add(attachment())
    assert len(refused.value.message) < cniresult.MAX_REASON_CHARS + 100
    assert [item.sandbox_id for item in cni.cached()] == ["sb1"]
    await cni.delete(attachment())
    assert cni.cached() == []


@pytest.mark.anyio
async def test_a_plugin_that_floods_is_killed_and_a_large_answer_is_read(tmp_path: Path) -> None:
    cni = fake(tmp_path, f"yes & echo $! > {tmp_path}/child; wait")
    with pytest.raises(UnavailableError, match="wrote more than"):
        await cni.add(attachment())
    child = int((tmp_path / "child").read_text())
    await until(lambda: not started_ticks(child), "the plugin's child to end")
    padding = cniexec.MAX_OUTPUT_BYTES - len(f'{{"x": "", {ADDED[1:]}\n')
    plugin(
        tmp_path, "fake", f"""echo '{{"x": "'$(head -c {padding} /dev/zero | tr '\\0' x)'", {ADDED[1:]}'"""
    )
    assert len((await cni.add(attachment())).raw["x"]) == padding


@pytest.mark.anyio
async def test_what_a_delete_says_is_no_matter_and_a_program_that_is_none_is_named(tmp_path: Path) -> None:
    cni = fake(tmp_path, f"[ $CNI_COMMAND = ADD ] && echo '{ADDED}' || echo gone")
    await cni.add(attachment())
    (tmp_path / "fake").rename(tmp_path / "away")
    (tmp_path / "fake").write_bytes(b"\x7fELF")
    (tmp_path / "fake").chmod(0o755)
    with pytest.raises(UnavailableError, match=r"cni plugin 'fake': .*/fake: Exec format error"):
        await cni.delete(attachment())
    (tmp_path / "away").rename(tmp_path / "fake")
    await cni.delete(attachment())
    assert cni.cached() == []


@pytest.mark.anyio
@pytest.mark.parametrize("order", [["fake", "absent"], ["absent", "fake"]])
async def test_a_network_with_a_missing_plugin_starts_nothing_and_can_be_taken_back(
    tmp_path: Path, order: list[str]
) -> None:
    conflist(tmp_path / "conf", [{"type": name} for name in order])
    plugin(tmp_path, "fake", f'echo $CNI_COMMAND >>{tmp_path}/calls; echo "{{}}"')
    cni = Cni(str(tmp_path / "conf"), [str(tmp_path)], str(tmp_path / "cache"))
    with pytest.raises(FailedPreconditionError, match="'absent' is in none of"):
        await cni.add(attachment())
    assert not (tmp_path / "calls").exists()
    await cni.delete(attachment())
    assert cni.cached() == []


@pytest.mark.anyio
async def test_a_plugin_that_goes_after_its_add_is_missed_by_the_delete(tmp_path: Path) -> None:
    cni = fake(tmp_path, f"echo '{ADDED}'")
    await cni.add(attachment())
    (tmp_path / "fake").rename(tmp_path / "away")
    with pytest.raises(FailedPreconditionError, match="'fake' is in none of"):
        await cni.delete(attachment())
    (tmp_path / "away").rename(tmp_path / "fake")
    await cni.delete(attachment())
    assert cni.cached() == []


@pytest.mark.anyio
async def test_failed_delete_is_kept_for_the_next_try(tmp_path: Path) -> None:
    script = f"cat > /dev/null; [ $CNI_COMMAND = ADD ] && echo '{ADDED}' && exit 0; test -e {tmp_path}/go"
    cni = fake(tmp_path, script)
    await cni.add(attachment())
    with pytest.raises(UnavailableError, match="DEL failed: exit code 1"):
        await cni.delete(attachment())
    assert [item.sandbox_id for item in cni.cached()] == ["sb1"]
    (tmp_path / "go").touch()
    await cni.delete(attachment())
    assert cni.cached() == []


@pytest.mark.anyio
async def test_what_a_power_cut_left_empty_is_deleted_with_the_configuration_of_now(tmp_path: Path) -> None:
    cni = fake(tmp_path, f"cat > /dev/null; echo $CNI_COMMAND $CNI_CONTAINERID >> {tmp_path}/calls")
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "sb1-eth0.json").touch()
    (tmp_path / "conf/10-test.conflist").rename(tmp_path / "away")
    [left] = cni.cached()
    assert (left.sandbox_id, left.interface) == ("sb1", "eth0")
    with pytest.raises(FailedPreconditionError, match="no network configuration"):
        await cni.delete(left)
    (tmp_path / "away").rename(tmp_path / "conf/10-test.conflist")
    await cni.delete(left)
    assert (tmp_path / "calls").read_text() == "DEL sb1\n"
    assert cni.cached() == []


@pytest.mark.anyio
async def test_cancelled_add_kills_the_plugin_and_is_kept_to_be_taken_back(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "started")
    script = f"""cat > /dev/null; echo $CNI_COMMAND >> {tmp_path}/verbs
[ $CNI_COMMAND = DEL ] && exit 0
echo $$ > {tmp_path}/started; sleep 300"""
    cni = fake(tmp_path, script)
    task = asyncio.create_task(cni.add(attachment()))
    pid = int(await asyncio.to_thread((tmp_path / "started").read_text))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not Path(f"/proc/{pid}").exists()
    assert (tmp_path / "verbs").read_text() == "ADD\n"
    assert [item.sandbox_id for item in cni.cached()] == ["sb1"]


@pytest.mark.anyio
async def test_answer_does_not_wait_for_what_a_plugin_leaves_running(tmp_path: Path) -> None:
    script = f"cat > /dev/null; sleep 60 & echo $! > {tmp_path}/daemon; echo '{ADDED}'"
    cni = fake(tmp_path, script)
    with anyio.fail_after(patience(20)):
        await cni.add(attachment())
    os.kill(int((tmp_path / "daemon").read_text()), signal.SIGKILL)


@pytest.mark.anyio
async def test_status_asks_plugins_of_new_configurations(tmp_path: Path) -> None:
    script = 'cat > /dev/null; echo \'{"code": 50, "msg": "no route"}\'; exit 1'
    assert await fake(tmp_path, script).status() == (True, "")
    ok, why = await fake(tmp_path, script, version="1.1.0").status()
    assert (ok, why) == (False, "cni plugin 'fake': STATUS failed: no route")


@pytest.mark.anyio
async def test_add_without_configuration_is_a_failed_precondition(tmp_path: Path) -> None:
    with pytest.raises(FailedPreconditionError, match="cni plugin not initialized"):
        await Cni(str(tmp_path), BIN_DIRS, str(tmp_path / "c")).add(attachment())


@pytest.mark.root
@needs_root
@pytest.mark.anyio
async def test_namespaces_are_pinned_named_and_removed(tmp_path: Path) -> None:
    directory = str(tmp_path / "ns")
    host = socket.gethostname()
    sysctls = {"net.ipv4.ip_unprivileged_port_start": "0", "kernel.shmmni": "77"}
    paths = await netns.pin(directory, ("net", "ipc", "uts"), sysctls=sysctls, hostname="pod-1")
    try:
        assert all(netns.is_namespace(path) for path in paths.values())
        show = "hostname; cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shmmni; ip -o link show lo"
        enter = ["nsenter", *(f"--{kind}={path}" for kind, path in paths.items()), "sh", "-c", show]
        out = subprocess.run(enter, check=True, capture_output=True, text=True).stdout
        assert out.startswith("pod-1\n0\n77\n")
        assert "LOOPBACK,UP" in out
        assert socket.gethostname() == host
        assert netns.read_interfaces(paths["net"]) == []
    finally:
        await netns.unpin(directory)
    assert not Path(directory).exists()
    await netns.unpin(directory)
    with pytest.raises(NotFoundError):
        netns.read_interfaces(paths["net"])


@pytest.mark.root
@needs_root
@pytest.mark.anyio
async def test_refused_sysctl_leaves_nothing(tmp_path: Path) -> None:
    directory = tmp_path / "ns"
    with pytest.raises(InvalidArgumentError, match="not namespaced"):
        await netns.pin(str(directory), ("net",), sysctls={"kernel.core_pattern": "x"}, hostname="")
    with pytest.raises(InvalidArgumentError, match="shares its ipc namespace"):
        await netns.pin(str(directory), ("net",), sysctls={"kernel.shmmni": "1"}, hostname="")
    with pytest.raises(InvalidArgumentError, match=r"ip_forward = 'x'"):
        await netns.pin(str(directory), ("net",), sysctls={"net.ipv4.ip_forward": "x"}, hostname="")
    assert not directory.exists() or not list(directory.iterdir())


BRIDGE_SCENARIO = """
import asyncio, json, subprocess, sys
from runtimed.network import netns
from runtimed.network.cni import Attachment, Cni

async def main(base):
    pins = await netns.pin(base + "/ns", ("net",), sysctls={}, hostname="")
    wish = Attachment(sandbox_id="slwcni1", netns_path=pins["net"], pod_name="p", pod_namespace="n", pod_uid="u")
    cni = Cni(base + "/conf", ["/usr/lib/cni"], base + "/cache")
    result = await cni.add(wish)
    await cni.check(wish)
    links = [link.name for link in netns.read_interfaces(pins["net"])]
    addresses = subprocess.run(["nsenter", "--net=" + pins["net"], "ip", "-4", "-o", "addr", "show", "eth0"],
                               check=True, capture_output=True, text=True).stdout
    subprocess.run(["nsenter", "--net=" + pins["net"], "ip", "link", "delete", "eth0"], check=True)
    amiss = ""
    try:
        await cni.check(wish)
    except Exception as error:
        amiss = str(error)
    await netns.unpin(base + "/ns")
    await cni.delete(wish)
    print(json.dumps({"ips": result.ips, "links": links, "addresses": addresses, "amiss": amiss}))

asyncio.run(main(sys.argv[1]))
"""


@pytest.mark.root
@needs_root
def test_bridge_attaches_checks_and_detaches_without_its_namespace(tmp_path: Path) -> None:
    """In a network namespace of its own, so that the host's links and rules stay as they are."""
    ipam = {
        "type": "host-local",
        "dataDir": str(tmp_path / "ipam"),
        "ranges": [[{"subnet": "10.213.7.0/24"}]],
    }
    bridge = {"type": "bridge", "bridge": BRIDGE, "isGateway": True, "ipam": ipam}
    conflist(tmp_path / "conf", [bridge, {"type": "portmap", "capabilities": {"portMappings": True}}])
    command = ["unshare", "-n", "-m", sys.executable, "-c", BRIDGE_SCENARIO, str(tmp_path)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout.splitlines()[-1])
    assert found["ips"] == ["10.213.7.2"]
    assert found["links"] == ["eth0"]
    assert "10.213.7.2/24" in found["addresses"]
    assert "cni plugin 'bridge': CHECK failed" in found["amiss"]
    assert not (tmp_path / "ipam/testnet/10.213.7.2").exists()
    assert list((tmp_path / "cache").iterdir()) == []


def test_constants_are_of_this_kernel() -> None:
    assert {flag for flag, _ in netns.KINDS.values()} == {
        linux.CLONE_NEWNET,
        linux.CLONE_NEWIPC,
        linux.CLONE_NEWUTS,
    }
