"""
Apps made with click, or with Typer, which has a click of its own.

Everything is known by its shape, as the classes of the two are not related.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, cast

from harken.contract._exit import USAGE
from harken.contract._invocation import Invocation

HIDDEN = "[REDACTED:hidden_input]"


class Parameter(Protocol):
    """
    An option or an argument of a command.
    """

    name: str | None
    opts: list[str]


class Context(Protocol):
    """
    One call of one command.
    """

    parent: Context | None
    params: dict[str, Any]
    info_name: str | None
    command: Command


class Command(Protocol):
    """
    A command, or a group of them, which also has ``get_command``.
    """

    params: list[Any]
    epilog: str | None

    def main(self, args: Sequence[str], prog_name: str, **more: Any) -> Any: ...
    def make_context(self, info_name: str, args: list[str]) -> AbstractContextManager[Context]: ...
    def invoke(self, ctx: Context) -> Any: ...


class ClickAdapter:
    """
    Lets an app of click tell what it runs.

    Attributes:
        call: Who is told; None for nobody.
    """

    def __init__(self, app: object) -> None:
        self._app = cast("Command", app)
        self.call: Invocation | None = None
        self._watched: dict[int, Command] = {}
        self._raised: BaseException | None = None
        self._watch(self._app)

    def has(self, word: str) -> bool:
        """
        Return whether the app has a command called *word* itself.
        """
        return word in _commands_of(self._app)

    def takes_output(self, argv: Sequence[str]) -> bool:
        """
        Return whether the command that *argv* names has an option ``--output`` itself.
        """
        command = self._app
        path = [command]
        for word in argv:
            command = _commands_of(command).get(word, command)
            path.append(command)
        options = (name for here in path for param in here.params for name in param.opts)
        return "--output" in options

    def tell_in_help(self, text: str) -> None:
        """
        Have *text* stand at the end of the app's help.
        """
        self._app.epilog = f"{self._app.epilog}\n\n{text}" if self._app.epilog else text

    def completes(self, tool: str) -> bool:
        """
        Let the app answer a shell that completes a command line.
        """
        if f"_{tool}_COMPLETE".replace("-", "_").upper() not in os.environ:
            return False
        self._app.main([], prog_name=tool)
        return True

    def run(self, call: Invocation, argv: Sequence[str]) -> None:
        """
        Run the command that *argv* names.
        """
        self.call, self._raised = call, None
        if call.form == "text":
            self._run_as_always(call, argv)
            return
        try:
            with self._app.make_context(call.tool, list(argv)) as context:
                call.set(self._app.invoke(context))
        except Exception as error:
            _end(call, error)
            raise

    def _run_as_always(self, call: Invocation, argv: Sequence[str]) -> None:
        try:
            self._app.main(argv, prog_name=call.tool)
        except SystemExit:
            # What ended the command, which click does not tell.
            if isinstance(self._raised, KeyboardInterrupt):
                raise KeyboardInterrupt from None
            _name_command(call, self._raised)
            raise

    def _watch(self, command: Command) -> None:
        """
        Have *command* tell when it runs, with its arguments.
        """
        if id(command) in self._watched:
            return
        self._watched[id(command)] = command
        invoke = command.invoke
        get_command: Callable[[Context, str], Command | None] | None
        get_command = getattr(command, "get_command", None)

        def get(context: Context, name: str) -> Command | None:
            assert get_command is not None
            found: Command | None = get_command(context, name)
            if found is not None:
                self._watch(found)
            return found

        def told(context: Context) -> Any:
            is_leaf = get_command is None or getattr(command, "invoke_without_command", False)
            if self.call is not None and is_leaf:
                self.call.begin(_name_of(context), _params_of(context))
            try:
                return invoke(context)
            except BaseException as error:
                self._raised = error
                raise

        # The commands are the app's own objects, and so is their class.
        vars(command).update(invoke=told)
        if get_command is not None:
            vars(command).update(get_command=get)


def _commands_of(command: Command) -> Mapping[str, Command]:
    found: Mapping[str, Command] = getattr(command, "commands", {})
    return found


def _path_to(context: Context) -> list[Context]:
    path = [context]
    while path[-1].parent is not None:
        path.append(path[-1].parent)
    return path[::-1]


def _name_of(context: Context) -> str | None:
    words = [here.info_name or "" for here in _path_to(context)]
    return " ".join(words[1:]) or words[0]


def _params_of(context: Context) -> dict[str, object]:
    return {
        name: HIDDEN if name in hidden and value is not None else value
        for here in _path_to(context)
        for hidden in [{p.name for p in here.command.params if getattr(p, "hide_input", False)}]
        for name, value in here.params.items()
    }


def _end(call: Invocation, error: Exception) -> None:
    """
    End *call* as click would end the process; return for what it would not catch.
    """
    if _kind(error, "ClickException"):
        show: Callable[[], str] = getattr(error, "format_message", error.__str__)
        _name_command(call, error)
        if not call.is_explained:
            call.explain(show())
        raise SystemExit(getattr(error, "exit_code", USAGE)) from None
    if _kind(error, "Exit"):
        raise SystemExit(getattr(error, "exit_code", 0)) from None
    if _kind(error, "Abort"):
        if _is_interrupt(error):
            raise KeyboardInterrupt from None
        if not call.is_explained:
            call.explain("the command was aborted")
        raise SystemExit(1) from None


def _name_command(call: Invocation, error: BaseException | None) -> None:
    """
    Say which command was not understood, where it is known.
    """
    context: Context | None = getattr(error, "ctx", None)
    if call.command is None and context is not None and context.parent is not None:
        call.command = _name_of(context)


def _kind(error: BaseException | None, name: str) -> bool:
    return any(kind.__name__ == name for kind in type(error).__mro__)


def _is_interrupt(error: BaseException | None) -> bool:
    return error is not None and isinstance(error.__cause__, KeyboardInterrupt)
