"""
How far forwarding is behind its log, and which files of the log it does not need any more.
"""

from __future__ import annotations

import os
import time

import msgspec

from harken.forward.wire import Position
from harken.trail import Cursor, Entry, Filter, MissingLogError, Problem, Segment, Trail
from harken.trail.times import ns_of


class Lag(msgspec.Struct, frozen=True):
    """
    What is in a log and not yet in the stream.

    Attributes:
        bytes: On the disk; what stands in front of it in the same compressed file counts, too.

        seconds: How old the oldest line of it is.
    """

    bytes: int
    seconds: float


NO_LAG = Lag(0, 0.0)
"""Everything is there."""


def behind(position: Position | None) -> Filter:
    """
    Return the filter of all that stands behind *position*.
    """
    if position is None or not position.seq:
        return Filter()
    return Filter(after=Cursor(position.timestamp, position.seq, position.hash))


def lag_of(path: str | os.PathLike[str], position: Position | None) -> Lag:
    """
    Return what of the log at *path* stands behind *position*; None is before its begin.

    Raises:
        TrailError: The log cannot be read.
    """
    try:
        trail = Trail(path, _forget)
    except MissingLogError:
        return NO_LAG
    with trail:
        entry = next(trail.entries(behind(position)), None)
        if entry is None:
            return NO_LAG
        segments = _from(trail.files.segments, entry)
        before = 0 if segments[0].packed else entry.offset
        size = sum(segment.size for segment in segments) - before
        age_ns = time.time_ns() - ns_of(entry.record.timestamp)
        return Lag(size, max(0.0, age_ns / 1e9))


def spent_archives(
    path: str | os.PathLike[str],
    position: Position | None,
    *,
    max_lag_bytes: int | None = None,
) -> list[str]:
    """
    Return the older files of the log at *path* that forwarding does not need any more.

    Whoever deletes old files asks this first: what is not among them is not in the stream yet.

    Args:
        position: The last line that is in the stream, as the cursor has it.

        max_lag_bytes:
            Give up what was not forwarded, the oldest file first, until no more than this waits.
            The forwarder then tells of the gap. By default nothing is given up.

    Raises:
        TrailError: The log cannot be read.
    """
    with Trail(path, _forget) as trail:
        older = [segment for segment in trail.files.segments if not segment.live]
        entry = next(trail.entries(behind(position)), None)
        if entry is None:
            return [segment.path for segment in older]
        waiting = _from(trail.files.segments, entry)
        spent = [segment.path for segment in older if segment not in waiting]
        size = sum(segment.size for segment in waiting)
        for segment in waiting:
            if segment.live or max_lag_bytes is None or size <= max_lag_bytes:
                break
            spent.append(segment.path)
            size -= segment.size
        return spent


def _from(segments: tuple[Segment, ...], entry: Entry) -> tuple[Segment, ...]:
    first = next(at for at, segment in enumerate(segments) if segment.path == entry.file)
    return segments[first:]


def _forget(problem: Problem) -> None:
    """
    Let a problem be told by whoever forwards.
    """
