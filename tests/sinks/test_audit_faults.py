"""
The audit log under real faults: killed writers, full disks, forks, and many processes.
"""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import pytest

from harken import Bus, Event
from harken.errors import AuditPathError, AuditWriteError
from harken.record import FIRST, check_line, parse
from harken.sinks.audit import AuditLog, create_key
from harken.testing import capture
from harken.trail import verify

pytestmark = pytest.mark.once


class Tolled(Event, name="audit_faults.tolled", audit=True):
    """
    A bell tolled.
    """

    number: int
    text: str = ""


# What the child processes of these tests begin with. Whatever they print as a number is the
# number of a record whose publish() has returned.
CHILD = """
import os, sys, time
from harken import Bus, Event
from harken.sinks.audit import AuditLog

class Tolled(Event, name="audit_faults.tolled", audit=True):
    number: int
    text: str = ""

bus = Bus()
log = AuditLog("audit.jsonl", **{options})
bus.attach(log)
"""


def read(*paths: Path | str) -> list[dict[str, Any]]:
    """
    Return the records of these files, oldest first, after checking each line and the chain.
    """
    after = FIRST
    records = []
    for path in paths:
        with open(path, "rb") as lines:
            for line in lines:
                after = check_line(line, after)
                records.append(parse(line))
    return records


def numbers(records: list[dict[str, Any]]) -> list[int]:
    return [r["metadata"]["number"] for r in records if r["event_type"] == "audit_faults.tolled"]


def gaps(records: list[dict[str, Any]]) -> int:
    """
    Return how many records are missing, counted by the numbers that each writer gave.
    """
    last: dict[str, int] = {}
    missing = 0
    for record in records:
        missing += record["n"] - last.get(record["writer"], 0) - 1
        last[record["writer"]] = record["n"]
    return missing


def files(folder: Path) -> list[Path]:
    """
    Return the files of a log, oldest first. One that was being archived may have two names.
    """
    found = {file.stat().st_ino: file for file in folder.glob("audit.jsonl*")}.values()
    logs = [file for file in found if ".spill-" not in file.name and ".new" not in file.name]
    return sorted(logs, key=lambda file: check_line(file.read_bytes().splitlines(True)[0]).seq)


@pytest.fixture
def child(tmp_path: Path) -> Callable[..., subprocess.Popen[bytes]]:
    """
    A function that runs code in a process of its own, with an audit log on a bus.
    """

    def start(code: str, *args: str, **options: Any) -> subprocess.Popen[bytes]:
        program = CHILD.format(options=options) + textwrap.dedent(code)
        return subprocess.Popen(
            [sys.executable, "-c", program, *args], cwd=tmp_path, stdout=subprocess.PIPE
        )

    return start


class TestEventThatCannotBeRecorded:
    class Unreadable:
        """
        An envelope whose body cannot be made.
        """

        audit = True

        def __init__(self, envelope: Any) -> None:
            self._envelope = envelope

        def __getattr__(self, name: str) -> Any:
            if name == "body":
                raise UnicodeDecodeError("utf-8", b"hunter2", 0, 1, "invalid start byte")
            return getattr(self._envelope, name)

    def batch(self) -> list[Any]:
        """
        Return three events; there is no record of the second.
        """
        bus = Bus()
        with capture(bus) as heard:
            for number in range(3):
                bus.publish(Tolled(number=number))
        first, second, third = heard.envelopes
        return [first, self.Unreadable(second), third]

    @pytest.mark.parametrize("on_failure", ["degrade", "raise"])
    def test_is_counted(self, tmp_path: Path, on_failure: Literal["degrade", "raise"]) -> None:
        """
        It has a number, the log says that it is lost and why, the bus hears of it, and the others
        are there.
        """
        log = AuditLog(tmp_path / "audit.jsonl", on_failure=on_failure)
        for batch in (self.batch(), self.batch()[1:2]):
            with pytest.raises(AuditWriteError, match="no record of an event: UnicodeDecodeError"):
                log.write(batch)
        log.close()

        report = verify(tmp_path / "audit.jsonl")
        records = read(tmp_path / "audit.jsonl")
        lost = [r["metadata"] for r in records if r["event_type"] == "audit.lost"]
        assert [0, 2] == numbers(records)
        assert [("UnicodeDecodeError", 1)] * 2 == [(one["reason"], one["count"]) for one in lost]
        assert (2, 2) == (log.lost, gaps(records))
        assert "incomplete" == report.completeness.verdict


class TestForkedChild:
    @pytest.mark.parametrize(("trouble", "counts"), [("key", (3, 0)), ("descriptors", (1, 2))])
    def test_cannot_read_the_key(
        self,
        tmp_path: Path,
        child: Callable[..., subprocess.Popen[bytes]],
        trouble: str,
        counts: tuple[int, int],
    ) -> None:
        """
        A child that cannot read the key when it is forked loses no record uncounted.
        """
        create_key(tmp_path / "audit.key")
        code = """
        import resource
        bus.publish(Tolled(number=0))
        if sys.argv[1] == "key":
            os.rename("audit.key", "gone.key")
        else:
            limits = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
        pid = os.fork()
        if pid:
            os.waitpid(pid, 0)
            os._exit(0)
        bus.publish(Tolled(number=1))
        bus.publish(Tolled(number=2))
        if sys.argv[1] == "key":
            os.rename("gone.key", "audit.key")
        else:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        bus.publish(Tolled(number=3))
        print(log.records, log.lost, flush=True)
        bus.close()
        """
        told = child(code, trouble, key_path="audit.key").communicate()[0]

        found = read(tmp_path / "audit.jsonl")
        lost = [r["metadata"]["count"] for r in found if r["event_type"] == "audit.lost"]
        assert counts == tuple(map(int, told.split()))
        assert counts == (len(numbers(found)) - 1, sum(lost))
        assert sum(lost) == gaps(found)

    def test_asks_the_key_again(
        self, tmp_path: Path, child: Callable[..., subprocess.Popen[bytes]]
    ) -> None:
        """
        A child that could not read the key when it was forked asks it when it opens the log: a
        log that was moved away is missed.
        """
        create_key(tmp_path / "audit.key")
        code = """
        bus.publish(Tolled(number=0))
        log.checkpoint()
        os.rename("audit.key", "gone.key")
        pid = os.fork()
        if pid:
            os.waitpid(pid, 0)
            os._exit(0)
        os.rename("gone.key", "audit.key")
        with open("audit.jsonl", "r+b") as file:
            file.truncate(file.read().index(b"\\n") + 1)
        bus.publish(Tolled(number=1))
        bus.close()
        """
        child(code, key_path="audit.key").communicate()

        recovered = [
            r for r in read(tmp_path / "audit.jsonl") if r["event_type"] == "audit.recover"
        ]
        assert [("shrunk", 3)] == [
            (r["metadata"]["reason"], r["metadata"]["seq"]) for r in recovered
        ]


class TestKilledProcess:
    def test_keeps_what_it_acknowledged(
        self, tmp_path: Path, child: Callable[..., subprocess.Popen[bytes]]
    ) -> None:
        """
        Every record whose publish() returned survives kill -9, and the chain goes on behind it.
        """
        code = """
        text = "x" * int(sys.argv[2])
        for number in range(int(sys.argv[1]), 10**9):
            bus.publish(Tolled(number=number, text=text))
            os.write(1, b"%d\\n" % number)
        """
        acknowledged: set[int] = set()
        for i in range(14):
            options = {"max_bytes": 500_000} if i % 2 else {}
            process = child(code, str(i * 1_000_000), str((60_000, 3_000)[i % 2]), **options)
            assert process.stdout is not None
            acknowledged.add(int(process.stdout.readline()))
            timer = threading.Timer(random.random() * 0.05, process.kill)
            timer.start()
            # The pipe must not fill up, or the process is never killed in the middle of a record.
            acknowledged.update(map(int, process.stdout.read().splitlines()))
            assert -signal.SIGKILL == process.wait()
            process.stdout.close()
        AuditLog(tmp_path / "audit.jsonl").close()

        records = read(*files(tmp_path))
        assert len(acknowledged) > 100
        assert acknowledged <= set(numbers(records))
        assert {1} == set(Counter(numbers(records)).values())

    def test_leaves_no_lock(
        self, tmp_path: Path, child: Callable[..., subprocess.Popen[bytes]]
    ) -> None:
        """
        A process that was killed while it held the lock keeps nobody waiting.
        """
        code = """
        import fcntl
        fcntl.flock(os.open("audit.jsonl", os.O_RDONLY), fcntl.LOCK_EX)
        os.write(1, b"held\\n")
        time.sleep(60)
        """
        process = child(code)
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(AuditPathError, match="another process holds its lock"):
            AuditLog(tmp_path / "audit.jsonl", lock_wait=0.01)
        process.kill()
        process.wait()
        process.stdout.close()

        log = AuditLog(tmp_path / "audit.jsonl")
        log.close()

        assert 3 == len(read(tmp_path / "audit.jsonl"))

    def test_stopped_process(
        self, tmp_path: Path, child: Callable[..., subprocess.Popen[bytes]]
    ) -> None:
        """
        A process that is stopped, with or without the lock, delays others for a bounded time.
        """
        code = """
        for number in range(10**9):
            bus.publish(Tolled(number=number))
            if number == 100:
                os.write(1, b"running\\n")
        """
        process = child(code)
        assert process.stdout is not None
        process.stdout.readline()
        log = AuditLog(tmp_path / "audit.jsonl", lock_wait=0.1)
        bus = Bus()
        bus.attach(log)
        for i in range(20):
            process.send_signal(signal.SIGSTOP)
            bus.publish(Tolled(number=-i - 1))
            process.send_signal(signal.SIGCONT)
            time.sleep(0.005)
        process.kill()
        process.wait()
        process.stdout.close()
        bus.close()

        records = read(tmp_path / "audit.jsonl")
        spilled = [n for spill in tmp_path.glob("*.spill-*") for n in numbers(read(spill))]
        ours = [n for n in numbers(records) if n < 0] + spilled
        assert sorted(-i - 1 for i in range(20)) == sorted(ours)
        assert 0 == log.lost


class TestManyProcesses:
    def test_one_chain(self, tmp_path: Path, child: Callable[..., subprocess.Popen[bytes]]) -> None:
        """
        Processes that append to one file at the same time make one chain, without a gap.
        """
        code = """
        for number in range(int(sys.argv[1]), int(sys.argv[1]) + 500):
            bus.publish(Tolled(number=number, text="x" * (number % 5000)))
        """
        starts = range(0, 2000, 500)
        processes = [child(code, str(start), lock_wait=20.0) for start in starts]
        for process in processes:
            process.communicate()

        records = read(tmp_path / "audit.jsonl")
        assert list(range(2000)) == sorted(numbers(records))
        for start in starts:
            own = [n for n in numbers(records) if start <= n < start + 500]
            assert list(range(start, start + 500)) == own
        assert 0 == gaps(records)
        assert 4 == len({record["writer"] for record in records})

    def test_files_begun_meanwhile(
        self, tmp_path: Path, child: Callable[..., subprocess.Popen[bytes]]
    ) -> None:
        """
        That holds while files are rotated by all of them and renamed by somebody else.
        """
        code = """
        for number in range(int(sys.argv[1]), int(sys.argv[1]) + 400):
            bus.publish(Tolled(number=number))
        """
        starts = range(0, 1200, 400)
        processes = [child(code, str(s), lock_wait=20.0, max_bytes=30_000) for s in starts]
        path = tmp_path / "audit.jsonl"
        moved: list[Path] = []
        while any(process.poll() is None for process in processes):
            time.sleep(0.02)
            if len(moved) < 20 and path.exists() and path.stat().st_size:
                moved.append(path.rename(tmp_path / f"audit.jsonl.moved{len(moved)}"))
        for process in processes:
            process.communicate()

        found = files(tmp_path)
        records = read(*found)
        assert list(range(1200)) == sorted(numbers(records))
        assert 0 == gaps(records)
        assert len(found) > 10


class TestFork:
    def children(self, count: int, run: Callable[[int], object]) -> None:
        pids = []
        for i in range(count):
            pid = os.fork()
            if pid == 0:
                status = 1
                try:
                    run(i)
                    status = 0
                finally:
                    os._exit(status)
            pids.append(pid)
        assert [0] * count == [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]

    def test_shared_log(self, tmp_path: Path) -> None:
        """
        A forked child that uses its parent's log is a writer of its own.
        """
        path = tmp_path / "audit.jsonl"
        log = AuditLog(path, lock_wait=20)
        bus = Bus()
        bus.attach(log)
        bus.publish(Tolled(number=0))

        def run(i: int) -> None:
            for number in range(1, 51):
                bus.publish(Tolled(number=1000 * (i + 1) + number))
            assert (50, 0) == (log.records, log.reopened)
            log.close()

        self.children(3, run)
        bus.publish(Tolled(number=1))
        bus.close()

        records = read(path)
        expected = [0, 1, *(1000 * i + n for i in (1, 2, 3) for n in range(1, 51))]
        opened = [r["metadata"]["reason"] for r in records if r["event_type"] == "audit.open"]
        assert sorted(expected) == sorted(numbers(records))
        assert 0 == gaps(records)
        assert ["start", "fork", "fork", "fork"] == opened
        assert 4 == len({record["writer"] for record in records})

    def test_child_without_records(self, tmp_path: Path) -> None:
        """
        A child that audits nothing leaves nothing in the log, also when it closes it.
        """
        path = tmp_path / "audit.jsonl"
        log = AuditLog(path)
        self.children(1, lambda _: self.children(1, lambda _: log.close()))
        log.close()

        assert ["audit.open", "audit.close"] == [r["event_type"] for r in read(path)]

    def test_in_the_middle_of_records(self, tmp_path: Path) -> None:
        """
        Forking while other threads write neither blocks a child nor breaks the chain.
        """
        path = tmp_path / "audit.jsonl"
        log = AuditLog(path, lock_wait=20, durability="group")
        bus = Bus()
        bus.attach(log)
        stop = threading.Event()

        def write() -> None:
            while not stop.is_set():
                bus.publish(Tolled(number=0))

        threads = [threading.Thread(target=write) for _ in range(2)]
        for thread in threads:
            thread.start()

        def run(i: int) -> None:
            bus.publish(Tolled(number=i + 1))

        try:
            for _ in range(5):
                self.children(4, run)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        bus.close()

        records = read(path)
        assert {1: 5, 2: 5, 3: 5, 4: 5} == Counter(n for n in numbers(records) if n)
        assert 0 == gaps(records)

    def test_without_being_told(self, tmp_path: Path) -> None:
        """
        A process that was made behind Python's back finds out by its process id.
        """
        path = tmp_path / "audit.jsonl"
        log = AuditLog(path)
        bus = Bus()
        bus.attach(log)

        def run(_: int) -> None:
            log._pid = os.getppid()
            bus.publish(Tolled(number=1))
            log._pid = os.getppid()
            log.close()

        self.children(1, run)
        log.close()

        assert ["start", "fork", "shutdown"] == [
            r["metadata"]["reason"] for r in read(path) if r["event_type"] != "audit_faults.tolled"
        ]


class TestFullDisk:
    @contextmanager
    def room(self, size: int) -> Iterator[None]:
        """
        No file can grow beyond *size* bytes in this block.
        """
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    @pytest.mark.parametrize("on_failure", ["degrade", "raise"])
    def test_limit(self, tmp_path: Path, on_failure: Any) -> None:
        """
        A write that was cut short leaves nothing behind; losses are counted, and it goes on alone.
        """
        path = tmp_path / "audit.jsonl"
        log = AuditLog(path, on_failure=on_failure)
        bus = Bus()
        bus.attach(log)
        raised = 0
        bus.publish(Tolled(number=0))
        with self.room(path.stat().st_size + 3000):
            for number in range(1, 20):
                try:
                    bus.publish(Tolled(number=number))
                except AuditWriteError:
                    raised += 1
            read(path)
        bus.publish(Tolled(number=20))

        records = read(path)
        spilled = [n for spill in tmp_path.glob("*.spill-*") for n in numbers(read(spill))]
        report = next(r["metadata"] for r in records if r["event_type"] == "audit.lost")
        counted = (log.records, log.lost, log.spilled)
        bus.close()
        told = sum(record["event_type"].startswith("audit.") for record in records)
        assert counted == (len(records) - told, report["count"], len(spilled))
        merged = report.get("merged", 0)
        assert log.lost + log.spilled + merged == gaps(records)
        assert ("EFBIG", log.lost + log.spilled + merged) == (
            report["reason"],
            report["last_n"] - report["first_n"] + 1,
        )
        assert log.lost > 0
        assert (raised > 0) is (on_failure == "raise")
        assert 20 == numbers(records)[-1]

    def test_limit_within_a_batch(self, tmp_path: Path) -> None:
        """
        The records of a batch that still had room are kept, whole lines only.
        """
        path = tmp_path / "audit.jsonl"
        log = AuditLog(path, durability="async")
        bus = Bus()
        bus.attach(log)
        with self.room(path.stat().st_size + 3000):
            for number in range(50):
                bus.publish(Tolled(number=number))
            bus.flush(5)
            kept = numbers(read(path))
        bus.publish(Tolled(number=50))
        bus.flush(5)

        records = read(path)
        bus.close()
        assert 0 < len(kept) < 50
        merged = len(numbers(records)) - len(kept) - 1
        assert [*range(len(kept) + merged), 50] == numbers(records)
        assert (50 - len(kept) - merged, 0) == (log.lost, log.spilled)
        assert 50 - len(kept) == gaps(records)
        assert merged > 0

    @pytest.mark.skipif(sys.platform != "linux", reason="tmpfs is Linux's")
    def test_tmpfs(
        self,
        tmp_path: Path,
        require_server: Callable[[str], str],
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        """
        On a disk that is really full the log stays whole, and resumes by itself.
        """
        mount, umount = require_server("mount"), require_server("umount")
        folder = tmp_path / "small"
        folder.mkdir()
        if os.spawnl(
            os.P_WAIT, mount, "mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)
        ):
            pytest.skip("this user may not mount a file system")
        try:
            path = folder / "audit.jsonl"
            log = AuditLog(path)
            bus = Bus()
            bus.attach(log)
            ballast = folder / "ballast"
            ballast.write_bytes(b"x" * 40_000)
            for number in range(60):
                bus.publish(Tolled(number=number, text="x" * 700))
            kept = numbers(read(path))
            with pytest.raises(AuditPathError, match="the disk is full"):
                AuditLog(folder / "another.jsonl")
            ballast.unlink()
            bus.publish(Tolled(number=60))
            bus.close()

            records = read(path)
            spilled = [n for spill in folder.glob("*.spill-*") for n in numbers(read(spill))]
            reports = [r["metadata"] for r in records if r["event_type"] == "audit.lost"]
            assert 0 < len(kept) < 60
            assert [*kept, 60] == numbers(records)
            assert log.lost > 0
            assert log.lost + log.spilled == 60 - len(kept) == gaps(records)
            assert (log.lost, log.spilled, {"ENOSPC"}) == (
                sum(report["count"] for report in reports),
                len(spilled),
                {report["reason"] for report in reports},
            )
            said = capsys.readouterr().err
            assert (1, 1) == (said.count("cannot be written"), said.count("is written again"))
        finally:
            os.spawnl(os.P_WAIT, umount, "umount", str(folder))


@pytest.mark.skipif(sys.platform != "linux", reason="strace is Linux's")
class TestFailingSystemCalls:
    CODE = """
    acknowledged = []
    for number in range(12):
        failed = log.lost + log.spilled
        bus.publish(Tolled(number=number))
        if log.lost + log.spilled == failed:
            acknowledged.append(number)
            os.write(1, b"%d\\n" % number)
        if number == 8:
            os.rename("audit.jsonl", "audit.jsonl.20000101T000000Z-0000000000")
    """

    @pytest.mark.parametrize(
        ("call", "fault", "when"),
        [
            ("flock", "error=ENOLCK", "5+6"),
            ("flock", "error=ENOLCK", "4+6"),
            ("write", "error=ENOSPC", "3+4"),
            ("write", "error=ENOSPC", "6"),
            ("write", "error=ENOSPC", "7"),
            ("write", "signal=KILL", "10"),
            ("link,linkat", "error=EPERM", "1"),
            ("link,linkat", "signal=KILL", "1"),
            ("rename,renameat,renameat2", "error=EIO", "1"),
            ("rename,renameat,renameat2", "signal=KILL", "1"),
            ("openat", "error=EMFILE", "2+2"),
            ("lstat,newfstatat", "error=EACCES", "4+3"),
            ("pread64", "error=EIO", "3+2"),
        ],
    )
    def test_leaves_a_whole_log(
        self,
        tmp_path: Path,
        require_server: Callable[[str], str],
        call: str,
        fault: str,
        when: str,
    ) -> None:
        """
        Whichever system call on the log fails, no acknowledged record is missing from a log that
        holds together, and the next process goes on.
        """
        strace = require_server("strace")
        path = tmp_path / "audit.jsonl"
        program = CHILD.format(options={"max_bytes": 2500}) + textwrap.dedent(self.CODE)
        done = subprocess.run(
            [
                *(
                    strace,
                    "-f",
                    "-o",
                    str(tmp_path / "calls"),
                    "-P",
                    str(path),
                    "-P",
                    f"{path}.new",
                ),
                *("-e", f"trace={call}", "-e", f"inject={call}:{fault}:when={when}"),
                *(sys.executable, "-c", program),
            ],
            cwd=tmp_path,
            capture_output=True,
            check=False,
        )
        if b"ptrace" in done.stderr:
            pytest.skip("this machine does not allow tracing")
        calls = (tmp_path / "calls").read_text()
        AuditLog(path).close()

        assert "(INJECTED)" in calls or "killed by SIGKILL" in calls
        assert set(map(int, done.stdout.split())) <= set(numbers(read(*files(tmp_path))))
