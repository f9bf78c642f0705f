"""
One set-up for every log line of the application.
"""

from __future__ import annotations

import asyncio
import collections
import enum
import io
import json
import logging
import sys
import threading
import uuid
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import structlog
from hypothesis import given, strategies as st

import harken
from harken.catalog import ToolStarted
from harken.errors import LoggingError, SettingsError
from harken.redaction import Redactor
from harken.sinks.structlog import LogHandler, configure_logging
from harken.testing import fixed_bus

SECRET = "ghp_" + "a1B2" * 9


def strict(line: str) -> Any:
    """
    Decode one JSON line as a strict reader does: no NaN, no duplicate members.
    """

    def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in pairs]
        assert sorted(set(names)) == sorted(names)
        return dict(pairs)

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(line, parse_constant=refuse, object_pairs_hook=members)


class Log(io.StringIO):
    """
    A stream that decodes what was written to it.
    """

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [strict(line) for line in self.getvalue().splitlines()]

    @property
    def line(self) -> dict[str, Any]:
        (line,) = self.lines
        return line


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    """
    Leave structlog, the root logger and the hooks as they were.
    """
    assert not structlog.is_configured()
    root = logging.getLogger()
    before = root.level, sys.excepthook, threading.excepthook, warnings.showwarning
    yield
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()
    assert before == (root.level, sys.excepthook, threading.excepthook, warnings.showwarning)
    assert not [handler for handler in root.handlers if "harken" in type(handler).__module__]


@contextmanager
def alone() -> Iterator[None]:
    """
    Take off pytest's own handlers: they let what a record's objects raise into the log call.
    """
    root = logging.getLogger()
    handlers, root.handlers[:] = list(root.handlers), []
    yield
    root.handlers[:] = handlers


@pytest.fixture
def log() -> Iterator[Log]:
    """
    JSON logging, undone afterwards.
    """
    stream = Log()
    with configure_logging(stream=stream, level="debug"):
        yield stream


class Angry:
    """
    An object whose every description raises.
    """

    def __str__(self) -> str:
        raise KeyError("str")

    def __repr__(self) -> str:
        raise KeyError("repr")

    def __bool__(self) -> bool:
        raise KeyError("bool")

    def __len__(self) -> int:
        raise KeyError("len")

    def __eq__(self, other: object) -> bool:
        raise KeyError("eq")

    __hash__ = None


class AngryMapping(Mapping[str, object]):
    """
    A mapping that cannot be read.
    """

    def __getitem__(self, key: str) -> object:
        raise KeyError("getitem")

    def __iter__(self) -> Iterator[str]:
        raise KeyError("iter")

    def __len__(self) -> int:
        raise KeyError("len")


class AngryError(Exception):
    """
    An exception that cannot be described.
    """

    def __str__(self) -> str:
        raise self


class TestLine:
    """
    The line of a log call.
    """

    def test_of_structlog(self, log):
        """
        A line of structlog has harken's fields, and the caller's beside them.
        """
        structlog.get_logger("app").info("hello %s", "you", user="bob")
        line = log.line

        assert {
            "timestamp": line["timestamp"],
            "level": "info",
            "severity_number": 9,
            "message": "hello you",
            "logger": "app",
            "user": "bob",
            "schema": "harken.log/1",
        } == line
        assert line["timestamp"].endswith("Z")
        assert datetime.fromisoformat(line["timestamp"]).tzinfo is not None

    def test_of_the_standard_library(self, log):
        """
        A line of `logging` has the same fields, and what was given as ``extra``.
        """
        logging.getLogger("lib").warning("hello %(who)s", {"who": "you"}, extra={"user": "bob"})
        line = log.line

        assert {
            "timestamp": line["timestamp"],
            "level": "warning",
            "severity_number": 13,
            "message": "hello you",
            "logger": "lib",
            "user": "bob",
            "schema": "harken.log/1",
        } == line

    def test_shares_its_names_with_events(self, log):
        """
        Whatever a log line and an event's line both have is called the same.
        """
        events = Log()
        bus = fixed_bus()
        bus.attach(LogHandler(events, service_name="x"), delivery="inline")
        with harken.scope(run_id="r"):
            bus.publish(ToolStarted(tool_name="search"))
            structlog.get_logger().info("hello")

        assert set(log.line) <= set(events.line)

    def test_carries_the_scope_and_the_operation(self, log):
        """
        Ids of the ambient scope are in lines of both libraries, and gone outside.
        """
        bus = fixed_bus()
        bus.subscribe(lambda envelope: None)
        with (
            harken.scope(
                run_id="r-1",
                session_id="s-1",
                correlation_id="c-1",
                phase="analysis",
                actor="agent:a",
            ),
            bus.operation(ToolStarted(tool_name="search")) as op,
        ):
            structlog.get_logger().info("inside")
            logging.getLogger("lib").info("inside")
            started = op.envelope
        structlog.get_logger().info("outside")
        native, foreign, outside = log.lines

        assert started is not None
        expected = {
            "run_id": "r-1",
            "session_id": "s-1",
            "correlation_id": "c-1",
            "phase": "analysis",
            "trace_id": started.trace_id,
            "span_id": started.span_id,
        }
        assert expected == {name: native[name] for name in expected}
        assert expected == {name: foreign[name] for name in expected}
        assert not set(expected) & set(outside)

    def test_carries_structlogs_context_variables(self, log):
        """
        What was bound with structlog's context variables is in lines of both libraries.
        """
        with structlog.contextvars.bound_contextvars(plan="p-1"):
            structlog.get_logger().info("x")
            logging.getLogger("lib").info("x")

        assert ["p-1", "p-1"] == [line["plan"] for line in log.lines]

    def test_carries_bound_values(self, log):
        """
        What was bound to a logger is in its lines.
        """
        structlog.get_logger().bind(a=1).info("x", b=2)

        assert (1, 2) == (log.line["a"], log.line["b"])

    def test_service_name(self):
        """
        The service is named when it was given.
        """
        stream = Log()
        with configure_logging(stream=stream, service_name="billing"):
            structlog.get_logger().info("x")

        assert "billing" == stream.line["service.name"]

    @pytest.mark.parametrize(
        ("method", "level", "number"),
        [
            ("debug", "debug", 5),
            ("info", "info", 9),
            ("warning", "warning", 13),
            ("warn", "warning", 13),
            ("error", "error", 17),
            ("exception", "error", 17),
            ("critical", "critical", 21),
            ("fatal", "critical", 21),
        ],
    )
    def test_levels(self, log, method, level, number):
        """
        Each of structlog's methods has the level that `logging` gives it.
        """
        getattr(structlog.get_logger(), method)("x")

        assert (level, number) == (log.line["level"], log.line["severity_number"])

    @pytest.mark.parametrize(
        ("level", "name", "number"),
        [(3, "level 3", 1), (20, "info", 9), (25, "level 25", 12), (70, "level 70", 24)],
    )
    def test_levels_by_number(self, level, name, number):
        """
        Any number is a level, also one without a name.
        """
        stream = Log()
        with configure_logging(stream=stream, level=1):
            structlog.get_logger().log(level, "x")
            logging.getLogger("lib").log(level, "x")

        assert [(name, number)] * 2 == [
            (line["level"], line["severity_number"]) for line in stream.lines
        ]

    def test_names_the_caller_for_other_handlers(self, log):
        """
        Handlers of others are told the file and function that logged, not ours.
        """
        records: list[logging.LogRecord] = []

        class Other(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                records.append(record)

        other = Other()
        logging.getLogger().addHandler(other)
        structlog.get_logger().info("x")
        structlog.get_logger().log(20, "x")
        structlog.get_logger().exception("x")
        logging.getLogger().removeHandler(other)

        assert ["x", "x", "x"] == [record.getMessage() for record in records]
        assert [(__file__, "test_names_the_caller_for_other_handlers")] * 3 == [
            (record.pathname, record.funcName) for record in records
        ]

    def test_gives_other_handlers_the_exception(self, log):
        """
        Handlers of others see message and exception as if `logging` had been called.
        """
        theirs = io.StringIO()
        handler = logging.StreamHandler(theirs)
        logging.getLogger().addHandler(handler)
        structlog.get_logger().error("failed", user="bob", exc_info=ValueError("no"))
        logging.getLogger().removeHandler(handler)

        assert "failed\nValueError: no\n" == theirs.getvalue()

    def test_async_methods(self, log):
        """
        structlog's asynchronous methods write the same lines.
        """

        async def main() -> None:
            with harken.scope(run_id="r-1"):
                await structlog.get_logger("app").ainfo("hello", user="bob")

        asyncio.run(main())

        assert ("hello", "bob", "r-1") == tuple(
            log.lines[-1][name] for name in ("message", "user", "run_id")
        )


class TestReservedNames:
    """
    Nothing that a caller gives is lost or breaks the call.
    """

    def test_names_that_harken_uses(self, log):
        """
        A field that is called like one of harken's is kept below ``data``.
        """
        given = {
            "timestamp": 1,
            "level": 2,
            "severity_number": 3,
            "message": 4,
            "logger": 5,
            "exception": 6,
            "error.type": 7,
            "data": 8,
            "schema": 9,
            "service.name": 10,
            "stack": 11,
        }
        structlog.get_logger().info("x", **given)

        assert ("x", given) == (log.line["message"], log.line["data"])

    def test_names_that_structlog_uses(self, log):
        """
        A field that is called like one of structlog's own arguments is kept beside the others.
        """
        given = {"event": 1, "_record": 2, "_from_structlog": 3, "self": 4, "method_name": 5}
        structlog.get_logger().info("x", **given)

        assert {"message": "x", **given} == {name: log.line[name] for name in ("message", *given)}

    def test_names_that_structlog_uses_when_they_were_bound(self, log):
        """
        The same holds for what was bound to a logger.
        """
        structlog.get_logger().bind(event=1, data=2).info("x", stack=3)

        assert ("x", 1, {"data": 2, "stack": 3}) == (
            log.line["message"],
            log.line["event"],
            log.line["data"],
        )

    def test_ids_of_the_scope_stay_harkens(self, log):
        """
        A caller's ``run_id`` counts outside of a run, and is kept below ``data`` inside of one.
        """
        structlog.get_logger().info("x", run_id="mine")
        with harken.scope(run_id="r-1"):
            structlog.get_logger().info("x", run_id="mine")
        outside, inside = log.lines

        assert "mine" == outside["run_id"]
        assert ("r-1", {"run_id": "mine"}) == (inside["run_id"], inside["data"])

    def test_extra_of_the_standard_library(self, log):
        """
        ``extra`` with harken's or structlog's names is kept, and need not be text.
        """
        extra: dict[Any, object] = {"event": 1, "level": 2, "data": 3, "_record": 4, 7: 5}
        logging.getLogger("lib").info("x", extra=extra)

        assert {"message": "x", "event": 1, "_record": 4, "7": 5} == {
            name: log.line[name] for name in ("message", "event", "_record", "7")
        }
        assert {"level": 2, "data": 3} == log.line["data"]

    def test_arguments_that_do_not_fit(self):
        """
        A message whose arguments do not fit is logged as it is, with the arguments beside it.
        """
        message = "%d of %d"
        with alone(), configure_logging(stream=(log := Log())):
            structlog.get_logger().info(message, "x")
            logging.getLogger("lib").info(message, "x")

        assert [("%d of %d", ["x"])] * 2 == [
            (line["message"], line["positional_args"]) for line in log.lines
        ]

    def test_arguments_by_name(self, log):
        """
        A single mapping fills ``%(name)s``, as in `logging`.
        """
        structlog.get_logger().info("hello %(who)s", {"who": "you"})

        assert "hello you" == log.line["message"]

    def test_message_by_keyword_or_none(self, log):
        """
        Without a message the line has an empty one.
        """
        structlog.get_logger().info(user="bob")

        assert ("", "bob") == (log.line["message"], log.line["user"])


class Colour(enum.Enum):
    RED = "red"


class Masked(str):
    __slots__ = ()

    def __repr__(self) -> str:
        return "***"


@dataclass
class Login:
    user: str
    pin: str = field(repr=False, default="1234")


class Point(NamedTuple):
    x: int
    y: int


def deep(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


class TestValues:
    """
    Whatever is logged becomes JSON.
    """

    @pytest.mark.parametrize(
        ("value", "shown"),
        [
            (2**63, 2**63),
            (2**64, "18446744073709551616"),
            (-(2**64), "-18446744073709551616"),
            (10**5000, "[INT:16610 bits]"),
            (float("nan"), "NaN"),
            (float("inf"), "Infinity"),
            (-float("inf"), "-Infinity"),
            ({"a": [float("nan"), None]}, {"a": ["NaN", None]}),
            ("null", "null"),
            ("\udce4", "�"),
            (b"\xff a", "\\xff a"),
            (bytearray(b"a"), "a"),
            (memoryview(b"a"), "a"),
            ({3, 1}, [1, 3]),
            ((1, 2), [1, 2]),
            (Point(1, 2), [1, 2]),
            (collections.OrderedDict(a=1), {"a": 1}),
            ({1: "a", "1": "b", None: "c"}, {"1": "a", "1~": "b", "null": "c"}),
            ({"k" * 300: 2**64}, {"k" * 256 + "...": "18446744073709551616"}),
            (Colour.RED, "red"),
            ([Colour.RED, 2**64], ["red", "18446744073709551616"]),
            (Masked("secret"), "***"),
            (Login("bob"), "Login(user='bob')"),
            (Decimal("1.10"), "1.10"),
            (Path("/tmp/x"), "/tmp/x"),
            (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
            (date(2026, 1, 2), "2026-01-02"),
            (datetime(2026, 1, 2, tzinfo=UTC), "2026-01-02T00:00:00+00:00"),
            (
                [datetime.fromisoformat("2026-01-02T00:00:00"), 2**64],
                ["2026-01-02T00:00:00", "18446744073709551616"],
            ),
            (Angry(), "[UNPRINTABLE:KeyError]"),
            ([Angry(), 1], ["[UNPRINTABLE:KeyError]", 1]),
            ({"a": AngryMapping()}, {"a": "[UNPRINTABLE:KeyError]"}),
            (ValueError("no"), "no"),
            (True, True),
            (1.5, 1.5),
        ],
        ids=lambda value: type(value).__name__,
    )
    def test_is_shown(self, log, value, shown):
        """
        A value is shown as JSON, or as text that says what it was.
        """
        structlog.get_logger().info("x", value=value)

        assert shown == log.line["value"]

    def test_subclasses_of_numbers(self, log):
        """
        A subclass of a number is that number, whatever it is beside.
        """

        class Count(int):
            pass

        class Share(float):
            pass

        structlog.get_logger().info("x", a=Count(3), b=Share(0.5), c=[Count(3), 2**64])

        assert (3, 0.5, [3, "18446744073709551616"]) == tuple(log.line[name] for name in "abc")

    def test_plain_objects(self, log):
        """
        An object without a text of its own is shown by its representation.
        """

        class Plain:
            def __repr__(self) -> str:
                return "<plain>"

        structlog.get_logger().info("x", value=Plain())

        assert "<plain>" == log.line["value"]

    def test_cycles(self, log):
        """
        What contains itself is cut where it begins again.
        """
        value: dict[str, Any] = {"a": 1}
        value["self"] = value
        structlog.get_logger().info("x", value=value)

        assert {"a": 1, "self": "[CIRCULAR]"} == log.line["value"]

    @pytest.mark.parametrize("levels", [300, 5000])
    def test_depth(self, log, levels):
        """
        What is nested too deeply is cut.
        """
        structlog.get_logger().info("x", value=deep(levels))

        assert "[TRUNCATED:depth]" in log.getvalue()
        assert levels > log.getvalue().count("[[") > 10

    def test_width(self, log):
        """
        A value that is no JSON is cut when it is too long, so that a line ends.
        """
        structlog.get_logger().info("x", value=[2**64] * 20_000, text="\udce4" * 100_000)

        assert 10_000 > len(log.line["value"]) - log.line["value"].count("[TRUNCATED:items]") > 9000

    def test_long_text_beside_what_is_no_json(self, log):
        """
        Text is cut with a note of its length when the line had to be made by hand.
        """
        structlog.get_logger().info("x", text="\udce4" * 100_000)

        assert log.line["text"].endswith("�[TRUNCATED:100000]")

    @pytest.mark.parametrize("shift", range(-45, 6, 5))
    def test_secret_at_the_cut(self, log, shift):
        """
        A text or a key is cut after its secrets are taken out, so that no half of one stays.
        """
        secret = "ghp_" + "a1B2c3D4e5F6g7H8i9J0" * 2
        text = "y" * (65_536 + shift) + " " + secret + " z" * 50
        key = "k" * (256 + shift) + " " + secret
        structlog.get_logger().info("x", text=text, data={key: 2**70})

        assert "ghp_" not in log.getvalue()
        assert "a1B2" not in log.getvalue()
        assert "[TRUNCATED:" in log.line["text"]

    def test_text_is_ascii_that_reads_back(self, log):
        """
        No character of a text is lost, and none reaches a terminal as itself.
        """
        text = "".join(map(chr, range(0x100))) + "\u2028\u2029\u202e\u2066 Größe 🙂 日本"
        structlog.get_logger().info(text, **{text: text})

        assert log.getvalue()[:-1].isprintable()
        assert log.getvalue().isascii()
        assert (text, text) == (log.line["message"], log.line[text])

    @given(
        event=st.text() | st.integers() | st.none() | st.binary() | st.builds(Angry),
        args=st.lists(st.integers() | st.text() | st.builds(Angry), max_size=3),
        fields=st.dictionaries(
            st.text(st.characters())
            | st.sampled_from(
                ["event", "level", "data", "exc_info", "stack_info", "stack", "self", "name"]
            ),
            st.recursive(
                st.none()
                | st.booleans()
                | st.integers()
                | st.floats()
                | st.text(st.characters())
                | st.binary()
                | st.builds(Angry)
                | st.builds(AngryMapping)
                | st.builds(AngryError)
                | st.just(("a", "b", "c"))
                | st.just((AngryError, AngryError(), None)),
                lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.none(), inner),
                max_leaves=8,
            ),
        ),
        format=st.sampled_from(["json", "text", "ecs"]),
    )
    def test_no_call_raises(self, event, args, fields, format):
        """
        Whatever is logged is one line of strict JSON in ASCII, or one record of text.
        """
        stream = Log()
        with alone(), configure_logging(format, stream=stream) as configured:
            structlog.get_logger().info(event, *args, **fields)
        written = stream.getvalue()

        assert 0 == configured.lost
        assert written.endswith("\n")
        if format == "text":
            assert 1 == sum(not line.startswith((" ", "=")) for line in written.split("\n") if line)
        else:
            assert written[:-1].isascii()
            assert written[:-1].isprintable()
            assert "info" == stream.line["log.level" if format == "ecs" else "level"]

    @given(
        event=st.text() | st.integers() | st.builds(Angry),
        args=st.lists(st.integers() | st.text() | st.builds(Angry), max_size=3),
        extra=st.dictionaries(
            st.text().map("x{}".format), st.text() | st.floats() | st.builds(Angry)
        ),
    )
    def test_no_call_of_the_standard_library_raises(self, event, args, extra):
        """
        The same holds for `logging`; a record that cannot be read at all leaves a note.
        """
        stream = Log()
        with alone(), configure_logging(stream=stream):
            logging.getLogger("lib").warning(event, *args, extra=extra)

        assert stream.line["level"] in ("warning", "error")
        assert stream.getvalue()[:-1].isprintable()


class TestExceptions:
    """
    Exceptions are structured, and keep secrets.
    """

    def test_is_a_list_of_exceptions_with_frames(self, log):
        """
        The exception and its cause are there, each with its frames.
        """

        def fail() -> None:
            raise ValueError("inner")

        try:
            try:
                fail()
            except ValueError as error:
                raise KeyError("outer") from error
        except KeyError:
            structlog.get_logger().exception("failed")
        outer, inner = log.line["exception"]

        assert "KeyError" == log.line["error.type"]
        assert ("KeyError", "'outer'") == (outer["exc_type"], outer["exc_value"])
        assert ("ValueError", "inner", True) == (
            inner["exc_type"],
            inner["exc_value"],
            inner["is_cause"],
        )
        assert "fail" == inner["frames"][-1]["name"]
        assert {"filename", "lineno", "name"} == set(inner["frames"][-1])

    @pytest.mark.parametrize("format", ["json", "text", "ecs"])
    def test_has_no_local_variables(self, format):
        """
        What a function held in its variables is not in the log.
        """
        stream = Log()

        def fail(length: int) -> None:
            api_key = "hidden" * length
            raise ValueError("boom", len(api_key))

        with configure_logging(format, stream=stream):
            try:
                fail(3)
            except ValueError:
                logging.getLogger("lib").exception("failed")

        assert "boom" in stream.getvalue()
        assert "hiddenhidden" not in stream.getvalue()

    @pytest.mark.parametrize("format", ["json", "text", "ecs"])
    def test_deep_stacks_are_cut(self, format):
        """
        Of a deep recursion only some frames are logged.
        """
        stream = Log()

        def fail(levels: int) -> int:
            return 1 // levels + fail_too(levels - 1)

        def fail_too(levels: int) -> int:
            return 1 // levels + fail(levels - 1)

        with configure_logging(format, stream=stream):
            try:
                fail(200)
            except ZeroDivisionError:
                structlog.get_logger().exception("failed")

        assert "ZeroDivisionError" in stream.getvalue()
        assert 20 >= stream.getvalue().count(__file__) > 10

    def test_long_chains_are_cut(self, log):
        """
        Of a long chain of causes only some exceptions are logged.
        """
        error: Exception | None = None
        for number in range(100):
            try:
                raise ValueError(number) from error
            except ValueError as raised:
                error = raised
        structlog.get_logger().error("failed", exc_info=error)

        assert 20 == len(log.line["exception"])

    def test_groups(self, log):
        """
        The members of an exception group are there.
        """
        group = ExceptionGroup("two", [ValueError("a"), KeyError("b")])
        structlog.get_logger().error("failed", exc_info=group)
        (shown,) = log.line["exception"]

        assert ["ValueError", "KeyError"] == [
            member["exc_type"] for (member,) in shown["exceptions"]
        ]

    @pytest.mark.parametrize("format", ["json", "text", "ecs"])
    def test_exception_that_cannot_be_described(self, format):
        """
        An exception that raises when it is looked at is named all the same.
        """
        error: Exception = AngryError()
        for _ in range(3000):
            error = ExceptionGroup("deep", [error])
        stream = Log()
        with alone(), configure_logging(format, stream=stream):
            structlog.get_logger().error("failed", exc_info=error)
            structlog.get_logger().error("failed", exc_info=AngryError())

        assert 2 == stream.getvalue().count("[error    ] failed ") or 2 == len(stream.lines)
        assert "ExceptionGroup" in stream.getvalue()
        assert "AngryError" in stream.getvalue()

    @pytest.mark.parametrize("format", ["json", "text", "ecs"])
    def test_exception_that_hides_its_cause(self, format):
        """
        An exception whose traceback cannot be made is named by its class.
        """

        class OpaqueError(Exception):
            @property
            def __cause__(self) -> BaseException:
                raise KeyError("hidden")

        stream = Log()
        with alone(), configure_logging(format, stream=stream):
            structlog.get_logger().error("failed", exc_info=OpaqueError())

        assert "OpaqueError" in stream.getvalue()
        assert "[UNPRINTABLE:KeyError]" in stream.getvalue()

    @pytest.mark.parametrize("nothing", [None, False, True, 1, "x", (None, None, None), (1, 2)])
    def test_no_exception(self, log, nothing):
        """
        Without an exception there is none in the line, whatever ``exc_info`` was.
        """
        structlog.get_logger().info("x", exc_info=nothing)

        assert not {"exception", "error.type"} & set(log.line)

    def test_stack(self, log):
        """
        ``stack_info=True`` adds the caller's stack in both libraries.
        """
        structlog.get_logger().info("x", stack_info=True)
        logging.getLogger("lib").info("x", stack_info=True)

        for line in log.lines:
            assert "stack_info=True" in line["stack"].splitlines()[-1]
            assert "stack_info" not in line


class TestSecrets:
    """
    Secrets do not get into the log.
    """

    @pytest.mark.parametrize("format", ["json", "text", "ecs"])
    def test_are_redacted_wherever_they_are(self, format):
        """
        Messages, arguments, fields, bound values, scope and exceptions are redacted.
        """
        stream = Log()
        with (
            configure_logging(format, stream=stream),
            harken.scope(run_id=SECRET),
            structlog.contextvars.bound_contextvars(bound=SECRET),
        ):
            logger = structlog.get_logger()
            message = f"got {SECRET}"
            logger.info(message, key=SECRET, nested={"a": [SECRET]})
            logger.info("got %s", SECRET)
            logging.getLogger("lib").info("got %s", SECRET, extra={"key": SECRET})
            try:
                raise ValueError(SECRET)
            except ValueError:
                logger.exception("failed")

        assert SECRET not in stream.getvalue()
        assert 4 <= stream.getvalue().count("REDACTED")

    def test_by_the_name_of_the_field(self, log):
        """
        A field called ``password`` is redacted, whatever it holds.
        """
        structlog.get_logger().info("x", password="hunter22", tokens=3)

        assert "hunter22" not in log.getvalue()
        assert 3 == log.line["tokens"]

    def test_by_rules_of_ones_own(self):
        """
        A redactor with other patterns is used when it was given.
        """
        stream = Log()
        redactor = Redactor(patterns={"case_number": r"CASE-\d{6}"})
        with configure_logging(stream=stream, redactor=redactor):
            structlog.get_logger().info("see CASE-123456")

        assert "CASE-123456" not in stream.getvalue()

    def test_redactor_that_fails_lets_nothing_through(self):
        """
        When the redaction itself fails the line says so, and nothing else.
        """

        class Broken(Redactor):
            def suspicious(self, line: bytes) -> bool:
                raise RuntimeError("no")

        for format in ("json", "text", "ecs"):
            stream = Log()
            with configure_logging(format, stream=stream, redactor=Broken()):
                structlog.get_logger("app").info(SECRET)

            assert SECRET not in stream.getvalue()
            assert "could not be rendered" in stream.getvalue()


class TestText:
    """
    Lines for people.
    """

    def test_has_the_same_order_as_events(self):
        """
        A line has time, level, message, logger and fields.
        """
        stream = Log()
        with configure_logging("text", stream=stream):
            structlog.get_logger("app").warning("careful", user="bob", note="a b")

        line = stream.getvalue().partition(" ")[2]
        assert '[warning  ] careful                        [app] user=bob note="a b"\n' == line

    def test_one_record_cannot_forge_another(self):
        """
        A message stays on its line, and an exception's text is indented.
        """
        stream = Log()
        forged = "x\n2026-01-01T00:00:00Z [info] forged \x1b[2J\x9b2J\u202e"
        with configure_logging("text", stream=stream):
            structlog.get_logger().error(forged, **{forged: forged}, exc_info=ValueError(forged))

        lines = stream.getvalue().split("\n")
        assert 1 == sum(not line.startswith(" ") for line in lines if line)
        assert not {"\x1b", "\x9b", "\u202e"} & set(stream.getvalue())


class TestElsewhere:
    """
    Warnings, and exceptions that nobody caught.
    """

    def test_warnings_are_logged(self, log):
        """
        A warning is a line of its own.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            # pytest collects warnings inside catch_warnings(), so ask for logging once more.
            logging.captureWarnings(True)
            warnings.warn("old", DeprecationWarning, stacklevel=1)

        assert ("py.warnings", "warning") == (log.line["logger"], log.line["level"])
        assert "DeprecationWarning: old" in log.line["message"]

    def test_uncaught_exception_is_the_last_line(self, run_python):
        """
        A program that dies of an exception leaves a line with it, and no other traceback.
        """
        done = run_python(
            "import harken\n"
            "harken.configure_logging(service_name='job')\n"
            "password = 'hidden'\n"
            "1 / 0\n",
            returncode=1,
        )
        line = strict(done.stderr)

        assert ("critical", "uncaught exception", "ZeroDivisionError") == (
            line["level"],
            line["message"],
            line["error.type"],
        )
        assert "job" == line["service.name"]

    def test_keyboard_interrupt_is_no_log_line(self, run_python):
        """
        Interrupting a program looks as it always does.
        """
        done = run_python(
            "import harken\nharken.configure_logging()\nraise KeyboardInterrupt", returncode=None
        )

        assert done.stderr.startswith("Traceback")

    def test_exception_is_not_lost_when_logging_is_off(self, run_python):
        """
        When nothing is logged the interpreter prints the traceback.
        """
        done = run_python(
            "import harken\nharken.configure_logging(level='off')\n1 / 0", returncode=1
        )

        assert done.stderr.startswith("Traceback")

    def test_other_hooks_hear_of_it_too(self, run_python):
        """
        Whoever had set a hook before is called as well.
        """
        done = run_python(
            "import sys, threading, harken\n"
            "sys.excepthook = lambda *args: print('program', args[0].__name__)\n"
            "threading.excepthook = lambda args: print('thread', args.exc_type.__name__)\n"
            "harken.configure_logging()\n"
            "thread = threading.Thread(target=lambda: 1 / 0)\n"
            "thread.start()\n"
            "thread.join()\n"
            "[][0]\n",
            returncode=1,
        )

        assert ["thread ZeroDivisionError", "program IndexError"] == done.stdout.splitlines()
        assert ["ZeroDivisionError", "IndexError"] == [
            strict(line)["error.type"] for line in done.stderr.splitlines()
        ]

    def test_undone_hooks_pass_on(self, run_python):
        """
        A hook that somebody wrapped before it was undone hands on what it gets.
        """
        done = run_python(
            "import sys, harken\n"
            "configured = harken.configure_logging()\n"
            "ours = sys.excepthook\n"
            "sys.excepthook = lambda *args: ours(*args)\n"
            "configured.undo()\n"
            "1 / 0\n",
            returncode=1,
        )

        assert done.stderr.startswith("Traceback")

    def test_thread_that_dies_leaves_a_line(self, run_python):
        """
        An exception that ends a thread is a line that names the thread; SystemExit is none.
        """
        done = run_python(
            "import threading, harken\n"
            "harken.configure_logging()\n"
            "for target in (lambda: 1 / 0, lambda: exit(1)):\n"
            "    thread = threading.Thread(target=target, name='pump')\n"
            "    thread.start()\n"
            "    thread.join()\n"
        )
        line = strict(done.stderr)

        assert ("pump", "ZeroDivisionError") == (line["thread.name"], line["error.type"])


class TestConfiguring:
    """
    What is changed, and what is left alone.
    """

    def test_level(self):
        """
        Below the level nothing is written.
        """
        stream = Log()
        with configure_logging(level="warning", stream=stream):
            structlog.get_logger().info("no")
            structlog.get_logger().warning("yes")
            logging.getLogger("lib").info("no")
            logging.getLogger("lib").warning("yes")

        assert ["yes", "yes"] == [line["message"] for line in stream.lines]

    def test_disabled_logger_is_silent(self, log):
        """
        A logger that was disabled stays so.
        """
        logger = structlog.get_logger("disabled")
        logging.getLogger("disabled").disabled = True
        logger.info("no")
        logging.getLogger("disabled").disabled = False

        assert "" == log.getvalue()

    def test_default_stream_is_stderr_at_the_time(self, monkeypatch):
        """
        Whoever replaces ``sys.stderr`` gets the lines from then on.
        """
        first, second = Log(), Log()
        with configure_logging():
            for stream in (first, second):
                monkeypatch.setattr(sys, "stderr", stream)
                structlog.get_logger().info("x")

        assert (1, 1) == (len(first.lines), len(second.lines))

    def test_public_name(self):
        """
        `harken.configure_logging()` is this function.
        """
        assert harken.configure_logging is configure_logging

    def test_undo_puts_everything_back(self):
        """
        Afterwards structlog, the root logger and the hooks are as before, also when asked twice.
        """
        root = logging.getLogger()
        before = (root.level, list(root.handlers), sys.excepthook, threading.excepthook)
        configured = configure_logging(stream=io.StringIO())
        configured.undo()
        configured.undo()

        assert before == (root.level, root.handlers, sys.excepthook, threading.excepthook)
        assert not structlog.is_configured()

    def test_undo_leaves_alone_what_others_changed(self):
        """
        What somebody set after us stays.
        """
        configured = configure_logging(stream=io.StringIO())
        hook, thread_hook = (lambda *args: None), (lambda args: None)
        root = logging.getLogger()
        level, hooks = root.level, (sys.excepthook, threading.excepthook)
        structlog.configure(wrapper_class=structlog.stdlib.BoundLogger)
        sys.excepthook, threading.excepthook = hook, thread_hook
        root.setLevel(17)
        configured.undo()
        found = (sys.excepthook, threading.excepthook, root.level, structlog.is_configured())
        root.setLevel(logging.WARNING)
        sys.excepthook, threading.excepthook = sys.__excepthook__, hooks[1]
        threading.excepthook = configured._thread_excepthook

        assert level == logging.INFO
        assert (hook, thread_hook, 17, True) == found

    def test_warnings_that_were_captured_before_stay_captured(self):
        """
        Undo does not switch off what the application had switched on.
        """
        with warnings.catch_warnings():
            logging.captureWarnings(True)
            captured = warnings.showwarning
            configure_logging(stream=io.StringIO()).undo()
            after = warnings.showwarning
            logging.captureWarnings(False)

        assert captured is after

    def test_twice_is_once(self):
        """
        A second call replaces the first: each line is written once, in the new form.
        """
        first, second = Log(), io.StringIO()
        with (
            configure_logging(stream=first),
            configure_logging("text", stream=second, level="debug") as configured,
        ):
            structlog.get_logger().debug("x")
            logging.getLogger("lib").debug("x")
            configured.undo()

        assert "" == first.getvalue()
        assert 2 == second.getvalue().count("\n")
        assert not structlog.is_configured()

    def test_loggers_in_use_follow(self):
        """
        A logger that was used before the second call writes in the new form.
        """
        first, second = Log(), Log()
        logger = structlog.get_logger("app")
        with configure_logging(stream=first):
            logger.info("one")
            with configure_logging(stream=second, service_name="s"):
                logger.info("two")

        assert ["one"] == [line["message"] for line in first.lines]
        assert [("two", "s")] == [(line["message"], line["service.name"]) for line in second.lines]

    @pytest.mark.parametrize("options", [{"format": "xml"}, {"level": "loud"}])
    def test_malformed_settings_change_nothing(self, options):
        """
        Unknown words are errors, and the application's logging stays as it was.
        """
        with pytest.raises(SettingsError):
            configure_logging(**options)

        assert not structlog.is_configured()

    def test_somebody_elses_configuration_is_respected(self):
        """
        When structlog was configured by the application, nothing is changed.
        """
        structlog.configure(processors=[structlog.processors.JSONRenderer()])
        before = structlog.get_config()
        handlers = list(logging.getLogger().handlers)
        with pytest.raises(LoggingError, match="force=True"):
            configure_logging()

        assert before == structlog.get_config()
        assert handlers == logging.getLogger().handlers

    def test_force_replaces_it_until_undone(self):
        """
        With ``force=True`` the other configuration is replaced, and put back at the end.
        """
        structlog.configure(processors=[structlog.processors.JSONRenderer()])
        before = structlog.get_config()
        stream = Log()
        with configure_logging(stream=stream, force=True):
            structlog.get_logger().info("x")

        assert "x" == stream.line["message"]
        assert before == structlog.get_config()

    def test_other_root_handlers_stay(self, log):
        """
        A handler that somebody else put on the root logger hears everything as before.
        """
        theirs = io.StringIO()
        handler = logging.StreamHandler(theirs)
        logging.getLogger().addHandler(handler)
        with configure_logging(stream=io.StringIO(), force=True):
            logging.getLogger("lib").warning("x")
        logging.getLogger().removeHandler(handler)

        assert "x\n" == theirs.getvalue()

    def test_force_takes_off_handlers_of_the_same_stream(self):
        """
        With ``force=True`` nothing else writes between our lines; undo puts it back.
        """
        stream = Log()
        handler = logging.StreamHandler(stream)
        logging.getLogger().addHandler(handler)
        with configure_logging(stream=stream, force=True):
            logging.getLogger("lib").warning("x")
            assert "x" == stream.line["message"]
        logging.getLogger("lib").warning("y")
        logging.getLogger().removeHandler(handler)

        assert stream.getvalue().endswith("}\ny\n")

    @pytest.mark.parametrize("place", ["stdout", "stderr"])
    def test_force_takes_over_other_loggers(self, monkeypatch, place):
        """
        With *force*, a logger that writes to the console by itself is heard once, as the others
        are, and gets its handler back in the end.
        """
        console = {"stdout": Log(), "stderr": Log()}
        for name, stream in console.items():
            monkeypatch.setattr(sys, name, stream)
        logger = logging.getLogger(f"test.server.{place}")
        own, elsewhere = logging.StreamHandler(console[place]), logging.StreamHandler(Log())
        logger.handlers, logger.propagate = [own, elsewhere], False

        with configure_logging(force=True):
            logger.warning("heard", extra={"color_message": "kept"})
            during = list(logger.handlers)

        assert ("heard", "kept") == (
            console["stderr"].line["message"],
            console["stderr"].line["color_message"],
        )
        assert "" == console["stdout"].getvalue()
        assert ([elsewhere], False) == (during, logger.propagate)
        assert {own, elsewhere} == set(logger.handlers)

    def test_other_loggers_stay_without_force(self):
        """
        Without it, they go on as they were.
        """
        stream = Log()
        logger = logging.getLogger("test.server.own")
        logger.handlers, logger.propagate = [logging.StreamHandler(stream)], False

        with configure_logging(stream=stream):
            logger.warning("heard")

        assert "heard\n" == stream.getvalue()

    def test_class_of_loggers_stays(self, log):
        """
        Loggers that others make are of the class that they were of.
        """
        assert logging.Logger is logging.getLoggerClass()

    def test_structlogs_own_test_tools_work(self, log):
        """
        `structlog.testing.capture_logs()` sees what is logged, also through loggers in use.
        """
        logger = structlog.get_logger("app")
        logger.info("before")
        with structlog.testing.capture_logs() as captured:
            logger.info("hello", user="bob")

        assert [{"event": "hello", "user": "bob", "log_level": "info"}] == captured
        assert ["before"] == [line["message"] for line in log.lines]


class TestInstrumentation:
    """
    OpenTelemetry's instrumentation of structlog puts a processor before the last one.
    """

    @staticmethod
    def instrument() -> list[dict[str, Any]]:
        seen: list[dict[str, Any]] = []

        def call(self: object, logger: object, method: str, event: dict[str, Any]) -> Any:
            seen.append({"method": method, **event})
            return event

        processor = type(
            "StructlogProcessor",
            (),
            {"__call__": call, "__module__": "opentelemetry.instrumentation.structlog"},
        )()
        processors = list(structlog.get_config()["processors"])
        processors.insert(len(processors) - 1, processor)
        structlog.configure(processors=processors)
        return seen

    def test_before(self):
        """
        Instrumented before, structlog does not count as configured by somebody else.
        """
        self.instrument()
        stream = Log()
        with configure_logging(stream=stream):
            structlog.get_logger().info("x", user="bob")

        assert "bob" == stream.line["user"]

    def test_after(self, log):
        """
        Instrumented afterwards, both it and the log get what is logged.
        """
        seen = self.instrument()
        structlog.get_logger("app").info("hello %s", "you", user="bob")

        assert [{"method": "info", "event": "hello you", "user": "bob"}] == seen
        assert ("hello you", "bob") == (log.line["message"], log.line["user"])


class TestTrouble:
    """
    Logging goes on whatever happens to its stream.
    """

    def test_failing_stream_is_counted(self):
        """
        A line that cannot be written is counted, and the call returns.
        """

        class Full(io.StringIO):
            def write(self, text: str) -> int:
                raise OSError("no space left")

        closed = io.StringIO()
        closed.close()
        for stream in (Full(), closed):
            with configure_logging(stream=stream) as configured:
                structlog.get_logger().info("x")
                logging.getLogger("lib").info("x")

            assert 2 == configured.lost

    def test_object_that_logs_itself(self, log):
        """
        An object that logs when it is described does not go on for ever.
        """

        class Chatty:
            def __str__(self) -> str:
                structlog.get_logger().info("describing", value=self)
                return "chatty"

        structlog.get_logger().info("x", value=Chatty())

        assert "x" == log.lines[-1]["message"]
        assert "chatty" == log.lines[-1]["value"]
        assert 10 > len(log.lines)

    def test_handler_that_logs(self, log):
        """
        A handler of the bus that logs is called once for each event.
        """
        bus = fixed_bus()
        calls: list[str] = []

        def handle(envelope: harken.Envelope[harken.Event]) -> None:
            calls.append(envelope.name)
            structlog.get_logger().info("heard")
            logging.getLogger("harken").info("heard")

        bus.subscribe(handle)
        bus.attach(LogHandler(log), delivery="inline")
        bus.publish(ToolStarted(tool_name="search"))

        assert ["tool.started"] == calls
        assert 3 == len(log.lines)

    def test_malformed_environment_is_logged_once(self, run_python):
        """
        A warning that harken logs while it looks for the ids of a line does not loop.
        """
        done = run_python(
            "import harken, logging\n"
            "harken.configure_logging()\n"
            "logging.getLogger('app').warning('x')\n",
            env={"TRACEPARENT": "rubbish"},
        )

        assert ["TRACEPARENT is malformed and was ignored", "x"] == [
            strict(line)["message"] for line in done.stderr.splitlines()
        ]

    def test_many_threads(self):
        """
        Lines of many threads do not mix.
        """
        stream = Log()
        with configure_logging(stream=stream):

            def work(name: str) -> None:
                with harken.scope(run_id=name):
                    for number in range(200):
                        structlog.get_logger().info("x", number=number, name=name)

            threads = [threading.Thread(target=work, args=(f"r-{n}",)) for n in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

        assert {(f"r-{t}", n) for t in range(4) for n in range(200)} == {
            (line["run_id"], line["number"]) for line in stream.lines
        }
        assert all(line["run_id"] == line["name"] for line in stream.lines)
