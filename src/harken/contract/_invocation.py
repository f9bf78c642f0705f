"""
One call of a command-line tool: who called, what came of it, and that it is on record.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Coroutine, Iterator, Mapping
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

import msgspec

import harken
from harken import JSON, Bus, Envelope, Event, Ids, Operation, Scope
from harken.contract._environ import CARRIED, operator, take_carried, variable
from harken.contract._exit import (
    NOT_RECORDED,
    USAGE,
    code_of,
    is_retryable,
    name_of,
    outcome_of,
)
from harken.contract._output import Aside, Form, flush, occupy_standard_files
from harken.contract._signals import KILLED, Endings
from harken.errors import DeliveryError, HarkenError
from harken.scope import ambient, enter, from_env, leave

if TYPE_CHECKING:
    from harken.catalog import CommandStarted

SCHEMA_VERSION = "1.0"
"""The version of the envelope; it grows only by members."""

_ON_FAILURE = "HARKEN_AUDIT_ON_FAILURE"
_OF_ALL = {"HARKEN_ACTOR", "HARKEN_AUDIT", "HARKEN_AUDIT_JSONL_PATH"}
_calls: list[Invocation] = []


class PromisingIds(Ids):
    """
    Ids of which one span id is known beforehand.
    """

    def __init__(self) -> None:
        super().__init__()
        self.promised = super().span_id(0)
        self._is_due = False
        self._kept: int | None = None

    def keep_promise(self) -> None:
        """
        Give the promised span id to the next event that gets one.
        """
        self._is_due = True

    def span_id(self, seq: int) -> str:
        """
        Return 16 hex digits, never all zero.
        """
        if self._is_due:
            self._is_due, self._kept = False, seq
        return self.promised if seq == self._kept else super().span_id(seq)


class Warnings(logging.Handler):
    """
    Hands on what harken warns of while a command runs.
    """

    def __init__(self, invocation: Invocation) -> None:
        super().__init__(logging.WARNING)
        self._invocation = invocation

    def emit(self, record: logging.LogRecord) -> None:
        """
        Take one warning.
        """
        self._invocation.warn(record.getMessage())


class Invocation:
    """
    One call of a tool, from here to the end of the ``with`` block, which is the end of the call.

    However it ends, there is one `CommandCompleted` on the bus, and so one line in the audit log,
    with the exit code that the process has when it ends right after the block. On the way out the
    answer is written, unless its form is ``text``; an exit code other than 0 leaves the block as
    `SystemExit`. To be used once, in the main thread.

    Args:
        tool: What the tool is called; its audit log is in the folder of that name.

        version: Of the tool.

        form: ``json`` or ``jsonl`` for an envelope, ``text`` for what the command prints itself.

        command: The words that name the command, without arguments, when they are known.

        params: Its arguments by name, when they are known.

    Attributes:
        request_id: A UUIDv7 of this call's own.

        trace_id: What the caller calls the assignment in ``TOOL_TRACE_ID``, verbatim, or None.

        operator: Who calls, as ``kind:id``.

        command: The words that name the command; None until it is known.

        params: The arguments by name. They are redacted where they leave the process.

        exit_code: With which the call ends when nothing is raised.

        warnings: What is told beside the answer.

    """

    keeps_text = False
    """Whether what a command prints is its answer, where it gives no other."""

    def __init__(
        self,
        tool: str,
        *,
        version: str = "unknown",
        form: Form = "text",
        command: str | None = None,
        params: Mapping[str, object] | None = None,
    ) -> None:
        self.tool = tool
        self.version = version
        self.form: Form = form
        self.command = command
        self.params: Mapping[str, object] = params or {}
        self.trace_id: str | None = None
        self.operator = ""
        self.exit_code = 0
        self.warnings: list[str] = []
        self._audit_log_path: str | None = None
        self._began_ns = time.time_ns()
        self._began = time.monotonic()
        self.request_id = Ids().event_id(self._began_ns, 0)
        self._pid = os.getpid()
        self._data: object = None
        self._effect: str | None = None
        self._error: dict[str, JSON] | None = None
        self._ids = PromisingIds()
        self._bus = Bus(ids=self._ids)
        self._is_configured = False
        self._has_begun = False
        self._promise = ExitStack()
        self._here = Scope()
        self._scope = Scope()
        self._operation: Operation[CommandStarted] | None = None
        self._is_misunderstood = False
        self._stack = ExitStack()
        self._endings = Endings(Invocation.__exit__.__code__)
        self._aside = Aside()

    @property
    def bus(self) -> Bus:
        """
        The bus of this call: whatever the tool attaches or publishes there.

        Raises:
            SystemExit: It cannot be recorded, and ``HARKEN_AUDIT_ON_FAILURE=raise`` asks for that.
        """
        if self._has_begun:
            self._operate()
        self._configure()
        return self._bus

    @property
    def audit_log_path(self) -> str | None:
        """
        Where the record goes; None when there is no audit log.

        Raises:
            SystemExit: As for `bus`.
        """
        self._configure()
        return self._audit_log_path

    @property
    def duration_ms(self) -> int:
        """
        Milliseconds since the call began.
        """
        return round((time.monotonic() - self._began) * 1000)

    def set(self, data: object = None, *, effect: str | None = None) -> None:
        """
        Say what the answer is, and what the command has changed, such as ``created`` or ``noop``.

        Args:
            data: A mapping, a sequence, a dataclass or the like; anything else becomes the
                member ``result`` of an object. What an iterator yields is a list.

        Raises:
            TypeError: It is a coroutine, which nobody has awaited.

            Exception: There is an envelope, and no JSON can be made of *data*.
        """
        if isinstance(data, Coroutine):
            data.close()
            raise TypeError("the command is a coroutine; run it with asyncio.run()")
        # Here, where a failure is one of the command, and goes on record like any other.
        self._data = data if self.form == "text" else to_json(data)
        self._effect = effect or self._effect

    def warn(self, message: str) -> None:
        """
        Tell something beside the answer: in its ``warnings``, and on standard error as text.
        """
        self.warnings.append(message)
        if self.form == "text":
            self.tell(f"warning: {message}")

    def tell(self, message: str) -> None:
        """
        Write a line on standard error that names the tool, and the trace if there is one.
        """
        if sys.stderr is None:
            return
        trace = f" [trace {self.trace_id}]" if self.trace_id else ""
        # Where nobody listens, the call goes on: its end is to be put on record.
        with suppress(OSError, ValueError):
            print(f"{self.tool}:{trace} {message}", file=sys.stderr)

    @property
    def is_explained(self) -> bool:
        """
        Whether it was said what the error is.
        """
        return self._error is not None

    def explain(self, message: str, *, code: str | None = None, **details: JSON) -> None:
        """
        Say what the error is with which this call is about to end.

        Args:
            code: A name for programs to tell errors apart; by default that of the exit code.

            details: Further members of the error, such as ``suggestion`` or ``fix_required``.
        """
        self._error = {"message": message, **details}
        if code is not None:
            self._error["code"] = code

    def fail(
        self, message: str, *, exit_code: int = 1, code: str | None = None, **details: JSON
    ) -> NoReturn:
        """
        End the call with an error, which is said on standard error where there is no envelope.

        Raises:
            SystemExit: Always.
        """
        self.explain(message, code=code, **details)
        if self.form == "text":
            self.tell(f"error: {message}")
        raise SystemExit(exit_code)

    def begin(self, command: str | None, params: Mapping[str, object]) -> None:
        """
        Say which command runs, with which arguments; children that start from here on are below
        it. What is said later corrects what goes on record.
        """
        self.command = command or self.command
        self.params = params or self.params
        if not self.keeps_text:
            self._aside.let_through()
        if self._has_begun:
            return
        self._has_begun = True
        if any(map(_asks_for_sinks, os.environ)):
            self._operate()
        else:
            # Children are told of the operation before there is one: what it takes to publish and
            # to record it is loaded when the command has ended.
            here = self._here
            span = f"00-{here.trace_id}-{self._ids.promised}-{here.trace_flags:02x}"
            self._promise.enter_context(harken.scope(traceparent=span, tracestate=here.tracestate))
        carried = harken.child_env()
        for name in CARRIED:
            os.environ.pop(name, None)
            if name in carried:
                os.environ[name] = carried[name]

    def _operate(self) -> None:
        """
        Open the operation that this call is.
        """
        if self._operation is not None:
            return
        from harken.catalog import CommandCompleted, CommandStarted

        self._configure()
        self._promise.close()
        # An operation that nobody listens to is none.
        self._bus.subscribe(_hear, CommandStarted, CommandCompleted)
        started = CommandStarted(
            request_id=self.request_id, command=self.command or "", params=self._params()
        )
        self._ids.keep_promise()
        try:
            self._operation = self._stack.enter_context(self._bus.operation(started))
        except DeliveryError as refusal:
            self.fail(f"{refusal}; nothing was done", exit_code=NOT_RECORDED)

    def __enter__(self) -> Invocation:
        try:
            self._open()
        except BaseException as error:
            self.__exit__(type(error), error, error.__traceback__)
            raise
        return self

    def _open(self) -> None:
        occupy_standard_files()
        notes = Warnings(self)
        logger = logging.getLogger("harken")
        logger.addHandler(notes)
        self._stack.callback(logger.removeHandler, notes)
        self._stack.callback(_restore, {name: os.environ.get(name) for name in CARRIED})
        take_carried(self.tool, self.warn)
        around = ambient.get() or from_env()
        self.trace_id = around.correlation_id
        self.operator = operator(around.actor, self.warn)
        # A call is a step of the run or the session that it is made in.
        run_id = around.run_id or around.parent_run_id or around.session_id or self.trace_id
        self._scope = around.replace(
            actor=self.operator,
            request_id=self.request_id,
            run_id=run_id,
            parent_run_id=None if around.run_id is None else around.parent_run_id,
            source=self.tool,
        )
        self._enter_scope()
        _calls.append(self)
        self._stack.callback(_calls.remove, self)
        if self.form != "text":
            self._aside.begin()
        self._endings.begin()
        if self.command is not None:
            self.begin(self.command, self.params)

    def _enter_scope(self) -> None:
        self._stack.callback(leave, enter(self._scope))
        # Begins a trace where none was handed down.
        self._here = self._stack.enter_context(harken.scope())

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # A forked child that comes this way has no part in what its parent was asked.
        if os.getpid() != self._pid:
            return
        self._endings.hold()
        code = self.exit_code if exc is None else code_of(exc)
        code = self._record(exc, self._answer(exc, self._understood(code)))
        self._endings.end()
        if exc is None and code == 0:
            return
        if isinstance(exc, SystemExit) and code == code_of(exc):
            return
        if isinstance(exc, Exception) and not isinstance(exc, BrokenPipeError):
            if code == 1:
                return
            sys.excepthook(type(exc), exc, traceback)
        raise SystemExit(code) from None

    def _understood(self, code: int) -> int:
        """
        See to it that also a call that no command took is on record; return the exit code.
        """
        said = self._aside.end()
        if said and self._data is None:
            self._printed(said, code)
        if not self._has_begun and code == USAGE:
            # Nothing was done: it was not even understood.
            self._is_misunderstood = True
            self._stack.enter_context(harken.scope(phase="validation"))
        try:
            self.begin(self.command, self.params)
            self._operate()
        except SystemExit as refusal:
            return code_of(refusal)
        return code

    def _printed(self, text: str, code: int) -> None:
        # Help, or a version.
        self.set({"text": text})

    def _answer(self, error: BaseException | None, code: int) -> int:
        """
        Write the answer, and return the exit code of the call.
        """
        stream = sys.stdout
        if stream is None:
            return code
        failure: OSError | None = None
        if self.form != "text":
            try:
                for line in self._lines(code, error):
                    stream.write(f"{line}\n")
            except OSError as caught:
                failure = caught
        failure = flush(stream) or failure
        # A reader that has seen enough is no failure of the command, which was done by then.
        if failure is None or isinstance(failure, BrokenPipeError):
            return code
        self.tell(f"error: the answer could not be written: {failure.strerror or failure}")
        return code or 1

    def _lines(self, code: int, error: BaseException | None) -> Iterator[str]:
        data: JSON = self._data if code == 0 else None
        if self.form == "jsonl" and isinstance(data, list):
            yield from map(_dumped, data)
            data = None
        yield _dumped(self.envelope(data, None if code == 0 else self._error_of(code, error)))

    def envelope(self, data: JSON, error: JSON = None) -> dict[str, JSON]:
        """
        Return *data* with what is to be known about it.
        """
        began = datetime.fromtimestamp(self._began_ns / 1e9, UTC)
        meta: dict[str, JSON] = {
            "request_id": self.request_id,
            "trace_id": self.trace_id,
            "duration_ms": self.duration_ms,
            "timestamp": began.isoformat(timespec="microseconds").replace("+00:00", "Z"),
            "command": self.command,
            "version": self.version,
            "tool_version": self.version,
            "schema_version": SCHEMA_VERSION,
            "audit_log_path": self.audit_log_path,
        }
        for name in ("trace_id", "audit_log_path"):
            if meta[name] is None:
                del meta[name]
        return {
            "ok": error is None,
            "data": data,
            "error": error,
            "warnings": list(self.warnings),
            "meta": meta,
        }

    def _error_of(self, code: int, error: BaseException | None) -> dict[str, JSON]:
        said = dict(self._error or {"message": _message_of(error, code)})
        return {
            "code": said.pop("code", name_of(code)),
            "exit_code": code,
            "retryable": is_retryable(code),
            "phase": "validation" if self._is_misunderstood else "execution",
            **said,
        }

    def _record(self, error: BaseException | None, code: int) -> int:
        """
        Publish the end of the call, and return the exit code.
        """
        try:
            self._finish(error, code)
            self._stack.close()
        except DeliveryError as refusal:
            self.tell(f"error: {refusal}; the command had run, and exited with {code}")
            code = NOT_RECORDED
            self._stack.close()
        self._bus.close()
        return code

    def _finish(self, error: BaseException | None, code: int) -> None:
        operation = self._operation
        if operation is None:
            return
        said: dict[str, Any] = {
            "command": self.command or "",
            "params": self._params(),
            "exit_code": code,
            "operator": self.operator,
            "effect": self._effect,
            "tool_version": self.version,
            "duration_ms": self.duration_ms,
        }
        if code == 0:
            operation.complete(ok=True, **said)
        else:
            operation.fail(outcome=outcome_of(code, error), ok=False, **said)

    def _params(self) -> JSON:
        return {name: _noted(value) for name, value in self.params.items()} or None

    def _configure(self) -> None:
        """
        Attach the sinks to the bus: not before somebody needs them, as they load libraries.
        """
        if self._is_configured:
            return
        self._is_configured = True
        named = os.environ.get(variable(self.tool, "AUDIT_LOG"))
        try:
            settings = harken.Settings.load(service_name=self.tool)
            path = os.path.expanduser(named) if named else str(settings.audit_path())
            harken.configure(
                self._bus,
                service_name=self.tool,
                audit_jsonl_path=path,
                # Standard error is the command's own.
                log=settings.log and settings.log_path is not None,
                log_application=False,
                # A port is there for the process that all others are counted in.
                metrics=settings.metrics
                and settings.metrics_file_path is not None
                and settings.metrics_prometheus_port is None,
            )
        except (HarkenError, OSError, RuntimeError) as error:
            if os.environ.get(_ON_FAILURE) == "raise":
                self.fail(f"{error}; nothing was done", exit_code=NOT_RECORDED)
            self.warn(f"this call is not on record: {error}")
        else:
            self._audit_log_path = os.path.abspath(path) if settings.audit else None


def _asks_for_sinks(name: str) -> bool:
    # Who has more than an audit log wants to know when the command began, and whoever asks for
    # a record of everything wants nothing done that cannot be recorded.
    return name.startswith(("HARKEN_", "OTEL_")) and name not in _OF_ALL


def _hear(envelope: Envelope[Event]) -> None:
    pass


def current() -> Invocation | None:
    """
    Return the call that is going on in this process; None outside of any.
    """
    return _calls[-1] if _calls else None


def to_json(value: object) -> JSON:
    """
    Return *value* as plain JSON: None, a list, or an object.
    """
    if isinstance(value, Iterator):
        value = list(value)
    plain = msgspec.to_builtins(value, enc_hook=_plain, str_keys=True)
    if isinstance(plain, tuple):
        plain = list(plain)
    return plain if plain is None or isinstance(plain, (list, dict)) else {"result": plain}


def _noted(value: object) -> JSON:
    """
    Return an argument as plain JSON; of one that has no such form, the name of its type.
    """
    try:
        return msgspec.to_builtins(value, enc_hook=_plain, str_keys=True)
    # Whatever the author's own types raise: the call is to be on record.
    except Exception:
        return f"<{type(value).__name__}>"


def _plain(value: object) -> object:
    dump = getattr(value, "model_dump", None)
    if dump is not None and not isinstance(value, type):
        return dump(mode="json")
    name = getattr(value, "name", None)
    # An open file.
    return name if isinstance(name, str) and hasattr(value, "close") else str(value)


def _dumped(value: JSON) -> str:
    # Not loaded before there is an answer, as it is by redaction anyway.
    import json

    try:
        return json.dumps(value, separators=(",", ":"), allow_nan=False)
    except ValueError:
        # Numbers that are none, and infinite ones, are unknown to JSON.
        finite = json.loads(json.dumps(value), parse_constant=lambda name: None)
        return json.dumps(finite, separators=(",", ":"))


def _message_of(error: BaseException | None, code: int) -> str:
    if code > KILLED and name_of(code).startswith("SIG"):
        return f"the command was ended by {name_of(code)}"
    if isinstance(error, SystemExit) and isinstance(error.code, str):
        return error.code
    if error is None or isinstance(error, SystemExit):
        return f"the command exited with {code}"
    try:
        said = str(error)
    # Whatever the author's own exception raises when it is asked.
    except Exception:
        said = "it cannot say what happened"
    return f"{type(error).__name__}: {said}"


def _restore(before: Mapping[str, str | None]) -> None:
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
