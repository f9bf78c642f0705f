"""
The Prometheus sink under the names of OpenTelemetry's GenAI conventions.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families as parse_text

import harken
from harken import Bus
from harken.catalog import (
    AgentCompleted,
    AgentStarted,
    LlmCompleted,
    LlmFailed,
    LlmStarted,
    RunCompleted,
    RunStarted,
    SessionEnded,
    SessionStarted,
    ToolCompleted,
    ToolDenied,
    ToolFailed,
    ToolStarted,
)
from harken.errors import SettingsError
from harken.sinks.prometheus import INSTRUMENTS, SEMCONV_INSTRUMENTS, PrometheusInstrumenter
from harken.sinks.prometheus.semconv import REPLACED


@pytest.fixture
def metrics() -> PrometheusInstrumenter:
    """
    An instrumenter with the conventions' names.
    """
    return PrometheusInstrumenter(names="semconv")


@pytest.fixture
def bus(metrics: PrometheusInstrumenter) -> Iterator[Bus]:
    """
    A bus whose events are counted before publish returns.
    """
    bus = Bus()
    bus.attach(metrics, delivery="inline")
    yield bus
    bus.close()


def shown(metrics: PrometheusInstrumenter, name: str) -> list[tuple[dict[str, str], float]]:
    """
    The labels that are not empty, and the number, of each sample of *name*.
    """
    return [
        ({label: text for label, text in sample.labels.items() if text}, sample.value)
        for family in parse_text(generate_latest(metrics.registry).decode())
        for sample in family.samples
        if sample.name == name
    ]


class TestNames:
    """
    What is called by the conventions' names.
    """

    def test_one_name_for_each_observation(self) -> None:
        """
        What has a name there is not counted under harken's, too; everything else keeps its name.
        """
        plain = {one.name for one in INSTRUMENTS}
        new = {one.name for one in SEMCONV_INSTRUMENTS} - plain

        assert plain - REPLACED == {one.name for one in SEMCONV_INSTRUMENTS} & plain
        assert {
            "gen_ai_client_operation_duration_seconds",
            "gen_ai_client_operation_time_to_first_chunk_seconds",
            "gen_ai_client_token_usage",
            "gen_ai_execute_tool_duration_seconds",
            "gen_ai_invoke_agent_duration_seconds",
            "gen_ai_invoke_workflow_duration_seconds",
        } == new

    def test_unknown_names(self) -> None:
        """
        A third kind of names is refused, with those that there are.
        """
        with pytest.raises(SettingsError, match="'otel' are unknown; use harken or semconv"):
            PrometheusInstrumenter(names="otel")  # type: ignore[arg-type]

    def test_buckets_are_the_conventions(self) -> None:
        """
        The buckets are those that the conventions ask for.
        """
        buckets = {one.name: one.buckets for one in SEMCONV_INSTRUMENTS}

        assert (
            (0.01, 0.02, 81.92, 14),
            (1.0, 4.0, 67108864.0, 14),
            (0.1, 0.2, 409.6, 13),
        ) == tuple(
            (*buckets[name][:2], round(buckets[name][-1], 9), len(buckets[name]))
            for name in (
                "gen_ai_execute_tool_duration_seconds",
                "gen_ai_client_token_usage",
                "gen_ai_invoke_agent_duration_seconds",
            )
        )

    def test_promtool(
        self, bus: Bus, metrics: PrometheusInstrumenter, require_server: Callable[[str], str]
    ) -> None:
        """
        Prometheus' own linter has nothing to say about the names.
        """
        promtool = require_server("promtool")
        with bus.operation(ToolStarted(tool_name="search")):
            bus.publish(LlmCompleted(model="m", input_tokens=3, duration_ms=5, ttft_ms=1))

        done = subprocess.run(
            [promtool, "check", "metrics"],
            input=generate_latest(metrics.registry),
            capture_output=True,
            check=False,
        )
        assert (0, b"", b"") == (done.returncode, done.stdout, done.stderr)


class TestObservations:
    """
    What the catalog's events do to them.
    """

    def test_model(self, bus: Bus, metrics: PrometheusInstrumenter) -> None:
        """
        A request is one duration, one time to its first chunk, and the tokens of each kind.
        """
        bus.publish(LlmStarted(llm_call_id="1", provider="acme", model="m"))
        bus.publish(
            LlmCompleted(
                llm_call_id="1",
                response_model="m-2026",
                input_tokens=100,
                output_tokens=20,
                ttft_ms=250,
                duration_ms=1000,
            )
        )

        labels = {
            "gen_ai_operation_name": "chat",
            "gen_ai_provider_name": "acme",
            "gen_ai_request_model": "m",
            "gen_ai_response_model": "m-2026",
        }
        assert [(labels, 1.0)] == shown(metrics, "gen_ai_client_operation_duration_seconds_count")
        assert [(labels, 0.25)] == shown(
            metrics, "gen_ai_client_operation_time_to_first_chunk_seconds_sum"
        )
        assert [
            ({**labels, "gen_ai_token_type": "input"}, 100.0),
            ({**labels, "gen_ai_token_type": "output"}, 20.0),
        ] == shown(metrics, "gen_ai_client_token_usage_sum")

    def test_tokens_that_nobody_counted(self, bus: Bus, metrics: PrometheusInstrumenter) -> None:
        """
        A request whose tokens nobody filled in is none of zero tokens.
        """
        bus.publish(LlmCompleted(model="m"))

        assert [] == shown(metrics, "gen_ai_client_token_usage_count")

    @pytest.mark.parametrize(
        ("end", "error_type"),
        [
            (ToolCompleted(tool_call_id="1"), {}),
            (ToolFailed(tool_call_id="1", error_type="KeyError"), {"error_type": "KeyError"}),
            (ToolFailed(tool_call_id="1", error_type="-32602"), {"error_type": "-32602"}),
            (ToolFailed(tool_call_id="1", error_type="no such file"), {"error_type": "_OTHER"}),
            (ToolFailed(tool_call_id="1"), {"error_type": "_OTHER"}),
            (
                ToolFailed(tool_call_id="1", error_type="KeyError", outcome="timeout"),
                {"error_type": "timeout"},
            ),
            (ToolFailed(tool_call_id="1", outcome="cancelled", error_type="CancelledError"), {}),
            (ToolFailed(tool_call_id="1", outcome="orphaned"), {"error_type": "orphaned"}),
            (ToolDenied(tool_call_id="1"), {}),
        ],
    )
    def test_tool(
        self,
        bus: Bus,
        metrics: PrometheusInstrumenter,
        end: ToolCompleted | ToolFailed | ToolDenied,
        error_type: dict[str, str],
    ) -> None:
        """
        A tool call has an error type when it broke: its class or code, but no sentence.
        """
        with harken.scope(actor="agent:fixer"):
            bus.publish(ToolStarted(tool_call_id="1", tool_name="search", tool_type="mcp"))
            bus.publish(end)

        labels = {
            "gen_ai_tool_name": "search",
            "gen_ai_tool_type": "mcp",
            "gen_ai_agent_name": "fixer",
            **error_type,
        }
        assert [(labels, 1.0)] == shown(metrics, "gen_ai_execute_tool_duration_seconds_count")

    def test_errors_in_turn(self, bus: Bus, metrics: PrometheusInstrumenter) -> None:
        """
        Failures of different kinds, in turn, are not mixed up.
        """
        for kind in ("KeyError", "", "OSError", "KeyError"):
            bus.publish(LlmFailed(model="m", error_type=kind, duration_ms=1))

        assert {"KeyError": 2.0, "_OTHER": 1.0, "OSError": 1.0} == {
            labels["error_type"]: number
            for labels, number in shown(metrics, "gen_ai_client_operation_duration_seconds_count")
        }

    def test_agents(self, bus: Bus, metrics: PrometheusInstrumenter) -> None:
        """
        A run is its agent's, an agent within it has its own name, and a session is a workflow.
        """
        with harken.scope(actor="agent:fixer", session_id="s", run_id="r"):
            bus.publish(SessionStarted())
            bus.publish(RunStarted(model="m"))
            bus.publish(AgentStarted(agent_id="a", agent_name="critic"))
            bus.publish(AgentCompleted(agent_id="a"))
            bus.publish(RunCompleted())
            bus.publish(SessionEnded())

        assert [
            ({"gen_ai_agent_name": "critic"}, 1.0),
            ({"gen_ai_agent_name": "fixer", "gen_ai_request_model": "m"}, 1.0),
        ] == shown(metrics, "gen_ai_invoke_agent_duration_seconds_count")
        assert [({}, 1.0)] == shown(metrics, "gen_ai_invoke_workflow_duration_seconds_count")
