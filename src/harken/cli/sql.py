"""
``harken sql``.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from harken import JSON
from harken.cli._common import printable
from harken.cli._desk import LIMIT, Desk, cell, output_options, write_csv
from harken.cli._records import width
from harken.cli._table import Column, print_table
from harken.cli._words import plural
from harken.errors import CommandError
from harken.record import MEMBERS
from harken.trail.entries import Problem
from harken.trail.files import TrailError
from harken.trail.filters import FilterError
from harken.trail.log import Trail

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

TYPES = {
    "timestamp": "TIMESTAMPTZ",
    "occurred": "TIMESTAMPTZ",
    "seq": "BIGINT",
    "n": "BIGINT",
    "v": "INTEGER",
    "schema_version": "INTEGER",
    "metadata": "JSON",
    "attributes": "JSON",
    "redacted": "JSON",
    "truncated": "JSON",
}
"""The types of members that are no text."""

FROM_METADATA = {
    "duration_ms": "DOUBLE",
    "tool_name": "VARCHAR",
    "model": "VARCHAR",
    "input_tokens": "BIGINT",
    "output_tokens": "BIGINT",
    "cost_usd": "DOUBLE",
    "error_type": "VARCHAR",
}
"""What is most often asked for of the metadata, as columns of its own."""

# Lines of a log are far shorter; what is longer is none.
_LONGEST = 64 << 20


@click.command(name="sql")
@click.argument("query", metavar="QUERY")
@click.option(
    "--limit",
    type=click.IntRange(0),
    help=f"Only the first so many rows; 0 is all. [default: {LIMIT}]",
)
@output_options("text", "json", "jsonl", "csv")
def command(
    query: str, limit: int | None, *, file: Path | None, form: str, color: str, tz: str
) -> None:
    """
    Ask the audit log in SQL.

    QUERY is one SELECT in the dialect of DuckDB, which is installed with harken[sql]. The log with
    all its files is the view `audit`; its columns are the members of a record. metadata,
    attributes, redacted and truncated are JSON:

    \b
    harken sql "select actor, count(*) from audit group by all"
    harken sql "select model, sum(cost_usd) from audit where event_type = 'llm.completed'
                and timestamp > now() - interval 1 day group by all"
    harken sql "select metadata->>'decision', count(*) from audit group by all"

    duration_ms, tool_name, model, input_tokens, output_tokens, cost_usd and error_type of the
    metadata are columns of their own. `describe audit` lists them all.

    Nothing can be changed, and no other file and no network be reached.
    """
    desk = Desk("sql", file=file, form=form, color=color, tz=tz)
    with desk.trail() as trail:
        paths = _readable(desk, trail)
        with _database(paths, utc=desk.zone is not None) as database:
            most = LIMIT if limit is None else limit
            names, rows = _answer(desk, database, query, most, paths)
            _tell_unreadable(desk, database, trail)
    match desk.form:
        case "json":
            desk.answer({"columns": list(names), "rows": rows})
        case "jsonl":
            for row in rows:
                click.echo(json.dumps(dict(zip(names, row, strict=True)), separators=(",", ":")))
        case "csv":
            write_csv(names, rows)
        case _:
            columns = [Column(printable(name)) for name in names]
            print_table(columns, [list(map(cell, row)) for row in rows], width())
    desk.finish()


@contextmanager
def _database(paths: Sequence[str], *, utc: bool) -> Generator[DuckDBPyConnection]:
    """
    Yield a database in memory that has the log as its only view, and reaches nothing else.
    """
    try:
        import duckdb
    except ImportError as error:
        raise TrailError("SQL needs the package duckdb; install harken[sql]") from error
    # What a query needs is built in; nothing is fetched, and no variable of ours is a table.
    settings: dict[str, str | bool | int | float | list[str]] = {
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
        "python_enable_replacements": False,
    }
    with (
        tempfile.TemporaryDirectory(prefix="harken-sql-") as scratch,
        duckdb.connect(":memory:", config=settings) as database,
    ):
        database.execute(f"SET temp_directory = {_quoted(scratch)}")
        if utc:
            database.execute("SET TimeZone = 'UTC'")
        database.execute(_stored(paths))
        database.execute(_audit())
        allowed = {*paths, *map(_pattern, paths)}
        database.execute(f"SET allowed_paths = [{', '.join(map(_quoted, allowed))}]")
        database.execute("SET enable_external_access = false")
        database.execute("SET lock_configuration = true")
        yield database


def _readable(desk: Desk, trail: Trail) -> list[str]:
    paths: list[str] = []
    for segment in trail.files.segments:
        if segment.path.endswith(".xz"):
            message = "DuckDB cannot read files that xz compressed; left out"
            desk.problem(Problem(segment.path, None, message))
        else:
            paths.append(segment.path)
    return paths


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _pattern(path: str) -> str:
    """
    Return what DuckDB takes for *path* and no other file.
    """
    return "".join(f"[{char}]" if char in "*?[" else char for char in path)


def _stored(paths: Sequence[str]) -> str:
    """
    Return the statement that makes the lines of the files, as they are, a view.

    A line that is no record is a row of nothing but nulls.
    """
    columns = ", ".join(f"{name}: '{TYPES.get(name, 'VARCHAR')}'" for name in MEMBERS)
    if not paths:
        typed = ", ".join(f"NULL::{TYPES.get(name, 'VARCHAR')} AS {name}" for name in MEMBERS)
        return f"CREATE OR REPLACE VIEW stored AS SELECT {typed} WHERE false"
    files = ", ".join(_quoted(_pattern(path)) for path in paths)
    return (
        f"CREATE OR REPLACE VIEW stored AS FROM read_json([{files}], format = 'newline_delimited', "
        f"columns = {{{columns}}}, ignore_errors = true, maximum_object_size = {_LONGEST})"
    )


def _audit() -> str:
    found = (
        f"try_cast(metadata->>'{name}' AS {kind}) AS {name}" for name, kind in FROM_METADATA.items()
    )
    return f"CREATE VIEW audit AS FROM stored SELECT *, {', '.join(found)} WHERE event_type > ''"


def _answer(
    desk: Desk, database: DuckDBPyConnection, query: str, limit: int, paths: Sequence[str]
) -> tuple[list[str], list[list[JSON]]]:
    import duckdb

    try:
        columns, rows = _asked(database, query, limit)
    except duckdb.IOException as error:
        whole = [path for path in paths if _is_whole(desk, database, path)]
        if len(whole) == len(paths):
            raise CommandError(f"DuckDB gave up: {_first(error)}") from error
        database.execute(_stored(whole))
        columns, rows = _asked(database, query, limit)
    if limit and len(rows) > limit:
        desk.truncated = True
        desk.warn(f"there are more than {plural(limit, 'row')}; --limit 0 prints all")
        rows = rows[:limit]
    names = [name for name, _ in columns]
    if desk.form == "jsonl" and len(set(names)) < len(names):
        raise FilterError("two columns have the same name; give one of them another with AS")
    kinds = [kind for _, kind in columns]
    return names, [list(map(_plain, row, kinds)) for row in rows]


def _asked(
    database: DuckDBPyConnection, query: str, limit: int
) -> tuple[list[tuple[str, str]], list[tuple[JSON, ...]]]:
    """
    Return the names and the types of the columns, and the rows, one more than *limit*.
    """
    import duckdb

    try:
        statements = database.extract_statements(query)
        if [statement.type.name.partition("_")[0] for statement in statements] != ["SELECT"]:
            raise FilterError("QUERY must be one SELECT")
        result = database.execute(statements[0])
        columns = [(str(column[0]), str(column[1])) for column in result.description or ()]
        return columns, result.fetchmany(limit + 1) if limit else result.fetchall()
    except duckdb.IOException:
        raise
    except duckdb.Error as error:
        raise FilterError(f"QUERY does not work: {_first(error)}") from error


def _is_whole(desk: Desk, database: DuckDBPyConnection, path: str) -> bool:
    """
    Return whether a file can be read to its end; it is a problem if not.
    """
    import duckdb

    database.execute(_stored([path]))
    try:
        database.execute("SELECT count(*) FROM stored WHERE event_type IS NULL")
    except duckdb.IOException as error:
        desk.problem(Problem(path, None, f"{_first(error)}; left out"))
        return False
    return True


def _first(error: Exception) -> str:
    """
    Return what the error says, without the picture of the query below it.
    """
    return str(error).partition("\n\n")[0].replace("\n", " ")


def _tell_unreadable(desk: Desk, database: DuckDBPyConnection, trail: Trail) -> None:
    found = database.execute("SELECT count(*) FROM stored WHERE event_type IS NULL").fetchone()
    if found and found[0]:
        message = f"{plural(found[0], 'line')} without a record; left out"
        desk.problem(Problem(trail.path, None, message))


def _plain(value: JSON, kind: str) -> JSON:
    """
    Return a value as JSON has it: what it has no word for, such as a time, becomes a text.
    """
    if kind == "JSON" and isinstance(value, str):
        return json.loads(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return json.loads(json.dumps(value, default=str))
