"""
What is particular to Redis: who may write, what is refused, and the action trail.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from socket import gethostname

import pytest

pytest.importorskip("redis")

import redis
from tests.forward.conftest import Log
from tests.forward.engines import Redis
from tests.forward.servers import RedisServer, Server, Way, stop
from tests.servers import wait_for

import harken
from harken import Bus
from harken.catalog import (
    BudgetWarning,
    CredentialIssued,
    ErrorRaised,
    HumanInputReceived,
    HumanInputRequested,
    PipelineTriggered,
    PolicyEvaluated,
    PrCreated,
    ToolStarted,
)
from harken.catalog.aliases import VOCABULARIES
from harken.forward import (
    CursorFile,
    Forwarder,
    ForwardGap,
    ForwardResumed,
    ForwardStalled,
    RefusedError,
    UnavailableError,
    cursor_path,
    spent_archives,
    target_of,
)
from harken.forward.action_trail import ActionTrail, ActionTrailLog
from harken.forward.redis import RedisStreams
from harken.sinks.audit import AuditLog

pytestmark = pytest.mark.once


@pytest.fixture
def engine() -> Redis:
    return Redis()


@pytest.fixture
def client(server: RedisServer) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(server.url, decode_responses=True) as made:
        yield made


def test_an_entry_is_a_cloud_event(log: Log, server: RedisServer, client: redis.Redis) -> None:
    """
    Its attributes are fields, and its data is the line.
    """
    with harken.scope(run_id="r-1"):
        log.bus.publish(ToolStarted(tool_name="search"))
    Forwarder(log.path, RedisStreams(server.url), source="/billing/host-7").run(once=True)

    (name, fields) = client.xrange("harken:billing/host-7")[1]

    record = json.loads(log.lines[1])
    assert "1-2" == name
    assert {
        "ce_specversion": "1.0",
        "ce_source": "/billing/host-7",
        "ce_id": record["id"],
        "ce_type": "tool.started",
        "ce_time": record["timestamp"],
        "ce_subject": "r-1",
        "ce_traceparent": f"00-{record['trace_id']}-{record['span_id']}-01",
        "data": log.lines[1].decode(),
    } == fields


def test_the_stream_is_trimmed(log: Log, server: RedisServer, client: redis.Redis) -> None:
    """
    It keeps about as many entries as it was told to, and forwarding goes on behind them.
    """
    target = RedisStreams(server.url, key="small:{source}", maxlen=200)
    log.write(2000)
    Forwarder(log.path, target, source="/a").run(once=True)
    log.write(10)
    forwarder = Forwarder(log.path, target, source="/a")
    forwarder.run(once=True)

    assert client.xlen("small:a") < 500
    assert log.lines[-1].decode() == client.xrevrange("small:a", count=1)[0][1]["data"]
    assert 10 <= forwarder.forwarded < 30


def test_all_entries_were_deleted(log: Log, server: RedisServer, client: redis.Redis) -> None:
    """
    The server knows which was the last one all the same.
    """
    log.write(10)
    Forwarder(log.path, RedisStreams(server.url), source="/a").run(once=True)
    client.xtrim("harken:a", maxlen=0, approximate=False)
    log.write(5)
    Forwarder(log.path, RedisStreams(server.url), source="/a").run(once=True)

    assert [line.decode() for line in log.lines[-5:]] == [
        fields["data"] for _, fields in client.xrange("harken:a")
    ]


class Killing(Way):
    """
    A way that lets so much of a transaction's end through, and kills the server then.
    """

    def __init__(self, server: RedisServer, end: bytes, pause: float) -> None:
        self._server = server
        self._end = end
        self._pause = pause
        self.killed = False
        super().__init__(server.port)

    def passed(self, data: bytes) -> bytes:
        at = data.find(EXEC)
        return data if self.killed or at < 0 else data[:at] + self._end

    def after(self, data: bytes) -> None:
        if not self.killed and EXEC in data:
            self.killed = True
            time.sleep(self._pause)
            self._server.kill()
            self._server.start()


EXEC = b"*1\r\n$4\r\nEXEC\r\n"


@pytest.mark.parametrize(
    ("end", "pause"),
    [
        pytest.param(b"", 0.1, id="before EXEC"),
        pytest.param(EXEC[:9], 0.1, id="in the middle of its name"),
        *(pytest.param(EXEC, at / 10_000, id=f"EXEC and {at / 10} ms") for at in range(0, 12, 2)),
        pytest.param(EXEC, 0.1, id="when it was done"),
    ],
)
def test_the_server_is_killed_at_exec(
    log: Log, server: RedisServer, client: redis.Redis, end: bytes, pause: float
) -> None:
    """
    A transaction is there whole or not at all, and each line once.
    """
    log.write(250)
    way = Killing(server, end, pause)
    forwarder = Forwarder(
        log.path,
        RedisStreams(f"redis://127.0.0.1:{way.port}", max_batch=200, timeout=1.0),
        source="/faults/exec",
    )
    try:
        forwarder.run(once=True, patience=30)
    finally:
        way.close()

    assert way.killed
    assert forwarder.failures
    entries = client.xrange("harken:faults/exec")
    assert log.lines == [fields["data"].encode() for _, fields in entries]


def test_the_file_of_the_server_ends_in_a_transaction(
    log: Log, server: RedisServer, client: redis.Redis
) -> None:
    """
    What was acknowledged and is not on its disk after a loss of power is sent again.
    """
    log.write(250)
    forwarder = Forwarder(log.path, RedisStreams(server.url), source="/faults/exec")
    forwarder.run(once=True)
    server.kill()
    (file,) = server.folder.rglob("appendonly*.aof")
    os.truncate(file, file.stat().st_size - 3000)
    server.start()
    held = client.xlen("harken:faults/exec")
    forwarder.run(once=True)

    assert 0 < held < len(log.lines)
    entries = client.xrange("harken:faults/exec")
    assert log.lines == [fields["data"].encode() for _, fields in entries]


class TestRefused:
    """
    What will never work is told at once, and not tried again.
    """

    def refused(self, log: Log, url: str, **options: object) -> str:
        with pytest.raises(RefusedError) as caught:
            Forwarder(log.path, target_of(url, **options), source="/a").run()
        return str(caught.value)

    def test_a_wrong_password(self, log: Log, server: RedisServer, client: redis.Redis) -> None:
        log.write(1)
        client.config_set("requirepass", "right")
        url = server.url.replace("//", "//:wrong@")

        message = self.refused(log, url)

        assert "check user, password and permissions" in message
        assert "wrong@" not in message

    def test_no_password(self, log: Log, server: RedisServer, client: redis.Redis) -> None:
        log.write(1)
        client.config_set("requirepass", "right")

        assert "check user, password and permissions" in self.refused(log, server.url)

    def test_no_permission(self, log: Log, server: RedisServer, client: redis.Redis) -> None:
        log.write(1)
        client.execute_command(
            *("ACL", "SETUSER", "reader", "on", ">right", "~*", "+@all", "-xadd")
        )
        url = server.url.replace("//", "//reader:right@")

        assert "check user, password and permissions" in self.refused(log, url)

    def test_a_key_of_another_kind(
        self, log: Log, server: RedisServer, client: redis.Redis
    ) -> None:
        log.write(1)
        client.set("harken:a", "text")

        assert "the key is no stream" in self.refused(log, server.url)

    def test_the_stream_of_another_log(self, log: Log, server: RedisServer, tmp_path: Path) -> None:
        other = Log(tmp_path / "other.jsonl")
        other.write(1)
        other.bus.close()
        log.write(1)
        target = RedisStreams(server.url, key="same")
        Forwarder(other.path, target, source="/b").run(once=True)

        message = self.refused(log, server.url, key="same")

        assert "same is the stream of /b, not of /a" in message

    def test_a_stream_of_others(self, log: Log, server: RedisServer, client: redis.Redis) -> None:
        log.write(1)
        client.xadd("harken:a", {"text": "nothing of ours"})

        assert "is the stream of others" in self.refused(log, server.url)

    @pytest.mark.parametrize("url", ["kafka://host", "host:6379", "redis://host:port"])
    def test_no_address(self, url: str) -> None:
        with pytest.raises(RefusedError, match=r"is no (engine|address)"):
            target_of(url)

    def test_an_address_in_a_message(self) -> None:
        """
        It is shown as it was given, but for the password.
        """
        with pytest.raises(RefusedError, match=r"^redis://host:port is no address: "):
            target_of("redis://user:password@host:port")

    def test_in_a_thread_it_is_kept(
        self, log: Log, server: RedisServer, client: redis.Redis, caplog: pytest.LogCaptureFixture
    ) -> None:
        """
        The thread ends, and says why.
        """
        log.write(1)
        client.set("harken:a", "text")
        with Forwarder(log.path, RedisStreams(server.url), source="/a") as forwarder:
            wait_for(lambda: forwarder.error, "the thread to end")

        assert isinstance(forwarder.error, RefusedError)
        assert "has ended" in caplog.text


@pytest.mark.parametrize(("name", "is_trusted"), [("127.0.0.1", True), ("127.0.0.2", False)])
def test_an_encrypted_address(log: Log, tmp_path: Path, name: str, is_trusted: bool) -> None:
    """
    The log goes to the server that the certificate is of, and to no other.
    """
    if shutil.which("openssl") is None or shutil.which("redis-server") is None:
        pytest.skip("openssl or redis-server is not installed")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    argv = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=me"
    )
    argv += f" -addext subjectAltName=IP:{name} -keyout {key} -out {certificate}"
    subprocess.run(argv.split(), check=True, capture_output=True)

    class Encrypting(RedisServer):
        def argv(self) -> list[str]:
            files = ["--tls-cert-file", str(certificate), "--tls-key-file", str(key)]
            port = ["--port", "0", "--tls-port", str(self.port), "--tls-auth-clients", "no"]
            return [*super().argv(), *files, *port]

        def answers(self) -> bool:
            return Server.answers(self)

    encrypting = Encrypting("redis-server", tmp_path / "encrypting")
    encrypting.start()
    log.write(3)
    url = f"rediss://127.0.0.1:{encrypting.port}?ssl_ca_certs={certificate}"
    forwarder = Forwarder(log.path, RedisStreams(url, timeout=1.0))
    try:
        with nullcontext() if is_trusted else pytest.raises(UnavailableError):
            forwarder.run(once=True, patience=0)
    finally:
        stop(encrypting)

    assert (len(log.lines) if is_trusted else 0) == forwarder.forwarded


def test_a_server_that_is_full(log: Log, server: RedisServer, client: redis.Redis) -> None:
    """
    It is tried again until there is room.
    """
    log.write(50)
    client.config_set("maxmemory", "1")
    with Forwarder(log.path, RedisStreams(server.url), source="/a") as forwarder:
        wait_for(lambda: forwarder.failures > 1, "the server to refuse")
        client.config_set("maxmemory", "0")
        wait_for(lambda: forwarder.lag.bytes == 0, "the log to be in the stream")

    assert [line.decode() for line in log.lines] == [
        fields["data"] for _, fields in client.xrange("harken:a")
    ]


class TestActionTrail:
    """
    The profile for readers of ``action-trail:{sessionId}``.
    """

    def publish(self, bus: Bus) -> None:
        with harken.scope(session_id="s-1", run_id="r-1", correlation_id="c-1"):
            operation = bus.operation(ToolStarted(tool_name="search"))
            with operation:
                operation.complete()
            bus.publish(CredentialIssued(credential_id="c", scope="read"))
            bus.publish(PolicyEvaluated(policy_id="p", decision="deny"))
            bus.publish(PipelineTriggered(pipeline_id="p"))
            bus.publish(PrCreated(url="https://host.example/7"))
            bus.publish(HumanInputRequested(request_id="q"))
            bus.publish(HumanInputReceived(request_id="q"))
            bus.publish(ErrorRaised(component="c"))
            bus.publish(BudgetWarning(budget_type="cost"))

    def test_ten_kinds_with_four_fields(
        self, tmp_path: Path, server: RedisServer, client: redis.Redis
    ) -> None:
        """
        Each kind is there, under its session, with type, data, correlationId and timestamp.
        """
        bus = Bus()
        bus.attach(AuditLog(tmp_path / "audit.jsonl"))
        self.publish(bus)
        bus.publish(ErrorRaised(component="without a session"))
        bus.close()
        for _ in range(2):
            Forwarder(tmp_path / "audit.jsonl", ActionTrail(server.url)).run(once=True)

        entries = [fields for _, fields in client.xrange("action-trail:s-1")]

        assert list(VOCABULARIES["action_trail"]) == [entry["type"] for entry in entries]
        assert {("type", "data", "correlationId", "timestamp")} == {*map(tuple, entries)}
        assert {"c-1"} == {entry["correlationId"] for entry in entries}
        assert ("r-1", "search") == tuple(
            json.loads(entries[0]["data"])[name] for name in ("runId", "tool_name")
        )
        assert 0 < client.ttl("action-trail:s-1") <= 7 * 86_400
        assert 1 == client.xlen("action-trail:-")

    def test_each_once_whatever_is_cut(
        self, log: Log, server: RedisServer, client: redis.Redis, way: Way
    ) -> None:
        """
        An answer that was lost does not make an entry come twice.
        """
        target = ActionTrail(f"redis://127.0.0.1:{way.port}", timeout=1.0, maxlen=None)
        with Forwarder(log.path, target) as forwarder:
            for number in range(5):
                way.delay = 0.2
                for one in range(20):
                    log.bus.publish(ErrorRaised(component=f"{number}-{one}"))
                wait_for(lambda: forwarder.lag.bytes > 0, "lines to wait")
                way.cut()
                way.delay = 0.0
                wait_for(lambda: forwarder.lag.bytes == 0, "the log to be in the stream")

        found = [
            json.loads(fields["data"])["component"] for _, fields in client.xrange("action-trail:-")
        ]
        assert [f"{number}-{one}" for number in range(5) for one in range(20)] == found

    def test_a_record_without_the_data_of_an_event(
        self, log: Log, server: RedisServer, client: redis.Redis, tmp_path: Path
    ) -> None:
        """
        It is rejected with the reason, and all others are there.
        """
        log.bus.publish(ErrorRaised(component="before"))
        members = {"timestamp": "2026-11-21T10:00:00.000000Z", "seq": 3, "id": "x", "hash": "0"}
        with log.path.open("a") as file:
            for data in ({}, {"metadata": [1]}):
                line = {**members, "event_type": "error.raised", **data}
                file.write(json.dumps(line) + "\n")
        log.bus.publish(ErrorRaised(component="after"))
        forwarder = Forwarder(log.path, ActionTrail(server.url))

        forwarder.run(once=True, patience=0)

        entries = [fields for _, fields in client.xrange("action-trail:-")]
        assert ["before", "after"] == [json.loads(one["data"])["component"] for one in entries]
        with (tmp_path / "forward-audit.jsonl.rejected.jsonl").open(encoding="utf-8") as lines:
            reasons = [json.loads(line)["reason"] for line in lines]
        assert 2 == forwarder.rejected == len(reasons)
        assert all(reason.startswith("the line is no record of an event") for reason in reasons)

    def test_the_log_message(self, caplog: pytest.LogCaptureFixture) -> None:
        """
        It is ``action_trail:<type>``.
        """
        bus = Bus()
        bus.attach(ActionTrailLog(), delivery="inline")
        with caplog.at_level(logging.INFO, "harken.action_trail"):
            self.publish(bus)

        assert [f"action_trail:{word}" for word in VOCABULARIES["action_trail"]] == [
            record.getMessage() for record in caplog.records
        ]


def test_another_process_forwards_already(log: Log, server: RedisServer) -> None:
    """
    One of them forwards, and the other takes over when it ends.
    """
    first = Forwarder(log.path, RedisStreams(server.url), source="/a")
    second = Forwarder(log.path, RedisStreams(server.url), source="/a")
    log.write(10)
    with first, second:
        wait_for(lambda: first.lag.bytes == 0, "the log to be in the stream")
        first.stop()
        log.write(10)
        wait_for(lambda: first.forwarded + second.forwarded >= 20, "the other to take over")
        wait_for(lambda: second.lag.bytes == 0, "the log to be in the stream")

    assert len(log.lines) == first.forwarded + second.forwarded


def test_spent_archives(
    log: Log, server: RedisServer, run_python: Callable[..., object], tmp_path: Path
) -> None:
    """
    Only what is in the stream may be deleted, unless whoever asks gives up what waits.
    """
    log.write(300)
    Forwarder(log.path, RedisStreams(server.url), source="/a").run(once=True)
    kept = CursorFile(cursor_path(log.path)).read()
    assert kept is not None
    archives = sorted(map(str, tmp_path.glob("audit.jsonl.2*")))
    log.write(600)
    later = sorted(set(map(str, tmp_path.glob("audit.jsonl.2*"))) - set(archives))

    assert archives == spent_archives(log.path, kept.position)
    assert len(later) > 2
    size = sum(Path(path).stat().st_size for path in (*later[1:], str(log.path)))
    # The first of these was begun before, so that a part of it is there.
    assert [*archives, later[0]] == spent_archives(log.path, kept.position, max_lag_bytes=size)


def test_a_gap_is_told(log: Log, server: RedisServer, tmp_path: Path, client: redis.Redis) -> None:
    """
    Files that were deleted before they were forwarded are named by their numbers.
    """
    log.write(50)
    Forwarder(log.path, RedisStreams(server.url), source="/a").run(once=True)
    log.write(600)
    archives = sorted(tmp_path.glob("audit.jsonl.2*"))
    last = len(log.lines)
    for archive in archives[:2]:
        archive.unlink()
    bus = Bus()
    with harken.testing.capture(bus, ForwardGap) as heard:
        Forwarder(log.path, RedisStreams(server.url), source="/a", bus=bus).run(once=True)

    (gap,) = heard.events
    assert ("forward.gap", "missing") == (harken.event_name(gap), gap.reason)
    names = [name for name, _ in client.xrange("harken:a")]
    assert f"1-{last}" == names[-1]
    assert {f"1-{seq}" for seq in range(gap.first_seq, gap.last_seq + 1)} == {
        f"1-{seq}" for seq in range(1, last + 1)
    } - set(names)


def test_stalls_are_told(log: Log, server: RedisServer, tmp_path: Path) -> None:
    """
    Once when it stalls, and once when it goes on; the lag is told to Prometheus meanwhile.
    """
    metrics = tmp_path / "forward.prom"
    bus = Bus()
    log.write(10)
    stop(server)
    with harken.testing.capture(bus, ForwardStalled, ForwardResumed) as heard:
        target = RedisStreams(server.url)
        with Forwarder(log.path, target, source="/a", bus=bus, metrics=metrics) as forwarder:
            wait_for(lambda: forwarder.failures > 2, "an outage")
            during = metrics.read_text()
            server.start()
            wait_for(lambda: len(heard.events) == 2, "it to go on")
        after = metrics.read_text()

    assert ["forward.stalled", "forward.resumed"] == [*map(harken.event_name, heard.events)]
    size = log.path.stat().st_size
    assert f" {size}\n" in during.split("harken_forward_lag_bytes{")[1]
    assert " 0\n" in after.split("harken_forward_lag_bytes{")[1]


def test_the_command_ends_on_a_signal(
    log: Log,
    server: RedisServer,
    client: redis.Redis,
    tmp_path: Path,
    require_server: Callable[[str], str],
) -> None:
    """
    It forwards until SIGTERM, keeps its cursor, and its metrics are what Prometheus reads.
    """
    log.write(50)
    metrics = tmp_path / "forward.prom"
    argv = [sys.executable, "-m", "harken", "forward", "-F", str(log.path), "--to", server.url]
    process = subprocess.Popen(
        [*argv, "--metrics-file", str(metrics)], stderr=subprocess.PIPE, text=True
    )
    wait_for(metrics.exists, "the command to begin")
    wait_for(lambda: client.xlen(f"harken:harken/{gethostname()}") == len(log.lines), "the log")
    process.terminate()
    _, said = process.communicate(timeout=60)

    assert 0 == process.returncode, said
    kept = CursorFile(cursor_path(log.path)).read()
    assert kept is not None
    assert len(log.lines) == kept.position.seq
    promtool = require_server("promtool")
    with metrics.open("rb") as text:
        checked = subprocess.run(
            [promtool, "check", "metrics"], stdin=text, capture_output=True, check=False
        )
    assert (0, b"") == (checked.returncode, checked.stdout + checked.stderr)
