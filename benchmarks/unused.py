"""
What is not used must not cost: types nobody listens to, other traces, silent sinks, content.

Each ratio is of something with a part that is not used, and the same without that part. Except for
types that nobody listens to, costs are processor time of the whole process per event of a tool
call, until everything is flushed.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from measure import Results, begin, interleaved, timed
from naive import ARGUMENTS, RESULT, RESULT_SIZE, SCOPE, TOOL, CountingExporter

from harken import Bus, Envelope, Event, configure, scope
from harken.catalog import PolicyEvaluated, ToolCompleted, ToolStarted
from harken.sinks.audit import AuditLog
from harken.sinks.otel import SpanRecorder
from harken.sinks.prometheus import PrometheusInstrumenter
from harken.sinks.structlog import LogHandler

BARS = {"bar": 1.1}


class Ignoring:
    """
    A sink that does nothing.
    """

    delivery = "worker"

    def write(self, batch: Sequence[Envelope[Event]], /) -> None:
        """
        Do nothing.
        """


def tool_calls(bus: Bus, calls: int) -> float:
    """
    Return the seconds of processor time per event of so many tool calls.
    """
    begun = time.process_time()
    for number in range(calls):
        call_id = f"call-{number}"
        bus.publish(ToolStarted(tool_call_id=call_id, tool_name=TOOL, arguments=ARGUMENTS))
        bus.publish(
            ToolCompleted(
                tool_call_id=call_id, tool_name=TOOL, result=RESULT, result_size=RESULT_SIZE
            )
        )
    if not bus.flush(60):
        raise RuntimeError("not everything is written")
    return (time.process_time() - begun) / (2 * calls)


def silence(results: Results, folder: Path) -> None:
    """
    Add what an event costs that nobody listens to, on an empty and on a busy bus.
    """
    empty, busy = Bus(), Bus()
    for sink in (
        AuditLog(folder / "silence.jsonl"),
        PrometheusInstrumenter(),
        LogHandler(path=folder / "silence.log"),
        SpanRecorder(CountingExporter()),
    ):
        busy.attach(sink, ToolStarted, ToolCompleted)
    off = configure(audit=False, metrics=False, log=False, traces="off")
    event = PolicyEvaluated(policy_id="p-1", decision="allow")
    found = interleaved(
        {
            title: timed(
                "publish(event)", {"publish": bus.publish, "event": event}, quick=results.quick
            )
            for title, bus in (("empty", empty), ("busy", busy), ("off", off))
        },
        results.rounds,
    )
    empty_bus = found["empty"]
    results.compare(
        "nobody listens: four sinks on other types / no sinks", found["busy"], empty_bus, **BARS
    )
    results.compare(
        "nobody listens: all sinks switched off / no sinks", found["off"], empty_bus, **BARS
    )
    busy.close()
    off.close()


def parts(results: Results, folder: Path) -> None:
    """
    Add what sinks cost that have nothing to do, and content that is not kept.
    """
    buses = {name: Bus() for name in ("alone", "recorded", "sampled out", "quiet")}
    for bus in buses.values():
        bus.attach(Ignoring())
        bus.attach(PrometheusInstrumenter())
    buses["recorded"].attach(SpanRecorder(CountingExporter()))
    buses["sampled out"].attach(SpanRecorder(CountingExporter(), ratio=0.0))
    buses["quiet"].attach(LogHandler(path=folder / "quiet.log", level="error"))
    buses["content"] = Bus()
    buses["no content"] = Bus(capture_content=())
    for name in ("content", "no content"):
        buses[name].attach(AuditLog(folder / f"{name}.jsonl", durability="async"))
    calls = results.scaled(1500)
    samples = {name: partial(tool_calls, bus, calls) for name, bus in buses.items()}
    # Recorders of several buses in one process decide together whether a trace is sampled; a
    # trace that came in as not sampled is out for all.
    with scope(**SCOPE):
        found = interleaved(samples, results.rounds)
    for bus in buses.values():
        bus.close()
    alone = found["alone"]
    for title, name in (
        ("traces sampled out / no traces", "sampled out"),
        ("log that is silent at its level / no log", "quiet"),
    ):
        results.compare(title, found[name], alone, **BARS)
    results.compare("traces recorded / no traces", found["recorded"], alone)
    results.compare(
        "content not captured / captured", found["no content"], found["content"], **BARS
    )
    for name, values in found.items():
        results.add(f"per event: {name}", [value * 1e6 for value in values], "us")


def main() -> int:
    results = begin(__doc__, __file__, rounds=11)
    with tempfile.TemporaryDirectory(prefix="harken-benchmark-") as name:
        silence(results, Path(name))
        parts(results, Path(name))
    results.save()
    return 0


if __name__ == "__main__":
    sys.exit(main())
