"""
Publish and subscribe: who hears what, in which order, and what it costs the publisher.
"""

from __future__ import annotations

import re
import threading
import time
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import RFC_4122, UUID

import blinker
import pytest

import harken
from harken import JSON, Bus, Envelope, Event, Ids, Outcome
from harken.catalog import LlmChunk, PolicyEvaluated, PrCreated, ToolFailed, ToolStarted
from harken.delivery import SAMPLED
from harken.errors import (
    ClosedBusError,
    DeliveryError,
    RedactionError,
    SubscriptionError,
    UnknownEventError,
)
from harken.testing import Captured, FixedClock, capture, fixed_bus


class Family(Event, outcome="success"):
    """
    A base class.
    """


class Broke(Event, name="bustest.broke"):
    """
    Its author says what an error is in other words.
    """

    error_type: Any


class Born(Family, name="bustest.born", audit=True):
    """
    A member.
    """

    name: str = ""


class Grown(Family, name="bustest.grown"):
    """
    Another member.
    """


@pytest.fixture
def bus() -> Bus:
    return Bus()


class TestWhoHears:
    def test_type_base_and_everything(self, bus: Bus) -> None:
        """
        A type hears its own, a base class all its subclasses, no type everything.
        """
        heard: list[str] = []
        bus.subscribe(lambda e: heard.append(f"born:{e.name}"), Born)
        bus.subscribe(lambda e: heard.append(f"family:{e.name}"), Family)
        bus.subscribe(lambda e: heard.append(f"all:{e.name}"))
        bus.subscribe(lambda e: heard.append(f"two:{e.name}"), Grown, PrCreated)
        for event in (Born(), Grown(), PrCreated(url="u")):
            bus.publish(event)

        assert [
            "born:bustest.born",
            "family:bustest.born",
            "all:bustest.born",
            "family:bustest.grown",
            "all:bustest.grown",
            "two:bustest.grown",
            "all:pr.created",
            "two:pr.created",
        ] == heard

    def test_order(self, bus: Bus) -> None:
        """
        Sinks before handlers, each in order of subscription.
        """
        heard: list[str] = []

        class Noted:
            delivery = "inline"

            def __init__(self, name: str) -> None:
                self.note = name

            def write(self, batch: Sequence[Envelope[Event]], /) -> None:
                heard.append(self.note)

        for number in range(5):
            bus.subscribe(lambda e, number=number: heard.append(f"handler {number}"))  # type: ignore[misc]
            bus.attach(Noted(f"sink {number}"))
        bus.publish(Born())

        assert [f"sink {n}" for n in range(5)] + [f"handler {n}" for n in range(5)] == heard

    def test_same_handler_twice(self, bus: Bus) -> None:
        """
        Subscribing twice is being called twice; each is cancelled by itself.
        """
        heard: list[Envelope[Event]] = []
        first = bus.subscribe(heard.append)
        bus.subscribe(heard.append)
        bus.publish(Born())
        first.cancel()
        first.cancel()
        bus.publish(Born())

        assert 3 == len(heard)
        assert not first.active

    def test_decorator(self, bus: Bus) -> None:
        """
        A decorated function stays the function it is.
        """
        heard: list[str] = []

        @bus.on(Born)
        def born(envelope: Envelope[Born]) -> None:
            heard.append(envelope.event.name)

        bus.publish(Born(name="Ada"))
        assert ["Ada"] == heard
        assert "born" == born.__name__

    def test_transient_types_reach_only_sinks_that_name_them(self, bus: Bus) -> None:
        """
        Deltas of a stream reach handlers, and sinks only on request.
        """
        unnamed, named, handler = Captured(), Captured(), Captured()
        bus.attach(unnamed)
        bus.attach(named, Event, LlmChunk)
        bus.subscribe(lambda envelope: handler.write([envelope]))
        bus.publish(LlmChunk(llm_call_id="c", index=0))

        assert ([], ["llm.chunk"], ["llm.chunk"]) == (unnamed.names, named.names, handler.names)

    def test_blinker_carries_the_subscriptions(self, bus: Bus) -> None:
        """
        The registry is a `blinker.Signal`; sending on it publishes nothing.
        """
        from harken.routes import Signal

        heard: list[Envelope[Event]] = []
        signal = Signal()
        subscription = bus.subscribe(heard.append, Born)
        signal.listen(subscription)
        signal.send(Born)

        assert isinstance(signal, blinker.Signal)
        assert [subscription] == list(signal.receivers_for(Born))
        assert [] == heard


class TestNobody:
    def test_nothing_is_built(self, bus: Bus) -> None:
        """
        Without a listener nothing is stamped, and the publisher can know beforehand.
        """
        assert bus.publish(Born()) is None
        assert not bus.enabled(Born)
        assert {} == bus.health().published
        bus.subscribe(lambda envelope: None, Family)
        assert bus.enabled(Born)
        assert not bus.enabled(PrCreated)

    def test_what_is_no_event(self, bus: Bus) -> None:
        """
        Something else than an event is refused by name.
        """
        with pytest.raises(UnknownEventError, match=r"builtins\.str has no event name"):
            bus.publish("born")  # type: ignore[type-var]


class TestEnvelope:
    def test_what_the_bus_knows(self) -> None:
        """
        Time, number, ids, outcome and audit flag are stamped once, for all.
        """
        bus = fixed_bus()
        heard = Captured()
        bus.attach(heard)
        with harken.scope(actor="agent:a", on_behalf_of="user:u", request_id="q", source="s/1"):
            envelope = bus.publish(Born(name="Ada"))

        assert envelope is heard.envelopes[0]
        assert (datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), 1, True, Outcome.success) == (
            envelope.time,
            envelope.seq,
            envelope.audit,
            envelope.outcome,
        )
        assert ("agent:a", "user:u", "q", "s/1", "born") == (
            envelope.actor,
            envelope.on_behalf_of,
            envelope.request_id,
            envelope.source,
            envelope.action,
        )
        assert re.fullmatch(
            r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", envelope.id
        )
        assert re.fullmatch(r"[0-9a-f]{32}", envelope.trace_id)
        assert re.fullmatch(r"[0-9a-f]{16}", envelope.span_id)
        assert envelope.trace_id == envelope.correlation_id
        assert (None, None, None, None, 1) == (
            envelope.started_event_id,
            envelope.parent_span_id,
            envelope.duration,
            envelope.error_type,
            envelope.trace_flags,
        )
        assert 0 == envelope.mono_ns
        assert f"<Envelope bustest.born seq=1 id={envelope.id}>" == repr(envelope)

    def test_publisher_knows_better(self, bus: Bus) -> None:
        """
        Audit flag, time and attributes can be given for one event.
        """
        bus.subscribe(lambda envelope: None)
        when = datetime(2020, 1, 1, 12, 0, 0, 123456, tzinfo=timezone(timedelta(hours=1)))
        with harken.scope(tenant="t", tier=1):
            envelope = bus.publish(Grown(), audit=True, time=when, attributes={"tier": 2})

        assert envelope is not None
        assert (True, when, {"tenant": "t", "tier": 2}) == (
            envelope.audit,
            envelope.time,
            dict(envelope.attributes),
        )

    def test_an_operation_within_one_tick_of_the_clock(self) -> None:
        """
        What takes no time that the clock could tell has lasted 0 seconds.
        """
        bus = fixed_bus()
        heard = Captured()
        bus.attach(heard)
        with bus.operation(ToolStarted(tool_name="a")):
            pass

        assert 0.0 == heard.envelopes[1].duration

    def test_an_error_type_without_end(self, bus: Bus) -> None:
        """
        The class of an error is a word, and cut where it is not.
        """
        heard = Captured()
        bus.attach(heard)
        bus.publish(ToolFailed(tool_name="a", tool_call_id="c", error_type="E" * 300))
        bus.flush()

        assert "E" * 256 == heard.envelopes[0].error_type

    @pytest.mark.parametrize(
        ("given", "found"), [("E", "E"), (5, "5"), (["E", None], '["E",null]'), (None, None)]
    )
    def test_an_error_type_that_is_no_text(self, bus: Bus, given: Any, found: str | None) -> None:
        """
        Whatever an author calls an error is a word, or none.
        """
        with capture(bus) as heard:
            bus.publish(Broke(error_type=given))

        assert found == heard.envelopes[0].error_type

    @pytest.mark.parametrize("seconds", [2, 7200])
    def test_one_given_time_makes_the_duration(self, seconds: int) -> None:
        """
        An operation whose start is told afterwards lasts from the time that was said.
        """
        clock = FixedClock()
        bus = Bus(clock=clock)
        now = datetime.fromtimestamp(clock.time_ns() / 1e9, UTC)
        with capture(bus) as heard:
            bus.publish(
                ToolStarted(tool_name="a", tool_call_id="c"), time=now - timedelta(seconds=seconds)
            )
            bus.publish(ToolFailed(tool_name="a", tool_call_id="c"))

        assert seconds == heard.envelopes[1].duration

    def test_given_times_make_the_duration(self, bus: Bus) -> None:
        """
        Operations that are told afterwards last as long as their times say.
        """
        heard = Captured()
        bus.attach(heard)
        start = datetime(2020, 1, 1, tzinfo=UTC)
        from harken.catalog import ToolCompleted

        bus.publish(ToolStarted(tool_name="a", tool_call_id="c"), time=start)
        bus.publish(
            ToolCompleted(tool_name="a", tool_call_id="c"), time=start + timedelta(seconds=2)
        )

        assert 2.0 == heard.envelopes[1].duration

    @pytest.mark.parametrize(
        ("milliseconds", "seconds"),
        [(1500, 1.5), (0, None), (10**308, 1e305), (10**400, None), (-(10**400), None)],
        ids=["usual", "unknown", "most", "more", "less"],
    )
    def test_a_duration_that_no_float_holds(
        self, bus: Bus, milliseconds: int, seconds: float | None
    ) -> None:
        """
        What an event says about its length counts as far as it can be a number of seconds.
        """
        bus.subscribe(lambda envelope: None)
        from harken.catalog import ToolCompleted

        envelope = bus.publish(ToolCompleted(tool_name="a", duration_ms=milliseconds))

        assert envelope is not None
        assert seconds == envelope.duration

    def test_outcome_of_a_decision(self, bus: Bus) -> None:
        """
        A policy's decision is its outcome.
        """
        bus.subscribe(lambda envelope: None)
        envelope = bus.publish(PolicyEvaluated(policy_id="p", subject="s", decision="deny"))

        assert envelope is not None
        assert Outcome.denied is envelope.outcome

    def test_audit_types(self) -> None:
        """
        Settings raise and lower the audit flag by type; the last match counts.
        """
        bus = Bus(audit_types={"bustest.*": False, "bustest.grown": True})
        bus.subscribe(lambda envelope: None)
        born, grown = bus.publish(Born()), bus.publish(Grown())
        bus.configure(audit_types={})
        again = bus.publish(Born())

        assert born is not None
        assert grown is not None
        assert again is not None
        assert (False, True, True) == (born.audit, grown.audit, again.audit)

    def test_ids_say_when_it_happened(self, bus: Bus) -> None:
        """
        An id is a UUIDv7 with the milliseconds of its event, and 12 bits of what is left of one.
        """
        bus.subscribe(lambda envelope: None)
        second = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
        ids: list[str] = []
        for microseconds in (0, 250, 500, 999, 1000):
            envelope = bus.publish(Grown(), time=second + timedelta(microseconds=microseconds))
            assert envelope is not None
            ids.append(envelope.id)

        assert ["019b7ca9-8c88-7"] == sorted({one[:15] for one in ids[:4]})
        assert ["000", "400", "800", "ffb", "000"] == [one[15:18] for one in ids]
        assert sorted(ids) == ids
        now = bus.publish(Grown())
        assert now is not None
        assert (7, RFC_4122, now.time_ns // 1_000_000) == (
            UUID(now.id).version,
            UUID(now.id).variant,
            UUID(now.id).int >> 80,
        )

    def test_ids_are_unique_and_sort_by_time(self) -> None:
        """
        Ids of one process never collide, and sort as time does.
        """
        clock = FixedClock()
        ids = Ids()
        made = []
        for number in range(5000):
            clock.advance(0.001)
            made.append(ids.event_id(clock.time_ns(), number))

        assert sorted(set(made)) == made
        assert 5000 == len({ids.span_id(number) for number in range(5000)})
        assert 5000 == len({ids.trace_id(number) for number in range(5000)})
        assert 5000 == len({ids.key(number) for number in range(5000)})

    def test_ids_are_never_zero(self) -> None:
        """
        The W3C forbids ids of nothing but zeros.
        """
        ids = Ids(bytes(32))

        assert (f"{1:016x}", f"{1:032x}") == (ids.span_id(0), ids.trace_id(0))

    def test_same_ids_of_one_salt(self) -> None:
        """
        Ids are made of salt, time and number alone, with all their zeros.
        """
        ids, zeros = Ids(bytes(range(32))), Ids(bytes(23) + b"\5" + bytes(8))
        time_ns = 1_763_776_000_123_456_789

        assert [
            "019aa93d-f07b-774f-9385-56157f0e6a9a",
            "5b8d5e1d871672a2",
            "10111213141516176b9d6e2d972682b2",
        ] == [ids.event_id(time_ns, 7), ids.span_id(7), ids.trace_id(7)]
        assert [
            "00000000-0000-7000-8000-000000000000",
            "0000000000000001",
            "00000000000000050000000000000001",
        ] == [zeros.event_id(1, 0), zeros.span_id(0), zeros.trace_id(0)]

    def test_secrets_in_texts(self, bus: Bus) -> None:
        """
        What the bus knows about an event is redacted like the event itself, and counted.
        """
        bus.subscribe(lambda envelope: None)
        token = "ghp_" + "a1B2" * 9
        with harken.scope(actor=f"agent:{token}", note=token):
            envelope = bus.publish(Born(name=token), attributes={"more": token})

        assert envelope is not None
        assert token == envelope.event.name
        assert "agent:[REDACTED:github_token]" == envelope.actor
        assert {"[REDACTED:github_token]"} == set(envelope.attributes.values())
        assert {"name": "[REDACTED:github_token]"} == envelope.data()
        # In the field, the actor, the note, and what is more.
        assert {"github_token": 4} == dict(envelope.redacted)

    def test_secret_in_a_scope_alone(self, bus: Bus) -> None:
        """
        A secret that only the scope holds is counted in each event of it.
        """
        bus.subscribe(lambda envelope: None)
        with harken.scope(note="ghp_" + "a1B2" * 9):
            found = [bus.publish(Born(name="plain")), bus.publish(Born(name="plain"))]

        assert [{"github_token": 1}] * 2 == [dict(one.redacted) for one in found if one]

    def test_secret_in_a_resource(self, bus: Bus) -> None:
        """
        The resource is filled from what is redacted.
        """
        bus.subscribe(lambda envelope: None)
        token = "ghp_" + "a1B2" * 9
        envelope = bus.publish(PrCreated(url=token))

        assert envelope is not None
        assert token not in envelope.resource


class TestFailing:
    def test_nobody_else_is_harmed(self, bus: Bus, caplog: pytest.LogCaptureFixture) -> None:
        """
        What one handler raises reaches neither the publisher nor the others.
        """
        heard = Captured()

        def broken(envelope: Envelope[Event]) -> None:
            raise ValueError("broken")

        bus.subscribe(broken, Born)
        bus.attach(heard)
        for _ in range(3):
            bus.publish(Born())

        health = bus.health()["TestFailing.test_nobody_else_is_harmed.<locals>.broken"]
        assert ["bustest.born", "harken.sink_failed", "bustest.born", "bustest.born"] == heard.names
        assert (3, {"ValueError": 3}, "ValueError: broken", 0) == (
            health.failures,
            health.errors,
            health.last_error,
            health.delivered,
        )
        assert 1 == caplog.text.count("failed with ValueError")

    def test_required_is_heard_last(self, bus: Bus) -> None:
        """
        The error of a required handler surfaces only after every other one was called.
        """
        heard: list[Envelope[Event]] = []

        def broken(envelope: Envelope[Event]) -> None:
            raise ValueError("broken")

        bus.subscribe(broken, Born, required=True)
        bus.subscribe(heard.append, Born)

        with pytest.raises(
            DeliveryError, match=r"bustest\.born did not reach 1 required"
        ) as caught:
            bus.publish(Born())
        assert 1 == len(heard)
        assert ["broken"] == [str(error) for error in caught.value.errors]

    def test_several_required(self, bus: Bus) -> None:
        """
        Several failures are all in the error.
        """

        def broken(envelope: Envelope[Event]) -> None:
            raise ValueError("broken")

        bus.subscribe(broken, Born, required=True)
        bus.subscribe(broken, Born, required=True)

        with pytest.raises(DeliveryError, match="2 required") as caught:
            bus.publish(Born())
        assert isinstance(caught.value.__cause__, ExceptionGroup)

    @pytest.mark.parametrize(
        ("subscribe", "message"),
        [
            (lambda bus: bus.subscribe(3), "cannot subscribe 3: it is not callable"),
            (lambda bus: bus.attach(Captured), r"attach one of it, Captured\(\)"),
            (lambda bus: bus.attach(print), r"it has no write\(batch\); a function goes to"),
            (lambda bus: bus.subscribe(print, str), "<class 'str'> is no event type"),
            (lambda bus: bus.subscribe(print, delivery="soon"), "delivery='soon' is unknown"),
            (lambda bus: bus.subscribe(print, where=3), "where=3 is not callable"),
            (lambda bus: bus.subscribe(print, delivery="loop"), "coroutine functions, and only"),
            (
                lambda bus: bus.subscribe(print, required=True, delivery="worker"),
                "required=True needs delivery='inline'",
            ),
            (lambda bus: bus.attach(Captured(), delivery="loop"), "use inline, worker or isolated"),
            (lambda bus: bus.attach(Captured(), delivery="worker", overflow="x"), "overflow='x'"),
            (
                lambda bus: bus.attach(Captured(), delivery="worker", capacity=0),
                "room for at least",
            ),
        ],
    )
    def test_wrong_subscription(self, bus: Bus, subscribe, message: str) -> None:  # type: ignore[no-untyped-def]
        """
        What cannot listen is refused with a sentence, and leaves nothing behind.
        """
        with pytest.raises(SubscriptionError, match=message):
            subscribe(bus)

        assert {} == dict(bus.health())
        assert not bus.enabled(Born)

    def test_closed(self, bus: Bus) -> None:
        """
        A closed bus refuses events and subscribers, and says so.
        """
        bus.subscribe(lambda envelope: None)
        bus.publish(Born())
        bus.close()
        bus.close()

        with pytest.raises(
            ClosedBusError, match=r"cannot publish bustest\.born: the bus is closed"
        ):
            bus.publish(Born())
        with pytest.raises(ClosedBusError, match="the bus is closed; make a new one"):
            bus.subscribe(print)
        assert not bus.enabled(Born)
        assert "<Bus closed, 1 subscribers>" == repr(bus)


class TestReplace:
    def test_failure_leaves_what_was_there(self, bus: Bus) -> None:
        """
        When one of the new sinks cannot be attached, the old ones go on.
        """
        old, new = Captured(), Captured()
        (subscription,) = bus.replace((), [(old, ())])
        wrong = Captured()
        wrong.delivery = "by post"

        with pytest.raises(SubscriptionError, match="delivery='by post' is unknown"):
            bus.replace([subscription], [(new, ()), (wrong, ())])
        bus.publish(Born())

        assert [1, 0] == [len(old.envelopes), len(new.envelopes)]
        assert (subscription,) == bus.subscriptions

    def test_an_heir_has_the_name(self, bus: Bus) -> None:
        """
        A sink that replaces another of its class goes by the same name, and the other by none.
        """
        (old,) = bus.replace((), [(Captured(), ())])
        (new,) = bus.replace([old], [(Captured(), ())])

        assert old.name == new.name
        assert (new,) == bus.subscriptions

    @pytest.mark.parametrize("before", ["inline", "worker"])
    @pytest.mark.parametrize("after", ["inline", "worker"])
    def test_an_heir_gets_what_was_on_its_way(self, bus: Bus, before: str, after: str) -> None:
        """
        What comes to a sink after its close goes to the one that replaces it, however that hears.
        """

        class Closing(Captured):
            def close(self, timeout: float) -> None:
                pass

        sinks = [Closing(), Closing()]
        sinks[0].delivery, sinks[1].delivery = before, after
        (old,) = bus.replace((), [(sinks[0], ())])
        bus.replace([old], [(sinks[1], ())])
        with capture(bus) as heard:
            bus.publish(Born())
        late = heard.envelopes[0]

        if old.inline is not None:
            old.inline(late)
        if old.queue is not None:
            old.queue.put(late)
        bus.flush()

        assert [late, late] == sinks[1].envelopes

    @pytest.mark.parametrize("has_heir", [True, False])
    def test_what_an_old_sink_has_no_time_for(self, bus: Bus, has_heir: bool) -> None:
        """
        What still waits when the time is over goes to the new sink, or is counted.
        """
        busy, go_on = threading.Event(), threading.Event()

        class Slow(Captured):
            delivery = "isolated"

            def write(self, batch: Sequence[Envelope[Event]], /) -> None:
                busy.set()
                assert go_on.wait(10)
                super().write(batch)

        old, new = Slow(), Slow()
        (subscription,) = bus.replace((), [(old, ())])
        bus.publish(Born())
        assert busy.wait(10)
        for _ in range(9):
            bus.publish(Born())
        bus.replace([subscription], [(new, ())] if has_heir else [], timeout=0.05)
        go_on.set()
        bus.flush()

        while len(old.envelopes) < 1:
            time.sleep(0.001)
        assert [[1], [*range(2, 11)] if has_heir else []] == [
            [envelope.seq for envelope in sink.envelopes] for sink in (old, new)
        ]
        assert ({} if has_heir else {"shutdown": 9}) == subscription.health().drops

    def test_an_old_sink_has_some_time(self, bus: Bus) -> None:
        """
        A sink that is replaced is told how many seconds are left for its close.
        """
        patience: list[float] = []

        class Slow(Captured):
            def close(self, timeout: float) -> None:
                patience.append(timeout)

        (old,) = bus.replace((), [(Slow(), ())])
        bus.replace([old], [], timeout=3.0)

        assert 1 == len(patience)
        assert 0 < patience[0] <= 3.0

    def test_loses_and_doubles_nothing(self, bus: Bus) -> None:
        """
        While sinks are replaced, each event goes to the old or to the new one.
        """

        class Mine(Captured):
            def __init__(self, delivery: str) -> None:
                super().__init__()
                self.delivery = delivery
                self.closed = False

            def write(self, batch: Sequence[Envelope[Event]], /) -> None:
                assert not self.closed
                super().write(batch)

            def close(self, timeout: float) -> None:
                self.closed = True

        class Queued(Mine):
            pass

        made: list[list[Mine]] = [[Mine("inline"), Queued("worker")]]
        subscriptions = bus.replace((), [(sink, ()) for sink in made[0]])
        stop = threading.Event()
        published = Counter[int]()

        def publish(number: int) -> None:
            while not stop.is_set():
                bus.publish(Born())
                published[number] += 1

        threads = [threading.Thread(target=publish, args=(number,)) for number in range(3)]
        for thread in threads:
            thread.start()
        for _ in range(20):
            sinks = [Mine("inline"), Queued("worker")]
            made.append(sinks)
            subscriptions = bus.replace(subscriptions, [(sink, (Born,)) for sink in sinks])
        stop.set()
        for thread in threads:
            thread.join()
        bus.close()

        inline, queued = ([pair[i] for pair in made] for i in (0, 1))
        for sinks in (inline, queued):
            seqs = [envelope.seq for sink in sinks for envelope in sink.envelopes]
            assert published.total() == len(seqs)
            assert len(set(seqs)) == len(seqs)
            assert all(sink.closed for sink in sinks)

    def test_without_an_heir(self, bus: Bus) -> None:
        """
        A sink that nothing replaces is closed, and hears nothing more.
        """
        kept, others = Captured(), Captured()
        (subscription,) = bus.replace((), [(kept, ())])
        bus.attach(others)
        bus.publish(Born())
        assert [] == bus.replace([subscription], [])
        bus.publish(Born())

        assert (1, 2) == (len(kept.events), len(others.events))
        assert not subscription.active


def test_report_of_a_failure_follows_its_cause(bus: Bus) -> None:
    """
    In every sink, what failed on an event is told behind it, with the event as its cause.
    """

    class Broken:
        delivery = "inline"

        def write(self, batch: Sequence[Envelope[Event]], /) -> None:
            raise OSError("disk full")

    heard = Captured()
    bus.attach(Broken(), Born)
    bus.attach(heard)
    bus.publish(Born())
    bus.publish(ToolStarted(tool_name="a"))

    born, failed, after = heard.envelopes
    assert ("bustest.born", "harken.sink_failed") == (born.name, failed.name)
    assert (born.id, None) == (failed.causation_id, after.causation_id)


def test_failure_is_logged_without_secrets(bus: Bus, caplog: pytest.LogCaptureFixture) -> None:
    """
    What a subscriber raises is redacted in the log and in the health.
    """

    def handle(envelope: Envelope[Event]) -> None:
        raise ValueError("cannot log in with password=hunter2-is-mine")

    bus.subscribe(handle, Born, name="it")
    bus.publish(Born())

    assert "hunter2" not in caplog.text
    assert "Traceback (most recent call last)" in caplog.text
    assert "cannot log in with password=[REDACTED" in str(bus.health()["it"].last_error)


def test_attributes_are_taken_at_publish(bus: Bus) -> None:
    """
    What is done to a mapping later changes no event.
    """
    heard = Captured()
    bus.attach(heard)
    attributes: dict[str, JSON] = {"k": "before"}
    bus.publish(Born(), attributes=attributes)
    attributes["k"] = "after"

    assert {"k": "before"} == dict(heard.envelopes[0].attributes)


def test_causes_are_redacted(bus: Bus) -> None:
    """
    Whatever an author gives as a cause is redacted as other ids are.
    """
    heard = Captured()
    bus.attach(heard)
    bus.publish(Born(), causes=["ghp_" + "a1B2" * 9])

    assert "[REDACTED:github_token]" == heard.envelopes[0].causation_id


def test_redaction_is_a_redactor_or_a_switch() -> None:
    """
    A word that sounds strict does not switch the redaction off.
    """
    redaction: Any = "strict"
    with pytest.raises(RedactionError, match="redaction='strict' is no Redactor"):
        Bus(redaction=redaction)


def test_names_are_unique(bus: Bus) -> None:
    """
    Every subscriber can be told from the others.
    """
    first, second = bus.attach(Captured()), bus.attach(Captured())
    third = bus.attach(Captured(), name="mine")

    assert ["Captured", "Captured-2", "mine"] == [first.name, second.name, third.name]
    assert [first, second, third] == list(bus.subscriptions)
    assert "<Subscription mine inline active>" == repr(third)


def test_attached_knows_its_bus(bus: Bus) -> None:
    """
    A sink that asks is told its bus before the first event.
    """

    class Asking(Captured):
        bus: object = None

        def attached(self, bus: Bus, /) -> None:
            self.bus = bus

    sink = Asking()
    bus.attach(sink)

    assert bus is sink.bus


def test_capture(bus: Bus) -> None:
    """
    What is published inside the block is kept, by type if asked, and nothing after it.
    """
    with capture(bus, Born) as born, capture(bus) as everything:
        bus.publish(Born(name="a"))
        bus.publish(Grown())
    bus.publish(Born(name="b"))

    assert [Born(name="a")] == born.events
    assert [Born(name="a")] == everything.of(Born)
    everything.clear()
    assert [] == everything.envelopes


def test_published_is_counted(bus: Bus) -> None:
    """
    The bus counts what it built, also across changes of who listens.
    """
    bus.subscribe(lambda envelope: None)
    bus.publish(Born())
    bus.subscribe(lambda envelope: None)
    bus.publish(Born())
    bus.publish(ToolStarted(tool_name="a"))

    assert {"bustest.born": 2, "tool.started": 1} == bus.health().published


def test_health_of_a_new_bus() -> None:
    """
    What has not happened yet counts zero.
    """
    health = Bus().health()

    assert (0, {}, 0, 0, 0, 0) == (
        len(health),
        health.published,
        health.open_operations,
        health.refused_terminals,
        health.late,
        health.clock_steps_back,
    )


class Watching:
    """
    Remembers how long things take.
    """

    def __init__(self) -> None:
        self.told: list[tuple[str, str, float]] = []

    def measured(self, what: str, sink: str, seconds: float, /) -> None:
        self.told.append((what, sink, seconds))


def test_what_is_measured(bus: Bus) -> None:
    """
    Of a batch behind a queue it is measured how long its writing took and how old its oldest
    event was, where the bus itself has taken the time of that.
    """
    watching = Watching()
    bus.observe(watching)
    bus.attach(Captured(), name="it", delivery="worker")
    begun = time.monotonic()
    bus.publish(Born())
    bus.flush()
    bus.publish(ToolStarted(tool_name="a"))
    bus.flush()
    taken = time.monotonic() - begun

    assert ["write", "write", "lag"] == [what for what, sink, _ in watching.told if sink == "it"]
    assert all(0 <= seconds <= taken for _, _, seconds in watching.told)


def test_within_publish_one_in_many_is_measured(bus: Bus) -> None:
    """
    What publishers wait for is measured now and then, so that they do not wait for the measuring.
    """
    watching = Watching()
    bus.observe(watching)
    bus.attach(Captured(), name="it", delivery="inline")
    for _ in range(2 * SAMPLED):
        bus.publish(Born())

    assert Counter({"publish": 2, "write": 2}) == Counter(what for what, _, _ in watching.told)


def test_a_clock_that_is_set_back_is_known() -> None:
    """
    The health says how often the wall clock was found set back, by the monotonic clock beside it.
    """
    clock = FixedClock()
    bus = Bus(clock=clock)
    clock.advance(-5)

    found = [bus.health().clock_steps_back for _ in range(2)]

    assert [1, 1] == found
    assert 0 == Bus().health().clock_steps_back
