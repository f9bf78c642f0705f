"""
Call two tools here and two in a child process, made by the method that the command line names.
"""

import multiprocessing
import sys

import harken
from harken import Bus
from harken.catalog import ToolStarted


def configured() -> Bus:
    return harken.configure(audit_jsonl_path="audit.jsonl", log_path="events.log", metrics=False)


def call_tools(bus: Bus | None) -> None:
    # A forked child has its parent's bus; a spawned one begins with nothing.
    bus = bus or configured()
    for name in ("search", "read"):
        with bus.operation(ToolStarted(tool_name=name)):
            pass


if __name__ == "__main__":
    method = sys.argv[1]
    agent = configured()
    call_tools(agent)
    child = multiprocessing.get_context(method).Process(
        target=call_tools, args=(agent if method == "fork" else None,)
    )
    child.start()
    child.join()
    sys.exit(child.exitcode)
