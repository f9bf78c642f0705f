"""
Where records go while the log itself cannot be written: a file beside it, with a chain of its own.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress

from harken.record import GENESIS, Draft
from harken.sinks.audit._descriptor import write_all
from harken.sinks.audit._file import Writer
from harken.sinks.audit._path import FILE_MODE, FLAGS


class Spill:
    """
    The spill file of one writer; made when it is needed.

    Its lines are sealed records like those of the log, with the writer and the ``n`` that they
    would have had there. Its chain is its own, counts from 1, and is tied to the log's by the
    ``audit.lost`` record that names its head.

    Args:
        log: The path of the log.
    """

    def __init__(self, log: str, writer: Writer) -> None:
        self.path = f"{log}.spill-{writer.id}"
        self.head = GENESIS
        self._writer = writer
        self._seq = 0

    def append(self, drafts: Sequence[Draft], first_n: int) -> tuple[int, OSError | None]:
        """
        Append *drafts*, numbered from *first_n*.

        Returns:
            How many are in the file, which are the first ones; and what stopped the others.
        """
        done = 0
        try:
            fd = os.open(self.path, FLAGS | os.O_CREAT, FILE_MODE)
            try:
                if not os.fstat(fd).st_size:
                    # Somebody took it away.
                    self._begin()
                for draft in drafts:
                    self._append(fd, draft, first_n + done)
                    done += 1
            finally:
                os.close(fd)
        except OSError as error:
            self._remove_empty()
            return done, error
        return done, None

    def _append(self, fd: int, draft: Draft, n: int) -> None:
        line, head = draft.line(draft.time_ns, self._seq + 1, self._writer.id, n, self.head)
        size = os.fstat(fd).st_size
        _, error = write_all(fd, line)
        if error is not None:
            os.ftruncate(fd, size)
            raise error
        self._seq += 1
        self.head = head

    def remove(self) -> None:
        """
        Remove the file, whose records are in the log now.
        """
        try:
            os.unlink(self.path)
        except FileNotFoundError:
            self._begin()
        except OSError:
            # It stays; what is spilled later goes on behind what is there.
            pass
        else:
            self._begin()

    def _begin(self) -> None:
        self._seq = 0
        self.head = GENESIS

    def _remove_empty(self) -> None:
        if not self._seq:
            with suppress(OSError):
                os.unlink(self.path)
