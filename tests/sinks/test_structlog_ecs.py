"""
Log lines under the names of the Elastic Common Schema.
"""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

import harken
from harken import Bus, Event, Outcome, catalog, event_types
from harken.catalog import ToolDenied, ToolFailed, ToolStarted
from harken.sinks.structlog import ConfiguredLogging, LogHandler, configure_logging
from harken.sinks.structlog._ecs import to_ecs
from harken.testing import capture, fixed_bus

SECRET = "ghp_" + "a1B2" * 9


class Rude(Event, name="ecs_test.rude", outcome="failure"):
    """An event that cannot be read."""

    @property
    def error_type(self) -> str:
        raise LookupError("no")


def strict(line: str) -> dict[str, Any]:
    """
    Decode one JSON line, whose members must have different names.
    """

    def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len(pairs) == len(dict(pairs))
        return dict(pairs)

    decoded: dict[str, Any] = json.loads(line, object_pairs_hook=members)
    return decoded


class Log(io.StringIO):
    """
    A stream that decodes what was written to it.
    """

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [strict(line) for line in self.getvalue().splitlines()]

    @property
    def line(self) -> dict[str, Any]:
        [line] = self.lines
        return line


@pytest.fixture
def log() -> Iterator[Log]:
    """
    The application's logging in ECS, undone afterwards.
    """
    stream = Log()
    with configure_logging("ecs", stream=stream, service_name="billing"):
        yield stream
    structlog.reset_defaults()


class TestEvents:
    """
    The line of an event.
    """

    def test_names(self) -> None:
        """
        Each field has the schema's name; what the schema has none for is a label, or harken's own.
        """
        stream = Log()
        bus = fixed_bus()
        bus.attach(LogHandler(stream, format="ecs", service_name="billing"), delivery="inline")
        with harken.scope(
            traceparent=f"00-{'1' * 32}-{'2' * 16}-01",
            correlation_id="c-9",
            run_id="r-42",
            session_id="s-1",
            request_id="q-1",
            phase="execution",
            actor="agent:fixer",
            tenant="acme",
        ):
            envelope = bus.publish(ToolDenied(tool_name="rm", rule="no-delete"))

        assert envelope is not None
        data = stream.line.pop("harken.data")
        assert {
            "@timestamp": "2026-01-02T03:04:05.000000Z",
            "log.level": "warning",
            "message": "tool denied: tool:rm",
            "event.action": "tool.denied",
            "event.kind": "event",
            "event.module": "harken",
            "event.dataset": "harken.events",
            "log.logger": "harken.events",
            "event.outcome": "failure",
            "harken.outcome": "denied",
            "trace.id": "1" * 32,
            "span.id": envelope.span_id,
            "labels.correlation_id": "c-9",
            "labels.run_id": "r-42",
            "labels.session_id": "s-1",
            "labels.request_id": "q-1",
            "labels.phase": "execution",
            "labels.actor": "agent:fixer",
            "event.id": envelope.id,
            "harken.attributes": {"tenant": "acme"},
            "harken.data": data,
            "service.name": "billing",
            "ecs.version": "8.17.0",
        } == stream.line
        assert ("rm", "no-delete") == (data["tool_name"], data["rule"])
        assert ["@timestamp", "log.level", "message"] == list(stream.line)[:3]

    def test_same_as_json(self) -> None:
        """
        Every type of the catalog, with every outcome, says what its line of JSON says.
        """
        bus = Bus()
        with capture(bus) as heard:
            for cls in event_types().values():
                if cls.__module__.startswith(catalog.__name__):
                    with harken.scope(run_id=cls.__name__, tenant="acme"):
                        bus.publish(harken.decode(_name(cls), _filled(cls)))
            for outcome in Outcome:
                bus.publish(ToolFailed(tool_name="t", outcome=outcome.value, error_type="E"))
            bus.close()
        plain, ecs = Log(), Log()
        for stream, format in ((plain, "json"), (ecs, "ecs")):
            handler = LogHandler(
                stream,
                format=format,  # type: ignore[arg-type]
                level="debug",
                levels={"llm.chunk": "debug"},
            )
            handler.write(heard.envelopes)

        assert len(heard.envelopes) == len(ecs.lines) > 100
        assert [list(to_ecs(line).items()) for line in plain.lines] == [
            list(line.items()) for line in ecs.lines
        ]

    @pytest.mark.parametrize(
        ("outcome", "shown"),
        [
            ("success", "success"),
            ("failure", "failure"),
            ("timeout", "failure"),
            ("orphaned", "failure"),
            ("cancelled", "unknown"),
            ("deferred", "unknown"),
        ],
    )
    def test_outcomes(self, outcome: str, shown: str) -> None:
        """
        The schema knows three outcomes; harken's own stands beside.
        """
        stream = Log()
        bus = fixed_bus()
        bus.attach(LogHandler(stream, format="ecs"), delivery="inline")
        bus.publish(ToolFailed(tool_name="t", outcome=outcome))

        assert (shown, outcome) == (stream.line["event.outcome"], stream.line["harken.outcome"])

    def test_start_has_no_outcome(self) -> None:
        """
        What has only begun has none.
        """
        stream = Log()
        bus = fixed_bus()
        bus.attach(LogHandler(stream, format="ecs"), delivery="inline")
        bus.publish(ToolStarted(tool_name="t"))

        assert "event.outcome" not in stream.line

    def test_unreadable(self) -> None:
        """
        An event that cannot be read has a line under the same names.
        """
        stream = Log()
        bus = fixed_bus()
        bus.attach(LogHandler(stream, format="ecs"), delivery="inline")
        bus.publish(Rude())

        assert {
            "log.level": "error",
            "message": "ecs test rude: [UNPRINTABLE:LookupError]",
            "event.action": "ecs_test.rude",
            "event.outcome": "failure",
            "error.type": "LookupError",
            "harken.data": {},
            "ecs.version": "8.17.0",
        }.items() <= stream.line.items()


class TestLogCalls:
    """
    The line of a log call.
    """

    def test_plain_names_are_labels(self, log: Log) -> None:
        """
        A plain name could be an object of the schema, so it becomes a label; many values are data.
        """
        with harken.scope(run_id="r-42"):
            structlog.get_logger("app").warning(
                "disk full", host="web-1", level=3, disks=["a", "b"], user={"id": 7}
            )

        line = log.line
        assert {
            "log.level": "warning",
            "message": "disk full",
            "log.logger": "app",
            "labels.run_id": "r-42",
            "labels.host": "web-1",
            "labels.level": 3,
            "harken.data": {"disks": ["a", "b"], "user": {"id": 7}},
            "service.name": "billing",
            "ecs.version": "8.17.0",
        }.items() <= line.items()
        assert not {"host", "level", "disks", "user", "schema", "severity_number"} & line.keys()

    def test_dotted_names_stay(self, log: Log) -> None:
        """
        Who knows the schema's names can use them; those of the line itself are below data.
        """
        logging.getLogger("app").warning(
            "served", extra={"http.request.method": "GET", "log.level": "x", "labels.run_id": "y"}
        )

        assert "GET" == log.line["http.request.method"]
        assert ("warning", {"log.level": "x", "labels.run_id": "y"}) == (
            log.line["log.level"],
            log.line["harken.data"],
        )

    def test_ids_of_the_scope_stay(self, log: Log) -> None:
        """
        A field called like an id of the scope does not replace it.
        """
        with harken.scope(run_id="r-42"):
            structlog.get_logger().info("x", run_id="mine")

        assert ("r-42", {"run_id": "mine"}) == (
            log.line["labels.run_id"],
            log.line["harken.data"],
        )

    def test_exception(self, log: Log) -> None:
        """
        An error has its class, its message, and its traceback as text without local variables.
        """
        token = "local-value"
        try:
            raise ValueError(f"no {SECRET} {len(token)}")
        except ValueError:
            logging.getLogger("app").exception("failed", stack_info=True)

        line = log.line
        assert ("ValueError", "no [REDACTED:github_token] 11") == (
            line["error.type"],
            line["error.message"],
        )
        assert line["error.stack_trace"].startswith("Traceback (most recent call last):\n")
        assert "ValueError: no [REDACTED" in line["error.stack_trace"]
        assert token not in line["error.stack_trace"].replace('token = "local-value"', "")
        assert SECRET not in log.getvalue()

    def test_stack(self, log: Log) -> None:
        """
        A stack without an error stands where the schema has stacks.
        """
        logging.getLogger("app").warning("here", stack_info=True)

        assert "test_structlog_ecs" in log.line["error.stack_trace"]

    def test_secrets_in_labels(self, log: Log) -> None:
        """
        A field whose name says that it is a secret is redacted under its new name, too.
        """
        structlog.get_logger().info("x", api_key="abc", password="def")

        assert "abc" not in log.getvalue()
        assert "def" not in log.getvalue()

    def test_last_resort(self) -> None:
        """
        A record that cannot be rendered has a line under the same names.
        """

        class Broken(harken.redaction.Redactor):
            def suspicious(self, line: bytes) -> bool:
                raise RuntimeError("no")

        stream = Log()
        with configure_logging("ecs", stream=stream, redactor=Broken()) as configured:
            logging.getLogger("app").warning("x")

        assert isinstance(configured, ConfiguredLogging)
        assert {
            "log.level": "error",
            "message": "a log record could not be rendered",
            "log.logger": "app",
            "error.type": "RuntimeError",
            "ecs.version": "8.17.0",
        } == {name: value for name, value in stream.line.items() if name != "@timestamp"}


def _name(cls: type[Event]) -> str:
    return harken.describe(cls).name


def _filled(cls: type[Event]) -> dict[str, Any]:
    properties = harken.schema(cls)
    values = {"string": "x", "integer": 1, "number": 0.5, "boolean": True}
    return {
        name: values.get(properties["properties"][name].get("type"), {})
        for name in properties.get("required", ())
    }
