"""
Printing records: as lines of text, JSON or CSV, or as one envelope.
"""

from __future__ import annotations

import json
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

import click
import msgspec

from harken import JSON
from harken.cli._common import on_terminal, replacing
from harken.cli._desk import Desk, cell, chosen, line_of, write_csv
from harken.cli._words import cut, plural, row
from harken.record import RecordError
from harken.trail.entries import UNREADABLE, Entry, Problem, Record
from harken.trail.filters import Cursor, FilterError

COLUMNS = ("timestamp", "seq", "event_type", "actor", "resource", "outcome", "run_id", "id")
"""The members that a table has, if no others are asked for."""


def width() -> int | None:
    """
    Return how many columns a line may have; None where no person looks on.
    """
    return shutil.get_terminal_size().columns if on_terminal() else None


def limited(desk: Desk, entries: Iterable[Entry], limit: int) -> Iterator[Entry]:
    """
    Yield the first *limit* entries, all for 0, and tell if there are more.
    """
    entries = iter(entries)
    if not limit:
        yield from entries
        return
    yield from islice(entries, limit)
    if next(entries, None) is not None:
        desk.truncated = True
        desk.warn(f"there are more than {plural(limit, 'record')}; use --limit 0, -n or a filter")


class Last:
    """
    Entries of which the last ones that were taken are kept.
    """

    def __init__(self, entries: Iterable[Entry]) -> None:
        self._entries = entries
        self.seen: deque[Entry] = deque(maxlen=100)

    def __iter__(self) -> Iterator[Entry]:
        for entry in self._entries:
            self.seen.append(entry)
            yield entry


def print_entries(
    desk: Desk, entries: Iterable[Entry], fields: Sequence[str], *, header: bool = True
) -> int:
    """
    Print records in the form that was asked for; return how many.

    Args:
        header: Whether a table begins with the names of its columns.
    """
    if desk.form == "json":
        found = _members(desk, entries)
        data = [chosen(members, fields) if fields else members for members in found]
        desk.answer(data)
        return len(data)
    if desk.form == "csv":
        columns = fields or COLUMNS
        rows = (list(chosen(members, columns).values()) for members in _members(desk, entries))
        return write_csv(columns if header else None, rows)
    show = _shower(desk, fields)
    count = 0
    for entry in entries:
        text = show(entry)
        if text is not None:
            count += 1
            click.echo(text)
    return count


def _shower(desk: Desk, fields: Sequence[str]) -> Callable[[Entry], str | None]:
    """
    Return what makes a line of a record; None, and a problem, of what is none.
    """
    columns = width() if desk.form == "text" else None

    def show(entry: Entry) -> str | None:
        try:
            if desk.form == "text" and not fields:
                source = desk.spool.source_of(entry.record.writer) if desk.spool else ""
                return row(entry.record, desk.zone, columns, source)
            if desk.form == "text":
                found = chosen(entry.members, fields)
                return cut("  ".join(cell(found[name]) or "-" for name in fields), columns)
            if fields:
                return json.dumps(chosen(entry.members, fields), separators=(",", ":"))
            return line_of(entry)
        except (RecordError, *UNREADABLE) as error:
            desk.problem(Problem(entry.file, entry.offset, f"{error}; left out"))
            return None

    return show


def _members(desk: Desk, entries: Iterable[Entry]) -> Iterator[Mapping[str, JSON]]:
    for entry in entries:
        try:
            # Decoded here, so that what follows cannot fail half-way.
            members = entry.members
        except RecordError as error:
            desk.problem(Problem(entry.file, entry.offset, f"{error}; left out"))
        else:
            yield members


# Cursors.


def read_cursor(path: Path | None) -> Cursor | None:
    """
    Return the cursor in the file; None when there is no file yet.
    """
    if path is None or not path.exists():
        return None
    try:
        return msgspec.json.decode(path.read_bytes(), type=Cursor)
    except msgspec.DecodeError as error:
        raise FilterError(f"{path} holds no cursor; name another file") from error


def write_cursor(path: Path | None, seen: Sequence[Entry]) -> None:
    """
    Keep where the answer ended, the last that is a record of what was *seen*, in a file that is
    whole at any time.
    """
    record = next(filter(None, map(_record, reversed(seen))), None)
    if path is None or record is None:
        return
    cursor = Cursor(record.timestamp, record.seq, record.hash)
    with replacing(path) as stream:
        stream.write(f"{msgspec.json.encode(cursor).decode()}\n")


def _record(entry: Entry) -> Record | None:
    try:
        return entry.record
    except UNREADABLE:
        return None
