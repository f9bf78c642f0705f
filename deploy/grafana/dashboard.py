"""
Make the Grafana dashboard of agents that use harken.

    python dashboard.py [NAMESPACE] > dashboards/harken.json

NAMESPACE is the first word of the agents' metrics, as in the setting ``metrics_namespace``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

DEFAULT_NAMESPACE = "infra_agent"

SOURCE = {"type": "prometheus", "uid": "${datasource}"}
WIDTH = 24

ERRORS = "failure|timeout|orphaned"

UP_OR_NOT = {
    "type": "value",
    "options": {
        "0": {"text": "quarantine", "color": "red", "index": 0},
        "1": {"text": "up", "color": "green", "index": 1},
    },
}


@dataclass(frozen=True)
class Query:
    """
    What a panel asks Prometheus.

    Attributes:
        exemplars: Whether to show the traces behind some of the values.
    """

    expr: str
    legend: str
    exemplars: bool = False


@dataclass(frozen=True)
class Panel:
    """
    A panel; the description says what an operator does with it.

    Attributes:
        unit: One of Grafana's ids of units.

        limits: From which value on it is shown in which colour.
    """

    title: str
    description: str
    unit: str
    queries: Sequence[Query]
    kind: Literal["timeseries", "stat"] = "timeseries"
    limits: Mapping[float, str] = field(default_factory=dict[float, str])
    mappings: Sequence[Mapping[str, Any]] = ()
    text: Literal["value", "name", "value_and_name"] = "value_and_name"


@dataclass(frozen=True)
class Row:
    """
    A row of panels, so many beside each other.
    """

    title: str
    columns: int
    height: int
    panels: Sequence[Panel]


def p95(metric: str, by: str = "", window: str = "$__rate_interval", where: str = "") -> str:
    """
    Return the query for the 95th percentile of a histogram.
    """
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile(0.95, sum by ({labels}) (rate({metric}_bucket{where}[{window}])))"


def of_a_week(metric: str) -> str:
    """
    Return the query for the increase within a week, with what was counted before a first scrape.
    """
    least = f"min_over_time({metric}[7d])"
    return f"sum(increase({metric}[7d]) + ({least} unless {metric} offset 7d or 0 * {least}))"


OF_AGENT = '{agent_slug=~"$agent"}'

AGENTS = Row(
    "Agents",
    4,
    6,
    [
        Panel(
            "Active sessions",
            "Sessions that were started and have not ended.",
            "short",
            [Query(f"sum(infra_agent_sessions_active{OF_AGENT}) or vector(0)", "sessions")],
            kind="stat",
            text="value",
        ),
        Panel(
            "Success rate",
            "The part of all tasks of the last hour that succeeded.",
            "percentunit",
            [
                Query(
                    "sum by (agent_slug) "
                    '(rate(infra_agent_tasks_total{status="success", agent_slug=~"$agent"}[1h]))'
                    f" / (sum by (agent_slug) (rate(infra_agent_tasks_total{OF_AGENT}[1h])) > 0)",
                    "{{agent_slug}}",
                )
            ],
            kind="stat",
            limits={0: "red", 0.8: "yellow", 0.95: "green"},
        ),
        Panel(
            "PRs created",
            "Pull requests of the last 24 hours; fractions are extrapolation.",
            "short",
            [
                Query(
                    f"sum by (agent_slug) (increase(infra_agent_prs_created_total{OF_AGENT}[24h]))",
                    "{{agent_slug}}",
                )
            ],
            kind="stat",
        ),
        Panel(
            "Approvals waiting",
            "Questions to people of the last 7 days that are open, also from before a restart.",
            "short",
            [
                Query(
                    f"clamp_min(round({of_a_week('infra_agent_questions_asked_total')}"
                    f" - {of_a_week('infra_agent_questions_settled_total')}), 0) or vector(0)",
                    "questions",
                )
            ],
            kind="stat",
            text="value",
            limits={0: "green", 1: "yellow"},
        ),
        Panel(
            "Completion time (p95)",
            "Within which time 95 % of the tasks of the last hour ended.",
            "s",
            [
                Query(
                    p95("infra_agent_task_duration_seconds", "agent_slug", "1h", OF_AGENT),
                    "{{agent_slug}}",
                    exemplars=True,
                )
            ],
        ),
        Panel(
            "Token usage",
            "Tokens per second that models read and wrote, over the last hour.",
            "short",
            [
                Query(
                    f"sum by (agent_slug) (rate(infra_agent_tokens_total{OF_AGENT}[1h]))",
                    "{{agent_slug}}",
                )
            ],
        ),
        Panel(
            "Queue depth",
            "Tasks that wait.",
            "short",
            [Query("infra_agent_queue_depth", "{{queue}} {{instance}}")],
        ),
        Panel(
            "Credentials issued",
            "Credentials per second, by the first word of their scope, over the last hour.",
            "short",
            [
                Query(
                    "sum by (agent_slug, scope_class) "
                    f"(rate(infra_agent_credentials_issued_total{OF_AGENT}[1h]))",
                    "{{agent_slug}} {{scope_class}}",
                )
            ],
        ),
    ],
)

LATENCY_AND_COST = Row(
    "Latency and cost",
    4,
    7,
    [
        Panel(
            "Tool calls (p95)",
            "A dot is a call; it leads to its trace.",
            "s",
            [
                Query(
                    p95("infra_agent_tool_call_duration_seconds", "tool"),
                    "{{tool}}",
                    exemplars=True,
                )
            ],
        ),
        Panel(
            "Model requests (p95)",
            "A dot is a request; it leads to its trace.",
            "s",
            [
                Query(
                    p95("infra_agent_llm_request_duration_seconds", "model"),
                    "{{model}}",
                    exemplars=True,
                )
            ],
        ),
        Panel(
            "First chunk of an answer (p95)",
            "How long a model lets the agent wait before it begins to answer.",
            "s",
            [Query(p95("infra_agent_llm_time_to_first_chunk_seconds", "model"), "{{model}}")],
        ),
        Panel(
            "Phases (p95)",
            "Where the time of a task goes, apart from tools and models.",
            "s",
            [Query(p95("infra_agent_phase_duration_seconds", "phase", "1h"), "{{phase}}")],
        ),
        Panel(
            "Wait in a queue (p95)",
            "How old a task is when it is begun, over the last hour.",
            "s",
            [Query(p95("infra_agent_queue_wait_seconds", "queue", "1h"), "{{queue}}")],
        ),
        Panel(
            "Cost per hour",
            "What models cost in US dollars, where it is known.",
            "currencyUSD",
            [
                Query(
                    f"3600 * sum by (model) (rate(infra_agent_llm_cost_usd_total{OF_AGENT}[1h]))",
                    "{{model}}",
                )
            ],
        ),
        Panel(
            "Cost in this time range",
            "What each agent cost in US dollars.",
            "currencyUSD",
            [
                Query(
                    "sum by (agent_slug) "
                    f"(increase(infra_agent_llm_cost_usd_total{OF_AGENT}[$__range]))",
                    "{{agent_slug}}",
                )
            ],
            kind="stat",
        ),
        Panel(
            "Answer of a person (p95)",
            "How long agents waited for people, over the last hour.",
            "s",
            [
                Query(
                    p95("infra_agent_approval_wait_seconds", window="1h"),
                    "answers",
                    exemplars=True,
                )
            ],
        ),
    ],
)

ERROR_ROW = Row(
    "Errors and decisions",
    3,
    7,
    [
        Panel(
            "Errors by tool",
            "The part of its calls that failed or timed out; what was denied is none of these.",
            "percentunit",
            [
                Query(
                    "sum by (tool) (rate("
                    f'infra_agent_tool_calls_total{{status=~"{ERRORS}"}}[$__rate_interval]))'
                    " / (sum by (tool) "
                    "(rate(infra_agent_tool_calls_total[$__rate_interval])) > 0)",
                    "{{tool}}",
                )
            ],
        ),
        Panel(
            "Errors by model",
            "The part of its requests that failed or timed out.",
            "percentunit",
            [
                Query(
                    "sum by (model) (rate("
                    f'infra_agent_llm_requests_total{{status=~"{ERRORS}"}}[$__rate_interval]))'
                    " / (sum by (model) "
                    "(rate(infra_agent_llm_requests_total[$__rate_interval])) > 0)",
                    "{{model}}",
                )
            ],
        ),
        Panel(
            "Errors that were reported",
            "Errors per second, by where they happened.",
            "short",
            [
                Query(
                    "sum by (component, error_type) "
                    "(rate(infra_agent_errors_total[$__rate_interval]))",
                    "{{component}} {{error_type}}",
                )
            ],
        ),
        Panel(
            "Policy decisions",
            "Decisions per second.",
            "short",
            [
                Query(
                    "sum by (decision) "
                    "(rate(infra_agent_policy_evaluations_total[$__rate_interval]))",
                    "{{decision}}",
                )
            ],
        ),
        Panel(
            "Guard violations",
            "Violations per second, by what was done about them.",
            "short",
            [
                Query(
                    "sum by (guard, action) "
                    "(rate(infra_agent_guard_violations_total[$__rate_interval]))",
                    "{{guard}} {{action}}",
                )
            ],
        ),
        Panel(
            "Approvals in this time range",
            "What people decided, and what they left undecided too long.",
            "short",
            [
                Query(
                    "sum by (decision) (increase(infra_agent_approvals_total[$__range]))",
                    "{{decision}}",
                )
            ],
            kind="stat",
        ),
    ],
)

HEALTH = Row(
    "Sinks",
    3,
    7,
    [
        Panel(
            "Sinks",
            "A sink in quarantine raised again and again, and misses events.",
            "short",
            [Query("min by (instance, sink) (harken_sink_up)", "{{instance}} {{sink}}")],
            kind="stat",
            limits={0: "red", 1: "green"},
            mappings=[UP_OR_NOT],
        ),
        Panel(
            "Queues",
            "How full they are; a full one drops events.",
            "percentunit",
            [
                Query(
                    "max by (instance, sink) "
                    "(harken_sink_queue_depth / (harken_sink_queue_capacity > 0))",
                    "{{instance}} {{sink}}",
                )
            ],
            limits={0: "green", 0.8: "red"},
        ),
        Panel(
            "Dropped events",
            "Events per second that a sink missed.",
            "short",
            [
                Query(
                    "sum by (sink, reason) (rate(harken_events_dropped_total[$__rate_interval]))",
                    "{{sink}} {{reason}}",
                )
            ],
        ),
        Panel(
            "Sink errors",
            "What sinks raised, per second.",
            "short",
            [
                Query(
                    "sum by (sink) (rate(harken_sink_errors_total[$__rate_interval]))"
                    " or 0 * max by (sink) (harken_sink_up)",
                    "{{sink}}",
                )
            ],
        ),
        Panel(
            "Delivery lag (p95)",
            "How old the oldest event of a batch is when a sink takes it.",
            "s",
            [Query(p95("harken_delivery_lag_seconds", "sink"), "{{sink}}")],
        ),
        Panel(
            "Events",
            "The ten most frequent types, per second.",
            "short",
            [
                Query(
                    "topk(10, sum by (type) "
                    "(rate(harken_events_published_total[$__rate_interval])))",
                    "{{type}}",
                )
            ],
        ),
        Panel(
            "Audit log",
            "Records that are due, and bytes that are written, per second. One without the other"
            " is an audit log that cannot be written.",
            "short",
            [
                Query("sum(rate(harken_audit_records_total[$__rate_interval]))", "records"),
                Query("sum(rate(harken_audit_written_bytes_total[$__rate_interval]))", "bytes"),
            ],
        ),
        Panel(
            "Spans",
            "Spans per second, by what became of them, and log events.",
            "short",
            [
                Query(
                    "sum by (result) (rate(harken_spans_total[$__rate_interval]))",
                    "{{result}}",
                ),
                Query(
                    "sum by (result) (rate(harken_log_events_total[$__rate_interval]))",
                    "log events {{result}}",
                ),
            ],
        ),
        Panel(
            "Verdict on the audit log",
            "What harken verify said last. A log that is being written is incomplete at best.",
            "short",
            [
                Query(
                    'harken_verify_verdict{part="whole"} == 1',
                    "{{log}}: {{verdict}}",
                )
            ],
            kind="stat",
            text="name",
        ),
    ],
)

ROWS = (AGENTS, LATENCY_AND_COST, ERROR_ROW, HEALTH)


def dashboard(namespace: str = DEFAULT_NAMESPACE) -> dict[str, Any]:
    """
    Return the dashboard as Grafana reads it.
    """
    return {
        "uid": "harken",
        "title": "Agents (harken)",
        "description": "What agents do, how long it takes, what it costs, and how harken is.",
        "tags": ["agents", "harken"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "timezone": "browser",
        "annotations": {"list": [_alerts()]},
        "templating": {"list": [_data_source(), _agent(namespace)]},
        "links": [],
        "panels": list(_laid_out(ROWS, namespace)),
    }


def _data_source() -> dict[str, Any]:
    return {
        "name": "datasource",
        "label": "Prometheus",
        "type": "datasource",
        "query": "prometheus",
        "current": {},
    }


def _agent(namespace: str) -> dict[str, Any]:
    metric = _in_namespace("infra_agent_tasks_total", namespace)
    return {
        "name": "agent",
        "label": "Agent",
        "type": "query",
        "datasource": SOURCE,
        "query": {"query": f"label_values({metric}, agent_slug)", "refId": "agent"},
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }


def _alerts() -> dict[str, Any]:
    return {
        "name": "Alerts",
        "datasource": SOURCE,
        "enable": True,
        "iconColor": "red",
        "expr": 'ALERTS{alertname=~"Harken.*", alertstate="firing"}',
        "titleFormat": "{{alertname}}",
        "textFormat": "{{instance}} {{sink}}",
    }


def _laid_out(rows: Sequence[Row], namespace: str) -> Iterator[dict[str, Any]]:
    number, top = 1, 0
    for row in rows:
        place = {"x": 0, "y": top, "w": WIDTH, "h": 1}
        yield {
            "id": number,
            "type": "row",
            "title": row.title,
            "collapsed": False,
            "panels": [],
            "gridPos": place,
        }
        top += 1
        width = WIDTH // row.columns
        for index, panel in enumerate(row.panels):
            line, column = divmod(index, row.columns)
            number += 1
            place = {
                "x": column * width,
                "y": top + line * row.height,
                "w": width,
                "h": row.height,
            }
            yield {"id": number, "gridPos": place, **_panel(panel, namespace)}
        number += 1
        top += -(-len(row.panels) // row.columns) * row.height


def _panel(panel: Panel, namespace: str) -> dict[str, Any]:
    defaults: dict[str, Any] = {"unit": panel.unit, "min": 0}
    if panel.limits:
        steps = [
            {"color": colour, "value": None if value == 0 else value}
            for value, colour in panel.limits.items()
        ]
        defaults["thresholds"] = {"mode": "absolute", "steps": steps}
        defaults["color"] = {"mode": "thresholds" if panel.kind == "stat" else "palette-classic"}
    if panel.mappings:
        defaults["mappings"] = list(panel.mappings)
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": SOURCE,
        "targets": [
            _target(letter, query, namespace)
            for letter, query in zip("ABC", panel.queries, strict=False)
        ],
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": _stat(panel) if panel.kind == "stat" else _time_series(),
    }


def _stat(panel: Panel) -> dict[str, Any]:
    return {
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "textMode": panel.text,
        "colorMode": "value",
        "graphMode": "none" if panel.mappings or panel.text == "name" else "area",
    }


def _time_series() -> dict[str, Any]:
    return {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }


def _target(letter: str, query: Query, namespace: str) -> dict[str, Any]:
    return {
        "refId": letter,
        "datasource": SOURCE,
        "expr": _in_namespace(query.expr, namespace),
        "legendFormat": query.legend,
        "exemplar": query.exemplars,
        "range": True,
        "instant": False,
    }


def _in_namespace(expr: str, namespace: str) -> str:
    return expr.replace(f"{DEFAULT_NAMESPACE}_", f"{namespace}_" if namespace else "")


def as_json(namespace: str = DEFAULT_NAMESPACE) -> str:
    """
    Return the dashboard as the text of a file.
    """
    return json.dumps(dashboard(namespace), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.stdout.write(as_json(*sys.argv[1:2]))
