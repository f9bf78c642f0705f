"""
What tests of code on a bus need: capture, a clock that stands still, ids that can be written down.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TypeVar

from harken import Bus, Clock, Envelope, Event, Ids

E = TypeVar("E", bound=Event)

START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
"""Where a `FixedClock` stands at first."""


class FixedClock(Clock):
    """
    A clock that moves only when it is told to. Safe from any thread.

    Args:
        start: Where it stands at first; aware.
    """

    def __init__(self, start: datetime = START) -> None:
        self._ns = int(start.timestamp()) * 1_000_000_000 + start.microsecond * 1000
        self._elapsed = 1
        self._lock = threading.Lock()
        self.time_ns: Callable[[], int] = self._now
        self.monotonic_ns: Callable[[], int] = self._monotonic

    def _now(self) -> int:
        return self._ns

    def _monotonic(self) -> int:
        return self._elapsed

    def advance(self, seconds: float) -> None:
        """
        Let *seconds* pass; a negative number steps the wall clock back, and only that.
        """
        step = round(seconds * 1e9)
        with self._lock:
            self._ns += step
            self._elapsed += max(step, 0)


def fixed_ids() -> Ids:
    """
    Return ids that depend on nothing but the time and the number of the event.
    """
    return Ids(bytes(range(32)))


def fixed_bus() -> Bus:
    """
    Return a bus with a `FixedClock` and `fixed_ids()`, so that whole records can be written down.
    """
    return Bus(clock=FixedClock(), ids=fixed_ids())


class Captured:
    """
    A sink that keeps what it hears, in order. Safe from any thread.

    Attributes:
        envelopes: Everything heard so far.
    """

    delivery = "inline"

    def __init__(self) -> None:
        self.envelopes: list[Envelope[Event]] = []

    def write(self, batch: Sequence[Envelope[Event]], /) -> None:
        """
        Keep *batch*.
        """
        self.envelopes.extend(batch)

    @property
    def events(self) -> list[Event]:
        """
        The events, without their envelopes.
        """
        return [envelope.event for envelope in self.envelopes]

    @property
    def names(self) -> list[str]:
        """
        The dotted names of the events.
        """
        return [envelope.name for envelope in self.envelopes]

    def of(self, event_type: type[E], /) -> list[E]:
        """
        Return the events of *event_type* and its subclasses.
        """
        return [event for event in self.events if isinstance(event, event_type)]

    def clear(self) -> None:
        """
        Forget everything heard so far.
        """
        self.envelopes.clear()


@contextmanager
def capture(bus: Bus, /, *types: type[Event]) -> Generator[Captured]:
    """
    Keep what is published on *bus* inside the block: events of *types*, or all.

    .. code-block:: python

        with capture(bus) as heard:
            agent.run()
        assert heard.names == ["run.started", "run.completed"]
    """
    captured = Captured()
    subscription = bus.attach(captured, *types)
    try:
        yield captured
    finally:
        subscription.cancel()
