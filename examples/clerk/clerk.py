"""
A clerk: an agent whose plan is given, and whose policy is a list of forbidden tools.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import harken
from harken import Bus
from harken.catalog import PolicyEvaluated, RunStarted, ToolStarted

Call = tuple[str, Mapping[str, Any]]


class Clerk:
    """
    Calls tools, one after the other.

    Args:
        bus: What it does is published here.

        tools: What it can call, by name.

        forbidden: The tools that it must not call.
    """

    def __init__(
        self,
        bus: Bus,
        tools: Mapping[str, Callable[..., object]],
        forbidden: Collection[str] = (),
    ) -> None:
        self._bus = bus
        self._tools = tools
        self._forbidden = forbidden

    def run(self, plan: Iterable[Call], *, run_id: str) -> list[object]:
        """
        Make each call of *plan*, and return what came back.
        """
        with harken.scope(run_id=run_id, actor="agent:clerk"), self._bus.operation(RunStarted()):
            return [self.call(name, arguments) for name, arguments in plan]

    def call(self, name: str, arguments: Mapping[str, Any]) -> object:
        """
        Call the tool *name*, and return what it returns; None when the policy says no.
        """
        started = ToolStarted(tool_name=name, arguments=dict(arguments))
        with self._bus.operation(started) as operation:
            if not self._is_allowed(name):
                operation.deny("the clerk may not do that", rule="tools")
                # Nothing of the tool runs; the denial is on record when the block is left.
                return None
            return self._tools[name](**arguments)

    def _is_allowed(self, name: str) -> bool:
        allowed = name not in self._forbidden
        decision = "allow" if allowed else "deny"
        self._bus.publish(PolicyEvaluated(policy_id="tools", decision=decision))
        return allowed
