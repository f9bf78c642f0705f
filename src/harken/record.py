"""
The audit record: its members, their order and the chain of hashes. Nothing here reads or writes.

An audit log is a sequence of lines. Each is one compact JSON object in ASCII, of at most 1 MiB
with its line feed. `MEMBERS` says which members there are, and in which order. The last two chain
the lines: ``hash`` is the SHA-256 of every byte of the line before its last ``,"hash":"``, and
``prev`` is the hash of the line before, or `GENESIS` on the first line of a log. So a line ends
in 75 bytes that are not hashed (``,"hash":"``, 64 hex digits, ``"}``) and a line feed, and this
program verifies a log without harken, given its files from the oldest to the newest:

.. code-block:: python

    import hashlib, sys

    head = "0" * 64
    for path in sys.argv[1:]:
        for number, line in enumerate(open(path, "rb"), 1):
            sealed, seal = line[:-76], line[-76:].decode()
            if seal != f',"hash":"{hashlib.sha256(sealed).hexdigest()}"}}\\n':
                sys.exit(f"{path}:{number}: altered, or not a sealed line")
            if not sealed.endswith(f',"prev":"{head}"'.encode()):
                sys.exit(f"{path}:{number}: a line before it is missing, or was put there")
            head = seal[9:73]
    print("verified up to", head)

``seq`` counts the lines of a log from 1, across its files. ``writer`` is one process that
appends, and ``n`` counts from 1 what it was given to append: a gap in ``n`` is exactly as many
records lost.

Control records tell what happened to the log itself. Their ``metadata``:

``audit.open``
    A writer began, or a file did: ``reason`` is ``start``, ``fork``, ``rotate``, ``renamed`` or
    ``deleted``; ``format``, ``host``, ``pid``, ``boot_id``, ``version``; ``segment``, the number
    of the file in its log; and ``prev_file``, the name of the file that this one continues, where
    it is known.

``audit.close``
    A writer ended (``reason`` ``shutdown``, and how many ``records`` it wrote, ``lost`` and
    ``spilled``), or a file did (``reason`` ``rotate``, its ``trigger``, the ``count`` of its
    lines, and ``archived_as``, the name it gets).

``audit.recover``
    The file was not as its writers leave it. ``reason`` ``torn_tail``: an unfinished line was
    cut off. ``foreign_line``: what stands before this record is not a sealed line. Both give
    ``bytes`` and ``sha256`` of it; ``kept`` says that a torn line stands there too, because the
    file does not allow cutting. ``shrunk``: the file ended after the line ``seq`` with the hash
    ``head`` when it ``had`` so many bytes; now it ``has`` fewer. Where lines that nothing vouches
    for may have followed, ``seq`` is the highest number they can have had.

``audit.lost``
    The records ``first_n`` to ``last_n`` of this writer are not in the log: ``count`` are gone,
    ``spilled`` are in ``spill_file``, whose last line has the hash ``spill_head``. When the next
    ``merged`` lines are those records, with new numbers, the file was removed. ``unsynced``
    records are in the log, but the disk did not confirm them. ``reason`` is the error's name.

``audit.checkpoint``
    Up to here the log was as it is: ``count`` lines, the last of which has the hash ``head``;
    ``segment``, the number of the file; ``mono_ns``, the monotonic clock of the machine. With a
    key, also its ``epoch``, from 0, its ``key_id`` and the ``mac``, see `seal_of()`; with a
    signing key, ``signing_key_id`` and the Ed25519 ``signature``. Both cover `seal_message()`.
    Each epoch has one checkpoint. It is compared with the line ``count``, not with the line
    before it: after a crash it may come late, or stand there twice, letter for letter.
"""

from __future__ import annotations

import hmac
import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from hashlib import sha256
from json.encoder import encode_basestring_ascii as ascii_json
from typing import TYPE_CHECKING, Any, Literal

import msgspec
from msgspec.structs import force_setattr

from harken.errors import HarkenError

if TYPE_CHECKING:
    from harken.envelope import Envelope
    from harken.event import JSON, Event
    from harken.scope import Scope

VERSION = 1
"""The member ``v`` of every line."""

GENESIS = "0" * 64
"""The ``prev`` of the first line of a log."""

MAX_LINE = 1 << 20
"""Bytes that a line may have, with its line feed."""

SEAL = 75
"""Bytes at the end of a line, before its line feed, that the hash does not cover."""

SLACK_NS = 1_000_000_000
"""Nanoseconds that an event may be older than its record and still give it its timestamp."""

CHECKPOINT_EVERY = 1000
"""A checkpoint follows every line whose ``seq`` is a multiple of this."""

ALWAYS = (
    "timestamp",
    "seq",
    "v",
    "id",
    "event_type",
    "actor",
    "action",
    "resource",
    "outcome",
    "metadata",
    "correlation_id",
    "trace_id",
    "span_id",
)
"""The members that every record begins with."""

OPTIONAL = (
    "occurred",
    "parent_span_id",
    "session_id",
    "run_id",
    "parent_run_id",
    "request_id",
    "causation_id",
    "started_event_id",
    "phase",
    "on_behalf_of",
    "attributes",
    "source",
    "schema_version",
    "redacted",
    "truncated",
)
"""The members that follow, each left out where there is nothing to say."""

CHAIN = ("writer", "n", "prev", "hash")
"""The members that every record ends with."""

MEMBERS = (*ALWAYS, *OPTIONAL, *CHAIN)
"""All members, in the order in which they are written."""

CONTROL_TYPES = ("audit.open", "audit.close", "audit.recover", "audit.lost", "audit.checkpoint")
"""The event types of control records; no event has one of these."""

Problem = Literal[
    "torn", "too_long", "foreign", "altered", "malformed", "duplicate", "chain", "seq"
]
"""
What is wrong with a line.

``torn`` has no line feed, ``too_long`` has more than `MAX_LINE` bytes, ``foreign`` is not a sealed
line, ``altered`` does not match its hash, ``malformed`` is no JSON object, ``duplicate`` has a
member twice, ``chain`` does not follow the line before, ``seq`` has the wrong number.
"""

# What the parts of a line that are not in a draft can take at most: timestamp, seq, occurred,
# writer, n, prev and hash, with room to spare.
_FRAME = 512

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_START = re.compile(
    rb'\{"timestamp":"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z)","seq":(\d{1,18}),"v":1,'
    rb'"id":(?:"[^"\\\x80-\xff]*"|null),"event_type":"([^"\\\x80-\xff]*)",'
)
_FORMAT = re.compile(rb'\{"timestamp":"[^"]{1,64}","seq":\d{1,18},"v":(\d{1,9}),')
_END = re.compile(
    rb',"writer":"([^"\\\x80-\xff]{1,64})","n":(\d{1,18}),"prev":"([0-9a-f]{64})","hash":"([0-9a-f]{64})"\}\n'
)
_END_BYTES = 400

_to_json = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode


class RecordError(HarkenError, ValueError):
    """
    A line of an audit log is not what a writer put there.

    Attributes:
        problem: What is wrong; the first thing found.

        link: What chains the line to its neighbours, where that could be read.
    """

    def __init__(self, problem: Problem, message: str, link: Link | None = None) -> None:
        super().__init__(message)
        self.problem: Problem = problem
        self.link = link


class Link(msgspec.Struct, frozen=True, gc=False):
    """
    What chains a line to its neighbours.

    Attributes:
        timestamp: The line's own, RFC 3339 in UTC with six digits.
    """

    timestamp: str
    seq: int
    event_type: str
    writer: str
    n: int
    prev: str
    hash: str

    @property
    def time_ns(self) -> int:
        """
        The timestamp in nanoseconds since 1970-01-01 UTC.
        """
        return _to_ns(self.timestamp)


class Draft(msgspec.Struct, frozen=True, gc=False):
    """
    A record that has no place in a log yet.

    Attributes:
        time_ns: When it happened, in nanoseconds since 1970-01-01 UTC.

        front: The line from ``v`` to ``span_id``; ASCII, as all of it.

        back: The members that follow ``occurred``.
    """

    time_ns: int
    front: str
    back: str

    def line(
        self, timestamp_ns: int, seq: int, writer: str, n: int, prev: str
    ) -> tuple[bytes, str]:
        """
        Return the sealed line for this place in a log, and its hash.
        """
        occurred = ""
        if timestamp_ns != self.time_ns:
            occurred = f',"occurred":"{rfc3339(self.time_ns)}"'
        content = (
            f'{{"timestamp":"{rfc3339(timestamp_ns)}","seq":{seq}{self.front}{occurred}{self.back}'
            f',"writer":"{writer}","n":{n},"prev":"{prev}"'
        ).encode()
        digest = sha256(content).hexdigest()
        return content + f',"hash":"{digest}"}}\n'.encode(), digest


def timestamp_ns(time_ns: int, now_ns: int, latest_ns: int) -> int:
    """
    Return the timestamp of a record, so that those of one file never go back by more than 2 s.

    Args:
        time_ns: When the event happened. It is the timestamp, unless it is too far off.

        now_ns: The time of the writing, taken under the lock of the file.

        latest_ns: The latest timestamp in the file; at most `SLACK_NS` after *now_ns*.
    """
    if now_ns - SLACK_NS <= time_ns <= now_ns and time_ns >= latest_ns - SLACK_NS:
        return time_ns
    return now_ns


def rfc3339(time_ns: int) -> str:
    """
    Return *time_ns* in UTC with six digits, such as ``2026-11-21T01:44:00.123456Z``.
    """
    seconds, rest = divmod(time_ns, 1_000_000_000)
    return f"{_to_the_second(seconds)}.{str(rest // 1000).zfill(6)}Z"


@lru_cache(maxsize=64)
def _to_the_second(seconds: int) -> str:
    return (_EPOCH + timedelta(seconds=seconds)).isoformat()[:19]


def from_envelope(envelope: Envelope[Event]) -> Draft:
    """
    Return the record of *envelope*. Never raises for what its event holds.

    What would make the line longer than 1 MiB is cut, the largest member of ``metadata`` or the
    attributes first, and named in ``truncated`` with the bytes and the SHA-256 of its JSON.
    """
    draft = _draft(envelope, envelope.body, envelope.attributes, envelope.truncated)
    excess = len(draft.front) + len(draft.back) - (MAX_LINE - _FRAME)
    return draft if excess <= 0 else _cut(envelope, excess)


def _cut(envelope: Envelope[Event], excess: int) -> Draft:
    parts = {f"metadata.{name}": value for name, value in envelope.data().items()}
    parts["attributes"] = dict(envelope.attributes)
    encoded = {path: _to_json(value).encode() for path, value in parts.items()}
    truncated = dict(envelope.truncated)
    for path in sorted(encoded, key=lambda path: len(encoded[path]), reverse=True):
        if excess <= 0:
            break
        size = len(encoded[path])
        truncated[path] = (size, sha256(encoded[path]).hexdigest())
        parts[path] = f"[TRUNCATED:{size}]"
        # Its entry in `truncated` takes room: the path, 64 hex digits and two numbers.
        excess -= size - 2 * len(_quote(path)) - 128
    attributes = parts.pop("attributes")
    metadata = {path.removeprefix("metadata."): value for path, value in parts.items()}
    draft = _draft(
        envelope,
        _to_json(metadata).encode(),
        attributes if isinstance(attributes, dict) else {},
        truncated,
    )
    if len(draft.front) + len(draft.back) <= MAX_LINE - _FRAME:
        return draft
    # A host of small members: naming each would take as much room as keeping it.
    whole = {
        "metadata": (len(envelope.body), sha256(envelope.body).hexdigest()),
        "attributes": (len(encoded["attributes"]), sha256(encoded["attributes"]).hexdigest()),
    }
    return _draft(envelope, b"{}", {}, whole)


def _draft(
    envelope: Envelope[Event],
    metadata: bytes,
    attributes: Mapping[str, JSON],
    truncated: Mapping[str, tuple[int, str]],
) -> Draft:
    told = _told_by(envelope.redacted_scope)
    kind = envelope.type
    outcome, trace_id = envelope.outcome, envelope.trace_id
    front = (
        f',"v":1,"id":"{envelope.id}","event_type":"{kind.name}","actor":{told.actor}'
        f',"action":{ascii_json(kind.action)},"resource":{ascii_json(envelope.resource)}'
        f',"outcome":{"null" if outcome is None else ascii_json(outcome)}'
        f',"metadata":{metadata.decode()}'
        f',"correlation_id":{told.correlation_id or ascii_json(trace_id)}'
        f',"trace_id":"{trace_id}","span_id":"{envelope.span_id}"'
    )
    parent_span_id, started = envelope.parent_span_id, envelope.started
    back = f',"parent_span_id":"{parent_span_id}"{told.ids}' if parent_span_id else told.ids
    if text := envelope.causation_id:
        back += f',"causation_id":{_quote(text)}'
    if started is not None:
        back += f',"started_event_id":"{started.id}"'
    attributed = f',"attributes":{_attributes_json(attributes)}' if attributes else ""
    back += f'{told.roles}{attributed}{told.source},"schema_version":{kind.schema_version}'
    if redacted := envelope.redacted:
        back += f',"redacted":{_to_json(dict(redacted))}'
    if truncated:
        back += f',"truncated":{_to_json(dict(truncated))}'
    return Draft(envelope.time_ns // 1000 * 1000, front, back)


class _Told(msgspec.Struct, frozen=True, gc=False):
    """
    What the texts of a scope are in each of its records.
    """

    actor: str
    correlation_id: str
    ids: str
    roles: str
    source: str


def _told_by(scope: Scope) -> _Told:
    told = scope.told
    if not isinstance(told, _Told):
        told = _Told(
            ascii_json(scope.actor or "unknown"),
            ascii_json(scope.correlation_id) if scope.correlation_id else "",
            _members(
                session_id=scope.session_id,
                run_id=scope.run_id,
                parent_run_id=scope.parent_run_id,
                request_id=scope.request_id,
            ),
            _members(phase=scope.phase, on_behalf_of=scope.on_behalf_of),
            _members(source=scope.source),
        )
        # Twice at once does no harm.
        force_setattr(scope, "told", told)
    return told


def _members(**texts: str | None) -> str:
    return "".join(f',"{name}":{ascii_json(text)}' for name, text in texts.items() if text)


# The attributes that were encoded last: those of a scope serve many events.
_last_attributes: tuple[Mapping[str, JSON], str] = ({}, "{}")


def _attributes_json(attributes: Mapping[str, JSON]) -> str:
    global _last_attributes
    last, encoded = _last_attributes
    if last is not attributes:
        encoded = _to_json(dict(attributes))
        _last_attributes = (attributes, encoded)
    return encoded


def control(
    event_type: str, metadata: Mapping[str, JSON], *, event_id: str, time_ns: int, resource: str
) -> Draft:
    """
    Return a control record.

    Args:
        event_type: One of `CONTROL_TYPES`.

        metadata: What the opening page of this module says for that type.

        event_id: A UUIDv7.

        time_ns: When it happened, in nanoseconds since 1970-01-01 UTC.

        resource: Which log it is about, such as ``audit_log:audit.jsonl``.
    """
    outcome = "failure" if event_type == "audit.lost" else "success"
    front = (
        f',"v":1,"id":"{event_id}","event_type":"{event_type}","actor":"system:harken"'
        f',"action":"{event_type.removeprefix("audit.")}","resource":{_quote(resource)}'
        f',"outcome":"{outcome}","metadata":{_to_json(dict(metadata))}'
        ',"correlation_id":null,"trace_id":null,"span_id":null'
    )
    return Draft(time_ns // 1000 * 1000, front, "")


def seal_message(*, epoch: int | None, count: int, head: str, segment: int, mono_ns: int) -> bytes:
    """
    Return what ``mac`` and ``signature`` of a checkpoint cover.
    """
    stated = "" if epoch is None else epoch
    return f"harken-audit-checkpoint\n{stated}\n{count}\n{head}\n{segment}\n{mono_ns}\n".encode()


def seal_of(key: bytes, message: bytes) -> str:
    """
    Return the ``mac`` of a checkpoint: HMAC-SHA-256 (RFC 2104) in hex, under the key of its epoch.
    """
    return hmac.digest(key, message, "sha256").hex()


def evolved(key: bytes) -> bytes:
    """
    Return the key of the next epoch, from which that of this one cannot be found again.

    A ratchet makes seals forward-secure (Bellare and Yee, 1997): whoever steals the key of today
    cannot make the seals of yesterday.
    """
    return hmac.digest(key, b"harken-audit-evolve", "sha256")


class KeyState(msgspec.Struct, frozen=True, omit_defaults=True):
    """
    What the key file of a writer holds.

    Attributes:
        generation: Which of the two places in the file counts: that with the larger number.

        epoch: The epoch of *key*, which is in hex.

        pending: A checkpoint of the epoch before that may not be in the log yet.

        seq: The number of the last line that is known to have been in the log; 0 for none.

        head: Its hash.

        ended: Whether its writer left no line behind that one.
    """

    generation: int
    key_id: str
    epoch: int
    key: str
    pending: dict[str, Any] | None = None
    seq: int = 0
    head: str = GENESIS
    ended: bool = False


KEY_SLOT = 2048
"""Bytes of each of the two places in a key file, with its line feed."""


def to_key_slot(state: KeyState) -> bytes:
    """
    Return *state* as it stands in its place: the SHA-256 of what follows, and JSON.
    """
    body = msgspec.json.encode(state)
    return b"%s %s\n" % (sha256(body).hexdigest().encode(), body.ljust(KEY_SLOT - 66))


def from_key_slot(slot: bytes) -> KeyState | None:
    """
    Return what stands in a place of a key file; None when that is nothing whole.
    """
    digest, _, body = slot.partition(b" ")
    body = body.rstrip()
    if sha256(body).hexdigest().encode() != digest:
        return None
    try:
        return msgspec.json.decode(body, type=KeyState)
    except msgspec.DecodeError:
        return None


def key_id_of(key: bytes) -> str:
    """
    Return the name of a key: 16 hex digits, from the first key of a ratchet or a public key.
    """
    return sha256(b"harken-audit-key-id\n" + key).hexdigest()[:16]


def link_of(line: bytes) -> Link:
    """
    Return what chains *line* to its neighbours, if it is a sealed line and nothing was altered.

    This is what a writer needs to know of the last line. It does not look inside the record.

    Raises:
        RecordError: With the problem ``torn``, ``too_long``, ``foreign`` or ``altered``.
    """
    if not line.endswith(b"\n"):
        raise RecordError("torn", "the line has no end")
    if len(line) > MAX_LINE:
        raise RecordError("too_long", f"the line has {len(line)} bytes; {MAX_LINE} are allowed")
    start = _START.match(line)
    end = _END.search(line, len(line) - _END_BYTES if len(line) > _END_BYTES else 0)
    if start is None or end is None or end.end() != len(line):
        raise RecordError("foreign", "the line is not a sealed record")
    timestamp, seq, event_type = start.groups()
    writer, n, prev, digest = end.groups()
    link = Link(
        timestamp.decode(),
        int(seq),
        event_type.decode(),
        writer.decode(),
        int(n),
        prev.decode(),
        digest.decode(),
    )
    if sha256(line[: -SEAL - 1]).hexdigest() != link.hash:
        raise RecordError("altered", f"the line {link.seq} was altered after it was sealed", link)
    return link


class Start(msgspec.Struct, frozen=True):
    """
    What a line begins with.

    Attributes:
        time_ns: Its timestamp, in nanoseconds since 1970-01-01 UTC.
    """

    time_ns: int
    seq: int


def start_of(begin: bytes) -> Start | None:
    """
    Return what the line begins with whose first 512 bytes are *begin*; None when it is no record.
    """
    match = _START.match(begin)
    if match is None:
        return None
    try:
        return Start(_to_ns(match[1].decode()), int(match[2]))
    except ValueError:  # the 31st of February
        return None


def format_of(begin: bytes) -> int | None:
    """
    Return the version of the format of the line that begins with *begin*; None when it is no
    record of any version that is known or may come.
    """
    match = _FORMAT.match(begin)
    return None if match is None else int(match[1])


def parse(line: bytes) -> dict[str, JSON]:
    """
    Return the record that *line* holds, as it is shown to people. Checks neither hash nor chain.

    A member that stands there twice is refused, because readers would disagree on its value:
    what is shown is what was hashed.

    Raises:
        RecordError: With the problem ``malformed`` or ``duplicate``.
    """
    try:
        record = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RecordError("malformed", f"the line is not JSON: {error}") from error
    if not isinstance(record, dict):
        raise RecordError("malformed", "the line is not a JSON object")
    # A duplicate is gone after decoding, so a text that encodes to itself holds none. Only what
    # has several spellings (escapes, floats, spaces) needs the slower look.
    if msgspec.json.encode(record) != line.rstrip(b"\n"):
        json.loads(line, object_pairs_hook=_without_duplicates, parse_int=len, parse_float=len)
    return record


def check_line(line: bytes, after: Link | None = None) -> Link:
    """
    Return what chains *line* to its neighbours, if nothing at all is wrong with it.

    Args:
        line: One line of the log, with its line feed.

        after:
            The link of the line before. When it is not given, the place of the line in the log is
            not checked; `FIRST` stands before the first line of a log.

    Raises:
        RecordError: With the first problem found; its ``link`` is what to go on from.
    """
    link = link_of(line)
    try:
        parse(line)
    except RecordError as error:
        raise RecordError(error.problem, str(error), link) from error
    if after is None:
        return link
    if link.prev != after.hash:
        raise RecordError(
            "chain",
            f"the line {link.seq} does not follow the line {after.seq}: one was removed, "
            "inserted or moved",
            link,
        )
    if link.seq != after.seq + 1:
        raise RecordError(
            "seq", f"the line {link.seq} follows the line {after.seq} of its chain", link
        )
    return link


FIRST = Link(rfc3339(0), 0, "", "", 0, GENESIS, GENESIS)
"""What stands before the first line of a log."""


def _to_ns(timestamp: str) -> int:
    return (datetime.fromisoformat(timestamp) - _EPOCH) // timedelta(microseconds=1) * 1000


def _without_duplicates(pairs: list[tuple[str, JSON]]) -> dict[str, JSON]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise RecordError("duplicate", "the line has a member twice")
    return members


def _quote(text: str) -> str:
    # Lone surrogates have no UTF-8; U+FFFD is what Unicode keeps for that.
    if not text.isascii():
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return ascii_json(text)
