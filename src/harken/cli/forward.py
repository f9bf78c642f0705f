"""
``harken forward``.
"""

from __future__ import annotations

import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType
from typing import Any

import click

from harken import Settings, trail
from harken.cli._common import FILE, printable
from harken.cli._desk import file_option
from harken.forward import CursorFile, Forwarder, cursor_path, source_of, spent_archives
from harken.forward.targets import target_of


@click.command(name="forward")
@file_option
@click.option(
    "--to", "url", metavar="URL", envvar="HARKEN_FORWARD_TO", help="The engine's address."
)
@click.option(
    "--source", metavar="PATH", help="What the log is called there. [default: /SERVICE/HOST]"
)
@click.option(
    "--key",
    metavar="NAME",
    help="Of Redis: the stream; {source} is replaced. [default: harken:{source}]",
)
@click.option(
    "--profile",
    type=click.Choice(("action-trail",)),
    help="Only the ten kinds of an action trail, to action-trail:{sessionId}.",
)
@click.option("--maxlen", type=click.IntRange(1), help="Of Redis: entries that the stream keeps.")
@click.option("--cursor", type=FILE, help="How far it is. [default: beside the log]")
@click.option("--rejected", type=FILE, help="Lines nobody takes. [default: beside the log]")
@click.option("--metrics-file", type=FILE, help="Where the lag is told to Prometheus.")
@click.option(
    "--poll",
    type=click.FloatRange(0, min_open=True),
    metavar="SECONDS",
    default=0.02,
    help="How often to look; what has gathered is sent at once. [default: 0.02]",
)
@click.option("--once", is_flag=True, help="End when everything in the log is in the stream.")
@click.option(
    "--patience",
    type=click.FloatRange(0),
    metavar="SECONDS",
    help="How long an outage may last. [default: for ever; 30 with --once]",
)
@click.option("--spent", is_flag=True, help="Print the old files that are in the stream, and end.")
@click.option(
    "--max-lag-bytes",
    type=click.IntRange(0),
    help="With --spent: give up the oldest files when more than this waits.",
)
def command(
    file: Path | None,
    url: str | None,
    source: str | None,
    key: str | None,
    profile: str | None,
    maxlen: int | None,
    cursor: Path | None,
    rejected: Path | None,
    metrics_file: Path | None,
    *,
    poll: float,
    once: bool,
    patience: float | None,
    spent: bool,
    max_lag_bytes: int | None,
) -> None:
    """
    Send the audit log to a stream of Redis or NATS.

    It runs beside the application, and knows Redis Streams, Valkey and NATS JetStream. Each line
    is sent once and in order, whatever is killed in between; where to go on is asked of the
    stream. While the engine is away the log grows, and nobody waits. The address may stand in
    HARKEN_FORWARD_TO, where other users do not see its password.

    \b
    harken forward --to redis://user:password@host:6379/0
    harken forward --to nats://user:password@host:4222
    harken forward --spent | xargs -r -d '\\n' rm --

    Exit codes: 0 done, or ended by Ctrl-C or SIGTERM, 1 the engine did not answer for longer than
    --patience, or refuses, or another process forwards this log, 4 there is no log to send --once,
    128 and the number of the signal that ended --once before it was done.
    """
    settings = Settings.load()
    path = settings.audit_path() if file is None else file
    if max_lag_bytes is not None and not spent:
        raise click.UsageError("--max-lag-bytes is for --spent")
    if spent:
        kept = CursorFile(cursor or cursor_path(path)).read()
        if kept is None:
            raise click.UsageError(
                f"there is no cursor of {path}; nothing is known to be forwarded"
            )
        for archive in spent_archives(path, kept.position, max_lag_bytes=max_lag_bytes):
            click.echo(archive)
        return
    if url is None:
        raise click.UsageError("name the engine with --to, or in HARKEN_FORWARD_TO")
    options: dict[str, Any] = {"key": key, "maxlen": maxlen, "profile": profile}
    if profile is not None and key is not None:
        raise click.UsageError("--profile names the stream itself; leave out --key")
    if once:
        _expect_log(path)
        patience = 30.0 if patience is None else patience
    target = target_of(url, **{name: value for name, value in options.items() if value is not None})
    if source is None and settings.service_name not in {None, "harken"}:
        source = source_of(None).replace("/harken/", f"/{settings.service_name}/", 1)
    forwarder = Forwarder(
        path,
        target,
        source=source,
        cursor=cursor,
        rejected=rejected,
        metrics=metrics_file,
        poll_seconds=poll,
    )

    ended_by: list[int] = []

    def end(number: int, frame: FrameType | None) -> None:
        ended_by.append(number)
        forwarder.stop(0)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    # This thread only waits, so that no signal meets it inside of what the signal is to end.
    with ThreadPoolExecutor(1) as pool:
        pool.submit(forwarder.run, once=once, patience=patience).result()
    lines = f"{forwarder.forwarded:,} lines of {path} are new in {target.address}"
    click.echo(printable(lines), err=True)
    if forwarder.rejected:
        click.echo(f"{forwarder.rejected:,} lines were rejected", err=True)
    if once and ended_by:
        raise click.exceptions.Exit(128 + ended_by[0])


def _expect_log(path: Path) -> None:
    """
    See that there is a log: one that may still come is waited for, but not with ``--once``.
    """
    with trail.open(path) as log:
        if log.files.is_foreign:
            raise trail.TrailError(f"nothing in {path} is a record of an audit log; name the log")
