"""
The read side of the audit log: which files there are, and whether they are what was written.
"""

from __future__ import annotations

from harken.trail.anchors import Anchor, read_anchors
from harken.trail.files import (
    DamagedFileError,
    Head,
    LogFiles,
    Segment,
    TrailError,
    head_of,
    open_log,
)
from harken.trail.findings import EXIT_CODES, Finding
from harken.trail.keys import (
    Key,
    PublicKey,
    WriterState,
    read_key,
    read_public_key,
    read_state,
)
from harken.trail.verify import FileReport, PartReport, Report, verify

__all__ = [
    "EXIT_CODES",
    "Anchor",
    "DamagedFileError",
    "FileReport",
    "Finding",
    "Head",
    "Key",
    "LogFiles",
    "PartReport",
    "PublicKey",
    "Report",
    "Segment",
    "TrailError",
    "WriterState",
    "head_of",
    "open_log",
    "read_anchors",
    "read_key",
    "read_public_key",
    "read_state",
    "verify",
]
