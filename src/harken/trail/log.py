"""
An audit log to ask: records by time, by filter and by name, runs, causes, figures.

.. code-block:: python

    import harken.trail
    from harken.trail import Filter

    with harken.trail.open("audit.jsonl") as trail:
        for record in trail.records(Filter(types=("tool.*",), outcomes=("failure",)), last=20):
            print(record.time, record.resource, record.metadata.get("error_message"))
        print(trail.why("42"))

What is asked is answered from the files as they were when the log was opened; open it again to
see what was appended since. Records are read one after another: memory does not grow with the
log, but with what is asked for (the number of runs in `Trail.runs()`, of records in one run).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import islice, zip_longest
from types import TracebackType
from typing import TYPE_CHECKING, Any

import msgspec

from harken.trail._scan import Scan, could_hold
from harken.trail.entries import UNREADABLE, Entry, Problem, Record, Report
from harken.trail.files import LogFiles, Segment, TrailError, open_log
from harken.trail.filters import EVERYTHING, NOTHING, Cursor, Filter

if TYPE_CHECKING:
    from harken.trail.causes import Effects, Why
    from harken.trail.runs import Run, RunSummary
    from harken.trail.stats import Stats

KEPT = 1000
"""Problems that a trail remembers; further ones are counted only."""


# A number of a record has fewer digits.
_LONGEST_NUMBER = 19

# Lines in which a number is looked for, from where it should be.
_NEARBY = 1000

_UUID7 = re.compile(r"([0-9a-f]{8})-([0-9a-f]{4})-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")

# A record stands where its timestamp says, which is that of its id or the time of the writing: the
# clock may be set back by 2 s within a file, and a queue may have been long.
_EARLIER_NS = 2_000_000_000
_LATER_NS = 10_000_000_000


class NotFoundError(TrailError):
    """
    There is no such record or run in the log.
    """


class Problems:
    """
    What could not be read so far: the first `KEPT`, and how many there are; a `Report`.
    """

    def __init__(self) -> None:
        self.first: list[Problem] = []
        self.count = 0

    def __call__(self, problem: Problem) -> None:
        """
        Take one more.
        """
        self.count += 1
        if len(self.first) < KEPT:
            self.first.append(problem)


class Trail:
    """
    The files of one audit log, as they were when it was opened; made by `open()`.

    It is used by one thread at a time.

    Attributes:
        path: Where the log is appended to.

        files: What there is.

        problems: What could not be read so far, unless another `Report` was given to `open()`.
    """

    def __init__(self, path: str | os.PathLike[str], report: Report | None = None) -> None:
        self.path = os.fsdecode(path)
        self.problems = Problems()
        self._report: Report = self.problems if report is None else report
        self._open = ExitStack()
        self.files: LogFiles = self._open.enter_context(
            open_log(path, unreadable=lambda file, why: self._report(Problem(file, None, why)))
        )

    def close(self) -> None:
        """
        Let go of the files; twice is allowed.
        """
        self._open.close()

    def __enter__(self) -> Trail:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def entries(
        self, where: Filter = EVERYTHING, *, last: int | None = None, quick: bool = False
    ) -> Iterator[Entry]:
        """
        Yield the wanted lines in the order of the log.

        Args:
            last: Only so many, counted from the end of those that are wanted. They are held in
                memory; the log is read from its end, as far as needed.

            quick:
                Whether to choose compressed files by the times of their neighbours. Otherwise
                those that were left less than a day before *since* are read, too, because a
                clock may have been set back.
        """
        if last is not None:
            yield from reversed(list(islice(self.newest(where), last)))
            return
        for segment, scan in self._scans(where, quick=quick):
            yield from scan.forwards(segment, growing=self._is_growing(segment))

    def newest(self, where: Filter = EVERYTHING, *, quick: bool = False) -> Iterator[Entry]:
        """
        Yield the wanted lines, the last one first.

        Args:
            quick:
                As in `entries()`, and whether to look at no more than 64 MiB of each file, from
                the last line that may be wanted: for something that need not be there.
        """
        for segment, scan in reversed(list(self._scans(where, quick=quick))):
            yield from scan.backwards(segment, growing=self._is_growing(segment), quick=quick)

    def _is_growing(self, segment: Segment) -> bool:
        return segment.live and self.files.in_progress

    def _scans(
        self, where: Filter, fields: Mapping[str, Any] = NOTHING, *, quick: bool = False
    ) -> Iterator[tuple[Segment, Scan]]:
        """
        Yield the files that may hold what is wanted, each with what looks for it there.
        """
        segments = self.files.segments
        begin = 0
        scan = Scan(where, self._report, fields)
        if where.after is not None:
            found = self._place_of(where.after)
            rest = msgspec.structs.replace(where, after=None)
            if found is not None:
                begin = found + 1
                yield segments[found], scan
            scan = Scan(rest, self._report, fields)
        for segment, after in zip_longest(segments[begin:], segments[begin + 1 :]):
            if could_hold(segment, after, where, quick=quick):
                yield segment, scan

    def _place_of(self, cursor: Cursor) -> int | None:
        """
        Return which file holds the record of *cursor*; None when it is not in the log any more.
        """
        before = Filter(after=Cursor(cursor.timestamp, cursor.seq - 1))
        for place, segment in reversed(list(enumerate(self.files.segments))):
            if segment.seq and segment.seq <= cursor.seq:
                found = filter(None, map(self.read, Scan(before, _ignored).forwards(segment)))
                record = next(found, None)
                if (
                    record is not None
                    and record.seq == cursor.seq
                    and cursor.hash in {None, record.hash}
                ):
                    return place
        message = (
            f"the record {cursor.seq} of the cursor is not in the log; it is read from its begin"
        )
        self._report(Problem(self.path, None, message))
        return None

    def records(self, where: Filter = EVERYTHING, *, last: int | None = None) -> Iterator[Record]:
        """
        Yield what the wanted lines say, as `entries()` does.
        """
        for entry in self.entries(where, last=last):
            record = self.read(entry)
            if record is not None:
                yield record

    def rows(self, where: Filter, fields: Mapping[str, Any]) -> Iterator[list[Any]]:
        """
        Yield the wanted records some at a time, as objects with the attributes *fields*, as well
        as `timestamp`, `seq` and `event_type`. This is the fastest way to look at many.

        Args:
            fields: Members, and the types that they are decoded as, as msgspec does it. Where a
                record has no such member, the attribute is None.
        """
        for segment, scan in self._scans(where, fields):
            yield from scan.rows(segment, growing=self._is_growing(segment))

    def read(self, entry: Entry) -> Record | None:
        """
        Return what *entry* says; None, and a problem, where its members are not what they must be.
        """
        try:
            return entry.record
        except UNREADABLE as error:
            message = f"the line is no record: {error}; left out"
            self._report(Problem(entry.file, entry.offset, message))
            return None

    def find(self, name: str) -> Entry:
        """
        Return the record called *name*: its ``id``, or its number ``seq``, also as ``#seq``.

        An id is looked for near the time that it holds, then everywhere. Where a log was begun
        anew and numbers stand there twice, it is the later record.

        Raises:
            NotFoundError: There is none.
        """
        number = name.removeprefix("#")
        seq = int(number) if number.isdecimal() and len(number) < _LONGEST_NUMBER else None
        found = None
        if seq is not None:
            found = self._numbered(seq)
        else:
            near = near_id(name)
            if near is not None:
                found = next(self.entries(near, quick=True), None)
            if found is None:
                found = next(self.newest(Filter(ids=(name,))), None)
        if found is None or self.read(found) is None:
            why = ""
            if seq is not None and self._reaches_over(seq):
                why = ": its line is damaged or missing; `harken verify` tells which"
            raise NotFoundError(f"there is no record {name} in {self.path}{why}")
        return found

    def _reaches_over(self, seq: int) -> bool:
        """
        Return whether there are records before and behind the number *seq*.
        """
        newest = next(filter(None, map(self.read, self.newest())), None)
        begun = any(0 < segment.seq <= seq for segment in self.files.segments)
        return begun and newest is not None and seq <= newest.seq

    def _numbered(self, seq: int) -> Entry | None:
        scan = Scan(Filter(after=Cursor("", seq - 1)), _ignored)
        for segment in reversed(self.files.segments):
            if not segment.seq or segment.seq <= seq:
                # Numbers go up, but for lines that somebody else put between them.
                near = _NEARBY if segment.seq else None
                for entry in islice(scan.forwards(segment), near):
                    record = self.read(entry)
                    if record is not None and record.seq == seq:
                        return entry
        return None

    def run(self, run_id: str) -> Run:
        """
        Return everything on record about one run and the runs that it started itself.

        Raises:
            NotFoundError: There is nothing.
        """
        from harken.trail.runs import run_of

        return run_of(self, run_id)

    def last_run(self) -> Run:
        """
        Return the run that the newest record of any run is of.

        Raises:
            NotFoundError: There is none.
        """
        for entry in self.newest(quick=True):
            record = self.read(entry)
            if record is not None and record.run_id:
                return self.run(record.run_id)
        raise NotFoundError(f"no record of {self.path} is of a run")

    def runs(self, where: Filter = EVERYTHING) -> list[RunSummary]:
        """
        Return a summary of each run that has a wanted record, in the order of their first ones.
        """
        from harken.trail.runs import summaries_of

        return summaries_of(self, where)

    def why(self, name: str) -> Why:
        """
        Return what made the record called *name* happen, cause by cause, as far as is recorded.

        Raises:
            NotFoundError: There is no such record.
        """
        from harken.trail.causes import why

        return why(self, name)

    def effects(self, name: str) -> Effects:
        """
        Return what the record called *name* made happen: all that names it as its cause, and what
        names that. The log is read from there to its end.

        Raises:
            NotFoundError: There is no such record.
        """
        from harken.trail.causes import effects

        return effects(self, name)

    def stats(
        self,
        by: str = "type",
        where: Filter = EVERYTHING,
        *,
        percentiles: Sequence[float] = (50, 95),
    ) -> Stats:
        """
        Count the wanted records, their errors, durations, tokens and costs.

        Args:
            by: One of ``harken.trail.stats.GROUPS``.

            percentiles: Of the durations, 0 to 100. They are exact up to a million durations,
                then right within 2 %.

        Raises:
            FilterError: *by* is none of them.
        """
        from harken.trail.stats import stats

        return stats(self, by, where, percentiles)


def _ignored(problem: Problem) -> None:
    """
    Forget a problem that the answer itself will meet again.
    """


def near_id(name: str) -> Filter | None:
    """
    Return the filter for the record with the id *name* by the time that the id holds; None when
    it holds none.
    """
    window = window_of(name)
    return None if window is None else Filter(since=window[0], until=window[1], ids=(name,))


def window_of(name: str) -> tuple[int, int] | None:
    """
    Return between which timestamps the record with the id *name* is expected; None for an id that
    is no UUIDv7.
    """
    match = _UUID7.fullmatch(name)
    if match is None:
        return None
    time_ns = int(match[1] + match[2], 16) * 1_000_000
    return max(0, time_ns - _EARLIER_NS), time_ns + _LATER_NS


def open(path: str | os.PathLike[str], *, report: Report | None = None) -> Trail:
    """
    Open the audit log at *path*, with the files that it was rotated into.

    A file that cannot be read is a problem, and the others are still read.

    Args:
        report: Called with each problem; by default they are in ``Trail.problems``.

    Raises:
        MissingLogError: There is no such log.

        ForbiddenLogError: This user may not read it.

        TrailError: It is no log for another reason.
    """
    return Trail(path, report)
