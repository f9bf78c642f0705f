"""
What the caller says of the call, in the environment: what is believed, and what is refused.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable

from harken.contract.argv import login

CARRIED = ("TOOL_TRACE_ID", "TRACEPARENT", "TRACESTATE", "BAGGAGE")
"""The variables that carry a trace from process to process."""

# What the W3C asks every system to take: bytes of baggage, and characters of a trace state.
_LONGEST = {"BAGGAGE": 8192, "TRACESTATE": 512}

_ACTOR = re.compile(r"(user|agent|service|system):\S+")


def variable(tool: str, name: str) -> str:
    """
    Return the name of a variable that is for one tool only, as ``DEPLOYCTL_AUDIT_LOG``.
    """
    return f"{re.sub(r'[^A-Za-z0-9]', '_', tool).upper()}_{name}"


def take_carried(tool: str, warn: Callable[[str], None]) -> None:
    """
    Make the carried variables of this process those that are meant for *tool*.

    What cannot be carried on is taken out, so that no child gets it either; of the two trace ids
    `harken.scope.from_env()` judges.
    """
    own = os.environ.get(variable(tool, "TRACE_ID"))
    if own and not os.environ.get("TOOL_TRACE_ID"):
        os.environ["TOOL_TRACE_ID"] = own
    for name, longest in _LONGEST.items():
        text = os.environ.get(name, "")
        if len(text) > longest or not (text.isprintable() and text.isascii()):
            del os.environ[name]
            warn(f"{name} was ignored: it must be at most {longest} printable ASCII characters")
        elif text and "=" not in text:
            del os.environ[name]
            warn(f"{name} was ignored: it must be a list of name=value")


def operator(actor: str | None, warn: Callable[[str], None]) -> str:
    """
    Return who calls: the *actor* of the scope, else ``HARKEN_ACTOR``, else the user.
    """
    named = actor or os.environ.get("HARKEN_ACTOR")
    if not named:
        return f"user:{login()}"
    if not (_ACTOR.fullmatch(named) and named.isprintable()):
        warn(f"HARKEN_ACTOR={named!r} is no actor; use user:ID, agent:ID, service:ID or system:ID")
        return f"user:{login()}"
    return named
