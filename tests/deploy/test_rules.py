"""
What the rules ask for is what harken shows.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.deploy.conftest import DEPLOY
from tests.deploy.test_prometheus import DASHBOARD, read

import harken
import harken.catalog
from harken.sinks.prometheus import INSTRUMENTS

RULES = "".join(path.read_text() for path in sorted((DEPLOY / "prometheus/rules").glob("*.yml")))

# An audit log that cannot grow for a while, and what the metrics say before and behind.
OUTAGE = """
import resource, sys
from harken import Bus
from harken.catalog import PrCreated
from harken.errors import DeliveryError
from harken.sinks.audit import AuditLog
from harken.sinks.prometheus import PrometheusInstrumenter
from prometheus_client import generate_latest

bus = Bus()
bus.attach(AuditLog("audit.jsonl", on_failure=sys.argv[1]))
metrics = bus.attach(PrometheusInstrumenter()).sink
bus.publish(PrCreated(url="a"))
bus.flush(timeout=30)
sys.stdout.buffer.write(generate_latest(metrics.registry) + b"\\0")
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (1, hard))
for _ in range(3):
    try:
        bus.publish(PrCreated(url="b"))
    except DeliveryError:
        pass
bus.flush(timeout=30)
exposed = generate_latest(metrics.registry)
resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
sys.stdout.buffer.write(exposed)
"""


def total(exposed: str, metric: str) -> float:
    return sum(
        float(value) for value in re.findall(rf"^{metric}(?:{{.*}})? (\S+)$", exposed, re.MULTILINE)
    )


def test_the_manual_has_every_alert() -> None:
    """
    Whoever is woken up by an alert finds in the manual where to look.
    """
    manual = (DEPLOY.parent / "docs" / "deploy.md").read_text(encoding="utf-8")

    alerts = re.findall(r"- alert: (\w+)", RULES)

    assert len(alerts) == 21
    assert [] == [alert for alert in alerts if f"`{alert}`" not in manual]


@pytest.mark.once
def test_metrics_exist(demo: tuple[Path, str]) -> None:
    """
    Every metric that a rule is about is one that an agent at work exposes; what comes from
    elsewhere is known.
    """
    known = set(re.findall(r"^# TYPE (\w+)", read(demo[1]), re.MULTILINE)) | {
        "harken_verify_last_run_timestamp_seconds",
        "harken_verify_verdict",
        "up",
    }
    known |= {f"{metric}_bucket" for metric in known}

    asked = set(re.findall(r"(?<![:\w])(?:harken|infra_agent)_[a-z_]+(?![:\w])", RULES))

    # The groups have names, too.
    assert {"harken_agents", "harken_alerts", "harken_health"} == asked - known
    assert len(asked & known) > 20


def test_questions_are_of_people() -> None:
    """
    What is counted as a question to a person, and as its end, is every such event of the catalog.
    """
    counted = {
        one.name: {name for feed in one.feeds for name in feed.on}
        for one in INSTRUMENTS
        if one.name.startswith("questions_")
    }

    of_people = {
        name for name in harken.event_types() if re.match(r"(approval|human_input)\.", name)
    }
    assert {
        "questions_asked": {name for name in of_people if name.endswith(".requested")},
        "questions_settled": {name for name in of_people if not name.endswith(".requested")},
    } == counted


def test_the_panel_of_approvals_asks_what_the_rule_does() -> None:
    """
    The panel shows what the rule records, of all jobs together, and what its unit tests hold for.
    """
    (recorded,) = re.findall(r"questions:waiting7d\n +expr: \|\n(.*?)\n(?=\S|\n)", RULES, re.DOTALL)
    (panel,) = (one for one in DASHBOARD["panels"] if one["title"] == "Approvals waiting")
    (target,) = panel["targets"]

    def plain(expr: str) -> str:
        return re.sub(r"by \(job\)|\s", "", expr)

    assert plain(recorded) + "orvector(0)" == plain(target["expr"])


@pytest.mark.parametrize("metric", ["harken_spans", "harken_log_events", "harken_audit_reopens"])
@pytest.mark.once
def test_label_values_exist(demo: tuple[Path, str], metric: str) -> None:
    """
    A value of a label that a rule asks for is one that there is.
    """
    exposed = read(demo[1])

    for label, values in re.findall(rf'{metric}_total{{(\w+)=~?"([^"]+)"}}', RULES):
        for value in values.split("|"):
            assert f'{metric}_total{{{label}="{value}"}}' in exposed


@pytest.mark.parametrize("how", ["degrade", "raise"])
def test_audit_log_that_cannot_be_written(
    how: str, run_python: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    """
    In an outage an audit log that must be written raises what the alert asks for; one that may
    go on shows records that are due, and no bytes.
    """
    before, after = run_python(OUTAGE, how).stdout.split("\0")

    due, written, errors = (
        total(after, metric) - total(before, metric)
        for metric in (
            "harken_audit_records_total",
            "harken_audit_written_bytes_total",
            'harken_sink_errors_total{error_type="AuditWriteError",sink="AuditLog"}',
        )
    )
    assert due >= 3
    assert 0 == written
    assert (errors > 0) == (how == "raise")
