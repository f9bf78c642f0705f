"""
What is sent of a log: its lines, letter for letter, and beside each the attributes of a CloudEvent.
"""

from __future__ import annotations

import msgspec

from harken.record import RecordError

SPECVERSION = "1.0"
"""The version of CloudEvents whose attributes these are."""


class Position(msgspec.Struct, frozen=True):
    """
    A line of a log, and in which of its lives it stands.

    Attributes:
        generation: How often the log began anew, from 1: its numbers begin anew, too.

        timestamp: That of the line; empty when only its number is known.

        hash: The same.
    """

    generation: int
    seq: int
    timestamp: str = ""
    hash: str | None = None

    @property
    def name(self) -> str:
        """
        What it is called on the wire: generation and number.
        """
        return f"{self.generation}-{self.seq}"

    @classmethod
    def parse(cls, name: str, line: bytes | None = None) -> Position:
        """
        Return the position called *name*, whose line is *line*, if that is known.

        Raises:
            ValueError: It is no such name.
        """
        generation, _, seq = name.partition("-")
        if line is None:
            return cls(int(generation), int(seq))
        members = _decode(line)
        return cls(int(generation), int(seq), members.timestamp, members.hash)


class Message(msgspec.Struct, frozen=True, gc=False):
    """
    One line of a log as it is sent.

    Attributes:
        line: The stored bytes, with the line feed.

        id: The id of the event, or of the control record.

        type: Its dotted name.

        time: When it happened, RFC 3339 in UTC.

        subject: The run that it is of; empty when there is none.

        traceparent: Where it stands in its trace; empty when it stands in none.
    """

    line: bytes
    generation: int
    seq: int
    timestamp: str
    hash: str
    id: str
    type: str
    time: str
    subject: str
    traceparent: str

    @property
    def position(self) -> Position:
        """
        Where it stands in its log.
        """
        return Position(self.generation, self.seq, self.timestamp, self.hash)

    def attributes(self, source: str) -> dict[str, str]:
        """
        Return the attributes of the CloudEvent whose data is the line.

        Args:
            source: Where the log is, as a reference to a URI.
        """
        given = {
            "specversion": SPECVERSION,
            "id": self.id,
            "source": source,
            "type": self.type,
            "time": self.time,
            "datacontenttype": "application/json",
            "sequence": f"{self.seq:020d}",
            "partitionkey": source,
            "subject": self.subject,
            "traceparent": self.traceparent,
        }
        return {name: value for name, value in given.items() if value}


class _Members(msgspec.Struct, gc=False):
    timestamp: str
    seq: int
    id: str
    event_type: str
    hash: str
    occurred: str | None = None
    run_id: str | None = None
    trace_id: str | None = None
    span_id: str | None = None


_decoder = msgspec.json.Decoder(_Members)


def _decode(line: bytes) -> _Members:
    return _decoder.decode(line)


def to_message(line: bytes, after: Position) -> Message:
    """
    Return the message of the line that follows *after*.

    Raises:
        RecordError: The line is no record.
    """
    try:
        members = _decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RecordError("malformed", f"the line is no record: {error}") from error
    trace, span = members.trace_id, members.span_id
    begins_anew = members.seq <= after.seq
    return Message(
        line,
        after.generation + 1 if begins_anew else after.generation,
        members.seq,
        members.timestamp,
        members.hash,
        members.id,
        members.event_type,
        members.occurred or members.timestamp,
        members.run_id or "",
        f"00-{trace}-{span}-01" if trace and span else "",
    )
