"""
What several commands need: an end with one sentence, safe text, event types by name.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from tempfile import mkstemp
from typing import NoReturn, TextIO

import click

from harken import Event, event_types, find
from harken.contract import current
from harken.errors import UnknownEventError

# Whether a file may be read is for whoever reads it to tell, with the exit code that says so; click
# asks for the real user, and calls it wrong usage.
PATH = click.Path(readable=False, path_type=Path)
"""The path of a log, in the arguments of a command."""

FILE = click.Path(dir_okay=False, readable=False, path_type=Path)
"""The path of a file, which no folder is."""


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
    explain(message)
    click.echo(f"Error: {printable(message)}", err=True)


def forget_output() -> None:
    """
    Drop what is still buffered for standard output: it would fail once more when the interpreter
    ends.
    """
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def replacing(path: Path) -> Generator[TextIO]:
    """
    Open a file for text that takes the place of *path*, at once when all is there, and that only
    its owner may read. What is no regular file, such as a device or a pipe, is written to.
    """
    target = path.resolve()
    if target.exists() and not target.is_file():
        with target.open("w", encoding="utf-8", newline="") as stream:
            yield stream
        return
    try:
        fd, name = mkstemp(dir=target.parent, prefix=f".{target.name}.")
    except OSError as error:
        # Nobody knows the file that would have taken its place.
        error.filename = str(path)
        raise
    new = Path(name)
    try:
        with open(fd, "w", encoding="utf-8", newline="") as stream:
            yield stream
        new.replace(target)
    finally:
        new.unlink(missing_ok=True)


def explain(message: str) -> None:
    """
    Say what went wrong in the answer, where a command answers in JSON.
    """
    call = current()
    if call is not None:
        call.explain(message)


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
