"""
Apps made with cyclopts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from inspect import BoundArguments
from typing import Any, cast

from cyclopts import App, CycloptsError

from harken.contract._exit import USAGE
from harken.contract._invocation import Invocation


class CycloptsAdapter:
    """
    Lets an app of cyclopts say what it runs.
    """

    def __init__(self, app: object) -> None:
        self._app = cast("App", app)

    def has(self, word: str) -> bool:
        """
        Return whether the app has a command called *word* itself.
        """
        return word in list(self._app)

    def takes_output(self, argv: Sequence[str]) -> bool:
        """
        Return whether the command that *argv* names has an option ``--output`` itself.
        """
        words, apps, _ = self._app.parse_commands(list(argv))
        if apps[-1].default_command is None or not _are_names(words):
            return False
        arguments = apps[-1].assemble_argument_collection()
        return any("--output" in argument.names for argument in arguments)

    def tell_in_help(self, text: str) -> None:
        """
        Have *text* stand at the end of the app's help.
        """
        # Early versions have no such text.
        said: str | None = getattr(self._app, "help_epilogue", None)
        self._app.help_epilogue = f"{said}\n\n{text}" if said else text

    def completes(self, tool: str) -> bool:
        """
        Return False: the scripts that cyclopts makes for shells do not call the app.
        """
        return False

    def run(self, call: Invocation, argv: Sequence[str]) -> None:
        """
        Run the command that *argv* names.
        """
        is_text = call.form == "text"
        tokens = list(argv)
        words, _, _ = self._app.parse_commands(tokens)
        call.command = " ".join(words) if words and _are_names(words) else None
        try:
            parsed: tuple[Callable[..., Any], BoundArguments, Any] = self._app.parse_args(
                tokens, exit_on_error=False, print_error=is_text
            )
        except CycloptsError as error:
            call.explain(_message_of(error))
            # By itself cyclopts exits with 1, as if the command had failed.
            raise SystemExit(USAGE) from None
        function, bound, _ = parsed
        # Help and version are functions of the app.
        if not isinstance(getattr(function, "__self__", None), App):
            bound.apply_defaults()
            call.begin(call.command or call.tool, dict(bound.arguments))
        if is_text:
            self._app(tokens, exit_on_error=False)
            return
        answer = self._app(
            tokens, exit_on_error=False, print_error=False, result_action="return_value"
        )
        if isinstance(answer, int) and self._app.result_action is None:
            call.exit_code = int(not answer) if isinstance(answer, bool) else answer & 0xFF
        else:
            call.set(answer)


def _are_names(words: Sequence[str]) -> bool:
    # Options such as --help are commands to cyclopts.
    return not any(word.startswith("-") for word in words)


def _message_of(error: CycloptsError) -> str:
    error.verbose = False
    return str(error).strip()
