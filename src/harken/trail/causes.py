"""
Why something happened: causes that are on record, and none that are guessed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal, TypeAlias

import msgspec

from harken.trail.entries import UNREADABLE, Record
from harken.trail.filters import Filter

if TYPE_CHECKING:
    from harken.trail.log import Trail

Link: TypeAlias = Literal["subject", "ends", "because", "answers", "within"]
"""
How a step is connected with the one before it.

``ends``: it began what the one before ended. ``because``: the one before names it as its cause.
``answers``: it asked for the approval or the input that the one before gave, by the same id.
``within``: the cause of the one before is not on record, but this operation
in which it happened is. That is no cause.
"""


class Step(msgspec.Struct, kw_only=True):
    """
    One event on the way back.

    Attributes:
        end: The end of the operation that it began, if that is near.

        policies: What policies said of it.
    """

    record: Record
    link: Link
    end: Record | None = None
    policies: list[Record] = []


class Why(msgspec.Struct, kw_only=True):
    """
    The causes of one event.

    Attributes:
        steps: From the event itself back to the first cause on record.

        stopped:
            Why it goes no further: ``origin`` (no cause was recorded), ``missing`` (the cause
            *missing* is not in the log near its time: often it was not audited), ``cycle`` (the
            cause *missing* is a step already), ``limit`` (there were `LONGEST` steps).

        run: The start of the run that the last step is a part of, where that is no step itself.
            It is no cause.

        before: The record of the same run before the last step. It is no cause either.
    """

    steps: list[Step]
    stopped: Literal["origin", "missing", "cycle", "limit"]
    missing: str | None = None
    run: Record | None = None
    before: Record | None = None


class Effect(msgspec.Struct, kw_only=True):
    """
    One event and what it made happen.
    """

    record: Record
    link: Link
    end: Record | None = None
    effects: list[Effect] = []


class Effects(msgspec.Struct, kw_only=True):
    """
    What one event made happen.

    Attributes:
        count: How many events there are below the first.
    """

    root: Effect
    count: int = 0

    def walk(self) -> Iterator[tuple[int, Effect]]:
        """
        Yield the first and all below it with their depths, in the order of the log.
        """
        # Not by recursion: one thing leads to another for as long as an agent runs.
        rest = [(0, self.root)]
        while rest:
            depth, effect = rest.pop()
            yield depth, effect
            rest += [(depth + 1, below) for below in reversed(effect.effects)]


LONGEST = 10_000
"""Steps after which a chain of causes is not followed any further."""

MOST = 100_000
"""Effects after which no further ones are collected."""

ANSWERS = {
    "approval.granted": ("approval.requested", "approval_id"),
    "approval.denied": ("approval.requested", "approval_id"),
    "approval.expired": ("approval.requested", "approval_id"),
    "human_input.received": ("human_input.requested", "request_id"),
    "human_input.timed_out": ("human_input.requested", "request_id"),
    "pipeline.completed": ("pipeline.triggered", "pipeline_id"),
    "task.dequeued": ("task.enqueued", "task_id"),
}
"""What answers, what asks for it, and the member that is the same in both."""

# Nanoseconds before an answer in which its question is looked for.
_PATIENCE_NS = 86_400_000_000_000

# Nanoseconds before a record in which the one before it is looked for, if there is no cause.
_BEFORE_NS = 3_600_000_000_000


_EARLIER_NS = 2_000_000_000


def why(trail: Trail, name: str) -> Why:
    """
    Return what made the record called *name* happen, cause by cause, as far as is recorded.

    Raises:
        NotFoundError: There is no such record.
    """
    steps = [_step(trail, trail.find(name).record, "subject")]
    seen = {steps[0].record.id}
    while len(steps) < LONGEST:
        record = steps[-1].record
        asked = _question(trail, record)
        if asked is not None and asked.id not in seen:
            steps.append(_step(trail, asked, "answers"))
            seen.add(asked.id)
            continue
        cause = record.started_event_id or record.causation_id
        if cause is None:
            return _ended(trail, steps, "origin", None)
        if cause in seen:
            return _ended(trail, steps, "cycle", cause)
        found = _near(trail, cause)
        if found is not None:
            steps.append(_as_step(found, "ends" if record.is_end else "because"))
            seen.add(cause)
            continue
        around = _around(trail, record)
        if around is None or around.id in seen:
            return _ended(trail, steps, "missing", cause)
        steps.append(_step(trail, around, "within"))
        seen.add(around.id)
    return _ended(trail, steps, "limit", None)


class _Found(msgspec.Struct):
    """
    A record and what near it speaks of it.
    """

    record: Record
    end: Record | None
    policies: list[Record]


def _near(trail: Trail, cause: str) -> _Found | None:
    """
    Return the record with the id *cause*, looked for near the time of the id.
    """
    from harken.trail.log import window_of

    window = window_of(cause)
    where = Filter(grep=(cause,))
    if window is not None:
        where = msgspec.structs.replace(where, since=window[0], until=window[1])
    record = end = None
    policies: list[Record] = []
    for entry in trail.entries(where, quick=True):
        found = trail.read(entry)
        if found is None:
            continue
        if found.id == cause:
            record = found
        elif found.started_event_id == cause:
            end = found
        elif found.causation_id == cause and found.event_type == "policy.evaluated":
            policies.append(found)
    return None if record is None else _Found(record, end, policies)


def _as_step(found: _Found, link: Link) -> Step:
    return Step(record=found.record, link=link, end=found.end, policies=found.policies)


def _step(trail: Trail, record: Record, link: Link) -> Step:
    found = None if record.id is None else _near(trail, record.id)
    return Step(record=record, link=link) if found is None else _as_step(found, link)


def _question(trail: Trail, record: Record) -> Record | None:
    """
    Return what asked for what *record* gives.
    """
    asked, member = ANSWERS.get(record.event_type, (None, ""))
    key = record.metadata.get(member)
    if asked is None or not isinstance(key, str):
        return None
    until = _ns(record)
    where = Filter(since=until - _PATIENCE_NS, until=until, types=(asked,), grep=(key,))
    for entry in trail.newest(where, quick=True):
        found = trail.read(entry)
        if found is not None and found.metadata.get(member) == key:
            return found
    return None


def _around(trail: Trail, record: Record) -> Record | None:
    """
    Return the start of the operation that *record* is a part of.
    """
    span = record.parent_span_id if record.is_start or record.is_end else record.span_id
    if span is None:
        return None
    until = _ns(record)
    where = Filter(since=until - _BEFORE_NS, until=until, grep=(span,))
    for entry in trail.newest(where, quick=True):
        found = trail.read(entry)
        if found is not None and found.is_start and found.span_id == span:
            return found
    return None


DECIDING = frozenset(
    ("approval", "correction", "decision", "guard", "human_input", "invariant", "policy")
)
"""The domains of events in which something was decided."""


def is_decision(record: Record) -> bool:
    """
    Return whether something was decided: by a policy, a guard, a budget or a person.
    """
    return (
        record.domain in DECIDING
        or record.outcome == "denied"
        or record.event_type
        in {"agent.escalated", "agent.handoff", "budget.exceeded", "run.cancelled", "run.resumed"}
    )


def _ended(
    trail: Trail,
    steps: list[Step],
    stopped: Literal["origin", "missing", "cycle", "limit"],
    missing: str | None,
) -> Why:
    last = steps[-1].record
    run = before = None
    if last.run_id is not None and last.event_type != "run.started":
        until = _ns(last)
        recent = Filter(since=until - _BEFORE_NS, until=until, runs=(last.run_id,))
        for entry in trail.newest(recent, quick=True):
            found = trail.read(entry)
            if found is None or found.seq >= last.seq:
                continue
            before = before or found
            if found.event_type == "run.started":
                run = found
                break
    return Why(steps=steps, stopped=stopped, missing=missing, run=run, before=before)


def _ns(record: Record) -> int:
    from harken.trail.times import ns_of

    return ns_of(record.timestamp)


class _Links(msgspec.Struct, gc=False):
    """
    What connects an event with others.
    """

    id: str | None = None
    causation_id: str | None = None
    started_event_id: str | None = None


def effects(trail: Trail, name: str) -> Effects:
    """
    Return what the record called *name* made happen, and what that made happen, and so on.

    Raises:
        NotFoundError: There is no such record.
    """
    subject = trail.find(name).record
    root = Effect(record=subject, link="subject", effects=[])
    known = {} if subject.id is None else {subject.id: root}
    count = 0
    # What names a cause stands behind it, but for what several threads wrote at the same moment.
    where = Filter(since=_ns(subject) - _EARLIER_NS)
    decode = msgspec.json.Decoder(_Links).decode
    for entry in trail.entries(where):
        try:
            links = decode(entry.line)
        except UNREADABLE:
            # What is wrong with it is told by the full look.
            trail.read(entry)
            continue
        begun = known.get(links.started_event_id or "")
        cause = known.get(links.causation_id or "")
        if links.id in known or (begun is None and cause is None):
            continue
        record = trail.read(entry)
        if record is None:
            continue
        effect = begun
        if begun is not None:
            begun.end = record
        elif cause is not None:
            effect = Effect(record=record, link="because", effects=[])
            cause.effects.append(effect)
            count += 1
        if effect is not None and record.id is not None:
            known[record.id] = effect
        if count >= MOST:
            break
    return Effects(root=root, count=count)
