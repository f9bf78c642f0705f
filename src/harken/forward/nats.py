"""
NATS JetStream: one stream for all logs, with a subject for each.
"""

from __future__ import annotations

import asyncio
import math
import re
import threading
from collections.abc import (
    Awaitable,
    Callable,
    Coroutine,
    Iterator,
    Mapping,
    MutableMapping,
    Sequence,
)
from contextlib import suppress
from typing import Any, TypeVar
from urllib.parse import quote, unquote

import msgspec
from nats.aio.client import Client
from nats.errors import (
    AuthorizationError,
    Error as NatsError,
    InvalidUserCredentialsError,
    TimeoutError as NoAnswerError,
)
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy, StreamConfig
from nats.js.errors import BadRequestError, NotFoundError

from harken.forward.group import Delivery
from harken.forward.target import PoisonError, RefusedError, Stored, UnavailableError
from harken.forward.wire import Message, Position

T = TypeVar("T")

STREAM = "HARKEN"
"""What the stream is called, if nobody says otherwise."""

SUBJECT = "harken"
"""What all subjects begin with, if nobody says otherwise."""

_MESSAGE_ID = "Nats-Msg-Id"

# The name of the line before it, and the number in the stream up to which nothing was missing when
# it was sent.
_AFTER = "Harken-After"
_WHOLE = "Harken-Whole"

# What goes into a header as it is, as the binding of CloudEvents to NATS has it.
_PLAIN = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in '"%')
_is_plain = re.compile(f"[{re.escape(_PLAIN)}]*").fullmatch

# Bytes that the headers of a message take at most, beside the texts in it.
_HEADERS = 512

# Messages that are looked at together, to find what is missing.
_LOOKED_AT = 500

# The server's number for a message that is larger than the stream allows.
_TOO_LARGE = 10054

_NOT_IN_SUBJECT = re.compile(r"[^0-9A-Za-z_-]")


class _Encrypted(Client):
    """
    A client that says nothing, and no password, before the connection is encrypted.

    The library encrypts what the server wants encrypted, whatever the address says.
    """

    is_checked = False

    def _connect_command(self) -> bytes:
        if not self._server_info.get("tls_required"):
            raise RefusedError("the server does not encrypt; use nats:// if that is meant")
        self.is_checked = True
        command: bytes = super()._connect_command()
        return command


class _Connection:
    """
    A connection, and the loop that it lives on, in a thread of its own.
    """

    def __init__(self, url: str, timeout: float) -> None:
        self.address = f"{url.partition('://')[0]}://{url.partition('://')[2].rpartition('@')[2]}"
        self._url = url
        self._timeout = timeout
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self.client: Any = None

    def open(self) -> None:
        """
        Connect, unless that was done.
        """
        if self.client is not None:
            return
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="harken-nats", daemon=True
        )
        self._thread.start()
        try:
            self.client = self.call(self._connected)
        except (RefusedError, UnavailableError):
            self.close()
            raise

    async def _connected(self) -> Any:
        client: Any = _Encrypted() if self._url.startswith("tls://") else Client()
        try:
            await client.connect(
                self._url,
                allow_reconnect=False,
                connect_timeout=math.ceil(self._timeout),
                error_cb=_forget,
                max_reconnect_attempts=0,
            )
            if not getattr(client, "is_checked", True):
                raise RefusedError("whether the connection is encrypted is not known")
        except BaseException:
            # What was refused is still open.
            with suppress(Exception):
                await client.close()
            raise
        return client

    def call(self, function: Callable[[], Coroutine[Any, Any, T]], wait: float = 0.0) -> T:
        """
        Return what *function* returns on the loop, within the timeout and *wait* seconds.

        Raises:
            UnavailableError: The server does not answer, or not now.

            RefusedError: It refuses.
        """
        assert self._loop is not None
        future = asyncio.run_coroutine_threadsafe(
            _within(function, self._timeout + wait), self._loop
        )
        try:
            return future.result()
        except (AuthorizationError, InvalidUserCredentialsError) as error:
            raise self._refused(error) from error
        except (NoAnswerError, TimeoutError) as error:
            raise UnavailableError(f"{self.address} does not answer") from error
        except BadRequestError as error:
            raise RefusedError(f"{self.address} refuses: {error}") from error
        except (NatsError, OSError) as error:
            if "authorization" in str(error).lower():
                raise self._refused(error) from error
            raise UnavailableError(f"{self.address} cannot be reached: {error}") from error

    def _refused(self, error: Exception) -> RefusedError:
        return RefusedError(f"{self.address} refuses: {error}; check user and permissions")

    def close(self) -> None:
        """
        Let go of the connection, and end the thread; twice is allowed.
        """
        loop, client, thread = self._loop, self.client, self._thread
        self._loop = self.client = self._thread = None
        if loop is None or thread is None:
            return
        if client is not None:
            with suppress(Exception):
                asyncio.run_coroutine_threadsafe(
                    _within(client.close, self._timeout), loop
                ).result()
        asyncio.run_coroutine_threadsafe(_cancelled(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _within(function: Callable[[], Awaitable[T]], seconds: float) -> T:
    async with asyncio.timeout(seconds):
        return await function()


async def _cancelled() -> None:
    # What the client leaves behind when its server is gone.
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


async def _forget(error: Exception) -> None:
    """
    Let an error be told by whoever waits for an answer.
    """


class _Fault(msgspec.Struct):
    description: str = ""
    err_code: int = 0


class _Ack(msgspec.Struct):
    stream: str = ""
    seq: int = 0
    error: _Fault | None = None


_decode = msgspec.json.Decoder(_Ack).decode


class JetStream:
    """
    A target that publishes to NATS JetStream.

    The subject of a log is ``harken.`` and its source, with dots for the slashes. Headers are the
    attributes of CloudEvents as ``ce-*``, and the payload is the line letter for letter. Where to
    go on is asked of the stream, and ``Nats-Msg-Id`` lets the server refuse what is under way
    twice, within the window of the stream (2 minutes by default). The server may refuse a message
    and take later ones; so each names the one before it, and what is missing is sent again.

    Args:
        url: Such as ``nats://user:password@host:4222`` or ``tls://``.

        stream: What the stream is called; it is made where it is missing, and keeps everything.

        subject: What the subjects begin with.

        max_batch: Messages that are under way at once.

        timeout: Seconds to wait for an answer.
    """

    def __init__(
        self,
        url: str,
        *,
        stream: str = STREAM,
        subject: str = SUBJECT,
        max_batch: int = 200,
        timeout: float = 5.0,
    ) -> None:
        self._connection = _Connection(url, timeout)
        self._stream = stream
        self._prefix = subject
        self._subject = subject
        self._source = ""
        self._max_batch = max_batch
        self._acks: dict[int, _Ack] = {}
        self._wanted = 0
        self._complete: asyncio.Event | None = None
        self._inbox = ""
        # The last line up to which the stream is whole, where it is in the stream, and what else of
        # this log is there.
        self._last = ""
        self._whole = 0
        self._there: dict[str, int] = {}

    @property
    def max_batch(self) -> int:
        """
        Messages that are under way at once.
        """
        return self._max_batch

    @property
    def address(self) -> str:
        """
        Where the stream is, without user and password.
        """
        return f"{self._connection.address}#{self._subject}"

    def open(self, source: str, /) -> Position | None:
        """
        Connect; see `StreamTarget.open()`.
        """
        self._source = source
        self._subject = subject_of(self._prefix, source)
        self._connection.open()
        return self._connection.call(self._prepared)

    async def _prepared(self) -> Position | None:
        client = self._connection.client
        context = client.jetstream()
        try:
            await context.stream_info(self._stream)
        except NotFoundError:
            await self._create()
        self._complete = asyncio.Event()
        self._inbox = client.new_inbox()
        await client.subscribe(f"{self._inbox}.*", cb=self._acknowledged)
        self._last, self._whole, self._there = "", 0, {}
        last = await self._newest()
        if last is None:
            return None
        headers = last.headers or {}
        source = _text(headers, "ce-source")
        if source != self._source:
            raise RefusedError(
                f"{self._subject} is the subject of {source or 'others'}, not of {self._source}; "
                "give each log a source of its own"
            )
        whole, seq = int(headers.get(_WHOLE, 0)), last.metadata.sequence.stream
        return self._held(await self._since(whole, seq))

    async def _create(self) -> None:
        context = self._connection.client.jetstream()
        config = StreamConfig(name=self._stream, subjects=[f"{self._prefix}.>"])
        try:
            await context.add_stream(config)
        except BadRequestError as refused:
            # Also said while another forwarder is creating the same stream.
            try:
                await context.stream_info(self._stream)
            except NotFoundError:
                raise refused from None

    async def _newest(self) -> Any | None:
        # By a consumer: asked for the last message itself of a stream that somebody is just
        # creating, nats-server 2.9.10 dies.
        config = _unacknowledged(DeliverPolicy.LAST)
        subscription = await _subscribed(self._connection, self._stream, self._subject, config)
        if subscription is None:
            return None
        about = await subscription.consumer_info()
        some = await _next_of(subscription, 1) if about.num_pending else []
        if about.num_pending and not some:
            raise UnavailableError(f"{self.address} does not tell what it holds")
        await self._forget(about.name)
        return some[0] if some else None

    async def _forget(self, name: str) -> None:
        # A consumer that nobody needs any more; the server itself would take a minute.
        await self._connection.client.jetstream().delete_consumer(self._stream, name)

    async def _since(self, whole: int, last: int) -> list[Any]:
        # The last messages of this log, from the one with number *whole* to that with *last*.
        behind = {self._stream: str(whole - 1)} if whole else {}
        subscription = await _all_of(self._connection, self._stream, self._subject, behind)
        found: list[Any] = []
        while not found or found[-1].metadata.sequence.stream < last:
            some = [] if subscription is None else await _next_of(subscription, _LOOKED_AT)
            if not some:
                raise UnavailableError(f"{self.address} does not tell what it holds")
            found += some
        await self._forget(found[0].metadata.consumer)
        return found if whole else [None, *found]

    def _held(self, found: Sequence[Any]) -> Position | None:
        following = {(one.headers or {}).get(_AFTER, ""): one for one in found if one is not None}
        self._there = {_name(one): one.metadata.sequence.stream for one in found if one is not None}
        at = found[0] or following.get("")
        held = None
        while at is not None:
            held, self._last = at, _name(at)
            self._whole = self._there.pop(self._last)
            at = following.pop(self._last, None)
        return None if held is None else Position.parse(self._last, held.data)

    async def _acknowledged(self, reply: Any) -> None:
        number = int(reply.subject.rpartition(".")[2])
        try:
            ack = _decode(reply.data)
        except msgspec.DecodeError:
            # Nobody listens to the subject: an answer of the server without a body.
            ack = _Ack(error=_Fault("no stream takes it"))
        self._acks[number] = ack
        if len(self._acks) >= self._wanted and self._complete is not None:
            self._complete.set()

    def send(self, batch: Sequence[Message], /) -> int:
        """
        Append; see `StreamTarget.send()`.
        """
        if self._connection.client is None:
            raise UnavailableError(f"{self.address} is not open")
        room = self._connection.client.max_payload
        too_large = next((at for at, one in enumerate(batch) if self._size(one) > room), None)
        some = batch[:too_large]
        if some:
            self._connection.call(lambda: self._published(some))
        for number, message in enumerate(some):
            ack = self._acks[number]
            if ack.error is not None:
                self._note_there(some)
                if ack.error.err_code == _TOO_LARGE:
                    raise PoisonError(ack.error.description, number)
                if number:
                    return number
                raise UnavailableError(f"{self.address} takes nothing: {ack.error.description}")
            self._last, self._whole = message.position.name, ack.seq
            self._there.pop(self._last, None)
        if too_large is not None:
            size = self._size(batch[too_large])
            raise PoisonError(
                f"the message has {size} bytes, and the server takes {room}", too_large
            )
        return len(some)

    def _note_there(self, batch: Sequence[Message]) -> None:
        for number, message in enumerate(batch):
            ack = self._acks[number]
            if ack.error is None and message.position.name != self._last:
                self._there[message.position.name] = ack.seq

    def _size(self, message: Message) -> int:
        texts = (self._source, self._source, self._source, message.type, message.subject)
        return len(message.line) + sum(len(_quoted(text)) for text in texts) + _HEADERS

    async def _published(self, batch: Sequence[Message]) -> None:
        client, complete = self._connection.client, self._complete
        assert complete is not None
        there = {
            number: _Ack(seq=self._there[message.position.name])
            for number, message in enumerate(batch)
            if message.position.name in self._there
        }
        self._acks = dict(there)
        self._wanted = len(batch)
        complete.clear()
        after = self._last
        for number, message in enumerate(batch):
            name = message.position.name
            if number not in there:
                headers = {
                    f"ce-{attribute}": _quoted(value)
                    for attribute, value in message.attributes(self._source).items()
                    if attribute != "datacontenttype"
                }
                # Two logs of one source are a mistake, but none of their lines is the other's.
                headers[_MESSAGE_ID] = f"{name}@{_quoted(self._source)}@{_quoted(message.id)}"
                headers[_WHOLE] = str(self._whole)
                if after:
                    headers[_AFTER] = after
                await client.publish(
                    self._subject, message.line, reply=f"{self._inbox}.{number}", headers=headers
                )
            after = name
        if len(there) < len(batch):
            await complete.wait()

    def close(self) -> None:
        """
        Let go of the connection.
        """
        self._connection.close()


def _quoted(text: str) -> str:
    return text if _is_plain(text) else quote(text, safe=_PLAIN)


def _text(headers: Mapping[str, str], name: str) -> str:
    return unquote(headers.get(name, ""))


def _name(message: Any) -> str:
    name: str = (message.headers or {}).get(_MESSAGE_ID, "").partition("@")[0]
    return name


def subject_of(prefix: str, source: str) -> str:
    """
    Return the subject of a log; what stands for something else in subjects becomes ``_``.
    """
    parts = [_NOT_IN_SUBJECT.sub("_", part) for part in source.strip("/").split("/") if part]
    return ".".join((prefix, *parts))


class JetStreamGroup:
    """
    A member of the durable consumer of a stream. What it has not acknowledged for *idle* seconds
    is delivered to another one.

    Args:
        url: Such as ``nats://user:password@host:4222``.

        group: The name of the durable consumer; it is made where it is missing.

        consumer: The name of this member, for people.

        stream: What the stream is called.

        subject: Which subjects are read.

        idle: Seconds after which whoever has not acknowledged is taken for dead.

        batch: Messages that are taken at once.

        timeout: Seconds to wait for an answer.
    """

    def __init__(
        self,
        url: str,
        *,
        group: str,
        consumer: str,
        stream: str = STREAM,
        subject: str = f"{SUBJECT}.>",
        idle: float = 30.0,
        batch: int = 100,
        timeout: float = 5.0,
    ) -> None:
        self.consumer = consumer
        self._connection = _Connection(url, timeout)
        self._group = group
        self._stream = stream
        self._subject = subject
        self._idle = idle
        self._batch = batch
        self._subscription: Any = None
        self._given: dict[str, Any] = {}

    def read(self, seconds: float, /) -> list[Delivery]:
        """
        Return what is delivered; see `GroupReader.read()`.
        """
        self._connection.open()
        return self._connection.call(lambda: self._fetched(seconds), seconds)

    async def _fetched(self, seconds: float) -> list[Delivery]:
        if self._subscription is None:
            context = self._connection.client.jetstream()
            try:
                self._subscription = await context.pull_subscribe(
                    self._subject,
                    self._group,
                    self._stream,
                    ConsumerConfig(ack_policy=AckPolicy.EXPLICIT, ack_wait=self._idle),
                )
            except NotFoundError:
                # The stream is made by the first who forwards.
                await asyncio.sleep(min(seconds, 0.1))
                return []
        try:
            messages = await self._subscription.fetch(self._batch, timeout=seconds)
        except (NoAnswerError, TimeoutError):
            return []
        found = []
        for message in messages:
            about = message.metadata
            name = str(about.sequence.stream)
            self._given[name] = message
            source = _text(message.headers or {}, "ce-source")
            again = about.num_delivered > 1
            found.append(Delivery(self._stream, name, source, message.data, again))
        return found

    def acknowledge(self, done: Sequence[Delivery], /) -> None:
        """
        Let nobody have these again.
        """
        self._connection.open()
        self._connection.call(lambda: self._acknowledged(done))

    async def _acknowledged(self, done: Sequence[Delivery]) -> None:
        for delivery in done:
            message = self._given.pop(delivery.name, None)
            # What was delivered over a connection that is gone is delivered again.
            if message is not None:
                await message.ack()
        await self._connection.client.flush()

    def close(self) -> None:
        """
        Let go of the connection.
        """
        self._subscription = None
        self._given.clear()
        self._connection.close()


def stored(
    url: str,
    *,
    stream: str = STREAM,
    subject: str = f"{SUBJECT}.>",
    behind: MutableMapping[str, str] | None = None,
    batch: int = 500,
    timeout: float = 5.0,
) -> Iterator[Stored]:
    """
    Yield all that is in the stream, in its order: each log in its own, and all of them mixed.

    Args:
        subject: Which subjects are read.

        behind: From the stream to the number of its last message that was yielded; what follows
            is yielded, and noted there.

    Raises:
        UnavailableError: The server does not answer.

        RefusedError: It refuses.
    """
    known: MutableMapping[str, str] = {} if behind is None else behind
    connection = _Connection(url, timeout)
    try:
        connection.open()
        subscription = connection.call(lambda: _all_of(connection, stream, subject, known))
        while subscription is not None:
            messages = connection.call(lambda: _next_of(subscription, batch), 1.0)
            for message in messages:
                about = message.metadata
                known[stream] = str(about.sequence.stream)
                source = _text(message.headers or {}, "ce-source")
                yield Stored(source, _name(message), message.data)
            if not messages or not messages[-1].metadata.num_pending:
                return
    finally:
        connection.close()


async def _all_of(
    connection: _Connection, stream: str, subject: str, known: MutableMapping[str, str]
) -> Any:
    config = _unacknowledged(DeliverPolicy.ALL)
    if stream in known:
        config.deliver_policy = DeliverPolicy.BY_START_SEQUENCE
        config.opt_start_seq = int(known[stream]) + 1
    return await _subscribed(connection, stream, subject, config)


def _unacknowledged(policy: DeliverPolicy) -> ConsumerConfig:
    return ConsumerConfig(ack_policy=AckPolicy.NONE, deliver_policy=policy, inactive_threshold=60.0)


async def _subscribed(
    connection: _Connection, stream: str, subject: str, config: ConsumerConfig
) -> Any:
    try:
        return await connection.client.jetstream().pull_subscribe(
            subject, stream=stream, config=config
        )
    except NotFoundError:
        return None
    except TypeError as error:
        # An answer without members: of nats-server 2.9.10, when the stream is just being removed.
        raise UnavailableError(f"{connection.address} makes no consumer of {stream}") from error


async def _next_of(subscription: Any, batch: int) -> list[Any]:
    try:
        found: list[Any] = await subscription.fetch(batch, timeout=1.0)
    except (NoAnswerError, TimeoutError):
        return []
    return found


TARGET, GROUP, STORED = JetStream, JetStreamGroup, stored
"""What `harken.forward.targets` makes for an address."""
