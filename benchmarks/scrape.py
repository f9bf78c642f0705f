"""
What a scrape costs when a counter and a histogram have 300 combinations of labels each.

harken's metrics are compared with the same two of prometheus-client, without their times of
creation, which harken does not tell either. Both are exposed by `generate_latest`; the histograms
have the same 14 buckets. harken's registry also holds what it says about itself. The interpreter
lock is held meanwhile.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from measure import begin, interleaved
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    disable_created_metrics,
    generate_latest,
)

from harken import Bus, Event
from harken.sinks.prometheus import PrometheusInstrumenter
from harken.sinks.prometheus.rows import counter, counts, field, histogram, number, observes

HOSTS = 30
QUERIES = 10
LABEL_SETS = HOSTS * QUERIES
BUCKETS = tuple(0.01 * 2**power for power in range(14))


class HostSearched(Event, name="benchmark.host_searched"):
    """
    A host was searched.
    """

    host: str
    query: str
    seconds: float


LABELS = {"host": field("host"), "query": field("query")}
INSTRUMENTS = (
    counter("host_searches", "Searches.", LABELS, counts("benchmark.host_searched")),
    histogram(
        "host_search_seconds",
        "Duration of searches.",
        LABELS,
        BUCKETS,
        observes(number("seconds"), "benchmark.host_searched"),
    ),
)


def names(each: int) -> tuple[str, str]:
    """
    Return one of the combinations of label values.
    """
    return f"host-{each % HOSTS}", f"query-{each // HOSTS % QUERIES}"


def by_harken() -> CollectorRegistry:
    """
    Return a registry with harken's metrics, those about the bus among them.
    """
    bus = Bus()
    sink = PrometheusInstrumenter(instruments=INSTRUMENTS)
    bus.attach(sink)
    for each in range(10 * LABEL_SETS):
        host, query = names(each)
        bus.publish(HostSearched(host=host, query=query, seconds=each / 1000))
    if not bus.flush(60):
        raise RuntimeError("the metrics are not complete")
    return sink.registry


def by_prometheus_client() -> CollectorRegistry:
    """
    Return a registry with the same metrics.
    """
    without_times: Callable[[], None] = disable_created_metrics
    without_times()
    registry = CollectorRegistry()
    searches = Counter("host_searches", "Searches.", ["host", "query"], registry=registry)
    seconds = Histogram(
        "host_search_seconds", "Durations.", ["host", "query"], buckets=BUCKETS, registry=registry
    )
    for each in range(10 * LABEL_SETS):
        searches.labels(*names(each)).inc()
        seconds.labels(*names(each)).observe(each / 1000)
    return registry


def main() -> int:
    results = begin(__doc__, __file__, rounds=15)
    ours, theirs = by_harken(), by_prometheus_client()

    def seconds(registry: CollectorRegistry) -> float:
        begun = time.perf_counter()
        generate_latest(registry)
        return time.perf_counter() - begun

    found = interleaved(
        {"harken": lambda: seconds(ours), "prometheus-client": lambda: seconds(theirs)},
        results.rounds,
    )
    for title, values in found.items():
        results.add(f"scrape, {title}", [value * 1e3 for value in values], "ms")
    results.compare("harken / prometheus-client", found["harken"], found["prometheus-client"])
    for title, registry in (("harken", ours), ("prometheus-client", theirs)):
        results.add(f"lines, {title}", [generate_latest(registry).count(b"\n")], "lines")
    results.save()
    return 0


if __name__ == "__main__":
    sys.exit(main())
