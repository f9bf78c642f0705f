"""
One subscriber of a bus: what it listens to, how it is called, and how it is doing.
"""

from __future__ import annotations

import logging
import threading
import time
import traceback
import weakref
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MethodType
from typing import TYPE_CHECKING, Any, TypeAlias, get_args

import msgspec

from harken.delivery import (
    SAMPLED,
    Delivery,
    Drops,
    Inline,
    LoopRunner,
    Overflow,
    Queue,
    Sink,
    SupportsAfterFork,
    Worker,
)
from harken.ending import message_of
from harken.envelope import Envelope
from harken.errors import SubscriptionError
from harken.event import Event
from harken.scope import cause, enter, leave, leave_cause

if TYPE_CHECKING:
    import asyncio

    from harken.bus import Bus

Handler: TypeAlias = Callable[[Envelope[Any]], object]
"""What is called with each envelope that it listens to; what it returns is of no interest."""

Predicate: TypeAlias = Callable[[Envelope[Any]], bool]
"""Whether an envelope is wanted."""

CAPACITY = 65_536
"""Events that wait for one subscriber, by default."""

CAPACITY_BYTES = 64 * 1024 * 1024
"""Bytes of payload that wait for one subscriber, by default."""

FAILURES_TO_QUARANTINE = 5
"""Failures in a row after which a subscriber is left alone for a while."""

FIRST_RETRY = 1.0
"""Seconds of the first quarantine; each further one is twice as long, up to `LAST_RETRY`."""

LAST_RETRY = 60.0
"""Seconds of a quarantine at most."""

REPORT_SECONDS = 1.0
"""Seconds between two reports of what one subscriber missed, at least."""

_log = logging.getLogger("harken")


class SubscriberHealth(msgspec.Struct, frozen=True):
    """
    How one subscriber is doing.

    Attributes:
        last_error: Class and message of what it raised last, redacted.

        errors: How often it raised what, by class name.

        depth: Events that wait for it.

        drops: What it missed, by reason.

        last_success: When it last took something, in seconds since 1970-01-01 UTC.
    """

    name: str
    delivery: Delivery
    is_sink: bool
    delivered: int
    failures: int
    consecutive_failures: int
    last_error: str | None
    errors: Mapping[str, int]
    quarantined: bool
    depth: int
    capacity: int | None
    dropped: int
    drops: Mapping[str, int]
    last_success: float | None


class Health(Mapping[str, SubscriberHealth]):
    """
    How a bus is doing, by subscriber.

    Attributes:
        published: How many events were built, by dotted name.

        open_operations: Operations that were started and not ended.

        refused_terminals: Ends of operations that had ended already.

        late: Events that were published after the close at interpreter exit.

        clock_steps_back:
            How often the wall clock was found set back by more than a second, from one reading
            of the health to the next.
    """

    def __init__(
        self,
        subscribers: Mapping[str, SubscriberHealth],
        *,
        published: Mapping[str, int],
        open_operations: int,
        refused_terminals: int,
        late: int,
        clock_steps_back: int,
    ) -> None:
        self._subscribers = dict(subscribers)
        self.published = dict(published)
        self.open_operations = open_operations
        self.refused_terminals = refused_terminals
        self.late = late
        self.clock_steps_back = clock_steps_back

    def __getitem__(self, name: str) -> SubscriberHealth:
        return self._subscribers[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._subscribers)

    def __len__(self) -> int:
        return len(self._subscribers)

    def __repr__(self) -> str:
        return f"Health({self._subscribers})"


class Subscription:
    """
    A handler or a sink on a bus; made by `Bus.subscribe()` and `Bus.attach()`.

    Attributes:
        name: What it is called in health, metrics and reports; unique on its bus.

        types: What it listens to; empty for every event.

        sink: The sink; None for a handler.

        active: Whether it still listens.
    """

    def __init__(
        self,
        bus: Bus,
        name: str,
        types: tuple[type[Event], ...],
        *,
        delivery: Delivery,
        required: bool = False,
        where: Predicate | None = None,
        sink: Sink | None = None,
    ) -> None:
        _check(name, types, delivery=delivery, required=required, where=where)
        self.name = name
        self.types = types
        self.delivery: Delivery = delivery
        self.required = required
        self.sink = sink
        self.active = True
        self.queue: Queue | None = None
        self.worker: Worker | None = None
        self.inline: Inline | None = None
        self.drops = Drops()
        self.delivered = 0
        self.consecutive_failures = 0
        self.quarantined = False
        self._bus = bus
        self._where = where
        self._may_quarantine = not required and getattr(sink, "quarantine", True)
        self._runner: LoopRunner | None = None
        self._handler: Handler = _nothing
        self._watched: Handler = _nothing
        self._errors: Counter[str] = Counter()
        self._news: deque[tuple[str, int, bool]] = deque()
        self._unlogged: deque[BaseException] = deque()
        self._last_error: str | None = None
        self._last_success: float | None = None
        self._retry_after = FIRST_RETRY
        self._retry_at = 0.0
        self._report_after = 0.0
        self._writes = 0
        self._lock = threading.RLock()

    def __repr__(self) -> str:
        state = "active" if self.active else "cancelled"
        return f"<Subscription {self.name} {self.delivery} {state}>"

    def __call__(self, sender: object, **_: object) -> None:
        """
        Do nothing: blinker carries subscriptions, `Bus.publish()` calls them.
        """

    def cancel(self) -> None:
        """
        Hear nothing from now on. Idempotent, from any thread, also from inside the handler.

        What is queued already is still delivered. A sink is neither flushed nor closed: whoever
        takes it off its bus may attach it to another one.
        """
        self._bus.cancel(self)

    def use_handler(self, handler: Handler) -> None:
        """
        Call *handler*, within `Bus.publish()` as long as nothing else is said.
        """
        self._handler = handler
        self._watched = watched(self, handler)

    def missed(self, envelope: Envelope[Event]) -> None:
        """
        Count an event that came when the bus was closed already.
        """
        with self._lock:
            self.drops.add("shutdown", (envelope.seq,))

    def use_queue(
        self,
        lock: threading.RLock,
        *,
        capacity: int = CAPACITY,
        capacity_bytes: int | None = CAPACITY_BYTES,
        overflow: Overflow = "drop_oldest",
        block_timeout: float | None = None,
    ) -> None:
        """
        Put a queue in front; see `Bus.subscribe()`.

        Args:
            lock: That of all queues of the bus.
        """
        self.queue = Queue(
            self.name,
            capacity=capacity,
            capacity_bytes=capacity_bytes,
            overflow=overflow,
            block_timeout=block_timeout,
            lock=lock,
            wake=self._wake,
            draining=self.is_draining,
            dropped=getattr(self.sink, "dropped", None),
        )

    def use_worker(self, worker: Worker, deliver: Callable[[list[Envelope[Event]]], None]) -> None:
        """
        Have *worker* empty the queue.
        """
        assert self.queue is not None
        self.worker = worker
        worker.add(self.queue, deliver)

    def use_loop(
        self,
        handler: Callable[[Envelope[Any]], Any],
        loop: asyncio.AbstractEventLoop | None,
        afterwards: Callable[[Subscription], None],
    ) -> None:
        """
        Have the coroutine function *handler* awaited on *loop* for what is in the queue.
        """
        assert self.queue is not None
        import asyncio

        async def handle(envelope: Envelope[Event]) -> None:
            with within(envelope):
                try:
                    if self.wants(envelope) and self.admitted((envelope,)):
                        await handler(envelope)
                        self.succeeded(1)
                except Exception as error:
                    self.failed(error)
                except asyncio.CancelledError as error:
                    task = asyncio.current_task()
                    if task is not None and task.cancelling():
                        raise
                    # Somebody else's cancellation, met while awaiting it.
                    self.note(error)
                    self.report()
            afterwards(self)

        self._runner = LoopRunner(self.queue, handle, loop)
        self.queue.unattended = self._runner.is_unattended

    def bequeath(self, heir: Subscription | None) -> None:
        """
        Have *heir* get what comes after the close.
        """
        if heir is None:
            return
        if self.inline is not None:
            self.inline.successor = heir.take_over
        if self.queue is not None:
            self.queue.successor = heir.take_over

    def take_over(self, envelope: Envelope[Event]) -> Exception | None:
        """
        Take an event that was on its way to the sink that this one replaces.
        """
        if self.inline is not None:
            return self.inline(envelope)
        if self.queue is not None:
            envelope.snapshot()
            self.queue.put(envelope)
        return None

    def leave_worker(self) -> None:
        """
        Have nobody empty the queue any more.
        """
        if self.worker is not None and self.queue is not None:
            self.worker.remove(self.queue)
            if self.delivery == "isolated":
                # It has no other queue.
                self.worker.stop(0.0)

    @property
    def is_checked(self) -> bool:
        """
        Whether there is a predicate or a failure to look at around the handler.
        """
        return self._where is not None or self.consecutive_failures > 0

    @property
    def call(self) -> Handler:
        """
        What `Bus.publish()` calls: the bare handler while there is nothing to check around it.
        """
        return self._watched if self.is_checked else self._handler

    def _wake(self) -> None:
        drainer = self.worker or self._runner
        assert drainer is not None
        drainer.wake()

    def hurry(self) -> None:
        """
        Say that someone waits for the queue to be empty.
        """
        if self.worker is not None:
            self.worker.hurry()

    def is_draining(self) -> bool:
        """
        Whether the calling thread is the one that empties the queue.
        """
        drainer = self.worker or self._runner
        return drainer is not None and drainer.is_current()

    def is_reachable(self) -> bool:
        """
        Whether somebody empties the queue.
        """
        return self._runner is None or self._runner.reachable()

    def health(self) -> SubscriberHealth:
        """
        Return how this subscriber is doing.
        """
        with self._lock:
            drops = self.drops.by_reason + (
                self.queue.drops.by_reason if self.queue is not None else Counter()
            )
            return SubscriberHealth(
                name=self.name,
                delivery=self.delivery,
                is_sink=self.sink is not None,
                delivered=self.delivered,
                failures=self._errors.total(),
                consecutive_failures=self.consecutive_failures,
                last_error=self._last_error,
                errors=dict(self._errors),
                quarantined=self.quarantined,
                depth=0 if self.queue is None else self.queue.depth,
                capacity=None if self.queue is None else self.queue.capacity,
                dropped=drops.total(),
                drops=dict(drops),
                last_success=self._last_success,
            )

    def wants(self, envelope: Envelope[Event]) -> bool:
        """
        Whether the predicate, if any, lets *envelope* through.
        """
        return self._where is None or bool(self._where(envelope))

    def admitted(self, batch: Sequence[Envelope[Event]]) -> bool:
        """
        Whether *batch* may be tried now; in quarantine it is counted as dropped instead.
        """
        if not self.quarantined:
            return True
        with self._lock:
            if time.monotonic() >= self._retry_at:
                # Half open: this one batch shows whether the subscriber has recovered.
                self._retry_at = time.monotonic() + self._retry_after
                return True
            self.drops.add("quarantined", [envelope.seq for envelope in batch])
            return False

    def succeeded(self, count: int) -> None:
        """
        Note that *count* events were taken.
        """
        self.delivered += count
        self._last_success = time.time()
        if self.consecutive_failures:
            with self._lock:
                self.consecutive_failures = 0
                self.quarantined = False
                self._retry_after = FIRST_RETRY
            self._bus.refresh()

    def stopwatch(self) -> int:
        """
        Return the monotonic clock's nanoseconds if the next write is to be measured, else 0.
        """
        if not self._bus.is_observed:
            return 0
        self._writes += 1
        # One in so many within publish(); of batches, each.
        if self.inline is not None and self._writes % SAMPLED != 1:
            return 0
        return time.monotonic_ns()

    def measure(self, oldest: Envelope[Event], begun: int) -> None:
        """
        Tell how long a write took that began at *begun*, and how old its oldest event was.
        """
        self._bus.measured("write", self.name, (time.monotonic_ns() - begun) / 1e9)
        # An event without a time on this clock was given another one by its publisher, or may
        # have been. A bus may have a clock of its own.
        if 0 < oldest.mono_ns <= begun:
            self._bus.measured("lag", self.name, (begun - oldest.mono_ns) / 1e9)

    def failed(self, error: Exception) -> None:
        """
        Note what the subscriber raised, and report it.
        """
        self.note(error)
        self.report()

    def report(self) -> None:
        """
        Log and publish which failures are news, if any.

        Never called while a sink's lock is held: two sinks that fail at the same time would
        each wait for the other to hear of it.
        """
        self.log()
        while self._news:
            self._bus.report_failure(self.name, *self._news.popleft())

    def note(self, error: BaseException, lost: Sequence[Envelope[Event]] = ()) -> None:
        """
        Count what the subscriber raised; `report()` tells of it.

        Args:
            lost: What a sink was given, and has not written. A handler has heard what it fails on.
        """
        kind = type(error).__name__
        message = self._bus.redact(message_of(error))
        with self._lock:
            if lost:
                self.drops.add("failed", [envelope.seq for envelope in lost])
            first = kind not in self._errors
            self._errors[kind] += 1
            self._last_error = f"{kind}: {message}"
            self.consecutive_failures += 1
            is_news = self.consecutive_failures == 1
            quarantines = (
                self._may_quarantine
                and self.consecutive_failures % FAILURES_TO_QUARANTINE == 0
                and not self.quarantined
            )
            if quarantines:
                self.quarantined = True
            if self.quarantined:
                self._retry_at = time.monotonic() + self._retry_after
                self._retry_after = min(2 * self._retry_after, LAST_RETRY)
        if is_news:
            self._bus.refresh()
        if first:
            self._unlogged.append(error)
        if first or quarantines:
            self._news.append((kind, self._errors.total(), self.quarantined))

    def log(self) -> None:
        """
        Log what was raised for the first time, if anything.

        Never called while a sink's lock is held, as `report()`: whoever handles the log may
        publish.
        """
        while self._unlogged:
            error = self._unlogged.popleft()
            # As text: whoever formats the exception itself would print what it holds.
            _log.error(
                "%s failed with %s; the other subscribers are not affected, and further failures "
                "of this kind are only counted\n%s",
                self.name,
                type(error).__name__,
                self._bus.redact("".join(traceback.format_exception(error)).rstrip()),
            )

    @property
    def has_unreported_drops(self) -> bool:
        """
        Whether something was missed that was not reported yet.
        """
        return self.drops.unreported or (self.queue is not None and self.queue.drops.unreported)

    def take_unreported_drops(self, *, at_once: bool) -> dict[str, tuple[int, int, int]]:
        """
        Return, by reason, the count and the first and last number of what was not reported yet.

        Args:
            at_once:
                Whether to tell now. Else nothing is told while in quarantine, or within
                `REPORT_SECONDS` of the last time: a report that is dropped itself must not
                call for the next one.
        """
        now = time.monotonic()
        if not at_once and (self.quarantined or now < self._report_after):
            return {}
        self._report_after = now + REPORT_SECONDS
        taken: dict[str, tuple[int, int, int]] = {}
        with self._lock:
            taken |= self.drops.take_unreported()
        if self.queue is not None:
            with self.queue.lock:
                taken |= self.queue.drops.take_unreported()
        return taken

    def renew(self, queue_lock: threading.RLock) -> None:
        """
        Begin anew in a forked child: own locks, an empty queue, nothing in flight.
        """
        self._lock = threading.RLock()
        if self.queue is not None:
            self.queue.renew(queue_lock)
        for part in (self.inline, self._runner):
            if part is not None:
                part.renew()
        self.drops = Drops()
        if isinstance(self.sink, SupportsAfterFork):
            try:
                self.sink.after_fork()
            except Exception as error:
                # The fork itself has succeeded; the sink's next write shows what is left of it.
                self.note(error)
                self.log()


def _nothing(envelope: Envelope[Event]) -> None:
    """
    Stand in where a sink has no handler.
    """


def _check(
    name: str,
    types: tuple[type[Event], ...],
    *,
    delivery: Delivery,
    required: bool,
    where: Predicate | None,
) -> None:
    if delivery not in get_args(Delivery):
        known = ", ".join(get_args(Delivery))
        raise SubscriptionError(f"{name}: delivery={delivery!r} is unknown; use one of {known}")
    if required and delivery != "inline":
        raise SubscriptionError(
            f"{name}: required=True needs delivery='inline'; behind a queue publish() has "
            "returned before a failure can be known"
        )
    for cls in types:
        if not issubclass(cls, Event):
            raise SubscriptionError(f"{name}: {cls!r} is no event type")
    if where is not None and not callable(where):
        raise SubscriptionError(f"{name}: where={where!r} is not callable")


def watched(subscription: Subscription, handler: Handler) -> Callable[[Envelope[Event]], None]:
    """
    Return *handler* with predicate and quarantine around it, for when they are needed.
    """

    def call(envelope: Envelope[Event]) -> None:
        if not subscription.wants(envelope) or not subscription.admitted((envelope,)):
            return
        handler(envelope)
        subscription.succeeded(1)

    return call


def caller(
    handlers: Sequence[tuple[Handler, Subscription, int]],
) -> Callable[[Envelope[Event]], list[Exception] | None]:
    """
    Return what calls inline *handlers*, one after the other, and returns what required ones raised.

    Args:
        handlers: What to call, for whom, and what that counts there when it succeeds.
    """
    # As what a function has at hand: this is the inner loop of `Bus.publish()`.
    set_cause, reset_cause = cause.set, cause.reset

    def call_all(envelope: Envelope[Event]) -> list[Exception] | None:
        errors: list[Exception] | None = None
        token = set_cause(envelope)
        try:
            for call, subscription, counted in handlers:
                try:
                    call(envelope)
                    subscription.delivered += counted
                except Exception as error:
                    subscription.failed(error)
                    if subscription.required:
                        errors = [*(errors or ()), error]
        finally:
            reset_cause(token)
        return errors

    return call_all


def batch_writer(
    subscription: Subscription, write: Callable[[Sequence[Envelope[Event]]], None]
) -> Callable[[list[Envelope[Event]]], Exception | None]:
    """
    Return the one place where a sink is called; what it raises is counted and returned, for
    the caller to report.
    """

    def deliver(batch: list[Envelope[Event]]) -> Exception | None:
        if subscription.quarantined and not subscription.admitted(batch):
            return None
        begun = subscription.stopwatch()
        try:
            write(batch)
        except Exception as error:
            subscription.note(error, batch)
            return error
        subscription.succeeded(len(batch))
        if begun:
            subscription.measure(batch[0], begun)
        return None

    return deliver


def batch_handler(
    subscription: Subscription, handler: Handler
) -> Callable[[list[Envelope[Event]]], BaseException | None]:
    """
    Return what hands a batch to a handler, one envelope after the other, each in its own scope.
    """
    call = watched(subscription, handler)

    def deliver(batch: list[Envelope[Event]]) -> BaseException | None:
        last: BaseException | None = None
        for envelope in batch:
            with within(envelope):
                try:
                    call(envelope)
                except BaseException as error:
                    # sys.exit() and its like have nobody to stop on a thread that others share.
                    subscription.note(error)
                    last = error
        return last

    return deliver


class within:
    """
    Code in this block runs in the scope of an envelope, and what it publishes is caused by it.
    """

    def __init__(self, envelope: Envelope[Event]) -> None:
        self._envelope = envelope

    def __enter__(self) -> None:
        self._entered = enter(self._envelope.scope)
        self._cause_token = cause.set(self._envelope)

    def __exit__(self, *_: object) -> None:
        leave_cause(self._cause_token)
        leave(self._entered)


def weak_handler(subscription: Subscription, handler: Handler) -> Handler:
    """
    Return a stand-in for *handler* that does not keep it alive, and cancels once it is gone.
    """
    reference: weakref.ref[Any]
    if isinstance(handler, MethodType):
        reference = weakref.WeakMethod(handler)
    else:
        reference = weakref.ref(handler)

    def call(envelope: Envelope[Any]) -> object:
        alive = reference()
        if alive is None:
            subscription.cancel()
            return None
        return alive(envelope)

    return call
