"""
Make audit logs honestly, under load and faults, and see whether `verify()` ever raises an alarm.

Each log is written by several processes under faults and options that are drawn at random: killed,
forked and stopped writers, full disks, files that are moved, deleted, emptied or replaced under
them. A false alarm is a verdict of ``tampered`` or ``undecided``, whatever the log is verified
with. A silent loss is a record that was acknowledged and is not there, while the counters of its
writer do not say so; or which the verdict does not account for. Prints how many logs had what, how
many records and verdicts there were, and what was wrong; exits with 1 when anything was.

    python tests/faults/untampered_logs.py [--logs N] [--seed N] [--only N] [--keep]

The seed decides what happens to which log, but not when: that is up to the machine.
"""

from __future__ import annotations

import argparse
import faulthandler
import fcntl
import gzip
import mmap
import os
import re
import resource
import select
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import zstandard

from harken import Bus, Envelope, Event, scope
from harken.catalog import AuditCheckpoint
from harken.errors import AuditPathError, DeliveryError
from harken.sinks.audit import AuditLog, create_key, create_signing_key
from harken.trail import (
    Report,
    read_anchors,
    read_key,
    read_public_key,
    read_state,
    verify,
)

# A record's number begins with that of the log object which it is given to, and that one's with
# the number of the process.
RECORDS = 10_000
OBJECTS = 1000

# After so many records an object slows down, so that no log takes long to verify.
FAST_RECORDS = 1500

# Seconds after which something hangs.
PATIENCE = 30.0

DISK_BYTES = 48 * 1024 * 1024

HOSTILE = (
    '","hash":"' + "0" * 64 + '"}',
    '{"timestamp":"2026-01-01T00:00:00.000000Z","seq":1',
    "line\nfeed\r\nand\x0bmore\x85\u2028\u2029",
    "\x00\x1b[2J\x7f\ufeff",
    "\ud800 alone, and \udfff",
    "né 漢字 \U0001f9ff \u202egnihtemos",
    "\\u0000 \\\" '; -- %s {0}",
    "e\u0301" * 500,
)


class Tolled(Event, name="audit_faults.tolled", audit=True):
    """
    A bell was tolled.
    """

    number: int
    text: str = ""
    more: Any = None


# What is drawn.


@dataclass(frozen=True)
class Plan:
    """
    What is to happen to one log.

    Attributes:
        faults: Names in `FAULTS`, in this order.

        options: Of `AuditLog`, without keys.

        capacity: Of the queue, where there is one.

        pause: Seconds between two records of a thread, at most.

        killed: Whether all writers are killed in the end.

        ended: Whether one more writer comes last, and ends as it should.
    """

    number: int
    faults: tuple[str, ...]
    options: dict[str, Any]
    keyed: bool
    signed: bool
    processes: int
    threads: int
    capacity: int
    pause: float
    lengths: tuple[int, ...]
    hostile: bool
    forks: bool
    reopens: bool
    killed: bool
    ended: bool

    @property
    def conditions(self) -> list[str]:
        """
        What the log is made under, besides faults.
        """
        options = self.options
        chosen = {
            options["durability"]: True,
            "rotation by size": options["max_bytes"] is not None,
            "rotation by age": options["max_age"] is not None,
            "zstd": options["compress"] is not None,
            "raise": options["on_failure"] == "raise",
            "small queue": options["durability"] == "async" and self.capacity < RECORDS,
            "key": self.keyed,
            "signing key": self.signed,
            "processes": self.processes > 1,
            "threads": self.threads > 1,
            "large records": max(self.lengths) > RECORDS,
            "hostile text": self.hostile,
            "fork": self.forks,
            "close and reopen": self.reopens,
            "all killed": self.killed,
        }
        return [name for name, is_so in chosen.items() if is_so]


def draw(seed: int, number: int) -> Plan:
    """
    Return the plan of a log: each fault comes first as often as any other, and more may follow.
    """
    order = Random(seed).sample(sorted(FAULTS), len(FAULTS))
    rng = Random(f"{seed} {number}")
    durability = rng.choice(("process", "process", "group", "async"))
    raises = durability != "async" and rng.random() < 0.15
    return Plan(
        number,
        (order[number % len(order)], *rng.choices(order, k=rng.choice((0, 0, 1, 2)))),
        {
            "durability": durability,
            "on_failure": "raise" if raises else "degrade",
            "max_bytes": rng.choice((None, None, 10_000, 30_000, 200_000)),
            "max_age": rng.choice((None, None, None, 0.3)),
            "compress": rng.choice((None, None, "zstd")),
            "checkpoint_seconds": rng.choice((0.02, 0.1, 10.0)),
            "lock_wait": rng.choice((0.05, 0.2, 1.0)),
        },
        keyed=rng.random() < 0.6,
        signed=rng.random() < 0.25,
        processes=rng.choice((1, 2, 3, 4)),
        threads=rng.choice((1, 1, 2, 3)),
        capacity=rng.choice((5, 100, 65_536)),
        pause=rng.choice((0.0, 0.001, 0.004, 0.02)),
        lengths=rng.choice(((0, 100), (0, 100, 1000), (100, 5000, 60_000))),
        hostile=rng.random() < 0.3,
        forks=rng.random() < 0.3,
        reopens=rng.random() < 0.3,
        killed=rng.random() < 0.3,
        ended=rng.random() < 0.7,
    )


# Writing.

TOLD, QUEUED, KEPT = 1, 2, 3

_ACK = struct.Struct("<Qddb")
_ACKS = 60_000
_CHILDREN = 20
_RECORDS_OF_A_CHILD = 200


class Ack(msgspec.Struct, frozen=True):
    """
    A record whose `publish()` came back.

    Attributes:
        began: When it was called, on the clock of `time.monotonic()`.

        ended: When it came back, or was flushed.

        fate:
            `KEPT` when it is in the log, or beside it; `QUEUED` while nobody knows; `TOLD` when
            the call failed, or the counters of the sink say that a record was not written.
    """

    number: int
    began: float
    ended: float
    fate: int

    def may_be_written_between(self, first: float, last: float) -> bool:
        """
        Whether it may have been written then; what is queued is written at some time or other.
        """
        return self.began <= last and (self.fate == QUEUED or first <= self.ended)


class Acks:
    """
    Memory in which a process notes what came back, and which outlives it. Safe from any thread.
    """

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _ACK.size * (_ACKS + _CHILDREN * _RECORDS_OF_A_CHILD))
        self._slots = iter(range(_ACKS))

    def begin_child(self, child: int) -> None:
        """
        Go on in a forked child, in a part of its own.
        """
        first = _ACKS + child * _RECORDS_OF_A_CHILD
        self._slots = iter(range(first, first + _RECORDS_OF_A_CHILD))

    def note(self, ack: Ack) -> int:
        """
        Note *ack*; return the place, which can be noted anew.
        """
        slot = next(self._slots)
        self.change(slot, ack)
        return slot

    def change(self, slot: int, ack: Ack) -> None:
        """
        Note *ack* in a place that has one.
        """
        _ACK.pack_into(self._memory, slot * _ACK.size, *msgspec.structs.astuple(ack))

    def all(self) -> Iterator[Ack]:
        """
        Yield all that was noted.
        """
        yield from (Ack(*ack) for ack in _ACK.iter_unpack(self._memory[:]) if ack[3])


class Ended(msgspec.Struct, frozen=True):
    """
    What is said of a log object that was closed.

    Attributes:
        number: That of its first record, over `RECORDS`.

        missed: How many records are not in the log, as far as it knows.

        pending: How many were not even tried when time was up.

        head: The hash of the last line that it knew.
    """

    number: int
    missed: int
    pending: int
    head: str


class Writer:
    """
    What one process does: publish from several threads, fork, close and open again.

    Args:
        number: Of the process, from 0; the first one never closes before its end.
    """

    def __init__(self, plan: Plan, number: int, place: Place, acks: Acks) -> None:
        self._plan = plan
        self._place = place
        self._acks = acks
        self._rng = Random(f"{plan.number} {number}")
        self._objects = iter(range(number * OBJECTS, (number + 1) * OBJECTS))
        self._reopens = plan.reopens and number > 0
        self._children = 0
        # No event: who waits for one may be interrupted by who sets it.
        self._is_told_to_end = False
        self._parent = os.getppid()

    def run(self) -> None:
        """
        Write until SIGTERM.
        """
        signal.signal(signal.SIGTERM, self._end_soon)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        while not self._ends:
            try:
                log = self._place.open_log(self._plan.options)
            except AuditPathError:
                # The disk is full, or somebody holds the lock: an agent would be started again.
                time.sleep(0.02)
                continue
            self._use(log)

    def _end_soon(self, *_: object) -> None:
        self._is_told_to_end = True

    @property
    def _ends(self) -> bool:
        return self._is_told_to_end or os.getppid() != self._parent

    def _use(self, log: AuditLog) -> None:
        bus = Bus()
        if log.delivery == "inline":
            bus.attach(log)
        else:
            bus.attach(log, capacity=self._plan.capacity)
        bus.subscribe(self._place.keep_anchor, AuditCheckpoint, delivery="inline")
        number = next(self._objects)
        numbers = iter(range(number * RECORDS, (number + 1) * RECORDS))
        until = time.monotonic() + (self._rng.uniform(0.05, 0.5) if self._reopens else 1e9)
        done = threading.Event()
        threads = [
            threading.Thread(target=self._publish, args=(bus, log, numbers, done))
            for _ in range(self._plan.threads)
        ]
        for thread in threads:
            thread.start()
        while not self._ends and time.monotonic() < until:
            time.sleep(0.02)
            if self._plan.forks and self._children < _CHILDREN and self._rng.random() < 0.2:
                self._fork(bus, log)
        done.set()
        for thread in threads:
            thread.join()
        self._end(bus, log, number)

    def _fork(self, bus: Bus, log: AuditLog) -> None:
        child, number = self._children, next(self._objects)
        self._children += 1
        if os.fork():
            return
        try:
            # Should it hang, the file `stderr` of the folder says where.
            faulthandler.dump_traceback_later(PATIENCE - 5)
            self._place.note_child(os.getpid())
            self._acks.begin_child(child)
            self._rng = Random(number)
            records = self._rng.randrange(_RECORDS_OF_A_CHILD)
            numbers = iter(range(number * RECORDS, number * RECORDS + records))
            self._publish(bus, log, numbers, threading.Event())
            if self._rng.random() < 0.3:
                os.kill(os.getpid(), signal.SIGKILL)
            self._end(bus, log, number)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0)

    def _end(self, bus: Bus, log: AuditLog, number: int) -> None:
        report = bus.close(PATIENCE / 2)
        self._place.note_end(Ended(number, missed(log), report[log.name].pending, log.head))

    def _publish(
        self, bus: Bus, log: AuditLog, numbers: Iterator[int], done: threading.Event
    ) -> None:
        rng = Random(self._rng.random())
        unknown: dict[int, Ack] = {}
        before = log.lost, log.spilled
        for number in numbers:
            if done.is_set():
                return
            began = time.monotonic()
            fate = QUEUED
            try:
                with scope(run_id=self._text(rng, 8), actor="agent:tester"):
                    bus.publish(Tolled(number=number, **self._contents(rng)))
            except DeliveryError:
                fate = TOLD
            ack = Ack(number, began, time.monotonic(), fate)
            unknown[self._acks.note(ack)] = ack
            # Of what waits in a queue, only a flush can tell.
            if log.delivery == "inline" or (rng.random() < 0.02 and bus.flush(5)):
                # Apart: what was spilled may get into the log while another record is lost.
                now, after = time.monotonic(), (log.lost, log.spilled)
                for slot, ack in unknown.items():
                    if ack.fate == QUEUED:
                        fate = KEPT if after == before else TOLD
                        self._acks.change(slot, Ack(ack.number, ack.began, now, fate))
                before = after
                unknown.clear()
            pause = self._plan.pause if number % RECORDS < FAST_RECORDS else 0.05
            if pause:
                time.sleep(rng.random() * pause)

    def _text(self, rng: Random, length: int) -> str:
        if self._plan.hostile:
            return rng.choice(HOSTILE)
        return "x" * length

    def _contents(self, rng: Random) -> dict[str, Any]:
        length = rng.choice(self._plan.lengths)
        more: Any = None
        if length > RECORDS and rng.random() < 0.1:
            more = [self._text(rng, length) * 2 for _ in range(rng.randrange(14))]
        elif self._plan.hostile:
            more = {self._text(rng, 1): [self._text(rng, 1), os.urandom(20), float("nan")]}
        return {"text": self._text(rng, length), "more": more}


def missed(log: AuditLog) -> int:
    """
    Return how many records a log object says are not in the log.
    """
    return log.lost + log.spilled


# Where everything is.


class Place:
    """
    The folder of one trial.

    Attributes:
        path: The log.

        gone: A folder on the same disk, for what faults take away.
    """

    def __init__(self, root: Path, plan: Plan) -> None:
        self.root = root
        self.disk = root / "disk"
        self.path = self.disk / "logs" / "audit.jsonl"
        self.gone = self.disk / "gone"
        self.gone.mkdir(parents=True)
        (root / "keys").mkdir()
        self._anchors = _append_to(root / "anchors")
        self._ends = _append_to(root / "ends")
        self._children = _append_to(root / "children")
        self._keys: dict[str, Path] = {}
        if plan.keyed:
            self._keys["key_path"] = root / "keys" / "agent.key"
            (root / "keys" / "first.key").write_text(create_key(self._keys["key_path"]))
        if plan.signed:
            self._keys["signing_key_path"] = root / "keys" / "signing.pem"
            public = create_signing_key(self._keys["signing_key_path"])
            (root / "keys" / "public.pem").write_text(public)

    def close(self) -> None:
        """
        Let its files go.
        """
        for fd in (self._anchors, self._ends, self._children):
            os.close(fd)

    def open_log(self, options: Mapping[str, Any]) -> AuditLog:
        """
        Return a writer of the log.
        """
        return AuditLog(self.path, **self._keys, **options)

    def keep_anchor(self, envelope: Envelope[AuditCheckpoint]) -> None:
        """
        Keep the head that a checkpoint tells.
        """
        os.write(self._anchors, f"{envelope.event.count} {envelope.event.head}\n".encode())

    def note_end(self, ended: Ended) -> None:
        """
        Note what became of a log object.
        """
        os.write(self._ends, msgspec.json.encode(ended) + b"\n")

    def note_child(self, pid: int) -> None:
        """
        Note the process that a writer has forked.
        """
        os.write(self._children, f"{pid}\n".encode())

    def children(self) -> list[int]:
        """
        Return the processes that writers have forked.
        """
        return [int(pid) for pid in (self.root / "children").read_text().split()]

    def ends(self) -> list[Ended]:
        """
        Return what was noted.
        """
        lines = (self.root / "ends").read_bytes().splitlines()
        return [msgspec.json.decode(line, type=Ended) for line in lines]

    def evidence(self) -> dict[str, dict[str, Any]]:
        """
        Return what the log may be verified with: from names to arguments of `verify()`.
        """
        keys = self.root / "keys"
        found: dict[str, dict[str, Any]] = {}
        if "key_path" in self._keys:
            found["key"] = {"keys": [read_key(keys / "first.key")]}
            found["key and state"] = {
                **found["key"],
                "states": [read_state(self._keys["key_path"])],
            }
        if "signing_key_path" in self._keys:
            found["public key"] = {"public_keys": [read_public_key(keys / "public.pem")]}
        if (self.root / "anchors").stat().st_size:
            found["anchors"] = {"anchors": read_anchors([self.root / "anchors"], str(self.path))}
        everything = {name: value for some in found.values() for name, value in some.items()}
        return {"nothing": {}, **found, "everything": everything}


def _append_to(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)


@contextmanager
def small_disk(folder: Path, *, wanted: bool) -> Iterator[bool]:
    """
    Mount a small disk at *folder* inside this block, if this process may; say whether.
    """
    folder.mkdir()
    command = ("mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "harken-faults", str(folder))
    may = wanted and sys.platform == "linux" and os.geteuid() == 0
    if not may or subprocess.run(command, capture_output=True, check=False).returncode:
        yield False
        return
    try:
        yield True
    finally:
        subprocess.run(("umount", str(folder)), check=True)


# What happens to a log.


class Trial:
    """
    The making of one log.

    Attributes:
        truncated: What stood in a file that was emptied, and had not been copied.

        windows:
            When what was written may have been destroyed unseen, on the clock of
            `time.monotonic()`.

        failures: Writers that ended otherwise than they should.
    """

    def __init__(self, plan: Plan, place: Place, rng: Random, *, has_disk: bool) -> None:
        self.plan = plan
        self.place = place
        self.rng = rng
        self.has_disk = has_disk
        self.writers: dict[int, int] = {}
        self.acks: list[Acks] = []
        self.truncated: list[bytes] = []
        self.windows: list[tuple[float, float]] = []
        self.failures: list[str] = []
        self._removed: list[int] = []
        self._alive = os.pipe()
        self._stderr = _append_to(place.root / "stderr")
        self._names = 0

    def run(self, look: Callable[[], None]) -> None:
        """
        Make the log. *look* is called now and then while it is written.
        """
        try:
            self.start(self.plan.processes)
            for fault in self.plan.faults:
                self.sleep(0.25)
                FAULTS[fault](self)
                if self.rng.random() < 0.3:
                    look()
            self.sleep(0.3)
            self.end_all(killed=self.plan.killed)
            if self.plan.ended:
                self.start()
                self.sleep(0.1)
                self.end_all()
        finally:
            for pid in self.writers.values():
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            for fd in (*self._alive, self._stderr):
                os.close(fd)

    def forget(self) -> None:
        """
        Let go of what was destroyed.
        """
        for fd in self._removed:
            os.close(fd)

    def sleep(self, seconds: float) -> None:
        """
        Wait for at most so long.
        """
        time.sleep(self.rng.random() * seconds)

    def start(self, count: int = 1) -> None:
        """
        Start writers, and wait until there is something in the log.
        """
        for _ in range(count):
            number = len(self.acks)
            self.acks.append(Acks())
            # It may be told to end before it is able to listen.
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
            pid = os.fork()
            if not pid:
                self._write(number)
            self.writers[number] = pid
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        self.wait_for_log()

    def _write(self, number: int) -> None:
        status = 1
        try:
            os.dup2(self._stderr, 2)
            os.close(self._alive[0])
            Writer(self.plan, number, self.place, self.acks[number]).run()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)

    def victim(self) -> int:
        """
        Return a writer that may be killed.

        One always stays that has seen the log: whoever destroys a log and everybody who knew of
        it leaves what nobody can tell from a manipulation.
        """
        numbers = [number for number in self.writers if number != min(self.writers)]
        if not numbers:
            self.start()
            return self.victim()
        return self.rng.choice(numbers)

    def kill(self, number: int) -> None:
        """
        Kill a writer at once.
        """
        pid = self.writers.pop(number)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)

    def end_all(self, *, killed: bool = False) -> None:
        """
        Let all writers end, or kill them, and wait for the children that they have forked.
        """
        for number, pid in tuple(self.writers.items()):
            if killed:
                self.kill(number)
            else:
                os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + PATIENCE
        while self.writers:
            for number, pid in tuple(self.writers.items()):
                if time.monotonic() > deadline:
                    self.failures.append(f"the writer {number} did not end")
                    self.kill(number)
                    continue
                ended, status = os.waitpid(pid, os.WNOHANG)
                if ended:
                    del self.writers[number]
                if status:
                    self.failures.append(f"the writer {number} ended with the status {status}")
            time.sleep(0.002)
        alive, self._alive = self._alive, os.pipe()
        os.close(alive[1])
        if not select.select((alive[0],), (), (), PATIENCE)[0]:
            self.failures.append("a forked child did not end")
            for pid in self.place.children():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        os.close(alive[0])

    def wait_for_log(self) -> None:
        """
        Wait until somebody has begun the file, or begun it anew.
        """
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            with suppress(FileNotFoundError):
                if self.place.path.stat().st_size:
                    return
            time.sleep(0.002)
        raise TimeoutError(f"nobody writes to {self.place.path}")

    def is_locked(self) -> bool:
        """
        Return whether somebody holds the lock of the log for longer than a moment.
        """
        with self.place.path.open("rb") as file:
            for _ in range(20):
                try:
                    fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except BlockingIOError:
                    time.sleep(0.001)
                else:
                    return False
        return True

    def remove(self, path: Path) -> None:
        """
        Delete the file at *path*, and keep what was in it, and is still written there.
        """
        name = self.new_name()
        path.rename(name)
        self._removed.append(os.open(name, os.O_RDONLY | os.O_CLOEXEC))
        name.unlink()

    def replace(self, path: Path, content: Callable[[bytes], bytes]) -> None:
        """
        Put a new file in the place of the one at *path*, made of what is in it.
        """
        new = path.with_name("replacement")
        while True:
            old = self.new_name()
            os.link(path, old)
            new.write_bytes(content(old.read_bytes()))
            new.chmod(0o600)
            began = time.monotonic()
            if old.samefile(path):
                new.rename(path)
                # What if the log was rotated since we looked?
                self.windows.append((began, time.monotonic()))
                return

    def read_gone(self) -> Contents:
        """
        Return what was taken away, or stood where it is no more.
        """
        gone = Contents()
        for path in self.place.gone.rglob("*"):
            if path.is_file() and path.suffix != ".new":
                gone.read_file(path)
        for data in self.truncated:
            gone.read(data)
        for fd in self._removed:
            gone.read(os.pread(fd, os.fstat(fd).st_size, 0))
        return gone

    def new_name(self) -> Path:
        """
        Return a path that nobody uses, outside the log's folder.
        """
        self._names += 1
        return self.place.gone / f"{self._names}"


def nothing(trial: Trial) -> None:
    trial.sleep(0.3)


def killed(trial: Trial) -> None:
    for _ in range(trial.rng.randint(2, 8)):
        trial.sleep(0.05)
        trial.kill(trial.victim())
        trial.start()


def stopped(trial: Trial) -> None:
    """
    Stop a writer while it holds the lock, for longer than others wait for it.
    """
    number = trial.victim()
    pid = trial.writers[number]
    for _ in range(200):
        trial.sleep(0.005)
        os.kill(pid, signal.SIGSTOP)
        os.waitpid(pid, os.WUNTRACED)
        if trial.is_locked():
            time.sleep(1.3 * trial.plan.options["lock_wait"] + 0.1)
            break
        os.kill(pid, signal.SIGCONT)
    if trial.rng.random() < 0.3:
        trial.kill(number)
    else:
        os.kill(pid, signal.SIGCONT)


def _rotated_name(trial: Trial) -> Path:
    """
    Make room for, and return, the name that logrotate gives to the log.
    """
    path = trial.place.path
    if trial.rng.random() < 0.4:
        return path.with_name(f"{path.name}-20261121-{time.time_ns()}")
    last = 1
    while path.with_name(f"{path.name}.{last}").exists() or _packed(path, last).exists():
        last += 1
    for number in range(last - 1, 0, -1):
        for old, new in (
            (path.with_name(f"{path.name}.{number}"), path.with_name(f"{path.name}.{number + 1}")),
            (_packed(path, number), _packed(path, number + 1)),
        ):
            if old.exists():
                old.rename(new)
    second = path.with_name(f"{path.name}.2")
    if second.exists() and trial.rng.random() < 0.5:
        # As with delaycompress.
        _packed(path, 2).write_bytes(gzip.compress(second.read_bytes()))
        second.unlink()
    return path.with_name(f"{path.name}.1")


def _packed(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.{number}.gz")


def renamed(trial: Trial) -> None:
    for _ in range(trial.rng.randint(1, 3)):
        trial.place.path.rename(_rotated_name(trial))
        trial.wait_for_log()
        trial.sleep(0.2)


def renamed_while_idle(trial: Trial) -> None:
    count = len(trial.writers)
    trial.end_all(killed=trial.rng.random() < 0.3)
    trial.place.path.rename(_rotated_name(trial))
    trial.start(count)


def copied_and_emptied(trial: Trial) -> None:
    path = trial.place.path
    with path.open("rb+") as file:
        with _rotated_name(trial).open("wb") as copy:
            shutil.copyfileobj(file, copy)
        began = time.monotonic()
        trial.truncated.append(file.read())
        file.truncate(0)
        trial.windows.append((began, time.monotonic()))
    trial.wait_for_log()


def moved_away(trial: Trial) -> None:
    trial.place.path.rename(trial.new_name())
    trial.wait_for_log()


def removed(trial: Trial) -> None:
    trial.remove(trial.place.path)
    trial.wait_for_log()


def folder_removed(trial: Trial) -> None:
    folder = trial.place.path.parent
    if trial.rng.random() < 0.5:
        folder.rename(trial.new_name())
    else:
        while folder.exists():
            for file in folder.iterdir():
                # Archives are compressed and removed meanwhile.
                with suppress(FileNotFoundError):
                    if file == trial.place.path:
                        trial.remove(file)
                    else:
                        file.rename(trial.new_name().with_suffix(file.suffix))
            with suppress(OSError):
                folder.rmdir()
                break
    if trial.rng.random() < 0.5:
        folder.mkdir(mode=0o700, exist_ok=True)
    trial.wait_for_log()


def replaced(trial: Trial) -> None:
    """
    Put a copy in the place of the file, as editors and ``sed -i`` do.
    """
    trial.replace(trial.place.path, lambda content: content)
    trial.sleep(0.1)


def replaced_by_an_empty_file(trial: Trial) -> None:
    trial.replace(trial.place.path, lambda content: b"")
    trial.wait_for_log()


def full_disk(trial: Trial) -> None:
    if not trial.has_disk:
        file_limit(trial)
        return
    filler = trial.place.disk / "filler"
    free = os.statvfs(trial.place.disk)
    fd = os.open(filler, os.O_WRONLY | os.O_CREAT, 0o600)
    # Others write, too, while the last pages are taken.
    for size in (free.f_bavail * free.f_frsize, *[4096] * 20):
        with suppress(OSError):
            os.posix_fallocate(fd, os.fstat(fd).st_size, size)
    os.close(fd)
    trial.sleep(0.4)
    filler.unlink()
    trial.sleep(0.2)


def file_limit(trial: Trial) -> None:
    """
    Let files of some writers grow no further, while others go on.
    """
    if not hasattr(resource, "prlimit"):
        return
    size = trial.place.path.stat().st_size
    some = trial.rng.sample(sorted(trial.writers), trial.rng.randint(1, len(trial.writers)))
    for number in some:
        limit = (size + trial.rng.randrange(5000), resource.RLIM_INFINITY)
        resource.prlimit(trial.writers[number], resource.RLIMIT_FSIZE, limit)
    trial.sleep(0.4)
    for number in some:
        unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        resource.prlimit(trial.writers[number], resource.RLIMIT_FSIZE, unlimited)
    trial.sleep(0.2)


FAULTS: dict[str, Callable[[Trial], None]] = {
    "none": nothing,
    "killed": killed,
    "stopped": stopped,
    "renamed": renamed,
    "renamed while idle": renamed_while_idle,
    "copytruncate": copied_and_emptied,
    "moved away": moved_away,
    "removed": removed,
    "folder removed": folder_removed,
    "replaced": replaced,
    "replaced by an empty one": replaced_by_an_empty_file,
    "full disk": full_disk,
    "file limit": file_limit,
}


# Judging.


class _Metadata(msgspec.Struct):
    number: int | None = None
    mac: str | None = None
    signature: str | None = None


class _Line(msgspec.Struct):
    event_type: str
    hash: str
    metadata: _Metadata


@dataclass
class Contents:
    """
    What stands in files, read without the reader of harken.

    Attributes:
        records: From the numbers of records to the hashes of their lines.

        closes: The hashes of the records with which writers end.

        sealed: Whether there is a seal, and whether there is a signature.

        lines: The hashes of all lines.
    """

    records: dict[int, set[str]] = field(default_factory=dict)
    lines: set[str] = field(default_factory=set)
    closes: set[str] = field(default_factory=set)
    sealed: bool = False
    signed: bool = False

    def read(self, data: bytes) -> None:
        """
        Add the lines of a file.
        """
        decoder = msgspec.json.Decoder(_Line)
        for raw in data.split(b"\n")[:-1]:
            try:
                line = decoder.decode(raw)
            except (msgspec.DecodeError, UnicodeDecodeError):
                continue
            self.lines.add(line.hash)
            if line.metadata.number is not None and line.event_type == "audit_faults.tolled":
                self.records.setdefault(line.metadata.number, set()).add(line.hash)
            elif line.event_type == "audit.close":
                self.closes.add(line.hash)
            elif line.event_type == "audit.checkpoint":
                self.sealed = self.sealed or line.metadata.mac is not None
                self.signed = self.signed or line.metadata.signature is not None

    def read_file(self, path: Path) -> None:
        """
        Add the lines of a file, which may be compressed.
        """
        data = path.read_bytes()
        if path.suffix == ".gz":
            data = gzip.decompress(data)
        elif path.suffix == ".zst":
            data = zstandard.ZstdDecompressor().stream_reader(data).read()
        self.read(data)


@dataclass
class Outcome:
    """
    What came of one log.

    Attributes:
        verdicts: From what it was verified with to the verdict.
    """

    plan: Plan
    acknowledged: int = 0
    written: int = 0
    beside: int = 0
    missed: int = 0
    destroyed: int = 0
    looks: int = 0
    verdicts: dict[str, str] = field(default_factory=dict)
    false_alarms: list[str] = field(default_factory=list)
    silent_losses: list[str] = field(default_factory=list)
    other_faults: list[str] = field(default_factory=list)

    @property
    def is_good(self) -> bool:
        return not (self.false_alarms or self.silent_losses or self.other_faults)


def judge(trial: Trial, outcome: Outcome) -> None:
    """
    Compare what writers were told with what is there, and that with what verdicts say.
    """
    place = trial.place
    here, beside, gone = Contents(), Contents(), trial.read_gone()
    for path in place.path.parent.iterdir():
        if path.name.startswith(f"{place.path.name}.spill-"):
            beside.read_file(path)
        elif path.name.startswith(place.path.name) and path.suffix != ".new":
            here.read_file(path)

    known = here.records.keys() | beside.records.keys()
    destroyed = gone.records.keys() - known
    acks = {ack.number: ack for memory in trial.acks for ack in memory.all()}
    missing = {
        ack.number: ack
        for ack in acks.values()
        if ack.number not in known
        and ack.number not in destroyed
        and not any(ack.may_be_written_between(*window) for window in trial.windows)
    }
    by_object = Counter(number // RECORDS for number in missing)
    ends = {ended.number: ended for ended in place.ends()}
    # What those know who have written their last line must stand in the log, unless that was
    # destroyed, too.
    owed = {
        number
        for number in missing
        if (ended := ends.get(number // RECORDS)) is not None and ended.head in here.closes
    }
    is_destroyed = bool(trial.windows) or not gone.lines <= here.lines
    outcome.acknowledged = len(acks)
    outcome.written = len(here.records)
    outcome.beside = len(beside.records.keys() - here.records.keys())
    outcome.destroyed = len(destroyed)
    outcome.missed = len(missing)
    outcome.other_faults += trial.failures
    outcome.other_faults += [
        f"the record {number} stands there {len(hashes)} times"
        for number, hashes in here.records.items()
        if len(hashes) > 1
    ]
    outcome.silent_losses += [
        f"the record {ack.number} was acknowledged and is not there"
        for ack in missing.values()
        if ack.fate == KEPT
    ]
    outcome.silent_losses += [
        f"of the object {number} {by_object[number]} records are missing, and it knows of "
        f"{ended.missed} and {ended.pending} that were still pending"
        for number, ended in ends.items()
        if by_object[number] > ended.missed
    ]
    for name, arguments in place.evidence().items():
        has_seals = here.sealed if "keys" in arguments else here.signed
        lost = gone.lines - here.lines
        report = _verified(place, name, arguments, outcome, has_seals=has_seals, lost=lost)
        if report is None:
            continue
        if report.verdict == "ok" and (destroyed or outcome.beside or owed):
            outcome.silent_losses.append(
                f"verified with {name}: ok, while {len(destroyed)} records were destroyed, "
                f"{outcome.beside} are beside the log and {len(owed)} are lost"
            )
        elif not is_destroyed and admitted(report) < len(owed):
            outcome.silent_losses.append(
                f"verified with {name}: {report.completeness.message}, while {len(owed)} are lost"
            )


def _verified(
    place: Place,
    name: str,
    arguments: dict[str, Any],
    outcome: Outcome,
    *,
    has_seals: bool,
    lost: set[str],
    is_fresh: bool = False,
) -> Report | None:
    """
    Verify the log, and note a false alarm; return the report unless there is none to go by.

    Args:
        lost: The hashes of lines that a fault has destroyed. An anchor that speaks of one of
            them is missed, and that is true.

        is_fresh: Whether that may have been a moment ago, so that no record says so yet.
    """
    try:
        report = verify(place.path, **arguments)
    except Exception as error:
        outcome.false_alarms.append(f"verified with {name}: {type(error).__name__}: {error}")
        return None
    outcome.verdicts[name] = report.verdict
    grave = [
        one
        for one in report.findings
        if one.weight in {"tampered", "undecided"}
        and not (one.kind == "anchor" and _anchored_head(one.message) in lost)
        and not (one.kind in {"epoch", "missing"} and lost and is_fresh)
    ]
    # What cannot be judged is a log that was not sealed yet, or of which no anchored line is left.
    excuses = {
        ("no_seal", "undecided"): not has_seals,
        ("anchor", "undecided"): report.files[0].first_seq > 1,
    }
    if grave and all(excuses.get((one.kind, one.weight)) for one in grave):
        return None
    if grave:
        some = [f"{Path(one.file).name}:{one.line}: {one.kind}: {one.message}" for one in grave]
        text = "; ".join(some[:3]) + (f"; and {len(some) - 3} more" if some[3:] else "")
        outcome.false_alarms.append(f"verified with {name}: {report.verdict}: {text}")
    return report


def _anchored_head(message: str) -> str | None:
    found = re.search(r"the anchor (.+):(\d+) ", message)
    if found is None:
        return None
    line = Path(found[1]).read_text(encoding="ascii").splitlines()[int(found[2]) - 1]
    return line.split()[1]


def admitted(report: Report) -> int:
    """
    Return how many records a verification says are not in the log.
    """
    found = re.findall(
        r"([\d,]+) (?:records? lost|beside the log|lines? missing)", report.completeness.message
    )
    return sum(int(count.replace(",", "")) for count in found)


def look(trial: Trial, outcome: Outcome) -> None:
    """
    Verify the log while it is written.
    """
    gone = trial.read_gone()
    for name, arguments in trial.place.evidence().items():
        if name in {"nothing", "everything"}:
            now = Outcome(trial.plan)
            _verified(
                trial.place,
                f"{name} while it was written",
                arguments,
                now,
                has_seals=False,
                lost=gone.lines,
                is_fresh=True,
            )
            outcome.looks += 1
            # A file may be renamed between two calls of the system; then it says so.
            outcome.false_alarms += [
                alarm for alarm in now.false_alarms if "; run this" not in alarm
            ]


def make(plan: Plan, root: Path, seed: int) -> Outcome:
    """
    Make one log and judge it.
    """
    outcome = Outcome(plan)
    rng = Random(f"{seed} {plan.number} faults")
    with small_disk(root / "disk", wanted="full disk" in plan.faults) as has_disk:
        place = Place(root, plan)
        try:
            trial = Trial(plan, place, rng, has_disk=has_disk)
            try:
                trial.run(lambda: look(trial, outcome))
                judge(trial, outcome)
            finally:
                trial.forget()
        finally:
            place.close()
        if has_disk and not outcome.is_good:
            shutil.copytree(root / "disk", root / "copy-of-disk")
    return outcome


def show(outcomes: list[Outcome], seed: int, seconds: float) -> bool:
    """
    Print the figures; return whether nothing was wrong.
    """
    faults = Counter(fault for outcome in outcomes for fault in set(outcome.plan.faults))
    conditions = Counter(name for outcome in outcomes for name in outcome.plan.conditions)
    verdicts: dict[str, Counter[str]] = {}
    for outcome in outcomes:
        for name, verdict in outcome.verdicts.items():
            verdicts.setdefault(name, Counter())[verdict] += 1
    total = {
        name: sum(getattr(outcome, name) for outcome in outcomes)
        for name in ("acknowledged", "written", "beside", "missed", "destroyed", "looks")
    }
    alarms = sum(len(outcome.false_alarms) for outcome in outcomes)
    losses = sum(len(outcome.silent_losses) for outcome in outcomes)
    others = sum(len(outcome.other_faults) for outcome in outcomes)
    print(f"logs by fault: {_listed(faults)}")
    print(f"logs by condition: {_listed(conditions)}")
    print(
        f"records: {total['acknowledged']:,} acknowledged, {total['written']:,} in the logs, "
        f"{total['beside']:,} beside them, {total['destroyed']:,} destroyed by faults, "
        f"{total['missed']:,} missing that writers knew of or had not confirmed"
    )
    for name, counts in verdicts.items():
        print(f"verified with {name}: {_listed(counts)}")
    print(
        f"{len(outcomes)} logs, seed {seed}, {total['looks']} looks while they were written: "
        f"{alarms} false alarms, {losses} silent losses, {others} other faults; {seconds:.0f} s"
    )
    return not alarms + losses + others


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.most_common())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--logs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--only", type=int, help="make only the log with this number")
    parser.add_argument("--keep", action="store_true", help="keep the folders of bad logs")
    options = parser.parse_args()
    seed = random_seed() if options.seed is None else options.seed
    numbers = range(options.logs) if options.only is None else [options.only]
    began = time.monotonic()
    print(f"seed {seed}", flush=True)
    outcomes = []
    for number in numbers:
        plan = draw(seed, number)
        root = Path(tempfile.mkdtemp(prefix="harken-faults-"))
        outcome = make(plan, root, seed)
        outcomes.append(outcome)
        if not outcome.is_good:
            print(f"log {number}: {', '.join((*plan.faults, *plan.conditions))}")
            for text in (*outcome.false_alarms, *outcome.silent_losses, *outcome.other_faults):
                print(f"    {text[:600]}")
            if options.keep:
                print(f"    kept in {root}", flush=True)
                continue
        shutil.rmtree(root)
    return 0 if show(outcomes, seed, time.monotonic() - began) else 1


def random_seed() -> int:
    return int.from_bytes(os.urandom(3))


if __name__ == "__main__":
    sys.exit(main())
