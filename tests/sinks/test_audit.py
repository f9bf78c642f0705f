"""
The audit log: one chain of records in a file, whatever happens to the file and its writers.
"""

from __future__ import annotations

import errno
import fcntl
import io
import os
import socket
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from harken import Bus, Envelope, Event
from harken.errors import AuditPathError, AuditWriteError, DeliveryError, SettingsError
from harken.record import FIRST, GENESIS, MAX_LINE, check_line, parse
from harken.sinks.audit import AuditLog, _path
from harken.sinks.audit._group import GroupSync
from harken.sinks.audit._path import file_system_of
from harken.sinks.audit._tail import fingerprint
from harken.testing import FixedClock, capture, fixed_bus


class Struck(Event, name="audit_test.struck", audit=True, action="strike"):
    """
    A bell was struck.
    """

    number: int = 0
    text: str = ""


class Heard(Event, name="audit_test.heard"):
    """
    A bell was heard; nobody audits that.
    """


def struck(*numbers: int, text: str = "") -> list[Envelope[Event]]:
    bus = Bus()
    with capture(bus) as heard:
        for number in numbers:
            bus.publish(Struck(number=number, text=text))
    return heard.envelopes


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


def numbers(records: Sequence[dict[str, Any]]) -> list[int]:
    return [record["metadata"]["number"] for record in events(records)]


def events(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [record for record in records if not record["event_type"].startswith("audit.")]


def controls(records: Sequence[dict[str, Any]], *members: str) -> list[tuple[Any, ...]]:
    """
    Return the control records: type, reason, and these members of their metadata.
    """
    return [
        (record["event_type"], *(record["metadata"].get(name) for name in ("reason", *members)))
        for record in records
        if record["event_type"].startswith("audit.")
    ]


@contextmanager
def held(path: Path) -> Iterator[None]:
    """
    Hold the lock of a log, as a process does that was stopped in the middle of a record.
    """
    fd = os.open(path, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    try:
        yield
    finally:
        os.close(fd)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


@pytest.fixture
def log(path: Path) -> Iterator[AuditLog]:
    log = AuditLog(path, lock_wait=0.05)
    yield log
    log.close()


class TestRecords:
    def test_audited_events(self, path: Path) -> None:
        """
        Each audited event becomes a record; others do not.
        """
        bus = Bus()
        bus.attach(AuditLog(path))

        bus.publish(Struck(number=1))
        bus.publish(Heard())
        bus.publish(Heard(), audit=True)
        bus.publish(Struck(number=2), audit=False)
        envelope = bus.publish(Struck(number=3))

        records = read(path)
        bus.close()
        assert envelope is not None
        assert ["audit.open", "audit_test.struck", "audit_test.heard", "audit_test.struck"] == [
            record["event_type"] for record in records
        ]
        assert (envelope.id, "strike", {"number": 3, "text": ""}) == (
            records[-1]["id"],
            records[-1]["action"],
            records[-1]["metadata"],
        )

    def test_opening_and_closing(self, path: Path) -> None:
        """
        A writer says in the log when it began and when it ended, and with what result.
        """
        log = AuditLog(path)
        log.write(struck(1, 2))
        log.close()
        log.close()

        records = read(path)

        first, last = records[0], records[-1]
        assert controls(records) == [
            ("audit.open", "start"),
            ("audit.checkpoint", None),
            ("audit.close", "shutdown"),
        ]
        assert (1, os.getpid(), socket.gethostname()) == tuple(
            first["metadata"][name] for name in ("format", "pid", "host")
        )
        assert {"reason": "shutdown", "records": 2, "lost": 0, "spilled": 0} == last["metadata"]
        assert [(1, 1), (2, 2), (3, 3), (4, 4), (5, 5)] == [(r["seq"], r["n"]) for r in records]
        assert GENESIS == first["prev"]
        assert 7 == int(first["id"][14], 16)
        assert {"audit_log:audit.jsonl"} == {first["resource"], last["resource"]}

    def test_log_that_exists(self, path: Path) -> None:
        """
        A later writer continues the chain.
        """
        for number in (1, 2):
            log = AuditLog(path)
            log.write(struck(number))
            log.close()

        records = read(path)

        assert [1, 2] == numbers(records)
        assert list(range(1, 9)) == [record["seq"] for record in records]
        assert 2 == len({record["writer"] for record in records})

    def test_what_it_knows(self, log: AuditLog, path: Path) -> None:
        """
        The log says how many records and bytes it wrote, and where its chain is.
        """
        log.write(struck(1, 2))

        records = read(path)
        assert (2, path.stat().st_size, 0, 0, 0, 0, 0, 3, records[-1]["hash"]) == (
            log.records,
            log.written_bytes,
            log.lost,
            log.spilled,
            log.unsynced,
            log.reopened,
            log.recovered,
            log.last_seq,
            log.head,
        )
        assert f"<AuditLog {str(path)!r} seq=3>" == repr(log)

    def test_late_events(self, path: Path) -> None:
        """
        A record's timestamp is that of its writing when its event is older; the event's is kept.
        """
        clock = FixedClock()
        log = AuditLog(path, clock=clock.time_ns)
        bus = fixed_bus()
        with capture(bus) as heard:
            bus.publish(Struck())
        for _ in range(3):
            log.write(heard.envelopes)
            clock.advance(0.9)
        log.close()

        found = [(record["timestamp"][17:], record.get("occurred")) for record in read(path)]

        assert [
            ("05.000000Z", None),
            ("05.000000Z", None),
            ("05.000000Z", None),
            ("06.800000Z", "2026-01-02T03:04:05.000000Z"),
            ("07.700000Z", None),
            ("07.700000Z", None),
        ] == found

    def test_after_close(self, path: Path) -> None:
        """
        Whoever writes to a closed log is told that the record is lost.
        """
        log = AuditLog(path)
        log.close()

        with pytest.raises(AuditWriteError, match="is closed"):
            log.write(struck(1))

        assert log.flush()

    def test_relative_path(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        A relative path is one in the folder in which the log was opened.
        """
        monkeypatch.chdir(tmp_path)
        log = AuditLog("audit.jsonl")
        monkeypatch.chdir("/")
        log.write(struck(1))
        log.close()

        assert [1] == numbers(read(tmp_path / "audit.jsonl"))

    def test_in_the_background(self, path: Path) -> None:
        """
        With durability="async" a worker writes, and flush() waits for it.
        """
        bus = Bus()
        log = AuditLog(path, durability="async")
        subscription = bus.attach(log)
        for number in range(1000):
            bus.publish(Struck(number=number))

        assert bus.flush(timeout=10)
        assert list(range(1000)) == numbers(read(path))
        assert ("worker", "worker") == (log.delivery, subscription.delivery)
        bus.close()

    def test_threads(self, log: AuditLog, path: Path) -> None:
        """
        Any number of threads may write.
        """
        batches = [struck(*range(i, i + 50)) for i in range(0, 400, 50)]

        def write(batch: list[Envelope[Event]]) -> None:
            for envelope in batch:
                log.write([envelope])

        threads = [threading.Thread(target=write, args=(batch,)) for batch in batches]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert list(range(400)) == sorted(numbers(read(path)))
        assert 400 == log.records

    def test_two_logs_on_one_file(self, log: AuditLog, path: Path) -> None:
        """
        Two logs of one process are two writers on one chain.
        """
        other = AuditLog(path)
        for number in range(10):
            (log, other)[number % 2].write(struck(number))
        other.close()

        assert list(range(10)) == numbers(read(path))

    def test_interrupted_by_itself(self, path: Path) -> None:
        """
        What a signal handler or a destructor publishes in the middle of a record comes after it.
        """
        interrupting = struck(2, 3)

        def clock() -> int:
            if interrupting and logs:
                logs[0].write([interrupting.pop(0)])
            return 0

        logs: list[AuditLog] = []
        log = AuditLog(path, clock=clock)
        logs.append(log)
        log.write(struck(1))
        log.close()

        assert [1, 2, 3] == numbers(read(path))

    def test_closed_by_what_interrupts_it(self, path: Path) -> None:
        """
        A signal handler that closes the log in the middle of a record loses nothing.
        """
        logs: list[AuditLog] = []

        def clock() -> int:
            for log in logs:
                log.close()
                assert log.flush()
            return 0

        log = AuditLog(path, clock=clock)
        logs.append(log)
        log.write(struck(1))

        records = read(path)
        assert [1] == numbers(records)
        assert ("audit.close", "shutdown") == controls(records)[-1]

    def test_interrupted_by_an_exception(self, path: Path) -> None:
        """
        After Ctrl-C in the middle of a record the next one looks where the chain ends.
        """
        interrupts: list[type[BaseException]] = []

        def clock() -> int:
            if interrupts:
                raise interrupts.pop()
            return 0

        log = AuditLog(path, clock=clock)
        interrupts.append(KeyboardInterrupt)
        with pytest.raises(KeyboardInterrupt):
            log.write(struck(1))
        log.write(struck(2))
        log.close()

        assert [2] == numbers(read(path))


class TestOptions:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"durability": "always"}, "durability is one of process, group, async; not 'always'"),
            ({"on_failure": "ignore"}, "on_failure is one of degrade, raise; not 'ignore'"),
            ({"durability": "async", "on_failure": "raise"}, "choose durability='process'"),
            ({"max_bytes": 0}, "max_bytes must be more than 0, not 0"),
            ({"max_age": -1.0}, "max_age must be more than 0"),
        ],
    )
    def test_malformed(self, path: Path, options: dict[str, Any], message: str) -> None:
        """
        An option that cannot work is refused, and nothing is made.
        """
        with pytest.raises(SettingsError, match=message):
            AuditLog(path, **options)

        assert not path.exists()

    def test_required(self, path: Path) -> None:
        """
        A log that raises is a required sink; it is never quarantined either way.
        """
        logs = [AuditLog(path), AuditLog(path, on_failure="raise")]

        assert [(False, False, "inline"), (True, False, "inline")] == [
            (log.required, log.quarantine, log.delivery) for log in logs
        ]
        for log in logs:
            log.close()


class TestPath:
    def test_made_for_the_owner_alone(self, tmp_path: Path) -> None:
        """
        File and folders are made, and nobody else may read them.
        """
        path = tmp_path / "state" / "agent" / "audit.jsonl"
        before = os.umask(0)
        try:
            AuditLog(path).close()
        finally:
            os.umask(before)

        assert [0o600, 0o700, 0o700] == [
            stat.S_IMODE(found.stat().st_mode) for found in (path, *path.parents[:2])
        ]

    def test_permissions_of_a_file_that_exists(self, path: Path) -> None:
        """
        A file that everybody could read or run is closed to them.
        """
        path.touch()
        path.chmod(0o755)

        AuditLog(path).close()

        assert 0o600 == stat.S_IMODE(path.stat().st_mode)

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (
                lambda path: path.mkdir(),
                "it is a folder; name a file in it, such as '.*/audit.jsonl",
            ),
            (os.mkfifo, "it is not a regular file; choose another path"),
            (
                lambda path: path.symlink_to(path.with_name("real.jsonl")),
                "it is a symbolic link; give the path behind it, '.*/real.jsonl'",
            ),
            (
                lambda path: path.write_text('{"level": "info"}\n'),
                "it holds something else than an audit log; choose another path",
            ),
        ],
        ids=["folder", "fifo", "symlink", "another log"],
    )
    def test_refused(self, path: Path, make: Callable[[Path], object], message: str) -> None:
        """
        What is not an audit file is left alone, and the error says what to do.
        """
        make(path)
        before = path.lstat()

        with pytest.raises(AuditPathError, match=message) as caught:
            AuditLog(path)

        after = path.lstat()
        assert str(path) == caught.value.path
        assert isinstance(caught.value, OSError)
        assert (before.st_mode, before.st_size, before.st_mtime_ns) == (
            after.st_mode,
            after.st_size,
            after.st_mtime_ns,
        )

    def test_socket(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        A socket is refused like everything else that is no regular file.
        """
        monkeypatch.chdir(tmp_path)
        with socket.socket(socket.AF_UNIX) as server:
            server.bind("audit.jsonl")

            with pytest.raises(AuditPathError, match="not a regular file"):
                AuditLog("audit.jsonl")

    def test_null_byte(self, path: Path) -> None:
        """
        A path that no file can have is refused like every other one.
        """
        with pytest.raises(AuditPathError, match="null byte"):
            AuditLog(f"{path}\0")

    def test_below_a_file(self, tmp_path: Path) -> None:
        """
        A path that leads through a file cannot be made.
        """
        (tmp_path / "file").touch()

        for path in (tmp_path / "file" / "audit.jsonl", tmp_path / "file" / "a" / "audit.jsonl"):
            with pytest.raises(AuditPathError, match="a part of the path is not a folder"):
                AuditLog(path)

    @pytest.mark.skipif(sys.platform != "linux", reason="/dev/full is Linux's")
    def test_device(self) -> None:
        """
        A device is refused, and not written to.
        """
        with pytest.raises(AuditPathError, match="not a regular file"):
            AuditLog("/dev/full")

    def test_without_permission(self, tmp_path: Path, unprivileged: Callable[[], Any]) -> None:
        """
        The error says whether it is the file or the folder that may not be written to.
        """
        tmp_path.parent.parent.chmod(0o755)
        tmp_path.parent.chmod(0o755)
        tmp_path.chmod(0o555)
        (tmp_path / "theirs.jsonl").touch(0o444)

        with unprivileged():
            with pytest.raises(AuditPathError, match=r"may not make files in '.*'; change that"):
                AuditLog(tmp_path / "audit.jsonl")
            with pytest.raises(AuditPathError, match="may not read and write it; change its owner"):
                AuditLog(tmp_path / "theirs.jsonl")

        tmp_path.chmod(0o755)

    def test_file_of_another_user(self, path: Path, unprivileged: Callable[[], Any]) -> None:
        """
        A file that its owner made for us to write to keeps the permissions it has.
        """
        if os.geteuid() != 0:
            pytest.skip("only root makes a file of another user")
        for folder in (path.parent.parent.parent, path.parent.parent, path.parent):
            folder.chmod(0o755)
        path.touch()
        path.chmod(0o666)

        with unprivileged():
            log = AuditLog(path)
            log.close()

        assert 0o666 == stat.S_IMODE(path.stat().st_mode)
        assert 2 == len(read(path))

    def test_locked(self, path: Path) -> None:
        """
        A log that another process never lets go of cannot be opened, and that is said in time.
        """
        AuditLog(path).close()

        with held(path), pytest.raises(AuditPathError, match="another process holds its lock"):
            AuditLog(path, lock_wait=0.02)

    def test_moved_while_it_is_opened(self, path: Path) -> None:
        """
        A file that is renamed while a writer waits for its lock is not written to any more.
        """
        AuditLog(path).close()
        logs: list[AuditLog] = []
        with held(path):
            thread = threading.Thread(target=lambda: logs.append(AuditLog(path, lock_wait=10)))
            thread.start()
            time.sleep(0.02)
            archive = path.rename(path.with_name("audit.jsonl.1"))
        thread.join()
        logs[0].close()

        assert ([1, 2], [1, 2, 3, 4]) == (
            [record["seq"] for record in read(archive)],
            [record["seq"] for record in read(archive, path)],
        )

    def test_moved_again_and_again(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        A path at which no file stays is an error, not an endless loop.
        """

        def lstat(_: object) -> os.stat_result:
            return os.stat("/")

        monkeypatch.setattr(os, "lstat", lstat)

        with pytest.raises(AuditPathError, match="moved away again and again"):
            AuditLog(path)

    def test_windows(self, run_python: Any) -> None:
        """
        On Windows the import fails with one clear error.
        """
        code = (
            "import harken.record, sys\n"
            "sys.platform = 'win32'\n"
            "try:\n"
            "    import harken.sinks.audit\n"
            "except ImportError as error:\n"
            "    print(error)\n"
        )

        assert run_python(code).stdout.startswith("harken.sinks.audit needs Linux or macOS")


class TestMovedFile:
    def test_renamed(self, log: AuditLog, path: Path) -> None:
        """
        After a rename, as logrotate does it, the very next record is in the new file.
        """
        log.write(struck(1))
        archive = path.rename(path.with_name("audit.jsonl.1"))
        log.write(struck(2))
        log.write(struck(3))

        records = read(archive, path)
        assert [1, 2, 3] == numbers(records)
        assert [1] == numbers(read(archive))
        assert [
            ("audit.open", "start", None),
            ("audit.open", "renamed", "audit.jsonl.1"),
        ] == controls(records, "prev_file")
        assert 1 == log.reopened

    def test_renamed_to_another_folder(self, log: AuditLog, path: Path) -> None:
        """
        The chain goes on from a file that was moved out of sight, too.
        """
        log.write(struck(1))
        (path.parent / "elsewhere").mkdir()
        archive = path.rename(path.parent / "elsewhere" / "a")
        log.write(struck(2))

        records = read(archive, path)
        assert [1, 2] == numbers(records)
        assert ("audit.open", "renamed", None) == controls(records, "prev_file")[-1]

    def test_renamed_and_made_again(self, log: AuditLog, path: Path) -> None:
        """
        An empty file that was put in the old one's place is continued, and closed to others.
        """
        log.write(struck(1))
        archive = path.rename(path.with_name("audit.jsonl.1"))
        path.touch(0o644)
        log.write(struck(2))

        assert [1, 2] == numbers(read(archive, path))
        assert 0o600 == stat.S_IMODE(path.stat().st_mode)

    def test_deleted(self, log: AuditLog, path: Path) -> None:
        """
        After a deletion the next record is in a new file, which says so and continues the chain.
        """
        log.write(struck(1))
        head = log.head
        path.unlink()
        log.write(struck(2))

        with open(path, "rb") as lines:
            records = [parse(line) for line in lines]
        assert [("audit.open", "deleted")] == controls(records)
        assert [2] == numbers(records)
        assert (head, 3) == (records[0]["prev"], records[0]["seq"])

    def test_folder_deleted(self, tmp_path: Path) -> None:
        """
        A folder that was deleted is made again.
        """
        path = tmp_path / "folder" / "audit.jsonl"
        log = AuditLog(path)
        path.unlink()
        path.parent.rmdir()
        log.write(struck(1))
        log.close()

        assert path.exists()
        assert 1 == log.records

    def test_deleted_while_it_was_let_go(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        A writer that opens its file anew after a failed sync, and finds none, says so.
        """

        def fail(fd: int) -> None:
            path.unlink()
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        log = AuditLog(path, durability="group")
        with monkeypatch.context() as patch:
            patch.setattr("harken.sinks.audit._log.sync_data", fail)
            log.write(struck(1))
        head = log.head
        log.write(struck(2))
        log.close()

        with open(path, "rb") as lines:
            records = [parse(line) for line in lines]
        assert ("audit.open", "deleted") == controls(records)[0]
        assert head == records[0]["prev"]

    def test_replaced_by_a_file_without_records(
        self, log: AuditLog, path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """
        A file of somebody else in the log's place is not touched; records wait beside it.
        """
        path.unlink()
        path.write_text("hello\n")
        log.write(struck(1))
        path.unlink()
        log.write(struck(2))

        assert (2, 0, 0) == (log.records, log.spilled, log.lost)
        assert "something else than an audit log" in capsys.readouterr().err

    def test_continued_by_a_writer_that_starts(self, path: Path) -> None:
        """
        Who starts after a rename finds the file that the new one continues.
        """
        first = AuditLog(path)
        first.write(struck(1))
        first.close()
        archive = path.rename(path.with_name("audit.jsonl-20260102"))
        path.with_name("audit.jsonl.2.gz").write_bytes(b"\x1f\x8b compressed")
        path.with_name("audit.jsonl.note").write_text("not a log\n")
        second = AuditLog(path)
        second.write(struck(2))
        second.close()

        records = read(archive, path)
        assert [1, 2] == numbers(records)
        assert ("audit.open", "renamed", archive.name) == controls(records, "prev_file")[3]

    def test_old_file_unreadable(
        self, log: AuditLog, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """
        As long as nobody can tell where the chain ended, records wait beside the new file.
        """

        def fail(fd: int, size: int) -> None:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        archive = path.rename(path.with_name("audit.jsonl.1"))
        with monkeypatch.context() as patch:
            patch.setattr("harken.sinks.audit._file.read_tail", fail)
            log.write(struck(1))
        log.write(struck(2))

        assert (0, 2) == (log.spilled, log.records)
        assert [1, 2] == numbers(read(archive, path))

    def test_sibling_of_another_user(self, path: Path, unprivileged: Callable[[], Any]) -> None:
        """
        A file beside the log that may not be read is not continued, and does no harm.
        """
        if os.geteuid() != 0:
            pytest.skip("only root makes a file of another user")
        for folder in (path.parent.parent.parent, path.parent.parent, path.parent):
            folder.chmod(0o755)
        path.parent.chmod(0o777)
        AuditLog(path).close()
        path.rename(path.with_name("audit.jsonl.1"))

        with unprivileged():
            log = AuditLog(path)
            log.close()

        assert ("audit.open", "start") == controls(read(path))[0]

    def test_several_writers(self, log: AuditLog, path: Path) -> None:
        """
        All writers follow a rename, also those that did not write last, and one chain results.
        """
        others = [AuditLog(path) for _ in range(3)]
        everyone = [log, *others]
        archives = []
        for turn in range(6):
            for i, writer in enumerate(everyone):
                writer.write(struck(turn * 10 + i))
            archives.append(path.rename(path.with_name(f"audit.jsonl.{turn}")))
            everyone.append(everyone.pop(0))
        for writer in everyone:
            writer.write(struck(99))
        for other in others:
            other.close()

        expected = sorted([turn * 10 + i for turn in range(6) for i in range(4)] + [99] * 4)
        assert expected == sorted(numbers(read(*archives, path)))

    def test_truncated_after_a_copy(self, log: AuditLog, path: Path) -> None:
        """
        After copytruncate the chain goes on from the copy.
        """
        log.write(struck(1))
        copy = path.with_name("audit.jsonl.1")
        copy.write_bytes(path.read_bytes())
        size = path.stat().st_size
        os.truncate(path, 0)
        log.write(struck(2))
        log.write(struck(3))

        records = read(copy, path)
        assert [1, 2, 3] == numbers(records)
        assert [
            ("audit.open", "start", None, None),
            ("audit.recover", "shrunk", size, 0),
        ] == controls(records, "had", "has")
        assert 1 == log.recovered

    def test_truncated_while_others_wrote(self, log: AuditLog, path: Path) -> None:
        """
        A writer that was not the last one continues from the copy, not from what it remembers.
        """
        other = AuditLog(path)
        log.write(struck(1))
        other.write(struck(2, 3, 4))
        copy = path.with_name("audit.jsonl.1")
        copy.write_bytes(path.read_bytes())
        os.truncate(path, 0)
        log.write(struck(5))
        other.write(struck(6))
        other.close()

        assert [1, 2, 3, 4, 5, 6] == numbers(read(copy, path))

    def test_records_lost_by_truncation(self, log: AuditLog, path: Path) -> None:
        """
        What was written between the copy and the truncation shows as a gap in the chain and in n.
        """
        log.write(struck(1))
        copy = path.with_name("audit.jsonl.1")
        copy.write_bytes(path.read_bytes())
        log.write(struck(2, 3))
        lost = log.last_seq, log.head
        os.truncate(path, 0)
        log.write(struck(4))

        with open(path, "rb") as lines:
            recover, record = map(parse, lines)
        assert lost == (recover["metadata"]["seq"], recover["metadata"]["head"])
        assert (5, lost[1]) == (recover["seq"], recover["prev"])
        assert (read(copy)[-1]["n"] + 3, recover["n"] + 1) == (recover["n"], record["n"])

    def test_truncated_and_grown_again(self, log: AuditLog, path: Path) -> None:
        """
        A file that has its old size again is not mistaken for the one that was left.
        """
        log.write(struck(1))
        lines = path.read_bytes().splitlines(keepends=True)
        content = lines[1][:-76].replace(b'"number":1', b'"number":7')
        seal = f',"hash":"{sha256(content).hexdigest()}"}}\n'.encode()
        path.write_bytes(lines[0] + content + seal)
        time.sleep(0.06)
        log.write(struck(2))

        assert [7, 2] == numbers(read(path))

    def test_cut_off(self, log: AuditLog, path: Path) -> None:
        """
        Lines that were cut off the end are missed by the writer that wrote them.
        """
        log.write(struck(1))
        kept = path.stat().st_size
        log.write(struck(2, 3))
        had, seq, head = path.stat().st_size, log.last_seq, log.head
        os.truncate(path, kept)
        log.write(struck(4))

        records = read(path)
        assert [1, 4] == numbers(records)
        assert ("audit.recover", "shrunk", had, kept, seq, head) == (
            controls(records, "had", "has", "seq", "head")[-1]
        )

    def test_all_records_overwritten(self, log: AuditLog, path: Path) -> None:
        """
        When no record is left in the file, the chain goes on from what the writer remembers.
        """
        log.write(struck(1))
        seq, head = log.last_seq, log.head
        path.write_bytes(b"\0" * 9999)
        log.write(struck(2))

        lines = path.read_bytes().lstrip(b"\0").splitlines(keepends=True)
        records = [parse(line) for line in lines]
        assert [("audit.recover", "torn_tail"), ("audit.recover", "shrunk")] == controls(records)
        assert (head, seq + 1) == (records[0]["prev"], records[0]["seq"])
        assert [2] == numbers(records)


class TestDangers:
    def test_folder_that_anybody_may_write(
        self, path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """
        A folder in which anybody may replace the log is named on stderr; one like /tmp is not.
        """
        for mode in (0o777, 0o1777, 0o755):
            path.parent.chmod(mode)
            AuditLog(path).close()

        (said,) = capsys.readouterr().err.splitlines()
        assert f"harken: anybody may write into {str(path.parent)!r}" in said
        assert said.endswith("run chmod o-w")

    def test_network_file_system(self, tmp_path: Path) -> None:
        """
        The type of a file system is read from the list of mounts.
        """
        device = tmp_path.stat().st_dev
        mounts = tmp_path / "mounts"
        number = f"{os.major(device)}:{os.minor(device)}"
        mounts.write_text(
            "22 1 0:99999 / / rw - ext4 /dev/sda1 rw\n"
            f"36 35 {number} / /mnt/home rw,noatime shared:1 master:2 - nfs4 server:/home rw\n"
        )

        assert "nfs4" == file_system_of(str(tmp_path), str(mounts))
        mounts.write_text("22 1 0:99999 / / rw - ext4 /dev/sda1 rw\n")
        assert file_system_of(str(tmp_path), str(mounts)) is None
        assert file_system_of(str(tmp_path), str(tmp_path / "none")) is None

    @pytest.mark.parametrize(
        ("kind", "network"),
        [
            ("nfs", True),
            ("nfs4", True),
            ("cifs", True),
            ("smb3", True),
            ("9p", True),
            ("fuse.sshfs", True),
            ("ext4", False),
            ("xfs", False),
            ("tmpfs", False),
            ("overlay", False),
            ("fuse.fuse-overlayfs", False),
        ],
    )
    def test_kinds(
        self, tmp_path: Path, kind: str, network: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """
        On a network file system the log says that it promises less there.
        """
        monkeypatch.setattr(_path, "file_system_of", lambda folder: kind)

        said = _path.dangers(str(tmp_path / "audit.jsonl"))

        assert network is (f"is on a network file system ({kind})" in "".join(said))


class TestDamagedFile:
    @pytest.mark.parametrize("size", [1, 14, 400, 5000, 3 * MAX_LINE])
    def test_torn_line(self, path: Path, size: int) -> None:
        """
        An unfinished line is cut off by the next writer, which records its size and SHA-256.
        """
        log = AuditLog(path)
        log.write(struck(1))
        log.close()
        torn = (b'{"timestamp":"2026-' + b"x" * size)[:size]
        with open(path, "ab") as file:
            file.write(torn)
        log = AuditLog(path)
        log.write(struck(2))
        log.close()

        records = read(path)
        assert [1, 2] == numbers(records)
        assert ("audit.recover", "torn_tail", size, sha256(torn).hexdigest()) == (
            controls(records, "bytes", "sha256")[3]
        )
        assert 1 == log.recovered

    def test_torn_first_line(self, path: Path) -> None:
        """
        A log of which only a torn first line is left begins anew.
        """
        path.write_bytes(b'{"timest')

        AuditLog(path).close()

        records = read(path)
        assert [
            ("audit.recover", "torn_tail"),
            ("audit.open", "start"),
            ("audit.close", "shutdown"),
        ] == controls(records)

    def test_torn_while_open(self, log: AuditLog, path: Path) -> None:
        """
        A line that another process left unfinished does not swallow the next one.
        """
        log.write(struck(1))
        with open(path, "ab") as file:
            file.write(b'{"timestamp":"2026')
        log.write(struck(2))

        assert [1, 2] == numbers(read(path))

    @pytest.mark.parametrize(
        "foreign",
        [b"hello\n", b"\n\n", b'{"timestamp":"x"}\n' * 3, b"x" * 2 * MAX_LINE + b"\n"],
        ids=["text", "blank", "several", "long"],
    )
    def test_foreign_lines(self, log: AuditLog, path: Path, foreign: bytes) -> None:
        """
        Lines of somebody else stay, and the next record says how many bytes they have.
        """
        log.write(struck(1))
        before = path.stat().st_size
        with open(path, "ab") as file:
            file.write(foreign)
        log.write(struck(2))

        content = path.read_bytes()
        whole = path.with_name("whole")
        whole.write_bytes(content[:before] + content[before + len(foreign) :])
        records = read(whole)
        assert foreign == content[before : before + len(foreign)]
        assert [1, 2] == numbers(records)
        assert ("audit.recover", "foreign_line", len(foreign), sha256(foreign).hexdigest()) == (
            controls(records, "bytes", "sha256")[-1]
        )

    def test_altered_last_line(self, log: AuditLog, path: Path) -> None:
        """
        Nobody chains to a line that was altered: it is evidence, not a record.
        """
        log.write(struck(1))
        content = path.read_bytes()
        path.write_bytes(content.replace(b'"number":1', b'"number":7'))
        other = AuditLog(path)
        other.write(struck(2))
        other.close()

        records = [parse(line) for line in path.read_bytes().splitlines(keepends=True)]
        assert [
            ("audit.open", "start"),
            ("audit.recover", "foreign_line"),
            ("audit.open", "start"),
            ("audit.checkpoint", None),
            ("audit.close", "shutdown"),
        ] == controls(records)
        assert records[0]["hash"] == records[2]["prev"]

    def test_shrinking_under_the_reader(self, path: Path) -> None:
        """
        The fingerprint of what is gone in the meantime is that of what is left.
        """
        path.write_bytes(b"abc")
        fd = os.open(path, os.O_RDONLY)

        found = fingerprint(fd, 1, 100)

        os.close(fd)
        assert {"bytes": 2, "sha256": sha256(b"bc").hexdigest()} == found

    @pytest.mark.skipif(sys.platform != "linux", reason="chattr is Linux's")
    def test_file_that_only_grows(self, path: Path, require_server: Callable[[str], str]) -> None:
        """
        Where `chattr +a` forbids cutting, a torn line is ended, stays, and is recorded.
        """
        chattr = require_server("chattr")
        AuditLog(path).close()
        before = path.stat().st_size
        with open(path, "ab") as file:
            file.write(b"torn")
        if os.spawnl(os.P_WAIT, chattr, "chattr", "+a", str(path)) != 0:
            pytest.skip("this file system, or this user, has no chattr +a")
        try:
            log = AuditLog(path)
            log.write(struck(1))
            log.close()
        finally:
            os.spawnl(os.P_WAIT, chattr, "chattr", "-a", str(path))

        content = path.read_bytes()
        whole = path.with_name("whole")
        whole.write_bytes(content[:before] + content[before + 5 :])
        records = read(whole)
        assert b"torn\n" == content[before : before + 5]
        assert ("audit.recover", "torn_tail", 5, sha256(b"torn\n").hexdigest(), True) == (
            controls(records, "bytes", "sha256", "kept")[2]
        )
        assert [1] == numbers(records)


class TestRotation:
    def files(self, path: Path) -> list[Path]:
        """
        The archives, oldest first, and the file itself.
        """
        archives = [found for found in path.parent.iterdir() if found != path]
        return [*sorted(archives, key=lambda found: found.name[-10:]), path]

    def test_by_size(self, path: Path) -> None:
        """
        A file that has reached its size is archived under a time and the number of its last line.
        """
        log = AuditLog(path, max_bytes=4000)
        log.write(struck(*range(5)))
        for number in range(5, 30):
            log.write(struck(number))
        log.close()

        files = self.files(path)
        records = read(*files)
        assert list(range(30)) == numbers(records)
        assert len(files) > 3
        for archive, following in pairwise(files):
            lines = archive.read_bytes().splitlines(keepends=True)
            last = parse(lines[-1])
            first = parse(following.read_bytes().splitlines(keepends=True)[0])
            assert {
                "reason": "rotate",
                "trigger": "size",
                "count": len(lines),
                "archived_as": archive.name,
            } == last["metadata"]
            assert archive.name.endswith(f"Z-{last['seq']:010d}")
            assert ("rotate", archive.name) == (
                first["metadata"]["reason"],
                first["metadata"]["prev_file"],
            )
            assert "occurred" not in {*last, *first}
            assert 4000 <= archive.stat().st_size
            assert 0o600 == stat.S_IMODE(archive.stat().st_mode)
        assert 0 == log.reopened

    def test_by_age(self, path: Path) -> None:
        """
        The first record after so many seconds begins a new file, also in another process.
        """
        clock = FixedClock()
        first = AuditLog(path, max_age=60, clock=clock.time_ns)
        clock.advance(59)
        first.write(struck(1))
        clock.advance(1)
        second = AuditLog(path, max_age=60, clock=clock.time_ns)
        second.write(struck(2))
        first.write(struck(3))
        first.close()
        second.close()

        archive, current = self.files(path)
        assert ([1], [1, 2, 3]) == (numbers(read(archive)), numbers(read(archive, current)))
        assert "audit.jsonl.20260102T030505Z-0000000004" == archive.name
        assert "age" == read(archive)[-1]["metadata"]["trigger"]

    @pytest.mark.parametrize(("step", "files"), [(-1.0, 1), (-1.5, 2), (-3600.0, 2)])
    def test_by_a_clock_that_steps_back(self, path: Path, step: float, files: int) -> None:
        """
        Timestamps of one file never go back by more than 2 s: a larger step begins a new file.
        """
        clock = FixedClock()
        log = AuditLog(path, clock=clock.time_ns)
        log.write(struck(1))
        clock.advance(step)
        log.write(struck(2))
        log.write(struck(3))
        log.close()

        found = self.files(path)
        assert [1, 2, 3] == numbers(read(*found))
        assert files == len(found)
        for file in found:
            times = [
                check_line(line).time_ns for line in file.read_bytes().splitlines(keepends=True)
            ]
            latest = 0
            for stamp in times:
                assert stamp >= latest - 2_000_000_000
                latest = max(latest, stamp)

    def test_several_writers(self, path: Path) -> None:
        """
        Writers follow a rotation that another one did.
        """
        logs = [AuditLog(path, max_bytes=3000), AuditLog(path), AuditLog(path, max_bytes=5000)]
        for number in range(30):
            logs[number % 3].write(struck(number))
        for log in logs:
            log.close()

        assert list(range(30)) == numbers(read(*self.files(path)))
        assert logs[1].reopened > 3

    def test_archive_is_never_replaced(self, path: Path) -> None:
        """
        A file that has the archive's name already stays, and the archive gets another name.
        """
        clock = FixedClock()
        log = AuditLog(path, max_bytes=1, clock=clock.time_ns)
        taken = path.with_name("audit.jsonl.20260102T030405Z-0000000002")
        taken.write_text("precious")
        log.write(struck(1))
        log.close()

        archive = path.with_name(f"{taken.name}.2")
        records = read(archive)
        assert "precious" == taken.read_text()
        assert ("audit.close", "rotate", taken.name) == controls(records, "archived_as")[-1]

    def test_emptied_and_begun_anew_by_another(self, path: Path) -> None:
        """
        A file that was emptied, and in which another writer's first line is as long as what stood
        there, does not pass for the old one.
        """
        first = AuditLog(path)
        length = path.stat().st_size
        steps: list[Callable[[], object]] = [lambda: os.truncate(path, 0)]

        def now() -> int:
            while steps:
                steps.pop()()
            return time.time_ns()

        # Its own look at the file is over when it asks for the time.
        AuditLog(path, clock=now)
        assert length == path.stat().st_size
        time.sleep(0.005)
        first.write(struck(2))

        seqs = [record["seq"] for record in map(parse, path.read_bytes().splitlines(keepends=True))]
        assert len(seqs) == len(set(seqs))

    def test_replaces_no_other_file(self, path: Path, tmp_path: Path) -> None:
        """
        A file that others put in the place of the log during a rotation stays, with what they
        write to it, and is no archive.
        """
        clock = FixedClock()
        steps: list[Callable[[], object]] = []

        def now() -> int:
            while steps:
                steps.pop()()
            return clock.time_ns()

        log = AuditLog(path, max_bytes=1, clock=now)
        log.write(struck(1))
        steps += [path.touch, lambda: path.rename(tmp_path / "moved")]
        log.write(struck(2))
        inode = path.stat().st_ino
        log.write(struck(3))

        assert inode == path.stat().st_ino
        assert [path] == [found for found in self.files(path) if found.stat().st_ino == inode]
        assert [1, 2, 3] == numbers(read(self.files(path)[0], tmp_path / "moved", path))

    @pytest.mark.parametrize("interrupted", ["closed", "linked", "made"])
    def test_finished_by_the_next_writer(self, path: Path, interrupted: str) -> None:
        """
        A rotation that a crash interrupted at any step is finished by the next writer.
        """
        clock = FixedClock()
        log = AuditLog(path, max_bytes=1, clock=clock.time_ns)
        log.write(struck(1))
        log.close()
        archive = min(self.files(path)[:-1], key=lambda found: found.name)
        # As it was when the first file had been closed, and what came after was not done yet.
        for file in self.files(path):
            if file != archive:
                file.unlink()
        os.link(archive, path)
        if interrupted == "closed":
            archive.unlink()
        if interrupted == "made":
            path.with_name("audit.jsonl.new").write_bytes(b'{"timestamp":"20')
        log = AuditLog(path, clock=clock.time_ns)
        log.write(struck(2))
        log.close()

        assert [archive, path] == self.files(path)
        records = read(archive, path)
        assert [2] == numbers(records)
        assert ("audit.open", "rotate", archive.name) == controls(records, "prev_file")[2]

    def test_file_missing_after_a_rotation(self, path: Path) -> None:
        """
        When the file that continued an archive is gone, the next one says that it was deleted.
        """
        log = AuditLog(path, max_bytes=1)
        log.write(struck(1))
        log.close()
        archives = self.files(path)[:-1]
        path.unlink()
        AuditLog(path).close()

        assert ("audit.open", "deleted", archives[-1].name) == (
            controls(read(*archives, path), "prev_file")[-2]
        )

    def test_impossible(self, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """
        A log that cannot begin a new file goes on in the old one, and says so once.
        """
        log = AuditLog(path, max_bytes=1)
        in_the_way = path.with_name("audit.jsonl.new")
        in_the_way.mkdir()
        (in_the_way / "file").touch()
        for number in range(5):
            log.write(struck(number))
        log.close()

        assert list(range(5)) == numbers(read(path))
        assert 0 == log.lost
        assert 1 == capsys.readouterr().err.count("could not begin a new file")

    def test_all_archive_names_taken(self, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """
        When every name for the archive is taken, the log goes on in the old file, too.
        """
        clock = FixedClock()
        log = AuditLog(path, max_bytes=1, clock=clock.time_ns)
        taken = path.with_name("audit.jsonl.20260102T030405Z-0000000002")
        taken.touch()
        for i in range(2, 20):
            taken.with_name(f"{taken.name}.{i}").touch()
        log.write(struck(1))
        log.close()

        assert [1] == numbers(read(path))
        assert "could not begin a new file" in capsys.readouterr().err


class TestFailure:
    def test_degrade(self, log: AuditLog, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """
        Records that cannot be written are kept beside the log, and put into it when that is
        possible again; that is said once and recorded.
        """
        log.write(struck(1))
        with held(path):
            for number in (2, 3, 4):
                log.write(struck(number, text="secret"))
            (spill,) = path.parent.glob("audit.jsonl.spill-*")
            spilled = read(spill)
            mode = stat.S_IMODE(spill.stat().st_mode)
            counted = (log.records, log.spilled, log.lost)
        log.write(struck(5))

        records = read(path)
        report = records[2]
        assert ([1, 2, 3, 4, 5], [2, 3, 4]) == (numbers(records), numbers(spilled))
        assert [record["id"] for record in spilled] == [record["id"] for record in records[3:6]]
        assert not spill.exists()
        assert {
            "reason": "ETIMEDOUT",
            "count": 0,
            "first_n": 3,
            "last_n": 5,
            "spilled": 3,
            "spill_file": spill.name,
            "spill_head": spilled[-1]["hash"],
            "merged": 3,
        } == report["metadata"]
        assert ("audit.lost", "failure") == (report["event_type"], report["outcome"])
        assert [3, 4, 5] == [record["n"] for record in spilled]
        assert [1, 2, 6, 7, 8, 9, 10] == [record["n"] for record in records]
        assert ((1, 3, 0), (5, 0, 0)) == (counted, (log.records, log.spilled, log.lost))
        assert 0o600 == mode
        about = f"harken: audit log {str(path)!r}"
        assert (
            f"{about} cannot be written (the lock was not free within 0.05 s); records are kept "
            f"in {str(spill)!r} until it can\n{about} is written again\n"
        ) == capsys.readouterr().err

    def test_second_outage(self, log: AuditLog, path: Path) -> None:
        """
        Each outage is recorded for itself, with a spill file of its own.
        """
        for number in (1, 3):
            with held(path):
                log.write(struck(number))
            log.write(struck(number + 1))

        assert [1, 2, 3, 4] == numbers(read(path))
        assert not list(path.parent.glob("audit.jsonl.spill-*"))
        assert [("audit.lost", "ETIMEDOUT", 1, 2), ("audit.lost", "ETIMEDOUT", 1, 6)] == (
            controls(read(path), "merged", "first_n")[1:]
        )

    def test_more_than_memory_allows(
        self, log: AuditLog, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """
        What is too much to be kept in memory stays in the spill file, which goes on; the log says
        so, and each record is in one of the two.
        """
        monkeypatch.setattr("harken.sinks.audit._log._MERGED_BYTES", 0)
        for number in (1, 3):
            with held(path):
                log.write(struck(number))
            log.write(struck(number + 1))

        (spill,) = path.parent.glob("audit.jsonl.spill-*")
        assert ([2, 4], [1, 3]) == (numbers(read(path)), numbers(read(spill)))
        assert [("audit.lost", "ETIMEDOUT", 1, 2), ("audit.lost", "ETIMEDOUT", 1, 5)] == (
            controls(read(path), "spilled", "first_n")[1:]
        )
        assert (2, 2, 0) == (log.records, log.spilled, log.lost)

    def test_nowhere_to_go(
        self, log: AuditLog, path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """
        Records for which there is no room beside the log either are lost, and counted.
        """
        aside = path.rename(path.parent.parent / f"{path.parent.name}.jsonl")
        path.parent.rmdir()
        path.parent.touch()
        log.write(struck(1, 2))
        log.write(struck(3))
        assert not log.flush()
        path.parent.unlink()
        path.parent.mkdir()
        assert log.flush()
        log.write(struck(4))

        records = read(aside, path)
        assert [4] == numbers(records)
        assert (1, 3, 0) == (log.records, log.lost, log.spilled)
        assert {"reason": "ENOTDIR", "count": 3, "first_n": 2, "last_n": 4} == (
            records[-2]["metadata"]
        )
        assert "records are lost until it can" in capsys.readouterr().err

    def test_raise(self, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """
        A required log tells the publisher, spills nothing, and records the loss all the same.
        """
        bus = Bus()
        log = AuditLog(path, on_failure="raise", lock_wait=0.02)
        bus.attach(log)
        with held(path):
            with pytest.raises(DeliveryError) as caught:
                bus.publish(Struck(number=1))
            with pytest.raises(AuditWriteError, match="could not be written: the lock"):
                log.write(struck(2))
        bus.publish(Struck(number=3))

        records = read(path)
        assert isinstance(caught.value, AuditWriteError) or isinstance(
            caught.value.errors[0], AuditWriteError
        )
        assert [3] == numbers(records)
        # The bus, too, has something to record: that its audit log failed.
        assert ("audit.lost", "ETIMEDOUT", log.lost, 2, 1 + log.lost) == (
            controls(records, "count", "first_n", "last_n")[-1]
        )
        assert log.lost >= 2
        assert not list(path.parent.glob("*.spill-*"))
        bus.close()

    def test_closed_in_an_outage(self, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """
        A log that cannot write its last record says what is missing; one that can records it.
        """
        logs = [AuditLog(path, lock_wait=0.02) for _ in range(2)]
        with held(path):
            for log in logs:
                log.write(struck(1))
            logs[0].close()
        logs[1].close()

        assert [
            ("audit.open", "start", None),
            ("audit.open", "start", None),
            ("audit.lost", "ETIMEDOUT", 1),
            ("audit.checkpoint", None, None),
            ("audit.close", "shutdown", 0),
        ] == controls(read(path), "spilled")
        assert [1] == numbers(read(path))
        assert "was left without a last record" in capsys.readouterr().err

    @pytest.mark.parametrize("broken", [None, "closed"])
    def test_without_stderr(
        self, log: AuditLog, path: Path, monkeypatch: pytest.MonkeyPatch, broken: str | None
    ) -> None:
        """
        A stderr that is missing or closed does no harm.
        """
        stream = io.StringIO()
        stream.close()
        monkeypatch.setattr(sys, "stderr", stream if broken else None)
        with held(path):
            log.write(struck(1))
        log.write(struck(2))

        assert [1, 2] == numbers(read(path))

    def test_stderr_that_publishes(
        self, log: AuditLog, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """
        Somebody may have put an object in stderr's place that writes to the log.
        """

        class Publishing(io.StringIO):
            def write(self, text: str) -> int:
                log.write(struck(9))
                return len(text)

        monkeypatch.setattr(sys, "stderr", Publishing())
        with held(path):
            log.write(struck(1))
        log.write(struck(2))

        assert [1, 9, 2, 9] == numbers(read(path))

    def test_busy_for_too_long(self, log: AuditLog, path: Path) -> None:
        """
        Neither flush nor close wait for a thread that is in the middle of a record for ever.
        """
        begun = threading.Event()

        def write() -> None:
            begun.set()
            log.write(struck(1))

        log._lock_wait = 0.5
        with held(path):
            thread = threading.Thread(target=write)
            thread.start()
            begun.wait()
            while log._busy is False:
                pass
            flushed = log.flush(timeout=0.01)
            log.close(timeout=0.01)
        thread.join()

        assert not flushed
        log.close()
        assert ("audit.close", "shutdown") == controls(read(path))[-1]


class TestGroup:
    def test_survives_power_loss(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        Each record was synced when the call that wrote it returns.
        """
        synced: list[int] = []

        def sync(fd: int) -> None:
            os.fsync(fd)
            synced.append(os.fstat(fd).st_size)

        monkeypatch.setattr("harken.sinks.audit._log.sync_data", sync)
        log = AuditLog(path, durability="group")
        for number in range(3):
            log.write(struck(number))

            assert path.stat().st_size == synced[-1]
        log.close()
        assert [0, 1, 2] == numbers(read(path))

    def test_threads_share_a_sync(self) -> None:
        """
        All who wait at the same time are served by one sync.
        """
        syncs: list[None] = []
        go_on = threading.Event()

        def sync() -> None:
            syncs.append(None)
            go_on.wait(10)

        group = GroupSync(sync)
        threads = [threading.Thread(target=group.wait) for _ in range(20)]
        threads[0].start()
        while not syncs:
            pass
        for thread in threads[1:]:
            thread.start()
        while group._next is None:
            pass
        go_on.set()
        for thread in threads:
            thread.join()
        group.stop(5)

        assert 2 <= len(syncs) < 20

    @pytest.mark.parametrize("on_failure", ["degrade", "raise"])
    def test_failing_disk(
        self,
        path: Path,
        on_failure: Any,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        """
        Records that the disk did not confirm are counted, and the log says which they are.
        """
        failing = False

        def sync(fd: int) -> None:
            if failing:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            os.fsync(fd)

        monkeypatch.setattr("harken.sinks.audit._log.sync_data", sync)
        log = AuditLog(path, durability="group", on_failure=on_failure)
        log.write(struck(1))
        failing = True
        for number in (2, 3):
            if on_failure == "raise":
                with pytest.raises(AuditWriteError, match="Input/output error"):
                    log.write(struck(number))
            else:
                log.write(struck(number))
        failing = False
        log.write(struck(4))
        log.close()

        records = read(path)
        assert [1, 2, 3, 4] == numbers(records)
        assert (0, 2) == (log.lost, log.unsynced)
        lost = [record["metadata"] for record in records if record["event_type"] == "audit.lost"]
        assert 2 == sum(report["unsynced"] for report in lost)
        assert {("EIO", 0)} == {(report["reason"], report["count"]) for report in lost}
        said = capsys.readouterr().err
        assert 1 == said.count("could not be synced (Input/output error)")
        assert 1 == said.count("is written again")

    def test_batch_in_an_outage(self, path: Path) -> None:
        """
        Records that could not be written do not wait for the disk either.
        """
        log = AuditLog(path, durability="group", lock_wait=0.02)
        with held(path):
            log.write(struck(1, 2))
        log.write(struck(3))
        log.close()

        assert (3, 0, 0) == (log.records, log.spilled, log.unsynced)
        assert [1, 2, 3] == numbers(read(path))

    def test_no_later_sync_vouches_for_what_failed(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """
        A record that was written before a sync failed is not confirmed by the next one.
        """
        failing = threading.Event()
        both_wait = threading.Event()

        def sync(fd: int) -> None:
            if not failing.is_set():
                failing.set()
                both_wait.wait(10)
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            os.fsync(fd)

        log = AuditLog(path, durability="group")
        monkeypatch.setattr("harken.sinks.audit._log.sync_data", sync)
        threads = [threading.Thread(target=log.write, args=(struck(i),)) for i in range(2)]
        threads[0].start()
        failing.wait(10)
        threads[1].start()
        while log.records < 2:
            pass
        both_wait.set()
        for thread in threads:
            thread.join()
        log.write(struck(2))
        log.close()

        assert 2 == log.unsynced
        assert [0, 1, 2] == numbers(read(path))

    def test_no_descriptor_left(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        Records that cannot be synced for want of a descriptor count as not confirmed.
        """

        def dup(fd: int) -> int:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

        log = AuditLog(path, durability="group")
        monkeypatch.setattr(os, "dup", dup)
        log.write(struck(1))
        monkeypatch.undo()
        log.write(struck(2))
        log.close()

        assert 1 == log.unsynced
        assert [1, 2] == numbers(read(path))

    def test_closed_by_what_interrupts_it(self, path: Path) -> None:
        """
        A signal handler that closes the log in the middle of a record neither blocks nor loses it.
        """
        logs: list[AuditLog] = []

        def clock() -> int:
            for log in logs:
                log.close()
            return 0

        log = AuditLog(path, durability="group", clock=clock)
        log.write(struck(1))
        logs.append(log)
        log.write(struck(2))

        records = read(path)
        assert [1, 2] == numbers(records)
        assert ("audit.close", "shutdown") == controls(records)[-1]
        assert 0 == log.unsynced

    def test_failing_disk_when_the_file_is_let_go(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """
        A file that was moved away is synced before it is let go of; if that fails, so did the
        records in it that still wait.
        """
        waiting = threading.Event()
        go_on = threading.Event()

        def wait(fd: int) -> None:
            waiting.set()
            go_on.wait(10)

        def fail(fd: int) -> None:
            assert inode == os.fstat(fd).st_ino
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        log = AuditLog(path, durability="group")
        inode = path.stat().st_ino
        monkeypatch.setattr("harken.sinks.audit._log.sync_data", wait)
        monkeypatch.setattr("harken.sinks.audit._file.sync_data", fail)
        threads = [threading.Thread(target=log.write, args=(struck(i),)) for i in range(2)]
        threads[0].start()
        waiting.wait(10)
        archive = path.rename(path.with_name("audit.jsonl.1"))
        threads[1].start()
        while log.reopened == 0:
            pass
        go_on.set()
        for thread in threads:
            thread.join()
        monkeypatch.undo()
        log.close()

        assert ([0], [0, 1]) == (numbers(read(archive)), numbers(read(archive, path)))
        assert 1 == log.unsynced

    def test_rotation(self, path: Path) -> None:
        """
        A rotation leaves nothing behind that is not on disk.
        """
        log = AuditLog(path, durability="group", max_bytes=2000)
        for number in range(10):
            log.write(struck(number))
        log.close()

        archives = sorted(path.parent.glob("audit.jsonl.2*"), key=lambda found: found.name[-10:])
        assert list(range(10)) == numbers(read(*archives, path))
        assert len(archives) > 1

    def test_at_interpreter_exit(self, tmp_path: Path, run_python: Any) -> None:
        """
        What is published at exit, when no thread can be started any more, is synced, too.
        """
        run_python(
            "import atexit\n"
            "from harken import Bus, Event\n"
            "from harken.sinks.audit import AuditLog\n"
            "class Ended(Event, name='late.ended', audit=True): pass\n"
            "bus = Bus()\n"
            "bus.attach(AuditLog('audit.jsonl', durability='group'))\n"
            "atexit.register(lambda: bus.publish(Ended()))\n"
        )

        records = read(tmp_path / "audit.jsonl")
        assert 1 == len(events(records))
        assert ("audit.close", "shutdown") == controls(records)[-1]

    def test_without_threads(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        Where the interpreter starts no thread any more, whoever waits syncs.
        """

        def start(thread: threading.Thread) -> None:
            raise RuntimeError("can't start new thread at interpreter shutdown")

        syncs: list[None] = []
        group = GroupSync(lambda: syncs.append(None))
        monkeypatch.setattr(threading.Thread, "start", start)
        group.wait()
        group.wait()
        group.stop(5)

        assert 2 == len(syncs)
