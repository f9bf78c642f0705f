"""
Operations: exactly one end, with the right outcome, on every path.
"""

from __future__ import annotations

import asyncio
import gc
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any
from uuid import UUID

import pytest
import trio
from hypothesis import given, strategies as st

import harken
from harken import Bus, Envelope, Event, Outcome, Sink
from harken.catalog import (
    AgentStarted,
    CommandStarted,
    PhaseStarted,
    PlanStepCompleted,
    PlanStepStarted,
    PrCreated,
    RunCancelled,
    RunCompleted,
    RunFailed,
    RunStarted,
    ScopeOrphaned,
    SessionStarted,
    ToolCompleted,
    ToolDenied,
    ToolFailed,
    ToolStarted,
    ValidationStarted,
)
from harken.errors import ClosedBusError, DeliveryError, EventError
from harken.testing import Captured, FixedClock, fixed_bus


class DeployStarted(Event, name="optest.deploy_started", key="deploy_id"):
    """
    Declared as an author would.
    """

    deploy_id: str = ""


class DeployCompleted(Event, name="optest.deploy_completed", ends=DeployStarted):
    """
    An end without fields of its own.
    """


class DeployFailed(Event, name="optest.deploy_failed", ends=DeployStarted, outcome="failure"):
    """
    An end with a required field that no exception can give.
    """

    where: str


class Noted(Event, name="optest.noted"):
    """
    Nothing that has an end.
    """


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


def ends(heard: Captured) -> list[tuple[str, str]]:
    return [
        (envelope.name, str(envelope.outcome.value))
        for envelope in heard.envelopes
        if envelope.outcome is not None
    ]


class TestOutcome:
    def test_return_is_success(self, bus: Bus, heard: Captured) -> None:
        """
        A block that is left normally ends as success, with the fields that were said.
        """
        with bus.operation(ToolStarted(tool_name="search")) as op:
            op.complete(result_size=2340)

        assert [("tool.completed", "success")] == ends(heard)
        assert [2340] == [event.result_size for event in heard.of(ToolCompleted)]

    @pytest.mark.parametrize(
        ("error", "outcome"),
        [
            (ValueError("bad"), "failure"),
            (TimeoutError("late"), "timeout"),
            (asyncio.CancelledError(), "cancelled"),
            (KeyboardInterrupt(), "cancelled"),
            (GeneratorExit(), "cancelled"),
            (SystemExit(3), "failure"),
            (SystemExit(143), "cancelled"),
            (BaseExceptionGroup("tasks", [asyncio.CancelledError()]), "cancelled"),
            (BaseExceptionGroup("tasks", [asyncio.CancelledError(), ValueError()]), "failure"),
        ],
    )
    def test_exception(self, bus: Bus, heard: Captured, error: BaseException, outcome: str) -> None:
        """
        What leaves the block says how the operation ended, and is not swallowed.
        """
        with pytest.raises(type(error)), bus.operation(ToolStarted(tool_name="search")):
            raise error

        assert [("tool.failed", outcome)] == ends(heard)
        assert [type(error).__name__] == [event.error_type for event in heard.of(ToolFailed)]

    def test_generator_that_is_let_go_of(self, bus: Bus, heard: Captured) -> None:
        """
        A generator that is closed when all was said has ended as was said.
        """
        op = bus.operation(ToolStarted(tool_name="search")).start()
        op.complete(result_size=7)
        op.end(GeneratorExit())

        assert [("tool.completed", "success")] == ends(heard)

    def test_phase(self, bus: Bus, heard: Captured) -> None:
        """
        What begins a phase says so to all that happens in it.
        """
        with bus.operation(PhaseStarted(phase="repo_clone")):
            bus.publish(Noted())
        bus.publish(Noted())

        found = [envelope.phase for envelope in heard.envelopes]
        assert ["repo_clone"] * 3 + [None] == found

    def test_normal_exit_of_the_program_is_success(self, bus: Bus, heard: Captured) -> None:
        """
        `sys.exit()` inside an operation is no failure of it.
        """
        with pytest.raises(SystemExit), bus.operation(ToolStarted(tool_name="search")):
            raise SystemExit(0)

        assert [("tool.completed", "success")] == ends(heard)

    def test_exception_overrides_what_was_said(self, bus: Bus, heard: Captured) -> None:
        """
        Success that was said too early is not recorded.
        """

        def judge() -> None:
            with bus.operation(ToolStarted(tool_name="a")) as op:
                op.complete(result_size=1)
                raise ValueError("judged badly")

        with pytest.raises(ValueError, match="judged badly"):
            judge()

        assert [("tool.failed", "failure")] == ends(heard)
        assert ["judged badly"] == [event.error_message for event in heard.of(ToolFailed)]

    def test_the_last_word_counts(self, bus: Bus, heard: Captured) -> None:
        """
        Of several judgements the last one is published, once.
        """
        with bus.operation(ToolStarted(tool_name="search")) as op:
            op.complete()
            op.fail("empty answer")
            op.deny("not allowed", rule="r-1")

        assert [("tool.denied", "denied")] == ends(heard)
        assert [("not allowed", "r-1")] == [(e.reason, e.rule) for e in heard.of(ToolDenied)]

    def test_fail_with_timeout(self, bus: Bus, heard: Captured) -> None:
        """
        A timeout that was caught and said is a timeout.
        """
        with bus.operation(ToolStarted(tool_name="search")) as op:
            op.fail(TimeoutError("2 s"))

        assert [("tool.failed", "timeout")] == ends(heard)
        assert ["timeout"] == [event.outcome for event in heard.of(ToolFailed)]

    def test_cancel(self, bus: Bus, heard: Captured) -> None:
        """
        A run that gives up by itself is cancelled, with its reason.
        """
        with bus.operation(RunStarted()) as op:
            op.cancel("the user closed the window")

        assert [("run.cancelled", "cancelled")] == ends(heard)
        assert ["the user closed the window"] == [e.reason for e in heard.of(RunCancelled)]

    def test_deferred_is_not_failed(self, bus: Bus, heard: Captured) -> None:
        """
        A tool that only handed its work on is deferred.
        """
        with bus.operation(ToolStarted(tool_name="ask")) as op:
            op.complete(outcome="deferred")

        assert [("tool.completed", "deferred")] == ends(heard)

    def test_unknown_word_is_kept(self, bus: Bus, heard: Captured) -> None:
        """
        An outcome that nobody knows is recorded as unknown, with the word itself.
        """
        with bus.operation(ToolStarted(tool_name="ask")) as op:
            op.fail("?", outcome="melted")

        assert [("tool.failed", "unknown")] == ends(heard)
        assert ["melted"] == [event.outcome for event in heard.of(ToolFailed)]
        assert {"outcome": "melted"} == dict(heard.envelopes[-1].attributes)

    def test_error_whose_text_raises(self, bus: Bus, heard: Captured) -> None:
        """
        An exception that cannot be printed is still recorded.
        """

        class MuteError(Exception):
            def __str__(self) -> str:
                raise RuntimeError

        with pytest.raises(MuteError), bus.operation(ToolStarted(tool_name="a")):
            raise MuteError

        assert ["[UNPRINTABLE:RuntimeError]"] == [e.error_message for e in heard.of(ToolFailed)]

    def test_required_field_that_nobody_gave(self, bus: Bus, heard: Captured) -> None:
        """
        An exception still ends an operation whose failure needs a field; the field is None.
        """
        with pytest.raises(ValueError, match="x"), bus.operation(DeployStarted()):
            raise ValueError("x")

        assert [("optest.deploy_failed", "failure")] == ends(heard)
        assert [None] == [event.where for event in heard.of(DeployFailed)]
        assert "ValueError" == heard.envelopes[-1].error_type

    def test_unknown_field_is_refused_where_it_is_said(self, bus: Bus, heard: Captured) -> None:
        """
        A field that the end does not have is an error that names those it has.
        """
        with (
            pytest.raises(EventError, match=r"no field 'size'; it has .*result_size"),
            bus.operation(ToolStarted(tool_name="search")) as op,
        ):
            op.complete(size=1)

        assert [("tool.failed", "failure")] == ends(heard)

    def test_shared_fields_are_carried_over(self, bus: Bus, heard: Captured) -> None:
        """
        What identifies the operation stands in its end, too, and the time it took.
        """
        clock = FixedClock()
        bus = Bus(clock=clock)
        bus.attach(heard)
        with bus.operation(PlanStepStarted(plan_id="p-1", step_number=2)) as op:
            clock.advance(1.5)
            op.complete()

        end = heard.envelopes[-1]
        assert ("p-1", 2, 1500) == (
            end.data()["plan_id"],
            end.data()["step_number"],
            end.data()["duration_ms"],
        )
        assert 1.5 == end.duration

    def test_only_starts_open_operations(self, bus: Bus) -> None:
        """
        A point event is no operation, and the error says what to do.
        """
        with pytest.raises(EventError, match=r"pr.created opens no operation.*publish"):
            bus.operation(PrCreated(url="u"))


class TestOneEnd:
    def test_second_end_is_refused_and_counted(self, bus: Bus, heard: Captured) -> None:
        """
        Ending twice publishes once.
        """
        op = bus.operation(ToolStarted(tool_name="search")).start()
        op.end()
        op.end(ValueError("too late"))

        assert [("tool.completed", "success")] == ends(heard)
        assert 1 == bus.health().refused_terminals

    def test_started_twice(self, bus: Bus, heard: Captured) -> None:
        """
        One handle is one operation.
        """
        op = bus.operation(ToolStarted(tool_name="search")).start()

        with pytest.raises(EventError, match="started before"):
            op.start()
        with pytest.raises(EventError, match="not started"):
            bus.operation(ToolStarted(tool_name="search")).end()
        assert 1 == len(heard.of(ToolStarted))

    def test_envelope(self, bus: Bus, heard: Captured) -> None:
        """
        A handle has the envelope of its start, once there is one.
        """
        op = bus.operation(ToolStarted(tool_name="search"))
        before = op.envelope
        op.start()

        assert before is None
        assert heard.envelopes == [op.envelope]
        assert Bus().operation(ToolStarted(tool_name="search")).start().envelope is None

    @pytest.mark.parametrize(
        ("error", "end", "reason"),
        [
            (asyncio.CancelledError("no more"), RunCancelled, "no more"),
            (RuntimeError("no more"), RunFailed, None),
        ],
    )
    def test_reason(
        self, bus: Bus, heard: Captured, error: BaseException, end: type[Event], reason: str | None
    ) -> None:
        """
        What cancels an operation is the reason of its end, and what fails it is its error.
        """
        bus.operation(RunStarted()).start().end(error)

        (found,) = heard.of(end)
        assert reason == getattr(found, "reason", None)

    def test_repr(self, bus: Bus, heard: Captured) -> None:
        """
        A handle says what it is of, and how far that is.
        """
        op = bus.operation(ToolStarted(tool_name="search"))
        said = [repr(op), repr(op.start())]
        op.end()

        states = ("not started", "open", "ended")
        assert [f"<Operation tool.started {state}>" for state in states] == [*said, repr(op)]

    def test_within_a_handler(self, bus: Bus, heard: Captured) -> None:
        """
        What a handler publishes has its cause again when an operation of the handler is over.
        """

        def handle(envelope: Envelope[PrCreated]) -> None:
            with bus.operation(ToolStarted(tool_name="search")):
                pass
            bus.publish(Noted())

        bus.subscribe(handle, PrCreated)
        cause = bus.publish(PrCreated(url="u"))

        assert cause is not None
        assert [cause.id] == [e.causation_id for e in heard.envelopes if e.name == "optest.noted"]

    def test_callback_code(self, bus: Bus, heard: Captured) -> None:
        """
        Start and end in different callbacks touch no ambient scope, and pair all the same.
        """
        op = bus.operation(ToolStarted(tool_name="search")).start()
        outside = bus.publish(PrCreated(url="u"))
        op.complete(result_size=3)
        thread = threading.Thread(target=op.end)
        thread.start()
        thread.join()

        start, _, end = heard.envelopes
        assert start is end.started
        assert outside is not None
        assert outside.causation_id is None

    def test_forgotten_handle_is_orphaned_at_close(self, bus: Bus, heard: Captured) -> None:
        """
        What nobody ended is ended by the close, and said.
        """
        bus.operation(ToolStarted(tool_name="search", tool_call_id="c-1")).start()
        gc.collect()
        bus.close()

        assert ["tool.started", "tool.failed", "harken.scope_orphaned"] == heard.names
        assert Outcome.orphaned is heard.envelopes[1].outcome
        assert {"kind": "tool", "id": "c-1", "closed_as": "orphaned"}.items() <= heard.envelopes[
            2
        ].data().items()

    def test_decided_but_not_ended(self, bus: Bus, heard: Captured) -> None:
        """
        What was said about a forgotten operation is recorded, not overruled.
        """
        bus.operation(ToolStarted(tool_name="search")).start().complete(result_size=9)
        bus.close()

        assert [("tool.completed", "success")] == ends(heard)

    def test_block_that_outlives_the_bus(
        self, bus: Bus, heard: Captured, caplog: pytest.LogCaptureFixture
    ) -> None:
        """
        Leaving a block after the close raises nothing, publishes nothing, and is no second end
        that its author would be told of.
        """
        with bus.operation(ToolStarted(tool_name="search")):
            bus.close()

        assert [("tool.failed", "orphaned")] == [end for end in ends(heard) if "tool" in end[0]]
        assert (0, []) == (bus.health().refused_terminals, caplog.messages)

    def test_new_operation_on_a_closed_bus(self, bus: Bus, heard: Captured) -> None:
        """
        A closed bus refuses operations as it refuses events.
        """
        bus.close()

        with pytest.raises(ClosedBusError, match=r"cannot publish tool\.started"):
            bus.operation(ToolStarted(tool_name="search")).start()

    def test_children_end_before_their_parents_at_close(self, bus: Bus, heard: Captured) -> None:
        """
        The close unwinds from the inside out.
        """
        bus.operation(RunStarted()).start()
        bus.operation(ToolStarted(tool_name="search")).start()
        bus.close()

        assert ["tool.failed", "run.failed"] == [
            name for name in heard.names if name in {"tool.failed", "run.failed"}
        ]

    @given(st.lists(st.sampled_from(["complete", "fail", "deny", "end", "plain"]), max_size=6))
    def test_any_sequence_of_calls(self, calls: list[str]) -> None:
        """
        Whatever is called in whatever order, one start has one end after the close.
        """
        bus = Bus()
        heard = Captured()
        bus.attach(heard, ToolStarted, ToolCompleted, ToolFailed, ToolDenied)
        op = bus.operation(ToolStarted(tool_name="a", tool_call_id="c")).start()
        for call in calls:
            if call == "plain":
                bus.publish(ToolCompleted(tool_name="a", tool_call_id="c"))
            else:
                getattr(op, call)()
        bus.close()

        assert 2 == len(heard.envelopes)
        assert heard.envelopes[0] is heard.envelopes[1].started


class TestPairing:
    def test_by_key_not_by_position(self, bus: Bus, heard: Captured) -> None:
        """
        Parallel calls that end in any order keep their own ends.
        """
        for call in ("a", "b", "c"):
            bus.publish(ToolStarted(tool_name=call, tool_call_id=call))
        for call in ("b", "a", "c"):
            bus.publish(ToolCompleted(tool_name=call, tool_call_id=call))

        pairs = [
            (envelope.started.data()["tool_name"], envelope.data()["tool_name"])
            for envelope in heard.envelopes
            if envelope.started is not None
        ]
        assert [("b", "b"), ("a", "a"), ("c", "c")] == pairs

    def test_by_every_part_of_the_key(self, bus: Bus, heard: Captured) -> None:
        """
        A key of two parts pairs by both.
        """
        for number in (1, 2):
            bus.publish(PlanStepStarted(plan_id="p", step_number=number))
        for number in (2, 1):
            bus.publish(PlanStepCompleted(plan_id="p", step_number=number))

        assert [(2, 2), (1, 1)] == [
            (end.started.event.step_number, end.event.step_number)
            for end in heard.envelopes
            if end.started is not None
        ]

    def test_of_a_run_whose_id_was_made(self, bus: Bus, heard: Captured) -> None:
        """
        The end of a run finds its start by the id that the bus has made.
        """
        start = bus.publish(RunStarted())
        assert start is not None
        with harken.scope(run_id=start.run_id):
            bus.publish(RunCompleted())

        assert ["run.started", "run.completed"] == heard.names
        assert heard.envelopes[0] is heard.envelopes[1].started

    def test_key_is_made_when_none_is_given(self, bus: Bus, heard: Captured) -> None:
        """
        An operation without a key gets one, the same for start and end.
        """
        with bus.operation(ToolStarted(tool_name="search")) as op:
            pass

        assert op.event.tool_call_id
        assert [op.event.tool_call_id] * 2 == [e.data()["tool_call_id"] for e in heard.envelopes]

    def test_end_without_fields(self, bus: Bus, heard: Captured) -> None:
        """
        An end that repeats no key pairs through its handle.
        """
        with bus.operation(DeployStarted(deploy_id="d-1")) as op:
            op.complete()

        assert heard.envelopes[0] is heard.envelopes[1].started

    def test_keyless_end_pairs_only_when_unambiguous(self, bus: Bus, heard: Captured) -> None:
        """
        Without a key the only candidate is taken; among several nothing is guessed.
        """
        bus.publish(ToolStarted(tool_name="a"))
        bus.publish(ToolCompleted(tool_name="a"))
        bus.publish(ToolStarted(tool_name="b"))
        bus.publish(ToolStarted(tool_name="c"))
        bus.publish(ToolCompleted(tool_name="b"))

        ends_heard = [e for e in heard.envelopes if e.name == "tool.completed"]
        assert [True, False] == [e.started is not None for e in ends_heard]

    def test_same_key_in_two_runs(self, bus: Bus, heard: Captured) -> None:
        """
        Two runs on one bus may use the same call id.
        """
        with harken.scope(run_id="r-1"):
            bus.publish(ToolStarted(tool_name="a", tool_call_id="c"))
        with harken.scope(run_id="r-2"):
            bus.publish(ToolStarted(tool_name="b", tool_call_id="c"))
            bus.publish(ToolCompleted(tool_name="b", tool_call_id="c"))
        with harken.scope(run_id="r-1"):
            bus.publish(ToolCompleted(tool_name="a", tool_call_id="c"))

        paired = [(e.run_id, e.started.run_id) for e in heard.envelopes if e.started is not None]
        assert [("r-2", "r-2"), ("r-1", "r-1")] == paired

    def test_callback_thread_knows_the_key_only(self, bus: Bus, heard: Captured) -> None:
        """
        An end from a thread without scope belongs to the run of its start.
        """
        with harken.scope(run_id="r-1", actor="agent:a"):
            bus.publish(ToolStarted(tool_name="a", tool_call_id="c"))
        bus.publish(ToolCompleted(tool_name="a", tool_call_id="c"))

        assert [("r-1", "agent:a")] * 2 == [(e.run_id, e.actor) for e in heard.envelopes]

    def test_end_before_start(self, bus: Bus, heard: Captured) -> None:
        """
        An end that is there first is delivered right after its start.
        """
        early = bus.publish(ToolCompleted(tool_name="a", tool_call_id="c"))
        assert early is not None
        assert [] == heard.names
        bus.publish(ToolStarted(tool_name="a", tool_call_id="c"))

        assert ["tool.started", "tool.completed"] == heard.names
        assert heard.envelopes[0] is early.started
        assert 0 == bus.health().open_operations

    @pytest.mark.parametrize("release", [Bus.flush, Bus.close])
    def test_end_whose_start_never_comes(
        self, bus: Bus, heard: Captured, release: Callable[[Bus], object]
    ) -> None:
        """
        A flush and the close wait for no start.
        """
        bus.publish(ToolCompleted(tool_name="a", tool_call_id="c"))
        release(bus)

        assert ["tool.completed"] == heard.names
        assert heard.envelopes[0].started is None

    def test_end_whose_start_never_comes_while_the_bus_closes(
        self, bus: Bus, heard: Captured
    ) -> None:
        """
        What somebody ends because of the close is not kept for a start: none can come.
        """
        bus.subscribe(
            lambda envelope: bus.publish(ToolCompleted(tool_name="b", tool_call_id="c-2")),
            ToolFailed,
        )
        bus.publish(ToolStarted(tool_name="a", tool_call_id="c-1"))
        bus.close()

        assert ["c-2"] == [event.tool_call_id for event in heard.of(ToolCompleted)]

    def test_early_end_is_released_after_a_while(
        self, bus: Bus, heard: Captured, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """
        An end waits for its start only so long.
        """
        monkeypatch.setattr("harken.pairing.EARLY_SECONDS", 0.05)
        arrived = threading.Event()
        bus.subscribe(lambda envelope: arrived.set(), ToolCompleted)
        bus.publish(ToolCompleted(tool_name="a", tool_call_id="c"))

        assert arrived.wait(10)
        assert ["tool.completed"] == heard.names

    def test_end_published_by_a_handler_of_its_start(self, bus: Bus, heard: Captured) -> None:
        """
        In every sink the end follows its start, also when a handler of the start publishes it.
        """
        bus.subscribe(
            lambda e: bus.publish(ToolCompleted(tool_name="a", tool_call_id=e.event.tool_call_id)),
            ToolStarted,
        )
        late = Captured()
        late.delivery = "worker"
        bus.attach(late)
        bus.publish(ToolStarted(tool_name="a", tool_call_id="c"))
        bus.flush()

        assert ["tool.started", "tool.completed"] == heard.names
        assert ["tool.started", "tool.completed"] == late.names

    def test_too_many_open(
        self, bus: Bus, heard: Captured, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """
        Beyond the bound the oldest is closed as orphaned, and the table stays bounded.
        """
        monkeypatch.setattr("harken.pairing.MAX_OPEN", 3)
        for number in range(5):
            bus.publish(ToolStarted(tool_name="a", tool_call_id=f"c-{number}"))

        assert 3 == bus.health().open_operations
        assert ["c-0", "c-1"] == [event.tool_call_id for event in heard.of(ToolFailed)]

    def test_recent_ends_are_bounded(self, bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        An end that is forgotten is taken for an early one, not for a second.
        """
        monkeypatch.setattr("harken.pairing.MAX_RECENT", 1)
        bus.attach(Captured())
        for key in ("a", "b"):
            bus.publish(ToolStarted(tool_name="x", tool_call_id=key))
            bus.publish(ToolCompleted(tool_name="x", tool_call_id=key))

        assert bus.publish(ToolCompleted(tool_name="x", tool_call_id="b")) is None
        assert bus.publish(ToolCompleted(tool_name="x", tool_call_id="a")) is not None

    def test_key_is_used_again(self, bus: Bus, heard: Captured) -> None:
        """
        A key whose operation ended may name a new one.
        """
        for _ in range(2):
            bus.publish(ToolStarted(tool_name="x", tool_call_id="c"))
            bus.publish(ToolCompleted(tool_name="x", tool_call_id="c"))

        assert ["tool.started", "tool.completed"] * 2 == heard.names


class Shipped(Event, name="optest.shipped", key="parcel"):
    """
    Opens an operation whose end has no room for its key.
    """

    parcel: str = ""


class Arrived(Event, name="optest.arrived", ends=Shipped):
    """
    Ends it.
    """


class TestPairingByPublish:
    def test_key_is_made(self, bus: Bus, heard: Captured) -> None:
        """
        A start that is published without a key gets one, by which its end is found, also when
        several are open.
        """
        starts = [bus.publish(ToolStarted(tool_name="search")) for _ in range(2)]
        keys = [start.event.tool_call_id for start in starts if start is not None]
        for key in reversed(keys):
            bus.publish(ToolCompleted(tool_call_id=key))
        bus.close()

        assert all(keys)
        assert ["tool.started", "tool.started", "tool.completed", "tool.completed"] == heard.names
        assert list(reversed(keys)) == [event.tool_call_id for event in heard.of(ToolCompleted)]

    def test_end_gets_the_key_that_was_made(self, bus: Bus, heard: Captured) -> None:
        """
        Where only one is open, its end needs no key, and carries that of its start.
        """
        bus.publish(ToolStarted(tool_name="search"))
        bus.publish(ToolCompleted())

        (start,), (end,) = heard.of(ToolStarted), heard.of(ToolCompleted)
        assert start.tool_call_id == end.tool_call_id != ""
        assert heard.envelopes[0] is heard.envelopes[1].started

    def test_uuid(self, bus: Bus, heard: Captured) -> None:
        """
        A UUID pairs as its text does.
        """
        keys: list[Any] = [UUID(int=1), UUID(int=2)]
        for key in keys:
            bus.publish(ToolStarted(tool_name="search", tool_call_id=key))
        for key in (UUID(int=1), str(UUID(int=2))):
            bus.publish(ToolCompleted(tool_call_id=key))
        bus.close()

        starts = [envelope.started for envelope in heard.envelopes[2:]]
        assert heard.envelopes[:2] == starts

    def test_end_that_cannot_carry_the_key(self, bus: Bus, heard: Captured) -> None:
        """
        An end without a field for the key ends the one operation that is open.
        """
        bus.publish(Shipped(parcel="p-1"))
        bus.publish(Arrived())
        bus.close()

        assert [("optest.shipped", None), ("optest.arrived", Outcome.success)] == [
            (envelope.name, envelope.outcome) for envelope in heard.envelopes
        ]

    @pytest.mark.parametrize(
        ("began", "ended", "pairs"),
        [
            ({"run_id": "a"}, {}, True),
            ({}, {"run_id": "a"}, True),
            ({"run_id": "b", "parent_run_id": "a"}, {"run_id": "a"}, True),
            ({"run_id": "a"}, {"run_id": "b", "parent_run_id": "a"}, True),
            ({"run_id": "a"}, {"run_id": "b"}, False),
        ],
    )
    def test_runs(self, bus: Bus, heard: Captured, began: Any, ended: Any, pairs: bool) -> None:
        """
        An end is found in the run around its start, or inside of it; not in a strange one, which
        may use the same keys.
        """
        with harken.scope(**began):
            bus.publish(ToolStarted(tool_name="search", tool_call_id="call_0"))
        with harken.scope(**ended):
            bus.publish(ToolCompleted(tool_call_id="call_0"))
        bus.close()

        assert pairs is (heard.names == ["tool.started", "tool.completed"])

    def test_start_after_an_end_that_was_told_alone(self, bus: Bus, heard: Captured) -> None:
        """
        An end that a flush has told without its start is the one end of a start that comes later.
        """
        bus.publish(ToolCompleted(tool_call_id="c-1"))
        bus.flush()
        bus.publish(ToolStarted(tool_name="search", tool_call_id="c-1"))
        bus.publish(ToolStarted(tool_name="search", tool_call_id="c-1"))
        bus.close()

        assert [
            "tool.completed",
            "tool.started",
            "tool.started",
            "tool.failed",
            "harken.scope_orphaned",
        ] == heard.names

    def test_run_without_an_id(self, bus: Bus, heard: Captured) -> None:
        """
        The end of a run gives no grace to operations that are in no run.
        """
        session = bus.operation(SessionStarted()).start()
        bus.publish(RunStarted())
        bus.publish(RunCompleted())
        session.end()

        starts = [envelope for envelope in heard.envelopes if envelope.type.is_start]
        assert [None, True] == [envelope.run_id and True for envelope in starts]
        assert ["session.started", "run.started", "run.completed", "session.ended"] == heard.names

    def test_key_of_an_orphan_is_redacted(self, bus: Bus, heard: Captured) -> None:
        """
        The report of an orphan holds no secret that its start did not show.
        """
        bus.publish(ToolStarted(tool_name="a", tool_call_id="ghp_" + "a1B2" * 9))
        bus.close()

        assert "[REDACTED:github_token]" == heard.of(ScopeOrphaned)[0].id


class TestRun:
    def test_opens_its_scope(self, bus: Bus, heard: Captured) -> None:
        """
        Everything inside a run carries its id, which is made when none is given.
        """
        with bus.operation(RunStarted()), bus.operation(ToolStarted(tool_name="a")):
            pass

        (run_id,) = {envelope.run_id for envelope in heard.envelopes}
        assert run_id

    def test_takes_the_id_of_its_scope(self, bus: Bus, heard: Captured) -> None:
        """
        A run id that the scope gives is the run's.
        """
        with harken.scope(run_id="r-42"), bus.operation(RunStarted()):
            pass

        assert {("r-42", None)} == {(e.run_id, e.parent_run_id) for e in heard.envelopes}

    def test_nested_run_knows_its_parent(self, bus: Bus, heard: Captured) -> None:
        """
        A run within a run has an id of its own, and says whose it is part of.
        """
        with harken.scope(run_id="r-42"), bus.operation(RunStarted()), bus.operation(RunStarted()):
            pass

        inner = heard.envelopes[1]
        assert "r-42" == inner.parent_run_id
        assert inner.run_id not in {None, "r-42"}

    def test_session_and_request(self, bus: Bus, heard: Captured) -> None:
        """
        A session makes its id when the scope has none.
        """
        with bus.operation(SessionStarted()):
            bus.publish(PrCreated(url="u"))

        (session_id,) = {envelope.session_id for envelope in heard.envelopes}
        assert session_id

    def test_spans_nest(self, bus: Bus, heard: Captured) -> None:
        """
        One trace, and each operation is the parent of those inside it.
        """
        with bus.operation(RunStarted()), bus.operation(AgentStarted(agent_id="a")):
            bus.publish(PrCreated(url="u"))

        run, agent, point, agent_end, run_end = heard.envelopes
        assert 1 == len({envelope.trace_id for envelope in heard.envelopes})
        assert (None, run.span_id) == (run.parent_span_id, agent.parent_span_id)
        assert (agent.span_id, run.span_id) == (point.span_id, point.parent_span_id)
        assert (agent.span_id, run.span_id) == (agent_end.span_id, agent_end.parent_span_id)
        assert (run.span_id, run.id) == (run_end.span_id, run_end.started_event_id)
        assert (agent.id, run.id) == (point.causation_id, agent.causation_id)

    def test_children_left_open_are_closed_after_a_while(
        self, bus: Bus, heard: Captured, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """
        What a cancelled run left open is closed as cancelled once its grace is over.
        """
        monkeypatch.setattr("harken.pairing.EARLY_SECONDS", 0.05)
        closed = threading.Event()
        bus.subscribe(lambda envelope: closed.set(), ToolFailed)
        run = bus.operation(RunStarted()).start()
        assert run.scope is not None
        with harken.scope(run_id=run.scope.run_id):
            bus.operation(ToolStarted(tool_name="slow")).start()
        run.end(asyncio.CancelledError())

        assert closed.wait(10)
        assert [("run.cancelled", "cancelled"), ("tool.failed", "cancelled")] == ends(heard)[:2]

    def test_each_run_has_a_grace_of_its_own(
        self, bus: Bus, heard: Captured, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """
        What two runs left open is closed, one after the other, as they have ended; what is in no
        run stays open.
        """
        closed = threading.Semaphore(0)
        bus.subscribe(lambda envelope: closed.release(), ToolFailed)
        alone = bus.operation(ToolStarted(tool_name="alone")).start()
        for name, seconds in (("a", 0.05), ("b", 0.2)):
            monkeypatch.setattr("harken.pairing.EARLY_SECONDS", seconds)
            run = bus.operation(RunStarted()).start()
            assert run.scope is not None
            with harken.scope(run_id=run.scope.run_id):
                bus.operation(ToolStarted(tool_name=name)).start()
            run.end()

        assert all(closed.acquire(timeout=10) for _ in range(2))
        alone.end()
        failed = [("tool.failed", "orphaned")] * 2
        assert failed == [end for end in ends(heard) if end[0].startswith("tool.")][:-1]
        assert ("tool.completed", "success") == ends(heard)[-1]

    def test_true_end_within_the_grace(self, bus: Bus, heard: Captured) -> None:
        """
        An end that comes shortly after its run's end is the end.
        """
        run = bus.operation(RunStarted()).start()
        assert run.scope is not None
        with harken.scope(run_id=run.scope.run_id):
            tool = bus.operation(ToolStarted(tool_name="slow")).start()
        run.end()
        tool.end()

        assert [("run.completed", "success"), ("tool.completed", "success")] == ends(heard)


class TestAsync:
    async def _tool(self, bus: Bus, name: str) -> None:
        async with bus.operation(ToolStarted(tool_name=name)):
            await asyncio.sleep(60)

    def test_cancelled_in_the_middle_of_parallel_tools(self, bus: Bus, heard: Captured) -> None:
        """
        A run cancelled during three parallel tool calls leaves one end for each of the four.
        """

        async def run() -> None:
            async with bus.operation(RunStarted()), asyncio.TaskGroup() as group:
                for name in ("a", "b", "c"):
                    group.create_task(self._tool(bus, name))

        async def main() -> None:
            all_started = asyncio.Event()
            bus.subscribe(
                lambda e: all_started.set() if e.event.tool_name == "c" else None, ToolStarted
            )
            task = asyncio.create_task(run())
            await all_started.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        asyncio.run(main())

        assert {("tool.failed", "cancelled"): 3, ("run.cancelled", "cancelled"): 1} == Counter(
            ends(heard)
        )
        assert 4 == len({e.started_event_id for e in heard.envelopes if e.started is not None})
        assert 0 == bus.health().open_operations

    def test_deadline_around_the_block(self, bus: Bus, heard: Captured) -> None:
        """
        A deadline around an operation arrives in it as a cancellation.
        """

        async def main() -> None:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await self._tool(bus, "a")

        asyncio.run(main())

        assert [("tool.failed", "cancelled")] == ends(heard)

    def test_trio(self, bus: Bus, heard: Captured) -> None:
        """
        Cancelled scopes of trio end operations as cancelled, too.
        """

        async def tool() -> None:
            async with bus.operation(ToolStarted(tool_name="a")):
                await trio.sleep_forever()

        async def main() -> None:
            async with bus.operation(RunStarted()):
                with trio.move_on_after(0.01):
                    async with trio.open_nursery() as nursery:
                        for _ in range(3):
                            nursery.start_soon(tool)
            report = await bus.aflush()
            assert report

        trio.run(main)

        assert {("tool.failed", "cancelled"): 3, ("run.completed", "success"): 1} == Counter(
            ends(heard)
        )

    def test_async_generator_left_early(self, bus: Bus, heard: Captured) -> None:
        """
        A generator that is closed in another context ends its operation and raises nothing.
        """

        async def steps() -> AsyncIterator[int]:
            with bus.operation(ToolStarted(tool_name="stream")):
                yield 1
                yield 2

        async def main() -> None:
            generator = steps()
            await asyncio.create_task(anext(generator))  # type: ignore[arg-type]
            await asyncio.create_task(generator.aclose())  # type: ignore[attr-defined]

        asyncio.run(main())

        assert [("tool.failed", "cancelled")] == ends(heard)


class TestFailingAudit:
    def test_start_that_a_required_sink_refuses(self, bus: Bus, heard: Captured) -> None:
        """
        The agent does not go on without its record, and those who heard the start hear its end.
        """

        class Full:
            delivery = "inline"

            def write(self, batch: object, /) -> None:
                raise OSError("disk full")

        bus.attach(Full(), required=True)
        entered = []

        with (
            pytest.raises(DeliveryError, match=r"tool\.started did not reach 1 required"),
            bus.operation(ToolStarted(tool_name="rm")),
        ):
            entered.append(True)

        assert [] == entered
        with pytest.raises(DeliveryError, match=r"tool\.started did not reach 1 required"):
            bus.publish(ToolStarted(tool_name="rm", tool_call_id="c-1"))
        assert [("tool.failed", "failure")] == [end for end in ends(heard) if "tool" in end[0]]

    def test_end_that_a_required_sink_refuses(self, bus: Bus, heard: Captured) -> None:
        """
        The agent is told when the end of what it did could not be recorded, by block or by hand.
        """

        class NoEnds:
            delivery = "inline"

            def write(self, batch: list[Envelope[Event]], /) -> None:
                if batch[0].type.is_terminal:
                    raise OSError("disk full")

        bus.attach(NoEnds(), required=True)

        with (
            pytest.raises(DeliveryError, match=r"tool\.completed did not reach 1 required"),
            bus.operation(ToolStarted(tool_name="rm")),
        ):
            pass
        bus.publish(ToolStarted(tool_name="rm", tool_call_id="c-1"))

        with pytest.raises(DeliveryError, match=r"tool\.completed did not reach 1 required"):
            bus.publish(ToolCompleted(tool_name="rm", tool_call_id="c-1"))
        assert [("tool.completed", "success")] * 2 == [
            end for end in ends(heard) if "tool" in end[0]
        ]

    def test_nobody_listens(self) -> None:
        """
        Operations nobody listens to cost no envelope, and still give their children a run.
        """
        bus = Bus()
        with bus.operation(RunStarted()) as op:
            run_id = harken.current_context().get("run_id")

        assert op.envelope is None
        assert run_id

    def test_terminal_only_listener(self) -> None:
        """
        Who listens to ends only still gets them paired.
        """
        bus = Bus()
        heard: list[Envelope[ToolCompleted]] = []
        bus.subscribe(heard.append, ToolCompleted)
        with bus.operation(ToolStarted(tool_name="a")):
            pass

        assert heard[0].started is not None


def test_fixed_bus_writes_the_same_every_time() -> None:
    """
    With fixed clock and ids, whole envelopes can be written down.
    """

    def ids() -> list[str]:
        bus = fixed_bus()
        heard = Captured()
        bus.attach(heard)
        with bus.operation(CommandStarted(command="ls")):
            pass
        return [e.id for e in heard.envelopes] + [e.span_id for e in heard.envelopes]

    assert ids() == ids()


_: Sink = Captured()
__all__ = ["PhaseStarted", "RunCompleted", "RunFailed", "ValidationStarted"]
