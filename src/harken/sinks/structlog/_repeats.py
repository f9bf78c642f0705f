"""
Lines that say the same: so many are written within a minute, and the others are counted.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Hashable, Mapping
from typing import NamedTuple

from harken import JSON
from harken.errors import SettingsError

PERIOD_NS = 60_000_000_000
"""Nanoseconds for which lines are compared, from the first of them on."""

MAX_COMPARED = 4096
"""Lines that are remembered at once; beyond, the oldest is forgotten before its time."""

MAX_TEXT = 1024
"""Characters of a message that are compared, and said again."""


class Repeated(NamedTuple):
    """
    What was not written.

    Attributes:
        fields: What all of it has in common: redacted, and without a time.
    """

    times: int
    fields: Mapping[str, JSON]


class _Period:
    """
    What came of one line since it was written first.
    """

    __slots__ = ("began_ns", "fields", "suppressed", "written")

    def __init__(self, began_ns: int) -> None:
        self.began_ns = began_ns
        self.written = 0
        self.suppressed = 0
        self.fields: Mapping[str, JSON] = {}


class Repeats:
    """
    Decides which lines are written. Safe from any thread; a forked child begins anew.

    Args:
        most: How many that say the same, within a minute.

    Attributes:
        suppressed: How many were not written so far.

    Raises:
        SettingsError: *most* is not positive.
    """

    def __init__(self, most: int) -> None:
        if most < 1:
            raise SettingsError(f"max_repeats {most} would write no line; choose 1 or more")
        self.suppressed = 0
        self._most = most
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        # Re-entrant: a signal handler that logs may interrupt a log call.
        self._lock = threading.RLock()
        # In the order in which they began, which is also that in which they end.
        self._periods: dict[Hashable, _Period] = {}

    def admits(self, said: Hashable, describe: Callable[[], Mapping[str, JSON]]) -> bool:
        """
        Return whether a line is to be written; else it is counted.

        Args:
            said: Equal for lines that say the same.

            describe: Called for the first line that is not written; returns `Repeated.fields`.
        """
        with self._held():
            period = self._periods.get(said)
            if period is None:
                period = self._periods[said] = _Period(time.monotonic_ns())
            if period.written < self._most:
                period.written += 1
                return True
            if not period.suppressed:
                period.fields = describe()
            period.suppressed += 1
            self.suppressed += 1
            return False

    def over(self, *, at_once: bool = False) -> list[Repeated]:
        """
        Forget the lines whose minute is over, and return what was not written of them.

        Args:
            at_once: Whether to take every minute for over.
        """
        ended_ns = time.monotonic_ns() - PERIOD_NS
        ended: list[Repeated] = []
        with self._held():
            while self._periods:
                said, period = next(iter(self._periods.items()))
                crowded = len(self._periods) > MAX_COMPARED
                if period.began_ns > ended_ns and not crowded and not at_once:
                    break
                del self._periods[said]
                if period.suppressed:
                    ended.append(Repeated(period.suppressed, period.fields))
        return ended

    def _held(self) -> threading.RLock:
        # The parent says what it has suppressed; and another of its threads may hold its lock.
        if self._pid != os.getpid():
            self._begin()
        return self._lock
