"""
A tool under the contract: its own commands, and the two that the contract adds.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import NamedTuple, NoReturn, Protocol

from harken.contract._exit import USAGE
from harken.contract._invocation import Invocation
from harken.contract._output import Form, OutputError, form_of, take_output
from harken.errors import HarkenError

_NAME = re.compile(r"--[A-Za-z][\w-]*|-[A-Za-z]", re.ASCII)


_ADDED = {
    "audit-log": "The command audit-log prints the calls of this tool.",
    "schema": "The command schema prints what answers look like.",
}


class UnknownAppError(HarkenError, TypeError):
    """
    What is to be adopted is no command line that the contract knows.
    """


class Adapter(Protocol):
    """
    What the contract has to know of a command-line library.
    """

    def has(self, word: str) -> bool:
        """
        Return whether the app has a command called *word* itself.
        """
        ...

    def takes_output(self, argv: Sequence[str]) -> bool:
        """
        Return whether the command that *argv* names has an option ``--output`` itself.
        """
        ...

    def tell_in_help(self, text: str) -> None:
        """
        Have *text* stand at the end of the app's help.
        """
        ...

    def completes(self, tool: str) -> bool:
        """
        Return whether a shell asks what could stand in its command line, and let the app answer.
        """
        ...

    def run(self, call: Invocation, argv: Sequence[str]) -> None:
        """
        Run the command that *argv* names; it ends as `Invocation` wants to be left.
        """
        ...


class Added(NamedTuple):
    """
    A command that the contract adds.

    Attributes:
        form_of: Returns the form of the answer, from what ``--output`` asks for.

        run: Called with the arguments, and what ``--output`` asks for.
    """

    form_of: Callable[[str | None], Form]
    run: Callable[[Invocation, Sequence[str], str | None], None]


class Tool:
    """
    A command-line app under the contract, to be called in its place: ``app()``.

    Every call is an `Invocation`. ``--output json|jsonl|text`` may stand anywhere before ``--``,
    unless a command has such an option itself; ``audit-log`` and ``schema`` are added, unless the
    app has them. Made by `contract()`.
    """

    def __init__(self, app: object, *, tool: str, version: str = "unknown") -> None:
        self.app = app
        self.tool = tool
        self.version = version
        self._adapter = _adapter_of(app)
        added = [text for name, text in _ADDED.items() if not self._adapter.has(name)]
        self._adapter.tell_in_help(" ".join(["For agents: --output json, jsonl or text.", *added]))

    def __call__(self, argv: Sequence[str] | None = None) -> NoReturn:
        """
        Run the tool and end the process, as its arguments or *argv* say.

        Raises:
            SystemExit: Always, with the exit code that is on record.
        """
        argv = list(sys.argv[1:] if argv is None else argv)
        if self._adapter.completes(self.tool):
            raise SystemExit(0)
        asked = mistake = None
        rest = argv
        try:
            rest, asked = take_output(argv)
        except OutputError as error:
            mistake = str(error)
        name = rest[0] if rest else ""
        added = None if self._adapter.has(name) else _added(name)
        if added is None and self._adapter.takes_output(argv):
            rest, asked, mistake = argv, None, None
        argv = rest
        form: Form = "json"
        try:
            form = form_of(asked) if added is None else added.form_of(asked)
        except OutputError as error:
            mistake = str(error)
        with Invocation(self.tool, version=self.version, form=form) as call:
            call.params = named_only(argv)
            if mistake is not None:
                call.fail(mistake, exit_code=USAGE)
            elif added is not None:
                added.run(call, argv[1:], asked)
            else:
                self._adapter.run(call, argv)
        raise SystemExit(0)


def _added(name: str) -> Added | None:
    """
    Return the command called *name* that the contract adds; None when there is none.
    """
    if name not in _ADDED:
        return None
    # Not loaded by a call of the tool's own commands.
    from harken.contract import _commands

    return _commands.ADDED[name]


def named_only(argv: Sequence[str]) -> dict[str, object]:
    """
    Return the options in *argv* by name: before they are understood, no value can be judged.

    Of one with a single dash only the first letter is kept: the rest may be its value.
    """
    words = takewhile("--".__ne__, argv)
    return {found[0]: None for found in map(_NAME.match, words) if found is not None}


def _adapter_of(app: object) -> Adapter:
    # By name: a library that is not the app's own is not loaded to be asked for its classes.
    kinds = {f"{kind.__module__.partition('.')[0]}.{kind.__name__}" for kind in type(app).__mro__}
    if "argparse.ArgumentParser" in kinds:
        from harken.contract._argparse import ArgparseAdapter

        return ArgparseAdapter(app)
    if "click.Command" in kinds:
        from harken.contract.click import ClickAdapter

        return ClickAdapter(app)
    if "typer.Typer" in kinds:
        from harken.contract._typer import command_of
        from harken.contract.click import ClickAdapter

        return ClickAdapter(command_of(app))
    if "cyclopts.App" in kinds:
        from harken.contract._cyclopts import CycloptsAdapter

        return CycloptsAdapter(app)
    raise UnknownAppError(
        f"{type(app).__name__} is no click command, Typer app, cyclopts App or ArgumentParser; "
        "use invocation() instead"
    )
