"""
The application's own OpenTelemetry and operations, nested in each other in both directions.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
from collections.abc import AsyncIterator, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from opentelemetry.sdk.trace import ReadableSpan, Tracer, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.trace import get_current_span

import harken
from harken import Bus, Operation, register_trace_source
from harken.catalog import RunStarted, ToolStarted
from harken.sinks.otel import IdGenerator, SpanRecorder, current_traceparent
from harken.testing import Captured

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


@pytest.fixture(autouse=True)
def silent(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """
    Whatever a test does, OpenTelemetry and asyncio have nothing to complain about.
    """
    caplog.set_level(logging.WARNING)
    yield
    gc.collect()
    assert [] == [record.getMessage() for record in caplog.get_records("call")]


@pytest.fixture
def backend() -> InMemorySpanExporter:
    """
    Where the spans of the application and those of harken go.
    """
    return InMemorySpanExporter()


@pytest.fixture
def app(backend: InMemorySpanExporter) -> Tracer:
    """
    What other instrumentation of the application makes its spans with.
    """
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(backend))
    tracer = provider.get_tracer("app")
    assert isinstance(tracer, Tracer)
    return tracer


@pytest.fixture
def bus(backend: InMemorySpanExporter) -> Iterator[Bus]:
    """
    A bus with a recorder that nests the spans of others.
    """
    bus = Bus()
    bus.attach(SpanRecorder(backend, current_span=True), delivery="inline")
    yield bus
    bus.close()
    register_trace_source(None)


def tree(backend: InMemorySpanExporter) -> dict[str, str | None]:
    """
    Return the name of the span around each span; all of them must be in one trace.
    """
    spans = backend.get_finished_spans()
    assert 1 == len({ids(span)[0] for span in spans})
    names = {ids(span)[1]: span.name for span in spans}
    return {
        span.name: None if span.parent is None else names[span.parent.span_id] for span in spans
    }


def ids(span: ReadableSpan) -> tuple[int, int]:
    context = span.get_span_context()
    assert context is not None
    return context.trace_id, context.span_id


def tool(name: str) -> ToolStarted:
    return ToolStarted(tool_name=name)


class TestNesting:
    def test_both_directions(self, bus: Bus, app: Tracer, backend: InMemorySpanExporter) -> None:
        """
        A run inside of a request, and requests inside of the run's tools, are one tree; and after
        each block the span around it is the current one again.
        """
        seen = []
        with app.start_as_current_span("POST /chat") as request:
            with bus.operation(RunStarted()):
                with bus.operation(tool("search")), app.start_as_current_span("GET /index"):
                    pass
                with app.start_as_current_span("SELECT"):
                    pass
            seen.append(get_current_span() is request)
        seen.append(current_traceparent() is None)

        assert [True, True] == seen
        assert {
            "POST /chat": None,
            "invoke_agent": "POST /chat",
            "execute_tool search": "invoke_agent",
            "GET /index": "execute_tool search",
            "SELECT": "invoke_agent",
        } == tree(backend)

    def test_through_a_provider(self, app: Tracer, backend: InMemorySpanExporter) -> None:
        """
        The same where the application's provider makes harken's spans, too.
        """
        provider = TracerProvider(id_generator=IdGenerator(), shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(backend))
        bus = Bus()
        bus.attach(SpanRecorder(provider=provider, current_span=True), delivery="inline")
        tracer = provider.get_tracer("app")

        with bus.operation(RunStarted()), tracer.start_as_current_span("GET /index"):
            pass
        bus.close()

        assert {"invoke_agent": None, "GET /index": "invoke_agent"} == tree(backend)

    def test_an_inbound_trace_reaches_the_spans_of_others(
        self, bus: Bus, app: Tracer, backend: InMemorySpanExporter
    ) -> None:
        """
        What came in as `traceparent` and `tracestate` goes on below the operation.
        """
        inbound = f"00-{TRACE}-00f067aa0ba902b7-01"
        with (
            harken.scope(traceparent=inbound, tracestate="vendor=x"),
            bus.operation(RunStarted()),
            app.start_as_current_span("GET /index") as span,
        ):
            state = span.get_span_context().trace_state

        assert ("x", {int(TRACE, 16)}) == (
            state.get("vendor"),
            {ids(one)[0] for one in backend.get_finished_spans()},
        )

    def test_what_is_not_sampled_has_no_spans_below(
        self, bus: Bus, app: Tracer, backend: InMemorySpanExporter
    ) -> None:
        """
        The decision about a trace holds for the spans of others inside of it.
        """
        with (
            harken.scope(traceparent=f"00-{TRACE}-00f067aa0ba902b7-00"),
            bus.operation(RunStarted()),
            app.start_as_current_span("GET /index"),
        ):
            pass

        assert () == backend.get_finished_spans()

    def test_an_exception_leaves_the_block_like_any_end(self, bus: Bus) -> None:
        """
        A tool that fails does not stay the current span.
        """
        with pytest.raises(OSError, match="gone"), bus.operation(tool("a")):
            raise OSError("gone")

        assert current_traceparent() is None


class TestThreadsAndTasks:
    def test_threads(self, bus: Bus, app: Tracer, backend: InMemorySpanExporter) -> None:
        """
        Threads that are given their work by `harken.bind()` nest like the code that gave it.
        """

        def call(number: int) -> None:
            with bus.operation(tool(f"t{number}")), app.start_as_current_span(f"GET /{number}"):
                pass

        with bus.operation(RunStarted()), ThreadPoolExecutor(4) as threads:
            list(threads.map(harken.bind(call), range(8)))

        expected: dict[str, str | None] = {"invoke_agent": None}
        for number in range(8):
            expected |= {f"execute_tool t{number}": "invoke_agent"}
            expected |= {f"GET /{number}": f"execute_tool t{number}"}
        assert expected == tree(backend)

    def test_tasks(self, bus: Bus, app: Tracer, backend: InMemorySpanExporter) -> None:
        """
        Tasks that take turns in one thread do not get into each other's spans.
        """

        async def call(number: int) -> None:
            async with bus.operation(tool(f"t{number}")):
                await asyncio.sleep(0)
                with app.start_as_current_span(f"GET /{number}"):
                    await asyncio.sleep(0)

        async def run() -> None:
            async with bus.operation(RunStarted()):
                await asyncio.gather(*map(call, range(8)))

        asyncio.run(run())

        expected: dict[str, str | None] = {"invoke_agent": None}
        for number in range(8):
            expected |= {f"execute_tool t{number}": "invoke_agent"}
            expected |= {f"GET /{number}": f"execute_tool t{number}"}
        assert expected == tree(backend)

    def test_a_task_that_outlives_its_operation(
        self, bus: Bus, app: Tracer, backend: InMemorySpanExporter
    ) -> None:
        """
        It goes on below the operation that it was started in, also between operations of its own.
        """

        async def linger(ended: asyncio.Event) -> None:
            await ended.wait()
            with bus.operation(tool("late")):
                pass
            with app.start_as_current_span("GET /late"):
                pass

        async def run() -> None:
            ended = asyncio.Event()
            with bus.operation(RunStarted()):
                task = asyncio.create_task(linger(ended))
                await asyncio.sleep(0)
            ended.set()
            await task

        asyncio.run(run())

        assert {
            "invoke_agent": None,
            "execute_tool late": "invoke_agent",
            "GET /late": "invoke_agent",
        } == tree(backend)

    def test_a_block_that_is_left_in_another_thread(
        self, bus: Bus, app: Tracer, backend: InMemorySpanExporter
    ) -> None:
        """
        That thread is not disturbed, the span is exported, and nothing is reported.
        """

        def enter() -> Operation[ToolStarted]:
            return bus.operation(tool("a")).__enter__()

        def leave(operation: Operation[ToolStarted]) -> str | None:
            operation.__exit__(None, None, None)
            return current_traceparent()

        with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as other:
            operation = one.submit(enter).result()
            after = other.submit(leave, operation).result()

        assert after is None
        assert {"execute_tool a": None} == tree(backend)


class TestGenerators:
    async def _tokens(self, bus: Bus, app: Tracer) -> AsyncIterator[int]:
        async with bus.operation(tool("stream")):
            for number in range(3):
                with app.start_as_current_span(f"token {number}"):
                    await asyncio.sleep(0)
                yield number

    def test_an_async_generator_that_is_read_to_its_end(
        self, bus: Bus, app: Tracer, backend: InMemorySpanExporter
    ) -> None:
        """
        What happens inside of it is below its operation, and afterwards nothing is left behind.
        """

        async def run() -> str | None:
            async for _ in self._tokens(bus, app):
                pass
            return current_traceparent()

        assert asyncio.run(run()) is None
        around = "execute_tool stream"
        expected = {around: None} | {f"token {number}": around for number in range(3)}
        assert expected == tree(backend)

    @pytest.mark.parametrize("way", ["closed", "dropped", "in another task"])
    def test_an_async_generator_that_is_left_early(
        self, bus: Bus, app: Tracer, backend: InMemorySpanExporter, way: str
    ) -> None:
        """
        However it is closed, in this task, by the event loop or by another task, its span is
        exported and nobody reports a different context.
        """

        async def run() -> None:
            tokens = self._tokens(bus, app)
            async for _ in tokens:
                break
            if way == "closed":
                await tokens.aclose()  # type: ignore[attr-defined]
            elif way == "in another task":
                await asyncio.create_task(tokens.aclose())  # type: ignore[attr-defined]
            del tokens
            gc.collect()
            await asyncio.sleep(0.01)

        asyncio.run(run())

        assert {"execute_tool stream": None, "token 0": "execute_tool stream"} == tree(backend)

    @pytest.mark.parametrize("first", [0, 1])
    def test_generators_that_take_turns(self, bus: Bus, first: int) -> None:
        """
        In whatever order they end, the span around both is the current one in the end.
        """

        def generate(name: str) -> Generator[None]:
            with bus.operation(tool(name)):
                yield

        with bus.operation(RunStarted()):
            around = current_traceparent()
            generators = [generate("a"), generate("b")]
            for generator in generators:
                next(generator)
            generators.pop(first).close()
            generators.pop().close()
            after = current_traceparent()

        assert (after, None) == (around, current_traceparent())

    def test_what_is_left_out_of_turn_is_bounded(self, bus: Bus) -> None:
        """
        A thread that only ever leaves blocks which others have entered goes on without harm.
        """
        operations = [bus.operation(tool(f"t{number}")) for number in range(200)]

        def enter() -> None:
            for operation in operations:
                operation.__enter__()

        thread = threading.Thread(target=enter)
        thread.start()
        thread.join()
        for operation in operations:
            operation.__exit__(None, None, None)
        with bus.operation(RunStarted()):
            inside = current_traceparent()

        assert (True, None) == (inside is not None, current_traceparent())


class TestSwitch:
    def test_nothing_is_nested_unless_asked_for(self, app: Tracer) -> None:
        """
        By default nothing is attached to the ambient context.
        """
        bus = Bus()
        bus.attach(SpanRecorder(InMemorySpanExporter()), delivery="inline")

        with bus.operation(RunStarted()):
            inside = current_traceparent()
        bus.close()

        assert inside is None

    def test_callbacks_attach_nothing(self, bus: Bus) -> None:
        """
        An operation that is started and ended by hand is nobody's current span.
        """
        operation = bus.operation(tool("a")).start()
        inside = current_traceparent()
        operation.end()

        assert inside is None

    def test_an_operation_that_nobody_hears(self, bus: Bus) -> None:
        """
        Where nothing is recorded, nothing is nested.
        """
        other = Bus()

        with other.operation(RunStarted()):
            inside = current_traceparent()

        assert inside is None

    def test_it_ends_with_the_last_recorder(self) -> None:
        """
        While one of several recorders is open, spans are nested; afterwards none.
        """
        heard = Captured()
        quiet, one, other = Bus(), Bus(), Bus()
        quiet.attach(heard)
        one.attach(SpanRecorder(InMemorySpanExporter(), current_span=True))
        other.attach(SpanRecorder(InMemorySpanExporter(), current_span=True))
        seen = []
        for bus in (one, other):
            bus.close()
            with quiet.operation(RunStarted()):
                seen.append(current_traceparent() is not None)
        quiet.close()
        register_trace_source(None)

        assert [True, False] == seen

    def test_a_provider_with_ids_of_its_own(self) -> None:
        """
        Spans below an id that no span has would be lost, so this is refused.
        """

        class OddIds(RandomIdGenerator):
            """Somebody else's."""

        provider = TracerProvider(id_generator=OddIds(), shutdown_on_exit=False)

        with (
            pytest.warns(UserWarning, match="makes its own span ids"),
            pytest.raises(ValueError, match="IdGenerator"),
        ):
            SpanRecorder(provider=provider, current_span=True)
