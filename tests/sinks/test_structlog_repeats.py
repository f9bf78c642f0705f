"""
Lines that say the same, and how many of them are written.
"""

from __future__ import annotations

import io
import json
import logging
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

import harken
from harken import Bus, Event
from harken.catalog import LlmFailed, PrCreated, ToolFailed, ToolStarted
from harken.errors import SettingsError
from harken.sinks.audit import AuditLog
from harken.sinks.prometheus import PrometheusInstrumenter
from harken.sinks.structlog import LogHandler, configure_logging
from harken.testing import FixedClock

SECRET = "ghp_" + "a1B2" * 9


class Rude(Event, name="repeats_test.rude", outcome="failure"):
    """An event that cannot be read."""

    @property
    def error_type(self) -> str:
        raise LookupError("no")


class Log(io.StringIO):
    """
    A stream that decodes what was written to it.
    """

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.getvalue().splitlines()]

    @property
    def messages(self) -> list[str]:
        return [line["message"] for line in self.lines]


@pytest.fixture
def end_minute(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """
    A function that lets the minute of all lines be over, from now on.
    """
    return lambda: monkeypatch.setattr("harken.sinks.structlog._repeats.PERIOD_NS", 0)


@pytest.fixture
def stream() -> Log:
    """
    Where the lines go.
    """
    return Log()


@pytest.fixture
def bus(stream: Log) -> Iterator[Bus]:
    """
    A bus whose repeated events are logged twice a minute.
    """
    bus = Bus()
    bus.attach(LogHandler(stream, max_repeats=2), delivery="inline")
    yield bus
    bus.close()


class TestEvents:
    """
    Events that are repeated.
    """

    def test_what_is_suppressed_is_said(
        self, bus: Bus, end_minute: Callable[[], None], stream: Log
    ) -> None:
        """
        After the minute, one line says how much was not written, and the next one is written.
        """
        for _ in range(5):
            bus.publish(ToolFailed(tool_name="search", error_type="KeyError"))
        end_minute()
        bus.publish(ToolFailed(tool_name="search", error_type="KeyError"))

        first, second, about, again = stream.lines
        assert ["tool failed: tool:search"] * 3 == [
            line["message"] for line in (first, second, again)
        ]
        assert second["timestamp"] <= about["timestamp"]
        assert {
            "level": "error",
            "severity_number": 17,
            "message": "3 more like this within a minute: tool failed: tool:search",
            "event_name": "tool.failed",
            "otel.event.name": "tool.failed",
            "logger": "harken.events",
            "outcome": "failure",
            "error.type": "KeyError",
            "suppressed": 3,
            "schema": "harken.log/1",
        } == {name: value for name, value in about.items() if name != "timestamp"}

    def test_only_what_says_the_same(self, bus: Bus, stream: Log) -> None:
        """
        Another tool, another error or another outcome is another line; another run is not.
        """
        for run in range(2):
            with harken.scope(run_id=f"r-{run}"):
                for tool in ("a", "b"):
                    for kind in ("KeyError", "OSError"):
                        bus.publish(ToolFailed(tool_name=tool, error_type=kind))
                bus.publish(ToolFailed(tool_name="a", error_type="KeyError", outcome="timeout"))
        with harken.scope(run_id="r-3"):
            bus.publish(ToolFailed(tool_name="a", error_type="KeyError"))

        assert 10 == len(stream.lines)

    def test_other_events_go_on(self, bus: Bus, stream: Log) -> None:
        """
        What is not repeated is written between what is.
        """
        for number in range(4):
            bus.publish(LlmFailed(model="m"))
            bus.publish(PrCreated(url=str(number)))

        assert [
            *("llm failed: model:m", "pr created: pr:0", "llm failed: model:m"),
            *("pr created: pr:1", "pr created: pr:2", "pr created: pr:3"),
        ] == stream.messages

    def test_said_by_the_next_event_of_any_kind(
        self, bus: Bus, end_minute: Callable[[], None], stream: Log
    ) -> None:
        """
        The repetition may have ended: whatever is logged next makes it known.
        """
        for _ in range(3):
            bus.publish(LlmFailed(model="m"))
        end_minute()
        bus.publish(PrCreated(url="u"))

        assert ["1 more like this within a minute: llm failed: model:m", "pr created: pr:u"] == (
            stream.messages[2:]
        )

    def test_said_at_close(self, bus: Bus, stream: Log) -> None:
        """
        Nothing that was counted is lost at the end.
        """
        for _ in range(7):
            bus.publish(LlmFailed(model="m"))
        bus.close()

        assert "5 more like this within a minute: llm failed: model:m" == stream.messages[-1]
        assert 3 == len(stream.messages)

    def test_said_in_the_file(self, tmp_path: Path) -> None:
        """
        The line at close is in the file that is then closed.
        """
        handler = LogHandler(path=tmp_path / "events.log", max_repeats=1)
        bus = Bus()
        bus.attach(handler)
        for _ in range(3):
            bus.publish(LlmFailed(model="m"))
        bus.close()
        handler.close(1)

        messages = [
            json.loads(line)["message"]
            for line in (tmp_path / "events.log").read_text().splitlines()
        ]
        assert [
            "llm failed: model:m",
            "2 more like this within a minute: llm failed: model:m",
        ] == messages

    def test_clock_that_steps_back(self, stream: Log) -> None:
        """
        The wall clock decides nothing; it is only written down.
        """
        clock = FixedClock()
        bus = Bus(clock=clock)
        bus.attach(LogHandler(stream, max_repeats=2), delivery="inline")
        for _ in range(4):
            bus.publish(LlmFailed(model="m"))
            clock.advance(-3600)
        bus.close()

        assert [
            *["llm failed: model:m"] * 2,
            "2 more like this within a minute: llm failed: model:m",
        ] == stream.messages
        assert ["2026-01-02T03:04:05.000000Z", "2026-01-02T02:04:05.000000Z"] == [
            line["timestamp"] for line in stream.lines[:2]
        ]

    def test_below_the_level(self, stream: Log) -> None:
        """
        What would not be written anyhow is not counted.
        """
        bus = Bus()
        handler = LogHandler(stream, level="critical", max_repeats=1)
        bus.attach(handler, delivery="inline")
        for _ in range(3):
            bus.publish(LlmFailed(model="m"))
        bus.close()

        assert ("", 0) == (stream.getvalue(), handler.suppressed_lines)

    def test_unreadable(self, bus: Bus, stream: Log) -> None:
        """
        Events that cannot be read are all written: nobody knows whether they say the same.
        """
        for _ in range(4):
            bus.publish(Rude())

        assert 4 == len(stream.lines)

    @pytest.mark.parametrize("format", ["json", "text", "ecs"])
    def test_formats(self, format: Any) -> None:
        """
        In each format, the line that says it looks like its neighbours.
        """
        stream = io.StringIO()
        bus = Bus()
        bus.attach(LogHandler(stream, format=format, max_repeats=1), delivery="inline")
        for _ in range(3):
            bus.publish(ToolFailed(tool_name="a\nb", error_type="KeyError"))
        bus.close()

        first, about = stream.getvalue().splitlines()
        assert "2 more like this within a minute: tool failed: tool:a" in about
        assert "KeyError" in about
        assert {"json": '"suppressed":2', "text": "suppressed=2", "ecs": '"harken.suppressed":2'}[
            format
        ] in about
        assert "more like this" not in first

    def test_memory_is_bounded(
        self, bus: Bus, stream: Log, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """
        Of very many different lines only the newest are remembered; no count of others is lost.
        """
        monkeypatch.setattr("harken.sinks.structlog._repeats.MAX_COMPARED", 10)
        for _ in range(5):
            bus.publish(LlmFailed(model="first"))
        for number in range(50):
            bus.publish(LlmFailed(model=f"m-{number}"))
        bus.publish(LlmFailed(model="first"))

        assert 1 == stream.messages.count(
            "3 more like this within a minute: llm failed: model:first"
        )
        assert 3 == stream.messages.count("llm failed: model:first")

    def test_off_by_default(self, stream: Log) -> None:
        """
        Unless it is asked for, every line is written.
        """
        bus = Bus()
        bus.attach(LogHandler(stream), delivery="inline")
        for _ in range(200):
            bus.publish(LlmFailed(model="m"))

        assert 200 == len(stream.lines)

    @pytest.mark.parametrize("most", [0, -1])
    def test_none_at_all(self, most: int) -> None:
        """
        A limit that would write nothing is refused; there is a level for that.
        """
        with pytest.raises(SettingsError, match=f"max_repeats {most} would write no line"):
            LogHandler(max_repeats=most)
        with pytest.raises(SettingsError, match=f"max_repeats {most} would write no line"):
            configure_logging(max_repeats=most)
        assert not structlog.is_configured()

    def test_audit_log_and_metrics_know_all(self, tmp_path: Path, stream: Log) -> None:
        """
        The audit log has a record of each event, and the metrics know how many lines are missing.
        """
        bus = Bus()
        metrics = PrometheusInstrumenter()
        for sink in (
            AuditLog(tmp_path / "audit.jsonl"),
            metrics,
            LogHandler(stream, max_repeats=1),
        ):
            bus.attach(sink, delivery="inline")
        for number in range(10):
            with bus.operation(ToolStarted(tool_name="search", tool_call_id=str(number))):
                pass
        shown = metrics.registry.get_sample_value("harken_log_lines_suppressed_total")
        bus.close()

        records = (tmp_path / "audit.jsonl").read_text().splitlines()
        assert (20, 18.0) == (sum('"tool.' in record for record in records), shown)

    def test_forked_child_says_its_own(self, tmp_path: Path) -> None:
        """
        What a process has suppressed is said by it alone.
        """
        handler = LogHandler(path=tmp_path / "events.log", max_repeats=1)
        bus = Bus()
        bus.attach(handler, delivery="inline")
        for _ in range(3):
            bus.publish(LlmFailed(model="m"))
        child = os.fork()
        if child == 0:
            status = 1
            try:
                for _ in range(6):
                    bus.publish(LlmFailed(model="m"))
                bus.close()
                status = 0
            finally:
                os._exit(status)
        assert 0 == os.waitpid(child, 0)[1]
        bus.close()

        text = (tmp_path / "events.log").read_text()
        assert [2, 1, 1] == [
            text.count(words)
            for words in ('"message":"llm failed', '"5 more like this', '"2 more like this')
        ]


class TestLogCalls:
    """
    Log calls that are repeated.
    """

    def test_what_is_suppressed_is_said(self, stream: Log, end_minute: Callable[[], None]) -> None:
        """
        The same message of the same logger is written so often; then a line says the rest.
        """
        with configure_logging(stream=stream, max_repeats=2) as configured:
            for attempt in range(6):
                logging.getLogger("db").warning("cannot reach %s", "db-1", extra={"n": attempt})
                structlog.get_logger("db").warning("cannot reach db-1", attempt=attempt)
            logging.getLogger("db").warning("cannot reach %s", "db-2")
            end_minute()
            logging.getLogger("other").error("something else")

        *_, about, other = stream.lines
        assert ["cannot reach db-1"] * 2 + ["cannot reach db-2"] == stream.messages[:3]
        assert "something else" == other["message"]
        assert {
            "level": "warning",
            "severity_number": 13,
            "message": "10 more like this within a minute: cannot reach db-1",
            "logger": "db",
            "suppressed": 10,
            "schema": "harken.log/1",
        } == {name: value for name, value in about.items() if name != "timestamp"}
        assert (10, 5) == (configured.suppressed_lines, len(stream.lines))

    def test_level_logger_and_error_tell_apart(self, stream: Log) -> None:
        """
        The same words at another level, of another logger or about another error are no repetition.
        """
        with configure_logging(stream=stream, max_repeats=1):
            for _ in range(3):
                for name in ("a", "b"):
                    logger = logging.getLogger(name)
                    logger.warning("failed")
                    logger.error("failed")
                    logger.error("failed", exc_info=ValueError("no"))

        assert 6 == stream.messages.count("failed")
        assert 6 == stream.messages.count("2 more like this within a minute: failed")

    def test_secrets(self, stream: Log) -> None:
        """
        What is said again is redacted before it is cut.
        """
        with configure_logging(stream=stream, max_repeats=1):
            for _ in range(2):
                logging.getLogger("a").warning("%s%s", "x" * 1010, f" {SECRET}")

        assert SECRET[:12] not in stream.getvalue()
        assert "1 more like this" in stream.messages[-1]
        assert len(stream.messages[-1]) < 1100

    @pytest.mark.parametrize("format", ["text", "ecs"])
    def test_formats(self, format: Any) -> None:
        """
        The line that says it has the form of the others.
        """
        stream = io.StringIO()
        with configure_logging(format, stream=stream, max_repeats=1):
            for _ in range(3):
                logging.getLogger("a").warning("failed")

        _, about = stream.getvalue().splitlines()
        assert "2 more like this within a minute: failed" in about
        assert {"text": "[warning  ]", "ecs": '"log.level":"warning"'}[format] in about

    def test_at_exit(self, run_python: Callable[..., subprocess.CompletedProcess[str]]) -> None:
        """
        A program that ends says what it suppressed, also when somebody configured logging since.
        """
        done = run_python(
            "import harken, logging, logging.config\n"
            "harken.configure_logging(max_repeats=1)\n"
            "logging.config.dictConfig({'version': 1, 'disable_existing_loggers': False})\n"
            "for _ in range(5):\n"
            "    logging.warning('failed')\n"
        )

        assert ["failed", "4 more like this within a minute: failed"] == [
            json.loads(line)["message"] for line in done.stderr.splitlines()
        ]

    def test_stream_that_is_gone(self) -> None:
        """
        Where nothing can be written any more, what was to be said is counted as lost.
        """
        stream = io.StringIO()
        configured = configure_logging(stream=stream, max_repeats=1)
        for _ in range(2):
            logging.getLogger("a").warning("failed")
        stream.close()
        configured.undo()

        assert 1 == configured.lost
