"""
``harken export``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO, TypeAlias

import click

from harken import JSON
from harken.cli._common import FILE, on_terminal, replacing
from harken.cli._desk import (
    FILTER_HELP,
    Desk,
    chosen,
    file_option,
    filter_options,
    line_of,
    named_log,
    path_argument,
    write_csv,
)
from harken.cli._html import OPTIONS as HTML_OPTIONS, options as html_options, write_html
from harken.cli._records import COLUMNS
from harken.record import RecordError
from harken.trail.entries import Entry, Problem
from harken.trail.export import FORMATS
from harken.trail.files import TrailError
from harken.trail.filters import Filter
from harken.trail.log import Trail
from harken.trail.otlp import to_otlp

Writer: TypeAlias = Callable[[Desk, Trail, Filter, TextIO, tuple[str, ...]], None]
"""Writes what is wanted of a log to a file; the last argument are the ``--fields``."""


@click.command(name="export", epilog=FILTER_HELP)
@click.argument(
    "form", metavar="FORM", type=click.Choice((*FORMATS, "csv", "html", "jsonl", "otlp"))
)
@path_argument
@filter_options
@click.option("--fields", help="The columns of csv, with commas.")
@click.option(
    "-O",
    "--out",
    type=FILE,
    help="Where to write, at once when all is there. [default: standard output]",
)
@html_options
@file_option
def command(
    form: str,
    path: Path | None,
    fields: str | None,
    out: Path | None,
    file: Path | None,
    **filters: Any,
) -> None:
    """
    Print the audit log in the form of others.

    \b
    html         one page to look at, complete in itself; with --run, of one run
    jsonl        the lines of the log, as they are
    csv          a table; no cell is a formula
    otlp         operations as OpenTelemetry spans, OTLP in JSON
    ocsf         API Activity of the Open Cybersecurity Schema Framework
    ecs          Elastic Common Schema
    cloudevents  CloudEvents 1.0

    All but csv and html are a line of JSON for each record, or for some spans. PATH, or -F, is the
    log that is appended to, with its older files beside it.

    But for all of a log as jsonl, what is printed cannot be verified: verify the log itself.

    Exit codes: 0 all is there, 3 lines that are no records were left out.
    """
    log = named_log(path, file)
    html = {name: filters.pop(name) for name in HTML_OPTIONS}
    if form != "html" and any(html.values()):
        raise click.UsageError(f"{form} takes no key, anchor, title or limit; html does")
    if form != "csv" and fields is not None:
        raise click.UsageError(f"--fields are the columns of csv; {form} has all there is")
    if form == "html" and out is None and on_terminal():
        raise click.UsageError("a page is no text for a terminal; name a file with -O")
    desk = Desk("export", file=log, form="jsonl", color="auto", tz="local")
    with desk.trail() as trail, _output(out, trail) as stream:
        where = desk.filter(trail, **filters)
        if form == "html":
            write_html(desk, trail, where, stream, **html)
        else:
            WRITERS[form](desk, trail, where, stream, desk.fields(fields))
    desk.finish()


@contextmanager
def _output(out: Path | None, trail: Trail) -> Generator[TextIO]:
    if out is None:
        yield sys.stdout
        return
    if out.resolve() in {Path(segment.path).resolve() for segment in trail.files.segments}:
        raise click.UsageError(f"{out} is a file of the log; name another one with -O")
    try:
        # What is in a log is for those who may read the log.
        with replacing(out) as stream:
            yield stream
    except OSError as error:
        raise TrailError(f"{out} cannot be written: {error.strerror}") from error


def _good(desk: Desk, trail: Trail, where: Filter, make: Callable[[Entry], JSON]) -> Iterator[JSON]:
    """
    Yield what *make* makes of the wanted entries, and tell of those that it cannot make it of.
    """
    for entry in trail.entries(where):
        try:
            made = make(entry)
        except (RecordError, KeyError, TypeError, AttributeError, ValueError):
            desk.problem(Problem(entry.file, entry.offset, "the line is no record; left out"))
            continue
        yield made


def _write_lines(stream: TextIO, objects: Iterable[JSON]) -> None:
    for found in objects:
        print(json.dumps(found, separators=(",", ":")), file=stream)


def _mapped(to_form: Callable[[Mapping[str, JSON]], dict[str, JSON]]) -> Writer:
    def write(
        desk: Desk, trail: Trail, where: Filter, stream: TextIO, fields: tuple[str, ...]
    ) -> None:
        _write_lines(stream, _good(desk, trail, where, lambda entry: to_form(entry.members)))

    return write


def _write_jsonl(
    desk: Desk, trail: Trail, where: Filter, stream: TextIO, fields: tuple[str, ...]
) -> None:
    for line in _good(desk, trail, where, line_of):
        print(line, file=stream)


def _write_csv(
    desk: Desk, trail: Trail, where: Filter, stream: TextIO, fields: tuple[str, ...]
) -> None:
    columns = fields or COLUMNS
    found = _good(desk, trail, where, lambda entry: list(chosen(entry.members, columns).values()))
    write_csv(columns, found, stream)


def _write_otlp(
    desk: Desk, trail: Trail, where: Filter, stream: TextIO, fields: tuple[str, ...]
) -> None:
    _write_lines(stream, to_otlp(trail.records(where)))


WRITERS: Mapping[str, Writer] = {
    **{name: _mapped(to_form) for name, to_form in FORMATS.items()},
    "jsonl": _write_jsonl,
    "csv": _write_csv,
    "otlp": _write_otlp,
}
"""What writes each form."""
