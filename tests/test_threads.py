"""
Many threads on one bus: nothing lost, nothing doubled, while others come and go.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence

import pytest

from harken import Bus, Envelope, Event
from harken.testing import Captured

THREADS = 8
EVENTS = 50_000
"""Events that each thread publishes."""

PATIENCE = 150.0
"""Seconds until a test gives up on a thread."""


class Tick(Event, name="threadtest.tick"):
    """
    What the threads publish.
    """

    thread: int
    number: int


class Numbers:
    """
    Keeps the numbers of each publishing thread, as a handler or as a sink.
    """

    def __init__(self) -> None:
        self.by_thread: list[list[int]] = [[] for _ in range(THREADS)]

    def __call__(self, envelope: Envelope[Tick]) -> None:
        event = envelope.event
        self.by_thread[event.thread].append(event.number)

    def write(self, batch: Sequence[Envelope[Event]], /) -> None:
        for envelope in batch:
            if isinstance(envelope.event, Tick):
                self(envelope)  # type: ignore[arg-type]


@pytest.fixture
def errors(monkeypatch: pytest.MonkeyPatch) -> list[BaseException | None]:
    """
    What the threads of the test raised.
    """
    raised: list[BaseException | None] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: raised.append(args.exc_value))
    return raised


@pytest.fixture
def bus() -> Iterator[Bus]:
    bus = Bus()
    yield bus
    bus.close()


def come_and_go(bus: Bus, until: threading.Event, turns: list[int]) -> None:
    """
    Subscribe and cancel in turn, as a handler, with a predicate and as a sink.
    """
    turn = 0
    while not until.is_set():
        visitor = Numbers()
        visits = [
            bus.subscribe(visitor, Tick),
            bus.subscribe(visitor, Tick, where=lambda envelope: envelope.event.number % 2 == 0),
            bus.attach(Captured(), Tick),
            bus.attach(Captured(), Tick, delivery="worker"),
        ]
        for visit in visits:
            visit.cancel()
        turn += 1
        # A breath, or two threads that do nothing else would be all that runs.
        until.wait(0.001)
    turns.append(turn)


def run_all(*calls: Callable[[], object]) -> list[threading.Thread]:
    threads = [threading.Thread(target=call, daemon=True) for call in calls]
    for thread in threads:
        thread.start()
    return threads


def test_nothing_lost_and_nothing_doubled(
    bus: Bus, errors: list[BaseException | None], caplog: pytest.LogCaptureFixture
) -> None:
    """
    Eight threads publish while two others subscribe and cancel: a handler that stays, and a
    sink on the worker that makes publishers wait, get each event once, in its thread's order.
    """
    handler, sink = Numbers(), Numbers()
    bus.subscribe(handler, Tick, name="handler")
    bus.attach(sink, Tick, delivery="worker", overflow="block", name="sink")
    over = threading.Event()
    turns: list[int] = []
    accepted: list[int] = []

    def publish(thread: int) -> None:
        events = (Tick(thread=thread, number=number) for number in range(EVENTS))
        accepted.append(sum(bus.publish(event) is not None for event in events))

    visitors = run_all(*[lambda: come_and_go(bus, over, turns)] * 2)
    publishers = run_all(*(lambda thread=thread: publish(thread) for thread in range(THREADS)))
    for thread in publishers:
        thread.join(PATIENCE)
    over.set()
    for thread in visitors:
        thread.join(PATIENCE)
    report = bus.flush(PATIENCE)

    expected = list(range(EVENTS))
    assert [] == [thread for thread in publishers + visitors if thread.is_alive()]
    assert [] == errors
    assert [EVENTS] * THREADS == accepted
    assert report
    assert 2 == len(turns)
    assert min(turns) > 0
    for numbers in (*handler.by_thread, *sink.by_thread):
        assert expected == numbers
    health = bus.health()
    assert ["handler", "sink"] == list(health)
    assert [(THREADS * EVENTS, 0, 0)] * 2 == [
        (one.delivered, one.failures, one.dropped) for one in health.values()
    ]
    assert "" == caplog.text


def test_operations_in_threads(bus: Bus, errors: list[BaseException | None]) -> None:
    """
    Operations that are started, ended by their author and ended a second time in many threads
    at once have one start and one end each.
    """
    from harken.catalog import ToolCompleted, ToolStarted

    heard = Captured()
    bus.attach(heard)

    def work(thread: int) -> None:
        for number in range(300):
            call = f"{thread}-{number}"
            with bus.operation(ToolStarted(tool_name="a", tool_call_id=call)):
                bus.publish(ToolCompleted(tool_name="a", tool_call_id=call))

    for thread in run_all(*(lambda thread=thread: work(thread) for thread in range(THREADS))):
        thread.join(PATIENCE)

    starts = [e.event.tool_call_id for e in heard.envelopes if e.type.is_start]
    ends = [e.event.tool_call_id for e in heard.envelopes if e.type.is_terminal]
    assert [] == errors
    assert THREADS * 300 == len(set(starts)) == len(starts)
    assert sorted(starts) == sorted(ends)
    assert (0, THREADS * 300) == (bus.health().open_operations, bus.health().refused_terminals)


def test_everybody_flushes(bus: Bus, errors: list[BaseException | None]) -> None:
    """
    Threads that flush after each of their events find it delivered, whoever else flushes.
    """
    sinks = [Numbers(), Numbers()]
    bus.attach(sinks[0], delivery="worker")
    bus.attach(sinks[1], delivery="isolated")
    missing: list[int] = []

    def work(thread: int) -> None:
        for number in range(40):
            bus.publish(Tick(thread=thread, number=number))
            if not bus.flush(PATIENCE):
                missing.append(number)
            missing.extend(number for sink in sinks if number not in sink.by_thread[thread])

    for thread in run_all(*(lambda thread=thread: work(thread) for thread in range(THREADS))):
        thread.join(PATIENCE)

    assert [] == errors
    assert [] == missing
