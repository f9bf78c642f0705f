"""
Call a tool and forget about it.
"""

import harken
from harken.catalog import ToolStarted

bus = harken.configure(audit_jsonl_path="audit.jsonl", log=False, metrics=False)
bus.operation(ToolStarted(tool_name="search")).start()
