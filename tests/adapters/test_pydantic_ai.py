"""
Pydantic AI, the real one, with a model that is a function: each way a run can go.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from tests.adapters.laws import (
    check_approval,
    check_runs,
    check_usage,
    framework,
    nesting,
    results,
    runs_of,
    told,
)

pydantic_ai = framework("pydantic_ai")

from pydantic_ai import (
    Agent,
    ApprovalRequired,
    CallDeferred,
    DeferredToolRequests,
    DeferredToolResults,
    ModelRetry,
    RunContext,
    RunUsage,
    ToolDenied,
    UsageLimitExceeded,
    UsageLimits,
)
from pydantic_ai.messages import ModelResponse, TextPart, ToolCallPart
from pydantic_ai.models.function import AgentInfo, FunctionModel

from harken import Bus
from harken.adapters.pydantic_ai import Recorded
from harken.catalog import (
    ApprovalRequested,
    BudgetExceeded,
    LlmCompleted,
    PrCreated,
    RunCompleted,
    RunStarted,
    ToolCompleted,
    ToolFailed,
    ToolStarted,
)
from harken.testing import Captured

Step = str | Sequence[tuple[str, str, dict[str, Any]]]


def model_of(*steps: Step) -> FunctionModel:
    """
    Return a model that says *steps*, one after the other: a text, or calls of tools.
    """
    left = list(steps)

    def answer(messages: Any, info: AgentInfo) -> ModelResponse:
        step = left.pop(0)
        if isinstance(step, str):
            return ModelResponse(parts=[TextPart(step)])
        return ModelResponse(
            parts=[ToolCallPart(name, args, tool_call_id=call_id) for name, call_id, args in step]
        )

    return FunctionModel(answer, model_name="scripted")


def agent_of(*steps: Step, tools: Sequence[Callable[..., Any]] = (), **options: Any) -> Any:
    """
    Return an agent whose model says *steps*.
    """
    agent: Any = Agent(model_of(*steps), **options)
    for tool in tools:
        agent.tool_plain(tool)
    return agent


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


ADD: Step = [("add", "c1", {"a": 1, "b": 2})]


def test_a_run_that_succeeds(bus: Bus, heard: Captured) -> None:
    """
    Run, model calls and tool calls are told, one inside of the other.
    """
    result = asyncio.run(Recorded(bus).run(agent_of(ADD, "3", tools=[add]), "1+2?"))

    assert "3" == result.output
    assert [
        "run.started",
        "llm.started < run.started",
        "tool.started < run.started",
        "llm.started < run.started",
    ] == nesting(heard)
    assert {"success"} == {outcome for _, outcome in told(heard)}
    (started,) = heard.of(ToolStarted)
    assert ("c1", "add", {"a": 1, "b": 2}) == (
        started.tool_call_id,
        started.tool_name,
        started.arguments,
    )
    assert [3] == [one.result for one in heard.of(ToolCompleted)]
    (end,) = heard.of(RunCompleted)
    assert ("3", 2, 1) == (end.result, end.iterations, end.tool_calls)
    check_usage(heard, result.usage)
    (begun,) = heard.of(RunStarted)
    assert ("scripted", "1+2?") == (begun.model, begun.prompt)
    assert {result.run_id} == {item.run_id for item in heard.envelopes}


def test_the_capability_of_an_agent(bus: Bus, heard: Captured) -> None:
    """
    Given to the agent, the capability tells every run of it, also from synchronous code.
    """
    agent = agent_of("one", "two", capabilities=[Recorded(bus)])

    asyncio.run(agent.run("1"))
    asyncio.run(agent.run("2"))

    assert ["one", "two"] == [one.result for one in heard.of(RunCompleted)]
    assert 2 == len(runs_of(heard))


def test_a_tool_that_ends_the_run(bus: Bus, heard: Captured) -> None:
    """
    The error of a tool ends the call and the run, with the usage known by then.
    """
    with pytest.raises(ValueError, match="no such invoice"):
        asyncio.run(Recorded(bus).run(agent_of([("fail", "c1", {})], tools=[fail]), "?"))

    assert [("tool.failed", "failure"), ("run.failed", "failure")] == told(heard, "tool", "run")
    assert ["ValueError"] == [one.error_type for one in heard.of(ToolFailed)]
    (call,) = heard.of(LlmCompleted)
    check_usage(heard, RunUsage(input_tokens=call.input_tokens, output_tokens=call.output_tokens))


def test_a_tool_that_asks_for_another_try(bus: Bus, heard: Captured) -> None:
    """
    A call that the framework asks the model to repeat has failed; the run has not.
    """
    tries = iter([False, True])

    def flaky() -> str:
        if not next(tries):
            raise ModelRetry("try again")
        return "fine"

    steps = [[("flaky", "c1", {})], [("flaky", "c2", {})], "done"]
    asyncio.run(Recorded(bus).run(agent_of(*steps, tools=[flaky]), "?"))

    assert [
        ("tool.failed", "failure"),
        ("tool.completed", "success"),
        ("run.completed", "success"),
    ] == told(heard, "tool", "run")


def test_a_call_with_wrong_arguments(bus: Bus, heard: Captured) -> None:
    """
    A call that never gets as far as to its tool is on the record as failed.
    """
    steps: list[Step] = [[("add", "c1", {"a": "one"})], ADD, "3"]

    asyncio.run(Recorded(bus).run(agent_of(*steps, tools=[add]), "?"))

    assert [("tool.failed", "failure"), ("tool.completed", "success")] == told(heard, "tool")


def test_a_tool_that_runs_out_of_time(bus: Bus, heard: Captured) -> None:
    """
    The framework asks for another try, and the record says that the time was up.
    """
    agent = agent_of([("slow", "c1", {})], "Sorry.")

    @agent.tool_plain(timeout=0.02)
    async def slow() -> str:
        await asyncio.sleep(60)
        return ""

    asyncio.run(Recorded(bus).run(agent, "?"))

    assert [("tool.failed", "timeout"), ("run.completed", "success")] == told(heard, "tool", "run")


def test_a_run_that_is_cancelled_in_a_tool(bus: Bus, heard: Captured) -> None:
    """
    Whatever is open when the run is cancelled was cancelled, and what it used up is told.
    """

    async def wait() -> str:
        task.cancel()
        await asyncio.sleep(60)
        return ""

    async def main() -> None:
        nonlocal task
        agent = agent_of([("wait", "c1", {}), ("wait", "c2", {})], tools=[wait])
        task = asyncio.create_task(Recorded(bus).run(agent, "?"))
        with pytest.raises(asyncio.CancelledError):
            await task

    task: asyncio.Task[Any]
    asyncio.run(main())

    assert {("tool.failed", "cancelled"), ("run.cancelled", "cancelled")} == set(
        told(heard, "tool", "run")
    )
    (call,) = heard.of(LlmCompleted)
    check_usage(heard, RunUsage(input_tokens=call.input_tokens, output_tokens=call.output_tokens))


def test_a_run_that_runs_out_of_time(bus: Bus, heard: Captured) -> None:
    """
    The framework's own limit is a timeout of the run; what was open in it was cancelled.
    """

    async def wait() -> str:
        await asyncio.sleep(60)
        return ""

    agent = agent_of([("wait", "c1", {})], tools=[wait])

    with pytest.raises(TimeoutError):
        asyncio.run(Recorded(bus).run(agent, "?", timeout=0.05))

    assert [("tool.failed", "cancelled"), ("run.failed", "timeout")] == told(heard, "tool", "run")


def test_a_run_that_cancels_itself(bus: Bus, heard: Captured) -> None:
    """
    A run that the application stops by the framework's own means is no failure.
    """
    agent = agent_of([("stop", "c1", {})])

    @agent.tool
    async def stop(context: RunContext[Any]) -> str:
        context.cancel()
        await asyncio.sleep(60)
        return ""

    with pytest.raises(Exception, match="cancel"):
        asyncio.run(Recorded(bus).run(agent, "?"))

    assert [("tool.failed", "cancelled"), ("run.cancelled", "cancelled")] == told(
        heard, "tool", "run"
    )


def test_parallel_tools(bus: Bus, heard: Captured) -> None:
    """
    Each result belongs to its own call, whichever ends first, and so does what it publishes.
    """

    async def echo(text: str, seconds: float) -> str:
        await asyncio.sleep(seconds)
        bus.publish(PrCreated(url=f"/{text}"))
        return text

    calls: Step = [
        ("echo", "c1", {"text": "one", "seconds": 0.03}),
        ("echo", "c2", {"text": "two", "seconds": 0.0}),
    ]

    asyncio.run(Recorded(bus).run(agent_of(calls, "done", tools=[echo]), "?"))

    assert {"c1": "one", "c2": "two"} == results(heard)
    spans = {
        item.span_id: item.event.arguments["text"]
        for item in heard.envelopes
        if isinstance(item.event, ToolStarted)
    }
    assert {"/one": "one", "/two": "two"} == {
        item.event.url: spans[item.span_id]
        for item in heard.envelopes
        if isinstance(item.event, PrCreated)
    }


@pytest.mark.parametrize("approve", [True, False])
def test_an_approval(bus: Bus, heard: Captured, approve: bool) -> None:
    """
    A run that waits for an approval is no failure; what was decided is told when it goes on.
    """
    agent = agent_of(
        [("pay", "c1", {"amount": 5})], "Done.", output_type=[str, DeferredToolRequests]
    )

    @agent.tool_plain(requires_approval=True)
    def pay(amount: int) -> str:
        return f"paid {amount}"

    async def main() -> None:
        paused = await Recorded(bus).run(agent, "Pay 5.")
        answer = True if approve else ToolDenied("not today")
        done = await Recorded(bus).run(
            agent,
            message_history=paused.all_messages(),
            deferred_tool_results=DeferredToolResults(approvals={"c1": answer}),
        )
        assert "Done." == done.output

    asyncio.run(main())

    check_approval(heard, approve=approve)
    assert ["c1"] == [one.approval_id for one in heard.of(ApprovalRequested)]


@pytest.mark.parametrize("deferral", [ApprovalRequired, CallDeferred])
def test_a_tool_that_defers_itself(bus: Bus, heard: Captured, deferral: type[Exception]) -> None:
    """
    A tool that says in the middle that it has to wait has not failed.
    """

    def later() -> str:
        raise deferral

    agent = agent_of([("later", "c1", {})], tools=[later], output_type=[str, DeferredToolRequests])

    asyncio.run(Recorded(bus).run(agent, "?"))

    assert [("tool.completed", "deferred"), ("run.completed", "deferred")] == told(
        heard, "tool", "run"
    )


def test_an_agent_inside_of_a_tool(bus: Bus, heard: Captured) -> None:
    """
    The run of an inner agent is a run of its own, inside of the tool call that started it, and
    says what it used up itself.
    """
    inner = agent_of(ADD, "3", tools=[add], capabilities=[Recorded(bus)])
    outer = agent_of([("ask", "o1", {})], "3", capabilities=[Recorded(bus)])

    @outer.tool
    async def ask(context: RunContext[Any]) -> str:
        result = await inner.run("1+2?", usage=context.usage)
        return str(result.output)

    result = asyncio.run(outer.run("?"))

    assert "run.started < tool.started" in nesting(heard)
    assert "tool.started < run.started" in nesting(heard)
    begun = [item for item in heard.envelopes if isinstance(item.event, RunStarted)]
    assert begun[0].run_id == begun[1].parent_run_id
    inner_end, outer_end = heard.of(RunCompleted)
    assert (result.usage.input_tokens, 1) == (outer_end.input_tokens, outer_end.tool_calls)
    assert 0 < inner_end.input_tokens < outer_end.input_tokens


def test_a_tool_that_another_capability_skips(bus: Bus, heard: Captured) -> None:
    """
    A call whose answer somebody knew was answered without running the tool.
    """
    from pydantic_ai.capabilities import AbstractCapability
    from pydantic_ai.exceptions import SkipToolExecution

    class Known(AbstractCapability[Any]):
        async def before_tool_execute(self, ctx: Any, **options: Any) -> Any:
            raise SkipToolExecution(result=3)

    agent = agent_of(ADD, "3", tools=[add], capabilities=[Known()])

    asyncio.run(Recorded(bus).run(agent, "1+2?"))

    assert [(3, True)] == [(one.result, one.from_cache) for one in heard.of(ToolCompleted)]


def test_a_capability_of_somebody_else_that_raises(bus: Bus, heard: Captured) -> None:
    """
    What ends the run is told as what it was, and the call that it stopped has failed.
    """
    from pydantic_ai.capabilities import AbstractCapability

    class Broken(AbstractCapability[Any]):
        async def before_tool_execute(self, ctx: Any, **options: Any) -> Any:
            raise OSError("disk full")

    agent = agent_of(ADD, "3", tools=[add], capabilities=[Broken()])

    with pytest.raises(OSError, match="disk full"):
        asyncio.run(Recorded(bus).run(agent, "1+2?"))

    assert [("tool.failed", "failure"), ("run.failed", "failure")] == told(heard, "tool", "run")


def test_two_runs_at_once(bus: Bus, heard: Captured) -> None:
    """
    Two runs through one capability are never mixed, though their tool calls have the same ids.
    """

    async def echo(text: str) -> str:
        await asyncio.sleep(0.01)
        return text

    recorded = Recorded(bus)

    async def main() -> list[Any]:
        agents = {
            text: agent_of([("echo", "c1", {"text": text})], text, tools=[echo])
            for text in ("one", "two")
        }
        runs = (agent.run(text, capabilities=[recorded]) for text, agent in agents.items())
        return await asyncio.gather(*runs)

    results = {one.run_id: one for one in asyncio.run(main())}

    runs = runs_of(heard)
    assert set(results) == set(runs)
    for run_id, one in runs.items():
        assert [results[run_id].output] == [end.result for end in one.of(ToolCompleted)]
        check_usage(one, results[run_id].usage)


def test_a_run_that_uses_up_too_much(bus: Bus, heard: Captured) -> None:
    """
    The limit is on the record, beside the run that failed of it.
    """
    agent = agent_of(ADD, "3", tools=[add])

    with pytest.raises(UsageLimitExceeded):
        asyncio.run(Recorded(bus).run(agent, "?", usage_limits=UsageLimits(request_limit=1)))

    assert 1 == len(heard.of(BudgetExceeded))
    assert [("run.failed", "failure")] == told(heard, "run")


def test_a_model_that_fails(bus: Bus, heard: Captured) -> None:
    """
    The error of the model ends its call and the run.
    """

    def broken(messages: Any, info: AgentInfo) -> ModelResponse:
        raise ConnectionError("no route")

    with pytest.raises(ConnectionError):
        asyncio.run(Recorded(bus).run(Agent(FunctionModel(broken)), "?"))

    assert [("llm.failed", "failure"), ("run.failed", "failure")] == told(heard)


def test_a_streamed_run(bus: Bus, heard: Captured) -> None:
    """
    A run whose answer is streamed ends when the stream is left.
    """

    async def stream(messages: Any, info: AgentInfo) -> Any:
        yield "It is "
        yield "3."

    agent = Agent(FunctionModel(stream_function=stream), capabilities=[Recorded(bus)])

    async def main() -> None:
        async with agent.run_stream("?") as result:
            assert "It is 3." == await result.get_output()

    asyncio.run(main())

    assert [("llm.completed", "success"), ("run.completed", "success")] == told(heard)


def test_a_run_that_is_left_half_way(bus: Bus, heard: Captured) -> None:
    """
    Whoever leaves the framework's iteration before its end has cancelled the run.
    """
    agent = agent_of(ADD, "3", tools=[add], capabilities=[Recorded(bus)])

    async def main() -> None:
        async with agent.iter("1+2?") as steps:
            async for _ in steps:
                break

    asyncio.run(main())

    assert [("run.cancelled", "cancelled")] == told(heard, "run")


def test_the_model_is_asked_the_same(bus: Bus, heard: Captured) -> None:
    """
    The model is not streamed, and gets the same messages, with harken as without.
    """

    def asked(*capabilities: Any) -> list[Any]:
        seen: list[Any] = []

        def answer(messages: Any, info: AgentInfo) -> ModelResponse:
            seen.append([type(part).__name__ for one in messages for part in one.parts])
            seen.append([tool.name for tool in info.function_tools])
            return model.function(messages, info)  # type: ignore[misc, return-value]

        model = model_of(ADD, "3")
        agent: Any = Agent(FunctionModel(answer), tools=[add])
        asyncio.run(agent.run("?", capabilities=list(capabilities)))
        return seen

    assert asked() == asked(Recorded(bus))


def test_who_comes_in_the_middle_of_a_run_hears_the_rest(bus: Bus) -> None:
    """
    Before, nobody listened.
    """
    heard = Captured()

    def listen() -> str:
        bus.attach(heard)
        return ""

    agent = agent_of([("listen", "c0", {})], ADD, "3", tools=[listen, add])

    asyncio.run(Recorded(bus).run(agent, "?"))

    check_runs(heard)
    assert ["llm.started", "tool.started", "llm.started"] == nesting(heard)
    assert {"c1": 3} == results(heard)
    assert {"success"} == {outcome for _, outcome in told(heard)}


def test_the_result_is_the_same_without_a_working_bus(
    broken_bus: Bus, caplog: pytest.LogCaptureFixture
) -> None:
    """
    Neither a required subscriber that fails nor a closed bus changes what the framework returns.
    """
    first = asyncio.run(Recorded(broken_bus).run(agent_of(ADD, "3", tools=[add]), "?"))
    broken_bus.close()
    second = asyncio.run(Recorded(broken_bus).run(agent_of(ADD, "3", tools=[add]), "?"))

    assert ["3", "3"] == [first.output, second.output]
    assert "was not recorded" in caplog.text
