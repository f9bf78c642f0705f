"""
Open three pull requests while the disk is full, and one when there is room again.

The disk is played by the limit on the size of files: it stops the log from growing, and leaves
room for a file that is small.
"""

import os
import resource

import harken
from harken.catalog import PrCreated
from harken.errors import AuditWriteError

bus = harken.configure(audit_jsonl_path="audit.jsonl", log=False, metrics=False)
bus.publish(PrCreated(url="/pull/0", branch="x" * 8000))
opened = 0
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (os.path.getsize("audit.jsonl"), hard))
for number in (1, 2, 3):
    try:
        bus.publish(PrCreated(url=f"/pull/{number}"))
        opened += 1
    except AuditWriteError as error:
        print(type(error).__name__)
resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
bus.publish(PrCreated(url="/pull/4"))
print(f"{opened} pull requests opened")
