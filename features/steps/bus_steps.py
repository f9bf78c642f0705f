"""
The bus: flushed, closed, and what it refuses.
"""

from __future__ import annotations

from agent import open_pull_request
from behave import given, then, when
from scene import Scene

from harken.errors import DeliveryError


@given("the bus was closed")
@when("the bus is closed")
def bus_is_closed(context: Scene) -> None:
    context.bus.close()


@when("the agent opens {count:d} pull requests and flushes the bus")
def opens_and_flushes(context: Scene, count: int) -> None:
    for number in range(count):
        open_pull_request(context.bus, number)
    context.report = context.bus.flush(30)


@when("the agent opens {count:d} pull requests and flushes the bus for a moment")
def opens_and_flushes_for_a_moment(context: Scene, count: int) -> None:
    for number in range(1, count + 1):
        open_pull_request(context.bus, number)
    context.report = context.bus.flush(0.05)


@then("the flush succeeds")
def flush_succeeds(context: Scene) -> None:
    assert context.report, context.report


@then("the flush fails")
def flush_fails(context: Scene) -> None:
    assert not context.report, context.report


@then(
    "the flush says that {count:d} events are pending at the busy sink, "
    "and none at the working sink"
)
def flush_says(context: Scene, count: int) -> None:
    pending = {name: one.pending for name, one in context.report.items()}
    assert {"Captured": 0, "busy": count} == pending, pending


@then("the agent was not disturbed")
@then("the application was not disturbed")
def not_disturbed(context: Scene) -> None:
    assert context.error is None, context.error


@then("the agent is stopped by a delivery error")
def stopped_by_a_delivery_error(context: Scene) -> None:
    assert isinstance(context.error, DeliveryError), context.error


@then('that is refused with "{sentence}"')
def that_is_refused(context: Scene, sentence: str) -> None:
    assert sentence in str(context.error), context.error
