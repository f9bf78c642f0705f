"""
The chain of a log: which line follows which, and what stands between them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from hashlib import sha256

import msgspec

from harken.record import CHECKPOINT_EVERY, GENESIS
from harken.trail._line import Damage, Line
from harken.trail.findings import MAX_FINDINGS, Findings, Part, Weight

# How many hashes are kept, so that a late checkpoint can be compared with the line it speaks of.
_REMEMBERED = 65_536

# How much of damaged lines is kept, to compare parts of it with what writers said they found.
_KEPT = 4 << 20


class _Found(msgspec.Struct):
    """
    The metadata of ``audit.open`` and ``audit.recover``, as far as it explains what is missing.
    """

    reason: str = ""
    prev_file: str | None = None
    bytes: int = 0
    sha256: str = ""
    kept: bool = False
    seq: int = 0
    head: str = ""


class _Record(msgspec.Struct):
    metadata: _Found


class _Run:
    """
    Damaged lines that stand one behind the other.

    Attributes:
        last: The last of them.

        count: How many there are.

        told: The number of the last line that says what a writer found here; 0 before the first.
    """

    def __init__(self) -> None:
        self.count = 0
        self.told = 0
        self.last = Damage("", "")
        self.places: list[tuple[str, int, Damage]] = []
        self.size = 0
        self._content = bytearray()
        self._digest = sha256()
        # How many bytes at the beginning and at the end are accounted for.
        self._front = 0
        self._back = 0

    def add(self, damage: Damage, data: bytes, file: str, number: int) -> None:
        """
        Add a damaged line.
        """
        self.count += 1
        self.last = damage
        if len(self.places) < MAX_FINDINGS:
            self.places.append((file, number, damage))
        self.extend(data)

    def extend(self, data: bytes) -> None:
        """
        Add more of the last line, which is too long to be read at once.
        """
        self.size += len(data)
        self._digest.update(data)
        if self.size <= _KEPT:
            self._content += data
        else:
            self._content.clear()

    def drop_last(self) -> None:
        """
        Forget the last line.
        """
        if len(self.places) == self.count:
            self.places.pop()
        self.count -= 1
        self.last = self.places[-1][2] if self.places else Damage("", "")

    def tell(self, found: _Found, seq: int) -> None:
        """
        Note what the line *seq* tells: it may be of these bytes, or the first or last of them.
        """
        self.told = seq
        size = found.bytes
        if size == self.size and found.sha256 == self._digest.hexdigest():
            self._front = size
        elif size > self.size or not self._content:
            return
        elif found.kept and found.sha256 == sha256(self._content[self.size - size :]).hexdigest():
            self._back = size
        elif found.sha256 == sha256(self._content[:size]).hexdigest():
            self._front = size

    @property
    def accounted(self) -> bool:
        """
        Whether all of it was told of.
        """
        return self._front + self._back >= self.size


class _Owed(msgspec.Struct, frozen=True):
    """
    Missing lines that one of the next records may explain.
    """

    first: int
    last: int
    head: str
    file: str
    line: int


class _Stray(msgspec.Struct, frozen=True):
    """
    The last line of a branch beside the chain.

    Attributes:
        forks: Whether the branch begins where lines before it began, too.

        file: Where the branch begins.
    """

    seq: int
    hash: str
    forks: bool
    file: str
    line: int


class Chain:
    """
    Follows the chain from line to line, and says where it is broken.

    Args:
        gap: Called when lines are missing before the next one, and that was said.

    Attributes:
        seq: The number of the last line that has its place; 0 before the first.

        head: Its hash.

        file: The file that it stands in.

        number: The line there.

        hashes: Those of the last lines, without a gap.

        first_seq: The number of the first line.
    """

    def __init__(self, findings: Findings, gap: Callable[[], None]) -> None:
        self.seq = 0
        self.head = GENESIS
        self.file = ""
        self.number = 0
        self.hashes: deque[str] = deque(maxlen=_REMEMBERED)
        self.first_seq = 0
        self.missing = 0
        self.recovered = 0
        self._findings = findings
        self._gap = gap
        self._run: _Run | None = None
        # The last line of the file before, or of this one, if it has no end.
        self._torn: tuple[str, int] | None = None
        self._owed: _Owed | None = None
        # The last of the lines that are missing, as far as that was said last.
        self._gap_end = 0
        self._stray: _Stray | None = None
        # The first and the last of the recoveries that stand one behind the other.
        self._recoveries = (0, 0)
        # Set when it is known already why the next line does not follow.
        self._excused = False

    @property
    def calm(self) -> bool:
        """
        Whether a line that follows the last one has its place, and nothing else is to be said.
        """
        return self._run is None and self._torn is None and self._stray is None

    def hash_of(self, seq: int) -> str | None:
        """
        Return the hash of an earlier line; None when it is too far back, or behind a gap.
        """
        back = self.seq - seq
        return self.hashes[-1 - back] if 0 <= back < len(self.hashes) else None

    def excuse(self) -> None:
        """
        Note that it was said why the next line will not follow.
        """
        self._excused = True

    def damage(self, damage: Damage, data: bytes, file: str, number: int) -> None:
        """
        Add a damaged line.
        """
        self._say_torn()
        self._recoveries = (0, 0)
        if damage.kind == "torn":
            self._torn = file, number
            return
        if self._run is None or self._run.told:
            self._end_run()
            self._run = _Run()
        self._run.add(damage, data, file, number)

    def extend(self, data: bytes) -> None:
        """
        Add more of a damaged line that is too long.
        """
        if self._run is not None:
            self._run.extend(data)

    def end_of_file(self, file: str, number: int) -> None:
        """
        Note that the file ends, and its last line, which was too long, does not.
        """
        if self._run is not None:
            self._run.drop_last()
            if not self._run.count:
                self._run = None
        self._torn = file, number

    def place(self, line: Line, file: str, number: int, *, first: bool) -> bool:
        """
        Find the place of *line*; return whether it has one, and is the last line now.

        Args:
            first: Whether it is the first record in its file.
        """
        self._say_torn()
        if first:
            self._settle(None)
        for fault in line.faults:
            self._add(fault.kind, fault.weight, file, number, fault.message)
        if not self._has_place(line, file, number, first=first):
            return False
        self._settle(line)
        if not self.first_seq:
            self.first_seq = line.seq
        if line.seq != self.seq + 1:
            self.hashes.clear()
            self._gap_end = line.seq - 1
        self.hashes.append(line.hash)
        self.seq, self.head, self.file, self.number = line.seq, line.hash, file, number
        self._drop_stray()
        self._excused = False
        if line.event_type == "audit.recover":
            self._recover(line, file, number)
        return True

    def end(self, *, in_progress: bool) -> None:
        """
        Say what is still to be said when there are no more lines.

        Args:
            in_progress: Whether half a line at the end may be one that is being written.
        """
        self._settle(None)
        self._drop_stray()
        self._end_run()
        if self._torn is None:
            return
        if in_progress:
            self._add("torn", "note", *self._torn, "a line is being written", part="tail")
        else:
            self._add(
                "torn",
                "incomplete",
                *self._torn,
                "the last line has no end: its writer was stopped, or the file was cut",
                part="tail",
            )

    def _has_place(self, line: Line, file: str, number: int, *, first: bool) -> bool:
        follows = line.prev == self.head and line.seq == self.seq + 1
        run = self._run
        if run is not None and _is_recovery(line) and (follows or self._is_left(run, line, first)):
            # What a writer found, and the lines that say so, belong together.
            run.tell(_found(line), line.seq)
            run = None
        elif run is not None:
            replaced = not run.told and self._is_in_place_of(run, line)
            self._end_run()
            if replaced:
                self._gap()
                return True
        return follows or self._judge(line, file, number, run, first=first)

    def _is_in_place_of(self, run: _Run, line: Line) -> bool:
        return line.prev in run.last.hashes or (
            line.seq == self.seq + run.count + 1 and line.prev != self.head
        )

    def _is_left(self, run: _Run, line: Line, first: bool) -> bool:
        """
        Return whether *run* may be all that is left of a file that was emptied before *line*.
        """
        return bool(run.told) or (
            first and line.seq > self.seq + 1 and line.prev not in run.last.hashes
        )

    def _judge(self, line: Line, file: str, number: int, run: _Run | None, *, first: bool) -> bool:
        """
        Say why *line* does not follow the last one; return whether it has a place all the same.
        """
        stray = self._stray
        damaged = 0 if run is None else run.count
        if line.prev == self.head and first and self._skips(line):
            self._add(
                "skipped",
                "note",
                file,
                number,
                f"no line has the numbers {self.seq + 1} to {line.seq - 1}: whoever began this "
                "file could not know how far the log went",
            )
        elif line.prev == self.head:
            message = f"the line {line.seq} follows the line {self.seq} of its chain"
            self._add("seq", "tampered", file, number, message)
        elif not self.first_seq and line.seq > 1:
            self._add(
                "older",
                "incomplete",
                file,
                number,
                f"the lines 1 to {line.seq - 1 - damaged} are in older files, which are not here",
                part="completeness",
            )
            self._gap()
        elif first and line.seq == 1 and line.prev == GENESIS:
            self._add(
                "restart",
                "incomplete",
                file,
                number,
                f"the log begins anew, and nothing ties it to {self.file}",
                part="completeness",
            )
        elif stray is not None and (line.prev, line.seq) == (stray.hash, stray.seq + 1):
            if stray.forks:
                self._take_branch(stray)
                return True
            self._stray = msgspec.structs.replace(stray, seq=line.seq, hash=line.hash)
            return False
        elif line.hash == self.head:
            message = f"the line {line.seq} stands there twice"
            self._add("duplicate", "tampered", file, number, message)
            return False
        elif line.seq > self.seq + 1:
            self._miss(line, file, number, first=first)
        elif line.seq == self.seq + 1:
            self._add(
                "replaced",
                "tampered",
                self.file or file,
                self.number or number,
                f"the line {self.seq} is not the one that the line {line.seq} follows: it was "
                "altered and sealed anew, or what follows was",
            )
        else:
            self._drop_stray()
            is_copy = self.hash_of(line.seq) == line.hash
            forks = not is_copy and self.hash_of(line.seq - 1) == line.prev
            self._stray = _Stray(line.seq, line.hash, forks, file, number)
            if not forks:
                self._say_out_of_order(self._stray)
            return False
        return True

    def _skips(self, line: Line) -> bool:
        """
        Return whether a new file was begun without the one before it, which is here again.
        """
        return (
            self.seq + 1 < line.seq <= self.seq + 1 + CHECKPOINT_EVERY
            and line.event_type in {"audit.open", "audit.recover"}
            and _found(line).reason in {"deleted", "shrunk"}
        )

    def _take_branch(self, stray: _Stray) -> None:
        """
        Follow the branch of *stray*, which goes on: what stands before it was put there.
        """
        inserted = self.seq - stray.seq + 1
        number = stray.line - inserted
        which = "the line was" if inserted == 1 else f"{inserted} lines from here on were"
        self._stray = None
        if stray.file == self.file and number >= 1:
            message = f"{which} put before the line {stray.seq}"
            self._add("inserted", "tampered", stray.file, number, message)
        else:
            self._say_out_of_order(stray)
        self.seq, self.head = stray.seq, stray.hash
        self.hashes.clear()
        self._gap()

    def _drop_stray(self) -> None:
        stray, self._stray = self._stray, None
        if stray is not None and stray.forks:
            self._say_out_of_order(stray)

    def _say_out_of_order(self, stray: _Stray) -> None:
        message = f"the line {stray.seq} stands behind the line {self.seq}"
        self._add("order", "tampered", stray.file, stray.line, message)

    def _miss(self, line: Line, file: str, number: int, *, first: bool) -> None:
        owed = _Owed(self.seq + 1, line.seq - 1, line.prev, file, number)
        self.missing += owed.last - owed.first + 1
        self._gap()
        if self._excused:
            return
        if first and self._explanation(owed, line) is None:
            # A file may be emptied while somebody writes, who notices that later.
            self._owed = owed
        else:
            self._say_missing(owed, line)

    def _settle(self, line: Line | None) -> None:
        """
        Say what is missing once *line* explains it, or nothing can any more: then it is None.
        """
        owed = self._owed
        if owed is not None and (line is None or self._explanation(owed, line) is not None):
            self._say_missing(owed, line)
            self._owed = None

    def _say_missing(self, owed: _Owed, line: Line | None) -> None:
        which = (
            f"the lines {owed.first} to {owed.last}"
            if owed.last > owed.first
            else f"the line {owed.first}"
        )
        explained = None if line is None else self._explanation(owed, line)
        if explained is None:
            self._add(
                "missing",
                "tampered",
                owed.file,
                owed.line,
                f"{which} should stand before this one, and nothing in the log says why they do "
                "not",
            )
        else:
            self._add(
                "missing",
                "incomplete",
                owed.file,
                owed.line,
                f"{which} {explained}",
                part="completeness",
            )

    def _explanation(self, owed: _Owed, line: Line) -> str | None:
        begun = (owed.last + 1, line.seq - 1)
        if line.event_type == "audit.open" and (begun[0] == line.seq or begun == self._recoveries):
            found = _found(line)
            if found.reason == "deleted":
                return "were in a file that was deleted while the log was written"
            if found.reason == "renamed" and found.prev_file is None:
                return "were in a file that was moved away while the log was written"
        elif line.event_type == "audit.recover":
            found = _found(line)
            if found.reason == "shrunk" and (found.seq, found.head) == (owed.last, owed.head):
                return "were lost when the file was emptied or cut"
        return None

    def _recover(self, line: Line, file: str, number: int) -> None:
        self.recovered += 1
        found = _found(line)
        first, last = self._recoveries
        if line.seq != last + 1:
            first = line.seq
        self._recoveries = first, line.seq
        if found.reason != "shrunk":
            return
        if found.seq >= first:
            self._add(
                "cut",
                "incomplete",
                file,
                number,
                f"the file was cut back while the log was written: it had lines up to {found.seq}, "
                f"and those from {first} on are lost",
                part="completeness",
            )
            self._gap()
        elif self._has_another(found.seq, found.head):
            self._add(
                "cut",
                "incomplete",
                file,
                number,
                f"a copy was put in the place of the file while the log was written: the line "
                f"{found.seq} that was sealed is lost, and maybe others around it",
                part="completeness",
            )
            self._gap()

    def _has_another(self, seq: int, head: str) -> bool:
        """
        Return whether a line with another hash, or one that is long past, stands where the one that
        is told to be lost did; and not a gap, of which was told.
        """
        return self.hash_of(seq) != head and seq != self._gap_end

    def _say_torn(self) -> None:
        torn, self._torn = self._torn, None
        if torn is not None:
            # Nobody was there any more to repair a file that had been renamed.
            self._add(
                "torn",
                "incomplete",
                *torn,
                "the last line of the file has no end: its writer was stopped",
                part="completeness",
            )

    def _end_run(self) -> None:
        run, self._run = self._run, None
        if run is None:
            return
        if run.accounted:
            self._say_recovered(run)
            return
        for file, number, damage in run.places:
            self._add(damage.kind, "tampered", file, number, damage.message)

    def _say_recovered(self, run: _Run) -> None:
        for file, number, damage in run.places:
            # What looks like a record of the log may have been one.
            self._add(
                "recovered",
                "incomplete" if damage.hashes else "note",
                file,
                number,
                f"{damage.message}; the line {run.told} says so",
                part="completeness",
            )

    def _add(
        self,
        kind: str,
        weight: Weight,
        file: str,
        number: int,
        message: str,
        part: Part = "chain",
    ) -> None:
        self._findings.add(part, kind, weight, file, number, message)


def _is_recovery(line: Line) -> bool:
    return line.event_type == "audit.recover"


def _found(line: Line) -> _Found:
    try:
        return msgspec.json.decode(line.content, type=_Record).metadata
    except msgspec.DecodeError:
        return _Found()
