"""
What ``claude -p --output-format stream-json`` prints, and the transcripts that Claude Code keeps.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from harken import Bus, Event
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
from harken.catalog import (
    ApprovalDenied,
    ApprovalRequested,
    BudgetExceeded,
    ContextCompacted,
    McpConnected,
    McpFailed,
    PolicyEvaluated,
    RunPaused,
)

# What says nothing that another message does not say, or nothing about what the agent does.
_PASSED_OVER = {
    "auth_status",
    "control_request",
    "control_response",
    "file-history-snapshot",
    "keep_alive",
    "queue-operation",
    "rate_limit_event",
    "stream_event",
    "summary",
    "tool_progress",
    "tool_use_summary",
}

# The only word that Claude Code has for it.
_OUT_OF_TIME = re.compile(r"^Command timed out after \d", re.MULTILINE)

_BUDGETS = {"error_max_turns": "turns", "error_max_budget_usd": "cost"}


class ClaudeReader:
    """
    Publishes what Claude Code does; each result ends a run, the next message begins another.
    """

    def __init__(self, bus: Bus, clock: TranscriptClock, *, source: str = "claude-code") -> None:
        self._clock = clock
        self._runs = Runs(bus, source=source, provider="anthropic")
        self.malformed = self._runs.malformed
        self._started: dict[str, Any] = {}
        # What each message of the model used up: it is told again with each of its blocks.
        self._used: dict[str, dict[str, Any]] = {}
        # Calls of the shell, which alone says that its time was up.
        self._shell: set[str] = set()
        self._denied: set[str] = set()
        # What was told beside the stream before its first message.
        self._early: list[Event] = []

    def read(self, message: Message) -> None:
        """
        Take one message.
        """
        self._clock.set(moment_of(message.get("timestamp")))
        session = message.get("session_id") or message.get("sessionId")
        if isinstance(session, str):
            self._runs.session_id = session
        kind = message.get("type")
        if kind == "system":
            self._system(message)
        elif kind == "assistant":
            self._assistant(message)
        elif kind == "user":
            self._user(message)
        elif kind == "result":
            self._result(message)
        elif kind not in _PASSED_OVER:
            self._recorder().unknown(f"{kind}")

    def tell(self, event: Event) -> None:
        """
        Publish what is told beside the stream, as part of the run: requests and their answers.
        """
        if isinstance(event, ApprovalDenied):
            self._denied.add(event.approval_id)
        if self._runs.is_open:
            self._recorder().publish(event)
        else:
            self._early.append(event)

    def close(self, error: BaseException | None = None) -> None:
        """
        End what has no result, with what kept it from one.
        """
        self._runs.end(error)

    def _recorder(self) -> RunRecorder:
        recorder = self._runs.recorder(**self._started)
        while self._early:
            recorder.publish(self._early.pop(0))
        return recorder

    def _system(self, message: Message) -> None:
        subtype = message.get("subtype")
        if subtype == "init":
            model, tools = message.get("model"), message.get("tools")
            self._started = {
                "model": model if isinstance(model, str) else None,
                "tools": tuple(map(str, tools)) if isinstance(tools, list) else (),
            }
            recorder = self._recorder()
            for server in items(message.get("mcp_servers")):
                name, status = str(server.get("name")), server.get("status")
                if status == "connected":
                    recorder.publish(McpConnected(server=name))
                elif status == "failed":
                    recorder.publish(McpFailed(server=name, operation="connect"))
        elif subtype == "compact_boundary":
            about = member(message, "compact_metadata") or member(message, "compactMetadata")
            tokens = number(about, "pre_tokens") or number(about, "preTokens")
            reason = str(about.get("trigger") or "auto")
            self._recorder().publish(ContextCompacted(reason=reason, tokens_before=tokens))
        elif subtype == "permission_denied":
            # The result of the call, which says that it is an error, comes after it.
            self._deny(message)

    def _deny(self, denial: Message) -> None:
        call_id = str(denial.get("tool_use_id"))
        if call_id in self._denied:
            return
        self._denied.add(call_id)
        self._recorder().publish(
            PolicyEvaluated(
                policy_id="permissions",
                rule=str(denial.get("tool_name")),
                subject=call_id,
                decision="deny",
                reason=str(denial.get("decision_reason") or denial.get("message") or ""),
            )
        )

    def _assistant(self, message: Message) -> None:
        recorder, said = self._recorder(), member(message, "message")
        self._note_usage(recorder, str(said.get("id")), member(said, "usage"))
        parent = message.get("parent_tool_use_id")
        for block in items(said.get("content")):
            kind = block.get("type")
            if kind == "text":
                recorder.text_delta(str(block.get("text") or ""))
                recorder.content_block_stop()
            elif kind == "thinking":
                recorder.thinking_delta(str(block.get("thinking") or ""))
                recorder.content_block_stop()
            elif kind in ("tool_use", "server_tool_use", "mcp_tool_use"):
                self._tool_use(recorder, block, parent if isinstance(parent, str) else None)
            elif kind != "redacted_thinking":
                self._user_block(recorder, block)

    def _tool_use(self, recorder: RunRecorder, block: dict[str, Any], parent: str | None) -> None:
        name = str(block.get("name") or "unknown")
        # As in mcp__server__tool.
        server = name.split("__")[1] if name.startswith("mcp__") and name.count("__") > 1 else None
        if name == "Bash":
            self._shell.add(str(block.get("id")))
        recorder.tool_call(
            name,
            block.get("input"),
            call_id=str(block.get("id") or ""),
            tool_type="builtin" if server is None else "mcp",
            server=server,
            parent_call_id=parent,
        )

    def _user(self, message: Message) -> None:
        for block in items(member(message, "message").get("content")):
            self._user_block(self._recorder(), block)

    def _user_block(self, recorder: RunRecorder, block: dict[str, Any]) -> None:
        kind = str(block.get("type"))
        if kind.endswith("tool_result"):
            text = _text_of(block.get("content"))
            call_id = str(block.get("tool_use_id") or "")
            is_error = block.get("is_error") is True
            outcome = self._outcome_of(call_id, text) if is_error else None
            recorder.tool_result(text, call_id=call_id, is_error=is_error, outcome=outcome)
        elif kind not in ("text", "image", "document"):
            recorder.unknown(f"content block {kind}")

    def _outcome_of(self, call_id: str, error: str) -> str | None:
        if call_id in self._denied:
            return "denied"
        timed_out = call_id in self._shell and _OUT_OF_TIME.search(error)
        return "timeout" if timed_out else None

    def _note_usage(self, recorder: RunRecorder, message_id: str, usage: dict[str, Any]) -> None:
        if not usage:
            return
        self._used[message_id] = usage
        used = [_tokens(one) for one in self._used.values()]
        known = recorder.usage
        known.input_tokens = sum(one["input_tokens"] for one in used)
        known.output_tokens = sum(one["output_tokens"] for one in used)
        known.cached_tokens = sum(one["cached_tokens"] for one in used)
        known.iterations = len(used)

    def _result(self, message: Message) -> None:
        recorder = self._recorder()
        subtype = str(message.get("subtype") or "")
        for denial in items(message.get("permission_denials")):
            self._deny(denial)
            call_id = str(denial.get("tool_use_id"))
            if recorder.is_open(call_id):
                recorder.tool_result("not allowed", call_id=call_id, outcome="denied")
        if subtype in _BUDGETS:
            recorder.publish(
                BudgetExceeded(budget_type=_BUDGETS[subtype], scope="run", action="stop")
            )
        if isinstance(message.get("num_turns"), int):
            recorder.usage.iterations = number(message, "num_turns")
        # Not the subtype alone: it may be "success" while is_error is true.
        failed = message.get("is_error") is True or subtype.startswith("error")
        aborted = str(message.get("terminal_reason") or "").startswith("aborted")
        errors = message.get("errors")
        text = message.get("result") or (errors or (subtype if failed else ""))
        outcome = "cancelled" if aborted else self._defer(recorder, message)
        recorder.result(
            _text_of(text),
            cost_usd=message.get("total_cost_usd"),
            **_tokens(member(message, "usage")),
            success=not failed,
            stop_reason=subtype or None,
            outcome=outcome,
        )
        self._used.clear()
        self._shell.clear()
        self._denied.clear()
        self._runs.end()

    def _defer(self, recorder: RunRecorder, message: Message) -> str | None:
        """
        Tell of a call that a hook has put off: the run stops for somebody to decide about it.
        """
        call = member(message, "deferred_tool_use")
        if not call:
            return None
        call_id, name = str(call.get("id")), str(call.get("name"))
        if recorder.is_open(call_id):
            recorder.tool_result(call_id=call_id, outcome="deferred")
        recorder.publish(ApprovalRequested(approval_id=call_id, subject=call_id, prompt=name))
        recorder.publish(RunPaused(reason="approval"))
        return "deferred"


def _tokens(usage: dict[str, Any]) -> dict[str, int]:
    read = number(usage, "cache_read_input_tokens")
    fresh = number(usage, "input_tokens") + number(usage, "cache_creation_input_tokens")
    return {
        "input_tokens": fresh + read,
        "output_tokens": number(usage, "output_tokens"),
        "cached_tokens": read,
    }


def _text_of(content: object) -> str:
    if isinstance(content, str):
        return content
    texts = [str(block["text"]) for block in items(content) if "text" in block]
    return "\n".join(texts) if texts else "" if content is None else _json(content)


def _json(content: object) -> str:
    return msgspec.json.encode(content).decode()
