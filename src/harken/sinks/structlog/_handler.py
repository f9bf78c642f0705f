"""
The sink that writes one log line for each event.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from functools import partial
from json.encoder import encode_basestring_ascii
from typing import NamedTuple, TextIO, TypeVar

from harken import JSON, Envelope, Event, Outcome, Scope
from harken.errors import SettingsError
from harken.sinks.structlog import _ecs, _fields as names
from harken.sinks.structlog._fields import LEVELS, Format, Thresholds, severity_number, timestamp
from harken.sinks.structlog._json import attempt, dumps, unprintable
from harken.sinks.structlog._output import FileOutput, Output, StreamOutput
from harken.sinks.structlog._repeats import MAX_TEXT, Repeated, Repeats
from harken.sinks.structlog._text import TextLines

K = TypeVar("K")
V = TypeVar("V")

LOGGER = "harken.events"

_MAX_CACHED = 4096

# In place of a resource, where a head is cut in two.
_RESOURCE = "{resource}"


class _Layout(NamedTuple):
    """
    What stands in a line between the parts that differ from line to line.

    Attributes:
        flags: What follows the span's id, by the trace's flags.

        tie: In front of the trace's id where it stands for the correlation id.
    """

    begin: str
    span: str
    flags: tuple[str, ...]
    tie: str
    data: str


_FLAGS = tuple(f"{flags:02x}" for flags in range(256))

_LAYOUT = _Layout(
    begin='{"timestamp":"',
    span='","span_id":"',
    flags=tuple(f'","trace_flags":"{flags}"' for flags in _FLAGS),
    tie=',"correlation_id":"',
    data=',"data":',
)

_ECS_LAYOUT = _Layout(
    begin='{"@timestamp":"',
    span='","span.id":"',
    flags=('"',) * len(_FLAGS),
    tie=f',"{_ecs.LABELS}correlation_id":"',
    data=f',"{_ecs.DATA}":',
)


class _Kind(NamedTuple):
    """
    What lines have in common whose events have the same name and outcome.

    Attributes:
        heads:
            From the error's type to the members that say what happened, and the name of the
            trace's id, cut in two where the resource belongs.
    """

    level: str
    heads: dict[str | None, tuple[str, str]]


class _Surroundings(NamedTuple):
    """
    The members that lines have in common whose events have the same scope.

    Attributes:
        scope: The redacted scope.

        tied: Whether it names a correlation id; else the trace ties its events together.

        members: Its texts, each behind a comma.

        attributes: The member of that name behind a comma, or nothing.
    """

    scope: Scope
    tied: bool
    members: str
    attributes: str


class LogHandler:
    """
    A sink that writes one log line for each event: JSON or ECS for machines, text for people.

    The lines have the fields that `configure_logging()` gives to log calls; the event's own
    fields stand in ``data``. How severe a line is follows from the event's type and its outcome.
    They are pure ASCII, so nothing an agent says can forge a line or steer a terminal.

    Args:
        stream:
            Where to write. By default ``sys.stderr``, looked up at each write; it is flushed
            after each batch and never closed.

        format:
            ``json``; ``ecs`` for JSON with the names of the Elastic Common Schema; or ``text``,
            which is coloured on a terminal unless ``NO_COLOR`` is set.

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

        max_repeats:
            How many lines that say the same (level, message and error) are written within a
            minute; None for all. How many more there were is said by a line of its own, once the
            minute is over and another event comes, or at close.

    Raises:
        SettingsError: A format or a level is unknown, *max_repeats* is not positive, *stream* and
            *path* are both given, or the file at *path* cannot be opened.

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
        max_repeats: int | None = None,
    ) -> None:
        names.check_format(format)
        if stream is not None and path is not None:
            raise SettingsError("LogHandler writes to a stream or to a path; give one of them")
        self._content = content
        self._service = {} if service_name is None else {names.SERVICE_NAME: service_name}
        self._thresholds = Thresholds(level, levels or {})
        self._format: Format = format
        self._line = self._text_line if format == "text" else self._json_line
        self._text = TextLines()
        self._layout = _ECS_LAYOUT if format == "ecs" else _LAYOUT
        self._tail = self._members({**self._service, names.SCHEMA_FIELD: names.SCHEMA})
        self._repeats = None if max_repeats is None else Repeats(max_repeats)
        # Filled by whatever thread writes; losing a race costs one lookup.
        self._kinds: dict[tuple[str, Outcome | None], _Kind | None] = {}
        self._subjects: dict[str, str] = {}
        self._scopes: dict[tuple[str | None, ...], str] = {}
        self._around = _Surroundings(Scope(), tied=False, members="", attributes="")
        self._output: Output = StreamOutput(stream) if path is None else FileOutput(path)

    @property
    def suppressed_lines(self) -> int:
        """
        How many lines were not written, because they said what others had said before.
        """
        return 0 if self._repeats is None else self._repeats.suppressed

    def write(self, batch: Sequence[Envelope[Event]], /) -> None:
        """
        Write the lines of *batch* in one call; events below their level leave no trace.

        An event that cannot be read costs no other line: it has one with what can be, and a
        marker such as ``[UNPRINTABLE:ValueError]`` for what cannot.

        Raises:
            OSError: The file or the stream cannot be written.

            ValueError: The stream, or this sink with its file, was closed.
        """
        if self._repeats is None:
            text = self._rendered(batch)
        else:
            text = self._limited(batch, self._repeats)
        if text:
            self._output.write(text)

    def flush(self, timeout: float) -> bool:
        """
        Return True: each batch is flushed when it is written.
        """
        return True

    def close(self, timeout: float) -> None:
        """
        Say what was suppressed, and close the file that was opened for *path*; a stream is left
        alone. Twice is allowed.
        """
        rest = [] if self._repeats is None else self._repeats.over(at_once=True)
        try:
            if rest:
                self._output.write("".join(map(self._about, rest)))
        finally:
            self._output.close()

    def after_fork(self) -> None:
        """
        Get ready in a forked child, which goes on writing to the same place.
        """
        self._output.after_fork()

    def _limited(self, batch: Sequence[Envelope[Event]], repeats: Repeats) -> str:
        """
        Return the lines of *batch* that are not suppressed, behind those about what was before.
        """
        over = "".join(map(self._about, repeats.over()))
        return over + self._rendered([one for one in batch if self._is_admitted(one, repeats)])

    def _is_admitted(self, envelope: Envelope[Event], repeats: Repeats) -> bool:
        kind = self._find_kind(envelope)
        if kind is None:
            return False
        said = attempt(_said, envelope)
        # What cannot be read is not compared either.
        return isinstance(said, Exception) or repeats.admits(
            said, partial(_brief, envelope, kind.level)
        )

    def _about(self, repeated: Repeated) -> str:
        fields = names.repeated_of(repeated.times, repeated.fields, time.time_ns())
        return self._whole_line({**fields, **self._service, names.SCHEMA_FIELD: names.SCHEMA})

    def _rendered(self, batch: Sequence[Envelope[Event]]) -> str:
        text = attempt(self._lines, batch)
        return "".join(map(self._some_line, batch)) if isinstance(text, Exception) else text

    def _lines(self, batch: Sequence[Envelope[Event]]) -> str:
        """
        Return the lines of *batch*. Raises whatever its events raise when they are looked at.
        """
        lines: list[str] = []
        kinds, line = self._kinds, self._line
        for envelope in batch:
            try:
                kind = kinds[envelope.name, envelope.outcome]
            except KeyError:
                kind = self._find_kind(envelope)
            if kind is not None:
                lines.append(line(envelope, kind))
        return "".join(lines)

    def _some_line(self, envelope: Envelope[Event]) -> str:
        """
        Return the line of *envelope*, if it has one, or what can be said without what it raises.
        """
        kind = self._find_kind(envelope)
        if kind is None:
            return ""
        line = attempt(self._line, envelope, kind)
        if isinstance(line, Exception):
            return self._marked_line(envelope, kind.level, line)
        return line

    def _find_kind(self, envelope: Envelope[Event]) -> _Kind | None:
        """
        Return what is known of events like *envelope*; None when they are not to be written.
        """
        try:
            return self._kinds[envelope.name, envelope.outcome]
        except KeyError:
            pass
        level = names.level_of(envelope.type, envelope.outcome)
        wanted = LEVELS[level] >= self._thresholds(envelope.name)
        kind = _Kind(level, {}) if wanted else None
        return self._kinds.setdefault((envelope.name, envelope.outcome), kind)

    def _json_line(self, envelope: Envelope[Event], kind: _Kind) -> str:
        error_type, resource = envelope.error_type, envelope.resource
        before, after = kind.heads.get(error_type) or self._cut_head(envelope, kind, error_type)
        subject = self._subjects.get(resource)
        if subject is None:
            subject = _remember(self._subjects, resource, _subject(resource))
        begin, span, flags, tie, data = self._layout
        scope, around = envelope.redacted_scope, self._around
        if around.scope is not scope:
            around = self._around = self._look_around(scope)
        attributes = envelope.attributes
        own = attributes is not scope.attributes
        more = self._attributes(attributes) if own else around.attributes
        trace_id = envelope.trace_id
        tied = "" if around.tied else f'{tie}{trace_id}"'
        return (
            f'{begin}{timestamp(envelope.time_ns)}",'
            f"{before}{subject}{after}{trace_id}"
            f"{span}{envelope.span_id}{flags[envelope.trace_flags]}"
            f"{tied}{around.members},"
            f'"event.id":"{envelope.id}"{more}'
            f"{data}{envelope.encoded(content=self._content).decode()},{self._tail}}}\n"
        )

    def _marked_line(self, envelope: Envelope[Event], level: str, error: Exception) -> str:
        """
        Return a line about *envelope* that holds nothing of what raised *error*.
        """
        about = f"{envelope.name.replace('.', ' ').replace('_', ' ')}: {unprintable(error)}"
        data = attempt(envelope.data, content=self._content)
        fields: dict[str, JSON] = {
            names.TIMESTAMP: timestamp(envelope.time_ns),
            **_what(envelope, level, about),
            names.ERROR_TYPE: type(error).__name__,
            "trace_id": envelope.trace_id,
            "span_id": envelope.span_id,
            "event.id": envelope.id,
            names.DATA: unprintable(data) if isinstance(data, Exception) else data,
            **self._service,
            names.SCHEMA_FIELD: names.SCHEMA,
        }
        return self._whole_line(fields)

    def _whole_line(self, fields: Mapping[str, JSON]) -> str:
        if self._format == "text":
            return f"{self._text(fields, coloured=self._output.coloured())}\n"
        return f"{{{self._members(fields)}}}\n"

    def _cut_head(
        self, envelope: Envelope[Event], kind: _Kind, error_type: str | None
    ) -> tuple[str, str]:
        """
        Return what comes before the resource, and between it and the trace's id.
        """
        described = _described(envelope, kind.level, _RESOURCE, error_type)
        before, _, after = self._members(described).partition(f": {_RESOURCE}")
        trace = "trace.id" if self._format == "ecs" else "trace_id"
        return _remember(kind.heads, error_type, (before, f'{after},"{trace}":"'))

    def _look_around(self, scope: Scope) -> _Surroundings:
        """
        Return the members about *scope*, which is redacted.
        """
        # Each operation has a scope of its own, but most of it is its surroundings'.
        key = (
            scope.correlation_id,
            scope.run_id,
            scope.session_id,
            scope.request_id,
            scope.phase,
            scope.actor,
        )
        members = self._scopes.get(key)
        if members is None:
            texts = self._members({"correlation_id": scope.correlation_id or None, **_texts(scope)})
            members = _remember(self._scopes, key, texts and f",{texts}")
        last = self._around
        same = scope.attributes is last.scope.attributes
        attributes = last.attributes if same else self._attributes(scope.attributes)
        return _Surroundings(scope, bool(scope.correlation_id), members, attributes)

    def _attributes(self, attributes: Mapping[str, JSON]) -> str:
        if not attributes:
            return ""
        name = _ecs.ATTRIBUTES if self._format == "ecs" else "attributes"
        return f',"{name}":{dumps(attributes).decode()}'

    def _members(self, fields: Mapping[str, JSON]) -> str:
        """
        Return the JSON of *fields* without those that are None, and without the braces.
        """
        given = {name: value for name, value in fields.items() if value is not None}
        return dumps(_ecs.to_ecs(given) if self._format == "ecs" else given)[1:-1].decode()

    def _text_line(self, envelope: Envelope[Event], kind: _Kind) -> str:
        """
        Return the same fields for people, with those of ``data`` among them.
        """
        fields = {
            names.TIMESTAMP: timestamp(envelope.time_ns),
            **_described(envelope, kind.level, envelope.resource, envelope.error_type),
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


def _described(
    envelope: Envelope[Event], level: str, resource: str, error_type: str | None
) -> dict[str, JSON]:
    return {
        **_what(envelope, level, names.message_of(envelope, resource)),
        names.ERROR_TYPE: error_type,
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


def _said(envelope: Envelope[Event]) -> tuple[object, ...]:
    """
    Return what is equal for events whose lines say the same. Raises what *envelope* raises.
    """
    return envelope.name, envelope.outcome, envelope.error_type, envelope.resource[:MAX_TEXT]


def _brief(envelope: Envelope[Event], level: str) -> dict[str, JSON]:
    resource = envelope.resource[:MAX_TEXT]
    return _described(envelope, level, resource, envelope.error_type)


def _subject(resource: str) -> str:
    # As dumps() writes it: a resource is short and has no lone surrogates.
    return "" if resource == "unknown" else f": {encode_basestring_ascii(resource)[1:-1]}"


def _where(envelope: Envelope[Event]) -> dict[str, JSON]:
    return {
        "trace_flags": _FLAGS[envelope.trace_flags],
        "correlation_id": envelope.correlation_id,
        **_texts(envelope.redacted_scope),
    }


def _texts(scope: Scope) -> dict[str, JSON]:
    return {
        "run_id": scope.run_id,
        "session_id": scope.session_id,
        "request_id": scope.request_id,
        "phase": scope.phase,
        "actor": scope.actor,
    }


def _remember(cache: dict[K, V], key: K, value: V) -> V:
    # Resources, runs and errors have no bound, and none of them lasts.
    if len(cache) >= _MAX_CACHED:
        cache.clear()
    cache[key] = value
    return value
