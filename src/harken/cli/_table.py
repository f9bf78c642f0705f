"""
Tables of text.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypeAlias

import click

from harken.cli._words import columns_of, cut, sized

Cell: TypeAlias = "str | tuple[str, str | None]"
"""A text, or a text and its colour."""


class Column(NamedTuple):
    """
    A heading, and where its texts stand.
    """

    heading: str
    right: bool = False


def print_table(
    columns: Sequence[Column], rows: Iterable[Sequence[Cell]], width: int | None
) -> None:
    """
    Print a table; columns without any text are left out, and lines are cut to *width*.
    """
    rows = list(rows)
    texts = [[_text(cell) for cell in row] for row in rows]
    used = [n for n in range(len(columns)) if not rows or any(row[n] for row in texts)]
    widths = {
        n: max([len(columns[n].heading), *(columns_of(row[n]) for row in texts)]) for n in used
    }
    _line([(columns[n].heading, None) for n in used], used, columns, widths, width, bold=True)
    for row in rows:
        _line([row[n] for n in used], used, columns, widths, width)


def _text(cell: Cell) -> str:
    return cell if isinstance(cell, str) else cell[0]


def _line(
    cells: Sequence[Cell],
    used: Sequence[int],
    columns: Sequence[Column],
    widths: dict[int, int],
    room: int | None,
    *,
    bold: bool = False,
) -> None:
    shown = ""
    taken = 0
    for place, (number, cell) in enumerate(zip(used, cells, strict=True)):
        text, color = cell if isinstance(cell, tuple) else (cell, None)
        last = place == len(used) - 1
        if columns[number].right:
            padded = text.rjust(widths[number])
        else:
            padded = text if last else sized(text, widths[number])
        padded = ("  " if place else "") + padded
        if room is not None:
            padded = cut(padded, max(0, room - taken))
        taken += columns_of(padded)
        shown += click.style(padded, fg=color, bold=bold or None) if color or bold else padded
    click.echo(shown.rstrip())
