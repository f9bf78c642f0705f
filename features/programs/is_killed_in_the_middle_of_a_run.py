"""
Be killed in the middle of a run.
"""

import os
import signal

import harken
from harken.catalog import RunStarted, ToolStarted

bus = harken.configure(audit_jsonl_path="audit.jsonl", log=False, metrics=False)
with bus.operation(RunStarted()), bus.operation(ToolStarted(tool_name="search")):
    os.kill(os.getpid(), signal.SIGKILL)
