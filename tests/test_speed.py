"""
What things cost beside a yardstick of the same run: no ratio may grow to twice what it is.

The figures themselves are found by the scripts in ``benchmarks/``. Here the least of many short
rounds counts, in processor time, and a machine that is busy gets further chances; so the limits
can be near. The measuring is a process of its own, which coverage does not slow down: this very
file as a program, which prints the ratios.
"""

from __future__ import annotations

import json
import logging
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import blinker
import pytest

from harken import Bus, Envelope, Event, scope
from harken.catalog import PolicyEvaluated, ToolCompleted, ToolStarted
from harken.sinks.audit import AuditLog
from harken.sinks.otel import SpanRecorder
from harken.sinks.prometheus import PrometheusInstrumenter
from harken.sinks.structlog import LogHandler

# The ratios below are those of one Python.
pytestmark = pytest.mark.once

ROUNDS = 15
ATTEMPTS = 4

ROOM = 1.6
"""How much of a ratio's own size it may grow by noise; what costs twice as much is over it."""

RATIOS = {
    "nobody listens / blinker send": 0.30,
    "nobody listens, sinks for other types / blinker send": 0.30,
    "4 handlers / blinker send": 0.42,
    "point event for four queued sinks / log line": 0.34,
    "event of an operation for four queued sinks / log line": 0.60,
    "audited point event / log line": 2.20,
    "operation through all four sinks, per event / log line": 6.20,
    "span not sampled / log line": 0.013,
    "log line below its level / log line": 0.011,
    "event not audited / log line": 0.0012,
    "content not captured / captured": 0.82,
    "scope of each operation / one scope": 1.5,
    "a secret among texts / none": 6.8,
}
"""What `python tests/test_speed.py` finds on the slowest Python and a quiet machine."""

SCOPE = {"run_id": "r-42", "session_id": "s-1", "actor": "agent:billing"}
ARGUMENTS = {"query": "disk usage over 90 percent", "path": "infra/network/main.tf", "limit": 50}


class Ping(Event, name="speedtest.ping"):
    """Something that has hardly any fields."""

    number: int = 0


class Kept:
    """A sink that keeps all envelopes."""

    delivery = "worker"

    def __init__(self) -> None:
        self.envelopes: list[Envelope[Event]] = []

    def write(self, batch: Sequence[Envelope[Event]], /) -> None:
        self.envelopes += batch


class Ignoring:
    """A sink that does nothing."""

    delivery = "worker"

    def write(self, batch: Sequence[Envelope[Event]], /) -> None:
        pass


class Reading:
    """A sink that asks each envelope for its scope."""

    delivery = "inline"

    def write(self, batch: Sequence[Envelope[Event]], /) -> None:
        for envelope in batch:
            assert envelope.redacted_scope


class JsonFormatter(logging.Formatter):
    """What a formatter for JSON lines has to do at least."""

    def format(self, record: logging.LogRecord) -> str:
        fields = {"time": self.formatTime(record), "level": record.levelname}
        return json.dumps({**fields, "message": record.getMessage(), **record.fields})  # type: ignore[attr-defined]


class Counting:
    """An exporter that only counts."""

    def __init__(self) -> None:
        self.count = 0

    def export(self, spans: Sequence[object]) -> Any:
        from opentelemetry.sdk.trace.export import SpanExportResult

        self.count += len(spans)
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        pass

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return True


def handler() -> Callable[..., None]:
    def ignore(*_: object, **__: object) -> None:
        pass

    return ignore


def seconds(call: Callable[[], object], calls: int, clock: Callable[[], float]) -> float:
    begun = clock()
    for _ in range(calls):
        call()
    return (clock() - begun) / calls


def tool_call(bus: Bus) -> None:
    start = bus.publish(ToolStarted(tool_name="search", arguments=ARGUMENTS))
    assert start is not None
    bus.publish(
        ToolCompleted(tool_call_id=start.event.tool_call_id, tool_name="search", result_size=2340)
    )


def in_scopes(bus: Bus) -> None:
    with bus.operation(ToolStarted(tool_name="search")):
        bus.publish(Ping())


def beside(bus: Bus) -> None:
    start = bus.publish(ToolStarted(tool_name="search"))
    assert start is not None
    bus.publish(Ping())
    bus.publish(ToolCompleted(tool_call_id=start.event.tool_call_id, tool_name="search"))


def log_line(path: Path) -> Callable[[], object]:
    logger = logging.getLogger("speedtest")
    logger.propagate = False
    logger.setLevel(logging.INFO)
    file = logging.FileHandler(path)
    file.setFormatter(JsonFormatter())
    logger.addHandler(file)
    fields = {"policy_id": "p-1", "decision": "allow", "subject": "call-17", **ARGUMENTS, **SCOPE}
    return lambda: logger.info("policy evaluated", extra={"fields": fields})


def four_sinks(folder: Path) -> list[Any]:
    return [
        AuditLog(folder / "audit.jsonl"),
        PrometheusInstrumenter(),
        LogHandler(path=folder / "events.log"),
        SpanRecorder(Counting()),  # type: ignore[arg-type]
    ]


def measure(folder: Path) -> dict[str, float]:
    """
    Return every one of `RATIOS`, as it is now.
    """
    ping = Ping()
    policy = PolicyEvaluated(policy_id="p-1", decision="allow", subject="call-17")
    silent, narrow, four = Bus(), Bus(), Bus()
    no_signal, signal = blinker.Signal(), blinker.Signal()
    for sink in four_sinks(folder):
        narrow.attach(sink, ToolStarted)
    for _ in range(4):
        four.subscribe(handler(), Ping)
        signal.connect(handler(), weak=False)
    queued, audited, whole = Bus(), Bus(), Bus()
    for _ in range(4):
        queued.attach(Ignoring())
    audited.attach(AuditLog(folder / "audited.jsonl"))
    for sink in four_sinks(folder):
        whole.attach(sink)
    content, no_content = Bus(), Bus(capture_content=())
    for bus in (content, no_content):
        bus.attach(Ignoring(), delivery="inline")

    kept = Kept()
    source = Bus()
    source.attach(kept)
    out_of_samples = SpanRecorder(Counting(), ratio=0.0)  # type: ignore[arg-type]
    source.attach(out_of_samples)
    with scope(traceparent="00-0123456789abcdef0123456789abcdef-0123456789abcdef-00"):
        for _ in range(128):
            tool_call(source)
    source.flush()
    batch = kept.envelopes[:256]
    unaudited: list[Any] = [source.publish(ping) for _ in range(256)]
    quiet = LogHandler(path=folder / "quiet.log", level="error")
    silent_audit = AuditLog(folder / "silent.jsonl")

    scoped = Bus()
    scoped.attach(Reading())
    secret = {**ARGUMENTS, "query": "export API_KEY=abcd1234efgh5678"}

    def read(bus: Bus, arguments: object = ARGUMENTS) -> None:
        envelope = bus.publish(ToolStarted(tool_name="search", arguments=arguments))
        assert envelope is not None and envelope.body

    thread, process = time.thread_time, time.process_time
    samples: dict[str, Callable[[], float]] = {
        "line": partial(seconds, log_line(folder / "app.log"), 200, thread),
        "send to nobody": partial(seconds, partial(no_signal.send, Ping, event=ping), 2000, thread),
        "send to 4": partial(seconds, partial(signal.send, Ping, event=ping), 1000, thread),
        "nobody": partial(seconds, partial(silent.publish, ping), 2000, thread),
        "nobody here": partial(seconds, partial(narrow.publish, ping), 2000, thread),
        "4": partial(seconds, partial(four.publish, ping), 1000, thread),
        "queued": partial(seconds, partial(queued.publish, policy), 300, thread),
        "queued pair": partial(seconds, partial(tool_call, queued), 150, thread),
        "audited": partial(seconds, partial(audited.publish, policy), 200, thread),
        "whole": lambda: (
            seconds(partial(tool_call, whole), 100, process)
            + seconds(whole.flush, 1, process) / 100
        ),
        "sampled out": partial(seconds, partial(out_of_samples.write, batch), 4, thread),
        "quiet": partial(seconds, partial(quiet.write, batch), 4, thread),
        "unaudited": partial(seconds, partial(silent_audit.write, unaudited), 4, thread),
        "content": partial(seconds, partial(read, content), 200, thread),
        "no content": partial(seconds, partial(read, no_content), 200, thread),
        "scopes": partial(seconds, partial(in_scopes, scoped), 100, thread),
        "one scope": partial(seconds, partial(beside, scoped), 100, thread),
        "secret": partial(seconds, partial(read, content, secret), 100, thread),
    }
    least = dict.fromkeys(samples, math.inf)
    with scope(**SCOPE):
        for _ in range(ROUNDS):
            for name, sample in samples.items():
                least[name] = min(least[name], sample())
                # What is left in a queue must not be worked on in somebody else's time.
                queued.flush()
    line = least["line"]
    for bus in (narrow, queued, audited, whole, source, content, no_content, scoped):
        bus.close()
    return {
        "nobody listens / blinker send": least["nobody"] / least["send to nobody"],
        "nobody listens, sinks for other types / blinker send": least["nobody here"]
        / least["send to nobody"],
        "4 handlers / blinker send": least["4"] / least["send to 4"],
        "point event for four queued sinks / log line": least["queued"] / line,
        "event of an operation for four queued sinks / log line": least["queued pair"] / 2 / line,
        "audited point event / log line": least["audited"] / line,
        "operation through all four sinks, per event / log line": least["whole"] / 2 / line,
        "span not sampled / log line": least["sampled out"] / len(batch) / line,
        "log line below its level / log line": least["quiet"] / len(batch) / line,
        "event not audited / log line": least["unaudited"] / len(batch) / line,
        "content not captured / captured": least["no content"] / least["content"],
        "scope of each operation / one scope": least["scopes"] / least["one scope"],
        "a secret among texts / none": least["secret"] / least["content"],
    }


@pytest.fixture(scope="module")
def ratios() -> Mapping[str, float]:
    """
    The least that was found for each ratio; measured again only while one is over its limit.
    """
    unmeasured = {name: value for name, value in os.environ.items() if "COVERAGE" not in name}
    least = dict.fromkeys(RATIOS, math.inf)
    for _ in range(ATTEMPTS):
        done = subprocess.run(
            [sys.executable, __file__],
            env=unmeasured,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            pytest.fail(done.stderr)
        for name, found in json.loads(done.stdout).items():
            least[name] = min(least[name], found)
        if all(least[name] <= ROOM * ratio for name, ratio in RATIOS.items()):
            break
    return least


@pytest.mark.parametrize("name", RATIOS)
def test_speed(ratios: Mapping[str, float], name: str) -> None:
    """
    Nothing costs much more than it did, beside what others cost.
    """
    assert ROOM * RATIOS[name] >= ratios[name]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        print(json.dumps(measure(Path(name))))
