"""
What the demo says at the end: the tree of one run, and what is in the files.
"""

from __future__ import annotations

import shlex
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import click

from harken import Envelope, Event, Health, Outcome
from harken.catalog import PlanStepStarted, RunCancelled, RunCompleted, RunFailed, RunStarted
from harken.cli._common import printable
from harken.record import Link, RecordError, check_line

POINTS = {
    "agent.handoff",
    "approval.granted",
    "budget.warning",
    "credential.issued",
    "error.raised",
    "guard.violated",
    "human_input.received",
    "pr.created",
}
"""Events that are no operation, and are shown all the same."""

COLOURS = {
    Outcome.success: "green",
    Outcome.failure: "red",
    Outcome.timeout: "red",
    Outcome.orphaned: "red",
    Outcome.denied: "yellow",
    Outcome.cancelled: "yellow",
}


class Story:
    """
    What was heard of the first run, and how all of them ended; a handler.
    """

    def __init__(self) -> None:
        self.first: list[Envelope[Event]] = []
        self.outcomes: Counter[str] = Counter()
        self._run_id: str | None = None

    def __call__(self, envelope: Envelope[Event]) -> None:
        """
        Hear one event; called from several threads.
        """
        event = envelope.event
        if isinstance(event, RunStarted) and self._run_id is None:
            self._run_id = envelope.run_id
        if isinstance(event, (RunCompleted, RunFailed, RunCancelled)) and envelope.outcome:
            self.outcomes[envelope.outcome.value] += 1
        if self._run_id is not None and envelope.run_id == self._run_id:
            self.first.append(envelope)


class Outputs:
    """
    The files that the demo writes into *folder*, and what was in them before.
    """

    def __init__(self, folder: Path) -> None:
        self.audit = folder / "audit.jsonl"
        self.metrics = folder / "metrics.prom"
        self.log = folder / "events.log"
        self.spans = folder / "spans.jsonl"
        self._before = {path: _count_lines(path) for path in (self.audit, self.log, self.spans)}

    def added(self, path: Path) -> str:
        """
        Return how many lines were added to *path*, and how many it has when there were others.
        """
        before, now = self._before[path], _count_lines(path)
        return f"{now - before}" if not before else f"{now - before} more, {now}"

    def series(self) -> int:
        """
        Return how many series the metrics have.
        """
        with self.metrics.open(encoding="utf-8") as lines:
            return sum(not line.startswith("#") for line in lines)


def _count_lines(path: Path) -> int:
    try:
        with path.open("rb") as lines:
            return sum(1 for _ in lines)
    except FileNotFoundError:
        return 0


class Line:
    """
    A line of the tree: an operation, or a point in one; and the lines below it.
    """

    def __init__(self, shown: Envelope[Event]) -> None:
        self.shown = shown
        self.end: Envelope[Event] | None = None
        self.below: list[Line] = []

    def rows(
        self, lead: str = "", branch: str = ""
    ) -> Iterator[tuple[str, Envelope[Event] | None]]:
        """
        Yield the text of this line and of those below it, each with the end of its operation.
        """
        yield lead + branch + _label(self.shown), self.end
        corner, fork, rail = ("└─ ", "├─ ", "│  ") if _draws() else ("`- ", "|- ", "|  ")
        inner = lead + ("" if not branch else "   " if branch == corner else rail)
        for line in self.below:
            yield from line.rows(inner, corner if line is self.below[-1] else fork)


def tree_of(envelopes: Iterable[Envelope[Event]]) -> list[Line]:
    """
    Return the operations among *envelopes*, each below the one that it is a part of.
    """
    roots: list[Line] = []
    by_span: dict[str, Line] = {}
    for envelope in sorted(envelopes, key=lambda envelope: envelope.seq):
        if envelope.type.is_start:
            line = by_span[envelope.span_id] = Line(envelope)
            around = by_span.get(envelope.parent_span_id or "")
            (roots if around is None else around.below).append(line)
        elif envelope.type.is_terminal:
            by_span[envelope.span_id].end = envelope
        elif envelope.name in POINTS and envelope.span_id in by_span:
            by_span[envelope.span_id].below.append(Line(envelope))
    return roots


def _label(envelope: Envelope[Event]) -> str:
    if not envelope.type.is_start:
        actor = envelope.actor or ""
        what = actor if actor.startswith("user:") else envelope.resource.partition(":")[2]
        return f"{envelope.name}  {printable(what)}"
    if isinstance(envelope.event, PlanStepStarted):
        return f"step {envelope.event.step_number}"
    return printable(envelope.resource.replace(":", " ", 1))


def _draws() -> bool:
    return (sys.stdout.encoding or "").lower().startswith("utf")


def show_tree(envelopes: Iterable[Envelope[Event]]) -> None:
    """
    Print the tree of *envelopes*, with outcomes and durations.
    """
    rows = [row for line in tree_of(envelopes) for row in line.rows()]
    width = max(len(text) for text, _ in rows)
    for text, end in rows:
        if end is None or end.outcome is None:
            click.secho(text, dim=True)
            continue
        outcome = click.style(f"{end.outcome.value:<9}", fg=COLOURS.get(end.outcome))
        click.echo(f"{text:<{width}}  {outcome}  {_duration(end.duration or 0.0):>8}")


def _duration(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.0f} ms"


def chain_verdict(path: Path) -> str:
    """
    Say whether the records at *path* follow one another as they were written.
    """
    link: Link | None = None
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                link = check_line(line, link)
            except RecordError as error:
                return f"chain broken at line {number}: {printable(str(error))}"
    return "chain intact"


def show_files(outputs: Outputs, health: Health) -> None:
    """
    Print what is in the files, and what went wrong on the way there.
    """
    chain = chain_verdict(outputs.audit)
    for path, what in (
        (outputs.audit, f"{outputs.added(outputs.audit)} records, {chain}"),
        (outputs.metrics, f"{outputs.series()} series"),
        (outputs.log, f"{outputs.added(outputs.log)} lines"),
        (outputs.spans, f"{outputs.added(outputs.spans)} spans"),
    ):
        click.echo(f"  {click.style(f'{path.name:<14}', fg='cyan')}{what}")
    for name, sink in health.items():
        if sink.failures or sink.dropped:
            click.secho(
                f"  {name}: {sink.failures} failures, {sink.dropped} events lost; "
                f"{printable(sink.last_error or '')}",
                fg="red",
            )


def show_next(outputs: Outputs, story: Story) -> None:
    """
    Print what to try next.
    """
    folder = outputs.audit.parent
    failed = next(e for e in story.first if e.name == "tool.failed")
    files = shlex.join(str(path) for path in (outputs.audit, outputs.log, outputs.spans))
    for command, what in (
        (f"grep -h {failed.span_id} {files}", "the tool call that failed, in three sinks"),
        ("harken catalog tool.failed", "what such an event says"),
        ("harken exec -- ls -l", "any command, on the record"),
        (f"harken demo --out {shlex.quote(str(folder))} --serve 9464", "once more, with /metrics"),
    ):
        click.echo(f"  {click.style(printable(command), bold=True)}\n      {what}")
