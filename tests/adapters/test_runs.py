"""
What adapters are made of: a run, and what is open in it, whatever a framework does.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from typing import Any

import pytest
from tests.adapters.laws import nesting, told

import harken
from harken import Bus
from harken.adapters._runs import Run
from harken.catalog import (
    AgentCompleted,
    AgentStarted,
    PrCreated,
    RunStarted,
    ScopeOrphaned,
    ToolCompleted,
    ToolStarted,
    TurnStarted,
)
from harken.testing import Captured


def run_of(bus: Bus, **options: Any) -> Run:
    return Run(bus, RunStarted(), source="test", **options)


def call(name: str = "search") -> ToolStarted:
    return ToolStarted(tool_name=name)


def test_an_end_is_told_once(bus: Bus, heard: Captured) -> None:
    """
    A framework may end an operation twice, or one that never began; the record has one end.
    """
    with run_of(bus) as run:
        run.begin("c1", call())
        run.end("c1")
        run.end("c1", ValueError("again"))
        run.end("c2")

    assert [("tool.completed", "success"), ("run.completed", "success")] == told(heard)
    assert 0 == bus.health().refused_terminals


def test_a_start_is_told_once(bus: Bus, heard: Captured) -> None:
    """
    What is open already does not begin again.
    """
    with run_of(bus) as run:
        run.begin("c1", call())
        run.begin("c1", call())
        run.end("c1")

    assert 1 == heard.names.count("tool.started")


def test_an_end_after_the_run_is_passed_over(bus: Bus, heard: Captured) -> None:
    """
    What was closed with its run is not ended once more when the framework gets to it.
    """
    with run_of(bus) as run:
        run.begin("c1", call())
    run.end("c1")

    assert [("tool.failed", "orphaned"), ("run.completed", "success")] == told(heard)
    assert 0 == bus.health().refused_terminals


def test_what_begins_after_the_run_is_on_the_record(bus: Bus, heard: Captured) -> None:
    """
    A tool that is called when its run is over was called nevertheless.
    """
    run = run_of(bus).open()
    run.close()
    run.close(ValueError("twice"))

    run.begin("c1", call())
    run.publish(PrCreated(url="/7"))
    run.end("c1")

    assert [("run.completed", "success"), ("tool.completed", "success")] == told(heard)
    heard.clear()


def test_callbacks_may_come_from_any_thread(bus: Bus, heard: Captured) -> None:
    """
    What belongs together is told by keys: the context of a callback says nothing.
    """
    run = run_of(bus, run_id="r-1").open()

    def call_back() -> None:
        run.begin("a1", AgentStarted(agent_id="clerk"))
        run.begin("c1", call(), parent="a1")
        run.publish(PrCreated(url="/7"), parent="c1")
        run.end("c1")
        run.end("a1")

    thread = threading.Thread(target=contextvars.Context().run, args=(call_back,))
    thread.start()
    thread.join()
    run.close()

    assert ["run.started", "agent.started < run.started", "tool.started < agent.started"] == (
        nesting(heard)
    )
    assert {"r-1"} == {item.run_id for item in heard.envelopes}
    assert heard.envelopes[3].span_id == heard.envelopes[2].span_id


def test_what_is_inside_ends_first(bus: Bus, heard: Captured) -> None:
    """
    An operation that ends closes what its framework left open inside of it.
    """
    with run_of(bus) as run:
        run.begin("a1", AgentStarted(agent_id="clerk"))
        run.begin("c1", call(), parent="a1")
        run.begin("a2", AgentStarted(agent_id="other"), parent="c1")
        run.end("a1")

    assert [
        ("agent.failed", "orphaned"),
        ("tool.failed", "orphaned"),
        ("agent.completed", "success"),
        ("run.completed", "success"),
    ] == told(heard)
    assert 2 == len(heard.of(ScopeOrphaned))


def test_a_run_inside_of_a_run_ends_first(bus: Bus, heard: Captured) -> None:
    """
    A task that goes on when its run is cancelled leaves no run and no step open.
    """

    async def inner() -> None:
        with run_of(bus) as run, run.step(call()):
            await asyncio.sleep(60)

    async def main() -> None:
        with pytest.raises(RuntimeError), run_of(bus) as run, run.step(call("ask")):
            task = asyncio.create_task(inner())
            await asyncio.sleep(0.01)
            raise RuntimeError("the task is forgotten")
        told_by_then = told(heard)
        task.cancel()
        await asyncio.wait([task])
        assert told_by_then == told(heard)

    asyncio.run(main())

    assert ("run.failed", "failure") == told(heard)[-1]
    assert 4 == len(told(heard))
    assert 0 == bus.health().refused_terminals


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (GeneratorExit(), "cancelled"),
        (KeyboardInterrupt(), "cancelled"),
        (asyncio.CancelledError(), "cancelled"),
        (TimeoutError(), "timeout"),
        (ValueError(), "failure"),
        (SystemExit(3), "failure"),
    ],
)
def test_what_leaves_a_run_says_how_it_ended(
    bus: Bus, heard: Captured, error: BaseException, outcome: str
) -> None:
    """
    Each exception goes on as it was, and decides the outcome.
    """
    with pytest.raises(type(error)) as raised, run_of(bus) as run:
        run.usage.input_tokens = 7
        raise error

    assert raised.value is error
    assert [outcome] == [outcome for _, outcome in told(heard)]
    assert [7] == [item.data()["input_tokens"] for item in heard.envelopes if item.type.is_terminal]


def test_a_field_that_the_end_does_not_have_stops_nothing(
    bus: Bus, heard: Captured, caplog: pytest.LogCaptureFixture
) -> None:
    """
    A mistake of an adapter is logged, and the operation ends nevertheless.
    """
    with run_of(bus) as run:
        run.begin("c1", call())
        run.end("c1", no_such_field=1)

    assert ("run.completed", "success") == told(heard)[-1]
    assert "no_such_field" in caplog.text


def test_some_operations_are_heard_of_and_others_are_not(bus: Bus) -> None:
    """
    Where nobody listens to a run or a turn, what is inside is inside of what somebody hears of.
    """
    heard = Captured()
    bus.attach(heard, AgentStarted, AgentCompleted, ToolStarted, ToolCompleted, PrCreated)
    with run_of(bus) as run:
        run.begin("agent", AgentStarted(agent_id="a"))
        run.begin("turn", TurnStarted(iteration=1), parent="agent")
        run.begin("c1", call(), parent="turn")
        run.publish(PrCreated(url="/1"), parent="turn")
        run.end("turn")
        run.end("agent")
        with run.step(TurnStarted(iteration=2)), run.step(call()):
            bus.publish(PrCreated(url="/2"))

    assert ["agent.started", "tool.started < agent.started", "tool.started"] == nesting(heard)
    assert [("agent.completed", "success"), ("tool.completed", "success")] == told(heard)
    (first, second) = [item for item in heard.envelopes if isinstance(item.event, PrCreated)]
    starts = [item for item in heard.envelopes if item.type.is_start]
    assert [first.span_id, second.span_id] == [starts[0].span_id, starts[2].span_id]


def test_only_the_ends_are_heard_of(bus: Bus) -> None:
    """
    Whoever listens to the ends of tool calls alone hears each of them.
    """
    heard = Captured()
    bus.attach(heard, ToolCompleted)
    with run_of(bus) as run:
        run.begin("c1", call())
        run.end("c1", result=1)
        with run.step(call()) as step:
            step.decide(result=2)

    assert [1, 2] == [one.result for one in heard.of(ToolCompleted)]


def test_a_bus_that_is_closed_in_the_middle_of_a_run(
    bus: Bus, caplog: pytest.LogCaptureFixture
) -> None:
    """
    What is not on the record any more is told in the log, once, and the framework goes on.
    """
    bus.attach(Captured())
    with run_of(bus) as run:
        bus.close()
        for number in range(3):
            run.begin(number, call())
            run.end(number)

    assert 1 == caplog.text.count("was not recorded")


def test_nobody_listens(bus: Bus) -> None:
    """
    Without a listener everything works, and nothing is told.
    """
    with run_of(bus) as run, run.step(call()) as step:
        run.begin("c1", call())
        step.decide(result=1)

    assert "run_id" not in harken.current_context()
