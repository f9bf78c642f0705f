"""
Operations: a started event and its exactly one terminal event.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from contextvars import Token
from types import TracebackType
from typing import Any, Generic, TypeVar, cast

from harken.dispatch import Options
from harken.ending import Ending, choose, outcome_of
from harken.envelope import Envelope
from harken.errors import DeliveryError, EventError
from harken.event import Event, Outcome, describe, plain_text
from harken.pairing import Open, Operations, raise_for
from harken.routes import Route
from harken.scope import Entered, Scope, cause, current, enter, follow, leave, leave_cause

S = TypeVar("S", bound=Event)


class Operation(Generic[S]):
    """
    One operation, from its start to its one end; made by `Bus.operation()`.

    As ``with`` or ``async with`` it is started on the way in and ended on the way out, whatever
    happens: return is ``success``, an exception ``failure``, `TimeoutError` ``timeout``, a
    cancellation ``cancelled``. The last of `complete()`, `fail()`, `deny()` and `cancel()` says
    it more precisely, and an exception overrides it. Callback code calls `start()` and `end()`.

    Code inside the block runs in a scope whose operation is this one; a start with a ``phase``
    gives it to that scope, and one that is keyed by ``run_id`` or ``session_id`` opens it. Not
    to be shared by threads before it is started; `end()` may come from any.
    """

    def __init__(
        self,
        operations: Operations,
        event: S,
        options: Options,
        find_route: Callable[[], Route],
    ) -> None:
        info = describe(event)
        if not info.is_start:
            raise EventError(
                f"{info.name} opens no operation: no event type declares "
                f"ends={type(event).__name__}; publish it with Bus.publish()"
            )
        self._operations = operations
        self._event: S = event
        self._info = info
        self._options = options
        self._find_route = find_route
        self._open: Open | None = None
        self._decided: Ending | None = None
        self._scope: Scope | None = None
        self._ended = False
        self._entered: Entered | None = None
        self._cause_token: Token[Envelope[Event] | None] | None = None
        self._unfollow: Callable[[], None] | None = None

    def __repr__(self) -> str:
        state = "ended" if self._ended else "open" if self._scope is not None else "not started"
        return f"<Operation {self._info.name} {state}>"

    @property
    def event(self) -> S:
        """
        The start event, with the key that was made for it once it is started.
        """
        return self._event

    @property
    def envelope(self) -> Envelope[S] | None:
        """
        The start's envelope; None before `start()`, and when nobody listens.
        """
        return None if self._open is None else cast("Envelope[S]", self._open.start)

    @property
    def scope(self) -> Scope | None:
        """
        The scope inside of the operation; None before `start()`.
        """
        return self._scope

    def start(self) -> Operation[S]:
        """
        Publish the start, without touching the ambient scope.

        Raises:
            EventError: It was started before.

            DeliveryError: A required subscriber did not get the start; the operation is ended.
        """
        return self._begin(managed=False)

    def _begin(self, *, managed: bool) -> Operation[S]:
        if self._scope is not None:
            raise EventError(
                f"{self._info.name}: this operation was started before; make a new one"
            )
        here = current()
        route = self._find_route()
        if route.silent:
            event, self._scope = self._operations.prepare(self._event, here, route.keys)
            self._event = cast("S", event)
            return self
        self._scope = here
        self._open, errors = self._operations.begin(
            self._event, here, self._options, route, managed=managed
        )
        start = self._open.start
        self._event = cast("S", start.event)
        self._scope = start.scope.moved(operation=start)
        if not errors:
            return self
        try:
            raise_for(self._open.start, errors)
        except DeliveryError as error:
            # Those who did hear the start also hear how it ended.
            with suppress(DeliveryError):
                self.end(error)
            raise
        return self

    def complete(self, **fields: Any) -> None:
        """
        Say that it succeeded; *fields* are those of the success terminal.

        Raises:
            EventError: The terminal has no such field, or needs one that is not given.
        """
        word = fields.get("outcome")
        outcome = Outcome.success if word is None else Outcome.of(plain_text(word))
        raw = plain_text(word) if word is not None and outcome is Outcome.unknown else None
        self._decide(Ending(outcome, fields, word=raw))

    def fail(
        self,
        error: BaseException | str | None = None,
        *,
        outcome: Outcome | str = Outcome.failure,
        **fields: Any,
    ) -> None:
        """
        Say that it failed; *error* gives ``error_type`` and ``error_message``.

        Args:
            outcome: The outcome; a `TimeoutError` makes ``failure`` a ``timeout``.

        Raises:
            EventError: The terminal has no such field.
        """
        found = Outcome.of(plain_text(outcome))
        if found is Outcome.failure and isinstance(error, TimeoutError):
            found = Outcome.timeout
        raw = plain_text(outcome) if found is Outcome.unknown else None
        self._decide(Ending(found, fields, error=error, word=raw))

    def deny(self, reason: str = "", **fields: Any) -> None:
        """
        Say that it was not allowed.

        Raises:
            EventError: The terminal has no such field.
        """
        self._decide(Ending(Outcome.denied, {"reason": reason, **fields}), optional=("reason",))

    def cancel(self, reason: str = "", **fields: Any) -> None:
        """
        Say that it was cancelled.

        Raises:
            EventError: The terminal has no such field.
        """
        self._decide(Ending(Outcome.cancelled, {"reason": reason, **fields}), optional=("reason",))

    def _decide(self, ending: Ending, *, optional: tuple[str, ...] = ()) -> None:
        cls = choose(self._info.terminals, ending.outcome)
        known = describe(cls).fields
        for name in ending.fields:
            if name not in known and name not in optional:
                raise EventError(
                    f"{describe(cls).name} has no field {name!r}; it has {', '.join(known)}"
                )
        self._decided = ending
        if self._open is not None:
            self._open.decided = ending

    def end(self, error: BaseException | None = None) -> None:
        """
        Publish the end: as *error* says, else as was decided, else as success.

        A second end is refused and counted. Ending after the bus was closed does nothing.

        Raises:
            EventError: The operation was not started.

            DeliveryError: A required subscriber did not get the end; the operation is ended.
        """
        if self._scope is None:
            raise EventError(f"{self._info.name}: this operation was not started; call start()")
        ending = self._decided or Ending(Outcome.success, {})
        if error is not None:
            ending = self._override(ending, error)
        self._ended = True
        if self._open is not None:
            self._operations.finish(self._open, ending, self._options_for_end())

    def _options_for_end(self) -> Options:
        return Options(audit=self._options.audit, attributes=self._options.attributes)

    def _override(self, ending: Ending, error: BaseException) -> Ending:
        outcome = outcome_of(error)
        if isinstance(error, GeneratorExit) and self._decided is not None:
            return ending
        if outcome is Outcome.success:
            return ending
        return Ending(outcome, ending.fields, error=error)

    def __enter__(self) -> Operation[S]:
        self._begin(managed=True)
        assert self._scope is not None
        self._cause_token = cause.set(None)
        self._entered = enter(self._scope)
        if self._open is not None:
            self._unfollow = follow(self._scope)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._entered is not None and self._cause_token is not None
        if self._unfollow is not None:
            self._unfollow()
        leave(self._entered)
        leave_cause(self._cause_token)
        self.end(exc)

    async def __aenter__(self) -> Operation[S]:
        return self.__enter__()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.__exit__(exc_type, exc, traceback)
