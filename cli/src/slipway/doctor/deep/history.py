"""The history of events: every event once, in order, none missing, and in line with the records."""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from common.events import subjects
from common.events.schema import Envelope
from common.settings import EVENTS_MAX_REPEATS
from slipway.doctor.deep.difference import Difference

KIND = "event"
_ASIDE = {
    "create_failed", "log_reopened", "oom_killed", "paused", "pressure_cleared", "pressure_raised", "resumed",
    "signalled", "stop_requested", "unknown", "updated",
}  # fmt: skip
"""Verbs that may come at any time of a life."""
_END = "(exited|start_failed) "
LIVES = {
    "container": re.compile(f"created ((started )?{_END}(started {_END})*)?(started |removed )?"),
    "sandbox": re.compile("created (failed |(ready )?(stopped )?(removed )?)"),
}
_STATE = {
    ("container", "created"): {"created", "starting", "unknown", "exited", "removing"},
    ("container", "started"): {"running", "paused", "unknown"},
    ("container", "exited"): {"exited", "removing", "starting"},
    ("container", "start_failed"): {"exited", "removing", "starting"},
    ("sandbox", "created"): {"creating"},
    ("sandbox", "ready"): {"ready"},
    ("sandbox", "stopped"): {"notready", "removing"},
}
"""States of a record whose last event is this."""


@dataclass
class Told:
    """What was told of each object, by kind and id: its verbs in order, without those that may come at any time."""

    verbs: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    differences: list[Difference] = field(default_factory=list)

    def ended(self, kind: str) -> set[str]:
        """Objects of which the last word is that they are gone."""
        gone = ("removed", "failed")
        return {name for name, verbs in self.verbs.get(kind, {}).items() if verbs and verbs[-1] in gone}


def _thinned(events: Sequence[Envelope], most: int) -> int:
    """Before which of them events may be missing, as of one subject no more than so many are kept."""
    at: defaultdict[str, list[int]] = defaultdict(list)
    for index, envelope in enumerate(events):
        at[subjects.of_event(envelope.node, envelope.fields())].append(index)
    return max((indices[0] for indices in at.values() if len(indices) >= most > 0), default=0)


def gather(found: Iterable[Envelope], most: int = EVENTS_MAX_REPEATS) -> Told:
    """Sort the events by their objects; what came twice, out of order, or not at all is a difference.

    Args:
        found: the events that are held, in their order.
        most: how many of one subject are kept; -1 for all.
    """
    events = list(found)
    thinned = _thinned(events, most)
    told = Told({kind: defaultdict(list) for kind in LIVES})
    seen: set[str] = set()
    last: dict[str, int] = {}
    for index, envelope in enumerate(events):
        before = last.get(envelope.source, 0)
        if envelope.id in seen:
            told.differences.append(Difference(KIND, envelope.id, "came twice"))
            continue
        if before and envelope.seq <= before:
            told.differences.append(
                Difference(KIND, envelope.id, f"has number {envelope.seq}, after {before}")
            )
        elif before and envelope.seq > before + 1 and index > thinned:
            # Redis counts by one: the first of what is held may have any number, none after it is skipped
            missing = envelope.seq - before - 1
            told.differences.append(
                Difference(KIND, envelope.id, f"{missing} of {envelope.source} before it are missing")
            )
        seen.add(envelope.id)
        last[envelope.source] = envelope.seq
        fields = envelope.fields()
        kind, verb, _ = str(fields["type"]).split(".")
        if kind in LIVES and verb not in _ASIDE:
            told.verbs[kind][str(fields["id"])].append(verb)
    for kind, life in LIVES.items():
        for name, verbs in told.verbs[kind].items():
            text = "".join(f"{verb} " for verb in verbs)
            # of a life whose beginning is held no more nothing can be said
            if verbs[0] == "created" and not life.fullmatch(text):
                told.differences.append(Difference(KIND, name, f"the {kind} was told {text.strip()}"))
    return told


def against_records(told: Told, records: dict[str, dict[str, dict[str, Any]]]) -> list[Difference]:
    """Objects whose record and last event do not fit; for when no event waits."""
    found = []
    for kind in LIVES:
        risen = sorted(told.ended(kind) & set(records[kind]))
        found += [
            Difference(KIND, name, f"the {kind} was told to be gone, and has a record") for name in risen
        ]
        for name, verbs in told.verbs[kind].items():
            record = records[kind].get(name)
            if record is None:
                if name not in told.ended(kind):
                    found.append(
                        Difference(KIND, name, f"the {kind} has no record, and nobody was told of its end")
                    )
                continue
            state, wanted = str(record.get("state")), _STATE.get((kind, verbs[-1]))
            if wanted is not None and state not in wanted:
                found.append(
                    Difference(KIND, name, f"the {kind} is {state}, and was told last to be {verbs[-1]}")
                )
    return found
