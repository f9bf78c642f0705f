"""
What a row of the instrument table is made of: instruments, their labels, and what feeds them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field as member
from operator import attrgetter
from types import MappingProxyType
from typing import Literal, TypeAlias

from harken import Envelope, Event, Health

Kind: TypeAlias = Literal["counter", "gauge", "histogram"]
Read: TypeAlias = Callable[[Envelope[Event]], object]
Merge: TypeAlias = Literal["sum", "min", "max", "last"]

AUDITED = "*audited*"
"""In place of an event's name: every event that belongs into the audit log."""


@dataclass(frozen=True, eq=False)
class Label:
    """
    Where the value of a label comes from.

    Attributes:
        read: Reads the value as it is in memory; what it returns is looked up, never shown.

        show: Reads the same value redacted; called once for each value that is not yet known.

        known:
            The closed set of values; each is there at zero from the start, and what is not among
            them counts as ``unknown``, or as ``__other__`` when that is not among them either. By
            default values are learnt, up to a bound.

        usual: Values that are there at zero from the start, too, where others may come.

        looks_at:
            All that *read* looks at, as dotted names from the envelope, so that events that are
            alike in them are read once. Names below ``started`` count on an end only. Empty when
            that cannot be said.
    """

    read: Read
    show: Read
    known: tuple[str, ...] = ()
    looks_at: tuple[str, ...] = ()
    usual: tuple[str, ...] = ()


@dataclass(frozen=True)
class Feed:
    """
    What an event does to an instrument.

    Attributes:
        on: The dotted names of the events, or `AUDITED`.

        does:
            ``add`` the value (for a histogram: observe it), ``set`` it, count the operation as
            running from its start (``open``) to its end (``close``), or only ``create`` the
            series, at zero, so that a rate sees its first increase.

        value: Reads the number; None counts 1. An event without the number feeds nothing.

        per: The number is divided by this.

        labels: Values of the instrument's labels that are the same for all these events.
    """

    on: tuple[str, ...]
    does: Literal["add", "set", "open", "close", "create"] = "add"
    value: Read | None = None
    per: float = 1.0
    labels: Mapping[str, str] = member(default_factory=dict[str, str])


@dataclass(frozen=True)
class Instrument:
    """
    A metric that events feed.

    Attributes:
        name: Without the prefix, and without ``_total``.

        buckets: The upper bounds of a histogram, ascending, without infinity.

        exemplars: Whether a sampled event leaves its trace and span id behind.

        slots:
            Whether a gauge is exposed as one series of value 1 for each unit, told apart by the
            label ``slot``, so that ``count()`` counts.

        merge: How several processes' values of a gauge become one.

        prefix: In place of the namespace.
    """

    name: str
    kind: Kind
    help: str
    labels: Mapping[str, Label]
    feeds: tuple[Feed, ...]
    buckets: tuple[float, ...] = ()
    exemplars: bool = False
    slots: bool = False
    merge: Merge = "sum"
    prefix: str | None = None


@dataclass(frozen=True)
class BusInstrument:
    """
    A metric of the bus itself, read from `Bus.health()` when metrics are collected.

    Attributes:
        read:
            Yields subscriber, label values and number. The subscriber tells numbers apart that
            are added up under the same label values.

        merge: How the values of several buses become one.
    """

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...]
    read: Callable[[Health], Iterable[tuple[str, tuple[str, ...], float]]]
    merge: Merge = "sum"


@dataclass(frozen=True)
class SinkInstrument:
    """
    A metric of a sink that says something about itself, read when metrics are collected.

    Attributes:
        labels: The closed set of each label's values.

        read: Yields label values and number; nothing for a sink that has no such number.
    """

    name: str
    kind: Kind
    help: str
    labels: Mapping[str, tuple[str, ...]]
    read: Callable[[object], Iterable[tuple[tuple[str, ...], float]]]


@functools.cache
def field(name: str, *known: str, usual: tuple[str, ...] = ()) -> Label:
    """
    Label with a field of the event; when it has none, with that of the start that it ends.
    """

    def read(envelope: Envelope[Event]) -> object:
        value = getattr(envelope.event, name, None)
        # The method of the type itself: that of a subclass may raise anything.
        absent = value is None or (isinstance(value, str) and not str.__len__(value))
        if absent and envelope.started is not None:
            return getattr(envelope.started.event, name, None)
        return value

    def show(envelope: Envelope[Event]) -> object:
        value = envelope.data(content=False).get(name)
        if envelope.started is not None and (value is None or value == ""):
            return envelope.started.data(content=False).get(name)
        return value

    return Label(read, show, known, (f"event.{name}", f"started.event.{name}"), usual)


def given(*known: str) -> Label:
    """
    Label with what each feed says.
    """
    return Label(_nothing, _nothing, known)


def number(name: str) -> Read:
    """
    Read a number from a field of the event.
    """

    def read(envelope: Envelope[Event]) -> object:
        return getattr(envelope.event, name, None)

    return read


duration: Read = attrgetter("duration")
"""Read how long the operation took, in seconds."""


def counter(
    name: str, help: str, labels: Mapping[str, Label], *feeds: Feed, exemplars: bool = False
) -> Instrument:
    """
    Declare a number that only goes up.
    """
    return Instrument(name, "counter", help, labels, feeds, exemplars=exemplars)


def gauge(
    name: str,
    help: str,
    labels: Mapping[str, Label],
    *feeds: Feed,
    slots: bool = False,
    merge: Merge = "sum",
) -> Instrument:
    """
    Declare a number that goes up and down.
    """
    return Instrument(name, "gauge", help, labels, feeds, slots=slots, merge=merge)


def histogram(
    name: str,
    help: str,
    labels: Mapping[str, Label],
    buckets: tuple[float, ...],
    *feeds: Feed,
    exemplars: bool = False,
) -> Instrument:
    """
    Declare a distribution.
    """
    return Instrument(name, "histogram", help, labels, feeds, buckets, exemplars)


def counts(*on: str, under: Mapping[str, str] = MappingProxyType({})) -> Feed:
    """
    Each event counts 1.
    """
    return Feed(on, labels=under)


def adds(
    value: Read,
    *on: str,
    per: float = 1.0,
    under: Mapping[str, str] = MappingProxyType({}),
) -> Feed:
    """
    Each event adds a number.
    """
    return Feed(on, "add", value, per, under)


observes = adds


def sets(value: Read, *on: str) -> Feed:
    """
    Each event says what the number is now.
    """
    return Feed(on, "set", value)


def opens(*on: str) -> Feed:
    """
    Each event starts something that the gauge counts.
    """
    return Feed(on, "open")


def closes(*on: str) -> Feed:
    """
    Each event ends something that the gauge counts.
    """
    return Feed(on, "close")


def creates(*on: str) -> Feed:
    """
    Each event makes the series be there, at zero.
    """
    return Feed(on, "create")


def _nothing(_: Envelope[Event]) -> object:
    return None
