"""
What holds for the events of every run, whatever happened in it.
"""

from __future__ import annotations

import importlib
import os
from collections import Counter
from types import ModuleType
from typing import NamedTuple, Protocol

import pytest

from harken import Envelope, Event
from harken.catalog import ApprovalRequested, LlmCompleted, ToolCompleted
from harken.testing import Captured

Told = tuple[str, str]


def framework(name: str) -> ModuleType:
    """
    Return the module of a framework; without it the tests of its adapter are skipped.
    """
    if os.environ.get("HARKEN_REQUIRE_FRAMEWORKS") == "1":
        return importlib.import_module(name)
    module: ModuleType = pytest.importorskip(name)
    return module


def check_runs(heard: Captured) -> None:
    """
    Every operation has one start and one end, in its own run, inside of what is around it.

    A thread cannot be cancelled: what a run does in one, after it was cancelled, is told, too.
    """
    starts = {item.id: item for item in heard.envelopes if item.type.is_start}
    ends = [item for item in heard.envelopes if item.type.is_terminal]
    assert Counter(starts.keys()) == Counter(item.started_event_id for item in ends)
    spans = {item.span_id: item for item in starts.values()}
    open_now: set[str] = set()
    cancelled: set[str] = set()
    for item in heard.envelopes:
        if item.type.is_start:
            around = spans.get(item.parent_span_id or "")
            if around is not None:
                assert around.span_id in open_now | cancelled, (
                    f"{item.name} begins after {around.name} ended"
                )
                assert around.trace_id == item.trace_id
                assert around.run_id in (item.run_id, item.parent_run_id)
            open_now.add(item.span_id)
        elif item.type.is_terminal:
            assert item.started is not None
            assert item.started.run_id == item.run_id
            open_now.discard(item.span_id)
            if item.name == "run.cancelled":
                cancelled.add(item.span_id)
            inside = [
                spans[span] for span in open_now if spans[span].parent_span_id == item.span_id
            ]
            assert [] == [f"{one.name} in {item.name}" for one in inside]
    assert set() == open_now


def told(heard: Captured, *kinds: str) -> list[Told]:
    """
    Return name and outcome of each end, of operations of *kinds* or of all, in order.
    """
    return [
        (item.name, item.outcome.value)
        for item in heard.envelopes
        if item.type.is_terminal
        and item.outcome is not None
        and (not kinds or item.name.partition(".")[0] in kinds)
    ]


def parent_of(heard: Captured, child: Envelope[Event]) -> Envelope[Event] | None:
    """
    Return the start of the operation around the one that *child* begins.
    """
    for item in heard.envelopes:
        if item.type.is_start and item.span_id == child.parent_span_id:
            return item
    return None


def nesting(heard: Captured) -> list[str]:
    """
    Return each start with what it is inside of, as in ``tool.started < run.started``.
    """
    shown: list[str] = []
    for item in heard.envelopes:
        if item.type.is_start:
            around = parent_of(heard, item)
            shown.append(item.name if around is None else f"{item.name} < {around.name}")
    return shown


def runs_of(heard: Captured) -> dict[str, Captured]:
    """
    Return what was heard of each run, by its id.
    """
    runs: dict[str, Captured] = {}
    for item in heard.envelopes:
        runs.setdefault(item.run_id or "", Captured()).write([item])
    return runs


class Used(Protocol):
    """
    What a run has used up, as its framework counts it.
    """

    @property
    def input_tokens(self) -> int: ...

    @property
    def output_tokens(self) -> int: ...


class Tokens(NamedTuple):
    """
    What a run has used up, where the framework has no such object.
    """

    input_tokens: int
    output_tokens: int


def check_usage(heard: Captured, usage: Used) -> None:
    """
    The run's usage is the framework's own, and the sum of what was told of its models' calls.
    """
    ends = {"run.completed", "run.failed", "run.cancelled"}
    (end,) = [item.event for item in heard.envelopes if item.name in ends]
    calls = heard.of(LlmCompleted)
    expected = (usage.input_tokens, usage.output_tokens)
    assert expected == (end.input_tokens, end.output_tokens)  # type: ignore[attr-defined]
    assert expected == (
        sum(one.input_tokens for one in calls),
        sum(one.output_tokens for one in calls),
    )


def check_approval(heard: Captured, *, approve: bool) -> None:
    """
    A run waited for an approval, which is no failure, and another has gone on with the answer.
    """
    first, second = runs_of(heard).values()
    assert [("run.completed", "deferred")] == told(first, "run", "tool")
    assert 1 == len(first.of(ApprovalRequested))
    answer = "approval.granted" if approve else "approval.denied"
    assert answer in second.names
    ended = ("tool.completed", "success") if approve else ("tool.denied", "denied")
    assert [ended, ("run.completed", "success")] == told(second, "tool", "run")


def results(heard: Captured) -> dict[str, object]:
    """
    Return what each tool call has answered, by its id.
    """
    return {one.tool_call_id: one.result for one in heard.of(ToolCompleted)}
