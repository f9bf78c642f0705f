"""
Errors, and what harken reports about itself.
"""

from typing import Annotated

from harken.catalog._fields import Digest, Milliseconds, known
from harken.event import Event, unit


class ErrorRaised(
    Event,
    name="error.raised",
    audit=True,
    action="raise",
    resource="component:{component}",
    outcome="failure",
):
    """
    Something went wrong that no other event tells of.

    Attributes:
        component: The part of the application that it happened in.

        error_type: The class of the error; never its text.

        handled: Whether the component went on.

        fingerprint: The same for errors of the same cause.
    """

    component: str
    error_type: str = ""
    error_message: str = ""
    handled: bool = False
    fingerprint: str = ""


class SinkFailed(
    Event,
    name="harken.sink_failed",
    audit=True,
    action="deliver",
    resource="sink:{sink}",
    outcome="failure",
):
    """
    A subscriber raised; published by the bus, once for each kind of error and at a quarantine.

    Attributes:
        sink: The subscriber's name on the bus.

        failures: How often it has raised so far.

        disabled: Whether it is in quarantine now.
    """

    sink: str
    error_type: str = ""
    failures: int = 0
    disabled: bool = False


class EventsDropped(
    Event,
    name="harken.events_dropped",
    audit=True,
    action="deliver",
    resource="sink:{sink}",
    outcome="failure",
):
    """
    A subscriber did not get some events; published by the bus when it has room again.

    Attributes:
        sink: The subscriber's name on the bus.

        count: How many events it did not get, exactly.

        reason: ``queue_full``, ``quarantined``, ``failed`` (a sink was given them, and raised),
            ``cancelled``, ``serialise`` or ``shutdown``.

        first_seq: The bus's number of the first of them; not all up to *last_seq* need be lost.
    """

    sink: str
    count: int = 0
    reason: Annotated[
        str, known("queue_full", "quarantined", "failed", "cancelled", "serialise", "shutdown")
    ] = ""
    first_seq: int = 0
    last_seq: int = 0


class ScopeOrphaned(
    Event,
    name="harken.scope_orphaned",
    audit=True,
    action="close",
    resource="{kind}:{id}",
    outcome="orphaned",
):
    """
    An operation was never closed by its author, so the bus closed it.

    Attributes:
        kind: The operation, such as ``tool``, ``llm`` or ``run``.

        id: The operation's key.

        started_event_id: The id of the event that opened it.

        age_ms: For how long it had been open.

        closed_as: The outcome of its end: ``orphaned``, or ``cancelled`` with its run.
    """

    kind: Annotated[str, known("tool", "llm", "run")]
    id: str
    started_event_id: str = ""
    age_ms: Milliseconds = 0
    closed_as: Annotated[str, known("orphaned", "cancelled")] = "orphaned"


class AuditOpened(
    Event,
    name="harken.audit_opened",
    action="open",
    resource="audit_log:{path_digest}",
    outcome="success",
):
    """
    The audit log began a file; for the other sinks, since the file says so itself.

    Attributes:
        path_digest: The digest of the file's path.

        segment: The number of the file in its log.

        resumed_from_seq: The number of the last line that was already there.

        prev_hash: The hash of that line.
    """

    path_digest: Digest
    segment: int = 0
    resumed_from_seq: int | None = None
    prev_hash: str | None = None


class AuditCheckpoint(
    Event,
    name="harken.audit_checkpoint",
    action="checkpoint",
    resource="audit_log:{path_digest}",
    outcome="success",
):
    """
    The audit log wrote a checkpoint; this copy carries its head off the machine.

    Another one follows when a writer leaves the log: it tells of the very last line, has no seal,
    and its *seq* is its *count*.

    Attributes:
        path_digest: The digest of the file's path.

        segment: The number of the file in its log.

        seq: The number of the line that says so, over all files of the log.

        epoch: Which key of the ratchet sealed it; None without a key.

        count: How many lines the checkpoint covers.

        head: The hash of the last of them.

        mono_ns: The writer's monotonic clock.

        mac: The seal, in hex, when the log has a key.

        signature: The signature, in hex, when the log has a signing key.
    """

    path_digest: Digest
    segment: int = 0
    seq: int = 0
    epoch: int | None = None
    count: int = 0
    head: str = ""
    mono_ns: Annotated[int, unit("ns")] = 0
    key_id: str | None = None
    mac: str | None = None
    signature: str | None = None
