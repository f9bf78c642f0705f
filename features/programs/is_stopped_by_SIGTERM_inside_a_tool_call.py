"""
Be stopped by SIGTERM inside a tool call.
"""

import os
import signal
import time

import harken
from harken.catalog import ToolStarted

bus = harken.configure(
    audit_jsonl_path="audit.jsonl", log=False, metrics=False, close_on_sigterm=True
)
with bus.operation(ToolStarted(tool_name="search")):
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)
