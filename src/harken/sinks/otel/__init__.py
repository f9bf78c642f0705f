"""
Traces: a span for each operation, with the ids that audit records and log lines carry.
"""

from __future__ import annotations

from harken.sinks.otel.ambient import (
    content_from_environment,
    current_traceparent,
    exceptions_from_environment,
    latest_from_environment,
    ratio_from_environment,
    use_current_span,
)
from harken.sinks.otel.exporters import (
    console_exporter,
    file_exporter,
    otlp_exporter,
    otlp_log_exporter,
    span_line,
)
from harken.sinks.otel.exporting import SpanExportError
from harken.sinks.otel.outputs import IdGenerator
from harken.sinks.otel.recorder import SpanRecorder

__all__ = [
    "IdGenerator",
    "SpanExportError",
    "SpanRecorder",
    "console_exporter",
    "content_from_environment",
    "current_traceparent",
    "exceptions_from_environment",
    "file_exporter",
    "latest_from_environment",
    "otlp_exporter",
    "otlp_log_exporter",
    "ratio_from_environment",
    "span_line",
    "use_current_span",
]
