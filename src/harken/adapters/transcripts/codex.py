"""
What ``codex exec --json`` prints, and the transcripts of sessions that Codex keeps.
"""

from __future__ import annotations

from typing import Any

from harken import Bus
from harken.adapters._runs import parsed
from harken.adapters.stream import RunRecorder
from harken.adapters.transcripts._runs import (
    Message,
    Runs,
    TranscriptClock,
    items,
    member,
    moment_of,
    number,
)
from harken.catalog import HumanInputRequested

# What says nothing that another message does not say, or nothing about what the agent does.
_PASSED_OVER = {
    "agent_message",
    "agent_reasoning",
    "compacted",
    "event_msg",
    "item.plan.delta",
    "item.updated",
    "session_meta",
    "thread.started",
    "todo_list",
    "turn.started",
    "turn_context",
    "user_message",
}

_FAILED = {"failed", "declined"}


class CodexReader:
    """
    Publishes what Codex does; each of its turns is a run.
    """

    def __init__(self, bus: Bus, clock: TranscriptClock) -> None:
        self._clock = clock
        self._runs = Runs(bus, source="codex", provider="openai")
        self.malformed = self._runs.malformed
        self._model: str | None = None
        self._answer = ""

    def read(self, message: Message) -> None:
        """
        Take one message.
        """
        self._clock.set(moment_of(message.get("timestamp")))
        kind, payload = str(message.get("type")), member(message, "payload")
        if kind == "thread.started":
            self._runs.session_id = str(message.get("thread_id"))
        elif kind == "session_meta":
            self._runs.session_id = str(payload.get("id"))
        elif kind == "turn_context":
            self._model = str(payload.get("model")) if payload.get("model") else None
        elif kind == "turn.started":
            self._recorder()
        elif kind in ("item.started", "item.completed"):
            self._item(kind, member(message, "item"))
        elif kind == "request_user_input":
            self._ask(message)
        elif kind == "turn.completed":
            self._end(member(message, "usage"))
        elif kind in ("turn.failed", "error"):
            error = member(message, "error") or message
            self._fail(str(error.get("message")))
        elif kind == "response_item":
            self._response_item(payload)
        elif kind == "event_msg":
            self._event(payload)
        elif kind not in _PASSED_OVER:
            self._recorder().unknown(kind)

    def close(self) -> None:
        """
        End what has no end.
        """
        self._runs.end()

    def _recorder(self) -> RunRecorder:
        return self._runs.recorder(model=self._model)

    def _end(self, usage: dict[str, Any]) -> None:
        self._recorder().result(
            self._answer,
            input_tokens=number(usage, "input_tokens"),
            output_tokens=number(usage, "output_tokens"),
            reasoning_tokens=number(usage, "reasoning_output_tokens"),
            cached_tokens=number(usage, "cached_input_tokens"),
        )
        self._answer = ""
        self._runs.end()

    def _ask(self, message: Message) -> None:
        questions = items(message.get("questions"))
        text = "\n".join(str(one.get("question") or one.get("header")) for one in questions)
        request_id = str(message.get("call_id") or message.get("id"))
        self._recorder().publish(HumanInputRequested(request_id=request_id, question=text))

    def _fail(self, message: str) -> None:
        if self._runs.is_open:
            self._recorder().result(message, success=False)
            self._answer = ""
            self._runs.end()

    def _item(self, kind: str, item: dict[str, Any]) -> None:
        recorder, what = self._recorder(), str(item.get("type"))
        if what == "agent_message" and kind == "item.completed":
            self._say(recorder, str(item.get("text") or ""))
        elif what == "reasoning" and kind == "item.completed":
            recorder.thinking_delta(str(item.get("text") or ""))
            recorder.content_block_stop()
        elif what == "plan" and kind == "item.completed":
            recorder.text_delta(str(item.get("text") or ""))
            recorder.content_block_stop()
        elif what in _TOOLS:
            self._tool(recorder, kind, item, *_TOOLS[what])
        elif what == "error":
            recorder.unknown("error", str(item.get("message")))
        elif what not in _PASSED_OVER and kind == "item.completed":
            recorder.unknown(f"item {what}")

    def _tool(
        self,
        recorder: RunRecorder,
        kind: str,
        item: dict[str, Any],
        tool_type: str,
        name: str,
        given: tuple[str, ...],
        answer: str,
    ) -> None:
        call_id = str(item.get("id") or "")
        if not recorder.is_open(call_id):
            arguments = {part: item[part] for part in given if part in item}
            name = name or str(item.get("tool"))
            if tool_type == "mcp":
                arguments = item.get("arguments") or {}
            server = str(item["server"]) if item.get("server") else None
            recorder.tool_call(name, arguments, call_id=call_id, tool_type=tool_type, server=server)
        if kind == "item.completed":
            error = member(item, "error")
            failed = item.get("status") in _FAILED or bool(error) or bool(item.get("exit_code"))
            output = str(error["message"]) if "message" in error else item.get(answer)
            declined = item.get("status") == "declined"
            outcome = "denied" if declined else None
            recorder.tool_result(output, call_id=call_id, is_error=failed, outcome=outcome)

    def _say(self, recorder: RunRecorder, text: str) -> None:
        self._answer = text or self._answer
        recorder.text_delta(text)
        recorder.content_block_stop()

    def _response_item(self, item: dict[str, Any]) -> None:
        recorder, kind = self._recorder(), str(item.get("type"))
        call_id = str(item.get("call_id") or item.get("id") or "")
        if kind == "message":
            if item.get("role") == "assistant":
                texts = (str(part.get("text") or "") for part in items(item.get("content")))
                self._say(recorder, "".join(texts))
        elif kind == "reasoning":
            for part in items(item.get("summary")):
                recorder.thinking_delta(str(part.get("text") or ""))
            recorder.content_block_stop()
        elif kind in ("function_call", "custom_tool_call", "local_shell_call"):
            arguments = item.get("arguments") or item.get("input") or item.get("action")
            recorder.tool_call(str(item.get("name") or kind), parsed(arguments), call_id=call_id)
        elif kind.endswith("call_output"):
            output = parsed(item.get("output"))
            about = member(output, "metadata") if isinstance(output, dict) else {}
            is_error = bool(about.get("exit_code"))
            recorder.tool_result(output, call_id=call_id, is_error=is_error)
        elif kind not in ("web_search_call", "ghost_snapshot"):
            recorder.unknown(f"item {kind}")

    def _event(self, event: dict[str, Any]) -> None:
        kind = event.get("type")
        if kind == "token_count":
            self._note_usage(member(member(event, "info"), "last_token_usage"))
        elif kind == "task_started":
            self._recorder()
        elif kind == "task_complete":
            self._answer = str(event.get("last_agent_message") or self._answer)
            self._end({})
        elif kind == "turn_aborted" and self._runs.is_open:
            self._recorder().result(str(event.get("reason") or ""), outcome="cancelled")
            self._runs.end()
        elif kind == "error":
            self._fail(str(event.get("message")))

    def _note_usage(self, usage: dict[str, Any]) -> None:
        known = self._recorder().usage
        known.input_tokens += number(usage, "input_tokens")
        known.output_tokens += number(usage, "output_tokens")
        known.reasoning_tokens += number(usage, "reasoning_output_tokens")
        known.cached_tokens += number(usage, "cached_input_tokens")


# Of each item that is a tool call: its kind, its name, its arguments, and what it answers.
_TOOLS: dict[str, tuple[str, str, tuple[str, ...], str]] = {
    "command_execution": ("builtin", "shell", ("command",), "aggregated_output"),
    "collab_tool_call": ("agent", "", ("prompt", "receiver_thread_ids"), "agents_states"),
    "file_change": ("builtin", "apply_patch", ("changes",), "status"),
    "mcp_tool_call": ("mcp", "", (), "result"),
    "web_search": ("hosted", "web_search", ("query", "action"), "status"),
}
