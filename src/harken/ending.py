"""
How an operation ends: the outcome that an exception means, and the terminal event that says so.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Mapping
from typing import Any

import msgspec

from harken.envelope import Envelope
from harken.event import Event, Outcome, OutcomeFrom, describe

# 128 + SIGINT and 128 + SIGTERM, as a shell reports them.
_SIGNAL_EXITS = (130, 143)


class Ending(msgspec.Struct, frozen=True):
    """
    How an operation ends: decided when it is known, published when the operation is left.
    """

    outcome: Outcome
    fields: Mapping[str, Any]
    error: BaseException | str | None = None
    word: str | None = None


def outcome_of(error: BaseException) -> Outcome:
    """
    Return what an exception that leaves an operation says about it.
    """
    if isinstance(error, TimeoutError):
        return Outcome.timeout
    if isinstance(error, SystemExit):
        if error.code in _SIGNAL_EXITS:
            return Outcome.cancelled
        return Outcome.failure if error.code else Outcome.success
    if isinstance(error, (KeyboardInterrupt, GeneratorExit)) or _is_cancellation(error):
        return Outcome.cancelled
    return Outcome.failure


def _is_cancellation(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return all(_is_cancellation(part) for part in error.exceptions)
    # Looked up, not imported: neither library is loaded only to be asked for its exception.
    for module, name in (("asyncio", "CancelledError"), ("trio", "Cancelled")):
        kind = getattr(sys.modules.get(module), name, None)
        if kind is not None and isinstance(error, kind):
            return True
    return False


@functools.cache
def _usual_outcome(terminal: type[Event]) -> Outcome | None:
    declared = describe(terminal).outcome
    if isinstance(declared, OutcomeFrom):
        for field in msgspec.structs.fields(terminal):
            if field.name == declared.field and isinstance(field.default, str):
                return Outcome.of(declared.mapping.get(field.default, field.default))
        return None
    return declared or Outcome.success


@functools.lru_cache(maxsize=1024)
def choose(terminals: tuple[type[Event], ...], outcome: Outcome) -> type[Event]:
    for terminal in terminals:
        if _usual_outcome(terminal) is outcome:
            return terminal
    if outcome not in (Outcome.success, Outcome.deferred):
        for terminal in terminals:
            if _usual_outcome(terminal) is Outcome.failure:
                return terminal
    return terminals[0]


def terminal_event(start: Envelope[Event], ending: Ending, *, duration_ms: int) -> Event:
    """
    Return the terminal event that says how the operation of *start* ended.

    It has the fields that it shares with its start, then those of *ending* that it knows; a
    required field that nobody gave is None.
    """
    cls = choose(start.type.terminals, ending.outcome)
    info = describe(cls)
    fields: dict[str, Any] = {
        name: getattr(start.event, name) for name in start.type.fields if name in info.fields
    }
    error = ending.error
    said: dict[str, Any] = {
        "duration_ms": duration_ms,
        "outcome": ending.word or ending.outcome.value,
        "error_type": error_type(error),
        "error_message": None if error is None else message_of(error),
    }
    if error is not None and ending.outcome is Outcome.cancelled:
        said["reason"] = message_of(error)
    fields |= {name: value for name, value in said.items() if value is not None}
    fields |= ending.fields
    known = {name: value for name, value in fields.items() if name in info.fields}
    missing = {field.name: None for field in _required(cls) if field.name not in known}
    return cls(**known, **missing)


@functools.cache
def _required(cls: type[Event]) -> tuple[msgspec.structs.FieldInfo, ...]:
    return tuple(field for field in msgspec.structs.fields(cls) if field.required)


def error_type(error: BaseException | str | None) -> str | None:
    if error is None or isinstance(error, str):
        return None
    return type(error).__name__


def message_of(error: BaseException | str) -> str:
    """
    Return the text of *error*, not redacted and not cut. Never raises.
    """
    try:
        # Not cut: half a secret would not be found any more.
        return str(error)
    except Exception as failure:  # an author's __str__ may raise anything
        return f"[UNPRINTABLE:{type(failure).__name__}]"
