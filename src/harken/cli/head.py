"""
``harken head``.
"""

from __future__ import annotations

import json
from pathlib import Path

import click
import msgspec

from harken import Settings
from harken.cli._desk import Desk, envelope_option, file_option, named_log, path_argument
from harken.trail import head_of


@click.command(name="head")
@path_argument
@click.option("--json", "as_json", is_flag=True, help="Print the head as one JSON object.")
@envelope_option
@file_option
def command(path: Path | None, *, as_json: bool, form: str, file: Path | None) -> None:
    """
    Print the number and the hash of the last line of the audit log.

    Kept elsewhere, they are an anchor: `harken verify --anchor FILE` shows whether anything up to
    that line was changed since. It takes one line for each head, in either form.

    PATH, or -F, is the log; without either it is the one of the settings. Its end is looked at,
    and nothing else.
    """
    if as_json and form == "json":
        raise click.UsageError("--json prints the head, and -o json an envelope; give one")
    named = named_log(path, file)
    desk = Desk("head", file=named, form=form, color="auto", tz="utc", endless=True)
    log = Settings.load().audit_path() if named is None else named
    desk.log = str(log)
    head = head_of(log)
    if form == "json":
        desk.answer(head)
    elif as_json:
        click.echo(json.dumps(msgspec.to_builtins(head)))
    else:
        click.echo(f"{head.seq} {head.hash}")
