"""
Logs of agents at work, for reports.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import harken
from harken import Bus, Operation
from harken.catalog import (
    ApprovalDenied,
    ApprovalRequested,
    LlmStarted,
    PolicyEvaluated,
    RunStarted,
    ToolStarted,
)
from harken.sinks.audit import AuditLog

HOSTILE = "</script><img src=x onerror=alert(1)> \x1b[31mred\x1b[0m \u202egnp.exe <!-- &lt; ]]>"
"""What a tool may answer to whoever reads the log."""

RUN = "r-1"


def start_of(operation: Operation[Any]) -> str:
    """
    Return the id of the event that opened *operation*.
    """
    assert operation.envelope is not None
    return operation.envelope.id


def open_bus(path: Path) -> Bus:
    bus = Bus(audit_types={"llm.*": True})
    bus.attach(AuditLog(path))
    return bus


def write_agent_log(path: Path, turns: int, seconds: float = 0) -> None:
    """
    Write the run of an agent whose calls of a model each make it call two tools, the second of
    which fails in each tenth turn; in the end a person says no. That is 8 records and 5 rows for
    each turn, and 6 records and 4 rows beside.

    Args:
        seconds: How long a call of the model takes.
    """
    bus = open_bus(path)
    with (
        harken.scope(run_id=RUN, session_id="s-1", actor="agent:coder"),
        bus.operation(RunStarted(task_type="repair")) as run,
    ):
        asked: list[str] = []
        for turn in range(turns):
            with bus.operation(LlmStarted(model="m-large"), causes=asked) as call:
                time.sleep(seconds)
                call.complete(input_tokens=1000, output_tokens=100 + turn, cost_usd=0.01)
            for number, tool in enumerate(("read_file", "write_file")):
                arguments = {"path": f"/srv/{turn}-{number}.tf"}
                event = ToolStarted(tool_name=tool, arguments=arguments)
                with bus.operation(event, causes=[start_of(call)]) as operation:
                    bus.publish(PolicyEvaluated(policy_id="opa", subject=tool, decision="allow"))
                    if number and turn % 10 == 9:
                        operation.fail(OSError("the disk is full"))
                asked = [start_of(operation)]
        with bus.operation(ToolStarted(tool_name="apply"), causes=asked) as operation:
            bus.publish(ApprovalRequested(approval_id="a-1", subject="terraform apply"))
            with harken.scope(actor="user:ana"):
                bus.publish(ApprovalDenied(approval_id="a-1", reason="wrong workspace"))
            operation.deny("wrong workspace")
        run.complete()
    bus.close()


def write_hostile_log(path: Path) -> None:
    """
    Write a run in which everything that is text is hostile.
    """
    bus = open_bus(path)
    with (
        harken.scope(run_id=RUN, actor=f"agent:{HOSTILE}", phase=HOSTILE),
        bus.operation(RunStarted(task_type=HOSTILE)) as run,
    ):
        event = ToolStarted(tool_name=HOSTILE, arguments={HOSTILE: HOSTILE})
        with bus.operation(event) as operation:
            operation.deny(HOSTILE)
        run.complete()
    bus.close()
