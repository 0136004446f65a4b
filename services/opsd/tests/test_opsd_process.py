"""opsd as a process with a real NATS: pages follow events, nodes answer each other, NATS may go and come back."""

import json
import os
import shutil
import socket
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import grpc
import msgspec
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

from common.clients.opsd import link
from common.events import schema, subjects
from common.events.bus import Bus
from opsd import history
from tests.support.brokers import NatsServer, nats_server
from tests.support.eventually import eventually
from tests.support.opsd import Opsd, address, opsd
from tests.support.pace import patience

pytestmark = [pytest.mark.anyio, pytest.mark.integration, pytest.mark.timeout(120)]
NODES = ("alpha", "beta")


@pytest.fixture
def nats(tmp_path: Path) -> Iterator[NatsServer]:
    if os.geteuid() != 0:
        pytest.skip("opsd's sockets are below /run")
    with nats_server(tmp_path / "nats") as server:
        yield server


async def publish(url: str, node: str, events: Sequence[schema.Event], at_ns: int = 0) -> None:
    bus = await Bus.connect(url, attempts=8)
    try:
        await bus.ensure_stream()
        for number, event in enumerate(events):
            identity = f"{node}:{event.id}:{time.time_ns()}{number}"
            envelope = schema.Envelope(
                id=identity,
                at_ns=at_ns or time.time_ns(),
                node=node,
                source="runtimed",
                revision=number,
                event=msgspec.Raw(schema.encoder.encode(event)),
            )
            subject = subjects.of_event(node, envelope.fields())
            await bus.publish(subject, schema.encoder.encode(envelope), identity, "")
    finally:
        await bus.close()


def created(number: int) -> schema.ContainerCreated:
    return schema.ContainerCreated(id=f"{number:064x}", sandbox_id="p", name=f"c{number}", image="i")


def next_event(stream: socket.socket, name: str) -> dict[str, Any]:
    """The next server-sent event of this name."""
    buffer = b""
    while True:
        start = buffer.find(f"event: {name}\ndata: ".encode())
        if start >= 0 and (end := buffer.find(b"\n\n", start)) >= 0:
            data = buffer[start:end].partition(b"data: ")[2]
            told: dict[str, Any] = json.loads(
                b"".join(part for part in data.split(b"\r\n") if not _is_size(part))
            )
            return told
        buffer += stream.recv(1 << 20)


def _is_size(part: bytes) -> bool:
    try:
        int(part, 16)
    except ValueError:
        return not part
    return True


@contextmanager
def following(opened: Opsd) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(patience(15))
        client.connect(str(opened.run_dir / "opsd" / "http.sock"))
        client.sendall(b"GET /api/v1/stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
        yield client


def _sees_both(page: Opsd) -> bool:
    return page.up() == set(NODES)


async def test_any_page_shows_every_node_and_asks_it(nats: NatsServer, tmp_path: Path) -> None:
    with opsd("alpha", tmp_path, nats.url) as alpha, opsd("beta", tmp_path, nats.url) as beta:
        for page in (alpha, beta):
            eventually(partial(_sees_both, page), what=f"{page.node} sees both")
        await publish(nats.url, "beta", [created(1)])
        eventually(lambda: [c["name"] for c in alpha.state()["containers"]] == ["c1"], what="the container")
        # beta has no runtimed: its own error comes back through NATS
        status, body = alpha.ask(f"/api/v1/containers/{1:064x}")
        assert (status, body["error"]) == (504, "DeadlineExceededError")


async def test_spans_come_by_otlp_and_are_shown_by_the_page_of_another_node(
    nats: NatsServer, tmp_path: Path
) -> None:
    with opsd("alpha", tmp_path, nats.url) as alpha, opsd("beta", tmp_path, nats.url) as beta:
        eventually(lambda: beta.up() == set(NODES), what="beta sees both")
        request = trace_service_pb2.ExportTraceServiceRequest()
        scope = request.resource_spans.add().scope_spans.add()
        for number in range(3):
            scope.spans.add(
                trace_id=b"\x01" * 16,
                span_id=bytes([number + 1]) * 8,
                name="runtimed.container.start",
                start_time_unix_nano=10**18,
                end_time_unix_nano=10**18 + 5_000_000,
            )
        async with grpc.aio.insecure_channel(f"unix:{alpha.run_dir}/opsd.sock") as channel:
            stub = trace_service_pb2_grpc.TraceServiceStub(channel)  # type: ignore[no-untyped-call]
            await stub.Export(request, timeout=patience(10))
        status, body = beta.ask(f"/api/v1/traces/{'01' * 16}")
        assert status == 200
        assert [(span["name"], span["ms"]) for span in body["spans"]] == [
            ("runtimed.container.start", 5.0)
        ] * 3


async def test_a_page_hears_of_an_event_within_the_blink_of_an_eye(nats: NatsServer, tmp_path: Path) -> None:
    with opsd("alpha", tmp_path, nats.url) as alpha, following(alpha) as stream:
        assert next_event(stream, "state")["self"] == {"node": "alpha"}
        await publish(nats.url, "gamma", [created(5)])
        with anyio.fail_after(patience(10)):
            while not (patch := await anyio.to_thread.run_sync(next_event, stream, "patch")).get(
                "containers"
            ):
                pass
        assert patch["containers"][0]["name"] == "c5"
        assert [(e["kind"], e["verb"]) for e in patch["events"]] == [("container", "created")]


async def test_nats_away_is_said_and_nothing_is_missed(nats: NatsServer, tmp_path: Path) -> None:
    with opsd("alpha", tmp_path, nats.url) as alpha:
        eventually(lambda: alpha.state()["link"]["connected"], what="connected")
        await publish(nats.url, "gamma", [created(1)])
        eventually(lambda: len(alpha.state()["events"]) == 1, what="the first event")
        nats.kill()
        eventually(lambda: not alpha.state()["link"]["connected"], what="the outage is said")
        assert alpha.up() == {"alpha"}
        assert alpha.ask("/api/v1/events")[0] == 503
        nats.start()
        await publish(nats.url, "gamma", [created(2), created(3)])
        eventually(lambda: alpha.state()["link"]["connected"], what="connected again")
        eventually(lambda: len(alpha.state()["events"]) == 3, what="all events")
        names = [event["facts"]["name"] for event in alpha.state()["events"]]
        assert names == ["c1", "c2", "c3"]


async def test_events_are_heard_again_when_nats_has_lost_all_of_them(
    nats: NatsServer, tmp_path: Path
) -> None:
    with opsd("alpha", tmp_path, nats.url) as alpha:
        await publish(nats.url, "gamma", [created(n) for n in range(1, 6)])
        eventually(lambda: len(alpha.state()["events"]) == 5, what="the first events")
        nats.kill()
        eventually(lambda: not alpha.state()["link"]["connected"], what="the outage is said")
        shutil.rmtree(nats.directory)
        nats.directory.mkdir()
        nats.start()
        await publish(nats.url, "gamma", [created(9)])
        eventually(lambda: len(alpha.state()["events"]) == 6, what="the event of the new stream")
        assert alpha.state()["events"][-1]["facts"]["name"] == "c9"


async def test_a_port_file_that_a_full_disk_left_empty_costs_nothing(
    nats: NatsServer, tmp_path: Path
) -> None:
    port = Path(f"/run/slipway-opsd-{os.getpid()}-alpha/opsd/port")
    port.parent.mkdir(parents=True)
    port.touch()
    with opsd("alpha", tmp_path, nats.url):
        eventually(lambda: port.read_text().isdecimal(), what="the port is told")


async def test_nats_that_stands_still_is_noticed(nats: NatsServer, tmp_path: Path) -> None:
    with opsd("alpha", tmp_path, nats.url) as alpha:
        eventually(lambda: alpha.state()["link"]["connected"], what="connected")
        nats.process.send_signal(19)
        try:
            eventually(lambda: not alpha.state()["link"]["connected"], what="the silence is said")
            assert "has not answered" in alpha.state()["link"]["error"]
        finally:
            nats.process.send_signal(18)
        eventually(lambda: alpha.state()["link"]["connected"], what="connected again")


async def test_the_log_is_read_from_any_time_and_by_filters(nats: NatsServer, tmp_path: Path) -> None:
    with opsd("alpha", tmp_path, nats.url) as alpha:
        await publish(nats.url, "gamma", [created(n) for n in range(30)])
        eventually(lambda: len(alpha.state()["events"]) == 30, what="all events")
        at = [event["at"] for event in alpha.state()["events"]]

        def names(query: str) -> list[str]:
            status, body = alpha.ask(f"/api/v1/events?{query}")
            assert status == 200, body
            return [event["facts"]["name"] for event in body["events"]]

        assert names("limit=3") == ["c27", "c28", "c29"]
        assert names("limit=2&text=c1") == ["c18", "c19"]
        assert names("node=delta") == []
        assert names("kind=container&verb=created&limit=1") == ["c29"]
        middle = (at[9] + at[10]) / 2
        assert names(f"until={middle!r}&limit=2") == ["c8", "c9"]
        for wrong in ("limit=many", "since=nan", "since=inf", "since=1e300", "until=-1"):
            assert alpha.ask(f"/api/v1/events?{wrong}")[0] == 400
        assert alpha.ask("/api/v1/events?limit=5")[1]["first"] == pytest.approx(at[0], abs=1)


@asynccontextmanager
async def filled(nats: NatsServer, events: Sequence[schema.Event]) -> AsyncIterator[Bus]:
    """A log of these events."""
    await publish(nats.url, "gamma", events)
    bus = await Bus.connect(nats.url, attempts=8)
    try:
        yield bus
    finally:
        await bus.close()


def started(number: int) -> schema.ContainerStarted:
    return schema.ContainerStarted(id=f"{number:064x}", sandbox_id="p", pid=1)


def numbers(found: dict[str, Any]) -> list[int]:
    return [int(event["id"], 16) for event in found["events"]]


async def test_a_search_of_a_long_log_finds_all_that_it_can_look_at(
    nats: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "MAX_READ", 100)
    monkeypatch.setattr(history, "FIRST_BLOCK", 10)
    monkeypatch.setattr(history, "LATE_NS", 0)
    events = [created(n) if n % 50 == 0 else started(n) for n in range(300)]
    async with filled(nats, events) as bus:
        latest = await history.read(bus, history.Wanted(limit=30))
        assert (numbers(latest), latest["more"]) == (list(range(270, 300)), True)
        rare = await history.read(bus, history.Wanted(verb="created"))
        assert (numbers(rare), rare["more"]) == ([0, 50, 100, 150, 200, 250], False)
        cut_off = await history.read(bus, history.Wanted(text='"image"'))
        assert (numbers(cut_off), cut_off["more"]) == ([200, 250], True)
        on, found = cut_off, numbers(cut_off)
        while on["more"]:
            before = on["reached"]
            on = await history.read(bus, history.Wanted(text='"image"', until=before))
            assert on["reached"] < before
            found = numbers(on) + found
        assert found == [0, 50, 100, 150, 200, 250]


async def test_a_search_forward_says_how_far_it_came(
    nats: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "MAX_READ", 100)
    events = [created(n) if n % 50 == 0 else started(n) for n in range(230)]
    async with filled(nats, events) as bus:
        found: set[int] = set()
        on = {"reached": 1.0, "more": True}
        for looked in (100, 199, 230):
            assert on["more"]
            on = await history.read(bus, history.Wanted(text="c", since=on["reached"]))
            found |= set(numbers(on))
            assert max(found) == looked - 1
        assert not on["more"]


async def test_the_log_of_a_container_is_read_by_its_subjects(
    nats: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "MAX_READ", 50)
    run = schema.ExecStarted(id="e1", container_id=f"{1:064x}", command=["true"])
    events = [created(1), run, *(started(n) for n in range(2, 200))]
    async with filled(nats, events) as bus:
        wanted = history.Wanted(id=f"{1:064x}")
        by_all = await history.read(bus, wanted)
        assert (by_all["events"], by_all["more"]) == ([], True)
        found = await history.read(bus, wanted, of_container=True)
        assert [event["verb"] for event in found["events"]] == ["created", "started"]
        assert not found["more"]


async def test_actions_want_the_token_also_of_the_other_node(nats: NatsServer, tmp_path: Path) -> None:
    with (
        opsd("alpha", tmp_path, nats.url, token="one") as alpha,
        opsd("beta", tmp_path, nats.url, token="two"),
    ):
        eventually(lambda: alpha.up() == set(NODES), what="both")
        await publish(nats.url, "beta", [created(1)])
        eventually(lambda: alpha.state()["containers"], what="the container")
        path = f"/api/v1/containers/{1:064x}/stop"
        assert alpha.ask(path, "POST")[0] == 403
        assert alpha.ask(path, "POST", "two")[0] == 403
        status, body = alpha.ask(path, "POST", "one")
        assert (status, body["message"][:30]) == (403, "node beta has another token: g")


def by_address(url: str, path: str, token: str = "") -> tuple[int, dict[str, Any]]:
    """As any user of the machine may ask, by TCP."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    wanted = urllib.request.Request(url + path, headers=headers)
    try:
        with urllib.request.urlopen(wanted, timeout=patience(20)) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as exc:
        return exc.code, json.loads(exc.read())


async def test_what_containers_say_and_run_is_not_for_every_user_of_the_machine(
    nats: NatsServer, tmp_path: Path
) -> None:
    with opsd("alpha", tmp_path, nats.url, token="o/ne #1") as alpha:
        eventually(lambda: alpha.state()["link"]["connected"], what="connected")
        await publish(nats.url, "gone", [created(1)])
        eventually(lambda: alpha.state()["containers"], what="the container")
        url = eventually(lambda: address(alpha.run_dir), what="the address")
        about = f"/api/v1/containers/{1:064x}"
        assert by_address(url, "/api/v1/state")[1]["containers"]
        for part in ("/logs", "/processes"):
            for token in ("", "two"):
                status, body = by_address(url, about + part, token)
                assert (status, body["error"]) == (403, "PermissionDeniedError")
                assert "slipway dashboard" in body["message"]
            # its node is not there, so who is allowed to ask hears that
            assert by_address(url, about + part, "o/ne #1")[0] != 403
            assert alpha.ask(about + part)[0] != 403


async def test_the_link_with_the_token_is_told_on_the_unix_socket_only(
    nats: NatsServer, tmp_path: Path
) -> None:
    with opsd("alpha", tmp_path, nats.url, token="o/ne #1") as alpha:
        url = eventually(lambda: address(alpha.run_dir), what="the address")
        assert link(str(alpha.run_dir)) == f"{url}/#token=o%2Fne%20%231"
        for token in ("", "o/ne #1"):
            assert by_address(url, "/api/v1/link", token)[0] == 403
        assert "o/ne #1" not in (tmp_path / "alpha.log").read_text()


async def test_requests_that_are_none_cost_nothing(nats: NatsServer, tmp_path: Path) -> None:
    with opsd("alpha", tmp_path, nats.url) as alpha:
        for bad in (
            b"rubbish\r\n\r\n",
            b"GET / HTTP/1.1\r\n\r\n",
            b"\x00" * 70000,
            b"POST / HTTP/1.1\r\nHost: a\r\n",
        ):
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(patience(10))
                client.connect(str(alpha.run_dir / "opsd" / "http.sock"))
                client.sendall(bad)
                client.shutdown(socket.SHUT_WR)
                with suppress(ConnectionResetError):
                    while client.recv(65536):
                        pass
        for path in (
            "/api/v1/nothing",
            "/api/v1/containers/x",
            "/api/v1/containers/x/y",
            "/../../etc/passwd",
        ):
            assert alpha.ask(path)[0] == 404
        assert alpha.ask("/", "DELETE")[0] == 400
        assert alpha.up() == {"alpha"}
        log = (tmp_path / "alpha.log").read_text()
        assert "traceback" not in log
