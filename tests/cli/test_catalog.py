"""
`harken catalog`.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import partial
from typing import Annotated, Any, Literal

import msgspec
import pytest

from harken import JSON, Event, catalog as catalog_, content, describe, event_name, find, unit
from harken.cli.catalog import fields_of, type_name

Run = Callable[..., subprocess.CompletedProcess[str]]
Catalog = Callable[..., Any]

CATALOG = sorted(event_name(getattr(catalog_, name)) for name in catalog_.__all__)


class ParcelSent(Event, name="clitest.parcel_sent", audit=True, resource="parcel:{parcel_id}"):
    """
    A parcel left the house.

    It may come back. *Nobody* knows ``when``.

    Attributes:
        parcel_id: The number on it.

        weight:
            How heavy it is,
            with everything in it.

        kind: ``box`` or ``bag``.
    """

    parcel_id: str
    weight: Annotated[int, unit("g")] | None = None
    note: Annotated[JSON, content("messages")] = None
    kind: Literal["box", "bag"] = "box"
    stamps: list[str] = msgspec.field(default_factory=list)
    colour: Annotated[str, msgspec.Meta(examples=["red", "blue"])] = ""


class Silent(Event, name="clitest.silent"):
    pass


@pytest.fixture
def catalog(call: Callable[..., Any]) -> Catalog:
    """
    A function that calls `harken catalog` in this process, which knows the types above, too.
    """
    return partial(call, "catalog")


class TestList:
    def test_has_every_type(self, harken: Run) -> None:
        """
        Each type has one line: its name, whether it is audited, and what happened.
        """
        heading, *lines = harken("catalog").stdout.splitlines()

        assert ["TYPE", "AUDITED", "WHAT", "HAPPENED"] == heading.split()
        assert CATALOG == [line.split()[0] for line in lines]
        audited = {name: "yes" if describe(find(name)).audit else "-" for name in CATALOG}
        assert audited == dict(line.split()[:2] for line in lines)

    def test_says_what_happened(self, harken: Run) -> None:
        """
        The first sentence of a type's docstring is told, off a terminal in one plain line.
        """
        shown = harken("catalog", "tool.*").stdout.splitlines()

        assert (
            "tool.started    yes      The agent called a tool; published before the tool runs."
            == shown[-1]
        )
        assert "tool.retried    -        A tool call did not work and will be tried again." in shown

    def test_of_a_pattern(self, harken: Run) -> None:
        """
        A pattern lists the types whose names it matches.
        """
        rows = json.loads(harken("catalog", "run.c*", "-o", "json").stdout)["data"]

        assert [
            {
                "name": "run.cancelled",
                "audited": True,
                "summary": "A run was stopped from outside before its end, with what it had used "
                "up to then.",
            },
            {
                "name": "run.completed",
                "audited": True,
                "summary": "A run came to its end and its answer was judged; published after the "
                "judgement.",
            },
        ] == rows

    def test_of_a_pattern_without_match(self, catalog: Catalog) -> None:
        """
        A pattern that matches nothing is wrong usage.
        """
        called = catalog("nothing.*")

        assert (2, "") == (called.code, called.out)
        assert "no event type matches 'nothing.*'; see `harken catalog`" in called.err


class TestPage:
    def test_of_a_type(self, catalog: Catalog) -> None:
        """
        A page says everything that the declaration does.
        """
        assert """\
clitest.parcel_sent
  A parcel left the house.

  It may come back. Nobody knows when.

  class     tests.ParcelSent
  audited   yes
  action    parcel_sent
  resource  parcel:{parcel_id}
  version   1

Fields
  parcel_id: str  (required)
      The number on it.
  weight: int | None = None  (in g)
      How heavy it is, with everything in it.
  note: JSON = None  (content: messages)
  kind: Literal['box', 'bag'] = 'box'
      box or bag.
  stamps: list[str] = []
  colour: str = ''
      Such as red, blue.
""" == catalog("clitest.parcel_sent").out.replace(ParcelSent.__module__, "tests")

    def test_of_an_operation(self, catalog: Catalog) -> None:
        """
        A start names its key and its ends, and an end its start.
        """
        start, end = catalog("tool.started").out, catalog("tool.denied").out

        assert "  class     harken.catalog.ToolStarted\n" in start
        assert "  key       tool_call_id\n" in start
        assert "  ended by  tool.completed, tool.failed, tool.denied\n" in start
        assert "  ends      tool.started\n" in end

    def test_of_a_transient_type(self, catalog: Catalog) -> None:
        """
        A type that no sink gets by itself says so.
        """
        assert "  transient yes: a sink gets it only" in catalog("llm.chunk").out

    def test_of_a_type_without_fields(self, catalog: Catalog) -> None:
        """
        A type without documentation or fields has a page, too.
        """
        assert catalog("clitest.silent").out.endswith("No fields of its own\n")

    def test_as_json(self, catalog: Catalog) -> None:
        """
        For programs, the same is a JSON object.
        """
        page = json.loads(catalog("tool.denied", "--output", "json").out)["data"]

        fields = {field["name"]: field for field in page.pop("fields")}
        assert {
            "name": "tool.denied",
            "audited": True,
            "summary": "A tool call was not allowed, and the tool did not run.",
            "class": "harken.catalog.ToolDenied",
            "description": "A tool call was not allowed, and the tool did not run.",
            "action": "call",
            "resource": "tool:{tool_name}",
            "key": ["tool_call_id"],
            "ends": "tool.started",
            "ended_by": [],
            "transient": False,
            "schema_version": 1,
        } == page
        assert {
            "name": "decided_by",
            "type": "str",
            "required": False,
            "default": "",
            "unit": None,
            "content": None,
            "words": ["policy", "user", "hook"],
            "doc": "policy, user or hook.",
        } == fields["decided_by"]

    @pytest.mark.parametrize("name", CATALOG)
    def test_of_every_type(self, catalog: Catalog, name: str) -> None:
        """
        Every type of the catalog has a page with all of its fields.
        """
        cls = find(name)

        shown = catalog(name).out

        assert [] == [field for field in cls.__struct_fields__ if f"\n  {field}: " not in shown]
        assert [] == [mark for mark in ("``", "Annotated", "typing.") if mark in shown]

    def test_of_an_unknown_type(self, catalog: Catalog) -> None:
        """
        A name that no type has is wrong usage, and near matches are named.
        """
        called = catalog("tool.startet")

        assert (2, "") == (called.code, called.out)
        assert "no event type is called 'tool.startet'; did you mean tool.started" in called.err

    def test_documents_inherited_fields(self) -> None:
        """
        What a base class says of a field holds for its subclasses.
        """
        docs = {field.name: field.doc for field in fields_of(find("run.completed"))}

        assert "Part of output_tokens." == docs["reasoning_tokens"]


@pytest.mark.parametrize(
    ("shown", "hint"),
    [
        ("int", int),
        ("datetime", datetime),
        ("JSON", Any),
        ("str | None", str | None),
        ("str | int", Annotated[str, "of any kind"] | int),
        ("tuple[str, ...]", tuple[str, ...]),
        ("Mapping[str, JSON]", Mapping[str, Any]),
        ("list[int | None]", list[Annotated[int, "of any kind"] | None]),
        ("Literal['a', 1]", Literal["a", 1]),
    ],
    ids=str,
)
def test_type_name(shown: str, hint: object) -> None:
    """
    A type is shown as its author wrote it.
    """
    assert shown == type_name(hint)
