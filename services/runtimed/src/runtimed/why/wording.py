"""Times, sizes and marks in words for people."""

from collections.abc import Callable
from typing import Any

from runtimed.evidence import Mark

NS_PER_S = 1_000_000_000
UNLIMITED = 1 << 62
"""What the kernel calls no limit, in cgroup v1."""
_UNITS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))
_STALLS = ("cpu", "memory", "io")
ITSELF = "the node itself"


def span(ns: int) -> str:
    """A duration with its two largest units."""
    seconds = max(0, ns) / NS_PER_S
    if seconds < 10:
        return f"{seconds:.2g} s" if seconds >= 0.01 else "under 10 ms"
    left = round(seconds)
    parts: list[str] = []
    for unit, name in _UNITS:
        if left >= unit and len(parts) < 2:
            parts.append(f"{left // unit} {name}")
            left %= unit
    return " ".join(parts)


def size(count: int) -> str:
    """Bytes in binary units, as limits are given."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.4g} {unit}"
        value /= 1024
    return f"{value:.4g} TiB"


def told(mark: Mark) -> str:
    """A mark as a sentence without its time and actor."""
    return _TOLD[mark.what](mark.facts)


def _stop(facts: dict[str, Any]) -> str:
    if not facts["timeout_s"]:
        return "a stop without grace was asked for: SIGKILL at once"
    return f"a stop was asked for: {facts['signal']}, then SIGKILL after {facts['timeout_s']} s"


def _kill(facts: dict[str, Any]) -> str:
    return f"it had not ended within its {facts['timeout_s']} s of grace: SIGKILL to all its processes"


def _signal(facts: dict[str, Any]) -> str:
    return f"{facts['signal']} was sent to it"


def exec_outcome(facts: dict[str, Any]) -> str:
    """How a command in a container ended."""
    return "was killed for its time" if facts["timed_out"] else f"ended with code {facts['exit_code']}"


def _exec(facts: dict[str, Any]) -> str:
    return f"the command `{facts['command'] or '?'}` in it {exec_outcome(facts)}"


def _pressure(facts: dict[str, Any]) -> str:
    resource, value, threshold = facts["resource"], facts["value"], facts["threshold"]
    verb = "passed" if facts["raised"] else "is below"
    if resource in _STALLS:
        return f"waiting for {resource} took {value:.0f} % of 10 s: it {verb} {threshold:g} %"
    if resource in ("memory-limit", "memory-high"):
        return (
            f"it hit its {resource.replace('-', ' ')} {value:.0f} times"
            if facts["raised"]
            else f"no more hits of its {resource.replace('-', ' ')}"
        )
    if resource == "oom-kill":
        return (
            f"the kernel killed {value:.0f} of its processes for want of memory"
            if facts["raised"]
            else "no more processes of it are killed"
        )
    return f"{resource} is at {value:.0f} %: it {verb} {threshold:g} %"


def _ended(facts: dict[str, Any]) -> str:
    return f"an earlier run of it ended with code {facts['exit_code']} ({facts['reason']})"


def _node(facts: dict[str, Any]) -> str:
    return "on the node, " + _pressure(facts)


def _shutdown(_facts: dict[str, Any]) -> str:
    return "it ended while runtimed was down, in an earlier boot of the node"


def _shim_gone(_facts: dict[str, Any]) -> str:
    return "its shim was found gone, without a record of its end"


_TOLD: dict[str, Callable[[dict[str, Any]], str]] = {
    "stop": _stop,
    "kill": _kill,
    "signal": _signal,
    "exec": _exec,
    "pressure": _pressure,
    "node-pressure": _node,
    "ended": _ended,
    "shutdown": _shutdown,
    "no-shim": _shim_gone,
}
