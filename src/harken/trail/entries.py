"""
Records as they are read: a line where it stands, and what it says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from functools import cached_property

import msgspec

from harken.event import JSON
from harken.record import parse

MOST = 10**15
"""More than anybody means, of milliseconds or of tokens: a greater number is taken for this one."""


UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What is raised where a line is no record."""


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """
    What one line of an audit log says. `harken.record` tells what the members mean.

    Everything in it was written by others: text may hold anything.

    Attributes:
        timestamp: RFC 3339 in UTC with six digits; what `Filter` compares.

        outcome: None on a start only.

    Raises:
        ValueError: The timestamp, or ``occurred``, is no time with a zone.
    """

    timestamp: str
    seq: int
    event_type: str
    v: int = 1
    id: str | None = None
    actor: str | None = None
    action: str | None = None
    resource: str | None = None
    outcome: str | None = None
    metadata: dict[str, JSON] = {}
    correlation_id: str | None = None
    trace_id: str | None = None
    span_id: str | None = None
    occurred: str | None = None
    parent_span_id: str | None = None
    session_id: str | None = None
    run_id: str | None = None
    parent_run_id: str | None = None
    request_id: str | None = None
    causation_id: str | None = None
    started_event_id: str | None = None
    phase: str | None = None
    on_behalf_of: str | None = None
    attributes: dict[str, JSON] = {}
    source: str | None = None
    schema_version: int | None = None
    redacted: dict[str, JSON] = {}
    truncated: dict[str, JSON] = {}
    writer: str | None = None
    n: int | None = None
    prev: str | None = None
    hash: str | None = None

    def __post_init__(self) -> None:
        for text in filter(None, (self.timestamp, self.occurred)):
            if datetime.fromisoformat(text).tzinfo is None:
                raise ValueError(f"the time {text} has no zone")

    @property
    def time(self) -> datetime:
        """
        When it happened: ``occurred`` where that is given, else the timestamp; aware, UTC.
        """
        return datetime.fromisoformat(self.occurred or self.timestamp)

    @property
    def domain(self) -> str:
        """
        The first word of the event type: ``tool`` of ``tool.started``.
        """
        return self.event_type.partition(".")[0]

    @property
    def is_start(self) -> bool:
        """
        Whether it opens an operation.
        """
        return self.outcome is None

    @property
    def is_end(self) -> bool:
        """
        Whether it closes one.
        """
        return self.started_event_id is not None

    def number(self, name: str) -> float:
        """
        Return the number called *name* in the metadata, from -`MOST` to `MOST`; 0 where there is
        none.
        """
        value = self.metadata.get(name)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return 0
        return max(-MOST, min(value, MOST))


class Entry:
    """
    One line of an audit log, where it stands.

    Attributes:
        line: The stored bytes, with the line feed.

        file: The path of the file that it stands in.

        offset: Where it begins there, in bytes, decompressed if the file is compressed.
    """

    __slots__ = ("__dict__", "file", "line", "offset")

    def __init__(self, line: bytes, file: str, offset: int) -> None:
        self.line = line
        self.file = file
        self.offset = offset

    @cached_property
    def record(self) -> Record:
        """
        What the line says.

        Raises:
            msgspec.DecodeError: It is no record.

            UnicodeDecodeError: It is no UTF-8, be it in a member that no record has.
        """
        return _to_record(self.line.decode())

    @property
    def members(self) -> Mapping[str, JSON]:
        """
        The same as plain JSON, with members that this version of harken does not know.

        Raises:
            RecordError: A member stands there twice.
        """
        return parse(self.line)

    def __repr__(self) -> str:
        return f"Entry({self.file!r}, {self.offset}, {self.record!r})"


class Problem(msgspec.Struct, frozen=True):
    """
    Something in the log that could not be read, and was left out of the answer.

    Attributes:
        offset: Where in the file, in bytes; None when it is the whole file.
    """

    file: str
    offset: int | None
    message: str

    def __str__(self) -> str:
        where = "" if self.offset is None else f" at byte {self.offset}"
        return f"{self.file}{where}: {self.message}"


Report = Callable[[Problem], None]
"""Called with each problem, when it is met."""

_to_record = msgspec.json.Decoder(Record).decode
