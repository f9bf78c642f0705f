"""
Logs that are forwarded, and the engine that they arrive at.
"""

from __future__ import annotations

import os
import shutil
import sys

from behave import given, then, when
from command_steps import run
from scene import Scene
from tests.forward.servers import RedisServer, stop
from tests.servers import wait_for

import harken.trail
from harken import Bus
from harken.catalog import ToolStarted
from harken.forward import Forwarder, consume, stored, target_of
from harken.sinks.audit import AuditLog


@given("an engine that keeps streams")
def engine(context: Scene) -> None:
    if shutil.which("redis-server") is None:
        assert os.environ.get("HARKEN_REQUIRE_SERVERS") != "1", "redis-server is not installed"
        context.scenario.skip("redis-server is not installed")
        return
    context.engine = RedisServer("redis-server", context.folder / "engine")
    context.engine_url = context.engine.url
    context.engine.start()
    context.add_cleanup(stop, context.engine)


def call_tools(context: Scene, count: int) -> None:
    for _ in range(count):
        with context.agent_bus.operation(ToolStarted(tool_name="search")):
            pass


def lines_of(context: Scene) -> list[bytes]:
    with harken.trail.open(context.forwarded_log) as trail:
        return [entry.line for entry in trail.entries()]


def arrived(context: Scene) -> list[bytes]:
    return [one.line for one in stored(context.engine_url)]


@given("an agent whose log is being forwarded")
def agent_that_is_forwarded(context: Scene) -> None:
    context.forwarded_log = context.folder / "audit.jsonl"
    context.agent_bus = Bus()
    context.agent_bus.attach(AuditLog(context.forwarded_log))
    context.add_cleanup(context.agent_bus.close)
    forwarder = Forwarder(context.forwarded_log, target_of(context.engine_url))
    forwarder.start()
    context.add_cleanup(forwarder.stop)
    context.forwarder = forwarder
    call_tools(context, 5)
    wait_for(lambda: arrived(context) == lines_of(context), "the first lines")


@when("the engine is killed, the agent calls {count:d} tools, and the engine comes back")
def engine_is_away(context: Scene, count: int) -> None:
    context.engine.kill()
    call_tools(context, count)
    wait_for(lambda: context.forwarder.failures, "the forwarder to notice")
    context.engine.start()


@given('the log of the host "{host}" has arrived')
def log_has_arrived(context: Scene, host: str) -> None:
    folder = context.folder / host
    folder.mkdir()
    context.host, context.forwarded_log = host, folder / "audit.jsonl"
    context.agent_bus = Bus()
    context.agent_bus.attach(AuditLog(context.forwarded_log))
    call_tools(context, 20)
    context.agent_bus.close()
    forward(context)
    assert context.ran.returncode == 0, context.ran.stderr


def forward(context: Scene) -> None:
    argv = (sys.executable, "-m", "harken", "forward", "-F", str(context.forwarded_log), "--once")
    run(context, *argv, "--to", context.engine_url, "--source", f"/feature/{context.host}")


@when("its cursor is lost, and it is forwarded again")
def cursor_is_lost(context: Scene) -> None:
    (context.forwarded_log.parent / "forward-audit.jsonl.cursor").unlink()
    forward(context)


@then("what arrives is the log, line for line")
def log_arrives(context: Scene) -> None:
    expected = lines_of(context)
    wait_for(lambda: len(arrived(context)) >= len(expected), "the log to arrive")
    assert expected == arrived(context)


@when('the operator verifies what arrived, and expects "{first}" and "{second}"')
def operator_verifies(context: Scene, first: str, second: str) -> None:
    expected = (f"--expect=/feature/{host}" for host in (first, second))
    argv = (sys.executable, "-m", "harken", "verify", "--from", context.engine_url)
    run(context, *argv, *expected)


@when("a bus on another machine publishes again what arrived")
def another_bus(context: Scene) -> None:
    bus = Bus()
    context.heard_ids = []
    bus.subscribe(lambda envelope: context.heard_ids.append(envelope.id))
    for envelope in consume(context.engine_url, group="far", seconds=0.5):
        bus.republish(envelope)
    bus.close()


@then("its handlers hear each event once, with the id that it has in the log")
def handlers_hear(context: Scene) -> None:
    with harken.trail.open(context.forwarded_log) as trail:
        ids = [one.id for one in trail.records() if not one.event_type.startswith("audit.")]
    assert ids == context.heard_ids, context.heard_ids
