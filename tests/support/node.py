"""A whole node in directories of its own, and what it would leave behind."""

import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import anyio

from common import failpoint
from common.errors import UnavailableError
from common.sys.mounts import unmount_below
from devtools import bridge
from slipway.doctor.deep import examine, inventory
from tests.support import cgroups
from tests.support.eventually import eventually
from tests.support.pace import patience

PROGRAMS = Path(sys.executable).parent
UP_S = patience(90)
SLIPWAY_S = patience(60)


@dataclass
class TestNode:
    """A running node; `kill` is SIGKILL for one of its processes, which its supervisor starts again."""

    __test__ = False
    run_dir: Path
    data_dir: Path
    bridge: str
    otlp: str = ""
    settings: dict[str, str] = field(default_factory=dict)
    """Environment of its services."""
    programs: Path = PROGRAMS
    """The folder of the slipway-node that brings it up."""
    options: tuple[str, ...] = ()
    """More of slipway-node's."""

    @property
    def socket(self) -> str:
        return f"{self.run_dir}/crid.sock"

    @property
    def logs(self) -> Path:
        return self.data_dir / "pod-logs"

    @property
    def state(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.run_dir / "node.json").read_text())
        return found

    def kill(self, name: str, number: int = signal.SIGKILL) -> int:
        """SIGKILL, or another signal, for one process of the node; returns the pid that dies of it."""
        pid = int(self.state["pids"][name])
        handle = os.pidfd_open(pid)
        try:
            signal.pidfd_send_signal(handle, number)
        finally:
            os.close(handle)
        return pid

    def pid(self, name: str) -> int:
        return int(self.state["pids"][name])

    @contextmanager
    def without(self, name: str) -> Iterator[int]:
        """One process is dead, and nobody starts it or another that dies meanwhile; gives the pid that it had."""
        supervisor = int(self.state["supervisor"])
        os.kill(supervisor, signal.SIGSTOP)
        try:
            yield self.kill(name)
        finally:
            os.kill(supervisor, signal.SIGCONT)

    def up(self) -> None:
        """Start its services."""
        _command("up", self)

    def down(self) -> None:
        """End its services; containers go on."""
        _command("down", self)

    def reboot(self) -> None:
        """What a reboot does to a node: every process ends at once, and what was mounted or in /run is gone."""
        pids = self.outliving()
        names = _names(self.run_dir / "runtimed" / "bundles")
        self.down()
        _end(pids)
        for folder in (folder for name in names for folder in cgroups.files(name, "")):
            eventually(partial(_removed, folder), what=f"{folder} is empty")
        unmount_below(self.run_dir)
        subprocess.run(["rm", "-rf", str(self.run_dir)], check=True, timeout=UP_S)
        self.up()

    def outliving(self) -> set[int]:
        """Shims, pauses, and what runs in containers: all that goes on when the node is down."""
        pids: set[int] = set()
        for path in self.run_dir.glob("shimd/*/*/pid"):
            with suppress(OSError):  # it goes at this moment
                pids |= {int(word) for word in path.read_text().split()[:1]}
        for name in _names(self.run_dir / "runtimed" / "bundles"):
            for folder in cgroups.files(name, ""):
                # a runtime may keep them in a cgroup below
                for procs in folder.glob("**/cgroup.procs"):
                    with suppress(OSError):
                        pids |= {int(line) for line in procs.read_text().split()}
        return pids

    def slipway(self, *arguments: str, stdin: str = "") -> "subprocess.CompletedProcess[str]":
        """Run the slipway command against this node, as on a terminal: a list is a table unless JSON is asked for."""
        command = [
            str(PROGRAMS / "slipway"),
            "--run-dir",
            str(self.run_dir),
            "-o",
            "table",
        ]
        command += arguments
        return subprocess.run(
            command, input=stdin, capture_output=True, text=True, timeout=SLIPWAY_S, check=False
        )

    def leftovers(self) -> dict[str, list[str]]:
        """What pods have left on the machine, by kind; empty once all are removed."""
        return inventory.take(self.run_dir, self.data_dir, self.data_dir / "cni").left()

    async def differences(self, *but: str, settle_s: float = 20.0) -> list[str]:
        """What the node has lost or left behind, as `slipway doctor --deep` tells it, but for some kinds of it."""
        return await differences(self.run_dir, *but, settle_s=settle_s)


async def differences(run_dir: Path, *but: str, settle_s: float = 20.0) -> list[str]:
    """Likewise, of any node."""
    give_up_at = anyio.current_time() + patience(20)
    while True:
        try:
            facts = json.loads((run_dir / "node.json").read_text())
            found = await examine.differences(facts, settle_s=patience(settle_s), but=but)
            return [str(one) for one in found if not one.passing]
        except UnavailableError:  # a store that was killed just now
            if anyio.current_time() > give_up_at:
                raise
        await anyio.sleep(0.2)


def _end(pids: set[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _removed(folder: Path) -> bool:
    """Remove a cgroup and those below it, unless there is a process."""
    for path, _, _ in os.walk(folder, topdown=False):
        with suppress(OSError):
            os.rmdir(path)
    return not folder.exists()


def _names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir()) if directory.is_dir() else []


def _command(verb: str, node: TestNode) -> None:
    command = [str(node.programs / "slipway-node"), verb, "--run-dir", str(node.run_dir)]
    command += ["--data-dir", str(node.data_dir), "--cni-dir", str(node.data_dir / "cni")]
    command += ["--certs-dir", str(node.data_dir / "certs.d"), "--node", "testnode", "--otlp", node.otlp]
    command += ["--metrics-port", "0", "--dashboard-port", "0", "--ready-s", str(patience(60))]
    if node.programs == PROGRAMS:  # older ones look nowhere
        command += ["--settings-dir", str(node.data_dir / "settings")]
    command += node.options
    environment = os.environ | node.settings
    done = subprocess.run(command, capture_output=True, text=True, timeout=UP_S, check=False, env=environment)
    assert done.returncode == 0, f"slipway-node {verb}: {done.stderr}{_tails(node.run_dir)}"


def _tails(run_dir: Path) -> str:
    return "".join(
        f"\n--- {p.name}\n{p.read_text()[-1500:]}" for p in sorted((run_dir / "log").glob("*.log"))
    )


@contextmanager
def running_node(
    data: Path,
    *,
    otlp: str = "",
    settings: dict[str, str] | None = None,
    failpoints: bool = False,
    programs: Path = PROGRAMS,
    name: str = "",
    options: tuple[str, ...] = (),
) -> Iterator[TestNode]:
    """Bring a node up, and take it down with all that it mounted; `failpoints` lets some be armed.

    With a `name`, six digits in hexadecimal, a later one is the same node after a reboot.
    """
    name = name or uuid.uuid4().hex[:6]
    # nodes of tests that run at once seldom have the same subnet
    subnet = f"10.{240 + int(name[2], 16) % 10}.{int(name[:2], 16)}.0/24"
    node = TestNode(
        run_dir=Path(f"/run/slipway-test-{name}"),
        data_dir=data / "node",
        bridge=f"slwt{name}",
        otlp=otlp,
        settings=settings or {},
        programs=programs,
        options=options,
    )
    bridge.write_conflist(node.data_dir / "cni", node.bridge, subnet, data / "leases", masquerade=False)
    node.logs.mkdir(parents=True, exist_ok=True)
    if failpoints:
        (node.run_dir / failpoint.DIRECTORY).mkdir(parents=True)
    try:
        node.up()
        yield node
    finally:
        outliving = node.outliving()
        node.down()
        _end(outliving)
        unmount_below(node.run_dir)
        subprocess.run(["rm", "-rf", str(node.run_dir)], check=True, timeout=UP_S)
        bridge.remove(node.bridge)
