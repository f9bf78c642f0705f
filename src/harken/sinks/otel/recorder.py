"""
The sink that makes a span of each operation, when the operation ends.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Literal, TypeAlias

from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import SpanLimits
from opentelemetry.sdk.trace.export import SpanExporter
from opentelemetry.trace import TracerProvider

from harken import Bus, Delivery, Envelope, Event, Outcome, event_name
from harken.sinks.otel.ambient import use_current_span
from harken.sinks.otel.exporters import LineExporter, otlp_exporter
from harken.sinks.otel.links import Links
from harken.sinks.otel.mapping import LINKED, POINTS
from harken.sinks.otel.outputs import Output, ToExporter, ToProvider
from harken.sinks.otel.sampling import decide_for, decide_without
from harken.sinks.otel.spans import Gathered, Recipe, Span, point_attributes, span_event

PointEvents: TypeAlias = Literal["none", "span_events"]

MAX_OPEN = 1_000
"""Open operations that are remembered; the oldest are forgotten first."""

RESULTS: tuple[str, ...] = ("ended", "timeout", "abandoned", "no_start", "evicted", "lost")
"""What may become of a span."""

_LOW_64_BITS = (1 << 64) - 1


class Role(Enum):
    """
    What an event that is no operation's end is to a recorder.
    """

    START = "start"
    POINT = "point"


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

    Nothing is attached to the ambient context, and nothing is taken from it.

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
            They are redacted either way.

        point_events:
            "span_events" makes events that are no operations, such as ``credential.issued``,
            events of the span they happen in.

        max_attributes:
            Attributes of a span that are kept, the most important first. The limits of
            ``OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT`` and the like lower it further.

        max_attribute_length: Characters of an attribute that are kept, likewise.

    Raises:
        TraceExporterError: There is no exporter given, and none for OTLP installed.

        TypeError: Both *exporter* and *provider* are given, or a resource for a *provider*.

        ValueError: *ratio* is not between 0 and 1.
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
        content: bool = False,
        point_events: PointEvents = "none",
        max_attributes: int = 96,
        max_attribute_length: int = 4_096,
    ) -> None:
        if not 0.0 <= ratio <= 1.0:
            raise ValueError(f"ratio must be from 0.0 to 1.0, not {ratio}")
        self._output = _output(exporter, provider, service_name, resource)
        # A file and a stream never keep the shared worker waiting; a network may.
        self.delivery = "worker" if isinstance(exporter, LineExporter) else "isolated"
        self._bound = round(ratio * (_LOW_64_BITS + 1))
        self._prefix = attributes_prefix
        self._content = content
        self._span_events = point_events == "span_events"
        limits = SpanLimits()
        self._max_attributes = _lower(max_attributes, limits.max_span_attributes)
        self._max_length = _lower(max_attribute_length, limits.max_span_attribute_length)
        self._recipes: dict[type[Event], Recipe | Role | None] = {}
        self._lost = False
        self._links = Links()
        self._results = dict.fromkeys(RESULTS, 0)
        self._open: OrderedDict[str, Gathered | None] = OrderedDict()

    def attached(self, bus: Bus, /) -> None:
        """
        Let events outside of every scope join the application's current span, and decide which of
        the traces that begin here are sampled.
        """
        use_current_span()
        decide_for(self)

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
            SpanExportError: The exporter failed; the spans of this batch are lost.
        """
        spans: list[Span] = []
        results: list[str] = []
        for envelope in batch:
            kind = type(envelope.event)
            try:
                recipe = self._recipes[kind]
            except KeyError:
                recipe = self._recipes[kind] = self._find_recipe(envelope)
            if recipe is None or not self._sampled(envelope):
                continue
            if recipe is Role.START:
                self._begin(envelope)
            elif recipe is Role.POINT:
                self._gather(envelope)
            else:
                spans.append(self._ended(envelope, recipe))
                results.append(_result(envelope))
        if spans:
            self._export(spans, results)

    def _export(self, spans: Sequence[Span], results: Sequence[str]) -> None:
        exported = False
        try:
            self._output.emit(spans)
            exported = True
        finally:
            self._lost = self._lost or not exported
            for result in results if exported else ("lost",) * len(spans):
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

    def flush(self, timeout: float) -> bool | None:
        """
        Wait at most *timeout* seconds for what the exporter holds back.

        Returns:
            False when something is left, or was lost since the last flush. None when nobody can
            say, as with a provider: its processors report success whatever happened.
        """
        lost, self._lost = self._lost, False
        flushed = self._output.flush(timeout)
        return False if lost else flushed

    def close(self, timeout: float) -> None:
        """
        Shut the exporter down within *timeout* seconds; a provider is only flushed.
        """
        decide_without(self)
        self._output.close(timeout)

    def after_fork(self) -> None:
        """
        Forget the parent's operations, and let the exporter begin anew.
        """
        self._open.clear()
        self._links.forget()
        self._results = dict.fromkeys(RESULTS, 0)
        self._lost = False
        self._output.after_fork()

    def _sampled(self, envelope: Envelope[Event]) -> bool:
        if not envelope.trace_flags & 1:
            return False
        return self._bound > _LOW_64_BITS or int(envelope.trace_id[16:], 16) < self._bound

    def _find_recipe(self, envelope: Envelope[Event]) -> Recipe | Role | None:
        ends = envelope.type.ends
        if ends is not None:
            return Recipe(
                event_name(ends),
                prefix=self._prefix,
                content=self._content,
                max_attributes=self._max_attributes,
                max_length=self._max_length,
                links=self._links,
            )
        if envelope.type.is_start:
            return Role.START
        known = self._prefix is not None and envelope.name in POINTS
        return Role.POINT if known or self._span_events or envelope.name in LINKED else None

    def _ended(self, envelope: Envelope[Event], recipe: Recipe) -> Span:
        gathered = self._open.pop(envelope.span_id, None)
        try:
            span = recipe.span(envelope, gathered)
        except Exception as error:  # an author's own object may raise anything when it is read
            return recipe.bare(envelope, error)
        for key in recipe.rolls_up & span.attributes.keys():
            around = self._gathered(envelope.parent_span_id)
            if around is not None:
                around.attributes[key] = span.attributes[key]
        return span

    def _begin(self, start: Envelope[Event]) -> None:
        self._links.began(start)
        self._open[start.span_id] = None
        if len(self._open) > MAX_OPEN:
            self._open.popitem(last=False)
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
                around.add(span_event(point, content=self._content, limit=self._max_length))
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


def _result(end: Envelope[Event]) -> str:
    return "no_start" if end.started is None else _RESULTS.get(end.outcome, "ended")


_RESULTS: dict[Outcome | None, str] = {Outcome.timeout: "timeout", Outcome.orphaned: "abandoned"}


def _output(
    exporter: SpanExporter | None,
    provider: TracerProvider | None,
    service_name: str | None,
    resource: Resource | None,
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
    return ToProvider(provider)


def _lower(limit: int, other: int | None) -> int:
    return limit if other is None else min(limit, other)
