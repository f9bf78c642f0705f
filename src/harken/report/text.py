"""
Text from a log as it can be shown, and figures as people read them.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from html import escape

from harken.event import JSON

NO_BREAK = "\u00a0"

_LONGEST = 200


def visible(text: str) -> str:
    """
    Return *text* with everything escaped that is not seen, or that reorders what is seen.

    That is C0 and C1 controls, line ends, bidirectional and other invisible formatting, and
    what no encoding has: whatever Unicode counts as not printable.
    """
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii")
        for char in text
    )


def shown(text: str) -> str:
    """
    Return *text* as HTML that shows it and does nothing else.
    """
    return escape(visible(text))


def short(value: JSON) -> str:
    """
    Return a JSON value in one line that is not long.
    """
    text = value if isinstance(value, str) else json.dumps(value, separators=(", ", ": "))
    if len(text) > _LONGEST:
        text = text[: _LONGEST - 1] + "…"
    return visible(text.strip())


def moment(seconds: float) -> str:
    """
    Return a time, in seconds since 1970-01-01 UTC, with date, milliseconds and zone.
    """
    try:
        time = datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, ValueError):
        return "at no time that there is"
    return f"{time:%Y-%m-%d %H:%M:%S}.{time.microsecond // 1000:03d}{NO_BREAK}UTC"


def duration(milliseconds: float) -> str:
    """
    Return a duration with three digits or so.
    """
    if milliseconds < 1000:
        digits = 0 if milliseconds >= 10 or not milliseconds else 1
        return f"{milliseconds:.{digits}f}{NO_BREAK}ms"
    seconds = milliseconds / 1000
    if seconds < 60:
        return f"{seconds:.2f}{NO_BREAK}s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h {minutes:02d}m {rest:02d}s" if hours else f"{minutes}m {rest:02d}s"


def money(dollars: float) -> str:
    """
    Return US dollars.
    """
    return f"${dollars:,.2f}" if dollars >= 1 else f"${dollars:.4f}"


def plural(count: int, noun: str) -> str:
    """
    Return how many of what there are.
    """
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
