"""
What all reading commands share: their options, the log that they read, and the form of an answer.
"""

from __future__ import annotations

import csv
import difflib
import json
import os
import sys
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TextIO, TypeAlias, TypeVar
from uuid import uuid4

import click
import msgspec

from harken import JSON, Outcome
from harken.cli._common import PATH, on_terminal, printable
from harken.cli._pager import page, pager_option
from harken.cli.version import version
from harken.contract import current, is_retryable, name_of
from harken.record import MEMBERS
from harken.trail.entries import Entry, Problem
from harken.trail.files import MissingLogError
from harken.trail.filters import (
    Condition,
    Cursor,
    Filter,
    FilterError,
    find_member,
    names_of,
)
from harken.trail.log import KEPT, NotFoundError, Trail
from harken.trail.times import ns_of, to_ns

if TYPE_CHECKING:
    from harken.cli._stream import Spool

SCHEMA_VERSION = "1.0"
"""The version of the JSON that commands answer with; it grows only by members."""

NOTHING_MATCHED = 81
"""The exit code with ``--fail-empty`` when nothing is found."""

PARTIAL = 3
"""The exit code when something could not be read, and the rest was answered."""

LIMIT = 1000
"""Records of an answer that no person reads on a terminal, unless another limit is given."""

Form: TypeAlias = Literal["text", "json", "jsonl", "csv"]

F = TypeVar("F", bound=Callable[..., Any])

_TOLD = 10


# Where the log is.


def log_path(environ: Mapping[str, str]) -> Path:
    """
    Return where the audit log is: what ``HARKEN_AUDIT_JSONL_PATH`` says, else below the folder of
    the user's data. Other settings are not looked at, so that a bad one keeps nobody from reading.

    Raises:
        MissingLogError: There is no home folder.
    """
    named = environ.get("HARKEN_AUDIT_JSONL_PATH")
    try:
        if named:
            return Path(named).expanduser()
        data = environ.get("XDG_DATA_HOME")
        folder = Path(data) if data and os.path.isabs(data) else Path.home() / ".local" / "share"
    except RuntimeError as error:
        raise MissingLogError(
            "there is no home folder to look for the audit log in; name the log with -F"
        ) from error
    service = environ.get("HARKEN_SERVICE_NAME") or environ.get("OTEL_SERVICE_NAME") or "harken"
    return folder / (service.replace(os.sep, "_").lstrip(".") or "harken") / "audit.jsonl"


# Options.


def file_option(function: F) -> F:
    """
    Add the option that names the log.
    """
    return click.option(
        "-F",
        "--file",
        "file",
        metavar="PATH",
        type=PATH,
        help="The log. [default: HARKEN_AUDIT_JSONL_PATH, else the user's own]",
    )(function)


def path_argument(function: F) -> F:
    """
    Add PATH, another way to name the log, for commands that take no other argument but a form.
    """
    return click.argument("path", required=False, type=PATH)(function)


def named_log(path: Path | None, file: Path | None) -> Path | None:
    """
    Return the log that PATH or ``-F`` names; None where neither does.

    Raises:
        click.UsageError: Both do.
    """
    if path is not None and file is not None:
        raise click.UsageError("PATH and -F both name the log; give one")
    return path or file


def envelope_option(function: F) -> F:
    """
    Add the option of commands that answer with text, or for programs with an envelope.
    """
    return click.option(
        "-o",
        "--output",
        "form",
        type=click.Choice(("text", "json")),
        default="text",
        help="How to answer: json is for programs. [default: text]",
    )(function)


def output_options(*forms: Form) -> Callable[[F], F]:
    """
    Add the options that say how the answer looks; *forms* are those that it can have.
    """

    def add(function: F) -> F:
        for option in (
            click.option(
                "--tz",
                type=click.Choice(("local", "utc")),
                default="local",
                help="The time zone of what is shown as text, and of days. [default: local]",
            ),
            click.option(
                "--color",
                type=click.Choice(("auto", "always", "never")),
                default="auto",
                help="When to use colours. [default: auto]",
            ),
            click.option(
                "-o",
                "--output",
                "form",
                type=click.Choice(("auto", *forms)),
                default="auto",
                help="How to answer: for people on a terminal, else for programs. [default: auto]",
            ),
            pager_option,
            file_option,
        ):
            function = option(function)
        return function

    return add


_FILTERS = (
    ("--since", None, "TIME", "Not before this time."),
    ("--until", None, "TIME", "Not after this time."),
    ("--type", "types", "TYPE", "Of this event type; * stands for anything, as in 'tool.*'."),
    ("--run", "runs", "RUN", "Of this run."),
    ("--trace", "traces", "ID", "Of this trace."),
    ("--session", "sessions", "ID", "Of this session."),
    ("--actor", "actors", "ACTOR", "Done by, such as 'agent:*'."),
    ("--outcome", "outcomes", "WORD", "With this outcome; 'error' is failure, timeout, orphaned."),
    ("--resource", "resources", "NAME", "Done to, such as 'tool:search'."),
    ("--where", "conditions", "COND", "Such as 'metadata.cost_usd>0.01'; = != < <= > >= and ~."),
    ("--grep", "grep", "TEXT", "With this text in the line as it is stored."),
)


def filter_options(function: F) -> F:
    """
    Add the options that say which records are wanted.
    """
    for option, name, metavar, text in reversed(_FILTERS):
        names = (option,) if name is None else (option, name)
        function = click.option(*names, metavar=metavar, multiple=name is not None, help=text)(
            function
        )
    return function


FILTER_HELP = """
Different filters must all be met; of one that is given twice, one is enough, but all of --where
and --grep. TIME is how long ago (90s, 15m, 1h30m, 2d, 1w), now, today, yesterday, a day of the
week, 2026-11-21T10:00 with or without a zone, @SECONDS since 1970, run:RUN or id:EVENT.
"""
"""What the help of commands with filters says of them."""


# The desk.


class Desk:
    """
    One call of a reading command: the log, the form of the answer, and what is told beside it.

    Attributes:
        form: How the answer looks.

        zone: The time zone of what is shown; None for that of this machine.

        spool: What was read from an engine, if it was.

    Args:
        auto: How the answer looks off a terminal.

        endless: Whether there is no end of it, which a pager would wait for.
    """

    def __init__(
        self,
        command: str,
        *,
        file: Path | None,
        form: str,
        color: str,
        tz: str,
        auto: Form = "json",
        endless: bool = False,
        spool: Spool | None = None,
    ) -> None:
        self.command = command
        self.began = time.monotonic()
        self.now = datetime.now(UTC)
        self.zone: tzinfo | None = UTC if tz == "utc" else None
        self.form: str = form
        if form == "auto":
            self.form = "text" if on_terminal() else auto
        context = click.get_current_context()
        context.find_root().obj = self
        if color != "auto":
            context.find_root().color = context.color = color == "always"
        if self.form == "text" and on_terminal() and not endless:
            page(context)
        self.spool = spool
        self._file = file if spool is None else spool.path
        self.warnings: list[str] = []
        self.problems = 0
        self._met: set[tuple[str, str | int]] = set()
        self._unknown: set[str] = set()
        self.truncated = False
        self.log: str | None = None
        if spool is not None and spool.notice is not None:
            self.warn(spool.notice)

    # The log.

    @property
    def is_named(self) -> bool:
        """
        Whether the log was named in the call.
        """
        return self._file is not None

    @property
    def path(self) -> Path:
        """
        Where the log is.
        """
        return log_path(os.environ) if self._file is None else self._file

    @contextmanager
    def trail(self) -> Generator[Trail]:
        """
        Open the log; in the end, the exit code tells whether something could not be read.
        """
        # What came from an engine stands in a file that is gone with the answer.
        self.log = str(self.path) if self.spool is None else None
        with Trail(self.path, self.problem) as trail:
            if trail.files.is_foreign:
                self.warn(f"nothing in {trail.path} is a record of an audit log")
            yield trail

    def problem(self, problem: Problem) -> None:
        """
        Tell what could not be read, once, however often the answer comes across it.
        """
        place = (problem.file, problem.message if problem.offset is None else problem.offset)
        if place in self._met:
            return
        if len(self._met) < KEPT:
            self._met.add(place)
        self.problems += 1
        if self.problems <= _TOLD:
            self.warn(str(problem))

    def warn(self, message: str) -> None:
        """
        Tell something beside the answer.
        """
        self.warnings.append(message)
        click.echo(f"Warning: {printable(message)}", err=True)

    def finish(self, *, found: bool = True, fail_empty: bool = False) -> None:
        """
        End the command with the exit code that is due.
        """
        if self.problems > _TOLD:
            more = self.problems - _TOLD
            click.echo(f"Warning: {more:,} more could not be read", err=True)
        sys.stdout.flush()
        if self.problems:
            raise click.exceptions.Exit(PARTIAL)
        if fail_empty and not found:
            raise click.exceptions.Exit(NOTHING_MATCHED)

    def filter(
        self,
        trail: Trail | None = None,
        *,
        since: str | None = None,
        until: str | None = None,
        outcomes: Sequence[str] = (),
        conditions: Sequence[str] = (),
        after: Cursor | None = None,
        **patterns: Sequence[str],
    ) -> Filter:
        """
        Return the filter that the options say.

        Args:
            trail: Where ``run:`` and ``id:`` are looked for.

        Raises:
            FilterError: An option says nothing that makes sense.

            NotFoundError: There is no such run or event.
        """
        words = [
            word
            for said in outcomes
            for word in (("failure", "timeout", "orphaned") if said == "error" else (said,))
        ]
        known = [outcome.value for outcome in Outcome]
        for word in words:
            if word not in known and not set("*?") & set(word):
                raise FilterError(f"{word!r} is no outcome; use error, {', '.join(known)}")
        for name in patterns.get("types", ()):
            if "," in name:
                raise FilterError(f"{name!r} is no event type; give --type once for each")
        where = tuple(map(Condition.parse, conditions))
        self._expect(condition.path for condition in where)
        begin = None if since is None else self._time(trail, since, 0)
        end = None if until is None else self._time(trail, until, -1)
        if begin is not None and end is not None and begin > end:
            raise FilterError(f"--since {since} is after --until {until}; exchange them")
        return Filter(
            since=begin,
            until=end,
            outcomes=tuple(words),
            where=where,
            after=after,
            **{name: tuple(texts) for name, texts in patterns.items()},
        )

    def fields(self, text: str | None) -> tuple[str, ...]:
        """
        Return the names of members in a list with commas; those that no record has are warned of.
        """
        fields = tuple(filter(None, map(str.strip, (text or "").split(","))))
        self._expect(fields)
        return fields

    def _expect(self, paths: Iterable[str]) -> None:
        for path in paths:
            member = names_of(path)[0]
            if member in MEMBERS or member in self._unknown:
                continue
            self._unknown.add(member)
            near = [name for name in MEMBERS if member in name.split("_")]
            near += difflib.get_close_matches(member, MEMBERS, n=1)
            self.warn(
                f"{member!r} is no member of a record that harken {version()} knows; did you mean "
                f"{' or '.join([*dict.fromkeys(near), f'metadata.{path}'])}?"
            )

    def _time(self, trail: Trail | None, text: str, end: int) -> int:
        kind, _, name = text.partition(":")
        if trail is None or kind not in {"run", "id"} or not name:
            return to_ns(text, self.now, self.zone)
        if kind == "id":
            return ns_of(trail.find(name).record.timestamp)
        records = [record.timestamp for record in trail.records(Filter(runs=(name,)))]
        if not records:
            raise NotFoundError(f"there is no run {name} in {trail.path}")
        return ns_of((min if end == 0 else max)(records))

    # Answers.

    def answer(self, data: object) -> None:
        """
        Print the one envelope that is the whole answer; structures in it are objects.
        """
        click.echo(json.dumps(self.envelope(data), default=msgspec.to_builtins))

    def envelope(self, data: object, error: JSON = None) -> dict[str, object]:
        """
        Return *data* with what is to be known about it.
        """
        meta: dict[str, JSON] = {
            "command": self.command,
            "schema_version": SCHEMA_VERSION,
            "version": version(),
            "tool_version": version(),
            "request_id": uuid4().hex,
            "timestamp": self.now.isoformat(timespec="microseconds").replace("+00:00", "Z"),
            "duration_ms": round((time.monotonic() - self.began) * 1000),
            "log": self.log,
            "truncated": self.truncated,
            # What agents put into a log is no instruction to whoever reads it.
            "content_trust": "untrusted",
        }
        call = current()
        if call is not None:
            meta["request_id"] = call.request_id
            given = {"trace_id": call.trace_id, "audit_log_path": call.audit_log_path}
            meta |= {name: value for name, value in given.items() if value is not None}
        return {
            "ok": error is None,
            "data": data,
            "error": error,
            "warnings": list(self.warnings),
            "meta": meta,
        }

    def fail(self, error: Exception, exit_code: int) -> None:
        """
        Print the envelope of an error, where an envelope was asked for.
        """
        if self.form == "json":
            told = {
                "code": name_of(exit_code),
                "exit_code": exit_code,
                "retryable": is_retryable(exit_code),
                "phase": "validation" if isinstance(error, FilterError) else "execution",
                "kind": type(error).__name__,
                "message": str(error),
            }
            click.echo(json.dumps(self.envelope(None, told)))


def line_of(entry: Entry) -> str:
    """
    Return a stored line as it can be shown: JSON in ASCII.
    """
    text = entry.line.rstrip(b"\r\n")
    if text.isascii() and text.decode("ascii").isprintable():
        return text.decode("ascii")
    return json.dumps(entry.members, separators=(",", ":"))


def chosen(record: Mapping[str, JSON], fields: Sequence[str]) -> dict[str, JSON]:
    """
    Return the members of *record* that *fields* name; None where there is none.
    """
    return {field: find_member(record, field) for field in fields}


def cell(value: JSON) -> str:
    """
    Return *value* as it can stand in a table that a spreadsheet reads: no formula, no control.
    """
    if value is None:
        return ""
    text = printable(value if isinstance(value, str) else json.dumps(value))
    return f"'{text}" if text[:1] in {"=", "+", "-", "@"} and isinstance(value, str) else text


def write_csv(
    header: Sequence[str] | None, rows: Iterable[Sequence[JSON]], stream: TextIO | None = None
) -> int:
    """
    Print rows as RFC 4180 has them, but for the ends of lines; return how many.
    """
    writer = csv.writer(stream or sys.stdout, lineterminator="\n")
    if header is not None:
        writer.writerow(header)
    count = 0
    for row in rows:
        writer.writerow(list(map(cell, row)))
        count += 1
    return count
