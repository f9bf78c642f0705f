"""
LangChain and LangGraph, the real ones, with a scripted model: each way a run can go.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable, Sequence
from typing import Any
from uuid import uuid4

import pytest
from tests.adapters.laws import (
    Tokens,
    check_approval,
    check_runs,
    check_usage,
    framework,
    nesting,
    results,
    runs_of,
    told,
)

framework("langchain")
framework("langgraph")

from langchain.agents import create_agent
from langchain.agents.middleware import HumanInTheLoopMiddleware
from langchain_core.callbacks import (
    BaseCallbackHandler,
    CallbackManager,
    UsageMetadataCallbackHandler,
)
from langchain_core.language_models.fake import FakeListLLM
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, ToolMessage
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.errors import GraphRecursionError
from langgraph.types import Command, interrupt

from harken import Bus
from harken.adapters.langchain import HarkenHandler
from harken.catalog import (
    AgentStarted,
    BudgetExceeded,
    HumanInputReceived,
    HumanInputRequested,
    LlmStarted,
    PrCreated,
    RetrievalCompleted,
    RunCompleted,
    RunStarted,
    ToolCompleted,
    ToolFailed,
    ToolStarted,
    TurnStarted,
)
from harken.testing import Captured

Call = tuple[str, str, dict[str, Any]]

USED = {"input_tokens": 10, "output_tokens": 4, "total_tokens": 14}


class Scripted(GenericFakeChatModel):
    """
    A chat model whose answers are written down.
    """

    def bind_tools(self, tools: Any, **options: Any) -> Any:
        return self


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
    raise TimeoutError("no answer within 5 s")


@tool
async def echo(text: str, seconds: float) -> str:
    """
    Say what was said.
    """
    await asyncio.sleep(seconds)
    return text


def agent_of(*steps: str | Sequence[Call], tools: Sequence[Any] = (), **options: Any) -> Any:
    """
    Return an agent whose model says *steps*: texts, or calls of tools.
    """
    answers = [
        AIMessage(step, usage_metadata=USED, response_metadata={"model_name": "scripted"})
        if isinstance(step, str)
        else AIMessage(
            "",
            tool_calls=[
                {"name": name, "args": args, "id": call_id} for name, call_id, args in step
            ],
            usage_metadata=USED,
            response_metadata={"model_name": "scripted"},
        )
        for step in steps
    ]
    return create_agent(Scripted(messages=iter(answers)), list(tools), **options)


def asking(text: str = "?") -> dict[str, Any]:
    """
    Return what an agent is asked with.
    """
    return {"messages": [("user", text)]}


ADD: list[Call] = [("add", "c1", {"a": 1, "b": 2})]

Way = Callable[[Bus, Any, Any, Any], Any]


def through_callbacks(bus: Bus, agent: Any, input: Any, config: Any = None) -> Any:
    config = dict(config or {})
    return agent.invoke(input, {**config, "callbacks": [HarkenHandler(bus)]})


def through_call(bus: Bus, agent: Any, input: Any, config: Any = None) -> Any:
    return HarkenHandler(bus).invoke(agent, input, config)


def through_awaited_callbacks(bus: Bus, agent: Any, input: Any, config: Any = None) -> Any:
    config = {**(config or {}), "callbacks": [HarkenHandler(bus)]}
    return asyncio.run(agent.ainvoke(input, config))


def through_awaited_call(bus: Bus, agent: Any, input: Any, config: Any = None) -> Any:
    return asyncio.run(HarkenHandler(bus).ainvoke(agent, input, config))


ways = pytest.mark.parametrize(
    "way", [through_callbacks, through_call, through_awaited_callbacks, through_awaited_call]
)


@ways
def test_a_run_that_succeeds(bus: Bus, heard: Captured, way: Way) -> None:
    """
    Run, turns, model calls and tool calls are told, one inside of the other.
    """
    counted = UsageMetadataCallbackHandler()
    agent = agent_of(ADD, "3", tools=[add]).with_config(callbacks=[counted])

    result = way(bus, agent, asking("1+2?"), None)

    assert "3" == result["messages"][-1].content
    assert [
        "run.started",
        "turn.started < run.started",
        "llm.started < turn.started",
        "tool.started < turn.started",
        "turn.started < run.started",
        "llm.started < turn.started",
    ] == nesting(heard)
    assert {"success"} == {outcome for _, outcome in told(heard)}
    (started,) = heard.of(ToolStarted)
    assert ("c1", "add", {"a": 1, "b": 2}) == (
        started.tool_call_id,
        started.tool_name,
        started.arguments,
    )
    assert ["3"] == [one.result for one in heard.of(ToolCompleted)]
    (end,) = heard.of(RunCompleted)
    assert ("3", 2, 1) == (end.result, end.iterations, end.tool_calls)
    usage = counted.usage_metadata["scripted"]
    check_usage(heard, Tokens(usage["input_tokens"], usage["output_tokens"]))


@ways
def test_a_tool_that_ends_the_run(bus: Bus, heard: Captured, way: Way) -> None:
    """
    The error of a tool ends the call and the run, with the usage known by then.
    """
    with pytest.raises(ValueError, match="no such invoice"):
        way(bus, agent_of([("fail", "c1", {})], tools=[fail]), asking(), None)

    assert [
        ("tool.failed", "failure"),
        ("turn.completed", "failure"),
        ("run.failed", "failure"),
    ] == told(heard, "tool", "turn", "run")
    assert ["ValueError"] == [one.error_type for one in heard.of(ToolFailed)]
    check_usage(heard, Tokens(10, 4))


@ways
def test_a_tool_that_answers_with_an_error(bus: Bus, heard: Captured, way: Way) -> None:
    """
    A message whose status is an error is no success, though the end's callback tells it.
    """

    @tool
    def refuse() -> ToolMessage:
        """
        Answer with an error.
        """
        return ToolMessage("no such invoice", tool_call_id="c1", status="error")

    way(bus, agent_of([("refuse", "c1", {})], "Sorry.", tools=[refuse]), asking(), None)

    assert [("tool.failed", "failure"), ("run.completed", "success")] == told(heard, "tool", "run")


@ways
def test_a_tool_that_runs_out_of_time(bus: Bus, heard: Captured, way: Way) -> None:
    """
    A tool that raises a timeout is told as that, and so is a run that it leaves.
    """
    with pytest.raises(TimeoutError):
        way(bus, agent_of([("late", "c1", {})], tools=[late]), asking(), None)

    assert [("tool.failed", "timeout"), ("run.failed", "timeout")] == told(heard, "tool", "run")


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_run_that_is_cancelled_in_a_tool(bus: Bus, heard: Captured, wrapped: bool) -> None:
    """
    Whatever is open when the run is cancelled was cancelled, and what it used up is told.
    """

    @tool
    async def wait() -> str:
        """
        Wait for the cancellation.
        """
        task.cancel()
        await asyncio.sleep(60)
        return ""

    handler = HarkenHandler(bus)
    agent = agent_of([("wait", "c1", {}), ("wait", "c2", {})], tools=[wait])

    async def main() -> None:
        nonlocal task
        call = handler.ainvoke(agent, asking())
        if not wrapped:
            call.close()
            call = agent.ainvoke(asking(), {"callbacks": [handler]})
        task = asyncio.create_task(call)
        with pytest.raises(asyncio.CancelledError):
            await task

    task: asyncio.Task[Any]
    asyncio.run(main())

    assert {
        ("tool.failed", "cancelled"),
        ("turn.completed", "cancelled"),
        ("run.cancelled", "cancelled"),
    } == set(told(heard, "tool", "turn", "run"))
    check_usage(heard, Tokens(10, 4))


@pytest.mark.parametrize("way", [through_awaited_callbacks, through_awaited_call])
def test_parallel_tools(bus: Bus, heard: Captured, way: Way) -> None:
    """
    Each result belongs to its own call, whichever ends first.
    """
    calls: list[Call] = [
        ("echo", "c1", {"text": "one", "seconds": 0.03}),
        ("echo", "c2", {"text": "two", "seconds": 0.0}),
    ]

    way(bus, agent_of(calls, "done", tools=[echo]), asking(), None)

    assert {"c1": "one", "c2": "two"} == results(heard)


def test_parallel_tools_in_threads(bus: Bus, heard: Captured) -> None:
    """
    Synchronous tools run in threads, and each result belongs to its own call.
    """
    both = threading.Barrier(2, timeout=10)

    @tool
    def meet(text: str) -> str:
        """
        Wait for the other.
        """
        both.wait()
        return text

    calls: list[Call] = [("meet", "c1", {"text": "one"}), ("meet", "c2", {"text": "two"})]

    through_callbacks(bus, agent_of(calls, "done", tools=[meet]), asking())

    assert {"c1": "one", "c2": "two"} == results(heard)


@ways
def test_a_tool_that_waits_for_an_answer(bus: Bus, heard: Captured, way: Way) -> None:
    """
    A run that is interrupted is no failure, though the framework tells the tool's error.
    """

    @tool
    def ask(question: str) -> str:
        """
        Ask a person.
        """
        return str(interrupt(question))

    agent = agent_of(
        [("ask", "c1", {"question": "Pay?"})], "Done.", tools=[ask], checkpointer=InMemorySaver()
    )
    config = {"configurable": {"thread_id": "t-1"}}

    way(bus, agent, asking(), config)
    way(bus, agent, Command(resume="yes"), config)

    first, second = runs_of(heard).values()
    assert [("tool.completed", "deferred"), ("run.completed", "deferred")] == told(
        first, "tool", "run"
    )
    assert 1 == len(first.of(HumanInputRequested))
    assert "run.resumed" in second.names
    assert [("tool.completed", "success"), ("run.completed", "success")] == told(
        second, "tool", "run"
    )


@pytest.mark.parametrize("approve", [True, False])
def test_an_approval(bus: Bus, heard: Captured, approve: bool) -> None:
    """
    What the framework's middleware asks a person is an approval, and so is the answer.
    """
    asks = HumanInTheLoopMiddleware(interrupt_on={"add": True})
    agent = agent_of(ADD, "3", tools=[add], middleware=[asks], checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": "t-1"}}
    handler = HarkenHandler(bus)
    decision = {"type": "approve"} if approve else {"type": "reject", "message": "not today"}

    handler.invoke(agent, asking(), config)
    handler.invoke(agent, Command(resume={"decisions": [decision]}), config)

    check_approval(heard, approve=approve)


def test_an_answer_is_told_by_the_handler_that_heard_the_question(
    bus: Bus, heard: Captured
) -> None:
    """
    One handler for both runs knows what the answer is about.
    """

    @tool
    def ask() -> str:
        """
        Ask a person.
        """
        return str(interrupt("?"))

    agent = agent_of([("ask", "c1", {})], "Done.", tools=[ask], checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": "t-1"}, "callbacks": [HarkenHandler(bus)]}

    agent.invoke(asking(), config)
    agent.invoke(Command(resume="yes"), config)

    assert [one.request_id for one in heard.of(HumanInputRequested)] == [
        one.request_id for one in heard.of(HumanInputReceived)
    ]


@ways
def test_an_agent_inside_of_a_tool(bus: Bus, heard: Captured, way: Way) -> None:
    """
    What the inner agent does is inside of the tool call that asked it, and what it uses up
    belongs to the run.
    """
    inner = agent_of(ADD, "3", tools=[add], name="adder")

    @tool
    def ask(question: str) -> str:
        """
        Ask the adder.
        """
        return str(inner.invoke(asking(question))["messages"][-1].content)

    outer = agent_of([("ask", "o1", {"question": "1+2"})], "3", tools=[ask], name="clerk")

    way(bus, outer, asking(), None)

    nested = nesting(heard)
    assert "agent.started < tool.started" in nested
    assert "tool.started < agent.started" in nested
    assert 2 == nested.count("llm.started < agent.started")
    assert ["adder"] == [one.agent_name for one in heard.of(AgentStarted)]
    check_usage(heard, Tokens(40, 16))


def test_two_runs_at_once(bus: Bus, heard: Captured) -> None:
    """
    Two runs through one handler are never mixed, though their tool calls have the same ids.
    """
    handler = HarkenHandler(bus)

    async def main() -> None:
        runs = (
            agent_of([("echo", "c1", {"text": text, "seconds": 0.01})], text, tools=[echo]).ainvoke(
                asking(text), {"callbacks": [handler]}
            )
            for text in ("one", "two")
        )
        await asyncio.gather(*runs)

    asyncio.run(main())

    runs = runs_of(heard)
    assert 2 == len(runs)
    for one in runs.values():
        assert [end.result for end in one.of(RunCompleted)] == [
            end.result for end in one.of(ToolCompleted)
        ]
        check_usage(one, Tokens(20, 8))


def test_a_run_with_too_many_steps(bus: Bus, heard: Captured) -> None:
    """
    The limit is on the record, beside the run that failed of it.
    """
    steps = [[("add", f"c{number}", {"a": 1, "b": 2})] for number in range(9)]

    with pytest.raises(GraphRecursionError):
        through_callbacks(bus, agent_of(*steps, tools=[add]), asking(), {"recursion_limit": 4})

    assert 1 == len(heard.of(BudgetExceeded))
    assert [("run.failed", "failure")] == told(heard, "run")


@ways
def test_a_model_that_fails(bus: Bus, heard: Captured, way: Way) -> None:
    """
    The error of the model ends its call, its turn and the run.
    """

    class Broken(Scripted):
        def _generate(self, *args: Any, **options: Any) -> Any:
            raise ConnectionError("no route")

    with pytest.raises(ConnectionError):
        way(bus, create_agent(Broken(messages=iter([])), []), asking(), None)

    assert {"failure"} == {outcome for _, outcome in told(heard)}
    assert [("llm.failed", "failure"), ("run.failed", "failure")] == told(heard, "llm", "run")


def test_what_a_tool_publishes_belongs_to_the_run(bus: Bus, heard: Captured) -> None:
    """
    Called through the handler, the run is the one of what its tools publish themselves.
    """

    @tool
    def open_pull_request() -> str:
        """
        Open a pull request.
        """
        bus.publish(PrCreated(url="/pull/7"))
        return "/pull/7"

    agent = agent_of([("open_pull_request", "c1", {})], "Done.", tools=[open_pull_request])

    HarkenHandler(bus).invoke(agent, asking())

    assert 1 == len(runs_of(heard))


def test_a_stream_that_is_left(bus: Bus, heard: Captured) -> None:
    """
    Whoever does not read the stream to its end has cancelled the run.
    """
    agent = agent_of(ADD, "3", tools=[add])

    stream = agent.stream(asking(), {"callbacks": [HarkenHandler(bus)]})
    next(stream)
    stream.close()

    assert [("run.cancelled", "cancelled")] == told(heard, "run")


def test_a_chain_of_other_things(bus: Bus, heard: Captured) -> None:
    """
    A chain without an agent is a run, with the retrievals and the completions in it.
    """

    class Shelf(BaseRetriever):
        def _get_relevant_documents(self, query: str, *, run_manager: Any) -> list[Any]:
            return []

    chain = Shelf() | RunnableLambda(lambda found: str(found)) | FakeListLLM(responses=["nothing"])

    answer = chain.invoke("invoices", {"callbacks": [HarkenHandler(bus)]})

    assert "nothing" == answer
    assert [0] == [one.hits for one in heard.of(RetrievalCompleted)]
    assert ["text_completion"] == [one.operation for one in heard.of(LlmStarted)]
    assert ["llm.started < run.started"] == nesting(heard)[1:]


def test_a_model_outside_of_every_chain(bus: Bus, heard: Captured) -> None:
    """
    A call of a model by itself is a run of its own.
    """
    model = Scripted(messages=iter([AIMessage("Hi.", usage_metadata=USED)]))

    model.invoke("Hello?", {"callbacks": [HarkenHandler(bus)]})

    assert [("llm.completed", "success"), ("run.completed", "success")] == told(heard)


def test_other_callbacks_are_called(bus: Bus, heard: Captured) -> None:
    """
    Callbacks that the caller has are kept, as a list or as a manager, and stay as they were.
    """
    seen: list[str] = []

    class Mine(BaseCallbackHandler):
        def on_tool_end(self, output: Any, **options: Any) -> None:
            seen.append(output.content)

    manager = CallbackManager([], inheritable_handlers=[Mine()])

    HarkenHandler(bus).invoke(agent_of(ADD, "3", tools=[add]), asking(), {"callbacks": [Mine()]})
    HarkenHandler(bus).invoke(agent_of(ADD, "3", tools=[add]), asking(), {"callbacks": manager})

    assert ["3", "3"] == seen
    assert 1 == len(manager.inheritable_handlers)
    assert 2 == len(heard.of(RunStarted))


@pytest.mark.parametrize("is_first", [True, False])
def test_a_callback_of_somebody_else_that_raises(bus: Bus, heard: Captured, is_first: bool) -> None:
    """
    What ends the run is told as what it was, and whatever was open is closed.
    """

    class Broken(BaseCallbackHandler):
        raise_error = True
        run_inline = True

        def on_tool_start(self, *args: Any, **options: Any) -> None:
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        handlers = [HarkenHandler(bus), Broken()]
        callbacks = handlers if is_first else handlers[::-1]
        agent_of(ADD, "3", tools=[add]).invoke(asking(), {"callbacks": callbacks})

    assert ("run.failed", "failure") == told(heard)[-1]


def test_ends_that_come_again_and_starts_that_come_too_late(bus: Bus, heard: Captured) -> None:
    """
    From a thread without a context, for two runs at once: each operation has one end, and a call
    that begins when its run is over is a run of its own.
    """
    handler = HarkenHandler(bus)
    runs, calls = [uuid4(), uuid4()], [uuid4(), uuid4()]

    def work() -> None:
        for run, one in zip(runs, calls, strict=True):
            handler.on_chain_start({}, {}, run_id=run)
            handler.on_tool_start({"name": "add"}, "{}", run_id=one, parent_run_id=run)
        for run, one in zip(runs, calls, strict=True):
            handler.on_tool_end("3", run_id=one)
            handler.on_tool_end("3", run_id=one)
            handler.on_tool_error(ValueError("again"), run_id=one)
            handler.on_chain_end({}, run_id=run)
            handler.on_chain_error(ValueError("again"), run_id=run)
        handler.on_tool_start({"name": "late"}, "{}", run_id=calls[0], parent_run_id=runs[0])
        handler.on_tool_end("3", run_id=calls[0])

    thread = threading.Thread(target=lambda: contextvars.Context().run(work))
    thread.start()
    thread.join()

    assert [("tool.completed", "success"), ("run.completed", "success")] * 3 == told(heard)
    assert 3 == len(runs_of(heard))
    assert 0 == bus.health().refused_terminals


@ways
def test_who_comes_in_the_middle_of_a_run_hears_the_rest(bus: Bus, way: Way) -> None:
    """
    Before, nobody listened; turns are counted all the same.
    """
    heard = Captured()

    @tool
    def listen() -> str:
        """
        Begin to listen.
        """
        bus.attach(heard)
        return ""

    agent = agent_of([("listen", "c1", {})], ADD, "3", tools=[listen, add])

    way(bus, agent, asking(), None)

    check_runs(heard)
    assert [2, 3] == [one.iteration for one in heard.of(TurnStarted)]
    assert {"c1": "3"} == results(heard)
    assert {"success"} == {outcome for _, outcome in told(heard)}


@ways
def test_the_result_is_the_same_without_a_working_bus(
    broken_bus: Bus, caplog: pytest.LogCaptureFixture, way: Way
) -> None:
    """
    Neither a required subscriber that fails nor a closed bus changes what the framework returns.
    """
    first = way(broken_bus, agent_of(ADD, "3", tools=[add]), asking(), None)
    broken_bus.close()
    second = way(broken_bus, agent_of(ADD, "3", tools=[add]), asking(), None)

    assert ["3", "3"] == [first["messages"][-1].content, second["messages"][-1].content]
    assert "was not recorded" in caplog.text
