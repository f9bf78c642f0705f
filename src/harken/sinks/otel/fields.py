"""
From the JSON of an event to attributes: what is wanted of its fields is worked out once.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeAlias

import msgspec
from msgspec.structs import astuple

from harken import JSON, EventType
from harken.sinks.otel.attributes import AttributeValue, attribute_value

Attributes: TypeAlias = dict[str, AttributeValue]
Targets: TypeAlias = Mapping[str, tuple[Sequence[str], str]]
"""From a field to the attributes that it becomes, and the unit that it is to be in."""


class Fields:
    """
    Reads what is wanted of the events of one type out of their JSON, and nothing else.

    Args:
        info: The type.

        targets: What fields become.

        asked: Fields that are read, too, whatever they become.

        limit: Characters of one text that are kept.
    """

    def __init__(
        self, info: EventType, targets: Targets, asked: Collection[str], limit: int
    ) -> None:
        names = [name for name in info.fields if name in targets or name in asked]
        self._limit = limit
        self._wanted = [
            (index, key, targets[name][1])
            for index, name in enumerate(names)
            if name in targets
            for key in targets[name][0]
        ]
        self._decode = _decoder(names, str | int | float | bool | None)
        self._decode_any = _decoder(names, Any)
        self._only_scalars = all(unit != "seconds" for _, _, unit in self._wanted)

    def add(self, body: bytes, attributes: Attributes) -> object:
        """
        Add to *attributes* what *body* says.

        Returns:
            An object with an attribute of its own for each field that was read; None where the
            body lacks it.
        """
        # No text is longer than the JSON that it is in.
        if not self._only_scalars or len(body) > self._limit:
            return self.add_anything(body, attributes)
        try:
            said = self._decode(body)
        except msgspec.ValidationError:
            # Events of this type hold lists or objects, whatever the annotations say.
            self._only_scalars = False
            return self.add_anything(body, attributes)
        values = astuple(said)
        # The inner loop of this sink.
        for index, key, unit in self._wanted:
            value = values[index]
            if value or (value == 0 and unit != "nonzero"):
                attributes[key] = value
        return said

    def add_anything(self, body: bytes, attributes: Attributes) -> object:
        """
        Do the same for any JSON, at any length.
        """
        said, limit = self._decode_any(body), self._limit
        values = astuple(said)
        for index, key, unit in self._wanted:
            value = values[index]
            if value is None or value == "":
                continue
            if unit:
                value = in_unit(value, unit)
            # Most are plain texts and numbers here, too, and need no second look.
            kind = type(value)
            if kind is not int and (kind is not str or len(value) > limit or not value.isascii()):
                value = attribute_value(value, limit)
            if value is not None:
                attributes[key] = value
        return said


def in_unit(value: JSON, unit: str) -> JSON:
    """
    Return *value* as the table wants it; see there.
    """
    if unit == "nonzero":
        return value or None
    if unit == "seconds":
        return value / 1000 if isinstance(value, (int, float)) else None
    return value


def _decoder(names: Sequence[str], value: Any) -> Callable[[bytes], msgspec.Struct]:
    return msgspec.json.Decoder(
        msgspec.defstruct("Read", [(name, value, None) for name in names])
    ).decode
