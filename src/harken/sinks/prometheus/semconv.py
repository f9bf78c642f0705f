"""
The instruments under the names of OpenTelemetry's GenAI conventions, for dashboards made for those.

The names, labels and buckets are those that opentelemetry-util-genai 1.3b0 emits, as a scrape
shows them: underscores for dots, the unit at the end. All of them are still marked "Development" by
OpenTelemetry: when they change, this file changes. What has no convention yet keeps its name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from harken import Envelope, Event, Outcome
from harken.sinks.prometheus.instruments import (
    CALL,
    INSTRUMENTS,
    LLM_ENDS,
    LONG,
    MILLISECONDS,
    MODEL,
    OPERATION,
    PROVIDER,
    RUN_ENDS,
    SLUG,
    TOOL,
    TOOL_ENDS,
)
from harken.sinks.prometheus.rows import (
    Feed,
    Instrument,
    Label,
    Read,
    duration,
    field,
    given,
    number,
    observes,
)

# A class, a code or a word; a sentence is none.
_WORD = re.compile(r"-?[A-Za-z0-9_][A-Za-z0-9_.:\-]*")

_agent_name = field("agent_name")


def _error_type(envelope: Envelope[Event]) -> object:
    outcome = envelope.outcome
    if outcome is Outcome.timeout:
        return "timeout"
    # What was denied, cancelled or put off did not break.
    if outcome is not Outcome.failure and outcome is not Outcome.orphaned:
        return None
    kind = envelope.error_type
    if kind:
        return kind if _WORD.fullmatch(kind) else "_OTHER"
    return "orphaned" if outcome is Outcome.orphaned else "_OTHER"


def _agent_read(envelope: Envelope[Event]) -> object:
    return _agent_name.read(envelope) or SLUG.read(envelope)


def _agent_shown(envelope: Envelope[Event]) -> object:
    return _agent_name.show(envelope) or SLUG.show(envelope)


def _some(name: str) -> Read:
    """
    Read a number from a field of the event; 0 is what nobody filled in.
    """
    read = number(name)
    return lambda envelope: read(envelope) or None


AGENT = Label(_agent_read, _agent_shown)
ERROR_TYPE = Label(_error_type, _error_type, looks_at=("outcome", "error_type"))

AGENT_CALL = tuple(0.1 * 2**power for power in range(13))
TOKENS = tuple(4.0**power for power in range(14))

_OF_A_MODEL: Mapping[str, Label] = {
    "gen_ai_operation_name": OPERATION,
    "gen_ai_provider_name": PROVIDER,
    "gen_ai_request_model": MODEL,
    "gen_ai_response_model": field("response_model"),
}

REPLACED = frozenset(
    (
        "task_duration_seconds",
        "tokens",
        "tool_call_duration_seconds",
        "llm_request_duration_seconds",
        "llm_time_to_first_chunk_seconds",
    )
)
"""Instruments of the other table that the conventions have a name for."""


def _histogram(
    name: str, help: str, labels: Mapping[str, Label], buckets: tuple[float, ...], *feeds: Feed
) -> Instrument:
    return Instrument(name, "histogram", help, labels, feeds, buckets, exemplars=True, prefix="")


SEMCONV_INSTRUMENTS: tuple[Instrument, ...] = (
    *(one for one in INSTRUMENTS if one.name not in REPLACED),
    _histogram(
        "gen_ai_client_operation_duration_seconds",
        "Duration of requests to models in seconds.",
        {**_OF_A_MODEL, "error_type": ERROR_TYPE},
        CALL,
        observes(duration, *LLM_ENDS),
    ),
    _histogram(
        "gen_ai_client_operation_time_to_first_chunk_seconds",
        "Time to the first chunk of a model's answer, in seconds.",
        _OF_A_MODEL,
        CALL,
        observes(number("ttft_ms"), "llm.completed", per=MILLISECONDS),
    ),
    _histogram(
        "gen_ai_client_token_usage",
        "Tokens that a model read and wrote for one request.",
        {**_OF_A_MODEL, "gen_ai_token_type": given("input", "output")},
        TOKENS,
        observes(_some("input_tokens"), "llm.completed", under={"gen_ai_token_type": "input"}),
        observes(_some("output_tokens"), "llm.completed", under={"gen_ai_token_type": "output"}),
    ),
    _histogram(
        "gen_ai_execute_tool_duration_seconds",
        "Duration of tool calls in seconds.",
        {
            "gen_ai_tool_name": TOOL,
            "gen_ai_tool_type": field("tool_type"),
            "gen_ai_agent_name": SLUG,
            "error_type": ERROR_TYPE,
        },
        CALL,
        observes(duration, *TOOL_ENDS),
    ),
    _histogram(
        "gen_ai_invoke_agent_duration_seconds",
        "Duration of runs, and of the work of each agent in them, in seconds.",
        {"gen_ai_agent_name": AGENT, "gen_ai_request_model": MODEL, "error_type": ERROR_TYPE},
        AGENT_CALL,
        observes(duration, *RUN_ENDS, "agent.completed", "agent.failed"),
    ),
    _histogram(
        "gen_ai_invoke_workflow_duration_seconds",
        "Duration of sessions in seconds.",
        {"error_type": ERROR_TYPE},
        LONG,
        observes(duration, "session.ended"),
    ),
)
"""What the catalog's events feed with ``names="semconv"``."""
