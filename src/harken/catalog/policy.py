"""
What the agent may do: policies, guards, approvals, invariants and validations.
"""

from typing import Annotated

from harken.catalog._fields import Actor, Bytes, Digest, Milliseconds, Text, Time, known
from harken.event import Event, outcome_from


class PolicyEvaluated(
    Event,
    name="policy.evaluated",
    audit=True,
    action="evaluate",
    resource="policy:{policy_id}",
    outcome=outcome_from(
        "decision",
        allow="success",
        warn="success",
        audit="success",
        escalate="deferred",
        deny="denied",
    ),
):
    """
    A policy was asked whether something may happen; published for every answer.

    Attributes:
        rule: The rule that decided.

        subject: What was asked about, such as the id of a tool call.

        decision: ``allow``, ``deny``, ``warn``, ``escalate`` or ``audit``; it decides the outcome.

        severity: How grave a violation would be, in the policy's words.
    """

    policy_id: str
    policy_version: str | None = None
    rule: str | None = None
    subject: str = ""
    decision: Annotated[str, known("allow", "deny", "warn", "escalate", "audit")] = ""
    severity: str = ""
    reason: str = ""


class GuardEvaluated(
    Event,
    name="guard.evaluated",
    action="check",
    resource="guard:{guard_name}",
    outcome=outcome_from("passed", true="success", false="failure"),
):
    """
    A guard looked at an input, an output, a tool call or a model's call.

    Attributes:
        stage: ``input``, ``output``, ``tool`` or ``llm``.

        passed: Whether it found nothing; publish ``guard.violated`` too when it found something.
    """

    guard_name: str
    stage: Annotated[str, known("input", "output", "tool", "llm")] = ""
    passed: bool | None = None
    duration_ms: Milliseconds | None = None


class GuardViolated(
    Event,
    name="guard.violated",
    audit=True,
    action="check",
    resource="guard:{guard_name}",
    outcome=outcome_from(
        "severity", block="denied", escalate="deferred", warn="failure", audit="failure"
    ),
):
    """
    A guard found what it looks for.

    Attributes:
        stage: ``input``, ``output``, ``tool`` or ``llm``.

        severity:
            ``block``, ``escalate``, ``warn`` or ``audit``; it decides the outcome, which is
            ``failure`` where the agent went on.

        action_taken: What was done about it.

        evidence_digest: The digest of what was found; never the thing itself.
    """

    guard_name: str
    stage: Annotated[str, known("input", "output", "tool", "llm")] = ""
    severity: Annotated[str, known("block", "escalate", "warn", "audit")] = ""
    action_taken: str = ""
    reason: str = ""
    evidence_digest: Digest | None = None


class ApprovalRequested(
    Event,
    name="approval.requested",
    audit=True,
    action="request_approval",
    resource="approval:{approval_id}",
    outcome="deferred",
):
    """
    Somebody was asked whether the agent may do something; the answer may come days later.

    Attributes:
        subject: The id of the tool call or plan that waits.

        prompt:
            What was asked, as it was shown; recorded only where content is captured. Digest and
            size are filled in.

        expires_at: When silence becomes a no; timezone-aware.
    """

    approval_id: str
    subject: str = ""
    prompt: Text = None
    prompt_digest: Digest = ""
    prompt_size: Bytes = 0
    expires_at: Time | None = None


class ApprovalGranted(
    Event,
    name="approval.granted",
    audit=True,
    action="approve",
    resource="approval:{approval_id}",
    outcome="success",
):
    """
    Somebody said yes.

    Attributes:
        approver: Who, as ``kind:id``.

        scope: ``once``, ``session`` or ``always``: for how long the yes holds.

        wait_ms: How long the answer took, by the wall clock.
    """

    approval_id: str
    approver: Actor = ""
    scope: Annotated[str, known("once", "session", "always")] = "once"
    wait_ms: Milliseconds | None = None


class ApprovalDenied(
    Event,
    name="approval.denied",
    audit=True,
    action="approve",
    resource="approval:{approval_id}",
    outcome="denied",
):
    """
    Somebody, or a rule, said no.

    Attributes:
        approver: Who, as ``kind:id``; None for a rule.

        wait_ms: How long the answer took, by the wall clock.
    """

    approval_id: str
    approver: Actor | None = None
    reason: str = ""
    wait_ms: Milliseconds | None = None


class ApprovalExpired(
    Event,
    name="approval.expired",
    audit=True,
    action="approve",
    resource="approval:{approval_id}",
    outcome="timeout",
):
    """
    Nobody answered in time, which is a no.

    Attributes:
        wait_ms: How long the agent had waited, by the wall clock.
    """

    approval_id: str
    wait_ms: Milliseconds | None = None


class InvariantReconciled(
    Event,
    name="invariant.reconciled",
    action="reconcile",
    resource="invariants:{phase}",
    outcome="success",
):
    """
    The invariants that hold in a phase were worked out from all that were declared.

    Attributes:
        effective: How many hold.

        conflicts: How many contradicted each other.
    """

    phase: str
    effective: int = 0
    conflicts: int = 0


class InvariantEnforced(
    Event,
    name="invariant.enforced",
    action="enforce",
    resource="invariant:{invariant_id}",
    outcome="success",
):
    """
    An invariant changed or limited what the agent did.

    Attributes:
        effect: What it changed, in a few words.
    """

    invariant_id: str
    scope: str = ""
    effect: str = ""


class InvariantViolated(
    Event,
    name="invariant.violated",
    audit=True,
    action="enforce",
    resource="invariant:{invariant_id}",
    outcome=outcome_from("blocked", true="denied", false="failure"),
):
    """
    The agent broke, or tried to break, an invariant.

    Attributes:
        blocked: Whether it was stopped; the outcome is ``denied`` then, else ``failure``.
    """

    invariant_id: str
    scope: str = ""
    phase: str = ""
    blocked: bool = False
    reason: str = ""


class ValidationStarted(
    Event,
    name="validation.started",
    action="validate",
    resource="validation:{target}",
    key=("validator", "target"),
):
    """
    A check of something the agent made began.

    Attributes:
        validator: The name of the check.

        target: What is checked, such as a file or a plan's id.
    """

    validator: str
    target: str


class ValidationPassed(
    Event,
    name="validation.passed",
    action="validate",
    resource="validation:{target}",
    ends=ValidationStarted,
    outcome="success",
):
    """
    A check found no fault.

    Attributes:
        checks: How many single checks were made.
    """

    validator: str
    target: str
    checks: int = 0
    duration_ms: Milliseconds | None = None


class ValidationFailed(
    Event,
    name="validation.failed",
    action="validate",
    resource="validation:{target}",
    ends=ValidationStarted,
    outcome="failure",
):
    """
    A check found faults, or could not be carried out.

    Attributes:
        failures: How many faults it found.
    """

    validator: str
    target: str
    failures: int = 0
    duration_ms: Milliseconds | None = None
