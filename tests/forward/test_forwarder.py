"""
What a forwarder does, whatever it forwards to; no server is needed.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from tests.forward.conftest import Log
from tests.servers import wait_for

import harken
from harken import Bus, Outcome
from harken.catalog import ErrorRaised, ToolCompleted, ToolStarted
from harken.errors import EventDataError, UnknownEventError
from harken.forward import (
    BusyError,
    CursorFile,
    Forwarder,
    ForwardGap,
    ForwardRejected,
    ForwardStalled,
    Kept,
    Lag,
    Message,
    PoisonError,
    Position,
    RefusedError,
    UnavailableError,
    consume,
    cursor_path,
    lag_of,
    prove,
    spent_archives,
    target_of,
)
from harken.forward._delay import LONGEST_DELAY, delay_after
from harken.received import received
from harken.sinks.audit import AuditLog
from harken.sinks.prometheus import PrometheusInstrumenter
from harken.testing import capture
from harken.trail import ForbiddenLogError

NUMBERS = (
    "lag_bytes",
    "lag_seconds",
    "stalled",
    "records_total",
    "rejected_total",
    "failures_total",
)


def lines_of_metrics(path: Path) -> list[str]:
    return [line for line in path.read_text().splitlines() if not line.startswith("#")]


class Memory:
    """
    A target that keeps what it gets, and does in between what the test says.
    """

    address = "memory:"

    def __init__(self, max_batch: int = 100) -> None:
        self.max_batch = max_batch
        self.messages: list[Message] = []
        self.plan: list[int | Exception] = []
        self.held: Position | None = None
        self.rest: Callable[[], object] = bool

    def open(self, source: str, /) -> Position | None:
        if self.messages and isinstance((self.plan or [0])[0], UnavailableError):
            self.rest()
        return self.messages[-1].position if self.messages else self.held

    def send(self, batch: Sequence[Message], /) -> int:
        planned = self.plan.pop(0) if self.plan else len(batch)
        accepted = planned
        if isinstance(planned, Exception):
            accepted = planned.accepted if isinstance(planned, PoisonError) else 0
        assert isinstance(accepted, int)
        self.messages += batch[:accepted]
        if isinstance(planned, Exception):
            raise planned
        return accepted

    def close(self) -> None:
        """
        Nothing is open.
        """

    @property
    def lines(self) -> list[bytes]:
        return [message.line for message in self.messages]


def test_a_part_of_a_batch_is_taken(log: Log) -> None:
    """
    The rest of it follows.
    """
    log.write(20)
    target = Memory()
    target.plan = [3, 1, 5]

    Forwarder(log.path, target).run(once=True)

    assert log.lines == target.lines


def test_nothing_is_taken(log: Log) -> None:
    """
    That is an outage, too.
    """
    log.write(20)
    target = Memory()
    target.plan = [3, 0, UnavailableError("away")]
    forwarder = Forwarder(log.path, target)

    forwarder.run(once=True)

    assert log.lines == target.lines
    assert 2 == forwarder.failures


def test_a_line_that_the_engine_will_never_take(log: Log, tmp_path: Path) -> None:
    """
    It is told, kept with the reason, and all others arrive.
    """
    log.write(20)
    target = Memory()
    target.plan = [PoisonError("too large", 7)]
    bus = Bus()

    with capture(bus, ForwardRejected) as heard:
        Forwarder(log.path, target, bus=bus).run(once=True)

    lines = log.lines
    rejected = json.loads((tmp_path / "forward-audit.jsonl.rejected.jsonl").read_text())
    assert lines[:7] + lines[8:] == target.lines
    assert ("too large", 8, lines[7].decode()) == tuple(
        rejected[name] for name in ("reason", "seq", "line")
    )
    assert [("forward.rejected", 8)] == [
        (harken.event_name(event), event.seq) for event in heard.events
    ]


def test_what_never_passes_ends_it(log: Log) -> None:
    """
    It is not tried again.
    """
    log.write(1)
    target = Memory()
    target.plan = [RefusedError("never")]

    with pytest.raises(RefusedError, match="never"):
        Forwarder(log.path, target).run()


def test_delays_are_random_and_bounded() -> None:
    """
    They double up to 30 s, less at most a half by chance.
    """
    delays = [delay_after(attempts) for attempts in (*range(12), 10_000)]

    assert all(0 < delay <= LONGEST_DELAY for delay in delays)
    assert LONGEST_DELAY / 2 <= delays[-1]


def test_a_log_that_went_back(log: Log, tmp_path: Path) -> None:
    """
    What the stream knows is not in the log any more: it is sent from its begin, and that is told.
    """
    log.write(5)
    target = Memory()
    target.held = Position(3, 4, "2026-01-01T00:00:00.000000Z", "0" * 64)
    bus = Bus()

    with capture(bus, ForwardGap) as heard:
        Forwarder(log.path, target, bus=bus).run(once=True)

    assert log.lines == target.lines
    assert {4} == {message.generation for message in target.messages}
    assert ["other_log"] == [event.reason for event in heard.events]


def test_a_log_that_is_not_there_yet(tmp_path: Path) -> None:
    """
    It is waited for; a stream that knows another one gets it as a new generation.
    """
    target = Memory()
    target.held = Position(1, 4, "2026-01-01T00:00:00.000000Z", "0" * 64)
    path = tmp_path / "audit.jsonl"
    with Forwarder(path, target) as forwarder:
        time.sleep(0.1)
        log = Log(path)
        log.write(3)
        wait_for(lambda: len(target.lines) == len(log.lines), "the log to be forwarded")
        assert Lag(0, 0.0) == forwarder.lag
        log.bus.close()

    assert {2} == {message.generation for message in target.messages}


def test_one_forwards_at_a_time(log: Log) -> None:
    """
    A second one is told who holds what.
    """
    cursor = CursorFile(cursor_path(log.path))
    cursor.acquire()
    try:
        with pytest.raises(BusyError, match=r"forwards this log"):
            Forwarder(log.path, Memory()).run(once=True)
    finally:
        cursor.release()


def test_a_child_does_not_hold_what_its_parent_held(
    log: Log, run_python: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    """
    A process that was forked while its parent forwarded keeps nobody from taking over.
    """
    log.write(3)
    code = """
import os, sys, time
from harken.forward import CursorFile
cursor = CursorFile(sys.argv[1])
cursor.acquire()
child = os.fork()
if not child:
    os.close(1)
    os.close(2)
    time.sleep(60)
print(child, flush=True)
os._exit(0)
"""
    child = int(run_python(code, cursor_path(log.path)).stdout)
    target = Memory()
    try:
        Forwarder(log.path, target).run(once=True)
    finally:
        os.kill(child, signal.SIGKILL)

    assert log.lines == target.lines


def test_a_cursor_that_cannot_be_read(log: Log) -> None:
    """
    It is as if it was lost.
    """
    log.write(1)
    Path(cursor_path(log.path)).write_text("{")
    target = Memory()

    Forwarder(log.path, target).run(once=True)

    assert log.lines == target.lines
    kept = CursorFile(cursor_path(log.path)).read()
    assert Kept("memory:", kept.source if kept else "", target.messages[-1].position) == kept


def test_its_own_files_cannot_be_written(log: Log, tmp_path: Path) -> None:
    """
    A disk that is full delays what goes there, and ends nothing: a rejected line waits for its
    place, and all others go on meanwhile as far as order allows.
    """
    log.write(3)
    with log.path.open("ab") as file:
        file.write(b"nobody wrote this\n")
    log.write(3)
    lines = [line for line in log.lines if line.startswith(b"{")]
    rejected = tmp_path / "forward-audit.jsonl.rejected.jsonl"
    in_the_way = [tmp_path / "forward-audit.jsonl.cursor.new", rejected, tmp_path / "lag.prom.new"]
    for folder in in_the_way:
        folder.mkdir()
    target = Memory()

    with Forwarder(log.path, target, metrics=tmp_path / "lag.prom") as forwarder:
        wait_for(lambda: forwarder.failures > 1, "a failure")
        for folder in in_the_way:
            folder.rmdir()
        wait_for(lambda: lines == target.lines, "all lines")

    assert forwarder.error is None
    assert "nobody wrote this" == json.loads(rejected.read_text())["line"]
    assert target.messages[-1].position == (
        kept.position if (kept := CursorFile(cursor_path(log.path)).read()) else None
    )
    assert f'target="memory:"}} {forwarder.forwarded}' in (tmp_path / "lag.prom").read_text()


def test_a_log_that_may_not_be_read(
    log: Log, unprivileged: Callable[[], AbstractContextManager[None]], tmp_path: Path
) -> None:
    """
    That does not pass by itself.
    """
    log.write(1)
    log.path.chmod(0)
    folder = tmp_path / "open"
    folder.mkdir()
    folder.chmod(0o777)
    for parent in tmp_path.parents[:2]:
        parent.chmod(0o755)
    tmp_path.chmod(0o755)

    with unprivileged(), pytest.raises(ForbiddenLogError):
        Forwarder(log.path, Memory(), cursor=folder / "c", rejected=folder / "r").run()


def forwarding(metrics: PrometheusInstrumenter, name: str) -> float | None:
    """
    Return a number of the forwarder to `Memory`, as an application's metrics show it.
    """
    labels = {"source": "/a", "target": "memory:"}
    return metrics.registry.get_sample_value(f"harken_forward_{name}", labels)


def test_the_metrics_of_the_application(log: Log, tmp_path: Path) -> None:
    """
    Whoever has a bus sees how far it is beside what else its metrics say, and the file says the
    same; an outage shows at once.
    """
    metrics = PrometheusInstrumenter()
    log.bus.attach(metrics, delivery="inline")
    log.write(7)
    target = Memory(max_batch=1)
    outage, waiting = [UnavailableError("away")] * 3, threading.Event()
    target.plan = [1, PoisonError("too large", 0), 1, *outage]
    target.rest = waiting.wait
    path = tmp_path / "forward.prom"
    forwarder = Forwarder(log.path, target, source="/a", bus=log.bus, metrics=path)

    with forwarder:
        wait_for(lambda: forwarding(metrics, "stalled") == 1, "the outage")
        during = forwarding(metrics, "lag_bytes"), forwarding(metrics, "lag_seconds")
        lag = forwarder.lag
        waiting.set()
        wait_for(lambda: forwarding(metrics, "stalled") == 0, "it to go on")
        wait_for(lambda: target.lines[-1:] == log.lines[-1:], "the log")

    assert lag.bytes == during[0]
    assert 0 < during[1] <= lag.seconds
    shown = {name: forwarding(metrics, name) for name in NUMBERS}
    assert {
        "lag_bytes": 0,
        "lag_seconds": 0,
        "stalled": 0,
        "records_total": forwarder.forwarded,
        "rejected_total": 1,
        "failures_total": 3,
    } == shown
    told = {line.split("{")[0]: float(line.split()[-1]) for line in lines_of_metrics(path)}
    assert {f"harken_forward_{name}": value for name, value in shown.items()} == told


def test_it_is_seen_that_it_has_ended(log: Log, tmp_path: Path) -> None:
    """
    What will never be taken is no lag that passes; metrics and events say so to the end.
    """
    metrics = PrometheusInstrumenter()
    log.bus.attach(metrics, delivery="inline")
    log.write(1)
    target = Memory()
    target.plan = [RefusedError("never")]
    path = tmp_path / "forward.prom"

    with capture(log.bus) as heard, pytest.raises(RefusedError):
        Forwarder(log.path, target, source="/a", bus=log.bus, metrics=path).run()

    assert 1 == forwarding(metrics, "stalled")
    assert 'harken_forward_stalled{source="/a",target="memory:"} 1' in path.read_text()
    assert ["RefusedError"] == [
        event.error_type for event in heard.events if isinstance(event, ForwardStalled)
    ]


def test_nothing_is_told_while_nothing_changes(log: Log, tmp_path: Path) -> None:
    """
    How far it is, is no line of the log, whatever is audited, and is said once.
    """
    bus = Bus(audit_types={"forward.measured": True})
    bus.attach(AuditLog(tmp_path / "other.jsonl"))
    log.write(3)
    target = Memory()
    forwarder = Forwarder(log.path, target, bus=bus)

    with capture(bus) as heard:
        forwarder.run(once=True)
        forwarder.run(once=True)
        forwarder.run(once=True)
    bus.close()

    # Lines and lag are not looked at in one moment while lines are forwarded.
    told = [(event.records, event.lag_bytes) for event in heard.events]
    assert len(log.lines) == sum(records for records, _ in told)
    assert told[-1][1] == 0
    assert len(told) == len(set(told))
    assert b"forward.measured" not in (tmp_path / "other.jsonl").read_bytes()


def test_a_disk_that_takes_its_time(log: Log, tmp_path: Path) -> None:
    """
    No line waits until it is written down how far the log is.
    """
    never_ready = tmp_path / "forward-audit.jsonl.cursor.new"
    os.mkfifo(never_ready)
    target = Memory()
    forwarder = Forwarder(log.path, target)

    with forwarder:
        for _ in range(2):
            log.write(3)
            wait_for(lambda: log.lines == target.lines, "the log to be forwarded")
        reader = os.open(never_ready, os.O_RDONLY | os.O_NONBLOCK)
        assert forwarder.stop(30)
    os.close(reader)


@pytest.mark.parametrize("source", ["billing", "/a b", "/a\n"])
def test_a_source_is_a_path(log: Log, source: str) -> None:
    with pytest.raises(RefusedError, match="use a path"):
        Forwarder(log.path, Memory(), source=source)


def test_its_files_are_none_of_the_log(log: Log) -> None:
    """
    Writers of the log look at, and lock, what begins like it.
    """
    with pytest.raises(RefusedError, match="begins otherwise"):
        Forwarder(log.path, Memory(), cursor=f"{log.path}.cursor")


def test_lag_of_nothing(tmp_path: Path, log: Log) -> None:
    """
    A log that is not there has none, and one that was never forwarded all of it.
    """
    log.write(10)

    assert Lag(0, 0.0) == lag_of(tmp_path / "nothing.jsonl", None)
    assert log.path.stat().st_size == lag_of(log.path, None).bytes
    assert [] == spent_archives(log.path, Position(1, 10**9))


def test_a_package_that_is_missing(
    run_python: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    """
    It is named, with the extra that brings it.
    """
    code = """
import sys
sys.modules["redis"] = sys.modules["nats"] = None
from harken.forward import RefusedError, target_of
for url in ("redis://host", "nats://host"):
    try:
        target_of(url)
    except RefusedError as error:
        print(error)
"""

    assert [
        "redis:// needs the package redis; install harken[redis]",
        "nats:// needs the package nats; install harken[nats]",
    ] == run_python(code).stdout.splitlines()


def test_no_engine() -> None:
    """
    An address of something else is refused before anything is loaded.
    """
    with pytest.raises(RefusedError, match="is no engine"):
        consume("kafka://host", group="g")
    with pytest.raises(RefusedError, match="that is no address of an engine; it begins with redis"):
        consume("host", group="g")
    with pytest.raises(RefusedError, match="has no profile"):
        target_of("nats://host", profile="action-trail")


def test_nothing_arrived() -> None:
    """
    Nothing is verified, and who was expected is missing.
    """
    proof = prove([], expected=["/a"])

    assert ("incomplete", ("/a",)) == (proof.verdict, proof.missing)


class TestReceived:
    """
    Envelopes of records.
    """

    def line(self, tmp_path: Path) -> bytes:
        bus = Bus()
        bus.attach(AuditLog(tmp_path / "audit.jsonl"))
        secret = "password=" + "hunter2" * 4
        with harken.scope(session_id="s", phase="execution"):
            bus.publish(ErrorRaised(component="c", error_message=secret))
        bus.close()
        return (tmp_path / "audit.jsonl").read_bytes().splitlines(keepends=True)[1]

    def test_what_was_redacted_stays_counted(self, tmp_path: Path) -> None:
        line = self.line(tmp_path)
        envelope = received(line, origin="/a")

        assert ("/a", line, {"assignment": 1}, {}) == (
            envelope.origin,
            envelope.line,
            dict(envelope.redacted),
            dict(envelope.truncated),
        )
        assert ("s", "execution", "failure") == (
            envelope.session_id,
            envelope.phase,
            envelope.outcome,
        )
        assert (
            envelope.body
            == json.dumps(json.loads(line)["metadata"], separators=(",", ":")).encode()
        )

    def test_an_outcome_that_is_not_known(self, tmp_path: Path) -> None:
        line = self.line(tmp_path).replace(b'"outcome":"failure"', b'"outcome":"odd"')

        assert Outcome.unknown == received(line).outcome

    @pytest.mark.parametrize(
        ("line", "error"),
        [
            (b"nothing\n", EventDataError),
            (
                b'{"timestamp":"x","event_type":"error.raised","metadata":{},"id":"1"}',
                EventDataError,
            ),
            (
                b'{"timestamp":"x","event_type":"error.raised","metadata":{"component":"c"},"id":"1"}',
                EventDataError,
            ),
            (b'{"timestamp":"x","event_type":"no.such","metadata":{},"id":"1"}', UnknownEventError),
            (
                b'{"timestamp":"2026-11-21","event_type":"error.raised","metadata":{"component":"c"},"id":"1"}',
                EventDataError,
            ),
        ],
    )
    def test_what_is_no_record(self, line: bytes, error: type[Exception]) -> None:
        with pytest.raises(error):
            received(line)

    def test_nobody_listens(self, tmp_path: Path) -> None:
        assert Bus().republish(received(self.line(tmp_path))) is None

    def test_a_required_subscriber_that_fails(self, tmp_path: Path) -> None:
        """
        It surfaces, after all others have heard.
        """
        bus = Bus()
        heard = []
        bus.subscribe(lambda envelope: heard.append(envelope.id))

        def fail(envelope: object) -> None:
            raise ZeroDivisionError

        bus.subscribe(fail, required=True)
        envelope = received(self.line(tmp_path))

        with pytest.raises(harken.errors.DeliveryError):
            bus.republish(envelope)
        # Then comes the report of the failure.
        assert envelope.id == heard[0]

    def test_an_end_without_its_start(self, tmp_path: Path) -> None:
        """
        It still says which start it ends, and how long it took.
        """
        bus = Bus()
        bus.attach(AuditLog(tmp_path / "audit.jsonl"))
        start = bus.publish(ToolStarted(tool_name="search", tool_call_id="1"))
        bus.publish(ToolCompleted(tool_name="search", tool_call_id="1", duration_ms=1500))
        bus.close()
        line = (tmp_path / "audit.jsonl").read_bytes().splitlines(keepends=True)[2]

        envelope = received(line)

        assert start is not None
        assert (start.id, 1.5, None) == (
            envelope.started_event_id,
            envelope.duration,
            envelope.started,
        )


class TestCommand:
    """
    What `harken forward` refuses, and what it prints.
    """

    def call(self, *args: str) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "COLUMNS": "200"}
        argv = [sys.executable, "-m", "harken", *args]
        return subprocess.run(argv, capture_output=True, text=True, check=False, env=env)

    def test_wrong_usage(self, log: Log) -> None:
        log.write(1)
        path = str(log.path)
        calls = [
            (("forward", "-F", path), "name the engine"),
            (("forward", "-F", path, "--spent"), "there is no cursor"),
            (
                ("forward", "--to", "redis://h", "--profile", "action-trail", "--key", "k"),
                "leave out --key",
            ),
            (
                ("forward", "-F", path, "--to", "redis://h", "--max-lag-bytes", "5"),
                "is for --spent",
            ),
            (("query", "--from", "redis://h", "-F", path), "--from reads no file"),
            (("tail", "--source", "/a"), "give that"),
            (("verify", "--expect", "/a"), "name that with --from"),
            (("verify", "--from", "redis://h", "--chain-only"), "only"),
        ]

        for args, message in calls:
            done = self.call(*args)
            assert (2, True) == (done.returncode, message in done.stderr), (args, done.stderr)

    def test_no_log_to_send_once(self, tmp_path: Path) -> None:
        """
        A path that was mistyped does not look like a log that was sent.
        """
        path = str(tmp_path / "audti.jsonl")

        done = self.call("forward", "-F", path, "--to", "redis://127.0.0.1:1", "--once")

        assert (4, True) == (done.returncode, f"no audit log at {path}" in done.stderr)

    @pytest.mark.parametrize("option", ["--metrics-file", "--cursor", "--rejected"])
    def test_its_own_files_are_none_of_the_log(self, log: Log, tmp_path: Path, option: str) -> None:
        """
        The log is not written over, whatever name it is given by.
        """
        pytest.importorskip("redis")
        log.write(1)
        before = log.path.read_bytes()
        (tmp_path / "link").symlink_to(log.path)
        to = ("--to", "redis://127.0.0.1:1", "--once", "--patience", "0")

        for name in (log.path, tmp_path / "link"):
            done = self.call("forward", "-F", str(log.path), *to, option, str(name))
            assert (1, True) == (done.returncode, "for a file of the log" in done.stderr)
        assert before == log.path.read_bytes()

    def test_a_file_that_is_no_log(self, tmp_path: Path) -> None:
        """
        What is in it is neither sent nor rejected line by line.
        """
        path = tmp_path / "events.log"
        path.write_text('{"event": "tool completed"}\n' * 3)

        done = self.call("forward", "-F", str(path), "--to", "redis://127.0.0.1:1", "--once")

        assert (4, True) == (done.returncode, "is a record of an audit log" in done.stderr)
        assert [path] == list(tmp_path.iterdir())

    @pytest.mark.parametrize("option", [("--maxlen", "5"), ("--key", "k")])
    def test_what_an_engine_does_not_take(self, log: Log, option: tuple[str, str]) -> None:
        pytest.importorskip("nats")
        log.write(1)
        to = ("--to", "nats://127.0.0.1:1", "--once")

        done = self.call("forward", "-F", str(log.path), *to, *option)

        said = f"Error: nats:// takes no {option[0].strip('-')}; leave it out\n"
        assert (1, said) == (done.returncode, done.stderr)

    def test_a_database_is_a_number(self, log: Log) -> None:
        pytest.importorskip("redis")
        log.write(1)

        done = self.call("forward", "-F", str(log.path), "--to", "redis://127.0.0.1:1/x", "--once")

        assert (1, True) == (done.returncode, "/x names no database" in done.stderr)

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    @pytest.mark.parametrize("once", [True, False])
    def test_ended_by_a_signal(self, log: Log, number: signal.Signals, once: bool) -> None:
        """
        That is how it ends, unless it was to send everything; and its own variable is known.
        """
        pytest.importorskip("redis")
        log.write(1)
        argv = [sys.executable, "-m", "harken", "forward", "-F", str(log.path)]
        process = subprocess.Popen(
            [*argv, *(["--once"] if once else [])],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "HARKEN_FORWARD_TO": "redis://127.0.0.1:1"},
        )
        assert process.stderr is not None
        first = process.stderr.readline()
        process.send_signal(number)
        rest = process.communicate(timeout=30)[1]

        assert "stalls: redis://127.0.0.1:1 cannot be reached" in first
        assert "0 lines" in rest
        assert (128 + number if once else 0) == process.returncode

    def test_spent(self, log: Log, tmp_path: Path) -> None:
        """
        One file on each line.
        """
        log.write(300)
        Forwarder(log.path, Memory()).run(once=True)

        done = self.call("forward", "-F", str(log.path), "--spent")

        assert sorted(map(str, tmp_path.glob("audit.jsonl.2*"))) == done.stdout.splitlines()


def test_stopped_while_it_waits(log: Log, caplog: pytest.LogCaptureFixture) -> None:
    """
    An outage does not keep it from ending.
    """
    log.write(1)
    target = Memory()
    target.plan = [UnavailableError("away")] * 1000
    with caplog.at_level(logging.WARNING), Forwarder(log.path, target) as forwarder:
        wait_for(lambda: forwarder.failures > 3, "an outage")
        assert forwarder.stop(30)

    assert 1 == caplog.text.count("stalls")
