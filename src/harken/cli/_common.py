"""
What several commands need: an end with one sentence, safe text, event types by name.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import NoReturn

import click

from harken import Event, event_types, find
from harken.errors import UnknownEventError


def fail(message: str, exit_code: int = 1) -> NoReturn:
    """
    End the command with one sentence on standard error.
    """
    complain(message)
    raise click.exceptions.Exit(exit_code)


def complain(message: str) -> None:
    """
    Say on standard error what went wrong, as click says it.
    """
    click.echo(f"Error: {printable(message)}", err=True)


def printable(text: str) -> str:
    """
    Return *text* with everything escaped that could steer a terminal or reorder what it shows.

    That is C0 and C1 controls, line ends, bidirectional and other invisible formatting, and
    what no encoding has: whatever Unicode counts as not printable.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else _escaped(char) for char in text)


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")


def on_terminal() -> bool:
    """
    Return whether standard output is read by a person.
    """
    return sys.stdout.isatty()


def all_types() -> dict[str, type[Event]]:
    """
    Return every event type of the catalog by dotted name, in that order.
    """
    import_module("harken.catalog")
    return dict(sorted(event_types().items()))


def event_type(name: str) -> type[Event]:
    """
    Return the type called *name*.

    Raises:
        click.BadParameter: There is none; the message names near matches.
    """
    try:
        return find(name)
    except UnknownEventError as error:
        raise click.BadParameter(str(error), param_hint="TYPE") from error
