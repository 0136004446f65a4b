"""Which bytes of a blob to ask for: what is missing of a range and nobody brings yet, in parts of a fair size. Pure."""

Extent = tuple[int, int]
"""First byte, and the one after the last."""
STEP_BYTES = 128 << 10
"""The least that is asked for at once: files beside each other are often used together, and a request costs a round trip."""
MOST_BYTES = 4 << 20
"""The most: whoever comes next does not wait for long."""


def widened(start: int, end: int, size: int) -> Extent:
    """A range, from one step's edge to another's."""
    return start // STEP_BYTES * STEP_BYTES, min(-(-end // STEP_BYTES) * STEP_BYTES, size)


def within(extents: list[Extent], start: int, end: int) -> list[Extent]:
    """The parts of these that are in a range."""
    cut = ((max(start, first), min(end, last)) for first, last in extents)
    return [(first, last) for first, last in cut if first < last]


def without(extents: list[Extent], others: list[Extent]) -> list[Extent]:
    """The parts of these that are in no other."""
    left = extents
    for start, end in others:
        left = [
            part
            for first, last in left
            for part in ((first, min(last, start)), (max(first, end), last))
            if part[0] < part[1]
        ]
    return left


def pieces(extents: list[Extent]) -> list[Extent]:
    """The same, none larger than `MOST_BYTES`."""
    return [
        (at, min(at + MOST_BYTES, last)) for first, last in extents for at in range(first, last, MOST_BYTES)
    ]
