"""
What a publisher and the other sinks notice of a trace exporter that hangs on the network.

An agent publishes tool calls at a steady rate to all four sinks, first with an exporter that
answers, then with one that blocks. What its publisher waits for is compared; the audit log must be
complete; and every span that is missing must have been counted as dropped. The span recorder
listens to the ends of tool calls only, so that each event given to it is one span. Exits with 1
when a number does not add up.
"""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from measure import begin, percentile
from naive import ARGUMENTS, RESULT, RESULT_SIZE, SCOPE, TOOL, CountingExporter
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult

from harken import Bus, scope
from harken.catalog import ToolCompleted, ToolStarted
from harken.sinks.audit import AuditLog
from harken.sinks.otel import SpanRecorder
from harken.sinks.prometheus import PrometheusInstrumenter
from harken.sinks.structlog import LogHandler

CAPACITY = 500
PAUSE = 0.001


class NetworkExporter(CountingExporter):
    """
    An exporter whose collector can stop answering.
    """

    def __init__(self) -> None:
        super().__init__()
        self.answers = threading.Event()
        self.answers.set()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """
        Count *spans* once the collector answers.
        """
        self.answers.wait()
        return super().export(spans)


def publish(bus: Bus, seconds: float, first: int) -> list[float]:
    """
    Publish tool calls for so long; return the seconds that the publisher waited for each event.
    """
    clock = time.perf_counter
    waited: list[float] = []
    until = clock() + seconds
    number = first
    while clock() < until:
        call_id = f"call-{number}"
        begun = clock()
        bus.publish(ToolStarted(tool_call_id=call_id, tool_name=TOOL, arguments=ARGUMENTS))
        waited.append(clock() - begun)
        time.sleep(PAUSE)
        begun = clock()
        bus.publish(
            ToolCompleted(
                tool_call_id=call_id, tool_name=TOOL, result=RESULT, result_size=RESULT_SIZE
            )
        )
        waited.append(clock() - begun)
        time.sleep(PAUSE)
        number += 1
    return waited


def main() -> int:
    results = begin(
        __doc__,
        __file__,
        rounds=1,
        quick=1,
        more={"seconds": (float, 60.0, "how long the exporter blocks")},
    )
    blocked = results.options.seconds / (20 if results.quick else 1)
    exporter = NetworkExporter()
    with tempfile.TemporaryDirectory(prefix="harken-benchmark-") as name:
        audit_path = Path(name, "audit.jsonl")
        bus = Bus()
        bus.attach(AuditLog(audit_path))
        bus.attach(PrometheusInstrumenter())
        bus.attach(LogHandler(path=Path(name, "events.log")))
        spans = bus.attach(SpanRecorder(exporter), ToolCompleted, capacity=CAPACITY)
        with scope(**SCOPE):
            publish(bus, min(blocked / 4, 1.0), 0)
            before = publish(bus, blocked / 2, 1_000_000)
            exporter.answers.clear()
            during = publish(bus, blocked, 2_000_000)
            depth = bus.health()[spans.name].depth
            exporter.answers.set()
            publish(bus, min(blocked / 4, 1.0), 3_000_000)
        flushed = bus.flush(60)
        health = bus.health()
        bus.close()
        audited = audit_path.read_bytes().count(b'"event_type":"tool.')
    given = health.published["tool.completed"]
    dropped = health[spans.name].dropped
    events = given + health.published["tool.started"]
    for title, part in (("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)):
        ours = percentile(sorted(during), part)
        theirs = percentile(sorted(before), part)
        results.add(f"publisher's {title}, exporter answers", [theirs * 1e6], "us")
        results.add(f"publisher's {title}, exporter blocks", [ours * 1e6], "us")
        results.add(f"publisher's {title}, blocks / answers", [ours / theirs], "x")
    results.add("seconds blocked", [blocked], "s")
    results.add("queue of the span recorder, at its fullest", [depth], "events", bar=CAPACITY)
    results.add("spans given", [given], "spans")
    results.add("spans exported", [exporter.count], "spans")
    results.add("spans dropped, as counted", [dropped], "spans")
    results.add(
        "spans neither exported nor counted",
        [abs(given - exporter.count - dropped)],
        "spans",
        bar=0,
    )
    others = sum(one.dropped for name, one in health.items() if name != spans.name)
    results.add("audit records missing", [events - audited], "records", bar=0)
    results.add("events that other sinks missed", [others], "events", bar=0)
    results.save()
    good = bool(flushed) and not any(row.met() is False for row in results.rows)
    print("every event is accounted for" if good else "a number does not add up")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
