"""What to say of a container, an attempt and a pod: by its state, and by the rules on ends and errors."""

from collections.abc import Sequence

from runtimed.evidence import CONTAINER, POD, Failure
from runtimed.record import ContainerRecord, ContainerState, SandboxRecord, SandboxState
from runtimed.why import ends, errors
from runtimed.why.finding import End, Finding, Trouble
from runtimed.why.wording import span

WELL = ("running", "completed", "created", "creating", "starting")
"""Causes of a container that is no trouble to its pod."""
_NOUNS = {CONTAINER: "The container", POD: "The pod"}


def of_container(end: End, now_ns: int) -> Finding:
    """Why a container is as it is; `end` has what is known of it, also of one that goes on."""
    record = end.record
    match record.state:
        case ContainerState.EXITED | ContainerState.REMOVING:
            return ends.of_end(end)
        case ContainerState.RUNNING:
            return Finding("running", f"It has been running for {span(now_ns - record.started_at_ns)}.")
        case ContainerState.PAUSED:
            step = ["`slipway unpause` lets it run on."]
            return Finding("paused", "It is paused: its processes stand still.", step)
        case ContainerState.UNKNOWN:
            step = ["A stop ends it with its shim: `slipway stop`."]
            return Finding("unknown", "Its shim lives and does not say whether it runs.", step)
        case ContainerState.STARTING | ContainerState.CREATING:
            return Finding(str(record.state), f"It is {record.state}, made {_age(record, now_ns)} ago.")
        case ContainerState.CREATED:
            text = f"It was made {_age(record, now_ns)} ago, and nobody has started it."
            return Finding("created", text)


def _age(record: ContainerRecord, now_ns: int) -> str:
    return span(now_ns - record.created_at_ns)


def of_attempt(failure: Failure) -> Finding:
    """Why something could not be made of which nothing is left."""
    found = errors.of_error(Trouble(text=failure.error, reason=failure.reason), "create-failed")
    tried = f", tried {failure.count} times" if failure.count > 1 else ""
    text = f"{_NOUNS[failure.kind]} could not be made{tried}: {found.words}"
    return Finding(found.cause, text, found.next_steps)


def of_pod(record: SandboxRecord, inside: Sequence[tuple[str, str, str]], *, rebooted: bool) -> Finding:
    """Why a pod is as it is; `inside` has name, cause and verdict of each of its containers."""
    if record.error:
        found = errors.of_error(Trouble(text=record.error), "setup-failed")
        return Finding(found.cause, f"It could not be set up: {found.words}", found.next_steps)
    if record.state is SandboxState.CREATING:
        return Finding("creating", "It is being set up.")
    if record.state is not SandboxState.READY:
        if rebooted:
            return Finding("rebooted", "The node was rebooted while it was ready.")
        return Finding("stopped", "It is stopped.")
    bad = [one for one in inside if one[1] not in WELL]
    if bad:
        name, cause, verdict = bad[-1]
        text = f"It is ready, but {len(bad)} of its containers are not well: {name}: {verdict}"
        return Finding(cause, text)
    running = sum(cause == "running" for _, cause, _ in inside)
    return Finding("running", f"It is ready, and {running} of its {len(inside)} containers run.")
