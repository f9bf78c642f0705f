"""
Signals that end a command: they raise, so that whatever runs is left in order.
"""

from __future__ import annotations

import atexit
import signal
import threading
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any

KILLED = 128
"""The exit code of a command that a signal ended is this plus the signal's number."""


def _ignore() -> None:
    """
    Let nothing change the exit code of a process that is about to end, as it is on record.
    """
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        if signal.getsignal(number) in {signal.SIG_DFL, signal.default_int_handler}:
            signal.signal(number, signal.SIG_IGN)


class Endings:
    """
    Turns SIGTERM and SIGHUP into `SystemExit`, where nobody else handles them.

    From the call of *last* on, which calls `hold()`, they and SIGINT do nothing: the exit code is
    settled by then.
    """

    def __init__(self, last: CodeType) -> None:
        self._held = False
        self._last = last
        self._before: dict[int, Any] = {}

    def begin(self) -> None:
        """
        Handle signals from now on; outside of the main thread, which alone can, do nothing.
        """
        if threading.current_thread() is not threading.main_thread():
            return
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is signal.SIG_DFL:
                self._handle(number, self._leave)
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            self._handle(signal.SIGINT, self._interrupt)

    def hold(self) -> None:
        """
        Let nothing interrupt what follows.
        """
        self._held = True

    def end(self) -> None:
        """
        Put back the handlers from before, but for those that were replaced since.
        """
        for number, (ours, before) in self._before.items():
            if signal.getsignal(number) == ours:
                signal.signal(number, before)
        if self._before:
            # What the interpreter does at its end takes a while.
            atexit.unregister(_ignore)
            atexit.register(_ignore)

    def _handle(self, number: int, handler: Callable[[int, FrameType | None], None]) -> None:
        self._before[number] = (handler, signal.signal(number, handler))

    def _leave(self, number: int, frame: FrameType | None) -> None:
        if not self._is_too_late(frame):
            raise SystemExit(KILLED + number)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if not self._is_too_late(frame):
            raise KeyboardInterrupt

    def _is_too_late(self, frame: FrameType | None) -> bool:
        # A signal may come when *last* is called and has done nothing yet.
        while frame is not None and not self._held:
            if frame.f_code is self._last:
                return True
            frame = frame.f_back
        return self._held
