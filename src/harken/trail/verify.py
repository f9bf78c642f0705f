"""
Verifying an audit log: whether it is what was written, and all of it.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterable
from hashlib import sha256
from itertools import zip_longest

import msgspec
import orjson

from harken.record import CONTROL_TYPES, SEAL, VERSION, RecordError, parse
from harken.trail._chain import Chain
from harken.trail._line import (
    BEFORE_ORIGIN,
    END,
    ORIGIN,
    START,
    Damage,
    Line,
    examine,
    has_known_members,
)
from harken.trail._seals import Seals
from harken.trail._writers import Writers
from harken.trail.anchors import Anchor
from harken.trail.files import (
    LONGEST,
    DamagedFileError,
    LogFiles,
    Progress,
    Segment,
    TrailError,
    open_log,
)
from harken.trail.findings import EXIT_CODES, PARTS, Finding, Findings, Part, Verdict, Weight
from harken.trail.keys import Key, PublicKey, WriterState

_COVERED = -SEAL - 1
_ORIGIN_WITHIN = 260

# Where the fields of a line stand that begins like most do.
_TO_THE_SECOND = len('{"timestamp":"2026-01-02T03:04:05.')
_MICROSECONDS_END = _TO_THE_SECOND + 6
_ID = 36
_EVENT_TYPE = b'","event_type":"'
_CONTROL = b'","event_type":"audit.'

_to_json = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode

# How many orders of members are remembered as known.
_MAX_SHAPES = 4096


class FileReport(msgspec.Struct, frozen=True):
    """
    One file of the log.

    Attributes:
        lines: How many it has, whatever they are.

        first_seq: The number of its first record; 0 when it has none.

        last_seq: The number of the last line that has its place in the chain.
    """

    file: str
    bytes: int
    lines: int
    first_seq: int
    last_seq: int


class PartReport(msgspec.Struct, frozen=True):
    """
    What was found about one part.

    Attributes:
        message: One sentence.
    """

    verdict: Verdict
    message: str


class Report(msgspec.Struct, frozen=True):
    """
    What a verification found.

    Attributes:
        verdict: The gravest of all parts that were asked for.

        exit_code: What `harken verify` exits with.

        path: The log.

        files: From the oldest to the newest.

        lines: How many lines were read.

        seq: The number of the last line; 0 when there is none.

        head: Its hash: keep it as an anchor for the next time.

        vouched_seq: The last line that a seal, a signature or an anchor vouches for; 0 for none.

        chain: Whether each line is as it was sealed, and follows the one before.

        seals: Whether checkpoints fit the log, and seals and signatures are genuine.

        completeness: Whether everything that was to be recorded is there.

        tail: Whether the log ends as its writers end it, and where anchors say.

        findings: All that was found, part by part, in the order of the lines.

        omitted: How many more there were.
    """

    verdict: Verdict
    exit_code: int
    path: str
    files: tuple[FileReport, ...]
    lines: int
    seq: int
    head: str
    vouched_seq: int
    chain: PartReport
    seals: PartReport
    completeness: PartReport
    tail: PartReport
    findings: tuple[Finding, ...]
    omitted: int


def verify(
    path: str | os.PathLike[str],
    *,
    keys: Iterable[Key] = (),
    public_keys: Iterable[PublicKey] = (),
    anchors: Iterable[Anchor] = (),
    states: Iterable[WriterState] = (),
    chain_only: bool = False,
    progress: Progress | None = None,
) -> Report:
    """
    Verify the log at *path*, with all its files, in one pass and bounded memory.

    It may be written meanwhile: what is appended after the call began is not looked at. Read
    anchors and states before, so that they speak of what is there.

    Args:
        keys: What seals are checked with.

        public_keys: What signatures are checked with.

        anchors: Heads of the log that were kept elsewhere.

        states: How far writers have sealed the log, and where they left it, which shows that the
            end was cut off.

        chain_only: Whether only the chain decides. It shows accidents, and not who can write.

        progress: Told how many bytes were read.

    Raises:
        TrailError: There is no such log, or it cannot be read.
    """
    with open_log(path) as log:
        verifier = _Verifier(log, keys, public_keys, anchors, progress)
        if not verifier.asked and log.is_foreign:
            raise TrailError(
                f"{log.path} is no audit log: none of its lines is a record; give the path of one"
            )
        for segment in log.segments:
            verifier.read(segment)
        return verifier.report(states, chain_only=chain_only)


class _Closing(msgspec.Struct):
    reason: str = ""


class _Close(msgspec.Struct):
    metadata: _Closing


class _Verifier:
    """
    Reads a log from its first line to its last.
    """

    def __init__(
        self,
        log: LogFiles,
        keys: Iterable[Key],
        public_keys: Iterable[PublicKey],
        anchors: Iterable[Anchor],
        progress: Progress | None,
    ) -> None:
        self._log = log
        self._progress = progress
        self._findings = Findings()
        self._files: list[FileReport] = []
        self._lines = 0
        self._chain = Chain(self._findings, self._gap)
        self._writers = Writers(self._findings)
        self._seals = Seals(
            keys, public_keys, self._findings, self._chain.hash_of, self._vouch_for_line
        )
        self._anchors: defaultdict[int, list[Anchor]] = defaultdict(list)
        for anchor in anchors:
            self._anchors[anchor.seq].append(anchor)
        self._matched: set[Anchor] = set()
        self._met: dict[Anchor, tuple[str, int]] = {}
        # Places are counted over all files, and never begin anew.
        self._place = 0
        self._last_event = 0
        self._vouched = 0
        self._vouched_seq = 0
        # The last place that an anchor knows: whoever cuts off what is before it is found out.
        self._anchored = 0
        self._shapes: set[tuple[str, ...]] = set()
        self._second = b""
        self._first = True
        self._closed_at = -1
        self._closed_for = ""

    def _gap(self) -> None:
        self._writers.gap()
        self._seals.gap()

    # Reading.

    def read(self, segment: Segment) -> None:
        """
        Read one file.
        """
        if segment.seq == 0 and not segment.live:
            self._skip(segment)
            return
        before = self._lines
        try:
            self._read(segment)
        except DamagedFileError as error:
            number = self._lines - before + 1
            self._findings.add("chain", "packed", "tampered", segment.path, number, str(error))
            self._chain.excuse()
            self._gap()
        self._files.append(
            FileReport(
                segment.path, segment.size, self._lines - before, segment.seq, self._chain.seq
            )
        )

    def _skip(self, segment: Segment) -> None:
        if segment.damage is None:
            self._findings.add(
                "completeness",
                "no_record",
                "incomplete",
                segment.path,
                0,
                "nothing in the file is a record of this log; it was not read",
            )
        else:
            self._findings.add("chain", "packed", "tampered", segment.path, 1, segment.damage)
            self._chain.excuse()
            self._gap()
        self._files.append(FileReport(segment.path, segment.size, 0, 0, self._chain.seq))

    def _read(self, segment: Segment) -> None:
        # Most lines are right, and most of the time is spent here: a line that differs in
        # anything from what is expected is looked at more closely.
        chain, counts, seen = self._chain, self._writers.counts, self._writers.seen
        hashes, anchors, path = chain.hashes, self._anchors, segment.path
        number, calm, whole = 0, False, True
        self._first = True
        try:
            for line in segment.lines(self._progress):
                if not whole:
                    chain.extend(line)
                    whole = line.endswith(b"\n")
                    continue
                number += 1
                if calm:
                    digest = sha256(line[:_COVERED]).hexdigest()
                    if line[-END:] == f',"prev":"{chain.head}","hash":"{digest}"}}\n'.encode():
                        at = line.rfind(BEFORE_ORIGIN, -_ORIGIN_WITHIN, -END)
                        origin = ORIGIN.fullmatch(line, at + len(BEFORE_ORIGIN), len(line) - END)
                        if (
                            origin is not None
                            and self._is_plain(line, chain.seq + 1)
                            and self._is_well_formed(line)
                        ):
                            self._place += 1
                            self._last_event = self._place
                            chain.seq += 1
                            chain.head = digest
                            chain.number = number
                            hashes.append(digest)
                            writer, n = origin[1].decode(), int(origin[2])
                            if counts.get(writer) != n - 1:
                                self._writers.jump(writer, n, path, number)
                            counts[writer] = n
                            seen[writer] = self._place
                            if anchors and chain.seq in anchors:
                                self._compare(chain.seq, digest, path, number)
                            continue
                self._look_at(line, path, number)
                calm = chain.calm
                whole = line.endswith(b"\n") or len(line) < LONGEST
        finally:
            self._lines += number
        if not whole:
            chain.end_of_file(path, number)

    def _is_plain(self, line: bytes, seq: int) -> bool:
        """
        Return whether a line begins as the record of an event does whose number is *seq*.
        """
        if line[:_TO_THE_SECOND] != self._second:
            start = START.match(line)
            if start is None:
                return False
            self._second = line[:_TO_THE_SECOND]
        middle = f'Z","seq":{seq},"v":{VERSION},"id":"'.encode()
        end = _MICROSECONDS_END + len(middle) + _ID
        return (
            line[_TO_THE_SECOND:_MICROSECONDS_END].isdigit()
            and line.startswith(middle, _MICROSECONDS_END)
            and line.startswith(_EVENT_TYPE, end)
            and not line.startswith(_CONTROL, end)
        )

    def _is_well_formed(self, line: bytes) -> bool:
        """
        Return whether a line is a JSON object with the right members, none of them twice.
        """
        try:
            record = orjson.loads(line)
            # A member that stands there twice is gone after decoding, so a text that encodes to
            # itself holds none. Only what has several spellings needs the slower look.
            if orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE) != line and (
                _to_json(record) != line[:-1].decode("ascii", "replace")
            ):
                parse(line)
        except (ValueError, RecordError):
            return False
        names = tuple(record)
        if names in self._shapes:
            return True
        if not has_known_members(names):
            return False
        if len(self._shapes) < _MAX_SHAPES:
            self._shapes.add(names)
        return True

    def _look_at(self, data: bytes, file: str, number: int) -> None:
        chain, writers = self._chain, self._writers
        line = examine(data)
        if isinstance(line, Damage):
            if len(data) == LONGEST:
                line = Damage("too_long", f"the line has more than {LONGEST - 1} bytes")
            chain.damage(line, data, file, number)
            self._seals.gap()
            return
        begins = not chain.first_seq
        if not chain.place(line, file, number, first=self._first):
            return
        self._first = False
        self._place += 1
        if begins:
            # The line before is not here, but this one knows its hash.
            self._compare(line.seq - 1, line.prev, file, number)
        self._compare(line.seq, line.hash, file, number)
        if writers.counts.get(line.writer) != line.n - 1:
            writers.jump(line.writer, line.n, file, number)
        writers.counts[line.writer] = line.n
        writers.seen[line.writer] = self._place
        if line.event_type not in CONTROL_TYPES:
            self._last_event = self._place
        elif line.event_type == "audit.checkpoint":
            self._seals.judge(line, file, number)
        elif line.event_type == "audit.lost":
            writers.tell(line, file, number)
        elif line.event_type == "audit.close":
            self._close(line)

    def _close(self, line: Line) -> None:
        self._closed_at = self._place
        try:
            self._closed_for = msgspec.json.decode(line.content, type=_Close).metadata.reason
        except msgspec.DecodeError:
            self._closed_for = ""
        if self._closed_for == "shutdown":
            self._writers.ended(line.writer)

    # What vouches for the log.

    def _compare(self, seq: int, digest: str, file: str, number: int) -> None:
        """
        Compare a line with the anchors that name it.
        """
        for anchor in self._anchors.get(seq, ()):
            if anchor.hash == digest:
                self._matched.add(anchor)
                self._vouch_for_line(seq)
                self._anchored = max(self._anchored, self._place - (self._chain.seq - seq))
            else:
                self._met[anchor] = (file, number)

    def _vouch_for_line(self, seq: int) -> None:
        place = self._place - (self._chain.seq - seq)
        if place >= self._vouched:
            self._vouched, self._vouched_seq = place, seq

    def _judge_anchors(self) -> None:
        chain = self._chain
        judged = 0
        older: list[Anchor] = []
        for anchor in sorted(
            (one for some in self._anchors.values() for one in some if one not in self._matched),
            key=lambda one: one.seq,
        ):
            which = f"the anchor {anchor.file}:{anchor.line}"
            if anchor in self._met:
                file, number = self._met[anchor]
                self._tail(
                    "anchor",
                    "tampered",
                    file,
                    number,
                    f"the line {anchor.seq} has another hash than {which} says: it, or a line "
                    "before it, was rewritten",
                )
            elif anchor.seq > chain.seq:
                self._tail(
                    "anchor",
                    "tampered",
                    chain.file or self._log.path,
                    chain.number,
                    f"the log ends with the line {chain.seq}, and {which} knows the line "
                    f"{anchor.seq}: the end was cut off, or this is an older copy",
                )
            elif anchor.seq < chain.first_seq:
                older.append(anchor)
                continue
            else:
                self._tail(
                    "anchor",
                    "note",
                    self._log.path,
                    0,
                    f"{which} cannot be compared: the line {anchor.seq} is damaged or not here",
                )
            judged += 1
        alone = not judged and not self._matched
        for anchor in older:
            self._tail(
                "anchor",
                "undecided" if alone else "note",
                self._log.path,
                0,
                f"the anchor {anchor.file}:{anchor.line} cannot be judged: the line {anchor.seq} "
                f"is older than the oldest one here, {chain.first_seq}",
            )

    # The whole.

    def _judge_files(self) -> None:
        for copy, of in self._log.copies:
            if copy.live:
                self._findings.add(
                    "chain",
                    "rollback",
                    "tampered",
                    copy.path,
                    1,
                    f"the file is an older copy of {of.path}",
                )
            else:
                self._findings.add(
                    "completeness",
                    "copy",
                    "note",
                    copy.path,
                    0,
                    f"the file begins like {of.path}; it was not read",
                )
        segments = self._log.segments
        if sum(segment.begins_log for segment in segments) > 1:
            # The numbers of the lines say nothing about the order of the files.
            return
        for segment, after in zip_longest(segments, segments[1:]):
            named = segment.last_seq_by_name
            if named is not None and not (
                segment.seq <= named and (after is None or not after.seq or named < after.seq)
            ):
                self._findings.add(
                    "chain",
                    "name",
                    "tampered",
                    segment.path,
                    1,
                    f"the file is called after the line {named}, and begins with the line "
                    f"{segment.seq}: files were exchanged or renamed",
                )
            if segment.live and after is not None and after.seq:
                self._findings.add(
                    "chain",
                    "rollback",
                    "tampered",
                    segment.path,
                    1,
                    f"the file begins with the line {segment.seq}, and {after.path} with the line "
                    f"{after.seq}: it is an older one",
                )

    def _judge_tail(self) -> None:
        chain = self._chain
        file, number = chain.file or self._log.path, chain.number
        if not chain.seq:
            self._tail("empty", "incomplete", file, 0, "the log has no record")
            return
        last = self._log.segments[-1]
        closed = self._closed_at == self._place
        if closed and self._closed_for == "rotate" and not last.live:
            self._tail(
                "missing",
                "tampered",
                file,
                number,
                f"the line {chain.seq} ends this file, and the one that it goes on in is not here",
            )
        at_work = [name for name, place in self._writers.seen.items() if place > self._vouched]
        if not closed and not at_work:
            # Vouched for to the last line; yet somebody was not done.
            at_work = list(self._writers.seen)[-1:]
        if at_work:
            names = at_work[-1] if len(at_work) == 1 else f"{len(at_work)} writers"
            self._tail(
                "no_end",
                "incomplete",
                file,
                number,
                f"{names} did not say goodbye: they were killed, are still at work, or the end "
                "was cut off",
            )
        if not self.asked:
            self._tail(
                "unvouched",
                "incomplete",
                file,
                number,
                "nothing vouches for the log: whoever can write to it can write another one; give "
                "a key or an anchor",
            )
        elif self._last_event > self._vouched:
            first = self._vouched_seq + 1
            self._tail(
                "unvouched",
                "incomplete",
                file,
                number,
                f"nothing vouches for the lines from {first} to {chain.seq}",
            )
        elif chain.seq < self._seals.known_seq:
            self._tail(
                "end",
                "incomplete",
                file,
                number,
                f"the log ends with the line {chain.seq}, and its writer's key file knows the line "
                f"{self._seals.known_seq}: the end was cut off, or this is an older copy",
            )
        elif not at_work and not (self._anchored == self._place or self._seals.knows_the_end):
            self._tail(
                "end",
                "incomplete",
                file,
                number,
                f"whether the log ended with the line {chain.seq}, nothing here can tell: what was "
                "there may have been cut off; the key file of the writer that ended there, or an "
                "anchor of this line, would",
            )

    @property
    def asked(self) -> bool:
        """
        Whether there is anything that the log can be compared with.
        """
        return self._seals.asked or bool(self._anchors)

    def _tail(self, kind: str, weight: Weight, file: str, number: int, message: str) -> None:
        self._findings.add("tail", kind, weight, file, number, message)

    def report(self, states: Iterable[WriterState], *, chain_only: bool) -> Report:
        """
        Say what was found.
        """
        chain = self._chain
        chain.end(in_progress=self._log.in_progress)
        self._judge_files()
        if not chain_only:
            self._writers.end(self._log.spills)
            closed = self._closed_at == self._place and self._closed_for == "shutdown"
            file = chain.file or self._log.path
            self._seals.end(states, chain.seq, file, chain.number, must=closed)
            self._judge_anchors()
            self._judge_tail()
        asked: tuple[Part, ...] = ("chain",) if chain_only else PARTS
        verdict = self._findings.verdict(*asked)
        parts = {
            part: PartReport(self._verdict_of(part), message)
            if part in asked
            else PartReport("none", "not asked for")
            for part, message in self._messages().items()
        }
        order = {file.file: number for number, file in enumerate(self._files)}
        kept = sorted(
            (finding for finding in self._findings.kept if finding.part in asked),
            key=lambda one: (PARTS.index(one.part), order.get(one.file, -1), one.line),
        )
        return Report(
            verdict=verdict,
            exit_code=EXIT_CODES[verdict],
            path=self._log.path,
            files=tuple(self._files),
            lines=self._lines,
            seq=chain.seq,
            head=chain.head,
            vouched_seq=self._vouched_seq,
            chain=parts["chain"],
            seals=parts["seals"],
            completeness=parts["completeness"],
            tail=parts["tail"],
            findings=tuple(kept),
            omitted=self._findings.omitted,
        )

    def _verdict_of(self, part: Part) -> Verdict:
        found = self._findings.verdict(part)
        if found == "ok" and part == "completeness" and self._chain.missing:
            # Why they are is said with the chain.
            return "incomplete"
        return "none" if found == "ok" and part == "seals" and not self._seals.asked else found

    def _messages(self) -> dict[Part, str]:
        chain, writers = self._chain, self._writers
        lines = f"{_count(self._lines, 'line')} in {_count(len(self._files), 'file')}"
        counted = [
            text
            for count, text in (
                (writers.lost, f"{_count(writers.lost, 'record')} lost"),
                (writers.spilled, f"{writers.spilled:,} beside the log"),
                (writers.unsynced, f"{writers.unsynced:,} not confirmed by the disk"),
                (chain.missing, f"{_count(chain.missing, 'line')} missing"),
            )
            if count
        ]
        missing = counted or self._findings.reservations("completeness")[:1]
        if chain.recovered:
            missing.append(f"repaired {_count(chain.recovered, 'time')}")
        return {
            "chain": f"{lines}, head {chain.seq} {chain.head}",
            "seals": self._seals_message(),
            "completeness": ", ".join(missing) or "nothing is missing",
            "tail": f"vouched for up to the line {self._vouched_seq:,} of {chain.seq:,}",
        }

    def _seals_message(self) -> str:
        seals = self._seals
        found = f"{_count(seals.checkpoints, 'checkpoint')}, {seals.sealed:,} sealed"
        if seals.signed:
            found += f", {seals.signed:,} signed"
        if not seals.asked:
            return f"{found}; no key was given"
        verified = [f"{seals.verified:,} seals"] if seals.has_keys else []
        if seals.has_public_keys:
            verified.append(f"{seals.signatures:,} signatures")
        return f"{found}; {' and '.join(verified)} verified"


def _count(count: int, thing: str) -> str:
    return f"{count:,} {thing}{'' if count == 1 else 's'}"
