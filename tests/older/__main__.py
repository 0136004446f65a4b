"""Keep what an older revision records of two pods, as root: `.venv/bin/python -m tests.older REVISION`."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
from redis import Redis

from common.api.cri.v1 import api_pb2 as cri_pb
from common.sys.mounts import unmount_below
from devtools import bridge
from devtools.cri import Cri, connect_impatiently
from devtools.older import programs_of
from devtools.registry import push_busybox, registry
from tests.older import COMMANDS, LABELS

BRIDGE = "slwolder"


def main() -> None:
    (revision,) = sys.argv[1:]
    kept = Path(__file__).parent / revision
    kept.mkdir()
    with tempfile.TemporaryDirectory(prefix="slipway-older-") as name, programs_of(revision) as programs:
        base = Path(name)
        with registry(base / "registry") as shop, node(programs, base / "run", base / "data"):
            anyio.run(keep, base / "run", base / "data", push_busybox(shop), kept)


@contextmanager
def node(programs: Path, run: Path, data: Path) -> Iterator[None]:
    """A node of theirs, by the options that the first of them had."""
    bridge.write_conflist(data / "cni", BRIDGE, "10.249.9.0/24", data / "leases", masquerade=False)
    places: list[str | Path] = ["--run-dir", run, "--data-dir", data, "--cni-dir", data / "cni"]
    try:
        subprocess.run([programs / "slipway-node", "up", *places], check=True)
        yield
    finally:
        subprocess.run([programs / "slipway-node", "down", *places], check=True)
        unmount_below(run)
        bridge.remove(BRIDGE)


async def keep(run: Path, data: Path, image: str, kept: Path) -> None:
    names: dict[str, str] = {}
    async with connect_impatiently(f"{run}/crid.sock", data / "logs") as cri:
        await cri.pull(image)
        for name, command in COMMANDS.items():
            sandbox_id, container_id = await start(cri, image, name, command)
            names |= {sandbox_id: name, container_id: name}
            while name == "ended" and (await cri.status(container_id)).state != cri_pb.CONTAINER_EXITED:
                await anyio.sleep(0.1)
        redis = Redis(unix_socket_path=f"{run}/redis.sock")
        for key in redis.scan_iter("slipway:*", _type="hash"):
            _, _, _, kind, record_id = key.decode().split(":", 4)
            path = kept / "-".join(filter(None, (kind, names.get(record_id)))).lower()
            record = redis.hget(key, "record")
            assert isinstance(record, bytes)
            path.with_suffix(".msgpack").write_bytes(record)
        redis.close()
        (exit_file,) = data.rglob("exit.msgpack")
        (kept / "exit.msgpack").write_bytes(exit_file.read_bytes())
        await cri.remove_all()


async def start(cri: Cri, image: str, name: str, command: str) -> tuple[str, str]:
    pod = cri.sandbox_config(name)
    sandbox_id = await cri.run_sandbox(pod)
    config = cri.container_config("c", image, ["sh", "-c", command], labels=LABELS)
    container_id = await cri.create(sandbox_id, config, pod)
    await cri.start(container_id)
    return sandbox_id, container_id


main()
