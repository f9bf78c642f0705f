"""
Die of an error inside a tool call.
"""

import harken
from harken.catalog import ToolStarted

bus = harken.configure(audit_jsonl_path="audit.jsonl", log=False, metrics=False)
with bus.operation(ToolStarted(tool_name="search")):
    raise ValueError("no such invoice")
