"""
Looking through the lines of one file: all of them, or a part, forwards or backwards.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import msgspec

from harken.record import MAX_LINE, rfc3339
from harken.trail._line import START
from harken.trail.entries import UNREADABLE, Entry, Problem, Report
from harken.trail.files import DamagedFileError, Segment, read_at
from harken.trail.filters import NOTHING, Filter, Matcher, row_type

# Lines that are read at once: what fits into the caches of a processor is looked through fastest.
_BLOCK = 1 << 18

MOST = 64 << 20
"""Bytes that are looked at for something that need not be there."""

# How near bisection comes to where it wants to be; the rest is read.
_NEAR = 1 << 15

# How much of a file shows whether a needle is rare, and how often it may be in so many lines.
_SAMPLE = 1 << 20
_RARE = 0.15

# Timestamps of a file go back by no more than 2 s.
_SLACK_NS = 3_000_000_000

# A clock that was set back begins a new file. For a compressed one, whose end cannot be seen, it is
# taken that this was by no more than a day.
_SET_BACK_NS = 86_400_000_000_000

# What a line begins with by which its time is known has fewer bytes.
_BEGIN = 512

Range = tuple[int, int]

_Look = Callable[[str, bytes, int], Iterator[Entry]]


def could_hold(
    segment: Segment, after: Segment | None, where: Filter, *, quick: bool = False
) -> bool:
    """
    Return whether a wanted record may be in *segment*, by its first line and that of the file
    *after* it; if *quick*, as if no clock had ever been set back.
    """
    if segment.first is None:
        return True
    since, until = bounds(where)
    if until is not None and segment.first.timestamp > rfc3339(until):
        return False
    if since is None or after is None or after.first is None:
        return True
    # Of a plain file the end will be looked at.
    earliest = since if quick else max(0, since - _SET_BACK_NS)
    return segment.packed is None or after.first.timestamp >= rfc3339(earliest)


def bounds(where: Filter) -> tuple[int | None, int | None]:
    """
    Return between which timestamps the wanted records stand, in nanoseconds, with some slack.
    """
    since = None if where.since is None else max(0, where.since - _SLACK_NS)
    return since, None if where.until is None else where.until + _SLACK_NS


def narrowed(fd: int, segment: Segment, where: Filter) -> Range:
    """
    Return the part of a plain file in which the wanted records are: from one line to another.
    """
    since, until = bounds(where)
    begin, end = 0, segment.size
    # What is no log of ours has no order that could be relied on.
    if not segment.seq:
        return begin, end
    if since is not None:
        bound = rfc3339(since).encode()
        begin, _ = bisected(fd, begin, end, lambda line: line[1] < bound)
    if where.after is not None:
        seq = where.after.seq
        begin = max(begin, bisected(fd, 0, end, lambda line: int(line[2]) <= seq)[0])
    if until is not None:
        bound = rfc3339(until).encode()
        _, end = bisected(fd, begin, end, lambda line: line[1] <= bound)
    return begin, end


def bisected(
    fd: int, begin: int, end: int, is_before: Callable[[re.Match[bytes]], bool]
) -> tuple[int, int]:
    """
    Return where two lines begin that are near each other: one of which *is_before* holds, and a
    later one of which it does not; *begin* and *end* where there is none.
    """
    low, high = begin, end
    after = end
    while high - low > _NEAR:
        middle = (low + high) // 2
        found = _line_after(fd, middle, high)
        if found is None:
            high = middle
            continue
        start, line = found
        if is_before(line):
            low = start
        else:
            high, after = middle, start
    return low, after


def _line_after(fd: int, offset: int, end: int) -> tuple[int, re.Match[bytes]] | None:
    """
    Return where the first record begins that stands behind *offset*, and its begin.
    """
    at = offset
    size = 4096
    while at < end:
        block = read_at(fd, at, min(size, end - at))
        if not block:
            return None
        feed = block.find(b"\n")
        while feed >= 0:
            line = START.match(block, feed + 1)
            if line is not None:
                return at + feed + 1, line
            if len(block) - feed < _BEGIN and at + len(block) < end:
                break
            feed = block.find(b"\n", feed + 1)
        # The begin of a line may be cut by the end of the block.
        at += len(block) if feed < 0 or feed == 0 else feed
        size = _BLOCK
    return None


def _end_of_line(fd: int, offset: int, end: int) -> int:
    at = offset
    while at < end:
        block = read_at(fd, at, min(_BLOCK, end - at))
        feed = block.find(b"\n")
        if feed >= 0:
            return at + feed + 1
        if not block:
            break
        at += len(block)
    return end


def _reading(fd: int, begin: int, end: int) -> Callable[[int], bytes]:
    at = begin

    def read(size: int) -> bytes:
        nonlocal at
        data = read_at(fd, at, min(size, end - at))
        at += len(data)
        return data

    return read


class Scan:
    """
    What looks for the lines of one filter, and tells of lines that it cannot read.

    Args:
        fields: What `rows()` gives, and the types.
    """

    def __init__(self, where: Filter, report: Report, fields: Mapping[str, Any] = NOTHING) -> None:
        self._where = where
        self._matcher = Matcher(where, fields)
        self._decode_row = msgspec.json.Decoder(row_type(fields)).decode
        self._report = report

    def forwards(self, segment: Segment, *, growing: bool = False) -> Iterator[Entry]:
        """
        Yield what is wanted of a file.

        Args:
            growing: Whether its end may be half a line, because somebody writes it just now.
        """
        try:
            with segment.opened() as fd:
                if segment.packed is None:
                    yield from self._part(fd, segment, growing=growing)
                    return
                with segment.unpacked(fd) as file:
                    for offset, data in self._whole_lines(segment, file.read1, 0, growing=False):
                        yield from self.decoded(segment.path, data, offset)
        except DamagedFileError as error:
            # The problem names the file as well.
            message = str(error).removeprefix(f"{segment.path} ")
            self._report(Problem(segment.path, None, message))

    def rows(self, segment: Segment, *, growing: bool = False) -> Iterator[list[Any]]:
        """
        Yield what is wanted of a file, decoded as far as was asked for.
        """
        matcher = self._matcher
        needle = matcher.needle()
        if not matcher.gives or segment.packed is not None or (needle and needle[1]):
            for entry in self.forwards(segment, growing=growing):
                try:
                    yield [self._decode_row(entry.line)]
                except UNREADABLE:
                    self._no_record(segment.path, entry.offset)
            return
        with segment.opened() as fd:
            begin, end = narrowed(fd, segment, self._where)
            read = _reading(fd, begin, end)
            for offset, data in self._whole_lines(segment, read, begin, growing=growing):
                try:
                    rows = matcher.decode_lines(data)
                except UNREADABLE:
                    lines = self._one_by_one(segment.path, data, offset)
                    yield [matcher.decode(entry.line) for entry in lines]
                else:
                    yield matcher.wanted(rows)

    def backwards(
        self, segment: Segment, *, growing: bool = False, quick: bool = False
    ) -> Iterator[Entry]:
        """
        Yield what is wanted of a file, the last line first.

        Of a compressed one, all that is wanted is held in memory.

        Args:
            quick: Whether to look at the last `MOST` bytes of what may hold it only.
        """
        if segment.packed is not None:
            found = list(self.forwards(segment))
            while found:
                yield found.pop()
            return
        with segment.opened() as fd:
            begin, end = narrowed(fd, segment, self._where)
            if quick and end - begin > MOST:
                begin = _end_of_line(fd, end - MOST, end)
            look = self._look(fd, segment, begin, end)
            for offset, data in self._whole_lines_from_end(
                fd, segment, begin, end, growing=growing
            ):
                yield from reversed(list(look(segment.path, data, offset)))

    def _part(self, fd: int, segment: Segment, *, growing: bool) -> Iterator[Entry]:
        begin, end = narrowed(fd, segment, self._where)
        look = self._look(fd, segment, begin, end)
        read = _reading(fd, begin, end)
        for offset, data in self._whole_lines(segment, read, begin, growing=growing):
            yield from look(segment.path, data, offset)

    def _look(self, fd: int, segment: Segment, begin: int, end: int) -> _Look:
        """
        Return the faster way: to decode all lines, or those that hold some bytes.
        """
        found = self._matcher.needle()
        # Only of our own lines it is known how they are spelt.
        if found is None or not segment.seq:
            return self.decoded
        needle, is_rare = found
        if not is_rare:
            sample = read_at(fd, max(begin, (begin + end - _SAMPLE) // 2), _SAMPLE)
            is_rare = sample.count(needle) <= _RARE * sample.count(b"\n")
        return partial(self._nominated, needle) if is_rare else self.decoded

    # Lines.

    def _whole_lines(
        self, segment: Segment, read: Callable[[int], bytes], offset: int, *, growing: bool
    ) -> Iterator[tuple[int, bytes]]:
        """
        Yield pieces that begin and end with a line, and where they begin.
        """
        rest = b""
        skipped = 0
        while block := read(_BLOCK):
            if skipped:
                feed = block.find(b"\n") + 1
                if not feed:
                    skipped += len(block)
                    continue
                self._too_long(segment.path, offset, skipped + feed)
                offset += skipped + feed
                block, skipped = block[feed:], 0
            data = rest + block
            whole = data.rfind(b"\n") + 1
            rest = data[whole:]
            if whole:
                yield offset, data[:whole]
                offset += whole
            if len(rest) > MAX_LINE:
                rest, skipped = b"", len(rest)
        if (rest or skipped) and not growing:
            self._torn(segment.path, offset, skipped or len(rest))

    def _whole_lines_from_end(
        self, fd: int, segment: Segment, begin: int, end: int, *, growing: bool
    ) -> Iterator[tuple[int, bytes]]:
        """
        Yield such pieces from the last to the first.
        """
        at = end
        rest = b""
        skipped = 0
        ends_whole = at < segment.size
        while at > begin:
            start = max(begin, at - _BLOCK)
            data = read_at(fd, start, at - start) + rest
            at = start
            last = data.rfind(b"\n") + 1
            if skipped and (last or at == begin):
                self._too_long(segment.path, at + last, len(data) - last + skipped)
                data, skipped, ends_whole = data[:last], 0, True
            elif not ends_whole and last:
                if last < len(data) and not growing:
                    self._torn(segment.path, at + last, len(data) - last)
                data, ends_whole = data[:last], True
            cut = 0 if at == begin else data.find(b"\n") + 1
            if cut or at == begin:
                rest, data = data[:cut], data[cut:]
                if data and ends_whole:
                    yield at + cut, data
                elif data and not growing:
                    self._torn(segment.path, at, len(data))
            elif len(data) > MAX_LINE:
                rest, skipped = b"", skipped + len(data)
            else:
                rest = data

    # Records.

    def decoded(self, file: str, data: bytes, offset: int) -> Iterator[Entry]:
        """
        Yield what is wanted of whole lines, all of which are decoded.
        """
        matcher = self._matcher
        if len(data) > MAX_LINE:
            yield from self._one_by_one(file, data, offset)
            return
        try:
            rows = matcher.decode_lines(data)
        except UNREADABLE:
            yield from self._one_by_one(file, data, offset)
            return
        hits = matcher.hits(rows)
        if not hits:
            return
        lines = data.split(b"\n")
        if len(lines) != len(rows) + 1:
            yield from self._one_by_one(file, data, offset)
            return
        at = done = 0
        for hit in hits:
            at += sum(map(len, lines[done:hit])) + hit - done
            line = lines[hit] + b"\n"
            if matcher.holds(line):
                yield Entry(line, file, offset + at)
            at, done = at + len(line), hit + 1

    def _one_by_one(self, file: str, data: bytes, offset: int) -> Iterator[Entry]:
        for line in data.split(b"\n")[:-1]:
            line += b"\n"
            if self._is_wanted(file, line, offset):
                yield Entry(line, file, offset)
            offset += len(line)

    def _nominated(self, needle: bytes, file: str, data: bytes, offset: int) -> Iterator[Entry]:
        """
        Yield what is wanted of those lines that hold *needle*.
        """
        at = data.find(needle)
        while at >= 0:
            begin = data.rfind(b"\n", 0, at) + 1
            end = data.find(b"\n", at) + 1
            line = data[begin:end]
            if self._is_wanted(file, line, offset + begin):
                yield Entry(line, file, offset + begin)
            at = data.find(needle, end)

    def _is_wanted(self, file: str, line: bytes, offset: int) -> bool:
        if len(line) > MAX_LINE:
            self._too_long(file, offset, len(line))
            return False
        try:
            return self._matcher(line)
        except UNREADABLE:
            if line.strip():
                self._no_record(file, offset)
            return False

    def _no_record(self, file: str, offset: int) -> None:
        self._report(Problem(file, offset, "the line is no record; left out"))

    def _too_long(self, file: str, offset: int, size: int) -> None:
        message = f"the line has {size} bytes, and a record has at most {MAX_LINE}; left out"
        self._report(Problem(file, offset, message))

    def _torn(self, file: str, offset: int, size: int) -> None:
        message = f"the last line is not finished, {size} bytes of it are there; left out"
        self._report(Problem(file, offset, message))
