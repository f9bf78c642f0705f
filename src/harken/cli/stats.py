"""
``harken stats``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import msgspec

from harken import JSON
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
from harken.cli._table import Cell, Column, print_table
from harken.cli._words import count, money, span_of
from harken.trail.filters import FilterError
from harken.trail.stats import GROUPS, Group


@click.command(name="stats", epilog=FILTER_HELP)
@path_argument
@click.option(
    "--by",
    type=click.Choice(tuple(GROUPS)),
    default="type",
    help="What to group by. [default: type]",
)
@click.option(
    "--p", "percentiles", default="50,95", help="Percentiles of durations. [default: 50,95]"
)
@filter_options
@output_options("text", "json", "jsonl", "csv")
def command(
    path: Path | None,
    by: str,
    percentiles: str,
    *,
    file: Path | None,
    form: str,
    color: str,
    tz: str,
    **filters: Any,
) -> None:
    """
    Count events, errors, durations, tokens and costs. PATH, or -F, is the log.

    A call is an operation that has ended. A duration is what the end of an operation says; up to a
    million of them, percentiles are exact. Tokens and costs are those of calls of models, where
    those are on record, else what runs say of themselves.
    """
    desk = Desk("stats", file=named_log(path, file), form=form, color=color, tz=tz)
    parts = _percentiles(percentiles)
    with desk.trail() as trail:
        stats = trail.stats(by, desk.filter(trail, **filters), percentiles=parts)
    rows = [*stats.groups, stats.total]
    match desk.form:
        case "json":
            desk.answer(stats)
        case "jsonl":
            for group in stats.groups:
                click.echo(msgspec.json.encode(group))
        case "csv":
            names = [f"p{part:g}_ms" for part in parts]
            head = [by, "events", "calls", "errors", "denied", *names, "input_tokens"]
            write_csv([*head, "output_tokens", "cost_usd"], map(_values, stats.groups))
        case _:
            spans = [Column(f"P{part:g}", right=True) for part in parts]
            counts = [Column(name, right=True) for name in ("EVENTS", "CALLS", "ERR", "DENY")]
            columns = [Column(by.upper()), *counts, *spans]
            columns += [Column(name, right=True) for name in ("IN-TOK", "OUT-TOK", "COST")]
            print_table(columns, map(_row, rows), width())
    desk.finish()


def _percentiles(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",") if part]
    except ValueError as error:
        raise FilterError(f"{text!r} is no list of percentiles; use 50,95") from error


def _values(group: Group) -> list[JSON]:
    return [
        *(group.name, group.events, group.calls, group.errors, group.denied),
        *group.durations_ms.values(),
        *(group.input_tokens, group.output_tokens, group.cost_usd),
    ]


def _row(group: Group) -> list[Cell]:
    spans = [
        "" if value is None else span_of(value / 1000) for value in group.durations_ms.values()
    ]
    return [
        printable(group.name),
        count(group.events),
        count(group.calls),
        (count(group.errors), "red"),
        (count(group.denied), "yellow"),
        *spans,
        count(group.input_tokens),
        count(group.output_tokens),
        money(group.cost_usd),
    ]
