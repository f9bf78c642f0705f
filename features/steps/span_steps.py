"""
Spans, and what all outputs have in common.
"""

from __future__ import annotations

from behave import then
from outputs import AUDIT, LOG, METRICS, SPANS, flush, log_line, record_of, records, span, spans
from scene import Scene, compare, member


@then("the spans are {expected:Names}")
def spans_are(context: Scene, expected: list[str]) -> None:
    found = [one["name"] for one in spans(context)]
    assert expected == found, found


@then('the span "{name}" says')
def span_says(context: Scene, name: str) -> None:
    found = span(context, name)
    compare(context.table, lambda path: member(found, path))


@then('the span "{inner}" is inside "{outer}"')
def span_is_inside(context: Scene, inner: str, outer: str) -> None:
    assert span(context, outer)["span_id"] == span(context, inner)["parent_id"]


@then('the span "{name}" is a child of the application\'s span')
def is_a_child_of_the_application(context: Scene, name: str) -> None:
    found = span(context, name)
    theirs = (f"{context.span.trace_id:032x}", f"{context.span.span_id:016x}")
    assert theirs == (found["trace_id"], found["parent_id"]), found


@then('the application\'s span is a child of "{name}"')
def the_application_is_a_child(context: Scene, name: str) -> None:
    found = span(context, name)
    theirs = context.their_parent
    assert (theirs.trace_id, theirs.span_id) == (
        int(found["trace_id"], 16),
        int(found["span_id"], 16),
    )


def traces(context: Scene) -> list[str]:
    found = [*records(context.folder / AUDIT), *spans(context)]
    assert len(found) > len(spans(context)) > 0, found
    return [one["trace_id"] for one in found]


@then('every record and every span has the trace "{trace_id}"')
def every_has_the_trace(context: Scene, trace_id: str) -> None:
    assert {trace_id} == set(traces(context))


@then("the record, the line and the span of the tool call have the same ids")
def have_the_same_ids(context: Scene) -> None:
    record = record_of(context, "tool.completed")
    line = log_line(context, "tool.completed")
    found = span(context, "execute_tool search")
    assert 1 == len({(one["trace_id"], one["span_id"]) for one in (record, line, found)})


@then('"{text}" is in none of the outputs')
def in_none_of_the_outputs(context: Scene, text: str) -> None:
    flush(context)
    for name in (AUDIT, METRICS, LOG, SPANS):
        written = (context.folder / name).read_text()
        assert "tool" in written, f"{name} is empty"
        assert text not in written, name
