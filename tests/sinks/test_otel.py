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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import msgspec
import pytest
from hypothesis import given, strategies as st
from opentelemetry import context as context_api, trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
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
    RunStarted,
    SessionEnded,
    SessionStarted,
    TaskDequeued,
    TaskEnqueued,
    TextEmitted,
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
    content_from_environment,
    current_traceparent,
    file_exporter,
    ratio_from_environment,
    span_line,
    use_current_span,
)
from harken.sinks.otel.attributes import attribute_value
from harken.sinks.otel.mapping import COMMON, COMMON_PREFIXED, PHASES, POINTS, SPANS
from harken.sinks.otel.spans import LAST_NS
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


class DeployFailed(Event, name="otel_test.deploy.failed", ends=DeployStarted, outcome="failure"):
    """Its bad end."""

    deploy_id: str = ""
    error_type: str = ""
    error_message: JSON = ""


class RudeStarted(Event, name="otel_test.rude.started", key="word"):
    """The start of an operation whose end cannot be read."""

    word: str = ""


class RudeFailed(Event, name="otel_test.rude.failed", ends=RudeStarted, outcome="failure"):
    """An end that cannot be read."""

    word: str = ""

    @property
    def error_type(self) -> str:
        raise LookupError("no")


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

    def test_times_are_the_envelopes(self, bus: Bus, clock: FixedClock, record: Record) -> None:
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

    @pytest.mark.parametrize(("duration_ms", "length"), [(1200, 1_200_000_000), (None, 0)])
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

    @pytest.mark.parametrize(
        ("year", "duration_ms", "expected"),
        [
            (1960, None, (0, 0)),
            (9999, None, (LAST_NS, LAST_NS)),
            (2026, 10**400, (NOW_NS, NOW_NS)),
            (2026, 10**308, (0, NOW_NS)),
            (2026, -(10**12), (NOW_NS, NOW_NS)),
        ],
        ids=["before 1970", "after 2262", "no float", "longer than all", "negative"],
    )
    def test_times_that_have_no_encoding_are_clamped(
        self,
        bus: Bus,
        record: Record,
        year: int,
        duration_ms: int | None,
        expected: tuple[int, int],
    ) -> None:
        """
        One impossible time does not cost a whole batch its export.
        """
        recording = attach(bus, record())
        end = ToolCompleted(tool_call_id="c", tool_name="search", duration_ms=duration_ms)

        bus.publish(end, time=NOW.replace(year=year))
        bus.close()

        assert expected == (recording.span.start_time, recording.span.end_time)
        assert {} == attributes(recording.span, "harken.unreadable")

    def test_a_pair_before_1970_is_clamped(self, bus: Bus, record: Record) -> None:
        """
        The same of an operation whose start is known.
        """
        recording = attach(bus, record())
        long_ago = NOW.replace(year=1960)

        bus.publish(ToolStarted(tool_call_id="c", tool_name="search"), time=long_ago)
        bus.publish(ToolCompleted(tool_call_id="c"), time=long_ago + timedelta(seconds=1))

        assert (0, 0) == (recording.span.start_time, recording.span.end_time)

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

    def test_an_error_without_a_word_has_no_exception_event(self, bus: Bus, record: Record) -> None:
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
            ("-32602", "-32602"),
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

    @pytest.mark.parametrize(
        ("opted", "key", "version"),
        [
            ("", "gen_ai.usage.cache_read.input_tokens", "1"),
            ("http/dup, database", "gen_ai.usage.cache_read.input_tokens", "1"),
            (
                "http,gen_ai_latest_experimental",
                "harken.usage.cached_tokens",
                "1-gen_ai_latest_experimental",
            ),
        ],
    )
    def test_the_newest_names_on_request(
        self,
        bus: Bus,
        record: Record,
        monkeypatch: pytest.MonkeyPatch,
        opted: str,
        key: str,
        version: str,
    ) -> None:
        """
        OpenTelemetry's own variable chooses between the names, and spans say which they have.
        """
        monkeypatch.setenv("OTEL_SEMCONV_STABILITY_OPT_IN", opted)
        recording = attach(bus, record())

        with bus.operation(RunStarted()) as run:
            run.complete(cached_tokens=5)

        keys = ("gen_ai.usage.cache_read.input_tokens", "harken.usage.cached_tokens")
        assert {key: 5} == attributes(recording.span, *keys)
        scope = recording.span.instrumentation_scope
        assert scope is not None
        assert {"harken.mapping.version": version} == dict(scope.attributes or {})

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
        said = {"harken.tool.server": "files", "mcp.method.name": "tools/call"}
        assert (SpanKind.CLIENT, said) == (span.kind, attributes(span, *said))

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
            (
                (span.attributes or {})["harken.run.id"],
                (span.attributes or {})["harken.attributes.tenant"],
            )
            for span in recording.spans
        ]

    def test_traces_outside_of_every_scope_are_told_apart(self, bus: Bus, record: Record) -> None:
        """
        Without a scope each operation is an assignment of its own, correlated by its trace.
        """
        recording = attach(bus, record())

        for _ in range(2):
            with bus.operation(DeployStarted()):
                pass

        first, second = recording.spans
        assert [ids(first)[0], ids(second)[0]] == [
            (span.attributes or {})["harken.correlation.id"] for span in (first, second)
        ]
        assert ids(first)[0] != ids(second)[0]

    def test_attributes_of_one_event_are_its_own(self, bus: Bus, record: Record) -> None:
        """
        What an operation was given besides its scope is on its span, and on no other.
        """
        recording = attach(bus, record())

        with harken.scope(team="blue"):
            for attributes in ({"n": 1}, {"n": 2}, None):
                with bus.operation(DeployStarted(), attributes=attributes):
                    pass

        assert [{"team": "blue", "n": 1}, {"team": "blue", "n": 2}, {"team": "blue"}] == [
            {
                key.removeprefix("harken.attributes."): value
                for key, value in (span.attributes or {}).items()
                if key.startswith("harken.attributes.")
            }
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

        with (
            harken.scope(
                session_id="s-1",
                run_id="r-1",
                correlation_id="c-9",
                request_id="q-1",
                actor="agent:fixer",
                organization_id="acme",
            ),
            bus.operation(
                RunStarted(
                    task_type="fix",
                    task_priority="high",
                    trigger_source="webhook",
                    max_iterations=9,
                )
            ) as run,
        ):
            bus.publish(TaskDequeued(task_id="t", depth=3, wait_ms=40))
            bus.publish(CredentialIssued(credential_id="k", scope="repo:read", expires_at=NOW))
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
        assert expected == attributes(span, "gen_ai.tool.call.arguments", "gen_ai.tool.call.result")
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

    @pytest.mark.parametrize(
        ("said", "given", "on_spans", "on_events"),
        [
            ("", None, False, False),
            ("NO_CONTENT", None, False, False),
            ("SPAN_ONLY", None, True, False),
            ("EVENT_ONLY", None, False, True),
            ("span_and_event", None, True, True),
            ("NO_CONTENT", True, True, True),
            ("SPAN_AND_EVENT", False, False, False),
        ],
    )
    def test_opentelemetrys_own_variable(
        self,
        bus: Bus,
        record: Record,
        monkeypatch: pytest.MonkeyPatch,
        said: str,
        given: bool | None,
        on_spans: bool,
        on_events: bool,
    ) -> None:
        """
        What the argument does not say, the official variable says, for spans and for events.
        """
        monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", said)
        recording = attach(bus, record(content=given, point_events="span_events"))

        with bus.operation(ToolStarted(tool_name="t", arguments={"q": "needle"})):
            bus.publish(TextEmitted(text="thread"))

        (event,) = recording.span.events
        assert (on_spans, on_events) == (
            "gen_ai.tool.call.arguments" in (recording.span.attributes or {}),
            "harken.data.text" in (event.attributes or {}),
        )

    def test_a_misspelt_variable_exports_nothing(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """
        A word that is not known is no consent, and is named.
        """
        monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", "true")

        assert (False, False) == content_from_environment()
        assert "CAPTURE_MESSAGE_CONTENT=true is not known" in caplog.text

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
        recording = attach(bus, record(point_events="span_events", attributes_prefix=None))

        with bus.operation(ToolStarted(tool_name="t")):
            for number in range(70):
                bus.publish(Noted(note=str(number)))

        span = recording.span
        assert [str(number) for number in range(64)] == [
            (event.attributes or {})["harken.data.note"] for event in span.events
        ]
        assert {"harken.events_dropped": 6} == attributes(span, "harken.events_dropped")

    @pytest.mark.parametrize(("others", "kept"), [(999, ["otel_test.noted"]), (1_000, [])])
    def test_operations_that_never_end_do_not_pile_up(
        self, bus: Bus, record: Record, others: int, kept: list[str]
    ) -> None:
        """
        Of very many open operations the oldest loses its events, but not its span.
        """
        recording = attach(bus, record(point_events="span_events"))

        with bus.operation(ToolStarted(tool_name="first")):
            bus.publish(Noted())
            for number in range(others):
                bus.operation(ToolStarted(tool_name=f"t{number}")).start()

        assert kept == [event.name for event in recording.span.events]


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
            pytest.param(10**5000, "[INT:16610 bits]", id="too long to print"),
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
            (b"x", "\"b'x'\""),
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
        Whatever an event holds, its attribute has an encoding, and no text is longer than allowed;
        a number is not cut, which would make it another one.
        """
        found = attribute_value(value, 20)

        for item in found if isinstance(found, tuple) else (found,):
            assert item is None or isinstance(item, (bool, int, float, str))
            is_number = isinstance(item, str) and item.lstrip("-").isdecimal()
            assert not isinstance(item, str) or len(item) <= 20 or is_number
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

        with (
            harken.scope(run_id="r", **{f"a{n}": n for n in range(50)}),
            bus.operation(ToolStarted(tool_call_id="c", tool_name="t")) as tool,
        ):
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


class Sampled:
    """
    What is recorded of a hundred traces, a run with a tool call each.
    """

    def __init__(self, bus: Bus, recording: Recording) -> None:
        attach(bus, recording)
        self.traces: set[int] = set()
        for _ in range(100):
            with (
                harken.scope(),
                bus.operation(RunStarted()) as run,
                bus.operation(ToolStarted(tool_name="t")),
            ):
                pass
            assert run.envelope is not None
            self.traces.add(int(run.envelope.trace_id, 16))
        recorded = [ids(span)[0] for span in recording.spans]
        self.recorded = {int(trace_id, 16) for trace_id in recorded}
        self.whole = len(recorded) == 2 * len(self.recorded)


class TestSampling:
    @pytest.mark.parametrize("ratio", [0.0, 0.3, 1.0])
    def test_traces_are_chosen_as_opentelemetry_does(
        self, bus: Bus, record: Record, ratio: float
    ) -> None:
        """
        The same traces are recorded that every other process would record, each of them whole.
        """
        sampler = TraceIdRatioBased(ratio)

        found = Sampled(bus, record(ratio=ratio))

        assert found.whole
        assert found.recorded == {
            trace_id
            for trace_id in found.traces
            if sampler.should_sample(None, trace_id, "").decision is Decision.RECORD_AND_SAMPLE
        }

    @pytest.mark.parametrize("ratio", [-0.1, 1.1, float("nan")])
    def test_a_ratio_is_between_0_and_1(self, ratio: float) -> None:
        """
        A ratio that is none is refused.
        """
        with pytest.raises(ValueError, match="ratio"):
            by_exporter(ratio=ratio)

    @pytest.mark.parametrize(("flags", "spans"), [("00", 0), ("01", 1), ("03", 1)])
    def test_the_callers_decision_is_kept(
        self, bus: Bus, record: Record, flags: str, spans: int
    ) -> None:
        """
        A trace that came in as not sampled is not recorded.
        """
        recording = attach(bus, record())

        with harken.scope(traceparent=f"00-{TRACE}-{PARENT}-{flags}"):
            bus.publish(ToolStarted(tool_call_id="c", tool_name="t"))
            bus.publish(ToolCompleted(tool_call_id="c"))

        assert spans == len(recording.spans)
        # Earlier SDKs do not know the flag that says that a trace id is random.
        known = 3 if hasattr(trace.TraceFlags, "RANDOM_TRACE_ID") else 1
        assert {int(flags, 16) & known} >= {seen(s)["flags"] & known for s in recording.spans}

    def test_the_sampler_of_a_provider_decides_for_whole_traces(self, bus: Bus) -> None:
        """
        A provider that samples by trace id gets all spans of a trace, or none.
        """
        sampler = ParentBased(TraceIdRatioBased(0.3))
        exporter = InMemorySpanExporter()
        provider = TracerProvider(sampler=sampler, shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(exporter))

        found = Sampled(bus, Recording(SpanRecorder(provider=provider), exporter))

        assert found.whole
        assert 0 < len(found.recorded) < 60

    @pytest.mark.parametrize(
        ("sampler", "flags"),
        [
            (ALWAYS_OFF, []),
            (ParentBased(ALWAYS_OFF), []),
            (StaticSampler(Decision.RECORD_ONLY), [0, 0]),
            (StaticSampler(Decision.RECORD_AND_SAMPLE), [1, 1]),
        ],
    )
    def test_a_provider_may_record_without_sampling(
        self, bus: Bus, sampler: Sampler, flags: list[int]
    ) -> None:
        """
        What the provider's sampler says is what its processors get to see.
        """
        heard: list[ReadableSpan] = []

        class Heard(SimpleSpanProcessor):
            def on_end(self, span: ReadableSpan) -> None:
                heard.append(span)

        provider = TracerProvider(sampler=sampler, shutdown_on_exit=False)
        provider.add_span_processor(Heard(InMemorySpanExporter()))
        bus.attach(SpanRecorder(provider=provider), delivery="inline")

        with bus.operation(RunStarted()), bus.operation(ToolStarted(tool_name="t")):
            pass

        assert flags == [seen(span)["flags"] for span in heard]

    @pytest.mark.parametrize(
        ("environ", "ratio", "warnings"),
        [
            ({}, 1.0, 0),
            ({"OTEL_TRACES_SAMPLER": "always_on"}, 1.0, 0),
            ({"OTEL_TRACES_SAMPLER": "always_off"}, 0.0, 0),
            ({"OTEL_TRACES_SAMPLER": "parentbased_always_on"}, 1.0, 0),
            ({"OTEL_TRACES_SAMPLER": "parentbased_always_off"}, 0.0, 0),
            ({"OTEL_TRACES_SAMPLER": "traceidratio"}, 1.0, 0),
            ({"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.25"}, 0.25, 0),
            (
                {
                    "OTEL_TRACES_SAMPLER": " ParentBased_TraceIdRatio ",
                    "OTEL_TRACES_SAMPLER_ARG": "0.5",
                },
                0.5,
                0,
            ),
            ({"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "2"}, 1.0, 1),
            ({"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "few"}, 1.0, 1),
            ({"OTEL_TRACES_SAMPLER": "jaeger_remote"}, 1.0, 1),
            ({"OTEL_SDK_DISABLED": " TRUE "}, 0.0, 0),
            ({"OTEL_SDK_DISABLED": "no"}, 1.0, 0),
        ],
    )
    def test_the_environment_may_say_how_many(
        self,
        environ: Mapping[str, str],
        ratio: float,
        warnings: int,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """
        The variables of OpenTelemetry are understood; what is not understood is said, and
        records everything.
        """
        assert ratio == ratio_from_environment(environ)
        assert warnings == len(caplog.records)

    def test_the_process_has_an_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        By default the process's own environment is read.
        """
        monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")

        assert 0.0 == ratio_from_environment()


class TestFlags:
    @pytest.mark.parametrize(("ratio", "flags"), [(0.0, "00"), (1.0, "01")])
    def test_the_decision_goes_with_the_trace(
        self, bus: Bus, record: Record, ratio: float, flags: str
    ) -> None:
        """
        What begins here says in its flags whether it is recorded: in a subprocess's environment,
        in every envelope, and in the parent's id of every child.
        """
        recording = attach(bus, record(ratio=ratio))

        with capture(bus) as heard, bus.operation(RunStarted()):
            env = harken.child_env({})
            with bus.operation(ToolStarted(tool_name="t")):
                bus.publish(Noted())
        bus.publish(Noted())

        assert flags == env["TRACEPARENT"][-2:]
        assert {int(flags)} == {envelope.trace_flags for envelope in heard.envelopes}
        assert 2 * int(flags) == len(recording.spans)

    def test_one_of_several_is_enough(self, bus: Bus, record: Record) -> None:
        """
        A trace is sampled when any of the recorders keeps it, until that one is closed.
        """
        none, all_of_them = record(ratio=0.0), record()
        attach(bus, none)
        other = Bus()
        attach(other, all_of_them)

        with harken.scope() as while_open:
            pass
        other.close()
        with harken.scope() as afterwards:
            pass

        assert (1, 0) == (while_open.trace_flags, afterwards.trace_flags)

    def test_without_a_recorder_every_trace_is_sampled(self, bus: Bus, record: Record) -> None:
        """
        What a recorder that is closed had to say holds no longer.
        """
        other = Bus()
        attach(other, record(ratio=0.0))
        other.close()

        with harken.scope() as scope:
            pass

        assert 1 == scope.trace_flags

    @pytest.mark.parametrize(
        ("sampler", "flags"),
        [
            (ALWAYS_OFF, 0),
            (TraceIdRatioBased(0.0), 0),
            (ParentBased(ALWAYS_OFF), 0),
            (ParentBased(TraceIdRatioBased(1.0)), 1),
        ],
        ids=["off", "none of them", "off for roots", "all roots"],
    )
    def test_a_provider_decides_by_trace_id(self, bus: Bus, sampler: Sampler, flags: int) -> None:
        """
        The sampler of a provider decides where traces begin, when it goes by their ids.
        """
        provider = TracerProvider(sampler=sampler, shutdown_on_exit=False)
        bus.attach(SpanRecorder(provider=provider))

        with harken.scope() as scope:
            pass

        assert flags == scope.trace_flags

    def test_a_provider_that_looks_at_more(self, bus: Bus) -> None:
        """
        A sampler that may go by names or attributes is asked when there is a span, not before.
        """

        class Picky(Sampler):
            def should_sample(self, *args: Any, **kwargs: Any) -> Any:
                raise AssertionError("there is no span yet")

            def get_description(self) -> str:
                return "Picky"

        bus.attach(SpanRecorder(provider=TracerProvider(sampler=Picky(), shutdown_on_exit=False)))
        with harken.scope() as scope:
            pass

        assert 1 == scope.trace_flags


def links(span: ReadableSpan) -> list[tuple[str, str, str]]:
    """
    Return trace id, span id and reason of what *span* goes back to.
    """
    return [
        (
            f"{link.context.trace_id:032x}",
            f"{link.context.span_id:016x}",
            str((link.attributes or {})["harken.link.reason"]),
        )
        for link in span.links
    ]


class TestLinks:
    def test_a_retry_goes_back_to_the_attempt_before(self, bus: Bus, record: Record) -> None:
        """
        Each attempt at the same call has a link to the one before it, and to no other.
        """
        recording = attach(bus, record())

        with bus.operation(RunStarted()):
            for attempt in (1, 2, 3):
                bus.publish(ToolStarted(tool_call_id="c", tool_name="t", attempt=attempt))
                bus.publish(ToolFailed(tool_call_id="c", error_type="ValueError"))

        first, second, third, run = recording.spans
        assert [
            [],
            [(*ids(first)[:2], "retry")],
            [(*ids(second)[:2], "retry")],
            [],
        ] == [links(span) for span in (first, second, third, run)]

    def test_a_call_of_another_run_is_another_call(self, bus: Bus, record: Record) -> None:
        """
        Frameworks that number their calls from 1 in each run do not retry across runs.
        """
        recording = attach(bus, record())

        for _ in range(2):
            with (
                bus.operation(RunStarted()),
                bus.operation(ToolStarted(tool_call_id="1", tool_name="t")),
            ):
                pass

        assert [[], [], [], []] == [links(span) for span in recording.spans]

    def test_a_retry_with_another_id_names_its_cause(self, bus: Bus, record: Record) -> None:
        """
        A retry that the framework gives a new id goes back to what its publisher says it retries.
        """
        recording = attach(bus, record())

        with capture(bus, ToolFailed) as failed:
            bus.publish(ToolStarted(tool_call_id="a", tool_name="t"))
            bus.publish(ToolFailed(tool_call_id="a"))
        retry = ToolStarted(tool_call_id="b", tool_name="t", attempt=2)
        with bus.operation(retry, causes=failed.envelopes):
            pass

        first, second = recording.spans
        assert [(*ids(first)[:2], "retry")] == links(second)

    def test_a_session_that_is_resumed_goes_back_to_itself(self, bus: Bus, record: Record) -> None:
        """
        A session that goes on later has a link to the trace that it began in.
        """
        recording = attach(bus, record())

        for resumed in (False, True):
            with harken.scope(session_id="s-1"):
                bus.publish(SessionStarted(resumed=resumed))
                bus.publish(SessionEnded())

        first, second = recording.spans
        assert ids(first)[0] != ids(second)[0]
        assert [[], [(*ids(first)[:2], "resumed")]] == [links(first), links(second)]

    def test_a_trace_of_its_own_goes_back_to_its_session(self, bus: Bus, record: Record) -> None:
        """
        A run in a trace of its own, as under an id that the caller gave, belongs to its session.
        """
        recording = attach(bus, record())

        with harken.scope(session_id="s-1"):
            bus.publish(SessionStarted())
            outside = harken.scope(traceparent=f"00-{TRACE}-{PARENT}-01")
        with harken.scope(session_id="s-1"), bus.operation(RunStarted()):
            pass
        with outside, harken.scope(session_id="s-1"), bus.operation(RunStarted()):
            pass
        with harken.scope(session_id="s-1"):
            bus.publish(SessionEnded())

        own, child, session = recording.spans
        assert [[(*ids(session)[:2], "session")], []] == [links(own), links(child)]

    def test_causes(self, bus: Bus, record: Record) -> None:
        """
        An operation has a link to each span that one of its causes belongs to, but for its own
        parent; a cause that nobody knows is none.
        """
        recording = attach(bus, record())

        with capture(bus) as heard:
            for name in ("a", "b"):
                with bus.operation(ToolStarted(tool_name=name)):
                    pass
            with bus.operation(RunStarted()):
                bus.publish(TaskEnqueued(task_id="t"))
            bus.publish(TaskEnqueued(task_id="outside"))
        start_a, _, _, end_b, _, enqueued, _, outside = heard.envelopes
        causes = [start_a, end_b, enqueued, outside, "00000000-0000-7000-8000-000000000000"]
        with bus.operation(AgentStarted(agent_id="x"), causes=causes) as op:
            assert op.envelope is not None
            with bus.operation(ToolStarted(tool_name="child"), causes=[op.envelope]):
                pass

        a, b, run, child, agent = recording.spans
        assert [(*ids(span)[:2], "cause") for span in (a, b, run)] == links(agent)
        assert [] == links(child)

    def test_they_are_bounded(self, bus: Bus, record: Record) -> None:
        """
        A span has no more than 32 links, however many causes there were.
        """
        recording = attach(bus, record())
        with capture(bus, ToolCompleted) as ended:
            for _ in range(40):
                with bus.operation(ToolStarted(tool_name="t")):
                    pass
        with bus.operation(RunStarted(), causes=ended.envelopes):
            pass

        assert 32 == len(links(recording.by_name_of("invoke_agent")))

    def test_what_is_remembered_is_bounded(
        self, bus: Bus, record: Record, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """
        The spans that were recorded last are remembered, and the first ones are forgotten.
        """
        monkeypatch.setattr("harken.sinks.otel.links.MAX_REMEMBERED", 4)
        recording = attach(bus, record())
        with capture(bus, ToolCompleted) as ended:
            for _ in range(20):
                with bus.operation(ToolStarted(tool_name="t")):
                    pass
        causes = [ended.envelopes[0], ended.envelopes[-1]]
        with bus.operation(RunStarted(), causes=causes):
            pass

        last = recording.spans[-2]
        assert [(*ids(last)[:2], "cause")] == links(recording.by_name_of("invoke_agent"))

    def test_a_forked_child_remembers_nothing(self, bus: Bus, record: Record) -> None:
        """
        A child goes back to nothing that its parent process did.
        """
        recording = attach(bus, record())
        for _ in range(2):
            with harken.scope(run_id="r"):
                bus.publish(ToolStarted(tool_call_id="c", tool_name="t"))
                bus.publish(ToolCompleted(tool_call_id="c"))
            recording.recorder.after_fork()

        assert [[], []] == [links(span) for span in recording.spans]


class TestFigures:
    def test_what_became_of_spans(self, bus: Bus) -> None:
        """
        A recorder says how many operations are open, and what became of the others.
        """
        recorder = SpanRecorder(InMemorySpanExporter())
        bus.attach(recorder, delivery="inline")

        for outcome in ("failure", "timeout", "orphaned"):
            bus.publish(ToolStarted(tool_call_id=outcome, tool_name="t"))
            bus.publish(ToolFailed(tool_call_id=outcome, outcome=outcome))
        with bus.operation(RunStarted()), bus.operation(ToolStarted(tool_name="t")):
            opened = recorder.spans_open

        assert (2, 0) == (opened, recorder.spans_open)
        assert {
            "ended": 3,
            "timeout": 1,
            "abandoned": 1,
            "no_start": 0,
            "evicted": 0,
            "lost": 0,
        } == recorder.spans

    def test_what_is_lost(self, bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        Spans that an exporter refused are lost, operations too many are evicted, and an end whose
        start was not heard has none. A forked child counts from zero.
        """
        monkeypatch.setattr("harken.sinks.otel.recorder.MAX_OPEN", 1)
        recorder = SpanRecorder(Kept(SpanExportResult.FAILURE))
        with (
            capture(bus) as heard,
            bus.operation(RunStarted()),
            bus.operation(ToolStarted(tool_name="t")),
        ):
            pass
        with pytest.raises(SpanExportError):
            recorder.write(heard.envelopes)

        lost = recorder.spans
        recorder.after_fork()

        assert (2, 1) == (lost["lost"], lost["evicted"])
        assert {0} == set(recorder.spans.values())
        assert recorder.flush(0) is not False


class TestUnreadable:
    def test_its_neighbours_are_exported(self, bus: Bus, record: Record) -> None:
        """
        An operation whose end cannot be read has a span with its ids and times that says so.
        """
        recording = record()
        with capture(bus) as heard:
            with bus.operation(ToolStarted(tool_name="a")):
                pass
            bus.publish(RudeStarted(word="x"))
            bus.publish(RudeFailed(word="x"))
            with bus.operation(ToolStarted(tool_name="b")):
                pass

        recording.recorder.write(heard.envelopes)

        rude = recording.by_name_of("otel_test.rude")
        assert ["execute_tool a", "otel_test.rude", "execute_tool b"] == [
            span.name for span in recording.spans
        ]
        assert ids_of(heard.envelopes[3]) == ids(rude)
        assert {
            "harken.operation": "otel_test.rude.started",
            "harken.outcome": "failure",
            "harken.unreadable": "LookupError",
            "error.type": "_OTHER",
        } == attributes(
            rude, "harken.operation", "harken.outcome", "harken.unreadable", "error.type"
        )
        assert StatusCode.ERROR is rude.status.status_code

    def test_a_point_event_is_counted_where_it_happened(self, bus: Bus, record: Record) -> None:
        """
        A point event that cannot be read is missing from its span, which says so.
        """
        recording = record(point_events="span_events")
        with capture(bus) as heard, bus.operation(ToolStarted(tool_name="a")):
            bus.publish(Noted())
        start, point, end = heard.envelopes
        # Its ids are known, and nothing else is.
        assert start.span_id == point.span_id
        broken = msgspec.structs.replace(point, _mint=None)

        recording.recorder.write([start, broken, end])

        assert {"harken.events_dropped": 1} == attributes(recording.span, "harken.events_dropped")
        assert () == tuple(recording.span.events)


class OddIds(RandomIdGenerator):
    """
    A generator that somebody chose on purpose.
    """


class TestProvider:
    def test_a_provider_keeps_its_ids_for_its_own_spans(self, bus: Bus) -> None:
        """
        Only harken's spans get the ids of envelopes; the application's are random as before.
        """
        recording = attach(bus, by_provider())
        with bus.operation(RunStarted()):
            pass
        exporter = InMemorySpanExporter()
        provider = TracerProvider(shutdown_on_exit=False, id_generator=IdGenerator())
        provider.add_span_processor(SimpleSpanProcessor(exporter))

        for _ in range(2):
            provider.get_tracer("app").start_span("own").end()

        own = [ids(span) for span in exporter.get_finished_spans()]
        assert 3 == len({trace_id for trace_id, _, _ in (*own, ids(recording.span))})
        assert 3 == len({span_id for _, span_id, _ in (*own, ids(recording.span))})

    def test_a_provider_with_our_generator(self, bus: Bus) -> None:
        """
        A provider that was given our generator uses the envelopes' ids, and flags of its own
        for random trace ids.
        """
        exporter = InMemorySpanExporter()
        generator = IdGenerator()
        provider = TracerProvider(shutdown_on_exit=False, id_generator=generator)
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        recording = attach(bus, Recording(SpanRecorder(provider=provider), exporter))

        with capture(bus) as heard, bus.operation(RunStarted()):
            pass

        assert ids_of(heard.envelopes[0]) == ids(recording.span)
        assert generator.is_trace_id_random()

    def test_a_processor_that_raises(self, bus: Bus) -> None:
        """
        A processor of the provider that raises about one span costs no other of the same batch,
        and exactly that one is counted as lost.
        """

        class Touchy(SpanProcessor):
            def on_start(self, span: Any, parent_context: object = None) -> None:
                if span.name == "execute_tool b":
                    raise LookupError("not this one")

        exporter = InMemorySpanExporter()
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(Touchy())
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        recorder = SpanRecorder(provider=provider)
        with capture(bus) as heard:
            for name in "abc":
                with bus.operation(ToolStarted(tool_name=name)) as tool:
                    if name == "c":
                        tool.fail(TimeoutError("late"), outcome="timeout")

        with pytest.raises(SpanExportError, match="refused 1 of 3 spans"):
            recorder.write(heard.envelopes)

        assert ["execute_tool a", "execute_tool c"] == [
            span.name for span in exporter.get_finished_spans()
        ]
        counted = {result: count for result, count in recorder.spans.items() if count}
        assert {"ended": 1, "timeout": 1, "lost": 1} == counted
        assert recorder.flush(5) is False

    def test_a_provider_with_ids_of_its_own(self, bus: Bus) -> None:
        """
        Where ids cannot be set, that is said once; spans keep their trace, and name their id.
        """
        exporter = InMemorySpanExporter()
        provider = TracerProvider(shutdown_on_exit=False, id_generator=OddIds())
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        with pytest.warns(UserWarning, match=r"harken\.span_id") as warned:
            recording = attach(bus, Recording(SpanRecorder(provider=provider), exporter))

        with (
            capture(bus) as heard,
            bus.operation(RunStarted()),
            bus.operation(ToolStarted(tool_name="t")),
        ):
            pass

        run, tool = heard.envelopes[:2]
        assert (1, __file__) == (len(warned), warned[0].filename)
        assert {run.trace_id} == {ids(span)[0] for span in recording.spans}
        assert {"invoke_agent": run.span_id, "execute_tool t": tool.span_id} == {
            name: (span.attributes or {})["harken.span_id"]
            for name, span in recording.by_name.items()
        }
        assert run.span_id == ids(recording.by_name["execute_tool t"])[2]

    def test_a_provider_that_is_not_the_sdks(self, bus: Bus) -> None:
        """
        Any implementation of the API will do; what it does not offer is done without.
        """
        with pytest.warns(UserWarning, match=r"harken\.span_id"):
            recorder = SpanRecorder(provider=NoOpTracerProvider())
        bus.attach(recorder, delivery="inline")

        play_everything(bus)

        assert (None, 0) == (recorder.flush(1), bus.health()["SpanRecorder"].failures)

    def test_an_exporter_and_a_provider_exclude_each_other(self) -> None:
        """
        Spans go one way.
        """
        with pytest.raises(TypeError, match="not both"):
            SpanRecorder(InMemorySpanExporter(), provider=TracerProvider(shutdown_on_exit=False))

    @pytest.mark.parametrize("options", [{"service_name": "x"}, {"resource": Resource({})}])
    def test_a_provider_has_its_own_resource(self, options: dict[str, Any]) -> None:
        """
        What a provider's spans are of is its maker's to say.
        """
        with pytest.raises(TypeError, match="resource"):
            SpanRecorder(provider=TracerProvider(shutdown_on_exit=False), **options)

    def test_a_provider_is_flushed_and_left_open(self, bus: Bus) -> None:
        """
        Closing the bus sends what the provider's processors hold, and does not shut it down.
        """
        exporter = InMemorySpanExporter()
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=3_600_000))
        bus.attach(SpanRecorder(provider=provider))
        with bus.operation(RunStarted()):
            pass

        bus.close()
        provider.get_tracer("app").start_span("later").end()
        provider.shutdown()

        assert ["invoke_agent", "later"] == [s.name for s in exporter.get_finished_spans()]

    def test_nobody_knows_what_processors_have_sent(self) -> None:
        """
        A provider's success proves nothing, and is not passed on as such.
        """
        assert by_provider().recorder.flush(5) is None

    def test_a_provider_that_takes_too_long(self) -> None:
        """
        A flush ends when its time is up, whatever the provider does.
        """
        stuck = Stuck()
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(BatchSpanProcessor(stuck))
        recorder = SpanRecorder(provider=provider)
        provider.get_tracer("app").start_span("own").end()

        flushed = recorder.flush(0.05)

        stuck.released.set()
        provider.shutdown()
        assert flushed is False


class Kept(SpanExporter):
    """
    Keeps spans, and what the context was when they came.
    """

    def __init__(self, result: SpanExportResult = SpanExportResult.SUCCESS) -> None:
        self.spans: list[ReadableSpan] = []
        self.contexts: list[context_api.Context] = []
        self.result = result
        self.closed = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.spans += spans
        self.contexts.append(context_api.get_current())
        return self.result

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return True

    def shutdown(self) -> None:
        self.closed += 1


class Stuck(Kept):
    """
    Waits for `released` whatever it is asked.
    """

    def __init__(self) -> None:
        super().__init__()
        self.released = threading.Event()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.released.wait(60)
        return super().export(spans)

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self.released.wait(60)

    def shutdown(self) -> None:
        self.released.wait(60)


class TestExport:
    def test_a_failed_export_is_a_failure_of_the_sink(self, bus: Bus) -> None:
        """
        What an exporter only logs is counted by the bus.
        """
        bus.attach(SpanRecorder(Kept(SpanExportResult.FAILURE)))

        with bus.operation(RunStarted()):
            pass
        bus.flush()

        health = bus.health()["SpanRecorder"]
        assert ({"SpanExportError": 1}, 1) == (health.errors, health.failures)
        assert "1 spans were not exported" in str(health.last_error)

    def test_a_flush_after_a_failed_export_says_so(self, bus: Bus) -> None:
        """
        Lost spans are not called flushed, once; afterwards there is nothing left to tell.
        """
        exporter = Kept(SpanExportResult.FAILURE)
        recorder = SpanRecorder(exporter)
        found: list[bool | None] = []
        for result in (SpanExportResult.FAILURE, SpanExportResult.SUCCESS):
            exporter.result = result
            with suppress(SpanExportError):
                recorder.write(tool_call(bus, result.name))

        found += [recorder.flush(5), recorder.flush(5)]

        assert [False, True] == found

    def test_what_an_exporter_raises_is_raised(self, bus: Bus) -> None:
        """
        The bus is told of an exporter's own errors as they are.
        """

        class Broken(Kept):
            def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
                raise OSError("no route")

        bus.attach(SpanRecorder(Broken()))

        with bus.operation(RunStarted()):
            pass
        bus.flush()

        assert {"OSError": 1} == bus.health()["SpanRecorder"].errors

    def test_a_batch_is_one_export(self, bus: Bus) -> None:
        """
        Spans of one batch travel together, and a batch without spans does not travel.
        """
        exporter = Kept()
        events = [
            event
            for number in range(5)
            for event in (
                ToolStarted(tool_call_id=str(number), tool_name="t"),
                ToolCompleted(tool_call_id=str(number)),
            )
        ]
        batch = envelopes(bus, *events)
        recorder = SpanRecorder(exporter)

        recorder.write(batch)
        recorder.write(envelopes(bus, Noted()))

        assert (5, 1) == (len(exporter.spans), len(exporter.contexts))

    def test_the_exporters_own_requests_are_not_traced(self, bus: Bus) -> None:
        """
        While spans are exported, instrumentations of HTTP libraries are told to look away; the
        ambient context is as it was before.
        """
        exporter = Kept()
        batch = envelopes(
            bus, ToolStarted(tool_call_id="c", tool_name="t"), ToolCompleted(tool_call_id="c")
        )
        recorder = SpanRecorder(exporter)

        with TracerProvider().get_tracer("app").start_as_current_span("ambient") as ambient:
            recorder.write(batch)
            after = trace.get_current_span()

        (context,) = exporter.contexts
        key = context_api._SUPPRESS_INSTRUMENTATION_KEY
        assert ({key: True}, ambient) == (dict(context), after)

    def test_the_resource_says_who(self, bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        The arguments stand above the environment, the environment above nothing.
        """
        monkeypatch.setenv("OTEL_SERVICE_NAME", "from-environment")
        monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "team=blue,zone=a")
        found: list[dict[str, Any]] = []
        batch = envelopes(
            bus, ToolStarted(tool_call_id="c", tool_name="t"), ToolCompleted(tool_call_id="c")
        )

        for options in (
            {},
            {"service_name": "mine"},
            {"resource": Resource({"zone": "b"})},
            {"service_name": "mine", "resource": Resource({"zone": "b"})},
        ):
            exporter = Kept()
            SpanRecorder(exporter, **options).write(batch)
            known = exporter.spans[0].resource.attributes
            found.append({key: known[key] for key in ("service.name", "team", "zone")})

        assert [
            {"service.name": "from-environment", "team": "blue", "zone": "a"},
            {"service.name": "mine", "team": "blue", "zone": "a"},
            {"service.name": "from-environment", "team": "blue", "zone": "b"},
            {"service.name": "mine", "team": "blue", "zone": "b"},
        ] == found

    def test_spans_are_harkens(self, bus: Bus) -> None:
        """
        The instrumentation scope names the maker of the spans and the version of the table.
        """
        exporter = Kept()

        SpanRecorder(exporter).write(
            envelopes(
                bus, ToolStarted(tool_call_id="c", tool_name="t"), ToolCompleted(tool_call_id="c")
            )
        )

        scope = exporter.spans[0].instrumentation_scope
        assert scope is not None
        assert ("harken", {"harken.mapping.version": "1"}) == (
            scope.name,
            dict(scope.attributes or {}),
        )

    def test_a_flush_that_takes_too_long_is_no_flush(self) -> None:
        """
        An exporter that does not come back is not waited for.
        """
        stuck = Stuck()

        flushed = SpanRecorder(stuck).flush(0.05)

        stuck.released.set()
        assert flushed is False

    @pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
    def test_a_flush_that_fails_is_no_flush(self) -> None:
        """
        An exporter that cannot flush is not said to have flushed.
        """

        class Broken(Kept):
            def force_flush(self, timeout_millis: int = 30_000) -> bool:
                raise OSError("no route")

        assert SpanRecorder(Broken()).flush(5) is False

    def test_a_flush_that_works(self) -> None:
        """
        An exporter that has sent everything is flushed.
        """
        assert SpanRecorder(Kept()).flush(5) is True

    def test_closing_takes_no_longer_than_allowed(self, bus: Bus) -> None:
        """
        An exporter that does not let go does not hold up the end of the process.
        """
        stuck = Stuck()
        bus.attach(SpanRecorder(stuck))
        with bus.operation(RunStarted()):
            pass

        report = bus.close(timeout=0.2)

        stuck.released.set()
        assert not report

    def test_closing_shuts_the_exporter_down(self, bus: Bus) -> None:
        """
        An exporter belongs to its recorder.
        """
        exporter = Kept()
        bus.attach(SpanRecorder(exporter))

        bus.close()

        assert 1 == exporter.closed

    @pytest.mark.parametrize(
        ("make", "delivery"),
        [
            (lambda path: SpanRecorder(file_exporter(path / "spans.jsonl")), "worker"),
            (lambda path: SpanRecorder(console_exporter()), "worker"),
            (lambda path: SpanRecorder(Kept()), "isolated"),
            (
                lambda path: SpanRecorder(provider=TracerProvider(shutdown_on_exit=False)),
                "isolated",
            ),
        ],
    )
    def test_what_may_block_has_a_thread_of_its_own(
        self, bus: Bus, tmp_path: Path, make: Callable[[Path], SpanRecorder], delivery: str
    ) -> None:
        """
        Files and streams share the worker; whatever may wait for a network does not.
        """
        bus.attach(make(tmp_path))

        assert delivery == bus.health()["SpanRecorder"].delivery

    def test_it_works_while_the_interpreter_exits(
        self, run_python: Callable[..., Any], tmp_path: Path
    ) -> None:
        """
        Without a word of the application, what was open is ended and exported at exit.
        """
        code = """
from harken import Bus
from harken.catalog import ToolStarted
from harken.sinks.otel import SpanRecorder, file_exporter
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

class Slow(InMemorySpanExporter):
    def shutdown(self):
        print([span.name for span in self.get_finished_spans()])

bus = Bus()
bus.attach(SpanRecorder(file_exporter("spans.jsonl")), name="file")
bus.attach(SpanRecorder(Slow()), name="slow")
bus.operation(ToolStarted(tool_name="search")).start()
"""
        done = run_python(code)

        (line,) = (tmp_path / "spans.jsonl").read_text().splitlines()
        assert ("execute_tool search", "['execute_tool search']\n") == (
            json.loads(line)["name"],
            done.stdout,
        )


def lines_of(path: Path) -> list[dict[str, Any]]:
    """
    Return the spans in a file, which must all be whole.
    """
    return [json.loads(line) for line in path.read_text("ascii").splitlines()]


def names_in(path: Path) -> list[str]:
    """
    Return the names of the spans in a file.
    """
    return [line["name"] for line in lines_of(path)]


class TestFile:
    def test_a_span_is_a_line(self, bus: Bus, clock: FixedClock, tmp_path: Path) -> None:
        """
        The members of a line, and their forms, are fixed.
        """
        path = tmp_path / "spans.jsonl"
        exporter = file_exporter(path)
        bus.attach(
            SpanRecorder(
                exporter,
                service_name="demo",
                attributes_prefix=None,
                resource=Resource({"service.instance.id": "i"}),
            )
        )
        with (
            harken.scope(traceparent=f"00-{TRACE}-{PARENT}-01"),
            capture(bus) as heard,
            bus.operation(DeployStarted(deploy_id="d")) as deploy,
        ):
            clock.advance(0.25)
            deploy.fail(ValueError("caf\u00e9"))
        bus.flush()

        (line,) = lines_of(path)
        (end,) = (e for e in heard.envelopes if e.type.is_terminal)
        resource = line.pop("resource")
        found = line.pop("attributes")
        line["scope"].pop("version")
        assert {
            "trace_id": TRACE,
            "span_id": end.span_id,
            "parent_id": PARENT,
            "name": "otel_test.deploy",
            "kind": "INTERNAL",
            "start_time": "2026-01-02T03:04:05.000000000Z",
            "end_time": "2026-01-02T03:04:05.250000000Z",
            "status": {"status_code": "ERROR", "description": "caf\u00e9"},
            "events": [
                {
                    "name": "exception",
                    "timestamp": "2026-01-02T03:04:05.250000000Z",
                    "attributes": {
                        "exception.type": "ValueError",
                        "exception.message": "caf\u00e9",
                    },
                }
            ],
            "links": [],
            "scope": {"name": "harken"},
        } == line
        assert ("demo", "ValueError", end.id) == (
            resource["service.name"],
            found["error.type"],
            found["harken.event.id"],
        )

    def test_spans_of_others_are_lines_too(self, tmp_path: Path) -> None:
        """
        The exporter serves any tracer provider: links, lists and values that JSON lacks.
        """
        path = tmp_path / "spans.jsonl"
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(file_exporter(path)))
        tracer = provider.get_tracer("app", "1.0")
        first = tracer.start_span("first", context=context_api.Context())

        tracer.start_span(
            "second",
            context=context_api.Context(),
            kind=SpanKind.SERVER,
            links=[trace.Link(first.get_span_context(), {"why": "retry"})],
            attributes={"nan": float("nan"), "tags": ["a", "b"], "n": 1},
        ).end()

        (line,) = lines_of(path)
        linked = first.get_span_context()
        assert {
            "parent_id": None,
            "kind": "SERVER",
            "attributes": {"tags": ["a", "b"], "n": 1},
            "links": [
                {
                    "trace_id": f"{linked.trace_id:032x}",
                    "span_id": f"{linked.span_id:016x}",
                    "attributes": {"why": "retry"},
                }
            ],
            "scope": {"name": "app", "version": "1.0"},
        } == {key: line[key] for key in ("parent_id", "kind", "attributes", "links", "scope")}
        provider.shutdown()

    def test_a_span_without_anything_is_a_line(self) -> None:
        """
        What a hand-made span lacks is null.
        """
        line = json.loads(span_line(ReadableSpan("bare", resource=Resource({}))))

        assert {
            "trace_id": None,
            "span_id": None,
            "parent_id": None,
            "start_time": None,
            "end_time": None,
            "scope": None,
        } == {key: value for key, value in line.items() if value is None}

    def test_only_its_owner_may_read_it(self, tmp_path: Path) -> None:
        """
        Spans may say more than everybody should know.
        """
        path = tmp_path / "spans.jsonl"
        before = os.umask(0)
        try:
            file_exporter(path).shutdown()
        finally:
            os.umask(before)

        assert 0o600 == stat.S_IMODE(path.stat().st_mode)

    def test_it_is_appended_to(self, bus: Bus, tmp_path: Path) -> None:
        """
        A second process, or a second run, adds to what is there.
        """
        path = tmp_path / "spans.jsonl"
        for name in ("a", "b"):
            with to_file(path) as recorder:
                recorder.write(tool_call(bus, name))

        assert ["execute_tool a", "execute_tool b"] == names_in(path)

    @pytest.mark.parametrize("how", ["rename", "unlink"])
    def test_a_file_that_was_taken_away_is_made_anew(
        self, bus: Bus, tmp_path: Path, how: str
    ) -> None:
        """
        Rotation by rename needs no signal and no restart.
        """
        path = tmp_path / "spans.jsonl"
        with to_file(path) as recorder:
            recorder.write(tool_call(bus, "a"))

            if how == "rename":
                path.rename(tmp_path / "spans.1")
            else:
                path.unlink()
            recorder.write(tool_call(bus, "b"))

        assert ["execute_tool b"] == names_in(path)

    def test_a_folder_that_comes_back_is_used_again(self, bus: Bus, tmp_path: Path) -> None:
        """
        While the file cannot be made the sink fails, and afterwards it works.
        """
        path = tmp_path / "folder" / "spans.jsonl"
        path.parent.mkdir()
        with to_file(path) as recorder:
            path.parent.rename(tmp_path / "away")

            for name in ("a", "b"):
                with pytest.raises(FileNotFoundError):
                    recorder.write(tool_call(bus, name))
            path.parent.mkdir()
            recorder.write(tool_call(bus, "c"))

        assert ["execute_tool c"] == names_in(path)

    def test_half_a_line_harms_no_other(self, bus: Bus, tmp_path: Path) -> None:
        """
        What a killed process left behind does not spoil the next span.
        """
        path = tmp_path / "spans.jsonl"
        path.write_text('{"trace_id":"4bf9')

        with to_file(path) as recorder:
            recorder.write(tool_call(bus, "a"))

        first, second = path.read_text().splitlines()
        assert ('{"trace_id":"4bf9', "execute_tool a") == (first, json.loads(second)["name"])

    def test_a_full_disk_leaves_no_broken_line_behind(
        self, run_python: Callable[..., Any], tmp_path: Path
    ) -> None:
        """
        When there is room again, the next span begins on a line of its own.
        """
        code = """
import os, resource, signal
from harken import Bus
from harken.catalog import ToolStarted
from harken.sinks.otel import SpanRecorder, file_exporter

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
bus = Bus()
bus.attach(SpanRecorder(file_exporter("spans.jsonl")), delivery="inline")
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
for full, name in ((False, "a"), (True, "b"), (False, "c")):
    room = os.path.getsize("spans.jsonl") + 100
    resource.setrlimit(resource.RLIMIT_FSIZE, (room if full else hard, hard))
    with bus.operation(ToolStarted(tool_name=name, tool_call_id="x" * 1500)):
        pass
print(dict(bus.health()["SpanRecorder"].errors))
"""
        done = run_python(code)

        first, torn, last = (tmp_path / "spans.jsonl").read_text().splitlines()
        assert ("execute_tool a", "execute_tool c") == (
            json.loads(first)["name"],
            json.loads(last)["name"],
        )
        assert 100 == len(torn)
        assert "{'OSError': 1}\n" == done.stdout

    def test_a_device_is_a_file_too(self, bus: Bus) -> None:
        """
        What is no regular file has no end to look at.
        """
        with to_file("/dev/null") as recorder:
            recorder.write(tool_call(bus, "a"))

            assert recorder.flush(0) is True

    def test_a_path_that_cannot_be_opened_is_refused_at_once(self, tmp_path: Path) -> None:
        """
        A wrong path is the caller's to hear of, and the message says what to do.
        """
        with pytest.raises(TraceExporterError, match="make the folder"):
            file_exporter(tmp_path / "missing" / "spans.jsonl")

    def test_nothing_is_written_after_the_close(self, bus: Bus, tmp_path: Path) -> None:
        """
        Spans that come too late are refused, not lost in silence.
        """
        path = tmp_path / "spans.jsonl"
        with to_file(path) as recorder:
            pass

        with pytest.raises(SpanExportError):
            recorder.write(tool_call(bus, "late"))

        assert "" == path.read_text()


@contextmanager
def to_file(path: Path | str) -> Iterator[SpanRecorder]:
    """
    Record into a file that is closed after the block.
    """
    recorder = SpanRecorder(file_exporter(path))
    try:
        yield recorder
    finally:
        recorder.close(1)


def tool_call(bus: Bus, name: str) -> list[Envelope[Event]]:
    """
    Return the envelopes of one tool call.
    """
    return envelopes(
        bus, ToolStarted(tool_call_id=name, tool_name=name), ToolCompleted(tool_call_id=name)
    )


class TestConsole:
    def test_a_span_is_a_line_on_the_stream(self, bus: Bus) -> None:
        """
        Each batch is on the stream when it was written.
        """
        stream = io.StringIO()

        SpanRecorder(console_exporter(stream)).write(tool_call(bus, "a"))

        assert "execute_tool a" == json.loads(stream.getvalue())["name"]

    def test_the_stream_is_stderr(self, bus: Bus, capsys: pytest.CaptureFixture[str]) -> None:
        """
        Standard output is the application's own.
        """
        SpanRecorder(console_exporter()).write(tool_call(bus, "a"))

        out, err = capsys.readouterr()
        assert ("", "execute_tool a") == (out, json.loads(err)["name"])

    def test_a_terminal_is_not_at_the_mercy_of_a_model(self, bus: Bus) -> None:
        """
        Control characters and bidirectional overrides arrive as escapes.
        """
        stream = io.StringIO()
        nasty = "\x1b]0;x\x07\u009b2J\u202e\u2028\n"

        SpanRecorder(console_exporter(stream)).write(tool_call(bus, nasty))

        line = stream.getvalue().removesuffix("\n")
        assert line.isascii()
        assert line.isprintable()
        assert f"execute_tool {nasty}" == json.loads(line)["name"]


class TestOtlpExtra:
    @pytest.mark.parametrize(
        ("variables", "missing", "message"),
        [
            ({}, "http", r"opentelemetry-exporter-otlp-proto-http .*install harken\[otlp\]"),
            (
                {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
                "grpc",
                r"opentelemetry-exporter-otlp-proto-grpc .*install harken\[otlp-grpc\]",
            ),
            (
                {
                    "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
                    "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "grpc",
                },
                "grpc",
                "proto-grpc",
            ),
            (
                {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"},
                "http",
                "set OTEL_EXPORTER_OTLP_PROTOCOL to http/protobuf or grpc",
            ),
        ],
    )
    def test_an_exporter_that_is_missing_is_named(
        self,
        monkeypatch: pytest.MonkeyPatch,
        variables: Mapping[str, str],
        missing: str,
        message: str,
    ) -> None:
        """
        Without the package for the protocol, the error says what to install or to set.
        """
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        package = f"opentelemetry.exporter.otlp.proto.{missing}.trace_exporter"
        monkeypatch.setitem(sys.modules, package, None)

        with pytest.raises(TraceExporterError, match=message):
            SpanRecorder()


class TestCurrentSpan:
    def test_it_is_told_as_a_traceparent(self) -> None:
        """
        The application's current span, as the W3C writes it; outside of any there is none.
        """
        outside = current_traceparent()
        tracer = TracerProvider(shutdown_on_exit=False).get_tracer("app")

        with tracer.start_as_current_span("own") as own:
            inside = current_traceparent()

        context = own.get_span_context()
        flags = int(context.trace_flags)
        assert (None, f"00-{context.trace_id:032x}-{context.span_id:016x}-{flags:02x}") == (
            outside,
            inside,
        )

    def test_events_join_the_trace_of_the_application(self, bus: Bus, record: Record) -> None:
        """
        With a recorder attached, what is published inside of the application's span is below it.
        """
        recording = attach(bus, record())
        tracer = TracerProvider(shutdown_on_exit=False).get_tracer("app")

        with tracer.start_as_current_span("own") as own, bus.operation(RunStarted()):
            pass
        with bus.operation(ToolStarted(tool_name="t")):
            pass

        context = own.get_span_context()
        inside = ids(recording.by_name["invoke_agent"])
        outside = ids(recording.by_name["execute_tool t"])
        assert (f"{context.trace_id:032x}", f"{context.span_id:016x}") == (inside[0], inside[2])
        assert (True, None) == (inside[0] != outside[0], outside[2])

    def test_a_trace_that_the_application_does_not_sample(self, bus: Bus, record: Record) -> None:
        """
        What the application does not record of a trace, harken does not record either.
        """
        recording = attach(bus, record())
        tracer = TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False).get_tracer("app")

        with tracer.start_as_current_span("own"), bus.operation(RunStarted()):
            pass

        assert [] == recording.spans

    def test_it_serves_without_a_recorder(self, bus: Bus) -> None:
        """
        Audit records and log lines can join the application's trace where no spans are made.
        """
        use_current_span()
        tracer = TracerProvider(shutdown_on_exit=False).get_tracer("app")
        state = trace.TraceState([("vendor", "x")])
        remote = trace.SpanContext(
            int(TRACE, 16), int(PARENT, 16), True, trace.TraceFlags(1), state
        )

        with (
            capture(bus) as heard,
            tracer.start_as_current_span(
                "own", context=trace.set_span_in_context(trace.NonRecordingSpan(remote))
            ),
        ):
            bus.publish(Noted())
            with harken.scope():
                env = harken.child_env({})

        assert TRACE == heard.envelopes[0].trace_id
        assert "vendor=x" == env["TRACESTATE"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork() here")
class TestFork:
    def test_a_child_has_nothing_of_its_parents(self, tmp_path: Path) -> None:
        """
        A forked child writes its own spans, in lines of their own, and ends none of its parent's.
        """
        path = tmp_path / "spans.jsonl"
        bus = Bus()
        bus.attach(SpanRecorder(file_exporter(path), point_events="span_events"))
        with bus.operation(RunStarted()):
            bus.publish(Noted())
            bus.flush()
            child = os.fork()
            if child == 0:
                with harken.scope(), bus.operation(ToolStarted(tool_name="child")):
                    pass
                bus.close()
                os._exit(0)
            os.waitpid(child, 0)
        bus.close()
        register_trace_source(None)

        lines = lines_of(path)
        assert [("execute_tool child", []), ("invoke_agent", ["otel_test.noted"])] == [
            (line["name"], [event["name"] for event in line["events"]]) for line in lines
        ]
        assert 2 == len({line["span_id"] for line in lines})

    def test_in_the_middle_of_a_write(self, tmp_path: Path) -> None:
        """
        Children that are forked while another thread writes leave no empty line behind, and what
        they flush was not lost by their parent.
        """
        path = tmp_path / "spans.jsonl"
        bus = Bus()
        bus.attach(SpanRecorder(file_exporter(path)))
        stopped = threading.Event()

        def publish() -> None:
            while not stopped.wait(0.0001):
                with bus.operation(ToolStarted(tool_name="parent")):
                    pass

        thread = threading.Thread(target=publish)
        thread.start()
        codes: list[int] = []
        for _ in range(15):
            child = os.fork()
            if child == 0:
                with bus.operation(ToolStarted(tool_name="child")):
                    pass
                os._exit(0 if bus.flush() else 1)
            codes.append(os.waitpid(child, 0)[1])
        stopped.set()
        thread.join()
        bus.close()
        register_trace_source(None)

        assert {0} == set(codes)
        assert 15 == names_in(path).count("execute_tool child")

    def test_what_was_gathered_is_forgotten(self, bus: Bus) -> None:
        """
        After a fork no span has events that its parent process had heard.
        """
        exporter = Kept()
        recorder = SpanRecorder(exporter, point_events="span_events")
        with capture(bus) as heard, bus.operation(ToolStarted(tool_name="t")):
            bus.publish(Noted())
        recorder.write(heard.envelopes[:2])

        recorder.after_fork()
        recorder.write(heard.envelopes[2:])

        assert [()] == [span.events for span in exporter.spans]

    def test_a_provider_renews_itself(self, record: Record, bus: Bus) -> None:
        """
        After a fork both ways out go on.
        """
        recording = record()

        recording.recorder.after_fork()
        recording.recorder.write(tool_call(bus, "a"))

        assert "execute_tool a" == recording.span.name
