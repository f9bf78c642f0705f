"""
Group commit: one thread syncs for however many wait.
"""

from __future__ import annotations

import threading
from collections.abc import Callable


class GroupSync:
    """
    Lets threads wait for a sync that began after they had written; many share one.

    Args:
        sync: Makes what was written so far durable. It is called by one thread at a time, and
            must not raise.
    """

    def __init__(self, sync: Callable[[], None]) -> None:
        self._sync = sync
        self._wanted = threading.Condition()
        # Set once the sync that has not begun yet is done; None when nobody waits for one.
        self._next: threading.Event | None = None
        self._thread: threading.Thread | None = None
        self._stopped = False

    def wait(self) -> None:
        """
        Return once a sync that began after this call is done.
        """
        with self._wanted:
            done = self._next
            if done is None:
                done = self._next = threading.Event()
                if self._thread is None:
                    self._start()
                self._wanted.notify()
        done.wait()

    def stop(self, timeout: float) -> None:
        """
        End the thread, after it has served those who wait already. Who waits later, syncs.

        Args:
            timeout: How long to wait for a disk that does not answer, in seconds.
        """
        with self._wanted:
            self._stopped = True
            self._wanted.notify()
            thread, self._thread = self._thread, None
        if thread is not None:
            thread.join(timeout)

    def _start(self) -> None:
        thread = threading.Thread(target=self._run, name="harken-audit-sync", daemon=True)
        try:
            if not self._stopped:
                thread.start()
                self._thread = thread
                return
        except RuntimeError:
            # The interpreter is shutting down and starts no threads any more.
            self._stopped = True
        self._serve()

    def _run(self) -> None:
        while True:
            with self._wanted:
                self._wanted.wait_for(lambda: self._next is not None or self._stopped)
                if self._next is None:
                    return
            self._serve()

    def _serve(self) -> None:
        with self._wanted:
            done, self._next = self._next, None
        assert done is not None
        self._sync()
        done.set()
