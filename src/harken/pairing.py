"""
The open operations of a bus: each start gets exactly one end, paired by key.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import msgspec
from msgspec.structs import force_setattr

from harken.dispatch import PLAIN, Dispatcher, Options
from harken.ending import Ending, error_type, terminal_event
from harken.envelope import Envelope
from harken.errors import DeliveryError
from harken.event import Event, EventType, Outcome
from harken.keys import Key, Keys, key_text, with_key
from harken.routes import Route
from harken.scope import Scope, current

EARLY_SECONDS = 60.0
"""How long an end waits for its start, and an open operation for its end once its run is over."""

MAX_OPEN = 10_000
"""Operations that may be open at once; beyond, the oldest is closed as orphaned."""

MAX_RECENT = 10_000
"""Ended operations that are remembered, so that a second end is told from an early one."""

_log = logging.getLogger("harken")

Errors = list[Exception]


class Open(msgspec.Struct, eq=False):
    """
    An operation that was started.

    Attributes:
        run_id: The run that it was started in.

        address: Where the end looks for it first.

        places: Where an end of any run finds it.
    """

    start: Envelope[Event]
    key: Key | None
    of_a_run: bool
    run_id: str | None
    managed: bool
    address: tuple[Any, ...]
    places: tuple[tuple[Any, ...], ...]
    # Most operations end as they began; what is unusual about one is set on it then.
    decided: Ending | None = None
    announced: bool = False
    waiting: Envelope[Event] | None = None
    close_at: float | None = None
    close_as: Outcome = Outcome.orphaned


class Early:
    """
    An end that came before its start.
    """

    def __init__(self, envelope: Envelope[Event]) -> None:
        self.envelope = envelope
        self.release_at = time.monotonic() + EARLY_SECONDS


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

    def publish_start(self, event: Event, options: Options, route: Route) -> Envelope[Event]:
        """
        Publish a start by itself, to be paired with its end by key.

        A key that its author left empty is made, and is in the envelope's event.
        """
        here = current()
        operation, errors = self.begin(event, here, options, route)
        if errors:
            raise_for(operation.start, errors)
        return operation.start

    def prepare(self, event: Event, outer: Scope, keys: Keys) -> tuple[Event, Scope]:
        """
        Make the keys that the author of a start left empty; return it, and the scope to start in.
        """
        for name in keys.made:
            given = getattr(event, name)
            if given is None or (isinstance(given, str) and not given):
                event = msgspec.structs.replace(event, **{name: self.new_key()})
        if keys.has_phase:
            phase = getattr(event, "phase", None)
            if phase and isinstance(phase, str):
                outer = outer.replace(phase=phase)
        if keys.scope_name is None:
            return event, outer
        if keys.of_a_run:
            nested = outer.own_run
            if outer.run_id is None or nested:
                parent = outer.run_id if nested else outer.parent_run_id
                outer = outer.replace(run_id=self.new_key(), parent_run_id=parent)
            return event, outer.moved(own_run=True)
        if getattr(outer, keys.scope_name) is None:
            return event, outer.replace(**{keys.scope_name: self.new_key()})
        return event, outer

    def begin(
        self,
        event: Event,
        here: Scope,
        options: Options,
        route: Route,
        *,
        managed: bool = False,
    ) -> tuple[Open, Errors | None]:
        """
        Open an operation and publish its start; also return what required subscribers raised.

        Args:
            here: The scope around it.
        """
        keys = route.keys
        given = key = keys.of(event, here)
        scope = here
        # A key that is there in all its parts leaves nothing to make.
        if given is None or keys.changes_scope:
            event, scope = self.prepare(event, here, keys)
            key = keys.of(event, scope)
        start = self._dispatch.stamp(event, scope, route, options, None)
        cls = route.type.cls
        places: tuple[tuple[Any, ...], ...] = ((cls, key),)
        if key is not None and (given is None or not keys.carried):
            # Its author gave no key, or an end has no room for it: one without may be its own.
            places = ((cls, key), (cls, None))
        address = (cls, key, scope.run_id)
        operation = Open(start, key, keys.of_a_run, here.run_id, managed, address, places)
        evicted = None
        with self._lock:
            self._add(operation)
            if self._early or self._told:
                operation.waiting = self._take_early(operation)
            if len(self._open) > MAX_OPEN:
                evicted = next(iter(self._open.values()))
        errors = self._tell_start(operation, route)
        if evicted is not None:
            self._close(evicted, Outcome.orphaned)
        return operation, errors

    def _tell_start(self, operation: Open, route: Route) -> Errors | None:
        start = operation.start
        errors: Errors | None = None
        # An end that comes meanwhile waits, but not for ever when something interrupts this.
        end: Envelope[Event] | None = None
        try:
            try:
                errors = self._dispatch.to_sinks(route, start)
            finally:
                with self._lock:
                    operation.announced = True
                    end, operation.waiting = operation.waiting, None
            if route.has_handlers:
                errors = joined(errors, self._dispatch.to_handlers(route, start))
        finally:
            if end is not None:
                errors = joined(errors, self._hand_over(end))
        return errors

    def publish_end(self, event: Event, options: Options, route: Route) -> Envelope[Event] | None:
        """
        Publish an end by itself; None when its operation had ended already.

        An end that is there before its start is delivered right after it, or alone after
        `EARLY_SECONDS`, at a flush, or at the close.
        """
        info = route.type
        scope = current()
        key = route.keys.of(event, scope)
        assert info.ends is not None
        envelope: Envelope[Event] | None = None
        with self._lock:
            operation = self._match(info.ends, key, scope)
            address = (info.ends, key, scope.run_id)
            if operation is not None:
                if key is None:
                    event = with_key(event, operation.start)
                start = operation.start
                outcome = route.outcome_of_end(event)
                end = self._dispatch.stamp(event, start.scope, route, options, outcome, start)
                envelope = self._settle(operation, end)
            elif key is None or not (address in self._recent or address in self._early):
                outcome = route.outcome_of_end(event)
                envelope = self._dispatch.stamp(event, scope, route, options, outcome)
                if key is not None and not self._closing:
                    envelope.snapshot()
                    self._early[address] = Early(envelope)
                    self._arm()
                    return envelope
        if envelope is None:
            self._refuse(info)
            return None
        errors = self._finish(operation, envelope, route)
        if errors:
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
                event = terminal_event(start, ending, duration_ms=self._elapsed_ms(start))
                route = self._dispatch.routes.find(type(event))
                if ending.word is not None:
                    told = {**(options.attributes or {}), "outcome": ending.word}
                    options = msgspec.structs.replace(options, attributes=told)
                end = self._dispatch.stamp(
                    event,
                    start.scope,
                    route,
                    options,
                    ending.outcome,
                    start,
                    error_type(ending.error),
                )
                envelope = self._settle(operation, end)
        if envelope is None:
            self._refuse(start.type)
            return None
        errors = self._finish(operation, envelope)
        if errors:
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
            due: list[Envelope[Event]] = []
            # One by one, as whoever else hands them over takes them without the lock.
            with suppress(KeyError):
                while True:
                    operation, end = self._due.popitem()[1]
                    self._remove(operation)
                    due.append(end)
            left = list(self._open.values())
        self.release_early()
        for envelope in reversed(due):
            self._hand_over(envelope)
        for operation in reversed(left):
            self._close(operation, operation.close_as)

    def _elapsed_ms(self, start: Envelope[Event]) -> int:
        if not start.mono_ns:
            return 0
        return round((self._dispatch.mint.monotonic_ns() - start.mono_ns) / 1e6)

    def _settle(self, operation: Open, end: Envelope[Event]) -> Envelope[Event] | None:
        """
        Make *end* the one end of *operation*; None when a signal handler has ended it while
        the end was being built.
        """
        if id(operation) not in self._open:
            return None
        self._due[id(operation)] = (operation, end)
        self._remove(operation)
        if operation.of_a_run:
            self._give_grace(operation, end)
        return end

    def _finish(
        self, operation: Open | None, envelope: Envelope[Event], route: Route | None = None
    ) -> Errors | None:
        if operation is not None:
            if not operation.announced:
                with self._lock:
                    if not operation.announced:
                        operation.waiting = envelope
                        del self._due[id(operation)]
                        return None
            # Taken from the table by one, without the lock: by us, or by the close of the bus.
            if self._due.pop(id(operation), None) is None:
                return None
        return self._hand_over(envelope, route)

    def _hand_over(self, envelope: Envelope[Event], route: Route | None = None) -> Errors | None:
        if route is None:
            route = self._dispatch.routes.find(envelope.type.cls)
        errors = self._dispatch.to_sinks(route, envelope) if route.has_sinks else None
        if route.has_handlers:
            errors = joined(errors, self._dispatch.to_handlers(route, envelope))
        return errors

    def _refuse(self, info: EventType) -> None:
        with self._lock:
            if self._closing:
                # The close ended what was open, and its author does not know.
                return
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
            same = self._by_key.get(place)
            if not same or (same[0] is operation and len(same) == 1):
                self._by_key.pop(place, None)
            elif operation in same:
                same.remove(operation)
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
            self.finish(operation, ending, PLAIN)
        if operation.decided is None:
            self._dispatch.report_orphan(operation.start, key_text(operation.start), outcome)


def _are_related(one: Scope, other: Scope) -> bool:
    return (
        one.run_id is None
        or other.run_id is None
        or one.parent_run_id == other.run_id
        or other.parent_run_id == one.run_id
    )


def joined(errors: Errors | None, more: Errors | None) -> Errors | None:
    """
    Return both lists of errors as one; None when there are none.
    """
    return [*(errors or ()), *(more or ())] or None


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
