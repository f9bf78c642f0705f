"""
The OpenAI Agents SDK, the real one, with a scripted model: each way a run can go.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator
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

agents = framework("agents")

from agents import (
    Agent,
    GuardrailFunctionOutput,
    InputGuardrail,
    MaxTurnsExceeded,
    ModelSettings,
    RunContextWrapper,
    RunHooks,
    Runner,
    Usage,
    UserError,
    function_tool,
    set_trace_processors,
    set_tracing_disabled,
)
from agents.testing import ScriptedModel, assistant_message, function_call

from harken import Bus
from harken.adapters.openai_agents import HarkenHooks
from harken.catalog import (
    AgentHandoff,
    ApprovalRequested,
    BudgetExceeded,
    GuardViolated,
    RunCompleted,
    RunFailed,
    RunStarted,
    ScopeOrphaned,
    ToolCompleted,
    ToolFailed,
    ToolStarted,
    TurnStarted,
)
from harken.testing import Captured, capture

USED = Usage(requests=1, input_tokens=10, output_tokens=4, total_tokens=14)


@pytest.fixture(autouse=True)
def no_network() -> Iterator[None]:
    """
    Send no trace anywhere.
    """
    set_trace_processors([])
    yield
    set_tracing_disabled(False)


@function_tool
def add(a: int, b: int) -> int:
    """
    Add two numbers.
    """
    return a + b


@function_tool
def fail() -> int:
    """
    Raise an error that the SDK tells the model of.
    """
    raise ValueError("no such invoice")


@function_tool(failure_error_function=None)
def crash() -> int:
    """
    Raise an error that ends the run.
    """
    raise ValueError("no such invoice")


@function_tool(timeout=0.02)
async def slow() -> str:
    """
    Take longer than allowed.
    """
    await asyncio.sleep(60)
    return ""


@function_tool(needs_approval=True)
def pay(amount: int) -> str:
    """
    Pay, if somebody allows it.
    """
    return f"paid {amount}"


def agent_of(*steps: Any, tools: Any = (), name: str = "clerk", **options: Any) -> Agent[Any]:
    """
    Return an agent whose model says *steps*.
    """
    model = ScriptedModel(list(steps))
    model.set_default_usage(USED)
    return Agent(name=name, model=model, tools=list(tools), **options)


def call(name: str, call_id: str, **arguments: Any) -> Any:
    """
    Return a call of the tool *name*.
    """
    return function_call(name, arguments, call_id=call_id)


def says(text: str) -> list[Any]:
    """
    Return an answer of the model.
    """
    return [assistant_message(text)]


def test_a_run_that_succeeds(bus: Bus, heard: Captured) -> None:
    """
    Run, agent, turns, model calls and tool calls are told, one inside of the other.
    """
    agent = agent_of([call("add", "c1", a=1, b=2)], says("3"), tools=[add])

    result = asyncio.run(HarkenHooks(bus).run(agent, "1+2?"))

    assert "3" == result.final_output
    assert [
        "run.started",
        "agent.started < run.started",
        "turn.started < agent.started",
        "llm.started < turn.started",
        "tool.started < turn.started",
        "turn.started < agent.started",
        "llm.started < turn.started",
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
    check_usage(heard, result.context_wrapper.usage)
    (begun,) = heard.of(RunStarted)
    assert ("1+2?", ("add",)) == (begun.prompt, begun.tools)
    assert {item.source for item in heard.envelopes} == {f"openai-agents/{agents.__version__}"}


@pytest.mark.parametrize("traced", [True, False])
def test_a_tool_that_fails(bus: Bus, heard: Captured, traced: bool) -> None:
    """
    The SDK answers the model with a text, and the record says that the tool failed.
    """
    set_tracing_disabled(not traced)
    agent = agent_of([call("fail", "c1")], says("Sorry."), tools=[fail])

    result = asyncio.run(HarkenHooks(bus).run(agent, "?"))

    assert "Sorry." == result.final_output
    assert [("tool.failed", "failure"), ("run.completed", "success")] == told(heard, "tool", "run")


def test_a_tool_that_ends_the_run(bus: Bus, heard: Captured) -> None:
    """
    The SDK calls no hook for a tool whose error ends the run; both are told as failed.
    """
    agent = agent_of([call("crash", "c1")], tools=[crash])

    with pytest.raises(UserError):
        asyncio.run(HarkenHooks(bus).run(agent, "?"))

    assert [
        ("tool.failed", "failure"),
        ("turn.completed", "failure"),
        ("agent.failed", "failure"),
        ("run.failed", "failure"),
    ] == told(heard, "tool", "turn", "agent", "run")
    assert ["ValueError"] == [one.error_type for one in heard.of(ToolFailed)]
    (end,) = heard.of(RunFailed)
    assert (10, 4, 1) == (end.input_tokens, end.output_tokens, end.tool_calls)


@pytest.mark.parametrize("traced", [True, False])
def test_a_tool_that_runs_out_of_time(bus: Bus, heard: Captured, traced: bool) -> None:
    """
    The SDK answers the model with a text, and the record says that the time was up.
    """
    set_tracing_disabled(not traced)
    agent = agent_of([call("slow", "c1")], says("Sorry."), tools=[slow])

    asyncio.run(HarkenHooks(bus).run(agent, "?"))

    assert [("tool.failed", "timeout"), ("run.completed", "success")] == told(heard, "tool", "run")


def test_a_tool_whose_timeout_is_told_in_other_words(bus: Bus, heard: Captured) -> None:
    """
    Whatever the application says to the model about it, it was a timeout.
    """

    @function_tool(timeout=0.02, timeout_error_function=lambda context, error: "zzz")
    async def nap() -> str:
        await asyncio.sleep(60)
        return ""

    asyncio.run(HarkenHooks(bus).run(agent_of([call("nap", "c1")], says("."), tools=[nap]), "?"))

    assert [("tool.failed", "timeout")] == told(heard, "tool")


def test_a_timeout_that_ends_the_run(bus: Bus, heard: Captured) -> None:
    """
    A tool whose timeout is raised is told as timed out, though no hook says so.
    """

    @function_tool(timeout=0.02, timeout_behavior="raise_exception")
    async def nap() -> str:
        await asyncio.sleep(60)
        return ""

    with pytest.raises(Exception, match="timed out"):
        asyncio.run(HarkenHooks(bus).run(agent_of([call("nap", "c1")], tools=[nap]), "?"))

    assert [("tool.failed", "timeout"), ("run.failed", "failure")] == told(heard, "tool", "run")


def test_a_run_that_is_cancelled_in_a_tool(bus: Bus, heard: Captured) -> None:
    """
    Whatever is open when the run is cancelled was cancelled, and what it used up is told.
    """

    @function_tool
    async def wait() -> str:
        """
        Wait for the cancellation.
        """
        task.cancel()
        await asyncio.sleep(60)
        return ""

    agent = agent_of([call("wait", "c1"), call("wait", "c2")], tools=[wait])

    async def main() -> None:
        nonlocal task
        task = asyncio.create_task(HarkenHooks(bus).run(agent, "?"))
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(0.05)

    task: asyncio.Task[Any]
    asyncio.run(main())

    assert {
        ("tool.failed", "cancelled"),
        ("turn.completed", "cancelled"),
        ("agent.failed", "cancelled"),
        ("run.cancelled", "cancelled"),
    } == set(told(heard, "tool", "turn", "agent", "run"))
    check_usage(heard, USED)


def test_a_run_that_is_cancelled_while_the_model_is_asked(bus: Bus, heard: Captured) -> None:
    """
    The call of the model was cancelled with its run.
    """

    class Silent(ScriptedModel):
        async def get_response(self, *args: Any, **kwargs: Any) -> Any:
            task.cancel()
            await asyncio.sleep(60)

    async def main() -> None:
        nonlocal task
        task = asyncio.create_task(HarkenHooks(bus).run(Agent(name="clerk", model=Silent([])), "?"))
        with pytest.raises(asyncio.CancelledError):
            await task

    task: asyncio.Task[Any]
    asyncio.run(main())

    assert [("llm.failed", "cancelled"), ("run.cancelled", "cancelled")] == told(
        heard, "llm", "run"
    )


def test_parallel_tools(bus: Bus, heard: Captured) -> None:
    """
    Each result belongs to its own call, whichever ends first.
    """

    @function_tool
    async def echo(text: str, seconds: float) -> str:
        await asyncio.sleep(seconds)
        return text

    calls = [
        call("echo", "c1", text="one", seconds=0.03),
        call("echo", "c2", text="two", seconds=0.0),
        call("fail", "c3"),
    ]

    asyncio.run(HarkenHooks(bus).run(agent_of(calls, says("."), tools=[echo, fail]), "?"))

    assert {"c1": "one", "c2": "two"} == results(heard)
    assert ["c3"] == [one.tool_call_id for one in heard.of(ToolFailed)]


def test_a_sibling_of_a_tool_that_ends_the_run(bus: Bus, heard: Captured) -> None:
    """
    The tool that raised failed; the other was cancelled by the SDK.
    """

    @function_tool
    async def long() -> str:
        await asyncio.sleep(60)
        return ""

    agent = agent_of([call("long", "c1"), call("crash", "c2")], tools=[long, crash])

    with pytest.raises(UserError):
        asyncio.run(HarkenHooks(bus).run(agent, "?"))

    assert {"c1": "cancelled", "c2": "failure"} == {
        item.event.tool_call_id: item.outcome.value
        for item in heard.envelopes
        if isinstance(item.event, ToolFailed) and item.outcome is not None
    }


@pytest.mark.parametrize("approve", [True, False])
def test_an_approval(bus: Bus, heard: Captured, approve: bool) -> None:
    """
    A run that waits for an approval is no failure; what was decided is told when it goes on.
    """
    agent = agent_of([call("pay", "c1", amount=5)], says("Done."), tools=[pay])
    hooks = HarkenHooks(bus)

    async def main() -> None:
        paused = await hooks.run(agent, "Pay 5.")
        state = paused.to_state()
        for item in paused.interruptions:
            state.approve(item) if approve else state.reject(item)
        done = await hooks.run(agent, state)
        assert "Done." == done.final_output

    asyncio.run(main())

    check_approval(heard, approve=approve)
    assert ["c1"] == [one.approval_id for one in heard.of(ApprovalRequested)]


def test_an_agent_that_is_used_as_a_tool(bus: Bus, heard: Captured) -> None:
    """
    What the inner agent does is inside of the tool call that asked it, also two at once, and
    what it uses up belongs to the run.
    """
    hooks = HarkenHooks(bus)
    inner = agent_of(
        [call("add", "i1", a=1, b=2)],
        [call("add", "i1", a=1, b=2)],
        says("3"),
        says("3"),
        tools=[add],
        name="adder",
    )
    outer = agent_of(
        [call("ask", "o1", input="1+2"), call("ask", "o2", input="1+2")],
        says("6"),
        tools=[inner.as_tool("ask", "Ask the adder.", hooks=hooks)],
    )

    result = asyncio.run(hooks.run(outer, "?"))

    nested = nesting(heard)
    assert 2 == nested.count("agent.started < tool.started")
    assert 2 == nested.count("tool.started < agent.started")
    assert 4 == nested.count("llm.started < agent.started")
    assert {"success"} == {outcome for _, outcome in told(heard)}
    check_usage(heard, result.context_wrapper.usage)


def test_a_run_from_synchronous_code(bus: Bus, heard: Captured) -> None:
    """
    `run_sync()` is told like `run()`.
    """
    agent = agent_of([call("add", "c1", a=1, b=2)], says("3"), tools=[add])
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)

    result = HarkenHooks(bus).run_sync(agent, "1+2?")
    asyncio.set_event_loop(None)
    loop.close()

    assert "3" == result.final_output
    assert {"success"} == {outcome for _, outcome in told(heard)}


def test_a_handoff(bus: Bus, heard: Captured) -> None:
    """
    The agent that hands off ends, and the other begins.
    """
    expert = agent_of(says("42"), name="expert")
    clerk = agent_of([function_call("transfer_to_expert", {}, call_id="h1")], handoffs=[expert])

    asyncio.run(HarkenHooks(bus).run(clerk, "?"))

    assert [("clerk", "expert")] == [
        (one.from_agent, one.to_agent) for one in heard.of(AgentHandoff)
    ]
    assert [
        ("agent.completed", "success"),
        ("agent.completed", "success"),
        ("run.completed", "success"),
    ] == told(heard, "agent", "run")


def test_two_runs_at_once(bus: Bus, heard: Captured) -> None:
    """
    Two runs through one object are never mixed, though their tool calls have the same ids.
    """

    @function_tool
    async def echo(text: str) -> str:
        await asyncio.sleep(0.01)
        return text

    hooks = HarkenHooks(bus)

    async def main() -> None:
        await asyncio.gather(
            *(
                hooks.run(agent_of([call("echo", "c1", text=text)], says(text), tools=[echo]), text)
                for text in ("one", "two")
            )
        )

    asyncio.run(main())

    runs = runs_of(heard)
    assert 2 == len(runs)
    for run in runs.values():
        (begun,) = run.of(RunStarted)
        assert [begun.prompt] == [one.result for one in run.of(ToolCompleted)]
        assert [begun.prompt] == [one.result for one in run.of(RunCompleted)]
        check_usage(run, Usage(input_tokens=20, output_tokens=8))


def test_a_run_that_takes_too_many_turns(bus: Bus, heard: Captured) -> None:
    """
    The limit is on the record, beside the run that failed of it.
    """
    agent = agent_of(*([call("add", f"c{n}", a=1, b=2)] for n in range(3)), tools=[add])

    with pytest.raises(MaxTurnsExceeded):
        asyncio.run(HarkenHooks(bus).run(agent, "?", max_turns=2))

    assert [("turns", 2.0)] == [(one.budget_type, one.limit) for one in heard.of(BudgetExceeded)]
    assert [("run.failed", "failure")] == told(heard, "run")
    assert {"success"} == {outcome for _, outcome in told(heard, "llm", "tool")}


def test_a_model_that_fails(bus: Bus, heard: Captured) -> None:
    """
    The error of the model ends its call, the agent and the run.
    """

    class Broken(ScriptedModel):
        async def get_response(self, *args: Any, **kwargs: Any) -> Any:
            raise ConnectionError("no route")

    with pytest.raises(ConnectionError):
        asyncio.run(HarkenHooks(bus).run(Agent(name="clerk", model=Broken([])), "?"))

    assert {"failure"} == {outcome for _, outcome in told(heard)}
    assert [("llm.failed", "failure"), ("run.failed", "failure")] == told(heard, "llm", "run")


def test_a_guardrail_that_stops_the_run(bus: Bus, heard: Captured) -> None:
    """
    The violation is on the record.
    """

    def refuse(context: Any, agent: Any, text: Any) -> GuardrailFunctionOutput:
        return GuardrailFunctionOutput(output_info=None, tripwire_triggered=True)

    guard = InputGuardrail(guardrail_function=refuse, name="no-money")
    agent = agent_of(says("."), input_guardrails=[guard])

    with pytest.raises(Exception, match="tripwire"):
        asyncio.run(HarkenHooks(bus).run(agent, "?"))

    assert [("no-money", "input")] == [
        (one.guard_name, one.stage) for one in heard.of(GuardViolated)
    ]
    assert [("run.failed", "failure")] == told(heard, "run")


def test_a_streamed_run(bus: Bus, heard: Captured) -> None:
    """
    A streamed run ends with its block.
    """
    agent = agent_of([call("add", "c1", a=1, b=2)], says("3"), tools=[add])

    async def main() -> None:
        async with HarkenHooks(bus).run_streamed(agent, "1+2?") as result:
            async for _ in result.stream_events():
                pass

    asyncio.run(main())

    assert {"success"} == {outcome for _, outcome in told(heard)}
    (end,) = heard.of(RunCompleted)
    assert ("3", 2, 1) == (end.result, end.iterations, end.tool_calls)


def test_a_stream_that_is_left(bus: Bus, heard: Captured) -> None:
    """
    Whoever does not read the stream to its end has cancelled the run, as far as one knows.
    """
    agent = agent_of([call("add", "c1", a=1, b=2)], says("3"), tools=[add])

    async def main() -> None:
        async with HarkenHooks(bus).run_streamed(agent, "1+2?") as result:
            async for _ in result.stream_events():
                break
            result.cancel()

    asyncio.run(main())

    assert ("run.cancelled", "cancelled") == told(heard, "run")[0]


def test_hooks_by_themselves(bus: Bus, heard: Captured) -> None:
    """
    Given to the SDK's own runner, the hooks tell a whole run, too.
    """
    agent = agent_of([call("add", "c1", a=1, b=2)], says("3"), tools=[add])

    result = asyncio.run(Runner.run(agent, "1+2?", hooks=HarkenHooks(bus)))

    assert {"success"} == {outcome for _, outcome in told(heard)}
    check_usage(heard, result.context_wrapper.usage)


def test_hooks_by_themselves_when_the_run_fails(bus: Bus, heard: Captured) -> None:
    """
    The SDK calls no hook when a run fails: it is closed as orphaned when the SDK lets go of it.
    """

    def run() -> None:
        agent = agent_of([call("crash", "c1")], tools=[crash])
        with pytest.raises(UserError):
            asyncio.run(Runner.run(agent, "?", hooks=HarkenHooks(bus)))

    run()
    gc.collect()

    assert [("tool.failed", "orphaned"), ("run.failed", "orphaned")] == told(heard, "tool", "run")
    assert heard.of(ScopeOrphaned)


def test_the_callers_own_hooks_are_called(bus: Bus, heard: Captured) -> None:
    """
    Hooks that the caller has are called as without harken, and what they raise is raised.
    """
    seen: list[str] = []

    class Mine(RunHooks[Any]):
        async def on_tool_start(self, context: Any, agent: Any, tool: Any) -> None:
            seen.append(tool.name)

        async def on_agent_end(self, context: Any, agent: Any, output: Any) -> None:
            raise RuntimeError("mine")

    agent = agent_of([call("add", "c1", a=1, b=2)], says("3"), tools=[add])

    with pytest.raises(RuntimeError, match="mine"):
        asyncio.run(HarkenHooks(bus).run(agent, "?", hooks=Mine()))

    assert ["add"] == seen
    assert [("run.failed", "failure")] == told(heard, "run")


def test_the_result_is_the_same_without_a_working_bus(
    broken_bus: Bus, caplog: pytest.LogCaptureFixture
) -> None:
    """
    Neither a required subscriber that fails nor a closed bus changes what the SDK returns.
    """
    steps = ([call("add", "c1", a=1, b=2)], says("3"))
    hooks = HarkenHooks(broken_bus)

    first = asyncio.run(hooks.run(agent_of(*steps, tools=[add]), "?"))
    broken_bus.close()
    second = asyncio.run(hooks.run(agent_of(*steps, tools=[add]), "?"))

    assert ["3", "3"] == [first.final_output, second.final_output]
    assert "was not recorded" in caplog.text


def test_who_comes_in_the_middle_of_a_run_hears_the_rest(bus: Bus) -> None:
    """
    Before, nobody listened; turns are counted all the same.
    """
    heard = Captured()

    @function_tool
    def listen() -> str:
        bus.attach(heard)
        return ""

    agent = agent_of(
        [call("listen", "c1")], [call("add", "c2", a=1, b=2)], says("3"), tools=[listen, add]
    )

    asyncio.run(HarkenHooks(bus).run(agent, "?"))

    check_runs(heard)
    starts = ["turn.started", "llm.started < turn.started", "tool.started < turn.started"]
    assert [*starts, *starts[:2]] == nesting(heard)
    assert [2, 3] == [one.iteration for one in heard.of(TurnStarted)]
    assert {"c2": 3} == results(heard)
    assert {"success"} == {outcome for _, outcome in told(heard)}


def test_nothing_is_asked_of_the_model_that_was_not_asked_before(bus: Bus) -> None:
    """
    The model gets the same calls with harken as without.
    """

    def calls(hooks: HarkenHooks | None) -> list[Any]:
        agent = agent_of(
            [call("add", "c1", a=1, b=2)],
            says("3"),
            tools=[add],
            model_settings=ModelSettings(temperature=0.5),
        )
        assert isinstance(agent.model, ScriptedModel)
        asyncio.run(Runner.run(agent, "?") if hooks is None else hooks.run(agent, "?"))
        return [(one.input, one.model_settings) for one in agent.model.calls]

    with capture(bus):
        recorded = calls(HarkenHooks(bus))

    assert calls(None) == recorded


def test_a_hook_without_a_run_around(bus: Bus, heard: Captured) -> None:
    """
    A tool that starts another run with the same hooks begins a run inside of the run.
    """
    hooks = HarkenHooks(bus)

    @function_tool
    async def ask(context: RunContextWrapper[Any]) -> str:
        result = await Runner.run(agent_of(says("7"), name="other"), "?", hooks=hooks)
        return str(result.final_output)

    asyncio.run(hooks.run(agent_of([call("ask", "c1")], says("7"), tools=[ask]), "?"))

    outer, inner = [item for item in heard.envelopes if isinstance(item.event, RunStarted)]
    assert outer.run_id == inner.parent_run_id
    assert {"success"} == {outcome for _, outcome in told(heard)}
