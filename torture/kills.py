"""SIGKILL at random moments for what the node's own state names, and how long the node takes to recover; and callers that leave."""

import os
import random
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import anyio
import anyio.to_thread

from devtools.cri import Impatient
from node.health import trouble
from node.layout import SERVICES
from tests.support.node import TestNode
from torture.book import Book, Harm

ZYGOTE, SHIM, RUNTIME = "zygote", "shim", "OCI runtime"
CALLER = "the caller"
"""Leaves its calls, as one whose deadline has passed, and makes them again."""
AWAY = {"redis away": "redis", "nats away": "nats"}
"""Dead for a while, since nobody starts them."""
VICTIMS = (*SERVICES, "redis", "nats", *AWAY, ZYGOTE, SHIM, RUNTIME, CALLER)
AWAY_S = 5.0
RECOVER_S = 60.0
LOOK_S = 0.02
_HUNT_S = 1.0
_OCI_RUNTIMES = ("crun", "runc")


@dataclass(frozen=True)
class Fault:
    """One kill, and the seconds until the node was whole again."""

    victim: str
    recovered_s: float


def recovered(fault: Fault) -> bool:
    """Whether the node was whole again in time."""
    return fault.recovered_s < RECOVER_S


def strike(node: TestNode, victim: str, container_id: str = "") -> None:
    """SIGKILL for a service, Redis, NATS, the zygote, or the shim of a container, as it is now.

    Raises:
        ProcessLookupError: there is none.
    """
    if victim in (ZYGOTE, SHIM):
        own = "zygote" if victim == ZYGOTE else f"shims/{container_id}/pid"
        if not (text := _text(node.run_dir / "shimd" / own)) or not _end(int(text.split()[0])):
            raise ProcessLookupError(victim)
    else:
        node.kill(victim)


class Killer:
    """Kills by dice.

    Args:
        node: whose processes.
        cri: whose calls are left.
        book: told which container bears a fault of its own.
        dice: what and when.
        away_s: for how long what is away is.
    """

    def __init__(
        self, node: TestNode, cri: Impatient, book: Book, dice: random.Random, away_s: float = AWAY_S
    ) -> None:
        self._node, self._cri, self._book, self._dice, self._away_s = node, cri, book, dice, away_s
        self.faults: list[Fault] = []

    async def run(self, until: anyio.Event) -> None:
        """Kill until told to stop: each victim once in a random order, then again in another."""
        while True:
            order = list(VICTIMS)
            self._dice.shuffle(order)
            for victim in order:
                with anyio.move_on_after(self._dice.uniform(0.2, 1.2)):
                    await until.wait()
                if until.is_set():
                    return
                await self.kill(victim)

    async def kill(self, victim: str, number: int = signal.SIGKILL) -> bool:
        """Kill one and wait until the node has recovered; whether there was one. A service may be told to end by another signal."""
        began = anyio.current_time()
        if victim == CALLER:
            if not self._cri.leave():
                return False
        elif victim in AWAY:
            with self._node.without(AWAY[victim]) as died:
                await anyio.sleep(self._away_s)
            began = anyio.current_time()
            await self._until(lambda: self._node.pid(AWAY[victim]) != died, victim)
            await self._healthy(AWAY[victim])
        elif victim == SHIM:
            if not self._kill_shim():
                return False
        elif victim == RUNTIME:
            if not await self._kill_runtime():
                return False
        elif victim == ZYGOTE:
            identity = self._node.run_dir / "shimd" / "zygote"
            before = _text(identity)
            if not before or not _end(int(before.split()[0])):
                return False
            await self._until(lambda: _text(identity) not in ("", before), victim)
        else:
            died = self._node.kill(victim, number)
            await self._until(lambda: self._node.pid(victim) != died, victim)
            await self._healthy(victim)
        self.faults.append(Fault(victim, anyio.current_time() - began))
        return True

    def _shims(self) -> dict[str, int]:
        found = {}
        for path in self._node.run_dir.glob("shimd/shims/*/pid"):
            if text := _text(path):
                found[path.parent.name] = int(text.split()[0])
        return found

    def _kill_shim(self) -> bool:
        known = {name: pid for name, pid in self._shims().items() if name in self._book.lives}
        if not known:
            return False
        name = self._dice.choice(sorted(known))
        self._book.lives[name].harm.add(Harm.SHIM)
        return _end(known[name])

    async def _kill_runtime(self) -> bool:
        """One of the short moments in which a shim has an OCI runtime at work."""
        with anyio.move_on_after(_HUNT_S):
            while True:
                for name, shim in self._shims().items():
                    for pid in _descendants(shim):
                        if _text(Path(f"/proc/{pid}/cmdline")).partition("\0")[0] in _OCI_RUNTIMES:
                            life = self._book.lives.get(name)
                            if life is not None:
                                life.harm.add(Harm.RUNTIME)
                                return _end(pid)
                await anyio.sleep(0.001)
        return False

    async def _until(self, met: Callable[[], bool], what: str) -> None:
        with anyio.move_on_after(RECOVER_S) as scope:
            while not _holds(met):
                await anyio.sleep(LOOK_S)
        if scope.cancelled_caught:
            self._book.lost(f"{what}: not there again after {RECOVER_S:g} s")

    async def _healthy(self, victim: str) -> None:
        run_dir = self._node.run_dir
        url = str(self._node.state["nats_url"])
        how = {"redis": ("redis", f"{run_dir}/redis.sock"), "nats": ("nats", url.rpartition("@")[2])}
        kind, address = how.get(victim, ("grpc", f"{run_dir}/{victim}.sock"))
        with anyio.move_on_after(RECOVER_S) as scope:
            while await anyio.to_thread.run_sync(trouble, kind, address):
                await anyio.sleep(LOOK_S)
        if scope.cancelled_caught:
            self._book.lost(f"{victim}: does not serve {RECOVER_S:g} s after its death")


def _holds(met: Callable[[], bool]) -> bool:
    try:
        return met()
    except (OSError, ValueError, KeyError):
        return False  # node.json is being written, or is not there yet


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _descendants(pid: int) -> list[int]:
    found, todo = [], [pid]
    while todo:
        one = todo.pop()
        children = [int(child) for child in _text(Path(f"/proc/{one}/task/{one}/children")).split()]
        found += children
        todo += children
    return found


def _end(pid: int) -> bool:
    """SIGKILL for a process; whether it was there."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        signal.pidfd_send_signal(handle, signal.SIGKILL)
    except ProcessLookupError:
        return False
    finally:
        os.close(handle)
    return True
