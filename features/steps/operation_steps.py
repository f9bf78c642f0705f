"""
How operations end, and where they belong.
"""

from __future__ import annotations

from behave import then
from scene import Scene

from harken import Envelope, Event


def last(context: Scene, name: str) -> Envelope[Event]:
    found = [envelope for envelope in context.heard.envelopes if envelope.name == name]
    assert found, context.heard.names
    return found[-1]


def ends(context: Scene) -> list[Envelope[Event]]:
    return [envelope for envelope in context.heard.envelopes if envelope.type.is_terminal]


@then('the tool call ends once, as "{name}"')
def ends_once(context: Scene, name: str) -> None:
    assert [name] == [envelope.name for envelope in ends(context)], context.heard.names


@then("its outcome is {outcome:w}")
def its_outcome_is(context: Scene, outcome: str) -> None:
    assert [outcome] == [str(envelope.outcome.value) for envelope in ends(context)]


@then('the outcome of "{name}" is {outcome:w}')
def outcome_is(context: Scene, name: str, outcome: str) -> None:
    assert outcome == last(context, name).outcome.value


@then("the outcome of every end is {outcome:w}")
def outcome_of_every_end(context: Scene, outcome: str) -> None:
    assert {outcome} == {envelope.outcome.value for envelope in ends(context)}


@then("the working sink hears {starts:d} starts and {count:d} ends")
def hears_starts_and_ends(context: Scene, starts: int, count: int) -> None:
    started = [envelope for envelope in context.heard.envelopes if envelope.type.is_start]
    assert (starts, count) == (len(started), len(ends(context))), context.heard.names
    assert {id(envelope) for envelope in started} == {id(end.started) for end in ends(context)}


@then("each end belongs to the call of the same tool")
def each_end_belongs(context: Scene) -> None:
    found = [
        (envelope.started.data()["tool_name"], envelope.data()["tool_name"])
        for envelope in ends(context)
    ]
    assert [("write", "write"), ("read", "read"), ("search", "search")] == found, found


@then("everything that the working sink hears is of one run")
def of_one_run(context: Scene) -> None:
    runs = {envelope.run_id for envelope in context.heard.envelopes}
    assert 1 == len(runs) and None not in runs, runs


@then("the request is in the trace of the tool call")
def request_is_in_the_trace(context: Scene) -> None:
    call = last(context, "tool.started")
    assert f"00-{call.trace_id}-{call.span_id}-01" == context.headers["traceparent"]


@then("the ends that the working sink hears are {expected:Names}")
def hears_ends(context: Scene, expected: list[str]) -> None:
    found = [envelope.name for envelope in ends(context)]
    assert expected == found, found


@then('the end belongs to the call "{key}"')
def end_belongs(context: Scene, key: str) -> None:
    (end,) = ends(context)
    assert end.started is not None
    assert (key, key) == (end.started.data()["tool_call_id"], end.data()["tool_call_id"])


@then("{count:d} operations are open")
def are_open(context: Scene, count: int) -> None:
    assert count == context.bus.health().open_operations


@then("the first 2 are in one trace, and the third one is not")
def are_in_one_trace(context: Scene) -> None:
    first, second, third = (envelope.trace_id for envelope in context.heard.envelopes)
    assert first == second != third


@then('the tool call is in another run than "{run_id}"')
def is_in_another_run(context: Scene, run_id: str) -> None:
    own = {envelope.run_id for envelope in context.heard.envelopes if "tool" in envelope.name}
    assert 1 == len(own) and own.isdisjoint({run_id, None}), own


@then("the bus has refused {count:d} end")
def has_refused(context: Scene, count: int) -> None:
    assert count == context.bus.health().refused_terminals


@then("the tool did not run")
def did_not_run(context: Scene) -> None:
    assert context.worked is False


@then('"{effect}" names "{cause}" as its cause')
def names_as_its_cause(context: Scene, effect: str, cause: str) -> None:
    causes = context.approval if cause == "approval.granted" else last(context, cause)
    assert causes.id == last(context, effect).causation_id


@then('the working sink hears {first:d} tool calls in run "{one}" and {second:d} in run "{other}"')
def hears_calls_in_runs(context: Scene, first: int, one: str, second: int, other: str) -> None:
    runs = [envelope.run_id for envelope in ends(context)]
    assert {one: first, other: second} == {run: runs.count(run) for run in set(runs)}, runs
    assert all(end.run_id == end.started.run_id for end in ends(context))


@then("the program is in the trace of the tool call")
def program_is_in_the_trace(context: Scene) -> None:
    assert last(context, "tool.started").trace_id == context.ran.stdout.strip()
