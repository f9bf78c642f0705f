"""
``harken verify``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import click
import msgspec

from harken import Settings
from harken.cli._common import complain, printable
from harken.errors import HarkenError
from harken.trail import (
    EXIT_CODES,
    Report,
    TrailError,
    WriterState,
    open_log,
    read_anchors,
    read_key,
    read_public_key,
    read_state,
    verify,
)
from harken.trail.files import Progress

CANNOT_JUDGE = EXIT_CODES["undecided"]
"""The exit code for whatever keeps a log from being judged, this command's own trouble too."""

MEANING = {
    "ok": "verified: nothing was changed, and nothing is missing",
    "tampered": "tampered: the log is not what was written",
    "undecided": "undecided: the log cannot be judged as it was asked for",
    "incomplete": "incomplete: what is here is consistent, with the reservations above",
}

CHAIN_HOLDS = "verified: the chain holds; nothing else was asked for"

_COLORS = {"ok": "green", "tampered": "red", "undecided": "yellow", "incomplete": "yellow"}

_FILE = click.Path(dir_okay=False, path_type=Path)


@click.command(name="verify")
@click.argument("path", required=False, type=click.Path(path_type=Path))
@click.option("--key", "keys", type=_FILE, multiple=True, help="What `harken keygen` printed.")
@click.option(
    "--public-key",
    "public_keys",
    type=_FILE,
    multiple=True,
    help="What `harken keygen --signing` printed.",
)
@click.option(
    "--anchor",
    "anchors",
    type=_FILE,
    multiple=True,
    help="Heads that were kept elsewhere: of `harken head`, or in a log of events.",
)
@click.option(
    "--state",
    "states",
    type=_FILE,
    multiple=True,
    help="The agent's own key file, which knows the last seal. By default the one of the settings.",
)
@click.option("--chain-only", is_flag=True, help="Check the chain of hashes, and nothing else.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(
    path: Path | None,
    keys: Sequence[Path],
    public_keys: Sequence[Path],
    anchors: Sequence[Path],
    states: Sequence[Path],
    *,
    chain_only: bool,
    as_json: bool,
) -> None:
    """
    Check that the audit log is what was written.

    PATH is the log that is appended to; its older files are found beside it. Without PATH it is
    the one of the settings.

    \b
    chain         each line is as it was sealed, and follows the one before
    seals         checkpoints fit the log, and are sealed with the key
    completeness  no record, line or file is missing
    tail          the log ends as it should, and where anchors say

    Whoever can write to the log can also write another one with a chain that holds. Only a key
    or an anchor that was kept elsewhere shows that.

    Exit codes: 0 verified, 1 tampered, 2 cannot be judged, 3 consistent but something is missing,
    the end is not clean, or nothing vouches for it.
    """
    if chain_only and (keys or public_keys or anchors or states):
        raise click.UsageError("--chain-only takes no key, no state and no anchor")
    try:
        settings = Settings.load()
        log = settings.audit_path() if path is None else path
        report = _verified(log, settings, keys, public_keys, anchors, states, chain_only=chain_only)
    except (HarkenError, OSError) as error:
        _give_up(str(error), as_json=as_json)
    except Exception as error:
        # Whatever else it is, it must not look like the exit code of a log that was changed.
        complain(f"harken itself failed: {type(error).__name__}: {error}")
        raise click.exceptions.Exit(CANNOT_JUDGE) from error
    try:
        if as_json:
            click.echo(json.dumps({**msgspec.to_builtins(report), "error": None}))
        else:
            _show(report, chain_only=chain_only)
    except OSError as error:
        complain(f"the verdict cannot be written: {error.strerror}")
        raise click.exceptions.Exit(CANNOT_JUDGE) from error
    raise click.exceptions.Exit(report.exit_code)


def _give_up(message: str, *, as_json: bool) -> NoReturn:
    if as_json:
        answer = {"verdict": "undecided", "exit_code": CANNOT_JUDGE, "error": message}
        click.echo(json.dumps(answer))
    complain(message)
    raise click.exceptions.Exit(CANNOT_JUDGE)


def _verified(
    log: Path,
    settings: Settings,
    keys: Sequence[Path],
    public_keys: Sequence[Path],
    anchors: Sequence[Path],
    states: Sequence[Path],
    *,
    chain_only: bool,
) -> Report:
    # Whatever the log is compared with is read before its size is asked for.
    given = [read_key(key) for key in keys]
    told = _states(settings, states) if given else []
    public = [read_public_key(key) for key in public_keys]
    noted = read_anchors(anchors, str(log))
    with _progress(log) as progress:
        return verify(
            log,
            keys=given,
            public_keys=public,
            anchors=noted,
            states=told,
            chain_only=chain_only,
            progress=progress,
        )


def _states(settings: Settings, states: Sequence[Path]) -> list[WriterState]:
    if states or settings.audit_key_path is None:
        return [read_state(state) for state in states]
    try:
        return [read_state(Path(settings.audit_key_path).expanduser())]
    except TrailError as error:
        complain(f"that the last seals were cut off would not show: {error}")
        return []


@contextmanager
def _progress(log: Path) -> Generator[Progress | None]:
    """
    Show a bar on standard error where a person reads it.
    """
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress as Bar, TimeRemainingColumn

    with open_log(log) as files:
        size = files.size
    columns = (BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("verify", total=size)
        yield lambda count: bar.advance(task, count)


def _show(report: Report, *, chain_only: bool) -> None:
    for name in ("chain", "seals", "completeness", "tail"):
        part = getattr(report, name)
        word = click.style(f"{part.verdict:<10}", fg=_COLORS.get(part.verdict))
        click.echo(f"{name:<12}  {word}  {printable(part.message)}")
    if report.findings:
        click.echo()
    for finding in report.findings:
        where = f"{finding.file}:{finding.line}" if finding.line else finding.file
        kind = click.style(finding.kind, fg=_COLORS.get(finding.weight))
        click.echo(f"{printable(where)}: {kind}: {printable(finding.message)}")
    if report.omitted:
        click.echo(f"... and {report.omitted:,} more")
    click.echo()
    meaning = CHAIN_HOLDS if chain_only and not report.exit_code else MEANING[report.verdict]
    click.echo(click.style(meaning, fg=_COLORS.get(report.verdict), bold=True))
