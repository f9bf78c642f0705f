"""
The catalog: its types against the table they were transcribed from, their laws, and who
publishes them.
"""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
import threading
import tomllib
import typing
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from string import Formatter

import jsonschema
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

import harken
from harken import Bus, Envelope, Event, Outcome, catalog, decode, describe, find, schema
from harken.catalog import (
    AgentCompleted,
    AgentEscalated,
    AgentFailed,
    AgentHandoff,
    AgentStarted,
    ApprovalDenied,
    ApprovalExpired,
    ApprovalGranted,
    ApprovalRequested,
    AuditCheckpoint,
    AuditOpened,
    AuthFailed,
    AuthSucceeded,
    BudgetExceeded,
    BudgetWarning,
    CheckpointCreated,
    CheckpointRestored,
    CommandCompleted,
    CommandStarted,
    ConfigChanged,
    ContextAssembled,
    ContextCompacted,
    ContextQueried,
    CorrectionApplied,
    CredentialDenied,
    CredentialIssued,
    CredentialRevoked,
    DecisionApproved,
    DecisionCorrected,
    DecisionCreated,
    DecisionSuperseded,
    EntityDeleted,
    ErrorRaised,
    EventsDropped,
    GuardEvaluated,
    GuardViolated,
    HumanInputReceived,
    HumanInputRequested,
    HumanInputTimedOut,
    InvariantEnforced,
    InvariantReconciled,
    InvariantViolated,
    LlmChunk,
    LlmCompleted,
    LlmFailed,
    LlmRetried,
    LlmStarted,
    McpConnected,
    McpFailed,
    McpToolsChanged,
    MemoryRead,
    MemoryWritten,
    MessageAdded,
    PhaseCompleted,
    PhaseFailed,
    PhaseStarted,
    PipelineCompleted,
    PipelineTriggered,
    PlanApplied,
    PlanCancelled,
    PlanCreated,
    PlanFailed,
    PlanPhaseChanged,
    PlanRevised,
    PlanStateChanged,
    PlanStepCompleted,
    PlanStepStarted,
    PolicyEvaluated,
    PrClosed,
    PrCreated,
    RateLimitHit,
    RepoCloned,
    ResourceAccessed,
    ResourceIndexed,
    ResourceModified,
    RetrievalCompleted,
    RunCancelled,
    RunCompleted,
    RunFailed,
    RunPaused,
    RunResumed,
    RunStarted,
    SandboxCommitted,
    SandboxCreated,
    SandboxRolledBack,
    ScopeOrphaned,
    SessionEnded,
    SessionStarted,
    SinkFailed,
    SkillActivated,
    TaskDequeued,
    TaskEnqueued,
    TextEmitted,
    ThinkingEmitted,
    ToolCompleted,
    ToolDenied,
    ToolFailed,
    ToolRetried,
    ToolStarted,
    TurnCompleted,
    TurnStarted,
    ValidationFailed,
    ValidationPassed,
    ValidationStarted,
)
from harken.catalog.aliases import VOCABULARIES, alias_of
from harken.errors import EventDataError, EventNameClashError, UnknownEventError
from harken.event import SCOPE_NAMES, EventType

# One line for each type: its name, whether it is audited, its fields; ! marks a required one.
TABLE = """
session.started         Y  agent_slug trigger_source resumed
session.ended           Y  reason runs duration_ms
run.started             Y  phase model provider task_type task_priority trigger_source
                           max_iterations prompt_digest tools
run.completed           Y  outcome input_tokens output_tokens reasoning_tokens cached_tokens
                           cost_usd iterations tool_calls stop_reason duration_ms result_digest
run.failed              Y  error_type error_message outcome input_tokens output_tokens
                           reasoning_tokens cached_tokens cost_usd iterations tool_calls duration_ms
run.cancelled           Y  reason cancelled_by input_tokens output_tokens reasoning_tokens
                           cached_tokens cost_usd iterations tool_calls duration_ms
run.paused              n  reason resume_token
run.resumed             Y  resumed_by paused_ms
phase.started           n  phase!
phase.completed         n  phase! duration_ms
phase.failed            n  phase! duration_ms
turn.started            n  iteration!
turn.completed          n  iteration! input_tokens output_tokens duration_ms
agent.started           n  agent_id! agent_name parent_agent_id
agent.completed         n  agent_id! outcome duration_ms
agent.failed            n  agent_id! error_type error_message duration_ms
agent.handoff           Y  from_agent! to_agent! reason
agent.escalated         Y  from_agent! to! reason
plan.created            n  plan_id root_plan_id parent_plan_id steps duration_ms
plan.phase_changed      n  plan_id! from_phase to_phase
plan.state_changed      n  plan_id! from_state to_state
plan.step_started       n  plan_id! step_number! step_description
plan.step_completed     n  plan_id! step_number! outcome duration_ms
plan.revised            n  plan_id! reason revision
plan.applied            Y  plan_id project files_changed validation_summary duration_ms
plan.cancelled          Y  plan_id reason resources_released
plan.failed             Y  plan_id phase error_type error_message duration_ms
decision.created        n  decision_id! plan_id question chosen alternatives
decision.approved       Y  decision_id! approver
decision.corrected      Y  decision_id! corrected_by guidance
decision.superseded     n  decision_id! by_decision_id
correction.applied      Y  correction_id! decision_id mode guidance
tool.started            Y  tool_call_id tool_name! tool_type server arguments arguments_digest
                           effect attempt
tool.completed          Y  tool_call_id tool_name result result_size result_digest from_cache
                           duration_ms outcome
tool.failed             Y  tool_call_id tool_name error_type error_message outcome retryable
                           duration_ms
tool.retried            n  tool_call_id tool_name! attempt delay_ms cause
tool.denied             Y  tool_call_id tool_name rule reason decided_by
llm.started             n  llm_call_id provider model! operation streaming message_count
                           tool_count context_hash temperature max_tokens
llm.completed           n  llm_call_id model response_model response_id input_tokens
                           output_tokens reasoning_tokens cache_read_tokens cache_write_tokens
                           cost_usd finish_reasons ttft_ms duration_ms
llm.failed              n  llm_call_id model error_type status_code retryable outcome duration_ms
llm.retried             n  llm_call_id! attempt delay_ms cause
llm.chunk               n  llm_call_id! index kind size
text.emitted            Y  block_index size digest text
thinking.emitted        Y  block_index size digest thinking
message.added           n  role! message_id size digest content
context.assembled       n  fragments tokens_used token_budget budget_utilization tier strategy
                           context_hash truncated duration_ms
context.queried         n  backend! hits duration_ms
context.compacted       n  reason tokens_before tokens_after duration_ms
memory.read             n  store! key_or_query_digest hits duration_ms
memory.written          Y  store! key! size digest source
retrieval.completed     n  source! query_digest hits duration_ms outcome
policy.evaluated        Y  policy_id! policy_version rule subject decision severity reason
guard.evaluated         n  guard_name! stage passed duration_ms
guard.violated          Y  guard_name! stage severity action_taken reason evidence_digest
approval.requested      Y  approval_id! subject prompt_digest expires_at
approval.granted        Y  approval_id! approver scope wait_ms
approval.denied         Y  approval_id! approver reason wait_ms
approval.expired        Y  approval_id! wait_ms
invariant.reconciled    n  phase! effective conflicts
invariant.enforced      n  invariant_id! scope effect
invariant.violated      Y  invariant_id! scope phase blocked reason
validation.started      n  validator! target!
validation.passed       n  validator! target! checks duration_ms
validation.failed       n  validator! target! failures duration_ms
credential.issued       Y  credential_id! scope! integration ttl_s expires_at issued_to
credential.denied       Y  scope! integration reason
credential.revoked      Y  credential_id! reason
auth.succeeded          Y  method! principal
auth.failed             Y  method! principal reason
human_input.requested   Y  request_id! question_digest choices timeout_s
human_input.received    Y  request_id! responder response_digest wait_ms
human_input.timed_out   Y  request_id! wait_ms
budget.warning          Y  budget_type! scope limit used unit utilization
budget.exceeded         Y  budget_type! scope limit used unit utilization enforced action
rate_limit.hit          n  provider! limit_type retry_after_ms status
resource.accessed       n  resource_id! kind access
resource.modified       Y  resource_id! kind modification tool_call_id sandboxed digest_before
                           digest_after
resource.indexed        n  resource_id! documents duration_ms
entity.deleted          Y  entity_type! entity_id!
config.changed          Y  key! old new scope
sandbox.created         n  sandbox_id! kind duration_ms
sandbox.committed       Y  sandbox_id! files_changed duration_ms
sandbox.rolled_back     Y  sandbox_id! reason duration_ms
checkpoint.created      n  checkpoint_id! parent_id trigger
checkpoint.restored     Y  checkpoint_id! restored_by
repo.cloned             n  repo! ref size duration_ms
pipeline.triggered      Y  pipeline_id! kind url
pipeline.completed      Y  pipeline_id! outcome drift wait_ms duration_ms
pr.created              Y  url! repo branch base files_changed additions deletions
pr.closed               Y  url! merged closed_by
task.enqueued           n  task_id! queue depth priority
task.dequeued           n  task_id! queue depth wait_ms
command.started         n  request_id command! params
command.completed       Y  request_id command params exit_code ok effect operator duration_ms
                           tool_version
mcp.connected           n  server! transport protocol_version duration_ms
mcp.failed              n  server! transport operation error_type duration_ms
mcp.tools_changed       Y  server! added removed schema_digest
skill.activated         n  skill_name! source digest
error.raised            Y  component! error_type error_message handled fingerprint
harken.sink_failed      Y  sink! error_type failures disabled
harken.events_dropped   Y  sink! count reason first_seq last_seq
harken.scope_orphaned   Y  kind! id! started_event_id age_ms closed_as
harken.audit_opened     n  path_digest! segment resumed_from_seq prev_hash
harken.audit_checkpoint n  path_digest! segment seq epoch count head mono_ns key_id mac signature
"""

# Where the table has a digest, the content it is of, so that it is taken after redaction; and
# the size that always stands beside a digest of content.
ADDED = {
    "run.started": {"prompt", "prompt_size"},
    "run.completed": {"result", "result_size"},
    "phase.failed": {"error_type", "error_message"},
    "tool.started": {"arguments_size"},
    "approval.requested": {"prompt", "prompt_size"},
    "human_input.requested": {"question", "question_size"},
    "human_input.received": {"response", "response_size"},
    "command.started": {"params_digest", "params_size"},
    "command.completed": {"params_digest", "params_size"},
}

# From a start to the ends of its operation; the first is that of success.
OPERATIONS = {
    "session.started": ["session.ended"],
    "run.started": ["run.completed", "run.failed", "run.cancelled"],
    "phase.started": ["phase.completed", "phase.failed"],
    "turn.started": ["turn.completed"],
    "agent.started": ["agent.completed", "agent.failed"],
    "plan.created": ["plan.applied", "plan.cancelled", "plan.failed"],
    "plan.step_started": ["plan.step_completed"],
    "tool.started": ["tool.completed", "tool.failed", "tool.denied"],
    "llm.started": ["llm.completed", "llm.failed"],
    "validation.started": ["validation.passed", "validation.failed"],
    "command.started": ["command.completed"],
}

KEYS = {
    "session.started": ("session_id",),
    "run.started": ("run_id",),
    "phase.started": ("phase",),
    "turn.started": ("run_id", "iteration"),
    "agent.started": ("agent_id",),
    "plan.created": ("plan_id",),
    "plan.step_started": ("plan_id", "step_number"),
    "tool.started": ("tool_call_id",),
    "llm.started": ("llm_call_id",),
    "validation.started": ("validator", "target"),
    "command.started": ("request_id",),
}

# What an operation's end is called when it is completed, failed, denied and cancelled.
ENDINGS = {
    "session.started": ("session.ended",) * 4,
    "run.started": ("run.completed", "run.failed", "run.failed", "run.cancelled"),
    "phase.started": ("phase.completed",) + ("phase.failed",) * 3,
    "turn.started": ("turn.completed",) * 4,
    "agent.started": ("agent.completed",) + ("agent.failed",) * 3,
    "plan.created": ("plan.applied", "plan.failed", "plan.failed", "plan.cancelled"),
    "plan.step_started": ("plan.step_completed",) * 4,
    "tool.started": ("tool.completed", "tool.failed", "tool.denied", "tool.failed"),
    "llm.started": ("llm.completed",) + ("llm.failed",) * 3,
    "validation.started": ("validation.passed",) + ("validation.failed",) * 3,
    "command.started": ("command.completed",) * 4,
}

# The outcome of each type that opens no operation, as it is when nothing decides it.
OUTCOMES = {
    "success": """
        session.ended run.completed run.resumed phase.completed turn.completed agent.completed
        agent.handoff agent.escalated plan.phase_changed plan.state_changed plan.step_completed
        plan.revised plan.applied decision.created decision.approved decision.corrected
        decision.superseded correction.applied tool.completed llm.completed llm.chunk
        text.emitted thinking.emitted message.added context.assembled context.queried
        context.compacted memory.read memory.written retrieval.completed approval.granted
        invariant.reconciled invariant.enforced validation.passed credential.issued
        credential.revoked auth.succeeded human_input.received budget.warning resource.accessed
        resource.modified resource.indexed entity.deleted config.changed sandbox.created
        sandbox.committed sandbox.rolled_back checkpoint.created checkpoint.restored repo.cloned
        pipeline.triggered pr.created pr.closed task.enqueued task.dequeued mcp.connected
        mcp.tools_changed skill.activated harken.audit_opened harken.audit_checkpoint
    """,
    "failure": """
        run.failed phase.failed agent.failed plan.failed tool.failed llm.failed
        invariant.violated validation.failed auth.failed budget.exceeded mcp.failed error.raised
        harken.sink_failed harken.events_dropped
    """,
    "denied": "tool.denied approval.denied credential.denied rate_limit.hit",
    "timeout": "approval.expired human_input.timed_out",
    "cancelled": "run.cancelled plan.cancelled",
    "deferred": """
        run.paused tool.retried llm.retried approval.requested human_input.requested
    """,
    "orphaned": "harken.scope_orphaned",
    # Nobody said how it went: that is no success.
    "unknown": """
        policy.evaluated guard.evaluated guard.violated pipeline.completed command.completed
    """,
}

# Where a field decides the outcome: from its value to the outcome.
DECIDED = [
    (SessionEnded(reason="completed"), "success"),
    (SessionEnded(reason="user_exit"), "success"),
    (SessionEnded(reason="cancelled"), "cancelled"),
    (SessionEnded(reason="timeout"), "timeout"),
    (SessionEnded(reason="error"), "failure"),
    (SessionEnded(reason="the moon"), "unknown"),
    (RunCompleted(outcome="deferred"), "deferred"),
    (RunFailed(outcome="timeout"), "timeout"),
    (AgentCompleted(agent_id="a", outcome="deferred"), "deferred"),
    (PlanStepCompleted(plan_id="p", step_number=1, outcome="failure"), "failure"),
    (ToolCompleted(outcome="deferred"), "deferred"),
    (ToolFailed(outcome="timeout"), "timeout"),
    (ToolFailed(outcome="cancelled"), "cancelled"),
    (ToolFailed(outcome="orphaned"), "orphaned"),
    (ToolFailed(outcome="quarrelled"), "unknown"),
    (LlmFailed(outcome="timeout"), "timeout"),
    (RetrievalCompleted(source="wiki", outcome="failure"), "failure"),
    (PolicyEvaluated(policy_id="p", decision="allow"), "success"),
    (PolicyEvaluated(policy_id="p", decision="warn"), "success"),
    (PolicyEvaluated(policy_id="p", decision="audit"), "success"),
    (PolicyEvaluated(policy_id="p", decision="deny"), "denied"),
    (PolicyEvaluated(policy_id="p", decision="escalate"), "deferred"),
    (PolicyEvaluated(policy_id="p", decision="shrug"), "unknown"),
    (GuardEvaluated(guard_name="g", passed=True), "success"),
    (GuardEvaluated(guard_name="g", passed=False), "failure"),
    (GuardViolated(guard_name="g", severity="block"), "denied"),
    (GuardViolated(guard_name="g", severity="escalate"), "deferred"),
    (GuardViolated(guard_name="g", severity="warn"), "failure"),
    (GuardViolated(guard_name="g", severity="audit"), "failure"),
    (InvariantViolated(invariant_id="i", blocked=True), "denied"),
    (InvariantViolated(invariant_id="i", blocked=False), "failure"),
    (BudgetExceeded(budget_type="cost", enforced=True), "denied"),
    (BudgetExceeded(budget_type="cost", enforced=False), "failure"),
    (RateLimitHit(provider="p", status="allowed_warning"), "success"),
    (RateLimitHit(provider="p", status="rejected"), "denied"),
    (PipelineCompleted(pipeline_id="p", outcome="success"), "success"),
    (PipelineCompleted(pipeline_id="p", outcome="failure"), "failure"),
    (CommandCompleted(ok=True), "success"),
    (CommandCompleted(ok=False), "failure"),
]

TYPES: dict[str, type[Event]] = {
    describe(cls).name: cls for cls in (getattr(catalog, name) for name in catalog.__all__)
}
PUBLISHERS = tomllib.loads(
    (Path(__file__).parent / "catalog" / "publishers.toml").read_text(encoding="utf-8")
)

MINUTE = 60_000
NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)

# One of each, as an application would publish it.
EXAMPLES: Sequence[Event] = [
    SessionStarted(agent_slug="infra", trigger_source="chat"),
    RunStarted(
        phase="execution",
        model="m-large",
        provider="acme",
        task_type="drift",
        max_iterations=25,
        prompt="Fix the drift in main.tf",
        tools=("read_file", "terraform_plan"),
    ),
    PhaseStarted(phase="repo_clone"),
    RepoCloned(repo="acme/infra", ref="main", size=1_204_224, duration_ms=850),
    PhaseCompleted(phase="repo_clone", duration_ms=860),
    PhaseStarted(phase="session_restore"),
    PhaseFailed(phase="session_restore", error_type="OSError", error_message="no such file"),
    AgentStarted(agent_id="a-1", agent_name="planner"),
    TurnStarted(iteration=1),
    ContextAssembled(
        fragments=12, tokens_used=6_100, token_budget=8_000, budget_utilization=0.7625, tier="hot"
    ),
    ContextQueried(backend="vector", hits=4, duration_ms=12),
    RetrievalCompleted(source="runbooks", hits=3, duration_ms=31),
    MemoryRead(store="project", key_or_query_digest="style", hits=1),
    LlmStarted(llm_call_id="l-1", provider="acme", model="m-large", message_count=3, tool_count=2),
    LlmChunk(llm_call_id="l-1", index=0, kind="text", size=21),
    RateLimitHit(provider="acme", limit_type="requests", retry_after_ms=500),
    LlmRetried(llm_call_id="l-1", attempt=2, delay_ms=500, cause="RateLimitError"),
    LlmCompleted(
        llm_call_id="l-1",
        model="m-large",
        response_model="m-large-2026-08",
        input_tokens=6_100,
        output_tokens=220,
        cost_usd=0.021,
        finish_reasons=("tool_calls",),
        ttft_ms=410,
        duration_ms=1_820,
    ),
    LlmStarted(llm_call_id="l-2", provider="acme", model="m-large"),
    LlmFailed(llm_call_id="l-2", model="m-large", error_type="Overloaded", status_code=529),
    ThinkingEmitted(thinking="The plan shows three changes."),
    TextEmitted(block_index=1, text="I will apply them."),
    MessageAdded(role="assistant", content="I will apply them."),
    PlanCreated(plan_id="p-1", steps=2, duration_ms=1_900),
    PlanPhaseChanged(plan_id="p-1", from_phase="strategize", to_phase="execute"),
    PlanStateChanged(plan_id="p-1", from_state="queued", to_state="processing"),
    PlanStepStarted(plan_id="p-1", step_number=1, step_description="plan with terraform"),
    PlanStepCompleted(plan_id="p-1", step_number=1, outcome="success", duration_ms=4_000),
    PlanRevised(plan_id="p-1", reason="the state was locked", revision=2),
    DecisionCreated(decision_id="d-1", plan_id="p-1", question="apply now?", chosen="yes"),
    DecisionApproved(decision_id="d-1", approver="user:ana"),
    DecisionCorrected(decision_id="d-1", corrected_by="user:ana", guidance="staging first"),
    DecisionSuperseded(decision_id="d-1", by_decision_id="d-2"),
    CorrectionApplied(correction_id="c-1", decision_id="d-1", mode="revert"),
    InvariantReconciled(phase="execute", effective=4, conflicts=1),
    InvariantEnforced(invariant_id="no-public-buckets", scope="project", effect="acl set"),
    InvariantViolated(invariant_id="no-public-buckets", scope="project", blocked=True),
    PolicyEvaluated(policy_id="fs.write", subject="t-1", decision="allow", reason="in the repo"),
    GuardEvaluated(guard_name="pii", stage="output", passed=False, duration_ms=3),
    GuardViolated(guard_name="pii", stage="output", severity="block", action_taken="masked"),
    ToolStarted(tool_call_id="t-1", tool_name="write_file", arguments={"path": "main.tf"}),
    ResourceAccessed(resource_id="main.tf", kind="file"),
    ResourceModified(resource_id="main.tf", kind="file", modification="update", tool_call_id="t-1"),
    ResourceIndexed(resource_id="docs/", documents=40, duration_ms=900),
    ToolCompleted(tool_call_id="t-1", tool_name="write_file", result="ok", duration_ms=12),
    ToolStarted(tool_call_id="t-2", tool_name="terraform_plan"),
    ToolRetried(tool_call_id="t-2", tool_name="terraform_plan", attempt=2, cause="LockError"),
    ToolFailed(tool_call_id="t-2", tool_name="terraform_plan", error_type="LockError"),
    ToolStarted(tool_call_id="t-3", tool_name="shell"),
    ToolDenied(tool_call_id="t-3", tool_name="shell", rule="no-rm", decided_by="policy"),
    SandboxCreated(sandbox_id="s-1", kind="worktree", duration_ms=40),
    SandboxCommitted(sandbox_id="s-1", files_changed=2, duration_ms=15),
    SandboxRolledBack(sandbox_id="s-2", reason="tests failed", duration_ms=9),
    CheckpointCreated(checkpoint_id="k-2", parent_id="k-1", trigger="step"),
    CheckpointRestored(checkpoint_id="k-1", restored_by="user:ana"),
    ValidationStarted(validator="terraform validate", target="main.tf"),
    ValidationPassed(validator="terraform validate", target="main.tf", checks=14),
    ValidationStarted(validator="tflint", target="main.tf"),
    ValidationFailed(validator="tflint", target="main.tf", failures=2, duration_ms=700),
    ApprovalRequested(approval_id="q-1", subject="t-4", prompt="Apply?", expires_at=NOON),
    ApprovalGranted(approval_id="q-1", approver="user:ana", scope="once", wait_ms=4_000),
    ApprovalDenied(approval_id="q-2", approver="user:ana", reason="wrong workspace"),
    ApprovalExpired(approval_id="q-3", wait_ms=15 * MINUTE),
    HumanInputRequested(request_id="h-1", question="Which workspace?", choices=2, timeout_s=900),
    HumanInputReceived(request_id="h-1", responder="user:ana", response="staging", wait_ms=9_000),
    HumanInputTimedOut(request_id="h-2", wait_ms=15 * MINUTE),
    CredentialIssued(
        credential_id="b-1",
        scope="repo:write",
        integration="forge",
        ttl_s=900,
        expires_at=NOON,
        issued_to="agent:infra",
    ),
    CredentialDenied(scope="org:admin", integration="forge", reason="scope exceeds policy"),
    CredentialRevoked(credential_id="b-1", reason="run ended"),
    AuthSucceeded(method="oidc", principal="user:ana"),
    AuthFailed(method="oidc", principal="user:eve", reason="bad audience"),
    BudgetWarning(budget_type="cost", limit=5.0, used=4.2, unit="USD", utilization=0.84),
    BudgetExceeded(
        budget_type="turns", limit=25.0, used=25.0, unit="turns", enforced=True, action="stop"
    ),
    PipelineTriggered(pipeline_id="ci-7", kind="plan", url="https://ci.example/7"),
    PipelineCompleted(pipeline_id="ci-7", outcome="success", drift=3, duration_ms=MINUTE),
    PrCreated(url="https://forge.example/pr/9", repo="acme/infra", branch="fix", additions=12),
    PrClosed(url="https://forge.example/pr/9", merged=True, closed_by="user:ana"),
    EntityDeleted(entity_type="project", entity_id="old"),
    ConfigChanged(key="model", old="m-small", new="m-large", scope="project"),
    MemoryWritten(store="project", key="style", size=120, source="user"),
    ContextCompacted(reason="auto", tokens_before=90_000, tokens_after=12_000),
    TaskEnqueued(task_id="j-1", queue="drift", depth=3),
    TaskDequeued(task_id="j-1", queue="drift", depth=2, wait_ms=MINUTE),
    McpConnected(server="files", transport="stdio", protocol_version="2025-11-25"),
    McpFailed(server="files", transport="stdio", operation="tools/list", error_type="-32603"),
    McpToolsChanged(server="files", added=("delete",), schema_digest="sha256:00ff"),
    SkillActivated(skill_name="terraform", source="project"),
    CommandStarted(request_id="r-1", command="deploy", params={"env": "staging"}),
    CommandCompleted(request_id="r-1", command="deploy", exit_code=3, ok=False, operator="ana"),
    ErrorRaised(component="broker", error_type="ConnectionError", handled=True),
    AgentHandoff(from_agent="a-1", to_agent="a-2", reason="needs a reviewer"),
    AgentEscalated(from_agent="a-2", to="human", reason="production"),
    AgentStarted(agent_id="a-2", agent_name="reviewer", parent_agent_id="a-1"),
    AgentFailed(agent_id="a-2", error_type="ValueError"),
    TurnCompleted(iteration=1, input_tokens=6_100, output_tokens=220, duration_ms=9_000),
    AgentCompleted(agent_id="a-1", duration_ms=9_100),
    PlanApplied(plan_id="p-1", project="infra", files_changed=2),
    PlanCreated(plan_id="p-2"),
    PlanCancelled(plan_id="p-2", reason="superseded", resources_released=("s-2",)),
    PlanCreated(plan_id="p-3"),
    PlanFailed(plan_id="p-3", phase="execute", error_type="LockError"),
    RunPaused(reason="approval", resume_token="at-step-4"),
    RunResumed(resumed_by="user:ana", paused_ms=4_000),
    RunCompleted(input_tokens=82_000, output_tokens=589, cost_usd=0.28, result="opened a PR"),
    RunFailed(error_type="MaxTurnsExceeded", input_tokens=82_000, outcome="failure"),
    RunCancelled(reason="ctrl-c", cancelled_by="user:ana", input_tokens=82_000),
    SessionEnded(reason="completed", runs=1, duration_ms=MINUTE),
    SinkFailed(sink="AuditLog", error_type="OSError", failures=3, disabled=True),
    EventsDropped(sink="SpanRecorder", count=12, reason="queue_full", first_seq=40, last_seq=60),
    ScopeOrphaned(kind="tool", id="t-9", started_event_id="e-1", age_ms=MINUTE),
    AuditOpened(path_digest="sha256:00ff", segment=2, resumed_from_seq=41),
    AuditCheckpoint(path_digest="sha256:00ff", segment=2, seq=1_000, count=1_000, head="00ff"),
]


def table() -> dict[str, tuple[bool, set[str], set[str]]]:
    """
    Return from a type's name to whether it is audited, its fields and its required ones.
    """
    rows: list[list[str]] = []
    for line in TABLE.strip().splitlines():
        if line.startswith(" "):
            rows[-1] += line.split()
        else:
            rows.append(line.split())
    return {
        name: (flag == "Y", {field.rstrip("!") for field in fields}, required(fields))
        for name, flag, *fields in rows
    }


def required(fields: Sequence[str]) -> set[str]:
    return {field.rstrip("!") for field in fields if field.endswith("!")}


def info_of(name: str) -> EventType:
    return describe(TYPES[name])


@pytest.fixture
def heard() -> list[Envelope[Event]]:
    return []


@pytest.fixture
def bus(heard: list[Envelope[Event]]) -> Iterator[Bus]:
    bus = Bus(capture_content=["arguments", "result", "text", "thinking", "messages"])
    bus.subscribe(heard.append)
    yield bus
    bus.close()


class TestTable:
    def test_every_type_of_the_table_is_there_and_no_other(self) -> None:
        """
        The catalog has the types of the table.
        """
        assert sorted(table()) == sorted(TYPES)

    def test_counts(self) -> None:
        """
        The 100 types of the reference, three of the phase, and the checkpoint; 55 are audited.

        Of the 56 that the reference audits, the opening of the audit log is one: the file has a
        control record for it.
        """
        audited = sum(describe(cls).audit for cls in TYPES.values())

        assert (100 + 3 + 1, 56 - 1) == (len(TYPES), audited)

    @pytest.mark.parametrize("name", sorted(TYPES))
    def test_flags_and_fields(self, name: str) -> None:
        """
        Each type has the table's audit flag and fields; what identifies it is required, and
        nothing else.
        """
        audit, fields, needed = table()[name]
        declared = msgspec.structs.fields(TYPES[name])

        assert (audit, fields | ADDED.get(name, set()), needed) == (
            info_of(name).audit,
            {field.name for field in declared},
            {field.name for field in declared if field.required},
        )

    @pytest.mark.parametrize("name", sorted(TYPES))
    def test_class_is_called_like_the_type(self, name: str) -> None:
        """
        A class is called like its dotted name, without the dots; harken's own drop the prefix.
        """
        words = re.split(r"[._]", name.removeprefix("harken."))

        assert "".join(word.capitalize() for word in words) == TYPES[name].__name__

    @pytest.mark.parametrize("name", sorted(TYPES))
    def test_found_by_name(self, name: str) -> None:
        """
        Every type is found under its dotted name.
        """
        assert TYPES[name] is find(name)

    def test_found_without_importing_the_catalog(self) -> None:
        """
        A reader finds the catalog's types although nobody imported them.
        """
        code = "import harken; print(harken.find('tool.started').__qualname__)"

        found = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, check=False, text=True
        )

        assert ("ToolStarted\n", "") == (found.stdout, found.stderr)

    def test_near_matches_are_named(self) -> None:
        """
        A misspelt name is answered with the names that it resembles.
        """
        with pytest.raises(UnknownEventError, match=r"did you mean tool\.started"):
            find("tool.strated")

    def test_clash_names_both_classes(self) -> None:
        """
        Whoever takes a name of the catalog is told by whom it is taken.
        """
        with pytest.raises(EventNameClashError) as clash:

            class Mine(Event, name="tool.started"):
                pass

        assert "Mine" in str(clash.value)
        assert "harken.catalog.tool.ToolStarted" in str(clash.value)
        assert ToolStarted is find("tool.started")

    @pytest.mark.parametrize("prefix", ["harken", "audit"])
    def test_reserved_names_are_refused(self, prefix: str) -> None:
        """
        Nobody else declares events that look like harken's own, or like control records.
        """
        with pytest.raises(harken.HarkenError, match="choose another first word"):

            class Forged(Event, name=f"{prefix}.forged"):
                pass


class TestDeclarations:
    def test_action_and_resource_are_written_out(self) -> None:
        """
        Every type says itself what was done to what; nothing is guessed or inherited.
        """
        silent = [
            node.name
            for path in sorted(Path(catalog.__file__).parent.glob("*.py"))
            for node in ast.parse(path.read_text(encoding="utf-8")).body
            if isinstance(node, ast.ClassDef)
            and "name" in {keyword.arg for keyword in node.keywords}
            and not {"action", "resource"} <= {keyword.arg for keyword in node.keywords}
        ]

        assert [] == silent

    @pytest.mark.parametrize("name", sorted(TYPES))
    def test_resource_can_always_be_filled(self, name: str) -> None:
        """
        What a resource is made of is required, an operation's key, or known to the bus; an end
        takes it from its start.
        """
        info = info_of(name)
        if info.ends is not None:
            assert describe(info.ends).resource == info.resource
            return
        used = {field for _, field, _, _ in Formatter().parse(info.resource) if field}
        given = table()[name][2] | set(info.key) | (SCOPE_NAMES - set(info.fields))

        assert used
        assert used <= given

    def test_operations(self) -> None:
        """
        Exactly these types open operations, with these ends, success first.
        """
        found = {
            name: [describe(end).name for end in describe(cls).terminals]
            for name, cls in TYPES.items()
            if describe(cls).is_start
        }

        assert OPERATIONS == found

    def test_keys(self) -> None:
        """
        Starts and their ends are paired by these keys.
        """
        found = {
            name: (describe(cls).key, {describe(end).key for end in describe(cls).terminals})
            for name, cls in TYPES.items()
            if describe(cls).is_start
        }

        assert {name: (key, {key}) for name, key in KEYS.items()} == found

    @pytest.mark.parametrize("name", sorted(OPERATIONS))
    def test_ends_share_an_action(self, name: str) -> None:
        """
        The ends of an operation differ in outcome, not in what was done.
        """
        actions = {info_of(end).action for end in OPERATIONS[name]}

        assert 1 == len(actions)

    @pytest.mark.parametrize("name", sorted(TYPES))
    def test_content_has_digest_and_size(self, name: str) -> None:
        """
        Where content is not kept, its digest and size still are.
        """
        info = info_of(name)

        for field in info.content:
            assert {f"{field}_digest", f"{field}_size"} <= set(info.fields) or {
                "digest",
                "size",
            } <= set(info.fields)

    @pytest.mark.parametrize("name", sorted(TYPES))
    def test_documented(self, name: str) -> None:
        """
        Every type says what happened, and names the words that its fields usually hold.
        """
        cls = TYPES[name]
        text = inspect.cleandoc(cls.__dict__["__doc__"])
        words = [
            word
            for hint in typing.get_type_hints(cls, include_extras=True).values()
            for meta in getattr(hint, "__metadata__", ())
            for word in meta.examples or ()
            if ":" not in word
        ]

        assert text.partition("\n")[0].endswith((".", ";"))
        assert [] == [word for word in words if f"``{word}``" not in text]

    def test_only_pieces_of_answers_are_transient(self) -> None:
        """
        What a model streams stays in memory; the whole block is recorded.
        """
        transient = [name for name in TYPES if info_of(name).transient]

        assert ["llm.chunk"] == transient


class TestOutcome:
    @pytest.mark.parametrize(
        ("name", "outcome"),
        sorted((name, outcome) for outcome, names in OUTCOMES.items() for name in names.split()),
    )
    def test_declared(self, bus: Bus, name: str, outcome: str) -> None:
        """
        What happened has an outcome without its author's help.
        """
        cls = TYPES[name]
        needed = {
            field.name: 1 if field.type is int else "x"
            for field in msgspec.structs.fields(cls)
            if field.required
        }

        envelope = bus.publish(cls(**needed))

        assert envelope is not None
        assert Outcome(outcome) is envelope.outcome

    def test_every_type_but_a_start_has_one(self) -> None:
        """
        Only what opens an operation has no outcome yet.
        """
        listed = [name for names in OUTCOMES.values() for name in names.split()]

        assert sorted(TYPES) == sorted([*listed, *OPERATIONS])

    @pytest.mark.parametrize(("event", "outcome"), DECIDED, ids=repr)
    def test_decided_by_a_field(self, bus: Bus, event: Event, outcome: str) -> None:
        """
        A field that tells how it went decides the outcome; a word nobody knows is ``unknown``.
        """
        envelope = bus.publish(event)

        assert envelope is not None
        assert Outcome(outcome) is envelope.outcome

    @pytest.mark.parametrize("name", sorted(OPERATIONS))
    def test_of_operations(self, bus: Bus, heard: list[Envelope[Event]], name: str) -> None:
        """
        An operation that is completed, failed, denied or cancelled ends with the type for it,
        and the end knows what its start knew.
        """
        starts = {event.__class__: event for event in EXAMPLES}
        start = starts[TYPES[name]]

        with bus.operation(start):
            pass
        with bus.operation(start) as failed:
            failed.fail("broken")
        with bus.operation(start) as denied:
            denied.deny("no")
        with bus.operation(start) as cancelled:
            cancelled.cancel("enough")

        ends = heard[1::2]
        shared = set(info_of(name).key) & set(info_of(name).fields)
        assert ENDINGS[name] == tuple(end.name for end in ends)
        assert [
            Outcome.success,
            Outcome.failure,
            Outcome.denied,
            Outcome.cancelled,
        ] == [end.outcome for end in ends]
        assert [{field: getattr(start, field) for field in shared}] * 4 == [
            {field: getattr(end.event, field) for field in shared} for end in ends
        ]


class TestSchema:
    @pytest.mark.parametrize("name", sorted(TYPES))
    def test_is_valid(self, name: str) -> None:
        """
        Every type has a JSON Schema that other tools accept.
        """
        document = schema(TYPES[name])

        jsonschema.Draft202012Validator.check_schema(document)
        assert (name, TYPES[name].__struct_fields__) == (
            document["title"],
            tuple(document["properties"]),
        )

    @pytest.mark.parametrize("event", EXAMPLES, ids=harken.event_name)
    def test_accepts_examples(self, event: Event) -> None:
        """
        What harken writes, the schema of its type accepts.
        """
        validator = jsonschema.Draft202012Validator(
            schema(event), format_checker=jsonschema.FormatChecker()
        )

        validator.validate(msgspec.json.decode(msgspec.json.encode(event)))

    @pytest.mark.parametrize("name", sorted(TYPES))
    def test_refuses_what_lacks_an_identity(self, name: str) -> None:
        """
        The schema demands what identifies the thing.
        """
        assert table()[name][2] == set(schema(TYPES[name])["required"])

    def test_shows_units(self) -> None:
        """
        A number whose name ends in a unit has that unit in its schema.
        """
        units = {"_ms": "ms", "_tokens": "tokens", "_usd": "USD", "_size": "bytes", "_s": "s"}
        found = {}
        wanted = {}
        for name, cls in TYPES.items():
            for field, member in schema(cls)["properties"].items():
                for suffix, unit in units.items():
                    if field.endswith(suffix):
                        shown = [member, *member.get("anyOf", ())]
                        wanted[name, field] = [unit]
                        found[name, field] = [part["x-unit"] for part in shown if "x-unit" in part]

        assert wanted == found
        assert len(wanted) > 60

    def test_shows_known_words(self) -> None:
        """
        The words that a field usually holds are the examples of its schema.
        """
        effect = schema(ToolStarted)["properties"]["effect"]

        assert ["read", "write", "unknown"] == effect["examples"]
        assert "enum" not in effect

    def test_shows_content(self) -> None:
        """
        Content is marked as such, with its kind.
        """
        found = {
            (name, field, member["x-content"])
            for name, cls in TYPES.items()
            for field, member in schema(cls)["properties"].items()
            if "x-content" in member
        }

        assert {
            ("approval.requested", "prompt", "text"),
            ("command.completed", "params", "arguments"),
            ("command.started", "params", "arguments"),
            ("human_input.received", "response", "text"),
            ("human_input.requested", "question", "text"),
            ("message.added", "content", "messages"),
            ("run.completed", "result", "result"),
            ("run.started", "prompt", "text"),
            ("text.emitted", "text", "text"),
            ("thinking.emitted", "thinking", "thinking"),
            ("tool.completed", "result", "result"),
            ("tool.started", "arguments", "arguments"),
        } == found


NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
INTEGERS = st.integers(-(2**53) + 1, 2**53 - 1)
VALUES = st.recursive(
    st.none() | st.booleans() | INTEGERS | NUMBERS | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
BY_TYPE: dict[object, st.SearchStrategy[object]] = {
    typing.Any: VALUES,
    bool: st.booleans(),
    int: INTEGERS,
    float: NUMBERS,
    str: st.text(),
    datetime: st.datetimes(timezones=st.just(UTC)),
    tuple[str, ...]: st.lists(st.text()).map(tuple),
    type(None): st.none(),
}


def of_type(hint: object) -> st.SearchStrategy[object]:
    if hint in BY_TYPE:
        return BY_TYPE[hint]
    return st.one_of([BY_TYPE[part] for part in typing.get_args(hint)])


def events_of(cls: type[Event]) -> st.SearchStrategy[Event]:
    """
    Return events of one type with anything in their fields, or their defaults.
    """
    needed = {field.name for field in msgspec.structs.fields(cls) if field.required}
    values = {name: of_type(hint) for name, hint in typing.get_type_hints(cls).items()}
    return st.fixed_dictionaries(
        {name: value for name, value in values.items() if name in needed},
        optional={name: value for name, value in values.items() if name not in needed},
    ).map(lambda fields: cls(**fields))


class TestRoundTrip:
    @pytest.mark.parametrize("name", sorted(TYPES))
    @settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
    @given(data=st.data())
    def test_json(self, name: str, data: st.DataObject) -> None:
        """
        What is written as JSON is read back as the same event, from text and from a mapping.
        """
        event = data.draw(events_of(TYPES[name]))

        written = msgspec.json.encode(event)

        assert event == decode(name, written)
        assert event == decode(name, msgspec.json.decode(written))

    @pytest.mark.parametrize("event", EXAMPLES, ids=harken.event_name)
    def test_through_the_bus(self, bus: Bus, event: Event) -> None:
        """
        What leaves the process is the same event: no field is taken for a secret because of its
        name, and only digests and sizes of content are added.
        """
        with harken.scope(session_id="s-1", run_id="r-1"):
            envelope = bus.publish(event)

        assert envelope is not None
        assert {} == dict(envelope.redacted)
        assert "unknown" != envelope.resource
        assert event == without_summaries(decode(envelope.name, envelope.body), event)

    @pytest.mark.parametrize(
        ("name", "data"),
        [
            ("tool.started", {"tool_name": "x", "effect": "quantum", "tool_type": "psychic"}),
            ("policy.evaluated", {"policy_id": "p", "decision": "shrug"}),
            ("budget.exceeded", {"budget_type": "patience", "scope": "galaxy"}),
        ],
    )
    def test_unknown_words_are_read(self, name: str, data: dict[str, str]) -> None:
        """
        A word that the catalog does not know is kept: a violation that cannot be recorded is
        worse than one with a strange name.
        """
        event = decode(name, data)

        assert data == {field: getattr(event, field) for field in data}

    def test_unknown_fields_are_ignored(self) -> None:
        """
        A record that a later version wrote is still read.
        """
        event = decode("tool.started", {"tool_name": "search", "colour": "blue"})

        assert ToolStarted(tool_name="search") == event

    @pytest.mark.parametrize(
        "data",
        [{}, {"approval_id": 7}, {"approval_id": "q", "expires_at": "2026-11-21T12:00:00"}],
        ids=["without identity", "wrong type", "time without zone"],
    )
    def test_wrong_data_is_refused(self, data: dict[str, object]) -> None:
        """
        Data from outside must fit the type, and a time must say in which zone.
        """
        with pytest.raises(EventDataError, match=r"approval\.requested"):
            decode("approval.requested", data)


def without_summaries(event: Event, like: Event) -> Event:
    """
    Return *event* with the digests and sizes of content as *like* has them.
    """
    info = describe(event)
    summaries = {
        name
        for field in info.content
        for name in (f"{field}_digest", f"{field}_size", "digest", "size")
        if name in info.fields
    }
    return msgspec.structs.replace(event, **{name: getattr(like, name) for name in summaries})


class TestPublishers:
    def test_every_type_has_one(self) -> None:
        """
        Somebody publishes every type: the demo, the bus, a framework's callback or an author.
        """
        listed = [
            *PUBLISHERS["demo"],
            *PUBLISHERS["bus"],
            *PUBLISHERS["author"],
            *PUBLISHERS["framework"],
        ]

        assert sorted(TYPES) == sorted(listed)

    def test_adapters_are_named_with_what_they_tell(self) -> None:
        """
        What an adapter publishes says which adapter, and from what its framework says.
        """
        adapters = {path.stem for path in Path(harken.__file__).with_name("adapters").glob("*.py")}

        for sources in PUBLISHERS["framework"].values():
            assert sources
            assert sources.keys() <= adapters
            assert all(sources.values())

    def test_examples_run(self, bus: Bus, heard: list[Envelope[Event]]) -> None:
        """
        An author can publish every type as the examples show, one after the other, and each
        arrives as it was given.
        """
        with harken.scope(session_id="s-1", run_id="r-1"):
            for event in EXAMPLES:
                bus.publish(event)
        bus.flush(timeout=5)

        published = [type(event) for event in EXAMPLES]
        assert set(TYPES.values()) == set(published)
        # A run ends once: the two further ends that the examples show are refused.
        refused = [RunFailed, RunCancelled]
        assert [cls for cls in published if cls not in refused] == [
            type(envelope.event) for envelope in heard
        ]

    def test_bus_reports_a_sink_that_failed(self, bus: Bus, heard: list[Envelope[Event]]) -> None:
        """
        A sink that raises is reported on the bus.
        """

        class Broken:
            name = "broken"

            def write(self, batch: Sequence[Envelope[Event]], /) -> None:
                raise OSError("disk full")

        bus.attach(Broken(), delivery="inline")

        bus.publish(TextEmitted(text="hello"))

        reports = [envelope.event for envelope in heard if envelope.name == "harken.sink_failed"]
        assert [SinkFailed(sink="broken", error_type="OSError", failures=1)] == reports

    def test_bus_reports_an_orphan(self, bus: Bus, heard: list[Envelope[Event]]) -> None:
        """
        An operation that its author left open is closed, and reported on the bus.
        """
        started = bus.publish(ToolStarted(tool_call_id="t-1", tool_name="search"))
        assert started is not None

        bus.close()

        (report,) = [e.event for e in heard if isinstance(e.event, ScopeOrphaned)]
        assert ("tool", "t-1", started.id) == (report.kind, report.id, report.started_event_id)
        assert ["tool.failed"] == [e.name for e in heard if e.outcome is Outcome.orphaned][:1]

    def test_bus_reports_a_gap(self, bus: Bus, heard: list[Envelope[Event]]) -> None:
        """
        A sink that is too slow is told of with the exact number of events that it missed.
        """
        busy = threading.Event()
        go_on = threading.Event()

        class Slow:
            name = "slow"

            def write(self, batch: Sequence[Envelope[Event]], /) -> None:
                busy.set()
                go_on.wait(timeout=30)

        bus.attach(Slow(), TextEmitted, delivery="isolated", capacity=1)
        bus.publish(TextEmitted(text="the first"))
        assert busy.wait(timeout=30)
        for _ in range(5):
            bus.publish(TextEmitted(text="one of many"))
        go_on.set()
        bus.close()

        reports = [e.event for e in heard if isinstance(e.event, EventsDropped)]
        assert [("slow", "queue_full")] == list({(r.sink, r.reason) for r in reports})
        assert 4 == sum(report.count for report in reports)


class TestAliases:
    def test_all_sixty_words(self) -> None:
        """
        Every word of the four vocabularies has its types.
        """
        counts = {name: len(words) for name, words in VOCABULARIES.items()}

        assert {
            "agent_audit": 6,
            "domain_events": 43,
            "action_trail": 10,
            "command_audit": 1,
        } == counts

    @pytest.mark.parametrize("vocabulary", sorted(VOCABULARIES))
    def test_all_land(self, vocabulary: typing.Any) -> None:
        """
        Every word stands for types of the catalog, and no type has two words.
        """
        names = [name for names in VOCABULARIES[vocabulary].values() for name in names]

        assert [] == [name for name in names if name not in TYPES]
        assert len(set(names)) == len(names)

    def test_same_word_for_every_outcome(self) -> None:
        """
        A word that does not tell outcomes apart stands for all of them.
        """
        trail = ("tool.started", "tool.completed", "tool.failed", "tool.denied", "pr.created")

        words = [alias_of(name, "action_trail") for name in trail]

        assert ["tool_call", "tool_result", "tool_result", "tool_result", "pr_created"] == words

    def test_no_word(self) -> None:
        """
        What a vocabulary does not speak of has no word in it.
        """
        assert alias_of("llm.chunk", "domain_events") is None
