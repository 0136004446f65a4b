"""Why a container has ended: a rule for each cause, and the first one that finds something is right."""

import signal as numbers
from collections.abc import Callable, Sequence

from runtimed import signals
from runtimed.evidence import Mark
from runtimed.why import errors
from runtimed.why.finding import End, Finding, Trouble
from runtimed.why.wording import ITSELF, NS_PER_S, UNLIMITED, exec_outcome, size, span

Rule = Callable[[End], Finding | None]
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


def of_end(end: End) -> Finding:
    """Why it has ended."""
    return next(finding for rule in RULES if (finding := rule(end)))


def _start_failed(end: End) -> Finding | None:
    if end.record.reason != "StartError" and not end.trouble:
        return None
    trouble = end.trouble or Trouble(text=end.record.message)
    found = errors.of_error(trouble, "start-failed")
    return Finding(found.cause, f"It could not be started: {found.words}", found.next_steps)


def _rebooted(end: End) -> Finding | None:
    if end.record.reason != "Unknown" or not end.rebooted:
        return None
    return Finding("rebooted", "The node was rebooted while it ran.")


def _shim_gone(end: End) -> Finding | None:
    if end.record.reason != "Unknown":
        return None
    text = "Its shim died, so that nobody saw how it ended."
    return Finding("no-shim", text, ["Look for what kills processes on this node: `dmesg`, `journalctl`."])


def _out_of_memory(end: End) -> Finding | None:
    record = end.record
    if record.reason != "OOMKilled" or not record.signal:
        return None
    if _at_limit(end):
        limit = size(record.memory["limit_bytes"])
        text = f"The kernel killed it for want of memory: it used all of its limit of {limit}."
        return Finding("oom-killed", text, ["Raise its memory limit, or find what it needs the memory for."])
    peak = record.memory.get("peak_bytes", 0)
    used = f" while it used {size(peak)}, less than its own limit" if peak else ""
    text = f"The kernel killed it for want of memory of its pod or of the node{used}."
    return Finding(
        "oom-killed", text, ["Look at what else runs in the pod and on the node: `slipway stats`."]
    )


def _child_out_of_memory(end: End) -> Finding | None:
    record = end.record
    kills = record.memory.get("oom_kill", 0)
    if not kills or not record.exit_code or _asked_for(end):
        return None
    what = "a process" if kills == 1 else f"{kills} processes"
    limit = f", at its limit of {size(record.memory['limit_bytes'])}" if _at_limit(end) else ""
    text = (
        f"The kernel killed {what} that it had started for want of memory{limit}; "
        f"its first process was spared, and ended with code {record.exit_code}."
    )
    steps = [
        "Raise its memory limit, or start less in it at once.",
        "Its last lines may say what was killed.",
    ]
    return Finding("oom-child", text, steps)


def _shutdown(end: End) -> Finding | None:
    if not any(mark.what == "shutdown" for mark in end.marks) or not _by_signal(end):
        return None
    return Finding(
        "node-shutdown",
        f"The node was shut down: it ended on {signals.name(_by_signal(end))} after {_life(end)}.",
    )


def _probe_failed(end: End) -> Finding | None:
    stop = _asked_for(end)
    if stop is None or stop.what != "stop" or not (failed := _failed_before(stop, end.marks)):
        return None
    facts = failed[-1].facts
    outcomes = [exec_outcome(mark.facts) for mark in failed]
    if len(set(outcomes)) == 1:
        told = outcomes[0] + (f", {len(failed)} times in a row" if len(failed) > 1 else "")
    else:
        told = f"failed {len(failed)} times in a row: it " + ", then ".join(outcomes)
    after = f", after the command `{facts['command']}` in it {told}"
    steps = [f"Run it by hand, as `slipway exec NAME {facts['command']}`, and look at the probe's timeout."]
    return Finding("probe-failed", _stop_told(end, stop, after), steps)


def _stopped(end: End) -> Finding | None:
    stop = _asked_for(end)
    if stop is None or stop.what != "stop":
        return None
    steps = []
    if stop.facts["timeout_s"] and _was_killed(end, stop):
        steps = [f"Have it end on {stop.facts['signal']}, or give it more time."]
    return Finding("stopped", _stop_told(end, stop, ""), steps)


def _signalled(end: End) -> Finding | None:
    sent = _asked_for(end)
    if sent is None:
        return None
    by = sent.actor or ITSELF
    return Finding(
        "killed",
        f"{sent.facts['signal']} was sent to it by {by}, and it ended with code {end.record.exit_code}.",
    )


def _out_of_processes(end: End) -> Finding | None:
    hits, limit = end.record.pids.get("hits", 0), end.record.pids.get("limit", 0)
    if not hits or not end.record.exit_code:
        return None
    times = "once" if hits == 1 else f"{hits} times"
    which = f"its limit of {limit}" if limit else "a limit of its pod or of the node"
    text = f"It was refused a new process or thread {times}, by {which}, and ended with code {end.record.exit_code}."
    steps = [
        "Raise `--pids-limit` (a kubelet's podPidsLimit), or find what leaves processes behind: `slipway top`."
    ]
    return Finding("pids-limit", text, steps)


def _crashed(end: End) -> Finding | None:
    number = end.record.signal
    if number not in _CRASHES:
        return None
    text = f"It crashed with {signals.name(number)} after {_life(end)}: {_CRASHES[numbers.Signals(number)]}."
    return Finding("crashed", text, ["A core dump goes where /proc/sys/kernel/core_pattern says."])


def _killed_from_outside(end: End) -> Finding | None:
    number = end.record.signal
    if not number:
        return None
    text = f"It was ended by {signals.name(number)} after {_life(end)}, which nobody asked Slipway for: the sender is not known"
    if number == numbers.SIGKILL and _short_of_memory(end):
        steps = ["Look at `dmesg` for the kernel's choice."]
        return Finding("killed", f"{text}; the node was short of memory.", steps)
    steps = [
        "Another program on the node, or a process in its pod, has sent it: `dmesg` and audit logs may name it."
    ]
    return Finding("killed", f"{text}.", steps)


def _completed(end: End) -> Finding | None:
    if end.record.exit_code:
        return None
    return Finding("completed", f"It ended by itself, well, after {_life(end)}.")


def _exited(end: End) -> Finding | None:
    code = end.record.exit_code
    child = f"what it ran was ended by {signals.name(code - 128)}" if 128 < code < 128 + 65 else ""
    hint = _CODES.get(code, child)
    text = f"It ended by itself with code {code} after {_life(end)}"
    return Finding("exited", f"{text}: {hint}." if hint else f"{text}.", ["Its last lines may say why."])


RULES: tuple[Rule, ...] = (
    _start_failed,
    _rebooted,
    _shim_gone,
    _out_of_memory,
    _child_out_of_memory,
    _shutdown,
    _probe_failed,
    _stopped,
    _signalled,
    _out_of_processes,
    _crashed,
    _killed_from_outside,
    _completed,
    _exited,
)
"""The last one always finds something."""


def _life(end: End) -> str:
    return span(end.record.finished_at_ns - end.record.started_at_ns)


def _at_limit(end: End) -> bool:
    limit, peak = end.record.memory.get("limit_bytes", 0), end.record.memory.get("peak_bytes", 0)
    return 0 < limit < UNLIMITED and peak >= limit * ALL_OF_IT


def _by_signal(end: End) -> int:
    """The signal that ended it, also when it took it for a reason to exit as shells do; 0 for none."""
    code = end.record.exit_code
    return end.record.signal or (code - 128 if 128 < code < 128 + 65 else 0)


def _asked_for(end: End) -> Mark | None:
    """The stop or the signal that somebody asked for, and that it ended on."""
    asked = next((mark for mark in reversed(end.marks) if mark.what in ("stop", "signal")), None)
    if asked is None or (asked.what == "signal" and end.record.finished_at_ns - asked.at_ns >= LATE_NS):
        return None
    return asked


def _was_killed(end: End, stop: Mark) -> bool:
    return any(mark.what == "kill" and mark.at_ns >= stop.at_ns for mark in end.marks)


def _stop_told(end: End, stop: Mark, after: str) -> str:
    actor, grace = stop.actor or ITSELF, stop.facts["timeout_s"]
    if not grace:
        return f"It was killed without grace by {actor}{after}."
    begin = f"It was stopped by {actor}{after}"
    if _was_killed(end, stop):
        return f"{begin}; it ignored {stop.facts['signal']} for {grace} s, and was killed."
    took = span(end.record.finished_at_ns - stop.at_ns)
    return f"{begin}; it ended on {stop.facts['signal']} after {took}, with code {end.record.exit_code}."


def _failed_before(stop: Mark, marks: Sequence[Mark]) -> list[Mark]:
    """The commands that failed in a row until shortly before a stop, as those of a liveness probe do."""
    execs = [m for m in marks if m.what == "exec" and stop.at_ns - PROBE_NS < m.at_ns <= stop.at_ns]
    found: list[Mark] = []
    for mark in reversed(execs):
        if not mark.facts["timed_out"] and mark.facts["exit_code"] == 0:
            break
        found.insert(0, mark)
    return found


def _short_of_memory(end: End) -> bool:
    """Whether the node was when it ended: the last that was told of its memory is pressure."""
    told = [m for m in end.marks if m.what == "node-pressure" and m.facts["resource"] == "memory"]
    return bool(told) and bool(told[-1].facts["raised"])
