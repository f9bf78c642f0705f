"""
What is done with the descriptor of an audit file: lock, write, sync, let go.
"""

from __future__ import annotations

import errno
import fcntl
import os
import sys
import time
from contextlib import suppress

if sys.platform == "darwin":

    def sync_data(fd: int) -> None:
        """
        Return once the disk itself has confirmed what was written.
        """
        fcntl.fcntl(fd, fcntl.F_FULLFSYNC)

else:
    sync_data = os.fdatasync

# Seconds between two looks at a lock that somebody else holds. Shorter ones let processes take
# turns with every record, and whoever finds records of others at the end has to read them.
_FIRST_PAUSE = 0.001
_LONGEST_PAUSE = 0.005


def lock(fd: int, patience: float) -> None:
    """
    Take the lock, waiting for at most *patience* seconds.

    It belongs to the open file: descriptors made by `os.dup()` and by fork share it. Closing
    another descriptor of the same file does not lose it, as POSIX locks are lost.

    Raises:
        TimeoutError: Somebody else held it all the time.
    """
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        _wait(fd, patience)


def unlock(fd: int) -> None:
    """
    Let the lock go; harmless when it is not held.
    """
    fcntl.flock(fd, fcntl.LOCK_UN)


def let_go(fd: int) -> None:
    """
    Close *fd*, and let its lock go: a duplicate that is being synced would keep it.
    """
    with suppress(OSError):
        unlock(fd)
    with suppress(OSError):
        os.close(fd)


def identity(fd: int) -> tuple[int, int] | None:
    """
    Return which file *fd* is open on, as its device and inode; None when it is closed.

    Code that closes descriptors which are not its own leaves their numbers to what is opened next.
    """
    try:
        found = os.fstat(fd)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def write_all(fd: int, data: bytes) -> tuple[int, OSError | None]:
    """
    Write *data*.

    Returns:
        How many bytes were written, and what stopped the others.
    """
    done = 0
    try:
        while done < len(data):
            done += os.write(fd, data[done:] if done else data)
    except OSError as error:
        return done, error
    return done, None


def _wait(fd: int, patience: float) -> None:
    deadline = time.monotonic() + patience
    pause = _FIRST_PAUSE
    while True:
        time.sleep(pause)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise TimeoutError(
                    errno.ETIMEDOUT, f"the lock was not free within {patience:g} s"
                ) from None
            pause = min(2 * pause, _LONGEST_PAUSE)
        else:
            return
