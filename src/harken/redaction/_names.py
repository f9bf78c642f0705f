"""
Which names are those of secrets.
"""

from __future__ import annotations

import re
import string
from functools import lru_cache

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
KEY_OWNERS = (
    *("api", "private", "access", "secret", "signing", "encryption", "auth", "account", "master"),
    *("shared", "service", "subscription"),
)
_HARMLESS_KEYS = frozenset(
    ("primary", "public", "foreign", "sort", "partition", "cache", "routing")
)
TOKEN_OWNERS = ("access", "refresh", "api", "auth", "bearer")
_HARMLESS_TOKENS = (
    *("next", "page", "continuation", "resume", "eos", "bos", "pad", "unk", "sep", "special"),
    *("max", "per"),
)
# Words behind the name that say in which form the secret is.
FORMS = frozenset(("value", "string", "plaintext", "base64", "b64", "pem", "raw"))

IN_NAMES = string.ascii_letters + string.digits + "_.-"
NAME_LENGTH = 64

_CUT = re.compile(r"[^A-Za-z0-9]+|(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_CAPITALS = re.compile(r"[A-Z0-9_]+_(?:KEY|PASS)[0-9_]{0,4}")


@lru_cache(maxsize=4096)
def is_secret_name(name: str) -> bool:
    """
    Whether a value under *name* is taken for a secret, whatever it looks like.

    The name is cut into words (``clientSecret``, ``DB_PASSWORD``, ``x-api-key``); what counts is
    how it ends, so ``input_tokens``, ``token_type``, ``credential_id``, ``author`` and
    ``primary_key`` are none.
    """
    words = [word.lower() for word in _CUT.split(name) if word and not word.isdigit()]
    if len(words) > 1 and words[-1] in FORMS:
        del words[-1]
    if not words:
        return False
    last = words[-1].rstrip("0123456789")
    before = words[-2] if len(words) > 1 else ""
    if last.endswith("token"):
        return not (last[:-5] or before).endswith(_HARMLESS_TOKENS)
    if last.endswith("tokens"):
        return (last[:-6] or before).endswith(TOKEN_OWNERS)
    if last.endswith(("key", "keys")):
        owner = last.rpartition("key")[0]
        if owner.endswith(KEY_OWNERS) if owner else before in KEY_OWNERS:
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
