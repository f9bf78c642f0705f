"""
The files beside an audit file: which of them a new one continues.
"""

from __future__ import annotations

import gzip
import lzma
import os
import zlib
from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from io import BufferedReader
from typing import Any

import msgspec

from harken import JSON
from harken.record import MAX_LINE, Link, RecordError, link_of, parse
from harken.sinks.audit._descriptor import lock
from harken.sinks.audit._tail import first_line, last_line, read_tail

_PACKED = (".gz", ".xz", ".zst")
# What cannot be read, and what is not finished.
_IGNORED = (".bz2", ".lz4", ".new")


class _UnreadableError(Exception):
    """
    A file is damaged, or there is nothing to decompress it with.
    """


class Sibling(msgspec.Struct, frozen=True):
    """
    A file that a log went on in before.

    Attributes:
        link: Its last line's.

        segment: Its number in the log.

        archived: Whether it ends with a record that says what it is called now.
    """

    name: str
    link: Link
    segment: int
    archived: bool


def newest_sibling(path: str) -> Sibling | None:
    """
    Return the file with the last line of the log at *path*, which has none itself.

    Of compressed files only the newest is looked at, and only when no plain one is newer: it has
    to be read as a whole.
    """
    folder, base = os.path.split(path)
    plain: list[os.DirEntry[str]] = []
    packed: list[os.DirEntry[str]] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            name = entry.name
            if (
                name.startswith((f"{base}.", f"{base}-"))
                and not name.startswith(f"{base}.spill-")
                and not name.endswith(_IGNORED)
                and entry.is_file(follow_symlinks=False)
            ):
                (packed if name.endswith(_PACKED) else plain).append(entry)
    resource = f"audit_log:{base}"
    found = [_plain(entry, resource) for entry in plain]
    if packed:
        newest = max(packed, key=_changed_ns)
        if all(_changed_ns(entry) <= _changed_ns(newest) for entry in plain):
            found.append(_packed(newest, resource))
    return max((one for one in found if one is not None), key=_last_seq, default=None)


def segment_in(first: bytes) -> int:
    """
    Return the number of a file in its log, as its first line has it; 1 when it does not say.
    """
    record = _record(first)
    number = None if record is None else record["metadata"].get("segment")
    return number if isinstance(number, int) else 1


def archived_as(last: bytes) -> str | None:
    """
    Return what a file is to be called, when its last line says that it was closed.
    """
    record = _record(last)
    if record is None or record["event_type"] != "audit.close":
        return None
    name = record["metadata"].get("archived_as")
    return str(name) if name else None


def _plain(entry: os.DirEntry[str], resource: str) -> Sibling | None:
    try:
        fd = os.open(entry.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except (FileNotFoundError, PermissionError):
        return None
    try:
        first = first_line(fd)
        if not _is_of(first, resource):
            return None
        lock(fd, 0.1)
        tail = read_tail(fd, os.fstat(fd).st_size)
        last = last_line(fd, tail)
    finally:
        os.close(fd)
    return _sibling(entry.name, first, last)


def _packed(entry: os.DirEntry[str], resource: str) -> Sibling | None:
    first = last = b""
    try:
        with _unpacked(entry.path) as lines:
            for line in iter(partial(lines.readline, MAX_LINE + 1), b""):
                first = first or line
                last = line
    except (OSError, EOFError, zlib.error, lzma.LZMAError, _UnreadableError):
        # Damaged, or not to be read by us: nothing can be continued.
        return None
    return _sibling(entry.name, first, last) if _is_of(first, resource) else None


@contextmanager
def _unpacked(path: str) -> Generator[Any]:
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
        if path.endswith(".gz"):
            with gzip.open(file) as lines:
                yield lines
        elif path.endswith(".xz"):
            with lzma.open(file) as lines:
                yield lines
        else:
            try:
                zstandard = import_module("zstandard")
            except ImportError as error:
                raise _UnreadableError from error
            unpacker = zstandard.ZstdDecompressor()
            try:
                with unpacker.stream_reader(file, read_across_frames=True) as stream:
                    yield BufferedReader(stream)
            except zstandard.ZstdError as error:
                raise _UnreadableError from error


def _sibling(name: str, first: bytes, last: bytes) -> Sibling | None:
    try:
        link = link_of(last)
    except RecordError:
        return None
    return Sibling(name, link, segment_in(first), archived_as(last) is not None)


def _is_of(first: bytes, resource: str) -> bool:
    """
    Return whether a file is one of the log *resource*, as far as its first line says.
    """
    record = _record(first)
    if record is None or not record["event_type"].startswith("audit."):
        return True
    return bool(record["resource"] == resource)


def _record(line: bytes) -> dict[str, JSON] | None:
    try:
        link_of(line)
    except RecordError:
        return None
    return parse(line)


def _changed_ns(entry: os.DirEntry[str]) -> int:
    return entry.stat(follow_symlinks=False).st_mtime_ns


def _last_seq(sibling: Sibling) -> int:
    return sibling.link.seq
