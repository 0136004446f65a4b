"""The whole matrix of both state machines, and the clocks and codes of an end."""

import msgspec
import pytest

from common.errors import InvalidTransitionError
from common.events.schema import ContainerExited, ContainerOomKilled, ContainerStarted
from runtimed.machine import container, sandbox
from runtimed.record import ContainerRecord, ContainerState, SandboxRecord, SandboxState

C = ContainerState
S = SandboxState

CONTAINER_EVENTS: dict[str, container.ContainerEvent] = {
    "CreateDone": container.CreateDone(cause="t", at_ns=5, facts={"rootfs": "/r"}),
    "StartAsked": container.StartAsked(cause="t"),
    "StartAgainAsked": container.StartAgainAsked(cause="t"),
    "Started": container.Started(cause="t", pid=9, pid_started_ticks=1, at_ns=10, socket_path="/s"),
    "StartFailed": container.StartFailed(cause="t", message="no such file", at_ns=10),
    "NotStarted": container.NotStarted(cause="t"),
    "Exited": container.Exited(cause="t", exit_code=3, signal=0, oom_killed=False, at_ns=20),
    "Silent": container.Silent(cause="t"),
    "Paused": container.Paused(cause="t"),
    "Resumed": container.Resumed(cause="t"),
    "Lost": container.Lost(cause="t", at_ns=20),
    "RemoveAsked": container.RemoveAsked(cause="t"),
}
# state → event → next state; what is missing is refused
CONTAINER_TABLE = {
    C.CREATING: {"CreateDone": C.CREATED, "RemoveAsked": C.REMOVING},
    C.CREATED: {"StartAsked": C.STARTING, "RemoveAsked": C.REMOVING},
    C.STARTING: {
        "Started": C.RUNNING,
        "StartFailed": C.EXITED,
        "NotStarted": C.CREATED,
        "Exited": C.EXITED,
        "Silent": C.UNKNOWN,
        "Lost": C.EXITED,
        "RemoveAsked": C.STARTING,
    },
    C.RUNNING: {
        "Started": C.RUNNING,
        "Exited": C.EXITED,
        "Silent": C.UNKNOWN,
        "Lost": C.EXITED,
        "RemoveAsked": C.RUNNING,
        "Paused": C.PAUSED,
        "Resumed": C.RUNNING,
    },
    C.PAUSED: {
        "Started": C.PAUSED,
        "Exited": C.EXITED,
        "Silent": C.UNKNOWN,
        "Lost": C.EXITED,
        "RemoveAsked": C.PAUSED,
        "Paused": C.PAUSED,
        "Resumed": C.RUNNING,
    },
    C.EXITED: {
        "Started": C.EXITED,
        "StartFailed": C.EXITED,
        "Exited": C.EXITED,
        "Silent": C.EXITED,
        "Lost": C.EXITED,
        "RemoveAsked": C.REMOVING,
        "StartAgainAsked": C.STARTING,
    },
    C.REMOVING: {
        "Exited": C.REMOVING,
        "Silent": C.REMOVING,
        "Lost": C.REMOVING,
        "RemoveAsked": C.REMOVING,
    },
    C.UNKNOWN: {
        "Started": C.RUNNING,
        "NotStarted": C.CREATED,
        "Exited": C.EXITED,
        "Silent": C.UNKNOWN,
        "Lost": C.EXITED,
        "RemoveAsked": C.UNKNOWN,
    },
}
SANDBOX_EVENTS: dict[str, sandbox.SandboxEvent] = {
    "SetupDone": sandbox.SetupDone(
        cause="t", at_ns=5, boot_id="b", ips=["10.0.0.2"], cni_result=b"{}", namespaces={}, pause_pid=0
    ),
    "SetupFailed": sandbox.SetupFailed(cause="t", error="no"),
    "StopAsked": sandbox.StopAsked(cause="t"),
    "Broken": sandbox.Broken(cause="t", reason="reboot"),
    "RemoveAsked": sandbox.RemoveAsked(cause="t"),
}
SANDBOX_TABLE = {
    S.CREATING: {"SetupDone": S.READY, "SetupFailed": S.NOTREADY},
    S.READY: {"StopAsked": S.NOTREADY, "Broken": S.NOTREADY},
    S.NOTREADY: {"StopAsked": S.NOTREADY, "Broken": S.NOTREADY, "RemoveAsked": S.REMOVING},
    S.REMOVING: {"StopAsked": S.REMOVING, "Broken": S.REMOVING, "RemoveAsked": S.REMOVING},
}


def a_container(state: C) -> ContainerRecord:
    return ContainerRecord(id="c1", key="k", sandbox_id="s1", state=state)


@pytest.mark.parametrize("state", list(C))
@pytest.mark.parametrize("name", list(CONTAINER_EVENTS))
def test_container_takes_or_refuses_each_event_in_each_state(state: C, name: str) -> None:
    record = a_container(state)
    wanted = CONTAINER_TABLE[state].get(name)
    if wanted is None:
        with pytest.raises(InvalidTransitionError, match=f"{name} while {state}"):
            container.decide(record, CONTAINER_EVENTS[name])
    else:
        assert container.decide(record, CONTAINER_EVENTS[name])[0].state == wanted


@pytest.mark.parametrize("state", list(S))
@pytest.mark.parametrize("name", list(SANDBOX_EVENTS))
def test_sandbox_takes_or_refuses_each_event_in_each_state(state: S, name: str) -> None:
    record = SandboxRecord(id="s1", key="k", state=state)
    wanted = SANDBOX_TABLE[state].get(name)
    if wanted is None:
        with pytest.raises(InvalidTransitionError, match=f"{name} while {state}"):
            sandbox.decide(record, SANDBOX_EVENTS[name])
    else:
        assert sandbox.decide(record, SANDBOX_EVENTS[name])[0].state == wanted


def test_an_exit_of_which_no_start_was_told_tells_of_that_first() -> None:
    ended = container.Exited(
        cause="t", exit_code=3, signal=0, oom_killed=False, at_ns=20, pid=7, started_at_ns=10
    )
    _, told = container.decide(a_container(C.STARTING), ended)
    facts = [i.event for i in told if isinstance(i, container.Publish)]
    assert [type(fact) for fact in facts] == [ContainerStarted, ContainerExited]
    assert isinstance(facts[0], ContainerStarted)
    assert (facts[0].pid, facts[0].started_at_ns) == (7, 10)


def test_an_exit_is_published_once() -> None:
    first, told = container.decide(a_container(C.RUNNING), CONTAINER_EVENTS["Exited"])
    again, silence = container.decide(first, CONTAINER_EVENTS["Exited"])
    assert [type(i.event) for i in told if isinstance(i, container.Publish)] == [ContainerExited]
    assert again is first
    assert silence == ()


@pytest.mark.parametrize(
    ("code", "oom", "reason"), [(0, False, "Completed"), (1, False, "Error"), (137, True, "OOMKilled")]
)
def test_reasons_are_those_that_kubelets_know(code: int, oom: bool, reason: str) -> None:
    event = container.Exited(cause="t", exit_code=code, signal=0, oom_killed=oom, at_ns=20)
    ended, told = container.decide(a_container(C.RUNNING), event)
    assert (ended.exit_code, ended.reason) == (code, reason)
    killed = any(isinstance(getattr(i, "event", None), ContainerOomKilled) for i in told)
    assert killed is oom


def test_failed_start_is_exit_128_with_the_message() -> None:
    ended, _ = container.decide(a_container(C.STARTING), CONTAINER_EVENTS["StartFailed"])
    assert (ended.exit_code, ended.reason, ended.message) == (128, "StartError", "no such file")


def test_lost_container_is_255_unknown() -> None:
    ended, _ = container.decide(a_container(C.RUNNING), CONTAINER_EVENTS["Lost"])
    assert (ended.exit_code, ended.reason) == (255, "Unknown")


def test_times_never_run_backwards() -> None:
    record = msgspec.structs.replace(a_container(C.RUNNING), created_at_ns=100, started_at_ns=200)
    ended, _ = container.decide(record, CONTAINER_EVENTS["Exited"])
    assert ended.created_at_ns <= ended.started_at_ns <= ended.finished_at_ns


def test_nothing_is_made_before_its_time() -> None:
    making = msgspec.structs.replace(a_container(C.CREATING), created_at_ns=100)
    made, _ = container.decide(making, CONTAINER_EVENTS["CreateDone"])
    assert made.created_at_ns == 100
    ready, _ = sandbox.decide(
        SandboxRecord(id="s", key="k", created_at_ns=100),
        sandbox.SetupDone(
            cause="t", at_ns=5, boot_id="b", ips=[], cni_result=b"", namespaces={}, pause_pid=0
        ),
    )
    assert ready.ready_at_ns == 100


def test_records_survive_the_wire() -> None:
    record = msgspec.structs.replace(a_container(C.RUNNING), labels={"a": "b"}, config=b"\xff\x00")
    encoded = msgspec.msgpack.encode(record)
    assert msgspec.msgpack.decode(encoded, type=ContainerRecord) == record
