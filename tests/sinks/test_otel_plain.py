"""
Spans as the table says, read in the plainest way: whatever is published, it makes no difference.
"""

from __future__ import annotations

import random
import re
import string
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

import harken
from harken import JSON, Bus, Envelope, Event, Outcome, describe, event_types
from harken.sinks.otel import SpanRecorder
from harken.sinks.otel.attributes import attribute_value
from harken.sinks.otel.mapping import (
    COMMON,
    COMMON_PREFIXED,
    PHASES,
    POINTS,
    SPANS,
    SpanMapping,
)
from harken.testing import Captured, FixedClock, fixed_ids

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
SECOND = 1_000_000_000


class PlainStarted(Event, name="otel_plain.started", key="plain_id"):
    """An operation that the table does not know."""

    plain_id: str = ""
    phase: JSON = None
    count: JSON = 0
    words: JSON = ""


class PlainEnded(Event, name="otel_plain.ended", ends=PlainStarted):
    """Its end."""

    plain_id: str = ""
    count: JSON = 0
    words: JSON = None


class PlainFailed(Event, name="otel_plain.failed", ends=PlainStarted, outcome="failure"):
    """Its bad end."""

    plain_id: str = ""
    words: JSON = ()
    error_type: JSON = ""
    error_message: JSON = ""


class Rude:
    """
    What nobody can print.
    """

    def __str__(self) -> str:
        raise RuntimeError("no")


class Shout(str):
    """
    A text that says something else than it is.
    """

    __slots__ = ()

    def __str__(self) -> str:
        return "SHOUT"


HUGE = 10**5_000
VALUES: Sequence[Callable[[], Any]] = (
    lambda: None,
    lambda: "",
    lambda: 0,
    lambda: 0.0,
    lambda: False,
    lambda: True,
    lambda: 1,
    lambda: -7,
    lambda: 2**53,
    lambda: 2**70,
    lambda: HUGE,
    lambda: 2.5,
    lambda: float("nan"),
    lambda: float("-inf"),
    lambda: "mcp",
    lambda: "a word",
    lambda: "[not a list",
    lambda: '{"not": "an object"}',
    lambda: "naïve ☃ 🎉",
    lambda: "\ud83d and \x7f and \x00",
    lambda: "x" * 5_000,
    lambda: "é" * 5_000,
    lambda: "password=hunter2hunter2 AKIAIOSFODNN7EXAMPLE",
    lambda: Shout("whisper"),
    lambda: b"bytes",
    list,
    lambda: ("stop",),
    lambda: ["a", "b", ""],
    lambda: [1, "a", None],
    lambda: [0, 0.5],
    lambda: list(range(200)),
    dict,
    lambda: {"a": [1, {"b": None}], "password": "hunter2"},
    lambda: {1, 2, 3},
    lambda: NOW,
    lambda: Outcome.denied,
    Rude,
)

CATALOG = [cls for cls in event_types().values() if cls.__module__.startswith("harken.catalog")]
STARTS: list[type[Event]] = [PlainStarted, *(cls for cls in CATALOG if describe(cls).is_start)]
POINT_TYPES = [cls for cls in CATALOG if not describe(cls).is_start and describe(cls).ends is None]


class Story:
    """
    A run of everything that may happen, by chance; the same one for the same seed.

    Args:
        hostile: How many of all fields are not what their annotations say, from 0.0 to 1.0.
    """

    def __init__(self, seed: int, hostile: float) -> None:
        self._chance = random.Random(seed)
        self._hostile = hostile
        self._clock = FixedClock(NOW)
        self._heard = Captured()
        self._bus = Bus(
            clock=self._clock,
            ids=fixed_ids(),
            capture_content=("arguments", "result", "text", "thinking", "messages"),
        )
        self._bus.attach(self._heard, delivery="inline")

    def play(self, steps: int) -> list[Envelope[Event]]:
        """
        Let *steps* things happen, close the bus, and return what it published.
        """
        for _ in range(steps):
            self._step(0)
        self._bus.close()
        return self._heard.envelopes

    def _step(self, depth: int) -> None:
        kinds = [self._pair, self._point, self._lonely_end, self._lonely_start]
        weights = [6, 3, 1, 1]
        if depth < 3:
            kinds += [self._scope, self._block]
            weights += [3, 3]
        if self._chance.random() < 0.6:
            self._clock.advance(self._chance.choice((0.0, 0.001, 0.25, 2.5, -0.5, -3.0)))
        (kind,) = self._chance.choices(kinds, weights)
        kind(depth)

    def _steps(self, depth: int) -> None:
        for _ in range(self._chance.choice((0, 0, 1, 2, 3))):
            self._step(depth + 1)

    def _scope(self, depth: int) -> None:
        chance = self._chance
        texts = (
            "one",
            "two",
            "",
            "agent:fixer",
            "user:ann",
            "secret AKIAIOSFODNN7EXAMPLE",
            "é" * 2_000,
        )
        names = (
            "session_id", "run_id", "parent_run_id", "actor", "on_behalf_of", "correlation_id",
            "request_id", "phase", "source",
        )  # fmt: skip
        scope: dict[str, Any] = {
            name: chance.choice(texts) for name in names if chance.random() < 0.4
        }
        for name in ("organization_id", "agent_slug", "team", "password"):
            if chance.random() < 0.3:
                scope[name] = self._value()
        flags = chance.choice(("00", "01", "01", "03"))
        if chance.random() < 0.5:
            trace, span = f"{chance.getrandbits(128):032x}", f"{chance.getrandbits(64):016x}"
            scope["traceparent"] = f"00-{trace}-{span}-{flags}"
        with harken.scope(**scope):
            self._steps(depth)

    def _pair(self, depth: int) -> None:
        start = self._start()
        self._publish(start)
        if self._chance.random() < 0.5:
            self._steps(depth)
        end = self._chance.choice(describe(start).terminals)
        self._publish(self._event(end, self._key(start)))

    def _block(self, depth: int) -> None:
        outcome = self._chance.choice(list(Outcome))
        with self._bus.operation(self._start()) as operation:
            self._steps(depth)
            how = self._chance.randrange(4)
            if how == 0:
                operation.complete()
            elif how == 1:
                operation.deny("no")
            elif how == 2:
                operation.fail(
                    self._chance.choice((OSError("disk full"), "bad", "")), outcome=outcome
                )

    def _point(self, depth: int) -> None:
        self._publish(self._event(self._chance.choice(POINT_TYPES), {}))

    def _lonely_end(self, depth: int) -> None:
        start = self._chance.choice(STARTS)
        end = self._chance.choice(describe(start).terminals)
        keys = {name: f"lonely-{self._chance.random()}" for name in self._key_fields(start)}
        self._publish(self._event(end, keys))

    def _lonely_start(self, depth: int) -> None:
        self._publish(self._start())

    def _start(self) -> Event:
        cls = self._chance.choice(STARTS)
        keys = {name: self._chance.choice(("k1", "k2", "k3")) for name in self._key_fields(cls)}
        return self._event(cls, keys)

    def _key_fields(self, cls: type[Event]) -> list[str]:
        info = describe(cls)
        return [name for name in info.key if name in info.fields]

    def _key(self, start: Event) -> dict[str, Any]:
        return {name: getattr(start, name) for name in self._key_fields(type(start))}

    def _event(self, cls: type[Event], keys: Mapping[str, Any]) -> Event:
        given: dict[str, Any] = {}
        for field in msgspec.structs.fields(cls):
            if field.required or self._chance.random() < 0.6:
                given[field.name] = self._field(field.name)
        return cls(
            **{**given, **{name: keys[name] for name in keys if name in describe(cls).fields}}
        )

    def _field(self, name: str) -> Any:
        if self._chance.random() < self._hostile:
            return self._value()
        if name == "outcome":
            return self._chance.choice(("success", "failure", "timeout", "denied", "odd", ""))
        if name == "phase":
            return self._chance.choice((*PHASES, "lunch"))
        if name in ("error_type", "error_message"):
            return self._chance.choice(("", "OSError", "disk full: /", "no such thing"))
        if name.endswith(("_ms", "tokens", "_size", "attempt", "steps", "iterations", "number")):
            return self._chance.choice((0, 1, 2, 350))
        return self._chance.choice(
            ("", "mcp", "search", "m-1", "naïve", 0, False, True, 3, 0.5, None)
        )

    def _value(self) -> Any:
        return self._chance.choice(VALUES)()

    def _publish(self, event: Event) -> None:
        chance, earlier = self._chance, self._heard.envelopes
        causes: list[str] = []
        if earlier and chance.random() < 0.3:
            causes = [chance.choice(earlier).id for _ in range(chance.randrange(1, 4))] + ["nobody"]
        attributes = {"extra": self._value(), "team": "red"} if chance.random() < 0.2 else None
        time = NOW + timedelta(seconds=chance.randrange(-5, 5)) if chance.random() < 0.1 else None
        self._bus.publish(event, attributes=attributes, causes=causes, time=time)


class Plain:
    """
    Spans as the table says: for each one, everything is looked at anew.
    """

    def __init__(
        self,
        *,
        attributes_prefix: str | None = "infra_agent",
        content: bool = False,
        point_events: str = "none",
        max_attributes: int = 96,
        max_attribute_length: int = 4_096,
    ) -> None:
        self._prefix = attributes_prefix
        self._content = content
        self._span_events = point_events == "span_events"
        self._most = max_attributes
        self._limit = max_attribute_length
        self._places: dict[str, Place] = {}
        self._things: dict[Any, Place] = {}
        self._sessions: dict[str, Place] = {}
        self._open: dict[str, tuple[dict[str, Any], list[Any]]] = {}
        self.spans: list[dict[str, Any]] = []

    def write(self, envelope: Envelope[Event]) -> None:
        """
        Take in one event of a sampled trace.
        """
        info = envelope.type
        if info.is_start:
            place = envelope.trace_id, envelope.span_id, info.name
            self._places[envelope.id] = place
            if info.name == "session.started" and envelope.session_id is not None:
                self._sessions[envelope.session_id] = place
            self._open[envelope.span_id] = {}, []
        elif info.ends is not None:
            self._end(envelope, describe(info.ends).name)
        else:
            self._point(envelope)

    def _point(self, point: Envelope[Event]) -> None:
        if point.name == "task.enqueued" and point.scope.operation is not None:
            self._places[point.id] = point.trace_id, point.span_id, point.name
        attributes, events = self._open.get(point.span_id, ({}, []))
        if self._prefix is not None and point.name in POINTS:
            self._add(attributes, point, None, POINTS[point.name], f"{self._prefix}.")
        if self._span_events and len(events) < 64:
            outcome = None if point.outcome is None else point.outcome.value
            about = {"harken.event.id": point.id, "harken.outcome": outcome}
            data = {f"harken.data.{key}": value for key, value in self._data(point).items()}
            events.append((point.name, point.time_ns, self._given({**about, **data})))

    def _end(self, end: Envelope[Event], operation: str) -> None:
        start = end.started
        generic = SpanMapping(name=operation.removesuffix(".started"))
        mapping = SPANS.get(operation, generic)
        gathered, events = self._open.pop(end.span_id, ({}, []))
        attributes = self._attributes(end, operation, mapping)
        begin_ns, end_ns, skew_ns = times(end)
        if start is None:
            attributes["harken.start_missing"] = True
        if abs(skew_ns) >= SECOND or (start is not None and end.time_ns < begin_ns):
            attributes["harken.clock_skew_ns"] = skew_ns
        status: tuple[StatusCode, str | None] = (StatusCode.UNSET, None)
        if end.outcome in (Outcome.failure, Outcome.timeout, Outcome.orphaned):
            kind = self._field(end, "error_type") or end.error_type
            message = str(self._field(end, "error_message") or "")[:1_024]
            attributes["error.type"] = error_type(end.outcome, kind)
            status = StatusCode.ERROR, message or None
            if kind or message:
                raised = {"exception.type": str(kind or "")[:128], "exception.message": message}
                events = [*events, ("exception", end_ns, self._given(raised, 1_024))]
        phase = PHASES.get(str(self._field(end, "phase"))) if operation == "phase.started" else None
        if phase is not None and self._prefix is not None:
            attributes[f"{self._prefix}.{phase}"] = round((end_ns - begin_ns) / 1_000_000)
        attributes |= gathered
        client = mapping.kind == "client"
        if mapping.client_if is not None:
            client = self._field(end, mapping.client_if[0]) == mapping.client_if[1]
            attributes |= mapping.client_is if client else ()
        links = self._links(end, operation, mapping, attributes)
        attributes = self._most_important(attributes, mapping)
        if operation == "phase.started":
            around, _ = self._open.get(end.parent_span_id or "", ({}, []))
            keys = {f"{self._prefix}.{key}" for key in PHASES.values()} & attributes.keys()
            around |= {key: attributes[key] for key in keys}
        self.spans.append(
            {
                "name": self._words(end, mapping.name),
                "kind": SpanKind.CLIENT if client else SpanKind.INTERNAL,
                "ids": (end.trace_id, end.span_id, end.parent_span_id),
                "flags": end.trace_flags,
                "times": (begin_ns, end_ns),
                "status": status,
                "attributes": attributes,
                "events": events,
                "links": links,
            }
        )

    def _attributes(
        self, end: Envelope[Event], operation: str, mapping: SpanMapping
    ) -> dict[str, Any]:
        found: dict[str, Any] = {"harken.operation": operation}
        if mapping.operation:
            found["gen_ai.operation.name"] = self._words(end, mapping.operation)
        for from_envelope in (True, False):
            pairs = [pair for pair in self._table(mapping) if (pair[1][0] in "@#") is from_envelope]
            self._add(found, end, end.started, pairs, "")
            if from_envelope:
                own = {f"harken.attributes.{key}": end.attributes[key] for key in end.attributes}
                found |= self._given(own)
        if operation not in SPANS:
            for envelope in filter(None, (end.started, end)):
                data = self._data(envelope)
                found |= self._given({f"harken.data.{key}": data[key] for key in data})
        return found

    def _table(self, mapping: SpanMapping) -> list[tuple[str, str]]:
        pairs = [*mapping.attributes, *COMMON]
        if self._prefix is not None:
            own = (*mapping.prefixed, *COMMON_PREFIXED)
            pairs += [(f"{self._prefix}.{key}", source) for key, source in own]
        return [*pairs, *(mapping.content if self._content else ())]

    def _add(
        self,
        found: dict[str, Any],
        end: Envelope[Event],
        start: Envelope[Event] | None,
        pairs: Iterable[tuple[str, str]],
        prefix: str,
    ) -> None:
        for key, source in pairs:
            for envelope in filter(None, (start, end)):
                given = envelope if source[0] not in "@#" else end
                found |= self._given({prefix + key: self._value(given, source)})

    def _value(self, envelope: Envelope[Event], source: str) -> JSON:
        if source.startswith("#"):
            return envelope.attributes.get(source[1:])
        if source == "@agent":
            kind, _, name = (envelope.actor or "").partition(":")
            return name if kind == "agent" and _ else envelope.attributes.get("agent_slug")
        if source == "@outcome":
            return None if envelope.outcome is None else envelope.outcome.value
        if source == "@duration_ms":
            seconds = envelope.duration
            return None if seconds is None else max(round(seconds * 1000), 0)
        if source == "@present":
            return True
        if source.startswith("@"):
            return getattr(envelope, source[1:])
        field, _, unit = source.partition(":")
        value = self._data(envelope).get(field)
        if unit == "nonzero":
            return value or None
        if unit == "seconds" and value is not None:
            return value / 1000 if isinstance(value, (int, float)) else None
        return value

    def _field(self, end: Envelope[Event], field: str) -> JSON:
        said = self._data(end).get(field)
        if said in (None, "") and end.started is not None:
            said = self._data(end.started).get(field)
        return said

    def _data(self, envelope: Envelope[Event]) -> dict[str, JSON]:
        return envelope.data(content=self._content and envelope.type.name not in POINTS)

    def _words(self, end: Envelope[Event], template: str) -> str:
        words: list[str] = []
        for text, source, _, _ in string.Formatter().parse(template):
            words += text.split()
            if source:
                name, _, default = source.partition("|")
                value = self._value(end, name) if name[0] in "@#" else self._field(end, name)
                words.append(str(value or default))
        return " ".join(filter(None, words))[:256]

    def _given(self, values: Mapping[str, JSON], limit: int | None = None) -> dict[str, Any]:
        limit = self._limit if limit is None else limit
        found = {key: attribute_value(value, limit) for key, value in values.items()}
        return {key: value for key, value in found.items() if value is not None}

    def _most_important(self, attributes: dict[str, Any], mapping: SpanMapping) -> dict[str, Any]:
        if len(attributes) <= self._most:
            return attributes
        first = ["gen_ai.operation.name", "error.type", "harken.operation", "harken.start_missing"]
        order = [*first, *(key for key, _ in (*mapping.client_is, *self._table(mapping)))]
        others = [key for key in attributes if key not in order]
        # What stands in it twice counts where it stands last.
        ranked = [*dict.fromkeys(reversed(order))][::-1]
        kept = [key for key in (*ranked, *others) if key in attributes]
        dropped = {"harken.attributes_dropped": len(attributes) - self._most + 1}
        return {key: attributes[key] for key in kept[: self._most - 1]} | dropped

    def _links(
        self,
        end: Envelope[Event],
        operation: str,
        mapping: SpanMapping,
        attributes: Mapping[str, Any],
    ) -> list[tuple[str, str, str]]:
        here = end.trace_id, end.span_id, operation
        self._places[end.id] = here
        links: dict[Place, str] = {}
        about = [attributes.get(key) for key in mapping.again]
        if about and None not in about:
            of = "" if mapping.again_anywhere else attributes.get("harken.run.id") or end.trace_id
            thing = (operation, of, *map(str, about))
            resumed = operation in ("session.started", "run.started")
            if thing in self._things:
                links[self._things[thing]] = "resumed" if resumed else "retry"
            self._things[thing] = here
        attempt = attributes.get("harken.tool.attempt")
        again = isinstance(attempt, int) and attempt > 1
        for cause in (end.started or end).causes:
            if cause in self._places:
                place = self._places[cause]
                links.setdefault(place, "retry" if again and place[2] == operation else "cause")
        root = self._sessions.get(attributes.get("harken.session.id", "none"))
        if end.parent_span_id is None and root is not None and root[0] != end.trace_id:
            links.setdefault(root, "session")
        near = (end.span_id, end.parent_span_id)
        return [(*place[:2], why) for place, why in links.items() if place[1] not in near]


Place = tuple[str, str, str]
"""Trace id, span id, and the name of what happened there."""


def times(end: Envelope[Event]) -> tuple[int, int, int]:
    """
    Return when a span begins and ends, and how far the wall clock was off.
    """
    length = max(round((end.duration or 0) * SECOND), 0)
    if end.started is None:
        return max(end.time_ns - length, 0), end.time_ns, 0
    begin = end.started.time_ns
    return begin, begin + length, end.time_ns - begin - length


def error_type(outcome: Outcome | None, kind: JSON) -> str:
    """
    Return what ``error.type`` is to be.
    """
    if outcome is Outcome.timeout:
        return "timeout"
    if kind:
        few = re.fullmatch(r"-?[A-Za-z0-9_][A-Za-z0-9_.:\-]{0,127}", str(kind))
        return str(kind) if few else "_OTHER"
    return "orphaned" if outcome is Outcome.orphaned else "_OTHER"


def seen(span: ReadableSpan) -> dict[str, Any]:
    """
    Return what `Plain` says of a span.
    """
    context, parent = span.get_span_context(), span.parent
    assert context is not None
    return {
        "name": span.name,
        "kind": span.kind,
        "ids": (
            f"{context.trace_id:032x}",
            f"{context.span_id:016x}",
            None if parent is None else f"{parent.span_id:016x}",
        ),
        "flags": int(context.trace_flags),
        "times": (span.start_time, span.end_time),
        "status": (span.status.status_code, span.status.description),
        "attributes": dict(span.attributes or {}),
        "events": [(e.name, e.timestamp, dict(e.attributes or {})) for e in span.events],
        "links": [
            (
                f"{link.context.trace_id:032x}",
                f"{link.context.span_id:016x}",
                (link.attributes or {})["harken.link.reason"],
            )
            for link in span.links
        ],
    }


OPTIONS: Sequence[dict[str, Any]] = (
    {},
    {"content": True},
    {"point_events": "span_events", "content": True},
    {"attributes_prefix": None},
    {"max_attributes": 14, "content": True},
    {"max_attribute_length": 40, "content": True},
)


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: " ".join(options) or "default")
@pytest.mark.parametrize("hostile", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("batch", [1, 7, 256])
def test_spans_are_what_the_table_says(options: dict[str, Any], hostile: float, batch: int) -> None:
    """
    Whatever happens in whatever order, a recorder makes the spans that a plain reading makes.
    """
    envelopes = Story(batch, hostile).play(150)
    exporter, plain = InMemorySpanExporter(), Plain(**options)
    recorder = SpanRecorder(exporter, resource=Resource({}), **options)

    for begin in range(0, len(envelopes), batch):
        recorder.write(envelopes[begin : begin + batch])
    for envelope in envelopes:
        if envelope.trace_flags & 1:
            plain.write(envelope)

    spans = [seen(span) for span in exporter.get_finished_spans()]
    assert 100 < len(spans)
    assert plain.spans == spans


def test_traces_of_one_batch_are_chosen_one_by_one() -> None:
    """
    Events outside of every scope share it, but each operation is a trace that is kept or not.
    """
    heard, exporter = Captured(), InMemorySpanExporter()
    bus = Bus(ids=fixed_ids())
    bus.attach(heard, delivery="inline")
    for number in range(40):
        bus.publish(PlainStarted(plain_id=f"p{number}"))
        bus.publish(PlainEnded(plain_id=f"p{number}"))
    bus.close()

    SpanRecorder(exporter, ratio=0.5).write(heard.envelopes)

    traces = {int(envelope.trace_id, 16) for envelope in heard.envelopes}
    kept = {trace for trace in traces if trace & (2**64 - 1) < 2**63}
    spans = [seen(span)["ids"][0] for span in exporter.get_finished_spans()]
    assert 0 < len(kept) < 40 == len(traces)
    assert sorted(f"{trace:032x}" for trace in kept) == sorted(spans)
