"""The floor: a bare crun and bare CNI plugins, one run each time that one is asked for.

So runs of ours and of the floor alternate, after the same rest: what else the machine does weighs on both alike, and
neither profits from a run of its own just before. The first move of a process into a cgroup after a rest waits for
an RCU grace period, 10 ms and more; those that follow at once do not, and nothing on a node starts at once.
"""

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

REST_S = 0.05
"""Longer than the kernel stays quick after a move into a cgroup."""
_NETNS = "slipway-bench"
_SCRIPT = """
import json, subprocess, sys, time
for line in sys.stdin:
    start = time.perf_counter()
    subprocess.run(["crun", *json.loads(line)], check=True, stdin=subprocess.DEVNULL,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    print(1e3 * (time.perf_counter() - start), flush=True)
"""
_SHELL = 'umount /sys/fs/cgroup/unified 2>/dev/null; exec python3 -c "$0"'
"""The hybrid cgroup hierarchy, which crun refuses, is out of sight."""


class Crun:
    """Calls of crun in a mount namespace of their own."""

    def __init__(self, bundle: Path, process: "subprocess.Popen[str]") -> None:
        self._bundle = str(bundle)
        self._process = process

    def _call(self, *arguments: str) -> float:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(arguments), file=self._process.stdin, flush=True)
        return float(self._process.stdout.readline())

    def run(self, name: str) -> float:
        """Milliseconds of `crun run --detach`."""
        return self._call("run", "--detach", "--bundle", self._bundle, name)

    def exec(self, name: str) -> float:
        """Milliseconds of `crun exec` of `true`."""
        return self._call("exec", name, "true")

    def delete(self, name: str) -> None:
        self._call("delete", "-f", name)


@contextmanager
def crun(bundle: Path) -> Iterator[Crun]:
    """Run the script that calls crun."""
    command = ["unshare", "--mount", "sh", "-c", _SHELL, _SCRIPT]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield Crun(bundle, process)


class Chain:
    """A chain of CNI plugins, called as libcni would."""

    def __init__(self, conflist: Path) -> None:
        self._document = json.loads(conflist.read_text())

    def add(self, name: str) -> float:
        """Milliseconds of ADD in the benchmark's network namespace."""
        start = time.perf_counter()
        result: Any = None
        for plugin in self._document["plugins"]:
            result = json.loads(self._call(name, "ADD", plugin, result))
        return 1e3 * (time.perf_counter() - start)

    def delete(self, name: str) -> None:
        for plugin in self._document["plugins"][::-1]:
            self._call(name, "DEL", plugin, None)

    def _call(self, name: str, verb: str, plugin: dict[str, Any], result: Any) -> str:
        head = {"cniVersion": self._document["cniVersion"], "name": self._document["name"]}
        settings = {**head, **plugin} | ({"prevResult": result} if result else {})
        environment = {
            "CNI_COMMAND": verb,
            "CNI_CONTAINERID": name,
            "CNI_NETNS": f"/var/run/netns/{_NETNS}",
            "CNI_IFNAME": "eth0",
            "CNI_PATH": "/usr/lib/cni",
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        }
        command = [f"/usr/lib/cni/{plugin['type']}"]
        done = subprocess.run(
            command, input=json.dumps(settings), env=environment, capture_output=True, text=True, check=True
        )
        return done.stdout


@contextmanager
def chain(conflist: Path) -> Iterator[Chain]:
    """Make the network namespace that the plugins work in."""
    subprocess.run(["ip", "netns", "add", _NETNS], check=True)
    try:
        yield Chain(conflist)
    finally:
        subprocess.run(["ip", "netns", "delete", _NETNS], check=True)
