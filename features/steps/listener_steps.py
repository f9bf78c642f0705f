"""
Listeners: functions that hear one event after the other.
"""

from __future__ import annotations

import asyncio
import gc

from agent import Invoice, InvoicePaid, open_pull_request
from behave import given, then, when
from scene import Scene, bus_of, member

import harken
from harken import Bus, Envelope, Event, event_name
from harken.catalog import PrCreated
from harken.testing import Captured


def listen(context: Scene, *types: type[Event], **options: object) -> None:
    context.listener = Captured()
    context.subscription = bus_of(context).subscribe(
        lambda envelope: context.listener.write([envelope]), *types, **options
    )


@given("a listener to everything")
def listener_to_everything(context: Scene) -> None:
    listen(context)


@given("a listener to {types:Names}")
def listener_to(context: Scene, types: list[str]) -> None:
    listen(context, *map(harken.find, types))


@given("a family of types for invoices, with {types:Names} in it")
def family_of_types(context: Scene, types: list[str]) -> None:
    assert set(types) == {event_name(member) for member in Invoice.__subclasses__()}


@given("a listener to that family")
def listener_to_family(context: Scene) -> None:
    listen(context, Invoice)


@given("a listener to whatever is audited")
def listener_to_audited(context: Scene) -> None:
    listen(context, where=lambda envelope: envelope.audit)


@given("the listener has heard of 1 pull request and left")
def listener_has_heard_and_left(context: Scene) -> None:
    open_pull_request(context.bus)
    context.subscription.cancel()


@given("a listener to pull requests that the bus does not keep alive")
def listener_not_kept_alive(context: Scene) -> None:
    context.listener = Captured()

    def listen(envelope: Envelope[Event]) -> None:
        context.listener.write([envelope])

    context.function = listen
    bus_of(context).subscribe(listen, PrCreated, weak=True)
    assert context.bus.enabled(PrCreated)


@when("nobody needs the listener any more")
def nobody_needs_the_listener(context: Scene) -> None:
    context.function = None
    gc.collect()


@given("a listener that fails")
def listener_that_fails(context: Scene) -> None:
    def fail(envelope: Envelope[Event]) -> None:
        raise ValueError("not listening")

    context.bus.subscribe(fail)


@given("a listener that fails at every second pull request")
def listener_that_fails_now_and_then(context: Scene) -> None:
    def fail(envelope: Envelope[PrCreated]) -> None:
        if int(envelope.event.url.rpartition("/")[2]) % 2:
            raise ValueError("not now")

    context.bus.subscribe(fail, PrCreated, name="fickle")


@given("a listener that pays an invoice as soon as it hears of a pull request")
def listener_that_pays(context: Scene) -> None:
    context.bus.subscribe(lambda envelope: context.bus.publish(InvoicePaid()), PrCreated)


@then("the listener hears {expected:Names}")
def listener_hears(context: Scene, expected: list[str]) -> None:
    assert expected == context.listener.names, context.listener.names


@then("the listener has heard of {count:d} pull request")
def listener_has_heard_of(context: Scene, count: int) -> None:
    assert ["pr.created"] * count == context.listener.names, context.listener.names


@then("the listener has heard nothing")
def listener_has_heard_nothing(context: Scene) -> None:
    assert [] == context.listener.names, context.listener.names


@then('the listener sees the argument "{name}" as "{value}"')
def listener_sees_argument(context: Scene, name: str, value: str) -> None:
    (event,) = context.listener.events
    assert {name: value} == event.arguments, event


@then('what leaves the process says "{value}" instead')
def leaves_the_process(context: Scene, value: str) -> None:
    (envelope,) = context.listener.envelopes
    assert value == member(envelope.data(), "arguments.password"), envelope.body


@then("nobody does")
def nobody_does(context: Scene) -> None:
    assert context.answer is False


# A listener that is a coroutine, on a loop that only runs while the agent does.


@given("a coroutine that listens to pull requests")
def coroutine_listens(context: Scene) -> None:
    context.listener = Captured()

    async def hear(envelope: Envelope[PrCreated]) -> None:
        await asyncio.sleep(0)
        context.listener.write([envelope])

    bus_of(context).subscribe(hear, PrCreated)


@when("the agent opens {count:d} pull requests on the same loop and flushes the bus")
def flushes_on_the_loop(context: Scene, count: int) -> None:
    async def main(bus: Bus) -> None:
        for number in range(count):
            open_pull_request(bus, number)
        context.report = bus.flush()
        context.heard_of = len(context.listener.envelopes)

    asyncio.run(main(context.bus))


@then("the coroutine has heard of {count:d} pull requests")
def coroutine_has_heard(context: Scene, count: int) -> None:
    assert count == context.heard_of, context.heard_of
