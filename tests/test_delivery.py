"""
From publish to subscriber: queues, overflow, failures, flush, close, signals, event loops.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import logging
import signal
import sys
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

import pytest
import trio
from hypothesis import given, strategies as st

import harken
from harken import Bus, Envelope, Event, Subscription, delivery as delivery_, subscription
from harken.catalog import EventsDropped, SinkFailed, ToolStarted
from harken.errors import ClosedBusError, DeliveryError, QueueFullError, SubscriptionError
from harken.pairing import Operations
from harken.testing import Captured

DELIVERIES = ("inline", "worker", "isolated", "loop")
SINK_DELIVERIES = ("inline", "worker", "isolated")

PATIENCE = 20.0
"""Seconds until a test gives up on what must happen; nothing takes that long."""


class Ping(Event, name="deliverytest.ping"):
    """
    What most tests publish.
    """

    number: int = 0
    text: str = ""
    held: Any = None


class Echo(Event, name="deliverytest.echo"):
    """
    What handlers publish.
    """

    number: int = 0


class DeployStarted(Event, name="deliverytest.deploy_started", key="deploy_id"):
    """
    Opens an operation.
    """

    deploy_id: str = ""


class DeployEnded(Event, name="deliverytest.deploy_ended", ends=DeployStarted):
    """
    Ends it.
    """

    deploy_id: str = ""
    steps: tuple[str, ...] | list[str] = ()


class Kept(Captured):
    """
    A sink that also remembers how it was called.
    """

    def __init__(self, delivery: str = "worker") -> None:
        super().__init__()
        self.delivery = delivery
        self.sizes: list[int] = []
        self.threads: set[str] = set()

    def write(self, batch: Sequence[Envelope[Event]], /) -> None:
        self.sizes.append(len(batch))
        self.threads.add(threading.current_thread().name)
        super().write(batch)

    @property
    def numbers(self) -> list[int]:
        return [event.number for event in self.of(Ping)]


class Gated(Kept):
    """
    A sink that takes nothing until its gate is opened.
    """

    def __init__(self, delivery: str = "worker") -> None:
        super().__init__(delivery)
        self.entered = threading.Event()
        self.gate = threading.Event()

    def write(self, batch: Sequence[Envelope[Event]], /) -> None:
        self.entered.set()
        assert self.gate.wait(PATIENCE)
        super().write(batch)


class Broken(Kept):
    """
    A sink that raises on every batch, until it is mended.
    """

    def __init__(self, delivery: str = "worker", error: BaseException | None = None) -> None:
        super().__init__(delivery)
        self.error: BaseException | None = error or OSError("disk full")
        self.calls = 0

    def write(self, batch: Sequence[Envelope[Event]], /) -> None:
        self.calls += 1
        if self.error is not None:
            raise self.error
        super().write(batch)


@pytest.fixture
def bus() -> Iterator[Bus]:
    bus = Bus()
    yield bus
    bus.close()


@pytest.fixture
def heard(bus: Bus) -> Captured:
    captured = Captured()
    bus.attach(captured)
    return captured


def eventually(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.001)


def together(*calls: Callable[[], object]) -> None:
    """
    Run *calls* in threads of their own, at the same time, and fail when one hangs.
    """
    threads = [threading.Thread(target=call, daemon=True) for call in calls]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + PATIENCE
    for thread in threads:
        thread.join(max(deadline - time.monotonic(), 0))

    assert [] == [thread.name for thread in threads if thread.is_alive()]


def subscribe(
    bus: Bus, handler: Callable[[Envelope[Any]], object], delivery: str, **options: Any
) -> Subscription:
    """
    Subscribe *handler*, wrapped in a coroutine function where the delivery asks for one.
    """
    if delivery != "loop":
        return bus.subscribe(handler, Ping, delivery=delivery, name="it", **options)

    async def handle(envelope: Envelope[Any]) -> None:
        handler(envelope)

    return bus.subscribe(handle, Ping, name="it", **options)


def publish(bus: Bus, *numbers: int) -> None:
    """
    Publish from inside an event loop, as any delivery allows, and wait for what is queued.
    """

    async def main() -> None:
        for number in numbers:
            bus.publish(Ping(number=number))
        assert await bus.aflush(PATIENCE)

    asyncio.run(main())


@contextmanager
def on_signal(handler: Callable[[], object], signum: int = signal.SIGUSR1) -> Iterator[None]:
    """
    Call *handler* on the signal *signum*, with the main thread unmeasured.

    coverage takes a lock of its own in Python, so that a handler which interrupts it there,
    and is measured itself, would wait for its own thread.
    """
    before = signal.signal(signum, lambda *_: handler())
    trace = sys.gettrace()
    sys.settrace(None)
    try:
        yield
    finally:
        sys.settrace(trace)
        signal.signal(signum, before)


class OnRelease:
    """
    Calls back when it is let go.
    """

    def __init__(self, call: Callable[[], object]) -> None:
        self._call = call

    def __del__(self) -> None:
        self._call()


class QueueOfOurs(delivery_.Queue):
    """
    A queue that nobody empties but the test; who blocks there waits for nothing.
    """

    def __init__(self, lock: threading.RLock, **options: Any) -> None:
        self.wakes = 0
        self.untold: list[Envelope[Event]] = []
        super().__init__(
            "ours",
            block_timeout=0.0,
            lock=lock,
            wake=self.count,
            draining=lambda: False,
            dropped=self.untold.extend,
            **options,
        )

    def count(self) -> None:
        self.wakes += 1

    @property
    def state(self) -> tuple[object, ...]:
        """
        What there is to see of it.
        """
        return self.depth, len(self), self.wakes, dict(self.drops.by_reason), list(self.untold)


def one_by_one(
    queues: Sequence[delivery_.Queue], envelope: Envelope[Event]
) -> Iterator[QueueFullError]:
    """
    Put *envelope* into each of *queues*, and return what they raise.
    """
    for queue in queues:
        try:
            envelope.snapshot()
            queue.put(envelope)
        except QueueFullError as error:
            yield error


def fill(bus: Bus, gated: Gated, *numbers: int) -> None:
    """
    Have *gated* hold the event 0, and queue *numbers* behind it.
    """
    bus.publish(Ping(number=0))
    assert gated.entered.wait(PATIENCE)
    for number in numbers:
        bus.publish(Ping(number=number))


class TestOverflow:
    @pytest.mark.parametrize(
        ("overflow", "kept", "first", "last"),
        [("drop_oldest", [0, 3, 4, 5], 2, 3), ("drop_newest", [0, 1, 2, 3], 5, 6)],
    )
    def test_dropping(
        self,
        bus: Bus,
        heard: Captured,
        overflow: delivery_.Overflow,
        kept: list[int],
        first: int,
        last: int,
    ) -> None:
        """
        What is dropped is the oldest or the newest, counted exactly, and told in band with the
        numbers of the first and the last of it.
        """
        gated = Gated()
        bus.attach(gated, Ping, capacity=3, overflow=overflow, name="slow")
        fill(bus, gated, 1, 2, 3, 4, 5)
        gated.gate.set()
        report = bus.flush()

        told = EventsDropped(
            sink="slow", count=2, reason="queue_full", first_seq=first, last_seq=last
        )
        assert kept == gated.numbers
        assert [told] == heard.of(EventsDropped)
        assert (4, 2, 0) == (
            report["slow"].delivered,
            report["slow"].dropped,
            report["slow"].pending,
        )
        assert {"queue_full": 2} == bus.health()["slow"].drops

    def test_raise(self, bus: Bus, heard: Captured) -> None:
        """
        The publisher is told that a queue is full, after all others have heard.
        """
        gated, other, handled = Gated(), Kept("isolated"), []
        bus.attach(gated, Ping, capacity=2, overflow="raise", name="slow")
        bus.attach(other, Ping)
        bus.subscribe(handled.append, Ping)
        fill(bus, gated, 1, 2)

        with pytest.raises(QueueFullError, match="slow: the queue is full with 2 events"):
            bus.publish(Ping(number=3))
        gated.gate.set()
        assert bus.flush()
        assert [0, 1, 2] == gated.numbers
        assert [0, 1, 2, 3] == [event.number for event in heard.of(Ping)]
        assert [0, 1, 2, 3] == other.numbers
        assert 4 == len(handled)
        assert [(1, 4, 4)] == [
            (event.count, event.first_seq, event.last_seq) for event in heard.of(EventsDropped)
        ]

    def test_full_queues_and_required_sinks_are_told_together(self, bus: Bus) -> None:
        """
        Nobody's failure hides another's.
        """
        gated = Gated()
        bus.attach(gated, Ping, capacity=1, overflow="raise")
        bus.attach(Broken("inline"), Ping, required=True)
        for number in range(2):
            with pytest.raises(DeliveryError):
                bus.publish(Ping(number=number))
            gated.entered.wait(PATIENCE)

        with pytest.raises(DeliveryError, match="2 required") as caught:
            bus.publish(Ping(number=2))
        gated.gate.set()
        assert [QueueFullError, OSError] == [type(error) for error in caught.value.errors]

    def test_block(self, bus: Bus) -> None:
        """
        The publisher waits for room, and nothing is lost.
        """
        gated = Gated()
        bus.attach(gated, Ping, capacity=2, overflow="block", name="slow")
        returned: list[int] = []

        def run() -> None:
            for number in range(1000):
                bus.publish(Ping(number=number))
                returned.append(number)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        assert gated.entered.wait(PATIENCE)
        eventually(lambda: bus.health()["slow"].depth == 2)
        before = len(returned)
        gated.gate.set()
        thread.join(PATIENCE)

        assert before <= 5
        assert bus.flush()
        assert list(range(1000)) == gated.numbers
        assert 0 == bus.health()["slow"].dropped

    def test_block_after_an_inline_sink(self, bus: Bus) -> None:
        """
        Who has written to an inline sink waits for room at the next like everybody else.
        """

        class Slow(Kept):
            def write(self, batch: Sequence[Envelope[Event]], /) -> None:
                time.sleep(0.005)
                super().write(batch)

        slow = Slow()
        bus.attach(Kept("inline"), Ping)
        bus.attach(slow, Ping, capacity=1, overflow="block")
        for number in range(20):
            bus.publish(Ping(number=number))
        assert bus.flush()

        assert list(range(20)) == slow.numbers

    def test_block_for_a_while(self, bus: Bus, heard: Captured) -> None:
        """
        After the timeout the event is dropped, counted and told.
        """
        gated = Gated()
        bus.attach(gated, Ping, capacity=1, overflow="block", block_timeout=0.01, name="slow")
        fill(bus, gated, 1, 2, 3)
        gated.gate.set()
        assert bus.flush()

        assert [0, 1] == gated.numbers
        assert [(2, 3, 4)] == [
            (event.count, event.first_seq, event.last_seq) for event in heard.of(EventsDropped)
        ]

    @pytest.mark.parametrize("delivery", ["worker", "isolated"])
    def test_block_never_waits_for_itself(self, bus: Bus, delivery: str) -> None:
        """
        A handler that fills its own queue drops instead of waiting for itself.
        """
        handled: list[int] = []

        def handle(envelope: Envelope[Ping]) -> None:
            handled.append(envelope.event.number)
            if envelope.event.number == 0:
                for number in range(1, 4):
                    bus.publish(Ping(number=number))

        subscribe(bus, handle, delivery, capacity=1, overflow="block")
        bus.publish(Ping(number=0))
        eventually(lambda: len(handled) == 2)
        assert bus.flush()

        assert [0, 1] == handled
        assert {"queue_full": 2} == bus.health()["it"].drops

    def test_room_in_bytes(self, bus: Bus) -> None:
        """
        A queue is also bounded by the bytes of what waits in it.
        """
        gated = Gated()
        bus.attach(gated, Ping, capacity_bytes=30_000, overflow="drop_newest", name="slow")
        bus.publish(Ping(number=0))
        assert gated.entered.wait(PATIENCE)
        for number in range(1, 6):
            bus.publish(Ping(number=number, text="x" * 10_000))
        gated.gate.set()
        assert bus.flush()

        assert [0, 1, 2] == gated.numbers
        assert {"queue_full": 3} == bus.health()["slow"].drops

    def test_sink_is_told_what_it_will_never_get(self, bus: Bus) -> None:
        """
        A sink that accounts for what its queue drops hears of each of these events once.
        """
        missed: list[int] = []

        class Accounting(Gated):
            def dropped(self, batch: Sequence[Envelope[Event]], /) -> None:
                missed.extend(envelope.seq for envelope in batch)

        gated = Accounting()
        bus.attach(gated, Ping, capacity=1, name="slow")
        fill(bus, gated, 1, 2, 3)
        gated.gate.set()
        assert bus.flush()

        assert [0, 3] == gated.numbers
        assert [2, 3] == missed

    def test_room_comes_back(self, bus: Bus) -> None:
        """
        What was handed over takes no room any more, however much there was of it.
        """
        gated = Gated()
        gated.gate.set()
        bus.attach(gated, Ping, capacity_bytes=30_000, overflow="drop_newest", name="it")
        for _ in range(10):
            bus.publish(Ping(number=-1, text="x" * 10_000))
            assert bus.flush()
        gated.gate.clear()
        gated.entered.clear()
        bus.publish(Ping(number=0))
        assert gated.entered.wait(PATIENCE)
        for number in (1, 2, 3):
            bus.publish(Ping(number=number, text="x" * 10_000))
        gated.gate.set()
        assert bus.flush()

        assert [*[-1] * 10, 0, 1, 2] == gated.numbers
        assert {"queue_full": 1} == bus.health()["it"].drops

    def test_one_large_event_takes_the_room_of_many(self, bus: Bus) -> None:
        """
        As many old events go as a large one needs, and not one more.
        """
        gated = Gated()
        bus.attach(gated, Ping, capacity_bytes=40_000, name="slow")
        bus.publish(Ping(number=0))
        assert gated.entered.wait(PATIENCE)
        for number in range(1, 4):
            bus.publish(Ping(number=number, text="x" * 10_000))
        bus.publish(Ping(number=4, text="x" * 20_000))
        gated.gate.set()
        assert bus.flush()

        assert [0, 3, 4] == gated.numbers
        assert {"queue_full": 2} == bus.health()["slow"].drops

    @pytest.mark.parametrize("overflow", ["drop_oldest", "drop_newest", "block", "raise"])
    def test_larger_than_the_whole_bound(self, bus: Bus, overflow: delivery_.Overflow) -> None:
        """
        An event that is larger than the bound still gets through when it is alone.
        """
        kept = Kept()
        bus.attach(kept, Ping, capacity_bytes=1000, overflow=overflow)
        bus.publish(Ping(number=1, text="x" * 10_000))

        assert bus.flush()
        assert [1] == kept.numbers

    @pytest.mark.parametrize("options", [{"capacity": 0}, {"capacity_bytes": 0}, {"overflow": "x"}])
    @pytest.mark.parametrize("delivery", ["worker", "isolated", "loop"])
    def test_queue_that_cannot_be(self, bus: Bus, delivery: str, options: dict[str, Any]) -> None:
        """
        A queue without room, or with an unknown policy, is refused and leaves nothing behind.
        """
        with pytest.raises(SubscriptionError, match=r"^it: "):
            subscribe(bus, print, delivery, **options)

        assert {} == dict(bus.health())

    @given(
        overflow=st.sampled_from(["drop_oldest", "drop_newest"]),
        capacity=st.integers(1, 20),
        rounds=st.lists(st.integers(1, 40), min_size=1, max_size=4),
    )
    def test_every_event_is_accounted_for(
        self, overflow: delivery_.Overflow, capacity: int, rounds: list[int]
    ) -> None:
        """
        Delivered and dropped together are what was published, in health, in the report of a
        flush, and in what is told in band.
        """
        bus, heard = Bus(), Captured()
        bus.attach(heard)
        kept = Kept()
        bus.attach(kept, Ping, capacity=capacity, overflow=overflow, name="slow")
        published = 0
        for count in rounds:
            for _ in range(count):
                bus.publish(Ping(number=published))
                published += 1
            report = bus.flush()
        bus.close()

        told = heard.of(EventsDropped)
        health = bus.health()["slow"]
        assert published == health.delivered + health.dropped
        assert len(kept.numbers) == health.delivered == report["slow"].delivered
        assert sorted(kept.numbers) == kept.numbers
        assert sum(event.count for event in told) == health.dropped == report["slow"].dropped
        missed = {e.seq for e in heard.envelopes if isinstance(e.event, Ping)} - {
            e.seq for e in kept.envelopes
        }
        assert missed == {seq for seq in missed for e in told if e.first_seq <= seq <= e.last_seq}

    @given(
        options=st.lists(
            st.fixed_dictionaries(
                {
                    "capacity": st.integers(1, 4),
                    "capacity_bytes": st.sampled_from([None, 1, 700, 1500]),
                    "overflow": st.sampled_from(["drop_oldest", "drop_newest", "block", "raise"]),
                }
            ),
            min_size=1,
            max_size=4,
        ),
        steps=st.lists(st.sampled_from(["small", "large", "take", "mark", "close"]), max_size=12),
    )
    def test_all_queues_at_once(self, options: list[dict[str, Any]], steps: list[str]) -> None:
        """
        An event that is put into all queues at once finds, and leaves, what it does when it is
        put into one after the other.
        """

        def told(together: bool) -> list[object]:
            lock = threading.RLock()
            queues = [QueueOfOurs(lock, **one) for one in options]
            story: list[object] = []
            for step, envelope in zip(steps, envelopes, strict=True):
                if step == "take":
                    story.append([queue.take()[0] for queue in queues])
                elif step == "mark":
                    queues[0].mark(delivery_.Marker())
                elif step == "close":
                    queues[-1].close()
                elif together:
                    errors = delivery_.Queue.put_in_all(envelope, queues, lock) or []
                    story.append([str(error) for error in errors])
                else:
                    story.append([str(error) for error in one_by_one(queues, envelope)])
                story.append([queue.state for queue in queues])
            return [*story, [queue.take()[0] for queue in queues]]

        bus, kept = Bus(), Kept("inline")
        bus.attach(kept, Ping)
        for step in steps:
            bus.publish(Ping(text="x" * (1000 if step == "large" else 1)))
        bus.close()
        envelopes = kept.envelopes

        assert told(together=False) == told(together=True)

    def test_full_queue_keeps_no_other_waiting(self, bus: Bus) -> None:
        """
        While a publisher waits for room in one queue, the others have the event already.
        """
        gated, kept = Gated("isolated"), Kept()
        bus.attach(gated, Ping, capacity=1, overflow="block")
        bus.attach(kept, Ping)
        fill(bus, gated, 1)
        thread = threading.Thread(target=bus.publish, args=(Ping(number=2),), daemon=True)
        thread.start()

        eventually(lambda: kept.numbers == [0, 1, 2])
        assert thread.is_alive()
        gated.gate.set()
        thread.join(PATIENCE)
        assert bus.flush()
        assert [0, 1, 2] == gated.numbers

    def test_told_once_per_second_at_most(
        self, bus: Bus, heard: Captured, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """
        Drops that follow a report are not told one by one, but with the next report, complete.
        """
        monkeypatch.setattr(subscription, "REPORT_SECONDS", 3600.0)
        gated = Gated()
        bus.attach(gated, Ping, capacity=1, overflow="drop_newest", name="slow")
        fill(bus, gated, 1, 2)
        gated.gate.set()
        eventually(lambda: heard.of(EventsDropped))
        for number in range(3, 6):
            gated.gate.clear()
            gated.entered.clear()
            fill(bus, gated, number, number)
            gated.gate.set()
            eventually(lambda: bus.health()["slow"].depth == 0)
        before = len(heard.of(EventsDropped))
        bus.flush()

        assert 1 == before
        assert [1, 3] == [event.count for event in heard.of(EventsDropped)]

    def test_room_for_what_a_dropped_event_publishes(self, bus: Bus) -> None:
        """
        What publishes as it is dropped, from its destructor, neither breaks the queue nor
        stretches its bound.
        """
        gated = Gated()
        bus.attach(gated, Ping, capacity_bytes=4000, capacity=3, name="slow")
        bus.publish(Ping(number=0))
        assert gated.entered.wait(PATIENCE)
        echoed: list[object] = []

        def echo() -> None:
            echoed.append(bus.publish(Ping(number=9)))

        for number in range(1, 4):
            bus.publish(Ping(number=number, held=OnRelease(echo)))
        bus.publish(Ping(number=4, text="x" * 3000))
        depth = bus.health()["slow"].depth
        gated.gate.set()

        assert bus.flush()
        assert 3 == len(echoed)
        assert None not in echoed
        assert depth <= 3
        health = bus.health()["slow"]
        assert 8 == health.delivered + health.dropped
        assert len(gated.numbers) == health.delivered


class TestBatches:
    @pytest.mark.parametrize("delivery", ["worker", "isolated"])
    def test_size_and_order(self, bus: Bus, delivery: str) -> None:
        """
        A sink gets batches of up to 256, oldest first, from one thread.
        """
        gated = Gated(delivery)
        bus.attach(gated, Ping)
        fill(bus, gated, *range(1, 1000))
        gated.gate.set()

        assert bus.flush()
        assert list(range(1000)) == gated.numbers
        assert [1, 256, 256, 256, 231] == gated.sizes
        assert 1 == len(gated.threads)

    def test_inline(self, bus: Bus) -> None:
        """
        An inline sink gets batches of one, in the publisher's thread.
        """
        kept = Kept("inline")
        bus.attach(kept, Ping)
        for number in range(3):
            bus.publish(Ping(number=number))

        assert ([0, 1, 2], [1, 1, 1]) == (kept.numbers, kept.sizes)
        assert {threading.current_thread().name} == kept.threads

    def test_who_runs_where(self, bus: Bus) -> None:
        """
        All workers share one thread; who is isolated has a thread of its own.
        """
        first, second = Kept("worker"), Kept("worker")
        third, fourth = Kept("isolated"), Kept("isolated")
        for sink in (first, second, third, fourth):
            bus.attach(sink)
        bus.publish(Ping())

        assert bus.flush()
        assert first.threads == second.threads
        assert 3 == len(first.threads | third.threads | fourth.threads)

    def test_a_slow_sink_keeps_nobody_waiting(self, bus: Bus, heard: Captured) -> None:
        """
        Who is isolated and stuck holds up neither the publisher nor any other sink.
        """
        stuck, other, isolated = Gated("isolated"), Kept("worker"), Kept("isolated")
        for sink in (stuck, other, isolated):
            bus.attach(sink, Ping)
        fill(bus, stuck, 1, 2, 3)
        eventually(lambda: len(other.numbers) == len(isolated.numbers) == 4)

        assert [] == stuck.numbers
        assert 4 == len(heard.of(Ping))
        stuck.gate.set()

    def test_no_thread_before_the_first_event(self, bus: Bus) -> None:
        """
        Attaching starts nothing.
        """
        before = threading.active_count()
        bus.attach(Kept("isolated"))

        assert before == threading.active_count()

    @pytest.mark.parametrize("leave", ["cancelled", "replaced"])
    def test_no_thread_after_the_last_event(self, bus: Bus, leave: str) -> None:
        """
        Who was isolated, and is gone, leaves no thread behind.
        """
        kept = Kept("isolated")
        subscription = bus.attach(kept, Ping, name="leaving")
        bus.publish(Ping())
        assert bus.flush()

        if leave == "cancelled":
            subscription.cancel()
        else:
            bus.replace([subscription], [])

        assert {"harken-leaving"} == kept.threads
        eventually(lambda: kept.threads.isdisjoint(one.name for one in threading.enumerate()))


class TestOrder:
    @pytest.mark.parametrize("delivery", ["worker", "isolated"])
    def test_first_in_first_out(self, bus: Bus, delivery: str) -> None:
        """
        Each thread's events arrive in the order it published them.
        """
        kept = Kept(delivery)
        bus.attach(kept, Ping)

        def run(thread: int) -> None:
            for number in range(500):
                bus.publish(Ping(number=number, text=str(thread)))

        together(*(lambda thread=thread: run(thread) for thread in range(4)))

        assert bus.flush()
        for thread in range(4):
            numbers = [e.number for e in kept.of(Ping) if e.text == str(thread)]
            assert list(range(500)) == numbers

    @pytest.mark.parametrize("delivery", DELIVERIES)
    def test_cause_before_effect(self, bus: Bus, delivery: str) -> None:
        """
        In every sink an event follows its cause, which it names.
        """
        sinks = [Kept(one) for one in SINK_DELIVERIES]
        for sink in sinks:
            bus.attach(sink)
        subscribe(bus, lambda e: bus.publish(Echo(number=e.event.number)), delivery)
        for sink in sinks:
            bus.attach(sink)
        publish(bus, 1, 2)
        assert bus.flush()

        for sink in sinks:
            places = {
                (envelope.name, envelope.event.number): place
                for place, envelope in enumerate(sink.envelopes)
            }
            ids = {e.event.number: e.id for e in sink.envelopes if isinstance(e.event, Ping)}
            for number in (1, 2):
                assert places["deliverytest.ping", number] < places["deliverytest.echo", number]
            echoes = [e for e in sink.envelopes if isinstance(e.event, Echo)]
            assert 4 == len(echoes)
            assert all((ids[e.event.number],) == e.causes for e in echoes)
            assert all(ids[e.event.number] == e.causation_id for e in echoes)

    @pytest.mark.parametrize("delivery", ["worker", "isolated"])
    def test_no_handler_overtakes_a_sink(self, bus: Bus, delivery: str) -> None:
        """
        A background handler that is quicker than an inline sink does not put the effect before
        the cause in the sinks that come after.
        """
        heard = Captured()
        quick = threading.Event()

        class Slow(Captured):
            def write(self, batch: Sequence[Envelope[Event]], /) -> None:
                quick.wait(0.1)

        def handle(envelope: Envelope[Ping]) -> None:
            bus.publish(Echo())
            quick.set()

        subscribe(bus, handle, delivery)
        bus.attach(Slow(), Ping)
        bus.attach(heard)
        bus.publish(Ping())

        assert bus.flush()
        assert ["deliverytest.ping", "deliverytest.echo"] == heard.names

    @pytest.mark.parametrize("delivery", DELIVERIES)
    def test_scope_of_the_publisher(self, bus: Bus, heard: Captured, delivery: str) -> None:
        """
        What a handler publishes belongs to the run of the event it handles, in any thread.
        """
        subscribe(bus, lambda e: bus.publish(Echo(number=e.event.number)), delivery)

        async def main() -> None:
            for number in range(3):
                with harken.scope(run_id=f"run-{number}"):
                    bus.publish(Ping(number=number))
            bus.publish(Ping(number=3))
            assert await bus.aflush()

        asyncio.run(main())

        echoes = {e.event.number: e.run_id for e in heard.envelopes if e.name.endswith("echo")}
        assert {0: "run-0", 1: "run-1", 2: "run-2", 3: None} == echoes

    def test_nothing_is_caused_after_the_handler(self, bus: Bus, heard: Captured) -> None:
        """
        What is published after a handler returned was not caused by what it handled.
        """
        bus.subscribe(lambda envelope: None, Ping)
        bus.publish(Ping())
        bus.publish(Echo())

        assert () == heard.envelopes[1].causes

    def test_sink_that_publishes(self, bus: Bus) -> None:
        """
        What an inline sink publishes from its `write()` is written after what it was writing.
        """
        written: list[str] = []

        class Talking:
            delivery = "inline"

            def write(self, batch: Sequence[Envelope[Event]], /) -> None:
                for envelope in batch:
                    if isinstance(envelope.event, Ping):
                        bus.publish(Echo())
                    written.append(envelope.name)

        bus.attach(Talking())
        bus.publish(Ping())

        assert ["deliverytest.ping", "deliverytest.echo"] == written

    def test_endless_recursion(self, bus: Bus, heard: Captured) -> None:
        """
        A handler that publishes what it handles ends as its own failure, not the publisher's.
        """
        bus.subscribe(lambda e: bus.publish(Ping(number=e.event.number + 1)), Ping, name="endless")
        envelope = bus.publish(Ping(number=0))
        after = bus.publish(Echo())

        assert envelope is not None
        assert after is not None
        numbers = [event.number for event in heard.of(Ping)]
        assert list(range(len(numbers))) == numbers
        assert "RecursionError" in bus.health()["endless"].errors


class TestIsolation:
    @pytest.mark.parametrize("delivery", SINK_DELIVERIES)
    def test_sink_that_raises_on_every_batch(
        self, bus: Bus, delivery: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        """
        The publisher and the other three sinks are unaffected; the failure is visible in the
        health of the bus, as an event, and in the log once.
        """
        others = [Kept(one) for one in SINK_DELIVERIES]
        bus.attach(others[0])
        bus.attach(Broken(delivery), name="broken")
        bus.attach(others[1])
        bus.attach(others[2])
        returned = [bus.publish(Ping(number=number)) for number in range(3)]
        assert bus.flush()

        health = bus.health()["broken"]
        assert None not in returned
        assert [[0, 1, 2]] * 3 == [sink.numbers for sink in others]
        assert (0, "OSError: disk full", {"OSError": health.failures}, None) == (
            health.delivered,
            health.last_error,
            health.errors,
            health.last_success,
        )
        assert health.failures == health.consecutive_failures >= 1
        reports = [event for sink in others for event in sink.of(SinkFailed)]
        assert {("broken", "OSError")} == {(event.sink, event.error_type) for event in reports}
        assert 1 == caplog.text.count("broken failed with OSError")

    @pytest.mark.parametrize("delivery", DELIVERIES)
    def test_handler_that_raises(self, bus: Bus, heard: Captured, delivery: str) -> None:
        """
        A handler misses only the events that it failed on.
        """
        handled: list[int] = []

        def handle(envelope: Envelope[Ping]) -> None:
            if envelope.event.number % 2:
                raise ValueError(str(envelope.event.number))
            handled.append(envelope.event.number)

        subscribe(bus, handle, delivery)
        publish(bus, *range(6))

        health = bus.health()["it"]
        assert [0, 2, 4] == handled
        assert (3, {"ValueError": 3}, "ValueError: 5", 1) == (
            health.delivered,
            health.errors,
            health.last_error,
            health.consecutive_failures,
        )
        assert 1 == len(heard.of(SinkFailed))

    def test_two_that_fail_at_once(self, bus: Bus, heard: Captured) -> None:
        """
        When a full disk breaks two sinks, both are told of.
        """
        bus.attach(Broken("inline"), name="first")
        bus.attach(Broken("inline"), name="second")
        bus.publish(Ping())

        assert {"first", "second"} == {event.sink for event in heard.of(SinkFailed)}

    def test_two_that_fail_in_two_threads(self, bus: Bus, heard: Captured) -> None:
        """
        Two inline sinks that fail at the same time in two threads do not wait for each other.
        """
        barrier = threading.Barrier(2)

        class Meeting(Broken):
            def write(self, batch: Sequence[Envelope[Event]], /) -> None:
                if not isinstance(batch[0].event, SinkFailed):
                    barrier.wait(PATIENCE)
                super().write(batch)

        bus.attach(Meeting("inline"), Ping, SinkFailed, name="first")
        bus.attach(Meeting("inline"), Echo, SinkFailed, name="second")
        together(lambda: bus.publish(Ping()), lambda: bus.publish(Echo()))

        assert {"first", "second"} == {event.sink for event in heard.of(SinkFailed)}

    def test_two_that_publish_in_two_threads(self, bus: Bus) -> None:
        """
        Two inline sinks that publish to each other from two threads do not wait for each other.
        """
        barrier = threading.Barrier(2)
        written: dict[str, list[str]] = {"first": [], "second": []}

        class Talking:
            delivery = "inline"

            def __init__(self, name: str) -> None:
                self.name = name

            def write(self, batch: Sequence[Envelope[Event]], /) -> None:
                for envelope in batch:
                    if isinstance(envelope.event, (Ping, Echo)):
                        barrier.wait(PATIENCE)
                        bus.publish(EventsDropped(sink=self.name))
                    else:
                        written[self.name].append(envelope.event.sink)

        bus.attach(Talking("first"), Ping, EventsDropped)
        bus.attach(Talking("second"), Echo, EventsDropped)
        together(lambda: bus.publish(Ping()), lambda: bus.publish(Echo()))

        assert {"first": 2, "second": 2} == {name: len(told) for name, told in written.items()}
        assert {"first", "second"} == set(written["first"]) == set(written["second"])

    def test_report_that_fails_is_not_reported(self, bus: Bus) -> None:
        """
        A sink that also fails on the report of its failure does not cause reports without end.
        """
        broken, heard = Broken("inline"), Captured()
        bus.attach(broken, name="broken")
        bus.attach(heard)
        bus.publish(Ping())

        assert 1 == len(heard.of(SinkFailed))
        assert broken.calls == bus.health()["broken"].failures == 2

    def test_every_kind_of_error_is_told_once(self, bus: Bus, heard: Captured) -> None:
        """
        Each class of error is an event of its own, once.
        """
        broken = Broken("inline")
        bus.attach(broken, Ping, name="broken")
        for error in (OSError(), OSError(), ValueError(), OSError()):
            broken.error = error
            bus.publish(Ping())

        assert [("OSError", 1, False), ("ValueError", 3, False)] == [
            (event.error_type, event.failures, event.disabled) for event in heard.of(SinkFailed)
        ]

    @pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)])
    @pytest.mark.parametrize("sink", [True, False])
    def test_what_is_no_error_propagates(self, bus: Bus, error: BaseException, sink: bool) -> None:
        """
        An interrupt inside a subscriber reaches the publisher, and the bus works on.
        """
        broken = Broken("inline", error)
        if sink:
            bus.attach(broken, Ping)
        else:
            bus.subscribe(lambda envelope: broken.write([envelope]), Ping)

        with pytest.raises(type(error)):
            bus.publish(Ping(number=1))
        broken.error = None
        together(lambda: bus.publish(Ping(number=2)))
        envelope = bus.publish(Ping(number=3))
        assert [2, 3] == broken.numbers
        assert envelope is not None
        assert () == envelope.causes

    @pytest.mark.parametrize(
        "error", [SystemExit(3), KeyboardInterrupt(), asyncio.CancelledError()]
    )
    @pytest.mark.parametrize("delivery", ["worker", "isolated"])
    def test_thread_survives(self, bus: Bus, delivery: str, error: BaseException) -> None:
        """
        A sink that calls `sys.exit()` on a background thread takes neither the thread nor the
        sinks that share it along.
        """
        broken, other = Broken(delivery, error), Kept(delivery)
        bus.attach(broken, Ping, name="broken")
        bus.attach(other, Ping)
        bus.publish(Ping(number=1))
        assert bus.flush()
        broken.error = None
        bus.publish(Ping(number=2))

        assert bus.flush()
        assert [1, 2] == other.numbers
        assert [2] == broken.numbers
        health = bus.health()["broken"]
        assert {type(error).__name__: 1} == health.errors
        assert (1, 1) == (health.delivered, health.dropped)

    @pytest.mark.parametrize("delivery", ["worker", "isolated", "loop"])
    def test_handler_of_what_was_cancelled(self, bus: Bus, delivery: str) -> None:
        """
        A handler that runs into somebody else's cancellation misses that event only.
        """
        handled: list[int] = []

        def handle(envelope: Envelope[Ping]) -> None:
            if envelope.event.number == 1:
                raise asyncio.CancelledError
            handled.append(envelope.event.number)

        subscribe(bus, handle, delivery)
        publish(bus, *range(5))

        health = bus.health()["it"]
        assert [0, 2, 3, 4] == handled
        assert ({"CancelledError": 1}, 0) == (health.errors, health.dropped)


class TestRequired:
    def test_heard_last(self, bus: Bus) -> None:
        """
        The errors of required sinks and handlers surface after all others have heard, in order.
        """
        others: list[Kept] = []
        handled: list[Envelope[Event]] = []

        def refuse(envelope: Envelope[Event]) -> None:
            raise ValueError("refused")

        bus.subscribe(refuse, Ping, required=True)
        for delivery in SINK_DELIVERIES:
            bus.attach(Broken("inline", OSError(delivery)), Ping, required=True)
            others.append(Kept(delivery))
            bus.attach(others[-1], Ping)
        bus.subscribe(handled.append, Ping)

        with pytest.raises(DeliveryError, match="4 required") as caught:
            bus.publish(Ping(number=1))
        assert bus.flush()
        assert ["inline", "worker", "isolated", "refused"] == [str(e) for e in caught.value.errors]
        assert [[1]] * 3 == [other.numbers for other in others]
        assert 1 == len(handled)

    def test_own_delivery_error(self, bus: Bus) -> None:
        """
        A sink's own kind of delivery error arrives as it is.
        """

        class RefusedError(DeliveryError):
            pass

        error = RefusedError("no")
        bus.attach(Broken("inline", error), required=True)

        with pytest.raises(RefusedError) as caught:
            bus.publish(Ping())
        assert error is caught.value

    def test_the_sink_asks_for_it(self, bus: Bus) -> None:
        """
        A sink can be required by itself, and the one who attaches it can say otherwise.
        """

        class Needed(Broken):
            required = True

        bus.attach(Needed("inline"), Ping)
        bus.attach(Needed("inline"), Echo, required=False)

        assert bus.publish(Echo()) is not None
        with pytest.raises(DeliveryError):
            bus.publish(Ping())

    @pytest.mark.parametrize("delivery", ["worker", "isolated"])
    def test_not_behind_a_queue(self, bus: Bus, delivery: str) -> None:
        """
        Behind a queue nobody can be required.
        """
        with pytest.raises(SubscriptionError, match="required=True needs delivery='inline'"):
            bus.attach(Kept(delivery), required=True)

        assert {} == dict(bus.health())

    def test_never_quarantined(self, bus: Bus) -> None:
        """
        Who is required is tried every time.
        """
        broken = Broken("inline")
        bus.attach(broken, Ping, required=True, name="broken")
        for _ in range(20):
            with pytest.raises(DeliveryError):
                bus.publish(Ping())

        assert 20 == broken.calls
        assert not bus.health()["broken"].quarantined


class TestQuarantine:
    @pytest.mark.parametrize("delivery", DELIVERIES[:3])
    def test_only_what_fails_again_and_again(self, bus: Bus, delivery: str) -> None:
        """
        Failures with successes between them are no reason to leave anybody alone.
        """

        def hear(envelope: Envelope[Ping]) -> None:
            if envelope.event.number % 2 == 0:
                raise ValueError(envelope.event.number)

        bus.subscribe(hear, Ping, delivery=delivery, name="it")  # type: ignore[arg-type]
        found = []
        for number in range(14):
            bus.publish(Ping(number=number))
            bus.flush()
            found.append(bus.health()["it"].consecutive_failures)

        assert [1, 0] * 7 == found
        assert not bus.health()["it"].quarantined

    @pytest.mark.parametrize("delivery", DELIVERIES)
    def test_left_alone_and_tried_again(
        self, bus: Bus, heard: Captured, delivery: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """
        After five failures in a row a handler is left alone; what it misses is counted as
        dropped. Later one event shows whether it has recovered.
        """
        monkeypatch.setattr(subscription, "FIRST_RETRY", 0.2)
        working = False
        calls: list[int] = []

        def handle(envelope: Envelope[Ping]) -> None:
            calls.append(envelope.event.number)
            if not working:
                raise OSError("down")

        subscribe(bus, handle, delivery)
        publish(bus, *range(8))
        quarantined = bus.health()["it"]
        working = True
        missed = 3
        while bus.health()["it"].quarantined:
            publish(bus, 99)
            missed += 99 not in calls
        publish(bus, 100)
        bus.close()

        health = bus.health()["it"]
        assert [0, 1, 2, 3, 4, 99, 100] == calls
        assert (5, True, {"quarantined": 3}) == (
            quarantined.failures,
            quarantined.quarantined,
            quarantined.drops,
        )
        assert (2, 0, {"quarantined": missed}) == (
            health.delivered,
            health.consecutive_failures,
            health.drops,
        )
        assert [(1, False), (5, True)] == [
            (event.failures, event.disabled) for event in heard.of(SinkFailed)
        ]
        assert missed == sum(event.count for event in heard.of(EventsDropped))

    @pytest.mark.parametrize("delivery", SINK_DELIVERIES)
    def test_sink_that_recovers(
        self, bus: Bus, heard: Captured, delivery: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """
        A sink that works again hears everything from then on.
        """
        monkeypatch.setattr(subscription, "FIRST_RETRY", 0.01)
        broken = Broken(delivery)
        bus.attach(broken, Ping, name="broken")
        for number in range(5):
            bus.publish(Ping(number=number))
            bus.flush()
        assert bus.health()["broken"].quarantined
        broken.error = None
        number = 5
        while bus.health()["broken"].quarantined:
            bus.publish(Ping(number=number))
            bus.flush()
            number += 1
        bus.publish(Ping(number=number))
        bus.flush()

        assert [number - 1, number] == broken.numbers

    def test_retries_get_rarer(self, bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        A sink that stays broken is tried again after twice the time, up to a limit.
        """
        monkeypatch.setattr(subscription, "FIRST_RETRY", 0.01)
        monkeypatch.setattr(subscription, "LAST_RETRY", 3600.0)
        broken = Broken("inline")
        bus.attach(broken, Ping, name="broken")
        tries: list[float] = []
        while len(tries) < 9:
            before = broken.calls
            bus.publish(Ping())
            if broken.calls > before:
                tries.append(time.monotonic())

        pauses = [after - before for before, after in itertools.pairwise(tries[4:])]
        for pause, least in zip(pauses, (0.01, 0.02, 0.04, 0.08), strict=True):
            assert pause >= least * 0.99
        assert bus.health()["broken"].quarantined

    def test_never_detached(self, bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        However often a subscriber fails, it is tried again.
        """
        monkeypatch.setattr(subscription, "FIRST_RETRY", 0.0)
        monkeypatch.setattr(subscription, "LAST_RETRY", 0.0)
        broken = Broken("inline")
        bus.attach(broken, Ping)
        for _ in range(200):
            bus.publish(Ping())
        broken.error = None
        bus.publish(Ping(number=1))

        assert 201 == broken.calls
        assert [1] == broken.numbers

    @pytest.mark.parametrize("delivery", SINK_DELIVERIES)
    def test_sink_that_must_not_be(self, bus: Bus, delivery: str) -> None:
        """
        A sink that asks for it is never left alone; what it does not take is counted.
        """

        class Evidence(Broken):
            quarantine = False

        broken = Evidence(delivery)
        bus.attach(broken, Ping, name="broken")
        for _ in range(12):
            bus.publish(Ping())
            bus.flush()

        health = bus.health()["broken"]
        assert (12, 12, False, {"failed": 12}) == (
            broken.calls,
            health.consecutive_failures,
            health.quarantined,
            health.drops,
        )

    @pytest.mark.parametrize("delivery", SINK_DELIVERIES)
    def test_told_at_the_close(self, bus: Bus, heard: Captured, delivery: str) -> None:
        """
        What a sink failed on, and missed in quarantine, is told in band before the bus is closed,
        to the last.
        """
        bus.attach(Broken(delivery), Ping, name="broken")
        for number in range(3000):
            bus.publish(Ping(number=number))
        bus.close()

        health = bus.health()["broken"]
        assert 3000 == health.dropped
        assert 3000 == sum(event.count for event in heard.of(EventsDropped))
        assert {"failed", "quarantined"} == {event.reason for event in heard.of(EventsDropped)}


class TestWhere:
    @pytest.mark.parametrize("delivery", DELIVERIES)
    def test_lets_through(self, bus: Bus, delivery: str) -> None:
        """
        A handler hears what its predicate lets through, and only that counts.
        """
        handled: list[int] = []
        subscribe(
            bus,
            lambda e: handled.append(e.event.number),
            delivery,
            where=lambda e: e.event.number % 3 == 0,
        )
        publish(bus, *range(10))

        health = bus.health()["it"]
        assert [0, 3, 6, 9] == handled
        assert (4, 0, 0) == (health.delivered, health.dropped, health.failures)

    @pytest.mark.parametrize("delivery", DELIVERIES)
    def test_predicate_that_raises(self, bus: Bus, heard: Captured, delivery: str) -> None:
        """
        What a predicate raises is a failure of its subscriber, and of nobody else.
        """
        handled: list[int] = []
        subscribe(
            bus,
            lambda e: handled.append(e.event.number),
            delivery,
            where=lambda e: 6 // e.event.number > 1,
        )
        publish(bus, 0, 1, 9, 0, 2)

        assert [1, 2] == handled
        assert {"ZeroDivisionError": 2} == bus.health()["it"].errors
        assert 5 == len(heard.of(Ping))

    def test_sees_the_envelope(self, bus: Bus) -> None:
        """
        The predicate looks at everything the bus knows.
        """
        handled: list[int] = []
        subscribe(
            bus,
            lambda e: handled.append(e.event.number),
            "worker",
            where=lambda e: e.audit and e.run_id == "r",
        )
        with harken.scope(run_id="r"):
            bus.publish(Ping(number=1), audit=True)
            bus.publish(Ping(number=2))
        bus.publish(Ping(number=3), audit=True)

        assert bus.flush()
        assert [1] == handled


class TestCancel:
    @pytest.mark.parametrize("delivery", DELIVERIES)
    def test_from_inside_the_handler(self, bus: Bus, heard: Captured, delivery: str) -> None:
        """
        A handler can cancel itself; the others hear on.
        """
        handled: list[int] = []
        subscriptions: list[Subscription] = []

        def once(envelope: Envelope[Ping]) -> None:
            handled.append(envelope.event.number)
            subscriptions[0].cancel()
            subscriptions[0].cancel()

        subscriptions.append(subscribe(bus, once, delivery))
        publish(bus, 1)
        publish(bus, 2)

        assert [1] == handled
        assert not subscriptions[0].active
        assert "it" not in bus.health()
        assert 2 == len(heard.of(Ping))

    @pytest.mark.parametrize("delivery", ["worker", "isolated"])
    def test_with_events_in_the_queue(self, bus: Bus, delivery: str) -> None:
        """
        What was queued before is still delivered, and a flush waits for it.
        """
        gated = Gated(delivery)
        subscription = bus.attach(gated, Ping, name="slow")
        fill(bus, gated, *range(1, 600))
        subscription.cancel()
        bus.publish(Ping(number=600))
        listed = "slow" in bus.health()
        gated.gate.set()

        assert bus.flush()
        assert list(range(600)) == gated.numbers
        assert listed
        eventually(lambda: "slow" not in bus.health())

    def test_other_threads(self, bus: Bus) -> None:
        """
        Cancelling twice at the same time is cancelling once.
        """
        subscription = bus.attach(Kept(), Ping)
        together(*[subscription.cancel] * 8)

        assert {} == dict(bus.health())
        assert bus.publish(Ping()) is None

    def test_frees_blocked_publishers(self, bus: Bus, heard: Captured) -> None:
        """
        Publishers that wait for room in a queue are freed when its subscriber leaves.
        """
        gated = Gated()
        subscription = bus.attach(gated, Ping, capacity=1, overflow="block", name="slow")
        fill(bus, gated, 1)

        def leave() -> None:
            eventually(lambda: len(heard.of(Ping)) >= 2)
            time.sleep(0.05)
            subscription.cancel()
            gated.gate.set()

        together(leave, *[lambda: bus.publish(Ping(number=2))] * 8)

        assert 10 == len(heard.of(Ping))

    def test_name_is_free_again(self, bus: Bus) -> None:
        """
        Who comes after takes over the name, and is a subscriber of its own.
        """
        first = bus.attach(Kept(), Ping, name="mine")
        first.cancel()
        second = bus.attach(Kept(), Ping, name="mine")
        first.cancel()

        assert ["mine"] == [one.name for one in bus.subscriptions]
        assert second.active

    def test_coroutine_that_was_never_awaited(self, bus: Bus) -> None:
        """
        A coroutine function may leave before there was a loop for it.
        """

        async def hear(envelope: Envelope[Ping]) -> None: ...

        bus.subscribe(hear, Ping).cancel()

        assert {} == dict(bus.health())
        assert bus.publish(Ping()) is None

    def test_sink_that_is_let_go(self, bus: Bus) -> None:
        """
        A sink that is cancelled is nobody's any more, although its worker works on for others.
        """
        bus.attach(Kept("worker"), Ping, name="other")
        sink = Kept("worker")
        subscription = bus.attach(sink, Ping)
        bus.publish(Ping())
        assert bus.flush(PATIENCE)
        left = weakref.ref(sink)
        subscription.cancel()
        del sink, subscription
        gc.collect()

        assert left() is None

    def test_close_with_a_cancelled_sink(self, bus: Bus) -> None:
        """
        Closing the bus delivers what a cancelled subscriber still has to get.
        """
        gated = Gated()
        subscription = bus.attach(gated, Ping)
        fill(bus, gated, 1, 2)
        subscription.cancel()
        threading.Timer(0.01, gated.gate.set).start()

        assert bus.close(PATIENCE)
        assert [0, 1, 2] == gated.numbers


class TestWeak:
    def test_strong_by_default(self, bus: Bus) -> None:
        """
        A handler that nobody else holds is heard.
        """
        heard: list[int] = []
        bus.subscribe(lambda envelope: heard.append(envelope.event.number), Ping)
        gc.collect()
        bus.publish(Ping(number=1))

        assert [1] == heard

    @pytest.mark.parametrize("delivery", DELIVERIES)
    def test_gone_with_its_owner(self, bus: Bus, delivery: str) -> None:
        """
        A weak handler hears as long as someone holds its object, and then leaves silently.
        """
        heard: list[int] = []

        class Owner:
            def handle(self, envelope: Envelope[Ping]) -> None:
                heard.append(envelope.event.number)

            async def handle_later(self, envelope: Envelope[Ping]) -> None:
                self.handle(envelope)

        owner = Owner()
        handler = owner.handle_later if delivery == "loop" else owner.handle
        bus.subscribe(handler, Ping, delivery=delivery, weak=True, name="it")  # type: ignore[arg-type]
        publish(bus, 1)
        del owner, handler
        gc.collect()
        publish(bus, 2)

        assert [1] == heard
        assert "it" not in bus.health()

    def test_function(self, bus: Bus) -> None:
        """
        A weak lambda that nobody holds is gone at once.
        """
        heard: list[int] = []
        bus.subscribe(lambda envelope: heard.append(envelope.seq), Ping, weak=True)
        gc.collect()
        bus.publish(Ping())

        assert [] == heard


class TestMutation:
    @pytest.mark.parametrize("delivery", ["worker", "isolated"])
    def test_after_publish(self, bus: Bus, delivery: str) -> None:
        """
        What an author changes in a payload after publishing it changes nothing that is written.
        """
        gated = Gated(delivery)
        bus.attach(gated, Ping)
        fill(bus, gated)
        held = {"items": [1, {"deep": "a"}]}
        bus.publish(Ping(number=1, held=held))
        held["items"].append(2)
        held["items"][1]["deep"] = "b"
        held["more"] = []
        gated.gate.set()

        assert bus.flush()
        assert {"items": [1, {"deep": "a"}]} == gated.envelopes[1].data()["held"]

    def test_by_a_handler(self, bus: Bus) -> None:
        """
        A handler that changes what it gets changes nothing that is written.
        """
        kept = Kept()
        bus.subscribe(lambda envelope: envelope.event.held.append(2), Ping)
        bus.attach(kept, Ping)
        bus.publish(Ping(held=[1]))

        assert bus.flush()
        assert [1] == kept.envelopes[0].data()["held"]

    def test_of_an_end_that_waits_for_its_start(self, bus: Bus) -> None:
        """
        An end that came too early is written as it was published.
        """
        kept = Kept()
        bus.attach(kept)
        steps = ["a"]
        bus.publish(DeployEnded(deploy_id="d", steps=steps))
        steps.append("b")
        bus.publish(DeployStarted(deploy_id="d"))

        assert bus.flush()
        assert ["a"] == kept.envelopes[1].data()["steps"]


class TestInterrupt:
    def test_signal_inside_an_inline_sink(self, bus: Bus) -> None:
        """
        What a signal handler publishes while the same thread is inside a sink is written exactly
        once, after what was being written, before that sink's call returns.
        """
        written: list[str] = []
        fired = threading.Event()

        class Slow:
            delivery = "inline"

            def write(self, batch: Sequence[Envelope[Event]], /) -> None:
                for envelope in batch:
                    written.append(f"begin {envelope.event.number}")
                    if envelope.event.number == 1:
                        signal.setitimer(signal.ITIMER_VIRTUAL, 0.001)
                        while not fired.is_set():
                            pass
                    written.append(f"end {envelope.event.number}")

        def interrupt() -> None:
            bus.publish(Ping(number=2))
            fired.set()

        bus.attach(Slow(), Ping)
        with on_signal(interrupt, signal.SIGVTALRM):
            bus.publish(Ping(number=1))
            returned = list(written)
        bus.publish(Ping(number=3))

        assert ["begin 1", "end 1", "begin 2", "end 2"] == returned
        assert ["begin 3", "end 3"] == written[4:]

    def test_destructor_inside_an_inline_sink(self, bus: Bus) -> None:
        """
        The same holds for what is published from a destructor.
        """
        written: list[str] = []

        class Releasing:
            delivery = "inline"

            def write(self, batch: Sequence[Envelope[Event]], /) -> None:
                for envelope in batch:
                    written.append(f"begin {envelope.event.number}")
                    if envelope.event.number == 1:
                        OnRelease(lambda: bus.publish(Ping(number=2)))
                    written.append(f"end {envelope.event.number}")

        bus.attach(Releasing(), Ping)
        bus.publish(Ping(number=1))

        assert ["begin 1", "end 1", "begin 2", "end 2"] == written

    def test_signal_handler_that_also_raises(self, bus: Bus) -> None:
        """
        What a handler publishes before it raises `KeyboardInterrupt` through a sink is written
        all the same, before anything that is published later.
        """
        written: list[int] = []

        class Interrupted:
            delivery = "inline"

            def write(self, batch: Sequence[Envelope[Event]], /) -> None:
                if batch[0].event.number == 1:
                    signal.raise_signal(signal.SIGUSR1)
                written.extend(envelope.event.number for envelope in batch)

        def interrupt() -> None:
            bus.publish(Ping(number=2))
            raise KeyboardInterrupt

        bus.attach(Interrupted(), Ping)
        with on_signal(interrupt), pytest.raises(KeyboardInterrupt):
            bus.publish(Ping(number=1))
        returned = list(written)
        bus.publish(Ping(number=3))

        assert [2] == returned
        assert [2, 3] == written

    @pytest.mark.parametrize("overflow", ["drop_oldest", "drop_newest", "block", "raise"])
    @pytest.mark.parametrize("full", [True, False])
    def test_signal_inside_a_queue(
        self, bus: Bus, overflow: delivery_.Overflow, full: bool
    ) -> None:
        """
        A signal handler may publish while the thread that it interrupts holds a queue's lock.
        """
        gated = Gated()
        subscription = bus.attach(gated, Ping, capacity=1, overflow=overflow, name="slow")
        fill(bus, gated, *([1] if full else []))
        errors: list[Exception] = []

        def interrupt() -> None:
            threading.Timer(0.01, gated.gate.set).start()
            try:
                bus.publish(Ping(number=2))
            except QueueFullError as error:
                errors.append(error)

        assert subscription.queue is not None
        with on_signal(interrupt), subscription.queue.lock:
            signal.raise_signal(signal.SIGUSR1)

        assert bus.flush(PATIENCE)
        expected = {
            "drop_oldest": [0, 2],
            "drop_newest": [0, 1],
            "block": [0, 1, 2],
            "raise": [0, 1],
        }
        assert (expected[overflow] if full else [0, 2]) == gated.numbers
        assert (1 if full and overflow == "raise" else 0) == len(errors)

    # The plugin's own alarm clock would be the one that is set here.
    @pytest.mark.timeout(method="thread")
    @pytest.mark.parametrize("overflow", ["drop_oldest", "drop_newest", "block"])
    def test_many_signals(self, bus: Bus, overflow: delivery_.Overflow) -> None:
        """
        Wherever in publishing a signal arrives, its handler can publish, and every event is
        accounted for.
        """
        inline, queued = Kept("inline"), Kept()
        bus.attach(inline, Ping)
        bus.attach(queued, Ping, capacity=2, overflow=overflow, name="queued")
        bus.publish(Ping())
        errors: list[BaseException] = []
        interrupts = 0

        def interrupt() -> None:
            nonlocal interrupts
            try:
                bus.publish(Ping(number=-1))
            except Exception as error:
                errors.append(error)
            interrupts += 1
            signal.setitimer(signal.ITIMER_REAL, 0.0002)

        published = 1
        with on_signal(interrupt, signal.SIGALRM):
            signal.setitimer(signal.ITIMER_REAL, 0.0002)
            try:
                while interrupts < 500:
                    bus.publish(Ping(number=published))
                    published += 1
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
        assert bus.flush()

        health = bus.health()["queued"]
        own = [number for number in inline.numbers if number >= 0]
        assert [] == errors
        assert interrupts == inline.numbers.count(-1)
        assert list(range(published)) == own
        assert published + interrupts == health.delivered + health.dropped
        assert len(queued.numbers) == health.delivered
        assert 0 == health.depth

    def test_many_keyboard_interrupts(self, run_python: Callable[..., Any]) -> None:
        """
        Wherever in an operation a `KeyboardInterrupt` arrives, the bus goes on: no end is told
        twice, and every operation that is not being told at that moment gets its end.
        """
        done = run_python(
            """
import random, signal
from collections import Counter
from harken import Bus
from harken.catalog import ToolStarted

starts, ends = Counter(), Counter()

class Kept:
    delivery = "inline"

    def write(self, batch):
        for envelope in batch:
            count = starts if envelope.outcome is None else ends
            count[envelope.event.tool_call_id] += 1

bus = Bus()
bus.attach(Kept())
random.seed(7)
interrupts = 0
signal.signal(signal.SIGALRM, signal.default_int_handler)
while interrupts < 500:
    try:
        signal.setitimer(signal.ITIMER_REAL, random.uniform(0.0001, 0.0005))
        while True:
            with bus.operation(ToolStarted(tool_name="search")):
                pass
    except KeyboardInterrupt:
        interrupts += 1
signal.setitimer(signal.ITIMER_REAL, 0)
with bus.operation(ToolStarted(tool_name="search", tool_call_id="last")):
    pass
bus.close()
print(starts["last"], ends["last"], max(ends.values()), sum((starts - ends).values()))
""",
            env={"COVERAGE_PROCESS_CONFIG": None},
        )

        first, last, most, lost = map(int, done.stdout.split())
        assert (1, 1, 1) == (first, last, most)
        assert lost < 500

    def test_signal_during_the_very_first_publish(self, run_python: Callable[..., Any]) -> None:
        """
        A signal handler may publish while the first event of the process is being encoded.
        """
        done = run_python(
            """
import signal, sys
from harken import Bus
from harken.catalog import PrCreated
from harken.testing import Captured

bus, heard = Bus(), Captured()
bus.attach(heard, delivery="worker")
interrupts = []

def interrupt(signum, frame):
    if not interrupts:
        interrupts.append(1)
        bus.publish(PrCreated(url="from the handler"))

class Interrupting:
    def find_spec(self, name, path=None, target=None):
        signal.raise_signal(signal.SIGUSR1)

signal.signal(signal.SIGUSR1, interrupt)
sys.meta_path.insert(0, Interrupting())
bus.publish(PrCreated(url="first"))
if not interrupts:
    signal.raise_signal(signal.SIGUSR1)
bus.flush()
print(sorted(event.url for event in heard.events))
"""
        )

        assert "['first', 'from the handler']\n" == done.stdout


class TestFlush:
    @pytest.mark.parametrize("delivery", SINK_DELIVERIES)
    def test_covers_what_was_published(self, bus: Bus, delivery: str) -> None:
        """
        Every event whose publish had returned was handed over when a flush is true.
        """
        kept = Kept(delivery)
        bus.attach(kept, Ping, name="kept")
        published = 0

        def run() -> None:
            nonlocal published
            for number in range(2000):
                bus.publish(Ping(number=number))
                published = number + 1

        thread = threading.Thread(target=run)
        thread.start()
        flushes = []
        while thread.is_alive():
            before = published
            flushes.append((bool(bus.flush()), before, len(kept.numbers)))
        thread.join()

        assert all(reached for reached, _, _ in flushes)
        assert all(delivered >= before for _, before, delivered in flushes)
        report = bus.flush()
        assert (2000, 0, 0) == (
            report["kept"].delivered,
            report["kept"].dropped,
            report["kept"].pending,
        )

    def test_says_what_is_pending(self, bus: Bus) -> None:
        """
        Who is stuck is named, with the number of events that it has not got.
        """
        gated, other = Gated("isolated"), Kept("worker")
        bus.attach(gated, Ping, name="stuck")
        bus.attach(other, Ping, name="other")
        fill(bus, gated, 1, 2, 3)
        report = bus.flush(timeout=0.05)
        gated.gate.set()

        assert not report
        assert {"stuck": 4, "other": 0} == {name: one.pending for name, one in report.items()}
        assert 4 == report["other"].delivered
        assert bus.flush()
        assert [0, 1, 2, 3] == gated.numbers

    def test_nothing_to_wait_for(self, bus: Bus) -> None:
        """
        Without patience a flush still tells the truth about queues that are empty.
        """
        for delivery in SINK_DELIVERIES:
            bus.attach(Kept(delivery), Ping)
        bus.publish(Ping())

        assert bus.flush()
        assert bus.flush(timeout=0)

    def test_report(self, bus: Bus) -> None:
        """
        The report is a mapping from subscribers to numbers.
        """
        bus.attach(Kept(), Ping, name="kept")
        bus.publish(Ping())
        report = bus.flush()

        assert ["kept"] == list(report)
        assert 1 == len(report)
        assert "FlushReport({'kept': Delivered(delivered=1, dropped=0, pending=0)})" == repr(report)

    @pytest.mark.parametrize("delivery", SINK_DELIVERIES)
    def test_flushes_the_sink_behind_the_queue(self, bus: Bus, delivery: str) -> None:
        """
        A sink's own flush comes after everything that was queued, with the seconds that are left.
        """
        calls: list[object] = []

        class Buffered:
            def write(self, batch: Sequence[Envelope[Event]], /) -> None:
                calls.extend(envelope.event.number for envelope in batch)

            def flush(self, timeout: float) -> None:
                calls.append(0 < timeout <= 5)

        bus.attach(Buffered(), Ping, delivery=delivery)
        bus.publish(Ping(number=1))
        bus.publish(Ping(number=2))

        assert bus.flush(timeout=5)
        assert [1, 2, True] == calls

    @pytest.mark.parametrize("delivery", SINK_DELIVERIES)
    @pytest.mark.parametrize(
        ("answer", "reached", "failures"),
        [(True, True, 0), (None, True, 0), (False, False, 0), (OSError("full"), False, 1)],
    )
    def test_believes_the_sink(
        self, bus: Bus, delivery: str, answer: object, reached: bool, failures: int
    ) -> None:
        """
        A sink that could not hand everything on is reported as pending; one that raises too.
        """

        class Buffered(Kept):
            def flush(self, timeout: float) -> object:
                if isinstance(answer, Exception):
                    raise answer
                return answer

        bus.attach(Buffered(delivery), Ping, name="buffered")
        bus.attach(Kept(delivery), Ping, name="other")
        bus.publish(Ping())
        report = bus.flush()

        assert reached == bool(report)
        assert (0 if reached else 1) == report["buffered"].pending
        assert 0 == report["other"].pending
        assert failures == bus.health()["buffered"].failures

    @pytest.mark.parametrize("delivery", ["worker", "isolated"])
    def test_from_inside_a_handler(self, bus: Bus, delivery: str) -> None:
        """
        Inside of a background handler a flush does not wait for itself: what that thread has
        yet to do is pending, what others do is waited for.
        """
        reports: list[harken.FlushReport] = []
        other = Kept("worker" if delivery == "isolated" else "isolated")
        subscribe(bus, lambda envelope: reports.append(bus.flush(PATIENCE)), delivery)
        bus.attach(other, Ping, name="other")
        bus.publish(Ping())
        eventually(lambda: reports)

        assert (1, 0) == (reports[0]["it"].pending, reports[0]["other"].pending)
        assert bus.flush()

    def test_on_the_loops_own_thread(self, bus: Bus) -> None:
        """
        On the thread of an event loop its handlers cannot run while a flush waits, so they are
        pending at once; `aflush()` lets them run.
        """
        handled: list[int] = []
        other = Kept()
        bus.attach(other, Ping, name="other")

        async def main() -> tuple[harken.FlushReport, harken.FlushReport]:
            subscribe(bus, lambda e: handled.append(e.event.number), "loop")
            bus.publish(Ping(number=1))
            bus.publish(Ping(number=2))
            return bus.flush(PATIENCE), await bus.aflush(PATIENCE)

        at_once, later = asyncio.run(main())

        assert (2, 0) == (at_once["it"].pending, at_once["other"].pending)
        assert later
        assert [1, 2] == handled

    def test_without_a_loop(self, bus: Bus) -> None:
        """
        Events for a coroutine without an event loop are pending.
        """
        subscribe(bus, print, "loop")
        bus.publish(Ping())

        assert 1 == bus.flush(PATIENCE)["it"].pending

    def test_from_another_thread(self, bus: Bus) -> None:
        """
        A flush in a thread waits for handlers on a loop.
        """
        handled: list[int] = []

        async def main() -> harken.FlushReport:
            subscribe(bus, lambda e: handled.append(e.event.number), "loop")
            bus.publish(Ping(number=1))
            return await asyncio.to_thread(bus.flush, PATIENCE)

        assert asyncio.run(main())
        assert [1] == handled

    @pytest.mark.parametrize("run", [asyncio.run, trio.run])
    def test_aflush_blocks_no_loop(self, bus: Bus, run: Callable[..., Any]) -> None:
        """
        While `aflush()` waits, other tasks of asyncio and trio run.
        """
        gated = Gated()
        bus.attach(gated, Ping)
        fill(bus, gated, 1, 2)

        async def open_gate() -> None:
            gated.gate.set()

        async def in_asyncio() -> harken.FlushReport:
            task = asyncio.create_task(open_gate())
            report = await bus.aflush(PATIENCE)
            await task
            return report

        async def in_trio() -> harken.FlushReport:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(open_gate)
                return await bus.aflush(PATIENCE)

        assert run(in_trio) if run is trio.run else run(in_asyncio())
        assert [0, 1, 2] == gated.numbers

    def test_delivers_an_end_that_waits_for_its_start(self, bus: Bus) -> None:
        """
        A flush leaves no event behind, not even an end whose start has not come.
        """
        kept = Kept()
        bus.attach(kept)
        bus.publish(DeployEnded(deploy_id="d"))

        assert bus.flush()
        assert ["deliverytest.deploy_ended"] == kept.names


class TestClose:
    def test_no_thread_is_left(self, bus: Bus) -> None:
        """
        No thread waits for anything once the bus is closed.
        """
        before = set(threading.enumerate())
        for delivery in ("worker", "isolated"):
            bus.attach(Kept(delivery))
        bus.publish(DeployEnded(deploy_id="d-1"))
        bus.publish(Ping())
        bus.close()

        eventually(lambda: set(threading.enumerate()) <= before)

    def test_twice(self, bus: Bus) -> None:
        """
        A second close does nothing and returns the same report.
        """
        closed: list[float] = []

        class Closing(Kept):
            def close(self, timeout: float) -> None:
                closed.append(timeout)

        bus.attach(Closing(), Ping, name="closing")
        bus.publish(Ping())
        first = bus.close()
        second = bus.close()

        assert first
        assert dict(first) == dict(second)
        assert 1 == len(closed)

    def test_from_several_threads(self, bus: Bus) -> None:
        """
        All who close get the report of the one close, once it is done.
        """
        closed: list[str] = []

        class Closing(Gated):
            def close(self, timeout: float) -> None:
                closed.append("closed")

        gated = Closing()
        bus.attach(gated, Ping, name="slow")
        fill(bus, gated, *range(1, 100))
        reports: list[harken.FlushReport] = []
        threading.Timer(0.02, gated.gate.set).start()
        together(*[lambda: reports.append(bus.close(PATIENCE))] * 6)

        assert ["closed"] == closed
        assert 6 == len(reports)
        assert {(100, 0)} == {(one["slow"].delivered, one["slow"].pending) for one in reports}

    @pytest.mark.parametrize("delivery", SINK_DELIVERIES)
    @pytest.mark.parametrize("attempt", range(8))
    def test_while_others_publish(self, bus: Bus, delivery: str, attempt: int) -> None:
        """
        Publishers are refused from some event on; what was accepted is delivered or counted as
        dropped, and nothing is written to a sink that is closed.
        """
        calls: list[str] = []
        accepted: set[int] = set()
        numbers = itertools.count()
        running = threading.Barrier(5)

        class Closing(Kept):
            def write(self, batch: Sequence[Envelope[Event]], /) -> None:
                calls.append("write")
                super().write(batch)

            def close(self, timeout: float) -> None:
                calls.append("close")

        def run() -> None:
            running.wait(PATIENCE)
            with suppress(ClosedBusError):
                for number in numbers:
                    if bus.publish(Ping(number=number)) is not None:
                        accepted.add(number)

        def close() -> None:
            running.wait(PATIENCE)
            time.sleep(0.001 * attempt)
            assert bus.close(PATIENCE)

        sink = Closing(delivery)
        bus.attach(sink, Ping, name="closing")
        together(close, *[run] * 4)

        health = bus.health()["closing"]
        assert "close" == calls[-1]
        assert 1 == calls.count("close")
        assert set(sink.numbers) <= accepted
        assert len(sink.numbers) == len(set(sink.numbers)) == health.delivered
        assert len(accepted) == health.delivered + health.dropped

    def test_frees_blocked_publishers(self, bus: Bus) -> None:
        """
        Nobody waits for room in a queue that nothing will empty any more.
        """
        gated = Gated("isolated")
        bus.attach(gated, Ping, capacity=1, overflow="block", name="stuck")
        fill(bus, gated, 1)
        threads = [
            threading.Thread(target=bus.publish, args=(Ping(number=2),), daemon=True)
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        time.sleep(0.05)
        bus.close(timeout=0.1)
        for thread in threads:
            thread.join(PATIENCE / 4)
        stuck = [thread for thread in threads if thread.is_alive()]
        gated.gate.set()

        assert [] == stuck

    @pytest.mark.parametrize("delivery", SINK_DELIVERIES)
    def test_sink_that_fails_to_close(
        self, bus: Bus, delivery: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        """
        Every sink is closed whatever another one's close raises, is told nothing afterwards, and
        the failure is counted and logged.
        """
        calls: list[str] = []

        class Closing(Kept):
            def __init__(self, name: str, error: Exception | None) -> None:
                super().__init__(delivery)
                self.name = name
                self.fails_with = error

            def write(self, batch: Sequence[Envelope[Event]], /) -> None:
                calls.append(f"{self.name} written")

            def close(self, timeout: float) -> None:
                calls.append(f"{self.name} closed")
                if self.fails_with is not None:
                    raise self.fails_with

        for name, error in (("a", None), ("b", OSError("disk full")), ("c", None)):
            bus.attach(Closing(name, error))
        bus.publish(Ping())
        bus.close()

        assert ["a closed", "b closed", "c closed"] == calls[3:]
        assert {"OSError": 1} == bus.health()["b"].errors
        assert "b failed with OSError" in caplog.text

    def test_not_in_the_middle_of_a_write(self, bus: Bus) -> None:
        """
        An inline sink is not closed while another thread is writing to it.
        """
        calls: list[str] = []

        class Slow(Gated):
            def write(self, batch: Sequence[Envelope[Event]], /) -> None:
                calls.append("write")
                super().write(batch)
                calls.append("written")

            def close(self, timeout: float) -> None:
                calls.append("close")

        slow = Slow("inline")
        bus.attach(slow, Ping)
        thread = threading.Thread(target=bus.publish, args=(Ping(),))
        thread.start()
        slow.entered.wait(PATIENCE)
        threading.Timer(0.05, slow.gate.set).start()
        bus.close(PATIENCE)
        thread.join()

        assert ["write", "written", "close"] == calls

    def test_stuck_sink(self, bus: Bus, caplog: pytest.LogCaptureFixture) -> None:
        """
        Who is stuck is reported and left open after the timeout; the others are closed.
        """
        closed: list[str] = []

        class Stuck(Gated):
            def close(self, timeout: float) -> None:
                closed.append("stuck")

        class Closing(Kept):
            def close(self, timeout: float) -> None:
                closed.append("other")

        stuck, other = Stuck("isolated"), Closing("worker")
        bus.attach(stuck, Ping, name="stuck")
        bus.attach(other, Ping, name="other")
        fill(bus, stuck, 1)
        report = bus.close(timeout=0.1)
        stuck.gate.set()

        assert not report
        assert (2, 0) == (report["stuck"].pending, report["other"].pending)
        assert [0, 1] == other.numbers
        assert ["other"] == closed
        assert "stuck is still busy and was left open" in caplog.text

    @pytest.mark.parametrize("delivery", SINK_DELIVERIES)
    def test_open_operations_end_before_it(self, bus: Bus, delivery: str) -> None:
        """
        The ends of what is open are written before the sinks are closed.
        """
        calls: list[str] = []

        class Closing(Kept):
            def write(self, batch: Sequence[Envelope[Event]], /) -> None:
                calls.extend(f"{e.name} {e.outcome and e.outcome.value}" for e in batch)

            def close(self, timeout: float) -> None:
                calls.append("close")

        bus.attach(Closing(delivery))
        bus.operation(ToolStarted(tool_name="a")).start()
        bus.close()

        assert [
            "tool.started None",
            "tool.failed orphaned",
            "harken.scope_orphaned orphaned",
            "close",
        ] == calls

    @pytest.mark.parametrize("sink", [True, False])
    def test_start_that_was_interrupted(self, bus: Bus, sink: bool) -> None:
        """
        An operation whose start was interrupted halfway still gets its one end.
        """
        heard = Captured()
        bus.attach(heard)
        broken = Broken("inline", KeyboardInterrupt())
        if sink:
            bus.attach(broken, DeployStarted)
        else:
            bus.subscribe(lambda envelope: broken.write([envelope]), DeployStarted)
        with pytest.raises(KeyboardInterrupt), bus.operation(DeployStarted(deploy_id="d")):
            pass
        bus.close()

        assert {"deliverytest.deploy_started": 1, "deliverytest.deploy_ended": 1} == Counter(
            name for name in heard.names if "deploy" in name
        )

    def test_end_that_was_interrupted(self, bus: Bus) -> None:
        """
        An end that was decided, and that something interrupted just before anybody heard of it, is
        told by the close.
        """
        heard = Captured()
        bus.attach(heard)

        def interrupt(frame: FrameType, event: str, argument: object) -> None:
            if event == "call" and frame.f_code is Operations._finish.__code__:
                sys.setprofile(None)
                raise KeyboardInterrupt

        call = bus.operation(DeployStarted(deploy_id="d")).start()
        sys.setprofile(interrupt)
        try:
            with pytest.raises(KeyboardInterrupt):
                call.end()
        finally:
            sys.setprofile(None)
        before = list(heard.names)
        bus.close()

        assert ["deliverytest.deploy_started"] == before
        assert {"deliverytest.deploy_started": 1, "deliverytest.deploy_ended": 1} == Counter(
            name for name in heard.names if "deploy" in name
        )

    def test_from_inside_a_handler(self, bus: Bus) -> None:
        """
        A background handler may close the bus: it does not wait for itself, and what stood
        before it is delivered to it once, in order.
        """
        handled: list[int] = []
        other = Kept("isolated")
        reports: list[harken.FlushReport] = []

        def handle(envelope: Envelope[Ping]) -> None:
            handled.append(envelope.event.number)
            if envelope.event.number == 3:
                reports.append(bus.close(PATIENCE))

        bus.attach(other, Ping, name="other")
        gate = threading.Event()
        subscribe(
            bus, handle, "worker", where=lambda envelope: gate.wait(PATIENCE) and envelope.seq > 0
        )
        for number in range(600):
            bus.publish(Ping(number=number))
        gate.set()
        eventually(lambda: reports)
        eventually(lambda: len(handled) >= 600)

        assert 0 == reports[0]["other"].pending
        assert list(range(600)) == other.numbers
        assert list(range(600)) == handled

    def test_flush_afterwards(self, bus: Bus) -> None:
        """
        After the close nothing is pending, and a flush knows it.
        """
        for delivery in SINK_DELIVERIES:
            bus.attach(Kept(delivery), Ping)
        bus.publish(Ping())
        assert bus.close()

        assert bus.flush(timeout=0.2)

    def test_operation_that_outlives_it(self, bus: Bus, heard: Captured) -> None:
        """
        A block that is left after the close does nothing and raises nothing.
        """
        with bus.operation(DeployStarted()):
            bus.close()

        assert 1 == heard.names.count("deliverytest.deploy_ended")

    @pytest.mark.parametrize("run", [asyncio.run, trio.run])
    def test_aclose(self, bus: Bus, run: Callable[..., Any]) -> None:
        """
        `aclose()` closes without blocking the event loop; handlers on it are still heard.
        """
        gated = Gated()
        bus.attach(gated, Ping)
        fill(bus, gated, 1, 2)
        handled: list[int] = []

        async def open_gate() -> None:
            gated.gate.set()

        async def in_asyncio() -> harken.FlushReport:
            subscribe(bus, lambda e: handled.append(e.event.number), "loop")
            bus.publish(Ping(number=3))
            task = asyncio.create_task(open_gate())
            report = await bus.aclose(PATIENCE)
            await task
            return report

        async def in_trio() -> harken.FlushReport:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(open_gate)
                return await bus.aclose(PATIENCE)

        assert run(in_trio) if run is trio.run else run(in_asyncio())
        assert [0, 1, 2] == gated.numbers[:3]
        assert ([] if run is trio.run else [3]) == handled
        with pytest.raises(ClosedBusError):
            bus.publish(Ping())


class TestLoop:
    def test_one_after_the_other(self, bus: Bus) -> None:
        """
        A coroutine is awaited to its end before it gets the next event, and publish does not
        wait for it.
        """
        log: list[str] = []

        async def handle(envelope: Envelope[Ping]) -> None:
            log.append(f"begin {envelope.event.number}")
            await asyncio.sleep(0)
            log.append(f"end {envelope.event.number}")

        async def main() -> None:
            bus.subscribe(handle, Ping)
            for number in range(3):
                bus.publish(Ping(number=number))
            log.append("published")
            assert await bus.aflush()

        asyncio.run(main())

        assert [
            "published",
            *(f"{what} {number}" for number in range(3) for what in ("begin", "end")),
        ] == log

    def test_many_batches(self, bus: Bus) -> None:
        """
        More events than fit into one batch arrive in order, too.
        """
        handled: list[int] = []
        subscribe(bus, lambda e: handled.append(e.event.number), "loop")
        publish(bus, *range(1000))

        assert list(range(1000)) == handled

    def test_given_loop(self, bus: Bus) -> None:
        """
        Whoever publishes, a handler runs on the loop it was given.
        """
        threads: list[int] = []

        async def handle(envelope: Envelope[Ping]) -> None:
            threads.append(threading.get_ident())

        async def main() -> int:
            bus.subscribe(handle, Ping, loop=asyncio.get_running_loop())
            await asyncio.to_thread(bus.publish, Ping())
            assert await bus.aflush()
            return threading.get_ident()

        assert [asyncio.run(main())] == threads

    def test_loop_at_subscribe(self, bus: Bus) -> None:
        """
        Without one given it is the loop that runs at subscribe, whichever thread publishes first.
        """
        handled: list[int] = []

        async def main() -> None:
            subscribe(bus, lambda e: handled.append(e.event.number), "loop")
            await asyncio.to_thread(bus.publish, Ping(number=1))
            assert await bus.aflush()

        asyncio.run(main())

        assert [1] == handled

    def test_first_loop_that_publishes(self, bus: Bus) -> None:
        """
        Without a loop at subscribe it is the first that publishes; what came before waits for it.
        """
        handled: list[int] = []
        subscribe(bus, lambda e: handled.append(e.event.number), "loop")
        bus.publish(Ping(number=1))
        publish(bus, 2)

        assert [1, 2] == handled

    def test_next_loop(self, bus: Bus) -> None:
        """
        What a loop left undone when it ended is done on the next that publishes.
        """
        handled: list[int] = []
        subscribe(bus, lambda e: handled.append(e.event.number), "loop")

        async def main() -> None:
            bus.publish(Ping(number=1))

        asyncio.run(main())
        publish(bus, 2)

        assert 2 == handled[-1]
        assert 2 == len(handled) + bus.health()["it"].dropped

    def test_loop_that_ends_in_the_middle(self, bus: Bus, heard: Captured) -> None:
        """
        What a handler was doing when its loop ended is counted as dropped, and told.
        """

        async def handle(envelope: Envelope[Ping]) -> None:
            await asyncio.sleep(3600)

        async def main() -> None:
            bus.subscribe(handle, Ping, name="it")
            for number in range(3):
                bus.publish(Ping(number=number))
            await asyncio.sleep(0.01)

        asyncio.run(main())
        bus.close()

        assert {"cancelled": 3} == bus.health()["it"].drops
        assert [("cancelled", 3, 1, 3)] == [
            (event.reason, event.count, event.first_seq, event.last_seq)
            for event in heard.of(EventsDropped)
        ]

    def test_drain_that_is_cancelled(self, bus: Bus) -> None:
        """
        Whoever cancels every task of the loop loses what was being handed over, not what waits.
        """
        handled: list[int] = []

        async def main() -> None:
            subscribe(bus, lambda e: handled.append(e.event.number), "loop")
            for number in range(1000):
                bus.publish(Ping(number=number))
            await asyncio.sleep(0)
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()
            await asyncio.sleep(0)
            bus.publish(Ping(number=1000))
            assert await bus.aflush()

        asyncio.run(main())

        health = bus.health()["it"]
        assert 1001 == len(handled) + health.dropped
        assert 1000 == handled[-1]
        assert health.dropped <= 256

    def test_callable_object(self, bus: Bus) -> None:
        """
        An object whose `__call__` is a coroutine function is awaited on a loop, too.
        """
        handled: list[int] = []

        class Handler:
            async def __call__(self, envelope: Envelope[Ping]) -> None:
                handled.append(envelope.event.number)

        assert "loop" == bus.subscribe(Handler(), Ping).delivery
        publish(bus, 1)
        assert [1] == handled


class TestNested:
    def test_worker_whose_handler_publishes_to_a_busy_sink(self, bus: Bus) -> None:
        """
        An inline sink that publishes to a full queue, and a handler behind that queue that
        publishes to the sink, do not wait for each other for ever.
        """
        kept: list[str] = []
        entered = threading.Event()

        class Talking:
            delivery = "inline"

            def write(self, batch: Sequence[Envelope[Event]], /) -> None:
                for envelope in batch:
                    kept.append(envelope.name)
                    if isinstance(envelope.event, DeployStarted):
                        for number in range(4):
                            bus.publish(Ping(number=number))
                            entered.wait(PATIENCE)

        def handle(envelope: Envelope[Ping]) -> None:
            entered.set()
            bus.publish(Echo(number=envelope.event.number))

        bus.attach(Talking())
        subscribe(bus, handle, "worker", capacity=1, overflow="block")
        together(lambda: bus.publish(DeployStarted(deploy_id="d")))

        assert bus.flush()
        dropped = bus.health()["it"].dropped
        assert 4 == kept.count("deliverytest.ping")
        assert 4 - dropped == kept.count("deliverytest.echo")


class TestRaces:
    def test_listens_from_subscribe_on(self, bus: Bus) -> None:
        """
        Who has subscribed hears what is published next, whoever else is publishing.
        """
        interval = sys.getswitchinterval()
        stop = threading.Event()
        bus.subscribe(lambda envelope: None)

        def run() -> None:
            while not stop.is_set():
                bus.publish(Ping(number=-1))

        threads = [threading.Thread(target=run, daemon=True) for _ in range(3)]
        missed = 0
        sys.setswitchinterval(1e-6)
        try:
            for thread in threads:
                thread.start()
            for _ in range(1000):
                numbers: list[int] = []
                subscription = bus.subscribe(
                    lambda e, numbers=numbers: numbers.append(e.event.number),  # type: ignore[misc]
                    Ping,
                )
                bus.publish(Ping(number=1))
                missed += 1 not in numbers
                subscription.cancel()
        finally:
            sys.setswitchinterval(interval)
            stop.set()
        for thread in threads:
            thread.join()

        assert 0 == missed

    def test_many_subscribe_at_once(self, bus: Bus) -> None:
        """
        Subscribers that come at the same time all have a name of their own, and are all heard.
        """
        interval = sys.getswitchinterval()
        heard: list[Envelope[Event]] = []
        names: list[str] = []

        def run() -> None:
            names.extend(bus.subscribe(heard.append, Ping, name="same").name for _ in range(100))

        sys.setswitchinterval(1e-6)
        try:
            together(*[run] * 4)
        finally:
            sys.setswitchinterval(interval)
        bus.publish(Ping())

        assert 400 == len(set(names)) == len(bus.subscriptions) == len(heard)


def test_logged_once(bus: Bus, caplog: pytest.LogCaptureFixture) -> None:
    """
    A failing subscriber is one line of the log for each kind of error, however often it fails.
    """
    bus.attach(Broken(), Ping, name="broken")
    with caplog.at_level(logging.DEBUG, logger="harken"):
        for _ in range(20):
            bus.publish(Ping())
            bus.flush()

    assert 1 == caplog.text.count("broken failed with OSError")


def test_health_is_a_mapping(bus: Bus) -> None:
    """
    The health of a bus is by subscriber, with the depth and bounds of its queue.
    """
    gated = Gated()
    bus.attach(gated, Ping, capacity=7, name="slow")
    bus.subscribe(lambda envelope: None, Ping, name="quick")
    fill(bus, gated, 1, 2)
    health = bus.health()
    gated.gate.set()

    assert ["slow", "quick"] == list(health)
    assert 2 == len(health)
    assert ("worker", True, 2, 7) == (
        health["slow"].delivery,
        health["slow"].is_sink,
        health["slow"].depth,
        health["slow"].capacity,
    )
    assert ("inline", False, 0, None, 3) == (
        health["quick"].delivery,
        health["quick"].is_sink,
        health["quick"].depth,
        health["quick"].capacity,
        health["quick"].delivered,
    )
    assert repr(health).startswith("Health({'slow': SubscriberHealth(name='slow'")


@pytest.mark.parametrize("delivery", ["worker", "isolated", "loop"])
def test_last_success(bus: Bus, delivery: str) -> None:
    """
    The health of a subscriber says when it last took something.
    """
    subscribe(bus, lambda envelope: None, delivery)
    before = time.time()
    publish(bus, 1)

    last = bus.health()["it"].last_success
    assert last is not None
    assert before - 1 <= last <= time.time() + 1
