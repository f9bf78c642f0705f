"""
JSON of whatever is logged: strict, ASCII, redacted, one line, and never an exception.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Set as AbstractSet
from datetime import date, time
from enum import Enum
from json.encoder import encode_basestring_ascii
from math import isfinite
from typing import ParamSpec, TypeVar, cast

import orjson

from harken import JSON
from harken.redaction import Redactor

P = ParamSpec("P")
R = TypeVar("R")

MAX_DEPTH = 32
MAX_ITEMS = 10_000
MAX_TEXT = 65_536
MAX_KEY = 256

# Objects decide themselves how they are shown: a dataclass with ``repr=False`` on a field, or a
# str subclass that masks itself, must not be opened up behind its author's back.
_OPTIONS = orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_SUBCLASS

_NOT_PRINTABLE_ASCII = re.compile(r"[^\x20-\x7e]+")


def encode(fields: Mapping[str, object], redactor: Redactor) -> bytes:
    """
    Return *fields* as one redacted line of ASCII JSON, without the line end.
    """
    line, rewritten = _plain(fields)
    if redactor.suspicious(line):
        line = orjson.dumps(redactor.tree(orjson.loads(line), {}))
    return _ascii(_bounded(line, rewritten=rewritten))


def dumps(fields: Mapping[str, object]) -> bytes:
    """
    Return *fields*, which hold no secrets, as one line of ASCII JSON without the line end.
    """
    line, rewritten = _plain(fields)
    return _ascii(_bounded(line, rewritten=rewritten))


def attempt(call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R | Exception:
    """
    Return what *call* returns, or what it raised: it looks at objects that are not ours.
    """
    try:
        return call(*args, **kwargs)
    except Exception as error:  # somebody's __str__, __repr__ or __len__ may raise anything
        return error


def show(value: object) -> str:
    """
    Return the text of *value*, whatever its own methods raise.
    """
    text = attempt(str, value)
    return unprintable(text) if isinstance(text, Exception) else str.__str__(text)


def unprintable(error: Exception) -> str:
    """
    Return what stands for a value that raised *error* when it was looked at.
    """
    return f"[UNPRINTABLE:{type(error).__name__}]"


def _plain(fields: Mapping[str, object]) -> tuple[bytes, bool]:
    """
    Return *fields* as JSON text in UTF-8, and whether they had to be rewritten for it.

    What is no JSON (NaN, an integer of more than 64 bits, a lone surrogate, a cycle, an object
    that cannot be shown) is replaced by text that says what it was.
    """
    try:
        line = orjson.dumps(fields, default=_nearer, option=_OPTIONS)
    except (TypeError, RecursionError):
        return orjson.dumps(_Plain().value(fields)), True
    # orjson writes NaN and the infinities as null; more nulls than Nones give them away.
    if line.count(b"null") > sum(value is None for value in fields.values()):
        return orjson.dumps(_Plain().value(fields)), True
    return line, False


def _bounded(line: bytes, *, rewritten: bool) -> bytes:
    """
    Cut the texts and keys of a line that is long or strange.

    Only when it is redacted: half a secret would not be found any more.
    """
    if len(line) <= MAX_TEXT and not rewritten:
        return line
    return orjson.dumps(_cut(orjson.loads(line)))


def _cut(value: JSON) -> JSON:
    if isinstance(value, str):
        return value if len(value) <= MAX_TEXT else f"{value[:MAX_TEXT]}[TRUNCATED:{len(value)}]"
    if isinstance(value, list):
        return [_cut(item) for item in value]
    if isinstance(value, dict):
        kept: dict[str, JSON] = {}
        for key, item in value.items():
            name = key if len(key) <= MAX_KEY else f"{key[:MAX_KEY]}..."
            kept[_unique(name, kept)] = _cut(item)
        return kept
    return value


def _unique(name: str, taken: Mapping[str, JSON]) -> str:
    """
    Return *name*, or one like it: {1: ..., "1": ...} are two members, and stay two.
    """
    while name in taken:
        name += "~"
    return name


def _ascii(line: bytes) -> bytes:
    """
    Escape everything in a JSON text that is not printable ASCII.
    """
    if line.isascii() and b"\x7f" not in line:
        return line
    return _NOT_PRINTABLE_ASCII.sub(_escaped, line.decode()).encode()


def _escaped(match: re.Match[str]) -> str:
    return encode_basestring_ascii(match.group())[1:-1]


def _nearer(value: object) -> JSON:
    """
    Return something nearer to JSON than *value*. Raises whatever the methods of *value* raise.
    """
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return dict(cast("Mapping[object, object]", value))
    if isinstance(value, (list, tuple)):
        return list(cast("Iterable[object]", value))
    if isinstance(value, AbstractSet):
        return sorted(cast("Iterable[object]", value), key=repr)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(cast("bytes", value)).decode("utf-8", "backslashreplace")
    if isinstance(value, (date, time)):
        return value.isoformat()
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, str):
        masked = type(value).__repr__ is not str.__repr__
    else:
        masked = type(value).__str__ is object.__str__
    return str.__str__(repr(value) if masked else str(value))


class _Plain:
    """
    Turns anything into bounded JSON that a strict reader accepts.
    """

    def __init__(self) -> None:
        self._items = MAX_ITEMS
        self._inside: set[int] = set()

    def value(self, value: object) -> JSON:
        self._items -= 1
        if self._items < 0:
            return "[TRUNCATED:items]"
        # Only exact types are safe to look into: a subclass may have methods that raise.
        kind = type(value)
        if value is None or kind is bool:
            return value
        if kind is str:
            return _text(str(value))
        if len(self._inside) >= MAX_DEPTH:
            return "[TRUNCATED:depth]"
        if id(value) in self._inside:
            return "[CIRCULAR]"
        self._inside.add(id(value))
        plain = attempt(self._other, value)
        self._inside.discard(id(value))
        return unprintable(plain) if isinstance(plain, Exception) else plain

    def _other(self, value: object) -> JSON:
        kind = type(value)
        if isinstance(value, int) and kind is int:
            return _integer(value)
        if isinstance(value, float) and kind is float:
            return value if isfinite(value) else _not_finite(value)
        if isinstance(value, Mapping):
            plain: dict[str, JSON] = {}
            for key, item in list(cast("Mapping[object, object]", value).items()):
                name = _unique(self._key(key), plain)
                plain[name] = self.value(item)
            return plain
        if isinstance(value, (list, tuple)):
            return [self.value(item) for item in list(cast("Iterable[object]", value))]
        return self.value(_nearer(value))

    def _key(self, key: object) -> str:
        plain = self.value(key)
        return plain if isinstance(plain, str) else orjson.dumps(plain).decode()


def _text(text: str) -> str:
    # Lone surrogates have no UTF-8; U+FFFD is what Unicode keeps for that.
    return (
        text
        if text.isascii()
        else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    )


def _integer(value: int) -> JSON:
    if -(2**63) <= value < 2**64:
        return value
    # Python refuses to print integers of more than 4,300 digits.
    bits = value.bit_length()
    return str(value) if bits < 14_000 else f"[INT:{bits} bits]"


def _not_finite(value: float) -> str:
    if value != value:
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"
