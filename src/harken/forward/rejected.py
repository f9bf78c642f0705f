"""
The file of lines that nobody would take.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from datetime import UTC, datetime
from pathlib import Path

import msgspec

_MODE = 0o600

# Bytes of a line that are kept, and places that are remembered.
_LONGEST = 1 << 16
_REMEMBERED = 1000


class Rejected(msgspec.Struct, frozen=True):
    """
    A line that is not forwarded.

    Attributes:
        time: When that was found, RFC 3339 in UTC.

        seq: Its number; 0 when it is no record.

        file: Where it stands in the log.

        offset: Where in that file, in bytes.

        line: Its first 64 KiB; what is no UTF-8 is escaped.
    """

    time: str
    reason: str
    seq: int
    file: str
    offset: int
    line: str


class RejectedFile:
    """
    A file of JSON lines, one for each `Rejected`; made when there is one.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        # A log is read again after each outage, and its bad lines with it.
        self._known: OrderedDict[tuple[str, int], None] = OrderedDict()

    def add(self, reason: str, file: str, offset: int, line: bytes, seq: int = 0) -> bool:
        """
        Append a line, unless it was the same place of the same file; return whether it was not.
        """
        if (file, offset) in self._known:
            return False
        now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        text = line[:_LONGEST].decode("utf-8", "backslashreplace")
        entry = Rejected(now, reason, seq, file, offset, text)
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
        with open(os.open(self.path, flags, _MODE), "ab") as out:
            out.write(msgspec.json.encode(entry) + b"\n")
        self._known[file, offset] = None
        if len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)
        return True
