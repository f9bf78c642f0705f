"""
A thread that calls now and then.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from weakref import WeakMethod


class Beat:
    """
    Calls a method every so many seconds, from a thread that is begun on demand.

    The method's object is not kept alive; once it is gone, or the interpreter exits, so is the
    thread.

    Args:
        call: A bound method. What it raises ends the thread.
    """

    def __init__(self, call: Callable[[], None], seconds: float) -> None:
        self._call = WeakMethod(call)
        self._seconds = seconds
        self._stopped = threading.Event()
        self._started = False

    def start(self) -> None:
        """
        Begin, unless that was done before. The first call comes after *seconds*.
        """
        if self._started:
            return
        self._started = True
        thread = threading.Thread(target=self._run, name="harken-audit-checkpoint", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            # The interpreter is shutting down and starts no threads any more.
            self._stopped.set()

    def stop(self) -> None:
        """
        Make no call any more; one that is being made is not waited for.
        """
        self._stopped.set()

    def _run(self) -> None:
        while not self._stopped.wait(self._seconds):
            call = self._call()
            if call is None:
                return
            call()
            del call
