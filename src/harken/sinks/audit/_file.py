"""
The file of an audit log: one chain of sealed lines, appended to by any number of processes.
"""

from __future__ import annotations

import errno
import os
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from hashlib import sha256
from uuid import UUID

from harken import JSON, Event, __version__
from harken.catalog import AuditCheckpoint, AuditOpened
from harken.errors import AuditPathError
from harken.record import (
    CHECKPOINT_EVERY,
    GENESIS,
    SLACK_NS,
    VERSION,
    Draft,
    control,
    start_of,
    timestamp_ns,
)
from harken.sinks.audit._descriptor import (
    let_go,
    lock,
    sync_data,
    unlock,
    write_all,
)
from harken.sinks.audit._path import FILE_MODE, FLAGS, open_log, sync_folder
from harken.sinks.audit._seal import PATIENCE, Sealer
from harken.sinks.audit._siblings import archived_as, newest_sibling, segment_in
from harken.sinks.audit._tail import (
    Tail,
    end_of_line,
    fingerprint,
    first_line,
    format_of_end,
    has_line,
    last_line,
    line_before_first,
    read_tail,
)
from harken.sinks.audit._whereabouts import Whereabouts

_UNKNOWN = -1

# How many names an archive may have to try; a path may move ten times as often while it is being
# opened, as it does where many processes rotate small files.
_ATTEMPTS = 10

# Seconds after a rotation that failed in which none is tried.
_ROTATION_PAUSE = 60.0

# A file that was truncated can have grown to its old size again since our last record, as when
# another process begins with a line as long as ours was: hardly so in less nanoseconds than these.
_TRUSTED_NS = 1_000_000

# Nanoseconds after which a sealed log says that it is still there: an hour in which nothing was
# written cannot be told from one that was cut out.
_IDLE_NS = 60_000_000_000

# Seconds that a checkpoint waits for the key once one has waited in vain.
_HURRY = 0.02

# What is published of a checkpoint.
_TOLD = ("segment", "epoch", "count", "head", "mono_ns", "key_id", "mac", "signature")


class Writer:
    """
    One process that appends, as the records name it.

    Attributes:
        n: How many records it was given so far, written or not.
    """

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """
        Become one that has not written anything.
        """
        self.id = f"{os.getpid():x}-{os.urandom(4).hex()}"
        self.n = 0


class LogFile:
    """
    Appends records under the lock of the file, wherever the file has gone in the meantime.

    Whoever has the lock sees to it that the file is in order before it appends: a torn line is
    cut off, a file that was moved away is followed, a rotation that was interrupted is finished.
    Not safe from several threads at once.

    Args:
        path: Absolute.

        reason: Why a writer begins here: ``start`` or ``fork``.

        synced: Whether what is let go of must be on disk.

        clock: Nanoseconds since 1970-01-01 UTC.

        report: Told about what went wrong without a record being lost.

    Attributes:
        news: What others should know: files that were begun, and checkpoints.
    """

    def __init__(
        self,
        path: str,
        writer: Writer,
        sealer: Sealer,
        *,
        reason: str,
        max_bytes: int | None,
        max_age: float | None,
        synced: bool,
        clock: Callable[[], int],
        report: Callable[[str], None],
    ) -> None:
        # Where the log ends, as far as we know: from the key's file, until we have seen it.
        self.seq, self.head, self._may_be_more = 0, GENESIS, False
        self.written_bytes = 0
        self.reopened = 0
        self.recovered = 0
        # The last line that the disk did not confirm, and why; 0 when there is none.
        self.unsynced_seq = 0
        self.unsynced_error: OSError | None = None
        self.news: deque[Event] = deque()
        self._path = path
        self._path_digest = f"sha256:{sha256(os.fsencode(path)).hexdigest()}"
        self._writer = writer
        self._sealer = sealer
        self._reason: str | None = reason
        self._max_bytes = max_bytes
        self._max_age = max_age
        self._has_limits = max_bytes is not None or max_age is not None
        self._synced = synced
        self._clock = clock
        self._report = report
        self._fd = -1
        # One that is on its way to become ours, or no longer is: whatever interrupts that, it must
        # not keep its lock.
        self._homeless_fd = -1
        self._whereabouts = Whereabouts(path)
        # The size that the file had after our last look; and the largest that we saw it have.
        self._size = _UNKNOWN
        self._seen = 0
        self._looked_ns = 0
        # Whether somebody else appends, too, and may have let it grow to the size that we know.
        self._shared = False
        self._latest_ns = 0
        self._began_ns: int | None = None
        self._moved: str | None = None
        self._rotation_after = 0.0
        self._unsynced_name = False
        # The number of the file in its log; None when it has to be read from its first line.
        self._segment: int | None = None
        self._segment_before = 0
        # The line of the last checkpoint that we know of, and of the last record of an event that
        # we wrote.
        self._sealed_seq = 0
        self._record_seq = 0
        self._cannot_seal = False
        # Whether the log ends with the last line of a writer.
        self._is_left = False
        # Whether what is to be written says that lines, and seals with them, are gone.
        self._tells_of_loss = False
        # The last line that the log was said to have had, and has no more; and the numbers of those
        # that were said to be lost since the last seal of ours.
        self._lost_head = ""
        self._lost_lines = range(0)
        self._all_or_none = False
        # Control records that must precede the next record; kept until they are written.
        self._notes: dict[str, Draft] = {}
        self._has_asked_the_key = False
        # Whether another file was put in place of ours while we were about to begin a new one.
        self._is_displaced = False
        self._patience = 0.0
        # The last line that the key knows of by us, and that is in the file as far as we know.
        self._sealed_line = (0, GENESIS)
        self._ask_the_key()

    def append(
        self,
        drafts: Sequence[Draft],
        patience: float,
        *,
        sealed: bool = False,
        whole: bool = False,
    ) -> tuple[int, OSError | None]:
        """
        Append *drafts*, waiting for the lock for at most *patience* seconds.

        Args:
            sealed: Whether a checkpoint comes first, if anything stands there without.

            whole: Whether it is all of them or none.

        Returns:
            How many are in the file, which are the first ones; and what stopped the others. Of
            those, nothing is left in the file.
        """
        if sealed:
            self._whereabouts.distrust()
        try:
            if self._fd < 0:
                self._adopt(*self._open_locked(patience))
            else:
                try:
                    lock(self._fd, patience)
                except OSError:
                    self._size = _UNKNOWN
                    if self._whereabouts.holds():
                        raise
            self._settle(patience)
            before = self.seq
            if sealed:
                self._explain()
                if self._is_unsealed:
                    self._seal_if_possible()
            self._all_or_none = whole
            result = self._write(drafts)
            if sealed:
                # Nothing of this writer follows what may be its last line.
                if result[1] is None:
                    self._leave()
            elif before // CHECKPOINT_EVERY != self.seq // CHECKPOINT_EVERY:
                self._seal_if_possible()
            return result
        except OSError as error:
            self._size = _UNKNOWN
            return 0, error
        except BaseException:
            # Whatever happened, look again before the next record.
            self._size = _UNKNOWN
            raise
        finally:
            self._unlock()

    def beat(self, patience: float) -> None:
        """
        Append a checkpoint when there is something to seal, or the log was idle for long.
        """
        if self._fd < 0:
            return
        try:
            lock(self._fd, patience)
            self._whereabouts.distrust()
            self._settle(patience)
            self._explain()
            idle_ns = abs(self._clock() - self._latest_ns)
            if self._is_unsealed or (self._sealer.has_key and idle_ns >= _IDLE_NS):
                self._seal_if_possible()
        except OSError:
            # Whatever it is, the next record meets it, too, and says so.
            self._size = _UNKNOWN
        finally:
            self._unlock()

    def note(self, event_type: str, **details: object) -> Draft:
        """
        Return a control record about this file.
        """
        now = self._clock()
        return control(
            event_type,
            details,
            event_id=_event_id(now),
            time_ns=now,
            resource=f"audit_log:{os.path.basename(self._path)}",
        )

    def announce(self, reason: str) -> None:
        """
        Record before anything else that a writer begins here, and why.
        """
        self._reason = reason
        self._size = _UNKNOWN

    def duplicate(self) -> int | None:
        """
        Return a descriptor for whoever syncs the file; None when it was let go of, and synced.
        """
        if self._fd < 0:
            return None
        self._check_held()
        return os.dup(self._fd)

    def distrust(self, error: OSError) -> None:
        """
        Note that the disk did not confirm what was written up to now, and open the file anew.

        The system takes it for written from now on: no later sync can vouch for it.
        """
        self.unsynced_seq, self.unsynced_error = self.seq, error
        fd = self._forget()
        if fd >= 0:
            let_go(fd)

    def close(self) -> None:
        """
        Let the file go; the next record opens it again.
        """
        fd = self._forget()
        if fd >= 0:
            self._retire(fd)

    def abandon(self) -> None:
        """
        Close what a forked child inherited. Letting the lock go would free the parent's.
        """
        self._sealer.abandon()
        fd = self._forget()
        if fd >= 0:
            os.close(fd)

    def _forget(self) -> int:
        """
        Give the descriptor up, and return it; -1 when there is none that is ours to close.
        """
        fd = self._fd if self._whereabouts.holds() else -1
        self._fd = -1
        self._whereabouts.end()
        self._size = _UNKNOWN
        self._seen = 0
        return fd

    def _check_held(self) -> None:
        if not self._whereabouts.holds():
            raise OSError(errno.EBADF, "somebody else has closed the file")

    def _unlock(self) -> None:
        if self._homeless_fd >= 0:
            # An interrupt came at the worst moment.
            self._drop(self._homeless_fd)
        if self._fd < 0:
            return
        try:
            unlock(self._fd)
        except OSError:
            # A lock that is not let go of would stop everybody; closing the file lets it go.
            fd = self._forget()
            if fd >= 0:
                let_go(fd)

    def _drop(self, fd: int) -> None:
        # Forgotten first: a number that is closed may be somebody else's the next moment.
        self._homeless_fd = -1
        let_go(fd)

    # Getting at the file.

    def _open_locked(self, patience: float) -> tuple[int, os.stat_result]:
        """
        Return a locked descriptor of the file that is at the path, and what it is.
        """
        for _ in range(10 * _ATTEMPTS):
            fd = self._homeless_fd = open_log(self._path)
            try:
                lock(fd, patience)
                found = os.fstat(fd)
                with suppress(FileNotFoundError):
                    if os.path.samestat(os.lstat(self._path), found):
                        return fd, found
            except BaseException:
                self._drop(fd)
                raise
            self._drop(fd)
        raise OSError(errno.EAGAIN, "the file is moved away again and again")

    def _adopt(self, fd: int, found: os.stat_result) -> None:
        # Must not fail: the descriptor holds the lock, and has no other owner.
        self._fd, self._homeless_fd = fd, -1
        self._whereabouts.begin(fd, found)
        self._size = _UNKNOWN
        self._seen = 0
        self._began_ns = None
        self._segment = None
        self._unsynced_name = self._synced

    def _retire(self, fd: int) -> None:
        if self._synced:
            try:
                sync_data(fd)
            except OSError as error:
                self.unsynced_seq, self.unsynced_error = self.seq, error
        self._drop(fd)

    def _settle(self, patience: float) -> None:
        """
        With the lock held: make sure that the file at the path is ours and ends as we know it.
        """
        self._patience = patience
        for _ in range(_ATTEMPTS):
            self._is_displaced = False
            self._look_around(patience)
            if not self._is_displaced:
                return
        raise OSError(errno.EAGAIN, "the file is moved away again and again")

    def _look_around(self, patience: float) -> None:
        now_ns = time.monotonic_ns()
        before_ns, self._looked_ns = self._looked_ns, now_ns
        size = self._whereabouts.size(self._size, now_ns)
        if size is None:
            self._follow(patience)
        elif size != self._size or (
            (self._shared or now_ns - before_ns >= _TRUSTED_NS) and not self._ends_as_known()
        ):
            self._look(size)

    def _ends_as_known(self) -> bool:
        seal = end_of_line(self.head)
        return os.pread(self._fd, len(seal), max(0, self._size - len(seal))) == seal

    def _follow(self, patience: float) -> None:
        """
        Go on in the file that is at the path now; what was written goes on from the one before.
        """
        old = self._fd
        if not self._whereabouts.holds():
            # The lock that we have taken is that of somebody else's file.
            with suppress(OSError):
                unlock(old)
            self._forget()
            fd, found = self._open_locked(patience)
            self._adopt(fd, found)
            self._look(found.st_size)
            return
        reason = "renamed" if os.fstat(old).st_nlink else "deleted"
        # Two that hold one file each and want the other's would wait for one another.
        unlock(old)
        fd, found = self._open_locked(patience)
        held = self._whereabouts.holds()
        try:
            if held and not found.st_size:
                # Once its lock was ours, nobody appends to the old file any more: whoever gets
                # the lock after us finds that the path has moved.
                lock(old, patience)
                link = read_tail(old, os.fstat(old).st_size).link
                if link is not None and link.seq > self.seq:
                    self.seq, self.head = link.seq, link.hash
                self._segment_before = segment_in(first_line(old))
        except BaseException:
            self._drop(fd)
            raise
        self._adopt(fd, found)
        if held:
            self._homeless_fd = old
            self._retire(old)
        self._moved = reason
        self.reopened += 1
        self._look(found.st_size)

    def _look(self, size: int) -> None:
        """
        Learn what the file ends with, and repair that.
        """
        fd = self._fd
        if not self._has_asked_the_key:
            self._ask_the_key()
        for name in ("open", "foreign"):
            self._notes.pop(name, None)
        self._sealed_line = (0, GENESIS)
        tail = read_tail(fd, size)
        link = tail.link
        if tail.sealed < tail.whole:
            self._check_format(tail)
        end = self._cut_torn(tail, size)
        if tail.sealed < tail.whole:
            self._recover("foreign", "foreign_line", **fingerprint(fd, tail.sealed, tail.whole))
        is_cut = self.seq > 0 and (self._seen > 0 if link is None else link.seq < self.seq)
        if link is None:
            self._continue_another(is_emptied=is_cut)
        if is_cut:
            self._lose(size, self.seq, self.head, kept=0 if link is None else link.seq)
        elif size < self._seen and (before := line_before_first(fd)) is not None:
            # It was emptied just before the last record was written.
            self._lose(size, *before, kept=0)
        self._size = self._seen = end
        self._latest_ns = 0
        self._is_left = link is None or link.event_type == "audit.close"
        if link is not None:
            self.seq, self.head, self._may_be_more = link.seq, link.hash, False
            self._latest_ns = link.time_ns
            self._shared = self._shared or link.writer != self._writer.id
            if link.event_type == "audit.checkpoint":
                self._sealed_seq = link.seq
            self._moved = None
            self._finish_rotation(tail)
        if self._reason is not None and "open" not in self._notes:
            self._notes["open"] = self._opening(self._reason)

    def _check_format(self, tail: Tail) -> None:
        version = format_of_end(self._fd, tail)
        if version is not None and version > VERSION:
            raise AuditPathError(
                f"audit log {self._path!r} cannot be continued: a newer harken wrote it in format "
                f"{version}, and this one knows {VERSION}; upgrade harken, or choose another path",
                self._path,
            )

    def _cut_torn(self, tail: Tail, size: int) -> int:
        if tail.whole == size:
            return size
        end = tail.whole
        self._check_held()
        torn = fingerprint(self._fd, end, size)
        try:
            os.ftruncate(self._fd, end)
        except PermissionError:
            # The file allows appending only (chattr +a).
            end = size + os.write(self._fd, b"\n")
            torn = {**fingerprint(self._fd, tail.whole, end), "kept": True}
        self._recover(f"torn {tail.whole}", "torn_tail", **torn)
        return end

    def _lose(self, size: int, seq: int, head: str, *, kept: int) -> None:
        """
        Note that what the file had behind the line *kept*, up to the line *seq*, is gone.
        """
        had = {"had": self._seen} if self._seen else {}
        self._lost_lines = range(kept + 1, seq + 1)
        self._shrunk(size, seq, head, **had)
        self._began_ns = None
        self._tells_of_loss = True

    def _shrunk(self, size: int, seq: int, head: str, **had: int) -> None:
        self._recover("shrunk", "shrunk", **had, has=size, seq=seq, head=head)
        self._lost_head = head

    def _recover(self, name: str, reason: str, **details: object) -> None:
        self._notes[name] = self.note("audit.recover", reason=reason, **details)
        self.recovered += 1

    def _continue_another(self, *, is_emptied: bool) -> None:
        """
        The file has no line yet, or none any more: find the one that it continues.
        """
        self._ask_the_key()
        sibling = newest_sibling(self._path)
        previous: dict[str, str] = {}
        reason = self._moved
        before = self._segment or self._segment_before
        if sibling is not None and sibling.link.seq >= self.seq:
            before = sibling.segment
            self.seq, self.head = sibling.link.seq, sibling.link.hash
            previous = {"prev_file": sibling.name}
            # An archive that we made ourselves was continued by a file that is gone now.
            reason = reason or ("deleted" if sibling.archived else "renamed")
        elif self.seq and (reason is None or self._may_be_more):
            # It was moved out of sight while nobody had it open, or none that still writes.
            reason = "deleted"
            if self._may_be_more:
                # Not to use a number twice: so many lines may stand behind the last seal.
                self.seq += CHECKPOINT_EVERY
        self._may_be_more = False
        self._tells_of_loss = self._tells_of_loss or reason is not None
        self._segment = before + 1
        if not is_emptied and "shrunk" not in self._notes:
            # A writer that had let go of the file, and finds none, was there before.
            self._notes["open"] = self._opening(reason or self._reason or "start", **previous)

    def _ask_the_key(self) -> None:
        """
        Learn from the key's file of what was sealed in a file that we have never seen.
        """
        # Whoever cannot read it now, as a forked child that is out of descriptors, asks again.
        with suppress(OSError):
            seq, head, may_be_more = self._sealer.known()
            self._has_asked_the_key = True
            if seq > self.seq:
                self.seq, self.head, self._may_be_more = seq, head, may_be_more

    def _opening(self, reason: str, **previous: str) -> Draft:
        return self.note(
            "audit.open",
            reason=reason,
            format=VERSION,
            segment=self._number(),
            pid=os.getpid(),
            **_host(),
            **previous,
        )

    def _number(self) -> int:
        """
        Return the number of the file in its log, from 1.
        """
        if self._segment is None:
            self._segment = segment_in(first_line(self._fd))
        return self._segment

    def _opened(self, seq: int, head: str) -> None:
        self.news.append(
            AuditOpened(
                path_digest=self._path_digest,
                segment=self._number(),
                resumed_from_seq=seq or None,
                prev_hash=head if seq else None,
            )
        )

    # Appending.

    def _write(self, drafts: Sequence[Draft]) -> tuple[int, OSError | None]:
        if self._unsynced_name:
            sync_folder(self._path)
            self._unsynced_name = False
        if self._is_left:
            self._return()
        now = self._clock()
        if self._notes:
            return self._write_with_notes(drafts, now)
        if self._has_limits or now < self._latest_ns - SLACK_NS:
            self._rotate_if_due(now)
            if self._is_displaced:
                self._settle(self._patience)
                now = self._clock()
                if self._notes:
                    return self._write_with_notes(drafts, now)
        written, error = self._put(drafts, now)
        if written:
            self._record_seq = self.seq
        return written, error

    def _write_with_notes(self, drafts: Sequence[Draft], now_ns: int) -> tuple[int, OSError | None]:
        # A note speaks of what stands before it, so it cannot wait for the next file.
        notes = list(self._notes.values())
        seq, head = self.seq, self.head
        written, error = self._put([*notes, *drafts], now_ns)
        for name in list(self._notes)[:written]:
            del self._notes[name]
            if name == "open":
                self._opened(seq, head)
        if written:
            self._moved = self._reason = None
        if written > len(notes):
            self._record_seq = self.seq
        if self._tells_of_loss and not self._notes:
            self._tells_of_loss = False
            if self._sealer.has_key:
                # Until something vouches for it, a loss looks like a manipulation.
                self._seal_if_possible()
        return max(0, written - len(notes)), error

    def _put(self, drafts: Sequence[Draft], now_ns: int) -> tuple[int, OSError | None]:
        """
        Write one line for each draft; what does not fit as a whole line is taken back.
        """
        seq, head, latest_ns = self.seq, self.head, self._latest_ns
        # Only a step back of the clock, with no way to begin a new file, gets here later.
        if now_ns < latest_ns - SLACK_NS:
            now_ns = latest_ns - SLACK_NS
        writer = self._writer
        name, n = writer.id, writer.n
        lines: list[bytes] = []
        for draft in drafts:
            seq += 1
            n += 1
            stamp_ns = timestamp_ns(draft.time_ns, now_ns, latest_ns)
            line, head = draft.line(stamp_ns, seq, name, n, head)
            if stamp_ns > latest_ns:
                latest_ns = stamp_ns
            lines.append(line)
        data = lines[0] if len(lines) == 1 else b"".join(lines)
        size, self._size = self._size, _UNKNOWN
        # Counted before they are written: what interrupts the next call may not let us know
        # whether it was done, and a number used twice would be worse than a gap.
        writer.n = n
        done, error = write_all(self._fd, data)
        if error is not None:
            writer.n -= len(lines)
            kept, done = self._take_back(lines, done)
            if kept == 0:
                return 0, error
            del lines[kept:]
            writer.n += kept
            head = lines[-1][-67:-3].decode()
            seq = self.seq + kept
        self.seq = seq
        self.head = head
        self.written_bytes += done
        self._latest_ns = latest_ns
        if error is None and size != _UNKNOWN:
            self._size = self._seen = size + done
        return len(lines), error

    def _take_back(self, lines: Sequence[bytes], done: int) -> tuple[int, int]:
        """
        Cut the file back to the last line that was written as a whole; return how many are there.
        """
        kept = length = 0
        while not self._all_or_none and length + len(lines[kept]) <= done:
            length += len(lines[kept])
            kept += 1
        if length < done:
            # Should the cut fail, too, then the next writer finds a torn line and says so.
            with suppress(OSError):
                os.ftruncate(self._fd, os.fstat(self._fd).st_size - (done - length))
        return kept, length

    # Checkpoints.

    def _explain(self) -> None:
        """
        Write first what says how the file came to be as it is.
        """
        if self._notes:
            _, error = self._write(())
            if error is not None:
                raise error

    @property
    def _is_unsealed(self) -> bool:
        """
        Whether something stands behind the last checkpoint. Without a key only the records of
        events count, and among them only our own: others see to theirs.
        """
        return self._sealed_seq < (self.seq if self._sealer.has_key else self._record_seq)

    def _seal_if_possible(self) -> None:
        # A log that cannot be sealed goes on: its reader sees where the seals end.
        try:
            self._seal()
        except OSError as error:
            if not self._cannot_seal:
                self._report(f"audit log {self._path!r} goes on without a checkpoint: {error}")
            self._cannot_seal = True
        else:
            self._cannot_seal = False

    def _return(self) -> None:
        """
        Let the key's file know that the log goes on behind what was its end, so that what follows
        is missed when it is gone, too.
        """
        # Where that fails, the next seal says so.
        with suppress(OSError), self._sealer.locked(_HURRY):
            if self._whereabouts.is_at_path():
                self._sealer.returned()
        self._is_left = False

    def _leave(self) -> None:
        """
        Let others know where we leave the log, so that its end is missed when it is gone: those
        who keep its heads elsewhere, and the key's file.
        """
        self.news.append(
            AuditCheckpoint(
                path_digest=self._path_digest,
                segment=self._number(),
                seq=self.seq,
                count=self.seq,
                head=self.head,
                mono_ns=time.monotonic_ns(),
            )
        )
        try:
            with self._sealer.locked():
                if self._whereabouts.is_at_path():
                    self._sealer.ended(self.seq, self.head)
                    self._is_left = True
        except OSError as error:
            self._report(f"the end of {self._path!r} is not noted beside its key: {error}")

    def _seal(self) -> None:
        with self._sealer.locked(_HURRY if self._cannot_seal else PATIENCE):
            # A file that is no longer at the path is not sealed: others may have begun a new one,
            # and each epoch has one checkpoint. The next record follows them.
            if self._whereabouts.is_at_path():
                self._own_up()
                self._seal_here()

    def _own_up(self) -> None:
        """
        Say that the log had lines which were sealed in a file that is not at the path any more:
        before this one was begun, or while somebody put a copy in its place.
        """
        seq, head, _ = self._sealer.known()
        if head == self._lost_head or seq in self._lost_lines:
            return
        if seq > self.seq or not self._may_have(seq, head):
            self._shrunk(self._size, seq, head)
            self._explain()

    def _may_have(self, seq: int, head: str) -> bool:
        """
        Return whether the line *seq* with the hash *head* is in this file, or in an older one.
        """
        if (seq, head) == self._sealed_line:
            return True
        start = start_of(os.pread(self._fd, 512, 0))
        return start is None or seq < start.seq or has_line(self._fd, head)

    def _seal_here(self) -> None:
        pending = self._sealer.pending()
        if pending is not None and self._has(pending):
            self._put_checkpoint(pending)
        checkpoint = self._sealer.seal(
            count=self.seq, head=self.head, segment=self._number(), mono_ns=time.monotonic_ns()
        )
        self._put_checkpoint(checkpoint)
        if self._sealer.has_key:
            # The key must not know of a checkpoint that a loss of power takes away.
            sync_data(self._fd)
        self._sealer.written(self.seq, self.head)
        self._sealed_line = self.seq, self.head
        self._lost_lines = range(0)

    def _has(self, checkpoint: Mapping[str, JSON]) -> bool:
        """
        Return whether the line that *checkpoint* speaks of can be in the log; it may be lost.
        """
        return bool(checkpoint["count"] <= self.seq and checkpoint["head"] != self._lost_head)

    def _put_checkpoint(self, checkpoint: Mapping[str, JSON]) -> None:
        draft = self.note("audit.checkpoint", **checkpoint)
        _, error = self._put([draft], draft.time_ns)
        if error is not None:
            raise error
        self._sealed_seq = self.seq
        told = {name: checkpoint[name] for name in _TOLD if name in checkpoint}
        self.news.append(AuditCheckpoint(path_digest=self._path_digest, seq=self.seq, **told))

    # Beginning a new file.

    def _rotate_if_due(self, now_ns: int) -> None:
        trigger = self._rotation_trigger(now_ns)
        if trigger is not None and time.monotonic() >= self._rotation_after:
            self._try(lambda: self._rotate(trigger, now_ns))

    def _rotation_trigger(self, now_ns: int) -> str | None:
        if now_ns < self._latest_ns - SLACK_NS:
            return "clock"
        if self._max_bytes is not None and self._size >= self._max_bytes:
            return "size"
        if self._max_age is not None and now_ns - self._begin_ns() >= self._max_age * 1e9:
            return "age"
        return None

    def _begin_ns(self) -> int:
        if self._began_ns is None:
            start = start_of(os.pread(self._fd, 512, 0))
            self._began_ns = self._clock() if start is None else start.time_ns
        return self._began_ns

    def _try(self, rotate: Callable[[], None]) -> None:
        # A log that cannot begin a new file goes on in the old one, if that is still at the path.
        try:
            rotate()
        except OSError as error:
            self._is_displaced = not self._whereabouts.is_at_path()
            if self._is_displaced:
                self._whereabouts.distrust()
            self._rotation_after = time.monotonic() + _ROTATION_PAUSE
            self._report(f"audit log {self._path!r} could not begin a new file: {error}")

    def _rotate(self, trigger: str, now_ns: int) -> None:
        """
        Close the file with a record that names its archive, and then make that true.

        Each step can be repeated, so that the next writer finishes what a crash interrupts.
        """
        if self._is_unsealed:
            self._seal_if_possible()
        start = start_of(os.pread(self._fd, 512, 0))
        seconds = now_ns // 1_000_000_000
        name = (
            f"{os.path.basename(self._path)}."
            f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime(seconds))}-{self.seq + 1:010d}"
        )
        closing = self.note(
            "audit.close",
            reason="rotate",
            trigger=trigger,
            count=None if start is None else self.seq + 2 - start.seq,
            archived_as=name,
        )
        _, error = self._put([closing], closing.time_ns)
        if error is not None:
            raise error
        self._roll(name)

    def _finish_rotation(self, tail: Tail) -> None:
        name = None if self._notes else archived_as(last_line(self._fd, tail))
        if name is not None and os.path.basename(name) == name:
            self._try(lambda: self._roll(name))

    def _roll(self, name: str) -> None:
        """
        Archive the file, which ends with a record that says so, and put a new one in its place.
        """
        archive = self._link(os.path.join(os.path.dirname(self._path), name))
        new = f"{self._path}.new"
        with suppress(FileNotFoundError):
            os.unlink(new)
        n = self._writer.n
        fd = self._homeless_fd = os.open(new, FLAGS | os.O_CREAT | os.O_EXCL, FILE_MODE)
        try:
            lock(fd, 0)
            number = self._number()
            self._segment = number + 1
            opening = self._opening("rotate", prev_file=os.path.basename(archive))
            line, head = opening.line(
                opening.time_ns, self.seq + 1, self._writer.id, self._writer.n + 1, self.head
            )
            _, error = write_all(fd, line)
            if error is not None:
                raise error
            if self._synced:
                sync_data(self._fd)
                sync_data(fd)
            found = os.fstat(fd)
            # Whatever another has put there, with whose records in it, is not ours to replace.
            if not os.path.samestat(os.lstat(self._path), os.fstat(self._fd)):
                raise self._displaced()
            # Counted before it is there: what interrupts this may not let us know.
            self._writer.n += 1
            os.rename(new, self._path)
        except BaseException as error:
            if isinstance(error, OSError) and self._writer.n > n:
                self._writer.n = n
            self._segment = None
            self._drop(fd)
            with suppress(OSError):
                os.unlink(new)
            raise
        seq, before = self.seq, self.head
        self.seq += 1
        self.head = head
        self.written_bytes += len(line)
        old = self._fd
        self._adopt(fd, found)
        self._homeless_fd = old
        self._segment = number + 1
        self._opened(seq, before)
        self._size = self._seen = len(line)
        self._latest_ns = opening.time_ns
        self._reason = None
        self._drop(old)

    def _link(self, archive: str) -> str:
        """
        Give our file the name *archive*, or one like it, and return that.
        """
        ours = os.fstat(self._fd)
        for i in range(1, _ATTEMPTS):
            name = archive if i == 1 else f"{archive}.{i}"
            # link() never replaces a file, as rename() does.
            with suppress(FileExistsError):
                os.link(self._path, name, follow_symlinks=False)
                if not os.path.samestat(os.lstat(name), ours):
                    os.unlink(name)
                    raise self._displaced()
            if os.path.samestat(os.lstat(name), ours):
                return name
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), archive)

    def _displaced(self) -> OSError:
        return OSError(errno.EAGAIN, "another file was put in its place meanwhile")


@cache
def _host() -> dict[str, str]:
    host = {"host": os.uname().nodename}
    with suppress(OSError), open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        host["boot_id"] = file.read().strip()
    host["version"] = __version__
    return host


def _event_id(time_ns: int) -> str:
    """
    Return a UUIDv7 (RFC 9562).
    """
    value = (
        (time_ns // 1_000_000 & 0xFFFF_FFFF_FFFF) << 80
        | 0x7 << 76
        | (int.from_bytes(os.urandom(10)) & ~(0xF << 76) & ~(0x3 << 62))
        | 0b10 << 62
    )
    return str(UUID(int=value))
