"""
Agents of Pydantic AI.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from pydantic_ai import Agent, DeferredToolRequests, RunContext
from pydantic_ai.messages import ModelResponse, TextPart, ToolCallPart
from pydantic_ai.models.function import AgentInfo, FunctionModel

from frameworks import Tokens, cancelled
from harken import Bus
from harken.adapters.pydantic_ai import Recorded

Step = Sequence[tuple[str, dict[str, str]]]


async def search(text: str) -> str:
    await asyncio.sleep(0.01)
    return text


async def fail() -> str:
    raise ValueError("no such invoice")


async def sleep() -> str:
    await asyncio.sleep(60)
    return ""


def agent_of(*steps: Step, tools: Sequence[Any] = (), **options: Any) -> Any:
    left = [*steps, None]

    def answer(messages: Any, info: AgentInfo) -> ModelResponse:
        step = left.pop(0)
        if step is None:
            return ModelResponse(parts=[TextPart("Done.")])
        return ModelResponse(
            parts=[
                ToolCallPart(name, arguments, tool_call_id=f"c{number}")
                for number, (name, arguments) in enumerate(step)
            ]
        )

    agent: Any = Agent(FunctionModel(answer, model_name="scripted"), **options)
    for tool in tools:
        agent.tool_plain(tool, timeout=0.02 if tool is sleep else None)
    return agent


def counted(*results: Any) -> list[Tokens]:
    return [(result.usage.input_tokens, result.usage.output_tokens) for result in results]


def work(bus: Bus, *steps: Step, tools: Sequence[Any]) -> list[Tokens]:
    return counted(asyncio.run(Recorded(bus).run(agent_of(*steps, tools=tools), "?")))


SEARCH = ("search", {"text": "disk"})


def calls_a_tool(bus: Bus) -> list[Tokens]:
    return work(bus, [SEARCH], tools=[search])


def calls_two_tools_at_once(bus: Bus) -> list[Tokens]:
    return work(bus, [SEARCH, SEARCH], tools=[search])


def fails_in_a_tool(bus: Bus) -> list[Tokens]:
    with suppress(ValueError):
        work(bus, [("fail", {})], tools=[fail])
    return []


def waits_for_a_tool_in_vain(bus: Bus) -> list[Tokens]:
    return work(bus, [("sleep", {})], tools=[sleep])


def is_cancelled_in_a_tool(bus: Bus) -> list[Tokens]:
    return cancelled(lambda wait: Recorded(bus).run(agent_of([("wait", {})], tools=[wait]), "?"))


def waits_for_an_approval(bus: Bus) -> list[Tokens]:
    agent = agent_of([("pay", {})], output_type=[str, DeferredToolRequests])

    @agent.tool_plain(requires_approval=True)
    def pay() -> str:
        return "paid"

    return counted(asyncio.run(Recorded(bus).run(agent, "?")))


def asks_another_agent(bus: Bus) -> list[Tokens]:
    recorded = Recorded(bus)
    inner = agent_of([SEARCH], tools=[search])
    outer = agent_of([("ask", {})])
    inner_results: list[Any] = []

    @outer.tool
    async def ask(context: RunContext[Any]) -> str:
        inner_results.append(await recorded.run(inner, "?"))
        return "Done."

    result = asyncio.run(recorded.run(outer, "?"))
    return counted(*inner_results, result)


def goes_on_beside_another(bus: Bus) -> list[Tokens]:
    recorded = Recorded(bus)

    async def main() -> list[Tokens]:
        agents = [agent_of([("search", {"text": text})], tools=[search]) for text in ("a", "b")]
        return counted(*await asyncio.gather(*(recorded.run(agent, "?") for agent in agents)))

    return asyncio.run(main())
