"""
Call a tool and just end.
"""

import harken
from harken.catalog import ToolStarted

bus = harken.configure(
    audit_jsonl_path="audit.jsonl", log_path="events.log", traces="file:spans.jsonl", metrics=False
)
with bus.operation(ToolStarted(tool_name="search")):
    pass
