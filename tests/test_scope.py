"""
Ambient context: nesting, carrying, and what comes in from and goes out to other processes.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import json
import logging
import re
import subprocess
import sys
import textwrap
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextvars import Context, ContextVar, copy_context
from typing import Any

import pytest
from hypothesis import given, strategies as st

import harken
from harken import Bus, Event, Scope
from harken.catalog import PrCreated, RunStarted, ToolStarted
from harken.scope import current, from_env, outermost
from harken.testing import Captured

TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
TRACE, SPAN = TRACEPARENT.split("-")[1:3]


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


def publish(bus: Bus) -> harken.Envelope[PrCreated]:
    envelope = bus.publish(PrCreated(url="u"))
    assert envelope is not None
    return envelope


class TestNesting:
    def test_inner_adds_to_outer(self, bus: Bus, heard: Captured) -> None:
        """
        What the inner scope does not name is taken from the outer one.
        """
        with harken.scope(session_id="s", run_id="r", actor="agent:a", tenant="t-1", tier=1):
            with harken.scope(phase="execution", tier=2):
                inner = publish(bus)
            outer = publish(bus)

        assert ("s", "r", "agent:a", "execution", {"tenant": "t-1", "tier": 2}) == (
            inner.session_id,
            inner.run_id,
            inner.actor,
            inner.phase,
            dict(inner.attributes),
        )
        assert (None, {"tenant": "t-1", "tier": 1}) == (outer.phase, dict(outer.attributes))

    @given(st.lists(st.sampled_from(["session_id", "run_id", "phase", "actor"]), max_size=5))
    def test_leaving_restores(self, names: list[str]) -> None:
        """
        However scopes nest, leaving one restores what was before.
        """
        before = [current()]
        scopes = [harken.scope(**{name: str(number)}) for number, name in enumerate(names)]
        for scope in scopes:
            scope.__enter__()
            before.append(current())
        for scope in reversed(scopes):
            assert before.pop() is current()
            scope.__exit__(None, None, None)

        assert before == [current()]

    def test_one_trace_per_scope(self, bus: Bus, heard: Captured) -> None:
        """
        Point events of one scope share a trace; outside of any each begins its own.
        """
        with harken.scope():
            first, second = publish(bus), publish(bus)

        assert first.trace_id == second.trace_id
        assert publish(bus).trace_id != publish(bus).trace_id

    def test_a_trace_for_each_scope(self) -> None:
        """
        Each outermost scope begins a trace of its own, with an id of 128 bits.
        """
        found = set()
        for _ in range(100):
            with harken.scope():
                found.add(current().trace_id)

        assert 100 == len(found)
        assert all(re.fullmatch("[0-9a-f]{32}", trace_id or "") for trace_id in found)

    def test_same_scope_twice(self, bus: Bus, heard: Captured) -> None:
        """
        A scope object may be entered again.
        """
        scope = harken.scope(run_id="r")
        with scope, scope:
            inner = publish(bus)

        assert ("r", None) == (inner.run_id, inner.parent_run_id)

    def test_another_run_inside(self, bus: Bus, heard: Captured) -> None:
        """
        A run named inside another one is part of it.
        """
        with harken.scope(run_id="r-1"), harken.scope(run_id="r-2"):
            inner = publish(bus)

        assert ("r-2", "r-1") == (inner.run_id, inner.parent_run_id)

    def test_async_with(self, bus: Bus, heard: Captured) -> None:
        """
        Tasks inherit the scope they are made in, and change only their own.
        """

        async def task(name: str) -> str | None:
            async with harken.scope(phase=name):
                await asyncio.sleep(0)
                return publish(bus).phase

        async def main() -> list[str | None]:
            async with harken.scope(run_id="r"):
                return await asyncio.gather(task("a"), task("b"))

        assert ["a", "b"] == asyncio.run(main())
        assert {"r"} == {envelope.run_id for envelope in heard.envelopes}

    def test_left_in_another_context(self, caplog: pytest.LogCaptureFixture) -> None:
        """
        A scope in an async generator that ends elsewhere raises nothing and warns of nothing.
        """

        async def steps() -> AsyncIterator[int]:
            with harken.scope(run_id="r"):
                yield 1

        async def main() -> None:
            generator = steps()
            task: asyncio.Task[int] = asyncio.get_running_loop().create_task(
                anext(generator),  # type: ignore[arg-type]
                context=Context(),
            )
            await task
            await generator.aclose()  # type: ignore[attr-defined]

        with caplog.at_level(logging.INFO):
            asyncio.run(main())
        assert [] == caplog.records


class TestTurns:
    def test_generators_that_take_turns(self, bus: Bus) -> None:
        """
        Scopes that are left in another order than the reverse leave nothing behind.
        """

        def agent(name: str) -> Iterator[str | None]:
            with harken.scope(run_id=name), bus.operation(ToolStarted(tool_name="a")):
                while True:
                    yield publish(bus).run_id

        first, second, third = agent("a"), agent("b"), agent("c")
        bus.subscribe(lambda envelope: None)
        for generator in (first, second, third):
            next(generator)
        seen = [next(third)]
        second.close()
        seen.append(next(third))
        first.close()
        seen.append(publish(bus).run_id)
        third.close()
        seen.append(publish(bus).run_id)

        assert ["c", "c", "c", None] == seen
        assert {} == harken.current_context()

    def test_in_the_order_they_were_entered(self, bus: Bus) -> None:
        """
        What was entered first and left first is not come back to.
        """
        bus.subscribe(lambda envelope: None)
        outer, inner = harken.scope(run_id="outer"), harken.scope(run_id="inner")
        with harken.scope(run_id="around"):
            outer.__enter__()
            inner.__enter__()
            outer.__exit__(None, None, None)
            between = publish(bus).run_id
            inner.__exit__(None, None, None)
            after = publish(bus).run_id

        assert ("inner", "around", None) == (between, after, publish(bus).run_id)


class TestTarget:
    @pytest.fixture(autouse=True)
    def take_away(self) -> Iterator[None]:
        """
        Leave no target behind.
        """
        yield
        harken.register_trace_target(None)

    def test_it_is_told_of_blocks(self, bus: Bus) -> None:
        """
        Whoever traces otherwise learns which operation's code runs, and when that is over.
        """
        told: list[str] = []

        def target(inside: Scope) -> Callable[[], None]:
            assert inside.operation is not None
            name = inside.operation.name
            told.append(name)
            return lambda: told.append(f"left {name}")

        bus.subscribe(lambda envelope: None)
        harken.register_trace_target(target)
        with bus.operation(RunStarted()), bus.operation(ToolStarted(tool_name="a")):
            pass
        bus.operation(ToolStarted(tool_name="by hand")).start().end()
        harken.register_trace_target(None)
        with bus.operation(RunStarted()):
            pass

        assert ["run.started", "tool.started", "left tool.started", "left run.started"] == told

    def test_what_nobody_listens_to_is_no_operation(self, bus: Bus) -> None:
        """
        An operation without ids has nothing to tell.
        """
        told: list[Scope] = []

        def target(inside: Scope) -> Callable[[], None]:
            told.append(inside)
            return lambda: None

        harken.register_trace_target(target)
        with bus.operation(RunStarted()):
            pass

        assert [] == told


class TestSampler:
    @pytest.fixture(autouse=True)
    def sampler(self) -> Iterator[None]:
        harken.register_sampler(lambda trace_id: trace_id[0] < "8")
        yield
        harken.register_sampler(None)

    def test_decides_where_a_trace_begins(self, bus: Bus, heard: Captured) -> None:
        """
        What the sampler says of a trace is in every event, span id and subprocess of it.
        """
        for _ in range(40):
            with harken.scope(), bus.operation(ToolStarted(tool_name="a")):
                publish(bus)
                assert (
                    f"-0{heard.envelopes[-1].trace_flags}" == harken.child_env()["TRACEPARENT"][-3:]
                )
            with bus.operation(ToolStarted(tool_name="a")):
                publish(bus)

        flags = {(envelope.trace_id[0] < "8", envelope.trace_flags) for envelope in heard.envelopes}
        assert {(True, 1), (False, 0)} == flags

    def test_not_where_it_comes_from_outside(self, bus: Bus) -> None:
        """
        A trace that comes in keeps its decision.
        """
        bus.subscribe(lambda envelope: None)
        with harken.scope(traceparent=f"00-{'f' * 32}-{'1' * 16}-01"):
            assert 1 == publish(bus).trace_flags


class TestTrace:
    def test_traceparent_comes_in(self, bus: Bus, heard: Captured) -> None:
        """
        Events inside a scope with a traceparent are part of that trace.
        """
        with harken.scope(traceparent=TRACEPARENT, tracestate="k=v"):
            point = publish(bus)
            with bus.operation(ToolStarted(tool_name="a")):
                pass

        start = heard.envelopes[1]
        assert (TRACE, SPAN, None) == (point.trace_id, point.span_id, point.parent_span_id)
        assert (TRACE, SPAN) == (start.trace_id, start.parent_span_id)
        assert start.span_id != SPAN

    def test_two_phases_under_one_traceparent(self, bus: Bus, heard: Captured) -> None:
        """
        Two phases with the same inbound trace share it, and every event says its phase.
        """
        for phase in ("analysis", "execution"):
            with (
                harken.scope(traceparent=TRACEPARENT, phase=phase),
                bus.operation(RunStarted()),
                bus.operation(ToolStarted(tool_name="a")),
            ):
                pass

        assert {TRACE} == {envelope.trace_id for envelope in heard.envelopes}
        assert ["analysis"] * 4 + ["execution"] * 4 == [e.phase for e in heard.envelopes]

    @pytest.mark.parametrize(
        "header",
        [
            "",
            "nonsense",
            TRACEPARENT.encode(),
            TRACEPARENT.upper(),
            TRACEPARENT + "-more",
            "ff" + TRACEPARENT[2:],
            f"00-{'0' * 32}-{SPAN}-01",
            f"00-{TRACE}-{'0' * 16}-01",
            "01" + TRACEPARENT[2:] + "-" + "x" * 600,
        ],
    )
    def test_malformed_traceparent_counts_as_none(
        self, bus: Bus, heard: Captured, header: Any
    ) -> None:
        """
        What is not a valid header starts a trace of our own, as the W3C asks.
        """
        with harken.scope(traceparent=header):
            envelope = publish(bus)

        assert TRACE != envelope.trace_id
        assert 32 == len(envelope.trace_id)

    @pytest.mark.parametrize("flags", ["00", "01", "11", "fe", "ff"])
    def test_flags_that_nobody_knows_yet(self, bus: Bus, heard: Captured, flags: str) -> None:
        """
        Whether a trace is sampled is one of eight flags, whatever the others are.
        """
        with harken.scope(traceparent=TRACEPARENT[:-2] + flags):
            envelope = publish(bus)

        assert int(flags, 16) == envelope.trace_flags

    def test_later_version_with_more_fields(self, bus: Bus, heard: Captured) -> None:
        """
        A later version of the header may say more than we know.
        """
        with harken.scope(traceparent="01" + TRACEPARENT[2:] + "-more"):
            envelope = publish(bus)

        assert TRACE == envelope.trace_id

    @pytest.mark.parametrize(("length", "known"), [(512, True), (513, False)])
    def test_longest_header(self, bus: Bus, heard: Captured, length: int, known: bool) -> None:
        """
        A header of up to 512 characters is read.
        """
        with harken.scope(traceparent=f"01{TRACEPARENT[2:]}-".ljust(length, "x")):
            envelope = publish(bus)

        assert known is (TRACE == envelope.trace_id)

    def test_unsampled_is_carried(self, bus: Bus, heard: Captured) -> None:
        """
        The flags of the caller hold for everything inside.
        """
        with harken.scope(traceparent=TRACEPARENT[:-2] + "00"):
            envelope = publish(bus)
            handed_down = harken.child_env({})["TRACEPARENT"]

        assert 0 == envelope.trace_flags
        assert handed_down.endswith("-00")

    def test_registered_source(self, bus: Bus, heard: Captured) -> None:
        """
        Outside of every scope the application's own trace is joined.
        """
        harken.register_trace_source(lambda: (TRACEPARENT, None))
        try:
            envelope = publish(bus)
            with harken.scope(run_id="r"):
                inside = publish(bus)
            harken.register_trace_source(lambda: None)
            without = publish(bus)
        finally:
            harken.register_trace_source(None)

        assert [TRACE, TRACE] == [envelope.trace_id, inside.trace_id]
        assert TRACE != without.trace_id


class TestOut:
    def test_child_env(self, bus: Bus, heard: Captured) -> None:
        """
        A subprocess learns trace, run, session and correlation id; nothing else is touched.
        """
        with (
            harken.scope(
                run_id="r 1", session_id="s", correlation_id="c-9", traceparent=TRACEPARENT
            ),
            bus.operation(ToolStarted(tool_name="a")),
        ):
            env = harken.child_env({"PATH": "/bin", "BAGGAGE": "k=v,harken.run_id=old"})

        assert {
            "PATH": "/bin",
            "TRACEPARENT": f"00-{TRACE}-{heard.envelopes[0].span_id}-01",
            "BAGGAGE": "k=v,harken.session_id=s,harken.run_id=r%201",
            "TOOL_TRACE_ID": "c-9",
        } == env

    def test_nothing_to_say(self) -> None:
        """
        Outside of every scope stale values are taken out.
        """
        stale = {"TRACEPARENT": "x", "TRACESTATE": "x", "TOOL_TRACE_ID": "x", "A": "b"}

        assert {"A": "b"} == harken.child_env(stale)

    def test_inject(self) -> None:
        """
        An HTTP request carries the same.
        """
        with harken.scope(
            traceparent=TRACEPARENT, tracestate="k=v", correlation_id="c-9", run_id="r"
        ):
            headers = harken.inject({"accept": "*/*"})

        assert {
            "accept": "*/*",
            "traceparent": TRACEPARENT,
            "tracestate": "k=v",
            "baggage": "harken.run_id=r",
            "x-correlation-id": "c-9",
        } == headers

    @pytest.mark.parametrize(("length", "is_handed_down"), [(128, True), (129, False)])
    def test_longest_correlation_id(self, length: int, is_handed_down: bool) -> None:
        """
        An id is handed down as long as a child takes it.
        """
        with harken.scope(correlation_id="c" * length):
            env = harken.child_env({})

        assert is_handed_down is ("TOOL_TRACE_ID" in env)
        assert is_handed_down is (from_env(env).correlation_id == "c" * length)

    def test_correlation_id_that_no_environment_can_hold(self) -> None:
        """
        An id with control characters is not handed down.
        """
        with harken.scope(correlation_id="a\nb"):
            assert "TOOL_TRACE_ID" not in harken.child_env({})

    def test_round_trip_through_a_process(
        self, run_python: Callable[..., subprocess.CompletedProcess[str]]
    ) -> None:
        """
        A child process is part of the trace, the session and the run of its parent.
        """
        with harken.scope(
            session_id="s", run_id="r", correlation_id="test-123", traceparent=TRACEPARENT
        ):
            env = harken.child_env({})
        code = textwrap.dedent("""
            import json
            from harken import Bus
            from harken.catalog import PrCreated
            bus = Bus()
            bus.subscribe(lambda envelope: None)
            e = bus.publish(PrCreated(url="u"))
            ids = [e.trace_id, e.span_id, e.correlation_id, e.session_id, e.run_id]
            print(json.dumps([*ids, e.parent_run_id]))
        """)
        done = run_python(code, env=dict(env))

        assert [TRACE, SPAN, "test-123", "s", None, "r"] == json.loads(done.stdout)


class TestIn:
    @pytest.mark.parametrize(
        ("tool_trace_id", "trace_id"),
        [
            (TRACE.upper(), TRACE),
            ("test-123", "79c5a43a8656b0ce1b30e17776dc0126"),
        ],
    )
    def test_tool_trace_id(self, tool_trace_id: str, trace_id: str) -> None:
        """
        `TOOL_TRACE_ID` is kept verbatim, and every process derives the same trace from it.
        """
        found = from_env({"TOOL_TRACE_ID": tool_trace_id})

        assert (tool_trace_id, trace_id) == (found.correlation_id, found.trace_id)

    def test_traceparent_wins_over_tool_trace_id(self) -> None:
        """
        With both, the W3C header gives the trace and `TOOL_TRACE_ID` the correlation id.
        """
        found = from_env({"TOOL_TRACE_ID": "t", "TRACEPARENT": TRACEPARENT})

        assert ("t", TRACE, SPAN) == (found.correlation_id, found.trace_id, found.span_id)

    @pytest.mark.parametrize(
        "environ",
        [{"TOOL_TRACE_ID": "x" * 129}, {"TOOL_TRACE_ID": "a\x1b[31m"}, {"TRACEPARENT": "x"}],
    )
    def test_malformed_is_ignored_with_a_warning(
        self, environ: dict[str, str], caplog: pytest.LogCaptureFixture
    ) -> None:
        """
        What cannot be right is left out, and said without repeating it.
        """
        found = from_env(environ)

        assert (None, "") == (found.correlation_id, found.trace_id)
        (variable,) = environ
        assert variable in caplog.text
        assert "\x1b" not in caplog.text

    def test_own_environment_by_default(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        Without an argument the process's own environment is read.
        """
        monkeypatch.setenv("TRACEPARENT", TRACEPARENT)

        assert TRACE == from_env().trace_id


class TestBind:
    def test_thread_and_executor(self, bus: Bus, heard: Captured) -> None:
        """
        A bound function runs in the scope it was bound in, in as many threads as like.
        """
        with harken.scope(run_id="r"):
            bound = harken.bind(lambda: publish(bus).run_id)
        unbound: list[str | None] = []
        thread = threading.Thread(target=lambda: unbound.append(publish(bus).run_id))
        thread.start()
        thread.join()
        with concurrent.futures.ThreadPoolExecutor(4) as executor:
            futures = [executor.submit(bound) for _ in range(20)]

        assert ["r"] * 20 == [future.result() for future in futures]
        assert [None] == unbound

    def test_carries_other_context_variables(self) -> None:
        """
        Not only ours.
        """
        variable: ContextVar[str] = ContextVar("variable")
        variable.set("carried")
        bound = harken.bind(variable.get)
        seen: list[str] = []
        thread = threading.Thread(target=lambda: seen.append(bound()))
        thread.start()
        thread.join()

        assert ["carried"] == seen

    def test_coroutine_function(self, bus: Bus, heard: Captured) -> None:
        """
        A coroutine function stays one, and runs in the scope it was bound in.
        """

        async def work(number: int) -> tuple[int, str | None]:
            await asyncio.sleep(0)
            return number, publish(bus).run_id

        with harken.scope(run_id="r"):
            bound = harken.bind(work)

        assert asyncio.iscoroutinefunction(bound)
        assert (3, "r") == asyncio.run(bound(3))  # type: ignore[arg-type]


class TestCurrentContext:
    def test_ids_for_a_log_line(self, bus: Bus, heard: Captured) -> None:
        """
        A log line gets the ids of the operation it is written in.
        """
        with (
            harken.scope(run_id="r", actor="agent:a", traceparent=TRACEPARENT),
            bus.operation(ToolStarted(tool_name="a")),
        ):
            ids = harken.current_context()

        assert {
            "trace_id": TRACE,
            "span_id": heard.envelopes[0].span_id,
            "correlation_id": TRACE,
            "run_id": "r",
            "actor": "agent:a",
        } == ids

    def test_outside(self) -> None:
        """
        Outside of everything there is nothing to say.
        """
        assert {} == harken.current_context()
        assert outermost() is current()


class TestRedacted:
    def test_once_for_all_operations(self, bus: Bus, heard: Captured) -> None:
        """
        What is redacted in a scope is redacted once, also for the operations in it.
        """
        with harken.scope(actor="agent:AKIAIOSFODNN7EXAMPLE", tenant="t-1"):
            around = publish(bus)
            outer, inside = (bus.operation(ToolStarted(tool_name=name)) for name in "ab")
            with outer, inside:
                inner = publish(bus)
                with harken.scope(phase="review"):
                    elsewhere = publish(bus)

        assert inner.redacted_scope is around.redacted_scope
        assert ("agent:[REDACTED:aws_access_key]", {"tenant": "t-1"}) == (
            inner.actor,
            dict(inner.attributes),
        )
        assert inner.parent_span_id is not None
        assert (None, "review") == (inner.phase, elsewhere.phase)

    def test_each_bus_its_own(self, bus: Bus, heard: Captured) -> None:
        """
        A bus that leaves secrets in does not get what another one has made of the scope.
        """
        plain = Bus(redaction=False)
        plain.attach(Captured())
        actor = "agent:AKIAIOSFODNN7EXAMPLE"
        with harken.scope(actor=actor), bus.operation(ToolStarted(tool_name="a")):
            actors = [publish(each).actor for each in (bus, plain, bus, plain)]
            made = {id(publish(each).redacted_scope) for each in (bus, plain, bus, plain)}
        plain.close()

        assert ["agent:[REDACTED:aws_access_key]", actor] * 2 == actors
        assert 2 == len(made)

    def test_keeps_no_operation_alive(self, bus: Bus, heard: Captured) -> None:
        """
        Jobs that each begin inside of the one before, in a trace of its own, are not kept.
        """

        def job() -> Context:
            with harken.scope(traceparent=TRACEPARENT), bus.operation(ToolStarted(tool_name="a")):
                publish(bus)
                return copy_context()

        def operations() -> int:
            gc.collect()
            return sum(
                isinstance(item, Scope) and bool(item.operation) for item in gc.get_objects()
            )

        before = operations()
        context = Context()
        for _ in range(50):
            context = context.run(job)
        heard.clear()

        assert operations() - before < 5


class Plain(Event, name="scopetest.plain"):
    """
    Nothing in it.
    """


def test_handler_inherits_scope_and_cause(bus: Bus, heard: Captured) -> None:
    """
    What a handler publishes is caused by what it handles, in that event's scope, on any thread.
    """
    bus.subscribe(lambda envelope: publish(bus), Plain)
    bus.subscribe(lambda envelope: publish(bus), Plain, delivery="worker")
    with harken.scope(run_id="r"):
        cause = bus.publish(Plain())
    bus.flush()

    assert cause is not None
    effects = [envelope for envelope in heard.envelopes if envelope.name == "pr.created"]
    assert [("r", cause.id)] * 2 == [(e.run_id, e.causation_id) for e in effects]


def test_explicit_causes(bus: Bus, heard: Captured) -> None:
    """
    A publisher who knows better names the causes itself.
    """
    first = publish(bus)
    envelope = bus.publish(Plain(), causes=[first, "another-id"])

    assert envelope is not None
    assert (first.id, (first.id, "another-id")) == (envelope.causation_id, envelope.causes)


assert sys.version_info >= (3, 11)
