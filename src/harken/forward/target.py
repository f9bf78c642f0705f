"""
Where a log is forwarded to: what a target can do, and what it says when it cannot.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from harken.errors import HarkenError
from harken.forward.wire import Message, Position


class ForwardError(HarkenError):
    """
    A log cannot be forwarded, or what was forwarded cannot be read; the message says what to do.
    """


class UnavailableError(ForwardError):
    """
    The engine did not answer, or cannot take more just now; it is tried again.
    """


class RefusedError(ForwardError):
    """
    The engine will not have it, however often it is tried: a wrong address, password or type.
    """


class PoisonError(ForwardError):
    """
    One message will never be taken; all others may.

    Attributes:
        accepted: How many messages before it are in the stream.
    """

    def __init__(self, message: str, accepted: int) -> None:
        super().__init__(message)
        self.accepted = accepted


class Stored(NamedTuple):
    """
    One line that is in a stream.

    Attributes:
        source: The log that it came from.

        name: What its position is called; see `Position.parse()`.

        line: The record, letter for letter.
    """

    source: str
    name: str
    line: bytes


class StreamTarget(Protocol):
    """
    A stream of an existing engine. It is used by one thread at a time, and may block.

    `open()`, `send()` and `close()` are called in this order, again and again: after each error
    the target is closed and opened anew.
    """

    @property
    def max_batch(self) -> int:
        """
        How many messages `send()` takes at once.
        """
        ...

    @property
    def address(self) -> str:
        """
        Where it is, without a password; for people.
        """
        ...

    def open(self, source: str, /) -> Position | None:
        """
        Connect, and return the last message of *source* that the stream has ever held.

        That is where forwarding goes on, whatever happened before: None sends the whole log.

        Raises:
            UnavailableError: It cannot be reached just now.

            RefusedError: It never will.
        """
        ...

    def send(self, batch: Sequence[Message], /) -> int:
        """
        Append the messages in their order; return how many of them, from the first on, are stored.

        Raises:
            UnavailableError: Nobody knows how many of them are stored.

            RefusedError: None is, and none ever will be.

            PoisonError: One of them never will be.
        """
        ...

    def close(self) -> None:
        """
        Let go of the connection; twice is allowed.
        """
        ...
