"""
Verifying: whatever is done to a log is found where it was done, and nothing else is.
"""

from __future__ import annotations

import fcntl
import gzip
import json
import lzma
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import msgspec
import pytest
from tests.trail.logs import (
    archives,
    ended,
    found,
    hash_of,
    lines_of,
    put,
    resealed,
    rewritten,
    sealed,
    struck,
    verdicts,
    write_log,
)

import harken.trail._writers
import harken.trail.files
import harken.trail.findings
from harken import Bus
from harken.record import GENESIS
from harken.sinks.audit import AuditLog, create_key
from harken.trail import (
    Anchor,
    Key,
    Report,
    TrailError,
    WriterState,
    head_of,
    read_key,
    read_state,
    verify,
)

Lines = list[bytes]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


@dataclass
class Keys:
    """
    A key of a log: the file of the agent, and what the auditor has.
    """

    agent: Path
    first: Key


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    agent = tmp_path / "agent.key"
    noted = tmp_path / "first.key"
    noted.write_text(f"{create_key(agent)}\n")
    return Keys(agent, read_key(noted))


def flip(lines: Lines) -> None:
    lines[4] = lines[4].replace(b'"number":4', b'"number":5')


def flip_the_hash(lines: Lines) -> None:
    lines[4] = lines[4][:-4] + (b"0" if lines[4][-4:-3] != b"0" else b"1") + lines[4][-3:]


def flip_the_seq(lines: Lines) -> None:
    lines[4] = lines[4].replace(b'"seq":5,', b'"seq":9,')


def break_the_json(lines: Lines) -> None:
    lines[4] = lines[4].replace(b'{"timestamp":', b'["timestamp":')


def edit_and_seal(lines: Lines) -> None:
    flip(lines)
    lines[4] = resealed(lines[4])


def insert_foreign(lines: Lines) -> None:
    lines.insert(4, b'{"event_type":"trail_test.struck"}\n')


def insert_sealed(lines: Lines) -> None:
    lines.insert(4, sealed(5, hash_of(lines[3])))


def insert_several(lines: Lines) -> None:
    lines.insert(4, sealed(5, hash_of(lines[3])))
    lines.insert(5, sealed(6, hash_of(lines[4]), n=2))


def append_sealed_branch(lines: Lines) -> None:
    lines.append(sealed(12, hash_of(lines[10])))


def delete(lines: Lines) -> None:
    del lines[4]


def delete_several(lines: Lines) -> None:
    del lines[4:8]


def swap(lines: Lines) -> None:
    lines[4], lines[5] = lines[5], lines[4]


def duplicate(lines: Lines) -> None:
    lines.insert(5, lines[4])


def duplicate_later(lines: Lines) -> None:
    lines.insert(9, lines[4])


def repeat_two_later(lines: Lines) -> None:
    lines[9:9] = lines[4:6]


def add_a_key(lines: Lines) -> None:
    lines[4] = lines[4].replace(b'"outcome":', b'"approved":true,"outcome":')


def duplicate_a_key(lines: Lines) -> None:
    lines[4] = lines[4].replace(b'"metadata":', b'"metadata":{},"metadata":')


def blank_line(lines: Lines) -> None:
    lines.insert(4, b"\n")


def blank_with_spaces(lines: Lines) -> None:
    lines.insert(4, b" \t\n")


def crlf(lines: Lines) -> None:
    lines[4] = lines[4][:-1] + b"\r\n"


def bom(lines: Lines) -> None:
    lines[0] = b"\xef\xbb\xbf" + lines[0]


def bom_and_crlf(lines: Lines) -> None:
    bom(lines)
    lines[0] = lines[0][:-1] + b"\r\n"


def nul_line(lines: Lines) -> None:
    lines.insert(4, bytes(4096) + b"\n")


def nul_before(lines: Lines) -> None:
    lines[4] = bytes(4096) + lines[4]


def glued(lines: Lines) -> None:
    lines[4] = b'{"timestamp":"2026' + lines[4]


def two_in_one(lines: Lines) -> None:
    lines[4] = lines[4][:-1] + b" " + lines.pop(5)


def too_long(lines: Lines) -> None:
    lines.insert(4, b"x" * (3 << 20) + b"\n")


def a_little_too_long(lines: Lines) -> None:
    lines.insert(4, b"x" * (1 << 20) + b"\n")


def not_utf8(lines: Lines) -> None:
    lines[4] = lines[4].replace(b'"number"', b'"n\xffmber"')


def split(lines: Lines) -> None:
    lines[4] = lines[4].replace(b',"event_type"', b'\n,"event_type"')


def reverse_all(lines: Lines) -> None:
    lines.reverse()


TAMPERING: list[tuple[Callable[[Lines], None], list[tuple[str, int]]]] = [
    (flip, [("altered", 5)]),
    (flip_the_hash, [("altered", 5)]),
    (flip_the_seq, [("altered", 5)]),
    (break_the_json, [("foreign", 5)]),
    (edit_and_seal, [("replaced", 5)]),
    (insert_foreign, [("foreign", 5)]),
    (insert_sealed, [("inserted", 5)]),
    (insert_several, [("inserted", 5)]),
    (append_sealed_branch, [("order", 14)]),
    (delete, [("missing", 5)]),
    (delete_several, [("missing", 5)]),
    (swap, [("missing", 5), ("order", 6)]),
    (duplicate, [("duplicate", 6)]),
    (duplicate_later, [("order", 10)]),
    (repeat_two_later, [("order", 10)]),
    (add_a_key, [("altered", 5)]),
    (duplicate_a_key, [("altered", 5)]),
    (blank_line, [("blank", 5)]),
    (blank_with_spaces, [("blank", 5)]),
    (crlf, [("crlf", 5)]),
    (bom, [("bom", 1)]),
    (bom_and_crlf, [("bom", 1), ("crlf", 1)]),
    (nul_line, [("nul", 5)]),
    (nul_before, [("nul", 5)]),
    (glued, [("glued", 5)]),
    (two_in_one, [("glued", 5), ("missing", 5)]),
    (too_long, [("too_long", 5)]),
    (a_little_too_long, [("too_long", 5)]),
    (not_utf8, [("altered", 5)]),
    (split, [("foreign", 5), ("foreign", 6)]),
]


class TestChain:
    @pytest.mark.parametrize(
        ("tamper", "expected"), TAMPERING, ids=[tamper.__name__ for tamper, _ in TAMPERING]
    )
    def test_tampering(
        self, path: Path, tamper: Callable[[Lines], None], expected: list[tuple[str, int]]
    ) -> None:
        """
        Whatever is done to a line is reported at that line, and every other line is still read.
        """
        write_log(path)
        lines = lines_of(path)
        tamper(lines)
        put(path, lines)

        report = verify(path, chain_only=True)

        assert (1, len(lines_of(path))) == (report.exit_code, report.lines)
        assert [(kind, "audit.jsonl", line) for kind, line in expected] == found(report)
        assert 13 == report.seq

    @pytest.mark.parametrize(("tamper", "missing"), [(delete, 1), (delete_several, 4), (flip, 0)])
    def test_what_is_missing(
        self, path: Path, tamper: Callable[[Lines], None], missing: int
    ) -> None:
        """
        A log from which lines were taken is not complete, whatever else is said of it.
        """
        write_log(path)
        lines = lines_of(path)
        tamper(lines)
        put(path, lines)

        report = verify(path)

        assert "tampered" == report.verdict == report.chain.verdict
        assert ("incomplete" if missing else "ok") == report.completeness.verdict
        lost = f"{missing} line{'s' if missing > 1 else ''} missing"
        assert (lost if missing else "nothing is missing") == report.completeness.message

    def test_untouched(self, path: Path) -> None:
        """
        A log that nobody touched has no finding, and its head is that of its last line.
        """
        write_log(path)

        report = verify(path, chain_only=True)

        assert ("ok", 0, ()) == (report.verdict, report.exit_code, report.findings)
        assert (13, hash_of(lines_of(path)[-1])) == (report.seq, report.head)

    def test_head_in_the_records(self, path: Path) -> None:
        """
        Records of every kind, with text of any script and numbers of any spelling, are in order.
        """
        bus = Bus()
        bus.attach(AuditLog(path))
        for text in ("naïve", "日本語", "\u2028", '"prev":"', "\\", "x" * 200_000):
            for envelope in struck(1, text):
                bus.publish(envelope.event)
        bus.close()

        assert ((), 9) == (verify(path, chain_only=True).findings, verify(path).lines)

    def test_several(self, path: Path) -> None:
        """
        Each place is reported, also when there are several.
        """
        write_log(path, 30)
        lines = lines_of(path)
        lines[4] = lines[4].replace(b'"number":4', b'"number":5')
        del lines[9]
        lines.insert(14, b"\n")
        put(path, lines)

        report = verify(path, chain_only=True)

        assert [
            ("altered", "audit.jsonl", 5),
            ("missing", "audit.jsonl", 10),
            ("blank", "audit.jsonl", 15),
        ] == found(report)

    def test_damage_where_lines_are_missing(self, path: Path) -> None:
        """
        A damaged line does not hide that others beside it are missing.
        """
        write_log(path, 30)
        lines = lines_of(path)
        lines[4] = b"garbage\n"
        del lines[5:8]
        put(path, lines)

        report = verify(path, chain_only=True)

        assert [("foreign", "audit.jsonl", 5), ("missing", "audit.jsonl", 6)] == found(report)

    def test_many(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        Findings that are too many to keep are counted.
        """
        monkeypatch.setattr(harken.trail.findings, "MAX_FINDINGS", 5)
        write_log(path, 30)
        put(path, [line[:-1] + b"\r\n" for line in lines_of(path)])

        report = verify(path, chain_only=True)

        assert (5, 28, 1) == (len(report.findings), report.omitted, report.exit_code)

    def test_sealed_anew(self, path: Path) -> None:
        """
        What only a new chain can hold - no JSON, members that stand there twice or are not known,
        another format - is named as well.
        """
        write_log(path)
        lines = lines_of(path)
        lines[2] = lines[2].replace(b'"schema_version":1', b'"schema_version":01')
        lines[3] = lines[3].replace(b'"text":""', b'"text":"","text":"x"')
        lines[4] = lines[4].replace(b'"metadata":', b'"approved":true,"metadata":')
        lines[5] = lines[5].replace(b'"v":1', b'"v":2')
        lines[6] = lines[6].replace(b'"seq":7', b'"seq":70')
        lines[7] = lines[7].replace(b'"seq":8', b'"seq":71')
        lines[8] = lines[8].replace(b'"id":', b'"number":9,"id":')
        put(path, rewritten(lines))

        report = verify(path, chain_only=True)

        assert [
            ("malformed", 3),
            ("duplicate_member", 4),
            ("member", 5),
            ("version", 6),
            ("seq", 7),
            ("malformed", 9),
        ] == [(kind, line) for kind, _, line in found(report) if kind != "missing"][:6]

    @pytest.mark.parametrize(
        ("old", "new", "kind"),
        [
            (b'"v":1', b'"v":2', "version"),
            (b'"metadata":', b'"approved":true,"metadata":', "member"),
        ],
    )
    def test_newer_harken(self, path: Path, old: bytes, new: bytes, kind: str) -> None:
        """
        What a newer harken may have written cannot be judged by this one; the rest is.
        """
        write_log(path)
        lines = lines_of(path)
        lines[5] = lines[5].replace(old, new)
        put(path, rewritten(lines))

        report = verify(path, chain_only=True)

        assert (2, [(kind, "audit.jsonl", 6)]) == (report.exit_code, found(report))

    def test_first_line(self, path: Path) -> None:
        """
        A damaged first line is reported there.
        """
        write_log(path)
        lines = lines_of(path)
        lines[0] = lines[0].replace(b'"start"', b'"stark"')
        put(path, lines)

        assert [("altered", "audit.jsonl", 1)] == found(verify(path, chain_only=True))

    def test_numbers_that_begin_late(self, path: Path) -> None:
        """
        A first line with no line before it has the number 1.
        """
        put(path, [sealed(5, GENESIS), sealed(1, "a" * 64)])

        assert [("seq", "audit.jsonl", 1), ("order", "audit.jsonl", 2)] == found(
            verify(path, chain_only=True)
        )


class TestForeignLines:
    def test_told(self, path: Path) -> None:
        """
        Foreign lines are harmless when the next writer has recorded them.
        """
        write_log(path)
        with path.open("ab") as file:
            file.write(b"logrotate was here\n\nand here\n")
        write_log(path)

        report = verify(path)

        assert [] == found(report, "tampered", "undecided", "incomplete")
        assert [("recovered", 14), ("recovered", 15), ("recovered", 16)] == [
            (kind, line) for kind, _, line in found(report, "note")
        ]

    def test_altered_before_it_was_told(self, path: Path) -> None:
        """
        A foreign line that looks like a record may have been one: it counts as a loss.
        """
        write_log(path)
        lines = lines_of(path)
        lines[-1] = lines[-1].replace(b'"lost":0', b'"lost":1')
        put(path, lines)
        write_log(path)

        report = verify(path)

        assert [("recovered", "audit.jsonl", 13)] == found(report)[:1]
        assert ("ok", "incomplete") == (report.chain.verdict, report.completeness.verdict)

    def test_changed_after_it_was_told(self, path: Path) -> None:
        """
        Foreign lines that are not those which were recorded are reported.
        """
        write_log(path)
        with path.open("ab") as file:
            file.write(b"logrotate was here\n")
        write_log(path)
        path.write_bytes(path.read_bytes().replace(b"was here", b"was never"))

        assert [("foreign", "audit.jsonl", 14)] == found(verify(path, chain_only=True))

    def test_more_than_was_told(self, path: Path) -> None:
        """
        A line that is put beside recorded ones is reported with them.
        """
        write_log(path)
        with path.open("ab") as file:
            file.write(b"logrotate was here\n")
        write_log(path)
        lines = lines_of(path)
        lines.insert(14, b"me too\n")
        put(path, lines)

        assert [("foreign", "audit.jsonl", 14), ("foreign", "audit.jsonl", 15)] == found(
            verify(path, chain_only=True)
        )

    def test_torn_line_that_could_not_be_cut(self, path: Path, tmp_path: Path) -> None:
        """
        Half a line that had to stay, because the file allows appending only, is recorded, and
        what was foreign before it is too.
        """
        write_log(path, close=False)
        lines = lines_of(path)
        torn, foreign = lines[-1][:100], b"foreign\n"
        kept = [*lines[:-1], foreign, torn + b"\n"]
        head = hash_of(lines[-2])
        first = sealed(
            11,
            head,
            event_type="audit.recover",
            reason="torn_tail",
            bytes=len(torn) + 1,
            sha256=sha256(torn + b"\n").hexdigest(),
            kept=True,
        )
        second = sealed(
            12,
            hash_of(first),
            n=2,
            event_type="audit.recover",
            reason="foreign_line",
            bytes=len(foreign),
            sha256=sha256(foreign).hexdigest(),
        )
        put(path, [*kept, first, second, sealed(13, hash_of(second), n=3)])

        report = verify(path, chain_only=True)

        assert (0, [("recovered", 11), ("recovered", 12)]) == (
            report.exit_code,
            [(kind, line) for kind, _, line in found(verify(path), "note")],
        )

        put(path, [*kept, first, sealed(12, hash_of(first), n=2)])
        assert [("foreign", "audit.jsonl", 11), ("foreign", "audit.jsonl", 12)] == found(
            verify(path, chain_only=True)
        )

    def test_with_half_a_line_behind_it(self, path: Path) -> None:
        """
        A writer that finds a foreign line, and half of one behind it, says both, in whatever order.
        """
        log = write_log(path, 3, close=False)
        with path.open("ab") as file:
            file.write(b"foreign\nhalf of")
        log.write(struck(1))
        log.close()

        report = verify(path)

        assert ([], [("recovered", "audit.jsonl", 5)]) == (found(report), found(report, "note"))

        lines = lines_of(path)
        assert b'"audit.recover"' in lines[6]
        put(path, [*lines[:4], b"strange\n", *lines[5:]])
        assert [("foreign", "audit.jsonl", 5)] == found(verify(path))
        put(path, [*lines[:6], *rewritten(lines[7:], hash_of(lines[5]))])
        assert ("foreign", "audit.jsonl", 5) in found(verify(path), "tampered")

    @pytest.mark.parametrize("before", [[], [("missing", "audit.jsonl", 2)]])
    @pytest.mark.parametrize("torn", [b"", b"half of"])
    def test_instead_of_the_log(self, path: Path, before: list[object], torn: bytes) -> None:
        """
        A writer that finds foreign lines where its log was says what they are, and what is gone.
        """
        log = write_log(path, 3, close=False)
        if before:
            shutil.copyfile(path, f"{path}.1")
            log.write(struck(2))
        path.write_bytes(b"foreign\n" + torn)
        log.write(struck(1))
        log.close()

        report = verify(path)

        assert ([*before] or [("older", "audit.jsonl", 2)], "incomplete") == (
            found(report),
            report.verdict,
        )
        assert [("recovered", "audit.jsonl", 1)] == found(report, "note")

        lines = lines_of(path)
        put(path, [b"strange\n", *lines[1:]])
        assert [("foreign", "audit.jsonl", 1)] == found(verify(path), "tampered")
        put(path, [lines[0], b"more\n", *lines[1:]])
        assert [("foreign", "audit.jsonl", 1), ("foreign", "audit.jsonl", 2)] == found(
            verify(path), "tampered"
        )

    def test_note_in_place_of_a_line(self, path: Path) -> None:
        """
        What stands in the place of a line that the next one follows is no foreign line, although
        a record says so.
        """
        write_log(path, 60, max_bytes=9000)
        first = archives(path)[0]
        lines = lines_of(first)
        last = lines[-1].replace(b'"size"', b'"time"')
        put(first, [*lines[:-1], last])
        second = archives(path)[1]
        rest = lines_of(second)
        note = sealed(
            len(lines) + 1,
            hash_of(lines[-1]),
            event_type="audit.recover",
            reason="foreign_line",
            bytes=len(last),
            sha256=sha256(last).hexdigest(),
        )
        put(second, [note, *rewritten(rest[1:], hash_of(note))])

        assert ("altered", first.name, len(lines)) in found(verify(path), "tampered")

    def test_very_long_foreign_line(self, path: Path) -> None:
        """
        Foreign bytes are compared with what was recorded however many they are.
        """
        write_log(path)
        with path.open("ab") as file:
            for _ in range(6):
                file.write(bytes(1 << 20))
            file.write(b"\n")
        write_log(path)

        report = verify(path)

        assert [] == found(report, "tampered", "incomplete")
        assert [("recovered", "audit.jsonl", 14)] == found(report, "note")


class TestFiles:
    def test_rotated(self, path: Path) -> None:
        """
        A log of several files is read from the oldest to the newest.
        """
        write_log(path, 60, max_bytes=9000)

        report = verify(path, chain_only=True)

        assert (0, ()) == (report.exit_code, report.findings)
        assert [one.name for one in [*archives(path), path]] == [
            Path(file.file).name for file in report.files
        ]
        assert 3 <= len(report.files)
        assert sum(file.lines for file in report.files) == report.lines == report.seq

    @pytest.mark.parametrize("pack", [gzip.compress, lzma.compress], ids=["gz", "xz"])
    def test_compressed(self, path: Path, pack: Callable[[bytes], bytes]) -> None:
        """
        Compressed archives are read like others.
        """
        write_log(path, 60, max_bytes=9000)
        for archive in archives(path):
            suffix = "gz" if pack is gzip.compress else "xz"
            Path(f"{archive}.{suffix}").write_bytes(pack(archive.read_bytes()))
            archive.unlink()

        report = verify(path, chain_only=True)

        assert (0, (), report.lines) == (report.exit_code, report.findings, report.seq)

    def test_compressed_with_zstd(self, path: Path) -> None:
        """
        Archives in zstd are read with the package zstandard.
        """
        zstandard = pytest.importorskip("zstandard", reason="needs the package zstandard")
        write_log(path, 60, max_bytes=9000)
        for archive in archives(path):
            packed = zstandard.compress(archive.read_bytes())
            Path(f"{archive}.zst").write_bytes(packed)
            archive.unlink()

        report = verify(path, chain_only=True)

        assert (0, (), report.lines) == (report.exit_code, report.findings, report.seq)

    @pytest.mark.parametrize(
        "damage",
        [
            pytest.param(lambda data: data[:-200], id="cut"),
            pytest.param(lambda data: data[:2000] + b"\xff" * 50 + data[2050:], id="overwritten"),
            pytest.param(lambda data: b"\0" * 10 + data[10:], id="no header"),
        ],
    )
    def test_damaged_archive(self, path: Path, damage: Callable[[bytes], bytes]) -> None:
        """
        A compressed file that was damaged is named; the files behind it are still read.
        """
        write_log(path, 200, max_bytes=40_000)
        first = archives(path)[0]
        packed = Path(f"{first}.gz")
        packed.write_bytes(damage(gzip.compress(first.read_bytes())))
        first.unlink()

        report = verify(path, chain_only=True)

        places = {(kind, name) for kind, name, _ in found(report)}
        assert (1, {packed.name}) == (report.exit_code, {name for _, name in places})
        assert ("packed", packed.name) in places
        assert head_of(path).seq == report.seq

    def test_missing_file(self, path: Path) -> None:
        """
        A file that is missing in the middle is reported at the first line behind it.
        """
        write_log(path, 90, max_bytes=9000)
        _, second, third, *_ = archives(path)
        second.unlink()

        report = verify(path)

        assert [("missing", third.name, 1)] == found(report)
        assert ("tampered", 1) == (report.chain.verdict, report.exit_code)

    def test_oldest_files_missing(self, path: Path) -> None:
        """
        Files that were taken away at the old end are missing, but nothing was tampered with.
        """
        write_log(path, 90, max_bytes=9000)
        first, second, *_ = archives(path)
        first.unlink()

        report = verify(path)

        assert [("older", second.name, 1)] == found(report)
        assert ("ok", "incomplete") == (report.chain.verdict, report.completeness.verdict)

    def test_newest_file_missing(self, path: Path) -> None:
        """
        The file that a rotation began must be there.
        """
        write_log(path, 90, max_bytes=9000)
        path.unlink()

        report = verify(path)

        last = archives(path)[-1]
        assert ("missing", last.name, len(lines_of(last))) in found(report, "tampered")
        assert 1 == report.exit_code

    def test_exchanged_files(self, path: Path) -> None:
        """
        Files that have each other's name are reported, and the chain is still followed.
        """
        write_log(path, 90, max_bytes=9000)
        first, second, *_ = archives(path)
        aside = path.with_name("aside")
        first.rename(aside)
        second.rename(first)
        aside.rename(second)

        report = verify(path)

        assert {("name", first.name, 1), ("name", second.name, 1)} == set(found(report))
        assert 1 == report.exit_code

    def test_older_file_at_the_path(self, path: Path) -> None:
        """
        An older file in the place of the newest one is reported.
        """
        write_log(path, 90, max_bytes=9000)
        first = archives(path)[0]
        first.replace(path)

        report = verify(path)

        assert ("rollback", "audit.jsonl", 1) in found(report)
        assert 1 == report.exit_code

    def test_older_copy_at_the_path(self, path: Path) -> None:
        """
        A copy of an archive in the place of the newest file is reported.
        """
        write_log(path, 90, max_bytes=9000)
        put(path, lines_of(archives(path)[0])[:-5])

        report = verify(path)

        assert ("rollback", "audit.jsonl", 1) in found(report)

    def test_copies(self, path: Path) -> None:
        """
        A backup beside the log, and an archive beside its compressed form, are left out.
        """
        write_log(path, 90, max_bytes=9000)
        first = archives(path)[0]
        Path(f"{first}.gz").write_bytes(gzip.compress(first.read_bytes()))
        shutil.copyfile(path, f"{path}-20261121")

        report = verify(path)

        assert [] == found(report)
        assert {("copy", f"{first.name}.gz", 0), ("copy", f"{path.name}-20261121", 0)} == set(
            found(report, "note")
        )

    @pytest.mark.parametrize("name", ["audit.jsonl.1", "audit.jsonl-20261121", "audit.jsonl.old"])
    def test_renamed_by_others(self, path: Path, name: str) -> None:
        """
        A file that logrotate or a person renamed belongs to the log.
        """
        log = write_log(path, 5, close=False)
        path.rename(path.with_name(name))
        log.write(struck(5))
        log.close()

        report = verify(path)

        assert [] == found(report)
        assert [name, "audit.jsonl"] == [Path(file.file).name for file in report.files]

    def test_numbered_by_logrotate(self, path: Path) -> None:
        """
        Logrotate renames older files again and again; their records say how they follow.
        """
        log = write_log(path, 5, close=False)
        for _ in range(3):
            for number in (2, 1):
                if (older := path.with_name(f"audit.jsonl.{number}")).exists():
                    older.rename(path.with_name(f"audit.jsonl.{number + 1}"))
            path.rename(f"{path}.1")
            log.write(struck(5))
        log.close()

        report = verify(path)

        assert [] == found(report)
        assert ["audit.jsonl.3", "audit.jsonl.2", "audit.jsonl.1", "audit.jsonl"] == [
            Path(file.file).name for file in report.files
        ]

    def test_renamed_file_missing(self, path: Path) -> None:
        """
        A renamed file that was still there when the log went on, and is gone now, was removed.
        """
        log = write_log(path, 5, close=False)
        for name in ("audit.jsonl.2", "audit.jsonl.1"):
            path.rename(path.with_name(name))
            log.write(struck(5))
        log.close()
        path.with_name("audit.jsonl.1").unlink()

        assert [("missing", "audit.jsonl", 1)] == found(verify(path, chain_only=True))

    @pytest.mark.parametrize("how", ["deleted", "moved"])
    def test_file_that_went_away(self, path: Path, how: str) -> None:
        """
        A file that was deleted, or moved out of sight, while the log was written is a loss which
        its writer recorded, and no tampering.
        """
        log = write_log(path, 5, close=False)
        path.rename(f"{path}.1")
        log.write(struck(5))
        if how == "deleted":
            path.unlink()
        else:
            (path.parent / "away").mkdir()
            path.rename(path.parent / "away" / "audit.jsonl")
        log.write(struck(5))
        log.close()

        report = verify(path)

        assert [("missing", "audit.jsonl", 1)] == found(report)
        assert ("ok", "incomplete", 3) == (
            report.chain.verdict,
            report.completeness.verdict,
            report.exit_code,
        )
        assert "6 lines missing" in report.completeness.message

    def test_copied_and_emptied(self, path: Path) -> None:
        """
        With copytruncate the chain goes on; what was written between copy and truncation is lost.
        """
        log = write_log(path, 5, close=False)
        shutil.copyfile(path, f"{path}.1")
        log.write(struck(2))
        with path.open("rb+") as file:
            file.truncate(0)
        log.write(struck(5))
        log.close()

        report = verify(path)

        assert [("missing", "audit.jsonl", 1)] == found(report)
        assert 3 == report.exit_code

    def test_copied_and_emptied_in_time(self, path: Path) -> None:
        """
        When nothing was written between copy and truncation, nothing is missing.
        """
        log = write_log(path, 5, close=False)
        shutil.copyfile(path, f"{path}.1")
        with path.open("rb+") as file:
            file.truncate(0)
        log.write(struck(5))
        log.close()

        assert [] == found(verify(path))

    @pytest.mark.parametrize("explained", [True, False])
    def test_half_a_line_in_an_emptied_file(self, path: Path, explained: bool) -> None:
        """
        A writer that finds half a line in a file which was emptied says both.
        """
        log = write_log(path, 5, close=False)
        shutil.copyfile(path, f"{path}.1")
        log.write(struck(2))
        path.write_bytes(b'{"timestamp":"2026')
        log.write(struck(5))
        log.close()
        if not explained:
            lines = lines_of(path)
            del lines[1]
            put(path, lines)

        report = verify(path)

        weight = "incomplete" if explained else "tampered"
        assert ("missing", "audit.jsonl", 1) in found(report, weight)
        assert ("incomplete" if explained else "tampered") == report.verdict

    def test_cut_while_it_was_written(self, path: Path) -> None:
        """
        A file that was cut back under its writer has lost lines, and its writer says so.
        """
        log = write_log(path, 10, close=False)
        put(path, lines_of(path)[:6])
        log.write(struck(2))
        log.close()

        report = verify(path)

        assert [("cut", "audit.jsonl", 7)] == found(report)
        assert "incomplete" == report.completeness.verdict

    def test_begun_anew(self, path: Path) -> None:
        """
        A log that was begun anew beside its past, which was somewhere else then, is one whose parts
        nothing ties.
        """
        write_log(path)
        past = gzip.compress(path.read_bytes())
        path.unlink()
        write_log(path)
        Path(f"{path}.1.gz").write_bytes(past)

        report = verify(path)

        assert [("restart", "audit.jsonl", 1)] == found(report)
        assert ["audit.jsonl.1.gz", "audit.jsonl"] == [Path(one.file).name for one in report.files]

    def test_other_logs(self, path: Path) -> None:
        """
        Another log beside this one is left alone, however similar its name is.
        """
        write_log(path)
        for name in ("audit.jsonl-2", "audit.jsonl.20", "audit.jsonl2", "my-audit.jsonl"):
            write_log(path.with_name(name))
        path.with_name("audit.jsonl.bak").write_bytes(b"x\n")
        path.with_name("audit.jsonl.9").mkdir()

        report = verify(path)

        assert ["audit.jsonl"] == [Path(file.file).name for file in report.files]

    def test_file_without_records(self, path: Path) -> None:
        """
        A file with the name of an archive that holds something else is named, and not read.
        """
        write_log(path)
        path.with_name("audit.jsonl.1").write_bytes(b"hello\n")
        path.with_name("audit.jsonl.2").write_bytes(b"")

        report = verify(path)

        assert [("no_record", "audit.jsonl.1", 0)] == found(report)

    def test_interrupted_rotation(self, path: Path) -> None:
        """
        A rotation that was interrupted leaves two names of one file, which is read once.
        """
        write_log(path, 90, max_bytes=9000)
        last = archives(path)[-1]
        path.unlink()
        os.link(last, path)

        report = verify(path, chain_only=True)

        assert (0, ()) == (report.exit_code, report.findings)
        assert report.lines == report.seq

    def test_torn_before_a_rename(self, path: Path) -> None:
        """
        Half a line at the end of a file that was renamed was never acknowledged.
        """
        write_log(path, 5, close=False)
        with path.open("ab") as file:
            file.write(b'{"timestamp":"2026')
        path.rename(f"{path}.1")
        write_log(path, 5)

        report = verify(path)

        assert ("torn", "audit.jsonl.1", 7) in found(report, "incomplete")
        assert "ok" == report.chain.verdict

    def test_torn_before_a_file_that_is_missing(self, path: Path) -> None:
        """
        So was it when the file behind it was deleted, which its writer recorded.
        """
        log = write_log(path, 2, close=False)
        with path.open("ab") as file:
            file.write(b'{"timestamp":"2026')
        path.rename(f"{path}.1")
        log.write(struck(1))
        path.unlink()
        log.write(struck(1))
        log.close()

        report = verify(path)

        assert [("torn", "audit.jsonl.1", 4), ("missing", "audit.jsonl", 1)] == found(report)
        assert ("ok", "incomplete") == (report.chain.verdict, report.verdict)

    @pytest.mark.parametrize("lost", [1, 50])
    def test_last_line_of_an_archive_cut(self, path: Path, lost: int) -> None:
        """
        Half a line does not stand for the one that the next file knows.
        """
        write_log(path, 60, max_bytes=9000)
        first, second = archives(path)[:2]
        os.truncate(first, first.stat().st_size - lost)

        report = verify(path)

        assert [("torn", first.name, len(lines_of(first)))] == found(report, "incomplete")
        assert [("missing", second.name, 1)] == found(report, "tampered")

    def test_last_line_of_an_archive_altered(self, path: Path) -> None:
        """
        The last line of a file is known to the first line of the next one.
        """
        write_log(path, 60, max_bytes=9000)
        first = archives(path)[0]
        lines = lines_of(first)
        lines[-1] = lines[-1].replace(b'"size"', b'"time"')
        put(first, lines)

        assert [("altered", first.name, len(lines))] == found(verify(path, chain_only=True))

    def test_live_file_is_garbage(self, path: Path) -> None:
        """
        A log that was overwritten has no line that is a record: without an anchor it is none.
        """
        path.write_bytes(b"garbage\n" * 3)

        report = verify(path, anchors=[Anchor(1, "0" * 64, "heads", 1)])

        expected = [("foreign", 1), ("foreign", 2), ("foreign", 3), ("anchor", 0), ("empty", 0)]
        assert (1, expected) == (
            report.exit_code,
            [(kind, line) for kind, _, line in found(report)],
        )
        with pytest.raises(TrailError, match="is no audit log: none of its lines is a record"):
            verify(path)

    def test_renamed_while_it_is_read(self, path: Path) -> None:
        """
        A file that is exchanged while the log is read is noticed.
        """
        write_log(path, 60, max_bytes=9000)
        second = archives(path)[1]

        shutil.copyfile(second, path.with_name("aside"))

        def exchange(count: int) -> None:
            if path.with_name("aside").exists():
                path.with_name("aside").replace(second)

        with pytest.raises(TrailError, match="run this again"):
            verify(path, progress=exchange)

    def test_removed_while_it_is_read(self, path: Path) -> None:
        """
        A file that is removed while the log is read, as compression does, is noticed.
        """
        write_log(path, 60, max_bytes=9000)
        second = archives(path)[1]

        with pytest.raises(TrailError, match=r"was removed.*run this again"):
            verify(path, progress=lambda count: second.unlink(missing_ok=True))

    def test_cut_while_it_is_read(self, path: Path) -> None:
        """
        A file that is cut while the log is read is noticed.
        """
        write_log(path, 60, max_bytes=9000)

        def cut(count: int) -> None:
            path.write_bytes(b"")

        with pytest.raises(TrailError, match="became shorter"):
            verify(path, progress=cut)


class TestLive:
    def test_appended_meanwhile(self, path: Path) -> None:
        """
        What is appended while the log is read is left to the next time.
        """
        log = write_log(path, 10, close=False)

        report = verify(path, progress=lambda count: log.write(struck(1)))

        assert ([("no_end", "audit.jsonl", 11)], 11) == (found(report), report.seq)
        log.close()

    def test_writer_that_hangs(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        Half a line is no finding while a writer holds the lock.
        """
        monkeypatch.setattr(harken.trail.files, "_PATIENCE", 0.05)
        write_log(path)
        with path.open("ab") as file:
            file.write(b'{"timestamp":"2026')
            file.flush()
            fcntl.flock(file, fcntl.LOCK_EX)

            report = verify(path)

        assert ([], [("torn", "audit.jsonl", 14)]) == (found(report), found(report, "note"))

    def test_lock_is_let_go(self, path: Path) -> None:
        """
        Nobody waits for a verification.
        """
        write_log(path)

        def lock(count: int) -> None:
            with path.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)

        assert 13 == verify(path, progress=lock).lines


class TestCompleteness:
    @pytest.fixture
    def no_room(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        Nothing that is put beside a log is kept in memory to be put into it later.
        """
        monkeypatch.setattr("harken.sinks.audit._log._MERGED_BYTES", 0)

    def test_written_late(self, path: Path) -> None:
        """
        Records that were beside the log for a while are not missing.
        """
        log = write_log(path, 3, close=False)
        lost(log, path, 4)
        log.write(struck(1))
        log.close()

        report = verify(path)

        assert ([], [("lost", "audit.jsonl", 5)]) == (found(report), found(report, "note"))
        assert ("ok", "nothing is missing") == (
            report.completeness.verdict,
            report.completeness.message,
        )

    def test_written_late_and_not_removed(self, path: Path) -> None:
        """
        A file beside the log that should have been removed is harmless.
        """
        log = write_log(path, 3, close=False)
        spill = lost(log, path, 4)
        content = spill.read_bytes()
        log.close()
        spill.write_bytes(content)

        report = verify(path)

        assert [] == found(report)
        assert ("spill", spill.name, 0) in found(report, "note")

    def test_second_file_of_a_writer_that_nobody_told(self, path: Path) -> None:
        """
        What the log says of an earlier file of that name, which it has merged, says nothing of it.
        """
        log = write_log(path, 3, close=False)
        spill = lost(log, path, 4)
        log.write(struck(1))
        assert not spill.exists()
        told = path.read_bytes()
        lost(log, path, 2)
        content = spill.read_bytes()
        log.close()
        path.write_bytes(told)
        spill.write_bytes(content)

        report = verify(path)

        assert ("spill", spill.name, 0) in found(report, "incomplete")
        assert "tampered" != report.verdict

    @pytest.mark.usefixtures("no_room")
    def test_counted_losses(self, path: Path) -> None:
        """
        Records that a writer could not write are counted, and where they are is said.
        """
        log = write_log(path, 3, close=False)
        lost(log, path, 4)
        log.write(struck(1))
        log.close()

        report = verify(path)

        assert [("lost", "audit.jsonl", 5)] == found(report)
        assert "4 beside the log" in report.completeness.message
        assert "incomplete" == report.completeness.verdict

    def test_losses_that_nobody_told(self, path: Path) -> None:
        """
        A gap in the count of a writer is as many lost records.
        """
        put(
            path,
            rewritten(
                [
                    sealed(1, GENESIS, n=1),
                    sealed(2, GENESIS, n=4),
                    sealed(3, GENESIS, n=6),
                    sealed(
                        4,
                        GENESIS,
                        n=7,
                        event_type="audit.lost",
                        reason="ENOSPC",
                        count=1,
                        first_n=5,
                        last_n=5,
                    ),
                    sealed(5, GENESIS, n=9),
                ]
            ),
        )

        report = verify(path)

        assert [
            ("gap", "audit.jsonl", 2),
            ("lost", "audit.jsonl", 4),
            ("gap", "audit.jsonl", 5),
            ("no_end", "audit.jsonl", 5),
        ] == found(report)
        assert "4 records lost" in report.completeness.message

    def test_more_than_was_told(self, path: Path) -> None:
        """
        When more is missing than was said to be lost, that is told.
        """
        put(
            path,
            rewritten(
                [
                    sealed(1, GENESIS, n=1),
                    sealed(
                        2,
                        GENESIS,
                        n=6,
                        event_type="audit.lost",
                        reason="EIO",
                        count=1,
                        unsynced=2,
                        first_n=2,
                        last_n=5,
                    ),
                ]
            ),
        )

        report = verify(path)

        (message,) = [one.message for one in report.findings if one.kind == "lost"]
        assert (
            "writer forger, 2 to 5: 1 records are lost, 2 were not confirmed by the disk, 3 more "
            "are not in the log (EIO)"
        ) == message
        assert "4 records lost" in report.completeness.message

    def test_first_lines_of_a_writer(self, path: Path) -> None:
        """
        What a writer lost before its first line is counted, too.
        """
        put(path, [sealed(1, GENESIS, n=3)])

        assert ("gap", "audit.jsonl", 1) in found(verify(path))

    def test_counts_that_go_back(self, path: Path) -> None:
        """
        No writer counts the same record twice: such a chain was written by somebody else.
        """
        put(path, rewritten([sealed(1, GENESIS, n=1), sealed(2, GENESIS, n=1)]))

        report = verify(path)

        assert [("count", "audit.jsonl", 2), ("no_end", "audit.jsonl", 2)] == found(report)
        assert "tampered" == report.completeness.verdict

    def test_malformed_controls(self, path: Path) -> None:
        """
        Control records without what they must have are named.
        """
        put(
            path,
            rewritten(
                [
                    sealed(1, GENESIS, n=1, event_type="audit.lost"),
                    sealed(2, GENESIS, n=2, event_type="audit.checkpoint"),
                    sealed(3, GENESIS, n=3, event_type="audit.recover", bytes="many"),
                    sealed(4, GENESIS, n=4, event_type="audit.close", reason=7),
                ]
            ),
        )

        report = verify(path)

        assert [
            ("checkpoint", "audit.jsonl", 2),
            ("lost", "audit.jsonl", 1),
            ("no_end", "audit.jsonl", 4),
        ] == found(report)

    def test_many_writers(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        Of writers without number that never ended, the first are forgotten, without a false alarm.
        """
        monkeypatch.setattr(harken.trail._writers, "MAX_WRITERS", 3)
        for _ in range(5):
            write_log(path, 1, close=False)

        report = verify(path)

        assert [("no_end", "audit.jsonl", 10)] == found(report)

    @pytest.mark.usefixtures("no_room")
    def test_spill_missing(self, path: Path) -> None:
        """
        A file beside the log that the log names must be there.
        """
        log = write_log(path, 3, close=False)
        spill = lost(log, path, 4)
        log.close()
        spill.unlink()

        report = verify(path)

        assert ("spill", "audit.jsonl", 5) in found(report)
        assert "incomplete" == report.completeness.verdict

    @pytest.mark.usefixtures("no_room")
    def test_spill_cut(self, path: Path) -> None:
        """
        A file beside the log that ends too early was cut.
        """
        log = write_log(path, 3, close=False)
        spill = lost(log, path, 4)
        log.close()
        put(spill, lines_of(spill)[:3])

        report = verify(path)

        assert ("spill", spill.name, 3) in found(report, "tampered")
        assert 1 == report.exit_code

    @pytest.mark.usefixtures("no_room")
    @pytest.mark.parametrize(
        ("change", "kind"),
        [
            (lambda lines: lines[0].replace(b"2026-", b"2027-", 1), "altered"),
            (lambda lines: resealed(lines[0], "a" * 64), "chain"),
            (lambda lines: resealed(lines[0].replace(b'"v":1', b'"v":2')), "version"),
        ],
        ids=["altered", "chain", "version"],
    )
    def test_spill_altered(self, path: Path, change: Callable[[Lines], bytes], kind: str) -> None:
        """
        Lines beside the log are checked like those in it.
        """
        log = write_log(path, 3, close=False)
        spill = lost(log, path, 4)
        log.close()
        lines = lines_of(spill)
        lines[0] = change(lines)
        put(spill, lines)

        assert (kind, spill.name, 1) in found(verify(path))

    @pytest.mark.usefixtures("no_room")
    def test_spill_that_nobody_told(self, path: Path) -> None:
        """
        Records beside the log that the log does not mention belong to a writer that died.
        """
        log = write_log(path, 3, close=False)
        spill = lost(log, path, 4)
        told = path.read_bytes()
        lost(log, path, 2)
        log.close()
        assert [6] == [len(lines_of(spill))]

        put(path, lines_of(path)[:4])
        assert ("spill", spill.name, 0) in found(verify(path))
        path.write_bytes(told)
        log = write_log(path, 1)
        spill_of_other = path.with_name(f"{path.name}.spill-torn")
        spill_of_other.write_bytes(lines_of(spill)[0][:50])
        assert ("torn", spill_of_other.name, 1) in found(verify(path))

    @pytest.mark.usefixtures("no_room")
    def test_spill_longer_than_told(self, path: Path) -> None:
        """
        What was put beside the log after it was last mentioned is named.
        """
        log = write_log(path, 3, close=False)
        spill = lost(log, path, 4)
        log.write(struck(1))
        before = path.read_bytes()
        lost(log, path, 2)
        log.close()
        path.write_bytes(before)

        assert ("spill", spill.name, 5) in found(verify(path), "incomplete")


def lost(log: AuditLog, path: Path, count: int) -> Path:
    """
    Have *log* put *count* records beside the log; return where.
    """
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        log.write(struck(count))
    (spill,) = path.parent.glob(f"{path.name}.spill-*")
    return spill


class TestSeals:
    def test_sealed_log(self, path: Path, keys: Keys) -> None:
        """
        A log that was sealed and ended cleanly is verified with its first key alone.
        """
        for _ in range(3):
            write_log(path, 20, key=keys.agent, max_bytes=9000)

        report = verify(path, keys=[keys.first], states=[read_state(keys.agent)])

        assert (0, ("ok",) * 4, ()) == (report.exit_code, verdicts(report), report.findings)
        assert report.seq - 2 == report.vouched_seq

    def test_without_key(self, path: Path, keys: Keys) -> None:
        """
        Without a key nothing vouches for the log: it is not verified.
        """
        write_log(path, key=keys.agent)

        report = verify(path)

        assert (3, ("ok", "none", "ok", "incomplete"), ["unvouched"]) == (
            report.exit_code,
            verdicts(report),
            [finding.kind for finding in report.findings],
        )

    def test_rewritten(self, path: Path, keys: Keys) -> None:
        """
        A chain that was rewritten from the first line on has seals that do not fit.
        """
        write_log(path, key=keys.agent)
        lines = lines_of(path)
        flip(lines)
        put(path, rewritten(lines))

        report = verify(path, keys=[keys.first])

        assert (1, "tampered") == (report.exit_code, report.seals.verdict)
        assert [("head", "audit.jsonl", 12)] == found(report, "tampered")

    def test_rewritten_with_its_checkpoints(self, path: Path, keys: Keys) -> None:
        """
        Whoever also rewrites what the checkpoints say cannot make their seals.
        """
        write_log(path, key=keys.agent)
        lines = lines_of(path)
        flip(lines)
        old = hash_of(lines[10])
        chain = rewritten(lines[:11])
        checkpoint = lines[11].replace(old.encode(), hash_of(chain[-1]).encode(), 1)
        put(path, [*chain, *rewritten([checkpoint, lines[12]], hash_of(chain[-1]))])
        assert 0 == verify(path, chain_only=True).exit_code

        report = verify(path, keys=[keys.first])

        assert [("mac", "audit.jsonl", 12)] == found(report, "tampered")

    def test_seals_removed(self, path: Path, keys: Keys) -> None:
        """
        A log that ended cleanly has a seal, if it ever had a key.
        """
        write_log(path, key=keys.agent)
        lines = lines_of(path)
        del lines[11]
        lines[11] = lines[11].replace(b'"seq":13', b'"seq":12').replace(b'"n":13', b'"n":12')
        put(path, rewritten(lines))
        assert 0 == verify(path, chain_only=True).exit_code

        report = verify(path, keys=[keys.first])

        assert [("no_seal", "audit.jsonl", 12)] == found(report, "tampered")

    def test_not_sealed_yet(self, path: Path, keys: Keys) -> None:
        """
        Of a log that has no seal yet nothing can be said.
        """
        log = write_log(path, key=keys.agent, close=False)

        report = verify(path, keys=[keys.first])

        assert (2, [("no_seal", "audit.jsonl", 11)]) == (
            report.exit_code,
            found(report, "undecided"),
        )
        log.close()

    def test_wrong_key(self, path: Path, keys: Keys) -> None:
        """
        With another key nothing can be said.
        """
        write_log(path, key=keys.agent)

        report = verify(path, keys=[Key("0" * 16, b"x" * 32)])

        assert (2, [("key", "audit.jsonl", 12)]) == (report.exit_code, found(report))

    def test_changed_key(self, path: Path, keys: Keys, tmp_path: Path) -> None:
        """
        A log whose key was changed is verified with both keys; with one, the rest is undecided.
        """
        write_log(path, key=keys.agent)
        other = tmp_path / "other.key"
        (tmp_path / "other.first").write_text(create_key(other))
        second = read_key(tmp_path / "other.first")
        write_log(path, key=other)

        whole = verify(path, keys=[keys.first, second], states=[read_state(other)])
        past = verify(path, keys=[keys.first, second], states=[read_state(keys.agent)])
        assert (0, []) == (whole.exit_code, found(whole))
        assert (3, [("end", "audit.jsonl", 26)]) == (past.exit_code, found(past))
        assert (2, [("key", "audit.jsonl", 25)]) == (
            verify(path, keys=[keys.first]).exit_code,
            found(verify(path, keys=[keys.first])),
        )

    def test_key_added_later(self, path: Path, keys: Keys) -> None:
        """
        The first seal covers everything before it.
        """
        write_log(path)
        write_log(path, key=keys.agent)

        assert 0 == verify(path, keys=[keys.first], states=[read_state(keys.agent)]).exit_code

    def test_seal_missing(self, path: Path, keys: Keys) -> None:
        """
        Each epoch has its seal: one that was taken out is missed.
        """
        for _ in range(3):
            write_log(path, 2, key=keys.agent)
        lines = lines_of(path)
        before = lines[:5] + lines[10:]
        put(path, rewritten(before))

        report = verify(path, keys=[keys.first])

        assert ("epoch", "audit.jsonl", 9) in found(report, "tampered")

    def test_seal_of_another_epoch(self, path: Path, keys: Keys) -> None:
        """
        A seal that stands there again, behind a later one, is none.
        """
        write_log(path, 2, key=keys.agent)
        write_log(path, 2, key=keys.agent)
        lines = lines_of(path)
        again = sealed(
            11,
            hash_of(lines[-1]),
            event_type="audit.checkpoint",
            **json.loads(lines[3])["metadata"],
        )
        put(path, [*lines, again])

        assert ("epoch", "audit.jsonl", 11) in found(verify(path, keys=[keys.first]), "tampered")

    def test_seal_twice(self, path: Path, keys: Keys) -> None:
        """
        A crash can make a writer write the very same seal again, and later.
        """
        write_log(path, 2, key=keys.agent)
        lines = lines_of(path)
        metadata = json.loads(lines[3])["metadata"]
        again = sealed(6, hash_of(lines[-1]), event_type="audit.checkpoint", **metadata)
        end = sealed(7, hash_of(again), n=2, event_type="audit.close", reason="shutdown")
        put(path, [*lines, again, end])
        state = msgspec.structs.replace(read_state(keys.agent), seq=7, head=hash_of(end))

        report = verify(path, keys=[keys.first], states=[state])

        assert (0, []) == (report.exit_code, found(report))

    def test_epoch_out_of_reach(self, path: Path, keys: Keys) -> None:
        """
        A forged epoch of any size does not keep anybody busy.
        """
        put(
            path,
            [
                sealed(
                    1,
                    GENESIS,
                    event_type="audit.checkpoint",
                    count=0,
                    head=GENESIS,
                    segment=1,
                    mono_ns=1,
                    epoch=10**15,
                    key_id=keys.first.id,
                    mac="0" * 64,
                )
            ],
        )

        assert ("mac", "audit.jsonl", 1) in found(verify(path, keys=[keys.first]), "tampered")

    def test_checkpoint_of_the_future(self, path: Path) -> None:
        """
        A checkpoint speaks of lines before it.
        """
        put(
            path,
            [
                sealed(
                    1,
                    GENESIS,
                    event_type="audit.checkpoint",
                    count=1,
                    head=GENESIS,
                    segment=1,
                    mono_ns=1,
                )
            ],
        )

        assert ("head", "audit.jsonl", 1) in found(verify(path), "tampered")

    def test_killed(self, path: Path, keys: Keys) -> None:
        """
        What stands behind the last seal of a writer that was killed is not vouched for.
        """
        write_log(path, key=keys.agent)
        log = write_log(path, 5, key=keys.agent, close=False)

        report = verify(path, keys=[keys.first])

        assert (3, ["no_end", "unvouched"], 11) == (
            report.exit_code,
            [finding.kind for finding in report.findings],
            report.vouched_seq,
        )
        log.close()

    def test_end_cut_off(self, path: Path, keys: Keys) -> None:
        """
        When the end was cut off, the log does not end as it should; behind a genuine end, the
        agent's own key file shows it.
        """
        for _ in range(2):
            write_log(path, key=keys.agent)
        lines = lines_of(path)
        put(path, lines[:20])
        assert 3 == verify(path, keys=[keys.first]).exit_code
        put(path, lines[:13])

        report = verify(path, keys=[keys.first], states=[read_state(keys.agent)])

        assert (1, [("epoch", "audit.jsonl", 13), ("end", "audit.jsonl", 13)]) == (
            report.exit_code,
            found(report),
        )

    def test_cut_behind_the_last_seal(self, path: Path, keys: Keys) -> None:
        """
        Whoever cuts off what stands behind the last seal cannot make up for it with an end that
        needs no key: the agent's own key file knows of none, and no anchor names it.
        """
        log = write_log(path, 5, key=keys.agent, close=False)
        log.checkpoint()
        log.write(struck(3))
        checkpoint = lines_of(path)[6]
        given = {"keys": [keys.first], "states": [read_state(keys.agent)]}
        kept = Anchor(6, json.loads(checkpoint)["metadata"]["head"], "anchors", 1)
        assert 3 == verify(path, **given).exit_code
        put(path, [*lines_of(path)[:7], ended(8, hash_of(checkpoint), lines_of(path)[0])])

        with_state, anchored = verify(path, **given), verify(path, anchors=[kept])

        assert (3, [("end", "audit.jsonl", 8)]) == (with_state.exit_code, found(with_state))
        assert (3, [("end", "audit.jsonl", 8)]) == (anchored.exit_code, found(anchored))
        log.close()

    def test_end_of_a_writer_that_goes_on(self, path: Path, keys: Keys) -> None:
        """
        Nor does the end of an earlier writer vouch for another one.
        """
        write_log(path, 5, key=keys.agent)
        state = read_state(keys.agent)
        lines = lines_of(path)
        end = sealed(9, hash_of(lines[-1]), event_type="audit.close", reason="shutdown")
        put(path, [*lines, end])

        report = verify(path, keys=[keys.first], states=[state])

        assert (3, [("end", "audit.jsonl", 9)]) == (report.exit_code, found(report))

    def test_last_line(self, path: Path, keys: Keys) -> None:
        """
        The line with which its writer left the log is known to the agent's own key file: it cannot
        be altered, nor can lines be put before it, although no seal covers it.
        """
        write_log(path, 5, key=keys.agent)
        state = read_state(keys.agent)
        *lines, last = lines_of(path)
        altered = resealed(last.replace(b'"records":5', b'"records":4'))
        opening = sealed(8, hash_of(lines[-1]), event_type="audit.open", reason="start")
        closing = sealed(9, hash_of(opening), n=2, event_type="audit.close", reason="shutdown")
        late = resealed(last.replace(b'"seq":8', b'"seq":10'), hash_of(closing))
        for changed in ([altered], [opening, closing, late]):
            put(path, [*lines, *changed])

            report = verify(path, keys=[keys.first], states=[state])

            assert ("head", "tampered") in [(one.kind, one.weight) for one in report.findings]

    def test_last_line_missing(self, path: Path, keys: Keys) -> None:
        """
        It cannot be cut off, either, even where an anchor names the line before it.
        """
        write_log(path, 5, key=keys.agent)
        state = read_state(keys.agent)
        lines = lines_of(path)
        put(path, lines[:-1])
        head = head_of(path)

        report = verify(
            path,
            keys=[keys.first],
            states=[state],
            anchors=[Anchor(head.seq, head.hash, "anchors", 1)],
        )

        assert ("end", "audit.jsonl", 7) in found(report, "incomplete")

    def test_all_seals_cut_off(self, path: Path, keys: Keys) -> None:
        """
        A log without any seal is not one whose key file has made some.
        """
        write_log(path, key=keys.agent)
        put(path, lines_of(path)[:8])

        report = verify(path, keys=[keys.first], states=[read_state(keys.agent)])

        assert ("epoch", "audit.jsonl", 8) in found(report, "tampered")

    def test_key_file_of_another(self, path: Path, keys: Keys, tmp_path: Path) -> None:
        """
        A key file that does not follow from the first key was exchanged; one with another name
        says nothing.
        """
        write_log(path, key=keys.agent)
        state = read_state(keys.agent)
        forged = msgspec.structs.replace(state, secret=b"x" * 32)
        older = msgspec.structs.replace(forged, epoch=0)
        other = msgspec.structs.replace(state, key_id="0" * 16)
        far = msgspec.structs.replace(state, epoch=10**15)

        def kinds(one: WriterState) -> list[str]:
            return [kind for kind, _, _ in found(verify(path, keys=[keys.first], states=[one]))]

        assert [["state"], ["state"], ["end"], ["epoch"]] == [
            kinds(one) for one in (forged, older, other, far)
        ]

    @pytest.mark.parametrize("lost", [1, 20, 800])
    def test_last_seal_cut(self, path: Path, keys: Keys, lost: int) -> None:
        """
        A seal that was lost when the file was cut under its writer is no seal that was removed,
        even if half of its line was left.
        """
        log = write_log(path, 1, key=keys.agent, close=False)
        log.checkpoint()
        os.truncate(path, path.stat().st_size - lost)
        log.write(struck(1))
        log.close()

        report = verify(path, keys=[keys.first], states=[read_state(keys.agent)])

        assert (3, [], "ok") == (report.exit_code, found(report, "tampered"), report.seals.verdict)
        assert "cut" in [kind for kind, _, _ in found(report, "incomplete")]

    def test_older_files_missing(self, path: Path, keys: Keys) -> None:
        """
        Seals in files that are not here any more are no seals that were removed.
        """
        for _ in range(4):
            write_log(path, 20, key=keys.agent, max_bytes=9000)
        archives(path)[0].unlink()

        report = verify(path, keys=[keys.first])

        assert (3, "ok") == (report.exit_code, report.seals.verdict)


class TestAnchors:
    def anchor(self, path: Path) -> Anchor:
        head = head_of(path)
        return Anchor(head.seq, head.hash, "anchors", 1)

    def test_matches(self, path: Path) -> None:
        """
        A log that is what it was when its head was noted is verified up to there.
        """
        write_log(path)

        report = verify(path, anchors=[self.anchor(path)])

        assert (0, (), 13) == (report.exit_code, report.findings, report.vouched_seq)

    def test_goes_on(self, path: Path) -> None:
        """
        For what was written since, nothing vouches.
        """
        write_log(path)
        anchor = self.anchor(path)
        write_log(path)

        report = verify(path, anchors=[anchor])

        assert (3, ["unvouched"], 13) == (
            report.exit_code,
            [finding.kind for finding in report.findings],
            report.vouched_seq,
        )

    def test_rewritten(self, path: Path) -> None:
        """
        A chain that was rewritten has another line in its place.
        """
        write_log(path)
        anchor = self.anchor(path)
        lines = lines_of(path)
        flip(lines)
        lines[11] = sealed(12, GENESIS)
        put(path, rewritten(lines))

        report = verify(path, anchors=[anchor])

        assert (1, [("anchor", "audit.jsonl", 13)]) == (
            report.exit_code,
            found(report, "tampered"),
        )

    def test_line_before_the_last(self, path: Path) -> None:
        """
        The line that an anchor knows is the end only if it is the last one.
        """
        write_log(path)
        lines = lines_of(path)

        report = verify(path, anchors=[Anchor(12, hash_of(lines[11]), "anchors", 1)])

        assert (3, [("end", "audit.jsonl", 13)], 12) == (
            report.exit_code,
            found(report),
            report.vouched_seq,
        )

    @pytest.mark.parametrize("kept", [12, 8, 0])
    def test_cut(self, path: Path, kept: int) -> None:
        """
        A log that ends before the line was cut, or is an older copy.
        """
        write_log(path)
        anchor = self.anchor(path)
        put(path, lines_of(path)[:kept])

        report = verify(path, anchors=[anchor])

        assert (1, [("anchor", "audit.jsonl", kept)]) == (
            report.exit_code,
            found(report, "tampered"),
        )

    def test_older_than_everything(self, path: Path) -> None:
        """
        An anchor of a file that is not here any more cannot be judged.
        """
        write_log(path, 60, max_bytes=9000)
        first = archives(path)[0]
        old = Anchor(2, "0" * 64, "anchors", 1)
        new = self.anchor(path)
        first.unlink()

        assert (2, [("anchor", "audit.jsonl", 0)]) == (
            verify(path, anchors=[old]).exit_code,
            found(verify(path, anchors=[old]), "undecided"),
        )
        both = verify(path, anchors=[old, new])
        assert (3, [("anchor", "audit.jsonl", 0)]) == (both.exit_code, found(both, "note"))

    def test_line_before_the_oldest(self, path: Path) -> None:
        """
        The first line that is here knows the hash of the one before.
        """
        write_log(path, 60, max_bytes=9000)
        first = archives(path)[0]
        last = lines_of(first)[-1]
        first.unlink()

        seq = verify(path).files[0].first_seq - 1
        right = verify(path, anchors=[Anchor(seq, hash_of(last), "a", 1)])
        wrong = verify(path, anchors=[Anchor(seq, "0" * 64, "a", 1)])

        assert (seq, 3) == (right.vouched_seq, right.exit_code)
        assert 1 == wrong.exit_code

    def test_damaged_line(self, path: Path) -> None:
        """
        An anchor of a line that is damaged has nothing to be compared with.
        """
        write_log(path)
        anchor = Anchor(5, hash_of(lines_of(path)[4]), "anchors", 1)
        lines = lines_of(path)
        flip(lines)
        put(path, lines)

        report = verify(path, anchors=[anchor])

        assert [("altered", "audit.jsonl", 5)] == found(report, "tampered")
        assert [("anchor", "audit.jsonl", 0)] == found(report, "note")


class TestTail:
    def test_empty(self, path: Path) -> None:
        """
        An empty log is no evidence of anything.
        """
        path.touch()

        report = verify(path)

        assert (3, [("empty", "audit.jsonl", 0)], 0) == (
            report.exit_code,
            found(report),
            report.seq,
        )

    def test_torn(self, path: Path) -> None:
        """
        Half a line at the end is what a crash leaves.
        """
        write_log(path)
        put(path, [*lines_of(path), lines_of(path)[5][:80]])

        report = verify(path)

        assert (3, [("torn", "audit.jsonl", 14)]) == (report.exit_code, found(report))

    def test_torn_and_too_long(self, path: Path) -> None:
        """
        It is torn, too, when it is longer than any line.
        """
        write_log(path)
        with path.open("ab") as file:
            file.write(bytes(3 << 20))

        assert [("torn", "audit.jsonl", 14)] == found(verify(path))

        put(path, [*lines_of(path)[:13], b"foreign\n", bytes(3 << 20)])
        assert [("foreign", "audit.jsonl", 14), ("torn", "audit.jsonl", 15)] == found(verify(path))

    def test_foreign_at_the_end(self, path: Path) -> None:
        """
        A line that nobody has recorded yet is reported.
        """
        write_log(path)
        put(path, [*lines_of(path), b"hello\n"])

        assert [("foreign", "audit.jsonl", 14)] == found(verify(path))

    def test_not_ended(self, path: Path) -> None:
        """
        A log whose writers did not say goodbye has no clean end.
        """
        logs = [write_log(path, 2, close=False) for _ in range(2)]

        (finding,) = [one for one in verify(path).findings if one.kind == "no_end"]
        assert ("incomplete", 6) == (finding.weight, finding.line)
        assert finding.message.startswith("2 writers did not say goodbye")
        for log in logs:
            log.close()


def test_report_counts(path: Path) -> None:
    """
    The report says how much was read.
    """
    write_log(path, 60, max_bytes=9000)
    read: list[int] = []

    report: Report = verify(path, progress=read.append)

    assert sum(read) == sum(file.bytes for file in report.files)
    assert path.stat().st_size == report.files[-1].bytes
