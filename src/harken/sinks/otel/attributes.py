"""
Values as OpenTelemetry takes them: scalars, lists of one kind of scalar, and text for the rest.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from math import isfinite
from typing import TypeAlias, cast

from harken import JSON

Scalar: TypeAlias = str | bool | int | float
AttributeValue: TypeAlias = Scalar | Sequence[Scalar]

MAX_ITEMS = 128
"""Items of a list that are kept."""

_SMALLEST, _LARGEST = -(2**63), 2**63 - 1


def attribute_value(value: JSON, limit: int) -> AttributeValue | None:
    """
    Return *value* as an attribute, or None when there is nothing to say.

    Lists of one scalar type stay lists, other lists and objects become JSON text. NaN and the
    infinities are nothing, integers beyond 64 bits become text, and lone surrogates ``?``: none
    of these has an encoding on the wire. Empty text, lists and objects are nothing, too.

    Args:
        limit: Characters of one text that are kept.
    """
    if isinstance(value, (str, int, float)):
        return None if value == "" else scalar(value, limit)
    if not value:
        return None
    if isinstance(value, (list, tuple)):
        given = cast("Sequence[JSON]", value)
        items = [scalar(item, limit) for item in given[:MAX_ITEMS]]
        kept = [item for item in items if item is not None]
        if len(kept) == len(items) and len({type(item) for item in kept}) == 1:
            return tuple(kept)
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str)
    return scalar(text, limit)


def scalar(value: JSON, limit: int) -> Scalar | None:
    """
    Return *value* if it is a scalar that can be encoded, None otherwise.
    """
    if isinstance(value, str):
        text = value[:limit] if len(value) > limit else value
        return text if text.isascii() else text.encode("utf-8", "replace").decode()
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        if _SMALLEST <= value <= _LARGEST:
            return value
        # Python refuses to print integers of more than 4,300 digits.
        bits = value.bit_length()
        return str(value) if bits < 14_000 else f"[INT:{bits} bits]"
    if isinstance(value, float) and isfinite(value):
        return value
    return None
