"""
Spans over OTLP: what a real receiver decodes is what was published.
"""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import harken
from harken import Bus, Envelope, Event, register_trace_source
from harken.catalog import LlmStarted, PrCreated, RunStarted, ToolCompleted, ToolStarted
from harken.sinks.otel import SpanRecorder, otlp_exporter
from harken.testing import Captured

pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="needs harken[otlp]")

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from tests.otlp_receiver import OtlpReceiver, Received, plain, receiving, receiving_grpc

JSON = Any


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[OtlpReceiver]:
    """
    A receiver that the environment points to.
    """
    with receiving() as found:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", found.url)
        yield found


@pytest.fixture
def bus() -> Iterator[Bus]:
    """
    A bus that is closed after the test.
    """
    bus = Bus()
    yield bus
    bus.close()
    register_trace_source(None)


def ids(span: Span) -> tuple[str, str, str | None]:
    """
    Return trace, span and parent id as an envelope has them.
    """
    return span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex() or None


def call_tools_in_parallel(bus: Bus, count: int) -> list[Envelope[Event]]:
    """
    Run *count* tools at once inside of a run, every seventh of which fails; return what was heard.
    """
    heard = Captured()
    bus.attach(heard)

    def call(number: int) -> None:
        with bus.operation(ToolStarted(tool_name=f"t{number}")) as tool:
            if number % 7 == 3:
                tool.fail(ValueError(f"bad {number}"))

    numbers = list(range(count))
    random.Random(3).shuffle(numbers)
    with (
        harken.scope(run_id="r-1", actor="agent:fixer"),
        bus.operation(RunStarted()),
        ThreadPoolExecutor(8) as threads,
    ):
        list(threads.map(harken.bind(call), numbers))
    return heard.envelopes


def expected(heard: list[Envelope[Event]]) -> dict[str, object]:
    """
    Return what a backend must know of each operation in *heard*, by span id.
    """
    ends = [envelope for envelope in heard if envelope.type.is_terminal]
    found: dict[str, object] = {}
    for end in ends:
        assert end.started is not None
        assert end.duration is not None
        failed = str(end.outcome) == "failure"
        found[end.span_id] = (
            (end.trace_id, end.span_id, end.parent_span_id),
            end.started.time_ns,
            end.started.time_ns + round(end.duration * 1e9),
            Status.STATUS_CODE_ERROR if failed else Status.STATUS_CODE_UNSET,
            "ValueError" if failed else None,
            end.id,
        )
    return found


def received(receiver: Received) -> dict[str, object]:
    """
    Return the same of what *receiver* got.
    """
    return {
        span.span_id.hex(): (
            ids(span),
            span.start_time_unix_nano,
            span.end_time_unix_nano,
            span.status.code,
            plain(span.attributes).get("error.type"),
            plain(span.attributes)["harken.event.id"],
        )
        for span in receiver.spans
    }


@pytest.mark.parametrize("way", ["exporter", "provider"])
def test_parallel_tool_calls_arrive_as_they_were(
    bus: Bus, receiver: OtlpReceiver, way: str
) -> None:
    """
    Twenty tools that run at once, in any order, are twenty siblings with the ids, times and
    statuses of their audit records; nothing is lost, and nothing is doubled.
    """
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    recorder = SpanRecorder() if way == "exporter" else SpanRecorder(provider=provider)
    bus.attach(recorder)

    heard = call_tools_in_parallel(bus, 20)
    report = bus.flush(30)
    provider.shutdown()

    assert report
    assert 21 == len(receiver.spans)
    assert expected(heard) == received(receiver)
    (root,) = (span for span in receiver.spans if not span.parent_span_id)
    assert {root.span_id} == {s.parent_span_id for s in receiver.spans if s.parent_span_id}


@pytest.mark.parametrize("seed", range(3))
def test_shuffled_and_one_of_them_lost(bus: Bus, receiver: OtlpReceiver, seed: int) -> None:
    """
    Starts and ends of twenty parallel tools that come in any order, ends before their starts, and
    one end never: twenty-one spans with the right parent, and one of them says what it lacks.
    """
    heard = Captured()
    bus.attach(heard)
    bus.attach(SpanRecorder())
    events: list[Event] = [
        kind(tool_name=f"t{number}", tool_call_id=f"c{number}")
        for number in range(20)
        for kind in (ToolStarted, ToolCompleted)
    ]
    events.remove(ToolCompleted(tool_name="t13", tool_call_id="c13"))
    random.Random(seed).shuffle(events)

    with harken.scope(run_id="r-1"), bus.operation(RunStarted()) as run:
        for event in events:
            bus.publish(event)
    assert bus.close(30)

    assert run.envelope is not None
    trace_id, root = run.envelope.trace_id, run.envelope.span_id
    starts = {
        event.event.tool_name: event.span_id
        for event in heard.envelopes
        if isinstance(event.event, ToolStarted)
    }
    tools = {
        f"execute_tool {name}": ((trace_id, span_id, root), None)
        for name, span_id in starts.items()
    }
    tools["execute_tool t13"] = ((trace_id, starts["t13"], root), "orphaned")
    assert {"invoke_agent": ((trace_id, root, None), None), **tools} == {
        span.name: (ids(span), plain(span.attributes).get("error.type")) for span in receiver.spans
    }
    assert 21 == len(receiver.spans)
    assert all(span.end_time_unix_nano >= span.start_time_unix_nano for span in receiver.spans)


def lines_of(path: Path) -> list[JSON]:
    """
    Return the lines of a file of JSON.
    """
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def rfc3339(nanoseconds: int) -> str:
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:09d}Z"


def as_line(span: Span) -> JSON:
    """
    Return what a line of spans.jsonl says of *span*, besides its resource and its scope.
    """
    status = Status.StatusCode.Name(span.status.code).removeprefix("STATUS_CODE_")
    trace_id, span_id, parent_id = ids(span)
    return {
        "trace_id": trace_id,
        "span_id": span_id,
        "parent_id": parent_id,
        "name": span.name,
        "kind": Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
        "start_time": rfc3339(span.start_time_unix_nano),
        "end_time": rfc3339(span.end_time_unix_nano),
        "status": {"status_code": status, "description": span.status.message or None},
        "attributes": plain(span.attributes),
        "events": [
            {
                "name": event.name,
                "timestamp": rfc3339(event.time_unix_nano),
                "attributes": plain(event.attributes),
            }
            for event in span.events
        ],
        "links": [
            {
                "trace_id": link.trace_id.hex(),
                "span_id": link.span_id.hex(),
                "attributes": plain(link.attributes),
            }
            for link in span.links
        ],
    }


def test_the_demo(receiver: OtlpReceiver, tmp_path: Path) -> None:
    """
    Every span of the demo's runs arrives with all that its line in the file says; and ids, parents,
    outcomes and starts are those of the audit records.
    """
    argv = [sys.executable, "-m", "harken", "demo", "--out", str(tmp_path), "--otlp"]
    subprocess.run(argv, check=True, capture_output=True)

    written = {line["span_id"]: line for line in lines_of(tmp_path / "spans.jsonl")}
    audited = {line["id"]: line for line in lines_of(tmp_path / "audit.jsonl")}
    sent = {span.span_id.hex(): span for span in receiver.spans}
    assert written == {
        span_id: {
            **as_line(span),
            **{name: written[span_id][name] for name in ("resource", "scope")},
        }
        for span_id, span in sent.items()
    }
    assert len(sent) == len(receiver.spans)

    ends = [line for line in audited.values() if line.get("started_event_id") in audited]
    assert {"success", "failure", "denied", "timeout"} <= {line["outcome"] for line in ends}
    for line in ends:
        span = sent[line["span_id"]]
        attributes, start = plain(span.attributes), audited[line["started_event_id"]]
        broken = line["outcome"] in {"failure", "timeout", "orphaned"}
        assert (
            (line["trace_id"], line["span_id"], line.get("parent_span_id")),
            (line["id"], line["outcome"]),
            broken,
            start["timestamp"],
        ) == (
            ids(span),
            (attributes["harken.event.id"], attributes["harken.outcome"]),
            span.status.code == Status.STATUS_CODE_ERROR and "error.type" in attributes,
            # Whole microseconds.
            rfc3339(span.start_time_unix_nano)[:-4] + "Z",
        )


def test_over_grpc(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    The other protocol of OTLP carries the same spans, and log events beside them.
    """
    pytest.importorskip("opentelemetry.exporter.otlp.proto.grpc", reason="needs harken[otlp-grpc]")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    with receiving_grpc() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        recorder = SpanRecorder(point_events="log_events")
        bus.attach(recorder)

        heard = call_tools_in_parallel(bus, 20)
        with bus.operation(ToolStarted(tool_name="last")):
            bus.publish(PrCreated(url="u"))
        assert bus.close(30)

    last = next(span for span in receiver.spans if span.name == "execute_tool last")
    (record,) = receiver.log_records
    assert expected(heard) == received(receiver)
    assert (last.span_id, "pr.created") == (record.span_id, record.event_name)
    # The answers of the receiver have arrived, too.
    assert ({"ended": 22}, {"exported": 1, "lost": 0}) == (
        {result: count for result, count in recorder.spans.items() if count},
        recorder.log_events,
    )


def test_kinds_attributes_and_events_arrive(bus: Bus, receiver: OtlpReceiver) -> None:
    """
    What a span says besides its ids survives the wire.
    """
    bus.attach(SpanRecorder(otlp_exporter(), service_name="fixer", attributes_prefix=None))

    with bus.operation(LlmStarted(model="m", provider="acme")) as llm:
        llm.complete(finish_reasons=("stop", "length"), input_tokens=3, cost_usd=0.25)
    with bus.operation(ToolStarted(tool_name="t")) as tool:
        tool.fail(ValueError("b\u00e4d"))
    bus.flush(30)

    model, call = receiver.spans
    found = plain(model.attributes)
    assert ("chat m", Span.SPAN_KIND_CLIENT) == (model.name, model.kind)
    assert {
        "gen_ai.provider.name": "acme",
        "gen_ai.response.finish_reasons": ["stop", "length"],
        "gen_ai.usage.input_tokens": 3,
        "harken.usage.cost_usd": 0.25,
    } == {
        key: found[key]
        for key in (
            "gen_ai.provider.name",
            "gen_ai.response.finish_reasons",
            "gen_ai.usage.input_tokens",
            "harken.usage.cost_usd",
        )
    }
    (event,) = call.events
    said = {"exception.type": "ValueError", "exception.message": "b\u00e4d"}
    assert ("b\u00e4d", "exception", said) == (
        call.status.message,
        event.name,
        plain(event.attributes),
    )
    assert {"fixer"} == {plain(r.attributes)["service.name"] for r in receiver.resources}


def test_the_environment_sets_the_exporter_up(
    bus: Bus, receiver: OtlpReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Headers and compression are what `OTEL_EXPORTER_OTLP_*` says.
    """
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-team=blue")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
    bus.attach(SpanRecorder(otlp_exporter()))

    with bus.operation(RunStarted()):
        pass
    bus.flush(30)

    assert ["invoke_agent"] == [span.name for span in receiver.spans]
    headers = {name.lower(): value for name, value in receiver.headers[0].items()}
    assert ("blue", "gzip") == (headers["x-team"], headers["content-encoding"])


def test_a_receiver_that_refuses_is_noticed(bus: Bus, receiver: OtlpReceiver) -> None:
    """
    What the exporter only logs, the bus counts; afterwards spans arrive again.
    """
    receiver.refusals = 1
    bus.attach(SpanRecorder(otlp_exporter()))
    flushed: list[bool] = []

    for name in ("a", "b"):
        with bus.operation(ToolStarted(tool_name=name)):
            pass
        flushed.append(bool(bus.flush(30)))

    health = bus.health()["SpanRecorder"]
    assert ({"SpanExportError": 1}, 0) == (health.errors, health.consecutive_failures)
    assert [False, True] == flushed
    assert ["execute_tool b"] == [span.name for span in receiver.spans]


def test_a_mute_receiver_holds_nobody_up(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    The agent goes on while the exporter waits for nobody, and the flush does not say that all
    is well.
    """
    with socket.socket() as nobody:
        # Connections are accepted by the kernel, and never answered.
        nobody.bind(("127.0.0.1", 0))
        nobody.listen()
        monkeypatch.setenv(
            "OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{nobody.getsockname()[1]}"
        )
        # In seconds; what the exporter takes to give up.
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
        threads = set(threading.enumerate())
        heard = Captured()
        bus.attach(heard)
        bus.attach(SpanRecorder(otlp_exporter()))
        with bus.operation(RunStarted()):
            pass

        flushed = bus.flush(0.1)
        closed = bus.close(0.1)
        for thread in set(threading.enumerate()) - threads:
            thread.join(30)

    assert (False, False) == (bool(flushed), bool(closed))
    assert ["run.started", "run.completed"] == heard.names[:2]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork() here")
def test_a_forked_child_has_a_connection_of_its_own(bus: Bus, receiver: OtlpReceiver) -> None:
    """
    Parent and child never write into one connection, which would mix up their requests; and the
    child's spans are of the child.
    """
    bus.attach(SpanRecorder(otlp_exporter()))
    with bus.operation(ToolStarted(tool_name="before")):
        pass
    bus.flush(30)
    before = set(receiver.connections)

    child = os.fork()
    if child == 0:
        with bus.operation(ToolStarted(tool_name="child")):
            pass
        os._exit(0 if bus.close(30) else 1)
    _, status = os.waitpid(child, 0)
    with bus.operation(ToolStarted(tool_name="after")):
        pass
    bus.flush(30)

    names = ["execute_tool before", "execute_tool child", "execute_tool after"]
    assert (0, names) == (status, [span.name for span in receiver.spans])
    assert (1, 2) == (len(before), len(receiver.connections))
    assert 3 == len({span.span_id for span in receiver.spans})
