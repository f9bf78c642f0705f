"""
The bus: publish and subscribe, on blinker.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import logging
import sys
import threading
import time as time_
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, TypedDict, TypeVar, Unpack, cast, overload

from harken._process import hold, release, watch
from harken.delivery import (
    SAMPLED,
    Delivery,
    FlushReport,
    Inline,
    Marker,
    Measure,
    Observer,
    Overflow,
    Sink,
    SupportsAttached,
    SupportsClose,
    Worker,
    running_loop,
)
from harken.dispatch import PLAIN, Dispatcher, Options
from harken.envelope import Clock, ClockWatch, Envelope, Ids, Mint
from harken.errors import ClosedBusError, EventError, RedactionError, SubscriptionError
from harken.event import CONTENT_KINDS, JSON, ContentKind, Event
from harken.flushing import flush
from harken.operation import Operation
from harken.pairing import Operations, raise_for
from harken.routes import Route, Routes
from harken.scope import ambient, cause, outermost
from harken.subscription import (
    Handler,
    Health,
    Predicate,
    Subscription,
    batch_handler,
    batch_writer,
    weak_handler,
)

if TYPE_CHECKING:
    import asyncio

    from harken.body import Encoder
    from harken.received import Received
    from harken.redaction import Redactor

E = TypeVar("E", bound=Event)
E1 = TypeVar("E1", bound=Event)
E2 = TypeVar("E2", bound=Event)
E3 = TypeVar("E3", bound=Event)
R = TypeVar("R")

EXIT_TIMEOUT = 5.0
"""Seconds that the close at interpreter exit may take."""

_log = logging.getLogger("harken")


class QueueOptions(TypedDict, total=False):
    """
    What may be said about the queue in front of a subscriber; see `Bus.subscribe()`.
    """

    capacity: int
    capacity_bytes: int | None
    overflow: Overflow
    block_timeout: float | None


class SubscribeOptions(QueueOptions, total=False):
    """
    The keyword arguments of `Bus.subscribe()` and `Bus.on()`.
    """

    where: Predicate | None
    delivery: Delivery | None
    loop: asyncio.AbstractEventLoop | None
    required: bool
    weak: bool
    name: str | None


class Bus:
    """
    Carries typed events from whoever publishes them to whoever subscribed.

    Nothing is attached and no thread is started by itself. Every method may be called from any
    thread, also while others publish; a forked child has queues and ids of its own. The bus
    closes itself when the interpreter exits.

    Args:
        redaction: Takes secrets out of everything that leaves the process; False leaves them in.

        capture_content:
            Which content is kept beside its digest and size: a subset of ``arguments``,
            ``result``, ``text``, ``thinking`` and ``messages``.

        audit_types:
            Raises or lowers the audit flag: from a dotted name, or a pattern such as ``tool.*``,
            to whether it is audited. The last match counts.

        clock: Where times come from.

        ids: Where ids come from.
    """

    def __init__(
        self,
        *,
        redaction: Redactor | bool = True,
        capture_content: Iterable[ContentKind] = ("arguments",),
        audit_types: Mapping[str, bool] | None = None,
        clock: Clock | None = None,
        ids: Ids | None = None,
    ) -> None:
        self._redaction = _checked(redaction)
        self._capture = _content_kinds(capture_content)
        clock = clock or Clock()
        self._clocks = ClockWatch(clock)
        self._dispatch = Dispatcher(
            Mint(clock, ids or Ids(), self._make_encoder), Routes(audit_types or {})
        )
        # What publish() reads, without a lock; emptied when something changes, and for good when
        # the bus closes.
        self._routes: dict[type, Route] = {}
        self._subscriptions: dict[str, Subscription] = {}
        self._workers: list[Worker] = []
        self._shared_worker: Worker | None = None
        self._operations = Operations(self._dispatch)
        self._state: Literal["open", "closing", "closed", "exited"] = "open"
        self._lock = threading.RLock()
        self._closed = threading.Event()
        # The thread that is closing the bus, while it is.
        self._closer: int | None = None
        self._report = FlushReport({})
        self._late = 0
        self._observers: tuple[weakref.ref[Observer], ...] = ()
        watch(self)

    def __repr__(self) -> str:
        return f"<Bus {self._state}, {len(self._subscriptions)} subscribers>"

    def publish(
        self,
        event: E,
        audit: bool | None = None,
        time: datetime | None = None,
        attributes: Mapping[str, JSON] | None = None,
        causes: Iterable[str | Envelope[Event]] = (),
    ) -> Envelope[E] | None:
        """
        Hand *event* to everyone who listens to its type or one of its bases.

        First it is appended to the queues, then inline sinks are called, then inline handlers,
        each in order of subscription. What a subscriber raises harms nobody. Works the same from
        synchronous and asynchronous code, and blocks no longer than the inline subscribers.

        Args:
            audit: Overrides whether it is audited.

            time: When it happened, if not now; aware, or in local time.

            attributes: JSON scalars beside those of the scope.

            causes: What made it happen: envelopes or their ids; by default what is being handled,
                else the enclosing operation.

        Returns:
            The envelope; None when nobody listens, when its operation had ended already, and
            after the close at interpreter exit.

        Raises:
            UnknownEventError: *event* has no event name.

            ClosedBusError: The bus was closed.

            DeliveryError: A required subscriber did not get it; all others did.
        """
        try:
            route = self._routes[event.__class__]
        except KeyError:
            route = self._route(event.__class__)
        if route.silent:
            return None
        if route.paired:
            options = PLAIN
            if audit is not None or time is not None or attributes is not None or causes:
                time_ns = None if time is None else _time_ns(time)
                options = Options(audit, time_ns, _taken(attributes), _cause_ids(causes))
            publish = (
                self._operations.publish_start if route.is_start else self._operations.publish_end
            )
            return cast("Envelope[E] | None", publish(event, options, route))
        dispatch = self._dispatch
        mint = dispatch.mint
        handled = cause.get()
        envelope: Envelope[E] = Envelope(
            event,
            route.type,
            mint.time_ns() if time is None else _time_ns(time),
            0,
            dispatch.next_seq(),
            route.audit if audit is None else audit,
            route.outcome or route.outcome_of(event),
            ambient.get() or outermost(),
            mint,
            None,
            _cause_ids(causes) if causes else () if handled is None else (handled.id,),
            None if attributes is None else _taken(attributes),
        )
        route.published += 1
        errors = dispatch.to_sinks(route, envelope) if route.has_sinks else None
        if route.has_handlers:
            failures = (
                dispatch.to_handlers(route, envelope)
                if route.handler_queues
                else route.call_handlers(envelope)
            )
            if failures:
                errors = [*(errors or ()), *failures]
        if self._observers and not envelope.seq % SAMPLED and time is None:
            self.measured("publish", "", (mint.time_ns() - envelope.time_ns) / 1e9)
        if errors:
            raise_for(envelope, errors)
        return envelope

    def republish(self, envelope: Received[E], /) -> Received[E] | None:
        """
        Hand what was published in another process to everyone who listens here.

        Ids, times, scope and outcome stay as they are; only the number is one of this bus. It
        pairs with nothing here: an end comes with its own start. What its origin redacted stays
        redacted, and is redacted once more.

        Args:
            envelope: As `harken.forward.consume()` yields it, or `harken.received.received()`.

        Returns:
            The envelope as the subscribers get it; None when nobody listens.

        Raises:
            ClosedBusError: The bus was closed.

            DeliveryError: A required subscriber did not get it; all others did.
        """
        route = self._find_route(type(envelope.event))
        if route.silent:
            return None
        dispatch = self._dispatch
        renewed = envelope.renewed(dispatch.mint, dispatch.next_seq())
        route.published += 1
        errors = [
            *(dispatch.to_sinks(route, renewed) or ()),
            *(dispatch.to_handlers(route, renewed) or ()),
        ]
        if errors:
            raise_for(renewed, errors)
        return renewed

    def observe(self, observer: Observer, /) -> None:
        """
        Tell *observer* how long publishing and writing take; it is not kept alive by this.

        What happens within `publish()` is sampled: one in `SAMPLED` calls.
        """
        with self._lock:
            alive = [one for one in self._observers if one() is not None]
            self._observers = (*alive, weakref.ref(observer))

    def measured(self, what: Measure, sink: str, seconds: float) -> None:
        """
        Tell all observers of one measurement.
        """
        for reference in self._observers:
            observer = reference()
            if observer is not None:
                # An observer that fails is no reason for anything else to fail.
                with suppress(Exception):
                    observer.measured(what, sink, max(seconds, 0.0))

    @property
    def is_observed(self) -> bool:
        """
        Whether anybody wants to know how long things take.
        """
        return bool(self._observers)

    @property
    def is_closed(self) -> bool:
        """
        Whether the bus was closed, or is being closed.
        """
        return self._state != "open"

    @property
    def is_closing(self) -> bool:
        """
        Whether the bus is being closed right now: sinks are flushed for the last time.
        """
        return self._closer is not None

    def enabled(self, event_type: type[Event], /) -> bool:
        """
        Whether anybody listens to *event_type*; if not, its payload need not be built.
        """
        return self._state == "open" and not self._find_route(event_type).silent

    def _find_route(self, cls: type) -> Route:
        return self._routes.get(cls) or self._route(cls)

    def operation(
        self,
        event: E,
        *,
        audit: bool | None = None,
        attributes: Mapping[str, JSON] | None = None,
        causes: Iterable[str | Envelope[Event]] = (),
    ) -> Operation[E]:
        """
        Return the operation that *event* opens; enter it with ``with`` or ``async with``.

        Args:
            event: A start; a key that its author left empty is made.

            audit: Overrides, for start and end, whether they are audited.

            attributes: JSON scalars for start and end.

            causes: What made it happen: envelopes or their ids.

        Raises:
            EventError: No event type ends this one.
        """
        cls = type(event)
        options = Options(audit, None, _taken(attributes), _cause_ids(causes))
        return Operation(self._operations, event, options, lambda: self._find_route(cls))

    def _route(self, cls: type) -> Route:
        # Found under the lock of refresh(), or a route from before it could be kept after it.
        with self._lock:
            route = self._dispatch.routes.find(cls)
            if self._state != "open" and self._closer == threading.get_ident():
                # What a sink has to say while it is flushed and closed, the others still hear.
                return route
            if self._state == "exited":
                self._late += 1
                return Route(route.type, (), audit=False, heard=False)
            if self._state != "open":
                raise ClosedBusError(
                    f"cannot publish {route.type.name}: the bus is closed; publish before "
                    "Bus.close(), or make a new bus"
                )
            self._routes[cls] = route
            return route

    def refresh(self) -> None:
        """
        Look up again who listens to what, from the next event on.
        """
        with self._lock:
            self._dispatch.routes.forget()
            self._routes = {}

    @overload
    def subscribe(
        self, handler: Callable[[Envelope[Event]], object], /, **options: Unpack[SubscribeOptions]
    ) -> Subscription: ...
    @overload
    def subscribe(
        self,
        handler: Callable[[Envelope[E1]], object],
        type1: type[E1],
        /,
        **options: Unpack[SubscribeOptions],
    ) -> Subscription: ...
    @overload
    def subscribe(
        self,
        handler: Callable[[Envelope[E1 | E2]], object],
        type1: type[E1],
        type2: type[E2],
        /,
        **options: Unpack[SubscribeOptions],
    ) -> Subscription: ...
    @overload
    def subscribe(
        self,
        handler: Callable[[Envelope[E1 | E2 | E3]], object],
        type1: type[E1],
        type2: type[E2],
        type3: type[E3],
        /,
        **options: Unpack[SubscribeOptions],
    ) -> Subscription: ...
    @overload
    def subscribe(
        self,
        handler: Callable[[Envelope[Event]], object],
        /,
        *types: type[Event],
        **options: Unpack[SubscribeOptions],
    ) -> Subscription: ...
    def subscribe(
        self,
        handler: Callable[[Envelope[Any]], object],
        /,
        *types: type[Event],
        where: Predicate | None = None,
        delivery: Delivery | None = None,
        loop: asyncio.AbstractEventLoop | None = None,
        required: bool = False,
        weak: bool = False,
        name: str | None = None,
        **queue: Unpack[QueueOptions],
    ) -> Subscription:
        """
        Call *handler* with the envelope of each event of *types*, from now on.

        Args:
            types: What to listen to, with all subclasses; none for every event.

            where: Lets an envelope through or not.

            delivery:
                ``inline`` (within `publish()`), ``worker`` (one background thread for all),
                ``isolated`` (a thread of its own) or ``loop`` (a coroutine function, awaited on
                an event loop, one event after the other). By default coroutine functions are
                ``loop`` and all others ``inline``.

            loop: For ``loop``; by default the running one, else the first that publishes.

            required: Whether its failure surfaces in `publish()`; only ``inline``.

            weak: Whether to let *handler* go when nobody else holds it.

            capacity: Events that may wait in its queue.

            capacity_bytes: Bytes of payload that may wait in its queue; None for no bound.

            overflow:
                What happens when the queue is full: ``drop_oldest``, ``drop_newest``, ``block``
                or ``raise``. What is dropped is counted and reported.

            block_timeout: Seconds that ``block`` waits before it drops; None for ever.

            name: What it is called in health, metrics and reports.

        Raises:
            SubscriptionError: It is not callable, or an option does not fit.

            ClosedBusError: The bus was closed.
        """
        if not callable(handler):
            raise SubscriptionError(
                f"cannot subscribe {handler!r}: it is not callable; a sink goes to Bus.attach()"
            )
        coroutine = inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(
            getattr(handler, "__call__", None)
        )
        chosen: Delivery = delivery or ("loop" if coroutine else "inline")
        if coroutine != (chosen == "loop"):
            raise SubscriptionError(
                f"cannot subscribe {handler!r} with delivery={chosen!r}: coroutine functions, and "
                "only they, are delivered on a loop"
            )
        called: Handler = handler
        with self._lock:
            subscription = self._subscription(
                name or _name_of(handler, "__qualname__"),
                types,
                delivery=chosen,
                required=required,
                where=where,
            )
            if weak:
                called = weak_handler(subscription, handler)
            subscription.use_handler(called)
            if chosen == "loop":
                subscription.use_queue(self._dispatch.queue_lock, **queue)
                subscription.use_loop(called, loop, self._dispatch.report_drops)
            elif chosen != "inline":
                subscription.use_queue(self._dispatch.queue_lock, **queue)
                self._drain(subscription, batch_handler(subscription, called))
            return self._begin(subscription)

    def on(
        self, *types: type[E], **options: Unpack[SubscribeOptions]
    ) -> Callable[[Callable[[Envelope[E]], R]], Callable[[Envelope[E]], R]]:
        """
        Subscribe the decorated function to *types*; the options are those of `subscribe()`.
        """

        def decorate(handler: Callable[[Envelope[E]], R]) -> Callable[[Envelope[E]], R]:
            self.subscribe(cast("Callable[[Envelope[Event]], object]", handler), *types, **options)
            return handler

        return decorate

    def attach(
        self,
        sink: Sink,
        /,
        *types: type[Event],
        delivery: Delivery | None = None,
        required: bool | None = None,
        name: str | None = None,
        **queue: Unpack[QueueOptions],
    ) -> Subscription:
        """
        Write the envelopes of each event of *types* to *sink* in batches, from now on.

        Args:
            sink: Anything with ``write(batch)``.

            types: What to listen to, with all subclasses; none for every event. Transient types
                must be named.

            delivery:
                ``inline`` (batches of one, within `publish()`), ``worker`` or ``isolated``; by
                default the sink's own ``delivery``, else ``worker``.

            required:
                Whether its failure surfaces in `publish()`, after all others have heard; by
                default the sink's own ``required``, else not. Only with ``inline``.

            queue: The bounds of its queue, and what happens when it is full; see `subscribe()`.

            name: What it is called in health, metrics and reports.

        Raises:
            SubscriptionError: It has no ``write()``, or an option does not fit.

            ClosedBusError: The bus was closed.
        """
        subscription = self._attach(
            sink, types, delivery=delivery, required=required, name=name, **queue
        )
        return self._begin(subscription)

    def _attach(
        self,
        sink: Sink,
        types: tuple[type[Event], ...],
        *,
        delivery: Delivery | None = None,
        required: bool | None = None,
        name: str | None = None,
        **queue: Unpack[QueueOptions],
    ) -> Subscription:
        if isinstance(sink, type):
            raise SubscriptionError(
                f"cannot attach the class {sink.__name__}; attach one of it, {sink.__name__}()"
            )
        if not callable(getattr(sink, "write", None)):
            raise SubscriptionError(
                f"cannot attach {sink!r}: it has no write(batch); a function goes to "
                "Bus.subscribe()"
            )
        own: Delivery = getattr(sink, "delivery", "worker")
        chosen = delivery or own
        if chosen == "loop":
            raise SubscriptionError(
                f"cannot attach {sink!r} with delivery='loop'; use inline, worker or isolated"
            )
        with self._lock:
            subscription = self._subscription(
                name or _name_of(sink, "name"),
                types,
                delivery=chosen,
                required=getattr(sink, "required", False) if required is None else required,
                sink=sink,
            )
            write = batch_writer(subscription, sink.write)
            if chosen == "inline":
                subscription.inline = Inline(write, subscription.missed)
            else:
                subscription.use_queue(self._dispatch.queue_lock, **queue)
                self._drain(subscription, write)
            if isinstance(sink, SupportsAttached):
                sink.attached(self)
            self._subscriptions[subscription.name] = subscription
            return subscription

    def replace(
        self,
        old: Iterable[Subscription],
        new: Iterable[tuple[Sink, tuple[type[Event], ...]]],
        timeout: float = 5.0,
    ) -> list[Subscription]:
        """
        Attach the sinks of *new*, and close those of *old*, which were attached before.

        No event is lost between them: what an old sink has not got before its close goes to the
        new sink of the same class, if there is one, and else is counted as dropped.

        Args:
            new: Each sink with the types that it listens to.

            timeout: Seconds that the old sinks may take at most.

        Raises:
            SubscriptionError: A sink cannot be attached; everything is as it was.

            ClosedBusError: The bus was closed.
        """
        deadline = time_.monotonic() + timeout
        retired = [item for item in old if item.active]
        with self._lock:
            for item in retired:
                item.active = False
                self._subscriptions.pop(item.name, None)
            added: list[Subscription] = []
            try:
                for sink, types in new:
                    added.append(self._attach(sink, types))
            except BaseException:
                for item in added:
                    item.active = False
                    del self._subscriptions[item.name]
                    item.leave_worker()
                for item in retired:
                    item.active = True
                    self._subscriptions[item.name] = item
                raise
            self._route_to(added, retired)
        heirs = {type(item.sink): item for item in added}
        for item in retired:
            self._close_replaced(item, heirs.get(type(item.sink)), deadline)
        return added

    def _close_replaced(
        self, item: Subscription, heir: Subscription | None, deadline: float
    ) -> None:
        flush((item,), deadline)
        item.bequeath(heir)
        if item.queue is not None:
            item.queue.close()
            while item.queue.pending and time_.monotonic() < deadline:
                item.hurry()
                time_.sleep(0.001)
            item.queue.hand_over()
        if isinstance(item.sink, SupportsClose):
            self._close_sink(item, item.sink, max(deadline - time_.monotonic(), 0.0))
        item.leave_worker()

    def _subscription(
        self,
        name: str,
        types: tuple[type[Event], ...],
        *,
        delivery: Delivery,
        required: bool,
        where: Predicate | None = None,
        sink: Sink | None = None,
    ) -> Subscription:
        if self._state != "open":
            raise ClosedBusError(f"cannot subscribe {name}: the bus is closed; make a new one")
        numbered = (f"{name}-{number}" for number in itertools.count(2))
        unique = next(
            one for one in itertools.chain((name,), numbered) if one not in self._subscriptions
        )
        return Subscription(
            self,
            unique,
            types,
            delivery=delivery,
            required=required,
            where=where,
            sink=sink,
        )

    def _begin(self, subscription: Subscription) -> Subscription:
        with self._lock:
            self._subscriptions[subscription.name] = subscription
            self._route_to((subscription,))
        return subscription

    def _route_to(
        self, added: Sequence[Subscription], removed: Sequence[Subscription] = ()
    ) -> None:
        """
        Route events to those of *added*, and no longer to those of *removed*, from one moment on.
        """
        with self._lock:
            if added:
                _load()
                hold(self)
            self._dispatch.routes.change(added, removed)
            self._routes = {}

    def _drain(
        self,
        subscription: Subscription,
        write: Callable[[list[Envelope[Event]]], BaseException | None],
    ) -> None:
        def deliver(batch: list[Envelope[Event]]) -> None:
            try:
                write(batch)
            except BaseException as error:
                # sys.exit() and its like have nobody to stop on a thread that others share.
                subscription.note(error, batch)
            subscription.report()
            self._dispatch.report_drops(subscription)

        with self._lock:
            if subscription.delivery == "isolated":
                worker = Worker(f"harken-{subscription.name}")
                self._workers = [*(one for one in self._workers if not one.is_over), worker]
            else:
                if self._shared_worker is None:
                    self._shared_worker = Worker("harken-worker")
                    self._workers.append(self._shared_worker)
                worker = self._shared_worker
        subscription.use_worker(worker, deliver)

    def report_failure(self, sink: str, error_type: str, failures: int, disabled: bool) -> None:
        """
        Publish that a subscriber failed.
        """
        self._dispatch.report_failure(sink, error_type, failures, disabled)

    def cancel(self, subscription: Subscription) -> None:
        """
        Take *subscription* off the bus; see `Subscription.cancel()`.
        """
        with self._lock:
            if not subscription.active:
                return
            subscription.active = False
            self._route_to((), (subscription,))
        self._retire(subscription)

    def _retire(self, subscription: Subscription) -> None:
        queue = subscription.queue
        if queue is not None:
            queue.refuse()
            if len(queue):
                # What is queued already is still delivered.
                queue.mark(Marker(lambda: self._retire(subscription)))
                subscription.hurry()
                return
        with self._lock:
            self._subscriptions.pop(subscription.name, None)
        subscription.leave_worker()

    def flush(self, timeout: float = 5.0) -> FlushReport:
        """
        Wait until every event whose `publish()` had returned was handed over.

        Args:
            timeout: Seconds to wait at most, over all subscribers.

        Returns:
            By subscriber what was delivered, dropped and is pending; true only if nothing is
            pending. On an event loop's own thread its handlers cannot run meanwhile, so theirs
            is reported as pending at once; use `aflush()` there.
        """
        self._operations.release_early()
        return self._flush(time_.monotonic() + timeout)

    def _flush(self, deadline: float) -> FlushReport:
        subscriptions = self.subscriptions
        for subscription in subscriptions:
            self._dispatch.report_drops(subscription, at_once=True)
        return flush(subscriptions, deadline)

    async def aflush(self, timeout: float = 5.0) -> FlushReport:
        """
        Do what `flush()` does without blocking the event loop; under asyncio and trio.
        """
        return await _in_thread(lambda: self.flush(timeout))

    async def aclose(self, timeout: float = 5.0) -> FlushReport:
        """
        Do what `close()` does without blocking the event loop; under asyncio and trio.
        """
        return await _in_thread(lambda: self.close(timeout))

    def close(self, timeout: float = 5.0) -> FlushReport:
        """
        Refuse new events, end open operations, flush, and close the sinks.

        Idempotent; a second call waits for the first and returns its report. Called at
        interpreter exit and at the end of a `multiprocessing` child by itself.

        Args:
            timeout: Seconds it may take at most.
        """
        return self._close(timeout, "closed")

    def close_at_exit(self) -> None:
        """
        Close, and from then on let events pass unheard instead of refusing them.
        """
        self._close(EXIT_TIMEOUT, "exited")

    def _close(self, timeout: float, state: Literal["closed", "exited"]) -> FlushReport:
        deadline = time_.monotonic() + timeout
        with self._lock:
            first = self._state == "open"
            if first:
                self._state = "closing" if state == "closed" else state
                self._closer = threading.get_ident()
                self.refresh()
        if not first:
            self._closed.wait(timeout)
        else:
            try:
                self._operations.close()
                for _ in range(3):
                    told = self._dispatch.routes.published()
                    self._report = self._flush(deadline)
                    # What comes of that (drops, reports) is told to all before they are closed.
                    unreported = any(item.has_unreported_drops for item in self.subscriptions)
                    if not unreported and told == self._dispatch.routes.published():
                        break
                for subscription in self.subscriptions:
                    if subscription.queue is not None:
                        subscription.queue.close()
                self._stop_workers(deadline)
                self._close_sinks(deadline)
            finally:
                self._closer = None
                release(self)
                self._closed.set()
        with self._lock:
            if self._state != "exited":
                self._state = state
        return self._report

    def _stop_workers(self, deadline: float) -> None:
        for worker in self._workers:
            stopped = worker.stop(max(deadline - time_.monotonic(), 0.0))
            if stopped and not worker.is_current():
                # What a publisher queued while the bus was closing.
                worker.drain()

    def _close_sinks(self, deadline: float) -> None:
        for subscription in self.subscriptions:
            sink = subscription.sink
            if not isinstance(sink, SupportsClose):
                continue
            left = max(deadline - time_.monotonic(), 0.0)
            if not self._close_sink(subscription, sink, left):
                _log.error("%s is still busy and was left open", subscription.name)

    def _close_sink(self, subscription: Subscription, sink: SupportsClose, timeout: float) -> bool:
        if subscription.queue is not None and subscription.queue.is_busy:
            return False

        def close() -> None:
            try:
                sink.close(timeout)
            except BaseException as error:
                # Counted, not told: those who could hear of it are being closed, too. And what
                # is no Exception must not keep the other sinks from being closed.
                subscription.note(error)

        closed = True
        if subscription.inline is not None:
            closed = subscription.inline.close(close, timeout)
        else:
            close()
        subscription.log()
        return closed

    @property
    def subscriptions(self) -> tuple[Subscription, ...]:
        """
        Who listens, in order of subscription.
        """
        with self._lock:
            return tuple(self._subscriptions.values())

    def health(self) -> Health:
        """
        Return how the bus and each subscriber are doing, as of now.
        """
        with self._lock:
            self._clocks.look()
        return Health(
            {item.name: item.health() for item in self.subscriptions},
            published=self._dispatch.routes.published(),
            open_operations=len(self._operations),
            refused_terminals=self._operations.refused,
            late=self._late,
            clock_steps_back=self._clocks.steps_back,
        )

    def configure(
        self,
        *,
        capture_content: Iterable[ContentKind] | None = None,
        audit_types: Mapping[str, bool] | None = None,
        redaction: Redactor | bool | None = None,
    ) -> None:
        """
        Change what the bus was made with, from the next event on; None leaves a part as it is.
        """
        with self._lock:
            if capture_content is not None:
                self._capture = _content_kinds(capture_content)
            if redaction is not None:
                self._redaction = _checked(redaction)
            if audit_types is not None:
                self._dispatch.routes.audit_types = dict(audit_types)
            self._dispatch.mint = self._dispatch.mint.with_encoder(self._make_encoder)
            self.refresh()

    def redact(self, text: str) -> str:
        """
        Return *text* as it may leave the process.
        """
        redactor = self._dispatch.mint.encoder.redactor
        return text if redactor is None else redactor.text(text)

    def _make_encoder(self) -> Encoder:
        from harken.body import Encoder
        from harken.redaction import Redactor

        redactor: Redactor | None = None
        if self._redaction is True:
            redactor = Redactor()
        elif isinstance(self._redaction, Redactor):
            redactor = self._redaction
        return Encoder(redactor, self._capture)

    def after_fork(self) -> None:
        """
        Begin anew in a forked child: empty queues, own ids, none of the parent's operations.
        """
        self._lock = threading.RLock()
        self._closed = threading.Event()
        self._closer = None
        self._dispatch.renew()
        self._operations.renew()
        for worker in self._workers:
            worker.renew()
        for subscription in self._subscriptions.values():
            subscription.renew(self._dispatch.queue_lock)
        self._routes = {}
        if self._state == "closing":
            self._state = "open"
        elif self._state != "open":
            self._closed.set()


@functools.cache
def _load() -> None:
    """
    Import what publishing to somebody needs, on the thread that subscribes.

    An import that another thread is in the middle of at a fork would never end in the child.
    """
    for name in ("harken.body", "harken.redaction", "harken.catalog.observation"):
        import_module(name)
    import_module("harken.redaction").Redactor().suspicious(b"")


def _checked(redaction: Redactor | bool) -> Redactor | bool:
    if not isinstance(redaction, bool):
        from harken.redaction import Redactor

        if not isinstance(redaction, Redactor):
            raise RedactionError(
                f"redaction={redaction!r} is no Redactor; give one, or True or False"
            )
    return redaction


def _content_kinds(kinds: Iterable[ContentKind]) -> frozenset[ContentKind]:
    chosen = frozenset(kinds)
    unknown = chosen - CONTENT_KINDS
    if unknown:
        raise EventError(
            f"content kind {min(unknown)!r} is unknown; use any of "
            f"{', '.join(sorted(CONTENT_KINDS))}"
        )
    return chosen


def _time_ns(time: datetime) -> int:
    # timestamp() is a float and too coarse for nanoseconds; its whole seconds are exact.
    return int(time.replace(microsecond=0).timestamp()) * 1_000_000_000 + time.microsecond * 1000


def _taken(attributes: Mapping[str, JSON] | None) -> Mapping[str, JSON] | None:
    # What is done to the caller's mapping later must not change the event.
    return None if attributes is None else dict(attributes)


def _cause_ids(causes: Iterable[str | Envelope[Event]]) -> tuple[str, ...]:
    return tuple(item if isinstance(item, str) else item.id for item in causes)


def _name_of(listener: object, attribute: str) -> str:
    return str(getattr(listener, attribute, None) or type(listener).__name__)


async def _in_thread(call: Callable[[], FlushReport]) -> FlushReport:
    import asyncio

    if running_loop() is None:
        report = await sys.modules["trio"].to_thread.run_sync(call)
        return cast("FlushReport", report)
    return await asyncio.to_thread(call)
