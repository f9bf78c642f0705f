"""
Agents of the OpenAI Agents SDK.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from agents import Agent, Usage, UserError, function_tool, set_trace_processors
from agents.testing import ScriptedModel, assistant_message, function_call

from frameworks import Tokens, cancelled
from harken import Bus
from harken.adapters.openai_agents import HarkenHooks

# Without this the SDK would send its traces away.
set_trace_processors([])


@function_tool
async def search(text: str) -> str:
    await asyncio.sleep(0.01)
    return text


@function_tool(failure_error_function=None)
def fail() -> str:
    raise ValueError("no such invoice")


@function_tool(timeout=0.02)
async def sleep() -> str:
    await asyncio.sleep(60)
    return ""


@function_tool(needs_approval=True)
def pay() -> str:
    return "paid"


def agent_of(*steps: Sequence[Any], tools: Sequence[Any] = ()) -> Agent[Any]:
    model = ScriptedModel(list(steps))
    model.set_default_usage(Usage(requests=1, input_tokens=10, output_tokens=4, total_tokens=14))
    return Agent(name="clerk", model=model, tools=list(tools))


def calls(*names: str, **arguments: str) -> list[Any]:
    return [function_call(name, arguments, call_id=f"c{n}") for n, name in enumerate(names)]


DONE = [assistant_message("Done.")]


def counted(*results: Any) -> list[Tokens]:
    used = [result.context_wrapper.usage for result in results]
    return [(usage.input_tokens, usage.output_tokens) for usage in used]


def work(bus: Bus, *steps: Any, tools: Sequence[Any]) -> list[Tokens]:
    return counted(asyncio.run(HarkenHooks(bus).run(agent_of(*steps, tools=tools), "?")))


def calls_a_tool(bus: Bus) -> list[Tokens]:
    return work(bus, calls("search", text="disk"), DONE, tools=[search])


def calls_two_tools_at_once(bus: Bus) -> list[Tokens]:
    return work(bus, calls("search", "search", text="disk"), DONE, tools=[search])


def fails_in_a_tool(bus: Bus) -> list[Tokens]:
    with suppress(UserError):
        work(bus, calls("fail"), tools=[fail])
    return []


def waits_for_a_tool_in_vain(bus: Bus) -> list[Tokens]:
    return work(bus, calls("sleep"), DONE, tools=[sleep])


def is_cancelled_in_a_tool(bus: Bus) -> list[Tokens]:
    return cancelled(
        lambda wait: HarkenHooks(bus).run(agent_of(calls("wait"), tools=[function_tool(wait)]), "?")
    )


def waits_for_an_approval(bus: Bus) -> list[Tokens]:
    return work(bus, calls("pay"), DONE, tools=[pay])


def asks_another_agent(bus: Bus) -> list[Tokens]:
    hooks = HarkenHooks(bus)
    inner = agent_of(calls("search", text="disk"), DONE, tools=[search])
    ask = inner.as_tool("ask", "Ask another agent.", hooks=hooks)
    outer = agent_of(calls("ask", input="?"), DONE, tools=[ask])
    return counted(asyncio.run(hooks.run(outer, "?")))


def goes_on_beside_another(bus: Bus) -> list[Tokens]:
    hooks = HarkenHooks(bus)

    async def main() -> list[Tokens]:
        agents = [agent_of(calls("search", text=t), DONE, tools=[search]) for t in ("a", "b")]
        return counted(*await asyncio.gather(*(hooks.run(agent, "?") for agent in agents)))

    return asyncio.run(main())
