"""
Envelopes that were made in another process: what a record says, they say.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeVar

import msgspec

from harken.envelope import Clock, Envelope, Ids, Mint
from harken.errors import EventDataError
from harken.event import JSON, Event, Outcome, decode, describe
from harken.scope import Scope

if TYPE_CHECKING:
    from harken.body import Encoder

E_co = TypeVar("E_co", bound=Event, covariant=True)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Received(Envelope[E_co], frozen=True, eq=False):
    """
    An envelope that was read from a record; ids, times and trace are those of its origin.

    Attributes:
        line: The record, letter for letter.

        origin: The log that it came from; empty when nobody said.
    """

    line: bytes = b""
    origin: str = ""
    _parent_span_id: str | None = None
    _started_event_id: str | None = None
    _redacted: Mapping[str, int] = MappingProxyType({})
    _truncated: Mapping[str, tuple[int, str]] = MappingProxyType({})

    @property
    def parent_span_id(self) -> str | None:
        """
        The span that it is part of.
        """
        return self._parent_span_id

    @property
    def started_event_id(self) -> str | None:
        """
        On a terminal, the id of its start.
        """
        return self._started_event_id

    @property
    def redacted(self) -> Mapping[str, int]:
        """
        How many secrets of each kind were taken out of it where it was published.
        """
        return self._redacted

    @property
    def truncated(self) -> Mapping[str, tuple[int, str]]:
        """
        What was cut out of it where it was published.
        """
        return self._truncated

    def renewed(self, mint: Mint, seq: int) -> Received[E_co]:
        """
        Return the same as an envelope of the bus that *mint* is of, where its number is *seq*.
        """
        return msgspec.structs.replace(self, seq=seq, _mint=mint, _body=None)


class _Record(msgspec.Struct):
    timestamp: str
    event_type: str
    metadata: msgspec.Raw
    id: str
    resource: str | None = None
    outcome: str | None = None
    occurred: str | None = None
    trace_id: str | None = None
    span_id: str | None = None
    parent_span_id: str | None = None
    causation_id: str | None = None
    started_event_id: str | None = None
    attributes: dict[str, JSON] = {}
    redacted: dict[str, int] = {}
    truncated: dict[str, tuple[int, str]] = {}
    actor: str | None = None
    session_id: str | None = None
    run_id: str | None = None
    parent_run_id: str | None = None
    on_behalf_of: str | None = None
    correlation_id: str | None = None
    request_id: str | None = None
    phase: str | None = None
    source: str | None = None


_decoder = msgspec.json.Decoder(_Record)


def _encoder() -> Encoder:
    from harken.body import Encoder
    from harken.event import CONTENT_KINDS
    from harken.redaction import Redactor

    # What its origin left in stays in; a bus that it is published on again decides anew.
    return Encoder(Redactor(), CONTENT_KINDS)


_mint = Mint(Clock(), Ids(), _encoder)


def received(
    line: bytes, *, origin: str = "", started: Envelope[Event] | None = None
) -> Received[Event]:
    """
    Return the envelope that a record tells of.

    Args:
        line: One line of an audit log.

        origin: The log that it came from.

        started: On a terminal, the envelope of its start, if that is known.

    Raises:
        UnknownEventError: No type has its name here; import the module that declares it.

        EventDataError: It is no record of an event, or does not fit its type.
    """
    try:
        record = _decoder.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise EventDataError(f"the line is no record of an event: {error}") from error
    event = decode(record.event_type, bytes(record.metadata))
    return Received(
        event,
        describe(event),
        _ns_of(record.occurred or record.timestamp),
        0,
        0,
        True,
        None if record.outcome is None else _outcome(record.outcome),
        _scope_of(record),
        _mint,
        started,
        () if record.causation_id is None else (record.causation_id,),
        _raw=bytes(record.metadata),
        _id=record.id,
        _trace_id=record.trace_id,
        _span_id=record.span_id,
        _resource=record.resource or "unknown",
        line=line,
        origin=origin,
        _parent_span_id=record.parent_span_id,
        _started_event_id=record.started_event_id,
        _redacted=record.redacted,
        _truncated=record.truncated,
    )


def _scope_of(record: _Record) -> Scope:
    return Scope(
        session_id=record.session_id,
        run_id=record.run_id,
        parent_run_id=record.parent_run_id,
        actor=record.actor,
        on_behalf_of=record.on_behalf_of,
        correlation_id=record.correlation_id,
        request_id=record.request_id,
        phase=record.phase,
        source=record.source,
        trace_id=record.trace_id or "",
        span_id=record.span_id,
        attributes=MappingProxyType(record.attributes),
    )


def _outcome(word: str) -> Outcome:
    try:
        return Outcome(word)
    except ValueError:
        return Outcome.unknown


def _ns_of(timestamp: str) -> int:
    try:
        since = datetime.fromisoformat(timestamp) - _EPOCH
    except (ValueError, TypeError) as error:
        raise EventDataError(f"{timestamp!r} is no time with a zone: {error}") from error
    return since // timedelta(microseconds=1) * 1000
