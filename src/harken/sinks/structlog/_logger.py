"""
The logger that `structlog.get_logger()` returns: structlog's own, but no field name is forbidden.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, TypeAlias, cast

import structlog
from structlog.stdlib import ProcessorFormatter
from structlog.typing import EventDict, WrappedLogger

from harken.sinks.structlog._fields import LEVELS
from harken.sinks.structlog._json import attempt, show

ExcInfo: TypeAlias = tuple[type[BaseException], BaseException, TracebackType | None]

# What structlog and its formatter for `logging` use themselves on the way to the line.
_TAKEN = frozenset(("event", "stack", "_record", "_from_structlog"))

# Frames up to the caller, for `logging`: write(), the method that was called, the caller.
_CALLER = 3


class Kept(dict[str, object]):
    """
    Fields whose names are taken on the way to the line; they go below ``data``.
    """


class _Message(dict[str, Any]):
    """
    An event dictionary that handlers of others show as its message.
    """

    def __str__(self) -> str:
        return show(self["event"])


def formatted(event: object, args: object) -> str | None:
    """
    Return ``event % args`` as `logging` does it, or None when the two do not fit.
    """
    text = attempt(_format, show(event), args)
    return None if isinstance(text, Exception) else text


def _format(text: str, args: object) -> str:
    if isinstance(args, tuple):
        arguments = cast("tuple[object, ...]", args)
        # As in logging: a single mapping is for "%(name)s".
        if len(arguments) == 1 and isinstance(arguments[0], Mapping) and arguments[0]:
            return _format(text, cast("object", arguments[0]))
    return text % args if args else text


def find_exception(value: object) -> ExcInfo | None:
    """
    Return the exception that ``exc_info=value`` means, if there is one.
    """
    if value is None or value is False:
        return None
    if isinstance(value, tuple):
        parts = cast("tuple[object, ...]", value)
        value = parts[1] if len(parts) == 3 else None
    if not isinstance(value, BaseException):
        value = sys.exc_info()[1]
    return None if value is None else (type(value), value, value.__traceback__)


def to_logging(
    logger: WrappedLogger, method: str, event: EventDict
) -> tuple[tuple[EventDict], dict[str, Any]]:
    """
    Hand an event dictionary to `logging`; the last of structlog's processors.
    """
    args, keywords = ProcessorFormatter.wrap_for_formatter(logger, method, _Message(event))
    return args, {**keywords, "exc_info": find_exception(event.get("exc_info"))}


def _at(level: int, method: str) -> Callable[..., Any]:
    def log(self: Logger, event: object = None, /, *args: object, **fields: object) -> None:
        self.write(level, method, event, args, fields)

    return log


def _exception() -> Callable[..., Any]:
    def log(self: Logger, event: object = None, /, *args: object, **fields: object) -> None:
        fields.setdefault("exc_info", True)
        self.write(logging.ERROR, "exception", event, args, fields)

    return log


def _at_any() -> Callable[..., Any]:
    def log(
        self: Logger, level: int, event: object = None, /, *args: object, **fields: object
    ) -> None:
        nearest = max(
            (name for name, number in LEVELS.items() if number <= level),
            key=LEVELS.__getitem__,
            default="debug",
        )
        self.write(level, nearest, event, args, fields)

    return log


class Logger(structlog.stdlib.BoundLogger):
    """
    structlog's logger for `logging`, where any keyword may be a field and no call raises.
    """

    debug = _at(logging.DEBUG, "debug")
    info = _at(logging.INFO, "info")
    warning = _at(logging.WARNING, "warning")
    warn = warning
    error = _at(logging.ERROR, "error")
    critical = _at(logging.CRITICAL, "critical")
    fatal = critical
    exception = _exception()
    log = _at_any()

    def write(
        self,
        level: int,
        method: str,
        event: object,
        args: tuple[object, ...],
        fields: dict[str, object],
    ) -> None:
        """
        Send one record through structlog's processors and on to `logging`.
        """
        logger = self._logger
        # Not isEnabledFor(): Python 3.14 says no while another record is on its way.
        if logger.disabled or level < logger.getEffectiveLevel():
            return
        message = "" if event is None else formatted(event, args)
        if message is None:
            message = show(event)
            fields.setdefault("positional_args", args)
        if not _TAKEN.isdisjoint(fields) or not _TAKEN.isdisjoint(self._context):
            fields = _keep(self._context, fields)
        if fields.get("stack_info") is True:
            del fields["stack_info"]
            fields["stack"] = logger.findCaller(stack_info=True, stacklevel=_CALLER)[3]
        try:
            positional, keywords = self._process_event(method, message, fields)
        except structlog.DropEvent:
            return
        logger.log(level, *positional, stacklevel=_CALLER, **keywords)


def _keep(context: Mapping[str, object], fields: dict[str, object]) -> dict[str, object]:
    given = {**context, **fields}
    kept = Kept({name: given[name] for name in given if name in _TAKEN or name == "data"})
    free = {name: value for name, value in fields.items() if name not in _TAKEN}
    return {**free, "data": kept}
