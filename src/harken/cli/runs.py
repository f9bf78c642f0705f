"""
``harken runs``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import msgspec

from harken.cli._common import printable
from harken.cli._desk import (
    FILTER_HELP,
    Desk,
    filter_options,
    named_log,
    output_options,
    path_argument,
    write_csv,
)
from harken.cli._records import width
from harken.cli._table import Column, print_table
from harken.cli._words import COLORS, count, money, span_of, time_of
from harken.trail.runs import RunSummary, Usage
from harken.trail.times import ns_of

_COLUMNS = (
    Column("RUN"),
    Column("STARTED"),
    Column("WALL", right=True),
    Column("OUTCOME"),
    Column("EVENTS", right=True),
    Column("LLM", right=True),
    Column("TOOL", right=True),
    Column("ERR", right=True),
    Column("DENY", right=True),
    Column("TOKENS", right=True),
    Column("COST", right=True),
    Column("WHAT"),
)


@click.command(name="runs", epilog=FILTER_HELP)
@path_argument
@filter_options
@click.option("--failed", is_flag=True, help="Only runs that did not succeed, or never ended.")
@click.option("-n", "last", type=click.IntRange(1), help="Only the last so many.")
@click.option("--fail-empty", is_flag=True, help="Exit with 81 when there is none.")
@output_options("text", "json", "jsonl", "csv")
def command(
    path: Path | None,
    *,
    failed: bool,
    last: int | None,
    fail_empty: bool,
    file: Path | None,
    form: str,
    color: str,
    tz: str,
    **filters: Any,
) -> None:
    """
    List the runs: one line for each. PATH, or -F, is the log.

    What is counted are the records that are wanted: with --since, a run that began before is
    counted from then on. Tokens and costs are what a run says of itself at its end, else the sums
    over its calls of models, where those are on record. The outcome is that of the run, whatever
    is wanted; of a run without an end it is `unclosed`: it goes on, or it was killed.
    """
    desk = Desk("runs", file=named_log(path, file), form=form, color=color, tz=tz)
    with desk.trail() as trail:
        runs = trail.runs(desk.filter(trail, **filters))
    if failed:
        runs = [run for run in runs if run.outcome != "success"]
    runs = runs[-last:] if last else runs
    match desk.form:
        case "json":
            desk.answer(runs)
        case "jsonl":
            for run in runs:
                click.echo(msgspec.json.encode(run))
        case "csv":
            counted = Usage.__struct_fields__
            own = [name for name in RunSummary.__struct_fields__ if name not in counted]
            names = [*own, *counted]
            write_csv(names, ([getattr(run, name) for name in names] for run in runs))
        case _:
            print_table(_COLUMNS, [_row(run, desk) for run in runs], width())
    desk.finish(found=bool(runs), fail_empty=fail_empty)


def _row(run: RunSummary, desk: Desk) -> list[str | tuple[str, str | None]]:
    seconds = (ns_of(run.ended) - ns_of(run.started)) / 1e9
    word = run.outcome or "unclosed"
    who = printable((run.actor or "").partition(":")[2])
    return [
        printable(run.run_id),
        time_of(run.started, desk.zone)[:19],
        span_of(seconds),
        (printable(word), COLORS.get(word)),
        count(run.events),
        count(run.llm_calls),
        count(run.tool_calls),
        (count(run.errors), "red"),
        (count(run.denied), "yellow"),
        count(run.input_tokens + run.output_tokens),
        money(run.cost_usd),
        f"{who}: {printable(run.what)}" if run.what else who,
    ]
