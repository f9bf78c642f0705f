"""
What two runs did differently.
"""

from __future__ import annotations

from collections.abc import Iterator
from difflib import SequenceMatcher
from typing import Literal, TypeAlias

import msgspec

from harken.trail.runs import Node, Run

Sign: TypeAlias = Literal["=", "-", "+"]

NAMING = (
    *("tool_name", "command", "model", "rule", "policy_id", "guard_name", "validator", "kind"),
    *("budget_type", "component", "error_type", "agent_name", "phase", "scope", "resource_id"),
)
"""The metadata that say what an event is about, in every run alike; ids do not."""


class Change(msgspec.Struct, frozen=True):
    """
    One step of both runs (``=``), of the first only (``-``) or of the second only (``+``).
    """

    sign: Sign
    depth: int
    node: Node


class Difference(msgspec.Struct, frozen=True):
    """
    Two runs, step by step.
    """

    first: Run
    second: Run
    changes: list[Change]

    @property
    def is_none(self) -> bool:
        """
        Whether both did the same, with the same outcomes.
        """
        return all(change.sign == "=" for change in self.changes)


def diff(first: Run, second: Run, *, arguments: bool = False) -> Difference:
    """
    Return what *second* did otherwise than *first*.

    Steps are the same when they have the same type, are about the same, stand as deep and ended
    the same way. When they happened and how long they took does not matter.

    Args:
        arguments: Whether tools must have got the same arguments, too.
    """
    old, new = _steps(first), _steps(second)
    matcher = SequenceMatcher(
        None,
        [_key(depth, node, arguments) for depth, node in old],
        [_key(depth, node, arguments) for depth, node in new],
        autojunk=False,
    )
    return Difference(first, second, list(_changes(matcher, old, new)))


def _steps(run: Run) -> list[tuple[int, Node]]:
    return [step for root in run.tree for step in root.walk()]


def _key(depth: int, node: Node, arguments: bool) -> tuple[object, ...]:
    records = (node.first, *([] if node.end is None else [node.end]))
    names = [str(record.metadata.get(name)) for record in records for name in NAMING]
    given = node.first.metadata.get("arguments_digest") if arguments else None
    return depth, node.first.event_type, node.outcome, *names, given


def _changes(
    matcher: SequenceMatcher[tuple[object, ...]],
    old: list[tuple[int, Node]],
    new: list[tuple[int, Node]],
) -> Iterator[Change]:
    for tag, begin, end, other_begin, other_end in matcher.get_opcodes():
        if tag == "equal":
            yield from (Change("=", *step) for step in old[begin:end])
        else:
            yield from (Change("-", *step) for step in old[begin:end])
            yield from (Change("+", *step) for step in new[other_begin:other_end])
