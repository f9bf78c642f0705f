"""
Stamping envelopes, handing them over, and the events that the bus itself has to tell.
"""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Mapping

import msgspec

from harken.delivery import Queue
from harken.envelope import Envelope, Mint
from harken.event import JSON, Event, Outcome
from harken.routes import Route, Routes
from harken.scope import Scope, cause, outermost
from harken.subscription import Subscription


class Options(msgspec.Struct, frozen=True):
    """
    What a publisher may say beside the event.
    """

    audit: bool | None = None
    time_ns: int | None = None
    attributes: Mapping[str, JSON] | None = None
    causes: tuple[str, ...] = ()


PLAIN = Options()
"""What is said when nothing is."""


class Dispatcher:
    """
    What every part of one bus publishes through; safe from any thread.

    Attributes:
        mint: What envelopes are stamped with.

        routes: Who gets what.

        next_seq: Returns the number of the next event, from 1.

        queue_lock: What all queues share.
    """

    def __init__(self, mint: Mint, routes: Routes) -> None:
        self.mint = mint
        self.routes = routes
        self.next_seq = itertools.count(1).__next__
        self._next_key = itertools.count(1).__next__
        self._reporting = threading.local()
        # Re-entrant, because a signal handler may publish while this thread is inside put().
        self.queue_lock = threading.RLock()

    def renew(self) -> None:
        """
        Begin anew in a forked child: own ids, own locks.
        """
        self.mint = self.mint.renewed()
        self.routes.renew()
        self._reporting = threading.local()
        self.queue_lock = threading.RLock()

    def new_key(self) -> str:
        """
        Return a key that no other operation of this bus has.
        """
        return self.mint.ids.key(self._next_key())

    def stamp(
        self,
        event: Event,
        scope: Scope,
        route: Route,
        options: Options,
        outcome: Outcome | None,
        started: Envelope[Event] | None = None,
        error_type: str | None = None,
    ) -> Envelope[Event]:
        """
        Return the envelope of an event that belongs to an operation, or that the bus publishes.
        """
        # Not atomic without the interpreter lock; a count that lags a little harms nobody.
        route.published += 1
        handled = cause.get()
        mint = self.mint
        time_ns = options.time_ns
        return Envelope(
            event,
            route.type,
            mint.time_ns() if time_ns is None else time_ns,
            mint.monotonic_ns() if time_ns is None else 0,
            self.next_seq(),
            route.audit if options.audit is None else options.audit,
            outcome,
            scope,
            mint,
            started,
            options.causes or (() if handled is None else (handled.id,)),
            options.attributes,
            error_type,
        )

    def to_sinks(self, route: Route, envelope: Envelope[Event]) -> list[Exception] | None:
        """
        Queue *envelope* and call the inline sinks; return what required ones raised.
        """
        errors = Queue.put_in_all(envelope, route.queues, self.queue_lock) if route.queues else None
        if not route.sinks:
            return errors
        failed: list[Subscription] | None = None
        for write, subscription in route.sinks:
            failure = write(envelope)
            if failure is not None:
                failed = [*(failed or ()), subscription]
                if subscription.required:
                    errors = [*(errors or ()), failure]
        if failed is not None:
            # Only now: in every sink the report follows the event that caused it.
            self._report(failed, envelope)
        return errors

    def _report(self, failed: list[Subscription], envelope: Envelope[Event]) -> None:
        token = cause.set(envelope)
        try:
            for subscription in failed:
                subscription.report()
        finally:
            cause.reset(token)

    def to_handlers(self, route: Route, envelope: Envelope[Event]) -> list[Exception] | None:
        """
        Queue *envelope* for the other handlers and call the inline ones; return what required
        ones raised.

        Only now: a handler on another thread that answers at once must not overtake the sinks.
        """
        queues = route.handler_queues
        if not queues:
            return route.call_handlers(envelope)
        errors = Queue.put_in_all(envelope, queues, self.queue_lock)
        failures = route.call_handlers(envelope)
        return [*(errors or ()), *failures] if failures else errors

    def say(self, event: Event) -> None:
        """
        Publish an event of the bus's own, also while it is closing.

        A required subscriber that fails here has nobody to tell: the bus itself is speaking.
        """
        route = self.routes.find(type(event))
        if route.silent:
            return
        envelope = self.stamp(event, outermost(), route, PLAIN, route.outcome_of(event))
        self.to_sinks(route, envelope)
        self.to_handlers(route, envelope)

    def report_orphan(self, orphan: Envelope[Event], key: str, closed_as: Outcome) -> None:
        """
        Publish that an operation had to be closed for its author.
        """
        from harken.catalog.observation import ScopeOrphaned

        age_ns = self.mint.time_ns() - orphan.time_ns
        self.say(
            ScopeOrphaned(
                kind=orphan.name.partition(".")[0],
                id=key,
                started_event_id=orphan.id,
                age_ms=max(age_ns, 0) // 1_000_000,
                closed_as=closed_as.value,
            )
        )

    def report_failure(self, sink: str, error_type: str, failures: int, disabled: bool) -> None:
        """
        Publish that a subscriber failed.

        What fails while a report is published waits until it is: reports do not nest.
        """
        from harken.catalog.observation import SinkFailed

        report = SinkFailed(sink=sink, error_type=error_type, failures=failures, disabled=disabled)
        waiting: deque[Event] | None = getattr(self._reporting, "news", None)
        if waiting is not None:
            waiting.append(report)
            return
        news = self._reporting.news = deque[Event]([report])
        try:
            while news:
                self.say(news.popleft())
        finally:
            self._reporting.news = None

    def report_drops(self, subscription: Subscription, *, at_once: bool = False) -> None:
        """
        Publish what a subscriber missed since the last report, if anything.
        """
        if not subscription.has_unreported_drops:
            return
        from harken.catalog.observation import EventsDropped

        unreported = subscription.take_unreported_drops(at_once=at_once)
        for reason, (count, first, last) in unreported.items():
            self.say(
                EventsDropped(
                    sink=subscription.name,
                    count=count,
                    reason=reason,
                    first_seq=first,
                    last_seq=last,
                )
            )
