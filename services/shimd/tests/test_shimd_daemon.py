"""The shimd command itself, over gRPC, killed and started again."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import msgpack
import pytest

from common.clients.shim import ShimClient
from common.clients.shimd import ShimdClient
from common.errors import FailedPreconditionError, InvalidArgumentError, UnknownError
from tests.support.pace import patience

from .conftest import Node, exited, process_json

pytestmark = [pytest.mark.root, pytest.mark.anyio]


@asynccontextmanager
async def daemon(root: Path, *wrapper: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, ShimdClient]]:
    env = {
        "PATH": os.environ["PATH"],
        "SLIPWAY_SHIMD_RUN_DIR": str(root),
        "SLIPWAY_SHIMD_DATA_DIR": str(root / "data"),
        "SLIPWAY_SHIMD_SHIM_CGROUP": "",
    }
    process = await asyncio.create_subprocess_exec(*wrapper, sys.executable, "-m", "shimd", env=env)
    client = ShimdClient(str(root / "shimd.sock"))
    try:
        yield process, client
    finally:
        await client.close()
        if process.returncode is None:
            process.terminate()
        with anyio.fail_after(patience(15)):
            await process.wait()


async def test_containers_live_on_while_shimd_is_dead(node: Node) -> None:
    bundle = node.bundle("a", ["sh", "-c", "read x; echo got $x; exit 6"])
    record = node.root / "records/a"
    async with daemon(node.root) as (process, shimd):
        shim = await shimd.spawn(
            "a",
            bundle_path=str(bundle),
            runtime_binary="crun",
            runtime_root=str(node.root / "crun"),
            record_dir=str(record),
            log_path=str(node.log("a")),
            stdin=True,
        )
        assert shim.alive
        client = await ShimClient.connect(shim.socket_path)
        await client.start()
        with pytest.raises(FailedPreconditionError):
            await shimd.remove("a")
        with pytest.raises(InvalidArgumentError):
            await shimd.remove("../a")
        pause = await shimd.spawn_pause("s")
        process.send_signal(signal.SIGKILL)
        await process.wait()
    attached = await client.attach(stdin=True)
    await attached.write(b"it\n")
    assert (await exited(client))["exit_code"] == 6
    await attached.close()
    assert msgpack.unpackb((record / "exit.msgpack").read_bytes())["exit_code"] == 6
    async with daemon(node.root) as (_, shimd):
        assert await shimd.list() == ([shim], [pause])
        again = await ShimClient.connect(shim.socket_path)
        assert (await again.state())["exit"]["exit_code"] == 6
        await again.close()
        await shimd.remove("a")
        await shimd.remove_pause("s")
        assert (await shimd.list())[0] == []
    await client.close()


async def test_a_dead_zygote_is_replaced(node: Node) -> None:
    async with daemon(node.root) as (process, shimd):
        assert (await shimd.list())[0] == []
        children = (await anyio.Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()).split()
        pidfd = os.pidfd_open(int(children[0]))
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        with anyio.fail_after(patience(5)):
            await anyio.wait_readable(pidfd)
        os.close(pidfd)
        assert (await shimd.spawn_pause("s")).alive
        await shimd.remove_pause("s")


async def test_the_runtime_is_called_where_shimd_is_now(node: Node) -> None:
    """As in a container whose image brings the runtime: the next shimd has another image, and the first is gone."""
    image = node.root / "image"
    image.mkdir()
    script = f'mount -t tmpfs image {image} && cp /usr/bin/crun {image} && exec "$@"'
    container = ("unshare", "--mount", "--propagation=slave", "sh", "-c", script, "sh")
    async with daemon(node.root, *container) as (_, shimd):
        shim = await shimd.spawn(
            "a",
            bundle_path=str(node.bundle("a", ["sleep", "1000"])),
            runtime_binary=f"{image}/crun",
            runtime_root=str(node.root / "crun"),
            record_dir=str(node.root / "records/a"),
        )
        client = await ShimClient.connect(shim.socket_path)
        await client.start()
    gone = ["nsenter", f"--mount=/proc/{shim.pid}/ns/mnt", "umount", "--lazy", str(image)]
    assert (await anyio.run_process(gone)).returncode == 0
    with pytest.raises(UnknownError, match="No such file"):
        await client.exec("1", process_json("true"), timeout_s=10)
    async with daemon(node.root, *container) as (_, shimd):
        await shimd.spawn_pause("s")  # its zygote is there
        assert (await client.exec("2", process_json("true"), timeout_s=10)).exit_code == 0
        await client.kill(signal.SIGKILL)
        assert (await exited(client))["signal"] == signal.SIGKILL
        await client.close()
        await shimd.remove("a")
        await shimd.remove_pause("s")
