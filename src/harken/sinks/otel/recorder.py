"""
The sink that makes a span of each operation, when the operation ends.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence, Set as AbstractSet
from enum import Enum
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits
from opentelemetry.sdk.trace.export import SpanExporter
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import TracerProvider

from harken import Bus, Delivery, Envelope, Event, Outcome, Scope, describe
from harken.errors import TraceExporterError
from harken.sinks.otel.ambient import (
    content_from_environment,
    exceptions_from_environment,
    latest_from_environment,
    nest_for,
    nest_without,
    use_current_span,
)
from harken.sinks.otel.attributes import attribute_value
from harken.sinks.otel.exporters import LineExporter, otlp_exporter, otlp_log_exporter
from harken.sinks.otel.exporting import SpanExportError
from harken.sinks.otel.links import Links
from harken.sinks.otel.mapping import (
    LATEST,
    LATEST_OPT_IN,
    LINKED,
    POINTS,
    SPANS,
    VERSION,
    SpanMapping,
)
from harken.sinks.otel.outputs import Output, ToExporter, ToProvider, instrumentation_scope
from harken.sinks.otel.sampling import decide_for, decide_without
from harken.sinks.otel.spans import (
    Gathered,
    Recipe,
    encodable,
    exception_attributes,
    is_error,
    log_attributes,
    point_attributes,
    span_event,
)

if TYPE_CHECKING:
    from opentelemetry._logs import LoggerProvider, LogRecord
    from opentelemetry.sdk._logs.export import LogRecordExporter

    from harken.sinks.otel.logs import LogOutput

PointEvents: TypeAlias = Literal["none", "span_events", "log_events"]

MAX_OPEN = 1_000
"""Open operations that are remembered; the oldest are forgotten first."""

RESULTS: tuple[str, ...] = ("ended", "timeout", "abandoned", "no_start", "evicted", "lost")
"""What may become of a span."""

LOG_RESULTS: tuple[str, ...] = ("exported", "lost")
"""What may become of a log event."""

# What is true of operations that the table does not know.
_UNMAPPED = SpanMapping(name="")

_LOW_64_BITS = (1 << 64) - 1


class Role(Enum):
    """
    What an event that is no operation's end is to a recorder.
    """

    START = "start"
    POINT = "point"


# Looked up once, not for each event.
_START: Final = Role.START
_POINT: Final = Role.POINT
_SUCCESS: Final = Outcome.success


class SpanRecorder:
    """
    Makes a span of each operation, when it ends; its ids and its parent are the envelope's.

    A span's status is unset on success and where nothing is broken: ``denied``, ``cancelled``,
    ``deferred`` and ``unknown``. It is ERROR, with ``error.type``, on ``failure``, ``timeout``
    and ``orphaned``. The outcome itself is the attribute ``harken.outcome``. A child's failure
    says nothing about its parent. An end without a start gets a span as long as its own
    ``duration_ms``, and ``harken.start_missing``. An operation of the catalog is named after the
    GenAI conventions, any other after its start: ``deploy.started`` becomes ``deploy``.

    A span has links to the earlier attempt at the same call or step, to the session or run that it
    goes on with, to the spans of its causes, and, when it is the root of its trace, to its session;
    all as far as this process has recorded them lately. ``harken.link.reason`` says which.

    An operation whose event cannot be read gets a span with its ids, its times, and the error's
    class as ``harken.unreadable``; it harms no other span.

    A span's parent comes from its envelope, never from the ambient context; and nothing is
    attached to that, unless *current_span* asks for it.

    Args:
        exporter:
            Where spans go: `file_exporter()`, `console_exporter()`, `otlp_exporter()` or any
            other. It is called with each batch, so batches grow while it is busy; it is shut
            down with the bus. By default `otlp_exporter()`.

        provider:
            A tracer provider of the application to send spans through instead. Its sampler,
            limits and processors apply, and it is not shut down. What its processors fail to
            export is known to them only.

        service_name: The resource's ``service.name``; else ``OTEL_SERVICE_NAME`` decides.

        resource:
            More of the resource; ``OTEL_RESOURCE_ATTRIBUTES`` is merged in.

        ratio:
            Of all traces, from 0.0 to 1.0, to record. All spans of a trace are recorded or none,
            in every process that decides by trace id as OpenTelemetry does. The flags of a trace
            that begins here say whether it is recorded, wherever they go. A trace that came in as
            not sampled is not recorded.

        attributes_prefix:
            Of the application's own attributes, such as ``infra_agent.session.id``; None for
            none of them.

        content:
            Whether to export arguments, results and texts, as far as the bus captures them.
            They are redacted either way. By default
            ``OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT`` decides, for spans and for
            events; without it there is none.

        point_events:
            "span_events" makes events that are no operations, such as ``credential.issued``,
            events of the span they happen in. "log_events" makes each of them a log record with
            an event name and the ids of its span, wherever it happens; what harken says about
            itself, ``harken.*``, stays with the other sinks. Exceptions are events of their span;
            with ``OTEL_SEMCONV_EXCEPTION_SIGNAL_OPT_IN=logs`` they are log events instead,
            and with ``logs/dup`` both.

        log_exporter: Where log events go; by default `otlp_log_exporter()`.

        logger_provider:
            A logger provider of the application to send log events through instead, likewise.

        current_span:
            Whether code inside of ``with bus.operation(...)`` has the operation's span as its
            current OpenTelemetry span, so that the spans of other libraries come below it. It
            holds for the whole process, until the recorder is closed. The operation's own span is
            exported when it ends, after those.

        max_attributes:
            Attributes of a span that are kept, the most important first. The limits of
            ``OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT`` and the like lower it further.

        max_attribute_length: Characters of an attribute that are kept, likewise.

    Raises:
        TraceExporterError: There is no exporter given, and none for OTLP installed; or the
            OpenTelemetry that is installed has no log events.

        TypeError: Both *exporter* and *provider* are given, or a resource for a *provider*; or
            somewhere for log events to go although there are none.

        ValueError: *ratio* is not between 0 and 1; or *current_span* is asked for although the
            provider makes its own ids, so that nothing could be below harken's.
    """

    name = "SpanRecorder"
    delivery: Delivery

    def __init__(
        self,
        exporter: SpanExporter | None = None,
        *,
        provider: TracerProvider | None = None,
        service_name: str | None = None,
        resource: Resource | None = None,
        ratio: float = 1.0,
        attributes_prefix: str | None = "infra_agent",
        content: bool | None = None,
        point_events: PointEvents = "none",
        log_exporter: LogRecordExporter | None = None,
        logger_provider: LoggerProvider | None = None,
        current_span: bool = False,
        max_attributes: int = 96,
        max_attribute_length: int = 4_096,
    ) -> None:
        if not 0.0 <= ratio <= 1.0:
            raise ValueError(f"ratio must be from 0.0 to 1.0, not {ratio}")
        latest = latest_from_environment()
        self._table = LATEST if latest else SPANS
        self._scope = instrumentation_scope(f"{VERSION}-{LATEST_OPT_IN}" if latest else VERSION)
        self._output = _output(exporter, provider, service_name, resource, self._scope)
        if current_span and not self._output.keeps_ids:
            raise ValueError(
                "current_span needs a provider with id_generator=harken.sinks.otel.IdGenerator()"
            )
        self._current_span = current_span
        self._bound = round(ratio * (_LOW_64_BITS + 1))
        self._prefix = attributes_prefix
        on_spans, on_events = content_from_environment() if content is None else (content,) * 2
        self._content = on_spans
        self._content_of_points = on_events
        self._span_events = point_events == "span_events"
        self._logs = _log_output(point_events, log_exporter, logger_provider, self._scope)
        # A file and a stream never keep the shared worker waiting; a network may.
        local = isinstance(exporter, LineExporter) and self._logs is None
        self.delivery = "worker" if local else "isolated"
        as_events, as_logs = exceptions_from_environment()
        self._logs_exceptions = as_logs and self._logs is not None
        self._exceptions = as_events or not self._logs_exceptions
        limits = SpanLimits()
        self._max_attributes = _lower(max_attributes, limits.max_span_attributes)
        self._max_length = _lower(max_attribute_length, limits.max_span_attribute_length)
        self._recipes: dict[type[Event], Recipe | Role | None] = {}
        self._lost = False
        self._links = Links()
        self._results = dict.fromkeys(RESULTS, 0)
        self._log_results = dict.fromkeys(LOG_RESULTS, 0)
        self._open: dict[str, Gathered | None] = {}

    def attached(self, bus: Bus, /) -> None:
        """
        Let events outside of every scope join the application's current span, and decide which of
        the traces that begin here are sampled.
        """
        use_current_span()
        decide_for(self)
        if self._current_span:
            nest_for(self)

    def keeps(self, trace_id: str, /) -> bool:
        """
        Whether a trace that begins in this process is recorded.

        Args:
            trace_id: 32 hex digits.
        """
        # The same 64 bits that OpenTelemetry's TraceIdRatioBased looks at.
        chosen = self._bound > _LOW_64_BITS or int(trace_id[16:], 16) < self._bound
        return chosen and self._output.keeps(trace_id)

    def write(self, batch: Sequence[Envelope[Event]], /) -> None:
        """
        Export a span for each operation that ends in *batch*.

        Raises:
            SpanExportError: An exporter failed; its spans, or log events, of this batch are lost.
        """
        spans: list[ReadableSpan] = []
        logged: list[Envelope[Event]] = []
        results: dict[int, str] = {}
        resource: Resource | None = None
        scope: Scope | None = None
        sampled = False
        for envelope in batch:
            kind = type(envelope.event)
            try:
                recipe = self._recipes[kind]
            except KeyError:
                recipe = self._recipes[kind] = self._find_recipe(envelope)
            if recipe is None:
                continue
            # Nearly always that of the event before.
            if envelope.scope is not scope:
                scope = _scope_of_one_trace(envelope)
                sampled = self._sampled(envelope)
            if not sampled:
                continue
            if recipe is _START:
                self._begin(envelope)
            elif recipe is _POINT:
                self._gather(envelope)
                if self._logs is not None and not envelope.name.startswith("harken."):
                    logged.append(envelope)
            else:
                if resource is None:
                    resource = self._output.resource()
                spans.append(self._ended(envelope, recipe, resource))
                if envelope.outcome is not _SUCCESS or envelope.started is None:
                    results[len(spans) - 1] = _result(envelope)
                    if self._logs_exceptions and is_error(envelope.outcome):
                        logged.append(envelope)
        try:
            if spans:
                self._export(spans, results)
        finally:
            if self._logs is not None and logged:
                self._log(self._logs, logged)

    def _log(self, output: LogOutput, logged: Sequence[Envelope[Event]]) -> None:
        """
        Export *logged*, point events and the ends of what failed, as log events; count them.
        """
        records = [self._log_record(envelope) for envelope in logged]
        lost = _all(records)
        try:
            output.emit(records, self._output.resource())
            lost = ()
        except SpanExportError as error:
            lost = lost if error.lost is None else error.lost
            raise
        finally:
            self._lost = self._lost or bool(lost)
            self._log_results["lost"] += len(lost)
            self._log_results["exported"] += len(records) - len(lost)

    def _log_record(self, envelope: Envelope[Event]) -> LogRecord:
        from harken.sinks.otel.logs import log_record

        name, limit, ends = envelope.name, self._max_length, envelope.type.ends
        try:
            if ends is None:
                attributes = log_attributes(envelope, content=self._content_of_points, limit=limit)
            else:
                name = self._table.get(describe(ends).name, _UNMAPPED).exception
                attributes = exception_attributes(envelope, limit=limit)
        except Exception as error:  # as for spans
            attributes = {"harken.unreadable": type(error).__name__}
        return log_record(envelope, name, encodable(envelope.time_ns), attributes)

    def _export(self, spans: Sequence[ReadableSpan], results: Mapping[int, str]) -> None:
        """
        Export *spans*, and count them.

        Args:
            results: What became of those that are not known to have just ended, by their place.
        """
        lost = _all(spans)
        try:
            self._output.emit(spans)
            lost = ()
        except SpanExportError as error:
            lost = lost if error.lost is None else error.lost
            raise
        finally:
            self._lost = self._lost or bool(lost)
            self._results["lost"] += len(lost)
            kept = [result for place, result in results.items() if place not in lost]
            self._results["ended"] += len(spans) - len(lost) - len(kept)
            for result in kept:
                self._results[result] += 1

    @property
    def spans_open(self) -> int:
        """
        Operations whose span is still to come; at most `MAX_OPEN` are counted.
        """
        return len(self._open)

    @property
    def spans(self) -> Mapping[str, int]:
        """
        How many spans of this process there were so far, by what became of them.

        ``ended``, or else ``timeout``, ``abandoned`` (closed because nobody did) or ``no_start``;
        ``lost`` when the exporter failed. ``evicted`` counts operations that were forgotten
        because too many were open: their spans come without what had happened inside of them.
        """
        return dict(self._results)

    @property
    def log_events(self) -> Mapping[str, int]:
        """
        How many log events of this process were ``exported``, and how many were ``lost``.
        """
        return dict(self._log_results)

    def flush(self, timeout: float) -> bool | None:
        """
        Wait at most *timeout* seconds for what the exporter holds back.

        Returns:
            False when something is left, or was lost since the last flush. None when nobody can
            say, as with a provider: its processors report success whatever happened.
        """
        lost, self._lost = self._lost, False
        until = time.monotonic() + timeout
        parts = [self._output.flush(timeout)]
        if self._logs is not None:
            parts.append(self._logs.flush(max(until - time.monotonic(), 0)))
        if lost or False in parts:
            return False
        return None if None in parts else True

    def close(self, timeout: float) -> None:
        """
        Shut the exporter down within *timeout* seconds; a provider is only flushed.
        """
        decide_without(self)
        nest_without(self)
        until = time.monotonic() + timeout
        self._output.close(timeout)
        if self._logs is not None:
            self._logs.close(max(until - time.monotonic(), 0))

    def after_fork(self) -> None:
        """
        Forget the parent's operations, and let the exporter begin anew.
        """
        self._open.clear()
        self._links.forget()
        self._results = dict.fromkeys(RESULTS, 0)
        self._log_results = dict.fromkeys(LOG_RESULTS, 0)
        self._lost = False
        self._output.after_fork()
        if self._logs is not None:
            self._logs.after_fork()

    def _sampled(self, envelope: Envelope[Event]) -> bool:
        if not envelope.trace_flags & 1:
            return False
        return self._bound > _LOW_64_BITS or int(envelope.trace_id[16:], 16) < self._bound

    def _find_recipe(self, envelope: Envelope[Event]) -> Recipe | Role | None:
        ends = envelope.type.ends
        if ends is not None:
            return Recipe(
                envelope.type,
                ends,
                self._table,
                prefix=self._prefix,
                content=self._content,
                exceptions=self._exceptions,
                max_attributes=self._max_attributes,
                max_length=self._max_length,
                links=self._links,
                scope=self._scope,
            )
        if envelope.type.is_start:
            return Role.START
        known = self._prefix is not None and envelope.name in POINTS
        wanted = known or self._span_events or self._logs is not None or envelope.name in LINKED
        return Role.POINT if wanted else None

    def _ended(self, envelope: Envelope[Event], recipe: Recipe, resource: Resource) -> ReadableSpan:
        span_id = envelope.span_id
        gathered = self._open.pop(span_id, None)
        try:
            span = recipe.span(envelope, span_id, gathered, resource)
        except Exception as error:  # an author's own object may raise anything when it is read
            return recipe.bare(envelope, error, resource)
        if recipe.rolls_up:
            self._roll_up(envelope, span, recipe.rolls_up)
        return span

    def _roll_up(
        self, envelope: Envelope[Event], span: ReadableSpan, keys: AbstractSet[str]
    ) -> None:
        given = span.attributes or {}
        for key in keys & given.keys():
            around = self._gathered(envelope.parent_span_id)
            value = attribute_value(given[key], self._max_length)
            if around is not None and value is not None:
                around.attributes[key] = value

    def _begin(self, start: Envelope[Event]) -> None:
        span_id = start.span_id
        self._links.began(start, span_id)
        self._open[span_id] = None
        if len(self._open) > MAX_OPEN:
            del self._open[next(iter(self._open))]
            self._results["evicted"] += 1

    def _gather(self, point: Envelope[Event]) -> None:
        if point.name in LINKED:
            self._links.happened(point)
        around = self._gathered(point.span_id)
        if around is None:
            return
        try:
            if self._prefix is not None:
                around.attributes |= point_attributes(point, self._prefix, self._max_length)
            if self._span_events:
                around.add(
                    span_event(point, content=self._content_of_points, limit=self._max_length)
                )
        except Exception:  # as above; what happens in a span harms neither it nor the others
            around.dropped += 1

    def _gathered(self, span_id: str | None) -> Gathered | None:
        """
        Return what is gathered for an open operation; None when it is not open here.
        """
        if span_id is None or span_id not in self._open:
            return None
        gathered = self._open[span_id]
        if gathered is None:
            gathered = self._open[span_id] = Gathered()
        return gathered


def _all(items: Sequence[object]) -> Collection[int]:
    return range(len(items))


def _scope_of_one_trace(envelope: Envelope[Event]) -> Scope | None:
    """
    Return the scope of *envelope*; None when each of its events begins a trace of its own.
    """
    scope = envelope.scope
    return scope if scope.trace_id or scope.operation is not None else None


def _result(end: Envelope[Event]) -> str:
    return "no_start" if end.started is None else _RESULTS.get(end.outcome, "ended")


_RESULTS: dict[Outcome | None, str] = {Outcome.timeout: "timeout", Outcome.orphaned: "abandoned"}


def _output(
    exporter: SpanExporter | None,
    provider: TracerProvider | None,
    service_name: str | None,
    resource: Resource | None,
    scope: InstrumentationScope,
) -> Output:
    if provider is None:
        given = Resource({} if service_name is None else {SERVICE_NAME: service_name})
        own = given if resource is None else resource.merge(given)
        return ToExporter(
            otlp_exporter() if exporter is None else exporter,
            lambda: Resource.create().merge(own),
        )
    if exporter is not None:
        raise TypeError("give SpanRecorder an exporter or a provider, not both")
    if service_name is not None or resource is not None:
        raise TypeError("a provider has a resource of its own; set the service's name there")
    return ToProvider(provider, scope)


def _log_output(
    point_events: PointEvents,
    exporter: LogRecordExporter | None,
    provider: LoggerProvider | None,
    scope: InstrumentationScope,
) -> LogOutput | None:
    if point_events != "log_events":
        if exporter is not None or provider is not None:
            raise TypeError('log events go nowhere without point_events="log_events"')
        return None
    try:
        from harken.sinks.otel.logs import ToLogExporter, ToLoggerProvider
    except ImportError as error:
        raise TraceExporterError(
            f"log events need opentelemetry-sdk 1.39 or later ({error})"
        ) from error
    if provider is None:
        return ToLogExporter(otlp_log_exporter if exporter is None else lambda: exporter, scope)
    if exporter is not None:
        raise TypeError("give SpanRecorder a log exporter or a logger provider, not both")
    return ToLoggerProvider(provider, scope)


def _lower(limit: int, other: int | None) -> int:
    return limit if other is None else min(limit, other)
