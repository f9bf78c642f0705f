"""
Traces that were recorded as spans, told again in the order in which things happened.
"""

from __future__ import annotations

from typing import Any

import msgspec

import harken
from harken import Bus, Event
from harken.adapters._runs import Run
from harken.adapters.transcripts._runs import TranscriptClock
from harken.catalog import RunStarted

UNFINISHED = "the trace has spans without an end"


class SpanRow(msgspec.Struct):
    """
    One recorded span.

    Attributes:
        event: The operation that it is; None for one that only holds others together.

        point: What it says instead, at its start.

        started_ns: In nanoseconds since 1970-01-01 UTC.

        ended_ns: None when the record has no end of it.

        outcome: None for success.

        fields: Those of the event that ends it.
    """

    id: str
    trace_id: str
    parent_id: str | None
    started_ns: int
    ended_ns: int | None
    event: Event | None = None
    point: Event | None = None
    outcome: str | None = None
    fields: dict[str, Any] = {}


class SpanRows:
    """
    The spans of a transcript; they are told when all of them are known.

    Args:
        source: The program that recorded them.
    """

    def __init__(self, bus: Bus, clock: TranscriptClock, *, source: str) -> None:
        self._bus = bus
        self._clock = clock
        self._source = source
        self._traces: dict[str, list[SpanRow]] = {}

    def add(self, row: SpanRow) -> None:
        """
        Take note of a span; the last word about it counts.
        """
        rows = self._traces.setdefault(row.trace_id, [])
        rows[:] = [one for one in rows if one.id != row.id]
        rows.append(row)

    def tell(self) -> None:
        """
        Publish the traces, one run for each, in the order in which they began.
        """
        traces = sorted(self._traces.values(), key=lambda rows: min(map(_start, rows)))
        for rows in traces:
            self._tell_trace(rows)

    def _tell_trace(self, rows: list[SpanRow]) -> None:
        by_id = {row.id: row for row in rows}
        inside: dict[str, list[SpanRow]] = {}
        for row in rows:
            inside.setdefault(row.parent_id or "", []).append(row)
        roots = [row for row in rows if row.parent_id not in by_id]
        told_as_run = next((row for row in roots if isinstance(row.event, RunStarted)), None)
        started = RunStarted() if told_as_run is None else told_as_run.event
        assert isinstance(started, RunStarted)
        run = Run(self._bus, started, source=self._source, run_id=rows[0].trace_id)
        moments = [*_moments(roots, by_id, inside)]
        moments.sort(key=lambda moment: moment[:3])
        self._clock.set(moments[0][0])
        parent = roots[0].parent_id or roots[0].id
        actor = harken.current_context().get("actor", f"agent:{self._source}")
        with harken.scope(traceparent=_traceparent(rows[0].trace_id, parent), actor=actor):
            run.open()
            for at_ns, is_end, _, row in moments:
                self._clock.set(at_ns)
                if row is not told_as_run:
                    self._tell(run, row, bool(is_end), by_id)
            self._decide(run, rows, told_as_run)
            run.close()

    def _tell(self, run: Run, row: SpanRow, is_end: bool, by_id: dict[str, SpanRow]) -> None:
        if is_end:
            if row.outcome is None:
                run.end(row.id, **row.fields)
            else:
                run.end(row.id, outcome=row.outcome, **row.fields)
            return
        around = by_id.get(row.parent_id or "")
        while around is not None and not run.is_open(around.id):
            around = by_id.get(around.parent_id or "")
        parent = None if around is None else around.id
        if row.event is not None:
            run.begin(row.id, row.event, parent=parent)
        if row.point is not None:
            run.publish(row.point, parent=parent)

    def _decide(self, run: Run, rows: list[SpanRow], root: SpanRow | None) -> None:
        for row in rows:
            if row.event is not None and row.event.__class__.__name__ == "LlmStarted":
                run.usage.input_tokens += row.fields.get("input_tokens", 0)
                run.usage.output_tokens += row.fields.get("output_tokens", 0)
                run.usage.reasoning_tokens += row.fields.get("reasoning_tokens", 0)
                run.usage.cached_tokens += row.fields.get("cache_read_tokens", 0)
        if any(row.ended_ns is None for row in rows):
            run.decide(UNFINISHED, outcome="unknown")
            return
        # Without a span of its own the run ended as the agents in it did.
        ends = [root] if root is not None else [row for row in rows if row.parent_id is None]
        failed = next((row for row in ends if row.outcome is not None), None)
        if failed is not None:
            run.decide(
                failed.fields.get("error_message") or "",
                outcome=failed.outcome,
                error_type=failed.fields.get("error_type") or "",
            )


def _start(row: SpanRow) -> int:
    return row.started_ns


Moment = tuple[int, int, int, SpanRow]


def _moments(
    rows: list[SpanRow], by_id: dict[str, SpanRow], inside: dict[str, list[SpanRow]]
) -> list[Moment]:
    """
    Return when each span began and ended: a child not before its parent, nor a parent's end
    before that of what is inside of it, whatever the clocks said.
    """
    moments: list[Moment] = []

    def visit(row: SpanRow, depth: int, earliest: int, seen: frozenset[str]) -> int:
        began = max(row.started_ns, earliest)
        ends = [
            visit(child, depth + 1, began, seen | {row.id})
            for child in inside.get(row.id, [])
            if child.id not in seen
        ]
        moments.append((began, 0, depth, row))
        ended = max([row.ended_ns or began, began, *ends])
        if row.ended_ns is not None:
            moments.append((ended, 1, -depth, row))
        return ended

    for row in rows:
        visit(row, 0, 0, frozenset({row.id}))
    return moments


def _traceparent(trace_id: str, span_id: str) -> str | None:
    trace = trace_id.removeprefix("trace_")
    span = span_id.removeprefix("span_")[:16]
    # Of a form that the W3C does not know, a new trace is made instead.
    return f"00-{trace}-{span}-01"
