"""
Plans and their steps, the decisions made on the way, and corrections of them.
"""

from typing import Annotated

from harken.catalog._fields import Actor, Milliseconds, known
from harken.event import Event


class PlanCreated(
    Event,
    name="plan.created",
    action="plan",
    resource="plan:{plan_id}",
    key="plan_id",
):
    """
    A plan was made; it stays open until it is applied, cancelled or failed.

    Attributes:
        root_plan_id: The plan at the top of the tree that this one is part of.

        steps: How many steps it has, when that is known.

        duration_ms: How long the planning took.
    """

    plan_id: str = ""
    root_plan_id: str | None = None
    parent_plan_id: str | None = None
    steps: int | None = None
    duration_ms: Milliseconds | None = None


class PlanApplied(
    Event,
    name="plan.applied",
    audit=True,
    action="apply",
    resource="plan:{plan_id}",
    ends=PlanCreated,
    outcome="success",
):
    """
    A plan was carried out and its effects have left the sandbox.

    Attributes:
        validation_summary: What the checks before it said, in a line.

        duration_ms: From the making of the plan until now.
    """

    plan_id: str = ""
    project: str = ""
    files_changed: int = 0
    validation_summary: str | None = None
    duration_ms: Milliseconds | None = None


class PlanCancelled(
    Event,
    name="plan.cancelled",
    audit=True,
    action="apply",
    resource="plan:{plan_id}",
    ends=PlanCreated,
    outcome="cancelled",
):
    """
    A plan was given up on purpose; nothing of it will be carried out any more.

    Attributes:
        resources_released: What the plan had held, such as sandboxes and locks.
    """

    plan_id: str = ""
    reason: str = ""
    resources_released: tuple[str, ...] = ()


class PlanFailed(
    Event,
    name="plan.failed",
    audit=True,
    action="apply",
    resource="plan:{plan_id}",
    ends=PlanCreated,
    outcome="failure",
):
    """
    A plan could not be made or carried out.

    Attributes:
        phase: The phase of the plan in which it failed.
    """

    plan_id: str = ""
    phase: str = ""
    error_type: str = ""
    error_message: str = ""
    duration_ms: Milliseconds | None = None


class PlanPhaseChanged(
    Event,
    name="plan.phase_changed",
    action="change_phase",
    resource="plan:{plan_id}",
    outcome="success",
):
    """
    A plan moved on to its next phase.
    """

    plan_id: str
    from_phase: str = ""
    to_phase: str = ""


class PlanStateChanged(
    Event,
    name="plan.state_changed",
    action="change_state",
    resource="plan:{plan_id}",
    outcome="success",
):
    """
    A plan's state changed, in the words of the framework that runs it.
    """

    plan_id: str
    from_state: str = ""
    to_state: str = ""


class PlanStepStarted(
    Event,
    name="plan.step_started",
    action="perform",
    resource="plan:{plan_id}/step:{step_number}",
    key=("plan_id", "step_number"),
):
    """
    A step of a plan began.

    Attributes:
        step_number: The place of the step in its plan; the first is 1.
    """

    plan_id: str
    step_number: int
    step_description: str | None = None


class PlanStepCompleted(
    Event,
    name="plan.step_completed",
    action="perform",
    resource="plan:{plan_id}/step:{step_number}",
    ends=PlanStepStarted,
):
    """
    A step of a plan ended, well or not.

    Attributes:
        outcome: ``success``, ``failure``, ``timeout`` or ``cancelled``.
    """

    plan_id: str
    step_number: int
    outcome: Annotated[str, known("success", "failure", "timeout", "cancelled")] = "success"
    duration_ms: Milliseconds | None = None


class PlanRevised(
    Event,
    name="plan.revised",
    action="revise",
    resource="plan:{plan_id}",
    outcome="success",
):
    """
    A plan was changed while it was being carried out.

    Attributes:
        revision: The number of the new version; the plan as it was made is 1.
    """

    plan_id: str
    reason: str = ""
    revision: int = 0


class DecisionCreated(
    Event,
    name="decision.created",
    action="decide",
    resource="decision:{decision_id}",
    outcome="success",
):
    """
    The agent chose between ways to go on.

    Attributes:
        alternatives: How many other answers it considered.
    """

    decision_id: str
    plan_id: str | None = None
    question: str = ""
    chosen: str = ""
    alternatives: int | None = None


class DecisionApproved(
    Event,
    name="decision.approved",
    audit=True,
    action="approve",
    resource="decision:{decision_id}",
    outcome="success",
):
    """
    A person, or another authority, agreed with a decision of the agent.

    Attributes:
        approver: Who, as ``kind:id``.
    """

    decision_id: str
    approver: Actor = ""


class DecisionCorrected(
    Event,
    name="decision.corrected",
    audit=True,
    action="correct",
    resource="decision:{decision_id}",
    outcome="success",
):
    """
    A decision of the agent was overruled.

    Attributes:
        corrected_by: Who overruled it, as ``kind:id``.

        guidance: What the agent was told instead.
    """

    decision_id: str
    corrected_by: Actor = ""
    guidance: str | None = None


class DecisionSuperseded(
    Event,
    name="decision.superseded",
    action="supersede",
    resource="decision:{decision_id}",
    outcome="success",
):
    """
    A decision no longer holds, because a later one took its place.
    """

    decision_id: str
    by_decision_id: str = ""


class CorrectionApplied(
    Event,
    name="correction.applied",
    audit=True,
    action="correct",
    resource="correction:{correction_id}",
    outcome="success",
):
    """
    The correction of a decision took effect on what the agent had done.

    Attributes:
        mode: How it was applied, in the framework's words, such as ``revert`` or ``append``.
    """

    correction_id: str
    decision_id: str = ""
    mode: str = ""
    guidance: str | None = None
