"""
CrewAI, the real one, with a scripted model: each way a run can go.

CrewAI limits the time of an agent (``max_execution_time``) and of tools of MCP servers, but has
no limit for other tools: ``crewai/tools`` knows none outside of ``mcp_tool_wrapper.py``. So a
tool that runs out of time is here one that raises `TimeoutError`, and an agent whose time is up.
Nor does a call of a tool wait for an approval: a hook blocks it or does not, and what waits for a
person is a flow with ``@human_feedback``.
"""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from tests.adapters.laws import framework, nesting, runs_of, told

# It looks at these when it is imported. Where it is not, other tests run in this process.
if find_spec("crewai") is not None:
    os.environ.update(
        CREWAI_DISABLE_TELEMETRY="true", OTEL_SDK_DISABLED="true", CREWAI_TRACING_ENABLED="false"
    )

framework("crewai")

from crewai import Agent, BaseLLM, Crew, Task
from crewai.events import ToolUsageFinishedEvent, ToolUsageStartedEvent
from crewai.events.event_bus import crewai_event_bus
from crewai.events.types.llm_events import LLMCallType
from crewai.flow.async_feedback import HumanFeedbackPending
from crewai.flow.flow import Flow, listen, start
from crewai.flow.human_feedback import human_feedback
from crewai.hooks.dispatch import InterceptionPoint, register_scoped, scoped_hooks
from crewai.llms.base_llm import llm_call_context
from crewai.tools import tool

from harken import Bus
from harken.adapters.crewai import HarkenListener
from harken.catalog import (
    AgentStarted,
    HumanInputReceived,
    HumanInputRequested,
    LlmCompleted,
    PolicyEvaluated,
    RunCompleted,
    RunFailed,
    ToolCompleted,
    ToolFailed,
    ToolRetried,
    ToolStarted,
)
from harken.testing import Captured

# What CrewAI and its libraries do, not what harken does.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def listener(bus: Bus) -> Iterator[HarkenListener]:
    """
    A listener, the only one on the event bus of CrewAI, which is one for the process.
    """
    with crewai_event_bus.scoped_handlers():
        yield HarkenListener(bus)
        crewai_event_bus.flush()


USED = {"prompt_tokens": 10, "completion_tokens": 4}


class Scripted(BaseLLM):
    """
    A model that says what is written down: calls of tools as text, or as lists of calls.
    """

    def __init__(self, *answers: str | list[dict[str, Any]]) -> None:
        super().__init__(model="scripted")
        self._left = list(answers)
        self._is_native = any(isinstance(answer, list) for answer in answers)

    def call(self, messages: Any, *args: Any, **options: Any) -> Any:
        # What the models that come with CrewAI tell of a call.
        with llm_call_context():
            self._emit_call_started_event(messages)
            try:
                answer = self._left.pop(0)
            except IndexError as error:
                self._emit_call_failed_event(str(error))
                raise
            self._track_token_usage_internal(USED)
            self._emit_call_completed_event(answer, LLMCallType.LLM_CALL, usage=USED)
        return answer

    def supports_function_calling(self) -> bool:
        return self._is_native

    def get_context_window_size(self) -> int:
        return 8192


@tool("add")
def add(a: int, b: int) -> int:
    """
    Add two numbers.
    """
    return a + b


@tool("fail")
def fail() -> int:
    """
    Raise an error.
    """
    raise ValueError("no such invoice")


@tool("echo")
def echo(text: str) -> str:
    """
    Say what was said.
    """
    time.sleep(0.02)
    return text


@tool("late")
def late() -> str:
    """
    Run out of time.
    """
    raise TimeoutError("no answer in time")


Answer = str | list[dict[str, Any]]


def agent_of(*answers: Answer, role: str = "clerk", tools: Any = (), **options: Any) -> Agent:
    """
    Return an agent whose model says *answers*.
    """
    return Agent(
        role=role,
        goal="answer",
        backstory="-",
        llm=Scripted(*answers),
        tools=list(tools),
        max_retry_limit=0,
        **options,
    )


def crew_of(*answers: Answer, tools: Any = (), others: Any = (), **options: Any) -> Crew:
    """
    Return a crew of an agent whose model says *answers*, and of *others* it can ask.
    """
    agent = agent_of(*answers, tools=tools, **options)
    task = Task(description="Answer.", expected_output="An answer.", agent=agent)
    return Crew(agents=[agent, *others], tasks=[task])


def native(name: str, call_id: str, **arguments: Any) -> dict[str, Any]:
    """
    Return a call as a model with function calling says it.
    """
    function = {"name": name, "arguments": json.dumps(arguments)}
    return {"id": call_id, "type": "function", "function": function}


def calls(name: str, arguments: str = "{}") -> str:
    return f"Thought: x\nAction: {name}\nAction Input: {arguments}"


DONE = "Thought: done\nFinal Answer: 3"


def test_a_run_that_succeeds(bus: Bus, heard: Captured, listener: HarkenListener) -> None:
    """
    Agents are inside of the run, and tool calls inside of the agents; the usage is the crew's.
    """
    crew = crew_of(calls("add", '{"a": 1, "b": 2}'), DONE, tools=[add])

    result = listener.kickoff(crew)

    assert "3" == result.raw
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
    (end,) = heard.of(RunCompleted)
    assert (result.token_usage.prompt_tokens, result.token_usage.completion_tokens) == (
        end.input_tokens,
        end.output_tokens,
    )
    assert end.input_tokens == sum(one.input_tokens for one in heard.of(LlmCompleted)) > 0


def test_a_tool_that_fails(bus: Bus, heard: Captured, listener: HarkenListener) -> None:
    """
    A call that CrewAI tries three times is one call, which failed; the run has not.
    """
    listener.kickoff(crew_of(calls("fail"), DONE, tools=[fail]))

    assert [("tool.failed", "failure"), ("run.completed", "success")] == told(heard, "tool", "run")
    assert [2, 3] == [one.attempt for one in heard.of(ToolRetried)]


def test_a_failed_call_that_the_model_repeats(
    bus: Bus, heard: Captured, listener: HarkenListener
) -> None:
    """
    What the model asks for again, after CrewAI has given a call up, is a call of its own.
    """
    listener.kickoff(crew_of([native("fail", "c1")], [native("fail", "c2")], "3", tools=[fail]))

    assert [("tool.failed", "failure"), ("tool.failed", "failure")] == told(heard, "tool")
    assert [] == heard.of(ToolRetried)


@pytest.mark.parametrize("answer", [calls("late"), [native("late", "c1")]])
def test_a_tool_that_runs_out_of_time(
    bus: Bus, heard: Captured, listener: HarkenListener, answer: Answer
) -> None:
    """
    The call timed out, and the run, which went on, did not.
    """
    listener.kickoff(crew_of(answer, DONE, tools=[late]))

    assert [("tool.failed", "timeout"), ("run.completed", "success")] == told(heard, "tool", "run")
    (failed,) = heard.of(ToolFailed)
    assert ("TimeoutError", "no answer in time") == (failed.error_type, failed.error_message)


def test_an_agent_that_runs_out_of_time(
    bus: Bus, heard: Captured, listener: HarkenListener
) -> None:
    """
    The agent and the run timed out. The tool did not: CrewAI lets it end before it says so.
    """

    @tool("long")
    def long() -> str:
        """
        Take longer than the agent may.
        """
        time.sleep(1.2)
        return "x"

    crew = crew_of([native("long", "c1")], "3", tools=[long], max_execution_time=1)
    with pytest.raises(TimeoutError):
        listener.kickoff(crew)

    assert [
        ("tool.completed", "success"),
        ("agent.failed", "timeout"),
        ("run.failed", "timeout"),
    ] == told(heard, "tool", "agent", "run")
    (end,) = heard.of(RunFailed)
    assert (20, 8) == (end.input_tokens, end.output_tokens)


def test_parallel_tools(bus: Bus, heard: Captured, listener: HarkenListener) -> None:
    """
    Each result belongs to its own call, whichever ends first.
    """
    both = threading.Barrier(2)

    @tool("meet")
    def meet(text: str) -> str:
        """
        Wait for the other call.
        """
        both.wait(20)
        time.sleep(0.03 if text == "one" else 0)
        return text

    steps = [native("meet", "c1", text="one"), native("meet", "c2", text="two")]
    listener.kickoff(crew_of([*steps, native("fail", "c3")], "3", tools=[meet, fail]))

    asked = {one.tool_call_id: one.arguments for one in heard.of(ToolStarted)}
    assert {"one": "one", "two": "two"} == {
        asked[one.tool_call_id]["text"]: one.result for one in heard.of(ToolCompleted)
    }
    assert ["fail"] == [one.tool_name for one in heard.of(ToolFailed)]
    assert 3 == nesting(heard).count("tool.started < agent.started")


def test_an_agent_that_asks_another(bus: Bus, heard: Captured, listener: HarkenListener) -> None:
    """
    What the other agent does is inside of the tool call that asked it, and so is its end.
    """
    ask = native("ask_question_to_coworker", "o1", question="?", context="-", coworker="adder")
    adder = agent_of([native("add", "i1", a=1, b=2)], "3", role="adder", tools=[add])

    result = listener.kickoff(crew_of([ask], "3", others=[adder], allow_delegation=True))

    assert [
        "run.started",
        "agent.started < run.started",
        "llm.started < agent.started",
        "tool.started < agent.started",
        "agent.started < tool.started",
        "llm.started < agent.started",
        "tool.started < agent.started",
        "llm.started < agent.started",
        "llm.started < agent.started",
    ] == nesting(heard)
    assert ["clerk", "adder"] == [one.agent_name for one in heard.of(AgentStarted)]
    assert {"success"} == {outcome for _, outcome in told(heard)}
    (end,) = heard.of(RunCompleted)
    assert (result.token_usage.prompt_tokens, 2) == (end.input_tokens, end.tool_calls)


def test_a_call_that_a_hook_blocks(bus: Bus, heard: Captured, listener: HarkenListener) -> None:
    """
    CrewAI says that the call has finished, and the record that it was denied.
    """
    with scoped_hooks():
        register_scoped(InterceptionPoint.PRE_TOOL_CALL, lambda context: False)
        listener.kickoff(crew_of([native("echo", "c1", text="x")], "3", tools=[echo]))

    assert [("tool.denied", "denied"), ("run.completed", "success")] == told(heard, "tool", "run")


def test_a_call_as_text_that_a_hook_blocks(
    bus: Bus, heard: Captured, listener: HarkenListener
) -> None:
    """
    CrewAI does not say which call it was, and the record has the decision.
    """
    with scoped_hooks():
        register_scoped(InterceptionPoint.PRE_TOOL_CALL, lambda context: False)
        listener.kickoff(crew_of(calls("echo", '{"text": "x"}'), DONE, tools=[echo]))

    assert [] == heard.of(ToolStarted)
    assert ["deny"] == [one.decision for one in heard.of(PolicyEvaluated)]


class Asking:
    """
    Whoever is to give feedback is not there.
    """

    def request_feedback(self, context: Any, flow: Any) -> str:
        raise HumanFeedbackPending(context=context)


class Reviewed(Flow[Any]):
    """
    A flow whose draft, by a crew, somebody has to look at.
    """

    @start()
    @human_feedback(message="Is it good?", provider=Asking())
    def draft(self) -> str:
        crew = crew_of([native("add", "c1", a=1, b=2)], "3", tools=[add])
        return str(crew.kickoff().raw)

    @listen(draft)
    def done(self, review: Any) -> str:
        return f"{review.output}: {review.feedback}"


@pytest.mark.parametrize("is_wrapped", [True, False])
def test_a_flow_that_waits_for_somebody(
    bus: Bus,
    heard: Captured,
    listener: HarkenListener,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    is_wrapped: bool,
) -> None:
    """
    It is no failure, its crew is part of its run, and what it waited for is told when it goes on.
    """
    # Where it keeps what waits.
    monkeypatch.setenv("CREWAI_STORAGE_DIR", str(tmp_path))
    flow = Reviewed()

    pending = listener.kickoff(flow) if is_wrapped else flow.kickoff()
    crewai_event_bus.flush()
    paused = heard.envelopes[:]
    result = Reviewed.from_pending(pending.context.flow_id).resume("fine")
    crewai_event_bus.flush()

    assert "3: fine" == result
    assert {"agent.started < run.started", "tool.started < agent.started"} < set(nesting(heard))
    assert [
        ("tool.completed", "success"),
        ("agent.completed", "success"),
        ("run.completed", "deferred"),
        ("run.completed", "success"),
    ] == told(heard, "tool", "agent", "run")
    asked = [item.event for item in paused if isinstance(item.event, HumanInputRequested)]
    assert [one.request_id for one in asked] == [
        one.request_id for one in heard.of(HumanInputReceived)
    ]
    first, second = heard.of(RunCompleted)
    assert (20, "3: fine") == (first.input_tokens, second.result)


def test_a_flow_that_fails(bus: Bus, heard: Captured, listener: HarkenListener) -> None:
    """
    The error of a method ends the run of its flow.
    """

    class Broken(Flow[Any]):
        @start()
        def fail(self) -> None:
            raise ValueError("no such invoice")

    with pytest.raises(ValueError, match="no such invoice"):
        listener.kickoff(Broken())
    with pytest.raises(ValueError, match="no such invoice"):
        Broken().kickoff()
    crewai_event_bus.flush()

    assert [("run.failed", "failure"), ("run.failed", "failure")] == told(heard)


def test_a_listener_of_somebody_else_that_raises(
    bus: Bus, heard: Captured, listener: HarkenListener
) -> None:
    """
    CrewAI goes on, and so does the record.
    """

    def broken(source: Any, event: Any) -> None:
        raise OSError("disk full")

    crewai_event_bus.register_handler(ToolUsageStartedEvent, broken)

    listener.kickoff(crew_of([native("add", "c1", a=1, b=2)], "3", tools=[add]))

    assert [("tool.completed", "success"), ("run.completed", "success")] == told(
        heard, "tool", "run"
    )


def test_events_that_come_again(bus: Bus, heard: Captured, listener: HarkenListener) -> None:
    """
    An end that CrewAI emits twice is one end.
    """
    seen: list[Any] = []
    crewai_event_bus.register_handler(
        ToolUsageFinishedEvent, lambda source, event: seen.append((source, event))
    )

    @tool("again")
    def again() -> str:
        """
        Say the last end once more.
        """
        crewai_event_bus.flush()
        for source, event in seen:
            crewai_event_bus.emit(source, event)
        crewai_event_bus.flush()
        return ""

    steps = [[native("add", "c1", a=1, b=2)], [native("again", "c2")]]
    listener.kickoff(crew_of(*steps, "3", tools=[add, again]))

    assert [("tool.completed", "success")] * 2 == told(heard, "tool")
    assert 0 == bus.health().refused_terminals


def test_a_model_that_fails(bus: Bus, heard: Captured, listener: HarkenListener) -> None:
    """
    The error ends the agent and the run.
    """
    with pytest.raises(IndexError):
        listener.kickoff(crew_of())

    assert [
        ("llm.failed", "failure"),
        ("agent.failed", "failure"),
        ("run.failed", "failure"),
    ] == told(heard)


def test_a_run_that_nobody_wraps(bus: Bus, heard: Captured, listener: HarkenListener) -> None:
    """
    The listener by itself tells a whole run, and a failed one.
    """
    crew_of(calls("add", '{"a": 1, "b": 2}'), DONE, tools=[add]).kickoff()
    with pytest.raises(IndexError):
        crew_of().kickoff()
    crewai_event_bus.flush()

    assert ["success", "failure"] == [outcome for _, outcome in told(heard, "run")]


def test_two_runs_at_once(bus: Bus, heard: Captured, listener: HarkenListener) -> None:
    """
    Two crews on the one event bus of the process are never mixed.
    """

    def work(text: str) -> None:
        answer = f"Thought: done\nFinal Answer: {text}"
        listener.kickoff(crew_of(calls("echo", f'{{"text": "{text}"}}'), answer, tools=[echo]))

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(work, ("one", "two")))

    runs = runs_of(heard)
    assert 2 == len(runs)
    for run in runs.values():
        assert [one.result for one in run.of(ToolCompleted)] == [
            one.result for one in run.of(RunCompleted)
        ]


def test_a_run_that_is_cancelled_in_a_tool(
    bus: Bus, heard: Captured, listener: HarkenListener
) -> None:
    """
    Whoever waits for the crew is cancelled; what is open then was cancelled with the run. CrewAI
    cannot stop the thread of the crew, and what that still does is on the record.
    """

    async def main() -> None:
        crew = crew_of(calls("wait"), DONE, tools=[wait])
        task = asyncio.create_task(listener.kickoff_async(crew))
        await asyncio.to_thread(begun.wait, 20)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    @tool("wait")
    def wait() -> str:
        """
        Take a while.
        """
        time.sleep(0.5)
        return ""

    begun = threading.Event()
    bus.subscribe(lambda envelope: begun.set(), ToolStarted)

    asyncio.run(main())
    crewai_event_bus.flush()

    assert {
        ("tool.failed", "cancelled"),
        ("agent.failed", "cancelled"),
        ("run.cancelled", "cancelled"),
    } == set(told(heard, "tool", "agent", "run"))
    after = heard.names[heard.names.index("run.cancelled") + 1 :]
    assert ["llm.started", "llm.completed"] == after


def test_the_result_is_the_same_without_a_working_bus(
    bus: Bus, listener: HarkenListener, caplog: pytest.LogCaptureFixture
) -> None:
    """
    A closed bus changes nothing of what the crew returns.
    """
    bus.subscribe(lambda envelope: None)
    bus.close()

    result = listener.kickoff(crew_of(calls("add", '{"a": 1, "b": 2}'), DONE, tools=[add]))

    assert "3" == result.raw
    assert "was not recorded" in caplog.text
