"""The parts of opsd by themselves: spans, logs, secrets, lists merged with events, seals, the guard."""

import json
import os
import socket
import time
from collections.abc import AsyncGenerator
from functools import partial
from pathlib import Path
from typing import Any, Self

import anyio
import msgspec
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2

from common.clock import now_ns
from common.errors import NotFoundError, PermissionDeniedError
from common.events import schema
from opsd import history, redact
from opsd.agent import logs
from opsd.agent.seal import FRESH_NS, Seals, sealed
from opsd.eventrow import event_row
from opsd.fleet import Fleet
from opsd.news import Container, Lists, Pod, Question, Vitals, pack, unpack
from opsd.servicer import MAX_READ, MAX_TEXT, TraceServicer
from opsd.spans import MAX_READS, Span, SpanStore
from opsd.web import live
from opsd.web.assets import Assets
from opsd.web.guard import Guard, token_of
from opsd.web.server import Reply, Request, Server
from tests.support.descriptors import none_left
from tests.support.eventually import until
from tests.support.pace import patience

pytestmark = pytest.mark.anyio
NOW_NS = 1_700_000_000_000_000_000
DAY_NS = 24 * 3600 * 1_000_000_000


def span(trace: str, number: int, name: str = "runtimed.container.start", **attributes: str) -> Span:
    return Span(
        trace=trace,
        id=f"{trace}-{number}",
        parent="",
        name=name,
        service="runtimed",
        node="n",
        start_ns=NOW_NS + number,
        end_ns=NOW_NS + number + 10,
        attributes=attributes,
    )


def envelope(event: schema.Event, at_ns: int = NOW_NS, node: str = "n") -> schema.Envelope:
    return schema.Envelope(
        id="x",
        at_ns=at_ns,
        node=node,
        source="runtimed",
        revision=1,
        event=msgspec.Raw(schema.encoder.encode(event)),
    )


def request(
    headers: dict[str, str] | None = None, *, method: str = "GET", path: str = "/", local: bool = False
) -> Request:
    return Request(method=method, path=path, query={}, headers=headers or {}, body=b"", local=local)


def lists(at_ns: int, *containers: str, state: str = "running") -> Lists:
    return Lists(
        node="n",
        at_ns=at_ns,
        pods=[Pod(id="p1", name="pod", state="ready")],
        containers=[Container(id=each, pod="p1", name=each, state=state) for each in containers],
    )


def test_spans_are_bounded_and_the_oldest_trace_goes_first() -> None:
    store = SpanStore(10, 1 << 30)
    for number in range(4):
        for each in range(3):
            store.add(span(f"t{number}", each, **{"slipway.object.id": f"c{number}"}))
    assert store.count == 9
    assert store.trace("t0") == []
    assert store.of_object("c0") == []
    assert [s.id for s in store.trace("t3")] == ["t3-0", "t3-1", "t3-2"]
    assert store.of_object("c3") == ["t3"]


def test_one_trace_larger_than_the_bound_keeps_its_newest_spans() -> None:
    store = SpanStore(5, 1 << 30)
    for number in range(20):
        store.add(span("t", number))
    assert [s.id for s in store.trace("t")] == [f"t-{n}" for n in range(15, 20)]


def test_reads_never_push_a_life_out() -> None:
    store = SpanStore(1000, 1 << 30)
    store.add(span("life", 0))
    for number in range(2000):
        store.add(span(f"r{number}", 0, "runtime.v1.RuntimeService/ListContainers"))
    assert len(store.trace("life")) == 1
    assert store.count == 1 + MAX_READS


def test_a_span_that_is_told_twice_is_kept_once() -> None:
    store = SpanStore(10, 1 << 30)
    store.add(span("t", 0))
    store.add(span("t", 0))
    assert store.count == len(store.trace("t")) == 1


@pytest.mark.parametrize(
    ("found", "shown"),
    [
        ("redis://user:hunter2@host/0", "redis://***@host/0"),
        ("--password=hunter2 --port=80", "--password=••• --port=80"),
        ("DB_PASSWORD='hunter2 x' run", "DB_PASSWORD=••• run"),
        ("Authorization: Bearer abcdefgh.ijkl", "Authorization: ••• •••"),
        ("-----BEGIN RSA PRIVATE KEY-----\nhunter2\n-----END RSA PRIVATE KEY-----", "•••"),
        ('{"password": "hunter2 x", "user": "me"}', '{"password": •••, "user": "me"}'),
        ("MYSQL_PWD=hunter2 db_pass=hunter2", "MYSQL_PWD=••• db_pass=•••"),
        ("the author=me of key events passes=3", "the author=me of key events passes=3"),
    ],
)
def test_secrets_are_hidden(found: str, shown: str) -> None:
    assert redact.text(found) == shown


@pytest.mark.parametrize(
    "piece", ["a", "token", "token ", 'token="', "token='\"", "://@", "bearer ", "passw  "]
)
def test_hiding_secrets_takes_no_longer_than_reading_the_text(piece: str) -> None:
    hostile = (piece * 20_000)[:40_000]
    start = time.process_time()
    redact.words([hostile, f"--{hostile}!", "x"])
    redact.value(hostile, hostile)
    assert time.process_time() - start < patience(2)


async def test_what_is_too_long_to_look_at_shows_no_part_of_a_secret() -> None:
    request = trace_service_pb2.ExportTraceServiceRequest()
    span = request.resource_spans.add().scope_spans.add().spans.add(trace_id=b"t", span_id=b"s")
    long = f"password={'x' * (MAX_READ - 40)} redis://user:hunter2"
    texts = (f"{long}{'2' * 100}@host", " " * 2 * MAX_READ, "v" * 2 * MAX_READ)
    for number, text in enumerate(texts):
        span.attributes.add(key=str(number)).value.string_value = text
    span.attributes.add(key="3").value.array_value.values.add().string_value = texts[0]
    store = SpanStore(10, 1 << 20)
    await TraceServicer(store, None).Export(request, None)
    shown = store.trace(b"t".hex())[0].attributes
    assert shown == {
        "0": "password=•••",
        "1": "",
        "2": "v" * MAX_TEXT,
        "3": f"array_value of {span.attributes[3].value.ByteSize()} bytes",
    }


def test_secrets_are_hidden_in_tables_and_commands() -> None:
    assert redact.table({"vault/db-token": "hunter2", "app": "web"}) == {
        "vault/db-token": "•••",
        "app": "web",
    }
    assert redact.words(["app", "--api-key", "hunter2", "--port", "80"]) == [
        "app",
        "--api-key",
        "•••",
        "--port",
        "80",
    ]


def write_log(path: Path, first: int, count: int) -> None:
    with path.open("a") as file:
        for number in range(first, first + count):
            file.write(f"2026-01-01T00:00:00.{number:09}Z stdout F line {number}\n")


def test_a_log_is_read_from_its_end_and_then_on(tmp_path: Path) -> None:
    path = tmp_path / "0.log"
    write_log(path, 0, 10)
    first = logs.read(str(path), "", 3)
    assert [line[2] for line in first["lines"]] == ["line 7", "line 8", "line 9"]
    assert first["skipped"]
    write_log(path, 10, 2)
    with path.open("a") as file:
        file.write("2026-01-01T00:00:00Z stderr F torn")
    second = logs.read(str(path), first["cursor"], 500)
    assert [line[2] for line in second["lines"]] == ["line 10", "line 11"]
    assert not second["skipped"]
    with path.open("a") as file:
        file.write(" no more\n")
    third = logs.read(str(path), second["cursor"], 500)
    assert third["lines"] == [("2026-01-01T00:00:00Z", "stderr", "torn no more", True)]
    assert logs.read(str(path), third["cursor"], 500)["lines"] == []


def test_a_log_that_was_rotated_is_read_from_the_new_files_begin(tmp_path: Path) -> None:
    path = tmp_path / "0.log"
    write_log(path, 0, 5)
    cursor = logs.read(str(path), "", 500)["cursor"]
    path.rename(tmp_path / "0.log.1")
    write_log(path, 5, 1)
    assert [line[2] for line in logs.read(str(path), cursor, 500)["lines"]] == ["line 5"]


def test_what_is_no_log_is_not_shown(tmp_path: Path) -> None:
    """A pod may be able to write where its log is."""
    secret = tmp_path / "shadow"
    secret.write_text("root:hash:1\n2026-01-01T00:00:00Z stdout F shown\n")
    log = tmp_path / "0.log"
    for place in (partial(log.symlink_to, secret), partial(os.mkfifo, log), partial(log.mkdir)):
        place()
        assert logs.read(str(log), "", 500)["missing"]
        log.rmdir() if log.is_dir() and not log.is_symlink() else log.unlink()
    log.hardlink_to(secret)
    assert [line[2] for line in logs.read(str(log), "", 500)["lines"]] == ["shown"]
    assert logs.read(str(log), f"{log.stat().st_ino}:{'9' * 5000}", 500)["lines"]


def test_a_log_of_gigabytes_costs_a_bounded_read(tmp_path: Path) -> None:
    path = tmp_path / "0.log"
    with path.open("wb") as file:
        file.truncate(1 << 30)
    write_log(path, 0, 100)
    start = time.monotonic()
    found = logs.read(str(path), "", 50)
    assert time.monotonic() - start < 1
    assert [line[2] for line in found["lines"]] == [f"line {n}" for n in range(50, 100)]


def test_a_log_that_is_not_there_is_said(tmp_path: Path) -> None:
    assert logs.read(str(tmp_path / "none"), "", 5)["missing"]


async def test_events_change_what_the_lists_told() -> None:
    fleet = Fleet(100)
    fleet.take_lists(lists(NOW_NS, "c1", "c2"))
    later = NOW_NS + 10_000_000_000
    exited = schema.ContainerExited(id="c1", sandbox_id="p1", exit_code=3, reason="Error")
    fleet.take_event(1, envelope(exited, later))
    fleet.take_event(2, envelope(schema.ContainerRemoved(id="c2", sandbox_id="p1"), later))
    view = fleet.node("n")
    assert (view.containers["c1"].state, view.containers["c1"].code) == ("exited", 3)
    assert set(view.containers) == {"c1"}
    assert [json.loads(bytes(told)).get("name") for _, told in fleet.events] == ["c1", "c2"]
    assert fleet.named("c1") == [("n", "c1")]
    assert fleet.named("c") == [("n", "c1")]


async def test_nodes_that_somebody_makes_up_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("opsd.fleet.MAX_NODES", 3)
    fleet = Fleet(100)
    for number in range(9):
        fleet.take_vitals(Vitals(node=f"n{number}", at_ns=NOW_NS, interval_s=1))
    removed = schema.ContainerRemoved(id="c1", sandbox_id="p1")
    fleet.take_event(1, envelope(removed, NOW_NS))
    assert (sorted(fleet.nodes), list(fleet.events)) == (["n0", "n1", "n2"], [])
    fleet.take_vitals(Vitals(node="n1", at_ns=NOW_NS + 5, interval_s=1))
    vitals = fleet.nodes["n1"].vitals
    assert vitals
    assert vitals.at_ns == NOW_NS + 5


async def test_lists_older_than_an_event_do_not_undo_it() -> None:
    fleet = Fleet(100)
    fleet.take_lists(lists(NOW_NS, "c1", "c2"))
    fleet.take_event(1, envelope(schema.ContainerRemoved(id="c1", sandbox_id="p1"), NOW_NS + 20_000_000_000))
    created = schema.ContainerCreated(id="c3", sandbox_id="p1", name="new", image="i")
    fleet.take_event(2, envelope(created, NOW_NS + 20_000_000_000))
    fleet.take_lists(lists(NOW_NS + 10_000_000_000, "c1", "c2"))
    assert set(fleet.node("n").containers) == {"c2", "c3"}
    fleet.take_lists(lists(NOW_NS + 30_000_000_000, "c2"))
    assert set(fleet.node("n").containers) == {"c2"}


async def test_a_clock_that_was_set_back_holds_no_list_up() -> None:
    fleet = Fleet(100)
    fleet.take_lists(lists(NOW_NS, "c1", "c2"))
    fleet.take_event(1, envelope(schema.ContainerPaused(id="c1", sandbox_id="p1"), NOW_NS + 1))
    fleet.take_lists(lists(NOW_NS - DAY_NS, "c2"))
    assert set(fleet.node("n").containers) == {"c2"}


async def test_an_event_of_an_unknown_container_asks_for_lists() -> None:
    fleet = Fleet(100)
    fleet.take_lists(lists(NOW_NS, "c1"))
    assert not fleet.node("n").stale
    started = schema.ContainerStarted(id="c9", sandbox_id="p1", pid=1)
    fleet.take_event(1, envelope(started, NOW_NS + 10_000_000_000))
    assert fleet.node("n").stale


async def test_a_page_that_sleeps_costs_a_bounded_queue_and_hears_how_much_it_missed() -> None:
    fleet = Fleet(100)
    page = fleet.open(50)
    for number in range(120):
        created = schema.ContainerCreated(id=f"c{number % 7}", sandbox_id="p1", name="x", image="i")
        fleet.take_event(number, envelope(created, NOW_NS + number))
    found = live.take(fleet, page)
    assert len(found["events"]) == 50
    assert found["missed"] == 70
    assert {c.id for c in found["containers"]} == {f"c{n}" for n in range(7)}
    assert live.take(fleet, page).keys() <= {"now", "use"}
    fleet.close(page)
    assert fleet.pages == 0


async def test_a_node_that_is_not_heard_is_not_up() -> None:
    fleet = Fleet(10)
    fleet.take_vitals(Vitals(node="n", at_ns=NOW_NS, interval_s=0.001))
    assert fleet.node("n").up
    page = fleet.open(10)
    while fleet.node("n").up:
        fleet.look_for_silence()
    assert [node["name"] for node in live.take(fleet, page)["nodes"]] == ["n"]


def test_what_is_packed_is_unpacked_and_rubbish_is_refused() -> None:
    question = Question(what="logs", id="c", options={"lines": "3"})
    assert unpack(pack(question), Question) == question
    for data in (b"", b"rubbish", pack(["no question"])):
        with pytest.raises(Exception, match="cannot be read"):
            unpack(data, Question)


def test_an_action_passes_once_and_only_with_the_token() -> None:
    seals = Seals("n", "secret")
    question = sealed(Question(what="stop", id="c1"), "n", "secret")
    seals.check(question)
    for bad in (
        question,
        sealed(Question(what="stop", id="c1"), "n", "other"),
        sealed(Question(what="stop", id="c1"), "m", "secret"),
        Question(what="stop", id="c1"),
        msgspec.structs.replace(sealed(Question(what="stop", id="c1"), "n", "secret"), id="c2"),
    ):
        with pytest.raises(PermissionDeniedError):
            seals.check(bad)
    old = sealed(Question(what="stop", id="c1"), "n", "secret")
    old.at_ns -= 2 * FRESH_NS
    with pytest.raises(PermissionDeniedError):
        seals.check(old)
    strange = sealed(Question(what="stop", id="c1"), "n", "secret")
    strange.seal = "\u00e9"
    with pytest.raises(PermissionDeniedError):
        seals.check(strange)


@pytest.mark.parametrize("step_ns", [DAY_NS, -DAY_NS])
def test_a_step_of_the_clock_refuses_no_action(monkeypatch: pytest.MonkeyPatch, step_ns: int) -> None:
    seals = Seals("n", "secret")
    monkeypatch.setattr("opsd.agent.seal.now_ns", lambda: now_ns() + step_ns)
    question = sealed(Question(what="stop", id="c1"), "n", "secret")
    seals.check(question)
    with pytest.raises(PermissionDeniedError, match="before"):
        seals.check(question)


def test_a_seal_is_of_one_node_and_one_boot() -> None:
    """A node may be called anything on NATS: its name must not run over into what is asked."""
    one = sealed(Question(what="stop", id="mine"), "n\0stop\0yours", "secret")
    forged = msgspec.structs.replace(one, id=f"yours\0{one.what}\0{one.id}")
    seals = Seals("n", "secret")
    with pytest.raises(PermissionDeniedError):
        seals.check(forged)
    seen = sealed(Question(what="stop", id="c1"), "n", "secret")
    with pytest.raises(PermissionDeniedError, match="before"):
        Seals("n", "secret").check(seen)


@pytest.mark.parametrize(
    ("host", "passes"),
    [
        ("127.0.0.1:9440", True),
        ("localhost:9440", True),
        ("[::1]:9440", True),
        ("ops.example:9440", True),
        ("evil.example:9440", False),
        ("localhost.evil.example", False),
        ("", False),
    ],
)
def test_a_name_that_is_not_ours_is_refused(host: str, passes: bool) -> None:
    guard = Guard(["ops.example"], "t", anonymous=True)
    if passes:
        guard.check_host(request({"host": host}))
    else:
        with pytest.raises(PermissionDeniedError):
            guard.check_host(request({"host": host}))
        guard.check_host(request({"host": host}, local=True))


def test_the_token_is_wanted_for_actions_and_for_reading_when_so_set() -> None:
    guard = Guard([], "t0ken", anonymous=True)
    guard.check_reading(request())
    for headers in (
        {},
        {"authorization": "Bearer t0ke"},
        {"authorization": "t0ken"},
        {"cookie": "token=t0ken"},
    ):
        with pytest.raises(PermissionDeniedError):
            guard.check_acting(request(headers))
        with pytest.raises(PermissionDeniedError):
            guard.check_private(request(headers))
    guard.check_acting(request({"authorization": "Bearer t0ken"}))
    guard.check_private(request({"authorization": "Bearer t0ken"}))
    guard.check_private(request(local=True))
    closed = Guard([], "t0ken", anonymous=False)
    with pytest.raises(PermissionDeniedError):
        closed.check_reading(request())
    closed.check_reading(request({"authorization": "Bearer t0ken"}))


@pytest.mark.parametrize("content", ["", "\n"])
def test_a_token_that_was_emptied_is_made_anew(tmp_path: Path, content: str) -> None:
    (tmp_path / "token").write_text(content)
    token = token_of("", tmp_path / "token")
    assert (len(token), token_of("", tmp_path / "token")) == (48, token)
    assert not Guard([], token, anonymous=True).may_act(request({"authorization": "Bearer "}))


def test_only_files_of_the_page_are_given(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("<p>hello")
    (tmp_path / "secret.pem").write_text("no")
    assets = Assets(tmp_path)
    page = assets.reply(request())
    assert (page.status, page.body) == (200, b"<p>hello")
    again = assets.reply(request({"if-none-match": page.headers["ETag"]}))
    assert (again.status, again.body) == (304, b"")
    for path in ("/secret.pem", "/../settings.py", "/etc/passwd"):
        with pytest.raises(NotFoundError):
            assets.reply(request(path=path))


def row(**facts: Any) -> dict[str, Any]:
    exited = schema.ContainerExited(id="abc1", sandbox_id="fff2", exit_code=1, reason="OOMKilled")
    return event_row(7, envelope(exited)) | facts


@pytest.mark.parametrize(
    ("wanted", "fits"),
    [
        (history.Wanted(), True),
        (history.Wanted(node="n", kind="container", verb="exited"), True),
        (history.Wanted(node="m"), False),
        (history.Wanted(verb="started"), False),
        (history.Wanted(id="abc"), True),
        (history.Wanted(id="fff"), True),
        (history.Wanted(id="bc1"), False),
        (history.Wanted(text="oomk"), True),
        (history.Wanted(text="nothing"), False),
    ],
)
def test_filters_of_the_log(wanted: history.Wanted, fits: bool) -> None:
    assert wanted.fits(row()) is fits


def test_an_event_row_tells_no_secret() -> None:
    started = schema.ExecStarted(id="e", container_id="c", command=["mysql", "--password", "hunter2"])
    assert "hunter2" not in str(event_row(1, envelope(started)))


def test_the_trace_of_a_checkpoint_outlives_those_that_only_read() -> None:
    spans = SpanStore(10_000, 1 << 30)
    spans.add(span("kept", 0, name="runtime.v1.RuntimeService/CheckpointContainer"))
    for number in range(MAX_READS + 1):
        spans.add(span(f"read{number}", 1, name="runtime.v1.RuntimeService/ListContainers"))
    assert (len(spans.trace("read0")), len(spans.trace("kept"))) == (0, 1)


async def test_a_page_that_goes_while_it_is_told_is_no_bug(caplog: pytest.LogCaptureFixture) -> None:
    class Gone:
        """A client's connection that breaks at the second piece."""

        def __init__(self) -> None:
            self.asked, self.pieces = False, 0

        async def __aenter__(self) -> Self:
            return self

        async def __aexit__(self, *_: object) -> None: ...

        async def receive(self, _count: int) -> bytes:
            if self.asked:
                await anyio.sleep_forever()
            self.asked = True
            return b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"

        async def send(self, _data: bytes) -> None:
            self.pieces += 1
            if self.pieces == 2:
                raise anyio.BrokenResourceError

    async def pieces() -> AsyncGenerator[bytes, None]:
        while True:
            yield b"x"

    async def answer(_request: Request) -> Reply:
        return Reply(kind="text/event-stream", stream=pieces())

    gone: Any = Gone()
    await Server(answer, {})._client(gone, local=True)
    assert gone.pieces == 2
    assert "http.bug" not in caplog.text


async def test_without_descriptors_who_is_served_stays_served(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, question = tmp_path / "http.sock", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"

    async def answer(_request: Request) -> Reply:
        return Reply(body=b"served")

    async def ask(client: socket.socket) -> None:
        client.send(question)
        await anyio.wait_readable(client)
        assert b"served" in client.recv(1000)

    listener = await anyio.create_unix_listener(path)
    with anyio.fail_after(patience(10)):
        async with anyio.create_task_group() as group:
            group.start_soon(partial(Server(answer, {}).serve, listener, local=True))
            with socket.socket(socket.AF_UNIX) as early, socket.socket(socket.AF_UNIX) as late:
                early.connect(str(path))
                await ask(early)
                with none_left():
                    late.connect(str(path))
                    await until(lambda: "accept.failed" in caplog.text, "the lack to be told")
                    await ask(early)
                await ask(late)
            group.cancel_scope.cancel()
