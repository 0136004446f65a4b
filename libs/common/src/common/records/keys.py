"""Redis keys of records and outboxes; no other module spells one."""


def record_key(node: str, owner: str, kind: str, record_id: str) -> str:
    return f"slipway:{node}:{owner}:{kind}:{record_id}"


def index_key(node: str, owner: str, kind: str) -> str:
    return f"slipway:{node}:{owner}:{kind}"


def outbox_key(node: str, owner: str) -> str:
    return f"slipway:{node}:{owner}:outbox"


def held_key(node: str, owner: str) -> str:
    """How full an outbox is, and what it gave up."""
    return f"slipway:{node}:{owner}:outbox:held"


def pattern(node: str) -> str:
    """What all keys of a node look like, to Redis' SCAN."""
    quoted = "".join(f"\\{c}" if c in "\\*?[]^" else c for c in node)
    return f"slipway:{quoted}:*"


def sequence_key(node: str, owner: str) -> str:
    return f"slipway:{node}:{owner}:seq"
