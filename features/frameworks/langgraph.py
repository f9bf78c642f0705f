"""
Agents of LangGraph.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from langchain.agents import create_agent
from langchain.agents.middleware import HumanInTheLoopMiddleware
from langchain_core.callbacks import UsageMetadataCallbackHandler
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver

from frameworks import Tokens, cancelled
from harken import Bus
from harken.adapters.langchain import HarkenHandler

QUESTION = {"messages": [("user", "?")]}


class Scripted(GenericFakeChatModel):
    def bind_tools(self, tools: Any, **options: Any) -> Any:
        return self


@tool
async def search(text: str) -> str:
    """
    Search.
    """
    await asyncio.sleep(0.01)
    return text


@tool
async def fail() -> str:
    """
    Fail.
    """
    raise ValueError("no such invoice")


@tool
async def sleep() -> str:
    """
    Take too long.
    """
    async with asyncio.timeout(0.02):
        await asyncio.sleep(60)
    return ""


def agent_of(*answers: AIMessage, tools: Sequence[Any] = (), **options: Any) -> Any:
    return create_agent(Scripted(messages=iter(answers)), list(tools), **options)


def says(answer: str, /, *names: str, **arguments: str) -> AIMessage:
    called = [{"name": name, "args": arguments, "id": f"c{n}"} for n, name in enumerate(names)]
    return AIMessage(
        answer,
        tool_calls=called,
        usage_metadata={"input_tokens": 10, "output_tokens": 4, "total_tokens": 14},
        response_metadata={"model_name": "scripted"},
    )


async def work_on(handler: HarkenHandler, agent: Any, **configurable: str) -> Tokens:
    counter = UsageMetadataCallbackHandler()
    config: Any = {"callbacks": [counter], "configurable": configurable}
    await handler.ainvoke(agent, QUESTION, config)
    used = counter.usage_metadata["scripted"]
    return used["input_tokens"], used["output_tokens"]


def work(bus: Bus, *answers: AIMessage, tools: Sequence[Any]) -> list[Tokens]:
    agent = agent_of(*answers, tools=tools)
    return [asyncio.run(work_on(HarkenHandler(bus), agent))]


def calls_a_tool(bus: Bus) -> list[Tokens]:
    return work(bus, says("", "search", text="disk"), says("Done."), tools=[search])


def calls_two_tools_at_once(bus: Bus) -> list[Tokens]:
    return work(bus, says("", "search", "search", text="disk"), says("Done."), tools=[search])


def fails_in_a_tool(bus: Bus) -> list[Tokens]:
    with suppress(ValueError):
        work(bus, says("", "fail"), tools=[fail])
    return []


def waits_for_a_tool_in_vain(bus: Bus) -> list[Tokens]:
    with suppress(TimeoutError):
        work(bus, says("", "sleep"), tools=[sleep])
    return []


def is_cancelled_in_a_tool(bus: Bus) -> list[Tokens]:
    return cancelled(
        lambda wait: HarkenHandler(bus).ainvoke(
            agent_of(says("", "wait"), tools=[tool(wait)]), QUESTION
        )
    )


def waits_for_an_approval(bus: Bus) -> list[Tokens]:
    agent = agent_of(
        says("", "search", text="disk"),
        says("Done."),
        tools=[search],
        middleware=[HumanInTheLoopMiddleware(interrupt_on={"search": True})],
        checkpointer=InMemorySaver(),
    )
    return [asyncio.run(work_on(HarkenHandler(bus), agent, thread_id="t-1"))]


def asks_another_agent(bus: Bus) -> list[Tokens]:
    inner = agent_of(
        says("", "search", text="disk"), says("Done."), tools=[search], name="searcher"
    )

    @tool
    async def ask() -> str:
        """
        Ask another agent.
        """
        answer = await inner.ainvoke(QUESTION)
        return str(answer["messages"][-1].content)

    return work(bus, says("", "ask"), says("Done."), tools=[ask])


def goes_on_beside_another(bus: Bus) -> list[Tokens]:
    handler = HarkenHandler(bus)

    async def main() -> list[Tokens]:
        agents = [
            agent_of(says("", "search", text=text), says("Done."), tools=[search])
            for text in ("a", "b")
        ]
        return await asyncio.gather(*(work_on(handler, agent) for agent in agents))

    return asyncio.run(main())
