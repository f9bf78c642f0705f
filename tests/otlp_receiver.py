"""
Receivers of OTLP on the loopback, over HTTP and gRPC, which read with the official protobuf package.
"""

from __future__ import annotations

import gzip
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from google.protobuf.message import Message
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsServiceRequest,
    ExportLogsServiceResponse,
)
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import Span

SIGNALS: Mapping[str, tuple[type[Message], type[Message]]] = {
    "/v1/logs": (ExportLogsServiceRequest, ExportLogsServiceResponse),
    "/v1/metrics": (ExportMetricsServiceRequest, ExportMetricsServiceResponse),
    "/v1/traces": (ExportTraceServiceRequest, ExportTraceServiceResponse),
}


class Received:
    """
    What a receiver was sent.

    Attributes:
        requests: The decoded requests, in order of arrival.
    """

    def __init__(self) -> None:
        self.requests: list[Message] = []

    @property
    def log_records(self) -> list[LogRecord]:
        """
        Every log record that was received, in order of arrival.
        """
        return [
            record
            for request in self.requests
            if isinstance(request, ExportLogsServiceRequest)
            for resource in request.resource_logs
            for scope in resource.scope_logs
            for record in scope.log_records
        ]

    @property
    def spans(self) -> list[Span]:
        """
        Every span that was received, in order of arrival.
        """
        return [
            span
            for request in self.requests
            if isinstance(request, ExportTraceServiceRequest)
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    @property
    def resources(self) -> list[Resource]:
        """
        The resource of each request for traces.
        """
        return [
            resource.resource
            for request in self.requests
            if isinstance(request, ExportTraceServiceRequest)
            for resource in request.resource_spans
        ]

    def wait_for(self, condition: Callable[[], bool], timeout: float = 30.0) -> None:
        """
        Wait until *condition* holds.

        Raises:
            TimeoutError: It did not hold within *timeout* seconds.
        """
        deadline = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError(f"{len(self.spans)} spans after {timeout} s")
            time.sleep(0.01)


class OtlpReceiver(Received, ThreadingHTTPServer):
    """
    Keeps what it is sent over HTTP; use it as a context manager.

    Attributes:
        headers: The headers of each request.

        connections: From how many client ports requests have come.

        asked: How many requests have come, kept or not.

        refusals: How many of the next requests are answered with *status* and not kept.

        delay: Seconds after which each request is answered.
    """

    daemon_threads = True

    def __init__(self, port: int = 0, tls: ssl.SSLContext | None = None) -> None:
        Received.__init__(self)
        ThreadingHTTPServer.__init__(self, ("127.0.0.1", port), _Handler)
        if tls is not None:
            # The handshake is made by the thread of the connection, so that nobody waits for it.
            self.socket = tls.wrap_socket(
                self.socket, server_side=True, do_handshake_on_connect=False
            )
        self.scheme = "http" if tls is None else "https"
        self.headers: list[Mapping[str, str]] = []
        self.connections: set[int] = set()
        self.asked = 0
        self.refusals = 0
        self.status = 400
        self.delay = 0.0
        self._answering = threading.Lock()
        self._clients: list[socket.socket] = []
        self._gone = False

    def get_request(self) -> tuple[socket.socket, object]:
        """
        Accept a connection, and remember it.
        """
        client, address = super().get_request()
        self._clients.append(client)
        return client, address

    def keep(
        self, request: Message, headers: Mapping[str, str], answer: Callable[[], None]
    ) -> None:
        """
        Keep *request* and answer it; neither, once the receiver has gone away.
        """
        with self._answering:
            if not self._gone:
                self.headers.append(headers)
                self.requests.append(request)
                answer()

    def server_close(self) -> None:
        """
        Go away as a process does that ends: with all its connections.
        """
        with self._answering:
            self._gone = True
        super().server_close()
        for client in self._clients:
            with suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)

    @property
    def url(self) -> str:
        """
        What `OTEL_EXPORTER_OTLP_ENDPOINT` has to be.
        """
        return f"{self.scheme}://127.0.0.1:{self.server_port}"

    def handle_error(self, request: object, client_address: object) -> None:
        """
        Say nothing about a client that went away, or that does not trust the certificate.
        """


@contextmanager
def receiving(port: int = 0, tls: ssl.SSLContext | None = None) -> Iterator[OtlpReceiver]:
    """
    Run an `OtlpReceiver` for the length of the block.
    """
    with OtlpReceiver(port, tls) as receiver:
        thread = threading.Thread(target=receiver.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield receiver
        finally:
            receiver.shutdown()
            thread.join()


class GrpcReceiver(Received):
    """
    Keeps what it is sent over gRPC.

    Attributes:
        url: What `OTEL_EXPORTER_OTLP_ENDPOINT` has to be.
    """

    url: str

    def keep(self, request: Message, answer: Message) -> Message:
        """
        Keep *request*, and return *answer*.
        """
        self.requests.append(request)
        return answer


@contextmanager
def receiving_grpc() -> Iterator[GrpcReceiver]:
    """
    Run a `GrpcReceiver` for the length of the block.
    """
    import grpc

    receiver = GrpcReceiver()
    server = grpc.server(ThreadPoolExecutor(2))
    for service, request, response in (
        ("trace.v1.TraceService", ExportTraceServiceRequest, ExportTraceServiceResponse),
        ("logs.v1.LogsService", ExportLogsServiceRequest, ExportLogsServiceResponse),
    ):
        export = grpc.unary_unary_rpc_method_handler(
            lambda message, context, response=response: receiver.keep(message, response()),
            request_deserializer=request.FromString,
            response_serializer=response.SerializeToString,
        )
        name = f"opentelemetry.proto.collector.{service}"
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(name, {"Export": export}),)
        )
    receiver.url = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield receiver
    finally:
        server.stop(1).wait()


def plain(attributes: Iterator[KeyValue] | list[KeyValue]) -> dict[str, object]:
    """
    Return attributes as Python values.
    """
    return {attribute.key: _value(attribute.value) for attribute in attributes}


def _value(value: AnyValue) -> object:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(item) for item in value.array_value.values]
    return None if kind is None else getattr(value, kind)


class _Handler(BaseHTTPRequestHandler):
    server: OtlpReceiver
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        """
        Say nothing: the test's output is for the test.
        """

    def do_POST(self) -> None:
        """
        Decode one request, keep it, and answer it.
        """
        receiver = self.server
        body = self.rfile.read(int(self.headers["content-length"]))
        receiver.connections.add(self.client_address[1])
        receiver.asked += 1
        time.sleep(receiver.delay)
        if receiver.refusals:
            receiver.refusals -= 1
            self._answer(receiver.status, b"")
            return
        if self.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        request_type, response_type = SIGNALS[self.path]
        request = request_type()
        request.ParseFromString(body)
        answer = response_type().SerializeToString()
        receiver.keep(request, dict(self.headers.items()), lambda: self._answer(200, answer))

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-type", "application/x-protobuf")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
