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


# Where a token may begin: also behind an underscore, which is a part of words.
_BEGIN = r"(?<![A-Za-z0-9])"
_URL_USER = r"(?:\[(?:REDACTED:\w{1,64}|HMAC:[0-9a-f]{12})\]|[^\s/:@'\"<>])*+"

# Published forms of tokens: the documentation of the services, and gitleaks' rules. The ends are
# open, so that of a token longer than usual nothing is left.
RULES: tuple[Rule, ...] = (
    Rule(
        "private_key",
        ("private key",),
        r"-----BEGIN[ A-Z0-9]{0,40}PRIVATE KEY(?: BLOCK)?-----"
        r"(?:[^-]|-(?!----END))*+(?:-----END[ A-Z0-9]{0,40}PRIVATE KEY(?: BLOCK)?-----)?"
        # Of one whose beginning was cut off, what is left before its end.
        r"|(?<![A-Za-z0-9+/=\\\s])[A-Za-z0-9+/=\\\s]++"
        r"-----END[ A-Z0-9]{0,40}PRIVATE KEY(?: BLOCK)?-----",
        r"-----(?:BEGIN|END)[ A-Z0-9]{0,40}PRIVATE KEY",
    ),
    Rule(
        "jwt",
        ("eyj",),
        # Signed, where what is glued to its front goes, too; and encrypted, in five parts.
        r"(?<![A-Za-z0-9_-])(?:[A-Za-z0-9_-]{13,}+\.eyJ[A-Za-z0-9_-]{10,}+"
        r"(?:\.[A-Za-z0-9_-]*+)*+|eyJ[A-Za-z0-9_-]{10,}+(?:\.[A-Za-z0-9_-]*+){4})",
        r"eyJ[A-Za-z0-9_-]{10}",
    ),
    Rule(
        "aws_access_key",
        ("akia", "asia", "abia", "acca"),
        rf"{_BEGIN}(?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{{16,}}+(?![a-z])",
        r"(?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{16}",
    ),
    Rule(
        "github_token",
        ("ghp_", "gho_", "ghu_", "ghs_", "ghr_"),
        rf"{_BEGIN}gh[pousr]_[A-Za-z0-9_]{{36,}}+",
        r"gh[pousr]_[A-Za-z0-9_]{36}",
    ),
    Rule(
        "github_pat",
        ("github_pat_",),
        rf"{_BEGIN}github_pat_\w{{40,}}+",
        r"github_pat_[A-Za-z0-9_]{8}",
    ),
    Rule("gitlab_pat", ("glpat-",), rf"{_BEGIN}glpat-[\w.-]{{20,}}+", r"glpat-"),
    Rule(
        "slack_token",
        ("xox",),
        rf"{_BEGIN}xox[abceopsrd](?:-[A-Za-z0-9%+/=]++){{2,}}+",
        r"xox[abceopsrd]-[A-Za-z0-9%+/=]{1,80}",
    ),
    Rule(
        "slack_app",
        ("xapp-",),
        rf"{_BEGIN}xapp-\d-[A-Z0-9]{{1,32}}-\d{{1,20}}-[A-Za-z0-9]++",
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
        rf"{_BEGIN}sk-(?:[A-Za-z0-9_-]{{20,200}}?T3BlbkFJ[A-Za-z0-9_-]{{20,}}+"
        r"|(?:proj|svcacct|admin)-[A-Za-z0-9_-]{40,}+)",
        r"T3BlbkFJ|sk-(?:proj|svcacct|admin)-",
    ),
    Rule("anthropic", ("sk-ant-",), rf"{_BEGIN}sk-ant-[A-Za-z0-9_-]{{20,}}+", r"sk-ant-"),
    Rule("gcp_api_key", ("aiza",), rf"{_BEGIN}AIza[\w-]{{35,}}+", r"AIza"),
    Rule(
        "stripe",
        ("k_live_", "k_test_"),
        rf"{_BEGIN}[rs]k_(?:live|test)_[A-Za-z0-9]{{10,}}+",
        r"[rs]k_(?:live|test)_",
    ),
    Rule("npm", ("npm_",), rf"{_BEGIN}npm_[A-Za-z0-9]{{36,}}+", r"npm_[A-Za-z0-9]{36}"),
    Rule(
        "pypi",
        ("pypi-ageichl",),
        rf"{_BEGIN}pypi-AgEIcHlwaS5vcmc[\w-]{{50,}}+",
        r"pypi-AgEIcHl",
    ),
    Rule("sendgrid", ("sg.",), rf"{_BEGIN}SG\.[\w-]{{16,}}+\.[\w-]{{16,}}+", r"SG\."),
    Rule("huggingface", ("hf_",), rf"{_BEGIN}hf_[A-Za-z0-9]{{34,}}+", r"hf_[A-Za-z0-9]{34}"),
    Rule("twilio", ("sk",), rf"{_BEGIN}SK[0-9a-f]{{32}}(?![A-Za-z0-9])", r"SK[0-9a-f]{32}"),
    Rule(
        "azure_storage",
        ("accountkey=",),
        r"AccountKey=(?P<v>[A-Za-z0-9+/=]{60,}+)",
        r"AccountKey=",
    ),
    Rule("digitalocean", ("dop_v1_",), rf"{_BEGIN}dop_v1_[a-f0-9]{{64,}}+", r"dop_v1_"),
    Rule("vault", ("hvs.",), rf"{_BEGIN}hvs\.[\w-]{{24,}}+", r"hvs\."),
    Rule("telegram", (":aa",), r"(?<!\d)\d{8,10}:AA[\w-]{33,}+", r"[0-9]{8}:AA"),
    Rule(
        "url_credentials",
        ("://",),
        # A password may hold what should have been escaped, up to the last @ before the path; a
        # port in its place, as in https://host:80?mail=a@b, is none.
        rf"://{_URL_USER}:(?!\d{{1,5}}[?#])(?P<v>(?!\[REDACTED:|\[HMAC:)[^\s/'\"<>]+)@"
        r"|://(?P<u>(?=[A-Za-z_.~%-]{0,200}[0-9])[\w.~%-]{20,}+)@",
        r"://[^\s/\"]*@",
    ),
    Rule(
        "auth_header",
        ("authorization",),
        r"(?i:authorization)(?:\\{0,7}[\"'])?\s{0,3}[:=]\s{0,3}(?:\\{0,7}[\"'])?"
        r"(?:(?i:bearer|basic|token|negotiate|apikey|ntlm)[ \t]{1,4}"
        r"(?P<v>(?![$<*\[{(%])[^\s\"',;\\]++)"
        r"|(?i:digest|hawk|hmac|oauth|signature|aws4-[a-z0-9-]{1,30})[ \t]{1,4}"
        r"(?P<u>(?![$<*\[{(%])[^\r\n\\]++))",
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
    Rule(
        "azure_sas",
        ("sig=",),
        r"[?&]sig=(?P<v>[A-Za-z0-9%+/=_-]{40,}+)",
        r"[?&]sig=",
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
_TOKEN_OWNERS = frozenset(("access", "refresh", "api", "auth", "bearer", "oauth", "id"))
_HARMLESS_TOKENS = (
    *("next", "page", "continuation", "resume", "eos", "bos", "pad", "unk", "sep", "special"),
    *("max", "per"),
)
# Words behind the name that say in which form the secret is.
_FORMS = frozenset(("value", "string", "plaintext", "base64", "b64", "pem", "raw"))

_CUT = re.compile(r"[^A-Za-z0-9]+|(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_CAPITALS = re.compile(r"[A-Z0-9_]+_(?:KEY|PASS)[0-9_]{0,4}")
_PLACEHOLDER = re.compile(
    r"\$\{?[A-Za-z_]\w*\}?|<[^<>]{1,80}>|\*{3,}|\[REDACTED(?::\w+)?\]|\[HMAC:[0-9a-f]{12}\]"
)
_ENVIRONMENT = re.compile(r"(?P<name>[A-Za-z_][A-Za-z0-9_]{0,127})=(?P<v>.+)", re.DOTALL)
# What begins another setting behind the first: of a query, a connection string, a file of settings.
_NEXT_SETTING = re.compile(r"(?:[&;]\s{0,3}|\n\s{0,3}(?:export )?)[A-Za-z_][A-Za-z0-9_ ]{0,60}=")
_FLAG = re.compile(r"--?[A-Za-z][A-Za-z0-9_.-]{0,64}", re.ASCII)
_PATH = re.compile(r"[~./]|[A-Za-z]:\\")

# The end of a name in a text, what it is assigned with, and the quote that its value begins with.
_ASSIGNMENT = re.compile(
    r"(?P<strong>(?i:pass(?:words?|wd|phrase|code)|pwd|secrets?"
    rf"|(?:{'|'.join(_KEY_OWNERS)})[ _.-]?keys?)|_KEY|_PASS)"
    r"|(?P<weak>(?i:tokens?|credentials?|cookies?|jwt|[cx]srf|authorization|(?<![a-z0-9])auth))",
    re.ASCII,
)
_SIGN = re.compile(
    rf"(?i:[_-]?(?:{'|'.join(sorted(_FORMS))}))?(?:[_-]?\d{{1,4}})?"
    r"(?:(?P<close>\\{0,7}[\"'`])?\s{0,3}(?P<sign>=>|:=|[:=])\s{0,3}|[ ]{1,4})"
    r"(?P<quote>\\{0,7}[\"'`])?",
    re.ASCII,
)
# Unquoted, it goes on to what ends it in a shell, a query, a connection string or JSON.
_BARE = re.compile(
    r"(?![$<*\[{(\\%`])(?:[^\s\"',;&}\\]"
    r"|[,;&}](?!\s|[\"'\]})]|\Z|[\w. -]{1,40}[=:])"
    r"|\\(?![\"'\\/nrtu]))++"
)
_CODE = re.compile(r"[a-z_]{3,40}(?:\.[a-z_]{1,40}){0,8}[(\[]")
_NO_VALUES = frozenset(
    (
        *("none", "null", "true", "false", "nil", "undefined", "string", "str", "bytes", "int"),
        *("required", "optional", "missing", "invalid", "incorrect", "expired", "inherit"),
        *("unset", "!vault", "hidden", "masked", "redacted", "changed", "unchanged"),
    )
)
_TRAILING = ".,:;!?)"
_IN_NAMES = string.ascii_letters + string.digits + "_.-"
_NAME_LENGTH = 64

# What describes the shape of a value in JSON Schema, and holds none.
_SCHEMA_TYPES = frozenset(
    ("string", "number", "integer", "object", "array", "boolean", "null")
)  # fmt: skip
_SCHEMA_KEYWORDS = frozenset(
    (
        *("type", "title", "description", "format", "minLength", "maxLength", "pattern", "nullable"),
        *("writeOnly", "readOnly", "deprecated", "default", "items", "properties", "required"),
        *("additionalProperties", "anyOf", "oneOf", "allOf", "$ref", "minimum", "maximum"),
        *("minItems", "maxItems", "x-unit"),
    )
)
_NAME_MEMBERS = ("name", "key", "header", "Name", "Key")
_VALUE_MEMBERS = ("value", "Value", "values")

_NESTED = 4
"""Levels of JSON in strings of JSON that are looked into."""


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
        return (last[:-6] or before) in _TOKEN_OWNERS
    if last.endswith(("key", "keys")):
        owner = last.rpartition("key")[0] or before
        if owner.endswith(_KEY_OWNERS):
            return True
        return _CAPITALS.fullmatch(name) is not None and owner not in _HARMLESS_KEYS
    if last == "pass":
        return _CAPITALS.fullmatch(name) is not None
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
                and _FLAG.fullmatch(value) is not None
                and self._is_secret_name(value)
            )
        return kept

    def _text(self, text: str, counts: dict[str, int], levels: int) -> str:
        if text in self._allow:
            return text
        variable = _ENVIRONMENT.fullmatch(text)
        if (
            variable is not None
            and self._is_secret(variable["name"], variable["v"])
            and _NEXT_SETTING.search(variable["v"]) is None
        ):
            return f"{variable['name']}={self._mask(variable['v'], 'key', counts)}"
        lowered = text.lower()
        for kind, literals, pattern in _COMPILED:
            if any(literal in lowered for literal in literals):
                text = self._replace(pattern, kind, text, counts)
        for kind, pattern in self._own:
            text = self._replace(pattern, kind, text, counts)
        if any(literal in lowered for literal in _NAME_LITERALS):
            text = self._assignments(text, counts)
        if levels and text[:1] in ("{", "[") and text[-1:] in ("}", "]"):
            text = self._json(text, counts, levels - 1)
        return text

    def _json(self, text: str, counts: dict[str, int], levels: int) -> str:
        """
        Return *text*, which may be JSON itself, without what only its structure tells.
        """
        found: dict[str, int] = {}
        try:
            tree = self._tree(json.loads(text), found, levels)
            if not found:
                return text
            separators = (", ", ": ") if '": ' in text else (",", ":")
            rewritten = json.dumps(tree, ensure_ascii=text.isascii(), separators=separators)
        except (ValueError, RecursionError):
            # No JSON, or more deeply nested than Python recurses.
            return text
        for kind, count in found.items():
            counts[kind] = counts.get(kind, 0) + count
        return rewritten

    def _assignments(self, text: str, counts: dict[str, int]) -> str:
        """
        Take out the values of ``name = value``, ``"name": "value"``, ``--name value`` and the like.
        """
        kept: list[str] = []
        done = position = 0
        while (name := _ASSIGNMENT.search(text, position)) is not None:
            position = name.end()
            sign = _SIGN.match(text, position)
            if sign is None:
                continue
            front = text[max(done, name.start() - _NAME_LENGTH) : name.start()]
            front = front[len(front.rstrip(_IN_NAMES)) :]
            end = self._end_of_value(text, name, sign, front)
            if end > sign.end():
                kind = "flag" if front.startswith("-") else "assignment"
                secret = text[sign.end() : end]
                kept += (text[done : sign.end()], self._mask(secret, kind, counts))
                done = position = end
        return "".join((*kept, text[done:])) if kept else text

    def _end_of_value(
        self, text: str, name: re.Match[str], sign: re.Match[str], front: str
    ) -> int:
        """
        Return where the secret ends that begins behind *sign*; 0 when there is none.
        """
        begin = sign.end()
        mark, quote, is_member = sign["sign"], sign["quote"], sign["close"] is not None
        # Words stand in front of each other all the time; only a flag is then an assignment.
        if mark is None and not front.startswith("-"):
            return 0
        if not self._is_secret_name(front + name[0] + text[name.end() : sign.start(1)]
                                    if sign["close"] else front + name[0]):
            return 0
        return begin if quote or is_member else 0

    def _is_secret(self, name: str, value: JSON) -> bool:
        return self._is_value(value) and self._is_secret_name(name) and not _is_folder(name, value)

    def _is_value(self, value: JSON) -> bool:
        if value is None or isinstance(value, bool) or value in ("", [], {}):
            return False
        if isinstance(value, str):
            return _PLACEHOLDER.fullmatch(value) is None and value not in self._allow
        return not (isinstance(value, dict) and _is_schema(value))

    def _is_secret_name(self, name: str) -> bool:
        lowered = name.lower()
        if lowered in self._allow_keys:
            return False
        return lowered in self._keys or is_secret_name(name)
