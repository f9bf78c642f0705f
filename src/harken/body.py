"""
The JSON that leaves the process: encoded once, redacted once, shared by every sink.
"""

from __future__ import annotations

import codecs
import hashlib
from collections.abc import Mapping, Set as AbstractSet
from dataclasses import fields as dataclass_fields, is_dataclass
from itertools import islice
from math import isfinite
from types import MappingProxyType
from typing import Any

import msgspec
import orjson

from harken.event import JSON, Event, EventType
from harken.redaction import Redactor

MAX_TEXT = 65_536
"""Characters of one string that are kept; what is cut is named with its size and SHA-256."""

MAX_SCOPE_TEXT = 1_024
"""Characters of one text of a scope that are kept."""

MAX_ITEMS = 20_000
"""Members of all containers of one event that are kept."""

MAX_DEPTH = 32
"""Levels of nesting that are kept."""

MAX_INTEGER = 2**53 - 1
"""The largest integer that every JSON reader keeps exactly (RFC 8259, section 6)."""

_OPTIONS = orjson.OPT_STRICT_INTEGER | orjson.OPT_NAIVE_UTC | orjson.OPT_UTC_Z
_NOTHING: Mapping[str, Any] = MappingProxyType({})


class Body(msgspec.Struct, frozen=True):
    """
    An event's own fields as ASCII JSON, redacted and bounded.

    Attributes:
        full: With the content that is captured.

        outline: Without any content field; the same object as *full* when there is none.

        redacted: How many secrets of each kind were replaced.

        truncated: From the path of what was cut to its size in bytes and its SHA-256.
    """

    full: bytes
    outline: bytes
    redacted: Mapping[str, int]
    truncated: Mapping[str, tuple[int, str]]


class Encoder:
    """
    Makes bodies for one bus; safe from any thread.

    Args:
        redactor: Takes secrets out; None leaves them in.

        capture: The kinds of content that are kept; digest and size always are.
    """

    def __init__(self, redactor: Redactor | None, capture: AbstractSet[str]) -> None:
        self.redactor = redactor
        self.capture = frozenset(capture)

    def raw(self, event: Event) -> bytes:
        """
        Return *event*'s fields as JSON, not yet redacted. Never raises for what they hold.
        """
        values = msgspec.structs.asdict(event)
        try:
            raw = orjson.dumps(values, default=_plain_object, option=_OPTIONS)
        except (TypeError, RecursionError):
            return orjson.dumps(_Plain().value(values))
        # orjson writes NaN and the infinities as null; more nulls than Nones give them away.
        if raw.count(b"null") > sum(value is None for value in values.values()):
            return orjson.dumps(_Plain().value(values))
        # A copy: orjson does not give back what it took for its buffer, some 4 KB for each event
        # that waits in a queue.
        return b"%b" % raw

    def body(self, info: EventType, raw: bytes) -> Body:
        """
        Return the body of an event of the type *info* whose fields are *raw*.
        """
        redactor = self.redactor
        suspicious = redactor is not None and redactor.suspicious(raw)
        if len(raw) <= MAX_TEXT and not info.content and not suspicious:
            full = _ascii(raw)
            return Body(full, full, _NOTHING, _NOTHING)
        counts: dict[str, int] = {}
        tree = orjson.loads(raw)
        if redactor is not None and suspicious:
            tree = redactor.tree(tree, counts)
        self._summarise_content(info, tree)
        cut = _Cut()
        tree = {name: cut.value(value, f"metadata.{name}") for name, value in tree.items()}
        full = _ascii(orjson.dumps(tree))
        outline = full
        if any(name in tree for name in info.content):
            kept = {name: value for name, value in tree.items() if name not in info.content}
            outline = _ascii(orjson.dumps(kept))
        return Body(full, outline, counts or _NOTHING, cut.done or _NOTHING)

    def texts(self, values: Mapping[str, object], counts: dict[str, int]) -> dict[str, JSON]:
        """
        Return *values* as redacted and bounded JSON scalars; containers become JSON text.

        Args:
            counts: Where the secrets that were taken out are counted, by kind.
        """
        plain = _Plain(items=256).value(dict(values))
        redactor = self.redactor
        if redactor is not None and redactor.suspicious(orjson.dumps(plain)):
            plain = redactor.tree(plain, counts)
        # Cut after the redaction: half a secret is not found any more.
        return {name: _bounded(value) for name, value in plain.items()}

    def _summarise_content(self, info: EventType, tree: dict[str, JSON]) -> None:
        for name, kind in info.content.items():
            value = tree.get(name)
            if value is not None:
                text = value if isinstance(value, str) else orjson.dumps(value).decode()
                encoded = text.encode()
                for field in (f"{name}_digest", "digest"):
                    if field in info.fields:
                        tree[field] = tree[field] or f"sha256:{hashlib.sha256(encoded).hexdigest()}"
                        break
                if f"{name}_size" in info.fields:
                    tree[f"{name}_size"] = tree[f"{name}_size"] or len(encoded)
                elif "size" in info.fields:
                    tree["size"] = tree["size"] or len(text)
            if kind not in self.capture or value is None:
                tree.pop(name, None)


def _bounded(value: JSON) -> JSON:
    if isinstance(value, (list, dict)):
        value = orjson.dumps(value).decode()
    if isinstance(value, str) and len(value) > MAX_SCOPE_TEXT:
        return value[:MAX_SCOPE_TEXT] + "..."
    return value


class _Cut:
    """
    Cuts what is too long out of redacted JSON, and remembers what it cut.
    """

    def __init__(self) -> None:
        self.done: dict[str, tuple[int, str]] = {}
        self._items = MAX_ITEMS

    def value(self, value: JSON, path: str) -> JSON:
        self._items -= 1
        if isinstance(value, str):
            return value if len(value) <= MAX_TEXT else self._text(value, path)
        if isinstance(value, list):
            if len(value) > max(self._items, 0):
                return self._all(value, path)
            return [self.value(item, f"{path}[{i}]") for i, item in enumerate(value)]
        if isinstance(value, dict):
            if len(value) > max(self._items, 0):
                return self._all(value, path)
            return {
                (key if len(key) <= 256 else key[:256] + "..."): self.value(
                    item, f"{path}.{key[:64]}"
                )
                for key, item in value.items()
            }
        return value

    def _text(self, text: str, path: str) -> str:
        encoded = text.encode()
        self.done[path] = (len(encoded), hashlib.sha256(encoded).hexdigest())
        return f"{text[:MAX_TEXT]}[TRUNCATED:{len(encoded)}]"

    def _all(self, value: JSON, path: str) -> str:
        encoded = orjson.dumps(value)
        self.done[path] = (len(encoded), hashlib.sha256(encoded).hexdigest())
        return f"[TRUNCATED:{len(encoded)}]"


class _Plain:
    """
    Turns anything into JSON that a strict reader accepts. Never raises.
    """

    # More than are kept, so that what is cut later is named with its true size; yet bounded.
    def __init__(self, *, items: int = 10 * MAX_ITEMS) -> None:
        self._items = items
        self._inside: set[int] = set()

    def value(self, value: object) -> JSON:
        self._items -= 1
        if value is None or value is True or value is False:
            return value
        if isinstance(value, str):
            return self._string(str.__str__(value))
        if isinstance(value, int):
            return _integer(value)
        if isinstance(value, float):
            return value if isfinite(value) else _not_finite(value)
        if len(self._inside) >= MAX_DEPTH:
            return "[TRUNCATED:depth]"
        if id(value) in self._inside:
            return "[CIRCULAR]"
        self._inside.add(id(value))
        try:
            return self._other(value)
        except Exception as error:  # an author's __iter__, __str__ or property may raise anything
            return f"[UNPRINTABLE:{type(error).__name__}]"
        finally:
            self._inside.discard(id(value))

    def _other(self, value: object) -> JSON:
        if isinstance(value, Mapping):
            plain: dict[str, JSON] = {}
            for key, item in list(value.items()):
                if self._items <= 0:
                    plain["[TRUNCATED:items]"] = len(value)
                    break
                name = self._key(key)
                # {1: ..., "1": ...} are two members, and stay two.
                while name in plain:
                    name += "~"
                plain[name] = self.value(item)
            return plain
        if isinstance(value, (list, tuple, AbstractSet)):
            kept = [self.value(item) for item in islice(value, max(self._items, 0))]
            return kept if len(kept) == len(value) else [*kept, "[TRUNCATED:items]"]
        simple = _plain_object(value)
        if simple is value:
            return self._string(str(value))
        return self.value(simple)

    def _key(self, key: object) -> str:
        plain = self.value(key)
        return plain if isinstance(plain, str) else orjson.dumps(plain).decode()

    def _string(self, text: str) -> str:
        # Lone surrogates have no UTF-8; U+FFFD is what Unicode keeps for that.
        return (
            text
            if text.isascii()
            else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        )


def _integer(value: int) -> JSON:
    if -MAX_INTEGER <= value <= MAX_INTEGER:
        return int(value)
    # Python refuses to print integers of more than 4,300 digits.
    bits = value.bit_length()
    return str(int(value)) if bits < 14_000 else f"[INT:{bits} bits]"


def _not_finite(value: float) -> str:
    if value != value:
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"


def _plain_object(value: object) -> Any:
    """
    Return something nearer to JSON than *value*, which is no JSON type.
    """
    if isinstance(value, (bytes, bytearray, memoryview)):
        data = bytes(value)
        return f"[BYTES:{len(data)} sha256:{hashlib.sha256(data).hexdigest()[:16]}]"
    if isinstance(value, msgspec.Struct):
        return msgspec.structs.asdict(value)
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclass_fields(value)}
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, AbstractSet):
        return sorted(value, key=repr)
    try:
        return str(value)
    except Exception as error:  # an author's __str__ may raise anything
        return f"[UNPRINTABLE:{type(error).__name__}]"


def _ascii(raw: bytes) -> bytes:
    """
    Escape what is not printable ASCII, so that a line is safe in every terminal and reader.
    """
    if not raw.isascii():
        raw = raw.decode().encode("ascii", "harken.json")
    return raw.replace(b"\x7f", b"\\u007f") if b"\x7f" in raw else raw


def _escape(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    units = error.object[error.start : error.end].encode("utf-16-be", "surrogatepass")
    escaped = "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2))
    return escaped, error.end


codecs.register_error("harken.json", _escape)
