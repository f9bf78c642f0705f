"""
`RunRecorder`: the event stream of any provider, as one run.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.adapters.laws import told

import harken
from harken import Bus
from harken.adapters.stream import RunRecorder, derive_phase, judge_answer
from harken.catalog import (
    ErrorRaised,
    RunCancelled,
    RunCompleted,
    RunFailed,
    RunStarted,
    ScopeOrphaned,
    TextEmitted,
    ThinkingEmitted,
    ToolCompleted,
    ToolFailed,
    ToolStarted,
)
from harken.testing import Captured, capture


@pytest.mark.parametrize(
    ("context", "phase"),
    [
        (None, "analysis"),
        ({}, "analysis"),
        ({"attempts": 1}, "analysis"),
        ({"approvedOption": {"id": 2}}, "execution"),
        ({"approvedOption": {"id": 2}, "executionResult": {"ok": True}}, "verification"),
        ({"phase": "escalation", "executionResult": {"ok": True}}, "escalation"),
        ({"phase": "", "approvedOption": {"id": 2}}, "execution"),
    ],
)
def test_the_phase_comes_from_the_request(context: dict[str, Any] | None, phase: str) -> None:
    """
    An explicit phase counts, then a result to be verified, then an option to be executed.
    """
    assert phase == derive_phase(context)


def test_the_phase_is_that_of_every_event(bus: Bus, heard: Captured) -> None:
    """
    The phase of the request is on the run and on what happens in it.
    """
    with RunRecorder(bus, context={"approvedOption": 1}) as run:
        run.tool_call("search", call_id="c1")
        run.tool_result("found", call_id="c1")
        run.result("done")

    assert {"execution"} == {item.phase for item in heard.envelopes}


@pytest.mark.parametrize(
    ("answer", "wrong"),
    [
        ("", True),
        (" \n", True),
        ('{"success": false, "reason": "no access"}', True),
        ('{"success": true}', False),
        ("[1, 2]", False),
        ("The disk is full.", False),
    ],
)
def test_an_answer_is_judged(answer: str, wrong: bool) -> None:
    """
    An empty answer is none, and one that says that it is no success is none either.
    """
    assert wrong == (judge_answer(answer) is not None)


@pytest.mark.parametrize("answer", ["", '{"success": false}'])
def test_success_is_told_after_the_answer_was_judged(
    bus: Bus, heard: Captured, answer: str
) -> None:
    """
    A run whose answer is none is no success, and says what it has used up nevertheless.
    """
    with RunRecorder(bus) as run:
        run.result(answer, input_tokens=7, output_tokens=3, cost_usd=0.5)

    (failed,) = heard.of(RunFailed)
    assert [("run.failed", "failure")] == told(heard)
    assert (7, 3, 0.5) == (failed.input_tokens, failed.output_tokens, failed.cost_usd)


def test_text_is_told_by_the_block(bus: Bus, heard: Captured) -> None:
    """
    Pieces of text and thinking are kept back until their block ends, by whatever ends it.
    """
    with RunRecorder(bus) as run:
        run.thinking_delta("The di")
        run.thinking_delta("sk?")
        run.text_delta("I will ")
        run.text_delta("look.")
        run.tool_call("df", call_id="c1")
        run.tool_result("full", call_id="c1")
        run.text_delta("It is full.")
        run.content_block_stop()
        run.content_block_stop()
        run.text_delta("Bye.")
        run.result("It is full.")

    assert [
        "run.started",
        "thinking.emitted",
        "text.emitted",
        "tool.started",
        "tool.completed",
        "text.emitted",
        "text.emitted",
        "run.completed",
    ] == heard.names
    assert ["I will look.", "It is full.", "Bye."] == [one.text for one in heard.of(TextEmitted)]
    assert ["The disk?"] == [one.thinking for one in heard.of(ThinkingEmitted)]
    assert [1, 2, 3] == [one.block_index for one in heard.of(TextEmitted)]


def test_parallel_results_belong_to_their_own_calls(bus: Bus, heard: Captured) -> None:
    """
    Results are told by the ids of their calls, in whatever order they come.
    """
    with RunRecorder(bus) as run:
        run.tool_call("read", {"path": "a"}, call_id="c1")
        run.tool_call("search", {"q": "b"}, call_id="c2")
        run.tool_result("of search", call_id="c2")
        run.tool_result("of read", call_id="c1", is_error=True)
        run.result("done")

    assert ("c2", "search", "of search") == _call(heard.of(ToolCompleted)[0])
    assert ("c1", "read", "of read") == _call(heard.of(ToolFailed)[0])


def test_results_without_an_id_come_in_the_order_of_calls(bus: Bus, heard: Captured) -> None:
    """
    Without ids the first result is that of the first call.
    """
    with RunRecorder(bus) as run:
        run.tool_call("read")
        run.tool_call("search")
        run.tool_result("1")
        run.tool_result("2")
        run.result("done")

    assert [("read", "1"), ("search", "2")] == [
        (one.tool_name, one.result) for one in heard.of(ToolCompleted)
    ]


def test_a_result_that_nobody_called_for_is_on_the_record(bus: Bus, heard: Captured) -> None:
    """
    A result without a call is told as that of an unknown tool.
    """
    with RunRecorder(bus) as run:
        run.tool_result("?", call_id="c9")
        run.result("done")

    assert [("c9", "unknown")] == [
        (one.tool_call_id, one.tool_name) for one in heard.of(ToolStarted)
    ]
    assert [("tool.completed", "success"), ("run.completed", "success")] == told(heard)


@pytest.mark.parametrize(
    ("error", "run_outcome", "tool_outcome"),
    [
        (ValueError("no"), "failure", "orphaned"),
        (TimeoutError("late"), "timeout", "orphaned"),
        (asyncio.CancelledError(), "cancelled", "cancelled"),
        (KeyboardInterrupt(), "cancelled", "cancelled"),
    ],
)
def test_no_path_leaves_a_call_open(
    bus: Bus, heard: Captured, error: BaseException, run_outcome: str, tool_outcome: str
) -> None:
    """
    Whatever leaves the run between a call and its result, both calls and run are closed, and
    the usage known by then is told.
    """
    with pytest.raises(type(error)), RunRecorder(bus) as run:
        run.tool_call("read", call_id="c1")
        run.tool_call("search", call_id="c2")
        run.text_delta("half a sen")
        run.usage.input_tokens = 11
        run.usage.output_tokens = 5
        raise error

    assert [tool_outcome, tool_outcome, run_outcome] == [outcome for _, outcome in told(heard)]
    (end,) = [*heard.of(RunFailed), *heard.of(RunCancelled)]
    assert (11, 5, 2) == (end.input_tokens, end.output_tokens, end.tool_calls)
    assert ["half a sen"] == [one.text for one in heard.of(TextEmitted)]


def test_a_call_that_is_left_open_by_a_whole_run_is_orphaned(bus: Bus, heard: Captured) -> None:
    """
    A call without a result is no success, and the record says that nobody closed it.
    """
    with RunRecorder(bus) as run:
        run.tool_call("read", call_id="c1")
        run.result("done")

    assert [("tool.failed", "orphaned"), ("run.completed", "success")] == told(heard)
    assert [("tool", "c1")] == [(one.kind, one.id) for one in heard.of(ScopeOrphaned)]


def test_a_truncated_stream_says_so(bus: Bus, heard: Captured) -> None:
    """
    Without a result nobody knows how the run ended, and the record says just that.
    """
    with RunRecorder(bus) as run:
        run.text_delta("I will")

    (failed,) = heard.of(RunFailed)
    assert [("run.failed", "unknown")] == told(heard)
    assert "the stream ended without a result" == failed.error_message


def test_events_may_come_as_mappings(bus: Bus, heard: Captured) -> None:
    """
    `feed()` takes events as providers send them, and tells once of each kind it does not know.
    """
    stream: list[dict[str, Any]] = [
        {"type": "text_delta", "text": "Hm."},
        {"type": "content_block_stop"},
        {"type": "tool_call", "name": "read", "input": {"path": "a"}, "call_id": "c1"},
        {"type": "ping"},
        {"type": "ping"},
        {"type": ["text_delta"]},
        {"no": "type"},
        {"type": "tool_result", "output": "x", "call_id": "c1", "surprise": 1},
        {"type": "tool_result", "output": "x", "call_id": "c1"},
        {"type": "result", "text": "done", "input_tokens": 4, "output_tokens": 2},
    ]

    with RunRecorder(bus, model="m-1", provider="acme") as run:
        for event in stream:
            run.feed(event)

    assert [("tool.completed", "success"), ("run.completed", "success")] == told(heard)
    assert ["ping", "['text_delta']", "None", "tool_result"] == [
        one.error_message.partition(":")[0] for one in heard.of(ErrorRaised)
    ]


def test_two_runs_at_once_are_not_mixed(bus: Bus, heard: Captured) -> None:
    """
    Each run has its own id, also when both go on at once in one task.
    """
    one = RunRecorder(bus, run_id="r-1")
    two = RunRecorder(bus, run_id="r-2")

    with one:
        with two:
            one.tool_call("read", call_id="c1")
            two.tool_call("read", call_id="c1")
            two.tool_result("of two", call_id="c1")
            one.tool_result("of one", call_id="c1")
            two.result("two")
        one.result("one")

    assert {"r-1": ["of one"], "r-2": ["of two"]} == {
        str(run_id): [
            item.event.result
            for item in heard.envelopes
            if isinstance(item.event, ToolCompleted) and item.run_id == run_id
        ]
        for run_id in ("r-1", "r-2")
    }


def test_a_run_id_of_the_scope_around_counts(bus: Bus, heard: Captured) -> None:
    """
    Whoever names the run in a scope finds it under that name; a run inside of it is another.
    """
    with harken.scope(run_id="r-42"), RunRecorder(bus, run_id="theirs") as outer:
        with RunRecorder(bus, run_id="inner") as inner:
            inner.result("in")
        outer.result("out")

    assert [("r-42", None), ("inner", "r-42")] == [
        (item.run_id, item.parent_run_id)
        for item in heard.envelopes
        if isinstance(item.event, RunStarted)
    ]


def test_nothing_that_the_bus_does_reaches_the_stream(
    bus: Bus, caplog: pytest.LogCaptureFixture
) -> None:
    """
    A bus that is closed, or a required subscriber that fails, stops no stream.
    """

    def broken(envelope: object) -> None:
        raise OSError("disk full")

    with capture(bus) as heard:
        bus.subscribe(broken, required=True)
        with RunRecorder(bus) as run:
            run.tool_call("read", call_id="c1")
            bus.close()
            run.tool_result("x", call_id="c1")
            run.tool_call("read", call_id="c2")
            run.text_delta("done")
            run.result("done")

    assert len(heard.of(RunStarted)) == 1
    assert "was not recorded" in caplog.text


def test_the_outermost_scope_is_left_as_it_was(bus: Bus) -> None:
    """
    After the run, its ids are gone from the code around.
    """
    before = harken.current_context()
    with capture(bus), RunRecorder(bus, run_id="r-1") as run:
        assert "r-1" == harken.current_context()["run_id"]
        run.result("done")

    assert before.get("run_id") == harken.current_context().get("run_id")


def test_a_result_says_what_the_provider_says(bus: Bus, heard: Captured) -> None:
    """
    The answer, its reason to stop and its usage are on the end of the run.
    """

    async def stream() -> None:
        async with RunRecorder(bus) as run:
            run.result(
                "done",
                cost_usd=0.25,
                input_tokens=5,
                output_tokens=4,
                reasoning_tokens=3,
                cached_tokens=2,
                stop_reason="end_turn",
            )

    asyncio.run(stream())

    (end,) = heard.of(RunCompleted)
    assert ("done", "end_turn", 0.25) == (end.result, end.stop_reason, end.cost_usd)
    assert (5, 4, 3, 2) == (
        end.input_tokens,
        end.output_tokens,
        end.reasoning_tokens,
        end.cached_tokens,
    )


def _call(end: ToolCompleted | ToolFailed) -> tuple[str, str, object]:
    said = end.result if isinstance(end, ToolCompleted) else end.error_message
    return end.tool_call_id, end.tool_name, said
