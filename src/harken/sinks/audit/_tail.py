"""
The end of an audit file: its last sealed line, and whatever was left behind that.
"""

from __future__ import annotations

import os
from hashlib import sha256

import msgspec

from harken.record import MAX_LINE, Link, RecordError, format_of, link_of

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


def format_of_end(fd: int, tail: Tail) -> int | None:
    """
    Return the version of the format that the last whole line has; None when it is no record.
    """
    return format_of(os.pread(fd, _BLOCK, _line_start(fd, max(0, tail.whole - 1))))


def first_line(fd: int) -> bytes:
    """
    Return the first line of a file; what has no end within 4 KiB is none of our own.
    """
    line, end, _ = os.pread(fd, _BLOCK, 0).partition(b"\n")
    return line + end


def line_before_first(fd: int) -> tuple[int, str] | None:
    """
    Return the number and the hash of the line before the first one of a file that was emptied
    while that was written; None when the first one says itself how the file began.
    """
    line, end, _ = os.pread(fd, MAX_LINE, 0).partition(b"\n")
    link = _link(line + end)
    if link is None or link.event_type in {"audit.open", "audit.recover"}:
        return None
    return link.seq - 1, link.prev


def last_line(fd: int, tail: Tail) -> bytes:
    """
    Return the last sealed line of a file; nothing when there is none.
    """
    return os.pread(fd, tail.sealed - tail.begin, tail.begin)


def has_line(fd: int, digest: str) -> bool:
    """
    Return whether a file has the line with the hash *digest*. Searched from the end.
    """
    wanted = end_of_line(digest)
    end = os.fstat(fd).st_size
    size = _BLOCK
    while end:
        start = max(0, end - size)
        # One that lies across the border is found with what stands behind that.
        if wanted in os.pread(fd, end - start + len(wanted), start):
            return True
        end = start
        size = min(2 * size, _LARGEST_BLOCK)
    return False


def end_of_line(digest: str) -> bytes:
    """
    Return what the line with the hash *digest* ends with.
    """
    return f',"hash":"{digest}"}}\n'.encode()


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
