"""
Strands Agents, the real ones, with a scripted model: each way a run can go.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.adapters.laws import framework, nesting, results, runs_of, told

framework("strands")

from strands import Agent, tool
from strands.hooks import BeforeInvocationEvent, BeforeToolCallEvent
from strands.models import Model
from strands.types.exceptions import EventLoopException

from harken import Bus
from harken.adapters.strands import HarkenHooks
from harken.catalog import (
    BudgetExceeded,
    HumanInputReceived,
    HumanInputRequested,
    LlmCompleted,
    RunCompleted,
    RunFailed,
    RunStarted,
    ToolCompleted,
    ToolDenied,
    ToolFailed,
    ToolStarted,
)
from harken.testing import Captured

# What Strands and its libraries do, not what harken does.
pytestmark = pytest.mark.filterwarnings("ignore")

Call = tuple[str, str, dict[str, Any]]


class Scripted(Model):
    """
    A model that says what is written down.
    """

    def __init__(self, *steps: str | list[Call]) -> None:
        self._left = list(steps)

    def update_config(self, **config: Any) -> None: ...

    def get_config(self) -> Any:
        return {"model_id": "scripted"}

    def structured_output(self, *args: Any, **options: Any) -> Any:
        raise NotImplementedError

    async def stream(self, *args: Any, **options: Any) -> AsyncIterator[Any]:
        step = self._left.pop(0)
        yield {"messageStart": {"role": "assistant"}}
        for name, call_id, arguments in [] if isinstance(step, str) else step:
            yield {
                "contentBlockStart": {"start": {"toolUse": {"name": name, "toolUseId": call_id}}}
            }
            text = str(arguments).replace("'", '"')
            yield {"contentBlockDelta": {"delta": {"toolUse": {"input": text}}}}
            yield {"contentBlockStop": {}}
        if isinstance(step, str):
            yield {"contentBlockStart": {"start": {}}}
            yield {"contentBlockDelta": {"delta": {"text": step}}}
            yield {"contentBlockStop": {}}
        yield {"messageStop": {"stopReason": "end_turn" if isinstance(step, str) else "tool_use"}}
        used = {"inputTokens": 10, "outputTokens": 4, "totalTokens": 14}
        yield {"metadata": {"usage": used, "metrics": {"latencyMs": 1}}}


@tool
def add(a: int, b: int) -> int:
    """
    Add two numbers.
    """
    return a + b


@tool
def fail() -> int:
    """
    Raise an error.
    """
    raise ValueError("no such invoice")


@tool
def late() -> int:
    """
    Run out of time.
    """
    raise TimeoutError("no answer in time")


ADD: list[Call] = [("add", "c1", {"a": 1, "b": 2})]


def agent_of(*steps: str | list[Call], tools: Any = (), hooks: Any = (), **more: Any) -> Agent:
    """
    Return an agent whose model says *steps*.
    """
    return Agent(
        model=Scripted(*steps),
        tools=list(tools),
        hooks=list(hooks),
        callback_handler=None,
        **more,
    )


@pytest.fixture
def hooks(bus: Bus) -> HarkenHooks:
    return HarkenHooks(bus)


@pytest.mark.parametrize("is_wrapped", [True, False])
def test_a_run_that_succeeds(hooks: HarkenHooks, heard: Captured, is_wrapped: bool) -> None:
    """
    Run, model calls and tool calls are told, with the usage as the framework counts it.
    """
    agent = agent_of(ADD, "3", tools=[add], hooks=[hooks])

    result = hooks.call(agent, "1+2?") if is_wrapped else agent("1+2?")

    assert [
        "run.started",
        "llm.started < run.started",
        "tool.started < run.started",
        "llm.started < run.started",
    ] == nesting(heard)
    assert {"success"} == {outcome for _, outcome in told(heard)}
    assert [("add", {"a": 1, "b": 2})] == [
        (one.tool_name, one.arguments) for one in heard.of(ToolStarted)
    ]
    assert ["3"] == [one.result for one in heard.of(ToolCompleted)]
    (begun,) = heard.of(RunStarted)
    assert ("scripted", "1+2?", ("add",)) == (begun.model, begun.prompt, begun.tools)
    used = result.metrics.accumulated_usage
    (end,) = heard.of(RunCompleted)
    assert (used["inputTokens"], used["outputTokens"]) == (end.input_tokens, end.output_tokens)
    assert used["inputTokens"] == sum(one.input_tokens for one in heard.of(LlmCompleted)) == 20
    assert ("3\n", 2, 1) == (end.result, end.iterations, end.tool_calls)


@pytest.mark.parametrize(("broken", "outcome"), [(fail, "failure"), (late, "timeout")])
def test_a_tool_that_fails(hooks: HarkenHooks, heard: Captured, broken: Any, outcome: str) -> None:
    """
    The framework answers the model with a text, and the record says what became of the call.
    """
    steps: list[Call] = [(broken.tool_name, "c1", {})]
    hooks.call(agent_of(steps, "Sorry.", tools=[broken], hooks=[hooks]))

    assert [("tool.failed", outcome), ("run.completed", "success")] == told(heard, "tool", "run")


def test_a_model_that_fails(hooks: HarkenHooks, heard: Captured) -> None:
    """
    Its error ends its call and the run, which say it though no hook was told; the usage is kept.
    """
    with pytest.raises(EventLoopException):
        agent_of(ADD, tools=[add], hooks=[hooks])("?")

    assert [("llm.failed", "failure"), ("run.failed", "failure")] == told(heard)[2:]
    (end,) = heard.of(RunFailed)
    assert ("EventLoopException", 10) == (end.error_type, end.input_tokens)


@pytest.mark.parametrize("is_wrapped", [True, False])
def test_a_run_that_is_cancelled_in_a_tool(
    hooks: HarkenHooks, heard: Captured, is_wrapped: bool
) -> None:
    """
    Whatever is open when the task is cancelled was cancelled, and what it used up is told.
    """

    @tool
    async def wait() -> str:
        """
        Wait for the cancellation.
        """
        task.cancel()
        await asyncio.sleep(60)
        return ""

    async def main() -> None:
        nonlocal task
        agent = agent_of([("wait", "c1", {})], tools=[wait], hooks=[hooks])
        run = hooks.invoke_async(agent, "?") if is_wrapped else agent.invoke_async("?")
        task = asyncio.create_task(run)
        with pytest.raises(asyncio.CancelledError):
            await task

    task: asyncio.Task[Any]
    asyncio.run(main())

    assert {("tool.failed", "cancelled"), ("run.cancelled", "cancelled")} == set(
        told(heard, "tool", "run")
    )


def test_an_agent_that_is_cancelled(hooks: HarkenHooks, heard: Captured) -> None:
    """
    A run that the application stops by the framework's own means is no failure.
    """

    @tool
    def stop() -> str:
        """
        Stop the agent.
        """
        agent.cancel()
        return ""

    agent = agent_of([("stop", "c1", {})], tools=[stop], hooks=[hooks])
    agent("?")

    assert [("run.cancelled", "cancelled")] == told(heard, "run")


def test_parallel_tools(hooks: HarkenHooks, heard: Captured) -> None:
    """
    Each result belongs to its own call, whichever ends first.
    """
    both = threading.Barrier(2)

    @tool
    def meet(text: str) -> str:
        """
        Wait for the other call.
        """
        both.wait(20)
        return text

    calls: list[Call] = [
        ("meet", "c1", {"text": "one"}),
        ("meet", "c2", {"text": "two"}),
        ("fail", "c3", {}),
    ]
    hooks.call(agent_of(calls, "Done.", tools=[meet, fail], hooks=[hooks]))

    assert {"c1": "one", "c2": "two"} == results(heard)
    assert ["c3"] == [one.tool_call_id for one in heard.of(ToolFailed)]


def test_a_tool_that_a_hook_forbids(hooks: HarkenHooks, heard: Captured) -> None:
    """
    A call that a hook cancels was denied.
    """

    def forbid(event: BeforeToolCallEvent) -> None:
        event.cancel_tool = "not today"

    agent = agent_of(ADD, "Sorry.", tools=[add], hooks=[hooks])
    agent.hooks.add_callback(BeforeToolCallEvent, forbid)
    agent("?")

    assert ["not today"] == [one.reason for one in heard.of(ToolDenied)]


def test_a_run_that_waits_for_somebody(hooks: HarkenHooks, heard: Captured) -> None:
    """
    An interrupted run is no failure; what it waited for is told when it goes on.
    """

    def ask(event: BeforeToolCallEvent) -> None:
        event.interrupt("approval", reason="add?")

    agent = agent_of(ADD, "3", tools=[add], hooks=[hooks])
    agent.hooks.add_callback(BeforeToolCallEvent, ask)

    paused = agent("1+2?")
    (interrupt,) = paused.interrupts or ()
    agent([{"interruptResponse": {"interruptId": interrupt.id, "response": "yes"}}])

    assert [
        ("tool.completed", "deferred"),
        ("run.completed", "deferred"),
        ("tool.completed", "success"),
        ("run.completed", "success"),
    ] == told(heard, "tool", "run")
    assert [interrupt.id] == [one.request_id for one in heard.of(HumanInputRequested)]
    assert [interrupt.id] == [one.request_id for one in heard.of(HumanInputReceived)]


def test_an_agent_that_is_used_as_a_tool(hooks: HarkenHooks, heard: Captured) -> None:
    """
    Its run is inside of the tool call that asked it.
    """
    inner = agent_of(ADD, "3", tools=[add], hooks=[hooks], name="adder")
    ask: list[Call] = [("adder", "o1", {"input": "1+2"})]

    agent_of(ask, "3", tools=[inner.as_tool()], hooks=[hooks])("1+2?")

    assert "run.started < tool.started" in nesting(heard)
    outer, nested = [item for item in heard.envelopes if isinstance(item.event, RunStarted)]
    assert outer.run_id == nested.parent_run_id
    assert {"success"} == {outcome for _, outcome in told(heard)}


def test_an_agent_that_was_used_as_a_tool_before(hooks: HarkenHooks, heard: Captured) -> None:
    """
    Asked by itself, it is inside of nothing.
    """
    inner = agent_of(ADD, "3", "3", tools=[add], hooks=[hooks], name="adder")
    ask: list[Call] = [("adder", "o1", {"input": "1+2"})]
    agent_of(ask, "3", tools=[inner.as_tool()], hooks=[hooks])("1+2?")

    inner("1+2?")

    alone = [item for item in heard.envelopes if isinstance(item.event, RunStarted)][-1]
    assert (None, None) == (alone.parent_run_id, alone.parent_span_id)


def test_two_runs_at_once(hooks: HarkenHooks, heard: Captured) -> None:
    """
    Two agents through one object are never mixed, though their tool calls have the same ids.
    """

    @tool
    async def echo(text: str) -> str:
        """
        Say what was said.
        """
        await asyncio.sleep(0.01)
        return text

    async def main() -> None:
        agents = {
            text: agent_of([("echo", "c1", {"text": text})], text, tools=[echo], hooks=[hooks])
            for text in ("one", "two")
        }
        await asyncio.gather(*(agent.invoke_async(text) for text, agent in agents.items()))

    asyncio.run(main())

    runs = runs_of(heard)
    assert 2 == len(runs)
    for run in runs.values():
        (begun,) = run.of(RunStarted)
        assert [begun.prompt] == [one.result for one in run.of(ToolCompleted)]
        assert [begun.prompt] == [str(one.result).strip() for one in run.of(RunCompleted)]


def test_a_run_that_takes_too_many_turns(hooks: HarkenHooks, heard: Captured) -> None:
    """
    The framework's own limit is on the record, beside the run that it stopped.
    """
    agent_of(ADD, "3", tools=[add], hooks=[hooks])("?", limits={"turns": 1})

    assert ["turns"] == [one.budget_type for one in heard.of(BudgetExceeded)]
    assert ["limit_turns"] == [one.stop_reason for one in heard.of(RunCompleted)]


def test_a_hook_that_raises(hooks: HarkenHooks, heard: Captured) -> None:
    """
    The framework tells no end of a run that the hook of somebody else keeps from beginning; it
    is closed when the agent is called again.
    """

    def broken(event: BeforeInvocationEvent) -> None:
        nonlocal is_broken
        if is_broken:
            is_broken = False
            raise OSError("disk full")

    is_broken = True
    agent = agent_of("3", hooks=[hooks])
    agent.hooks.add_callback(BeforeInvocationEvent, broken)
    with pytest.raises(OSError, match="disk full"):
        agent("?")
    agent("?")

    assert 2 == len(runs_of(heard))


def test_the_result_is_the_same_without_a_working_bus(
    broken_bus: Bus, caplog: pytest.LogCaptureFixture
) -> None:
    """
    Neither a required subscriber that fails nor a closed bus changes what the agent returns.
    """
    hooks = HarkenHooks(broken_bus)

    first = hooks.call(agent_of(ADD, "3", tools=[add], hooks=[hooks]))
    broken_bus.close()
    second = agent_of(ADD, "3", tools=[add], hooks=[hooks])("?")

    assert ["3\n", "3\n"] == [str(first), str(second)]
    assert "was not recorded" in caplog.text
