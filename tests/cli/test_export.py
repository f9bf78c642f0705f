"""
``harken export``: records as OCSF, ECS and CloudEvents.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any
from urllib.parse import urlparse

import pytest

import harken as api
from harken import Bus
from harken.catalog import CredentialIssued, PolicyEvaluated, ToolStarted
from harken.sinks.audit import AuditLog
from harken.trail.export import FORMATS

pytestmark = pytest.mark.once

Run = Callable[..., CompletedProcess[str]]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """
    A log in two files, with a success, a failure, a denial and a start.
    """
    path = tmp_path / "audit.jsonl"
    bus = Bus()
    audit = AuditLog(path)
    bus.attach(audit)
    with api.scope(
        actor="agent:billing", session_id="s-1", run_id="r-42", on_behalf_of="user:alice"
    ):
        with bus.operation(ToolStarted(tool_name="search", tool_call_id="c-1")) as operation:
            operation.fail(TimeoutError("too slow"))
        bus.publish(PolicyEvaluated(policy_id="p", subject="s", decision="deny"))
    bus.publish(CredentialIssued(credential_id="k-1", scope="read"))
    path.rename(tmp_path / "audit.jsonl.1")
    bus.publish(CredentialIssued(credential_id="k 2", scope="read"))
    bus.close()
    return path


def exported(harken: Run, form: str, log: Path, **options: Any) -> list[dict[str, Any]]:
    done = harken("export", form, str(log), **options)
    return [json.loads(line) for line in done.stdout.splitlines()]


def by_code(events: list[dict[str, Any]], code: Callable[[dict[str, Any]], str]) -> dict[str, Any]:
    return {code(event): event for event in events}


def test_ocsf(harken: Run, log: Path) -> None:
    """
    Each record is an API Activity with what OCSF demands of one, from all files in order.
    """
    events = exported(harken, "ocsf", log)

    for event in events:
        assert {"activity_id", "category_uid", "class_uid", "type_uid", "time"} < event.keys()
        assert {"severity_id", "metadata", "actor", "api", "src_endpoint"} < event.keys()
        assert event["type_uid"] == 600_300 + event["activity_id"]
        assert {"version", "product"} < event["metadata"].keys()
    assert list(range(1, len(events) + 1)) == [event["metadata"]["sequence"] for event in events]
    found = by_code(events, lambda event: str(event["metadata"]["event_code"]))
    failed = found["tool.failed"]
    assert (2, "Failure", "timeout", 3) == (
        failed["status_id"],
        failed["status"],
        failed["status_detail"],
        failed["severity_id"],
    )
    assert {"uid": "agent:billing", "name": "billing"} == failed["actor"]["ai_agent"]
    assert {"uid": "s-1"} == failed["actor"]["session"]
    assert [{"uid": "search", "type": "tool"}] == failed["resources"]
    assert "r-42" == failed["unmapped"]["run_id"]
    assert (0, "Unknown") == (found["tool.started"]["status_id"], found["tool.started"]["status"])
    assert (2, "denied") == (
        found["policy.evaluated"]["status_id"],
        found["policy.evaluated"]["status_detail"],
    )
    assert (1, 1) == (
        found["credential.issued"]["activity_id"],
        found["credential.issued"]["status_id"],
    )
    assert {} == found["credential.issued"]["actor"]


def test_ecs(harken: Run, log: Path) -> None:
    """
    Each record is a document whose outcome is one of the three words of ECS; ours stays.
    """
    found = by_code(exported(harken, "ecs", log), lambda event: str(event["event"]["code"]))

    assert {"failure", "unknown", "success"} == {
        event["event"]["outcome"] for event in found.values()
    }
    failed = found["tool.failed"]
    assert ("failure", "timeout") == (failed["event"]["outcome"], failed["harken"]["outcome"])
    assert "agent:billing" == failed["user"]["id"]
    assert re.fullmatch("[0-9a-f]{32}", failed["trace"]["id"])
    assert re.fullmatch("[0-9a-f]{16}", failed["span"]["id"])
    assert "too slow" == failed["harken"]["metadata"]["error_message"]
    assert all("@timestamp" in event and "ecs" in event for event in found.values())


def test_cloudevents(harken: Run, log: Path) -> None:
    """
    Each record is a CloudEvent whose context attributes have the form that the specification asks.
    """
    events = exported(harken, "cloudevents", log)

    for event in events:
        assert "1.0" == event["specversion"]
        assert event["id"] and event["type"]
        assert urlparse(event["source"]).path.startswith("/harken/")
        assert " " not in event["source"]
        assert all(re.fullmatch("[a-z0-9]{1,20}", name) for name in event)
        assert all(isinstance(event[name], str) for name in event.keys() - {"data"})
    assert sorted(event["sequence"] for event in events) == [e["sequence"] for e in events]
    found = by_code(events, lambda event: str(event["type"]))
    assert re.fullmatch("00-[0-9a-f]{32}-[0-9a-f]{16}-01", found["tool.failed"]["traceparent"])
    assert "traceparent" not in found["audit.open"]
    assert "/harken/agent%3Abilling" == found["tool.failed"]["source"]


@pytest.mark.parametrize("form", FORMATS)
def test_damaged_line(harken: Run, log: Path, form: str) -> None:
    """
    What is no record is named and left out, and the rest is exported.
    """
    whole = exported(harken, form, log)
    content = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join([content[0], b"{}\n", b"not a record\n", *content[1:]]))

    done = harken("export", form, str(log), returncode=3)

    assert len(whole) == len(done.stdout.splitlines())
    second = len(content[0])
    assert [f"{log} at byte {second}", f"{log} at byte {second + 3}"] == [
        line.removeprefix("Warning: ").partition(": the line")[0]
        for line in done.stderr.splitlines()
    ]


def test_missing_log(harken: Run, tmp_path: Path) -> None:
    """
    A log that is not there is named.
    """
    done = harken("export", "ecs", str(tmp_path / "none.jsonl"), returncode=4)

    assert "none.jsonl" in done.stderr
