"""
Standard output: whose it is while a command runs, and what becomes of it when nobody reads.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from io import StringIO
from typing import Literal, TextIO, TypeAlias

Form: TypeAlias = Literal["text", "json", "jsonl"]
"""How an answer is written: for people, or as an envelope on several lines or on one."""

FORMS: tuple[Form, ...] = ("json", "jsonl", "text")


class OutputError(ValueError):
    """
    ``--output`` names no form.
    """


def take_output(argv: Sequence[str]) -> tuple[list[str], str | None]:
    """
    Return *argv* without ``--output FORM``, and the form; None when it is not asked for.

    What follows ``--`` is not looked at.

    Raises:
        OutputError: Nothing follows.
    """
    rest: list[str] = []
    form: str | None = None
    words = iter(argv)
    for word in words:
        if word == "--":
            return [*rest, word, *words], form
        name, sign, value = word.partition("=")
        if name != "--output":
            rest.append(word)
        elif sign:
            form = value
        else:
            form = next(words, None)
            if form is None:
                raise OutputError("--output needs one of json, jsonl, text")
    return rest, form


def form_of(asked: str | None) -> Form:
    """
    Return the form that is asked for; without, text on a terminal, else JSON.

    Raises:
        OutputError: There is no such form.
    """
    if asked is None:
        return "text" if sys.stdout is not None and sys.stdout.isatty() else "json"
    for form in FORMS:
        if asked == form:
            return form
    raise OutputError(f"--output is one of {', '.join(FORMS)}; not {asked!r}")


def occupy_standard_files() -> None:
    """
    Put something in place of a standard file that is closed, or the next one opened, such as the
    audit log, would stand there and get what is printed.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    if sys.stderr is None:
        # What a command prints beside its answer has to go somewhere.
        sys.stderr = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")


class Aside:
    """
    Sends to standard error what the command, its libraries and its children print, so that
    standard output has nothing but the answer. What is printed before, as help is, is kept.
    """

    def __init__(self) -> None:
        self._stream: TextIO | None = None
        self._file: int | None = None
        self._kept: StringIO | None = None

    def begin(self) -> None:
        """
        From now on nothing comes to standard output.
        """
        self._stream = sys.stdout
        if self._stream is not None:
            flush(self._stream)
        self._file = os.dup(1)
        os.dup2(2, 1)
        self._kept = sys.stdout = StringIO()

    def let_through(self) -> None:
        """
        From now on standard output is standard error; what was kept goes there, too.
        """
        if self._kept is not None:
            sys.stdout = sys.stderr
            if sys.stderr is not None:
                sys.stderr.write(self._kept.getvalue())
            self._kept = None

    def end(self) -> str:
        """
        Standard output is what it was; return what was kept. Idempotent.
        """
        if self._file is None:
            return ""
        if sys.stderr is not None:
            flush(sys.stderr)
        os.dup2(self._file, 1)
        os.close(self._file)
        self._file = None
        said = "" if self._kept is None else self._kept.getvalue()
        self._kept = None
        sys.__dict__["stdout"] = self._stream
        return said


def flush(stream: TextIO) -> OSError | None:
    """
    Write what is buffered; return why that cannot be, after which it is forgotten.
    """
    try:
        stream.flush()
    except OSError as error:
        # What stays in the buffer would fail once more when the interpreter ends, and change the
        # exit code.
        with suppress(OSError, ValueError):
            file = os.open(os.devnull, os.O_WRONLY)
            os.dup2(file, stream.fileno())
            os.close(file)
            stream.flush()
        return error
    except ValueError:
        # Somebody closed it, and nothing is left of what was in it.
        return None
    return None
