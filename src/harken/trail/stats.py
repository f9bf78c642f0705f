"""
Figures of an audit log.
"""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from harken.trail.filters import Filter, FilterError
from harken.trail.runs import ERRORS

if TYPE_CHECKING:
    from harken.trail.log import Trail

GROUPS: Mapping[str, str] = {
    "type": "event_type",
    "actor": "actor",
    "model": "metadata.model",
    "tool": "metadata.tool_name",
    "run": "run_id",
    "outcome": "outcome",
    "resource": "resource",
    "session": "session_id",
    "phase": "phase",
}
"""What records can be grouped by, and the member that it is."""

EXACT = 1_000_000
"""Durations of which each is kept; of more, only how many there are of each size."""

NONE = "-"
"""The group of records that have no such member; where they are not counted, there is none."""

# Sizes grow by 2 %, from a microsecond on.
_GROWTH = math.log(1.02)
_LEAST_MS = 0.001


class Group(msgspec.Struct, kw_only=True):
    """
    The records that have one thing in common.

    Attributes:
        events: All of them.

        calls: Those that end an operation.

        errors: Outcomes ``failure``, ``timeout`` and ``orphaned``.

        durations_ms: The percentiles that were asked for, by name, such as ``p95``; None where
            no record has a duration.

        input_tokens: Of calls of models, else of runs; *output_tokens* and *cost_usd* likewise.
    """

    name: str
    events: int = 0
    calls: int = 0
    errors: int = 0
    denied: int = 0
    durations_ms: dict[str, float | None] = {}
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float = 0.0


class Stats(msgspec.Struct, kw_only=True):
    """
    The groups, largest first, and all of them together.
    """

    by: str
    groups: list[Group]
    total: Group


class Durations:
    """
    Durations in milliseconds, in memory that does not grow without end.
    """

    def __init__(self) -> None:
        self._exact: array[float] = array("d")
        self._sizes: Counter[int] | None = None

    def add(self, duration_ms: float) -> None:
        """
        Take one.
        """
        if self._sizes is None:
            self._exact.append(duration_ms)
            if len(self._exact) >= EXACT:
                self._sizes = Counter(map(_size, self._exact))
                self._exact = array("d")
        else:
            self._sizes[_size(duration_ms)] += 1

    def percentile(self, part: float) -> float | None:
        """
        Return the smallest duration that at least *part* percent do not exceed (nearest rank).
        """
        if self._sizes is None:
            if not self._exact:
                return None
            ordered = sorted(self._exact)
            return ordered[max(0, math.ceil(len(ordered) * part / 100) - 1)]
        rest = max(1, math.ceil(self._sizes.total() * part / 100))
        size = 0
        for size in sorted(self._sizes):
            rest -= self._sizes[size]
            if rest <= 0:
                break
        return math.exp((size + 0.5) * _GROWTH) * _LEAST_MS


def _size(duration_ms: float) -> int:
    return int(math.log(max(duration_ms, _LEAST_MS) / _LEAST_MS) / _GROWTH)


class _Tally:
    """
    The counts of one group.
    """

    __slots__ = ("calls", "denied", "durations", "errors", "events", "llm", "run")

    def __init__(self) -> None:
        self.events = self.calls = self.errors = self.denied = 0
        self.durations = Durations()
        # Tokens read and written, and US dollars: of calls, and as runs sum them up.
        self.llm: list[float] = [0, 0, 0.0]
        self.run: list[float] = [0, 0, 0.0]

    def group(self, name: str, percentiles: Sequence[float]) -> Group:
        """
        Return what was counted.
        """
        read, written, cost = self.llm if any(self.llm) else self.run
        return Group(
            name=name,
            events=self.events,
            calls=self.calls,
            errors=self.errors,
            denied=self.denied,
            durations_ms={f"p{part:g}": self.durations.percentile(part) for part in percentiles},
            input_tokens=int(read),
            output_tokens=int(written),
            cost_usd=float(cost),
        )


class _Figures(msgspec.Struct, gc=False):
    """
    The metadata that figures are made of.
    """

    duration_ms: Any = None
    input_tokens: Any = None
    output_tokens: Any = None
    cost_usd: Any = None
    model: Any = None
    tool_name: Any = None


_NO_FIGURES = _Figures()


def stats(trail: Trail, by: str, where: Filter, percentiles: Sequence[float]) -> Stats:
    """
    Count the wanted records, their errors, durations, tokens and costs.

    Raises:
        FilterError: *by* is not one of `GROUPS`, or a percentile is not between 0 and 100.
    """
    if by not in GROUPS:
        raise FilterError(f"{by!r} is nothing to group by; use {', '.join(GROUPS)}")
    if not all(0 <= part <= 100 for part in percentiles):
        raise FilterError("a percentile is a number from 0 to 100")
    tallies, total = _tallied(trail, GROUPS[by], where)
    groups = [tally.group(name, percentiles) for name, tally in tallies.items()]
    groups.sort(key=lambda group: (-group.events, group.name))
    return Stats(by=by, groups=groups, total=total.group("total", percentiles))


def _tallied(trail: Trail, path: str, where: Filter) -> tuple[dict[str, _Tally], _Tally]:
    member, _, figure = path.partition(".")
    fields: dict[str, Any] = {
        member: str | None,
        "outcome": str | None,
        "started_event_id": str | None,
        "metadata": _Figures,
    }
    tallies: dict[str, _Tally] = {}
    total = _Tally()
    totals = total.durations
    for rows in trail.rows(where, fields):
        for row in rows:
            figures = row.metadata or _NO_FIGURES
            name = getattr(figures, figure) if figure else getattr(row, member)
            if not isinstance(name, str):
                # An outcome is missing on starts only.
                if figure:
                    continue
                name = NONE
            tally = tallies.get(name)
            if tally is None:
                tally = tallies[name] = _Tally()
            tally.events += 1
            outcome = row.outcome
            if outcome != "success":
                if outcome in ERRORS:
                    tally.errors += 1
                elif outcome == "denied":
                    tally.denied += 1
            if row.started_event_id is not None:
                tally.calls += 1
            duration = figures.duration_ms
            if isinstance(duration, (int, float)):
                tally.durations.add(duration)
                totals.add(duration)
            if figures.input_tokens is not None or figures.cost_usd is not None:
                _add_usage(tally, row.event_type, figures)
    for tally in tallies.values():
        total.events += tally.events
        total.calls += tally.calls
        total.errors += tally.errors
        total.denied += tally.denied
        for index in range(3):
            total.llm[index] += tally.llm[index]
            total.run[index] += tally.run[index]
    return tallies, total


def _add_usage(tally: _Tally, event_type: str, figures: _Figures) -> None:
    # What a run sums up at its end are the calls that it made: they must not count twice.
    sums = tally.llm if event_type.startswith("llm.") else tally.run
    if sums is tally.run and not event_type.startswith("run."):
        return
    values = (figures.input_tokens, figures.output_tokens, figures.cost_usd)
    for index, value in enumerate(values):
        if isinstance(value, (int, float)):
            sums[index] += value
