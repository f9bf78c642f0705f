"""
OpenTelemetry spans with the attributes of the conventions for generative AI: in OTLP's JSON, as
collectors write it to files, or a span a line, as console exporters and harken write it.
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
)
from harken.adapters.transcripts._spans import SpanRow, SpanRows
from harken.catalog import AgentStarted, LlmStarted, RunStarted, ToolStarted

_CALLS = {"chat": "chat", "text_completion": "text_completion", "embeddings": "embeddings"}

_ERROR = (2, "STATUS_CODE_ERROR")


class OTelReader:
    """
    Publishes each trace as a run, when all of its spans are known.

    The outermost ``invoke_agent`` is the run, those inside of it are agents. Spans without the
    conventions' attributes are not told; what is inside of them is.
    """

    def __init__(self, bus: Bus, clock: TranscriptClock) -> None:
        self._runs = Runs(bus, source="opentelemetry", provider="")
        self._rows = SpanRows(bus, clock, source="opentelemetry")
        self.malformed = self._runs.malformed

    def read(self, message: Message) -> None:
        """
        Take one request of OTLP, resources with their scopes and spans, or one span.
        """
        if "start_time" in message:
            self._span(_as_otlp(message))
        for resource in items(message.get("resourceSpans") or message.get("resource_spans")):
            for scope in items(resource.get("scopeSpans") or resource.get("scope_spans")):
                for span in items(scope.get("spans")):
                    self._span(span)

    def close(self) -> None:
        """
        Publish what was read.
        """
        self._rows.tell()

    def _span(self, span: Message) -> None:
        found = span.get("attributes")
        attributes: dict[str, Any] = (
            found
            if isinstance(found, dict)
            else {str(one.get("key")): _value(member(one, "value")) for one in items(found)}
        )
        began, ended = _ns(span.get("startTimeUnixNano")), _ns(span.get("endTimeUnixNano"))
        if began is None:
            return
        parent = str(span.get("parentSpanId") or "") or None
        event = _event(str(span.get("spanId")), parent, attributes)
        row = SpanRow(
            id=str(span.get("spanId")),
            trace_id=str(span.get("traceId")),
            parent_id=parent,
            started_ns=began,
            ended_ns=ended,
            event=event,
            fields=_fields(event, attributes),
        )
        status = member(span, "status")
        if status.get("code") in _ERROR:
            kind = str(attributes.get("error.type") or "")
            row.outcome = "timeout" if "timeout" in kind.lower() else "failure"
            row.fields = {"error_type": kind}
            if not isinstance(event, LlmStarted):
                row.fields["error_message"] = str(status.get("message") or "")
        self._rows.add(row)


def _as_otlp(span: Message) -> Message:
    context = member(span, "context") or span
    status = member(span, "status")
    began, ended = moment_of(span.get("start_time")), moment_of(span.get("end_time"))
    return {
        "traceId": _hex(context.get("trace_id")),
        "spanId": _hex(context.get("span_id")),
        "parentSpanId": _hex(span.get("parent_id")),
        "startTimeUnixNano": None if began is None else nanoseconds(began),
        "endTimeUnixNano": None if ended is None else nanoseconds(ended),
        "attributes": span.get("attributes"),
        "status": {
            "code": _ERROR[0] if status.get("status_code") == "ERROR" else 0,
            "message": status.get("description"),
        },
    }


def _hex(value: object) -> str:
    return value.removeprefix("0x") if isinstance(value, str) else ""


def _event(span_id: str, parent: str | None, attributes: dict[str, Any]) -> Event | None:
    operation = attributes.get("gen_ai.operation.name")
    provider = str(attributes.get("gen_ai.provider.name") or attributes.get("gen_ai.system") or "")
    model = str(attributes.get("gen_ai.request.model") or "") or None
    name = str(attributes.get("gen_ai.agent.name") or "agent")
    if operation == "invoke_agent":
        if parent is None:
            return RunStarted(model=model, provider=provider or None)
        agent_id = str(attributes.get("gen_ai.agent.id") or name)
        return AgentStarted(agent_id=agent_id, agent_name=name)
    if operation == "execute_tool":
        return ToolStarted(
            tool_call_id=str(attributes.get("gen_ai.tool.call.id") or span_id),
            tool_name=str(attributes.get("gen_ai.tool.name") or "unknown"),
            arguments=parsed(attributes.get("gen_ai.tool.call.arguments")),
        )
    if operation in _CALLS or operation == "generate_content":
        return LlmStarted(
            llm_call_id=span_id,
            provider=provider,
            model=model or "unknown",
            operation=_CALLS.get(str(operation), "chat"),
        )
    return None


def _fields(event: Event | None, attributes: dict[str, Any]) -> dict[str, Any]:
    if isinstance(event, ToolStarted):
        return {"result": attributes.get("gen_ai.tool.call.result")}
    if isinstance(event, LlmStarted):
        reasons = attributes.get("gen_ai.response.finish_reasons")
        return {
            "response_model": attributes.get("gen_ai.response.model"),
            "response_id": attributes.get("gen_ai.response.id"),
            "input_tokens": attributes.get("gen_ai.usage.input_tokens") or 0,
            "output_tokens": attributes.get("gen_ai.usage.output_tokens") or 0,
            "reasoning_tokens": attributes.get("gen_ai.usage.reasoning.output_tokens") or 0,
            "cache_read_tokens": attributes.get("gen_ai.usage.cache_read.input_tokens") or 0,
            "cache_write_tokens": attributes.get("gen_ai.usage.cache_creation.input_tokens") or 0,
            "finish_reasons": tuple(reasons) if isinstance(reasons, list) else (),
        }
    return {}


def _value(value: dict[str, Any]) -> Any:
    """
    Return the value of an attribute: OTLP names its type, and writes integers as text.
    """
    for name, found in value.items():
        if name == "intValue":
            return int(found)
        if name == "arrayValue":
            return [_value(one) for one in items(found.get("values"))]
        return found
    return None


def _ns(value: object) -> int | None:
    found = int(value) if isinstance(value, (int, str)) and str(value).isdigit() else 0
    return found or None
