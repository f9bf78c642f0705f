"""
The Model Context Protocol: tool calls that a server is asked for, and those that a client makes.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from mcp import Client, MCPError
from mcp.server.context import CallNext, HandlerResult, ServerMiddleware, ServerRequestContext
from mcp.types import REQUEST_TIMEOUT, CallToolResult, InputRequiredResult

import harken
from harken import Bus
from harken.adapters._runs import Step, contained
from harken.catalog import ToolStarted

SOURCE = f"mcp/{version('mcp')}"


class HarkenMiddleware(ServerMiddleware[Any]):
    """
    Middleware of a server that publishes the tool calls it is asked for.

    Put it into ``MCPServer(middleware=[...])``, or into the ``middleware`` of a low-level server.
    A call is part of the trace that its request names in ``_meta``, and has the scope in which the
    tool runs. What a server answers on other methods is not told.

    Args:
        server: The server's name, as the events say it.
    """

    def __init__(self, bus: Bus, *, server: str | None = None) -> None:
        self._bus = bus
        self._server = server

    async def __call__(
        self, ctx: ServerRequestContext[Any, Any], call_next: CallNext
    ) -> HandlerResult:
        """
        Handle one message.
        """
        if ctx.method != "tools/call" or ctx.request_id is None:
            return await call_next(ctx)
        meta: Mapping[str, Any] = ctx.meta or {}
        with (
            harken.scope(
                source=SOURCE,
                request_id=str(ctx.request_id),
                traceparent=meta.get("traceparent"),
                tracestate=meta.get("tracestate"),
            ),
            Step(self._bus, _started(ctx.params or {}, self._server)) as step,
        ):
            result = await call_next(ctx)
            with contained:
                _decide(step, result)
        return result


async def call_tool(
    bus: Bus, client: Client, name: str, arguments: dict[str, Any] | None = None, **options: Any
) -> CallToolResult:
    """
    Do what `client.call_tool()` does, as a tool call on *bus*, whose trace the server is told.
    """
    info = client.server_info
    params = {"name": name, "arguments": arguments}
    with (
        harken.scope(source=SOURCE),
        Step(bus, _started(params, None if info is None else info.name)) as step,
    ):
        meta: Any = {**(options.pop("meta", None) or {})}
        with contained:
            harken.inject(meta)
        try:
            result = await client.call_tool(name, arguments, meta=meta or None, **options)
        except MCPError as error:
            timed_out = error.error.code == REQUEST_TIMEOUT
            step.decide(error, outcome="timeout" if timed_out else None)
            raise
        with contained:
            _decide(step, result)
    return result


def _started(params: Mapping[str, Any], server: str | None) -> ToolStarted:
    return ToolStarted(
        tool_name=str(params.get("name") or "unknown"),
        arguments=params.get("arguments"),
        tool_type="mcp",
        server=server,
    )


def _decide(step: Step, result: object) -> None:
    # A low-level server may answer with what goes over the wire.
    told = result.model_dump(by_alias=True) if isinstance(result, CallToolResult) else result
    if isinstance(result, InputRequiredResult):
        step.decide(outcome="deferred")
        return
    answer: Mapping[str, Any] = told if isinstance(told, Mapping) else {}
    content = answer.get("content") or ()
    text = "\n".join(str(one["text"]) for one in content if isinstance(one, dict) and "text" in one)
    if answer.get("isError") is True:
        step.decide(outcome="failure", error_type="ToolError", error_message=text)
    else:
        step.decide(result=text or answer.get("structuredContent") or list(content))
