"""NATS subjects; no other module spells one."""

import hashlib
from collections.abc import Mapping
from typing import Any

STREAM = "SLIPWAY"
"""The JetStream stream that holds the events of all nodes of a NATS cluster."""
PREFIX = "slipway.v1"
ALL = f"{PREFIX}.>"
EXEC = "exec"
_VITALS = "slipway.stats.v1"
_ASK = "slipway.ask.v1"
_PEERS = "slipway.peers.v1"
_LONG = 512
_UNSAFE = str.maketrans({" ": "_", ".": "_", "*": "_", ">": "_", "\t": "_", "\n": "_", "\r": "_"})


def token(text: str) -> str:
    """Text as one token of a subject; of a long one its beginning and a sum, as the server takes 4 KiB in a line."""
    safe = text.translate(_UNSAFE) or "_"
    if len(safe) <= _LONG:
        return safe
    return f"{safe[:_LONG]}_{hashlib.sha256(text.encode()).hexdigest()}"


def subject(node: str, kind: str, object_id: str, verb: str) -> str:
    """`slipway.v1.<node>.<kind>.<id>.<verb>`."""
    return f"{PREFIX}.{token(node)}.{kind}.{token(object_id)}.{verb}"


def of_event(node: str, event: Mapping[str, Any]) -> str:
    """The subject of an event; that of a command has its container's id, as each command is another object."""
    kind, verb, _ = str(event["type"]).split(".")
    object_id = event.get("container_id") if kind == EXEC else None
    return subject(node, kind, str(object_id or event["id"]), verb)


def pattern(node: str = "*", kind: str = "*", object_id: str = "*", verb: str = "*") -> str:
    """A subject to subscribe to; `*` stands for any."""
    parts = [p if p == "*" else token(p) for p in (node, kind, object_id, verb)]
    return ".".join([PREFIX, *parts])


def vitals(node: str = "*") -> str:
    """Where a node's opsd tells every few seconds how the node is; not kept."""
    return f"{_VITALS}.{node if node == '*' else token(node)}"


def ask(node: str) -> str:
    """Where a node's opsd answers the others' questions."""
    return f"{_ASK}.{token(node)}"


def peers_ask() -> str:
    """Where imaged asks which nodes have a blob; not kept."""
    return f"{_PEERS}.ask"


def peers_answer(node: str) -> str:
    """Where a node's imaged hears who has what it asked for."""
    return f"{_PEERS}.answer.{token(node)}"
