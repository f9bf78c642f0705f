"""
``harken exec``.
"""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import PurePath
from uuid import uuid4

import click

import harken
from harken import JSON, Bus, Settings
from harken.catalog import CommandStarted
from harken.cli._common import complain, fail
from harken.errors import DeliveryError, HarkenError
from harken.redaction import Redactor

NOT_SET_UP = 125
"""The exit code when harken cannot keep the record; the command was not run."""

NOT_EXECUTABLE = 126
NOT_FOUND = 127
KILLED = 128
"""The exit code of a command that a signal killed is this plus the signal's number."""

_ACTOR = re.compile(r"(user|agent|service|system):\S+")
_ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_FORWARDED = (*_ENDINGS, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)


@click.command(name="exec", context_settings={"allow_interspersed_args": False})
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

    The actor is --actor, else HARKEN_ACTOR, else the user who is logged in.

    \b
    Exit codes: that of CMD, or 128 and the number of the signal that killed it;
    125 when harken cannot keep the record, and CMD is not run;
    126 when CMD cannot be run; 127 when there is none.
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
        fail(f"{error}; {argv[0]} was not run", NOT_SET_UP)
    code = run_recorded(bus, child, name or PurePath(argv[0]).name, who)
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


def login() -> str:
    """
    Return the name of the user that this process belongs to, or the number without a name.
    """
    # Not getpass.getuser(), which believes what the environment says.
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def run_recorded(bus: Bus, child: Child, name: str, who: str) -> int:
    """
    Run *child*, publish on *bus* that it was run, and return its exit code.

    Raises:
        click.exceptions.Exit: Somebody who is required to hear of it did not.
    """
    request_id = uuid4().hex
    params = {"argv": name_secrets(child.argv)}
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
                code = NOT_FOUND if isinstance(error, FileNotFoundError) else NOT_EXECUTABLE
                what = "command not found" if code == NOT_FOUND else error.strerror
                complain(f"{child.argv[0]}: {what}")
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

    From the making of this object to the end of the process, those signals are held back until
    `run()` waits for them: whenever one comes, the record is written.

    Attributes:
        killed_by: The number of the signal that killed the command, if one did.
    """

    def __init__(self, argv: Sequence[str]) -> None:
        self.argv = tuple(argv)
        self.killed_by: int | None = None
        # What was to be ignored from outside, as under nohup, stays ignored.
        wanted = {number for number in _FORWARDED if signal.getsignal(number) != signal.SIG_IGN}
        # A signal that nobody handles may be thrown away, even while it is held back.
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        self._awaited = {*wanted, signal.SIGCHLD}
        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, self._awaited)

    def run(self, environ: dict[str, str]) -> int:
        """
        Run the command to its end; return its exit code.

        Raises:
            OSError: It cannot be run.
        """
        # Python ignores these two; another program expects them to be as they always are.
        pid = os.posix_spawnp(
            self.argv[0],
            self.argv,
            environ,
            setsigmask=self._mask,
            setsigdef=(signal.SIGPIPE, signal.SIGXFSZ),
        )
        ended, status = os.waitpid(pid, os.WNOHANG)
        while not ended:
            number = _next_signal(self._awaited)
            if number is not None and number != signal.SIGCHLD:
                # A program that changed its user takes no signals from ours.
                with suppress(PermissionError):
                    os.kill(pid, number)
            ended, status = os.waitpid(pid, os.WNOHANG)
        code = os.waitstatus_to_exitcode(status)
        if code >= 0:
            return code
        self.killed_by = -code
        return KILLED - code


def _next_signal(awaited: Iterable[int]) -> int | None:
    """
    Wait for a signal; None when the command got it, too.

    What a terminal sends, as for Ctrl-C, goes to all processes in its foreground.
    """
    if sys.platform == "darwin":
        # Who sent it is not told there, so that it has to be guessed.
        number = signal.sigwait(awaited)
        with suppress(OSError), open("/dev/tty") as terminal:
            if os.tcgetpgrp(terminal.fileno()) == os.getpgrp():
                return number if number not in (signal.SIGINT, signal.SIGQUIT) else None
        return number
    info = signal.sigwaitinfo(awaited)
    sent_by_kernel = info.si_code > 0
    return None if sent_by_kernel and info.si_signo != signal.SIGCHLD else info.si_signo


def name_secrets(argv: Sequence[str]) -> list[JSON]:
    """
    Return *argv* with each secret beside its name, where redaction knows it by the name.

    ``--password x``, ``--password=x`` and ``PASSWORD=x`` become ``{"--password": "x"}`` and so
    on; everything else stays as it is.
    """
    redactor = Redactor()

    def is_secret(name: str, value: str) -> bool:
        counts: dict[str, int] = {}
        redactor.tree({name: value}, counts)
        return bool(counts)

    shown: list[JSON] = []
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        name, sign, value = word.partition("=")
        if sign:
            shown.append({name: value} if value and is_secret(name, value) else word)
        elif word.startswith("-") and rest and is_secret(word, rest[0]):
            shown.append({word: rest.pop(0)})
        else:
            shown.append(word)
    return shown
