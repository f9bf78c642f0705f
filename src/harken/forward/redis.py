"""
Redis Streams, and Valkey's: one stream for each log, whose entries have the numbers of its lines.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, MutableMapping, Sequence

import msgspec
from redis.exceptions import ResponseError

from harken.forward._resp import Reply, Server, Word, address_of, pack, pairs, translated
from harken.forward.group import Delivery
from harken.forward.target import RefusedError, Stored, UnavailableError
from harken.forward.wire import SPECVERSION, Message, Position

KEY = "harken:{source}"
"""What the stream of a log is called, if nobody says otherwise."""

MAXLEN = 1_000_000
"""How many entries a stream keeps, about, if nobody says otherwise."""

_LOOK_SECONDS = 2.0
_POLL_SECONDS = 0.1


class RedisStreams:
    """
    A target that appends to a Redis stream.

    Each batch is one ``MULTI``/``EXEC``, and an entry's id is ``<generation>-<seq>``: the server
    takes a line once, and lines in their order only. So it needs no `IDMP` and works from Redis 6.2
    on. A stream has one writer. One that was there is never made anew by the way: whatever removed
    it, what it held is sent again. Fields are the attributes of CloudEvents as ``ce_*``, and
    ``data``, the line letter for letter.

    Args:
        url: Such as ``redis://user:password@host:6379/0``, ``rediss://`` or ``unix://``.

        key: What the stream is called; ``{source}`` is the source without its first slash.

        maxlen: How many entries the stream keeps, about; None for all.

        max_batch: Entries of one transaction.

        timeout: Seconds to wait for an answer.
    """

    def __init__(
        self,
        url: str,
        *,
        key: str = KEY,
        maxlen: int | None = MAXLEN,
        max_batch: int = 100,
        timeout: float = 5.0,
    ) -> None:
        self._server = Server(url, timeout=timeout)
        self._url = url
        self._template = key
        self._maxlen = maxlen
        self._max_batch = max_batch
        self._key = key
        self._source = ""
        self._is_there = False
        self._trimmed = self._plain = b""
        self._end = b""

    @property
    def max_batch(self) -> int:
        """
        Entries of one transaction.
        """
        return self._max_batch

    @property
    def address(self) -> str:
        """
        Where the stream is, without user and password.
        """
        return address_of(self._url, self._key)

    def open(self, source: str, /) -> Position | None:
        """
        Connect; see `StreamTarget.open()`.
        """
        self._key = self._template.format(source=source.lstrip("/"))
        try:
            info = pairs(self._server.call("XINFO", "STREAM", self._key))
        except ResponseError as error:
            if "no such key" in str(error):
                self._prepare(source, is_there=False)
                return None
            raise translated(error, self._url) from error
        self._prepare(source, is_there=True)
        last = info[b"last-generated-id"].decode()
        if last == "0-0":
            return None
        entry = info[b"last-entry"]
        if entry is None or entry[0].decode() != last:
            return Position.parse(last)
        fields = pairs(entry[1])
        if fields.get(b"ce_source") != source.encode():
            raise RefusedError(
                f"{self._key} is the stream of {fields.get(b'ce_source', b'others').decode()}, "
                f"not of {source}; give each log a source of its own"
            )
        try:
            return Position.parse(last, fields[b"data"])
        except (KeyError, msgspec.DecodeError) as error:
            raise RefusedError(f"the last entry of {self._key} is no record: {error}") from error

    def _prepare(self, source: str, *, is_there: bool) -> None:
        # What all entries have in common is put into its form once.
        self._is_there = is_there
        words = ("XADD", self._key, *(("NOMKSTREAM",) if is_there else ()))
        maxlen = () if self._maxlen is None else ("MAXLEN", "~", self._maxlen)
        self._trimmed = _words(*words, *maxlen)
        self._plain = _words(*words)
        self._source = source
        self._end = _words("ce_specversion", SPECVERSION, "ce_source", source)

    def send(self, batch: Sequence[Message], /) -> int:
        """
        Append; see `StreamTarget.send()`.
        """
        packed = [self._packed(batch[0], trims=self._maxlen is not None)]
        packed += [self._packed(message, trims=False) for message in batch[1:]]
        if None in self._server.transact(packed, self.address):
            raise UnavailableError(f"{self.address} is gone, with what it held")
        if not self._is_there:
            self._prepare(self._source, is_there=True)
        return len(batch)

    def _packed(self, message: Message, *, trims: bool) -> bytes:
        fields = [
            b"ce_id",
            message.id.encode(),
            b"ce_type",
            message.type.encode(),
            b"ce_time",
            message.time.encode(),
        ]
        if message.subject:
            fields += (b"ce_subject", message.subject.encode())
        if message.traceparent:
            fields += (b"ce_traceparent", message.traceparent.encode())
        fields += (b"data", message.line)
        body = b"".join([b"$%d\r\n%b\r\n" % (len(field), field) for field in fields])
        name = b"%d-%d" % (message.generation, message.seq)
        begin = self._trimmed if trims else self._plain
        # The command, its key, what keeps it from being made, what trims, the id, and the fields.
        count = 2 + self._is_there + (3 if trims else 0) + 1 + 4 + len(fields)
        return b"*%d\r\n%b$%d\r\n%b\r\n%b%b" % (count, begin, len(name), name, self._end, body)

    def close(self) -> None:
        """
        Let go of the connection.
        """
        self._server.close()


def _words(*words: str | int) -> bytes:
    return pack(words).partition(b"\r\n")[2]


class RedisGroup:
    """
    A consumer of a group that reads all streams whose keys match a pattern.

    New streams are found within `_LOOK_SECONDS`. What another consumer of the group was given, and
    has not acknowledged for *idle* seconds, is taken over.

    Args:
        url: Such as ``redis://user:password@host:6379/0``.

        group: The name of the group; it is made, and begins with the first entry of each stream.

        consumer: The name of this member; no two that live may share one.

        keys: A pattern as `SCAN` takes it.

        idle: Seconds after which whoever has not acknowledged is taken for dead.

        batch: Entries of each stream that are taken at once.

        timeout: Seconds to wait for an answer.
    """

    def __init__(
        self,
        url: str,
        *,
        group: str,
        consumer: str,
        keys: str = KEY.format(source="*"),
        idle: float = 30.0,
        batch: int = 100,
        timeout: float = 5.0,
    ) -> None:
        self._server = Server(url, timeout=timeout)
        self._url = url
        self._group = group
        self._consumer = consumer
        self._keys = keys
        self._idle = idle
        self._batch = batch
        self._timeout = timeout
        self._streams: list[str] = []
        self._looked_at = float("-inf")
        self._claimed_at = float("-inf")

    def read(self, seconds: float, /) -> list[Delivery]:
        """
        Return what is delivered; see `GroupReader.read()`.
        """
        try:
            return self._taken_over() or self._new(seconds)
        except ResponseError as error:
            if str(error).startswith("NOGROUP"):
                # The server came back empty: its streams and groups are made anew.
                self._looked_at = float("-inf")
                return []
            raise translated(error, self._url) from error

    def _new(self, seconds: float) -> list[Delivery]:
        self._look()
        if not self._streams:
            time.sleep(min(seconds, _POLL_SECONDS))
            return []
        # The answer must come before the client gives it up.
        wait_ms = max(1, round(min(seconds, self._timeout / 2) * 1000))
        words: list[Word] = ["XREADGROUP", "GROUP", self._group, self._consumer]
        words += ("COUNT", self._batch, "BLOCK", wait_ms, "STREAMS", *self._streams)
        found = self._server.call(*words, *[">"] * len(self._streams))
        return [
            _delivery(stream.decode(), entry, again=False)
            for stream, entries in found or ()
            for entry in entries
        ]

    def _taken_over(self) -> list[Delivery]:
        if time.monotonic() - self._claimed_at < self._idle / 2:
            return []
        self._look()
        found: list[Delivery] = []
        for stream in self._streams:
            _, entries, *_ = self._server.call(
                *("XAUTOCLAIM", stream, self._group, self._consumer),
                *(round(self._idle * 1000), "0-0", "COUNT", self._batch),
            )
            # Of an entry that was trimmed nothing is left; before Redis 7 not even its id.
            found += [_delivery(stream, one, again=True) for one in entries if one and one[1]]
        if not found:
            self._claimed_at = time.monotonic()
        return found

    def _look(self) -> None:
        if time.monotonic() - self._looked_at < _LOOK_SECONDS:
            return
        self._streams = streams_of(self._server, self._keys)
        for stream in self._streams:
            try:
                self._server.call("XGROUP", "CREATE", stream, self._group, "0")
            except ResponseError as error:
                if not str(error).startswith("BUSYGROUP"):
                    raise
        self._looked_at = time.monotonic()

    def acknowledge(self, done: Sequence[Delivery], /) -> None:
        """
        Let nobody have these again.
        """
        names: dict[str, list[str]] = {}
        for delivery in done:
            names.setdefault(delivery.stream, []).append(delivery.name)
        for stream, own in names.items():
            try:
                self._server.call("XACK", stream, self._group, *own)
            except ResponseError as error:
                raise translated(error, self._url) from error

    def close(self) -> None:
        """
        Let go of the connection.
        """
        self._looked_at = float("-inf")
        self._server.close()


def _delivery(stream: str, entry: Sequence[Reply], *, again: bool) -> Delivery:
    fields = pairs(entry[1])
    return Delivery(
        stream,
        entry[0].decode(),
        fields.get(b"ce_source", b"").decode(),
        fields.get(b"data", b""),
        again,
    )


def streams_of(server: Server, keys: str) -> list[str]:
    """
    Return the keys of all streams that match a pattern, sorted.
    """
    found: set[str] = set()
    cursor = b"0"
    while True:
        cursor, some = server.call("SCAN", cursor, "MATCH", keys, "COUNT", 1000, "TYPE", "stream")
        found.update(key.decode() for key in some)
        if cursor == b"0":
            return sorted(found)


def stored(
    url: str,
    *,
    keys: str = KEY.format(source="*"),
    behind: MutableMapping[str, str] | None = None,
    batch: int = 500,
) -> Iterator[Stored]:
    """
    Yield all that is in the streams, one after the other, each in its order.

    Args:
        keys: Which streams, as a pattern that `SCAN` takes.

        behind: From each stream to the last entry that was yielded; what follows is yielded, and
            noted there.

    Raises:
        UnavailableError: The server does not answer.

        RefusedError: It refuses.
    """
    server = Server(url)
    known: MutableMapping[str, str] = {} if behind is None else behind
    try:
        for stream in streams_of(server, keys):
            while True:
                begin = f"({known[stream]}" if stream in known else "-"
                entries = server.call("XRANGE", stream, begin, "+", "COUNT", batch)
                for name, flat in entries:
                    fields = pairs(flat)
                    known[stream] = name.decode()
                    if b"data" in fields:
                        source = fields.get(b"ce_source", b"").decode()
                        yield Stored(source, known[stream], fields[b"data"])
                if len(entries) < batch:
                    break
    except ResponseError as error:
        raise translated(error, url) from error
    finally:
        server.close()


TARGET, GROUP, STORED = RedisStreams, RedisGroup, stored
"""What `harken.forward.targets` makes for an address."""
