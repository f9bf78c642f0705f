"""
Records in the vocabularies of others: OCSF, the Elastic Common Schema, CloudEvents.

Each function maps one record, as `harken.record.parse()` returns it. None of these forms has room
for the chain, so what they make cannot be verified; it says where in the log it comes from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from importlib import metadata
from urllib.parse import quote

from harken.event import JSON
from harken.record import ALWAYS

Record = Mapping[str, JSON]

OCSF_VERSION = "1.6.0"
"""The version of https://schema.ocsf.io whose class API Activity is written."""

ECS_VERSION = "8.17.0"
"""The version of the Elastic Common Schema."""

_API_ACTIVITY = 6003

# OCSF's activities of API Activity; what is none of them is Other.
_ACTIVITIES = {
    1: ("add", "clone", "commit", "create", "enqueue", "issue", "open", "write"),
    2: ("access", "query", "read", "retrieve", "search", "get", "list"),
    3: ("apply", "change", "correct", "modify", "revise", "roll_back", "update"),
    4: ("close", "delete", "dequeue", "remove", "revoke"),
}
_ACTIVITY_OF = {verb: number for number, verbs in _ACTIVITIES.items() for verb in verbs}
_ACTIVITY_NAMES = {1: "Create", 2: "Read", 3: "Update", 4: "Delete", 99: "Other"}

_FAILED = frozenset(("failure", "denied", "timeout", "orphaned"))

# The member of an OCSF actor for each kind of actor of ours.
_ACTORS = {"user": "user", "agent": "ai_agent", "service": "process", "system": "process"}


def to_ocsf(record: Record) -> dict[str, JSON]:
    """
    Return *record* as an event of OCSF's class API Activity (6003).

    OCSF demands a source endpoint; that is the process that wrote the record. Everything without
    a place of its own is in ``unmapped``.
    """
    activity = _ACTIVITY_OF.get(record["action"], 99)
    outcome = record["outcome"]
    failed = outcome in _FAILED
    succeeded = outcome == "success"
    kind, _, name = (record["actor"] or "").partition(":")
    actor: dict[str, JSON] = {}
    if name:
        actor[_ACTORS.get(kind, "user")] = {"uid": record["actor"], "name": name}
    if record.get("session_id"):
        actor["session"] = {"uid": record["session_id"]}
    if record.get("on_behalf_of"):
        actor["authorizations"] = [{"decision": f"on behalf of {record['on_behalf_of']}"}]
    resource_type, _, resource = record["resource"].partition(":")
    event: dict[str, JSON] = {
        "activity_id": activity,
        "activity_name": _ACTIVITY_NAMES[activity],
        "category_uid": 6,
        "category_name": "Application Activity",
        "class_uid": _API_ACTIVITY,
        "class_name": "API Activity",
        "type_uid": _API_ACTIVITY * 100 + activity,
        "time": _milliseconds(record.get("occurred", record["timestamp"])),
        "severity_id": 3 if failed else 1,
        "severity": "Medium" if failed else "Informational",
        "status_id": 1 if succeeded else 2 if failed else 0,
        "status": "Success" if succeeded else "Failure" if failed else "Unknown",
        "metadata": {
            "version": OCSF_VERSION,
            "product": {"name": "harken", "vendor_name": "harken", "version": _version()},
            "uid": record["id"],
            "event_code": record["event_type"],
            "sequence": record["seq"],
            "logged_time": _milliseconds(record["timestamp"]),
            "correlation_uid": record["correlation_id"],
        },
        "actor": actor,
        "api": {"operation": record["action"], "service": {"name": record.get("source")}},
        "src_endpoint": {"uid": record["writer"]},
        "resources": [{"uid": resource or resource_type, "type": resource_type}],
        "unmapped": _rest(record),
    }
    if outcome is not None:
        event["status_detail"] = outcome
    return _without_none(event)


def to_ecs(record: Record) -> dict[str, JSON]:
    """
    Return *record* as a document of the Elastic Common Schema; what it has no field for is in
    ``harken``.
    """
    outcome = record["outcome"]
    document: dict[str, JSON] = {
        "@timestamp": record.get("occurred", record["timestamp"]),
        "ecs": {"version": ECS_VERSION},
        "message": f"{record['event_type']} {record['resource']}",
        "event": {
            "kind": "event",
            "module": "harken",
            "dataset": "harken.audit",
            "id": record["id"],
            "code": record["event_type"],
            "action": record["action"],
            "outcome": {"success": "success"}.get(
                outcome, "failure" if outcome in _FAILED else "unknown"
            ),
            "sequence": record["seq"],
            "ingested": record["timestamp"],
            "hash": record["hash"],
        },
        "user": {"id": record["actor"]},
        "trace": {"id": record["trace_id"]},
        "span": {"id": record["span_id"]},
        "labels": {"resource": record["resource"], "correlation_id": record["correlation_id"]},
        "harken": {"outcome": outcome, **_rest(record)},
    }
    return _without_none(document)


def to_cloudevents(record: Record) -> dict[str, JSON]:
    """
    Return *record* as a CloudEvent (1.0, JSON format) with the extensions Distributed Tracing and
    Sequence; ``outcome``, ``action`` and ``correlationid`` are extensions of our own.
    """
    trace, span = record["trace_id"], record["span_id"]
    event: dict[str, JSON] = {
        "specversion": "1.0",
        "id": record["id"],
        # A reference to a URI may hold no space and not begin like a scheme.
        "source": f"/harken/{quote(record['actor'] or 'unknown', safe='')}",
        "type": record["event_type"],
        "subject": record["resource"],
        "time": record.get("occurred", record["timestamp"]),
        "datacontenttype": "application/json",
        "data": record["metadata"],
        "traceparent": f"00-{trace}-{span}-01" if trace and span else None,
        "sequence": f"{record['seq']:020d}",
        "action": record["action"],
        "outcome": record["outcome"],
        "correlationid": record["correlation_id"],
    }
    return {name: value for name, value in event.items() if value is not None}


FORMATS: Mapping[str, Callable[[Record], dict[str, JSON]]] = {
    "ocsf": to_ocsf,
    "ecs": to_ecs,
    "cloudevents": to_cloudevents,
}
"""What each form is called, and what makes it."""

# What all the forms above have a place for.
_PLACED = {
    *(member for member in ALWAYS if member != "metadata"),
    *("occurred", "prev", "hash"),
}


def _rest(record: Record) -> dict[str, JSON]:
    return {name: value for name, value in record.items() if name not in _PLACED and value != {}}


def _milliseconds(timestamp: str) -> int:
    return round(datetime.fromisoformat(timestamp).timestamp() * 1000)


def _version() -> str:
    try:
        return metadata.version("harken")
    except metadata.PackageNotFoundError:  # run from a source tree
        return "0"


def _without_none(event: dict[str, JSON]) -> dict[str, JSON]:
    kept = {
        name: _without_none(value) if isinstance(value, dict) else value
        for name, value in event.items()
        if value is not None
    }
    # OCSF demands an actor, also where nobody is known.
    return {name: value for name, value in kept.items() if value != {} or name == "actor"}
