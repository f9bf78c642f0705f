"""
``harken demo``.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NoReturn

import click

import harken
from harken import Bus, Envelope, Event
from harken.cli._agent import Agent
from harken.cli._common import fail, printable
from harken.cli._summary import Outputs, Story, obstacle, show_files, show_next, show_tree
from harken.sinks.otel import SpanRecorder, otlp_exporter
from harken.sinks.prometheus import PrometheusInstrumenter

ADDRESS = "127.0.0.1"

UNUSABLE = 4
"""The exit code when the folder, or what is in it, cannot be used."""

# Seconds that a signal may go unnoticed.
_NAP = 0.2


@click.command(name="demo")
@click.option(
    "--out",
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    default="harken-demo",
    show_default=True,
    help="The folder of the four files.",
)
@click.option(
    "--runs",
    metavar="N",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    help="How many runs: one succeeds, one is cancelled, one fails, and so on.",
)
@click.option(
    "--serve",
    metavar="PORT",
    type=click.IntRange(0, 65_535),
    help="Serve /metrics on this machine until Ctrl-C; 0 for any port that is free.",
)
@click.option(
    "--every",
    metavar="SECONDS",
    type=click.FloatRange(min=0),
    help="With --serve: do it all again, so many seconds after it was done, until Ctrl-C.",
)
@click.option(
    "--otlp",
    is_flag=True,
    help="Send the spans to a collector, too: the one of OTEL_EXPORTER_OTLP_ENDPOINT.",
)
def command(out: Path, runs: int, serve: int | None, every: float | None, *, otlp: bool) -> None:
    """
    Watch a scripted agent work, through all four sinks.

    The agent reads, searches and changes real files in a scratch folder, runs real programs,
    and asks a model whose answers are written down: no network, no key. All it does goes
    through one bus into DIR, after what is there already:

    \b
    audit.jsonl   the audit log, a chain of records
    metrics.prom  Prometheus metrics, of this time only
    events.log    a line of JSON for each event
    spans.jsonl   OpenTelemetry spans
    """
    if every is not None and serve is None:
        raise click.UsageError("--every needs --serve: who would see it?")
    began = time.monotonic()
    try:
        out.mkdir(parents=True, exist_ok=True)
        unusable = obstacle(out)
        if unusable is not None:
            fail(unusable, UNUSABLE)
        outputs, story = Outputs(out), Story()
        bus = _configured(outputs, serve)
    except OSError as error:
        where = error.filename or out
        fail(f"cannot write to {where}: {error.strerror}; choose another --out", UNUSABLE)
    if otlp:
        bus.attach(SpanRecorder(otlp_exporter()), name="otlp")
    heard = bus.subscribe(story)
    url = f"http://{ADDRESS}:{_port_of(bus)}/metrics"
    if serve is not None:
        click.echo(f"Serving {url}")
    with progress(bus, runs):
        _play(bus, runs)
    heard.cancel()
    if serve is None:
        bus.close()
    else:
        bus.flush()
    ends = ", ".join(f"{times} {outcome}" for outcome, times in story.outcomes.items())
    count = "1 run" if runs == 1 else f"{runs} runs"
    click.echo(f"{count} in {time.monotonic() - began:.1f} s ({ends}). The first of them:\n")
    show_tree(story.first)
    click.echo(f"\nWritten to {printable(str(out))}:")
    show_files(outputs, bus.health())
    click.echo("\nTry next:")
    show_next(outputs, story)
    if serve is not None:
        with suppress(KeyboardInterrupt):
            click.echo(f"\nServing {url} until Ctrl-C.")
            _go_on(bus, runs, every)
        bus.close()


def _configured(outputs: Outputs, port: int | None) -> Bus:
    return harken.configure(
        audit=True,
        audit_jsonl_path=str(outputs.audit),
        # A key belongs to one log, and that is not this one.
        audit_key_path=None,
        audit_signing_key_path=None,
        metrics=True,
        metrics_file_path=str(outputs.metrics),
        metrics_prometheus_port=port,
        metrics_prometheus_address=ADDRESS,
        log=True,
        log_level="debug",
        log_path=str(outputs.log),
        log_application=False,
        traces=f"file:{outputs.spans}",
        trace_sample_ratio=1.0,
        service_name="harken-demo",
        close_on_sigterm=True,
    )


def _play(bus: Bus, runs: int) -> None:
    """
    Let a new agent work in a new folder.
    """
    with TemporaryDirectory(prefix="harken-demo-") as scratch, _sampled():
        _work(Agent(bus, Path(scratch)), runs)


def _go_on(bus: Bus, runs: int, every: float | None) -> NoReturn:
    """
    Do the runs again and again, or nothing at all, until a signal ends it.
    """
    while True:
        due = time.monotonic() + (math.inf if every is None else every)
        while time.monotonic() < due:
            time.sleep(_NAP)
        _play(bus, runs)


def _work(agent: Agent, runs: int) -> None:
    """
    Let *agent* work in a thread: a signal raises in the main one, and there it tears nothing.
    """
    with ThreadPoolExecutor(max_workers=1) as pool:
        try:
            # A signal may come while the thread starts: then the pool does not know of it.
            working = pool.submit(harken.bind(agent.work), runs)
            # A signal that comes just before a wait without end would be noticed after it.
            while not working.done():
                wait([working], timeout=_NAP)
        except BaseException:
            agent.stop()
            raise
        working.result()


def _sampled() -> AbstractContextManager[object]:
    """
    Have the trace that came in recorded, whether or not it is by those it came from.
    """
    carried = harken.child_env()
    traceparent = carried.get("TRACEPARENT", "")
    ids, _, flags = traceparent.rpartition("-")
    if not ids or int(flags, 16) & 1:
        return nullcontext()
    return harken.scope(traceparent=f"{ids}-01", tracestate=carried.get("TRACESTATE"))


def _port_of(bus: Bus) -> int | None:
    sinks = (subscription.sink for subscription in bus.subscriptions)
    return next(sink.port for sink in sinks if isinstance(sink, PrometheusInstrumenter))


@contextmanager
def progress(bus: Bus, runs: int) -> Generator[None]:
    """
    Show inside the block what is going on, if somebody is looking.
    """
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console
    from rich.text import Text

    run = 0
    with Console(stderr=True).status("") as status:

        def show(envelope: Envelope[Event]) -> None:
            nonlocal run
            run += envelope.name == "run.started"
            if envelope.type.is_start:
                status.update(Text(f"run {run} of {runs}: {printable(envelope.resource)}"))

        subscription = bus.subscribe(show)
        yield
        subscription.cancel()
