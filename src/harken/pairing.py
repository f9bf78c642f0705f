"""
The open operations of a bus: each start gets exactly one end, paired by key.
"""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import msgspec
from msgspec.structs import force_setattr

from harken.dispatch import Dispatcher
from harken.ending import Ending, error_type, terminal_event
from harken.envelope import Envelope
from harken.errors import DeliveryError
from harken.event import JSON, SCOPE_NAMES, Event, EventType, Outcome, OutcomeFrom, describe
from harken.scope import Scope, current

EARLY_SECONDS = 60.0
"""How long an end waits for its start, and an open operation for its end once its run is over."""

MAX_OPEN = 10_000
"""Operations that may be open at once; beyond, the oldest is closed as orphaned."""

MAX_RECENT = 10_000
"""Ended operations that are remembered, so that a second end is told from an early one."""

_log = logging.getLogger("harken")

Errors = list[Exception]


class Options(msgspec.Struct, frozen=True):
    """
    What a publisher may say beside the event.
    """

    audit: bool | None = None
    time_ns: int | None = None
    attributes: Mapping[str, JSON] | None = None
    causes: tuple[str, ...] = ()


class Open:
    """
    An operation that was started.

    Attributes:
        keyless: Whether its author gave no key, so that an end without one may be its own.

        run_id: The run that it was started in.
    """

    def __init__(
        self,
        start: Envelope[Event],
        key: tuple[Any, ...] | None,
        *,
        keyless: bool,
        run_id: str | None,
    ) -> None:
        self.start = start
        self.key = key
        self.keyless = keyless
        self.run_id = run_id
        self.managed = False
        self.decided: Ending | None = None
        self.announced = False
        self.waiting: Envelope[Event] | None = None
        self.close_at: float | None = None
        self.close_as = Outcome.orphaned

    @property
    def address(self) -> tuple[Any, ...]:
        """
        Where the end looks for it first.
        """
        return (self.start.type.cls, self.key, self.start.scope.run_id)

    @property
    def places(self) -> list[tuple[Any, ...]]:
        """
        Where an end of any run finds it.
        """
        cls = self.start.type.cls
        places: list[tuple[Any, ...]] = [] if self.key is None else [(cls, self.key)]
        if self.keyless or self.key is None or not _carry_key(self.start.type):
            places.append((cls, None))
        return places


class Early:
    """
    An end that came before its start.
    """

    def __init__(self, envelope: Envelope[Event]) -> None:
        self.envelope = envelope
        self.release_at = time.monotonic() + EARLY_SECONDS


def key_of(info: EventType, event: Event, scope: Scope) -> tuple[Any, ...] | None:
    """
    Return what pairs *event* with its counterpart; None when its author gave no key.
    """
    values = tuple(
        _key_part(getattr(event if name in info.fields else scope, name, None)) for name in info.key
    )
    return None if not values or None in values else values


def _key_part(value: object) -> str | int | None:
    # Only words and numbers pair; whatever else an author put there may not even compare.
    if value.__class__.__name__ == "UUID":
        return str(value)
    return value if isinstance(value, (str, int)) and value != "" else None


class Operations:
    """
    The open operations of one bus; safe from any thread.
    """

    def __init__(self, dispatch: Dispatcher) -> None:
        self._dispatch = dispatch
        self.refused = 0
        self.renew()

    def renew(self) -> None:
        """
        Forget everything: a forked child owns none of its parent's operations.
        """
        self._lock = threading.RLock()
        self._open: OrderedDict[int, Open] = OrderedDict()
        self._by_key: dict[tuple[Any, ...], list[Open]] = {}
        self._recent: OrderedDict[tuple[Any, ...], None] = OrderedDict()
        self._early: dict[tuple[Any, ...], Early] = {}
        # Ends that were told alone, and until when a start of theirs may still come.
        self._told: dict[tuple[Any, ...], float] = {}
        # Ends that were decided and not yet handed over. What interrupts this very moment
        # (KeyboardInterrupt) leaves them here, for the close.
        self._due: dict[int, tuple[Open, Envelope[Event]]] = {}
        self._timer: threading.Timer | None = None
        self._closing = False

    def __len__(self) -> int:
        return len(self._open)

    def new_key(self) -> str:
        """
        Return a key that no other operation of this bus has.
        """
        return self._dispatch.new_key()

    @property
    def early(self) -> int:
        """
        How many ends wait for their start.
        """
        return len(self._early)

    def publish_start(self, event: Event, options: Options) -> Envelope[Event]:
        """
        Publish a start by itself, to be paired with its end by key.

        A key that its author left empty is made, and is in the envelope's event.
        """
        here = current()
        keyless = key_of(describe(event), event, here) is None
        event, scope = self.prepare(event, here)
        operation, errors = self.begin(event, scope, options, keyless=keyless, run_id=here.run_id)
        raise_for(operation.start, errors)
        return operation.start

    def prepare(self, event: Event, outer: Scope) -> tuple[Event, Scope]:
        """
        Make the keys that the author of a start left empty; return it, and the scope to start in.
        """
        info = describe(event)
        made: dict[str, Any] = {}
        for name in info.key:
            if name in info.fields:
                given = getattr(event, name)
                if given is None or (isinstance(given, str) and not given):
                    made[name] = self.new_key()
        if made:
            event = msgspec.structs.replace(event, **made)
        phase = getattr(event, "phase", None)
        if phase and isinstance(phase, str):
            outer = outer.replace(phase=phase)
        if info.key == ("run_id",) and "run_id" not in info.fields:
            nested = outer.own_run
            if outer.run_id is None or nested:
                parent = outer.run_id if nested else outer.parent_run_id
                outer = outer.replace(run_id=self.new_key(), parent_run_id=parent)
            return event, outer.replace(own_run=True)
        if len(info.key) == 1 and info.key[0] in SCOPE_NAMES - set(info.fields):
            name = info.key[0]
            if getattr(outer, name) is None:
                return event, outer.replace(**{name: self.new_key()})
        return event, outer

    def begin(
        self,
        event: Event,
        scope: Scope,
        options: Options,
        *,
        keyless: bool,
        run_id: str | None,
        managed: bool = False,
    ) -> tuple[Open, Errors]:
        """
        Open an operation and publish its start; also return what required subscribers raised.

        Args:
            keyless: Whether the author gave no key.

            run_id: The run around it.
        """
        info = describe(event)
        start = self._dispatch.stamp(
            event,
            scope,
            outcome=None,
            audit=options.audit,
            time_ns=options.time_ns,
            attributes=options.attributes,
            causes=options.causes,
        )
        operation = Open(start, key_of(info, event, scope), keyless=keyless, run_id=run_id)
        operation.managed = managed
        with self._lock:
            self._add(operation)
            operation.waiting = self._take_early(operation)
            evicted = next(iter(self._open.values())) if len(self._open) > MAX_OPEN else None
        errors = self._tell_start(operation)
        if evicted is not None:
            self._close(evicted, Outcome.orphaned)
        return operation, errors

    def _tell_start(self, operation: Open) -> Errors:
        start = operation.start
        route = self._dispatch.routes.find(start.type.cls)
        errors: Errors = []
        # An end that comes meanwhile waits, but not for ever when something interrupts this.
        end: Envelope[Event] | None = None
        try:
            try:
                errors += self._dispatch.to_sinks(route, start) or []
            finally:
                with self._lock:
                    operation.announced = True
                    end, operation.waiting = operation.waiting, None
            errors += self._dispatch.to_handlers(route, start) or []
        finally:
            if end is not None:
                errors += self._hand_over(end)
        return errors

    def publish_end(self, event: Event, options: Options) -> Envelope[Event] | None:
        """
        Publish an end by itself; None when its operation had ended already.

        An end that is there before its start is delivered right after it, or alone after
        `EARLY_SECONDS`, at a flush, or at the close.
        """
        info = describe(event)
        scope = current()
        key = key_of(info, event, scope)
        assert info.ends is not None
        envelope: Envelope[Event] | None = None
        with self._lock:
            operation = self._match(info.ends, key, scope)
            address = (info.ends, key, scope.run_id)
            if operation is not None:
                if key is None:
                    event = _with_key(event, operation.start)
                end = self._stamp_end(event, operation.start.scope, operation, options)
                envelope = self._settle(operation, end)
            elif key is None or not (address in self._recent or address in self._early):
                envelope = self._stamp_end(event, scope, None, options)
                if key is not None and not self._closing:
                    envelope.snapshot()
                    self._early[address] = Early(envelope)
                    self._arm()
                    return envelope
        if envelope is None:
            self._refuse(info)
            return None
        errors = self._finish(operation, envelope)
        raise_for(envelope, errors)
        return envelope

    def finish(self, operation: Open, ending: Ending, options: Options) -> Envelope[Event] | None:
        """
        End *operation* as decided; None when it had ended already.
        """
        start = operation.start
        envelope: Envelope[Event] | None = None
        with self._lock:
            # A forked child finds its parent's operations in its hands, but not in its table.
            if id(operation) in self._open:
                end = self._dispatch.stamp(
                    terminal_event(start, ending, duration_ms=self._elapsed_ms(start)),
                    start.scope,
                    outcome=ending.outcome,
                    started=start,
                    audit=options.audit,
                    attributes=_with_word(options.attributes, ending),
                    error_type=error_type(ending.error),
                )
                envelope = self._settle(operation, end)
        if envelope is None:
            self._refuse(start.type)
            return None
        errors = self._finish(operation, envelope)
        raise_for(envelope, errors)
        return envelope

    def release_early(self) -> None:
        """
        Deliver the ends that still wait for a start, without one.
        """
        with self._lock:
            early, self._early = self._early, {}
            for address, item in early.items():
                self._tell_alone(address, item)
        for item in early.values():
            self._hand_over(item.envelope)

    def close(self) -> None:
        """
        End whatever is open, oldest last: children before the operations around them.
        """
        with self._lock:
            self._closing = True
            if self._timer is not None:
                self._timer.cancel()
            due, self._due = list(self._due.values()), {}
            for operation, _ in due:
                self._remove(operation)
            left = list(self._open.values())
        self.release_early()
        for _, envelope in due:
            self._hand_over(envelope)
        for operation in reversed(left):
            self._close(operation, operation.close_as)

    def _elapsed_ms(self, start: Envelope[Event]) -> int:
        if not start.mono_ns:
            return 0
        return round((self._dispatch.mint.monotonic_ns() - start.mono_ns) / 1e6)

    def _stamp_end(
        self, event: Event, scope: Scope, operation: Open | None, options: Options
    ) -> Envelope[Event]:
        info = describe(event)
        declared = info.outcome
        if isinstance(declared, OutcomeFrom):
            declared = declared(event)
        return self._dispatch.stamp(
            event,
            scope,
            outcome=declared or Outcome.success,
            started=None if operation is None else operation.start,
            audit=options.audit,
            time_ns=options.time_ns,
            attributes=options.attributes,
            causes=options.causes,
        )

    def _settle(self, operation: Open, end: Envelope[Event]) -> Envelope[Event] | None:
        """
        Make *end* the one end of *operation*; None when a signal handler has ended it while
        the end was being built.
        """
        if id(operation) not in self._open:
            return None
        self._due[id(operation)] = (operation, end)
        self._remove(operation)
        return end

    def _finish(self, operation: Open | None, envelope: Envelope[Event]) -> Errors:
        if operation is not None:
            with self._lock:
                if not operation.announced:
                    operation.waiting = envelope
                    del self._due[id(operation)]
                    return []
                self._give_grace(operation, envelope)
                if self._due.pop(id(operation), None) is None:
                    # The bus was closed meanwhile, and has handed it over.
                    return []
        return self._hand_over(envelope)

    def _hand_over(self, envelope: Envelope[Event]) -> Errors:
        route = self._dispatch.routes.find(envelope.type.cls)
        errors = self._dispatch.to_sinks(route, envelope) or []
        return errors + (self._dispatch.to_handlers(route, envelope) or [])

    def _refuse(self, info: EventType) -> None:
        with self._lock:
            self.refused += 1
            is_first = self.refused == 1
        # Not under the lock: whoever handles the log may publish.
        if is_first:
            _log.warning(
                "a second end of an operation (%s) was refused; further ones are only counted",
                info.name,
            )

    def _tell_alone(self, address: tuple[Any, ...], early: Early) -> None:
        self._remember(address)
        now = time.monotonic()
        self._told = {one: until for one, until in self._told.items() if until > now}
        # Its start may be as late as it would have been waited for, and has its end already.
        self._told[address] = max(early.release_at, now)

    def _add(self, operation: Open) -> None:
        self._open[id(operation)] = operation
        for place in operation.places:
            self._by_key.setdefault(place, []).append(operation)
        self._recent.pop(operation.address, None)

    def _remove(self, operation: Open) -> None:
        self._open.pop(id(operation), None)
        for place in operation.places:
            same = self._by_key.get(place, [])
            if operation in same:
                same.remove(operation)
            if not same:
                self._by_key.pop(place, None)
        if operation.key is not None:
            self._remember(operation.address)

    def _remember(self, address: tuple[Any, ...]) -> None:
        self._recent[address] = None
        while len(self._recent) > MAX_RECENT:
            self._recent.popitem(last=False)

    def _match(self, start: type[Event], key: tuple[Any, ...] | None, scope: Scope) -> Open | None:
        found = self._by_key.get((start, key), [])
        if key is None:
            # Without a key only the one candidate that there is; never a guess among several.
            same_run = [item for item in found if item.run_id == scope.run_id]
            return same_run[0] if len(same_run) == 1 and not same_run[0].managed else None
        for item in found:
            if item.start.scope.run_id == scope.run_id:
                return item
        # Whoever ends it may know the key and not the run, or be in the run around it.
        related = [item for item in found if _are_related(item.start.scope, scope)]
        return related[0] if len(related) == 1 else None

    def _take_early(self, operation: Open) -> Envelope[Event] | None:
        if operation.key is None:
            return None
        for address in (operation.address, (*operation.address[:2], None)):
            if self._told.pop(address, 0.0) > time.monotonic():
                self._remove(operation)
                return None
            early = self._early.pop(address, None)
            if early is not None:
                break
        else:
            return None
        self._remove(operation)
        force_setattr(early.envelope, "started", operation.start)
        return early.envelope

    def _give_grace(self, ended: Open, end: Envelope[Event]) -> None:
        if ended.start.type.key != ("run_id",):
            return
        run_id = ended.start.scope.run_id
        if run_id is None:
            return
        cancelled = end.outcome is Outcome.cancelled
        for operation in self._open.values():
            if operation.start.scope.run_id == run_id and not operation.managed:
                operation.close_at = time.monotonic() + EARLY_SECONDS
                operation.close_as = Outcome.cancelled if cancelled else Outcome.orphaned
                self._arm()

    def _arm(self) -> None:
        if self._timer is not None or self._closing:
            return
        times = [item.release_at for item in self._early.values()]
        times += [item.close_at for item in self._open.values() if item.close_at is not None]
        if not times:
            return
        self._timer = threading.Timer(max(min(times) - time.monotonic(), 0.01), self._sweep)
        self._timer.daemon = True
        # At interpreter shutdown no thread starts any more; the close at exit sweeps instead.
        with suppress(RuntimeError):
            self._timer.start()

    def _sweep(self) -> None:
        now = time.monotonic()
        with self._lock:
            self._timer = None
            due = [address for address, item in self._early.items() if item.release_at <= now]
            late = [self._early.pop(address) for address in due]
            for address, item in zip(due, late, strict=True):
                self._tell_alone(address, item)
            left = [
                item
                for item in self._open.values()
                if item.close_at is not None and item.close_at <= now
            ]
            self._arm()
        for early in late:
            self._hand_over(early.envelope)
        for operation in left:
            self._close(operation, operation.close_as)

    def _close(self, operation: Open, outcome: Outcome) -> None:
        ending = operation.decided
        if ending is None:
            ending = Ending(outcome, {}, error=None)
        # A required subscriber that fails now has nobody left to tell; it is counted.
        with suppress(DeliveryError):
            self.finish(operation, ending, Options())
        if operation.decided is None:
            self._dispatch.report_orphan(operation.start, _key_text(operation.start), outcome)


@functools.cache
def _carry_key(start: EventType) -> bool:
    """
    Return whether every end of an operation has room for its key.
    """
    return all(
        name in SCOPE_NAMES or name in describe(end).fields
        for name in start.key
        for end in start.terminals
    )


def _are_related(one: Scope, other: Scope) -> bool:
    return (
        one.run_id is None
        or other.run_id is None
        or one.parent_run_id == other.run_id
        or other.parent_run_id == one.run_id
    )


def _with_key(end: Event, start: Envelope[Event]) -> Event:
    """
    Return *end* with the key of its start, in the fields that its author left empty.
    """
    info = describe(end)
    found = {
        name: getattr(start.event, name)
        for name in start.type.key
        if name in start.type.fields and name in info.fields and getattr(end, name) in ("", None)
    }
    return msgspec.structs.replace(end, **found) if found else end


def _key_text(start: Envelope[Event]) -> str:
    """
    Return the key of an operation as it may leave the process.
    """
    data = start.data()
    values = (data.get(name, getattr(start, name, None)) for name in start.type.key)
    return ":".join(str(value) for value in values if value is not None)


def raise_for(envelope: Envelope[Event], errors: Sequence[Exception]) -> None:
    """
    Raise what required subscribers raised, if anything.

    Raises:
        DeliveryError: The one that a subscriber raised itself, or one around all of them.
    """
    if not errors:
        return
    if len(errors) == 1 and isinstance(errors[0], DeliveryError):
        raise errors[0]
    kinds = ", ".join(sorted({type(error).__name__ for error in errors}))
    raise DeliveryError(
        f"{envelope.name} did not reach {len(errors)} required subscriber(s): {kinds}; "
        "all others have heard it",
        errors,
    ) from (errors[0] if len(errors) == 1 else ExceptionGroup("required subscribers", errors))


def _with_word(attributes: Mapping[str, JSON] | None, ending: Ending) -> Mapping[str, JSON] | None:
    if ending.word is None:
        return attributes
    return {**(attributes or {}), "outcome": ending.word}
