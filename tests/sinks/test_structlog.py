"""
The sink that writes one log line for each event.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import stat
import sys
import unicodedata
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Annotated, Any

import msgspec
import pytest
from hypothesis import given, strategies as st

import harken
from harken import (
    JSON,
    Bus,
    Envelope,
    Event,
    Outcome,
    catalog,
    content,
    describe,
    event_name,
    event_types,
    outcome_from,
)
from harken.catalog import BudgetWarning, LlmChunk, ToolCompleted, ToolFailed, ToolStarted
from harken.errors import SettingsError
from harken.forward import ForwardMeasured
from harken.redaction import Redactor
from harken.sinks.structlog import LogHandler, _fields
from harken.sinks.structlog._json import dumps
from harken.testing import FixedClock, capture, fixed_bus


class LampLit(Event, name="log_test.lamp_lit", resource="lamp:{lamp}"):
    """A point event."""

    lamp: str = ""
    note: JSON = None


class RingOpened(Event, name="log_test.ring_opened", audit=True, key="ring"):
    """An audited start."""

    ring: str = ""


class RingClosed(Event, name="log_test.ring_closed", ends=RingOpened):
    """Its end."""

    ring: str = ""


class WheelOpened(Event, name="log_test.wheel_opened", key="wheel"):
    """A start that is not audited."""

    wheel: str = ""


class WheelClosed(Event, name="log_test.wheel_closed", ends=WheelOpened):
    """Its end."""

    wheel: str = ""


class DoorTried(Event, name="log_test.door_tried", outcome=outcome_from("result", no="denied")):
    """A point event that has its outcome from a field."""

    result: str = "success"


class PageSaid(Event, name="log_test.page_said"):
    """An event with content."""

    text: Annotated[JSON, content("text")] = None
    digest: str = ""
    size: int = 0


class RudeShouted(Event, name="log_test.rude_shouted", outcome="failure"):
    """An event that cannot be read."""

    word: str = ""

    @property
    def error_type(self) -> str:
        raise LookupError("no")


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


def deep_list(levels: int) -> list[Any]:
    """
    Return a list in a list in a list.
    """
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


def repr_of(value: object) -> str:
    """
    Return a name for a value that may not have a text.
    """
    return type(value).__name__


def logged(*events: Event, bus: Bus | None = None, **options: Any) -> list[dict[str, Any]]:
    """
    Return the decoded JSON lines of *events*.
    """
    stream = io.StringIO()
    bus = bus or fixed_bus()
    bus.attach(LogHandler(stream, **{"level": "debug", **options}), delivery="inline")
    for event in events:
        bus.publish(event)
    return [strict(line) for line in stream.getvalue().splitlines()]


def texts(*events: Event, **options: Any) -> str:
    """
    Return the text lines of *events*.
    """
    stream = io.StringIO()
    bus = fixed_bus()
    bus.attach(LogHandler(stream, format="text", **options), delivery="inline")
    for event in events:
        bus.publish(event)
    return stream.getvalue()


class Terminal(io.StringIO):
    """
    A stream that says that it is a terminal.
    """

    def isatty(self) -> bool:
        return True


class TestJSONLine:
    """
    One line of JSON for each event.
    """

    def test_has_the_fields_of_the_log_data_model(self):
        """
        A line names time, severity, event, trace, scope and outcome as OpenTelemetry does.
        """
        stream = io.StringIO()
        bus = fixed_bus()
        bus.attach(LogHandler(stream, service_name="billing"), delivery="inline")
        trace, span = "1" * 32, "2" * 16
        with harken.scope(
            traceparent=f"00-{trace}-{span}-01",
            correlation_id="c-9",
            run_id="r-42",
            session_id="s-1",
            request_id="q-1",
            phase="execution",
            actor="agent:billing",
            tenant="acme",
        ):
            envelope = bus.publish(LampLit(lamp="hall", note={"on": True}), causes=["x"])

        assert envelope is not None
        assert {
            "timestamp": "2026-01-02T03:04:05.000000Z",
            "level": "info",
            "severity_number": 9,
            "message": "log test lamp lit: lamp:hall",
            "event_name": "log_test.lamp_lit",
            "otel.event.name": "log_test.lamp_lit",
            "logger": "harken.events",
            "outcome": None if envelope.outcome is None else envelope.outcome.value,
            "trace_id": trace,
            "span_id": envelope.span_id,
            "trace_flags": "01",
            "correlation_id": "c-9",
            "run_id": "r-42",
            "session_id": "s-1",
            "request_id": "q-1",
            "phase": "execution",
            "actor": "agent:billing",
            "event.id": envelope.id,
            "attributes": {"tenant": "acme"},
            "data": {"lamp": "hall", "note": {"on": True}},
            "service.name": "billing",
            "schema": "harken.log/1",
        } == {"outcome": None, **strict(stream.getvalue())}

    def test_leaves_out_what_is_absent(self):
        """
        Outside of every scope there are no members for run, session, actor and attributes.
        """
        (line,) = logged(LampLit(lamp="hall"))

        assert not {"run_id", "session_id", "actor", "phase", "attributes", "service.name"} & set(
            line
        )

    def test_time_is_the_events_own(self):
        """
        The timestamp is when it happened, in UTC with microseconds, whatever its zone was.
        """
        stream = io.StringIO()
        bus = fixed_bus()
        bus.attach(LogHandler(stream), delivery="inline")
        bus.publish(
            LampLit(),
            time=datetime(1999, 12, 31, 23, 59, 59, 5, tzinfo=timezone(timedelta(hours=-1))),
        )

        assert "2000-01-01T00:59:59.000005Z" == strict(stream.getvalue())["timestamp"]

    @pytest.mark.parametrize("ids", [0, 1])
    def test_trace_flags_are_two_hex_digits(self, ids):
        """
        The flags of the trace are written as in a ``traceparent``.
        """
        with harken.scope(traceparent=f"00-{'a' * 32}-{'b' * 16}-0{ids}"):
            (line,) = logged(LampLit())

        assert f"0{ids}" == line["trace_flags"]

    def test_terminal_says_what_went_wrong(self):
        """
        The end of a failed operation is an error and names its class.
        """
        stream = io.StringIO()
        bus = fixed_bus()
        bus.attach(LogHandler(stream), delivery="inline")
        with pytest.raises(ZeroDivisionError), bus.operation(ToolStarted(tool_name="search")):
            raise ZeroDivisionError("no")
        start, end = map(strict, stream.getvalue().splitlines())

        assert ("error", 17, "failure", "ZeroDivisionError") == (
            end["level"],
            end["severity_number"],
            end["outcome"],
            end["error.type"],
        )
        assert start["span_id"] == end["span_id"]
        assert "error.type" not in start

    def test_attributes_of_the_event_stand_beside_those_of_the_scope(self):
        """
        Attributes given to one event are in its line only.
        """
        stream = io.StringIO()
        bus = fixed_bus()
        bus.attach(LogHandler(stream), delivery="inline")
        with harken.scope(tenant="acme"):
            bus.publish(LampLit(), attributes={"seat": 3})
            bus.publish(LampLit())
        first, second = map(strict, stream.getvalue().splitlines())

        assert ({"tenant": "acme", "seat": 3}, {"tenant": "acme"}) == (
            first["attributes"],
            second["attributes"],
        )

    def test_scopes_are_not_mixed_up(self):
        """
        Events of two runs, in turn, each carry their own run.
        """
        stream = io.StringIO()
        bus = fixed_bus()
        bus.attach(LogHandler(stream), delivery="inline")
        for run in ("a", "b", "a"):
            with harken.scope(run_id=run):
                bus.publish(LampLit())

        assert ["a", "b", "a"] == [
            strict(line)["run_id"] for line in stream.getvalue().splitlines()
        ]

    def test_content_is_left_out_unless_asked_for(self):
        """
        Captured content is in the line only with ``content=True``; digest and size always are.
        """
        bus = Bus(capture_content=["text"])
        (without,) = logged(PageSaid(text="hello"), bus=bus)
        bus = Bus(capture_content=["text"])
        (with_content,) = logged(PageSaid(text="hello"), bus=bus, content=True)

        assert "text" not in without["data"]
        assert "hello" == with_content["data"]["text"]
        assert without["data"]["digest"] == with_content["data"]["digest"] != ""

    def test_secrets_are_redacted(self):
        """
        What the bus redacts is redacted in fields, message, scope and attributes.
        """
        secret = "ghp_" + "a1B2" * 9
        stream = io.StringIO()
        bus = Bus()
        bus.attach(LogHandler(stream), delivery="inline")
        with harken.scope(run_id=secret, tenant=secret):
            bus.publish(LampLit(lamp=secret, note=[secret]))

        assert secret not in stream.getvalue()
        assert "REDACTED" in strict(stream.getvalue())["message"]

    def test_more_resources_than_are_remembered(self):
        """
        Lines stay right when more resources and runs went by than are kept in memory.
        """
        stream = io.StringIO()
        bus = fixed_bus()
        bus.attach(LogHandler(stream), delivery="inline")
        for number in range(5000):
            with harken.scope(run_id=f"r-{number}"):
                bus.publish(LampLit(lamp=f"{number}"))
        lines = [strict(line) for line in stream.getvalue().splitlines()]

        assert [(f"r-{n}", f"log test lamp lit: lamp:{n}") for n in range(5000)] == [
            (line["run_id"], line["message"]) for line in lines
        ]

    @given(
        st.recursive(
            st.none()
            | st.booleans()
            | st.integers()
            | st.floats()
            | st.text()
            | st.binary()
            | st.text(st.characters(categories=["Cs", "Cc", "Cf", "Zl", "Zp"])),
            lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner),
            max_leaves=10,
        ),
        st.text(st.characters()),
        st.sampled_from(["json", "ecs"]),
    )
    def test_whatever_an_event_holds_its_line_is_strict_ascii_json(self, note, word, format):
        """
        One record is one line of printable ASCII that a strict reader accepts.
        """
        stream = io.StringIO()
        bus = Bus()
        bus.attach(LogHandler(stream, format=format), delivery="inline")
        with harken.scope(run_id=word, tag=word):
            bus.publish(LampLit(lamp=word, note=note), attributes={"word": word})
        line = stream.getvalue()

        assert 1 == line.count("\n")
        assert all(" " <= character <= "~" for character in line[:-1])
        name = "event.action" if format == "ecs" else "event_name"
        assert "log_test.lamp_lit" == strict(line)[name]


def plain_line(envelope: Envelope[Event], *, content: bool, service_name: str | None) -> str:
    """
    Return the line of *envelope* member by member, with nothing remembered from another line.
    """
    level = _fields.level_of(envelope.type, envelope.outcome)
    time = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=envelope.time_ns // 1000)
    first = {
        "timestamp": f"{time.replace(tzinfo=None).isoformat(timespec='microseconds')}Z",
        "level": level,
        "severity_number": _fields.severity_number(_fields.LEVELS[level]),
        "message": _fields.message_of(envelope, envelope.resource),
        "event_name": envelope.name,
        "otel.event.name": envelope.name,
        "logger": "harken.events",
        "outcome": None if envelope.outcome is None else envelope.outcome.value,
        "error.type": envelope.error_type,
        "trace_id": envelope.trace_id,
        "span_id": envelope.span_id,
        "trace_flags": f"{envelope.trace_flags:02x}",
        "correlation_id": envelope.correlation_id,
        "run_id": envelope.run_id,
        "session_id": envelope.session_id,
        "request_id": envelope.request_id,
        "phase": envelope.phase,
        "actor": envelope.actor,
        "event.id": envelope.id,
        "attributes": dict(envelope.attributes) or None,
    }
    last = {"service.name": service_name, "schema": "harken.log/1"}
    texts = [
        dumps({name: value for name, value in fields.items() if value is not None}).decode()
        for fields in (first, last)
    ]
    data = envelope.encoded(content=content).decode()
    return f'{texts[0][:-1]},"data":{data},{texts[1][1:]}\n'


HOSTILE = 'a "b" \\ : {resource} {tool_name}\x00\x1b[31m\x7f\u2028\u202e\ud800\U0001f600\r\nnull'
"""Whatever may need an escape, and what stands in a template."""


def hostile(kind: Any) -> Any:
    """
    Return a value of a field that must be given.
    """
    return {str: HOSTILE, int: 7, float: 0.5, bool: True}.get(kind, {HOSTILE: [HOSTILE]})


def one_of_each_type() -> list[Event]:
    """
    Return an event of each type in the catalog, as empty as it may be, and one that is not.
    """
    events: list[Event] = []
    for cls in event_types().values():
        if cls.__module__.startswith(catalog.__name__):
            fields = msgspec.structs.fields(cls)
            needed = {field.name: hostile(field.type) for field in fields if field.required}
            words = {field.name: HOSTILE for field in fields if field.type in (str, str | None)}
            events += [cls(**needed), cls(**{**needed, **words})]
    return events


class TestSameAsThePlainLine:
    """
    What is remembered from one line to the next changes no byte of any line.
    """

    def check(self, envelopes: Sequence[Envelope[Event]], **options: Any) -> None:
        """
        Compare the lines of one handler, in batches of all and of one, with the plain ones.
        """
        options = {"content": False, "service_name": None, **options}
        stream = io.StringIO()
        handler = LogHandler(stream, level="debug", levels={"llm.chunk": "debug"}, **options)
        for _ in range(2):
            handler.write(envelopes)
        for envelope in envelopes:
            handler.write([envelope])

        expected = [plain_line(envelope, **options) for envelope in envelopes] * 3
        assert expected == stream.getvalue().splitlines(keepends=True)

    @pytest.mark.parametrize("content", [False, True])
    def test_all_types_of_the_catalog(self, content):
        """
        Every type, in several scopes, with every outcome that an end may have.
        """
        bus = Bus(capture_content=["arguments", "result", "text", "thinking", "messages"])
        with capture(bus) as heard:
            for event in one_of_each_type():
                bus.publish(event)
                with harken.scope(run_id=HOSTILE, actor=f"agent:{HOSTILE}", tenant=HOSTILE):
                    bus.publish(event, attributes={"seat": 3})
                with harken.scope(traceparent=f"00-{'a' * 32}-{'b' * 16}-00", correlation_id=""):
                    bus.publish(event)
            for outcome in Outcome:
                bus.publish(ToolFailed(tool_name=outcome.value, outcome=outcome.value))
                bus.publish(ToolFailed(tool_name=outcome.value, outcome=outcome.value))
            bus.close()

        assert 400 < len(heard.envelopes)
        self.check(heard.envelopes, content=content, service_name=HOSTILE)

    @given(
        st.lists(
            st.tuples(
                st.sampled_from(["unknown", "", "null", HOSTILE]) | st.text(st.characters()),
                st.dictionaries(
                    st.sampled_from(["correlation_id", "run_id", "phase", "actor", "tenant"]),
                    st.sampled_from(["", "a", "ghp_" + "a1B2" * 9]) | st.text(st.characters()),
                ),
                st.dictionaries(
                    st.text(st.characters()), st.none() | st.floats() | st.text(), max_size=2
                ),
                st.sampled_from([None, ValueError, type(HOSTILE[:9], (Exception,), {})]),
            ),
            max_size=8,
        )
    )
    def test_whatever_comes_in_turn(self, steps):
        """
        Scopes, resources, attributes and errors that change from event to event are not mixed up.
        """
        bus = Bus()
        with capture(bus) as heard:
            for word, scope, attributes, error in steps:
                with (
                    harken.scope(**scope),
                    contextlib.suppress(Exception),
                    bus.operation(ToolStarted(tool_name=word)),
                ):
                    bus.publish(LampLit(lamp=word), attributes=attributes)
                    bus.publish(LampLit(lamp=word))
                    if error is not None:
                        raise error
            bus.close()

        self.check(heard.envelopes)

    @given(
        st.lists(
            st.datetimes(timezones=st.just(UTC))
            | st.integers(-2, 2).map(lambda second: datetime.fromtimestamp(second, UTC))
        )
    )
    def test_times(self, times):
        """
        Times before 1970 and times that go back are written as any other.
        """
        bus = Bus()
        with capture(bus) as heard:
            for time in times:
                bus.publish(LampLit(), time=time)

        self.check(heard.envelopes)

    def test_redaction_that_changes(self):
        """
        A scope that is redacted by other rules from now on is written by them.
        """
        bus = Bus()
        with capture(bus) as heard, harken.scope(run_id="needle", tenant="needle"):
            bus.publish(LampLit(lamp="needle"))
            before = heard.envelopes[0].run_id
            bus.configure(redaction=Redactor(patterns={"mine": "needle"}))
            bus.publish(LampLit(lamp="needle"))
            bus.publish(LampLit(lamp="needle"))

        assert ("needle", "[REDACTED:mine]") == (before, heard.envelopes[1].run_id)
        self.check(heard.envelopes)

    def test_more_errors_than_are_remembered(self):
        """
        Lines stay right when more classes of errors went by than are kept in memory.
        """
        bus = Bus()
        with capture(bus) as heard:
            for number in range(4100):
                bus.publish(ToolFailed(tool_name="search", error_type=f"E{number}"))

        self.check(heard.envelopes)

    def test_unreadable_among_others(self):
        """
        The lines around one that cannot be read are those that they always are.
        """
        bus = Bus()
        with capture(bus) as heard:
            for event in (LampLit(lamp="a"), RudeShouted(word="x"), LampLit(lamp="b")) * 2:
                bus.publish(event)
        stream = io.StringIO()
        LogHandler(stream).write(heard.envelopes)
        written = stream.getvalue().splitlines(keepends=True)

        lit = [envelope for envelope in heard.envelopes if envelope.name == "log_test.lamp_lit"]
        assert [plain_line(envelope, content=False, service_name=None) for envelope in lit] == [
            line for line in written if "rude" not in line
        ]
        assert 6 == len(written)

    def test_text_for_people(self):
        """
        A text line does not depend on those that were written before it either.
        """
        bus = Bus()
        with capture(bus) as heard:
            for event in one_of_each_type():
                with harken.scope(run_id=event.__class__.__name__, tenant=HOSTILE):
                    bus.publish(event)
        options: dict[str, Any] = {
            "format": "text",
            "level": "debug",
            "levels": {"llm.chunk": "debug"},
        }
        together, alone = io.StringIO(), io.StringIO()
        LogHandler(together, **options).write(heard.envelopes)
        for envelope in heard.envelopes:
            LogHandler(alone, **options).write([envelope])

        assert alone.getvalue() == together.getvalue()
        assert len(heard.envelopes) == together.getvalue().count("\n")


class TestUnreadable:
    """
    One event that cannot be read harms no other.
    """

    def test_its_neighbours_are_written(self):
        """
        Its line has what can be read of it, and a marker for what cannot; the others are whole.
        """
        stream = io.StringIO()
        bus = fixed_bus()
        with capture(bus) as heard:
            for event in (LampLit(lamp="a"), RudeShouted(word="x"), LampLit(lamp="b")):
                bus.publish(event)
        LogHandler(stream).write(heard.envelopes)

        first, marked, last = map(strict, stream.getvalue().splitlines())
        assert ("log test lamp lit: lamp:a", "log test lamp lit: lamp:b") == (
            first["message"],
            last["message"],
        )
        assert {
            "message": "log test rude shouted: [UNPRINTABLE:LookupError]",
            "event_name": "log_test.rude_shouted",
            "level": "error",
            "outcome": "failure",
            "error.type": "LookupError",
            "event.id": heard.envelopes[1].id,
            "trace_id": heard.envelopes[1].trace_id,
            "data": {"word": "x"},
        }.items() <= marked.items()

    def test_what_is_below_the_level_stays_there(self):
        """
        Beside an event that cannot be read, what is not to be logged is not.
        """
        stream = io.StringIO()
        bus = fixed_bus()
        with capture(bus) as heard:
            for event in (WheelOpened(wheel="1"), RudeShouted(word="x")):
                bus.publish(event)
        LogHandler(stream).write(heard.envelopes)

        assert ["log_test.rude_shouted"] == [
            strict(line)["event_name"] for line in stream.getvalue().splitlines()
        ]

    def test_it_is_text_for_people_too(self):
        """
        The same holds for text.
        """
        lit, marked = texts(LampLit(lamp="a"), RudeShouted(word="x")).splitlines()

        assert "lamp:a" in lit
        assert "[UNPRINTABLE:LookupError]" in marked

    @pytest.mark.parametrize("value", [10**5000, deep_list(5000), object()], ids=repr_of)
    def test_values_of_any_kind(self, value):
        """
        A value that is no text where one is expected is written as what it was.
        """
        lines = logged(LampLit(lamp="a"), LampLit(lamp=value), LampLit(lamp="b"))

        assert ["a", "b"] == [lines[0]["data"]["lamp"], lines[2]["data"]["lamp"]]
        assert 3 == len(lines)


class TestSeverity:
    """
    How severe a line is follows from the event and what came of it.
    """

    @pytest.mark.parametrize(
        ("outcome", "level"),
        [
            ("success", "info"),
            ("failure", "error"),
            ("timeout", "error"),
            ("orphaned", "error"),
            ("no", "warning"),
            ("cancelled", "warning"),
            ("deferred", "info"),
            ("something else", "info"),
        ],
    )
    def test_outcome_decides(self, outcome, level):
        """
        What failed is an error, what was refused a warning, and everything else information.
        """
        (line,) = logged(DoorTried(result=outcome))

        assert level == line["level"]

    def test_starts_are_quiet_unless_they_are_audited(self):
        """
        A start is information when it is audited, and else for debugging.
        """
        lines = logged(RingOpened(ring="1"), WheelOpened(wheel="1"))

        assert ["info", "debug"] == [line["level"] for line in lines]

    def test_type_decides_where_the_outcome_says_nothing(self):
        """
        Some events are warnings by what they are.
        """
        (line,) = logged(BudgetWarning(budget_type="tokens", used=9, limit=10))

        assert ("warning", 13) == (line["level"], line["severity_number"])

    def test_the_worse_of_both_counts(self):
        """
        A type that is a warning by itself is an error when it failed.
        """
        levels = {
            outcome: _fields.level_of(describe(BudgetWarning), outcome)
            for outcome in (Outcome.success, Outcome.failure)
        }

        assert {Outcome.success: "warning", Outcome.failure: "error"} == levels

    def test_table_names_real_events(self):
        """
        Every event that the tables name is in the catalog, or a forwarder's.
        """
        known = {*event_types(), event_name(ForwardMeasured)}

        assert set() == {*_fields.LEVEL_OF_EVENT, *_fields.QUIET} - known

    @pytest.mark.parametrize(
        ("level", "number"),
        [(5, 1), (10, 5), (20, 9), (25, 12), (30, 13), (40, 17), (50, 21), (99, 24)],
    )
    def test_numbers_are_opentelemetrys(self, level, number):
        """
        Levels of logging map to the severity numbers that the OpenTelemetry SDK gives them.
        """
        assert number == _fields.severity_number(level)


class TestMessage:
    """
    The sentence for people.
    """

    def test_says_what_to_what_and_how_it_ended(self):
        """
        The message has the event's words, the resource, and an outcome that is not plain.
        """
        lines = logged(
            LampLit(lamp="hall"),
            LampLit(),
            DoorTried(result="no"),
            DoorTried(result="success"),
            DoorTried(result="odd"),
        )

        assert [
            "log test lamp lit: lamp:hall",
            "log test lamp lit",
            "log test door tried (denied)",
            "log test door tried",
            "log test door tried",
        ] == [line["message"] for line in lines]

    def test_does_not_say_failure_twice(self):
        """
        An event whose name says the outcome does not repeat it.
        """
        lines = logged(ToolStarted(tool_call_id="1", tool_name="rm"), ToolFailed(tool_call_id="1"))

        assert "tool failed" in lines[1]["message"]
        assert "(failure)" not in lines[1]["message"]


class TestLevels:
    """
    Which events are written.
    """

    def test_below_the_level_nothing_is_written(self):
        """
        At the default level debugging is left out.
        """
        assert [] == logged(WheelOpened(wheel="1"), level="info")

    def test_nothing_is_written_at_off(self):
        """
        ``level="off"`` silences everything.
        """
        assert [] == logged(DoorTried(result="failure"), level="off")

    def test_some_events_have_another_level(self):
        """
        A name counts before a pattern, and a longer pattern before a shorter one.
        """
        lines = logged(
            LampLit(),
            RingOpened(ring="1"),
            WheelOpened(wheel="1"),
            DoorTried(),
            level="error",
            levels={
                "log_test.*": "debug",
                "log_test.ring_*": "off",
                "log_test.lamp_*": "error",
                "log_test.lamp_lit": "info",
            },
        )

        assert ["log_test.lamp_lit", "log_test.wheel_opened", "log_test.door_tried"] == [
            line["event_name"] for line in lines
        ]

    @pytest.mark.parametrize(
        ("levels", "lines"), [({}, 0), ({"llm.*": "debug"}, 0), ({"llm.chunk": "debug"}, 1)]
    )
    def test_chunks_are_written_only_by_name(self, levels, lines):
        """
        A pattern that happens to match does not flood the log with chunks.
        """
        stream = io.StringIO()
        bus = fixed_bus()
        handler = LogHandler(stream, level="debug", levels=levels)
        bus.attach(handler, LlmChunk, delivery="inline")
        bus.publish(LlmChunk(llm_call_id="1"))

        assert lines == stream.getvalue().count("\n")

    @pytest.mark.parametrize(
        "options",
        [
            {"level": "loud"},
            {"levels": {"tool.*": "loud"}},
            {"format": "xml"},
            {"stream": sys.stderr, "path": "x.log"},
        ],
    )
    def test_malformed_settings_are_refused(self, options):
        """
        Unknown words and two places at once are errors when the sink is made.
        """
        with pytest.raises(SettingsError):
            LogHandler(**options)


class TestText:
    """
    Lines for people.
    """

    def test_shows_fields_without_quotes_where_they_are_plain(self):
        """
        A line has time, level, sentence and the fields that are not empty.
        """
        line = texts(LampLit(lamp="hall", note={"on": 1}), service_name="billing")

        assert line.startswith("2026-01-02T03:04:05.000000Z [info     ] log test lamp lit: lamp:h")
        assert ' lamp=hall note={"on":1} ' in line
        assert line.endswith(" service.name=billing\n")

    def test_leaves_out_empty_fields(self):
        """
        Defaults that say nothing are not shown.
        """
        assert "note=" not in texts(LampLit(lamp="hall"))

    def test_quotes_what_is_more_than_a_word(self):
        """
        A value with blanks is quoted.
        """
        assert ' note="a b" ' in texts(LampLit(note="a b"))

    def test_fields_of_the_event_do_not_hide_harkens(self):
        """
        An event's field that is called like one of ours is shown as part of ``data``.
        """

        class Loud(Event, name="log_test.loud"):
            level: str = "11"
            trace_id: str = "mine"
            exc_info: str = "yes"

        line = texts(Loud())

        assert "[info     ]" in line
        assert " data.level=11 data.trace_id=mine data.exc_info=yes trace_id=" in line

    def test_terminal_gets_colours(self, monkeypatch):
        """
        Colours are used on a terminal, and nowhere else.
        """
        monkeypatch.delenv("NO_COLOR", raising=False)
        monkeypatch.setenv("TERM", "xterm")
        terminal, plain = Terminal(), io.StringIO()
        bus = fixed_bus()
        for stream in (terminal, plain):
            bus.attach(LogHandler(stream, format="text"), delivery="inline")
        bus.publish(LampLit(lamp="hall"))

        assert "\x1b[" in terminal.getvalue()
        assert "\x1b[" not in plain.getvalue()

    @pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
    def test_colours_can_be_declined(self, monkeypatch, name, value):
        """
        ``NO_COLOR`` and a dumb terminal are respected.
        """
        monkeypatch.setenv(name, value)
        terminal = Terminal()
        bus = fixed_bus()
        bus.attach(LogHandler(terminal, format="text"), delivery="inline")
        bus.publish(LampLit(lamp="hall"))

        assert "\x1b[" not in terminal.getvalue()

    @given(st.text(st.characters(categories=["Cc", "Cf", "Zl", "Zp", "Lu", "Cs"]), min_size=1))
    def test_nothing_an_agent_says_steers_a_terminal(self, word):
        """
        Control characters, line separators and bidi overrides are shown, not obeyed.
        """
        class_ = {"Cc", "Zl", "Zp"}
        bidi = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}

        with harken.scope(run_id=word, tag=word):
            line = texts(LampLit(lamp=word, note={word: [word]}))

        assert 1 == line.count("\n")
        assert not [
            character
            for character in line[:-1]
            if unicodedata.category(character) in class_
            or unicodedata.bidirectional(character) in bidi
        ]

    def test_stream_that_knows_only_ascii(self):
        """
        What a stream cannot encode is escaped.
        """
        raw = io.BytesIO()
        stream = io.TextIOWrapper(raw, encoding="ascii")
        bus = fixed_bus()
        bus.attach(LogHandler(stream, format="text"), delivery="inline")
        bus.publish(LampLit(lamp="Flurgröße"))

        assert rb"lamp=Flurgr\xf6\xdfe" in raw.getvalue()


class TestStream:
    """
    Writing to a stream that somebody else owns.
    """

    def test_default_is_stderr_at_the_time(self, monkeypatch):
        """
        Whoever replaces ``sys.stderr`` gets the lines from then on.
        """
        first, second = io.StringIO(), io.StringIO()
        monkeypatch.setattr(sys, "stderr", first)
        bus = fixed_bus()
        bus.attach(LogHandler(), delivery="inline")
        bus.publish(LampLit())
        monkeypatch.setattr(sys, "stderr", second)
        bus.publish(LampLit())

        assert (1, 1) == (first.getvalue().count("\n"), second.getvalue().count("\n"))

    @pytest.mark.parametrize("format", ["json", "text", "ecs"])
    def test_without_stderr_nothing_happens(self, monkeypatch, format):
        """
        A process without standard error does not fail for its log.
        """
        monkeypatch.setattr(sys, "stderr", None)
        bus = fixed_bus()
        bus.attach(LogHandler(format=format), delivery="inline", name="log")
        bus.publish(LampLit())

        assert 0 == bus.health()["log"].failures

    def test_close_leaves_the_stream_open(self):
        """
        The sink closes only what it opened.
        """
        stream = io.StringIO()
        bus = fixed_bus()
        bus.attach(LogHandler(stream), delivery="inline")
        bus.close(timeout=5)

        assert not stream.closed

    def test_batch_is_one_write(self):
        """
        A worker's batch reaches the stream in one call, so that lines of others do not split it.
        """

        class Counting(io.StringIO):
            writes = 0

            def write(self, text: str) -> int:
                self.writes += 1
                return super().write(text)

        stream = Counting()
        bus = fixed_bus()
        captured = bus.attach(kept := Kept(), delivery="inline")
        for number in range(10):
            bus.publish(LampLit(lamp=str(number)))
        captured.cancel()
        LogHandler(stream).write(kept.envelopes)

        assert (1, 10) == (stream.writes, stream.getvalue().count("\n"))

    def test_worker_delivers_everything_before_close(self):
        """
        Attached as it is, the sink runs on the worker and has written all when the bus closed.
        """
        stream = io.StringIO()
        bus = Bus()
        subscription = bus.attach(LogHandler(stream))
        for number in range(1000):
            bus.publish(LampLit(lamp=str(number)))
        bus.close(timeout=10)

        assert "LogHandler" == subscription.name
        assert [str(n) for n in range(1000)] == [
            strict(line)["data"]["lamp"] for line in stream.getvalue().splitlines()
        ]


class Kept:
    """
    A sink that keeps what it hears.
    """

    def __init__(self) -> None:
        self.envelopes: list[harken.Envelope[Event]] = []

    def write(self, batch: Any, /) -> None:
        self.envelopes.extend(batch)


class TestFile:
    """
    Appending to a file of one's own.
    """

    def lamps(self, path: Path) -> list[str]:
        return [strict(line)["data"]["lamp"] for line in path.read_text().splitlines()]

    def attached(self, path: Path) -> Bus:
        bus = Bus(clock=FixedClock())
        bus.attach(LogHandler(path=path), delivery="inline", name="log")
        return bus

    def test_is_made_for_its_owner_alone(self, tmp_path):
        """
        A new log file has mode 0600, whatever the umask.
        """
        path = tmp_path / "events.log"
        LogHandler(path=path).close(timeout=1)

        assert 0o600 == stat.S_IMODE(path.stat().st_mode)

    def test_appends(self, tmp_path):
        """
        What was there before stays.
        """
        path = tmp_path / "events.log"
        for lamp in ("a", "b"):
            bus = self.attached(path)
            bus.publish(LampLit(lamp=lamp))
            bus.close(timeout=5)

        assert ["a", "b"] == self.lamps(path)

    def test_folder_that_is_missing_is_an_error_at_once(self, tmp_path):
        """
        A path that cannot be opened is reported when the sink is made.
        """
        with pytest.raises(SettingsError, match=r"No such file or directory; make the folder"):
            LogHandler(path=tmp_path / "none" / "events.log")

    def test_follows_logrotate(self, tmp_path):
        """
        After a rename the next line goes to a new file, in private mode, and none is lost.
        """
        path = tmp_path / "events.log"
        bus = self.attached(path)
        bus.publish(LampLit(lamp="a"))
        path.rename(tmp_path / "events.log.1")
        bus.publish(LampLit(lamp="b"))

        assert (["a"], ["b"]) == (self.lamps(tmp_path / "events.log.1"), self.lamps(path))
        assert 0o600 == stat.S_IMODE(path.stat().st_mode)

    def test_follows_logrotate_that_makes_the_file(self, tmp_path):
        """
        A file that logrotate put in place of the old one is used as it is.
        """
        path = tmp_path / "events.log"
        bus = self.attached(path)
        path.rename(tmp_path / "events.log.1")
        path.touch(mode=0o640)
        path.chmod(0o640)
        bus.publish(LampLit(lamp="b"))

        assert ["b"] == self.lamps(path)
        assert 0o640 == stat.S_IMODE(path.stat().st_mode)

    def test_follows_copytruncate(self, tmp_path):
        """
        After a truncation the next line is at the beginning of the file.
        """
        path = tmp_path / "events.log"
        bus = self.attached(path)
        bus.publish(LampLit(lamp="a"))
        os.truncate(path, 0)
        bus.publish(LampLit(lamp="b"))

        assert ["b"] == self.lamps(path)

    def test_text_in_a_file_has_no_colours(self, tmp_path):
        """
        A text log in a file is plain UTF-8.
        """
        path = tmp_path / "events.log"
        bus = fixed_bus()
        bus.attach(LogHandler(path=path, format="text"), delivery="inline")
        bus.publish(LampLit(lamp="Größe"))

        assert "lamp=Größe" in path.read_text(encoding="utf-8")
        assert "\x1b" not in path.read_text(encoding="utf-8")

    def test_closes_what_it_opened_once(self, tmp_path):
        """
        Closing twice is harmless; writing afterwards is an error.
        """
        bus = fixed_bus()
        bus.attach(kept := Kept(), delivery="inline")
        bus.publish(LampLit(lamp="a"))
        handler = LogHandler(path=tmp_path / "events.log")
        handler.close(timeout=1)
        handler.close(timeout=1)

        assert handler.flush(timeout=1)
        with pytest.raises(ValueError, match="closed"):
            handler.write(kept.envelopes)

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
    def test_full_disk_is_the_bus_to_report(self):
        """
        An error of the file is not swallowed; the bus counts it.
        """
        bus = self.attached(Path("/dev/full"))
        bus.publish(LampLit(lamp="a"))

        assert {"OSError"} == set(bus.health()["log"].errors)

    def test_line_after_a_torn_one_begins_anew(self, tmp_path):
        """
        When the disk ran full inside a line, the next write does not continue that line.
        """
        resource = pytest.importorskip("resource")
        path = tmp_path / "events.log"
        pid = os.fork()
        if pid == 0:
            # The limit is the process's, and SIGXFSZ is ignored by Python.
            bus = self.attached(path)
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
            bus.publish(LampLit(lamp="a"))
            resource.setrlimit(
                resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
            )
            bus.publish(LampLit(lamp="b"))
            os._exit(0)
        os.waitpid(pid, 0)
        torn, whole = path.read_text().splitlines()

        assert 100 == len(torn)
        assert "b" == strict(whole)["data"]["lamp"]

    def test_forked_child_goes_on(self, tmp_path):
        """
        Parent and child write whole lines to the same file.
        """
        path = tmp_path / "events.log"
        bus = self.attached(path)
        bus.publish(LampLit(lamp="parent"))
        pid = os.fork()
        if pid == 0:
            bus.publish(LampLit(lamp="child"))
            os._exit(0)
        os.waitpid(pid, 0)
        bus.publish(LampLit(lamp="parent again"))

        assert ["parent", "child", "parent again"] == self.lamps(path)


def test_loop_is_not_possible(caplog):
    """
    A sink that fails is logged by the bus, and that log line is no event.
    """

    class Broken(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError("no")

    bus = fixed_bus()
    bus.attach(LogHandler(Broken()), delivery="inline", name="log")
    bus.publish(LampLit())

    assert 1 <= bus.health()["log"].failures < 5
    assert "log" in caplog.text


def test_tables_are_plain_data():
    """
    The tables that decide about severity can be read and compared.
    """
    assert isinstance(_fields.LEVEL_OF_EVENT, Mapping)
    assert {"debug", "info", "warning", "error", "critical"} == set(_fields.LEVELS)
    assert set(_fields.LEVEL_OF_EVENT.values()) <= set(_fields.LEVELS)
    assert ToolCompleted is event_types()["tool.completed"]
