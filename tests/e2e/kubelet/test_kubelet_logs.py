"""FEATURES 4.7: the log file that a kubelet reads, rotates and removes."""

import re
from pathlib import Path

import grpc
import pytest

from common.api.cri.v1 import api_pb2 as cri_pb
from devtools.cri import Cri
from tests.e2e.test_e2e_pods import exited, pod
from tests.support.eventually import eventually
from tests.support.node import TestNode

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.root, pytest.mark.timeout(180)]

RECORD = re.compile(
    rb"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}(?:Z|[+-]\d\d:\d\d)) (stdout|stderr) ([FP]) (.*)"
)


def records_of(path: Path) -> list[re.Match[bytes]]:
    """The lines of a log, each of which is a record."""
    found = []
    for line in path.read_bytes().splitlines():
        record = RECORD.fullmatch(line)
        assert record, line
        found.append(record)
    return found


async def reopen(cri: Cri, container_id: str) -> None:
    await cri.call(
        cri.runtime.ReopenContainerLog, cri_pb.ReopenContainerLogRequest(container_id=container_id)
    )


async def test_the_file_is_made_at_the_start_also_when_nothing_is_written(
    cri: Cri, node: TestNode, busybox: str
) -> None:
    await cri.pull(busybox)
    sandbox = cri.sandbox_config("silent", host_network=True)
    sandbox_id = await cri.run_sandbox(sandbox)
    container_id = await cri.create(
        sandbox_id, cri.container_config("c", busybox, ["sleep", "1000"]), sandbox
    )
    path = node.logs / "silent" / "c.log"
    assert not path.exists()
    await cri.start(container_id)
    assert path.read_bytes() == b""
    assert (await cri.status(container_id)).log_path == str(path)
    await cri.remove_sandbox(sandbox_id)
    assert path.exists()


async def test_a_path_below_the_log_directory_is_joined(cri: Cri, node: TestNode, busybox: str) -> None:
    (node.logs / "nested" / "app").mkdir(parents=True)
    await cri.pull(busybox)
    sandbox = cri.sandbox_config("nested", host_network=True)
    config = cri.container_config("c", busybox, ["echo", "deep"])
    config.log_path = "app/0.log"
    container_id = await cri.create(await cri.run_sandbox(sandbox), config, sandbox)
    await cri.start(container_id)
    await exited(cri, container_id)
    path = node.logs / "nested" / "app" / "0.log"
    assert (await cri.status(container_id)).log_path == str(path)
    assert path.read_bytes().endswith(b"stdout F deep\n")


async def test_a_long_line_is_parts_then_a_full_one_with_times_that_never_fall(
    cri: Cri, node: TestNode, busybox: str
) -> None:
    script = "head -c 40000 /dev/zero | tr '\\0' x; echo; echo next; printf unended"
    _, container_id = await pod(cri, "parts", busybox, ["sh", "-c", script])
    await exited(cri, container_id)
    records = records_of(node.logs / "parts" / "c.log")
    assert [r[3] for r in records] == [b"P", b"P", b"F", b"F", b"P"]
    assert b"".join(r[4] for r in records[:3]) == b"x" * 40000
    assert [r[4] for r in records[3:]] == [b"next", b"unended"]
    assert [r[1] for r in records] == sorted(r[1] for r in records)


async def test_rotation_under_full_output_loses_splits_and_reorders_no_line(
    cri: Cri, node: TestNode, busybox: str
) -> None:
    count = 500_000
    script = f'BEGIN {{ for (i = 1; i <= {count}; i++) print "line " i }}'
    _, container_id = await pod(cri, "rotated", busybox, ["awk", script])
    path = node.logs / "rotated" / "c.log"
    parts: list[Path] = []
    while (await cri.status(container_id)).state == cri_pb.CONTAINER_RUNNING and len(parts) < 20:
        moved = path.with_name(f"c.log.{len(parts)}")
        path.rename(moved)
        parts.append(moved)
        try:
            await reopen(cri, container_id)
        except grpc.aio.AioRpcError as exc:
            assert exc.code() is grpc.StatusCode.FAILED_PRECONDITION  # it has ended
            break
        assert path.exists()
    assert (await exited(cri, container_id)).exit_code == 0
    assert len([p for p in parts if p.stat().st_size]) > 1
    records = [record for part in [*parts, path] if part.exists() for record in records_of(part)]
    assert all(r[3] == b"F" for r in records)
    assert [r[4] for r in records] == [b"line %d" % i for i in range(1, count + 1)]
    assert [r[1] for r in records] == sorted(r[1] for r in records)


async def test_reopen_after_the_file_is_gone_makes_it_again(cri: Cri, node: TestNode, busybox: str) -> None:
    _, container_id = await pod(
        cri, "vanished", busybox, ["sh", "-c", "while :; do echo tick; sleep 0.05; done"]
    )
    path = node.logs / "vanished" / "c.log"
    path.unlink()
    await reopen(cri, container_id)
    eventually(lambda: path.exists() and b"tick" in path.read_bytes(), what="the new file")


async def test_reopen_of_what_does_not_run_fails_and_makes_no_file(
    cri: Cri, node: TestNode, busybox: str
) -> None:
    await cri.pull(busybox)
    sandbox = cri.sandbox_config("noreopen", host_network=True)
    sandbox_id = await cri.run_sandbox(sandbox)
    container_id = await cri.create(sandbox_id, cri.container_config("c", busybox, ["true"]), sandbox)
    path = node.logs / "noreopen" / "c.log"
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await reopen(cri, container_id)
    assert (caught.value.code(), path.exists()) == (grpc.StatusCode.FAILED_PRECONDITION, False)
    await cri.start(container_id)
    await exited(cri, container_id)
    path.unlink()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await reopen(cri, container_id)
    assert (caught.value.code(), path.exists()) == (grpc.StatusCode.FAILED_PRECONDITION, False)


async def test_a_reopen_that_cannot_make_the_file_goes_on_in_the_old_one(
    cri: Cri, node: TestNode, busybox: str
) -> None:
    _, container_id = await pod(
        cri, "stuck", busybox, ["sh", "-c", "while :; do echo tick; sleep 0.05; done"]
    )
    path = node.logs / "stuck" / "c.log"
    moved = path.with_name("c.log.old")
    path.rename(moved)
    path.mkdir()
    with pytest.raises(grpc.aio.AioRpcError, match=r"c\.log"):
        await reopen(cri, container_id)
    path.rmdir()
    moved.rename(path)  # as the kubelet does
    size = path.stat().st_size
    eventually(lambda: path.stat().st_size > size, what="more output")


async def test_no_log_directory_means_no_log(cri: Cri, node: TestNode, busybox: str) -> None:
    await cri.pull(busybox)
    sandbox = cri.sandbox_config("logless", host_network=True)
    sandbox_id = await cri.run_sandbox(sandbox)
    sandbox.log_directory = ""
    container_id = await cri.create(sandbox_id, cri.container_config("c", busybox, ["echo", "lost"]), sandbox)
    await cri.start(container_id)
    status = await exited(cri, container_id)
    assert (status.exit_code, status.log_path) == (0, "")
    assert not list((node.logs / "logless").iterdir())
