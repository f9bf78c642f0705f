"""
What every tool under the contract can do: tell its calls, and what its answers look like.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.resources import files
from io import TextIOWrapper
from itertools import islice
from typing import NoReturn

from harken import JSON
from harken.contract._environ import variable
from harken.contract._exit import CODES, USAGE
from harken.contract._invocation import Invocation
from harken.contract._output import Form, OutputError, form_of
from harken.contract._tool import Added
from harken.trail import Filter, FilterError, TrailError, open as open_trail
from harken.trail.calls import FLAT, newest_calls
from harken.trail.times import to_ns

LIMIT = 1000


def shape_of(asked: str | None) -> str:
    """
    Return how calls are told: a table on a terminal, else lines of JSON.

    Raises:
        OutputError: There is no such form.
    """
    if asked is None:
        return "table" if form_of(None) == "text" else "jsonl"
    if asked not in ("jsonl", "table", "json"):
        raise OutputError(f"--output is one of jsonl, table, json; not {asked!r}")
    return asked


def _form_of_audit_log(asked: str | None) -> Form:
    # Lines and tables are written by the command itself: entries only, no envelope.
    return "json" if shape_of(asked) == "json" else "text"


def audit_log(call: Invocation, argv: Sequence[str], asked: str | None) -> None:
    """
    Tell the calls of the tool that are on record, oldest first.
    """
    parser = _Parser(call, "audit-log", "Print the calls of this tool that are on record.")
    parser.add_argument("--since", metavar="TIME", help="not before, such as 1h or 2026-11-21")
    parser.add_argument("--command", metavar="NAME", help="calls of this command; * is anything")
    parser.add_argument("--trace-id", metavar="ID", help="calls with this trace id")
    parser.add_argument(
        "--limit", type=_count, default=LIMIT, help="only the last so many; 0 is all"
    )
    options = parser.parse_args(argv)
    call.begin("audit-log", {name: value for name, value in vars(options).items() if value})
    if call.audit_log_path is None:
        call.fail("there is no audit log of this tool; HARKEN_AUDIT=off?", exit_code=4)
    try:
        since = None if options.since is None else to_ns(options.since, datetime.now(UTC), None)
        with open_trail(call.audit_log_path, report=lambda problem: call.warn(str(problem))) as log:
            newest = newest_calls(
                log, Filter(since=since), command=options.command, trace_id=options.trace_id
            )
            found = list(islice(newest, options.limit or None))
            if next(newest, None) is not None:
                call.warn(f"there are more than {options.limit:,} calls; use --limit or --since")
    except FilterError as error:
        call.fail(str(error), exit_code=USAGE)
    except TrailError as error:
        call.fail(str(error), exit_code=4)
    entries = [{name: entry[name] for name in FLAT} for entry in reversed(found)]
    match shape_of(asked):
        case "json":
            call.set({"entries": entries})
        case "jsonl":
            for entry in entries:
                print(json.dumps(entry, separators=(",", ":")))
        case _:
            _print_table(entries)


def schema(call: Invocation, argv: Sequence[str], asked: str | None) -> None:
    """
    Tell what answers and entries of the audit log look like, and what exit codes mean.
    """
    parser = _Parser(call, "schema", "Print the JSON Schemas of answers and of audit entries.")
    parser.parse_args(argv)
    call.begin("schema", {})
    document: JSON = {
        "tool": call.tool,
        "version": call.version,
        "envelope": schema_of("envelope"),
        "audit_entry": schema_of("audit_entry"),
        "exit_codes": {str(code): {"name": name} for code, name in CODES.items()},
        "environment": [
            "TOOL_TRACE_ID",
            *(variable(call.tool, name) for name in ("TRACE_ID", "AUDIT_LOG")),
            *("TRACEPARENT", "TRACESTATE", "BAGGAGE", "HARKEN_ACTOR", "XDG_DATA_HOME"),
        ],
    }
    call.set(document)
    if call.form == "text":
        print(json.dumps(document, indent=2))


def schema_of(name: str) -> JSON:
    """
    Return a JSON Schema: of the ``envelope`` of answers, or of an ``audit_entry``.
    """
    return json.loads((files("harken.contract") / "schemas" / f"{name}.json").read_bytes())


def _count(text: str) -> int:
    """
    Return the number that *text* is.
    """
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no number of calls")
    return int(text)


class _Parser(argparse.ArgumentParser):
    """
    A parser that tells a mistake in the envelope, where there is one.
    """

    def __init__(self, call: Invocation, name: str, description: str) -> None:
        super().__init__(prog=f"{call.tool} {name}", description=description)
        self._call = call

    def error(self, message: str) -> NoReturn:
        if self._call.form == "text":
            super().error(message)
        self._call.fail(message, exit_code=USAGE)


def _print_table(entries: Sequence[dict[str, JSON]]) -> None:
    rows = [[_shown(entry[name]) for name in FLAT] for entry in entries]
    rows.insert(0, [name.upper() for name in FLAT])
    if isinstance(sys.stdout, TextIOWrapper):
        # A terminal that cannot show a letter gets its number.
        sys.stdout.reconfigure(errors="backslashreplace")
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())


def _shown(value: JSON) -> str:
    """
    Return *value* with everything escaped that could steer a terminal.
    """
    text = "" if value is None else value if isinstance(value, str) else json.dumps(value)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


ADDED = {
    "audit-log": Added(_form_of_audit_log, audit_log),
    "schema": Added(form_of, schema),
}
"""The commands that the contract adds, by name."""
