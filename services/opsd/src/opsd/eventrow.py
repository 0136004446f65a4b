"""A lifecycle event as pages have it."""

from typing import Any

from common.events.schema import Envelope, PullProgressed
from opsd import redact

NS_PER_MS = 1_000_000
MAX_TEXT = 1000
MAX_WORDS = 100
"""Of a list."""


def is_progress(envelope: Envelope) -> bool:
    """Whether an event only says how far a pull is; of these there are many."""
    return envelope.fields().get("type") == PullProgressed.__struct_config__.tag


def event_row(sequence: int, envelope: Envelope) -> dict[str, Any]:
    """`at` in Unix milliseconds; `facts` are the event's own fields that say something, without secrets."""
    facts = envelope.fields()
    kind, _, verb = str(facts.pop("type", "")).rpartition(".")[0].partition(".")
    object_id = str(facts.pop("id", ""))
    return {
        "seq": sequence,
        "at": envelope.at_ns / NS_PER_MS,
        "node": envelope.node,
        "kind": kind,
        "verb": verb,
        "id": object_id,
        "facts": {
            name: _fact(name, found)
            for name, found in facts.items()
            if found not in ("", 0, [], False, None) and not name.endswith("_ns")
        },
        "trace": envelope.traceparent[3:35],
    }


def _fact(name: str, found: Any) -> Any:
    if isinstance(found, list):
        return redact.words(str(each)[:MAX_TEXT] for each in found[:MAX_WORDS])
    return redact.value(name, found[:MAX_TEXT]) if isinstance(found, str) else found
