"""
Long answers a page at a time, for people who ask for it.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from contextlib import suppress
from io import TextIOWrapper

import click

DEFAULT = "less"
"""The pager where none is named."""


def pager_option(function: click.decorators.FC) -> click.decorators.FC:
    """
    Add the option that asks for a pager.
    """
    return click.option(
        "--pager/--no-pager",
        "pager",
        default=None,
        expose_value=False,
        callback=_note,
        help="Whether to show text page by page. [default: if HARKEN_PAGER is set]",
    )(function)


def _note(context: click.Context, parameter: click.Parameter, wanted: bool | None) -> None:
    context.meta[__name__] = wanted


def page(context: click.Context) -> None:
    """
    Send what is printed through a pager until *context* ends, if that is wanted: by ``--pager``, or
    by `HARKEN_PAGER`, which also says which one. Else it is `PAGER`, else `DEFAULT`.

    A pager that does not start is told, and the answer printed without one.
    """
    wanted: bool | None = context.meta.get(__name__)
    named = os.environ.get("HARKEN_PAGER", "")
    if wanted is False or not (wanted or named):
        return
    command = shlex.split(named or os.environ.get("PAGER", "")) or [DEFAULT]
    try:
        # As with git: colours are shown, and what fits on the screen is just printed.
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, env={"LESS": "FRX", **os.environ}
        )
    except OSError as error:
        click.echo(f"Warning: {command[0]} does not start: {error.strerror}", err=True)
        return
    context.call_on_close(_Pages(process).close)


class _Pages:
    """
    Standard output while a pager shows it.
    """

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        self._process = process
        self._before = sys.stdout
        encoding = sys.stdout.encoding
        sys.stdout = _Paged(process.stdin, encoding=encoding, errors="backslashreplace")

    def close(self) -> None:
        # Ctrl-C is for the pager now, which decides when it ends.
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            # Who reads may have seen enough.
            with suppress(BrokenPipeError):
                sys.stdout.close()
            sys.stdout = self._before
            self._process.wait()
        finally:
            signal.signal(signal.SIGINT, before)


class _Paged(TextIOWrapper):
    """
    A pipe to a pager, behind which a person sits.
    """

    def isatty(self) -> bool:
        return True
