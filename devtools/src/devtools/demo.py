"""`./dev demo`: a real image, a real pod, its log, events and trace, and all of it gone again."""

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import grpc
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from common.errors import SlipwayError
from common.events import told
from common.events.bus import follow
from common.sys.mounts import unmount_below
from devtools import bridge, registry
from devtools.colours import GREEN, RED, coloured
from devtools.cri import Cri, connect
from devtools.otlp import Receiver, draw, receiver

RUN_PARENT = Path("/run")
SHOP = 'i=0; while true; do i=$((i+1)); echo "tick $i"; sleep 1; done'
EVENTS_S = 10.0
READY_S = 180
"""Longer than a node needs by far: the demo is for slow machines too."""
NODE_S = READY_S + 30


@dataclass(frozen=True)
class Place:
    """Directories and a network of one run's own, so that two demos never meet."""

    run: Path
    data: Path
    bridge: str
    subnet: str

    @classmethod
    def make(cls) -> "Place":
        name = secrets.token_hex(3)
        run = RUN_PARENT / f"slipway-demo-{name}"
        run.mkdir(mode=0o711)  # a directory that is there already is another's
        data = Path(tempfile.mkdtemp(prefix=f"slipway-demo-{name}-"))
        return cls(run, data, f"slwd{name}", f"10.251.{int(name[:2], 16)}.0/24")

    def remove(self) -> None:
        """Unmount and remove this run's directories; a mount that stays keeps its directory."""
        for directory in (self.run, self.data):
            unmount_below(directory)
            shutil.rmtree(directory, ignore_errors=True)

    def keep_logs(self) -> Path:
        """Copy the services' logs to where they stay."""
        kept = Path(tempfile.mkdtemp(prefix="slipway-demo-log-"))
        shutil.copytree(self.run / "log", kept, dirs_exist_ok=True)
        return kept


def main() -> None:
    """Run the demo; a failure is one sentence, after everything was cleaned up."""
    try:
        anyio.run(_demo)
    except* (SlipwayError, OSError, subprocess.SubprocessError, grpc.aio.AioRpcError) as group:
        sys.exit(f"demo failed: {_said(group.exceptions[0])}")


def _said(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    text = (error.details() or str(error.code())) if isinstance(error, grpc.aio.AioRpcError) else str(error)
    return "; ".join([text, *getattr(error, "__notes__", ())])


@contextmanager
def step(what: str) -> Iterator[None]:
    """Say what goes on and how long it took."""
    sys.stdout.write(f"  {what} … ")
    sys.stdout.flush()
    start = time.monotonic()
    try:
        yield
    except BaseException:
        sys.stdout.write(f"{coloured('✗', RED)}\n")
        raise
    sys.stdout.write(f"{coloured('✓', GREEN)} {1e3 * (time.monotonic() - start):.0f} ms\n")


async def _demo() -> None:
    place = Place.make()
    trace.set_tracer_provider(TracerProvider())
    async with AsyncExitStack() as stack:
        stack.callback(place.remove)
        spans = await stack.enter_async_context(receiver())
        with step("a registry with a busybox image in it (docker-registry)"):
            shop = stack.enter_context(registry.registry(place.data / "registry"))
            reference = await anyio.to_thread.run_sync(registry.push_busybox, shop)
        bridge.write_conflist(place.data / "cni", place.bridge, place.subnet, place.data / "leases")
        stack.callback(bridge.remove, place.bridge)
        stack.push_async_callback(_anyway, _node_down, place, spans.endpoint)
        try:
            await _show(stack, place, spans, reference)
        except (SlipwayError, OSError, grpc.aio.AioRpcError) as exc:
            if (place.run / "log").is_dir():
                exc.add_note(f"the logs are in {place.keep_logs()}")
            raise
    sys.stdout.write("\nall of it is gone again. Next: sudo ./dev up\n")


async def _show(stack: AsyncExitStack, place: Place, spans: Receiver, reference: str) -> None:
    with step("a node: NATS, Redis and six services"):
        await _node("up", place, spans.endpoint)
    cri = await stack.enter_async_context(connect(f"{place.run}/crid.sock", place.data / "logs"))
    stack.push_async_callback(_anyway, cri.remove_all)
    since = time.time_ns()
    with trace.get_tracer("demo").start_as_current_span("demo") as root:
        trace_id = f"{root.get_span_context().trace_id:032x}"
        container_id = await _pod(cri, reference)
    await _show_log(place)
    await _show_events(place, since, container_id)
    await _show_trace(spans, trace_id)


async def _anyway(undo: Callable[..., Awaitable[None]], *arguments: Any) -> None:
    """Clean up, cancelled or not; a failure is said, and does not hide the one that came first."""
    with anyio.CancelScope(shield=True):
        try:
            await undo(*arguments)
        except (SlipwayError, OSError, grpc.aio.AioRpcError) as exc:
            sys.stderr.write(f"  clean-up: {_said(exc)}\n")


async def _pod(cri: Cri, reference: str) -> str:
    with step(f"PullImage {reference}"):
        await cri.pull(reference)
    sandbox = cri.sandbox_config("shop")
    with step("RunPodSandbox, with an address from CNI"):
        sandbox_id = await cri.run_sandbox(sandbox)
    with step("CreateContainer"):
        config = cri.container_config("ticker", reference, ["sh", "-c", SHOP])
        container_id = await cri.create(sandbox_id, config, sandbox)
    with step("StartContainer"):
        await cri.start(container_id)
    with step("ExecSync: uname -a; ip addr"):
        answer = await cri.exec(container_id, ["sh", "-c", "uname -a; ip -4 addr show eth0 | grep inet"])
    sys.stdout.write("".join(f"      {line}\n" for line in answer.stdout.decode().splitlines()))
    with step("it runs for a moment"):
        await anyio.sleep(2.2)
    with step("StopContainer: SIGTERM, then SIGKILL after 1 s"):
        await cri.stop(container_id, 1)
    status = await cri.status(container_id)
    sys.stdout.write(f"      exit code {status.exit_code}, {status.reason}\n")
    with step("RemoveContainer, StopPodSandbox, RemovePodSandbox"):
        await cri.remove(container_id)
        await cri.remove_sandbox(sandbox_id)
    return container_id


async def _show_log(place: Place) -> None:
    sys.stdout.write("\nits log, in CRI's format:\n")
    text = await anyio.Path(place.data / "logs/shop/ticker.log").read_text()
    sys.stdout.write("".join(f"  {line}\n" for line in text.splitlines()))


async def _show_events(place: Place, since_ns: int, container_id: str) -> None:
    sys.stdout.write("\nits lifecycle events, from JetStream:\n")
    state = await anyio.Path(place.run / "node.json").read_text()
    url = json.loads(state)["nats_url"]
    removed = False
    with anyio.move_on_after(EVENTS_S):
        async for envelope in follow(url, since_ns=since_ns):
            fields = envelope.fields()
            sys.stdout.write(f"  {envelope.source:<9} {told.line(fields)}\n")
            removed = removed or (told.kind(fields), fields["id"]) == ("container.removed", container_id)
            if told.kind(fields) == "sandbox.removed":
                break
    if not removed:
        message = f"the event container.removed of {container_id} did not arrive within {EVENTS_S:.0f} s"
        raise SlipwayError(message)


async def _show_trace(spans: Receiver, trace_id: str) -> None:
    sys.stdout.write("\nits trace, by OTLP:\n")
    await spans.wait_for(
        lambda found: any(s.trace_id == trace_id and "RemovePodSandbox" in s.name for s in found)
    )
    await anyio.sleep(1)  # the last batches of the other services
    sys.stdout.write("".join(f"  {line}\n" for line in draw(spans.trace(trace_id)).splitlines()))


async def _node(verb: str, place: Place, otlp: str) -> None:
    command = [str(Path(sys.executable).parent / "slipway-node"), verb, "--run-dir", str(place.run)]
    command += ["--data-dir", str(place.data / "node"), "--cni-dir", str(place.data / "cni")]
    command += ["--certs-dir", str(place.data / "certs.d"), "--otlp", otlp, "--node", os.uname().nodename]
    command += ["--settings-dir", ""]
    if verb == "up":
        command += ["--ready-s", str(READY_S)]
    with anyio.fail_after(NODE_S):
        done = await anyio.run_process(command, check=False)
    if done.returncode:
        message = done.stderr.decode().strip() or f"slipway-node {verb} failed"
        raise SlipwayError(message)


async def _node_down(place: Place, otlp: str) -> None:
    with step("the node goes down"):
        await _node("down", place, otlp)


if __name__ == "__main__":
    main()
