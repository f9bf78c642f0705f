"""
``harken ingest``.
"""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import BinaryIO

import click

import harken
from harken import Bus, Envelope, Event, Outcome
from harken.adapters.stream import UNKNOWN_MESSAGE
from harken.adapters.transcripts import READERS, Ingested, TranscriptClock, ingest
from harken.cli._common import complain, fail
from harken.cli._words import plural

UNUSABLE = 4
"""The exit code when the transcript cannot be read."""

INCOMPLETE = 3
"""
The exit code when the transcript has lines that are no messages, or runs without an end, or when
none of its messages is understood.
"""


@click.command(name="ingest")
@click.option(
    "--from",
    "format",
    type=click.Choice(list(READERS)),
    default="claude-stream-json",
    show_default=True,
    help="Who wrote the transcript, and how.",
)
@click.argument(
    "transcript",
    metavar="[FILE]",
    default="-",
    type=click.Path(dir_okay=False, readable=False, allow_dash=True, path_type=Path),
)
@click.pass_context
def command(context: click.Context, format: str, transcript: Path) -> None:
    """
    Put on the record what an agent did elsewhere.

    FILE is its transcript, - standard input, also while it is written. What it says becomes
    events, which pass through all sinks that the HARKEN_* variables name. Events have the times
    of the transcript; in the audit log those are `occurred`. Secrets are taken out as always.

    \b
    claude-stream-json   claude -p ... --output-format stream-json --verbose
    codex-jsonl          codex exec --json ...
    openai-agents-trace  what an exporter of the OpenAI Agents SDK gets
    otel-genai           OTLP's JSON, as a collector writes it to a file

    A run whose transcript ends before it does ends with the outcome `unknown`.
    Exit codes: 0 all of it is on the record, 3 the transcript is incomplete, has lines that are
    no messages, or is of another form, 4 it cannot be read.
    """
    clock = TranscriptClock()
    bus = harken.configure(bus=Bus(clock=clock), log_application=False, close_on_sigterm=True)
    told = _Told()
    bus.subscribe(told)
    try:
        with _opened(transcript) as lines:
            done = ingest(bus, clock, format, lines)
    except OSError as error:
        bus.close()
        fail(f"cannot read {transcript}: {error.strerror}", UNUSABLE)
    bus.close()
    _report(done, told, format)
    if done.malformed or told.unknown or told.is_other(done):
        context.exit(INCOMPLETE)


class _Told:
    """
    Counts what was published of the transcript.
    """

    def __init__(self) -> None:
        self.runs = 0
        self.events = 0
        self.unknown = 0
        self.strange = 0
        self.understood = 0

    def is_other(self, done: Ingested) -> bool:
        """
        Whether there were messages, and none of them said anything.
        """
        return bool(done.messages and not self.understood and (self.strange or not self.runs))

    def __call__(self, envelope: Envelope[Event]) -> None:
        if envelope.name.startswith("harken."):
            # What the sinks say of themselves is in no transcript.
            return
        self.events += 1
        is_opened = envelope.name == "run.started"
        self.runs += is_opened
        ended = envelope.type.is_terminal and envelope.name.startswith("run.")
        is_unknown = ended and envelope.outcome is Outcome.unknown
        is_strange = envelope.error_type == UNKNOWN_MESSAGE
        self.unknown += is_unknown
        self.strange += is_strange
        self.understood += not (is_opened or is_unknown or is_strange)


def _opened(transcript: Path) -> AbstractContextManager[BinaryIO]:
    if str(transcript) == "-":
        return nullcontext(sys.stdin.buffer)
    return transcript.open("rb")


def _report(done: Ingested, told: _Told, format: str) -> None:
    counts = ((done.messages, "message"), (told.runs, "run"), (told.events, "event"))
    click.echo(", ".join(plural(number, noun) for number, noun in counts), err=True)
    for line in done.malformed[:10]:
        complain(f"line {line} is no message")
    if len(done.malformed) > 10:
        complain(f"and {plural(len(done.malformed) - 10, 'more line')} like these")
    if told.is_other(done):
        complain(f"none of it is understood; is it {format}? --from names another form")
    if told.unknown:
        some = "1 run has" if told.unknown == 1 else f"{told.unknown} runs have"
        complain(f"the transcript is truncated: {some} no end in it")
