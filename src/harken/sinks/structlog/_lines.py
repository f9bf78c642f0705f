"""
The line of one log call: harken's fields, the scope's ids, and what the caller gave.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from functools import partial
from traceback import TracebackException

import orjson
from structlog.tracebacks import ExceptionDictTransformer
from structlog.typing import EventDict

from harken import JSON, current_context
from harken.redaction import Redactor
from harken.sinks.structlog import _ecs, _fields as names
from harken.sinks.structlog._fields import Format
from harken.sinks.structlog._json import attempt, dumps, encode, show, unprintable
from harken.sinks.structlog._logger import ExcInfo, Kept, find_exception, formatted
from harken.sinks.structlog._repeats import MAX_TEXT, Repeated, Repeats
from harken.sinks.structlog._text import TextLines

MAX_FRAMES = 20
"""Frames of one traceback that are logged."""

MAX_STACKS = 20
"""Exceptions of one chain of causes that are logged."""

_STANDARD = frozenset((*logging.makeLogRecord({}).__dict__, "message", "asctime", "taskName"))


class Lines:
    """
    Makes lines of structlog's event dictionaries and of the records of `logging`.

    Args:
        repeats: Decides which lines are written; None for all.
    """

    def __init__(
        self,
        format: Format,
        redactor: Redactor,
        service_name: str | None,
        repeats: Repeats | None = None,
    ) -> None:
        self._redactor = redactor
        self._repeats = repeats
        self._ecs = format == "ecs"
        self._text = TextLines() if format == "text" else None
        self._last = {
            **({} if service_name is None else {names.SERVICE_NAME: service_name}),
            names.SCHEMA_FIELD: names.SCHEMA,
        }
        self._error: Callable[[ExcInfo], dict[str, JSON]] = {
            "json": _structured_error,
            "text": _text_error,
            "ecs": _ecs_error,
        }[format]

    def __call__(
        self, record: logging.LogRecord, event: EventDict, *, nested: bool, coloured: bool
    ) -> str:
        """
        Return the line of *event*, without a line end; nothing when it is suppressed. A line about
        others that were may stand before it.

        Args:
            nested:
                Whether this thread is already making a line, so that the scope is not asked for
                again: it may be the one that logs.
        """
        fields = self._fields(record, event, {} if nested else dict(current_context()))
        over = [] if self._repeats is None else self._repeats.over()
        lines = [self._about(one, coloured=coloured) for one in over]
        if self._repeats is None or self._admits(self._repeats, record, fields):
            lines.append(self._shown(encode(fields, self._redactor), coloured=coloured))
        return "\n".join(lines)

    def rest(self) -> str:
        """
        Return the lines, without colours, about all that was suppressed and not said so far.
        """
        over = [] if self._repeats is None else self._repeats.over(at_once=True)
        return "\n".join(self._about(one, coloured=False) for one in over)

    def _about(self, repeated: Repeated, *, coloured: bool) -> str:
        fields = names.repeated_of(repeated.times, repeated.fields, time.time_ns())
        return self._shown(dumps(self._own({**fields, **self._last})), coloured=coloured)

    def _admits(
        self, repeats: Repeats, record: logging.LogRecord, fields: Mapping[str, object]
    ) -> bool:
        message, error_type = str(fields[names.MESSAGE]), fields.get(names.ERROR_TYPE)
        return repeats.admits(
            (record.levelno, record.name, message[:MAX_TEXT], error_type),
            partial(self._brief, record, message, error_type),
        )

    def _brief(
        self, record: logging.LogRecord, message: str, error_type: object
    ) -> dict[str, JSON]:
        fields = {
            **_severity(record),
            names.MESSAGE: message,
            names.LOGGER: record.name,
            names.ERROR_TYPE: error_type,
        }
        brief: dict[str, JSON] = orjson.loads(encode(fields, self._redactor))
        # Only now: half a secret would not have been found.
        return {**brief, names.MESSAGE: brief[names.MESSAGE][:MAX_TEXT]}

    def _shown(self, line: bytes, *, coloured: bool) -> str:
        if self._text is None:
            return line.decode()
        return self._text(orjson.loads(line), coloured=coloured)

    def _own(self, fields: Mapping[str, object]) -> dict[str, object]:
        given = {name: value for name, value in fields.items() if value is not None}
        return _ecs.to_ecs(given) if self._ecs else given

    @property
    def suppressed(self) -> int:
        """
        How many lines were suppressed.
        """
        return 0 if self._repeats is None else self._repeats.suppressed

    def last_resort(self, record: logging.LogRecord, error: Exception) -> str:
        """
        Return the line of a *record* that raised *error* when it was looked at.

        It holds nothing of the record's own: what failed may have been the redaction.
        """
        fields: dict[str, object] = {
            names.TIMESTAMP: names.timestamp(time.time_ns()),
            names.LEVEL: "error",
            names.SEVERITY_NUMBER: names.severity_number(logging.ERROR),
            names.MESSAGE: "a log record could not be rendered",
            names.LOGGER: show(record.name),
            names.ERROR_TYPE: type(error).__name__,
            **self._last,
        }
        return self._shown(dumps(self._own(fields)), coloured=False)

    def _fields(
        self, record: logging.LogRecord, event: EventDict, context: dict[str, str]
    ) -> dict[str, object]:
        given: dict[str, object] = dict(event)
        native = given.pop("_from_structlog")
        del given["_record"]
        text = given.pop("event", "")
        exc_info = find_exception(given.pop("exc_info", None))
        if native:
            message, stack = show(text), given.pop("stack", None)
        else:
            args, stack = given.pop("positional_args", None), given.pop("stack_info", None)
            given.update(
                (name, value) for name, value in record.__dict__.items() if name not in _STANDARD
            )
            if record.name.startswith("uvicorn"):
                # The message once more, for terminals.
                given.pop("color_message", None)
            fits = formatted(text, args)
            message = show(text) if fits is None else fits
            if fits is None:
                given.setdefault("positional_args", args)
        fields = self._own(
            {
                names.TIMESTAMP: names.timestamp(int(record.created * 1_000_000) * 1000),
                **_severity(record),
                names.MESSAGE: message,
                names.LOGGER: record.name,
                **context,
            }
        )
        if self._ecs:
            _add(fields, given, _ecs.place, _ecs.DATA)
        else:
            _add(fields, given, _place, names.DATA)
        if exc_info is not None:
            fields.update(self._error(exc_info))
        if stack is not None:
            fields.setdefault(_ecs.STACK_TRACE if self._ecs else names.STACK, stack)
        return {**fields, **self._own(self._last)}


def _severity(record: logging.LogRecord) -> dict[str, JSON]:
    return {
        names.LEVEL: logging.getLevelName(record.levelno).lower(),
        names.SEVERITY_NUMBER: names.severity_number(record.levelno),
    }


def _place(name: str, value: object) -> str | None:
    return None if name in names.OWN else name


def _add(
    fields: dict[str, object],
    given: dict[str, object],
    place: Callable[[str, object], str | None],
    rest: str,
) -> None:
    """
    Put what the caller gave beside our own *fields*, and below *rest* where a name is taken.
    """
    kept: dict[str, object] = {}
    data = given.get(names.DATA)
    if isinstance(data, Kept):
        del given[names.DATA]
        given.update(data)
    for key, value in given.items():
        # Keywords are text, but what `logging` takes as ``extra`` may have other keys.
        name = show(key)
        placed = place(name, value)
        if placed is None or placed in fields:
            kept[name] = value
        else:
            fields[placed] = value
    if kept:
        fields[rest] = kept


_transform = ExceptionDictTransformer(show_locals=False, max_frames=MAX_FRAMES, use_rich=False)


def _structured_error(exc_info: ExcInfo) -> dict[str, JSON]:
    return {names.ERROR_TYPE: exc_info[0].__name__, names.EXCEPTION: _structured(exc_info)}


def _text_error(exc_info: ExcInfo) -> dict[str, JSON]:
    return {names.ERROR_TYPE: exc_info[0].__name__, names.EXCEPTION: _traceback_text(exc_info)}


def _ecs_error(exc_info: ExcInfo) -> dict[str, JSON]:
    return {
        names.ERROR_TYPE: exc_info[0].__name__,
        _ecs.ERROR_MESSAGE: show(exc_info[1]),
        _ecs.STACK_TRACE: _traceback_text(exc_info),
    }


def _structured(exc_info: ExcInfo) -> JSON:
    stacks = attempt(_transform, exc_info)
    if isinstance(stacks, Exception):
        return [{"exc_type": exc_info[0].__name__, "exc_value": unprintable(stacks)}]
    return _bounded(stacks)


def _bounded(stacks: list[dict[str, JSON]]) -> JSON:
    """
    Return the first *stacks*, without the members that are empty in nearly all of them.
    """
    return [
        {
            name: [_bounded(group) for group in value] if name == "exceptions" else value
            for name, value in stack.items()
            if value or name == "exc_value"
        }
        for stack in stacks[:MAX_STACKS]
    ]


def _traceback_text(exc_info: ExcInfo) -> JSON:
    text = attempt(_format_traceback, exc_info)
    if isinstance(text, Exception):
        return f"{exc_info[0].__name__}: {unprintable(text)}"
    return text


def _format_traceback(exc_info: ExcInfo) -> str:
    traceback = TracebackException(*exc_info, limit=-MAX_FRAMES, compact=True)
    return "".join(traceback.format()).rstrip("\n")
