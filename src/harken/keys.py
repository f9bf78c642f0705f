"""
Keys: what pairs the end of an operation with its start.
"""

from __future__ import annotations

from typing import Any

import msgspec

from harken.envelope import Envelope
from harken.event import SCOPE_NAMES, Event, EventType, describe
from harken.scope import Scope

Key = tuple[Any, ...]


class Keys:
    """
    How events of one type are paired.

    Attributes:
        of_a_run: Whether the type is about a run, which its scope names.

        carried: On a start, whether every end has room for its key.

        has_phase: Whether an event may say which phase begins with it.

        changes_scope: Whether a start may be in another scope than the code that publishes it.
    """

    __slots__ = (
        "_info",
        "_single",
        "carried",
        "changes_scope",
        "has_phase",
        "made",
        "of_a_run",
        "scope_name",
    )

    def __init__(self, info: EventType) -> None:
        self._info = info
        # Of most types: the one field of the event.
        self._single = info.key[0] if len(info.key) == 1 and info.key[0] in info.fields else None
        # What is made when the author leaves it empty: fields of the event, or a name in the scope.
        self.made = tuple(name for name in info.key if name in info.fields)
        self.scope_name = None
        if len(info.key) == 1 and info.key[0] in SCOPE_NAMES - set(info.fields):
            self.scope_name = info.key[0]
        self.of_a_run = info.key == ("run_id",)
        self.has_phase = "phase" in info.fields
        self.changes_scope = self.has_phase or self.scope_name is not None
        self.carried = all(
            name in SCOPE_NAMES or name in describe(end).fields
            for name in info.key
            for end in info.terminals
        )

    def of(self, event: Event, scope: Scope) -> Key | None:
        """
        Return what pairs *event* with its counterpart; None when its author gave no key.
        """
        if self._single is not None:
            value = getattr(event, self._single)
            if value.__class__ is str:
                return (value,) if value else None
        info = self._info
        values = tuple(
            _key_part(getattr(event if name in info.fields else scope, name, None))
            for name in info.key
        )
        return None if not values or None in values else values


def with_key(end: Event, start: Envelope[Event]) -> Event:
    """
    Return *end* with the key of its start, in the fields that its author left empty.
    """
    info = describe(end)
    found = {
        name: getattr(start.event, name)
        for name in start.type.key
        if name in start.type.fields and name in info.fields and getattr(end, name) in ("", None)
    }
    return msgspec.structs.replace(end, **found) if found else end


def key_text(start: Envelope[Event]) -> str:
    """
    Return the key of an operation as it may leave the process.
    """
    data = start.data()
    values = (data.get(name, getattr(start, name, None)) for name in start.type.key)
    return ":".join(str(value) for value in values if value is not None)


def _key_part(value: object) -> str | int | None:
    # Only words and numbers pair; whatever else an author put there may not even compare.
    if value.__class__.__name__ == "UUID":
        return str(value)
    return value if isinstance(value, (str, int)) and value != "" else None
