"""
A million events through all four sinks, those with queues told to block when they are full.

None may be dropped, and memory must not grow after the first tenth. The audit log is kept and
verified; log lines and spans are counted. Exits with 1 when something is missing.
"""

from __future__ import annotations

import io
import sys
import tempfile
import time
from pathlib import Path

from measure import Results, begin, resident_bytes
from naive import ARGUMENTS, RESULT, RESULT_SIZE, SCOPE, TOOL, CountingExporter

from harken import Bus, scope
from harken.catalog import ToolCompleted, ToolStarted
from harken.sinks.audit import AuditLog
from harken.sinks.otel import SpanRecorder
from harken.sinks.prometheus import PrometheusInstrumenter
from harken.sinks.structlog import LogHandler
from harken.trail import verify

LOOKS = 20


class CountingStream(io.StringIO):
    """
    A text stream that only counts lines.
    """

    def __init__(self) -> None:
        super().__init__()
        self.lines = 0

    def write(self, text: str, /) -> int:
        """
        Count the lines of *text*.
        """
        self.lines += text.count("\n")
        return len(text)


def publish(results: Results, bus: Bus, events: int) -> float:
    """
    Publish so many events, two for each tool call, and return the seconds until all is written.
    """
    resident: list[float] = []
    begun = time.perf_counter()
    with scope(**SCOPE):
        for number in range(events // 2):
            call_id = f"call-{number}"
            bus.publish(ToolStarted(tool_call_id=call_id, tool_name=TOOL, arguments=ARGUMENTS))
            bus.publish(
                ToolCompleted(
                    tool_call_id=call_id, tool_name=TOOL, result=RESULT, result_size=RESULT_SIZE
                )
            )
            if (2 * (number + 1)) % (events // LOOKS) == 0:
                resident.append(resident_bytes() / 1e6)
                part = len(resident) / LOOKS
                results.add(f"resident memory at {part:.0%}", resident[-1:], "MB")
    if not bus.flush(600):
        raise RuntimeError(f"not everything is written: {bus.health()}")
    seconds = time.perf_counter() - begun
    settled = resident[LOOKS // 10 - 1]
    results.add(
        "resident memory, most after the first tenth / at the first tenth",
        [max(resident[LOOKS // 10 - 1 :]) / settled],
        "x",
        bar=1.1,
    )
    return seconds


def main() -> int:
    results = begin(
        __doc__, __file__, rounds=1, quick=1, more={"events": (int, 1_000_000, "to publish")}
    )
    events = results.scaled(results.options.events) // (2 * LOOKS) * (2 * LOOKS)
    stream, exporter = CountingStream(), CountingExporter()
    with tempfile.TemporaryDirectory(prefix="harken-benchmark-") as name:
        path = Path(name, "audit.jsonl")
        audit = AuditLog(path)
        bus = Bus()
        bus.attach(audit)
        for sink in (PrometheusInstrumenter(), LogHandler(stream), SpanRecorder(exporter)):
            bus.attach(sink, overflow="block")
        seconds = publish(results, bus, events)
        health = bus.health()
        bus.close()
        report = verify(path, chain_only=True)
    results.add("events per second, until everything is written", [events / seconds], "events/s")
    dropped = sum(one.dropped for one in health.values())
    results.add("events dropped", [dropped], "events", bar=0)
    written = {
        "audit records": (audit.records, events),
        "log lines of tool calls, and of the log itself": (stream.lines, events),
        "spans": (exporter.count, events // 2),
    }
    missing = {title: (has, wants) for title, (has, wants) in written.items() if has < wants}
    for title, (has, _) in written.items():
        results.add(title, [has], "")
    results.save()
    if missing or dropped or report.exit_code:
        print(f"missing: {missing}, dropped: {dropped}, verification: {report.exit_code}")
        return 1
    print(f"nothing is missing; the audit log has {report.lines:,} lines and verifies")
    return 0


if __name__ == "__main__":
    sys.exit(main())
