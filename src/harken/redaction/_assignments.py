"""
Where a text assigns a value to a name, and where the value ends.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Iterator, Set as AbstractSet

from harken.redaction._names import FORMS, IN_NAMES, KEY_OWNERS, NAME_LENGTH
from harken.redaction._values import NO_VALUES, PLACEHOLDER, is_folder

# What begins another setting behind the first: of a query, a connection string, a command, a file.
NEXT_SETTING = re.compile(
    r"(?:[&;,]\s{0,3}|\n\s{0,3}(?:export )?)[A-Za-z_][A-Za-z0-9_ ]{0,60}=|\s--?[A-Za-z]"
    r"|\[(?:REDACTED|HMAC):"
)

# In a text: the end of a name, from one of `_NAME_LITERALS` on, what its value is assigned with,
# and the quote that the value begins with.
_OWNED = "|".join(rf"(?<={owner})|(?<={owner}[ _.-])" for owner in KEY_OWNERS)
_SETTING = re.compile(
    rf"(?P<name>(?:(?P<strong>(?i:pass(?:words?|wd|phrase|code)|pwd|secrets?|(?:{_OWNED})keys?)"
    r"|KEY(?<=_KEY)|PASS(?<=_PASS))"
    r"|(?i:tokens?|credentials?|cookies?|jwt|[cx]srf|authorization|auth(?<![a-z0-9]auth)))"
    rf"(?i:[_-]?(?:{'|'.join(sorted(FORMS))}))?(?:[_-]?\d{{1,4}})?)"
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
# With the value in front of the name.
REVERSED = re.compile(
    rf"[\"'][Vv]alue{_QUOTE}\s{{0,3}}:\s{{0,3}}b?{_QUOTE}(?P<v>[^\"'\\]++){_QUOTE}\s{{0,3}},\s{{0,3}}"
    rf"{_QUOTE}(?i:name|key|header){_QUOTE}\s{{0,3}}:\s{{0,3}}{_QUOTE}(?P<name>[\w.-]{{1,128}}){_QUOTE}"
)
_CODE = re.compile(r"[a-z_]{2,40}(?:\.[a-z_]{1,40}){0,8}[(\[]")
_TRAILING = ".,:;!?)"
_DIGIT = re.compile("[0-9]")
# What stands behind "token:" and is no word.
_TOKEN = re.compile(r"[A-Za-z0-9_+/=.-]{20}|(?=\D{0,64}\d)\S{16}", re.ASCII)
_LINE = re.compile(r"[^\r\n]*+")
# Characters of a value that decide whether it is one.
_PEEK = 100


def secrets_in(
    text: str, is_secret_name: Callable[[str], bool], allow: AbstractSet[str]
) -> Iterator[tuple[re.Match[str], str, int]]:
    """
    Yield what assigns a secret in *text*, the front of its name, and where the secret ends that
    begins behind it.

    Args:
        allow: Values that are no secrets.
    """
    done = 0
    for place in _places(text):
        setting = _SETTING.match(text, place) if place >= done else None
        if setting is None:
            continue
        front = _front(text, done, place)
        end = _end_of_value(text, setting, front, is_secret_name)
        if end and text[setting.end() : end] not in allow:
            yield setting, front, end
            done = end


def _places(text: str) -> list[int]:
    """
    Return where in *text* the end of a secret's name may begin, in order.
    """
    lowered = text.lower()
    if len(lowered) != len(text):
        # Some letters have two in lower case, and what stands behind them moves.
        lowered = text.translate(_TO_LOWER)
    found: list[int] = []
    for literal in _NAME_LITERALS:
        place = lowered.find(literal)
        while place >= 0:
            found.append(place)
            place = lowered.find(literal, place + len(literal))
    found.sort()
    return found


def _front(text: str, begin: int, place: int) -> str:
    """
    Return what stands of a name before *place*, not looking before *begin*.
    """
    before = text[max(begin, place - NAME_LENGTH) : place]
    front = before[len(before.rstrip(IN_NAMES)) :]
    if not front and before.endswith(" ") and text[place] in "kK":
        # An "api key" is written in two words.
        return before[len(before[:-1].rstrip(IN_NAMES)) :]
    return front


def _end_of_value(
    text: str, setting: re.Match[str], front: str, is_secret_name: Callable[[str], bool]
) -> int:
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
    if not is_secret_name(front + setting["name"]):
        return 0
    # What is no secret may be long, and the next name may be inside of it.
    opening = _opening(text, setting, front)
    peek = _end(text, setting, opening, begin + _PEEK)
    if not _is_assigned(text[begin:peek], setting, is_flag=is_flag):
        return 0
    placeholder = PLACEHOLDER.match(text, begin)
    if placeholder is not None and placeholder.end() >= peek:
        return 0
    return _end(text, setting, opening, len(text))


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
        if NEXT_SETTING.search(text, end, whole) is None:
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
        if word in NO_VALUES or _CODE.match(value) or is_folder(setting["name"], value):
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
