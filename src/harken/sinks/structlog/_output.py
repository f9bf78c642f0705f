"""
Where log lines go: a stream that somebody else owns, or a file of our own.
"""

from __future__ import annotations

import os
import sys
import threading
from typing import Protocol, TextIO

from harken.errors import SettingsError


class Output(Protocol):
    """
    A place for log lines.
    """

    def coloured(self) -> bool:
        """
        Return whether ANSI escapes would be understood and are welcome.
        """
        ...

    def write(self, text: str) -> None:
        """
        Write whole lines.
        """
        ...

    def close(self) -> None:
        """
        Let go of what was opened here.
        """
        ...

    def after_fork(self) -> None:
        """
        Get ready in a forked child.
        """
        ...


class StreamOutput:
    """
    Writes to a text stream, and leaves it open.

    Args:
        stream: None means ``sys.stderr`` as it is at the time of each write.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream

    def coloured(self) -> bool:
        """
        Return whether ANSI escapes would be understood and are welcome.
        """
        stream = self._target()
        return (
            stream is not None
            and stream.isatty()
            and not os.environ.get("NO_COLOR")
            and os.environ.get("TERM") != "dumb"
        )

    def write(self, text: str) -> None:
        """
        Write whole lines in one call, and flush.

        Raises:
            OSError: The stream cannot be written.

            ValueError: The stream is closed.
        """
        stream = self._target()
        # Without a console (pythonw, a daemon) there is no stderr, and nobody to miss the lines.
        if stream is None:
            return
        try:
            stream.write(text)
        except UnicodeEncodeError:
            stream.write(text.encode("ascii", "backslashreplace").decode())
        stream.flush()

    def close(self) -> None:
        """
        Do nothing: the stream is not ours.
        """

    def after_fork(self) -> None:
        """
        Do nothing: nothing is held between writes.
        """

    def _target(self) -> TextIO | None:
        return sys.stderr if self._stream is None else self._stream


class FileOutput:
    """
    Appends to a file, made with mode 0600, and follows it when it is rotated.

    When the name leads to another file than the open one (``logrotate`` renamed it), the next
    write opens the name anew. Several processes may append to one file.

    Args:
        path: The file; its folder must exist.

    Raises:
        SettingsError: The file cannot be opened.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = os.fspath(path)
        self._lock = threading.Lock()
        self._torn = False
        self._closed = False
        try:
            self._fd, self._file = self._open()
        except OSError as error:
            raise SettingsError(
                f"cannot log to {self._path}: {error.strerror}; make the folder, or choose "
                "another log_path"
            ) from error

    def coloured(self) -> bool:
        """
        Return False: a file is no terminal.
        """
        return False

    def write(self, text: str) -> None:
        """
        Append whole lines in UTF-8, as a rule in one system call.

        Raises:
            OSError: The file cannot be written; a line may be cut off there. The next write
                begins on a line of its own.

            ValueError: It was closed.
        """
        with self._lock:
            if self._closed:
                raise ValueError(f"cannot log to {self._path}: it was closed")
            self._follow()
            rest = memoryview(f"\n{text}".encode() if self._torn else text.encode())
            while rest:
                written = os.write(self._fd, rest)
                self._torn = rest[written - 1] != 0x0A
                rest = rest[written:]

    def close(self) -> None:
        """
        Close the file. Twice is allowed.
        """
        with self._lock:
            if not self._closed:
                self._closed = True
                os.close(self._fd)

    def after_fork(self) -> None:
        """
        Make a lock of this process's own: another thread may have held it in the parent.
        """
        self._lock = threading.Lock()

    def _open(self) -> tuple[int, tuple[int, int]]:
        """
        Return a descriptor, and which file it stands for: device and inode.
        """
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
        # Python itself sees to it that no child inherits the file; Windows knows text files.
        fd = os.open(self._path, flags | getattr(os, "O_BINARY", 0), 0o600)
        opened = os.fstat(fd)
        return fd, (opened.st_dev, opened.st_ino)

    def _follow(self) -> None:
        try:
            named = os.stat(self._path)
        except FileNotFoundError:
            named = None
        if named is None or (named.st_dev, named.st_ino) != self._file:
            fresh, file = self._open()
            os.close(self._fd)
            self._fd, self._file = fresh, file
            self._torn = False
