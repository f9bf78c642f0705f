"""
What the bus expects of any sink, as checks that a sink of your own can be put to.

.. code-block:: python

    from harken.testing.sink_conformance import check_sink

    class Names:
        def __init__(self):
            self.heard = []

        def write(self, batch):
            self.heard += [envelope.name for envelope in batch]

    check_sink(Names)

Each check makes the sinks that it needs, and raises `AssertionError` where one does not conform.
Under pytest, `CHECKS` makes a test of each.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias, get_args

import msgspec

import harken.catalog
from harken import (
    Bus,
    Delivery,
    Envelope,
    Event,
    Sink,
    SupportsAfterFork,
    SupportsClose,
    SupportsDropped,
    SupportsFlush,
    event_types,
)
from harken.catalog import MessageAdded, PolicyEvaluated, RunStarted, TextEmitted, ToolStarted
from harken.testing import Captured, capture

MakeSink: TypeAlias = Callable[[], Sink]
"""Makes a new sink; a check may call it more than once, and give the same events to several."""

Check: TypeAlias = Callable[[MakeSink], None]

TIMEOUT = 30.0
"""Seconds that a flush or a close may take before it counts as stuck."""

THREADS, EACH = 4, 100

_STRANGE: tuple[object, ...] = (
    *("", "\0\x1b[31m\r\n", "\u2028", "\ud800", "\U0001f600", "x" * 300_000),
    *(float("nan"), float("inf"), 1 << 70, {"a": [{"b": {}}] * 50}, {1: b"bytes"}, object()),
)


def has_the_members_of_a_sink(make: MakeSink) -> None:
    """
    What a sink has besides `write()` is what the bus makes of it.
    """
    sink: Any = make()
    with _closed(sink):
        delivery = getattr(sink, "delivery", None)
        words = ("inline", "worker", "isolated")
        assert delivery is None or delivery in words, (
            f"delivery is {delivery!r}, not one of {words}"
        )
        members = ("write", "flush", "close", "attached", "after_fork", "dropped")
        for name in members:
            member = getattr(sink, name, None)
            assert member is None or callable(member), f"{name} is no method"
        assert callable(getattr(sink, "write", None)), "there is no write(batch)"


def takes_every_type(make: MakeSink) -> None:
    """
    Every event of the catalog can be written, with nothing but what it requires.
    """
    events = [_filled(cls) for cls in _catalog()]
    _write(make, _captured(*events))


def takes_strange_values(make: MakeSink) -> None:
    """
    Control characters, lone surrogates, huge texts, and what is no JSON harm no sink.
    """
    events = [ToolStarted(tool_name=str(value), arguments=value) for value in _STRANGE]
    texts = [TextEmitted(text=value) for value in _STRANGE if isinstance(value, str)]
    messages = [MessageAdded(role="user", content=value) for value in _STRANGE]
    _write(make, _captured(*events, *texts, *messages))


def takes_every_ending(make: MakeSink) -> None:
    """
    An operation can end in every way, also without its start.
    """
    bus = Bus()
    with capture(bus) as heard:
        with bus.operation(ToolStarted(tool_name="t")):
            pass
        for word in ("failure", "timeout", "cancelled", "deferred", "no such word"):
            call = bus.operation(ToolStarted(tool_name="t")).start()
            call.fail("no", outcome=word)
            call.end()
        with bus.operation(ToolStarted(tool_name="t")) as call:
            call.deny("no", rule="r")
        bus.publish(harken.catalog.ToolCompleted(tool_call_id="never started"))
        bus.publish(PolicyEvaluated(policy_id="p", decision="no such decision"))
        bus.operation(RunStarted()).start()
        bus.close()
    _write(make, heard.envelopes)


def takes_batches_of_any_size(make: MakeSink) -> None:
    """
    A batch has one envelope or hundreds of them, and may be any sequence.
    """
    envelopes = _captured(*(ToolStarted(tool_name=f"t{number}") for number in range(300)))
    sink = make()
    with _closed(sink):
        sink.write(envelopes[:1])
        sink.write(tuple(envelopes[1:44]))
        sink.write(envelopes[44:])


def leaves_events_alone(make: MakeSink) -> None:
    """
    What one sink is given, the next one is given, too: nothing of it is changed.
    """
    heard = _captured(ToolStarted(tool_name="t", arguments={"a": [1, {"b": 2}]}))
    before = [(one.body, one.encoded(content=False), dict(one.attributes)) for one in heard]
    _write(make, heard)
    after = [(one.body, one.encoded(content=False), dict(one.attributes)) for one in heard]
    assert before == after, "the batch or an envelope in it was changed"


def leaves_the_context_alone(make: MakeSink) -> None:
    """
    No context variable of whoever publishes is another one afterwards.
    """
    sink = make()
    envelopes = _captured(RunStarted(), ToolStarted(tool_name="t"))

    def write() -> bool:
        before = dict(contextvars.copy_context())
        sink.write(envelopes)
        return before == dict(contextvars.copy_context())

    with _closed(sink):
        assert contextvars.copy_context().run(write), "write() has set a context variable"


def works_with_every_delivery(make: MakeSink) -> None:
    """
    Threads publish, all of it is written, and the bus knows of no failure.
    """
    for delivery in get_args(Delivery):
        if delivery != "loop":
            _publish_from_threads(make, delivery)


def shares_a_bus_with_its_like(make: MakeSink) -> None:
    """
    Two of its kind on one bus, and one more on another, do not get in each other's way.
    """
    with _bus_with(make(), make()) as one, _bus_with(make()) as other:
        for bus in (one, other):
            with bus.operation(ToolStarted(tool_name="t")):
                pass
        for bus in (one, other):
            _check_health(bus, delivered=2)


def flushes_and_closes(make: MakeSink) -> None:
    """
    A flush says that nothing is left; a close leaves no thread behind, and may come at once.
    """
    before = set(threading.enumerate())
    for envelopes in ([], _captured(ToolStarted(tool_name="t"))):
        sink = make()
        if envelopes:
            sink.write(envelopes)
        if isinstance(sink, SupportsFlush):
            assert sink.flush(TIMEOUT) is not False, "flush() says that something is left"
        if isinstance(sink, SupportsClose):
            sink.close(TIMEOUT)
    left = [thread.name for thread in set(threading.enumerate()) - before if not _ended(thread)]
    assert not left, f"threads are left behind: {', '.join(left)}"


def takes_what_the_bus_tells_it(make: MakeSink) -> None:
    """
    A forked child begins anew, also with nothing in it; what its queue dropped is no failure.
    """
    envelopes = _captured(ToolStarted(tool_name="t"))
    sink = make()
    with _closed(sink):
        if isinstance(sink, SupportsAfterFork):
            sink.after_fork()
        sink.write(envelopes)
        if isinstance(sink, SupportsDropped):
            sink.dropped(envelopes)
        if isinstance(sink, SupportsAfterFork):
            sink.after_fork()
        sink.write(envelopes)


CHECKS: tuple[Check, ...] = (
    has_the_members_of_a_sink,
    takes_every_type,
    takes_strange_values,
    takes_every_ending,
    takes_batches_of_any_size,
    leaves_events_alone,
    leaves_the_context_alone,
    works_with_every_delivery,
    shares_a_bus_with_its_like,
    takes_what_the_bus_tells_it,
    flushes_and_closes,
)
"""All of them, in the order in which they say most."""


def check_sink(make: MakeSink) -> None:
    """
    Put the sinks that *make* makes to every check.

    Raises:
        TypeError: It is no function; a sink is made anew for each check.

        ExceptionGroup: Some do not hold; each error has the name of its check as a note.
    """
    if not callable(make):
        raise TypeError(f"check_sink() takes a function that makes a sink, not {make!r}")
    errors = list[Exception]()
    for check in CHECKS:
        try:
            check(make)
        except Exception as error:
            error.add_note(f"{check.__name__}: {(check.__doc__ or '').strip()}")
            errors.append(error)
    if errors:
        raise ExceptionGroup("the sink does not conform", errors)


@contextmanager
def _closed(sink: Sink) -> Generator[None]:
    try:
        yield
    finally:
        if isinstance(sink, SupportsClose):
            sink.close(TIMEOUT)


def _write(make: MakeSink, envelopes: Sequence[Envelope[Event]]) -> None:
    sink = make()
    with _closed(sink):
        sink.write(envelopes)


def _captured(*events: Event) -> list[Envelope[Event]]:
    bus, heard = Bus(capture_content=("arguments", "text", "messages")), Captured()
    bus.attach(heard)
    for event in events:
        bus.publish(event)
    bus.close()
    return heard.envelopes


def _catalog() -> list[type[Event]]:
    names = vars(harken.catalog).values()
    return [cls for cls in event_types().values() if cls in names]


def _filled(cls: type[Event]) -> Event:
    required = [one.name for one in msgspec.structs.fields(cls) if one.required]
    make: Callable[..., Event] = cls
    # A text that no other type has: ends are not to find starts of another one.
    return make(**dict.fromkeys(required, cls.__name__))


@contextmanager
def _bus_with(*sinks: Sink, delivery: Delivery | None = None) -> Generator[Bus]:
    bus = Bus()
    try:
        for sink in sinks:
            bus.attach(sink, delivery=delivery)
        yield bus
    finally:
        closed = bus.close(TIMEOUT)
    assert closed, f"not everything was written when the bus was closed: {closed}"


def _publish_from_threads(make: MakeSink, delivery: Delivery) -> None:
    with _bus_with(make(), delivery=delivery) as bus:

        def publish() -> None:
            for number in range(EACH):
                bus.publish(ToolStarted(tool_name=f"t{number}"))

        threads = [threading.Thread(target=publish) for _ in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        _check_health(bus, delivered=THREADS * EACH)


def _check_health(bus: Bus, *, delivered: int) -> None:
    report = bus.flush(TIMEOUT)
    for name, one in bus.health().items():
        assert one.failures == 0, f"{name} failed {one.failures} times: {one.last_error}"
    assert report, f"a flush leaves something: {report}"
    for name, one in bus.health().items():
        assert one.delivered >= delivered, f"{name} got {one.delivered} of {delivered} events"


def _ended(thread: threading.Thread) -> bool:
    thread.join(TIMEOUT)
    return not thread.is_alive()
