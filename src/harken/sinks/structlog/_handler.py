"""
The sink that writes one log line for each event.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TextIO, TypeVar

from harken import JSON, Envelope, Event, Outcome
from harken.errors import SettingsError
from harken.sinks.structlog import _fields as names
from harken.sinks.structlog._fields import LEVELS, Format, Thresholds, severity_number
from harken.sinks.structlog._json import attempt, dumps, unprintable
from harken.sinks.structlog._output import FileOutput, Output, StreamOutput
from harken.sinks.structlog._text import TextLines

K = TypeVar("K")

LOGGER = "harken.events"

_MAX_CACHED = 4096


class LogHandler:
    """
    A sink that writes one log line for each event: JSON for machines, text for people.

    The lines have the fields that `configure_logging()` gives to log calls; the event's own
    fields stand in ``data``. How severe a line is follows from the event's type and its outcome.
    They are pure ASCII, so nothing an agent says can forge a line or steer a terminal.

    Args:
        stream:
            Where to write. By default ``sys.stderr``, looked up at each write; it is flushed
            after each batch and never closed.

        format: ``json``, or ``text``, which is coloured on a terminal unless ``NO_COLOR`` is set.

        level: The least severe level that is written.

        levels:
            Other levels for some events, by dotted name or pattern (``"llm.*"``); ``off``
            silences them. A name counts before a pattern and a longer pattern before a shorter
            one. ``llm.chunk`` is written only when it is named here in full.

        path:
            A file to append to instead of *stream*, made with mode 0600. It is opened at once,
            and anew when ``logrotate`` has moved it away.

        content: Whether ``data`` has the captured content of arguments, results and texts.

        service_name: The value of ``service.name``, left out when None.

    Raises:
        SettingsError: A format or a level is unknown, *stream* and *path* are both given, or the
            file at *path* cannot be opened.

    .. versionadded:: 0.1.0
    """

    name = "LogHandler"
    delivery = "worker"

    def __init__(
        self,
        stream: TextIO | None = None,
        *,
        format: Format = "json",
        level: str = "info",
        levels: Mapping[str, str] | None = None,
        path: str | os.PathLike[str] | None = None,
        content: bool = False,
        service_name: str | None = None,
    ) -> None:
        names.check_format(format)
        if stream is not None and path is not None:
            raise SettingsError("LogHandler writes to a stream or to a path; give one of them")
        self._content = content
        self._service = {} if service_name is None else {names.SERVICE_NAME: service_name}
        self._thresholds = Thresholds(level, levels or {})
        self._format: Format = format
        self._line = self._json_line if format == "json" else self._text_line
        self._text = TextLines()
        schema = {**self._service, names.SCHEMA_FIELD: names.SCHEMA}
        self._tail = _members(schema)
        # Filled by whatever thread writes; losing a race costs one lookup.
        self._levels: dict[tuple[str, Outcome | None], str | None] = {}
        self._heads: dict[tuple[str, Outcome | None, str | None, str], str] = {}
        self._scopes: dict[tuple[str | int | None, ...], str] = {}
        self._output: Output = StreamOutput(stream) if path is None else FileOutput(path)

    def write(self, batch: Sequence[Envelope[Event]], /) -> None:
        """
        Write the lines of *batch* in one call; events below their level leave no trace.

        An event that cannot be read costs no other line: it has one with what can be, and a
        marker such as ``[UNPRINTABLE:ValueError]`` for what cannot.

        Raises:
            OSError: The file or the stream cannot be written.

            ValueError: The stream, or this sink with its file, was closed.
        """
        lines: list[str] = []
        for envelope in batch:
            level = self._level(envelope)
            if level is not None:
                line = attempt(self._line, envelope, level)
                if isinstance(line, Exception):
                    line = self._marked_line(envelope, level, line)
                lines.append(line)
        if lines:
            self._output.write("".join(lines))

    def flush(self, timeout: float) -> bool:
        """
        Return True: each batch is flushed when it is written.
        """
        return True

    def close(self, timeout: float) -> None:
        """
        Close the file that was opened for *path*; a stream is left alone. Twice is allowed.
        """
        self._output.close()

    def after_fork(self) -> None:
        """
        Get ready in a forked child, which goes on writing to the same place.
        """
        self._output.after_fork()

    def _level(self, envelope: Envelope[Event]) -> str | None:
        """
        Return the level of *envelope*'s line, or None when it is not to be written.
        """
        key = (envelope.name, envelope.outcome)
        try:
            return self._levels[key]
        except KeyError:
            level = names.level_of(envelope.type, envelope.outcome)
            wanted = LEVELS[level] >= self._thresholds(envelope.name)
            self._levels[key] = level if wanted else None
            return self._levels[key]

    def _json_line(self, envelope: Envelope[Event], level: str) -> str:
        seconds, rest = divmod(envelope.time_ns, 1_000_000_000)
        attributes = envelope.attributes
        more = f',"attributes":{dumps(attributes).decode()}' if attributes else ""
        return (
            f'{{"timestamp":"{names.second(seconds)}.{rest // 1000:06d}Z",'
            f'{self._head(envelope, level)},"trace_id":"{envelope.trace_id}",'
            f'"span_id":"{envelope.span_id}",{self._scope(envelope)},'
            f'"event.id":"{envelope.id}"{more},'
            f'"data":{envelope.encoded(content=self._content).decode()},{self._tail}}}\n'
        )

    def _marked_line(self, envelope: Envelope[Event], level: str, error: Exception) -> str:
        """
        Return a line about *envelope* that holds nothing of what raised *error*.
        """
        about = f"{envelope.name.replace('.', ' ').replace('_', ' ')}: {unprintable(error)}"
        data = attempt(envelope.data, content=self._content)
        fields: dict[str, JSON] = {
            names.TIMESTAMP: names.timestamp(envelope.time_ns),
            **_what(envelope, level, about),
            names.ERROR_TYPE: type(error).__name__,
            "trace_id": envelope.trace_id,
            "span_id": envelope.span_id,
            "event.id": envelope.id,
            names.DATA: unprintable(data) if isinstance(data, Exception) else data,
            **self._service,
            names.SCHEMA_FIELD: names.SCHEMA,
        }
        if self._format == "json":
            return f"{dumps(fields).decode()}\n"
        return f"{self._text(fields, coloured=self._output.coloured())}\n"

    def _head(self, envelope: Envelope[Event], level: str) -> str:
        """
        Return the members that all lines about the same resource and outcome share.
        """
        key = (envelope.name, envelope.outcome, envelope.error_type, envelope.resource)
        head = self._heads.get(key)
        if head is None:
            head = _remember(self._heads, key, _members(_described(envelope, level)))
        return head

    def _scope(self, envelope: Envelope[Event]) -> str:
        """
        Return the members that all lines of the same scope share.
        """
        key = (
            envelope.trace_flags,
            envelope.correlation_id,
            envelope.run_id,
            envelope.session_id,
            envelope.request_id,
            envelope.phase,
            envelope.actor,
        )
        scope = self._scopes.get(key)
        if scope is None:
            scope = _remember(self._scopes, key, _members(_where(envelope)))
        return scope

    def _text_line(self, envelope: Envelope[Event], level: str) -> str:
        """
        Return the same fields for people, with those of ``data`` among them.
        """
        fields = {
            names.TIMESTAMP: names.timestamp(envelope.time_ns),
            **_described(envelope, level),
        }
        shared = {
            "trace_id": envelope.trace_id,
            "span_id": envelope.span_id,
            **_where(envelope),
            "event.id": envelope.id,
            **self._service,
        }
        taken = fields.keys() | shared.keys()
        for name, value in envelope.data(content=self._content).items():
            # Most fields of the catalog have an empty default, which tells a reader nothing.
            if value not in (None, "", [], {}):
                fields[f"data.{name}" if name in taken else name] = value
        fields.update(shared)
        for name, value in envelope.attributes.items():
            fields.setdefault(name, value)
        return f"{self._text(fields, coloured=self._output.coloured())}\n"


def _described(envelope: Envelope[Event], level: str) -> dict[str, JSON]:
    return {
        **_what(envelope, level, names.message_of(envelope)),
        names.ERROR_TYPE: envelope.error_type,
    }


def _what(envelope: Envelope[Event], level: str, message: str) -> dict[str, JSON]:
    outcome = envelope.outcome
    return {
        names.LEVEL: level,
        names.SEVERITY_NUMBER: severity_number(LEVELS[level]),
        names.MESSAGE: message,
        "event_name": envelope.name,
        "otel.event.name": envelope.name,
        names.LOGGER: LOGGER,
        "outcome": None if outcome is None else outcome.value,
    }


def _where(envelope: Envelope[Event]) -> dict[str, JSON]:
    return {
        "trace_flags": f"{envelope.trace_flags:02x}",
        "correlation_id": envelope.correlation_id,
        "run_id": envelope.run_id,
        "session_id": envelope.session_id,
        "request_id": envelope.request_id,
        "phase": envelope.phase,
        "actor": envelope.actor,
    }


def _members(fields: Mapping[str, JSON]) -> str:
    given = {name: value for name, value in fields.items() if value is not None}
    return dumps(given)[1:-1].decode()


def _remember(cache: dict[K, str], key: K, value: str) -> str:
    # Resources and runs have no bound, and none of them lasts.
    if len(cache) >= _MAX_CACHED:
        cache.clear()
    cache[key] = value
    return value
