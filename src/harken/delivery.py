"""
How envelopes reach subscribers: bounded queues, the threads that drain them, flush and fork.
"""

from __future__ import annotations

import contextvars
import math
import sys
import threading
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import get_ident
from typing import (
    TYPE_CHECKING,
    Any,
    Literal,
    Protocol,
    TypeAlias,
    get_args,
    runtime_checkable,
)

import msgspec

from harken.envelope import Envelope
from harken.errors import QueueFullError, SubscriptionError
from harken.event import Event

if TYPE_CHECKING:
    import asyncio

Delivery: TypeAlias = Literal["inline", "worker", "isolated", "loop"]
"""
How a subscriber is called: within ``publish()``, on a thread that it shares, on one of its own,
or on an event loop.
"""

Overflow: TypeAlias = Literal["drop_oldest", "drop_newest", "block", "raise"]
"""What happens to an event for which a queue has no room."""

Measure: TypeAlias = Literal["publish", "write", "lag", "sync"]
"""
What is told to an observer, in seconds; see `Bus.observe()`.
"""

SAMPLED = 64
"""Of so many calls within `Bus.publish()` one is measured."""

BATCH = 256
"""Envelopes in one call of `Sink.write()` at most: about 1 ms of work under the interpreter
lock."""

LINGER = 0.005
"""Seconds that a worker waits for company after the first envelope; waking costs more than work."""

ENVELOPE_BYTES = 256
"""What an envelope itself counts against a queue's bound in bytes, besides its payload."""

_writing: set[int] = set()
"""The threads that are inside an inline sink now, by `threading.get_ident()`."""


class Sink(Protocol):
    """
    Whatever takes batches of envelopes.

    The bus calls `write()` from one thread at a time. A sink lets its exceptions go: the bus
    counts, reports and contains them. What else a sink may have is looked up by name; see
    `SupportsFlush`, `SupportsClose`, `SupportsAttached`, `SupportsAfterFork`, `SupportsDropped`,
    and the attributes ``delivery``, ``required``, ``quarantine`` and ``name``.
    """

    def write(self, batch: Sequence[Envelope[Event]], /) -> None:
        """
        Take *batch*, oldest first.
        """
        ...


@runtime_checkable
class SupportsFlush(Protocol):
    """
    A sink with buffers of its own.
    """

    def flush(self, timeout: float) -> bool | None:
        """
        Hand on what is buffered within *timeout* seconds; False when something is left.
        """
        ...


@runtime_checkable
class SupportsClose(Protocol):
    """
    A sink that holds something open.
    """

    def close(self, timeout: float) -> None:
        """
        Let go of it within *timeout* seconds. Called once, after the last `Sink.write()`.
        """
        ...


@runtime_checkable
class SupportsAttached(Protocol):
    """
    A sink that wants to know its bus.
    """

    def attached(self, bus: Any, /) -> None:
        """
        Take note of the bus; called once for each `Bus.attach()`, before any `Sink.write()`.
        """
        ...


@runtime_checkable
class SupportsAfterFork(Protocol):
    """
    A sink that must not share what it holds with its parent process.
    """

    def after_fork(self) -> None:
        """
        Renew locks, files and threads; called in the child, before anything is written there.
        """
        ...


@runtime_checkable
class SupportsDropped(Protocol):
    """
    A sink that accounts for what its queue had to drop.
    """

    def dropped(self, batch: Sequence[Envelope[Event]], /) -> None:
        """
        Take note of *batch*, which will never come to `Sink.write()`.

        Called on any thread, a publishing one too, under the lock of the queue: it must be quick,
        wait for nothing and publish nothing.
        """
        ...


class Observer(Protocol):
    """
    Whoever wants to know how long things take; see `Bus.observe()`.
    """

    def measured(self, what: Measure, sink: str, seconds: float, /) -> None:
        """
        Take note of one measurement, on whatever thread made it.

        Args:
            what:
                ``publish`` (one call of `Bus.publish()`), ``write`` (one call of `Sink.write()`),
                ``lag`` (the age of the oldest event of a batch as it is written) or ``sync`` (one
                confirmation by the disk).

            sink: The subscription's name; empty for ``publish``.
        """
        ...


class Delivered(msgspec.Struct, frozen=True):
    """
    What became of the events for one subscriber, in numbers of events.
    """

    delivered: int
    dropped: int
    pending: int


class FlushReport(Mapping[str, Delivered]):
    """
    What `Bus.flush()` reached, by subscriber; true only if nothing is pending.
    """

    def __init__(self, subscribers: Mapping[str, Delivered]) -> None:
        self._subscribers = dict(subscribers)

    def __getitem__(self, name: str) -> Delivered:
        return self._subscribers[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._subscribers)

    def __len__(self) -> int:
        return len(self._subscribers)

    def __bool__(self) -> bool:
        return not any(counts.pending for counts in self._subscribers.values())

    def __repr__(self) -> str:
        return f"FlushReport({self._subscribers})"


class Drops:
    """
    Counts what one subscriber missed, exactly. The caller holds the subscriber's lock.
    """

    def __init__(self) -> None:
        self.by_reason: Counter[str] = Counter()
        self._unreported: dict[str, tuple[int, int, int]] = {}

    @property
    def total(self) -> int:
        """
        Everything missed so far.
        """
        return self.by_reason.total()

    def add(self, reason: str, seqs: Sequence[int]) -> None:
        """
        Note that the events with these numbers were missed.
        """
        self.by_reason[reason] += len(seqs)
        count, first, last = self._unreported.get(reason, (0, seqs[0], seqs[0]))
        self._unreported[reason] = (count + len(seqs), min(first, *seqs), max(last, *seqs))

    @property
    def unreported(self) -> bool:
        """
        Whether something was missed that `take_unreported()` has not told yet.
        """
        return bool(self._unreported)

    def take_unreported(self) -> dict[str, tuple[int, int, int]]:
        """
        Return, by reason, the count and the first and last number of what was not reported yet.
        """
        taken, self._unreported = self._unreported, {}
        return taken


class Marker:
    """
    A place in a queue: everything before it was handed over once `passed` is set.
    """

    def __init__(self, at_queue: Callable[[], None] | None = None) -> None:
        self.passed = threading.Event()
        self._at_queue = at_queue

    def reached(self) -> None:
        """
        Do what was to be done here, on the draining thread.
        """
        try:
            if self._at_queue is not None:
                self._at_queue()
        finally:
            self.passed.set()


def _size_of(envelope: Envelope[Event]) -> int:
    return ENVELOPE_BYTES + envelope.waiting_bytes


class Queue:
    """
    A bounded queue in front of one subscriber; many threads put, one takes.

    Args:
        capacity: Events that may wait.

        capacity_bytes: Bytes of payload that may wait; None for no bound.

        lock: That of all queues of a bus, so that an event takes it once for all of them.

        wake: Called on the way from empty to not empty; must be safe in a signal handler.

        draining: Tells whether the calling thread is the one that empties this queue.

        dropped: Called with what is dropped, under the lock of the queue.
    """

    def __init__(
        self,
        name: str,
        *,
        capacity: int,
        capacity_bytes: int | None,
        overflow: Overflow,
        block_timeout: float | None,
        lock: threading.RLock,
        wake: Callable[[], None],
        draining: Callable[[], bool],
        dropped: Callable[[Sequence[Envelope[Event]]], None] | None = None,
    ) -> None:
        if overflow not in get_args(Overflow):
            known = ", ".join(get_args(Overflow))
            raise SubscriptionError(f"{name}: overflow={overflow!r} is unknown; use one of {known}")
        if capacity < 1 or (capacity_bytes is not None and capacity_bytes < 1):
            raise SubscriptionError(f"{name}: a queue needs room for at least one event")
        self.name = name
        self.capacity = capacity
        self.capacity_bytes = capacity_bytes
        self._bound = math.inf if capacity_bytes is None else capacity_bytes
        self.overflow: Overflow = overflow
        self.block_timeout = block_timeout
        self._wake = wake
        self._draining = draining
        # Tells that nobody empties it yet, so that every event has to wake.
        self.unattended: Callable[[], bool] | None = None
        self._dropped = dropped
        self.renew(lock)

    def renew(self, lock: threading.RLock) -> None:
        """
        Begin anew and empty, as in a forked child.
        """
        self.lock = lock
        self._room = threading.Condition(lock)
        self.drops = Drops()
        self._waiting = 0
        self._refusing = False
        self._closed = False
        # Who gets what comes after the close; without anybody it is counted as dropped.
        self.successor: Callable[[Envelope[Event]], object] | None = None
        self._items: deque[Envelope[Event] | Marker] = deque()
        self._depth = 0
        self._in_flight = 0
        self._bytes = 0

    @property
    def depth(self) -> int:
        """
        How many events wait.
        """
        return self._depth

    def put(self, envelope: Envelope[Event]) -> None:
        """
        Queue *envelope*, or do what the overflow policy says.

        Raises:
            QueueFullError: The policy is ``raise`` and there is no room.
        """
        size = _size_of(envelope)
        # Held until the lock is released: letting go of an event may run a destructor that
        # publishes.
        dropped: list[Envelope[Event]] = []
        successor = None
        empty = False
        with self.lock:
            if not self._closed:
                if not self._make_room(envelope, size, dropped):
                    return
                empty = not self._items
                # No call among these: where a signal is handled, all of it has happened or nothing.
                self._depth += 1
                self._bytes += size
                self._items.append(envelope)
            elif self.successor is None:
                self._drop("shutdown", (envelope,))
                return
            else:
                successor = self.successor
        if successor is not None:
            # Outside of the lock, which others need while a sink writes.
            successor(envelope)
        elif empty or (self.unattended is not None and self.unattended()):
            self._wake()

    @staticmethod
    def put_in_all(
        envelope: Envelope[Event], queues: Iterable[Queue], lock: threading.RLock
    ) -> list[Exception] | None:
        """
        Queue *envelope* in all of *queues*, as `put()` does in one; return what that raised.

        Those with room get it at once, so that they need not wait for one that is full.

        Args:
            lock: That of the queues.
        """
        envelope.snapshot()
        size = _size_of(envelope)
        idle: tuple[Queue, ...] = ()
        full: tuple[Queue, ...] = ()
        with lock:
            for queue in queues:
                depth, held = queue._depth, queue._bytes + size
                if depth >= queue.capacity or held > queue._bound or queue._closed:
                    full = (*full, queue)
                    continue
                if not queue._items or (queue.unattended is not None and queue.unattended()):
                    idle = (*idle, queue)
                # No call among these, as in put().
                queue._depth += 1
                queue._bytes += size
                queue._items.append(envelope)
        for queue in idle:
            queue._wake()
        errors: list[Exception] | None = None
        for queue in full:
            try:
                queue.put(envelope)
            except QueueFullError as error:
                errors = [*(errors or ()), error]
        return errors

    def mark(self, marker: Marker) -> None:
        """
        Queue a marker; it never counts against the bounds.
        """
        with self.lock:
            self._items.append(marker)
        self._wake()

    def take(self) -> tuple[list[Envelope[Event]], Marker | None]:
        """
        Return up to `BATCH` events, and the marker behind them if it is reached.
        """
        batch: list[Envelope[Event]] = []
        marker: Marker | None = None
        with self.lock:
            items = self._items
            for _ in range(min(len(items), BATCH)):
                item = items.popleft()
                if isinstance(item, Marker):
                    marker = item
                    break
                batch.append(item)
            taken = len(batch)
            # Most batches are all that waits.
            size = self._bytes if taken == self._depth else sum(map(_size_of, batch))
            self._in_flight = taken
            self._depth -= taken
            self._bytes -= size
            if self._waiting:
                self._room.notify_all()
        return batch, marker

    def __len__(self) -> int:
        return len(self._items)

    def finished(self, unheard: Sequence[Envelope[Event]]) -> None:
        """
        Say that the batch taken last was handed over, all but *unheard*.
        """
        with self.lock:
            self._in_flight = 0
            if unheard:
                self.drops.add("cancelled", [envelope.seq for envelope in unheard])

    @property
    def is_closed(self) -> bool:
        """
        Whether nothing is queued any more.
        """
        return self._closed

    @property
    def is_busy(self) -> bool:
        """
        Whether a batch is being handed over.
        """
        return self._in_flight > 0

    @property
    def pending(self) -> int:
        """
        How many events wait or are being handed over.
        """
        return self._depth + self._in_flight

    def _full(self, size: int) -> bool:
        if self._depth >= self.capacity:
            return True
        # An event that is larger than the whole bound still gets in when it is alone.
        bound = self.capacity_bytes
        return bound is not None and self._depth > 0 and self._bytes + size > bound

    def _make_room(
        self, envelope: Envelope[Event], size: int, dropped: list[Envelope[Event]]
    ) -> bool:
        if not self._full(size):
            return True
        if self.overflow == "drop_oldest":
            self._drop_oldest(size, dropped)
            return True
        if self.overflow == "raise":
            self._drop("queue_full", (envelope,))
            raise QueueFullError(
                f"{self.name}: the queue is full with {self._depth} events; the event was not "
                "queued there. Raise capacity=, or choose another overflow policy"
            )
        if (
            self.overflow == "block"
            and not self._refusing
            and not self._draining()
            # Whoever makes room may be waiting for the sink that this thread is inside of.
            and get_ident() not in _writing
            and self._wait_for_room(size)
        ):
            return True
        self._drop("queue_full", (envelope,))
        return False

    def _drop(self, reason: str, envelopes: Sequence[Envelope[Event]]) -> None:
        self.drops.add(reason, [envelope.seq for envelope in envelopes])
        if self._dropped is not None:
            self._dropped(envelopes)

    def _wait_for_room(self, size: int) -> bool:
        self._waiting += 1
        try:
            self._wake()
            self._room.wait_for(lambda: self._refusing or not self._full(size), self.block_timeout)
            return not self._full(size)
        finally:
            self._waiting -= 1

    def close(self) -> None:
        """
        Count whatever comes from now on as dropped; what is queued can still be taken.
        """
        self.refuse()
        with self.lock:
            self._closed = True

    def hand_over(self) -> None:
        """
        Give what still waits to the successor, or count it as dropped. The queue is closed.
        """
        with self.lock:
            left = list(self._items)
            self._items.clear()
            self._depth = self._bytes = 0
        for item in left:
            if isinstance(item, Marker):
                item.reached()
            else:
                # What the successor has no room for is counted there.
                with suppress(QueueFullError):
                    self.put(item)

    def refuse(self) -> None:
        """
        Let nobody wait for room any more: this queue is on its way out.
        """
        with self.lock:
            self._refusing = True
            self._room.notify_all()

    def _drop_oldest(self, size: int, dropped: list[Envelope[Event]]) -> None:
        markers: list[Marker] = []
        while self._full(size):
            item = self._items.popleft()
            if isinstance(item, Marker):
                markers.append(item)
                continue
            dropped.append(item)
            its_size = _size_of(item)
            # No call among these, as in put().
            self._depth -= 1
            self._bytes -= its_size
        # What stood before these markers is gone, so they stay at the front.
        self._items.extendleft(reversed(markers))
        self._drop("queue_full", dropped)


class Worker:
    """
    One background thread that empties queues in batches; started by the first envelope.

    Args:
        name: The thread's name.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._drains: tuple[tuple[Queue, Callable[[list[Envelope[Event]]], None]], ...] = ()
        self.renew()

    def renew(self) -> None:
        """
        Forget the thread, which a fork does not copy.
        """
        self._thread: threading.Thread | None = None
        self._starting = threading.RLock()
        # SimpleQueue.put() is the one hand-over that is documented to be safe in signal handlers
        # and destructors; threading.Event is not.
        self._bell: SimpleQueue[bool] = SimpleQueue()
        # Whether the thread knows already that there is something: one ring is enough.
        self._rung = False
        self._hurry = False
        self._stop = False

    def add(self, queue: Queue, deliver: Callable[[list[Envelope[Event]]], None]) -> None:
        """
        Empty *queue* from now on, in the order of these calls.
        """
        with self._starting:
            self._drains = (*self._drains, (queue, deliver))

    def remove(self, queue: Queue) -> None:
        """
        Stop emptying *queue*.
        """
        with self._starting:
            self._drains = tuple(pair for pair in self._drains if pair[0] is not queue)

    def wake(self) -> None:
        """
        Say that a queue is no longer empty.
        """
        if not self._rung:
            self._rung = True
            self._bell.put(False)
        if self._thread is None:
            self._start()

    def hurry(self) -> None:
        """
        Skip the linger: someone waits for a marker.
        """
        self._hurry = True
        self._bell.put(True)
        if self._thread is None:
            self._start()

    def is_current(self) -> bool:
        """
        Whether the calling thread is this worker's.
        """
        return self._thread is threading.current_thread()

    @property
    def is_over(self) -> bool:
        """
        Whether it was stopped, and its thread has ended.
        """
        return self._stop and (self._thread is None or not self._thread.is_alive())

    def stop(self, timeout: float) -> bool:
        """
        End the thread once its queues are empty; False when it is still busy after *timeout*.
        """
        self._stop = True
        # One that is just being started cannot be waited for.
        with self._starting:
            thread = self._thread
        self._bell.put(True)
        if thread is None or thread is threading.current_thread():
            return True
        thread.join(timeout)
        return not thread.is_alive()

    def _start(self) -> None:
        with self._starting:
            if self._thread is not None or self._stop:
                return
            thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread = thread
            try:
                thread.start()
            except RuntimeError:
                # The interpreter is shutting down and starts no threads any more.
                self._thread = threading.current_thread()
                self.drain()
                self._thread = None

    def _run(self) -> None:
        while True:
            urgent = self._bell.get()
            if not urgent and not self._hurry and not self._stop:
                # Only somebody in a hurry rings now.
                with suppress(Empty):
                    self._bell.get(timeout=LINGER)
            self._hurry = False
            # Before the queues are looked at: whatever comes later rings again.
            self._rung = False
            self.drain()
            if self._stop and not any(len(queue) for queue, _ in self._drains):
                return

    def drain(self) -> None:
        """
        Empty every queue, a batch of each in turn, on the calling thread.
        """
        busy = True
        while busy:
            busy = False
            for queue, deliver in self._drains:
                batch, marker = queue.take()
                if batch:
                    try:
                        deliver(batch)
                    finally:
                        queue.finished(())
                if marker is not None:
                    marker.reached()
                busy = busy or bool(len(queue))


class LoopRunner:
    """
    Runs the coroutines of one subscriber on an event loop, one after the other.

    Args:
        loop: Where to run; None for the one that runs now, else the first that publishes.
    """

    def __init__(
        self,
        queue: Queue,
        handle: Callable[[Envelope[Event]], Awaitable[None]],
        loop: asyncio.AbstractEventLoop | None,
    ) -> None:
        self.queue = queue
        self.loop = loop or running_loop()
        self._handle = handle
        self._task: asyncio.Task[None] | None = None

    def renew(self) -> None:
        """
        Forget the loop, which does not run in a forked child.
        """
        self.loop = None
        self._task = None

    def wake(self) -> None:
        """
        Schedule a drain; without a loop the events wait for one.
        """
        if self.loop is None or self.loop.is_closed():
            self.loop = running_loop()
        if self.loop is not None:
            self.loop.call_soon_threadsafe(self._begin)

    def is_current(self) -> bool:
        """
        Whether the calling code runs on this loop.
        """
        return self.loop is not None and running_loop() is self.loop

    def is_unattended(self) -> bool:
        """
        Whether there is no loop, or no longer one, to run on.
        """
        return self.loop is None or self.loop.is_closed()

    def reachable(self) -> bool:
        """
        Whether waiting for the loop can be of any use.
        """
        return self.loop is not None and self.loop.is_running()

    def _begin(self) -> None:
        if self._task is None or self._task.done():
            context = contextvars.Context()
            assert self.loop is not None
            self._task = self.loop.create_task(self._drain(), context=context)

    async def _drain(self) -> None:
        while len(self.queue):
            batch, marker = self.queue.take()
            try:
                while batch:
                    await self._handle(batch[0])
                    del batch[0]
            finally:
                # A loop that is being closed cancels this task in the middle of a batch.
                self.queue.finished(batch)
            if marker is not None:
                marker.reached()


def running_loop() -> asyncio.AbstractEventLoop | None:
    """
    Return the event loop that runs the calling code; None when there is none.
    """
    # Where asyncio was never imported no loop runs, and importing it costs a third of our start.
    module = sys.modules.get("asyncio")
    if module is None:
        return None
    try:
        loop: asyncio.AbstractEventLoop = module.get_running_loop()
    except RuntimeError:
        return None
    return loop


class Inline:
    """
    Calls a sink within `Bus.publish()`, one thread at a time.

    A publish from inside a sink must neither deadlock nor be lost, whether it interrupts the
    sink (a signal handler, a destructor) or the sink itself publishes. Where the sink that it
    goes to is busy, it waits in line there, and is written before the busy call returns.

    Args:
        write: Hands a batch to the sink; returns what the sink raised instead of raising it.

        missed: Takes note of an envelope that comes after the close.
    """

    def __init__(
        self,
        write: Callable[[list[Envelope[Event]]], Exception | None],
        missed: Callable[[Envelope[Event]], None],
    ) -> None:
        self._write = write
        self._missed = missed
        self.renew()

    def renew(self) -> None:
        """
        Begin anew, as in a forked child.
        """
        self._lock = threading.RLock()
        self._writer = 0
        self._closed = False
        # Who gets what comes after the close; without anybody it is counted as missed.
        self.successor: Callable[[Envelope[Event]], Exception | None] | None = None
        self._in_line: deque[Envelope[Event]] = deque()

    def __call__(self, envelope: Envelope[Event]) -> Exception | None:
        """
        Deliver *envelope* and what came meanwhile, or leave it to whoever delivers just now.
        """
        me = get_ident()
        if self._writer:
            if self._writer == me:
                self._in_line.append(envelope)
                return None
            if me in _writing:
                # To wait here, inside another sink, could be to wait for each other.
                self._in_line.append(envelope)
                return self._serve()
        with self._lock:
            error = self._write_all([envelope], me)
        return self._serve() or error if self._in_line else error

    def _serve(self) -> Exception | None:
        """
        Write what is in line, unless somebody is at it, who then does.
        """
        error: Exception | None = None
        while self._in_line and self._lock.acquire(blocking=False):
            try:
                error = self._write_all(self._take(), get_ident()) or error
            finally:
                self._lock.release()
        return error

    def _take(self) -> list[Envelope[Event]]:
        taken: list[Envelope[Event]] = []
        # A signal handler that publishes here may take them first.
        with suppress(IndexError):
            while True:
                taken.append(self._in_line.popleft())
        return taken

    def _write_all(self, batch: list[Envelope[Event]], me: int) -> Exception | None:
        error: Exception | None = None
        nested = me in _writing
        while batch:
            if self._closed:
                for envelope in batch:
                    error = self._after_close(envelope) or error
                return error
            try:
                self._writer = me
                _writing.add(me)
                error = self._write(batch) or error
            except BaseException:
                # What interrupted the sink may have published before it raised.
                self._writer = 0
                self._write_all(self._take(), me)
                raise
            finally:
                self._writer = 0
                if not nested:
                    _writing.discard(me)
            if not self._in_line:
                return error
            batch = self._take()
        return error

    def _after_close(self, envelope: Envelope[Event]) -> Exception | None:
        if self.successor is not None:
            return self.successor(envelope)
        self._missed(envelope)
        return None

    def close(self, call: Callable[[], None], timeout: float) -> bool:
        """
        Make *call* while nobody writes; False when somebody still does after *timeout* seconds.
        """
        if not self._lock.acquire(timeout=timeout):
            return False
        try:
            self._closed = True
            call()
        finally:
            self._lock.release()
        return True


def forget_threads() -> None:
    """
    Take no thread to be inside a sink any more, as in a forked child, where none is.
    """
    _writing.clear()
