"""
The Prometheus sink: what is counted, within which bounds, and how it is exposed.
"""

from __future__ import annotations

import fcntl
import gc
import logging
import math
import os
import re
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, strategies as st
from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics import exposition, parser
from prometheus_client.parser import text_string_to_metric_families as parse_text
from prometheus_client.samples import Sample

import harken
from harken import Bus, Envelope, Event, Outcome, catalog, event_types, schema
from harken.catalog import (
    ApprovalDenied,
    ApprovalExpired,
    ApprovalGranted,
    ApprovalRequested,
    AuditCheckpoint,
    AuditOpened,
    BudgetWarning,
    CommandCompleted,
    CommandStarted,
    ContextAssembled,
    CredentialDenied,
    CredentialIssued,
    ErrorRaised,
    GuardEvaluated,
    GuardViolated,
    HumanInputReceived,
    HumanInputRequested,
    HumanInputTimedOut,
    LlmCompleted,
    LlmStarted,
    PhaseCompleted,
    PhaseStarted,
    PipelineTriggered,
    PlanApplied,
    PlanCreated,
    PolicyEvaluated,
    PrCreated,
    RunCompleted,
    RunStarted,
    SessionEnded,
    SessionStarted,
    TaskDequeued,
    TaskEnqueued,
    ToolCompleted,
    ToolDenied,
    ToolFailed,
    ToolStarted,
)
from harken.errors import MetricsServerError, SettingsError
from harken.forward import ForwardMeasured
from harken.sinks.audit import AuditLog
from harken.sinks.prometheus import INSTRUMENTS, Instrument, PrometheusInstrumenter
from harken.sinks.prometheus._feeding import Memory, Plan, Steps
from harken.sinks.prometheus._relatives import Process, holder_of, this_process
from harken.sinks.prometheus.rows import (
    AUDITED,
    Feed,
    Read,
    adds,
    closes,
    counter,
    counts,
    field,
    gauge,
    given as chosen,
    histogram,
    number,
    observes,
    opens,
    sets,
)
from harken.testing import Captured, FixedClock, capture

# The library does not say their types.
generate_openmetrics: Callable[[CollectorRegistry], bytes] = exposition.generate_latest
parse_openmetrics: Callable[[str], Iterator[Metric]] = parser.text_string_to_metric_families

OPENMETRICS = "application/openmetrics-text; version=1.0.0"


DEPLOYED = "test.deployed"


class Color(str, Enum):
    """
    Words that are not shown as they are written.
    """

    red = "red"


class Deployed(Event, name="test.deployed", outcome="success"):
    """
    An event of the application's own.
    """

    service: object = ""
    region: object = ""
    size: object = None


class Rude(Event, name="test.rude", outcome="success"):
    """
    An event that cannot be read.
    """

    service: object = ""

    @property
    def region(self) -> str:
        raise LookupError("no")

    @property
    def size(self) -> float:
        raise LookupError("no")


@pytest.fixture
def metrics() -> Iterator[PrometheusInstrumenter]:
    """
    An instrumenter of its own registry that neither serves nor writes.
    """
    instrumenter = PrometheusInstrumenter()
    yield instrumenter
    instrumenter.close()


@pytest.fixture
def bus(metrics: PrometheusInstrumenter) -> Iterator[Bus]:
    """
    A bus whose events are counted before publish returns.
    """
    bus = Bus()
    bus.attach(metrics, delivery="inline")
    yield bus
    bus.close()


def value(metrics: PrometheusInstrumenter, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def samples(metrics: PrometheusInstrumenter, name: str) -> list[Sample]:
    return [
        sample
        for family in metrics.registry.collect()
        for sample in family.samples
        if sample.name == name
    ]


def series(metrics: PrometheusInstrumenter, name: str) -> dict[tuple[str, ...], float]:
    """
    What *name* shows, by label values in order of the labels' names, zeros left out.
    """
    return {
        tuple(text for _, text in sorted(sample.labels.items())): sample.value
        for sample in samples(metrics, name)
        if sample.value
    }


def get(metrics: PrometheusInstrumenter, path: str = "/metrics", **headers: str) -> tuple[str, str]:
    """
    The content type and the text of an answer.
    """
    request = urllib.request.Request(f"http://127.0.0.1:{metrics.port}{path}", headers=headers)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return answer.headers["Content-Type"], answer.read().decode()


def wait_until(condition: Callable[[], bool]) -> None:
    for _ in range(3000):
        if condition():
            return
        time.sleep(0.01)
    pytest.fail("it did not happen within 30 seconds")


def usual(kind: type[Event], name: str) -> set[tuple[str, float]]:
    """
    What the catalog says that a field usually is, at zero.
    """
    return {(text, 0.0) for text in schema(kind)["properties"][name]["examples"]}


def one_of_each_kind() -> list[Event]:
    """
    Events that feed every instrument.
    """
    return [
        RunStarted(),
        RunCompleted(iterations=2, tool_calls=3),
        PhaseStarted(phase="repo_clone"),
        PhaseCompleted(phase="repo_clone"),
        LlmStarted(llm_call_id="1", model="m"),
        LlmCompleted(
            llm_call_id="1",
            input_tokens=5,
            output_tokens=5,
            cache_read_tokens=1,
            cache_write_tokens=1,
            reasoning_tokens=1,
            ttft_ms=1,
            cost_usd=0.5,
        ),
        TaskEnqueued(task_id="t", queue="q", depth=2),
        TaskDequeued(task_id="t", queue="q", depth=1, wait_ms=1),
        PrCreated(url="u"),
        CredentialIssued(credential_id="c", scope="repo"),
        PlanCreated(plan_id="p"),
        PlanApplied(plan_id="p"),
        ToolStarted(tool_name="t", tool_call_id="1"),
        ToolCompleted(tool_call_id="1"),
        ContextAssembled(fragments=2, budget_utilization=0.5, duration_ms=1),
        PolicyEvaluated(policy_id="p", decision="allow"),
        GuardViolated(guard_name="g", action_taken="blocked"),
        ApprovalRequested(approval_id="a"),
        ApprovalGranted(approval_id="a", wait_ms=1),
        PipelineTriggered(pipeline_id="p", kind="apply"),
        BudgetWarning(budget_type="tokens"),
        ErrorRaised(component="c", error_type="E"),
        CommandStarted(command="deploy", request_id="c"),
        CommandCompleted(request_id="c", ok=True),
        AuditOpened(path_digest="d", resumed_from_seq=4),
        ForwardMeasured(
            target="t",
            source="/s",
            lag_bytes=1,
            lag_seconds=0.5,
            stalled=True,
            records=1,
            rejected=1,
            failures=1,
        ),
    ]


class TestTable:
    """
    The instruments as they are declared.
    """

    def test_events_exist(self) -> None:
        """
        Every event that an instrument waits for is in the catalog, or a forwarder's.
        """
        waited_for = {name for one in INSTRUMENTS for feed in one.feeds for name in feed.on}

        assert set() == waited_for - {AUDITED} - event_types().keys()

    def test_names_are_the_dashboards(self) -> None:
        """
        The domain's metrics have the names and labels that dashboards ask for.
        """
        named = {one.name: (one.kind, tuple(one.labels)) for one in INSTRUMENTS}

        assert {
            "sessions_active": ("gauge", ("agent_slug",)),
            "tasks": ("counter", ("agent_slug", "task_type", "status")),
            "task_duration_seconds": ("histogram", ("agent_slug", "task_type", "status")),
            "task_iterations": ("histogram", ("agent_slug",)),
            "task_tool_calls": ("histogram", ("agent_slug",)),
            "phase_duration_seconds": ("histogram", ("phase",)),
            "tokens": ("counter", ("agent_slug", "model", "token_type")),
            "cached_input_tokens": ("counter", ("agent_slug", "model", "cache")),
            "reasoning_output_tokens": ("counter", ("agent_slug", "model")),
            "queue_depth": ("gauge", ("queue",)),
            "queue_wait_seconds": ("histogram", ("queue",)),
            "prs_created": ("counter", ("agent_slug",)),
            "credentials_issued": ("counter", ("agent_slug", "scope_class")),
            "plans": ("counter", ("status",)),
            "plan_duration_seconds": ("histogram", ("status",)),
            "plans_in_progress": ("gauge", ()),
            "tool_calls": ("counter", ("tool", "status")),
            "tool_call_duration_seconds": ("histogram", ("tool", "status")),
            "tool_calls_in_progress": ("gauge", ()),
            "llm_requests": ("counter", ("provider", "model", "operation", "status")),
            "llm_request_duration_seconds": ("histogram", ("provider", "model", "operation")),
            "llm_time_to_first_chunk_seconds": ("histogram", ("provider", "model")),
            "llm_cost_usd": ("counter", ("agent_slug", "model")),
            "context_assemblies": ("counter", ("status",)),
            "context_assembly_duration_seconds": ("histogram", ()),
            "context_fragments": ("histogram", ()),
            "context_budget_utilization_ratio": ("histogram", ()),
            "policy_evaluations": ("counter", ("decision",)),
            "guard_violations": ("counter", ("guard", "action")),
            "approvals": ("counter", ("decision",)),
            "approval_wait_seconds": ("histogram", ()),
            "questions_asked": ("counter", ("kind",)),
            "questions_settled": ("counter", ("kind",)),
            "pipelines_triggered": ("counter", ("pipeline_type",)),
            "budget_warnings": ("counter", ("budget",)),
            "errors": ("counter", ("component", "error_type")),
            "commands": ("counter", ("command", "status")),
            "command_duration_seconds": ("histogram", ("command", "status")),
            "audit_records": ("counter", ("outcome",)),
            "audit_last_sequence": ("gauge", ()),
            "forward_lag_bytes": ("gauge", ("source", "target")),
            "forward_lag_seconds": ("gauge", ("source", "target")),
            "forward_stalled": ("gauge", ("source", "target")),
            "forward_records": ("counter", ("source", "target")),
            "forward_rejected": ("counter", ("source", "target")),
            "forward_failures": ("counter", ("source", "target")),
        } == named

    def test_buckets(self) -> None:
        """
        Calls are measured from 10 ms to 82 s, longer things from 1 s to 2 h.
        """
        buckets = {one.name: one.buckets for one in INSTRUMENTS}

        assert (
            (1, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200),
            tuple(0.01 * 2**doubled for doubled in range(14)),
            (1, 2, 4, 8, 16, 32, 64, 128),
        ) == (
            buckets["task_duration_seconds"],
            buckets["tool_call_duration_seconds"],
            buckets["task_iterations"],
        )

    def test_closed_sets_are_there_from_the_start(self, metrics: PrometheusInstrumenter) -> None:
        """
        Every outcome of a plan is exposed at zero before any plan ended: a rate sees the first.
        """
        statuses = {
            s.labels["status"]: s.value for s in samples(metrics, "infra_agent_plans_total")
        }

        assert {outcome.value: 0.0 for outcome in Outcome} == statuses

    def test_usual_values_are_there_from_the_start(
        self, bus: Bus, metrics: PrometheusInstrumenter
    ) -> None:
        """
        What the catalog says a budget or a pipeline usually is, is exposed at zero; others may come.
        """
        before = samples(metrics, "infra_agent_budget_warnings_total")
        pipelines = samples(metrics, "infra_agent_pipelines_triggered_total")

        for budget in ("cost", "patience"):
            bus.publish(BudgetWarning(budget_type=budget))

        assert (usual(BudgetWarning, "budget_type"), usual(PipelineTriggered, "kind")) == (
            {(s.labels["budget"], s.value) for s in before},
            {(s.labels["pipeline_type"], s.value) for s in pipelines},
        )
        assert {("cost",): 1.0, ("patience",): 1.0} == series(
            metrics, "infra_agent_budget_warnings_total"
        )

    @pytest.mark.parametrize(
        ("event", "metric", "labels"),
        [
            (
                RunStarted(),
                "credentials_issued",
                {"agent_slug": "fixer", "scope_class": ""},
            ),
            (
                CredentialDenied(scope="deploy:production"),
                "credentials_issued",
                {"agent_slug": "fixer", "scope_class": "deploy"},
            ),
            (
                GuardEvaluated(guard_name="pii", passed=True),
                "guard_violations",
                {"action": "", "guard": "pii"},
            ),
        ],
    )
    def test_what_may_come_is_there_at_zero(
        self,
        bus: Bus,
        metrics: PrometheusInstrumenter,
        event: Event,
        metric: str,
        labels: dict[str, str],
    ) -> None:
        """
        An event that says of whom or of what something may be counted makes its series, at zero.
        """
        with harken.scope(actor="agent:fixer"):
            bus.publish(event)

        assert [(labels, 0.0)] == [
            (dict(s.labels), s.value) for s in samples(metrics, f"infra_agent_{metric}_total")
        ]

    def test_questions(self, bus: Bus, metrics: PrometheusInstrumenter) -> None:
        """
        Questions to people and their ends are counted apart, from zero; an end counts whoever
        asked, since that may have been another process.
        """
        before = [
            {s.labels["kind"]: s.value for s in samples(metrics, f"infra_agent_questions_{name}")}
            for name in ("asked_total", "settled_total")
        ]
        for event in (
            ApprovalRequested(approval_id="a"),
            HumanInputRequested(request_id="h"),
            ApprovalExpired(approval_id="asked elsewhere"),
            ApprovalDenied(approval_id="a"),
            HumanInputTimedOut(request_id="h"),
        ):
            bus.publish(event)

        assert [{"approval": 0.0, "human_input": 0.0}] * 2 == before
        assert (
            {("approval",): 1.0, ("human_input",): 1.0},
            {("approval",): 2.0, ("human_input",): 1.0},
        ) == (
            series(metrics, "infra_agent_questions_asked_total"),
            series(metrics, "infra_agent_questions_settled_total"),
        )

    def test_what_was_never_said_is_not_zero(self, metrics: PrometheusInstrumenter) -> None:
        """
        Without an audit log there is no number of its last line.
        """
        assert [] == samples(metrics, "harken_audit_last_sequence")

    def test_namespace(self) -> None:
        """
        The namespace stands before the domain's metrics, and only there; it may be empty.
        """
        named = PrometheusInstrumenter(namespace="acme")
        bare = PrometheusInstrumenter(namespace="")

        assert (0.0, 0.0, 0.0) == (
            value(named, "acme_plans_in_progress"),
            value(bare, "plans_in_progress"),
            value(named, "harken_audit_records_total", outcome="success"),
        )

    @pytest.mark.parametrize(
        ("instrument", "message"),
        [
            (counter("a.b", "", {}, counts("x.y")), "'infra_agent_a.b' is no metric name"),
            (counter("a", "", {"b-c": field("b")}), "infra_agent_a: 'b-c' cannot be a label"),
            (counter("a", "", {"__b": field("b")}), "infra_agent_a: '__b' cannot be a label"),
            (
                histogram("a", "", {"le": field("b")}, (1.0,)),
                "'le' cannot be a label of a histogram",
            ),
            (counter("plans", "", {}), "two metrics are called 'infra_agent_plans'"),
            (counter("a", "", {}, opens("x.y")), "infra_agent_a: only a gauge can open"),
            (histogram("a", "", {}, ()), "infra_agent_a: the buckets of a histogram must be"),
            (histogram("a", "", {}, (2.0, 1.0)), "infra_agent_a: the buckets of a histogram must"),
            (histogram("a", "", {}, (1.0, math.inf)), "infra_agent_a: the buckets of a histogram"),
        ],
    )
    def test_rows_are_checked(self, instrument: Instrument, message: str) -> None:
        """
        A row that Prometheus would not take, or whose name is taken, is refused when it is given.
        """
        with pytest.raises(SettingsError, match=message):
            PrometheusInstrumenter(instruments=(*INSTRUMENTS, instrument))

    def test_own_instruments(self) -> None:
        """
        An application measures its own events with rows of its own.
        """
        metrics = PrometheusInstrumenter(
            namespace="acme",
            instruments=(
                *INSTRUMENTS,
                counter(
                    "deploys_total", "Deploys.", {"service": field("service")}, counts(DEPLOYED)
                ),
                histogram(
                    "deploy_bytes",
                    "Size of deploys.",
                    {},
                    (1000.0, 1e6),
                    observes(number("size"), DEPLOYED),
                ),
            ),
        )
        bus = Bus()
        bus.attach(metrics, delivery="inline")

        bus.publish(Deployed(service="web", size=1000))

        assert (1.0, 1.0, 1000.0) == (
            value(metrics, "acme_deploys_total", service="web"),
            value(metrics, "acme_deploy_bytes_bucket", le="1000.0"),
            value(metrics, "acme_deploy_bytes_sum"),
        )


class TestWhatIsCounted:
    """
    What the catalog's events do to the domain's metrics.
    """

    @pytest.mark.parametrize(
        ("events", "name", "expected"),
        [
            (
                [TaskEnqueued(task_id="t", queue="q", depth=4)],
                "queue_depth",
                {("q",): 4.0},
            ),
            (
                [
                    TaskEnqueued(task_id="t", queue="q", depth=4),
                    TaskDequeued(task_id="t", queue="q"),
                ],
                "queue_depth",
                {},
            ),
            (
                [TaskDequeued(task_id="t", queue="q", wait_ms=2500)],
                "queue_wait_seconds_sum",
                {("q",): 2.5},
            ),
            ([PrCreated(url="u"), PrCreated(url="v")], "prs_created_total", {("billing",): 2.0}),
            (
                [CredentialIssued(credential_id="c", scope="repo:acme/site:write")],
                "credentials_issued_total",
                {("billing", "repo"): 1.0},
            ),
            (
                [CredentialIssued(credential_id="c", scope="")],
                "credentials_issued_total",
                {("billing", ""): 1.0},
            ),
            ([ContextAssembled()], "context_assemblies_total", {("success",): 1.0}),
            (
                [ContextAssembled(duration_ms=250)],
                "context_assembly_duration_seconds_sum",
                {(): 0.25},
            ),
            ([ContextAssembled(fragments=12)], "context_fragments_sum", {(): 12.0}),
            (
                [ContextAssembled(budget_utilization=0.5)],
                "context_budget_utilization_ratio_sum",
                {(): 0.5},
            ),
            (
                [PolicyEvaluated(policy_id="p", decision="deny")],
                "policy_evaluations_total",
                {("deny",): 1.0},
            ),
            (
                [PolicyEvaluated(policy_id="p", decision="perhaps")],
                "policy_evaluations_total",
                {("__other__",): 1.0},
            ),
            (
                [GuardViolated(guard_name="pii", action_taken="blocked")],
                "guard_violations_total",
                {("blocked", "pii"): 1.0},
            ),
            (
                [
                    ApprovalGranted(approval_id="1", wait_ms=1000),
                    ApprovalDenied(approval_id="2", wait_ms=2000),
                    ApprovalExpired(approval_id="3", wait_ms=4000),
                ],
                "approvals_total",
                {("granted",): 1.0, ("denied",): 1.0, ("expired",): 1.0},
            ),
            (
                [
                    ApprovalGranted(approval_id="1", wait_ms=1000),
                    ApprovalDenied(approval_id="2", wait_ms=2000),
                    ApprovalExpired(approval_id="3", wait_ms=4000),
                    HumanInputReceived(request_id="4", wait_ms=8000),
                ],
                "approval_wait_seconds_sum",
                {(): 15.0},
            ),
            (
                [PipelineTriggered(pipeline_id="p", kind="apply")],
                "pipelines_triggered_total",
                {("apply",): 1.0},
            ),
            (
                [BudgetWarning(budget_type="tokens")],
                "budget_warnings_total",
                {("tokens",): 1.0},
            ),
            (
                [ErrorRaised(component="broker", error_type="KeyError")],
                "errors_total",
                {("broker", "KeyError"): 1.0},
            ),
            (
                [CommandCompleted(command="deploy", ok=True, duration_ms=1500)],
                "commands_total",
                {("deploy", "success"): 1.0},
            ),
            (
                [
                    CommandStarted(command="deploy", request_id="r"),
                    CommandCompleted(request_id="r", ok=False),
                ],
                "commands_total",
                {("deploy", "failure"): 1.0},
            ),
            (
                [CommandCompleted(command="deploy", ok=True, duration_ms=1500)],
                "command_duration_seconds_sum",
                {("deploy", "success"): 1.5},
            ),
        ],
    )
    def test_events(
        self,
        bus: Bus,
        metrics: PrometheusInstrumenter,
        events: list[Event],
        name: str,
        expected: dict[tuple[str, ...], float],
    ) -> None:
        """
        An event feeds what the table says, under the labels that it says.
        """
        with harken.scope(actor="agent:billing"):
            for event in events:
                bus.publish(event)

        assert expected == series(metrics, f"infra_agent_{name}")

    def test_each_instrument_is_fed(self, bus: Bus, metrics: PrometheusInstrumenter) -> None:
        """
        Whatever the table names shows something once an agent has done a bit of everything.
        """
        with harken.scope(actor="agent:billing", session_id="s", run_id="r"):
            bus.publish(SessionStarted())
            bus.publish(PlanCreated(plan_id="open"))
            bus.publish(ToolStarted(tool_name="open", tool_call_id="open"))
            for event in one_of_each_kind():
                bus.publish(event)

        fed = {
            family.name
            for family in metrics.registry.collect()
            for sample in family.samples
            if sample.value and not sample.name.endswith("_created")
        }
        named = {
            f"{'infra_agent' if one.prefix is None else one.prefix}_{one.name}"
            for one in INSTRUMENTS
        }
        assert set() == named - fed

    def test_audit_log(self, bus: Bus, metrics: PrometheusInstrumenter) -> None:
        """
        What belongs into the audit log is counted by outcome, and its last line is known.
        """
        bus.publish(AuditOpened(path_digest="sha256:00", resumed_from_seq=40))
        bus.publish(AuditCheckpoint(path_digest="sha256:00", seq=41))
        bus.publish(ToolStarted(tool_name="search", tool_call_id="t"))
        bus.publish(ToolCompleted(tool_call_id="t"))
        bus.publish(PolicyEvaluated(policy_id="p", decision="deny"))
        bus.publish(Deployed(), audit=True)

        assert (
            {("started",): 1.0, ("success",): 2.0, ("denied",): 1.0},
            41.0,
        ) == (
            series(metrics, "harken_audit_records_total"),
            value(metrics, "harken_audit_last_sequence"),
        )

    def test_run(self, bus: Bus, metrics: PrometheusInstrumenter) -> None:
        """
        A run counts once, by its outcome, with the type of the task from its start.
        """
        with harken.scope(run_id="r-1", actor="agent:fixer"):
            bus.publish(RunStarted(task_type="repair"))
            bus.publish(RunCompleted(iterations=3, tool_calls=5))

        assert (
            {("fixer", "success", "repair"): 1.0},
            {("fixer", "success", "repair"): 1.0},
            {("fixer",): 3.0},
            {("fixer",): 5.0},
        ) == (
            series(metrics, "infra_agent_tasks_total"),
            series(metrics, "infra_agent_task_duration_seconds_count"),
            series(metrics, "infra_agent_task_iterations_sum"),
            series(metrics, "infra_agent_task_tool_calls_sum"),
        )

    def test_series_of_a_run_begin_at_its_start(
        self, bus: Bus, metrics: PrometheusInstrumenter
    ) -> None:
        """
        When a run begins, what may come of it is exposed at zero.
        """
        with harken.scope(run_id="r-1", actor="agent:fixer"):
            bus.publish(RunStarted(task_type="repair"))

        assert (
            {("fixer", outcome.value, "repair") for outcome in Outcome},
            0.0,
        ) == (
            {
                tuple(text for _, text in sorted(sample.labels.items()))
                for sample in samples(metrics, "infra_agent_tasks_total")
            },
            value(metrics, "infra_agent_prs_created_total", agent_slug="fixer"),
        )

    def test_phase(self, bus: Bus, metrics: PrometheusInstrumenter) -> None:
        """
        A phase is measured by its name.
        """
        with bus.operation(PhaseStarted(phase="repo_clone")):
            pass
        bus.publish(PhaseCompleted(phase="session_restore", duration_ms=30_000))
        bus.flush()

        assert (
            {("repo_clone",): 1.0, ("session_restore",): 1.0},
            30.0,
        ) == (
            series(metrics, "infra_agent_phase_duration_seconds_count"),
            value(metrics, "infra_agent_phase_duration_seconds_sum", phase="session_restore"),
        )

    def test_model(self, bus: Bus, metrics: PrometheusInstrumenter) -> None:
        """
        Tokens, cost and times of a model's call are counted once; parts have their own metrics.
        """
        with (
            harken.scope(actor="agent:fixer"),
            bus.operation(LlmStarted(model="large", provider="acme")) as call,
        ):
            call.complete(
                input_tokens=100,
                output_tokens=20,
                reasoning_tokens=5,
                cache_read_tokens=60,
                cache_write_tokens=10,
                cost_usd=0.25,
                ttft_ms=40,
            )

        assert (
            {("fixer", "large", "input"): 100.0, ("fixer", "large", "output"): 20.0},
            {("read", "fixer", "large"): 60.0, ("write", "fixer", "large"): 10.0},
            {("fixer", "large"): 5.0},
            {("fixer", "large"): 0.25},
            {("large", "chat", "acme", "success"): 1.0},
            {("large", "chat", "acme"): 1.0},
            {("large", "acme"): 0.04},
        ) == (
            {
                (labels[0], labels[1], labels[2]): count
                for labels, count in series(metrics, "infra_agent_tokens_total").items()
            },
            {
                (labels[1], labels[0], labels[2]): count
                for labels, count in series(
                    metrics, "infra_agent_cached_input_tokens_total"
                ).items()
            },
            series(metrics, "infra_agent_reasoning_output_tokens_total"),
            series(metrics, "infra_agent_llm_cost_usd_total"),
            series(metrics, "infra_agent_llm_requests_total"),
            series(metrics, "infra_agent_llm_request_duration_seconds_count"),
            series(metrics, "infra_agent_llm_time_to_first_chunk_seconds_sum"),
        )

    def test_unknown_cost_is_not_zero(self, bus: Bus, metrics: PrometheusInstrumenter) -> None:
        """
        A call whose cost nobody computed leaves no series of cost behind.
        """
        bus.publish(LlmCompleted(model="large", input_tokens=1))

        assert [] == samples(metrics, "infra_agent_llm_cost_usd_total")

    def test_outcomes_of_tools(self, bus: Bus, metrics: PrometheusInstrumenter) -> None:
        """
        The status of a tool call is the outcome of its operation, however it ended.
        """
        with bus.operation(ToolStarted(tool_name="search")):
            pass
        with bus.operation(ToolStarted(tool_name="search")) as call:
            call.deny("not now")
        with pytest.raises(TimeoutError), bus.operation(ToolStarted(tool_name="search")):
            raise TimeoutError
        with pytest.raises(ValueError, match="x"), bus.operation(ToolStarted(tool_name="search")):
            raise ValueError("x")
        bus.publish(ToolFailed(tool_name="fetch", outcome="lost"))
        bus.publish(ToolDenied(tool_name="fetch"))

        assert {
            ("success", "search"): 1.0,
            ("denied", "search"): 1.0,
            ("timeout", "search"): 1.0,
            ("failure", "search"): 1.0,
            ("unknown", "fetch"): 1.0,
            ("denied", "fetch"): 1.0,
        } == series(metrics, "infra_agent_tool_calls_total")

    def test_clock_that_steps_back(self, metrics: PrometheusInstrumenter) -> None:
        """
        Durations are by the monotonic clock; where only the wall clock knows and says less than
        nothing, there is no duration, and the call counts all the same.
        """
        clock = FixedClock()
        bus = Bus(clock=clock)
        bus.attach(metrics, delivery="inline")

        with bus.operation(ToolStarted(tool_name="search")):
            clock.advance(2)
            clock.advance(-3600)
        started = ToolStarted(tool_name="read", tool_call_id="1")
        bus.publish(started, time=datetime(2026, 1, 1, 12, tzinfo=UTC))
        bus.publish(ToolCompleted(tool_call_id="1"), time=datetime(2026, 1, 1, 11, tzinfo=UTC))
        bus.close()

        assert {("success", "search"): 2.0} == series(
            metrics, "infra_agent_tool_call_duration_seconds_sum"
        )
        assert {("success", "search"): 1.0, ("success", "read"): 1.0} == series(
            metrics, "infra_agent_tool_calls_total"
        )

    def test_clock_that_steps_back_is_seen(self, metrics: PrometheusInstrumenter) -> None:
        """
        Each scrape after which the wall clock was set back counts one; time that passes, a clock
        that is put right by less than a second, or one that is set forward, does not.
        """
        clock = FixedClock()
        bus = Bus(clock=clock)
        bus.attach(metrics, delivery="inline")
        shown = []

        for seconds in (0, 3600, -1, -3600, 0, -2):
            clock.advance(seconds)
            shown.append(value(metrics, "harken_clock_steps_back_total"))
        bus.close()

        assert [0.0, 0.0, 0.0, 1.0, 1.0, 2.0] == shown

    def test_orphans(self, metrics: PrometheusInstrumenter) -> None:
        """
        What nobody ended is counted when the bus closes, and is no longer in progress.
        """
        bus = Bus()
        bus.attach(metrics)
        bus.publish(ToolStarted(tool_name="search"))
        bus.publish(PlanCreated())
        bus.flush()
        before = value(metrics, "infra_agent_tool_calls_in_progress")

        bus.close()

        assert (1.0, 0.0, 0.0, {("orphaned", "search"): 1.0}, {("orphaned",): 1.0}) == (
            before,
            value(metrics, "infra_agent_tool_calls_in_progress"),
            value(metrics, "infra_agent_plans_in_progress"),
            series(metrics, "infra_agent_tool_calls_total"),
            series(metrics, "infra_agent_plans_total"),
        )

    def test_plan(self, bus: Bus, metrics: PrometheusInstrumenter) -> None:
        """
        A plan is in progress until it is applied; then it is counted and measured.
        """
        bus.publish(PlanCreated(plan_id="p"))
        during = value(metrics, "infra_agent_plans_in_progress")
        bus.publish(PlanApplied(plan_id="p"))

        assert (1.0, 0.0, {("success",): 1.0}, {("success",): 1.0}) == (
            during,
            value(metrics, "infra_agent_plans_in_progress"),
            series(metrics, "infra_agent_plans_total"),
            series(metrics, "infra_agent_plan_duration_seconds_count"),
        )

    @pytest.mark.parametrize(
        ("scope", "slug"),
        [
            ({"actor": "agent:fixer", "agent_slug": "other"}, "fixer"),
            ({"actor": "user:ann", "agent_slug": "fixer"}, "fixer"),
            ({"agent_slug": "fixer"}, "fixer"),
            ({"actor": "user:ann"}, ""),
            ({}, ""),
        ],
    )
    def test_agent_slug(
        self, bus: Bus, metrics: PrometheusInstrumenter, scope: dict[str, str], slug: str
    ) -> None:
        """
        The agent is the actor when it is one, else what the scope says, else nobody.
        """
        with harken.scope(**scope):
            bus.publish(PrCreated(url="u"))

        assert {(slug,): 1.0} == series(metrics, "infra_agent_prs_created_total")


class TestInProgress:
    """
    What is going on now.
    """

    def test_sessions_fill_slots_from_below(
        self, bus: Bus, metrics: PrometheusInstrumenter
    ) -> None:
        """
        Each open session is one series of value 1, so that count() and sum() both count sessions.
        """
        for number_ in ("1", "2", "3"):
            with harken.scope(session_id=number_, actor="agent:fixer"):
                bus.publish(SessionStarted())
        with harken.scope(session_id="4"):
            bus.publish(SessionStarted(agent_slug="helper"))
        three = series(metrics, "infra_agent_sessions_active")
        with harken.scope(session_id="1"):
            bus.publish(SessionEnded())

        assert (
            {("fixer", "0"): 1.0, ("fixer", "1"): 1.0, ("fixer", "2"): 1.0, ("helper", "0"): 1.0},
            {("fixer", "0"): 1.0, ("fixer", "1"): 1.0, ("helper", "0"): 1.0},
        ) == (three, series(metrics, "infra_agent_sessions_active"))

    def test_more_sessions_than_series(self) -> None:
        """
        Beyond the limit, sessions are added up in one series.
        """
        metrics = PrometheusInstrumenter(max_series=2)
        bus = Bus()
        bus.attach(metrics, delivery="inline")

        for number_ in range(5):
            with harken.scope(session_id=str(number_)):
                bus.publish(SessionStarted())

        assert {("", "0"): 1.0, ("", "1"): 1.0, ("", "__other__"): 3.0} == series(
            metrics, "infra_agent_sessions_active"
        )
        bus.close()

    def test_attached_late(self, metrics: PrometheusInstrumenter) -> None:
        """
        The end of what began before the sink listened does not show less than nothing.
        """
        bus = Bus()
        bus.subscribe(lambda envelope: None)
        bus.publish(ToolStarted(tool_name="search", tool_call_id="early"))
        bus.attach(metrics, delivery="inline")
        bus.publish(ToolStarted(tool_name="search", tool_call_id="late"))

        bus.publish(ToolCompleted(tool_call_id="early"))

        assert 1.0 == value(metrics, "infra_agent_tool_calls_in_progress")
        bus.close()

    def test_what_is_remembered_is_bounded(
        self, bus: Bus, metrics: PrometheusInstrumenter, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """
        Starts whose ends were lost are forgotten, the oldest first.
        """
        monkeypatch.setattr("harken.sinks.prometheus._feeding.MAX_OPEN", 2)
        for number_ in ("1", "2", "3"):
            bus.publish(ToolStarted(tool_name="search", tool_call_id=number_))
        three = value(metrics, "infra_agent_tool_calls_in_progress")

        bus.publish(ToolCompleted(tool_call_id="1"))
        bus.publish(ToolCompleted(tool_call_id="2"))

        assert (2.0, 1.0) == (three, value(metrics, "infra_agent_tool_calls_in_progress"))


class TestNumbers:
    """
    Numbers that would spoil a metric for ever.
    """

    @pytest.mark.parametrize(
        ("size", "reason"),
        [
            (math.nan, "nan"),
            (Decimal("sNaN"), "nan"),
            (math.inf, "infinite"),
            (Decimal("Infinity"), "infinite"),
            (-math.inf, "negative"),
            (-1, "negative"),
            (-0.5, "negative"),
            (10**400, "too_large"),
            (2.0**53 + 2, "too_large"),
            (Fraction(10**400), "too_large"),
            (True, "not_a_number"),
            ("12", "not_a_number"),
            ([1], "not_a_number"),
            (1j, "not_a_number"),
        ],
    )
    @pytest.mark.parametrize(
        "instrument",
        [
            counter("sizes", "", {}, adds(number("size"), DEPLOYED)),
            gauge("sizes", "", {}, sets(number("size"), DEPLOYED)),
            histogram("sizes", "", {}, (1.0,), observes(number("size"), DEPLOYED)),
        ],
        ids=lambda instrument: instrument.kind,
    )
    def test_refused(self, size: object, reason: str, instrument: Instrument) -> None:
        """
        What no metric can take changes nothing, and is counted with the reason.
        """
        metrics = PrometheusInstrumenter(namespace="t", instruments=(instrument,))
        bus = Bus()
        bus.attach(metrics, delivery="inline")

        def shown() -> list[float]:
            return [
                sample.value
                for name in ("t_sizes", "t_sizes_total", "t_sizes_sum")
                for sample in samples(metrics, name)
            ]

        bus.publish(Deployed(size=2))
        before = shown()
        bus.publish(Deployed(size=size))

        assert ([2.0], [2.0], {("t_sizes", reason): 1.0}) == (
            before,
            shown(),
            series(metrics, "harken_metric_observations_rejected_total"),
        )

    @pytest.mark.parametrize("size", [3, 3.0, Decimal(3), Fraction(3), 0, None])
    def test_taken(self, size: object) -> None:
        """
        Every kind of number is taken; nothing at all feeds nothing.
        """
        instrument = counter("sizes", "", {}, adds(number("size"), DEPLOYED))
        metrics = PrometheusInstrumenter(namespace="t", instruments=(instrument,))
        bus = Bus()
        bus.attach(metrics, delivery="inline")

        bus.publish(Deployed(size=size))

        assert (3.0 if size else 0.0, {}) == (
            value(metrics, "t_sizes_total"),
            series(metrics, "harken_metric_observations_rejected_total"),
        )

    def test_bounds_belong_to_the_bucket_below(self) -> None:
        """
        A number that is a bucket's upper bound falls into it; one above all into infinity.
        """
        instrument = histogram("sizes", "", {}, (1.0, 2.0), observes(number("size"), DEPLOYED))
        metrics = PrometheusInstrumenter(namespace="t", instruments=(instrument,))
        bus = Bus()
        bus.attach(metrics, delivery="inline")

        for size in (0, 1, 1.5, 2, 3):
            bus.publish(Deployed(size=size))

        assert {("1.0",): 2.0, ("2.0",): 4.0, ("+Inf",): 5.0} == series(metrics, "t_sizes_bucket")


class TestLabels:
    """
    Label values come from agents and models, and are not trusted.
    """

    @pytest.mark.parametrize(
        ("name", "shown"),
        [
            ("search", "search"),
            ("Größe ☃", "Größe ☃"),
            ('a"b\\c', 'a"b\\c'),
            ("a\nb\x00\x1b[31m\u202e", "a\ufffdb\ufffd\ufffd[31m\ufffd"),
            ("\ud800", "\ufffd"),
            ("x" * 5000, "x" * 128),
            (None, ""),
            (True, "true"),
            (False, "false"),
            (7, "7"),
            ({"a": 1}, "__other__"),
            (["a"], "__other__"),
            (Color.red, "red"),
        ],
    )
    def test_shown(
        self, bus: Bus, metrics: PrometheusInstrumenter, name: object, shown: str
    ) -> None:
        """
        A label value is short and printable, and the exposition stays readable.
        """
        bus.publish(GuardViolated(guard_name=name, action_taken="x"))  # type: ignore[arg-type]
        bus.publish(GuardViolated(guard_name=name, action_taken="x"))  # type: ignore[arg-type]

        [sample] = [
            sample
            for family in parse_text(generate_latest(metrics.registry).decode())
            for sample in family.samples
            if sample.name == "infra_agent_guard_violations_total"
        ]
        assert ({"guard": shown, "action": "x"}, 2.0) == (sample.labels, sample.value)

    def test_secrets(self, bus: Bus, metrics: PrometheusInstrumenter) -> None:
        """
        A secret in a label value is redacted, each time it comes.
        """
        secret = "ghp_" + "a1B2c3D4e5F6g7H8i9J0" * 2
        for _ in range(3):
            bus.publish(ToolCompleted(tool_name=secret))

        text = generate_latest(metrics.registry).decode()
        assert secret not in text
        assert 3.0 == sum(series(metrics, "infra_agent_tool_calls_total").values())

    def test_secrets_of_a_start(self, bus: Bus, metrics: PrometheusInstrumenter) -> None:
        """
        A label value that comes from the start of an operation is redacted, too.
        """
        secret = "ghp_" + "a1B2c3D4e5F6g7H8i9J0" * 2
        bus.publish(ToolStarted(tool_name=secret, tool_call_id="t"))
        bus.publish(ToolCompleted(tool_call_id="t"))

        text = generate_latest(metrics.registry).decode()
        assert secret not in text

    def test_learnt_values_are_bounded(self, bus: Bus, metrics: PrometheusInstrumenter) -> None:
        """
        The first hundred tools have series of their own; the others share one, and are counted.
        """
        for number_ in range(105):
            bus.publish(ToolCompleted(tool_name=f"tool-{number_}"))
        bus.publish(ToolCompleted(tool_name="tool-104"))
        bus.publish(ToolCompleted(tool_name="tool-0"))

        assert (101, 6.0, 2.0, 6.0) == (
            len(series(metrics, "infra_agent_tool_calls_total")),
            value(metrics, "infra_agent_tool_calls_total", tool="__other__", status="success"),
            value(metrics, "infra_agent_tool_calls_total", tool="tool-0", status="success"),
            value(
                metrics,
                "harken_metric_series_overflowed_total",
                metric="infra_agent_tool_calls",
            ),
        )

    def test_ten_thousand_tools(self, bus: Bus, metrics: PrometheusInstrumenter) -> None:
        """
        An agent that makes up names makes neither series nor memory; no call goes uncounted.
        """
        for number_ in range(10_000):
            bus.publish(ToolCompleted(tool_name=f"made-up-{number_}", duration_ms=1))

        calls = series(metrics, "infra_agent_tool_calls_total")
        overflowed = {
            name: value(metrics, "harken_metric_series_overflowed_total", metric=name)
            for name in ("infra_agent_tool_calls", "infra_agent_tool_call_duration_seconds")
        }
        assert (101, 10_000.0, 9900.0) == (
            len(calls),
            sum(calls.values()),
            calls["success", "__other__"],
        )
        assert {9900.0} == set(overflowed.values())
        assert len(generate_latest(metrics.registry)) < 1_000_000

    def test_series_are_bounded(self) -> None:
        """
        A metric has no more series than it may; what comes later keeps only its closed labels.
        """
        metrics = PrometheusInstrumenter(max_series=40)
        bus = Bus()
        bus.attach(metrics, delivery="inline")

        for number_ in range(20):
            bus.publish(ToolCompleted(tool_name=f"tool-{number_}"))
            bus.publish(ToolFailed(tool_name=f"tool-{number_}"))

        tools = {
            sample.labels["tool"] for sample in samples(metrics, "infra_agent_tool_calls_total")
        }
        assert ({*(f"tool-{number_}" for number_ in range(5)), "__other__"}, 15.0, 15.0, 30.0) == (
            tools,
            value(metrics, "infra_agent_tool_calls_total", tool="__other__", status="success"),
            value(metrics, "infra_agent_tool_calls_total", tool="__other__", status="failure"),
            value(
                metrics,
                "harken_metric_series_overflowed_total",
                metric="infra_agent_tool_calls",
            ),
        )

    def test_size_is_shown(self, bus: Bus, metrics: PrometheusInstrumenter) -> None:
        """
        How many series a metric has is a metric itself.
        """
        bus.publish(ErrorRaised(component="a", error_type="X"))
        bus.publish(ErrorRaised(component="b", error_type="X"))

        assert 2.0 == value(metrics, "harken_metric_series", metric="infra_agent_errors")

    def test_combinations_are_forgotten(self) -> None:
        """
        More combinations of labels than are remembered are still counted right.
        """
        metrics = PrometheusInstrumenter(
            namespace="t",
            max_series=3,
            instruments=(
                counter("by_service", "", {"service": field("service")}, counts(DEPLOYED)),
                counter("by_size", "", {"size": field("size")}, counts(DEPLOYED)),
            ),
        )
        bus = Bus()
        bus.attach(metrics, delivery="inline")

        for _ in range(2):
            for service in ("a", "b", "c"):
                for size in ("x", "y", "z"):
                    bus.publish(Deployed(service=service, size=size))

        assert (
            {("a",): 6.0, ("b",): 6.0, ("c",): 6.0},
            {("x",): 6.0, ("y",): 6.0, ("z",): 6.0},
        ) == (series(metrics, "t_by_service_total"), series(metrics, "t_by_size_total"))

    def test_value_that_no_feed_gives(self) -> None:
        """
        A label for which a row says neither value nor field counts as other.
        """
        metrics = PrometheusInstrumenter(
            namespace="t",
            instruments=(counter("kinds", "", {"kind": chosen("a", "b")}, counts(DEPLOYED)),),
        )
        bus = Bus()
        bus.attach(metrics, delivery="inline")

        bus.publish(Deployed())

        assert {("__other__",): 1.0} == series(metrics, "t_kinds_total")

    @pytest.mark.parametrize("feed", [adds, sets])
    def test_number_that_does_not_fit(self, feed: Callable[[Read, str], Feed]) -> None:
        """
        A number for which a metric has no room goes to the other series, each time counted.
        """
        labels = {"service": field("service"), "region": field("region")}
        metrics = PrometheusInstrumenter(
            namespace="t",
            max_series=2,
            instruments=(gauge("sizes", "", labels, feed(number("size"), DEPLOYED)),),
        )
        bus = Bus()
        bus.attach(metrics, delivery="inline")

        for service, region in (("a", "eu"), ("b", "us"), ("a", "us")) * 2:
            bus.publish(Deployed(service=service, region=region, size=2))

        each = 4.0 if feed is adds else 2.0
        assert (
            {("eu", "a"): each, ("us", "b"): each, ("__other__", "__other__"): each},
            2.0,
        ) == (
            series(metrics, "t_sizes"),
            value(metrics, "harken_metric_series_overflowed_total", metric="t_sizes"),
        )

    def test_first_failure_is_an_increase(self, bus: Bus, metrics: PrometheusInstrumenter) -> None:
        """
        A tool that has worked so far shows zero failures, not none.
        """
        bus.publish(ToolCompleted(tool_name="search"))

        assert 0.0 == value(
            metrics, "infra_agent_tool_calls_total", tool="search", status="failure"
        )


class Angry(str):
    """
    A text that cannot be printed.
    """

    __slots__ = ()

    def __str__(self) -> str:
        raise RuntimeError("no")

    __repr__ = __str__


class Touchy:
    """
    An object that cannot even be compared.
    """

    def __hash__(self) -> int:
        raise RuntimeError("no")

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("no")


def nested(levels: int) -> list[object]:
    """
    Return a list in a list in a list.
    """
    value: list[object] = []
    for _ in range(levels):
        value = [value]
    return value


class TestUnreadable:
    """
    One event that cannot be read harms no other.
    """

    @pytest.mark.parametrize(
        "odd",
        [10**5000, Angry("x"), Touchy(), nested(5000)],
        ids=["long", "text", "touchy", "nested"],
    )
    def test_values_of_any_kind(
        self, bus: Bus, metrics: PrometheusInstrumenter, odd: object
    ) -> None:
        """
        Whatever stands where a label or a number is expected, the event and its neighbours count.
        """
        with capture(bus) as heard:
            bus.publish(ErrorRaised(component="a", error_type="E"))
            bus.publish(ErrorRaised(component=odd, error_type="E"))  # type: ignore[arg-type]
            odd_call = LlmCompleted(model="m", input_tokens=odd, output_tokens=1)  # type: ignore[arg-type]
            bus.publish(odd_call)
            bus.publish(ErrorRaised(component="b", error_type="E"))
        metrics.write(heard.envelopes)

        counted = {
            s.labels["component"]: s.value for s in samples(metrics, "infra_agent_errors_total")
        }
        assert (2.0, 2.0, 6.0) == (counted["a"], counted["b"], sum(counted.values()))
        assert 2.0 == value(
            metrics, "infra_agent_tokens_total", agent_slug="", model="m", token_type="output"
        )
        assert {} == bus.health()["PrometheusInstrumenter"].errors

    def test_properties(self) -> None:
        """
        A label that raises is some other one, and a number that raises is refused.
        """
        labels = {"service": field("service"), "region": field("region")}
        on = ("test.rude", DEPLOYED)
        instruments = (
            counter("seen", "x.", labels, counts(*on)),
            counter("total_size", "x.", {}, adds(number("size"), *on)),
            gauge("last_size", "x.", {}, sets(number("size"), *on)),
        )
        metrics = PrometheusInstrumenter(namespace="", instruments=instruments)
        bus = Bus()
        with capture(bus) as heard:
            bus.publish(Deployed(service="s", region="r", size=2))
            bus.publish(Rude(service="s"))
            bus.publish(Deployed(service="s", region="r", size=3))

        metrics.write(heard.envelopes)

        assert {("r", "s"): 2.0, ("__other__", "s"): 1.0} == series(metrics, "seen_total")
        assert (5.0, 3.0) == (value(metrics, "total_size_total"), value(metrics, "last_size"))
        for name in ("total_size", "last_size"):
            assert 1.0 == value(
                metrics,
                "harken_metric_observations_rejected_total",
                metric=name,
                reason="unreadable",
            )

    def test_what_no_one_has_foreseen(self) -> None:
        """
        Whatever is wrong with an envelope, the rest of its batch counts, and the bus hears of it.
        """
        instruments = (counter("seen", "x.", {}, counts(DEPLOYED)),)
        metrics = PrometheusInstrumenter(namespace="", instruments=instruments)
        bus = Bus()
        with capture(bus) as heard:
            for _ in range(3):
                bus.publish(Deployed())
        broken = msgspec.structs.replace(heard.envelopes[1], type=None)

        with pytest.raises(AttributeError):
            metrics.write([heard.envelopes[0], broken, heard.envelopes[2]])

        assert 2.0 == value(metrics, "seen_total")


class ForgetfulPlan(Plan):
    """
    The plain path: looks at each event as if it were the first of its kind.
    """

    def _remember(self, envelope: Envelope[Event], memory: Memory, steps: Steps) -> None:
        pass


class Word(str):
    """
    A text of an application's own type.
    """

    __slots__ = ()


class Unhashable(str):
    """
    A text that cannot be looked up.
    """

    __slots__ = ()
    __hash__ = None  # type: ignore[assignment]


OWN = (
    counter(
        "deploys",
        "Deploys.",
        {"service": field("service"), "region": field("region", "eu", "us")},
        counts(DEPLOYED),
        exemplars=True,
    ),
    histogram(
        "deploy_size",
        "Size of deploys.",
        {"service": field("service")},
        (0.1, 1.0, 10.0),
        observes(number("size"), DEPLOYED, "test.rude"),
        exemplars=True,
    ),
    gauge(
        "deploy_level",
        "Raised by a tool, set by a deploy.",
        {},
        adds(number("result_size"), "tool.completed"),
        sets(number("size"), DEPLOYED),
    ),
)

LABELS: st.SearchStrategy[object] = st.sampled_from(
    [
        *("", "a", "eu", "us", "__other__", "a\x00b", "\ud800", "x" * 129, "ghp_" + "a1B2" * 9),
        *(None, 1, True, 1.0, ["a"], Color.red, "red", Word("a"), Word(""), Unhashable("a")),
    ]
)
SIZES: st.SearchStrategy[object] = st.floats() | st.sampled_from([None, 0.1, 0.2, 3, "3", 10**400])
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["point", "rude", "complete", "fail", "model", "unstarted"]),
        LABELS,
        LABELS,
        SIZES,
        st.sampled_from(["00", "01"]),
    ),
    max_size=30,
)


def published(steps: list[tuple[str, object, object, object, str]]) -> list[Envelope[Event]]:
    """
    Return what a bus makes of *steps*.
    """
    bus = Bus()
    with capture(bus) as heard:
        for number_of_it, (kind, first, second, size, flags) in enumerate(steps):
            trace = f"{number_of_it + 1:032x}"
            ended = {"tool_call_id": str(number_of_it), "tool_name": second}
            with harken.scope(traceparent=f"00-{trace}-{'b' * 16}-{flags}", agent_slug=first):
                if kind == "point":
                    bus.publish(Deployed(service=first, region=second, size=size))
                elif kind == "rude":
                    bus.publish(Rude(service=first))
                elif kind == "model":
                    bus.publish(LlmCompleted(model=first, cost_usd=size, ttft_ms=size))
                elif kind == "unstarted":
                    bus.publish(ToolFailed(**ended))
                else:
                    bus.publish(ToolStarted(tool_call_id=str(number_of_it), tool_name=first))
                    end = ToolCompleted if kind == "complete" else ToolFailed
                    bus.publish(end(**ended))
    return heard.envelopes


def exposed(metrics: PrometheusInstrumenter) -> str:
    """
    Return what is exposed, without the times of exemplars.
    """
    text = generate_openmetrics(metrics.registry).decode()
    return re.sub(r"( # \{[^}]*\} \S+) \S+$", r"\1", text, flags=re.MULTILINE)


class TestSameAsThePlainPath:
    """
    What is remembered from one event to the next changes no number.
    """

    def check(
        self,
        batches: list[list[Envelope[Event]]],
        max_series: int = 1000,
        *,
        exemplars: bool = True,
    ) -> str:
        """
        Compare with the plain path, one event at a time; return what both expose.
        """

        def made() -> PrometheusInstrumenter:
            return PrometheusInstrumenter(
                instruments=(*INSTRUMENTS, *OWN), max_series=max_series, exemplars=exemplars
            )

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("harken.sinks.prometheus._metrics.Plan", ForgetfulPlan)
            plain = made()
        quick = made()
        for batch in batches:
            quick.write(batch)
            for envelope in batch:
                plain.write([envelope])

        assert exposed(plain) == exposed(quick)
        return exposed(quick)

    @given(STEPS, st.integers(1, 40), st.sampled_from([2, 12, 1000]), st.booleans())
    def test_whatever_comes_in_turn(
        self,
        steps: list[tuple[str, object, object, object, str]],
        size: int,
        max_series: int,
        exemplars: bool,
    ) -> None:
        """
        Labels of any kind, absent ones, too many of them, and numbers that are none.
        """
        envelopes = published(steps * 2)
        batches = [envelopes[at : at + size] for at in range(0, len(envelopes), size)]

        self.check(batches, max_series, exemplars=exemplars)

    @pytest.mark.parametrize("max_series", [12, 1000])
    def test_all_types_of_the_catalog(self, max_series: int) -> None:
        """
        Every type, with labels that are given and labels that are absent.
        """
        bus = Bus()
        with capture(bus) as heard:
            for cls in event_types().values():
                if not cls.__module__.startswith(catalog.__name__):
                    continue
                fields = msgspec.structs.fields(cls)
                for text in ("", "a", "b", "a"):
                    values = {
                        one.name: text if one.type in {str, str | None} else 7
                        for one in fields
                        if one.required or one.type in {str, str | None}
                    }
                    with harken.scope(run_id=f"{cls.__name__}-{text}", actor=f"agent:{text}"):
                        bus.publish(cls(**values))
            bus.close()

        text = self.check([heard.envelopes, heard.envelopes], max_series)
        assert 'infra_agent_plans_total{status="success"} 0.0' not in text

    def test_own_text_says_what_the_same_text_says(self) -> None:
        """
        An empty text of an application's own type is absent, too, whichever came first.
        """
        bus = Bus()
        with capture(bus) as heard:
            for call, name in enumerate([Word(""), "", Word("")]):
                bus.publish(ToolStarted(tool_call_id=str(call), tool_name="search"))
                bus.publish(ToolCompleted(tool_call_id=str(call), tool_name=name))
        text = self.check([heard.envelopes])

        ended = 'infra_agent_tool_calls_total{status="success",tool="search"} 3.0'
        assert ended in text.splitlines()

    def test_ends_that_name_nothing(self) -> None:
        """
        An end that does not repeat its label counts under that of its own start, not of another.
        """
        names = ["a", "b", "a", "b", "b"]
        envelopes = published([("complete", name, "", None, "01") for name in names])
        text = self.check([envelopes[:4], envelopes[4:]])

        assert {
            'infra_agent_tool_calls_total{status="success",tool="a"} 2.0',
            'infra_agent_tool_calls_total{status="success",tool="b"} 3.0',
        } <= {*text.splitlines()}

    def test_in_the_order_of_events(self) -> None:
        """
        What is added before a gauge is set and after it is told apart within a batch.
        """
        steps: list[tuple[str, object, object, object, str]] = [
            ("complete", "a", "a", None, "01"),
            ("point", "a", "eu", 5, "01"),
        ]
        text = self.check([published(steps)])

        assert "infra_agent_deploy_level 5.0" in text.splitlines()


class TestExemplars:
    """
    From a slow bucket to the trace that fell into it.
    """

    def test_exemplars(self, bus: Bus, metrics: PrometheusInstrumenter) -> None:
        """
        A duration names the trace and the span of the operation that took it.
        """
        heard: list[Envelope[Event]] = []
        bus.subscribe(heard.append, ToolStarted)
        with bus.operation(ToolStarted(tool_name="search")):
            pass

        exemplars = [
            sample.exemplar.labels
            for family in parse_openmetrics(generate_openmetrics(metrics.registry).decode())
            for sample in family.samples
            if sample.exemplar is not None
        ]
        assert [{"trace_id": heard[0].trace_id, "span_id": heard[0].span_id}] == exemplars

    def test_counters(self, bus: Bus, metrics: PrometheusInstrumenter) -> None:
        """
        The counter of tasks names the run that ended last.
        """
        trace_id = "a" * 32
        with (
            harken.scope(run_id="r", traceparent=f"00-{trace_id}-{'b' * 16}-01"),
            bus.operation(RunStarted()),
        ):
            pass

        [sample] = [
            sample
            for sample in samples(metrics, "infra_agent_tasks_total")
            if sample.exemplar is not None
        ]
        assert sample.exemplar is not None
        assert trace_id == sample.exemplar.labels["trace_id"]

    def test_not_sampled(self, bus: Bus, metrics: PrometheusInstrumenter) -> None:
        """
        A trace that nobody keeps is not pointed to.
        """
        with (
            harken.scope(traceparent=f"00-{'a' * 32}-{'b' * 16}-00"),
            bus.operation(ToolStarted(tool_name="search")),
        ):
            pass

        assert b"trace_id" not in generate_openmetrics(metrics.registry)

    def test_switched_off(self) -> None:
        """
        On request no exemplars are kept.
        """
        metrics = PrometheusInstrumenter(exemplars=False)
        bus = Bus()
        bus.attach(metrics, delivery="inline")

        with bus.operation(ToolStarted(tool_name="search")):
            pass

        assert b"trace_id" not in generate_openmetrics(metrics.registry)


class Broken:
    """
    A sink that raises.
    """

    name = "broken"

    def write(self, batch: object, /) -> None:
        raise RuntimeError("broken")


class TestBus:
    """
    How the bus itself is doing.
    """

    def test_delivery(self, bus: Bus, metrics: PrometheusInstrumenter) -> None:
        """
        What was published, what each sink took, what it raised and what it missed by that is
        counted; the bus's own reports of the failure are events like any other.
        """
        bus.attach(Broken(), PrCreated)
        bus.subscribe(lambda envelope: None, PrCreated)
        bus.subscribe(lambda envelope: None, PrCreated)
        bus.publish(PrCreated(url="u"))
        bus.flush()

        assert (
            1.0,
            {("PrometheusInstrumenter",): 3.0, ("handlers",): 2.0},
            {("RuntimeError", "broken"): 1.0},
            {("PrometheusInstrumenter",): 1.0, ("broken",): 1.0},
        ) == (
            value(metrics, "harken_events_published_total", type="pr.created"),
            series(metrics, "harken_events_delivered_total"),
            series(metrics, "harken_sink_errors_total"),
            series(metrics, "harken_sink_up"),
        )

    def test_quarantine(self, bus: Bus, metrics: PrometheusInstrumenter) -> None:
        """
        A sink that is quarantined is not up, and what it misses is counted.
        """
        bus.attach(Broken(), PrCreated, delivery="inline")
        for _ in range(7):
            bus.publish(PrCreated(url="u"))

        assert (0.0, 2.0, 0.0) == (
            value(metrics, "harken_sink_up", sink="broken"),
            value(metrics, "harken_events_dropped_total", sink="broken", reason="quarantined"),
            value(metrics, "harken_events_dropped_total", sink="broken", reason="queue_full"),
        )

    def test_queues(self, bus: Bus, metrics: PrometheusInstrumenter) -> None:
        """
        Depth and capacity of a queue, and what did not fit, are shown when they are asked for.
        """
        writing, go_on = threading.Event(), threading.Event()

        class Slow:
            name = "slow"

            def write(self, batch: object, /) -> None:
                writing.set()
                go_on.wait(30)

        bus.attach(Slow(), PrCreated, delivery="isolated", capacity=3)
        bus.publish(PrCreated(url="u"))
        writing.wait(30)
        for _ in range(5):
            bus.publish(PrCreated(url="u"))

        shown = (
            value(metrics, "harken_sink_queue_depth", sink="slow"),
            value(metrics, "harken_sink_queue_capacity", sink="slow"),
            value(metrics, "harken_events_dropped_total", sink="slow", reason="queue_full"),
        )
        go_on.set()
        assert (3.0, 3.0) == shown[:2]
        assert (shown[2] or 0.0) >= 2.0

    def test_times(self, bus: Bus, metrics: PrometheusInstrumenter) -> None:
        """
        When a sink last took something is known, in seconds of the wall clock.
        """
        before = time.time()
        bus.publish(PrCreated(url="u"))

        last = value(
            metrics,
            "harken_sink_last_success_timestamp_seconds",
            sink="PrometheusInstrumenter",
        )
        assert last is not None
        assert before <= last <= time.time()

    def test_operations_and_refusals(self, bus: Bus, metrics: PrometheusInstrumenter) -> None:
        """
        Open operations are shown, and second ends are counted.
        """
        bus.publish(PlanCreated(plan_id="p"))
        bus.publish(ToolStarted(tool_name="search", tool_call_id="t"))
        bus.publish(ToolCompleted(tool_call_id="t"))
        bus.publish(ToolCompleted(tool_call_id="t"))

        assert (1.0, 1.0, 0.0) == (
            value(metrics, "harken_operations_open"),
            value(metrics, "harken_events_rejected_total", reason="ended"),
            value(metrics, "harken_events_rejected_total", reason="closed"),
        )

    def test_times_of_delivery(self, metrics: PrometheusInstrumenter) -> None:
        """
        How late a batch comes at a sink, and how long it takes there, is measured for every sink,
        one in 64 times where it is inline; an event of no operation does not say how late it is.
        """
        bus = Bus()
        bus.attach(metrics, name="numbers", delivery="worker")
        bus.attach(Captured(), name="inline")
        for _ in range(64):
            bus.publish(PrCreated(url="u"))
        bus.flush()
        bus.publish(ToolStarted(tool_name="t", tool_call_id="c"))
        bus.flush()

        assert (1.0, 2.0) == (
            value(metrics, "harken_delivery_lag_seconds_count", sink="numbers"),
            value(metrics, "harken_sink_write_seconds_count", sink="inline"),
        )
        assert value(metrics, "harken_sink_write_seconds_count", sink="numbers") >= 2.0
        assert 1.0 == value(metrics, "harken_publish_seconds_count")
        bus.close()

    def test_time_of_a_sync(self, metrics: PrometheusInstrumenter, tmp_path: Path) -> None:
        """
        How long the disk takes to confirm an audit record is measured.
        """
        from harken.sinks.audit import AuditLog

        bus = Bus()
        bus.attach(metrics)
        bus.attach(AuditLog(tmp_path / "audit.jsonl", durability="group"))
        bus.publish(PrCreated(url="u"))
        bus.close()

        assert value(metrics, "harken_audit_fsync_seconds_count") >= 1.0

    def test_observer_that_fails(self, bus: Bus) -> None:
        """
        Whoever watches, and fails at it, harms nobody; whoever is gone is not asked.
        """
        told: list[tuple[str, str]] = []

        class Watching:
            def measured(self, what: str, sink: str, seconds: float) -> None:
                told.append((what, sink))
                raise ValueError("cannot watch")

        watching, gone = Watching(), Watching()
        bus.observe(watching)
        bus.observe(gone)
        del gone
        heard = Captured()
        bus.attach(heard, name="it")
        bus.publish(PrCreated(url="u"))

        assert ("write", "it") in told
        assert 1 == len(heard.events)
        assert 0 == bus.health()["it"].failures

    def test_sinks_that_say_something_about_themselves(
        self, bus: Bus, metrics: PrometheusInstrumenter
    ) -> None:
        """
        A sink that has the figures of an audit log or of spans is measured, whoever wrote it; once,
        on however many buses it listens. What a sink cannot say is left out.
        """

        class Both:
            written_bytes = 100
            reopened = 2
            recovered = 1
            spans_open = 3
            spans = {"ended": 5, "lost": 1, "odd": float("nan")}

            def write(self, batch: object) -> None:
                pass

        class Broken(Both):
            @property
            def spans_open(self) -> int:  # type: ignore[override]
                raise OSError("no")

            @property
            def written_bytes(self) -> int:  # type: ignore[override]
                raise OSError("no")

        other, both = Bus(), Both()
        other.attach(metrics)
        for one in (bus, other):
            one.attach(both)
        bus.attach(Broken())
        first = series(metrics, "harken_spans_total")
        both.written_bytes = 150

        assert {("ended",): 10.0, ("lost",): 2.0} == first
        assert (
            {(): 150.0},
            {("moved",): 4.0, ("repaired",): 2.0},
            {(): 3.0},
        ) == (
            series(metrics, "harken_audit_written_bytes_total"),
            series(metrics, "harken_audit_reopens_total"),
            series(metrics, "harken_spans_open"),
        )
        other.close()

    def test_audit_log_that_cannot_write(
        self, bus: Bus, metrics: PrometheusInstrumenter, tmp_path: Path
    ) -> None:
        """
        Records that wait beside the log are seen while they do, and lost ones for ever.
        """
        path = tmp_path / "audit.jsonl"
        log = AuditLog(path, lock_wait=0.05)
        bus.attach(log)

        def seen() -> tuple[float, ...]:
            bus.flush(5)
            names = (
                "harken_audit_spilled",
                "harken_audit_lost_total",
                "harken_audit_unsynced_total",
            )
            return tuple(value(metrics, name) for name in names)

        before = seen()
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            bus.publish(PrCreated(url="u"))
            spilled = seen()
        bus.publish(PrCreated(url="u"))

        assert ((0.0, 0.0, 0.0), (1.0, 0.0, 0.0), (0.0, 0.0, 0.0)) == (before, spilled, seen())

    def test_two_buses(self, metrics: PrometheusInstrumenter) -> None:
        """
        An instrumenter on two buses adds them up; attached twice to one it counts it once.
        """
        one, two = Bus(), Bus()
        for bus in (one, two):
            bus.attach(metrics, delivery="inline")
        metrics.attached(one)

        one.publish(PrCreated(url="u"))
        two.publish(PrCreated(url="u"))

        assert (2.0, 2.0, 1.0) == (
            value(metrics, "infra_agent_prs_created_total", agent_slug=""),
            value(metrics, "harken_events_published_total", type="pr.created"),
            value(metrics, "harken_sink_up", sink="PrometheusInstrumenter"),
        )

    def test_counters_outlive_the_bus(self, metrics: PrometheusInstrumenter) -> None:
        """
        A counter does not go down when its subscriber or its bus is gone; a gauge goes with it.
        """
        bus = Bus()
        bus.attach(metrics, delivery="inline")
        handler = bus.subscribe(lambda envelope: None, name="first")
        bus.publish(PrCreated(url="u"))
        first = value(metrics, "harken_events_delivered_total", sink="handlers")
        handler.cancel()
        bus.subscribe(lambda envelope: None, name="second")
        bus.publish(PrCreated(url="u"))
        second = value(metrics, "harken_events_delivered_total", sink="handlers")
        bus.close()
        generate_latest(metrics.registry)
        del bus, handler
        gc.collect()

        assert (1.0, 2.0, 2.0, None) == (
            first,
            second,
            value(metrics, "harken_events_delivered_total", sink="handlers"),
            value(metrics, "harken_sink_up", sink="PrometheusInstrumenter"),
        )

    def test_version(self, metrics: PrometheusInstrumenter) -> None:
        """
        One series names the version of harken.
        """
        [sample] = samples(metrics, "harken_build_info")

        assert (["version"], 1.0) == (list(sample.labels), sample.value)

    def test_version_of_a_source_tree(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        Where harken is used without being installed, its version is not known.
        """

        def version(name: str) -> str:
            raise PackageNotFoundError(name)

        monkeypatch.setattr("harken.sinks.prometheus._metrics.version", version)

        assert 1.0 == value(PrometheusInstrumenter(), "harken_build_info", version="unknown")

    def test_scrape_does_without_a_busy_bus(
        self, bus: Bus, metrics: PrometheusInstrumenter, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """
        A scrape waits for another one's reading of the bus only so long, and shows what is known.
        """
        monkeypatch.setattr("harken.sinks.prometheus._metrics.READING_TIMEOUT", 0.01)
        bus.publish(PrCreated(url="u"))
        generate_latest(metrics.registry)
        asked, answer = threading.Event(), threading.Event()
        health = bus.health

        def slow_health() -> harken.Health:
            asked.set()
            answer.wait(30)
            return health()

        monkeypatch.setattr(bus, "health", slow_health)
        first = threading.Thread(target=generate_latest, args=(metrics.registry,))
        first.start()
        asked.wait(30)

        text = generate_latest(metrics.registry).decode()

        answer.set()
        first.join(30)
        assert 'harken_events_published_total{type="pr.created"} 1.0' in text


class TestRegistry:
    """
    Whose registry it is.
    """

    def test_a_second_one_counts_on(self) -> None:
        """
        A second instrumenter on a registry goes on with the numbers of the first.
        """
        registry = CollectorRegistry()
        first = PrometheusInstrumenter(registry)
        bus = Bus()
        bus.attach(first, delivery="inline")
        bus.publish(PrCreated(url="u"))
        bus.close()
        second = PrometheusInstrumenter(registry)
        bus = Bus()
        bus.attach(second, delivery="inline")
        bus.publish(PrCreated(url="u"))
        bus.close()

        assert 2.0 == registry.get_sample_value("infra_agent_prs_created_total", {"agent_slug": ""})

    def test_a_different_one_is_refused(self) -> None:
        """
        Two instrumenters on one registry must want the same metrics.
        """
        registry = CollectorRegistry()
        PrometheusInstrumenter(registry)

        with pytest.raises(SettingsError, match="another namespace, max_series"):
            PrometheusInstrumenter(registry, namespace="other")

    def test_clash(self) -> None:
        """
        A registry that has a metric of the same name is refused, with the name.
        """
        registry = CollectorRegistry()
        Counter("infra_agent_plans", "Somebody else's.", registry=registry)

        with pytest.raises(SettingsError, match="infra_agent_plans"):
            PrometheusInstrumenter(registry)

    def test_clash_that_comes_later(self) -> None:
        """
        Whoever registers a metric of the same name afterwards is refused, and harken's goes on.
        """
        registry = CollectorRegistry()
        metrics = PrometheusInstrumenter(registry)

        with pytest.raises(ValueError, match="infra_agent_plans"):
            Counter("infra_agent_plans", "Somebody else's.", registry=registry)
        assert 0.0 == value(metrics, "infra_agent_plans_in_progress")

    def test_own_by_default(self) -> None:
        """
        Two instrumenters know nothing of each other.
        """
        one, two = PrometheusInstrumenter(), PrometheusInstrumenter()

        assert one.registry is not two.registry

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"port": 65_536}, "metrics port 65536"),
            ({"port": -1}, "metrics port -1"),
            ({"file_interval": 0}, "file_interval 0"),
            ({"file_interval": math.nan}, "file_interval nan"),
            ({"file_interval": math.inf}, "file_interval inf"),
            ({"max_series": 0}, "max_series 0"),
        ],
    )
    def test_arguments(self, arguments: dict[str, float], message: str) -> None:
        """
        An argument that cannot be meant is refused, with its value.
        """
        with pytest.raises(SettingsError, match=message):
            PrometheusInstrumenter(**arguments)  # type: ignore[arg-type]

    def test_parts_can_be_asked_for(self, bus: Bus, metrics: PrometheusInstrumenter) -> None:
        """
        A scrape may name the metrics that it wants.
        """
        bus.publish(PrCreated(url="u"))

        text = generate_latest(
            metrics.registry.restricted_registry(["infra_agent_prs_created_total"])
        ).decode()
        assert ["infra_agent_prs_created"] == [family.name for family in parse_text(text)]


class TestServer:
    """
    Metrics over HTTP.
    """

    @pytest.fixture
    def metrics(self) -> Iterator[PrometheusInstrumenter]:
        """
        An instrumenter that serves any free port.
        """
        instrumenter = PrometheusInstrumenter(port=0)
        yield instrumenter
        instrumenter.close()

    def test_scrape(self, bus: Bus, metrics: PrometheusInstrumenter) -> None:
        """
        Whoever asks gets the numbers as of now, as plain text.
        """
        bus.publish(PrCreated(url="u"))

        kind, text = get(metrics)
        assert kind.startswith("text/plain")
        assert 'infra_agent_prs_created_total{agent_slug=""} 1.0\n' in text
        assert list(parse_text(text))

    def test_openmetrics(self, bus: Bus, metrics: PrometheusInstrumenter) -> None:
        """
        Whoever can read OpenMetrics gets it, with exemplars.
        """
        with bus.operation(ToolStarted(tool_name="search")):
            pass

        kind, text = get(metrics, Accept=OPENMETRICS)
        assert kind.startswith("application/openmetrics-text")
        assert text.endswith("# EOF\n")
        assert ' # {span_id="' in text
        assert list(parse_openmetrics(text))

    @pytest.mark.parametrize("path", ["/", "/other", "/metrics/x"])
    def test_other_paths(self, metrics: PrometheusInstrumenter, path: str) -> None:
        """
        Nothing but the metrics is served, and the answer says where they are.
        """
        with pytest.raises(urllib.error.HTTPError, match="404") as caught:
            get(metrics, path)

        with caught.value as answer:
            assert b"The metrics are at /metrics." in answer.read()

    def test_malformed_request(self, metrics: PrometheusInstrumenter) -> None:
        """
        What is no HTTP is answered as such, and the next client is served.
        """
        with socket.create_connection(("127.0.0.1", metrics.port or 0), timeout=30) as client:
            client.sendall(b"?\r\n\r\n")
            answer = client.recv(1000)

        assert b"400" in answer
        assert "infra_agent" in get(metrics)[1]

    def test_loopback_only(self, metrics: PrometheusInstrumenter) -> None:
        """
        By default only this machine can connect.
        """
        with pytest.raises(OSError):
            socket.create_connection(("127.0.0.2", metrics.port or 0), timeout=5).close()

    def test_stalled_client(self, metrics: PrometheusInstrumenter) -> None:
        """
        Clients that connect and then say nothing, or half a request, keep nobody waiting.
        """
        stalled = [
            socket.create_connection(("127.0.0.1", metrics.port or 0), timeout=30)
            for _ in range(20)
        ]
        for client in stalled[::2]:
            client.sendall(b"GET /metrics HTTP/1.1\r\n")

        text = get(metrics)[1]

        for client in stalled:
            client.close()
        assert "infra_agent" in text

    def test_silent_client_is_let_go(
        self, metrics: PrometheusInstrumenter, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """
        A client that says nothing is disconnected.
        """
        monkeypatch.setattr("harken.sinks.prometheus._export._Handler.timeout", 0.05)

        with socket.create_connection(("127.0.0.1", metrics.port or 0), timeout=30) as client:
            received = client.recv(1000)

        assert b"" == received

    def test_tells_who_serves(self, metrics: PrometheusInstrumenter) -> None:
        """
        Another process of this machine is told which process has the port.
        """
        holder = holder_of("", metrics.port or 0)

        assert this_process() == holder
        assert os.getpid() == this_process().pid
        assert os.getppid() in this_process().parents

    @pytest.mark.parametrize(
        "answer",
        [
            b"HTTP/1.0 200 OK\r\nHarken-Process: 1 a b c\r\n\r\n",
            b"HTTP/1.0 200 OK\r\n\r\n",
            b"SSH-2.0\r\n",
            b"",
            None,
        ],
        ids=["malformed", "anybody", "no http", "nothing", "silence"],
    )
    def test_port_of_somebody_else(
        self, monkeypatch: pytest.MonkeyPatch, answer: bytes | None
    ) -> None:
        """
        Whoever has the port and does not say who it is, is somebody else.
        """
        monkeypatch.setattr("harken.sinks.prometheus._relatives.PATIENCE", 0.2)
        with socket.create_server(("127.0.0.1", 0)) as other:
            port = other.getsockname()[1]

            def serve() -> None:
                client, _ = other.accept()
                with client:
                    client.recv(1000)
                    if answer is None:
                        client.recv(1000)
                    else:
                        client.sendall(answer)

            thread = threading.Thread(target=serve)
            thread.start()
            with pytest.raises(MetricsServerError, match="in use; choose another port"):
                PrometheusInstrumenter(port=port)
            thread.join()

    def test_port_that_nobody_serves(self) -> None:
        """
        A port that is taken though nobody listens there is an error, and not waited for.
        """
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))

            with pytest.raises(MetricsServerError, match="in use; choose another port"):
                PrometheusInstrumenter(port=other.getsockname()[1])

    def test_relatives(self) -> None:
        """
        A process knows its parent, and its siblings of the same program; in another container the
        same numbers are somebody else's.
        """
        us = Process(10, frozenset({1, 5}), "home", "uvicorn app")

        assert [True, True, False, False, False, False] == [
            us.is_relative_of(other)
            for other in (
                us._replace(pid=5, parents=frozenset({2}), program="main"),
                us._replace(pid=11, parents=frozenset({5})),
                us,
                us._replace(pid=11, parents=frozenset({4})),
                us._replace(pid=11, program="uvicorn other"),
                us._replace(pid=5, home="elsewhere"),
            )
        ]

    def test_close_while_waiting(
        self, metrics: PrometheusInstrumenter, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """
        A worker that waits for the port of another one can be closed, and serves nothing.
        """
        relative = Process(0, frozenset({os.getpid()}), this_process().home, "other")
        monkeypatch.setattr(
            "harken.sinks.prometheus._export.this_process",
            lambda: relative._replace(pid=1, parents=frozenset({os.getpid()})),
        )
        holder = PrometheusInstrumenter(port=0)
        monkeypatch.setattr(
            "harken.sinks.prometheus._export.holder_of",
            lambda *_: relative._replace(pid=os.getpid()),
        )
        waiting = PrometheusInstrumenter(port=holder.port)

        served = waiting.port
        waiting.close()
        holder.close()

        assert None is served
        assert None is waiting.port

    def test_port_in_use(self, metrics: PrometheusInstrumenter) -> None:
        """
        A port that is taken is one clear error that names it and the next step.
        """
        with pytest.raises(
            MetricsServerError, match=f"port {metrics.port}: .*in use; choose another port"
        ):
            PrometheusInstrumenter(port=metrics.port)

    @pytest.mark.parametrize("address", ["no-such-host.invalid", "203.0.113.1", "x" * 100])
    def test_no_such_address(self, address: str) -> None:
        """
        An address that is not this machine's is one clear error that names it.
        """
        with pytest.raises(MetricsServerError, match=address):
            PrometheusInstrumenter(port=0, address=address)

    def test_version_6(self) -> None:
        """
        The address may be one of IP version 6.
        """
        try:
            metrics = PrometheusInstrumenter(port=0, address="::1")
        except MetricsServerError as error:
            pytest.skip(str(error))

        with urllib.request.urlopen(f"http://[::1]:{metrics.port}/metrics", timeout=30) as answer:
            assert 200 == answer.status
        metrics.close()

    def test_close(self, metrics: PrometheusInstrumenter) -> None:
        """
        After closing, twice even, nobody listens and the port is free; the numbers stay.
        """
        port = metrics.port
        metrics.close()
        metrics.close(timeout=0)

        with pytest.raises(OSError, match="refused"):
            socket.create_connection(("127.0.0.1", port or 0), timeout=30)
        again = PrometheusInstrumenter(port=port)
        assert (port, None, 0.0) == (
            again.port,
            metrics.port,
            value(metrics, "infra_agent_plans_in_progress"),
        )
        again.close()

    def test_broken_collector(self, caplog: pytest.LogCaptureFixture) -> None:
        """
        Somebody else's collector that raises fails the scrape and is logged once.
        """

        class Bad:
            def collect(self) -> list[Metric]:
                raise RuntimeError("somebody else's")

        registry = CollectorRegistry()
        metrics = PrometheusInstrumenter(registry, port=0)
        registry.register(Bad())

        for _ in range(3):
            with pytest.raises(OSError, match="closed connection"):
                get(metrics)

        metrics.close()
        assert 1 == sum("scrape" in record.message for record in caplog.records)

    def test_client_that_hangs_up(
        self, metrics: PrometheusInstrumenter, caplog: pytest.LogCaptureFixture
    ) -> None:
        """
        A client that does not wait for its answer is nothing to log.
        """
        for _ in range(5):
            client = socket.create_connection(("127.0.0.1", metrics.port or 0), timeout=30)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            client.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
            client.close()

        assert "infra_agent" in get(metrics)[1]
        assert [] == caplog.records

    def test_shows_its_port(self, metrics: PrometheusInstrumenter) -> None:
        """
        What it is called in a debugger says where it serves.
        """
        assert f"<PrometheusInstrumenter port={metrics.port}>" == repr(metrics)


class TestFile:
    """
    Metrics in a file.
    """

    def test_written_at_once(self, tmp_path: Path) -> None:
        """
        The file is there from the start, whole, readable for others, and alone.
        """
        path = tmp_path / "agent.prom"
        metrics = PrometheusInstrumenter(file_path=path)

        assert "infra_agent_plans_in_progress 0.0" in path.read_text()
        assert [path] == list(tmp_path.iterdir())
        assert path.stat().st_mode & 0o444 == 0o444
        metrics.close()

    def test_flush_and_close(self, tmp_path: Path) -> None:
        """
        After flush() and close() the file has the last numbers.
        """
        path = tmp_path / "agent.prom"
        bus = Bus()
        bus.attach(PrometheusInstrumenter(file_path=str(path), file_interval=3600))
        bus.publish(PrCreated(url="u"))
        flushed = bus.flush()
        first = path.read_text()
        bus.publish(PrCreated(url="u"))
        bus.close()

        assert flushed
        assert 'infra_agent_prs_created_total{agent_slug=""} 1.0' in first
        assert 'infra_agent_prs_created_total{agent_slug=""} 2.0' in path.read_text()
        assert [path] == list(tmp_path.iterdir())

    def test_interval(self, tmp_path: Path) -> None:
        """
        Without being asked, the file follows at its interval.
        """
        path = tmp_path / "agent.prom"
        metrics = PrometheusInstrumenter(file_path=path, file_interval=0.02)
        bus = Bus()
        bus.attach(metrics, delivery="inline")
        bus.publish(PrCreated(url="u"))

        wait_until(lambda: 'prs_created_total{agent_slug=""} 1.0' in path.read_text())
        bus.close()

    def test_no_directory(self, tmp_path: Path) -> None:
        """
        A file that cannot be written is one clear error, and no port stays open.
        """
        with pytest.raises(SettingsError, match=r"cannot write metrics to .*nowhere.*make the"):
            PrometheusInstrumenter(file_path=tmp_path / "nowhere" / "agent.prom", port=0)

        assert "harken-metrics" not in {thread.name for thread in alive_after_a_while()}

    def test_recovers(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        """
        A directory that is gone is logged once, and written to again when it is back.
        """
        folder = tmp_path / "metrics"
        folder.mkdir()
        path = folder / "agent.prom"
        metrics = PrometheusInstrumenter(file_path=path, file_interval=0.01)
        path.unlink()
        remove(folder)
        wait_until(lambda: len(caplog.records) > 0)
        time.sleep(0.1)
        with pytest.raises(FileNotFoundError):
            metrics.flush(5)
        folder.mkdir()

        wait_until(path.exists)
        metrics.close()
        assert 1 == len(caplog.records)

    def test_broken_collector(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        """
        Somebody else's collector that raises is logged once, and the file goes on when it is gone.
        """

        class Bad:
            def collect(self) -> list[Metric]:
                raise RuntimeError("somebody else's")

        path = tmp_path / "a.prom"
        bad = Bad()
        registry = CollectorRegistry()
        metrics = PrometheusInstrumenter(registry, file_path=path, file_interval=0.01)
        registry.register(bad)
        wait_until(lambda: len(caplog.records) > 0)
        path.unlink()
        registry.unregister(bad)

        wait_until(path.exists)
        metrics.close()
        assert 1 == len(caplog.records)

    def test_no_time_is_left(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        """
        When a writing takes longer than the time that is left, flush() says that it is not done,
        and close() logs that the last numbers are missing.
        """
        asked, answer = threading.Event(), threading.Event()

        class Slow:
            def collect(self) -> list[Metric]:
                asked.set()
                answer.wait(30)
                return []

        registry = CollectorRegistry()
        metrics = PrometheusInstrumenter(
            registry, file_path=tmp_path / "a.prom", file_interval=3600
        )
        registry.register(Slow())
        first = threading.Thread(target=metrics.flush, args=(30,))
        first.start()
        asked.wait(30)

        done = metrics.flush(0.01)
        metrics.close(0.01)

        answer.set()
        first.join(30)
        assert done is False
        assert 1 == sum(
            "the last metrics are not in" in record.message for record in caplog.records
        )

    def test_close_without_a_directory(self, tmp_path: Path) -> None:
        """
        A last writing that fails says so, and everything is closed all the same.
        """
        folder = tmp_path / "metrics"
        folder.mkdir()
        metrics = PrometheusInstrumenter(file_path=folder / "a.prom", file_interval=3600, port=0)
        remove(folder)

        with pytest.raises(FileNotFoundError):
            metrics.close()

        metrics.close()
        assert metrics.port is None

    def test_nothing_to_flush(self, metrics: PrometheusInstrumenter) -> None:
        """
        Without a file there is nothing to be late with.
        """
        assert metrics.flush(0) is True


def remove(folder: Path) -> None:
    """
    Remove *folder* while somebody writes into it.
    """
    for _ in range(1000):
        for path in folder.iterdir():
            path.unlink(missing_ok=True)
        try:
            folder.rmdir()
        except OSError:
            continue
        return
    pytest.fail("the folder does not become empty")


def alive_after_a_while() -> list[threading.Thread]:
    """
    The threads that do not end by themselves.
    """
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if not any(thread.name == "harken-metrics" for thread in threading.enumerate()):
            break
        time.sleep(0.01)
    return threading.enumerate()


class TestThreads:
    """
    Many publishers, and interruptions.
    """

    def test_nothing_is_lost(self) -> None:
        """
        Eight threads on two buses are counted exactly, while somebody scrapes.
        """
        metrics = PrometheusInstrumenter()
        buses = [Bus(), Bus()]
        for bus in buses:
            bus.attach(metrics, delivery="inline")

        def publish(bus: Bus) -> None:
            for number_ in range(500):
                with bus.operation(ToolStarted(tool_name=f"tool-{number_ % 7}")):
                    pass

        threads = [threading.Thread(target=publish, args=(bus,)) for bus in buses for _ in range(4)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            list(parse_text(generate_latest(metrics.registry).decode()))
        for thread in threads:
            thread.join()

        assert (4000.0, 4000.0, 0.0) == (
            sum(series(metrics, "infra_agent_tool_calls_total").values()),
            sum(series(metrics, "infra_agent_tool_call_duration_seconds_count").values()),
            value(metrics, "infra_agent_tool_calls_in_progress"),
        )

    def test_interrupted(self) -> None:
        """
        An event that is published while another one is being counted, by the same thread, counts.
        """
        other = Bus()

        def read(envelope: Envelope[Event]) -> str:
            other.publish(PrCreated(url="u"))
            return "x"

        label = field("service")
        nested = type(label)(read, read)
        metrics = PrometheusInstrumenter(
            instruments=(*INSTRUMENTS, counter("deploys", "", {"a": nested}, counts(DEPLOYED)))
        )
        bus = Bus()
        for one in (bus, other):
            one.attach(metrics, delivery="inline")

        bus.publish(Deployed())

        assert 1.0 == value(metrics, "infra_agent_deploys_total", a="x")
        assert (value(metrics, "infra_agent_prs_created_total", agent_slug="") or 0.0) >= 1.0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
class TestFork:
    """
    What becomes of the numbers, the port and the file in a forked child.
    """

    def test_child_counts_for_itself(self, tmp_path: Path) -> None:
        """
        A child begins at zero, serves nothing, writes nothing, and says so once.
        """
        path = tmp_path / "agent.prom"
        metrics = PrometheusInstrumenter(port=0, file_path=path, file_interval=3600)
        bus = Bus()
        bus.attach(metrics)
        port = metrics.port
        bus.publish(PrCreated(url="u"))
        bus.publish(ToolStarted(tool_name="search", tool_call_id="t"))
        bus.flush()
        written = path.read_text()
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            said: list[str] = []
            handler = logging.Handler()
            handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
            logging.getLogger("harken").addHandler(handler)
            for _ in range(2):
                bus.publish(PrCreated(url="u"))
                bus.flush()
            answer = (
                f"{metrics.port} {value(metrics, 'infra_agent_prs_created_total', agent_slug='')} "
                f"{value(metrics, 'infra_agent_tool_calls_in_progress')} {len(said)} {said[0]}"
            )
            bus.close()
            os.write(writer, answer.encode())
            os._exit(0)
        os.waitpid(child, 0)
        os.close(writer)
        with os.fdopen(reader) as pipe:
            answer = pipe.read()

        assert (
            f"None 2.0 0.0 1 metrics of process {child} are counted but not shown: "
            f"process {os.getpid()} has port {port} and {path}; "
            "set PROMETHEUS_MULTIPROC_DIR to an empty directory to add up all processes, "
            "or give each process its own"
        ) == answer
        assert written == path.read_text()
        assert 'prs_created_total{agent_slug=""} 1.0' in get(metrics)[1]
        bus.close()

    def test_port_is_free_when_the_parent_closes(self) -> None:
        """
        A child does not keep the port of its parent open.
        """
        metrics = PrometheusInstrumenter(port=0)
        bus = Bus()
        bus.attach(metrics)
        port = metrics.port
        reader, writer = os.pipe()
        begun, begins = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(writer)
            os.write(begins, b"x")
            os.read(reader, 1)
            os._exit(0)
        # Until it runs, the child has everything that the parent had open.
        os.read(begun, 1)
        bus.close()

        again = PrometheusInstrumenter(port=port)
        served = again.port
        again.close()
        os.close(writer)
        for one in (reader, begun, begins):
            os.close(one)
        os.waitpid(child, 0)
        assert port == served

    def test_nothing_to_say(self, metrics: PrometheusInstrumenter) -> None:
        """
        A child whose parent neither serves nor writes has nothing to say, and the same process
        has nothing to forget.
        """
        bus = Bus()
        bus.attach(metrics, delivery="inline")
        bus.publish(PrCreated(url="u"))

        metrics.after_fork()
        bus.publish(PrCreated(url="u"))

        assert 2.0 == value(metrics, "infra_agent_prs_created_total", agent_slug="")
        bus.close()


POOLED = """
import os
import harken
from harken import Bus
from harken.catalog import PrCreated, SessionEnded, SessionStarted, TaskEnqueued, ToolStarted
from harken.sinks.prometheus import PrometheusInstrumenter
from prometheus_client import generate_latest

metrics = PrometheusInstrumenter(port=0)
same = PrometheusInstrumenter()
bus = Bus()
bus.attach(metrics)
bus.publish(PrCreated(url="u"))
bus.flush()
for number in range(3):
    child = os.fork()
    if child == 0:
        assert metrics.port is None
        with harken.scope(session_id=str(number), actor="agent:fixer"):
            with bus.operation(SessionStarted()), bus.operation(ToolStarted(tool_name="search")):
                bus.publish(PrCreated(url="u"))
                bus.publish(TaskEnqueued(task_id="t", queue="q", depth=number))
            bus.publish(SessionStarted())
        bus.flush()
        if number < 2:
            bus.close()
        os._exit(0)
    os.waitpid(child, 0)
other = Bus()
other.attach(same)
other.publish(PrCreated(url="u"))
other.flush()
print(generate_latest(metrics.registry).decode())
"""


class TestSeveralProcesses:
    """
    Processes that add their numbers up.
    """

    @pytest.fixture
    def shared(self, tmp_path: Path) -> dict[str, str | None]:
        """
        The environment that makes processes share their numbers.
        """
        folder = tmp_path / "numbers"
        folder.mkdir()
        return {"PROMETHEUS_MULTIPROC_DIR": str(folder)}

    def test_added_up(
        self,
        run_python: Callable[..., subprocess.CompletedProcess[str]],
        shared: dict[str, str | None],
    ) -> None:
        """
        A parent shows what it and its children counted, also those that are gone.
        """
        # From 3.12 on, Python warns of every fork beside a thread.
        done = run_python(POOLED, env={**shared, "PYTHONWARNINGS": "ignore::DeprecationWarning"})

        shown = {
            (sample.name, *sorted(sample.labels.values())): sample.value
            for family in parse_text(done.stdout)
            for sample in family.samples
        }
        expected = {
            ("infra_agent_prs_created_total", ""): 2.0,
            ("infra_agent_prs_created_total", "fixer"): 3.0,
            ("infra_agent_tool_calls_total", "search", "success"): 3.0,
            ("infra_agent_tool_call_duration_seconds_count", "search", "success"): 3.0,
            ("infra_agent_tool_calls_in_progress",): 0.0,
            ("infra_agent_queue_depth", "q"): 2.0,
            # The third child ended without closing its bus, and nobody marked it as dead.
            ("infra_agent_sessions_active", "0", "fixer"): 1.0,
            ("harken_events_published_total", "pr.created"): 5.0,
            ("harken_sink_up", "PrometheusInstrumenter"): 1.0,
            ("harken_metric_observations_rejected_total", "infra_agent_tokens", "nan"): 0.0,
        }
        assert expected == {key: shown.get(key) for key in expected}
        assert "" == done.stderr

    def test_port_is_shared(
        self,
        run_python: Callable[..., subprocess.CompletedProcess[str]],
        shared: dict[str, str | None],
    ) -> None:
        """
        Processes that share their numbers may serve one port: each answers for all.
        """
        with socket.socket() as sibling:
            sibling.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sibling.bind(("127.0.0.1", 0))
            sibling.listen()
            port = sibling.getsockname()[1]

            done = run_python(
                "import sys\n"
                "from harken.sinks.prometheus import PrometheusInstrumenter\n"
                "metrics = PrometheusInstrumenter(port=int(sys.argv[1]))\n"
                "print(metrics.port)\n"
                "metrics.close()\n",
                str(port),
                env=shared,
            )

        assert f"{port}\n" == done.stdout

    def test_no_directory(
        self, run_python: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
    ) -> None:
        """
        A directory that is not there is one clear error.
        """
        done = run_python(
            "from harken.sinks.prometheus import PrometheusInstrumenter\nPrometheusInstrumenter()",
            env={"PROMETHEUS_MULTIPROC_DIR": str(tmp_path / "nowhere")},
            returncode=1,
        )

        assert "SettingsError: PROMETHEUS_MULTIPROC_DIR is no directory" in done.stderr


class TestExposition:
    """
    What a scrape gets can always be read.
    """

    def test_promtool(
        self, bus: Bus, metrics: PrometheusInstrumenter, require_server: Callable[[str], str]
    ) -> None:
        """
        Prometheus' own linter has nothing to say about names, types, units and help texts.
        """
        promtool = require_server("promtool")
        with harken.scope(actor="agent:fixer", session_id="s", run_id="r"):
            with bus.operation(SessionStarted()), bus.operation(RunStarted(task_type="repair")):
                with bus.operation(ToolStarted(tool_name='a"b\\c\nd')):
                    pass
                with bus.operation(LlmStarted(model="m")) as call:
                    call.complete(cost_usd=1.5, ttft_ms=3)
            bus.publish(SessionStarted())

        done = subprocess.run(
            [promtool, "check", "metrics"],
            input=generate_latest(metrics.registry),
            capture_output=True,
            check=False,
        )
        assert (0, b"", b"") == (done.returncode, done.stdout, done.stderr)

    @given(
        events=st.lists(
            st.tuples(
                st.one_of(
                    st.text(),
                    st.text(alphabet=st.characters(), max_size=300),
                    st.none(),
                    st.booleans(),
                    st.integers(),
                    st.floats(),
                    st.binary(),
                    st.lists(st.text()),
                ),
                st.one_of(
                    st.floats(),
                    st.integers(),
                    st.decimals(),
                    st.fractions(),
                    st.none(),
                    st.text(),
                    st.booleans(),
                    st.complex_numbers(),
                ),
            ),
            max_size=30,
        )
    )
    def test_whatever_comes_in(self, events: list[tuple[object, object]]) -> None:
        """
        Whatever label values and numbers come in, both formats parse, no counter is NaN or goes
        down, and no more series come to be than may.
        """
        sizes = number("size")
        labels = {"service": field("service")}
        metrics = PrometheusInstrumenter(
            namespace="t",
            max_series=5,
            instruments=(
                counter("counted", "Counted.", labels, adds(sizes, DEPLOYED), exemplars=True),
                histogram(
                    "observed",
                    "Seen.",
                    labels,
                    (1.0, 10.0),
                    observes(sizes, DEPLOYED),
                    exemplars=True,
                ),
                gauge("said", "Said.", labels, sets(sizes, DEPLOYED)),
                gauge("open", "Open.", labels, opens(DEPLOYED), closes("tool.completed")),
            ),
        )
        bus = Bus()
        bus.attach(metrics, delivery="inline")
        before: dict[tuple[str, ...], float] = {}

        for service, size in events:
            bus.publish(Deployed(service=service, size=size))
            families = [
                *parse_text(generate_latest(metrics.registry).decode()),
                *parse_openmetrics(generate_openmetrics(metrics.registry).decode()),
            ]
            after = {
                (sample.name, *map(str, sorted(sample.labels.items()))): sample.value
                for family in families
                for sample in family.samples
            }
            counted = {
                key: count
                for key, count in after.items()
                if key[0].endswith(("_total", "_sum", "_count", "_bucket"))
            }
            assert all(
                counted.get(key, math.nan) >= count
                for key, count in before.items()
                if not key[0].startswith("harken_sink")
            )
            assert not any(math.isnan(count) for count in after.values())
            before = counted

        assert 6 >= len(samples(metrics, "t_counted_total"))
        assert 0 == bus.health()["PrometheusInstrumenter"].failures
        bus.close()
