"""
What the demo says at the end: the tree of one run, and what is in the files.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import click

from harken import Envelope, Event, Health, Outcome
from harken.catalog import PlanStepStarted, RunCancelled, RunCompleted, RunFailed, RunStarted
from harken.cli._common import on_terminal, printable
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

NAMES = ("audit.jsonl", "metrics.prom", "events.log", "spans.jsonl")
"""The files that the demo writes: records, series, lines and spans."""

# Columns: what a line of the tree must have, and what its outcome and its duration take.
_LEAST, _OUTCOME, _DURATION = 30, 11, 10

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


def obstacle(folder: Path) -> str | None:
    """
    Say what is in the way of a file in *folder*, and what to do; None when nothing is.

    Raises:
        OSError: Nobody may look into *folder*.
    """
    for path in (folder / name for name in NAMES):
        if path.is_dir():
            what = "is a folder"
        elif path.exists() and not path.is_file():
            what = "is no regular file"
        elif path.exists() and not os.access(path, os.R_OK | os.W_OK):
            what = "is not yours to read and write"
        else:
            continue
        return f"{path} {what}; move it away or choose another --out"
    return None


class Outputs:
    """
    The files that the demo writes into *folder*, and what was in them before.
    """

    def __init__(self, folder: Path) -> None:
        self.audit, self.metrics, self.log, self.spans = (folder / name for name in NAMES)
        self._before = {path: _count_lines(path) for path in (self.audit, self.log, self.spans)}

    def added(self, path: Path) -> str:
        """
        Return how many lines were added to *path*, and how many it has when there were others.
        """
        before, now = self._before[path], _count_lines(path)
        # Where files may grow to some size only, this is a new one.
        return f"{now - before} more, {now}" if 0 < before <= now else f"{now}"

    def holding(self, text: str) -> list[Path]:
        """
        Return those of the files of lines that have *text* in them.
        """
        sought = text.encode()
        return [path for path in self._before if any(sought in line for line in _lines_of(path))]

    def series(self) -> int:
        """
        Return how many series the metrics have.
        """
        with self.metrics.open(encoding="utf-8") as lines:
            return sum(not line.startswith("#") for line in lines)


def _count_lines(path: Path) -> int:
    return sum(1 for _ in _lines_of(path))


def _lines_of(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as lines:
            yield from lines
    except FileNotFoundError:
        return


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
    room = shutil.get_terminal_size().columns
    if not on_terminal() or room < _LEAST:
        room = sys.maxsize
    timed = room >= _LEAST + _OUTCOME + _DURATION
    width = min(width, room - _OUTCOME - (_DURATION if timed else 0))
    for text, end in rows:
        if end is None or end.outcome is None:
            click.secho(_shortened(text, room), dim=True)
            continue
        outcome = click.style(f"{end.outcome.value:<9}", fg=COLOURS.get(end.outcome))
        time = f"  {_duration(end.duration or 0.0):>8}" if timed else ""
        click.echo(f"{_shortened(text, width):<{width}}  {outcome}{time}")


def _shortened(text: str, width: int) -> str:
    if len(text) <= width:
        return text
    dots = "…" if _draws() else "..."
    return text[: width - len(dots)] + dots


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
    spans = f"{outputs.added(outputs.spans)} spans"
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        spans = "no spans, as OTEL_SDK_DISABLED is true"
    for path, what in (
        (outputs.audit, f"{outputs.added(outputs.audit)} records, {chain}"),
        (outputs.metrics, f"{outputs.series()} series"),
        (outputs.log, f"{outputs.added(outputs.log)} lines"),
        (outputs.spans, spans),
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
    holding = outputs.holding(failed.span_id)
    files = shlex.join(map(str, holding))
    where = f"in {len(holding)} files" if len(holding) > 1 else "on the record"
    if holding:
        _show_command(f"grep -h {failed.span_id} {files}", f"the tool call that failed, {where}")
    if outputs.log in outputs.holding("harken.audit_checkpoint"):
        log, events = shlex.quote(str(outputs.audit)), shlex.quote(str(outputs.log))
        _show_command(
            f"harken verify {log} --anchor {events}", "whether anybody has changed the record"
        )
    for command, what in (
        ("harken catalog tool.failed", "what such an event says"),
        ("harken exec -- ls -l", "any command, on the record"),
        (f"harken demo --out {shlex.quote(str(folder))} --serve 9464", "once more, with /metrics"),
    ):
        _show_command(command, what)


def _show_command(command: str, what: str) -> None:
    click.echo(f"  {click.style(printable(command), bold=True)}\n      {what}")
