"""
What is appended to an audit log while somebody looks on.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Iterator
from itertools import islice

import msgspec

from harken.record import MAX_LINE, start_of
from harken.trail._scan import Scan
from harken.trail.entries import Entry, Problem, Report
from harken.trail.files import MissingLogError, Segment, TrailError, read_at
from harken.trail.filters import EVERYTHING, Filter
from harken.trail.log import Trail

POLL_SECONDS = 0.1
"""How often the log is looked at."""

# Bytes that are read, and records that are yielded, at once.
_MOST = 4 * MAX_LINE
_AT_ONCE = 1000


def follow(
    path: str | os.PathLike[str],
    where: Filter = EVERYTHING,
    *,
    last: int | None = 0,
    report: Report | None = None,
    wait: Callable[[], object] | None = None,
) -> Generator[list[Entry]]:
    """
    Yield what is wanted of the log at *path*: the last ones, and then what is appended, for ever.

    A line is yielded when it has its line feed. Rotation, by harken or others, is followed; a
    file that was cut or removed is a problem, and reading goes on with what comes next. A log that
    is not there yet is waited for.

    Args:
        last: How many of those that are there already; None for all of them.

        report: Called with each problem; by default they are forgotten.

        wait: Called when there is nothing new; by default it sleeps for `POLL_SECONDS`. What it
            raises ends this.
    """
    follower = _Follower(os.fsdecode(path), where, report or _forget)
    pause = wait or _sleep
    try:
        yield from follower.begin(last)
        while True:
            found = False
            for entries in follower.poll():
                found = True
                yield entries
            if not found:
                pause()
    finally:
        follower.close()


def _sleep() -> None:
    time.sleep(POLL_SECONDS)


def _forget(problem: Problem) -> None:
    """
    Let a problem be nobody's.
    """


class _Follower:
    """
    The live file of a log, and how far it was read.
    """

    def __init__(self, path: str, where: Filter, report: Report) -> None:
        self._path = path
        self._where = where
        self._report = report
        self._scan = Scan(msgspec.structs.replace(where, after=None), report)
        self._fd: int | None = None
        self._at = 0
        self._passing_over = False
        self._is_missing = False
        self._is_replaced = False
        # The number of the last record that was read, wanted or not.
        self._seq = 0

    def close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def begin(self, last: int | None) -> Iterator[list[Entry]]:
        """
        Yield what is there already.
        """
        try:
            trail = Trail(self._path, self._report)
        except MissingLogError as error:
            self._miss(str(error))
            return
        with trail:
            entries = trail.entries(self._where, last=last)
            while last != 0 and (found := list(islice(entries, _AT_ONCE))):
                yield found
            live = trail.files.live
            if live is not None:
                self._take(live, _begin_of_last(live))
            newest = next(filter(None, map(trail.read, trail.newest())), None)
            self._seq = 0 if newest is None else newest.seq

    def poll(self) -> Iterator[list[Entry]]:
        """
        Yield what is new.
        """
        entries = self._appended()
        if entries:
            yield entries
        elif not self._was_replaced():
            return
        elif self._fd is not None and not self._is_replaced:
            # Who began to write before the file was renamed is still writing to it.
            self._is_replaced = True
        else:
            self._is_replaced = False
            yield from self._begun()

    def _appended(self) -> list[Entry]:
        """
        Return what was appended to the file that is open.
        """
        if self._fd is None:
            return []
        size = os.fstat(self._fd).st_size
        if size < self._at:
            self._tell(f"the file was cut to {size} bytes; it is read from its begin")
            self._at, self._passing_over = 0, False
        data = read_at(self._fd, self._at, min(size - self._at, _MOST))
        whole = data.rfind(b"\n") + 1
        if self._passing_over and whole:
            feed = data.find(b"\n") + 1
            self._at += feed
            data, whole, self._passing_over = data[feed:], whole - feed, False
        elif not whole and len(data) > MAX_LINE:
            if not self._passing_over:
                self._tell(f"a line has more than {MAX_LINE} bytes and is no record; left out")
            self._at, self._passing_over = self._at + len(data), True
        lines, at = data[:whole], self._at
        self._at += whole
        start = start_of(lines[lines.rfind(b"\n", 0, -1) + 1 :][:512])
        self._seq = self._seq if start is None else start.seq
        return list(self._scan.decoded(self._path, lines, at))

    def _was_replaced(self) -> bool:
        try:
            found = os.stat(self._path)
        except FileNotFoundError:
            self._miss(f"{self._path} is gone")
            return False
        self._is_missing = False
        return self._fd is None or not os.path.samestat(found, os.fstat(self._fd))

    def _begun(self) -> Iterator[list[Entry]]:
        """
        Yield what is in the files that were begun and left since; go on with the newest.
        """
        try:
            trail = Trail(self._path, self._report)
        except TrailError as error:
            self._miss(str(error))
            return
        with trail:
            live = trail.files.live
            if live is None:
                return
            for segment in trail.files.segments:
                if segment.seq > self._seq and not segment.live:
                    # There may be many, and whoever takes them may be slow.
                    entries = self._scan.forwards(segment)
                    while found := list(islice(entries, _AT_ONCE)):
                        yield found
            self._take(live, 0)

    def _take(self, live: Segment, at: int) -> None:
        self.close()
        with live.opened() as fd:
            self._fd = os.dup(fd)
        self._at, self._passing_over = at, False

    def _miss(self, why: str) -> None:
        if not self._is_missing:
            self._tell(f"{why}; waiting for it")
        self._is_missing = True

    def _tell(self, message: str) -> None:
        self._report(Problem(self._path, None, message))


def _begin_of_last(live: Segment) -> int:
    """
    Return where the line begins that is not finished, or where the next one will.
    """
    with live.opened() as fd:
        at = live.size
        while at > 0:
            start = max(0, at - _MOST)
            feed = read_at(fd, start, at - start).rfind(b"\n")
            if feed >= 0:
                return start + feed + 1
            at = start
    return 0
