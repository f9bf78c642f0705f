"""
``harken export html``: what vouches for the log is looked at first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TextIO, TypeVar

import click
import msgspec

from harken import Settings
from harken.cli._common import FILE
from harken.cli._desk import Desk
from harken.cli.verify import expect_key, states_of
from harken.errors import SettingsError
from harken.trail import verify
from harken.trail.anchors import read_anchors
from harken.trail.files import TrailError
from harken.trail.filters import Filter
from harken.trail.keys import Key, WriterState, read_key, read_public_key
from harken.trail.log import NotFoundError, Trail
from harken.trail.verify import Report

F = TypeVar("F", bound=Callable[..., Any])

OPTIONS = ("keys", "public_keys", "anchors", "states", "title", "limit")
"""The parameters that `options` adds."""


def options(function: F) -> F:
    """
    Add the options that only this form has.
    """
    for option in (
        click.option("--title", help="The title of an html page."),
        click.option(
            "--limit",
            type=click.IntRange(1),
            help="Records of an html page, which says how many more there are. [default: 20000]",
        ),
        click.option(
            "--state",
            "states",
            type=FILE,
            multiple=True,
            help="For html: the agent's own key file, which knows the last seal. By default the "
            "one of the settings.",
        ),
        click.option(
            "--anchor",
            "anchors",
            type=FILE,
            multiple=True,
            help="For html: heads that were kept elsewhere, as `harken verify` takes them.",
        ),
        click.option(
            "--public-key",
            "public_keys",
            type=FILE,
            multiple=True,
            help="For html: what signatures are checked with.",
        ),
        click.option(
            "--key",
            "keys",
            type=FILE,
            multiple=True,
            help="For html: what seals are checked with.",
        ),
    ):
        function = option(function)
    return function


def write_html(
    desk: Desk,
    trail: Trail,
    where: Filter,
    stream: TextIO,
    *,
    keys: Sequence[Path],
    public_keys: Sequence[Path],
    anchors: Sequence[Path],
    states: Sequence[Path],
    title: str | None,
    limit: int | None,
) -> None:
    """
    Write one page about what is wanted; a run is shown with those that it started itself.

    Raises:
        NotFoundError: There is no such run.
    """
    from harken.report import LIMIT, html

    if where.runs and not any(set("*?") & set(run) for run in where.runs):
        where = msgspec.structs.replace(where, runs=(), families=where.runs)
    if where.families and next(trail.entries(where), None) is None:
        raise NotFoundError(
            f"nothing of the run {', '.join(where.families)} is in {trail.path} as it was asked "
            "for; `harken runs` lists the runs"
        )
    verification = _verification(desk, trail.path, keys, public_keys, anchors, states)
    # What the page cannot show, it must know of.
    with Trail(trail.path) as own:
        page = html(own, where, verification=verification, title=title, limit=limit or LIMIT)
        for problem in own.problems.first:
            desk.problem(problem)
    stream.write(page)


def _states(desk: Desk, states: Sequence[Path], keys: Sequence[Key]) -> list[WriterState]:
    try:
        settings = Settings() if states else Settings.load()
    except SettingsError as error:
        # A bad setting keeps nobody from reading.
        desk.warn(f"that the last seals were cut off would not show: {error}")
        return []
    return states_of(settings, states, keys)


def _verification(
    desk: Desk,
    path: str,
    keys: Sequence[Path],
    public_keys: Sequence[Path],
    anchors: Sequence[Path],
    states: Sequence[Path],
) -> Report | None:
    expect_key(states, keys)
    given = [read_key(key) for key in keys]
    told = _states(desk, states, given) if given else []
    public = [read_public_key(key) for key in public_keys]
    noted = read_anchors(anchors, path)
    try:
        return verify(path, keys=given, public_keys=public, anchors=noted, states=told)
    except TrailError as error:
        desk.warn(f"the log was not verified: {error}")
        return None
