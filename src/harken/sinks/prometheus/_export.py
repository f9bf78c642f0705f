"""
Export: metrics over HTTP, and into a file for node_exporter's textfile collector.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
import threading
from os import PathLike
from pathlib import Path
from socketserver import TCPServer, ThreadingMixIn
from typing import Any
from urllib.parse import urlsplit

from prometheus_client import CollectorRegistry, MetricsHandler, write_to_textfile

from harken.errors import MetricsServerError, SettingsError

CLIENT_TIMEOUT = 10.0
"""Seconds that a client may be silent before its connection is closed."""

_logger = logging.getLogger("harken")


class _Handler(MetricsHandler):
    server_version = "harken"
    sys_version = ""
    timeout = CLIENT_TIMEOUT

    def parse_request(self) -> bool:
        if not super().parse_request():
            return False
        found = urlsplit(self.path).path == "/metrics"
        if not found:
            self.send_error(404, explain="The metrics are at /metrics.")
        return found


class _Server(ThreadingMixIn, TCPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128
    # Elsewhere it only skips the wait for old connections; on Windows it would share the port.
    allow_reuse_address = os.name != "nt"

    def __init__(self, address: tuple[str, int], handler: type[_Handler], *, shared: bool) -> None:
        found = socket.getaddrinfo(*address, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        self.address_family = found[0][0]
        self.allow_reuse_port = shared
        self._failed: set[type[BaseException] | None] = set()
        super().__init__(address, handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        kind, error, _ = sys.exc_info()
        # A client that hangs up or falls silent is its own affair.
        if not isinstance(error, OSError) and kind not in self._failed:
            self._failed.add(kind)
            _logger.error(
                "a scrape of the metrics failed; further ones of this kind are not logged",
                exc_info=error,
            )


class MetricsServer:
    """
    Serves a registry at ``/metrics``, each request in a thread of its own.

    Args:
        address: The host name or address to listen on.

        port: 0 for any that is free.

        shared: Whether other processes may serve the same port at the same time.

    Raises:
        MetricsServerError: The port cannot be served.
    """

    def __init__(
        self, registry: CollectorRegistry, address: str, port: int, *, shared: bool = False
    ) -> None:
        handler: type[_Handler] = type("Handler", (_Handler,), {"registry": registry})
        try:
            self._server = _Server((address, port), handler, shared=shared)
        except (OSError, UnicodeError) as error:
            raise MetricsServerError(
                f"cannot serve metrics on {address}, port {port}: {error}; choose another port, "
                "or 0 for any that is free"
            ) from error
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.1,), name="harken-metrics", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """
        Stop listening; requests that are being answered still are.
        """
        self._server.shutdown()
        self._server.server_close()

    def abandon(self) -> None:
        """
        Let go of the port in a forked child; the parent goes on serving it.
        """
        self._server.socket.close()


class MetricsFile:
    """
    Writes a registry to a file at an interval, each time as a whole.

    Args:
        path: Where to; the directory must exist. node_exporter reads only ``*.prom``.

        interval: Seconds from one writing to the next.

    Raises:
        SettingsError: The file cannot be written.
    """

    def __init__(
        self, registry: CollectorRegistry, path: str | PathLike[str], interval: float
    ) -> None:
        self.path = Path(path)
        self._registry = registry
        self._interval = interval
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        try:
            self.write()
        except OSError as error:
            raise SettingsError(
                f"cannot write metrics to {self.path}: {error.strerror or error}; make the "
                "directory, or choose another metrics_file_path"
            ) from error
        self._thread = threading.Thread(
            target=self._write_on, name="harken-metrics-file", daemon=True
        )
        self._thread.start()

    def write(self, timeout: float = -1) -> bool:
        """
        Write the metrics as of now.

        Args:
            timeout: Seconds to wait for a writing that is going on; negative is for ever.

        Returns:
            Whether it was written; not when the time was up before.

        Raises:
            OSError: It cannot be written; the file is as it was before.
        """
        # Two at once could leave the older numbers behind.
        if not self._lock.acquire(timeout=timeout):
            return False
        try:
            write_to_textfile(os.fspath(self.path), self._registry, escaping="underscores")
        finally:
            self._lock.release()
        return True

    def _write_on(self) -> None:
        failing = False
        while not self._stopped.wait(self._interval):
            try:
                self.write()
            except Exception:
                # Somebody else's collector may raise anything. Saying so once is loud enough.
                if not failing:
                    _logger.exception("cannot write metrics to %s; trying on", self.path)
                failing = True
            else:
                failing = False

    def close(self, timeout: float) -> None:
        """
        Write a last time, and stop.

        Args:
            timeout: Seconds it may take at most.

        Raises:
            OSError: It cannot be written; the file is as it was before.
        """
        self._stopped.set()
        if not self.write(timeout):
            _logger.error("the last metrics are not in %s; there was no time left", self.path)
