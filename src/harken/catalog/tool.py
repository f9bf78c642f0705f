"""
Tool calls.
"""

from typing import Annotated

from harken.catalog._fields import Arguments, Bytes, Digest, Milliseconds, Result, known
from harken.event import Event


class ToolStarted(
    Event,
    name="tool.started",
    audit=True,
    action="call",
    resource="tool:{tool_name}",
    key="tool_call_id",
):
    """
    The agent called a tool; published before the tool runs.

    Attributes:
        tool_call_id: The framework's id of the call; made when there is none.

        tool_type: ``function``, ``mcp``, ``builtin``, ``hosted`` or ``agent``.

        server: The MCP server that offers the tool.

        arguments: Any JSON value. Digest and size are filled in, after redaction.

        effect: ``read``, ``write`` or ``unknown``: whether the call can change anything.

        attempt: 1 at first, one more for each retry of the same call.
    """

    tool_call_id: str = ""
    tool_name: str
    tool_type: Annotated[str, known("function", "mcp", "builtin", "hosted", "agent")] = "function"
    server: str | None = None
    arguments: Arguments = None
    arguments_digest: Digest = ""
    arguments_size: Bytes = 0
    effect: Annotated[str, known("read", "write", "unknown")] = "unknown"
    attempt: int = 1


class ToolCompleted(
    Event,
    name="tool.completed",
    audit=True,
    action="call",
    resource="tool:{tool_name}",
    ends=ToolStarted,
):
    """
    A tool call returned, and what it returned is no error.

    Attributes:
        result:
            Any JSON value; recorded only where content is captured. Digest and size are filled
            in, after redaction.

        from_cache: Whether the tool was not run, because its answer was known.

        outcome: ``success``, or ``deferred`` when the tool's work goes on elsewhere.
    """

    tool_call_id: str = ""
    tool_name: str = ""
    result: Result = None
    result_size: Bytes = 0
    result_digest: Digest = ""
    from_cache: bool = False
    duration_ms: Milliseconds | None = None
    outcome: Annotated[str, known("success", "deferred")] = "success"


class ToolFailed(
    Event,
    name="tool.failed",
    audit=True,
    action="call",
    resource="tool:{tool_name}",
    ends=ToolStarted,
):
    """
    A tool call raised, answered with an error, ran out of time or was cut off.

    Attributes:
        error_type: The class of the error, or the server's code for it; never its text.

        outcome: ``failure``, ``timeout``, ``cancelled`` or ``orphaned``.

        retryable: Whether the same call may work later; None when nobody knows.
    """

    tool_call_id: str = ""
    tool_name: str = ""
    error_type: str = ""
    error_message: str = ""
    outcome: Annotated[str, known("failure", "timeout", "cancelled", "orphaned")] = "failure"
    retryable: bool | None = None
    duration_ms: Milliseconds | None = None


class ToolDenied(
    Event,
    name="tool.denied",
    audit=True,
    action="call",
    resource="tool:{tool_name}",
    ends=ToolStarted,
    outcome="denied",
):
    """
    A tool call was not allowed, and the tool did not run.

    Attributes:
        rule: The rule that forbade it.

        decided_by: ``policy``, ``user`` or ``hook``.
    """

    tool_call_id: str = ""
    tool_name: str = ""
    rule: str = ""
    reason: str = ""
    decided_by: Annotated[str, known("policy", "user", "hook")] = ""


class ToolRetried(
    Event,
    name="tool.retried",
    action="retry",
    resource="tool:{tool_name}",
    outcome="deferred",
):
    """
    A tool call did not work and will be tried again.

    Attributes:
        attempt: The number of the attempt to come; the first retry is 2.

        delay_ms: How long the agent waits before it.

        cause: The class of the error that made it necessary.
    """

    tool_call_id: str = ""
    tool_name: str
    attempt: int = 0
    delay_ms: Milliseconds = 0
    cause: str = ""
