"""
One set-up for every log line of the application: structlog, `logging`, warnings, tracebacks.
"""

from __future__ import annotations

import atexit
import logging
import sys
import threading
import warnings
from types import TracebackType
from typing import NamedTuple, TextIO

import structlog
from structlog.contextvars import merge_contextvars
from structlog.stdlib import LoggerFactory, ProcessorFormatter
from structlog.typing import EventDict, WrappedLogger

from harken.errors import LoggingError
from harken.redaction import Redactor
from harken.sinks.structlog import _fields as names
from harken.sinks.structlog._fields import Format
from harken.sinks.structlog._json import attempt
from harken.sinks.structlog._lines import Lines
from harken.sinks.structlog._logger import Logger, to_logging
from harken.sinks.structlog._output import StreamOutput
from harken.sinks.structlog._repeats import Repeats

# An object whose __str__ logs itself would go on for ever.
_MAX_NESTED = 3

_INSTRUMENTATION = "opentelemetry.instrumentation."

_lock = threading.RLock()
_active: ConfiguredLogging | None = None


def configure_logging(
    format: Format = "json",
    *,
    level: str | int = "INFO",
    stream: TextIO | None = None,
    force: bool = False,
    service_name: str | None = None,
    redactor: Redactor | None = None,
    max_repeats: int | None = None,
) -> ConfiguredLogging:
    """
    Set up structlog and `logging` so that every line of the application has harken's form.

    What is logged through either, warnings, and exceptions that nobody caught become one JSON
    line each (or text for people) with the fields that `LogHandler` writes. Each line carries
    the ids of the scope and operation it was logged in, and structlog's context variables.
    Secrets are redacted, also in tracebacks, which never show local variables; processors and
    handlers of others see what was logged before that. Whatever is logged, the call does not
    raise.

    Fields of a log call stand beside harken's; one whose name the line uses already (``level``,
    ``timestamp``, ``data``) is kept under ``data``. Called again, it replaces what it set up
    before. Call it from one thread, before the others start to log.

    Args:
        format:
            ``json``; ``ecs`` for JSON with the names of the Elastic Common Schema, where a plain
            name of a log call's field becomes a label; or ``text``, which is coloured on a
            terminal unless ``NO_COLOR`` is set.

        level: The least severe level that is written, by name or by the number of `logging`.

        stream: Where to write. By default ``sys.stderr``, looked up at each write.

        force:
            Whether to replace somebody else's configuration of structlog, and to take off the
            handlers of any logger, such as uvicorn's, that write to the same stream, or to the
            other standard stream where it is one; their lines are harken's from then on. Other
            handlers always stay.

        service_name: The value of ``service.name``, left out when None.

        redactor: Takes secrets out of every line; by default one with the built-in rules.

        max_repeats:
            How many lines that say the same (logger, level, message and error) are written within
            a minute; None for all. How many more there were is said by a line of its own, once the
            minute is over and another line comes, or at the end.

    Returns:
        What was set up; its ``undo()`` puts back what was there before.

    Raises:
        LoggingError: structlog was configured by someone else, and *force* is false; nothing
            was changed.

        SettingsError: The format or the level is unknown, or *max_repeats* is not positive;
            nothing was changed.

    .. versionadded:: 0.1.0
    """
    global _active
    names.check_format(format)
    number = names.level_number(level)
    repeats = None if max_repeats is None else Repeats(max_repeats)
    with _lock:
        if _foreign_structlog() and not force:
            raise LoggingError(
                "structlog is already configured; call configure_logging() first, or pass "
                "force=True to replace that configuration"
            )
        if _active is not None:
            _active.undo()
        lines = Lines(format, redactor or Redactor(), service_name, repeats)
        handler = _Handler(lines, StreamOutput(stream))
        taken = _writing_to(stream) if force else []
        _active = ConfiguredLogging(handler, number, taken=taken)
        return _active


class _Taken(NamedTuple):
    """
    Handlers of a logger that are taken off, so that its lines come to the root logger's.
    """

    logger: logging.Logger
    handlers: list[logging.Handler]
    propagates: bool

    def take_off(self) -> None:
        for handler in self.handlers:
            self.logger.removeHandler(handler)
        self.logger.propagate = True

    def put_back(self) -> None:
        for handler in self.handlers:
            self.logger.addHandler(handler)
        self.logger.propagate = self.propagates


class ConfiguredLogging:
    """
    The application's logging as `configure_logging()` set it up; undone at the end of ``with``.
    """

    def __init__(self, handler: _Handler, level: int, *, taken: list[_Taken]) -> None:
        root = logging.getLogger()
        self._handler = handler
        self._level = level
        self._taken = taken
        self._undone = False
        self._root_level = root.level
        self._structlog = structlog.get_config() if structlog.is_configured() else None
        self._excepthook = sys.excepthook
        self._thread_excepthook = threading.excepthook
        for one in taken:
            one.take_off()
        root.addHandler(handler)
        root.setLevel(level)
        self._captures_warnings = _capture_warnings()
        sys.excepthook = self._uncaught
        threading.excepthook = self._uncaught_in_thread
        # Not left to `logging`: whoever calls dictConfig() makes it forget all handlers there are.
        atexit.register(handler.finish)
        _configure_structlog()

    @property
    def lost(self) -> int:
        """
        How many lines could not be written, because the stream failed or was closed.
        """
        return self._handler.lost

    @property
    def suppressed_lines(self) -> int:
        """
        How many lines were not written, because they said what others had said before.
        """
        return self._handler.suppressed_lines

    def undo(self) -> None:
        """
        Put back what was there before. Twice is allowed.

        What somebody else has changed since is left as it is. Loggers of structlog that were in
        use go on handing their lines to `logging`.
        """
        global _active
        with _lock:
            if self._undone:
                return
            self._undone = True
            _active = None
            self._restore()

    def _restore(self) -> None:
        root = logging.getLogger()
        root.removeHandler(self._handler)
        self._handler.finish()
        atexit.unregister(self._handler.finish)
        for one in self._taken:
            one.put_back()
        if root.level == self._level:
            root.setLevel(self._root_level)
        if self._captures_warnings:
            logging.captureWarnings(False)
        if sys.excepthook == self._uncaught:
            sys.excepthook = self._excepthook
        if threading.excepthook == self._uncaught_in_thread:
            threading.excepthook = self._thread_excepthook
        if structlog.get_config()["wrapper_class"] is not Logger:
            return
        if self._structlog is None:
            structlog.reset_defaults()
        else:
            structlog.configure(**self._structlog)

    def __enter__(self) -> ConfiguredLogging:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.undo()

    def _uncaught(
        self, kind: type[BaseException], error: BaseException, traceback: TracebackType | None
    ) -> None:
        logger = logging.getLogger("uncaught")
        heard = not self._undone and logger.isEnabledFor(logging.CRITICAL)
        if heard and not issubclass(kind, KeyboardInterrupt):
            logger.critical("uncaught exception", exc_info=(kind, error, traceback))
            # The interpreter's own hook would print the traceback again, secrets included.
            if self._excepthook is sys.__excepthook__:
                return
        self._excepthook(kind, error, traceback)

    def _uncaught_in_thread(self, args: threading.ExceptHookArgs) -> None:
        logger = logging.getLogger("uncaught")
        heard = not self._undone and logger.isEnabledFor(logging.ERROR)
        if heard and not issubclass(args.exc_type, SystemExit):
            error = args.exc_value or args.exc_type()
            logger.error(
                "uncaught exception in a thread",
                exc_info=(args.exc_type, error, args.exc_traceback),
                extra={"thread.name": args.thread.name if args.thread else None},
            )
            if self._thread_excepthook is threading.__excepthook__:
                return
        self._thread_excepthook(args)


class _Handler(logging.Handler):
    """
    The root logger's handler: makes a line of each record, and never raises.
    """

    def __init__(self, lines: Lines, output: StreamOutput) -> None:
        super().__init__()
        self.lost = 0
        self._lines = lines
        self._output = output
        self._nested = threading.local()
        self.setFormatter(
            ProcessorFormatter(
                processors=[self._render],
                foreign_pre_chain=[merge_contextvars],
                pass_foreign_args=True,
                use_get_message=False,
            )
        )

    def emit(self, record: logging.LogRecord) -> None:
        """
        Write the line of *record*; a line that cannot be written is counted as lost.
        """
        depth = getattr(self._nested, "depth", 0)
        if depth >= _MAX_NESTED:
            self.lost += 1
            return
        self._nested.depth = depth + 1
        try:
            self._write(self._line(record))
        finally:
            self._nested.depth = depth

    def finish(self) -> None:
        """
        Say what was suppressed and not said so far.
        """
        self.acquire()
        try:
            self._write(self._lines.rest())
        finally:
            self.release()

    @property
    def suppressed_lines(self) -> int:
        """
        How many lines were suppressed.
        """
        return self._lines.suppressed

    def _write(self, text: str) -> None:
        if not text:
            return
        try:
            self._output.write(f"{text}\n")
        except (OSError, ValueError, RuntimeError):
            # A full disk, a closed stream, or a signal that arrived inside a write to it: there
            # is nowhere left to say so.
            self.lost += 1

    def _line(self, record: logging.LogRecord) -> str:
        line = attempt(self.format, record)
        if isinstance(line, Exception):
            return self._lines.last_resort(record, line)
        return line

    def _render(self, logger: WrappedLogger, method: str, event: EventDict) -> str:
        return self._lines(
            event["_record"],
            event,
            nested=self._nested.depth > 1,
            coloured=self._output.coloured(),
        )


def _configure_structlog() -> None:
    logger_class = logging.getLoggerClass()
    structlog.configure(
        processors=[merge_contextvars, to_logging],
        context_class=dict,
        wrapper_class=Logger,
        logger_factory=LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    # LoggerFactory makes its own class the default for every logger of the application; it is
    # there to find the caller, which our Logger does itself.
    logging.setLoggerClass(logger_class)


def _foreign_structlog() -> bool:
    """
    Return whether somebody configured structlog, other than us or OpenTelemetry's instrumentation.
    """
    config = structlog.get_config()
    if not structlog.is_configured() or config["wrapper_class"] is Logger:
        return False
    processors = list(config["processors"])
    own = [p for p in processors if not type(p).__module__.startswith(_INSTRUMENTATION)]
    # The instrumentation configures structlog with the defaults and a processor of its own.
    untouched = len(own) < len(processors) and isinstance(
        config["logger_factory"], structlog.PrintLoggerFactory
    )
    return not untouched


def _writing_to(stream: TextIO | None) -> list[_Taken]:
    """
    Return the handlers, by logger, that write to the same place.
    """
    target = sys.stderr if stream is None else stream
    standard = (sys.stdout, sys.stderr)
    # A program's console is both; uvicorn's two handlers write to one each.
    places = standard if target in standard else (target,)
    root = logging.getLogger()
    loggers = [
        root,
        *(one for one in root.manager.loggerDict.values() if isinstance(one, logging.Logger)),
    ]
    taken: list[_Taken] = []
    for logger in loggers:
        there = [one for one in logger.handlers if getattr(one, "stream", one) in places]
        if there:
            taken.append(_Taken(logger, there, logger.propagate))
    return taken


def _capture_warnings() -> bool:
    """
    Send warnings to `logging`; return whether that was not so before.
    """
    before = warnings.showwarning
    logging.captureWarnings(True)
    return warnings.showwarning is not before
