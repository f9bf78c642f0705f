"""
``harken exec``.
"""

from __future__ import annotations

import errno
import os
import re
import shlex
import shutil
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import PurePath
from uuid import uuid4

import click

import harken
from harken import Bus, Settings
from harken.catalog import CommandStarted
from harken.cli._common import complain, fail
from harken.contract.argv import login, name_secrets
from harken.errors import DeliveryError, HarkenError

NOT_SET_UP = 125
"""The exit code when harken cannot keep the record; the command was not run."""

NOT_EXECUTABLE = 126
NOT_FOUND = 127
KILLED = 128
"""The exit code of a command that a signal killed is this plus the signal's number."""

_ACTOR = re.compile(r"(user|agent|service|system):\S+")
_ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_CHANGES = os.WNOHANG | os.WUNTRACED | os.WCONTINUED

_STOPS = {signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU}
_TERMINAL = {signal.SIGINT, signal.SIGQUIT, signal.SIGWINCH, *_STOPS}
"""What a terminal sends, as for Ctrl-C, to all processes in its foreground."""

_HANGUP = {signal.SIGHUP, signal.SIGCONT}
"""What the end of a terminal sends: to the leader of the session alone, or to whole groups."""

_IGNORED = {
    signal.SIGCHLD,
    signal.SIGCONT,
    signal.SIGURG,
    signal.SIGWINCH,
    # By Python; no other program knows of it.
    signal.SIGPIPE,
    signal.SIGXFSZ,
}
"""Signals that do nothing to a program that does not handle them."""


@click.command(
    name="exec",
    context_settings={"allow_interspersed_args": False},
    options_metavar="[OPTIONS] [--]",
)
@click.option("--actor", metavar="KIND:ID", help="Who runs it: a user, agent, service or system.")
@click.option("--name", metavar="NAME", help="What the record calls it; by default the program.")
@click.argument("argv", metavar="CMD...", nargs=-1, required=True, type=click.UNPROCESSED)
@click.pass_context
def command(
    context: click.Context, actor: str | None, name: str | None, argv: tuple[str, ...]
) -> None:
    """
    Run any command, on the record.

    CMD runs as it would without harken: same input and output, same signals, same exit code. The
    audit log gets one `command.completed` with its arguments (secrets taken out), exit code and
    duration, however it ends, unless HARKEN_AUDIT=off; other sinks get what the HARKEN_*
    variables say, but nothing is logged on standard error. The trace goes on in CMD through
    TRACEPARENT and TOOL_TRACE_ID.

    The audit log is where HARKEN_AUDIT_JSONL_PATH says, else harken/audit.jsonl below
    XDG_DATA_HOME or ~/.local/share. The actor is --actor, else HARKEN_ACTOR, else the user who is
    logged in.

    \b
    Exit codes, where CMD has none of its own:
      125    it cannot be recorded, and was not run
      126    it cannot be run
      127    there is no such command
      128+N  signal N killed it
    """
    if actor is not None and not _ACTOR.fullmatch(actor):
        raise click.BadParameter(
            f"{actor!r} is no actor; use user:ID, agent:ID, service:ID or system:ID",
            param_hint="--actor",
        )
    child = Child(argv)
    try:
        who = actor or _who()
        bus = _configured()
    except (HarkenError, OSError) as error:
        fail(f"{error}; {child.shown} was not run", NOT_SET_UP)
    code = run_recorded(bus, child, name or PurePath(argv[0]).name or child.shown, who)
    bus.close()
    context.exit(code)


def _configured() -> Bus:
    settings = Settings.load()
    return harken.configure(
        # Standard error is the command's own.
        log=settings.log and settings.log_path is not None,
        log_application=False,
        # A port is there for the process that all others are counted in.
        metrics=settings.metrics
        and settings.metrics_file_path is not None
        and settings.metrics_prometheus_port is None,
    )


def _who() -> str:
    named = os.environ.get("HARKEN_ACTOR")
    if not named:
        return f"user:{login()}"
    if not _ACTOR.fullmatch(named):
        fail(
            f"HARKEN_ACTOR={named!r} is no actor; use user:ID, agent:ID, service:ID or system:ID",
            NOT_SET_UP,
        )
    return named


def run_recorded(bus: Bus, child: Child, name: str, who: str) -> int:
    """
    Run *child*, publish on *bus* that it was run, and return its exit code.

    Raises:
        click.exceptions.Exit: Somebody who is required to hear of it did not.
    """
    request_id = uuid4().hex
    params = {"argv": name_secrets(child.argv, bus.redact)}
    code: int | None = None
    try:
        with (
            harken.scope(actor=who, request_id=request_id),
            bus.operation(
                CommandStarted(request_id=request_id, command=name, params=params)
            ) as operation,
        ):
            error: OSError | None = None
            try:
                code = child.run(harken.child_env())
            except OSError as caught:
                error = caught
                code = NOT_EXECUTABLE
                what = error.strerror
                if isinstance(error, FileNotFoundError):
                    if shutil.which(child.argv[0]) is None:
                        code, what = NOT_FOUND, "command not found"
                    else:
                        what = "the interpreter that it asks for was not found"
                complain(f"{child.shown}: {what}")
            said = {"params": params, "exit_code": code, "operator": who}
            if code == 0:
                operation.complete(ok=True, **said)
            else:
                outcome = "cancelled" if child.killed_by in _ENDINGS else "failure"
                operation.fail(error, outcome=outcome, ok=False, **said)
    except DeliveryError as refusal:
        ran = f"{name} was not run" if code is None else f"{name} had run and exited with {code}"
        fail(f"{refusal}; {ran}", NOT_SET_UP)
    return code


class Child:
    """
    A command that runs in this process's place: signals sent to this process are passed on.

    From the making of this object to the end of the process, signals are held back until `run()`
    waits for them: whatever comes, and whenever, the record is written.

    Attributes:
        killed_by: The number of the signal that killed the command, if one did.
    """

    def __init__(self, argv: Sequence[str]) -> None:
        self.argv = tuple(argv)
        self.killed_by: int | None = None
        # What was to be ignored from outside, as under nohup, stays ignored.
        self._awaited = {
            number
            for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}
            if number in _IGNORED or signal.getsignal(number) != signal.SIG_IGN
        }
        for number in _IGNORED:
            # What nobody handles may be thrown away, even while it is held back.
            signal.signal(number, lambda number, frame: None)
        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, self._awaited)

    @property
    def shown(self) -> str:
        """
        The command's first word, for a message; also when it is empty.
        """
        return self.argv[0] or shlex.quote("")

    def run(self, environ: dict[str, str]) -> int:
        """
        Run the command to its end; return its exit code.

        While the command is stopped, as by Ctrl-Z, this process is, too.

        Raises:
            OSError: It cannot be run.
        """
        # They came before there was a command that could have got them from the terminal.
        early = signal.sigpending() & (_TERMINAL | _HANGUP)
        pid = self._start(environ)
        stop_came = resumed = False
        while True:
            changed, status = os.waitpid(pid, _CHANGES)
            if not changed:
                number, arrived = self._next_signal(pid)
                stop_came = number in _STOPS or (stop_came and number != signal.SIGCONT)
                if number == signal.SIGCONT and resumed:
                    # It was for the whole job, as from a shell's `fg`.
                    resumed = False
                elif number in early or not arrived:
                    early.discard(number)
                    # A program that changed its user takes no signals from ours.
                    with suppress(PermissionError):
                        os.kill(pid, number)
            elif os.WIFSTOPPED(status):
                resumed = False
                # Where no shell looks after jobs, whoever stops only the command also continues
                # only the command.
                if stop_came or _in_foreground():
                    stop_came = False
                    _stop(os.WSTOPSIG(status))
            elif os.WIFCONTINUED(status):
                resumed = True
            else:
                break
        code = os.waitstatus_to_exitcode(status)
        if code >= 0:
            return code
        self.killed_by = -code
        return KILLED - code

    def _start(self, environ: dict[str, str]) -> int:
        if not self.argv[0]:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        if any("\0" in word for word in self.argv):
            raise OSError(errno.EINVAL, "no argument of a command can have a NUL in it")
        try:
            return self._spawn(self.argv, environ)
        except OSError as error:
            script = shutil.which(self.argv[0])
            if error.errno != errno.ENOEXEC or script is None:
                raise
        # A script that does not say whose it is is the shell's.
        return self._spawn(("/bin/sh", script, *self.argv[1:]), environ)

    def _spawn(self, argv: tuple[str, ...], environ: dict[str, str]) -> int:
        # Python ignores these two; another program expects them to be as they always are.
        return os.posix_spawnp(
            argv[0],
            argv,
            environ,
            setsigmask=self._mask,
            setsigdef=(signal.SIGPIPE, signal.SIGXFSZ),
        )

    def _next_signal(self, pid: int) -> tuple[int, bool]:
        """
        Wait for a signal; return it, and whether it is no news to the command.
        """
        if sys.platform == "darwin":
            # Who sent it is not told there, so that it has to be guessed.
            number = signal.sigwait(self._awaited)
            arrived = number in _TERMINAL and _in_foreground()
            return number, arrived or number == signal.SIGCHLD
        info = signal.sigwaitinfo(self._awaited)
        number = info.si_signo
        if number == signal.SIGCHLD:
            return number, True
        if info.si_code <= 0:
            # Its own are of failed writes.
            return number, info.si_pid == os.getpid()
        leads = os.getsid(0) == os.getpid()
        to_group = number in _TERMINAL or (number in _HANGUP and not leads)
        return number, to_group and os.getpgid(pid) == os.getpgrp()


def _in_foreground() -> bool:
    """
    Return whether what is typed on the terminal is for this process; False without a terminal.
    """
    with suppress(OSError), open("/dev/tty") as terminal:
        return os.tcgetpgrp(terminal.fileno()) == os.getpgrp()
    return False


def _stop(number: int) -> None:
    """
    Stop this process by a signal that is held back, until somebody continues it.
    """
    os.kill(os.getpid(), number)
    if number in _STOPS:
        held = signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
        signal.pthread_sigmask(signal.SIG_SETMASK, held)
