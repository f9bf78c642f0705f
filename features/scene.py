"""
What the steps of one scenario share, and how they look at it.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from behave.model import Table
from behave.runner import Context
from parse import with_pattern

import harken
from harken import Bus, FlushReport
from harken.errors import HarkenError
from harken.testing import Captured

ABSENT = object()

PROGRAMS = {
    path.stem.replace("_", " "): path for path in Path(__file__).with_name("programs").glob("*.py")
}


class Scene(Context):
    """
    The context of behave, with what harken's steps put into it.

    Attributes:
        folder: The scenario's own folder, which is also the working folder.

        bus: What the agent publishes on.

        heard: What the working sink hears.

        listener: What the listener hears.

        report: What the last flush said.

        error: What stopped the last act; None when nothing did.

        ran: The program or the command that ran last.

        tool: The sample tool that was called last.
    """

    folder: Path
    bus: Bus
    heard: Captured
    listener: Captured
    error: Exception | None
    ran: subprocess.CompletedProcess[str]
    tool: Path
    report: FlushReport


def use(context: Scene, bus: Bus) -> Bus:
    """
    Have the agent publish on *bus*, which is closed when the scenario is over.
    """
    context.bus = bus
    context.add_cleanup(bus.close)
    return bus


def bus_of(context: Scene) -> Bus:
    """
    Return the agent's bus; a plain one when no step has made another.
    """
    return context.bus if "bus" in context else use(context, Bus())


@contextmanager
def noting(context: Scene) -> Iterator[None]:
    """
    Keep what harken raises inside the block in `Scene.error`.
    """
    context.error = None
    try:
        yield
    except HarkenError as error:
        context.error = error


@with_pattern(r'"[^"]+"(?:(?:, | and )"[^"]+")*')
def names(text: str) -> list[str]:
    """
    Return what is named in *text*, as in ``"a", "b" and "c"``.
    """
    return text.replace('" and "', '", "')[1:-1].split('", "')


@with_pattern(r'"[^"]+"|no audit log|no spans')
def file_name(text: str) -> str | None:
    """
    Return the name of a file, or None for a file that is not there.
    """
    return text.strip('"') if text.startswith('"') else None


@with_pattern("[a-z]+(?:(?:, | and )[a-z]+)*")
def words(text: str) -> list[str]:
    """
    Return the words in *text*, as in ``one, two and three``.
    """
    return text.replace(" and ", ", ").split(", ")


@with_pattern("[^`]+")
def command(text: str) -> str:
    """
    Return a command line.
    """
    return text


@with_pattern("|".join(PROGRAMS))
def program(text: str) -> Path:
    """
    Return the program in the folder ``programs`` that does what *text* says.
    """
    return PROGRAMS[text]


@with_pattern("[A-Z_]+")
def variable(text: str) -> str:
    """
    Return the name of a variable of the environment.
    """
    return text


def last(found: list[dict[str, Any]], what: str) -> dict[str, Any]:
    """
    Return the last of *found*, of which there must be some.
    """
    assert found, f"there is no {what}"
    return found[-1]


def shown(value: object) -> str:
    """
    Return a value as the cell of a table shows it; nothing where there is none.
    """
    if value is ABSENT or value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def member(record: object, path: str) -> object:
    """
    Return the member at *path*, such as ``metadata.arguments.q``; names may have dots, too.
    """
    if path == "":
        return record
    if not isinstance(record, dict):
        return ABSENT
    members = cast("dict[str, object]", record)
    for name in sorted(members, key=len, reverse=True):
        if path == name or path.startswith(f"{name}."):
            return member(members[name], path[len(name) + 1 :])
    return ABSENT


def compare(table: Table, read: Callable[[str], object]) -> None:
    """
    Compare each row of *table*, a name and its value, with what *read* returns for that name.
    """
    # behave takes the first row for headings; in a list of pairs it is a pair like the others.
    rows = [list(table.headings), *(list(row.cells) for row in table.rows)]
    expected = dict(rows)
    found = {name: shown(read(name)) for name in expected}
    assert expected == found, f"expected {expected}, found {found}"


def attribute(owner: object, name: str) -> object:
    """
    Return an attribute as it would stand in JSON.
    """
    value = getattr(owner, name)
    return value.value if isinstance(value, harken.Outcome) else value
