"""
The agent's side: calls of tools under the contract, and of others.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from tests.contract.tools import calls, example

import harken
from harken import Bus
from harken.client import AnswerError, session_id, traced_run
from harken.testing import capture

pytestmark = pytest.mark.once

Script = Callable[[str], Path]


class Deployed(msgspec.Struct):
    env: str
    revision: str


@pytest.fixture
def tool() -> list[str]:
    return [sys.executable, str(example("argparse"))]


def test_returns_typed_data_and_meta(tool: list[str], data_home: Path) -> None:
    """
    An answer has the data in the type that is asked for, and what the tool says of the call.
    """
    answer = traced_run([*tool, "deploy", "staging"], operation="deploy", returns=Deployed)

    (line,) = calls(data_home / "deploy-argparse" / "audit.jsonl")
    assert Deployed(env="staging", revision="main") == answer.data
    assert (True, 0, "deploy", "1.2.3") == (
        answer.ok,
        answer.exit_code,
        answer.meta.command,
        answer.meta.tool_version,
    )
    assert answer.meta.duration_ms <= answer.agent_ms
    assert line["metadata"]["request_id"] == answer.meta.request_id
    assert {answer.trace_id} == {answer.meta.trace_id, line["correlation_id"]}


def test_names_session_and_operation(tool: list[str]) -> None:
    """
    Each call has an id of its own, which begins with the session's.
    """
    with harken.scope(session_id="s-1"):
        first = traced_run([*tool, "rollback", "staging"], operation="roll back!")
        second = traced_run([*tool, "rollback", "staging"], operation="roll back!")

    assert first.trace_id.startswith("s-1-roll-back--")
    assert first.trace_id != second.trace_id


def test_makes_one_session_for_the_process() -> None:
    """
    Without a session there is one for the whole process.
    """
    assert session_id().startswith("agent-session-")
    assert session_id() == session_id()


def test_returns_an_error(tool: list[str]) -> None:
    """
    A tool that failed has answered, too.
    """
    answer = traced_run([*tool, "deploy", "nowhere"], operation="deploy", returns=Deployed)

    assert answer.error is not None
    assert (False, None, 5, "NOT_FOUND", 5) == (
        answer.ok,
        answer.data,
        answer.exit_code,
        answer.error.code,
        answer.error.exit_code,
    )


def test_publishes_the_time_on_both_sides(tool: list[str]) -> None:
    """
    The call is a tool call on the agent's bus, and its answer tells the time on both sides.
    """
    bus = Bus()
    with capture(bus) as heard:
        good = traced_run([*tool, "verify", "staging"], operation="verify", bus=bus)
        traced_run(
            [*tool, "deploy", "nowhere", "--api-token", "hunter2hunter2"],
            operation="deploy",
            bus=bus,
        )

    names = [envelope.name for envelope in heard.envelopes]
    told = heard.envelopes[1].data()
    assert [
        *("tool.started", "command.answered", "tool.completed"),
        *("tool.started", "command.answered", "tool.failed"),
    ] == names
    assert (good.agent_ms, good.meta.duration_ms, good.meta.request_id) == (
        told["agent_ms"],
        told["tool_ms"],
        told["request_id"],
    )
    assert b"hunter2" not in heard.envelopes[3].body


def test_the_tool_is_below_the_agents_call(tool: list[str], data_home: Path) -> None:
    """
    The trace goes on in the tool.
    """
    bus = Bus()
    with capture(bus) as heard:
        traced_run([*tool, "rollback", "staging"], operation="rollback", bus=bus)

    (line,) = calls(data_home / "deploy-argparse" / "audit.jsonl")
    call = heard.envelopes[0]
    assert (call.trace_id, call.span_id) == (line["trace_id"], line["parent_span_id"])


def test_refuses_what_is_no_envelope(script: Script) -> None:
    """
    What is no JSON is raised, with the beginning of what it is instead.
    """
    program = script("print('Segmentation fault' * 100); raise SystemExit(7)")

    with pytest.raises(AnswerError, match="Segmentation") as raised:
        traced_run([sys.executable, str(program)], operation="x")

    assert (7, ("Segmentation fault" * 100)[:200]) == (raised.value.exit_code, raised.value.head)


def test_refuses_what_is_nested_too_deeply(script: Script) -> None:
    """
    An answer that cannot be read is none, whatever it is that stops the reader.
    """
    program = script("print('{\"data\":' + '[' * 100_000)")

    with pytest.raises(AnswerError) as raised:
        traced_run([sys.executable, str(program)], operation="x")

    assert raised.value.head.startswith('{"data":[[[')


def test_refuses_data_of_another_type(tool: list[str]) -> None:
    """
    Data that are not what was asked for are no answer.
    """
    with pytest.raises(AnswerError, match="revision"):
        traced_run([*tool, "verify", "staging"], operation="verify", returns=Deployed)


def test_stops_a_tool_that_takes_too_long(tool: list[str], data_home: Path) -> None:
    """
    A tool that is stopped for being slow still leaves its line.
    """
    with pytest.raises(TimeoutError, match="did not answer within"):
        traced_run([*tool, "verify", "staging", "--seconds", "60"], operation="x", timeout=3)

    (line,) = calls(data_home / "deploy-argparse" / "audit.jsonl")
    assert (143, "cancelled") == (line["metadata"]["exit_code"], line["outcome"])


def test_an_agent_that_is_interrupted_lets_the_tool_leave_its_line(
    tool: list[str], data_home: Path
) -> None:
    """
    Whatever ends the agent's own waiting, the tool is stopped in the way that it can record.
    """

    class Interruption(BaseException):
        pass

    def interrupt(number: int, frame: object) -> None:
        raise Interruption

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.alarm(3)
    try:
        with pytest.raises(Interruption):
            traced_run([*tool, "verify", "staging", "--seconds", "60"], operation="x")
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)

    (line,) = calls(data_home / "deploy-argparse" / "audit.jsonl")
    assert (143, "cancelled") == (line["metadata"]["exit_code"], line["outcome"])


def test_kills_a_tool_that_does_not_listen(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A tool that ignores SIGTERM is killed.
    """
    monkeypatch.setattr("harken.client._GRACE", 0.2)
    program = script(
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
    )

    with pytest.raises(TimeoutError):
        traced_run([sys.executable, str(program)], operation="x", timeout=1)


def test_says_that_there_is_no_such_command() -> None:
    """
    What cannot be run is an error of the system.
    """
    with pytest.raises(FileNotFoundError):
        traced_run(["/no/such/command"], operation="x")
