"""
What a verification found, and what follows from it.
"""

from __future__ import annotations

from collections import Counter
from typing import Literal, TypeAlias

import msgspec

Part: TypeAlias = Literal["chain", "seals", "completeness", "tail"]
"""What is judged separately; see `verify()`."""

Weight: TypeAlias = Literal["tampered", "undecided", "incomplete", "note"]
"""
What a finding means.

``tampered``: somebody changed the log. ``undecided``: it cannot be judged. ``incomplete``: nothing
was changed, but something is missing, or not vouched for. ``note``: worth knowing, and harmless.
"""

Verdict: TypeAlias = Literal["ok", "tampered", "undecided", "incomplete", "none"]
"""A weight; ``ok`` when nothing was found, ``none`` when it was not asked for."""

PARTS: tuple[Part, ...] = ("chain", "seals", "completeness", "tail")

EXIT_CODES: dict[Verdict, int] = {"ok": 0, "tampered": 1, "undecided": 2, "incomplete": 3}
"""What `harken verify` exits with."""

MAX_FINDINGS = 1000
"""How many findings are kept of each part; the others are counted."""

_GRAVEST: tuple[Literal["tampered", "undecided", "incomplete"], ...] = (
    "tampered",
    "undecided",
    "incomplete",
)


class Finding(msgspec.Struct, frozen=True):
    """
    One thing that was found.

    Attributes:
        kind: A word for it that does not change; `verify()` has the list.

        file: The file, as it is shown to people.

        line: The line in that file, from 1; 0 when it is about the file as a whole.

        message: One sentence. It may hold text from the log, which is not to be trusted.
    """

    part: Part
    kind: str
    weight: Weight
    file: str
    line: int
    message: str


class Findings:
    """
    Collects what is found, in bounded memory.

    Attributes:
        kept: In the order in which they were found.
    """

    def __init__(self) -> None:
        self.kept: list[Finding] = []
        self._counts: Counter[tuple[Part, Weight]] = Counter()
        self._kept: Counter[Part] = Counter()

    def add(
        self, part: Part, kind: str, weight: Weight, file: str, line: int, message: str
    ) -> None:
        """
        Add a finding.
        """
        self._counts[part, weight] += 1
        if self._kept[part] < MAX_FINDINGS:
            self._kept[part] += 1
            self.kept.append(Finding(part, kind, weight, file, line, message))

    @property
    def omitted(self) -> int:
        """
        How many were found and not kept.
        """
        return self._counts.total() - len(self.kept)

    def reservations(self, part: Part) -> list[str]:
        """
        Return what keeps *part* from being ``ok``, in the order in which it was found.
        """
        return [one.message for one in self.kept if one.part == part and one.weight != "note"]

    def verdict(self, *parts: Part) -> Verdict:
        """
        Return the gravest weight that was found in *parts*.
        """
        for weight in _GRAVEST:
            if any(self._counts[part, weight] for part in parts):
                return weight
        return "ok"
