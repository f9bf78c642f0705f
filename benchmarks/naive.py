"""
The same four outputs as harken's sinks, put together the way one does without harken.

For each tool call: two lines of an audit log whose hashes form a chain, a counter, a histogram and
a gauge, two lines of JSON log by structlog, and a span of the OpenTelemetry SDK. Each library is
used as its own documentation recommends for speed. What is left out, because it does not come by
composing: redaction, locks between processes, rotation, spilling, bounds, isolation.
"""

from __future__ import annotations

import hashlib
import logging
import os
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import orjson
import structlog
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import Span
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

TOOL = "search"
ARGUMENTS: dict[str, Any] = {
    "query": "disk usage over 90 percent on the build hosts",
    "path": "infra/modules/network/main.tf",
    "limit": 50,
    "recursive": True,
}
RESULT = "3 hosts are over 90 percent"
RESULT_SIZE = 2340
SCOPE: dict[str, Any] = {
    "run_id": "r-42",
    "session_id": "s-1",
    "actor": "agent:billing",
    "correlation_id": "c-9",
}


class CountingExporter(SpanExporter):
    """
    Counts spans and lets them go.
    """

    def __init__(self) -> None:
        self.count = 0
        self.last: ReadableSpan | None = None

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """
        Count *spans*.
        """
        if spans:
            self.last = spans[-1]
        self.count += len(spans)
        return SpanExportResult.SUCCESS


def file_logger(path: Path, formatter: logging.Formatter) -> logging.Logger:
    """
    Return a logger that writes to *path* only, as an application without harken sets it up.
    """
    logger = logging.getLogger(f"benchmark.{path.name}")
    handler = logging.FileHandler(path)
    handler.setFormatter(formatter)
    logger.addHandler(handler)
    logger.propagate = False
    logger.setLevel(logging.INFO)
    return logger


def _now() -> datetime:
    return datetime.now(UTC)


def _id() -> str:
    return str(uuid.uuid4())


class Called(Protocol):
    """
    What any bus tells about a tool that was called.
    """

    @property
    def id(self) -> str: ...
    @property
    def time(self) -> datetime: ...
    @property
    def call_id(self) -> str: ...
    @property
    def tool_name(self) -> str: ...
    @property
    def arguments(self) -> dict[str, Any]: ...
    @property
    def run_id(self) -> str: ...
    @property
    def session_id(self) -> str: ...
    @property
    def actor(self) -> str: ...
    @property
    def correlation_id(self) -> str: ...


class Returned(Called, Protocol):
    """
    What any bus tells about a tool that returned.
    """

    @property
    def started_id(self) -> str: ...
    @property
    def result(self) -> str: ...
    @property
    def result_size(self) -> int: ...
    @property
    def seconds(self) -> float: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class _Call:
    call_id: str
    tool_name: str
    arguments: dict[str, Any]
    run_id: str
    session_id: str
    actor: str
    correlation_id: str
    id: str = field(default_factory=_id)
    time: datetime = field(default_factory=_now)


class ToolCalled(_Call):
    """
    A tool was called.
    """

    __slots__ = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolReturned(_Call):
    """
    A tool returned.
    """

    started_id: str
    result: str
    result_size: int
    seconds: float


def _digest(value: object) -> tuple[str, int]:
    encoded = orjson.dumps(value)
    return f"sha256:{hashlib.sha256(encoded).hexdigest()}", len(encoded)


class Spans:
    """
    A span of the SDK for each call, through a `BatchSpanProcessor`.
    """

    def __init__(self) -> None:
        self.exporter = CountingExporter()
        self._provider = TracerProvider(shutdown_on_exit=False)
        # The default queue of 2,048 would drop most of a burst.
        self._provider.add_span_processor(
            BatchSpanProcessor(self.exporter, max_queue_size=1 << 17, max_export_batch_size=512)
        )
        self._tracer = self._provider.get_tracer("naive")
        self._open: dict[str, Span] = {}

    def of(self, event: Called) -> Span:
        """
        Return the span of a call; whoever asks first, starts it.
        """
        span = self._open.get(event.call_id)
        if span is None:
            digest, size = _digest(event.arguments)
            span = self._open[event.call_id] = self._tracer.start_span(
                f"execute_tool {event.tool_name}",
                attributes={
                    "gen_ai.operation.name": "execute_tool",
                    "gen_ai.agent.name": "billing",
                    "gen_ai.conversation.id": event.session_id,
                    "gen_ai.tool.call.id": event.call_id,
                    "gen_ai.tool.name": event.tool_name,
                    "gen_ai.tool.type": "function",
                    "app.run.id": event.run_id,
                    "app.session.id": event.session_id,
                    "app.actor": event.actor,
                    "app.correlation.id": event.correlation_id,
                    "app.started_event.id": event.id,
                    "app.tool.arguments_digest": digest,
                    "app.tool.arguments_size": size,
                },
            )
        return span

    def started(self, event: Called) -> None:
        """
        Start the span.
        """
        self.of(event)

    def ended(self, event: Returned) -> None:
        """
        End the span.
        """
        span = self.of(event)
        digest, _ = _digest(event.result)
        span.set_attributes(
            {
                "app.outcome": "success",
                "app.event.id": event.id,
                "app.tool.result_size": event.result_size,
                "app.tool.result_digest": digest,
            }
        )
        span.end()

    def forget(self) -> None:
        """
        Let go of spans that ended.
        """
        self._open.clear()

    def flush(self) -> None:
        """
        Export what is queued.
        """
        self._provider.force_flush()

    def close(self) -> None:
        """
        End the processor's thread.
        """
        self._provider.shutdown()


def _hex(span: Span) -> tuple[str, str]:
    context = span.get_span_context()
    return f"{context.trace_id:032x}", f"{context.span_id:016x}"


class Audit:
    """
    Lines that carry the hash of the line before, each in the kernel before the call returns.
    """

    def __init__(self, path: Path, spans: Spans) -> None:
        self._spans = spans
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._head = "0" * 64
        self.lines = 0

    def started(self, event: Called) -> None:
        """
        Write a line about a call.
        """
        digest, size = _digest(event.arguments)
        self._write(
            event,
            "tool.started",
            None,
            {
                "tool_call_id": event.call_id,
                "tool_name": event.tool_name,
                "tool_type": "function",
                "server": None,
                "arguments": event.arguments,
                "arguments_digest": digest,
                "arguments_size": size,
                "effect": "unknown",
                "attempt": 1,
            },
            {},
        )

    def ended(self, event: Returned) -> None:
        """
        Write a line about what a call returned.
        """
        digest, _ = _digest(event.result)
        self._write(
            event,
            "tool.completed",
            "success",
            {
                "tool_call_id": event.call_id,
                "tool_name": event.tool_name,
                "result_size": event.result_size,
                "result_digest": digest,
                "from_cache": False,
                "duration_ms": None,
                "outcome": "success",
            },
            {"causation_id": event.started_id, "started_event_id": event.started_id},
        )

    def _write(
        self,
        event: Called,
        name: str,
        outcome: str | None,
        metadata: dict[str, Any],
        more: dict[str, str],
    ) -> None:
        trace_id, span_id = _hex(self._spans.of(event))
        self.lines += 1
        line = orjson.dumps(
            {
                "timestamp": event.time.isoformat(),
                "seq": self.lines,
                "v": 1,
                "id": event.id,
                "event_type": name,
                "actor": event.actor,
                "action": "call",
                "resource": f"tool:{event.tool_name}",
                "outcome": outcome,
                "metadata": metadata,
                "correlation_id": event.correlation_id,
                "trace_id": trace_id,
                "span_id": span_id,
                "session_id": event.session_id,
                "run_id": event.run_id,
                **more,
                "schema_version": 1,
                "prev": self._head,
            }
        )[:-1]
        self._head = hashlib.sha256(line).hexdigest()
        os.write(self._fd, b'%b,"hash":"%b"}\n' % (line, self._head.encode()))

    def close(self) -> None:
        """
        Close the file.
        """
        os.close(self._fd)


class Metrics:
    """
    A counter, a histogram and a gauge of prometheus-client.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        labels = ("tool", "status")
        self._calls = Counter("tool_calls", "Tool calls.", labels, registry=self.registry)
        self._seconds = Histogram(
            "tool_call_duration_seconds",
            "Durations.",
            labels,
            registry=self.registry,
            buckets=[0.01 * 2**power for power in range(14)],
        )
        self._active = Gauge("tool_calls_in_progress", "Open calls.", registry=self.registry)

    def started(self, event: Called) -> None:
        """
        Count an open call.
        """
        self._active.inc()

    def ended(self, event: Returned) -> None:
        """
        Count a call that ended, and how long it took.
        """
        self._active.dec()
        self._calls.labels(event.tool_name, "success").inc()
        self._seconds.labels(event.tool_name, "success").observe(event.seconds)


class Log:
    """
    JSON lines by structlog, set up as its page on performance says.
    """

    def __init__(self, path: Path, spans: Spans) -> None:
        self._spans = spans
        self._file = path.open("ab")
        self._logger = structlog.wrap_logger(
            structlog.BytesLogger(self._file),
            processors=[
                structlog.contextvars.merge_contextvars,
                structlog.processors.add_log_level,
                structlog.processors.format_exc_info,
                structlog.processors.TimeStamper(fmt="iso", utc=True),
                structlog.processors.JSONRenderer(serializer=orjson.dumps),
            ],
            wrapper_class=structlog.make_filtering_bound_logger(20),
        ).bind()

    def started(self, event: Called) -> None:
        """
        Log a call.
        """
        digest, size = _digest(event.arguments)
        self._info(
            event,
            "tool started",
            {
                "tool_type": "function",
                "arguments_digest": digest,
                "arguments_size": size,
                "effect": "unknown",
                "attempt": 1,
            },
        )

    def ended(self, event: Returned) -> None:
        """
        Log what a call returned.
        """
        digest, _ = _digest(event.result)
        self._info(
            event,
            "tool completed",
            {
                "outcome": "success",
                "result_size": event.result_size,
                "result_digest": digest,
                "from_cache": False,
            },
        )

    def _info(self, event: Called, message: str, data: dict[str, Any]) -> None:
        trace_id, span_id = _hex(self._spans.of(event))
        self._logger.info(
            message,
            event_id=event.id,
            tool_call_id=event.call_id,
            tool_name=event.tool_name,
            trace_id=trace_id,
            span_id=span_id,
            correlation_id=event.correlation_id,
            run_id=event.run_id,
            session_id=event.session_id,
            actor=event.actor,
            data=data,
        )

    def close(self) -> None:
        """
        Close the file.
        """
        self._file.close()


class Outputs:
    """
    All four, and what they have written.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.spans = Spans()
        self.audit = Audit(folder / "audit.jsonl", self.spans)
        self.metrics = Metrics()
        self.log = Log(folder / "events.log", self.spans)

    @property
    def all(self) -> tuple[Audit | Metrics | Log | Spans, ...]:
        """
        The four, the one that ends spans last.
        """
        return self.audit, self.metrics, self.log, self.spans

    def flush(self) -> None:
        """
        Wait until all is written and exported.
        """
        self.spans.flush()
        self.spans.forget()

    def close(self) -> None:
        """
        Let go of files and threads.
        """
        self.spans.close()
        self.audit.close()
        self.log.close()
