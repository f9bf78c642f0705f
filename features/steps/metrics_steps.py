"""
Metrics, as a file has them and as a scrape sees them.
"""

from __future__ import annotations

import shutil
import ssl
import subprocess
import urllib.error
import urllib.request

from behave import given, then, when
from outputs import METRICS, flush
from prometheus_client.parser import text_string_to_metric_families
from scene import Scene, bus_of, compare

from harken import Bus
from harken.sinks.prometheus import PrometheusInstrumenter

Series = tuple[str, frozenset[tuple[str, str]]]

OPEN_METRICS = "application/openmetrics-text; version=1.0.0"


def samples(text: str) -> dict[Series, float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def metrics(context: Scene) -> str:
    """
    Return the metrics that were scraped; without a scrape, those in the agent's file.
    """
    if "scraped" in context:
        return str(context.scraped)
    flush(context)
    return (context.folder / METRICS).read_text()


def port_of(bus: Bus) -> int:
    (sink,) = (one.sink for one in bus.subscriptions if one.name == "PrometheusInstrumenter")
    assert isinstance(sink, PrometheusInstrumenter) and sink.port is not None
    return sink.port


def scrape(context: Scene, bus: Bus, path: str, accept: str = "text/plain") -> None:
    assert bus.flush(30)
    request = urllib.request.Request(
        f"http://127.0.0.1:{port_of(bus)}{path}", headers={"Accept": accept}
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            context.status, context.scraped = answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        context.status, context.scraped = error.code, ""
        error.close()


@when('Prometheus scrapes "{path}"')
def prometheus_scrapes(context: Scene, path: str) -> None:
    scrape(context, context.bus, path)


@when('Prometheus scrapes "{path}" as OpenMetrics')
def prometheus_scrapes_open_metrics(context: Scene, path: str) -> None:
    scrape(context, context.bus, path, OPEN_METRICS)


@when("Prometheus scrapes the other agent")
def prometheus_scrapes_the_other(context: Scene) -> None:
    scrape(context, context.other, "/metrics")


@then("the metrics say")
def metrics_say(context: Scene) -> None:
    found = samples(metrics(context))

    def read(name: str) -> object:
        (series,) = samples(f"{name} 0\n")
        return f"{found[series]:g}" if series in found else None

    compare(context.table, read)


@then('the metrics do not mention "{text}"')
def metrics_do_not_mention(context: Scene, text: str) -> None:
    found = metrics(context)
    assert "infra_agent_" in found, found
    assert text not in found, text


@then('"{name}" has {count:d} series')
def has_series(context: Scene, name: str, count: int) -> None:
    found = [series for series in samples(metrics(context)) if series[0] == name]
    assert count == len(found), found


@then('an exemplar of "{name}" has the ids of "{event}"')
def exemplar_has_the_ids(context: Scene, name: str, event: str) -> None:
    (heard,) = (one for one in context.listener.envelopes if one.name == event)
    exemplar = f'# {{span_id="{heard.span_id}",trace_id="{heard.trace_id}"}}'
    rows = [row for row in context.scraped.splitlines() if row.startswith(name)]
    assert any(exemplar in row for row in rows), (exemplar, rows)


# Over HTTPS.


@given("an agent with metrics over HTTPS for clients with a certificate")
def agent_with_https(context: Scene) -> None:
    if shutil.which("openssl") is None:
        context.scenario.skip("openssl is not installed")
        return
    for name in ("server", "client"):
        subprocess.run(
            [
                *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt"),
                *("ec_paramgen_curve:P-256", "-nodes", "-subj", f"/CN={name}"),
                *("-addext", "subjectAltName=IP:127.0.0.1"),
                *("-addext", "keyUsage=critical,digitalSignature,keyCertSign"),
                *("-keyout", f"{name}.key", "-out", f"{name}.pem"),
            ],
            cwd=context.folder,
            check=True,
            capture_output=True,
        )
    sink = PrometheusInstrumenter(
        port=0, certfile="server.pem", keyfile="server.key", client_cafile="client.pem"
    )
    bus_of(context).attach(sink)


def scrape_safely(context: Scene, scheme: str, *, certificate: bool = False) -> None:
    assert context.bus.flush(30)
    trusted = ssl.create_default_context(cafile="server.pem")
    if certificate:
        trusted.load_cert_chain("client.pem", "client.key")
    url = f"{scheme}://127.0.0.1:{port_of(context.bus)}/metrics"
    try:
        with urllib.request.urlopen(url, context=trusted, timeout=30) as answer:
            context.scraped = answer.read().decode()
    except OSError as error:
        context.scraped, context.error = "", error


@when("Prometheus scrapes over HTTPS with its certificate")
def scrapes_with_certificate(context: Scene) -> None:
    scrape_safely(context, "https", certificate=True)


@when("Prometheus scrapes over HTTPS without a certificate")
def scrapes_without_certificate(context: Scene) -> None:
    scrape_safely(context, "https")


@when("Prometheus scrapes without HTTPS")
def scrapes_without_https(context: Scene) -> None:
    scrape_safely(context, "http", certificate=True)


@then("the scrape is refused")
def scrape_is_refused(context: Scene) -> None:
    assert "" == context.scraped
    assert isinstance(context.error, OSError)
