"""
Export: metrics over HTTP, and into a file for node_exporter's textfile collector.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import ssl
import sys
import threading
from contextlib import suppress
from os import PathLike
from pathlib import Path
from socketserver import BaseServer, TCPServer, ThreadingMixIn
from typing import Any
from urllib.parse import urlsplit

from prometheus_client import CollectorRegistry, MetricsHandler, write_to_textfile

from harken.errors import MetricsServerError, SettingsError
from harken.sinks.prometheus._relatives import HEADER, Process, holder_of, this_process

CLIENT_TIMEOUT = 10.0
"""Seconds that a client may be silent before its connection is closed."""

WAITING_INTERVAL = 1.0
"""Seconds between two looks whether a port is free that another worker holds."""

CLAIMS = 3
"""How often a port is asked for that is taken, but that nobody serves when asked."""

HANDSHAKE = b"\x16"
"""The first byte of a client that speaks TLS."""

_logger = logging.getLogger("harken")


def server_context(
    certfile: str | PathLike[str],
    keyfile: str | PathLike[str] | None = None,
    client_cafile: str | PathLike[str] | None = None,
) -> ssl.SSLContext:
    """
    Return how a server speaks TLS: version 1.2 or later, with files in PEM.

    Args:
        certfile: The server's certificate, followed by those between it and the authority.

        keyfile: Its private key, without a passphrase; by default it is in *certfile*.

        client_cafile: Authorities; a client needs a certificate of one of them.

    Raises:
        MetricsServerError: A file cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        # An empty passphrase fails where OpenSSL would ask for one on the terminal, and wait.
        context.load_cert_chain(certfile, keyfile, password="")
    except OSError as error:
        named = f"certificate {os.fspath(certfile)!r}"
        if keyfile is not None:
            named += f" and key {os.fspath(keyfile)!r}"
        raise _unusable(named, error) from error
    if client_cafile is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        try:
            context.load_verify_locations(client_cafile)
        except OSError as error:
            named = f"client authorities {os.fspath(client_cafile)!r}"
            raise _unusable(named, error) from error
    return context


class Certificates:
    """
    The files of `server_context()`, read again at the first connection after they were changed.

    Raises:
        MetricsServerError: A file cannot be used.
    """

    def __init__(
        self,
        certfile: str | PathLike[str],
        keyfile: str | PathLike[str] | None = None,
        client_cafile: str | PathLike[str] | None = None,
    ) -> None:
        given = (certfile, keyfile, client_cafile)
        # The working directory may be another one by then.
        self._paths = [None if path is None else os.path.abspath(path) for path in given]
        self._lock = threading.Lock()
        self._seen = self._state()
        self._context = server_context(*given)

    def context(self) -> ssl.SSLContext:
        """
        Return how to speak TLS now: as before, where the changed files cannot be used.
        """
        with self._lock:
            state = self._state()
            if state != self._seen:
                self._seen = state
                self._read_again()
            return self._context

    def _read_again(self) -> None:
        certfile, keyfile, client_cafile = self._paths
        assert certfile is not None
        try:
            self._context = server_context(certfile, keyfile, client_cafile)
        except MetricsServerError as error:
            # Half of a renewal, perhaps; the other half is another change.
            _logger.warning("%s; what was read before is used until then", error)
        else:
            _logger.info("the certificate of the metrics was read again")

    def _state(self) -> list[tuple[int, int, int] | None]:
        return [None if path is None else _state_of(path) for path in self._paths]


def _state_of(path: str) -> tuple[int, int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _unusable(named: str, error: OSError) -> MetricsServerError:
    reason = error.reason if isinstance(error, ssl.SSLError) else error.strerror
    return MetricsServerError(
        f"cannot serve metrics over TLS with {named}: {reason or error}; give readable files in "
        "PEM that belong together, the key without a passphrase"
    )


class _Handler(MetricsHandler):
    server_version = "harken"
    sys_version = ""
    timeout = CLIENT_TIMEOUT
    # Over TLS the body would wait for the client to acknowledge the headers: 40 ms for nothing.
    disable_nagle_algorithm = True

    def parse_request(self) -> bool:
        if not super().parse_request():
            return False
        if _is_plain(self.server, self.connection):
            self.send_error(400, explain="The metrics are served over HTTPS only.")
            return False
        found = urlsplit(self.path).path == "/metrics"
        if not found:
            self.send_error(404, explain="The metrics are at /metrics.")
        return found

    def end_headers(self) -> None:
        # Who runs on this machine is no other machine's affair.
        if self.client_address[0] == self.connection.getsockname()[0]:
            self.send_header(HEADER, this_process().to_header())
        super().end_headers()


class _Server(ThreadingMixIn, TCPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128
    # Elsewhere it only skips the wait for old connections; on Windows it would share the port.
    allow_reuse_address = os.name != "nt"

    def __init__(
        self,
        address: tuple[str, int],
        handler: type[_Handler],
        *,
        shared: bool,
        tls: Certificates | None,
    ) -> None:
        found = socket.getaddrinfo(*address, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        self.address_family = found[0][0]
        self.allow_reuse_port = shared
        self.tls = tls
        self._failed: set[type[BaseException] | None] = set()
        self._refused: set[str] = set()
        super().__init__(address, handler)

    def finish_request(self, request: Any, client_address: Any) -> None:
        request.settimeout(_Handler.timeout)
        if self.tls is None or request.recv(1, socket.MSG_PEEK) != HANDSHAKE:
            super().finish_request(request, client_address)
            return
        # In the request's own thread: a handshake that stalls keeps nobody else waiting.
        with self.tls.context().wrap_socket(request, server_side=True) as secured:
            super().finish_request(secured, client_address)
            # An answer without this end looks as if it had been cut off.
            with suppress(OSError):
                secured.unwrap()

    def handle_error(self, request: Any, client_address: Any) -> None:
        kind, error, _ = sys.exc_info()
        if isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLEOFError):
            self._say_refused(error.reason)
        # A client that hangs up or falls silent is its own affair.
        if not isinstance(error, OSError) and kind not in self._failed:
            self._failed.add(kind)
            _logger.error(
                "a scrape of the metrics failed; further ones of this kind are not logged",
                exc_info=error,
            )

    def _say_refused(self, reason: str) -> None:
        if reason not in self._refused:
            self._refused.add(reason)
            _logger.warning(
                "a client of the metrics was refused (%s); further ones for this reason are not "
                "logged",
                reason,
            )


def _is_plain(server: BaseServer, connection: socket.socket) -> bool:
    secure = isinstance(server, _Server) and server.tls is not None
    return secure and not isinstance(connection, ssl.SSLSocket)


class MetricsServer:
    """
    Serves a registry at ``/metrics``, each request in a thread of its own.

    Where a relative holds the port, the parent of this process or another worker of the same
    program, it waits until the port is free, and serves from then on.

    Args:
        address: The host name or address to listen on.

        port: 0 for any that is free.

        shared: Whether other workers may serve the same port at the same time.

        tls: What to speak TLS with; None for plain HTTP.

    Attributes:
        asked_for: The port that was asked for, or the one that was found.

        holder: The process that held it when it was asked for; None when it was free.

    Raises:
        MetricsServerError: The port cannot be served.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        address: str,
        port: int,
        *,
        shared: bool = False,
        tls: Certificates | None = None,
    ) -> None:
        self._handler: type[_Handler] = type("Handler", (_Handler,), {"registry": registry})
        self._address = address
        self._shared = shared
        self._tls = tls
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._server: _Server | None = None
        self.asked_for = port
        self.holder: Process | None = None
        try:
            self._claim()
        except (OSError, UnicodeError) as error:
            raise MetricsServerError(
                f"cannot serve metrics on {address}, port {port}: {error}; choose another port, "
                "or 0 for any that is free"
            ) from error
        self._thread = threading.Thread(target=self._run, name="harken-metrics", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int | None:
        """
        The port that is served; None while another process holds it.
        """
        return None if self._server is None else self.asked_for

    def close(self) -> None:
        """
        Stop listening; requests that are being answered still are.
        """
        with self._lock:
            self._stopped.set()
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()

    def abandon(self) -> None:
        """
        Let go of the port in a forked child; the parent goes on serving it.
        """
        if self._server is not None:
            self._server.socket.close()

    def _claim(self) -> None:
        """
        Listen, or find out which relative does.

        Raises:
            OSError: Somebody else does, or the address is none.
        """
        for claims_left in reversed(range(CLAIMS)):
            try:
                if self._shared and self.asked_for:
                    self._refuse_strangers()
                self._listen()
                return
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                try:
                    holder = holder_of(self._address, self.asked_for)
                except OSError as silence:
                    if claims_left and isinstance(silence, ConnectionRefusedError):
                        # Whoever held it has ended meanwhile.
                        continue
                    raise error from None
                if holder is None or not this_process().is_relative_of(holder):
                    raise
                self.holder = holder
                return

    def _refuse_strangers(self) -> None:
        # A port that may be shared is shared with any other program that says so, too.
        try:
            holder = holder_of(self._address, self.asked_for)
        except OSError:
            return
        us = this_process()
        if holder is None or not (holder.pid == us.pid or us.is_relative_of(holder)):
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))

    def _listen(self) -> None:
        address = (self._address, self.asked_for)
        self._server = _Server(address, self._handler, shared=self._shared, tls=self._tls)
        self.asked_for = self._server.server_address[1]

    def _run(self) -> None:
        while self._server is None:
            if self._stopped.wait(WAITING_INTERVAL):
                return
            self._take_over()
        self._server.serve_forever(0.1)

    def _take_over(self) -> None:
        with self._lock:
            if self._stopped.is_set():
                return
            try:
                self._listen()
            except OSError:
                return
        _logger.info("process %d serves the metrics now, on port %d", os.getpid(), self.asked_for)


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
