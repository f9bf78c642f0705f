"""
The action trail of infrastructure agents: a Redis stream for each session, as its readers know it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import msgspec
from redis.exceptions import ResponseError

from harken import JSON, Envelope, Event
from harken.catalog.aliases import alias_of
from harken.forward._resp import Server, address_of, pack, translated
from harken.forward.target import PoisonError, RefusedError, UnavailableError
from harken.forward.wire import Message, Position

KEY = "action-trail:{sessionId}"
"""What the stream of a session is called."""

NO_SESSION = "-"
"""What stands for the session of an event that is of none."""

MAXLEN = 10_000
EXPIRE_SECONDS = 7 * 86_400


class _Members(msgspec.Struct, gc=False):
    metadata: dict[str, JSON]
    session_id: str | None = None
    run_id: str | None = None
    correlation_id: str | None = None


_decode = msgspec.json.Decoder(_Members).decode


class ActionTrail:
    """
    A target that appends the ten kinds of an action trail to ``action-trail:{sessionId}``.

    An entry has the fields ``type``, ``data``, ``correlationId`` and ``timestamp``; in ``data``
    ``runId`` and ``eventId`` stand beside the event's own. All other lines are passed over: what
    arrives is no chain that could be verified, and `harken.forward.consume()` does not read it.

    Many logs write to one session, so the server makes the entries' ids. That each line is there
    once is because how far a log is stands in ``action-trail-position:{source}``, which the same
    transaction changes. A cluster has no such transaction over several keys.

    Args:
        url: Such as ``redis://user:password@host:6379/0``, ``rediss://`` or ``unix://``.

        maxlen: How many entries the stream of a session keeps, about; None for all.

        expire_seconds: After how long without an entry the stream of a session is gone; None for
            never.

        max_batch: Lines of one transaction.

        timeout: Seconds to wait for an answer.
    """

    def __init__(
        self,
        url: str,
        *,
        maxlen: int | None = MAXLEN,
        expire_seconds: int | None = EXPIRE_SECONDS,
        max_batch: int = 100,
        timeout: float = 5.0,
    ) -> None:
        self._server = Server(url, timeout=timeout)
        self._url = url
        self._trim = () if maxlen is None else ("MAXLEN", "~", maxlen)
        self._expire = expire_seconds
        self._max_batch = max_batch
        self._place = ""
        self._held: bytes | None = None

    @property
    def max_batch(self) -> int:
        """
        Lines of one transaction.
        """
        return self._max_batch

    @property
    def address(self) -> str:
        """
        Where the streams are, without user and password.
        """
        return address_of(self._url, KEY)

    def open(self, source: str, /) -> Position | None:
        """
        Connect; see `StreamTarget.open()`.
        """
        self._place = f"action-trail-position:{source}"
        self._held = self._position()
        if self._held is None:
            return None
        try:
            return msgspec.json.decode(self._held, type=Position)
        except msgspec.DecodeError as error:
            raise RefusedError(f"{self._place} holds no position: {error}; delete it") from error

    def _position(self) -> bytes | None:
        try:
            found: bytes | None = self._server.call("GET", self._place)
        except ResponseError as error:
            raise translated(error, self._url) from error
        return found

    def send(self, batch: Sequence[Message], /) -> int:
        """
        Append; see `StreamTarget.send()`.
        """
        # An earlier transaction whose answer was lost may still be on its way.
        self._server.converse((pack(("WATCH", self._place)),), 1)
        if self._position() != self._held:
            raise UnavailableError(f"{self.address} is out of step")
        commands: list[bytes] = []
        poison: PoisonError | None = None
        for number, message in enumerate(batch):
            try:
                commands += self._commands(message)
            except (msgspec.DecodeError, RecursionError) as error:
                poison = PoisonError(f"the line is no record of an event: {error}", number)
                batch = batch[:number]
                break
        if batch:
            self._store(commands, msgspec.json.encode(batch[-1].position))
        if poison is not None:
            raise poison
        return len(batch)

    def _store(self, commands: Sequence[bytes], position: bytes) -> None:
        packed = (*commands, pack(("SET", self._place, position)))
        self._server.transact(packed, self.address)
        self._held = position

    def _commands(self, message: Message) -> list[bytes]:
        word = alias_of(message.type, "action_trail")
        if word is None:
            return []
        members = _decode(message.line)
        key = KEY.format(sessionId=members.session_id or NO_SESSION)
        data = {
            **members.metadata,
            "runId": members.run_id,
            "eventId": message.id,
        }
        entry = pack(
            (
                *("XADD", key, *self._trim, "*", "type", word, "data", msgspec.json.encode(data)),
                *("correlationId", members.correlation_id or "", "timestamp", message.time),
            )
        )
        if self._expire is None:
            return [entry]
        return [entry, pack(("EXPIRE", key, self._expire))]

    def close(self) -> None:
        """
        Let go of the connection.
        """
        self._server.close()


class ActionTrailLog:
    """
    A sink that logs each event of an action trail as ``action_trail:<type>``.

    It goes to the logger ``harken.action_trail``, at the level INFO; `configure_logging()` makes
    JSON of it. That the active span gets these events is what `SpanRecorder` does anyway.
    """

    name = "action-trail-log"

    def __init__(self) -> None:
        self._log = logging.getLogger("harken.action_trail")

    def write(self, batch: Sequence[Envelope[Event]], /) -> None:
        """
        Log those of the ten kinds.
        """
        for envelope in batch:
            word = alias_of(envelope.name, "action_trail")
            if word is not None:
                extra = {
                    "sessionId": envelope.session_id,
                    "runId": envelope.run_id,
                    "correlationId": envelope.correlation_id,
                    "type": word,
                    "data": envelope.data(),
                }
                self._log.info("action_trail:%s", word, extra=extra)
