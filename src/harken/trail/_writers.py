"""
Who wrote what: the counts of writers, what they say is lost, and what they put beside the log.
"""

from __future__ import annotations

import os
from collections import defaultdict

import msgspec

from harken.record import GENESIS
from harken.trail._line import Damage, Line, examine
from harken.trail.files import Segment
from harken.trail.findings import Findings, Weight

MAX_WRITERS = 100_000
"""Writers that never said that they ended, and of which the count is kept."""


class _Lost(msgspec.Struct):
    """
    The metadata of ``audit.lost``.
    """

    first_n: int
    last_n: int
    reason: str = "unknown"
    count: int = 0
    spilled: int = 0
    merged: int = 0
    unsynced: int = 0
    spill_file: str | None = None
    spill_head: str | None = None


class _LostRecord(msgspec.Struct):
    metadata: _Lost


class _Gap(msgspec.Struct):
    """
    Numbers of a writer that are not in the log.
    """

    first: int
    last: int
    file: str
    line: int


class _Told(msgspec.Struct):
    """
    What the log last said about a spill file.

    Attributes:
        count: How many records are there, and not in the log.
    """

    head: str
    count: int
    file: str
    line: int


class Writers:
    """
    Counts what each writer wrote.

    Attributes:
        counts: From each writer that has not ended to its last number.

        seen: From each of them to the place of its last line, counted over all files.

        lost: How many records are gone for good, as far as that can be known.

        spilled: How many are beside the log.

        unsynced: How many the disk did not confirm.
    """

    def __init__(self, findings: Findings) -> None:
        self.counts: dict[str, int] = {}
        self.seen: dict[str, int] = {}
        self.lost = 0
        self.spilled = 0
        self.unsynced = 0
        self._findings = findings
        self._gaps: defaultdict[str, list[_Gap]] = defaultdict(list)
        self._spills: dict[str, _Told] = {}
        # Whether a writer may have written before without our having seen it.
        self._may_be_known = False

    def gap(self) -> None:
        """
        Note that lines are missing before the next one: any writer may have written any of them.
        """
        self._may_be_known = True
        self._close_gaps()
        self.counts.clear()
        self.seen.clear()

    def jump(self, writer: str, n: int, file: str, number: int) -> None:
        """
        Note that the number *n* of *writer* does not follow its last one.
        """
        last = self.counts.get(writer)
        if last is None and self._may_be_known:
            pass
        elif last is not None and n <= last:
            self._add(
                "count",
                "tampered",
                file,
                number,
                f"the writer {writer} counts {n} after {last}",
            )
        elif n > (last or 0) + 1:
            self._gaps[writer].append(_Gap((last or 0) + 1, n - 1, file, number))
        if last is None and len(self.counts) >= MAX_WRITERS:
            self._forget(next(iter(self.counts)))
            self._may_be_known = True

    def tell(self, line: Line, file: str, number: int) -> None:
        """
        Take note of an ``audit.lost`` record.
        """
        try:
            lost = msgspec.json.decode(line.content, type=_LostRecord).metadata
        except msgspec.DecodeError as error:
            self._add("lost", "undecided", file, number, f"what is lost cannot be read: {error}")
            return
        gone = 0
        for gap in self._gaps.pop(line.writer, []):
            if lost.first_n <= gap.first and gap.last <= lost.last_n:
                gone += gap.last - gap.first + 1
            else:
                self._lose(line.writer, gap)
        self._say_lost(line.writer, lost, gone, file, number)
        if lost.spill_file is not None and lost.spill_head is not None:
            before = self._spills.get(lost.spill_file)
            count = lost.spilled - lost.merged + (0 if before is None else before.count)
            self._spills[lost.spill_file] = _Told(lost.spill_head, count, file, number)

    def ended(self, writer: str) -> None:
        """
        Note that *writer* has written its last line.
        """
        for gap in self._gaps.pop(writer, []):
            self._lose(writer, gap)
        self._forget(writer)

    def end(self, spills: tuple[Segment, ...]) -> None:
        """
        Look at what is beside the log, once all of the log was seen.
        """
        self._close_gaps()
        for spill in spills:
            self._look_at(spill, self._spills.pop(os.path.basename(spill.path), None))
        for name, told in self._spills.items():
            if told.count <= 0:
                # What was there is in the log now.
                continue
            self._add(
                "spill",
                "incomplete",
                told.file,
                told.line,
                f"the file {name}, with {told.count} records that were kept beside the log, is "
                "not here",
            )

    def _look_at(self, spill: Segment, told: _Told | None) -> None:
        """
        Check a spill file: a chain of its own, of which the log names the end.
        """
        path = spill.path
        seq, head, number, told_at = 0, GENESIS, 0, 0
        for number, line in enumerate(spill.lines(), 1):
            found = examine(line)
            if isinstance(found, Damage):
                weight: Weight = "incomplete" if found.kind == "torn" else "tampered"
                self._add(found.kind, weight, path, number, found.message)
                continue
            for fault in found.faults:
                self._add(fault.kind, fault.weight, path, number, fault.message)
            if (found.prev, found.seq) != (head, seq + 1):
                self._add(
                    "chain", "tampered", path, number, "the line does not follow the one before"
                )
            seq, head = found.seq, found.hash
            if told is not None and head == told.head:
                told_at = number
        if told is None or (told.count <= 0 and not told_at):
            # What the log has of an earlier file of this name is not missing.
            self._add(
                "spill",
                "incomplete",
                path,
                0,
                f"{number} records are kept here, and nothing in the log says so",
            )
        elif told.count <= 0 and told_at == number:
            self._add(
                "spill",
                "note",
                path,
                0,
                "the records in this file are in the log, too; its writer could not remove it",
            )
        elif not told_at:
            self._add(
                "spill",
                "tampered",
                path,
                number,
                f"the line that {told.file}:{told.line} names as the last one is not here",
            )
        elif told_at < number:
            self._add(
                "spill",
                "incomplete",
                path,
                told_at + 1,
                f"{number - told_at} records from here on are not mentioned in the log",
            )

    def _say_lost(self, writer: str, lost: _Lost, gone: int, file: str, number: int) -> None:
        self.lost += max(lost.count, gone - lost.spilled)
        self.spilled += lost.spilled - lost.merged
        self.unsynced += lost.unsynced
        numbers = f"{lost.first_n} to {lost.last_n}"
        what: list[str] = []
        if lost.count:
            what.append(f"{lost.count} records are lost")
        if lost.spilled > lost.merged:
            what.append(f"{lost.spilled - lost.merged} are in {lost.spill_file}")
        if lost.unsynced:
            what.append(f"{lost.unsynced} were not confirmed by the disk")
        if gone > lost.count + lost.spilled:
            what.append(f"{gone - lost.count - lost.spilled} more are not in the log")
        late = f"the next {lost.merged} lines are these records, written late"
        message = f"writer {writer}, {numbers}: {', '.join(what) or late} ({lost.reason})"
        self._add("lost", "incomplete" if what else "note", file, number, message)

    def _lose(self, writer: str, gap: _Gap) -> None:
        count = gap.last - gap.first + 1
        self.lost += count
        which = f"{gap.first} to {gap.last}" if count > 1 else str(gap.first)
        self._add(
            "gap",
            "incomplete",
            gap.file,
            gap.line,
            f"writer {writer}: {count} records before this line are lost ({which}), and nothing "
            "in the log says so",
        )

    def _close_gaps(self) -> None:
        for writer, gaps in self._gaps.items():
            for gap in gaps:
                self._lose(writer, gap)
        self._gaps.clear()

    def _forget(self, writer: str) -> None:
        self.counts.pop(writer, None)
        self.seen.pop(writer, None)

    def _add(self, kind: str, weight: Weight, file: str, number: int, message: str) -> None:
        self._findings.add("completeness", kind, weight, file, number, message)
