"""Every transition is on JetStream, once and in order; one trace holds a container's life."""

import json
import sys
import time
from pathlib import Path

import anyio
import nats
import pytest
from anyio.streams.text import TextReceiveStream
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from common.errors import UnavailableError
from common.events.bus import Bus, follow
from common.settings import without_secrets
from devtools.cri import Cri, connect
from devtools.otlp import Span, receiver
from devtools.registry import Registry
from tests.e2e.test_e2e_pods import exited, pod
from tests.support.node import TestNode, running_node
from tests.support.pace import patience

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.root, pytest.mark.timeout(120)]


async def test_events_want_the_token_of_the_node(node: TestNode) -> None:
    """A container on the host's network reaches loopback; it must neither read events nor forge them."""
    address = node.state["nats_url"].partition("@")[2]
    for url in (f"nats://{address}", f"nats://wrong@{address}"):
        with pytest.raises(UnavailableError) as refused:
            await Bus.connect(url, attempts=1)
        assert without_secrets(url) in refused.value.message
    kept = (node.run_dir / "node.json", node.data_dir / "nats-token", node.data_dir / "nats.conf")
    assert [path.stat().st_mode & 0o777 for path in kept] == [0o600] * 3


async def test_a_life_is_told_once_and_in_order(cri: Cri, node: TestNode, busybox: str) -> None:
    since_ns = time.time_ns()
    sandbox_id, container_id = await pod(cri, "told", busybox, ["sleep", "1000"])
    await cri.exec(container_id, ["true"])
    await cri.stop(container_id)
    await cri.remove(container_id)
    await cri.remove_sandbox(sandbox_id)
    told: dict[tuple[str, str], list[str]] = {}  # a snapshot has its container's id
    sequence: dict[str, list[int]] = {}
    with anyio.fail_after(patience(20)):
        async for envelope in follow(node.state["nats_url"], since_ns=since_ns):
            fields = envelope.fields()
            sequence.setdefault(envelope.source, []).append(envelope.seq)
            kind, verb, _ = fields["type"].split(".")
            told.setdefault((kind, fields["id"]), []).append(verb)
            if (kind, fields["id"], verb) == ("sandbox", sandbox_id, "removed"):
                break
    assert told["container", container_id] == ["created", "started", "stop_requested", "exited", "removed"]
    assert told["sandbox", sandbox_id] == ["created", "ready", "stopped", "removed"]
    assert [verbs for (kind, _), verbs in told.items() if kind == "exec"] == [["started", "exited"]]
    assert all(numbers == sorted(set(numbers)) for numbers in sequence.values())


def documents_worker(directory: Path) -> Path:
    """The program of docs/events.md."""
    page = (Path(__file__).parents[2] / "docs" / "events.md").read_text()
    worker = directory / "worker.py"
    worker.write_text(page.split("```python\n")[1].split("```")[0])
    return worker


async def documents_url(node: TestNode) -> str:
    """What the line of docs/events.md makes of a node's files."""
    page = (Path(__file__).parents[2] / "docs" / "events.md").read_text()
    line = next(line for line in page.splitlines() if line.startswith("url="))
    script = line.replace("/var/lib/slipway", str(node.data_dir)) + '; echo "$url"'
    return (await anyio.run_process(["sh", "-euc", script])).stdout.decode().strip()


async def lines_until(worker: Path, url: str, last: str) -> list[str]:
    """What `python3 worker.py URL` prints, up to a line that begins with `last`."""
    async with await anyio.open_process([sys.executable, str(worker), url]) as process:
        assert process.stdout is not None
        text = ""
        async for chunk in TextReceiveStream(process.stdout):
            text += chunk
            if any(line.startswith(last) for line in text.split("\n")[:-1]):
                break
        process.terminate()
    return text.splitlines()


async def test_the_documents_consumer_that_was_away_misses_nothing(
    cri: Cri, node: TestNode, busybox: str, tmp_path: Path
) -> None:
    worker, url = documents_worker(tmp_path), await documents_url(node)

    async def missed() -> list[str]:
        """What it prints until the next container of ours has ended."""
        sandbox_id, last = await pod(cri, "last", busybox, ["sh", "-c", "exit 9"])
        told = await lines_until(worker, url, f"{last} 9 Error")
        await cri.remove_sandbox(sandbox_id)
        return told

    await missed()
    ended = []
    for code in (3, 4):
        sandbox_id, container_id = await pod(cri, f"away{code}", busybox, ["sh", "-c", f"exit {code}"])
        await exited(cri, container_id)
        await cri.remove_sandbox(sandbox_id)
        ended.append(f"{container_id} {code} Error")
    assert (await missed())[:-1] == ended


async def test_an_event_is_decoded_for_other_programs(node: TestNode, busybox: str) -> None:
    client = await nats.connect(node.state["nats_url"])
    try:
        heard = await client.subscribe("slipway.v1.*.container.*.exited")
        await client.flush()
        assert node.slipway("run", "--rm", busybox, "sh", "-c", "exit 5").returncode == 5
        message = await heard.next_msg(10)
    finally:
        await client.close()
    command = [str(Path(sys.executable).parent / "slipway"), "events", "--decode"]
    done = await anyio.run_process(command, input=message.data)
    assert json.loads(done.stdout)["event"]["exit_code"] == 5
    refused = await anyio.run_process(command, input=message.data[:-3], check=False)
    assert (refused.returncode, b"standard input is no event" in refused.stderr) == (1, True)


async def test_one_trace_holds_a_life_across_the_services(
    shop: Registry, busybox: str, tmp_path: Path
) -> None:
    tracer = TracerProvider().get_tracer("kubelet")
    async with receiver() as spans:
        with running_node(tmp_path, otlp=spans.endpoint) as traced:
            async with connect(traced.socket, traced.logs) as cri:
                with tracer.start_as_current_span("pod") as root:
                    trace_id = f"{root.get_span_context().trace_id:032x}"
                    sandbox_id, container_id = await pod(
                        cri, "traced", busybox, ["sh", "-c", "sleep 0.2"], host_network=False
                    )
                await exited(cri, container_id)
                with trace.use_span(trace.INVALID_SPAN):
                    await cri.remove(container_id)
                    await cri.remove_sandbox(sandbox_id)
                wanted = {
                    ("crid", "PullImage"),
                    ("imaged", "Pull"),
                    ("snapshotd", "ApplyLayer"),
                    ("crid", "RunPodSandbox"),
                    ("runtimed", "RunPodSandbox"),
                    ("runtimed", "cni"),
                    ("crid", "CreateContainer"),
                    ("runtimed", "CreateContainer"),
                    ("snapshotd", "Prepare"),
                    ("crid", "StartContainer"),
                    ("runtimed", "StartContainer"),
                    ("shimd", "Spawn"),
                    ("runtimed", "runtime"),
                    ("runtimed", "exit"),
                    ("runtimed", "remove"),
                }

                def missing(found: list[Span]) -> set[tuple[str, str]]:
                    mine = [(s.service, s.name.lower()) for s in found if s.trace_id == trace_id]
                    return {w for w in wanted if not any(s == w[0] and w[1].lower() in n for s, n in mine)}

                def orphans(found: list[Span]) -> set[str]:
                    """Spans whose parent was not told: each service tells of its own when it comes to it."""
                    mine = [s for s in found if s.trace_id == trace_id]
                    known = {s.span_id for s in mine} | {f"{root.get_span_context().span_id:016x}"}
                    return {s.name for s in mine if s.parent_id not in known and "exit" not in s.name}

                try:
                    await spans.wait_for(lambda found: not missing(found) and not orphans(found), within_s=15)
                except TimeoutError:
                    pytest.fail(f"missing: {sorted(missing(spans.spans))}, orphans: {orphans(spans.spans)}")
