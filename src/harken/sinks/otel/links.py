"""
Links: which earlier span a span goes back to, where that is not its parent.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from itertools import islice

import msgspec

from harken import Envelope, Event

MAX_REMEMBERED = 2_048
"""Spans that later ones can go back to, at least; twice as many at most."""

MAX_LINKS = 32
"""Links of one span that are kept."""


class SpanLink(msgspec.Struct, frozen=True):
    """
    An earlier span, which is sampled, and why this one goes back to it.

    Attributes:
        reason:
            ``retry`` of the same thing, ``resumed`` session or run, ``cause`` that its publisher
            named or whose handler published it, or the ``session`` that a trace belongs to.
    """

    trace_id: int
    span_id: int
    reason: str


class Links:
    """
    Remembers sampled spans, and finds those that an operation goes back to. Not thread-safe.
    """

    # A place is a text, which costs the garbage collector nothing: trace id, span id, and the
    # name of the operation's start or of the point event.
    def __init__(self) -> None:
        self._by_event = _Memory()
        self._by_thing = _Memory()
        self._sessions = _Memory()

    def forget(self) -> None:
        """
        Begin anew: what a parent process has recorded is another process's.
        """
        for memory in (self._by_event, self._by_thing, self._sessions):
            memory.forget()

    def began(self, start: Envelope[Event]) -> None:
        """
        Remember where an operation began.
        """
        name = start.type.name
        place = start.trace_id + start.span_id + name
        self._by_event.keep(start.id, place)
        if name == "session.started" and start.session_id is not None:
            self._sessions.keep(start.session_id, place)

    def happened(self, point: Envelope[Event]) -> None:
        """
        Remember in which span *point* happened, if in any.
        """
        if point.scope.operation is not None:
            self._by_event.keep(point.id, point.trace_id + point.span_id + point.name)

    def ended(
        self,
        end: Envelope[Event],
        operation: str,
        thing: str,
        parent: str | None,
        session: object,
        *,
        again: bool,
    ) -> tuple[SpanLink, ...]:
        """
        Remember where an operation ended, and return what it goes back to.

        Args:
            operation: The dotted name of its start.

            thing: What it was about, empty when nobody can say; the next one about the same thing
                goes back to this one.

            parent: The id of the span around it, if any.

            session: Of a root, the session's id, or None.

            again: Whether it says itself that it is not the first attempt.
        """
        here = end.trace_id + end.span_id + operation
        self._by_event.keep(end.id, here)
        reasons: dict[str, str] = {}
        if thing:
            before = self._by_thing.get(thing)
            if before:
                reasons[before] = _REASONS.get(operation, "retry")
            self._by_thing.keep(thing, here)
        begun = end if end.started is None else end.started
        for cause in begun.causes:
            place = self._by_event.get(cause)
            retries = again and place[_NAME:] == operation
            reasons.setdefault(place, "retry" if retries else "cause")
        if isinstance(session, str):
            root = self._sessions.get(session)
            if root[:_SPAN] != here[:_SPAN]:
                reasons.setdefault(root, "session")
        return _links(reasons, (here[_SPAN:_NAME], parent)) if reasons else ()


class _Memory:
    """
    The places that were kept last.
    """

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        self._young: dict[str, str] = {}
        self._old: dict[str, str] = {}

    def keep(self, key: str, place: str) -> None:
        if len(self._young) >= MAX_REMEMBERED:
            self._old, self._young = self._young, {}
        self._young[key] = place

    def get(self, key: str) -> str:
        """
        Return the place that was kept, empty when there is none.
        """
        return self._young.get(key) or self._old.get(key, "")


# Where the span id and the name begin in a place.
_SPAN, _NAME = 32, 48

_REASONS = {"session.started": "resumed", "run.started": "resumed"}


def _links(reasons: Mapping[str, str], near: Container[str | None]) -> tuple[SpanLink, ...]:
    links = (
        SpanLink(int(place[:_SPAN], 16), int(place[_SPAN:_NAME], 16), reason)
        for place, reason in reasons.items()
        if place and place[_SPAN:_NAME] not in near
    )
    return tuple(islice(links, MAX_LINKS))
