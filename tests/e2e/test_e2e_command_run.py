"""`slipway run` with docker's options: what the container then sees and may do."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from devtools.registry import Registry
from tests.support.node import TestNode

pytestmark = [pytest.mark.e2e, pytest.mark.root, pytest.mark.timeout(120)]


@pytest.mark.parametrize(
    ("options", "script", "said"),
    [
        (
            ["--cap-drop", "ALL", "--cap-add", "CHOWN"],
            "grep CapBnd /proc/self/status",
            "CapBnd:\t0000000000000001",
        ),
        (["--security-opt", "no-new-privileges"], "grep NoNewPrivs /proc/self/status", "NoNewPrivs:\t1"),
        (["--security-opt", "seccomp=unconfined"], "grep Seccomp: /proc/self/status", "Seccomp:\t0"),
        (["--ulimit", "nofile=123:234"], "ulimit -Sn; ulimit -Hn", "123\n234"),
        (
            ["--tmpfs", "/scratch:size=1m,mode=1770"],
            "stat -c %a /scratch; df -k /scratch | tail -1 | tr -s ' ' | cut -d' ' -f2",
            "1770\n1024",
        ),
        (
            ["--mount", "type=tmpfs,target=/scratch"],
            "grep ' /scratch ' /proc/mounts | cut -d' ' -f3,4 | cut -c1-28",
            "tmpfs rw,nosuid,nodev,noexec",
        ),
        (
            ["--mount", "type=bind,source=/etc,target=/host,readonly"],
            "touch /host/x 2>&1 | grep -c Read-only",
            "1",
        ),
        (["--add-host", "db:10.1.2.3"], "grep -w db /etc/hosts", "10.1.2.3\tdb"),
        (["--network", "none"], "grep -w 127.0.0.1 /etc/hosts", "127.0.0.1\tlocalhost"),
        (["--hostname", "here"], 'grep -c "^$(hostname -i)[[:space:]]here$" /etc/hosts', "1"),
        (["--pids-limit", "-1"], "echo ran", "ran"),
        (
            ["--dns", "10.9.8.7", "--dns-search", "example"],
            "cat /etc/resolv.conf",
            "search example\nnameserver 10.9.8.7",
        ),
        (["--network", "none"], "ip -o link | wc -l; ip -o addr show lo | grep -c 127.0.0.1", "1\n1"),
        (["--device", "/dev/fuse:/dev/held:r"], "stat -c %t:%T /dev/held", "a:e5"),
        (["--group-add", "7", "-u", "5"], "id -u; id -G", "5\n0 7"),
        (["--sysctl", "net.core.somaxconn=77"], "cat /proc/sys/net/core/somaxconn", "77"),
        (["--pid", "host"], "test -d /proc/2 && tr -d '\\0' < /proc/2/comm", "kthreadd"),
        (["-w", "/tmp", "--hostname", "here"], "pwd; hostname", "/tmp\nhere"),
        (["--read-only"], "touch /x 2>&1 | grep -c Read-only", "1"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_an_option_is_seen_inside(
    node: TestNode, busybox: str, options: list[str], script: str, said: str
) -> None:
    done = node.slipway("run", "--rm", *options, busybox, "sh", "-c", script)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, said, "")


def test_an_image_is_mounted_and_pulled_for_it(node: TestNode, busybox: str, shop: Registry) -> None:
    other = shop.push("run/mounted", [], {})
    where = f"type=image,source={busybox},target=/other,image-subpath=bin"
    done = node.slipway(
        "run", "--rm", "--mount", where, busybox, "sh", "-c", "test -e /other/sh && echo there"
    )
    assert (done.returncode, done.stdout) == (0, "there\n"), done.stderr
    absent = node.slipway("run", "--rm", "--pull", "never", other, "true")
    assert (absent.returncode, "leave out --pull never" in absent.stderr) == (125, True)
    assert node.slipway("run", "--rm", "--pull", "always", busybox, "true").returncode == 0


def test_labels_limits_and_files_of_variables(node: TestNode, busybox: str, tmp_path: Path) -> None:
    (tmp_path / "vars").write_text("FROM_FILE=1\n")
    words = ["--name", "labelled", "-l", "tier=front", "--env-file", f"{tmp_path}/vars", "-e", "MORE=2"]
    limits = ["-m", "64m", "--cpus", "0.5", "--pids-limit", "50", "--stop-signal", "QUIT"]
    script = "echo $FROM_FILE $MORE; trap 'exit 9' QUIT; while :; do sleep 0.05; done"
    made = node.slipway("run", "-d", *words, *limits, busybox, "sh", "-c", script)
    assert made.returncode == 0, made.stderr
    status = json.loads(node.slipway("inspect", "labelled").stdout)[0]["status"]
    assert status["labels"]["tier"] == "front"
    assert status["resources"]["linux"]["memory_limit_in_bytes"] == str(64 << 20)
    assert status["resources"]["linux"]["cpu_quota"] == "50000"
    node.slipway("stop", "labelled")
    ended = json.loads(node.slipway("inspect", "labelled").stdout)[0]["status"]
    assert ended["exit_code"] == 9
    assert node.slipway("logs", "labelled").stdout == "1 2\n"
    node.slipway("rm", "labelled")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--cap-add", "NOSUCH"], "unknown capability 'NOSUCH'"),
        (["--ulimit", "files=1"], "'files' is none of"),
        (["--ulimit", "nofile=2:1"], "no soft and hard limit"),
        (["--tmpfs", "/x:colour=red"], "'colour=red' is no option of a tmpfs"),
        (["--network", "none", "-p", "1:1"], "--publish needs a network"),
        (["--init"], "--init of docker is not offered: a container's first process is its program"),
    ],
)
def test_what_is_refused_leaves_nothing(node: TestNode, busybox: str, words: list[str], told: str) -> None:
    before = node.slipway("pods").stdout
    done = node.slipway("run", *words, busybox, "true")
    assert (done.returncode, told in done.stderr) == (125, True), done.stderr
    assert node.slipway("pods").stdout == before


def test_of_several_that_ask_for_a_name_at_once_one_gets_it(node: TestNode, busybox: str) -> None:
    words = ("run", "-d", "--name", "sole", busybox, "sleep", "1000")
    with ThreadPoolExecutor() as pool:
        done = [running.result() for running in [pool.submit(node.slipway, *words) for _ in range(4)]]
    assert sorted(one.returncode for one in done) == [0, 125, 125, 125]
    assert all("'sole'" in one.stderr and "choose another --name" in one.stderr for one in done if one.stderr)
    assert node.slipway("rm", "-f", "sole").returncode == 0
    assert "sole" not in node.slipway("pods").stdout
    assert node.slipway(*words).returncode == 0, "the name is free again"
    assert node.slipway("rm", "-f", "sole").returncode == 0
