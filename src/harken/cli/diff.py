"""
``harken diff``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click
import msgspec

from harken import JSON
from harken.cli._common import printable
from harken.cli._desk import Desk, output_options
from harken.cli._records import width
from harken.cli._words import cut, label, money, plural, span_of
from harken.trail.diff import Change, Difference, diff
from harken.trail.runs import Run
from harken.trail.times import ns_of

DIFFERENT = 80
"""The exit code when the runs differ."""

# Steps that are the same, shown before and after those that are not.
_AROUND = 2

_COLORS = {"-": "red", "+": "green"}


@click.command(name="diff")
@click.argument("run_a", metavar="RUN_A")
@click.argument("run_b", metavar="RUN_B")
@click.option("--arguments", is_flag=True, help="Tools must have got the same arguments, too.")
@click.option("--all", "everything", is_flag=True, help="Show also what is the same.")
@output_options("text", "json")
def command(
    run_a: str,
    run_b: str,
    *,
    arguments: bool,
    everything: bool,
    file: Path | None,
    form: str,
    color: str,
    tz: str,
) -> None:
    """
    Compare two runs, step by step.

    Steps are the same when they have the same type, are about the same, stand as deep and ended the
    same way; when, and how long they took, does not matter. What only RUN_A did begins with -, what
    only RUN_B did with +.

    Exit codes: 0 they did the same, 80 they differ.
    """
    desk = Desk("diff", file=file, form=form, color=color, tz=tz)
    with desk.trail() as trail:
        difference = diff(trail.run(run_a), trail.run(run_b), arguments=arguments)
    if desk.form == "json":
        desk.answer(_answer(difference))
    else:
        _show(difference, everything=everything)
    desk.finish()
    if not difference.is_none:
        raise click.exceptions.Exit(DIFFERENT)


def _answer(difference: Difference) -> JSON:
    return {
        "same": difference.is_none,
        "a": msgspec.to_builtins(difference.first.summary),
        "b": msgspec.to_builtins(difference.second.summary),
        "changes": [
            {
                "sign": change.sign,
                "depth": change.depth,
                "event_type": change.node.first.event_type,
                "resource": change.node.first.resource,
                "outcome": change.node.outcome,
                "id": change.node.first.id,
                "seq": change.node.first.seq,
            }
            for change in difference.changes
            if change.sign != "="
        ],
    }


def _show(difference: Difference, *, everything: bool) -> None:
    columns = width()
    for sign, run in (("-", difference.first), ("+", difference.second)):
        click.secho(cut(f"{sign} {_summary(run)}", columns), fg=_COLORS[sign], bold=True)
    folded = 0
    for change, near in _near(difference.changes):
        if change.sign == "=" and not (near or everything):
            folded += 1
            continue
        folded = _fold(folded)
        record = change.node.first
        text = "  " * change.depth + f"{printable(record.event_type)}  {label(record)}"
        text += f"  {printable(change.node.outcome or '')}  #{record.seq}"
        sign = " " if change.sign == "=" else change.sign
        click.secho(cut(f"{sign} {text}", columns), fg=_COLORS.get(sign))
    _fold(folded)


def _fold(folded: int) -> int:
    if folded:
        click.secho(f"  {plural(folded, 'step')} alike", dim=True)
    return 0


def _near(changes: list[Change]) -> Iterator[tuple[Change, bool]]:
    places = [n for n, change in enumerate(changes) if change.sign != "="]
    near = {n + by for n in places for by in range(-_AROUND, _AROUND + 1)}
    for number, change in enumerate(changes):
        yield change, number in near


def _summary(run: Run) -> str:
    summary = run.summary
    seconds = (ns_of(summary.ended) - ns_of(summary.started)) / 1e9
    parts = (
        printable(summary.run_id),
        printable(summary.outcome or "unclosed"),
        span_of(seconds),
        plural(summary.events, "event"),
        plural(summary.tool_calls, "tool"),
        plural(summary.errors, "error"),
        plural(summary.input_tokens + summary.output_tokens, "token"),
        money(summary.cost_usd),
    )
    return "  ".join(filter(None, parts))
