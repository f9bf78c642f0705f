"""
Logs: of events, and of the whole application.
"""

from __future__ import annotations

import io
import json
import logging
from typing import Literal

import structlog
from behave import given, then, when
from outputs import LOG, Line, audit_path, flush, log_line, log_lines, records
from scene import Scene, compare, member

import harken
from harken import Bus
from harken.catalog import ToolStarted


def text_of(context: Scene) -> str:
    flush(context)
    return (context.folder / LOG).read_text()


@then("the log holds {expected:Names}")
def log_holds(context: Scene, expected: list[str]) -> None:
    found = [line["event_name"] for line in log_lines(context)]
    assert expected == found, found


@then("the log tells of {count:d} tool calls that ended")
def log_tells_of(context: Scene, count: int) -> None:
    found = [line["event_name"] for line in log_lines(context)]
    assert count == found.count("tool.completed"), found


@then('the line of "{name}" says')
def line_says(context: Scene, name: str) -> None:
    line = log_line(context, name)
    compare(context.table, lambda path: member(line, path))


def assert_ids(context: Scene, line: Line) -> None:
    (heard,) = context.listener.envelopes
    assert (heard.trace_id, heard.span_id) == (line["trace_id"], line["span_id"]), line


@then('the line of "{name}" has the trace and the span that the listener heard')
def line_has_the_ids(context: Scene, name: str) -> None:
    assert_ids(context, log_line(context, name))


@then("every line of the log is one JSON object in ASCII")
def every_line_is_json(context: Scene) -> None:
    assert text_of(context).isascii()
    assert ["tool.started", "tool.failed"] == [line["event_name"] for line in log_lines(context)]


@then('the log mentions "{text}"')
def log_mentions(context: Scene, text: str) -> None:
    assert text in text_of(context), text_of(context)


@then('the log mentions "{text}" {count:d} times')
def log_mentions_times(context: Scene, text: str, count: int) -> None:
    assert count == text_of(context).count(text), text_of(context)


@then('the audit log has {count:d} records of "{name}", said or not')
def audit_log_has(context: Scene, count: int, name: str) -> None:
    found = [record["event_type"] for record in records(audit_path(context))]
    assert count == found.count(name), found


@then('the document of "{name}" says')
def document_says(context: Scene, name: str) -> None:
    (document,) = (line for line in log_lines(context) if line["event.action"] == name)
    compare(context.table, lambda path: member(document, path))


@then("the log has no control characters")
def log_has_no_controls(context: Scene) -> None:
    found = text_of(context)
    assert "tool" in found, found
    assert "" == "".join(char for char in found if not char.isprintable() and char != "\n")


# The application's own log calls.


@given("an application with JSON logging")
def application_with_logging(context: Scene, format: Literal["json", "ecs"] = "json") -> None:
    context.stream = io.StringIO()
    configured = harken.configure_logging(format, stream=context.stream)
    context.add_cleanup(configured.undo)
    context.bus = Bus()
    context.add_cleanup(context.bus.close)


@given("an application with ECS logging")
def application_with_ecs(context: Scene) -> None:
    application_with_logging(context, "ecs")


@when('the application logs "{text}" with the host "{host}"')
def application_logs_host(context: Scene, text: str, host: str) -> None:
    structlog.get_logger("library").warning(text, host=host)


def log_through_logging(text: str) -> None:
    logging.getLogger("library").info(text)


def log_through_structlog(text: str) -> None:
    structlog.get_logger("library").info(text)


LIBRARIES = {"the standard library": log_through_logging, "structlog": log_through_structlog}


@when('a tool in run "{run_id}" logs "{text}" through {library}')
def tool_logs(context: Scene, run_id: str, text: str, library: str) -> None:
    with harken.scope(run_id=run_id), context.bus.operation(ToolStarted(tool_name="search")):
        LIBRARIES[library](text)


@when('the application logs "{text}"')
def application_logs(context: Scene, text: str) -> None:
    log_through_logging(text)


class Mute:
    """
    An object that cannot be printed.
    """

    def __str__(self) -> str:
        raise RuntimeError("not printable")

    __repr__ = __str__


@when("the application logs an object that cannot be printed")
def application_logs_mute(context: Scene) -> None:
    context.error = None
    try:
        logging.getLogger("library").warning("seen: %s", Mute(), extra={"object": Mute()})
        structlog.get_logger("library").warning("seen", object=Mute())
    except Exception as error:
        context.error = error


def application_lines(context: Scene) -> list[Line]:
    return [json.loads(line) for line in context.stream.getvalue().splitlines()]


def application_line(context: Scene, message: str) -> Line:
    (line,) = (line for line in application_lines(context) if line["message"] == message)
    return line


@then('the application\'s line "{message}" says')
def application_line_says(context: Scene, message: str) -> None:
    line = application_line(context, message)
    compare(context.table, lambda path: member(line, path))


@then('the application\'s line "{message}" has the trace and the span that the listener heard')
def application_line_has_the_ids(context: Scene, message: str) -> None:
    assert_ids(context, application_line(context, message))


@then('the application\'s log does not mention "{text}"')
def application_log_does_not_mention(context: Scene, text: str) -> None:
    assert 1 == len(application_lines(context))
    assert text not in context.stream.getvalue()


@then("every line of the application's log is one JSON object")
def every_application_line_is_json(context: Scene) -> None:
    assert 2 == len(application_lines(context)), context.stream.getvalue()
