"""
Checkpoints of the audit log, and the keys that vouch for them.
"""

from __future__ import annotations

import errno
import fcntl
import gc
import gzip
import lzma
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any, Literal

import pytest

from harken import Bus, Envelope, Event
from harken.catalog import AuditCheckpoint, AuditOpened
from harken.errors import AuditKeyError, AuditPathError, SettingsError
from harken.record import (
    CHECKPOINT_EVERY,
    FIRST,
    GENESIS,
    check_line,
    evolved,
    key_id_of,
    parse,
    seal_message,
    seal_of,
)
from harken.sinks.audit import AuditLog, create_key, create_signing_key
from harken.sinks.audit._file import LogFile
from harken.sinks.audit._seal import Ratchet
from harken.testing import Captured, FixedClock, capture
from harken.trail import read_key, read_state, verify

COVERED = ("count", "head", "segment", "mono_ns")


class Rung(Event, name="audit_seals.rung", audit=True, action="ring"):
    """
    A bell was rung.
    """

    number: int = 0


def rung(*numbers: int) -> list[Envelope[Event]]:
    bus = Bus()
    with capture(bus) as heard:
        for number in numbers:
            bus.publish(Rung(number=number))
    return heard.envelopes


def read(*paths: Path) -> list[dict[str, Any]]:
    """
    Return the records of these files, oldest first, after checking each line and the chain.
    """
    after = FIRST
    records = []
    for path in paths:
        for line in path.read_bytes().splitlines(keepends=True):
            after = check_line(line, after)
            records.append(parse(line))
    return records


def read_apart(*paths: Path) -> list[dict[str, Any]]:
    """
    Return the records of these files without checking the chain.
    """
    return [parse(line) for path in paths for line in path.read_bytes().splitlines(keepends=True)]


def types(records: Sequence[dict[str, Any]]) -> list[str]:
    return [record["event_type"].removeprefix("audit.") for record in records]


def checkpoints(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """
    Return what the checkpoints say, after comparing each with the line that it covers.
    """
    heads = {0: GENESIS, **{record["seq"]: record["hash"] for record in records}}
    found = [record["metadata"] for record in records if record["event_type"] == "audit.checkpoint"]
    for checkpoint in found:
        assert heads[checkpoint["count"]] == checkpoint["head"]
    return found


def check_seals(found: Sequence[dict[str, Any]], first_key: str) -> list[int]:
    """
    Return the epochs of these checkpoints, after checking each seal with the first key.
    """
    keys = [bytes.fromhex(first_key)]
    for checkpoint in found:
        while len(keys) <= checkpoint["epoch"]:
            keys.append(evolved(keys[-1]))
        message = seal_message(
            epoch=checkpoint["epoch"], **{name: checkpoint[name] for name in COVERED}
        )
        assert seal_of(keys[checkpoint["epoch"]], message) == checkpoint["mac"]
        assert key_id_of(keys[0]) == checkpoint["key_id"]
    return [checkpoint["epoch"] for checkpoint in found]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log" / "audit.jsonl"


@pytest.fixture
def key(tmp_path: Path) -> Iterator[Path]:
    return tmp_path / "audit.key"


class TestCheckpoints:
    def test_every_thousand_lines(self, path: Path) -> None:
        """
        A checkpoint follows each line whose number is a multiple of 1,000, or the batch it is in.
        """
        log = AuditLog(path)
        log.write(rung(*range(1500)))
        log.write(rung(*range(400)))
        log.write(rung(*range(200)))
        log.close()

        found = checkpoints(read(path))
        assert 1000 == CHECKPOINT_EVERY
        assert [1501, 2102] == [checkpoint["count"] for checkpoint in found]

    def test_before_a_close(self, path: Path) -> None:
        """
        Whoever wrote records seals them before it ends; who wrote none has nothing to seal.
        """
        AuditLog(path).close()
        log = AuditLog(path)
        log.write(rung(1))
        log.close()

        assert [
            "open",
            "close",
            "open",
            "audit_seals.rung",
            "checkpoint",
            "close",
        ] == types(read(path))

    def test_none_follows_a_close(self, tmp_path: Path) -> None:
        """
        Whichever line of a writer has the number 1,000, its last one is its close.
        """
        records = rung(*range(CHECKPOINT_EVERY))
        for count in range(CHECKPOINT_EVERY - 5, CHECKPOINT_EVERY + 1):
            path = tmp_path / str(count) / "audit.jsonl"
            log = AuditLog(path)
            log.write(records[:count])
            log.close()

            assert "close" == types(read(path))[-1]
            assert "ok" == verify(path).completeness.verdict

    def test_before_a_new_file(self, path: Path) -> None:
        """
        A file that is archived ends with a checkpoint and its close, and says its number.
        """
        log = AuditLog(path, max_bytes=1)
        log.write(rung(1))
        log.write(rung(2))
        log.close()

        archives = [file for file in path.parent.iterdir() if file != path]
        for number, file in enumerate(sorted(archives, key=lambda file: file.name[-10:]), 1):
            records = [parse(line) for line in file.read_bytes().splitlines(keepends=True)]
            assert number == records[0]["metadata"]["segment"]
            assert ["checkpoint", "close"] == types(records)[-2:] or number == 1
        assert number == 3

    def test_after_a_while(self, path: Path) -> None:
        """
        What stands behind the last checkpoint is sealed after some seconds, by a thread.
        """
        log = AuditLog(path, checkpoint_seconds=0.01)
        log.write(rung(1))
        deadline = time.monotonic() + 20
        while "checkpoint" not in types(read(path)) and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.1)
        log.close()

        assert ["open", "audit_seals.rung", "checkpoint", "close"] == types(read(path))

    def test_idle(self, path: Path, key: Path) -> None:
        """
        A log with a key says every minute that it is still there, and one without does not.
        """
        first_key = create_key(key)
        clock = FixedClock()
        sealed = AuditLog(path, key_path=key, clock=clock.time_ns)
        plain = AuditLog(path.with_name("plain.jsonl"), clock=clock.time_ns)
        for log in (sealed, plain):
            log.write(rung(1))
            log.checkpoint()
            for _ in range(4):
                clock.advance(31)
                log.checkpoint()

        assert 3 == len(checkpoints(read(path)))
        assert [0, 1, 2] == check_seals(checkpoints(read(path)), first_key)
        assert 1 == len(checkpoints(read(path.with_name("plain.jsonl"))))
        sealed.close()
        plain.close()

    def test_are_published(self, path: Path, key: Path) -> None:
        """
        Every file and every checkpoint is told to the other sinks, and at the close of the bus
        the end of the log; so the head is carried away.
        """
        create_key(key)
        bus, heard = Bus(), Captured()
        bus.attach(AuditLog(path, key_path=key, max_bytes=3000))
        bus.attach(heard, AuditOpened, AuditCheckpoint)
        for number in range(6):
            bus.publish(Rung(number=number))
        bus.close()

        files = sorted(path.parent.iterdir(), key=lambda file: file.name.rpartition("-")[2])
        files = [*(file for file in files if file != path), path]
        records = read(*files)
        opened = [
            (record["metadata"]["segment"], record["seq"] - 1, record["prev"])
            for record in records
            if record["event_type"] == "audit.open"
        ]
        told = [
            (event.segment, event.resumed_from_seq or 0, event.prev_hash or GENESIS)
            for event in heard.of(AuditOpened)
        ]
        assert len(opened) > 1
        assert opened == told
        assert checkpoints(records) == [
            {name: getattr(event, name) for name in (*COVERED, "epoch", "key_id", "mac")}
            for event in heard.of(AuditCheckpoint)[:-1]
        ]
        end = heard.of(AuditCheckpoint)[-1]
        assert (records[-1]["seq"], records[-1]["hash"], None) == (end.count, end.head, end.mac)
        assert {None} == {
            envelope.run_id for envelope in heard.envelopes if envelope.event in heard.events
        }

    @pytest.mark.parametrize("delivery", ["inline", "worker"])
    @pytest.mark.parametrize("who", ["before", "after"])
    def test_end_is_published(
        self, path: Path, delivery: Literal["inline", "worker"], who: str
    ) -> None:
        """
        Whoever listens hears where a log ends, however it is attached, and nothing is dropped.
        """
        bus, heard = Bus(), Captured()
        if who == "before":
            bus.attach(heard, AuditCheckpoint, delivery=delivery, name="heard")
        bus.attach(AuditLog(path))
        if who == "after":
            bus.attach(heard, AuditCheckpoint, delivery=delivery, name="heard")
        bus.publish(Rung())
        bus.close()

        close = read(path)[-1]
        end = heard.of(AuditCheckpoint)[-1]
        assert "audit.close" == close["event_type"]
        assert (close["seq"], close["hash"]) == (end.count, end.head)
        assert 0 == bus.health()["heard"].dropped

    def test_end_that_is_none(self, path: Path) -> None:
        """
        What is recorded after a writer has said that it ends, is that of another writer, who says
        so again; and that is what others hear last.
        """
        bus, heard = Bus(), Captured()

        def answer(event: AuditCheckpoint) -> None:
            if len(heard.of(AuditCheckpoint)) == 2:
                bus.publish(Rung(number=2))

        bus.attach(heard, AuditCheckpoint)
        bus.attach(AuditLog(path))
        bus.subscribe(answer, AuditCheckpoint, delivery="inline")
        bus.publish(Rung(number=1))
        bus.close()

        records = read(path)
        end = heard.of(AuditCheckpoint)[-1]
        names = ["open", "audit_seals.rung", "checkpoint", "close"]
        assert [*names, *names] == types(records)
        assert (records[-1]["seq"], records[-1]["hash"]) == (end.count, end.head)
        assert [1, 2, 3, 4] * 2 == [record["n"] for record in records]
        assert "ok" == verify(path).completeness.verdict

    def test_belong_to_no_run(self, path: Path) -> None:
        """
        What the log says of itself is not a part of what the agent is doing just then.
        """
        import harken

        bus, heard = Bus(), Captured()
        bus.attach(AuditLog(path))
        bus.attach(heard, AuditOpened)
        with harken.scope(run_id="r-1"):
            bus.publish(Rung())
        bus.close()

        assert [None] == [envelope.run_id for envelope in heard.envelopes]

    def test_of_a_log_that_nobody_holds(self, path: Path) -> None:
        """
        The thread does not keep a log alive that its owner has let go.
        """
        before = set(threading.enumerate())
        log = AuditLog(path, checkpoint_seconds=0.01)
        log.write(rung(1))
        (thread,) = set(threading.enumerate()) - before
        del log
        gc.collect()
        thread.join(20)

        assert not thread.is_alive()

    def test_bad_interval(self, path: Path) -> None:
        """
        An interval that is none is refused.
        """
        with pytest.raises(SettingsError, match="checkpoint_seconds must be more than 0"):
            AuditLog(path, checkpoint_seconds=0)


class TestRatchet:
    def test_seals(self, path: Path, key: Path) -> None:
        """
        Each checkpoint is sealed with the key of its epoch, and the epochs have no gap.
        """
        first_key = create_key(key)
        for _ in range(3):
            log = AuditLog(path, key_path=key)
            log.write(rung(*range(1200)))
            log.write(rung(1))
            log.close()

        found = checkpoints(read(path))
        assert list(range(len(found))) == check_seals(found, first_key)
        assert len(found) >= 6

    def test_forgets_what_it_sealed_with(self, path: Path, key: Path) -> None:
        """
        The file of the key is for its owner alone, and holds no key of an epoch that was sealed.
        """
        first_key = create_key(key)
        fresh = key.read_text()
        log = AuditLog(path, key_path=key)
        log.write(rung(1))
        log.close()

        used = key.read_text()
        assert 0o600 == key.stat().st_mode & 0o777
        assert first_key in fresh
        assert first_key not in used
        assert evolved(bytes.fromhex(first_key)).hex() in used
        assert used.count('"key"') == 1

    def test_crash_between_seal_and_record(self, path: Path, key: Path) -> None:
        """
        A checkpoint that was sealed and not written is written by whoever comes next, as it was.
        """
        first_key = create_key(key)
        log = AuditLog(path, key_path=key)
        log.write(rung(1))
        lost = Ratchet(key).seal(
            {"count": 2, "head": log.head, "segment": 1, "mono_ns": time.monotonic_ns()}
        )
        log.write(rung(2))
        log.close()

        found = checkpoints(read(path))
        assert lost == found[0]
        assert [0, 1] == check_seals(found, first_key)

    def test_crash_between_record_and_note(self, path: Path, key: Path) -> None:
        """
        A checkpoint that was written, and not noted as written, stands there twice: the same.
        """
        first_key = create_key(key)
        log = AuditLog(path, key_path=key)
        log.write(rung(1))
        before = key.read_bytes()
        log.checkpoint()
        after = key.read_bytes()
        # What the file held after the seal, and before the note.
        key.write_bytes(before)
        Ratchet(key).seal({name: checkpoints(read(path))[0][name] for name in COVERED})
        assert after != key.read_bytes()
        log.write(rung(2))
        log.close()

        found = checkpoints(read(path))
        assert found[0] == found[1]
        assert [0, 0, 1] == check_seals(found, first_key)

    def test_two_that_change_it_at_once(self, path: Path, key: Path) -> None:
        """
        Writers of two files, while the log is moved, change the key one after the other.
        """
        first_key = create_key(key)
        ratchets = [Ratchet(key) for _ in range(4)]

        def change(ratchet: Ratchet) -> None:
            for _ in range(20):
                with ratchet.locked(60):
                    ratchet.seal({"count": 1, "head": GENESIS, "segment": 1, "mono_ns": 0})
                    ratchet.written(1, GENESIS)

        threads = [threading.Thread(target=change, args=[ratchet]) for ratchet in ratchets]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        state, expected = ratchets[0].state(), bytes.fromhex(first_key)
        for _ in range(80):
            expected = evolved(expected)
        assert (80, expected.hex()) == (state.epoch, state.key)

    def test_fork_in_the_middle_of_a_change(self, key: Path) -> None:
        """
        A child that is forked while its parent changes the key can change it later.
        """
        create_key(key)
        ratchet = Ratchet(key)
        with ratchet.locked():
            pid = os.fork()
            if not pid:
                ratchet.abandon()
                try:
                    with ratchet.locked(0):
                        os._exit(1)
                except TimeoutError:
                    os._exit(0)
            code = os.waitpid(pid, 0)[1]
        with ratchet.locked(0):
            pass

        assert 0 == code

    def test_torn_change(self, path: Path, key: Path) -> None:
        """
        A change of the file that was cut short by a loss of power leaves the key of before.
        """
        first_key = create_key(key)
        content = bytearray(key.read_bytes())
        half = len(content) // 2
        content[half : half + 100] = b"x" * 100
        key.write_bytes(content)
        log = AuditLog(path, key_path=key)
        log.write(rung(1))
        log.close()

        assert [0] == check_seals(checkpoints(read(path)), first_key)

    def test_several_processes(
        self, path: Path, key: Path, run_python: Callable[..., CompletedProcess[str]]
    ) -> None:
        """
        Processes that share a log share its key: every epoch has exactly one checkpoint.
        """
        first_key = create_key(key)
        run_python(
            """
import os, sys
from harken import Bus, Event
from harken.sinks.audit import AuditLog

class Rung(Event, name="audit_seals.rung", audit=True, action="ring"):
    number: int = 0

bus = Bus()
bus.attach(AuditLog(sys.argv[1], key_path=sys.argv[2], checkpoint_seconds=0.005, max_bytes=200_000))
bus.publish(Rung())
children = []
for _ in range(3):
    pid = os.fork()
    if pid == 0:
        break
    children.append(pid)
for number in range(700):
    bus.publish(Rung(number=number))
for pid in children:
    os.waitpid(pid, 0)
bus.close()
""",
            str(path),
            str(key),
        )

        archives = [file for file in path.parent.iterdir() if file != path]
        records = read(*sorted(archives, key=lambda file: file.name[-10:]), path)
        found = checkpoints(records)
        assert 2801 == types(records).count("audit_seals.rung")
        assert list(range(len(found))) == check_seals(found, first_key)
        assert len(found) > 4

    def test_no_room_for_a_checkpoint(
        self, path: Path, key: Path, run_python: Callable[..., CompletedProcess[str]]
    ) -> None:
        """
        A log that cannot be sealed any more goes on, says so once, and the seals go on later.
        """
        first_key = create_key(key)
        done = run_python(
            """
import os, sys
from harken import Bus, Event
from harken.sinks.audit import AuditLog

class Rung(Event, name="audit_seals.rung", audit=True, action="ring"):
    number: int = 0

bus = Bus()
log = AuditLog(sys.argv[1], key_path=sys.argv[2])
bus.attach(log)
bus.publish(Rung(number=1))
os.rename(sys.argv[2], sys.argv[2] + ".away")
log.checkpoint()
log.checkpoint()
bus.publish(Rung(number=2))
os.rename(sys.argv[2] + ".away", sys.argv[2])
bus.close()
""",
            str(path),
            str(key),
        )

        records = read(path)
        assert 1 == done.stderr.count("goes on without a checkpoint")
        assert [0] == check_seals(checkpoints(records), first_key)
        assert 2 == types(records).count("audit_seals.rung")


class TestHonestHistories:
    """
    What happened to a file stands before the checkpoint that follows it, so that nobody is accused.
    """

    @pytest.mark.parametrize("last", ["checkpoint", "close"])
    @pytest.mark.parametrize(("event", "code"), [("truncated", 3), ("deleted", 3), ("foreign", 0)])
    def test_is_explained_first(
        self, path: Path, key: Path, event: str, code: int, last: str
    ) -> None:
        """
        A file that was truncated, deleted or written to by others is no case of tampering.
        """
        first_key = key.with_name("first.key")
        first_key.write_text(create_key(key))
        log = AuditLog(path, key_path=key)
        log.write(rung(1, 2))
        if event == "truncated":
            os.truncate(path, 0)
        elif event == "deleted":
            path.unlink()
        else:
            with path.open("a") as file:
                file.write("hello from another program\n")
        if last == "checkpoint":
            log.checkpoint()
            log.write(rung(3))
        log.close()

        report = verify(path, keys=[read_key(first_key)], states=[read_state(key)])

        assert code == report.exit_code, report.findings

    def test_key_that_somebody_holds(
        self, path: Path, key: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """
        A lock on the key's file, of a backup or of a stopped process, holds nobody up: the log goes
        on without seals, says so, and has them again later.
        """
        first_key = create_key(key)
        with key.open("rb") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            log = AuditLog(path, key_path=key)
            log.write(rung(*range(1500)))
            before, sealed = key.read_bytes(), checkpoints(read(path))
        log.write(rung(1500))
        log.close()

        records = read(path)
        assert [] == sealed
        assert first_key in before.decode()
        assert [0] == check_seals(checkpoints(records), first_key)
        assert 1501 == types(records).count("audit_seals.rung")
        assert 1 == capsys.readouterr().err.count("goes on without a checkpoint")

    def test_other_sink_that_fails_on_it(
        self, path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """
        A required sink that raises on what the log publishes ends no checkpoints, and puts
        nothing on stderr.
        """

        class Picky:
            delivery = "inline"

            def write(self, batch: Sequence[Envelope[Event]], /) -> None:
                if isinstance(batch[0].event, AuditCheckpoint):
                    raise RuntimeError("login failed: ghp_" + "a1B2" * 9)

        bus = Bus()
        log = AuditLog(path)
        bus.attach(log)
        bus.attach(Picky(), required=True)
        for number in range(3):
            bus.publish(Rung(number=number))
            log.checkpoint()

        assert 3 == len(checkpoints(read(path)))
        assert "ghp_" not in capsys.readouterr().err
        bus.close()

    def test_interrupted_merge(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        What was spilled is never put into the log twice, whatever interrupts that.
        """
        log = AuditLog(path, lock_wait=0.02)
        log.write(rung(0))
        with path.open("rb") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            log.write(rung(1, 2))
        append = LogFile.append

        def interrupted(self: LogFile, *args: Any, **options: Any) -> Any:
            result = append(self, *args, **options)
            if options.get("whole"):
                raise KeyboardInterrupt
            return result

        with monkeypatch.context() as patch:
            patch.setattr(LogFile, "append", interrupted)
            with pytest.raises(KeyboardInterrupt):
                log.write(rung(3))
        log.write(rung(4))
        log.close()

        numbers = [
            record["metadata"]["number"]
            for record in read(path)
            if record["event_type"] == "audit_seals.rung"
        ]
        assert [0, 1, 2, 4] == numbers

    def test_neighbour(self, path: Path) -> None:
        """
        A log whose name begins like this one's is not continued.
        """
        other = AuditLog(path.with_name("audit.jsonl-2"))
        other.write(rung(1))
        log = AuditLog(path)
        log.close()
        other.close()

        assert GENESIS == read(path)[0]["prev"]

    @pytest.mark.parametrize(
        "line",
        [
            '{"timestamp":"2026-11-21T00:00:00.000000Z","level":"info","event":"other"}\n',
            '{"timestamp":"2026-11-21","level":1}\n',
            '{"timestamp":"x"}\n',
            '{"timestamp":"2026-11-21T00:00:00Z"}\n',
        ],
    )
    def test_log_of_another_kind(self, path: Path, line: str) -> None:
        """
        JSON lines that begin alike are somebody else's, however few, and are left alone.
        """
        path.parent.mkdir()
        path.write_text(line)
        path.chmod(0o644)
        with pytest.raises(AuditPathError, match="something else than an audit log"):
            AuditLog(path)

        assert line == path.read_text()
        assert 0o644 == path.stat().st_mode & 0o777

    @pytest.mark.parametrize("size", [1, 14, 20, 40, 45, 60])
    def test_crash_in_the_first_line(self, path: Path, size: int) -> None:
        """
        Of the first line of a log there may be any part; that is cut off, and said.
        """
        AuditLog(path).close()
        line = path.read_bytes()[:size]
        path.write_bytes(line)
        AuditLog(path).close()

        first = read(path)[0]
        assert ("audit.recover", size) == (first["event_type"], first["metadata"]["bytes"])


class TestLogOutOfSight:
    """
    The file of the key knows where the log ended, when the log itself is not there to say it.
    """

    @pytest.fixture
    def first(self, key: Path) -> Path:
        first = key.with_name("first.key")
        first.write_text(create_key(key))
        return first

    def write(self, path: Path, key: Path, *numbers: int, close: bool = True) -> None:
        log = AuditLog(path, key_path=key, checkpoint_seconds=1000)
        log.write(rung(1, 2, 3))
        log.checkpoint()
        log.write(rung(*numbers))
        if close:
            log.close()

    def judged(self, path: Path, key: Path, first: Path) -> tuple[int, list[str]]:
        report = verify(path, keys=[read_key(first)], states=[read_state(key)])
        return report.exit_code, [finding.kind for finding in report.findings]

    def test_moved_away(self, path: Path, key: Path, first: Path) -> None:
        """
        A log that was moved away while nobody wrote is continued where it ended, and both parts
        are one log when they are together again.
        """
        self.write(path, key, 4)
        elsewhere = path.rename(key.with_name("moved.jsonl"))
        self.write(path, key, 4)

        beginning = read_apart(path)[0]
        alone = self.judged(path, key, first)
        elsewhere.rename(f"{path}.1")
        assert (9, "deleted") == (beginning["seq"], beginning["metadata"]["reason"])
        assert (3, ["epoch", "older"]) == alone
        assert (0, []) == self.judged(path, key, first)

    def test_moved_away_before_a_close(self, path: Path, key: Path, first: Path) -> None:
        """
        A writer whose file is gone when it ends begins another, and its last line is its close.
        """
        log = AuditLog(path, key_path=key, checkpoint_seconds=1000)
        log.write(rung(1, 2, 3))
        log.checkpoint()
        path.rename(f"{path}.1")
        log.close()

        assert ["open", "checkpoint", "close"] == types(read_apart(path))
        assert (0, []) == self.judged(path, key, first)

    def test_destroyed_before_another_writer_saw_it(
        self, path: Path, key: Path, first: Path
    ) -> None:
        """
        A writer that has never seen the file that others wrote does not use its numbers again,
        and seals at once what says that it is gone.
        """
        slow = AuditLog(path, key_path=key)
        slow.write(rung(1))
        quick = AuditLog(path, key_path=key, max_bytes=1)
        quick.write(rung(2))
        quick.checkpoint()
        sealed = read_apart(path)[-1]["seq"]
        path.unlink()
        path.touch(0o600)
        slow.write(rung(3))

        opening, *_, checkpoint = read_apart(path)
        assert sealed + 1001 == opening["seq"]
        assert "deleted" == opening["metadata"]["reason"]
        assert "audit.checkpoint" == checkpoint["event_type"]
        code, kinds = self.judged(path, key, first)
        assert (3, {"missing", "epoch", "no_end"}) == (code, set(kinds))
        slow.close()
        quick.close()

    @pytest.mark.parametrize(("closed", "last_seq"), [(True, 9), (False, 8 + CHECKPOINT_EVERY)])
    def test_emptied_before_another_writer_saw_it(
        self, path: Path, key: Path, first: Path, closed: bool, last_seq: int
    ) -> None:
        """
        A writer that finds the file empty tells of all that the key knows, and not only of what
        it saw itself; with the copy that was made before, at most numbers are missing.
        """
        slow, quick = (AuditLog(path, key_path=key) for _ in range(2))
        slow.write(rung(1))
        path.rename(f"{path}.1")
        slow.write(rung(2))
        quick.write(rung(3))
        quick.checkpoint()
        if closed:
            quick.close()
        copy = path.read_bytes()
        os.truncate(path, 0)
        slow.write(rung(4))
        quick.close()
        slow.close()

        recovered = read_apart(path)[0]
        alone = self.judged(path, key, first)
        Path(f"{path}.2").write_bytes(copy)
        assert last_seq + 1 == recovered["seq"]
        assert ("shrunk", last_seq) == (
            recovered["metadata"]["reason"],
            recovered["metadata"]["seq"],
        )
        assert (3, ["epoch", "missing"]) == alone
        assert (0, [] if closed else ["skipped"]) == self.judged(path, key, first)

    @pytest.mark.parametrize("is_copied", [True, False])
    def test_emptied_while_it_is_written(
        self,
        path: Path,
        key: Path,
        first: Path,
        is_copied: bool,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """
        A file that is emptied after a writer looked, and before it writes, begins with an ordinary
        record; which lines are gone is recorded behind that.
        """
        log = AuditLog(path, key_path=key, checkpoint_seconds=1000)
        log.write(rung(1))
        path.rename(f"{path}.1")
        log.write(rung(2))
        write = os.write

        def empty_first(fd: int, data: bytes) -> int:
            monkeypatch.undo()
            if is_copied:
                Path(f"{path}.2").write_bytes(path.read_bytes())
            os.truncate(path, 0)
            return write(fd, data)

        monkeypatch.setattr(os, "write", empty_first)
        log.write(rung(3))
        log.write(rung(4))
        log.close()

        assert ["audit_seals.rung", "recover"] == types(read_apart(path))[:2]
        expected = (0, []) if is_copied else (3, ["epoch", "missing"])
        assert expected == self.judged(path, key, first)

    @pytest.mark.parametrize(("numbers", "kind"), [((), "skipped"), ((4, 5), "missing")])
    def test_moved_away_after_a_crash(
        self, path: Path, key: Path, first: Path, numbers: Sequence[int], kind: str
    ) -> None:
        """
        How many lines were behind the last seal is not known, so that numbers are left out.
        """
        self.write(path, key, *numbers, close=False)
        elsewhere = path.rename(key.with_name("moved.jsonl"))
        self.write(path, key)
        elsewhere.rename(f"{path}.1")

        code, kinds = self.judged(path, key, first)
        assert 1006 == read_apart(path)[0]["seq"]
        assert (3 if numbers else 0, [kind]) == (code, kinds)

    @pytest.mark.parametrize("together", [False, True])
    def test_cut_off_before_the_first_seal(
        self, path: Path, key: Path, first: Path, together: bool
    ) -> None:
        """
        A writer that was killed before its first seal is missed all the same, whether it came
        after the last one had left or while that was there.
        """
        killed = AuditLog(path, key_path=key)
        if together:
            killed.write(rung(9))
        self.write(path, key)
        left = path.read_bytes()
        assert 0 == self.judged(path, key, first)[0]
        killed.write(rung(4))
        path.write_bytes(left)

        assert (3, ["end"]) == self.judged(path, key, first)

    def test_older_copy(self, path: Path, key: Path, first: Path) -> None:
        """
        An older copy that was put in the place of the log is recorded by the next writer.
        """
        self.write(path, key)
        copy = path.read_bytes()
        self.write(path, key)
        path.write_bytes(copy)
        self.write(path, key)

        recovered = [r for r in read(path) if r["event_type"] == "audit.recover"]
        assert [("shrunk", 12)] == [
            (r["metadata"]["reason"], r["metadata"]["seq"]) for r in recovered
        ]
        assert (3, ["epoch", "cut"]) == self.judged(path, key, first)

    def test_folder_further_up_is_moved(self, path: Path, key: Path, first: Path) -> None:
        """
        A writer that does not know yet that the log was moved seals in the file that another has
        begun, and not in the one that is gone.
        """
        above = path.parents[1] / "above"
        path = above / "log" / "audit.jsonl"
        early = AuditLog(path, key_path=key)
        early.write(rung(1))
        time.sleep(0.03)
        early.write(rung(2))
        above.rename(above.with_name("elsewhere"))
        late = AuditLog(path, key_path=key)
        late.write(rung(3))
        early.write(rung(4))
        early.checkpoint()
        late.write(rung(5))
        late.checkpoint()
        early.close()
        late.close()

        code, kinds = self.judged(path, key, first)
        gone = above.with_name("elsewhere") / "log" / "audit.jsonl"
        assert "checkpoint" not in types(read(gone))
        assert (3, {"cut"}) == (code, set(kinds))

    def test_sealed_while_a_copy_takes_its_place(
        self, path: Path, key: Path, first: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """
        A seal that went down with a file is said to be lost before the next one, also when others
        have written as many lines meanwhile into the copy that somebody put in its place.
        """
        late, early = (AuditLog(path, key_path=key) for _ in range(2))
        early.write(rung(1))
        early.checkpoint()
        late.write(rung(2))
        write = os.pwrite

        def put_a_copy(fd: int, data: bytes, place: int) -> int:
            monkeypatch.setattr(os, "pwrite", write)
            copy = path.with_name("copy")
            copy.write_bytes(path.read_bytes())
            copy.replace(path)
            return write(fd, data, place)

        monkeypatch.setattr(os, "pwrite", put_a_copy)
        early.checkpoint()
        late.write(rung(*range(3, 23)))
        late.checkpoint()
        early.write(rung(23))
        late.close()
        early.close()

        records = read(path)
        epochs = [checkpoint["epoch"] for checkpoint in checkpoints(records)]
        recovered = [r["metadata"] for r in records if r["event_type"] == "audit.recover"]
        code, kinds = self.judged(path, key, first)
        assert [0, *range(2, len(epochs) + 1)] == epochs
        assert ["shrunk"] == [found["reason"] for found in recovered]
        assert (3, {"cut", "epoch"}) == (code, set(kinds))

    @pytest.mark.parametrize("noted", [True, False])
    def test_sealed_in_another_file(self, path: Path, key: Path, first: Path, noted: bool) -> None:
        """
        What was sealed in a file that is gone, after this one was begun, is said before the next
        seal; a seal that did not get there either, is not put here.
        """
        log = AuditLog(path, key_path=key)
        log.write(rung(1))
        elsewhere = Ratchet(key)
        elsewhere.seal({"count": 9, "head": "9" * 64, "segment": 1, "mono_ns": 0})
        if noted:
            elsewhere.written(10, "a" * 64)
        log.checkpoint()
        log.write(rung(*range(20)))
        log.close()

        recovered = [r["metadata"] for r in read(path) if r["event_type"] == "audit.recover"]
        assert [("shrunk", 10 if noted else 9)] == [(r["reason"], r["seq"]) for r in recovered]
        assert (3, ["epoch", "cut"]) == self.judged(path, key, first)

    def test_key_that_cannot_be_written(
        self, path: Path, key: Path, first: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """
        A log whose end cannot be noted beside its key says so, and is closed all the same.
        """
        log = AuditLog(path, key_path=key)
        log.write(rung(1))
        log.checkpoint()
        key.unlink()
        log.close()

        assert "the end of" in capsys.readouterr().err
        assert "close" == types(read(path))[-1]

    def test_compressed(self, path: Path) -> None:
        """
        A log whose newest file was compressed meanwhile is continued, whatever that was done with.
        """
        forms = {".gz": gzip.compress, ".xz": lzma.compress}
        for number, (suffix, compress) in enumerate(forms.items(), 1):
            log = AuditLog(path)
            log.write(rung(number))
            log.close()
            past = Path(f"{path}.{number}{suffix}")
            past.write_bytes(compress(path.read_bytes()))
            path.unlink()
        AuditLog(path).close()

        opening = read_apart(path)[0]
        assert (9, "audit.jsonl.2.xz", 3) == (
            opening["seq"],
            opening["metadata"]["prev_file"],
            opening["metadata"]["segment"],
        )

    def test_compressed_with_zstd(self, path: Path) -> None:
        """
        So is one that was compressed with zstd.
        """
        zstandard = pytest.importorskip("zstandard", reason="needs harken[zstd]")
        log = AuditLog(path)
        log.write(rung(1))
        log.close()
        Path(f"{path}.1.zst").write_bytes(zstandard.compress(path.read_bytes()))
        path.unlink()
        AuditLog(path).close()

        assert 5 == read_apart(path)[0]["seq"]

    @pytest.mark.parametrize("suffix", [".gz", ".xz", ".zst"])
    @pytest.mark.parametrize(
        "content", [b"", b"no such thing", gzip.compress(b"other lines\n", mtime=0)]
    )
    def test_compressed_and_unreadable(self, path: Path, content: bytes, suffix: str) -> None:
        """
        A compressed file that is damaged, or of something else, is left alone.
        """
        path.parent.mkdir(parents=True)
        Path(f"{path}.1{suffix}").write_bytes(content)
        AuditLog(path).close()

        assert 1 == read(path)[0]["seq"]

    def test_newer_format(self, path: Path) -> None:
        """
        A log that a newer harken has written is not continued in an older format.
        """
        log = AuditLog(path)
        log.write(rung(1))
        with path.open("ab") as file:
            file.write(path.read_bytes().splitlines()[0].replace(b'"v":1,', b'"v":2,') + b"\n")
        before = path.read_bytes()

        with pytest.raises(AuditPathError, match="in format 2, and this one knows 1; upgrade"):
            AuditLog(path)
        log.write(rung(2))

        assert before == path.read_bytes()
        assert 1 == log.spilled


class TestDrops:
    def test_are_numbered(self, path: Path) -> None:
        """
        What the queue of an ``async`` log has no room for has its numbers, and the log says so.
        """
        bus = Bus()
        log = AuditLog(path, durability="async")
        bus.attach(log, capacity=10)
        for number in range(1000):
            bus.publish(Rung(number=number))
        bus.close()

        told = [r for r in read(path) if r["event_type"] == "audit.lost"]
        written = types(read(path)).count("audit_seals.rung")
        assert log.lost > 0
        assert 1000 == written + log.lost
        assert log.lost == sum(r["metadata"]["count"] for r in told)
        assert {"queue_full"} == {r["metadata"]["reason"] for r in told}
        assert f"{log.lost:,} records lost" == verify(path).completeness.message

    def test_of_what_is_not_audited(self, path: Path) -> None:
        """
        An event that would have no record is no loss.
        """
        log = AuditLog(path, durability="async")
        bus = Bus()
        with capture(bus) as heard:
            bus.publish(Rung(number=1), audit=False)
        log.dropped(heard.envelopes)
        log.close()

        assert 0 == log.lost


class TestOutage:
    def test_that_is_long(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        The more is spilled, the less often it is tried to write all of it.
        """
        log = AuditLog(path, lock_wait=0.05)
        with open(path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            log.write(rung(*range(300)))
            attempts: list[int] = []
            append = LogFile.append

            def counted(self: LogFile, drafts: Sequence[Any], *args: Any, **options: Any) -> Any:
                attempts.append(len(drafts))
                return append(self, drafts, *args, **options)

            with monkeypatch.context() as patched:
                patched.setattr(LogFile, "append", counted)
                for number in range(300, 400):
                    log.write(rung(number))
        log.checkpoint()
        log.close()

        assert 0 == log.spilled
        assert list(range(400)) == [
            r["metadata"]["number"] for r in read(path) if r["event_type"] == "audit_seals.rung"
        ]
        assert 0 < len(attempts) < 100

    def test_that_ends_while_nothing_happens(self, path: Path) -> None:
        """
        What was spilled is put into the log with the next checkpoint, without any other record.
        """
        log = AuditLog(path, lock_wait=0.05, checkpoint_seconds=0.2)
        log.write(rung(1))
        with open(path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            log.write(rung(2))
        for _ in range(100):
            if not log.spilled:
                break
            time.sleep(0.05)
        log.close()

        assert ["rung", "rung"] == [
            name.rpartition(".")[2] for name in types(read(path)) if name.endswith("rung")
        ]
        assert "lost" in types(read(path))

    def test_spill_file_that_stays(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        Where the spill file cannot be removed, a second outage goes on behind the first.
        """

        def refuse(_: object) -> None:
            raise PermissionError(errno.EPERM, "Operation not permitted")

        monkeypatch.setattr("harken.sinks.audit._spill.os.unlink", refuse)
        log = AuditLog(path, lock_wait=0.05)
        for number in range(2):
            with open(path, "rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                log.write(rung(number))
            log.flush()
        log.close()

        report = verify(path)
        assert ("ok", "nothing is missing") == (
            report.completeness.verdict,
            report.completeness.message,
        )

    def test_spill_file_taken_away(self, path: Path) -> None:
        """
        A spill file that somebody took away is begun anew.
        """
        log = AuditLog(path, lock_wait=0.05)
        with open(path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            log.write(rung(1))
            (spill,) = path.parent.glob("*.spill-*")
            spill.unlink()
            log.write(rung(2))
            first = read(spill)[0]
        log.close()

        assert 1 == first["seq"]


class TestKeys:
    def test_is_never_replaced(self, key: Path) -> None:
        """
        An existing file is left alone.
        """
        key.write_text("mine")
        with pytest.raises(AuditKeyError, match="a key is never replaced"):
            create_key(key)

        assert "mine" == key.read_text()

    def test_missing_folder(self, tmp_path: Path) -> None:
        """
        A folder that is not there is named.
        """
        with pytest.raises(AuditKeyError, match="No such file or directory; choose another path"):
            create_key(tmp_path / "none" / "key")

    @pytest.mark.parametrize(
        ("content", "mode", "message"),
        [
            (None, 0o600, "No such file or directory; make one with `harken keygen`"),
            (b"not a key\n", 0o600, "holds no key; make one with `harken keygen`"),
            (b"", 0o600, "holds no key"),
            (b"x", 0o640, "can be read by others than its owner; run chmod 600"),
        ],
    )
    def test_unusable(
        self, path: Path, key: Path, content: bytes | None, mode: int, message: str
    ) -> None:
        """
        A file that is no key, or that others can read, is refused before the log is opened.
        """
        if content is not None:
            key.write_bytes(content)
            key.chmod(mode)
        with pytest.raises(AuditKeyError, match=message) as caught:
            AuditLog(path, key_path=key)

        assert str(key) == caught.value.path
        assert not path.exists()

    def test_fifo(self, path: Path, tmp_path: Path) -> None:
        """
        What is no regular file is refused, and not waited for.
        """
        fifo = tmp_path / "fifo"
        os.mkfifo(fifo, 0o600)
        with pytest.raises(AuditKeyError, match="is not a regular file"):
            AuditLog(path, key_path=fifo)

    def test_disk_that_is_full(self, tmp_path: Path, run_python: Callable[..., Any]) -> None:
        """
        A key that cannot be written as a whole is no key.
        """
        done = run_python(
            """
import resource, signal, sys
from harken.errors import AuditKeyError
from harken.sinks.audit import create_key
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
try:
    create_key(sys.argv[1])
except AuditKeyError as error:
    print(error)
""",
            str(tmp_path / "key"),
        )

        assert "cannot be made" in done.stdout
        assert not (tmp_path / "key").exists()


class TestArchives:
    @pytest.fixture
    def zstandard(self) -> Any:
        return pytest.importorskip("zstandard", reason="needs harken[zstd]")

    def test_are_compressed(self, path: Path, zstandard: Any) -> None:
        """
        All archives but the newest are compressed, for the owner alone, and hold what they held.
        """
        log = AuditLog(path, max_bytes=1, compress="zstd")
        for number in range(3):
            log.write(rung(number))
        before = {file.name: file.read_bytes() for file in path.parent.iterdir() if file != path}
        log.checkpoint()
        log.checkpoint()
        log.close()

        *older, newest = sorted(before, key=lambda name: name[-10:])
        found = {file.name for file in path.parent.iterdir()}
        assert {*(f"{name}.zst" for name in older), newest} < found
        assert not found & set(older)
        for name in older:
            file = path.with_name(f"{name}.zst")
            with zstandard.open(file, "rb") as stream:
                assert before[name] == stream.read()
            assert 0o600 == file.stat().st_mode & 0o777

    def test_interrupted(self, path: Path, zstandard: Any) -> None:
        """
        What a crash left half compressed, or compressed and not yet removed, is done again.
        """
        log = AuditLog(path, max_bytes=1, compress="zstd")
        for number in range(3):
            log.write(rung(number))
        names = sorted((f.name for f in path.parent.iterdir() if f != path), key=lambda n: n[-10:])
        path.with_name(f"{names[0]}.zst.new").write_bytes(b"half")
        path.with_name(f"{names[1]}.zst").write_bytes(b"whole")
        log.checkpoint()
        log.close()

        found = {file.name for file in path.parent.iterdir()}
        assert {f"{names[0]}.zst", f"{names[1]}.zst"} < found
        assert not any(name.endswith(".new") for name in found)
        with zstandard.open(path.with_name(f"{names[1]}.zst"), "rb") as stream:
            assert b'"audit.open"' in stream.read()

    def test_somebody_else_at_it(self, path: Path, zstandard: Any) -> None:
        """
        An archive that another process is compressing is left to it.
        """
        log = AuditLog(path, max_bytes=1, compress="zstd")
        for number in range(3):
            log.write(rung(number))
        oldest = min((f for f in path.parent.iterdir() if f != path), key=lambda f: f.name[-10:])
        with open(oldest, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            log.checkpoint()
            untouched = oldest.exists()
        log.close()

        assert untouched

    def test_no_room(
        self, path: Path, zstandard: Any, run_python: Callable[..., CompletedProcess[str]]
    ) -> None:
        """
        Where there is no room for the compressed form, the archives stay as they are, and stderr
        says so once.
        """
        done = run_python(
            """
import os, resource, signal, sys
from harken import Bus, Event
from harken.sinks.audit import AuditLog

class Rung(Event, name="audit_seals.rung", audit=True, action="ring"):
    text: str = ""

bus = Bus()
log = AuditLog(sys.argv[1], max_bytes=1, compress="zstd")
bus.attach(log)
for _ in range(3):
    bus.publish(Rung(text=os.urandom(3000).hex()))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
log.checkpoint()
log.checkpoint()
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
bus.close()
""",
            str(path),
        )

        assert 1 == done.stderr.count("stay as they are")
        assert not list(path.parent.glob("*.zst"))

    def test_without_the_library(
        self, tmp_path: Path, run_python: Callable[..., CompletedProcess[str]]
    ) -> None:
        """
        Without the extra, the log is not opened, and the error names it.
        """
        done = run_python(
            """
import sys
sys.modules["zstandard"] = None
from harken.errors import SettingsError
from harken.sinks.audit import AuditLog
try:
    AuditLog("audit.jsonl", compress="zstd")
except SettingsError as error:
    print(error)
"""
        )

        assert "install harken[zstd]" in done.stdout
        assert not (tmp_path / "audit.jsonl").exists()

    def test_unknown_form(self, path: Path) -> None:
        """
        A form that nobody knows is refused.
        """
        with pytest.raises(SettingsError, match="compress is one of zstd; not 'gzip'"):
            AuditLog(path, compress="gzip")  # type: ignore[arg-type]


LOGROTATE = Path(__file__).parents[2] / "docs" / "logrotate.conf"


@pytest.mark.parametrize("option", ["", "copytruncate"])
def test_logrotate(path: Path, require_server: Callable[[str], str], option: str) -> None:
    """
    With the configuration that is shipped, logrotate moves the file, and the chain goes on. With
    copytruncate it does, too, and what was cut is recorded.
    """
    command = require_server("logrotate")
    log = AuditLog(path)
    config = path.with_name("logrotate.conf")
    text = LOGROTATE.read_text().replace("/var/lib/agent/audit.jsonl", str(path))
    config.write_text(text.replace("nocreate", option or "nocreate"))
    for number in range(3):
        log.write(rung(number))
        subprocess.run(
            [command, "--force", "--state", str(path.with_name("state")), str(config)], check=True
        )
    log.write(rung(3))
    log.close()

    files = sorted(path.parent.glob("audit.jsonl.[0-9]*"), reverse=True)
    records = read(*files, path) if not option else read_apart(*files, path)
    assert [0, 1, 2, 3] == [
        record["metadata"]["number"]
        for record in records
        if record["event_type"] == "audit_seals.rung"
    ]
    assert (3 if option else 0) == types(records).count("recover")


class TestSigning:
    @pytest.fixture(autouse=True)
    def library(self) -> None:
        pytest.importorskip("cryptography", reason="needs harken[sign]")

    @pytest.mark.parametrize("with_ratchet", [False, True])
    def test_signatures(self, path: Path, key: Path, with_ratchet: bool) -> None:
        """
        Whoever has the public key can check each checkpoint.
        """
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
        from cryptography.hazmat.primitives.serialization import load_pem_public_key

        signing = key.with_name("signing.pem")
        public = load_pem_public_key(create_signing_key(signing).encode())
        assert isinstance(public, Ed25519PublicKey)
        if with_ratchet:
            create_key(key)
        log = AuditLog(path, key_path=key if with_ratchet else None, signing_key_path=signing)
        log.write(rung(*range(1200)))
        log.write(rung(1))
        log.close()

        found = checkpoints(read(path))
        assert 2 == len(found)
        for checkpoint in found:
            message = seal_message(
                epoch=checkpoint.get("epoch"), **{name: checkpoint[name] for name in COVERED}
            )
            public.verify(bytes.fromhex(checkpoint["signature"]), message)
            assert key_id_of(public.public_bytes_raw()) == checkpoint["signing_key_id"]
            assert with_ratchet == ("mac" in checkpoint)

    def test_fifo(self, path: Path, key: Path) -> None:
        """
        What is no regular file is refused, and not waited for.
        """
        os.mkfifo(key, 0o600)
        with pytest.raises(AuditKeyError, match="is not a regular file"):
            AuditLog(path, signing_key_path=key)

    def test_private_file(self, key: Path) -> None:
        """
        The private key is for its owner alone.
        """
        create_signing_key(key)

        assert 0o600 == key.stat().st_mode & 0o777

    def test_unusable(self, path: Path, key: Path) -> None:
        """
        What is no Ed25519 key in a readable PEM file is refused, and the message says why.
        """
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

        with pytest.raises(AuditKeyError, match="cannot be read: No such file or directory"):
            AuditLog(path, signing_key_path=key)
        key.touch(0o600)
        with pytest.raises(AuditKeyError, match="is no PEM file without password"):
            AuditLog(path, signing_key_path=key)
        key.write_bytes(
            X25519PrivateKey.generate().private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        with pytest.raises(AuditKeyError, match="is not an Ed25519 key"):
            AuditLog(path, signing_key_path=key)


def test_signing_without_the_library(
    tmp_path: Path, run_python: Callable[..., CompletedProcess[str]]
) -> None:
    """
    Without the extra, both halves of signing say what to install.
    """
    done = run_python(
        """
import sys
sys.modules["cryptography.hazmat.primitives"] = None
from harken.errors import AuditKeyError
from harken.sinks.audit import AuditLog, create_signing_key
for call in (lambda: create_signing_key("k"), lambda: AuditLog("a.jsonl", signing_key_path="k")):
    try:
        call()
    except AuditKeyError as error:
        print(error)
"""
    )

    assert 2 == done.stdout.count("needs the package cryptography; install harken[sign]")
