"""
The audit log: a chained record in a file for every audited event.
"""

from __future__ import annotations

import sys

if sys.platform == "win32":
    raise ImportError(
        "harken.sinks.audit needs Linux or macOS: Windows has no lock that several processes can "
        "append under. Every other part of harken works there"
    )

from harken.sinks.audit._log import AuditLog
from harken.sinks.audit._seal import create_key, create_signing_key

__all__ = ["AuditLog", "create_key", "create_signing_key"]
