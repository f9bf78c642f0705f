"""
How long to leave a server alone that is away.
"""

from __future__ import annotations

import random

LONGEST_DELAY = 30.0
"""Seconds between two attempts, at most."""

_SHORTEST_DELAY = 0.1
_random = random.SystemRandom()


def delay_after(attempts: int) -> float:
    """
    Return the seconds to wait after so many *attempts* in vain: twice as many each time, less at
    most a half by chance, so that a fleet does not come back all at once.
    """
    longest = min(LONGEST_DELAY, _SHORTEST_DELAY * 2 ** min(attempts, 16))
    return _random.uniform(longest / 2, longest)
