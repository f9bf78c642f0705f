"""
Waiting until subscribers have got what was published, and telling the truth about it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

from harken.delivery import Delivered, FlushReport, Marker, SupportsFlush
from harken.subscription import Subscription


class Place:
    """
    How far a flush is at one subscriber: at a marker in its queue, and behind it the sink's own.

    Args:
        deadline: Until when to wait, on the clock of `time.monotonic()`.
    """

    def __init__(self, subscription: Subscription, deadline: float) -> None:
        self._subscription = subscription
        self._deadline = deadline
        self._marker: Marker | None = None
        self._reached = True
        queue = subscription.queue
        if queue is None:
            self._flush_sink()
        elif queue.is_closed or subscription.is_draining() or not subscription.is_reachable():
            # Waiting would be for ourselves, or for a loop that does not run.
            self._reached = not queue.pending
        else:
            self._marker = Marker(self._flush_sink)
            queue.mark(self._marker)
            subscription.hurry()

    def wait(self) -> Delivered:
        """
        Wait for the place to be reached, and return what came of it.
        """
        subscription = self._subscription
        passed = self._marker is None or self._marker.passed.wait(self._left())
        queued = 0 if subscription.queue is None else subscription.queue.pending
        if not passed and (queued or isinstance(subscription.sink, SupportsFlush)):
            self._reached = False
        health = subscription.health()
        return Delivered(health.delivered, health.dropped, 0 if self._reached else max(queued, 1))

    def _left(self) -> float:
        return max(self._deadline - time.monotonic(), 0.0)

    def _flush_sink(self) -> None:
        sink = self._subscription.sink
        if not isinstance(sink, SupportsFlush):
            return
        try:
            self._reached = sink.flush(self._left()) is not False
        except Exception as error:
            self._reached = False
            self._subscription.failed(error)


def flush(subscriptions: Iterable[Subscription], deadline: float) -> FlushReport:
    """
    Wait until *deadline* for everything that is queued now; all subscribers at the same time.
    """
    places = [(item.name, Place(item, deadline)) for item in subscriptions]
    return FlushReport({name: place.wait() for name, place in places})
