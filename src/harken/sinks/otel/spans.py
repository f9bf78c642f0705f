"""
From the envelope of an operation's end to the values of its span; no exporter is involved.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import TypeAlias

import msgspec

from harken import JSON, Envelope, Event, Outcome, Scope
from harken.sinks.otel.attributes import AttributeValue, attribute_value
from harken.sinks.otel.links import Links, SpanLink
from harken.sinks.otel.mapping import (
    COMMON,
    COMMON_PREFIXED,
    GENERIC_PREFIX,
    PHASES,
    POINTS,
    SPANS,
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

SECOND = 1_000_000_000

Attributes: TypeAlias = dict[str, AttributeValue]
Data: TypeAlias = Mapping[str, JSON]
Member: TypeAlias = Callable[[Envelope[Event]], JSON]

_OF_THE_EVENT = frozenset(
    ("@correlation_id", "@duration_ms", "@id", "@outcome", "@started_event_id")
)
"""The sources that differ between events of one scope."""

# An error's class or a protocol's code; anything else may be a text that never comes again.
_ERROR_TYPE = re.compile(r"-?[A-Za-z0-9_][A-Za-z0-9_.:\-]{0,127}")


class SpanEvent(msgspec.Struct, frozen=True):
    """
    A moment in a span.
    """

    name: str
    time_ns: int
    attributes: Attributes


class Span(msgspec.Struct, frozen=True):
    """
    A finished span with the ids of its envelopes. Times are nanoseconds since 1970 UTC.

    Attributes:
        parent_span_id: 0 on a root.

        error: Whether the status is ERROR; it is UNSET otherwise, and never OK.

        description: The status's; empty when there is none.
    """

    name: str
    client: bool
    trace_id: int
    span_id: int
    parent_span_id: int
    trace_flags: int
    start_ns: int
    end_ns: int
    error: bool
    description: str
    attributes: Attributes
    events: tuple[SpanEvent, ...] = ()
    links: tuple[SpanLink, ...] = ()


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


class Said:
    """
    The fields of an operation's end, and of its start where the end says nothing.
    """

    __slots__ = ("end", "start")

    def __init__(self, start: Data, end: Data) -> None:
        self.start = start
        self.end = end

    def get(self, field: str) -> JSON:
        """
        Return what is said about *field*; None when nothing is.
        """
        value = self.end.get(field)
        return self.start.get(field) if value is None or value == "" else value


Value: TypeAlias = Callable[[Envelope[Event], Said], JSON]
Words: TypeAlias = tuple[tuple[str, Value | None], ...]


class Recipe:
    """
    How operations of one type become spans: their entry of the table, taken apart once.

    Args:
        operation: The dotted name of the start.

        prefix: Of the application's own attributes; None for none of them.

        content: Whether content is exported.

        max_attributes: Attributes that are kept, in the order of the table.

        max_length: Characters of one text that are kept.

        links: Finds what spans go back to.

    Attributes:
        rolls_up: The attributes that the span around this one gets, too.
    """

    def __init__(
        self,
        operation: str,
        *,
        prefix: str | None,
        content: bool,
        max_attributes: int,
        max_length: int,
        links: Links,
    ) -> None:
        mapping = SPANS.get(operation)
        self._started = operation
        self._links = links
        self._generic = mapping is None
        if mapping is None:
            mapping = SpanMapping(name=operation.removesuffix(".started"))
        self._content = content
        self._max_attributes = max_attributes
        self._max_length = max_length
        self._name = _words(mapping.name)
        self._operation = _words(mapping.operation) if "{" in mapping.operation else ()
        self._again = mapping.again
        self._again_anywhere = mapping.again_anywhere
        self._client = mapping.kind == "client"
        self._client_if = mapping.client_if
        pairs = [*mapping.attributes, *COMMON]
        if prefix is not None:
            own = (*mapping.prefixed, *COMMON_PREFIXED)
            pairs += [(f"{prefix}.{key}", source) for key, source in own]
        if content:
            pairs += mapping.content
        self._fields: dict[str, tuple[list[str], str]] = {}
        self._members: dict[str, tuple[Member, list[str]]] = {}
        self._surroundings: list[tuple[str, Member]] = []
        for key, source in pairs:
            member = _member(source)
            if member is None:
                field, _, unit = source.partition(":")
                self._fields.setdefault(field, ([], unit))[0].append(key)
            elif source in _OF_THE_EVENT:
                self._members.setdefault(source, (member, []))[1].append(key)
            else:
                self._surroundings.append((key, member))
        self._constant: Attributes = {"harken.operation": operation}
        if mapping.operation and not self._operation:
            self._constant["gen_ai.operation.name"] = mapping.operation
        self._around: dict[int, tuple[Scope, Data, Attributes]] = {}
        self._phases = (
            {phase: f"{prefix}.{key}" for phase, key in PHASES.items()}
            if prefix is not None and operation == "phase.started"
            else {}
        )
        self.rolls_up = frozenset(self._phases.values())
        first = ("gen_ai.operation.name", "error.type", "harken.operation", "harken.start_missing")
        self._rank = {key: rank for rank, key in enumerate((*first, *(key for key, _ in pairs)))}

    def span(self, ended: Envelope[Event], gathered: Gathered | None = None) -> Span:
        """
        Return the span of the operation that *ended* ends.
        """
        start, content = ended.started, self._content
        said = Said(
            {} if start is None else start.data(content=content), ended.data(content=content)
        )
        start_ns, end_ns, skew_ns = _times(ended)
        attributes = self._attributes(ended, said)
        parent = ended.parent_span_id
        links = self._links_of(ended, attributes, parent)
        events = () if gathered is None else tuple(gathered.events)
        error, description = is_error(ended.outcome), ""
        if error:
            kind = said.get("error_type") or ended.error_type
            description = str(said.get("error_message") or "")[:MAX_DESCRIPTION]
            attributes["error.type"] = _error_type(ended.outcome, kind)
            if kind or description:
                events += (_exception(kind, description, end_ns),)
        if start is None:
            attributes["harken.start_missing"] = True
        if skew_ns:
            attributes["harken.clock_skew_ns"] = skew_ns
        if self._phases:
            phase = self._phases.get(str(said.get("phase")))
            if phase is not None:
                attributes[phase] = round((end_ns - start_ns) / 1_000_000)
        if gathered is not None:
            attributes.update(gathered.attributes)
            if gathered.dropped:
                attributes["harken.events_dropped"] = gathered.dropped
        if len(attributes) > self._max_attributes:
            attributes = self._most_important(attributes)
        return Span(
            name=_fill(self._name, ended, said)[:MAX_NAME],
            client=self._client or self._is_client(said),
            trace_id=int(ended.trace_id, 16),
            span_id=int(ended.span_id, 16),
            parent_span_id=0 if parent is None else int(parent, 16),
            trace_flags=ended.trace_flags,
            start_ns=start_ns,
            end_ns=end_ns,
            error=error,
            description=description,
            attributes=attributes,
            events=events,
            links=links,
        )

    def bare(self, ended: Envelope[Event], error: Exception) -> Span:
        """
        Return a span of what is safe to read, after *error* was raised by what *ended* holds.
        """
        start_ns = ended.time_ns if ended.started is None else ended.started.time_ns
        parent = ended.parent_span_id
        attributes: Attributes = {
            "harken.operation": self._started,
            "harken.outcome": ended.outcome.value if ended.outcome is not None else "unknown",
            "harken.event.id": ended.id,
            "harken.unreadable": type(error).__name__[:MAX_NAME],
        }
        if is_error(ended.outcome):
            attributes["error.type"] = _error_type(ended.outcome, None)
        return Span(
            name=self._started.removesuffix(".started"),
            client=self._client,
            trace_id=int(ended.trace_id, 16),
            span_id=int(ended.span_id, 16),
            parent_span_id=0 if parent is None else int(parent, 16),
            trace_flags=ended.trace_flags,
            start_ns=start_ns,
            end_ns=max(start_ns, ended.time_ns),
            error=is_error(ended.outcome),
            description="",
            attributes=attributes,
        )

    def _links_of(
        self, ended: Envelope[Event], attributes: Attributes, parent: str | None
    ) -> tuple[SpanLink, ...]:
        begun = ended if ended.started is None else ended.started
        attempt = attributes.get("harken.tool.attempt") if begun.causes else None
        return self._links.ended(
            ended,
            self._started,
            self._thing(ended, attributes) if self._again else "",
            parent,
            attributes.get("harken.session.id") if parent is None else None,
            again=isinstance(attempt, int) and attempt > 1,
        )

    def _thing(self, ended: Envelope[Event], attributes: Attributes) -> str:
        of = "" if self._again_anywhere else attributes.get("harken.run.id") or ended.trace_id
        thing = f"{self._started} {of}"
        for key in self._again:
            value = attributes.get(key)
            if value is None:
                return ""
            thing = f"{thing} {value}"
        return thing

    def _attributes(self, ended: Envelope[Event], said: Said) -> Attributes:
        limit = self._max_length
        attributes = self._of_surroundings(ended).copy()
        if self._operation:
            named = _fill(self._operation, ended, said)
            attributes["gen_ai.operation.name"] = named[:MAX_NAME]
        for member, keys in self._members.values():
            value = attribute_value(member(ended), limit)
            if value is not None:
                for key in keys:
                    attributes[key] = value
        # The inner loop of this sink: plain texts and numbers go the short way.
        fields = self._fields
        for data in (said.start, said.end):
            for field, said_value in data.items():
                if said_value is None or said_value == "":
                    continue
                target = fields.get(field)
                if target is None:
                    continue
                keys, unit = target
                value = _in_unit(said_value, unit) if unit else said_value
                kind = type(value)
                if kind is not int and (
                    kind is not str or len(value) > limit or not value.isascii()
                ):
                    value = attribute_value(value, limit)
                if value is not None:
                    for key in keys:
                        attributes[key] = value
        if self._generic:
            for data in (said.start, said.end):
                attributes |= _all(data, GENERIC_PREFIX, limit)
        return attributes

    def _of_surroundings(self, ended: Envelope[Event]) -> Attributes:
        """
        Return the attributes that all operations of this type in the same scope have.
        """
        scope, scope_attributes = ended.scope, ended.attributes
        known = self._around.get(id(scope))
        # The scope is kept, or its id might be given to another.
        if known is None or known[0] is not scope or known[1] is not scope_attributes:
            limit = self._max_length
            values = {key: member(ended) for key, member in self._surroundings}
            found = self._constant | _all(values, "", limit)
            found |= _all(scope_attributes, "harken.attributes.", limit)
            if len(self._around) >= MAX_SCOPES:
                self._around.clear()
            known = self._around[id(scope)] = (scope, scope_attributes, found)
        return known[2]

    def _is_client(self, said: Said) -> bool:
        if self._client_if is None:
            return False
        field, word = self._client_if
        return bool(said.get(field) == word)

    def _most_important(self, attributes: Attributes) -> Attributes:
        surplus = len(attributes) - self._max_attributes
        ranked = sorted(attributes, key=lambda key: self._rank.get(key, len(self._rank)))
        kept = {key: attributes[key] for key in ranked[: self._max_attributes - 1]}
        kept["harken.attributes_dropped"] = surplus + 1
        return kept


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
    said = Said({}, point.data(content=False))
    values = {key: _value(source)(point, said) for key, source in sources}
    return _all(values, f"{prefix}.", limit)


def span_event(point: Envelope[Event], *, content: bool, limit: int) -> SpanEvent:
    """
    Return *point* as an event of the span it happens in.
    """
    about = _all({"event.id": point.id, "outcome": _outcome(point)}, "harken.", limit)
    fields = _all(point.data(content=content), GENERIC_PREFIX, limit)
    return SpanEvent(point.name, point.time_ns, about | fields)


def _all(values: Data, prefix: str, limit: int) -> Attributes:
    found = {prefix + key: attribute_value(value, limit) for key, value in values.items()}
    return {key: value for key, value in found.items() if value is not None}


def _times(ended: Envelope[Event]) -> tuple[int, int, int]:
    """
    Return when it began and ended, and how far the wall clock was off by the monotonic one.

    The span is as long as the envelope's duration says, which is what a metric says, too.
    """
    length = max(round((ended.duration or 0) * SECOND), 0)
    start = ended.started
    if start is None:
        return max(ended.time_ns - length, 0), ended.time_ns, 0
    wall = ended.time_ns - start.time_ns
    skew = wall - length
    return start.time_ns, start.time_ns + length, skew if wall < 0 or abs(skew) >= SECOND else 0


def _error_type(outcome: Outcome | None, kind: JSON) -> str:
    if outcome is Outcome.timeout:
        return "timeout"
    if kind:
        return str(kind) if _ERROR_TYPE.fullmatch(str(kind)) else "_OTHER"
    return "orphaned" if outcome is Outcome.orphaned else "_OTHER"


def _exception(kind: JSON, message: str, time_ns: int) -> SpanEvent:
    said = {"type": str(kind or "")[:128], "message": message}
    return SpanEvent("exception", time_ns, _all(said, "exception.", MAX_DESCRIPTION))


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


def _fill(words: Words, ended: Envelope[Event], said: Said) -> str:
    found = [text if get is None else str(get(ended, said) or text) for text, get in words]
    return " ".join(filter(None, found))


def _value(source: str) -> Value:
    """
    Return the function that gets what *source* names; see the table.
    """
    member = _member(source)
    if member is not None:
        return lambda envelope, said: member(envelope)
    field, _, unit = source.partition(":")
    return lambda envelope, said: _in_unit(said.get(field), unit)


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


def _in_unit(value: JSON, unit: str) -> JSON:
    if unit == "nonzero":
        return value or None
    if unit == "seconds":
        return value / 1000 if isinstance(value, (int, float)) else None
    return value


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
