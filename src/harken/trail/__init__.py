"""
The read side of the audit log: which files there are, what is in them, and whether they are what
was written.
"""

from __future__ import annotations

from harken.trail.anchors import Anchor, read_anchors
from harken.trail.entries import Entry, Problem, Record, Report as ReportProblem
from harken.trail.files import (
    DamagedFileError,
    ForbiddenLogError,
    Head,
    LogFiles,
    MissingLogError,
    Segment,
    TrailError,
    head_of,
    open_log,
)
from harken.trail.filters import EVERYTHING, Condition, Cursor, Filter, FilterError
from harken.trail.findings import EXIT_CODES, Finding
from harken.trail.keys import (
    Key,
    PublicKey,
    WriterState,
    read_key,
    read_public_key,
    read_state,
)
from harken.trail.log import NotFoundError, Trail, open
from harken.trail.verify import FileReport, PartReport, Report, verify

__all__ = [
    "EVERYTHING",
    "EXIT_CODES",
    "Anchor",
    "Condition",
    "Cursor",
    "DamagedFileError",
    "Entry",
    "FileReport",
    "Filter",
    "FilterError",
    "Finding",
    "ForbiddenLogError",
    "Head",
    "Key",
    "LogFiles",
    "MissingLogError",
    "NotFoundError",
    "PartReport",
    "Problem",
    "PublicKey",
    "Record",
    "Report",
    "ReportProblem",
    "Segment",
    "Trail",
    "TrailError",
    "WriterState",
    "head_of",
    "open",
    "open_log",
    "read_anchors",
    "read_key",
    "read_public_key",
    "read_state",
    "verify",
]
