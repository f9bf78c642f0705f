"""
The command line: one module for each command, loaded when the command is called.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from io import StringIO, TextIOWrapper
from typing import TYPE_CHECKING, Any

import click

from harken.cli._common import complain, explain, forget_output, printable
from harken.errors import (
    AuditKeyError,
    AuditPathError,
    EventError,
    HarkenError,
    SettingsError,
    TraceExporterError,
)

if TYPE_CHECKING:
    from harken.cli._call import OwnCall

COMMANDS = {
    "audit-log": "Print the calls of command-line tools that are on record.",
    "catalog": "List the event types, or show one in full.",
    "completion": "Print what a shell needs to complete harken's commands.",
    "demo": "Watch a scripted agent work, through all four sinks.",
    "diff": "Compare two runs, step by step.",
    "doctor": "Look for what is wrong with the audit log and its surroundings.",
    "exec": "Run any command, on the record.",
    "export": "Print the audit log in the form of others.",
    "forward": "Send the audit log to a stream of Redis or NATS.",
    "head": "Print the number and the hash of the last line of the audit log.",
    "ingest": "Put on the record what an agent did elsewhere.",
    "keygen": "Make a key that seals the audit log.",
    "query": "Print the records that are wanted, oldest first.",
    "runs": "List the runs: one line for each.",
    "schema": "Print the JSON Schema of one event type, or of all.",
    "show": "Show records in full.",
    "sql": "Ask the audit log in SQL.",
    "stats": "Count events, errors, durations, tokens and costs.",
    "tail": "Print the last records, and those to come.",
    "trail": "Show one run as waterfall, tree, timeline or decisions.",
    "verify": "Check that the audit log is what was written.",
    "version": "Print the version.",
    "why": "Tell why something happened, or what it led to.",
}
"""Each command and the first line of its help, so that ``--help`` need not load them."""

UNUSABLE = 4
"""The exit code when a file, a folder or a package that is needed cannot be used."""

NOT_FOUND = 5
"""The exit code when there is no such event or run."""

FORBIDDEN = 7
"""The exit code when this user may not read the log."""

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
        module = cmd_name.replace("-", "_")
        command: click.Command = import_module(f"harken.cli.{module}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """
        Write the list of commands without loading any.
        """
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """
        Understand the arguments; whether anybody reads all of the help does not matter.
        """
        try:
            return super().parse_args(ctx, args)
        except BrokenPipeError:
            forget_output()
            ctx.exit()

    def invoke(self, ctx: click.Context) -> Any:
        """
        Run the command; a reader that has seen enough of its output is no failure.
        """
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:
            forget_output()
            return None
        except HarkenError as error:
            # A command that answers in JSON tells its errors there, too.
            if ctx.obj is not None:
                ctx.obj.fail(error, exit_code_of(error))
            raise
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
        if sys.__stdout__ is None:
            # Who closes it wants no answer; a file opened later must not take its place.
            sys.stdout = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")
        if isinstance(sys.stdout, TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")
        from harken.cli._call import call_of, told

        call, args = call_of(sys.argv[1:] if args is None else args, self)
        if call is None:
            sys.exit(self._run(None, args, prog_name, complete_var, **extra))
        code: int | None = None
        with call, told(self, call):
            code = self._run(call, args, prog_name, complete_var, **extra)
            call.exit_code = code or 0
        sys.exit(code)

    def _run(
        self,
        call: OwnCall | None,
        args: Sequence[str],
        prog_name: str | None,
        complete_var: str | None,
        **extra: Any,
    ) -> int | None:
        """
        Run the command line; return its exit code.
        """
        code: int | None
        try:
            if call is not None and call.mistake is not None:
                raise call.mistake
            code = super().main(args, prog_name, complete_var, False, **extra)
        except click.Abort:
            code = INTERRUPTED
        except click.ClickException as error:
            code = _show(error)
            if call is not None and isinstance(error, click.UsageError):
                call.misunderstood()
        except HarkenError as error:
            complain(str(error))
            code = exit_code_of(error)
        except OSError as error:
            if error.errno == errno.ENOSPC and error.filename is None:
                forget_output()
                complain(f"the answer cannot be written: {error.strerror}")
            else:
                where = "" if error.filename is None else f"{error.filename}: "
                complain(f"{where}{error.strerror or error}")
            code = UNUSABLE
        return code


def exit_code_of(error: HarkenError) -> int:
    """
    Return the exit code that says what kind of error it was.
    """
    return next((code for kind, code in (*EXIT_CODES, *_of_logs()) if isinstance(error, kind)), 1)


def _of_logs() -> tuple[tuple[type[HarkenError], int], ...]:
    # Not loaded before there is an error: most commands read no log.
    from harken.trail.files import ForbiddenLogError, TrailError
    from harken.trail.filters import FilterError
    from harken.trail.log import NotFoundError

    return (
        (FilterError, 2),
        (NotFoundError, NOT_FOUND),
        (ForbiddenLogError, FORBIDDEN),
        (TrailError, UNUSABLE),
    )


def _show(error: click.ClickException) -> int:
    explain(error.format_message())
    shown = StringIO()
    error.show(shown)
    for line in shown.getvalue().splitlines():
        click.echo(printable(line.expandtabs()), err=True)
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
    harken tail -f         what is happening
    harken why ID          why something happened
    harken catalog         what an agent can publish

    Settings come from HARKEN_* variables, or from the TOML file that HARKEN_CONFIG names.
    Exit codes: 0 done, 1 failed, 2 wrong usage or a malformed setting, 4 a file or folder that
    cannot be used, 5 no such event or run, 7 not allowed to read, 130 Ctrl-C. Commands that read
    the log: 3 something in it could not be read, and the rest was answered. `harken exec` exits as
    its command does; see `harken verify -h` for what it exits with.
    """
    if os.environ.get("NO_COLOR"):
        context.color = False
