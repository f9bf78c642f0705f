"""
The forwarder: reads a log behind what its stream holds, and sends that in batches.
"""

from __future__ import annotations

import logging
import math
import operator
import os
import socket
import threading
import time
from collections.abc import Generator, Iterable
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from harken.errors import ClosedBusError, DeliveryError, HarkenError
from harken.forward._delay import delay_after
from harken.forward.cursor import BusyError, CursorFile, Kept
from harken.forward.events import (
    ForwardGap,
    ForwardMeasured,
    ForwardRejected,
    ForwardResumed,
    ForwardStalled,
)
from harken.forward.lag import NO_LAG, Lag, behind, lag_of
from harken.forward.metrics import write_metrics
from harken.forward.rejected import RejectedFile
from harken.forward.target import PoisonError, RefusedError, StreamTarget, UnavailableError
from harken.forward.wire import Message, Position, to_message
from harken.record import RecordError
from harken.trail import (
    Entry,
    ForbiddenLogError,
    MissingLogError,
    NotFoundError,
    Problem,
    Trail,
    TrailError,
)
from harken.trail.files import read_at
from harken.trail.follow import follow

if TYPE_CHECKING:
    from harken import Bus, Event

_STANDBY_SECONDS = 2.0
_BEAT_SECONDS = 5.0

# Bytes of lines that are sent at once, unless it is one line.
_MOST = 4 << 20

_BEGIN = Position(1, 0)

_log = logging.getLogger("harken")


class Forwarder:
    """
    Forwards the audit log at *path* to *target*: each line once, in order, whatever happens.

    The log is the spool: nothing is held in memory but a batch, and no publisher ever waits. Where
    to go on is asked of the stream itself, after each interruption; so a forwarder or an engine
    that is killed leaves neither a gap nor a line twice.

    ``run()`` works in the calling thread, `start()` in one of its own. Several processes may
    start one for the same log: one of them forwards, and another one takes over when it ends.

    Args:
        path: The log that is appended to; its older files are found beside it.

        source:
            What the log is called in the stream, as a path such as ``/billing/host-7``; by default
            ``/harken/`` and the name of the host. No two logs may share one.

        cursor: The file that says how far it is; by default beside the log.

        rejected: The file of lines that nobody would take; by default beside the log.

        metrics: A file that tells the lag in the text format of Prometheus; None for none.

        bus: Told how far it is, when forwarding stalls and goes on, of gaps and of rejected lines.

        poll_seconds: How often the log is looked at.

    Attributes:
        forwarded: How many lines were taken by the engine.

        rejected: How many lines nobody would take.

        failures: How often the engine or the log failed.

        error: What ended `start()`'s thread; None when nothing did.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        target: StreamTarget,
        *,
        source: str | None = None,
        cursor: str | os.PathLike[str] | None = None,
        rejected: str | os.PathLike[str] | None = None,
        metrics: str | os.PathLike[str] | None = None,
        bus: Bus | None = None,
        poll_seconds: float = 0.02,
    ) -> None:
        self.path = os.fsdecode(path)
        self.source = source_of(source)
        self.forwarded = 0
        self.rejected = 0
        self.failures = 0
        self.error: HarkenError | None = None
        self._target = target
        self._cursor = CursorFile(self._apart(cursor or cursor_path(self.path)))
        self._rejects = RejectedFile(self._apart(rejected or _beside(self.path, "rejected.jsonl")))
        self._metrics = None if metrics is None else Path(self._apart(metrics))
        self._bus = bus
        self._poll_seconds = poll_seconds
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        # The last line that the stream holds, and the last one that was read.
        self._at: Position | None = None
        self._read = _BEGIN
        # The gap for which the log was read again, in vain when it is met once more.
        self._gap: tuple[int, int] | None = None
        self._attempts = 0
        self._stalled_at: float | None = None
        self._woken = threading.Event()
        # What was told last, and how many lines, rejected lines and failures there were then.
        self._told: ForwardMeasured | None = None
        self._counted = (0, 0, 0)

    def _apart(self, path: str | os.PathLike[str]) -> str:
        # What begins like the log is looked at, and locked, as one of its files.
        name = os.path.realpath(os.fsdecode(path))
        if name.startswith(os.path.realpath(self.path)):
            raise RefusedError(
                f"{name} would be taken for a file of the log; choose a name that begins otherwise"
            )
        return os.fsdecode(path)

    # Running.

    def start(self) -> None:
        """
        Forward in a thread of its own, which does not keep the process alive.
        """
        self._thread = threading.Thread(
            target=self._run_in_thread, name="harken-forward", daemon=True
        )
        self._thread.start()

    def stop(self, timeout: float = 5.0) -> bool:
        """
        End `run()` or the thread, after the batch that is being sent; twice is allowed.

        Returns:
            Whether the thread has ended within *timeout* seconds.
        """
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(timeout)
            return not self._thread.is_alive()
        return True

    def __enter__(self) -> Forwarder:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def _run_in_thread(self) -> None:
        while not self._stopping.is_set():
            try:
                self.run()
            except BusyError:
                # Whoever forwards may be killed at any time.
                self._stopping.wait(_STANDBY_SECONDS)
            except (HarkenError, OSError) as error:
                self.error = error if isinstance(error, HarkenError) else TrailError(str(error))
                _log.error("forwarding of %s has ended: %s", self.path, error)
                return

    def run(self, *, once: bool = False, patience: float | None = None) -> None:
        """
        Forward until `stop()` is called.

        Args:
            once: Whether to return when everything in the log is in the stream.

            patience: Seconds without success after which an outage is an error; None for ever.

        Raises:
            BusyError: Another process forwards this log.

            RefusedError: The engine will never take it.

            UnavailableError: The engine was away for longer than *patience*.

            ForbiddenLogError: This user may not read the log.

            OSError: Its own files could not be written for longer than *patience*.
        """
        self._cursor.acquire()
        try:
            with self._beating():
                self._run(once=once, patience=patience)
        finally:
            self._cursor.release()

    def _run(self, *, once: bool, patience: float | None) -> None:
        begun = time.monotonic()
        while not self._stopping.is_set():
            forwarded = self.forwarded
            try:
                self._forward(once=once)
                return
            except (HarkenError, OSError) as error:
                self._stall(error)
                if self.forwarded > forwarded:
                    begun = time.monotonic()
                if not _may_pass(error) or (
                    patience is not None and time.monotonic() - begun > patience
                ):
                    raise
            finally:
                self._target.close()
            self._stopping.wait(delay_after(self._attempts))

    @contextmanager
    def _beating(self) -> Generator[None]:
        # In a thread of its own: a disk may take its time, and no line shall wait for it.
        ended = threading.Event()
        beat = threading.Thread(
            target=self._beat, args=(ended,), name="harken-forward-beat", daemon=True
        )
        beat.start()
        try:
            yield
        finally:
            ended.set()
            self._woken.set()
            beat.join()

    def _beat(self, ended: threading.Event) -> None:
        last = False
        while not last:
            self._woken.wait(_BEAT_SECONDS)
            self._woken.clear()
            last = ended.is_set()
            self._keep()
            self._measure()

    # Reading.

    def _forward(self, *, once: bool) -> None:
        self._at = self._begin(self._target.open(self.source))
        self._woken.set()
        while not self._stopping.is_set():
            try:
                with self._reading(once=once) as found:
                    for entries in found:
                        self._take(entries)
                return
            except _NotInOrderError:
                # A file that was copied and emptied holds in its copy what was not read here.
                continue

    @contextmanager
    def _reading(self, *, once: bool) -> Generator[Iterable[list[Entry]]]:
        self._read = self._at or _BEGIN
        lines = follow(
            self.path,
            behind(self._at),
            last=None,
            report=self._note,
            wait=_end if once else self._rest,
        )
        with suppress(_EndError), closing(lines):
            yield lines

    def _rest(self) -> None:
        self._recover()
        if self._stopping.wait(self._poll_seconds):
            raise _EndError

    def _begin(self, held: Position | None) -> Position | None:
        """
        Return the line behind which to go on, given the last one that the stream holds.
        """
        if held is None:
            kept = self._cursor.read()
            if kept is not None and kept.target == self._target.address and kept.position.seq:
                self._tell_gap("lost", 1, kept.position.seq)
            return None
        try:
            with Trail(self.path, _forget) as trail:
                oldest = next(trail.entries(), None)
                try:
                    record = trail.find(str(held.seq)).record
                except NotFoundError:
                    record = None
        except MissingLogError:
            # It will be begun, and anew, unless what was there comes back.
            return Position(held.generation, held.seq, held.timestamp, held.hash)
        if record is not None and held.hash in {None, record.hash}:
            return Position(held.generation, record.seq, record.timestamp, record.hash)
        if oldest is None or oldest.record.seq > held.seq + 1:
            return held
        if held.generation > self._generation():
            # Each of two would send all of its log again and again, behind the other's.
            raise RefusedError(
                f"another log is forwarded as {self.source}; give each log a source of its own, or "
                f"remove {self._cursor.path} if this one was put back to what it was earlier"
            )
        self._tell_gap("other_log", oldest.record.seq, 0)
        return Position(held.generation + 1, 0)

    def _generation(self) -> float:
        # That of the last line that was sent from here, as far as that is known.
        if self._at is not None:
            return self._at.generation
        kept = self._cursor.read()
        if kept is None or (kept.target, kept.source) != (self._target.address, self.source):
            return math.inf
        return kept.position.generation

    def _take(self, entries: list[Entry]) -> None:
        batch: list[tuple[Message, Entry]] = []
        size = 0
        for entry in entries:
            try:
                message = to_message(entry.line, self._read)
            except RecordError as error:
                self._reject(str(error), entry.file, entry.offset, entry.line)
                continue
            self._check(message)
            self._read = message.position
            batch.append((message, entry))
            size += len(entry.line)
            if len(batch) >= self._target.max_batch or size >= _MOST:
                self._send(batch)
                batch, size = [], 0
        self._send(batch)

    def _check(self, message: Message) -> None:
        expected = self._read.seq + 1
        if message.generation != self._read.generation:
            expected = 1
        if message.seq == expected:
            return
        gap = (expected, message.seq - 1)
        if self._gap != gap:
            self._gap = gap
            raise _NotInOrderError
        self._tell_gap("missing", *gap)

    # Sending.

    def _send(self, batch: list[tuple[Message, Entry]]) -> None:
        while batch and not self._stopping.is_set():
            poison = None
            try:
                accepted = self._target.send([message for message, _ in batch])
            except PoisonError as error:
                accepted, poison = error.accepted, str(error)
            if accepted:
                self._advance(batch[accepted - 1][0].position, accepted)
            batch = batch[accepted:]
            if poison is not None:
                message, entry = batch.pop(0)
                self._reject(poison, entry.file, entry.offset, entry.line, message.seq)
            elif not accepted:
                raise UnavailableError(f"{self._target.address} took nothing")

    def _advance(self, position: Position, count: int) -> None:
        self._at = position
        self.forwarded += count
        self._recover()

    def _keep(self) -> None:
        at = self._at
        if at is not None and at.seq:
            kept = Kept(self._target.address, self.source, at)
            try:
                if kept != self._cursor.read():
                    self._cursor.write(kept)
            except OSError as error:
                # Nothing is lost by an old one, and its disk may have room again.
                _log.warning("the cursor cannot be written: %s", error)

    # Telling.

    @property
    def lag(self) -> Lag:
        """
        What is in the log and not yet in the stream, as of now.
        """
        try:
            kept = self._cursor.read() if self._at is None else None
            return lag_of(self.path, self._at if kept is None else kept.position)
        except (TrailError, OSError):
            return NO_LAG

    def _stall(self, error: Exception) -> None:
        self.failures += 1
        self._attempts += 1
        if self._stalled_at is not None:
            return
        self._stalled_at = time.monotonic()
        lag = self.lag
        _log.warning("forwarding of %s stalls: %s", self.path, error)
        self._publish(
            ForwardStalled(
                target=self._target.address,
                error_type=type(error).__name__,
                error_message=str(error),
                lag_bytes=lag.bytes,
                lag_seconds=lag.seconds,
            )
        )
        self._woken.set()

    def _recover(self) -> None:
        if self._stalled_at is None:
            return
        stalled_ms = round((time.monotonic() - self._stalled_at) * 1000)
        event = ForwardResumed(
            target=self._target.address, stalled_ms=stalled_ms, attempts=self._attempts
        )
        self._stalled_at, self._attempts = None, 0
        _log.warning("forwarding of %s goes on after %d ms", self.path, stalled_ms)
        self._publish(event)
        self._woken.set()

    def _tell_gap(self, reason: str, first: int, last: int) -> None:
        _log.warning(
            "%s and %s do not fit together: %s, from line %d to %d",
            *(self.path, self._target.address, reason, first, last),
        )
        self._publish(
            ForwardGap(target=self._target.address, reason=reason, first_seq=first, last_seq=last)
        )

    def _note(self, problem: Problem) -> None:
        if problem.offset is None:
            _log.warning("%s", problem)
        else:
            self._reject(problem.message, problem.file, problem.offset, _line_at(problem))

    def _reject(self, reason: str, file: str, offset: int, line: bytes, seq: int = 0) -> None:
        if not self._rejects.add(reason, file, offset, line, seq):
            return
        self.rejected += 1
        _log.warning("%s at byte %d is not forwarded: %s", file, offset, reason)
        self._publish(ForwardRejected(target=self._target.address, seq=seq, reason=reason))

    def _publish(self, event: Event, *, audit: bool | None = None) -> None:
        if self._bus is not None:
            # After the close of the bus nobody is there to hear it; what a required sink raises is
            # counted by the bus.
            with suppress(ClosedBusError, DeliveryError):
                self._bus.publish(event, audit=audit)

    def _measure(self) -> None:
        if self._metrics is None and self._bus is None:
            return
        lag, before = self.lag, self._counted
        self._counted = (self.forwarded, self.rejected, self.failures)
        records, rejected, failures = map(operator.sub, self._counted, before)
        measured = ForwardMeasured(
            target=self._target.address,
            source=self.source,
            lag_bytes=lag.bytes,
            lag_seconds=lag.seconds,
            stalled=self._stalled_at is not None,
            records=records,
            rejected=rejected,
            failures=failures,
        )
        if measured != self._told:
            self._told = measured
            self._publish(measured, audit=False)
        if self._metrics is not None:
            try:
                write_metrics(self._metrics, measured, self._counted)
            except OSError as error:
                _log.warning("the metrics cannot be written: %s", error)


class _EndError(Exception):
    """
    Everything was read, or nothing more is wanted.
    """


class _NotInOrderError(Exception):
    """
    A line does not follow the one before it.
    """


def _may_pass(error: Exception) -> bool:
    if isinstance(error, ForbiddenLogError):
        return False
    return isinstance(error, (UnavailableError, TrailError, OSError))


def _end() -> None:
    raise _EndError


def _forget(problem: Problem) -> None:
    """
    Let a problem be told when the log is read.
    """


def _line_at(problem: Problem) -> bytes:
    """
    Return the begin of a line that is no record, as far as it can be had.
    """
    try:
        with open(problem.file, "rb") as file:
            found = read_at(file.fileno(), problem.offset or 0, 1 << 16)
    except OSError:
        return b""
    return found.partition(b"\n")[0]


def source_of(source: str | None) -> str:
    """
    Return what a log is called in a stream; by default by the host that it is on.

    Raises:
        RefusedError: It is no path.
    """
    if source is None:
        return f"/harken/{socket.gethostname()}"
    if not source.startswith("/") or not source.isprintable() or " " in source:
        raise RefusedError(f"{source!r} is no source; use a path such as /billing/host-7")
    return source


def cursor_path(path: str | os.PathLike[str]) -> str:
    """
    Return where the cursor of the log at *path* is, if nobody says otherwise.
    """
    return _beside(os.fsdecode(path), "cursor")


def _beside(path: str, what: str) -> str:
    folder, name = os.path.split(path)
    return os.path.join(folder, f"forward-{name}.{what}")
