"""
The audit log off its machine: to a stream of an engine that is there already, and back.

Nothing here is loaded by `import harken`, and no client of an engine by importing this.
"""

from __future__ import annotations

from harken.forward.cursor import BusyError, CursorFile, Kept
from harken.forward.events import (
    ForwardGap,
    ForwardMeasured,
    ForwardRejected,
    ForwardResumed,
    ForwardStalled,
)
from harken.forward.forwarder import Forwarder, cursor_path, source_of
from harken.forward.group import Consumer, Delivery, GroupReader
from harken.forward.lag import Lag, lag_of, spent_archives
from harken.forward.proof import Arrived, Proof, prove
from harken.forward.target import (
    ForwardError,
    PoisonError,
    RefusedError,
    Stored,
    StreamTarget,
    UnavailableError,
)
from harken.forward.targets import consume, stored, target_of
from harken.forward.wire import Message, Position, to_message

__all__ = [
    "Arrived",
    "BusyError",
    "Consumer",
    "CursorFile",
    "Delivery",
    "ForwardError",
    "ForwardGap",
    "ForwardMeasured",
    "ForwardRejected",
    "ForwardResumed",
    "ForwardStalled",
    "Forwarder",
    "GroupReader",
    "Kept",
    "Lag",
    "Message",
    "PoisonError",
    "Position",
    "Proof",
    "RefusedError",
    "Stored",
    "StreamTarget",
    "UnavailableError",
    "consume",
    "cursor_path",
    "lag_of",
    "prove",
    "source_of",
    "spent_archives",
    "stored",
    "target_of",
    "to_message",
]
