"""
Links: which earlier span a span goes back to, where that is not its parent.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from itertools import islice

from opentelemetry.trace import Link, SpanContext, TraceFlags

from harken import Envelope, Event
from harken.sinks.otel.attributes import AttributeValue

MAX_REMEMBERED = 2_048
"""Spans that later ones can go back to, at least; twice as many at most."""

MAX_LINKS = 32
"""Links of one span that are kept."""

_SAMPLED = TraceFlags(TraceFlags.SAMPLED)


class Links:
    """
    Remembers sampled spans, and finds those that an operation goes back to. Not thread-safe.

    A link's ``harken.link.reason`` is ``retry`` of the same thing, ``resumed`` session or run,
    ``cause`` that its publisher named or whose handler published it, or the ``session`` that a
    trace belongs to.
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

    def began(self, start: Envelope[Event], span_id: str) -> None:
        """
        Remember where an operation began.
        """
        name = start.type.name
        place = f"{start.trace_id}{span_id}{name}"
        self._by_event.keep(start.id, place)
        if name == "session.started" and start.session_id is not None:
            self._sessions.keep(start.session_id, place)

    def happened(self, point: Envelope[Event]) -> None:
        """
        Remember in which span *point* happened, if in any.
        """
        if point.scope.operation is not None:
            place = f"{point.trace_id}{point.span_id}{point.name}"
            self._by_event.keep(point.id, place)

    def ended(
        self,
        end: Envelope[Event],
        here: str,
        thing: str,
        session: AttributeValue | None,
        attributes: Mapping[str, AttributeValue],
    ) -> Sequence[Link]:
        """
        Remember where an operation ended, and return what it goes back to.

        Args:
            here: Its trace id, its span id, and the dotted name of its start, without a gap.

            thing: What it was about, empty when nobody can say; the next one about the same thing
                goes back to this one.

            session: Of a root, the session's id, or None.

            attributes: Those of its span.
        """
        self._by_event.keep(end.id, here)
        reasons: dict[str, str] = {}
        if thing:
            before = self._by_thing.exchange(thing, here)
            if before:
                reasons[before] = _REASONS.get(here[_NAME:], "retry")
        causes = end.causes if end.started is None else end.started.causes
        if causes:
            attempt = attributes.get("harken.tool.attempt")
            again = isinstance(attempt, int) and attempt > 1
            for cause in causes:
                place = self._by_event.get(cause)
                retries = again and place[_NAME:] == here[_NAME:]
                reasons.setdefault(place, "retry" if retries else "cause")
        if isinstance(session, str):
            root = self._sessions.get(session)
            if root and root[:_SPAN] != here[:_SPAN]:
                reasons.setdefault(root, "session")
        return _links(reasons, (here[_SPAN:_NAME], end.parent_span_id)) if reasons else ()


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

    def exchange(self, key: str, place: str) -> str:
        """
        Keep *place*, and return the one that was kept before.
        """
        before = self._young.get(key) or self._old.get(key, "")
        self.keep(key, place)
        return before


# Where the span id and the name begin in a place.
_SPAN, _NAME = 32, 48

_REASONS = {"session.started": "resumed", "run.started": "resumed"}


def _links(reasons: Mapping[str, str], near: Container[str | None]) -> Sequence[Link]:
    links = (
        Link(
            SpanContext(int(place[:_SPAN], 16), int(place[_SPAN:_NAME], 16), False, _SAMPLED),
            {"harken.link.reason": reason},
        )
        for place, reason in reasons.items()
        if place and place[_SPAN:_NAME] not in near
    )
    return tuple(islice(links, MAX_LINKS))
