"""
The fields of a log line and how severe an event is; shared by events and by log calls.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import Literal, TypeAlias, get_args

from harken import JSON, Envelope, Event, EventType, Outcome
from harken.errors import SettingsError

Format: TypeAlias = Literal["json", "text", "ecs"]

SCHEMA = "harken.log/1"

TIMESTAMP = "timestamp"
LEVEL = "level"
SEVERITY_NUMBER = "severity_number"
MESSAGE = "message"
LOGGER = "logger"
ERROR_TYPE = "error.type"
EXCEPTION = "exception"
STACK = "stack"
DATA = "data"
SUPPRESSED = "suppressed"
SERVICE_NAME = "service.name"
SCHEMA_FIELD = "schema"

OWN = frozenset(
    (
        TIMESTAMP,
        LEVEL,
        SEVERITY_NUMBER,
        MESSAGE,
        LOGGER,
        ERROR_TYPE,
        EXCEPTION,
        STACK,
        DATA,
        SERVICE_NAME,
        SCHEMA_FIELD,
    )
)
"""Fields whose meaning is fixed; what a caller gives under such a name stands in ``data``."""

LEVELS: Mapping[str, int] = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "critical": logging.CRITICAL,
}

OFF = logging.CRITICAL + 1

LEVEL_OF_OUTCOME: Mapping[Outcome, str] = {
    Outcome.failure: "error",
    Outcome.timeout: "error",
    Outcome.orphaned: "error",
    Outcome.denied: "warning",
    Outcome.cancelled: "warning",
}

LEVEL_OF_EVENT: Mapping[str, str] = {
    "agent.escalated": "warning",
    "approval.expired": "warning",
    "budget.exceeded": "error",
    "budget.warning": "warning",
    "context.queried": "debug",
    "error.raised": "error",
    "forward.measured": "debug",
    "guard.evaluated": "debug",
    "guard.violated": "warning",
    "harken.events_dropped": "error",
    "harken.scope_orphaned": "warning",
    "harken.sink_failed": "error",
    "human_input.timed_out": "warning",
    "invariant.enforced": "debug",
    "invariant.reconciled": "debug",
    "invariant.violated": "error",
    "llm.chunk": "debug",
    "llm.retried": "warning",
    "mcp.tools_changed": "warning",
    "memory.read": "debug",
    "message.added": "debug",
    "rate_limit.hit": "warning",
    "resource.accessed": "debug",
    "sandbox.rolled_back": "warning",
    "tool.retried": "warning",
}
"""Events that are more or less than ``info`` whatever came of them; see `level_of()`."""

QUIET = frozenset(("llm.chunk",))
"""Events that are logged only where their very name was asked for."""


_UNSAID = frozenset((Outcome.success, Outcome.unknown))


def level_of(info: EventType, outcome: Outcome | None) -> str:
    """
    Return how severe an event is: the worse of what its type and its outcome say.

    A start that no table names is ``info`` when its type is audited and ``debug`` otherwise: it
    says little that its end does not say again.
    """
    usual = "debug" if outcome is None and info.is_start and not info.audit else "info"
    by_type = LEVEL_OF_EVENT.get(info.name, usual)
    by_outcome = by_type if outcome is None else LEVEL_OF_OUTCOME.get(outcome, by_type)
    return max(by_type, by_outcome, key=LEVELS.__getitem__)


def severity_number(level: int) -> int:
    """
    Return OpenTelemetry's severity number (1 to 24) of a level of `logging`.
    """
    if level < logging.DEBUG:
        return 1
    tens, units = divmod(min(level, 59), 10)
    return 4 * tens + 1 + min(units, 3)


def level_number(level: str | int) -> int:
    """
    Return the number that `logging` has for *level*, in upper or lower case; ``off`` is above all.

    Raises:
        SettingsError: There is no such level.
    """
    if isinstance(level, int):
        return level
    number = {**logging.getLevelNamesMapping(), "OFF": OFF}.get(level.upper())
    if number is None:
        raise SettingsError(f"log level {level!r} is unknown; use one of {', '.join(LEVELS)}, off")
    return number


def check_format(format: str) -> None:
    """
    Refuse a format that there is not.

    Raises:
        SettingsError: It is unknown.
    """
    if format not in get_args(Format):
        raise SettingsError(
            f"log format {format!r} is unknown; use one of {', '.join(get_args(Format))}"
        )


class Thresholds:
    """
    From which level on an event is logged, by the event's name.

    Args:
        level: For every event that no pattern matches.

        levels:
            From names or patterns to levels, or ``off``. An exact name counts before a pattern,
            and a longer pattern before a shorter one.

    Raises:
        SettingsError: There is no such level.
    """

    def __init__(self, level: str, levels: Mapping[str, str]) -> None:
        self._level = level_number(level)
        self._levels = {
            pattern: level_number(levels[pattern])
            for pattern in sorted(levels, key=len, reverse=True)
        }

    def __call__(self, name: str) -> int:
        if name in self._levels:
            return self._levels[name]
        if name in QUIET:
            return OFF
        for pattern, threshold in self._levels.items():
            if fnmatchcase(name, pattern):
                return threshold
        return self._level


def message_of(envelope: Envelope[Event], resource: str) -> str:
    """
    Return a short sentence: what happened, to what, and how it ended when it did not go well.
    """
    text = envelope.name.replace(".", " ").replace("_", " ")
    if resource != "unknown":
        text += f": {resource}"
    outcome = envelope.outcome
    if outcome in _UNSAID or outcome is None:
        return text
    # "tool failed (failure)" would say it twice.
    return text if outcome.value[:4] in envelope.name else f"{text} ({outcome.value})"


def repeated_of(times: int, fields: Mapping[str, JSON], time_ns: int) -> dict[str, JSON]:
    """
    Return the fields of a line about *times* lines with *fields* that were not written.
    """
    return {
        TIMESTAMP: timestamp(time_ns),
        **fields,
        MESSAGE: f"{times} more like this within a minute: {fields[MESSAGE]}",
        SUPPRESSED: times,
    }


class _Timestamps:
    """
    Writes times; most are of the second that was written before. Safe from any thread.
    """

    def __init__(self) -> None:
        self._second = (0, "1970-01-01T00:00:00.")

    def text(self, time_ns: int) -> str:
        """
        Return nanoseconds since 1970-01-01 UTC as RFC 3339 with microseconds and ``Z``.
        """
        start, second = self._second
        if not 0 <= time_ns - start < 1_000_000_000:
            seconds = time_ns // 1_000_000_000
            start = seconds * 1_000_000_000
            second = f"{datetime.fromtimestamp(seconds, UTC).isoformat()[:19]}."
            self._second = (start, second)
        milliseconds, microseconds = divmod((time_ns - start) // 1000, 1000)
        return f"{second}{_DIGITS[milliseconds]}{_DIGITS[microseconds]}Z"


# Looked up faster than a number is filled up with zeros.
_DIGITS = tuple(f"{number:03d}" for number in range(1000))

timestamp = _Timestamps().text
