"""
Group commit: one thread syncs for however many wait.
"""

from __future__ import annotations

import threading
from collections.abc import Callable


class _Round:
    def __init__(self) -> None:
        self.done = threading.Event()
        self.error: OSError | None = None


class GroupSync:
    """
    Lets threads wait for a sync that began after they had written; many share one.

    A sync that failed has failed for all who waited for it. It is not repeated: the system marks
    what it could not write as clean, so that a second attempt would succeed without the data.

    Args:
        sync: Makes what was written so far durable, or raises OSError.
    """

    def __init__(self, sync: Callable[[], None]) -> None:
        self._sync = sync
        self._wanted = threading.Condition()
        self._next: _Round | None = None
        self._thread: threading.Thread | None = None
        self._stop = False

    def wait(self) -> None:
        """
        Return once a sync that began after this call is done.

        Raises:
            OSError: It failed: what was written may be lost with the power.
        """
        with self._wanted:
            mine = self._next
            if mine is None:
                mine = self._next = _Round()
                if self._thread is None:
                    self._start()
                self._wanted.notify()
        mine.done.wait()
        if mine.error is not None:
            raise mine.error

    def stop(self) -> None:
        """
        End the thread, after it has served those who wait already.
        """
        with self._wanted:
            self._stop = True
            self._wanted.notify()
            thread = self._thread
        if thread is not None:
            thread.join()

    def _start(self) -> None:
        thread = threading.Thread(target=self._run, name="harken-audit-sync", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            # The interpreter is shutting down and starts no threads any more.
            self._serve()
        else:
            self._thread = thread

    def _run(self) -> None:
        while True:
            with self._wanted:
                self._wanted.wait_for(lambda: self._next is not None or self._stop)
                if self._next is None:
                    return
            self._serve()

    def _serve(self) -> None:
        with self._wanted:
            current, self._next = self._next, None
        assert current is not None
        try:
            self._sync()
        except OSError as error:
            current.error = error
        finally:
            current.done.set()
