"""
Sessions, runs, their phases and turns, and the agents that work in them.
"""

from typing import Annotated

from harken.catalog._fields import (
    Actor,
    Bytes,
    Digest,
    Dollars,
    Milliseconds,
    Result,
    Text,
    Tokens,
    known,
)
from harken.event import Event, outcome_from


class SessionStarted(
    Event,
    name="session.started",
    audit=True,
    action="open",
    resource="session:{session_id}",
    key="session_id",
):
    """
    A session was opened; published once, before its first run.

    The session's id is the scope's ``session_id``.

    Attributes:
        agent_slug: The short name of the agent that serves the session.

        trigger_source: What opened it, such as ``chat``, ``webhook`` or ``schedule``.

        resumed: Whether an earlier session of the same id goes on.
    """

    agent_slug: str = ""
    trigger_source: str = ""
    resumed: bool = False


class SessionEnded(
    Event,
    name="session.ended",
    audit=True,
    action="close",
    resource="session:{session_id}",
    ends=SessionStarted,
    outcome=outcome_from(
        "reason",
        **{"": "success"},
        completed="success",
        user_exit="success",
        cancelled="cancelled",
        timeout="timeout",
        error="failure",
    ),
):
    """
    A session was closed, for whatever reason; nothing more will happen in it.

    Attributes:
        reason:
            ``completed``, ``user_exit``, ``cancelled``, ``timeout`` or ``error``; it decides the
            outcome. Empty counts as ``completed``.

        runs: How many runs the session had.
    """

    reason: Annotated[str, known("completed", "user_exit", "cancelled", "timeout", "error")] = ""
    runs: int = 0
    duration_ms: Milliseconds | None = None


class RunStarted(
    Event,
    name="run.started",
    audit=True,
    action="run",
    resource="run:{run_id}",
    key="run_id",
):
    """
    A run began: one task given to one agent; published before the first call of a model.

    The run's id is the scope's ``run_id``.

    Attributes:
        phase: The phase of the task that the run carries out, such as ``analysis``.

        model: The model asked for, when the whole run has one.

        trigger_source: What caused the run, such as ``chat``, ``webhook`` or ``schedule``.

        max_iterations: After how many turns the run is stopped; None is never.

        prompt: What the agent was asked to do; recorded only where content is captured.

        tools: The names of the tools that the agent may call.
    """

    phase: str | None = None
    model: str | None = None
    provider: str | None = None
    task_type: str | None = None
    task_priority: str | None = None
    trigger_source: str | None = None
    max_iterations: int | None = None
    prompt: Text = None
    prompt_digest: Digest = ""
    prompt_size: Bytes = 0
    tools: tuple[str, ...] = ()


class _Usage(Event):
    """
    What a run used up, as far as it is known when the run ends.
    """

    input_tokens: Tokens = 0
    output_tokens: Tokens = 0
    reasoning_tokens: Tokens = 0
    cached_tokens: Tokens = 0
    cost_usd: Dollars | None = None
    iterations: int = 0
    tool_calls: int = 0
    duration_ms: Milliseconds | None = None


class RunCompleted(
    _Usage,
    name="run.completed",
    audit=True,
    action="run",
    resource="run:{run_id}",
    ends=RunStarted,
):
    """
    A run came to its end and its answer was judged; published after the judgement.

    Attributes:
        outcome: ``success``, ``failure`` for an answer that is none, or ``deferred``.

        reasoning_tokens: Part of *output_tokens*.

        cached_tokens: Part of *input_tokens*.

        cost_usd: None when nobody computed it.

        stop_reason: Why the agent stopped, in its framework's words.

        result: The answer; recorded only where content is captured.
    """

    outcome: Annotated[str, known("success", "failure", "deferred")] = "success"
    stop_reason: str | None = None
    result: Result = None
    result_digest: Digest = ""
    result_size: Bytes = 0


class RunFailed(
    _Usage,
    name="run.failed",
    audit=True,
    action="run",
    resource="run:{run_id}",
    ends=RunStarted,
):
    """
    A run ended with an error or ran out of time.

    What was used up to then belongs here: a failure is never free.

    Attributes:
        outcome: ``failure`` or ``timeout``.

        error_type: The class of the error; never its text.
    """

    error_type: str = ""
    error_message: str = ""
    outcome: Annotated[str, known("failure", "timeout")] = "failure"


class RunCancelled(
    _Usage,
    name="run.cancelled",
    audit=True,
    action="run",
    resource="run:{run_id}",
    ends=RunStarted,
    outcome="cancelled",
):
    """
    A run was stopped from outside before its end, with what it had used up to then.

    Attributes:
        cancelled_by: Who stopped it, as ``kind:id``.
    """

    reason: str = ""
    cancelled_by: Actor | None = None


class RunPaused(
    Event,
    name="run.paused",
    action="pause",
    resource="run:{run_id}",
    outcome="deferred",
):
    """
    A run waits for something outside of it and may go on in another process.

    Attributes:
        reason: ``approval``, ``human_input``, ``budget`` or ``checkpoint``.

        resume_token: What the framework needs to go on; not a secret.
    """

    reason: Annotated[str, known("approval", "human_input", "budget", "checkpoint")] = ""
    resume_token: str | None = None


class RunResumed(
    Event,
    name="run.resumed",
    audit=True,
    action="resume",
    resource="run:{run_id}",
    outcome="success",
):
    """
    A paused run goes on.

    Attributes:
        resumed_by: Who let it go on, as ``kind:id``.

        paused_ms: How long it had waited, by the wall clock.
    """

    resumed_by: Actor | None = None
    paused_ms: Milliseconds | None = None


class PhaseStarted(
    Event,
    name="phase.started",
    action="perform",
    resource="phase:{phase}",
    key="phase",
):
    """
    A named stretch of a run began that is neither a turn nor a tool call.

    Attributes:
        phase: Such as ``repo_clone``, ``session_restore`` or ``pipeline_wait``; a metric label,
            so a word of a small set.
    """

    phase: str


class PhaseCompleted(
    Event,
    name="phase.completed",
    action="perform",
    resource="phase:{phase}",
    ends=PhaseStarted,
    outcome="success",
):
    """
    A phase was finished.
    """

    phase: str
    duration_ms: Milliseconds | None = None


class PhaseFailed(
    Event,
    name="phase.failed",
    action="perform",
    resource="phase:{phase}",
    ends=PhaseStarted,
    outcome="failure",
):
    """
    A phase was given up because of an error.
    """

    phase: str
    error_type: str = ""
    error_message: str = ""
    duration_ms: Milliseconds | None = None


class TurnStarted(
    Event,
    name="turn.started",
    action="take",
    resource="turn:{iteration}",
    key=("run_id", "iteration"),
):
    """
    A turn of the agent's loop began: a call of the model and the tool calls it leads to.

    Attributes:
        iteration: The number of the turn in its run; the first is 1.
    """

    iteration: int


class TurnCompleted(
    Event,
    name="turn.completed",
    action="take",
    resource="turn:{iteration}",
    ends=TurnStarted,
    outcome="success",
):
    """
    A turn ended; what went wrong in it is told by the events inside of it.
    """

    iteration: int
    input_tokens: Tokens = 0
    output_tokens: Tokens = 0
    duration_ms: Milliseconds | None = None


class AgentStarted(
    Event,
    name="agent.started",
    action="act",
    resource="agent:{agent_id}",
    key="agent_id",
):
    """
    One of the agents of a run began to work.

    Attributes:
        agent_id: Of the agent, not of this piece of work; unique within the run.

        parent_agent_id: The agent that called this one.
    """

    agent_id: str
    agent_name: str = ""
    parent_agent_id: str | None = None


class AgentCompleted(
    Event,
    name="agent.completed",
    action="act",
    resource="agent:{agent_id}",
    ends=AgentStarted,
):
    """
    One of the agents of a run finished its work.

    Attributes:
        outcome: ``success`` or ``deferred``.
    """

    agent_id: str
    outcome: Annotated[str, known("success", "deferred")] = "success"
    duration_ms: Milliseconds | None = None


class AgentFailed(
    Event,
    name="agent.failed",
    action="act",
    resource="agent:{agent_id}",
    ends=AgentStarted,
    outcome="failure",
):
    """
    One of the agents of a run gave up; the run itself may go on.
    """

    agent_id: str
    error_type: str = ""
    error_message: str = ""
    duration_ms: Milliseconds | None = None


class AgentHandoff(
    Event,
    name="agent.handoff",
    audit=True,
    action="hand_off",
    resource="agent:{to_agent}",
    outcome="success",
):
    """
    One agent handed the task, and the authority that goes with it, to another.

    Attributes:
        from_agent: The id of the agent that acted until now.

        to_agent: The id of the agent that acts from now on.
    """

    from_agent: str
    to_agent: str
    reason: str | None = None


class AgentEscalated(
    Event,
    name="agent.escalated",
    audit=True,
    action="escalate",
    resource="escalation:{to}",
    outcome="success",
):
    """
    An agent gave a question up to a higher authority, because it may not or cannot decide it.

    Attributes:
        from_agent: The id of the agent.

        to: ``human``, ``agent``, or one of them by name as ``kind:id``.
    """

    from_agent: str
    to: Annotated[str, known("human", "agent")]
    reason: str = ""
