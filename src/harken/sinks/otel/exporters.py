"""
Where spans go without another package: lines of JSON on a stream or in a file; and OTLP.
"""

from __future__ import annotations

import importlib
import json
import os
import stat
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from io import FileIO
from pathlib import Path
from types import ModuleType
from typing import IO, TYPE_CHECKING, Literal, TypeAlias

from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.trace import format_span_id, format_trace_id
from opentelemetry.util.types import Attributes

from harken import JSON
from harken.errors import TraceExporterError
from harken.sinks.otel.attributes import attribute_value

if TYPE_CHECKING:
    from opentelemetry.sdk._logs.export import LogRecordExporter

_OTLP = {
    "http/protobuf": ("opentelemetry.exporter.otlp.proto.http", "harken[otlp]"),
    "grpc": ("opentelemetry.exporter.otlp.proto.grpc", "harken[otlp-grpc]"),
}

_MODULES = {"TRACES": "trace_exporter", "LOGS": "_log_exporter"}

# Spans of other libraries come through these exporters, too; the SDK sets no limit by default.
_MAX_TEXT = 65_536

MakeExporter: TypeAlias = Callable[[], SpanExporter]


def console_exporter(stream: IO[str] | None = None) -> SpanExporter:
    """
    Return an exporter that writes each span as one line of JSON; see `span_line()`.

    Args:
        stream:
            Where to write. By default ``sys.stderr`` at the time of writing: standard output
            belongs to the application, and is the protocol of some tools.
    """
    return ConsoleExporter(stream)


def file_exporter(path: str | os.PathLike[str]) -> SpanExporter:
    """
    Return an exporter that appends each span to *path* as one line of JSON; see `span_line()`.

    A new file is readable by its owner only. A file that is renamed or removed, as by logrotate,
    is made anew at the next span. Several processes may append to one file.

    Raises:
        TraceExporterError: The file cannot be opened.
    """
    return FileExporter(path)


def otlp_exporter() -> SpanExporter:
    """
    Return the official OTLP exporter, as the ``OTEL_EXPORTER_OTLP_*`` variables set it up.

    ``OTEL_EXPORTER_OTLP_PROTOCOL`` (or ``..._TRACES_PROTOCOL``) is ``http/protobuf``, which is
    the default, or ``grpc``. A forked child gets connections of its own.

    Raises:
        TraceExporterError: The package for that protocol is not installed, or there is none.
    """
    make: MakeExporter = _otlp("TRACES").OTLPSpanExporter
    return OtlpExporter(make)


def otlp_log_exporter() -> LogRecordExporter:
    """
    Return the official OTLP exporter for logs, likewise; ``..._LOGS_PROTOCOL`` is asked first.

    Raises:
        TraceExporterError: As above.
    """
    make: Callable[[], LogRecordExporter] = _otlp("LOGS").OTLPLogExporter
    return make()


def _otlp(signal: Literal["TRACES", "LOGS"]) -> ModuleType:
    """
    Return the module that has the exporter for *signal*.
    """
    variables = (f"OTEL_EXPORTER_OTLP_{signal}_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
    named = (os.environ.get(variable, "").strip() for variable in variables)
    protocol = next(filter(None, named), "http/protobuf")
    if protocol not in _OTLP:
        raise TraceExporterError(
            f"there is no OTLP exporter for the protocol {protocol!r}; "
            f"set {variables[1]} to {' or '.join(_OTLP)}"
        )
    module, extra = _OTLP[protocol]
    try:
        return importlib.import_module(f"{module}.{_MODULES[signal]}")
    except ImportError as error:
        package = module.replace(".", "-")
        raise TraceExporterError(
            f"spans cannot be sent by OTLP: {package} is not installed ({error}); install {extra}"
        ) from error


class LineExporter(SpanExporter, ABC):
    """
    Writes spans as lines, each batch at once, so that nothing is ever held back.
    """

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """
        Write *spans*. What the stream or the file raises is raised.
        """
        return self._write("".join(span_line(span) + "\n" for span in spans))

    @abstractmethod
    def _write(self, lines: str) -> SpanExportResult: ...


class ConsoleExporter(LineExporter):
    """
    Writes spans to a text stream, and flushes it after each batch.
    """

    def __init__(self, stream: IO[str] | None = None) -> None:
        self._stream = stream

    def _write(self, lines: str) -> SpanExportResult:
        stream = sys.stderr if self._stream is None else self._stream
        stream.write(lines)
        stream.flush()
        return SpanExportResult.SUCCESS


class FileExporter(LineExporter):
    """
    Appends spans to a file; after each batch they are in the kernel, not yet on the disk.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        self._torn = False
        try:
            self._open()
        except OSError as error:
            raise TraceExporterError(
                f"spans cannot be written to {self._path}: {error.strerror}; "
                "make the folder, or choose another path"
            ) from error

    def shutdown(self) -> None:
        """
        Close the file; spans that come later are refused.
        """
        self._file.close()

    def _write(self, lines: str) -> SpanExportResult:
        if self._file.closed:
            return SpanExportResult.FAILURE
        if self._moved():
            moved = self._file
            self._open()
            moved.close()
        rest = memoryview((("\n" if self._torn else "") + lines).encode("ascii"))
        while rest:
            written = self._file.write(rest)
            # As the file is, not as it is meant to be: a child may be forked at any moment.
            self._torn = rest[written - 1] != 0x0A
            rest = rest[written:]
        return SpanExportResult.SUCCESS

    def _open(self) -> None:
        self._file = FileIO(self._path, "ab", opener=_private)
        # A process that was killed, or a full disk, may have left half a line behind.
        status = os.fstat(self._file.fileno())
        self._torn = False
        if stat.S_ISREG(status.st_mode) and status.st_size:
            with self._path.open("rb") as written:
                written.seek(-1, os.SEEK_END)
                self._torn = written.read(1) != b"\n"

    def _moved(self) -> bool:
        try:
            now = self._path.stat()
        except FileNotFoundError:
            return True
        return not os.path.samestat(now, os.fstat(self._file.fileno()))


class OtlpExporter(SpanExporter):
    """
    An exporter that is made anew in a forked child, where it may not share its connections.
    """

    def __init__(self, make: MakeExporter) -> None:
        self._make = make
        self._made: SpanExporter | None = make()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """
        Send *spans*; retries what may pass, for as long as ``OTEL_EXPORTER_OTLP_TIMEOUT`` says.
        """
        return self._exporter.export(spans)

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """
        Send what is held back, which is nothing.
        """
        return self._exporter.force_flush(timeout_millis)

    def shutdown(self) -> None:
        """
        Stop retrying, and let go of the connections.
        """
        self._exporter.shutdown()

    def after_fork(self) -> None:
        """
        Begin anew in a forked child, at the next span.
        """
        self._made = None

    @property
    def _exporter(self) -> SpanExporter:
        if self._made is None:
            self._made = self._make()
        return self._made


def span_line(span: ReadableSpan) -> str:
    """
    Return *span* as one line of ASCII JSON, without the line's end.

    The members, always all and in this order:

    - ``trace_id``, ``span_id``, ``parent_id``: lower-case hex, as in audit records and log lines;
      ``parent_id`` is null on a root
    - ``name``; ``kind``: ``INTERNAL``, ``CLIENT``, ``SERVER``, ``PRODUCER`` or ``CONSUMER``
    - ``start_time``, ``end_time``: RFC 3339 in UTC, with nanoseconds
    - ``status``: ``status_code`` (``UNSET``, ``OK`` or ``ERROR``) and ``description`` or null
    - ``attributes``; ``events``: each ``name``, ``timestamp``, ``attributes``;
      ``links``: each ``trace_id``, ``span_id``, ``attributes``
    - ``resource``: its attributes; ``scope``: ``name`` and ``version``
    """
    context, parent, scope = span.get_span_context(), span.parent, span.instrumentation_scope
    members: dict[str, JSON] = {
        "trace_id": format_trace_id(context.trace_id) if context else None,
        "span_id": format_span_id(context.span_id) if context else None,
        "parent_id": format_span_id(parent.span_id) if parent else None,
        "name": span.name,
        "kind": span.kind.name,
        "start_time": _rfc3339(span.start_time),
        "end_time": _rfc3339(span.end_time),
        "status": {
            "status_code": span.status.status_code.name,
            "description": span.status.description,
        },
        "attributes": _plain(span.attributes),
        "events": [_event(event) for event in span.events],
        "links": [
            {
                "trace_id": format_trace_id(link.context.trace_id),
                "span_id": format_span_id(link.context.span_id),
                "attributes": _plain(link.attributes),
            }
            for link in span.links
        ],
        "resource": _plain(span.resource.attributes),
        "scope": {"name": scope.name, "version": scope.version} if scope else None,
    }
    return json.dumps(members, separators=(",", ":"))


def _event(event: Event) -> dict[str, JSON]:
    return {
        "name": event.name,
        "timestamp": _rfc3339(event.timestamp),
        "attributes": _plain(event.attributes),
    }


def _plain(attributes: Attributes) -> dict[str, JSON]:
    values = {key: attribute_value(value, _MAX_TEXT) for key, value in (attributes or {}).items()}
    return {key: value for key, value in values.items() if value is not None}


def _rfc3339(time_ns: int | None) -> str | None:
    if time_ns is None:
        return None
    seconds, rest = divmod(time_ns, 1_000_000_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:09d}Z"


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
