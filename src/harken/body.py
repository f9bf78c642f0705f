"""
The JSON that leaves the process: encoded once, redacted once, shared by every sink.
"""

from __future__ import annotations

import codecs
import hashlib
import re
from collections.abc import Callable, Mapping, Set as AbstractSet
from dataclasses import fields as dataclass_fields, is_dataclass
from functools import cache
from itertools import islice, takewhile
from math import isfinite
from operator import itemgetter
from types import MappingProxyType
from typing import Any

import msgspec
import orjson
from msgspec.structs import asdict, force_setattr

from harken.event import JSON, Event, EventType, describe
from harken.redaction import Redactor

MAX_TEXT = 65_536
"""Characters of one string that are kept; what is cut is named with its size and SHA-256."""

MAX_SCOPE_TEXT = 1_024
"""Characters of one text of a scope that are kept."""

MAX_ATTRIBUTES = 256
"""Attributes of a scope that are kept, or of an event."""

MAX_ITEMS = 20_000
"""Members of all containers of one event that are kept."""

MAX_KEY = 256
"""Characters of a member's name that are kept."""

MAX_DEPTH = 32
"""Levels of nesting that are kept where an object of its author's own is among them; else 254."""

MAX_INTEGER = 2**53 - 1
"""The largest integer that every JSON reader keeps exactly (RFC 8259, section 6)."""

_OPTIONS = orjson.OPT_STRICT_INTEGER | orjson.OPT_NAIVE_UTC | orjson.OPT_UTC_Z
_NOTHING: Mapping[str, Any] = MappingProxyType({})

_QUOTE, _BACKSLASH, _DELETE = b'"\\\x7f'


class Body(msgspec.Struct, frozen=True, gc=False):
    """
    An event's own fields as ASCII JSON, redacted and bounded.

    Attributes:
        full: With the content that is captured.

        redacted: How many secrets of each kind were replaced.

        truncated: From the path of what was cut to its size in bytes and its SHA-256.
    """

    full: bytes
    redacted: Mapping[str, int] = _NOTHING
    truncated: Mapping[str, tuple[int, str]] = _NOTHING
    _outline: bytes | None = None
    # Where the content is in *full*, with one comma.
    _content: tuple[int, int] = (0, 0)

    @property
    def outline(self) -> bytes:
        """
        The fields without any content; the same object as *full* when there is none.
        """
        outline = self._outline
        if outline is None:
            begin, end = self._content
            outline = self.full[:begin] + self.full[end:] if end else self.full
            # Twice at once does no harm.
            force_setattr(self, "_outline", outline)
        return outline


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
        values = asdict(event)
        try:
            raw = orjson.dumps(values, _plain_object, _OPTIONS)
            _refuse_fragments(values)
        except (TypeError, RecursionError, msgspec.MsgspecError):
            return _dumps(_Plain().value(values))
        # orjson writes NaN and the infinities as null; more nulls than Nones give them away.
        null = raw.rfind(b"null")
        if null >= 0:
            for value in values.values():
                if value is None and null >= 0:
                    # Backwards, which is the fastest search that there is for a few letters.
                    null = raw.rfind(b"null", 0, null)
            if null >= 0:
                return _dumps(_Plain().value(values))
        return _kept(raw)

    def body(self, info: EventType, raw: bytes) -> Body:
        """
        Return the body of an event of the type *info* whose fields are *raw*, as `raw()` made it.
        """
        redactor = self.redactor
        if redactor is not None and redactor.suspicious(raw):
            return self.plain_body(info, raw, redactor)
        layout = _layout(info.cls)
        # Most bodies are the bytes that are there, and a digest.
        if layout.is_simple and (len(raw) <= layout.short or _is_within_bounds(raw)):
            if layout.content is None:
                return Body(_ascii(raw))
            body = layout.content.body(raw, self.capture)
            if body is not None:
                return body
        return self.plain_body(info, raw, None)

    def plain_body(self, info: EventType, raw: bytes, redactor: Redactor | None) -> Body:
        """
        Return the same as `body()` for any *raw*, member by member.

        Args:
            redactor: None when there is nothing to take out.
        """
        counts: dict[str, int] = {}
        tree = orjson.loads(raw)
        if redactor is not None:
            tree = redactor.tree(tree, counts)
        self._summarise_content(info, tree)
        cut = _Cut()
        tree = {name: cut.value(value, f"metadata.{name}") for name, value in tree.items()}
        full = outline = _ascii(_dumps(tree))
        if any(name in tree for name in info.content):
            kept = {name: value for name, value in tree.items() if name not in info.content}
            outline = _ascii(_dumps(kept))
        return Body(full, counts or _NOTHING, cut.done or _NOTHING, outline)

    def texts(self, values: Mapping[str, object], counts: dict[str, int]) -> dict[str, JSON]:
        """
        Return *values* as redacted and bounded JSON scalars; containers become JSON text.

        Args:
            counts: Where the secrets that were taken out are counted, by kind.
        """
        plain: dict[str, Any] = dict(values)
        is_plain = len(plain) <= MAX_ATTRIBUTES and all(map(_stays, plain.values(), plain))
        if not is_plain:
            # Each has a name, too.
            plain = _Plain(items=2 * MAX_ATTRIBUTES + 1).value(plain)
        redactor = self.redactor
        if redactor is not None and redactor.suspicious(orjson.dumps(plain)):
            plain = redactor.tree(plain, counts)
        elif is_plain:
            return plain
        # Cut after the redaction: half a secret is not found any more.
        return {name: _bounded(value) for name, value in plain.items()}

    def _summarise_content(self, info: EventType, tree: dict[str, JSON]) -> None:
        for name, kind in info.content.items():
            value = tree.get(name)
            if value is not None:
                text = value if isinstance(value, str) else orjson.dumps(value).decode()
                encoded = text.encode()
                digest, size = _siblings(info, name)
                if digest:
                    tree[digest] = tree[digest] or f"sha256:{hashlib.sha256(encoded).hexdigest()}"
                if size:
                    tree[size] = tree[size] or len(text if size == "size" else encoded)
            if kind not in self.capture or value is None:
                tree.pop(name, None)


def _siblings(info: EventType, name: str) -> tuple[str, str]:
    """
    Return the fields for digest and size of the content *name*; empty where there is none. A
    field that is just called ``size`` has it in characters, one of its own in bytes.
    """
    digest = next((field for field in (f"{name}_digest", "digest") if field in info.fields), "")
    size = next((field for field in (f"{name}_size", "size") if field in info.fields), "")
    return digest, size


class _Content(msgspec.Struct, frozen=True, gc=False):
    """
    Where the one content field of a type stands in its JSON, with its digest and size beside it.

    An event's members stand in a fixed order, each once, and what stands in a text has its quotes
    escaped. So a name that is found once in the bytes is that of the event's own field, not of a
    member of some mapping in it.

    Attributes:
        name: As it stands in the JSON, with the colon.

        next: The name of the field behind it, with a comma in front; empty when it is the last.

        before: What stands before *name* while digest and size are not known; empty when they
            stand elsewhere.

        behind: What stands behind *next*, likewise.

        sized: The same where the author gave the size, of a content that was longer perhaps.

        filled: Digest and size, with places for them, to be put instead; from *next* on when they
            stand behind.

        order: Puts a digest and a size into the order of these places.

        in_characters: Whether the size is that of the text, not of its bytes.
    """

    kind: str
    name: bytes
    next: bytes
    before: bytes
    behind: bytes
    sized: re.Pattern[bytes] | None
    filled: bytes
    order: Callable[[tuple[bytes, int]], object]
    in_characters: bool

    def body(self, raw: bytes, capture: AbstractSet[str]) -> Body | None:
        """
        Return the body of *raw*, of which nothing is taken out or cut; None when a name is found
        twice, or the author gave the digest, or a size that stands in front.
        """
        pieces = raw.split(self.name)
        if len(pieces) != 2:
            return None
        front, rest = pieces
        if rest.startswith(b"null"):
            return Body(_ascii(_joined(front, rest[4:])))
        pieces = rest.split(self.next) if self.next else [rest[:-1], b"}"]
        if len(pieces) != 2:
            return None
        value, back = pieces
        if self.behind:
            if back.startswith(self.behind):
                back = self._summary(value) + back[len(self.behind) :]
            else:
                given = None if self.sized is None else self.sized.match(back)
                if given is None:
                    return None
                back = self._summary(value, int(given[1])) + back[given.end() :]
        else:
            if not front.endswith(self.before):
                return None
            front = front[: len(front) - len(self.before)] + self._summary(value)
            back = self.next + back
        if not raw.isascii() or _DELETE in raw:
            front, value, back = _ascii(front), _ascii(value), _ascii(back)
        if self.kind not in capture:
            return Body(_joined(front, back))
        full = b"".join((front, self.name, value, back))
        begin, end = len(front), len(full) - len(back)
        if self.next:
            end += 1
        elif begin > 1:
            begin -= 1
        return Body(full, _content=(begin, end))

    def _summary(self, value: bytes, size: int = 0) -> bytes:
        """
        Return *filled* with what *value* is; a text is taken without its quotes and escapes.

        Args:
            size: What its author says that it is; 0 when nothing was said.
        """
        if not self.filled:
            return b""
        if value[0] == _QUOTE:
            value = orjson.loads(value).encode() if _BACKSLASH in value else value[1:-1]
        size = size or (len(value.decode()) if self.in_characters else len(value))
        return self.filled % self.order((hashlib.sha256(value).hexdigest().encode(), size))


class _Layout(msgspec.Struct, frozen=True, gc=False):
    """
    What is known of the JSON of all events of a type.

    Attributes:
        is_simple: Whether it has no content, or that is easily found.

        short: Bytes up to which nothing in it can be too long or too many.

        content: Where the content is; None when the type has none.
    """

    is_simple: bool
    short: int
    content: _Content | None


@cache
def _layout(cls: type[Event]) -> _Layout:
    info = describe(cls)
    # A key of one character more takes that much and its quotes; each other field has its name.
    short = sum(len(name) + 4 for name in info.fields) + MAX_KEY
    content = _find_content(info) if info.content else None
    return _Layout(content is not None or not info.content, short, content)


def _find_content(info: EventType) -> _Content | None:
    """
    Return where the content of a type is; None when there is more than one, or when digest and
    size stand elsewhere.
    """
    (name, kind), *others = info.content.items()
    digest, size = _siblings(info, name)
    place = info.fields.index(name)
    following = info.fields[place + 1 :]
    behind = tuple(takewhile((digest, size).__contains__, following))
    before = tuple(takewhile((digest, size).__contains__, reversed(info.fields[:place])))[::-1]
    beside = behind or before
    if others or {name, *beside} != {name, digest, size} - {""} or name in (digest, size):
        return None
    if not all(map(str.isascii, info.fields)):
        return None
    after = following[0] if following else ""
    end = "," if len(following) > len(behind) else "}"
    empty, sized = (
        ",".join(f'"{field}":""' if field == digest else f'"{field}":{number}' for field in beside)
        for number in ("0", "([1-9][0-9]{0,17})")
    )
    filled = ",".join(
        f'"{field}":"sha256:%b"' if field == digest else f'"{field}":%d' for field in beside
    )
    return _Content(
        kind=kind,
        name=f'"{name}":'.encode(),
        next=f',"{after}":'.encode() if after else b"",
        before=f"{empty},".encode() if before else b"",
        behind=f"{empty}{end}".removeprefix(f'"{after}":').encode() if behind else b"",
        sized=re.compile(f"{sized}{end}".removeprefix(f'"{after}":').encode())
        if behind and size
        else None,
        filled=(f"{filled}," if before else f",{filled}{end}" if behind else "").encode(),
        order=itemgetter(*map((digest, size).index, beside or (digest,))),
        in_characters=size == "size",
    )


def _joined(front: bytes, back: bytes) -> bytes:
    """
    Return the JSON of the members before one that is left out, and of those behind it.
    """
    if back.startswith(b","):
        return front + back[1:]
    return front.removesuffix(b",") + back


def _is_within_bounds(raw: bytes) -> bool:
    """
    Whether nothing in *raw* is too long or too many. True is certain.
    """
    # Each value stands behind one of these; and so does much in texts.
    if len(raw) > 2 * MAX_ITEMS and sum(map(raw.count, (b",", b"[", b"{"))) >= MAX_ITEMS:
        return False
    has_keys = raw.rfind(b"{") > 0
    if not has_keys and len(raw) <= MAX_TEXT:
        return True
    if raw.rfind(b'\\"') >= 0:
        # Every quote that is left is one around a text.
        raw = raw.replace(b"\\\\", b"  ").replace(b'\\"', b"  ")
    if _has_longer(raw, MAX_TEXT, b""):
        return False
    return not (has_keys and _has_longer(raw, MAX_KEY, b":"))


def _has_longer(raw: bytes, longest: int, behind: bytes) -> bool:
    """
    Whether a text in *raw* that *behind* stands behind may have more bytes than *longest*; no text
    has quotes. False is certain.
    """
    quote, window = 0, longest + 2
    while quote + window < len(raw):
        found = raw.rfind(b'"', quote + 1, quote + window)
        if found < 0:
            found = raw.find(b'"', quote + window)
            if found < 0:
                return False
            if raw.startswith(behind, found + 1):
                return True
        quote = found
    return False


def _checked(value: object) -> object:
    if isinstance(value, orjson.Fragment):
        raise TypeError
    return _plain_object(value)


# orjson puts what its author encoded into the JSON as it is, whatever it is. To encode it all once
# more, and to throw that away, is the cheapest way to look for it.
_refuse_fragments = msgspec.json.Encoder(enc_hook=_checked).encode


def _dumps(value: JSON) -> bytes:
    return _kept(orjson.dumps(value))


def _kept(raw: bytes) -> bytes:
    # A copy: orjson does not give back what it took for its buffer, some 4 KB for each event that
    # waits in a queue.
    return b"%b" % raw


def _stays(value: object, name: object) -> bool:
    """
    Whether nothing but a secret can have to be changed of a text of a scope, or of its *name*.
    """
    if not (isinstance(name, str) and name.__class__ is str and name.isascii()):
        return False
    if isinstance(value, str):
        return value.__class__ is str and len(value) <= MAX_SCOPE_TEXT and value.isascii()
    if isinstance(value, int):
        return value.__class__ in (int, bool) and -MAX_INTEGER <= value <= MAX_INTEGER
    return value is None


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
                (key if len(key) <= MAX_KEY else key[:MAX_KEY] + "..."): self.value(
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
        if isinstance(value, AbstractSet):
            value = _in_order(value)
        if isinstance(value, (list, tuple)):
            kept = [self.value(item) for item in islice(value, max(self._items, 0))]
            return kept if len(kept) == len(value) else [*kept, "[TRUNCATED:items]"]
        return self.value(_plain_object(value))

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
    if isinstance(value, orjson.Fragment):
        return _decoded(orjson.dumps(value))
    if isinstance(value, msgspec.Struct):
        return asdict(value)
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclass_fields(value)}
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, AbstractSet):
        return _in_order(value)
    try:
        return str(value)
    except Exception as error:  # an author's __str__ may raise anything
        return f"[UNPRINTABLE:{type(error).__name__}]"


def _in_order(members: AbstractSet[object]) -> list[object]:
    """
    Return *members* in an order that is the same in every process, if each can be printed.
    """
    try:
        return sorted(members, key=repr)
    except Exception:  # an author's __repr__ may raise anything
        return list(members)


def _decoded(raw: bytes) -> JSON:
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError:
        return raw.decode(errors="replace")


def _ascii(raw: bytes) -> bytes:
    """
    Escape what is not printable ASCII, so that a line is safe in every terminal and reader.
    """
    if not raw.isascii():
        raw = raw.decode().encode("ascii", "harken.json")
    return raw.replace(b"\x7f", b"\\u007f") if _DELETE in raw else raw


def _escape(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    units = error.object[error.start : error.end].encode("utf-16-be", "surrogatepass")
    return "\\u" + units.hex("u", 2).replace("u", "\\u"), error.end


codecs.register_error("harken.json", _escape)
