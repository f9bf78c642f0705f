"""
Which records are wanted.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from json.encoder import encode_basestring_ascii as ascii_json
from typing import Any, Literal, TypeAlias, cast

import msgspec

from harken.errors import HarkenError
from harken.event import JSON
from harken.record import rfc3339

Sign: TypeAlias = Literal["=", "!=", "<", "<=", ">", ">=", "~"]


class FilterError(HarkenError, ValueError):
    """
    A filter or a time is not one; the message says what is expected.
    """


class Condition(msgspec.Struct, frozen=True):
    """
    What a member must be, such as ``metadata.cost_usd>0.01``.

    Attributes:
        path:
            The member, with dots between the names. ``data`` is short for ``metadata``.

        sign:
            ``~`` searches the regular expression *value* in a text. A member that is not there,
            or of another kind than *value*, meets ``!=`` only.

        value: A number, true, false, null, or a text.
    """

    path: str
    sign: Sign
    value: JSON

    @classmethod
    def parse(cls, text: str) -> Condition:
        """
        Return the condition that *text* says. A value that is no JSON is a text.

        Raises:
            FilterError: It says none.
        """
        match = _CONDITION.fullmatch(text)
        if match is None:
            raise FilterError(
                f"{text!r} is no condition; use MEMBER and =, !=, <, <=, >, >= or ~ and a value, "
                "such as metadata.cost_usd>0.01"
            )
        path, sign, said = match["path"], cast("Sign", match["sign"]), match["value"].strip()
        if sign != "~" and said.startswith(("=", "<", ">")):
            raise FilterError(
                f"{text!r} has two signs; use one of =, !=, <, <=, >, >= and ~, and put quotation "
                "marks around a value that begins like one"
            )
        value: JSON = said
        if sign != "~":
            try:
                value = msgspec.json.decode(said)
            except msgspec.DecodeError:
                value = said
        if isinstance(value, (dict, list)):
            raise FilterError(f"{text!r} compares with {said}; use a number, a word or a text")
        condition = cls(path, sign, value)
        condition.test()
        return condition

    @property
    def names(self) -> tuple[str, ...]:
        """
        The names that lead to the member, from that of the record's own member on.
        """
        return names_of(self.path)

    def test(self) -> Callable[[JSON], bool]:
        """
        Return what says whether a member meets this.

        Raises:
            FilterError: The regular expression is none.
        """
        value, sign = self.value, self.sign
        if sign == "~":
            try:
                search = re.compile(str(value)).search
            except re.error as error:
                raise FilterError(f"{value!r} is no regular expression: {error}") from error
            return lambda found: isinstance(found, str) and search(found) is not None
        kind = _kind(value)
        if sign in {"=", "!="}:
            equal = sign == "="
            return lambda found: (_kind(found) is kind and found == value) is equal
        compare = _ORDER[sign]
        if kind is not float and kind is not str:
            return lambda found: False
        return lambda found: _kind(found) is kind and compare(found, value)


class Cursor(msgspec.Struct, frozen=True):
    """
    The last record that was seen.
    """

    timestamp: str
    seq: int
    hash: str | None = None


class Filter(msgspec.Struct, frozen=True, kw_only=True):
    """
    Which records are wanted: what meets every attribute that is given.

    Of several values of one attribute, a record must meet one, but all of *where* and *grep*. In
    texts, ``*`` stands for anything and ``?`` for one character.

    Attributes:
        since: Nanoseconds since 1970-01-01 UTC; the first ``timestamp`` that is wanted.

        until: The last one.

        ids: Ids of events.

        types: Event types, such as ``tool.*``.

        where: What members must be.

        families: Runs, with the runs that each started itself.

        grep: What stands in the line as it is stored, before ``writer``.

        after: Only what follows this record.
    """

    since: int | None = None
    until: int | None = None
    ids: tuple[str, ...] = ()
    types: tuple[str, ...] = ()
    runs: tuple[str, ...] = ()
    traces: tuple[str, ...] = ()
    sessions: tuple[str, ...] = ()
    actors: tuple[str, ...] = ()
    outcomes: tuple[str, ...] = ()
    resources: tuple[str, ...] = ()
    where: tuple[Condition, ...] = ()
    families: tuple[str, ...] = ()
    grep: tuple[str, ...] = ()
    after: Cursor | None = None


EVERYTHING = Filter()
"""The filter that every record meets."""

MEMBER_OF: Mapping[str, str] = {
    "ids": "id",
    "types": "event_type",
    "runs": "run_id",
    "traces": "trace_id",
    "sessions": "session_id",
    "actors": "actor",
    "outcomes": "outcome",
    "resources": "resource",
}
"""The member that each attribute with patterns is about."""

# The path may hold what begins a sign only where nothing else is meant.
_CONDITION = re.compile(
    r"\s*(?P<path>[^\s=!<>~]+)\s*(?P<sign>!=|<=|>=|=|<|>|~)\s*(?P<value>.*)", re.DOTALL
)

_ORDER: Mapping[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}

NOTHING: Mapping[str, Any] = {}

_MISSING = object()

# A text of more bytes is an id or the like.
_LONG = 20

# What ends the part of a line in which `grep` searches.
_ORIGIN = b',"writer":'


def _kind(value: object) -> object:
    if isinstance(value, bool):
        return bool
    return float if isinstance(value, (int, float)) else type(value)


def _is_pattern(text: str) -> bool:
    return "*" in text or "?" in text


def _as_regex(pattern: str) -> str:
    return "".join({"*": ".*", "?": "."}.get(char, re.escape(char)) for char in pattern)


def one_of(patterns: Iterable[str]) -> Callable[[str | None], bool]:
    """
    Return what says whether a text is one of *patterns*; None is none of them.
    """
    exact = {text for text in patterns if not _is_pattern(text)}
    wild = "|".join(_as_regex(text) for text in patterns if _is_pattern(text))
    if not wild:
        return exact.__contains__
    match = re.compile(wild, re.DOTALL).fullmatch
    return lambda text: text in exact or (text is not None and match(text) is not None)


class _Least(msgspec.Struct, gc=False):
    """
    What of a line is decoded at least: with less it is no record.
    """

    timestamp: str
    seq: int
    event_type: str


LEAST = frozenset(_Least.__struct_fields__)

Test = Callable[[Any], bool]


def row_type(fields: Mapping[str, Any]) -> type[Any]:
    """
    Return a type with *fields*, None where a record has no such member.
    """
    return msgspec.defstruct(
        "Row",
        [(name, kind, None) for name, kind in fields.items() if name not in LEAST],
        bases=(_Least,),
        gc="metadata" in fields or "attributes" in fields,
    )


class Matcher:
    """
    A filter at work on lines.

    Args:
        fields: Members that are decoded as well, and their types.

    Attributes:
        gives: Whether what is decoded has the *fields*, too.

        decode: Returns of a line what the filter has to look at; *decode_lines* of many.

        tests: What is asked of that; all must say yes.
    """

    def __init__(self, where: Filter, fields: Mapping[str, Any] = NOTHING) -> None:
        self.where = where
        self._fields: dict[str, Any] = {}
        self.tests: list[Test] = list(self._tests(where))
        self.grep = tuple(ascii_json(text)[1:-1].encode() for text in where.grep)
        # What both need is decoded once, unless they need it in different ways.
        self.gives = not self.grep and all(
            self._fields.get(name, kind) == kind for name, kind in fields.items()
        )
        if self.gives:
            self._fields |= fields
        decoder = msgspec.json.Decoder(row_type(self._fields))
        self.decode: Callable[[bytes], Any] = decoder.decode
        self.decode_lines: Callable[[bytes], list[Any]] = decoder.decode_lines

    def wanted(self, rows: list[Any]) -> list[Any]:
        """
        Return those of *rows*, as `decode_lines()` returned them, that all tests want.
        """
        return [rows[number] for number in self.hits(rows)] if self.tests else rows

    def hits(self, rows: list[Any]) -> list[int]:
        """
        Return the places of those in *rows*.
        """
        tests = self.tests
        if not tests:
            return list(range(len(rows)))
        if len(tests) == 1:
            (test,) = tests
            return [number for number, row in enumerate(rows) if test(row)]
        return [number for number, row in enumerate(rows) if all(test(row) for test in tests)]

    def __call__(self, line: bytes) -> bool:
        """
        Return whether *line* is wanted.

        Raises:
            msgspec.DecodeError: It is no record.
        """
        needed = self.decode(line)
        return all(test(needed) for test in self.tests) and self.holds(line)

    def needle(self) -> tuple[bytes, bool] | None:
        """
        Return what every wanted line must hold as it is stored, if anything can be said; and
        whether it is rare by its nature.
        """
        where = self.where
        for name in ("ids", "runs", "traces", "sessions"):
            texts = getattr(where, name)
            if len(texts) == 1 and not _is_pattern(texts[0]):
                return f'"{MEMBER_OF[name]}":{ascii_json(texts[0])}'.encode(), True
        if len(where.families) == 1:
            return f'run_id":{ascii_json(where.families[0])}'.encode(), True
        if self.grep:
            longest = max(self.grep, key=len)
            return longest, len(longest) > _LONG
        for name in ("resources", "actors", "types"):
            texts = getattr(where, name)
            if len(texts) == 1 and texts[0][:1] not in {"", "*", "?"}:
                begin = re.split(r"[*?]", texts[0], maxsplit=1)[0]
                end = "" if _is_pattern(texts[0]) else '"'
                return f'"{MEMBER_OF[name]}":{ascii_json(begin)[:-1]}{end}'.encode(), False
        return None

    def holds(self, line: bytes) -> bool:
        """
        Return whether everything that is sought as it is stored stands in *line*.
        """
        if not self.grep:
            return True
        end = line.rfind(_ORIGIN)
        end = len(line) if end < 0 else end
        return all(line.find(text, 0, end) >= 0 for text in self.grep)

    def _need(self, member: str, kind: Any) -> Callable[[Any], Any]:
        if member not in LEAST:
            self._fields.setdefault(member, kind)
        return operator.attrgetter(member)

    def _tests(self, where: Filter) -> Iterator[Test]:
        if where.since is not None:
            since = rfc3339(-(-where.since // 1000) * 1000)
            yield lambda needed: needed.timestamp >= since
        if where.until is not None:
            until = rfc3339(where.until)
            yield lambda needed: needed.timestamp <= until
        if where.after is not None:
            seq = where.after.seq
            yield lambda needed: needed.seq > seq
        for name, member in MEMBER_OF.items():
            patterns = getattr(where, name)
            if patterns:
                yield _both(self._need(member, str | None), one_of(patterns))
        if where.families:
            self._need("run_id", str | None)
            self._need("parent_run_id", str | None)
            runs = frozenset(where.families)
            yield lambda needed: needed.run_id in runs or needed.parent_run_id in runs
        for condition in where.where:
            yield self._condition(condition)

    def _condition(self, condition: Condition) -> Test:
        member, *names = condition.names
        kind: Any = JSON
        for known in (*MEMBER_OF.values(), "timestamp", "seq"):
            if member == known:
                kind = int if known == "seq" else str | None
        get, test = self._need(member, kind), condition.test()
        absent = condition.sign == "!="
        if not names:
            return _both(get, test)

        def meets(needed: Any) -> bool:
            found = member_at(get(needed), names)
            return absent if found is _MISSING else test(found)

        return meets


def _both(get: Callable[[Any], Any], test: Callable[[Any], bool]) -> Test:
    return lambda needed: test(get(needed))


def member_at(value: JSON, names: Sequence[str]) -> object:
    """
    Return the member of *value* that *names* lead to. A name may itself have dots.
    """
    if not names:
        return value
    if isinstance(value, list) and names[0].isdecimal() and int(names[0]) < len(value):
        return member_at(value[int(names[0])], names[1:])
    if isinstance(value, dict):
        for count in range(len(names), 0, -1):
            name = ".".join(names[:count])
            if name in value:
                return member_at(value[name], names[count:])
    return _MISSING


def find_member(record: Mapping[str, JSON], path: str) -> JSON:
    """
    Return the member of *record* at *path*, as a condition names it; None where there is none.
    """
    found = member_at(record, names_of(path))
    return None if found is _MISSING else found


def names_of(path: str) -> tuple[str, ...]:
    """
    Return the names that lead to the member at *path*, from that of the record's own member on.
    """
    first, *rest = path.split(".")
    return ("metadata" if first == "data" else first, *rest)
