"""
What agents leave behind: the files of the four sinks, read as an operator reads them.
"""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from scene import Scene, last

import harken.record

AUDIT, LOG, METRICS, SPANS = "audit.jsonl", "events.log", "metrics.prom", "spans.jsonl"
DEFAULT_AUDIT = Path("home", ".local", "share", "harken", "audit.jsonl")

Line = dict[str, Any]


def lines(path: str | Path) -> list[Line]:
    """
    Return the JSON objects that stand in the lines of a file; none when there is no file.
    """
    file = Path(path)
    return [json.loads(line) for line in file.read_bytes().splitlines()] if file.exists() else []


def flush(context: Scene) -> None:
    """
    Wait until the agent's sinks have written what they heard.
    """
    if "bus" in context:
        assert context.bus.flush(30)


def audit_path(context: Scene) -> Path:
    """
    Return where the audit log is: in the scenario's folder, else where it is by default.
    """
    here = context.folder / AUDIT
    return here if here.exists() else context.folder / DEFAULT_AUDIT


def records(path: str | Path) -> list[Line]:
    """
    Return the records of events in an audit log, without those about the log itself.
    """
    return [line for line in lines(path) if not is_control(line)]


def is_control(record: Line) -> bool:
    """
    Return whether a record is about the audit log itself.
    """
    return record["event_type"] in harken.record.CONTROL_TYPES


def record_of(context: Scene, event_type: str) -> Line:
    """
    Return the last record of a type, which may be about the audit log itself.
    """
    found = [line for line in lines(audit_path(context)) if line["event_type"] == event_type]
    return last(found, f"record of {event_type}")


def log_lines(context: Scene) -> list[Line]:
    """
    Return the lines of the agent's log.
    """
    flush(context)
    return lines(context.folder / LOG)


def log_line(context: Scene, name: str) -> Line:
    """
    Return the last line about an event.
    """
    found = [line for line in log_lines(context) if line["event_name"] == name]
    return last(found, f"line of {name}")


def spans(context: Scene) -> list[Line]:
    """
    Return the agent's spans.
    """
    flush(context)
    return lines(context.folder / SPANS)


def span(context: Scene, name: str) -> Line:
    """
    Return the last span with a name.
    """
    return last([span for span in spans(context) if span["name"] == name], f"span {name}")


def plain_program() -> str:
    """
    Return the program that the documentation of the audit log's format shows.
    """
    _, _, after = (harken.record.__doc__ or "").partition(".. code-block:: python\n\n")
    program: list[str] = []
    for line in after.splitlines():
        if line and not line.startswith(" "):
            break
        program.append(line)
    return textwrap.dedent("\n".join(program))


def verify(paths: Iterable[Path]) -> subprocess.CompletedProcess[str]:
    """
    Run the plain program over the files of an audit log, in a Python that knows no harken.
    """
    return subprocess.run(
        [sys.executable, "-I", "-S", "-c", plain_program(), *map(str, paths)],
        capture_output=True,
        text=True,
        check=False,
    )
