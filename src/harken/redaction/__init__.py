"""
Redaction: secrets out of everything that leaves the process, by key names and by value patterns.
"""

from __future__ import annotations

import hmac
import json
import re
from collections.abc import Iterable, Mapping

import orjson

from harken.errors import RedactionError
from harken.event import JSON
from harken.redaction._assignments import NEXT_SETTING, REVERSED, secrets_in
from harken.redaction._finder import Engine, finder_of, finders, is_quick
from harken.redaction._kinds import COMPILED, RULES, Rule
from harken.redaction._names import is_secret_name
from harken.redaction._values import (
    NO_VALUES,
    is_folder,
    is_placeholder,
    is_schema,
    replace_markers,
)

__all__ = ["MIN_HASH_KEY", "RULES", "Engine", "Redactor", "Rule", "is_secret_name"]

MIN_HASH_KEY = 16
"""Bytes that the key of the keyed hash has at least."""

_WHOLE = re.compile(r"(?P<name>-{0,2}[A-Za-z_][A-Za-z0-9_.-]{0,127})=(?P<v>.+)", re.DOTALL)
_OPTION = re.compile(r"--?[A-Za-z_][A-Za-z0-9_.-]{0,64}", re.ASCII)
_PLAIN_NAME = re.compile(r"[ !#-\[\]-~]+")
_NAME_MEMBERS = ("name", "key", "header", "Name", "Key")
_VALUE_MEMBERS = ("value", "Value", "values")

# Levels of JSON in strings of JSON that are looked into.
_NESTED = 4


class Redactor:
    """
    Takes secrets out of JSON and text; safe from any thread.

    What is found is replaced by ``[REDACTED:<kind>]``, so that a reader sees that something was
    there, and of which kind. Redacting twice changes nothing more. Patterns find what looks like
    a known kind of secret; no pattern finds every secret.

    Args:
        patterns:
            More kinds: from a name to a regular expression of Python's `re`; the group ``v``, if
            there is one, is what is taken out. With patterns of one's own every event is walked,
            which costs some ten microseconds each.

        keys: More names whose values are secrets, compared without case.

        allow_keys: Names whose values are never secrets, compared without case.

        allow: Values that stay, exactly as they are.

        hash_key:
            Replaces a secret by ``[HMAC:<12 hex>]`` of HMAC-SHA256 with this key instead, so
            that the same secret can be followed without being known. At least 16 bytes, made at
            random: whoever knows the key can try guesses.

        engine:
            What looks for candidates: google-re2, or Python's `re`, which is slower and finds
            the same. ``auto`` takes re2 when it is installed.

    Raises:
        RedactionError: A pattern is malformed, the key is too short, or the engine is not
            installed.
    """

    def __init__(
        self,
        *,
        patterns: Mapping[str, str] | None = None,
        keys: Iterable[str] = (),
        allow_keys: Iterable[str] = (),
        allow: Iterable[str] = (),
        hash_key: bytes | None = None,
        engine: Engine = "auto",
    ) -> None:
        if engine not in ("auto", "re2", "python"):
            raise RedactionError(f"engine={engine!r} is unknown; use auto, re2 or python")
        self._own = tuple(
            (name, _compiled(name, pattern)) for name, pattern in (patterns or {}).items()
        )
        self._keys = frozenset(key.lower() for key in keys)
        self._allow_keys = frozenset(key.lower() for key in allow_keys)
        self._allow = frozenset(allow)
        self._hash_key = None if hash_key is None else _checked_key(hash_key)
        self._engine: Engine = engine
        # In JSON the name may look different, or have another case that bytes do not know.
        self._walk_all = bool(self._own) or not all(map(_PLAIN_NAME.fullmatch, self._keys))
        # The Kelvin sign is a "k" in lower case, also when JSON in a text escapes it.
        names = (*self._keys, "\u212a", r"\u212a") if self._keys else ()
        self._key_bytes = tuple(name.encode() for name in names)
        if engine == "re2":
            finder_of("re2")

    def suspicious(self, line: bytes) -> bool:
        """
        Whether there may be something to redact in *line*, one compact JSON text.

        False is certain; True only means that `tree()` has to look.
        """
        if self._walk_all:
            return True
        if self._key_bytes:
            lowered = line.lower()
            if any(key in lowered for key in self._key_bytes):
                return True
        try:
            find = finders[self._engine]
        except KeyError:
            find = finder_of(self._engine)
        return find(line) is not None

    def tree(self, value: JSON, counts: dict[str, int]) -> JSON:
        """
        Return decoded JSON without its secrets; *counts* gains how many of each kind there were.

        Nothing of *value* is changed in place. It must not be nested more deeply than Python
        recurses.
        """
        return self._tree(value, counts, _NESTED)

    def text(self, text: str, counts: dict[str, int] | None = None) -> str:
        """
        Return *text* without its secrets.
        """
        return self._text(text, {} if counts is None else counts, _NESTED)

    def _tree(self, value: JSON, counts: dict[str, int], levels: int) -> JSON:
        if isinstance(value, str):
            return self._text(value, counts, levels)
        if isinstance(value, list):
            return self._list(value, counts, levels)
        if isinstance(value, dict):
            return self._dict(value, counts, levels)
        return value

    def _dict(
        self, members: dict[str, JSON], counts: dict[str, int], levels: int
    ) -> dict[str, JSON]:
        named = self._secret_value_of(members)
        kept: dict[str, JSON] = {}
        for key, value in members.items():
            name = self._text(key, counts, levels)
            # Two secrets of one kind that are keys are two members, and stay two.
            while name in kept:
                name += "~"
            if key == named or self._is_secret(key, value):
                kept[name] = self._mask(value, "key", counts)
            else:
                kept[name] = self._tree(value, counts, levels)
        return kept

    def _secret_value_of(self, members: dict[str, JSON]) -> str | None:
        """
        Return which member is the value of ``{"name": "API_KEY", "value": ...}``, if it is one.
        """
        for value in _VALUE_MEMBERS:
            if value in members:
                for name in _NAME_MEMBERS:
                    text = members.get(name)
                    if isinstance(text, str) and self._is_secret(text, members[value]):
                        return value
        return None

    def _list(self, values: list[JSON], counts: dict[str, int], levels: int) -> list[JSON]:
        pairs = all(
            isinstance(item, list) and len(item) == 2 and isinstance(item[0], str)
            for item in values
        )
        kept: list[JSON] = []
        after_flag = False
        for value in values:
            if pairs and self._is_secret(value[0], value[1]):
                name = self._text(value[0], counts, levels)
                kept.append([name, self._mask(value[1], "key", counts)])
                continue
            if after_flag and not isinstance(value, (list, dict)) and self._is_value(value):
                kept.append(self._mask(value, "flag", counts))
            else:
                kept.append(self._tree(value, counts, levels))
            after_flag = (
                isinstance(value, str)
                and _OPTION.fullmatch(value) is not None
                and self._is_secret_name(value)
            )
        return kept

    def _text(self, text: str, counts: dict[str, int], levels: int) -> str:
        if text in self._allow or self._is_harmless(text):
            return text
        if levels and text[:1] in ("{", "[") and text[-1:] in ("}", "]"):
            rewritten = self._json(text, counts, levels - 1)
            if rewritten is not None:
                return rewritten
        found: dict[str, int] = {}
        clean = self._patterns(text, found)
        whole = _WHOLE.fullmatch(text)
        if whole is not None and self._is_setting(whole["name"], whole["v"]):
            # In an environment or a command line it is one value, whatever stands in it.
            found_in_name: dict[str, int] = {}
            name = self._patterns(whole["name"], found_in_name)
            if not is_placeholder(clean.removeprefix(f"{name}=")):
                _add(counts, found_in_name)
                kind = "flag" if whole["name"].startswith("-") else "key"
                return f"{name}={self._mask(whole['v'], kind, counts)}"
        _add(counts, found)
        return clean

    def _is_harmless(self, text: str) -> bool:
        """
        Whether there is certainly nothing to redact in *text* by itself: one search instead of one
        for each kind of secret, as most texts beside a secret are none.
        """
        if not is_quick(self._engine):
            return False
        try:
            return not self.suspicious(orjson.dumps(text))
        except orjson.JSONEncodeError:
            # A lone surrogate.
            return False

    def _patterns(self, text: str, counts: dict[str, int]) -> str:
        lowered = text.lower()
        for kind, literals, pattern in COMPILED:
            if any(literal in lowered for literal in literals):
                text = self._replace(pattern, kind, text, counts)
        for kind, pattern in self._own:
            text = self._replace(pattern, kind, text, counts)
        if "value" in lowered:
            text = REVERSED.sub(lambda match: self._named_value(match, counts), text)
        return self._assignments(text, counts)

    def _named_value(self, match: re.Match[str], counts: dict[str, int]) -> str:
        if not self._is_secret(match["name"], match["v"]):
            return match[0]
        begin, end = match.start("v") - match.start(), match.end("v") - match.start()
        return match[0][:begin] + self._mask(match["v"], "assignment", counts) + match[0][end:]

    def _json(self, text: str, counts: dict[str, int], levels: int) -> str | None:
        """
        Return *text*, which looks like JSON, without its secrets; None when it is no JSON.
        """
        found: dict[str, int] = {}
        try:
            tree = self._tree(json.loads(text, object_pairs_hook=_members), found, levels)
            # What stays is the author's, to the last space.
            if not found:
                return text
            separators = (", ", ": ") if '": ' in text else (",", ":")
            rewritten = json.dumps(tree, ensure_ascii=text.isascii(), separators=separators)
        except (ValueError, RecursionError):
            # Or a name stands there twice, or it is more deeply nested than Python recurses.
            return None
        _add(counts, found)
        return rewritten

    def _assignments(self, text: str, counts: dict[str, int]) -> str:
        """
        Take out the values of ``name = value``, ``"name": "value"``, ``--name value`` and the like.
        """
        kept: list[str] = []
        done = 0
        for setting, front, end in secrets_in(text, self._is_secret_name, self._allow):
            begin = setting.end()
            kind = "flag" if front.startswith("-") else "assignment"
            mark = self._mask(text[begin:end], kind, counts)
            if setting["close"] is not None and not setting["quote"]:
                # It was a number or a list; with quotes, JSON stays JSON.
                mark = f"{setting['close']}{mark}{setting['close']}"
            kept += (text[done:begin], mark)
            done = end
        return "".join((*kept, text[done:])) if kept else text

    def _is_setting(self, name: str, value: str) -> bool:
        return (
            self._is_secret(name, value)
            and value.lower() not in NO_VALUES
            and NEXT_SETTING.search(value) is None
        )

    def _is_secret(self, name: str, value: JSON) -> bool:
        return self._is_value(value) and self._is_secret_name(name) and not is_folder(name, value)

    def _is_value(self, value: JSON) -> bool:
        if value is None or isinstance(value, bool) or value in ("", [], {}):
            return False
        if isinstance(value, str):
            return not is_placeholder(value) and value not in self._allow
        return not (isinstance(value, dict) and is_schema(value))

    def _is_secret_name(self, name: str) -> bool:
        # As an option on a command line it has dashes in front.
        lowered = name.lower().lstrip("-")
        if lowered in self._allow_keys:
            return False
        # What was taken out of a name says of which kind it was, and is no part of the name.
        return lowered in self._keys or is_secret_name(replace_markers("-", name))

    def _replace(
        self, pattern: re.Pattern[str], kind: str, text: str, counts: dict[str, int]
    ) -> str:
        group = "v" if "v" in pattern.groupindex else 0

        def replaced(match: re.Match[str]) -> str:
            secret = match[group]
            if not secret or secret in self._allow or is_placeholder(secret):
                return match[0]
            begin, end = match.start(group) - match.start(), match.end(group) - match.start()
            return match[0][:begin] + self._mask(secret, kind, counts) + match[0][end:]

        return pattern.sub(replaced, text)

    def _mask(self, secret: JSON, kind: str, counts: dict[str, int]) -> str:
        counts[kind] = counts.get(kind, 0) + 1
        if self._hash_key is None:
            return f"[REDACTED:{kind}]"
        digest = hmac.digest(self._hash_key, str(secret).encode("utf-8", "replace"), "sha256")
        return f"[HMAC:{digest.hex()[:12]}]"


def _members(pairs: list[tuple[str, JSON]]) -> dict[str, JSON]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a name stands there twice, and one of the values would not be seen")
    return members


def _add(counts: dict[str, int], found: Mapping[str, int]) -> None:
    for kind, count in found.items():
        counts[kind] = counts.get(kind, 0) + count


def _compiled(name: str, pattern: str) -> re.Pattern[str]:
    if not re.fullmatch(r"\w{1,64}", name, re.ASCII):
        raise RedactionError(f"the name of a pattern must be one word, not {name!r}")
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise RedactionError(f"the pattern {name!r} is malformed: {error}") from error
    if compiled.fullmatch(""):
        raise RedactionError(f"the pattern {name!r} matches the empty text; make it match a secret")
    return compiled


def _checked_key(key: object) -> bytes:
    if not isinstance(key, (bytes, bytearray, memoryview)):
        raise RedactionError(f"hash_key must be bytes, not {type(key).__name__}")
    plain = bytes(key)
    if len(plain) < MIN_HASH_KEY or len(set(plain)) < 4:
        raise RedactionError(
            f"hash_key has {len(plain)} bytes, {len(set(plain))} of them different; use at least "
            f"{MIN_HASH_KEY} random ones, such as secrets.token_bytes(32)"
        )
    return plain
