"""
Spans as a real backend has them: sent to Arize Phoenix, and read back over its HTTP API.

Phoenix is heavy and has an environment of its own, which `nox -s phoenix` makes; elsewhere
`PHOENIX_COMMAND` may name its command.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="needs harken[otlp]")

from opentelemetry.sdk.resources import Resource
from tests import servers
from tests.deploy.conftest import answers
from tests.servers import free_port, running, wait_for

import harken
from harken import Bus, Event, register_trace_source
from harken.catalog import RunStarted, ToolCompleted, ToolStarted
from harken.sinks.otel import SpanRecorder, otlp_exporter

pytestmark = [pytest.mark.once, pytest.mark.timeout(600)]

JSON = Any


class Phoenix:
    """
    A Phoenix that runs.

    Attributes:
        endpoints: What `OTEL_EXPORTER_OTLP_ENDPOINT` has to be, by protocol.
    """

    def __init__(self, port: int, grpc_port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.endpoints = {"http/protobuf": self.url, "grpc": f"http://127.0.0.1:{grpc_port}"}

    def spans(self, project: str, count: int) -> dict[str, JSON]:
        """
        Return the spans of *project* by their ids, once there are *count*.
        """
        wait_for(lambda: len(self._spans(project)) >= count, f"{count} spans of {project}")
        spans = self._spans(project)
        found = {span["context"]["span_id"]: span for span in spans}
        assert len(found) == len(spans)
        return found

    def _spans(self, project: str) -> list[JSON]:
        url = f"{self.url}/v1/projects/{project}/spans?limit=1000"
        with urllib.request.urlopen(url, timeout=30) as answer:
            spans: list[JSON] = json.load(answer)["data"]
            return spans


@pytest.fixture(scope="module")
def phoenix(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Phoenix]:
    """
    A Phoenix of its own, on the loopback.
    """
    command = os.environ.get("PHOENIX_COMMAND") or shutil.which("phoenix")
    if command is None:
        pytest.skip("Phoenix is not installed; nox -s phoenix brings it along")
    folder = tmp_path_factory.mktemp("phoenix")
    port, grpc_port = free_port(), free_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PHOENIX_HOST", "127.0.0.1")
        patch.setenv("PHOENIX_PORT", str(port))
        patch.setenv("PHOENIX_GRPC_PORT", str(grpc_port))
        patch.setenv("PHOENIX_TELEMETRY_ENABLED", "false")
        patch.setenv("PHOENIX_WORKING_DIR", str(folder))
        # Its first start takes much longer than any other server's.
        patch.setattr(servers, "PATIENCE", 240.0)
        # What the tests are run with is not for another environment's Python.
        patch.delenv("PYTHONPATH", raising=False)
        url = f"http://127.0.0.1:{port}/healthz"
        with running([command, "serve"], folder / "log.txt", lambda: answers(url)):
            yield Phoenix(port, grpc_port)


def times(span: Mapping[str, JSON]) -> list[int]:
    """
    Return start, end and the times of events, in microseconds since the epoch.
    """
    events = [event["timestamp"] for event in span["events"]]
    return [microseconds(time) for time in (span["start_time"], span["end_time"], *events)]


def microseconds(time: str) -> int:
    # Nanoseconds are more than Python reads.
    seconds, _, rest = time.removesuffix("Z").removesuffix("+00:00").partition(".")
    whole = int(datetime.fromisoformat(f"{seconds}+00:00").timestamp())
    return whole * 1_000_000 + int(f"{rest:0<6}"[:6])


def written(span: Mapping[str, JSON]) -> JSON:
    """
    Return what a line of spans.jsonl says, besides times and attributes.
    """
    return (
        span["trace_id"],
        span["parent_id"],
        span["name"],
        (span["status"]["status_code"], span["status"]["description"] or ""),
        [event["name"] for event in span["events"]],
    )


def read_back(span: Mapping[str, JSON]) -> JSON:
    """
    Return the same of what Phoenix has.
    """
    return (
        span["context"]["trace_id"],
        span["parent_id"],
        span["name"],
        (span["status_code"], span["status_message"]),
        [event["name"] for event in span["events"]],
    )


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_the_demo(phoenix: Phoenix, tmp_path: Path, protocol: str) -> None:
    """
    Every span of the demo's runs comes back with its parent, times, status and attributes.
    """
    if protocol == "grpc":
        pytest.importorskip(
            "opentelemetry.exporter.otlp.proto.grpc", reason="needs harken[otlp-grpc]"
        )
    project = f"demo-{protocol.partition('/')[0]}"
    subprocess.run(
        [sys.executable, "-m", "harken", "demo", "--out", str(tmp_path), "--otlp"],
        env={
            **os.environ,
            "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
            "OTEL_EXPORTER_OTLP_ENDPOINT": phoenix.endpoints[protocol],
            "OTEL_RESOURCE_ATTRIBUTES": f"openinference.project.name={project}",
        },
        check=True,
        capture_output=True,
    )
    lines = (tmp_path / "spans.jsonl").read_text(encoding="utf-8").splitlines()
    ours = {span["span_id"]: span for span in map(json.loads, lines)}

    theirs = phoenix.spans(project, len(ours))

    assert {id: written(span) for id, span in ours.items()} == {
        id: read_back(span) for id, span in theirs.items()
    }
    assert {"ERROR", "UNSET"} == {span["status_code"] for span in theirs.values()}
    for id, span in ours.items():
        # Phoenix rounds to microseconds.
        assert times(span) == pytest.approx(times(theirs[id]), rel=0, abs=1)
        kept = theirs[id]["attributes"]
        assert span["attributes"] == {key: kept.get(key) for key in span["attributes"]}


def test_shuffled_and_one_of_them_lost(phoenix: Phoenix, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Twenty parallel tools whose events come in any order, and one whose end never comes, are
    twenty-one spans: one root, twenty children of it, and one of those says that it was left open.
    """
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", phoenix.endpoints["http/protobuf"])
    resource = Resource({"openinference.project.name": "shuffled"})
    bus = Bus()
    bus.attach(SpanRecorder(otlp_exporter(), resource=resource))
    events: list[Event] = [
        kind(tool_name=f"t{number}", tool_call_id=f"c{number}")
        for number in range(20)
        for kind in (ToolStarted, ToolCompleted)
    ]
    events.remove(ToolCompleted(tool_name="t13", tool_call_id="c13"))
    random.Random(7).shuffle(events)

    with harken.scope(run_id="r-1"), bus.operation(RunStarted()) as run:
        for event in events:
            bus.publish(event)
    closed = bus.close(60)
    register_trace_source(None)
    spans = phoenix.spans("shuffled", 21)

    assert run.envelope is not None
    root = run.envelope.span_id
    expected: dict[str, JSON] = {"invoke_agent": (None, "UNSET", None)}
    expected |= {f"execute_tool t{number}": (root, "UNSET", None) for number in range(20)}
    expected["execute_tool t13"] = (root, "ERROR", "orphaned")
    assert (True, 21) == (bool(closed), len(spans))
    assert expected == {
        span["name"]: (
            span["parent_id"],
            span["status_code"],
            span["attributes"].get("error.type"),
        )
        for span in spans.values()
    }
    assert {run.envelope.trace_id} == {span["context"]["trace_id"] for span in spans.values()}
