"""
The audit record: what stands in a line, in which order, and how the lines hold together.
"""

from __future__ import annotations

import json
import re
import types
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any

import msgspec
import pytest
from hypothesis import example, given, strategies as st

import harken
from harken import Envelope, Event, record
from harken.record import Draft, Link, RecordError
from harken.testing import capture, fixed_bus

WRITER = "2a-0badcafe"
SCOPE_TEXTS = (
    *("session_id", "run_id", "parent_run_id", "actor", "on_behalf_of", "correlation_id"),
    *("request_id", "phase", "source"),
)
NOW = 1_767_323_045_000_000_000  # 2026-01-02T03:04:05Z, where the clock of `fixed_bus()` stands


class Sampled(
    Event,
    name="record_test.sampled",
    audit=True,
    action="sample",
    resource="sample:{sample_id}",
    outcome="success",
):
    """
    A sample was taken.
    """

    sample_id: str = "7"
    text: str = ""
    more: Any = None


class DigStarted(Event, name="record_test.dig_started", key="dig_id", audit=True):
    """
    Digging began.
    """

    dig_id: str


class DigCompleted(Event, name="record_test.dig_completed", ends=DigStarted, audit=True):
    """
    Digging ended.
    """

    dig_id: str


def published(event: Event, **options: Any) -> Envelope[Event]:
    bus = fixed_bus()
    with capture(bus) as heard:
        bus.publish(event, **options)
    return heard.envelopes[-1]


def line_of(draft: Draft, after: Link = record.FIRST) -> bytes:
    return draft.line(draft.time_ns, after.seq + 1, WRITER, after.seq + 1, after.hash)[0]


def lines_of(*texts: str) -> list[bytes]:
    lines: list[bytes] = []
    after = record.FIRST
    for text in texts:
        lines.append(line_of(record.from_envelope(published(Sampled(text=text))), after))
        after = record.link_of(lines[-1])
    return lines


def resealed(line: bytes, old: bytes, new: bytes) -> bytes:
    content = line[: -record.SEAL - 1].replace(old, new)
    return content + b',"hash":"' + sha256(content).hexdigest().encode() + b'"}\n'


class TestFromEnvelope:
    def test_every_member(self) -> None:
        """
        A record says everything that the envelope knows, in an order that never changes.
        """
        bus = fixed_bus()
        with (
            capture(bus) as heard,
            harken.scope(
                session_id="s-1",
                run_id="r-2",
                parent_run_id="r-1",
                actor="agent:digger",
                on_behalf_of="user:ana",
                correlation_id="c-9",
                request_id="q-3",
                phase="execution",
                source="crewai",
                traceparent="00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
                team="blue",
            ),
        ):
            bus.publish(DigStarted(dig_id="d"))
            bus.publish(DigCompleted(dig_id="d"), attributes={"depth": 3})
        start, end = heard.envelopes
        draft = record.from_envelope(end)

        line, digest = draft.line(NOW + 5_000_000_000, 42, WRITER, 17, record.GENESIS)

        expected = {
            "timestamp": "2026-01-02T03:04:10.000000Z",
            "seq": 42,
            "v": 1,
            "id": end.id,
            "event_type": "record_test.dig_completed",
            "actor": "agent:digger",
            "action": "dig_completed",
            "resource": "unknown",
            "outcome": "success",
            "metadata": {"dig_id": "d"},
            "correlation_id": "c-9",
            "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
            "span_id": start.span_id,
            "occurred": "2026-01-02T03:04:05.000000Z",
            "parent_span_id": "00f067aa0ba902b7",
            "session_id": "s-1",
            "run_id": "r-2",
            "parent_run_id": "r-1",
            "request_id": "q-3",
            "causation_id": start.id,
            "started_event_id": start.id,
            "phase": "execution",
            "on_behalf_of": "user:ana",
            "attributes": {"team": "blue", "depth": 3},
            "source": "crewai",
            "schema_version": 1,
            "writer": WRITER,
            "n": 17,
            "prev": record.GENESIS,
            "hash": digest,
        }
        assert json.dumps(expected, separators=(",", ":")) + "\n" == line.decode()

    def test_nothing_to_say(self) -> None:
        """
        Members with nothing to say are left out, except those that every record has.
        """
        envelope = published(DigStarted(dig_id="d"))

        found = record.parse(line_of(record.from_envelope(envelope)))

        assert [*record.ALWAYS, "schema_version", *record.CHAIN] == list(found)
        assert ("unknown", None, envelope.trace_id) == (
            found["actor"],
            found["outcome"],
            found["correlation_id"],
        )

    def test_order_of_members(self) -> None:
        """
        What is there follows the one order that the format fixes.
        """
        envelope = published(
            Sampled(text="x" * 70_000 + " AKIA" + "Q" * 16, more={"password": "hunter2hunter2"}),
            attributes={"a": 1},
            causes=["e-1"],
        )

        found = record.parse(line_of(record.from_envelope(envelope)))

        assert [name for name in record.MEMBERS if name in found] == list(found)
        assert {"redacted", "truncated", "attributes", "causation_id"} < set(found)
        assert ["metadata.text"] == list(found["truncated"])

    def test_hostile_text(self) -> None:
        """
        No text can forge a line, a member, or anything that a strict reader refuses.
        """
        hostile = 'x"\n}\r\u2028\x00\x7f\ud800,"hash":"' + "0" * 64 + '"}\n'
        bus = fixed_bus()
        with capture(bus) as heard, harken.scope(actor=hostile, run_id=hostile, phase=hostile):
            bus.publish(Sampled(sample_id=hostile, text=hostile), causes=[hostile])

        line = line_of(record.from_envelope(heard.envelopes[0]))

        clean = hostile.replace("\ud800", "\ufffd")
        found = msgspec.json.decode(line)
        assert b"\n" not in line[:-1]
        assert line[:-1].isascii()
        assert line[:-1].decode().isprintable()
        assert [clean] * 5 == [
            found["actor"],
            found["run_id"],
            found["phase"],
            found["causation_id"],
            found["metadata"]["text"],
        ]
        assert record.check_line(line).seq == 1

    @pytest.mark.parametrize(("excess", "problem"), [(0, None), (1, "too_long")])
    def test_longest_line(self, excess: int, problem: str | None) -> None:
        """
        A line of exactly 1 MiB with its line feed is a line, and a longer one is none.
        """

        def line_of(pad: str) -> tuple[bytes, str]:
            draft = record.control(
                "audit.checkpoint", {"pad": pad}, event_id="e-1", time_ns=NOW, resource="r"
            )
            return draft.line(NOW, 1, "w-1", 1, record.GENESIS)

        line, digest = line_of("x" * (record.MAX_LINE + excess - len(line_of("")[0])))
        try:
            found = record.link_of(line).hash
        except RecordError as error:
            found = error.problem

        assert (problem or digest) == found

    def test_too_long(self) -> None:
        """
        A line has at most 1 MiB; what was cut for that is named, with its size and SHA-256.
        """
        envelope = published(Sampled(text="kept", more=["é" * 60_000] * 5))

        line = line_of(record.from_envelope(envelope))

        found = record.parse(line)
        whole = json.dumps(envelope.data()["more"], separators=(",", ":")).encode()
        assert len(line) <= record.MAX_LINE
        assert {"sample_id": "7", "text": "kept", "more": f"[TRUNCATED:{len(whole)}]"} == (
            found["metadata"]
        )
        assert {"metadata.more": [len(whole), sha256(whole).hexdigest()]} == found["truncated"]

    def test_one_byte_too_long(self) -> None:
        """
        What would be longer by one byte than a line may be is cut, too.
        """

        def line(pad: int) -> bytes:
            sampled = Sampled(text="kept", more=[*["x" * 60_000] * 17, "x" * pad])
            return line_of(record.from_envelope(published(sampled)))

        cut = line(record.MAX_LINE + 1 - len(line(0)))

        assert len(cut) <= record.MAX_LINE
        assert {"metadata.more"} == record.parse(cut)["truncated"].keys()

    def test_too_many_attributes(self) -> None:
        """
        Attributes that are too long for a line are cut, too, and nothing else with them.
        """
        attributes = [{f"{half} {i}": "é" * 1000 for i in range(120)} for half in ("a", "b")]
        bus = fixed_bus()
        with capture(bus) as heard, harken.scope(**attributes[0]):
            bus.publish(Sampled(text="kept"), attributes=attributes[1])
        envelope = heard.envelopes[0]

        line = line_of(record.from_envelope(envelope))

        found = record.parse(line)
        whole = json.dumps(dict(envelope.attributes), separators=(",", ":")).encode()
        assert len(whole) > record.MAX_LINE
        assert "attributes" not in found
        assert {"attributes": [len(whole), sha256(whole).hexdigest()]} == found["truncated"]
        assert "kept" == found["metadata"]["text"]

    def test_too_many_small_members(self) -> None:
        """
        Where naming what was cut would take as much room as keeping it, the whole is named.
        """
        names = [f"f{i:05}" for i in range(9000)]
        annotations = dict.fromkeys(names, str)
        cls: Any = types.new_class(
            "Wide",
            (Event,),
            {"name": "record_test.wide"},
            lambda namespace: namespace.update(__annotations__=annotations),
        )
        envelope = published(cls(**dict.fromkeys(names, "é" * 20)))

        line = line_of(record.from_envelope(envelope))

        found = record.parse(line)
        size = len(envelope.body)
        assert size > record.MAX_LINE
        assert {} == found["metadata"]
        assert [size, sha256(envelope.body).hexdigest()] == found["truncated"]["metadata"]

    def test_redacted(self) -> None:
        """
        No secret reaches a record, and how many of each kind were taken out does.
        """
        key = "AKIA" + "IOSFODNN7EXAMPLQ"

        line = line_of(record.from_envelope(published(Sampled(text=f"key {key}"))))

        assert key.encode() not in line
        assert 1 == sum(record.parse(line)["redacted"].values())

    def test_attributes_of_each_event(self) -> None:
        """
        Attributes are those of the event at hand, also when many share those of a scope.
        """
        bus = fixed_bus()
        with capture(bus) as heard:
            with harken.scope(team="blue"):
                bus.publish(Sampled())
                bus.publish(Sampled())
                bus.publish(Sampled(), attributes={"depth": 1})
                bus.publish(Sampled())
            with harken.scope(team="red"):
                bus.publish(Sampled())

        lines = [line_of(record.from_envelope(envelope)) for envelope in heard.envelopes]

        assert [
            {"team": "blue"},
            {"team": "blue"},
            {"team": "blue", "depth": 1},
            {"team": "blue"},
            {"team": "red"},
        ] == [record.parse(line)["attributes"] for line in lines]

    @given(
        st.lists(
            st.tuples(
                st.fixed_dictionaries(
                    {},
                    optional={
                        **dict.fromkeys(SCOPE_TEXTS, st.text()),
                        "team": st.text() | st.integers(-9, 9) | st.none(),
                        "traceparent": st.just(
                            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
                        ),
                    },
                ),
                st.dictionaries(st.text(min_size=1), st.text() | st.booleans()),
                st.lists(st.text(), max_size=1),
                st.text(),
            ),
            min_size=1,
            max_size=4,
        )
    )
    def test_is_what_the_envelope_says(self, given: list[tuple[Any, Any, Any, str]]) -> None:
        """
        Whatever the scope and the event hold, a record is the envelope's members, byte for byte;
        also when several events share a scope.
        """
        bus = fixed_bus()
        with capture(bus) as heard:
            for scope, attributes, causes, text in given:
                with harken.scope(**scope):
                    bus.publish(Sampled(text=text))
                    bus.publish(Sampled(text=text), attributes=attributes, causes=causes)
                    bus.publish(DigStarted(dig_id=text), attributes=attributes)
                    bus.publish(DigCompleted(dig_id=text))

        for envelope in heard.envelopes:
            body = envelope.body.decode()
            expected = {
                "v": 1,
                "id": envelope.id,
                "event_type": envelope.name,
                "actor": envelope.actor or "unknown",
                "action": envelope.action,
                "resource": envelope.resource,
                "outcome": envelope.outcome,
                "metadata": "<metadata>",
                "correlation_id": envelope.correlation_id,
                "trace_id": envelope.trace_id,
                "span_id": envelope.span_id,
            }
            optional = {
                name: getattr(envelope, name)
                for name in record.OPTIONAL
                if hasattr(envelope, name) and getattr(envelope, name)
            }
            optional["schema_version"] = 1
            members = {name: optional[name] for name in record.OPTIONAL if name in optional}
            for name in ("attributes", "redacted", "truncated"):
                if name in members:
                    members[name] = dict(members[name])
            if "causation_id" in members:
                cause = members["causation_id"].encode("utf-16", "surrogatepass")
                members["causation_id"] = cause.decode("utf-16", "replace")
            draft = record.from_envelope(envelope)

            written = f"{draft.front}{draft.back}"

            line = json.dumps({**expected, **members}, separators=(",", ":"))
            assert f",{line[1:-1]}".replace('"<metadata>"', body, 1) == written


class TestControl:
    @pytest.mark.parametrize(
        ("event_type", "action", "outcome"),
        [("audit.open", "open", "success"), ("audit.lost", "lost", "failure")],
    )
    def test_members(self, event_type: str, action: str, outcome: str) -> None:
        """
        A control record has the members that every record has.
        """
        draft = record.control(
            event_type, {"reason": "ö"}, event_id="id", time_ns=NOW, resource="audit_log:\udcff"
        )

        line, digest = draft.line(NOW, 1, WRITER, 1, record.GENESIS)

        assert {
            "timestamp": "2026-01-02T03:04:05.000000Z",
            "seq": 1,
            "v": 1,
            "id": "id",
            "event_type": event_type,
            "actor": "system:harken",
            "action": action,
            "resource": "audit_log:\ufffd",
            "outcome": outcome,
            "metadata": {"reason": "ö"},
            "correlation_id": None,
            "trace_id": None,
            "span_id": None,
            "writer": WRITER,
            "n": 1,
            "prev": record.GENESIS,
            "hash": digest,
        } == record.parse(line)
        assert line.isascii()


class TestTimestamps:
    @pytest.mark.parametrize(
        ("age", "expected_age"),
        [(0, 0), (999_999_999, 999_999_999), (1_000_000_001, 0), (-1, 0)],
    )
    def test_of_an_event(self, age: int, expected_age: int) -> None:
        """
        The time of the event counts, unless it is more than a second old or not come yet.
        """
        assert NOW - expected_age == record.timestamp_ns(NOW - age, NOW, 0)

    @pytest.mark.parametrize("age", [0, 500_000_000, 900_000_000])
    def test_of_an_event_a_little_behind_the_file(self, age: int) -> None:
        """
        An event that is up to a second behind the file keeps its own time.
        """
        assert NOW - age == record.timestamp_ns(NOW - age, NOW, NOW + 100_000_000)

    def test_of_an_event_far_behind_the_file(self) -> None:
        """
        An event that is more than a second behind the file gets the time of the writing.
        """
        latest = NOW + 500_000_000

        assert NOW == record.timestamp_ns(NOW - 900_000_000, NOW, latest)

    @given(
        st.lists(
            st.tuples(st.integers(-1_000_000_000, 5_000_000_000), st.integers(-(10**10), 10**10))
        )
    )
    def test_never_go_back_by_more_than_two_seconds(self, steps: list[tuple[int, int]]) -> None:
        """
        However old events are, and if the clock steps back by up to a second, so does a file.
        """
        latest = now = NOW
        for step, age in steps:
            now = max(now + step, latest - record.SLACK_NS)
            stamp = record.timestamp_ns(now - age, now, latest)

            assert stamp >= latest - 2_000_000_000
            latest = max(latest, stamp)

    @given(st.datetimes(timezones=st.just(UTC)))
    def test_as_text(self, when: datetime) -> None:
        """
        Times have six digits and a Z, so that their order is that of their texts.
        """
        ns = (when - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) * 1000

        text = record.rfc3339(ns)

        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", text)
        assert when == datetime.fromisoformat(text)


class TestReadingBack:
    @given(st.text(), st.text(), st.recursive(st.none() | st.floats() | st.text(), st.lists))
    def test_what_is_written_is_read(self, actor: str, text: str, more: Any) -> None:
        """
        Whatever an event holds, its line is sealed, is one line of ASCII, and reads the same.
        """
        bus = fixed_bus()
        with capture(bus) as heard, harken.scope(actor=actor):
            bus.publish(Sampled(text=text, more=more))
        envelope = heard.envelopes[0]

        line = line_of(record.from_envelope(envelope))

        found = record.parse(line)
        assert line.isascii()
        assert 1 == line.count(b"\n")
        assert (envelope.actor or "unknown", envelope.data()) == (found["actor"], found["metadata"])
        assert found["hash"] == record.check_line(line, record.FIRST).hash

    @given(st.data())
    def test_any_change_is_noticed(self, data: st.DataObject) -> None:
        """
        Changing any byte of a line breaks it.
        """
        (line,) = lines_of('text with "quotes" and ö')
        at = data.draw(st.integers(0, len(line) - 1))
        byte = data.draw(st.integers(0, 255).filter(lambda byte: byte != line[at]))
        changed = line[:at] + bytes([byte]) + line[at + 1 :]

        with pytest.raises(RecordError):
            record.check_line(changed)

    def test_link(self) -> None:
        """
        A link holds what chains a line to its neighbours.
        """
        first, second = lines_of("a", "b")

        link = record.check_line(second, record.check_line(first, record.FIRST))

        before = record.parse(first)
        after = record.parse(second)
        assert (
            Link(
                "2026-01-02T03:04:05.000000Z",
                2,
                "record_test.sampled",
                WRITER,
                2,
                before["hash"],
                after["hash"],
            ),
            NOW,
        ) == (link, link.time_ns)

    def test_seal(self) -> None:
        """
        The hash covers all but the last 75 bytes of a line and its line feed.
        """
        (line,) = lines_of("a")

        content, end = line[:-76], line[-76:]

        assert f',"hash":"{sha256(content).hexdigest()}"}}\n'.encode() == end
        assert record.SEAL == len(end) - 1

    def test_start(self) -> None:
        """
        Time and number of a line are known from its first bytes.
        """
        lines = lines_of("a", "b")

        assert record.Start(NOW, 2) == record.start_of(lines[1][:512])
        assert record.start_of(b"\0" * 512) is None


class TestProblems:
    def problem(self, line: bytes, after: Link | None = None) -> str:
        with pytest.raises(RecordError) as caught:
            record.check_line(line, after)
        return caught.value.problem

    def test_of_one_line(self) -> None:
        """
        Each thing that can be wrong with a line has a name.
        """
        (line,) = lines_of("text")

        assert {
            "no line feed": "torn",
            "too long": "too_long",
            "another tool's line": "foreign",
            "a blank line": "foreign",
            "a seal without a record": "foreign",
            "a changed byte": "altered",
            "an added member": "altered",
            "two lines in one": "altered",
        } == {
            "no line feed": self.problem(line[:-1]),
            "too long": self.problem(b" " * record.MAX_LINE + b"\n"),
            "another tool's line": self.problem(b'{"level":"info"}\n'),
            "a blank line": self.problem(b"\n"),
            "a seal without a record": self.problem(b"x" + line[-76:]),
            "a changed byte": self.problem(line.replace(b"text", b"test", 1)),
            "an added member": self.problem(line.replace(b',"writer"', b',"x":1,"writer"')),
            "two lines in one": self.problem(line[:200] + line),
        }

    def test_of_what_was_sealed_again(self) -> None:
        """
        Whoever can seal a line can still not make readers disagree on what it says.
        """
        (line,) = lines_of("text")

        assert ("duplicate", "duplicate", "malformed", "malformed") == (
            self.problem(resealed(line, b',"outcome"', b',"outcome":1,"outcome"')),
            self.problem(resealed(line, b'"text":', b'"text":1e5,"a":%d,"text":' % 10**99)),
            self.problem(resealed(line, b'"text":', b'"text"')),
            self.problem(resealed(line, b'"text":"', b'"text":"\xff')),
        )

    def test_of_the_chain(self) -> None:
        """
        A line that was removed, inserted, moved or renumbered is noticed at its successor.
        """
        lines = lines_of("a", "b", "c")
        first, second, third = map(record.link_of, lines)

        assert ("chain", "chain", "chain", "seq") == (
            self.problem(lines[2], first),
            self.problem(lines[1], second),
            self.problem(lines[0], third),
            self.problem(resealed(lines[1], b'"seq":2,', b'"seq":3,'), first),
        )

    def test_how_to_go_on(self) -> None:
        """
        After a problem, what chains the line to the next is still known where it was readable.
        """
        (line,) = lines_of("text")

        with pytest.raises(RecordError) as caught:
            record.check_line(line.replace(b"text", b"test", 1))

        assert caught.value.link is not None
        assert json.loads(line)["hash"] == caught.value.link.hash

    @pytest.mark.parametrize("line", [b"[]\n", b"[" * 100_000, b'{"a":1', b"\xff", b"1\n"])
    def test_of_what_is_no_object(self, line: bytes) -> None:
        """
        What is not a JSON object is no record.
        """
        with pytest.raises(RecordError) as caught:
            record.parse(line)

        assert "malformed" == caught.value.problem

    @example('{"a":1.0,"b":1e5,"c":"\\u00e9"}')
    @example('{"a": 1}')
    @given(
        st.dictionaries(
            st.text(), st.floats(allow_nan=False, allow_infinity=False) | st.text()
        ).map(json.dumps)
    )
    def test_spelling_does_not_matter(self, text: str) -> None:
        """
        A record without a duplicate is read, however its numbers and characters are written.
        """
        assert json.loads(text) == record.parse(text.encode())


class TestTenLineVerifier:
    @pytest.fixture
    def verify(self, tmp_path: Path, run_python: Any) -> Any:
        """
        Run the program in the module's documentation over files with these lines.
        """
        assert record.__doc__
        program = "\n".join(
            line[4:]
            for line in record.__doc__.split(".. code-block:: python")[1]
            .split("\n``seq``")[0]
            .splitlines()
        )

        def run(*files: list[bytes]) -> str:
            for i, lines in enumerate(files):
                (tmp_path / str(i)).write_bytes(b"".join(lines))
            done = run_python(program, *map(str, range(len(files))), returncode=None)
            return str(done.stdout + done.stderr).strip()

        return run

    def test_verifies(self, verify: Any) -> None:
        """
        The program that is documented verifies a log without harken.
        """
        lines = lines_of("a", "b", "c")

        assert f"verified up to {record.link_of(lines[2]).hash}" == verify(lines[:2], lines[2:])

    def test_notices(self, verify: Any) -> None:
        """
        It notices lines that were changed, removed, inserted, moved or added.
        """
        lines = lines_of("a", "b", "c")

        assert {
            "changed": "0:2: altered, or not a sealed line",
            "removed": "0:2: a line before it is missing, or was put there",
            "moved": "0:1: a line before it is missing, or was put there",
            "blank": "0:2: altered, or not a sealed line",
            "torn": "0:3: altered, or not a sealed line",
            "file removed": "0:1: a line before it is missing, or was put there",
        } == {
            "changed": verify([lines[0], lines[1].replace(b'"b"', b'"B"'), lines[2]]),
            "removed": verify([lines[0], lines[2]]),
            "moved": verify([lines[1], lines[0], lines[2]]),
            "blank": verify([lines[0], b"\n", *lines[1:]]),
            "torn": verify([*lines[:2], lines[2][:-9]]),
            "file removed": verify(lines[1:]),
        }


def test_content_is_recorded() -> None:
    """
    Captured content stands in the record; digest and size of what is not captured do.
    """

    class Spoke(Event, name="record_test.spoke", audit=True):
        """
        Something was said.
        """

        words: Annotated[str, harken.content("text")] = ""
        words_size: int = 0

    envelope = published(Spoke(words="hello"))

    found = record.parse(line_of(record.from_envelope(envelope)))

    assert {"words_size": 5} == found["metadata"]


class TestKeySlot:
    STATE = record.KeyState(generation=3, key_id="k", epoch=2, key="ab", seq=7, head="cd")

    def test_comes_back(self) -> None:
        """
        What stands in a place of a key file is read again, and fills the place.
        """
        slot = record.to_key_slot(self.STATE)

        assert record.KEY_SLOT == len(slot)
        assert self.STATE == record.from_key_slot(slot)

    @pytest.mark.parametrize("place", [0, 70, 100])
    def test_torn(self, place: int) -> None:
        """
        A place that was written in part holds nothing.
        """
        slot = bytearray(record.to_key_slot(self.STATE))
        slot[place] ^= 1

        assert record.from_key_slot(bytes(slot)) is None
        assert record.from_key_slot(bytes(record.KEY_SLOT)) is None


def test_format_of_a_line() -> None:
    """
    The version of the format is known from the beginning of a line, also of one that is to come.
    """
    draft = record.control("audit.opened", {}, event_id="e-1", time_ns=NOW, resource="r")
    line, _ = draft.line(NOW, 1, "w-1", 1, record.GENESIS)

    assert 1 == record.format_of(line[:512])
    assert 12 == record.format_of(line.replace(b'"v":1,', b'"v":12,')[:512])
    assert record.format_of(b'{"v":1}') is None
