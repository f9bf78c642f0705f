"""
harken's own calls, under the contract that it has for other tools.
"""

from __future__ import annotations

import json
import os
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import click

from harken import JSON
from harken.cli.version import version
from harken.contract import Form, Invocation, OutputError, form_of, take_output
from harken.contract.click import ClickAdapter
from harken.errors import HarkenError


class OwnCall(Invocation):
    """
    A call of harken, recorded in a log of its own: whoever reads a log does not change it.

    Where that log cannot be written, nothing is said, so that everybody can read the others.
    """

    keeps_text = True
    mistake: click.UsageError | None = None
    """What is wrong with the call, where that is known before the command is called."""

    wanted: Form = "text"
    """The form in which a command was asked to answer that has forms of its own."""

    _is_over = False

    def misunderstood(self) -> None:
        """
        Answer in the place of a command that was not called.
        """
        self.form = self.wanted if self.form == "text" else self.form

    def begin(self, command: str | None, params: Mapping[str, object]) -> None:
        """
        Take note of the command; what it publishes itself is no part of its call.
        """
        if self._is_over:
            super().begin(command, params)
        else:
            self.command, self.params = command, params

    def _enter_scope(self) -> None:
        if self._is_over:
            super()._enter_scope()

    def _understood(self, code: int) -> int:
        self._is_over = True
        self._enter_scope()
        return super()._understood(code)

    def _configure(self) -> None:
        if self._is_configured:
            return
        self._is_configured = True
        if os.environ.get("HARKEN_AUDIT", "").lower() in {"off", "no", "false", "0"}:
            return
        from harken.sinks.audit import AuditLog

        try:
            log = AuditLog(own_log())
        except (HarkenError, OSError, RuntimeError) as error:
            self.warnings.append(f"this call is not on record: {error}")
            return
        self._bus.attach(log)
        self._audit_log_path = log.path

    def _printed(self, text: str, code: int) -> None:
        try:
            document: JSON = json.loads(text)
        except ValueError:
            document = {"text": text}
        if code == 0:
            self.set(document)
        else:
            self.explain(f"harken {self.command} exited with {code}", report=document)


def own_log() -> Path:
    """
    Return where harken's own calls are on record: ``HARKEN_AUDIT_LOG``, else ``commands.jsonl``
    in the folder of the user's data.

    Raises:
        RuntimeError: There is no home folder.
    """
    named = os.environ.get("HARKEN_AUDIT_LOG")
    if named:
        return Path(named).expanduser()
    data = os.environ.get("XDG_DATA_HOME")
    folder = Path(data) if data and os.path.isabs(data) else Path.home() / ".local" / "share"
    return folder / "harken" / "commands.jsonl"


def call_of(args: Sequence[str], app: click.Group) -> tuple[OwnCall | None, list[str]]:
    """
    Return the call of *app* that *args* make, and the arguments without what it takes of them.

    None is for what is not recorded here: what `harken exec` runs, which it records itself, help,
    and what a shell asks.
    """
    rest = _output_last(args)
    context = click.Context(app, info_name="harken")
    name = rest[0] if rest else ""
    if name in {"exec", "-h", "--help", "--version"} or "_HARKEN_COMPLETE" in os.environ:
        return None, rest
    command = app.get_command(context, name)
    call = OwnCall("harken", version=version(), command=name if command else None)
    has_forms = command is not None and any("--output" in param.opts for param in command.params)
    try:
        if has_forms:
            _, asked = take_output(["--output" if word == "-o" else word for word in rest])
            call.wanted = "text" if asked not in {"json", "jsonl"} else "json"
        else:
            # A command without forms of its own answers in the one that all tools have.
            rest, asked = take_output(rest)
            call.form = "text" if asked is None else form_of(asked)
    except OutputError as error:
        if not has_forms:
            here = context if command is None else click.Context(command, context, name)
            call.mistake = click.UsageError(str(error), here)
    return call, rest


def _output_last(args: Sequence[str]) -> list[str]:
    """
    Return *args* with ``--output FORM`` behind the command where it stands before it.
    """
    taken = 0
    while taken < len(args) and args[taken].partition("=")[0] == "--output":
        taken += 1 if "=" in args[taken] else 2
    return [*args[taken : taken + 1], *args[:taken], *args[taken + 1 :]]


@contextmanager
def told(app: click.Group, call: OwnCall) -> Generator[None]:
    """
    Have the commands of *app* tell *call* that they run, with their arguments.
    """
    adapter = _adapter_of(app)
    adapter.call = call
    try:
        yield
    finally:
        adapter.call = None


@cache
def _adapter_of(app: click.Group) -> ClickAdapter:
    return ClickAdapter(app)
