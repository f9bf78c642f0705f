"""
A collector that is down, slow, overloaded, mute or not to be trusted: what the agent, the figures
and the collector see of it.
"""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="needs harken[otlp]")

from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry
from tests.otlp_receiver import OtlpReceiver, receiving
from tests.servers import free_port

from harken import Bus, register_trace_source
from harken.catalog import CredentialIssued, ToolCompleted, ToolStarted
from harken.sinks.otel import SpanRecorder, otlp_exporter
from harken.sinks.prometheus import PrometheusInstrumenter

# Seconds. `nox -s phoenix` makes it half a minute.
OUTAGE = float(os.environ.get("OUTAGE_SECONDS", "2"))


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Let the exporter give up after a second.
    """
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")


@pytest.fixture(params=["http/protobuf", "grpc"])
def protocol(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """
    Each of the protocols that OTLP is spoken in.
    """
    if request.param == "grpc":
        pytest.importorskip(
            "opentelemetry.exporter.otlp.proto.grpc", reason="needs harken[otlp-grpc]"
        )
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", request.param)
    return str(request.param)


@pytest.fixture
def registry() -> CollectorRegistry:
    """
    Where the metrics of `bus` are.
    """
    return CollectorRegistry()


@pytest.fixture
def bus(registry: CollectorRegistry) -> Iterator[Bus]:
    """
    A bus with metrics, closed after the test.
    """
    bus = Bus()
    bus.attach(PrometheusInstrumenter(registry=registry))
    yield bus
    bus.close()
    register_trace_source(None)


class Figures:
    """
    What the metrics say about the recorder.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def __getitem__(self, asked: str) -> float | None:
        name, *labels = asked.split()
        given = dict(label.split("=") for label in labels)
        if name not in {"harken_spans_total", "harken_log_events_total"}:
            given["sink"] = "SpanRecorder"
        return self._registry.get_sample_value(name, given)


def call_tools(bus: Bus, count: int) -> None:
    """
    Call *count* tools, one after the other.
    """
    for number in range(count):
        with bus.operation(ToolStarted(tool_name=f"t{number}")):
            pass


def names(receiver: OtlpReceiver) -> set[str]:
    return {span.name for span in receiver.spans}


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch) -> int:
    """
    A port that the environment points to, and where nobody listens.
    """
    port = free_port()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
    return port


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[OtlpReceiver]:
    """
    A receiver that the environment points to.
    """
    with receiving() as found:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", found.url)
        yield found


@pytest.mark.usefixtures("nobody", "protocol")
def test_down(bus: Bus, registry: CollectorRegistry) -> None:
    """
    What could not be sent is lost, and the metrics say how much, and whose fault it was.
    """
    bus.attach(SpanRecorder(otlp_exporter()))

    call_tools(bus, 3)
    flushed = bus.flush(30)

    figures = Figures(registry)
    assert not flushed
    assert 3.0 == figures["harken_spans_total result=lost"]
    failures = figures["harken_sink_errors_total error_type=SpanExportError"]
    assert failures == bus.health()["SpanRecorder"].failures > 0


@pytest.mark.usefixtures("nobody")
def test_down_for_log_events(bus: Bus, registry: CollectorRegistry) -> None:
    """
    Log events that could not be sent are counted by themselves; spans that went elsewhere are not.
    """
    pytest.importorskip(
        "harken.sinks.otel.logs", reason="needs opentelemetry-sdk 1.39", exc_type=ImportError
    )
    bus.attach(SpanRecorder(InMemorySpanExporter(), point_events="log_events"))

    with bus.operation(ToolStarted(tool_name="t")):
        for name in ("a", "b"):
            bus.publish(CredentialIssued(credential_id=name, scope="s"))
    flushed = bus.flush(30)

    figures = Figures(registry)
    assert not flushed
    assert (2.0, 0.0, 0.0) == (
        figures["harken_log_events_total result=lost"],
        figures["harken_log_events_total result=exported"],
        figures["harken_spans_total result=lost"],
    )


def test_slow(bus: Bus, receiver: OtlpReceiver, registry: CollectorRegistry) -> None:
    """
    The agent is done long before the first answer, and nothing is lost.
    """
    receiver.delay = 0.5
    bus.attach(SpanRecorder(otlp_exporter()))

    call_tools(bus, 300)
    answered = len(receiver.requests)
    flushed = bus.flush(60)

    assert (0, True) == (answered, bool(flushed))
    assert {f"execute_tool t{number}" for number in range(300)} == names(receiver)
    assert 300.0 == Figures(registry)["harken_spans_total result=ended"]


def test_overloaded_for_a_moment(
    bus: Bus, receiver: OtlpReceiver, registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    A 503 is tried again, within the exporter's timeout, and counts as nothing.
    """
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "30")
    receiver.refusals, receiver.status = 1, 503
    bus.attach(SpanRecorder(otlp_exporter()))

    call_tools(bus, 1)
    flushed = bus.flush(60)

    figures = Figures(registry)
    assert (True, {"execute_tool t0"}, 2) == (bool(flushed), names(receiver), receiver.asked)
    assert (1.0, 0.0) == (
        figures["harken_spans_total result=ended"],
        figures["harken_spans_total result=lost"],
    )


def test_overloaded_for_good(bus: Bus, receiver: OtlpReceiver, registry: CollectorRegistry) -> None:
    """
    When every answer is 503, spans are lost after the timeout; then the next ones arrive.
    """
    receiver.refusals, receiver.status = 1_000, 503
    bus.attach(SpanRecorder(otlp_exporter()))

    call_tools(bus, 2)
    lost = bus.flush(30)
    receiver.refusals = 0
    with bus.operation(ToolStarted(tool_name="after")):
        pass
    arrived = bus.flush(30)

    figures = Figures(registry)
    assert (False, True, {"execute_tool after"}) == (bool(lost), bool(arrived), names(receiver))
    assert (2.0, 1.0, 1.0) == (
        figures["harken_spans_total result=lost"],
        figures["harken_spans_total result=ended"],
        figures["harken_sink_up"],
    )


@pytest.mark.usefixtures("protocol")
def test_hanging(bus: Bus, registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A collector that takes connections and never answers costs the spans, not the agent.
    """
    with socket.create_server(("127.0.0.1", 0)) as mute:
        port = mute.getsockname()[1]
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
        bus.attach(SpanRecorder(otlp_exporter()))

        call_tools(bus, 3)
        flushed = bus.flush(60)

    assert not flushed
    assert 3.0 == Figures(registry)["harken_spans_total result=lost"]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """
    A certificate of 127.0.0.1 that nobody has signed, and its key.
    """
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    argv = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    argv += ["-keyout", str(key), "-out", str(cert), "-subj", "/CN=127.0.0.1"]
    argv += ["-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(argv, check=True, capture_output=True)
    return cert, key


@pytest.mark.parametrize("trusted", [False, True], ids=["wrong", "right"])
def test_certificates(
    bus: Bus,
    registry: CollectorRegistry,
    monkeypatch: pytest.MonkeyPatch,
    certificate: tuple[Path, Path],
    trusted: bool,
) -> None:
    """
    Nothing is ever sent to a collector that cannot prove who it is; with the right certificate
    named, everything is.
    """
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(*certificate)
    # Where one of these is set, requests heeds it and not what the exporter was told.
    for variable in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(variable, raising=False)
    with receiving(tls=tls) as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        if trusted:
            monkeypatch.setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", str(certificate[0]))
        bus.attach(SpanRecorder(otlp_exporter()))

        call_tools(bus, 2)
        flushed = bus.flush(60)

    result = "ended" if trusted else "lost"
    assert (trusted, 2 if trusted else 0) == (bool(flushed), len(receiver.spans))
    assert 2.0 == Figures(registry)[f"harken_spans_total result={result}"]


class Agent(threading.Thread):
    """
    Calls tools without a pause, until it is told to stop.

    Attributes:
        calls: How many it has called.

        failed: What was raised into it.

        costs: The CPU seconds of each hundred calls, by the phase in which they were made.
    """

    def __init__(self, bus: Bus) -> None:
        super().__init__()
        self._bus = bus
        self.calls = 0
        self.failed: list[BaseException] = []
        self.phase = "before"
        self.costs: dict[str, list[float]] = {}
        self.stopping = threading.Event()

    def run(self) -> None:
        try:
            while not self.stopping.is_set():
                began, phase = time.thread_time(), self.phase
                call_tools(self._bus, 100)
                self.calls += 100
                self.costs.setdefault(phase, []).append(time.thread_time() - began)
                # A thousand calls in a second are more than any agent makes.
                self.stopping.wait(0.1)
        except BaseException as error:
            self.failed.append(error)
            raise


@pytest.mark.timeout(120 + 2 * OUTAGE)
def test_an_outage_under_load(
    bus: Bus, nobody: int, registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    While the collector is away for a while the agent goes on as before; each span arrives or is
    counted; and when the collector is back, spans arrive again without a restart.
    """
    # Long enough for the exporter to try twice, with a pause of a second in between.
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "2")
    recorder = SpanRecorder(otlp_exporter())
    # Only the ends, so that each event is a span; and a queue that cannot hold the outage.
    bus.attach(recorder, ToolCompleted, capacity=100)
    agent = Agent(bus)

    with ExitStack() as stack:
        with receiving(nobody) as first:
            agent.start()
            stack.callback(agent.join)
            stack.callback(agent.stopping.set)
            first.wait_for(lambda: len(first.spans) >= 1_000)
        agent.phase = "during"
        time.sleep(OUTAGE)
        agent.phase = "after"
        second = stack.enter_context(receiving(nobody))
        second.wait_for(lambda: len(second.spans) >= 500, 60)
        agent.stopping.set()
        agent.join()
        bus.flush(30)
        flushed = bus.flush(30)

    health, figures = bus.health()["SpanRecorder"], Figures(registry)
    arrived = [span.span_id for receiver in (first, second) for span in receiver.spans]
    lost = recorder.spans["lost"]
    assert [] == agent.failed
    assert len(arrived) == len(set(arrived)) == recorder.spans["ended"]
    assert agent.calls == len(arrived) + health.dropped
    assert lost == health.drops["failed"] > 0 < health.drops["queue_full"]
    assert dict(health.drops) == {
        reason: figures[f"harken_events_dropped_total reason={reason}"] for reason in health.drops
    }
    assert float(lost) == figures["harken_spans_total result=lost"]
    assert (True, 0) == (bool(flushed), health.consecutive_failures)
    # What a call costs the agent's own thread, when nothing else came in between.
    assert min(agent.costs["during"]) < 3 * min(agent.costs["before"])


def test_the_end_of_a_process(
    nobody: int, run_python: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    """
    Neither `close()` nor the exit waits for an exporter that would go on trying for long.
    """
    env = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{nobody}",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "3600",
    }
    done = run_python(OUTAGE_AT_EXIT, env=env)

    assert ("False", True) == (done.stdout.strip(), "still busy" in done.stderr)


OUTAGE_AT_EXIT = """
import logging
from harken import Bus
from harken.catalog import ToolStarted
from harken.sinks.otel import SpanRecorder, otlp_exporter

logging.basicConfig()
bus = Bus()
bus.attach(SpanRecorder(otlp_exporter()))
with bus.operation(ToolStarted(tool_name="t")):
    pass
print(bool(bus.close(1)))
"""
