"""
Talking to a Redis or a Valkey, with one connection and no retries of the client's own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias
from urllib.parse import urlsplit

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    AuthenticationWrongNumberOfArgsError,
    AuthorizationError,
    ConnectionError as LostConnectionError,
    NoPermissionError,
    RedisError,
    ResponseError,
    TimeoutError as NoAnswerError,
)
from redis.retry import Retry

from harken.forward.target import RefusedError, UnavailableError

Word: TypeAlias = str | bytes | int
"""A part of a command."""

Reply: TypeAlias = Any
"""What a server answers: bytes, a number, None, an error, or a list of these."""

_CANNOT = (
    AuthenticationError,
    AuthenticationWrongNumberOfArgsError,
    AuthorizationError,
    NoPermissionError,
)


def address_of(url: str, what: str) -> str:
    """
    Return *url* as it may be shown, without user and password, and *what* is meant there, if
    anything.
    """
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}{what and f'#{what}'}"


class Server:
    """
    One connection to the server at *url*; every error is one of ours.

    Args:
        url: Such as ``redis://user:password@host:6379/0``, ``rediss://`` or ``unix://``.

        timeout: Seconds to wait for an answer.
    """

    def __init__(self, url: str, *, timeout: float = 5.0) -> None:
        self.url = url
        parts = urlsplit(url)
        if parts.scheme != "unix" and parts.path.strip("/") and not parts.path[1:].isdecimal():
            raise RefusedError(
                f"{address_of(url, '')} names no database; it is a number, such as 0"
            )
        # Before its version 6 the client takes a certificate of anybody.
        options: dict[str, Any] = {}
        if url.startswith("rediss://"):
            options["ssl_check_hostname"] = True
        try:
            # What the client would try again would be in the stream twice.
            self._client = Redis.from_url(
                url,
                retry=Retry(NoBackoff(), 0),
                socket_timeout=timeout,
                socket_connect_timeout=timeout,
                protocol=2,
                **options,
            )
        except ValueError as error:
            raise RefusedError(f"{address_of(url, '')} is no address: {error}") from error
        self._connection: Any = None

    def call(self, *words: Word) -> Reply:
        """
        Return the answer to one command.

        Raises:
            UnavailableError: There is none, or it is an error that may pass.

            RefusedError: It is an error that will not pass.

            ResponseError: It is another error.
        """
        (reply,) = self.converse((pack(words),), 1)
        if isinstance(reply, Exception):
            raise reply
        return reply

    def converse(self, packed: Iterable[bytes], count: int) -> list[Reply]:
        """
        Send commands at once, and return their *count* answers; errors are among them.
        """
        try:
            if self._connection is None:
                self._connection = self._client.connection_pool.get_connection()
            connection = self._connection
            connection.send_packed_command([b"".join(packed)])
            return [_checked(_read(connection)) for _ in range(count)]
        except RedisError as error:
            # What was not read would be taken for the answer to the next command.
            self.close()
            raise translated(error, self.url) from error
        except (RefusedError, UnavailableError):
            self.close()
            raise

    def transact(self, packed: Sequence[bytes], address: str) -> list[Reply]:
        """
        Have commands executed together or not at all, and return what each said.

        Args:
            address: What the server is called where it refuses them.

        Raises:
            UnavailableError: They were refused, one failed, or what was watched has changed.
        """
        replies = self.converse((pack(("MULTI",)), *packed, pack(("EXEC",))), len(packed) + 2)
        stored: list[Reply] | None = replies[-1] if isinstance(replies[-1], list) else None
        if stored is None:
            refused = next((one for one in replies if isinstance(one, Exception)), "out of step")
            raise UnavailableError(f"{address} takes nothing: {refused}")
        for one in stored:
            if isinstance(one, Exception):
                # Somebody else has written; what is there is asked when it is opened anew.
                raise UnavailableError(f"{address} is out of step: {one}")
        return stored

    def close(self) -> None:
        """
        Let go of the connection; it is made anew with the next command.
        """
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.disconnect()
            self._client.connection_pool.release(connection)


def _read(connection: Any) -> Reply:
    try:
        return connection.read_response()
    except _CANNOT:
        raise
    except ResponseError as error:
        return error


def _checked(reply: Reply) -> Reply:
    if isinstance(reply, ResponseError) and str(reply).startswith("WRONGTYPE"):
        raise RefusedError(f"the key is no stream: {reply}; choose another one")
    return reply


def translated(error: Exception, url: str) -> RefusedError | UnavailableError:
    """
    Return what *error* of the client means for forwarding.
    """
    address = address_of(url, "")
    if isinstance(error, _CANNOT):
        return RefusedError(f"{address} refuses: {error}; check user, password and permissions")
    if isinstance(error, NoAnswerError):
        return UnavailableError(f"{address} does not answer: {error}")
    if isinstance(error, LostConnectionError):
        return UnavailableError(f"{address} cannot be reached: {error}")
    return UnavailableError(f"{address} takes nothing: {error}")


def pack(words: Sequence[Word]) -> bytes:
    """
    Return a command as it goes over the wire.
    """
    parts = [b"*%d\r\n" % len(words)]
    for word in words:
        text = word if isinstance(word, bytes) else str(word).encode()
        parts.append(b"$%d\r\n%b\r\n" % (len(text), text))
    return b"".join(parts)


def pairs(flat: Sequence[Reply] | None) -> Mapping[bytes, Reply]:
    """
    Return the mapping that a server gives as a list of names and values.
    """
    flat = flat or ()
    return dict(zip(flat[::2], flat[1::2], strict=False))
