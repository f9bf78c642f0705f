"""
`harken schema`.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from typing import Any

import jsonschema
import msgspec
import pytest

from harken import Event, catalog, event_name, schema
from harken.catalog import ToolStarted
from harken.cli.schema import schema_of_all

Run = Callable[..., subprocess.CompletedProcess[str]]

CATALOG = [event_name(getattr(catalog, name)) for name in catalog.__all__]
DIALECT = jsonschema.Draft202012Validator


class Place(msgspec.Struct):
    """
    Where something is.
    """

    shelf: int


class BoxMoved(Event, name="clitest.box_moved"):
    """
    A box was moved.
    """

    to: Place


def test_of_one_type(call: Callable[..., Any]) -> None:
    """
    The schema of one type is that of the library, as JSON.
    """
    assert schema(ToolStarted) == json.loads(call("schema", "tool.started").out)


def test_of_all_types(harken: Run) -> None:
    """
    Without a type it is one valid schema that has all types of the catalog under `$defs`.
    """
    document = json.loads(harken("schema").stdout)

    DIALECT.check_schema(document)
    assert sorted(CATALOG) == list(document["$defs"])
    assert "x-unit" in document["$defs"]["tool.completed"]["properties"]["result_size"]


def test_each_of_all_types_stands_alone() -> None:
    """
    Within the one document, a type that refers to a type of its own still finds it.
    """
    document = schema_of_all({"clitest.box_moved": BoxMoved})
    validator = DIALECT({**document, "$ref": "urn:harken:event:clitest.box_moved"})

    assert validator.is_valid({"to": {"shelf": 4}})
    assert not validator.is_valid({"to": {"shelf": "four"}})


@pytest.mark.parametrize(
    ("name", "hint"),
    [("tool.startet", "did you mean tool.started"), ("x", "see `harken catalog`")],
)
def test_of_an_unknown_type(call: Callable[..., Any], name: str, hint: str) -> None:
    """
    A name that no type has is wrong usage, and near matches are named.
    """
    called = call("schema", name)

    assert (2, "") == (called.code, called.out)
    assert f"no event type is called '{name}'; {hint}" in called.err
