"""
One line by itself: what it says, or what is wrong with it.
"""

from __future__ import annotations

import re
from hashlib import sha256

import msgspec

from harken.record import (
    ALWAYS,
    CHAIN,
    MAX_LINE,
    OPTIONAL,
    SEAL,
    VERSION,
    RecordError,
    parse,
)
from harken.trail.findings import Weight

START = re.compile(
    rb'\{"timestamp":"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z)","seq":([1-9]\d{0,17}),'
    rb'"v":(\d{1,9}),"id":(?:"[^"\\\x80-\xff]*"|null),"event_type":"([^"\\\x80-\xff]*)",'
)
"""How a record begins: timestamp, seq, version and event type."""

ORIGIN = re.compile(rb'"([^"\\\x80-\xff]{1,64})","n":([1-9]\d{0,17})')
"""The values of the members ``writer`` and ``n``, without the name of the first."""

PREV = 74
"""Bytes of the member ``prev``, with its comma."""

END = PREV + SEAL + 1
"""Bytes at the end of a line: ``prev``, ``hash``, the brace and the line feed."""

BEFORE_ORIGIN = b',"writer":'

_SEAL = re.compile(rb',"hash":"([0-9a-f]{64})"\}\n')
_BOM = b"\xef\xbb\xbf"
_BEGIN = b'{"timestamp":"'


class Fault(msgspec.Struct, frozen=True):
    """
    What is wrong with a line that has its place in the chain all the same.
    """

    kind: str
    weight: Weight
    message: str


class Line(msgspec.Struct, frozen=True):
    """
    A line whose hash covers it.

    Attributes:
        content: The bytes as they were written, without what somebody put around them.
    """

    content: bytes
    timestamp: str
    seq: int
    event_type: str
    writer: str
    n: int
    prev: str
    hash: str
    faults: tuple[Fault, ...] = ()


class Damage(msgspec.Struct, frozen=True):
    """
    A line that nobody sealed as it is.

    Attributes:
        hashes: Under which the next line may know the one that stood here.
    """

    kind: str
    message: str
    hashes: tuple[str, ...] = ()


def examine(line: bytes) -> Line | Damage:
    """
    Return what *line* says, or what is wrong with it.
    """
    if not line.endswith(b"\n"):
        return Damage("torn", "the line has no end")
    if len(line) > MAX_LINE:
        return Damage("too_long", f"the line has more than {MAX_LINE} bytes")
    stored, computed = _hashes(line)
    if stored is not None and stored == computed:
        return _sealed(line, stored)
    disguised = _undisguised(line)
    if disguised is not None:
        return disguised
    if not line.strip():
        return Damage("blank", "the line is blank")
    if b"\0" in line and not line.strip(b"\0\n"):
        return Damage("nul", f"the line is {len(line) - 1} NUL bytes")
    if stored is not None and START.match(line) is not None:
        return Damage(
            "altered", "the line was altered after it was sealed", (stored, str(computed))
        )
    # Whatever is left of a seal may still be known to the next line.
    return Damage("foreign", "the line is not a sealed record", tuple(filter(None, (stored,))))


def _hashes(line: bytes) -> tuple[str | None, str | None]:
    match = _SEAL.fullmatch(line, max(0, len(line) - SEAL - 1))
    if match is None:
        return None, None
    return match[1].decode(), sha256(line[: -SEAL - 1]).hexdigest()


def _sealed(line: bytes, digest: str) -> Line | Damage:
    start = START.match(line)
    at = line.rfind(BEFORE_ORIGIN, 0, -END)
    origin = ORIGIN.fullmatch(line, at + len(BEFORE_ORIGIN), len(line) - END)
    prev = re.fullmatch(rb',"prev":"([0-9a-f]{64})"', line[-END : -SEAL - 1])
    if start is None or origin is None or prev is None:
        return Damage("malformed", "the line is sealed, but it is not a record", (digest,))
    return Line(
        content=line,
        timestamp=start[1].decode(),
        seq=int(start[2]),
        event_type=start[4].decode(),
        writer=origin[1].decode(),
        n=int(origin[2]),
        prev=prev[1].decode(),
        hash=digest,
        faults=tuple(_faults(line, int(start[3]))),
    )


def _faults(line: bytes, version: int) -> list[Fault]:
    if version != VERSION:
        return [
            Fault(
                "version",
                "undecided",
                f"the line has format version {version}, and this harken knows {VERSION} only",
            )
        ]
    try:
        record = parse(line)
    except RecordError as error:
        kind = "duplicate_member" if error.problem == "duplicate" else error.problem
        return [Fault(kind, "tampered", f"{error}, although it was sealed like this")]
    return (
        []
        if has_known_members(tuple(record))
        else [
            Fault(
                "member", "undecided", "the line has members that its format version does not have"
            )
        ]
    )


def has_known_members(names: tuple[str, ...]) -> bool:
    """
    Return whether a record has the members that it must have, in order, and no unknown ones.
    """
    middle = [name for name in OPTIONAL if name in names]
    return names == (*ALWAYS, *middle, *CHAIN)


def _undisguised(line: bytes) -> Line | None:
    """
    Return the sealed line that *line* is but for what an editor or a crash put around it.
    """
    faults: list[Fault] = []
    clean = line
    if clean.startswith(_BOM):
        clean = clean.removeprefix(_BOM)
        faults.append(Fault("bom", "tampered", "a byte order mark stands before the line"))
    if clean.startswith(b"\0"):
        nul = len(clean) - len(clean := clean.lstrip(b"\0"))
        faults.append(Fault("nul", "tampered", f"{nul} NUL bytes stand before the line"))
    if clean.endswith(b"\r\n"):
        clean = clean[:-2] + b"\n"
        faults.append(Fault("crlf", "tampered", "the line ends with CR LF"))
    if not faults:
        at = clean.rfind(_BEGIN)
        if at > 0:
            clean = clean[at:]
            faults.append(Fault("glued", "tampered", f"{at} bytes stand before the line"))
    stored, computed = _hashes(clean)
    if not faults or stored is None or stored != computed:
        return None
    found = _sealed(clean, stored)
    if isinstance(found, Damage):
        return None
    return msgspec.structs.replace(found, faults=(*faults, *found.faults))
