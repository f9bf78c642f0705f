"""
How operations become spans: one table of names, kinds and attributes, and nothing else.

The GenAI names are those that opentelemetry-util-genai 1.3b0 emits, which are the semantic
conventions 1.41.0 with ``cache_write`` for ``cache_creation``. What has no convention yet is
called ``harken.*``. All of these names are still marked "Development" by OpenTelemetry: when they
change, this file changes, and `VERSION` with it.

A *source* says where a value comes from:

======================  ===========================================================================
``tool_name``           a field of the terminal event, or of the start where the terminal has none
``steps:nonzero``       the same, but 0 and false count as empty: nobody filled them in
``ttft_ms:seconds``     the same, from milliseconds to seconds
``@session_id``         a member of the envelope; besides, ``@agent`` is the id of an ``agent:``
                        actor or else the scope attribute ``agent_slug``, ``@duration_ms`` the
                        length of the span, and ``@present`` true
``#organization_id``    an attribute of the scope
======================  ===========================================================================

Empty values (None and ``""``) make no attribute. The order is by importance: what does not fit
under the limit of attributes is cut off at the end.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

import msgspec

VERSION = "1"
"""Of this table; exported as the attribute ``harken.mapping.version`` of the scope."""

LATEST_OPT_IN = "gen_ai_latest_experimental"
"""What ``OTEL_SEMCONV_STABILITY_OPT_IN`` says to get `LATEST`; the version then ends in it."""

OPERATION_NAME = "gen_ai.operation.name"
"""The attribute that says which of the conventions' operations a span is."""

Kind = Literal["internal", "client"]
Sources = tuple[tuple[str, str], ...]


class SpanMapping(msgspec.Struct, frozen=True):
    """
    The span of one kind of operation.

    Attributes:
        name: Words and ``{sources}``; those whose source is empty are left out.

        operation: ``gen_ai.operation.name``, where the conventions have one; a source in braces
            is replaced, and the text after ``|`` stands for it where it is empty.

        kind: The span's kind.

        client_if: A field and the value that makes the kind "client".

        client_is: What such a client's span says besides, attribute and value.

        attributes: Attribute and source.

        prefixed: The same, for attributes under the application's own prefix.

        content: Attribute and source of what is only exported with ``content=True``.

        exception: The name of the log event for an exception that ended it.

        again: The attributes that say what the operation is about; the span of the next one
            about the same thing has a link to this one, because it tries or goes on once more.

        again_anywhere: Whether that is so in another run, too.
    """

    name: str
    operation: str = ""
    kind: Kind = "internal"
    client_if: tuple[str, str] | None = None
    client_is: tuple[tuple[str, str], ...] = ()
    attributes: Sources = ()
    prefixed: Sources = ()
    content: Sources = ()
    exception: str = "harken.operation.exception"
    again: tuple[str, ...] = ()
    again_anywhere: bool = False


COMMON: Sources = (
    ("harken.outcome", "@outcome"),
    ("gen_ai.conversation.id", "@session_id"),
    ("harken.run.id", "@run_id"),
    ("harken.session.id", "@session_id"),
    ("harken.correlation.id", "@correlation_id"),
    ("harken.event.id", "@id"),
    ("harken.started_event.id", "@started_event_id"),
    ("harken.request.id", "@request_id"),
    ("harken.parent_run.id", "@parent_run_id"),
    ("harken.actor", "@actor"),
    ("harken.on_behalf_of", "@on_behalf_of"),
    ("harken.phase", "@phase"),
    ("harken.source", "@source"),
)
"""On every span, after the operation's own attributes."""

COMMON_PREFIXED: Sources = (
    ("session.id", "@session_id"),
    ("run.id", "@run_id"),
    ("request.id", "@request_id"),
    ("correlation.id", "@correlation_id"),
    ("slug", "@agent"),
    ("organization.id", "#organization_id"),
)
"""The same, under the application's own prefix."""

_USAGE: Sources = (
    ("gen_ai.usage.input_tokens", "input_tokens:nonzero"),
    ("gen_ai.usage.output_tokens", "output_tokens:nonzero"),
    ("gen_ai.usage.reasoning.output_tokens", "reasoning_tokens:nonzero"),
    ("harken.usage.cost_usd", "cost_usd"),
)

SPANS: Mapping[str, SpanMapping] = MappingProxyType(
    {
        "session.started": SpanMapping(
            name="invoke_workflow session",
            operation="invoke_workflow",
            attributes=(
                ("gen_ai.agent.name", "agent_slug"),
                ("harken.trigger.source", "trigger_source"),
                ("harken.session.resumed", "resumed:nonzero"),
                ("harken.session.reason", "reason"),
                ("harken.session.runs", "runs:nonzero"),
            ),
            prefixed=(("slug", "agent_slug"), ("trigger.source", "trigger_source")),
            again=("harken.session.id",),
            again_anywhere=True,
        ),
        "run.started": SpanMapping(
            name="invoke_agent {@agent}",
            operation="invoke_agent",
            attributes=(
                ("gen_ai.agent.name", "@agent"),
                ("gen_ai.request.model", "model"),
                *_USAGE,
                ("gen_ai.usage.cache_read.input_tokens", "cached_tokens:nonzero"),
                ("harken.task.type", "task_type"),
                ("harken.task.priority", "task_priority"),
                ("harken.trigger.source", "trigger_source"),
                ("harken.iteration.count", "iterations:nonzero"),
                ("harken.iteration.max", "max_iterations"),
                ("harken.tool_calls.count", "tool_calls:nonzero"),
                ("harken.stop_reason", "stop_reason"),
                ("harken.cancel.reason", "reason"),
                ("harken.cancelled_by", "cancelled_by"),
                ("harken.run.provider", "provider"),
                ("harken.run.phase", "phase"),
                ("harken.prompt.digest", "prompt_digest"),
                ("harken.prompt.size", "prompt_size:nonzero"),
                ("harken.result.digest", "result_digest"),
                ("harken.result.size", "result_size:nonzero"),
                ("harken.tools", "tools"),
            ),
            prefixed=(
                ("task.type", "task_type"),
                ("task.priority", "task_priority"),
                ("trigger.source", "trigger_source"),
                ("iteration.count", "iterations:nonzero"),
                ("iteration.max", "max_iterations"),
                ("tokens.input", "input_tokens:nonzero"),
                ("tokens.output", "output_tokens:nonzero"),
                ("tool_calls.count", "tool_calls:nonzero"),
                ("perf.total_duration_ms", "@duration_ms"),
            ),
            content=(("harken.prompt.text", "prompt"), ("harken.result.content", "result")),
            again=("harken.run.id",),
            again_anywhere=True,
        ),
        "turn.started": SpanMapping(
            name="harken.turn",
            attributes=(("harken.turn.iteration", "iteration"), *_USAGE[:2]),
            prefixed=(
                ("iteration.count", "iteration"),
                ("tokens.input", "input_tokens:nonzero"),
                ("tokens.output", "output_tokens:nonzero"),
            ),
        ),
        "agent.started": SpanMapping(
            name="invoke_agent {agent_name}",
            operation="invoke_agent",
            attributes=(
                ("gen_ai.agent.name", "agent_name"),
                ("harken.agent.id", "agent_id"),
                ("harken.agent.parent_id", "parent_agent_id"),
            ),
        ),
        "plan.created": SpanMapping(
            name="plan {@agent}",
            operation="plan",
            attributes=(
                ("gen_ai.agent.name", "@agent"),
                ("harken.plan.id", "plan_id"),
                ("harken.plan.root_id", "root_plan_id"),
                ("harken.plan.parent_id", "parent_plan_id"),
                ("harken.plan.steps", "steps"),
                ("harken.plan.project", "project"),
                ("harken.plan.files_changed", "files_changed:nonzero"),
                ("harken.plan.phase", "phase"),
                ("harken.plan.reason", "reason"),
                ("harken.plan.validation_summary", "validation_summary"),
                ("harken.plan.resources_released", "resources_released"),
            ),
        ),
        "plan.step_started": SpanMapping(
            name="harken.plan_step",
            attributes=(
                ("harken.plan.id", "plan_id"),
                ("harken.plan.step_number", "step_number"),
                ("harken.plan.step_description", "step_description"),
            ),
            again=("harken.plan.id", "harken.plan.step_number"),
            again_anywhere=True,
        ),
        "phase.started": SpanMapping(
            name="harken.phase {phase}",
            attributes=(("harken.phase.name", "phase"),),
        ),
        "tool.started": SpanMapping(
            name="execute_tool {tool_name}",
            operation="execute_tool",
            client_if=("tool_type", "mcp"),
            client_is=(("mcp.method.name", "tools/call"),),
            attributes=(
                ("gen_ai.tool.name", "tool_name"),
                ("gen_ai.tool.call.id", "tool_call_id"),
                ("gen_ai.agent.name", "@agent"),
                ("gen_ai.tool.type", "tool_type"),
                ("harken.tool.server", "server"),
                ("harken.tool.effect", "effect"),
                ("harken.tool.attempt", "attempt"),
                ("harken.tool.from_cache", "from_cache:nonzero"),
                ("harken.tool.retryable", "retryable"),
                ("harken.tool.arguments_digest", "arguments_digest"),
                ("harken.tool.arguments_size", "arguments_size:nonzero"),
                ("harken.tool.result_digest", "result_digest"),
                ("harken.tool.result_size", "result_size:nonzero"),
                ("harken.denied.rule", "rule"),
                ("harken.denied.reason", "reason"),
                ("harken.denied.by", "decided_by"),
            ),
            content=(
                ("gen_ai.tool.call.arguments", "arguments"),
                ("gen_ai.tool.call.result", "result"),
            ),
            exception="gen_ai.execute_tool.exception",
            again=("gen_ai.tool.call.id",),
        ),
        "llm.started": SpanMapping(
            name="{operation|chat} {model}",
            operation="{operation|chat}",
            kind="client",
            attributes=(
                ("gen_ai.provider.name", "provider"),
                ("gen_ai.request.model", "model"),
                ("gen_ai.response.model", "response_model"),
                *_USAGE[:3],
                ("gen_ai.usage.cache_read.input_tokens", "cache_read_tokens:nonzero"),
                ("gen_ai.usage.cache_write.input_tokens", "cache_write_tokens:nonzero"),
                ("harken.usage.cost_usd", "cost_usd"),
                ("gen_ai.response.finish_reasons", "finish_reasons"),
                ("gen_ai.response.id", "response_id"),
                ("gen_ai.response.time_to_first_chunk", "ttft_ms:seconds"),
                ("gen_ai.request.stream", "streaming:nonzero"),
                ("gen_ai.request.temperature", "temperature"),
                ("gen_ai.request.max_tokens", "max_tokens"),
                ("gen_ai.agent.name", "@agent"),
                ("http.response.status_code", "status_code"),
                ("harken.llm.call_id", "llm_call_id"),
                ("harken.llm.message_count", "message_count:nonzero"),
                ("harken.llm.tool_count", "tool_count:nonzero"),
                ("harken.llm.context_hash", "context_hash"),
                ("harken.llm.retryable", "retryable"),
            ),
            prefixed=(
                ("tokens.input", "input_tokens:nonzero"),
                ("tokens.output", "output_tokens:nonzero"),
            ),
            exception="gen_ai.client.operation.exception",
            again=("harken.llm.call_id",),
        ),
        "validation.started": SpanMapping(
            name="harken.validation {validator}",
            attributes=(
                ("harken.validation.validator", "validator"),
                ("harken.validation.target", "target"),
                ("harken.validation.checks", "checks:nonzero"),
                ("harken.validation.failures", "failures:nonzero"),
            ),
        ),
        "command.started": SpanMapping(
            name="harken.command {command}",
            attributes=(
                ("harken.command.name", "command"),
                ("process.exit.code", "exit_code"),
                ("harken.command.effect", "effect"),
                ("harken.command.operator", "operator"),
                ("harken.command.tool_version", "tool_version"),
                ("harken.command.params_digest", "params_digest"),
                ("harken.command.params_size", "params_size:nonzero"),
            ),
            content=(("harken.command.params", "params"),),
        ),
    }
)
"""By the dotted name of the start. An operation that is not here gets a generic span."""

_LATEST_AGENT = {"gen_ai.usage.cache_read.input_tokens": "harken.usage.cached_tokens"}

LATEST: Mapping[str, SpanMapping] = MappingProxyType(
    {
        **SPANS,
        "run.started": msgspec.structs.replace(
            SPANS["run.started"],
            attributes=tuple(
                (_LATEST_AGENT.get(key, key), source)
                for key, source in SPANS["run.started"].attributes
            ),
        ),
    }
)
"""
The same with the newest names, those that come after the conventions 1.41.0: a span of an agent
in this process has no attributes for cached tokens any more.
"""

GENERIC_PREFIX = "harken.data."
"""Before the field names of operations that have no entry, and of span events."""

POINTS: Mapping[str, Sources] = MappingProxyType(
    {
        "credential.issued": (
            ("credential.issued", "@present"),
            ("credential.scope", "scope"),
            ("credential.expires_at", "expires_at"),
        ),
        "task.dequeued": (("queue.depth", "depth"), ("queue.wait_ms", "wait_ms")),
        "repo.cloned": (("perf.repo_clone_ms", "duration_ms"),),
        "pipeline.completed": (("perf.pipeline_wait_ms", "wait_ms"),),
    }
)
"""What point events add, under the application's own prefix, to the span they happen in."""

LINKED: frozenset[str] = frozenset(("task.enqueued",))
"""Point events whose span is linked to by what they cause, as a start's and an end's always is."""

PHASES: Mapping[str, str] = MappingProxyType(
    {
        "session_restore": "perf.session_restore_ms",
        "repo_clone": "perf.repo_clone_ms",
        "pipeline_wait": "perf.pipeline_wait_ms",
    }
)
"""What phases add, under the same prefix, to their own span and to the span around them."""
