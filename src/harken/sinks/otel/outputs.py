"""
The two ways out of the process: an exporter of our own, or somebody else's tracer provider.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, nullcontext
from importlib.metadata import PackageNotFoundError, version
from typing import Protocol

from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, Tracer, TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import Decision, StaticSampler, TraceIdRatioBased
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    StatusCode,
    TraceFlags,
    TracerProvider as AnyTracerProvider,
    set_span_in_context,
)

from harken.sinks.otel.exporting import Exporting, Providing, WayOut

SCOPE_NAME = "harken"


class IdGenerator(RandomIdGenerator):
    """
    Gives spans the ids that were set for them, and random ids to all others.

    For a tracer provider of your own that has another generator than the SDK's default:

    .. code-block:: python

        from harken import Bus
        from harken.sinks.otel import IdGenerator, SpanRecorder
        from opentelemetry.sdk.trace import TracerProvider

        provider = TracerProvider(id_generator=IdGenerator())
        bus = Bus()
        bus.attach(SpanRecorder(provider=provider))
    """

    def __init__(self) -> None:
        self._set = threading.local()

    @contextmanager
    def using(self, context: SpanContext) -> Generator[None]:
        """
        Set the ids of what this thread starts in the block.
        """
        self._set.context = context
        try:
            yield
        finally:
            self._set.context = None

    def _context(self) -> SpanContext | None:
        found: SpanContext | None = getattr(self._set, "context", None)
        return found

    def generate_trace_id(self) -> int:
        """
        Return the trace id that was set, or a random one.
        """
        context = self._context()
        return super().generate_trace_id() if context is None else context.trace_id

    def generate_span_id(self) -> int:
        """
        Return the span id that was set, or a random one.
        """
        context = self._context()
        return super().generate_span_id() if context is None else context.span_id

    def is_trace_id_random(self) -> bool:
        """
        Whether the W3C flag "random" is true of the trace id.
        """
        context = self._context()
        return context is None or bool(context.trace_flags & 2)


class Output(WayOut, Protocol):
    """
    Where finished spans go.
    """

    @property
    def keeps_ids(self) -> bool:
        """
        Whether spans arrive with the ids that they were given.
        """
        ...

    def keeps(self, trace_id: str, /) -> bool:
        """
        Whether the spans of a trace that begins here are wanted, as far as its id can tell.
        """
        ...

    def resource(self) -> Resource:
        """
        Return what the spans of this process are of.
        """
        ...

    def emit(self, spans: Sequence[ReadableSpan], /) -> None:
        """
        Hand on *spans*.
        """
        ...


class ToExporter(Exporting[ReadableSpan]):
    """
    Exports spans; see `Exporting`.
    """

    def __init__(self, exporter: SpanExporter, make_resource: Callable[[], Resource]) -> None:
        super().__init__(lambda: exporter, SpanExportResult.FAILURE, "spans")
        self._make_resource = make_resource
        self._resource: Resource | None = make_resource()

    @property
    def keeps_ids(self) -> bool:
        """
        Always.
        """
        return True

    def keeps(self, trace_id: str, /) -> bool:
        """
        Return True: nobody else decides.
        """
        return True

    def resource(self) -> Resource:
        """
        Return what the recorder was given, with what the environment says.
        """
        if self._resource is None:
            self._resource = self._make_resource()
        return self._resource

    def emit(self, spans: Sequence[ReadableSpan], /) -> None:
        """
        Export *spans*.

        Raises:
            SpanExportError: The exporter says that it failed.
        """
        self.export(spans)

    def after_fork(self) -> None:
        """
        Let the resource name the child, and the exporter begin anew if it knows how.
        """
        # Made when it is needed: the SDK starts threads for it, and inside of the fork a lock of
        # concurrent.futures may still be held.
        self._resource = None
        super().after_fork()


class ToProvider(Providing):
    """
    Starts and ends the spans at a tracer provider that somebody else owns.

    Its processors, limits and sampler apply, the sampler as for a root. What becomes of the
    spans is known to its processors only.
    """

    def __init__(self, provider: AnyTracerProvider, scope: InstrumentationScope) -> None:
        super().__init__(provider if isinstance(provider, TracerProvider) else None, "spans")
        self._provider = provider
        self._tracer = provider.get_tracer(scope.name, scope.version, attributes=scope.attributes)
        self._ids: IdGenerator | None = None
        self._nobody = Resource({})
        if isinstance(self._tracer, Tracer):
            generator = self._tracer.id_generator
            if type(generator) is RandomIdGenerator:
                # Only of this tracer, which nobody else uses; the provider's stays as it is.
                generator = self._tracer.id_generator = IdGenerator()
            if isinstance(generator, IdGenerator):
                self._ids = generator
        if self._ids is None:
            warnings.warn(
                "this tracer provider makes its own span ids: spans carry the ids of audit "
                "records and log lines only as the attribute harken.span_id. Give the provider "
                "id_generator=harken.sinks.otel.IdGenerator()",
                stacklevel=4,
            )

    @property
    def keeps_ids(self) -> bool:
        """
        Whether the provider has an `IdGenerator`, or none of its own.
        """
        return self._ids is not None

    def keeps(self, trace_id: str, /) -> bool:
        """
        Return what the provider's sampler says, when it goes by the trace id and nothing else.
        """
        if not isinstance(self._provider, TracerProvider):
            return True
        sampler = self._provider.sampler
        # A ParentBased sampler has one for roots inside, which has no public name.
        root = getattr(sampler, "_root", sampler)
        if not isinstance(root, (StaticSampler, TraceIdRatioBased)):
            return True
        decision = root.should_sample(Context(), int(trace_id, 16), "").decision
        return decision is not Decision.DROP

    def resource(self) -> Resource:
        """
        Return an empty one: the provider has its own.
        """
        return self._nobody

    def emit(self, spans: Sequence[ReadableSpan], /) -> None:
        """
        Start and end *spans*. Never in the ambient context: their parents are their own.

        Raises:
            SpanExportError: A sampler or a processor raised; which spans are lost is said.
        """
        self.emit_each(spans, self._emit)

    def _emit(self, span: ReadableSpan) -> None:
        given = span.get_span_context()
        assert given is not None
        sampled = self._sampled(span, given)
        if sampled is None:
            return
        flags = TraceFlags(sampled)
        own = SpanContext(given.trace_id, given.span_id, False, flags)
        parent = span.parent
        if parent is not None:
            parent = SpanContext(parent.trace_id, parent.span_id, False, flags)
        attributes = dict(span.attributes or {})
        if self._ids is None:
            attributes["harken.span_id"] = f"{own.span_id:016x}"
            # Without a parent the SDK would make up a trace id, and a trace without a root is
            # better than a root without its trace.
            parent = parent or own
        context = Context()
        if parent is not None:
            context = set_span_in_context(NonRecordingSpan(parent), context)
        with nullcontext() if self._ids is None else self._ids.using(own):
            started = self._tracer.start_span(
                span.name,
                context=context,
                kind=span.kind,
                attributes=attributes,
                links=span.links,
                start_time=span.start_time,
            )
        for event in span.events:
            started.add_event(event.name, event.attributes, timestamp=event.timestamp)
        if span.status.status_code is StatusCode.ERROR:
            started.set_status(span.status)
        started.end(end_time=span.end_time)

    def _sampled(self, span: ReadableSpan, given: SpanContext) -> int | None:
        """
        Return the flags of the trace; None when the provider's sampler does not want it.

        The sampler is asked for each span as if it were the root: a span ends before its parent,
        so there is no decision to inherit yet. By trace id they all get the same answer.
        """
        if not isinstance(self._provider, TracerProvider):
            return given.trace_flags
        decision = self._provider.sampler.should_sample(
            Context(), given.trace_id, span.name, span.kind, span.attributes, ()
        ).decision
        if decision is Decision.DROP:
            return None
        return given.trace_flags & ~1 | (decision is Decision.RECORD_AND_SAMPLE)


def instrumentation_scope(mapping_version: str) -> InstrumentationScope:
    """
    Return what spans are made by: harken, its version, and that of the table.
    """
    about = {"harken.mapping.version": mapping_version}
    return InstrumentationScope(SCOPE_NAME, _version(), None, about)


def _version() -> str:
    try:
        return version("harken")
    except PackageNotFoundError:  # run from a source tree
        return ""
