"""
The JSON that leaves the process: strict, bounded, and never an error.
"""

from __future__ import annotations

import hashlib
import json
from collections import UserDict
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, NoReturn
from uuid import UUID

import msgspec
import pytest
from hypothesis import given, strategies as st

from harken import JSON, Bus, Envelope, Event, content
from harken.body import MAX_TEXT
from harken.catalog import TextEmitted, ToolCompleted, ToolFailed, ToolStarted
from harken.errors import EventError


class Held(Event, name="bodytest.held", resource="thing:{thing}"):
    """
    Holds anything.
    """

    value: JSON = None
    thing: str = "t"


class Said(Event, name="bodytest.said"):
    """
    Content with the short names of its siblings.
    """

    text: Annotated[JSON, content("text")] = None
    digest: str = ""
    size: int = 0


def strictly(body: bytes) -> dict[str, Any]:
    """
    Read *body* as the strictest of readers would.
    """

    def refuse(constant: str) -> NoReturn:
        raise AssertionError(constant)

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len(dict(pairs)) == len(pairs)
        return dict(pairs)

    assert body.isascii()
    assert all(byte >= 0x20 and byte != 0x7F for byte in body)
    decoded: dict[str, Any] = json.loads(body, parse_constant=refuse, object_pairs_hook=unique)
    return decoded


def envelope_of(event: Event, **options: Any) -> Envelope[Event]:
    bus = Bus(**options)
    bus.subscribe(lambda envelope: None)
    envelope = bus.publish(event)
    assert envelope is not None
    return envelope


def value_of(value: object) -> object:
    return strictly(envelope_of(Held(value=value)).body)["value"]


class Mute:
    def __str__(self) -> str:
        raise RuntimeError


class Shy(UserDict[str, str]):
    def items(self) -> NoReturn:
        raise RuntimeError


@dataclass
class Point:
    x: int
    y: object = None


class Part(msgspec.Struct):
    name: str


def circle() -> dict[str, object]:
    inside: dict[str, object] = {}
    inside["me"] = [inside]
    return inside


def tower(levels: int) -> list[object]:
    inside: list[object] = []
    for _ in range(levels):
        inside = [inside]
    return inside


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (float("nan"), "NaN"),
        ([float("inf"), float("-inf"), 1.5], ["Infinity", "-Infinity", 1.5]),
        ({"a": None, "b": float("nan")}, {"a": None, "b": "NaN"}),
        (2**53 - 1, 2**53 - 1),
        (2**53, str(2**53)),
        (-(2**70), str(-(2**70))),
        (10**5000, "[INT:16610 bits]"),
        (True, True),
        (b"\x00\xff", f"[BYTES:2 sha256:{hashlib.sha256(bytes([0, 255])).hexdigest()[:16]}]"),
        (bytearray(b"x"), f"[BYTES:1 sha256:{hashlib.sha256(b'x').hexdigest()[:16]}]"),
        ("\udce4", "\ufffd"),
        ("\U0001f600\u2028\x7f\x1b[31m", "\U0001f600\u2028\x7f\x1b[31m"),
        (circle(), {"me": ["[CIRCULAR]"]}),
        ({1: "a", "1": "b"}, {"1": "a", "1~": "b"}),
        ({(1, 2): "a", None: "b"}, {"[1,2]": "a", "null": "b"}),
        ({3, 1, 2}, [1, 2, 3]),
        ((1, "a"), [1, "a"]),
        (Mute(), "[UNPRINTABLE:RuntimeError]"),
        ({"in": [Mute(), b""]}, {"in": ["[UNPRINTABLE:RuntimeError]", value_of(b"")]}),
        ([2**60, Shy()], [str(2**60), "[UNPRINTABLE:RuntimeError]"]),
        (UserDict({"a": 1}), {"a": 1}),
        (Point(1), {"x": 1, "y": None}),
        (Point(1, 2**60), {"x": 1, "y": str(2**60)}),
        (Part("p"), {"name": "p"}),
        ([2**60, Part("p")], [str(2**60), {"name": "p"}]),
        (Decimal("1.10"), "1.10"),
        (Path("/etc"), "/etc"),
        (UUID(int=5), "00000000-0000-0000-0000-000000000005"),
        (datetime(2026, 1, 2, 3, 4, 5, 6, UTC), "2026-01-02T03:04:05.000006Z"),
        (ValueError("no"), "no"),
        (ValueError, "<class 'ValueError'>"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_anything_becomes_json(value: object, expected: object) -> None:
    """
    Whatever an author puts into an event, a strict reader can read the record.
    """
    assert expected == value_of(value)


def test_depth() -> None:
    """
    Nesting beyond what readers can follow is cut.
    """
    body = envelope_of(Held(value=tower(5000))).body

    assert b"[TRUNCATED:depth]" in body
    assert len(body) < 1000


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats()
        | st.text(st.characters())
        | st.binary()
        | st.dates(),
        lambda inside: (
            st.lists(inside)
            | st.dictionaries(st.text(st.characters()) | st.integers(), inside)
            | st.frozensets(st.integers())
        ),
        max_leaves=30,
    )
)
def test_nothing_raises(value: object) -> None:
    """
    Nothing a payload holds raises or makes a line that a strict reader refuses.
    """
    strictly(envelope_of(Held(value=value)).body)


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**53) + 1, 2**53 - 1)
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(st.characters(codec="utf-8")),
        lambda inside: (
            st.lists(inside) | st.dictionaries(st.text(st.characters(codec="utf-8")), inside)
        ),
        max_leaves=30,
    )
)
def test_json_comes_back(value: JSON) -> None:
    """
    What is JSON already is recorded unchanged.
    """
    assert value == envelope_of(Held(value=value), redaction=False).data()["value"]


class TestBounds:
    def test_long_text_is_cut_and_named(self) -> None:
        """
        A string of 5 MB leaves its beginning, its size and its digest.
        """
        text = "x" * 5_000_000
        envelope = envelope_of(Held(value={"deep": [text]}))

        (kept,) = envelope.data()["value"]["deep"]
        assert "x" * MAX_TEXT + "[TRUNCATED:5000000]" == kept
        assert {
            "metadata.value.deep[0]": (5_000_000, hashlib.sha256(text.encode()).hexdigest())
        } == dict(envelope.truncated)

    def test_too_many_members(self) -> None:
        """
        Containers with more members than a record can hold are cut as a whole.
        """
        values = list(range(100_000))
        envelope = envelope_of(Held(value={"list": values, "dict": {str(n): n for n in values}}))

        assert {"metadata.value.list", "metadata.value.dict"} == set(envelope.truncated)
        assert "[TRUNCATED:588891]" == envelope.data()["value"]["list"]

    @pytest.mark.parametrize(
        "value", [[2**60] * 300_000, {str(n): 2**60 for n in range(300_000)}], ids=["list", "dict"]
    )
    def test_too_many_members_in_what_is_no_json(self, value: object) -> None:
        """
        The same bound holds where the payload has to be made JSON first.
        """
        envelope = envelope_of(Held(value=value))

        assert {"metadata.value"} == set(envelope.truncated)
        assert len(envelope.body) < 100

    def test_long_keys(self) -> None:
        """
        Keys are cut, too.
        """
        (key,) = envelope_of(Held(value={"k" * 100_000: 1})).data()["value"]

        assert "k" * 256 + "..." == key


class TestContent:
    def test_captured(self) -> None:
        """
        Captured content is kept beside its digest and size.
        """
        envelope = envelope_of(ToolStarted(tool_name="a", arguments={"q": 1}))

        digest = hashlib.sha256(b'{"q":1}').hexdigest()
        data = envelope.data()
        assert ({"q": 1}, f"sha256:{digest}") == (data["arguments"], data["arguments_digest"])
        assert "arguments" not in envelope.data(content=False)
        assert data["arguments_digest"] == envelope.data(content=False)["arguments_digest"]

    def test_not_captured(self) -> None:
        """
        Content nobody asked for leaves only digest and size.
        """
        envelope = envelope_of(ToolStarted(tool_name="a", arguments="q"), capture_content=())

        assert "arguments" not in envelope.data()
        assert envelope.data()["arguments_digest"]
        assert envelope.body is envelope.encoded(content=False)

    def test_result_and_text(self) -> None:
        """
        Sizes are bytes of a result and characters of a text.
        """
        bus = Bus(capture_content=["result", "text"])
        bus.subscribe(lambda envelope: None)
        result = bus.publish(ToolCompleted(tool_name="a", result="\u00e9\u00e9"))
        text = bus.publish(TextEmitted(block_index=0, text="\u00e9\u00e9"))

        assert result is not None
        assert text is not None
        assert ("\u00e9\u00e9", 4) == (result.data()["result"], result.data()["result_size"])
        assert ("\u00e9\u00e9", 2) == (text.data()["text"], text.data()["size"])

    def test_what_the_author_gave_stays(self) -> None:
        """
        A digest and a size of the author's own are not overwritten.
        """
        envelope = envelope_of(Said(text="abc", digest="mine", size=7), capture_content=["text"])

        assert {"text": "abc", "digest": "mine", "size": 7} == envelope.data()

    def test_nothing_to_digest(self) -> None:
        """
        Content that is absent has no digest.
        """
        assert {"digest": "", "size": 0} == envelope_of(Said()).data()

    def test_unknown_kind(self) -> None:
        """
        A kind of content that does not exist is refused when the bus is made.
        """
        with pytest.raises(EventError, match="content kind 'pictures' is unknown; use any of"):
            Bus(capture_content=["pictures"])  # type: ignore[list-item]


class TestEnvelopeTexts:
    def test_attributes_are_scalars(self) -> None:
        """
        Attributes are bounded JSON scalars, whatever was given.
        """
        bus = Bus()
        bus.subscribe(lambda envelope: None)
        envelope = bus.publish(
            Held(), attributes={"list": [1, 2], "long": "x" * 2000, "nan": float("nan"), "n": 1}
        )

        assert envelope is not None
        assert {"list": "[1,2]", "long": "x" * 1024 + "...", "nan": "NaN", "n": 1} == dict(
            envelope.attributes
        )

    @pytest.mark.parametrize(
        ("thing", "resource"),
        [
            ("a", "thing:a"),
            ("", "unknown"),
            (None, "unknown"),
            (7, "thing:7"),
            ("\udce4", "thing:?"),
        ],
    )
    def test_resource(self, thing: Any, resource: str) -> None:
        """
        The resource is the template, filled; unknown when a part is missing.
        """
        assert resource == envelope_of(Held(thing=thing)).resource

    def test_data_is_fresh(self) -> None:
        """
        One sink's changes to the decoded data reach no other sink.
        """
        envelope = envelope_of(Held(value=[1]))
        envelope.data()["value"].append(2)

        assert [1] == envelope.data()["value"]


def test_hostile_values_where_the_bus_itself_looks() -> None:
    """
    A key or an outcome that cannot even be printed harms nobody.
    """
    bus = Bus()
    bus.subscribe(lambda envelope: None)

    start = bus.publish(ToolStarted(tool_name="a", tool_call_id=Mute()))  # type: ignore[arg-type]
    end = bus.publish(
        ToolFailed(tool_name="a", tool_call_id=Mute(), outcome=Mute())  # type: ignore[arg-type]
    )
    with bus.operation(ToolStarted(tool_name="b", tool_call_id=Mute())) as op:  # type: ignore[arg-type]
        op.complete()

    assert start is not None
    assert end is not None
    assert start is end.started
    assert "unknown" == end.outcome
    bus.close()
