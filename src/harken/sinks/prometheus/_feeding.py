"""
Feeding: from an envelope to the cells that it changes, found once and remembered.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from operator import attrgetter
from typing import NamedTuple, TypeAlias, TypeVar, cast

from harken import Envelope, Event
from harken.sinks.prometheus._series import (
    LARGEST,
    MAX_LABEL,
    OTHER,
    Cell,
    Family,
    Later,
    Settable,
    refusal,
    word,
)
from harken.sinks.prometheus.rows import Feed, Label

T = TypeVar("T")

MAX_OPEN = 65_536
"""Running operations that a gauge remembers; beyond, the oldest counts as ended."""

UNREADABLE = object()
"""In place of a value that raised when it was looked at."""

Act: TypeAlias = Callable[[Cell, Envelope[Event]], None]
Steps: TypeAlias = Sequence[tuple[Act, Cell]]


class Vocabulary:
    """
    The values that a label may have: its closed set, or what is usual and what was learnt, up to
    a limit.
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
        self._words = {*self.label.known, *self.label.usual, "" if not self.label.known else OTHER}

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
            self._cells.pop(next(iter(self._cells))).add(-1.0)
        self._cells[envelope.id] = cell
        cell.add(1.0)

    def close(self, _: Cell, envelope: Envelope[Event]) -> None:
        """
        Count one less, where its start was counted.
        """
        started = envelope.started
        cell = None if started is None else self._cells.pop(started.id, None)
        if cell is not None:
            cell.add(-1.0)


class Memory:
    """
    What events did that were looked at before.

    Attributes:
        key: Looks at an event; events with equal keys have the same label values.
    """

    __slots__ = ("key", "steps")

    def __init__(self, key: Callable[[Envelope[Event]], object]) -> None:
        self.key = key
        self.steps: dict[object, Steps] = {}


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
        names = [vocabulary.label.looks_at for vocabulary in self._vocabularies]
        looks_at = list(dict.fromkeys(chain(*names))) if all(names) else []
        # What is no end has no start to look at.
        own = [name for name in looks_at if not name.startswith("started.")]
        self._of_others = Memory(attrgetter(*own) if own else self._read)
        self._of_ends = Memory(attrgetter(*looks_at) if looks_at else self._read)

    def begin(self) -> None:
        """
        Begin anew; the cells are others now.
        """
        self._of_others.steps.clear()
        self._of_ends.steps.clear()

    def feed(self, envelope: Envelope[Event]) -> None:
        """
        Do to the cells what *envelope* does.
        """
        memory = self._of_others if envelope.started is None else self._of_ends
        try:
            steps = memory.steps[memory.key(envelope)]
        except Exception:
            # New, or not even hashable; an author's own __hash__ or property may raise anything.
            steps = self._find(envelope, memory)
        for act, cell in steps:
            act(cell, envelope)

    def _read(self, envelope: Envelope[Event]) -> tuple[object, ...]:
        return tuple([read(envelope) for read in self._reads])

    def _find(self, envelope: Envelope[Event], memory: Memory) -> Steps:
        raw = [_attempt(read, envelope) for read in self._reads]
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
            self._remember(envelope, memory, steps)
        return steps

    def _remember(self, envelope: Envelope[Event], memory: Memory, steps: Steps) -> None:
        key = _attempt(memory.key, envelope)
        if key is UNREADABLE:
            # An event without one of the fields; their labels are not.
            memory.key = self._read
            memory.steps.clear()
            return
        parts = cast("tuple[object, ...]", key) if type(key) is tuple else (key,)
        # An author's own __hash__ may raise.
        if _attempt(hash, key) is not UNREADABLE and all(
            part is None or (isinstance(part, str) and str.__len__(part) <= MAX_LABEL)
            for part in parts
        ):
            if len(memory.steps) >= self._limit:
                memory.steps.clear()
            memory.steps[key] = steps


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
    if feed.value is None:

        def count(cell: Cell, envelope: Envelope[Event]) -> None:
            cell.add(1.0, envelope if traces else None)

        return count

    read, per, replaces = feed.value, feed.per, feed.does == "set"

    def unusual(value: object) -> float | None:
        if value is None:
            return None
        taken = refusal(value)
        if isinstance(taken, str):
            reject(name, taken)
            return None
        return taken / per

    def add(cell: Cell, envelope: Envelope[Event]) -> None:
        try:
            value = read(envelope)
            # NaN compares as false, so one comparison lets through only what a metric can take.
            if (type(value) is float or type(value) is int) and 0 <= value <= LARGEST:
                amount: float | None = value / per
            else:
                amount = unusual(value)
        except Exception:  # an author's property or number may raise anything
            reject(name, "unreadable")
            return
        if amount is None:
            return
        if replaces:
            cast("Settable", cell).set(amount)
        else:
            cell.add(amount, envelope if traces else None)

    return add


def _attempt(read: Callable[[T], object], value: T) -> object:
    try:
        return read(value)
    except Exception:  # an author's property may raise anything
        return UNREADABLE
