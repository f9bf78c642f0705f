"""
Feeding: from an envelope to the cells that it changes, found once and remembered.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias, cast

from harken import Envelope, Event
from harken.sinks.prometheus._series import (
    LARGEST,
    OTHER,
    Cell,
    Family,
    Later,
    Settable,
    Trace,
    refusal,
    word,
)
from harken.sinks.prometheus.rows import Feed, Label

MAX_OPEN = 65_536
"""Running operations that a gauge remembers; beyond, the oldest counts as ended."""

UNREADABLE = object()
"""In place of a value that raised when it was looked at."""

Act: TypeAlias = Callable[[Cell, Envelope[Event]], None]


class Vocabulary:
    """
    The values that a label may have: its closed set, or what was learnt up to a limit.
    """

    def __init__(self, label: Label, limit: int) -> None:
        self.label = label
        self._limit = limit
        self.begin()

    def begin(self) -> None:
        """
        Begin anew, with nothing learnt.
        """
        # Absent is always a value; it is not one that was learnt.
        self._words = {*self.label.known, "" if not self.label.known else OTHER}

    def word(self, envelope: Envelope[Event], raw: object) -> str:
        """
        Return the label value for *raw*, which `Label.read()` returned for *envelope*.
        """
        known = str.__str__(raw) if isinstance(raw, str) else word(raw)
        if known in self._words:
            return known
        if self.label.known:
            return "unknown" if raw is None and "unknown" in self._words else OTHER
        if len(self._words) > self._limit:
            return OTHER
        shown = word(_attempt(self.label.show, envelope))
        if not shown and raw is UNREADABLE:
            return OTHER
        self._words.add(shown)
        return shown


class Running:
    """
    The operations that a gauge counts, by the id of their start.

    An end counts only when its start did: a sink that is attached late, or that lost events to a
    full queue, never shows less than nothing.
    """

    def __init__(self) -> None:
        self._cells: dict[str, Cell] = {}

    def begin(self) -> None:
        """
        Begin anew, with nothing running.
        """
        self._cells.clear()

    def open(self, cell: Cell, envelope: Envelope[Event]) -> None:
        """
        Count one more.
        """
        if len(self._cells) >= MAX_OPEN:
            self._cells.pop(next(iter(self._cells))).add(-1.0, None)
        self._cells[envelope.id] = cell
        cell.add(1.0, None)

    def close(self, _: Cell, envelope: Envelope[Event]) -> None:
        """
        Count one less, where its start was counted.
        """
        started = envelope.started_event_id
        cell = None if started is None else self._cells.pop(started, None)
        if cell is not None:
            cell.add(-1.0, None)


class Target(NamedTuple):
    """
    One feed of one instrument.

    Attributes:
        labels: The vocabulary, or the fixed value, of each label.

        act: What happens to the cell; None when it only has to be there.

        certain: Whether every event has the number that is fed.
    """

    family: Family
    labels: Sequence[Vocabulary | str]
    act: Act | None
    certain: bool


class Plan:
    """
    What the events of one name feed.

    Args:
        limit: Combinations of raw label values that are remembered at most.

        overflowed: Called with the name of a metric whose bounds an event did not fit.
    """

    def __init__(
        self, targets: Sequence[Target], limit: int, overflowed: Callable[[str], None]
    ) -> None:
        self._targets = targets
        self._limit = limit
        self._overflowed = overflowed
        self._vocabularies = tuple(
            dict.fromkeys(
                part for target in targets for part in target.labels if isinstance(part, Vocabulary)
            )
        )
        self._reads = tuple(vocabulary.label.read for vocabulary in self._vocabularies)
        self._steps: dict[tuple[object, ...], Sequence[tuple[Act, Cell]]] = {}

    def begin(self) -> None:
        """
        Begin anew; the cells are others now.
        """
        self._steps.clear()

    def __call__(self, envelope: Envelope[Event]) -> None:
        try:
            raw = tuple([read(envelope) for read in self._reads])
            steps = self._steps[raw]
        except Exception:
            # New, or not even hashable; an author's own __hash__ or property may raise anything.
            raw = tuple([_attempt(read, envelope) for read in self._reads])
            steps = self._find(envelope, raw)
        for act, cell in steps:
            act(cell, envelope)

    def _find(
        self, envelope: Envelope[Event], raw: tuple[object, ...]
    ) -> Sequence[tuple[Act, Cell]]:
        words = {
            vocabulary: vocabulary.word(envelope, value)
            for vocabulary, value in zip(self._vocabularies, raw, strict=True)
        }
        steps: list[tuple[Act, Cell]] = []
        fits = True
        for family, parts, act, certain in self._targets:
            labels = tuple(part if isinstance(part, str) else words[part] for part in parts)
            if act is not None and not certain and labels not in family.cells:
                cell: Cell = Later(family, labels, self._overflowed)
                fitting = OTHER not in labels
            else:
                cell = family.cell(labels)
                fitting = OTHER not in labels and family.cells.get(labels) is cell
            if act is not None:
                steps.append((act, cell))
                if not fitting:
                    self._overflowed(family.name)
            fits = fits and fitting
        # Only what is its own label value is remembered: what had to be cut, redacted or refused
        # may be of any size, and each one of the refused counts.
        if fits and all(
            value is None or (isinstance(value, str) and str.__str__(value) == shown)
            for value, shown in zip(raw, words.values(), strict=True)
        ):
            if len(self._steps) >= self._limit:
                self._steps.clear()
            self._steps[raw] = steps
        return steps


def act_of(
    feed: Feed, name: str, running: Running, reject: Callable[[str, str], None], *, traces: bool
) -> Act | None:
    """
    Return what *feed* does to a cell; None when the cell only has to be there.

    Args:
        name: The metric.

        running: What the gauge counts; shared by all its feeds.

        reject: Called with *name* and the reason when a number cannot be taken.

        traces: Whether a sampled event's ids are kept as exemplars.
    """
    if feed.does == "create":
        return None
    if feed.does == "open":
        return running.open
    if feed.does == "close":
        return running.close
    trace_of = _trace if traces else _no_trace
    if feed.value is None:

        def count(cell: Cell, envelope: Envelope[Event]) -> None:
            cell.add(1.0, trace_of(envelope))

        return count

    read, per = feed.value, feed.per

    def unusual(value: object) -> float | None:
        if value is None:
            return None
        taken = refusal(value)
        if isinstance(taken, str):
            reject(name, taken)
            return None
        return taken / per

    def number(envelope: Envelope[Event]) -> float | None:
        try:
            value = read(envelope)
            # NaN compares as false, so one comparison lets through only what a metric can take.
            if (type(value) is float or type(value) is int) and 0 <= value <= LARGEST:
                return value / per
            return unusual(value)
        except Exception:  # an author's property or number may raise anything
            reject(name, "unreadable")
            return None

    if feed.does == "set":

        def set_to(cell: Cell, envelope: Envelope[Event]) -> None:
            value = number(envelope)
            if value is not None:
                cast("Settable", cell).set(value)

        return set_to

    def add(cell: Cell, envelope: Envelope[Event]) -> None:
        value = number(envelope)
        if value is not None:
            cell.add(value, trace_of(envelope))

    return add


def _attempt(read: Callable[[Envelope[Event]], object], envelope: Envelope[Event]) -> object:
    try:
        return read(envelope)
    except Exception:  # an author's property may raise anything
        return UNREADABLE


def _trace(envelope: Envelope[Event]) -> Trace | None:
    if envelope.trace_flags & 1:
        return {"trace_id": envelope.trace_id, "span_id": envelope.span_id}
    return None


def _no_trace(_: Envelope[Event]) -> Trace | None:
    return None
