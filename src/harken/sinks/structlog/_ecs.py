"""
The fields of a log line under the names of the Elastic Common Schema.
"""

from __future__ import annotations

from collections.abc import Mapping, Set as AbstractSet
from typing import TypeVar

from harken.sinks.structlog import _fields as names

T = TypeVar("T")

VERSION = "8.17.0"
"""Of the schema."""

DATA = "harken.data"
ATTRIBUTES = "harken.attributes"
ERROR_MESSAGE = "error.message"
STACK_TRACE = "error.stack_trace"

LABELS = "labels."
"""In front of the ids, and of what a caller gives under a plain name."""

_NAMES: Mapping[str, str] = {
    names.TIMESTAMP: "@timestamp",
    names.LEVEL: "log.level",
    names.LOGGER: "log.logger",
    "trace_id": "trace.id",
    "span_id": "span.id",
    **{
        name: LABELS + name
        for name in ("correlation_id", "run_id", "session_id", "request_id", "phase", "actor")
    },
    "attributes": ATTRIBUTES,
    names.DATA: DATA,
    names.SUPPRESSED: "harken.suppressed",
    names.STACK: STACK_TRACE,
    names.SCHEMA_FIELD: "ecs.version",
}

_LEFT_OUT = frozenset((names.SEVERITY_NUMBER, "otel.event.name", "trace_flags"))

_OUTCOMES = {
    "success": "success",
    **dict.fromkeys(("failure", "denied", "timeout", "orphaned"), "failure"),
}

_OWN = frozenset(
    (
        *_NAMES.values(),
        *("event.action", "event.kind", "event.module", "event.dataset", "event.outcome"),
        *("harken.outcome", names.ERROR_TYPE, ERROR_MESSAGE, names.SERVICE_NAME),
    )
)


def to_ecs(fields: Mapping[str, T]) -> dict[str, T | str]:
    """
    Return harken's own *fields* under the schema's names.
    """
    document: dict[str, T | str] = {}
    for name, value in fields.items():
        if name == "event_name":
            document["event.action"] = value
            document["event.kind"] = "event"
            document["event.module"] = "harken"
            document["event.dataset"] = "harken.events"
        elif name == "outcome" and value is not None:
            document["event.outcome"] = _OUTCOMES.get(str(value), "unknown")
            document["harken.outcome"] = value
        elif name == names.SCHEMA_FIELD:
            document["ecs.version"] = VERSION
        elif name not in _LEFT_OUT:
            document[_NAMES.get(name, name)] = value
    return document


def place(name: str, value: object) -> str | None:
    """
    Return under which name a line has what a caller gave; None when that must be below ``data``.

    A dotted name is the schema's, or of a namespace of the caller's own, and stays. A plain one
    could be that of an object of the schema (``host``, ``user``), so it becomes a label, of which
    the schema asks that it is one value.
    """
    if "." in name:
        return None if name in _OWN or name.startswith(LABELS) else name
    many = issubclass(type(value), (Mapping, list, tuple, AbstractSet))
    return None if many else LABELS + name
