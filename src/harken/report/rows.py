"""
The rows of a report: operations and events, what each is about, and what made it happen.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from harken.report.text import short
from harken.trail.causes import ANSWERS, Link, is_decision
from harken.trail.entries import MOST, Entry, Record
from harken.trail.runs import ERRORS, Node, tree_of

_FAILED = ERRORS | {"denied", "unclosed"}

_SAID = (
    *("decision", "rule", "error_type", "error_message", "reason", "approver", "responder"),
    *("task_type", "prompt", "question", "text", "chosen", "action_taken", "utilization"),
)

# Longer than anything lasts, in seconds.
_CENTURY = 3_155_760_000


class Row(msgspec.Struct, array_like=True, kw_only=True):
    """
    An operation, or an event that is none. The script of the page knows the order of its fields.

    Attributes:
        start: The place of its first record among the lines of the report.

        end: The place of the record that ends it; None where it is the first, or there is none.

        depth: How deep it lies within others.

        at: When it began, in milliseconds since the first row.

        took: How long it took, in milliseconds; None for what has no duration, or no end yet.

        kind: ``tool``, ``run`` or the like for an operation, else the type of the event.

        label: What it is about. *note*: what else is worth knowing.

        outcome: ``unclosed`` where an operation has no end on record.

        cause: The place of the row that made it happen, that it answers, or, where *missing* is
            given, that it happened within; None where the record ends.

        link: Which of these it is, in the words of `harken.trail.causes.Link`.

        missing: The id of the cause, where that is not in the report.

        decisive: Whether something was decided, or went wrong.
    """

    start: int
    end: int | None
    depth: int
    at: float
    took: float | None
    kind: str
    label: str
    note: str
    actor: str
    outcome: str
    tokens: float
    cost: float
    cause: int | None = None
    link: Link | None = None
    missing: str | None = None
    decisive: bool = False
    failed: bool = False


class Rows:
    """
    What a report shows.

    Attributes:
        lines: The stored lines, as text without the line feed.

        rows: In the order of the log, each behind what it is a part of.

        nodes: What each row was made of.

        began: When the first of them began, in seconds since 1970-01-01 UTC; 0 without any.

        length: Milliseconds from there to the last end.
    """

    def __init__(self, entries: Iterable[Entry]) -> None:
        records: list[Record] = []
        self.lines: list[str] = []
        for entry in entries:
            records.append(entry.record)
            self.lines.append(entry.line.decode().rstrip("\r\n"))
        self.records: Sequence[Record] = records
        self._place = {id(record): place for place, record in enumerate(records)}
        walked = [pair for node in tree_of(records) for pair in node.walk()]
        self.nodes = [node for _, node in walked]
        spans = [_span(node) for node in self.nodes]
        self.began = min((begin for begin, _ in spans), default=0.0)
        ends = [begin + (seconds or 0) for begin, seconds in spans]
        self.length = (max(ends, default=0.0) - self.began) * 1000
        self.rows = [
            self._row(depth, node, *span) for (depth, node), span in zip(walked, spans, strict=True)
        ]
        self._connect()

    def _row(self, depth: int, node: Node, began: float, seconds: float | None) -> Row:
        first, last = node.first, node.end or node.first
        outcome = node.outcome or ""
        ended = node.end is not None and node.end is not first
        return Row(
            start=self._place[id(first)],
            end=self._place[id(last)] if ended else None,
            depth=depth,
            at=round((began - self.began) * 1000, 3),
            took=None if seconds is None else round(seconds * 1000, 3),
            kind=short(first.domain if node.is_operation else first.event_type),
            label=_label(first),
            note=_note(first, last),
            actor=short(last.actor or ""),
            outcome=short(outcome),
            tokens=_number(last, "input_tokens") + _number(last, "output_tokens"),
            cost=_number(last, "cost_usd"),
            decisive=_is_decisive(first, outcome),
            failed=outcome in _FAILED,
        )

    def _connect(self) -> None:
        """
        Find the cause of each row.
        """
        by_id = {
            record.id: place
            for place, node in enumerate(self.nodes)
            for record in (node.first, node.end)
            if record is not None and record.id is not None
        }
        questions = self._questions()
        around: list[int] = []
        for place, (row, node) in enumerate(zip(self.rows, self.nodes, strict=True)):
            del around[row.depth :]
            self._link(row, node.first, by_id, questions, around[-1] if around else None)
            if row.link == "answers" and row.cause is not None:
                # What was asked about tells more than the number of the question.
                row.label = self.rows[row.cause].label
            around.append(place)

    def _questions(self) -> dict[tuple[str, str], int]:
        """
        Return the places of rows that ask, by what they ask and by the key of the question.
        """
        members = dict(ANSWERS.values())
        keys = [
            (node.first.event_type, node.first.metadata.get(members.get(node.first.event_type, "")))
            for node in self.nodes
        ]
        return {
            (question, key): place
            for place, (question, key) in enumerate(keys)
            if isinstance(key, str)
        }

    @staticmethod
    def _link(
        row: Row,
        first: Record,
        by_id: Mapping[str, int],
        questions: Mapping[tuple[str, str], int],
        around: int | None,
    ) -> None:
        question, member = ANSWERS.get(first.event_type, ("", ""))
        asked = questions.get((question, str(first.metadata.get(member))))
        cause = by_id.get(first.causation_id or "")
        if asked is not None:
            row.cause, row.link = asked, "answers"
        elif cause is not None:
            row.cause, row.link = cause, "because"
        elif first.causation_id is not None:
            row.missing = short(first.causation_id)
            row.cause, row.link = around, None if around is None else "within"


def _is_decisive(record: Record, outcome: str) -> bool:
    if record.event_type == "policy.evaluated":
        # Most answers of policies let things go on.
        return outcome != "success"
    return outcome in _FAILED or is_decision(record)


def _span(node: Node) -> tuple[float, float | None]:
    """
    Return when *node* began, in seconds since 1970-01-01 UTC, and for how many seconds it went on.
    """
    seconds = node.seconds if node.is_operation else None
    if seconds is not None and not 0 <= seconds <= _CENTURY:
        # Somebody's joke; when it was recorded is all that is known.
        return node.first.time.timestamp(), None
    return node.began, seconds


def _number(record: Record, name: str) -> float:
    number = record.number(name)
    return float(number) if 0 <= number < MOST else 0.0


def _label(record: Record) -> str:
    kind, _, name = (record.resource or "").partition(":")
    data = record.metadata
    if record.domain in {"approval", "human_input"} and data.get("subject"):
        return short(data["subject"])
    if record.domain == "llm" and data.get("model"):
        return short(data["model"])
    if kind == "run" and record.domain != "run":
        return ""
    return short(name or kind)


def _note(first: Record, last: Record) -> str:
    said: list[str] = []
    if first.is_start and first.metadata.get("arguments"):
        said.append(short(first.metadata["arguments"]))
    for name in _SAID:
        value = last.metadata.get(name) or first.metadata.get(name)
        if value and value != last.actor:
            said.append(short(value))
    if last.metadata.get("exit_code") is not None:
        said.append(f"exit {short(last.metadata['exit_code'])}")
    return " · ".join(said)
