"""
The line of one log call: harken's fields, the scope's ids, and what the caller gave.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from traceback import TracebackException

import orjson
from structlog.tracebacks import ExceptionDictTransformer
from structlog.typing import EventDict

from harken import JSON, current_context
from harken.redaction import Redactor
from harken.sinks.structlog import _fields as names
from harken.sinks.structlog._fields import Format
from harken.sinks.structlog._json import attempt, dumps, encode, show, unprintable
from harken.sinks.structlog._logger import ExcInfo, Kept, find_exception, formatted
from harken.sinks.structlog._text import TextLines

MAX_FRAMES = 20
"""Frames of one traceback that are logged."""

MAX_STACKS = 20
"""Exceptions of one chain of causes that are logged."""

_STANDARD = frozenset((*logging.makeLogRecord({}).__dict__, "message", "asctime", "taskName"))


class Lines:
    """
    Makes lines of structlog's event dictionaries and of the records of `logging`.
    """

    def __init__(self, format: Format, redactor: Redactor, service_name: str | None) -> None:
        self._redactor = redactor
        self._text = TextLines() if format == "text" else None
        self._last = {
            **({} if service_name is None else {names.SERVICE_NAME: service_name}),
            names.SCHEMA_FIELD: names.SCHEMA,
        }
        self._traceback: Callable[[ExcInfo], JSON] = (
            _structured if self._text is None else _traceback_text
        )

    def __call__(
        self, record: logging.LogRecord, event: EventDict, *, nested: bool, coloured: bool
    ) -> str:
        """
        Return the line of *event*, without a line end.

        Args:
            nested:
                Whether this thread is already making a line, so that the scope is not asked for
                again: it may be the one that logs.
        """
        fields = self._fields(record, event, {} if nested else dict(current_context()))
        line = encode(fields, self._redactor)
        if self._text is None:
            return line.decode()
        return self._text(orjson.loads(line), coloured=coloured)

    def last_resort(self, record: logging.LogRecord, error: Exception) -> str:
        """
        Return the line of a *record* that raised *error* when it was looked at.

        It holds nothing of the record's own: what failed may have been the redaction.
        """
        fields = {
            names.TIMESTAMP: names.timestamp(time.time_ns()),
            names.LEVEL: "error",
            names.SEVERITY_NUMBER: names.severity_number(logging.ERROR),
            names.MESSAGE: "a log record could not be rendered",
            names.LOGGER: show(record.name),
            names.ERROR_TYPE: type(error).__name__,
            **self._last,
        }
        if self._text is None:
            return dumps(fields).decode()
        return self._text(fields, coloured=False)

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
            fits = formatted(text, args)
            message = show(text) if fits is None else fits
            if fits is None:
                given.setdefault("positional_args", args)
        fields: dict[str, object] = {
            names.TIMESTAMP: names.timestamp(int(record.created * 1_000_000) * 1000),
            names.LEVEL: logging.getLevelName(record.levelno).lower(),
            names.SEVERITY_NUMBER: names.severity_number(record.levelno),
            names.MESSAGE: message,
            names.LOGGER: record.name,
            **context,
        }
        _add(fields, given)
        if exc_info is not None:
            fields[names.ERROR_TYPE] = exc_info[0].__name__
            fields[names.EXCEPTION] = self._traceback(exc_info)
        if stack is not None:
            fields[names.STACK] = stack
        return {**fields, **self._last}


def _add(fields: dict[str, object], given: dict[str, object]) -> None:
    """
    Put what the caller gave beside our own *fields*, and below ``data`` where a name is taken.
    """
    kept: dict[str, object] = {}
    data = given.get(names.DATA)
    if isinstance(data, Kept):
        del given[names.DATA]
        given.update(data)
    for key, value in given.items():
        # Keywords are text, but what `logging` takes as ``extra`` may have other keys.
        name = show(key)
        if name in names.OWN or name in fields:
            kept[name] = value
        else:
            fields[name] = value
    if kept:
        fields[names.DATA] = kept


_transform = ExceptionDictTransformer(show_locals=False, max_frames=MAX_FRAMES, use_rich=False)


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
