"""
Spans: one for each operation, with the ids that audit records and log lines carry.
"""

from __future__ import annotations

import io
import json
import os
import random
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import pytest
from hypothesis import given, strategies as st
from opentelemetry import context as context_api, trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import (
    BatchSpanProcessor,
    SimpleSpanProcessor,
    SpanExporter,
    SpanExportResult,
)
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_OFF,
    Decision,
    ParentBased,
    Sampler,
    StaticSampler,
    TraceIdRatioBased,
)
from opentelemetry.trace import NoOpTracerProvider, SpanKind, StatusCode

import harken
from harken import (
    JSON,
    Bus,
    Envelope,
    Event,
    Outcome,
    content,
    describe,
    event_types,
    register_trace_source,
)
from harken.catalog import (
    AgentStarted,
    CommandStarted,
    CredentialIssued,
    LlmStarted,
    PhaseStarted,
    PipelineCompleted,
    PlanCreated,
    PlanStepStarted,
    PolicyEvaluated,
    RepoCloned,
    RunCompleted,
    RunFailed,
    RunStarted,
    SessionStarted,
    TaskDequeued,
    ToolCompleted,
    ToolDenied,
    ToolFailed,
    ToolStarted,
    TurnStarted,
    ValidationStarted,
)
from harken.errors import TraceExporterError
from harken.sinks.otel import (
    IdGenerator,
    SpanExportError,
    SpanRecorder,
    console_exporter,
    current_traceparent,
    file_exporter,
    otlp_exporter,
    ratio_from_environment,
    span_line,
    use_current_span,
)
from harken.sinks.otel.attributes import attribute_value
from harken.sinks.otel.mapping import COMMON, COMMON_PREFIXED, PHASES, POINTS, SPANS
from harken.testing import Captured, FixedClock, capture, fixed_ids

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
NOW_NS = int(NOW.timestamp()) * 1_000_000_000
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"


class DeployStarted(Event, name="otel_test.deploy.started", key="deploy_id"):
    """An operation that the table does not know."""

    deploy_id: str = ""
    region: str = ""
    replicas: int = 0
    plan: Annotated[JSON, content("arguments")] = None


class DeployCompleted(Event, name="otel_test.deploy.completed", ends=DeployStarted):
    """Its good end."""

    deploy_id: str = ""
    version: str = ""


class DeployFailed(
    Event, name="otel_test.deploy.failed", ends=DeployStarted, outcome="failure"
):
    """Its bad end."""

    deploy_id: str = ""
    error_type: str = ""
    error_message: JSON = ""


class Noted(Event, name="otel_test.noted"):
    """A point event."""

    note: str = ""


class Recording:
    """
    A recorder and the spans that came out of it.
    """

    def __init__(self, recorder: SpanRecorder, exporter: InMemorySpanExporter) -> None:
        self.recorder = recorder
        self._exporter = exporter

    @property
    def spans(self) -> list[ReadableSpan]:
        """
        The spans so far, in the order of their ends.
        """
        return list(self._exporter.get_finished_spans())

    @property
    def span(self) -> ReadableSpan:
        """
        The only span.
        """
        (span,) = self.spans
        return span

    def by_name_of(self, name: str) -> ReadableSpan:
        """
        The only span called *name*.
        """
        (span,) = (span for span in self.spans if span.name == name)
        return span

    @property
    def by_name(self) -> dict[str, ReadableSpan]:
        """
        The spans by their names, which must differ.
        """
        assert len(self.spans) == len({span.name for span in self.spans})
        return {span.name: span for span in self.spans}


Record = Callable[..., Recording]


def by_exporter(**options: Any) -> Recording:
    """
    Record with an exporter of our own.
    """
    exporter = InMemorySpanExporter()
    return Recording(SpanRecorder(exporter, **options), exporter)


def by_provider(**options: Any) -> Recording:
    """
    Record through somebody else's tracer provider.
    """
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return Recording(SpanRecorder(provider=provider, **options), exporter)


@pytest.fixture(params=[by_exporter, by_provider])
def record(request: pytest.FixtureRequest) -> Record:
    """
    A function that makes a recorder, of either kind, with the options it is given.
    """
    found: Record = request.param
    return found


@pytest.fixture
def clock() -> FixedClock:
    """
    The clock of `bus`.
    """
    return FixedClock(NOW)


@pytest.fixture
def bus(clock: FixedClock) -> Iterator[Bus]:
    """
    A bus whose times and ids can be written down.
    """
    bus = Bus(clock=clock, ids=fixed_ids(), capture_content=("arguments", "result", "text"))
    yield bus
    bus.close()
    register_trace_source(None)


def attach(bus: Bus, recording: Recording) -> Recording:
    """
    Attach a recorder so that it has written when `publish()` returns.
    """
    bus.attach(recording.recorder, delivery="inline")
    return recording


def envelopes(bus: Bus, *events: Event) -> list[Envelope[Event]]:
    """
    Publish *events* on *bus*, and return their envelopes.
    """
    with capture(bus) as heard:
        for event in events:
            bus.publish(event)
    return heard.envelopes


def ids(span: ReadableSpan) -> tuple[str, str, str | None]:
    """
    Return trace, span and parent id as an envelope has them.
    """
    context, parent = span.get_span_context(), span.parent
    assert context is not None
    return (
        f"{context.trace_id:032x}",
        f"{context.span_id:016x}",
        None if parent is None else f"{parent.span_id:016x}",
    )


def ids_of(envelope: Envelope[Event]) -> tuple[str, str, str | None]:
    """
    Return trace, span and parent id of an envelope.
    """
    return envelope.trace_id, envelope.span_id, envelope.parent_span_id


def seen(span: ReadableSpan) -> dict[str, Any]:
    """
    Return everything that a backend sees of *span*, except for where it comes from.
    """
    context, parent = span.get_span_context(), span.parent
    assert context is not None
    return {
        "name": span.name,
        "kind": span.kind,
        "ids": ids(span),
        "flags": int(context.trace_flags),
        "parent_flags": None if parent is None else (int(parent.trace_flags), parent.is_remote),
        "times": (span.start_time, span.end_time),
        "status": (span.status.status_code, span.status.description),
        "attributes": dict(span.attributes or {}),
        "events": [(e.name, e.timestamp, dict(e.attributes or {})) for e in span.events],
        "links": list(span.links),
    }


def attributes(span: ReadableSpan, *keys: str) -> dict[str, Any]:
    """
    Return those of *keys* that *span* has.
    """
    found = span.attributes or {}
    return {key: found[key] for key in keys if key in found}


class TestIdsAndTimes:
    def test_parallel_tool_calls_are_siblings_under_their_run(self, record: Record) -> None:
        """
        Whatever the order of their ends, twenty calls have one parent and their own ids, and a
        span that happens to be current in the application has no part in it.
        """
        bus, recording = Bus(), record()
        heard = Captured()
        bus.attach(heard)
        calls = [ToolStarted(tool_call_id=f"c{n}", tool_name=f"t{n}") for n in range(20)]
        ends: list[Event] = [
            ToolFailed(tool_call_id="c3", error_type="ValueError"),
            *(ToolCompleted(tool_call_id=f"c{n}") for n in range(20) if n != 3),
        ]
        random.Random(3).shuffle(ends)

        with harken.scope(), bus.operation(RunStarted()) as run:
            for event in (*calls, *ends):
                bus.publish(event)
        with TracerProvider().get_tracer("app").start_as_current_span("ambient"):
            recording.recorder.write(heard.envelopes)

        starts = {e.event.tool_name: e for e in heard.envelopes if isinstance(e.event, ToolStarted)}
        root = run.envelope
        assert root is not None
        tools = {name: ids_of(envelope) for name, envelope in starts.items()}
        assert {
            "invoke_agent": (root.trace_id, root.span_id, None),
            **{f"execute_tool {name}": found for name, found in tools.items()},
        } == {span.name: ids(span) for span in recording.spans}
        assert {(root.trace_id, root.span_id)} == {
            (trace_id, parent) for trace_id, _, parent in tools.values()
        }
        assert {
            f"execute_tool t{n}": StatusCode.ERROR if n == 3 else StatusCode.UNSET
            for n in range(20)
        } == {span.name: span.status.status_code for span in recording.spans if span.parent}
        bus.close()

    def test_the_scope_hands_down_its_trace(self, bus: Bus, record: Record) -> None:
        """
        An operation in a scope with a `traceparent` is a child of the caller's span.
        """
        recording = attach(bus, record())

        with harken.scope(traceparent=f"00-{TRACE}-{PARENT}-01"), bus.operation(RunStarted()):
            pass

        trace_id, _, parent = ids(recording.span)
        assert (TRACE, PARENT) == (trace_id, parent)

    def test_times_are_the_envelopes(
        self, bus: Bus, clock: FixedClock, record: Record
    ) -> None:
        """
        A span begins when its start was published and is as long as the envelope's duration.
        """
        recording = attach(bus, record())

        with bus.operation(ToolStarted(tool_name="search")):
            clock.advance(1.5)

        span = recording.span
        assert (NOW_NS, NOW_NS + 1_500_000_000) == (span.start_time, span.end_time)
        assert {} == attributes(span, "harken.clock_skew_ns", "harken.start_missing")

    def test_times_given_by_the_publisher_are_kept(self, bus: Bus, record: Record) -> None:
        """
        A replayed operation has the times that it had.
        """
        recording = attach(bus, record())
        bus.publish(ToolStarted(tool_call_id="c", tool_name="search"), time=NOW)

        bus.publish(ToolCompleted(tool_call_id="c"), time=NOW + timedelta(milliseconds=250))

        span = recording.span
        assert (NOW_NS, NOW_NS + 250_000_000) == (span.start_time, span.end_time)

    def test_a_clock_that_is_set_back_makes_no_negative_span(
        self, bus: Bus, clock: FixedClock, record: Record
    ) -> None:
        """
        The length is the monotonic clock's; how far the wall clock was off is noted.
        """
        recording = attach(bus, record())

        with bus.operation(ToolStarted(tool_name="search")):
            clock.advance(2)
            clock.advance(-5)

        span = recording.span
        assert (NOW_NS, NOW_NS + 2_000_000_000) == (span.start_time, span.end_time)
        assert {"harken.clock_skew_ns": -5_000_000_000} == attributes(span, "harken.clock_skew_ns")

    def test_an_end_before_its_start_by_the_clock_is_clamped(
        self, bus: Bus, record: Record
    ) -> None:
        """
        Times that contradict each other make a span without length.
        """
        recording = attach(bus, record())
        bus.publish(ToolStarted(tool_call_id="c", tool_name="search"), time=NOW)

        bus.publish(ToolCompleted(tool_call_id="c"), time=NOW - timedelta(milliseconds=3))

        span = recording.span
        assert (NOW_NS, NOW_NS) == (span.start_time, span.end_time)
        assert {"harken.clock_skew_ns": -3_000_000} == attributes(span, "harken.clock_skew_ns")

    @pytest.mark.parametrize(
        ("duration_ms", "length"), [(1200, 1_200_000_000), (None, 0)]
    )
    def test_an_end_without_its_start_is_a_span_all_the_same(
        self,
        bus: Bus,
        clock: FixedClock,
        record: Record,
        duration_ms: int | None,
        length: int,
    ) -> None:
        """
        Its length is what the event says, and that the start is missing is noted.
        """
        recording = attach(bus, record())
        end = ToolCompleted(tool_call_id="c", tool_name="search", duration_ms=duration_ms)

        bus.publish(end)
        bus.close()

        span = recording.span
        assert ("execute_tool search", NOW_NS - length, NOW_NS) == (
            span.name,
            span.start_time,
            span.end_time,
        )
        assert {"harken.start_missing": True} == attributes(span, "harken.start_missing")

    def test_an_operation_that_was_left_open_is_closed_by_the_bus(
        self, bus: Bus, record: Record
    ) -> None:
        """
        Closing the bus ends what is open, and its span says that nobody else did.
        """
        recording = attach(bus, record())
        bus.publish(ToolStarted(tool_call_id="c", tool_name="search"))

        bus.close()

        span = recording.span
        assert StatusCode.ERROR == span.status.status_code
        assert {"harken.outcome": "orphaned", "error.type": "orphaned"} == attributes(
            span, "harken.outcome", "error.type"
        )

    def test_both_ways_out_make_the_same_spans(self, bus: Bus) -> None:
        """
        Spans that are built and spans that are started and ended differ in nothing.
        """
        direct = by_exporter(content=True, point_events="span_events")
        through = by_provider(content=True, point_events="span_events")
        attach(bus, direct)
        bus.attach(through.recorder, delivery="inline", name="through")

        play_everything(bus)

        assert 20 < len(direct.spans)
        assert list(map(seen, direct.spans)) == list(map(seen, through.spans))


def play_everything(bus: Bus) -> None:
    """
    Publish a small agent run in which every operation of the catalog occurs.
    """
    with (
        harken.scope(
            session_id="s-1",
            run_id="r-1",
            actor="agent:fixer",
            correlation_id="c-9",
            request_id="q-1",
            organization_id="acme",
            team="blue",
        ),
        bus.operation(SessionStarted(trigger_source="webhook")) as session,
    ):
        bus.publish(TaskDequeued(task_id="t", queue="q", depth=3, wait_ms=40))
        with bus.operation(
            RunStarted(
                model="m-1",
                provider="acme-ai",
                task_type="fix",
                task_priority="high",
                trigger_source="webhook",
                max_iterations=9,
                prompt="please",
                tools=("search", "edit"),
            )
        ) as run:
            for phase in ("session_restore", "repo_clone", "pipeline_wait", "lunch"):
                with bus.operation(PhaseStarted(phase=phase)):
                    pass
            bus.publish(
                CredentialIssued(
                    credential_id="k", scope="repo:read", expires_at=NOW + timedelta(hours=1)
                )
            )
            with bus.operation(TurnStarted(iteration=1)) as turn:
                with bus.operation(
                    LlmStarted(model="m-1", provider="acme-ai", temperature=0.5, max_tokens=100)
                ) as llm:
                    llm.complete(
                        response_model="m-1-2026",
                        response_id="resp",
                        input_tokens=812,
                        output_tokens=164,
                        reasoning_tokens=12,
                        cache_read_tokens=3,
                        cache_write_tokens=4,
                        cost_usd=0.02,
                        finish_reasons=("stop",),
                        ttft_ms=350,
                    )
                with bus.operation(LlmStarted(model="m-e", operation="embeddings")) as llm:
                    llm.fail(ConnectionError("reset"), status_code=503)
                turn.complete(input_tokens=812, output_tokens=164)
            for outcome in Outcome:
                with bus.operation(ToolStarted(tool_name="search", arguments={"q": "x"})) as op:
                    if outcome is Outcome.denied:
                        op.deny("no")
                    elif outcome is not Outcome.success:
                        op.fail("bad", outcome=outcome)
                    else:
                        op.complete(result={"hits": 2}, result_size=9)
            with bus.operation(AgentStarted(agent_id="a-2", agent_name="reviewer")):
                pass
            with bus.operation(PlanCreated(plan_id="p", steps=2)) as plan:
                with bus.operation(PlanStepStarted(plan_id="p", step_number=1)):
                    pass
                plan.complete(project="web", files_changed=3)
            with bus.operation(ValidationStarted(validator="tests", target="p")) as validation:
                validation.fail(failures=2)
            with bus.operation(CommandStarted(command="git push", params={"force": False})) as cmd:
                cmd.complete(exit_code=0, ok=True)
            with bus.operation(DeployStarted(region="eu", plan={"steps": [1, 2]})) as deploy:
                deploy.fail(RuntimeError("full"))
            bus.publish(Noted(note="done"))
            run.complete(
                input_tokens=812,
                output_tokens=164,
                iterations=1,
                tool_calls=8,
                cost_usd=0.02,
                result="fixed",
            )
        session.complete()


class TestOutcomes:
    @pytest.mark.parametrize(
        ("outcome", "status", "error_type"),
        [
            ("success", StatusCode.UNSET, None),
            ("denied", StatusCode.UNSET, None),
            ("cancelled", StatusCode.UNSET, None),
            ("deferred", StatusCode.UNSET, None),
            ("unknown", StatusCode.UNSET, None),
            ("failure", StatusCode.ERROR, "ValueError"),
            ("timeout", StatusCode.ERROR, "timeout"),
            ("orphaned", StatusCode.ERROR, "ValueError"),
        ],
    )
    def test_only_what_broke_is_an_error(
        self,
        bus: Bus,
        record: Record,
        outcome: str,
        status: StatusCode,
        error_type: str | None,
    ) -> None:
        """
        A tool that was denied, cancelled or put off did not fail; the outcome is always told.
        """
        recording = attach(bus, record())
        bus.publish(ToolStarted(tool_call_id="c", tool_name="search"))

        bus.publish(ToolFailed(tool_call_id="c", outcome=outcome, error_type="ValueError"))

        span = recording.span
        assert (status, outcome, error_type) == (
            span.status.status_code,
            (span.attributes or {})["harken.outcome"],
            (span.attributes or {}).get("error.type"),
        )

    def test_a_denied_tool_says_by_what(self, bus: Bus, record: Record) -> None:
        """
        Rule, reason and who decided are on the span.
        """
        recording = attach(bus, record())
        bus.publish(ToolStarted(tool_call_id="c", tool_name="rm"))

        bus.publish(
            ToolDenied(tool_call_id="c", rule="no-rm", reason="too much", decided_by="policy")
        )

        assert {
            "harken.denied.rule": "no-rm",
            "harken.denied.reason": "too much",
            "harken.denied.by": "policy",
        } == attributes(
            recording.span, "harken.denied.rule", "harken.denied.reason", "harken.denied.by"
        )

    def test_a_failure_is_an_exception_event_and_a_description(
        self, bus: Bus, record: Record
    ) -> None:
        """
        What went wrong is told where backends look for it, redacted.
        """
        recording = attach(bus, record())

        with bus.operation(ToolStarted(tool_name="search")) as tool:
            tool.fail(ValueError("no such index"))

        span = recording.span
        (event,) = span.events
        assert ("no such index", "exception", NOW_NS) == (
            span.status.description,
            event.name,
            event.timestamp,
        )
        assert {
            "exception.type": "ValueError",
            "exception.message": "no such index",
        } == dict(event.attributes or {})

    def test_an_error_without_a_word_has_no_exception_event(
        self, bus: Bus, record: Record
    ) -> None:
        """
        Where nobody said what went wrong, nothing is made up.
        """
        recording = attach(bus, record())
        bus.publish(ToolStarted(tool_call_id="c", tool_name="search"))

        bus.publish(ToolFailed(tool_call_id="c"))

        span = recording.span
        assert ((), None, {"error.type": "_OTHER"}) == (
            span.events,
            span.status.description,
            attributes(span, "error.type"),
        )

    @pytest.mark.parametrize(
        ("given_type", "error_type"),
        [
            ("ValueError", "ValueError"),
            ("google.api_core.exceptions.NotFound", "google.api_core.exceptions.NotFound"),
            ("-32602", "_OTHER"),
            ("503", "503"),
            ("could not open /tmp/x-4711", "_OTHER"),
            ("E" * 129, "_OTHER"),
        ],
    )
    def test_error_types_are_few(
        self, bus: Bus, record: Record, given_type: str, error_type: str
    ) -> None:
        """
        A class or a code is an `error.type`; a text that may never come again is `_OTHER`.
        """
        recording = attach(bus, record())
        bus.publish(ToolStarted(tool_call_id="c", tool_name="search"))

        bus.publish(ToolFailed(tool_call_id="c", error_type=given_type))

        assert {"error.type": error_type} == attributes(recording.span, "error.type")

    def test_a_failed_child_leaves_its_parent_alone(self, bus: Bus, record: Record) -> None:
        """
        A handled error is no error of the run.
        """
        recording = attach(bus, record())

        with bus.operation(RunStarted()), bus.operation(ToolStarted(tool_name="t")) as tool:
            tool.fail("bad")

        assert {"execute_tool t": StatusCode.ERROR, "invoke_agent": StatusCode.UNSET} == {
            name: span.status.status_code for name, span in recording.by_name.items()
        }


class TestTable:
    def test_every_operation_of_the_catalog_has_an_entry(self) -> None:
        """
        The table knows the catalog's operations, and no others.
        """
        catalog = {
            name
            for name, cls in event_types().items()
            if cls.__module__.startswith("harken.catalog.") and describe(cls).is_start
        }

        assert catalog == set(SPANS)

    @pytest.mark.parametrize("name", SPANS)
    def test_every_source_of_an_entry_is_a_field(self, name: str) -> None:
        """
        What the table reads is a field of the start or of one of its ends, and what it reads
        only with content is content there.
        """
        start = describe(harken.find(name))
        types = [start, *(describe(cls) for cls in start.terminals)]
        fields = {field for info in types for field in info.fields}
        captured = {field for info in types for field in info.content}
        entry = SPANS[name]

        plain = {source for _, source in (*entry.attributes, *entry.prefixed)}
        read = {source.partition(":")[0] for source in plain if source[0] not in "@#"}

        assert set() == read - fields
        assert set() == read & captured
        assert captured == {source for _, source in entry.content}

    @pytest.mark.parametrize("name", POINTS)
    def test_every_source_of_a_point_is_a_field(self, name: str) -> None:
        """
        What the table reads of a point event is a field of it.
        """
        read = {source for _, source in POINTS[name] if source[0] != "@"}

        assert set() == read - set(describe(harken.find(name)).fields)

    def test_no_attribute_has_two_sources(self) -> None:
        """
        No entry names an attribute twice, or one that all spans have.
        """
        common = [key for key, _ in COMMON]

        for entry in SPANS.values():
            keys = [key for key, _ in (*entry.attributes, *entry.content)] + common
            assert len(keys) == len(set(keys))

    def test_names_and_kinds(self, bus: Bus, record: Record) -> None:
        """
        Operations are named as the GenAI conventions ask, and calls of a model are clients.
        """
        recording = attach(bus, record())

        play_everything(bus)

        assert {
            ("invoke_workflow session", SpanKind.INTERNAL, "invoke_workflow"),
            ("invoke_agent fixer", SpanKind.INTERNAL, "invoke_agent"),
            ("invoke_agent reviewer", SpanKind.INTERNAL, "invoke_agent"),
            ("harken.phase session_restore", SpanKind.INTERNAL, None),
            ("harken.phase repo_clone", SpanKind.INTERNAL, None),
            ("harken.phase pipeline_wait", SpanKind.INTERNAL, None),
            ("harken.phase lunch", SpanKind.INTERNAL, None),
            ("harken.turn", SpanKind.INTERNAL, None),
            ("chat m-1", SpanKind.CLIENT, "chat"),
            ("embeddings m-e", SpanKind.CLIENT, "embeddings"),
            ("execute_tool search", SpanKind.INTERNAL, "execute_tool"),
            ("plan fixer", SpanKind.INTERNAL, "plan"),
            ("harken.plan_step", SpanKind.INTERNAL, None),
            ("harken.validation tests", SpanKind.INTERNAL, None),
            ("harken.command git push", SpanKind.INTERNAL, None),
            ("otel_test.deploy", SpanKind.INTERNAL, None),
        } == {
            (span.name, span.kind, (span.attributes or {}).get("gen_ai.operation.name"))
            for span in recording.spans
        }

    def test_a_name_lacks_what_is_not_known(self, bus: Bus, record: Record) -> None:
        """
        Without an agent the name of a run is the operation alone.
        """
        recording = attach(bus, record())

        with bus.operation(RunStarted()):
            pass

        assert "invoke_agent" == recording.span.name

    def test_an_mcp_tool_is_a_client(self, bus: Bus, record: Record) -> None:
        """
        A tool that an MCP server offers is called over a connection.
        """
        recording = attach(bus, record())

        with bus.operation(ToolStarted(tool_name="t", tool_type="mcp", server="files")):
            pass

        span = recording.span
        assert (SpanKind.CLIENT, {"harken.tool.server": "files"}) == (
            span.kind,
            attributes(span, "harken.tool.server"),
        )

    def test_a_call_of_a_model(self, bus: Bus, record: Record) -> None:
        """
        A call of a model has the attributes of the GenAI conventions.
        """
        recording = attach(bus, record(attributes_prefix=None))

        play_everything(bus)

        found = dict(recording.by_name_of("chat m-1").attributes or {})
        assert {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "acme-ai",
            "gen_ai.request.model": "m-1",
            "gen_ai.request.temperature": 0.5,
            "gen_ai.request.max_tokens": 100,
            "gen_ai.response.model": "m-1-2026",
            "gen_ai.response.id": "resp",
            "gen_ai.response.finish_reasons": ("stop",),
            "gen_ai.response.time_to_first_chunk": 0.35,
            "gen_ai.usage.input_tokens": 812,
            "gen_ai.usage.output_tokens": 164,
            "gen_ai.usage.reasoning.output_tokens": 12,
            "gen_ai.usage.cache_read.input_tokens": 3,
            "gen_ai.usage.cache_write.input_tokens": 4,
            "gen_ai.agent.name": "fixer",
            "gen_ai.conversation.id": "s-1",
        } == {key: value for key, value in found.items() if key.startswith("gen_ai.")}

    def test_every_span_has_the_ids_of_its_events(self, bus: Bus, record: Record) -> None:
        """
        From a span one finds the audit records and the log lines, and the other way round.
        """
        recording = attach(bus, record(attributes_prefix=None))

        with (
            capture(bus) as heard,
            harken.scope(
                session_id="s-1",
                run_id="r-1",
                actor="user:ann",
                on_behalf_of="user:bob",
                correlation_id="c-9",
                request_id="q-1",
                phase="analysis",
                source="test",
                tenant="blue",
            ),
            bus.operation(DeployStarted(deploy_id="d")),
        ):
            pass

        start, end = heard.envelopes
        assert {
            "harken.operation": "otel_test.deploy.started",
            "harken.outcome": "success",
            "harken.event.id": end.id,
            "harken.started_event.id": start.id,
            "harken.session.id": "s-1",
            "harken.run.id": "r-1",
            "harken.actor": "user:ann",
            "harken.on_behalf_of": "user:bob",
            "harken.correlation.id": "c-9",
            "harken.request.id": "q-1",
            "harken.phase": "analysis",
            "harken.source": "test",
            "harken.attributes.tenant": "blue",
            "gen_ai.conversation.id": "s-1",
            "harken.data.deploy_id": "d",
            "harken.data.replicas": 0,
        } == dict(recording.span.attributes or {})

    def test_scopes_do_not_leak_into_each_other(self, bus: Bus, record: Record) -> None:
        """
        Operations of one type in different scopes have each their own surroundings.
        """
        recording = attach(bus, record())

        for number in range(600):
            with harken.scope(run_id=f"r-{number}", tenant=number), bus.operation(DeployStarted()):
                pass

        assert [(f"r-{number}", number) for number in range(600)] == [
            ((span.attributes or {})["harken.run.id"], (span.attributes or {})["harken.attributes.tenant"])
            for span in recording.spans
        ]

    def test_an_unknown_operation_has_its_own_fields(self, bus: Bus, record: Record) -> None:
        """
        An application's own operation needs no entry: what the end says stands above the start.
        """
        recording = attach(bus, record())

        with bus.operation(DeployStarted(deploy_id="d", region="eu", replicas=3)) as deploy:
            deploy.complete(version="1.2")

        span = recording.span
        assert "otel_test.deploy" == span.name
        assert {
            "harken.data.deploy_id": "d",
            "harken.data.region": "eu",
            "harken.data.replicas": 3,
            "harken.data.version": "1.2",
        } == {k: v for k, v in (span.attributes or {}).items() if k.startswith("harken.data.")}

    def test_secrets_are_taken_out(self, bus: Bus, record: Record) -> None:
        """
        A span is made of what was redacted, never of the event itself.
        """
        recording = attach(bus, record(content=True))

        with bus.operation(
            ToolStarted(tool_name="curl", arguments={"password": "hunter2-hunter2"})
        ) as tool:
            tool.fail(ValueError("password=hunter2-hunter2-hunter2"))

        assert "hunter2" not in span_line(recording.span)


class TestPrefix:
    def test_the_attributes_of_infrastructure_agents(self, bus: Bus, record: Record) -> None:
        """
        The attribute schema of infrastructure agents is there by name, on the span it is about.
        """
        recording = attach(bus, record())

        with harken.scope(
            session_id="s-1",
            run_id="r-1",
            correlation_id="c-9",
            request_id="q-1",
            actor="agent:fixer",
            organization_id="acme",
        ), bus.operation(
            RunStarted(
                task_type="fix", task_priority="high", trigger_source="webhook", max_iterations=9
            )
        ) as run:
            bus.publish(TaskDequeued(task_id="t", depth=3, wait_ms=40))
            bus.publish(
                CredentialIssued(credential_id="k", scope="repo:read", expires_at=NOW)
            )
            with bus.operation(PhaseStarted(phase="session_restore")):
                pass
            bus.publish(RepoCloned(repo="web", duration_ms=120))
            bus.publish(PipelineCompleted(pipeline_id="p", wait_ms=7))
            run.complete(iterations=2, input_tokens=812, output_tokens=164, tool_calls=5)

        found = dict(recording.by_name["invoke_agent fixer"].attributes or {})
        assert {
            "request.id": "q-1",
            "correlation.id": "c-9",
            "session.id": "s-1",
            "run.id": "r-1",
            "slug": "fixer",
            "organization.id": "acme",
            "task.type": "fix",
            "task.priority": "high",
            "trigger.source": "webhook",
            "iteration.count": 2,
            "iteration.max": 9,
            "tokens.input": 812,
            "tokens.output": 164,
            "tool_calls.count": 5,
            "perf.session_restore_ms": 0,
            "perf.repo_clone_ms": 120,
            "perf.pipeline_wait_ms": 7,
            "perf.total_duration_ms": 0,
            "queue.depth": 3,
            "queue.wait_ms": 40,
            "credential.issued": True,
            "credential.scope": "repo:read",
            "credential.expires_at": "2026-01-02T03:04:05Z",
        } == {
            key.removeprefix("infra_agent."): value
            for key, value in found.items()
            if key.startswith("infra_agent.")
        }

    @pytest.mark.parametrize("phase", PHASES)
    def test_a_phase_tells_the_span_around_it(
        self, bus: Bus, clock: FixedClock, record: Record, phase: str
    ) -> None:
        """
        How long a known phase took is on its own span and on the one around it.
        """
        recording = attach(bus, record())

        with bus.operation(RunStarted()), bus.operation(PhaseStarted(phase=phase)):
            clock.advance(0.25)

        key = f"infra_agent.{PHASES[phase]}"
        assert {f"harken.phase {phase}": {key: 250}, "invoke_agent": {key: 250}} == {
            name: attributes(span, key) for name, span in recording.by_name.items()
        }

    def test_a_phase_outside_of_everything_tells_nobody(self, bus: Bus, record: Record) -> None:
        """
        A phase whose parent is not open here keeps what it knows.
        """
        recording = attach(bus, record())

        with (
            harken.scope(traceparent=f"00-{TRACE}-{PARENT}-01"),
            bus.operation(PhaseStarted(phase="repo_clone")),
        ):
            pass

        assert ["harken.phase repo_clone"] == [span.name for span in recording.spans]

    def test_the_prefix_is_the_applications(self, bus: Bus, record: Record) -> None:
        """
        Another prefix takes the place of the first, everywhere.
        """
        recording = attach(bus, record(attributes_prefix="acme.bot"))

        play_everything(bus)

        keys = {key for span in recording.spans for key in (span.attributes or {})}
        assert {f"acme.bot.{key}" for key, _ in COMMON_PREFIXED} <= keys
        assert not any(key.startswith("infra_agent") for key in keys)

    def test_without_a_prefix_there_are_none(self, bus: Bus, record: Record) -> None:
        """
        None means no attributes of the application's own.
        """
        recording = attach(bus, record(attributes_prefix=None))

        play_everything(bus)

        keys = {key for span in recording.spans for key in (span.attributes or {})}
        assert {"gen_ai", "error", "harken", "http", "process"} == {
            key.partition(".")[0] for key in keys
        }


class TestContent:
    @pytest.mark.parametrize(
        ("content", "expected"),
        [
            (False, {}),
            (
                True,
                {
                    "gen_ai.tool.call.arguments": '{"q":"disk full"}',
                    "gen_ai.tool.call.result": '{"hits":2}',
                },
            ),
        ],
    )
    def test_content_is_exported_only_when_asked_for(
        self, bus: Bus, record: Record, content: bool, expected: dict[str, str]
    ) -> None:
        """
        Arguments and results stay at home by default; their digests and sizes do not.
        """
        recording = attach(bus, record(content=content))

        with bus.operation(ToolStarted(tool_name="s", arguments={"q": "disk full"})) as tool:
            tool.complete(result={"hits": 2})

        span = recording.span
        assert expected == attributes(
            span, "gen_ai.tool.call.arguments", "gen_ai.tool.call.result"
        )
        assert {"harken.tool.arguments_size": 17, "harken.tool.result_size": 10} == attributes(
            span, "harken.tool.arguments_size", "harken.tool.result_size"
        )
        assert ("disk full" in span_line(span)) is content

    @pytest.mark.parametrize(
        ("content", "expected"), [(False, {}), (True, {"harken.data.plan": '["a","b",1]'})]
    )
    def test_content_of_an_unknown_operation(
        self, bus: Bus, record: Record, content: bool, expected: dict[str, str]
    ) -> None:
        """
        What an application marks as content is treated as content.
        """
        recording = attach(bus, record(content=content))

        with bus.operation(DeployStarted(plan=["a", "b", 1])):
            pass

        assert expected == attributes(recording.span, "harken.data.plan")

    def test_the_prompt_and_the_answer_of_a_run(self, bus: Bus, record: Record) -> None:
        """
        With content, a run's span has what was asked and what was answered.
        """
        recording = attach(bus, record(content=True))

        with bus.operation(RunStarted(prompt="why?")) as run:
            run.complete(result="because")

        assert {
            "harken.prompt.text": "why?",
            "harken.result.content": "because",
        } == attributes(recording.span, "harken.prompt.text", "harken.result.content")


class TestPointEvents:
    def test_none_by_default(self, bus: Bus, record: Record) -> None:
        """
        Point events make no span events unless asked for.
        """
        recording = attach(bus, record())

        with bus.operation(ToolStarted(tool_name="t")):
            bus.publish(PolicyEvaluated(policy_id="p", decision="deny"))

        assert () == recording.span.events

    def test_they_are_events_of_the_span_they_happen_in(
        self, bus: Bus, clock: FixedClock, record: Record
    ) -> None:
        """
        A point event stands on the innermost operation's span, with its time and its fields.
        """
        recording = attach(bus, record(point_events="span_events"))

        with bus.operation(RunStarted()), bus.operation(ToolStarted(tool_name="t")):
            clock.advance(1)
            point = bus.publish(PolicyEvaluated(policy_id="p", decision="deny"))

        assert point is not None
        (event,) = recording.by_name["execute_tool t"].events
        assert () == recording.by_name["invoke_agent"].events
        assert ("policy.evaluated", NOW_NS + 1_000_000_000) == (event.name, event.timestamp)
        assert {
            "harken.event.id": point.id,
            "harken.outcome": "denied",
            "harken.data.policy_id": "p",
            "harken.data.decision": "deny",
        } == dict(event.attributes or {})

    def test_an_event_without_an_outcome(self, bus: Bus, record: Record) -> None:
        """
        What has no outcome does not say that it has one.
        """
        recording = attach(bus, record(point_events="span_events", attributes_prefix=None))

        with bus.operation(ToolStarted(tool_name="t")):
            bus.publish(Noted(note="x"))

        (event,) = recording.span.events
        assert "x" == (event.attributes or {})["harken.data.note"]

    def test_outside_of_every_operation_they_are_nowhere(self, bus: Bus, record: Record) -> None:
        """
        A point event with no span around it makes none.
        """
        recording = attach(bus, record(point_events="span_events"))

        bus.publish(CredentialIssued(credential_id="k", scope="read"))

        assert [] == recording.spans

    def test_they_are_bounded(self, bus: Bus, record: Record) -> None:
        """
        A talkative operation keeps its first events, and counts what it left out.
        """
        recording = attach(bus, record(point_events="span_events"))

        with bus.operation(ToolStarted(tool_name="t")):
            for number in range(70):
                bus.publish(Noted(note=str(number)))

        span = recording.span
        assert [str(number) for number in range(64)] == [
            (event.attributes or {})["harken.data.note"] for event in span.events
        ]
        assert {"harken.events_dropped": 6} == attributes(span, "harken.events_dropped")

    def test_operations_that_never_end_do_not_pile_up(self, bus: Bus, record: Record) -> None:
        """
        Of very many open operations the oldest loses its events, not its span.
        """
        recording = attach(bus, record(point_events="span_events"))
        first = bus.operation(ToolStarted(tool_name="first")).start()
        with harken.scope():
            others = [bus.operation(ToolStarted(tool_name=f"t{n}")) for n in range(1_000)]
            for other in others:
                other.start()

        first.end()
        others[0].end()

        assert ["execute_tool first", "execute_tool t0"] == [s.name for s in recording.spans]
        for other in others[1:]:
            other.end()


class TestAttributeValues:
    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            (None, None),
            ("", None),
            ([], None),
            ({}, None),
            (False, False),
            (0, 0),
            (2**63 - 1, 2**63 - 1),
            (2**63, str(2**63)),
            (-(2**63) - 1, str(-(2**63) - 1)),
            (0.5, 0.5),
            (float("nan"), None),
            (float("inf"), None),
            ("text", "text"),
            ("long text", "long te"),
            ("\ud800 ", "? "),
            ("\u00e4", "\u00e4"),
            (["a", "b"], ("a", "b")),
            ([1, 2], (1, 2)),
            ([True, False], (True, False)),
            ([1, True], "[1,true"),
            ([1, "a"], '[1,"a"]'),
            ([None], "[null]"),
            ([[1]], "[[1]]"),
            ([""], ("",)),
            (list(range(200)), tuple(range(128))),
            ({"a": 1}, '{"a":1}'),
            ({"\u00e4": 1}, '{"\u00e4":1}'),
            (b"x", '"b\'x\'"'),
        ],
    )
    def test_values_are_what_the_wire_can_carry(self, value: Any, expected: Any) -> None:
        """
        Scalars and lists of one kind of scalar stay what they are, the rest becomes JSON text.
        """
        found = attribute_value(value, 7)

        assert (type(expected), expected) == (type(found), found)

    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
            lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        )
    )
    def test_every_value_can_be_encoded(self, value: Any) -> None:
        """
        Whatever an event holds, its attribute is no longer than allowed and has an encoding.
        """
        found = attribute_value(value, 20)

        for item in found if isinstance(found, tuple) else (found,):
            assert item is None or isinstance(item, (bool, int, float, str))
            assert not isinstance(item, str) or len(item) <= 20
            assert not isinstance(item, int) or -(2**63) <= item < 2**63
        json.dumps(found, allow_nan=False).encode("utf-8")

    def test_a_field_of_the_wrong_type_is_recorded_all_the_same(
        self, bus: Bus, record: Record
    ) -> None:
        """
        What an author put where it does not belong neither stops the span nor the others.
        """
        recording = attach(bus, record())
        wrong: Any = {"a": [1]}

        with bus.operation(LlmStarted(model=wrong)) as llm:
            llm.complete(ttft_ms=wrong, input_tokens=wrong)
        bus.publish(DeployFailed(deploy_id="d", error_message=["a"]))
        bus.close()

        assert ["chat {'a': [1]}", "otel_test.deploy"] == [span.name for span in recording.spans]
        assert {"gen_ai.usage.input_tokens": '{"a":[1]}'} == attributes(
            recording.spans[0], "gen_ai.usage.input_tokens", "gen_ai.response.time_to_first_chunk"
        )

    def test_texts_are_cut(self, bus: Bus, record: Record) -> None:
        """
        No attribute, name or description is longer than its limit.
        """
        recording = attach(bus, record(max_attribute_length=10))

        with bus.operation(ToolStarted(tool_name="n" * 999)) as tool:
            tool.fail(ValueError("m" * 1500))

        span = recording.span
        assert (256, 1024, "n" * 10) == (
            len(span.name),
            len(span.status.description or ""),
            (span.attributes or {})["gen_ai.tool.name"],
        )

    def test_the_most_important_attributes_are_kept(self, bus: Bus, record: Record) -> None:
        """
        What does not fit under the limit is the end of the table, and is counted.
        """
        recording = attach(bus, record(max_attributes=8))

        with harken.scope(run_id="r", **{f"a{n}": n for n in range(50)}):
            with bus.operation(ToolStarted(tool_call_id="c", tool_name="t")) as tool:
                tool.fail(ValueError("bad"))

        found = dict(recording.span.attributes or {})
        dropped = found.pop("harken.attributes_dropped")
        assert {
            "gen_ai.operation.name": "execute_tool",
            "error.type": "ValueError",
            "harken.operation": "tool.started",
            "gen_ai.tool.name": "t",
            "gen_ai.tool.call.id": "c",
            "gen_ai.tool.type": "function",
            "harken.tool.effect": "unknown",
        } == found
        assert isinstance(dropped, int)
        assert 50 < dropped

    def test_the_limits_of_the_environment_hold_too(
        self, bus: Bus, monkeypatch: pytest.MonkeyPatch, record: Record
    ) -> None:
        """
        `OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT` and its kind lower the limits, so that the SDK never
        drops the first and most important attributes.
        """
        monkeypatch.setenv("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "5")
        monkeypatch.setenv("OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT", "4")
        recording = attach(bus, record())

        with bus.operation(ToolStarted(tool_name="search")):
            pass

        found = dict(recording.span.attributes or {})
        assert (5, "exec", "sear") == (
            len(found),
            str(found["gen_ai.operation.name"])[:4],
            found["gen_ai.tool.name"],
        )
