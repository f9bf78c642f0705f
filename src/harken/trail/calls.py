"""
Calls of command-line tools, as records tell of them.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from harken.event import JSON
from harken.trail.entries import Record
from harken.trail.filters import Filter
from harken.trail.log import Trail

FLAT = (
    *("timestamp", "command", "params", "exit_code", "duration_ms"),
    *("operator", "trace_id", "request_id"),
)
"""The members of a call that every tool under the contract tells, in this order."""


def newest_calls(
    trail: Trail, where: Filter, *, command: str | None = None, trace_id: str | None = None
) -> Iterator[dict[str, JSON]]:
    """
    Yield the calls that are wanted, the last one first.

    Args:
        command: The name of the command; ``*`` stands for anything.

        trace_id: The caller's own id, or that of the trace.
    """
    wanted = msgspec.structs.replace(
        where,
        types=("command.completed",),
        resources=() if command is None else (f"command:{command}",),
    )
    for entry in trail.newest(wanted):
        record = trail.read(entry)
        if record is not None and trace_id in {None, record.correlation_id, record.trace_id}:
            yield call_of(record)


def call_of(record: Record) -> dict[str, JSON]:
    """
    Return what a record says of a call; *trace_id* is the caller's own.
    """
    data = record.metadata
    # Tools that follow the same contract have used all three names.
    params = next((data[name] for name in ("params", "args", "parameters") if name in data), None)
    return {
        "timestamp": record.timestamp,
        "command": data.get("command") or None,
        "params": params,
        "exit_code": data.get("exit_code"),
        "ok": data.get("ok"),
        "outcome": record.outcome,
        "duration_ms": data.get("duration_ms"),
        "operator": data.get("operator") or record.actor,
        "effect": data.get("effect"),
        "request_id": data.get("request_id") or record.request_id,
        "trace_id": record.correlation_id,
        "id": record.id,
    }
