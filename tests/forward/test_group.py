"""
The far end: consumers of a group, publishing again, and the proof that nothing is missing.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.forward.conftest import Log, lines_of
from tests.forward.servers import Server, stop
from tests.servers import wait_for

import harken
from harken import Bus, Envelope, Event
from harken.catalog import ToolStarted
from harken.errors import UnknownEventError
from harken.forward import Forwarder, consume, prove, stored, target_of
from harken.sinks.audit import AuditLog, create_key
from harken.testing import capture
from harken.trail import read_key

CONSUMER = """
import sys, time
import tests.forward.conftest
from harken.forward import consume

url, name, pause, out = sys.argv[1:]
with open(out, "a") as file:
    for envelope in consume(url, group="all", consumer=name, idle=1.0, batch=10):
        file.write(f"{envelope.id}\\n")
        file.flush()
        time.sleep(float(pause))
"""

REPOSITORY = Path(__file__).parents[2]

pytestmark = pytest.mark.once


@pytest.fixture
def logs(tmp_path: Path) -> Iterator[list[Log]]:
    """
    The logs of three hosts.
    """
    made = []
    for number in range(3):
        (tmp_path / f"host-{number}").mkdir()
        made.append(Log(tmp_path / f"host-{number}" / "audit.jsonl"))
    yield made
    for log in made:
        log.rest()
        log.bus.close()


def forward_all(logs: list[Log], url: str) -> None:
    for number, log in enumerate(logs):
        Forwarder(log.path, target_of(url), source=f"/test/host-{number}").run(once=True)


def ids_of(log: Log) -> list[str]:
    with harken.trail.open(log.path) as trail:
        return [
            str(record.id)
            for record in trail.records()
            if not record.event_type.startswith("audit.")
        ]


def test_three_hosts_and_two_consumers_of_which_one_is_killed(
    logs: list[Log], server: Server, tmp_path: Path
) -> None:
    """
    Every event is consumed; none twice, but for what the one that was killed was working on.
    """
    for log in logs:
        log.write(60)
    outs = [tmp_path / "one.txt", tmp_path / "two.txt"]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", CONSUMER, server.url, out.name, pause, str(out)],
            cwd=REPOSITORY,
        )
        for out, pause in zip(outs, ("0.05", "0.005"), strict=True)
    ]

    def consumed(out: Path) -> list[str]:
        return out.read_text().split() if out.exists() else []

    try:
        forward_all(logs, server.url)
        wait_for(lambda: len(consumed(outs[0])) > 5, "the first consumer to begin")
        processes[0].kill()
        processes[0].wait()
        expected = {one for log in logs for one in ids_of(log)}
        both = lambda: consumed(outs[0]) + consumed(outs[1])  # noqa: E731
        wait_for(lambda: set(both()) == expected, "all events to be consumed")
        time.sleep(1.5)
    finally:
        for process in processes:
            process.kill()
            process.wait()

    # An event that was being worked on when its consumer was killed is worked on again.
    twice = set(consumed(outs[0])) & set(consumed(outs[1]))
    assert len(consumed(outs[0])) == len(set(consumed(outs[0])))
    assert len(consumed(outs[1])) == len(set(consumed(outs[1])))
    assert twice <= set(consumed(outs[0])[-30:])
    assert "ok" == prove(stored(server.url)).verdict


def test_order_of_each_log_is_kept(logs: list[Log], server: Server) -> None:
    """
    One consumer gets the events of each log as they were written.
    """
    for log in logs:
        log.write(150)
    forward_all(logs, server.url)

    found: dict[str, list[str]] = {}
    for envelope in consume(server.url, group="all", seconds=1.0):
        found.setdefault(envelope.origin, []).append(envelope.id)

    assert {f"/test/host-{number}": ids_of(log) for number, log in enumerate(logs)} == found


def test_what_raises_is_delivered_again(logs: list[Log], server: Server) -> None:
    """
    An event is acknowledged only when the next one is asked for.
    """
    logs[0].write(10)
    forward_all(logs[:1], server.url)

    first = []
    with pytest.raises(ZeroDivisionError):
        for envelope in consume(server.url, group="all", consumer="one", idle=0.2, seconds=0.5):
            first.append(envelope.id)
            if len(first) == 5:
                raise ZeroDivisionError
    time.sleep(0.3)
    again = [e.id for e in consume(server.url, group="all", consumer="two", idle=0.2, seconds=0.5)]

    assert ids_of(logs[0])[:4] == first[:4]
    assert ids_of(logs[0])[4:] == again


def test_what_is_in_the_stream_twice_comes_once(logs: list[Log], server: Server) -> None:
    """
    A log that its forwarder did not know again is sent again; consumers tell by the ids.
    """
    logs[0].write(20)
    for source in ("/test/one", "/test/two"):
        Forwarder(
            logs[0].path,
            target_of(server.url),
            source=source,
            cursor=logs[0].path.with_name(f"{source[-3:]}.cursor"),
        ).run(once=True)
    consumer = consume(server.url, group="all", seconds=0.5)

    assert sorted(ids_of(logs[0])) == sorted(envelope.id for envelope in consumer)
    assert 20 == consumer.duplicates


def test_the_server_comes_back_while_it_is_consumed(logs: list[Log], server: Server) -> None:
    """
    A consumer waits for it.
    """
    logs[0].write(20)
    forward_all(logs[:1], server.url)
    found = []
    consumer = iter(consume(server.url, group="all", idle=0.2, seconds=5.0, batch=5))
    found.append(next(consumer).id)
    server.kill()
    server.start()
    logs[0].write(5)
    forward_all(logs[:1], server.url)
    for envelope in consumer:
        found.append(envelope.id)
        if len(set(found)) == 25:
            break

    assert sorted(ids_of(logs[0])) == sorted(found)


def test_published_again_it_is_the_same_event(tmp_path: Path, server: Server) -> None:
    """
    The sinks of another machine get ids, times, trace, scope, outcome and duration of its origin.
    """
    bus = Bus()
    bus.attach(AuditLog(tmp_path / "near.jsonl"))
    search = ToolStarted(tool_name="search", arguments={"q": "disk full"})
    with (
        capture(bus) as near,
        harken.scope(run_id="r-1", actor="agent:a", color="red"),
        bus.operation(search),
    ):
        pass
    bus.close()
    Forwarder(tmp_path / "near.jsonl", target_of(server.url)).run(once=True)

    far = Bus()
    far.attach(AuditLog(tmp_path / "far.jsonl"))
    with capture(far) as heard:
        for envelope in consume(server.url, group="all", seconds=0.5):
            far.republish(envelope)
    far.close()

    def told(envelopes: list[Envelope[Event]]) -> list[tuple[object, ...]]:
        return [
            (
                *(one.name, one.id, one.outcome, one.run_id, one.actor, one.resource),
                *(one.trace_id, one.span_id, one.parent_span_id, one.causation_id),
                *(one.started_event_id, dict(one.attributes), one.body, one.time),
            )
            for one in envelopes
            if one.name.startswith("tool.")
        ]

    assert 2 == len(told(near.envelopes))
    assert told(near.envelopes) == told(heard.envelopes)
    assert heard.envelopes[-1].duration is not None
    with (
        harken.trail.open(tmp_path / "near.jsonl") as one,
        harken.trail.open(tmp_path / "far.jsonl") as other,
    ):
        assert [(r.id, r.metadata, r.attributes) for r in one.records() if r.run_id] == [
            (r.id, r.metadata, r.attributes) for r in other.records() if r.run_id
        ]


def test_a_type_that_is_not_known(
    server: Server, tmp_path: Path, run_python: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    """
    It is an error that says what to do, or passed over and counted.
    """
    code = """
import sys
from harken import Bus, Event
from harken.catalog import PolicyEvaluated
from harken.sinks.audit import AuditLog

class Odd(Event, name="forward_test.odd", audit=True):
    number: int = 0

bus = Bus()
bus.attach(AuditLog("audit.jsonl"))
bus.publish(Odd())
bus.publish(PolicyEvaluated(policy_id="p", decision="allow"))
bus.close()
"""
    run_python(code)
    Forwarder(tmp_path / "audit.jsonl", target_of(server.url)).run(once=True)

    with pytest.raises(UnknownEventError, match=r"forward_test\.odd"):
        list(consume(server.url, group="strict", seconds=0.5))
    consumer = consume(server.url, group="lax", seconds=0.5, skip_unknown=True)

    assert ["policy.evaluated"] == [envelope.name for envelope in consumer]
    assert 1 == consumer.skipped


class TestProof:
    """
    Whether what arrived is what was written.
    """

    def test_all_hosts_verify(self, logs: list[Log], server: Server) -> None:
        """
        What arrived of each log is a log that verifies.
        """
        for log in logs:
            log.write(200)
        forward_all(logs, server.url)

        proof = prove(stored(server.url), expected=["/test/host-0", "/test/host-9"])

        assert [
            (f"/test/host-{number}", len(log.lines), "ok") for number, log in enumerate(logs)
        ] == [(one.source, one.lines, one.verdict) for one in proof.arrived]
        assert (("/test/host-9",), "incomplete", 3) == (
            proof.missing,
            proof.verdict,
            proof.exit_code,
        )

    def test_a_line_that_was_changed_on_the_way(self, logs: list[Log], server: Server) -> None:
        """
        It shows, and in whose log.
        """
        for log in logs:
            log.write(20)
        forward_all(logs, server.url)
        changed = [
            one._replace(line=one.line.replace(b'"number":7,', b'"number":8,'))
            if one.source == "/test/host-1"
            else one
            for one in stored(server.url)
        ]

        proof = prove(changed)

        assert ["ok", "tampered", "ok"] == [one.verdict for one in proof.arrived]
        assert 1 == proof.exit_code
        report = proof.arrived[1].report
        assert {"/test/host-1"} == {
            report.path,
            *(one.file for one in report.files),
            *(finding.file for finding in report.findings),
        }

    def test_a_line_that_did_not_arrive(self, logs: list[Log], server: Server) -> None:
        """
        It is missed.
        """
        logs[0].write(20)
        forward_all(logs[:1], server.url)
        some = list(stored(server.url))
        del some[7]

        (arrived,) = prove(some).arrived

        assert "tampered" == arrived.verdict
        assert "line 8 should stand before" in arrived.report.findings[0].message

    def test_seals_are_checked_at_the_far_end(self, server: Server, tmp_path: Path) -> None:
        """
        The key vouches for what arrived.
        """
        key = create_key(tmp_path / "audit.key")
        (tmp_path / "verify.key").write_text(key if isinstance(key, str) else str(key))
        bus = Bus()
        bus.attach(AuditLog(tmp_path / "audit.jsonl", key_path=tmp_path / "audit.key"))
        bus.publish(ToolStarted(tool_name="search"))
        bus.close()
        Forwarder(tmp_path / "audit.jsonl", target_of(server.url)).run(once=True)

        proof = prove(stored(server.url), keys=[read_key(tmp_path / "verify.key")])

        assert ("ok", "ok") == (proof.verdict, proof.arrived[0].report.seals.verdict)


class TestCommands:
    """
    The same from the command line.
    """

    def harken(self, *args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "harken", *args], capture_output=True, text=True, check=False
        )

    def test_verify_from(self, logs: list[Log], server: Server) -> None:
        """
        One line for each log, and one for those that are missing.
        """
        for log in logs:
            log.write(10)
        forward_all(logs, server.url)

        done = self.harken("verify", "--from", server.url, "--expect", "/test/host-7")

        assert 3 == done.returncode, done.stderr
        assert [("ok", f"/test/host-{number}") for number in range(3)] + [
            ("missing", "/test/host-7")
        ] == [tuple(line.split()[:2]) for line in done.stdout.splitlines()[:4]]

    def test_query_from(self, logs: list[Log], server: Server) -> None:
        """
        The records of all logs, in the order of time.
        """
        for count in range(3):
            for log in logs:
                log.write(count + 1)
        forward_all(logs, server.url)

        done = self.harken(
            "query", "--from", server.url, "--type", "forward_test.*", "--limit", "0"
        )

        assert 0 == done.returncode, done.stderr
        lines = [line.encode() + b"\n" for line in done.stdout.splitlines()]
        assert (
            sorted(line for log in logs for line in lines_of(log.path) if b"forward_test." in line)
            == lines
        )

    def test_tail_from_follows(self, logs: list[Log], server: Server) -> None:
        """
        What arrives is printed.
        """
        logs[0].write(3)
        forward_all(logs, server.url)
        process = subprocess.Popen(
            [sys.executable, "-m", "harken", "tail", "-f", "-n", "1", "--from", server.url],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        try:
            first = process.stdout.readline()
            logs[1].write(1)
            forward_all(logs, server.url)
            second = process.stdout.readline()
        finally:
            process.kill()
            process.wait()
            process.stdout.close()

        assert (logs[0].count, 1) == (
            harken.trail.Entry(first.encode(), "", 0).record.metadata["number"],
            harken.trail.Entry(second.encode(), "", 0).record.metadata["number"],
        )

    def test_whose_record_it_is(self, logs: list[Log], server: Server) -> None:
        """
        A person sees which log a record came from, and may ask for some logs only.
        """
        for log in logs:
            log.write(2)
        forward_all(logs, server.url)
        text = ("--from", server.url, "-o", "text", "--type", "forward_test.*")

        every = self.harken("query", *text)
        some = self.harken("tail", *text, "--source", "*-1", "--source", "/test/host-2")
        none = self.harken("query", *text, "--source", "host-1")

        def sources(done: subprocess.CompletedProcess[str]) -> list[str]:
            return [line.split()[3] for line in done.stdout.splitlines()]

        assert sorted(2 * [f"/test/host-{number}" for number in range(3)]) == sorted(sources(every))
        assert ["/test/host-1"] * 2 + ["/test/host-2"] * 2 == sorted(sources(some))
        assert "" == none.stdout
        told = "there is nothing of host-1; what is there is of /test/host-0, /test/host-1"
        assert none.stderr.startswith(f"Warning: {told}")

        envelope = self.harken("query", "--from", server.url, "--source", "host-1", "-o", "json")

        answer = json.loads(envelope.stdout)
        assert ([], None) == (answer["data"], answer["meta"]["log"])
        assert answer["warnings"][0].startswith(told)

    def test_an_outage_is_told_once(self, logs: list[Log], server: Server) -> None:
        """
        Once while the engine is tried again, and once as what ended it.
        """
        logs[0].write(1)
        server.kill()
        argv = ("forward", "-F", str(logs[0].path), "--to", server.url, "--once")

        done = self.harken(*argv, "--patience", "0.5")

        assert 1 == done.returncode
        assert ["harken: warning: forwarding", "Error:"] == [
            line.partition(" of ")[0] if "stalls" in line else line.split()[0]
            for line in done.stderr.splitlines()
        ]

    def test_forward_says_what_it_did(self, logs: list[Log], server: Server) -> None:
        """
        How many lines are new, and where.
        """
        logs[0].write(3)
        argv = ("forward", "-F", str(logs[0].path), "--to", server.url, "--once")

        done = self.harken(*argv)

        assert 0 == done.returncode, done.stderr
        assert done.stderr.startswith(f"{len(logs[0].lines)} lines of {logs[0].path} are new in")

    def test_a_password_is_not_shown(self, logs: list[Log], server: Server) -> None:
        """
        Whoever refuses is named without it.
        """
        stop(server)
        logs[0].write(1)
        url = server.url.replace("//", "//me:hidden@")
        argv = ("forward", "-F", str(logs[0].path), "--to", url, "--once", "--patience", "0")

        done = self.harken(*argv)

        assert 1 == done.returncode
        assert f"127.0.0.1:{server.port}" in done.stderr
        assert "hidden" not in done.stderr


def test_all_four_sinks_hear_it_on_another_machine(
    server: Server, run_python: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    """
    What a demo did here is in the audit log, the metrics, the log and the spans of there.
    """
    subprocess.run(
        [sys.executable, "-m", "harken", "demo", "--out", str(tmp_path / "near")],
        check=True,
        capture_output=True,
    )
    Forwarder(tmp_path / "near" / "audit.jsonl", target_of(server.url)).run(once=True)
    code = """
import sys
import harken
from harken.forward import consume

bus = harken.configure(
    audit_jsonl_path="far/audit.jsonl", metrics_file_path="far/metrics.prom",
    log_path="far/events.log", traces="file:far/spans.jsonl", log_application=False,
)
for envelope in consume(sys.argv[1], group="far", seconds=0.5):
    bus.republish(envelope)
bus.flush()
print([one.name for one in bus.health().values() if one.failures])
bus.close()
"""
    (tmp_path / "far").mkdir()

    assert "[]\n" == run_python(code, server.url).stdout

    def ids(folder: str) -> list[str | None]:
        with harken.trail.open(tmp_path / folder / "audit.jsonl") as trail:
            return [
                record.id
                for record in trail.records()
                if not record.event_type.startswith(("audit.", "harken."))
            ]

    def spans(folder: str) -> set[tuple[str, str]]:
        lines = (tmp_path / folder / "spans.jsonl").read_text().splitlines()
        return {(span["trace_id"], span["span_id"]) for span in map(json.loads, lines)}

    assert ids("near") == ids("far")
    assert (tmp_path / "far" / "metrics.prom").stat().st_size > 1000
    assert (tmp_path / "far" / "events.log").read_text().count("\n") >= len(ids("far"))
    # What is not audited stays here.
    assert len(spans("far")) > 10
    assert spans("far") <= spans("near")
