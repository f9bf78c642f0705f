"""
Records as people read them: times, durations, amounts, and what an event is about.
"""

from __future__ import annotations

import json
import sys
from datetime import datetime, tzinfo

import click

from harken import JSON
from harken.cli._common import printable
from harken.trail.entries import Record

COLORS = {
    "success": "green",
    "failure": "red",
    "timeout": "red",
    "orphaned": "red",
    "unclosed": "red",
    "denied": "yellow",
    "cancelled": "yellow",
    "deferred": "yellow",
}
"""The colours of outcomes."""

_LONGEST = 300


def time_of(timestamp: str, zone: tzinfo | None) -> str:
    """
    Return a timestamp with its date and milliseconds.
    """
    try:
        moment = datetime.fromisoformat(timestamp).astimezone(zone)
    except ValueError:
        return printable(timestamp)
    return moment.replace(tzinfo=None).isoformat(" ", "milliseconds")


def span_of(seconds: float | None) -> str:
    """
    Return a duration with three digits or so.
    """
    if seconds is None:
        return ""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.2f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m{rest:02d}s" if hours else f"{minutes}m{rest:02d}s"


def money(dollars: float) -> str:
    """
    Return US dollars; nothing for none.
    """
    if not dollars:
        return ""
    return f"${dollars:,.2f}" if dollars >= 1 else f"${dollars:.3f}"


def count(number: float) -> str:
    """
    Return a number; nothing for none.
    """
    return f"{number:,.0f}" if number else ""


def outcome(word: str | None, width: int = 0) -> str:
    """
    Return an outcome in its colour.
    """
    text = printable(word or "")
    return click.style(f"{text:<{width}}", fg=COLORS.get(word or ""))


def draws() -> bool:
    """
    Return whether standard output can show lines and bars.
    """
    return (sys.stdout.encoding or "").lower().startswith("utf")


def plural(number: int, noun: str) -> str:
    """
    Return how many of what there are.
    """
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def columns_of(text: str) -> int:
    """
    Return how many columns of a terminal *text* takes; some characters take two.
    """
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def sized(text: str, width: int) -> str:
    """
    Return *text* in exactly *width* columns.
    """
    if text.isascii():
        return f"{text:<{width}}"[:width]
    from rich.cells import set_cell_size

    return set_cell_size(text, width)


def cut(text: str, width: int | None) -> str:
    """
    Return *text* in at most *width* columns; None for all of it.
    """
    if width is None or columns_of(text) <= width:
        return text
    dots = "…" if draws() else "..."
    return (sized(text, max(0, width - len(dots))) + dots)[:width]


def label(record: Record) -> str:
    """
    Return what an event is about, in a word or two.
    """
    kind, _, name = (record.resource or "").partition(":")
    data = record.metadata
    if record.domain in {"approval", "human_input"}:
        return printable(str(data.get("subject") or name))
    if record.domain == "llm":
        return printable(str(data.get("model") or name or kind))
    return printable(name or kind)


def detail(record: Record) -> str:
    """
    Return what is worth knowing of an event beside its type and its resource.
    """
    data = record.metadata
    names = ("decision", "rule", "error_type", "error_message", "reason")
    said = [_word(data[name]) for name in names if data.get(name)]
    if record.event_type == "run.started" and data.get("task_type"):
        said.append(_word(data["task_type"]))
    if record.is_start and data.get("arguments"):
        said.append(_word(data["arguments"]))
    texts = (data.get(name) for name in ("prompt", "text", "question", "chosen", "evidence"))
    said += [f'"{_word(text)}"' for text in texts if isinstance(text, str) and text]
    if record.event_type == "command.completed" and data.get("exit_code") is not None:
        said.append(f"exit {_word(data['exit_code'])}")
    tokens = (record.number("input_tokens"), record.number("output_tokens"))
    if any(tokens):
        said.append(f"{tokens[0]:,.0f}/{tokens[1]:,.0f} tok")
    if record.number("cost_usd"):
        said.append(money(record.number("cost_usd")))
    if "duration_ms" in data and record.number("duration_ms"):
        said.append(span_of(record.number("duration_ms") / 1000))
    return "  ".join(said)


def _word(value: JSON) -> str:
    text = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
    return cut(printable(text), _LONGEST)


def row(record: Record, zone: tzinfo | None, width: int | None = None, source: str = "") -> str:
    """
    Return a record in one line of at most *width* columns.

    Args:
        source: The log that it came from, where there are several.
    """
    head = f"{time_of(record.timestamp, zone)}  {'#' + str(record.seq):<7} "
    if source:
        head += f"{printable(source)}  "
    kind = f"{printable(record.event_type):<20} "
    # Where there is little room, what was done to matters more than who did it.
    rest = f"  {printable(record.resource or '')}  {printable(record.actor or '')}"
    more = detail(record)
    if more:
        rest += f"  {more}"
    word = f"{printable(record.outcome or 'started'):<9}"
    taken = sum(map(columns_of, (head, kind, word)))
    if width is not None:
        if taken >= width:
            return cut(head + kind + word, width)
        rest = cut(rest, width - taken)
    colored = click.style(word, fg=COLORS.get(record.outcome or ""), dim=record.outcome is None)
    return click.style(head, dim=True) + click.style(kind, bold=True) + colored + rest
