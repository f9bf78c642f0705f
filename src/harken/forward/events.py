"""
What a forwarder has to tell, as events.
"""

from __future__ import annotations

from harken import Event


class ForwardStalled(
    Event,
    name="forward.stalled",
    audit=True,
    action="forward",
    resource="stream:{target}",
    outcome="failure",
):
    """
    Nothing can be forwarded; told once, until it goes on.

    Attributes:
        target: The address of the stream.

        lag_bytes: How much of the log is not there yet.

        lag_seconds: How old the oldest line is that is not there yet.
    """

    target: str
    error_type: str = ""
    error_message: str = ""
    lag_bytes: int = 0
    lag_seconds: float = 0.0


class ForwardResumed(
    Event,
    name="forward.resumed",
    audit=True,
    action="forward",
    resource="stream:{target}",
    outcome="success",
):
    """
    It goes on.

    Attributes:
        stalled_ms: How long it did not.

        attempts: How often that was tried.
    """

    target: str
    stalled_ms: int = 0
    attempts: int = 0


class ForwardMeasured(
    Event,
    name="forward.measured",
    action="forward",
    resource="stream:{target}",
):
    """
    How far forwarding is; told every few seconds while that changes, and never audited.

    Attributes:
        target: The address of the stream.

        source: What the log is called there.

        lag_bytes: How much of the log is not there yet.

        lag_seconds: How old the oldest line is that is not there yet.

        stalled: Whether nothing can be forwarded just now, or any more.

        records: Lines that the engine took since this was told last.

        rejected: Lines since then that nobody would take.

        failures: Failures of engine or log since then.
    """

    target: str
    source: str = ""
    lag_bytes: int = 0
    lag_seconds: float = 0.0
    stalled: bool = False
    records: int = 0
    rejected: int = 0
    failures: int = 0


class ForwardGap(
    Event,
    name="forward.gap",
    audit=True,
    action="forward",
    resource="stream:{target}",
    outcome="failure",
):
    """
    The log and the stream do not fit together.

    Attributes:
        reason:
            ``missing``: these lines were deleted before they were forwarded. ``lost``: the stream
            does not hold any more what it had, and gets it again. ``other_log``: the log is not
            the one that the stream knows; all of it is forwarded.

        first_seq: The first line that it is about; 0 when that is not known.

        last_seq: The last one.
    """

    target: str
    reason: str = ""
    first_seq: int = 0
    last_seq: int = 0


class ForwardRejected(
    Event,
    name="forward.rejected",
    audit=True,
    action="forward",
    resource="stream:{target}",
    outcome="failure",
):
    """
    One line is not forwarded, because nobody would take it; it is in the rejected file.

    Attributes:
        seq: Its number; 0 when it is no record.

        reason: Why.
    """

    target: str
    seq: int = 0
    reason: str = ""
