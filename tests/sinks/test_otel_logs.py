"""
Point events as log events: for a log exporter, for a logger provider, and over OTLP.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="needs harken[otlp]")
pytest.importorskip(
    "harken.sinks.otel.logs", reason="needs opentelemetry-sdk 1.39", exc_type=ImportError
)

from opentelemetry._logs import NoOpLoggerProvider, SeverityNumber
from opentelemetry.sdk._logs import LoggerProvider, ReadableLogRecord
from opentelemetry.sdk._logs.export import (
    InMemoryLogRecordExporter,
    LogRecordExporter,
    LogRecordExportResult,
    SimpleLogRecordProcessor,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from tests.otlp_receiver import OtlpReceiver, plain, receiving

import harken
from harken import Bus, Event, register_trace_source
from harken.catalog import (
    CredentialIssued,
    ErrorRaised,
    LlmStarted,
    PolicyEvaluated,
    TextEmitted,
    ToolStarted,
)
from harken.errors import TraceExporterError
from harken.sinks.otel import SpanExportError, SpanRecorder, file_exporter, otlp_exporter
from harken.testing import Captured


class Broken(LogRecordExporter):
    """
    Says that it failed, as often as it is told to.
    """

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.kept: list[str | None] = []
        self.forks = 0

    def export(self, batch: Sequence[ReadableLogRecord]) -> LogRecordExportResult:
        if self.failures:
            self.failures -= 1
            return LogRecordExportResult.FAILURE
        self.kept += [record.log_record.event_name for record in batch]
        return LogRecordExportResult.SUCCESS

    def shutdown(self) -> None:
        """Nothing to let go of."""

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return True

    def after_fork(self) -> None:
        self.forks += 1


Recorded = tuple[SpanRecorder, Callable[[], Sequence[ReadableLogRecord]]]


def by_exporter(**options: Any) -> Recorded:
    """
    Record with a log exporter of our own.
    """
    exporter = InMemoryLogRecordExporter()
    recorder = SpanRecorder(
        InMemorySpanExporter(), point_events="log_events", log_exporter=exporter, **options
    )
    return recorder, exporter.get_finished_logs


def by_provider(**options: Any) -> Recorded:
    """
    Record through somebody else's logger provider.
    """
    exporter = InMemoryLogRecordExporter()
    provider = LoggerProvider(Resource({"service.name": "theirs"}), shutdown_on_exit=False)
    provider.add_log_record_processor(SimpleLogRecordProcessor(exporter))
    recorder = SpanRecorder(
        InMemorySpanExporter(), point_events="log_events", logger_provider=provider, **options
    )
    return recorder, exporter.get_finished_logs


@pytest.fixture(params=[by_exporter, by_provider])
def record(request: pytest.FixtureRequest) -> Callable[..., Recorded]:
    """
    A function that makes a recorder, of either kind, with the options it is given.
    """
    found: Callable[..., Recorded] = request.param
    return found


@pytest.fixture
def bus() -> Iterator[Bus]:
    """
    A bus that is closed after the test.
    """
    bus = Bus(capture_content=("arguments", "text"))
    yield bus
    bus.close()
    register_trace_source(None)


def test_a_log_event_is_in_its_span(bus: Bus, record: Callable[..., Recorded]) -> None:
    """
    It has the ids of the operation around it, its own time, a name of its own and what it says.
    """
    recorder, found = record()
    heard = Captured()
    bus.attach(heard, delivery="inline")
    bus.attach(recorder, delivery="inline")

    with (
        harken.scope(run_id="r-1", session_id="s-1", tenant="blue"),
        bus.operation(ToolStarted(tool_name="t")),
    ):
        bus.publish(CredentialIssued(credential_id="c-1", scope="s3:read"))

    (envelope,) = (e for e in heard.envelopes if e.name == "credential.issued")
    (logged,) = found()
    got = logged.log_record
    assert (int(envelope.trace_id, 16), int(envelope.span_id, 16), 1) == (
        got.trace_id,
        got.span_id,
        got.trace_flags,
    )
    assert ("credential.issued", envelope.time_ns, SeverityNumber.INFO, None) == (
        got.event_name,
        got.timestamp,
        got.severity_number,
        got.body,
    )
    attributes = dict(got.attributes or {})
    assert {
        "harken.event.id": envelope.id,
        "harken.run.id": "r-1",
        "harken.session.id": "s-1",
        "gen_ai.conversation.id": "s-1",
        "harken.correlation.id": envelope.correlation_id,
        "harken.attributes.tenant": "blue",
        "harken.data.credential_id": "c-1",
        "harken.data.scope": "s3:read",
    }.items() <= attributes.items()
    assert logged.instrumentation_scope is not None
    assert "harken" == logged.instrumentation_scope.name
    assert {"exported": 1, "lost": 0} == recorder.log_events


def test_what_happens_outside_of_operations(bus: Bus, record: Callable[..., Recorded]) -> None:
    """
    Unlike a span event, a log event needs no span around it.
    """
    recorder, found = record()
    bus.attach(recorder, delivery="inline")

    envelope = bus.publish(CredentialIssued(credential_id="aws", scope="s"))

    assert envelope is not None
    assert [int(envelope.trace_id, 16)] == [one.log_record.trace_id for one in found()]


def test_operations_are_no_log_events(bus: Bus, record: Callable[..., Recorded]) -> None:
    """
    What has a duration is a span, and what harken says about itself stays at home.
    """
    recorder, found = record()

    def broken(envelope: object) -> None:
        raise OSError("gone")

    bus.attach(recorder, delivery="inline")
    bus.subscribe(broken, ToolStarted)

    with bus.operation(ToolStarted(tool_name="t")):
        pass

    assert [] == list(found())


@pytest.mark.parametrize(
    ("event", "severity"),
    [
        (PolicyEvaluated(policy_id="p", subject="s", decision="allow"), SeverityNumber.INFO),
        (PolicyEvaluated(policy_id="p", subject="s", decision="deny"), SeverityNumber.WARN),
        (ErrorRaised(component="c", error_type="OSError"), SeverityNumber.ERROR),
    ],
    ids=["allowed", "denied", "error"],
)
def test_severities(
    bus: Bus, record: Callable[..., Recorded], event: Event, severity: SeverityNumber
) -> None:
    """
    What broke is an error, what was refused a warning.
    """
    recorder, found = record()
    bus.attach(recorder, delivery="inline")

    bus.publish(event)

    assert [severity] == [one.log_record.severity_number for one in found()]


@pytest.mark.parametrize(("content", "expected"), [(False, None), (True, "needle")])
def test_content_is_exported_only_when_asked_for(
    bus: Bus, record: Callable[..., Recorded], content: bool, expected: str | None
) -> None:
    """
    Texts are as private here as on spans.
    """
    recorder, found = record(content=content)
    bus.attach(recorder, delivery="inline")

    bus.publish(TextEmitted(text="needle"))

    (logged,) = found()
    assert expected == (logged.log_record.attributes or {}).get("harken.data.text")


def test_traces_that_are_not_sampled(bus: Bus, record: Callable[..., Recorded]) -> None:
    """
    The decision about a trace holds for its log events, too.
    """
    recorder, found = record(ratio=0.0)
    bus.attach(recorder, delivery="inline")

    bus.publish(CredentialIssued(credential_id="aws", scope="s"))

    assert [] == list(found())


def test_what_is_lost_is_counted(bus: Bus) -> None:
    """
    A log exporter that fails is a failure of the sink, does not cost spans, and comes back.
    """
    exporter, spans = Broken(1), InMemorySpanExporter()
    recorder = SpanRecorder(spans, point_events="log_events", log_exporter=exporter)
    bus.attach(recorder)
    flushed = []

    for name in ("a", "b"):
        with bus.operation(ToolStarted(tool_name=name)):
            bus.publish(CredentialIssued(credential_id=name, scope="s"))
        flushed.append(bool(bus.flush(30)))

    health = bus.health()["SpanRecorder"]
    assert ([False, True], {"SpanExportError": 1}) == (flushed, health.errors)
    assert {"exported": 1, "lost": 1} == recorder.log_events
    assert (["credential.issued"], 2) == (exporter.kept, len(spans.get_finished_spans()))


def test_a_failure_does_not_feed_itself(bus: Bus) -> None:
    """
    The report about a failed export is not exported, which would fail again, and so on for ever.
    """
    recorder = SpanRecorder(
        InMemorySpanExporter(), point_events="log_events", log_exporter=Broken(1_000)
    )
    bus.attach(recorder)

    bus.publish(CredentialIssued(credential_id="a", scope="s"))
    bus.flush(30)
    bus.flush(30)

    assert {"exported": 0, "lost": 1} == recorder.log_events


def test_an_event_that_cannot_be_read(bus: Bus, record: Callable[..., Recorded]) -> None:
    """
    It is logged with its ids and the error's class, and harms no other.
    """
    recorder, found = record()
    heard = Captured()
    bus.attach(heard, delivery="inline")
    with harken.scope():
        for name in ("a", "b"):
            bus.publish(CredentialIssued(credential_id=name, scope="s"))
    rude, fine = heard.envelopes
    # Its ids are known, and nothing else is.
    assert rude.span_id != fine.span_id
    rude = msgspec.structs.replace(rude, _mint=None)

    recorder.write([rude, fine])

    first, second = (one.log_record for one in found())
    assert (rude.span_id, {"harken.unreadable"}) == (
        f"{first.span_id or 0:016x}",
        set(first.attributes or {}),
    )
    assert "b" == (second.attributes or {})["harken.data.credential_id"]


def test_an_application_without_a_logger_provider(bus: Bus) -> None:
    """
    The API's own provider, which does nothing, is no error; nobody knows what it does.
    """
    recorder = SpanRecorder(
        InMemorySpanExporter(), point_events="log_events", logger_provider=NoOpLoggerProvider()
    )
    bus.attach(recorder, delivery="inline")
    bus.publish(CredentialIssued(credential_id="a", scope="s"))
    recorder.after_fork()

    assert (None, {"exported": 0, "lost": 0}) == (recorder.flush(5), recorder.log_events)


def test_a_processor_that_raises(bus: Bus) -> None:
    """
    What a processor of the provider raises about one log event costs no other of the same batch.
    """

    class Touchy(SimpleLogRecordProcessor):
        def on_emit(self, log_record: Any) -> None:
            if log_record.log_record.event_name == "policy.evaluated":
                raise LookupError("not this one")
            super().on_emit(log_record)

    exporter = InMemoryLogRecordExporter()
    provider = LoggerProvider(shutdown_on_exit=False)
    provider.add_log_record_processor(Touchy(exporter))
    recorder = SpanRecorder(
        InMemorySpanExporter(), point_events="log_events", logger_provider=provider
    )
    heard = Captured()
    bus.attach(heard, delivery="inline")
    for event in (
        CredentialIssued(credential_id="a", scope="s"),
        PolicyEvaluated(policy_id="p"),
        CredentialIssued(credential_id="b", scope="s"),
    ):
        bus.publish(event)

    with pytest.raises(SpanExportError, match="refused 1 of 3 log events"):
        recorder.write(heard.envelopes)

    assert {"exported": 2, "lost": 1} == recorder.log_events
    assert ["credential.issued"] * 2 == [
        one.log_record.event_name for one in exporter.get_finished_logs()
    ]


def test_a_provider_is_flushed_and_left_open(bus: Bus) -> None:
    """
    What became of log events is known to their owner's processors only.
    """
    recorder, found = by_provider()
    bus.attach(recorder)
    bus.publish(CredentialIssued(credential_id="a", scope="s"))

    flushed = recorder.flush(5)
    bus.close()

    assert (None, ["theirs"]) == (
        flushed,
        [one.resource.attributes["service.name"] for one in found()],
    )


def test_a_forked_child_begins_anew() -> None:
    """
    An exporter that knows about forks is told of them; the figures are the child's own.
    """
    exporter = Broken(1)
    recorder = SpanRecorder(
        InMemorySpanExporter(), point_events="log_events", log_exporter=exporter
    )
    bus = Bus()
    with pytest.raises(SpanExportError):
        recorder.write([envelope_of(bus)])

    recorder.after_fork()

    assert (1, {"exported": 0, "lost": 0}) == (exporter.forks, recorder.log_events)


def envelope_of(bus: Bus) -> Any:
    """
    Return the envelope of a point event on *bus*.
    """
    heard = Captured()
    bus.attach(heard, delivery="inline")
    bus.publish(CredentialIssued(credential_id="a", scope="s"))
    return heard.envelopes[0]


def test_a_network_has_a_thread_of_its_own(tmp_path: Path) -> None:
    """
    A file never keeps the shared worker waiting, but log events beside it may.
    """
    exporter = file_exporter(tmp_path / "spans.jsonl")

    plain = SpanRecorder(exporter)
    logging = SpanRecorder(exporter, point_events="log_events", log_exporter=Broken(0))

    assert ("worker", "isolated") == (plain.delivery, logging.delivery)
    exporter.shutdown()


@pytest.mark.parametrize("given", ["log_exporter", "logger_provider"])
def test_nowhere_to_go(given: str) -> None:
    """
    Somewhere to send log events to without any is a mistake.
    """
    options: dict[str, Any] = {given: object()}

    with pytest.raises(TypeError, match="log_events"):
        SpanRecorder(InMemorySpanExporter(), **options)


def test_two_places_to_go() -> None:
    """
    So are two places.
    """
    with pytest.raises(TypeError, match="not both"):
        SpanRecorder(
            InMemorySpanExporter(),
            point_events="log_events",
            log_exporter=Broken(0),
            logger_provider=NoOpLoggerProvider(),
        )


def test_an_opentelemetry_that_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Where there are no log events yet, the error says what to install.
    """
    monkeypatch.delitem(__import__("sys").modules, "harken.sinks.otel.logs", raising=False)
    monkeypatch.delattr("opentelemetry.sdk._logs.ReadableLogRecord")

    with pytest.raises(TraceExporterError, match=r"opentelemetry-sdk 1\.39"):
        SpanRecorder(InMemorySpanExporter(), point_events="log_events")


class PaintStarted(Event, name="otel_logs_test.paint.started", key="paint_id"):
    """The start of an operation that no table knows."""

    paint_id: str = ""


class PaintFailed(Event, name="otel_logs_test.paint.failed", ends=PaintStarted, outcome="failure"):
    """Its bad end."""

    paint_id: str = ""


@pytest.mark.parametrize(
    ("opted", "on_spans", "in_logs"),
    [("", True, False), ("logs", False, True), ("logs/dup", True, True), ("x", True, False)],
)
@pytest.mark.parametrize(
    ("event", "name"),
    [
        (ToolStarted(tool_name="t"), "gen_ai.execute_tool.exception"),
        (LlmStarted(model="m"), "gen_ai.client.operation.exception"),
        (PaintStarted(), "harken.operation.exception"),
    ],
    ids=["tool", "model", "other"],
)
def test_exceptions(
    bus: Bus,
    monkeypatch: pytest.MonkeyPatch,
    opted: str,
    on_spans: bool,
    in_logs: bool,
    event: Event,
    name: str,
) -> None:
    """
    OpenTelemetry's own variable decides where the exception is that ended an operation; what was
    refused or cancelled is none.
    """
    monkeypatch.setenv("OTEL_SEMCONV_EXCEPTION_SIGNAL_OPT_IN", opted)
    spans, logs = InMemorySpanExporter(), InMemoryLogRecordExporter()
    bus.attach(SpanRecorder(spans, point_events="log_events", log_exporter=logs), delivery="inline")

    with bus.operation(event) as operation:
        operation.fail(ValueError("bad"))
    with bus.operation(ToolStarted(tool_name="t")) as denied:
        denied.deny("not today")

    span = next(one for one in spans.get_finished_spans() if one.status.status_code.name == "ERROR")
    records = [one.log_record for one in logs.get_finished_logs()]
    assert ["exception"] * on_spans == [one.name for one in span.events]
    assert [(name, SeverityNumber.WARN, "ValueError", "bad")] * in_logs == [
        (
            one.event_name,
            one.severity_number,
            (one.attributes or {}).get("exception.type"),
            (one.attributes or {}).get("exception.message", "bad"),
        )
        for one in records
    ]
    assert {span.get_span_context().span_id} >= {one.span_id for one in records}


def test_exceptions_without_log_events(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Where there are no log events, exceptions stay on their spans.
    """
    monkeypatch.setenv("OTEL_SEMCONV_EXCEPTION_SIGNAL_OPT_IN", "logs")
    spans = InMemorySpanExporter()
    bus.attach(SpanRecorder(spans), delivery="inline")

    with bus.operation(ToolStarted(tool_name="t")) as operation:
        operation.fail(ValueError("bad"))

    assert ["exception"] == [one.name for one in spans.get_finished_spans()[0].events]


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[OtlpReceiver]:
    """
    A receiver that the environment points to.
    """
    with receiving() as found:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", found.url)
        yield found


def test_over_otlp(bus: Bus, receiver: OtlpReceiver) -> None:
    """
    By default log events go where spans go, and a backend finds them by the span's ids.
    """
    bus.attach(SpanRecorder(otlp_exporter(), point_events="log_events", service_name="fixer"))

    with bus.operation(ToolStarted(tool_name="t")):
        bus.publish(CredentialIssued(credential_id="aws", scope="s"))
    flushed = bus.flush(30)

    (span,) = receiver.spans
    (record,) = receiver.log_records
    assert flushed
    assert (span.trace_id, span.span_id, "credential.issued", "aws") == (
        record.trace_id,
        record.span_id,
        record.event_name,
        plain(record.attributes)["harken.data.credential_id"],
    )


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork() here")
def test_a_forked_child_has_a_connection_of_its_own(bus: Bus, receiver: OtlpReceiver) -> None:
    """
    Parent and child never write into one connection.
    """
    bus.attach(SpanRecorder(otlp_exporter(), point_events="log_events"))
    bus.publish(CredentialIssued(credential_id="before", scope="s"))
    bus.flush(30)
    before = set(receiver.connections)

    child = os.fork()
    if child == 0:
        bus.publish(CredentialIssued(credential_id="child", scope="s"))
        os._exit(0 if bus.close(30) else 1)
    _, status = os.waitpid(child, 0)
    bus.publish(CredentialIssued(credential_id="after", scope="s"))
    bus.flush(30)

    names = [
        plain(record.attributes)["harken.data.credential_id"] for record in receiver.log_records
    ]
    assert (0, ["before", "child", "after"]) == (status, names)
    assert (1, 2) == (len(before), len(receiver.connections))
