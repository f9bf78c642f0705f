"""
Log lines for people: one record a line, coloured only on a terminal.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping

import orjson
from structlog.dev import (
    Column,
    ConsoleRenderer,
    KeyValueColumnFormatter,
    LogLevelColumnFormatter,
    plain_traceback,
)

from harken import JSON
from harken.sinks.structlog._fields import (
    EXCEPTION,
    LEVEL,
    LOGGER,
    MESSAGE,
    SCHEMA_FIELD,
    SEVERITY_NUMBER,
    STACK,
    TIMESTAMP,
)

_FOR_MACHINES = frozenset((SEVERITY_NUMBER, SCHEMA_FIELD, "otel.event.name", "trace_flags"))

# What a terminal may obey or what reorders or hides text: C0, DEL, C1, the line and paragraph
# separators, bidi marks, embeddings, overrides and isolates, and the invisible tags.
_DANGEROUS = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\U000e0000-\U000e007f]"
)
_NEEDS_QUOTES = re.compile(r"[\s\"'=]|^$")


def neutralise(text: str) -> str:
    r"""
    Replace what could steer a terminal or forge a line by its escape, such as ``\x1b``.
    """
    return _DANGEROUS.sub(_escape, text)


class TextLines:
    """
    Makes text lines of fields that are plain JSON; both kinds, since a terminal may come and go.
    """

    def __init__(self) -> None:
        self._plain = _renderer(coloured=False)
        # On Windows structlog's colours need another package.
        self._coloured = self._plain if sys.platform == "win32" else _renderer(coloured=True)

    def __call__(self, fields: Mapping[str, JSON], *, coloured: bool) -> str:
        """
        Return the line of one record, an indented traceback included, without a line end.
        """
        shown: dict[str, JSON] = {}
        for name, value in fields.items():
            if name in (STACK, EXCEPTION):
                shown[name] = _indented(str(value))
            elif name not in _FOR_MACHINES and value is not None:
                # The renderer takes a field of this name for an exception that is being handled.
                key = "data.exc_info" if name == "exc_info" else _word(neutralise(name))
                shown[key] = neutralise(value) if isinstance(value, str) else value
        render = self._coloured if coloured else self._plain
        return render(None, "", shown)


def _renderer(*, coloured: bool) -> ConsoleRenderer:
    styles = ConsoleRenderer.get_default_column_styles(colors=coloured)
    levels = ConsoleRenderer.get_default_level_styles(colors=coloured)
    key, value, reset = styles.kv_key, styles.kv_value, styles.reset
    return ConsoleRenderer(
        columns=[
            Column("", KeyValueColumnFormatter(key, value, reset, _shown)),
            Column(TIMESTAMP, KeyValueColumnFormatter(None, styles.timestamp, reset, str)),
            Column(LEVEL, LogLevelColumnFormatter(levels, reset)),
            Column(MESSAGE, KeyValueColumnFormatter(None, styles.bright, reset, str, width=30)),
            Column(
                LOGGER,
                KeyValueColumnFormatter(
                    None, styles.logger_name, reset, str, prefix="[", postfix="]"
                ),
            ),
        ],
        sort_keys=False,
        # Not used, since tracebacks come as text; but structlog before 26.1 warns about others.
        exception_formatter=plain_traceback,
    )


def _shown(value: object) -> str:
    if not isinstance(value, str):
        return neutralise(orjson.dumps(value).decode())
    return _word(value)


def _word(text: str) -> str:
    return orjson.dumps(text).decode() if _NEEDS_QUOTES.search(text) else text


def _indented(text: str) -> str:
    # Only a record of its own begins at the left margin, whatever an exception's message holds.
    return "\n".join(f"    {neutralise(line)}" for line in text.split("\n"))


def _escape(match: re.Match[str]) -> str:
    return match.group().encode("unicode_escape").decode()
