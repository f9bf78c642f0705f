"""
The JSON that leaves the process: strict, bounded, and never an error.
"""

from __future__ import annotations

import hashlib
import json
import tracemalloc
from collections import UserDict
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, NoReturn
from uuid import UUID

import msgspec
import orjson
import pytest
from hypothesis import given, settings, strategies as st
from tests.test_redaction import OPTIONS, SECRETS, SUSPECTS

from harken import JSON, Bus, Envelope, Event, content, event_types, scope
from harken.body import (
    MAX_ATTRIBUTES,
    MAX_ITEMS,
    MAX_KEY,
    MAX_SCOPE_TEXT,
    MAX_TEXT,
    Encoder,
)
from harken.catalog import (
    CommandCompleted,
    MessageAdded,
    RunStarted,
    TextEmitted,
    ToolCompleted,
    ToolFailed,
    ToolStarted,
)
from harken.errors import EventError
from harken.event import CONTENT_KINDS, EventMeta, describe
from harken.redaction import Redactor


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


class Bare(Event, name="bodytest.bare"):
    """
    Content that nothing stands beside.
    """

    text: Annotated[JSON, content("text")] = None


class Between(Event, name="bodytest.between"):
    """
    Content in the middle, with its digest alone.
    """

    label: JSON = ""
    result_digest: str = ""
    result: Annotated[JSON, content("result")] = None
    note: JSON = ""


class Sized(Event, name="bodytest.sized"):
    """
    Content with its size alone, in characters, at the end.
    """

    note: JSON = ""
    text: Annotated[JSON, content("text")] = None
    size: int = 0


class Apart(Event, name="bodytest.apart"):
    """
    Content whose digest and size stand elsewhere.
    """

    text_size: int = 0
    label: JSON = ""
    text: Annotated[JSON, content("text")] = None
    text_digest: str = ""


class Digest(Event, name="bodytest.digest"):
    """
    Content that is called as if it were its own digest.
    """

    digest: Annotated[JSON, content("text")] = None
    size: int = 0


class Twofold(Event, name="bodytest.twofold"):
    """
    Two contents that share a digest.
    """

    text: Annotated[JSON, content("text")] = None
    digest: str = ""
    result: Annotated[JSON, content("result")] = None


# Content with a name that is not ASCII.
Accented: Any = EventMeta(
    "Accented",
    (Event,),
    {
        "__module__": __name__,
        "__annotations__": {
            "r\u00e9sultat": Annotated[JSON, content("result")],
            "r\u00e9sultat_size": int,
        },
        "r\u00e9sultat": None,
        "r\u00e9sultat_size": 0,
    },
    name="bodytest.accented",
)


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
    def __repr__(self) -> str:
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
        ({Mute()}, ["[UNPRINTABLE:RuntimeError]"]),
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


@pytest.mark.parametrize("others", [[], [float("nan")]], ids=["alone", "beside what is no JSON"])
def test_sets_are_in_order(others: list[object]) -> None:
    """
    The members of a set stand in one order in every process, on the quick way and on the slow one.
    """
    names = [f"{number:02}" for number in range(50)]

    assert names == value_of([{*names}, *others])[0]


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

    @pytest.mark.parametrize("one", [["x"], {"a": "x"}], ids=["list", "dict"])
    def test_too_many_small_containers(self, one: JSON) -> None:
        """
        Many small containers are bounded like few large ones.
        """
        envelope = envelope_of(Held(value=[one] * 15_000))
        kept = [item for item in envelope.data()["value"] if item == one]

        assert 9_000 < len(kept) <= 10_000
        assert 15_000 - len(kept) == len(envelope.truncated)

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


CONTENT_TYPES: tuple[type[Event], ...] = (
    *(ToolStarted, ToolCompleted, TextEmitted, MessageAdded, RunStarted, CommandCompleted),
    *(Held, Said, Bare, Between, Sized, Apart, Digest, Twofold, Accented),
)
FIELDS = sorted({field for cls in CONTENT_TYPES for field in describe(cls).fields})

TEXTS = st.text(
    st.characters(codec="utf-8") | st.sampled_from('"\\\x7f\u00e9{}[],:'), max_size=12
) | st.sampled_from(
    [
        *FIELDS,
        *("null", '"text":', 'x"text', '","digest":"","size":0,', '{"text":1}', 'a"b' * 100),
        *('","text_digest":"","text_size":0,"', '{\\"arguments\\":null}'),
    ]
)
KEYS = (
    TEXTS
    | st.integers(MAX_KEY - 2, MAX_KEY + 2).map(lambda size: "k" * size)
    | st.integers(MAX_KEY - 2, MAX_KEY + 2).map(lambda size: "\u00e9" * size)
    | st.integers(80, 90).map(lambda size: 'a":' * size)
    | st.integers(MAX_KEY - 2, MAX_KEY + 2).map(lambda size: ("\\" * size + '"')[-size:])
)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-1, 1)
    | st.floats()
    | TEXTS
    | st.text("x", min_size=250, max_size=270)
    | SUSPECTS
    | st.sampled_from(["\udce4", b"x", 2**60, -0.0, 1e22, 5e-324, "T" * (MAX_TEXT + 1)]),
    lambda inside: (
        st.lists(inside, max_size=3)
        | st.dictionaries(KEYS, inside, max_size=3)
        | st.dictionaries(st.sampled_from(FIELDS), inside, max_size=3)
    ),
    max_leaves=8,
)


def required(cls: type[Event]) -> dict[str, Any]:
    """
    Return something for each field of *cls* that has no default.
    """
    return {field.name: "t" for field in msgspec.structs.fields(cls) if field.required}


@st.composite
def hostile_events(draw: st.DrawFn) -> Event:
    """
    Make an event of any shape, some of whose fields hold what their annotations forbid.
    """
    cls = draw(st.sampled_from(CONTENT_TYPES))
    (marked, *_) = [*describe(cls).content, *describe(cls).fields]
    given = required(cls) | {marked: draw(VALUES)}
    for field in draw(st.lists(st.sampled_from(describe(cls).fields), max_size=2)):
        given[field] = draw(VALUES)
    return cls(**given)


def is_the_same_as_the_plain_way(event: Event, encoder: Encoder) -> bool:
    info, raw = describe(event), encoder.raw(event)
    short, plain = encoder.body(info, raw), encoder.plain_body(info, raw, encoder.redactor)
    assert (plain.full, plain.outline) == (short.full, short.outline)
    assert (plain.full is plain.outline) == (short.full is short.outline)
    assert (plain.redacted, plain.truncated) == (short.redacted, short.truncated)
    return True


class PlainWayIsClosed(Encoder):
    """
    An encoder that only knows the short way.
    """

    def plain_body(self, *args: object) -> NoReturn:
        raise AssertionError(args)


class TestShortWay:
    @settings(max_examples=300)
    @given(
        hostile_events(),
        st.sets(st.sampled_from(sorted(CONTENT_KINDS))),
        st.sampled_from([*OPTIONS, None]),
    )
    def test_same_as_the_plain_way(
        self, event: Event, capture: set[str], options: dict[str, Any] | None
    ) -> None:
        """
        A body that is made of the bytes that are there is the one made member by member, with what
        the redaction counts and what is cut.
        """
        redactor = None if options is None else Redactor(**options)

        assert is_the_same_as_the_plain_way(event, Encoder(redactor, capture))

    @given(
        st.sampled_from([ToolCompleted, TextEmitted, MessageAdded, Said, Bare, Between, Sized]),
        TEXTS | st.none(),
        st.text(st.characters(codec="utf-8")),
        st.booleans(),
    )
    def test_usual_events(self, cls: type[Event], value: JSON, text: str, captured: bool) -> None:
        """
        The same where every field holds what it should.
        """
        (marked,) = describe(cls).content
        event = cls(**required(cls), **{marked: value if value is None else value + text})
        capture = CONTENT_KINDS if captured else frozenset[str]()

        assert is_the_same_as_the_plain_way(event, Encoder(None, capture))

    @pytest.mark.parametrize(
        "cls", [Held, Between, ToolStarted, Said], ids=lambda cls: cls.__name__
    )
    @pytest.mark.parametrize("captured", [True, False])
    @pytest.mark.parametrize(
        "value",
        [
            *([1] * count for count in (MAX_ITEMS - 60, *range(MAX_ITEMS - 6, MAX_ITEMS + 4))),
            *([[1] * 9_000, [2] * count] for count in (10_980, *range(10_990, 11_004))),
            {"a": [1] * (MAX_ITEMS - 10), "b": [[]] * 10},
            *("x" * size for size in (39_000, 40_100, MAX_TEXT, MAX_TEXT + 1)),
            *({"k" * size: 1} for size in range(MAX_KEY - 2, MAX_KEY + 3)),
            *({"a": ["x" * 200], "\u00e9" * size: 1} for size in (128, 129, MAX_KEY, MAX_KEY + 1)),
            *({"a": "x" * 300, 'k"' * size: 1, "b": "x" * 300} for size in (128, 129, 300)),
            *({"a": "x" * 300, "k\\" * size: 1, "b": "\\" * 300} for size in (128, 129, 300)),
            *([{"a": "\\" * size}, {'"' * size: 2}] for size in range(254, 260)),
            ["x" * 300, ":", {"a": 1}, "y" * 700, {"b": {"c" * 257: 1}}],
            ["x" * 300, {"a": 1}, [1.5] * 200, {"b": "y" * 2000}],
            [[]] * 200,
            # Longer than twice as many bytes as there may be items.
            *([["x" * 60] * 900, [1] * count] for count in range(19_090, 19_106)),
            *(
                [{"a": "x" * 2000}] * 30 + [{"b": ["y" * size]}]
                for size in (MAX_TEXT, MAX_TEXT + 1)
            ),
            *([{"a": 'x"\\' * 700}] * 30 + [{"k" * size: 1}] for size in (MAX_KEY, MAX_KEY + 1)),
            ["x" * (MAX_TEXT - 1) + '"', "y" * MAX_TEXT],
            ['"' * (MAX_TEXT - 1), '"' * MAX_TEXT, '"' * (MAX_TEXT + 1)],
        ],
        ids=lambda value: f"{type(value).__name__}{len(value)}",
    )
    def test_at_the_bounds(self, cls: type[Event], value: JSON, captured: bool) -> None:
        """
        The same where something is nearly, or just, too long or too many.
        """
        field = next(iter(describe(cls).content), "value")
        encoder = Encoder(None, CONTENT_KINDS if captured else frozenset[str]())

        assert is_the_same_as_the_plain_way(cls(**required(cls), **{field: value}), encoder)

    @pytest.mark.parametrize(
        "given",
        [
            {"text": {"text": 1}},
            {"text": "abc", "digest": "", "size": 0.5},
            {"text": "abc", "digest": "", "size": -0.0},
            {"text": "abc", "digest": "", "size": 7},
            {"text": "abc", "digest": "", "size": 10**17},
            {"text": "abc", "digest": "", "size": 2**64},
            {"text": "abc", "digest": "", "size": 10**30},
            {"text": "abc", "digest": "", "size": 1e16},
            {"text": "abc", "digest": "", "size": -7},
            {"text": "abc", "digest": "d", "size": 7},
            {"text": '"digest":"","size":7}', "digest": "", "size": 7},
            {"text": "abc", "digest": [], "size": False},
            {"text": "abc", "digest": 'x","size":0'},
            {"text": "abc", "digest": '"', "size": 0},
            {"text": "abc", "digest": {"digest": ""}, "size": 0},
            {"text": [{"digest": "", "size": 0, "x": {'a,"digest': ""}}], "size": 3},
            {"text": '\x7f\u00e9\n"\\', "size": 0},
            {"text": "", "digest": ""},
            {"text": None, "digest": '"text":null'},
            {"text": None, "digest": {"text": None}},
        ],
        ids=str,
    )
    def test_hostile_neighbours(self, given: dict[str, Any]) -> None:
        """
        The same where other fields look like the content, its digest or its size.
        """
        for capture in (CONTENT_KINDS, frozenset[str]()):
            assert is_the_same_as_the_plain_way(Said(**given), Encoder(None, capture))

    def test_every_content_type_of_the_catalog(self) -> None:
        """
        Not one of them has to go the plain way.
        """
        encoder = PlainWayIsClosed(Redactor(), CONTENT_KINDS)
        for cls in event_types().values():
            if cls.__module__.startswith("harken.catalog.") and describe(cls).content:
                (marked,) = describe(cls).content
                event = cls(**required(cls), **{marked: "\u00e9"})
                body = encoder.body(describe(cls), encoder.raw(event))
                assert marked in strictly(body.full)
                assert marked not in strictly(body.outline)

    def test_size_that_its_author_gives(self) -> None:
        """
        What is longer than it is told here does not have to go the plain way either.
        """
        encoder = PlainWayIsClosed(Redactor(), CONTENT_KINDS)
        event = ToolCompleted(tool_name="a", result="\u00e9", result_size=2340)
        body = strictly(encoder.body(describe(event), encoder.raw(event)).full)

        digest = hashlib.sha256("\u00e9".encode()).hexdigest()
        assert (f"sha256:{digest}", 2340) == (body["result_digest"], body["result_size"])

    def test_long_and_within_bounds(self) -> None:
        """
        Nor does a long conversation, of which nothing is too long by itself.
        """
        encoder = PlainWayIsClosed(Redactor(), CONTENT_KINDS)
        said = [{"role": "user", "content": 'a "host"\\n, and another. ' * 100}] * 60
        event = ToolStarted(tool_name="a", arguments={"messages": said})
        raw = encoder.raw(event)

        assert len(raw) > 2 * MAX_TEXT
        assert said == strictly(encoder.body(describe(event), raw).full)["arguments"]["messages"]

    def test_outline_is_made_once(self) -> None:
        """
        What goes without the content is one object for every sink.
        """
        encoder = Encoder(None, CONTENT_KINDS)
        body = encoder.body(describe(Said), encoder.raw(Said(text="abc")))

        assert body.outline is body.outline
        assert "text" not in strictly(body.outline)


class TestRaw:
    def test_infinity_beside_nothing(self) -> None:
        """
        Fields that hold None do not hide a number that is none.
        """
        event = ToolStarted(tool_name="a", arguments=[None, float("nan")])

        assert [None, "NaN"] == envelope_of(event).data()["arguments"]

    @pytest.mark.parametrize(
        ("written", "kept"),
        [
            ('{\n  "a": 1\n}', {"a": 1}),
            (b'{"a":\n', '{"a":\n'),
            (b"", ""),
            (b"NaN", "NaN"),
            (b'"\xff"', '"\ufffd"'),
            (b'1,"tool_name":"forged"', '1,"tool_name":"forged"'),
            (
                b'1},"actor":"user:alice","metadata":{"a":1',
                '1},"actor":"user:alice","metadata":{"a":1',
            ),
            ('{"a":1,"a":2}', {"a": 2}),
            ("1e999", "1e999"),
            ('"ghp_' + "a1B2c3D4" * 5 + '"', "[REDACTED:github_token]"),
        ],
    )
    def test_encoded_by_its_author(self, written: str | bytes, kept: object) -> None:
        """
        What its author has encoded is kept as the JSON that it is, and as a text when it is none:
        no member of the event can be forged with it.
        """
        fragment = orjson.Fragment(written)
        for value, expected in (
            (fragment, kept),
            ([{"in": fragment}], [{"in": kept}]),
            (Point(1, fragment), {"x": 1, "y": kept}),
        ):
            event = ToolStarted(tool_name="t", tool_call_id="c", arguments=value)
            held = strictly(envelope_of(Held(value=value)).body)
            called = strictly(envelope_of(event).body)

            assert expected == held["value"]
            assert ("t", expected) == (called["tool_name"], called["arguments"])

    def test_keeps_no_more_than_it_is_long(self) -> None:
        """
        A waiting event holds its payload, not the buffer it was made in.
        """
        encoder = Encoder(None, frozenset())
        events = [Held(value=["x" * 100]) for _ in range(500)]
        encoder.raw(events[0])
        tracemalloc.start()
        try:
            waiting = [encoder.raw(event) for event in events]
            held, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()

        assert held / len(waiting) < len(waiting[0]) + 100


class Chameleon(str):
    """
    Takes itself for every other text.
    """

    __slots__ = ()
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        return True


class TestEnvelopeTexts:
    def test_scope_of_odd_texts(self) -> None:
        """
        A text of a scope is kept as what it says, not as what it claims to equal.
        """
        bus = Bus()
        bus.subscribe(lambda envelope: None)
        with scope(actor=Chameleon("agent:odd"), run_id="ghp_" + "a1B2c3D4" * 5):
            envelope = bus.publish(Held())

        assert envelope is not None
        assert ("agent:odd", str) == (envelope.actor, type(envelope.actor))
        assert "[REDACTED:github_token]" == envelope.run_id

    @given(
        st.dictionaries(
            st.text(max_size=12) | st.sampled_from(["password", "tenant", "host"]),
            st.none()
            | st.booleans()
            | st.integers()
            | st.text(max_size=20)
            | st.sampled_from([secret for _, secret in SECRETS.values()])
            | st.sampled_from(["x" * MAX_SCOPE_TEXT, "x" * (MAX_SCOPE_TEXT + 1), "\x7f"]),
            max_size=4,
        ),
        st.sampled_from([*OPTIONS, None]),
    )
    def test_shortcut(self, values: dict[str, JSON], options: Any) -> None:
        """
        Plain short texts take a shortcut to what anything else becomes.
        """
        encoder = Encoder(None if options is None else Redactor(**options), frozenset())
        found: dict[str, int] = {}
        expected: dict[str, int] = {}
        # A list, which becomes text, has no shortcut; nor has what stands beside it.
        whole = encoder.texts({**values, "[]": [1]}, expected)

        assert "[1]" == whole.pop("[]")
        assert (whole, expected) == (encoder.texts(values, found), found)

    def test_so_many_attributes(self) -> None:
        """
        With or without the shortcut so many attributes are kept, and it is said that there were
        more.
        """
        encoder = Encoder(Redactor(), frozenset())
        for odd in ("x", 0.5):
            values = {f"a{number}": odd for number in range(MAX_ATTRIBUTES)}

            assert values == encoder.texts(values, {})
            more = encoder.texts({**values, "b": odd}, {})
            assert {**values, "[TRUNCATED:items]": MAX_ATTRIBUTES + 1} == more

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
            (2**70, "thing:1180591620717411303424"),
            pytest.param(10**5000, "thing:[INT:16610 bits]", id="no end"),
            (True, "thing:true"),
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
