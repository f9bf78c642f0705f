"""
What tests of code on a bus need: capture, a clock that stands still, ids that can be written down.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TypeGuard, TypeVar

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

        from harken import Bus
        from harken.catalog import ToolStarted
        from harken.testing import capture

        bus = Bus()
        with capture(bus) as heard, bus.operation(ToolStarted(tool_name="search")):
            pass
        assert heard.names == ["tool.started", "tool.completed"]
    """
    captured = Captured()
    subscription = bus.attach(captured, *types)
    try:
        yield captured
    finally:
        subscription.cancel()


def assert_published(
    heard: Captured, event_type: type[E], /, *, count: int | None = None, **expected: object
) -> list[Envelope[E]]:
    """
    Return the envelopes in *heard* that have an event of *event_type* with these fields, in order.

    Args:
        count: How many there must be; None for at least one.

        expected: Fields of the event or members of its envelope, and their values.

    Raises:
        AssertionError: There is none, or another number; the message says what was published.
    """
    published = [one for one in heard.envelopes if _is_of(one, event_type)]
    found = [one for one in published if expected == {name: _said(one, name) for name in expected}]
    wanted = f"{event_type.__name__} with {expected}" if expected else event_type.__name__
    if count is not None and count != len(found):
        raise AssertionError(f"{wanted} was published {len(found)} times, not {count} times")
    if not found and count != 0:
        others = [{name: _said(one, name) for name in expected} for one in published]
        instead = others if expected and others else heard.names or "nothing"
        raise AssertionError(f"{wanted} was not published, but {instead}")
    return found


def _is_of(envelope: Envelope[Event], event_type: type[E]) -> TypeGuard[Envelope[E]]:
    return isinstance(envelope.event, event_type)


def _said(envelope: Envelope[Event], name: str) -> object:
    event = envelope.event
    return getattr(event, name) if name in envelope.type.fields else getattr(envelope, name)


def snapshot(heard: Captured, /) -> str:
    """
    Return what was published as text: a line for each event, indented by what it is inside of.

    It is the same for every run that does the same: times, durations, digests, and values that
    nobody has set are left out, as is what harken says about itself (``harken.*``); the keys of
    operations are counted. All else is as it would leave the process, redacted.
    """
    depths: dict[str | None, int] = {}
    keys: dict[object, str] = {}
    lines = list[str]()
    for envelope in heard.envelopes:
        if envelope.name.startswith("harken."):
            continue
        # An end stands where its start does, and what happens within, one deeper.
        if envelope.type.is_start:
            depths[envelope.span_id] = depths.get(envelope.parent_span_id, -1) + 1
        is_edge = envelope.type.is_start or envelope.type.is_terminal
        depth = depths.get(envelope.span_id, -1) + (0 if is_edge else 1)
        outcome = "" if envelope.outcome is None else f" {envelope.outcome.value}"
        data = {
            name: value
            for name, value in envelope.data().items()
            if value not in (None, "", 0, [], {}) and not name.endswith(("_ms", "digest"))
        }
        for name in set(envelope.type.key) & set(data):
            data[name] = keys.setdefault(data[name], f"#{len(keys) + 1}")
        said = f" {json.dumps(data, sort_keys=True)}" if data else ""
        lines.append(f"{'  ' * max(depth, 0)}{envelope.name}{outcome}{said}\n")
    return "".join(lines)
