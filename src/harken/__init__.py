"""
Typed events for AI-agent frameworks, and independent sinks that observe them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from harken._version import __version__
from harken.bus import Bus
from harken.delivery import (
    Delivered,
    Delivery,
    FlushReport,
    Measure,
    Observer,
    Overflow,
    Sink,
    SupportsAfterFork,
    SupportsAttached,
    SupportsClose,
    SupportsDropped,
    SupportsFlush,
)
from harken.envelope import Clock, Envelope, Ids
from harken.errors import HarkenError
from harken.event import (
    JSON,
    ContentKind,
    Event,
    EventType,
    Outcome,
    OutcomeFrom,
    content,
    decode,
    describe,
    event_name,
    event_types,
    find,
    outcome_from,
    schema,
    unit,
)
from harken.operation import Operation
from harken.scope import (
    Scope,
    bind,
    child_env,
    current_context,
    inject,
    register_sampler,
    register_trace_source,
    register_trace_target,
    scope,
)
from harken.subscription import Handler, Health, Predicate, SubscriberHealth, Subscription

if TYPE_CHECKING:
    from harken.settings import Settings, configure
    from harken.sinks.structlog import configure_logging

__all__ = [
    "JSON",
    "Bus",
    "Clock",
    "ContentKind",
    "Delivered",
    "Delivery",
    "Envelope",
    "Event",
    "EventType",
    "FlushReport",
    "Handler",
    "HarkenError",
    "Health",
    "Ids",
    "Measure",
    "Observer",
    "Operation",
    "Outcome",
    "OutcomeFrom",
    "Overflow",
    "Predicate",
    "Scope",
    "Settings",
    "Sink",
    "SubscriberHealth",
    "Subscription",
    "SupportsAfterFork",
    "SupportsAttached",
    "SupportsClose",
    "SupportsDropped",
    "SupportsFlush",
    "__version__",
    "bind",
    "child_env",
    "configure",
    "configure_logging",
    "content",
    "current_context",
    "decode",
    "describe",
    "event_name",
    "event_types",
    "find",
    "inject",
    "outcome_from",
    "register_sampler",
    "register_trace_source",
    "register_trace_target",
    "schema",
    "scope",
    "unit",
]

# Loaded on first use: they know the sinks, and the sinks load their libraries.
_LATE = {
    "Settings": "harken.settings",
    "configure": "harken.settings",
    "configure_logging": "harken.sinks.structlog",
}


def __getattr__(name: str) -> Any:
    if name in _LATE:
        from importlib import import_module

        return getattr(import_module(_LATE[name]), name)
    raise AttributeError(f"module 'harken' has no attribute {name!r}")
