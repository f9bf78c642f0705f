"""
Queued tasks, commands, MCP servers and skills.
"""

from typing import Annotated

from harken.catalog._fields import Arguments, Bytes, Digest, Milliseconds, known
from harken.event import Event, outcome_from


class TaskEnqueued(
    Event,
    name="task.enqueued",
    action="enqueue",
    resource="task:{task_id}",
    outcome="success",
):
    """
    A task was put into a queue for some agent to take.

    Attributes:
        depth: How many tasks wait in the queue now, this one included.
    """

    task_id: str
    queue: str = ""
    depth: int = 0
    priority: str | None = None


class TaskDequeued(
    Event,
    name="task.dequeued",
    action="dequeue",
    resource="task:{task_id}",
    outcome="success",
):
    """
    An agent took a task out of a queue.

    Attributes:
        depth: How many tasks still wait in the queue.

        wait_ms: How long the task had waited, by the wall clock.
    """

    task_id: str
    queue: str = ""
    depth: int = 0
    wait_ms: Milliseconds | None = None


class CommandStarted(
    Event,
    name="command.started",
    action="execute",
    resource="command:{command}",
    key="request_id",
):
    """
    A command-line tool was called; published before the command does anything.

    Attributes:
        request_id: The tool's own id of this call; made when there is none.

        command: The words that name it, without arguments.

        params: The arguments by name. Digest and size are filled in, after redaction.
    """

    request_id: str = ""
    command: str
    params: Arguments = None
    params_digest: Digest = ""
    params_size: Bytes = 0


class CommandCompleted(
    Event,
    name="command.completed",
    audit=True,
    action="execute",
    resource="command:{command}",
    ends=CommandStarted,
    outcome=outcome_from("ok", true="success", false="failure"),
):
    """
    A command ended, whatever its exit code.

    Attributes:
        params: The arguments by name. Digest and size are filled in, after redaction.

        exit_code: What its caller saw: 128 and the number of the signal that killed it, if one
            did; None when nobody saw any.

        ok: Whether it did what it was asked to; it decides the outcome.

        effect: What it changed, in the tool's words, such as ``created`` or ``noop``.

        operator: Who called it.

        duration_ms: From the call to the last byte of the answer.
    """

    request_id: str = ""
    command: str = ""
    params: Arguments = None
    params_digest: Digest = ""
    params_size: Bytes = 0
    exit_code: int | None = None
    ok: bool | None = None
    effect: str | None = None
    operator: str = ""
    duration_ms: Milliseconds | None = None
    tool_version: str | None = None


class McpConnected(
    Event,
    name="mcp.connected",
    action="connect",
    resource="mcp:{server}",
    outcome="success",
):
    """
    The agent is connected to an MCP server.

    Attributes:
        transport: ``stdio``, ``http`` or ``sse``.
    """

    server: str
    transport: Annotated[str, known("stdio", "http", "sse")] = ""
    protocol_version: str | None = None
    duration_ms: Milliseconds | None = None


class McpFailed(
    Event,
    name="mcp.failed",
    action="request",
    resource="mcp:{server}",
    outcome="failure",
):
    """
    An MCP server could not be reached, or did not answer as the protocol demands.

    A tool that answered with an error is ``tool.failed``.

    Attributes:
        transport: ``stdio``, ``http`` or ``sse``.

        operation: What was tried, such as ``connect`` or ``tools/list``.
    """

    server: str
    transport: Annotated[str, known("stdio", "http", "sse")] = ""
    operation: str = ""
    error_type: str = ""
    duration_ms: Milliseconds | None = None


class McpToolsChanged(
    Event,
    name="mcp.tools_changed",
    audit=True,
    action="change_tools",
    resource="mcp:{server}",
    outcome="success",
):
    """
    An MCP server offers other tools than before, or describes them in other words.

    Attributes:
        added: The names of the tools that are new.

        removed: The names of the tools that are gone.

        schema_digest: The digest of all tool descriptions; it changes when only words do.
    """

    server: str
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    schema_digest: Digest = ""


class SkillActivated(
    Event,
    name="skill.activated",
    action="activate",
    resource="skill:{skill_name}",
    outcome="success",
):
    """
    The agent loaded instructions that it did not have from the start.

    Attributes:
        source: Where they came from, such as ``project``, ``user`` or a URL.
    """

    skill_name: str
    source: str = ""
    digest: Digest | None = None
