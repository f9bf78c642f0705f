"""
What every target of forwarding has to stand: the same for each engine.
"""

from __future__ import annotations

import json
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from tests.forward.conftest import Forward, Log, Stream
from tests.forward.engines import Engine, Stored
from tests.forward.servers import Server, Way
from tests.servers import wait_for

from harken.forward import (
    Forwarder,
    Position,
    RefusedError,
    UnavailableError,
    cursor_path,
    to_message,
)

Arrived = Callable[[], None]

pytestmark = pytest.mark.once


def test_every_line_arrives_letter_for_letter(
    forward: Forward, log: Log, arrived: Arrived, stream: Stream
) -> None:
    """
    The stream is the log, over all its files, with its control records and in its order.
    """
    log.write(1000)

    forward().run(once=True)

    assert len(list(log.path.parent.glob("audit.jsonl.2*"))) > 3
    arrived()
    assert {f"/harken/{socket.gethostname()}"} == {stored.source for stored in stream()}


def test_a_second_run_sends_what_is_new(forward: Forward, log: Log, arrived: Arrived) -> None:
    """
    What is in the stream is not sent again.
    """
    log.write(150)
    forward().run(once=True)
    count = len(log.lines)
    log.write(50)
    second = forward()

    second.run(once=True)

    arrived()
    assert len(log.lines) - count == second.forwarded


def test_what_is_written_meanwhile_follows(forward: Forward, log: Log, arrived: Arrived) -> None:
    """
    A forwarder that runs follows the log over rotations.
    """
    log.write(10)

    with forward():
        log.write_on()
        time.sleep(1)
        log.rest()
        arrived()


def test_the_server_is_killed_for_a_while(
    forward: Forward, log: Log, server: Server, arrived: Arrived
) -> None:
    """
    Nothing is lost and nothing is there twice when the server was away, and publishing goes on.
    """
    with forward() as forwarder:
        log.write_on()
        wait_for(lambda: forwarder.forwarded > 100, "the first lines")
        server.kill()
        count = log.count
        wait_for(lambda: forwarder.failures > 2 and log.count > count + 100, "an outage")
        server.start()
        log.rest()
        arrived()


def test_the_server_is_killed_at_any_moment(
    forward: Forward, log: Log, server: Server, arrived: Arrived
) -> None:
    """
    Also in the middle of a batch: 15 kills under load.
    """
    chance = random.Random(1)

    with forward():
        log.write_on(0)
        for _ in range(15):
            time.sleep(chance.uniform(0.02, 0.2))
            server.kill()
            server.start()
        log.rest()
        arrived()


def test_the_forwarder_is_killed_at_any_moment(
    log: Log, server: Server, arrived: Arrived, tmp_path: Path
) -> None:
    """
    Another one goes on where it was; it has no time to write its cursor.
    """
    argv = [sys.executable, "-m", "harken", "forward", "-F", str(log.path), "--to", server.url]

    log.write_on(0.0005)
    for _ in range(4):
        with (tmp_path / "forward.txt").open("ab") as output:
            process = subprocess.Popen(argv, stderr=output)
        time.sleep(random.uniform(0.4, 0.9))
        process.kill()
        assert -signal.SIGKILL == process.wait()
    log.rest()
    done = subprocess.run([*argv, "--once"], capture_output=True, text=True, check=False)

    assert 0 == done.returncode, done.stderr
    arrived()


def test_the_network_swallows_everything(
    forward: Forward, log: Log, way: Way, arrived: Arrived
) -> None:
    """
    No answer, no end of the connection: the forwarder gives it up, and goes on when it can.
    """
    with forward(way.port) as forwarder:
        log.write_on()
        wait_for(lambda: forwarder.forwarded > 100, "the first lines")
        way.blocked = True
        count = log.count
        wait_for(lambda: forwarder.failures and log.count > count + 100, "an outage")
        way.blocked = False
        way.cut()
        log.rest()
        arrived()


def test_an_answer_is_lost(forward: Forward, log: Log, way: Way, arrived: Arrived) -> None:
    """
    The server took the batch, but nobody heard of it.
    """
    with forward(way.port, timeout=5.0) as forwarder:
        wait_for(lambda: forwarder.lag.bytes == 0, "the log to be in the stream")
        for _ in range(5):
            way.delay = 0.3
            log.write(30)
            time.sleep(0.15)
            way.cut()
            way.delay = 0.0
            wait_for(lambda: forwarder.lag.bytes == 0, "the log to be in the stream")
        arrived()
    assert forwarder.failures


def test_the_server_comes_back_empty(
    forward: Forward, log: Log, server: Server, arrived: Arrived
) -> None:
    """
    It gets all again that the log still has.
    """
    with forward() as forwarder:
        log.write(300)
        arrived()
        server.kill()
        server.empty()
        log.write(20)
        server.start()
        arrived()
        wait_for(lambda: forwarder.lag.bytes == 0, "the log to be in the stream")


def test_the_cursor_is_lost(forward: Forward, log: Log, arrived: Arrived) -> None:
    """
    Where to go on is what the stream says.
    """
    log.write(300)
    forward().run(once=True)
    count = len(log.lines)
    Path(cursor_path(log.path)).unlink()
    log.write(10)
    second = forward()

    second.run(once=True)

    arrived()
    assert len(log.lines) - count == second.forwarded


def test_half_a_batch_is_there(
    engine: Engine, forward: Forward, log: Log, server: Server, arrived: Arrived
) -> None:
    """
    The rest of it follows.
    """
    log.write(90)
    source = f"/harken/{socket.gethostname()}"
    target = engine.target(server.url)
    at, batch = Position(1, 0), []
    for line in log.lines[:40]:
        batch.append(to_message(line, at))
        at = batch[-1].position
    target.open(source)
    target.send(batch)
    target.close()

    forward().run(once=True)

    arrived()


def test_a_batch_is_sent_twice(engine: Engine, log: Log, server: Server, stream: Stream) -> None:
    """
    The engine refuses what it has: whoever sends it again is told so, or it is without effect.
    """
    log.write(20)
    at, batch = Position(1, 0), []
    for line in log.lines:
        batch.append(to_message(line, at))
        at = batch[-1].position
    target = engine.target(server.url)
    target.open(f"/harken/{socket.gethostname()}")
    target.send(batch)
    with suppress(UnavailableError):
        target.send(batch)
    held = target.open(f"/harken/{socket.gethostname()}")
    target.close()

    assert log.lines == [stored.line for stored in stream()]
    assert at == held


def test_a_line_that_is_no_record(
    forward: Forward, log: Log, stream: Stream, tmp_path: Path
) -> None:
    """
    It goes to the rejected file with the reason, and all others arrive.
    """
    log.write(5)
    with log.path.open("ab") as file:
        file.write(b"nobody wrote this\n")
    log.write(5)
    forwarder = forward()

    forwarder.run(once=True)

    with (tmp_path / "forward-audit.jsonl.rejected.jsonl").open(encoding="utf-8") as file:
        (rejected,) = map(json.loads, file)
    assert ("nobody wrote this", str(log.path)) == (rejected["line"], rejected["file"])
    assert 1 == forwarder.rejected
    assert log.lines == [stored.line for stored in stream()]


def test_a_slow_server(forward: Forward, log: Log, way: Way, arrived: Arrived) -> None:
    """
    It takes its time; publishing does not wait.
    """
    way.delay = 0.1
    with forward(way.port):
        log.write_on()
        time.sleep(1.5)
        log.rest()
        way.delay = 0.0
        arrived()


def test_the_log_is_moved_while_the_server_is_away(
    forward: Forward, log: Log, server: Server, arrived: Arrived
) -> None:
    """
    Renamed, and copied and emptied, as logrotate does both.
    """
    with forward() as forwarder:
        log.write(20)
        arrived()
        server.kill()
        log.write(20)
        shutil.copyfile(log.path, f"{log.path}.2")
        log.path.open("wb").close()
        log.write(20)
        log.path.rename(f"{log.path}.1")
        log.write(20)
        wait_for(lambda: forwarder.failures, "an outage")
        server.start()
        arrived()


def test_the_log_is_emptied_while_it_is_forwarded(
    forward: Forward, log: Log, way: Way, arrived: Arrived
) -> None:
    """
    What was copied before the forwarder had read it is found in the copy.
    """
    way.delay = 0.2
    with forward(way.port, timeout=5.0):
        log.write_on(0.0005)
        for number in range(3):
            time.sleep(0.3)
            log.rest()
            shutil.copyfile(log.path, f"{log.path}.{number + 1}")
            log.path.open("wb").close()
            log.write_on(0.0005)
        log.rest()
        way.delay = 0.0
        arrived()


def test_the_log_begins_anew(
    engine: Engine, forward: Forward, log: Log, server: Server, stream: Stream, tmp_path: Path
) -> None:
    """
    Another log in its place has numbers that were there before; the stream gets them all.
    """
    log.write(30)
    forward().run(once=True)
    first = log.lines
    for file in tmp_path.glob("audit.jsonl*"):
        file.unlink()
    other = Log(log.path)
    other.write(10)
    other.bus.close()

    Forwarder(log.path, engine.target(server.url)).run(once=True)

    assert [*first, *other.lines] == [stored.line for stored in stream()]
    assert {"1", "2"} == {stored.name.partition("-")[0] for stored in stream()}


def test_two_logs_do_not_share_a_stream(
    engine: Engine, log: Log, server: Server, tmp_path: Path
) -> None:
    """
    Each source has its own.
    """
    other = Log(tmp_path / "other.jsonl")
    other.write(10)
    log.write(10)
    for made, source in ((log, "/a/one"), (other, "/a/two")):
        Forwarder(made.path, engine.target(server.url), source=source).run(once=True)
    other.bus.close()

    def lines(source: str) -> list[bytes]:
        found: list[Stored] = engine.stored(server.url, source)
        return [stored.line for stored in found]

    assert log.lines == lines("/a/one")
    assert other.lines[: len(lines("/a/two"))] == lines("/a/two")


def test_two_logs_with_one_source(engine: Engine, log: Log, server: Server, tmp_path: Path) -> None:
    """
    The one that was overtaken ends, and says why, also when it is begun anew; else each would send
    all of its log again and again.
    """
    other = Log(tmp_path / "other.jsonl")
    other.write(10)
    log.write(10)
    first = Forwarder(log.path, engine.target(server.url), source="/same")
    first.run(once=True)
    second = Forwarder(other.path, engine.target(server.url), source="/same")
    second.run(once=True)
    held = len(engine.stored(server.url, "/same"))
    log.write(1)

    for overtaken in (first, Forwarder(log.path, engine.target(server.url), source="/same")):
        with pytest.raises(RefusedError, match="another log is forwarded as /same; give each"):
            overtaken.run(once=True)

    assert held == len(engine.stored(server.url, "/same"))
    other.write(1)
    second.run(once=True)
    assert other.lines == [one.line for one in engine.stored(server.url, "/same")[held - 11 :]]
    other.bus.close()


def test_the_stream_is_removed_while_the_server_runs(
    engine: Engine, forward: Forward, log: Log, server: Server, arrived: Arrived
) -> None:
    """
    It is as if the server came back empty.
    """
    with forward():
        log.write(300)
        arrived()
        engine.lose(server.url)
        log.write(20)
        arrived()


def test_nobody_answers(engine: Engine, log: Log, server: Server, forward: Forward) -> None:
    """
    Whoever has no patience is told.
    """
    server.kill()
    log.write(1)

    with pytest.raises(UnavailableError, match=r"cannot be reached|does not answer"):
        forward().run(once=True, patience=0.3)
