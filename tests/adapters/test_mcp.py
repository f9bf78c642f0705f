"""
The Model Context Protocol, the real packages, with client and server in one process.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import pytest
from tests.adapters.laws import framework, told

framework("mcp.server.mcpserver")

from mcp import Client, MCPError
from mcp.server.mcpserver import MCPServer

import harken
from harken import Bus
from harken.adapters.mcp import HarkenMiddleware, call_tool
from harken.catalog import PrCreated, ToolCompleted, ToolFailed, ToolStarted
from harken.testing import Captured


def server_of(bus: Bus) -> MCPServer:
    """
    Return a server with tools, whose calls are told on *bus*.
    """
    server = MCPServer("desk", middleware=[HarkenMiddleware(bus, server="desk")])

    @server.tool()
    def add(a: int, b: int) -> int:
        bus.publish(PrCreated(url="/1"))
        return a + b

    @server.tool()
    def fail() -> str:
        raise ValueError("no such invoice")

    @server.tool()
    async def wait(seconds: float, text: str = "") -> str:
        await asyncio.sleep(seconds)
        return text

    return server


def told_by(heard: Captured) -> list[Any]:
    """
    Return the starts of tool calls: first what the client told, then what the server did.
    """
    return [item for item in heard.envelopes if isinstance(item.event, ToolStarted)]


def test_a_call_is_told_by_client_and_server(bus: Bus, heard: Captured) -> None:
    """
    Both are in one trace, the server's inside of the client's, and what the tool publishes in it.
    """

    async def main() -> Any:
        async with Client(server_of(bus)) as client:
            with harken.scope(run_id="r-1"):
                return await call_tool(bus, client, "add", {"a": 1, "b": 2})

    result = asyncio.run(main())

    assert "3" == result.content[0].text
    asked, served = told_by(heard)
    assert [("add", "mcp", "desk", {"a": 1, "b": 2})] * 2 == [
        (one.event.tool_name, one.event.tool_type, one.event.server, one.event.arguments)
        for one in (asked, served)
    ]
    assert (asked.trace_id, asked.span_id) == (served.trace_id, served.parent_span_id)
    (published,) = [item for item in heard.envelopes if isinstance(item.event, PrCreated)]
    assert published.span_id == served.span_id
    assert ["3", "3"] == [one.result for one in heard.of(ToolCompleted)]
    assert "r-1" == asked.run_id
    assert served.request_id


def test_a_tool_that_fails(bus: Bus, heard: Captured) -> None:
    """
    An answer that says it is an error is no success, on neither side. What the error was, the
    server logs, and tells nobody.
    """

    async def main() -> Any:
        async with Client(server_of(bus)) as client:
            return await call_tool(bus, client, "fail")

    result = asyncio.run(main())

    assert result.is_error
    assert [("tool.failed", "failure")] * 2 == told(heard)
    words = [one.error_message for one in heard.of(ToolFailed)]
    assert ["Error executing tool fail"] * 2 == words


def test_a_tool_that_nobody_knows(bus: Bus, heard: Captured) -> None:
    """
    A call of a tool that is none is on the record of both.
    """

    async def main() -> None:
        async with Client(server_of(bus)) as client:
            with suppress(MCPError):
                assert (await call_tool(bus, client, "fly")).is_error

    asyncio.run(main())

    assert [("tool.failed", "failure")] * 2 == told(heard)
    assert ["fly", "fly"] == [one.tool_name for one in heard.of(ToolStarted)]


def test_a_tool_that_runs_out_of_time(bus: Bus, heard: Captured) -> None:
    """
    The client gave up; the server was told so, and cancelled.
    """

    async def main() -> None:
        async with Client(server_of(bus)) as client:
            with pytest.raises(MCPError):
                await call_tool(bus, client, "wait", {"seconds": 60}, read_timeout_seconds=0.05)
            await asyncio.sleep(0.05)

    asyncio.run(main())

    assert [("tool.failed", "cancelled"), ("tool.failed", "timeout")] == sorted(told(heard))


def test_a_call_that_is_cancelled(bus: Bus, heard: Captured) -> None:
    """
    Whoever waits for the answer is cancelled, and the call was.
    """
    begun = asyncio.Event()

    async def main() -> None:
        bus.subscribe(lambda envelope: begun.set(), ToolStarted)
        async with Client(server_of(bus)) as client:
            task = asyncio.create_task(call_tool(bus, client, "wait", {"seconds": 60}))
            await begun.wait()
            await asyncio.sleep(0.05)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await asyncio.sleep(0.05)

    asyncio.run(main())

    assert [("tool.failed", "cancelled")] * 2 == told(heard)


def test_parallel_calls(bus: Bus, heard: Captured) -> None:
    """
    Each answer belongs to its own call, whichever comes first.
    """

    async def main() -> None:
        async with Client(server_of(bus)) as client:
            calls = (("one", 0.05), ("two", 0.0))
            await asyncio.gather(
                *(
                    call_tool(bus, client, "wait", {"text": text, "seconds": seconds})
                    for text, seconds in calls
                )
            )

    asyncio.run(main())

    asked = {one.span_id: one.event.arguments["text"] for one in told_by(heard)}
    ends = [item for item in heard.envelopes if isinstance(item.event, ToolCompleted)]
    assert 4 == len(ends)
    assert [asked[item.span_id] for item in ends] == [item.event.result for item in ends]


def test_the_answer_is_the_same_without_a_working_bus(
    bus: Bus, caplog: pytest.LogCaptureFixture
) -> None:
    """
    A closed bus changes nothing of what the server answers.
    """
    bus.close()
    server = MCPServer("desk", middleware=[HarkenMiddleware(bus)])

    @server.tool()
    def add(a: int, b: int) -> int:
        return a + b

    async def main() -> Any:
        async with Client(server) as client:
            return await call_tool(bus, client, "add", {"a": 1, "b": 2})

    assert "3" == asyncio.run(main()).content[0].text
    assert "was not recorded" in caplog.text
