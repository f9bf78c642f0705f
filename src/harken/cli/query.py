"""
``harken query``.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from harken.cli._common import FILE, on_terminal
from harken.cli._desk import (
    FILTER_HELP,
    LIMIT,
    Desk,
    filter_options,
    named_log,
    output_options,
    path_argument,
)
from harken.cli._records import (
    Last,
    limited,
    print_entries,
    read_cursor,
    write_cursor,
)
from harken.cli._stream import from_option, sources_option, spooled


@click.command(
    name="query",
    epilog=FILTER_HELP,
)
@path_argument
@filter_options
@click.option("-n", "last", type=click.IntRange(0), help="Only the last so many of them.")
@click.option(
    "--limit",
    type=click.IntRange(0),
    help=f"Only the first so many; 0 is all. [default: all on a terminal, else {LIMIT}]",
)
@click.option("--fields", help="Only these members, with commas, such as id,metadata.reason.")
@click.option(
    "--cursor-file",
    type=FILE,
    help="Go on behind what was printed last time, and keep here how far that is.",
)
@click.option("--fail-empty", is_flag=True, help="Exit with 81 when there is none.")
@click.option("--fail-match", is_flag=True, help="Exit with 81 when there is one.")
@from_option
@sources_option
@output_options("text", "json", "jsonl", "csv")
def command(
    path: Path | None,
    last: int | None,
    limit: int | None,
    fields: str | None,
    cursor_file: Path | None,
    *,
    fail_empty: bool,
    fail_match: bool,
    stream: str | None,
    sources: tuple[str, ...],
    file: Path | None,
    form: str,
    color: str,
    tz: str,
    **filters: Any,
) -> None:
    """
    Print the records that are wanted, oldest first.

    PATH, or -F, is the log. Without a filter it is all of it, with its older files. On a terminal
    it is a line of text for each record, else the line of the log itself (-o jsonl).
    """
    file = named_log(path, file)
    spool = spooled(stream, file, cursor_file, sources)
    desk = Desk("query", file=file, form=form, color=color, tz=tz, auto="jsonl", spool=spool)
    if limit is None:
        limit = 0 if last is not None or on_terminal() else LIMIT
    with desk.trail() as trail:
        where = desk.filter(trail, after=read_cursor(cursor_file), **filters)
        seen = Last(limited(desk, trail.entries(where, last=last), limit))
        count = print_entries(desk, seen, desk.fields(fields))
    # What is still in a buffer was not seen by anybody.
    sys.stdout.flush()
    write_cursor(cursor_file, seen.seen)
    desk.finish(found=bool(count), fail_empty=fail_empty)
    if fail_match and count:
        raise click.exceptions.Exit(81)
