"""
``harken audit-log``.
"""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import click

from harken import JSON
from harken.cli._common import printable
from harken.cli._desk import LIMIT, Desk, output_options, write_csv
from harken.cli._records import width
from harken.cli._table import Column, print_table
from harken.cli._words import COLORS, plural, span_of, time_of
from harken.trail.calls import newest_calls

FIELDS = (
    *("timestamp", "command", "params", "exit_code", "ok", "outcome", "duration_ms"),
    *("operator", "effect", "request_id", "trace_id", "id"),
)
"""The members of an answer."""

_COLUMNS = (
    Column("TIME"),
    Column("COMMAND"),
    Column("EXIT", right=True),
    Column("OUTCOME"),
    Column("TOOK", right=True),
    Column("OPERATOR"),
    Column("TRACE"),
    Column("PARAMS"),
)


@click.command(name="audit-log")
@click.option("--since", metavar="TIME", help="Not before this time, such as 1h or 2026-11-21.")
@click.option(
    "--command", "command_name", metavar="NAME", help="Calls of this command; * is anything."
)
@click.option("--trace-id", metavar="ID", help="Calls with this TOOL_TRACE_ID, or of this trace.")
@click.option(
    "--limit",
    type=click.IntRange(0),
    default=LIMIT,
    help=f"Only the last so many; 0 is all. [default: {LIMIT}]",
)
@output_options("text", "json", "jsonl", "csv")
def command(
    since: str | None,
    command_name: str | None,
    trace_id: str | None,
    limit: int,
    *,
    file: Path | None,
    form: str,
    color: str,
    tz: str,
) -> None:
    """
    Print the calls of command-line tools that are on record.

    They are those of `harken exec` and of tools that record themselves: a line of JSON for each,
    oldest first. PARAMS are as they were recorded, with secrets taken out.
    """
    desk = Desk("audit-log", file=file, form=form, color=color, tz=tz, auto="jsonl")
    with desk.trail() as trail:
        where = desk.filter(trail, since=since)
        newest = newest_calls(trail, where, command=command_name, trace_id=trace_id)
        found = list(islice(newest, limit or None))
        if next(newest, None) is not None:
            desk.truncated = True
            desk.warn(f"there are more than {plural(limit, 'call')}; use --limit or --since")
    found.reverse()
    match desk.form:
        case "json":
            desk.answer(found)
        case "jsonl":
            for call in found:
                click.echo(json.dumps(call, separators=(",", ":")))
        case "csv":
            write_csv(FIELDS, (list(call.values()) for call in found))
        case _:
            print_table(_COLUMNS, [_row(call, desk) for call in found], width())
    desk.finish()


def _row(call: dict[str, JSON], desk: Desk) -> list[str | tuple[str, str | None]]:
    outcome = str(call["outcome"] or "")
    took = call["duration_ms"]
    code = call["exit_code"]
    return [
        time_of(str(call["timestamp"]), desk.zone),
        printable(str(call["command"] or "")),
        "" if code is None else printable(str(code)),
        (printable(outcome), COLORS.get(outcome)),
        span_of(took / 1000) if isinstance(took, (int, float)) else "",
        printable(str(call["operator"] or "")),
        printable(str(call["trace_id"] or "")),
        printable(json.dumps(call["params"])) if call["params"] is not None else "",
    ]
