"""
The Claude Agent SDK, the real one, with a scripted command line: each way a run can go.

The SDK runs no tools but those of its own MCP servers, and limits the time of none: the timeouts
in ``claude_agent_sdk/_internal/query.py`` are those of control requests. Of a tool whose time was
up it passes on what Claude Code says, and that says it of the shell only, as text.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.adapters.laws import framework, nesting, results, runs_of, told

framework("claude_agent_sdk")

from claude_agent_sdk import (
    ClaudeAgentOptions,
    PermissionResultAllow,
    PermissionResultDeny,
    ResultMessage,
    Transport,
)

from harken import Bus
from harken.adapters.claude import HarkenHooks, query
from harken.catalog import (
    ApprovalDenied,
    ApprovalGranted,
    ApprovalRequested,
    RunCompleted,
    RunPaused,
    RunStarted,
    ToolCompleted,
    ToolDenied,
    ToolFailed,
    ToolStarted,
)
from harken.testing import Captured

INIT = {
    "type": "system",
    "subtype": "init",
    "session_id": "s-1",
    "model": "claude-sonnet-4-5",
    "tools": ["Bash"],
    "mcp_servers": [],
}
USED = {"input_tokens": 10, "output_tokens": 4}


def says(*blocks: dict[str, Any], parent: str | None = None, id: str = "m-1") -> dict[str, Any]:
    message = {"id": id, "role": "assistant", "model": "m", "content": list(blocks), "usage": USED}
    return {
        "type": "assistant",
        "message": message,
        "parent_tool_use_id": parent,
        "session_id": "s-1",
    }


def calls(name: str, call_id: str, **arguments: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": call_id, "name": name, "input": arguments}


def answers(call_id: str, content: str, *, is_error: bool = False) -> dict[str, Any]:
    block = {
        "type": "tool_result",
        "tool_use_id": call_id,
        "content": content,
        "is_error": is_error,
    }
    return {"type": "user", "message": {"role": "user", "content": [block]}}


def result(text: str = "Done.", **more: Any) -> dict[str, Any]:
    return {
        "type": "result",
        "subtype": "success",
        "is_error": False,
        "duration_ms": 5,
        "duration_api_ms": 4,
        "num_turns": 2,
        "session_id": "s-1",
        "total_cost_usd": 0.5,
        "usage": {"input_tokens": 20, "output_tokens": 8},
        "result": text,
        **more,
    }


def hook(event: str, **told: Any) -> dict[str, Any]:
    """
    Return what makes the scripted command line call a hook.
    """
    return {"hook": event, "input": {"hook_event_name": event, "session_id": "s-1", **told}}


def asks(name: str, call_id: str, **arguments: Any) -> dict[str, Any]:
    """
    Return what makes the scripted command line ask whether a tool may be used.
    """
    request = {
        "subtype": "can_use_tool",
        "tool_name": name,
        "input": arguments,
        "tool_use_id": call_id,
    }
    return {"ask": request}


class Scripted(Transport):
    """
    A command line that says what is written down, asks what it has to, and calls the hooks that
    were asked for.
    """

    def __init__(self, *script: dict[str, Any]) -> None:
        self._script = list(script)
        self._outgoing: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        self._answered: dict[str, asyncio.Future[Any]] = {}
        self._hooks: dict[str, list[str]] = {}
        self._playing: asyncio.Task[None] | None = None
        self.answers: list[Any] = []

    async def connect(self) -> None: ...

    async def write(self, data: str) -> None:
        for line in data.splitlines():
            await self._take(json.loads(line))

    async def _take(self, message: dict[str, Any]) -> None:
        if message["type"] == "control_request":
            request = message["request"]
            for event, matchers in (request.get("hooks") or {}).items():
                self._hooks[event] = [one for m in matchers for one in m["hookCallbackIds"]]
            response = {
                "subtype": "success",
                "request_id": message["request_id"],
                "response": {"commands": []},
            }
            await self._outgoing.put({"type": "control_response", "response": response})
        elif message["type"] == "control_response":
            self._answered[message["response"]["request_id"]].set_result(message["response"])
        elif message["type"] == "user" and self._playing is None:
            self._playing = asyncio.create_task(self._play())

    async def _play(self) -> None:
        for number, message in enumerate(self._script):
            if "ask" in message:
                await self._request(f"ask-{number}", message["ask"])
            elif "hook" not in message:
                await self._outgoing.put(message)
            else:
                await self._call_hooks(number, message)
        await self._outgoing.put(None)

    async def _call_hooks(self, number: int, message: dict[str, Any]) -> None:
        for callback in self._hooks.get(message["hook"], []):
            request = {
                "subtype": "hook_callback",
                "callback_id": callback,
                "input": message["input"],
                "tool_use_id": message["input"].get("tool_use_id"),
            }
            await self._request(f"hook-{number}-{callback}", request)

    async def _request(self, request_id: str, request: dict[str, Any]) -> None:
        self._answered[request_id] = asyncio.get_running_loop().create_future()
        await self._outgoing.put(
            {"type": "control_request", "request_id": request_id, "request": request}
        )
        self.answers.append(await self._answered[request_id])

    async def read_messages(self) -> AsyncIterator[dict[str, Any]]:
        while (message := await self._outgoing.get()) is not None:
            yield message

    async def close(self) -> None:
        if self._playing is not None:
            self._playing.cancel()
        await self._outgoing.put(None)

    def is_ready(self) -> bool:
        return True

    async def end_input(self) -> None: ...


async def prompts() -> AsyncIterator[dict[str, Any]]:
    message = {"role": "user", "content": "Look."}
    yield {"type": "user", "message": message, "parent_tool_use_id": None, "session_id": "s-1"}


def work(bus: Bus, *script: dict[str, Any], options: Any = None) -> list[Any]:
    """
    Let the agent do what is written down; return its messages.
    """

    async def main() -> list[Any]:
        transport = Scripted(*script)
        stream = query(bus, prompt=prompts(), options=options, transport=transport)
        return [message async for message in stream]

    return asyncio.run(main())


def test_a_run_that_succeeds(bus: Bus, heard: Captured) -> None:
    """
    Tool calls are inside of the run, which says what it used up as the SDK says it.
    """
    messages = work(
        bus,
        INIT,
        says(calls("Bash", "c1", command="df")),
        answers("c1", "100%"),
        says({"type": "text", "text": "Full."}, id="m-2"),
        result("Full."),
    )

    assert ["run.started", "tool.started < run.started"] == nesting(heard)
    assert [("tool.completed", "success"), ("run.completed", "success")] == told(heard)
    last = messages[-1]
    assert isinstance(last, ResultMessage)
    (end,) = heard.of(RunCompleted)
    assert (last.usage or {})["input_tokens"] == end.input_tokens
    assert (last.usage or {})["output_tokens"] == end.output_tokens
    assert ("Full.", last.total_cost_usd) == (end.result, end.cost_usd)
    assert ["claude-sonnet-4-5"] == [one.model for one in heard.of(RunStarted)]
    assert {"s-1"} == {item.session_id for item in heard.envelopes}


def test_a_tool_that_fails(bus: Bus, heard: Captured) -> None:
    """
    A result that is an error is no success.
    """
    work(bus, INIT, says(calls("Bash", "c1")), answers("c1", "no", is_error=True), result())

    assert [("tool.failed", "failure"), ("run.completed", "success")] == told(heard)


def test_a_tool_that_runs_out_of_time(bus: Bus, heard: Captured) -> None:
    """
    The call of the shell timed out; one that only quotes those words failed.
    """
    words = "Exit code 143\nCommand timed out after 2m 0s"
    work(
        bus,
        INIT,
        says(calls("Bash", "c1", command="sleep 600"), calls("Read", "c2", path="log")),
        answers("c1", words, is_error=True),
        answers("c2", words, is_error=True),
        result(),
    )

    assert [
        ("tool.failed", "timeout"),
        ("tool.failed", "failure"),
        ("run.completed", "success"),
    ] == told(heard)


@pytest.mark.parametrize("allow", [True, False])
def test_an_approval(bus: Bus, heard: Captured, allow: bool) -> None:
    """
    What the application was asked and answered is told, and a call that it denied was denied.
    """

    async def decide(name: str, arguments: dict[str, Any], context: Any) -> Any:
        return PermissionResultAllow() if allow else PermissionResultDeny(message="not today")

    async def main() -> list[Any]:
        transport = Scripted(
            INIT,
            says(calls("Bash", "c1", command="rm x")),
            asks("Bash", "c1", command="rm x"),
            answers("c1", "" if allow else "not today", is_error=not allow),
            result(),
        )
        options = ClaudeAgentOptions(can_use_tool=decide)
        async for _ in query(bus, prompt=prompts(), options=options, transport=transport):
            pass
        assert decide is options.can_use_tool
        return transport.answers

    (answer,) = asyncio.run(main())

    assert ("allow" if allow else "deny") == answer["response"]["behavior"]
    assert ["c1"] == [one.approval_id for one in heard.of(ApprovalRequested)]
    decided = heard.of(ApprovalGranted if allow else ApprovalDenied)
    assert ["c1"] == [one.approval_id for one in decided]
    assert [
        ("tool.completed", "success") if allow else ("tool.denied", "denied"),
        ("run.completed", "success"),
    ] == told(heard)
    assert ([] if allow else ["not today"]) == [one.reason for one in heard.of(ToolDenied)]
    assert 1 == len(runs_of(heard))


def test_a_question_before_the_first_message(bus: Bus, heard: Captured) -> None:
    """
    What is asked before anybody has read the stream is part of its run.
    """

    async def decide(name: str, arguments: dict[str, Any], context: Any) -> Any:
        return PermissionResultAllow()

    options = ClaudeAgentOptions(can_use_tool=decide)
    script = (asks("Bash", "c1"), INIT, says(calls("Bash", "c1")), answers("c1", "x"), result())
    work(bus, *script, options=options)

    assert ["run.started", "approval.requested", "approval.granted"] == heard.names[:3]
    assert 1 == len(runs_of(heard))


def test_a_callback_that_raises(bus: Bus, heard: Captured) -> None:
    """
    The SDK tells Claude Code of the error; the question has no answer, and the run goes on.
    """

    async def decide(name: str, arguments: dict[str, Any], context: Any) -> Any:
        raise OSError("disk full")

    script = (
        *(INIT, says(calls("Bash", "c1")), asks("Bash", "c1")),
        *(answers("c1", "disk full", is_error=True), result()),
    )
    work(bus, *script, options=ClaudeAgentOptions(can_use_tool=decide))

    assert [("tool.failed", "failure"), ("run.completed", "success")] == told(heard)
    assert ["approval.requested"] == [one for one in heard.names if one.startswith("approval")]


def test_messages_that_come_again_and_too_late(bus: Bus, heard: Captured) -> None:
    """
    A result of a call that is told twice is one of an unknown call the second time, and what comes
    after the run's result is a run that has no known end.
    """
    script = (
        *(INIT, says(calls("Bash", "c1")), answers("c1", "x"), answers("c1", "x"), result()),
        *(answers("c9", "late"),),
    )
    work(bus, *script)

    assert [
        ("tool.completed", "success"),
        ("tool.completed", "success"),
        ("run.completed", "success"),
        ("tool.completed", "success"),
        ("run.failed", "unknown"),
    ] == told(heard)
    assert ["Bash", "unknown", "unknown"] == [one.tool_name for one in heard.of(ToolStarted)]


def test_a_call_that_is_put_off(bus: Bus, heard: Captured) -> None:
    """
    A run that a hook stops, for somebody to decide about a call, is no failure.
    """
    deferred = {"id": "c1", "name": "Bash", "input": {"command": "rm x"}}
    work(bus, INIT, says(calls("Bash", "c1")), result("", deferred_tool_use=deferred))

    assert [("tool.completed", "deferred"), ("run.completed", "deferred")] == told(heard)
    assert ["approval"] == [one.reason for one in heard.of(RunPaused)]
    assert ["c1"] == [one.approval_id for one in heard.of(ApprovalRequested)]


def test_a_call_that_a_rule_forbids(bus: Bus, heard: Captured) -> None:
    """
    A call without a result, of which the run's end says that it was not allowed, was denied.
    """
    denial = {"tool_name": "Bash", "tool_use_id": "c1", "tool_input": {}}
    work(bus, INIT, says(calls("Bash", "c1")), result(permission_denials=[denial]))

    assert [("tool.denied", "denied"), ("run.completed", "success")] == told(heard)


def test_parallel_tools(bus: Bus, heard: Captured) -> None:
    """
    Each result belongs to its own call.
    """
    work(
        bus,
        INIT,
        says(calls("Bash", "c1"), calls("Bash", "c2")),
        answers("c2", "two"),
        answers("c1", "one"),
        result(),
    )

    assert {"c1": "one", "c2": "two"} == results(heard)


def test_a_subagent(bus: Bus, heard: Captured) -> None:
    """
    What a subagent does is inside of the call that started it.
    """
    work(
        bus,
        INIT,
        says(calls("Task", "t1")),
        says(calls("Bash", "c1"), parent="t1", id="m-2"),
        answers("c1", "x"),
        answers("t1", "y"),
        result(),
    )

    assert "tool.started < tool.started" in nesting(heard)


def test_a_run_that_is_interrupted(bus: Bus, heard: Captured) -> None:
    """
    A run that was aborted was cancelled, and the call in it has no known end.
    """
    work(bus, INIT, says(calls("Bash", "c1")), result(terminal_reason="aborted_tools"))

    assert ("run.cancelled", "cancelled") == told(heard)[-1]


def test_a_run_that_fails_though_its_subtype_says_success(bus: Bus, heard: Captured) -> None:
    """
    The most specific word counts.
    """
    work(bus, INIT, result("API Error", is_error=True))

    assert [("run.failed", "failure")] == told(heard)


def test_a_run_that_is_cancelled_in_a_tool(bus: Bus, heard: Captured) -> None:
    """
    Whatever is open when the task is cancelled was cancelled, and what it used up is told.
    """

    async def main() -> None:
        async def consume() -> None:
            script = (INIT, says(calls("Bash", "c1")), {"type": "never", "hook": "Never"})
            transport = Scripted(*script)
            transport._hooks["Never"] = ["x"]
            async for _ in query(bus, prompt=prompts(), transport=transport):
                if len(heard.names) > 1:
                    task.cancel()
                    await asyncio.sleep(60)

        task = asyncio.create_task(consume())
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())

    assert [("tool.failed", "cancelled"), ("run.cancelled", "cancelled")] == told(heard)


def test_a_stream_that_ends_without_a_result(bus: Bus, heard: Captured) -> None:
    """
    Nobody knows how the run ended, and the record says that.
    """
    work(bus, INIT, says(calls("Bash", "c1")))

    assert [("tool.failed", "orphaned"), ("run.failed", "unknown")] == told(heard)


def test_two_runs_at_once(bus: Bus, heard: Captured) -> None:
    """
    Two streams are never mixed.
    """

    async def one(text: str) -> None:
        script = (INIT, says(calls("Bash", "c1", text=text)), answers("c1", text), result(text))
        async for _ in query(bus, prompt=prompts(), transport=Scripted(*script)):
            await asyncio.sleep(0.005)

    async def main() -> None:
        await asyncio.gather(one("one"), one("two"))

    asyncio.run(main())

    runs = runs_of(heard)
    assert 2 == len(runs)
    for run in runs.values():
        assert [end.result for end in run.of(ToolCompleted)] == [
            end.result for end in run.of(RunCompleted)
        ]


def test_hooks(bus: Bus, heard: Captured) -> None:
    """
    The SDK's hooks tell runs, calls and subagents, and decide nothing.
    """
    hooks = HarkenHooks(bus)
    script = (
        INIT,
        hook("UserPromptSubmit", prompt="Look."),
        hook("PreToolUse", tool_name="Bash", tool_input={"command": "df"}, tool_use_id="c1"),
        hook("PostToolUse", tool_name="Bash", tool_response="100%", tool_use_id="c1"),
        hook("SubagentStart", agent_id="a1", agent_type="searcher"),
        hook("PreToolUse", tool_name="Read", tool_input={}, tool_use_id="c2", agent_id="a1"),
        hook("PostToolUseFailure", tool_name="Read", error="no", tool_use_id="c2", agent_id="a1"),
        hook("SubagentStop", agent_id="a1"),
        hook("PreToolUse", tool_name="Bash", tool_input={}, tool_use_id="c3"),
        hook("Stop"),
        result(),
    )

    async def main() -> list[Any]:
        from claude_agent_sdk import query as theirs

        transport = Scripted(*script)
        options = ClaudeAgentOptions(hooks=hooks.matchers())
        async for _ in theirs(prompt=prompts(), options=options, transport=transport):
            pass
        return transport.answers

    replies = asyncio.run(main())

    assert [{}] * 9 == [one["response"] for one in replies]
    assert [
        ("tool.completed", "success"),
        ("tool.failed", "failure"),
        ("agent.completed", "success"),
        ("tool.failed", "orphaned"),
        ("run.completed", "success"),
    ] == told(heard)
    assert "tool.started < agent.started" in nesting(heard)
    assert ["Look."] == [one.prompt for one in heard.of(RunStarted)]
    assert {"c1", "c2", "c3"} == {one.tool_call_id for one in heard.of(ToolStarted)}
    assert 2 == len(heard.of(ToolFailed))


def test_the_messages_are_the_same_without_a_working_bus(
    bus: Bus, caplog: pytest.LogCaptureFixture
) -> None:
    """
    A closed bus changes nothing of what the SDK says.
    """
    script = (INIT, says(calls("Bash", "c1")), answers("c1", "x"), result())

    before = work(bus, *script)
    bus.close()
    after = work(bus, *script)

    assert before == after
