"""
What other vocabularies call the events of the catalog.
"""

from collections.abc import Mapping
from functools import cache
from types import MappingProxyType
from typing import Literal, TypeAlias

Vocabulary: TypeAlias = Literal["agent_audit", "domain_events", "action_trail", "command_audit"]

VOCABULARIES: Mapping[Vocabulary, Mapping[str, tuple[str, ...]]] = {
    # The records of an agent service.
    "agent_audit": {
        "audit.agent.started": ("run.started",),
        "audit.agent.text": ("text.emitted",),
        "audit.agent.thinking": ("thinking.emitted",),
        "audit.agent.tool.call": ("tool.started",),
        "audit.agent.tool.result": ("tool.completed", "tool.failed", "tool.denied"),
        "audit.agent.completed": ("run.completed", "run.failed", "run.cancelled"),
    },
    # The domain events of an agent framework.
    "domain_events": {
        "plan.created": ("plan.created",),
        "plan.phase_changed": ("plan.phase_changed",),
        "plan.state_changed": ("plan.state_changed",),
        "plan.applied": ("plan.applied",),
        "plan.cancelled": ("plan.cancelled",),
        "plan.errored": ("plan.failed",),
        "decision.created": ("decision.created",),
        "decision.approved": ("decision.approved",),
        "decision.corrected": ("decision.corrected",),
        "decision.superseded": ("decision.superseded",),
        "invariant.reconciled": ("invariant.reconciled",),
        "invariant.violated": ("invariant.violated",),
        "invariant.enforced": ("invariant.enforced",),
        "actor.invoked": ("agent.started",),
        "actor.completed": ("agent.completed",),
        "actor.errored": ("agent.failed",),
        "actor.escalated": ("agent.escalated",),
        "tool.invoked": ("tool.started",),
        "tool.completed": ("tool.completed",),
        "tool.errored": ("tool.failed",),
        "tool.retried": ("tool.retried",),
        "resource.accessed": ("resource.accessed",),
        "resource.modified": ("resource.modified",),
        "resource.indexed": ("resource.indexed",),
        "sandbox.created": ("sandbox.created",),
        "sandbox.committed": ("sandbox.committed",),
        "sandbox.rolled_back": ("sandbox.rolled_back",),
        "checkpoint.created": ("checkpoint.created",),
        "checkpoint.restored": ("checkpoint.restored",),
        "context.built": ("context.assembled",),
        "context.query_executed": ("context.queried",),
        "validation.started": ("validation.started",),
        "validation.passed": ("validation.passed",),
        "validation.failed": ("validation.failed",),
        "session.created": ("session.started",),
        "session.closed": ("session.ended",),
        "budget.warning": ("budget.warning",),
        "budget.exceeded": ("budget.exceeded",),
        "correction.applied": ("correction.applied",),
        "config.changed": ("config.changed",),
        "entity.deleted": ("entity.deleted",),
        "auth.success": ("auth.succeeded",),
        "auth.failure": ("auth.failed",),
    },
    # The action trail of infrastructure agents.
    "action_trail": {
        "tool_call": ("tool.started",),
        "tool_result": ("tool.completed", "tool.failed", "tool.denied"),
        "credential_issued": ("credential.issued",),
        "policy_evaluated": ("policy.evaluated",),
        "pipeline_triggered": ("pipeline.triggered",),
        "pr_created": ("pr.created",),
        "human_input_requested": ("human_input.requested",),
        "human_input_received": ("human_input.received",),
        "error": ("error.raised",),
        "budget_warning": ("budget.warning",),
    },
    # The audit log of a command-line tool; its entries have no name of their own.
    "command_audit": {
        "audit_entry": ("command.completed",),
    },
}
"""From a vocabulary to its words, and from a word to the types that it stands for, by outcome."""


def alias_of(name: str, vocabulary: Vocabulary) -> str | None:
    """
    Return what *vocabulary* calls the type *name*; None when it has no word for it.
    """
    return _words(vocabulary).get(name)


@cache
def _words(vocabulary: Vocabulary) -> Mapping[str, str]:
    return MappingProxyType(
        {name: word for word, names in VOCABULARIES[vocabulary].items() for name in names}
    )
