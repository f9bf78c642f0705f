"""
The chain across the hop: whether what arrived is what was written, and whose records are missing.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

from harken.forward.target import Stored
from harken.forward.wire import Position
from harken.trail import EXIT_CODES, Anchor, Key, PublicKey, Report, verify
from harken.trail.findings import Verdict


class Arrived(msgspec.Struct, frozen=True):
    """
    What arrived of one log.

    Attributes:
        source: The log.

        generation: Which of its lives, from 1.

        lines: How many lines arrived.

        last: The timestamp of the last one.

        report: What `harken.trail.verify()` finds about them.

        verdict: The gravest of its parts; the end counts with an anchor only, since a log goes on.
    """

    source: str
    generation: int
    lines: int
    last: str
    report: Report
    verdict: Verdict


class Proof(msgspec.Struct, frozen=True):
    """
    What arrived of all logs.

    Attributes:
        verdict: The gravest of all; ``incomplete`` also when a log is missing.

        exit_code: What `harken verify --from` exits with.

        missing: The logs that were expected, and of which nothing arrived.
    """

    verdict: Verdict
    exit_code: int
    arrived: tuple[Arrived, ...]
    missing: tuple[str, ...]


_GRAVEST: tuple[Verdict, ...] = ("tampered", "undecided", "incomplete")


def prove(
    stored: Iterable[Stored],
    *,
    expected: Iterable[str] = (),
    keys: Iterable[Key] = (),
    public_keys: Iterable[PublicKey] = (),
    anchors: Mapping[str, Iterable[Anchor]] | None = None,
) -> Proof:
    """
    Verify what is in the streams, log by log, as `harken.trail.verify()` does it with files.

    The lines are put into files for that, in the folder for temporary ones.

    Args:
        stored: As `harken.forward.stored()` yields it.

        expected: The logs of which something must have arrived, by source.

        anchors: From a source to heads of its log that were kept elsewhere.

    Raises:
        TrailError: They cannot be verified.
    """
    given, public = tuple(keys), tuple(public_keys)
    kept = {} if anchors is None else {name: tuple(some) for name, some in anchors.items()}
    with TemporaryDirectory(prefix="harken-") as folder:
        arrived = tuple(
            _judged(life, given, public, kept.get(life.source, ()))
            for life in sorted(_lives(stored, Path(folder)), key=lambda one: one.key)
        )
    sources = {one.source for one in arrived}
    missing = tuple(sorted(set(expected) - sources))
    verdicts = {one.verdict for one in arrived}
    if missing:
        verdicts.add("incomplete")
    verdict = _gravest(verdicts)
    return Proof(verdict, EXIT_CODES[verdict], arrived, missing)


class _Life(msgspec.Struct):
    source: str
    generation: int
    path: Path
    lines: int = 0
    last: str = ""

    @property
    def key(self) -> tuple[str, int]:
        return self.source, self.generation


class _Begin(msgspec.Struct):
    timestamp: str = ""


def _lives(stored: Iterable[Stored], folder: Path) -> Iterable[_Life]:
    found: dict[tuple[str, int], _Life] = {}
    # They come log by log.
    for key, some in groupby(stored, key=_life_of):
        life = found.setdefault(key, _Life(*key, folder / str(len(found)) / "audit.jsonl"))
        life.path.parent.mkdir(exist_ok=True)
        with life.path.open("ab") as out:
            for one in some:
                out.write(one.line)
                life.lines += 1
                life.last = _timestamp(one.line) or life.last
    return found.values()


def _life_of(one: Stored) -> tuple[str, int]:
    return one.source, Position.parse(one.name).generation


def _timestamp(line: bytes) -> str:
    try:
        return msgspec.json.decode(line, type=_Begin).timestamp
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ""


def _judged(
    life: _Life,
    keys: tuple[Key, ...],
    public_keys: tuple[PublicKey, ...],
    anchors: tuple[Anchor, ...],
) -> Arrived:
    found = verify(life.path, keys=keys, public_keys=public_keys, anchors=anchors)
    report = _named(found, life.source)
    verdicts: set[Verdict] = {
        report.chain.verdict,
        report.seals.verdict,
        report.completeness.verdict,
    }
    if anchors:
        verdicts.add(report.tail.verdict)
    return Arrived(life.source, life.generation, life.lines, life.last, report, _gravest(verdicts))


def _named(report: Report, source: str) -> Report:
    """
    Return *report* about the log *source*: the file that was verified is gone with the answer.
    """
    replace = msgspec.structs.replace
    return replace(
        report,
        path=source,
        files=tuple(replace(file, file=source) for file in report.files),
        findings=tuple(replace(finding, file=source) for finding in report.findings),
    )


def _gravest(verdicts: Container[Verdict]) -> Verdict:
    for one in _GRAVEST:
        if one in verdicts:
            return one
    return "ok"
