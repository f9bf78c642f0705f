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
from harken.cli._common import FILE, complain, forget_output, printable
from harken.cli._desk import Desk, envelope_option, file_option, named_log, path_argument
from harken.cli._stream import from_option
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
from harken.trail.keys import Key

CANNOT_JUDGE = EXIT_CODES["undecided"]
"""The exit code for whatever keeps a log from being judged, this command's own trouble too."""

MEANING = {
    "ok": "verified: nothing was changed, and nothing is missing",
    "tampered": "tampered: the log is not what was written",
    "undecided": "undecided: the log cannot be judged as it was asked for",
    "incomplete": "incomplete: what is here is consistent, with the reservations above",
}

CHAIN_HOLDS = "verified: the chain holds; nothing else was asked for"

ARRIVED = {
    "ok": "verified: what arrived is what was written, and nothing before its end is missing",
    "tampered": "tampered: what arrived is not what was written",
    "undecided": "undecided: what arrived cannot be judged",
    "incomplete": "incomplete: what arrived is consistent, and something is missing",
}

_COLORS = {"ok": "green", "tampered": "red", "undecided": "yellow", "incomplete": "yellow"}


@click.command(name="verify")
@path_argument
@click.option("--key", "keys", type=FILE, multiple=True, help="What `harken keygen` printed.")
@click.option(
    "--public-key",
    "public_keys",
    type=FILE,
    multiple=True,
    help="What `harken keygen --signing` printed.",
)
@click.option(
    "--anchor",
    "anchors",
    type=FILE,
    multiple=True,
    help="Heads that were kept elsewhere: of `harken head`, or in a log of events.",
)
@click.option(
    "--state",
    "states",
    type=FILE,
    multiple=True,
    help="The agent's own key file, which knows the last seal. By default the one of the settings.",
)
@from_option
@click.option(
    "--expect",
    "expected",
    metavar="SOURCE",
    multiple=True,
    help="With --from: a log of which something must have arrived, such as /harken/host-7.",
)
@click.option("--chain-only", is_flag=True, help="Check the chain of hashes, and nothing else.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as one JSON object.")
@envelope_option
@file_option
def command(
    path: Path | None,
    keys: Sequence[Path],
    public_keys: Sequence[Path],
    anchors: Sequence[Path],
    states: Sequence[Path],
    stream: str | None,
    expected: Sequence[str],
    *,
    chain_only: bool,
    as_json: bool,
    form: str,
    file: Path | None,
) -> None:
    """
    Check that the audit log is what was written.

    PATH, or -F, is the log that is appended to; its older files are found beside it. Without
    either it is the one of the settings.

    \b
    chain         each line is as it was sealed, and follows the one before
    seals         checkpoints fit the log, and are sealed with the key
    completeness  no record, line or file is missing
    tail          the log ends as it should, and where anchors say

    With --from it is every log that arrived at an engine, each by itself. Their ends are not
    judged, because they go on.

    Whoever can write to the log can also write another one with a chain that holds. Only a key
    or an anchor that was kept elsewhere shows that.

    Exit codes: 0 verified, 1 tampered, 2 cannot be judged, 3 consistent but something is missing,
    the end is not clean, or nothing vouches for it.
    """
    if chain_only and (keys or public_keys or anchors or states):
        raise click.UsageError("--chain-only takes no key, no state and no anchor")
    expect_key(states, keys)
    if as_json and form == "json":
        raise click.UsageError("--json prints the report, and -o json an envelope; give one")
    named = named_log(path, file)
    desk = Desk("verify", file=named, form=form, color="auto", tz="utc", endless=True)
    if expected and stream is None:
        raise click.UsageError("--expect is for what arrived at an engine; name that with --from")
    if stream is not None:
        if named or anchors or states or chain_only:
            raise click.UsageError("--from takes --key, --public-key and --expect only")
        _prove(stream, expected, keys, public_keys, desk, as_json=as_json)
    try:
        settings = Settings.load()
        log = settings.audit_path() if named is None else named
        desk.log = str(log)
        report = _verified(log, settings, keys, public_keys, anchors, states, chain_only=chain_only)
    except (HarkenError, OSError) as error:
        _give_up(error, desk, as_json=as_json)
    except Exception as error:
        # Whatever else it is, it must not look like the exit code of a log that was changed.
        complain(f"harken itself failed: {type(error).__name__}: {error}")
        raise click.exceptions.Exit(CANNOT_JUDGE) from error
    try:
        if as_json:
            click.echo(json.dumps({**msgspec.to_builtins(report), "error": None}))
        elif form == "json":
            desk.answer(report)
        else:
            _show(report, chain_only=chain_only)
    except BrokenPipeError:
        # Who has seen enough still gets the exit code that says it all.
        forget_output()
    except OSError as error:
        complain(f"the verdict cannot be written: {error.strerror}")
        raise click.exceptions.Exit(CANNOT_JUDGE) from error
    raise click.exceptions.Exit(report.exit_code)


def _prove(
    stream: str,
    expected: Sequence[str],
    keys: Sequence[Path],
    public_keys: Sequence[Path],
    desk: Desk,
    *,
    as_json: bool,
) -> NoReturn:
    from harken.forward import prove, stored

    try:
        proof = prove(
            stored(stream),
            expected=expected,
            keys=[read_key(key) for key in keys],
            public_keys=[read_public_key(key) for key in public_keys],
        )
    except (HarkenError, OSError) as error:
        _give_up(error, desk, as_json=as_json)
    if as_json or desk.form == "json":
        if as_json:
            click.echo(json.dumps({**msgspec.to_builtins(proof), "error": None}))
        else:
            desk.answer(proof)
        raise click.exceptions.Exit(proof.exit_code)
    for one in proof.arrived:
        word = click.style(f"{one.verdict:<10}", fg=_COLORS.get(one.verdict))
        life = f", begun anew {one.generation - 1} times before" if one.generation > 1 else ""
        until = f"{one.lines:,} lines until {printable(one.last)}{life}"
        click.echo(f"{word}  {printable(one.source)}  {until}")
        for finding in one.report.findings:
            if finding.weight != "note" and finding.part != "tail":
                click.echo(f"            {finding.kind}: {printable(finding.message)}")
    for source in proof.missing:
        word = click.style("missing   ", fg="red")
        click.echo(f"{word}  {printable(source)}  nothing arrived")
    click.echo()
    meaning = ARRIVED[proof.verdict]
    click.echo(click.style(meaning, fg=_COLORS.get(proof.verdict), bold=True))
    raise click.exceptions.Exit(proof.exit_code)


def _give_up(error: Exception, desk: Desk, *, as_json: bool) -> NoReturn:
    if as_json:
        answer = {"verdict": "undecided", "exit_code": CANNOT_JUDGE, "error": str(error)}
        click.echo(json.dumps(answer))
    desk.fail(error, CANNOT_JUDGE)
    complain(str(error))
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
    told = states_of(settings, states, given)
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


def expect_key(states: Sequence[Path], keys: Sequence[Path]) -> None:
    """
    See that no key file of a writer is given in vain.

    Raises:
        click.UsageError: There is no key that would open it.
    """
    if states and not keys:
        raise click.UsageError("--state is compared with seals, which need --key; give that, too")


def states_of(settings: Settings, states: Sequence[Path], keys: Sequence[Key]) -> list[WriterState]:
    """
    Return what the key files *states* know, or else the one of the settings.

    Raises:
        TrailError: One of *states* cannot be read, or none of *keys* opens it.
    """
    known = {key.id for key in keys}
    told = [read_state(state) for state in states]
    for state in told:
        if state.key_id not in known:
            raise TrailError(f"{state.path} is of the key {state.key_id}; give that with --key")
    if told or not keys or settings.audit_key_path is None:
        return told
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
