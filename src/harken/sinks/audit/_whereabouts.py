"""
Whether the file that is open is still the one at its path, and how large it is by now.
"""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress

from harken.sinks.audit._descriptor import identity

# For so long, on the monotonic clock, a path leads where it led, unless its folder changes.
_TRUSTED_NS = 10_000_000

# Two changes of a folder within one tick of the system's clock, at most 10 ms, can bear one time.
_TICK_NS = 20_000_000

# Where the system has a way to say that nothing but its times is wanted, the folder need not be
# readable.
_ONLY_TIMES = os.O_PATH if sys.platform == "linux" else os.O_RDONLY
_FOLDER_FLAGS = os.O_DIRECTORY | os.O_CLOEXEC | _ONLY_TIMES


class Whereabouts:
    """
    Knows where a path leads without looking at it each time.

    A look at the path is the dearest thing that a record asks of the system: it has to be walked
    down, and on Linux since 6.13 whoever asks a file for its times makes the next write to it note
    the time anew, in the inode. But no file can be renamed, replaced or deleted without changing
    its folder, no folder be renamed without being changed itself, and each change gives the folder
    a time that it did not have before. So the path is looked at when its folder has changed; and
    every 10 ms, because only that shows a folder further up that was moved, a link on the way
    that was turned, or a file system that was mounted over it.

    Args:
        path: Absolute.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._fd = -1
        # Device and inode of the file, and of its folder.
        self._file: tuple[int, int] | None = None
        self._folder_fd = -1
        self._folder: tuple[int, int] | None = None
        # When the folder had last changed at our last look, and until when that look counts.
        self._changed_ns = 0
        self._trusted_until_ns = 0

    def begin(self, fd: int, found: os.stat_result) -> None:
        """
        Follow *fd* from now on, which is *found*, instead of what was followed before.
        """
        self.end()
        self._fd = fd
        self._file = found.st_dev, found.st_ino

    def end(self) -> None:
        """
        Follow nothing.
        """
        folder_fd, self._folder_fd = self._folder_fd, -1
        self._trusted_until_ns = 0
        self._fd = -1
        self._file = None
        if folder_fd >= 0 and identity(folder_fd) == self._folder:
            with suppress(OSError):
                os.close(folder_fd)

    def holds(self) -> bool:
        """
        Return whether the descriptor is still that of the file, and not somebody else's.
        """
        return self._file is not None and identity(self._fd) == self._file

    def is_at_path(self) -> bool:
        """
        Return whether the path leads to the file at this moment.
        """
        return self._found() is not None

    def distrust(self) -> None:
        """
        Look at the path itself the next time.
        """
        self._trusted_until_ns = 0

    def size(self, known: int, now_ns: int) -> int | None:
        """
        Return how many bytes the file has; None when the path or the descriptor leads elsewhere by
        now, or nowhere.

        Args:
            known: How many it had.

            now_ns: On the monotonic clock.
        """
        try:
            if (
                now_ns < self._trusted_until_ns
                and self._folder_changed_ns() == self._changed_ns
                and os.lseek(self._fd, 0, os.SEEK_END) == known
            ):
                return known
        except OSError:
            # The number may be that of a socket by now.
            pass
        self._trusted_until_ns = 0
        if not self.holds():
            return None
        if identity(self._folder_fd) != self._folder:
            self._folder_fd = -1
        changed_ns = self._folder_changed_ns()
        found = self._found()
        if found is None:
            return None
        # A file system that counts no finer than milliseconds gives many changes one time.
        if changed_ns % 1_000_000 and time.time_ns() - changed_ns > _TICK_NS:
            self._changed_ns = changed_ns
            self._trusted_until_ns = now_ns + _TRUSTED_NS
        return found.st_size

    def _found(self) -> os.stat_result | None:
        try:
            found = os.lstat(self._path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        return found if (found.st_dev, found.st_ino) == self._file else None

    def _folder_changed_ns(self) -> int:
        """
        Return when the folder last changed; 0 when it does not say, and is not to be trusted.
        """
        try:
            if self._folder_fd < 0:
                self._folder_fd = os.open(os.path.dirname(self._path), _FOLDER_FLAGS)
                self._folder = identity(self._folder_fd)
            return os.fstat(self._folder_fd).st_ctime_ns
        except OSError:
            # Somebody may have closed what is not theirs, and have that number now.
            self._folder_fd = -1
            return 0
