"""
The two ways out of the process: an exporter of our own, or somebody else's tracer provider.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, nullcontext
from importlib.metadata import PackageNotFoundError, version
from typing import Protocol, TypeVar

import msgspec
from opentelemetry import context as context_api
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, Tracer, TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import Decision, StaticSampler, TraceIdRatioBased
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TracerProvider as AnyTracerProvider,
    set_span_in_context,
)

from harken import SupportsAfterFork
from harken.errors import HarkenError
from harken.sinks.otel.exporters import LineExporter
from harken.sinks.otel.mapping import VERSION
from harken.sinks.otel.spans import Span

T = TypeVar("T")

SCOPE_NAME = "harken"
SCOPE_ATTRIBUTES = {"harken.mapping.version": VERSION}

_UNSET = Status(StatusCode.UNSET)

# The key is made anew in each process, and instrumentations of HTTP libraries ask for this very
# one; the API has no public name for it.
_SUPPRESS = str(getattr(context_api, "_SUPPRESS_INSTRUMENTATION_KEY", "suppress_instrumentation"))


class SpanExportError(HarkenError):
    """
    Spans did not reach their backend and are lost; the exporter has logged why.
    """


class IdGenerator(RandomIdGenerator):
    """
    Gives spans the ids that were set for them, and random ids to all others.

    For a tracer provider of your own that has another generator than the SDK's default::

        provider = TracerProvider(id_generator=IdGenerator())
        bus.attach(SpanRecorder(provider=provider))
    """

    def __init__(self) -> None:
        self._set = threading.local()

    @contextmanager
    def using(self, span: Span) -> Generator[None]:
        """
        Set the ids of *span* for what this thread starts in the block.
        """
        self._set.span = span
        try:
            yield
        finally:
            self._set.span = None

    def _span(self) -> Span | None:
        found: Span | None = getattr(self._set, "span", None)
        return found

    def generate_trace_id(self) -> int:
        """
        Return the trace id that was set, or a random one.
        """
        span = self._span()
        return super().generate_trace_id() if span is None else span.trace_id

    def generate_span_id(self) -> int:
        """
        Return the span id that was set, or a random one.
        """
        span = self._span()
        return super().generate_span_id() if span is None else span.span_id

    def is_trace_id_random(self) -> bool:
        """
        Whether the W3C flag "random" is true of the trace id.
        """
        span = self._span()
        return span is None or bool(span.trace_flags & 2)


class Output(Protocol):
    """
    Where finished spans go.
    """

    def keeps(self, trace_id: str, /) -> bool:
        """
        Whether the spans of a trace that begins here are wanted, as far as its id can tell.
        """
        ...

    def emit(self, spans: Sequence[Span], /) -> None:
        """
        Hand on *spans*.
        """
        ...

    def flush(self, timeout: float) -> bool | None:
        """
        Wait at most *timeout* seconds; None when nobody can say whether the spans have arrived.
        """
        ...

    def close(self, timeout: float) -> None:
        """
        Let go of what is ours within *timeout* seconds.
        """
        ...

    def after_fork(self) -> None:
        """
        Begin anew in a forked child.
        """
        ...


class ToExporter:
    """
    Exports each batch at once, in the calling thread, so that success and failure are known.

    Spans are built directly, which is a tenth of the price of starting and ending them.
    """

    def __init__(self, exporter: SpanExporter, make_resource: Callable[[], Resource]) -> None:
        self._exporter = exporter
        self._make_resource = make_resource
        self._resource: Resource | None = make_resource()
        self._scope = InstrumentationScope(SCOPE_NAME, _version(), None, SCOPE_ATTRIBUTES)

    def keeps(self, trace_id: str, /) -> bool:
        """
        Return True: nobody else decides.
        """
        return True

    def emit(self, spans: Sequence[Span], /) -> None:
        """
        Export *spans*.

        Raises:
            SpanExportError: The exporter says that it failed.
        """
        if self._resource is None:
            self._resource = self._make_resource()
        readable = [self._readable(span) for span in spans]
        token = context_api.attach(context_api.set_value(_SUPPRESS, True, Context()))
        try:
            result = self._exporter.export(readable)
        finally:
            context_api.detach(token)
        if result is SpanExportResult.FAILURE:
            raise SpanExportError(f"{len(spans)} spans were not exported and are lost")

    def flush(self, timeout: float) -> bool | None:
        """
        Let the exporter send what it holds back; False when it says so or takes too long.
        """
        if isinstance(self._exporter, LineExporter):
            return True
        milliseconds = int(timeout * 1000)
        done, flushed = within(timeout, lambda: self._exporter.force_flush(milliseconds))
        return done and flushed is not False

    def close(self, timeout: float) -> None:
        """
        Shut the exporter down; when that takes too long, it goes on behind our back.
        """
        if isinstance(self._exporter, LineExporter):
            self._exporter.shutdown()
        else:
            within(timeout, self._exporter.shutdown)

    def after_fork(self) -> None:
        """
        Let the resource name the child, and the exporter begin anew if it knows how.
        """
        # Made when it is needed: the SDK starts threads for it, and inside of the fork a lock of
        # concurrent.futures may still be held.
        self._resource = None
        if isinstance(self._exporter, SupportsAfterFork):
            self._exporter.after_fork()

    def _readable(self, span: Span) -> ReadableSpan:
        flags = TraceFlags(span.trace_flags)
        return ReadableSpan(
            name=span.name,
            context=SpanContext(span.trace_id, span.span_id, is_remote=False, trace_flags=flags),
            parent=_parent(span),
            resource=self._resource,
            attributes=span.attributes,
            events=[
                Event(event.name, event.attributes, timestamp=event.time_ns)
                for event in span.events
            ],
            links=_links(span) if span.links else (),
            kind=_kind(span),
            status=_status(span),
            start_time=span.start_ns,
            end_time=span.end_ns,
            instrumentation_scope=self._scope,
        )


class ToProvider:
    """
    Starts and ends the spans at a tracer provider that somebody else owns.

    Its processors, limits and sampler apply, the sampler as for a root. What becomes of the
    spans is known to its processors only.
    """

    def __init__(self, provider: AnyTracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer(SCOPE_NAME, _version(), attributes=SCOPE_ATTRIBUTES)
        self._ids: IdGenerator | None = None
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

    def emit(self, spans: Sequence[Span], /) -> None:
        """
        Start and end *spans*. Never in the ambient context: their parents are their own.
        """
        for span in spans:
            self._emit(span)

    def flush(self, timeout: float) -> bool | None:
        """
        Let the processors send what they hold; None when they did, since that proves nothing.

        The SDK's processors return True after a failed export, and do not keep the timeout.
        """
        if not isinstance(self._provider, TracerProvider):
            return None
        provider, milliseconds = self._provider, int(timeout * 1000)
        done, flushed = within(timeout, lambda: provider.force_flush(milliseconds))
        return None if done and flushed else False

    def close(self, timeout: float) -> None:
        """
        Flush; whoever made the provider shuts it down.
        """
        self.flush(timeout)

    def after_fork(self) -> None:
        """
        Do nothing: the SDK renews what it has.
        """

    def _emit(self, span: Span) -> None:
        sampled = self._sampled(span)
        if sampled is None:
            return
        span = msgspec.structs.replace(span, trace_flags=sampled)
        parent = _parent(span)
        attributes = dict(span.attributes)
        if self._ids is None:
            attributes["harken.span_id"] = f"{span.span_id:016x}"
            # Without a parent the SDK would make up a trace id, and a trace without a root is
            # better than a root without its trace.
            parent = parent or SpanContext(span.trace_id, span.span_id, False, TraceFlags(sampled))
        context = Context()
        if parent is not None:
            context = set_span_in_context(NonRecordingSpan(parent), context)
        with nullcontext() if self._ids is None else self._ids.using(span):
            started = self._tracer.start_span(
                span.name,
                context=context,
                kind=_kind(span),
                attributes=attributes,
                links=_links(span),
                start_time=span.start_ns,
            )
        for event in span.events:
            started.add_event(event.name, event.attributes, timestamp=event.time_ns)
        if span.error:
            started.set_status(_status(span))
        started.end(end_time=span.end_ns)

    def _sampled(self, span: Span) -> int | None:
        """
        Return the flags of the trace; None when the provider's sampler does not want it.

        The sampler is asked for each span as if it were the root: a span ends before its parent,
        so there is no decision to inherit yet. By trace id they all get the same answer.
        """
        if not isinstance(self._provider, TracerProvider):
            return span.trace_flags
        decision = self._provider.sampler.should_sample(
            Context(), span.trace_id, span.name, _kind(span), span.attributes, ()
        ).decision
        if decision is Decision.DROP:
            return None
        return span.trace_flags & ~1 | (decision is Decision.RECORD_AND_SAMPLE)


def within(timeout: float, call: Callable[[], T]) -> tuple[bool, T | None]:
    """
    Call *call* in a thread of its own, and wait for it at most *timeout* seconds.

    Returns:
        Whether it returned in time, and what. An exception counts as not returning, and is
        reported by `threading.excepthook`.
    """
    returned: list[T] = []
    thread = threading.Thread(
        target=lambda: returned.append(call()), name="harken-spans", daemon=True
    )
    try:
        thread.start()
    except RuntimeError:
        # The interpreter is exiting and starts no threads any more.
        return True, call()
    thread.join(timeout)
    return (True, returned[0]) if returned else (False, None)


def _parent(span: Span) -> SpanContext | None:
    if not span.parent_span_id:
        return None
    return SpanContext(span.trace_id, span.parent_span_id, False, TraceFlags(span.trace_flags))


def _links(span: Span) -> Sequence[Link]:
    return [
        Link(
            SpanContext(link.trace_id, link.span_id, False, TraceFlags(TraceFlags.SAMPLED)),
            {"harken.link.reason": link.reason},
        )
        for link in span.links
    ]


def _kind(span: Span) -> SpanKind:
    return SpanKind.CLIENT if span.client else SpanKind.INTERNAL


def _status(span: Span) -> Status:
    return Status(StatusCode.ERROR, span.description or None) if span.error else _UNSET


def _version() -> str:
    try:
        return version("harken")
    except PackageNotFoundError:  # run from a source tree
        return ""
