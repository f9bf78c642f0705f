"""
Google's Agent Development Kit, the real one, with a scripted model: each way a run can go.

The kit limits the time of no function tool: ``google/adk/tools/function_tool.py`` knows none. So a
tool that runs out of time is here one that raises `TimeoutError`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.adapters.laws import (
    Tokens,
    check_usage,
    framework,
    nesting,
    runs_of,
    told,
)

framework("google.adk")

from google.adk.agents import LlmAgent
from google.adk.models import BaseLlm, LlmResponse
from google.adk.plugins.base_plugin import BasePlugin
from google.adk.runners import InMemoryRunner
from google.adk.tools import AgentTool, FunctionTool
from google.genai import types

from harken import Bus
from harken.adapters.google_adk import HarkenPlugin
from harken.catalog import (
    ApprovalRequested,
    RunCompleted,
    RunStarted,
    ToolCompleted,
    ToolFailed,
    ToolStarted,
)
from harken.testing import Captured

# What the kit and its libraries do, not what harken does.
pytestmark = pytest.mark.filterwarnings("ignore")

USED = types.GenerateContentResponseUsageMetadata(prompt_token_count=10, candidates_token_count=4)

Step = str | list[tuple[str, str, dict[str, Any]]]


class Scripted(BaseLlm):
    """
    A model that says what is written down.
    """

    model: str = "scripted"
    left: list[Any] = []

    async def generate_content_async(
        self, llm_request: Any, stream: bool = False
    ) -> AsyncIterator[Any]:
        step = self.left.pop(0)
        if isinstance(step, str):
            parts = [types.Part(text=step)]
        else:
            calls = (types.FunctionCall(name=n, id=i, args=a) for n, i, a in step)
            parts = [types.Part(function_call=call) for call in calls]
        content = types.Content(role="model", parts=parts)
        yield LlmResponse(content=content, usage_metadata=USED)


def add(a: int, b: int) -> int:
    """
    Add two numbers.
    """
    return a + b


def fail() -> int:
    """
    Raise an error.
    """
    raise ValueError("no such invoice")


def late() -> int:
    """
    Run out of time.
    """
    raise TimeoutError("no answer in time")


ADD: Step = [("add", "c1", {"a": 1, "b": 2})]


def agent_of(*steps: Step, tools: Any = (), name: str = "clerk") -> LlmAgent:
    """
    Return an agent whose model says *steps*.
    """
    return LlmAgent(name=name, model=Scripted(left=list(steps)), tools=list(tools))


async def run_on(
    plugin: HarkenPlugin, runner: InMemoryRunner, message: Any, *, wrapped: bool = True
) -> list[Any]:
    """
    Let the agent of *runner* work; return its events.
    """
    service: Any = runner.session_service
    session = await service.get_session(
        app_name=runner.app_name, user_id="u", session_id="s"
    ) or await service.create_session(app_name=runner.app_name, user_id="u", session_id="s")
    content = types.UserContent(message) if isinstance(message, str) else message
    options = {"user_id": "u", "session_id": session.id, "new_message": content}
    run = plugin.run_async(runner, **options) if wrapped else runner.run_async(**options)
    return [event async for event in run]


def work(bus: Bus, agent: LlmAgent, *, wrapped: bool = True, plugins: Any = ()) -> list[Any]:
    plugin = HarkenPlugin(bus)
    runner = InMemoryRunner(agent, app_name="desk", plugins=[plugin, *plugins])
    return asyncio.run(run_on(plugin, runner, "1+2?", wrapped=wrapped))


@pytest.mark.parametrize("wrapped", [True, False])
def test_a_run_that_succeeds(bus: Bus, heard: Captured, wrapped: bool) -> None:
    """
    Run, agent, model calls and tool calls are told, one inside of the other.
    """
    work(bus, agent_of(ADD, "3", tools=[add]), wrapped=wrapped)

    assert [
        "run.started",
        "agent.started < run.started",
        "llm.started < agent.started",
        "tool.started < agent.started",
        "llm.started < agent.started",
    ] == nesting(heard)
    assert {"success"} == {outcome for _, outcome in told(heard)}
    assert [("add", {"a": 1, "b": 2})] == [
        (one.tool_name, one.arguments) for one in heard.of(ToolStarted)
    ]
    check_usage(heard, Tokens(20, 8))
    (begun,), (end,) = heard.of(RunStarted), heard.of(RunCompleted)
    assert ("scripted", "1+2?", "3", 1) == (begun.model, begun.prompt, end.result, end.tool_calls)


@pytest.mark.parametrize(("broken", "outcome"), [(fail, "failure"), (late, "timeout")])
@pytest.mark.parametrize("wrapped", [True, False])
def test_a_tool_that_ends_the_run(
    bus: Bus, heard: Captured, broken: Any, outcome: str, wrapped: bool
) -> None:
    """
    The error of a tool ends the call, the agent and the run, with the usage known by then.
    """
    agent = agent_of([(broken.__name__, "c1", {})], tools=[broken])

    with pytest.raises((ValueError, TimeoutError)):
        work(bus, agent, wrapped=wrapped)

    assert [("tool.failed", outcome), ("agent.failed", outcome), ("run.failed", outcome)] == told(
        heard, "tool", "agent", "run"
    )
    check_usage(heard, Tokens(10, 4))


def test_a_run_that_is_cancelled_in_a_tool(bus: Bus, heard: Captured) -> None:
    """
    Whatever is open when the run is cancelled was cancelled, and what it used up is told.
    """

    async def wait() -> str:
        """
        Wait for the cancellation.
        """
        task.cancel()
        await asyncio.sleep(60)
        return ""

    async def main() -> None:
        nonlocal task
        plugin = HarkenPlugin(bus)
        agent = agent_of([("wait", "c1", {})], tools=[wait])
        runner = InMemoryRunner(agent, app_name="desk", plugins=[plugin])
        task = asyncio.create_task(run_on(plugin, runner, "?"))
        with pytest.raises(asyncio.CancelledError):
            await task

    task: asyncio.Task[Any]
    asyncio.run(main())

    assert {("tool.failed", "cancelled"), ("run.cancelled", "cancelled")} == set(
        told(heard, "tool", "run")
    )
    check_usage(heard, Tokens(10, 4))


def test_parallel_tools(bus: Bus, heard: Captured) -> None:
    """
    Each result belongs to its own call, whichever ends first.
    """

    async def echo(text: str, seconds: float) -> str:
        """
        Say what was said.
        """
        await asyncio.sleep(seconds)
        return text

    calls: Step = [
        ("echo", "c1", {"text": "one", "seconds": 0.03}),
        ("echo", "c2", {"text": "two", "seconds": 0.0}),
    ]
    work(bus, agent_of(calls, "Done.", tools=[echo]))

    assert {"c1": {"result": "one"}, "c2": {"result": "two"}} == {
        one.tool_call_id: one.result if isinstance(one.result, dict) else {"result": one.result}
        for one in heard.of(ToolCompleted)
    }


@pytest.mark.parametrize("approve", [True, False])
def test_an_approval(bus: Bus, heard: Captured, approve: bool) -> None:
    """
    A run that waits for an approval is no failure; what was decided is told when it goes on.
    """
    plugin = HarkenPlugin(bus)
    tool = FunctionTool(add, require_confirmation=True)
    agent = agent_of(ADD, "Asked.", "Done.", tools=[tool])
    runner = InMemoryRunner(agent, app_name="desk", plugins=[plugin])

    async def main() -> None:
        events = await run_on(plugin, runner, "1+2?")
        (asked,) = [
            call
            for event in events
            for call in event.get_function_calls()
            if call.name == "adk_request_confirmation"
        ]
        answer = types.FunctionResponse(
            id=asked.id, name=asked.name, response={"confirmed": approve}
        )
        parts = [types.Part(function_response=answer)]
        await run_on(plugin, runner, types.Content(role="user", parts=parts))

    asyncio.run(main())

    first, second = runs_of(heard).values()
    assert [("tool.completed", "deferred"), ("run.completed", "deferred")] == told(
        first, "tool", "run"
    )
    assert ["c1"] == [one.approval_id for one in first.of(ApprovalRequested)]
    assert ("approval.granted" if approve else "approval.denied") in second.names
    ended = ("tool.completed", "success") if approve else ("tool.denied", "denied")
    assert [ended, ("run.completed", "success")] == told(second, "tool", "run")


def test_an_agent_that_is_used_as_a_tool(bus: Bus, heard: Captured) -> None:
    """
    Its run is inside of the tool call that asked it.
    """
    inner = agent_of(ADD, "3", tools=[add], name="adder")
    ask: Step = [("adder", "o1", {"request": "1+2"})]

    work(bus, agent_of(ask, "3", tools=[AgentTool(inner)]))

    assert "run.started < tool.started" in nesting(heard)
    assert {"success"} == {outcome for _, outcome in told(heard)}


def test_two_runs_at_once(bus: Bus, heard: Captured) -> None:
    """
    Two runners with one plugin are never mixed, though their tool calls have the same ids.
    """

    async def echo(text: str) -> str:
        """
        Say what was said.
        """
        await asyncio.sleep(0.01)
        return text

    plugin = HarkenPlugin(bus)

    async def one(text: str) -> None:
        agent = agent_of([("echo", "c1", {"text": text})], text, tools=[echo])
        runner = InMemoryRunner(agent, app_name=text, plugins=[plugin])
        service: Any = runner.session_service
        await service.create_session(app_name=text, user_id=text, session_id="s")
        options = {"user_id": text, "session_id": "s", "new_message": types.UserContent(text)}
        async for _ in plugin.run_async(runner, **options):
            pass

    async def main() -> None:
        await asyncio.gather(one("one"), one("two"))

    asyncio.run(main())

    runs = runs_of(heard)
    assert 2 == len(runs)
    for run in runs.values():
        (begun,), (call,) = run.of(RunStarted), run.of(ToolStarted)
        assert begun.prompt == call.arguments["text"]
        assert [begun.prompt] == [end.result for end in run.of(RunCompleted)]


def test_a_plugin_of_somebody_else_that_raises(bus: Bus, heard: Captured) -> None:
    """
    The kit ends the run with that error, and whatever was open is closed.
    """

    class Broken(BasePlugin):
        async def before_tool_callback(self, **options: Any) -> None:
            raise OSError("disk full")

    with pytest.raises(RuntimeError):
        work(bus, agent_of(ADD, "3", tools=[add]), plugins=[Broken(name="broken")])

    assert ("run.failed", "failure") == told(heard)[-1]
    assert 1 == len(heard.of(ToolFailed))


def test_the_result_is_the_same_without_a_working_bus(
    broken_bus: Bus, caplog: pytest.LogCaptureFixture
) -> None:
    """
    Neither a required subscriber that fails nor a closed bus changes what the agent says.
    """
    first = work(broken_bus, agent_of(ADD, "3", tools=[add]))
    broken_bus.close()
    second = work(broken_bus, agent_of(ADD, "3", tools=[add]))

    assert ["3", "3"] == [events[-1].content.parts[0].text for events in (first, second)]
    assert "was not recorded" in caplog.text
