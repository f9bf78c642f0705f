"""
The file that says how far a log was forwarded, and which process forwards it.
"""

from __future__ import annotations

import os
import sys
import weakref
from pathlib import Path

import msgspec

from harken.forward.target import ForwardError
from harken.forward.wire import Position

if sys.platform != "win32":
    import fcntl

_MODE = 0o600


class BusyError(ForwardError):
    """
    Another process forwards this log already.
    """


class Kept(msgspec.Struct, frozen=True):
    """
    What a cursor file holds.

    Attributes:
        target: Where the log was forwarded to.

        source: What it is called there.

        position: The last line that is known to be there.
    """

    target: str
    source: str
    position: Position


class CursorFile:
    """
    A cursor file: whole at any time, and written by one process at a time.

    It tells what may be deleted, and that a stream was lost. Where forwarding goes on is what the
    stream itself says, so that a lost cursor costs nothing.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._lock: int | None = None
        _all.add(self)

    def acquire(self) -> None:
        """
        Keep other processes from forwarding this log.

        Raises:
            BusyError: One of them does.
        """
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0)
        fd = os.open(f"{self.path}.lock", flags, _MODE)
        if sys.platform != "win32":
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                os.close(fd)
                raise BusyError(
                    f"another process holds {self.path}.lock and forwards this log; stop it first"
                ) from error
        self._lock = fd

    def release(self) -> None:
        """
        Let others; twice is allowed.
        """
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def read(self) -> Kept | None:
        """
        Return what is kept; None when there is nothing that can be read.
        """
        try:
            return msgspec.json.decode(self.path.read_bytes(), type=Kept)
        except (FileNotFoundError, msgspec.DecodeError):
            return None

    def write(self, kept: Kept) -> None:
        """
        Keep it, on the disk.
        """
        new = f"{self.path}.new"
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, _MODE)
        try:
            os.write(fd, msgspec.json.encode(kept) + b"\n")
            os.fsync(fd)
        finally:
            os.close(fd)
        os.replace(new, self.path)
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


_all: weakref.WeakSet[CursorFile] = weakref.WeakSet()


def _let_go() -> None:
    # A lock is held as long as any process has it open; whoever forwards is the parent.
    for cursor in tuple(_all):
        cursor.release()


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_let_go)
