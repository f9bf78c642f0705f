"""
Who calls a command, and with which words: as it may be put on record.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from harken import JSON


def login() -> str:
    """
    Return the name of the user that this process belongs to, or the number without a name.
    """
    # Not getpass.getuser(), which believes what the environment says.
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def name_secrets(argv: Sequence[str], redact: Callable[[str], str]) -> list[JSON]:
    """
    Return *argv* with each secret beside its name, where redaction knows it by the name.

    ``--password x``, ``--password=x`` and ``PASSWORD=x`` become ``{"--password": "x"}`` and so
    on; everything else stays as it is.
    """

    import json

    def is_secret(name: str, value: str) -> bool:
        text = json.dumps({name: value})
        return redact(text) != text

    shown: list[JSON] = []
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        name, sign, value = word.partition("=")
        if sign:
            shown.append({name: value} if value and is_secret(name, value) else word)
        elif word.startswith("-") and rest and is_secret(word, rest[0]):
            shown.append({word: rest.pop(0)})
        else:
            shown.append(word)
    return shown
