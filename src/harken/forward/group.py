"""
The far end: what arrived, for a group of consumers that share the work.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Protocol, TypeVar

import msgspec

from harken.errors import EventDataError, UnknownEventError
from harken.event import Event
from harken.forward._delay import delay_after
from harken.forward.target import ForwardError, UnavailableError
from harken.received import Received, received
from harken.record import CONTROL_TYPES

T = TypeVar("T")

REMEMBERED = 100_000
"""Events of which a consumer knows that it has had them."""


class Delivery(msgspec.Struct, frozen=True, gc=False):
    """
    One line as it is delivered to a consumer.

    Attributes:
        stream: Where it is to be acknowledged.

        name: What it is called there.

        source: The log that it came from.

        line: The record, letter for letter.

        again: Whether it was delivered before, to this or to another consumer.
    """

    stream: str
    name: str
    source: str
    line: bytes
    again: bool


class GroupReader(Protocol):
    """
    One consumer of a group, as an engine has it. It is used by one thread at a time.
    """

    def read(self, seconds: float, /) -> Sequence[Delivery]:
        """
        Return what is delivered to this consumer; nothing when there is nothing for so long.

        Raises:
            UnavailableError: It cannot be had just now.
        """
        ...

    def acknowledge(self, done: Sequence[Delivery], /) -> None:
        """
        Let nobody have these again.
        """
        ...

    def close(self) -> None:
        """
        Let go of the connection; it is made anew when it is needed.
        """
        ...


class Consumer:
    """
    The events that one member of a group of consumers gets, in the order of each log.

    Iterating ends never, unless *seconds* were given. An event is acknowledged when the next one
    is asked for: what a consumer that dies was working on is delivered to another one. So an event
    may come twice; those that this consumer has had are left out.

    Args:
        reader: What gets them from the engine.

        seconds: How long to wait for another one before iterating ends; None for ever.

        skip_unknown: Whether to pass over events whose type is not known here, and count them.
            Otherwise the first one is an error, and is delivered again.

    Attributes:
        consumed: How many events were yielded.

        duplicates: How many were left out because they had been there before.

        skipped: How many were of unknown types.
    """

    def __init__(
        self, reader: GroupReader, *, seconds: float | None = None, skip_unknown: bool = False
    ) -> None:
        self.consumed = 0
        self.duplicates = 0
        self.skipped = 0
        self._reader = reader
        self._seconds = seconds
        self._skip_unknown = skip_unknown
        self._done: list[Delivery] = []
        self._seen = _Recent[None]()
        self._starts = _Recent[Received[Event]]()

    def __iter__(self) -> Iterator[Received[Event]]:
        """
        Yield what arrives.

        Raises:
            UnknownEventError: A type is not known here; import the module that declares it.

            RefusedError: The engine will not have this consumer.
        """
        try:
            for delivery in self._deliveries():
                envelope = self._envelope(delivery)
                if envelope is not None:
                    self.consumed += 1
                    yield envelope
                    # Only now is it known that whoever has it is done with it.
                    self._seen.add(envelope.id, None)
                self._done.append(delivery)
        finally:
            self.close()

    def __enter__(self) -> Consumer:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """
        Acknowledge what was worked on, and let go; twice is allowed.
        """
        # What cannot be acknowledged is delivered once more, to somebody else.
        with suppress(UnavailableError):
            self._acknowledge()
        self._reader.close()

    def _deliveries(self) -> Iterator[Delivery]:
        attempts = 0
        deadline = self._deadline()
        while deadline is None or time.monotonic() < deadline:
            try:
                self._acknowledge()
                found = self._reader.read(1.0 if self._seconds is None else min(self._seconds, 1.0))
            except UnavailableError:
                self._reader.close()
                attempts += 1
                time.sleep(delay_after(attempts))
                continue
            attempts = 0
            if found:
                yield from found
                deadline = self._deadline()

    def _deadline(self) -> float | None:
        return None if self._seconds is None else time.monotonic() + self._seconds

    def _acknowledge(self) -> None:
        if self._done:
            self._reader.acknowledge(self._done)
            self._done.clear()

    def _envelope(self, delivery: Delivery) -> Received[Event] | None:
        try:
            members = _decode(delivery.line)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ForwardError(
                f"{delivery.name} of {delivery.stream} is no record: {error}; it was not written "
                "by a forwarder"
            ) from error
        if members.event_type in CONTROL_TYPES:
            return None
        if members.id in self._seen:
            self.duplicates += 1
            return None
        started = None
        if members.started_event_id is not None:
            started = self._starts.take(members.started_event_id)
        try:
            envelope = received(delivery.line, origin=delivery.source, started=started)
        except (UnknownEventError, EventDataError):
            if not self._skip_unknown:
                raise
            self.skipped += 1
            return None
        if members.outcome is None:
            self._starts.add(members.id, envelope)
        return envelope


class _Members(msgspec.Struct, gc=False):
    id: str
    event_type: str
    outcome: str | None = None
    started_event_id: str | None = None


_decode = msgspec.json.Decoder(_Members).decode


class _Recent(OrderedDict[str, T]):
    """
    The last `REMEMBERED` things, by id.
    """

    def add(self, name: str, value: T) -> None:
        """
        Remember one more.
        """
        self[name] = value
        if len(self) > REMEMBERED:
            self.popitem(last=False)

    def take(self, name: str) -> T | None:
        """
        Return one, and forget it.
        """
        return self.pop(name, None)
