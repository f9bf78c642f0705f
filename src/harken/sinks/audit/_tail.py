"""
The end of an audit file: its last sealed line, and whatever was left behind that.
"""

from __future__ import annotations

import os
from hashlib import sha256

import msgspec

from harken import JSON
from harken.record import MAX_LINE, Link, RecordError, link_of, parse

_BLOCK = 4096
_LARGEST_BLOCK = 1 << 20


class Tail(msgspec.Struct, frozen=True):
    """
    What an audit file ends with.

    Attributes:
        link: The last sealed line's; None when the file has none.

        begin: Where that line begins, in bytes from the start.

        sealed: Where it ends.

        whole: Where the last line that has an end ends; what is behind it is torn.
    """

    link: Link | None
    begin: int
    sealed: int
    whole: int


def read_tail(fd: int, size: int) -> Tail:
    """
    Return what the first *size* bytes of a file end with.
    """
    block = os.pread(fd, _BLOCK, max(0, size - _BLOCK))
    start = block.rfind(b"\n", 0, len(block) - 1) + 1
    if start or len(block) == size:
        link = _link(block[start:])
        if link is not None:
            return Tail(link, max(0, size - _BLOCK) + start, size, size)
    whole = end = _line_start(fd, size)
    while end:
        start = _line_start(fd, end - 1)
        if end - start <= MAX_LINE:
            link = _link(os.pread(fd, end - start, start))
            if link is not None:
                return Tail(link, start, end, whole)
        end = start
    return Tail(None, 0, 0, whole)


def archived_as(fd: int, tail: Tail) -> str | None:
    """
    Return what the file is to be called, when its last sealed line says that it was closed.
    """
    if tail.link is None or tail.link.event_type != "audit.close":
        return None
    record = parse(os.pread(fd, tail.sealed - tail.begin, tail.begin))
    name = record["metadata"].get("archived_as")
    return str(name) if name else None


def segment_of(fd: int) -> int:
    """
    Return the number of a file in its log, as its first line has it; 1 when it does not say.
    """
    first = _first_record(fd)
    number = None if first is None else first["metadata"].get("segment")
    return number if isinstance(number, int) else 1


def is_of(fd: int, resource: str) -> bool:
    """
    Return whether a file is one of the log *resource*, as far as its first line says.
    """
    first = _first_record(fd)
    if first is None or not first["event_type"].startswith("audit."):
        return True
    return bool(first["resource"] == resource)


def _first_record(fd: int) -> dict[str, JSON] | None:
    line, end, _ = os.pread(fd, _BLOCK, 0).partition(b"\n")
    return None if _link(line + end) is None else parse(line)


def fingerprint(fd: int, start: int, end: int) -> dict[str, str | int]:
    """
    Return how many bytes stand between *start* and *end*, and their SHA-256.
    """
    digest = sha256()
    at = start
    while at < end:
        block = os.pread(fd, min(_LARGEST_BLOCK, end - at), at)
        if not block:
            break
        digest.update(block)
        at += len(block)
    return {"bytes": at - start, "sha256": digest.hexdigest()}


def _link(line: bytes) -> Link | None:
    try:
        return link_of(line)
    except RecordError:
        return None


def _line_start(fd: int, end: int) -> int:
    """
    Return where the line begins that reaches up to *end*.
    """
    size = _BLOCK
    while end:
        start = max(0, end - size)
        at = os.pread(fd, end - start, start).rfind(b"\n")
        if at >= 0:
            return start + at + 1
        end = start
        size = min(2 * size, _LARGEST_BLOCK)
    return 0
