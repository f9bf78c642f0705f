"""
The application's own OpenTelemetry: its current span, in both directions, and its variables.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import NamedTuple
from weakref import WeakSet

from opentelemetry.context import Context, attach, get_current
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    TraceFlags,
    TraceState,
    get_current_span,
    set_span_in_context,
)

from harken import Scope, register_trace_source, register_trace_target
from harken.sinks.otel.mapping import LATEST_OPT_IN

MAX_LEFT = 64
"""Blocks left out of turn that are remembered, for each thread or task."""

_log = logging.getLogger("harken")

_RATIOS = {"": 1.0, "always_on": 1.0, "always_off": 0.0}


def current_traceparent() -> str | None:
    """
    Return the W3C ``traceparent`` of the application's current span; None outside of any.
    """
    carrier = _carrier()
    return None if carrier is None else carrier[0]


def use_current_span() -> None:
    """
    Let events that are published outside of every scope join the application's current span.

    Attaching a `SpanRecorder` does this already; without one, audit records and log lines join
    the application's trace all the same. It holds for the whole process.
    """
    register_trace_source(_carrier)


def _carrier() -> tuple[str | None, str | None] | None:
    context = get_current_span().get_span_context()
    if not context.is_valid:
        return None
    flags = context.trace_flags & 0xFF
    traceparent = f"00-{context.trace_id:032x}-{context.span_id:016x}-{flags:02x}"
    return traceparent, context.trace_state.to_header() or None


_CONTENT = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
_CONTENTS = {
    "": (False, False),
    "NO_CONTENT": (False, False),
    "SPAN_ONLY": (True, False),
    "EVENT_ONLY": (False, True),
    "SPAN_AND_EVENT": (True, True),
}


class Nested(NamedTuple):
    """
    The OpenTelemetry context around an operation's block, and the one inside of it.
    """

    outer: Context
    inner: Context


_lock = threading.Lock()
_nesting: WeakSet[object] = WeakSet()
# Those that were left while another one was still current, as generators do that take turns.
_left: ContextVar[tuple[Nested, ...]] = ContextVar("harken.otel.left", default=())


def nest_for(recorder: object) -> None:
    """
    Let code inside of an operation's block have its span as the current one, for *recorder*.

    It holds for the whole process, until `nest_without()` was called for every recorder; they are
    not kept alive.
    """
    with _lock:
        _nesting.add(recorder)
        register_trace_target(_nest)


def nest_without(recorder: object) -> None:
    """
    Let it be, as far as *recorder* is concerned.
    """
    with _lock:
        if recorder in _nesting:
            _nesting.discard(recorder)
            register_trace_target(_nest if _nesting else None)


def _nest(inside: Scope) -> Callable[[], None]:
    operation = inside.operation
    assert operation is not None
    context = SpanContext(
        int(operation.trace_id, 16),
        int(operation.span_id, 16),
        False,
        TraceFlags(operation.trace_flags),
        TraceState.from_header([inside.tracestate]) if inside.tracestate else None,
    )
    outer = get_current()
    nested = Nested(outer, set_span_in_context(NonRecordingSpan(context), outer))
    attach(nested.inner)
    return lambda: _leave(nested)


def _leave(nested: Nested) -> None:
    # Never detach(): it reports an error wherever a block is left in another context than it was
    # entered in, as by an async generator that the event loop closes.
    left = _left.get()
    if get_current() is not nested.inner:
        _left.set((*left[1 - MAX_LEFT :], nested))
        return
    outer = nested.outer
    while found := [one for one in left if one.inner is outer]:
        outer = found[0].outer
        left = tuple(one for one in left if one is not found[0])
        _left.set(left)
    attach(outer)


def ratio_from_environment(environ: Mapping[str, str] | None = None) -> float:
    """
    Return the part of all traces that ``OTEL_TRACES_SAMPLER`` and its ``_ARG`` ask for.

    Known are ``always_on``, ``always_off`` and ``traceidratio``, also with ``parentbased_``
    before them, which changes nothing: a trace that came in as not sampled is never recorded.
    What is not known amounts to all traces, with a warning, as the specification asks.

    Args:
        environ: By default the process's own.

    Returns:
        From 0.0 to 1.0, as `SpanRecorder` takes it; 0.0 under ``OTEL_SDK_DISABLED=true``.
    """
    environ = os.environ if environ is None else environ
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return 0.0
    sampler = environ.get("OTEL_TRACES_SAMPLER", "").strip().lower().removeprefix("parentbased_")
    if sampler == "traceidratio":
        return _ratio(environ.get("OTEL_TRACES_SAMPLER_ARG", ""))
    if sampler not in _RATIOS:
        _log.warning("OTEL_TRACES_SAMPLER=%s is not known; every trace is recorded", sampler)
        return 1.0
    return _RATIOS[sampler]


def content_from_environment(environ: Mapping[str, str] | None = None) -> tuple[bool, bool]:
    """
    Return whether content is wanted on spans, and whether on events.

    ``OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT`` says so: ``NO_CONTENT``, which is the
    default, ``SPAN_ONLY``, ``EVENT_ONLY`` or ``SPAN_AND_EVENT``. What is not known amounts to no
    content, with a warning.

    Args:
        environ: By default the process's own.
    """
    environ = os.environ if environ is None else environ
    word = environ.get(_CONTENT, "").strip()
    if word.upper() not in _CONTENTS:
        _log.warning("%s=%s is not known; no content is exported", _CONTENT, word)
        return False, False
    return _CONTENTS[word.upper()]


def exceptions_from_environment(environ: Mapping[str, str] | None = None) -> tuple[bool, bool]:
    """
    Return whether exceptions are wanted as span events, and whether as log events.

    ``OTEL_SEMCONV_EXCEPTION_SIGNAL_OPT_IN`` says so: ``logs``, ``logs/dup`` for both, or nothing.

    Args:
        environ: By default the process's own.
    """
    environ = os.environ if environ is None else environ
    words = environ.get("OTEL_SEMCONV_EXCEPTION_SIGNAL_OPT_IN", "").split(",")
    chosen = {word.strip() for word in words}
    both = "logs/dup" in chosen
    return both or "logs" not in chosen, both or "logs" in chosen


def latest_from_environment(environ: Mapping[str, str] | None = None) -> bool:
    """
    Whether ``OTEL_SEMCONV_STABILITY_OPT_IN`` asks for the newest GenAI names.

    Args:
        environ: By default the process's own.
    """
    environ = os.environ if environ is None else environ
    words = environ.get("OTEL_SEMCONV_STABILITY_OPT_IN", "").split(",")
    return LATEST_OPT_IN in (word.strip() for word in words)


def _ratio(text: str) -> float:
    try:
        ratio = float(text or 1.0)
    except ValueError:
        ratio = -1.0
    if not 0.0 <= ratio <= 1.0:
        _log.warning("OTEL_TRACES_SAMPLER_ARG=%s is no ratio; every trace is recorded", text)
        return 1.0
    return ratio
