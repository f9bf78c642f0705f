"""
Agents of real frameworks, and transcripts of agents that worked elsewhere.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from behave import given, then, when
from frameworks import runs_of
from outputs import AUDIT, records, spans
from scene import Scene
from settings_steps import WITH_AUDIT, WITH_TRACES, configure

import harken
from harken.testing import Captured

TRANSCRIPTS = Path(__file__).parents[2] / "tests" / "adapters" / "transcripts"


@given("an agent of {framework} with an audit log and traces")
def agent_of_a_framework(context: Scene, framework: str) -> None:
    try:
        context.runs = runs_of(framework)
    except ModuleNotFoundError as error:
        context.scenario.skip(f"{framework} is not installed: {error}")
        return
    # Model calls are not audited by default; here every operation has to be found.
    bus = configure(context, WITH_AUDIT, WITH_TRACES, {"audit_types": {"*": True}})
    context.heard = Captured()
    bus.attach(context.heard)


@when("a run of it {does}")
def run_of_it(context: Scene, does: str) -> None:
    context.counted = context.runs[does](context.bus)


@then("each operation has begun and ended once, in the record as in the traces")
def begun_and_ended_once(context: Scene) -> None:
    written = records(context.folder / AUDIT)
    kinds = harken.event_types()
    begun = [one for one in written if harken.describe(kinds[one["event_type"]]).is_start]
    ended = [one for one in written if harken.describe(kinds[one["event_type"]]).is_terminal]
    assert begun, written
    assert Counter(one["id"] for one in begun) == Counter(one["started_event_id"] for one in ended)
    assert sorted(one["span_id"] for one in begun) == sorted(
        one["span_id"] for one in spans(context)
    )


@then("the tool calls have ended as {expected:Words}")
def tool_calls_have_ended(context: Scene, expected: list[str]) -> None:
    ends = ("tool.completed", "tool.failed", "tool.denied")
    written = records(context.folder / AUDIT)
    found = [one["outcome"] for one in written if one["event_type"] in ends]
    assert expected == found, found


@then("no tool was called")
def no_tool_was_called(context: Scene) -> None:
    names = [one["event_type"] for one in records(context.folder / AUDIT)]
    assert "tool.started" not in names, names


@then("the run has ended as {expected:w}")
@then("each run has ended as {expected:w}")
def run_has_ended(context: Scene, expected: str) -> None:
    ends = ("run.completed", "run.failed", "run.cancelled")
    written = records(context.folder / AUDIT)
    found = {one["outcome"] for one in written if one["event_type"] in ends}
    assert {expected} == found, found


@then("its tokens are those that the framework counted")
@then("the tokens of each are those that the framework counted")
def tokens_are_the_frameworks(context: Scene) -> None:
    ends = [one["metadata"] for one in records(context.folder / AUDIT) if _ends_run(one)]
    found = sorted((one["input_tokens"], one["output_tokens"]) for one in ends)
    assert sorted(context.counted) == found, (context.counted, found)


@then("the tokens used up to then are on the record")
def tokens_are_on_the_record(context: Scene) -> None:
    (end,) = [one["metadata"] for one in records(context.folder / AUDIT) if _ends_run(one)]
    assert end["input_tokens"] > 0 and end["output_tokens"] > 0, end


@then("each span is inside of another, but for one of each run")
def spans_are_nested(context: Scene) -> None:
    found = {one["span_id"]: one for one in spans(context)}
    outermost = [one for one in found.values() if one["parent_id"] not in found]
    assert {"invoke_agent"} == {one["name"] for one in outermost}, outermost
    for one in found.values():
        if one["parent_id"] in found:
            assert one["trace_id"] == found[one["parent_id"]]["trace_id"]


@then("the other agent's work is inside of the tool call that asked it")
def nested_work_is_inside(context: Scene) -> None:
    found = {one["span_id"]: one for one in spans(context)}
    (search,) = [one for one in found.values() if one["name"] == "execute_tool search"]
    names: list[str] = []
    around = found.get(search["parent_id"])
    while around is not None:
        names.append(around["name"])
        around = found.get(around["parent_id"])
    assert "execute_tool ask" in names, names


@then("each of the {count:d} runs has its own tool call")
def runs_are_not_mixed(context: Scene, count: int) -> None:
    called = [
        (one["run_id"], one["metadata"]["arguments"]["text"])
        for one in records(context.folder / AUDIT)
        if one["event_type"] == "tool.started"
    ]
    assert count == len({run for run, _ in called}) == len({text for _, text in called}), called


def _ends_run(record: dict[str, object]) -> bool:
    return record["event_type"] in ("run.completed", "run.failed", "run.cancelled")


@given("the transcript of an agent on the command line")
def transcript_of_an_agent(context: Scene) -> None:
    text = (TRANSCRIPTS / "claude.jsonl").read_bytes()
    (context.folder / "transcript.jsonl").write_bytes(text)


@given("the first half of the transcript of an agent on the command line")
def half_a_transcript(context: Scene) -> None:
    lines = (TRANSCRIPTS / "claude.jsonl").read_bytes().splitlines(keepends=True)
    (context.folder / "transcript.jsonl").write_bytes(b"".join(lines[: len(lines) // 2]))
