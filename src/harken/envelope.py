"""
Envelopes: an event plus everything the bus knows about it; ids and clocks.
"""

from __future__ import annotations

import os
import re
import string
import time
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Generic, TypeVar

import msgspec
from msgspec.structs import force_setattr

from harken.event import JSON, Event, EventType, Outcome
from harken.scope import root_flags

if TYPE_CHECKING:
    from harken.body import Body, Encoder
    from harken.scope import Scope

E_co = TypeVar("E_co", bound=Event, covariant=True)

_MASK_62 = (1 << 62) - 1
_MASK_64 = (1 << 64) - 1

# An odd multiplier visits every 64-bit value once before it repeats (a Weyl sequence), so ids of
# one process never collide; this one is 2**64 / golden ratio, which spreads them evenly.
_STEP = 0x9E3779B97F4A7C15

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

# Less than this is a correction, or two looks that were not at the same moment.
_STEP_BACK_NS = 1_000_000_000

# What the ids of envelopes look like.
_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


MAX_CLEANED = 4
"""Buses for which what they made of a scope is kept."""


class Clock:
    """
    The wall clock, in nanoseconds since 1970-01-01 UTC, and the monotonic clock, of which only
    differences mean anything. Subclass it to put another time in.
    """

    # The functions themselves, not methods around them: they are called for every event.
    time_ns: Callable[[], int] = staticmethod(time.time_ns)
    monotonic_ns: Callable[[], int] = staticmethod(time.monotonic_ns)


class ClockWatch:
    """
    Notices that a wall clock was set back, by the monotonic clock beside it. Not thread-safe.

    Attributes:
        steps_back: How often it was found more than a second behind where it should have been.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._ahead = self._look()
        self.steps_back = 0

    def _look(self) -> int:
        # Who is kept waiting between the two clocks finds the wall clock late, and never early.
        return max(self._clock.time_ns() - self._clock.monotonic_ns() for _ in range(2))

    def look(self) -> None:
        """
        Look at the clocks, and count a step back since the last look.
        """
        before, self._ahead = self._ahead, self._look()
        if before - self._ahead > _STEP_BACK_NS:
            self.steps_back += 1


class Ids:
    """
    Makes ids as pure functions of a salt, a time and a sequence number.

    Args:
        salt: 32 bytes that no other process has; random by default.
    """

    def __init__(self, salt: bytes | None = None) -> None:
        salt = os.urandom(32) if salt is None else salt
        self._event = int.from_bytes(salt[:8])
        self._span = int.from_bytes(salt[8:16])
        self._trace = int.from_bytes(salt[16:32])
        self._trace_front = (self._trace >> 64).to_bytes(8).hex()
        # The last milliseconds that were asked for, as text.
        self._front = (-1, "")

    def event_id(self, time_ns: int, seq: int) -> str:
        """
        Return a UUIDv7 (RFC 9562, method 3: the 12 bits after the milliseconds are time, too).
        """
        milliseconds, rest = divmod(time_ns, 1_000_000)
        # Two bits of variant before the 62 that are ours.
        tail = ((self._event + seq * _STEP) & _MASK_62 | 0b10 << 62).to_bytes(8).hex("-", 6)
        before, front = self._front
        if before != milliseconds:
            text = f"{milliseconds & 0xFFFFFFFFFFFF:012x}"
            front = f"{text[:8]}-{text[8:]}-7"
            # Put there at once, as other threads read it.
            self._front = (milliseconds, front)
        return f"{front}{rest * 4096 // 1_000_000:03x}-{tail}"

    def span_id(self, seq: int) -> str:
        """
        Return 16 hex digits, never all zero.
        """
        return ((self._span + seq * _STEP) & _MASK_64 or 1).to_bytes(8).hex()

    def key(self, number: int) -> str:
        """
        Return 16 hex digits for an operation whose author gave no key.
        """
        return f"{((self._event ^ self._span) + number * _STEP) & _MASK_64:016x}"

    def trace_id(self, seq: int) -> str:
        """
        Return 32 hex digits, never all zero; the low half is spread evenly, as samplers expect.
        """
        low = (self._trace + seq * _STEP) & _MASK_64
        return self._trace_front + (low or 1).to_bytes(8).hex()


class Mint:
    """
    What a bus stamps envelopes with: clock, ids, and the encoder of their bodies.

    Args:
        encoder: Makes the encoder; called when the first body is wanted, not before.
    """

    def __init__(self, clock: Clock, ids: Ids, encoder: Callable[[], Encoder]) -> None:
        self.clock = clock
        self.time_ns = clock.time_ns
        self.monotonic_ns = clock.monotonic_ns
        self.ids = ids
        self._make_encoder = encoder
        self._encoder: Encoder | None = None

    @property
    def encoder(self) -> Encoder:
        """
        The encoder, made on first use.
        """
        if self._encoder is None:
            self._encoder = self._make_encoder()
        return self._encoder

    def with_encoder(self, encoder: Callable[[], Encoder]) -> Mint:
        """
        Return a mint with another encoder.
        """
        return Mint(self.clock, self.ids, encoder)

    def renewed(self) -> Mint:
        """
        Return a mint for a forked child: same clock and encoder, ids of its own.
        """
        mint = Mint(self.clock, Ids(), self._make_encoder)
        mint._encoder = self._encoder
        return mint

    def clean(self, scope: Scope) -> Scope:
        """
        Return a scope with the texts and attributes of *scope*, redacted and bounded; made once
        for all that have the same.
        """
        scope = scope.like or scope
        for encoder, cleaned in scope.cleaned:
            if encoder is self._encoder:
                return cleaned
        cleaned = scope.map_texts(self.encoder.texts)
        # Hardly ever is there more than one bus. Twice at once does no harm.
        others = scope.cleaned[: MAX_CLEANED - 1]
        force_setattr(scope, "cleaned", ((self.encoder, cleaned), *others))
        return cleaned


class Envelope(msgspec.Struct, Generic[E_co], frozen=True, eq=False):
    """
    An event, and everything the bus knows about it. Read only, and safe from any thread.

    Envelopes come from `Bus.publish()`. All text here is redacted, except for *event*, which is
    the author's own object and stays in memory.

    Attributes:
        event: What was published.

        type: What the class keywords of the event's type say.

        time_ns: When it happened, in nanoseconds since 1970-01-01 UTC.

        mono_ns:
            The same on the monotonic clock; 0 when the publisher gave the time, and on events
            that belong to no operation.

        seq: The number of the event on its bus, in order of publishing.

        audit: Whether it belongs into the audit log.

        outcome: None only on a start.

        started: On a terminal, the envelope of its start; in memory only.
    """

    event: E_co
    type: EventType
    time_ns: int
    mono_ns: int
    seq: int
    audit: bool
    outcome: Outcome | None
    _scope: Scope
    _mint: Mint
    started: Envelope[Event] | None = None
    causes: tuple[str, ...] = ()
    _attributes: Mapping[str, JSON] | None = None
    _error_type: str | None = None
    _raw: bytes | None = None
    _body: Body | None = None
    _id: str | None = None
    _trace_id: str | None = None
    _span_id: str | None = None
    _merged: Mapping[str, JSON] | None = None
    _counts: Mapping[str, int] | None = None
    _resource: str | None = None

    def __repr__(self) -> str:
        return f"<Envelope {self.name} seq={self.seq} id={self.id}>"

    @property
    def scope(self) -> Scope:
        """
        The ambient context it was published in; not redacted.
        """
        return self._scope

    @property
    def redacted_scope(self) -> Scope:
        """
        Its texts and attributes, redacted and bounded: one object for all events of a scope, also
        in operations within, so that a sink can remember what it made of it. The rest of it, such
        as the trace, is that of one of them.
        """
        return self._mint.clean(self._scope)

    @property
    def name(self) -> str:
        """
        The dotted name of the event's type.
        """
        return self.type.name

    @property
    def time(self) -> datetime:
        """
        When it happened: an aware UTC datetime with microseconds.
        """
        seconds, rest = divmod(self.time_ns, 1_000_000_000)
        return datetime.fromtimestamp(seconds, UTC).replace(microsecond=rest // 1000)

    @property
    def id(self) -> str:
        """
        The event's UUIDv7.
        """
        known = self._id
        if known is None:
            known = self._mint.ids.event_id(self.time_ns, self.seq)
            force_setattr(self, "_id", known)
        return known

    @property
    def trace_id(self) -> str:
        """
        The W3C trace id: 32 hex digits.
        """
        known = self._trace_id
        if known is None:
            known = self._find_trace_id()
            force_setattr(self, "_trace_id", known)
        return known

    def _find_trace_id(self) -> str:
        if self.started is not None:
            return self.started.trace_id
        if self._scope.operation is not None:
            return self._scope.operation.trace_id
        return self._scope.trace_id or self._mint.ids.trace_id(self.seq)

    @property
    def span_id(self) -> str:
        """
        The W3C span id: a start's own, a terminal's start's, and the enclosing operation's else.
        """
        known = self._span_id
        if known is None:
            known = self._find_span_id()
            force_setattr(self, "_span_id", known)
        return known

    def _find_span_id(self) -> str:
        if self.started is not None:
            return self.started.span_id
        scope = self._scope
        if self.type.is_terminal or self.type.is_start:
            return self._mint.ids.span_id(self.seq)
        if scope.operation is not None:
            return scope.operation.span_id
        return scope.span_id or self._mint.ids.span_id(self.seq)

    @property
    def parent_span_id(self) -> str | None:
        """
        The span that the operation, or the operation around a point event, is part of.
        """
        if self.started is not None:
            return self.started.parent_span_id
        operation = self._scope.operation
        if self.type.is_start or self.type.is_terminal:
            return self._scope.span_id if operation is None else operation.span_id
        return None if operation is None else operation.parent_span_id

    @property
    def trace_flags(self) -> int:
        """
        The W3C trace flags; bit 0 says that the trace is sampled.
        """
        if self.started is not None:
            return self.started.trace_flags
        scope = self._scope
        if scope.operation is not None:
            return scope.operation.trace_flags
        return scope.trace_flags if scope.trace_id else root_flags(self.trace_id)

    @property
    def started_event_id(self) -> str | None:
        """
        On a terminal, the id of its start.
        """
        return None if self.started is None else self.started.id

    @property
    def causation_id(self) -> str | None:
        """
        The id of the event that made this one happen.
        """
        if self.causes:
            first = self.causes[0]
            if _ID.fullmatch(first):
                return first
            cleaned = self._mint.encoder.texts({"causation_id": first}, {})["causation_id"]
            return None if cleaned is None else str(cleaned)
        if self.started is not None:
            return self.started.id
        return None if self._scope.operation is None else self._scope.operation.id

    @property
    def actor(self) -> str | None:
        """
        Who acted, as ``kind:id``; kinds are user, agent, service and system.
        """
        return self.redacted_scope.actor

    @property
    def on_behalf_of(self) -> str | None:
        """
        For whom the actor acted, as ``kind:id``.
        """
        return self.redacted_scope.on_behalf_of

    @property
    def session_id(self) -> str | None:
        """
        The session of the scope.
        """
        return self.redacted_scope.session_id

    @property
    def run_id(self) -> str | None:
        """
        The run of the scope.
        """
        return self.redacted_scope.run_id

    @property
    def parent_run_id(self) -> str | None:
        """
        The run that this run is part of.
        """
        return self.redacted_scope.parent_run_id

    @property
    def phase(self) -> str | None:
        """
        The phase of the scope, such as ``analysis`` or ``execution``.
        """
        return self.redacted_scope.phase

    @property
    def correlation_id(self) -> str:
        """
        What ties the events of one assignment together: the caller's own id, else the trace id.
        """
        return self.redacted_scope.correlation_id or self.trace_id

    @property
    def request_id(self) -> str | None:
        """
        The request of the scope.
        """
        return self.redacted_scope.request_id

    @property
    def source(self) -> str | None:
        """
        The code that vouches for the event, such as an adapter.
        """
        return self.redacted_scope.source

    @property
    def attributes(self) -> Mapping[str, JSON]:
        """
        The scope's attributes and the event's own: at most 256 JSON scalars.
        """
        if self._attributes is None:
            return self.redacted_scope.attributes
        if self._merged is None:
            counts: dict[str, int] = {}
            merged = {
                **self.redacted_scope.attributes,
                **self._mint.encoder.texts(dict(self._attributes), counts),
            }
            force_setattr(self, "_counts", counts)
            force_setattr(self, "_merged", merged)
        assert self._merged is not None
        return self._merged

    @property
    def action(self) -> str:
        """
        The verb of the event's type.
        """
        return self.type.action

    @property
    def resource(self) -> str:
        """
        What was acted on: the type's template, filled. When a part is missing, that of the
        start, else ``unknown``.
        """
        known = self._resource
        if known is None:
            known = self._find_resource()
            force_setattr(self, "_resource", known)
        return known

    def _find_resource(self) -> str:
        parts = _template(self.type.resource)
        body = self._make_body()
        values = self.data() if body.redacted or body.truncated else None
        text = ""
        for literal, field in parts:
            text += literal
            if field is None:
                continue
            if field not in self.type.fields:
                value = getattr(self, field)
            else:
                value = getattr(self.event, field)
                if values is not None or not _is_plain(value):
                    value = (values or self.data()).get(field)
            if value is None or value == "":
                return "unknown" if self.started is None else self.started.resource
            text += value if isinstance(value, str) else msgspec.json.encode(value).decode()
        if len(text) <= 512 and text.isascii():
            return text
        return text[:512].encode("utf-8", "replace").decode()

    @property
    def duration(self) -> float | None:
        """
        How long it took, in seconds; None when that is not known.

        Of an operation's end it is the difference of the monotonic clocks, or of the times that
        the publisher gave. Elsewhere it is what the event itself says in ``duration_ms``, as far
        as a float can hold it.
        """
        start = self.started
        if start is not None:
            measured = self.mono_ns and start.mono_ns
            taken = self.mono_ns - start.mono_ns if measured else self.time_ns - start.time_ns
            # An end that came before its start says nothing about how long it took.
            if taken >= 0:
                return taken / 1e9
        milliseconds = getattr(self.event, "duration_ms", None)
        if not isinstance(milliseconds, int) or not milliseconds:
            return None
        try:
            return milliseconds / 1000
        except OverflowError:
            return None

    @property
    def error_type(self) -> str | None:
        """
        The class of the error, when there was one.
        """
        own = getattr(self.event, "error_type", None)
        if own is not None and (own.__class__ is not str or self._make_body().redacted):
            own = self.data().get("error_type")
            if own is not None and not isinstance(own, str):
                own = msgspec.json.encode(own).decode()
        return own[:256] if own else self._error_type

    @property
    def body(self) -> bytes:
        """
        The event's own fields as a redacted ASCII JSON object, with the content that is captured.
        """
        return self._make_body().full

    def encoded(self, *, content: bool = True) -> bytes:
        """
        Return the body, with or without the captured content; digest and size always stay.
        """
        body = self._make_body()
        return body.full if content else body.outline

    def data(self, *, content: bool = True) -> dict[str, JSON]:
        """
        Return the decoded body: a fresh dict on every call.
        """
        decoded: dict[str, JSON] = msgspec.json.decode(self.encoded(content=content))
        return decoded

    @property
    def redacted(self) -> Mapping[str, int]:
        """
        How many secrets of each kind were taken out of the body, the scope and the attributes.
        """
        body, scope = self._make_body().redacted, self.redacted_scope.redacted
        if self._attributes is None and not scope:
            return body
        _ = self.attributes
        if not scope and not self._counts:
            return body
        return dict(sum(map(Counter, (body, scope, self._counts or {})), Counter[str]()))

    @property
    def truncated(self) -> Mapping[str, tuple[int, str]]:
        """
        From the path of what was cut out of the body to its size in bytes and its SHA-256.
        """
        return self._make_body().truncated

    @property
    def waiting_bytes(self) -> int:
        """
        The bytes of payload that it holds while it waits in a queue.
        """
        return len(self._raw or b"")

    def snapshot(self) -> None:
        """
        Take the payload's JSON now, so that no later mutation changes what leaves the process.
        """
        if self._raw is None and self._body is None:
            raw = self._mint.encoder.raw(self.event)
            force_setattr(self, "_raw", raw)

    def _make_body(self) -> Body:
        known = self._body
        if known is None:
            encoder = self._mint.encoder
            raw = encoder.raw(self.event) if self._raw is None else self._raw
            known = encoder.body(self.type, raw)
            force_setattr(self, "_body", known)
        return known


def _is_plain(value: object) -> bool:
    # A subclass may print as anything, or refuse to.
    if isinstance(value, int):
        return value.__class__ is int and -_MASK_62 < value < _MASK_62
    return value is None or value.__class__ is str


@cache
def _template(resource: str) -> tuple[tuple[str, str | None], ...]:
    return tuple((text, field) for text, field, _, _ in string.Formatter().parse(resource))
