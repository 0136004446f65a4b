"""Shims with real crun, in a zygote of our own."""

import math
import os
import signal
import socket
import struct
from contextlib import suppress
from pathlib import Path

import anyio
import msgpack
import pytest

from common.clients.shim import ShimClient
from common.clients.shimstream import ShimStream
from common.errors import (
    FailedPreconditionError,
    SlipwayError,
    UnavailableError,
    UnimplementedError,
    UnknownError,
)
from shimd.shim import wire
from tests.support import logs
from tests.support.pace import patience

from .conftest import Node, cgroup, exited, process_json

pytestmark = [pytest.mark.root, pytest.mark.anyio]


async def text_of(stream: ShimStream, until: bytes = b"") -> bytes:
    text = b""
    with anyio.fail_after(patience(20)):
        while (piece := await stream.read()) is not None:
            text += piece[1]
            if until and until in text:
                break
    return text


async def test_exit_code_output_and_record(node: Node) -> None:
    shim = await node.spawn("a", "sh", "-c", "echo out; echo err >&2; printf tail; exit 7")
    started = await shim.start()
    assert started.pid > 0
    assert started.runtime_begin_ns < started.runtime_end_ns
    exit_event = await exited(shim)
    assert exit_event["exit_code"] == 7
    assert not exit_event["oom_killed"]
    assert sorted(logs.untimed(node.log("a"))) == ["stderr F err", "stdout F out", "stdout P tail"]
    record = msgpack.unpackb((node.root / "records/a/exit.msgpack").read_bytes())
    assert {"event": "exit", **record} == exit_event
    await node.service.remove("a")
    assert await node.service.list_shims() == []
    assert list((node.root / "crun").iterdir()) == []


async def test_signal_gives_128_plus_n(node: Node) -> None:
    shim = await node.spawn("a", "sleep", "1000")
    await shim.start()
    await shim.kill(signal.SIGKILL)
    exit_event = await exited(shim)
    assert (exit_event["exit_code"], exit_event["signal"], exit_event["oom_killed"]) == (137, 9, False)
    with pytest.raises(FailedPreconditionError):
        await shim.kill(signal.SIGTERM)


async def test_kill_all_reaches_children(node: Node) -> None:
    shim = await node.spawn(
        "a", "sh", "-c", "trap 'wait; exit 3' TERM; sh -c 'echo up; exec sleep 1000' & wait"
    )
    await shim.start()
    attached = await shim.attach()
    if not node.log("a").read_text():
        await text_of(attached, b"up")
    await shim.kill(signal.SIGTERM, all=True)
    assert (await exited(shim))["exit_code"] == 3
    await attached.close()


async def test_start_failure_is_one_clear_sentence_and_leaves_nothing(node: Node) -> None:
    shim = await node.spawn("a", "/no/such")
    with pytest.raises(UnknownError) as caught:
        await shim.start()
    assert "/no/such" in caught.value.message or "No such file" in caught.value.message
    assert "\n" not in caught.value.message
    assert (await shim.state())["state"] == "failed"
    await node.service.remove("a")
    assert not (node.root / "records/a").exists()


async def test_a_restore_that_fails_says_so_and_starts_nothing(node: Node) -> None:
    shim = await node.spawn("a", "sleep", "1000")
    with pytest.raises(UnknownError):
        await shim.restore("/nonexistent")
    assert (await shim.state())["state"] == "failed"
    with pytest.raises(FailedPreconditionError):
        await shim.start()
    await node.service.remove("a")
    assert not node.log("a").read_text()


async def test_very_short_containers_lose_no_exit(node: Node) -> None:
    async def one(number: int) -> None:
        shim = await node.spawn(f"c{number}", "sh", "-c", f"exit {number}")
        await shim.start()
        assert (await exited(shim))["exit_code"] == number

    async with anyio.create_task_group() as group:
        for number in range(8):
            group.start_soon(one, number)


async def test_long_lines_are_split(node: Node) -> None:
    shim = await node.spawn("a", "sh", "-c", "head -c 40000 /dev/zero | tr '\\0' x; echo")
    await shim.start()
    await exited(shim)
    pieces = [(record.tag, len(record.text)) for record in logs.records(node.log("a"))]
    assert pieces == [(b"P", 16384), (b"P", 16384), (b"F", 7232)]


async def test_rotation_under_full_output_loses_no_line_and_keeps_the_order(node: Node) -> None:
    count = 800_000
    script = f"awk 'BEGIN {{ for (i = 0; i < {count}; i++) printf \"%099d\\n\", i }}'"
    shim = await node.spawn("a", "sh", "-c", script)
    await shim.start()
    pid = (await node.service.list_shims())[0].pid
    log = node.log("a")
    files = [log.with_suffix(f".{number}") for number in range(1, 6)]
    for number, file in enumerate(files, 1):
        while (await shim.state())["log_bytes"] < number * 20_000_000:
            pass  # 112 MB come in all
        log.rename(file)
        await shim.reopen_log()
        assert log.exists()
    await exited(shim)
    records = logs.records(*files, log)
    assert [int(record.text) for record in records] == list(range(count))
    stamps = [record.at for record in records]
    assert stamps == sorted(stamps)
    assert all(file.stat().st_size for file in files)
    peak = Path(f"/proc/{pid}/status").read_text().split("VmHWM:")[1].split()[0]
    assert int(peak) < 32 << 10
    log.unlink()
    with pytest.raises(FailedPreconditionError):
        await shim.reopen_log()
    assert not log.exists()


async def test_exec_captures_output_and_code(node: Node) -> None:
    shim = await node.spawn("a", "sleep", "1000")
    await shim.start()
    result = await shim.exec("e", process_json("sh", "-c", "echo out; echo err >&2; exit 5"), timeout_s=10)
    assert (result.exit_code, result.stdout, result.stderr) == (5, b"out\n", b"err\n")
    assert not result.timed_out
    with pytest.raises(UnknownError, match=r"(?i)no such file|not found"):
        await shim.exec("e", process_json("/no/such"))
    big = await shim.exec("e", process_json("head", "-c", "20000000", "/dev/zero"), timeout_s=30)
    assert len(big.stdout) == 16 << 20
    assert (await shim.state())["execs"] == []
    assert node.log("a").read_bytes() == b""


async def test_an_exec_that_its_containers_end_overtakes_is_told_that_nothing_runs(node: Node) -> None:
    shim = await node.spawn("a", "sleep", "1000")
    await shim.start()
    refused = []

    async def run(number: int) -> None:
        try:
            await shim.exec(f"e{number}", process_json("true"), timeout_s=10)
        except SlipwayError as exc:
            refused.append(exc)

    async with anyio.create_task_group() as group:
        for number in range(16):
            group.start_soon(run, number)
        await shim.kill(signal.SIGKILL)
    assert {type(error) for error in refused} == {FailedPreconditionError}, refused


async def test_more_clients_at_once_than_its_queue_holds_are_all_served(node: Node) -> None:
    await (await node.spawn("a", "sleep", "1000")).start()
    served = []

    async def ask() -> None:
        async with await ShimClient.connect(node.service.socket_path("a")) as shim:
            served.append((await shim.state())["state"])

    with anyio.fail_after(patience(20)):
        async with anyio.create_task_group() as group:
            for _ in range(120):
                group.start_soon(ask)
    assert served == ["running"] * 120


async def test_exec_does_not_wait_for_who_inherited_its_output(node: Node) -> None:
    shim = await node.spawn("a", "sleep", "1000")
    await shim.start()
    with anyio.fail_after(patience(5)):
        result = await shim.exec("e", process_json("sh", "-c", "sleep 100 & echo done"))
    assert result.stdout == b"done\n"


async def test_a_timeout_of_ages_does_not_end_the_shim(node: Node) -> None:
    shim = await node.spawn("a", "sleep", "1000")
    await shim.start()
    for timeout_s in (86400.0 * 30, float(2**63 - 1)):
        result = await shim.exec(f"e{timeout_s}", process_json("true"), timeout_s=timeout_s)
        assert result.exit_code == 0


async def test_exec_timeout_kills_every_descendant(node: Node) -> None:
    shim = await node.spawn("a", "sleep", "1000")
    started = await shim.start()
    script = (
        "sleep 1001 & setsid sh -c 'sleep 1002 & sleep 1003' & (setsid sleep 1004 &) ; "
        "(setsid sleep 1006 >/dev/null 2>&1 </dev/null &) ; echo up; sleep 1005"
    )
    result = await shim.exec("e", process_json("sh", "-c", script), timeout_s=patience(0.7))
    assert result.timed_out
    assert result.stdout == b"up\n"
    listed = await shim.exec("l", process_json("ps", "-o", "args"), timeout_s=10)
    sleeps = [line for line in listed.stdout.decode().splitlines() if line.startswith("sleep")]
    assert sleeps == ["sleep 1000"]
    assert Path(f"/proc/{started.pid}").exists()


@pytest.mark.beyond_debian  # on a v1 layout an exec has a cgroup of its own, below
async def test_an_exec_finds_the_cgroup_of_its_container_to_be_its_own(node: Node) -> None:
    if not Path("/sys/fs/cgroup/cgroup.controllers").exists():
        pytest.skip("needs a unified hierarchy")
    shim = await node.spawn("a", "sleep", "1000")
    started = await shim.start()
    script = "sleep 1; cat /proc/self/cgroup"  # later than what comes after its start
    seen = (await shim.exec("e", process_json("sh", "-c", script), timeout_s=30)).stdout
    assert seen == (await shim.exec("i", process_json("cat", "/proc/1/cgroup"))).stdout
    own = Path(f"/proc/{started.pid}/cgroup").read_text().strip().removeprefix("0::")
    assert not list(Path(f"/sys/fs/cgroup{own}").glob("exec-*"))


async def test_tty_resize_and_streams(node: Node) -> None:
    shim = await node.spawn(
        "a", "sh", "-c", "read x; stty size; test -t 1 && echo tty $x", tty=True, stdin=True
    )
    await shim.start()
    attached = await shim.attach(stdin=True)
    await shim.resize(100, 40)
    await attached.write(b"hello\n")
    text = await text_of(attached)
    assert b"40 100" in text
    assert b"tty hello" in text
    assert attached.exit_code == 0
    await exited(shim)
    assert {record.stream for record in logs.records(node.log("a"))} == {b"stdout"}


async def test_stdin_once_ends_with_its_attacher(node: Node) -> None:
    shim = await node.spawn("a", "cat", stdin=True, stdin_once=True)
    await shim.start()
    attached = await shim.attach(stdin=True)
    await attached.write(b"line\n")
    await text_of(attached, b"line")
    await attached.close()
    assert (await exited(shim))["exit_code"] == 0
    assert logs.untimed(node.log("a")) == ["stdout F line"]


async def test_stdin_survives_its_attacher(node: Node) -> None:
    shim = await node.spawn("a", "cat", stdin=True)
    await shim.start()
    for text in (b"one\n", b"two\n"):
        attached = await shim.attach(stdin=True)
        await attached.write(text)
        await text_of(attached, text)
        await attached.close()
    await shim.close_stdin()
    assert (await exited(shim))["exit_code"] == 0


async def test_slow_attacher_is_dropped_and_the_container_goes_on(node: Node) -> None:
    shim = await node.spawn("a", "sh", "-c", "read x; head -c 5000000 /dev/zero | tr '\\0' '\\n'", stdin=True)
    await shim.start()
    slow = await shim.attach()
    writer = await shim.attach(stdin=True)
    await writer.write(b"\n")
    await writer.close()
    assert (await exited(shim))["exit_code"] == 0
    assert node.log("a").stat().st_size > 5000000 * 40
    await text_of(slow)
    assert slow.exit_code is None


async def test_exec_stream_echoes_and_half_closes(node: Node) -> None:
    shim = await node.spawn("a", "sleep", "1000")
    await shim.start()
    stream = await shim.exec_stream("e", process_json("sh", "-c", "cat; exit 4"), tty=False, stdin=True)
    payload = os.urandom(3_000_000)
    received = b""

    async def write() -> None:
        await stream.write(payload)
        await stream.close_stdin()

    async with anyio.create_task_group() as group:
        group.start_soon(write)
        received = await text_of(stream)
    assert received == payload
    assert stream.exit_code == 4


async def test_exec_stream_with_tty_and_resize(node: Node) -> None:
    shim = await node.spawn("a", "sleep", "1000")
    await shim.start()
    stream = await shim.exec_stream("e", process_json("sh", tty=True), tty=True, stdin=True)
    await stream.resize(90, 30)
    await stream.write(b"stty size; exit 2\n")
    assert b"30 90" in await text_of(stream)
    assert stream.exit_code == 2


async def test_closing_an_exec_stream_kills_it(node: Node) -> None:
    shim = await node.spawn("a", "sleep", "1000")
    await shim.start()
    events = shim.subscribe()
    assert (await anext(events))["event"] == "started"
    stream = await shim.exec_stream("e", process_json("sleep", "1001"), tty=False, stdin=False)
    assert (await anext(events))["event"] == "exec_started"
    await stream.close()
    with anyio.fail_after(patience(10)):
        ended = await anext(events)
    assert (ended["event"], ended["exit_code"]) == ("exec_exit", 137)
    await events.aclose()


async def test_oom_is_told(node: Node) -> None:
    memory = cgroup("memory", f"{node.root.name}-a")
    hog = "x=xxxxxxxxxxxxxxxx; while :; do x=$x$x; done"
    limit = {"memory": {"limit": 16 << 20}}
    shim = await node.spawn("a", "sh", "-c", hog, memory_cgroup_path=memory, **limit)
    await shim.start()
    told = []
    with anyio.fail_after(patience(30)):
        async for event in shim.subscribe():
            told.append(event["event"])
            if told[-1] == "exit":
                break
    assert told == ["started", "oom", "exit"]
    assert event["exit_code"] == 137
    assert event["oom_killed"]
    assert event["memory"]["limit_bytes"] == 16 << 20


async def test_a_limit_of_processes_that_was_hit_is_told(node: Node) -> None:
    where = cgroup("pids", f"{node.root.name}-a")
    forks = "sleep 0.2 & sleep 0.2 & sleep 0.2 & wait"
    shim = await node.spawn("a", "sh", "-c", forks, pids_cgroup_path=where, pids={"limit": 2})
    await shim.start()
    exit_event = await exited(shim)
    assert exit_event["exit_code"] == 2
    assert exit_event["pids"] == {"limit": 2, "hits": 1}


async def test_runtime_op_updates_and_reports(node: Node) -> None:
    shim = await node.spawn("a", "sleep", "1000")
    await shim.start()
    result = await shim.runtime(["state", "a"])
    assert result.exit_code == 0
    assert b'"running"' in result.stdout
    update = await shim.runtime(["update", "--resources", "-", "a"], stdin=b'{"pids": {"limit": 77}}')
    assert update.exit_code == 0, update.stderr
    assert Path(cgroup("pids", f"{node.root.name}-a"), "pids.max").read_text().strip() == "77"
    assert (await shim.runtime(["state", "nothing"])).exit_code != 0


async def test_shim_outlives_its_zygote_and_is_found_again(node: Node) -> None:
    shim = await node.spawn("a", "sh", "-c", "read x; exit 9", stdin=True)
    await shim.start()
    os.kill(node.zygote.pid, signal.SIGKILL)
    other = type(node)(node.root, node.programs)
    found = await other.service.list_shims()
    assert [(one.id, one.alive) for one in found] == [("a", True)]
    again = await other.client("a")
    attached = await again.attach(stdin=True)
    await attached.write(b"\n")
    assert (await exited(again))["exit_code"] == 9
    await other.service.remove("a")


async def test_spawn_is_idempotent_and_remove_waits_for_the_end(node: Node) -> None:
    shim = await node.spawn("a", "sleep", "1000")
    first = (await node.service.list_shims())[0]
    await shim.start()
    spec = msgpack.unpackb((node.root / "shimd/shims/a/spawn.msgpack").read_bytes())
    assert await node.service.spawn(spec) == first
    with pytest.raises(FailedPreconditionError):
        await node.service.remove("a")
    await shim.kill(signal.SIGKILL)
    await exited(shim)
    await node.service.remove("a")
    await node.service.remove("a")


async def test_dead_shim_is_listed_and_buried(node: Node) -> None:
    shim = await node.spawn("a", "sleep", "1000")
    started = await shim.start()
    found = (await node.service.list_shims())[0]
    pidfd = os.pidfd_open(started.pid)
    shim_fd = os.pidfd_open(found.pid)
    os.kill(found.pid, signal.SIGKILL)
    with anyio.fail_after(patience(5)):
        await anyio.wait_readable(shim_fd)
    os.close(shim_fd)
    with pytest.raises(UnavailableError):
        await shim.shutdown()
    assert not (await node.service.list_shims())[0].alive
    await node.service.remove("a")
    with anyio.fail_after(patience(10)):
        await anyio.wait_readable(pidfd)
    os.close(pidfd)
    assert await node.service.list_shims() == []


async def test_pause_is_pid_one_and_takes_its_namespace_along(node: Node) -> None:
    pause = await node.service.spawn_pause("s")
    status = Path(f"/proc/{pause.pid}/status").read_text()
    assert status.split("NSpid:")[1].split("\n")[0].split() == [str(pause.pid), "1"]
    assert os.stat(f"/proc/{pause.pid}/ns/pid").st_ino != os.stat("/proc/self/ns/pid").st_ino
    assert os.listdir(f"/proc/{pause.pid}/fd") == ["0", "1", "2"]
    assert await node.service.spawn_pause("s") == pause
    pidfd = os.pidfd_open(pause.pid)
    os.kill(pause.pid, signal.SIGTERM)
    with anyio.fail_after(patience(5)):
        await anyio.wait_readable(pidfd)
    os.close(pidfd)
    await node.service.remove_pause("s")
    assert await node.service.list_pauses() == []


async def test_container_gets_no_descriptor_and_shim_has_its_own_session(node: Node) -> None:
    shim = await node.spawn("a", "sh", "-c", "echo up; exec sleep 1000")
    started = await shim.start()
    attached = await shim.attach()
    if not node.log(
        "a"
    ).read_text():  # before its exec, init has the runtime's own descriptors, all close-on-exec
        await text_of(attached, b"up")
    await attached.close()
    assert sorted(os.listdir(f"/proc/{started.pid}/fd")) == ["0", "1", "2"]
    pid = (await node.service.list_shims())[0].pid
    assert os.getsid(pid) == pid
    listed = await shim.exec("e", process_json("sh", "-c", "ls /proc/self/fd | wc -l"))
    assert listed.stdout.strip() == b"4"


async def test_mounts_made_later_reach_the_container(node: Node) -> None:
    """Also below a private mount: the runtime is called in the namespace that the services are in."""
    await node.zygote.request("bury", spec={"runtime": {"binary": "true"}, "container_id": "x"})
    bundle = node.root / "bundles/a/rootfs"
    shim = await node.spawn("a", "cat", "/tmp/file")
    from common.sys import linux

    linux.mount("tmpfs", str(bundle / "tmp"), "tmpfs")
    (bundle / "tmp/file").write_text("seen\n")
    await shim.start()
    assert (await exited(shim))["exit_code"] == 0
    linux.umount(str(bundle / "tmp"), linux.MNT_DETACH)
    assert logs.lines(node.log("a"))[0] == "seen"


async def test_unknown_operation_and_version_are_refused(node: Node) -> None:
    shim = await node.spawn("a", "true")
    with pytest.raises(UnimplementedError, match="none of that name"):
        await shim._call("dance", 5)
    with pytest.raises(UnimplementedError, match="protocol version 2: this shim speaks 1"):
        await shim._call("state", 5, v=2)
    with pytest.raises(Exception, match="KeyError"):
        await shim._call("kill", 5)
    assert (await shim.state())["state"] == "created"


NO_FRAMES = {
    "a request that is too long": struct.pack(">I", wire.MAX_REQUEST_BYTES + 1),
    "noise": b"\xff" * 4096,
    "no map": struct.pack(">I", 1) + b"\x05",
    "half a map": struct.pack(">I", 2) + b"\x82\xa1",
    "a pit": struct.pack(">I", 5000) + b"\x91" * 5000,
    "a list longer than its frame": struct.pack(">I", 5) + b"\xdd\xff\xff\xff\xff",
}
NO_REQUESTS: list[wire.Message] = [
    {"op": []},
    {"op": "kill", "signal": math.inf},
    {"op": "kill", "signal": {}},
    {"op": "exec", "exec_id": "e", "process": 1 << 40},
    {"op": "exec", "exec_id": "e", "process": process_json("true"), "timeout_s": math.nan},
    {"op": "runtime", "args": ["list"], "stdin": 1 << 40},
    {"op": "runtime", "args": 5},
    {"op": "resize", "width": 1 << 20, "height": 1},
    {"op": "resize", "exec_id": [1], "width": 1, "height": 1},
]


async def test_what_is_no_request_is_cut_off_or_refused_and_the_shim_goes_on(node: Node) -> None:
    shim = await node.spawn("a", "cat", stdin=True)
    await shim.start()
    pid = (await node.service.list_shims())[0].pid
    path = node.service.socket_path("a")
    clients = [(name, sent, socket.socket(socket.AF_UNIX)) for name, sent in NO_FRAMES.items()]
    half = socket.socket(socket.AF_UNIX)
    for client in [half, *(client for _, _, client in clients)]:
        client.settimeout(patience(10))
        client.connect(path)
    half.sendall(wire.pack({"v": 1, "id": 1, "op": "state"})[:9])
    for name, sent, client in clients:
        client.sendall(sent)
        with client, suppress(ConnectionResetError):  # what it had not read
            assert client.recv(1) == b"", name
    for request in NO_REQUESTS:
        op, fields = request["op"], {key: value for key, value in request.items() if key != "op"}
        with pytest.raises(SlipwayError) as refused:
            await shim._call(op, patience(10), **fields)
        assert refused.value.reason in ("InvalidArgumentError", "UnimplementedError"), request
    no_inputs: list[wire.Message] = [{"s": 0, "d": 1 << 40}, {"resize": [1 << 20, 1]}, {"resize": 5}]
    for no_input in no_inputs:
        attached = await shim.attach(stdin=True)
        await attached._protocol.send(no_input)
        with anyio.fail_after(patience(10)):
            assert await attached.read() is None
    longest = bytes(wire.MAX_REQUEST_BYTES - 100)
    assert (await shim._call("state", patience(10), padding=longest))["state"] == "running"
    half.close()
    assert (await shim.exec("e", process_json("echo", "still here"))).stdout == b"still here\n"
    assert (await node.service.list_shims())[0].pid == pid
    assert (node.root / "shimd/shims/a/shim.log").read_text() == ""
