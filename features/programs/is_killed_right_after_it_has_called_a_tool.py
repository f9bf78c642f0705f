"""
Be killed right after a tool was called.
"""

import os
import signal

import harken
from harken.catalog import ToolStarted

bus = harken.configure(audit_jsonl_path="audit.jsonl", log=False, metrics=False)
bus.publish(ToolStarted(tool_name="search"))
os.kill(os.getpid(), signal.SIGKILL)
