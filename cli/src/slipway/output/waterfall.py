"""Spans as lines of text: children below their parents, each with a bar where it was in its time."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from slipway.output import render

SILENCE_MS = 2000.0
"""A life has long silences: what belongs together in time is drawn together, with its own scale."""
MS_WIDTH = 10
LEAST_BAR = 10
_MAX_DEPTH = 40
_UNITS = ((86_400_000, "d"), (3_600_000, "h"), (60_000, "min"), (1000, "s"))
Span = dict[str, Any]


def lines(spans: list[Span], columns: int) -> Iterator[str]:
    """The waterfall of a trace or of several, for a terminal of so many columns."""
    parts = _parts(sorted(spans, key=lambda span: span["start"]))
    yield from _part(parts[0], columns)
    for before, part in pairwise(parts):
        yield f"  ... {span_of_time(part[0]['start'] - _end(before))} later"
        yield from _part(part, columns)


def span_of_time(ms: float) -> str:
    """Milliseconds for people."""
    return next((f"{ms / unit:.3g} {name}" for unit, name in _UNITS if ms >= unit), f"{ms:.1f} ms")


def _parts(spans: list[Span]) -> list[list[Span]]:
    parts: list[list[Span]] = []
    for span in spans:
        if parts and span["start"] <= _end(parts[-1]) + SILENCE_MS:
            parts[-1].append(span)
        else:
            parts.append([span])
    return parts


def _end(spans: list[Span]) -> float:
    return max(float(span["start"] + span["ms"]) for span in spans)


def _part(spans: list[Span], columns: int) -> Iterator[str]:
    start, length = spans[0]["start"], max(_end(spans) - spans[0]["start"], 0.001)
    rows = [
        (f"{'  ' * depth}{span['service']}: {span['name'].rpartition('/')[2]}", span)
        for depth, span in _ordered(spans)
    ]
    most = max(LEAST_BAR, min(columns * 3 // 5, columns - LEAST_BAR - MS_WIDTH - 2))
    label = min(max(len(text) for text, _ in rows), most)
    width = max(LEAST_BAR, columns - label - MS_WIDTH - 2)
    for text, span in rows:
        left = min(int((span["start"] - start) / length * width), width - 1)
        bar = "━" * max(1, min(round(span["ms"] / length * width), width - left))
        shown = render.styled(bar, "red" if span["error"] else "cyan")
        space = " " * (width - left - len(bar))
        told = render.clean(text)[:label].ljust(label)
        yield f"{told} {' ' * left}{shown}{space} {span_of_time(span['ms']):>{MS_WIDTH}}"
        if span["error"]:
            yield render.styled(f"{'':<{min(label, 4)}}{render.sentence(span['error'])}", "red")


def _ordered(spans: list[Span]) -> Iterator[tuple[int, Span]]:
    known = {span["id"] for span in spans}
    below: dict[str, list[Span]] = {}
    for span in spans:
        below.setdefault(span["parent"] if span["parent"] in known else "", []).append(span)
    stack = [(0, span) for span in reversed(below.get("", []))]
    while stack:
        depth, span = stack.pop()
        yield depth, span
        stack += [(min(depth + 1, _MAX_DEPTH), child) for child in reversed(below.pop(span["id"], []))]
