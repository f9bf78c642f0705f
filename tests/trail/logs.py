"""
Logs to verify, and what people do to them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

from harken import Bus, Envelope, Event
from harken.record import GENESIS, control
from harken.sinks.audit import AuditLog
from harken.testing import capture
from harken.trail import Report

PREV = re.compile(rb',"prev":"[0-9a-f]{64}","hash":"[0-9a-f]{64}"\}\n$')


class Struck(Event, name="trail_test.struck", audit=True, action="strike"):
    """
    A bell was struck.
    """

    number: int = 0
    text: str = ""


def struck(count: int, text: str = "") -> list[Envelope[Event]]:
    bus = Bus()
    with capture(bus) as heard:
        for number in range(1, count + 1):
            bus.publish(Struck(number=number, text=text))
    return heard.envelopes


def write_log(
    path: Path,
    count: int = 10,
    *,
    key: Path | None = None,
    signing_key: Path | None = None,
    max_bytes: int | None = None,
    text: str = "",
    close: bool = True,
) -> AuditLog:
    """
    Append *count* records as one process does; it ends as if it was killed when *close* is false.
    """
    log = AuditLog(
        path,
        key_path=key,
        signing_key_path=signing_key,
        max_bytes=max_bytes,
        checkpoint_seconds=1000,
    )
    for envelope in struck(count, text):
        log.write([envelope])
    if close:
        log.close()
    return log


def lines_of(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True)


def put(path: Path, lines: Sequence[bytes]) -> None:
    path.write_bytes(b"".join(lines))


def archives(path: Path) -> list[Path]:
    """
    Return the archives of a log, oldest first.
    """
    return sorted(path.parent.glob(f"{path.name}.2*"), key=lambda one: one.name.split("-")[-1])


def resealed(line: bytes, prev: str | None = None) -> bytes:
    """
    Return *line* with a new hash, and the hash *prev* of another line before it.
    """
    content = line[:-76]
    if prev is not None:
        content = content[:-74] + f',"prev":"{prev}"'.encode()
    return content + f',"hash":"{sha256(content).hexdigest()}"}}\n'.encode()


def hash_of(line: bytes) -> str:
    return line[-67:-3].decode()


def rewritten(lines: Sequence[bytes], prev: str = GENESIS) -> list[bytes]:
    """
    Return *lines* as a chain that holds, whatever was done to them.
    """
    chain: list[bytes] = []
    for line in lines:
        chain.append(resealed(line, prev))
        prev = hash_of(chain[-1])
    return chain


def sealed(
    seq: int, prev: str, *, n: int = 1, event_type: str = "trail_test.forged", **metadata: object
) -> bytes:
    """
    Return a line of a writer called ``forger``.
    """
    draft = control(
        event_type,
        metadata,
        event_id="01a1fd61-e210-705b-bee6-413c2aa8cd73",
        time_ns=1_800_000_000_000_000_000,
        resource="audit_log:audit.jsonl",
    )
    line, _ = draft.line(draft.time_ns, seq, "forger", n, prev)
    return line


def ended(seq: int, prev: str, like: bytes) -> bytes:
    """
    Return a line which says that the writer of the line *like* ended.
    """
    line = sealed(seq, prev, n=seq, event_type="audit.close", reason="shutdown")
    writer = json.loads(like)["writer"]
    return resealed(line.replace(b'"writer":"forger"', f'"writer":"{writer}"'.encode()))


def found(report: Report, *weights: str) -> list[tuple[str, str, int]]:
    """
    Return kind, name of the file and line of what was found, by default where it is no note.
    """
    wanted = weights or ("tampered", "undecided", "incomplete")
    return [
        (finding.kind, Path(finding.file).name, finding.line)
        for finding in report.findings
        if finding.weight in wanted and finding.kind != "unvouched"
    ]


def verdicts(report: Report) -> tuple[str, str, str, str]:
    return (
        report.chain.verdict,
        report.seals.verdict,
        report.completeness.verdict,
        report.tail.verdict,
    )
