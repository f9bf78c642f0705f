"""
Where the time of an event goes: what each part of its way costs the whole process.

The events are those of `pipeline.py`, and each row is what a bus costs that does one thing more
than another one did in the same round. Delivered is as in the pipeline: to the audit log inline,
to the others in batches on the worker. What the system calls alone cost, and the digest alone, is
measured beside it, as are the encoding and the search: no other code can be cheaper than these.
What the whole costs when it is written out by hand is measured in `pipeline.py`.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import msgspec
from measure import Results, Sample, begin, calling, interleaved
from naive import ARGUMENTS, SCOPE, TOOL, CountingExporter
from unused import tool_calls

from harken import Bus, Delivery, Envelope, Event, Sink, scope
from harken.catalog import ToolStarted
from harken.record import GENESIS, from_envelope
from harken.redaction import Redactor
from harken.sinks.audit import AuditLog
from harken.sinks.otel import SpanRecorder
from harken.sinks.prometheus import PrometheusInstrumenter
from harken.sinks.structlog import LogHandler

LINE = b"x" * 850
"""About as long as a record of these events."""


class Doing:
    """
    A sink that does *each* with every envelope, and nothing else.
    """

    def __init__(
        self, each: Callable[[Envelope[Event]], object], delivery: Delivery = "inline"
    ) -> None:
        self.delivery = delivery
        self._each = each

    def write(self, batch: Sequence[Envelope[Event]], /) -> None:
        """
        Do it.
        """
        for envelope in batch:
            self._each(envelope)


def nothing(envelope: Envelope[Event]) -> None:
    """
    Only be called.
    """


def ids(envelope: Envelope[Event]) -> object:
    """
    Have the three ids made.
    """
    return envelope.id, envelope.span_id, envelope.trace_id


def body(envelope: Envelope[Event]) -> object:
    """
    Have the redacted body made, too.
    """
    return ids(envelope), envelope.body


def line(envelope: Envelope[Event]) -> object:
    """
    Make the line of a record with its digest, too.
    """
    ids(envelope)
    draft = from_envelope(envelope)
    return draft.line(draft.time_ns, 1, "writer", 1, GENESIS)


def system_calls(path: Path) -> Callable[[], object]:
    """
    Return what makes the calls of one record: lock, look at the folder and the end, write, unlock.
    """
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)

    def call() -> None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.fstat(folder)
        os.lseek(file, 0, os.SEEK_END)
        os.write(file, LINE)
        fcntl.flock(file, fcntl.LOCK_UN)

    return call


def stages(results: Results, folder: Path) -> None:
    """
    Add what the parts cost.
    """
    sinks: dict[str, Sink] = {
        "published": Doing(nothing),
        "ids": Doing(ids),
        "body": Doing(body),
        "line": Doing(line),
        "queued": Doing(nothing, "worker"),
        "queued body": Doing(body, "worker"),
        "audit": AuditLog(folder / "audit.jsonl"),
        "metrics": PrometheusInstrumenter(),
        "log": LogHandler(path=folder / "events.log"),
        "spans": SpanRecorder(CountingExporter()),
    }
    buses: dict[str, Bus] = {}
    for name, sink in sinks.items():
        buses[name] = Bus()
        buses[name].attach(sink)
    calls = results.scaled(1500)
    samples: dict[str, Sample] = {
        name: partial(tool_calls, bus, calls) for name, bus in buses.items()
    }
    digest = partial(hashlib.sha256, LINE)
    event = ToolStarted(tool_call_id="call-1", tool_name=TOOL, arguments=ARGUMENTS)
    encoder = msgspec.json.Encoder()
    for name, call in (
        ("system calls", system_calls(folder / "calls")),
        ("digest", lambda: digest().hexdigest()),
        ("json", partial(encoder.encode, event)),
        ("search", partial(Redactor().suspicious, encoder.encode(event))),
    ):
        samples[name] = calling(call, 2 * calls, clock=time.process_time)
    with scope(**SCOPE):
        found = interleaved(samples, results.rounds)
    for bus in buses.values():
        bus.close()
    for title, name, without in (
        ("publishing and pairing, to one sink that does nothing", "published", ""),
        ("event, span and trace id", "ids", "published"),
        ("body: encoded, bounded, searched for secrets", "body", "ids"),
        ("record: its line, with the SHA-256 of the chain", "line", "body"),
        ("audit log, beside its lines: lock, write, account", "audit", "line"),
        ("queue and worker, beside an inline sink", "queued", "published"),
        ("metrics", "metrics", "queued"),
        ("log line, beside the body and the ids", "log", "queued body"),
        ("span, beside the body and the ids", "spans", "queued body"),
        ("for comparison: the system calls of one record", "system calls", ""),
        ("for comparison: SHA-256 of one line", "digest", ""),
        ("for comparison: the JSON of one event", "json", ""),
        ("for comparison: one search for secrets", "search", ""),
    ):
        less = found[without] if without else [0.0] * results.rounds
        costs = [(value - base) * 1e6 for value, base in zip(found[name], less, strict=True)]
        results.add(title, costs, "us")


def main() -> int:
    results = begin(__doc__, __file__, rounds=11)
    with tempfile.TemporaryDirectory(prefix="harken-benchmark-") as name:
        stages(results, Path(name))
    results.save()
    return 0


if __name__ == "__main__":
    sys.exit(main())
