"""
Metrics: harken's events as Prometheus counters, gauges and histograms.
"""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections.abc import Mapping, Sequence
from functools import cache
from os import PathLike
from typing import Literal, TypeAlias

from prometheus_client import CollectorRegistry, values
from prometheus_client.registry import DuplicateTimeseries

from harken import Bus, Delivery, Envelope, Event
from harken.errors import SettingsError
from harken.sinks.prometheus._export import Certificates, MetricsFile, MetricsServer
from harken.sinks.prometheus._metrics import Metrics, Pooled
from harken.sinks.prometheus.instruments import INSTRUMENTS
from harken.sinks.prometheus.rows import Instrument
from harken.sinks.prometheus.semconv import SEMCONV_INSTRUMENTS

__all__ = ["INSTRUMENTS", "SEMCONV_INSTRUMENTS", "Instrument", "Names", "PrometheusInstrumenter"]

Names: TypeAlias = Literal["harken", "semconv"]
"""Whose names the metrics have: harken's own, or those of OpenTelemetry's conventions."""

_TABLES: Mapping[str, Sequence[Instrument]] = {
    "harken": INSTRUMENTS,
    "semconv": SEMCONV_INSTRUMENTS,
}

_logger = logging.getLogger("harken")


class PrometheusInstrumenter:
    """
    Counts, measures and times what happens; a sink.

    By default the numbers are in a registry of their own, and nothing leaves the process: serve
    them with *port*, write them with *file_path*, or hand `registry` to whatever serves your
    metrics (``prometheus_client.make_asgi_app``, ``push_to_gateway``). `INSTRUMENTS` is what is
    measured. The buses it is attached to are measured, too, under ``harken_*``.

    Where ``PROMETHEUS_MULTIPROC_DIR`` was set when the process began, its numbers are added up
    with those of all processes that have the same directory; exemplars are then not kept, a
    session's slot that is free stays at 0, and the directory has to be emptied before the first of
    the processes begins. Without it, a forked child counts for itself, from zero, and neither
    serves the port nor writes the file of its parent. The same holds for other workers that ask
    for a port which their parent, or another worker of the same program, serves already: a warning
    says whose it is, once, and when that process ends one of the others serves the port instead.

    A number that is NaN, infinite, negative or none at all is refused, and counted in
    ``harken_metric_observations_rejected_total``.

    Args:
        registry:
            Where to put the metrics. A second instrumenter on the same registry counts on with
            the metrics of the first.

        namespace: In front of the names of the domain's metrics; may be empty.

        names:
            ``harken``, or ``semconv`` for the names that OpenTelemetry's GenAI conventions have
            for models, tools, agents and sessions, such as
            ``gen_ai_execute_tool_duration_seconds``.

        port: Where to serve ``/metrics``; 0 for any port that is free, None for not at all.

        address: The address to listen on; by default only this machine can connect.

        certfile:
            The server's certificate in PEM, for HTTPS instead of HTTP; this and the next two are
            read again when they were changed.

        keyfile: Its private key, without a passphrase; by default it is in *certfile*.

        client_cafile: Authorities in PEM; only clients with a certificate of theirs are served.

        file_path: A file to write the metrics to; None for none.

        file_interval: Seconds from one writing to the next; it is also written at flush and close.

        max_series:
            Combinations of label values of one metric at most. What comes later is added up under
            ``__other__`` and counted in ``harken_metric_series_overflowed_total``.

        exemplars:
            Whether durations and task counters keep the trace and span id of a sampled event; they
            are exposed as OpenMetrics only.

        instruments:
            What to measure, by default the table of *names*; add to `INSTRUMENTS` rows of your
            own, made with the functions of ``harken.sinks.prometheus.rows``.

    Raises:
        SettingsError:
            An argument is malformed, the file cannot be written, or the registry has other metrics
            of the same names.

        MetricsServerError: The port cannot be served, because somebody else uses it, or a file
            for TLS cannot be used.

    .. versionadded:: 0.1.0
    """

    name = "PrometheusInstrumenter"
    delivery: Delivery = "worker"

    def __init__(
        self,
        registry: CollectorRegistry | None = None,
        *,
        namespace: str = "infra_agent",
        names: Names = "harken",
        port: int | None = None,
        address: str = "127.0.0.1",
        certfile: str | PathLike[str] | None = None,
        keyfile: str | PathLike[str] | None = None,
        client_cafile: str | PathLike[str] | None = None,
        file_path: str | PathLike[str] | None = None,
        file_interval: float = 15.0,
        max_series: int = 1000,
        exemplars: bool = True,
        instruments: Sequence[Instrument] | None = None,
    ) -> None:
        if names not in _TABLES:
            raise SettingsError(f"metrics names {names!r} are unknown; use harken or semconv")
        if port is not None and not 0 <= port <= 65_535:
            raise SettingsError(f"metrics port {port} is none; choose one from 0 to 65535")
        if not 0 < file_interval <= threading.TIMEOUT_MAX:
            raise SettingsError(f"file_interval {file_interval} is no number of seconds above 0")
        if max_series < 1:
            raise SettingsError(f"max_series {max_series} leaves no room; choose 1 or more")
        if certfile is None and (keyfile is not None or client_cafile is not None):
            raise SettingsError(
                "keyfile and client_cafile are for HTTPS, which needs a certfile; give one"
            )
        tls = None if certfile is None else Certificates(certfile, keyfile, client_cafile)
        # What prometheus_client found in the environment when it was imported.
        shared = values.ValueClass is not values.MutexValue
        self._metrics, self.registry = _registered(
            registry,
            _TABLES[names] if instruments is None else instruments,
            namespace,
            max_series,
            exemplars,
            shared,
        )
        self._server: MetricsServer | None = None
        self._file: MetricsFile | None = None
        self._lost: str | None = None
        self._shared = shared
        if port is not None:
            self._server = MetricsServer(self.registry, address, port, shared=shared, tls=tls)
            if self._server.holder is not None and not shared:
                _logger.warning(_not_shown(f"port {port}", self._server.holder.pid))
        if file_path is not None:
            try:
                self._file = MetricsFile(self.registry, file_path, file_interval)
            except SettingsError:
                self.close()
                raise

    def __repr__(self) -> str:
        return f"<PrometheusInstrumenter port={self.port}>"

    @property
    def port(self) -> int | None:
        """
        The port that is served; None when none is, also while another worker has it.
        """
        return None if self._server is None else self._server.port

    def attached(self, bus: Bus) -> None:
        """
        Measure *bus* itself, for as long as it exists.
        """
        self._metrics.watch(bus)

    def write(self, batch: Sequence[Envelope[Event]], /) -> None:
        """
        Feed the instruments. Safe from any thread.

        An envelope that cannot be read costs its own numbers only: a label that raises is
        ``__other__``, and a number that raises is refused as ``unreadable``.
        """
        if self._lost is not None:
            _logger.warning(self._lost)
            self._lost = None
        self._metrics.write(batch)

    def flush(self, timeout: float) -> bool:
        """
        Bring the file up to date.

        Args:
            timeout: Seconds to wait for a writing that is going on.

        Returns:
            Whether the file is up to date; true when there is none.

        Raises:
            OSError: The file cannot be written.
        """
        self._metrics.share(timeout)
        return self._file is None or self._file.write(timeout)

    def close(self, timeout: float = 5.0) -> None:
        """
        Write the file a last time, and stop serving the port. Idempotent.

        The numbers stay in the registry, for whoever collects them there.

        Raises:
            OSError: The file cannot be written; the port is no longer served.
        """
        server, self._server = self._server, None
        if server is not None:
            server.close()
        file, self._file = self._file, None
        try:
            if file is not None:
                file.close(timeout)
        finally:
            self._metrics.retire()

    def after_fork(self) -> None:
        """
        Begin anew in a forked child; the port and the file stay the parent's.
        """
        kept: list[str] = []
        owner = os.getppid()
        server, self._server = self._server, None
        if server is not None:
            server.abandon()
            kept.append(f"port {server.asked_for}")
            if server.port is None and server.holder is not None:
                owner = server.holder.pid
        file, self._file = self._file, None
        if file is not None:
            kept.append(str(file.path))
        if kept and not self._shared:
            self._lost = _not_shown(" and ".join(kept), owner)
        self._metrics.after_fork()


_lock = threading.Lock()
_by_registry: weakref.WeakKeyDictionary[CollectorRegistry, Metrics] = weakref.WeakKeyDictionary()


def _registered(
    registry: CollectorRegistry | None,
    instruments: Sequence[Instrument],
    namespace: str,
    max_series: int,
    exemplars: bool,
    shared: bool,
) -> tuple[Metrics, CollectorRegistry]:
    """
    Return the metrics of *registry*, made when it has none yet, and what to collect them from.
    """
    if shared:
        # A process has one file, and in it one number for each series.
        home = _pool()
        if not os.path.isdir(os.environ.get("PROMETHEUS_MULTIPROC_DIR", "")):
            raise SettingsError("PROMETHEUS_MULTIPROC_DIR is no directory; make it, empty")
    else:
        home = CollectorRegistry() if registry is None else registry
    asked_for = (tuple(instruments), namespace, max_series, exemplars)
    with _lock:
        metrics = _by_registry.get(home)
        if metrics is None:
            metrics = Metrics(
                instruments, namespace, limit=max_series, exemplars=exemplars, shared=shared
            )
            try:
                home.register(Pooled(metrics) if shared else metrics)
            except DuplicateTimeseries as error:
                raise SettingsError(
                    f"the registry already has metrics called {', '.join(sorted(error.duplicates))}"
                    "; give the PrometheusInstrumenter a registry or a namespace of its own"
                ) from error
            _by_registry[home] = metrics
        elif metrics.made_of != asked_for:
            raise SettingsError(
                "the registry has a PrometheusInstrumenter with another namespace, max_series, "
                "exemplars or instruments; use the same ones, or another registry"
            )
    return metrics, home


def _not_shown(what: str, owner: int) -> str:
    return (
        f"metrics of process {os.getpid()} are counted but not shown: process {owner} has {what}; "
        "set PROMETHEUS_MULTIPROC_DIR to an empty directory to add up all processes, or give each "
        "process its own"
    )


@cache
def _pool() -> CollectorRegistry:
    return CollectorRegistry()
