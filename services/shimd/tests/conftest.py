"""A zygote of our own with real crun, in directories of our own."""

import errno
import json
import os
import secrets
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

from common.clients.shim import ShimClient
from shimd.adapters.zygote_process import ZygoteProcess
from shimd.service import ShimService
from tests.support.eventually import eventually
from tests.support.pace import patience

CGROUP = "/slipway-test"


def cgroup(controller: str, name: str) -> str:
    """The directory of a cgroup of the tests, in the controller's hierarchy where each has its own."""
    root = "/sys/fs/cgroup"
    return f"{root if Path(root, 'cgroup.controllers').exists() else f'{root}/{controller}'}{CGROUP}/{name}"


class Node:
    """shimd's service with its zygote, and bundles for it."""

    def __init__(self, root: Path, programs: Path) -> None:
        self.root, self.programs = root, programs
        self.zygote = ZygoteProcess(
            run_dir=root / "shimd",
            cgroups=[cgroup("pids", f"shims-{root.name}")],
        )
        self.service = ShimService(root / "shimd", self.zygote)
        self.service.prepare()

    def bundle(self, container_id: str, args: list[str], **config: Any) -> Path:
        bundle = self.root / "bundles" / container_id
        binaries = bundle / "rootfs/bin"
        binaries.mkdir(parents=True)
        for name in ("proc", "dev", "tmp"):
            (bundle / "rootfs" / name).mkdir()
        shutil.copy("/bin/busybox", binaries)
        listed = subprocess.run(["/bin/busybox", "--list"], capture_output=True, text=True, check=True).stdout
        for name in listed.split():
            if name != "busybox":
                (binaries / name).symlink_to("busybox")
        spec = {
            "ociVersion": "1.0.0",
            "process": process(args, tty=config.pop("tty", False)),
            "root": {"path": "rootfs"},
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"]},
                {
                    "destination": "/dev/pts",
                    "type": "devpts",
                    "source": "devpts",
                    "options": ["newinstance", "ptmxmode=0666", "mode=0620"],
                },
            ],
            "linux": {
                "cgroupsPath": f"{CGROUP}/{self.root.name}-{container_id}",
                "namespaces": [{"type": kind} for kind in ("pid", "ipc", "uts", "mount", "network")],
                "resources": config,
            },
        }
        (bundle / "config.json").write_text(json.dumps(spec))
        return bundle

    def runtime(self, script: str) -> str:
        """A runtime that runs a shell script before it is crun; `$root` is there what `root` is here."""
        path = self.programs / "runtime"
        path.write_text(f'#!/bin/sh\nroot={self.root}\n{script}\nexec crun "$@"\n')
        path.chmod(0o755)
        return str(path)

    async def spawn(self, container_id: str, *args: str, **options: Any) -> ShimClient:
        binary = options.pop("binary", "crun")
        keys = (
            "tty",
            "stdin",
            "stdin_once",
            "max_line_bytes",
            "log_path",
            "memory_cgroup_path",
            "pids_cgroup_path",
        )
        extra = {key: options.pop(key) for key in keys if key in options}
        bundle = self.bundle(container_id, list(args), tty=extra.get("tty", False), **options)
        spec = {
            "container_id": container_id,
            "bundle_path": str(bundle),
            "runtime": {"binary": binary, "args": [], "root": str(self.root / "crun")},
            "log_path": str(self.log(container_id)),
            "record_dir": str(self.root / "records" / container_id),
            **extra,
        }
        await self.service.spawn(spec)
        return await self.client(container_id)

    async def client(self, container_id: str) -> ShimClient:
        return await ShimClient.connect(self.service.socket_path(container_id))

    def log(self, container_id: str) -> Path:
        return self.root / f"{container_id}.log"

    async def kill_all(self) -> None:
        for shim in await self.service.list_shims():
            if shim.alive:
                client = await self.client(shim.id)
                if (await client.state())["state"] == "running":
                    await client.kill(signal.SIGKILL)
                    await exited(client)
                await client.close()
            await self.service.remove(shim.id)
        for pause in await self.service.list_pauses():
            await self.service.remove_pause(pause.id)


def process(args: list[str], *, tty: bool = False) -> dict[str, Any]:
    return {
        "terminal": tty,
        "user": {"uid": 0, "gid": 0},
        "args": args,
        "env": ["PATH=/bin"],
        "cwd": "/",
        "capabilities": {"bounding": ["CAP_KILL"], "effective": ["CAP_KILL"], "permitted": ["CAP_KILL"]},
    }


def process_json(*args: str, tty: bool = False) -> bytes:
    return json.dumps(process(list(args), tty=tty)).encode()


async def exited(client: ShimClient) -> dict[str, Any]:
    """The exit record, when the container has ended."""
    with anyio.fail_after(patience(20)):
        events = client.subscribe()
        try:
            async for event in events:
                if event["event"] == "exit":
                    return event
        finally:
            await events.aclose()
    raise AssertionError("the shim went without an exit event")


def workers(shim: int) -> list[int]:
    """The processes that a shim has for its work, besides the one that stays."""
    children = Path(f"/proc/{shim}/task/{shim}/children").read_text().split()
    return [int(pid) for pid in children if _command(pid) == "slipway-shim\n"]


def _command(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""  # it has ended meanwhile


async def workers_left(*shims: int) -> list[int]:
    """Wait until these shims have nothing to do, and are one process each; returns who had work until then."""
    left = [worker for shim in shims for worker in workers(shim)]
    with anyio.fail_after(patience(20)):
        for pid in left:
            await gone(pid)
    return left


async def gone(pid: int) -> None:
    """Wait for the end of a process."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        await anyio.wait_readable(pidfd)
    finally:
        os.close(pidfd)


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    root = Path(f"/run/slipway-test-shimd-{secrets.token_hex(4)}")
    root.mkdir(mode=0o700)
    node = Node(root, tmp_path)  # where systemd has mounted /run, no program below it starts
    try:
        yield node
    finally:
        await node.kill_all()
        await node.zygote.close()
        shutil.rmtree(root)
        # Of each hierarchy, and not by **, which stumbles over what others remove meanwhile.
        for parent in (
            p
            for depth in ("", "*/")
            for p in Path("/sys/fs/cgroup").glob(f"{depth}{CGROUP[1:]}/*{root.name}*")
        ):
            for folder, _, _ in os.walk(parent, topdown=False):
                # what was killed may take a moment to leave it
                eventually(partial(_removed, folder), what=f"an empty {folder}")


def _removed(folder: str) -> bool:
    try:
        os.rmdir(folder)
    except OSError as exc:
        if exc.errno != errno.EBUSY:
            raise
        return False
    return True
