"""
Series: the numbers behind a metric, one cell for each combination of label values, bounded.

A cell is three or four attributes of plain numbers, which costs a tenth of a prometheus_client
child. Only where several processes share their numbers through files (``PROMETHEUS_MULTIPROC_DIR``)
does a cell hand on to such a child.
"""

from __future__ import annotations

import re
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from itertools import product
from math import isfinite
from numbers import Real
from types import MappingProxyType
from typing import Literal, Protocol, TypeAlias, cast

import prometheus_client
from prometheus_client.metrics_core import Metric
from prometheus_client.samples import Exemplar, Sample

from harken import Envelope, Event
from harken.errors import SettingsError
from harken.sinks.prometheus.rows import Kind, Merge

OTHER = "__other__"
"""The label value for what does not fit the bounds."""

MAX_LABEL = 128
"""Characters of a label value that are kept."""

LARGEST = 2.0**53
"""The largest number that is taken: from here on, adding 1 to a float changes nothing."""

REASONS = ("infinite", "nan", "negative", "not_a_number", "too_large", "unreadable")
"""Why a number is refused."""

Labels: TypeAlias = tuple[str, ...]
Trace: TypeAlias = tuple[str, str, float, float]
"""An exemplar: trace id, span id, number, and seconds since 1970-01-01 UTC."""

_METRIC_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_LABEL_NAME = re.compile(r"(?!__)[a-zA-Z_][a-zA-Z0-9_]*")
_RESERVED_LABELS = {"counter": (), "gauge": (), "histogram": ("le",)}


class Cell(Protocol):
    """
    One series of a counter or a gauge, or the series of one histogram.
    """

    def add(self, amount: float, source: Envelope[Event] | None = None, /) -> None:
        """
        Add to a counter or a gauge; observe in a histogram.

        Args:
            source: Whose trace is kept, if it is sampled.
        """


class Shown(Cell, Protocol):
    """
    A cell whose number is exposed by this process.
    """

    def samples(self, name: str, labels: Mapping[str, str]) -> Iterable[Sample]:
        """
        Return what is exposed, as of now.
        """
        ...


class Settable(Cell, Protocol):
    """
    One series of a gauge.
    """

    def set(self, value: float, /) -> None:
        """
        Replace the number.
        """


class CounterCell:
    """
    A number that only goes up, and the trace that made it go up last.
    """

    __slots__ = ("trace", "value")

    def __init__(self) -> None:
        self.value = 0.0
        self.trace: Trace | None = None

    def add(self, amount: float, source: Envelope[Event] | None = None, /) -> None:
        if source is not None and source.trace_flags & 1:
            self.trace = (source.trace_id, source.span_id, amount, time.time())
        self.value += amount

    def samples(self, name: str, labels: Mapping[str, str]) -> Iterable[Sample]:
        return (Sample(f"{name}_total", dict(labels), self.value, None, _exemplar(self.trace)),)


class GaugeCell:
    """
    A number that goes up and down.
    """

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def add(self, amount: float, _: Envelope[Event] | None = None, /) -> None:
        self.value += amount

    def set(self, value: float, /) -> None:
        self.value = value

    def samples(self, name: str, labels: Mapping[str, str]) -> Iterable[Sample]:
        return (Sample(name, dict(labels), self.value),)


class SlotsCell(GaugeCell):
    """
    A number of things, exposed as one series of value 1 for each of them.

    Slots are numbered from 0 without gaps, so that there are never more series than there were
    things at once.

    Args:
        limit: From here on, things are added up in one series.
    """

    __slots__ = ("_limit",)

    def __init__(self, limit: int) -> None:
        super().__init__()
        self._limit = limit

    def samples(self, name: str, labels: Mapping[str, str]) -> Iterable[Sample]:
        shown = min(int(self.value), self._limit)
        for slot in range(shown):
            yield Sample(name, {**labels, "slot": str(slot)}, 1.0)
        if self.value > shown:
            yield Sample(name, {**labels, "slot": OTHER}, self.value - shown)


class HistogramCell:
    """
    How many numbers fell into each bucket, their sum, and a trace for each bucket.

    Args:
        bounds: The upper bounds of the buckets, without infinity.

        shown: The same as label values, with infinity.
    """

    __slots__ = ("_bounds", "_shown", "counts", "sum", "traces")

    def __init__(self, bounds: Sequence[float], shown: Sequence[str]) -> None:
        self._bounds = bounds
        self._shown = shown
        self.counts = [0] * len(shown)
        self.sum = 0.0
        self.traces: dict[int, Trace] = {}

    def add(self, amount: float, source: Envelope[Event] | None = None, /) -> None:
        bucket = bisect_left(self._bounds, amount)
        if source is not None and source.trace_flags & 1:
            self.traces[bucket] = (source.trace_id, source.span_id, amount, time.time())
        self.counts[bucket] += 1
        self.sum += amount

    def samples(self, name: str, labels: Mapping[str, str]) -> Iterable[Sample]:
        total = 0
        for bucket, bound in enumerate(self._shown):
            total += self.counts[bucket]
            exemplar = _exemplar(self.traces.get(bucket))
            yield Sample(f"{name}_bucket", {**labels, "le": bound}, total, None, exemplar)
        yield Sample(f"{name}_count", dict(labels), total)
        yield Sample(f"{name}_sum", dict(labels), self.sum)


class SharedCell:
    """
    A cell whose number is added up with other processes' through a file.

    Args:
        add: What takes a number to add or observe.
    """

    def __init__(self, add: Callable[[float], None]) -> None:
        self._add = add

    def add(self, amount: float, _: Envelope[Event] | None = None, /) -> None:
        # Exemplars do not go through files.
        self._add(amount)


class SharedGaugeCell(SharedCell):
    """
    The same for a gauge.

    Args:
        set: What takes a number that replaces the one before.
    """

    def __init__(self, add: Callable[[float], None], set: Callable[[float], None]) -> None:
        super().__init__(add)
        self.set = set


class Later:
    """
    A cell that comes to be with its first number: a cost that nobody knows is not a cost of zero.

    Args:
        overflowed: Called with the metric's name for each number that goes to ``__other__``.
    """

    def __init__(self, family: Family, labels: Labels, overflowed: Callable[[str], None]) -> None:
        self._family = family
        self._labels = labels
        self._overflowed = overflowed
        self.add = self._add

    def set(self, value: float, /) -> None:
        cast("Settable", self._cell()).set(value)

    def _add(self, amount: float, source: Envelope[Event] | None = None, /) -> None:
        self._cell().add(amount, source)

    def _cell(self) -> Cell:
        cell = self._family.cell(self._labels)
        if self._family.cells.get(self._labels) is cell:
            self.add = cell.add
        else:
            self._overflowed(self._family.name)
        return cell


class Family:
    """
    A metric: its name, and a bounded number of cells. Not thread-safe; see `Metrics`.

    Args:
        labels:
            The closed set of each label's values, empty when any value may come.

        usual:
            Values that are expected of the labels whose set is not closed. When something is
            expected of each label, every combination is there at zero from the start; but not of
            a gauge that shows what was said last, for nothing was said yet.

        limit: Combinations of label values at most; what comes later goes to ``__other__``.

        shared: Whether the numbers are shared with other processes.

    Raises:
        SettingsError: The name or a label is not a valid one.
    """

    def __init__(
        self,
        name: str,
        kind: Kind,
        help: str,
        labels: Mapping[str, Sequence[str]],
        *,
        limit: int,
        buckets: Sequence[float] = (),
        slots: bool = False,
        merge: Merge = "sum",
        shared: bool = False,
        usual: Mapping[str, Sequence[str]] = MappingProxyType({}),
    ) -> None:
        _check_names(name, kind, labels)
        ascending = bool(buckets) and list(buckets) == sorted({*buckets})
        if kind == "histogram" and not (ascending and all(map(isfinite, buckets))):
            raise SettingsError(f"{name}: the buckets of a histogram must be numbers that ascend")
        self.name = name
        self.kind = kind
        self.help = help
        self.label_names = tuple(labels)
        self.cells: dict[Labels, Cell] = {}
        self._known = tuple(labels.values())
        self._expected = tuple(known or usual.get(label, ()) for label, known in labels.items())
        # The only numbers of which the least counts are 0 and 1.
        self._neutral = 1.0 if merge == "min" else 0.0
        self._begins_at_zero = all(self._expected) and merge != "last"
        self._limit = limit
        self._new = (
            _shared_cells(self, buckets, slots, merge)
            if shared
            else _own_cells(kind, buckets, slots, limit)
        )
        self.begin()

    def begin(self) -> None:
        """
        Begin anew: what is known from the start, at zero.
        """
        if self._neutral:
            # A forked child finds zeros in its own file for all that is shared.
            self.keep(())
        self.cells.clear()
        if self._begins_at_zero:
            for labels in product(*self._expected):
                self.cells[labels] = self._new(labels)

    def cell(self, labels: Labels) -> Cell:
        """
        Return the cell of *labels*, made when there is room, else that of ``__other__``.

        A counter's new cell comes with its siblings at zero: the same labels, with each value of
        the closed sets. The first failure of a tool that had worked before is then an increase.
        """
        cell = self.cells.get(labels)
        if cell is not None:
            return cell
        siblings = self._siblings(labels) if self.kind == "counter" else (labels,)
        if len(self.cells) + len(siblings) > self._limit:
            labels = tuple(
                word if known else OTHER for word, known in zip(labels, self._known, strict=True)
            )
            siblings = (labels,)
        for sibling in siblings:
            if sibling not in self.cells:
                self.cells[sibling] = self._new(sibling)
        return self.cells[labels]

    def gauge(self, labels: Labels) -> Settable:
        """
        Return the cell of *labels* of a gauge.
        """
        return cast("Settable", self.cell(labels))

    def _siblings(self, labels: Labels) -> Sequence[Labels]:
        choices = (
            known if word in known else (word,)
            for word, known in zip(labels, self._known, strict=True)
        )
        return tuple(product(*choices))

    def keep(self, wanted: Iterable[Labels]) -> None:
        """
        Let go of every cell but those of *wanted*.

        What is shared cannot go; it becomes a number that changes nothing in the other processes'.
        """
        for labels in self.cells.keys() - set(wanted):
            cell = self.cells[labels]
            if isinstance(cell, SharedGaugeCell):
                cell.set(self._neutral)
            else:
                del self.cells[labels]

    def empty(self) -> Metric:
        """
        Return the metric without its samples.
        """
        return Metric(self.name, self.help, self.kind)

    def metric(self) -> Metric:
        """
        Return the metric with its samples, as of now; not when they are shared.
        """
        metric = self.empty()
        for labels, cell in self.cells.items():
            named = dict(zip(self.label_names, labels, strict=True))
            metric.samples.extend(cast("Shown", cell).samples(self.name, named))
        return metric


def _check_names(name: str, kind: Kind, labels: Iterable[str]) -> None:
    if not _METRIC_NAME.fullmatch(name):
        raise SettingsError(
            f"{name!r} is no metric name; use letters, digits and underscores, no digit first"
        )
    for label in labels:
        if not _LABEL_NAME.fullmatch(label) or label in _RESERVED_LABELS[kind]:
            raise SettingsError(f"{name}: {label!r} cannot be a label of a {kind}; choose another")


def _own_cells(
    kind: Kind, buckets: Sequence[float], slots: bool, limit: int
) -> Callable[[Labels], Cell]:
    if kind == "counter":
        return lambda _: CounterCell()
    if kind == "gauge":
        return (lambda _: SlotsCell(limit)) if slots else (lambda _: GaugeCell())
    bounds = tuple(float(bound) for bound in buckets)
    shown = (*map(repr, bounds), "+Inf")
    return lambda _: HistogramCell(bounds, shown)


_MODES: Mapping[Merge, Literal["livesum", "livemin", "livemax", "mostrecent"]] = {
    "sum": "livesum",
    "min": "livemin",
    "max": "livemax",
    "last": "mostrecent",
}


def _shared_cells(
    family: Family, buckets: Sequence[float], slots: bool, merge: Merge
) -> Callable[[Labels], Cell]:
    names = (*family.label_names, "slot") if slots else family.label_names
    if family.kind == "counter":
        counter = prometheus_client.Counter(family.name, family.help, names, registry=None)
        return lambda labels: SharedCell((counter.labels(*labels) if names else counter).inc)
    if family.kind == "histogram":
        histogram = prometheus_client.Histogram(
            family.name, family.help, names, registry=None, buckets=buckets
        )
        return lambda labels: SharedCell(
            (histogram.labels(*labels) if names else histogram).observe
        )
    gauge = prometheus_client.Gauge(
        family.name, family.help, names, registry=None, multiprocess_mode=_MODES[merge]
    )
    if slots:
        return lambda labels: SharedCell(_slots(gauge, labels))

    def new(labels: Labels) -> SharedGaugeCell:
        child = gauge.labels(*labels) if names else gauge
        return SharedGaugeCell(child.inc, child.set)

    return new


def _slots(gauge: prometheus_client.Gauge, labels: Labels) -> Callable[[float], None]:
    taken = 0

    def add(amount: float) -> None:
        nonlocal taken
        # A series of a shared gauge cannot be removed; a free slot stays at 0.
        first, taken = taken, taken + int(amount)
        for slot in range(min(first, taken), max(first, taken)):
            gauge.labels(*labels, str(slot)).set(1.0 if amount > 0 else 0.0)

    return add


def _exemplar(trace: Trace | None) -> Exemplar | None:
    if trace is None:
        return None
    trace_id, span_id, amount, seconds = trace
    return Exemplar({"trace_id": trace_id, "span_id": span_id}, amount, seconds)


def word(value: object) -> str:
    """
    Return *value* as a label value: at most 128 printable characters.
    """
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    # The methods of the types themselves: those of a subclass may raise anything.
    if isinstance(value, int):
        text = int.__repr__(value) if int.bit_length(value) <= 64 else OTHER
    elif isinstance(value, float):
        text = float.__repr__(value)
    elif isinstance(value, str):
        text = str.__str__(value)[:MAX_LABEL]
    else:
        return OTHER
    if not text.isprintable():
        text = "".join(
            letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text
        )
    return text


def refusal(value: object) -> float | str:
    """
    Return *value* as a float that a metric can take, else the reason why it cannot.
    """
    if isinstance(value, bool) or not isinstance(value, (Real, Decimal)):
        return "not_a_number"
    try:
        number = float(value)
    except OverflowError:
        return "too_large"
    except ValueError:
        # A signalling NaN of Decimal.
        return "nan"
    if number != number:
        return "nan"
    if number < 0:
        return "negative"
    if number == float("inf"):
        return "infinite"
    return number if number <= LARGEST else "too_large"
