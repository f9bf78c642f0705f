"""
What recording a run costs, beside what the framework itself costs.

Each framework that is installed runs an agent that calls ten tools, one in each turn, with a
scripted model that costs next to nothing, so that a run is nothing but the framework: by itself;
with a hook of the framework's own kind that does nothing; through the adapter on a bus that nobody
listens to; through it with a sink that does nothing, where every event is built, stamped and
paired; and with an audit log that is written by a worker.

"empty hook / alone" is what the framework takes to call any hook, "adapter / empty hook" what the
adapter adds to it, and the rest is what the bus and its sinks cost. All are in the processor time
of the whole process. A round takes each of them several times in turns, and compares the least of
each: what else the machine does only adds. What the processor's caches hold counts most here, as
the framework evicts harken between two calls.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from measure import Results, begin, interleaved

from harken import Bus, Envelope, Event
from harken.sinks.audit import AuditLog

CALLS = 10

RUNS = 30
"""Runs of each kind in a round."""

Once = Callable[["Bus | Nothing | None"], Callable[[], Awaitable[object]]]
"""Makes one run: by itself, with a hook that does nothing, or through the adapter on a bus."""


class Nothing:
    """
    Stands for a hook that does nothing.
    """


class Ignoring:
    """
    A sink that does nothing.
    """

    delivery = "inline"

    def write(self, batch: Sequence[Envelope[Event]], /) -> None:
        """
        Do nothing.
        """


def openai_agents(bus: Bus | Nothing | None) -> Callable[[], Awaitable[object]]:
    """
    Return a run of the OpenAI Agents SDK, as it is by default but for the network.
    """
    from agents import Agent, RunHooks, Runner, function_tool, set_trace_processors
    from agents.testing import ScriptedModel, assistant_message, function_call

    from harken.adapters.openai_agents import HarkenHooks

    @function_tool
    def add(a: int, b: int) -> int:
        return a + b

    set_trace_processors([])
    turns: list[Any] = [
        [function_call("add", {"a": n, "b": 1}, call_id=f"c{n}")] for n in range(CALLS)
    ]
    agent = Agent(
        name="clerk", model=ScriptedModel([*turns, [assistant_message("Done.")]]), tools=[add]
    )
    if bus is None:
        return lambda: Runner.run(agent, "?", max_turns=CALLS + 1)
    if isinstance(bus, Nothing):
        return lambda: Runner.run(agent, "?", max_turns=CALLS + 1, hooks=RunHooks())
    hooks = HarkenHooks(bus)
    return lambda: hooks.run(agent, "?", max_turns=CALLS + 1)


def langgraph(bus: Bus | Nothing | None) -> Callable[[], Awaitable[object]]:
    """
    Return a run of LangGraph.
    """
    from langchain.agents import create_agent
    from langchain_core.callbacks import BaseCallbackHandler
    from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
    from langchain_core.messages import AIMessage
    from langchain_core.tools import tool

    from harken.adapters.langchain import HarkenHandler

    class Scripted(GenericFakeChatModel):
        def bind_tools(self, tools: Any, **options: Any) -> Any:
            return self

    @tool
    async def add(a: int, b: int) -> int:
        """
        Add.
        """
        return a + b

    turns = [
        AIMessage("", tool_calls=[{"name": "add", "args": {"a": n, "b": 1}, "id": f"c{n}"}])
        for n in range(CALLS)
    ]
    agent = create_agent(Scripted(messages=iter([*turns, AIMessage("Done.")])), [add])
    question: Any = {"messages": [("user", "?")]}
    config: Any = {"recursion_limit": 4 * CALLS}
    if bus is None:
        return lambda: agent.ainvoke(question, config)
    if isinstance(bus, Nothing):

        class Empty(BaseCallbackHandler):
            run_inline = True

            def on_chat_model_start(self, *args: Any, **named: Any) -> None:
                pass

        return lambda: agent.ainvoke(question, {**config, "callbacks": [Empty()]})
    handler = HarkenHandler(bus)
    return lambda: handler.ainvoke(agent, question, config)


def pydantic_ai(bus: Bus | Nothing | None) -> Callable[[], Awaitable[object]]:
    """
    Return a run of Pydantic AI.
    """
    from pydantic_ai import Agent
    from pydantic_ai.capabilities import AbstractCapability
    from pydantic_ai.messages import ModelResponse, TextPart, ToolCallPart
    from pydantic_ai.models.function import FunctionModel

    from harken.adapters.pydantic_ai import Recorded

    left = list(range(CALLS))

    def answer(messages: Any, info: Any) -> ModelResponse:
        if not left:
            return ModelResponse(parts=[TextPart("Done.")])
        n = left.pop()
        return ModelResponse(parts=[ToolCallPart("add", {"a": n, "b": 1}, tool_call_id=f"c{n}")])

    agent: Any = Agent(FunctionModel(answer))

    @agent.tool_plain
    async def add(a: int, b: int) -> int:
        return a + b

    if bus is None:
        return lambda: agent.run("?")
    if isinstance(bus, Nothing):

        class Empty(AbstractCapability[Any]):
            async def wrap_run(self, ctx: Any, *, handler: Any) -> Any:
                return await handler()

            async def wrap_model_request(
                self, ctx: Any, *, request_context: Any, handler: Any
            ) -> Any:
                return await handler(request_context)

            async def wrap_tool_validate(self, ctx: Any, *, handler: Any, **about: Any) -> Any:
                return await handler(about["args"])

            async def wrap_tool_execute(self, ctx: Any, *, handler: Any, **about: Any) -> Any:
                return await handler(about["args"])

        return lambda: agent.run("?", capabilities=[Empty()])
    recorded = Recorded(bus)
    return lambda: recorded.run(agent, "?")


FRAMEWORKS: dict[str, tuple[str, Once]] = {
    "OpenAI Agents SDK": ("agents", openai_agents),
    "LangGraph": ("langgraph", langgraph),
    "Pydantic AI": ("pydantic_ai", pydantic_ai),
}


def seconds(make: Once, bus: Bus | Nothing | None, after: Callable[[], object]) -> float:
    """
    Return the seconds of processor time that one run takes, with what is done *after* it.
    """
    run = make(bus)

    async def measured() -> float:
        begun = time.process_time()
        await run()
        after()
        return time.process_time() - begun

    # What others left behind is not for this run to collect.
    gc.collect()
    return asyncio.run(measured())


def least(values: Sequence[float], runs: int) -> list[float]:
    """
    Return the least of each so many *values*.
    """
    return [min(values[at : at + runs]) for at in range(0, len(values), runs)]


def compare(results: Results, title: str, make: Once, folder: Path) -> None:
    """
    Add what the adapter of one framework costs.
    """
    unheard, counting, auditing = Bus(), Bus(), Bus()
    counting.attach(Ignoring())
    auditing.attach(AuditLog(folder / f"{title}.jsonl", durability="async"))
    ways: dict[str, tuple[Bus | Nothing | None, Callable[[], object]]] = {
        "alone": (None, float),
        "empty hook": (Nothing(), float),
        "adapter": (unheard, float),
        "adapter and a sink": (counting, float),
        "adapter and an audit log": (auditing, auditing.flush),
    }
    for bus, after in ways.values():
        seconds(make, bus, after)
    # The libraries themselves: nothing of them is ever garbage.
    gc.freeze()
    runs = results.scaled(RUNS)
    each = interleaved(
        {name: lambda way=way: seconds(make, *way) for name, way in ways.items()},
        results.rounds * runs,
    )
    for bus in (unheard, counting, auditing):
        bus.close()
    found = {name: least(values, runs) for name, values in each.items()}
    alone, empty = found["alone"], found["empty hook"]
    results.compare(f"{title}: adapter / alone", found["adapter"], alone, bar=1.05)
    results.compare(f"{title}: empty hook / alone", empty, alone)
    results.compare(f"{title}: adapter / empty hook", found["adapter"], empty, bar=1.05)
    for name in ("adapter and a sink", "adapter and an audit log"):
        results.compare(f"{title}: {name} / alone", found[name], alone)
    for name, values in found.items():
        results.add(f"{title}: {name}", [value * 1e3 for value in values], "ms")


def main() -> int:
    results = begin(__doc__, __file__, rounds=5)
    with tempfile.TemporaryDirectory(prefix="harken-benchmark-") as name:
        for title, (module, make) in FRAMEWORKS.items():
            if find_spec(module) is None:
                print(f"{title} is not installed", file=sys.stderr)
            else:
                compare(results, title, make, Path(name))
    results.save()
    return 0


if __name__ == "__main__":
    sys.exit(main())
