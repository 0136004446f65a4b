"""Exec, attach and port-forward as a kubelet's clients see them: CRI for the URL, HTTP for the rest."""

import hashlib
import json
import os
import ssl
from collections.abc import Callable
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread
import grpc
import pytest

from common.api.cri.v1 import api_pb2 as cri_pb
from devtools.cri import Cri
from devtools.ports import free_port
from tests.e2e.test_e2e_pods import exited, pod, runs_no_more
from tests.support.eventually import eventually, until
from tests.support.node import TestNode
from tests.support.streaming import RefusedError, Spdy, WebSocket

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.root, pytest.mark.timeout(180)]
BIG_BYTES = int(os.environ.get("SLIPWAY_STREAM_BYTES") or 96 << 20)
V4, V5 = "v4.channel.k8s.io", "v5.channel.k8s.io"
KINDS = ("spdy", "websocket")
TUNNEL = "SPDY/3.1+portforward.k8s.io"
EXIT_CAUSE = ("NonZeroExitCode", "3")


async def exec_url(
    cri: Cri,
    container_id: str,
    cmd: list[str],
    *,
    stdin: bool = False,
    stderr: bool = False,
    tty: bool = False,
) -> str:
    request = cri_pb.ExecRequest(
        container_id=container_id, cmd=cmd, stdin=stdin, stdout=True, stderr=stderr, tty=tty
    )
    return (await cri.call(cri.runtime.Exec, request)).url


async def attach_url(cri: Cri, container_id: str, *, stdin: bool) -> str:
    request = cri_pb.AttachRequest(container_id=container_id, stdin=stdin, stdout=True)
    return (await cri.call(cri.runtime.Attach, request)).url


async def forward_url(cri: Cri, sandbox_id: str, *ports: int) -> str:
    request = cri_pb.PortForwardRequest(pod_sandbox_id=sandbox_id, port=ports)
    return (await cri.call(cri.runtime.PortForward, request)).url


def spdy_exec(
    url: str, *names: str, stdin: bytes = b"", version: str = V4, context: ssl.SSLContext | None = None
) -> dict[str, bytes]:
    """Open the streams, send the input and its end, and read all to the end."""
    with Spdy(url, version, context=context) as client:
        for name in names:
            client.open(name)
        if "stdin" in names:
            client.write(client.ids["stdin"], stdin, fin=True)
        read = [name for name in names if name not in ("stdin", "resize")]
        found = client.collect(*(client.ids[name] for name in read))
        return {name: found[client.ids[name]] for name in read}


def opened(kind: str, url: str, protocol: str) -> Spdy | WebSocket:
    return WebSocket(url, protocol) if kind == "websocket" else Spdy(url, protocol)


def cause(status: bytes) -> tuple[str, str]:
    shown = json.loads(status)
    return shown["reason"], shown["details"]["causes"][0]["message"]


in_thread = anyio.to_thread.run_sync


async def test_spdy_exec_has_both_outputs_and_the_exit_code(cri: Cri, busybox: str) -> None:
    _, container_id = await pod(cri, "s-exec", busybox, ["sleep", "1000"])
    command = ["sh", "-c", "cat; echo err >&2; exit 3"]
    url = await exec_url(cri, container_id, command, stdin=True, stderr=True)
    names = ("error", "stdin", "stdout", "stderr")
    found = await in_thread(lambda: spdy_exec(url, *names, stdin=b"hello"))
    assert (found["stdout"], found["stderr"]) == (b"hello", b"err\n")
    assert cause(found["error"]) == EXIT_CAUSE
    for version, told in (("v3.channel.k8s.io", b""), (V4, b"Success")):
        url = await exec_url(cri, container_id, ["true"])
        quiet = await in_thread(partial(spdy_exec, url, "error", "stdout", version=version))
        assert quiet["stdout"] == b""
        assert told in quiet["error"]
        assert bool(quiet["error"]) is bool(told)
    url = await exec_url(cri, container_id, ["no-such-program"])
    failed = json.loads((await in_thread(lambda: spdy_exec(url, "error", "stdout")))["error"])
    assert (failed["status"], failed["reason"]) == ("Failure", "InternalError")
    assert "no-such-program" in failed["message"]


@pytest.mark.parametrize("protocol", [V5, "v4.base64.channel.k8s.io"])
async def test_websocket_exec_closes_stdin_and_has_the_exit_code(
    cri: Cri, busybox: str, protocol: str
) -> None:
    _, container_id = await pod(cri, "w-exec", busybox, ["sleep", "1000"])
    command = ["sh", "-c", "read line; echo got $line; cat; echo err >&2; exit 3"]
    if protocol != V5:
        command[2] = command[2].replace("cat;", "")
    url = await exec_url(cri, container_id, command, stdin=True, stderr=True)

    def talk() -> tuple[dict[int, bytes], int]:
        with WebSocket(url, "unknown.k8s.io", protocol) as client:
            assert client.headers["sec-websocket-protocol"] == protocol
            if protocol == V5:
                client.write(b"\x00a\nrest")
                client.write(b"\xff\x00")
            else:
                client.write("0YQo=")
            return client.collect(), client.close_code

    found, code = await in_thread(talk)
    assert found[1] == (b"got a\nrest" if protocol == V5 else b"got a\n")
    assert found[2] == b"err\n"
    assert cause(found[3]) == EXIT_CAUSE
    assert code == 1000


@pytest.mark.parametrize("kind", ["spdy", "websocket"])
async def test_a_terminal_is_resized(cri: Cri, busybox: str, kind: str) -> None:
    _, container_id = await pod(cri, "tty", busybox, ["sleep", "1000"])
    command = ["sh", "-c", "tty; until [ $(stty size | tr -d ' ') = 3397 ]; do sleep 0.02; done; stty size"]
    url = await exec_url(cri, container_id, command, stdin=True, tty=True)
    size = b'{"Width":97,"Height":33}\n'

    def talk() -> bytes:
        if kind == "websocket":
            with WebSocket(url, V5) as client:
                client.write(b"\x04" + size)
                return client.collect()[1]
        with Spdy(url, V4) as client:
            for name in ("error", "stdin", "stdout", "resize"):
                client.open(name)
            client.write(client.ids["resize"], size[:9])
            client.write(client.ids["resize"], size[9:])
            return client.collect(client.ids["stdout"])[client.ids["stdout"]]

    shown = await in_thread(talk)
    assert b"/dev/pts/" in shown
    assert shown.endswith(b"33 97\r\n")


async def test_a_client_that_goes_ends_its_exec(cri: Cri, busybox: str) -> None:
    _, container_id = await pod(cri, "gone", busybox, ["sleep", "1000"])
    url = await exec_url(cri, container_id, ["sh", "-c", "echo up; exec sleep 4321"])

    def talk() -> None:
        with WebSocket(url, V5) as client:
            assert client.read()

    await in_thread(talk)
    await runs_no_more(cri, container_id, b"4321")


async def test_attach_detaches_and_leaves_stdin_open(cri: Cri, busybox: str) -> None:
    _, container_id = await pod(cri, "attach", busybox, ["cat"], stdin=True)

    def talk(url: str, word: bytes) -> bytes:
        with Spdy(url, V4) as client:
            for name in ("error", "stdin", "stdout"):
                client.open(name)
            client.write(client.ids["stdin"], word, fin=True)
            found = b""
            while word not in found:
                found += b"".join(piece for stream, piece in client.read() if stream == client.ids["stdout"])
            return found

    for word in (b"one\n", b"two\n"):
        url = await attach_url(cri, container_id, stdin=True)
        assert await in_thread(talk, url, word) == word
    assert (await cri.status(container_id)).state == cri_pb.CONTAINER_RUNNING


async def test_the_end_of_an_attachment_is_the_end_of_stdin_once(cri: Cri, busybox: str) -> None:
    _, container_id = await pod(cri, "once", busybox, ["cat"], stdin=True, stdin_once=True)
    url = await attach_url(cri, container_id, stdin=True)
    found = await in_thread(lambda: spdy_exec(url, "error", "stdin", "stdout", stdin=b"all\n"))
    assert found["stdout"] == b"all\n"
    assert json.loads(found["error"])["status"] == "Success"


@pytest.mark.parametrize("host_network", [False, True], ids=["pod", "host"])
@pytest.mark.parametrize("kind", ["spdy", "tunnel", "channels"])
async def test_a_port_is_forwarded(cri: Cri, busybox: str, host_network: bool, kind: str) -> None:
    port = free_port()
    serve = ["nc", "-ll", "-p", str(port), "-e", "sh", "-c", "read word; echo got $word"]
    sandbox_id, _ = await pod(cri, f"pf-{kind}", busybox, serve, host_network=host_network)
    wanted = b"got word\n"

    def once(url: str) -> bytes:
        if kind == "channels":
            with WebSocket(url, V4) as client:
                client.write(b"\x00word\n")  # the port is told by the server alone
                found = client.collect()
                assert client.close_code == 1000
                assert found[0][:2] == found[1][:2] == port.to_bytes(2, "little")
                return found[0][2:]
        with forwarding(url, kind) as client:
            data, error = connect(client, port)
            client.write(data, b"word\n", fin=True)
            found = client.collect(data, error)
            return found[data] if not found[error] else b""

    async def echoed() -> bytes:
        return await in_thread(once, await forward_url(cri, sandbox_id, port))

    assert await until(echoed, "nc to listen") == wanted


def forwarding(url: str, kind: str) -> Spdy:
    return Spdy(url, "portforward.k8s.io", tunnel=TUNNEL if kind == "tunnel" else "")


def connect(client: Spdy, port: int, number: int = 0) -> tuple[int, int]:
    fields = {"port": str(port), "requestid": str(number)}
    return client.open("data", **fields), client.open("error", **fields)


async def test_a_closed_port_is_told_on_the_error_stream_and_others_go_on(cri: Cri, busybox: str) -> None:
    sandbox_id, _ = await pod(cri, "pf-closed", busybox, ["sleep", "1000"], host_network=False)
    url = await forward_url(cri, sandbox_id)

    def talk() -> list[bytes]:
        with forwarding(url, "spdy") as client:
            errors = [connect(client, 9, number)[1] for number in range(3)]
            found = client.collect(*errors)
            return [found[error] for error in errors]

    for told in await in_thread(talk):
        assert b"port 9" in told
        assert b"127.0.0.1: Connection refused" in told
        assert b"::1: " in told


async def test_a_url_is_good_once_and_for_its_kind_only(cri: Cri, busybox: str) -> None:
    _, container_id = await pod(cri, "tokens", busybox, ["sleep", "1000"])
    url = await exec_url(cri, container_id, ["true"])
    await in_thread(lambda: spdy_exec(url, "error", "stdout"))
    other = (await exec_url(cri, container_id, ["true"])).replace("/exec/", "/attach/")
    for wrong in (url, other, url.rpartition("/")[0] + "/nothing", url.replace("/exec/", "/")):
        with pytest.raises(RefusedError, match="unknown, was used before") as refusal:
            await in_thread(Spdy, wrong, V4)
        assert refusal.value.status == 404


async def test_protocols_that_are_not_spoken_are_refused_with_both_lists(cri: Cri, busybox: str) -> None:
    _, container_id = await pod(cri, "protocols", busybox, ["sleep", "1000"])
    for kind in KINDS:
        url = await exec_url(cri, container_id, ["true"])
        with pytest.raises(RefusedError, match=r"offers v9\.channel.*supported are v.\.channel") as refusal:
            await in_thread(opened, kind, url, "v9.channel.k8s.io")
        assert refusal.value.status == 403
    url = await exec_url(cri, container_id, ["true"])
    with pytest.raises(RefusedError, match=r"upgrade h2c: .*SPDY/3\.1") as refusal:
        await in_thread(lambda: Spdy(url, V4, upgrade="h2c"))
    assert refusal.value.status == 400


def break_it(kind: str, url: str) -> None:
    with opened(kind, url, V4) as client:
        (client.link if isinstance(client, Spdy) else client).send(b"\xff" * 64)
        while client.receive():
            pass


async def test_malformed_frames_close_their_connection_only(cri: Cri, busybox: str) -> None:
    _, container_id = await pod(cri, "malformed", busybox, ["sleep", "1000"])
    good = await exec_url(cri, container_id, ["cat"], stdin=True)
    for kind in KINDS * 5:  # each comes at another moment of the exec's preparation
        bad = await exec_url(cri, container_id, ["cat"], stdin=True)
        await in_thread(break_it, kind, bad)
    found = await in_thread(lambda: spdy_exec(good, "error", "stdin", "stdout", stdin=b"still"))
    assert found["stdout"] == b"still"


async def test_what_does_not_run_has_no_url(cri: Cri, busybox: str) -> None:
    _, container_id = await pod(cri, "over", busybox, ["true"])
    await exited(cri, container_id)
    for name, code in (
        (container_id, grpc.StatusCode.FAILED_PRECONDITION),
        ("nothing", grpc.StatusCode.NOT_FOUND),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await exec_url(cri, name, ["true"])
        assert refused.value.code() is code
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await forward_url(cri, "nothing", 80)
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND


def rss_mib(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4 // 1024


def pump(
    write: Callable[[bytes], None], read: Callable[[], list[bytes]], size: int, block: bytes
) -> tuple[str, str]:
    """Send blocks from a thread while this one reads; digests of what went and of what came."""
    import threading

    sent, came = hashlib.sha256(), hashlib.sha256()

    def feed() -> None:
        for _ in range(size // len(block)):
            sent.update(block)
            write(block)

    thread = threading.Thread(target=feed)
    thread.start()
    left = size
    while left > 0:
        for piece in read():
            came.update(piece)
            left -= len(piece)
    thread.join()
    return sent.hexdigest(), came.hexdigest()


@pytest.mark.parametrize("kind", ["spdy", "websocket"])
async def test_much_goes_through_cat_without_loss_or_growth(
    cri: Cri, node: TestNode, busybox: str, kind: str
) -> None:
    _, container_id = await pod(cri, "big", busybox, ["sleep", "1000"])
    url = await exec_url(cri, container_id, ["cat"], stdin=True)
    block = os.urandom(32 << 10)

    def talk() -> tuple[str, str]:
        if kind == "websocket":
            with WebSocket(url, V5) as client:
                return pump(
                    lambda b: client.write(b"\x00" + b),
                    lambda: [m[1:] for m in client.read() if m[0] == 1],
                    BIG_BYTES,
                    block,
                )
        with Spdy(url, V4) as client:
            for name in ("error", "stdin", "stdout"):
                client.open(name)
            stdin, stdout = client.ids["stdin"], client.ids["stdout"]
            return pump(
                lambda b: client.write(stdin, b),
                lambda: [p for s, p in client.read() if s == stdout],
                BIG_BYTES,
                block,
            )

    before = rss_mib(node.pid("crid"))
    sent, came = await in_thread(talk)
    assert sent == came
    assert rss_mib(node.pid("crid")) - before < 48


async def test_a_client_that_does_not_read_holds_back_its_own_exec_only(
    cri: Cri, node: TestNode, busybox: str
) -> None:
    _, container_id = await pod(cri, "slow", busybox, ["sleep", "1000"])
    flood = await exec_url(cri, container_id, ["sh", "-c", "cat /dev/zero"])
    before = rss_mib(node.pid("crid"))
    client = await in_thread(lambda: WebSocket(flood, V5))
    try:
        for _ in range(5):
            url = await exec_url(cri, container_id, ["head", "-c", "1000000", "/dev/zero"])
            found = await in_thread(spdy_exec, url, "error", "stdout")
            assert len(found["stdout"]) == 1_000_000
        assert rss_mib(node.pid("crid")) - before < 48
    finally:
        client.close()


async def test_attaching_again_and_again_leaves_no_descriptor(cri: Cri, node: TestNode, busybox: str) -> None:
    _, container_id = await pod(cri, "leaks", busybox, ["cat"], stdin=True)
    descriptors = Path(f"/proc/{node.pid('crid')}/fd")

    async def many(count: int) -> None:
        for number in range(count):
            url = await attach_url(cri, container_id, stdin=True)
            kind, protocol = ("spdy", V4) if number % 2 else ("websocket", V5)
            client = await in_thread(opened, kind, url, protocol)
            client.close()

    url = await exec_url(cri, container_id, ["true"])
    await in_thread(lambda: spdy_exec(url, "error", "stdout"))
    before = len(list(descriptors.iterdir()))
    await many(200)
    eventually(lambda: len(list(descriptors.iterdir())) <= before, what="all descriptors to be closed")
