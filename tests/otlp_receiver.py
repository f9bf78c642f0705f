"""
A receiver of OTLP over HTTP on the loopback, which reads with the official protobuf package.
"""

from __future__ import annotations

import gzip
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
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
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import Span

SIGNALS: Mapping[str, tuple[type[Message], type[Message]]] = {
    "/v1/logs": (ExportLogsServiceRequest, ExportLogsServiceResponse),
    "/v1/metrics": (ExportMetricsServiceRequest, ExportMetricsServiceResponse),
    "/v1/traces": (ExportTraceServiceRequest, ExportTraceServiceResponse),
}


class OtlpReceiver(ThreadingHTTPServer):
    """
    Keeps what it is sent; use it as a context manager.

    Attributes:
        requests: The decoded requests, in order of arrival.

        headers: The headers of each of them.

        connections: From how many client ports requests have come.

        refusals: How many of the next requests are answered with *status* and not kept.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.requests: list[Message] = []
        self.headers: list[Mapping[str, str]] = []
        self.connections: set[int] = set()
        self.refusals = 0
        self.status = 400

    @property
    def url(self) -> str:
        """
        What `OTEL_EXPORTER_OTLP_ENDPOINT` has to be.
        """
        return f"http://127.0.0.1:{self.server_port}"

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


@contextmanager
def receiving() -> Iterator[OtlpReceiver]:
    """
    Run an `OtlpReceiver` for the length of the block.
    """
    with OtlpReceiver() as receiver:
        thread = threading.Thread(target=receiver.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield receiver
        finally:
            receiver.shutdown()
            thread.join()


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
        if receiver.refusals:
            receiver.refusals -= 1
            self._answer(receiver.status, b"")
            return
        if self.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        request_type, response_type = SIGNALS[self.path]
        request = request_type()
        request.ParseFromString(body)
        receiver.headers.append(dict(self.headers.items()))
        receiver.requests.append(request)
        self._answer(200, response_type().SerializeToString())

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-type", "application/x-protobuf")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
