"""
What readers of transcripts share: the clock of the transcript, and one run after the other.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import harken
from harken import Bus, Clock
from harken.adapters.stream import RunRecorder
from harken.catalog import ErrorRaised

Message = Mapping[str, Any]


class TranscriptClock(Clock):
    """
    A clock that stands at the time of the message that is read, and goes on when it has none.

    Make the bus with it, so that events have the time at which they happened.
    """

    def __init__(self) -> None:
        self._now_ns: int | None = None
        self.time_ns: Callable[[], int] = self._time_ns
        self.monotonic_ns: Callable[[], int] = self._time_ns

    def _time_ns(self) -> int:
        return time.time_ns() if self._now_ns is None else self._now_ns

    def set(self, moment: datetime | int | None) -> None:
        """
        Stand at *moment*, aware or in nanoseconds since 1970-01-01 UTC; None changes nothing.
        """
        if isinstance(moment, datetime):
            moment = nanoseconds(moment)
        if moment is not None:
            # It never goes back: durations would be negative.
            self._now_ns = max(moment, self._now_ns or 0)


def moment_of(text: object) -> datetime | None:
    """
    Return the time that *text* says in RFC 3339, in UTC where it names no zone; None for no time.
    """
    if not isinstance(text, str):
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


def nanoseconds(moment: datetime) -> int:
    """
    Return the nanoseconds from 1970-01-01 UTC to *moment*, which is aware.
    """
    # timestamp() is a float and too coarse for microseconds; its whole seconds are exact.
    seconds = int(moment.replace(microsecond=0).timestamp())
    return seconds * 1_000_000_000 + moment.microsecond * 1000


def items(value: object) -> list[dict[str, Any]]:
    """
    Return the objects of a list; nothing when it is none.
    """
    found = value if isinstance(value, list) else []
    return [item for item in found if isinstance(item, dict)]


def member(message: Message, name: str) -> dict[str, Any]:
    """
    Return the object called *name*; an empty one when there is none.
    """
    found = message.get(name)
    return found if isinstance(found, dict) else {}


def number(message: Message, name: str) -> int:
    """
    Return the count called *name*; 0 when there is none.
    """
    found = message.get(name)
    return found if isinstance(found, int) else 0


class Runs:
    """
    The runs of one transcript of a session, one after the other.

    Args:
        source: The program whose transcript it is.

        provider: Whose models it uses.
    """

    def __init__(self, bus: Bus, *, source: str, provider: str) -> None:
        self._bus = bus
        self._source = source
        self._provider = provider
        self._recorder: RunRecorder | None = None
        self.session_id: str | None = None

    @property
    def is_open(self) -> bool:
        """
        Whether a run is not over.
        """
        return self._recorder is not None

    def recorder(self, **started: Any) -> RunRecorder:
        """
        Return the recorder of the run that goes on; begin one when none does.
        """
        if self._recorder is None:
            # Which phase of a task it was, a transcript does not say.
            recorder = RunRecorder(
                self._bus, provider=self._provider, source=self._source, phase=None, **started
            )
            actor = harken.current_context().get("actor", f"agent:{self._source}")
            with harken.scope(session_id=self.session_id, actor=actor):
                self._recorder = recorder.open()
        return self._recorder

    def end(self, error: BaseException | None = None) -> None:
        """
        End the run that goes on, if one does: without a result nobody knows how.
        """
        recorder, self._recorder = self._recorder, None
        if recorder is not None:
            recorder.close(error)

    def malformed(self, line: int) -> None:
        """
        Put a line that is no message on the record.
        """
        event = ErrorRaised(
            component="transcript",
            error_type="MalformedLine",
            error_message=f"line {line} is no JSON object",
            handled=True,
        )
        if self._recorder is None:
            self._bus.publish(event)
        else:
            self._recorder.publish(event)
