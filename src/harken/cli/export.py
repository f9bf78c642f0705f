"""
``harken export``.
"""

from __future__ import annotations

import json
from pathlib import Path

import click

from harken import Settings
from harken.cli._common import complain
from harken.record import RecordError, parse
from harken.trail import DamagedFileError, open_log
from harken.trail.export import FORMATS

DAMAGED = 3
"""The exit code when lines were left out that are no records."""


@click.command(name="export")
@click.argument("form", metavar="FORM", type=click.Choice(tuple(FORMATS)))
@click.argument("path", required=False, type=click.Path(path_type=Path))
def command(form: str, path: Path | None) -> None:
    """
    Print the audit log in the vocabulary of others.

    It is a line of JSON for each record. FORM is ocsf (API Activity), ecs (Elastic Common Schema)
    or cloudevents. PATH is the log that is appended to, with its older files beside it; without
    PATH it is the one of the settings.

    What is printed has no chain: verify the log itself.

    Exit codes: 0 all is there, 3 lines that are no records were left out.
    """
    log = Settings.load().audit_path() if path is None else path
    write = FORMATS[form]
    left_out = 0
    with open_log(log) as files:
        for segment in files.segments:
            try:
                for number, line in enumerate(segment.lines(), 1):
                    try:
                        exported = write(parse(line))
                    except (RecordError, KeyError, TypeError, AttributeError, ValueError):
                        left_out += 1
                        complain(f"{segment.path}:{number}: this line is no record; left out")
                        continue
                    click.echo(json.dumps(exported, separators=(",", ":")))
            except DamagedFileError as error:
                left_out += 1
                complain(f"{error}; what follows in this file was left out")
    if left_out:
        raise click.exceptions.Exit(DAMAGED)
