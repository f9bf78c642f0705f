"""
The two engines that look for candidates: google-re2 and `re`.
"""

from __future__ import annotations

import importlib
import os
import re
import threading
from collections.abc import Callable
from typing import Any, Literal

from harken.errors import RedactionError
from harken.redaction._kinds import RULES
from harken.redaction._names import FORMS, IN_NAMES, KEY_OWNERS, NAME_LENGTH, TOKEN_OWNERS

Engine = Literal["auto", "re2", "python"]

_NAME_BYTES = IN_NAMES.encode()

# JSON in a text may write any character as an escape, and a slash with a backslash; the JSON that
# it stands in never does. Whatever is written so may be a secret.
_ESCAPED = r"\\(?:u00[2-7]|/)"

# What the name of a secret looks like in JSON, with what stands behind it: the end of a string, or
# a sign. An escape counts as no letter, and in JSON in a text it has several backslashes; there is
# one way to read it, so that Python's backtracking stays linear.
_GAP = r"(?:[^A-Za-z\"\\]|\\(?:u[0-9A-Fa-f]{4}|[\"bfnrt])?)*"
_BEHIND = rf"{_GAP}(?:[:=\"']|\\[\"\\])"
_FORM = rf"(?:{_GAP}(?:{'|'.join(sorted(FORMS))}))?"
_NAMES = (
    ("pass", rf"pass{_GAP}(?:words?|wd|phrase|code)"),
    ("secret", "secrets?"),
    ("token", "token"),
    ("credential", "credentials?"),
    ("cookie", "cookies?"),
    ("authorization", "authorization"),
    *((word, word) for word in ("pwd", "pw", "jwt", "csrf", "xsrf", "auth")),
    *((owner, rf"{owner}{_GAP}keys?") for owner in KEY_OWNERS),
    *((owner, rf"{owner}{_GAP}tokens") for owner in TOKEN_OWNERS),
)
_CAPITAL_NAMES = ("_KEY", "_PASS")
# Behind a flag, its value is another word, or in a list in brackets the next item; what a form and
# a number take before that is at most 16 letters.
_FORM_LENGTH = 16
_FLAG_VALUE = r"[ ,`\\]"

finders: dict[Engine, Callable[[bytes], object]] = {}
_finders_lock = threading.RLock()


def _before_fork() -> None:
    """
    Have no import or compilation under way: a child would wait for its end for ever.
    """
    _finders_lock.acquire()


def _after_fork_in_parent() -> None:
    _finders_lock.release()


def _after_fork_in_child() -> None:
    """
    Compile anew in a forked child: RE2 holds a lock while it searches, maybe at the fork.
    """
    global _finders_lock
    _finders_lock = threading.RLock()
    finders.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=_after_fork_in_parent,
        after_in_child=_after_fork_in_child,
    )


def finder_of(engine: Engine) -> Callable[[bytes], object]:
    """
    Return what gives None for a line without a candidate; made once for the process.
    """
    with _finders_lock:
        if engine not in finders:
            finders[engine] = _make_finder(engine)
        return finders[engine]


def is_quick(engine: Engine) -> bool:
    """
    Whether its one search is cheaper than one for each kind of secret, as that of RE2 is.
    """
    return (finders.get(engine) or finder_of(engine)) is not finders.get("python")


def _make_finder(engine: Engine) -> Callable[[bytes], object]:
    if engine == "python":
        return _python_finder()
    try:
        re2: Any = importlib.import_module("re2")
    except ImportError as error:
        if engine == "re2":
            raise RedactionError("engine='re2' needs google-re2; pip install google-re2") from error
        return finder_of("python")
    options = re2.Options()
    options.encoding = re2.Options.Encoding.LATIN1
    options.max_mem = 64 << 20
    names, capitals = "|".join(name for _, name in _NAMES), "|".join(_CAPITAL_NAMES)
    # No counted repetition where a name may begin in what is repeated: each of its beginnings
    # would have a count of its own, and RE2 a state for each set of counts.
    candidates = (
        *dict.fromkeys(rule.candidate for rule in RULES),
        _ESCAPED,
        rf"(?:(?i:(?:{names}){_FORM})|{capitals}){_BEHIND}",
        rf"-[A-Za-z0-9_.-]*(?:(?i:{names})|{capitals})[A-Za-z0-9_-]*{_FLAG_VALUE}",
    )
    # A set answers a third sooner than a pattern, which finds out where, too. Unlike a pattern it
    # has nothing to fall back on when its memory is too small, but it says so when it compiles.
    options.never_capture = True
    found = re2.Set.SearchSet(options)
    found.Add("|".join(candidates).encode())
    found.Compile()
    match: Callable[[bytes], object] = found.Match
    return match


def _python_finder() -> Callable[[bytes], object]:
    # Literals first: an alternation of thirty patterns is fifty times dearer than their search. A
    # pattern that begins with its literal, in one case, is found by it, too.
    guarded = [
        (literal.encode(), re.compile(rule.candidate.encode()))
        for rule in RULES
        for literal in rule.literals
    ]
    guarded += [(literal, re.compile(_ESCAPED.encode())) for literal in (b"\\u00", b"\\/")]
    capitals = [
        (name.encode(), *_as_name_and_flag(name, f"{name}{_BEHIND}")) for name in _CAPITAL_NAMES
    ]
    # What stands in every name of a group, and the group: many lines can be skipped at once.
    groups: dict[bytes, list[tuple[bytes, re.Pattern[bytes], re.Pattern[bytes]]]] = {
        b"": [],
        b"key": [],
        b"tokens": [],
    }
    for literal, name in _NAMES:
        whole = next((end for end in ("key", "tokens") if end in name), "")
        patterns = _as_name_and_flag(name, f"{name}{_FORM}{_BEHIND}")
        groups[whole.encode()].append((literal.encode(), *patterns))

    def find(line: bytes) -> object:
        lowered = line.lower()
        for literal, pattern in guarded:
            if literal in lowered:
                found = pattern.search(line)
                if found is not None:
                    return found
        found = _find_name(line, capitals)
        if found is not None:
            return found
        for whole, names in groups.items():
            if whole in lowered:
                found = _find_name(lowered, names)
                if found is not None:
                    return found
        return None

    return find


def _as_name_and_flag(name: str, behind: str) -> tuple[re.Pattern[bytes], re.Pattern[bytes]]:
    # What stands behind a flag is only looked at: the name that matters may begin in there.
    flag = rf"{name}(?=[A-Za-z0-9_-]{{0,{_FORM_LENGTH}}}{_FLAG_VALUE})"
    return re.compile(behind.encode()), re.compile(flag.encode())


def _find_name(
    line: bytes, names: list[tuple[bytes, re.Pattern[bytes], re.Pattern[bytes]]]
) -> re.Match[bytes] | None:
    for literal, name, flag in names:
        if literal in line:
            found = name.search(line)
            if found is not None:
                return found
            for found in flag.finditer(line):
                if _is_behind_dash(line, found.start()):
                    return found
    return None


def _is_behind_dash(line: bytes, position: int) -> bool:
    front = line[max(0, position - NAME_LENGTH - 1) : position]
    return b"-" in front[len(front.rstrip(_NAME_BYTES)) :]
