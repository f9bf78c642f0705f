"""
The agent's side of the contract: call a command-line tool, and know afterwards what it did.
"""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Sequence
from secrets import token_hex
from typing import Generic, TypeVar, overload

import msgspec

import harken
from harken import JSON, Bus, Event, outcome_from
from harken.catalog import ToolStarted
from harken.contract.argv import name_secrets
from harken.errors import HarkenError

T = TypeVar("T")

_HEAD = 200
_LONGEST_SESSION = 64
_GRACE = 5.0
_session = ""


class AnswerError(HarkenError):
    """
    A command did not answer with the envelope of the contract.

    Attributes:
        exit_code: With which it ended; negative when a signal killed it.

        head: The beginning of what it printed instead.

        trace_id: What the call was given as ``TOOL_TRACE_ID``.
    """

    def __init__(self, message: str, *, exit_code: int, head: str, trace_id: str) -> None:
        super().__init__(message)
        self.exit_code = exit_code
        self.head = head
        self.trace_id = trace_id


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """
    Why a command failed, in its own words.
    """

    code: str = ""
    message: str = ""
    exit_code: int | None = None
    retryable: bool = False
    phase: str | None = None
    suggestion: str | None = None


class Meta(msgspec.Struct, frozen=True, kw_only=True):
    """
    What the tool says of the call.

    Attributes:
        request_id: The tool's own id of the call.

        duration_ms: From the beginning to the answer, on the tool's clock.
    """

    duration_ms: int
    request_id: str = ""
    trace_id: str | None = None
    timestamp: str | None = None
    command: str | None = None
    version: str | None = None
    tool_version: str | None = None
    schema_version: str | None = None
    audit_log_path: str | None = None


class Answer(msgspec.Struct, Generic[T], frozen=True, kw_only=True):
    """
    What a command answered.

    Attributes:
        data: None when it failed, and when it answered nothing.

        exit_code: With which it ended.

        trace_id: What the call was given as ``TOOL_TRACE_ID``.

        agent_ms: Milliseconds that the call took here, the start of the process included.
    """

    ok: bool
    data: T | None
    error: Failure | None
    warnings: tuple[str, ...]
    meta: Meta
    exit_code: int
    trace_id: str
    agent_ms: int


class CommandAnswered(
    Event,
    name="command.answered",
    audit=True,
    action="call",
    resource="command:{command}",
    outcome=outcome_from("ok", true="success", false="failure"),
):
    """
    An agent got the answer of a command-line tool: how long it took on both sides.

    Attributes:
        operation: What the agent calls the step.

        request_id: The tool's own id of the call.

        agent_ms: Milliseconds on the agent's side, the start of the process included.

        tool_ms: Milliseconds on the tool's side.
    """

    operation: str
    command: str = ""
    request_id: str = ""
    ok: bool
    exit_code: int
    agent_ms: int
    tool_ms: int


class _Envelope(msgspec.Struct, kw_only=True):
    ok: bool
    data: JSON
    error: Failure | None
    warnings: tuple[str, ...]
    meta: Meta


def session_id() -> str:
    """
    Return what this process's calls have in common: the session of the scope, else one id per
    process.
    """
    global _session
    here = harken.current_context().get("session_id")
    if here:
        return here
    if not _session:
        _session = f"agent-session-{token_hex(4)}"
    return _session


@overload
def traced_run(
    cmd: Sequence[str],
    *,
    operation: str,
    bus: Bus | None = ...,
    timeout: float | None = ...,
    cwd: str | None = ...,
) -> Answer[JSON]: ...
@overload
def traced_run(
    cmd: Sequence[str],
    *,
    operation: str,
    returns: type[T],
    bus: Bus | None = ...,
    timeout: float | None = ...,
    cwd: str | None = ...,
) -> Answer[T]: ...
def traced_run(
    cmd: Sequence[str],
    *,
    operation: str,
    returns: type[T] | None = None,
    bus: Bus | None = None,
    timeout: float | None = None,
    cwd: str | None = None,
) -> Answer[T] | Answer[JSON]:
    """
    Run *cmd*, a tool under the contract, and return its answer, also when that is an error.

    The call has a ``TOOL_TRACE_ID`` of its own: the session, the operation, and four digits. The
    tool's records name it, and belong to the run or the session of the scope.

    Args:
        cmd: The command and its arguments. Nothing comes from standard input; what it prints on
            standard error is dropped.

        operation: What the agent calls the step, such as ``deploy``.

        returns: The type of ``data``, which is checked: a msgspec Struct, a dataclass or the like.

        bus: Where the call is published as a tool call, and the answer as `CommandAnswered`, with
            the time that it took on both sides.

        timeout: Seconds after which the command gets SIGTERM, so that it can say how it ended.

    Raises:
        AnswerError: Standard output is not one envelope, or its data are no *returns*.

        TimeoutError: It took too long.

        OSError: It cannot be run.
    """
    bus = bus or Bus()
    session = session_id()
    step = re.sub(r"[^\w.-]", "-", operation, flags=re.ASCII)[:40]
    trace_id = f"{session[:_LONGEST_SESSION]}-{step}-{token_hex(2)}"
    started = ToolStarted(tool_name=operation, arguments={"argv": name_secrets(cmd, bus.redact)})
    with (
        harken.scope(session_id=session, correlation_id=trace_id),
        bus.operation(started) as call,
    ):
        began = time.monotonic()
        exit_code, out = _run(cmd, timeout, cwd)
        agent_ms = round((time.monotonic() - began) * 1000)
        answer = _parsed(out, exit_code, trace_id, agent_ms, returns)
        bus.publish(
            CommandAnswered(
                operation=operation,
                command=answer.meta.command or "",
                request_id=answer.meta.request_id,
                ok=answer.ok,
                exit_code=exit_code,
                agent_ms=agent_ms,
                tool_ms=answer.meta.duration_ms,
            )
        )
        if not answer.ok:
            call.fail(answer.error.message if answer.error else "")
    return answer


def _run(cmd: Sequence[str], timeout: float | None, cwd: str | None) -> tuple[int, str]:
    process = subprocess.Popen(
        cmd,
        cwd=cwd,
        env=harken.child_env(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        errors="backslashreplace",
    )
    with process:
        try:
            out, _ = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired as error:
            _stop(process)
            raise TimeoutError(f"{cmd[0]} did not answer within {timeout} s") from error
        except BaseException:
            _stop(process)
            raise
    return process.returncode, out


def _stop(process: subprocess.Popen[str]) -> None:
    # Not SIGKILL at once, of which no program can tell anybody.
    process.terminate()
    try:
        process.communicate(timeout=_GRACE)
    except BaseException as error:
        process.kill()
        if not isinstance(error, subprocess.TimeoutExpired):
            raise


def _parsed(
    out: str, exit_code: int, trace_id: str, agent_ms: int, returns: type[T] | None
) -> Answer[T]:
    try:
        envelope = msgspec.json.decode(out, type=_Envelope)
        data = envelope.data
        if returns is not None and data is not None:
            data = msgspec.convert(data, returns)
    except (msgspec.DecodeError, RecursionError) as error:
        head = out[:_HEAD]
        raise AnswerError(
            f"no answer in JSON, but exit code {exit_code} and {head!r}: {error}",
            exit_code=exit_code,
            head=head,
            trace_id=trace_id,
        ) from error
    return Answer(
        ok=envelope.ok,
        data=data,
        error=envelope.error,
        warnings=envelope.warnings,
        meta=envelope.meta,
        exit_code=exit_code,
        trace_id=trace_id,
        agent_ms=agent_ms,
    )
