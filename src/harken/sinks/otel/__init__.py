"""
Traces: a span for each operation, with the ids that audit records and log lines carry.
"""

from __future__ import annotations

from harken.sinks.otel.ambient import (
    current_traceparent,
    ratio_from_environment,
    use_current_span,
)
from harken.sinks.otel.exporters import console_exporter, file_exporter, otlp_exporter, span_line
from harken.sinks.otel.outputs import IdGenerator, SpanExportError
from harken.sinks.otel.recorder import SpanRecorder

__all__ = [
    "IdGenerator",
    "SpanExportError",
    "SpanRecorder",
    "console_exporter",
    "current_traceparent",
    "file_exporter",
    "otlp_exporter",
    "ratio_from_environment",
    "span_line",
    "use_current_span",
]
