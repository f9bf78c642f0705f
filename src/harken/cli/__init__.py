"""
The command line: one module for each command, loaded when the command is called.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from io import StringIO, TextIOWrapper
from typing import Any

import click

from harken.cli._common import complain, printable
from harken.errors import (
    AuditKeyError,
    AuditPathError,
    EventError,
    HarkenError,
    SettingsError,
    TraceExporterError,
)

COMMANDS = {
    "catalog": "List the event types, or show one in full.",
    "demo": "Watch a scripted agent work, through all four sinks.",
    "exec": "Run any command, on the record.",
    "export": "Print the audit log in the vocabulary of others.",
    "head": "Print the number and the hash of the last line of the audit log.",
    "keygen": "Make a key that seals the audit log.",
    "schema": "Print the JSON Schema of one event type, or of all.",
    "verify": "Check that the audit log is what was written.",
    "version": "Print the version.",
}
"""Each command and the first line of its help, so that ``--help`` need not load them."""

UNUSABLE = 4
"""The exit code when a file, a folder or a package that is needed cannot be used."""

EXIT_CODES: tuple[tuple[type[HarkenError], int], ...] = (
    (SettingsError, 2),
    (EventError, 2),
    (AuditPathError, UNUSABLE),
    (AuditKeyError, UNUSABLE),
    (TraceExporterError, UNUSABLE),
)
"""The exit codes of errors; of those that are not named, 1."""

INTERRUPTED = 130
"""The exit code after Ctrl-C: 128 + SIGINT, as a shell reports it."""


class Commands(click.Group):
    """
    A group whose commands are modules, and where every failure is one sentence.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        """
        Return the names of all commands.
        """
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """
        Load the command called *cmd_name*; None when there is none.
        """
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(f"harken.cli.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """
        Write the list of commands without loading any.
        """
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def invoke(self, ctx: click.Context) -> Any:
        """
        Run the command; a reader that has seen enough of its output is no failure.
        """
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:
            # What is still buffered would fail once more when the interpreter ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return None
        return result

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """
        Run the command line and exit; without *standalone_mode*, return instead and raise.
        """
        if not standalone_mode:
            return super().main(args, prog_name, complete_var, False, **extra)
        if isinstance(sys.stdout, TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")
        try:
            code = super().main(args, prog_name, complete_var, False, **extra)
        except click.Abort:
            code = INTERRUPTED
        except click.ClickException as error:
            code = _show(error)
        except HarkenError as error:
            complain(str(error))
            code = exit_code_of(error)
        except OSError as error:
            complain(str(error))
            code = UNUSABLE
        sys.exit(code)


def exit_code_of(error: HarkenError) -> int:
    """
    Return the exit code that says what kind of error it was.
    """
    return next((code for kind, code in EXIT_CODES if isinstance(error, kind)), 1)


def _show(error: click.ClickException) -> int:
    shown = StringIO()
    error.show(shown)
    for line in shown.getvalue().splitlines():
        click.echo(printable(line), err=True)
    return error.exit_code


def _show_version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from harken.cli.version import version_line

        click.echo(version_line())
        ctx.exit()


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_version,
    help="Print the version and exit.",
)
@click.pass_context
def main(context: click.Context) -> None:
    """
    Typed events of AI agents: an audit log, metrics, logs and traces that tell the same story.

    \b
    harken demo            see all of it, without a server
    harken exec -- CMD     put any command on the record
    harken catalog         what an agent can publish

    Settings come from HARKEN_* variables, or from the TOML file that HARKEN_CONFIG names.
    Exit codes: 0 done, 1 failed, 2 wrong usage or a malformed setting, 4 a file or folder that
    cannot be used, 130 Ctrl-C. `harken exec` exits as its command does; see `harken verify -h`
    for what it exits with.
    """
    if os.environ.get("NO_COLOR"):
        context.color = False
