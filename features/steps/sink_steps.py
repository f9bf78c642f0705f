"""
Sinks: one that works, one that is broken, one that has no time.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from agent import InvoicePaid, open_pull_request
from behave import given, then, when
from scene import Scene, attribute, bus_of, compare

from harken import Bus, Envelope, Event
from harken.catalog import EventsDropped, PrCreated, ToolStarted
from harken.testing import Captured

PATIENCE = 30.0
"""Seconds after which something that has to happen counts as not happening."""


class Broken(Captured):
    """
    A sink that raises until it is mended.
    """

    name = "broken"
    mended = False

    def write(self, batch: Sequence[Envelope[Event]], /) -> None:
        if not self.mended:
            raise OSError("no disk")
        super().write(batch)


class Busy(Captured):
    """
    A sink on a thread of its own that takes nothing more until it gets time.
    """

    name = "busy"
    delivery = "isolated"

    def __init__(self) -> None:
        super().__init__()
        self.is_busy = threading.Event()
        self.has_time = threading.Event()

    def write(self, batch: Sequence[Envelope[Event]], /) -> None:
        self.is_busy.set()
        assert self.has_time.wait(PATIENCE)
        super().write(batch)

    @property
    def pull_requests(self) -> list[str]:
        """
        The pull requests it has heard of, without the one that keeps it busy.
        """
        return [event.url for event in self.of(PrCreated) if event.url != "/pull/0"]


class Reporting:
    """
    A sink that publishes while it writes.
    """

    delivery = "inline"

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    def write(self, batch: Sequence[Envelope[Event]], /) -> None:
        for _ in batch:
            self._bus.publish(InvoicePaid())


def attach_working(context: Scene, *types: type[Event], **options: str) -> Bus:
    context.heard = Captured()
    bus = bus_of(context)
    bus.attach(context.heard, *types, **options)
    return bus


def attach_busy(context: Scene, bus: Bus, **options: object) -> None:
    context.busy = Busy()
    context.add_cleanup(context.busy.has_time.set)
    bus.attach(context.busy, PrCreated, **options)
    open_pull_request(bus, 0)
    assert context.busy.is_busy.wait(PATIENCE)
    if "heard" in context:
        context.heard.clear()


@given("a bus with a working sink")
def working_sink(context: Scene) -> None:
    attach_working(context)


@given("a bus with a working sink behind a queue")
def queued_working_sink(context: Scene) -> None:
    attach_working(context, delivery="worker")


@given("a bus with a working sink and a broken sink")
def broken_sink(context: Scene) -> None:
    context.broken = Broken()
    attach_working(context).attach(context.broken, PrCreated, ToolStarted)


@given("a bus with a working sink and a broken required sink")
def broken_required_sink(context: Scene) -> None:
    context.broken = Broken()
    attach_working(context).attach(context.broken, PrCreated, ToolStarted, required=True)


@given("the broken sink was left alone after {count:d} pull requests")
def broken_sink_was_left_alone(context: Scene, count: int) -> None:
    for number in range(count):
        open_pull_request(context.bus, number)
    assert context.bus.health()["broken"].quarantined


@given("a bus with a working sink and a busy sink")
def busy_sink(context: Scene) -> None:
    attach_busy(context, attach_working(context))


OVERFLOW = {
    "drops the oldest ones": "drop_oldest",
    "drops the newest ones": "drop_newest",
    "makes the agent wait": "block",
    "tells the agent": "raise",
}


@given("a bus with a working sink and a busy sink with room for {room:d} events that {does}")
def busy_sink_with_room(context: Scene, room: int, does: str) -> None:
    attach_busy(context, attach_working(context), capacity=room, overflow=OVERFLOW[does])


@given("a bus with a working sink and a busy sink with room for {room:d} bytes that {does}")
def busy_sink_with_bytes(context: Scene, room: int, does: str) -> None:
    attach_busy(context, attach_working(context), capacity_bytes=room, overflow=OVERFLOW[does])


@given("a sink that reports each pull request with an event of its own")
def reporting_sink(context: Scene) -> None:
    context.bus.attach(Reporting(context.bus), PrCreated)


@when("the broken sink is mended and the agent goes on opening pull requests")
def broken_sink_is_mended(context: Scene) -> None:
    context.broken.mended = True
    until = time.monotonic() + PATIENCE
    while not context.broken.envelopes and time.monotonic() < until:
        time.sleep(0.05)
        open_pull_request(context.bus)
    # What it missed is told when it takes something again, and at the latest at a flush.
    context.bus.flush()


@when("the agent opens {count:d} pull requests while the busy sink gets time")
def opens_pull_requests_meanwhile(context: Scene, count: int) -> None:
    timer = threading.Timer(0.05, context.busy.has_time.set)
    timer.start()
    for number in range(1, count + 1):
        open_pull_request(context.bus, number)
    timer.join()


@when("the agent opens {count:d} pull requests before the busy sink gets time")
def opens_pull_requests_before(context: Scene, count: int) -> None:
    for number in range(1, count + 1):
        open_pull_request(context.bus, number)
    gets_time(context)


def gets_time(context: Scene) -> None:
    context.busy.has_time.set()
    assert context.bus.flush(PATIENCE)


@then("the busy sink has heard of them once it has time")
def busy_sink_has_heard(context: Scene) -> None:
    gets_time(context)
    assert ["/pull/1", "/pull/2", "/pull/3"] == context.busy.pull_requests


@then("the busy sink hears of pull requests {first:d} to {last:d} once it has time")
def busy_sink_hears(context: Scene, first: int, last: int) -> None:
    gets_time(context)
    expected = [f"/pull/{number}" for number in range(first, last + 1)]
    assert expected == context.busy.pull_requests, context.busy.pull_requests


@then("the working sink hears nothing")
def hears_nothing(context: Scene) -> None:
    assert [] == context.heard.names, context.heard.names


@then("the working sink hears {expected:Names}")
def hears(context: Scene, expected: list[str]) -> None:
    assert expected == context.heard.names, context.heard.names


@then("the working sink hears the tool call")
def hears_the_tool_call(context: Scene) -> None:
    heard = [name for name in context.heard.names if name.startswith("tool.")]
    assert ["tool.started", "tool.completed"] == heard, context.heard.names


@then("the working sink hears of the pull request")
def hears_of_the_pull_request(context: Scene) -> None:
    assert "pr.created" in context.heard.names, context.heard.names


@then("the working sink has heard of {count:d} pull requests")
def has_heard_of(context: Scene, count: int) -> None:
    assert count == len(context.heard.of(PrCreated)), context.heard.names


def says(context: Scene, envelope: Envelope[Event]) -> None:
    data = envelope.data()
    compare(context.table, lambda key: data[key] if key in data else attribute(envelope, key))


@then('the working sink hears one "{name}" that says')
def hears_one_that_says(context: Scene, name: str) -> None:
    (envelope,) = (envelope for envelope in context.heard.envelopes if envelope.name == name)
    says(context, envelope)


@then('the working sink hears a "{name}" that says')
def hears_last_that_says(context: Scene, name: str) -> None:
    found = [envelope for envelope in context.heard.envelopes if envelope.name == name]
    assert found, context.heard.names
    says(context, found[-1])


@then("its first and last number are those of pull requests {first:d} and {last:d}")
def numbers_of_pull_requests(context: Scene, first: int, last: int) -> None:
    (dropped,) = context.heard.of(EventsDropped)
    seqs = {
        envelope.event.url: envelope.seq
        for envelope in context.heard.envelopes
        if isinstance(envelope.event, PrCreated)
    }
    expected = (seqs[f"/pull/{first}"], seqs[f"/pull/{last}"])
    assert expected == (dropped.first_seq, dropped.last_seq), dropped


@then("the mended sink hears of one")
def mended_sink_hears(context: Scene) -> None:
    assert ["pr.created"] == context.broken.names, context.broken.names


@then("everything that the working sink hears says")
def everything_says(context: Scene) -> None:
    assert context.heard.envelopes
    for envelope in context.heard.envelopes:
        says(context, envelope)


@then("the health of the {name:w} listener says")
@then("the health of the {name:w} sink says")
def health_says(context: Scene, name: str) -> None:
    health = context.bus.health()[name]
    compare(context.table, lambda key: attribute(health, key))
