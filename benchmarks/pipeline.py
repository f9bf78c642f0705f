"""
What one event costs on its way into an audit log, metrics, a JSON log and a span.

The events are tool calls: each is a start and an end of about 300 bytes, and leaves two audit
lines, a counter, a histogram, a gauge, two log lines and a span. harken's four sinks are compared
with the same outputs composed on `blinker`, on the dispatcher of llama-index, and with plain
function calls (`naive.py`). harken redacts, and locks its audit log against other processes; these
do not. ``by hand`` is the least Python that keeps harken's promises for these two events, and for
no others (`by_hand.py`): what no bus can go below.

``burst`` publishes as fast as it can; ``paced`` sleeps 1 ms between events, and the processor time
of the same sleeps without events is taken off. ``cpu`` is processor time of the whole process per
event until everything is flushed; ``p50`` and so on are what the publisher waits for one event,
its construction included.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import blinker
from by_hand import ByHand
from llama_index_instrumentation.base import BaseEvent
from llama_index_instrumentation.dispatcher import Dispatcher
from llama_index_instrumentation.event_handlers import BaseEventHandler
from measure import Results, begin, percentile
from naive import (
    ARGUMENTS,
    RESULT,
    RESULT_SIZE,
    SCOPE,
    TOOL,
    CountingExporter,
    Outputs,
    ToolCalled,
    ToolReturned,
)
from pydantic import PrivateAttr

from harken import Bus, scope, trail
from harken.catalog import ToolCompleted, ToolStarted
from harken.sinks.audit import AuditLog
from harken.sinks.otel import SpanRecorder
from harken.sinks.prometheus import PrometheusInstrumenter
from harken.sinks.structlog import LogHandler

PAUSE = 0.001
PASSING = {
    *("timestamp", "seq", "id", "trace_id", "span_id", "causation_id", "started_event_id"),
    *("writer", "n", "prev", "hash", "event.id", "harken.event.id", "harken.started_event.id"),
}
PERCENTILES = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999}


class Pipeline(Protocol):
    """
    Something that takes tool calls and writes all outputs.
    """

    def started(self, call_id: str) -> object:
        """
        Tell that a tool was called; what is returned belongs to the end.
        """
        ...

    def ended(self, call_id: str, start: Any) -> object:
        """
        Tell that it returned.
        """
        ...

    def flush(self) -> None:
        """
        Wait until everything is written.
        """
        ...

    def spans(self) -> int:
        """
        Return how many spans were exported.
        """
        ...

    def close(self) -> None:
        """
        Let go of files and threads.
        """
        ...


class Harken:
    """
    A bus with the four sinks, each delivered to as it says itself unless *delivery* is given.
    """

    def __init__(
        self, folder: Path, *, redaction: bool = True, delivery: Any = None, **audit: Any
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.exporter = CountingExporter()
        self.bus = Bus(redaction=redaction)
        for sink in (
            AuditLog(folder / "audit.jsonl", **audit),
            PrometheusInstrumenter(),
            LogHandler(path=folder / "events.log"),
            SpanRecorder(self.exporter),
        ):
            self.bus.attach(sink, delivery=delivery)

    def started(self, call_id: str) -> object:
        """
        Publish a start.
        """
        return self.bus.publish(
            ToolStarted(tool_call_id=call_id, tool_name=TOOL, arguments=ARGUMENTS)
        )

    def ended(self, call_id: str, start: Any) -> object:
        """
        Publish its end.
        """
        return self.bus.publish(
            ToolCompleted(
                tool_call_id=call_id, tool_name=TOOL, result=RESULT, result_size=RESULT_SIZE
            )
        )

    def flush(self) -> None:
        """
        Wait until everything is written.
        """
        report = self.bus.flush(60)
        lost = {name: one for name, one in report.items() if one.pending or one.dropped}
        if lost:
            raise RuntimeError(f"not everything was delivered: {lost}")

    def spans(self) -> int:
        """
        Return how many spans were exported.
        """
        return self.exporter.count

    def close(self) -> None:
        """
        Let go of files and threads.
        """
        self.bus.close()


class Functions:
    """
    Plain calls of the four outputs, one after the other.
    """

    def __init__(self, folder: Path) -> None:
        self.outputs = Outputs(folder)
        self.flush = self.outputs.flush
        self.close = self.outputs.close
        self._all = self.outputs.all

    def started(self, call_id: str) -> object:
        """
        Call the four.
        """
        event = _called(call_id)
        for output in self._all:
            output.started(event)
        return event

    def ended(self, call_id: str, start: Any) -> object:
        """
        Call the four.
        """
        event = _returned(call_id, start)
        for output in self._all:
            output.ended(event)
        return event

    def spans(self) -> int:
        """
        Return how many spans were exported.
        """
        return self.outputs.spans.exporter.count


class Blinker(Functions):
    """
    The four outputs as receivers of two signals.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._started = blinker.Signal()
        self._ended = blinker.Signal()
        for output in self._all:
            # As functions: blinker needs five times as long to look at a bound method.
            self._started.connect(_receiver(output.started), weak=False)
            self._ended.connect(_receiver(output.ended), weak=False)

    def started(self, call_id: str) -> object:
        """
        Send a start.
        """
        event = _called(call_id)
        self._started.send(self, event=event)
        return event

    def ended(self, call_id: str, start: Any) -> object:
        """
        Send its end.
        """
        event = _returned(call_id, start)
        self._ended.send(self, event=event)
        return event


def _receiver(call: Callable[[Any], None]) -> Callable[..., None]:
    def receive(sender: object, event: Any) -> None:
        call(event)

    return receive


def _called(call_id: str) -> ToolCalled:
    return ToolCalled(call_id=call_id, tool_name=TOOL, arguments=ARGUMENTS, **SCOPE)


def _returned(call_id: str, start: ToolCalled) -> ToolReturned:
    return ToolReturned(
        call_id=call_id,
        tool_name=TOOL,
        arguments=ARGUMENTS,
        started_id=start.id,
        result=RESULT,
        result_size=RESULT_SIZE,
        seconds=0.001,
        **SCOPE,
    )


class ToolCalledEvent(BaseEvent):
    """
    A tool was called, as llama-index tells it.
    """

    call_id: str
    tool_name: str
    arguments: dict[str, Any]
    run_id: str
    session_id: str
    actor: str
    correlation_id: str

    @property
    def id(self) -> str:
        """
        The event's id.
        """
        return self.id_

    @property
    def time(self) -> Any:
        """
        When it was made.
        """
        return self.timestamp


class ToolReturnedEvent(ToolCalledEvent):
    """
    A tool returned, as llama-index tells it.
    """

    started_id: str
    result: str
    result_size: int
    seconds: float


class OutputHandler(BaseEventHandler):
    """
    Hands the events of llama-index to one of the outputs.
    """

    _output: Any = PrivateAttr()

    def __init__(self, output: object) -> None:
        super().__init__()
        self._output = output

    def handle(self, event: BaseEvent, **kwargs: Any) -> None:
        """
        Hand *event* on.
        """
        if isinstance(event, ToolReturnedEvent):
            self._output.ended(event)
        else:
            self._output.started(event)


class LlamaIndex(Functions):
    """
    The four outputs as event handlers of a dispatcher of llama-index.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        handlers: list[BaseEventHandler] = [OutputHandler(output) for output in self._all]
        self._dispatcher = Dispatcher(name="pipeline", event_handlers=handlers, propagate=False)

    def started(self, call_id: str) -> object:
        """
        Dispatch a start.
        """
        event = ToolCalledEvent(call_id=call_id, tool_name=TOOL, arguments=ARGUMENTS, **SCOPE)
        self._dispatcher.event(event)
        return event

    def ended(self, call_id: str, start: Any) -> object:
        """
        Dispatch its end.
        """
        event = ToolReturnedEvent(
            call_id=call_id,
            tool_name=TOOL,
            arguments=ARGUMENTS,
            started_id=start.id,
            result=RESULT,
            result_size=RESULT_SIZE,
            seconds=0.001,
            **SCOPE,
        )
        self._dispatcher.event(event)
        return event


class Asleep:
    """
    Does nothing, for what the sleeping itself costs.
    """

    def started(self, call_id: str) -> object:
        """
        Do nothing.
        """

    def ended(self, call_id: str, start: Any) -> object:
        """
        Do nothing.
        """

    def flush(self) -> None:
        """
        Do nothing.
        """

    def spans(self) -> int:
        """
        Return none.
        """
        return 0

    def close(self) -> None:
        """
        Do nothing.
        """


def burst(pipeline: Pipeline, calls: int) -> float:
    """
    Return the seconds of processor time that one event costs the whole process.
    """
    begun = time.process_time()
    for number in range(calls):
        call_id = f"call-{number}"
        pipeline.ended(call_id, pipeline.started(call_id))
    pipeline.flush()
    return (time.process_time() - begun) / (2 * calls)


def waits(pipeline: Pipeline, calls: int, pause: float) -> tuple[float, list[float]]:
    """
    Return the same, and the seconds that the publisher waited for each event, sorted.
    """
    clock = time.perf_counter
    found: list[float] = []
    begun = time.process_time()
    for number in range(calls):
        call_id = f"call-{number}"
        before = clock()
        start = pipeline.started(call_id)
        found.append(clock() - before)
        if pause:
            time.sleep(pause)
        before = clock()
        pipeline.ended(call_id, start)
        found.append(clock() - before)
        if pause:
            time.sleep(pause)
    pipeline.flush()
    return (time.process_time() - begun) / (2 * calls), sorted(found)


def measure(results: Results, pipelines: Mapping[str, Pipeline]) -> None:
    """
    Measure all *pipelines* in turn, and add the rows.
    """
    calls, slow = results.scaled(1500), results.scaled(400)
    found: dict[str, dict[str, list[float]]] = {name: {} for name in pipelines}
    asleep: list[float] = []
    with scope(**SCOPE):
        for number in range(-1, results.rounds):
            order = list(pipelines) if number % 2 else list(pipelines)[::-1]
            for name in order:
                pipeline = pipelines[name]
                cpu = burst(pipeline, calls)
                _, waited = waits(pipeline, calls, 0.0)
                paced, waited_paced = waits(pipeline, slow, PAUSE)
                sleeping, _ = waits(Asleep(), slow, PAUSE)
                if number < 0:
                    continue
                asleep.append(sleeping)
                sample = {
                    "burst cpu": cpu,
                    "paced cpu": max(paced - sleeping, 0.0),
                    **{f"burst {key}": percentile(waited, p) for key, p in PERCENTILES.items()},
                    **{
                        f"paced {key}": percentile(waited_paced, p)
                        for key, p in PERCENTILES.items()
                    },
                }
                for key, value in sample.items():
                    found[name].setdefault(key, []).append(value)
    naive = found["blinker"]
    bars = {
        ("harken, audit inline", "burst cpu"): {"bar": 0.20, "stretch": 0.15},
        ("harken, audit async", "burst cpu"): {"bar": 0.14, "stretch": 0.09},
        ("harken, audit inline", "paced cpu"): {"bar": 0.3},
        ("harken, audit async", "paced cpu"): {"bar": 0.3},
    }
    for key in naive:
        for name, values in found.items():
            results.add(f"{key}: {name}", [value * 1e6 for value in values[key]], "us")
        for name, values in found.items():
            if name != "blinker":
                bar = bars.get((name, key), {})
                results.compare(f"{key}: {name} / blinker", values[key], naive[key], **bar)


def check(pipelines: Mapping[str, Pipeline]) -> None:
    """
    See that all of them have written the same, and that harken's promise of a chain is kept.
    """
    written: dict[str, tuple[int, int, int]] = {}
    for name, pipeline in pipelines.items():
        pipeline.close()
        folder = pipeline.folder if isinstance(pipeline, (Harken, ByHand)) else None
        if isinstance(pipeline, Functions):
            folder = pipeline.outputs.folder
        assert folder is not None
        if isinstance(pipeline, (Harken, ByHand)):
            chain = trail.verify(folder / "audit.jsonl").chain
            if chain.verdict != "ok":
                raise RuntimeError(f"{name}: {chain.message}")
        lines = [
            sum(b'"tool' in line for line in (folder / file).read_bytes().splitlines())
            for file in ("audit.jsonl", "events.log")
        ]
        written[name] = (lines[0], lines[1], pipeline.spans())
    if len(set(written.values())) != 1:
        raise RuntimeError(f"the outputs are not the same: {written}")


def said(pipeline: Harken | ByHand) -> list[Any]:
    """
    Return what *pipeline* has said of one tool call, without what is different each time.
    """
    found: list[Any] = []
    for name in ("audit.jsonl", "events.log"):
        lines = map(json.loads, (pipeline.folder / name).read_bytes().splitlines())
        found += [list(_lasting(line).items()) for line in lines if _is_of_a_tool(line)]
    span = pipeline.exporter.last
    assert span is not None and span.context is not None
    found.append(_lasting(span.attributes or {}))
    return [*found, span.name, span.kind, span.links, span.parent, span.context.trace_flags]


def _is_of_a_tool(line: Mapping[str, Any]) -> bool:
    return str(line.get("event_type", line.get("event_name"))).startswith("tool.")


def _lasting(line: Mapping[str, Any]) -> dict[str, Any]:
    return {name: None if name in PASSING else value for name, value in line.items()}


def main() -> int:
    results = begin(__doc__, __file__, rounds=7)
    with tempfile.TemporaryDirectory(prefix="harken-benchmark-") as name:
        folder = Path(name)
        pipelines: dict[str, Pipeline] = {
            "harken, audit inline": Harken(folder / "inline"),
            "harken, audit async": Harken(folder / "async", durability="async"),
            "harken, audit inline, not redacted": Harken(folder / "plain", redaction=False),
            "blinker": Blinker(folder / "blinker"),
            "llama-index": LlamaIndex(folder / "llama"),
            "function calls": Functions(folder / "functions"),
            "by hand, audit inline": ByHand(folder / "by hand"),
            "by hand, audit async": ByHand(folder / "by hand async", delayed=True),
        }
        with scope(**SCOPE):
            for pipeline in pipelines.values():
                pipeline.ended("call", pipeline.started("call"))
                pipeline.flush()
        ours = (one for one in pipelines.values() if isinstance(one, (Harken, ByHand)))
        first, *others = map(said, ours)
        if any(other != first for other in others):
            raise RuntimeError(f"the outputs are not the same: {first} {others}")
        measure(results, pipelines)
        check(pipelines)
    results.save()
    return 0


if __name__ == "__main__":
    sys.exit(main())
