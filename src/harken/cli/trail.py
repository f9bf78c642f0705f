"""
``harken trail``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import click

from harken.cli._common import printable
from harken.cli._desk import Desk, output_options
from harken.cli._records import width
from harken.cli._words import (
    COLORS,
    count,
    cut,
    detail,
    draws,
    label,
    money,
    plural,
    sized,
    span_of,
    time_of,
)
from harken.trail.causes import is_decision
from harken.trail.runs import Node, Run

WIDTH = 100
"""Columns of a picture that no terminal shows."""

MOST = 200
"""Lines of a picture, unless all are asked for."""

DEEPEST = 16
"""Levels of a tree that are shown as such; deeper ones would leave no room for names."""

# What a person does is waited for; everything else is work.
_WAITING = {"approval", "human_input"}

# Columns: the time since the begin, the least that bars take, and what stands between.
_OFFSET, _BARS, _INFO = 10, 16, 28


class Row(NamedTuple):
    """
    One operation or event of a picture.
    """

    depth: int
    node: Node


@click.command(name="trail")
@click.argument("run_id", metavar="[RUN]", required=False)
@click.option(
    "--view",
    type=click.Choice(("waterfall", "tree", "timeline", "decisions")),
    default="waterfall",
    help="The picture. [default: waterfall]",
)
@click.option("--all", "everything", is_flag=True, help="Every event, however many.")
@output_options("text", "json")
def command(
    run_id: str | None,
    view: str,
    *,
    everything: bool,
    file: Path | None,
    form: str,
    color: str,
    tz: str,
) -> None:
    """
    Show one run as waterfall, tree, timeline or decisions.

    \b
    waterfall  what happened within what, and how long it took, on one axis
    tree       what happened within what, and how it ended
    timeline   every record in the order of the log
    decisions  what policies, guards, budgets and people decided

    Without RUN it is the last one. Runs that it started are shown within it. Without --all, what
    went as usual is left out: texts, allowed calls, and all beyond 200 lines. An operation whose
    end is not on record is `unclosed`. Off a terminal, it is the same picture, 100 columns wide;
    -o json is for programs.
    """
    desk = Desk("trail", file=file, form=form, color=color, tz=tz, auto="text")
    with desk.trail() as trail:
        run = trail.last_run() if run_id is None else trail.run(run_id)
    if desk.form == "json":
        # A list, as readers of JSON go no deeper than some hundred levels.
        nodes = [
            {"depth": depth, "first": node.first, "end": node.end}
            for root in run.tree
            for depth, node in root.walk()
        ]
        desk.answer({"summary": run.summary, "nodes": nodes})
    else:
        VIEWS[view](run, desk, everything)
        _print_total(run)
    desk.finish()


def rows_of(run: Run, wanted: Callable[[Node], bool]) -> tuple[list[Row], int]:
    """
    Return the wanted nodes with their depths, and how many were left out.
    """
    rows: list[Row] = []
    left_out = 0
    for root in run.tree:
        for depth, node in root.walk():
            if wanted(node):
                rows.append(Row(depth, node))
            else:
                left_out += 1
    return rows, left_out


def is_notable(node: Node) -> bool:
    """
    Return whether a node is shown also when not everything is.
    """
    if node.is_operation:
        return True
    return node.first.outcome != "success" or (
        is_decision(node.first) and node.first.domain != "policy"
    )


def _anything(node: Node) -> bool:
    return True


def _print_rows(lines: Iterable[str], left_out: int, everything: bool) -> None:
    for number, line in enumerate(lines):
        if number >= MOST and not everything:
            left_out += 1
        else:
            click.echo(line)
    if left_out:
        click.secho(f"{left_out:,} more (--all)", dim=True)


def _name(node: Node) -> str:
    record = node.first
    if node.is_operation:
        return f"{printable(record.domain)} {label(record)}"
    return f"{printable(record.event_type)} {label(record)}"


def _info(node: Node) -> str:
    """
    Return duration, outcome, tokens and cost: always in this order.
    """
    last = node.end or node.first
    tokens = last.number("input_tokens") + last.number("output_tokens")
    said = [span_of(node.seconds) if node.is_operation else ""]
    if node.outcome != "success":
        said.append(printable(node.outcome or ""))
    if tokens:
        said.append(f"{count(tokens)} tok")
    said.append(money(last.number("cost_usd")))
    return "  ".join(filter(None, said))


def _colored(text: str, node: Node) -> str:
    color = COLORS.get(node.outcome or "")
    return text if color in {None, "green"} else click.style(text, fg=color)


# The views.


def _waterfall(run: Run, desk: Desk, everything: bool) -> None:
    rows, left_out = rows_of(run, _anything if everything else is_notable)
    room = width() or WIDTH
    began = min((row.node.began for row in rows), default=0.0)
    ended = max((row.node.began + (row.node.seconds or 0.0) for row in rows), default=began)
    # The name takes what the others leave.
    bars = max(_BARS, (room - _OFFSET - _INFO) // 3)
    names = max(12, room - _OFFSET - _INFO - bars - 3)

    def line(row: Row) -> str:
        node = row.node
        offset = f"+{span_of(node.began - began)}"
        name = sized(cut("  " * min(row.depth, names // 4) + _name(node), names), names)
        bar = _bar(node, began, ended - began, bars)
        text = f"{offset:>{_OFFSET - 1}} {name} {cut(_info(node), _INFO):<{_INFO}} {bar}"
        return _colored(text.rstrip(), node)

    _print_rows(map(line, rows), left_out, everything)


def _bar(node: Node, began: float, wall: float, columns: int) -> str:
    block, mark = ("█", "▏") if draws() else ("#", "|")
    start = 0 if not wall else min(columns - 1, int((node.began - began) / wall * columns))
    if not node.is_operation or node.seconds is None:
        return " " * start + mark
    length = 0 if not wall else int(node.seconds / wall * columns)
    return " " * start + (block * min(length, columns - start) or mark)


def _tree(run: Run, desk: Desk, everything: bool) -> None:
    rows, left_out = rows_of(run, _anything if everything else is_notable)
    room = width()
    branches = _branches([min(row.depth, DEEPEST) for row in rows])

    def line(branch: str, row: Row) -> str:
        more = detail(row.node.first)
        parts = [branch + _name(row.node), _info(row.node), f"#{row.node.first.seq}", more]
        return _colored(cut("  ".join(filter(None, parts)), room), row.node)

    _print_rows(map(line, branches, rows), left_out, everything)


def _branches(depths: list[int]) -> list[str]:
    """
    Return the lines that lead to each of the nodes with these depths, in order.
    """
    corner, fork, rail = ("└─ ", "├─ ", "│  ") if draws() else ("`- ", "|- ", "|  ")
    # From the last one up: whether something follows at each depth.
    follows: dict[int, bool] = {}
    found: list[str] = []
    for depth in reversed(depths):
        rails = "".join(rail if follows.get(level) else "   " for level in range(1, depth))
        found.append(rails + (fork if follows.get(depth) else corner) if depth else "")
        follows = {level: True for level in follows if level < depth} | {depth: True}
    return found[::-1]


def _timeline(run: Run, desk: Desk, everything: bool) -> None:
    room = width()
    began = run.records[0].time

    def lines() -> Iterator[str]:
        for record in run.records:
            offset = (record.time - began).total_seconds()
            word = printable(record.outcome or "started")
            head = f"{time_of(record.timestamp, desk.zone)}  +{span_of(offset):<9}"
            more = f"{label(record)}  {detail(record)}".rstrip()
            text = f"{head} {printable(record.event_type):<20} {word:<9}  {more}  #{record.seq}"
            color = COLORS.get(record.outcome or "")
            yield click.style(cut(text, room), fg=None if color == "green" else color)

    _print_rows(lines(), 0, everything)


def _decisions(run: Run, desk: Desk, everything: bool) -> None:
    room = width()
    decided = [record for record in run.records if is_decision(record)]
    shown = [
        record
        for record in decided
        if everything or record.domain != "policy" or record.outcome != "success"
    ]

    def lines() -> Iterator[str]:
        for record in shown:
            word = printable(record.outcome or "")
            head = f"{time_of(record.timestamp, desk.zone)}  {printable(record.event_type):<22}"
            rest = f"{printable(record.actor or '')}  {label(record)}  {detail(record)}".rstrip()
            text = cut(f"{head} {word:<9}  {rest}  #{record.seq}", room)
            color = COLORS.get(record.outcome or "")
            yield click.style(text, fg=None if color == "green" else color)

    _print_rows(lines(), len(decided) - len(shown), everything)
    if not decided:
        click.echo("Nothing was decided on record.")


def _print_total(run: Run) -> None:
    """
    Print where the time went: what overlaps counts more than once.
    """
    spent = {"llm": 0.0, "tool": 0.0}
    waited = 0.0
    asked: dict[str, float] = {}
    for record in run.records:
        key = str(record.metadata.get("approval_id") or record.metadata.get("request_id"))
        if record.domain in _WAITING and record.event_type.endswith(".requested"):
            asked[key] = record.time.timestamp()
        elif record.domain in _WAITING and key in asked:
            waited += record.time.timestamp() - asked.pop(key)
        elif record.domain in spent and record.is_end:
            spent[record.domain] += record.number("duration_ms") / 1000
    summary = run.summary
    wall = (run.records[-1].time - run.records[0].time).total_seconds()
    tokens = summary.input_tokens + summary.output_tokens
    parts = [
        f"{span_of(wall)} in all",
        f"models {span_of(spent['llm'])}" if spent["llm"] else "",
        f"tools {span_of(spent['tool'])}" if spent["tool"] else "",
        f"waiting for people {span_of(waited)}" if waited else "",
        plural(summary.errors, "error") if summary.errors else "",
        f"{count(summary.denied)} denied" if summary.denied else "",
        plural(tokens, "token") if tokens else "",
        money(summary.cost_usd),
        summary.outcome or "unclosed",
    ]
    click.secho(cut("  ".join(filter(None, map(printable, parts))), width()), bold=True)


VIEWS: Mapping[str, Callable[[Run, Desk, bool], None]] = {
    "waterfall": _waterfall,
    "tree": _tree,
    "timeline": _timeline,
    "decisions": _decisions,
}
"""What draws each view."""
