"""
Who gets which events: blinker's registry, and immutable snapshots of it by event class.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, cast

import blinker
from blinker.base import ANY, ANY_ID

from harken.delivery import Queue
from harken.event import Event, EventType, Outcome, OutcomeFrom, describe
from harken.keys import Keys
from harken.subscription import Subscription, caller


class _Ordered(dict[Any, None]):
    """
    What blinker takes for a set, in order of insertion.
    """

    def add(self, item: Any) -> None:
        self[item] = None

    def discard(self, item: Any) -> None:
        self.pop(item, None)

    def copy(self) -> _Ordered:
        return _Ordered(self)


class Signal(blinker.Signal):
    """
    blinker's registry of receivers by sender, safe to change from any thread.

    The senders are event classes. `blinker.Signal.send()` is not used to publish: it looks for
    coroutine functions on every send, and its order is undefined.
    """

    set_class = cast("type[set[Any]]", _Ordered)

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.RLock()

    def listen(self, subscription: Subscription) -> None:
        """
        Register *subscription* for its types.
        """
        with self.lock:
            for sender in subscription.types or (ANY,):
                self.connect(subscription, sender=sender, weak=False)

    def forget(self, subscription: Subscription) -> None:
        """
        Take *subscription* out again.
        """
        with self.lock:
            self.disconnect(subscription)

    def listeners(self, info: EventType) -> list[Subscription]:
        """
        Return who listens to a type or one of its bases, in order of subscription.
        """
        with self.lock:
            ids = set(self._by_sender.get(ANY_ID, ()))
            for base in info.cls.__mro__:
                ids.update(self._by_sender.get(id(base), ()))
            found = [
                cast("Subscription", item) for key, item in self.receivers.items() if key in ids
            ]
        if info.transient:
            return [item for item in found if item.sink is None or info.cls in item.types]
        return found


class Route:
    """
    Who gets the events of one type. Read without a lock.

    Attributes:
        silent: Nobody listens, also not to the other side of the operation.

        is_start: The type starts an operation.

        paired: It starts or ends one.

        keys: How, then.

        outcome: What the type declares; None when it is read from a field.

        call_handlers: Calls the inline handlers, and returns what required ones raised.

        published: How many events went this way.
    """

    __slots__ = (
        "audit",
        "call_handlers",
        "handler_queues",
        "has_handlers",
        "has_sinks",
        "is_start",
        "keys",
        "outcome",
        "paired",
        "published",
        "queues",
        "silent",
        "sinks",
        "type",
    )

    def __init__(
        self, info: EventType, listeners: Sequence[Subscription], *, audit: bool, heard: bool
    ) -> None:
        self.type = info
        self.audit = audit
        self.silent = not heard
        self.is_start = info.is_start
        self.paired = info.is_start or info.is_terminal
        self.keys = Keys(info)
        self.published = 0
        declared = info.outcome
        fixed = None if isinstance(declared, OutcomeFrom) else declared or Outcome.unknown
        self.outcome: Outcome | None = fixed
        self.queues = _queues(item for item in listeners if item.sink is not None)
        self.handler_queues = _queues(item for item in listeners if item.sink is None)
        self.sinks = tuple((item.inline, item) for item in listeners if item.inline is not None)
        self.has_sinks = bool(self.queues or self.sinks)
        # A bare handler's calls are counted by its caller, one behind checks counts its own.
        handlers = tuple(
            (item.call, item, 0 if item.is_checked else 1)
            for item in listeners
            if item.queue is None and item.inline is None
        )
        self.call_handlers = caller(handlers)
        self.has_handlers = bool(handlers or self.handler_queues)

    def outcome_of_end(self, event: Event) -> Outcome:
        """
        The same for an event that ends an operation: success, if nothing else is said.
        """
        declared = self.type.outcome
        if isinstance(declared, OutcomeFrom):
            return declared(event)
        return declared or Outcome.success

    def outcome_of(self, event: Event) -> Outcome:
        """
        Return what the type, or a field of *event*, says about the outcome.
        """
        declared = self.type.outcome
        if isinstance(declared, OutcomeFrom):
            return declared(event)
        return declared or Outcome.unknown


def _queues(subscriptions: Iterable[Subscription]) -> tuple[Queue, ...]:
    return tuple(item.queue for item in subscriptions if item.queue is not None)


class Routes:
    """
    The routes of one bus, made on demand and thrown away when somebody comes or goes.

    Args:
        audit_types: From a dotted name or a pattern to whether it is audited; the last match
            counts.
    """

    def __init__(self, audit_types: Mapping[str, bool]) -> None:
        self.audit_types = dict(audit_types)
        self._signal = Signal()
        self.renew()

    def renew(self) -> None:
        """
        Take locks of our own and count anew, as in a forked child.
        """
        self._counted: dict[str, int] = {}
        self._lock = threading.RLock()
        self._signal.lock = threading.RLock()
        self._known: dict[type, Route] = {}

    def change(self, add: Iterable[Subscription] = (), remove: Iterable[Subscription] = ()) -> None:
        """
        Route events to those of *add*, and no longer to those of *remove*, from one moment on.
        """
        with self._lock:
            for subscription in add:
                self._signal.listen(subscription)
            for subscription in remove:
                self._signal.forget(subscription)
            self.forget()

    def find(self, cls: type) -> Route:
        """
        Return the route of events of type *cls*.

        Raises:
            UnknownEventError: The type has no event name.
        """
        route = self._known.get(cls)
        if route is not None:
            return route
        with self._lock:
            route = self._known.get(cls)
            if route is None:
                route = self._known[cls] = self._make(describe(cls))
            return route

    def forget(self) -> None:
        """
        Look up again who listens to what, from the next event on.
        """
        with self._lock:
            self._counted = self.published()
            self._known = {}

    def published(self) -> dict[str, int]:
        """
        Return how many events of each type were built, by dotted name.
        """
        with self._lock:
            counts = dict(self._counted)
            for route in self._known.values():
                if route.published:
                    counts[route.type.name] = counts.get(route.type.name, 0) + route.published
            return counts

    def _make(self, info: EventType) -> Route:
        listeners = self._signal.listeners(info)
        heard = bool(listeners) or any(
            self._signal.listeners(describe(cls)) for cls in info.terminals
        )
        return Route(info, listeners, audit=self._is_audited(info), heard=heard)

    def _is_audited(self, info: EventType) -> bool:
        audited = info.audit
        for pattern, flag in self.audit_types.items():
            if fnmatchcase(info.name, pattern):
                audited = flag
        return audited
