"""
``harken show``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import click

from harken import JSON
from harken.cli._common import printable
from harken.cli._desk import Desk, line_of, output_options
from harken.cli._words import outcome, time_of
from harken.record import RecordError, check_line
from harken.trail.entries import Entry


@click.command(name="show")
@click.argument("names", metavar="ID...", nargs=-1, required=True)
@output_options("text", "json", "jsonl")
def command(names: Sequence[str], *, file: Path | None, form: str, color: str, tz: str) -> None:
    """
    Show records in full.

    ID is the id of a record, or its number in the log, such as 42 or '#42'. What is shown says
    whether the line is as it was sealed; `harken verify` says whether it has its place in the log.
    """
    desk = Desk("show", file=file, form=form, color=color, tz=tz)
    with desk.trail() as trail:
        entries = [trail.find(name) for name in names]
    if desk.form == "json":
        desk.answer([_answer(entry) for entry in entries])
    elif desk.form == "jsonl":
        for entry in entries:
            click.echo(line_of(entry))
    else:
        for number, entry in enumerate(entries):
            if number:
                click.echo()
            _show(entry, desk)
    desk.finish()


def _answer(entry: Entry) -> JSON:
    return {
        "record": entry.members,
        "file": entry.file,
        "offset": entry.offset,
        "seal": seal_of(entry),
    }


def seal_of(entry: Entry) -> str:
    """
    Say whether the line is as it was sealed, by itself.
    """
    try:
        check_line(entry.line)
    except RecordError as error:
        return str(error)
    return "intact"


def _show(entry: Entry, desk: Desk) -> None:
    record = entry.record
    head = click.style(printable(record.event_type), bold=True)
    click.echo(f"{head}  {outcome(record.outcome or 'started')}  #{record.seq}")
    for name, value in entry.members.items():
        if value is None or name in {"event_type", "outcome", "seq"}:
            continue
        if name in {"timestamp", "occurred"} and isinstance(value, str):
            value = f"{value}  ({time_of(value, desk.zone)})"
        if isinstance(value, dict) and value:
            click.echo(f"  {printable(name)}")
            for inner, part in value.items():
                _field(f"  {inner}", part)
        elif value != {}:
            _field(name, value)
    _field("file", f"{entry.file}, byte {entry.offset}")
    seal = seal_of(entry)
    click.echo(
        f"  {'seal':<20}  {click.style(printable(seal), fg='green' if seal == 'intact' else 'red')}"
    )


def _field(name: str, value: JSON) -> None:
    text = value if isinstance(value, str) else json.dumps(value)
    click.echo(f"  {printable(name):<20}  {printable(text)}")
