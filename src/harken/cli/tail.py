"""
``harken tail``.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from harken.cli._common import FILE
from harken.cli._desk import (
    FILTER_HELP,
    Desk,
    filter_options,
    named_log,
    output_options,
    path_argument,
)
from harken.cli._records import Last, print_entries, read_cursor, write_cursor
from harken.cli._stream import from_option, sources_option, spooled
from harken.trail.files import MissingLogError
from harken.trail.filters import Cursor, Filter
from harken.trail.follow import follow


@click.command(name="tail", epilog=FILTER_HELP)
@path_argument
@click.option("-f", "--follow", "follows", is_flag=True, help="Go on with what is appended.")
@click.option(
    "-n",
    "last",
    type=click.IntRange(0),
    default=20,
    help="How many of the wanted records. [default: 20]",
)
@filter_options
@click.option("--fields", help="Only these members, with commas, such as id,metadata.reason.")
@click.option(
    "--cursor-file",
    type=FILE,
    help="Print all behind what was printed last time, and keep here how far that is.",
)
@from_option
@sources_option
@output_options("text", "json", "jsonl", "csv")
def command(
    path: Path | None,
    last: int,
    fields: str | None,
    cursor_file: Path | None,
    *,
    follows: bool,
    stream: str | None,
    sources: tuple[str, ...],
    file: Path | None,
    form: str,
    color: str,
    tz: str,
    **filters: Any,
) -> None:
    """
    Print the last records, and those to come. PATH, or -F, is the log.

    -n counts what is wanted, whatever the filters are. With -f, a log that is rotated or cut is
    followed into its new file, one that is not there yet is waited for, and a line is printed when
    it is whole; Ctrl-C ends it.
    """
    file = named_log(path, file)
    spool = spooled(stream, file, cursor_file, sources)
    desk = Desk(
        "tail",
        file=file,
        form=form,
        color=color,
        tz=tz,
        auto="jsonl",
        endless=follows,
        spool=spool,
    )
    if follows and desk.form == "json":
        raise click.UsageError("what has no end fits into no envelope; use -o jsonl with -f")
    columns = desk.fields(fields)
    cursor = read_cursor(cursor_file)
    # Whoever has a cursor wants everything since.
    count = None if cursor is not None else last
    if not follows:
        with desk.trail() as trail:
            where = desk.filter(trail, after=cursor, **filters)
            seen = Last(trail.entries(where, last=count))
            print_entries(desk, seen, columns)
        sys.stdout.flush()
        write_cursor(cursor_file, seen.seen)
        desk.finish()
        return
    where = _filter(desk, cursor, filters)
    header = True
    wait = None if spool is None else spool.wait
    for entries in follow(desk.path, where, last=count, report=desk.problem, wait=wait):
        print_entries(desk, entries, columns, header=header)
        header = False
        sys.stdout.flush()
        write_cursor(cursor_file, entries)


def _filter(desk: Desk, cursor: Cursor | None, filters: dict[str, Any]) -> Filter:
    try:
        with desk.trail() as trail:
            return desk.filter(trail, after=cursor, **filters)
    except MissingLogError:
        # It may come; there is nothing that a time could be taken from.
        return desk.filter(after=cursor, **filters)
