"""
The two ways out for log events: a log exporter of our own, or somebody else's logger provider.

OpenTelemetry's Logs are not declared stable in Python yet, so this is loaded only when asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from opentelemetry._logs import LoggerProvider as AnyLoggerProvider, LogRecord, SeverityNumber
from opentelemetry.context import Context
from opentelemetry.sdk._logs import LoggerProvider, ReadableLogRecord
from opentelemetry.sdk._logs.export import LogRecordExporter, LogRecordExportResult
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context

from harken import Envelope, Event, Outcome
from harken.sinks.otel.attributes import AttributeValue
from harken.sinks.otel.exporting import Exporting, Providing, WayOut
from harken.sinks.otel.spans import is_error


class LogOutput(WayOut, Protocol):
    """
    Where log events go.
    """

    def emit(self, records: Sequence[LogRecord], resource: Resource, /) -> None:
        """
        Hand on *records*, which are of *resource*.
        """
        ...


class ToLogExporter(Exporting[ReadableLogRecord]):
    """
    Exports log events; see `Exporting`.
    """

    def __init__(self, make: Callable[[], LogRecordExporter], scope: InstrumentationScope) -> None:
        super().__init__(make, LogRecordExportResult.FAILURE, "log events")
        self._scope = scope

    def emit(self, records: Sequence[LogRecord], resource: Resource, /) -> None:
        """
        Export *records*.

        Raises:
            SpanExportError: The exporter says that it failed.
        """
        self.export([ReadableLogRecord(record, resource, self._scope) for record in records])


class ToLoggerProvider(Providing):
    """
    Emits records at a logger provider that somebody else owns, with its resource and processors.
    """

    def __init__(self, provider: AnyLoggerProvider, scope: InstrumentationScope) -> None:
        super().__init__(provider if isinstance(provider, LoggerProvider) else None, "log events")
        self._logger = provider.get_logger(scope.name, scope.version, attributes=scope.attributes)

    def emit(self, records: Sequence[LogRecord], resource: Resource, /) -> None:
        """
        Emit *records*. What becomes of them is known to the processors only.

        Raises:
            SpanExportError: A processor raised; which log events are lost is said.
        """
        self.emit_each(records, self._logger.emit)


def log_record(
    envelope: Envelope[Event], name: str, time_ns: int, attributes: Mapping[str, AttributeValue]
) -> LogRecord:
    """
    Return a log event called *name*, in the span of *envelope*.
    """
    span = SpanContext(
        int(envelope.trace_id, 16),
        int(envelope.span_id, 16),
        False,
        TraceFlags(envelope.trace_flags),
    )
    return LogRecord(
        timestamp=time_ns,
        context=set_span_in_context(NonRecordingSpan(span), Context()),
        severity_number=_severity_of(envelope),
        attributes=attributes,
        event_name=name,
    )


def _severity_of(envelope: Envelope[Event]) -> SeverityNumber:
    """
    Return how much a point event, or the exception that ended an operation, asks for attention.
    """
    outcome = envelope.outcome
    if envelope.type.ends is not None:
        # As the conventions have it: whoever catches it decides whether it is an error.
        return SeverityNumber.WARN
    if is_error(outcome):
        return SeverityNumber.ERROR
    return SeverityNumber.WARN if outcome is Outcome.denied else SeverityNumber.INFO
