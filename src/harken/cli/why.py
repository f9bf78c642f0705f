"""
``harken why``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from textwrap import wrap

import click
import msgspec

from harken import JSON
from harken.cli._common import printable
from harken.cli._desk import Desk, output_options
from harken.cli._records import width
from harken.cli._words import COLORS, cut, detail, draws, label, plural, span_of, time_of
from harken.trail.causes import Effects, Step, Why, is_decision

DEPTH = 8
"""Steps that are shown unless more are asked for."""

DEEPEST = 8
"""Levels that are shown as such; deeper ones would leave no room for what is to be said."""

LINKS = {
    "subject": "",
    "ends": "ends",
    "because": "because",
    "answers": "answers",
    "within": "within",
}
"""How a step is connected with the one before it, in a word."""


@click.command(name="why")
@click.argument("name", metavar="ID")
@click.option(
    "--depth", type=click.IntRange(1), default=DEPTH, help=f"How many steps. [default: {DEPTH}]"
)
@click.option("--all", "everything", is_flag=True, help="Every step, however many.")
@click.option("--effects", is_flag=True, help="Forwards: what it led to.")
@output_options("text", "json")
def command(
    name: str,
    depth: int,
    *,
    everything: bool,
    effects: bool,
    file: Path | None,
    form: str,
    color: str,
    tz: str,
) -> None:
    """
    Tell why something happened, or what it led to.

    ID is the id of a record, or its number in the log. Only what was recorded is told, and nothing
    is inferred:

    \b
    because  the event before names this one as its cause
    ends     it began what the event before ended
    answers  it asked for what the event before gave, by the same id
    within   it is the operation that the event before happened in, which is no cause

    Of a long chain, the steps between decisions (policies, approvals, people) are folded. A cause
    that is not in the log is named: often it is an event that is not audited. It is looked for near
    the time that its id holds.
    """
    desk = Desk("why", file=file, form=form, color=color, tz=tz)
    with desk.trail() as trail:
        if effects:
            found = trail.effects(name)
            if desk.form == "json":
                desk.answer(_answer(found))
            else:
                _print_effects(found, desk, depth=None if everything else depth)
        else:
            reason = trail.why(name)
            if desk.form == "json":
                desk.answer(reason)
            else:
                _print_why(reason, desk, depth=None if everything else depth)
    desk.finish()


def _answer(effects: Effects) -> JSON:
    # A list, as readers of JSON go no deeper than some hundred levels.
    return {
        "effects": [
            {
                "depth": depth,
                "link": effect.link,
                "record": msgspec.to_builtins(effect.record),
                "end": msgspec.to_builtins(effect.end),
            }
            for depth, effect in effects.walk()
        ],
        "count": effects.count,
    }


def fold(steps: Sequence[Step], depth: int | None) -> list[Step]:
    """
    Return at most *depth* steps: the first and the last one, then decisions, then the nearest.
    """
    if depth is None or len(steps) <= depth:
        return list(steps)
    last = len(steps) - 1
    order = sorted(
        range(len(steps)),
        key=lambda n: (n not in {0, last}, n and not is_decision(steps[n].record), n),
    )
    kept = sorted(order[:depth])
    return [steps[n] for n in kept]


def _print_why(why: Why, desk: Desk, depth: int | None) -> None:
    kept = fold(why.steps, depth)
    columns = width()
    for level, step in enumerate(kept):
        _line(_lead(level), step, desk, columns)
    inner = "   " * min(len(kept), DEEPEST + 1)
    for text in _end(why, desk):
        for line in _wrapped(text, columns, inner):
            click.echo(line)
    folded = len(why.steps) - len(kept)
    if folded:
        click.echo(f"{plural(folded, 'step')} folded (--all).")
    click.secho("Recorded causes only; nothing inferred.", dim=True)


def _lead(level: int) -> str:
    if not level:
        return ""
    return "   " * (min(level, DEEPEST) - 1) + ("└─ " if draws() else "`- ")


def _line(lead: str, step: Step, desk: Desk, columns: int | None) -> None:
    color = COLORS.get((step.end or step.record).outcome or "")
    # Whatever else there is no room for: by its number one can ask on.
    number = f"  #{step.record.seq}"
    room = None if columns is None else max(0, columns - len(number))
    text = cut(lead + _text(step, desk), room) + number
    click.echo(click.style(text, fg=None if color == "green" else color))


def _wrapped(text: str, columns: int | None, inner: str) -> list[str]:
    """
    Return a sentence in lines behind *inner*, in as many columns as there are.
    """
    if columns is None:
        return [inner + text]
    room = max(20, columns - len(inner))
    lines = wrap(text, room, break_on_hyphens=False, subsequent_indent="  ")
    return [cut(inner + line, columns) for line in lines]


def _text(step: Step, desk: Desk) -> str:
    record = step.record
    word = LINKS[step.link]
    said = [
        f"{word}  {printable(record.event_type)}" if word else printable(record.event_type),
        label(record),
        printable(record.actor or ""),
        time_of(record.timestamp, desk.zone),
        detail(record),
    ]
    if step.end is not None and step.end.outcome is not None:
        seconds = step.end.number("duration_ms") / 1000
        said.append(f"-> {printable(step.end.outcome)}{f' {span_of(seconds)}' if seconds else ''}")
    elif record.outcome not in {None, "success"}:
        said.append(f"({printable(record.outcome or '')})")
    said += [
        f"[policy {printable(str(p.metadata.get('policy_id')))} {detail(p)}]" for p in step.policies
    ]
    return "  ".join(filter(None, said))


def _end(why: Why, desk: Desk) -> Iterator[str]:
    match why.stopped:
        case "missing":
            yield (
                f"The record ends here: the cause {printable(str(why.missing))} is not in this log "
                "(not audited, or elsewhere)."
            )
        case "cycle":
            yield f"The record goes in a circle: {printable(str(why.missing))} is a step already."
        case "limit":
            yield "There are more steps than are followed."
        case _ if why.steps[-1].record.event_type != "run.started":
            yield "No cause was recorded."
        case _:
            pass
    if why.run is not None:
        run = why.run
        name = printable(run.run_id or "")
        yield f"It is a part of run {name}: {detail(run) or label(run)}  #{run.seq}"
    if why.before is not None:
        before = why.before
        yield (
            f"Before it in this run, which is no cause: {printable(before.event_type)} "
            f"{label(before)}  {time_of(before.timestamp, desk.zone)}  #{before.seq}"
        )


def _print_effects(effects: Effects, desk: Desk, depth: int | None) -> None:
    columns = width()
    folded = 0
    for level, effect in effects.walk():
        if depth is not None and level > depth:
            folded += 1
        else:
            step = Step(record=effect.record, link="subject", end=effect.end)
            lead = "   " * min(level, DEEPEST) + ("so  " if level else "")
            _line(lead, step, desk, columns)
    if not effects.count:
        click.echo("Nothing on record names it as its cause.")
    if folded:
        click.echo(f"{plural(folded, 'event')} folded (--all).")
    click.secho("Recorded causes only; nothing inferred.", dim=True)
