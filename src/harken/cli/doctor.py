"""
``harken doctor``.
"""

from __future__ import annotations

import os
import shutil
import stat
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

import click

from harken.cli._common import printable
from harken.cli._desk import Desk, output_options
from harken.cli._words import plural, time_of
from harken.errors import HarkenError
from harken.trail.files import LogFiles, TrailError
from harken.trail.times import ns_of

Verdict: TypeAlias = Literal["ok", "note", "problem"]

TROUBLE = 1
"""The exit code when there is a problem."""

EXTRAS = {
    "nats": "nats",
    "otlp": "opentelemetry.exporter.otlp.proto.http",
    "otlp-grpc": "opentelemetry.exporter.otlp.proto.grpc",
    "redis": "redis",
    "sign": "cryptography",
    "sql": "duckdb",
    "zstd": "zstandard",
}
"""Each extra of sinks and commands, and the package that it brings."""

# Bytes that a disk should have left.
_LITTLE = 100 << 20

_COLORS = {"ok": "green", "note": "yellow", "problem": "red"}


class Check(NamedTuple):
    """
    One thing that was looked at.
    """

    name: str
    verdict: Verdict
    message: str


@click.command(name="doctor")
@output_options("text", "json")
def command(*, file: Path | None, form: str, color: str, tz: str) -> None:
    """
    Look for what is wrong with the audit log and its surroundings.

    The settings, the log and who may read it, the lines at its end, lost and spilled records, the
    disk, the clock and optional packages. Nothing is changed. Whether the log is what was written
    is for `harken verify` to say.

    Exit codes: 0 nothing is wrong, 1 something is.
    """
    desk = Desk("doctor", file=file, form=form, color=color, tz=tz)
    checks = list(examine(desk))
    if desk.form == "json":
        desk.answer([check._asdict() for check in checks])
    else:
        for check in checks:
            word = click.style(f"{check.verdict:<8}", fg=_COLORS[check.verdict])
            click.echo(f"{check.name:<12}{word}{printable(check.message)}")
    if any(check.verdict == "problem" for check in checks):
        raise click.exceptions.Exit(TROUBLE)


def examine(desk: Desk) -> Iterator[Check]:
    """
    Yield what each check found.
    """
    path = desk.path
    yield _settings(None if desk.is_named else path)
    yield from _log(desk, path)
    yield _disk(path)
    yield _extras()


def _settings(read: Path | None) -> Check:
    """
    Say where programs write, and whether that is where commands *read*, unless told otherwise.
    """
    from harken import Settings

    try:
        settings = Settings.load()
    except HarkenError as error:
        return Check("settings", "problem", str(error))
    if not settings.audit:
        return Check("settings", "note", "the audit log is switched off (HARKEN_AUDIT)")
    try:
        written = settings.audit_path()
    except HarkenError as error:
        return Check("settings", "problem", str(error))
    if read is not None and read.absolute() != written.absolute():
        message = f"programs write to {written}, but this reads {read}; name it with -F"
        return Check("settings", "problem", message)
    return Check("settings", "ok", f"programs write to {written}")


def _log(desk: Desk, path: Path) -> Iterator[Check]:
    try:
        found = path.stat()
    except FileNotFoundError:
        yield Check("log", "note", f"there is none at {path} yet")
        yield _folder(path)
        return
    except OSError as error:
        yield Check("log", "problem", f"{path} cannot be reached: {error.strerror}")
        return
    try:
        with desk.trail() as trail:
            files = trail.files
            yield _size(path, files)
            yield _permissions(path, found)
            newest = next(filter(None, map(trail.read, trail.newest())), None)
            if desk.problems:
                yield Check("end", "problem", desk.warnings[-1])
            if newest is not None:
                yield _clock(desk, newest.timestamp)
            if files.spills:
                names = ", ".join(os.path.basename(spill.path) for spill in files.spills)
                yield Check("spilled", "problem", f"records wait beside the log: {names}")
            if files.in_progress:
                yield Check("lock", "note", "a writer held the lock all the time")
    except TrailError as error:
        yield Check("log", "problem", str(error))


def _size(path: Path, files: LogFiles) -> Check:
    if files.is_foreign:
        return Check("log", "problem", f"nothing in {path} is a record of an audit log")
    if not files.size:
        return Check("log", "ok", f"{path} is empty")
    message = f"{path}: {plural(len(files.segments), 'file')}, {plural(files.size, 'byte')}"
    return Check("log", "ok", message)


def _permissions(path: Path, found: os.stat_result) -> Check:
    mode = stat.S_IMODE(found.st_mode)
    if mode & (stat.S_IROTH | stat.S_IWOTH | stat.S_IWGRP):
        return Check(
            "permissions", "problem", f"others may read or write it ({mode:04o}); chmod 600"
        )
    return Check("permissions", "ok", f"{mode:04o}")


def _folder(path: Path) -> Check:
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if os.access(folder, os.W_OK | os.X_OK):
        return Check("permissions", "ok", f"it can be made below {folder}")
    return Check("permissions", "problem", f"this user may not write below {folder}")


def _clock(desk: Desk, timestamp: str) -> Check:
    ahead = (ns_of(timestamp) - time.time_ns()) / 1e9
    when = f"the last record is of {time_of(timestamp, desk.zone)}"
    if ahead > 2:
        return Check("clock", "problem", f"{when}, {ahead:.0f} s in the future; look at the clock")
    return Check("clock", "ok", when)


def _disk(path: Path) -> Check:
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    free = shutil.disk_usage(folder).free
    verdict: Verdict = "ok" if free >= _LITTLE else "problem"
    return Check("disk", verdict, f"{free / (1 << 20):,.0f} MiB are free below {folder}")


def _extras() -> Check:
    def is_there(package: str) -> bool:
        try:
            return find_spec(package) is not None
        except ModuleNotFoundError:
            return False

    missing = [extra for extra, package in EXTRAS.items() if not is_there(package)]
    if missing:
        return Check("extras", "note", f"not installed: {', '.join(missing)}")
    return Check("extras", "ok", "all are installed")
