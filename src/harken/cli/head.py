"""
``harken head``.
"""

from __future__ import annotations

import json
from pathlib import Path

import click
import msgspec

from harken import Settings
from harken.cli._common import fail
from harken.trail import TrailError, head_of

UNUSABLE = 4
"""The exit code when there is no log to look at."""


@click.command(name="head")
@click.argument("path", required=False, type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(path: Path | None, *, as_json: bool) -> None:
    """
    Print the number and the hash of the last line of the audit log.

    Kept elsewhere, they are an anchor: `harken verify --anchor FILE` shows whether anything up to
    that line was changed since. It takes one line for each head, in either form.

    Without PATH it is the log of the settings. Its end is looked at, and nothing else.
    """
    log = Settings.load().audit_path() if path is None else path
    try:
        head = head_of(log)
    except TrailError as error:
        fail(str(error), UNUSABLE)
    if as_json:
        click.echo(json.dumps(msgspec.to_builtins(head)))
    else:
        click.echo(f"{head.seq} {head.hash}")
