"""
Small agents of real frameworks, with scripted models: what can happen in a run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from importlib import import_module
from typing import Any

from harken import Bus

Tokens = tuple[int, int]
"""What a framework counted itself: tokens in and out."""

Run = Callable[[Bus], list[Tokens]]
"""Lets an agent work; returns what its framework counted, for each run that says it."""

MODULES = {
    "the OpenAI Agents SDK": "frameworks.openai_agents",
    "LangGraph": "frameworks.langgraph",
    "Pydantic AI": "frameworks.pydantic_ai",
}

DOES = (
    "calls a tool",
    "calls two tools at once",
    "fails in a tool",
    "waits for a tool in vain",
    "is cancelled in a tool",
    "waits for an approval",
    "asks another agent",
    "goes on beside another",
)
"""What a run does, as a scenario calls it; each module has a function for each."""


def runs_of(framework: str) -> dict[str, Run]:
    """
    Return what the agent of *framework* can do, by what a scenario calls it.

    Raises:
        ModuleNotFoundError: The framework is not installed.
    """
    module = import_module(MODULES[framework])
    return {what: getattr(module, what.replace(" ", "_")) for what in DOES}


def cancelled(
    work: Callable[[Callable[[], Awaitable[str]]], Coroutine[Any, Any, object]],
) -> list[Tokens]:
    """
    Let an agent work that *work* gives a tool which cancels it.
    """

    async def wait() -> str:
        """
        Wait for the cancellation.
        """
        task.cancel()
        await asyncio.sleep(60)
        return ""

    async def main() -> None:
        nonlocal task
        task = asyncio.create_task(work(wait))
        await asyncio.wait([task])

    task: asyncio.Task[object]
    asyncio.run(main())
    return []
