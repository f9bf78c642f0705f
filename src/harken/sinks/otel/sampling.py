"""
Which traces are recorded: decided where a trace begins, and carried in its flags from there on.
"""

from __future__ import annotations

import threading
import weakref
from typing import Protocol

from harken import register_sampler


class Samples(Protocol):
    """
    Whoever records some traces and others not.
    """

    def keeps(self, trace_id: str, /) -> bool:
        """
        Whether it records a trace that begins in this process; the same answer every time.
        """
        ...


_lock = threading.Lock()
# Replaced, never changed: a trace may begin on any thread meanwhile.
_samplers: tuple[weakref.ref[Samples], ...] = ()


def decide_for(sampler: Samples) -> None:
    """
    Let a trace that begins in this process count as sampled when *sampler* keeps it, or another
    one that was given before. They are not kept alive.
    """
    _replace(sampler, (weakref.ref(sampler),))


def decide_without(sampler: Samples) -> None:
    """
    Do not ask *sampler* any more. When nobody is asked, every trace counts as sampled.
    """
    _replace(sampler, ())


def _replace(sampler: Samples, by: tuple[weakref.ref[Samples], ...]) -> None:
    global _samplers
    with _lock:
        others = tuple(one for one in _samplers if one() not in (None, sampler))
        _samplers = (*others, *by)
        register_sampler(_is_kept if _samplers else None)


def _is_kept(trace_id: str) -> bool:
    alive = [sampler for one in _samplers if (sampler := one()) is not None]
    return not alive or any(sampler.keeps(trace_id) for sampler in alive)
