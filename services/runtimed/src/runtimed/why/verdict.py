"""The verdict: one word, one sentence, and what to do next."""

import signal as numbers
from collections.abc import Sequence
from dataclasses import dataclass, field

from runtimed import signals
from runtimed.evidence import Mark
from runtimed.record import ContainerRecord, ContainerState
from runtimed.why import starts
from runtimed.why.wording import ITSELF, NS_PER_S, UNLIMITED, exec_outcome, size, span

ALL_OF_IT = 0.98
"""Part of a memory limit that counts as all of it."""
LATE_NS = 10 * NS_PER_S
"""A signal explains an end that comes within this time."""
PROBE_NS = 120 * NS_PER_S
"""A failed command explains a stop that comes within this time."""
_CRASHES = {
    numbers.SIGSEGV: "it used memory that it does not have",
    numbers.SIGABRT: "it gave up by itself, as a failed assertion does",
    numbers.SIGBUS: "it used memory that is not there, as of a file that was cut",
    numbers.SIGILL: "it ran an instruction that this processor does not have",
    numbers.SIGFPE: "it calculated what cannot be, as a division by zero",
    numbers.SIGSYS: "it made a system call that its seccomp profile forbids",
    numbers.SIGTRAP: "it hit a breakpoint or failed a check of its own",
}
_CODES = {
    126: "what it was to run could not be executed, as shells say",
    127: "a command was not found, as shells say",
}


@dataclass(frozen=True)
class Verdict:
    """`cause` is for programs, the sentence for people."""

    cause: str
    sentence: str
    next_steps: list[str] = field(default_factory=list)


def of_container(record: ContainerRecord, marks: Sequence[Mark], now_ns: int, *, rebooted: bool) -> Verdict:
    """Why a container is as it is.

    Args:
        record: its record.
        marks: what happened to it, oldest first.
        now_ns: the time.
        rebooted: its pod was ready in an earlier boot of the machine.
    """
    match record.state:
        case ContainerState.EXITED | ContainerState.REMOVING:
            return _ended(record, marks, rebooted=rebooted)
        case ContainerState.RUNNING:
            return Verdict("running", f"It has been running for {span(now_ns - record.started_at_ns)}.")
        case ContainerState.PAUSED:
            step = ["`slipway unpause` lets it run on."]
            return Verdict("paused", "It is paused: its processes stand still.", step)
        case ContainerState.UNKNOWN:
            step = ["A stop ends it with its shim: `slipway stop`."]
            return Verdict("unknown", "Its shim lives and does not say whether it runs.", step)
        case ContainerState.STARTING | ContainerState.CREATING:
            since = span(now_ns - record.created_at_ns)
            return Verdict(str(record.state), f"It is {record.state}, made {since} ago.")
        case ContainerState.CREATED:
            since = span(now_ns - record.created_at_ns)
            return Verdict("created", f"It was made {since} ago, and nobody has started it.")


def _ended(record: ContainerRecord, marks: Sequence[Mark], *, rebooted: bool) -> Verdict:
    match record.reason:
        case "StartError":
            text = f"It could not be started: {record.message}"
            return Verdict("start-failed", text, starts.steps(record.message))
        case "Unknown":
            return _unseen(rebooted=rebooted)
        case "OOMKilled":
            return _out_of_memory(record)
        case _:
            return _of_end(record, marks)


def _of_end(record: ContainerRecord, marks: Sequence[Mark]) -> Verdict:
    asked = next((m for m in reversed(marks) if m.what in ("stop", "signal")), None)
    if asked is not None and (asked.what == "stop" or record.finished_at_ns - asked.at_ns < LATE_NS):
        return _asked(record, asked, marks)
    return _signalled(record, marks) if record.signal else _by_itself(record)


def _by_itself(record: ContainerRecord) -> Verdict:
    if record.exit_code == 0:
        return Verdict("completed", f"It ended by itself, well, after {_life(record)}.")
    hint = _CODES.get(record.exit_code, _of_child(record.exit_code))
    text = f"It ended by itself with code {record.exit_code} after {_life(record)}"
    return Verdict("exited", f"{text}: {hint}." if hint else f"{text}.", ["Its last lines may say why."])


def _life(record: ContainerRecord) -> str:
    return span(record.finished_at_ns - record.started_at_ns)


def _unseen(*, rebooted: bool) -> Verdict:
    if rebooted:
        return Verdict("rebooted", "The node was rebooted while it ran.")
    text = "Nobody saw how it ended: its shim was gone, too."
    return Verdict("lost", text, ["Look for what kills processes on this node: `dmesg`, `journalctl`."])


def _out_of_memory(record: ContainerRecord) -> Verdict:
    limit, peak = record.memory.get("limit_bytes", 0), record.memory.get("peak_bytes", 0)
    if 0 < limit < UNLIMITED and peak >= limit * ALL_OF_IT:
        text = f"The kernel killed it for want of memory: it used all of its limit of {size(limit)}."
        return Verdict("oom-killed", text, ["Raise its memory limit, or find what it needs the memory for."])
    used = f" while it used {size(peak)}, less than its own limit" if peak else ""
    text = f"The kernel killed it for want of memory of its pod or of the node{used}."
    return Verdict(
        "oom-killed", text, ["Look at what else runs in the pod and on the node: `slipway stats`."]
    )


def _asked(record: ContainerRecord, asked: Mark, marks: Sequence[Mark]) -> Verdict:
    actor = asked.actor or ITSELF
    if asked.what == "signal":
        text = (
            f"{asked.facts['signal']} was sent to it by {actor}, and it ended with code {record.exit_code}."
        )
        return Verdict("killed", text)
    failed = _failed_before(asked, marks)
    after = ""
    if failed:
        facts = failed[-1].facts
        times = f", {len(failed)} times in a row" if len(failed) > 1 else ""
        after = f", after the command `{facts['command']}` in it {exec_outcome(facts)}{times}"
    cause = "probe-failed" if failed else "stopped"
    if not asked.facts["timeout_s"]:
        return Verdict(cause, f"It was killed without grace by {actor}{after}.")
    if any(m.what == "kill" and m.at_ns >= asked.at_ns for m in marks):
        grace = asked.facts["timeout_s"]
        text = f"It was stopped by {actor}{after}; it ignored {asked.facts['signal']} for {grace} s, and was killed."
        return Verdict(cause, text, [f"Have it end on {asked.facts['signal']}, or give it more time."])
    took = span(record.finished_at_ns - asked.at_ns)
    text = f"It was stopped by {actor}{after}; it ended on {asked.facts['signal']} after {took}, with code {record.exit_code}."
    return Verdict(cause, text)


def _failed_before(stop: Mark, marks: Sequence[Mark]) -> list[Mark]:
    """The commands that failed in a row until shortly before a stop, as those of a liveness probe do."""
    execs = [m for m in marks if m.what == "exec" and stop.at_ns - PROBE_NS < m.at_ns <= stop.at_ns]
    found: list[Mark] = []
    for mark in reversed(execs):
        if not mark.facts["timed_out"] and mark.facts["exit_code"] == 0:
            break
        found.insert(0, mark)
    return found


def _signalled(record: ContainerRecord, marks: Sequence[Mark]) -> Verdict:
    name = _name(record.signal)
    if record.signal in _CRASHES:
        text = f"It crashed with {name} after {_life(record)}: {_CRASHES[numbers.Signals(record.signal)]}."
        return Verdict("crashed", text, ["A core dump goes where /proc/sys/kernel/core_pattern says."])
    text = f"It was ended by {name} after {_life(record)}, which nobody asked Slipway for"
    if record.signal == numbers.SIGKILL and any(_short_of_memory(m) for m in marks):
        return Verdict(
            "killed", f"{text}; the node was short of memory.", ["Look at `dmesg` for the kernel's choice."]
        )
    steps = [
        "Another program on the node, or a process in its pod, has sent it: `dmesg` and audit logs may name it."
    ]
    return Verdict("killed", f"{text}.", steps)


def _short_of_memory(mark: Mark) -> bool:
    return mark.what == "node-pressure" and mark.facts["resource"] == "memory" and bool(mark.facts["raised"])


def _of_child(code: int) -> str:
    """What a shell's code above 128 says of the command that it ran."""
    name = _name(code - 128) if 128 < code < 128 + 65 else ""
    return f"what it ran was ended by {name}" if name else ""


def _name(number: int) -> str:
    try:
        return signals.name(number)
    except ValueError:
        return f"signal {number}"
