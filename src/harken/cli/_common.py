"""
What several commands need: failures, text that is safe on a terminal, event types by name.
"""

from __future__ import annotations

import sys

import click

from harken import Event, event_types, find
from harken.errors import UnknownEventError


class Failure(click.ClickException):
    """
    Ends the command with one sentence on standard error.
    """

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


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
    import harken.catalog as _

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
