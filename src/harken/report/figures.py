"""
The figures of a report, and how tokens and costs added up.
"""

from __future__ import annotations

import msgspec

from harken.report.rows import Row, Rows
from harken.report.text import duration, money
from harken.trail.runs import ERRORS

_MOST_POINTS = 500


class Point(msgspec.Struct):
    """
    How much had been used *at* so many milliseconds after the first row.
    """

    at: float
    tokens: float
    cost: float


class Figures(msgspec.Struct, kw_only=True):
    """
    What was counted.

    Attributes:
        tokens: Of each run what it says at its end, or else the sum over its calls of models.
            *cost* likewise, in US dollars.

        told: Whether a run says what it used.

        points: How both added up over the calls of models.
    """

    events: int = 0
    model_calls: int = 0
    tool_calls: int = 0
    errors: int = 0
    denied: int = 0
    unclosed: int = 0
    tokens: float = 0
    cost: float = 0
    told: bool = False
    points: list[Point] = []


def figures_of(rows: Rows) -> Figures:
    """
    Return the figures of *rows*.
    """
    figures = Figures(events=sum(record.domain != "audit" for record in rows.records))
    calls: list[Row] = []
    # Of each run, and of what is part of none.
    told: dict[str | None, Row] = {}
    used: dict[str | None, list[Row]] = {}
    for row, node in zip(rows.rows, rows.nodes, strict=True):
        figures.errors += row.outcome in ERRORS
        figures.denied += row.outcome == "denied"
        figures.unclosed += row.outcome == "unclosed"
        figures.tool_calls += row.kind == "tool"
        run = node.first.run_id
        if row.kind == "llm":
            calls.append(row)
            used.setdefault(run, []).append(row)
        elif row.kind == "run" and (row.tokens or row.cost):
            told[run] = row
    figures.model_calls = len(calls)
    figures.told = bool(told)
    for run in told.keys() | used.keys():
        counted = [told[run]] if run in told else used[run]
        figures.tokens += sum(row.tokens for row in counted)
        figures.cost += sum(row.cost for row in counted)
    figures.points = _points(calls)
    return figures


def _points(calls: list[Row]) -> list[Point]:
    tokens = cost = 0.0
    points = [Point(0, 0, 0)]
    for row in sorted(calls, key=lambda row: row.at + (row.took or 0)):
        tokens += row.tokens
        cost += row.cost
        points.append(Point(row.at + (row.took or 0), tokens, cost))
    # Of many, so many that the eye sees no difference; the last one is the sum.
    step = len(points) // _MOST_POINTS + 1
    return [*points[:-1:step], points[-1]]


def charts(points: list[Point], length: float) -> str:
    """
    Return how tokens and costs added up, as HTML; nothing where that is no line.
    """
    if len(points) < 3:
        return ""
    last = points[-1]
    drawn = ""
    if last.cost:
        line = [(point.at, point.cost) for point in points]
        drawn += _chart("Cost so far", money(last.cost), line, length)
    if last.tokens:
        line = [(point.at, point.tokens) for point in points]
        drawn += _chart("Tokens so far", f"{last.tokens:,.0f}", line, length)
    return f'<div class="charts">{drawn}</div>' if drawn else ""


def _chart(title: str, total: str, line: list[tuple[float, float]], length: float) -> str:
    most = line[-1][1]
    length = length or 1
    steps: list[str] = []
    before = 0.0
    for at, amount in line:
        x, y = 1000 * at / length, 100 - 96 * amount / most
        steps += [f"{x:.1f},{before:.1f}" if steps else f"{x:.1f},100", f"{x:.1f},{y:.1f}"]
        before = y
    steps.append(f"1000,{before:.1f}")
    path = " ".join(steps)
    return (
        f"<figure><figcaption>{title}<b>{total}</b></figcaption>"
        f'<svg viewBox="0 0 1000 100" preserveAspectRatio="none" role="img" '
        f'aria-label="{title}: {total} after {duration(length)}">'
        f'<polygon points="0,100 {path} 1000,100"/><polyline points="{path}"/></svg>'
        f'<div class="ends"><span>0</span><span>{duration(length)}</span></div></figure>'
    )
