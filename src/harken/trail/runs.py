"""
Runs: a line for each, or one in full as a tree of operations.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import msgspec

from harken.record import CONTROL_TYPES
from harken.trail.entries import UNREADABLE, Record
from harken.trail.filters import Filter

if TYPE_CHECKING:
    from harken.trail.log import Trail

ERRORS = frozenset(("failure", "timeout", "orphaned"))
"""The outcomes that count as errors; a refusal and a cancellation do not."""

_TASK = 200


class Usage(msgspec.Struct, kw_only=True):
    """
    What was counted. Tokens and costs are what runs say of themselves at their end, or else the
    sums over their calls of models, where those are on record.

    Attributes:
        llm_calls: Calls of models whose ends are on record; *tool_calls* likewise.

        errors: Outcomes ``failure``, ``timeout`` and ``orphaned``.
    """

    events: int = 0
    llm_calls: int = 0
    tool_calls: int = 0
    errors: int = 0
    denied: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float = 0.0


class RunSummary(Usage, kw_only=True):
    """
    One run in short.

    Attributes:
        started: The timestamp of its first record; *ended* that of its last.

        outcome: Of its end; None when there is no end on record: it goes on, or was killed.

        what: What it was to do: its prompt, else its kind of task.
    """

    run_id: str
    started: str
    ended: str
    outcome: str | None = None
    parent_run_id: str | None = None
    actor: str | None = None
    what: str = ""


class Node(msgspec.Struct, kw_only=True):
    """
    An operation, or an event that is none, and what happened within.

    Attributes:
        first: Its start; its end where the start is not on record; else the event itself.

        end: The end of an operation; None when there is none on record.

        below: In the order of the log.
    """

    first: Record
    end: Record | None = None
    below: list[Node] = []

    @property
    def is_operation(self) -> bool:
        """
        Whether it has a duration.
        """
        return self.first.is_start or self.first.is_end

    @property
    def outcome(self) -> str | None:
        """
        How it ended: ``unclosed`` where no end is on record.
        """
        if self.is_operation:
            return "unclosed" if self.end is None else self.end.outcome
        return self.first.outcome

    @property
    def seconds(self) -> float | None:
        """
        How long it took, as its end says, else by the timestamps; None where there is no end.
        """
        if self.end is None:
            return None
        if "duration_ms" in self.end.metadata:
            return self.end.number("duration_ms") / 1000
        return (self.end.time - self.first.time).total_seconds()

    @property
    def began(self) -> float:
        """
        When it began, in seconds since 1970-01-01 UTC.
        """
        began = self.first.time.timestamp()
        return began if self.first.is_start else began - (self.seconds or 0.0)

    def walk(self, depth: int = 0) -> Iterator[tuple[int, Node]]:
        """
        Yield this node and all below it with their depths, in order.
        """
        # Not by recursion: operations may be nested as deep as their author likes.
        rest = [(depth, self)]
        while rest:
            depth, node = rest.pop()
            yield depth, node
            rest += [(depth + 1, child) for child in reversed(node.below)]


class Run(msgspec.Struct, kw_only=True):
    """
    Everything on record about one run.

    Attributes:
        records: In the order of the log, those of the runs that it started itself among them.

        tree: The operations, each below the one that it was a part of.
    """

    summary: RunSummary
    records: list[Record]
    tree: list[Node]


class _Needed(msgspec.Struct, gc=False):
    """
    The metadata that a summary is made of.
    """

    input_tokens: object = None
    output_tokens: object = None
    cost_usd: object = None


class _Row(msgspec.Struct):
    timestamp: str
    seq: int
    event_type: str
    run_id: str | None = None
    parent_run_id: str | None = None
    outcome: str | None = None
    actor: str | None = None
    started_event_id: str | None = None
    metadata: _Needed = msgspec.field(default_factory=_Needed)


class _Task(msgspec.Struct):
    prompt: object = None
    task_type: object = None


class _RunStart(msgspec.Struct):
    metadata: _Task


class _Counting:
    """
    Sums up runs from their records, which come in the order of the log.
    """

    def __init__(self) -> None:
        self.runs: dict[str, RunSummary] = {}
        self._said: set[str] = set()

    def add(self, row: _Row | Record, line: bytes) -> None:
        """
        Take one record; *line* is where a start says what the run is to do.
        """
        if row.run_id is None:
            return
        run = self.runs.get(row.run_id)
        if run is None:
            run = self.runs[row.run_id] = RunSummary(
                run_id=row.run_id,
                started=row.timestamp,
                ended=row.timestamp,
                parent_run_id=row.parent_run_id,
                actor=row.actor,
            )
        run.events += 1
        run.ended = row.timestamp
        if row.outcome in ERRORS:
            run.errors += 1
        elif row.outcome == "denied":
            run.denied += 1
        domain = row.event_type.partition(".")[0]
        if domain == "run":
            self._about(run, row, line)
        elif row.started_event_id is not None:
            self._ended(run, row, domain)

    def describe(self, row: _Row | Record, line: bytes) -> None:
        """
        Take from a record of a run, which need not count, who it is of and how it ended.
        """
        run = self.runs[row.run_id or ""]
        if row.event_type == "run.started":
            run.actor, run.what = row.actor, _what(line)
        elif row.started_event_id is not None:
            run.outcome = row.outcome

    def _about(self, run: RunSummary, row: _Row | Record, line: bytes) -> None:
        self.describe(row, line)
        if row.started_event_id is not None:
            tokens = _usage(row)
            if any(tokens):
                run.input_tokens, run.output_tokens, run.cost_usd = tokens
                self._said.add(run.run_id)

    def _ended(self, run: RunSummary, row: _Row | Record, domain: str) -> None:
        if domain == "tool":
            run.tool_calls += 1
        elif domain == "llm":
            run.llm_calls += 1
            if run.run_id not in self._said:
                read, written, cost = _usage(row)
                run.input_tokens += read
                run.output_tokens += written
                run.cost_usd += cost


def _usage(row: _Row | Record) -> tuple[int, int, float]:
    data = row.metadata
    values = (
        (data.get("input_tokens"), data.get("output_tokens"), data.get("cost_usd"))
        if isinstance(data, dict)
        else (data.input_tokens, data.output_tokens, data.cost_usd)
    )
    read, written, cost = (value if isinstance(value, (int, float)) else 0 for value in values)
    return int(read), int(written), float(cost)


def _what(line: bytes) -> str:
    try:
        task = msgspec.json.decode(line, type=_RunStart).metadata
    except UNREADABLE:
        return ""
    said = task.prompt or task.task_type
    return said[:_TASK] if isinstance(said, str) else ""


def summaries_of(trail: Trail, where: Filter) -> list[RunSummary]:
    """
    Return a summary of each run that has a wanted record.
    """
    counting = _Counting()
    for row, line in _rows(trail, msgspec.structs.replace(where, runs=where.runs or ("*",))):
        counting.add(row, line)
    if counting.runs and where != Filter(since=where.since, runs=where.runs):
        # How a run ended is true whether that record is wanted or not.
        runs = tuple(counting.runs)
        for row, line in _rows(trail, Filter(since=where.since, types=("run.*",), runs=runs)):
            if row.run_id in counting.runs:
                counting.describe(row, line)
    return list(counting.runs.values())


def _rows(trail: Trail, where: Filter) -> Iterator[tuple[_Row, bytes]]:
    decode = msgspec.json.Decoder(_Row).decode
    for entry in trail.entries(where):
        try:
            row = decode(entry.line)
        except UNREADABLE:
            # What is wrong with it is told by the full look.
            trail.read(entry)
            continue
        yield row, entry.line


def run_of(trail: Trail, run_id: str) -> Run:
    """
    Return everything on record about one run and the runs that it started itself.

    Raises:
        NotFoundError: There is nothing.
    """
    from harken.trail.log import NotFoundError

    counting = _Counting()
    records: list[Record] = []
    for entry in trail.entries(Filter(families=(run_id,))):
        record = trail.read(entry)
        if record is not None:
            records.append(record)
            if record.run_id == run_id:
                counting.add(record, entry.line)
    summary = counting.runs.get(run_id)
    if summary is None:
        raise NotFoundError(f"there is no run {run_id} in {trail.path}; `harken runs` lists them")
    return Run(summary=summary, records=records, tree=tree_of(records))


def tree_of(records: Iterable[Record]) -> list[Node]:
    """
    Return the operations and events among *records*, each below what it is a part of.

    What is a part of something that is not on record stands below its run, and a run below the
    one that started it.
    """
    roots: list[Node] = []
    by_span: dict[str, Node] = {}
    by_start: dict[str, Node] = {}
    by_run: dict[str, Node] = {}
    for record in records:
        if record.event_type in CONTROL_TYPES:
            continue
        begun = by_start.get(record.started_event_id or "")
        if begun is not None:
            begun.end = record
            continue
        node = Node(first=record, end=record if record.is_end else None, below=[])
        around = _around(record, by_span, by_run)
        (roots if around is None else around.below).append(node)
        if node.is_operation and record.span_id is not None:
            by_span[record.span_id] = node
        if record.is_start and record.id is not None:
            by_start[record.id] = node
        if record.event_type == "run.started" and record.run_id is not None:
            by_run[record.run_id] = node
    return roots


def _around(record: Record, by_span: dict[str, Node], by_run: dict[str, Node]) -> Node | None:
    # An event that is no operation carries the span of the one that it happened in.
    span = record.parent_span_id if record.is_start or record.is_end else record.span_id
    around = by_span.get(span or "")
    if around is None and record.event_type != "run.started":
        around = by_run.get(record.run_id or "")
    return around if around is not None else by_run.get(record.parent_run_id or "")
