"""
What is no secret, although it stands under the name of one.
"""

from __future__ import annotations

import re

from harken.event import JSON

_TAKEN_OUT = re.compile(r"\[REDACTED(?::\w+)?\]|\[HMAC:[0-9a-f]{12}\]", re.ASCII)
PLACEHOLDER = re.compile(
    r"\$[A-Za-z_]\w*|\$\{[^{}]{1,80}\}|\$\([^()]{1,80}\)|\{\{[^{}]{1,80}\}\}|<[^<>]{1,80}>|\*{3,}"
    r"|%[A-Za-z_]\w*%|%(?:\(\w{1,40}\))?[sdr]|\.{3,}|[xX]{3,}"
    rf"|{_TAKEN_OUT.pattern}",
    re.ASCII,
)
# Bound here: for a method of something imported, Python makes a bound method on every call.
is_placeholder = PLACEHOLDER.fullmatch
replace_markers = _TAKEN_OUT.sub

NO_VALUES = frozenset(
    (
        *("none", "null", "true", "false", "nil", "undefined", "string", "str", "bytes", "int"),
        *("required", "optional", "missing", "invalid", "incorrect", "expired", "inherit"),
        *("unset", "!vault", "hidden", "masked", "redacted", "changed", "unchanged"),
    )
)
_PATH = re.compile(r"[~./]|[A-Za-z]:\\")

# What describes the shape of a value in JSON Schema, and holds none.
_SCHEMA_TYPES = frozenset(("string", "number", "integer", "object", "array", "boolean", "null"))
SCHEMA_KEYWORDS = frozenset(
    (
        *(
            "type",
            "title",
            "description",
            "format",
            "minLength",
            "maxLength",
            "pattern",
            "nullable",
        ),
        *("writeOnly", "readOnly", "deprecated", "default", "items", "properties", "required"),
        *("additionalProperties", "anyOf", "oneOf", "allOf", "$ref", "minimum", "maximum"),
        *("minItems", "maxItems", "x-unit"),
    )
)


def is_schema(value: dict[str, JSON]) -> bool:
    """
    Whether *value* is a JSON Schema, which tells what a password looks like, not what it is.
    """
    if not value.keys() <= SCHEMA_KEYWORDS or value.get("default") not in (None, ""):
        return False
    given = value.get("type")
    types = given if isinstance(given, list) else [given]
    typed = all(isinstance(kind, str) and kind in _SCHEMA_TYPES for kind in types)
    return typed or not value.keys().isdisjoint(("anyOf", "oneOf", "allOf", "$ref"))


def is_folder(name: str, value: JSON) -> bool:
    """
    Whether *value* is the working directory that a shell has in PWD.
    """
    return (
        name.lower().endswith("pwd") and isinstance(value, str) and _PATH.match(value) is not None
    )
