"""Spans as lines of text."""

from typing import Any

import pytest

from slipway.output import waterfall


def span(name: str, start: float, ms: float, parent: str = "", error: str = "") -> dict[str, Any]:
    return {
        "id": name,
        "parent": parent,
        "name": f"a/{name}",
        "service": "s",
        "start": start,
        "ms": ms,
        "error": error,
    }


def test_bars_stand_where_their_time_is_and_children_below_their_parents() -> None:
    spans = [span("child", 50, 50, "root"), span("root", 0, 100), span("orphan", 0, 1, "elsewhere")]
    root, child, orphan = waterfall.lines(spans, 40)
    assert [line.split()[1] for line in (root, child, orphan)] == ["root", "child", "orphan"]
    assert child.startswith("  s: child")
    width = root.count("━")
    assert child.count("━") == pytest.approx(width / 2, abs=1)
    assert child.index("━") == pytest.approx(root.index("━") + width / 2, abs=1)


@pytest.mark.parametrize("columns", [20, 40, 80, 200])
def test_a_line_is_no_wider_than_the_terminal(columns: int) -> None:
    spans = [span("root", 0, 1000), *(span(f"child{n}" * 9, n * 10, 3, "root") for n in range(20))]
    widest = max(len(line) for line in waterfall.lines(spans, columns))
    assert widest <= max(columns, 40)


def test_a_long_silence_is_told_and_not_drawn() -> None:
    spans = [span("create", 0, 50), span("remove", 7_200_000, 50)]
    told = list(waterfall.lines(spans, 60))
    assert [line.split()[0] for line in told] == ["s:", "...", "s:"]
    assert "2 h later" in told[1]
    assert all(line.count("━") > 20 for line in (told[0], told[2]))


def test_a_failure_is_told_and_commands_no_terminal() -> None:
    told = "\n".join(waterfall.lines([span("x\x1b[2J", 0, 1, error="no\x1b]0;x\x07 space")], 60))
    assert "no" in told
    assert "space" in told
    assert "\x1b" not in told


def test_spans_that_are_each_others_parents_end() -> None:
    spans = [span("a", 0, 1, "b"), span("b", 0, 1, "a"), span("c", 0, 1)]
    assert [line.split()[1] for line in waterfall.lines(spans, 60)] == ["c"]


@pytest.mark.parametrize(
    ("ms", "text"),
    [(0.123, "0.1 ms"), (999, "999.0 ms"), (1500, "1.5 s"), (90_000, "1.5 min"), (86_400_000, "1 d")],
)
def test_lengths_for_people(ms: float, text: str) -> None:
    assert waterfall.span_of_time(ms) == text
