"""
One trace through all four sinks, as those who read them have it: the audit log and the log of a
demo at work, exemplars from a real Prometheus, and spans from a real receiver of OTLP.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="needs harken[otlp]")

import yaml
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from tests.deploy.conftest import Prometheus, answers
from tests.otlp_receiver import OtlpReceiver, plain, receiving
from tests.servers import free_port, running, wait_for

pytestmark = pytest.mark.once

JSON = Any


@pytest.fixture(scope="module")
def receiver() -> Iterator[OtlpReceiver]:
    """
    Where the demo's spans go.
    """
    with receiving() as found:
        yield found


@pytest.fixture(scope="module")
def demo(
    tmp_path_factory: pytest.TempPathFactory, receiver: OtlpReceiver
) -> Iterator[tuple[Path, int]]:
    """
    A demo at work: the folder of its files, and the port of its metrics.
    """
    folder, port = tmp_path_factory.mktemp("demo"), free_port()
    argv = [sys.executable, "-m", "harken", "demo", "--out", str(folder), "--otlp"]
    argv += ["--serve", str(port), "--every", "0.5"]
    log = tmp_path_factory.mktemp("log") / "demo.txt"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        with running(argv, log, lambda: answers(f"http://127.0.0.1:{port}/metrics")):
            yield folder, port


@pytest.fixture(scope="module")
def prometheus(
    tmp_path_factory: pytest.TempPathFactory,
    require_server: Callable[[str], str],
    demo: tuple[Path, int],
) -> Iterator[Prometheus]:
    """
    A Prometheus that scrapes the demo.
    """
    command, port = require_server("prometheus"), free_port()
    folder = tmp_path_factory.mktemp("prometheus")
    job = {"job_name": "agents", "static_configs": [{"targets": [f"127.0.0.1:{demo[1]}"]}]}
    config = {"global": {"scrape_interval": "1s"}, "scrape_configs": [job]}
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
    argv = [
        command,
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--enable-feature=exemplar-storage",
    ]
    url = f"http://127.0.0.1:{port}"
    with running(argv, folder / "log.txt", lambda: answers(f"{url}/-/ready")):
        yield Prometheus(url)


def exemplars(prometheus: Prometheus) -> list[tuple[str, str, str, float]]:
    """
    Return the tool calls that *prometheus* can name: tool, trace id, span id and seconds.
    """
    now = time.time()
    series: list[JSON] = prometheus.get(
        "query_exemplars",
        query="infra_agent_tool_call_duration_seconds_bucket",
        start=str(now - 600),
        end=str(now + 60),
    )
    return [
        (
            one["seriesLabels"]["tool"],
            exemplar["labels"]["trace_id"],
            exemplar["labels"]["span_id"],
            float(exemplar["value"]),
        )
        for one in series
        for exemplar in one["exemplars"]
    ]


def lines_of(path: Path, trace_id: str) -> list[JSON]:
    """
    Return the lines of *path* that are part of a trace; the last may be only half written.
    """
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    found = [json.loads(line) for line in lines if line.endswith("\n")]
    return [line for line in found if line["trace_id"] == trace_id]


def ends(lines: list[JSON], name: str) -> set[tuple[str, str]]:
    """
    Return the span ids and the outcomes of the tool calls that end in *lines*.

    Args:
        name: The member that has the event's name.
    """
    over = {f"tool.{word}": word for word in ("completed", "failed", "denied")}
    return {(line["span_id"], over[line[name]]) for line in lines if line[name] in over}


def length(span: Span) -> float:
    return (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9


def test_one_trace(prometheus: Prometheus, demo: tuple[Path, int], receiver: OtlpReceiver) -> None:
    """
    From an exemplar one gets to the span, the log line and the audit record of the same tool call,
    and all four agree about what it was and how long it took; so do they about its whole trace.
    """
    wait_for(lambda: exemplars(prometheus), "exemplars")
    tool, trace_id, span_id, seconds = exemplars(prometheus)[0]

    def spans() -> Mapping[str, Span]:
        found = (span for span in receiver.spans if span.trace_id.hex() == trace_id)
        return {span.span_id.hex(): span for span in found}

    # The root ends last; it is audited at once, and the others get it when they are ready.
    wait_for(lambda: any(not one.parent_span_id for one in spans().values()), "the root's span")
    received = spans()
    span = received[span_id]
    audited = lines_of(demo[0] / "audit.jsonl", trace_id)
    log, last = demo[0] / "events.log", audited[-1]["id"]
    wait_for(lambda: last in log.read_text(encoding="utf-8"), "the log's last line of the trace")
    logged = lines_of(log, trace_id)
    (record,) = (
        line for line in audited if line["span_id"] == span_id and "duration_ms" in line["metadata"]
    )
    (line,) = (one for one in logged if one["event.id"] == record["id"])

    attributes = plain(span.attributes)
    assert (f"execute_tool {tool}", tool, f"tool:{tool}") == (
        span.name,
        attributes["gen_ai.tool.name"],
        record["resource"],
    )
    assert record["id"] == attributes["harken.event.id"]
    assert span_id == line["span_id"]
    assert record["correlation_id"] == line["correlation_id"] == attributes["harken.correlation.id"]
    # A float of the exposition, and whole nanoseconds.
    assert seconds == pytest.approx(length(span), abs=1e-8)
    tools = {id for id, one in received.items() if "gen_ai.tool.name" in plain(one.attributes)}
    assert ends(audited, "event_type") == ends(logged, "event_name")
    assert tools == {id for id, _ in ends(audited, "event_type")}
    assert span_id in tools
