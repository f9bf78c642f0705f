"""
From the envelope of an operation's end to its span.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import TypeAlias

import msgspec
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event as SpanEvent, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from harken import JSON, Envelope, Event, EventType, Outcome, Scope, describe
from harken.sinks.otel.attributes import AttributeValue, attribute_value
from harken.sinks.otel.fields import Attributes, Fields, Targets
from harken.sinks.otel.links import Links
from harken.sinks.otel.mapping import (
    COMMON,
    COMMON_PREFIXED,
    GENERIC_PREFIX,
    OPERATION_NAME,
    PHASES,
    POINTS,
    SpanMapping,
)

MAX_NAME = 256
"""Characters of a span's name that are kept."""

MAX_DESCRIPTION = 1_024
"""Characters of a status's description, and of an exception's message, that are kept."""

MAX_EVENTS = 64
"""Point events of one operation that become span events; the rest is counted."""

MAX_SCOPES = 16
"""Scopes whose attributes are remembered, for each type of operation; each keeps a few events."""

MAX_NAMES = 256
"""Names of spans that are remembered, for each type of operation."""

SECOND = 1_000_000_000

LAST_NS = 2**63 - 1
"""In the year 2262; what is later, or before 1970, has no encoding that every backend reads."""

Data: TypeAlias = Mapping[str, JSON]
Member: TypeAlias = Callable[[Envelope[Event]], JSON]

_SUCCESS = Outcome.success
_UNSET = Status(StatusCode.UNSET)
_SAMPLED = TraceFlags(TraceFlags.SAMPLED)

_OF_THE_EVENT = frozenset(
    ("@correlation_id", "@duration_ms", "@id", "@outcome", "@started_event_id")
)
"""The sources that differ between events of one scope."""

# An error's class or a protocol's code; anything else may be a text that never comes again.
_ERROR_TYPE = re.compile(r"-?[A-Za-z0-9_][A-Za-z0-9_.:\-]{0,127}")


class Gathered(msgspec.Struct):
    """
    What happened inside an operation that is still open, for its span.
    """

    attributes: Attributes = {}
    events: list[SpanEvent] = []
    dropped: int = 0

    def add(self, event: SpanEvent) -> None:
        """
        Keep *event*, or count it when there are too many.
        """
        if len(self.events) < MAX_EVENTS:
            self.events.append(event)
        else:
            self.dropped += 1

    def add_to(self, attributes: Attributes) -> None:
        """
        Add to the *attributes* of the span what was gathered for them.
        """
        attributes |= self.attributes
        if self.dropped:
            attributes["harken.events_dropped"] = self.dropped


Value: TypeAlias = Callable[[Envelope[Event], object, object], JSON]
"""From the end, what the start says, and what the end says."""

Words: TypeAlias = tuple[tuple[str, Value | None], ...]


class Around(msgspec.Struct, frozen=True):
    """
    What all operations of one type in one scope have in common.

    Attributes:
        given: The attributes that are the application's.

        trace: The trace's id, empty when each event of the scope begins one of its own.

        trace_id: The same as a number.

        thing: What the operations are about begins with this.

        session: The id of the session, when the operations are roots of their traces.
    """

    scope: Scope
    given: Data
    attributes: Attributes
    trace: str = ""
    trace_id: int = 0
    trace_flags: TraceFlags = _SAMPLED
    parent: SpanContext | None = None
    thing: str = ""
    session: AttributeValue | None = None


class Recipe:
    """
    How operations of one type become spans: their entry of the table, taken apart once.

    Args:
        info: The type of the end.

        ends: The type of the start.

        table: The entries, by the dotted names of starts.

        prefix: Of the application's own attributes; None for none of them.

        content: Whether content is exported.

        exceptions: Whether an exception is an event of its span.

        max_attributes: Attributes that are kept, in the order of the table.

        max_length: Characters of one text that are kept.

        links: Finds what spans go back to.

        scope: What the spans are made by.

    Attributes:
        rolls_up: The attributes that the span around this one gets, too.
    """

    def __init__(
        self,
        info: EventType,
        ends: type[Event],
        table: Mapping[str, SpanMapping],
        *,
        prefix: str | None,
        content: bool,
        exceptions: bool,
        max_attributes: int,
        max_length: int,
        links: Links,
        scope: InstrumentationScope,
    ) -> None:
        started_by = describe(ends)
        operation = self._started = started_by.name
        mapping = table.get(operation)
        self._links = links
        self._scope = scope
        if mapping is None:
            mapping = SpanMapping(name=operation.removesuffix(".started"))
        self._content = content
        self._exceptions = exceptions
        self._max_attributes = max_attributes
        self._max_length = max_length
        self._name = _words(mapping.name)
        self._named_after = _only_field(mapping.name)
        self._names: dict[str, str] = {}
        self._operation = _words(mapping.operation) if "{" in mapping.operation else ()
        self._again = mapping.again
        self._again_anywhere = mapping.again_anywhere
        self._kind = SpanKind.CLIENT if mapping.kind == "client" else SpanKind.INTERNAL
        self._client_if = mapping.client_if
        self._client_is = mapping.client_is
        pairs = [*mapping.attributes, *COMMON]
        if prefix is not None:
            own = (*mapping.prefixed, *COMMON_PREFIXED)
            pairs += [(f"{prefix}.{key}", source) for key, source in own]
        if content:
            pairs += mapping.content
        # Stays empty where the table knows nothing of the fields; then they stand for themselves.
        targets: dict[str, tuple[list[str], str]] = {}
        self._surroundings: list[tuple[str, Member]] = []
        members: dict[str, list[str]] = {source: [] for source in _OF_THE_EVENT}
        for key, source in pairs:
            member = _member(source)
            if member is None:
                field, _, unit = source.partition(":")
                targets.setdefault(field, ([], unit))[0].append(key)
            elif source in members:
                members[source].append(key)
            else:
                self._surroundings.append((key, member))
        # What every span has, once.
        (self._id,) = members["@id"]
        (self._started_id,) = members["@started_event_id"]
        (self._outcome,) = members["@outcome"]
        self._correlations = members["@correlation_id"]
        self._durations = members["@duration_ms"]
        self._constant: Attributes = {"harken.operation": operation}
        if mapping.operation and not self._operation:
            self._constant[OPERATION_NAME] = mapping.operation
        self._around: dict[int, Around] = {}
        self._phases = (
            {phase: f"{prefix}.{key}" for phase, key in PHASES.items()}
            if prefix is not None and operation == "phase.started"
            else {}
        )
        self.rolls_up = frozenset(self._phases.values())
        asked = {"error_type", "error_message", *_fields(mapping.name), *_fields(mapping.operation)}
        if mapping.client_if is not None:
            asked.add(mapping.client_if[0])
        if self._phases:
            asked.add("phase")
        self._of_start = Fields(started_by, targets or _own(started_by), asked, max_length)
        self._of_end = Fields(info, targets or _own(info), asked, max_length)
        first = (OPERATION_NAME, "error.type", "harken.operation", "harken.start_missing")
        ranked = (*first, *(key for key, _ in (*mapping.client_is, *pairs)))
        self._rank = {key: rank for rank, key in enumerate(ranked)}

    def span(
        self,
        ended: Envelope[Event],
        span_id: str,
        gathered: Gathered | None,
        resource: Resource,
    ) -> ReadableSpan:
        """
        Return the span of the operation that *ended* ends.
        """
        start, outcome, limit = ended.started, ended.outcome, self._max_length
        scope = ended.scope
        around = self._around.get(id(scope))
        # Where redaction changed anything in a scope, the attributes are another mapping, too.
        if around is None or around.given is not ended.attributes:
            around = self._look_around(ended)
        if not around.trace:
            around = self._in_trace(around, ended)
        attributes = around.attributes.copy()
        attributes[self._id] = ended.id[:limit]
        if outcome is not None:
            word = "success" if outcome is _SUCCESS else outcome.value
            attributes[self._outcome] = word[:limit]
        first: object = None
        if start is None:
            attributes["harken.start_missing"] = True
        else:
            attributes[self._started_id] = start.id[:limit]
            first = self._of_start.add(start.encoded(content=self._content), attributes)
        last = self._of_end.add(ended.encoded(content=self._content), attributes)
        start_ns, end_ns, skew_ns = _times(ended, start)
        if skew_ns:
            attributes["harken.clock_skew_ns"] = skew_ns
        if self._durations:
            self._add_members(self._durations, _duration_ms(ended), attributes)
        if self._operation:
            named = _fill(self._operation, ended, first, last)
            attributes[OPERATION_NAME] = named[:MAX_NAME]
        thing = self._thing(around.thing, attributes) if self._again else ""
        here = f"{around.trace}{span_id}{self._started}"
        links = self._links.ended(ended, here, thing, around.session, attributes)
        events: Sequence[SpanEvent] = () if gathered is None else gathered.events
        status = _UNSET
        if outcome is not _SUCCESS and is_error(outcome):
            error_type = said(first, last, "error_type") or ended.error_type
            attributes["error.type"] = _error_type(outcome, error_type)
            message = str(said(first, last, "error_message") or "")[:MAX_DESCRIPTION]
            status = Status(StatusCode.ERROR, message or None)
            if self._exceptions and (error_type or message):
                exception = SpanEvent("exception", _exception(error_type, message), end_ns)
                events = (*events, exception)
        if self._phases:
            phase = self._phases.get(str(said(first, last, "phase")))
            if phase is not None:
                attributes[phase] = round((end_ns - start_ns) / 1_000_000)
        if gathered is not None:
            gathered.add_to(attributes)
        kind = self._kind
        if (
            self._client_if is not None
            and said(first, last, self._client_if[0]) == self._client_if[1]
        ):
            kind = SpanKind.CLIENT
            attributes.update(self._client_is)
        if len(attributes) > self._max_attributes:
            attributes = self._most_important(attributes)
        # By position, which takes half the time, as far as no argument is deprecated.
        return ReadableSpan(
            self._named(ended, first, last),
            SpanContext(around.trace_id, int(span_id, 16), False, around.trace_flags),
            around.parent,
            resource,
            attributes,
            events,
            links,
            kind,
            status=status,
            start_time=start_ns,
            end_time=end_ns,
            instrumentation_scope=self._scope,
        )

    def bare(self, ended: Envelope[Event], error: Exception, resource: Resource) -> ReadableSpan:
        """
        Return a span of what is safe to read, after *error* was raised by what *ended* holds.
        """
        start_ns = encodable((ended if ended.started is None else ended.started).time_ns)
        trace_id, flags, parent = _trace(ended)
        attributes: Attributes = {
            "harken.operation": self._started,
            "harken.outcome": ended.outcome.value if ended.outcome is not None else "unknown",
            "harken.event.id": ended.id,
            "harken.unreadable": type(error).__name__[:MAX_NAME],
        }
        status = _UNSET
        if is_error(ended.outcome):
            attributes["error.type"] = _error_type(ended.outcome, None)
            status = Status(StatusCode.ERROR)
        return ReadableSpan(
            self._started.removesuffix(".started"),
            SpanContext(trace_id, int(ended.span_id, 16), False, flags),
            parent,
            resource,
            attributes,
            kind=self._kind,
            status=status,
            start_time=start_ns,
            end_time=max(start_ns, encodable(ended.time_ns)),
            instrumentation_scope=self._scope,
        )

    def _add_members(self, keys: Sequence[str], value: JSON, attributes: Attributes) -> None:
        found = attribute_value(value, self._max_length)
        if found is not None:
            for key in keys:
                attributes[key] = found

    def _thing(self, thing: str, attributes: Attributes) -> str:
        for key in self._again:
            value = attributes.get(key)
            if value is None:
                return ""
            thing = f"{thing} {value}"
        return thing

    def _look_around(self, ended: Envelope[Event]) -> Around:
        """
        Find out about the scope of *ended*, and remember it.
        """
        scope, given = ended.scope, ended.attributes
        values = {key: member(ended) for key, member in self._surroundings}
        attributes = self._constant | _all(values, "", self._max_length)
        attributes |= _all(given, "harken.attributes.", self._max_length)
        around = Around(scope, given, attributes)
        if scope.trace_id or scope.operation is not None:
            around = self._in_trace(around, ended)
        # An event may have attributes besides, which are no other's.
        if given is ended.redacted_scope.attributes:
            if len(self._around) >= MAX_SCOPES:
                self._around.clear()
            # The scope is kept, or its id might be given to another.
            self._around[id(scope)] = around
        return around

    def _in_trace(self, around: Around, ended: Envelope[Event]) -> Around:
        """
        Return *around* with what is true of the trace of *ended*.
        """
        attributes = around.attributes.copy()
        self._add_members(self._correlations, ended.correlation_id, attributes)
        trace_id, flags, parent = _trace(ended)
        trace = ended.trace_id
        of = "" if self._again_anywhere else attributes.get("harken.run.id") or trace
        session = attributes.get("harken.session.id") if parent is None else None
        thing = f"{self._started} {of}"
        return Around(
            around.scope, around.given, attributes, trace, trace_id, flags, parent, thing, session
        )

    def _named(self, ended: Envelope[Event], first: object, last: object) -> str:
        after = self._named_after and said(first, last, self._named_after)
        known = self._names.get(after) if isinstance(after, str) else None
        if known is not None:
            return known
        name = _fill(self._name, ended, first, last)[:MAX_NAME]
        if isinstance(after, str):
            if len(self._names) >= MAX_NAMES:
                self._names.clear()
            self._names[after] = name
        return name

    def _most_important(self, attributes: Attributes) -> Attributes:
        surplus = len(attributes) - self._max_attributes
        ranked = sorted(attributes, key=lambda key: self._rank.get(key, len(self._rank)))
        kept = {key: attributes[key] for key in ranked[: self._max_attributes - 1]}
        kept["harken.attributes_dropped"] = surplus + 1
        return kept


def _own(info: EventType) -> Targets:
    return {name: ([f"{GENERIC_PREFIX}{name}"], "") for name in info.fields}


def said(first: object, last: object, field: str) -> JSON:
    """
    Return what an operation's end says about *field*, or else its start; None when nobody does.
    """
    value = getattr(last, field, None)
    return getattr(first, field, None) if value is None or value == "" else value


def is_error(outcome: Outcome | None) -> bool:
    """
    Whether something broke. What was denied, cancelled or put off did not.
    """
    return outcome is Outcome.failure or outcome is Outcome.timeout or outcome is Outcome.orphaned


def point_attributes(point: Envelope[Event], prefix: str, limit: int) -> Attributes:
    """
    Return what *point* adds to the span it happens in, by the table.
    """
    sources = POINTS.get(point.name)
    if sources is None:
        return {}
    data = point.data(content=False)
    values: dict[str, JSON] = {}
    for key, source in sources:
        member = _member(source)
        values[key] = data.get(source) if member is None else member(point)
    return _all(values, f"{prefix}.", limit)


def span_event(point: Envelope[Event], *, content: bool, limit: int) -> SpanEvent:
    """
    Return *point* as an event of the span it happens in.
    """
    about = _all({"event.id": point.id, "outcome": _outcome(point)}, "harken.", limit)
    fields = _all(point.data(content=content), GENERIC_PREFIX, limit)
    return SpanEvent(point.name, about | fields, encodable(point.time_ns))


def log_attributes(point: Envelope[Event], *, content: bool, limit: int) -> Attributes:
    """
    Return what a log event says about *point*: whose it is, and what it says itself.
    """
    return _whose(point, limit) | _all(point.data(content=content), GENERIC_PREFIX, limit)


def exception_attributes(ended: Envelope[Event], *, limit: int) -> Attributes:
    """
    Return what a log event says about the exception that *ended* an operation.
    """
    data = ended.data(content=False)
    kind = data.get("error_type") or ended.error_type
    return _whose(ended, limit) | _exception(kind, data.get("error_message"))


def _whose(envelope: Envelope[Event], limit: int) -> Attributes:
    members = {key: _member(source) for key, source in COMMON}
    about = {key: member(envelope) for key, member in members.items() if member is not None}
    return _all(about, "", limit) | _all(envelope.attributes, "harken.attributes.", limit)


def _all(values: Data, prefix: str, limit: int) -> Attributes:
    found = {prefix + key: attribute_value(value, limit) for key, value in values.items()}
    return {key: value for key, value in found.items() if value is not None}


def _times(ended: Envelope[Event], start: Envelope[Event] | None) -> tuple[int, int, int]:
    """
    Return when it began and ended, and how far the wall clock was off by the monotonic one.

    The span is as long as the envelope's duration says, which is what a metric says, too.
    """
    seconds = ended.duration or 0
    if not 0 <= seconds <= LAST_NS:
        seconds = 0 if seconds < 0 else LAST_NS
    length = round(seconds * SECOND)
    if start is None:
        return encodable(ended.time_ns - length), encodable(ended.time_ns), 0
    begin = start.time_ns
    wall = ended.time_ns - begin
    skew = wall - length
    end = begin + length
    if begin < 0 or end > LAST_NS:
        begin, end = encodable(begin), encodable(end)
    return begin, end, skew if wall < 0 or abs(skew) >= SECOND else 0


def encodable(time_ns: int) -> int:
    """
    Return *time_ns*, or the nearest time that has an encoding.
    """
    return min(max(time_ns, 0), LAST_NS)


def _trace(ended: Envelope[Event]) -> tuple[int, TraceFlags, SpanContext | None]:
    """
    Return the trace's id and flags, and the span around that of *ended*.
    """
    trace_id, flags, parent = int(ended.trace_id, 16), ended.trace_flags, ended.parent_span_id
    known = _SAMPLED if flags == _SAMPLED else TraceFlags(flags)
    around = None if parent is None else SpanContext(trace_id, int(parent, 16), False, known)
    return trace_id, known, around


def _error_type(outcome: Outcome | None, kind: JSON) -> str:
    if outcome is Outcome.timeout:
        return "timeout"
    if kind:
        return str(kind) if _ERROR_TYPE.fullmatch(str(kind)) else "_OTHER"
    return "orphaned" if outcome is Outcome.orphaned else "_OTHER"


def _exception(kind: JSON, message: JSON) -> Attributes:
    found = {"type": str(kind or "")[:128], "message": str(message or "")[:MAX_DESCRIPTION]}
    return _all(found, "exception.", MAX_DESCRIPTION)


def _words(template: str) -> Words:
    """
    Take a template apart into words: a text, or the value that stands there and its stand-in.
    """
    words: list[tuple[str, Value | None]] = []
    for text, field, _, _ in string.Formatter().parse(template):
        words += [(word, None) for word in text.split()]
        if field:
            source, _, default = field.partition("|")
            words.append((default, _value(source)))
    return tuple(words)


def _fields(template: str) -> list[str]:
    """
    Return the fields that stand in a template.
    """
    found = [field for _, field, _, _ in string.Formatter().parse(template) if field]
    return [field.partition("|")[0] for field in found if field[0] not in "@#"]


def _only_field(template: str) -> str | None:
    """
    Return the field that is all that a template depends on, if it is so.
    """
    fields = _fields(template)
    return fields[0] if len(fields) == 1 and template.count("{") == 1 else None


def _fill(words: Words, ended: Envelope[Event], first: object, last: object) -> str:
    found = [text if get is None else str(get(ended, first, last) or text) for text, get in words]
    return " ".join(filter(None, found))


def _value(source: str) -> Value:
    """
    Return the function that gets what *source* names; see the table.
    """
    member = _member(source)
    if member is not None:
        return lambda envelope, first, last: member(envelope)
    return lambda envelope, first, last: said(first, last, source)


def _member(source: str) -> Member | None:
    """
    Return the function that gets a member of the envelope; None when *source* is a field.
    """
    if source.startswith("#"):
        attribute = source[1:]
        return lambda envelope: envelope.attributes.get(attribute)
    if source.startswith("@"):
        return _MEMBERS.get(source) or attrgetter(source[1:])
    return None


def _agent(envelope: Envelope[Event]) -> JSON:
    actor = envelope.actor
    if actor is not None and actor.startswith("agent:"):
        return actor.removeprefix("agent:")
    return envelope.attributes.get("agent_slug")


def _outcome(envelope: Envelope[Event]) -> JSON:
    return None if envelope.outcome is None else envelope.outcome.value


def _duration_ms(envelope: Envelope[Event]) -> JSON:
    return None if envelope.duration is None else max(round(envelope.duration * 1000), 0)


_MEMBERS: Mapping[str, Member] = {
    "@agent": _agent,
    "@outcome": _outcome,
    "@duration_ms": _duration_ms,
    "@present": lambda envelope: True,
}
