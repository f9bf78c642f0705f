"""
The dashboard: what is committed is what the code makes, and all of it is there to be seen.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from harken.sinks.prometheus import INSTRUMENTS

GRAFANA = Path(__file__).parents[2] / "deploy" / "grafana"
COMMITTED = (GRAFANA / "dashboards" / "harken.json").read_text(encoding="utf-8")
DASHBOARD = json.loads(COMMITTED)
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def made(*args: str) -> str:
    return subprocess.run(
        [sys.executable, str(GRAFANA / "dashboard.py"), *args],
        stdout=subprocess.PIPE,
        encoding="utf-8",
        check=True,
    ).stdout


def cells(panel: dict[str, Any]) -> set[tuple[int, int]]:
    place = panel["gridPos"]
    return {
        (place["x"] + column, place["y"] + line)
        for column in range(place["w"])
        for line in range(place["h"])
    }


def test_is_what_the_code_makes() -> None:
    """
    Nobody has changed the file by hand, or the code without the file.
    """
    assert made() == COMMITTED


@pytest.mark.parametrize("namespace", ["billing", ""])
def test_in_another_namespace(namespace: str) -> None:
    """
    Whoever has another namespace for the agents' metrics gets a dashboard that asks for those.
    """
    front = f"{namespace}_" if namespace else ""

    assert COMMITTED.replace("infra_agent_", front) == made(namespace)


def test_has_the_panels_that_were_asked_for() -> None:
    """
    What agents do, how long it takes, what it costs, what fails, who waits, and how sinks are.
    """
    titles = [panel["title"] for panel in PANELS]

    assert [
        *("Active sessions", "Success rate", "PRs created", "Approvals waiting"),
        *("Completion time (p95)", "Token usage", "Queue depth", "Credentials issued"),
    ] == titles[:8]
    assert {
        *("Tool calls (p95)", "Model requests (p95)", "Cost per hour", "Errors by tool"),
        *("Sinks", "Queues", "Dropped events", "Sink errors", "Audit log", "Spans"),
    } <= set(titles)
    assert len(titles) == len(set(titles))


def test_covers_no_panel_with_another() -> None:
    """
    Every panel has a number and a place of its own, on the grid.
    """
    panels = DASHBOARD["panels"]

    assert len(panels) == len({panel["id"] for panel in panels})
    assert not [
        (one["title"], other["title"])
        for one, other in combinations(panels, 2)
        if cells(one) & cells(other)
    ]
    assert max(column for panel in panels for column, _ in cells(panel)) == 23


def test_says_what_each_panel_is_for() -> None:
    """
    Whoever is woken up by a panel can read what it shows.
    """
    assert [] == [panel["title"] for panel in PANELS if not panel["description"].endswith(".")]


def test_asks_for_metrics_that_exist() -> None:
    """
    A metric of the agents that a panel asks for is one that an instrument has.
    """
    suffix = {"counter": "_total", "gauge": "", "histogram": "_bucket"}
    existing = {f"infra_agent_{one.name}{suffix[one.kind]}" for one in INSTRUMENTS}

    asked = set(re.findall(r"infra_agent_\w+", json.dumps(PANELS)))

    assert set() == asked - existing
    assert len(asked) > 15


def test_leads_from_durations_to_traces() -> None:
    """
    The panels of durations with exemplars ask for them, and only those of histograms can.
    """
    with_exemplars = [
        target["expr"] for panel in PANELS for target in panel["targets"] if target["exemplar"]
    ]

    assert len(with_exemplars) == 4
    assert all("_bucket" in expr for expr in with_exemplars)
