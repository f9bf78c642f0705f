"""
Traces of the OpenAI Agents SDK, as its exporters write them: traces and spans, one a line or many.
"""

from __future__ import annotations

from typing import Any

from harken import Bus, Event
from harken.adapters._runs import parsed
from harken.adapters.transcripts._runs import (
    Message,
    Runs,
    TranscriptClock,
    items,
    member,
    moment_of,
    nanoseconds,
    number,
)
from harken.adapters.transcripts._spans import SpanRow, SpanRows
from harken.catalog import (
    AgentHandoff,
    AgentStarted,
    GuardEvaluated,
    LlmStarted,
    ToolStarted,
    TurnStarted,
)


class OpenAITraceReader:
    """
    Publishes each trace as a run, when all of its spans are known.

    A trace does not say how its run ended: it counts as a success unless one of its outermost
    spans has an error.
    """

    def __init__(self, bus: Bus, clock: TranscriptClock) -> None:
        self._runs = Runs(bus, source="openai-agents", provider="openai")
        self._rows = SpanRows(bus, clock, source="openai-agents")
        self.malformed = self._runs.malformed

    def read(self, message: Message) -> None:
        """
        Take a trace, a span, or an object with a list of them as ``data``.
        """
        for item in items(message.get("data")):
            self.read(item)
        if message.get("object") == "trace.span":
            self._span(message)

    def close(self) -> None:
        """
        Publish what was read.
        """
        self._rows.tell()

    def _span(self, span: Message) -> None:
        began, ended = moment_of(span.get("started_at")), moment_of(span.get("ended_at"))
        if began is None:
            return
        data, error = member(span, "span_data"), member(span, "error")
        event, point = _events(str(span.get("id")), data)
        row = SpanRow(
            id=str(span.get("id")),
            trace_id=str(span.get("trace_id")),
            parent_id=str(span["parent_id"]) if span.get("parent_id") else None,
            started_ns=nanoseconds(began),
            ended_ns=None if ended is None else nanoseconds(ended),
            event=event,
            point=point,
            fields=_fields(event, data),
        )
        if error:
            about = member(error, "data")
            row.outcome = "failure"
            row.fields = {}
            if not isinstance(event, TurnStarted):
                row.fields["error_type"] = str(error.get("message") or "")
            if not isinstance(event, (TurnStarted, LlmStarted)):
                row.fields["error_message"] = str(about.get("error") or error.get("message"))
        self._rows.add(row)


def _events(span_id: str, data: dict[str, Any]) -> tuple[Event | None, Event | None]:
    kind = data.get("type")
    name = str(data.get("name") or "unknown")
    if kind == "agent":
        return AgentStarted(agent_id=name, agent_name=name), None
    if kind == "function":
        tool_type = "mcp" if data.get("mcp_data") else "function"
        arguments = parsed(data.get("input"))
        started = ToolStarted(
            tool_call_id=span_id, tool_name=name, arguments=arguments, tool_type=tool_type
        )
        return started, None
    if kind in ("generation", "response"):
        model = str(data.get("model") or "unknown")
        return LlmStarted(llm_call_id=span_id, provider="openai", model=model), None
    if kind == "handoff":
        giver, taker = str(data.get("from_agent")), str(data.get("to_agent"))
        return None, AgentHandoff(from_agent=giver, to_agent=taker)
    if kind == "guardrail":
        return None, GuardEvaluated(guard_name=name, passed=not data.get("triggered"))
    about = member(data, "data")
    if about.get("sdk_span_type") == "turn":
        return TurnStarted(iteration=number(about, "turn")), None
    return None, None


def _fields(event: Event | None, data: dict[str, Any]) -> dict[str, Any]:
    if isinstance(event, ToolStarted):
        return {"result": data.get("output")}
    if isinstance(event, LlmStarted):
        usage = member(data, "usage")
        return {
            "response_id": data.get("response_id"),
            "input_tokens": number(usage, "input_tokens"),
            "output_tokens": number(usage, "output_tokens"),
        }
    return {}
