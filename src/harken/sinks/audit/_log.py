"""
The sink: what is promised about each record, and what happens when it cannot be kept.
"""

from __future__ import annotations

import errno
import os
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from contextvars import Context
from functools import cache
from typing import Literal
from weakref import WeakSet

import msgspec

from harken import Bus, Envelope, Event
from harken.errors import AuditWriteError, ClosedBusError, DeliveryError, SettingsError
from harken.record import Draft, from_envelope
from harken.sinks.audit._archive import check_installed, compress_archives
from harken.sinks.audit._beat import Beat
from harken.sinks.audit._descriptor import sync_data
from harken.sinks.audit._file import LogFile, Writer
from harken.sinks.audit._group import GroupSync
from harken.sinks.audit._path import dangers, explained
from harken.sinks.audit._seal import Ratchet, Sealer, Signer
from harken.sinks.audit._spill import Spill

# How long a record waits for the lock, in seconds, once one has waited in vain: an agent must not
# be slowed down by each record for as long as another process hangs.
_IMPATIENCE = 0.02

# So many spilled records are tried again with every new one; more of them cost too much.
_FEW = 256

# Bytes of spilled records that are kept in memory until they can be put into the log.
_MERGED_BYTES = 16 * 1024 * 1024

_logs: WeakSet[AuditLog] = WeakSet()


class _Missing(msgspec.Struct):
    """
    What is not in the log, and is not said there yet.
    """

    reason: str
    first_n: int
    last_n: int
    count: int = 0
    spilled: int = 0
    unsynced: int = 0
    # What was spilled, as long as memory allows, to be put into the log when that is possible.
    drafts: list[Draft] = []
    size: int = 0
    # What stopped the last attempt to do so.
    error: OSError | None = None


class AuditLog:
    """
    A sink that appends a record for every audited event to a file, as `harken.record` describes.

    Any number of threads, forked children and unrelated processes may append to one file; their
    records form one chain. The file and its folder are made when they are missing, for the owner
    alone. It may be renamed, deleted or truncated at any time: the chain goes on in the file that
    is at the path then, and what is missing is recorded. A last line that a crash left unfinished
    is cut off and recorded by the next writer.

    The file is written to once when the log is opened, so that a bad path fails then.

    Args:
        path: A regular file on a local file system. Relative to the working folder of now.

        durability:
            When `Bus.publish()` returns, the record is in the kernel and survives the death of the
            process (``process``); it is on the disk and survives a loss of power, as far as the
            disk keeps its word (``group``; threads that write at the same time share a sync); or
            it waits in a bounded queue (``async``).

        on_failure:
            What a record that cannot be written means. ``degrade``: the agent goes on; the record
            is put into a file beside the log if that is possible (``<path>.spill-<writer>``), it
            is counted, stderr says so once, and the next record that can be written is preceded
            by one that tells what is missing, and by what was spilled. ``raise``: the sink is
            required, and `publish()` raises `DeliveryError`; what is missing is recorded just the
            same.

        max_bytes:
            Begin a new file once this one has so many bytes. The old one is archived beside it as
            ``<path>.<UTC time>-<seq>``; nothing is ever deleted. A new file also begins when the
            clock steps back by more than a second, so that within a file timestamps never go back
            by more than two.

        max_age: Begin a new file with the first record after so many seconds.

        compress:
            ``zstd`` compresses archives, in the background, all but the newest. Needs
            ``harken[zstd]``.

        key_path:
            A file made by ``harken keygen``: its key seals every checkpoint and evolves with each,
            so that nobody who breaks in later can forge what was sealed before. One log, one key.

        signing_key_path:
            A file made by ``harken keygen --signing``: checkpoints are signed with Ed25519, for
            whoever has the public key. Needs ``harken[sign]``.

        checkpoint_seconds:
            How long a record may stand behind the last checkpoint. One also comes after every
            `harken.record.CHECKPOINT_EVERY` lines and before every close; and, with a key, every
            60 seconds when nothing happens. Each is also published as `AuditCheckpoint`, and one
            more, without a seal, tells where this writer left the log.

        lock_wait:
            How long a record may wait for other processes, in seconds. One that was stopped while
            it held the lock delays nobody for longer.

        clock: Nanoseconds since 1970-01-01 UTC, for the time of writing.

    Raises:
        SettingsError: An option is none of those above.

        AuditPathError: The file cannot be opened and written to; the message says what to do.

        AuditKeyError: A key cannot be used; the message says what to do.
    """

    name = "AuditLog"
    quarantine = False

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        durability: Literal["process", "group", "async"] = "process",
        on_failure: Literal["degrade", "raise"] = "degrade",
        max_bytes: int | None = None,
        max_age: float | None = None,
        compress: Literal["zstd"] | None = None,
        key_path: str | os.PathLike[str] | None = None,
        signing_key_path: str | os.PathLike[str] | None = None,
        checkpoint_seconds: float = 10.0,
        lock_wait: float = 1.0,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        _check("durability", durability, ("process", "group", "async"))
        _check("on_failure", on_failure, ("degrade", "raise"))
        if compress is not None:
            _check("compress", compress, ("zstd",))
            check_installed()
        if durability == "async" and on_failure == "raise":
            raise SettingsError(
                "on_failure='raise' needs the record before publish() returns: choose "
                "durability='process' or 'group'"
            )
        for option, value in (("max_bytes", max_bytes), ("max_age", max_age)):
            if value is not None and value <= 0:
                raise SettingsError(f"{option} must be more than 0, not {value}; None is no limit")
        if checkpoint_seconds <= 0:
            raise SettingsError(f"checkpoint_seconds must be more than 0, not {checkpoint_seconds}")
        self.path = os.path.abspath(os.fsdecode(path))
        self.delivery: Literal["inline", "worker"] = "worker" if durability == "async" else "inline"
        self.required = on_failure == "raise"
        self._max_bytes = max_bytes
        self._max_age = max_age
        self._compress = compress is not None
        self._cannot_compress = False
        self._compress_after = 0.0
        self._lock_wait = lock_wait
        self._clock = clock
        self._sealer = Sealer(
            None if key_path is None else Ratchet(key_path),
            None if signing_key_path is None else Signer(signing_key_path),
        )
        self._checkpoint_seconds = checkpoint_seconds
        self._bus: weakref.ref[Bus] | None = None
        self._synced = durability == "group"
        self._closed = False
        self._begin("start")
        _, error = self._file.append((), lock_wait)
        if error is not None:
            self._file.close()
            raise explained(error, self.path) from error
        self._messages += dangers(self.path)
        self._say()
        if self._sealer.has_key:
            # From now on it says every minute that it is still there.
            self._beat.start()
        _watch_forks()
        _logs.add(self)

    def _begin(self, reason: str) -> None:
        # A signal handler or a destructor may publish while this thread is inside write().
        self._lock = threading.RLock()
        self._busy = False
        self._interrupting: list[Draft] = []
        # Why records did not come so far that they could be written, and how many each time.
        self._dropped: deque[tuple[str, int]] = deque()
        self._messages: list[str] = []
        self._missing: _Missing | None = None
        self._outage = False
        # On the monotonic clock: before that, what is missing is not tried again.
        self._retry_after = 0.0
        self._records = 0
        self._lost = 0
        self._spilled = 0
        self._unsynced = 0
        self._writer = Writer()
        # Whether it was recorded that this writer ends.
        self._has_left = False
        self._file = LogFile(
            self.path,
            self._writer,
            self._sealer,
            reason=reason,
            max_bytes=self._max_bytes,
            max_age=self._max_age,
            synced=self._synced,
            clock=self._clock,
            report=self._messages.append,
        )
        self._spill = Spill(self.path, self._writer)
        self._group = GroupSync(self._sync) if self._synced else None
        self._beat = Beat(self.checkpoint, self._checkpoint_seconds)
        self._pid = os.getpid()

    def __repr__(self) -> str:
        return f"<AuditLog {self.path!r} seq={self.last_seq}>"

    @property
    def records(self) -> int:
        """
        Events whose record this process wrote to the log; control records do not count.
        """
        return self._records

    @property
    def written_bytes(self) -> int:
        """
        Bytes that this process wrote to the log.
        """
        return self._file.written_bytes

    @property
    def lost(self) -> int:
        """
        Events of this process whose record is nowhere.
        """
        return self._lost + sum(count for _, count in tuple(self._dropped))

    @property
    def spilled(self) -> int:
        """
        Events of this process whose record is in the file beside the log.
        """
        return self._spilled

    @property
    def unsynced(self) -> int:
        """
        Events of this process whose record is in the log, but was not confirmed by the disk.
        """
        return self._unsynced

    @property
    def reopened(self) -> int:
        """
        How often the file had been moved away or deleted, and was followed.
        """
        return self._file.reopened

    @property
    def recovered(self) -> int:
        """
        How often the file was not as its writers leave it: torn, truncated, or with other lines.
        """
        return self._file.recovered

    @property
    def last_seq(self) -> int:
        """
        The number of the last line, as this process saw it last.
        """
        return self._file.seq

    @property
    def head(self) -> str:
        """
        The hash of that line: whoever keeps it can tell later that nothing before it was changed.
        """
        return self._file.head

    def attached(self, bus: Bus, /) -> None:
        """
        Publish on *bus* from now on which files are begun, and the checkpoints.
        """
        self._bus = weakref.ref(bus)

    def write(self, batch: Sequence[Envelope[Event]], /) -> None:
        """
        Append a record for each audited event of *batch*; safe from any thread.

        Raises:
            AuditWriteError: The log is closed; there is no record of an event, which was counted
                as lost; or ``on_failure`` is ``raise`` and a record was not written, or not
                confirmed by the disk.
        """
        try:
            drafts = [from_envelope(envelope) for envelope in batch if envelope.audit]
        except Exception as failure:
            self._write_apart(batch, failure)
            raise AuditWriteError(
                f"audit log {self.path!r} has no record of an event: {type(failure).__name__}",
                (failure,),
            ) from failure
        if not drafts:
            return
        if os.getpid() != self._pid:
            self.after_fork()
        with self._lock:
            if self._closed:
                raise AuditWriteError(f"audit log {self.path!r} is closed; the record is lost")
            if self._busy:
                self._interrupting += drafts
                return
            before = self._records
            error = self._append_all(drafts)
            written, last_n, seq = self._records - before, self._writer.n, self._file.seq
        if self._group is not None:
            error = self._confirm(self._group, written, last_n, seq) or error
            if self._closed:
                self._group.stop(self._lock_wait)
        if error is None and self._outage:
            self._end_outage()
        self._beat.start()
        if self._messages:
            self._say()
        if self._file.news:
            self._tell()
        if error is not None and self.required:
            raise AuditWriteError(
                f"audit log {self.path!r} could not be written: {error.strerror or error}", (error,)
            ) from error

    def _write_apart(self, batch: Sequence[Envelope[Event]], failure: Exception) -> None:
        """
        Write what can be written of *batch*, of which an event has no record because of *failure*.
        """
        if len(batch) == 1:
            # It has its number all the same, and the log says that it is missing.
            self._dropped.append((type(failure).__name__, 1))
            self.flush(self._lock_wait)
            return
        with ExitStack() as others:
            for envelope in reversed(batch):
                others.callback(self.write, (envelope,))

    def dropped(self, batch: Sequence[Envelope[Event]], /) -> None:
        """
        Count the records that the queue before an ``async`` log had no room for.

        They have their numbers all the same: the log says with the next record what is missing.
        """
        count = sum(envelope.audit for envelope in batch)
        if count:
            # This may be a publisher's thread, and must not wait for a write.
            self._dropped.append(("queue_full", count))

    def flush(self, timeout: float = 5.0) -> bool:
        """
        Return whether the log holds, or tells the loss of, everything it was given so far.

        After a failure it tries to write again.
        """
        if not self._lock.acquire(timeout=timeout):
            return False
        bus = None if self._bus is None else self._bus()
        try:
            if self._is_owing and not self._closed and not self._busy:
                self._retry_after = 0.0
                self._append_all(())
            if bus is not None and bus.is_closing and not self._closed and not self._busy:
                # The last moment at which the others can still hear where the log ends. A worker
                # is not heard any more, and has more to write.
                if self.delivery == "inline":
                    self._leave(self._lock_wait)
                else:
                    self._file.append((), self._lock_wait, sealed=True)
            told = self._missing is None
            if told and self._outage:
                self._end_outage()
        finally:
            self._lock.release()
        self._say()
        self._tell()
        return told

    def checkpoint(self) -> None:
        """
        Write a checkpoint if one is due, after what an outage has left to be written; and compress
        archives where that was asked for. Called every now and then by a thread of the log's own.
        """
        with self._lock:
            if self._closed or self._busy or self._has_left:
                return
            if self._is_owing:
                self._append_all(())
            self._busy = True
            try:
                self._file.beat(self._lock_wait)
            finally:
                self._busy = False
            if self._interrupting:
                drafts, self._interrupting = self._interrupting, []
                self._append_all(drafts)
        if self._compress:
            self._compress_archives()
        self._say()
        self._tell()

    def _compress_archives(self) -> None:
        begun = time.monotonic()
        if begun < self._compress_after:
            return
        try:
            compress_archives(self.path)
        except OSError as error:
            self._compress_after = _after_vain(begun)
            if not self._cannot_compress:
                self._messages.append(
                    f"archives of {self.path!r} stay as they are until they can be compressed: "
                    f"{error.strerror or error}"
                )
            self._cannot_compress = True
        else:
            self._cannot_compress = False

    def close(self, timeout: float = 5.0) -> None:
        """
        Record that this writer ended, and let the file go. Idempotent.

        A call that interrupts this thread inside `write()` takes effect when that is done. While
        another thread is busy for longer than *timeout* seconds, the log stays open.
        """
        if os.getpid() != self._pid:
            self.after_fork()
        if not self._lock.acquire(timeout=timeout):
            return
        try:
            if self._closed:
                return
            self._closed = True
            if self._busy:
                return
            self._finish(min(timeout, self._lock_wait))
        finally:
            self._lock.release()
        self._say()
        self._tell()
        self._beat.stop()
        if self._group is not None:
            self._group.stop(timeout)

    def after_fork(self) -> None:
        """
        Become a writer of its own in a forked child; the file is opened by its first record.
        """
        if os.getpid() != self._pid:
            self._file.abandon()
            self._begin("fork")

    def _append_all(self, drafts: Sequence[Draft]) -> OSError | None:
        self._busy = True
        try:
            error = self._append(drafts)
            while self._interrupting:
                drafts, self._interrupting = self._interrupting, []
                error = self._append(drafts) or error
        finally:
            self._busy = False
        if self._closed:
            self._finish(self._lock_wait)
        return error

    def _append(self, drafts: Sequence[Draft]) -> OSError | None:
        if self._has_left:
            self._return()
        if self._dropped:
            self._count_dropped()
        missing = self._missing
        error = None if missing is None else self._try_to_make_good(missing)
        written = 0
        if error is None and (drafts or missing is None):
            written, error = self._file.append(drafts, self._lock_wait)
        self._records += written
        if error is not None and len(drafts) > written:
            self._miss(drafts[written:], error)
        return error

    @property
    def _is_owing(self) -> bool:
        """
        Whether something is missing that the log does not say yet.
        """
        return self._missing is not None or bool(self._dropped)

    def _count_dropped(self) -> None:
        with suppress(IndexError):
            while True:
                reason, count = self._dropped.popleft()
                self._lost += count
                self._note_missing(reason, count).count += count

    def _note_missing(self, reason: str, count: int) -> _Missing:
        """
        Give numbers to so many records that are not in the log, and return what is missing by now.
        """
        first_n = self._writer.n + 1
        self._writer.n += count
        if self._missing is None:
            self._missing = _Missing(reason, first_n, first_n)
        self._missing.last_n = self._writer.n
        return self._missing

    def _try_to_make_good(self, missing: _Missing) -> OSError | None:
        begun = time.monotonic()
        is_much = len(missing.drafts) > _FEW
        if missing.error is not None and is_much and begun < self._retry_after:
            return missing.error
        missing.error = self._make_good(missing, min(self._lock_wait, _IMPATIENCE))
        self._retry_after = _after_vain(begun)
        return missing.error

    def _make_good(self, missing: _Missing, patience: float) -> OSError | None:
        """
        Record what is missing, and with it, all at once, put what was spilled into the log.
        """
        merged = missing.drafts if len(missing.drafts) == missing.spilled else []
        report = self._report(missing)
        if merged:
            report["merged"] = len(merged)
        draft = self._file.note("audit.lost", **report)
        # What interrupts this may not let us know whether it was done: never twice.
        self._missing = None
        written, error = self._file.append((draft, *merged), patience, whole=True)
        if not written:
            self._missing = missing
            return error
        self._records += len(merged)
        self._spilled -= len(merged)
        if merged and not self._spilled:
            self._spill.remove()
        return None

    def _miss(self, drafts: Sequence[Draft], error: OSError) -> None:
        missing = self._note_missing(_reason(error), len(drafts))
        spilled = 0
        if not self.required:
            spilled, _ = self._spill.append(drafts, missing.last_n - len(drafts) + 1)
        self._spilled += spilled
        self._lost += len(drafts) - spilled
        # On a disk that is nearly full every other record may fail: that is one outage.
        if not self._outage:
            self._outage = True
            fate = f"are kept in {self._spill.path!r}" if spilled else "are lost"
            self._messages.append(
                f"audit log {self.path!r} cannot be written ({error.strerror or error}); records "
                f"{fate} until it can"
            )
        missing.spilled += spilled
        size = sum(len(draft.front) + len(draft.back) for draft in drafts[:spilled])
        if missing.size + size <= _MERGED_BYTES:
            missing.drafts += drafts[:spilled]
            missing.size += size
        missing.count += len(drafts) - spilled

    def _end_outage(self) -> None:
        with self._lock:
            self._outage = False
            self._messages.append(f"audit log {self.path!r} is written again")

    def _report(self, missing: _Missing) -> dict[str, object]:
        report: dict[str, object] = {
            "reason": missing.reason,
            "count": missing.count,
            "first_n": missing.first_n,
            "last_n": missing.last_n,
        }
        if missing.unsynced:
            report["unsynced"] = missing.unsynced
        if missing.spilled:
            report["spilled"] = missing.spilled
            report["spill_file"] = os.path.basename(self._spill.path)
            report["spill_head"] = self._spill.head
        return report

    def _leave(self, patience: float) -> OSError | None:
        """
        Record that this writer ends, unless that was done.
        """
        if self._has_left:
            return None
        self._count_dropped()
        if self._missing is not None:
            error = self._make_good(self._missing, patience)
            if error is not None:
                return error
        closing = self._file.note(
            "audit.close",
            reason="shutdown",
            records=self._records,
            lost=self._lost,
            spilled=self._spilled,
        )
        _, error = self._file.append((closing,), patience, sealed=True)
        self._has_left = error is None
        return error

    def _return(self) -> None:
        """
        Go on, as another writer, after all: nothing follows the record that one has ended.
        """
        self._has_left = False
        self._writer.begin()
        self._spill = Spill(self.path, self._writer)
        self._file.announce("start")

    def _finish(self, patience: float) -> None:
        self._count_dropped()
        if self._writer.n:
            error = self._leave(patience)
            if error is not None:
                self._messages.append(
                    f"audit log {self.path!r} was left without a last record "
                    f"({error.strerror or error}); {self._lost} records were lost, "
                    f"{self._spilled} are in {self._spill.path!r}"
                )
        self._file.close()

    def _sync(self) -> None:
        fd = None
        try:
            with self._lock:
                fd = self._file.duplicate()
            if fd is not None:
                begun = time.monotonic_ns()
                sync_data(fd)
                bus = None if self._bus is None else self._bus()
                if bus is not None:
                    bus.measured("sync", self.name, (time.monotonic_ns() - begun) / 1e9)
        except OSError as error:
            with self._lock:
                self._file.distrust(error)
        finally:
            if fd is not None:
                os.close(fd)

    def _confirm(self, group: GroupSync, count: int, last_n: int, seq: int) -> OSError | None:
        if not count:
            return None
        group.wait()
        with self._lock:
            error = self._file.unsynced_error
            if error is None or seq > self._file.unsynced_seq:
                return None
            self._unsynced += count
            if self._missing is None:
                self._missing = _Missing(_reason(error), last_n - count + 1, last_n)
            if not self._outage:
                self._outage = True
                self._messages.append(
                    f"audit log {self.path!r} could not be synced ({error.strerror or error}); "
                    "records may be lost with the power"
                )
            self._missing.unsynced += count
            self._missing.last_n = max(self._missing.last_n, last_n)
            return error

    def _tell(self) -> None:
        bus = None if self._bus is None else self._bus()
        news = self._file.news
        while news:
            event = news.popleft()
            # After the close of the bus nobody is there to hear it.
            if bus is not None:
                # What a required sink raises is counted by the bus, and is not for this thread.
                with suppress(ClosedBusError, DeliveryError):
                    # Not a part of whatever the agent is doing just now.
                    Context().run(bus.publish, event)

    def _say(self) -> None:
        # Not under the lock: somebody may have put an object there that logs, and so publishes.
        with self._lock:
            messages = "".join(f"harken: {message}\n" for message in self._messages)
            self._messages.clear()
        stream = sys.stderr
        if messages and stream is not None:
            # A closed or broken stderr: there is nobody left to tell.
            with suppress(OSError, ValueError):
                stream.write(messages)
                stream.flush()


def _check(option: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise SettingsError(f"{option} is one of {', '.join(known)}; not {value!r}")


def _after_vain(begun: float) -> float:
    """
    Return when to try again what was tried in vain since *begun*, on the monotonic clock.

    What costs more, with more to put into the log, or a larger archive, is tried less often: nine
    tenths of the time remain for others.
    """
    return 10 * time.monotonic() - 9 * begun


def _reason(error: OSError) -> str:
    return errno.errorcode.get(error.errno or 0, type(error).__name__)


@cache
def _watch_forks() -> None:
    os.register_at_fork(after_in_child=_after_fork)


def _after_fork() -> None:
    for log in tuple(_logs):
        log.after_fork()
