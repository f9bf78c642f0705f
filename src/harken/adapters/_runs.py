"""
What every adapter is made of: a run of a framework, and the operations that are open in it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Hashable, Mapping
from contextlib import suppress
from contextvars import Context, ContextVar, Token, copy_context
from types import TracebackType
from typing import Any

import msgspec

import harken
from harken import Bus, Event, Operation, describe
from harken.catalog import RunStarted, ScopeOrphaned, ToolStarted, TurnStarted

_log = logging.getLogger("harken.adapters")


class _Contained:
    """
    Keeps what the bus raises from the framework around; logs it once for each kind of error.

    What is no `Exception` passes: it is not the bus that raises it.
    """

    def __init__(self) -> None:
        self.told: set[str] = set()

    def __enter__(self) -> None:
        return None

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        if not isinstance(exc, Exception):
            return False
        self.note(exc)
        return True

    def note(self, error: Exception) -> None:
        """
        Log an error that was caught elsewhere: what is called for every event has no block.
        """
        kind = type(error).__name__
        if kind not in self.told:
            self.told.add(kind)
            _log.error(
                "an event of an agent was not recorded (%s: %s); the agent goes on, and further "
                "errors of this kind are not logged",
                kind,
                error,
            )


contained = _Contained()
"""Inside of this block, no error of the bus reaches the framework."""


def parsed(text: object) -> Any:
    """
    Return the arguments of a call as a value, where a framework has them as JSON text: secrets
    are found by the names of what they stand in.
    """
    if isinstance(text, str):
        try:
            return msgspec.json.decode(text)
        except msgspec.DecodeError:
            pass
    return text


class Usage(msgspec.Struct):
    """
    What a run has used up to now; the fields are those of the events that end a run.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    cached_tokens: int = 0
    cost_usd: float | None = None
    iterations: int = 0
    tool_calls: int = 0


class _Work:
    """
    An operation, with the context in which its scope is the current one; one that nobody hears of
    has only the context around it.
    """

    __slots__ = ("began", "context", "has_inner", "operation", "parent")

    began: float

    def __init__(
        self, operation: Operation[Any] | None, around: Context, parent: Hashable | None
    ) -> None:
        self.operation = operation
        self.parent = parent
        # Whether anything ever began inside of it.
        self.has_inner = False
        self.context = around
        if operation is None:
            return
        # A context of its own: whichever thread or task calls back, the parent is the right one.
        self.context = around.copy()
        self.began = time.monotonic()
        self.context.run(operation.__enter__)

    def end(
        self, error: BaseException | None, outcome: str | None, fields: Mapping[str, Any]
    ) -> None:
        if self.operation is None:
            return
        left = error
        try:
            left = decide(self.operation, error, outcome, fields)
        finally:
            self.context.run(self.operation.__exit__, _kind(left), left, None)


def leave(entered: Operation[Any] | Run, error: BaseException | None) -> None:
    """
    Leave what was entered, with or without an exception.
    """
    entered.__exit__(_kind(error), error, None)


def _kind(error: BaseException | None) -> type[BaseException] | None:
    return None if error is None else type(error)


def decide(
    operation: Operation[Any],
    error: BaseException | str | None,
    outcome: str | None,
    fields: Mapping[str, Any],
) -> BaseException | None:
    """
    Say how *operation* ends; return the exception that leaves it, if that is what says it.
    """
    if outcome is None and error is None:
        operation.complete(**fields)
    elif outcome is None and isinstance(error, BaseException):
        if isinstance(error, Exception):
            operation.fail(**fields)
        else:
            operation.cancel(**fields)
        return error
    elif outcome in ("success", "deferred"):
        operation.complete(outcome=outcome, **fields)
    elif outcome == "denied":
        operation.deny(**fields)
    elif outcome == "cancelled":
        operation.cancel(**fields)
    else:
        operation.fail(error, outcome=outcome or "failure", **fields)
    return None


class Step:
    """
    An operation around a call of the framework, by itself or from `Run.step()`: ``with`` makes its
    scope the current one, so that whatever the call publishes is inside of it. Neither end raises
    for what the bus does. When its run ends first, as one that is cancelled may, it ends with the
    run.
    """

    parent = None
    has_inner = False

    def __init__(self, bus: Bus, event: Event, run: Run | None = None) -> None:
        self.began = time.monotonic()
        self.operation: Operation[Any] | None = None
        self._bus = bus
        self._run = run
        self._event = event
        self._ending: tuple[BaseException | str | None, str | None, dict[str, Any]] | None = None

    def decide(
        self,
        error: BaseException | str | None = None,
        *,
        outcome: str | None = None,
        **fields: Any,
    ) -> None:
        """
        Say how it ends, whatever leaves it.
        """
        self._ending = (error, outcome, fields)

    def __enter__(self) -> Step:
        if self._run is not None and not self._run.is_heard(self._event):
            return self
        with contained:
            operation = self._bus.operation(self._event)
            operation.__enter__()
            self.operation = operation
            if self._run is not None:
                self._run.add(self)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        operation = self.operation
        if operation is None:
            return
        if self._run is not None:
            if not self._run.remove(self):
                return
            self._run.finish_inner(operation, exc)
        error, outcome, fields = self._ending or (exc, None, {})
        left = error if isinstance(error, BaseException) else exc
        try:
            left = decide(operation, error, outcome, fields)
        except Exception as failure:
            contained.note(failure)
        try:
            leave(operation, left)
        except Exception as failure:
            contained.note(failure)

    def end(
        self, error: BaseException | None, outcome: str | None, fields: Mapping[str, Any]
    ) -> None:
        """
        End it from outside; the scope is left by who is in it.
        """
        if self.operation is not None:
            self.operation.end(decide(self.operation, error, outcome, fields))


_current: ContextVar[Run | None] = ContextVar("harken.adapters.run", default=None)


class Run:
    """
    One run of a framework, and the operations that are open in it, by the framework's own ids.

    As ``with`` around the call of the framework it closes on every path what the framework
    leaves open: as cancelled when the run was, else as orphaned. Callback code calls `open()`
    and `close()`. No method but those of ``with`` touches the current context, none raises for
    what the bus does, and all may be called from any thread, twice, or too late.

    Args:
        source: The framework and its version, as the events' ``source``.

        run_id: The framework's id of the run, which counts where the scope around names none.

    Attributes:
        usage: What the run has used up to now, which its end says on every path.

        operation: The run's own; None before it began.

        inner: Runs that began inside of this one and are not over.
    """

    def __init__(
        self, bus: Bus, event: RunStarted, *, source: str, run_id: str | None = None
    ) -> None:
        self.bus = bus
        self.usage = Usage()
        self._event = event
        self._source = source
        self._run_id = run_id
        self._scopes: list[harken.scope] = []
        self.operation: Operation[RunStarted] | None = None
        self._context = copy_context()
        self._own: Context | None = None
        self._ending: tuple[BaseException | str | None, str | None, dict[str, Any]] | None = None
        self._open: dict[Hashable, _Work | Step] = {}
        self.inner: dict[int, Run] = {}
        self._outer: Run | None = None
        self._token: Token[Run | None] | None = None
        self._is_final = False
        self._is_heard = True
        self._closed = False

    def __enter__(self) -> Run:
        with contained:
            scope = harken.scope(source=self._source)
            here = scope.__enter__()
            self._scopes.append(scope)
            # A run id that somebody gave to this very run is kept, that of a run around is not.
            if self._run_id is not None and (here.run_id is None or here.own_run):
                named = harken.scope(run_id=self._run_id)
                named.__enter__()
                self._scopes.append(named)
            operation = self.bus.operation(self._event)
            operation.__enter__()
            self.operation = operation
            self._is_heard = operation.envelope is not None
        self._outer = _current.get()
        if self._outer is not None and self._outer.bus is self.bus:
            self._outer.inner[id(self)] = self
        self._token = _current.set(self)
        self._context = copy_context()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.finish(exc, leave)
        with contained:
            while self._scopes:
                self._scopes.pop().__exit__(None, None, None)
        # A generator may be closed in another context than it was begun in.
        with suppress(ValueError):
            if self._token is not None:
                _current.reset(self._token)

    def finish(
        self,
        exc: BaseException | None,
        end: Callable[[Operation[Any], BaseException | None], None],
    ) -> None:
        """
        End the run once: by itself, or with the run around it when that is over first.
        """
        if self._closed:
            return
        self._closed = True
        if self._outer is not None:
            self._outer.inner.pop(id(self), None)
        for run in reversed(list(self.inner.values())):
            run.finish(exc, Operation.end)
        self._close_what_is_left(exc)
        error, outcome, fields = self._ending or (None, None, {})
        left = None if self._is_final else exc
        if left is not None:
            error, outcome, fields = left, None, {}
        if self.operation is None:
            return
        with contained:
            used = {**msgspec.structs.asdict(self.usage), **fields}
            left = decide(self.operation, error, outcome, used)
        with contained:
            end(self.operation, left)

    def finish_inner(self, operation: Operation[Any], exc: BaseException | None) -> None:
        """
        End the runs that began inside of *operation* and are not over: it ends itself now.
        """
        around = operation.envelope
        for run in reversed(list(self.inner.values())):
            start = None if run.operation is None else run.operation.envelope
            if start and around and start.parent_span_id == around.span_id:
                run.finish(exc, Operation.end)

    def open(self) -> Run:
        """
        Begin the run without touching the current context.
        """
        self._own = copy_context()
        self._own.run(self.__enter__)
        return self

    def open_inside(self, run: Run, parent: Hashable) -> Run:
        """
        Begin *run*, as `open()` does, inside of the operation of this one under *parent*.
        """
        return self._around(parent).copy().run(run.open)

    def close(self, error: BaseException | None = None) -> None:
        """
        End a run that was begun by `open()`, and whatever is open in it. Once.
        """
        own, self._own = self._own, None
        if own is not None:
            own.run(leave, self, error)

    @property
    def is_closed(self) -> bool:
        """
        Whether the run is over.
        """
        return self._closed

    def decide(
        self,
        error: BaseException | str | None = None,
        *,
        outcome: str | None = None,
        **fields: Any,
    ) -> None:
        """
        Say how the run ends, unless an exception leaves it; the last word counts.

        Args:
            fields: Those of the run's end, beside its usage.
        """
        self._ending = (error, outcome, fields)

    def decide_finally(
        self,
        error: BaseException | str | None = None,
        *,
        outcome: str,
        **fields: Any,
    ) -> None:
        """
        Say how the run ends, whatever exception leaves it: the framework's own words mean more.
        """
        self.decide(error, outcome=outcome, **fields)
        self._is_final = True

    @property
    def is_told(self) -> bool:
        """
        Whether anybody may hear anything of the run; if not, no events of it need be made.
        """
        return self._is_heard or bool(self.bus.subscriptions)

    def is_heard(self, event: Event) -> bool:
        """
        Whether anybody may hear of *event*, or of its end.
        """
        if self._is_heard:
            # Not asked again: that the bus was closed meanwhile is to be told.
            return True
        with contained:
            return self.bus.enabled(type(event))
        return False

    def step(self, event: Event) -> Step:
        """
        Return an operation that goes around a call of the framework.
        """
        self._count(event)
        return Step(self.bus, event, self)

    def add(self, step: Step) -> None:
        """
        Take note of a step that has begun.
        """
        self._open[id(step)] = step

    def remove(self, step: Step) -> bool:
        """
        Take note that a step is over; return whether the run had not ended it before.
        """
        return self._open.pop(id(step), None) is not None

    def _count(self, event: Event) -> None:
        kind = event.__class__
        if kind is ToolStarted:
            self.usage.tool_calls += 1
        elif kind is TurnStarted:
            assert isinstance(event, TurnStarted)
            self.usage.iterations = max(self.usage.iterations, event.iteration)

    def begin(self, key: Hashable, event: Event, *, parent: Hashable | None = None) -> None:
        """
        Begin an operation, inside of the one that is open under *parent*, else of the run.

        Nothing happens when one is open under *key* already.
        """
        if key in self._open:
            return
        self._count(event)
        try:
            heard = self._is_heard or self.bus.enabled(event.__class__)
            operation = self.bus.operation(event) if heard else None
            self._open[key] = _Work(operation, self._around(parent), parent)
        except Exception as failure:
            contained.note(failure)

    def end(
        self,
        key: Hashable,
        error: BaseException | None = None,
        *,
        outcome: str | None = None,
        **fields: Any,
    ) -> None:
        """
        End the operation that is open under *key*, and before it whatever is open inside of it.
        Nothing happens when none is open.

        Args:
            error: What left it; it decides the outcome when *outcome* does not.

            fields: Those of the event that ends it.
        """
        work = self._open.pop(key, None)
        if work is None:
            return
        if work.has_inner:
            self._close_what_is_left(error, key)
        if work.operation is None:
            return
        try:
            work.end(error, outcome, fields)
        except Exception as failure:
            contained.note(failure)

    def open_keys(self) -> list[Any]:
        """
        Return what operations are open under, the newest first.
        """
        return list(self._open)[::-1]

    def is_open(self, key: Hashable) -> bool:
        """
        Whether an operation is open under *key*.
        """
        return key in self._open

    def publish(self, event: Event, *, parent: Hashable | None = None) -> None:
        """
        Publish a point event, inside of the operation that is open under *parent*.
        """
        if not self.is_heard(event):
            return
        with contained:
            # A copy: a context can be entered by one at a time.
            self._around(parent).copy().run(self.bus.publish, event)

    def _around(self, parent: Hashable | None) -> Context:
        work = None if parent is None else self._open.get(parent)
        if not isinstance(work, _Work):
            return self._context
        work.has_inner = True
        return work.context

    def _close_what_is_left(
        self, error: BaseException | None, around: Hashable | None = None
    ) -> None:
        """
        Close what is open inside of the operation under *around*, else all: the newest first.
        """
        for key, work in reversed(list(self._open.items())):
            if around is not None and work.parent != around:
                continue
            if self._open.pop(key, None) is None:
                continue
            if around is not None and work.has_inner:
                self._close_what_is_left(error, key)
            with contained:
                if error is not None and not isinstance(error, Exception):
                    work.end(error, None, {})
                    continue
                work.end(None, "orphaned", {})
                self._report_orphan(work)

    def _report_orphan(self, work: _Work | Step) -> None:
        start = None if work.operation is None else work.operation.envelope
        if start is None:
            return
        age_ms = round((time.monotonic() - work.began) * 1000)
        orphaned = ScopeOrphaned(
            kind=start.name.partition(".")[0],
            id=str(getattr(start.event, describe(start.event).key[0], "")),
            started_event_id=start.id,
            age_ms=age_ms,
            closed_as="orphaned",
        )
        self._context.copy().run(self.bus.publish, orphaned)
