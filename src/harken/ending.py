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
    """
    Return which of *terminals* says *outcome* best.
    """
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
    names = _names(start.type.cls, cls)
    fields: dict[str, Any] = {name: getattr(start.event, name) for name in names.shared}
    said = {**_said(ending, duration_ms), **ending.fields}
    fields |= {name: value for name, value in said.items() if name in names.known}
    for name in names.required:
        fields.setdefault(name, None)
    return cls(**fields)


class _Names(msgspec.Struct, frozen=True):
    """
    The fields of a terminal: those that its start has, too; all; and those without a default.
    """

    shared: tuple[str, ...]
    known: frozenset[str]
    required: tuple[str, ...]


@functools.cache
def _names(start: type[Event], terminal: type[Event]) -> _Names:
    known = describe(terminal).fields
    return _Names(
        tuple(name for name in describe(start).fields if name in known),
        frozenset(known),
        tuple(field.name for field in msgspec.structs.fields(terminal) if field.required),
    )


def _said(ending: Ending, duration_ms: int) -> dict[str, Any]:
    """
    Return what *ending* says without its author's own fields.
    """
    said: dict[str, Any] = {
        "duration_ms": duration_ms,
        "outcome": ending.word or ending.outcome.value,
    }
    error = ending.error
    if error is not None:
        said["error_message"] = message_of(error)
        if ending.outcome is Outcome.cancelled:
            said["reason"] = said["error_message"]
        kind = error_type(error)
        if kind is not None:
            said["error_type"] = kind
    return said


def error_type(error: BaseException | str | None) -> str | None:
    """
    Return the name of the class of *error*; None when only its text, or nothing, is known.
    """
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
