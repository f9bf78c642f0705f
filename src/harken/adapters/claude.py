"""
The Claude Agent SDK: hooks for its options, and the streams of its messages.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator
from dataclasses import asdict, is_dataclass, replace
from typing import Any

from claude_agent_sdk import (
    AssistantMessage,
    CanUseTool,
    ClaudeAgentOptions,
    HookMatcher,
    Message,
    PermissionResult,
    PermissionResultDeny,
    ResultMessage,
    SystemMessage,
    TextBlock,
    ThinkingBlock,
    ToolPermissionContext,
    ToolResultBlock,
    ToolUseBlock,
    Transport,
    UserMessage,
    __version__,
    query as sdk_query,
)

from harken import Bus
from harken.adapters._runs import Run, contained
from harken.adapters.transcripts import TranscriptClock
from harken.adapters.transcripts.claude import ClaudeReader
from harken.catalog import (
    AgentStarted,
    ApprovalDenied,
    ApprovalGranted,
    ApprovalRequested,
    ContextCompacted,
    RunStarted,
    ToolStarted,
)

SOURCE = f"claude-agent-sdk/{__version__}"


async def query(
    bus: Bus,
    *,
    prompt: str | AsyncIterable[dict[str, Any]],
    options: ClaudeAgentOptions | None = None,
    transport: Transport | None = None,
) -> AsyncGenerator[Message]:
    """
    Do what `claude_agent_sdk.query()` does, as runs on *bus*; what ``can_use_tool`` of *options*
    is asked, and what it answers, is told, too.
    """
    reader = ClaudeReader(bus, TranscriptClock(), source=SOURCE)
    if options is not None and options.can_use_tool is not None:
        options = replace(options, can_use_tool=_asking(reader, options.can_use_tool))
    messages = sdk_query(prompt=prompt, options=options, transport=transport)
    async for message in _read(reader, messages):
        yield message


def _asking(reader: ClaudeReader, decide: CanUseTool) -> CanUseTool:
    async def asked(
        name: str, arguments: dict[str, Any], context: ToolPermissionContext
    ) -> PermissionResult:
        call_id = context.tool_use_id or ""
        with contained:
            prompt = context.title or name
            reader.tell(ApprovalRequested(approval_id=call_id, subject=call_id, prompt=prompt))
        answer = await decide(name, arguments, context)
        with contained:
            if isinstance(answer, PermissionResultDeny):
                reader.tell(ApprovalDenied(approval_id=call_id, reason=answer.message))
            else:
                reader.tell(ApprovalGranted(approval_id=call_id))
        return answer

    return asked


async def recorded(bus: Bus, messages: AsyncIterator[Message]) -> AsyncGenerator[Message]:
    """
    Pass on *messages*, such as those of `ClaudeSDKClient.receive_response()`, unchanged, and put
    what they tell on *bus*: each result ends a run. Whoever leaves the stream before a result has
    cancelled the run.
    """
    async for message in _read(ClaudeReader(bus, TranscriptClock(), source=SOURCE), messages):
        yield message


async def _read(reader: ClaudeReader, messages: AsyncIterator[Message]) -> AsyncGenerator[Message]:
    try:
        async for message in messages:
            with contained:
                reader.read(_as_json(message))
            yield message
    except BaseException as error:
        with contained:
            reader.close(error)
        raise
    with contained:
        reader.close()


def _as_json(message: Message) -> dict[str, Any]:
    """
    Return *message* as the command line has sent it.
    """
    if isinstance(message, AssistantMessage):
        said = {
            "id": message.message_id,
            "content": [_block(block) for block in message.content],
            "usage": message.usage,
        }
        session = message.session_id
        parent = message.parent_tool_use_id
        return {
            "type": "assistant",
            "message": said,
            "parent_tool_use_id": parent,
            "session_id": session,
        }
    if isinstance(message, UserMessage):
        content = message.content
        blocks = content if isinstance(content, list) else []
        return {"type": "user", "message": {"content": [_block(block) for block in blocks]}}
    if isinstance(message, ResultMessage):
        return {"type": "result", **asdict(message)}
    if isinstance(message, SystemMessage):
        return {**message.data, "type": "system", "subtype": message.subtype}
    return {"type": "stream_event"}


def _block(block: object) -> dict[str, Any]:
    kinds = {
        TextBlock: "text",
        ThinkingBlock: "thinking",
        ToolUseBlock: "tool_use",
        ToolResultBlock: "tool_result",
    }
    kind = kinds.get(type(block), type(block).__name__)
    if kind == "ServerToolUseBlock":
        kind = "server_tool_use"
    elif kind == "ServerToolResultBlock":
        kind = "server_tool_result"
    if not is_dataclass(block) or isinstance(block, type):
        return {"type": kind}
    return {**asdict(block), "type": kind}


class HarkenHooks:
    """
    Hooks for `ClaudeAgentOptions(hooks=...)`, where nobody wraps the stream of messages.

    They tell prompts as runs, tool calls and subagents; what a run has used up, and how one ended
    that was interrupted, only the stream tells: see `recorded()`. They never decide anything.
    One object serves any number of sessions.
    """

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._runs: dict[str, Run] = {}

    def matchers(self) -> dict[Any, list[HookMatcher]]:
        """
        Return what `ClaudeAgentOptions` takes as hooks.
        """
        events = (
            *("UserPromptSubmit", "PreToolUse", "PostToolUse", "PostToolUseFailure"),
            *("SubagentStart", "SubagentStop", "PreCompact", "Stop"),
        )
        return {event: [HookMatcher(hooks=[self._heard])] for event in events}

    async def _heard(self, told: Any, tool_use_id: str | None, context: Any) -> Any:
        with contained:
            self._tell(told, str(told["session_id"]))
        # No opinion.
        return {}

    def _tell(self, told: dict[str, Any], session_id: str) -> None:
        event = told["hook_event_name"]
        if event == "UserPromptSubmit":
            self._end(session_id)
        run = self._runs.get(session_id)
        if run is None:
            started = RunStarted(provider="anthropic", prompt=told.get("prompt"))
            run = self._runs[session_id] = Run(self._bus, started, source=SOURCE).open()
        agent_id = told.get("agent_id")
        parent = None if agent_id is None else ("agent", str(agent_id))
        tool = ("tool", str(told.get("tool_use_id")))
        if event == "PreToolUse":
            call = ToolStarted(
                tool_call_id=tool[1],
                tool_name=str(told["tool_name"]),
                arguments=told.get("tool_input"),
                tool_type="mcp" if str(told["tool_name"]).startswith("mcp__") else "builtin",
            )
            run.begin(tool, call, parent=parent)
        elif event == "PostToolUse":
            run.end(tool, result=told.get("tool_response"))
        elif event == "PostToolUseFailure":
            outcome = "cancelled" if told.get("is_interrupt") else "failure"
            run.end(tool, outcome=outcome, error_message=str(told.get("error")))
        elif event == "SubagentStart":
            kind = str(told.get("agent_type"))
            started_agent = AgentStarted(agent_id=str(agent_id), agent_name=kind)
            run.begin(("agent", str(agent_id)), started_agent)
        elif event == "SubagentStop":
            run.end(("agent", str(agent_id)))
        elif event == "PreCompact":
            run.publish(ContextCompacted(reason=str(told.get("trigger") or "auto")))
        elif event == "Stop":
            self._end(session_id)

    def _end(self, session_id: str) -> None:
        run = self._runs.pop(session_id, None)
        if run is not None:
            run.close()
