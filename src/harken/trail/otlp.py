"""
Operations as OTLP spans in JSON, for backends that show traces.

Each operation is a span with the ids that the log has, so that an old run looks as it did when it
was traced live; what happened within it are the span's events. https://opentelemetry.io/docs/specs/
otlp/ has the form; a file of such lines is what the collector's OTLP JSON file receiver reads.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from hashlib import sha256

from harken.event import JSON
from harken.record import CONTROL_TYPES
from harken.trail.entries import Record
from harken.trail.times import ns_of

AT_ONCE = 256
"""Spans in one line."""

OPEN = 10_000
"""Operations without an end that are waited for; with more, the oldest is given up."""

_OK, _ERROR = 1, 2
_FAILED = frozenset(("failure", "timeout", "orphaned", "denied"))


def to_otlp(records: Iterable[Record]) -> Iterator[dict[str, JSON]]:
    """
    Yield ``ExportTraceServiceRequest`` objects with the operations among *records*.

    An operation whose end is not among them ends where it begins, with the attribute
    ``harken.outcome`` set to ``unclosed``. An event outside of any is a span of no length.
    """
    spans: list[dict[str, JSON]] = []
    for span in _spans(records):
        spans.append(span)
        if len(spans) == AT_ONCE:
            yield _request(spans)
            spans = []
    if spans:
        yield _request(spans)


def _request(spans: list[dict[str, JSON]]) -> dict[str, JSON]:
    return {
        "resourceSpans": [
            {
                "resource": {"attributes": [_attribute("service.name", "harken")]},
                "scopeSpans": [{"scope": {"name": "harken.trail"}, "spans": spans}],
            }
        ]
    }


class _Open:
    """
    An operation whose end was not met yet.
    """

    def __init__(self, start: Record) -> None:
        self.start = start
        self.events: list[dict[str, JSON]] = []


def _spans(records: Iterable[Record]) -> Iterator[dict[str, JSON]]:
    opened: dict[str, _Open] = {}
    for record in records:
        if record.event_type in CONTROL_TYPES or record.trace_id is None or record.span_id is None:
            continue
        if record.is_start:
            opened[record.span_id] = _Open(record)
            if len(opened) > OPEN:
                oldest = opened.pop(next(iter(opened)))
                yield _span(oldest.start, None, oldest.events)
        elif record.is_end:
            begun = opened.pop(record.span_id, None)
            yield _span(
                record if begun is None else begun.start,
                record,
                [] if begun is None else begun.events,
            )
        elif record.span_id in opened:
            opened[record.span_id].events.append(_event(record))
        else:
            yield _point(record)
    for rest in opened.values():
        yield _span(rest.start, None, rest.events)


def _span(start: Record, end: Record | None, events: list[dict[str, JSON]]) -> dict[str, JSON]:
    last = end or start
    ended = _time(last)
    began = _time(start)
    if start is end:
        # Its start is not on record.
        began = ended - int(last.number("duration_ms") * 1_000_000)
    outcome = "unclosed" if end is None else end.outcome or "unknown"
    status: dict[str, JSON] = {"code": _ERROR if outcome in _FAILED else _OK}
    if outcome in _FAILED:
        status["message"] = str(last.metadata.get("error_message") or outcome)
    return {
        "traceId": last.trace_id,
        "spanId": last.span_id,
        "parentSpanId": last.parent_span_id or "",
        "name": f"{start.domain} {(start.resource or '').partition(':')[2]}".strip(),
        "kind": 1,
        "startTimeUnixNano": str(began),
        "endTimeUnixNano": str(max(began, ended)),
        "attributes": _attributes({**start.metadata, **last.metadata}, last, outcome),
        "events": events,
        "status": status,
    }


def _point(record: Record) -> dict[str, JSON]:
    moment = str(_time(record))
    return {
        "traceId": record.trace_id,
        # Its own, and the same whenever it is exported.
        "spanId": sha256((record.id or str(record.seq)).encode()).hexdigest()[:16],
        "parentSpanId": record.span_id,
        "name": record.event_type,
        "kind": 1,
        "startTimeUnixNano": moment,
        "endTimeUnixNano": moment,
        "attributes": _attributes(record.metadata, record, record.outcome or "unknown"),
        "events": [],
        "status": {"code": _ERROR if record.outcome in _FAILED else _OK},
    }


def _event(record: Record) -> dict[str, JSON]:
    return {
        "timeUnixNano": str(_time(record)),
        "name": record.event_type,
        "attributes": _attributes(record.metadata, record, record.outcome or "unknown"),
    }


def _attributes(data: Mapping[str, JSON], record: Record, outcome: str) -> list[JSON]:
    own = {
        "harken.event_id": record.id,
        "harken.seq": record.seq,
        "harken.actor": record.actor,
        "harken.action": record.action,
        "harken.resource": record.resource,
        "harken.outcome": outcome,
        "harken.run_id": record.run_id,
        "harken.session_id": record.session_id,
        "harken.causation_id": record.causation_id,
    }
    metadata = {f"harken.metadata.{name}": value for name, value in data.items()}
    return [
        _attribute(name, value)
        for name, value in (own | metadata | dict(record.attributes)).items()
        if value is not None
    ]


def _attribute(name: str, value: JSON) -> dict[str, JSON]:
    match value:
        case bool():
            typed: dict[str, JSON] = {"boolValue": value}
        case int():
            typed = {"intValue": str(value)}
        case float():
            typed = {"doubleValue": value}
        case str():
            typed = {"stringValue": value}
        case _:
            typed = {"stringValue": json.dumps(value, separators=(",", ":"))}
    return {"key": name, "value": typed}


def _time(record: Record) -> int:
    return ns_of(record.occurred or record.timestamp)
