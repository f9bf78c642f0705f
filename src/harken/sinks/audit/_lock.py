"""
The lock of an audit file, among processes and among descriptors of one process.
"""

from __future__ import annotations

import errno
import fcntl
import time

_FIRST_PAUSE = 0.00005
_LONGEST_PAUSE = 0.002


def lock(fd: int, patience: float) -> None:
    """
    Take the lock, waiting for at most *patience* seconds.

    It belongs to the open file: other descriptors made by `os.dup()` and by fork share it, and
    closing an unrelated descriptor of the same file does not lose it, as POSIX locks are lost.

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
