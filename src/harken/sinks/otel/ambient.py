"""
What the application's own OpenTelemetry says: its current span, and its environment variables.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping

from opentelemetry.trace import get_current_span

from harken import register_trace_source

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


def _ratio(text: str) -> float:
    try:
        ratio = float(text or 1.0)
    except ValueError:
        ratio = -1.0
    if not 0.0 <= ratio <= 1.0:
        _log.warning("OTEL_TRACES_SAMPLER_ARG=%s is no ratio; every trace is recorded", text)
        return 1.0
    return ratio
