"""
Apps made with argparse, whose commands say what runs by ``set_defaults(func=...)``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import redirect_stderr
from io import StringIO
from typing import cast

from harken.contract._invocation import Invocation

_PATH = "harken_path"


class ArgparseAdapter:
    """
    Lets a parser say what runs.
    """

    def __init__(self, parser: object) -> None:
        self._parser = cast("argparse.ArgumentParser", parser)

    def has(self, word: str) -> bool:
        """
        Return whether the app has a command called *word* itself.
        """
        return any(word in commands for _, commands in _groups_of(self._parser))

    def takes_output(self, argv: Sequence[str]) -> bool:
        """
        Return whether the command that *argv* names has an option ``--output`` itself.
        """
        parsers, _ = _path_to(self._parser, argv)
        return any(
            "--output" in action.option_strings
            for parser in parsers
            for action in _actions_of(parser)
        )

    def tell_in_help(self, text: str) -> None:
        """
        Have *text* stand at the end of the app's help.
        """
        self._parser.epilog = f"{self._parser.epilog}\n\n{text}" if self._parser.epilog else text

    def completes(self, tool: str) -> bool:
        """
        Return False: argparse completes nothing by itself.
        """
        return False

    def run(self, call: Invocation, argv: Sequence[str]) -> None:
        """
        Run the command that *argv* names.

        What it returns is its answer, but an integer its exit code, as in
        ``sys.exit(args.func(args))``.
        """
        _, words = _path_to(self._parser, argv)
        call.command = " ".join(words) or None
        _mark([self._parser], [])
        arguments = self._parsed(call, argv)
        parsers, words = vars(arguments).pop(_PATH)
        call.command = " ".join(words) or None
        given = dict(vars(arguments))
        function: Callable[[argparse.Namespace], object] | None = given.pop("func", None)
        # The words that name the command are no arguments of it.
        for parser in parsers:
            for action, _ in _groups_of(parser):
                given.pop(action.dest, None)
        if function is None:
            with redirect_stderr(StringIO()) as said:
                parsers[-1].print_usage(sys.stderr)
            call.explain(f"no command was given; {said.getvalue().strip()}")
            if call.form == "text":
                print(said.getvalue(), end="", file=sys.stderr)
            raise SystemExit(2)
        call.begin(call.command or call.tool, given)
        answer = function(arguments)
        if isinstance(answer, int):
            call.exit_code = int(answer) & 0xFF
        else:
            call.set(answer)

    def _parsed(self, call: Invocation, argv: Sequence[str]) -> argparse.Namespace:
        with redirect_stderr(StringIO()) as said:
            try:
                return self._parser.parse_args(argv)
            except SystemExit as end:
                if end.code:
                    *_, last = said.getvalue().splitlines() or [""]
                    call.explain(last.partition(": error: ")[2] or last)
                raise
            finally:
                # What the parser says is the app's own.
                if call.form == "text" and sys.__stderr__ is not None:
                    sys.__stderr__.write(said.getvalue())


def _actions_of(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    # There is no public way to ask a parser what it takes.
    found: list[argparse.Action] = vars(parser)["_actions"]
    return found


def _groups_of(
    parser: argparse.ArgumentParser,
) -> Iterator[tuple[argparse.Action, Mapping[str, argparse.ArgumentParser]]]:
    for action in _actions_of(parser):
        choices = action.choices
        if isinstance(choices, dict) and all(
            isinstance(choice, argparse.ArgumentParser) for choice in choices.values()
        ):
            yield action, choices


def _mark(path: list[argparse.ArgumentParser], words: list[str]) -> None:
    """
    Have each parser say where it is, in the way in which it says what runs.
    """
    path[-1].set_defaults(**{_PATH: (path, words)})
    for _, commands in _groups_of(path[-1]):
        for word, parser in commands.items():
            # Else it is there by another name already.
            if parser.get_default(_PATH) is None:
                _mark([*path, parser], [*words, word])


def _path_to(
    parser: argparse.ArgumentParser, argv: Sequence[str]
) -> tuple[list[argparse.ArgumentParser], list[str]]:
    """
    Return the parsers that *argv* seems to lead through before it is parsed, and the words that
    name the last one.
    """
    path, words = [parser], list[str]()
    for word in argv:
        for _, commands in _groups_of(path[-1]):
            if word in commands:
                path.append(commands[word])
                words.append(word)
                break
    return path, words
