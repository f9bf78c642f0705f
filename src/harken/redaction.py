"""
Redaction: secrets out of everything that leaves the process, by key names and by value patterns.
"""

from __future__ import annotations

import hmac
import importlib
import json
import os
import re
import string
import threading
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any, Literal, NamedTuple

from harken.errors import RedactionError
from harken.event import JSON

Engine = Literal["auto", "re2", "python"]

MIN_HASH_KEY = 16
"""Bytes that the key of the keyed hash has at least."""


class Rule(NamedTuple):
    """
    One kind of secret.

    Attributes:
        kind: What the marker calls it.

        literals: Lower-case pieces, one of which is in every such secret.

        pattern:
            Finds it in a text; the group ``v``, if there is one, is what is taken out. It begins
            at few places and never gives back what it took, so that its cost is linear.

        candidate:
            Finds in the JSON of a text whatever *pattern* finds in the text, and maybe more. It
            has no look-around, which RE2 does not know, and no word boundaries, because in JSON
            the letter of an escape (``\\n``) may stand before a word.
    """

    kind: str
    literals: tuple[str, ...]
    pattern: str
    candidate: str


def _begin(literal: str) -> str:
    """
    Return the pattern of *literal* where a token may begin: also behind an underscore.

    The look behind stands after the letters, so that they are what Python searches for.
    """
    return rf"{literal}(?<![A-Za-z0-9]{literal})"


_URL_USER = r"(?:\[(?:REDACTED:\w{1,64}|HMAC:[0-9a-f]{12})\]|[^\s/:@'\"<>])*+"

# Published forms of tokens: the documentation of the services, and gitleaks' rules. The ends are
# open, so that of a token longer than usual nothing is left.
RULES: tuple[Rule, ...] = (
    Rule(
        "private_key",
        ("private key",),
        r"-----BEGIN[ A-Z0-9]{0,40}PRIVATE KEY(?: BLOCK)?-----"
        r"(?:[^-]|-(?!----END))*+(?:-----END[ A-Z0-9]{0,40}PRIVATE KEY(?: BLOCK)?-----)?",
        r"-----(?:BEGIN|END)[ A-Z0-9]{0,40}PRIVATE KEY",
    ),
    # Of one whose beginning was cut off, what is left before its end.
    Rule(
        "private_key",
        ("private key-----", "private key block-----"),
        r"(?<![A-Za-z0-9+/=\\\s])[A-Za-z0-9+/=\\\s]++"
        r"-----END[ A-Z0-9]{0,40}PRIVATE KEY(?: BLOCK)?-----",
        r"-----END[ A-Z0-9]{0,40}PRIVATE KEY",
    ),
    # Signed, where what is glued to its front goes, too; and encrypted, in five parts.
    Rule(
        "jwt",
        ("eyj",),
        r"(?<![A-Za-z0-9_-])(?:[A-Za-z0-9_-]{13,}+\.eyJ[A-Za-z0-9_-]{10,}+"
        r"(?:\.[A-Za-z0-9_-]++){0,3}+|eyJ[A-Za-z0-9_-]{10,}+(?:\.[A-Za-z0-9_-]*+){4})",
        r"eyJ[A-Za-z0-9_-]{10}",
    ),
    Rule(
        "aws_access_key",
        ("akia", "asia", "abia", "acca"),
        r"A(?<![A-Za-z0-9]A)(?:KIA|SIA|BIA|CCA)[A-Z0-9]{16,}+",
        r"A(?:KIA|SIA|BIA|CCA)[A-Z0-9]{16}",
    ),
    Rule(
        "github_token",
        ("ghp_", "gho_", "ghu_", "ghs_", "ghr_"),
        rf"{_begin('gh')}[pousr]_\w{{36,}}+",
        r"gh[pousr]_[A-Za-z0-9_]{36}",
    ),
    Rule(
        "github_pat",
        ("github_pat_",),
        rf"{_begin('github_pat_')}\w{{40,}}+",
        r"github_pat_[A-Za-z0-9_]{40}",
    ),
    Rule("gitlab_pat", ("glpat-",), rf"{_begin('glpat-')}[\w.-]{{20,}}+", r"glpat-"),
    Rule(
        "slack_token",
        ("xox",),
        rf"{_begin('xox')}[abcdeoprs](?:-[A-Za-z0-9%+/=]++){{2,}}+",
        r"xox[abcdeoprs]-[A-Za-z0-9%+/=]",
    ),
    Rule(
        "slack_app",
        ("xapp-",),
        rf"{_begin('xapp-')}\d-[A-Z0-9]{{1,32}}-\d{{1,20}}-[A-Za-z0-9]++",
        r"xapp-",
    ),
    Rule(
        "slack_webhook",
        ("hooks.slack.com",),
        r"hooks\.slack\.com/(?:services|workflows|triggers)/(?P<v>[A-Za-z0-9+/_-]{20,}+)",
        r"hooks\.slack\.com/",
    ),
    Rule(
        "openai",
        ("t3blbkfj", "sk-proj-", "sk-svcacct-", "sk-admin-"),
        rf"{_begin('sk-')}(?:[A-Za-z0-9_-]{{20,200}}?T3BlbkFJ[A-Za-z0-9_-]{{20,}}+"
        r"|(?:proj|svcacct|admin)-[A-Za-z0-9_-]{40,}+)",
        r"T3BlbkFJ|sk-(?:proj|svcacct|admin)-",
    ),
    Rule("anthropic", ("sk-ant-",), rf"{_begin('sk-ant-')}[\w-]{{20,}}+", r"sk-ant-"),
    Rule("gcp_api_key", ("aiza",), rf"{_begin('AIza')}[\w-]{{35,}}+", r"AIza"),
    Rule(
        "stripe",
        ("k_live_", "k_test_"),
        r"(?<![A-Za-z0-9])[rs]k_(?:live|test)_[A-Za-z0-9]{10,}+",
        r"[rs]k_(?:live|test)_",
    ),
    Rule("npm", ("npm_",), rf"{_begin('npm_')}[A-Za-z0-9]{{36,}}+", r"npm_[A-Za-z0-9]{36}"),
    Rule(
        "pypi",
        ("pypi-ageichl",),
        rf"{_begin('pypi-')}AgEIcHlwaS5vcmc[\w-]{{50,}}+",
        r"pypi-AgEIcHl",
    ),
    Rule("sendgrid", ("sg.",), rf"{_begin('SG')}\.[\w-]{{16,}}+\.[\w-]{{16,}}+", r"SG\."),
    Rule("huggingface", ("hf_",), rf"{_begin('hf_')}[A-Za-z0-9]{{34,}}+", r"hf_[A-Za-z0-9]{34}"),
    Rule("twilio", ("sk",), rf"{_begin('SK')}[0-9a-f]{{32}}(?![A-Za-z0-9])", r"SK[0-9a-f]{32}"),
    Rule(
        "azure_storage",
        ("accountkey=",),
        r"AccountKey=(?P<v>[A-Za-z0-9+/=]{60,}+)",
        r"AccountKey=",
    ),
    Rule("azure_sas", ("sig=",), r"[?&]sig=(?P<v>[\w%+/=-]{40,}+)", r"[?&]sig="),
    Rule("digitalocean", ("dop_v1_",), rf"{_begin('dop_v1_')}[a-f0-9]{{64,}}+", r"dop_v1_"),
    Rule("vault", ("hvs.",), rf"{_begin('hvs')}\.[\w-]{{24,}}+", r"hvs\."),
    Rule("telegram", (":aa",), r"(?<!\d)\d{8,10}:AA[\w-]{33,}+", r"[0-9]{8}:AA"),
    # A password may hold what should have been escaped, up to the last @ before the path; a port
    # in its place, as in https://host:80?mail=a@b, is none.
    Rule(
        "url_credentials",
        ("://",),
        rf"://{_URL_USER}:(?!\d{{1,5}}[?#,;])(?P<v>(?!\[REDACTED:|\[HMAC:)[^\s/'\"<>]+)@",
        r"://[^\s/\"]*@",
    ),
    Rule(
        "url_credentials",
        ("://",),
        r"://(?P<v>(?=[A-Za-z_.~%-]{0,200}[0-9])[\w.~%-]{20,}+)@",
        r"://[\w.~%-]*@",
    ),
    Rule(
        "auth_header",
        ("authorization",),
        r"(?i:authorization)(?:\\{0,31}[\"'])?\s{0,3}[:=]\s{0,3}(?:\\{0,31}[\"'])?"
        r"(?i:bearer|basic|token|negotiate|apikey|ntlm)[ \t]{1,4}"
        r"(?P<v>(?![$<*\[{(%])[^\s\"',;\\]++)",
        r"(?i:authorization)",
    ),
    Rule(
        "auth_header",
        ("authorization",),
        r"(?i:authorization)(?:\\{0,31}[\"'])?\s{0,3}[:=]\s{0,3}(?:\\{0,31}[\"'])?"
        r"(?i:digest|hawk|hmac|oauth|signature|aws4-[a-z0-9-]{1,30})[ \t]{1,4}"
        r"(?P<v>(?![$<*\[{(%])[^\r\n]++)",
        r"(?i:authorization)",
    ),
    Rule(
        "auth_header",
        ("bearer", "basic"),
        r"(?i:\b(?:bearer|basic))[ \t]{1,4}"
        r"(?P<v>(?=[A-Za-z0-9+/_.~=-]{0,60}[0-9+/_=])[A-Za-z0-9+/_.~-]{16,}+={0,2})",
        r"(?i:bearer|basic)(?: |\\t)",
    ),
    Rule(
        "cookie",
        ("cookie:",),
        r"(?i:\b(?:set-)?cookie:) {0,3}(?P<v>[^\s;=\[]{1,160}=[^\r\n]++)",
        r"(?i:cookie:)",
    ),
)

# What the names of secrets end with, once cut into words.
_STRONG_WORDS = ("password", "passwords", "passwd", "passphrase", "passcode", "secret", "secrets")
_WORDS = frozenset(
    (
        *_STRONG_WORDS,
        *("pwd", "pw", "credential", "credentials", "cookie", "cookies", "authorization"),
        *("jwt", "csrf", "xsrf"),
    )
)
# Words before "key" that make it one, and those before "token" that make it something else:
# cursors and model vocabulary.
_KEY_OWNERS = (
    *("api", "private", "access", "secret", "signing", "encryption", "auth", "account", "master"),
    *("shared", "service", "subscription"),
)
_HARMLESS_KEYS = frozenset(
    ("primary", "public", "foreign", "sort", "partition", "cache", "routing")
)
_TOKEN_OWNERS = ("access", "refresh", "api", "auth", "bearer")
_HARMLESS_TOKENS = (
    *("next", "page", "continuation", "resume", "eos", "bos", "pad", "unk", "sep", "special"),
    *("max", "per"),
)
# Words behind the name that say in which form the secret is.
_FORMS = frozenset(("value", "string", "plaintext", "base64", "b64", "pem", "raw"))

_CUT = re.compile(r"[^A-Za-z0-9]+|(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_CAPITALS = re.compile(r"[A-Z0-9_]+_(?:KEY|PASS)[0-9_]{0,4}")
_PLACEHOLDER = re.compile(
    r"\$[A-Za-z_]\w*|\$\{[^{}]{1,80}\}|\$\([^()]{1,80}\)|\{\{[^{}]{1,80}\}\}|<[^<>]{1,80}>|\*{3,}"
    r"|%[A-Za-z_]\w*%|%(?:\(\w{1,40}\))?[sdr]|\.{3,}|[xX]{3,}"
    r"|\[REDACTED(?::\w+)?\]|\[HMAC:[0-9a-f]{12}\]",
    re.ASCII,
)
_WHOLE = re.compile(r"(?P<name>-{0,2}[A-Za-z_][A-Za-z0-9_.-]{0,127})=(?P<v>.+)", re.DOTALL)
# What begins another setting behind the first: of a query, a connection string, a command, a file.
_NEXT_SETTING = re.compile(
    r"(?:[&;,]\s{0,3}|\n\s{0,3}(?:export )?)[A-Za-z_][A-Za-z0-9_ ]{0,60}=|\s--?[A-Za-z]"
    r"|\[(?:REDACTED|HMAC):"
)
_OPTION = re.compile(r"--?[A-Za-z_][A-Za-z0-9_.-]{0,64}", re.ASCII)
_PATH = re.compile(r"[~./]|[A-Za-z]:\\")

# In a text: the end of a name, from one of `_NAME_LITERALS` on, what its value is assigned with,
# and the quote that the value begins with.
_OWNED = "|".join(rf"(?<={owner})|(?<={owner}[ _.-])" for owner in _KEY_OWNERS)
_SETTING = re.compile(
    rf"(?P<name>(?:(?P<strong>(?i:pass(?:words?|wd|phrase|code)|pwd|secrets?|(?:{_OWNED})keys?)"
    r"|KEY(?<=_KEY)|PASS(?<=_PASS))"
    r"|(?i:tokens?|credentials?|cookies?|jwt|[cx]srf|authorization|auth(?<![a-z0-9]auth)))"
    rf"(?i:[_-]?(?:{'|'.join(sorted(_FORMS))}))?(?:[_-]?\d{{1,4}})?)"
    r"(?:(?P<close>\\{0,31}[\"'`])?\s{0,3}(?P<sign>=>|:=|[:=]|,"
    r"(?:\s{0,3}\\{0,31}[\"'][Vv]alue\\{0,31}[\"']\s{0,3}:)?)\s{0,3}|[ ]{1,4})"
    r"(?:[bBrRuUfF]{1,2}(?=[\"']))?(?P<quote>\\{0,31}[\"'`])?",
    re.ASCII,
)
_NAME_LITERALS = (
    *("pass", "pwd", "secret", "token", "credential", "cookie", "auth", "jwt", "csrf", "xsrf"),
    "key",
)
_TO_LOWER = {ord(letter): letter.lower() for letter in string.ascii_uppercase}
# Unquoted, it goes on to what ends it in a shell, a query, a connection string or JSON.
_BARE = re.compile(
    r"(?:\[(?:REDACTED:\w{1,64}|HMAC:[0-9a-f]{12})\]|(?![{\[(`\\]))"
    r"(?:[^\s\"',;&}\\]|[,;&}](?!\s|[\"'\]})\\]|\Z|[\w.-]{1,40}[=:]|(?<=;)[\w. -]{1,40}=)"
    r"|\\(?!\\{0,31}[\"']))++",
    re.ASCII,
)
# What stands before the first half of a pair, and before a setting that is quoted as a whole.
_PAIR = re.compile(r"[\[(,]\s{0,3}[\[(]\s{0,3}\\{0,31}[\"']\Z")
_OPENING = re.compile(r"\\{0,31}[\"']\Z")
_BRACKETS = re.compile(
    r"[\[\]{}()]|(?<!\\)\"(?:[^\"\\]|\\.)*+\"|(?<![\\\w])'(?:[^'\\]|\\.)*+'", re.DOTALL
)
# Nothing, a template, or a JSON Schema.
_QUOTE = r"\\{0,31}[\"']"
_NO_SECRETS = re.compile(
    rf"[\[{{(]\s*[\]}})]|\{{\{{|\{{\s{{0,3}}{_QUOTE}(?:type|anyOf|\$ref|title){_QUOTE}\s{{0,3}}:\s{{0,3}}"
    rf"(?:{_QUOTE}(?:array|boolean|integer|null|number|object|string){_QUOTE}|\[)"
)
_REVERSED = re.compile(
    rf"[\"'][Vv]alue{_QUOTE}\s{{0,3}}:\s{{0,3}}b?{_QUOTE}(?P<v>[^\"'\\]++){_QUOTE}\s{{0,3}},\s{{0,3}}"
    rf"{_QUOTE}(?i:name|key|header){_QUOTE}\s{{0,3}}:\s{{0,3}}{_QUOTE}(?P<name>[\w.-]{{1,128}}){_QUOTE}"
)
_CODE = re.compile(r"[a-z_]{2,40}(?:\.[a-z_]{1,40}){0,8}[(\[]")
_NO_VALUES = frozenset(
    (
        *("none", "null", "true", "false", "nil", "undefined", "string", "str", "bytes", "int"),
        *("required", "optional", "missing", "invalid", "incorrect", "expired", "inherit"),
        *("unset", "!vault", "hidden", "masked", "redacted", "changed", "unchanged"),
    )
)
_TRAILING = ".,:;!?)"
_DIGIT = re.compile("[0-9]")
# What stands behind "token:" and is no word.
_TOKEN = re.compile(r"[A-Za-z0-9_+/=.-]{20}|(?=\D{0,64}\d)\S{16}", re.ASCII)
_LINE = re.compile(r"[^\r\n]*+")
_IN_NAMES = string.ascii_letters + string.digits + "_.-"
_NAME_BYTES = _IN_NAMES.encode()
_NAME_LENGTH = 64

# What describes the shape of a value in JSON Schema, and holds none.
_SCHEMA_TYPES = frozenset(("string", "number", "integer", "object", "array", "boolean", "null"))
_SCHEMA_KEYWORDS = frozenset(
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
_NAME_MEMBERS = ("name", "key", "header", "Name", "Key")
_VALUE_MEMBERS = ("value", "Value", "values")

# Levels of JSON in strings of JSON that are looked into, and characters of a value that decide
# whether it is one.
_NESTED = 4
_PEEK = 100


@lru_cache(maxsize=4096)
def is_secret_name(name: str) -> bool:
    """
    Whether a value under *name* is taken for a secret, whatever it looks like.

    The name is cut into words (``clientSecret``, ``DB_PASSWORD``, ``x-api-key``); what counts is
    how it ends, so ``input_tokens``, ``token_type``, ``credential_id``, ``author`` and
    ``primary_key`` are none.
    """
    words = [word.lower() for word in _CUT.split(name) if word and not word.isdigit()]
    if len(words) > 1 and words[-1] in _FORMS:
        del words[-1]
    if not words:
        return False
    last = words[-1].rstrip("0123456789")
    before = words[-2] if len(words) > 1 else ""
    if last.endswith("token"):
        return not (last[:-5] or before).endswith(_HARMLESS_TOKENS)
    if last.endswith("tokens"):
        return (last[:-6] or before).endswith(_TOKEN_OWNERS)
    if last.endswith(("key", "keys")):
        owner = last.rpartition("key")[0]
        if owner.endswith(_KEY_OWNERS) if owner else before in _KEY_OWNERS:
            return True
        return (
            _CAPITALS.fullmatch(name.lstrip("-")) is not None
            and (owner or before) not in _HARMLESS_KEYS
        )
    if last == "pass":
        return _CAPITALS.fullmatch(name.lstrip("-")) is not None
    if before.endswith("pass") and last in ("word", "words", "wd", "phrase", "code"):
        return True
    return last in _WORDS or last.endswith(_STRONG_WORDS) or words == ["auth"]


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
        self._key_bytes = tuple(key.encode() for key in self._keys)
        if engine == "re2":
            _finder("re2")

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
        find = _finders.get(self._engine) or _finder(self._engine)
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
        if text in self._allow:
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
            value = clean.removeprefix(f"{whole['name']}=")
            if _PLACEHOLDER.fullmatch(value) is None:
                kind = "flag" if whole["name"].startswith("-") else "key"
                return f"{whole['name']}={self._mask(whole['v'], kind, counts)}"
        _add(counts, found)
        return clean

    def _patterns(self, text: str, counts: dict[str, int]) -> str:
        lowered = text.lower()
        for kind, literals, pattern in _COMPILED:
            if any(literal in lowered for literal in literals):
                text = self._replace(pattern, kind, text, counts)
        for kind, pattern in self._own:
            text = self._replace(pattern, kind, text, counts)
        if "value" in lowered:
            text = _REVERSED.sub(lambda match: self._named_value(match, counts), text)
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
        for place in _places(text):
            setting = _SETTING.match(text, place) if place >= done else None
            if setting is None:
                continue
            front = _front(text, done, place)
            end = self._end_of_value(text, setting, front)
            if end:
                begin = setting.end()
                kind = "flag" if front.startswith("-") else "assignment"
                mark = self._mask(text[begin:end], kind, counts)
                if setting["close"] is not None and not setting["quote"]:
                    # It was a number or a list; with quotes, JSON stays JSON.
                    mark = f"{setting['close']}{mark}{setting['close']}"
                kept += (text[done:begin], mark)
                done = end
        return "".join((*kept, text[done:])) if kept else text

    def _end_of_value(self, text: str, setting: re.Match[str], front: str) -> int:
        """
        Return where the secret ends that begins behind *setting*; 0 when there is none.
        """
        begin, is_flag = setting.end(), front.startswith("-")
        # Words stand in front of each other all the time; only behind a flag is that a value.
        sign = setting["sign"]
        if sign is None and not is_flag:
            return 0
        if sign == "," and not is_flag and not _is_pair(text, setting, front):
            return 0
        sure = is_flag or setting["strong"] is not None or setting["close"] is not None
        is_set = sign is not None and "=" in sign
        if not sure and not is_set and _TOKEN.match(text, begin) is None:
            return 0
        if not self._is_secret_name(front + setting["name"]):
            return 0
        # What is no secret may be long, and the next name may be inside of it.
        opening = _opening(text, setting, front)
        peek = _end(text, setting, opening, begin + _PEEK)
        if not _is_assigned(text[begin:peek], setting, is_flag=is_flag):
            return 0
        placeholder = _PLACEHOLDER.match(text, begin)
        if placeholder is not None and placeholder.end() >= peek:
            return 0
        end = _end(text, setting, opening, len(text))
        return 0 if text[begin:end] in self._allow else end

    def _is_setting(self, name: str, value: str) -> bool:
        return (
            self._is_secret(name, value)
            and value.lower() not in _NO_VALUES
            and _NEXT_SETTING.search(value) is None
        )

    def _is_secret(self, name: str, value: JSON) -> bool:
        return self._is_value(value) and self._is_secret_name(name) and not _is_folder(name, value)

    def _is_value(self, value: JSON) -> bool:
        if value is None or isinstance(value, bool) or value in ("", [], {}):
            return False
        if isinstance(value, str):
            return _PLACEHOLDER.fullmatch(value) is None and value not in self._allow
        return not (isinstance(value, dict) and _is_schema(value))

    def _is_secret_name(self, name: str) -> bool:
        # As an option on a command line it has dashes in front.
        lowered = name.lower().lstrip("-")
        if lowered in self._allow_keys:
            return False
        return lowered in self._keys or is_secret_name(name)

    def _replace(
        self, pattern: re.Pattern[str], kind: str, text: str, counts: dict[str, int]
    ) -> str:
        group = "v" if "v" in pattern.groupindex else 0

        def replaced(match: re.Match[str]) -> str:
            secret = match[group]
            if not secret or secret in self._allow or _PLACEHOLDER.fullmatch(secret):
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


def _places(text: str) -> list[int]:
    """
    Return where in *text* the end of a secret's name may begin, in order.
    """
    lowered = text.lower()
    if len(lowered) != len(text):
        # Some letters have two in lower case, and what stands behind them moves.
        lowered = text.translate(_TO_LOWER)
    places: list[int] = []
    for literal in _NAME_LITERALS:
        place = lowered.find(literal)
        while place >= 0:
            places.append(place)
            place = lowered.find(literal, place + len(literal))
    places.sort()
    return places


def _front(text: str, begin: int, place: int) -> str:
    """
    Return what stands of a name before *place*, not looking before *begin*.
    """
    before = text[max(begin, place - _NAME_LENGTH) : place]
    front = before[len(before.rstrip(_IN_NAMES)) :]
    if not front and before.endswith(" ") and text[place] in "kK":
        # An "api key" is written in two words.
        return before[len(before[:-1].rstrip(_IN_NAMES)) :]
    return front


def _is_pair(text: str, setting: re.Match[str], front: str) -> bool:
    """
    Whether a name and a value are one of ``[["name", "value"], ...]``, not words of a list.
    """
    if setting["close"] is None or setting["quote"] is None:
        return False
    before = text[max(0, setting.start() - len(front) - 40) : setting.start() - len(front)]
    return _PAIR.search(before) is not None


def _opening(text: str, setting: re.Match[str], front: str) -> str:
    """
    Return the quote that ``"name=value"`` stands in as a whole; empty when it does not.
    """
    if setting["quote"] or setting["close"] or setting["sign"] != "=":
        return ""
    begin = setting.start() - len(front)
    before = _OPENING.search(text, max(0, begin - 32), begin)
    return "" if before is None else before[0]


def _end(text: str, setting: re.Match[str], opening: str, limit: int) -> int:
    """
    Return where the value behind *setting* ends, at *limit* at the latest.
    """
    begin = setting.end()
    if setting["quote"]:
        return _end_of_quoted(text, begin, setting["quote"], limit)
    if setting["close"] is not None and text[begin : begin + 1] in ("[", "{", "("):
        return _end_of_group(text, begin, limit)
    bare = _BARE.match(text, begin, limit)
    end = begin if bare is None else bare.end()
    if opening and end > begin:
        whole = _end_of_quoted(text, begin, opening, limit)
        if _NEXT_SETTING.search(text, end, whole) is None:
            return max(end, whole)
    return end


def _end_of_group(text: str, begin: int, limit: int) -> int:
    """
    Return where the bracket at *begin* is closed; *limit* where it is not.
    """
    depth = 0
    for part in _BRACKETS.finditer(text, begin, limit):
        if part[0] in ("[", "{", "("):
            depth += 1
        elif part[0] in ("]", "}", ")"):
            depth -= 1
        if depth == 0:
            return part.end()
    return min(limit, len(text))


def _end_of_quoted(text: str, begin: int, quote: str, limit: int) -> int:
    end = text.find(quote, begin, limit)
    # With one backslash more it is a quote inside of the value.
    while end > begin and text[end - 1] == "\\":
        end = text.find(quote, end + 1, limit)
    if end < 0:
        end = min(limit, len(text))
    line = _LINE.match(text, begin, end)
    return end if line is None else line.end()


def _is_assigned(value: str, setting: re.Match[str], *, is_flag: bool) -> bool:
    """
    Whether *value*, of which only the beginning may be known, is a value and no word of a sentence.
    """
    if not value:
        return False
    sign, quote = setting["sign"], setting["quote"]
    if not quote and value[0] in "[{(":
        return _NO_SECRETS.match(value) is None
    if not quote:
        word = value.rstrip(_TRAILING).lower()
        if word in _NO_VALUES or _CODE.match(value) or _is_folder(setting["name"], value):
            return False
    if sign is not None and sign.startswith(","):
        # The next word of a quoted command line, or the other half of a pair.
        return bool(quote) and setting["close"] is not None and not value.startswith("-")
    if sign is None:
        return bool(quote) or len(value) >= 16 or _DIGIT.search(value) is not None
    if is_flag or setting["close"] is not None:
        return True
    if setting["strong"] is not None:
        return bool(quote) or len(value) >= (4 if "=" in sign else 6)
    if "=" in sign:
        return len(value) >= 6
    return _TOKEN.match(value) is not None


def _members(pairs: list[tuple[str, JSON]]) -> dict[str, JSON]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a name stands there twice, and one of the values would not be seen")
    return members


def _add(counts: dict[str, int], found: Mapping[str, int]) -> None:
    for kind, count in found.items():
        counts[kind] = counts.get(kind, 0) + count


def _is_schema(value: dict[str, JSON]) -> bool:
    """
    Whether *value* is a JSON Schema, which tells what a password looks like, not what it is.
    """
    if not value.keys() <= _SCHEMA_KEYWORDS or value.get("default") not in (None, ""):
        return False
    given = value.get("type")
    types = given if isinstance(given, list) else [given]
    typed = all(isinstance(kind, str) and kind in _SCHEMA_TYPES for kind in types)
    return typed or not value.keys().isdisjoint(("anyOf", "oneOf", "allOf", "$ref"))


def _is_folder(name: str, value: JSON) -> bool:
    # A shell has its working directory in PWD.
    return (
        name.lower().endswith("pwd") and isinstance(value, str) and _PATH.match(value) is not None
    )


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


_COMPILED = tuple((rule.kind, rule.literals, re.compile(rule.pattern, re.ASCII)) for rule in RULES)

# What the name of a secret looks like in JSON, with what stands behind it: the end of a string, or
# a sign. An escape counts as no letter; there is one way to read it, so that Python's
# backtracking stays linear.
_GAP = r"(?:[^A-Za-z\"\\]|\\(?:u[0-9A-Fa-f]{4}|[^u]))*"
_BEHIND = rf"{_GAP}(?:[:=\"']|\\[\"\\])"
_FORM = rf"(?:{_GAP}(?:{'|'.join(sorted(_FORMS))}))?"
_NAMES = (
    ("pass", rf"pass{_GAP}(?:words?|wd|phrase|code)"),
    ("secret", "secrets?"),
    ("token", "token"),
    ("credential", "credentials?"),
    ("cookie", "cookies?"),
    ("authorization", "authorization"),
    *((word, word) for word in ("pwd", "pw", "jwt", "csrf", "xsrf", "auth")),
    *((owner, rf"{owner}{_GAP}keys?") for owner in _KEY_OWNERS),
    *((owner, rf"{owner}{_GAP}tokens") for owner in _TOKEN_OWNERS),
)
_CAPITAL_NAMES = rf"_(?:KEY|PASS){_BEHIND}"
# Behind a flag, its value is another word.
_FLAG_VALUE = r"[A-Za-z0-9_-]{0,16} "
_PLAIN_NAME = re.compile(r"[ !#-\[\]-~]+")

_finders: dict[Engine, Callable[[bytes], object]] = {}
_finders_lock = threading.Lock()


def _after_fork() -> None:
    """
    Compile anew in a forked child: RE2 holds a lock while it searches, maybe at the fork.
    """
    global _finders_lock
    _finders_lock = threading.Lock()
    _finders.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _finder(engine: Engine) -> Callable[[bytes], object]:
    """
    Return what finds the first candidate in a line, or None; made once for the process.
    """
    with _finders_lock:
        if engine not in _finders:
            _finders[engine] = _make_finder(engine)
        return _finders[engine]


def _make_finder(engine: Engine) -> Callable[[bytes], object]:
    if engine == "python":
        return _python_finder()
    try:
        re2: Any = importlib.import_module("re2")
    except ImportError as error:
        if engine == "re2":
            raise RedactionError("engine='re2' needs google-re2; pip install google-re2") from error
        return _python_finder()
    options = re2.Options()
    options.encoding = re2.Options.Encoding.LATIN1
    options.max_mem = 64 << 20
    names = "|".join(name for _, name in _NAMES)
    candidates = (
        *dict.fromkeys(rule.candidate for rule in RULES),
        rf"(?i:(?:{names}){_FORM}){_BEHIND}",
        rf"-[A-Za-z0-9_.-]{{0,{_NAME_LENGTH}}}(?i:{names}){_FLAG_VALUE}",
        _CAPITAL_NAMES,
    )
    search: Callable[[bytes], object] = re2.compile("|".join(candidates).encode(), options).search
    return search


def _python_finder() -> Callable[[bytes], object]:
    # Literals first: an alternation of thirty patterns is fifty times dearer than their search. A
    # pattern that begins with its literal, in one case, is found by it, too.
    guarded = [
        (literal.encode(), re.compile(rule.candidate.encode()))
        for rule in RULES
        for literal in rule.literals
    ]
    capitals = [
        (text.encode(), re.compile(rf"{text}{_BEHIND}".encode())) for text in ("_KEY", "_PASS")
    ]
    # What stands in every name of a group, and the group: many lines can be skipped at once.
    groups: dict[bytes, list[tuple[bytes, re.Pattern[bytes]]]] = {
        b"": [],
        b"key": [],
        b"tokens": [],
    }
    for literal, name in _NAMES:
        whole = next((end for end in ("key", "tokens") if end in name), "")
        pattern = re.compile(rf"{name}(?:{_FORM}{_BEHIND}|(?P<flag>{_FLAG_VALUE}))".encode())
        groups[whole.encode()].append((literal.encode(), pattern))

    def find(line: bytes) -> object:
        lowered = line.lower()
        for literal, pattern in guarded:
            if literal in lowered:
                found = pattern.search(line)
                if found is not None:
                    return found
        for literal, pattern in capitals:
            if literal in line:
                found = pattern.search(line)
                if found is not None:
                    return found
        for whole, names in groups.items():
            if whole not in lowered:
                continue
            for literal, pattern in names:
                if literal not in lowered:
                    continue
                for found in pattern.finditer(lowered):
                    if found["flag"] is None or _is_behind_dash(lowered, found.start()):
                        return found
        return None

    return find


def _is_behind_dash(line: bytes, position: int) -> bool:
    front = line[max(0, position - _NAME_LENGTH - 1) : position]
    return b"-" in front[len(front.rstrip(_NAME_BYTES)) :]
