"""
Metrics: all families of one registry, what feeds them, and what collects them.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from itertools import count
from types import MappingProxyType
from typing import TypeAlias

from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from harken import Bus, Envelope, Event
from harken.errors import SettingsError
from harken.sinks.prometheus._feeding import Plan, Running, Target, Vocabulary, act_of
from harken.sinks.prometheus._series import REASONS, Family, Labels, refusal, word
from harken.sinks.prometheus.instruments import BUS_INSTRUMENTS, FAST, SINK_INSTRUMENTS
from harken.sinks.prometheus.rows import (
    AUDITED,
    Feed,
    Instrument,
    Kind,
    Label,
    Merge,
    SinkInstrument,
)

Key: TypeAlias = tuple[int, str, str, Labels]
"""A number of a subscriber: whose, of which metric, of which subscriber, under which labels."""

MAX_WORDS = 100
"""Values that are learnt for one label; at most as many as a metric may have series."""

GAUGES = (
    *(one.name for one in BUS_INSTRUMENTS if one.kind == "gauge"),
    *(one.name for one in SINK_INSTRUMENTS if one.kind == "gauge"),
)
"""What stands for now, and is no more when nobody says it any more."""

READING_TIMEOUT = 5.0
"""Seconds that a scrape waits for another one's reading of the buses, before it does without."""

SHARING_INTERVAL = 1.0
"""Seconds between two readings of the buses where the numbers are shared with other processes."""

_merged: Mapping[Merge, Callable[[float, float], float]] = {
    "sum": lambda old, new: old + new,
    "min": min,
    "max": max,
    "last": lambda _, new: new,
}


class Metrics:
    """
    The families of one registry. Safe from any thread, and from a signal handler.

    Args:
        namespace: In front of the names of *instruments*; may be empty.

        limit: Series of one metric at most.

        exemplars: Whether the instruments that may keep exemplars do.

        shared: Whether the numbers are shared with other processes.

    Raises:
        SettingsError: A name is not a valid one, or two metrics have the same.
    """

    def __init__(
        self,
        instruments: Sequence[Instrument],
        namespace: str,
        *,
        limit: int,
        exemplars: bool,
        shared: bool,
    ) -> None:
        self.made_of = (tuple(instruments), namespace, limit, exemplars)
        self._limit = limit
        self._exemplars = exemplars
        self._shared = shared
        self._pid = os.getpid()
        # Re-entrant: a signal handler that publishes may interrupt a write or a scrape.
        self._lock = threading.RLock()
        self._reading = threading.Lock()
        self._next_reading = 0.0
        self._readings = BusReadings()
        self._families: dict[str, Family] = {}
        self._vocabularies: dict[Label, Vocabulary] = {}
        self._running: list[Running] = []

        fed = [(one, self._family_of(one, namespace)) for one in instruments]
        for one in BUS_INSTRUMENTS:
            self._family(
                one.name, one.kind, one.help, dict.fromkeys(one.labels, ()), merge=one.merge
            )
        for other in SINK_INSTRUMENTS:
            self._family(other.name, other.kind, other.help, other.labels)
        self._lag = self._family(
            "harken_delivery_lag_seconds",
            "histogram",
            "Age of the oldest event of a batch when a sink takes it, in seconds; "
            "of batches whose oldest belongs to an operation.",
            {"sink": ()},
            buckets=FAST,
        )
        self._writing = self._family(
            "harken_sink_write_seconds",
            "histogram",
            "Time that a sink takes for a batch, in seconds; sampled where it is inline.",
            {"sink": ()},
            buckets=FAST,
        )
        self._publishing = self._family(
            "harken_publish_seconds",
            "histogram",
            "Time that publish() takes for a point event, in seconds; sampled.",
            {},
            buckets=FAST,
        )
        self._syncing = self._family(
            "harken_audit_fsync_seconds",
            "histogram",
            "Time that the disk takes to confirm what the audit log wrote, in seconds.",
            {},
            buckets=FAST,
        )
        labelled = tuple(name for name, family in self._families.items() if family.label_names)
        numeric = tuple(
            family.name for one, family in fed if any(feed.value is not None for feed in one.feeds)
        )
        self._series = self._family(
            "harken_metric_series",
            "gauge",
            "Series of a metric, a histogram's counted as one.",
            {"metric": labelled},
            merge="max",
        )
        self._overflowed = self._family(
            "harken_metric_series_overflowed",
            "counter",
            "Events whose label values did not fit the bounds of a metric.",
            {"metric": labelled},
        )
        self._rejected = self._family(
            "harken_metric_observations_rejected",
            "counter",
            "Numbers that a metric cannot take.",
            {"metric": numeric, "reason": REASONS},
        )
        self._build = self._family(
            "harken_build_info",
            "gauge",
            "Which version of harken this is.",
            {"version": (_version(),)},
            merge="max",
        )
        self._begin()
        targets = self._targets(fed)
        audited = targets.pop(AUDITED, [])
        self._plans = {name: self._plan(some) for name, some in targets.items()}
        # An audited event feeds one plan, too: reading the labels once is cheaper than twice.
        self._audited_plans = {
            name: self._plan([*some, *audited]) for name, some in targets.items()
        }
        self._other_audited = self._plan(audited)
        _hold_during_fork(self)

    def _family(
        self,
        name: str,
        kind: Kind,
        help: str,
        labels: Mapping[str, Sequence[str]],
        *,
        buckets: Sequence[float] = (),
        slots: bool = False,
        merge: Merge = "sum",
        usual: Mapping[str, Sequence[str]] = MappingProxyType({}),
    ) -> Family:
        if name in self._families:
            raise SettingsError(f"two metrics are called {name!r}; rename one of them")
        family = Family(
            name,
            kind,
            help,
            labels,
            limit=self._limit,
            buckets=buckets,
            slots=slots,
            merge=merge,
            shared=self._shared,
            usual=usual,
        )
        self._families[name] = family
        return family

    def _family_of(self, one: Instrument, namespace: str) -> Family:
        prefix = namespace if one.prefix is None else one.prefix
        name = one.name.removesuffix("_total") if one.kind == "counter" else one.name
        return self._family(
            f"{prefix}_{name}" if prefix else name,
            one.kind,
            one.help,
            {label: source.known for label, source in one.labels.items()},
            buckets=one.buckets,
            slots=one.slots,
            merge=one.merge,
            usual={label: source.usual for label, source in one.labels.items()},
        )

    def _targets(self, fed: Iterable[tuple[Instrument, Family]]) -> dict[str, list[Target]]:
        targets: dict[str, list[Target]] = {}
        for one, family in fed:
            running = Running()
            self._running.append(running)
            for feed in one.feeds:
                if feed.does in {"set", "open", "close"} and one.kind != "gauge":
                    raise SettingsError(f"{family.name}: only a gauge can {feed.does}")
                act = act_of(
                    feed,
                    family.name,
                    running,
                    self._reject,
                    traces=self._exemplars and one.exemplars,
                )
                labels = tuple(
                    self._part(feed, name, source) for name, source in one.labels.items()
                )
                target = Target(family, labels, act, feed.value is None)
                for name in feed.on:
                    targets.setdefault(name, []).append(target)
        return targets

    def _plan(self, targets: Sequence[Target]) -> Plan:
        return Plan(targets, self._limit, self._overflow)

    def _part(self, feed: Feed, name: str, label: Label) -> Vocabulary | str:
        if name in feed.labels:
            return feed.labels[name]
        if feed.does == "create" and label.known:
            # Any of them will do: a counter's cell comes with all the others.
            return label.known[0]
        if label not in self._vocabularies:
            self._vocabularies[label] = Vocabulary(label, min(MAX_WORDS, self._limit))
        return self._vocabularies[label]

    def _reject(self, name: str, reason: str) -> None:
        self._rejected.cell((name, reason)).add(1.0)

    def _overflow(self, name: str) -> None:
        self._overflowed.cell((name,)).add(1.0)

    def _begin(self) -> None:
        self._build.gauge((_version(),)).set(1.0)

    def write(self, batch: Sequence[Envelope[Event]]) -> None:
        """
        Feed the instruments with *batch*.

        Raises:
            Exception: The first of what envelopes raised; all others are counted.
        """
        failed: list[Exception] = []
        with self._lock:
            for envelope in batch:
                try:
                    plans = self._audited_plans if envelope.audit else self._plans
                    plan = plans.get(envelope.type.name)
                    if plan is not None:
                        plan.feed(envelope)
                    elif envelope.audit:
                        self._other_audited.feed(envelope)
                except Exception as error:
                    # Whatever is wrong with one envelope, its neighbours count.
                    failed.append(error)
        if self._shared and time.monotonic() >= self._next_reading:
            # Nobody collects from this process, so it says by itself how its buses are.
            self.read_buses(wait=0.0)
        if failed:
            raise failed[0]

    def measured(self, what: str, sink: str, seconds: float) -> None:
        """
        Count how long something took, as the bus tells it.
        """
        family = {
            "publish": self._publishing,
            "write": self._writing,
            "lag": self._lag,
            "sync": self._syncing,
        }.get(what)
        if family is None:
            return
        with self._lock:
            family.cell((word(sink),) if family.label_names else ()).add(seconds)

    def watch(self, bus: Bus) -> None:
        """
        Read *bus*'s health whenever metrics are collected, for as long as the bus exists.
        """
        self._readings.add(bus)
        bus.observe(self)

    def read_buses(self, wait: float | None = None) -> None:
        """
        Bring the buses' own metrics up to date.

        Args:
            wait: Seconds to wait for another thread that does the same.
        """
        # The buses' locks and ours are never held together, so that no order between them matters.
        if not self._reading.acquire(timeout=READING_TIMEOUT if wait is None else wait):
            return
        try:
            grown, current = self._readings.take()
        finally:
            self._reading.release()
        self._next_reading = time.monotonic() + SHARING_INTERVAL
        with self._lock:
            for name, labels, amount in grown:
                self._families[name].cell(labels).add(amount)
            for name, values in current.items():
                family = self._families[name]
                family.keep(values)
                for labels, value in values.items():
                    family.gauge(labels).set(value)
            for labels in self._series.cells:
                self._series.gauge(labels).set(len(self._families[labels[0]].cells))

    def share(self, wait: float | None = None) -> None:
        """
        Where numbers are shared, tell the other processes how this one's buses are.

        Args:
            wait: Seconds to wait for another thread that does the same.
        """
        if self._shared:
            self.read_buses(wait)

    def retire(self) -> None:
        """
        Tell the other processes for the last time, and what is no more: queues and their sinks.
        """
        self.share()
        if self._shared:
            with self._lock:
                for name in GAUGES:
                    self._families[name].keep(())

    def describe(self) -> Iterable[Metric]:
        """
        Return what is collected, without the numbers.
        """
        return [family.empty() for family in self._families.values()]

    def collect(self) -> Iterator[Metric]:
        """
        Return all metrics, each consistent in itself.
        """
        self.read_buses()
        for family in self._families.values():
            with self._lock:
                metric = family.metric()
            yield metric

    def after_fork(self) -> None:
        """
        Begin anew at zero in a forked child. Calling it again does nothing.
        """
        if self._pid == os.getpid():
            return
        self._pid = os.getpid()
        self._lock = threading.RLock()
        self._reading = threading.Lock()
        self._next_reading = 0.0
        for vocabulary in self._vocabularies.values():
            vocabulary.begin()
        for running in self._running:
            running.begin()
        for family in self._families.values():
            family.begin()
        for plan in (
            *self._plans.values(),
            *self._audited_plans.values(),
            self._other_audited,
        ):
            plan.begin()
        self._begin()

    def disown(self) -> None:
        """
        Take what the buses have counted so far for their parent's; in a forked child, once the
        buses have begun anew.
        """
        self.after_fork()
        self._readings.take()

    def hold(self) -> None:
        """
        Keep every other thread out until `release()`.
        """
        self._lock.acquire()

    def release(self) -> None:
        """
        Let other threads in again.
        """
        self._lock.release()


class BusReadings:
    """
    What the buses and their sinks said about themselves, and by how much each number has grown.

    Counting growth, rather than showing their own numbers, keeps a counter from going down
    when a subscriber or a bus is gone.
    """

    def __init__(self) -> None:
        self._buses: dict[int, weakref.ref[Bus]] = {}
        self._numbers = count()
        self._seen: dict[Key, float] = {}

    def add(self, bus: Bus) -> None:
        """
        Read *bus*, too; once, however often it is added.
        """
        if all(known() is not bus for known in self._buses.values()):
            self._buses[next(self._numbers)] = weakref.ref(bus)

    def take(self) -> tuple[list[tuple[str, Labels, float]], dict[str, dict[Labels, float]]]:
        """
        Return by how much each counter has grown, and where each gauge stands.
        """
        seen: dict[Key, float] = {}
        grown: list[tuple[str, Labels, float]] = []
        current: dict[str, dict[Labels, float]] = {name: {} for name in GAUGES}
        for key, merge, value in self._said():
            _, name, _, labels = key
            if name in current:
                values = current[name]
                old = values.get(labels)
                values[labels] = value if old is None else _merged[merge](old, value)
                continue
            before = self._seen.get(key, 0.0)
            seen[key] = value
            # Less than before: another subscriber of the same name.
            growth = value - before if value >= before else value
            grown.append((name, labels, growth))
        self._seen = seen
        return grown, current

    def _said(self) -> Iterator[tuple[Key, Merge, float]]:
        sinks: dict[int, object] = {}
        for number, reference in tuple(self._buses.items()):
            bus = reference()
            if bus is None:
                del self._buses[number]
                continue
            health = bus.health()
            for one in BUS_INSTRUMENTS:
                for subscriber, raw, value in one.read(health):
                    key = (number, one.name, subscriber, tuple(map(word, raw)))
                    yield key, one.merge, value
            for subscription in bus.subscriptions:
                if subscription.sink is not None:
                    sinks[id(subscription.sink)] = subscription.sink
        # One sink may listen on several buses; what it says about itself counts once.
        for identity, sink in sinks.items():
            for other in SINK_INSTRUMENTS:
                for labels, value in _said_by(sink, other):
                    yield (identity, other.name, "", labels), "sum", value


class Pooled:
    """
    Collects what all processes that share their numbers have counted.
    """

    def __init__(self, metrics: Metrics) -> None:
        make: Callable[[None], Collector] = MultiProcessCollector
        self._metrics = metrics
        self._files: Collector = make(None)

    def collect(self) -> Iterable[Metric]:
        """
        Return the metrics of all processes, this one's up to date.
        """
        self._metrics.read_buses()
        return self._files.collect()


def _said_by(sink: object, one: SinkInstrument) -> Sequence[tuple[Labels, float]]:
    try:
        said = tuple(one.read(sink))
    except Exception:  # a property of somebody else's sink may raise anything
        return ()
    return [(labels, value) for labels, raw in said if isinstance(value := refusal(raw), float)]


def _hold_during_fork(metrics: Metrics) -> None:
    # A lock that another thread has taken at the moment of a fork stays taken in the child for
    # ever; ours is made anew there, but prometheus_client's one for shared numbers is not.
    if sys.platform == "win32":
        return
    alive = weakref.ref(metrics)

    def call(method: Callable[[Metrics], None]) -> Callable[[], None]:
        def called() -> None:
            found = alive()
            if found is not None:
                method(found)

        return called

    os.register_at_fork(
        before=call(Metrics.hold),
        after_in_parent=call(Metrics.release),
        after_in_child=call(Metrics.disown),
    )


def _version() -> str:
    try:
        return version("harken")
    except PackageNotFoundError:
        return "unknown"
