"""
A log that is read from an engine: what is there is put into a file, and then read like any other.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import click
import msgspec

from harken.cli._common import complain
from harken.trail.follow import POLL_SECONDS

if TYPE_CHECKING:
    from harken.forward import Stored

from_option = click.option(
    "--from",
    "stream",
    metavar="URL",
    help="Read what arrived at an engine, of all logs, such as redis://host:6379.",
)

sources_option = click.option(
    "--source",
    "sources",
    metavar="PATH",
    multiple=True,
    help="With --from: of this log only; * stands for anything, as in '/billing/*'.",
)


class Spool:
    """
    A file with what is in the streams at *url*, in the order of time.

    Several logs stand in it, so that numbers are there several times, and it is no log to verify.

    Args:
        sources: The logs that are wanted, as patterns; none for all.

    Attributes:
        path: The file; it is gone when this is.

        notice: That nothing is of *sources*, and what there is; None when something is.
    """

    def __init__(self, url: str, sources: Sequence[str] = ()) -> None:
        self._url = url
        self._wanted = sources
        # From the writer of a record to the log that it came from.
        self._source_of: dict[str, str] = {}
        self._passed_over: set[str] = set()
        self._behind: dict[str, str] = {}
        self._folder = TemporaryDirectory(prefix="harken-")
        self.path = Path(self._folder.name) / "stream.jsonl"
        self.path.touch()
        self._is_away = False
        self.notice: str | None = None
        if not self._add() and self._passed_over:
            there = ", ".join(sorted(self._passed_over))
            self.notice = f"there is nothing of {', '.join(sources)}; what is there is of {there}"

    def source_of(self, writer: str | None) -> str:
        """
        Return the log that *writer* writes; empty when that is not known.
        """
        return self._source_of.get(writer or "", "")

    def wait(self) -> None:
        """
        Add what has arrived since, and wait a little if there was nothing.
        """
        from harken.forward import UnavailableError

        try:
            found = self._add()
        except UnavailableError as error:
            if not self._is_away:
                complain(f"{error}; waiting for it")
            self._is_away, found = True, 0
        else:
            self._is_away = False
        if not found:
            time.sleep(POLL_SECONDS)

    def close(self) -> None:
        """
        Remove the file; twice is allowed.
        """
        self._folder.cleanup()

    def _add(self) -> int:
        from harken.forward import stored

        size = self.path.stat().st_size
        behind = dict(self._behind)
        with TemporaryDirectory(dir=self._folder.name) as parts:
            files = self._parts(stored(self._url, behind=behind), Path(parts))
            with self.path.open("ab") as out:
                out.writelines(line for _, line in heapq.merge(*map(_timed, files)))
        self._behind = behind
        return self.path.stat().st_size - size

    def _parts(self, stored: Iterable[Stored], folder: Path) -> list[Path]:
        paths: dict[str, Path] = {}
        # They come log by log.
        for source, some in groupby(stored, key=lambda one: one.source):
            if self._wanted and not any(fnmatchcase(source, one) for one in self._wanted):
                self._passed_over.add(source)
                continue
            path = paths.setdefault(source, folder / str(len(paths)))
            with path.open("ab") as out:
                for one in some:
                    self._source_of[_begin_of(one.line).writer] = source
                    out.write(one.line)
        return list(paths.values())


def spooled(
    url: str | None, file: Path | None, cursor: Path | None, sources: Sequence[str]
) -> Spool | None:
    """
    Return what is at *url*, for the length of the command; None without one.

    Raises:
        click.UsageError: A file, or a cursor in it, was given as well, or logs without a URL.
    """
    if url is None:
        if sources:
            raise click.UsageError("--source chooses among the logs that --from reads; give that")
        return None
    if file is not None or cursor is not None:
        raise click.UsageError("--from reads no file, and has no cursor; leave out one of them")
    spool = Spool(url, sources)
    click.get_current_context().call_on_close(spool.close)
    return spool


def _timed(path: Path) -> Iterator[tuple[str, bytes]]:
    with path.open("rb") as lines:
        for line in lines:
            yield _begin_of(line).timestamp, line


class _Begin(msgspec.Struct):
    timestamp: str = ""
    writer: str = ""


_decode = msgspec.json.Decoder(_Begin).decode


def _begin_of(line: bytes) -> _Begin:
    try:
        return _decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _Begin()
